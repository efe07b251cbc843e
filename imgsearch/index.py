"""An index on disk: open and check one generation, commit the next.

A generation is immutable data files, named after their content, and the manifest that names them.
Replacing the manifest is the commit: before it a reader sees the old index, after it the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from imgsearch import items as sidecar
from imgsearch import manifest as manifests
from imgsearch import vectors as vector_file
from imgsearch.errors import (
    ImgsearchError,
    IndexCorruptError,
    IndexExistsError,
    IndexLockedError,
    IndexVersionError,
    InputError,
    NotFoundError,
)
from imgsearch.files import PART, make_folder, sync_folder, writing
from imgsearch.manifest import FileEntry, Manifest
from imgsearch.stores import is_address
from imgsearch.text import is_utf8, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    import filelock

    from imgsearch.items import Items
    from imgsearch.records import Skip, StoredItem
    from imgsearch.remote import RemoteRows
    from imgsearch.stores import Store
    from imgsearch.transforms import Transform
    from imgsearch.vectors import VectorFile

# Up to this size a file's sum and rows are checked at every open; beyond it by `verify`.
CHECK_BYTES = 256 * 1024 * 1024
_HOME = Path("indexes")
_LOCK = ".lock"
_PART = PART
_HASH_CHUNK = 1 << 20
_OPEN_TRIES = 20
_LONGEST_NAME = 255  # bytes, on every common file system


def locate(index: str | os.PathLike[str]) -> Path:
    """Return the folder of an index: a bare name means `indexes/NAME`."""
    given = os.fspath(index)
    if is_address(index):
        raise InputError(
            f"{printable(given)} is an index on a server, which is asked and not written: build "
            "and update it in a folder, and push that"
        )
    if not given or "\0" in given:
        raise InputError("the name of the index is empty or no name at all")
    if not is_utf8(given):
        # FAISS and Arrow open a file by a name that is text.
        raise InputError(f"an index cannot be named {printable(given)}: the name is not UTF-8")
    bare = isinstance(index, str) and not {"/", os.sep} & set(given) and given not in {".", ".."}
    return _HOME / given if bare else Path(given)


def names() -> list[str]:
    """Return the bare names that `locate` would find an index under, sorted."""
    return sorted(file.parent.name for file in _HOME.glob(f"*/{manifests.FILE}"))


def count_classes(items: Iterable[StoredItem]) -> dict[str, int]:
    """Count rows by label, labels sorted; rows without a label are not in it."""
    counts: dict[str, int] = {}
    for item in items:
        if item.label is not None:
            counts[item.label] = counts.get(item.label, 0) + 1
    return dict(sorted(counts.items()))


@dataclass(frozen=True, slots=True)
class Index:
    """One generation, open and checked.

    `transform` is what the rows went through, and what queries must go through, None for nothing.
    `store` is the server that holds it, None where it lies in `folder`.
    """

    folder: Path
    manifest: Manifest
    vectors: VectorFile | RemoteRows
    items: Items
    skips: tuple[Skip, ...]
    transform: Transform | None = None
    store: Store | None = None

    @property
    def place(self) -> str:
        """Where it is: its folder, or its address on a server."""
        return str(self.folder) if self.store is None else self.store.address.text

    @property
    def image_root(self) -> str:
        """What the items' paths are relative to: a folder's path, or a URL of object storage."""
        return self.manifest.image_root

    def skipped(self) -> tuple[Skip, ...]:
        """Return what the build left out, and why."""
        return self.skips

    def quantized(self) -> bytes | None:
        """Return the model file of an int8 index, None for fp32.

        Raises:
            IndexCorruptError: it is missing or has another sum than the manifest states.
        """
        return self._data("model")

    def learned(self) -> bytes | None:
        """Return the file of the transform, None where there is none; raises as `quantized`."""
        return self._data("transform")

    def _data(self, kind: str) -> bytes | None:
        entry = self.manifest.files.get(kind)
        if entry is None:
            return None
        if self.store is None:
            return read_data(self.folder, entry)
        return check_data(self.store.file(kind, entry.size), entry)

    def info(self) -> dict[str, Any]:
        """Return the fields of `info --json`."""
        return info(self.place, self.manifest)


def info(place: str, manifest: Manifest) -> dict[str, Any]:
    """Return the fields of `info --json` from a manifest alone, and from where the index is."""
    stated = manifest.to_dict()
    return {
        "index": place,
        "format_version": manifest.format_version,
        "count": manifest.count,
        "classes": manifest.classes,
        "model": manifest.model,
        "weights": manifest.weights,
        "weights_sha256": manifest.weights_sha256,
        "preprocessing": stated["preprocessing"],
        "precision": manifest.precision,
        "quantization": None if manifest.cost is None else manifest.cost.to_dict(),
        "calibration": None
        if manifest.calibration is None
        else {
            "queries": manifest.calibration.queries,
            "neighbors": manifest.calibration.neighbors,
            "error": manifest.calibration.error,
        },
        "engine": manifest.engine,
        "dim": manifest.dim,
        "transform": None if manifest.transform is None else manifest.transform.to_dict(),
        "metric": manifest.metric,
        "skipped": manifest.skipped,
        "files": stated["files"],
        "image_root": manifest.image_root,
        "labels_file": manifest.labels_file,
        "created_at": manifest.created_at,
        "program": manifest.program,
        "faiss": manifest.faiss,
    }


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an index.

    Raises:
        NotFoundError: there is no index in this folder.
        IndexCorruptError: it cannot be trusted.
    """
    return _parse_file(folder / manifests.FILE)


