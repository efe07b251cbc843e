"""Label files: what is read, what is refused and in which words, and what a build makes of them."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imgsearch import SearchEngine, build_index
from imgsearch.errors import InputError, LabelFileError, NoImagesError, NotFoundError
from imgsearch.labels import read_label_file, read_test_items
from imgsearch.records import ImageItem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Run

MODEL = "efficientnet-lite2"


def csv_file(folder: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    """Write a csv file of exactly these bytes."""
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def parquet_file(folder: Path, columns: dict[str, Any]) -> Path:
    """Write a parquet file of these columns."""
    file = folder / "labels.parquet"
    pq.write_table(pa.table(columns), file)
    return file


def rows(file: Path) -> list[tuple[str | None, ...]]:
    """Return path, label, group and split of each row, as read."""
    return [(item.path, item.label, item.group, item.split) for item in read_label_file(file).items]


# What is read.


@pytest.mark.parametrize(
    "text",
    [
        "path,label\na.jpg,x\nb/c.jpg,y\n",
        "path,label\r\na.jpg,x\r\nb/c.jpg,y\r\n",
        "path,label\na.jpg,x\nb/c.jpg,y",
        "path,label\n\na.jpg,x\n\nb/c.jpg,y\n\n",
        "label,path\ny,b/c.jpg\nx,a.jpg\n",
        " path , label \na.jpg,x\nb/c.jpg,y\n",
        "path,label,notes,group\na.jpg,x,anything,\nb/c.jpg,y,,\n",
        "notes,path,notes,label\n1,a.jpg,2,x\n3,b/c.jpg,4,y\n",
        'path,label\n"a.jpg","x"\n"b/c.jpg","y"\n',
        "path,label\n./a.jpg,x\nb//./c.jpg,y\n",
        b"\xef\xbb\xbfpath,label\na.jpg,x\nb/c.jpg,y\n",
    ],
    ids=[
        "plain",
        "crlf",
        "no end of line",
        "blank lines",
        "other order",
        "spaces",
        "more columns",
        "more columns of one name",
        "quoted",
        "dots and slashes",
        "byte order mark",
    ],
)
def test_a_csv_is_read_however_it_was_written(tmp_path: Path, text: str | bytes) -> None:
    """The same two rows come out of every way to write them, sorted by path."""
    assert rows(csv_file(tmp_path, text)) == [
        ("a.jpg", "x", None, None),
        ("b/c.jpg", "y", None, None),
    ]


def test_names_and_labels_may_hold_anything(tmp_path: Path) -> None:
    """Quoted commas, quotes, newlines and semicolons, and any script, come back as they are."""
    text = 'path,label\n"a, ""b"".jpg","one\ntwo"\nc;d.jpg,Küche 厨房\n'
    assert rows(csv_file(tmp_path, text)) == [
        ('a, "b".jpg', "one\ntwo", None, None),
        ("c;d.jpg", "Küche 厨房", None, None),
    ]


def test_an_empty_label_group_or_split_is_none(tmp_path: Path) -> None:
    """An empty cell of a csv, an empty text and a null of a parquet all mean that there is none."""
    text = "path,label,group,split\na.jpg,,,\nb.jpg,x,g,test\n"
    wanted = [("a.jpg", None, None, None), ("b.jpg", "x", "g", "test")]
    assert rows(csv_file(tmp_path, text)) == wanted
    for empty in ("", None):
        columns = {
            "path": ["a.jpg", "b.jpg"],
            "label": [empty, "x"],
            "group": [empty, "g"],
            "split": [empty, "test"],
        }
        assert rows(parquet_file(tmp_path, columns)) == wanted


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (pa.array(["x", "y"]), ["x", "y"]),
        (pa.array(["x", "y"], pa.large_string()), ["x", "y"]),
        (pa.array(["x", "y"]).dictionary_encode(), ["x", "y"]),
        (pa.array([3, -1], pa.int64()), ["3", "-1"]),
        (pa.array([3, 0], pa.uint8()), ["3", "0"]),
        (pa.array([None, 7], pa.int32()), [None, "7"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([None, None]), [None, None]),
    ],
    ids=["text", "large text", "dictionary", "int64", "uint8", "null", "boolean", "all null"],
)
def test_a_parquet_may_have_labels_of_any_simple_type(
    tmp_path: Path, labels: pa.Array, wanted: list[str | None]
) -> None:
    """Text, dictionaries and numbers become text; a column that is not asked for is not read."""
    file = parquet_file(
        tmp_path, {"path": ["a.jpg", "b.jpg"], "label": labels, "vector": [[1.0], [2.0]]}
    )
    assert rows(file) == [
        ("a.jpg", wanted[0], None, None),
        ("b.jpg", wanted[1], None, None),
    ]


def test_splits(tmp_path: Path) -> None:
    """Base, train and none are the base set; others are counted; a file without splits is all."""
    text = "path,label,split\na,x,base\nb,x,train\nc,x,\nd,x,test\ne,x,val\nf,x,test\n"
    found = read_label_file(csv_file(tmp_path, text))
    assert [item.path for item in found.base()] == ["a", "b", "c"]
    assert found.left_out() == {"test": 2, "val": 1}
    assert [item.path for item in found.of_split("test")] == ["d", "f"]
    assert found.has_splits
    assert [item.path for item in read_test_items(found.file, "val")] == ["e"]
    with pytest.raises(NoImagesError, match="has no row of the split 'tset'"):
        read_test_items(found.file, "tset")
    plain = read_label_file(csv_file(tmp_path, "path,label\na,x\nb,x\n"))
    assert not plain.has_splits
    assert plain.base() == plain.of_split("test") == [ImageItem("a", "x"), ImageItem("b", "x")]


# What is refused.

BAD_CSV: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "has no column 'path'; its columns are: none"),
    "byte order mark alone": (b"\xef\xbb\xbf", "has no column 'path'"),
    "only a header": ("path,label\n", "has no rows"),
    "missing label column": (
        "path,class\na,x\n",
        "no column 'label'; its columns are: path, class",
    ),
    "missing path column": ("file,label\na,x\n", "no column 'path'; its columns are: file, label"),
    "no header": ("a.jpg,x\nb.jpg,y\n", "no column 'path'; its columns are: a.jpg, x"),
    "header in capitals": ("Path,Label\na,x\n", "no column 'path'; its columns are: Path, Label"),
    "double column": ("path,label,label\na,x,y\n", "has the column 'label' twice"),
    "double path column": ("path,path,label\na,a,y\n", "has the column 'path' twice"),
    "double split column": ("path,label,split,split\na,x,,\n", "has the column 'split' twice"),
    "semicolons": ("path;label\na;x\n", "does not separate its columns with commas"),
    "tabs": ("path\tlabel\na\tx\n", "does not separate its columns with commas"),
    "control characters": ("pa\x1b[2Jth,label\na,x\n", r"its columns are: pa\\x1b\[2Jth, label"),
    "latin-1": ("path,label\na,Küche\n".encode("latin-1"), "is not UTF-8 text"),
    "utf-16": ("path,label\na,x\n".encode("utf-16"), "is not UTF-8 text"),
    "a picture": (b"\x89PNG\r\n\x1a\n\xff\xff", "is not UTF-8 text"),
    "one cell too few": ("path,label\na,x\nb\n", "has 1 cell in row 2 and 2 columns"),
    "one cell too many": ("path,label\na,x,y\n", "has 3 cells in row 1 and 2 columns"),
    "open quote": ('path,label\n"a,x\n', "cannot be read as csv"),
    "text behind a quote": ('path,label\n"a"b,x\n', "cannot be read as csv"),
    "endless cell": ("path,label\na," + "x" * 200_000 + "\n", "cannot be read as csv"),
    "empty path": ("path,label\na,x\n,y\n", "in row 2: its path is empty"),
    "a dot": ("path,label\n.,y\n", "in row 1: its path is empty"),
    "a folder": ("path,label\na/,y\n", "in row 1: its path is empty"),
    "absolute": ("path,label\n/etc/passwd,x\n", "names /etc/passwd in row 1, which leaves"),
    "parent": ("path,label\n../a.jpg,x\n", "which leaves the image folder"),
    "parent inside": ("path,label\na/../../b.jpg,x\n", "which leaves the image folder"),
    "null byte": ("path,label\na\0b.jpg,x\n", r"names a\\x00b.jpg in row 1, which leaves"),
    "twice": ("path,label\na,x\nb,y\na,y\n", "lists a twice, in rows 1 and 3: keep one"),
    "twice with a dot": ("path,label\n./a,x\na,x\n", "lists a twice, in rows 1 and 2"),
    "twice with slashes": ("path,label\nb/a,x\nb//a,x\n", "lists b/a twice"),
    "twice, with a newline": ('path,label\n"a\nb",x\n"a\nb",x\n', r"lists a\\nb twice"),
}


@pytest.mark.parametrize("kind", BAD_CSV)
def test_a_bad_csv_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    """Each fault is named with its row or column, in one line, with the file's name before it."""
    text, reason = BAD_CSV[kind]
    file = csv_file(tmp_path, text)
    with pytest.raises(LabelFileError, match=reason) as error:
        read_label_file(file)
    assert str(error.value).startswith(str(file))
    assert str(error.value).isprintable()
    assert error.value.exit_code == 2


