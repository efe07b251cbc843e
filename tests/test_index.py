"""An index on disk: what is written, in which order, and what a reader refuses."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import faiss
import numpy as np
import pytest
from conftest import LABELS, MODEL, ROOT, Run
from helpers import write_index

from imgsearch import (
    IndexCorruptError,
    IndexExistsError,
    IndexLockedError,
    IndexVersionError,
    NotFoundError,
    SearchEngine,
    build_index,
    verify,
)
from imgsearch.index import IndexWriter, locate, open_index, read_manifest
from imgsearch.vectors import open_vectors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def sums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file in a folder."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.name != ".lock"
    }


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return an index of 6 made vectors."""
    rows = np.random.default_rng(0).standard_normal((6, 8))
    return write_index(tmp_path / "small", rows, ["a", "b", "a", None, "b", "a"])


def resealed(manifest: bytes, old: bytes, new: bytes) -> bytes:
    """Change a manifest and give it the right sum again, as somebody with intent would."""
    assert old in manifest
    body = manifest[: manifest.rindex(b' "sha256"')].replace(old, new)
    return body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def test_rebuild_gives_the_same_bytes(class_folders: Path, tmp_path: Path) -> None:
    """Building twice from the same pictures, in other batches, gives files of the same bytes."""
    from imgsearch import Running

    for name, batch, workers in (("one", 8, 2), ("two", 3, 1)):
        running = Running(batch_size=batch, workers=workers)
        build_index(class_folders, tmp_path / name, model=MODEL, running=running)
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    assert one.files == two.files
    assert {entry.name for entry in one.files.values()} < set(sums(tmp_path / "one"))
    for entry in one.files.values():
        ours = (tmp_path / "one" / entry.name).read_bytes()
        assert ours == (tmp_path / "two" / entry.name).read_bytes()


