"""Result grids: what stands where, that it can be read, and that nothing is lost or overlaps."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import interior_photos
import pytest
from PIL import Image, ImageChops
from test_lettering import LONG, SCRIPTS

from imgsearch import pictures
from imgsearch.errors import InputError
from imgsearch.lettering import Letters
from imgsearch.pictures import MAX_HEIGHT, MAX_MATCHES, draw_grid
from imgsearch.records import Correspondence, Match, SearchResult

if TYPE_CHECKING:
    from collections.abc import Sequence

PHOTOS = interior_photos.get_all_photos()
ROOMS = ("Wardrobe", "Wardrobe", "Kitchen", "Wardrobe", "Wardrobe")


def answer(
    label: str | None = "Wardrobe",
    labels: Sequence[str | None] = ROOMS,
    query: str = "Wardrobe/query.jpg",
    paths: Sequence[str] | None = None,
) -> SearchResult:
    """One query with a match for each label, and the accuracy that follows from them."""
    matches = tuple(
        Match(rank, rank, paths[rank - 1] if paths else f"{of}/{rank}.jpg", of, 1 - rank / 40)
        for rank, of in enumerate(labels, 1)
    )
    k = max(1, len(labels))
    share = None if label is None else sum(of == label for of in labels) / k
    other = None if share is None else 1 - share
    return SearchResult(query, label, k, "all", matches, Correspondence(share, other, ()))


def photo(of: SearchResult | Match) -> Image.Image:
    """A photo for every tile, its own for every row."""
    row = of.row if isinstance(of, Match) else 0
    with Image.open(PHOTOS[row % len(PHOTOS)]) as picture:
        picture.draft("RGB", (300, 300))
        return picture.convert("RGB")


def nothing(_: SearchResult | Match) -> None:
    """The picture is gone."""


def plan_of(results: Sequence[SearchResult], title: str | None = "Rooms") -> pictures._Plan:
    """Where everything stands."""
    return pictures._plan(results, Letters(), title, None)


def texts(plan: pictures._Plan) -> list[str]:
    """Everything that is to be read, in the order in which it was placed."""
    return [words.line.text for words in plan.words]


HARD = [
    [answer()],
    [answer(None)],
    [answer(labels=["Wardrobe"])],
    [answer(labels=[])],
    [answer(labels=["Wardrobe"] * 7), answer(None, [None, "Kitchen"]), answer(labels=[])],
    [answer(LONG, [LONG, LONG + "!", "W" * 500, "\u0301" * 300, "a\nb\u202ec"], "/" + "x/" * 90)],
    [answer(label, list(SCRIPTS.values()), label + "/x.jpg") for label in SCRIPTS.values()],
    [answer(labels=["Wardrobe"] * (MAX_MATCHES + 12))],
]


@pytest.mark.parametrize("results", HARD)
def test_captions_never_overlap(results: list[SearchResult]) -> None:
    """No line of text, mark or tile lies on another, and all lie inside the page."""
    plan = plan_of(results, "Title " * 100)
    boxes = [words.box for words in plan.words]
    boxes += [sign.box for sign in plan.signs]
    boxes += [tile.box for tile in plan.tiles]
    for a, b in combinations(boxes, 2):
        apart = a.right <= b.left or b.right <= a.left or a.bottom <= b.top or b.bottom <= a.top
        assert apart, (a, b)
    for box in boxes:
        assert 0 <= box.left < box.right <= plan.width
        assert 0 <= box.top < box.bottom <= plan.height


@pytest.mark.parametrize("results", HARD)
def test_captions_stay_under_their_tile(results: list[SearchResult]) -> None:
    """A caption is not wider than its tile, and its words are not wider than its box."""
    plan = plan_of(results, None)
    styles = {pictures._LABEL, pictures._NO_LABEL, pictures._SMALL}
    captions = [words for words in plan.words if words.line.style in styles]
    assert captions
    for words in captions:
        over = [t.box for t in plan.tiles if t.box.left <= words.box.left < t.box.right]
        assert over
        assert all(words.box.right <= box.right for box in over)
        assert plan.letters.width(words.line) <= words.box.width


def test_newlines_and_overrides_are_escaped() -> None:
    """A label of two lines stays on one, and none turns the text around it."""
    shown = texts(plan_of([answer("a\nb", ["x\u202ey", "\udcff"])]))
    assert "a\\nb" in shown
    assert "x\\u202ey" in shown
    assert "\\xff" in shown


def test_a_caption_says_rank_label_score_and_path() -> None:
    """Each match has its rank, its label, its score with three decimals and its file."""
    shown = texts(plan_of([answer()]))
    first = shown.index("1.")
    assert shown[first : first + 4] == ["1.", "Wardrobe", "Score 0.975", "Wardrobe/1.jpg"]
    third = shown.index("3.")
    assert shown[third + 1] == "Kitchen"


def test_scores_have_no_negative_zero() -> None:
    """A score that rounds to nothing has no sign."""
    match = Match(1, 0, "a.jpg", "a", -0.0001)
    plan = plan_of([SearchResult("q", None, 1, "all", (match,), None)])
    assert "Score 0.000" in texts(plan)


def test_the_accuracy_of_the_row_is_written() -> None:
    """The worked case of the contract: four of five are 80.00%."""
    shown = texts(plan_of([answer()]))
    place = next(i for i, text in enumerate(shown) if text.startswith("Accuracy"))
    assert (
        "".join(shown[place : place + 2])
        == "Accuracy of correct matches by correspondence to other classes: 80.00%"
    )


def test_without_a_label_there_is_no_verdict() -> None:
    """An unlabelled query has no marks, no colours, no legend and no accuracy."""
    plan = plan_of([answer(None)])
    assert plan.signs == []
    assert {tile.frame for tile in plan.tiles} == {None}
    assert not [text for text in texts(plan) if "Accuracy" in text or "class" in text]
    assert "no label" in texts(plan)


def test_right_and_wrong_follow_the_labels() -> None:
    """One mark and one frame a match, in the order of the matches; no label is a wrong one."""
    plan = plan_of([answer(labels=["Wardrobe", "Kitchen", None])], None)
    legend = 2
    assert [sign.right for sign in plan.signs[legend:]] == [True, False, False]
    colours = [tile.frame for tile in plan.tiles[1:]]
    assert colours == [pictures._RIGHT, pictures._WRONG, pictures._WRONG]


def test_marks_differ_in_shape_as_well_as_in_colour() -> None:
    """As black and white the check and the cross are far from alike, outline and stroke."""
    side = pictures._MARK
    grey = []
    for right in (True, False):
        canvas = Image.new("RGB", (side, side), "white")
        pictures._paint_sign(canvas, pictures._Sign(pictures._Box(0, 0, side, side), right))
        colour = canvas.getpixel((side // 2, 2))
        assert isinstance(colour, tuple)
        expected = pictures._RIGHT if right else pictures._WRONG
        assert "#{:02X}{:02X}{:02X}".format(*colour) == expected
        shape = canvas.convert("L").point([255 if grey > 140 else 0 for grey in range(256)])
        grey.append(shape)
    different = ImageChops.difference(*grey).histogram()[255]
    assert different > side * side // 8


@pytest.mark.parametrize("colour", [pictures._RIGHT, pictures._WRONG, pictures._FAINT])
def test_colours_can_be_read_on_white(colour: str) -> None:
    """At least 4.5 to 1, as WCAG asks of text, on the page and on the query's card."""
    for ground in (pictures._PAPER, pictures._CARD):
        assert contrast(colour, ground) >= 4.5