BAD_PARQUET: dict[str, tuple[dict[str, Any], str]] = {
    "no rows": ({"path": pa.array([], pa.string()), "label": pa.array([], pa.string())}, "no rows"),
    "missing column": ({"path": ["a"]}, "has no column 'label'; its columns are: path"),
    "other columns": ({"x": [1], "y": [2]}, "has no column 'path'; its columns are: x, y"),
    "null path": ({"path": ["a", None], "label": ["x", "y"]}, "in row 2: its path is empty"),
    "absolute": ({"path": ["/a"], "label": ["x"]}, "which leaves the image folder"),
    "twice": ({"path": ["a", "./a"], "label": ["x", "y"]}, "lists a twice, in rows 1 and 2"),
    "nested path": ({"path": [["a"]], "label": ["x"]}, "cannot be read as parquet"),
    "nested label": ({"path": ["a"], "label": [{"b": 1}]}, "cannot be read as parquet"),
    "bytes": ({"path": [b"\xff\xfe"], "label": ["x"]}, "cannot be read as parquet"),
}


@pytest.mark.parametrize("kind", BAD_PARQUET)
def test_a_bad_parquet_is_refused_with_the_reason(tmp_path: Path, kind: str) -> None:
    """Columns, types and paths are checked as those of a csv are."""
    columns, reason = BAD_PARQUET[kind]
    with pytest.raises(LabelFileError, match=reason) as error:
        read_label_file(parquet_file(tmp_path, columns))
    assert str(error.value).isprintable()


