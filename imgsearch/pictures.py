"""Result grids: every query beside its ranked matches, as one picture.

Two steps, each on its own: `_plan` says what stands where, `_paint` puts it on the canvas. Both
leave text to `imgsearch.lettering`. Nothing is opened or saved here: pictures come in through a
function, the canvas goes out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image, ImageDraw

from imgsearch.errors import InputError
from imgsearch.lettering import FINE, Letters, Line, Style

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgsearch.records import Match, SearchResult

MAX_HEIGHT = 16_000  # pixels: what viewers, browsers and JPEG still take
MAX_MATCHES = 60  # per query: more is a contact sheet nobody reads

# Blue and vermilion stay apart for every kind of colour blindness; both hold 5:1 on white.
_RIGHT, _WRONG = "#0B63A5", "#C2410C"
_PAPER, _CARD, _WELL, _LINE = "#FFFFFF", "#EFF3F7", "#E6EAEF", "#D3DAE2"
_INK, _FAINT = "#17202B", "#566270"

_TILE, _FRAME, _MARK = 216, 4, 18
_MARGIN, _PAD, _GUTTER, _GAP = 40, 14, 32, 20
_COLUMNS = 6

_TITLE = Style(27, _INK, bold=True)
_LABEL = Style(17, _INK, bold=True)
_NO_LABEL = Style(17, _FAINT)
_PLAIN = Style(15, _INK)
_FIGURE = Style(15, _INK, bold=True)
_QUIET = Style(15, _FAINT)
_SMALL = Style(13, _FAINT)

_ACCURACY = "Accuracy of correct matches by correspondence to other classes: "


@dataclass(frozen=True, slots=True)
class Grid:
    """A drawn grid: `image` (RGB), and how many of the `total` queries it shows (`drawn`)."""

    image: Image.Image
    drawn: int
    total: int


def draw_grid(
    results: Sequence[SearchResult],
    load: Callable[[SearchResult | Match], Image.Image | None],
    *,
    title: str | None = None,
    max_rows: int | None = None,
) -> Grid:
    """Draw one row per query: its picture at the left, then its matches in order of rank.

    A match whose label is that of the query has a blue frame and a check in a disc, any other an
    orange frame and a cross in a square; under a query without a label there is neither. Queries
    beyond `max_rows`, and those that would make the picture higher than MAX_HEIGHT pixels, are
    left out from the end, and a line at the bottom says so; of the matches of one query at most
    MAX_MATCHES are shown. The width follows from k and is 1,800 pixels at most.

    Args:
        results: The answers, in the order in which they shall stand.
        load: Gives the picture of a query (called with the SearchResult) or of a match (called
            with the Match), of any size; None where there is none any more. It is called once
            for each tile that is drawn, and what it raises passes through.
        title: A heading.
        max_rows: The most queries drawn, at least 1; None for as many as the height allows.

    Returns:
        The picture, mode RGB, and how many queries are in it.

    Raises:
        InputError: There are no results, or `max_rows` is below 1.
    """
    if not results:
        raise InputError("there is nothing to draw: the search gave no results")
    if max_rows is not None and max_rows < 1:
        raise InputError(f"a grid has at least one row, not {max_rows}")
    plan = _plan(results, Letters(), title, max_rows)
    return Grid(_paint(plan, load), plan.rows, len(results))


# --- Plan: what stands where ---------------------------------------------------------------------


class _Box(NamedTuple):
    """A rectangle in pixels; `right` and `bottom` are just outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def inset(self, by: int) -> _Box:
        """The box inside a rim of `by` pixels."""
        return _Box(self.left + by, self.top + by, self.right - by, self.bottom - by)


@dataclass(frozen=True, slots=True)
class _Words:
    """A line of text inside its box."""

    box: _Box
    line: Line


@dataclass(frozen=True, slots=True)
class _Tile:
    """A picture's place: `of` is None where there is no match to show."""

    box: _Box
    of: SearchResult | Match | None
    frame: str | None = None


@dataclass(frozen=True, slots=True)
class _Sign:
    """A check or a cross."""

    box: _Box
    right: bool


@dataclass(slots=True)
class _Plan:
    """Everything on the canvas, in pixels; `rows` is how many queries it shows."""

    letters: Letters
    width: int
    height: int = 0
    rows: int = 0
    cards: list[_Box] = field(default_factory=list)
    rules: list[_Box] = field(default_factory=list)
    tiles: list[_Tile] = field(default_factory=list)
    signs: list[_Sign] = field(default_factory=list)
    words: list[_Words] = field(default_factory=list)


_CAPTION = 8 + _LABEL.height + _PLAIN.height + _SMALL.height
_STEP = _TILE + _CAPTION + _GAP
_LEFT = _MARGIN + _TILE + 2 * _PAD + _GUTTER  # where the matches begin
_FOOT = _GAP + _QUIET.height


