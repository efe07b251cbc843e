"""What a picture says about itself costs nothing: texts, profiles and comments of any number."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from imgsearch import images, lean
from imgsearch.decoding import DecoderPool, Source
from imgsearch.records import DecodedImage, Limits, Preprocess

if TYPE_CHECKING:
    from collections.abc import Iterator

V1 = Preprocess(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MIB = 1 << 20
SIZE = (60, 40)
PIXELS = np.random.default_rng(4).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)
TURNED = np.rot90(PIXELS, -1)  # as orientation 6 says


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    """Return an image as a file of this format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(count: int) -> bytes:
    """Return a zlib stream of so many zeros."""
    return zlib.compress(bytes(count), 9)


PNG = saved(PHOTO, "PNG")
JPEG = saved(PHOTO, "JPEG", quality=95)
EXIF = b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + bytes(4)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
# As old versions of ImageMagick write it.
RAW_PROFILE = f"\nexif\n{len(EXIF):8}\n{EXIF.hex()}\n".encode()


def png(*before: bytes, behind: bytes = b"") -> bytes:
    """Return the PNG with more chunks before and behind its pixels."""
    return PNG[:33] + b"".join(before) + PNG[33:-12] + behind + PNG[-12:]


def segment(marker: int, data: bytes) -> bytes:
    """Return one segment of a JPEG."""
    return struct.pack(">HH", 0xFF00 + marker, len(data) + 2) + data


def jpeg(*more: bytes) -> bytes:
    """Return the JPEG with more segments behind its JFIF."""
    return JPEG[:20] + b"".join(more) + JPEG[20:]