def read_manifest_bytes(folder: Path) -> bytes:
    """Return the bytes of an index' manifest, unread; raises as `read_manifest` does."""
    return _read_file(folder / manifests.FILE)


def _parse_file(file: Path) -> Manifest:
    return manifests.parse(_read_file(file), file.name)


def _read_file(file: Path) -> bytes:
    try:
        with _open_regular(file) as stream:
            return stream.read(manifests.MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            f"there is no index at {printable(str(file.parent))}; make one with: "
            f"imgsearch build IMAGES {printable(str(file.parent))}"
        ) from None
    except OSError as error:
        raise IndexCorruptError(file.name, f"it cannot be read: {error.strerror}") from error


def read_data(folder: Path, entry: FileEntry) -> bytes:
    """Read a data file whole; raises IndexCorruptError where it is not what its entry says."""
    try:
        with _open_regular(folder / entry.name) as stream:
            data = stream.read(entry.size + 1)
    except OSError as error:
        raise IndexCorruptError(entry.name, f"it cannot be read: {error.strerror}") from error
    return check_data(data, entry)


def check_data(data: bytes, entry: FileEntry) -> bytes:
    """Return a data file's bytes; raises IndexCorruptError where they are not its entry's."""
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise IndexCorruptError(
            entry.name, "its bytes do not have the sum that its manifest states"
        )
    return data


def _sum_of(stream: BinaryIO) -> str:
    total = hashlib.sha256()
    while chunk := stream.read(_HASH_CHUNK):
        total.update(chunk)
    return total.hexdigest()


