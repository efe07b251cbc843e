"""Measure updates: what one costs, whether it is a build, what an interruption costs, and import.

    .venv/bin/python scripts/bench/updates.py [--only cheap series resume import] [--pictures 10000]
        [--model efficientnet-lite2]

cheap   an index of 10,000 small pictures (crops of real interiors, 64 to 96 pixels), 10 added
series  random changes, each followed by an update and compared with a fresh build
resume  builds and updates that are killed, terminated and interrupted, and every picture that the
        network has seen, told by the network
import  the most memory that an import of 200,000 x 512 numbers takes, beside the file's size

The network is as small as one can be (an ONNX file, 1,280 numbers from the mean colours), so that
what is measured is everything else; `cheap` takes another by --model. Works on Linux. Ends with 1
if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import interior_photos
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps
from safetensors.numpy import save_file

import imgsearch
from imgsearch.index import open_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from imgsearch.records import StoredItem, UpdateSummary

PROGRAM = str(Path(sys.executable).with_name("imgsearch"))
SIDE, DIM = 32, 1280
ADDED = 10
MOST_SECONDS = 3.0
RUNNING = imgsearch.Running(workers=1)
# As the command is, but every picture that goes into the network is written down.
COUNTING = """
import sys
from imgsearch import cli, embedding
log = open(sys.argv.pop(1), "ab", buffering=0)
embed_batch = embedding._embed_batch
def counted(batch, engine):
    log.write(b"." * sum(not isinstance(one, Exception) for one in batch))
    return embed_batch(batch, engine)
