"""Find the pictures of a folder: what is there, in which order, and what is left alone."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from imgsearch.errors import InputError, NotFoundError
from imgsearch.records import ImageItem, Skip
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LEAVES = "a link that leaves the folder is not followed"


def find_images(root: Path, leave: Path | None = None) -> tuple[list[ImageItem], list[Skip]]:
    """List the regular files below `root`, recursively, sorted by their POSIX path.

    The label of a file is the first-level subfolder it lies in, None for a file directly in
    `root`. Hidden files and folders are passed over. What cannot be an item (a link that leaves
    the folder, a pipe, a name that is no UTF-8, a folder that cannot be read) is a skip with its
    reason. Nothing is opened.

    Args:
        root: the folder.
        leave: a file that is no picture though it may lie inside (the label file).

    Raises:
        NotFoundError: there is no such folder.
        InputError: it is no folder, or cannot be read.
    """
    check_folder(root)
    real_root = os.path.realpath(root)
    left = None if leave is None else os.path.realpath(leave)
    items: list[ImageItem] = []
    skips: list[Skip] = []
    for path, reason in _walk(real_root, "", set()):
        if reason is None and left == os.path.join(real_root, path):  # noqa: PTH118 - walked as text
            continue
        if reason is None and not _is_utf8(path):
            reason = "its name is not UTF-8"  # noqa: PLW2901 - a reason found later
        if reason is not None:
            skips.append(Skip(printable(path), reason))
            continue
        first, slash, _ = path.partition("/")
        items.append(ImageItem(path, first if slash else None))
    return sorted(items, key=lambda item: item.path), sorted(skips, key=lambda skip: skip.path)


def escapes(root: Path, path: str) -> bool:
    """Whether a relative path ends, through links, outside of `root`."""
    real_root = os.path.realpath(root)
    return not os.path.realpath(root / path).startswith(real_root.rstrip("/") + "/")


def check_folder(root: Path) -> None:
    """Raise NotFoundError or InputError unless `root` is a folder that can be listed."""
    shown = printable(str(root))
    try:
        if not stat.S_ISDIR(root.stat().st_mode):
            raise InputError(f"{shown} is a file; a folder of pictures is wanted here")
        os.scandir(root).close()
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"there is no folder {shown}") from None
    except OSError as error:
        raise InputError(f"the folder {shown} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a null byte in the name
        raise NotFoundError(f"there is no folder {shown}") from error


def _walk(root: str, inside: str, followed: set[str]) -> Iterator[tuple[str, str | None]]:
    """Yield (path relative to root, reason to skip or None) for every file below root/inside."""
    folders = [inside]
    while folders:
        here = folders.pop()
        try:
            with os.scandir(f"{root}/{here}") as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield here, f"the folder cannot be read: {error.strerror}"
            continue
        for entry in found:
            if entry.name.startswith("."):
                continue
            path = f"{here}/{entry.name}" if here else entry.name
            kind = _kind(entry, root, followed)
            if kind == "folder":
                folders.append(path)
            else:
                yield path, None if kind == "file" else kind


def _kind(entry: os.DirEntry[str], root: str, followed: set[str]) -> str:
    """Answer "file", "folder" or the reason why an entry is neither."""
    try:
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            if target != root and not target.startswith(root.rstrip("/") + "/"):
                return LEAVES
            if not os.path.exists(target):  # noqa: PTH110 - the path is text here
                return "a link to nothing"
            if entry.is_dir():
                # Each target is entered through a link once at most, so that no loop is endless.
                if target in followed or f"{entry.path}/".startswith(f"{target}/"):
                    return "a link to a folder that is read already"
                followed.add(target)
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else "not a regular file"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
