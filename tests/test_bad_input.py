"""Input that cannot be used, through the installed command: exit code, one sentence, nothing lost.

With -s it prints a table of every kind, its exit code and its sentence.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import write_index
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from conftest import Run

MODEL = ("--model", "efficientnet-lite2")
LONG = "x" * 300
ODD = os.fsdecode(b"latin \xe9")


@dataclass(frozen=True, slots=True)
class Bad:
    """A command that cannot be done: its exit code, and words that its sentence must hold."""

    words: tuple[str, ...]
    code: int
    says: str
    stdin: bytes | None = None


def build(*words: str, code: int = 2, says: str) -> Bad:
    """Return a build with the packaged model."""
    return Bad(("build", *words, *MODEL), code, says)


def search(*words: str, code: int = 2, says: str, stdin: bytes | None = None) -> Bad:
    """Return a search in the index of rooms."""
    return Bad(("search", "./rooms", *words), code, says, stdin)


def evaluate(*words: str, code: int = 2, says: str) -> Bad:
    """Return an evaluation of the index of rooms."""
    return Bad(("evaluate", "./rooms", *words), code, says)


def prepare(*words: str, code: int = 2, says: str) -> Bad:
    """Return a prepare command."""
    return Bad(("prepare", *words), code, says)


def labels(name: str, *, code: int = 2, says: str) -> Bad:
    """Return a build with a label file."""
    return build("pictures", "./new", "--labels", name, code=code, says=says)


KINDS = {
    # The words themselves.
    "command unknown": Bad(("serch", "./rooms"), 2, "no such command 'serch'"),
    "option unknown": build("pictures", "./new", "--colour", says="no such option: --colour"),
    "argument missing": Bad(("build", "pictures"), 2, "missing argument 'INDEX'"),
    "argument too many": Bad(("info", "./rooms", "more"), 2, "unexpected extra argument"),
    # build
    "build: folder missing": build("none", "./new", code=3, says="there is no folder"),
    "build: folder name empty": build("", "./new", says="the name is empty"),
    "build: folder name too long": build(LONG, "./new", says="File name too long"),
    "build: folder name not UTF-8": build(ODD, "./new", says="latin \\xe9 holds characters that"),
    "build: file instead of folder": build("text.txt", "./new", says="text.txt is a file"),
    "build: pipe instead of folder": build("pipe.jpg", "./new", says="pipe.jpg is a file"),
    "build: folder empty": build("empty", "./new", says="there are no pictures in empty"),
    "build: folder of text files": build("texts", "./new", says="none of 2 files in texts could"),
    "build: folder of a pipe": build("pipes", "./new", says="no pictures in pipes (the first of 1"),
    "build: index exists": build("pictures", "./rooms", says="add --overwrite to replace it"),
    "build: index is a file": build("pictures", "./text.txt", says="text.txt is a file"),
    "build: index name empty": build("pictures", "", says="name of the index is empty"),
    "build: index name too long": build("pictures", f"./{LONG}", says="too long"),
    "build: index below a file": build(
        "pictures", "./text.txt/new", code=7, says="cannot be written"
    ),
    "build: index in /proc": build("pictures", "/proc/new", code=7, says="cannot be written"),
    "build: model unknown": Bad(
        ("build", "pictures", "./new", "--model", "resnet51"), 2, "resnet51"
    ),
    "build: weights unknown": build(
        "pictures", "./new", "--weights", "V9", code=3, says="no weights 'V9'"
    ),
    "build: batch size 0": build(
        "pictures", "./new", "--batch-size", "0", says="--batch-size must"
    ),
    "build: workers 0": build("pictures", "./new", "--workers", "0", says="--workers must"),
    "build: device unknown": build("pictures", "./new", "--device", "foo", says="foo"),
    "build: max-pixels 0": build(
        "pictures", "./new", "--max-pixels", "0", says="--max-pixels must be at least 1"
    ),
    "labels: file missing": labels("none.csv", code=3, says="there is no label file none.csv"),
    "labels: folder": labels("empty", says="is not a regular file"),
    "labels: suffix unknown": labels("text.txt", says="must end in .csv or .parquet"),
    "labels: semicolons": labels("semicolon.csv", says="separate its columns with commas"),
    "labels: latin-1": labels("latin.csv", says="is not UTF-8 text"),
    "labels: column missing": labels("column.csv", says="has no column 'label'"),
    "labels: path twice": labels("twice.csv", says="lists alpha/a.jpg twice, in rows 1 and 2"),
    "labels: path absolute": labels("absolute.csv", says="/etc/hosts in row 1, which leaves"),
    "labels: only a header": labels("header.csv", says="has no rows"),
    "labels: no parquet": labels("no.parquet", says="cannot be read as parquet"),
    # search
    "search: index missing": Bad(("search", "none", "row:0"), 3, "there is no index at"),
    "search: index is a file": Bad(("search", "./text.txt", "row:0"), 3, "there is no index at"),
    "search: index is another folder": Bad(("search", "./empty", "row:0"), 3, "there is no index"),
    "search: index name empty": Bad(("search", "", "row:0"), 2, "name of the index is empty"),
    "search: index name too long": Bad(("search", LONG, "row:0"), 3, "there is no index at"),
    "search: index with a changed byte": Bad(("search", "./spoilt", "row:0"), 4, "the sum"),
    "search: index without its vectors": Bad(("search", "./half", "row:0"), 4, "is missing"),
    "search: model not here": Bad(("search", "./plain", "good.jpg"), 5, "unknown model"),
    "search: k 0": search("row:0", "-k", "0", says="k must be a whole number of at least 1"),
    "search: k -1": search("row:0", "-k", "-1", says="k must be a whole number of at least 1"),
    "search: k abc": search("row:0", "-k", "abc", says="invalid value for '-k'"),
    "search: scope unknown": search("row:0", "--scope", "foo", says="no scope 'foo'; choose one"),
    "search: scope without a label": Bad(
        ("search", "./plain", "row:3", "--scope", "same"), 2, "needs to know the label of row:3"
    ),
    "search: label unknown": search("row:0", "--label", "atrium", says="has the label 'atrium'"),
    "search: min-score nan": search("row:0", "--min-score", "nan", says="between -1 and 1"),
    "search: min-score abc": search(
        "row:0", "--min-score", "abc", says="invalid value for '--min-score'"
    ),
    "search: json and csv": search("row:0", "--json", "--csv", says="choose one of --json and"),
    "search: row too high": search("row:999999", says="there is no row 999999"),
    "search: row negative": search("row:-1", says="'row:-1' is no row"),
    "search: row abc": search("row:abc", says="'row:abc' is no row"),
    "search: row endless": search("row:" + "9" * 400, says="is no row"),
    "search: query missing": search("none.jpg", code=3, says="no picture or folder 'none.jpg'"),
    "search: query missing, odd name": search(
        "none\n\x1b[2J.jpg", code=3, says="none\\n\\x1b[2J.jpg"
    ),
    "search: query name empty": search("", code=3, says="there is no picture or folder"),
    "search: query name too long": search(LONG, code=3, says="there is no picture or folder"),
    "search: query folder empty": search(
        "empty", says="there are no pictures to ask with in empty"
    ),
    "search: query file empty": search("empty.jpg", says="empty.jpg cannot be used as a picture"),
    "search: query truncated": search("half.jpg", says="it is cut off or spoilt"),
    "search: query EPS": search("picture.eps", says="no picture format"),
    "search: query pipe": search("pipe.jpg", says="it is not a regular file"),
    "search: query text, odd name": search("odd\nname.jpg", says="odd\\nname.jpg cannot be used"),
    "search: nothing on stdin": search("-", stdin=b"", says="nothing on standard input"),
    "search: stdin twice": search("-", "-", stdin=b"", says="can be given once"),
    "search: labels missing": search(
        "pictures", "--labels", "none.csv", code=3, says="there is no label file"
    ),
    "search: grid of odd suffix": search("row:0", "--grid", "out.xyz", says="--grid writes"),
    "search: grid without a suffix": search("row:0", "--grid", "out", says="--grid writes"),
    "search: grid in missing folder": search(
        "row:0", "--grid", "none/out.png", code=7, says="none/out.png cannot be written"
    ),
    "search: grid on a folder": search(
        "row:0", "--grid", "folder.png", code=7, says="folder.png cannot be written"
    ),
    # evaluate
    "evaluate: index missing": Bad(("evaluate", "none"), 3, "there is no index at indexes/none"),
    "evaluate: k 0": evaluate("-k", "0", says="k must be a whole number of at least 1"),
    "evaluate: no labels in the index": Bad(("evaluate", "./nolabels"), 2, "no query has a label"),
    "evaluate: one row": Bad(("evaluate", "./one"), 2, "needs at least two rows"),
    "evaluate: test missing": evaluate("none", code=3, says="there is no folder none"),
    "evaluate: test is a file": evaluate("good.jpg", says="good.jpg is a file"),
    "evaluate: test empty": evaluate("empty", says="there are no pictures to ask with in empty"),
    "evaluate: test without labels": evaluate("flat", says="no query has a label"),
    "evaluate: labels without a test": evaluate("--labels", "twice.csv", says="no folder TEST"),
    "evaluate: labels missing": evaluate(
        "pictures", "--labels", "none.csv", code=3, says="there is no label file none.csv"
    ),
    "evaluate: split unknown": evaluate(
        "pictures", "--labels", "gone.csv", "--split", "tset", says="has no row of the split 'tset'"
    ),
    "evaluate: report in missing folder": evaluate(
        "--report", "none/out.html", code=7, says="none/out.html cannot be written"
    ),
    # prepare
    "prepare: folder missing": prepare("none", "new", code=3, says="there is no folder none"),
    "prepare: folder of text files": prepare("texts", "new", says="there are no pictures in texts"),
    "prepare: size 0x5": prepare("pictures", "new", "--size", "0x5", says="a size is two numbers"),
    "prepare: size axb": prepare("pictures", "new", "--size", "axb", says="--size is WIDTHxHEIGHT"),
    "prepare: size 1028": prepare("pictures", "new", "--size", "1028", says="WIDTHxHEIGHT"),
    "prepare: size -1x5": prepare("pictures", "new", "--size", "-1x5", says="WIDTHxHEIGHT"),
    "prepare: size 99999x99999": prepare(
        "pictures", "new", "--size", "99999x99999", says="from 1 to 16,384"
    ),
    "prepare: size endless": prepare(
        "pictures", "new", "--size", "9" * 5000 + "x1", says="size is"
    ),
    "prepare: fit unknown": prepare("pictures", "new", "--fit", "tile", says="no fit 'tile'"),
    "prepare: copies inside": prepare("pictures", "pictures/new", says="inside of the pictures"),
    "prepare: copies in a full folder": prepare("pictures", "mixed", says="is not empty"),
    "prepare: copies on a file": prepare("pictures", "text.txt", says="is a file"),
    "prepare: copies in /proc": prepare("pictures", "/proc/new", code=7, says="cannot be written"),
    "prepare: workers 0": prepare("pictures", "new", "--workers", "0", says="--workers must"),
    # info, verify, models
    "info: index missing": Bad(("info", "none"), 3, "there is no index at indexes/none"),
    "info: index is a file": Bad(("info", "./text.txt", "--json"), 3, "there is no index at"),
    "info: manifest spoilt": Bad(
        ("info", "./spoilt manifest"), 4, "manifest.json cannot be trusted"
    ),
    "info: index of a newer release": Bad(("info", "./newer"), 4, "install a newer imgsearch"),
    "verify: index missing": Bad(("verify", "none"), 3, "there is no index at indexes/none"),
    "verify: index is a file": Bad(("verify", "./text.txt"), 3, "there is no index at"),
    "models: name unknown": Bad(("models", "fetch", "resnet51"), 2, "resnet51"),
}


# What other rooms still have to mend; an entry goes when its kind passes.
def sums(folder: Path) -> dict[str, str]:
    """Return the sum of each regular file below a folder, and the names of all else."""
    found = {}
    for file in sorted(folder.rglob("*")):
        name = os.fsencode(file.relative_to(folder)).decode(errors="backslashreplace")
        regular = file.is_file()
        found[name] = hashlib.sha256(file.read_bytes()).hexdigest() if regular else "-"
    return found


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, rooms: Path, class_folders: Path, photos: list[Path]
) -> Path:
    """Return a folder with an index, pictures, and everything that is wrong above."""
    place = tmp_path_factory.mktemp("bad")
    shutil.copytree(rooms, place / "rooms")
    shutil.copytree(class_folders, place / "pictures")
    for name in ("empty", "texts", "pipes", "mixed", "flat", "folder.png", ODD):
        (place / name).mkdir()
    photo = min(class_folders.glob("*/*.jpg"))
    shutil.copy(photo, place / "good.jpg")
    shutil.copy(photo, place / ODD)
    shutil.copy(photo, place / "mixed")
    shutil.copy(photo, place / "flat")
    (place / "half.jpg").write_bytes(photos[0].read_bytes()[:100_000])
    Image.new("RGB", (8, 8)).save(place / "picture.eps")
    (place / "empty.jpg").touch()
    for name in ("text.txt", "odd\nname.jpg", "texts/a.jpg", "texts/b.txt", "mixed/text.jpg"):
        (place / name).write_text("this is no picture\n")
    for name in ("pipe.jpg", "pipes/pipe.jpg"):
        os.mkfifo(place / name)
    files = {
        "semicolon.csv": "path;label\nalpha/a.jpg;x\n",
        "column.csv": "path,class\nalpha/a.jpg,x\n",
        "twice.csv": "path,label\nalpha/a.jpg,x\n./alpha/a.jpg,x\n",
        "absolute.csv": "path,label\n/etc/hosts,x\n",
        "header.csv": "path,label\n",
        "no.parquet": "path,label\n",
        "gone.csv": "path,label,split\ngone.jpg,x,base\n",
    }
    for name, text in files.items():
        (place / name).write_text(text)
    (place / "latin.csv").write_bytes("path,label\nKüche.jpg,x\n".encode("latin-1"))
    _spoil_indexes(place)
    return place


def _spoil_indexes(place: Path) -> None:
    """Write indexes that are small, spoilt or of another release."""
    rows = np.eye(6, 8, dtype=np.float32)
    write_index(place / "plain", rows, ["x", "x", "y", None, "y", None])
    write_index(place / "nolabels", rows, [None] * 6)
    write_index(place / "one", rows[:1], ["x"])
    for name in ("spoilt", "half", "spoilt manifest", "newer"):
        shutil.copytree(place / "plain", place / name)
    items = next((place / "spoilt").glob("items-*"))
    raw = bytearray(items.read_bytes())
    raw[-100] ^= 1
    items.write_bytes(raw)
    next((place / "half").glob("vectors-*")).unlink()
    manifest = place / "spoilt manifest" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"dim": 8', b'"dim": 9'))
    manifest = place / "newer" / "manifest.json"
    text = manifest.read_bytes().rpartition(b' "sha256"')[0]
    text = re.sub(rb'"format_version": \d+', b'"format_version": 99', text)
    total = hashlib.sha256(text).hexdigest().encode()
    manifest.write_bytes(text + b' "sha256": "' + total + b'"}\n')


def test_there_are_enough_kinds() -> None:
    """At least 30 kinds of bad input are tried, in every command of the main job."""
    assert len(KINDS) >= 30
    assert {bad.words[0] for bad in KINDS.values()} >= {
        *("build", "search", "evaluate", "prepare", "info", "verify", "models")
    }


@pytest.mark.parametrize("kind", list(KINDS))
def test_bad_input(kind: str, place: Path, imgsearch: Callable[..., Run]) -> None:
    """The exit code is the contract's, stdout is empty, stderr says it in one sentence.

    Before that sentence there may stand what was skipped. No file is changed or lost, and none is
    added but the lock and the work area of an index that was not made.
    """
    bad = KINDS[kind]
    before = sums(place)
    run = imgsearch(*bad.words, cwd=place, data=bad.stdin)
    after = sums(place)
    shutil.rmtree(place / "new", ignore_errors=True)  # what went wrong here is no matter elsewhere
    *more, sentence = run.err.splitlines() or [""]
    print(f"\n{kind:<36} {run.code:>2}  {sentence}", end="")  # noqa: T201 - the table
    assert run.code == bad.code, run.err
    assert run.out == ""
    assert sentence.startswith("imgsearch: ")
    assert bad.says in sentence
    assert sentence.isprintable()
    assert "unforeseen" not in sentence
    assert len(sentence) < 1000
    assert all(re.fullmatch(r"[\d,]+ files? skipped:|  \S.*: .+", line) for line in more), more
    assert before.items() <= after.items()
    added = after.keys() - before.keys()
    assert all(re.fullmatch(r"new(/\.lock|/\.work(/[^/]+)?)?", name) for name in added), added


def test_verify_lists_what_is_wrong(place: Path, imgsearch: Callable[..., Run]) -> None:
    """The problems are verify's result, on stdout; one sentence on stderr says what to do."""
    before = sums(place)
    for name, says in (("spoilt", "items-"), ("half", "vectors-"), ("newer", "format version 99")):
        run = imgsearch("verify", f"./{name}", cwd=place)
        assert run.code == 4
        assert says in run.out
        assert len(run.err.splitlines()) == 1
        as_json = imgsearch("verify", f"./{name}", "--json", cwd=place)
        assert as_json.code == 4
        assert as_json.json["ok"] is False
        assert as_json.json["problems"] == run.out.splitlines()
    assert sums(place) == before
