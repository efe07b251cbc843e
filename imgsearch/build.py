"""The journey of `build`: a folder of pictures becomes an index."""

from __future__ import annotations

import datetime as dt
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import __version__, folders, index, labels
from imgsearch.backbones import DEFAULT_MODEL, LoadedModel, load_model
from imgsearch.decoding import Source
from imgsearch.embedding import embed, open_pool
from imgsearch.errors import IndexExistsError, InputError, NoImagesError
from imgsearch.items import items_bytes, skips_bytes
from imgsearch.manifest import FILE, Manifest
from imgsearch.records import BuildSummary, DecodedImage, ImageItem, Running, Skip, StoredItem
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgsearch.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class BaseSet:
    """What is to be indexed: found, labelled, not opened yet."""

    root: Path
    items: list[ImageItem]
    skips: list[Skip]
    labels_file: Path | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    unlisted: int = 0


def find_base_set(images: Path, labels_file: Path | None) -> BaseSet:
    """List the pictures of a folder with their labels.

    With a label file only the pictures that it names, in the split "base" or "train" or in none,
    belong to the base set.

    Raises:
        NotFoundError, InputError, LabelFileError: as `find_images` and `read_label_file` say.
        NoImagesError: there is nothing to index.
    """
    root = Path(os.path.abspath(images))  # noqa: PTH100 - resolve() would follow links
    shown = printable(str(images))
    found, skips = folders.find_images(root, labels_file)
    if printable(str(root)) != str(root):
        raise InputError(
            f"the path {shown} holds characters that cannot be kept in an index: rename the folder"
        )
    if labels_file is None:
        if not found:
            why = f" (the first of {count(len(skips), 'skip')}: {skips[0].reason})" if skips else ""
            raise NoImagesError(f"there are no pictures in {shown}{why}")
        return BaseSet(root, found, skips)
    listed = labels.read_label_file(labels_file)
    named = {item.path for item in listed.items}
    items, skips = [], []
    for item in listed.base():
        if folders.escapes(root, item.path):
            skips.append(Skip(printable(item.path), folders.LEAVES))
        else:
            items.append(item)
    if not items:
        raise NoImagesError(f"{printable(str(labels_file))} names no picture of the base set")
    unlisted = sum(item.path not in named for item in found)
    return BaseSet(
        root,
        items,
        skips,
        Path(os.path.abspath(labels_file)),
        listed.left_out(),
        unlisted,  # noqa: PTH100
    )


def build_index(  # noqa: PLR0913 - each is a choice of the user's
    images: str | os.PathLike[str],
    index_name: str | os.PathLike[str],
    *,
    labels_file: str | os.PathLike[str] | None = None,
    model: str = DEFAULT_MODEL,
    weights: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    running: Running | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuildSummary:
    """Embed a folder of pictures and write an index.

    Args:
        images: the folder; the first-level subfolder of a picture is its label.
        index_name: the index' folder; a bare name means `indexes/NAME`.
        labels_file: a csv or parquet file with path, label and, if wanted, group and split.
        model: a model's name, see `imgsearch models`.
        weights: a published name or a file, see `backbones.load_model`.
        overwrite: replace an index that exists.
        strict: a file that cannot be used is an error, not a skip.
        running: how the work is done.
        progress: called with (files done, files in all) as the work goes on.

    Returns:
        What was done, with every skipped file and its reason.

    Raises:
        IndexExistsError: there is an index already and `overwrite` is not set.
        NoImagesError: no picture could be used.
        (and the errors of models, label files and writing; see errors.py)
    """
    base = find_base_set(Path(images), None if labels_file is None else Path(labels_file))
    if strict and base.skips:
        raise _strict_error(base.skips[0])
    folder = index.locate(index_name)
    _check_free(folder, overwrite=overwrite)
    running = running or Running()
    with open_pool(running) as pool, index.IndexWriter(folder) as writer:
        _check_free(folder, overwrite=overwrite)  # nobody came in between, now that it is locked
        pool.warm()
        loaded = load_model(model, weights, running.device)
        writer.start(loaded.dim)
        started = time.perf_counter()
        items: list[StoredItem] = []
        skips = list(base.skips)
        sources = (Source(item.path, str(base.root / item.path)) for item in base.items)
        outcomes = embed(sources, loaded, pool, running.batch_size)
        for done, (item, outcome) in enumerate(zip(base.items, outcomes, strict=True), start=1):
            if outcome.vector is None or outcome.decoded is None:
                skips.append(Skip(printable(item.path), outcome.reason or ""))
                if strict:
                    raise _strict_error(skips[-1])
            else:
                writer.append(outcome.vector[None, :])
                items.append(_stored(item, outcome.decoded))
            if progress is not None:
                progress(done, len(base.items))
        if not items:
            raise NoImagesError(
                f"none of {count(len(skips), 'file')} in {printable(str(images))} could be used; "
                f"the first, {skips[0].path}: {skips[0].reason}"
            )
        seconds = time.perf_counter() - started
        skips.sort(key=lambda skip: skip.path)
        classes = _count_classes(items)

        def make(files: dict[str, FileEntry]) -> Manifest:
            return _manifest(base, loaded, classes, len(items), len(skips), files)

        writer.commit(items_bytes(items), skips_bytes(skips) if skips else None, make)
    return BuildSummary(
        index=str(folder),
        count=len(items),
        classes=classes,
        skipped=tuple(skips),
        model=loaded.model,
        weights=loaded.weights,
        dim=loaded.dim,
        seconds=seconds,
        images_per_second=len(items) / seconds if seconds > 0 else 0.0,
        left_out=base.left_out,
        unlisted=base.unlisted,
    )


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{printable(str(folder))} is a file; an index is a folder")
    if not overwrite and (folder / FILE).exists():
        raise IndexExistsError(printable(str(folder)))


def _strict_error(skip: Skip) -> InputError:
    return InputError(f"{skip.path} cannot be used and --strict was asked for: {skip.reason}")


def _stored(item: ImageItem, decoded: DecodedImage) -> StoredItem:
    return StoredItem(
        path=item.path,
        label=item.label,
        sha256=decoded.sha256,
        width=decoded.width,
        height=decoded.height,
        size=decoded.size,
        mtime_ns=decoded.mtime_ns,
        group=item.group,
    )


def _count_classes(items: list[StoredItem]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        if item.label is not None:
            counts[item.label] = counts.get(item.label, 0) + 1
    return dict(sorted(counts.items()))


def _manifest(  # noqa: PLR0917 - it gathers what all rooms know
    base: BaseSet,
    loaded: LoadedModel,
    classes: dict[str, int],
    number: int,
    skipped: int,
    files: dict[str, FileEntry],
) -> Manifest:
    import faiss

    return Manifest(
        created_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        program=f"imgsearch-faiss {__version__}",
        faiss=faiss.__version__,
        engine=f"{loaded.engine.name} {loaded.engine.version}",
        model=loaded.model,
        weights=loaded.weights,
        weights_sha256=loaded.weights_sha256,
        weights_source=loaded.weights_source,
        preprocessing=loaded.preprocess,
        precision="fp32",
        dim=loaded.dim,
        count=number,
        classes=classes,
        image_root=str(base.root),
        labels_file=None if base.labels_file is None else str(base.labels_file),
        skipped=skipped,
        files=files,
    )
