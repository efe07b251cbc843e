"""Break every step of a commit, and look at what is left of the index.

    .venv/bin/python scripts/bench/faults.py [--only kill disk full order readers writers]
                                             [--case update build journal]

Works on Linux, in a temporary folder, with strace (its fault injection) and, for small and
read-only file systems, as root. Each system call of `update` and `build --overwrite` that changes
something in the index folder, or opens a file to, is killed once, and refused once and from then
on. The case `journal` is a build that syncs its journal at every record, as a long one does every
few seconds; only what it does to the journal is broken. Prints a table; ends with 1 if anything
failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tiny

import imgsearch
from imgsearch.index import read_manifest
from imgsearch.manifest import is_data_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2")
REMOVALS = ("unlink", "unlinkat", "rmdir")
CALLS = ("openat", "mkdir", "ftruncate", *SYNCS, *RENAMES, *REMOVALS)
WRITES = ("write", "pwrite64", "writev")
REFUSALS = ("ENOSPC", "EIO")
CANNOT_WRITE = 7
CASES = ("update", "build", "journal")
SECTIONS = ("readers", "writers", "full", "order", "kill", "disk")
_PATIENCE = 120.0  # seconds that a traced command may take
_LINE = re.compile(r"^(?:(\d+) +)?(\w+)\((.*)$")
_PATH = re.compile(r'"([^"]*)"|\d+<([^>]*)>')


@dataclass(frozen=True, slots=True)
class Event:
    """A system call on a path, as a trace tells it."""

    process: str | None  # where more than one was traced
    name: str
    paths: list[str]
    text: str

    @property
    def changes(self) -> bool:
        """Whether it changes something, or opens to."""
        return self.name != "openat" or bool(re.search("O_WRONLY|O_RDWR|O_CREAT", self.text))

    def inside(self, root: str) -> list[str]:
        """Return its paths under a folder, relative to it."""
        mine = [path for path in self.paths if path == root or path.startswith(f"{root}/")]
        # A file that is opened stands there twice, by its name and by what is opened.
        return [os.path.relpath(path, root) for path in dict.fromkeys(mine)]


@dataclass(frozen=True, slots=True)
class Traced:
    """How a command ended, and its trace."""

    done: tiny.Done
    events: list[Event]

    @property
    def injected(self) -> bool:
        """Whether the fault was met."""
        return self.done.code < 0 or any("(INJECTED)" in event.text for event in self.events)


def trace(
    case: Case, index: Path, *options: str, names: Sequence[str] = CALLS, follow: bool = False
) -> Traced:
    """Run a case's command under strace: its first thread, or all threads and processes."""
    strace = shutil.which("strace") or "strace"
    command = tiny.Command(case.command(index), held=True, sync_always=case.sync_always)
    with tempfile.NamedTemporaryFile(mode="r", suffix=".trace") as log:
        # Not with --seccomp-bpf: strace 6.1 then injects nothing.
        start = [strace, "-qq", "-y", "-o", log.name, "-e", f"trace={','.join(names)}"]
        start += ["-f"] * follow
        tracer = subprocess.Popen([*start, *options, "-p", str(command.pid)])  # noqa: S603 - ours
        while not _is_traced(command.pid):
            time.sleep(0.005)
        command.go()
        done = command.wait(_PATIENCE)
        tracer.wait(_PATIENCE)
        events = []
        for line in log:
            if found := _LINE.match(line):
                process, name, rest = found.groups()
                paths = [named or opened for named, opened in _PATH.findall(rest)]
                events.append(Event(process, name, paths, rest))
    return Traced(done, events)


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "TracerPid:\t0\n" not in status


def can_trace() -> str | None:
    """Return why nothing can be traced here; None where it can."""
    strace = shutil.which("strace")
    if strace is None:
        return "strace is not installed"
    done = tiny.run_installed([strace, "-f", "-o", os.devnull, "true"])
    return None if done.code == 0 else f"ptrace is not allowed here: {done.err.strip()}"


