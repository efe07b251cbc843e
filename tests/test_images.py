"""What becomes of a picture: formats, modes, orientation, and the pixels that a model sees."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from imgsearch import SearchEngine, build_index, images
from imgsearch.decoding import DecoderPool, Source
from imgsearch.errors import ImageDecodeError
from imgsearch.records import Limits, Preprocess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

MODEL = "efficientnet-lite2"
V1 = Preprocess(256, 224, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LITE = Preprocess(260, 260, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ENOUGH = 10**8

# Every format that Pillow 12 and 13 both write and open, with the mode that it is written in.
FORMATS = {
    "AVIF": "RGB",
    "BLP": "P",
    "BMP": "RGB",
    "DDS": "RGB",
    "DIB": "RGB",
    "GIF": "P",
    "ICNS": "RGB",
    "ICO": "RGB",
    "IM": "RGB",
    "JPEG": "RGB",
    "JPEG2000": "RGB",
    "MPO": "RGB",
    "MSP": "1",
    "PCX": "RGB",
    "PNG": "RGB",
    "PPM": "RGB",
    "QOI": "RGB",
    "SGI": "RGB",
    "SPIDER": "F",
    "TGA": "RGB",
    "TIFF": "RGB",
    "WEBP": "RGB",
    "XBM": "1",
}
# These are written by Pillow, and cannot be opened by it, or not without another program.
WRITE_ONLY = {"EPS", "PALM", "PDF", "BUFR", "GRIB", "HDF5", "WMF"}
# Their numbers are the source's own. The others lose something: colours, or detail.
EXACT = {"BMP", "DDS", "DIB", "IM", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF"}


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    """Return one supervised decoder with the limits of the product."""
    with DecoderPool(1) as decoders:
        yield decoders


@pytest.fixture(scope="module")
def photo(small_photos: Path) -> Image.Image:
    """Return one interior, 96 x 64, RGB, with nothing but its pixels."""
    with Image.open(sorted(small_photos.iterdir())[1]) as image:
        return ImageOps.fit(image.convert("RGB"), (96, 64))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own
    """Return an image as a file of this format."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes) -> Pixels:
    """Return the RGB pixels that a file becomes."""
    picture = images.decode(data, "it", max_pixels=ENOUGH, need=10).image
    assert picture.mode == "RGB"
    return np.asarray(picture)


def grey(data: bytes) -> Pixels:
    """Return the pixels of a file that becomes grey: three equal channels, as one."""
    pixels = decoded(data)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return one chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(size: tuple[int, int], depth: int, colour: int, rows: list[bytes], *more: bytes) -> bytes:
    """Return a PNG of any depth and colour type, with more chunks before its pixels."""
    head = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", head), *more, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(
    size: tuple[int, int],
    data: bytes,
    bits: int,
    *,
    kind: int = 1,
    photometric: int = 1,
    order: str = "II",
) -> bytes:
    """Return an uncompressed grey TIFF of any depth; kind 1 unsigned, 2 signed, 3 float."""
    mark = "<" if order == "II" else ">"
    shorts, long = {258: bits, 259: 1, 262: photometric, 277: 1, 339: kind}, 4
    tags = {256: size[0], 257: size[1], 273: 0, 278: size[1], 279: len(data)} | shorts
    tags[273] = 8 + 2 + 12 * len(tags) + 4
    out = order.encode() + struct.pack(f"{mark}HIH", 42, 8, len(tags))
    for tag in sorted(tags):
        if tag in shorts:
            out += struct.pack(f"{mark}HHIHH", tag, 3, 1, tags[tag], 0)
        else:
            out += struct.pack(f"{mark}HHII", tag, long, 1, tags[tag])
    return out + struct.pack(f"{mark}I", 0) + data


# Formats.


