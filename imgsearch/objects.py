"""Pictures in object storage, s3:// and gs://, through pyarrow: listed, read ahead, tried again.

An object is skipped only where the fault is its own: it is gone, or closed to us while its folder
can still be listed, or no picture. All that may be the network's, the service's or the
credentials' fault is tried again for a while and then ends the run, so that an index never lacks
pictures because of a bad hour.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import re
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from imgsearch._decoder import too_large
from imgsearch.decoding import Source
from imgsearch.errors import ImageDecodeError, InputError, NotFoundError
from imgsearch.memory import FileState
from imgsearch.records import ImageItem, Skip
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

_Answer = TypeVar("_Answer")

# Objects that are read at once, and bytes that may wait for a decoder; one larger object may.
_READERS = 16
_BYTES_AHEAD = 1 << 26
_ATTEMPTS = 6
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds, doubled from one attempt to the next
# The service's clock may go so much before ours: what was written since proves nothing yet.
_CLOCKS_NS = 60_000_000_000
_CONNECT_SECONDS, _SILENT_SECONDS = 5.0, 10.0
_GOOGLE_SECONDS = 2.0  # for attempts of the client's own, which cannot be switched off
# What a service says of one object, whatever the weather; a denial only while it still lets us in.
_CODE = re.compile(r"AWS Error ([A-Z0-9_]+)|\b(PERMISSION_DENIED|NOT_FOUND)\b")
_DENIED = {"ACCESS_DENIED", "INVALID_OBJECT_STATE", "PERMISSION_DENIED"}
_NO_RIGHT = {"SIGNATURE_DOES_NOT_MATCH", "INVALID_ACCESS_KEY_ID", "NO_SUCH_BUCKET"} | _DENIED
GONE = "there is no such object any more"


class _Refused(Exception):  # noqa: N818 - not an error yet: it may be the object's own fault
    """The service answered, and will not give the object out."""


class _ClosedError(Exception):
    """Nobody wants the answer any more."""


class _Room:
    """Bytes that were asked for and that no decoder has taken yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._changed = threading.Condition()
        self.closed = threading.Event()

    def take(self, size: int, *, wait: bool) -> bool:
        """Take room, or return False where there is none; one object has room, whatever its size.

        It is waited for a little at a time: a signal must get through.
        """
        with self._changed:
            while self._held and self._held + size > self._most and not self.closed.is_set():
                if not wait:
                    return False
                self._changed.wait(0.2)
            self._held += size
        return True

    def leave(self, size: int) -> None:
        """Give room back."""
        with self._changed:
            self._held -= size
            self._changed.notify()


