"""From the bytes of a picture to RGB and to a model's input: everything that Pillow does.

Strangers' bytes are decoded in processes of their own: `decoding.py` calls this room there.
"""

from __future__ import annotations

import contextlib
import io
import operator
import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from PIL import Image, ImageOps, UnidentifiedImageError

from imgsearch import lean
from imgsearch.errors import ImageDecodeError
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from imgsearch.records import Preprocess

Box = tuple[float, float, float, float]
Fit = Literal["pad", "crop", "stretch", "inside"]
FITS: tuple[Fit, ...] = ("pad", "crop", "stretch", "inside")

# Opening EPS starts Ghostscript, a program of its own on a stranger's input.
_REFUSED_FORMATS = {"EPS"}
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = 5  # orientations from here on swap width and height
# Turns that bring the right or lower edge of what is stored to the left or top of what is seen.
_ENDS_LEFT, _ENDS_TOP = {2, 3, 6, 7}, {3, 4, 7, 8}
_HALF = 2
_LARGEST_BLOCK = 1 << 23
# Standard deviation, in levels of 255, of the channel that has the most.
_FLAT_LEVELS = 16
_FLAT_SIDE = 32
# Above this ratio of sides the whole resized picture would be far larger than the part that the
# model sees, so that only this part is resampled; so it is of a picture that was reduced.
_LONG_RATIO = 100
_WHITE = (255, 255, 255)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_JPEG_START = b"\xff\xd8\xff"
_BYTE = 255
# Deep pictures are brought to 8 bits this many pixels at a time: as float64 a whole one would take
# eight times its size.
_STRIP_PIXELS = 1 << 20


def disarm() -> None:
    """Make sure that Pillow starts no program and no threads in this process, whatever it opens.

    An IPTC file may hold an EPS inside, which no list of formats keeps Pillow from opening.
    """
    from PIL import AvifImagePlugin, EpsImagePlugin

    EpsImagePlugin.gs_binary = False  # "looked for, not found"
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def formats() -> list[str]:
    """Names of the formats that are opened, as Pillow spells them, sorted."""
    Image.init()
    return sorted(set(Image.OPEN) - _REFUSED_FORMATS)


@dataclass(frozen=True, slots=True)
class Picture:
    """An RGB `image`, turned as its EXIF says; `width` and `height` are those of the whole, turned.

    Its decoder may have `reduced` it. `box` is what the whole picture covers of `image`, in pixels
    of `image` (left, top, right, bottom): its last pixels may stand for less than a whole one.
    """

    image: Image.Image
    width: int
    height: int
    box: Box
    reduced: bool


def decode(
    data: bytes,
    name: str,
    *,
    max_pixels: int,
    need: int,
    shrink: float = 1.0,
    only: list[str] | None = None,
) -> Picture:
    """Decode a picture: first frame, EXIF-turned, RGB.

    Args:
        data: the whole file.
        name: what to call it in an error.
        max_pixels: more than this is refused before decoding. A JPEG above it is scaled down by
            its own decoder (by 2, 4 or 8) as long as the shorter side keeps `need` pixels.
        need: pixels of the shorter side that the caller can use.
        shrink: by how much a JPEG may be scaled down by its own decoder, where its shorter side
            keeps `need`: 1, 2, 4 or 8.
        only: the formats to accept, as in `formats()`; all of them unless given.

    Raises:
        ImageDecodeError: whatever is wrong with it.
    """
    if not data:
        raise ImageDecodeError(name, "the file is empty")
    try:
        return _decode(data, name, max_pixels, need, only or formats(), shrink=shrink)
    except ImageDecodeError:
        raise
    except MemoryError:
        raise ImageDecodeError(name, "it needs more memory than one picture may take") from None
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        raise _too_many(name, int(pixels[1]) if pixels else None, max_pixels) from None
    except UnidentifiedImageError:
        reason = "its content is in no picture format that is opened here"
        raise ImageDecodeError(name, reason) from None
    except Exception as error:
        # Decoders raise whatever comes to hand on spoilt data: ValueError, SyntaxError, struct's.
        said = printable(" ".join(str(error).split()))[:160] or type(error).__name__
        raise ImageDecodeError(name, f"it is cut off or spoilt ({said})") from error


