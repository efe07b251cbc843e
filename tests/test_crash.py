"""What a kill, a full disk or a signal leaves: the old index or the new one, and nothing else.

scripts/bench/faults.py and scripts/bench/kills.py do the same at full size, under strace.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import ROOT, Run
from helpers import write_index

from imgsearch import WriteError, build_index, memory, verify
from imgsearch.index import open_index, read_manifest
from imgsearch.memory import Journal, Outcome, look
from imgsearch.records import Limits

sys.path.append(str(ROOT / "scripts" / "bench"))
import tiny

if TYPE_CHECKING:
    from collections.abc import Callable

PROGRAM = Path(sys.executable).with_name("imgsearch")
CRASHES = Path(__file__).with_name("crashes.py")
OLD, NEW = 2, 3  # generations of crashes.py
# The index folder is there already, old files and parts may go later: no reader misses these.
OF_NO_ACCOUNT = ("os.mkdir", "os.remove", "os.rmdir")


def crashes(*words: object) -> Any:  # noqa: ANN401 - whatever it prints
    """Run crashes.py and return what it printed."""
    done = subprocess.run(
        [sys.executable, CRASHES, *map(str, words)], capture_output=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a folder of 400 small pictures, and a tiny model."""
    folder = tmp_path_factory.mktemp("many")
    photos = tiny.Photos(folder / "photos", 400)
    return photos.folder, tiny.make_model(folder / "tiny.onnx")


def test_killed_at_every_change_of_a_commit(tmp_path: Path) -> None:
    """Killed before any sync, rename, removal or opening, a commit leaves one whole generation."""
    found = crashes("kill", tmp_path)
    kinds = {change.split()[0] for entry in found for change in entry["changes"]}
    assert kinds == {"open", "fsync", "os.rename", "os.remove", "os.mkdir"}
    assert [entry["generation"] for entry in found] == sorted(e["generation"] for e in found)
    assert {entry["generation"] for entry in found} == {OLD, NEW}
    for entry in found:
        assert entry["code"] == -signal.SIGKILL
        assert entry["problems"] == entry["next"] == []


@pytest.mark.parametrize(("error", "onward"), [("ENOSPC", False), ("EIO", True)])
def test_refused_at_every_change_of_a_commit(error: str, tmp_path: Path, *, onward: bool) -> None:
    """A call that the system refuses ends the commit with exit 7, and the index is whole.

    Only a removal may fail in silence, and the making of the folder that is there.
    """
    found = crashes(error, tmp_path, *["onward"] * onward)
    assert len(found) > 15
    for entry in found:
        assert entry["problems"] == entry["next"] == []
        if entry["code"] == 0:
            assert entry["changes"][0].startswith(OF_NO_ACCOUNT)
            assert entry["generation"] == NEW
        else:
            assert entry["code"] == WriteError.exit_code
    last = [entry for entry in found if entry["changes"][0] == "fsync"][-1]
    others = [entry for entry in found if entry["code"] and entry is not last]
    assert {entry["generation"] for entry in others} == {OLD}
    # The sync of the folder after the rename: readers have the new one, nobody is told it is safe.
    assert (last["code"], last["generation"]) == (WriteError.exit_code, NEW)


