"""Which files of a folder are pictures to index, and how names of any kind come back."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgsearch import folders
from imgsearch.errors import InputError, NotFoundError
from imgsearch.folders import LEAVES, find_images
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run

MODEL = "efficientnet-lite2"
LONG = "n" * 246 + ".jpg"
# Each is a legal name on this system. Shown, none may hold a control character.
NAMES = {
    "newline\nand more.jpg": "newline\\nand more.jpg",
    "tab\tstop.jpg": "tab\\tstop.jpg",
    "escape\x1b[31mred.jpg": "escape\\x1b[31mred.jpg",
    "bell\x07.jpg": "bell\\x07.jpg",
    "carriage\rreturn.jpg": "carriage\\rreturn.jpg",
    "\"quotes\" and 'more'.jpg": "\"quotes\" and 'more'.jpg",
    "<img src=x onerror=alert(1)>&amp;[red]x.jpg": "<img src=x onerror=alert(1)>&amp;[red]x.jpg",
    "--dash.jpg": "--dash.jpg",
    "=1+1, or more;.jpg": "=1+1, or more;.jpg",
    "four bytes 🛋 \U00020bb7.jpg": "four bytes 🛋 \U00020bb7.jpg",
    "override \u202egpj.exe.jpg": "override \\u202egpj.exe.jpg",
    "separator \u2028.jpg": "separator \\u2028.jpg",
    "back\\slash.jpg": "back\\slash.jpg",
    LONG: LONG,
}
NO_UTF8 = os.fsdecode(b"latin \xe9\xff.jpg")


def touch(root: Path, *names: str) -> None:
    """Make empty files, with their folders."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def found(root: Path) -> dict[str, str | None]:
    """Return path and label of what is found, in order."""
    items, _ = find_images(root)
    return {item.path: item.label for item in items}


def skipped(root: Path) -> dict[str, str]:
    """Return path and reason of what is left out."""
    _, skips = find_images(root)
    return {skip.path: skip.reason for skip in skips}


def test_files_are_found_in_all_depths_sorted_by_path(tmp_path: Path) -> None:
    """The order is that of the POSIX paths as text, whatever order the disk has."""
    names = ["b/z.jpg", "a.jpg", "b/a/deep/x.png", "a/1.jpg", "a-b/1.jpg", "B.jpg", "a/10.jpg"]
    touch(tmp_path, *names, "a/2.txt", "no suffix")
    assert list(found(tmp_path)) == sorted([*names, "a/2.txt", "no suffix"])
    assert not skipped(tmp_path)


def test_the_label_is_the_first_level_folder(tmp_path: Path) -> None:
    """A file at the top has no label; one in a deeper folder has that of the first level."""
    touch(tmp_path, "top.jpg", "kitchen/1.jpg", "kitchen/old/2.jpg", "Küche 1/3.jpg")
    assert found(tmp_path) == {
        "Küche 1/3.jpg": "Küche 1",
        "kitchen/1.jpg": "kitchen",
        "kitchen/old/2.jpg": "kitchen",
        "top.jpg": None,
    }


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    """Names that start with a dot are neither found nor listed as skipped."""
    touch(tmp_path, ".hidden.jpg", ".git/x.jpg", "a/.DS_Store", "a/.thumbs/x.jpg", "a/seen.jpg")
    assert list(found(tmp_path)) == ["a/seen.jpg"]
    assert not skipped(tmp_path)


def test_a_folder_may_be_given_through_a_link_or_with_dots(tmp_path: Path) -> None:
    """What is found does not depend on how the folder is named."""
    touch(tmp_path, "real/a/x.jpg")
    (tmp_path / "link").symlink_to("real")
    for name in ("real", "link", "real/../real/.", "link/"):
        assert found(tmp_path / name) == {"a/x.jpg": "a"}


def test_links_that_stay_inside_are_followed_once(tmp_path: Path) -> None:
    """A linked folder is read under its link's name, each target once; a linked file is a file."""
    touch(tmp_path, "a/x.jpg")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("a")
    (tmp_path / "d.jpg").symlink_to("a/x.jpg")
    assert found(tmp_path) == {"a/x.jpg": "a", "b/x.jpg": "b", "d.jpg": None}
    assert skipped(tmp_path) == {"c": "a link to a folder that is read already"}


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """Links to the folder itself, to a parent, to each other and to themselves: all end."""
    touch(tmp_path, "a/deep/x.jpg", "b/y.jpg")
    (tmp_path / "a/deep/up").symlink_to("..")
    (tmp_path / "a/deep/top").symlink_to(tmp_path)
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_a").symlink_to("../a")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    names = list(found(tmp_path))
    assert {"a/deep/x.jpg", "b/y.jpg"} <= set(names)
    assert len(names) <= 6
    reasons = skipped(tmp_path)
    assert reasons["a/deep/up"] == reasons["a/deep/top"]
    assert reasons["a/deep/up"] == "a link to a folder that is read already"
    assert reasons["self"] == reasons["one"] == reasons["two"] == "a link to nothing"


