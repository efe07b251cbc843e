"""The process that opens strangers' pictures: one request in, one answer out, until its input ends.

It may die: `decoding.py` starts it, gives it one picture at a time and starts another when needed.

A frame is a JSON header and a payload, each behind its length:
8 bytes (header length, payload length; big-endian), header, payload.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import stat
import struct
from typing import Any, BinaryIO

LENGTHS = struct.Struct(">II")


def read_frame(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read one frame; None at the end of the stream."""
    head = stream.read(LENGTHS.size)
    if len(head) < LENGTHS.size:
        return None
    header_size, payload_size = LENGTHS.unpack(head)
    header = stream.read(header_size)
    payload = stream.read(payload_size)
    if len(header) < header_size or len(payload) < payload_size:
        return None
    return json.loads(header), payload


def write_frame(stream: BinaryIO, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame and flush it."""
    raw = json.dumps(header).encode("ascii")
    stream.write(LENGTHS.pack(len(raw), len(payload)))
    stream.write(raw)
    stream.write(payload)
    stream.flush()


def serve() -> None:
    """Answer requests from standard input on standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What C libraries print must not reach the answers, nor anybody's terminal.
    answers = os.fdopen(os.dup(1), "wb")
    requests = os.fdopen(os.dup(0), "rb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)

    from imgsearch import images

    _leave_no_core()
    images.disarm()
    images.formats()  # loads Pillow's decoders, so that no picture pays for that
    write_frame(answers, {"ready": True})
    limited = False
    while (frame := read_frame(requests)) is not None:
        request, payload = frame
        if not limited:
            _limit_memory(int(request["limits"]["memory"]))
            limited = True
        # Should the parent be gone, nobody else ends a decoder that never comes back.
        signal.alarm(int(request["limits"]["seconds"]) + 5)
        header, out = _answer(request, payload)
        signal.alarm(0)
        write_frame(answers, header, out)


def _leave_no_core() -> None:
    """Have a picture that crashes this process leave no core file in the user's folder."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_memory(extra: int) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - no pathlib here
            held = int(statm.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (held + extra, hard))


def _answer(request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
    from imgsearch.errors import ImageDecodeError

    name = request["name"]
    try:
        mtime_ns = 0
        if request["path"] is not None:
            payload, mtime_ns = read_file(request["path"], name, int(request["limits"]["size"]))
        header, out = _process(request, payload, name)
    except ImageDecodeError as error:
        return {"reason": error.reason}, b""
    except MemoryError:
        return {"reason": "it needs more memory than one picture may take"}, b""
    header.update(sha256=hashlib.sha256(payload).hexdigest(), size=len(payload), mtime_ns=mtime_ns)
    return header, out


def too_large(size: int, most: int) -> str:
    """Say why a file of `size` bytes is not read."""
    return f"its {size:,} bytes are more than {most:,}"


def read_file(path: str, name: str, most: int) -> tuple[bytes, int]:
    """Return a file's content and time of writing; raises ImageDecodeError."""
    from imgsearch.errors import ImageDecodeError

    try:
        # Without O_NONBLOCK the opening of a pipe would wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageDecodeError(name, "it is not a regular file")
            if status.st_size > most:
                raise ImageDecodeError(name, too_large(status.st_size, most))
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                return stream.read(status.st_size), status.st_mtime_ns
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise ImageDecodeError(name, "there is no such file") from None
    except OSError as error:
        raise ImageDecodeError(name, f"it cannot be read: {error.strerror}") from error


def _process(request: dict[str, Any], data: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    from imgsearch import images
    from imgsearch.records import Preprocess

    job = request["job"]
    preprocess = None if job["preprocess"] is None else Preprocess(**job["preprocess"])
    # Twice what is needed, so that the last reduction is still a proper resampling.
    room = (preprocess and preprocess.reduce) or 2
    side = preprocess.resize if preprocess is not None else max(job["width"], job["height"])

    def decode(shrink: float) -> images.Picture:
        return images.decode(
            data,
            name,
            max_pixels=int(request["limits"]["pixels"]),
            need=room * side,
            shrink=shrink,
            only=request["formats"],
        )

    as_pixels = preprocess is None and not job["quality"]
    # A quarter, even with as much room, has moved embeddings by more than a half does.
    shrink = 2.0 if preprocess is not None and preprocess.reduce > 0 else 1.0
    picture = decode(8.0 if as_pixels else shrink)
    if preprocess is None:
        fitted = images.fit(picture.image, job["width"], job["height"], job["fit"])
        out = fitted.tobytes() if as_pixels else images.to_jpeg(fitted, job["quality"])
    else:
        pixels = images.to_input(picture, preprocess)
        if preprocess.reduce and picture.reduced and images.is_flat(pixels):
            picture = decode(1.0)
            pixels = images.to_input(picture, preprocess)
        out = pixels.tobytes()
    return {"width": picture.width, "height": picture.height}, out
