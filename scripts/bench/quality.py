"""Measure an index beside a plain loop, on any folders: base set, test set, leave-one-out.

    .venv/bin/python scripts/bench/quality.py BASE TEST [MODEL]

The loop is what one would write without us: open, resize, normalize, one network call a picture,
numpy.dot and sort. It prints precision@5 and top-1 both ways; they should agree.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from imgsearch import SearchEngine, build_index, evaluate
from imgsearch.backbones import LoadedModel, load_model
from imgsearch.folders import find_images

K = 5


def embed_in_a_loop(root: Path, model: LoadedModel) -> tuple[np.ndarray, list[str | None]]:
    """Embed a folder picture by picture with Pillow and torch alone."""
    import torch

    prepare = model.preprocess
    rows, labels = [], []
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for item in find_images(root)[0]:
        with Image.open(root / item.path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        scale = prepare.resize / min(image.size)
        size = [max(prepare.resize, int(side * scale)) for side in image.size]
        image = image.resize((size[0], size[1]), filters[prepare.interpolation])
        left, top = (round((side - prepare.crop) / 2) for side in image.size)
        image = image.crop((left, top, left + prepare.crop, top + prepare.crop))
        values = np.asarray(image, np.float32) / 255
        values = (values - np.array(prepare.mean)) / np.array(prepare.std)
        batch = torch.tensor(values.transpose(2, 0, 1)[None], dtype=torch.float32)
        with torch.inference_mode():
            vector = model.network(batch).flatten().numpy()
        rows.append(vector / np.linalg.norm(vector))
        labels.append(item.label)
    return np.stack(rows), labels


def loop_figures(
    queries: np.ndarray,
    labels: list[str | None],
    base: np.ndarray,
    base_labels: list[str | None],
    *,
    leave_one_out: bool,
) -> tuple[float, float]:
    """Return precision@5 and top-1 of a sort over all dot products."""
    precision = top = 0.0
    for i, (query, label) in enumerate(zip(queries, labels, strict=True)):
        scores = base @ query
        if leave_one_out:
            scores[i] = -np.inf
        right = [base_labels[j] == label for j in np.argsort(-scores)[:K]]
        precision += sum(right) / K
        top += right[0]
    return precision / len(queries), top / len(queries)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("model", nargs="?", default="efficientnet-lite2")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_index(given.base, Path(folder) / "index", model=given.model)
        with SearchEngine.open(Path(folder) / "index") as engine:
            test = evaluate(engine, given.test, K).overall
            alone = evaluate(engine, k=K).overall
    model = load_model(given.model)
    base, base_labels = embed_in_a_loop(given.base, model)
    queries, labels = embed_in_a_loop(given.test, model)
    loops = (
        loop_figures(queries, labels, base, base_labels, leave_one_out=False),
        loop_figures(base, base_labels, base, base_labels, leave_one_out=True),
    )
    print(f"{'':24}{'precision@5':>24}{'top-1':>20}")
    for name, ours, loop in zip(("test set", "leave-one-out"), (test, alone), loops, strict=True):
        print(
            f"{name:24}{ours['precision_at_k']:12.4f} loop {loop[0]:.4f}"
            f"{ours['top1_accuracy']:10.4f} loop {loop[1]:.4f}"
        )


if __name__ == "__main__":
    main()
