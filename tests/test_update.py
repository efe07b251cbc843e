"""Updates: only what is new is embedded, and the index is what a fresh build would make."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import MODEL, Run
from helpers import write_index

from imgsearch import (
    InputError,
    NoImagesError,
    NotFoundError,
    SearchEngine,
    build_index,
    update_index,
    verify,
)
from imgsearch.index import open_index, read_manifest
from imgsearch.memory import FileState

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, class_folders: Path) -> Path:
    """Return a folder with `photos` and an `index` of them, written well before now."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(class_folders, folder / "photos")
    for file in (folder / "photos").rglob("*.jpg"):
        os.utime(file, (1_600_000_000, 1_600_000_000))
    build_index(folder / "photos", folder / "index", model=MODEL)
    return folder


@pytest.fixture
def place(built: Path, tmp_path: Path) -> Path:
    """Return a copy of `built` that a test may change; the index remembers this folder."""
    shutil.copytree(built / "photos", tmp_path / "photos")
    shutil.copytree(built / "index", tmp_path / "index")
    update_index(tmp_path / "index", tmp_path / "photos")
    return tmp_path


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every file of an index."""
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


def some(folder: Path, label: str, at: int = 0) -> Path:
    """Return one photo of a class."""
    return sorted((folder / "photos" / label).glob("*.jpg"))[at]


def content(folder: Path) -> dict[str, tuple[str | None, bytes]]:
    """Return label and vector of every path."""
    index = open_index(folder)
    return {
        index.items.path(row): (index.items.label(row), index.vectors.rows[row].tobytes())
        for row in range(index.items.count)
    }


def test_nothing_changed_nothing_written(place: Path) -> None:
    """An update of an index that is up to date touches no file."""
    before = snapshot(place / "index")
    summary = update_index(place / "index")
    assert not summary.written
    assert summary.embedded == 0
    assert snapshot(place / "index") == before


def test_touched_files_are_not_embedded(place: Path) -> None:
    """New times alone mean nothing: the content decides."""
    for file in (place / "photos").rglob("*.jpg"):
        os.utime(file)
    summary = update_index(place / "index")
    assert (summary.changed, summary.embedded, summary.written) == (0, 0, False)


def test_every_kind_of_change(place: Path, small_photos: Path) -> None:
    """Added, changed, moved, relabelled, removed and skipped are told apart, and only two embed."""
    fresh = sorted(small_photos.iterdir())[-2:]
    shutil.copy(fresh[1], some(place, "beta"))
    shutil.copy(fresh[0], place / "photos" / "beta" / "new.jpg")
    some(place, "gamma").rename(place / "photos" / "gamma" / "renamed.jpg")
    some(place, "gamma", 1).unlink()
    some(place, "alpha").rename(place / "photos" / "beta" / some(place, "alpha").name)
    (place / "photos" / "beta" / "bad.jpg").write_text("no picture")
    foreseen = update_index(place / "index", dry_run=True)
    summary = update_index(place / "index")
    assert summary.written
    assert not foreseen.written
    assert (summary.added, summary.changed, summary.moved) == (1, 1, 2)
    assert (summary.relabelled, summary.removed, summary.embedded) == (0, 1, 2)
    assert [skip.path for skip in summary.skipped] == ["beta/bad.jpg"]
    assert (foreseen.moved, foreseen.removed, foreseen.changed) == (2, 1, 1)
    build_index(place / "photos", place / "fresh", model=MODEL)
    assert read_manifest(place / "index").files == read_manifest(place / "fresh").files


def test_labels_follow_the_label_file(place: Path) -> None:
    """A changed label file relabels without embedding; the file is remembered."""
    names = sorted(f"{p.parent.name}/{p.name}" for p in (place / "photos").rglob("*.jpg"))
    table = place / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{name},one\n" for name in names))
    build_index(place / "photos", place / "tabled", labels_file=table, model=MODEL)
    table.write_text("path,label\n" + "".join(f"{name},two\n" for name in names[:5]))
    summary = update_index(place / "tabled")
    assert (summary.relabelled, summary.removed, summary.embedded) == (5, len(names) - 5, 0)
    assert summary.classes == {"two": 5}
    table.unlink()
    with pytest.raises(NotFoundError, match=r"labels\.csv"):
        update_index(place / "tabled")


def test_a_failed_picture_is_tried_again_only_when_it_changed(place: Path) -> None:
    """A skip is remembered with its reason until the file changes."""
    bad = place / "photos" / "beta" / "bad.jpg"
    bad.write_text("no picture")
    os.utime(bad, (1_600_000_000, 1_600_000_000))
    time.sleep(2.1)  # a file that was written just now proves nothing by its times
    assert update_index(place / "index").written
    before = snapshot(place / "index")
    assert not update_index(place / "index").written
    assert snapshot(place / "index") == before
    shutil.copy(some(place, "alpha"), bad)
    summary = update_index(place / "index")
    assert (summary.added, len(summary.skipped)) == (1, 0)


def test_missing_folder_costs_nothing(place: Path) -> None:
    """A folder that is gone or empty (a disk not mounted) leaves the index as it is."""
    before = snapshot(place / "index")
    (place / "photos").rename(place / "elsewhere")
    with pytest.raises(NotFoundError):
        update_index(place / "index")
    (place / "photos").mkdir()
    with pytest.raises(NoImagesError):
        update_index(place / "index")
    assert snapshot(place / "index") == before


def test_lost_or_spoilt_state_costs_time_only(place: Path) -> None:
    """Without its memory of files, or with a damaged one, an update still embeds nothing."""
    state = place / "index" / ".state"
    raw = bytearray(state.read_bytes())
    raw[len(raw) // 2] ^= 1
    state.write_bytes(raw)
    assert update_index(place / "index").embedded == 0
    state.unlink()
    assert update_index(place / "index").embedded == 0


@pytest.mark.parametrize(
    ("now", "proves"),
    [
        (FileState(1, 2, 3, 4, 99), True),
        (FileState(9, 2, 3, 4, 99), False),
        (FileState(1, 9, 3, 4, 99), False),
        (FileState(1, 2, 9, 4, 99), False),
        (FileState(1, 2, 3, 9, 99), False),
    ],
)
def test_unchanged_means_all_four(now: FileState, *, proves: bool) -> None:
    """Size, mtime, ctime and inode must all be equal, and old enough when they were looked at."""
    assert FileState(1, 2, 3, 4, 3_000_000_000).proves_unchanged(now) is proves
    assert not FileState(1, 2, 3, 4, 1_999_999_999).proves_unchanged(now)


def test_imported_index_is_not_updated(tmp_path: Path) -> None:
    """Vectors of an unknown model cannot be brought up to date, and the error says so."""
    index = write_index(tmp_path / "index", np.eye(3), ["a", "b", "c"])
    with pytest.raises(InputError, match="import it again"):
        update_index(index)


def test_random_series_is_a_fresh_build(place: Path, small_photos: Path) -> None:
    """After any series of changes the index has the rows and vectors of a fresh build."""
    rng = random.Random(7)  # noqa: S311 - a series that can be repeated
    spare = sorted(small_photos.iterdir())[12:]
    photos = place / "photos"
    for step in range(4):
        for number in range(rng.randint(1, 4)):
            there = sorted(photos.rglob("*.jpg"))
            folder = photos / rng.choice(["alpha", "beta", "gamma", "delta"])
            folder.mkdir(exist_ok=True)
            match rng.choice(["add", "change", "move", "remove"]):
                case "add":
                    shutil.copy(rng.choice(spare), folder / f"{step}-{number}.jpg")
                case "change":
                    shutil.copy(rng.choice(spare), rng.choice(there))
                case "move":
                    rng.choice(there).rename(folder / f"moved-{step}-{number}.jpg")
                case _:
                    rng.choice(there).unlink()
        update_index(place / "index")
        build_index(photos, place / "fresh", model=MODEL, overwrite=True)
        assert content(place / "index") == content(place / "fresh")
        assert verify(place / "index") == []


def test_killed_build_goes_on_where_it_was(
    small_photos: Path, tmp_path: Path, imgsearch: Callable[..., Run]
) -> None:
    """A build killed half-way is taken up by the next: what was embedded is not embedded again."""
    photos = tmp_path / "photos"
    for label in range(8):
        shutil.copytree(small_photos, photos / str(label))
    for i, file in enumerate(sorted(photos.rglob("*.jpg"))):
        with file.open("ab") as stream:
            stream.write(b"%d" % i)  # a content of its own, the same picture
    program = Path(sys.executable).with_name("imgsearch")
    words = ("build", photos, tmp_path / "index", "--model", MODEL, "--json")
    child = subprocess.Popen([program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    work = tmp_path / "index" / ".work"
    size = 0
    deadline = time.monotonic() + 240
    while size < 60 * 5120 and time.monotonic() < deadline:
        time.sleep(0.02)
        size = sum(file.stat().st_size for file in work.glob("*")) if work.exists() else 0
    child.send_signal(signal.SIGKILL)
    child.communicate()
    kept = sum(file.stat().st_size for file in work.glob("*"))
    assert kept >= 60 * 5120
    again = imgsearch(*words)
    assert again.code == 0
    assert again.json["count"] == 39 * 8
    assert not work.exists()
    # By the command, too: torch gives other last bits to a process that has set it up otherwise.
    assert imgsearch("build", photos, tmp_path / "whole", "--model", MODEL).code == 0
    assert read_manifest(tmp_path / "index").files == read_manifest(tmp_path / "whole").files


def test_journal_with_a_torn_end_is_used_up_to_it(tmp_path: Path) -> None:
    """A record that was not written whole is dropped, the ones before it are kept."""
    from imgsearch.memory import Journal, Outcome, look
    from imgsearch.records import Limits

    vectors = np.eye(8, dtype=np.float32)
    with Journal(tmp_path, {"model": "m"}, Limits(), 8) as journal:
        for i in range(3):
            (tmp_path / f"{i}.jpg").write_bytes(bytes([i]))
            outcome = Outcome(str(i) * 64, 1, 1, 1, 1, None, vectors[i])
            journal.add(f"{i}.jpg", look(str(tmp_path / f"{i}.jpg")), outcome)
    (file,) = (tmp_path / ".work").iterdir()
    raw = file.read_bytes()
    for cut in (1, 40, len(raw) // 3 + 5):
        file.write_bytes(raw[:-cut])
        with Journal(tmp_path, {"model": "m"}, Limits(), 8) as journal:
            kept = 3 - 1 - (cut > len(raw) // 3)
            assert len(journal.seen) == kept
            found = journal.find("0" * 64)
            assert found is not None
            assert found.vector is not None
            assert found.vector.tolist() == vectors[0].tolist()
            assert journal.find("2" * 64) is None
    with Journal(tmp_path, {"model": "another"}, Limits(), 8) as journal:
        assert journal.seen == {}


def test_verify_repair_goes_back(tmp_path: Path, imgsearch: Callable[..., Run]) -> None:
    """A spoilt generation is given up for the whole one before it, with a word on what is lost."""
    folder = tmp_path / "index"
    write_index(folder, np.eye(4), ["a"] * 4)
    write_index(folder, np.eye(5), ["a"] * 5)
    vectors = folder / read_manifest(folder).files["vectors"].name
    vectors.write_bytes(vectors.read_bytes()[:-4])
    assert imgsearch("verify", folder).code == 4
    run = imgsearch("verify", folder, "--repair", "--json")
    assert run.code == 0
    assert run.json["ok"]
    assert run.json["repaired"]
    assert "4 rows" in run.err
    assert SearchEngine.open(folder).index.manifest.count == 4
    (folder / "manifest.json").write_bytes(b"{}")
    (folder / "previous.json").unlink()
    run = imgsearch("verify", folder, "--repair")
    assert run.code == 4
    assert "no earlier generation is whole" in run.err


def test_update_by_the_command(place: Path, imgsearch: Callable[..., Run]) -> None:
    """The command prints what changed and has the fields in its JSON."""
    some(place, "gamma").unlink()
    run = imgsearch("update", place / "index", "--dry-run")
    assert run.code == 0
    assert "removed 1" in run.out
    assert "nothing written" in run.out
    run = imgsearch("update", place / "index", "--json")
    assert run.json["removed"] == 1
    assert run.json["written"]
    assert "nothing to do" in imgsearch("update", place / "index").out
    assert imgsearch("update", place / "nowhere").code == 3


def test_a_failed_picture_that_only_looks_new_is_not_tried_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad file that was written just now, or touched, is known by its content: no model loads."""
    bad = place / "photos" / "beta" / "bad.jpg"
    bad.write_text("no picture")
    assert update_index(place / "index").written
    monkeypatch.setattr("imgsearch.backbones.load_model", None)
    for _ in range(2):
        summary = update_index(place / "index")
        assert not summary.written
        assert [skip.path for skip in summary.skipped] == ["beta/bad.jpg"]
        os.utime(bad)


