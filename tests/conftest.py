"""What several tests need: real photos, a real small network, a real index, the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import interior_photos
import pytest
from helpers import into_classes
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
LABELS = ROOT / "scripts" / "demo-labels.csv"
MODEL = "efficientnet-lite2"
CHROMIUM = Path("/usr/bin/chromium")


@dataclass(frozen=True, slots=True)
class Run:
    """What a command left: exit code and both outputs as text."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the command printed
        """Standard output as one JSON document."""
        return json.loads(self.out)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty folder for converted models, in place of the user's own."""
    place = tmp_path_factory.getbasetemp()
    # Processes that share the work (pytest-xdist) share it, too, as users' commands do.
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["IMGSEARCH_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def imgsearch() -> Callable[..., Run]:
    """Run the installed command: `imgsearch("search", index, "row:3", cwd=...)`."""
    program = Path(sys.executable).with_name("imgsearch")

    def run(
        *words: object, cwd: Path | None = None, data: bytes | None = None, **variables: str
    ) -> Run:
        done = subprocess.run(
            [program, *(os.fsencode(str(word)) for word in words)],
            cwd=cwd,
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            check=False,
            timeout=300,
            env={**os.environ, "COLUMNS": "200", **variables},
        )
        return Run(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start one browser for all tests; each has a context of its own."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no browser at {CHROMIUM}: apt-get install chromium")
    with sync_playwright() as running:
        browser = running.chromium.launch(
            executable_path=str(CHROMIUM),
            args=[
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
            ],
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Return the 39 real interiors, sorted."""
    return [Path(path) for path in interior_photos.get_all_photos()]


@pytest.fixture(scope="session")
def small_photos(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Path:
    """Return a folder of all interiors at 400 pixels, as quick to decode as a test wants."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("small")
    for photo in photos:
        with Image.open(photo) as image:
            image.thumbnail((400, 400))
            image.save(folder / photo.name, quality=90)
    return folder


@pytest.fixture(scope="session")
def class_folders(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return 12 small interiors in three class folders: alpha, beta, gamma."""
    folder = tmp_path_factory.mktemp("classes")
    return into_classes(sorted(small_photos.iterdir())[:12], folder)


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return an index of the demo's base set, made once by the packaged network."""
    from imgsearch import build_index

    index = tmp_path_factory.mktemp("indexes") / "rooms"
    build_index(small_photos, index, labels_file=LABELS, model=MODEL)
    return index
