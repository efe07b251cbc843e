"""Do what docs/deploy/Containerfile does, step by step, in bare virtual environments, and ask it.

    .venv/bin/python scripts/bench/container.py PHOTOS [--keep FOLDER] [--int8]

A stage is a folder with a virtual environment of its own: COPY copies into it, RUN runs there, ENV
is kept for what comes last, ENTRYPOINT and CMD. What a machine without containers cannot do stands
at the end of what is printed. PHOTOS is a folder of class folders: an index of it and its exported
model are made by this program's own environment. Ends with 1 where a step or an answer fails.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import httpx

from imgsearch import SearchEngine, build_index, learn
from imgsearch.backbones import export_onnx, load_model

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docs" / "deploy" / "Containerfile"
MODEL = "efficientnet-lite2"
MOST = 600  # megabytes
NOT_DONE = ("WORKDIR", "USER", "EXPOSE", "HEALTHCHECK")
OK, KEY = 200, "a-key-of-the-container-proof"
MISSED: list[str] = []


def judge(what: str, *, good: bool) -> None:
    """Print what was looked at, and whether it is as it should be."""
    print(f"  {what:72}{'yes' if good else 'NO   MISSED'}")
    if not good:
        MISSED.append(what)


def instructions() -> list[tuple[str, str]]:
    """Return the lines of the Containerfile as (instruction, rest)."""
    text = FILE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


class Stage:
    """A stage: a folder, and a bare environment in the place of the image's Python."""

    def __init__(self, folder: Path) -> None:
        """Make both."""
        self.folder = folder / "work"
        self.folder.mkdir(parents=True)
        self.environment = folder / "python"
        venv.create(self.environment, with_pip=True, symlinks=True)
        # Nothing of the environment that this program runs in but how pip gets its packages.
        kept = ("HOME", *(name for name in os.environ if name.startswith("PIP_")))
        self.variables = {name: os.environ[name] for name in kept if name in os.environ}
        self.variables["PATH"] = f"{self.environment}/bin:/usr/bin:/bin"

    def run(self, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command in it, which must end with that code."""
        done = subprocess.run(  # noqa: S603 - ours
            [str(word) for word in words],
            cwd=self.folder,
            env=self.variables,
            capture_output=True,
            text=True,
            check=False,
        )
        shown = " ".join(str(word) for word in words)[:60]
        judge(f"exit code {code}: {shown}", good=done.returncode == code)
        if done.returncode != code:
            print(done.stdout[-2000:], done.stderr[-2000:])
        return done


class Build:
    """Follows the file: its last `stage`, its `entry` point and `command`, and what was `left`."""

    def __init__(self, folder: Path) -> None:
        """Do it."""
        self._folder = folder
        self._stages: dict[str, Stage] = {}
        self._places: dict[str, str] = {}
        self._name = ""
        self.entry: list[str] = []
        self.command: list[str] = []
        self.left: list[str] = []
        for word, rest in instructions():
            if word in NOT_DONE:
                self.left.append(f"{word} {rest}"[:60])
            getattr(self, f"_{word.lower()}", lambda _: None)(rest)

    @property
    def stage(self) -> Stage:
        """The stage that is built now."""
        return self._stages[self._name]

    def _from(self, rest: str) -> None:
        self._name = rest.rsplit(" AS ", maxsplit=1)[-1] if " AS " in rest else "last"
        self._stages[self._name] = Stage(self._folder / self._name)

    def _workdir(self, rest: str) -> None:
        self._places[self._name] = rest

    def _copy(self, rest: str) -> None:
        source = ROOT
        if rest.startswith("--from="):
            whence, _, rest = rest.removeprefix("--from=").partition(" ")
            source = self._stages[whence].folder
            rest = rest.replace(f"{self._places[whence]}/", "")
        *things, target = rest.split()
        for thing in things:
            into = self.stage.folder / target / (Path(thing).name if target == "./" else "")
            copy = shutil.copytree if (source / thing).is_dir() else shutil.copy
            copy(source / thing, into)

    def _run(self, rest: str) -> None:
        started = time.perf_counter()
        self.stage.run("sh", "-ec", rest)
        print(f"    ({time.perf_counter() - started:.0f} s)")

    def _env(self, rest: str) -> None:
        key, _, value = rest.partition("=")
        self.stage.variables[key] = value.replace("/tmp", str(self.stage.folder))  # noqa: S108

    def _entrypoint(self, rest: str) -> None:
        self.entry = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.command = json.loads(rest)


def size_of(folder: Path) -> int:
    """Return megabytes as `du -sm` counts them."""
    done = subprocess.run(["/usr/bin/du", "-sm", folder], capture_output=True, check=True)  # noqa: S603
    return int(done.stdout.split()[0])


def ask(built: Build, made: dict[str, Any]) -> None:
    """Serve an index as the image does, and compare what it answers."""
    stage, command = built.stage, built.command
    words = [*built.entry, *(made["index"] if word == "/index" else word for word in command)]
    words = [str(word) for word in [*words, *made["options"], "--port", "0"]]
    log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below
    variables = {**stage.variables, "IMGSEARCH_API_KEY": KEY}
    process = subprocess.Popen(words, cwd=stage.folder, env=variables, stderr=log)  # noqa: S603
    url = ""
    until = time.monotonic() + 120
    while not url and time.monotonic() < until and process.poll() is None:
        time.sleep(0.2)
        log.seek(0)
        for line in log:
            if '"ready"' in line:
                url = json.loads(line)["url"].replace("0.0.0.0", "127.0.0.1")  # noqa: S104
    judge(f"serves: {' '.join(words[:5])}", good=bool(url))
    if not url:
        log.seek(0)
        print(log.read()[-2000:])
        return
    with httpx.Client(base_url=url, headers={"x-api-key": KEY}, timeout=60) as client:
        judge("ready", good=client.get("/readyz").status_code == OK)
        judge("asks for the key", good=httpx.get(f"{url}/v1/index").status_code == 401)  # noqa: PLR2004
        found = client.get("/v1/items/3/similar").json()["queries"][0]
        judge("by row: the numbers of Python", good=found == made["by_row"])
        sent = {"image": Path(made["photo"]).read_bytes()}
        found = client.post("/v1/search", files=sent).json()["queries"][0]
        compare("HTTP", found["matches"], made["by_picture"])
        judge("a stored picture", good=client.get("/v1/items/3/image").status_code == OK)
        judge("the page", good="imgsearch" in client.get("/").text)
    process.terminate()
    judge("SIGTERM: exit code 0", good=process.wait(20) == 0)
    log.close()


def compare(how: str, found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    """Compare matches by another engine: the same rows, scores within 1e-4."""
    rows = [match["row"] for match in found] == [match["row"] for match in wanted]
    pairs = zip(found, wanted, strict=True)
    apart = max(abs(one["score"] - other["score"]) for one, other in pairs) if rows else 1.0
    judge(f"by picture ({how}): the rows of Python, scores within {apart:.1e}", good=apart <= 1e-4)  # noqa: PLR2004


def answered(index: Path, photo: Path) -> dict[str, Any]:
    """Ask an index in this program's own environment."""
    with SearchEngine.open(index) as engine:
        return {
            "index": index,
            "photo": photo,
            "options": [],
            "by_row": engine.by_row(3).to_dict(),
            "by_picture": engine.by_image(photo).to_dict()["matches"],
        }


def prove(photos: Path, folder: Path, *, int8: bool) -> None:
    """Build what the file says, and try all that it is for."""
    built = Build(folder / "image")
    stage = built.stage
    (site,) = glob.glob(f"{stage.environment}/lib/python3*/site-packages")  # noqa: PTH207
    bare = Stage(folder / "bare")
    installed = size_of(stage.environment) - size_of(bare.environment)
    print(f"  installed: {installed} MB more than a bare Python ({size_of(Path(site))} MB in all)")
    judge(f"at most {MOST} MB", good=size_of(Path(site)) <= MOST)
    stage.run("python", "-c", "import torch", code=1)
    stage.run("imgsearch", "--help")
    photo, model = min(photos.rglob("*.jpg")), folder / "model.onnx"
    build_index(photos, folder / "fp32", model=MODEL)
    fp32 = answered(folder / "fp32", photo)
    export_onnx(load_model(MODEL, None, "cpu"), model)
    words = ("imgsearch", "search", fp32["index"])
    found = json.loads(stage.run(*words, "row:3", "--json").stdout)
    judge("by row: the numbers of Python", good=found["queries"][0] == fp32["by_row"])
    told = stage.run(*words, photo, code=6).stderr
    print(f"    {shlex.quote(told.strip())}")
    done = stage.run(*words, photo, "--json", "--weights", model)
    compare("command", json.loads(done.stdout)["queries"][0]["matches"], fp32["by_picture"])
    ask(built, {**fp32, "options": ["--weights", model]})
    if learn(folder / "fp32", folder / "learned").written:
        ask(built, {**answered(folder / "learned", photo), "options": ["--weights", model]})
    if int8:
        build_index(photos, folder / "int8", model=MODEL, precision="int8")
        ask(built, answered(folder / "int8", photo))
    print("not done here:", "; ".join(built.left))


def main() -> int:
    """Prove it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--keep", type=Path, help="a new folder that stays")
    parser.add_argument("--int8", action="store_true", help="an int8 index, too")
    given = parser.parse_args()
    print(shlex.join(["podman", "build", "-f", str(FILE.relative_to(ROOT)), "."]), "by hand:")
    if given.keep is not None:
        prove(given.photos, given.keep.absolute(), int8=given.int8)
    else:
        with tempfile.TemporaryDirectory(prefix="container-") as name:
            prove(given.photos, Path(name), int8=given.int8)
    print(f"missed: {', '.join(MISSED)}" if MISSED else "nothing missed")
    return int(bool(MISSED))


if __name__ == "__main__":
    sys.exit(main())