def test_a_file_that_is_gone_is_not_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label file may name a picture that is not there: a skip, for which no model is loaded."""
    name = some(place, "alpha").relative_to(place / "photos").as_posix()
    (place / "labels.csv").write_text(f"path,label\n{name},x\ngone.jpg,x\n")
    assert update_index(place / "index", labels_file=place / "labels.csv").written
    monkeypatch.setattr("imgsearch.backbones.load_model", None)
    summary = update_index(place / "index")
    assert not summary.written
    assert [(s.path, s.reason) for s in summary.skipped] == [("gone.jpg", "there is no such file")]


def test_an_edit_of_the_same_size_with_its_time_put_back_is_seen(place: Path) -> None:
    """Neither size nor time of writing betray it: the time of change, or the content, does."""
    file = some(place, "alpha")
    before = file.stat()
    raw = bytearray(file.read_bytes())
    raw[len(raw) * 3 // 4] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    summary = update_index(place / "index")
    assert (summary.changed, summary.embedded) == (1, 1)


def test_two_files_that_change_names_keep_their_vectors(place: Path) -> None:
    """A swap embeds nothing, and each vector goes with its content."""
    one, two = some(place, "alpha"), some(place, "beta")
    before = content(place / "index")
    between = one.with_name("between")
    one.rename(between)
    two.rename(one)
    between.rename(two)
    summary = update_index(place / "index")
    assert (summary.changed, summary.embedded) == (2, 0)
    after = content(place / "index")
    names = [file.relative_to(place / "photos").as_posix() for file in (one, two)]
    assert after[names[0]][1] == before[names[1]][1]
    assert after[names[1]][1] == before[names[0]][1]


def test_a_dry_run_writes_nothing(place: Path) -> None:
    """It tells of changes, and leaves every file of the index as it is, its memory of files too."""
    some(place, "gamma").unlink()
    (place / "photos" / "beta" / "bad.jpg").write_text("no picture")
    before = snapshot(place / "index")
    summary = update_index(place / "index", dry_run=True)
    assert (summary.removed, summary.written) == (1, False)
    assert snapshot(place / "index") == before
