"""Letters for a picture: a font for every character, and text cut to a width.

`Letters` turns text into a `Line`, measures it and puts it on a canvas; what a line says and where
it stands is its caller's business.

Fonts, in the order in which they are asked for a character: FiraGO (Latin, Greek, Cyrillic, Arabic,
Hebrew, Devanagari, Thai, Georgian) and Noto Sans of the package pymupdf-fonts, the Noto Emoji
carried in the folder beside this file, the symbols of pymupdf-fonts, then font packages and the
machine's own fonts by name. Emoji that ask to be drawn as such begin with Noto Emoji, and ASCII
falls back to the font inside Pillow. A character that none of them has is written as an escape: a
backslash, u and its number.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import unicodedata
from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from PIL import Image, ImageDraw, ImageFont, features

from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FINE = 4  # what is drawn that many times larger and reduced has even spacing and smooth edges

_FONTS = Path(__file__).parent / "fonts"
_ZWJ = "\u200d"
_EMOJI_STYLE = "\ufe0f"
# Shaping uses these up; they have no ink of their own.
_INKLESS = {"\u200c", _ZWJ, "\ufe0e", _EMOJI_STYLE}
_NO_GLYPH = "\U0010ffff"  # a noncharacter: every font answers with its .notdef
_PROBE = 24  # pixels: large enough that two glyphs differ
_LONGEST = 1200  # characters: no line holds more, and shaping a megabyte takes its time

# Short names in pymupdf-fonts.
_TEXT = ("figo", "notos")
_BOLD_TEXT = ("figbo", "figo", "notosbo")
_SYMBOLS = ("symbol1", "symbol2", "math")

# File names without suffix, in lower case. The machine's own fonts differ by system: Linux, macOS
# and Windows each have a few that cover much.
_WIDE_FILES = (
    *("sourcehansans-regular", "wqy-microhei", "wqy-zenhei", "droidsansfallbackfull"),
    *("droidsansfallback", "pingfang", "hiragino sans gb", "applesdgothicneo", "arial unicode"),
    *("msyh", "yugothm", "meiryo", "malgun", "simsun", "nirmala", "leelawui", "ebrima", "mmrtext"),
    *("gadugi", "seguisym", "notosanssymbols2-regular", "notosanssymbols-regular", "freesans"),
    *("dejavusans", "liberationsans-regular", "segoeui", "arial", "unifont"),
)
_FOLDERS = (
    *("~/.local/share/fonts", "~/.fonts", "/usr/local/share/fonts", "/usr/share/fonts"),
    *("/run/current-system/sw/share/X11/fonts", "/system/fonts"),
    *("~/Library/Fonts", "/Library/Fonts", "/System/Library/Fonts"),
    *("$LOCALAPPDATA/Microsoft/Windows/Fonts", "$WINDIR/Fonts"),
)
_HAN = ("jp", "kr", "sc")  # the order of the faces inside NotoSansCJK-Regular.ttc

_Way = Literal["ltr", "rtl"]


@dataclass(frozen=True, slots=True)
class Style:
    """How words look: `size` is the em in pixels, `colour` any that Pillow knows."""

    size: int
    colour: str
    bold: bool = False

    @property
    def height(self) -> int:
        """Height of the line in pixels, with room for the marks of tall scripts."""
        return round(self.size * 1.7)

    @property
    def baseline(self) -> int:
        """Where the letters stand, in pixels below the top of the line."""
        return round(self.size * 1.15)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """A font at no size yet: bytes, a file, or None for the one inside Pillow.

    `index` counts the fonts in a collection. `solid` says that it is not to be thickened in bold
    text: it is bold already, or a drawing.
    """

    source: bytes | Path | None
    index: int = 0
    solid: bool = False

    def at(self, size: int, layout: ImageFont.Layout) -> ImageFont.FreeTypeFont:
        """Open the font.

        Args:
            size: The em in pixels.
            layout: The layout engine; the font inside Pillow has its own.

        Returns:
            The font, a variable one at its regular weight.

        Raises:
            OSError: It is no font that FreeType reads.
        """
        if self.source is None:
            inside = ImageFont.load_default(size)
            if isinstance(inside, ImageFont.FreeTypeFont):
                return inside
            raise OSError("this Pillow was built without FreeType")
        source = BytesIO(self.source) if isinstance(self.source, bytes) else str(self.source)
        font = ImageFont.truetype(source, size, self.index, layout_engine=layout)
        _regular(font)
        return font


class _Piece(NamedTuple):
    """What is never torn apart: a letter with its marks, a joined emoji, an escape."""

    text: str
    face: Face


@dataclass(frozen=True, slots=True)
class Line:
    """Text as `Letters` draws it: pieces in logical order, each with a face for its glyphs.

    In a `path` every part keeps its place, whatever the scripts of its neighbours.
    """

    pieces: tuple[_Piece, ...]
    style: Style
    path: bool = False

    @property
    def text(self) -> str:
        """What is to be read, in logical order."""
        return "".join(piece.text for piece in self.pieces)


class _Run(NamedTuple):
    """Neighbouring pieces of one face and one direction, as they stand from left to right."""

    text: str
    face: Face
    direction: _Way


class Letters:
    """Fonts at hand, and what can be told with them about a text.

    One object serves one picture: FreeType's faces are not to be shared between threads.
    """

    def __init__(
        self, layout: ImageFont.Layout | None = None, faces: Sequence[Face] | None = None
    ) -> None:
        """Take the best layout engine and every font found, unless told which to use.

        Args:
            layout: The layout engine; None for raqm where it works.
            faces: The only fonts, in the order in which they are asked; None for all.
        """
        if layout is None:
            raqm = features.check("raqm")
            layout = ImageFont.Layout.RAQM if raqm else ImageFont.Layout.BASIC
        self._layout = layout
        self._only = None if faces is None else tuple(faces)
        self._fonts: dict[tuple[Face, int, ImageFont.Layout], ImageFont.FreeTypeFont | None] = {}
        self._inked: dict[tuple[Face, str], bool] = {}
        self._plain = self._ascii_face(_TEXT)
        self._bold = self._ascii_face(_BOLD_TEXT)

    def line(self, text: str, style: Style, *, path: bool = False) -> Line:
        """Find a face for every letter; what no face has is escaped.

        Args:
            text: Any text; what `printable` escapes is escaped here.
            style: How it shall look.
            path: It is a path: its parts stand in their order, a file's suffix at the right.

        Returns:
            The whole text on one line.
        """
        # macOS stores names decomposed; composed letters have glyphs of their own.
        composed = unicodedata.normalize("NFC", printable(text))
        spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in composed)
        if spaced and _mark(spaced[0]):
            spaced = " " + spaced  # a mark needs something to sit on
        han = _han(spaced)
        pieces = (
            piece for cluster in _clusters(spaced) for piece in self._pieces(cluster, style, han)
        )
        return Line(tuple(pieces), style, path)

    def fit(self, text: str, style: Style, width: int, *, path: bool = False) -> Line:
        """Make a line that is cut with an ellipsis: at the end, a path in the middle.

        Args:
            text: As in `line`.
            style: As in `line`.
            width: The most pixels it may take.
            path: As in `line`.

        Returns:
            The line; the ellipsis alone where there is no room for a letter.
        """
        half = _LONGEST // 2
        shown = text if len(text) <= _LONGEST else text[:half] + text[-half:]
        line = self.line(shown, style, path=path)
        if shown is text and self.width(line) <= width:
            return line
        counts = range(1, len(line.pieces) + 1)
        room = float(width)
        kept = bisect_right(counts, room, key=lambda count: self.width(self._cut(line, count)))
        return self._cut(line, kept)

    def width(self, line: Line) -> float:
        """Measure how far the pen moves, in pixels."""
        return sum(self._length(run, line.style) for run in self._runs(line)) / FINE

    def draw(self, canvas: Image.Image, box: tuple[int, int, int, int], line: Line) -> None:
        """Put a line on the canvas.

        Args:
            canvas: What is drawn on.
            box: Left, top, right and bottom in pixels; nothing of the line passes them. It begins
                at the top left.
            line: What is drawn.
        """
        left, top, right, bottom = box
        style = line.style
        mask = Image.new("L", ((right - left) * FINE, (bottom - top) * FINE))
        pen = ImageDraw.Draw(mask)
        x = 0.0
        for run in self._runs(line):
            font = self._font(run.face, style.size * FINE, self._layout)
            if font is not None:
                at = (x, style.baseline * FINE)
                bolder = FINE // 2 if style.bold and not run.face.solid else 0
                way = _way(run, font)
                pen.text(at, run.text, 255, font, anchor="ls", direction=way, stroke_width=bolder)
            x += self._length(run, style)
        canvas.paste(style.colour, (left, top), mask.reduce(FINE))

    def _pieces(self, cluster: str, style: Style, han: str) -> Iterator[_Piece]:
        face = self._face(cluster, style, han)
        if face is not None:
            yield _Piece(self._without_joiners(cluster), face)
            return
        # The letter with those of its marks that its own face has; the others are written out.
        face = self._face(cluster[0], style, han)
        known = ""
        if face is not None:
            known = "".join(c for c in cluster if c not in _INKLESS and self._has(face, c))
            yield _Piece(known, face)
        for character in cluster:
            if character not in known and character not in _INKLESS:
                yield _Piece(_escape(character), self._base(style))

    def _without_joiners(self, cluster: str) -> str:
        """Without shaping a joiner would be drawn as a box."""
        if self._layout == ImageFont.Layout.RAQM:
            return cluster
        return "".join(character for character in cluster if character not in _INKLESS)

    def _face(self, cluster: str, style: Style, han: str) -> Face | None:
        wanted = [character for character in cluster if character not in _INKLESS]
        if not wanted:
            return None
        emoji = _EMOJI_STYLE in cluster
        for face in self._candidates(wanted[0], style, han, emoji=emoji):
            if all(self._has(face, character) for character in wanted):
                return face
        return None

    def _candidates(self, character: str, style: Style, han: str, *, emoji: bool) -> Iterator[Face]:
        if self._only is not None:
            yield from self._only
            return
        if emoji:
            yield _EMOJI
        yield self._base(style)
        yield from _package_faces(_BOLD_TEXT if style.bold else _TEXT)
        yield _EMOJI
        yield from _package_faces(_SYMBOLS)
        for name in _file_names(character, han):
            face = _file_face(name, han)
            if face is not None:
                yield face

    def _base(self, style: Style) -> Face:
        return self._bold if style.bold else self._plain

    def _ascii_face(self, names: Sequence[str]) -> Face:
        """The face for ASCII, which every escape needs; Pillow's own has it."""
        for face in (*(self._only or ()), *_package_faces(names)):
            if all(self._has(face, character) for character in "Aa0."):
                return face
        return Face(None)

    def _cut(self, line: Line, kept: int) -> Line:
        base = self._base(line.style)
        dots = _Piece("…" if self._has(base, "…") else "...", base)
        # The end of a path says more than its beginning.
        head = kept * 2 // 5 if line.path else kept
        tail = line.pieces[len(line.pieces) - (kept - head) :]
        while head and line.pieces[head - 1].text == " ":
            head -= 1
        return replace(line, pieces=(*line.pieces[:head], dots, *tail))

    def _runs(self, line: Line) -> list[_Run]:
        """Pieces gathered by face and direction, from left to right as the eye meets them."""
        if not line.path:
            return self._visual(line.pieces, _first_way(line.pieces))
        parts = groupby(line.pieces, key=lambda piece: piece.text == "/")
        return [run for _, part in parts for run in self._visual(tuple(part), "ltr")]

    def _visual(self, pieces: Sequence[_Piece], base: _Way) -> list[_Run]:
        ways = zip(_directions(pieces, base), pieces, strict=True)
        spans = [
            self._span([piece for _, piece in span], way)
            for way, span in groupby(ways, key=itemgetter(0))
        ]
        if base == "rtl":
            spans.reverse()
        return [run for span in spans for run in span]

    def _span(self, pieces: Sequence[_Piece], way: _Way) -> list[_Run]:
        runs = [
            _Run(self._text([piece.text for piece in group], way), face, way)
            for face, group in groupby(pieces, key=lambda piece: piece.face)
        ]
        return runs[::-1] if way == "rtl" else runs

    def _text(self, parts: Sequence[str], way: _Way) -> str:
        """Logical order where raqm turns the letters, else the order in which they are seen."""
        if way == "ltr" or self._layout == ImageFont.Layout.RAQM:
            return "".join(parts)
        groups = [
            list(group) if number else list(group)[::-1]
            for number, group in groupby(parts, key=str.isdigit)
        ]
        return "".join(part for group in reversed(groups) for part in group)

    def _length(self, run: _Run, style: Style) -> float:
        font = self._font(run.face, style.size * FINE, self._layout)
        return 0.0 if font is None else font.getlength(run.text, direction=_way(run, font))

    def _font(
        self, face: Face, size: int, layout: ImageFont.Layout
    ) -> ImageFont.FreeTypeFont | None:
        """The font, opened once; None where it does not open."""
        key = (face, size, layout)
        if key not in self._fonts:
            try:
                self._fonts[key] = face.at(size, layout)
            except OSError:
                self._fonts[key] = None
        return self._fonts[key]

    def _has(self, face: Face, character: str) -> bool:
        """Whether the face has a glyph with ink for the character, other than its .notdef."""
        key = (face, character)
        if key not in self._inked:
            blank = self._ink(face, _NO_GLYPH)
            ink = self._ink(face, character)
            self._inked[key] = character == " " or (ink is not None and ink != blank)
        return self._inked[key]

    def _ink(self, face: Face, character: str) -> tuple[tuple[int, int], bytes] | None:
        """Size and pixels of one glyph; None where there is no ink."""
        # Unshaped: raqm would put a dotted circle under a mark, and no two boxes were alike.
        font = self._font(face, _PROBE, ImageFont.Layout.BASIC)
        if font is None:
            return None
        left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
        if right <= left or bottom <= top:
            return None
        mask = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(mask).text((-left, -top), character, fill=255, font=font)
        return (mask.size, mask.tobytes()) if mask.getbbox() else None