def test_links_that_leave_are_listed_and_never_read(tmp_path: Path) -> None:
    """A link to a file or folder outside is a skip; a neighbour with a longer name is outside."""
    touch(tmp_path, "out/secret.jpg", "in/a/x.jpg", "in-other/y.jpg")
    root = tmp_path / "in"
    (root / "file.jpg").symlink_to(tmp_path / "out/secret.jpg")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "a/up.jpg").symlink_to("../../out/secret.jpg")
    (root / "neighbour").symlink_to("../in-other")
    (root / "twice").symlink_to("folder")
    assert list(found(root)) == ["a/x.jpg"]
    names = ("a/up.jpg", "file.jpg", "folder", "neighbour", "twice")
    assert skipped(root) == dict.fromkeys(names, LEAVES)
    for name in (*names, "folder/secret.jpg"):
        assert folders.escapes(root, name)
    assert not folders.escapes(root, "a/x.jpg")


def test_links_to_nothing_are_listed(tmp_path: Path) -> None:
    """A broken link is a skip with its reason."""
    touch(tmp_path, "x.jpg")
    (tmp_path / "broken.jpg").symlink_to("gone.jpg")
    assert list(found(tmp_path)) == ["x.jpg"]
    assert skipped(tmp_path) == {"broken.jpg": "a link to nothing"}


