"""Letters: every script is drawn or spelled out, in its order, cut where it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image, ImageChops, ImageFont, features

from imgsearch import lettering
from imgsearch.lettering import Face, Letters, Style

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = Style(15, "#000000")
BOLD = Style(17, "#000000", bold=True)

# The same word or name in many scripts. The last has a private character that no font knows.
SCRIPTS = {
    "latin": "Küche",
    "vietnamese": "nhà bếp",
    "greek": "Κουζίνα",
    "cyrillic": "Кухня",
    "arabic": "مطبخ",
    "hebrew": "מטבח",
    "devanagari": "रसोईघर",
    "thai": "ห้องครัว",
    "georgian": "სამზარეულო",
    "han": "厨房",
    "kana": "キッチン",
    "hangul": "부엌",
    "bengali": "রান্নাঘর",
    "ethiopic": "ኩሽና",
    "emoji": "🛋🍳",
    "nobody's": "\ue0e0",
}
LONG = "A very long class name that no caption under a tile of this size can ever hold in full"


def ink(text: str, letters: Letters, style: Style) -> Image.Image:
    """The text on white, in a box of its own width and of one line's height."""
    line = letters.line(text, style)
    image = Image.new("RGB", (max(1, int(letters.width(line)) + 2), style.height), "white")
    letters.draw(image, (0, 0, *image.size), line)
    return image.convert("L")


def darkest(image: Image.Image) -> int:
    """The lowest value in a grey picture, 0..255."""
    return min(image.tobytes())


def test_text_is_drawn_inside_its_box_only() -> None:
    """Not even a letter with a tower of marks paints outside its line."""
    letters = Letters()
    tower = "Z" + "\u0301\u0323" * 60
    image = Image.new("RGB", (300, 200), "white")
    box = (100, 90, 180, 90 + BOLD.height)
    letters.draw(image, box, letters.line(tower + LONG, BOLD))
    assert image.crop(box).getextrema() != ((255, 255),) * 3
    image.paste("white", box)
    assert image.getextrema() == ((255, 255),) * 3


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_script_is_drawn_or_escaped(script: str) -> None:
    """Each letter has ink unlike the box of a missing glyph, or is spelled as its escape."""
    letters = Letters()
    word = SCRIPTS[script]
    line = letters.line(word, BOLD)
    for piece in line.pieces:
        for character in piece.text:
            assert letters._has(piece.face, character), (script, hex(ord(character)))
    drawn = line.text.encode().decode("unicode_escape")
    assert drawn in {word, word.encode().decode("latin-1")}
    assert darkest(ink(word, letters, BOLD)) < 100


def test_letters_that_are_always_here_are_never_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """ASCII comes with Pillow and emoji with this package, even without any other font."""
    monkeypatch.setattr(lettering, "_package_face", lambda _name: None)
    monkeypatch.setattr(lettering, "_file_face", lambda _name, _han: None)
    letters = Letters()
    for word in ("Wardrobe 0042.jpg", SCRIPTS["emoji"]):
        for style in (PLAIN, BOLD):
            assert letters.line(word, style).text == word


@pytest.mark.parametrize(
    "script",
    [
        *("latin", "vietnamese", "greek", "cyrillic", "arabic", "hebrew", "devanagari", "thai"),
        "georgian",
    ],
)
def test_firago_has_its_scripts(script: str) -> None:
    """With pymupdf-fonts these scripts are drawn in one and the same face."""
    face = lettering._package_face("figo")
    assert face is not None
    line = Letters().line(SCRIPTS[script], PLAIN)
    assert {piece.face for piece in line.pieces} == {face}
    assert line.text == SCRIPTS[script]


@pytest.mark.parametrize("script", sorted(SCRIPTS))
@pytest.mark.parametrize("style", [Style(13, "#000000"), BOLD, Style(27, "#000000", bold=True)])
def test_no_line_cuts_the_letters_of_its_script(script: str, style: Style) -> None:
    """The tallest and the deepest letters leave the first and the last row of their line white."""
    drawn = ink(SCRIPTS[script], Letters(), style)
    for y in (0, drawn.height - 1):
        assert drawn.crop((0, y, drawn.width, y + 1)).getextrema() == (255, 255)


def test_a_letter_without_a_font_is_spelled_out() -> None:
    """What no font has is neither dropped nor an empty box: its escape stands there."""
    only_latin = Letters(faces=[Face(None)])
    line = only_latin.line("aé厨\U0001f373\ue0e0", PLAIN)
    assert line.text == "a\\u00e9\\u53a8\\U0001f373\\ue0e0"
    drawn = ink("a厨", only_latin, PLAIN)
    spelled = ink("a\\u53a8", only_latin, PLAIN)
    assert ImageChops.difference(drawn, spelled).getbbox() is None


def test_a_missing_mark_keeps_its_letter() -> None:
    """A letter is still drawn where only its mark has no glyph, and the mark is written out."""
    only_latin = Letters(faces=[Face(None)])
    line = only_latin.line("x\u0f71y", PLAIN)
    assert [piece.text for piece in line.pieces] == ["x", "\\u0f71", "y"]