def test_a_parquet_column_of_one_name_twice_is_refused(tmp_path: Path) -> None:
    """Two columns `label`: nobody could say which one is meant."""
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, ["path", "label", "label"])
    pq.write_table(table, tmp_path / "labels.parquet")
    with pytest.raises(LabelFileError, match="has the column 'label' twice"):
        read_label_file(tmp_path / "labels.parquet")


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    """Text, nothing, and a parquet that was cut anywhere: refused, in one line."""
    file = parquet_file(tmp_path, {"path": ["a", "b"], "label": ["x", "y"]})
    whole = file.read_bytes()
    step = max(1, len(whole) // 40)
    for data in (b"", b"path,label\n", *(whole[:n] for n in range(1, len(whole), step))):
        file.write_bytes(data)
        with pytest.raises(LabelFileError, match="cannot be read as parquet") as error:
            read_label_file(file)
        assert str(error.value).isprintable()


def test_a_file_that_is_none(tmp_path: Path) -> None:
    """A missing file is not found; a folder, a pipe and another suffix cannot be used."""
    csv_file(tmp_path, "path,label\na,x\n", "labels.txt")
    csv_file(tmp_path, "path,label\na,x\n", "labels.CSV")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "broken.csv").symlink_to("nothing")
    for missing in ("none.csv", "none/labels.csv", "labels.txt/labels.csv", "broken.csv"):
        with pytest.raises(NotFoundError, match="there is no label file"):
            read_label_file(tmp_path / missing)
    with pytest.raises(LabelFileError, match=r"must end in \.csv or \.parquet"):
        read_label_file(tmp_path / "labels.txt")
    for other in ("folder.csv", "pipe.csv"):
        with pytest.raises(LabelFileError, match="is not a regular file"):
            read_label_file(tmp_path / other)
    for impossible in ("x" * 300 + ".csv", "nul\0l.csv"):
        with pytest.raises(LabelFileError, match="cannot be read"):
            read_label_file(tmp_path / impossible)
    assert rows(tmp_path / "labels.CSV") == [("a", "x", None, None)]


