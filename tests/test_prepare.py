"""`prepare`: a copy of a folder of pictures in one format and size, and nothing else touched."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageColor

from imgsearch import prepare
from imgsearch.errors import InputError, NoImagesError, NotFoundError, WriteError
from imgsearch.images import FITS, Fit
from imgsearch.preparing import target_names
from imgsearch.records import ImageItem, Limits, Running

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run

BUSY = Running(workers=2)


def sums(folder: Path) -> dict[str, str]:
    """Return the sum of each file below a folder."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def write(file: Path, image: Image.Image, **options: object) -> None:
    """Write a picture, with its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, **options)  # type: ignore[arg-type]  # Pillow's options


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return 225 pictures in 5 class folders, of many sizes, as JPEG and PNG."""
    folder = tmp_path_factory.mktemp("tree")
    photos = sorted(small_photos.iterdir())
    for i in range(225):
        with Image.open(photos[i % len(photos)]) as image:
            small = image.resize((20 + i % 37, 15 + i % 53))
        suffix = "png" if i % 9 == 0 else "jpg"
        write(folder / f"class {i % 5}" / f"{i:03}.{suffix}", small)
    return folder


def copies(dest: Path) -> dict[str, tuple[int, int]]:
    """Return name and size of each copy; each is a whole RGB JPEG without metadata."""
    found = {}
    for file in sorted(dest.rglob("*")):
        if file.is_file():
            with Image.open(file) as image:
                image.load()
                assert image.format == "JPEG"
                assert image.mode == "RGB"
                assert not dict(image.getexif())
                assert set(image.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
                found[str(file.relative_to(dest))] = image.size
    return found


@pytest.mark.parametrize("fit", FITS)
def test_225_pictures_become_225_jpegs_of_one_size(tree: Path, tmp_path: Path, fit: Fit) -> None:
    """The class folders stay; the size is exact, or at most that for inside; originals stay."""
    before = sums(tree)
    seen: list[tuple[int, int]] = []
    summary = prepare(
        tree,
        tmp_path / "out",
        size=(40, 30),
        fit=fit,
        running=BUSY,
        progress=lambda done, total: seen.append((done, total)),
    )
    found = copies(tmp_path / "out")
    assert summary.count == len(found) == 225
    assert not summary.skipped
    assert set(found) == {str(Path(name).with_suffix(".jpg")) for name in before}
    if fit == "inside":
        assert all(width <= 40 and height <= 30 for width, height in found.values())
        assert len(set(found.values())) > 10
    else:
        assert set(found.values()) == {(40, 30)}
    assert sums(tree) == before
    assert seen == [(i, 225) for i in range(1, 226)]


def test_a_copy_shows_what_its_original_shows(small_photos: Path, tmp_path: Path) -> None:
    """An EXIF-turned, half clear and an ordinary picture: upright, on white, in its place."""
    with Image.open(sorted(small_photos.iterdir())[5]) as image:
        upright = image.convert("RGB").resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker"
    source = tmp_path / "in"
    write(source / "turned.png", upright.transpose(Image.Transpose.ROTATE_90), exif=exif)
    write(source / "plain.jpg", upright, quality=95, comment=b"a secret")
    clear = upright.convert("RGBA")
    clear.putalpha(0)
    write(source / "clear.webp", clear, lossless=True)
    prepare(source, tmp_path / "out", size=(90, 60), running=BUSY)
    assert set(copies(tmp_path / "out")) == {"turned.jpg", "plain.jpg", "clear.jpg"}
    for name in ("turned.jpg", "plain.jpg"):
        with Image.open(tmp_path / "out" / name) as image:
            difference = np.asarray(image).astype(int) - np.asarray(upright)
        assert np.abs(difference).mean() < 6
    with Image.open(tmp_path / "out" / "clear.jpg") as image:
        assert (np.asarray(image) == 255).all()


def test_names_that_would_meet_both_survive(tmp_path: Path) -> None:
    """a.png and a.jpg in one folder, and what their new names could meet, are all there."""
    colours = {
        "x/a.jpg": "red",
        "x/a.png": "lime",
        "x/a.webp": "blue",
        "x/a.png.gif": "white",
        "x/a.png.jpg.bmp": "black",
        "y/a.png": "yellow",
        "a.png": "cyan",
    }
    wanted = sorted(colours.values())
    for name, colour in colours.items():
        write(tmp_path / "in" / name, Image.new("RGB", (16, 16), colour))
    prepare(tmp_path / "in", tmp_path / "out", size=(16, 16), running=BUSY)
    found = {}
    for name in copies(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as image:
            middle = np.asarray(image)[8, 8].astype(int)
        off = [np.abs(middle - ImageColor.getrgb(colour)).sum() for colour in wanted]
        found[name] = wanted[int(np.argmin(off))]
    assert sorted(found.values()) == wanted
    assert found["x/a.jpg"] == "red"
    assert found["y/a.jpg"] == "yellow"
    assert found["a.jpg"] == "cyan"


def test_no_two_names_are_alike() -> None:
    """Also where file systems do not tell case apart, and where a name has no room for a suffix."""
    names = ["a.png", "A.webp", "a.gif", "b.jpg", "B.JPG", "a.png.tif", "c", "c.jpeg", "d.e/c.png"]
    long = ["n" * 251 + ".png", "n" * 255, "n" * 254, "ü" * 127, "ü" * 127 + "n"]
    items = [ImageItem(name) for name in sorted(names + long)]
    new = target_names(items)
    assert len({name.casefold() for name in new}) == len(items)
    assert all(name.endswith(".jpg") for name in new)
    assert all(len(os.fsencode(Path(name).name)) <= 255 for name in new)
    pairs = dict(zip((item.path for item in items), new, strict=True))
    assert pairs["b.jpg"] == "b.jpg"
    assert pairs["d.e/c.png"] == "d.e/c.jpg"
    assert pairs["n" * 251 + ".png"] == "n" * 251 + ".jpg"


def test_pictures_with_long_names_are_copied(tmp_path: Path) -> None:
    """A name of 255 bytes without a suffix gets one, and a shorter stem."""
    for name in ("n" * 255, "n" * 254 + "m"):
        write(tmp_path / "in" / name, Image.new("RGB", (8, 8)), format="PNG")
    assert prepare(tmp_path / "in", tmp_path / "out", size=(8, 8), running=BUSY).count == 2
    assert len(copies(tmp_path / "out")) == 2


def test_bad_pictures_are_listed_and_the_others_copied(
    tree: Path, tmp_path: Path, imgsearch: Callable[..., Run]
) -> None:
    """Text, half a picture, a pipe and a link that leaves are skips; the rest is there."""
    source = tmp_path / "in"
    shutil.copytree(tree / "class 0", source / "good")
    (source / "text.jpg").write_text("no picture")
    (source / "half.png").write_bytes(next((tree / "class 0").glob("*.png")).read_bytes()[:300])
    (source / "empty.png").touch()
    os.mkfifo(source / "pipe.jpg")
    (source / "link.jpg").symlink_to(next(tree.glob("*/*.jpg")))
    run = imgsearch("prepare", source, tmp_path / "out", "--size", "8x8", "--json")
    assert run.code == 0
    assert run.json["count"] == 45
    assert len(copies(tmp_path / "out")) == 45
    assert {skip["path"]: skip["reason"].split(" (")[0] for skip in run.json["skipped"]} == {
        "empty.png": "the file is empty",
        "half.png": "it is cut off or spoilt",
        "link.jpg": "a link that leaves the folder is not followed",
        "pipe.jpg": "not a regular file",
        "text.jpg": "its content is in no picture format that is opened here",
    }
    assert run.err.splitlines()[0] == "5 files skipped:"
    assert len(run.err.splitlines()) == 6


def test_too_many_pixels_are_a_skip(tree: Path, tmp_path: Path) -> None:
    """The limits that are given are those of each picture."""
    with pytest.raises(NoImagesError, match="pixels are more than 100"):
        prepare(
            tree / "class 0",
            tmp_path / "out",
            size=(8, 8),
            running=Running(workers=1, limits=Limits(pixels=100)),
        )
    assert not (tmp_path / "out").exists()


def test_where_the_copies_may_not_go(tree: Path, tmp_path: Path) -> None:
    """Inside of the pictures, around them, on a file, into a folder with files: all refused."""
    source = tmp_path / "pictures" / "in"
    shutil.copytree(tree / "class 1", source / "class")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    before = sums(tmp_path)
    for dest, overwrite, reason in (
        (source / "out", False, "lies inside of the pictures"),
        (source, True, "lies inside of the pictures"),
        (tmp_path / "link" / "class", True, "lies inside of the pictures"),
        (tmp_path / "pictures", True, "holds the pictures themselves"),
        (tmp_path / "file", True, "is a file; the copies need a folder"),
        (tmp_path / "full", False, "is not empty; choose a new folder, or add --overwrite"),
    ):
        with pytest.raises(InputError, match=reason):
            prepare(source, dest, size=(8, 8), overwrite=overwrite, running=BUSY)
    assert sums(tmp_path) == before
    summary = prepare(source, tmp_path / "full", size=(8, 8), overwrite=True, running=BUSY)
    assert summary.count == 45
    again = prepare(source, tmp_path / "full", size=(9, 9), overwrite=True, running=BUSY)
    assert again.count == 45
    assert (tmp_path / "full" / "x").exists()
    (tmp_path / "full" / "x").unlink()
    assert set(copies(tmp_path / "full").values()) == {(9, 9)}


def test_a_place_that_cannot_be_written(tree: Path, tmp_path: Path) -> None:
    """Below a file, in /proc, and under a name too long: one sentence with exit code 7."""
    (tmp_path / "file").touch()
    for dest in (tmp_path / "file" / "out", Path("/proc/none/out"), tmp_path / ("x" * 300)):
        with pytest.raises(WriteError, match="cannot be written") as error:
            prepare(tree / "class 0", dest, size=(8, 8), running=BUSY)
        assert error.value.exit_code == 7


def test_half_a_copy_is_not_left(tree: Path, tmp_path: Path) -> None:
    """Where the place of a copy is taken by a folder, nothing but whole copies is left."""
    blocked = sorted((tree / "class 2").iterdir())[10].with_suffix(".jpg").name
    (tmp_path / "out" / blocked / "inside").mkdir(parents=True)
    with pytest.raises(WriteError, match="cannot be written"):
        prepare(tree / "class 2", tmp_path / "out", size=(8, 8), overwrite=True, running=BUSY)
    assert len(copies(tmp_path / "out")) == 10
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (16_385, 5), (99_999, 99_999)])
def test_sizes_that_cannot_be(tree: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    """A size has two sides of 1 to 16,384 pixels."""
    with pytest.raises(InputError, match="a size is two numbers of pixels from 1 to 16,384"):
        prepare(tree, tmp_path / "out", size=size)
    assert not (tmp_path / "out").exists()


def test_other_words_that_cannot_be(tree: Path, tmp_path: Path) -> None:
    """A fit that does not exist, and pictures that are not there."""
    with pytest.raises(InputError, match="there is no fit 'tile'; choose one of: pad, crop"):
        prepare(tree, tmp_path / "out", fit="tile")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="there is no folder"):
        prepare(tree / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="there are no pictures in"):
        prepare(tmp_path / "empty", tmp_path / "out")


def test_a_prepared_folder_is_as_good_as_its_original(tree: Path, tmp_path: Path) -> None:
    """A second copy of the copy, of the same size, shows the same pictures again."""
    prepare(tree / "class 3", tmp_path / "one", size=(32, 32), running=BUSY)
    prepare(tmp_path / "one", tmp_path / "two", size=(32, 32), running=BUSY)
    assert set(copies(tmp_path / "one")) == set(copies(tmp_path / "two"))
    for name in copies(tmp_path / "one"):
        first = np.asarray(Image.open(io.BytesIO((tmp_path / "one" / name).read_bytes())))
        second = np.asarray(Image.open(io.BytesIO((tmp_path / "two" / name).read_bytes())))
        assert np.abs(first.astype(int) - second).mean() < 4