def test_the_missing_glyph_is_known_in_every_font() -> None:
    """The test for a glyph says no for noncharacters and yes for letters."""
    letters = Letters()
    for face in (Face(None), lettering._EMOJI, letters._plain, letters._bold):
        assert not letters._has(face, "\U0010fffe")
        assert not letters._has(face, "\ue123")
        assert letters._has(face, "7")
    # Shaped by itself, a mark that is missing would look like a glyph: raqm adds a dotted circle.
    assert not letters._has(lettering._EMOJI, "\u0351")


def test_right_to_left_stands_in_the_order_it_is_read() -> None:
    """In a line of Hebrew and Latin the first word stands at the right; in a path at the left."""
    letters = Letters(layout=ImageFont.Layout.BASIC)

    def seen(text: str, *, path: bool = False) -> str:
        line = letters.line(text, PLAIN, path=path)
        return "".join(run.text for run in letters._runs(line))

    assert seen("אב ab") == "ab בא"
    assert seen("אב 12") == "12 בא"
    assert seen("אב/גד_12.jpg", path=True) == "בא/12_דג.jpg"


@pytest.mark.skipif(not features.check("raqm"), reason="this Pillow does no shaping")
def test_arabic_letters_are_joined() -> None:
    """With raqm the letters take the forms of their places, so that the word gets shorter."""
    letters = Letters()
    whole = letters.width(letters.line("مطبخ", PLAIN))
    single = sum(letters.width(letters.line(c, PLAIN)) for c in "مطبخ")
    assert whole < 0.9 * single


def test_decomposed_names_are_composed() -> None:
    """A name as macOS stores it looks like the same name typed."""
    letters = Letters()
    assert letters.line("Ku\u0308che", PLAIN) == letters.line("Küche", PLAIN)


def test_a_joined_emoji_is_one_piece() -> None:
    """Skin tones, flags and joined emoji are never torn apart by the ellipsis."""
    letters = Letters()
    for one in ("👩🏽\u200d💻", "🇩🇪", "🏳\ufe0f\u200d🌈"):
        assert len(letters.line(one, PLAIN).pieces) == 1


def test_long_labels_end_in_an_ellipsis() -> None:
    """A label keeps its beginning, a path its beginning and the end of the file's name."""
    letters = Letters()
    label = letters.fit(LONG, PLAIN, 200).text
    assert label.endswith("…")
    assert LONG.startswith(label[:-1])
    name = "photos/" + "deep/" * 30 + "window_0042.jpg"
    path = letters.fit(name, PLAIN, 200, path=True).text
    head, tail = path.split("…")
    assert name.startswith(head)
    assert head
    assert name.endswith(tail)
    assert tail.endswith("0042.jpg")


def test_a_label_that_fits_is_whole() -> None:
    """Nothing is cut without need: one pixel less and it is."""
    letters = Letters()
    width = letters.width(letters.line(LONG, PLAIN))
    assert letters.fit(LONG, PLAIN, int(width) + 1) == letters.line(LONG, PLAIN)
    assert letters.fit(LONG, PLAIN, int(width) - 1) != letters.line(LONG, PLAIN)


def test_a_label_of_a_million_letters_takes_no_time() -> None:
    """Only its ends are looked at, and the ellipsis says so."""
    line = Letters().fit("ab" * 500_000, PLAIN, 200)
    assert line.text.endswith("…")
    assert len(line.text) < 60


def test_letters_are_drawn_without_shaping_too() -> None:
    """Where libraqm is missing every script still has ink, and joiners leave no box."""
    letters = Letters(layout=ImageFont.Layout.BASIC)
    for word in SCRIPTS.values():
        assert darkest(ink(word, letters, PLAIN)) < 160
    assert letters.line("a\u200db", PLAIN).text == "ab"


def test_fonts_of_the_machine_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A font file in the user's folder is known by its name, whatever its case and its axes."""
    folder = tmp_path / ".local" / "share" / "fonts" / "noto"
    folder.mkdir(parents=True)
    path = folder / "NotoSansNobody[wdth,wght].TTF"
    path.write_bytes((lettering._FONTS / "NotoEmoji-Regular.ttf").read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert lettering._font_files.__wrapped__()["notosansnobody"] == path


def test_a_broken_font_file_has_no_letters(tmp_path: Path) -> None:
    """A file that is no font is passed over, and the next font in line is asked."""
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"\x00\x01\x00\x00" + b"junk" * 100)
    letters = Letters(faces=[Face(broken), Face(None)])
    assert [piece.face.source for piece in letters.line("ab", PLAIN).pieces] == [None, None]


def test_the_font_in_the_package_is_whole() -> None:
    """The emoji font opens, and its licence lies beside it."""
    assert lettering._EMOJI.at(20, ImageFont.Layout.BASIC).getname()[0] == "Noto Emoji"
    assert "SIL OPEN FONT LICENSE" in (lettering._FONTS / "OFL.txt").read_text().upper()