@dataclass(slots=True)
class Case:
    """A command that replaces a generation, and both generations by the sums of their files."""

    name: str
    photos: tiny.Photos
    template: Path  # the index before
    words: tuple[str, ...]  # with INDEX for the index
    sync_always: bool = False
    old: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)

    def command(self, index: Path) -> list[str]:
        """Return the command's words for a copy of the index."""
        return [str(index) if word == "INDEX" else word for word in self.words]

    def run(self, index: Path) -> tiny.Done:
        """Run the command on a copy of the index."""
        return tiny.run(*self.command(index))

    def copy(self, index: Path) -> Path:
        """Put the index before at a place."""
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(self.template, index)
        return index


def sums(index: Path) -> dict[str, str]:
    """Return the sums of a generation's files, as its manifest states them."""
    return {kind: entry.sha256 for kind, entry in read_manifest(index).files.items()}


def make_cases(folder: Path, names: Sequence[str]) -> list[Case]:
    """Make an index to update and some to build again, and find out what comes of each."""
    folder.mkdir(exist_ok=True)
    model = tiny.make_model(folder / "tiny.onnx")
    cases = []
    for name in names:
        photos = tiny.Photos(folder / f"{name}-photos", 16 if name == "update" else 6)
        (photos.folder / "alpha" / "none.jpg").write_text("no picture")
        index = folder / f"{name}-template"
        imgsearch.build_index(photos.folder, index, model=model)
        # One before, so that the next commit has something to remove.
        photos.relabel()
        imgsearch.update_index(index)
        photos.remove()
        photos.relabel()
        photos.add()
        photos.add()
        (photos.folder / "beta" / "none.jpg").write_text("no picture, either")
        words = ("update", "INDEX", "--workers", "1")
        if name != "update":
            build = ("build", str(photos.folder), "INDEX", "--overwrite")
            words = (*build, "--model", model, "--workers", "1")
        case = Case(name, photos, index, words, sync_always=name == "journal")
        after = case.copy(folder / "after")
        done = case.run(after)
        assert done.code == 0, done.err
        case.old, case.new = sums(index), sums(after)
        assert case.old != case.new
        cases.append(case)
    return cases


@dataclass(frozen=True, slots=True)
class Point:
    """The n-th call of a name on the index folder."""

    name: str
    number: int
    watched: tuple[str, ...]  # the paths by which strace counts, relative to the index folder
    at: tuple[str, ...]  # its own paths, relative to the index folder

    def options(self, index: Path, fault: str) -> list[str]:
        """Return strace's options that bring the fault about."""
        paths = [word for path in self.watched for word in ("-P", str(index / path))]
        return [*paths, "-e", "signal=none", "-e", f"inject={self.name}:{fault}"]

    def __str__(self) -> str:
        """Name it for a person."""
        return f"{self.name} {self.number} ({' '.join(self.at)})"


def find_points(case: Case, index: Path, names: Sequence[str]) -> list[Point]:
    """Return every call of a command that changes something in the index folder, or opens to."""
    case.copy(index)
    traced = trace(case, index, names=names, follow=True)
    assert traced.done.code == 0, traced.done.err
    root = str(index)
    points: list[Point] = []
    for name in names:
        mine = [event for event in traced.events if event.name == name and event.inside(root)]
        # Only the first thread is traced when something is broken: nothing else may write.
        assert all(event.process == traced.events[0].process for event in mine), mine
        watched = tuple(sorted({path for event in mine for path in event.inside(root)}))
        for number, event in enumerate(mine, start=1):
            at = tuple(event.inside(root))
            if event.changes and (case.name != "journal" or at[0].startswith(".work")):
                points.append(Point(name, number, watched, at))
    return points


def _whole(case: Case, index: Path, wanted: Sequence[dict[str, str]]) -> str | None:
    try:
        if problems := imgsearch.verify(index):
            return problems[0]
        found = sums(index)
    except imgsearch.ImgsearchError as error:
        return str(error)
    return None if found in wanted else f"it is not the generation that {case.name} should leave"


def _left_over(index: Path) -> list[str]:
    named: set[str] = set()
    for name in ("manifest.json", "previous.json"):
        text = (index / name).read_text()
        named.update(re.findall(r'"((?:vectors|items|skipped)-[^"]+)"', text))
    return [
        file.name
        for file in index.iterdir()
        if ".part" in file.name
        or file.name == ".work"
        or (is_data_name(file.name) and file.name not in named)
    ]