def test_manifest_states_what_made_the_index(rooms: Path) -> None:
    """The manifest holds all that the contract lists."""
    document = json.loads((rooms / "manifest.json").read_text())
    assert document["format_version"] == 1
    assert document["model"] == MODEL
    assert document["weights_sha256"].startswith("9656183e")
    assert document["preprocessing"] == {
        "resize": 260,
        "crop": 260,
        "interpolation": "bicubic",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "reduce": 2,
    }
    assert (document["dim"], document["metric"], document["precision"]) == (1280, "cosine", "fp32")
    assert sum(document["classes"].values()) == document["count"]
    for entry in document["files"].values():
        file = rooms / entry["name"]
        assert file.stat().st_size == entry["size"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"]
        assert entry["sha256"][:16] in entry["name"]


def test_manifest_ends_with_the_sum_of_its_bytes(rooms: Path) -> None:
    """The last line is the sum over all bytes before it."""
    raw = (rooms / "manifest.json").read_bytes()
    lines = raw.splitlines(keepends=True)
    total = hashlib.sha256(b"".join(lines[:-1])).hexdigest()
    assert lines[-1] == f' "sha256": "{total}"}}\n'.encode()


def test_sidecar_describes_the_pictures(rooms: Path, small_photos: Path) -> None:
    """Row i of the sidecar has path, label, sum, size in pixels and bytes, and time of a file."""
    from PIL import Image

    index = open_index(rooms)
    for row in range(index.items.count):
        item = index.items.item(row)
        file = small_photos / item.path
        assert item.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        assert (item.size, item.mtime_ns) == (file.stat().st_size, file.stat().st_mtime_ns)
        with Image.open(file) as image:
            assert (item.width, item.height) == image.size
    assert index.items.column("path") == sorted(index.items.column("path"))


def test_readable_with_faiss_and_pyarrow_alone(rooms: Path, tmp_path: Path) -> None:
    """The script in docs/format.md reads an index without imgsearch and finds the same."""
    script = re.search(r"```python\n(.*?)```", (ROOT / "docs/format.md").read_text(), re.DOTALL)
    assert script is not None
    assert len([line for line in script[1].splitlines() if line]) <= 12
    assert "imgsearch" not in script[1]
    (tmp_path / "read.py").write_text(script[1])
    done = subprocess.run(
        [sys.executable, tmp_path / "read.py", rooms, "3"],
        capture_output=True,
        text=True,
        check=True,
    )
    with SearchEngine.open(rooms) as engine:
        result = engine.by_row(3, k=5)
    lines = [line.split(" ", 1) for line in done.stdout.splitlines()]
    assert [rest for _, rest in lines] == [f"{m.label} {m.path}" for m in result.matches]
    # FAISS sums in float32, in an order of its own; six digits are printed.
    room = engine.index.vectors.error + 1e-6
    assert [float(score) for score, _ in lines] == pytest.approx(
        [match.score for match in result.matches], rel=0, abs=room
    )


def test_opening_leaves_faiss_as_it_was(small: Path) -> None:
    """FAISS' limit on what it allocates, one for the process, is the caller's own again."""
    before = faiss.get_deserialization_vector_byte_limit()
    open_index(small)
    assert faiss.get_deserialization_vector_byte_limit() == before
    with pytest.raises(IndexCorruptError):
        open_vectors(small / read_manifest(small).files["items"].name, 1, 1)
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_build_refuses_an_index_that_exists(class_folders: Path, small: Path) -> None:
    """Without overwrite nothing of an existing index is touched."""
    before = sums(small)
    with pytest.raises(IndexExistsError, match="--overwrite"):
        build_index(class_folders, small, model=MODEL)
    assert sums(small) == before


def test_previous_generation_is_kept_and_older_ones_go(tmp_path: Path) -> None:
    """After three commits the last two generations are on disk, and nothing else."""
    folder = tmp_path / "index"
    named = []
    for seed in range(3):
        rows = np.random.default_rng(seed).standard_normal((4, 8))
        write_index(folder, rows, ["a", "b", "a", str(seed)])
        named.append({entry.name for entry in read_manifest(folder).files.values()})
    assert set(sums(folder)) == named[1] | named[2] | {"manifest.json", "previous.json"}


def test_failed_build_leaves_the_index_as_it_was(small: Path, tmp_path: Path) -> None:
    """A build that ends in an error changes nothing and leaves no part behind."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    before = sums(small)
    with pytest.raises(Exception, match="could be used"):
        build_index(tmp_path / "photos", small, model=MODEL, overwrite=True)
    assert sums(small) == before
    assert verify(small) == []


def test_a_second_writer_is_refused(small: Path, class_folders: Path) -> None:
    """While one process writes, another is told so; readers do not notice."""
    with IndexWriter(small):
        with pytest.raises(IndexLockedError), IndexWriter(small):
            pass
        with pytest.raises(IndexLockedError):
            build_index(class_folders, small, model=MODEL, overwrite=True)
        assert SearchEngine.open(small).by_row(0).matches
    with IndexWriter(small):
        pass


def test_open_reader_survives_new_generations(tmp_path: Path) -> None:
    """An engine that was open keeps its generation, whole, while others are committed."""
    folder = tmp_path / "index"
    rows = np.random.default_rng(0).standard_normal((20, 16))
    write_index(folder, rows, ["a", "b"] * 10)
    engine = SearchEngine.open(folder)
    before = [match.row for match in engine.by_row(0).matches]
    for seed in range(1, 4):
        write_index(folder, np.random.default_rng(seed).standard_normal((20, 16)), ["c"] * 20)
    assert [match.row for match in engine.by_row(0).matches] == before
    assert engine.classes == ("a", "b")
    assert SearchEngine.open(folder).classes == ("c",)


def test_read_only_folder_is_searched(small: Path) -> None:
    """Reading writes nothing: neither a lock nor anything else appears."""
    (small / ".lock").unlink(missing_ok=True)
    before = sorted(small.iterdir())
    assert SearchEngine.open(small).by_row(0).matches
    assert verify(small) == []
    assert sorted(small.iterdir()) == before


def test_every_changed_byte_of_the_manifest_is_noticed(small: Path) -> None:
    """No byte of the manifest can be flipped without exit 4."""
    file = small / "manifest.json"
    raw = file.read_bytes()
    for at in range(len(raw)):
        spoilt = bytearray(raw)
        spoilt[at] ^= 1 << (at % 8)
        file.write_bytes(spoilt)
        with pytest.raises(IndexCorruptError, match=r"manifest\.json"):
            open_index(small)
    file.write_bytes(raw)
    assert open_index(small).manifest.count == 6


@pytest.mark.parametrize("kind", ["vectors", "items"])
def test_every_changed_byte_of_a_data_file_is_noticed(small: Path, kind: str) -> None:
    """No byte of a data file can be flipped, none cut off or added, without exit 4 and its name."""
    entry = read_manifest(small).files[kind]
    file = small / entry.name
    raw = file.read_bytes()
    spoils = [raw[:at] for at in range(0, len(raw), 7)] + [raw + b"\0", b""]
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        spoils.append(bytes(changed))
    for spoilt in spoils:
        file.write_bytes(spoilt)
        with pytest.raises(IndexCorruptError, match=re.escape(entry.name)):
            open_index(small)
    file.unlink()
    with pytest.raises(IndexCorruptError, match="missing"):
        open_index(small)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"count": 6', b'"count": 7'),
        (b'"count": 6', b'"count": 6000000000000'),
        (b'"count": 6', b'"count": 6.0'),
        (b'"count": 6', b'"count": -6'),
        (b'"count": 6', b'"count": ' + b"6" * 5000),
        (b'"count": 6', b'"count": NaN'),
        (b'"count": 6', b'"count": 6, "count": 6'),
        (b'"count": 6', b'"count": ' + b"[" * 100_000),
        (b'"dim": 8', b'"dim": 4'),
        (b'"dim": 8', b'"dim": "8"'),
        (b'"a": 3', b'"a": 2'),
        (b'"name": "vectors-', b'"name": "../vectors-'),
        (b'"name": "vectors-', b'"name": "/etc/passwd-'),
        (b'"metric": "cosine"', b'"metric": "l2"'),
        (b'"preprocessing": null', b'"preprocessing": {}'),
        (b'"files": {', b'"files": [{'),
    ],
)
def test_manifests_made_to_do_harm_are_refused(small: Path, old: bytes, new: bytes) -> None:
    """A manifest with a right sum and impossible content is refused all the same."""
    file = small / "manifest.json"
    file.write_bytes(resealed(file.read_bytes(), old, new))
    with pytest.raises(IndexCorruptError):
        open_index(small)


def test_newer_version_is_named(small: Path) -> None:
    """A newer format is refused with a sentence that says so."""
    file = small / "manifest.json"
    newer = resealed(file.read_bytes(), b'"format_version": 1', b'"format_version": 3')
    file.write_bytes(newer)
    with pytest.raises(IndexVersionError, match="newer imgsearch-faiss"):
        open_index(small)


def test_rows_that_are_no_unit_vectors_are_refused(tmp_path: Path) -> None:
    """Vectors with right sums but of another length, or NaN, are not believed."""
    for at, value in enumerate((2.0, float("nan"), 0.0)):
        folder = write_index(tmp_path / str(at), np.eye(4), ["a"] * 4)
        manifest = read_manifest(folder)
        entry = manifest.files["vectors"]
        raw = bytearray((folder / entry.name).read_bytes())
        raw[45:49] = np.float32(value).tobytes()
        total = hashlib.sha256(raw).hexdigest()
        (folder / f"vectors-{total[:16]}.faiss").write_bytes(raw)
        document = (folder / "manifest.json").read_bytes()
        for old, new in ((entry.name, f"vectors-{total[:16]}.faiss"), (entry.sha256, total)):
            document = resealed(document, old.encode(), new.encode())
        (folder / "manifest.json").write_bytes(document)
        with pytest.raises(IndexCorruptError, match="row 0 is not a finite vector"):
            open_index(folder)


def test_verify_lists_every_problem(small: Path, imgsearch: Callable[..., Run]) -> None:
    """All problems are told, not the first; the exit code is 4."""
    files = read_manifest(small).files
    (small / files["vectors"].name).write_bytes(b"short")
    (small / files["items"].name).unlink()
    run = imgsearch("verify", small, "--json")
    assert run.code == 4
    document = run.json
    assert document["ok"] is False
    assert len(document["problems"]) == 2
    assert all(entry.name in " ".join(document["problems"]) for entry in files.values())


def test_verify_a_whole_index(rooms: Path, imgsearch: Callable[..., Run]) -> None:
    """A whole index has no problem, and exit code 0."""
    run = imgsearch("verify", rooms, "--json")
    assert run.code == 0
    expected = {"index": str(rooms), "ok": True, "problems": []}
    assert {name: run.json[name] for name in expected} == expected


def test_missing_index_is_not_found(tmp_path: Path) -> None:
    """No manifest, no index."""
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        with pytest.raises(NotFoundError, match="imgsearch build"):
            open_index(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotFoundError):
        open_index(tmp_path / "file")


def test_bare_names_lie_in_indexes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A name without a slash means indexes/NAME; a path means itself."""
    monkeypatch.chdir(tmp_path)
    assert str(locate("rooms")) == "indexes/rooms"
    assert str(locate("./rooms")) == "rooms"
    assert str(locate(str(tmp_path))) == str(tmp_path)
    assert str(locate(".")) == "."


def test_copied_index_is_the_same(rooms: Path, tmp_path: Path) -> None:
    """An index can be moved: a copy of its folder answers alike."""
    shutil.copytree(rooms, tmp_path / "copy")
    with SearchEngine.open(rooms) as one, SearchEngine.open(tmp_path / "copy") as two:
        assert one.by_row(5) == two.by_row(5)


def test_skipped_files_are_kept_with_the_index(class_folders: Path, tmp_path: Path) -> None:
    """What was skipped is listed in a file of the index, with its reason."""
    shutil.copytree(class_folders, tmp_path / "photos")
    (tmp_path / "photos" / "alpha" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    summary = build_index(tmp_path / "photos", tmp_path / "index", model=MODEL)
    index = open_index(tmp_path / "index")
    assert index.skipped() == summary.skipped
    assert [skip.path for skip in summary.skipped] == ["alpha/broken.jpg"]
    assert index.manifest.skipped == 1


def test_label_file_decides_base_set(rooms: Path) -> None:
    """The split 'test' of the label file is not indexed; groups are kept."""
    rows = [line.split(",") for line in LABELS.read_text().splitlines()[1:]]
    base = {path: (label, group) for path, label, group, split in rows if split == "base"}
    index = open_index(rooms)
    stored = {
        item.path: (item.label, item.group or "")
        for item in (index.items.item(row) for row in range(index.items.count))
    }
    assert stored == base