def test_the_list_of_formats_is_complete() -> None:
    """Every format that this Pillow writes is either among those tried here or cannot be opened."""
    Image.init()
    assert set(Image.SAVE) - WRITE_ONLY == set(FORMATS)
    assert len(FORMATS) >= 20


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_opened_by_content_under_a_wrong_name(
    kind: str, photo: Image.Image, pool: DecoderPool, tmp_path: Path
) -> None:
    """A picture in a file called .txt or .jpg is decoded as what it is, in a decoder process."""
    source = photo.convert(FORMATS[kind])
    if kind == "ICNS":
        source = ImageOps.fit(source, (1024, 1024))
    elif kind == "ICO":
        source = ImageOps.fit(source, (48, 48))
    file = tmp_path / ("picture.txt" if kind == "JPEG" else "picture.jpg")
    file.write_bytes(saved(source, kind))
    got = pool.input(Source("it", str(file)), LITE)
    assert (got.width, got.height) == source.size
    wanted = np.asarray(images.to_input(images.whole(source.convert("RGB")), LITE)).astype(float)
    if kind in EXACT or FORMATS[kind] in {"1", "P"}:
        assert np.array_equal(got.pixels, wanted)
    else:
        assert np.abs(got.pixels - wanted).mean() < 8


def iptc(inside: bytes, *, layers: bytes = b"\x01\x00") -> bytes:
    """Return an IPTC file that says it holds an 8 x 8 JPEG, and holds what is given."""

    def field(record: int, number: int, data: bytes) -> bytes:
        return struct.pack(">BBBH", 0x1C, record, number, len(data)) + data

    head = field(3, 60, layers) + field(3, 20, b"\x08") + field(3, 30, b"\x08")
    parts = [field(8, 10, inside[i : i + 8000]) for i in range(0, len(inside), 8000)]
    return head + field(3, 120, b"\x05") + b"".join(parts)


