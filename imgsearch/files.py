"""Writing results: whole or not at all, and with a sentence where the system refuses."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from imgsearch.errors import WriteError
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# What is not finished yet has this in its name.
PART = ".part-"


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Translate the operating system's refusals into a WriteError that names `target`."""
    try:
        yield
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise WriteError(f"{printable(str(target))} cannot be written: {said}") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such thing; it is no failure of theirs.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are missing, so that a power cut keeps them."""
    missing = [made for made in (folder, *folder.parents) if not made.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def write_file(file: Path, data: bytes) -> None:
    """Write a result beside its place, sync it and put it there whole; raises WriteError."""
    part = file.with_name(f".{file.name}{PART}{os.getpid()}")
    with writing(file):
        try:
            with part.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            part.replace(file)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