def _open_regular(file: Path) -> BinaryIO:
    """Open a file that is a file: a pipe in its place would be waited for without end."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def open_index(index: str | os.PathLike[str], *, thorough: bool = False) -> Index:
    """Open an index and check it.

    Every file's size, header and shape are checked; sums and rows, too, up to 256 MiB a file or
    when `thorough`. A reader needs no lock: when a file is gone because a new generation has
    replaced it meanwhile, the new one is opened.

    Raises:
        NotFoundError: there is no index.
        IndexCorruptError: a file has the wrong size, shape or sum, or is missing.
        IndexVersionError: a newer release wrote it.
    """
    folder = locate(index)
    manifest = read_manifest(folder)
    for _ in range(_OPEN_TRIES):
        try:
            return _open(folder, manifest, thorough=thorough)
        except IndexCorruptError:
            latest = read_manifest(folder)
            if latest == manifest:
                raise
            manifest = latest
    return _open(folder, manifest, thorough=thorough)


def _open(folder: Path, manifest: Manifest, *, thorough: bool) -> Index:
    opened = Checked(folder, manifest, thorough=thorough)
    for problem in opened.problems():
        raise problem
    if opened.vectors is None or opened.items is None:  # problems() would have said why
        raise IndexCorruptError(manifests.FILE, "its files could not be opened")
    return Index(folder, manifest, opened.vectors, opened.items, opened.skips, opened.transform)


class Checked:
    """Opens the files of a generation in an order in which nothing is believed too early."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        thorough: bool,
        kinds: frozenset[str] = manifests.KINDS,
    ) -> None:
        """Nothing is read yet; of the files those of some `kinds` are."""
        self.folder = folder
        self._kinds = kinds
        self.manifest = manifest
        self.thorough = thorough
        self.vectors: VectorFile | None = None
        self.items: Items | None = None
        self.skips: tuple[Skip, ...] = ()
        self.transform: Transform | None = None

    def problems(self) -> Iterator[IndexCorruptError]:
        """Yield every problem; what was read of a file is set where it is without fault."""
        checks: dict[str, Callable[[Path], Iterator[IndexCorruptError]]] = {
            "vectors": self._vectors,
            "items": self._items,
            "skipped": self._skipped,
            "transform": self._transform,
            "model": lambda _: iter(()),  # its sum has been compared; it is opened with the engine
        }
        for kind, entry in self.manifest.files.items():
            if kind not in self._kinds:
                continue
            try:
                faults = list(self._bytes(entry))
                if not faults:
                    faults = list(checks[kind](self.folder / entry.name))
            except IndexCorruptError as error:
                faults = [error]
            except OSError as error:
                faults = [IndexCorruptError(entry.name, f"it cannot be read: {error.strerror}")]
            yield from faults

    def _bytes(self, entry: FileEntry) -> Iterator[IndexCorruptError]:
        file = self.folder / entry.name
        if not os.path.lexists(file):
            yield IndexCorruptError(entry.name, "the file is missing")
            return
        with _open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size != entry.size:
                yield IndexCorruptError(
                    entry.name, f"it has {size:,} bytes and its manifest says {entry.size:,}"
                )
            elif self.thorough or size <= CHECK_BYTES:
                total = _sum_of(stream)
                if total != entry.sha256:
                    yield IndexCorruptError(
                        entry.name, "its bytes do not have the sum that its manifest states"
                    )

    def _vectors(self, file: Path) -> Iterator[IndexCorruptError]:
        count, dim = self.manifest.count, self.manifest.dim
        faults = list(vector_file.check_header(file, count, dim))
        if faults:
            yield from faults
            return
        vectors = vector_file.open_vectors(file, count, dim)
        if self.thorough or file.stat().st_size <= CHECK_BYTES:
            faults = list(vector_file.check_rows(vectors, file.name))
        yield from faults
        if not faults:
            self.vectors = vectors

    def _items(self, file: Path) -> Iterator[IndexCorruptError]:
        items = sidecar.read_items(file, self.manifest.count)
        counts = dict(zip(items.classes.names, items.classes.counts.tolist(), strict=True))
        if counts != self.manifest.classes:
            yield IndexCorruptError(file.name, "its classes are not those of its manifest")
            return
        self.items = items

    def _transform(self, file: Path) -> Iterator[IndexCorruptError]:
        from imgsearch.transforms import most_bytes, read_transform

        entry, dims = self.manifest.files["transform"], (self.manifest.model_dim, self.manifest.dim)
        if entry.size > most_bytes(*dims):
            yield IndexCorruptError(file.name, "it is larger than any transform of its index")
            return
        self.transform = read_transform(read_data(self.folder, entry), file.name, *dims)

    def _skipped(self, file: Path) -> Iterator[IndexCorruptError]:
        self.skips = sidecar.read_skips(file, self.manifest.skipped)
        yield from ()


