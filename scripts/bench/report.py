"""Measure the report of an evaluation: its size, the time to write it, and how it opens.

    .venv/bin/python scripts/bench/report.py ROOMS/base [--rows 10000] [--model efficientnet-lite2]
        [--keep FOLDER]

Two sets, leave-one-out: the rooms as they are, and so many crops of them (each another part of a
room, 96 to 192 pixels, in the class of the room). Prints for each the size of the file, the time of
the command, with and without --report, and in Chromium without a network the medians of five: until
the load event, and from a click on a cell of the matrix until its pictures are painted. Then every
cell is opened, and some points of the map; an error in the console, a request, or a cell without
what is due ends with 1. With --keep the pages stay in FOLDER, with pictures of them in light, dark,
at the width of a phone, and as a PDF.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageOps
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAM = [sys.executable, "-m", "imgsearch"]
CHROMIUM = "/usr/bin/chromium"
TIMES = 5
MOST_SECONDS = 2.0
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CELLS = "#grid td button"


def make_crops(rooms: Path, folder: Path, rows: int) -> Path:
    """Write parts of the rooms, in their classes; the same every time."""
    rng = random.Random(0)  # noqa: S311 - a series that can be repeated
    files = sorted(path for path in rooms.rglob("*") if path.suffix.lower() in {".jpg", ".png"})
    for i in range(rows):
        file = files[i % len(files)]
        if i % len(files) == 0:
            rng.shuffle(files)
        target = folder / file.parent.name / f"{file.stem}-{i:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as photo:
            picture = ImageOps.exif_transpose(photo).convert("RGB")
        side = rng.randint(96, 192)
        part = rng.randint(min(picture.size) // 2, min(picture.size))
        left, top = rng.randint(0, picture.width - part), rng.randint(0, picture.height - part)
        box = (left, top, left + part, top + part)
        picture.resize((side, side), box=box, reducing_gap=2.0).save(target, "JPEG", quality=88)
    return folder


def run(*words: object) -> tuple[float, str]:
    """Run a command; return its seconds and what it said beside the result."""
    begin = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own command
        [*PROGRAM, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - begin, done.stderr.strip()


class Opened:
    """A page in a tab without a network, and whatever went wrong in it."""

    def __init__(
        self, browser: Browser, file: Path, scheme: str = "light", width: int = 1280
    ) -> None:
        """Open it and wait for the load event."""
        self.troubles: list[str] = []
        self.context = browser.new_context(
            offline=True, color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url, file))
        begin = time.perf_counter()
        self.page.goto(file.as_uri())
        self.seconds = time.perf_counter() - begin

    def _asked(self, url: str, file: Path) -> None:
        if url != file.as_uri() and not url.startswith("data:"):
            self.troubles.append(f"asked for {url}")

    def click(self, cell: int) -> float:
        """Open a cell; return the seconds until its pictures were painted."""
        button = self.page.locator(CELLS).nth(cell)
        button.scroll_into_view_if_needed()
        return float(
            button.evaluate(
                """(button) => new Promise((done) => {
                    const begin = performance.now();
                    button.click();
                    requestAnimationFrame(() => requestAnimationFrame(
                        () => done((performance.now() - begin) / 1000)));
                })"""
            )
        )

    def check_cells(self) -> int:
        """Open every cell and look whether it shows what it says; return how many there are."""
        faults = self.page.evaluate(
            """(cells) => [...document.querySelectorAll(cells)].flatMap((button) => {
                button.click();
                const dialog = document.getElementById("behind");
                const lines = dialog.querySelectorAll("#behind-list > li");
                const whole = dialog.open && lines.length > 0 && [...lines].every(
                    (line) => line.querySelectorAll(".pic").length > 1);
                const pictures = dialog.querySelectorAll(".pic:not(.none)").length > 1;
                const said = button.title;
                dialog.close();
                return whole && pictures ? [] : [said];
            })""",
            CELLS,
        )
        self.troubles += [f"nothing behind {fault!r}" for fault in faults]
        return self.page.locator(CELLS).count()

    def check_map(self) -> int:
        """Step through some points; return how many of them had no picture in the page."""
        self.page.locator("#plot").focus()
        without = 0
        for _ in range(50):
            self.page.keyboard.press("n")
            without += self.page.locator("#point .pic.none").count()
            if self.page.locator("#point .pic").count() != 1:
                self.troubles.append("a point without a place for its picture")
        return without

    def close(self) -> None:
        """Close the tab, and stop where something went wrong."""
        self.context.close()
        assert not self.troubles, self.troubles[:5]


def look(browser: Browser, file: Path) -> bool:
    """Measure a page; return whether it opens in time."""
    loads, clicks = [], []
    for _ in range(TIMES):
        tab = Opened(browser, file)
        loads.append(tab.seconds)
        clicks.append(tab.click(1))
        tab.close()
    tab = Opened(browser, file)
    cells, without = tab.check_cells(), tab.check_map()
    elements = tab.page.evaluate("document.querySelectorAll('*').length")
    tab.close()
    load, click = statistics.median(loads), statistics.median(clicks)
    print(
        f"  in Chromium: load event after {load:.2f} s (slowest of {TIMES} {max(loads):.2f} s), "
        f"a cell's pictures {click:.2f} s after the click; {elements:,} elements; "
        f"{cells} cells opened; of 50 points {without} without an embedded picture",
        flush=True,
    )
    return load <= MOST_SECONDS


def portray(browser: Browser, file: Path) -> None:
    """Keep pictures of a page beside it."""
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390)):
        tab = Opened(browser, file, scheme, width)
        for part in ("content", "matrix", "map", "queries", "audit"):
            tab.page.evaluate(f"document.getElementById('{part}').scrollIntoView()")
            tab.page.wait_for_timeout(200)
            tab.page.screenshot(path=file.with_suffix(f".{scheme}-{width}-{part}.png"))
        tab.click(1)
        tab.page.screenshot(path=file.with_suffix(f".{scheme}-{width}-cell.png"))
        tab.page.keyboard.press("Escape")
        if scheme == "dark":
            tab.page.pdf(path=file.with_suffix(".pdf"), format="A4")
        tab.close()


def main() -> int:
    """Make both sets and measure their reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--model", default="efficientnet-lite2")
    parser.add_argument("--map", default="pca")
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    in_time = True
    with tempfile.TemporaryDirectory() as made, sync_playwright() as running:
        folder = given.keep or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        crops = folder / "crops"
        if not crops.exists():
            make_crops(given.rooms, crops, given.rows)
        for name, pictures in (("rooms", given.rooms), ("crops", crops)):
            index, file = folder / f"index-{name}", folder / f"{name}.html"
            if not index.exists():
                run("build", pictures, index, "--model", given.model)
            alone, _ = run("evaluate", index)
            seconds, said = run("evaluate", index, "--report", file, "--map", given.map)
            print(f"{name}: {said.replace(str(folder) + '/', '')}")
            print(
                f"  {file.stat().st_size:,} bytes; evaluate {alone:.1f} s, with the report "
                f"{seconds:.1f} s",
                flush=True,
            )
            in_time &= look(browser, file)
            if given.keep:
                portray(browser, file)
        browser.close()
        if not given.keep:
            shutil.rmtree(crops)
    return 0 if in_time else 1


if __name__ == "__main__":
    sys.exit(main())