# --- Text: what belongs together, and which way it runs ------------------------------------------


def _escape(character: str) -> str:
    r"""As \u00e9, never as \xe9: that is how `printable` writes a byte that is no UTF-8."""
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - the BMP


def _clusters(text: str) -> list[str]:
    """Letters with the marks that follow them, emoji with what they are joined to."""
    clusters: list[str] = []
    for character in text:
        if clusters and _joins(clusters[-1], character):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _joins(before: str, character: str) -> bool:
    tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    pair = len(before) == 1 and _regional(before) and _regional(character)
    return _mark(character) or tone or character in _INKLESS or before.endswith(_ZWJ) or pair


def _mark(character: str) -> bool:
    """Whether it is written onto the letter before it."""
    return unicodedata.category(character) in {"Mn", "Mc", "Me"}


def _regional(character: str) -> bool:
    """Two regional indicators are one flag."""
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _way(run: _Run, font: ImageFont.FreeTypeFont) -> _Way | None:
    """Only raqm may be told a direction."""
    return run.direction if font.layout_engine == ImageFont.Layout.RAQM else None


def _first_way(pieces: Sequence[_Piece]) -> _Way:
    """A line runs as its first letter does."""
    for kind in map(_strong, pieces):
        if kind in ("ltr", "rtl"):
            return kind
    return "ltr"


