"""Processes that open pictures for us: supervised, limited, and each picture costs one picture.

A picture that kills, stalls or fills its process is an ImageDecodeError; the next one gets a
fresh process. Answers come in the order of the requests.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, cast

from imgsearch._decoder import LENGTHS, too_large, write_frame
from imgsearch.errors import ImageDecodeError, ImgsearchError
from imgsearch.records import DecodedImage, Limits, Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from imgsearch.images import Fit

_Answer = TypeVar("_Answer")

_START_SECONDS = 60.0
_READ_SIZE = 1 << 20
# More than any answer has: a decoder that says more has lost its mind, and nothing is set aside
# for it.
_LARGEST_HEADER, _LARGEST_PAYLOAD = 1 << 20, 1 << 30
# The work is spread over processes: threads in each would only take address space, which is what
# the limit on memory counts.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a picture is: a file's `path`, or its `data`. `name` is what errors call it.

    `fetch` gets the data when a decoder is free for it, given the most bytes that are taken; it
    may raise ImageDecodeError. `mtime_ns` is the time of writing of what is no file here.
    """

    name: str
    path: str | None = None
    data: bytes = b""
    fetch: Callable[[int], bytes] | None = None
    mtime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Glance:
    """A picture in small: `pixels` uint8 (height, width, 3), RGB, and the sum of its file, hex."""

    pixels: npt.NDArray[np.uint8]
    sha256: str


@dataclass(frozen=True, slots=True)
class _Job:
    """For a model's input `preprocess`; else a size, as a JPEG, or as pixels at quality 0."""

    preprocess: Preprocess | None = None
    width: int = 0
    height: int = 0
    fit: str = "inside"
    quality: int = 0


class _DiedError(Exception):
    """The process ended, or closed its output, or wrote something else, before it answered."""


class _Process:
    """One decoder process and its pipes."""

    def __init__(self) -> None:
        start = "import sys,json;sys.path[:]=json.loads(sys.argv[1]);"
        start += "from imgsearch._decoder import serve;serve()"
        self.child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            # What Pillow warns of, and remembers to have warned of, is of no use here; and the
            # user's own PYTHONWARNINGS must make no error of it.
            [sys.executable, "-P", "-W", "ignore", "-c", start, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ENVIRONMENT},
            # Ctrl-C is for the parent, who then ends its decoders.
            start_new_session=True,
        )
        self._held = b""
        try:
            self.receive(_START_SECONDS)
        except BaseException:
            self.end()
            raise

    def send(self, header: dict[str, Any], payload: bytes) -> None:
        pipe = self.child.stdin
        if pipe is None:
            raise _DiedError
        try:
            write_frame(cast("BinaryIO", pipe), header, payload)
        except OSError as error:
            raise _DiedError from error

    def receive(self, seconds: float) -> tuple[dict[str, Any], bytes]:
        """Wait for one frame; TimeoutError when it does not come, _DiedError when none will."""
        deadline = time.monotonic() + seconds
        self._fill(LENGTHS.size, deadline)
        header_size, payload_size = LENGTHS.unpack(self._held[: LENGTHS.size])
        if header_size > _LARGEST_HEADER or payload_size > _LARGEST_PAYLOAD:
            raise _DiedError
        end = LENGTHS.size + header_size
        self._fill(end + payload_size, deadline)
        try:
            header = json.loads(self._held[LENGTHS.size : end])
        except ValueError as error:
            raise _DiedError from error
        payload = self._held[end : end + payload_size]
        self._held = self._held[end + payload_size :]
        return header, payload

    def _fill(self, size: int, deadline: float) -> None:
        pipe = self.child.stdout
        if pipe is None:
            raise _DiedError
        parts = [self._held]
        have = len(self._held)
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while have < size:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                part = os.read(pipe.fileno(), _READ_SIZE)
                if not part:
                    raise _DiedError
                parts.append(part)
                have += len(part)
        self._held = b"".join(parts)

    def end(self) -> None:
        """Kill it, unless it is gone already, and leave nothing behind."""
        self.child.kill()
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self.child.wait()


def _end_all(processes: set[_Process]) -> None:
    for process in list(processes):
        process.end()


