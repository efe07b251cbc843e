"""Break every step of a commit, and look at what is left of the index.

    .venv/bin/python scripts/bench/faults.py [--only kill disk full order writers readers]

Works on Linux, in a temporary folder, with strace (its fault injection) and, for small and
read-only file systems, as root. Each call of `update` and `build --overwrite` that opens or changes
something in the index folder is killed once, and refused once and from then on. Prints a table;
ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
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

import interior_photos
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import imgsearch
from imgsearch.index import IndexWriter, read_manifest
from imgsearch.items import items_bytes
from imgsearch.manifest import Manifest, is_data_name
from imgsearch.records import StoredItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAM = str(Path(sys.executable).with_name("imgsearch"))
SYNCS = ("fsync", "fdatasync")
RENAMES = ("rename", "renameat", "renameat2")
REMOVALS = ("unlink", "unlinkat", "rmdir")
CALLS = ("openat", "mkdir", "ftruncate", *SYNCS, *RENAMES, *REMOVALS)
WRITES = ("write", "pwrite64", "writev")
REFUSALS = ("ENOSPC", "EIO")
CANNOT_READ, CANNOT_WRITE = 4, 7
SIDE, DIM = 32, 64
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)$")
_PATH = re.compile(r'"([^"]*)"|\d+<([^>]*)>')


def make_photos(folder: Path, count: int) -> Path:
    """Write real interiors, 256 pixels wide, in three class folders."""
    for i, photo in enumerate(interior_photos.get_all_photos()[:count]):
        target = folder / ("alpha", "beta", "gamma")[i % 3]
        target.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as image:
            image.thumbnail((256, 256))
            image.convert("RGB").save(target / Path(photo).name)
    return folder


def make_model(file: Path) -> Path:
    """Write a network that is as small as one can be: 64 numbers from the mean colours."""
    weights = np.random.default_rng(0).standard_normal((DIM, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "weights"], ["wide"]),
            helper.make_node("Relu", ["wide"], ["bent"]),
            helper.make_node("GlobalAveragePool", ["bent"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["vectors"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", DIM])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(file))
    return file


@dataclass(frozen=True, slots=True)
class Event:
    """A system call on a path of the index, as a trace tells it."""

    process: str
    name: str
    paths: list[str]
    text: str

    @property
    def writes(self) -> bool:
        """Whether it changes something, or opens to."""
        return self.name != "openat" or bool(re.search("O_WRONLY|O_RDWR|O_CREAT", self.text))


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, what it said, and the trace of it."""

    code: int
    err: str
    events: list[Event]

    @property
    def injected(self) -> bool:
        """Whether the fault was met."""
        return self.code < 0 or any("(INJECTED)" in event.text for event in self.events)


def run(words: Sequence[str]) -> Outcome:
    """Run a command untraced."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    return Outcome(done.returncode, done.stderr, [])


def trace(words: Sequence[str], *options: str, names: Sequence[str] = CALLS) -> Outcome:
    """Run a command under strace."""
    strace = shutil.which("strace") or "strace"
    calls = ",".join(names)
    with tempfile.NamedTemporaryFile(mode="r", suffix=".trace") as log:
        # Not with --seccomp-bpf: strace 6.1 then injects nothing.
        start = [strace, "-f", "-qq", "-y", "-o", log.name, "-e", f"trace={calls}"]
        done = run([*start, *options, *words])
        events = []
        for line in log:
            if found := _LINE.match(line):
                process, name, rest = found.groups()
                events.append(Event(process, name, _paths(rest), rest))
    return Outcome(done.code, done.err, events)


def _paths(text: str) -> list[str]:
    return [named or opened for named, opened in _PATH.findall(text)]


def can_trace() -> str | None:
    """Return why nothing can be traced here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    done = run([shutil.which("strace") or "strace", "-f", "-o", os.devnull, "true"])
    return None if done.code == 0 else f"ptrace is not allowed here: {done.err.strip()}"


@dataclass(slots=True)
class Case:
    """A command that replaces a generation, and both generations by the sums of their files."""

    name: str
    template: Path  # the index before
    words: tuple[str, ...]  # with INDEX for the index
    old: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)

    def command(self, index: Path) -> list[str]:
        """Return the command for a copy of the index."""
        return [PROGRAM, *(str(index) if word == "INDEX" else word for word in self.words)]

    def copy(self, index: Path) -> Path:
        """Put the index before at a place."""
        shutil.rmtree(index, ignore_errors=True)
        shutil.copytree(self.template, index)
        return index


