"""Where an index is read: in a folder, or on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsearch import index as indexes
from imgsearch import stores
from imgsearch.text import printable

if TYPE_CHECKING:
    import os

    from imgsearch.index import Index
    from imgsearch.manifest import Manifest


def open_index(index: str | os.PathLike[str], *, thorough: bool = False) -> Index:
    """Open and check an index.

    Args:
        index: its folder, a bare name, which means `indexes/NAME`, or its address on a server,
            milvus://HOST:PORT/NAME.
        thorough: check every byte of one in a folder; see `index.open_index`.

    Raises:
        NotFoundError: there is no index.
        UnreachableError: its server does not answer.
        IndexCorruptError: it cannot be trusted.
        MissingPackageError: what speaks with its server is not installed.
    """
    if stores.is_address(index):
        from imgsearch.remote import open_remote

        return open_remote(stores.parse(str(index)))
    return indexes.open_index(index, thorough=thorough)


def read_manifest(index: str | os.PathLike[str]) -> Manifest:
    """Return the manifest of an index; raises as `open_index` does."""
    if stores.is_address(index):
        from imgsearch.remote import read_remote_manifest

        return read_remote_manifest(stores.parse(str(index)))
    return indexes.read_manifest(indexes.locate(index))


def place(index: str | os.PathLike[str]) -> str:
    """Return where an index is: its folder, or its address."""
    return str(index) if stores.is_address(index) else str(indexes.locate(index))


def info(index: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the fields of `info --json`; raises as `open_index` does."""
    return indexes.info(place(index), read_manifest(index))


def verify(index: str | os.PathLike[str]) -> list[str]:
    """Check everything about an index and return every problem found; none is an empty list.

    One on a server is brought here for that, whole.

    Raises:
        NotFoundError: there is no index.
        UnreachableError, MissingPackageError: as in `open_index`.
    """
    if stores.is_address(index):
        from imgsearch.remote import verify_remote

        return verify_remote(stores.parse(str(index)))
    return indexes.verify(index)


def name(index: str | os.PathLike[str]) -> str:
    """Return what an index is called, without the place."""
    if stores.is_address(index):
        return printable(stores.parse(str(index)).name)
    return indexes.locate(index).resolve().name
