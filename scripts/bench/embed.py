"""Measure the engines beside each other: pictures a second, and what each changes.

    .venv/bin/python scripts/bench/embed.py [MODEL] [--weights FILE] [--pictures FOLDER]
        [--rounds 5] [--number 32] [--base FOLDER --test FOLDER]

What runs: torch picture by picture (what a plain loop does), torch in batches, channels last, and
then each engine in fp32, and OpenVINO in int8. All take the same uint8 arrays, already in memory,
in one process, in turns; a figure is the median of the rounds. Beside it stand the lowest cosine
and the largest difference of a unit vector's number to torch one by one.

Without weights `resnet50` gets seeded numbers: its speed does not depend on them, and BatchNorm is
settled on the pictures, so that vectors differ. With --base and --test two indexes are built, in
fp32 and int8, and precision@5 is compared: on the test set, and leave-one-out on the base set.
It ends with 1 where an fp32 engine differs by more than 1e-4, or int8's precision@5 by over 0.01.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from imgsearch import SearchEngine, build_index, evaluate
from imgsearch.backbones import load_model
from imgsearch.decoding import DecoderPool, Source
from imgsearch.engines.torch_engine import TorchEngine
from imgsearch.folders import find_images
from imgsearch.quantizing import quantize

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgsearch.engines import Engine, LoadedModel

    Embed = Callable[[np.ndarray], np.ndarray]

K = 5
BATCH = 8
SAME = 1e-4
CLOSE = 0.01


def seeded_resnet50(pictures: list[str], file: Path) -> None:
    """Write a ResNet-50 of seeded numbers whose BatchNorm has seen some pictures."""
    import torchvision
    from PIL import Image, ImageOps

    torch.manual_seed(20)
    network = torchvision.models.resnet50(weights=None)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, 0, 0.3)
            layer.momentum = None
    squares = []
    for picture in pictures[:8]:
        with Image.open(picture) as image:
            squares.append(np.asarray(ImageOps.fit(image.convert("RGB"), (224, 224))))
    batch = torch.tensor(np.stack(squares)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        network.train()((batch - 0.45) / 0.225)
    torch.save(network.state_dict(), file)


def one_by_one(loaded: LoadedModel) -> Embed:
    """Return the plain loop: one picture, one call, numbers in their usual layout."""
    network = loaded.network
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (loaded.preprocess.mean, loaded.preprocess.std)
    )

    def embed(pixels: np.ndarray) -> np.ndarray:
        rows = []
        with torch.inference_mode():
            for picture in pixels:
                batch = torch.tensor(picture).permute(2, 0, 1)[None] / 255
                rows.append(network((batch - mean) / std).flatten().numpy())
        return np.stack(rows)

    return embed


def in_batches(embed: Embed, size: int = BATCH) -> Embed:
    """Return a function that calls another with some pictures at a time."""
    return lambda pixels: np.concatenate(
        [embed(pixels[at : at + size]) for at in range(0, len(pixels), size)]
    )


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def speeds(given: argparse.Namespace, folder: Path) -> bool:
    """Print speed and likeness of every engine; return whether fp32 agrees everywhere."""
    root = given.pictures
    if root is None:
        import interior_photos

        pictures = [str(path) for path in interior_photos.get_all_photos()]
    else:
        pictures = [f"{root}/{item.path}" for item in find_images(root)[0]]
    weights = given.weights
    if weights is None and given.model == "resnet50":
        weights = str(folder / "seeded.pth")
        seeded_resnet50(pictures, Path(weights))
    plain = load_model(given.model, weights, "cpu")
    loop_model = load_model(given.model, weights, "cpu")
    loop_model.network.to(memory_format=torch.contiguous_format)
    sources = [Source(picture, picture) for picture in pictures]
    with DecoderPool(2) as pool:
        shown = sources[: given.number]
        pixels = np.stack([pool.input(source, plain.preprocess).pixels for source in shown])
        int8 = quantize(plain, sources, pool)
    runs: dict[str, Embed] = {"torch, one by one": one_by_one(loop_model)}
    versions = {"torch, one by one": torch.__version__}
    engines: list[tuple[str, Engine]] = [
        ("torch", TorchEngine(plain.network, plain.preprocess, "cpu"))
    ]
    engines += [
        (name, load_model(given.model, weights, "cpu", name).engine)
        for name in ("onnx", "openvino")
    ]
    engines.append(("openvino int8", int8.engine))
    for name, engine in engines:
        label = f"{name}, batches of {BATCH}"
        runs[label], versions[label] = in_batches(engine.embed), engine.version
    vectors = {name: unit(run(pixels)) for name, run in runs.items()}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run(pixels)
            rates[name].append(len(pixels) / (time.perf_counter() - started))
    first = next(iter(runs))
    table = Table(title=f"{given.model}, {len(pixels)} pictures, {given.rounds} rounds in turns")
    for column in ("engine", "version", "pictures/s", "times", "lowest cosine", "difference"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    agree = True
    for name, found in rates.items():
        rate = statistics.median(found)
        times = statistics.median(a / b for a, b in zip(found, rates[first], strict=True))
        cosine = (vectors[name] * vectors[first]).sum(1).min()
        difference = np.abs(vectors[name] - vectors[first]).max()
        agree &= "int8" in name or bool(difference <= SAME)
        table.add_row(
            name,
            versions[name],
            f"{rate:.1f}",
            f"{times:.2f}",
            f"{cosine:.6f}",
            f"{difference:.1e}",
        )
    console = Console(width=110)
    console.print(table)
    print_cost(int8)
    return agree


def print_cost(int8: LoadedModel) -> None:
    """Print what quantization cost on the pictures kept out of it."""
    cost = int8.cost
    if cost is not None:
        print(
            f"int8, calibrated on {cost.calibrated_on}, measured on {cost.measured_on} others: "
            f"cosine {cost.mean_cosine:.4f} on average, {cost.lowest_cosine:.4f} at least; "
            f"top {cost.top} agree by {cost.top_agreement:.3f}"
        )


def precision(given: argparse.Namespace, folder: Path) -> bool:
    """Print precision@5 of fp32 and int8; return whether they are close."""
    found = {}
    for kind in ("fp32", "int8"):
        index = folder / kind
        build_index(given.base, index, model=given.model, weights=given.weights, precision=kind)
        with SearchEngine.open(index) as engine:
            found[kind] = [
                evaluate(engine, where, K).overall["precision_at_k"] for where in (given.test, None)
            ]
            if kind == "int8":
                print_cost(engine.model)
    close = True
    for i, name in enumerate(("test set", "leave-one-out")):
        fp32, int8 = found["fp32"][i], found["int8"][i]
        close &= abs(int8 - fp32) <= CLOSE
        print(f"precision@{K}, {name}: fp32 {fp32:.4f}, int8 {int8:.4f}, {int8 - fp32:+.4f}")
    return close


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("model", nargs="?", default="efficientnet-lite2")
    parser.add_argument("--weights")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--number", type=int, default=32)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--test", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        good = speeds(given, Path(name))
        if given.base is not None:
            good &= precision(given, Path(name))
    if not good:
        print("not as it should be")
        sys.exit(1)


if __name__ == "__main__":
    main()