def sums(index: Path) -> dict[str, str]:
    """Return the sums of a generation's files, as its manifest states them."""
    return {kind: entry.sha256 for kind, entry in read_manifest(index).files.items()}


def make_cases(folder: Path, *, rows: int, pictures: int) -> list[Case]:
    """Make an index to update and one to build again, and find out what comes of either."""
    model = f"onnx:{make_model(folder / 'tiny.onnx')}"
    cases = []
    for name, count in (("update", rows), ("build", pictures)):
        photos = make_photos(folder / f"{name}-photos", count)
        index = folder / f"{name}-template"
        imgsearch.build_index(photos, index, model=model)
        # One before, so that the next commit has something to remove.
        first = next((photos / "alpha").iterdir())
        first.rename(photos / "beta" / first.name)
        imgsearch.update_index(index)
        # A removal and a new label.
        next((photos / "alpha").iterdir()).unlink()
        second = next((photos / "beta").iterdir())
        second.rename(photos / "gamma" / second.name)
        words = ("update", "INDEX")
        if name == "build":
            words = ("build", str(photos), "INDEX", "--overwrite", "--model", model)
        case = Case(name, index, words)
        after = case.copy(folder / "after")
        done = run(case.command(after))
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
    paths: tuple[str, ...]  # what it is told by, relative to the index folder
    event: Event

    def options(self, index: Path, fault: str) -> list[str]:
        """Return strace's options that bring the fault about."""
        watched = [word for path in self.paths for word in ("-P", str(index / path))]
        return [*watched, "-e", "signal=none", "-e", f"inject={self.name}:{fault}"]


def find_points(case: Case, index: Path, names: Sequence[str]) -> list[Point]:
    """Return every call of a command that opens or changes something in the index folder."""
    case.copy(index)
    done = trace(case.command(index), names=names)
    assert done.code == 0, done.err
    root = str(index)
    events = [
        event
        for event in done.events
        if any(path == root or path.startswith(f"{root}/") for path in event.paths)
    ]
    points: list[Point] = []
    for name in names:
        mine = [event for event in events if event.name == name]
        inside = {p for e in mine for p in e.paths if p == root or p.startswith(f"{root}/")}
        assert len({event.process for event in mine}) <= 1, "strace counts in each thread"
        paths = tuple(sorted(os.path.relpath(path, root) for path in inside))
        points += [Point(name, i, paths, event) for i, event in enumerate(mine, start=1)]
    return points


def _whole(case: Case, index: Path, wanted: Sequence[dict[str, str]]) -> str | None:
    try:
        if problems := imgsearch.verify(index):
            return problems[0]
    except imgsearch.ImgsearchError as error:
        return str(error)
    if sums(index) not in wanted:
        return f"it is not the generation that {case.name} should leave"
    return None


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
    done = run(case.command(index))
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
    fault = point.options(index, f"signal=KILL:when={point.number}")
    done = trace(case.command(index), *fault, names=[point.name])
    if done.code >= 0:
        return f"the point was not reached (exit {done.code})"
    return _whole(case, index, [case.old, case.new]) or _next_run(case, index)


def refuse_at(
    case: Case, point: Point, index: Path, error: str, *, onward: bool = False
) -> str | None:
    """Let a call of a command fail, or all from there on; return what is wrong afterwards."""
    case.copy(index)
    fault = point.options(index, f"error={error}:when={point.number}{'+' * onward}")
    done = trace(case.command(index), *fault, names=[point.name])
    if not done.injected:
        return f"the point was not reached (exit {done.code})"
    codes = (CANNOT_WRITE,) if point.event.writes else (CANNOT_READ, CANNOT_WRITE)
    return _said(case, done, index, codes) or _next_run(case, index)


def _said(
    case: Case, done: Outcome, index: Path, codes: Sequence[int] = (CANNOT_WRITE,)
) -> str | None:
    """Return what is wrong with how a command took a refusal."""
    lines = done.err.strip().splitlines()
    if done.code == 0:
        return _whole(case, index, [case.new])
    if done.code not in codes or len(lines) != 1 or not lines[0].startswith("imgsearch: "):
        return f"exit {done.code}: {done.err.strip()[-300:]!r}"
    return _whole(case, index, [case.old, case.new])


