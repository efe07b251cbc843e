"""Indexes made of given vectors, through the real writer."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import __version__
from imgsearch.index import IndexWriter
from imgsearch.items import items_bytes
from imgsearch.manifest import FileEntry, Manifest
from imgsearch.ranking import unit
from imgsearch.records import StoredItem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt


def write_index(folder: Path, vectors: npt.ArrayLike, labels: Sequence[str | None]) -> Path:
    """Write vectors, normalized, with labels as an index of an unknown model."""
    units = [unit(row) for row in np.asarray(vectors)]
    rows = np.stack([row for row in units if row is not None])
    items = [
        StoredItem(
            path=f"{label or 'none'}/{i}.jpg",
            label=label,
            sha256=hashlib.sha256(str(i).encode()).hexdigest(),
            width=1,
            height=1,
            size=1,
            mtime_ns=0,
        )
        for i, label in enumerate(labels)
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
