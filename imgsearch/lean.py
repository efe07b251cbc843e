"""A PNG or JPEG without what it says about itself: no pixel depends on that, and it has no bounds.

Texts, profiles and comments may be a million or of any size, and a decoder would read them all.
What tells the turn of a picture stays, as often as a picture needs it.
"""

from __future__ import annotations

import bisect
import io
import itertools
import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

    from _typeshed import WriteableBuffer

    Span = tuple[int, int]

_PNG_START = b"\x89PNG\r\n\x1a\n"
_JPEG_START = b"\xff\xd8\xff"
# Of chunks that a reader may pass over, by PNG's own rule, pixels depend on these alone.
_PNG_NEEDED = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}
_PNG_HEAD = struct.Struct(">I4s")  # length, kind
_PNG_FRAME = _PNG_HEAD.size + 4  # and a sum
_SMALL_LETTERS = ord("a")
# EXIF, and what programs wrote before there was a chunk for it; a turn may stand in XMP, too.
_PNG_TURNS = {
    b"eXIf": b"",
    b"tEXt": b"Raw profile type exif\0",
    b"zTXt": b"Raw profile type exif\0",
    b"iTXt": b"XML:com.adobe.xmp\0",
}
# The marks of colour and of the turn: APP0, APP1, APP14.
_JPEG_NEEDED = {
    0xE0: (b"JFIF\0",),
    0xE1: (b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"),
    0xEE: (b"Adobe",),
}
_JPEG_BALLAST = {*range(0xE0, 0xF0), 0xFE}  # all else of programs, and comments
_JPEG_HEAD = struct.Struct(">BBH")  # escape, marker, length
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_JPEG_ENDS = {0xD9, 0xDA}  # the end, and the pixels
_ESCAPE = 0xFF
# One of each kind is what a picture needs; a long EXIF of a JPEG goes on in the next segments.
_MOST_OF_A_KIND = 4
# A text that would unpack to more is no EXIF and no XMP. Pillow refuses the picture at 1 MiB.
_LONGEST_TEXT = 1 << 19


def opened(data: bytes) -> BinaryIO:
    """Open a file's bytes for reading, without the ballast where that is a PNG or a JPEG.

    Nothing is copied. Bytes that break the format's rules are left as they are, from there on:
    what is wrong with them is for the decoder to say.
    """
    if data.startswith(_PNG_START):
        spans = list(_joined(_png(data)))
    elif data.startswith(_JPEG_START):
        spans = list(_joined(_jpeg(data)))
    else:
        return io.BytesIO(data)
    if spans == [(0, len(data))]:
        return io.BytesIO(data)
    return io.BufferedReader(_Spans(data, spans))


def _joined(spans: Iterator[Span]) -> Iterator[Span]:
    """Join spans that touch, so that a picture has a few and not one a chunk."""
    start = end = 0
    for first, last in spans:
        if first != end:
            yield start, end
            start = first
        end = last
    yield start, end


def _png(data: bytes) -> Iterator[Span]:
    """Yield the spans of a PNG to keep."""
    counts = dict.fromkeys(_PNG_TURNS, 0)
    head, size = _PNG_HEAD.unpack_from, len(data)
    at = len(_PNG_START)
    yield 0, at
    # A million chunks are a million rounds.
    while at + _PNG_FRAME <= size:
        length, kind = head(data, at)
        end = at + _PNG_FRAME + length
        if end > size:
            break
        # A small letter first: a reader may pass over it.
        if kind[0] < _SMALL_LETTERS or kind in _PNG_NEEDED:
            yield at, end
        elif (
            kind in counts
            and data.startswith(_PNG_TURNS[kind], at + 8)
            and counts[kind] < _MOST_OF_A_KIND
            and _turns(kind, data, at + 8, end - 4)
        ):
            counts[kind] += 1
            yield at, end
        at = end
        if kind == b"IEND":
            return
    yield at, size


def _turns(kind: bytes, data: bytes, start: int, end: int) -> bool:
    """Whether a chunk that may tell the turn of a picture is of a sane size."""
    if kind == b"eXIf":
        return True
    if end - start > _LONGEST_TEXT:
        return False
    return kind == b"tEXt" or _unpacks(data[start:end], kind)


def _unpacks(text: bytes, kind: bytes) -> bool:
    """Whether a text that may be compressed is one, and is not too long."""
    rest = text.partition(b"\0")[2]
    if kind == b"iTXt":
        if rest[:1] != b"\1":
            return True
        rest = rest[1:2] + rest[2:].split(b"\0", 2)[-1]  # behind a language and a keyword in it
    press = zlib.decompressobj()
    try:
        press.decompress(rest[1:], _LONGEST_TEXT)  # behind the method
    except zlib.error:
        return False
    return not press.unconsumed_tail


def _jpeg(data: bytes) -> Iterator[Span]:
    """Yield the spans of a JPEG to keep."""
    counts: dict[bytes, int] = {}
    head, size = _JPEG_HEAD.unpack_from, len(data)
    at = 2
    yield 0, at
    while at + _JPEG_HEAD.size <= size:
        escape, marker, length = head(data, at)
        if escape != _ESCAPE or marker in _JPEG_ENDS:
            break
        if marker == _ESCAPE or marker in _JPEG_ALONE:
            end = at + (1 if marker == _ESCAPE else 2)
            yield at, end
            at = end
            continue
        end = at + 2 + length
        if end > size or length < 2:  # noqa: PLR2004 - a length counts itself
            break
        if marker not in _JPEG_BALLAST:
            yield at, end
        elif marker in _JPEG_NEEDED:
            for start in _JPEG_NEEDED[marker]:
                if data.startswith(start, at + 4) and counts.get(start, 0) < _MOST_OF_A_KIND:
                    counts[start] = counts.get(start, 0) + 1
                    yield at, end
        at = end
    yield at, size


class _Spans(io.RawIOBase):
    """Some spans of a file as one file."""

    def __init__(self, data: bytes, spans: list[Span]) -> None:
        self._view = memoryview(data)
        self._spans = spans
        # Where each span begins in the file that is shown.
        sizes = (end - start for start, end in spans)
        self._starts = list(itertools.accumulate(sizes, initial=0))
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise OSError("before the start of the file")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        room = memoryview(buffer).cast("B")
        number, done = bisect.bisect_right(self._starts, self._place) - 1, 0
        while done < len(room) and number < len(self._spans):
            start, end = self._spans[number]
            first = start + self._place - self._starts[number]
            part = self._view[first : min(end, first + len(room) - done)]
            room[done : done + len(part)] = part
            self._place += len(part)
            done += len(part)
            number += 1
        return done
