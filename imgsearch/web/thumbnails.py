"""Pictures of the base set, made small, without metadata, and kept while there is room."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import folders
from imgsearch.decoding import DecoderPool, Source
from imgsearch.errors import ImageDecodeError, NotFoundError
from imgsearch.places import source_of
from imgsearch.text import is_remote

if TYPE_CHECKING:
    from imgsearch.records import Limits

    _Key = tuple[str, str, int]


class Thumbnails:
    """Makes JPEGs of items, each once at a time, in a decoder process of its own.

    A page full of pictures so takes nothing from the decoders that queries wait for.
    """

    def __init__(self, limits: Limits, most_bytes: int) -> None:
        """Nothing starts yet."""
        self._pool = DecoderPool(1, limits)
        self._most = most_bytes
        self._kept: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0
        self._making: dict[_Key, Future[bytes]] = {}
        self._lock = threading.Lock()

    def get(self, root: str, path: str, sha256: str, side: int) -> Future[bytes]:
        """Return a future of a JPEG that fits into side x side pixels.

        Args:
            root: the image root: a folder, or a URL of object storage.
            path: the item's path, relative to it.
            sha256: the sum that the index has for it: another picture is another thumbnail.
            side: pixels.

        Raises:
            NotFoundError: its place is no longer a file inside the root (the future raises
                ImageDecodeError where it is no picture any more).
        """
        key = (path, sha256, side)
        with self._lock:
            data = self._kept.get(key)
            if data is not None:
                self._kept.move_to_end(key)
                done: Future[bytes] = Future()
                done.set_result(data)
                return done
            if key in self._making:
                return self._making[key]
            file = os.path.join(root, path)  # noqa: PTH118 - it may be a URL
            remote = is_remote(file)
            if not remote and (folders.escapes(Path(root), path) or not Path(file).is_file()):
                raise NotFoundError(f"the picture of {path} is not there any more")
            source = _nameless(source_of(file, hasty=True), path)
            making = self._pool.jpeg_later(source, side, side)
            self._making[key] = making
        making.add_done_callback(lambda future: self._keep(key, future))
        return making

    def close(self) -> None:
        """End the decoder."""
        self._pool.close()

    def _keep(self, key: _Key, future: Future[bytes]) -> None:
        with self._lock:
            self._making.pop(key, None)
            if future.cancelled() or future.exception() is not None:
                return
            data = future.result()
            self._kept[key] = data
            self._size += len(data)
            while self._size > self._most:
                self._size -= len(self._kept.popitem(last=False)[1])


def _nameless(source: Source, path: str) -> Source:
    """Call a picture by its relative path, in errors, too: nobody outside is told where it lies."""
    fetch = source.fetch
    if fetch is None:
        return replace(source, name=path)

    def fetched(most: int) -> bytes:
        try:
            return fetch(most)
        except NotFoundError:
            raise NotFoundError(f"the picture of {path} cannot be had now") from None
        except ImageDecodeError as error:
            raise ImageDecodeError(path, error.reason) from None

    return replace(source, name=path, fetch=fetched)
