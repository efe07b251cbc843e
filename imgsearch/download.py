"""Fetch one file by HTTP: whole, checked and in its place, or not at all.

What comes in goes to a part file beside that place, which its writer keeps locked. Where a writer
was killed the lock is gone and the part is not: `remove_leftovers` tells the two apart, so that
nothing half-written stays and no other download is disturbed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING, BinaryIO

from imgsearch.errors import WriteError
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PART = ".imgsearch-part"
_SILENCE = 30.0  # seconds without a byte after which the server counts as gone
_CHUNK = 1 << 18
_MEGA = 1_000_000
_STEPS = 10  # lines of progress


class DownloadError(Exception):
    """The file did not come, or another came; its text says why, without saying which file."""


def download(url: str, file: Path, hash_prefix: str) -> None:
    """Fetch `url` to `file`, whose folder is made if it is not there.

    Args:
        url: http, https or file address.
        file: where it goes. It appears there at once and whole.
        hash_prefix: the first hex digits that its sha256 must have.

    Raises:
        DownloadError: it could not be fetched, or has another hash.
        WriteError: the folder cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _part_of(file) as (part, stream):
            total = hashlib.sha256()
            for chunk in _read(url, file.name):
                total.update(chunk)
                stream.write(chunk)
            if not total.hexdigest().startswith(hash_prefix):
                raise DownloadError(
                    f"what came has the sha256 {total.hexdigest()[:8]}..., not {hash_prefix}..."
                )
            stream.flush()
            os.fsync(stream.fileno())
            part.replace(file)
    except OSError as error:  # what the network raises is a DownloadError by now
        raise WriteError(
            f"{printable(str(file.parent))} cannot be written ({error.strerror or error}): "
            "give another folder in the variable TORCH_HOME"
        ) from error


@contextlib.contextmanager
def _part_of(file: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Make a locked part file beside `file`; it is gone afterwards, whatever happened."""
    while True:
        part = file.with_name(f"{file.name}.{uuid.uuid4().hex}{PART}")
        with part.open("xb") as stream:
            with contextlib.suppress(OSError):  # a file system without locks: nobody can take it
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not os.fstat(stream.fileno()).st_nlink:
                continue  # taken for a left-over between these two lines
            try:
                yield part, stream
            finally:
                part.unlink(missing_ok=True)
            return


def remove_leftovers(folder: Path) -> None:
    """Remove the part files of downloads that were killed, and of no others."""
    for part in folder.glob(f"*{PART}"):
        with contextlib.suppress(OSError), part.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _read(url: str, name: str) -> Iterator[bytes]:
    """Yield the content in pieces, and tell of it on a terminal; raises only DownloadError."""
    request = urllib.request.Request(url, headers={"User-Agent": "imgsearch"})  # noqa: S310 - a table's
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE) as answer:  # noqa: S310 - the same
            stated = answer.headers.get("Content-Length", "")
            size = int(stated) if stated.isdecimal() else None
            done = 0
            while chunk := answer.read(_CHUNK):
                _tell(name, done, done + len(chunk), size)
                done += len(chunk)
                yield chunk
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"the server answers {error.code} {printable(error.reason)}") from error
    except http.client.IncompleteRead as error:
        raise DownloadError("the connection ended before all of it had come") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        said = getattr(error, "reason", None) or error
        raise DownloadError(printable(" ".join(str(said).split()))[:160]) from error
    if size is not None and done < size:
        raise DownloadError(f"the connection ended after {done:,} of {size:,} bytes")


def _tell(name: str, before: int, done: int, size: int | None) -> None:
    """Say on a terminal how far it is, in whole lines: another bar may be drawn below them."""
    step = max(1, size // _STEPS) if size else 10 * _MEGA
    if not sys.stderr.isatty() or before // step == done // step:
        return
    of = f" of {size / _MEGA:.0f}" if size else ""
    sys.stderr.write(f"fetching {printable(name)}: {done / _MEGA:.0f}{of} MB\n")
