"""Build an index of spoilt and hostile pictures, and look at what each of them costs.

    .venv/bin/python scripts/bench/hostile.py [--mutants 5000] [--seed 4] [--workers 1]
                                              [--only mutants bombs programs]
                                              [--bomb PART ...] [--keep FOLDER]

Works on Linux. Everything goes through the installed command, with a network as small as one can
be. What is watched from outside: the exit code, both outputs, the rows and skips of the index, the
largest resident size that the kernel counted for any process of the command, when each file was
read (its access time, so the temporary folder must keep those), and, with strace, every program
that is started. Prints a table; ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import interior_photos
import numpy as np
import pyarrow.parquet as pq
from faults import can_trace
from PIL import Image, ImageCms
from tiny import make_model

from imgsearch.index import read_manifest
from imgsearch.records import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Bomb = tuple[str, str, Callable[[], bytes]]

PROGRAM = str(Path(sys.executable).with_name("imgsearch"))
SECONDS, MEMORY = Limits().seconds, Limits().memory
# What is seen from outside holds more: the killed process gives its memory back and is collected.
SLACK_SECONDS = 1.0
MIB = 1 << 20
MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"),
    *("HSV", "I", "F", "I;16", "I;16B"),
)
# Stubs: Pillow passes through what somebody else's handler would have encoded.
STUBS = {"BUFR": b"BUFR" + bytes(60), "GRIB": b"GRIB\0\0\0\1" + bytes(60)}
STUBS["HDF5"] = b"\x89HDF\r\n\x1a\n" + bytes(60)
STUBS["WMF"] = struct.pack("<IHhhhhHIH", 0x9AC6CDD7, 0, 0, 0, 96, 64, 96, 0, 0) + b"\1\0\t\0\0\3"


# Whole pictures.


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    """Return an image as a file of this format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(number: int, size: tuple[int, int]) -> Image.Image:
    """Return a real interior, shrunk, RGB."""
    with Image.open(interior_photos.get_all_photos()[number]) as image:
        image.draft("RGB", size)
        return image.convert("RGB").resize(size)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Return an RGB picture in any mode of Pillow's."""
    if mode == "LAB":
        to = ImageCms.createProfile("LAB")
        done = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), to, outputMode=mode)
        assert done is not None
        return done
    if mode in {"RGBa", "La"}:
        return image.convert("RGBA" if mode == "RGBa" else "LA").convert(mode)
    if mode == "PA":
        return image.convert("P").convert("PA")
    if mode.startswith("I;16"):
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, image.size, deep.astype(order).tobytes())
    return image.convert(mode)


def writable() -> list[tuple[str, str, bytes]]:
    """Return (format, variant, file) for every format and mode that Pillow can write."""
    Image.init()
    image = photo(3, (96, 64))
    seeds = []
    for kind in sorted(Image.SAVE):
        if kind in STUBS:
            seeds.append((kind, "stub", STUBS[kind]))
            continue
        source = image.resize((64, 64)) if kind in {"ICNS", "ICO"} else image
        for mode in MODES:
            # Formats refuse the modes that they do not have, each with another error.
            with contextlib.suppress(OSError, ValueError, KeyError, struct.error):
                seeds.append((kind, mode, saved(in_mode(source, mode), kind)))
    return seeds + [(kind, what, data) for kind, what, data in variants(image)]


