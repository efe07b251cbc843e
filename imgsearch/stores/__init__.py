"""Engines on a server that hold an index: their addresses, and what each of them must offer.

An engine is one file here and one line in `ENGINES`. It proposes candidates and hands out what was
put into it; which of the candidates are the answer is decided in imgsearch/ranking.py, for all.
See docs/engines.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from imgsearch.errors import InputError
from imgsearch.text import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from imgsearch.ranking import Only, Proposed

    Rows = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Progress = Callable[[int, int], None]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class _Engine(NamedTuple):
    """A module that has `open_store` and `put`, and whether its scheme means TLS."""

    module: str
    tls: bool


# By scheme.
ENGINES = {
    "milvus": _Engine("imgsearch.stores.milvus", tls=False),
    "milvus+tls": _Engine("imgsearch.stores.milvus", tls=True),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where an index is on a server; `text` is the address as it was given."""

    text: str
    scheme: str
    host: str
    port: int
    name: str

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return ENGINES[self.scheme].tls

    @property
    def server(self) -> str:
        """Host and port, for people."""
        return f"{self.host}:{self.port}"


class Piece(NamedTuple):
    """What a server keeps of some rows, in their order: `rows` says which."""

    rows: Rows
    class_ids: npt.NDArray[np.int64]
    paths: list[str]
    labels: list[str]
    vectors: Floats


class Store(Protocol):
    """One generation of an index on a server, open; what it says is checked by whoever asks.

    Each method raises UnreachableError where the server does not answer, or has not all rows at
    hand, or does not hold the generation any more.
    """

    address: Address
    # What the server calls the generation, and its manifest as it was put there.
    generation: str
    manifest: bytes
    dim: int

    def count(self) -> int:
        """Return how many rows the server has now."""

    def propose(self, queries: Floats, limit: int, allowed: Only | None) -> Proposed:
        """Return the rows that score best; more than `limit` only where those are all."""

    def fetch(self, rows: Rows) -> Floats:
        """Return stored vectors, float32 (len(rows), dim)."""

    def piece(self, first: int, last: int) -> Piece:
        """Return all that is kept of the rows from `first` up to `last`, which is left out."""

    def file(self, kind: str, size: int) -> bytes:
        """Return one of the data files beside the vectors; not much more than `size` bytes."""

    def newest(self) -> str:
        """Return the generation that the index' name stands for now."""

    def close(self) -> None:
        """Let the connection go."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What is put on a server: `files` are the data files beside the vectors, by kind.

    `rows(first, last)` returns stored vectors, float32 (last - first, dim).
    """

    manifest: bytes
    dim: int
    class_ids: Sequence[int]
    paths: Sequence[str]
    labels: Sequence[str | None]
    files: dict[str, bytes]
    rows: Callable[[int, int], Floats]

    @property
    def count(self) -> int:
        """Number of rows."""
        return len(self.class_ids)


class Placed(NamedTuple):
    """What came of a push.

    What the generation is called there, whether its rows were put there, whether the name stood for
    another before, and what was dropped.
    """

    generation: str
    written: bool
    moved: bool
    dropped: list[str]


def is_address(index: str | os.PathLike[str]) -> bool:
    """Whether an index is named by an address, and not by a folder."""
    return isinstance(index, str) and _ADDRESS.match(index) is not None


def parse(text: str) -> Address:
    """Read an address; raises InputError where it is none."""
    shown = printable(text[:200])
    wanted = "give it as milvus://HOST:PORT/NAME"
    scheme = text.partition("://")[0].lower()
    if scheme not in ENGINES:
        raise InputError(f"there is no engine for {shown}; choose from: {', '.join(ENGINES)}")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"{shown} is no address: {wanted}") from None
    if parts.username is not None or parts.password is not None:
        raise InputError("an address holds no password: the token comes from MILVUS_TOKEN")
    name = parts.path.removeprefix("/")
    if not host or not port or not name or parts.query or parts.fragment:
        raise InputError(f"{shown} is no address: {wanted}")
    return Address(text, scheme, host, port, name)


def open_store(address: Address) -> Store:
    """Connect, and open the generation that the name stands for.

    Raises:
        UnreachableError: the server does not answer.
        NotFoundError: it has no index of that name.
        IndexCorruptError: what it has under that name is none.
        MissingPackageError: the engine's package is not installed.
    """
    store: Store = _module(address).open_store(address)
    return store


def put(address: Address, generation: Generation, progress: Progress | None = None) -> Placed:
    """Put a generation on a server, check it there, and have the name stand for it.

    Raises:
        UnreachableError, MissingPackageError: as in `open_store`.
        InputError: it cannot be kept there, or not under that name.
        WriteError: the server refuses it.
    """
    placed: Placed = _module(address).put(address, generation, progress)
    return placed


def _module(address: Address) -> Any:  # noqa: ANN401 - a module
    return import_module(ENGINES[address.scheme].module)