@dataclass(slots=True)
class Table:
    """What was looked at, and what was wrong."""

    rows: list[tuple[str, int, int, str]] = field(default_factory=list)
    failed: int = 0

    def add(self, what: str, faults: Sequence[str | None], note: str = "") -> None:
        """Print a row, and what failed under it."""
        wrong = [fault for fault in faults if fault is not None]
        self.rows.append((what, len(faults), len(wrong), note))
        self.failed += len(wrong)
        print(f"{what:<44} {len(faults):>6} {len(wrong):>8}  {note}", flush=True)
        for fault in wrong[:20]:
            print(f"    {fault}")


def each(
    points: Sequence[Point], folder: Path, attempt: Callable[[Point, Path], str | None]
) -> list[str | None]:
    """Try points, two at a time; what is wrong is told with the call it belongs to."""
    places = threading.local()
    numbers = iter(range(1000))

    def one(point: Point) -> str | None:
        if not hasattr(places, "index"):
            places.index = folder / f"try-{next(numbers)}" / "index"
        fault = attempt(point, places.index)
        return fault and f"{point.name} {point.number} ({point.event.text.strip()[:90]}): {fault}"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, points))


def kills(case: Case, folder: Path, table: Table) -> None:
    """Kill at every point."""
    points = find_points(case, folder / "index", CALLS)
    for name in CALLS:
        chosen = [point for point in points if point.name == name]
        if chosen:
            faults = each(chosen, folder, lambda point, index: kill_at(case, point, index))
            table.add(f"{case.name}: killed at {name}", faults)


def refusals(case: Case, folder: Path, table: Table) -> None:
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
    done = run([shutil.which("mount") or "mount", *options, str(place)])
    try:
        yield None if done.code == 0 else f"mount is not allowed here: {done.err.strip()}"
    finally:
        if done.code == 0:
            run([shutil.which("umount") or "umount", "-l", str(place)])


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
            done = run(case.command(index))
            refused += done.code == CANNOT_WRITE
            faults.append(_said(case, done, index))
    return faults, refused


def read_only(cases: Sequence[Case], folder: Path) -> list[str | None]:
    """Search and write where nothing can be written: a read-only mount, an immutable folder."""
    faults: list[str | None] = []
    for case in cases:
        index = case.copy(folder / "held" / "index")
        with (
            mounted(folder / "bound", "--bind", str(index.parent)) as why,
            mounted(folder / "bound", "-o", "remount,ro,bind") as why_not,
        ):
            if why or why_not:
                return [why or why_not]
            faults += _unwritable(case, folder / "bound" / "index")
        chattr = shutil.which("chattr")
        if chattr and run([chattr, "+i", str(index), str(index / ".lock")]).code == 0:
            faults += _unwritable(case, index)
            run([chattr, "-i", str(index), str(index / ".lock")])
    return faults


def _unwritable(case: Case, index: Path) -> list[str | None]:
    found = run([PROGRAM, "search", str(index), "row:1", "--json"])
    done = run(case.command(index))
    refused = None if done.code == CANNOT_WRITE else f"{case.name} ends with {done.code}"
    return [
        None if found.code == 0 else f"search ends with {found.code}: {found.err}",
        refused or _said(case, done, index) or _whole(case, index, [case.old]),
    ]


def order(case: Case, index: Path) -> list[str | None]:
    """Trace one commit; return for each rule of the order whether it was broken."""
    case.copy(index)
    done = trace(case.command(index), names=(*CALLS, *WRITES))
    assert done.code == 0, done.err
    events = [event for event in done.events if "= -1 " not in event.text]
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
    return faults


def writers(update: Case, build: Case, folder: Path, pairs: int) -> tuple[list[str | None], str]:
    """Start update and build at once on one index; return faults and how they ended."""
    chance = random.Random(4)  # noqa: S311 - no secret
    faults: list[str | None] = []
    ends: dict[str, int] = {}
    for _ in range(pairs):
        index = build.copy(folder / "shared")
        words = [
            build.command(index),
            [PROGRAM, *(w.replace("INDEX", str(index)) for w in update.words)],
        ]
        # An update starts sooner: wait for up to the time that the other needs to take the lock.
        waits = (0.0, chance.uniform(0, 0.6))
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(_later, word, wait) for word, wait in zip(words, waits, strict=True)
            ]
        done = [job.result() for job in jobs]
        codes = [one.code for one in done]
        end = "build {}, update {}".format(*codes)
        ends[end] = ends.get(end, 0) + 1
        fault = _whole(build, index, [build.new])
        said = [one.err.strip() for one in done if one.code]
        if fault is None and (0 not in codes or not set(codes) <= {0, CANNOT_WRITE}):
            fault = f"{end}: {said}"
        faults.append(fault or next((text for text in said if "\n" in text), None))
    return faults, "; ".join(f"{end}: {n}" for end, n in sorted(ends.items()))


