"""Names that try to be more than names: as folders, files, labels and indexes, in every output."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import MODEL, Run
from PIL import Image

from imgsearch import InputError, LabelFileError, build_index, import_vectors, verify
from imgsearch.index import open_index
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Each is a legal name of a folder here; each file has the name of its folder and ".jpg".
CLASSES = sorted(
    [
        "new\nline",
        "carriage\r\nreturn",
        "tab\tstop",
        "escape\x1b[31mred\x1b]0;title\x07",
        "\"double\" and 'single'",
        "<script>alert(1)<",
        "<img src=x onerror=alert(1)>",
        "'\"><b onclick=x>&lt;&amp;",
        "[bold red]rich[",
        "{{7*7}}{% raw %}{# x #}",
        "-rf",
        "--help",
        "=1+1",
        "+1",
        "@SUM(A1)",
        "comma, semicolon; pipe | pipe",
        "🛋 \U00020bb7",
        "Case",
        "case",
        "trailing space ",
        "trailing dot.",
        "override \u202egpj",
        "separator \u2028 \u2029",
        "back\\slash",
        "row:0",
        "n" * 250,
    ]
)
NO_UTF8 = os.fsdecode(b"latin \xe9")
INDEX = "<b>[red]{{7*7}}=\n\x1b[31m\u202e'\"& ."
FORMULAS = ("=", "+", "-", "@")
# Attributes that show a name to people or keep it for the page's own script, as text.
NAMED = {"title", "aria-label", "data-name", "data-value"}


def file_name(label: str) -> str:
    """Return the name of the one picture of a class."""
    return f"{label[:246]}.jpg"


def paths() -> list[str]:
    """Return all paths as they are, in the order of the index."""
    return sorted(f"{label}/{file_name(label)}" for label in CLASSES)


def label_of(path: str) -> str:
    """Return the class of a path."""
    return path.split("/", maxsplit=1)[0]


@dataclass(frozen=True, slots=True)
class Place:
    """A folder with `pictures` and an index of them, whose name is as odd as theirs."""

    root: Path
    index: Path


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Place:
    """Build an index of real pictures under all these names."""
    root = tmp_path_factory.mktemp("odd")
    photos = sorted(small_photos.iterdir())
    for photo, label in zip(photos, CLASSES, strict=False):
        (root / "pictures" / label).mkdir(parents=True)
        shutil.copy(photo, root / "pictures" / label / file_name(label))
    (root / "pictures" / NO_UTF8).mkdir()
    shutil.copy(photos[0], root / "pictures" / NO_UTF8 / "x.jpg")
    (root / "pictures" / "-rf" / "[bold]no\npicture\x1b[2J.jpg").write_bytes(b"no picture")
    build_index(root / "pictures", root / INDEX, model=MODEL)
    return Place(root, root / INDEX)


@pytest.fixture(scope="module")
def plain(odd: Place) -> Place:
    """Make the same index with plain names, in the same order, of the same pictures."""
    root = odd.root / "plain"
    lines = ["path,label"]
    for i, path in enumerate(paths()):
        label = f"c{i:02}"
        (root / "pictures" / label).mkdir(parents=True)
        shutil.copy(odd.root / "pictures" / path, root / "pictures" / label / "x.jpg")
        lines.append(f"{label}/x.jpg,{label}")
    (root / "items.csv").write_text("\n".join(lines) + "\n")
    np.save(root / "v.npy", np.array(open_index(odd.index).vectors.rows))
    import_vectors(root / "v.npy", root / "items.csv", root / "index", images=root / "pictures")
    return Place(root, root / "index")


def is_plain(text: str) -> bool:
    """Whether nothing in a text but its line ends could do something to a terminal."""
    return all(line == printable(line) for line in text.split("\n"))


def test_an_index_keeps_every_name(odd: Place) -> None:
    """Paths and labels in the index are those on disk; what is no UTF-8 is listed, escaped."""
    index = open_index(odd.index)
    assert index.items.column("path") == paths()
    assert index.items.column("label") == [label_of(path) for path in paths()]
    assert list(index.manifest.classes) == CLASSES
    assert {skip.path: skip.reason for skip in index.skipped()} == {
        "latin \\xe9/x.jpg": "its name is not UTF-8",
        "-rf/[bold]no\\npicture\\x1b[2J.jpg": (
            "its content is in no picture format that is opened here"
        ),
    }
    assert verify(odd.index) == []


def test_json_gives_names_back(odd: Place, imgsearch: Callable[..., Run]) -> None:
    """Labels, paths and classes of search --json are those on disk."""
    run = imgsearch("search", odd.index, "row:3", "-k", "99", "--json")
    assert run.json["index"] == str(odd.index)
    (query,) = run.json["queries"]
    assert query["label"] == label_of(paths()[3])
    found = {match["row"]: (match["path"], match["label"]) for match in query["matches"]}
    assert found == {i: (p, label_of(p)) for i, p in enumerate(paths()) if i != 3}
    assert [share["label"] for share in query["correspondence"]["classes"]] == CLASSES


def test_csv_gives_names_back(odd: Place, imgsearch: Callable[..., Run]) -> None:
    """Read as csv, names are those on disk: those that a spreadsheet takes for formulas, too."""
    run = imgsearch("search", odd.index, "row:3", "-k", "99", "--csv")
    rows = list(csv.DictReader(io.StringIO(run.out, newline="")))
    assert {int(row["row"]): (row["path"], row["label"]) for row in rows} == {
        i: (p, label_of(p)) for i, p in enumerate(paths()) if i != 3
    }
    assert all(len(row) == 9 and None not in row.values() for row in rows)
    assert sum(row["label"].startswith(FORMULAS) for row in rows) >= 4


def test_the_table_has_one_line_a_match(odd: Place, imgsearch: Callable[..., Run]) -> None:
    """Names are shown escaped, each in its own line and cell, and no markup is obeyed."""
    run = imgsearch("search", odd.index, "row:3", "-k", "99")
    lines = run.out.splitlines()
    assert is_plain(run.out)
    assert len(lines) == 2 + len(CLASSES) - 1 + 1
    for i, path in enumerate(paths()):
        if i != 3:
            (line,) = [one for one in lines[2:-1] if printable(path) in one]
            assert printable(label_of(path)) in line.replace(printable(path), "")


class Page(html.parser.HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        """Read it."""
        super().__init__()
        self.elements: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text: list[str] = []
        self.other = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element; a name may stand only in what is shown."""
        self.elements.append(
            (tag, [(name, None if name in NAMED else value) for name, value in attrs])
        )

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        """Count what no page of ours has."""
        del data
        self.other += 1

    handle_pi = unknown_decl = handle_comment