def variants(image: Image.Image) -> Iterator[tuple[str, str, bytes]]:
    """Yield files that use more of a format than Pillow's defaults."""
    others = [photo(number, image.size) for number in (5, 7, 9)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    said = {"exif": exif, "icc_profile": profile, "xmp": b"<x:xmpmeta tiff:Orientation='3'/>"}
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
        yield kind, "metadata", saved(image, kind, **said)
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        yield kind, "frames", saved(image, kind, save_all=True, append_images=others)
    yield "JPEG", "progressive", saved(image, "JPEG", progressive=True, subsampling=2)
    yield "JPEG", "restarts", saved(image, "JPEG", restart_marker_rows=1)
    for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield "TIFF", how, saved(image, "TIFF", compression=how)
    for how in ("group3", "group4", "tiff_ccitt"):
        yield "TIFF", how, saved(image.convert("1"), "TIFF", compression=how)
    yield "TIFF", "big", saved(image, "TIFF", big_tiff=True)
    yield "TGA", "rle", saved(image, "TGA", compression="tga_rle")
    for how in ("DXT1", "DXT3", "DXT5", "BC3", "BC5"):
        with contextlib.suppress(OSError):
            yield "DDS", how, saved(image.convert("RGBA"), "DDS", pixel_format=how)
    yield "WEBP", "lossless", saved(image.convert("RGBA"), "WEBP", lossless=True)
    yield "JPEG2000", "tiles", saved(image, "JPEG2000", tile_size=(32, 32), num_resolutions=3)
    yield "JPEG2000", "codestream", saved(image, "JPEG2000", no_jp2=True)
    square = image.resize((64, 64))
    yield "ICO", "bmp", saved(square, "ICO", bitmap_format="bmp", sizes=[(64, 64), (16, 16)])
    yield "BLP", "1", saved(image.convert("P"), "BLP", blp_version="BLP1")


def read_only() -> list[tuple[str, str, bytes]]:
    """Return (format, variant, file) of formats that Pillow opens and cannot write."""
    grey = photo(3, (96, 64)).convert("L").tobytes()
    ico = saved(photo(3, (64, 64)), "ICO", sizes=[(64, 64)], bitmap_format="bmp")
    pcx = saved(photo(3, (96, 64)), "PCX")
    return [
        ("FITS", "8 bits", fits([("BITPIX", "8"), ("NAXIS", "2"), *FITS_SIDES], grey)),
        ("SUN", "8 bits", struct.pack(">8I", 0x59A66A95, 96, 64, 8, len(grey), 1, 0, 0) + grey),
        ("XPM", "4 colours", xpm(8, 8, 4)),
        ("CUR", "one", ico[:2] + b"\2\0" + ico[4:]),
        ("DCX", "one", struct.pack("<III", 0x3ADE68B1, 12, 0) + pcx),
        ("PSD", "grey", psd(96, 64, grey)),
        ("GBR", "grey", struct.pack(">7I", 28, 2, 96, 64, 1, 0x47494D50, 10) + grey),
        ("IPTC", "jpeg", iptc(saved(photo(3, (8, 8)).convert("L"), "JPEG"))),
        ("FLI", "one frame", fli(96, 64)),
        ("PIXAR", "rgb", pixar(96, 64)),
        ("IMT", "grey", b"*\nwidth 96\nheight 64\n\x0c" + grey),
        ("MCIDAS", "8 bits", mcidas(96, 64, grey)),
        ("XVTHUMB", "332", b"P7 332\n#END_OF_COMMENTS\n96 64 255\n" + grey),
        ("FTEX", "raw", b"FTEX" + struct.pack("<8I", 0, 96, 64, 1, 1, 1, 36, 0) + grey * 3),
        ("MPEG", "head", b"\0\0\1\xb3" + bytes([6, 0, 64]) + bytes(64)),
        ("PCD", "flat", bytes(2048) + b"PCD_" + bytes(96 * 2048 + 512 * 768 * 3 // 2)),
    ]


FITS_SIDES = [("NAXIS1", "96"), ("NAXIS2", "64")]


def fits(cards: Sequence[tuple[str, str]], data: bytes) -> bytes:
    """Return a FITS file of these cards."""
    lines = [("SIMPLE", "T"), *cards]
    head = "".join(f"{name:<8}= {value:>20}".ljust(80) for name, value in lines) + "END".ljust(80)
    return head.ljust(-(-len(head) // 2880) * 2880).encode() + data


def xpm(width: int, height: int, colours: int) -> bytes:
    """Return an XPM with one line a colour."""
    names = [f"{i:06x}" for i in range(colours)]
    lines = [f'"{width} {height} {colours} 6",', *(f'"{name} c #{name}",' for name in names)]
    lines += [f'"{"".join(names[i % colours] for i in range(width))}",' for _ in range(height)]
    return ("/* XPM */\nstatic char *x[] = {\n" + "\n".join(lines) + "};\n").encode()


def psd(width: int, height: int, data: bytes, channels: int = 1) -> bytes:
    """Return a grey Photoshop file without layers."""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, height, width, 8, 1)
    return head + struct.pack(">IIIH", 0, 0, 0, 0) + data


def fli(width: int, height: int) -> bytes:
    """Return a FLI of one raw frame."""
    raw = struct.pack("<IH", 6 + width * height, 16) + bytes(width * height)
    frame = struct.pack("<IHH8x", 16 + len(raw), 0xF1FA, 1) + raw
    head = struct.pack("<IHHHHHHI", 128 + len(frame), 0xAF11, 1, width, height, 8, 3, 5)
    return head.ljust(128, b"\0") + frame


def pixar(width: int, height: int) -> bytes:
    """Return a PIXAR raster of black pixels."""
    head = bytearray(1024)
    head[:4] = b"\x80\xe8\0\0"
    struct.pack_into("<HH", head, 416, height, width)
    struct.pack_into("<HH", head, 424, 14, 2)
    return bytes(head) + bytes(width * height * 3)


def mcidas(width: int, height: int, data: bytes) -> bytes:
    """Return a McIdas area of one byte a pixel."""
    words = [0] * 64
    words[1], words[8], words[9], words[10], words[13] = 4, height, width, 1, 1
    words[33] = 256
    return struct.pack(">64i", *words) + data


def iptc(inside: bytes) -> bytes:
    """Return an IPTC file that says it holds an 8 x 8 JPEG, and holds what is given."""

    def field(record: int, number: int, data: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, record, number, len(data)) + data

    head = field(3, 60, b"\1\0") + field(3, 20, b"\x08") + field(3, 30, b"\x08")
    parts = [field(8, 10, inside[i : i + 8000]) for i in range(0, len(inside), 8000)]
    return head + field(3, 120, b"\x05") + b"".join(parts)


# Mutants.


@dataclass(frozen=True, slots=True)
class Mutator:
    """Makes one mutant of a file after another, the same ones for the same seed."""

    chance: random.Random
    others: Sequence[bytes]  # what may be spliced in

    def __call__(self, data: bytes) -> tuple[str, bytes]:
        """Return what was done, and the mutant: one to three changes."""
        done: list[str] = []
        ways = (
            *(self.flips, self.cut, self.insertion, self.repetition, self.swap, self.extremes),
            *(self.lengths, self.lengths, self.chunks, self.chunks, self.splice),
        )
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            way = self.chance.choice(ways)
            data = way(data) if data else data
            done.append(way.__name__)
        return "+".join(done), data

    def _span(self, data: bytes, most: int = 64) -> tuple[int, int]:
        start = self._place(data)
        return start, min(len(data), start + self.chance.randint(1, most))

    def _place(self, data: bytes) -> int:
        # Headers are where the decisions are made; without its first bytes a file is in no format.
        low = 0 if self.chance.random() < 0.2 else 12  # noqa: PLR2004
        top = len(data) if self.chance.random() < 0.5 else 160  # noqa: PLR2004
        return min(len(data) - 1, self.chance.randrange(low, max(low + 1, top)))

    def flips(self, data: bytes) -> bytes:
        """Flip 1 to 16 bits."""
        out = bytearray(data)
        for _ in range(self.chance.choice((1, 1, 2, 4, 16))):
            out[self._place(data)] ^= 1 << self.chance.randrange(8)
        return bytes(out)

    def cut(self, data: bytes) -> bytes:
        """Keep the beginning."""
        return data[: self._place(data)]

    def insertion(self, data: bytes) -> bytes:
        """Insert random bytes."""
        at = self._place(data)
        return (
            data[:at] + self.chance.randbytes(self.chance.choice((1, 2, 4, 37, 4096))) + data[at:]
        )

    def repetition(self, data: bytes) -> bytes:
        """Repeat a block, now and then very often."""
        start, end = self._span(data, 300)
        return data[:end] + data[start:end] * self.chance.choice((1, 2, 10, 1000)) + data[end:]

    def swap(self, data: bytes) -> bytes:
        """Swap two blocks of one length."""
        first, second = sorted((self._place(data), self._place(data)))
        size = min(self.chance.randint(1, 200), second - first, len(data) - second)
        one, two = data[first : first + size], data[second : second + size]
        return data[:first] + two + data[first + size : second] + one + data[second + size :]

    def extremes(self, data: bytes) -> bytes:
        """Fill a block with one byte."""
        start, end = self._span(data)
        return (
            data[:start]
            + self.chance.choice((b"\0", b"\xff", b"\x7f")) * (end - start)
            + data[end:]
        )

    def lengths(self, data: bytes) -> bytes:
        """Put an extreme number where a length may be, in either order of bytes."""
        size = self.chance.choice((2, 4, 4, 8))
        top = 1 << (8 * size)
        near = (0, 1, 2, 255, 65_535, top // 2 - 1, top // 2, top - 1, top - 2, len(data))
        value = self.chance.choice((*near, self.chance.randrange(top))) % top
        at = self._place(data)
        order: Any = self.chance.choice(("big", "little"))
        return data[:at] + value.to_bytes(size, order) + data[at + size :]

    def chunks(self, data: bytes) -> bytes:
        """Drop, repeat, swap, empty or spoil chunks of the format's own, with right sums."""
        parts = split(data)
        if len(parts) < 2:  # noqa: PLR2004 - nothing to move
            return self.swap(data)
        at = self.chance.randrange(len(parts))
        match self.chance.randrange(5):
            case 0:
                del parts[at]
            case 1:
                parts[at:at] = [parts[at]] * self.chance.choice((1, 3, 200))
            case 2:
                other = self.chance.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            case 3:
                parts[at] = parts[at][: self.chance.randint(4, 12)]
            case _:
                parts[at] = self.flips(parts[at]) if parts[at] else parts[at]
        return mended(data, b"".join(parts))

    def splice(self, data: bytes) -> bytes:
        """Put the end of another file behind the beginning of this one."""
        other = self.chance.choice(self.others)
        return data[: self._place(data)] + other[self._place(other) :]


def split(data: bytes) -> list[bytes]:
    """Cut a file where its format begins a new chunk; one part where the format has none."""

    def number(at: int, order: Any = "big") -> int:  # noqa: ANN401 - a name of int's
        return int.from_bytes(data[at : at + 4], order)

    if data.startswith(b"\x89PNG"):
        return _by_length(data, 8, lambda at: 12 + number(at))
    if data.startswith(b"RIFF"):
        return _by_length(data, 12, lambda at: 8 + (number(at + 4, "little") + 1 & ~1))
    if data.startswith(b"icns") or data[4:8] in {b"ftyp", b"jP  "}:
        icns = data.startswith(b"icns")
        return _by_length(data, 8 * icns, lambda at: number(at + 4 * icns))
    starts = []
    if data.startswith(b"\xff\xd8"):
        starts = [found.start() for found in re.finditer(rb"\xff[\xc0-\xfe]", data)]
    elif data.startswith(b"GIF8"):
        starts = [found.start() for found in re.finditer(rb"\0[!,;]", data)]
    elif data[:4] in {b"II*\0", b"MM\0*"}:
        starts = list(range(10, len(data), 12))
    return [data[a:b] for a, b in itertools.pairwise([0, *starts, len(data)])]


def _by_length(data: bytes, start: int, size: Callable[[int], int]) -> list[bytes]:
    parts = [data[:start]] if start else []
    while start < len(data):
        end = start + max(8, size(start))
        parts.append(data[start:end])
        start = end
    return parts


def mended(before: bytes, data: bytes) -> bytes:
    """Set right the sums of a PNG and the size of a RIFF, so that what is inside is looked at."""
    if before.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
    if not before.startswith(b"\x89PNG"):
        return data
    parts = split(data)
    return b"".join(
        part[:-4] + struct.pack(">I", zlib.crc32(part[4:-4]))
        if len(part) >= 12 and not part.startswith(b"\x89PNG")  # noqa: PLR2004 - a chunk's frame
        else part
        for part in parts
    )


def write_mutants(folder: Path, count: int, seed: int) -> dict[str, str]:
    """Write mutants, spread evenly over the files; return what each was made of."""
    seeds = writable() + read_only()
    chance = random.Random(seed)  # noqa: S311 - no secret
    mutate = Mutator(chance, [data for _, _, data in seeds])
    made = {}
    for number in range(count):
        kind, variant, data = seeds[number % len(seeds)]
        how, mutant = mutate(data)
        suffix = chance.choice((f".{kind.lower()}", ".jpg", ".png", ""))
        path = f"{'abcdefgh'[number % 8]}/{number:06}{suffix}"
        made[path] = f"{kind} {variant}: {how}"
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(mutant)
    return made


# Bombs.


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*before: bytes, behind: bytes = b"") -> bytes:
    """Return a small whole PNG with more chunks before and behind its pixels."""
    data = saved(photo(3, (96, 64)), "PNG")
    return data[:33] + b"".join(before) + data[33:-12] + behind + data[-12:]


def png_of(width: int, height: int, colour: int, pixels: bytes, depth: int = 8) -> bytes:
    """Return a PNG of this size with this compressed stream."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """Return a zlib stream of so many zeros, without holding them."""
    press = zlib.compressobj(9)
    block = bytes(MIB)
    parts = [press.compress(block) for _ in range(count // MIB)]
    parts.append(press.compress(bytes(count % MIB)))
    return b"".join(parts) + press.flush()


def segments(marker: int, data: Sequence[bytes]) -> bytes:
    """Return segments of a JPEG."""
    return b"".join(struct.pack(">HH", 0xFF00 + marker, len(one) + 2) + one for one in data)


def jpeg(*more: bytes) -> bytes:
    """Return a small whole JPEG with more segments behind its start."""
    data = saved(photo(3, (96, 64)), "JPEG")
    return data[:2] + b"".join(more) + data[2:]


def tiff(tags: Sequence[tuple[int, int, int, bytes]], body: bytes = b"") -> bytes:
    """Return a little-endian TIFF of (tag, type, count, value or offset as 4 bytes) and a body."""
    directory = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3].ljust(4, b"\0") for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + directory + bytes(4) + body


def number(value: int) -> bytes:
    """Return a TIFF's inline number."""
    return struct.pack("<I", value)


def long_tiff(rows: int) -> bytes:
    """Return a TIFF one pixel wide with a strip for every row."""
    first = 8 + 2 + 12 * 10 + 4
    sizes = first + 4 * rows
    pixels = sizes + 4 * rows
    tags = [
        (256, 4, 1, number(1)),
        (257, 4, 1, number(rows)),
        (258, 3, 1, number(8)),
        (259, 3, 1, number(1)),
        (262, 3, 1, number(1)),
        (273, 4, rows, number(first)),
        (277, 3, 1, number(1)),
        (278, 4, 1, number(1)),
        (279, 4, rows, number(sizes)),
        (339, 3, 1, number(1)),
    ]
    offsets = np.full(rows, pixels, "<u4").tobytes()
    return tiff(tags, offsets + np.ones(rows, "<u4").tobytes() + b"\x80")


def fat_tiff(size: int) -> bytes:
    """Return a TIFF whose 60,000 tags all point at the same long value."""
    tags = [(1000 + i, 7, size, number(720_014)) for i in range(60_000)]
    return tiff(tags, bytes(size))


def fat_exif(size: int) -> bytes:
    """Return an EXIF block whose tags, thousands of them, all hold the whole of it."""
    tags = [(0x9000 + i, 7, size - 200_000, number(8)) for i in range(15_000)]
    return tiff(tags, bytes(size - 180_014))


def webp_canvas(width: int, height: int) -> bytes:
    """Return an animated WebP of this canvas with one frame of that size and one colour."""
    still = saved(Image.new("RGB", (width, height), (9, 9, 9)), "WEBP", lossless=True, method=0)
    body = still[12:]

    def three(value: int) -> bytes:
        return value.to_bytes(3, "little")

    sizes = three(width - 1) + three(height - 1)
    frame = three(0) + three(0) + sizes + three(100) + b"\0" + body
    out = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes
    out += b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    out += b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(out) + 4) + b"WEBP" + out


def gif_frames(count: int) -> bytes:
    """Return a GIF of many frames."""
    data = saved(photo(3, (96, 64)).convert("P"), "GIF")
    start = data.index(b",", 13 + 3 * 256)
    frame = b"!\xf9\x04\0\1\0\0\0" + data[start:-1]
    return data[:-1] + frame * count + b";"


def apng_frames(count: int) -> bytes:
    """Return an animated PNG of many one-pixel frames."""
    parts, sequence = [], 1
    inside = zlib.compress(b"\0\1\2\3")
    for _ in range(count):
        where = struct.pack(">IIIIIHHBB", sequence, 1, 1, 0, 0, 1, 100, 0, 0)
        parts += [chunk(b"fcTL", where), chunk(b"fdAT", struct.pack(">I", sequence + 1) + inside)]
        sequence += 2
    first = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 96, 64, 0, 0, 1, 100, 0, 0))
    return png(chunk(b"acTL", struct.pack(">II", count + 1, 0)), first, behind=b"".join(parts))


def ico(inside: Sequence[bytes], side: int = 16) -> bytes:
    """Return an icon whose entries say that they are small."""
    at = 6 + 16 * len(inside)
    head, body = struct.pack("<HHH", 0, 1, len(inside)), b""
    for one in inside:
        head += struct.pack("<BBBBHHII", side, side, 0, 0, 1, 32, len(one), at + len(body))
        body += one
    return head + body


def icns(blocks: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return an ICNS of these blocks."""
    body = b"".join(kind + struct.pack(">I", len(data) + 8) + data for kind, data in blocks)
    return b"icns" + struct.pack(">I", len(body) + 8) + body


def lying(data: bytes, at: int, form: str, *values: int) -> bytes:
    """Return a file with other numbers at a place."""
    raw = struct.pack(form, *values)
    return data[:at] + raw + data[at + len(raw) :]


def scans(count: int, side: int) -> bytes:
    """Return a progressive JPEG whose last scan is there many times."""
    data = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def bombs() -> Iterator[Bomb]:
    """Yield (name, what must become of it: row, skip or either, how it is made)."""
    yield from metadata_bombs()
    yield from size_bombs()
    yield from structure_bombs()


def metadata_bombs() -> Iterator[Bomb]:
    """Yield pictures that are small but for what they say about themselves."""
    small = photo(3, (96, 64))
    million = chunk(b"tEXt", b"a\0b") * 1_000_000
    profile = random.Random(4).randbytes(30 * MIB)  # noqa: S311 - no secret
    yield "png-million-texts", "row", lambda: png(million)
    yield "png-million-texts-behind", "row", lambda: png(behind=million)
    yield (
        "jpeg-icc-16-MB",
        "row",
        lambda: jpeg(
            segments(
                0xE2,
                [b"ICC_PROFILE\0" + bytes([i, 255]) + profile[:65_000] for i in range(1, 256)],
            )
        ),
    )
    yield "png-icc-30-MB", "row", lambda: png(chunk(b"iCCP", b"p\0\0" + zlib.compress(profile, 1)))
    yield "webp-icc-30-MB", "row", lambda: saved(small, "WEBP", icc_profile=profile)
    yield "tiff-icc-30-MB", "row", lambda: saved(small, "TIFF", icc_profile=profile)
    yield "avif-icc-30-MB", "either", lambda: saved(small, "AVIF", icc_profile=profile)
    yield "png-icc-bomb", "row", lambda: png(chunk(b"iCCP", b"p\0\0" + zeros(2000 * MIB)))
    yield (
        "jpeg-exif-2000-segments",
        "row",
        lambda: jpeg(segments(0xE1, [b"Exif\0\0" + bytes(65_000)] * 2000)),
    )
    yield "jpeg-million-comments", "row", lambda: jpeg(segments(0xFE, [b"x"]) * 1_000_000)
    yield "jpeg-million-apps", "row", lambda: jpeg(segments(0xED, [b"x"]) * 1_000_000)
    yield "png-exif-bomb", "row", lambda: png(chunk(b"eXIf", fat_exif(8 * MIB)))
    yield "webp-exif-bomb", "row", lambda: saved(small, "WEBP", exif=fat_exif(8 * MIB))
    yield "avif-exif-bomb", "row", lambda: saved(small, "AVIF", exif=fat_exif(8 * MIB))
    yield "png-exif-30-MB", "row", lambda: png(chunk(b"eXIf", b"II*\0\x08\0\0\0" + profile))
    yield "png-ztxt-bomb", "row", lambda: png(chunk(b"zTXt", b"a\0\0" + zeros(200 * MIB)) * 40)
    yield (
        "png-itxt-bomb",
        "row",
        lambda: png(chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(200 * MIB)) * 40),
    )
    yield (
        "png-xmp-bomb",
        "row",
        lambda: png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(200 * MIB)) * 9),
    )
    yield (
        "png-raw-profile-bomb",
        "row",
        lambda: png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zeros(200 * MIB)) * 9),
    )
    yield "png-texts-of-70-MB", "row", lambda: png(chunk(b"tEXt", b"a\0" + bytes(MIB)) * 70)
    yield "png-one-text-of-200-MB", "row", lambda: png(chunk(b"tEXt", b"a\0" + bytes(200 * MIB)))


def size_bombs() -> Iterator[Bomb]:
    """Yield pictures that are, or say that they are, far larger than their files."""
    small = photo(3, (96, 64))
    yield "webp-88-megapixels", "either", lambda: webp_canvas(9900, 8900)
    yield "tiff-1x5000000", "skip", lambda: long_tiff(5_000_000)
    yield (
        "jpeg-200-megapixels",
        "row",
        lambda: saved(Image.linear_gradient("L").resize((20_000, 10_000)), "JPEG", quality=20),
    )
    yield "png-pixels-bomb", "either", lambda: png_of(8, 8, 2, zeros(2000 * MIB))
    yield "png-80-megapixels", "row", lambda: png_of(10_000, 8000, 0, zeros(80_008_000))
    yield "png-80-megapixels-rgba", "row", lambda: png_of(10_000, 8000, 6, zeros(320_008_000))
    yield "png-89-megapixels-deep", "either", lambda: png_of(9400, 9400, 0, zeros(176_729_400), 16)
    yield "png-2-to-the-31", "skip", lambda: png_of(2**31 - 1, 2**31 - 1, 6, zeros(1000))
    yield "png-1x89000000", "either", lambda: png_of(1, 89_000_000, 0, zeros(178_000_000))
    yield "png-89000000x1", "either", lambda: png_of(89_000_000, 1, 0, zeros(89_000_001))
    yield "gif-65535x65535", "skip", lambda: lying(saved(small, "GIF"), 6, "<HH", 65_535, 65_535)
    yield "bmp-lying", "skip", lambda: lying(saved(small, "BMP"), 18, "<ii", 2**31 - 1, -(2**31))
    yield "bmp-9000x9000", "skip", lambda: lying(saved(small, "BMP"), 18, "<ii", 9000, 9000)
    yield (
        "bmp-rle-bomb",
        "either",
        lambda: (
            b"BM"
            + struct.pack(
                "<IIIIiiHHIIiiII", 2000, 0, 1078, 40, 9400, 9400, 1, 8, 1, 0, 0, 0, 256, 0
            )
            + bytes(1024)
            + b"\xff\1" * 400_000
        ),
    )
    yield "dds-60000x60000", "skip", lambda: lying(saved(small, "DDS"), 12, "<II", 60_000, 60_000)
    yield "dds-9000x9000", "skip", lambda: lying(saved(small, "DDS"), 12, "<II", 9000, 9000)
    yield "ico-png-40000x40000", "skip", lambda: ico([png_of(40_000, 40_000, 6, zeros(1000))])


def structure_bombs() -> Iterator[Bomb]:
    """Yield pictures of absurdly many parts, of parts in each other, and what is no picture."""
    small = photo(3, (96, 64))
    million = chunk(b"tEXt", b"a\0b") * 1_000_000
    yield "gif-50000-frames", "row", lambda: gif_frames(50_000)
    yield "apng-100000-frames", "row", lambda: apng_frames(100_000)
    yield (
        "webp-3000-frames",
        "row",
        lambda: saved(
            small, "WEBP", save_all=True, append_images=[small.rotate(180), small] * 1500, method=0
        ),
    )
    yield (
        "gif-comment-40-MB",
        "row",
        lambda: (
            ((d := saved(small, "GIF"))[:781] + b"!\xfe" + (b"\xff" + b"c" * 255) * 160_000 + b"\0")
            + d[781:]
        ),
    )
    yield "ico-million-texts", "either", lambda: ico([png(million)])
    yield "ico-65535-entries", "either", lambda: ico([b"x"] * 65_535)
    yield (
        "icns-png-40000x40000",
        "skip",
        lambda: icns([(b"ic10", png_of(40_000, 40_000, 6, zeros(1000)))]),
    )
    yield "icns-million-blocks", "either", lambda: icns([(b"abcd", b"")] * 1_000_000)
    yield "icns-jpeg2000", "either", lambda: icns([(b"ic10", saved(small, "JPEG2000"))])
    yield (
        "jpeg2000-60000x60000",
        "skip",
        lambda: lying(saved(small, "JPEG2000", no_jp2=True), 8, ">II", 60_000, 60_000),
    )
    yield (
        "jpeg2000-9000x9000-tiles-of-1",
        "skip",
        lambda: lying(saved(small, "JPEG2000", no_jp2=True), 8, ">IIIIII", 9000, 9000, 0, 0, 1, 1),
    )
    yield "jpeg-10000-scans", "either", lambda: scans(10_000, 2000)
    yield "jpeg-scaled-scans", "either", lambda: scans(3000, 12_000)
    yield "tga-rle-bomb", "either", tga_bomb
    yield "qoi-bomb", "either", qoi_bomb
    yield "pcx-bomb", "skip", lambda: lying(saved(small, "PCX"), 8, "<HH", 65_534, 65_534)
    yield "sgi-bomb", "skip", lambda: lying(saved(small, "SGI"), 6, ">HH", 65_535, 65_535)
    yield "psd-30000x30000", "skip", lambda: psd(30_000, 30_000, b"")
    yield "psd-resources", "either", lambda: psd_resources(2_000_000)
    yield "ppm-comments", "either", lambda: b"P6\n" + b"#\n" * 20_000_000 + b"2 1 255\n123456"
    yield "ppm-plain", "either", lambda: b"P3\n5000 5000 255\n" + b"0 " * 75_000_000
    yield "ppm-digits", "skip", lambda: b"P6\n" + b"9" * 50_000_000 + b" 1 255\n"
    yield "xbm-spaces", "either", lambda: b"#define" + b" " * 3_000_000 + b"a_width 8\n"
    yield "xpm-colours", "either", lambda: xpm(4, 4, 1_000_000)
    yield "im-lines", "either", lambda: b"Image type: L\r\n" + b"a: b\r\n" * 3_000_000
    yield "fits-cards", "either", lambda: fits([("X", "1")] * 500_000, b"")
    yield (
        "fits-lying",
        "skip",
        lambda: fits(
            [("BITPIX", "8"), ("NAXIS", "2"), ("NAXIS1", "99999"), ("NAXIS2", "99999")], b""
        ),
    )
    yield (
        "fits-digits",
        "skip",
        lambda: fits([("BITPIX", "8"), ("NAXIS", "2"), ("NAXIS1", "9" * 60)], b""),
    )
    yield "tiff-tags-60000-times-8-MB", "skip", lambda: fat_tiff(8 * MIB)
    yield "tiff-loop", "either", lambda: (d := saved(small, "TIFF"))[:-4] + d[4:8]
    yield "tiff-deflate-bomb", "either", tiff_deflate_bomb
    yield "mpo-65535-entries", "row", mpo_bomb
    yield "iptc-holds-tiff-bomb", "skip", lambda: iptc(long_tiff(300_000))
    yield "iptc-in-iptc", "row", lambda: nested(60)
    yield "iptc-million-fields", "either", lambda: b"\x1c\x03\x3c\0\0" * 1_000_000
    yield "avif-65536x65536", "skip", avif_lying
    yield "pcd-empty", "either", lambda: bytes(2048) + b"PCD_" + bytes(1000)
    for kind, data in STUBS.items():
        yield f"{kind.lower()}-stub", "skip", lambda data=data: data
    yield "svg", "skip", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    yield "eps", "skip", lambda: saved(small, "EPS")
    yield "pdf", "skip", lambda: saved(small, "PDF")
    yield "zeros-100-MB", "skip", lambda: bytes(100 * MIB)
    yield "noise-30-MB", "skip", lambda: random.Random(5).randbytes(30 * MIB)  # noqa: S311
    yield "empty", "skip", lambda: b""


def tga_bomb() -> bytes:
    """Return a run-length TGA of 9,400 x 9,400 pixels, without most of them."""
    return struct.pack("<BBB5xHHHHBB", 0, 0, 10, 0, 0, 9400, 9400, 24, 0) + b"\xff\1\2\3" * 600_000


def qoi_bomb() -> bytes:
    """Return a QOI of 9,400 x 9,400 pixels in runs of 62."""
    runs = b"\xfd" * (9400 * 9400 // 62 + 1)
    return b"qoif" + struct.pack(">IIBB", 9400, 9400, 3, 0) + runs + bytes(7) + b"\1"


def psd_resources(count: int) -> bytes:
    """Return a Photoshop file with many image resources."""
    one = b"8BIM" + struct.pack(">HBBI", 1005, 0, 0, 0)
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 1, 64, 96, 8, 1) + bytes(4)
    return head + struct.pack(">I", len(one) * count) + one * count + bytes(6) + bytes(96 * 64)


def tiff_deflate_bomb() -> bytes:
    """Return a TIFF of 9,400 x 9,400 pixels, 16-bit RGBA, in one compressed strip."""
    pixels = zeros(9400 * 9400 * 8)
    body = struct.pack("<4H", 16, 16, 16, 16)
    at = 8 + 2 + 12 * 10 + 4
    tags = [
        (256, 4, 1, number(9400)),
        (257, 4, 1, number(9400)),
        (258, 3, 4, number(at)),
        (259, 3, 1, number(8)),
        (262, 3, 1, number(2)),
        (273, 4, 1, number(at + 8)),
        (277, 3, 1, number(4)),
        (278, 4, 1, number(9400)),
        (279, 4, 1, number(len(pixels))),
        (338, 3, 1, number(2)),
    ]
    return tiff(tags, body + pixels)


def mpo_bomb() -> bytes:
    """Return a JPEG with a directory of 65,535 pictures that are not there."""
    entries = [(0xB000, 7, 4, b"0100"), (0xB001, 4, 1, number(65_535)), (0xB002, 7, 9, number(8))]
    return jpeg(segments(0xE2, [b"MPF\0" + tiff(entries)]))


def nested(depth: int) -> bytes:
    """Return IPTC files in each other."""
    data = saved(photo(3, (8, 8)).convert("L"), "JPEG")
    for _ in range(depth):
        data = iptc(data)
    return data


def avif_lying() -> bytes:
    """Return an AVIF whose size property says 65,536 x 65,536."""
    data = saved(photo(3, (96, 64)), "AVIF")
    return lying(data, data.index(b"ispe") + 8, ">II", 65_536, 65_536)


def special_files(folder: Path) -> set[str]:
    """Put a pipe, a socket, devices, links and a file of a terabyte into a folder."""
    made = {"pipe.jpg", "socket.jpg", "nowhere.jpg", "huge.jpg", "away.jpg", "round.jpg"}
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server, contextlib.chdir(folder):
        server.bind("socket.jpg")
    (folder / "nowhere.jpg").symlink_to("gone.jpg")
    (folder / "away.jpg").symlink_to("/dev/zero")
    (folder / "round.jpg").symlink_to("round.jpg")
    with (folder / "huge.jpg").open("wb") as stream:
        stream.truncate(1 << 40)
    for name, kind, device in (
        ("zero.jpg", stat.S_IFCHR, os.makedev(1, 5)),
        ("tty.jpg", stat.S_IFCHR, os.makedev(5, 0)),
        ("loop.jpg", stat.S_IFBLK, os.makedev(7, 0)),
    ):
        with contextlib.suppress(PermissionError):  # for root only
            os.mknod(folder / name, 0o644 | kind, device)
            made.add(name)
    return made


# The command, watched.


@dataclass(frozen=True, slots=True)
class Watched:
    """How a build ended and what it took.

    `peak` is the size of the largest decoder, `largest` that of any process, in bytes; `deaths`
    are the times at which a decoder was gone.
    """

    code: int
    out: str
    err: str
    wall: float
    peak: int
    largest: int
    deaths: Sequence[float] = ()


class Sampler(threading.Thread):
    """Reads the peak size of a process's children, again and again."""

    def __init__(self, pid: int) -> None:
        """Begin with `start`."""
        super().__init__(daemon=True)
        self.pid, self.peak = pid, 0
        self.deaths: list[float] = []
        self.over = threading.Event()

    def run(self) -> None:
        """Sample until told that it is over."""
        before: set[str] = set()
        while not self.over.wait(0.01):
            children = set(_children(self.pid))
            self.deaths += [time.time() for _ in before - children]
            before = children
            for child in children:
                with contextlib.suppress(OSError, ValueError):
                    text = Path(f"/proc/{child}/status").read_text(encoding="utf-8")
                    found = re.search(r"VmHWM:\s+(\d+) kB", text)
                    self.peak = max(self.peak, int(found[1]) * 1024 if found else 0)


def _children(pid: int) -> list[str]:
    found: list[str] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += tasks.read_text(encoding="ascii").split()
    return found


def build(folder: Path, index: Path, model: str, *options: str) -> Watched:
    """Build an index through the installed command."""
    words = [PROGRAM, "build", str(folder), str(index), "--model", model, "--json"]
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen([*words, *options], stdout=out, stderr=err)  # noqa: S603 - ours
        sampler = Sampler(child.pid)
        sampler.start()
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.monotonic() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        sampler.over.set()
        sampler.join()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    largest = usage.ru_maxrss * 1024
    return Watched(child.returncode, *texts, wall, sampler.peak, largest, sampler.deaths)


def read_times(folder: Path) -> dict[str, float]:
    """Return for each regular file when it was first read since `forget_times`."""
    times = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_atime_ns:
            times[str(path.relative_to(folder))] = status.st_atime_ns / 1e9
    return times


def forget_times(folder: Path) -> None:
    """Set all access times to 0; the first reading after that is the one that is noted."""
    for path in folder.rglob("*"):
        if stat.S_ISREG(path.lstat().st_mode):
            os.utime(path, ns=(0, path.lstat().st_mtime_ns))


def gaps(times: dict[str, float]) -> dict[str, float]:
    """Return how long after each file the next one was read: with one worker, what it took."""
    order = sorted(times.items(), key=lambda item: item[1])
    return {path: later - when for (path, when), (_, later) in itertools.pairwise(order)}


def listing(index: Path) -> tuple[list[str], dict[str, str]]:
    """Return the paths of an index's rows, and its skips with their reasons."""
    files = read_manifest(index).files
    rows = pq.read_table(index / files["items"].name)["path"].to_pylist()
    skips = {}
    if "skipped" in files:
        table = pq.read_table(index / files["skipped"].name).to_pydict()
        skips = dict(zip(table["path"], table["reason"], strict=True))
        assert len(skips) == len(table["path"]), "a skip is listed twice"
    return rows, skips


def vectors(index: Path) -> dict[str, bytes]:
    """Return the vector of each path."""
    rows, _ = listing(index)
    store = faiss.read_index(str(index / read_manifest(index).files["vectors"].name))
    return {path: store.reconstruct(i).tobytes() for i, path in enumerate(rows)}


def accounted(done: Watched, index: Path, wanted: set[str]) -> list[str]:
    """Return what is wrong with the outcome of a build over these files."""
    if done.code != 0:
        return [f"exit {done.code}: {done.err[-300:]!r}"]
    faults = [f"standard error: {done.err[:300]!r}"] if _foreign(done.err) else []
    rows, skips = listing(index)
    if json.loads(done.out)["skipped"] != [{"path": p, "reason": r} for p, r in skips.items()]:
        faults.append("the skips that were printed are not those in the index")
    times = Counter([*rows, *skips])
    faults += [f"{path} is {times[path]} times in it" for path in wanted if times[path] != 1]
    faults += [f"{path} was not in the folder" for path in times if path not in wanted]
    return faults


def _foreign(text: str) -> list[str]:
    """Return the lines that the command did not write itself."""
    own = re.compile(r"\d[\d,]* files? skipped:|  .*: .*|  and [\d,]+ more; --json lists them all")
    return [line for line in text.splitlines() if not own.fullmatch(line)]


@dataclass(slots=True)
class Table:
    """What was looked at, and what was wrong."""

    failed: int = 0

    def add(self, what: str, number: int, faults: Sequence[str], note: str = "") -> None:
        """Print a row, and what failed under it."""
        self.failed += len(faults)
        print(f"{what:<40} {number:>6} {len(faults):>7}  {note}", flush=True)
        for fault in faults[:30]:
            print(f"    {fault}", flush=True)


def too_costly(name: str, seconds: float) -> list[str]:
    """Return what is wrong with the time of one picture."""
    most = SECONDS + SLACK_SECONDS
    return [f"{name} takes {seconds:.1f} s"] if seconds > most else []


def mutants(folder: Path, model: str, table: Table, arguments: argparse.Namespace) -> None:
    """Build an index of mutants with whole pictures among them."""
    whole = folder / "whole"
    for i in range(39):
        path = whole / "abcdefgh"[i % 8] / f"{i * 128:06}-whole.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i, (128, 96)).save(path)
    # Behind the last one comes the commit, which is nobody's time.
    (whole / "z").mkdir()
    photo(0, (128, 96)).save(whole / "z" / "last.png")
    pictures = folder / "mutants"
    shutil.copytree(whole, pictures)
    made = write_mutants(pictures, arguments.mutants, arguments.seed)
    assert build(whole, folder / "whole-index", model).code == 0
    known = vectors(folder / "whole-index")
    forget_times(pictures)
    index = folder / "mutants-index"
    done = build(pictures, index, model, "--workers", str(arguments.workers))
    faults = accounted(done, index, {*made, *known})
    if done.code == 0:
        rows, skips = listing(index)
        mine = vectors(index)
        faults += [f"{path} has another vector" for path in known if mine.get(path) != known[path]]
        note = f"{len(rows) - len(known):,} rows, {len(skips):,} skips, {done.wall:.0f} s"
        table.add("mutants: each once, others untouched", len(made), faults, note)
        reasons = Counter(
            re.sub(r"[\d,]+", "N", reason.partition("(")[0]) for reason in skips.values()
        )
        for reason, times in reasons.most_common(12):
            print(f"    {times:>6}  {reason}")
        for path, reason in skips.items():
            if "died" in reason or "takes more" in reason or "memory" in reason:
                print(f"    {made.get(path)}: {path}: {reason}")
    else:
        table.add("mutants: each once, others untouched", len(made), faults)
    took = gaps(read_times(pictures))
    slowest = max(took, key=lambda path: took[path])
    slow = [fault for path in took for fault in too_costly(made.get(path, path), took[path])]
    note = f"at most {took[slowest]:.1f} s ({made.get(slowest, slowest)})"
    table.add(f"mutants: {SECONDS:g} s a picture", len(took), slow, note)
    table.add("mutants: 1.5 GiB a picture", len(made), *_memory(done))


def _memory(done: Watched) -> tuple[list[str], str]:
    note = f"at most {done.peak / MIB:,.0f} MiB in a decoder, {done.largest / MIB:,.0f} in any"
    largest = max(done.peak, done.largest)
    return ([f"{largest / MIB:,.0f} MiB"] if largest > MEMORY else []), note


def each_bomb(folder: Path, model: str, table: Table, only: Sequence[str]) -> None:
    """Build an index of each bomb and a whole picture behind it."""
    for name, wanted, make in bombs():
        if only and not any(word in name for word in only):
            continue
        pictures = folder / "bomb" / "x"
        shutil.rmtree(folder / "bomb", ignore_errors=True)
        pictures.mkdir(parents=True)
        data = make()
        size = len(data)
        (pictures / "a-bomb.jpg").write_bytes(data)
        photo(3, (128, 96)).save(pictures / "b-whole.png")
        del data
        forget_times(pictures)
        index = folder / "bomb-index"
        shutil.rmtree(index, ignore_errors=True)
        done = build(pictures.parent, index, model, "--workers", "1")
        ended = time.time()
        faults = accounted(done, index, {"x/a-bomb.jpg", "x/b-whole.png"})
        reason = ""
        seconds = 0.0
        if done.code == 0:
            rows, skips = listing(index)
            if "x/b-whole.png" not in rows:
                faults.append("the picture behind it is lost")
            reason = skips.get("x/a-bomb.jpg", "row")
            became = "skip" if "x/a-bomb.jpg" in skips else "row"
            if wanted not in {became, "either"}:
                faults.append(f"it became a {became}: {reason}")
            times = read_times(pictures)
            if "a-bomb.jpg" in times:
                # What comes after the end of a decoder is the start of the next one.
                ends = done.deaths if reason.startswith("it takes more") else ()
                began = times["a-bomb.jpg"]
                # An empty file and the next are read within one tick of the file system's clock,
                # and that of the later one may then be the lower.
                later = (t for t in (*ends, times["b-whole.png"]) if t >= began)
                seconds = min(later, default=ended) - began
            faults += too_costly(name, seconds)
        faults += _memory(done)[0]
        note = f"{size:>11,} B {seconds:>5.1f} s {done.peak / MIB:>6,.0f} MiB  {reason[:110]}"
        table.add(name, 1, faults, note)
    if not only:
        specials(folder, model, table)


def specials(folder: Path, model: str, table: Table) -> None:
    """Build an index of files that are no files."""
    pictures = folder / "special"
    pictures.mkdir()
    made = special_files(pictures)
    photo(3, (128, 96)).save(pictures / "whole.png")
    done = build(pictures, folder / "special-index", model, "--workers", "1")
    faults = accounted(done, folder / "special-index", {*made, "whole.png"})
    if done.code == 0:
        rows, _ = listing(folder / "special-index")
        faults += [] if rows == ["whole.png"] else [f"rows are {rows}"]
    table.add("pipes, sockets, devices, links", len(made), faults, f"{done.wall:.1f} s")


def programs(folder: Path, model: str, table: Table) -> None:
    """Trace every program that is started over a folder of EPS under many names."""
    if why := can_trace():
        table.add("programs", 0, [why])
        return
    pictures = folder / "eps"
    pictures.mkdir()
    eps = saved(photo(3, (8, 8)), "EPS")
    binary = (
        b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIIIH", 32, len(eps), 0, 0, 0, 0, 0xFFFF) + b"\0\0"
    )
    files = {
        "plain.eps": eps,
        "plain.ps": eps,
        "named.jpg": eps,
        "named": eps,
        "binary.eps": binary + eps,
        "in-iptc.jpg": iptc(eps),
        "in-iptc.eps": iptc(binary + eps),
        "twice.jpg": iptc(iptc(eps)),
        "in-icon.ico": ico([eps]),
        "in-icns.icns": icns([(b"ic10", eps)]),
        "in-tiff.tif": saved(photo(3, (8, 8)), "TIFF") + eps,
        "some.pdf": saved(photo(3, (8, 8)), "PDF"),
        "some.wmf": STUBS["WMF"],
        "some.svg": b"<svg><image href='|touch x'/></svg>",
        "some.mvg": b"push graphic-context\nimage over 0,0 0,0 'url(|touch x)'\n",
        "; touch x;.jpg": eps,
        "|touch x": eps,
        "whole.png": saved(photo(3, (128, 96)), "PNG"),
    }
    for name, data in files.items():
        (pictures / name).write_bytes(data)
    bait = folder / "bin"
    bait.mkdir()
    for name in ("gs", "gswin64c", "gswin32c", "convert", "djpeg", "ppmtogif", "xv", "display"):
        (bait / name).write_text("#!/bin/sh\nexit 1\n")
        (bait / name).chmod(0o755)
    index, log = folder / "eps-index", folder / "eps.trace"
    strace = shutil.which("strace") or "strace"
    words = [strace, "-f", "-qq", "-s", "4096", "-o", str(log), "-e", "trace=execve,execveat"]
    words += [PROGRAM, "build", str(pictures), str(index), "--model", model, "--json"]
    path = f"{bait}:{os.environ['PATH']}"
    done = subprocess.run(  # noqa: S603 - ours
        words, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    watched = Watched(done.returncode, done.stdout, done.stderr, 0, 0, 0)
    faults = accounted(watched, index, set(files))
    started = [line for line in log.read_text().splitlines() if "exec" in line and " = 0" in line]
    own = (f'execve("{PROGRAM}"', f'execve("{sys.executable}", ["{sys.executable}", "-P", "-W"')
    faults += [line[:200] for line in started if not any(one in line for one in own)]
    tried = [line for line in log.read_text().splitlines() if str(bait) in line.partition("[")[0]]
    faults += [f"looked for: {line[:200]}" for line in tried]
    table.add(
        "programs started over EPS", len(files), faults, f"{len(started)} starts, all our own"
    )


def main() -> int:
    """Run the rounds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    rounds = ("mutants", "bombs", "programs")
    parser.add_argument("--only", nargs="+", choices=rounds, default=rounds)
    parser.add_argument("--bomb", nargs="+", default=[], help="parts of the names of bombs")
    parser.add_argument("--keep", type=Path, help="a folder that stays")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    table = Table()
    print(f"{'what':<40} {'tried':>6} {'failed':>7}", flush=True)
    with contextlib.ExitStack() as stack:
        if arguments.keep is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = arguments.keep
            folder.mkdir(parents=True)
        model = make_model(folder / "tiny.onnx")
        if "programs" in arguments.only:
            programs(folder, model, table)
        if "bombs" in arguments.only:
            each_bomb(folder, model, table, arguments.bomb)
        if "mutants" in arguments.only:
            mutants(folder, model, table, arguments)
    print("nothing failed" if not table.failed else f"{table.failed} failed")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