def verify(index: str | os.PathLike[str]) -> list[str]:
    """Check everything about an index and return every problem found; none is an empty list.

    Raises:
        NotFoundError: there is no index.
    """
    folder = locate(index)
    problems: list[str] = []
    try:
        manifest = read_manifest(folder)
        for _ in range(_OPEN_TRIES):
            problems = [str(fault) for fault in Checked(folder, manifest, thorough=True).problems()]
            # As in `open_index`: what a new generation has replaced meanwhile is no problem.
            latest = read_manifest(folder) if problems else manifest
            if latest == manifest:
                break
            manifest = latest
    except IndexCorruptError as error:
        return [str(error)]
    return problems


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did: `problems` of the generation that was given up, and `lost` in words."""

    problems: list[str]
    repaired: bool
    lost: str | None


def repair(index: str | os.PathLike[str]) -> Repair:
    """Go back to the newest whole generation, if the present one is not whole.

    Nothing is touched where the index is whole, or where no whole generation is left.

    Raises:
        NotFoundError: there is no index.
        IndexVersionError: a newer release wrote it, which is no damage.
        IndexLockedError, WriteError: it cannot be written.
    """
    folder = locate(index)
    problems = _damage(folder)
    # Looked at before the writer comes, too: it would tidy up.
    if not problems or _whole_previous(folder) is None:
        return Repair(problems, repaired=False, lost=None)
    with IndexWriter(folder) as writer:
        problems, earlier = _damage(folder), _whole_previous(folder)
        if not problems or earlier is None:  # another writer was here meanwhile
            return Repair(problems, repaired=False, lost=None)
        try:
            spoilt = f"that of {read_manifest(folder).created_at}"
        except ImgsearchError:
            spoilt = "one that cannot be read any more"
        writer.go_back()
    lost = (
        f"the generation of {earlier.created_at} ({earlier.count:,} rows) is the index again; "
        f"what the later one, {spoilt}, had more is lost: imgsearch update brings it back"
    )
    return Repair(problems, repaired=True, lost=lost)


def _whole_previous(folder: Path) -> Manifest | None:
    """Return the previous manifest, None where it or one of its files is not whole."""
    try:
        earlier = _parse_file(folder / manifests.PREVIOUS)
    except ImgsearchError:
        return None
    return None if any(Checked(folder, earlier, thorough=True).problems()) else earlier


def _damage(folder: Path) -> list[str]:
    """Return what `verify` does; a manifest that is gone is damage where an earlier one is left."""
    try:
        read_manifest(folder)
    except IndexVersionError:
        raise
    except IndexCorruptError as error:
        return [str(error)]
    except NotFoundError:
        if not (folder / manifests.PREVIOUS).is_file():
            raise
        return [str(IndexCorruptError(manifests.FILE, "the file is missing"))]
    return verify(folder)


def check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise InputError or IndexExistsError where an index must not be written."""
    shown = printable(str(folder))
    if any(len(os.fsencode(part)) > _LONGEST_NAME for part in folder.parts):
        raise InputError(f"an index cannot be named {shown[:40]}...: the name is too long")
    try:
        there, is_folder = folder.exists(), folder.is_dir()
        has_manifest = (folder / manifests.FILE).exists()
    except OSError as error:
        raise InputError(f"an index cannot be named {shown}: {error.strerror}") from error
    if there and not is_folder:
        raise InputError(f"{shown} is a file; an index is a folder")
    if has_manifest and not overwrite:
        raise IndexExistsError(shown)


