"""Where the pictures of a base set lie: in a folder, or in object storage.

A place is named by what a manifest keeps as `image_root`: a folder's absolute path, or a URL.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imgsearch import folders
from imgsearch.decoding import Source
from imgsearch.memory import FileState, content_sum, look
from imgsearch.text import is_remote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imgsearch.records import ImageItem, Skip


class Place(Protocol):
    """Lists pictures and gives them out. Paths are POSIX and relative to the place.

    `given` is the name as the user wrote it. `remote` says whether pictures come over a network:
    they are then not read twice where that can be helped, and any machine with the right to do so
    can read them.
    """

    name: str
    given: str
    remote: bool

    def find(self, leave: Path | None = None) -> tuple[list[ImageItem], list[Skip]]:
        """List the pictures, sorted by path, with the first-level folder as label; and skips."""

    def escapes(self, path: str) -> bool:
        """Whether a path that somebody gave leads out of the place."""

    def look(self, path: str) -> FileState | None:
        """Return what is known of a file without reading it, None where there is none."""

    def is_gone(self, path: str) -> bool:
        """Whether it is certain that there is no such file."""

    def content_sum(self, path: str, most: int) -> str | None:
        """Return the sha256 of a file's content, None where it is not to be had or too large."""

    def source(self, path: str) -> Source:
        """Return one picture for a decoder."""

    def sources(
        self, paths: Iterable[str], most: int
    ) -> contextlib.AbstractContextManager[Iterator[Source]]:
        """Give out many pictures in their order, those to come already under way.

        `most` is the largest file, in bytes, that a decoder takes.
        """


class Folder:
    """A folder of this machine."""

    remote = False

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Name the folder; nothing is read yet."""
        self.given = str(path)
        self.root = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links
        self.name = str(self.root)

    def find(self, leave: Path | None = None) -> tuple[list[ImageItem], list[Skip]]:
        """See Place; raises as `folders.find_images` does."""
        folders.check_folder(Path(self.given))  # so that an error shows the name as it was given
        return folders.find_images(self.root, leave)

    def escapes(self, path: str) -> bool:
        """See Place."""
        return folders.escapes(self.root, path)

    def look(self, path: str) -> FileState | None:
        """See Place."""
        return look(f"{self.name}/{path}")

    def is_gone(self, path: str) -> bool:
        """See Place."""
        try:
            os.stat(f"{self.name}/{path}")  # noqa: PTH116 - paths are text here, for speed
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def content_sum(self, path: str, most: int) -> str | None:
        """See Place."""
        return content_sum(f"{self.name}/{path}", most)

    def source(self, path: str) -> Source:
        """See Place."""
        return Source(path, f"{self.name}/{path}")

    @contextlib.contextmanager
    def sources(self, paths: Iterable[str], most: int) -> Iterator[Iterator[Source]]:
        """See Place: a decoder opens the file itself."""
        del most
        yield (self.source(path) for path in paths)


def place_of(name: str | os.PathLike[str]) -> Place:
    """Return the place of a name: a folder, or what lies below an s3:// or gs:// URL.

    Raises:
        InputError: the URL cannot be used.
    """
    text = os.fspath(name)
    if not is_remote(text):
        return Folder(name)
    from imgsearch.objects import Bucket

    return Bucket(text)


def source_of(file: str, *, hasty: bool = False) -> Source:
    """Return a picture by its full name; `hasty` asks for an object once, not again and again."""
    if not is_remote(file):
        return Source(file, file)
    from imgsearch.objects import Bucket

    root, _, path = file.rpartition("/")
    found = (Bucket(root, attempts=1) if hasty else Bucket(root)).source(path)
    return replace(found, name=file)
