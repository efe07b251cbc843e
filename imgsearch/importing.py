"""The journey of `import`: an index from embeddings that somebody already has."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch import __version__, index, indexing, labels, ranking
from imgsearch.calibration import calibrate_files
from imgsearch.errors import InputError, NoImagesError, NotFoundError
from imgsearch.items import items_bytes, skips_bytes
from imgsearch.manifest import Manifest
from imgsearch.places import place_of
from imgsearch.records import BuildSummary, Running, Skip, StoredItem
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from imgsearch.backbones import LoadedModel
    from imgsearch.manifest import FileEntry
    from imgsearch.records import ImageItem

# The model of vectors whose origin is not known: asked by row and by vector only.
EXTERNAL = "external"
_NO_SUM = "0" * 64
# Of a part of the vectors in float64: what is in memory at a time is a few times that.
_CHUNK_BYTES = 1 << 23


def import_vectors(
    vectors: str | os.PathLike[str],
    items: str | os.PathLike[str],
    index_name: str | os.PathLike[str],
    *,
    model: str | None = None,
    weights: str | None = None,
    images: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> BuildSummary:
    """Write an index from vectors, part by part: memory does not hold them all.

    Rows of a split other than "base" and "train" are left out, as in a build. Where the model is
    known, `items` is the label file that `update_index` goes by.

    Args:
        vectors: a .npy or .safetensors file of shape (n, dim), floating point; normalized here.
        items: a csv or parquet file with n rows: path, label and, if wanted, group and split.
        index_name: the index' folder; a bare name means `indexes/NAME`.
        model: the model that made the vectors, so that pictures can be asked; unknown unless given.
        weights: its weights, as in `build_index`.
        images: the folder that the paths are relative to; the one of `items` unless given.
        overwrite: replace an index that exists.

    Returns:
        What was done. A vector that is zero or not finite is a skip.

    Raises:
        NotFoundError: one of the files is not there.
        InputError: they cannot be read, or do not fit each other or the model.
        IndexExistsError, WriteError: as in `build_index`.
    """
    source, table = Path(vectors), Path(items)
    listed = labels.read_rows(table)
    folder = index.locate(index_name)
    index.check_free(folder, overwrite=overwrite)
    root = place_of(table.parent if images is None else images).name
    indexing.check_keepable(root, "folder")
    labels_file = None
    reopen = _open_vectors(source)
    total, dim = reopen().shape
    if total != len(listed):
        raise InputError(
            f"{printable(str(source))} holds {count(total, 'vector')} and "
            f"{printable(str(table))} {count(len(listed), 'row')}: row i of one belongs to "
            "row i of the other"
        )
    loaded = _load(model, weights, dim)
    if loaded is not None:
        labels_file = Path(os.path.abspath(table))  # noqa: PTH100 - resolve() would follow links
        indexing.check_keepable(str(labels_file), "label file")
    in_base = np.array([labels.is_base(item) for item in listed])
    if not in_base.any():
        raise NoImagesError(f"{printable(str(table))} names no row of the base set")
    started = time.perf_counter()
    stored: list[StoredItem] = []
    skips: list[Skip] = []
    with index.IndexWriter(folder) as writer:
        index.check_free(folder, overwrite=overwrite)
        writer.start(dim)
        for first, rows, good in _parts(reopen, total, dim):
            wanted = in_base[first : first + len(rows)]
            writer.append(rows[good & wanted])
            for i in np.flatnonzero(wanted).tolist():
                item = listed[first + i]
                if good[i]:
                    stored.append(_stored(item))
                else:
                    reason = "its vector is zero or not finite"
                    skips.append(Skip(printable(item.path), reason))
        if not stored:
            raise NoImagesError(f"no vector in {printable(str(source))} can be used")
        classes = index.count_classes(stored)

        def make(files: dict[str, FileEntry]) -> Manifest:
            made = _manifest(loaded, dim, stored, classes, root, labels_file, len(skips), files)
            known = loaded is not None
            meaning = calibrate_files(writer.folder, files, stored, known=known)
            return dataclasses.replace(made, calibration=meaning)

        writer.commit(items_bytes(stored), skips_bytes(skips) if skips else None, make)
    seconds = time.perf_counter() - started
    return BuildSummary(
        index=str(folder),
        count=len(stored),
        classes=classes,
        skipped=tuple(skips),
        model=EXTERNAL if loaded is None else loaded.model,
        weights="none" if loaded is None else loaded.weights,
        dim=dim,
        seconds=seconds,
        images_per_second=len(stored) / seconds if seconds > 0 else 0.0,
        left_out=labels.LabelFile(table, tuple(listed)).left_out(),
    )


def _load(model: str | None, weights: str | None, dim: int) -> LoadedModel | None:
    if model is None or model == EXTERNAL:
        if weights is not None:
            raise InputError("weights were given, but no model that they belong to")
        return None
    from imgsearch.backbones import load_model

    loaded = load_model(model, weights, Running().device)
    if loaded.dim != dim:
        raise InputError(f"{model} gives {loaded.dim} numbers a picture and the vectors have {dim}")
    return loaded


def _stored(item: ImageItem) -> StoredItem:
    return StoredItem(item.path, item.label, None, None, None, None, None, item.group)


def _open_vectors(file: Path) -> Callable[[], Any]:
    """Return what opens a matrix without reading it: it has a shape, and rows by slice.

    It is opened anew for each part, so that what was read is not held on to by a mapping.
    """
    shown = printable(str(file))
    if not file.exists():
        raise NotFoundError(f"there is no file {shown}")
    if not file.is_file():
        raise InputError(f"{shown} is not a regular file; a .npy or .safetensors file is wanted")
    suffix = file.suffix.lower()
    if suffix == ".npy":
        return lambda: _open_npy(file, shown)
    if suffix == ".safetensors":
        return lambda: _open_safetensors(file, shown)
    raise InputError(f"{shown} must end in .npy or .safetensors")


def _open_npy(file: Path, shown: str) -> Any:  # noqa: ANN401 - an array
    try:
        matrix = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        raise InputError(f"{shown} cannot be read as a .npy matrix of numbers") from error
    _check_matrix(matrix.shape, str(matrix.dtype), shown)
    return matrix


def _open_safetensors(file: Path, shown: str) -> _Rows:
    from safetensors import SafetensorError, safe_open

    try:
        opened: Any = safe_open(file, framework="numpy")
        names = list(opened.keys())
        parts = [opened.get_slice(name) for name in names]
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{shown} cannot be read as safetensors") from error
    if len(parts) != 1:
        raise InputError(f"{shown} holds {count(len(parts), 'tensor')}; one is wanted")
    dtype = {"F32": "float32"}.get(parts[0].get_dtype(), str(parts[0].get_dtype()))
    _check_matrix(tuple(parts[0].get_shape()), dtype, shown)
    return _Rows(parts[0])


class _Rows:
    """A safetensors slice in the manner of an array: `shape`, and rows by slice."""

    def __init__(self, part: Any) -> None:  # noqa: ANN401 - safetensors has no types for it
        self._part = part
        self.shape: tuple[int, ...] = tuple(part.get_shape())

    def __getitem__(self, rows: slice) -> Any:  # noqa: ANN401 - an array
        return self._part[rows]


def _check_matrix(shape: tuple[int, ...], dtype: str, shown: str) -> None:
    if dtype != "float32" or len(shape) != 2 or not shape[0] or not shape[1]:  # noqa: PLR2004 - a matrix
        raise InputError(
            f"{shown} must hold float32 numbers of shape (n, dim), not {dtype} {shape}"
        )


def _parts(
    reopen: Callable[[], Any], total: int, dim: int
) -> Iterator[tuple[int, npt.NDArray[np.float32], npt.NDArray[np.bool_]]]:
    """Yield (first row, unit vectors, which of them have a direction), part by part."""
    step = max(1, _CHUNK_BYTES // (8 * dim))
    for first in range(0, total, step):
        rows, good = ranking.units(np.asarray(reopen()[first : min(total, first + step)]))
        yield first, rows, good


def _manifest(  # noqa: PLR0917 - it gathers what all rooms know
    loaded: LoadedModel | None,
    dim: int,
    stored: list[StoredItem],
    classes: dict[str, int],
    root: str,
    labels_file: Path | None,
    skipped: int,
    files: dict[str, FileEntry],
) -> Manifest:
    import faiss

    return Manifest(
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        program=f"imgsearch-faiss {__version__}",
        faiss=faiss.__version__,
        engine="none",  # none of ours made the rows
        model=EXTERNAL if loaded is None else loaded.model,
        weights="none" if loaded is None else loaded.weights,
        weights_sha256=_NO_SUM if loaded is None else loaded.weights_sha256,
        weights_source=None if loaded is None else loaded.weights_source,
        preprocessing=None if loaded is None else loaded.preprocess,
        precision="fp32",
        dim=dim,
        count=len(stored),
        classes=classes,
        image_root=root,
        labels_file=None if labels_file is None else str(labels_file),
        skipped=skipped,
        files=files,
    )