def contrast(a: str, b: str) -> float:
    """The WCAG contrast ratio of two colours."""
    low, high = sorted(luminance(c) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of #RRGGBB, 0..1."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_pictures_stand_in_their_tiles() -> None:
    """Query and matches are asked for once each, and each tile shows its own picture."""
    asked: list[SearchResult | Match] = []
    tones = {0: "#102030", 1: "#AA0000", 2: "#00AA00"}

    def load(of: SearchResult | Match) -> Image.Image:
        asked.append(of)
        return Image.new("RGB", (40, 30), tones[of.row if isinstance(of, Match) else 0])

    result = answer(labels=["Wardrobe", "Kitchen"])
    image = draw_grid([result], load).image
    assert asked == [result, *result.matches]
    for tile, tone in zip(plan_of([result], None).tiles, tones.values(), strict=True):
        middle = ((tile.box.left + tile.box.right) // 2, (tile.box.top + tile.box.bottom) // 2)
        assert image.getpixel(middle) == tuple(bytes.fromhex(tone[1:]))


@pytest.mark.parametrize("size", [(4000, 3), (3, 4000), (1, 1), (30, 30), (1028, 768)])
def test_any_shape_is_letterboxed(size: tuple[int, int]) -> None:
    """A picture keeps its shape, fills its tile one way and stays inside its frame."""
    result = answer(labels=["Wardrobe"])
    image = draw_grid([result], lambda _: Image.new("RGB", size, "#FF00FF")).image
    tile = plan_of([result], None).tiles[1].box
    magenta = Image.new("RGB", image.size, "#FF00FF")
    same = ImageChops.difference(image, magenta).convert("L").point([255] + [0] * 255)
    same.paste(0, plan_of([result], None).tiles[0].box)
    box = same.getbbox()
    assert box is not None
    inner = tile.inset(pictures._FRAME)
    left, top, right, bottom = box
    assert max(right - left, bottom - top) == inner.width
    assert (right - left) == max(1, round(inner.width * min(1, size[0] / size[1])))
    assert left >= inner.left
    assert right <= inner.right
    assert top >= inner.top
    assert bottom <= inner.bottom


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16"])
def test_any_mode_is_taken(mode: str) -> None:
    """A loader may give a picture of another mode; the grid is RGB."""
    assert draw_grid([answer()], lambda _: Image.new(mode, (9, 9))).image.mode == "RGB"


def test_lost_pictures_leave_a_note() -> None:
    """A tile without its picture says so, and a query without a match says that."""
    empty, lost = answer(labels=[]), answer(labels=["Wardrobe"])
    letters = Letters()
    for result, words in ((lost, "no picture"), (empty, "no match")):
        tile = plan_of([result], None).tiles[1].box.inset(pictures._FRAME)
        expected = Image.new("RGB", (tile.width, tile.height), pictures._WELL)
        pictures._paint_note(expected, letters, pictures._Box(0, 0, tile.width, tile.height), words)
        drawn = draw_grid([result], nothing).image.crop(tile)
        assert ImageChops.difference(drawn, expected).getbbox() is None


def test_rows_may_be_short() -> None:
    """A query with fewer matches than its neighbour leaves the places at its right empty."""
    plan = plan_of([answer(), answer(labels=["Wardrobe"] * 2), answer(labels=[])])
    tops = [tile.box.top for tile in plan.tiles]
    assert [tops.count(top) for top in sorted(set(tops))] == [6, 3, 2]


def test_many_matches_stand_on_equal_lines() -> None:
    """Ten matches are two lines of five, and beyond the most that are shown a note counts."""
    plan = plan_of([answer(labels=["Wardrobe"] * 10)], None)
    tops = [tile.box.top for tile in plan.tiles[1:]]
    assert [tops.count(top) for top in sorted(set(tops))] == [5, 5]
    plan = plan_of([answer(labels=["Wardrobe"] * (MAX_MATCHES + 7))], None)
    assert len(plan.tiles) == 1 + MAX_MATCHES
    assert "and 7 more matches" in texts(plan)


def test_the_picture_is_never_too_high() -> None:
    """Of 120 queries as many are drawn as the height allows, and the grid says how many."""
    grid = draw_grid([answer(labels=["Wardrobe"])] * 120, nothing)
    assert grid.total == 120
    assert 30 < grid.drawn < 120
    assert MAX_HEIGHT - 600 < grid.image.height <= MAX_HEIGHT
    assert grid.image.width * grid.image.height < 100_000_000
    shown = texts(plan_of([answer(labels=["Wardrobe"])] * 120, None))
    assert shown[-1] == f"{grid.drawn} of 120 queries are shown"


def test_rows_can_be_limited() -> None:
    """The first `max_rows` are drawn, nothing is loaded for the others."""
    asked: list[SearchResult | Match] = []

    def load(of: SearchResult | Match) -> None:
        asked.append(of)

    results = [answer(query=f"{n}.jpg", labels=["Wardrobe"]) for n in range(5)]
    grid = draw_grid(results, load, max_rows=2)
    assert (grid.drawn, grid.total) == (2, 5)
    assert [of.query for of in asked if isinstance(of, SearchResult)] == ["0.jpg", "1.jpg"]


@pytest.mark.parametrize(("results", "rows"), [([], None), ([answer()], 0)])
def test_nothing_to_draw_is_an_error(results: list[SearchResult], rows: int | None) -> None:
    """No results, or no rows wanted: a sentence and exit code 2."""
    with pytest.raises(InputError):
        draw_grid(results, nothing, max_rows=rows)


def test_a_grid_of_photos_is_the_same_every_time() -> None:
    """Same answers, same pictures, same bytes."""
    first, second = (draw_grid([answer()], photo, title="Rooms").image for _ in range(2))
    assert first.tobytes() == second.tobytes()
    colours = first.getcolors(maxcolors=10**6)
    assert colours is not None
    assert len(colours) > 1000