def _directions(pieces: Sequence[_Piece], base: _Way) -> list[_Way]:
    """The direction of every piece, in a line that runs as `base` says.

    A short form of the Unicode rules, enough for names: figures go with the letters before them,
    signs between two letters of one direction with these, other signs with the line. Inside a run
    raqm applies the rules in full.
    """
    ways: list[_Way] = []
    kinds = [_strong(piece) for piece in pieces]
    previous = base
    for place, kind in enumerate(kinds):
        if kind == "sign":
            after = next((k for k in kinds[place:] if k != "sign"), base)
            ways.append(previous if after in (previous, "number") else base)
            continue
        if kind != "number":
            previous = kind
        ways.append(previous)
    return ways


def _strong(piece: _Piece) -> _Way | Literal["number", "sign"]:
    kind = unicodedata.bidirectional(piece.text[0])
    if kind in {"R", "AL"}:
        return "rtl"
    if kind == "L" or piece.text[0] == "\\":  # a backslash begins an escape
        return "ltr"
    return "number" if kind in {"EN", "AN"} else "sign"


# --- Fonts: where they come from ------------------------------------------------------------------

_EMOJI = Face(_FONTS / "NotoEmoji-Regular.ttf", solid=True)


def _regular(font: ImageFont.FreeTypeFont) -> None:
    """Set a variable font to its regular weight; some of them open at their thinnest."""
    try:
        axes = font.get_variation_axes()
    except OSError:  # not variable
        return
    weights = [400.0 if axis["name"] == b"Weight" else float(axis["default"] or 0) for axis in axes]
    font.set_variation_by_axes(weights)


