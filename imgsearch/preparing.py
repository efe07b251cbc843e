"""The journey of `prepare`: a copy of a folder of pictures in one format and size."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections import Counter, deque
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from imgsearch import folders
from imgsearch.embedding import open_pool
from imgsearch.errors import ImageDecodeError, InputError, NoImagesError
from imgsearch.files import writing
from imgsearch.images import FITS, Fit
from imgsearch.places import place_of
from imgsearch.records import ImageItem, PrepareSummary, Running, Skip
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from imgsearch.decoding import DecoderPool
    from imgsearch.places import Place

DEFAULT_SIZE = (1028, 768)
_QUALITY = 92
_LARGEST_SIDE = 16_384
_SUFFIX = ".jpg"
_LONGEST_NAME = 255  # bytes, on every file system in use


def prepare(
    images: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    size: tuple[int, int] = DEFAULT_SIZE,
    fit: Fit = "pad",
    overwrite: bool = False,
    running: Running | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareSummary:
    """Copy the pictures of a folder as EXIF-turned RGB JPEGs of one size.

    Subfolders, and with them the labels, stay; a name gets the suffix .jpg (behind its own suffix
    where two pictures would else have the same name). The originals are not touched.

    Args:
        images: the folder, or an s3:// or gs:// URL.
        dest: where the copies go: a new or empty folder outside of `images`.
        size: width and height in pixels.
        fit: "pad" keeps the whole picture and fills up with white, "crop" fills the size and cuts
            the rest, "stretch" ignores proportions, "inside" makes it no larger than the size.
        overwrite: `dest` may hold files already; those of the same name are replaced.
        running: how the work is done.
        progress: called with (files done, files in all).

    Raises:
        NotFoundError, InputError: `images` is no folder, or size, fit or dest cannot be used.
        NoImagesError: no picture could be used.
        WriteError: `dest` cannot be written.
    """
    started = time.perf_counter()
    source, target = place_of(images), Path(dest)
    _check(source, target, size, fit, overwrite=overwrite)
    items, skips = source.find()
    done = 0
    with open_pool(running or Running()) as pool:
        for tried, (item, name, outcome) in enumerate(
            _work(pool, source, items, size, fit), start=1
        ):
            try:
                data = outcome.result()
            except ImageDecodeError as error:
                skips.append(Skip(printable(item.path), error.reason))
            else:
                _write(target / name, data)
                done += 1
            if progress is not None:
                progress(tried, len(items))
    if not done:
        why = f"; the first of {count(len(skips), 'skip')}: {skips[0].reason}" if skips else ""
        raise NoImagesError(f"there are no pictures in {printable(source.given)}{why}")
    skips.sort(key=lambda skip: skip.path)
    seconds = time.perf_counter() - started
    return PrepareSummary(str(target), done, *size, tuple(skips), seconds)


def _check(
    source: Place, target: Path, size: tuple[int, int], fit: str, *, overwrite: bool
) -> None:
    if not source.remote:
        folders.check_folder(Path(source.given))
    if fit not in FITS:
        raise InputError(f"there is no fit '{fit}'; choose one of: {', '.join(FITS)}")
    if not all(1 <= side <= _LARGEST_SIDE for side in size):
        raise InputError(f"a size is two numbers of pixels from 1 to {_LARGEST_SIDE:,}")
    shown = printable(str(target))
    # Of os.path: pathlib raises for a name that is too long, and then nothing can be written there.
    if os.path.exists(target) and not target.is_dir():  # noqa: PTH110
        raise InputError(f"{shown} is a file; the copies need a folder")
    copies, originals = os.path.realpath(target) + "/", os.path.realpath(source.name) + "/"
    if source.remote:
        originals = ""
    elif copies.startswith(originals):
        raise InputError(f"{shown} lies inside of the pictures; choose a folder beside them")
    if originals.startswith(copies):
        # A copy could get the place of an original.
        raise InputError(f"{shown} holds the pictures themselves; choose a folder beside them")
    if os.path.isdir(target) and not overwrite and any(target.iterdir()):  # noqa: PTH112
        raise InputError(f"{shown} is not empty; choose a new folder, or add --overwrite")


def target_names(items: list[ImageItem]) -> list[str]:
    """Return the names of the copies, no two alike: .jpg instead of a suffix, or behind it."""
    short = [str(PurePosixPath(item.path).with_suffix(_SUFFIX)) for item in items]
    times = Counter(name.casefold() for name in short)
    taken = set(times)
    names = []
    for item, name in zip(items, short, strict=True):
        alone = times[name.casefold()] == 1 or name == item.path
        if not alone or len(os.fsencode(PurePosixPath(name).name)) > _LONGEST_NAME:
            name = _free(item.path, taken)  # noqa: PLW2901 - the name is made up in two steps
            taken.add(name.casefold())
        names.append(name)
    return names


def _free(path: str, taken: set[str]) -> str:
    """Find a name that no other copy has, made of the original's whole name."""
    folder, slash, own = path.rpartition("/")
    for number in itertools.count(1):
        end = _SUFFIX if number == 1 else f".{number}{_SUFFIX}"
        room = _LONGEST_NAME - len(end)
        name = f"{folder}{slash}{os.fsencode(own)[:room].decode(errors='ignore')}{end}"
        if name.casefold() not in taken:
            return name
    raise AssertionError  # count() does not end


def _work(
    pool: DecoderPool, source: Place, items: list[ImageItem], size: tuple[int, int], fit: Fit
) -> Iterator[tuple[ImageItem, str, Future[bytes]]]:
    """Keep all workers busy, a few pictures ahead of the writing."""
    waiting: deque[tuple[ImageItem, str, Future[bytes]]] = deque()
    for item, name in zip(items, target_names(items), strict=True):
        future = pool.jpeg_later(source.source(item.path), *size, how=fit, quality=_QUALITY)
        waiting.append((item, name, future))
        if len(waiting) > 2 * pool.workers:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _write(file: Path, data: bytes) -> None:
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{os.getpid()}.part")
        try:
            part.write_bytes(data)
            part.replace(file)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
