"""Kill builds and updates at random moments while others read, and look at what is left.

    .venv/bin/python scripts/bench/kills.py [--kills 300] [--workers 30] [--signals 20]

Works on Linux, in a temporary folder. First `kill -9` falls on builds and updates, with 4 readers
in processes of their own; then on single decoders; then SIGTERM and SIGINT on the installed
program. Every embedding is counted where the network is called. Prints a table; ends with 1 if
anything failed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tiny

import imgsearch
from imgsearch import indexing
from imgsearch.index import read_manifest
from imgsearch.manifest import is_data_name
from imgsearch.memory import Journal
from imgsearch.records import Limits, Running

PICTURES, FRESH = 80, 24
READERS, ROWS = 4, (0, 7, 20)
# Two batches are with the network and one waits for it.
UNDER_WAY = 3 * Running().batch_size
_PATIENCE = 120.0


def generation(index: Path) -> str:
    """Name a generation by the sums of its files."""
    files = read_manifest(index).files
    return "+".join(files[kind].sha256[:16] for kind in sorted(files))


def commit_of(index: Path) -> tuple[int, int]:
    """Tell commits apart, those of the same content, too: a manifest is a file of its own."""
    status = (index / "manifest.json").stat()
    return status.st_ino, status.st_mtime_ns


def answers(engine: imgsearch.SearchEngine) -> list[Any]:
    """Return what a generation answers to three rows, as plain values."""
    return [
        [
            [match.row, match.path, match.label, match.score]
            for match in engine.by_row(row, 5).matches
        ]
        for row in ROWS
    ]


def read(index: str, log: str) -> None:
    """Open and ask an index until the file `stop` lies beside it; log each answer on a line."""
    stop = Path(index).with_name("stop")
    with Path(log).open("w") as lines:
        while not stop.exists():
            try:
                with imgsearch.SearchEngine.open(Path(index)) as engine:
                    files = engine.index.manifest.files
                    name = "+".join(files[kind].sha256[:16] for kind in sorted(files))
                    entry = [name, answers(engine)]
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                entry = [None, f"{type(error).__name__}: {error}"]
            lines.write(json.dumps(entry) + "\n")
            time.sleep(0.4)


@dataclass(slots=True)
class Place:
    """An index, its pictures, and all that it ever answered."""

    folder: Path
    photos: tiny.Photos
    model: str
    index: Path
    known: dict[str, list[Any]] = field(default_factory=dict)

    def words(self, kind: str, *, workers: int = 1) -> list[str]:
        """Return the words of a build or an update."""
        words = ["update", str(self.index)]
        if kind == "build":
            words = ["build", str(self.photos.folder), str(self.index), "--overwrite"]
            words += ["--model", self.model]
        return [*words, "--workers", str(workers)]

    def learn(self) -> str:
        """Remember what the present generation answers; return its name."""
        name = generation(self.index)
        if name not in self.known:
            with imgsearch.SearchEngine.open(self.index) as engine:
                self.known[name] = json.loads(json.dumps(answers(engine)))
        return name

    def contents(self) -> dict[str, str]:
        """Return the content sums of the pictures in the folder, by path."""
        return {
            str(file.relative_to(self.photos.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in self.photos.files()
        }

    def indexed(self) -> dict[str, str]:
        """Return the content sums that the index holds, by path."""
        with imgsearch.SearchEngine.open(self.index) as engine:
            items = engine.index.items
            return dict(zip(items.column("path"), items.column("sha256"), strict=True))

    def recorded(self) -> set[str]:
        """Return the content sums in the journal."""
        manifest = read_manifest(self.index)
        with Journal(self.index, indexing.identity(manifest), Limits(), manifest.dim) as journal:
            return {seen.sha256 for seen in journal.seen.values() if seen.sha256}

    def problem(self) -> str | None:
        """Return what is wrong with the index."""
        try:
            return next(iter(imgsearch.verify(self.index)), None)
        except imgsearch.ImgsearchError as error:
            return str(error)


def make_place(folder: Path) -> Place:
    """Make an index of some pictures."""
    photos = tiny.Photos(folder / "photos", PICTURES)
    place = Place(folder, photos, tiny.make_model(folder / "tiny.onnx"), folder / "index")
    done = tiny.run(*place.words("build"))
    assert done.code == 0, done.err
    place.learn()
    return place


def _phase(place: Place, before: str) -> str:
    """Tell from what lies in the folder how far a killed run had come."""
    if generation(place.index) != before:
        return "committed"
    lying = {file.name for file in place.index.iterdir()}
    manifests = [place.index / "manifest.json", place.index / "previous.json"]
    text = "".join(file.read_text() for file in manifests if file.exists())
    named = set(re.findall(r'"((?:vectors|items|skipped)-[^"]+)"', text))
    data = {name for name in lying if is_data_name(name)}
    if data - named or lying & {".part-items", ".part-manifest.json", ".part-previous.json"}:
        return "committing"
    return "embedding" if ".part-vectors" in lying else "starting"


class Killer:
    """Kills one run after the other."""

    def __init__(self, place: Place) -> None:
        """See `attempt`."""
        self.place = place
        self.chance = random.Random(1)  # noqa: S311 - a series that can be repeated
        self.phases: collections.Counter[str] = collections.Counter()
        self.durations: dict[str, collections.deque[float]] = {
            kind: collections.deque([0.5], maxlen=5) for kind in ("build", "update")
        }
        self.faults: list[str | None] = []
        self.wasted = self.embedded = self.over = 0

    def attempt(self, kind: str | None = None, *, kill: bool = True) -> None:
        """Start a build or an update, either unless told which, and kill it at some moment."""
        place = self.place
        if self.chance.random() < 0.4:  # noqa: PLR2004 - else the same work is taken up again
            for _ in range(FRESH):
                place.photos.remove()
                place.photos.add()
            place.photos.relabel()
        kind = kind or self.chance.choice(["build", "update"])
        before, contents, recorded = place.learn(), place.contents(), place.recorded()
        commit = commit_of(place.index)
        known = recorded | (set(place.indexed().values()) if kind == "update" else set())
        count = place.folder / "count"
        count.write_bytes(b"")
        started = time.monotonic()
        command = tiny.Command(place.words(kind), count=count)
        children: set[int] = set()
        if kill:
            self._wait(command, self.chance.uniform(0, 1.1 * max(self.durations[kind])))
            children = tiny.children(command.pid)
            command.kill()
        done = command.wait(_PATIENCE)
        if done.code == 0:
            self.durations[kind].append(time.monotonic() - started)
        fault = self._fault(done, before, contents)
        fault = fault or self._counted(done, commit, set(contents.values()) - known, recorded)
        if not tiny.ended(children):
            fault = fault or "a decoder outlives its parent"
        if kill and done.code >= 0:
            self.over += 1  # the kill came too late, and counts as none
        elif kill:
            self.phases[_phase(place, before)] += 1
        if fault or not kill or done.code < 0:
            self.faults.append(fault and f"{kind}: {fault}")

    def _counted(
        self, done: tiny.Done, before: tuple[int, int], due: set[str], recorded: set[str]
    ) -> str | None:
        """Compare what was embedded with what had to be, and with what is kept of it."""
        begun = (self.place.folder / "count").stat().st_size
        self.embedded += begun
        if begun > len(due) or (done.code == 0 and begun != len(due)):
            return f"{begun} pictures were embedded and {len(due)} were due"
        # Once it is committed the index holds the work, and the journal is cleared.
        if done.code < 0 and commit_of(self.place.index) == before:
            lost = begun - len(self.place.recorded() - recorded)
            self.wasted = max(self.wasted, lost)
            too_many = f"{lost} embeddings are lost, more than were under way"
            return too_many if lost > UNDER_WAY else None
        return None

    @staticmethod
    def _wait(command: tiny.Command, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while command.running() and time.monotonic() < deadline:
            time.sleep(0.002)

    def _fault(self, done: tiny.Done, before: str, contents: dict[str, str]) -> str | None:
        place = self.place
        if done.code not in {0, -signal.SIGKILL}:
            return f"it ends with {done.code}: {done.err.strip()[-300:]}"
        if problem := place.problem():
            return problem
        now = place.learn()
        if (now != before or done.code == 0) and place.indexed() != contents:
            return "the index does not hold the pictures that were there"
        return None


def kill_at_random(place: Place, kills: int) -> tuple[list[str | None], list[str | None], str, str]:
    """Kill builds and updates while readers ask; return faults and a note for runs and readers."""
    logs = [place.folder / f"reader-{i}" for i in range(READERS)]
    readers = [tiny.start(read, str(place.index), str(log)) for log in logs]
    killer = Killer(place)
    for kind in ("build", "update"):
        killer.attempt(kind, kill=False)  # to know how long they take
    while sum(killer.phases.values()) < kills:
        killer.attempt()
        told = f"{sum(killer.phases.values())} kills, {len([f for f in killer.faults if f])} faults"
        print(told, file=sys.stderr, flush=True)
    killer.attempt(kill=False)
    place.folder.joinpath("stop").touch()
    for reader in readers:
        reader.join(_PATIENCE)
    killer.faults += [
        f"{file.name} is left" for file in place.index.iterdir() if ".part" in file.name
    ]
    wrong: list[str | None] = [None if one.exitcode == 0 else "a reader died" for one in readers]
    for log in logs:
        for line in log.read_text().splitlines():
            name, answer = json.loads(line)
            wrong.append(None if place.known.get(name) == answer else f"{name}: {answer}"[:200])
    phases = ", ".join(f"{n} {phase}" for phase, n in sorted(killer.phases.items()))
    note = f"{phases}; {killer.over} came too late; {killer.embedded:,} embeddings, "
    note += f"at most {killer.wasted} lost by a kill"
    return killer.faults, wrong, note, f"{len(place.known)} generations"


def kill_workers(place: Place, kills: int) -> tuple[list[str | None], str]:
    """Kill one decoder of a build; the index must be what it is without that."""
    chance = random.Random(2)  # noqa: S311 - a series that can be repeated
    assert tiny.run(*place.words("build", workers=2)).code == 0
    whole = generation(place.index)
    faults: list[str | None] = []
    duration, tries = 1.0, 0
    while len(faults) < kills:
        tries += 1
        started = time.monotonic()
        command = tiny.Command(place.words("build", workers=2))
        deadline = time.monotonic() + chance.uniform(0, duration)
        while time.monotonic() < deadline or not tiny.children(command.pid):
            if not command.running():
                break
            time.sleep(0.002)
        children = tiny.children(command.pid) if command.running() else set()
        hit = False
        if children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(min(children), signal.SIGKILL)
                hit = True
        done = command.wait(_PATIENCE)
        duration = time.monotonic() - started
        if not hit:
            continue
        fault = None if done.code == 0 else f"exit {done.code}: {done.err.strip()}"
        if fault is None and generation(place.index) != whole:
            fault = f"the index is another one: {done.err.strip()}"
        if not tiny.ended(children):
            fault = fault or "a decoder outlives its parent"
        faults.append(fault)
    return faults, f"{tries} builds"


def signals(place: Place, number: signal.Signals, times: int) -> tuple[list[str | None], str]:
    """Send a signal to the installed program at random moments; look at exit code and index."""
    chance = random.Random(3)  # noqa: S311 - a series that can be repeated
    faults: list[str | None] = []
    late = tries = 0
    duration = 3.0
    while len(faults) < times:
        tries += 1
        for _ in range(FRESH):
            place.photos.remove()
            place.photos.add()
        before = place.learn()
        child = subprocess.Popen(  # noqa: S603 - ours
            [*tiny.PROGRAM, *place.words(chance.choice(["build", "update"]), workers=2)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while child.poll() is None and not _listens(child.pid):
            time.sleep(0.005)
        there = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(chance.uniform(0, duration))
        children = tiny.children(child.pid)
        child.send_signal(number)
        out, err = child.communicate(timeout=_PATIENCE)
        if child.returncode == 0:
            duration = time.monotonic() - there
            continue
        # What comes when all is done, while Python takes itself down, kills by the system's
        # own hand: a shell shows the same code.
        fault = None
        if child.returncode not in {128 + number, -number}:
            fault = f"exit {child.returncode}: {err.strip()[-300:]}"
        done = child.returncode < 0 and out != ""
        late += done
        if err != ("interrupted\n" if number == signal.SIGINT and not done else ""):
            fault = fault or f"it says {err.strip()[-300:]!r}"
        if not tiny.ended(children):
            fault = fault or "a decoder outlives its parent"
        now = place.learn()
        fault = fault or place.problem()
        if now != before and place.indexed() != place.contents():
            fault = fault or "the index does not hold the pictures that were there"
        faults.append(fault)
    done = tiny.run(*place.words("update"))
    faults.append(None if done.code == 0 and place.indexed() == place.contents() else done.err)
    return faults, f"{tries} runs, {late} ended after their last word; then an update"


def _listens(pid: int) -> bool:
    """Whether a process has begun to handle SIGTERM: Python is there, and the program has begun."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:\t")[1].split()[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def main() -> int:
    """Kill, look, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--workers", type=int, default=30)
    parser.add_argument("--signals", type=int, default=20)
    given = parser.parse_args()
    table = tiny.Table()
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        place = make_place(Path(temporary))
        if given.kills:
            faults, wrong, note, generations = kill_at_random(place, given.kills)
            table.add("kill -9 of build and update", faults, note)
            table.add(f"answers to {READERS} readers meanwhile", wrong, generations)
        if given.workers:
            table.add("kill -9 of one decoder", *kill_workers(place, given.workers))
        if given.signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                table.add(number.name, *signals(place, number, given.signals))
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