def _decode(
    data: bytes, name: str, max_pixels: int, need: int, only: list[str], *, shrink: float
) -> Picture:
    # Some decoders take the memory for all pixels when they open (WebP); a JPEG may yet be scaled.
    bound = None if data.startswith(_JPEG_START) else max_pixels
    with _bounded(bound), Image.open(lean.opened(data), formats=only) as image:
        width, height = image.size
        ratio = max(1.0, min(width, height) / need)
        if width * height <= max_pixels:
            ratio = min(ratio, shrink) if ratio >= _HALF else 1.0
        drafted = None
        if ratio > 1 and image.format in {"JPEG", "MPO"}:
            wanted = (max(1, int(width / ratio)), max(1, int(height / ratio)))
            drafted = image.draft("RGB", wanted)
        if image.width * image.height > max_pixels:
            raise _too_many(name, image.width * image.height, max_pixels)
        scaled = image.size != (width, height)
        # What comes in many blocks is decoded a quarter slower.
        image.decodermaxblock = min(max(len(data), image.decodermaxblock), _LARGEST_BLOCK)
        with _bounded(max_pixels):  # an icon shows the size of its picture only now
            image.load()
        if image.im.size != image.size or image.im.mode != image.mode:
            # An IPTC file says what it holds, and holds what it likes.
            raise ImageDecodeError(name, "its header does not fit its content")
        if not scaled:
            width, height = image.size  # a TIFF turns itself while it loads
        right, bottom = drafted[1][2:] if scaled and drafted else image.size
        spare = (image.width - right, image.height - bottom)
        orientation = _orientation(image)
        rgb = to_rgb(image)
    if orientation in _TURNS:
        rgb = rgb.transpose(_TURNS[orientation])
    if orientation >= _SIDEWAYS:
        width, height = height, width
        spare = (spare[1], spare[0])
    left = spare[0] if orientation in _ENDS_LEFT else 0.0
    top = spare[1] if orientation in _ENDS_TOP else 0.0
    box = (left, top, rgb.width - spare[0] + left, rgb.height - spare[1] + top)
    return Picture(rgb, width, height, box, reduced=scaled)


def _too_many(name: str, pixels: int | None, most: int) -> ImageDecodeError:
    its = "its pixels" if pixels is None else f"its {pixels:,} pixels"
    return ImageDecodeError(name, f"{its} are more than {most:,}")


@contextlib.contextmanager
def _bounded(pixels: int | None) -> Iterator[None]:
    """Have Pillow's own checks, which sit before it takes memory, refuse more pixels than this."""
    before = Image.MAX_IMAGE_PIXELS
    # It refuses above twice the figure, and warns below.
    Image.MAX_IMAGE_PIXELS = None if pixels is None else (pixels + 1) // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # noqa: BLE001 - EXIF that cannot be read counts as none
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn any mode of Pillow's into RGB.

    Alpha is laid over white. 16 bits are scaled to 8; 12-bit TIFF by its 4095; other integer
    and float pictures by their own lowest and highest value, since nothing else bounds them.
    """
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        return _from_deep(image)
    if image.mode == "LAB":
        return _from_lab(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in {"RGBA", "LA", "PA", "RGBa"} or "transparency" in image.info:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    clear = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(clear, tuple) and max(clear) > _BYTE:
        # The samples were cut from 16 bits to 8 and the colour that stands for clear was not.
        image.info["transparency"] = tuple(value >> 8 for value in clear)
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    ground = Image.new("RGB", layer.size, _WHITE)
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground


def _from_deep(image: Image.Image) -> Image.Image:
    import numpy as np

    top = _known_top(image)
    low, high = (0.0, float(top)) if top is not None else _range(image)
    span = high - low
    out = Image.new("L", image.size)
    clear = image.info.get("transparency")
    # Pillow turns these round for 8 bits only.
    white_is_zero = _is_tiff(image) and _tag(image, _PHOTOMETRIC, 1) == 0

    def to_grey(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
        if span > 0:
            scaled = (values.astype(np.float64) - low) * (float(_BYTE) / span)
        else:
            scaled = np.zeros(values.shape)
        whole = np.rint(np.nan_to_num(scaled, nan=0.0, posinf=_BYTE))
        grey = np.clip(whole, 0, _BYTE).astype(np.uint8)
        return _BYTE - grey if white_is_zero else grey

    # Of 16 bits there are so few values that each is worked out once, whatever the pixels.
    table = to_grey(np.arange(1 << 16)) if image.mode.startswith("I;16") else None
    for row, values in _strips(image):
        grey = to_grey(values) if table is None else table[values]
        if clear is not None:
            grey[values == clear] = _BYTE
        out.paste(Image.fromarray(grey), (0, row))
    return out.convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and the highest finite value; 0 and 0 where there is none."""
    import numpy as np

    bounds: list[float] = []
    for _, values in _strips(image):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if finite.size:
            bounds += (float(finite.min()), float(finite.max()))
    return (min(bounds), max(bounds)) if bounds else (0.0, 0.0)