embedding._embed_batch = counted
cli.main()
"""
LOADING = "import sys; from imgsearch.backbones import load_model; load_model(sys.argv[1])"


# Material


def make_model(file: Path) -> str:
    """Write the smallest network; return its name."""
    weights = np.random.default_rng(0).standard_normal((DIM, 3, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Conv", ["mean", "weights"], ["wide"]),
            helper.make_node("Flatten", ["wide"], ["vectors"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["n", DIM])],
        [numpy_helper.from_array(weights, "weights")],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), str(file))
    return f"onnx:{file}"


class Crops:
    """Small pictures without end, each another part of a real interior."""

    def __init__(self, seed: int) -> None:
        """The same seed gives the same pictures."""
        self._rng = random.Random(seed)  # noqa: S311 - a series that can be repeated
        self._photos = []
        for name in interior_photos.get_all_photos():
            with Image.open(name) as photo:
                photo.draft("RGB", (800, 800))
                self._photos.append(ImageOps.exif_transpose(photo).convert("RGB"))

    def save(self, file: Path) -> None:
        """Write one more."""
        photo = self._rng.choice(self._photos)
        side = self._rng.randint(64, 96)
        part = self._rng.randint(side, min(photo.size))
        left = self._rng.randint(0, photo.width - part)
        top = self._rng.randint(0, photo.height - part)
        file.parent.mkdir(parents=True, exist_ok=True)
        box = (left, top, left + part, top + part)
        photo.resize((side, side), box=box, reducing_gap=2.0).save(file, "JPEG")


@dataclass(slots=True)
class Table:
    """Prints what was looked at and counts what was wrong."""

    failed: int = 0

    def add(self, what: str, value: str, fault: str | None = None) -> None:
        """Print a line."""
        self.failed += fault is not None
        print(f"{what:<52} {value}" + (f"  FAILED: {fault}" if fault else ""), flush=True)


# What an update costs


@dataclass(frozen=True, slots=True)
class Cost:
    """A process: its seconds by the clock and of the processor, exit code, and what it printed."""

    wall: float
    cpu: float
    code: int = 0
    out: str = ""
    err: str = ""


def run(words: Sequence[str]) -> Cost:
    """Run a command; its processor time has that of its children in it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, done.returncode, done.stdout, done.stderr)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the medians."""
    wall = statistics.median(cost.wall for cost in costs)
    return Cost(wall, statistics.median(cost.cpu for cost in costs))


def cheap(folder: Path, table: Table, pictures: int, times: int, model: str | None) -> None:
    """Add 10 pictures to an index of many."""
    crops = Crops(1)
    photos = folder / "photos"
    for i in range(pictures):
        crops.save(photos / f"class-{i % 10}" / f"{i:05}.jpg")
    time.sleep(2.1)  # what was written just now would have to be read again
    model = model or make_model(folder / "tiny.onnx")
    index = folder / "index"
    built = run([PROGRAM, "build", str(photos), str(index), "--model", model, "--json"])
    assert built.code == 0, built.err
    table.add(f"build of {json.loads(built.out)['count']:,}", shown(built))
    update = [PROGRAM, "update", str(index), "--json"]
    costs: dict[str, list[Cost]] = {}

    def measure(name: str, words: Sequence[str]) -> dict[str, Any]:
        cost = run(words)
        assert cost.code == 0, cost.err
        costs.setdefault(name, []).append(cost)
        return json.loads(cost.out) if "--json" in words else {}

    faults = []
    for turn in range(times):
        measure("the program alone (--version)", [PROGRAM, "--version"])
        load = [sys.executable, "-c", LOADING]
        measure("Python that loads this model", [*load, model])
        measure("Python that loads efficientnet-lite2", [*load, "efficientnet-lite2"])
        unchanged = measure("update, nothing changed", update)
        if unchanged["written"] or unchanged["embedded"]:
            faults.append(f"where nothing changed: {unchanged}")
        for i in range(ADDED):
            crops.save(photos / f"class-{i}" / f"added-{turn}-{i}.jpg")
        done = measure(f"update, {ADDED} added", update)
        if (done["added"], done["embedded"]) != (ADDED, ADDED):
            faults.append(f"added {done['added']}, embedded {done['embedded']}")
        time.sleep(2.1)
    middle = {name: median(found) for name, found in costs.items()}
    for name, cost in middle.items():
        table.add(f"{name}, median of {times}", shown(cost))
    alone, loading, _, _, added = middle.values()
    for name, start in (("the program", alone), ("program and model", loading)):
        beyond = Cost(added.wall - start.wall, added.cpu - start.cpu)
        fault = None if beyond.wall <= MOST_SECONDS else f"more than {MOST_SECONDS:g} s"
        table.add(f"{ADDED} added, beyond the start of {name}", shown(beyond), fault)
    table.add(f"{ADDED} embeddings each time", str(not faults), "; ".join(faults) or None)


def shown(cost: Cost) -> str:
    """Return both times as text."""
    return f"{cost.wall:7.2f} s by the clock, {cost.cpu:7.2f} s of processor"


# Whether an update is a build


@dataclass(slots=True)
class Album:
    """A folder that is changed at random, and what was done to it."""

    folder: Path
    crops: Crops
    rng: random.Random
    table: Path | None
    labels: dict[str, tuple[str, str]] = field(default_factory=dict)
    spoilt: dict[Path, bytes] = field(default_factory=dict)
    number: int = 0

    def there(self) -> list[Path]:
        """Return all pictures that are whole."""
        found = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [path for path in found if path not in self.spoilt]

    def new_place(self) -> Path:
        """Return a path that is free, in any class."""
        self.number += 1
        label = self.rng.choice(["alpha", "beta", "gamma/deep", "delta\n4", "."])
        return self.folder / label / f"{self.number:04}{self.rng.choice(['', ' ü', '🛋'])}.jpg"

    def any(self) -> Path:
        """Return a picture that is whole."""
        return self.rng.choice(self.there())

    def add(self) -> None:
        """A new picture, or one more copy of one that is there."""
        place = self.new_place()
        if self.rng.random() < 0.3:  # noqa: PLR2004 - some
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.any(), place)
        else:
            self.crops.save(place)

    def change(self) -> None:
        """Another content in the same file, or in a new file of the same name."""
        place = self.any()
        if self.rng.random() < 0.5:  # noqa: PLR2004 - half
            place.unlink()
        self.crops.save(place)

    def change_slyly(self) -> None:
        """Another content of the same size, with the old time put back."""
        place = self.any()
        before = place.stat()
        raw = bytearray(place.read_bytes())
        # In the middle of the entropy-coded part: another picture, or another end of it.
        at = len(raw) * 3 // 4
        raw[at] = (raw[at] + 1) % 255
        place.write_bytes(raw)
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))

    def touch(self) -> None:
        """New times, the same content."""
        os.utime(self.any())

    def move(self) -> None:
        """Another name, perhaps another class."""
        place = self.any()
        target = self.new_place()
        target.parent.mkdir(parents=True, exist_ok=True)
        place.rename(target)

    def swap(self) -> None:
        """Two files change names."""
        one, two = self.any(), self.any()
        if one != two:
            between = one.with_name(".between")
            one.rename(between)
            two.rename(one)
            between.rename(two)

    def remove(self) -> None:
        """One less."""
        if len(self.there()) > 8:  # noqa: PLR2004 - some must be left
            self.any().unlink()

    def spoil(self) -> None:
        """A picture becomes a file that is none."""
        if len(self.there()) > 8:  # noqa: PLR2004 - some must be left
            place = self.any()
            self.spoilt[place] = place.read_bytes()
            place.write_bytes(place.read_bytes()[:40])

    def mend(self) -> None:
        """A file that was spoilt is a picture again."""
        if self.spoilt:
            place = self.rng.choice(sorted(self.spoilt))
            place.write_bytes(self.spoilt.pop(place))

    def relabel(self) -> None:
        """Other labels and groups in the label file, or a folder of another name."""
        if self.table is not None:
            for path in self.rng.sample(sorted(self.labels), min(3, len(self.labels))):
                self.labels[path] = (self.rng.choice(["x", "y", "=z", ""]), self.rng.choice("12"))
            return
        for name in ("alpha", "beta"):
            if (self.folder / name).is_dir() and not (self.folder / f"{name}-2").exists():
                inside = self.folder / name
                if any(inside in path.parents for path in self.spoilt):
                    return
                inside.rename(self.folder / f"{name}-2")
                return

    def link(self) -> None:
        """A link to another picture of the folder."""
        place = self.new_place()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(self.any().resolve(), place.parent))

    def step(self) -> list[str]:
        """Change something; return what."""
        changes = [self.add, self.change, self.change_slyly, self.touch, self.move, self.swap]
        changes += [self.remove, self.spoil, self.mend, self.relabel, self.link]
        done = self.rng.choices(changes, k=self.rng.randint(1, 4))
        for change in done:
            change()
        self.write_table()
        return [change.__name__ for change in done]

    def write_table(self) -> None:
        """Write the label file: most pictures, and now and then one that is gone."""
        if self.table is None:
            return
        there = {path.relative_to(self.folder).as_posix() for path in self.there()}
        there |= {path.relative_to(self.folder).as_posix() for path in self.spoilt}
        self.labels = {
            path: self.labels.get(path, ("x", "1"))
            for path in sorted(there | set(self.labels))
            if path in there or self.rng.random() < 0.5  # noqa: PLR2004 - half
        }
        import csv

        with self.table.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "group"])
            writer.writerows([path, *pair] for path, pair in self.labels.items())


def facts(item: StoredItem) -> tuple[object, ...]:
    """Return what two indexes of the same folder must agree in: all but the time."""
    return (*(getattr(item, name) for name in ("path", "label", "group", "sha256")), item.size)


def compare(one: Path, two: Path, rng: random.Random) -> Iterator[str]:
    """Yield how two indexes differ: rows, vectors, skips, answers."""
    first, second = open_index(one, thorough=True), open_index(two, thorough=True)
    rows = [list(map(facts, index.items.all())) for index in (first, second)]
    if rows[0] != rows[1]:
        yield f"rows: {set(rows[0]) ^ set(rows[1])}"
        return
    if first.vectors.rows.tobytes() != second.vectors.rows.tobytes():
        yield "vectors"
    if first.skipped() != second.skipped():
        yield f"skips: {set(first.skipped()) ^ set(second.skipped())}"
    if first.manifest.classes != second.manifest.classes:
        yield "classes"
    with imgsearch.SearchEngine.open(one) as here, imgsearch.SearchEngine.open(two) as there:
        for row in rng.sample(range(first.items.count), min(5, first.items.count)):
            if here.by_row(row, 5).to_dict() != there.by_row(row, 5).to_dict():
                yield f"answers of {first.items.path(row)!r}"


def check_summary(
    before: list[StoredItem], after: list[StoredItem], done: UpdateSummary
) -> Iterator[str]:
    """Yield what a summary says and the rows before and after do not."""
    old, new = ({item.path: item for item in items} for items in (before, after))
    both = old.keys() & new.keys()
    same = [path for path in both if old[path].sha256 == new[path].sha256]
    sums = {item.sha256 for item in before}
    labels = [
        path
        for path in same
        if (old[path].label, old[path].group) != (new[path].label, new[path].group)
    ]
    expected = {
        "count": (len(after), done.count),
        "added and moved": (len(new.keys() - old.keys()), done.added + done.moved),
        "removed and moved": (len(old.keys() - new.keys()), done.removed + done.moved),
        "changed": (len(both) - len(same), done.changed),
        "relabelled": (len(labels), done.relabelled),
        "embedded": (sum(item.sha256 not in sums for item in after), done.embedded),
    }
    for name, (due, told) in expected.items():
        if due != told:
            yield f"{name}: {told} told, {due} due"


def series(folder: Path, table: Table, *, seeds: int, steps: int) -> None:
    """Change a folder at random, update, and compare with a fresh build."""
    model = make_model(folder / "tiny.onnx")
    crops = Crops(2)
    for seed in range(seeds):
        place = folder / f"series-{seed}"
        rng = random.Random(seed)  # noqa: S311 - a series that can be repeated
        labels = place / "labels.csv" if seed % 2 else None
        album = Album(place / "photos", crops, rng, labels)
        for _ in range(24):
            crops.save(album.new_place())
        album.write_table()
        index, fresh = place / "index", place / "fresh"
        options = {"labels_file": labels, "model": model, "running": RUNNING}
        imgsearch.build_index(album.folder, index, **options)
        faults: list[str] = []
        kinds: dict[str, int] = {}
        written = 0
        for step in range(steps):
            before = open_index(index).items.all()
            names = album.step()
            for name in names:
                kinds[name] = kinds.get(name, 0) + 1
            foreseen = imgsearch.update_index(index, dry_run=True, running=RUNNING)
            done = imgsearch.update_index(index, running=RUNNING)
            written += done.written
            wrong = list(check_summary(before, open_index(index).items.all(), done))
            if foreseen.written:
                wrong.append("a dry run wrote")
            if not (set(done.skipped) - set(foreseen.skipped)) and (
                (foreseen.removed, foreseen.moved, foreseen.relabelled, foreseen.count)
                != (done.removed, done.moved, done.relabelled, done.count)
            ):
                wrong.append(f"a dry run told {foreseen}, then came {done}")
            state = contents(index)
            again = imgsearch.update_index(index, running=RUNNING)
            if again.written or again.embedded or contents(index) != state:
                wrong.append("once more, where nothing had changed, it wrote")
            imgsearch.build_index(album.folder, fresh, overwrite=True, **options)
            wrong.extend(compare(index, fresh, rng))
            faults.extend(f"step {step} ({', '.join(names)}): {fault}" for fault in wrong)
        how = "label file" if labels else "folders"
        note = (
            f"{steps} steps, {sum(kinds.values())} changes of {len(kinds)} kinds, {written} wrote"
        )
        table.add(f"series {seed} ({how})", note, "\n    ".join(faults) or None)


def contents(index: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every file of an index."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in index.iterdir()}


# What an interruption costs


def resume(folder: Path, table: Table, *, times: int, pictures: int) -> None:
    """Interrupt builds and updates, run them again, and count what the network has seen."""
    model = make_model(folder / "tiny.onnx")
    crops = Crops(3)
    photos = folder / "many"
    for i in range(pictures):
        crops.save(photos / f"class-{i % 3}" / f"{i:05}.jpg")
    log = folder / "log"
    start = [sys.executable, "-c", COUNTING, str(log)]
    whole = folder / "whole"
    imgsearch.build_index(photos, whole, model=model, running=RUNNING)
    first = folder / "first"
    few = folder / "few"
    shutil.copytree(photos / "class-0", few / "class-0")
    imgsearch.build_index(few, first, model=model, running=RUNNING)
    build = ["build", str(photos), "INDEX", "--model", model]
    update = ["update", "INDEX", str(photos)]
    ends = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
    for name, words, known in (("build", build, 0), ("update", update, pictures // 3)):
        due = pictures - known
        for number, code in ends.items():
            faults: list[str] = []
            seen = interruptions = 0
            for turn in range(times):
                index = folder / f"{name}-{number}-{turn}"
                if known:
                    shutil.copytree(first, index)
                log.write_bytes(b"")
                command = [*start, *(str(index) if word == "INDEX" else word for word in words)]
                codes = [interrupt(command, log, int(due * part), number) for part in (0.25, 0.6)]
                codes.append(run(command).code)
                interruptions += codes.count(code)
                if codes != [code, code, 0]:
                    faults.append(f"it ended with {codes}")
                faults.extend(whole_faults(index, whole))
                seen = max(seen, log.stat().st_size - due)
            # What each of two interruptions can cost: two batches are with the network, one waits.
            most = 2 * 3 * RUNNING.batch_size
            if seen > most:
                faults.append(f"more than {most}")
            note = f"{interruptions} interruptions, {seen} embedded twice at most"
            table.add(
                f"{name}, {number.name}, {times} times twice", note, "; ".join(faults) or None
            )


def whole_faults(index: Path, whole: Path) -> Iterator[str]:
    """Yield how an index differs from one that was made without interruption."""
    yield from compare(index, whole, random.Random(0))  # noqa: S311 - a sample
    if (index / ".work").exists():
        yield "a work area was left"


def interrupt(command: Sequence[str], log: Path, goal: int, number: signal.Signals) -> int:
    """Run a command until the network has seen `goal` pictures, then send a signal."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603 - ours
    while child.poll() is None:
        if log.stat().st_size >= goal:
            with contextlib.suppress(ProcessLookupError):
                child.send_signal(number)
            break
        time.sleep(0.002)
    return child.wait()


