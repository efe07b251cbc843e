"""Converted models, kept once made: whole or not at all, and checked whenever they are read.

An entry is one zip file named after the weights, after everything else that it depends on, and
after its own content, so that its name proves it. A damaged one is made anew. Whoever removes the
folder loses time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsearch.errors import WriteError
from imgsearch.files import PART, write_file, writing
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    # The files of a model by name.
    Parts = dict[str, bytes]

VARIABLE = "IMGSEARCH_CACHE"
_DIGITS = 16
_LONGEST_WAIT = 600.0  # seconds for another process that makes the same model
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal content, equal bytes


def folder() -> Path:
    """Return where converted models are kept; nothing is made."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("imgsearch", appauthor=False))


def pack(parts: Parts) -> bytes:
    """Put the files of a model into one, not compressed: the same bytes for the same content."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(parts):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), parts[name])
    return out.getvalue()


def unpack(data: bytes) -> Parts:
    """Take apart what `pack` made; raises ValueError where it is something else.

    Nothing in it is larger than the file is, so that it costs no more memory than twice its size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            stored = all(
                entry.compress_type == zipfile.ZIP_STORED and entry.file_size <= len(data)
                for entry in entries
            )
            if not stored or sum(entry.file_size for entry in entries) > len(data):
                raise ValueError("its parts are not stored as they are")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise ValueError("it is no archive") from error


def stem(kind: str, weights_sha256: str, facts: dict[str, Any]) -> str:
    """Name an entry: its kind, the weights it was made of, and a sum over all else.

    Args:
        kind: the engine, and the precision where it is not fp32.
        weights_sha256: of the weights file.
        facts: what else decides what is in it (JSON values): model, preprocessing, versions.
    """
    text = json.dumps({**facts, "weights": weights_sha256}, sort_keys=True)
    rest = hashlib.sha256(text.encode()).hexdigest()
    return f"{kind}-{weights_sha256[:_DIGITS]}-{rest[:_DIGITS]}"


def read(name: str) -> Parts | None:
    """Read an entry by its stem; None where there is none that is whole. Damaged ones go."""
    for file in _files_of(name):
        with contextlib.suppress(OSError):
            data = file.read_bytes()
            if file.stem.endswith(f"-{hashlib.sha256(data).hexdigest()[:_DIGITS]}"):
                with contextlib.suppress(ValueError):
                    return unpack(data)
            file.unlink()
    return None


def _files_of(name: str) -> list[Path]:
    try:
        return sorted(folder().glob(f"{name}-{'?' * _DIGITS}.zip"))
    except OSError:
        return []


def fetch(name: str, make: Callable[[], Parts]) -> Parts:
    """Read an entry, or make it and keep it.

    Of several processes that want the same one makes it and the others wait.

    Args:
        name: its stem.
        make: makes the parts of the model.

    Raises:
        WriteError: it is not there and cannot be kept. `make` was not called.
        (and what `make` raises)
    """
    kept = read(name)
    if kept is not None:
        return kept
    with _alone(name) as alone:
        kept = read(name)
        if kept is not None:
            return kept
        if alone:
            for part in folder().glob(f".{name}-*{PART}*"):  # of a process that was killed here
                part.unlink(missing_ok=True)
        parts = make()
        data = pack(parts)
        total = hashlib.sha256(data).hexdigest()[:_DIGITS]
        write_file(folder() / f"{name}-{total}.zip", data)
        return parts


@contextlib.contextmanager
def _alone(name: str) -> Iterator[bool]:
    """Make the folder and hold the lock of one entry, or else yield False after a long wait.

    Raises:
        WriteError: the folder cannot be written.
    """
    import filelock

    place = folder()
    try:
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(place / f".{name}.lock")
            # Who waits too long makes the model, too: each writes it whole, under its own name.
            with contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=_LONGEST_WAIT)
    except WriteError as error:
        raise WriteError(
            f"{str(error).rstrip('.')}: converted models are kept there; give another folder in "
            f"the variable {VARIABLE} (it is {printable(str(place))} now)"
        ) from error
    try:
        yield lock.is_locked
    finally:
        lock.release()