def test_the_report_is_not_changed_by_names(
    odd: Place, plain: Place, imgsearch: Callable[..., Run], tmp_path: Path
) -> None:
    """The page has the elements and attributes of one with plain names, and shows ours as text."""
    pages = []
    for name, place in (("odd", odd), ("plain", plain)):
        file = tmp_path / f"{name}.html"
        run = imgsearch("evaluate", place.index, "--report", file)
        assert run.code == 0, run.err
        assert is_plain(run.out + run.err)
        pages.append(Page(file.read_bytes().decode("utf-8")))
    ours, theirs = pages
    assert ours.elements == theirs.elements
    assert (ours.other, theirs.other) == (0, 0)
    shown = {text.strip("\n") for text in ours.text}
    for path in paths():
        assert printable(path) in shown
        assert printable(label_of(path)) in shown
    # Style and script are as they would be without us, and what the script reads has our names.
    long = [[t for t in page.text if len(t) > 2000] for page in pages]
    code = [[t for t in texts if not t.startswith("{")] for texts in long]
    assert code[0] == code[1]
    assert len(code[0]) >= 2
    (data,) = [json.loads(t) for t in long[0] if t.startswith("{")]
    assert data["classes"] == [printable(label) for label in CLASSES]


def test_evaluate_in_json(odd: Place, imgsearch: Callable[..., Run]) -> None:
    """The matrix and the classes of evaluate --json go by the labels as they are."""
    run = imgsearch("evaluate", odd.index, "--json")
    assert run.json["correspondence"]["labels"] == CLASSES
    assert list(run.json["per_class"]) == CLASSES


def test_the_grid_is_drawn(odd: Place, imgsearch: Callable[..., Run]) -> None:
    """A grid of rows of any name is a picture, in a file of any name."""
    rows = [f"row:{row}" for row in range(len(CLASSES))]
    for name in ("=grid\n<b>.png", f"{NO_UTF8}.png"):
        run = imgsearch("search", odd.index, *rows, "--grid", name, "--csv", cwd=odd.root)
        assert run.code == 0, run.err
        assert is_plain(run.err)
        with Image.open(odd.root / name) as grid:
            assert min(grid.size) > 1000