# What an import takes


def memory_of(words: Sequence[str]) -> tuple[int, int]:
    """Run a command; return the most bytes that it held in all, and of its own (not of files)."""
    # Not wait4(): what it tells begins with what this process held before the exec.
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
    most = {"VmHWM": 0, "RssAnon": 0}
    while child.poll() is None:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{child.pid}/status").read_text()
            for line in text.splitlines():
                name, _, value = line.partition(":")
                if name in most:
                    most[name] = max(most[name], int(value.split()[0]) * 1024)
        time.sleep(0.005)
    assert child.returncode == 0, words
    return most["VmHWM"], most["RssAnon"]


def importing(folder: Path, table: Table, *, rows: int, dim: int) -> None:
    """Import a large file, and look at the memory."""
    vectors = np.random.default_rng(0).standard_normal((rows, dim), np.float32)
    np.save(folder / "v.npy", vectors)
    save_file({"vectors": vectors}, folder / "v.safetensors")
    np.save(folder / "small.npy", vectors[:1000])
    size = vectors.nbytes
    del vectors
    for name, count in (("items", rows), ("small", 1000)):
        lines = (f"class-{i % 10}/{i:07}.jpg,class-{i % 10}" for i in range(count))
        (folder / f"{name}.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    table.add("the file", f"{size / 2**20:7.0f} MiB")
    given: list[tuple[str, str]] = [("small.npy", "small"), ("v.npy", "items")]
    given.append(("v.safetensors", "items"))
    least = 0
    for name, items in given:
        index = folder / f"index-{name}"
        words = [PROGRAM, "import", str(folder / name), str(folder / f"{items}.csv"), str(index)]
        most, own = memory_of(words)
        note = f"{most / 2**20:7.0f} MiB at most, {own / 2**20:.0f} of them its own"
        # All of it once would be the file's size beyond what the small one takes.
        least = min(most, least or most)
        fault = None if most - least < size else "it holds the whole file"
        table.add(f"import of {name}", note, fault)
        shutil.rmtree(index)


SECTIONS = ("cheap", "series", "resume", "import")


def main() -> int:
    """Measure what was asked for, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--model", help="another one for `cheap`, such as efficientnet-lite2")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rows", type=int, default=200_000)
    given = parser.parse_args()
    # Behind a shell's & it would be ignored, by the commands that are interrupted here, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    table = Table()
    work: dict[str, Callable[[Path], None]] = {
        "cheap": lambda at: cheap(at, table, given.pictures, given.times, given.model),
        "series": lambda at: series(at, table, seeds=given.seeds, steps=given.steps),
        "resume": lambda at: resume(at, table, times=given.times, pictures=300),
        "import": lambda at: importing(at, table, rows=given.rows, dim=512),
    }
    for name in given.only:
        with tempfile.TemporaryDirectory(prefix="updates-") as temporary:
            work[name](Path(temporary))
    print(f"{table.failed} failures; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return int(table.failed > 0)


if __name__ == "__main__":
    sys.exit(main())