class Bucket:
    """What lies below a URL."""

    remote = True

    def __init__(
        self, url: str, *, attempts: int = _ATTEMPTS, states: dict[str, FileState] | None = None
    ) -> None:
        """Name the place; nothing is asked yet. `states` are as `find` has listed them elsewhere.

        Raises:
            InputError: the URL cannot be used.
        """
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if "@" in bucket:
            raise InputError(
                "an address of object storage holds no credentials: put them into the environment "
                "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or into the usual files"
            )
        prefix = prefix.rstrip("/")
        parts = prefix.split("/") if prefix else []
        if not bucket or any(part in {"", ".", ".."} for part in parts) or "\0" in rest:
            raise InputError(
                f"{printable(url)} is no address of pictures in object storage; one is "
                f"{scheme}://BUCKET or {scheme}://BUCKET/FOLDER"
            )
        self._scheme, self._bucket = scheme, bucket
        self._base = f"{bucket}/{prefix}" if prefix else bucket
        self.name = f"{scheme}://{self._base}"
        self.given = url
        self._attempts = attempts
        self._states = states

    # What a place can do.

    def find(self, leave: Path | None = None) -> tuple[list[ImageItem], list[Skip]]:
        """List the objects as a folder is listed, sorted by path; hidden ones are passed over.

        Raises:
            NotFoundError: there is nothing, it is closed to us, or the service cannot be reached.
        """
        del leave  # a label file is one of this machine
        items, skips = [], []
        states: dict[str, FileState] = {}
        seen_ns = time.time_ns() - _CLOCKS_NS
        for path, size, mtime_ns in self._list():
            parts = path.split("/")
            if any(part.startswith(".") and part not in {".", ".."} for part in parts):
                continue
            if any(part in {"", ".", ".."} for part in parts) or "\0" in path:
                skips.append(Skip(printable(path), "its name cannot be a path"))
                continue
            # There is no inode, and no time but that of the last writing.
            states[path] = FileState(size, mtime_ns, mtime_ns, 0, seen_ns)
            items.append(ImageItem(path, parts[0] if len(parts) > 1 else None))
        self._states = states
        return sorted(items, key=lambda item: item.path), sorted(skips, key=lambda skip: skip.path)

    def escapes(self, path: str) -> bool:
        """See Place."""
        return any(part in {"", ".", ".."} for part in path.split("/"))

    def look(self, path: str) -> FileState | None:
        """See Place: as it was listed."""
        return None if self._states is None else self._states.get(path)

    def is_gone(self, path: str) -> bool:
        """See Place."""
        return self._states is not None and path not in self._states

    def content_sum(self, path: str, most: int) -> str | None:
        """See Place; raises NotFoundError where the service fails."""
        try:
            return hashlib.sha256(self.read(path, most)).hexdigest()
        except ImageDecodeError:
            return None

    def source(self, path: str) -> Source:
        """See Place: it is read when a decoder wants it."""
        return self._source(path, lambda most: self.read(path, most))

    @contextlib.contextmanager
    def sources(self, paths: Iterable[str], most: int) -> Iterator[Iterator[Source]]:
        """See Place: several are read at once, and few wait."""
        room = _Room(_BYTES_AHEAD)
        threads = ThreadPoolExecutor(_READERS, "imgsearch-objects")
        try:
            yield self._ahead(paths, most, threads, room)
        finally:
            room.closed.set()
            threads.shutdown(wait=False, cancel_futures=True)

    # Reading.

    def read(self, path: str, most: int, closed: threading.Event | None = None) -> bytes:
        """Read an object.

        Raises:
            ImageDecodeError: it is gone, closed to us, or larger than `most` bytes.
            NotFoundError: the service cannot be reached, or lets us in no more.
        """

        def get() -> bytes:
            with self._open().open_input_stream(f"{self._base}/{path}") as stream:
                # One byte more, to see that there is more.
                return bytes(stream.read(most + 1))

        state = self.look(path)
        if state is not None and state.size > most:
            raise ImageDecodeError(path, too_large(state.size, most))
        try:
            data = self._try(get, closed)
        except FileNotFoundError:
            raise ImageDecodeError(path, GONE) from None
        except _Refused as refused:
            self._check_welcome(path, closed)
            raise ImageDecodeError(path, f"it cannot be read: {refused}") from None
        if len(data) > most:
            raise ImageDecodeError(path, too_large(len(data), most))
        return data

    def _check_welcome(self, path: str, closed: threading.Event | None) -> None:
        """Raise NotFoundError where not the object is closed to us but the whole place is."""
        from pyarrow.fs import FileSelector

        folder = f"{self._base}/{path}".rpartition("/")[0]
        try:
            self._try(lambda: self._open().get_file_info(FileSelector(folder)), closed)
        except (_Refused, FileNotFoundError) as error:
            raise NotFoundError(f"{self.name} lets us in no more: {error}") from error

    def _source(self, path: str, fetch: Callable[[int], bytes]) -> Source:
        state = self.look(path)
        return Source(path, fetch=fetch, mtime_ns=0 if state is None else state.mtime_ns)

    def _ahead(
        self, paths: Iterable[str], most: int, threads: ThreadPoolExecutor, room: _Room
    ) -> Iterator[Source]:
        """Yield objects in order, with the reading of the next ones begun."""
        waiting: deque[Source] = deque()
        feed = iter(paths)
        path = next(feed, None)
        while path is not None or waiting:
            while path is not None and len(waiting) < 2 * _READERS:
                state = self.look(path)
                size = 0 if state is None else min(state.size, most)
                # With nothing to yield all that is held is on its way to a decoder: there will be
                # room.
                if not room.take(size, wait=not waiting):
                    break
                answer = threads.submit(self.read, path, most, room.closed)
                waiting.append(self._source(path, _fetching(answer, size, room)))
                path = next(feed, None)
            yield waiting.popleft()

    def _list(self) -> Iterator[tuple[str, int, int]]:
        """Yield (path, size, time of writing) of every object below the place."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._base, recursive=True)
        try:
            found = self._try(lambda: self._open().get_file_info(selector), None)
        except FileNotFoundError:
            raise NotFoundError(f"there is nothing at {printable(self.name)}") from None
        except _Refused as refused:
            raise NotFoundError(
                f"{printable(self.name)} cannot be listed: {refused}; look at the address and at "
                "the credentials in the environment"
            ) from refused
        start = len(self._base) + 1
        for info in found:
            if info.type == FileType.File:
                yield info.path[start:], int(info.size or 0), int(info.mtime_ns or 0)

    # Asking the service.

    def _open(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        if self._scheme == "gs":
            return _open_gs(os.environ.get("STORAGE_EMULATOR_HOST") or None)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return _open_s3(self._bucket, endpoint or None, region or None)

    def _try(self, ask: Callable[[], _Answer], closed: threading.Event | None) -> _Answer:
        """Ask until there is an answer, with growing pauses.

        Raises:
            FileNotFoundError: the answer is that there is no such thing.
            _Refused: the answer is no.
            NotFoundError: there was no answer after all attempts.
        """
        pause = _FIRST_PAUSE
        for attempt in range(1, self._attempts + 1):
            if closed is not None and closed.is_set():
                raise _ClosedError
            try:
                return ask()
            except FileNotFoundError:
                raise
            except OSError as error:
                said = " ".join(str(error).split())
                code = _code(said)
                if code in _NO_RIGHT:
                    raise _Refused(_plain(said)) from error
                if code == "NOT_FOUND":
                    raise FileNotFoundError from error
                if attempt == self._attempts:
                    raise NotFoundError(
                        f"{printable(self.name)} cannot be reached, tried {attempt} times: "
                        f"{_plain(said)}"
                    ) from error
            # Not all readers at once, who were all turned away at once.
            seconds = pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
            if closed is None:
                time.sleep(seconds)
            else:
                closed.wait(seconds)
            pause = min(2 * pause, _LONGEST_PAUSE)
        raise AssertionError  # the last attempt has returned or raised


def _fetching(answer: Future[bytes], size: int, room: _Room) -> Callable[[int], bytes]:
    def fetch(_most: int) -> bytes:
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    return answer.result(timeout=0.5)
                if room.closed.is_set():
                    raise _ClosedError
        finally:
            room.leave(size)

    return fetch


def _code(said: str) -> str:
    found = _CODE.search(said)
    return "" if found is None else found.group(1) or found.group(2)


def _plain(said: str) -> str:
    """Cut what a client says of itself down to what the service said."""
    _, found, rest = said.partition("AWS Error ")
    return printable(rest if found else said).rstrip(".")[:200]


@functools.lru_cache(maxsize=8)
def _open_s3(bucket: str, endpoint: str | None, region: str | None) -> Any:  # noqa: ANN401 - pyarrow has no types
    from pyarrow import fs

    if region is None and endpoint is None:
        with contextlib.suppress(OSError):  # the listing will say what is wrong
            region = fs.resolve_s3_region(bucket)
    # Attempts are counted in one place: here, not in the client.
    return fs.S3FileSystem(
        endpoint_override=endpoint,
        region=region,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_SILENT_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )


@functools.lru_cache(maxsize=1)
def _open_gs(emulator: str | None) -> Any:  # noqa: ANN401 - pyarrow has no types
    import datetime as dt

    from pyarrow import fs

    limit = dt.timedelta(seconds=_GOOGLE_SECONDS)
    if emulator is None:
        return fs.GcsFileSystem(retry_time_limit=limit)
    # The variable that Google's own clients know, too: a server of one's own, without credentials.
    scheme, found, host = emulator.rpartition("://")
    return fs.GcsFileSystem(
        anonymous=True,
        endpoint_override=host,
        scheme=scheme if found else "http",
        retry_time_limit=limit,
    )