def test_builds_killed_at_random(tmp_path: Path) -> None:
    """Killed at random moments, builds leave the old index or the new one, and no process."""
    *found, last = crashes("build", tmp_path)
    for entry in found:
        assert entry["problems"] == []
        assert entry["old"] or entry["pictures"]
        assert entry["ended"]
    assert any(entry["code"] == -signal.SIGKILL for entry in found)
    assert last == {"last": True}


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """Opening, asking and checking an index open nothing for writing, not even a lock."""
    assert crashes("read", tmp_path) == []


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, ""), (signal.SIGINT, "interrupted")])
def test_signals_in_the_middle(
    many: tuple[Path, str], tmp_path: Path, number: signal.Signals, said: str
) -> None:
    """SIGTERM ends with 143, Ctrl-C with 130; no decoder stays, and what is done is kept."""
    photos, model = many
    index = tmp_path / "index"
    words = [PROGRAM, "build", photos, index, "--model", model, "--workers", "2"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(f.stat().st_size for f in (index / ".work").glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    decoders = tiny.children(child.pid)
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err.strip()) == (128 + number, "", said)
    assert len(decoders) == 2
    assert tiny.ended(decoders)
    assert not (index / "manifest.json").exists()
    assert sum(file.stat().st_size for file in (index / ".work").iterdir()) > 0
    assert build_index(photos, index, model=model).count == 400
    assert not (index / ".work").exists()
    assert verify(index) == []


def test_interrupted_before_it_is_there(tmp_path: Path) -> None:
    """Ctrl-C while Python still imports ends the process as the system does, without a word."""
    slow = "import time; print('importing', flush=True); time.sleep(60)"
    (tmp_path / "typer.py").write_text(slow)
    with subprocess.Popen(
        [sys.executable, "-m", "imgsearch", "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (-signal.SIGINT, "")


@pytest.mark.parametrize(("number", "said"), [(signal.SIGTERM, ""), (signal.SIGINT, "interrupted")])
def test_interrupted_while_a_package_is_imported(
    many: tuple[Path, str], tmp_path: Path, number: signal.Signals, said: str
) -> None:
    """A package that makes an error of its own of a signal does not change how the command ends."""
    (tmp_path / "onnxruntime.py").write_text(
        "import time\n"
        "try:\n"
        "    print('importing', flush=True)\n"
        # A signal that comes just before a sleep is seen after it.
        "    for _ in range(600): time.sleep(0.1)\n"
        "except BaseException as error:\n"
        "    raise ImportError('initialization failed') from error\n"
    )
    photos, model = many
    with subprocess.Popen(
        [PROGRAM, "build", photos, tmp_path / "index", "--model", model],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "importing\n"
        child.send_signal(number)
        _, err = child.communicate(timeout=60)
    assert (child.returncode, err.strip()) == (128 + number, said)


def test_no_file_may_grow(
    many: tuple[Path, str], tmp_path: Path, imgsearch: Callable[..., Run]
) -> None:
    """Where the system lets no file grow any more, the sentence comes and the index is whole."""
    photos, model = many
    index = tmp_path / "index"
    build_index(photos / "alpha", index, model=model)
    before = (index / "manifest.json").read_bytes()
    done = subprocess.run(
        [PROGRAM, "build", photos, index, "--model", model, "--overwrite"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert done.returncode == WriteError.exit_code
    assert done.stderr.count("\n") == 1
    assert "cannot be written: File too large" in done.stderr
    assert (index / "manifest.json").read_bytes() == before
    assert verify(index) == []
    again = imgsearch("build", photos, index, "--model", model, "--overwrite", "--json")
    assert again.json["count"] == 400
    assert not [file for file in index.iterdir() if file.name.startswith((".part", ".work"))]


def test_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, imgsearch: Callable[..., Run]
) -> None:
    """While its holder lives a lock is respected; after a kill nothing needs to be done by hand."""
    index = write_index(tmp_path / "index", np.eye(4), ["a"] * 4)
    write_index(index, np.eye(5), ["a"] * 5)
    (index / read_manifest(index).files["vectors"].name).write_bytes(b"")  # to be repaired
    hold = (
        "import sys, time; from pathlib import Path; from imgsearch.index import IndexWriter\n"
        "with IndexWriter(Path(sys.argv[1])) as writer:\n"
        "    writer.start(4); print('held', flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", hold, index]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        refused = imgsearch("verify", index, "--repair")
        assert refused.code == WriteError.exit_code
        assert "another process is writing" in refused.err
        holder.kill()
    assert (index / ".lock").exists()
    assert (index / ".part-vectors").exists()
    assert imgsearch("verify", index, "--repair").code == 0
    assert not (index / ".part-vectors").exists()


@pytest.mark.parametrize("at", range(7))
def test_after_a_failed_sync_the_file_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """A file whose sync failed is not synced again, and becomes no part of an index."""
    sync = os.fsync
    index = write_index(tmp_path / "index", np.eye(3), ["a"] * 3)
    calls: list[tuple[int, int]] = []
    kept = []  # an open file keeps its number from being given out again

    def refuse_one(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append((status.st_ino, status.st_mode))
        kept.append(os.dup(descriptor))
        if len(calls) == at + 1:
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_one)
    with pytest.raises(WriteError, match="Input/output error"):
        write_index(index, np.eye(4), ["a"] * 4)
    failed, mode = calls[-1]
    assert len(calls) == at + 1
    write_index(index, np.eye(4), ["a"] * 4)
    for descriptor in kept:
        os.close(descriptor)
    if stat.S_ISREG(mode):
        assert failed not in {number for number, _ in calls[at + 1 :]}
        assert failed not in {file.stat().st_ino for file in index.iterdir()}
    assert verify(index) == []


def test_journal_of_a_failed_sync_is_read_but_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run takes over what a journal holds and keeps its own work in another file."""
    vectors = np.eye(8, dtype=np.float32)
    (tmp_path / "0.jpg").write_bytes(b"0")
    state = look(str(tmp_path / "0.jpg"))

    def add(journal: Journal, number: int) -> None:
        outcome = Outcome(f"{number}" * 64, 1, 1, 1, 1, None, vectors[number])
        journal.add(f"{number}.jpg", state, outcome)

    def refuse(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(memory, "_SYNC_SECONDS", 0.0)
    with monkeypatch.context() as patch, Journal(tmp_path, {}, Limits(), 8) as journal:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(WriteError, match="Input/output error"):
            add(journal, 0)
    (first,) = (tmp_path / ".work").iterdir()
    before = first.read_bytes(), first.stat().st_mtime_ns
    with Journal(tmp_path, {}, Limits(), 8) as journal:
        found = journal.find("0" * 64)
        assert found is not None
        assert found.vector is not None
        assert found.vector.tolist() == vectors[0].tolist()
        add(journal, 1)
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert len(list((tmp_path / ".work").iterdir())) == 2
    with Journal(tmp_path, {}, Limits(), 8) as journal:
        assert all(journal.find(f"{number}" * 64) for number in (0, 1))
        # What the disk gives back another time is not believed.
        raw = bytearray(before[0])
        raw[-1] ^= 1
        first.write_bytes(raw)
        assert journal.find("0" * 64) is None
        assert journal.find("1" * 64) is not None
        journal.clear()
    assert not (tmp_path / ".work").exists()


def test_damaged_manifest_does_not_replace_the_previous_one(tmp_path: Path) -> None:
    """A commit over a manifest that cannot be read keeps the generation before it, whole."""
    index = tmp_path / "index"
    for size in (3, 4):
        write_index(index, np.eye(size), ["a"] * size)
    (index / "manifest.json").write_bytes(b"{}")
    write_index(index, np.eye(5), ["a"] * 5)
    (index / "manifest.json").write_bytes((index / "previous.json").read_bytes())
    assert open_index(index).manifest.count == 3


def test_open_index_keeps_its_skips(tmp_path: Path) -> None:
    """What was skipped can be told of an open index whose files were replaced meanwhile."""
    photos = tiny.Photos(tmp_path / "photos", 3)
    (photos.folder / "alpha" / "bad.jpg").write_text("no picture")
    model, index = tiny.make_model(tmp_path / "tiny.onnx"), tmp_path / "index"
    build_index(photos.folder, index, model=model)
    opened = open_index(index)
    for size in (3, 4, 5):
        write_index(index, np.eye(size), ["a"] * size)
    assert [skip.path for skip in opened.skipped()] == ["alpha/bad.jpg"]