def test_info_tells_names(odd: Place, imgsearch: Callable[..., Run]) -> None:
    """JSON has the index' and the classes' names as they are, the lines have them escaped."""
    run = imgsearch("info", odd.index, "--json")
    assert run.json["index"] == str(odd.index)
    assert list(run.json["classes"]) == CLASSES
    run = imgsearch("info", odd.index)
    assert is_plain(run.out)
    assert len(run.out.splitlines()) == 12
    assert printable(str(odd.index)) in run.out
    for words in (("verify", odd.index), ("update", odd.index, "--dry-run")):
        run = imgsearch(*words)
        assert run.code == 0
        assert printable(str(odd.index)) in run.out
        assert is_plain(run.out + run.err)


def test_update_follows_renamed_names(
    odd: Place, imgsearch: Callable[..., Run], tmp_path: Path
) -> None:
    """A folder whose name changes in case, and a file that gets an odd name, are moves."""
    shutil.copytree(odd.root / "pictures", tmp_path / "photos\nof\x1b[31m", symlinks=True)
    photos = tmp_path / "photos\nof\x1b[31m"
    shutil.copytree(odd.index, tmp_path / "index")
    (photos / "Case").rename(photos / "CASE")
    (photos / "+1" / "+1.jpg").rename(photos / "+1" / '=HYPERLINK("x")\n.jpg')
    run = imgsearch("update", tmp_path / "index", photos, "--json")
    assert run.code == 0, run.err
    assert is_plain(run.err)
    assert (run.json["moved"], run.json["added"], run.json["removed"]) == (2, 0, 0)
    assert run.json["embedded"] == 0
    assert list(run.json["classes"]) == sorted({*CLASSES, "CASE"} - {"Case"})
    index = open_index(tmp_path / "index")
    assert index.manifest.image_root == str(photos)
    assert '+1/=HYPERLINK("x")\n.jpg' in index.items.column("path")


def test_labels_of_a_file_come_back(tmp_path: Path, imgsearch: Callable[..., Run]) -> None:
    """Whatever a label file says is a label: slashes, tags and thousands of letters, too."""
    labels = [*CLASSES, "a/b", "</td></table><script>alert(1)</script>", "ü" * 4096, " "]
    with (tmp_path / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(
            [("path", "label"), *((f"{i:02}.jpg", label) for i, label in enumerate(labels))]
        )
    np.save(tmp_path / "v.npy", np.eye(len(labels), dtype=np.float32))
    run = imgsearch("import", "v.npy", "items.csv", "./=index", "--json", cwd=tmp_path)
    assert run.code == 0, run.err
    assert list(run.json["classes"]) == sorted(labels)
    words = ("search", "./=index", "row:0", "-k", "99")
    (query,) = imgsearch(*words, "--json", cwd=tmp_path).json["queries"]
    assert [match["label"] for match in query["matches"]] == labels[1:]
    rows = list(
        csv.DictReader(io.StringIO(imgsearch(*words, "--csv", cwd=tmp_path).out, newline=""))
    )
    assert [row["label"] for row in rows] == labels[1:]
    table = imgsearch(*words, cwd=tmp_path)
    assert is_plain(table.out)
    assert len(table.out.splitlines()) == 2 + len(labels) - 1 + 1
    assert is_plain(imgsearch("info", "./=index", cwd=tmp_path).out)


@pytest.mark.parametrize("what", ["index", "folder", "label file"])
def test_a_name_that_cannot_be_kept_is_refused(
    what: str, class_folders: Path, tmp_path: Path
) -> None:
    """A path that the manifest must name, or FAISS must open, and that is no UTF-8: a sentence."""
    place = tmp_path / NO_UTF8
    shutil.copytree(class_folders, place / "pictures")
    (place / "labels.csv").write_text("path,label\nx.jpg,x\n")
    given = {
        "index": (class_folders, place / "index", None),
        "folder": (place / "pictures", tmp_path / "index", None),
        "label file": (class_folders, tmp_path / "index", place / "labels.csv"),
    }
    images, index, labels = given[what]
    with pytest.raises(InputError, match=r"latin \\xe9") as refused:
        build_index(images, index, labels_file=labels, model=MODEL)
    assert is_plain(str(refused.value))
    assert not index.exists()


@pytest.mark.parametrize("label", ["nul\0l", "ü" * 4097])
def test_a_label_that_cannot_be_kept_is_refused(label: str, tmp_path: Path) -> None:
    """A label that no reader of an index would take is refused before there is one."""
    with (tmp_path / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label"), ("x.jpg", label)])
    np.save(tmp_path / "v.npy", np.eye(1, dtype=np.float32))
    with pytest.raises(LabelFileError, match="in row 1, which an index does not keep"):
        import_vectors(tmp_path / "v.npy", tmp_path / "items.csv", tmp_path / "index")
    assert not (tmp_path / "index").exists()