def decoded(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the RGB pixels that a file becomes."""
    return np.asarray(images.decode(data, "it", max_pixels=10**6, need=10).image)


def left(data: bytes) -> bytes:
    """Return what a decoder gets to see of a file."""
    with lean.opened(data) as stream:
        return stream.read()


BALLAST = {
    "texts": chunk(b"tEXt", b"a\0b") * 1000,
    "a text of 3 MiB": chunk(b"tEXt", b"a\0" + bytes(3 * MIB)),
    "packed texts that become 80 MiB": chunk(b"zTXt", b"a\0\0" + zeros(MIB)) * 80,
    "a packed text that becomes 20 MiB": chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(20 * MIB)),
    "a profile of 20 MiB": chunk(b"iCCP", b"p\0\0" + zeros(20 * MIB)),
    "spoilt profiles": chunk(b"iCCP", b"p") + chunk(b"iCCP", b"p\0\7") + chunk(b"iCCP", b""),
    "a text with a wrong sum": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
    "private chunks": chunk(b"prVt", bytes(1000)) * 100,
    "numbers cut off": chunk(b"cHRM", b"\0") + chunk(b"gAMA", b"") + chunk(b"pHYs", b"\0\0"),
    "XMP that becomes 20 MiB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zeros(20 * MIB)),
    "XMP that is not packed as it says": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0what"),
    "XMP of 1 MiB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(MIB)),
    "EXIF as a text that becomes 20 MiB": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zeros(20 * MIB)
    ),
}


@pytest.mark.parametrize("what", BALLAST)
def test_a_png_is_read_without_its_ballast(what: str) -> None:
    """Before or behind the pixels: the decoder sees the bare file, which is decoded as ever."""
    for data in (png(BALLAST[what]), png(behind=BALLAST[what])):
        assert left(data) == PNG
        assert np.array_equal(decoded(data), PIXELS)


COMMENTS = {
    "comments": segment(0xFE, b"x") * 1000,
    "a profile in 255 parts": b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([i, 255]) + bytes(1000)) for i in range(1, 256)
    ),
    "a list of pictures that are not there": segment(0xE2, b"MPF\0" + EXIF),
    "parts of Photoshop": segment(0xED, b"Photoshop 3.0\0" + bytes(1000)) * 100,
    "marks of others": b"".join(segment(0xE0 + i, b"other") for i in range(16)),
    "empty marks": b"".join(segment(0xE0 + i, b"") for i in range(16)),
}


@pytest.mark.parametrize("what", COMMENTS)
def test_a_jpeg_is_read_without_its_ballast(what: str) -> None:
    """The decoder sees the bare file, which is decoded as ever."""
    data = jpeg(COMMENTS[what])
    assert left(data) == JPEG
    assert np.array_equal(decoded(data), decoded(JPEG))


@pytest.mark.parametrize(
    "turn",
    [
        chunk(b"eXIf", EXIF),
        chunk(b"tEXt", b"Raw profile type exif\0" + RAW_PROFILE),
        chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0en\0name\0" + zlib.compress(XMP)),
    ],
    ids=["eXIf", "tEXt", "zTXt", "iTXt", "packed iTXt"],
)
def test_the_turn_of_a_png_is_not_ballast(turn: bytes) -> None:
    """EXIF in its chunk or in a text, and XMP, turn the picture, among a thousand other texts."""
    texts = chunk(b"tEXt", b"a\0b") * 1000
    assert np.array_equal(decoded(png(texts, turn, texts)), TURNED)


@pytest.mark.parametrize(
    "turn",
    [
        segment(0xE1, b"Exif\0\0" + EXIF),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
    ],
    ids=["EXIF", "XMP"],
)
def test_the_turn_of_a_jpeg_is_not_ballast(turn: bytes) -> None:
    """EXIF and XMP turn the picture, among a thousand comments."""
    comments = segment(0xFE, b"x") * 1000
    data = jpeg(comments, turn, comments)
    assert np.array_equal(decoded(data), np.rot90(decoded(JPEG), -1))


def test_what_is_repeated_is_read_four_times_at_most() -> None:
    """An EXIF of many segments, which Pillow joins one by one, costs no more than four."""
    many = jpeg(segment(0xE1, b"Exif\0\0" + EXIF + bytes(60_000)) * 300)
    assert left(many) == jpeg(segment(0xE1, b"Exif\0\0" + EXIF + bytes(60_000)) * 4)
    assert np.array_equal(decoded(many), np.rot90(decoded(JPEG), -1))
    assert left(png(chunk(b"eXIf", EXIF) * 9)) == png(chunk(b"eXIf", EXIF) * 4)


def test_what_pixels_depend_on_is_kept() -> None:
    """Palettes, clear colours, animations, inks and the marks of colour: files stay as they are."""
    palette = PHOTO.quantize(8)
    files = {
        "palette": saved(palette, "PNG", transparency=3),
        "clear colour": saved(PHOTO, "PNG", transparency=(1, 2, 3)),
        "animation": saved(PHOTO, "PNG", save_all=True, append_images=[palette.convert("RGB")]),
        "inks": saved(PHOTO.convert("CMYK"), "JPEG"),
        "colours as they are": saved(PHOTO, "JPEG", keep_rgb=True),
        "progressive": saved(PHOTO, "JPEG", progressive=True),
        "restarts": saved(PHOTO, "JPEG", restart_marker_rows=1),
        "another format": saved(PHOTO, "WEBP", exif=EXIF),
        "nothing": b"",
    }
    for what, data in files.items():
        assert left(data) == data, what


def test_bytes_that_break_the_rules_are_left_to_the_decoder() -> None:
    """A file that ends anywhere, or whose lengths lie, is handed on as it is from there."""
    for whole in (PNG, JPEG):
        for size in (*range(200), len(whole) - 13, len(whole) - 1):
            assert left(whole[:size]) == whole[:size]
    lying = png(struct.pack(">I", 2**31) + b"tEXt")
    assert left(lying) == lying
    for length in (0, 1, 65_535):
        data = JPEG[:20] + b"\xff\xfe" + struct.pack(">H", length) + b"\xff\xd9"
        assert left(data) == data
    # Fill bytes before a marker, and a marker without a length, are part of the format.
    assert left(jpeg(b"\xff\xff\xff", segment(0xFE, b"x"))) == jpeg(b"\xff\xff\xff")
    assert left(jpeg(b"\xff\xd0", segment(0xFE, b"x"))) == jpeg(b"\xff\xd0")


def test_spans_are_read_like_a_file() -> None:
    """2,000 random seeks and reads of a file in 60 pieces give what a file of those bytes gives."""
    chance = random.Random(4)  # noqa: S311 - a series that can be repeated
    pieces = [chunk(b"IDAT", chance.randbytes(chance.randrange(40))) for _ in range(60)]
    data = PNG[:33] + chunk(b"tEXt", b"a\0b").join(pieces) + PNG[-12:]
    wanted = io.BytesIO(PNG[:33] + b"".join(pieces) + PNG[-12:])
    with lean.opened(data) as stream:
        for _ in range(2000):
            whence = chance.choice((io.SEEK_SET, io.SEEK_CUR, io.SEEK_END))
            offset = chance.randrange(-50, 1500)
            if whence == io.SEEK_END:
                offset -= 1400
            try:
                place = stream.seek(offset, whence)
            except OSError:
                continue
            wanted.seek(place)
            size = chance.randrange(200)
            assert stream.read(size) == wanted.read(size)
            assert stream.tell() == wanted.tell()
        with pytest.raises(OSError, match="before the start"):
            stream.seek(-1)


def noise(kind: bytes) -> Iterator[bytes]:
    """Yield a PNG's pixels in many small chunks with something between each two."""
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
    yield PNG[:33]
    for i in range(0, len(pixels), 2):
        yield chunk(b"IDAT", pixels[i : i + 2])
        yield chunk(kind, b"a\0b")
    yield PNG[-12:]


def test_texts_between_pixels_take_no_pixels_away() -> None:
    """3,600 pieces of pixels with as many texts between them are the whole picture."""
    data = b"".join(noise(b"tEXt"))
    assert data.count(b"IDAT") > 3000
    assert np.array_equal(decoded(data), PIXELS)


def test_ballast_does_not_count_against_the_limits() -> None:
    """A decoder with 64 MiB opens pictures whose texts and profiles would take more than that."""
    with DecoderPool(1, Limits(memory=64 * MIB, seconds=60)) as pool:
        for data in (
            png(chunk(b"iCCP", b"p\0\0" + zeros(100 * MIB))),
            png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zeros(100 * MIB)) * 3),
            png(chunk(b"tEXt", b"a\0b") * 100_000),
            jpeg(segment(0xFE, b"x") * 100_000),
        ):
            assert isinstance(pool.input(Source("it", data=data), V1), DecodedImage)