# What a build makes of them.


@pytest.fixture
def listed(tmp_path: Path, class_folders: Path) -> Path:
    """Return a folder of 12 pictures in class folders, with a label file of other labels in it."""
    folder = tmp_path / "pictures"
    shutil.copytree(class_folders, folder)
    paths = sorted(str(file.relative_to(folder)) for file in folder.glob("*/*"))
    splits = ["base", "train", "", "test", "val", "test"]
    lines = [f"{p},{'ab'[i % 2]},g{i % 3},{splits[i]}" for i, p in enumerate(paths[:6])]
    csv_file(folder, "path,label,group,split\n" + "\n".join(lines) + "\n")
    (folder / "outside.jpg").symlink_to(class_folders / paths[0])
    return folder


def test_a_build_with_a_label_file(
    listed: Path, tmp_path: Path, imgsearch: Callable[..., Run]
) -> None:
    """Its labels count and not the folders'; splits left out are counted, unnamed files too.

    A picture that is listed and not there, and one behind a link that leaves, are skips.
    """
    file = listed / "labels.csv"
    with file.open("a") as stream:
        stream.write("gone.jpg,a,,\noutside.jpg,a,,\nalpha,b,,\n")
    run = imgsearch(
        "build", listed, "./rooms", "--labels", file, "--model", MODEL, "--json", cwd=tmp_path
    )
    assert run.code == 0, run.err
    assert run.json["count"] == 3
    assert run.json["classes"] == {"a": 2, "b": 1}
    assert run.json["left_out"] == {"test": 2, "val": 1}
    assert run.json["unlisted"] == 6
    assert run.json["skipped"] == [
        {"path": "alpha", "reason": "it is not a regular file"},
        {"path": "gone.jpg", "reason": "there is no such file"},
        {"path": "outside.jpg", "reason": "a link that leaves the folder is not followed"},
    ]
    assert run.err.splitlines() == [
        "3 files skipped:",
        "  alpha: it is not a regular file",
        "  gone.jpg: there is no such file",
        "  outside.jpg: a link that leaves the folder is not followed",
        "2 rows of the split 'test' not indexed",
        "1 row of the split 'val' not indexed",
        "6 files in the folder not named by the label file",
    ]
    with SearchEngine.open(tmp_path / "rooms") as engine:
        assert engine.index.items.path(0).startswith("alpha/")
        assert engine.classes == ("a", "b")


def test_strict_makes_a_missing_picture_an_error(listed: Path, tmp_path: Path) -> None:
    """With --strict a listed picture that is not there ends the build, and no index is left."""
    file = csv_file(tmp_path, "path,label\ngone.jpg,a\n")
    with pytest.raises(InputError, match=r"gone.jpg cannot be used and --strict was asked for"):
        build_index(listed, tmp_path / "rooms", labels_file=file, model=MODEL, strict=True)
    assert not (tmp_path / "rooms" / "manifest.json").exists()


def test_a_label_file_of_no_base_picture_is_refused(listed: Path, tmp_path: Path) -> None:
    """Where every row is in another split there is nothing to index."""
    file = csv_file(tmp_path, "path,label,split\na.jpg,a,test\n")
    with pytest.raises(NoImagesError, match="names no picture of the base set"):
        build_index(listed, tmp_path / "rooms", labels_file=file, model=MODEL)
