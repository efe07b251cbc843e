"""Measure a whole build beside the network alone and beside the plain loop.

    .venv/bin/python scripts/bench/build.py PHOTOS [--model resnet50] [--count 1000] [--rounds 1]
        [--megapixels 2] [--engine auto] [--precision fp32 int8]

The photos of a folder are resized to so many megapixels and written as JPEGs, again and again under
other names, until there are --count. Then, in one process and in turns:

- the network alone, of the engine and precision of the build, on arrays that lie in memory, called
  as the build calls it (several batches at once where the engine gains from that);
- the whole build, from the folder to the committed index, as `imgsearch build` does it (the time to
  load the network is left out of all three; that to quantize it is printed of its own);
- what the study did: open, resize, transforms, torch with a batch of one, append.

A figure is the median of the rounds, a ratio that of the ratios of each round. `resnet50` gets
seeded numbers where no --weights are given: its speed does not depend on them. Of its int8 form
nothing is asked then: seeded numbers give all pictures nearly the same vector, and say nothing
about quality, which scripts/bench/embed.py measures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from embed import seeded_resnet50
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table

from imgsearch import build_index, quantizing
from imgsearch.backbones import load_model, reload_model
from imgsearch.decoding import DecoderPool, Source
from imgsearch.folders import find_images
from imgsearch.index import open_index
from imgsearch.records import Running

if TYPE_CHECKING:
    from imgsearch.engines import LoadedModel
    from imgsearch.index import Index

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def make_photos(source: Path, dest: Path, count: int, megapixels: float) -> list[str]:
    """Write `count` JPEGs of this size, quality 90, in the class folders of `source`."""
    items = find_images(source)[0]
    made: list[str] = []
    for i in range(count):
        item = items[i % len(items)]
        target = dest / (item.label or "none") / f"{i:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        if i < len(items):
            with Image.open(source / item.path) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
            scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
            size = (round(image.width * scale), round(image.height * scale))
            image.resize(size, Image.Resampling.BICUBIC).save(target, quality=90)
        else:
            target.write_bytes(Path(made[i % len(items)]).read_bytes())
        made.append(str(target))
    return made


def network_alone(loaded: LoadedModel, arrays: np.ndarray, count: int, batch: int) -> float:
    """Return the seconds that the network takes for `count` pictures that lie in memory."""

    def some(at: int) -> None:
        rows = [i % len(arrays) for i in range(at, min(count, at + batch))]
        loaded.engine.embed(arrays[rows])

    with ThreadPoolExecutor(loaded.engine.calls) as threads:
        started = time.perf_counter()
        for _ in threads.map(some, range(0, count, batch)):
            pass
        return time.perf_counter() - started


def plain_loop(loaded: LoadedModel, files: list[str]) -> float:
    """Return the seconds of the study's loop."""
    prepare = loaded.preprocess
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (prepare.mean, prepare.std))
    found = []
    started = time.perf_counter()
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        scale = prepare.resize / min(image.size)
        size = [max(prepare.resize, int(side * scale)) for side in image.size]
        image = image.resize((size[0], size[1]), FILTERS[prepare.interpolation])
        left, top = (round((side - prepare.crop) / 2) for side in image.size)
        image = image.crop((left, top, left + prepare.crop, top + prepare.crop))
        batch = torch.tensor(np.asarray(image)).permute(2, 0, 1) / 255
        with torch.inference_mode():
            found.append(loaded.network(((batch - mean) / std)[None]).flatten().numpy())
    matrix = np.stack(found)
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return time.perf_counter() - started


def whole_build(
    given: argparse.Namespace, photos: Path, index: Path, weights: str | None, precision: str
) -> tuple[float, float]:
    """Return the seconds of a build without and with the time to load or quantize its network."""
    running = Running(engine=given.engine)
    begun = time.perf_counter()
    summary = build_index(
        photos,
        index,
        model=given.model,
        weights=weights,
        precision=precision,
        overwrite=True,
        running=running,
    )
    everything = time.perf_counter() - begun
    assert summary.count == given.count, summary.skipped
    return summary.seconds, everything


def lowest_cosine(
    opened: Index, loop: LoadedModel, arrays: np.ndarray, files: list[str], photos: Path
) -> float:
    """Return the lowest cosine between stored rows and what torch makes of the same pictures."""
    names = sorted(Path(file).relative_to(photos).as_posix() for file in files)
    row_of = {name: row for row, name in enumerate(names)}
    found = [row_of[Path(file).relative_to(photos).as_posix()] for file in files[: len(arrays)]]
    rows = opened.vectors.rows[found].astype(np.float64)
    wanted = loop.engine.embed(arrays).astype(np.float64)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    return float(np.einsum("ij,ij->i", rows, wanted).min())


def measure(given: argparse.Namespace, folder: Path) -> Table:
    """Make the photos, take the figures in turns, and return the table of their medians."""
    photos = folder / "photos"
    files = make_photos(given.photos, photos, given.count, given.megapixels)
    weights = given.weights
    if weights is None and given.model == "resnet50":
        weights = str(folder / "seeded.pth")
        seeded_resnet50(files, Path(weights))
        quantizing.LEAST_MEAN_COSINE = quantizing.LEAST_AGREEMENT = 0.0
    loop = load_model(given.model, weights, "cpu", "torch")
    loop.network.to(memory_format=torch.contiguous_format)
    with DecoderPool(2) as pool:
        shown = [Source(file, file) for file in files[:64]]
        arrays = np.stack([pool.input(source, loop.preprocess).pixels for source in shown])
    indexes = {precision: folder / precision for precision in given.precision}
    networks = {}
    for precision, index in indexes.items():
        whole_build(given, photos, index, weights, precision)  # converts, quantizes, warms up
        running = Running(engine=given.engine)
        networks[precision] = reload_model(open_index(index), None, None, running)
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(given.rounds):
        taken["loop", ""].append(plain_loop(loop, files))
        for precision, network in networks.items():
            alone = network_alone(network, arrays, given.count, Running().batch_size)
            seconds, everything = whole_build(given, photos, indexes[precision], weights, precision)
            taken["alone", precision].append(alone)
            taken["build", precision].append(seconds)
            taken["rest", precision].append(everything - seconds)
            taken["of alone", precision].append(alone / seconds)
            taken["of loop", precision].append(taken["loop", ""][-1] / seconds)
    middle = {name: statistics.median(values) for name, values in taken.items()}
    table = Table(
        "precision", "engine", "alone /s", "build /s", "loop /s", "build/alone", "build/loop",
        "prepare s", "cosine",
    )  # fmt: skip
    for precision, index in indexes.items():
        opened = open_index(index)
        table.add_row(
            precision,
            opened.manifest.engine,
            f"{given.count / middle['alone', precision]:.1f}",
            f"{given.count / middle['build', precision]:.1f}",
            f"{given.count / middle['loop', '']:.1f}",
            f"{middle['of alone', precision]:.3f}",
            f"{middle['of loop', precision]:.2f}",
            f"{middle['rest', precision]:.1f}",
            f"{lowest_cosine(opened, loop, arrays, files, photos):.5f}",
        )
    return table


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--megapixels", type=float, default=2.0)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--precision", nargs="+", default=["fp32", "int8"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="build-") as folder:
        table = measure(given, Path(folder))
    Console(width=140).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
