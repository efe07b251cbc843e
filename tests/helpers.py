"""Indexes made of given vectors through the real writer, networks of seeded numbers, vectors."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from imgsearch import __version__
from imgsearch.decoding import Source
from imgsearch.embedding import embed
from imgsearch.index import IndexWriter
from imgsearch.items import items_bytes
from imgsearch.manifest import FileEntry, Manifest
from imgsearch.ranking import unit
from imgsearch.records import StoredItem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt
    import torch

    from imgsearch.backbones import LoadedModel
    from imgsearch.decoding import DecoderPool


def write_index(
    folder: Path,
    vectors: npt.ArrayLike,
    labels: Sequence[str | None],
    groups: Sequence[str | None] | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Write vectors, normalized, with labels as an index of an unknown model.

    Picture i is called `names[i]`, i unless given, and has the sum of that name.
    """
    units = [unit(row) for row in np.asarray(vectors)]
    rows = np.stack([row for row in units if row is not None])
    called = [str(i) for i in range(len(labels))] if names is None else names
    items = [
        StoredItem(
            path=f"{label or 'none'}/{name}.jpg",
            label=label,
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            width=1,
            height=1,
            size=1,
            mtime_ns=0,
            group=group,
        )
        for name, label, group in zip(called, labels, groups or [None] * len(labels), strict=True)
    ]
    classes = {name: list(labels).count(name) for name in sorted({n for n in labels if n})}

    def make(files: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            created_at="2026-01-01T00:00:00+00:00",
            program=f"imgsearch-faiss {__version__}",
            faiss="1",
            engine="none",
            model="external",
            weights="none",
            weights_sha256="0" * 64,
            weights_source=None,
            preprocessing=None,
            precision="fp32",
            dim=rows.shape[1],
            count=len(rows),
            classes=classes,
            image_root=str(folder),
            labels_file=None,
            skipped=0,
            files=files,
        )

    with IndexWriter(folder) as writer:
        writer.start(rows.shape[1])
        writer.append(rows)
        writer.commit(items_bytes(items), None, make)
    return folder


def into_classes(photos: Sequence[Path], folder: Path) -> Path:
    """Copy pictures, in turn, into the class folders alpha, beta and gamma of a folder."""
    for i, photo in enumerate(photos):
        target = folder / ("alpha", "beta", "gamma")[i % 3]
        target.mkdir(exist_ok=True)
        shutil.copy(photo, target / photo.name)
    return folder


def settled(network: torch.nn.Module, photos: Sequence[Path], side: int) -> torch.nn.Module:
    """Give BatchNorm layers numbers of a trained network's kind, so that vectors differ.

    Their scale and shift are drawn, their mean and variance are those of real photos.
    """
    import torch

    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, 0, 0.3)
            layer.momentum = None  # the plain mean of what is seen
    squares = [np.asarray(ImageOps.fit(opened(file), (side, side))) for file in photos]
    batch = torch.tensor(np.stack(squares)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        network.train()((batch - 0.45) / 0.225)
    return network.eval()


def vectors_of(
    model: LoadedModel,
    pool: DecoderPool,
    files: Sequence[Path],
    batch_size: int = 8,
    *,
    reduce: int = 0,
) -> npt.NDArray[np.float32]:
    """Embed files as build and search do, but for `reduce`: decoded whole unless it is given."""
    preprocess = replace(model.preprocess, reduce=reduce)
    sources = [Source(file.name, str(file)) for file in files]
    found = [
        outcome.vector
        for outcome in embed(sources, preprocess, lambda: model.engine, pool, batch_size)
    ]
    return np.stack([vector for vector in found if vector is not None])


def opened(file: Path) -> Image.Image:
    """Open a picture the plain way: Pillow, turned, RGB."""
    with Image.open(file) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
