"""An index that a server holds, opened as one that lies in a folder, with the same checks.

Its files, but for the vectors, are brought here and read by the same reader. The vectors stay where
they are: the server proposes candidates. Only what compares all rows with all rows has them brought
here.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from imgsearch import manifest as manifests
from imgsearch import stores
from imgsearch.errors import IndexCorruptError, SupersededError, UnreachableError
from imgsearch.files import writing
from imgsearch.index import Checked, Index
from imgsearch.vectors import VectorWriter, rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgsearch.items import Items
    from imgsearch.manifest import Manifest
    from imgsearch.ranking import Classes, Floats, Only, Proposed, Rows
    from imgsearch.stores import Address, Piece, Store
    from imgsearch.vectors import VectorFile

T = TypeVar("T")

# A generation may be replaced twice, and dropped, while it is opened.
_OPEN_TRIES = 20
# Of what is brought here at a time, in bytes.
_PIECE_BYTES = 1 << 25


class RemoteRows:
    """The rows of an index on a server: what `VectorFile` is to one in a folder."""

    def __init__(self, store: Store, manifest: Manifest, classes: Classes) -> None:
        """Nothing is asked yet."""
        self._store, self._manifest, self._classes = store, manifest, classes
        self.count, self.dim = manifest.count, manifest.dim
        self._here: VectorFile | None = None
        self._bringing = threading.Lock()
        # Set by a failure: the server may come back before it has all rows at hand.
        self._doubted = False

    @property
    def error(self) -> float:
        """How far a proposed score may be from the exact one: see `rounding`."""
        return rounding(self.dim)

    def qualifying(self, allowed: Only | None) -> int:
        """Return how many rows qualify; all of them for None."""
        return self.count if allowed is None else allowed.count(self._classes)

    def propose(self, queries: Floats, limit: int, allowed: Only | None = None) -> Proposed:
        """Return the rows that score best; see `CandidateSource`.

        Raises:
            UnreachableError: the server does not answer, or not with all that is due.
            IndexCorruptError: it answers what cannot be.
        """
        try:
            if self._doubted:
                self.check()
            found = self._store.propose(queries, limit, allowed)
        except UnreachableError:
            self._doubted = True
            raise
        due = min(limit, self.qualifying(allowed))
        if found.rows.shape[1] < due:
            self._doubted = True
            raise UnreachableError(
                f"{self._store.address.server} gave {found.rows.shape[1]:,} rows where {due:,} are "
                "due: it may not have loaded all of them yet"
            )
        self._believe(found, allowed)
        return found

    def _believe(self, found: Proposed, allowed: Only | None) -> None:
        rows, scores = found.rows, found.scores
        good = rows.size == 0 or (rows.min() >= 0 and rows.max() < self.count)
        good = good and bool(
            np.all(np.isfinite(scores)) and np.all(scores[:, 1:] <= scores[:, :-1])
        )
        if good and allowed is not None:
            good = bool(allowed.mask(self._classes.ids[rows]).all())
        # A row that comes twice would push another out.
        ordered = np.sort(rows, axis=1)
        if not good or np.any(ordered[:, 1:] == ordered[:, :-1]):
            raise self._refuse("it proposes rows that cannot be")

    def fetch(self, rows: Rows) -> Floats:
        """Return the stored vectors of these rows, float32 (n, dim); raises as `propose`."""
        try:
            return self._store.fetch(rows)
        except UnreachableError:
            self._doubted = True
            raise

    def newest(self) -> str:
        """Return the generation that is served now, which may not be this; raises as `propose`.

        After a failure it also looks whether all rows are there again.
        """
        found = self._store.newest()
        if self._doubted and found == self._store.generation:
            self.check()
        return found

    def check(self) -> None:
        """Raise where the server has not just the rows of the manifest; see `propose`."""
        found = self._store.count()
        if found != self.count:
            raise self._refuse(f"it has {found:,} rows and its manifest says {self.count:,}")
        self._doubted = False

    def local(self) -> VectorFile:
        """Bring all rows here, once, into a file that has no name: they are then at hand.

        Raises:
            IndexCorruptError: they are not those of the manifest.
            WriteError: there is no room for them.
        """
        with self._bringing:
            if self._here is None:
                with tempfile.TemporaryDirectory(prefix="imgsearch-") as folder:
                    for problem in _bring_vectors(self._store, self._manifest, Path(folder)):
                        raise problem
                    checked = Checked(
                        Path(folder), self._manifest, thorough=True, kinds=frozenset({"vectors"})
                    )
                    for problem in checked.problems():
                        raise problem
                    # It stays mapped when its name is gone.
                    self._here = checked.vectors
            if self._here is None:  # problems() would have said why
                raise self._refuse("its rows could not be opened")
            return self._here

    def _refuse(self, problem: str) -> IndexCorruptError:
        return IndexCorruptError(self._store.generation, problem)


def open_remote(address: Address) -> Index:
    """Open an index on a server and check it: all but its vectors, whose number is looked at.

    Raises:
        UnreachableError, NotFoundError, MissingPackageError: as `stores.open_store` does.
        IndexCorruptError: the server's rows or files are not those of the manifest.
    """
    return _again(address, _open)


def read_remote_manifest(address: Address) -> Manifest:
    """Return the manifest of an index on a server; raises as `open_remote` does."""
    store = stores.open_store(address)
    store.close()
    return _manifest(store)


def verify_remote(address: Address) -> list[str]:
    """Bring all of an index here and check it as `index.verify` does; return every problem.

    Raises:
        UnreachableError, NotFoundError, MissingPackageError: as `stores.open_store` does.
        WriteError: there is no room for it.
    """

    def verify(store: Store) -> list[str]:
        try:
            return [str(problem) for problem in _problems(store)]
        finally:
            store.close()

    try:
        return _again(address, verify)
    except IndexCorruptError as error:
        return [str(error)]


def _again(address: Address, work: Callable[[Store], T]) -> T:
    """Work with the newest generation, and with a newer one where it is dropped meanwhile."""
    for _ in range(_OPEN_TRIES):
        store = stores.open_store(address)
        try:
            return work(store)
        except SupersededError:
            if store.newest() == store.generation:
                raise
    raise SupersededError(f"{address.text} is replaced faster than it can be opened")


def _manifest(store: Store) -> Manifest:
    manifest = manifests.parse(store.manifest, store.generation)
    if store.dim != manifest.dim:
        raise IndexCorruptError(
            store.generation,
            f"it has vectors of {store.dim:,} numbers and its manifest says {manifest.dim:,}",
        )
    return manifest


def _open(store: Store) -> Index:
    manifest = _manifest(store)
    # A quantized model is read when it is needed.
    kinds = frozenset(manifest.files) - {"vectors", "model"}
    with tempfile.TemporaryDirectory(prefix="imgsearch-") as folder:
        _bring_files(store, manifest, kinds, Path(folder))
        opened = Checked(Path(folder), manifest, thorough=True, kinds=kinds)
        for problem in opened.problems():
            raise problem
    if opened.items is None:  # problems() would have said why
        raise IndexCorruptError(store.generation, "its items could not be opened")
    rows = RemoteRows(store, manifest, opened.items.classes)
    rows.check()
    return Index(
        Path(store.address.name),
        manifest,
        rows,
        opened.items,
        opened.skips,
        opened.transform,
        store,
    )


def _problems(store: Store) -> Iterator[IndexCorruptError]:
    manifest = _manifest(store)
    kinds = frozenset(manifest.files) - {"vectors"}
    found: list[Piece] = []

    def look(piece: Piece) -> None:
        found.append(piece._replace(vectors=piece.vectors[:0]))

    with tempfile.TemporaryDirectory(prefix="imgsearch-") as name:
        folder = Path(name)
        _bring_files(store, manifest, kinds, folder)
        brought = list(_bring_vectors(store, manifest, folder, look))
        yield from brought
        if brought:
            kinds -= {"vectors"}
        else:
            kinds |= {"vectors"}
        opened = Checked(folder, manifest, thorough=True, kinds=kinds)
        yield from opened.problems()
    if opened.items is not None and not brought:
        yield from _differences(store, opened.items, found)


def _differences(store: Store, items: Items, found: list[Piece]) -> Iterator[IndexCorruptError]:
    """Tell the first row whose class, path or label on the server is not the sidecar's."""
    for piece in found:
        for at, row in enumerate(piece.rows.tolist()):
            kept = (int(piece.class_ids[at]), piece.paths[at], piece.labels[at])
            if kept != (int(items.classes.ids[row]), items.path(row), items.label(row) or ""):
                yield IndexCorruptError(
                    store.generation,
                    f"class, path or label of row {row} are not those of its items",
                )
                return


def _bring_files(store: Store, manifest: Manifest, kinds: frozenset[str], folder: Path) -> None:
    for kind in kinds:
        entry = manifest.files[kind]
        with writing(folder):
            (folder / entry.name).write_bytes(store.file(kind, entry.size))


def _bring_vectors(
    store: Store, manifest: Manifest, folder: Path, look: Callable[[Piece], None] | None = None
) -> Iterator[IndexCorruptError]:
    """Write the vector file anew from the server's rows; yield what is wrong with these."""
    step = max(1, _PIECE_BYTES // (4 * manifest.dim))
    file = folder / manifest.files["vectors"].name
    with writing(folder), file.open("w+b") as stream:
        writer = VectorWriter(stream, manifest.dim)
        for first in range(0, manifest.count, step):
            last = min(first + step, manifest.count)
            piece = store.piece(first, last)
            if not np.array_equal(piece.rows, np.arange(first, last)):
                yield IndexCorruptError(
                    store.generation, f"of the rows {first} to {last - 1} not each is there once"
                )
                return
            if look is not None:
                look(piece)
            writer.append(piece.vectors)
        writer.finish()