def _package_faces(names: Sequence[str]) -> list[Face]:
    return [face for face in map(_package_face, names) if face is not None]


@cache
def _package_face(name: str) -> Face | None:
    """A font of pymupdf-fonts by its short name."""
    try:
        data = importlib.import_module("pymupdf_fonts").myfont(name)
    except (ImportError, ValueError):  # ValueError: this Python has no lzma
        return None
    return Face(data, solid=name.endswith("bo") or name in _SYMBOLS)


def _han(text: str) -> str:
    """Which face of a CJK collection: signs shared by three languages are drawn as in one."""
    if any("\u3040" <= c <= "\u30ff" for c in text):
        return "jp"
    if any("\uac00" <= c <= "\ud7a3" for c in text):
        return "kr"
    return "sc"


def _file_names(character: str, han: str) -> Iterator[str]:
    """Names of font files that may have the character, the likeliest first."""
    script = unicodedata.name(character, "").split(" ", 1)[0].lower()
    if script.isalpha() and script not in {"cjk", "hangul", "hiragana", "katakana"}:
        # Noto has a file for each script, named as in the Unicode names of its letters.
        yield from (f"notosans{script}-regular", f"notosans{script}", f"notoserif{script}-regular")
    yield from ("notosanscjk-regular", "notosanscjk-vf")
    for language in dict.fromkeys((han, *_HAN)):
        yield from (f"notosanscjk{language}-regular", f"notosans{language}-regular")
        yield f"notosans{language}"
    yield from _WIDE_FILES