def _later(words: Sequence[str], seconds: float) -> Outcome:
    time.sleep(seconds)
    return run(words)


def write_generation(folder: Path, number: int, rows: int = 20) -> float:
    """Commit a generation whose labels tell its number; return the best score of its row 0."""
    vectors = np.random.default_rng(number).standard_normal((rows, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [
        StoredItem(
            path=f"{number}/{i}.jpg",
            label=f"g{number}",
            sha256=hashlib.sha256(f"{number}/{i}".encode()).hexdigest(),
            width=1,
            height=1,
            size=1,
            mtime_ns=0,
        )
        for i in range(rows)
    ]

    def make(files: dict[str, imgsearch.manifest.FileEntry]) -> Manifest:
        return Manifest(
            created_at="2026-01-01T00:00:00+00:00",
            program="faults",
            faiss="1",
            engine="none",
            model="external",
            weights="none",
            weights_sha256="0" * 64,
            weights_source=None,
            preprocessing=None,
            precision="fp32",
            dim=DIM,
            count=rows,
            classes={f"g{number}": rows},
            image_root=str(folder),
            labels_file=None,
            skipped=0,
            files=files,
        )

    with IndexWriter(folder) as writer:
        writer.start(DIM)
        writer.append(vectors)
        writer.commit(items_bytes(items), None, make)
    wide = vectors.astype(np.float64)
    return float((wide[1:] @ wide[0]).astype(np.float32).max())


def readers(folder: Path, *, generations: int, threads: int) -> tuple[list[str | None], str]:
    """Open and ask while generations are committed; return faults and what they saw."""
    best = {0: write_generation(folder, 0)}
    stop = threading.Event()
    faults: list[str | None] = []
    most = [0]

    def ask() -> None:
        while not stop.is_set():
            most.append(len(list(folder.glob("vectors-*.faiss"))))
            try:
                found = imgsearch.SearchEngine.open(folder).by_row(0, 5)
                numbers = {match.path.split("/")[0] for match in found.matches}
                labels = {match.label for match in found.matches}
                fault = None
                if len(numbers) != 1 or labels != {f"g{number}" for number in numbers}:
                    fault = f"an answer from {sorted(numbers)} with {sorted(map(str, labels))}"
                else:
                    answers.append((int(numbers.pop()), found.matches[0].score))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                fault = f"{type(error).__name__}: {error}"
            faults.append(fault)

    answers: list[tuple[int, float]] = []
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only the number
    pool = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in pool:
        thread.start()
    for number in range(1, generations + 1):
        best[number] = write_generation(folder, number)
        time.sleep(0.05)
    stop.set()
    for thread in pool:
        thread.join()
    wrong = [f"generation {n} answered {s}" for n, s in answers if best[n] != s]
    after = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only the number
    faults += wrong
    faults.append(None if max(most) <= 3 else f"{max(most)} generations lay on disk")  # noqa: PLR2004
    faults.append(None if after <= before else f"descriptors: {before} before, {after} after")
    seen = len({n for n, _ in answers})
    note = f"{len(answers)} answers, {seen} generations; {max(most)} on disk at most; "
    note += f"descriptors {before} before, {after} after"
    return faults, note


CASES = ("update", "build")
SECTIONS = ("kill", "disk", "full", "order", "writers", "readers")


def attempt_all(
    cases: Sequence[Case], given: argparse.Namespace, folder: Path, table: Table
) -> None:
    """Break what was asked for."""
    chosen = [case for case in cases if case.name in given.case]
    if "readers" in given.only:
        faults, note = readers(folder / "read", generations=50, threads=8)
        table.add("readers through 50 generations", faults, note)
    if "writers" in given.only:
        faults, note = writers(*cases, folder, given.pairs)
        table.add("two writers", faults, note)
    if "full" in given.only:
        table.add("read-only mount, immutable folder", read_only(chosen, folder))
    for case in chosen:
        if "order" in given.only:
            table.add(f"{case.name}: order", order(case, folder / "index"))
        if "full" in given.only:
            faults, refused = fills(case, folder, range(1, 14))
            table.add(f"{case.name}: tmpfs that fills", faults, f"{refused} with exit 7")
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
    table = Table()
    print(f"{'what':<44} {'points':>6} {'failures':>8}")
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        folder = Path(temporary)
        attempt_all(make_cases(folder, rows=30, pictures=12), given, folder, table)
    print(f"{sum(row[1] for row in table.rows):,} in all, {table.failed} failures")
    return int(table.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