def _plan(
    results: Sequence[SearchResult], letters: Letters, title: str | None, max_rows: int | None
) -> _Plan:
    columns = _columns(max(len(result.matches) for result in results))
    plan = _Plan(letters, _page_width(results, letters, columns))
    top = _place_head(plan, results, title)
    limit = len(results) if max_rows is None else max_rows
    for number, result in enumerate(results[:limit]):
        height = _row_height(result, columns)
        between = 2 * _PAD if number else 0
        if number and top + between + height + _FOOT + _MARGIN > MAX_HEIGHT:
            break
        if number:
            plan.rules.append(_Box(_MARGIN, top + _PAD, plan.width - _MARGIN, top + _PAD + 1))
        _place_row(plan, result, top + between, columns)
        top += between + height
        plan.rows += 1
    if plan.rows < len(results):
        note = f"{plan.rows:,} of {len(results):,} queries are shown"
        _write(plan, note, _QUIET, _across(plan, top + _GAP))
        top += _FOOT
    plan.height = top + _MARGIN
    return plan


def _columns(matches: int) -> int:
    """How many tiles side by side: lines of equal length rather than one full and one stub."""
    shown = max(1, min(matches, MAX_MATCHES))
    lines = ceil(shown / _COLUMNS)
    return ceil(shown / lines)


def _page_width(results: Sequence[SearchResult], letters: Letters, columns: int) -> int:
    tiles = columns * (_TILE + _GAP) - _GAP
    sentence = 0
    if any(_accuracy(result) for result in results):
        words = letters.width(letters.line(_ACCURACY, _QUIET))
        sentence = ceil(words + letters.width(letters.line("100.00%", _FIGURE))) + 4
    return _LEFT + max(tiles, sentence) + _MARGIN


def _accuracy(result: SearchResult) -> str | None:
    found = result.correspondence
    return None if found is None or found.accuracy is None else f"{found.accuracy:.2%}"


def _row_height(result: SearchResult, columns: int) -> int:
    lines = max(1, ceil(min(len(result.matches), MAX_MATCHES) / columns))
    note = _GAP // 2 + _QUIET.height if _notes(result) else 0
    return 2 * _PAD + lines * _STEP - _GAP + note


def _notes(result: SearchResult) -> bool:
    return _accuracy(result) is not None or len(result.matches) > MAX_MATCHES


def _across(plan: _Plan, top: int) -> _Box:
    """The whole width between the margins, from `top` down."""
    return _Box(_MARGIN, top, plan.width - _MARGIN, top)


def _write(plan: _Plan, text: str, style: Style, room: _Box, *, path: bool = False) -> int:
    """Add a line at the top left of the room, cut to its width; give where it ends."""
    line = plan.letters.fit(text, style, room.width - 1, path=path)
    width = min(room.width, ceil(plan.letters.width(line)) + 1)
    box = _Box(room.left, room.top, room.left + width, room.top + style.height)
    plan.words.append(_Words(box, line))
    return box.right


def _place_head(plan: _Plan, results: Sequence[SearchResult], title: str | None) -> int:
    """Title and legend; gives where the rows begin."""
    top = _MARGIN
    if title:
        _write(plan, title, _TITLE, _across(plan, top))
        top += _TITLE.height + 4
    if any(result.label is not None and result.matches for result in results):
        left = _MARGIN
        for right, text in ((True, "same class as the query"), (False, "another class")):
            _sign(plan, left, top, _QUIET, right=right)
            room = _Box(left + _MARK + 8, top, plan.width - _MARGIN, top)
            left = _write(plan, text, _QUIET, room) + _GAP + 4
        top += _QUIET.height
    return top if top == _MARGIN else top + _GAP


def _sign(plan: _Plan, left: int, top: int, style: Style, *, right: bool) -> None:
    """A mark on the line whose top is given, as high as its capitals are."""
    middle = top + style.baseline - round(style.size * 0.35)
    up = middle - _MARK // 2
    plan.signs.append(_Sign(_Box(left, up, left + _MARK, up + _MARK), right))


def _place_row(plan: _Plan, result: SearchResult, top: int, columns: int) -> None:
    card = _Box(_MARGIN, top, _MARGIN + _TILE + 2 * _PAD, top + 2 * _PAD + _TILE + _CAPTION)
    plan.cards.append(card)
    place = _tile(card.left + _PAD, top + _PAD)
    plan.tiles.append(_Tile(place, result))
    _caption(plan, place, result.label, second="Query", path=result.query)
    shown = result.matches[:MAX_MATCHES]
    for number, match in enumerate(shown):
        line, column = divmod(number, columns)
        place = _tile(_LEFT + column * (_TILE + _GAP), top + _PAD + line * _STEP)
        _place_match(plan, result, match, place)
    if not shown:
        plan.tiles.append(_Tile(_tile(_LEFT, top + _PAD), None))
    if _notes(result):
        _place_notes(plan, result, top + _row_height(result, columns) - _QUIET.height)


def _tile(left: int, top: int) -> _Box:
    return _Box(left, top, left + _TILE, top + _TILE)


