"""The journey of `push`: an index in a folder becomes the same index on a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from imgsearch import index, stores
from imgsearch import manifest as manifests
from imgsearch.errors import IndexCorruptError, InputError
from imgsearch.records import PushSummary
from imgsearch.text import printable
from imgsearch.vectors import aligned

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    Progress = Callable[[int, int], None]

_TRIES = 20


def push(
    index_name: str | os.PathLike[str], address: str, *, progress: Progress | None = None
) -> PushSummary:
    """Put an index on a server, whole, check it there, and have the name stand for it.

    Until then, and for who has it open a push longer, the name stands for what it stood for. What
    is there already is not put there again.

    Args:
        index_name: the index' folder; a bare name means `indexes/NAME`.
        address: milvus://HOST:PORT/NAME.
        progress: called with (rows put, rows in all).

    Returns:
        What was done.

    Raises:
        NotFoundError: there is no index.
        UnreachableError: the server does not answer.
        IndexCorruptError: the index cannot be trusted, or what the server gives back is another.
        InputError: the address is none, or the index cannot be kept there.
        WriteError: the server refuses it.
        MissingPackageError: what speaks with the server is not installed.
    """
    started = time.perf_counter()
    if not stores.is_address(address):
        raise InputError(
            f"{printable(address)} is no address of a server: give it as milvus://HOST:PORT/NAME"
        )
    to = stores.parse(address)
    opened, raw = _open(index_name)
    manifest, items, vectors = opened.manifest, opened.items, opened.vectors.local()
    data = {
        kind: index.read_data(opened.folder, entry)
        for kind, entry in manifest.files.items()
        if kind != "vectors"
    }

    def rows(first: int, last: int) -> npt.NDArray[np.float32]:
        return aligned(vectors.rows[first:last])

    placed = stores.put(
        to,
        stores.Generation(
            manifest=raw,
            dim=manifest.dim,
            class_ids=items.classes.ids.tolist(),
            paths=items.column("path"),
            labels=items.column("label"),
            files=data,
            rows=rows,
        ),
        progress,
    )
    return PushSummary(
        index=str(opened.folder),
        address=address,
        count=manifest.count,
        dim=manifest.dim,
        generation=placed.generation,
        written=placed.written,
        moved=placed.moved,
        dropped=tuple(placed.dropped),
        seconds=time.perf_counter() - started,
    )


def _open(index_name: str | os.PathLike[str]) -> tuple[index.Index, bytes]:
    """Open an index, every byte checked, and the bytes of its very manifest."""
    folder = index.locate(index_name)
    for _ in range(_TRIES):
        opened = index.open_index(folder, thorough=True)
        raw = index.read_manifest_bytes(folder)
        # An update may have put another one in its place meanwhile.
        if manifests.parse(raw) == opened.manifest:
            return opened, raw
    raise IndexCorruptError(manifests.FILE, "it is replaced faster than it can be read")