def test_what_is_no_regular_file_is_listed(tmp_path: Path) -> None:
    """A pipe, a socket and a link to a pipe are skips, and nothing waits for them."""
    import socket

    touch(tmp_path, "x.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to("pipe.jpg")
    here = Path.cwd()
    os.chdir(tmp_path)  # the name of a socket has to be short
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind("socket.jpg")
    finally:
        os.chdir(here)
    assert list(found(tmp_path)) == ["x.jpg"]
    assert skipped(tmp_path) == dict.fromkeys(
        ("link.jpg", "pipe.jpg", "socket.jpg"), "not a regular file"
    )


def test_the_label_file_inside_is_no_picture(tmp_path: Path) -> None:
    """The file that is named is left out, by whatever path, and no other csv is."""
    touch(tmp_path, "x.jpg", "sub/labels.csv", "labels.csv")
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    for name in ("labels.csv", "sub/../labels.csv", "elsewhere/labels.csv"):
        items, _ = find_images(tmp_path, tmp_path / name)
        assert [item.path for item in items] == ["sub/labels.csv", "x.jpg"]


def test_names_of_any_kind_are_found_as_they_are(tmp_path: Path) -> None:
    """Odd names come back unchanged; one that is no UTF-8 is a skip, shown with its bytes escaped.

    The same holds for what lies in a folder of such a name.
    """
    touch(tmp_path, *(f"odd\n/{name}" for name in NAMES), NO_UTF8)
    touch(tmp_path, f"{os.fsdecode(bytes([0xFC]))}/x.jpg")
    assert found(tmp_path) == {f"odd\n/{name}": "odd\n" for name in sorted(NAMES)}
    reason = "its name is not UTF-8"
    assert skipped(tmp_path) == {"latin \\xe9\\xff.jpg": reason, "\\xfc/x.jpg": reason}


def test_names_that_differ_by_case_or_composition_stay_apart(tmp_path: Path) -> None:
    """A.jpg and a.jpg, and an é of one or of two characters, are different files."""
    names = ["A.jpg", "a.jpg", "caf\u00e9.jpg", "cafe\u0301.jpg"]
    touch(tmp_path, *names)
    assert list(found(tmp_path)) == sorted(names)


def test_no_folder_a_file_and_a_name_that_cannot_be(tmp_path: Path) -> None:
    """What is not there is not found; a file, or a name too long, cannot be used."""
    touch(tmp_path, "file")
    for missing in ("none", "file/below", "nul\0l"):
        with pytest.raises(NotFoundError, match="there is no folder"):
            find_images(tmp_path / missing)
    with pytest.raises(InputError, match="is a file; a folder of pictures is wanted"):
        find_images(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        find_images(tmp_path / ("x" * 300))


def test_a_folder_deeper_than_a_path_may_be_is_listed(tmp_path: Path) -> None:
    """Where the system gives up on the length of a path, that folder is a skip, not the end."""
    touch(tmp_path, "x.jpg")
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(22):
        os.mkdir("d" * 200, dir_fd=here)
        deeper = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    assert list(found(tmp_path)) == ["x.jpg"]
    (reason,) = skipped(tmp_path).values()
    assert reason.endswith("File name too long")


@pytest.fixture(scope="module")
def named(
    tmp_path_factory: pytest.TempPathFactory, small_photos: Path, imgsearch: Callable[..., Run]
) -> tuple[Path, Run]:
    """Build an index of real pictures with odd names; return its folder and what build said."""
    place = tmp_path_factory.mktemp("names")
    photos = sorted(small_photos.iterdir())
    for i, name in enumerate([*NAMES, NO_UTF8]):
        folder = place / "pictures" / ("one\n1" if i % 2 else "--two")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos[i], folder / name)
    (place / "pictures" / "bad\n[bold]name\x1b[2J.jpg").write_bytes(b"no picture")
    run = imgsearch("build", "pictures", "./index", "--model", MODEL, "--json", cwd=place)
    assert run.code == 0, run.err
    return place / "index", run


def true_paths() -> list[str]:
    """Return the paths in the index, in its order."""
    return sorted(f"{'one' + chr(10) + '1' if i % 2 else '--two'}/{n}" for i, n in enumerate(NAMES))


def plain(text: str) -> bool:
    """Whether nothing in a text but its line ends could do something to a terminal."""
    return all(line == printable(line) for line in text.split("\n"))


def test_odd_names_in_the_summary_of_a_build(named: tuple[Path, Run]) -> None:
    """JSON counts true labels; what was skipped is listed escaped, there and on stderr."""
    _, run = named
    assert run.json["count"] == len(NAMES)
    assert run.json["classes"] == {"--two": 7, "one\n1": 7}
    skips = {skip["path"]: skip["reason"] for skip in run.json["skipped"]}
    assert set(skips) == {"--two/latin \\xe9\\xff.jpg", "bad\\n[bold]name\\x1b[2J.jpg"}
    assert skips["--two/latin \\xe9\\xff.jpg"] == "its name is not UTF-8"
    lines = run.err.splitlines()
    assert lines[0] == "2 files skipped:"
    assert [line.split(": ")[0].strip() for line in lines[1:]] == list(skips)
    assert plain(run.err)


def test_json_gives_names_back_as_they_are(
    named: tuple[Path, Run], imgsearch: Callable[..., Run]
) -> None:
    """Paths and labels in search --json are those on disk."""
    index, _ = named
    rows = [f"row:{i}" for i in range(len(NAMES))]
    run = imgsearch("search", index, *rows, "-k", "99", "--json")
    paths = true_paths()
    for row, query in enumerate(run.json["queries"]):
        assert query["label"] == paths[row].split("/")[0]
        got = {match["row"]: match["path"] for match in query["matches"]}
        assert got == {i: path for i, path in enumerate(paths) if i != row}
        for match in query["matches"]:
            assert match["label"] == match["path"].split("/")[0]


def test_csv_gives_names_back_as_they_are(
    named: tuple[Path, Run], imgsearch: Callable[..., Run]
) -> None:
    """Read as csv, paths and labels of search --csv are those on disk; each line has 8 cells."""
    index, _ = named
    run = imgsearch("search", index, "row:0", "-k", "99", "--csv")
    _, *rows = csv.reader(io.StringIO(run.out, newline=""))
    assert {len(row) for row in rows} == {9}
    paths = true_paths()
    assert {int(row[3]): row[4] for row in rows} == dict(enumerate(paths[1:], start=1))
    assert all(row[5] == row[4].split("/")[0] for row in rows)
    assert {row[1] for row in rows} == {paths[0].split("/")[0]}


def test_the_table_shows_names_escaped(
    named: tuple[Path, Run], imgsearch: Callable[..., Run]
) -> None:
    """No control character of a name reaches the terminal, and no markup is obeyed."""
    index, _ = named
    run = imgsearch("search", index, "row:0", "-k", "99", COLUMNS="900", FORCE_COLOR="")
    assert plain(run.out)
    for name in NAMES.values():
        if name != LONG and true_paths()[0].split("/")[1] != name:
            assert name in run.out


def test_a_query_by_an_odd_name_finds_itself(
    named: tuple[Path, Run], imgsearch: Callable[..., Run]
) -> None:
    """A name that starts with a dash stands behind --; each file finds its own row first.

    The name that is no UTF-8 can be asked with, too: its picture is not in the index.
    """
    index, _ = named
    folder = index.parent / "pictures" / "--two"
    names = sorted(os.listdir(folder))  # noqa: PTH208 - names, as they are
    run = imgsearch("search", index, "-k", "1", "--json", "--", *names, cwd=folder)
    assert run.code == 0, run.err
    for name, query in zip(names, run.json["queries"], strict=True):
        best = query["matches"][0]
        if name == NO_UTF8:
            assert best["score"] < 0.999
        else:
            assert query["query"] == name
            assert best["path"] == f"--two/{name}"
            assert best["score"] > 0.99999