def _next_run(case: Case, index: Path) -> str | None:
    done = case.run(index)
    if done.code != 0:
        return f"the next run ends with {done.code}: {done.err.strip()}"
    if fault := _whole(case, index, [case.new]):
        return f"after the next run: {fault}"
    if left := _left_over(index):
        return f"the next run leaves {', '.join(left)}"
    return None


def kill_at(case: Case, point: Point, index: Path) -> str | None:
    """Kill a command at a point; return what is wrong afterwards."""
    case.copy(index)
    options = point.options(index, f"signal=KILL:when={point.number}")
    traced = trace(case, index, *options, names=[point.name])
    if traced.done.code >= 0:
        return f"the point was not reached (exit {traced.done.code})"
    if tuple(traced.events[-1].inside(str(index))) != point.at:
        return f"it was killed at {traced.events[-1].text.strip()[:90]}"
    return _whole(case, index, [case.old, case.new]) or _next_run(case, index)


def refuse_at(case: Case, point: Point, index: Path, error: str, *, onward: bool) -> str | None:
    """Let a call of a command fail, or all from there on; return what is wrong afterwards.

    Whether the next run completes is looked at after EIO at one call, to save half of the time.
    """
    case.copy(index)
    options = point.options(index, f"error={error}:when={point.number}{'+' * onward}")
    traced = trace(case, index, *options, names=[point.name])
    if not traced.injected:
        return f"the point was not reached (exit {traced.done.code})"
    fault = _said(case, traced.done, index)
    return fault if fault or onward or error != "EIO" else _next_run(case, index)


def _said(case: Case, done: tiny.Done, index: Path) -> str | None:
    """Return what is wrong with how a command took a refusal."""
    if done.code == 0:
        # What could not be done was of no account: a removal, or the memory of files.
        return _whole(case, index, [case.new])
    lines = done.err.strip().splitlines()
    if done.code != CANNOT_WRITE or len(lines) != 1 or not lines[0].startswith("imgsearch: "):
        return f"exit {done.code}: {done.err.strip()[-300:]!r}"
    return _whole(case, index, [case.old, case.new])


def each(
    points: Sequence[Point], folder: Path, attempt: Callable[[Point, Path], str | None]
) -> list[str | None]:
    """Try points, two at a time; what is wrong is told with the call it belongs to."""
    places = threading.local()
    numbers = itertools.count()

    def one(point: Point) -> str | None:
        if not hasattr(places, "index"):
            places.index = folder / f"try-{next(numbers)}" / "index"
        fault = attempt(point, places.index)
        return fault and f"{point}: {fault}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, points))


def kills(case: Case, folder: Path, table: tiny.Table) -> None:
    """Kill at every point."""
    points = find_points(case, folder / "index", CALLS)
    for name in CALLS:
        chosen = [point for point in points if point.name == name]
        if chosen:
            faults = each(chosen, folder, lambda point, index: kill_at(case, point, index))
            table.add(f"{case.name}: killed at {name}", faults)