def _place_match(plan: _Plan, result: SearchResult, match: Match, place: _Box) -> None:
    frame, lead = None, 0
    if result.label is not None:
        right = match.label == result.label
        frame, lead = (_RIGHT if right else _WRONG), _MARK + 7
        _sign(plan, place.left, place.bottom + 8, _LABEL, right=right)
    plan.tiles.append(_Tile(place, match, frame))
    score = f"Score {match.score:z.3f}"
    _caption(plan, place, match.label, second=score, path=match.path, rank=match.rank, lead=lead)


def _caption(
    plan: _Plan,
    place: _Box,
    label: str | None,
    *,
    second: str,
    path: str,
    rank: int | None = None,
    lead: int = 0,
) -> None:
    """Three lines under a tile: rank and label, score, path; `lead` keeps room for the mark."""
    room = _Box(place.left + lead, place.bottom + 8, place.right, place.bottom)
    if rank is not None:
        # By itself, so that a label written from right to left leaves the rank at the left.
        end = _write(plan, f"{rank}.", _LABEL, room)
        room = room._replace(left=end + 5)
    if label is None:
        _write(plan, "no label", _NO_LABEL, room)
    else:
        _write(plan, label, _LABEL, room)
    room = _Box(place.left, room.top + _LABEL.height, place.right, place.bottom)
    _write(plan, second, _PLAIN, room)
    room = room._replace(top=room.top + _PLAIN.height)
    _write(plan, path, _SMALL, room, path=True)


def _place_notes(plan: _Plan, result: SearchResult, top: int) -> None:
    room = _Box(_LEFT, top, plan.width - _MARGIN, top)
    accuracy = _accuracy(result)
    if accuracy is not None:
        room = room._replace(left=_write(plan, _ACCURACY, _QUIET, room))
        room = room._replace(left=_write(plan, accuracy, _FIGURE, room) + _GAP)
    more = len(result.matches) - MAX_MATCHES
    if more > 0:
        _write(plan, f"and {more:,} more matches", _QUIET, room)


# --- Paint: the plan on a canvas -----------------------------------------------------------------


def _paint(plan: _Plan, load: Callable[[SearchResult | Match], Image.Image | None]) -> Image.Image:
    canvas = Image.new("RGB", (plan.width, plan.height), _PAPER)
    for card in plan.cards:
        _fill(canvas, card, _CARD, radius=10)
    for rule in plan.rules:
        canvas.paste(_LINE, rule)
    for tile in plan.tiles:
        _paint_tile(canvas, plan.letters, tile, None if tile.of is None else load(tile.of))
    for sign in plan.signs:
        _paint_sign(canvas, sign)
    for words in plan.words:
        plan.letters.draw(canvas, words.box, words.line)
    return canvas


def _fill(canvas: Image.Image, box: _Box, colour: str, radius: int) -> None:
    mask = Image.new("L", (box.width * FINE, box.height * FINE))
    edge = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(edge, radius * FINE, fill=255)
    canvas.paste(colour, (box.left, box.top), mask.reduce(FINE))


def _paint_tile(
    canvas: Image.Image, letters: Letters, tile: _Tile, picture: Image.Image | None
) -> None:
    if tile.frame is not None:
        canvas.paste(tile.frame, tile.box)
    well = tile.box if tile.frame is None else tile.box.inset(_FRAME)
    canvas.paste(_WELL, well)
    if picture is None or 0 in picture.size:
        _paint_note(canvas, letters, well, "no match" if tile.of is None else "no picture")
        return
    scale = min(well.width / picture.width, well.height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    corner = (well.left + (well.width - size[0]) // 2, well.top + (well.height - size[1]) // 2)
    canvas.paste(small, corner)


def _paint_note(canvas: Image.Image, letters: Letters, well: _Box, text: str) -> None:
    """Words in the middle of an empty tile."""
    line = letters.fit(text, _QUIET, well.width)
    width = ceil(letters.width(line)) + 1
    left = well.left + (well.width - width) // 2
    top = well.top + (well.height - _QUIET.height) // 2
    letters.draw(canvas, _Box(left, top, left + width, top + _QUIET.height), line)


def _paint_sign(canvas: Image.Image, sign: _Sign) -> None:
    """White strokes on a blue disc or an orange square: shapes, which no font can lose."""
    side = sign.box.width * FINE
    shape, strokes = Image.new("L", (side, side)), Image.new("L", (side, side))
    edge = (0, 0, side - 1, side - 1)
    if sign.right:
        ImageDraw.Draw(shape).ellipse(edge, fill=255)
        lines = [[(0.26, 0.52), (0.44, 0.70), (0.75, 0.33)]]
    else:
        ImageDraw.Draw(shape).rounded_rectangle(edge, side // 8, fill=255)
        lines = [[(0.29, 0.29), (0.71, 0.71)], [(0.71, 0.29), (0.29, 0.71)]]
    pen = ImageDraw.Draw(strokes)
    for line in lines:
        points = [(x * side, y * side) for x, y in line]
        pen.line(points, fill=255, width=round(side * 0.13), joint="curve")
    corner = (sign.box.left, sign.box.top)
    canvas.paste(_RIGHT if sign.right else _WRONG, corner, shape.reduce(FINE))
    canvas.paste(_PAPER, corner, strokes.reduce(FINE))