def test_eps_starts_no_program(
    photo: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPS is refused, alone and inside of an IPTC file, and no Ghostscript is started for it.

    Pillow alone, given the same two files, starts the one that lies first in PATH.
    """
    trace = tmp_path / "started"
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {trace}\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    eps = saved(photo.resize((8, 8)), "EPS")
    files = {"eps": eps, "iptc": iptc(eps)}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with DecoderPool(1) as pool:
        for name in files:
            with pytest.raises(ImageDecodeError) as error:
                pool.input(Source(name, str(tmp_path / name)), LITE)
            assert "Ghostscript" not in error.value.reason or name == "iptc"
    assert not trace.exists()
    alone = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    for name in files:
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", alone, tmp_path / name],
            check=False,
            capture_output=True,
        )
        assert trace.exists(), name
        trace.unlink()


def test_a_header_that_lies_about_its_content_is_refused(photo: Image.Image) -> None:
    """An IPTC file of 8 x 8 grey pixels is read; one that holds another picture is refused."""
    small = photo.resize((8, 8)).convert("L")
    assert grey(iptc(saved(small, "JPEG", quality=100))).shape == (8, 8)
    for other in (small.resize((9, 8)), small.convert("RGB")):
        with pytest.raises(ImageDecodeError, match="does not fit its content"):
            decoded(iptc(saved(other, "JPEG")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "JPEG2000", "QOI"])
def test_half_a_picture_is_none(kind: str, photo: Image.Image) -> None:
    """A file that was cut, at the middle or by its last tenth, is refused and not half drawn."""
    data = saved(photo, kind, **({"lossless": True} if kind == "WEBP" else {}))
    decoded(data)
    for size in (len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageDecodeError):
            decoded(data[:size])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"this is a text\n", "no picture format"),
        (b"\xff\xd8\xff", "no picture format"),
        (b"\x89PNG\r\n\x1a\n", "no picture format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "no picture format"),
        (bytes(4096), "no picture format"),
    ],
)
def test_what_is_no_picture_has_a_reason(data: bytes, reason: str) -> None:
    """Bytes that are no picture are refused with a reason in plain words."""
    with pytest.raises(ImageDecodeError, match=reason) as error:
        decoded(data)
    assert error.value.path == "it"


def test_only_the_formats_that_are_asked_for_are_opened(photo: Image.Image) -> None:
    """Who takes JPEG only gets a JPEG decoded and a PNG refused."""
    for kind in ("JPEG", "PNG"):
        data = saved(photo, kind)
        if kind == "JPEG":
            images.decode(data, "it", max_pixels=ENOUGH, need=10, only=["JPEG"])
        else:
            with pytest.raises(ImageDecodeError):
                images.decode(data, "it", max_pixels=ENOUGH, need=10, only=["JPEG"])


# Modes.


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_black_and_white_and_grey(kind: str, photo: Image.Image) -> None:
    """Pictures of 1 and of 8 bits a pixel become three equal channels of the same values."""
    bits = photo.convert("1")
    assert np.array_equal(grey(saved(bits, kind)), np.asarray(bits) * np.uint8(255))
    assert np.array_equal(grey(saved(photo.convert("L"), kind)), np.asarray(photo.convert("L")))


def over_white(colour: npt.ArrayLike, alpha: npt.ArrayLike) -> Pixels:
    """Lay colour (..., 3) over white by alpha (...), rounded once."""
    share = np.asarray(alpha, float)[..., None] / 255
    mixed = np.asarray(colour, float) * share + 255 * (1 - share)
    return np.floor(mixed + 0.5).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_white_exactly(mode: str) -> None:
    """For every value and every alpha the pixel is the rounded mixture with white."""
    value, alpha = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    colour = np.stack([value, value[:, ::-1], value], axis=-1)
    source = np.dstack([colour, alpha]) if mode == "RGBA" else np.dstack([value, alpha])
    wanted = over_white(colour if mode == "RGBA" else np.dstack([value] * 3), alpha)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decoded(saved(Image.fromarray(source), kind)), wanted)


def test_premultiplied_alpha_is_undone_first() -> None:
    """Pillow's modes RGBa and La are laid over white like RGBA and LA."""
    plain = Image.new("RGBA", (4, 4), (200, 100, 40, 102))
    wanted = over_white([200, 100, 40], 102)
    assert np.abs(np.asarray(images.to_rgb(plain.convert("RGBa")))[0, 0] - wanted).max() <= 1
    light = Image.new("LA", (4, 4), (200, 102))
    mixed = np.asarray(images.to_rgb(light.convert("La")))[0, 0]
    assert np.abs(mixed.astype(int) - over_white([200, 200, 200], 102)).max() <= 1


def test_palettes_keep_their_colours_and_their_transparency(photo: Image.Image) -> None:
    """P becomes its palette's colours; clear entries become white, half clear ones are mixed."""
    indexed = photo.quantize(8)
    opaque = np.asarray(indexed.convert("RGB"))
    assert np.array_equal(decoded(saved(indexed, "PNG")), opaque)
    index = np.asarray(indexed)
    alphas = np.array([255, 0, 128, 255, 64, 255, 1, 254], np.uint8)
    wanted = over_white(opaque, alphas[index])
    assert np.array_equal(decoded(saved(indexed, "PNG", transparency=alphas.tobytes())), wanted)
    clear = np.where(index[..., None] == 3, 255, opaque)
    assert np.array_equal(decoded(saved(indexed, "GIF", transparency=3)), clear)
    with_alpha = indexed.convert("RGBA")
    with_alpha.putalpha(77)
    assert np.array_equal(
        np.asarray(images.to_rgb(with_alpha.convert("PA"))), np.asarray(images.to_rgb(with_alpha))
    )


def test_one_colour_that_stands_for_clear_becomes_white() -> None:
    """TRNS of a PNG in grey and in RGB, of 8 and of 16 bits: that colour is white, others stay."""
    grey8 = png((3, 1), 8, 0, [bytes([7, 100, 200])], chunk(b"tRNS", struct.pack(">H", 100)))
    assert grey(grey8).tolist() == [[7, 255, 200]]
    key = struct.pack(">3H", 1, 2, 3)
    rgb8 = png((2, 1), 8, 2, [bytes([1, 2, 3, 9, 8, 7])], chunk(b"tRNS", key))
    assert decoded(rgb8).tolist() == [[[255, 255, 255], [9, 8, 7]]]
    row = struct.pack(">3H", 0, 4660, 65535)
    grey16 = png((3, 1), 16, 0, [row], chunk(b"tRNS", struct.pack(">H", 4660)))
    assert grey(grey16).tolist() == [[0, 255, 255]]
    key = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    rgb16 = png((2, 1), 16, 2, [key + struct.pack(">3H", 1000, 2000, 3000)], chunk(b"tRNS", key))
    assert decoded(rgb16).tolist() == [[[255, 255, 255], [3, 7, 11]]]


def test_cmyk_jpeg_is_not_its_own_negative(photo: Image.Image) -> None:
    """A CMYK JPEG has the colours of its source, with Adobe's mark and without it.

    Such files hold inverted inks whether they are marked or not: browsers and Pillow read them so.
    """
    data = saved(photo.convert("CMYK"), "JPEG", quality=98)
    start = data.index(b"\xff\xee")
    marked_end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    for file in (data, data[:start] + data[marked_end:]):
        assert np.abs(decoded(file).astype(int) - np.asarray(photo)).mean() < 4
    assert np.array_equal(decoded(saved(photo.convert("CMYK"), "TIFF")), np.asarray(photo))


def test_other_colour_models(photo: Image.Image) -> None:
    """YCbCr, HSV and LAB become the RGB that they were made of."""
    ycc = photo.convert("YCbCr")
    assert np.abs(decoded(saved(ycc, "TIFF")).astype(int) - np.asarray(photo)).max() <= 3
    jpeg = saved(photo, "TIFF", compression="jpeg", quality=98)
    assert np.abs(decoded(jpeg).astype(int) - np.asarray(photo)).mean() < 4
    hsv = np.asarray(images.to_rgb(photo.convert("HSV"))).astype(int)
    assert np.abs(hsv - np.asarray(photo)).max() <= 8
    for colour in ((200, 120, 80), (60, 90, 140), (255, 255, 255), (119, 119, 119), (90, 160, 70)):
        light, a, b = lab(colour)
        raw = bytes([round(light * 2.55), round(a) % 256, round(b) % 256]) * 16
        got = decoded(saved(Image.frombytes("LAB", (4, 4), raw), "TIFF"))[0, 0]
        assert np.abs(got.astype(int) - colour).max() <= 3


def lab(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return L*, a*, b* (D50) of an sRGB colour, by the formulas of the standards."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.43607, 0.38506, 0.14308], [0.22250, 0.71688, 0.06062], [0.01393, 0.09710, 0.71417]]
    )
    x, y, z = np.cbrt(to_xyz @ linear / (to_xyz @ np.ones(3)))  # no colour here is darker than 1%
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


RAMP = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
RAMP8 = np.rint(RAMP / 65_535 * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_a_16_bit_ramp_becomes_an_8_bit_ramp(kind: str) -> None:
    """All 65,536 values are scaled and rounded; Pillow's own conversion makes 99.6% white."""
    data = saved(Image.fromarray(RAMP), kind)
    assert np.array_equal(grey(data), RAMP8)
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "I":
            assert (np.asarray(image.convert("RGB")) == 255).mean() > 0.99


def test_a_dark_16_bit_picture_stays_dark() -> None:
    """The scale is that of the depth, not of the values that happen to be there."""
    data = saved(Image.fromarray(RAMP // 16), "PNG")
    assert np.array_equal(grey(data), np.rint(RAMP // 16 / 65_535 * 255).astype(np.uint8))


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize(
    ("bits", "kind", "number"), [(16, 1, "u2"), (16, 2, "i2"), (32, 2, "i4"), (32, 3, "f4")]
)
def test_deep_tiff_is_scaled_by_its_range(order: str, bits: int, kind: int, number: str) -> None:
    """Signed and unsigned, integer and float, in both byte orders: low is black, high is white."""
    values = RAMP.astype(np.float64) * (65_537.0 if number == "f4" else 1) - (
        32_768 if number == "i2" else 0
    )
    raw = values.astype(("<" if order == "II" else ">") + number).tobytes()
    assert np.array_equal(grey(tiff((256, 256), raw, bits, kind=kind, order=order)), RAMP8)


def test_unsigned_32_bit_tiff_does_not_turn_negative() -> None:
    """Values beyond 2^31, which Pillow keeps as negative ones, are the bright end."""
    raw = (RAMP.astype(np.uint32) * 65_537).astype("<u4").tobytes()
    assert np.array_equal(grey(tiff((256, 256), raw, 32)), RAMP8)


def test_12_bit_tiff_is_scaled_by_4095() -> None:
    """A ramp of all 4,096 values; a dark 12-bit picture stays dark."""
    values = np.arange(4096)
    pairs = values.reshape(-1, 2)
    first, second = pairs[:, 0], pairs[:, 1]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1)
    data = tiff((64, 64), packed.astype(np.uint8).tobytes(), 12)
    wanted = np.rint(values / 4095 * 255).astype(np.uint8).reshape(64, 64)
    assert np.array_equal(grey(data), wanted)


def test_white_is_zero_in_a_deep_tiff() -> None:
    """Where a 16-bit TIFF says that 0 is white, it is."""
    raw = RAMP.astype("<u2").tobytes()
    assert np.array_equal(grey(tiff((256, 256), raw, 16, photometric=0)), 255 - RAMP8)


def test_float_pictures_with_nan_and_infinity() -> None:
    """Finite values set the scale; NaN becomes black, infinity the end it points to."""
    values = np.array([[0.25, 0.75, 0.5, np.nan, np.inf, -np.inf]], np.float32)
    data = tiff((6, 1), values.tobytes(), 32, kind=3)
    assert grey(data).tolist() == [[0, 255, 128, 0, 255, 0]]
    nothing = np.full((2, 2), np.nan, np.float32)
    assert not grey(tiff((2, 2), nothing.tobytes(), 32, kind=3)).any()
    flat = np.full((2, 2), 7.0, np.float32)
    assert not grey(tiff((2, 2), flat.tobytes(), 32, kind=3)).any()


def test_deep_pictures_are_scaled_in_strips_as_they_are_whole() -> None:
    """A picture taller than one strip is scaled by the range of all of it."""
    tall = np.linspace(-5, 5, 1500 * 1400, dtype=np.float32).reshape(1400, 1500)
    got = grey(saved(Image.fromarray(tall), "TIFF"))
    values = tall.astype(np.float64)
    low, high = values.min(), values.max()
    assert np.array_equal(got, np.rint((values - low) * (255 / (high - low))).astype(np.uint8))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF"])
def test_the_first_frame_counts(kind: str) -> None:
    """Of an animation, or of several pages, the first is taken."""
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert np.abs(decoded(data).astype(int) - (255, 0, 0)).max() <= 4


# Orientation.

# How a stored picture is turned to be upright, by the EXIF standard.
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, 1),
}
# What turns an upright picture into the stored one.
STORED = UPRIGHT | {6: UPRIGHT[8], 8: UPRIGHT[6]}
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


def turned(image: Image.Image, orientation: int, kind: str, **options: Any) -> bytes:  # noqa: ANN401
    """Return a file that shows `image` once its EXIF orientation is applied."""
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(image))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(stored, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_turned_picture_is_the_upright_one(
    kind: str, orientation: int, photo: Image.Image
) -> None:
    """Pixels, width and height of all 8 orientations are those of the upright picture."""
    data = turned(photo, orientation, kind, **LOSSLESS[kind])
    with Image.open(io.BytesIO(data)) as image:
        assert image.getexif()[0x0112] == orientation
    picture = images.decode(data, "it", max_pixels=ENOUGH, need=10)
    assert (picture.width, picture.height) == picture.image.size == photo.size
    assert picture.box == (0, 0, *photo.size)
    assert np.array_equal(np.asarray(picture.image), np.asarray(photo))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_is_turned_after_decoding(orientation: int, photo: Image.Image) -> None:
    """A JPEG's result is that of turning its decoded pixels by hand, also when it is scaled."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(photo, "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        wanted = UPRIGHT[orientation](np.asarray(image.convert("RGB")))
    assert np.array_equal(decoded(data), wanted)
    scaled = images.decode(data, "it", max_pixels=2000, need=10)
    size = photo.size if orientation < 5 else photo.size[::-1]
    assert (scaled.width, scaled.height) == size
    assert scaled.image.size == (size[0] // 4, size[1] // 4)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_halved_jpeg_is_cut_where_the_whole_one_is(orientation: int, photo: Image.Image) -> None:
    """Of odd sides half a pixel is over, at the edge that the turn brings it to; no pixel moves."""
    small = Preprocess(40, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    stored = photo.resize((301, 201) if orientation < 5 else (201, 301))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(stored, "JPEG", exif=exif, quality=95)
    whole, half = (
        images.decode(data, "it", max_pixels=ENOUGH, need=80, shrink=shrink)
        for shrink in (1.0, 2.0)
    )
    assert (whole.reduced, half.reduced) == (False, True)
    assert (half.width, half.height) == whole.image.size == (301, 201)
    assert half.image.size == (151, 101)
    left = 0.5 * (orientation in {2, 3, 6, 7})
    top = 0.5 * (orientation in {3, 4, 7, 8})
    assert half.box == (left, top, left + 150.5, top + 100.5)
    wanted = np.asarray(images.to_input(whole, small)).astype(int)
    given = np.asarray(images.to_input(half, small)).astype(int)
    assert np.abs(given - wanted).mean() < 1
    # What the difference would be if the half pixel were thought to be at the other edges.
    other = (0.5 - left, 0.5 - top, 151 - left, 101 - top)
    moved = np.asarray(images.to_input(replace(half, box=other), small)).astype(int)
    assert np.abs(moved - wanted).mean() > 1.5 * np.abs(given - wanted).mean()


def test_a_jpeg_is_halved_only_with_room(photo: Image.Image) -> None:
    """The shorter side keeps what is needed, else the picture is decoded whole; a PNG always is."""
    stored = photo.resize((300, 200))
    for kind, need, reduced in (("JPEG", 100, True), ("JPEG", 101, False), ("PNG", 10, False)):
        data = saved(stored, kind)
        picture = images.decode(data, "it", max_pixels=ENOUGH, need=need, shrink=2.0)
        assert picture.reduced is reduced
        assert picture.image.size == ((150, 100) if reduced else (300, 200))


def test_a_flat_picture_is_not_halved(photo: Image.Image) -> None:
    """Where there is hardly any contrast each rounding counts: its input is that of the whole."""
    small = Preprocess(40, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    photo = photo.resize((301, 201))
    grey = Image.new("RGB", photo.size, (200, 200, 200))
    with DecoderPool(1) as pool:
        for share, same in ((0.1, True), (1.0, False)):
            data = saved(Image.blend(grey, photo, share), "JPEG")
            half, whole = (
                pool.input(Source("it", data=data), replace(small, reduce=reduce)).pixels
                for reduce in (2, 0)
            )
            assert np.array_equal(half, whole) is same


def test_eight_orientations_give_one_vector_in_build_and_in_query(
    small_photos: Path, tmp_path: Path
) -> None:
    """24 files, 8 orientations in 3 lossless formats: one model input, one vector, one size.

    The vectors are bit-equal among each other, and to what a query by the same file computes;
    its score is 1 within one step of float32.
    """
    import faiss
    import pyarrow.parquet as pq

    with Image.open(sorted(small_photos.iterdir())[3]) as image:
        upright = image.convert("RGB")
    assert upright.width != upright.height
    folder = tmp_path / "turned"
    folder.mkdir()
    for kind, options in LOSSLESS.items():
        for orientation in UPRIGHT:
            data = turned(upright, orientation, kind, **options)
            (folder / f"{orientation}.{kind.lower()}").write_bytes(data)
    files = sorted(folder.iterdir())
    with DecoderPool(2) as pool:
        inputs = {pool.input(Source(str(f), str(f)), LITE).pixels.tobytes() for f in files}
    assert len(inputs) == 1
    index = tmp_path / "index"
    build_index(folder, index, model=MODEL)
    stored = faiss.read_index(str(next(index.glob("vectors-*.faiss"))))
    rows = stored.reconstruct_n(0, stored.ntotal)
    assert rows.shape[0] == len(files) == 24
    assert len({row.tobytes() for row in rows}) == 1
    items = pq.read_table(next(index.glob("items-*.parquet"))).to_pydict()
    sizes = set(zip(items["width"], items["height"], strict=True))
    assert sizes == {upright.size}
    step = np.spacing(np.float32(1))
    with SearchEngine.open(index) as engine:
        for result in engine.by_images(files[::7], k=24):
            assert [match.row for match in result.matches] == list(range(24))
            assert all(abs(match.score - 1) <= step for match in result.matches)
        for file in files[-1:]:
            assert engine.image_query(file).vector.tobytes() == rows[0].tobytes()


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0",
        b"Exif\0\0rubbish that is no TIFF",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        *(
            b"Exif\0\0II*\0\x08\0\0\0\x01\0"
            + struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)
            + b"\0" * 4
            for value in (0, 9, 65_535)
        ),
        b"Exif\0\0II*\0\x08\0\0\0\x01\0"
        + struct.pack("<HHI4s", 0x0112, 2, 4, b"six\0")
        + b"\0" * 4,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 9, 4000) + b"\0" * 4,
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIf", 0x0112, 11, 1, 6.5) + b"\0" * 4,
    ],
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Truncated File Read")
def test_exif_that_cannot_be_read_counts_as_none(exif: bytes, photo: Image.Image) -> None:
    """With broken EXIF, or an orientation that does not exist, the pixels are as stored."""
    assert np.array_equal(decoded(saved(photo, "PNG", exif=exif)), np.asarray(photo))
    assert np.array_equal(
        decoded(saved(photo, "WEBP", exif=exif, lossless=True)), np.asarray(photo)
    )
    assert np.array_equal(decoded(saved(photo, "JPEG", exif=exif)), decoded(saved(photo, "JPEG")))


# The model's input.

SIZES = [
    (256, 256),
    (257, 255),
    (400, 267),
    (267, 400),
    (300, 300),
    (224, 224),
    (225, 999),
    (640, 481),
    (101, 103),
    (31, 47),
    (7, 5),
    (1, 1),
    (2, 1),
    (513, 512),
    (799, 100),
    (100, 800),
    (1, 8),
    (8, 1),
    (1023, 767),
    (260, 261),
]


@pytest.mark.parametrize("preprocess", [V1, LITE], ids=["V1", "lite"])
def test_the_models_input_is_torchvisions(preprocess: Preprocess, photos: list[Path]) -> None:
    """On 20 sizes each pixel is the same as that of torchvision's Resize and CenterCrop."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    with Image.open(photos[0]) as image:
        image.draft("RGB", (480, 720))
        original = image.convert("RGB")
    mode = InterpolationMode(preprocess.interpolation)
    for size in SIZES:
        source = original.resize(size)
        wanted = center_crop(resize(source, [preprocess.resize], mode), [preprocess.crop])
        got = images.to_input(images.whole(source), preprocess)
        assert got.size == (preprocess.crop, preprocess.crop)
        assert np.array_equal(np.asarray(got), np.asarray(wanted)), size


@pytest.mark.parametrize("preprocess", [V1, LITE], ids=["V1", "lite"])
@pytest.mark.parametrize("size", [(9, 1), (3, 400), (1200, 90), (5, 1001), (1, 300)])
def test_long_pictures_are_close_to_torchvisions(
    size: tuple[int, int], preprocess: Preprocess, photo: Image.Image
) -> None:
    """Where only the visible part is resampled, its pixels differ by rounding alone."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    source = photo.resize(size)
    mode = InterpolationMode(preprocess.interpolation)
    wanted = center_crop(resize(source, [preprocess.resize], mode), [preprocess.crop])
    got = np.asarray(images.to_input(images.whole(source), preprocess)).astype(int)
    assert np.abs(got - np.asarray(wanted)).max() <= 2


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 3), (1, 60_000)])
def test_very_long_pictures_take_little_memory(size: tuple[int, int], tmp_path: Path) -> None:
    """1 x 20,000 pixels resized whole are 3.9 GB; here 64 MiB are enough for them."""
    ramp = np.linspace(0, 255, max(size), dtype=np.uint8)
    source = Image.fromarray(ramp[None, :]).resize((max(size), min(size)))
    if size[0] < size[1]:
        source = source.transpose(Image.Transpose.ROTATE_270)
    file = tmp_path / "long.png"
    source.save(file)
    with DecoderPool(1, Limits(memory=64 << 20)) as pool:
        got = pool.input(Source("it", str(file)), V1)
        assert (got.width, got.height) == size
        # It is the middle of the picture.
        assert np.abs(got.pixels.astype(int) - 127).max() <= 2
        for how in images.FITS:
            with Image.open(io.BytesIO(pool.jpeg(Source("it", str(file)), 64, 48, how=how))) as out:
                assert out.width <= 64
                assert out.height <= 48


# Copies.


def test_fit_gives_the_size_that_was_asked_for(photo: Image.Image) -> None:
    """Pad, crop and stretch give exactly the size; inside gives at most that and never enlarges."""
    for size in ((50, 50), (10, 90), (200, 300), (1, 1)):
        for how in images.FITS:
            got = images.fit(photo, *size, how)
            if how == "inside":
                assert got.width <= min(size[0], photo.width)
                assert got.height <= min(size[1], photo.height)
            else:
                assert got.size == size
    padded = np.asarray(images.fit(photo, 96, 128, "pad"))
    assert (padded[:32] == 255).all()
    assert (padded[96:] == 255).all()
    assert np.array_equal(padded[32:96], np.asarray(photo))
    assert np.array_equal(np.asarray(images.fit(photo, 96, 64, "crop")), np.asarray(photo))


def test_a_copy_has_no_metadata(photo: Image.Image) -> None:
    """EXIF, profile, comment, XMP and resolution of the original are not in the copy."""
    from PIL import ImageCms

    exif = Image.Exif()
    exif[0x010F] = "a maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(
        photo,
        "JPEG",
        exif=exif,
        icc_profile=profile,
        comment=b"a secret",
        xmp=b"<x:xmpmeta/>",
        dpi=(300, 300),
    )
    picture = images.decode(data, "it", max_pixels=ENOUGH, need=10).image
    assert b"secret" in data
    for how in images.FITS:
        copy = images.to_jpeg(images.fit(picture, 64, 64, how), 90)
        with Image.open(io.BytesIO(copy)) as image:
            assert image.format == "JPEG"
            assert image.mode == "RGB"
            assert not dict(image.getexif())
            assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
        assert b"secret" not in copy