def refusals(case: Case, folder: Path, table: tiny.Table) -> None:
    """Refuse at every point, once and from then on."""
    points = find_points(case, folder / "index", (*CALLS, *WRITES))
    for error in REFUSALS:
        for onward in (False, True):

            def attempt(
                point: Point, index: Path, error: str = error, *, onward: bool = onward
            ) -> str | None:
                return refuse_at(case, point, index, error, onward=onward)

            how = "from then on" if onward else "once"
            table.add(f"{case.name}: {error} {how}", each(points, folder, attempt))


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[str | None]:
    """Mount something; gives the reason where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = tiny.run_installed([shutil.which("mount") or "mount", *options, str(place)])
    try:
        yield None if done.code == 0 else f"mount is not allowed here: {done.err.strip()}"
    finally:
        if done.code == 0:
            tiny.run_installed([shutil.which("umount") or "umount", "-l", str(place)])


def fills(case: Case, folder: Path, steps: Sequence[int]) -> tuple[list[str | None], int]:
    """Run a command on file systems with so many spare pages; return faults and how often 7."""
    page = 4096
    used = sum(-(-file.stat().st_size // page) for file in case.template.iterdir())
    faults: list[str | None] = []
    refused = 0
    for spare in steps:
        size = (used + spare) * page
        place = folder / "small"
        with mounted(place, "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as why:
            if why is not None:
                return [why], 0
            index = case.copy(place / "index")
            done = case.run(index)
            refused += done.code == CANNOT_WRITE
            fault = _said(case, done, index)
            # Somebody makes room; nothing else is done by hand.
            with mounted(place, "-o", f"remount,size={size + 64 * page}"):
                faults.append(fault or _next_run(case, index))
    return faults, refused


def read_only(case: Case, folder: Path) -> list[str | None]:
    """Search and write where nothing can be written: a read-only mount, an immutable folder."""
    index = case.copy(folder / "held" / "index")
    with (
        mounted(folder / "bound", "--bind", str(index.parent)) as why,
        mounted(folder / "bound", "-o", "remount,ro,bind") as why_not,
    ):
        if why or why_not:
            return [why or why_not]
        faults = _unwritable(case, folder / "bound" / "index")
    chattr = shutil.which("chattr") or "chattr"
    held = [str(index), str(index / ".lock")]
    if tiny.run_installed([chattr, "+i", *held]).code == 0:
        faults += _unwritable(case, index)
        tiny.run_installed([chattr, "-i", *held])
    return faults


def _unwritable(case: Case, index: Path) -> list[str | None]:
    found = tiny.run("search", str(index), "row:1", "--json")
    done = case.run(index)
    refused = None if done.code == CANNOT_WRITE else f"{case.name} ends with {done.code}"
    return [
        None if found.code == 0 else f"search ends with {found.code}: {found.err}",
        refused or _said(case, done, index) or _whole(case, index, [case.old]),
    ]


def order(case: Case, index: Path) -> list[str | None]:
    """Trace one commit; return for each rule of the order whether it was broken."""
    case.copy(index)
    traced = trace(case, index, names=(*CALLS, *WRITES), follow=True)
    assert traced.done.code == 0, traced.done.err
    events = [event for event in traced.events if "= -1 " not in event.text]
    root = str(index)

    def at(names: Sequence[str], path: str, place: int = 0) -> list[int]:
        return [
            i
            for i, event in enumerate(events)
            if event.name in names and len(event.paths) > place and event.paths[place] == path
        ]

    faults: list[str | None] = []

    def rule(text: str, *, kept: bool) -> None:
        faults.append(None if kept else text)

    named = [entry.name for entry in read_manifest(index).files.values()]
    renamed: dict[str, int] = {}
    for name in (*named, "previous.json", "manifest.json"):
        (renamed[name],) = at(RENAMES, f"{root}/{name}", 1)
        part = events[renamed[name]].paths[0]
        wrote, synced = at(WRITES, part), at(SYNCS, part)
        rule(
            f"{name} is synced after its last write and before its rename",
            kept=bool(wrote and synced) and max(wrote) < max(synced) < renamed[name],
        )
        rule(f"{name} is not written to under its name", kept=not at(WRITES, f"{root}/{name}"))
    folder_syncs = at(SYNCS, root)
    last = max(renamed[name] for name in named)
    commit = renamed["manifest.json"]
    for what, low, high in (
        ("the data files' names", last, renamed["previous.json"]),
        ("the name of the previous manifest", renamed["previous.json"], commit),
    ):
        kept = any(low < sync < high for sync in folder_syncs)
        rule(f"the folder is synced after {what}", kept=kept)
    after = [sync for sync in folder_syncs if sync > commit]
    rule("the folder is synced after the manifest's rename", kept=bool(after))
    removed = [
        i
        for i, event in enumerate(events)
        if event.name in REMOVALS and is_data_name(Path(event.paths[-1]).name)
    ]
    rule("an old data file is removed", kept=bool(removed))
    early = bool(after) and all(i > after[0] for i in removed)
    rule("no data file is removed before the commit is synced", kept=early)
    gone = [i for i in at(REMOVALS, f"{root}/.work") if not after or i < after[0]]
    rule("the journal is not removed before the commit is synced", kept=not gone)
    return faults


def writers(case: Case, folder: Path, pairs: int) -> tuple[list[str | None], str]:
    """Start two of update and build at once on one index, with a clean-up; return the faults.

    Before either starts a picture is added: whoever ends with 0 must have what was there when it
    began, whatever the other one did. What a killed writer leaves is put into the folder each time.
    """
    chance = random.Random(4)  # noqa: S311 - a series that can be repeated
    build = case.words
    update = ("update", "INDEX", "--workers", "1")
    kinds = [(build, update), (update, build), (update, update), (build, build)]
    index = case.copy(folder / "shared" / "index")
    faults: list[str | None] = []
    ends: dict[str, int] = {}
    for number in range(pairs):
        pair = kinds[number % len(kinds)]
        for name in (".part-vectors", f"vectors-{number:016x}.faiss"):
            (index / name).write_bytes(b"what a killed writer leaves")
        started = []
        for words in (*pair, ("verify", "INDEX", "--repair")):
            there = {str(file.relative_to(case.photos.folder)) for file in case.photos.files()}
            command = tiny.Command([str(index) if word == "INDEX" else word for word in words])
            started.append((words[0], there, command))
            if len(started) == 1:
                case.photos.add()
                time.sleep(chance.uniform(0, 0.5))
        done = [(name, there, command.wait(_PATIENCE)) for name, there, command in started]
        faults.append(_after_pair(index, done[:2], done[2][2]))
        end = ", ".join(sorted(f"{name} {one.code}" for name, _, one in done[:2]))
        ends[end] = ends.get(end, 0) + 1
    return faults, "; ".join(f"{n} x {end}" for end, n in sorted(ends.items()))


def _after_pair(
    index: Path, pair: Sequence[tuple[str, set[str], tiny.Done]], clean: tiny.Done
) -> str | None:
    codes = [one.code for _, _, one in pair]
    said = [one.err.strip() for _, _, one in pair if one.code]
    if 0 not in codes or not set(codes) <= {0, CANNOT_WRITE}:
        return f"they end with {codes}: {said}"
    if any("another process is writing" not in text or "\n" in text for text in said):
        return f"a refusal says {said}"
    if clean.code != 0:
        return f"verify ends with {clean.code}: {clean.out} {clean.err}"
    if problems := imgsearch.verify(index):
        return problems[0]
    if left := _left_over(index):
        return f"they leave {', '.join(left)}"
    with imgsearch.SearchEngine.open(index) as engine:
        held = set(engine.index.items.column("path"))
    lost = [there - held for _, there, one in pair if one.code == 0 and there - held]
    return f"lost: {lost}" if lost else None


def write_generation(folder: Path, number: int, rows: int = 20) -> float:
    """Commit a generation whose labels tell its number; return the best score of its row 0."""
    import numpy as np

    from imgsearch.importing import import_vectors

    vectors = np.random.default_rng(number).standard_normal((rows, tiny.DIM)).astype(np.float32)
    given = folder.with_name("given.npy")
    table = folder.with_name("given.csv")
    np.save(given, vectors)
    lines = (f"{number}/{i}.jpg,g{number}\n" for i in range(rows))
    table.write_text("path,label\n" + "".join(lines))
    import_vectors(given, table, folder, overwrite=True)
    with imgsearch.SearchEngine.open(folder) as engine:
        return engine.by_row(0, 1).matches[0].score


def _write_generations(folder: str, generations: int) -> None:
    """Commit generations 1 to `generations`, then write their best scores beside the index."""
    best = {}
    for number in range(1, generations + 1):
        best[number] = write_generation(Path(folder), number)
        time.sleep(0.1)
    Path(f"{folder}.json").write_text(json.dumps(best))


@dataclass(slots=True)
class Seen:
    """What readers saw."""

    answers: list[tuple[int, float]] = field(default_factory=list)
    faults: list[str | None] = field(default_factory=list)
    on_disk: int = 0
    descriptors: list[int] = field(default_factory=list)


def _ask(folder: Path, stop: threading.Event, seen: Seen, times: int) -> None:
    """Open the index and ask it so many times, again and again."""
    while not stop.is_set():
        seen.on_disk = max(seen.on_disk, len(list(folder.glob("vectors-*.faiss"))))
        try:
            engine = imgsearch.SearchEngine.open(folder)
            opened = engine.classes
            for _ in range(times):
                found = engine.by_row(0, 5)
                numbers = {match.path.split("/")[0] for match in found.matches}
                labels = {match.label for match in found.matches}
                if len(numbers) != 1 or not {f"g{n}" for n in numbers} == labels == set(opened):
                    seen.faults.append(f"an answer from {numbers} with {labels} of {opened}")
                else:
                    seen.answers.append((int(numbers.pop()), found.matches[0].score))
                    seen.faults.append(None)
                time.sleep(0.01 * (times > 1))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            seen.faults.append(f"{type(error).__name__}: {error}")


def readers(folder: Path, *, generations: int, threads: int) -> tuple[list[str | None], str]:
    """Open and ask while another process commits generations; return faults and what was seen.

    Half of the readers open the index for each answer, the others keep it open for twenty.
    """
    folder.parent.mkdir(parents=True)
    best = {0: write_generation(folder, 0)}
    tiny.run("info", str(folder))  # what starts once has started
    seen = Seen()
    stop = threading.Event()
    before = _descriptors()
    pool = [
        threading.Thread(target=_ask, args=(folder, stop, seen, 1 if i % 2 else 20))
        for i in range(threads)
    ]
    for thread in pool:
        thread.start()
    writer = tiny.start(_write_generations, str(folder), generations)
    while writer.is_alive():
        seen.descriptors.append(_descriptors())
        time.sleep(0.05)
    stop.set()
    for thread in pool:
        thread.join()
    writer.close()
    after = _descriptors()
    told = json.loads(Path(f"{folder}.json").read_text())
    best.update((int(number), score) for number, score in told.items())
    faults = seen.faults
    faults += [f"generation {n} answered {s}" for n, s in seen.answers if best[n] != s]
    faults.append(None if seen.on_disk <= 3 else f"{seen.on_disk} generations lay on disk")  # noqa: PLR2004
    faults.append(None if after <= before else f"descriptors: {before} before, {after} after")
    half = len(seen.descriptors) // 2
    early, late = max(seen.descriptors[:half]), max(seen.descriptors[half:])
    # Each reader may hold a file or two while it opens them.
    rising = late > early + threads
    faults.append(f"descriptors rise from {early} to {late}" if rising else None)
    met = len({n for n, _ in seen.answers})
    note = f"{len(seen.answers):,} answers from {met} generations; {seen.on_disk} on disk at most; "
    note += f"descriptors {before} before, {early} and {late} at most in either half, {after} after"
    return faults, note


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only the number


def attempt_all(given: argparse.Namespace, folder: Path, table: tiny.Table) -> None:
    """Break what was asked for."""
    if "readers" in given.only:
        faults, note = readers(folder / "read" / "index", generations=50, threads=8)
        table.add("readers through 50 generations", faults, note)
    if set(given.only) == {"readers"}:
        return
    for case in make_cases(folder, given.case):
        if "writers" in given.only and case.name == "build":
            (shared,) = make_cases(folder / "pairs", ["build"])
            faults, note = writers(shared, folder, given.pairs)
            table.add("two writers", faults, note)
        if "order" in given.only:
            table.add(f"{case.name}: order", order(case, folder / "index"))
        if "full" in given.only and case.name != "journal":
            faults, refused = fills(case, folder, range(1, 14))
            table.add(f"{case.name}: tmpfs that fills", faults, f"{refused} with exit 7")
            table.add(f"{case.name}: nothing can be written", read_only(case, folder))
        if "kill" in given.only:
            kills(case, folder, table)
        if "disk" in given.only:
            refusals(case, folder, table)


def main() -> int:
    """Make the cases, break them, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--pairs", type=int, default=50)
    given = parser.parse_args()
    if why := can_trace():
        print(why)
        return 1
    table = tiny.Table()
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        attempt_all(given, Path(temporary), table)
    return table.close()


if __name__ == "__main__":
    sys.exit(main())