class IndexWriter:
    """The one writer of an index: holds its lock, writes a generation, commits it.

    Use as a context manager; leaving without `commit` removes what was written.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is touched before the context is entered."""
        self.folder = folder
        self._lock: filelock.BaseFileLock | None = None
        self._parts: list[Path] = []
        self._stream: BinaryIO | None = None
        self.vectors: vector_file.VectorWriter | None = None

    def __enter__(self) -> Self:
        """Make the folder, take the lock and remove what a killed writer left.

        Raises:
            IndexLockedError: another process is writing this index.
            WriteError: the folder cannot be written.
        """
        import filelock

        with writing(self.folder):
            make_folder(self.folder)
            lock = filelock.FileLock(self.folder / _LOCK)
            try:
                # Of the operating system: it goes with the process that holds it.
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise IndexLockedError(printable(str(self.folder))) from None
            self._lock = lock
        self._clean()
        return self

    def start(self, dim: int) -> None:
        """Begin the vector file, of vectors of this length; raises WriteError."""
        with writing(self.folder):
            self._stream = self._part("vectors").open("w+b")
            self.vectors = vector_file.VectorWriter(self._stream, dim)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove what was not committed and let the lock go."""
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.close()
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()

    def append(self, rows: Any) -> None:  # noqa: ANN401 - a numpy array, typed in vectors.py
        """Add unit rows, float32 (n, dim); raises WriteError."""
        if self.vectors is None:
            raise RuntimeError("the writer is not open")
        with writing(self.folder):
            self.vectors.append(rows)

    def commit(
        self,
        items: bytes,
        skips: bytes | None,
        make: Callable[..., Manifest],
        model: bytes | None = None,
        transform: bytes | None = None,
    ) -> Manifest:
        """Make what was written the index.

        Args:
            items: the encoded sidecar.
            skips: the encoded list of skipped files, None where nothing was skipped.
            make: called with `files=` (the data files as they lie on disk), returns the manifest.
            model: the quantized model of an int8 index, None for fp32.
            transform: what the rows went through, None for nothing.

        Raises:
            WriteError: something could not be written; the index is what it was. (Where the very
                last step failed, the sync of the folder, readers see the new one already, whole;
                which of the two a power cut would leave is not known.)
        """
        with writing(self.folder):
            if self.vectors is None or self._stream is None:
                raise RuntimeError("the writer is not open")
            self.vectors.finish()
            files = {"vectors": self._place("vectors", self._stream)}
            others = {"items": items, "skipped": skips, "model": model, "transform": transform}
            for kind, data in others.items():
                if data is not None:
                    with self._part(kind).open("w+b") as stream:
                        stream.write(data)
                        files[kind] = self._place(kind, stream)
            sync_folder(self.folder)
            manifest = make(files=files)
            current = self._current()
            if current is not None:
                # The generation that is replaced stays whole, and stays named.
                self._replace(manifests.PREVIOUS, current)
                sync_folder(self.folder)
            self._replace(manifests.FILE, manifest.to_bytes())
            sync_folder(self.folder)
        self._clean()
        return manifest

    def _current(self) -> bytes | None:
        """Return the manifest that is there; None where there is none, or none that can be read.

        A damaged one must not take the place of the previous one, which may be whole.
        """
        file = self.folder / manifests.FILE
        if not file.is_file():
            return None
        with _open_regular(file) as stream:
            raw = stream.read(manifests.MAX_BYTES + 1)
        try:
            manifests.parse(raw)
        except IndexCorruptError:
            return None
        return raw

    def go_back(self) -> None:
        """Make the previous generation the index again; raises WriteError."""
        with writing(self.folder):
            self._replace(manifests.FILE, (self.folder / manifests.PREVIOUS).read_bytes())
            sync_folder(self.folder)

    def _part(self, kind: str) -> Path:
        part = self.folder / f"{_PART}{kind}"
        self._parts.append(part)
        return part

    def _place(self, kind: str, stream: BinaryIO) -> FileEntry:
        """Sync a finished part, read its sum back and give it the name of its content."""
        stream.flush()
        os.fsync(stream.fileno())
        stream.seek(0)
        total = _sum_of(stream)
        entry = FileEntry(
            manifests.data_name(kind, total), os.fstat(stream.fileno()).st_size, total
        )
        (self.folder / f"{_PART}{kind}").replace(self.folder / entry.name)
        return entry

    def _replace(self, name: str, data: bytes) -> None:
        part = self._part(name)
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(self.folder / name)

    def _clean(self) -> None:
        """Remove parts, and data files that neither the manifest nor the previous one names.

        No data file is removed where either cannot be read: what it names may be all there is.
        """
        named = self._named()
        with contextlib.suppress(OSError):
            for file in self.folder.iterdir():
                part = file.name.startswith(_PART)
                unnamed = named is not None and file.name not in named
                if part or (unnamed and manifests.is_data_name(file.name)):
                    with contextlib.suppress(OSError):
                        file.unlink()

    def _named(self) -> set[str] | None:
        """Return the data files that the two manifests name; None where one cannot be read."""
        named: set[str] = set()
        for name in (manifests.FILE, manifests.PREVIOUS):
            try:
                files = _parse_file(self.folder / name).files.values()
            except ImgsearchError as error:
                if name == manifests.PREVIOUS and isinstance(error, NotFoundError):
                    continue  # the first generation
                return None
            named.update(entry.name for entry in files)
        return named