class DecoderPool:
    """Some decoder processes; use as a context manager, or `close` it.

    Args:
        workers: how many processes at the most; they start when they are needed.
        limits: what one picture may cost.
        formats: Pillow's names of the formats to accept; all that `images.formats` lists unless
            given.
    """

    def __init__(
        self, workers: int = 1, limits: Limits | None = None, formats: list[str] | None = None
    ) -> None:
        """Nothing starts yet."""
        self.workers = max(1, workers)
        self.limits = limits or Limits()
        self._formats = formats
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="imgsearch-decode")
        # Whoever forgets to close a pool leaves no process and no pipe behind.
        self._forgotten = weakref.finalize(self, _end_all, self._all)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End all processes at once; requests under way are given up."""
        self._forgotten.detach()
        with self._lock:
            self._closed = True
            processes = list(self._all)
            self._all.clear()
        # Threads that wait for an answer must see the end of it before its pipe is closed here.
        for process in processes:
            process.child.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            process.end()

    def warm(self) -> None:
        """Start one process in the background, so that the first picture need not wait for it."""
        self._threads.submit(lambda: self._give_back(self._take()))

    def inputs(
        self, sources: Iterable[Source], preprocess: Preprocess, ahead: int
    ) -> Iterator[DecodedImage | ImageDecodeError]:
        """Decode pictures to a model's input, in their order.

        Args:
            sources: the pictures; taken only as far as `ahead` allows.
            preprocess: the model's.
            ahead: how many pictures may be under way or waiting, which bounds the memory.

        Yields:
            A DecodedImage, or the ImageDecodeError that says why there is none.
        """
        job = _Job(preprocess=preprocess)
        return self._each(lambda source: self._input(source, job), sources, ahead)

    def glances(
        self, sources: Iterable[Source], width: int, height: int
    ) -> Iterator[Glance | ImageDecodeError]:
        """Decode pictures and bring them to one small size, their proportions ignored.

        Args:
            sources: the pictures; as many are under way as there are processes, and one more.
            width: pixels.
            height: pixels.

        Yields:
            A Glance, or the ImageDecodeError that says why there is none, in their order.
        """
        job = _Job(width=width, height=height, fit="stretch")
        return self._each(lambda source: self._glance(source, job), sources, self.workers + 1)

    def _each(
        self, work: Callable[[Source], _Answer], sources: Iterable[Source], ahead: int
    ) -> Iterator[_Answer]:
        """Do some work on each source, several at once, and yield the answers in order."""
        waiting: deque[Future[_Answer]] = deque()
        feed = iter(sources)
        try:
            while True:
                while len(waiting) < max(1, ahead):
                    source = next(feed, None)
                    if source is None:
                        break
                    waiting.append(self._threads.submit(work, source))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def input(self, source: Source, preprocess: Preprocess) -> DecodedImage:
        """Decode one picture to a model's input; raises ImageDecodeError."""
        return self.input_later(source, preprocess).result()

    def input_later(self, source: Source, preprocess: Preprocess) -> Future[DecodedImage]:
        """Answer like `input`, as a future: several pictures are then worked on at once."""

        def decode() -> DecodedImage:
            answer = self._input(source, _Job(preprocess=preprocess))
            if isinstance(answer, ImageDecodeError):
                raise answer
            return answer

        return self._threads.submit(decode)

    def jpeg(
        self, source: Source, width: int, height: int, *, how: Fit = "inside", quality: int = 85
    ) -> bytes:
        """Decode one picture and encode it as an RGB JPEG of this size, without metadata.

        Raises:
            ImageDecodeError: the picture cannot be had.
        """
        return self.jpeg_later(source, width, height, how=how, quality=quality).result()

    def jpeg_later(
        self, source: Source, width: int, height: int, *, how: Fit = "inside", quality: int = 85
    ) -> Future[bytes]:
        """Answer like `jpeg`, as a future: several pictures are then worked on at once."""
        job = _Job(width=width, height=height, fit=how, quality=quality)
        return self._threads.submit(lambda: self._ask(source, job)[1])

    def _input(self, source: Source, job: _Job) -> DecodedImage | ImageDecodeError:
        import numpy as np

        try:
            header, payload = self._ask(source, job)
        except ImageDecodeError as error:
            return error
        side = -1 if job.preprocess is None else job.preprocess.crop
        return DecodedImage(
            pixels=np.frombuffer(payload, np.uint8).reshape(side, side, 3),
            sha256=header["sha256"],
            width=header["width"],
            height=header["height"],
            size=header["size"],
            mtime_ns=header["mtime_ns"] or source.mtime_ns,
        )

    def _glance(self, source: Source, job: _Job) -> Glance | ImageDecodeError:
        import numpy as np

        try:
            header, payload = self._ask(source, job)
        except ImageDecodeError as error:
            return error
        pixels = np.frombuffer(payload, np.uint8).reshape(job.height, job.width, 3)
        return Glance(pixels, header["sha256"])

    def _ask(self, source: Source, job: _Job) -> tuple[dict[str, Any], bytes]:
        data = source.data if source.fetch is None else source.fetch(self.limits.size)
        if len(data) > self.limits.size:
            raise ImageDecodeError(source.name, too_large(len(data), self.limits.size))
        request = {
            "name": source.name,
            "path": source.path,
            "formats": self._formats,
            "limits": asdict(self.limits),
            "job": asdict(job),
        }
        # A process may be killed from outside, waiting or while it holds a good picture: that is no
        # fault of the picture, so it gets a second process, made for it, and no third.
        for fresh in (False, True):
            process = self._take(fresh=fresh)
            try:
                process.send(request, data)
                header, payload = process.receive(self.limits.seconds)
            except TimeoutError:
                self._drop(process)
                reason = f"it takes more than {self.limits.seconds:g} s to open"
                raise ImageDecodeError(source.name, reason) from None
            except _DiedError:
                self._drop(process)
                continue
            except BaseException:
                self._drop(process)
                raise
            self._give_back(process)
            if "reason" in header:
                raise ImageDecodeError(source.name, header["reason"])
            return header, payload
        raise ImageDecodeError(source.name, "its decoder died twice over it")

    def _take(self, *, fresh: bool = False) -> _Process:
        with contextlib.suppress(queue.Empty):
            idle = self._idle.get_nowait()
            if not fresh:
                return idle
            self._drop(
                idle
            )  # the new one takes its place, so that there are no more than `workers`
        self._check_open()
        try:
            process = _Process()
        except (OSError, TimeoutError, _DiedError) as error:
            raise ImgsearchError(
                "no process for decoding pictures could be started on this machine"
            ) from error
        try:
            with self._lock:
                self._check_open()
                self._all.add(process)
        except ImgsearchError:
            process.end()
            raise
        return process

    def _check_open(self) -> None:
        if self._closed:
            raise ImgsearchError("the decoders were closed")

    def _give_back(self, process: _Process) -> None:
        self._idle.put(process)

    def _drop(self, process: _Process) -> None:
        with self._lock:
            self._all.discard(process)
        process.end()