def _strips(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[np.generic]]]:
    """Yield (first row, values) of one deep picture, some rows at a time."""
    import numpy as np

    # Pillow keeps unsigned 32-bit samples as signed.
    unsigned = image.mode == "I" and _is_tiff(image) and _tag(image, _SAMPLE_FORMAT, 1) == 1
    rows = max(1, _STRIP_PIXELS // max(1, image.width))
    for row in range(0, image.height, rows):
        part = image.crop((0, row, image.width, min(image.height, row + rows)))
        values = np.asarray(part)
        yield row, values.view(np.uint32) if unsigned else values


def _known_top(image: Image.Image) -> int | None:
    """The highest value that the picture's own depth allows, where its form says so."""
    if image.mode.startswith("I;"):
        bits = _tag(image, _BITS_PER_SAMPLE, 16) if _is_tiff(image) else 16
        return (1 << min(bits, 16)) - 1
    # Pillow scales deep PGM and PPM to 16 bits and keeps them in its 32-bit mode.
    return 65_535 if image.mode == "I" and image.format in {"PPM", "PNG"} else None


def _is_tiff(image: Image.Image) -> bool:
    return image.format == "TIFF"


def _tag(image: Image.Image, number: int, default: int) -> int:
    tags = getattr(image, "tag_v2", {})
    value = tags.get(number, default)
    if isinstance(value, tuple):
        value = value[0] if value else default
    return value if isinstance(value, int) else default


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    turned = ImageCms.profileToProfile(
        image,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        outputMode="RGB",
    )
    if turned is None:  # only when asked to work in place
        raise ValueError("no conversion from LAB")
    return turned


def to_input(picture: Picture, preprocess: Preprocess) -> Image.Image:
    """Resize and cut a picture to the square that the model sees.

    The arithmetic is that of torchvision's Resize (shorter side, the longer one rounded down)
    and CenterCrop, so that the pixels of a picture that was not reduced are the same to the last
    bit. Sizes are those of the whole picture: with the sides of a reduced one, which are rounded
    up, the square would lie up to a pixel elsewhere.

    Returns:
        An RGB picture of `preprocess.crop` by `preprocess.crop` pixels.
    """
    image = picture.image
    short, long = sorted((picture.width, picture.height))
    new_long = max(1, int(preprocess.resize * long / short))
    landscape = picture.width >= picture.height
    width, height = (new_long, preprocess.resize) if landscape else (preprocess.resize, new_long)
    left = round((width - preprocess.crop) / 2.0)
    top = round((height - preprocess.crop) / 2.0)
    resample = _FILTERS[preprocess.interpolation]
    box = (left, top, left + preprocess.crop, top + preprocess.crop)
    if long <= _LONG_RATIO * short and not picture.reduced:
        return image.resize((width, height), resample, box=picture.box).crop(box)
    x0, y0, x1, y1 = picture.box
    x, y = (x1 - x0) / width, (y1 - y0) / height
    seen = (x0 + box[0] * x, y0 + box[1] * y, x0 + box[2] * x, y0 + box[3] * y)
    return image.resize((preprocess.crop, preprocess.crop), resample, box=seen)


def is_flat(image: Image.Image) -> bool:
    """Whether a model's input has so little contrast that rounding to 8 bits counts in it.

    A network that normalizes what it sees makes much of a step of one level there: such a picture
    is not to be reduced.
    """
    # Some of the pixels tell as well as all. numpy would take more memory than many a picture.
    few = image.resize((_FLAT_SIDE, _FLAT_SIDE), Image.Resampling.NEAREST).tobytes()
    number = _FLAT_SIDE * _FLAT_SIDE
    for channel in (few[0::3], few[1::3], few[2::3]):
        mean = sum(channel) / number
        if sum(map(operator.mul, channel, channel)) / number - mean * mean >= _FLAT_LEVELS**2:
            return False
    return True


def whole(image: Image.Image) -> Picture:
    """Take an RGB picture as it is."""
    return Picture(image, *image.size, (0.0, 0.0, *image.size), reduced=False)


def fit(image: Image.Image, width: int, height: int, how: Fit) -> Image.Image:
    """Bring an RGB picture to width x height pixels.

    `pad` keeps all of it and fills the rest with white; `crop` fills the size and cuts the middle;
    `stretch` ignores its proportions; `inside` makes it no larger than the size, without filling
    (and never enlarges it).
    """
    if how == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if how == "pad":
        return _padded(image, width, height)
    if how == "stretch":
        return image.resize((width, height), Image.Resampling.LANCZOS)
    small = image.copy()
    small.thumbnail((width, height), Image.Resampling.LANCZOS)
    return small


def _padded(image: Image.Image, width: int, height: int) -> Image.Image:
    # ImageOps.pad fails where the shorter side would get no pixel at all.
    ratio = min(width / image.width, height / image.height)
    inner = (
        min(width, max(1, round(image.width * ratio))),
        min(height, max(1, round(image.height * ratio))),
    )
    ground = Image.new("RGB", (width, height), _WHITE)
    place = ((width - inner[0]) // 2, (height - inner[1]) // 2)
    ground.paste(image.resize(inner, Image.Resampling.LANCZOS), place)
    return ground


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """Encode an RGB picture as JPEG without any metadata."""
    out = io.BytesIO()
    plain = image.copy()
    plain.info = {}  # Pillow would write a comment that it has read
    plain.save(out, "JPEG", quality=quality, optimize=True)
    return out.getvalue()