@cache
def _file_face(name: str, han: str) -> Face | None:
    path = _font_files().get(name)
    if path is None:
        return None
    return Face(path, _HAN.index(han) if name.startswith("notosanscjk-") else 0)


@cache
def _font_files() -> dict[str, Path]:
    """Font files of packages and of the machine by name, in lower case and without suffix."""
    files: dict[str, Path] = {}
    for folder in (*_package_folders(), *_machine_folders()):
        for parent, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted(names):
                path = Path(parent, name)
                if path.suffix.lower() in {".ttf", ".otf", ".ttc"}:
                    # A variable font carries its axes in brackets: NotoSansLao[wdth,wght].ttf.
                    files.setdefault(path.stem.lower().split("[")[0], path)
    return files


def _package_folders() -> Iterator[Path]:
    """Where font packages lie: noto-cjk-sans-otc, and every pack that says so itself."""
    packs = importlib.metadata.entry_points(group="justmytype.packs")
    for name in ("noto_cjk_sans_otc", *sorted({pack.module.split(".")[0] for pack in packs})):
        spec = importlib.util.find_spec(name)  # finds it without running it
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent


def _machine_folders() -> Iterator[Path]:
    for name in _FOLDERS:
        folder = os.path.expandvars(name)
        if "$" not in folder:
            yield Path(os.path.expanduser(folder))  # noqa: PTH111 - Path's raises without a home
