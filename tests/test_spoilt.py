"""Indexes that were spoilt on purpose: refused with a sentence, in little memory, and mended.

The ways to spoil come from scripts/bench/spoilt.py, which tries all of them through the command,
each in a process that may die. Here are the quick ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT, Run

import imgsearch.items
import imgsearch.manifest
from imgsearch import IndexCorruptError, IndexVersionError, InputError, SearchEngine, verify
from imgsearch.index import open_index, read_manifest, repair
from imgsearch.items import items_bytes, read_items
from imgsearch.manifest import parse
from imgsearch.memory import (
    STATE,
    WORK,
    FileState,
    Journal,
    Outcome,
    Seen,
    read_states,
    write_states,
)
from imgsearch.records import Limits, StoredItem

if TYPE_CHECKING:
    from collections.abc import Callable


def _load() -> Any:  # noqa: ANN401 - a module that is no package's
    spec = importlib.util.spec_from_file_location("spoilt", ROOT / "scripts/bench/spoilt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["spoilt"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


spoilt = _load()
# These take seconds each, and memory to make: the benchmark has them.
SLOW = {
    "a bomb of 1.9 GiB",
    "a bomb of 1.9 GiB that says it is small",
    "2 GB of prefixes",
    "20,000 row groups",
    "20,000 columns",
    "rows that lie",
    "two million classes",
    "70 MB of spaces",
    "a text of 60 MB",
    "five million empty lists",
    "four million numbers",
    "30 million holes",
}
WHOLES = [
    case
    for case in (*spoilt.manifest_cases(), *spoilt.vector_cases(), *spoilt.parquet_cases())
    if case.name.split(": ")[-1] not in SLOW
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small index of two generations; nobody changes it."""
    folder = tmp_path_factory.mktemp("spoilt") / "index"
    for seed in range(2):
        spoilt.write_base(folder, seed)
    assert verify(folder) == []
    return folder


@pytest.fixture
def index(base: Path, tmp_path: Path) -> Path:
    """Return a copy of it, to spoil."""
    return Path(shutil.copytree(base, tmp_path / "index"))


def snapshot(folder: Path) -> dict[str, str]:
    """Return the sum of every file but the lock."""
    found: dict[str, str] = spoilt.snapshot(folder)
    return found


@pytest.mark.parametrize("case", WHOLES, ids=lambda case: case.name)
def test_wrong_with_right_sums(index: Path, case: Any) -> None:  # noqa: ANN401 - as loaded
    """What was made to do harm, with the right sums of its own bytes, is refused all the same."""
    case.spoil(index)
    with pytest.raises(IndexCorruptError) as caught:
        open_index(index)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert verify(index)


def test_files_in_each_others_place(index: Path, base: Path) -> None:
    """Pipes, folders, sockets, links, and the files of another generation are refused at once."""
    rng = random.Random(1)  # noqa: S311 - a series that can be repeated
    tried = 0
    for case in spoilt.byte_cases(base, rng):
        if case.search == {4} and (
            ": a " in case.name or "place of" in case.name or "generation" in case.name
        ):
            shutil.rmtree(index)
            shutil.copytree(base, index)
            case.spoil(index)
            with pytest.raises(IndexCorruptError):
                open_index(index)
            tried += 1
    assert tried > 30


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
@pytest.mark.parametrize("name", ["49 GiB of one text in a dictionary", "a page that says it has"])
def test_bombs_cost_little(index: Path, name: str) -> None:
    """A sidecar that would unpack to far more than memory is refused before it is unpacked."""
    case = next(case for case in spoilt.parquet_cases() if name in case.name)
    case.spoil(index)
    code = (
        "import resource, sys, pyarrow.parquet, pyarrow.compute\n"
        "from imgsearch import IndexCorruptError, index\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    index.open_index(sys.argv[1])\n"
        "except IndexCorruptError as error:\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)\n"
    )
    words = [sys.executable, "-c", code, f"{index}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    grown, _, said = done.stdout.partition(" ")
    assert "unpack" in said
    size = sum(file.stat().st_size for file in index.iterdir())
    assert int(grown) * 1024 < size + (300 << 20)


def test_flipped_parquet_never_crashes(base: Path, tmp_path: Path) -> None:
    """Whatever Arrow gets to see, it is a sidecar or a refusal; this process lives on."""
    rng = random.Random(5)  # noqa: S311 - a series that can be repeated
    items = read_manifest(base).files["items"].name
    raw = (base / items).read_bytes()
    refused = 0
    for _ in range(300):
        changed = bytearray(raw)
        for _ in range(rng.choice((1, 3))):
            changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        (tmp_path / "items").write_bytes(changed)
        try:
            assert read_items(tmp_path / "items", spoilt.ROWS).count == spoilt.ROWS
        except IndexCorruptError:
            refused += 1
    assert refused > 200


def test_sidecar_of_an_earlier_writer(index: Path, base: Path) -> None:
    """A sidecar whose every column has a dictionary, as it was written once, reads the same."""
    before = open_index(base).items
    columns = {name: before.column(name) for name in ("path", "label", "sha256", "group")}
    numbers = {
        "width": pa.int32(),
        "height": pa.int32(),
        "bytes": pa.int64(),
        "mtime_ns": pa.int64(),
    }
    columns.update({name: pa.array(before.column(name), kind) for name, kind in numbers.items()})
    spoilt.whole(index, items=spoilt.encoded(pa.table(columns)))
    assert read_manifest(index).files["items"] != read_manifest(base).files["items"]
    found = open_index(index).items
    assert [found.item(row) for row in range(found.count)] == [
        before.item(row) for row in range(before.count)
    ]


def test_what_shrinks_too_well_is_written_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long, regular paths would look like a bomb when compressed: they come back all the same."""
    monkeypatch.setattr(imgsearch.items, "_BASE_BYTES", 1 << 20)
    count = 8000
    items = [
        StoredItem(f"{'x' * 900}{i}.jpg", None, None, None, None, None, None) for i in range(count)
    ]
    data = items_bytes(items)
    assert len(data) > 900 * count
    (tmp_path / "items").write_bytes(data)
    assert read_items(tmp_path / "items", count).path(7) == items[7].path


def test_nothing_is_written_that_is_not_read(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths that are not UTF-8, too many classes and endless names are refused when written."""
    from dataclasses import replace

    manifest = read_manifest(base)
    assert parse(manifest.to_bytes()) == manifest
    with pytest.raises(InputError, match="UTF-8"):
        replace(manifest, image_root="/photos/\udcff").to_bytes()
    monkeypatch.setattr(imgsearch.manifest, "_MAX_VALUES", 600)
    with pytest.raises(InputError, match="classes"):
        replace(manifest, classes={f"{i:06d}": 1 for i in range(600)}).to_bytes()
    with pytest.raises(InputError, match="more than"):
        items_bytes([StoredItem("x" * 20_000_000, None, None, None, None, None, None)])


def test_by_the_command(base: Path, tmp_path: Path, imgsearch: Callable[..., Run]) -> None:
    """The installed program says one sentence, shows no traceback and ends with 4."""
    names = {"a list of files", "vectors: a length field of 32 GiB", "items: a nested label"}
    cases = [case for case in WHOLES if case.name in names]
    assert len(cases) == len(names)
    for i, case in enumerate(cases):
        folder = tmp_path / str(i)
        shutil.copytree(base, folder)
        case.spoil(folder)
        run = imgsearch("search", folder, "row:0")
        assert run.code == 4
        assert run.out == ""
        assert len(run.err.splitlines()) == 1
        assert "cannot be trusted" in run.err


def test_repair_of_a_lost_manifest(index: Path) -> None:
    """Where the manifest is gone the generation before is the index again."""
    previous = (index / "previous.json").read_bytes()
    (index / "manifest.json").unlink()
    mended = repair(index)
    assert mended.repaired
    assert mended.lost is not None
    assert (index / "manifest.json").read_bytes() == previous
    assert SearchEngine.open(index).by_row(0).matches


def test_repair_leaves_a_newer_index_alone(index: Path) -> None:
    """An index of a newer release is not damaged: going back would lose what it holds."""
    document = spoilt.document_of(index)
    (index / "manifest.json").write_bytes(spoilt.sealed({**document, "format_version": 3}))
    before = snapshot(index)
    with pytest.raises(IndexVersionError, match="newer imgsearch-faiss"):
        repair(index)
    assert snapshot(index) == before


@pytest.mark.parametrize("lost", ["vectors", "items", "manifest"])
def test_repair_touches_nothing_where_nothing_is_whole(index: Path, lost: str) -> None:
    """With both generations spoilt, each in its own way, every file stays as it is."""
    previous = json.loads((index / "previous.json").read_text())["files"]
    (index / read_manifest(index).files["vectors"].name).write_bytes(b"short")
    (index / (previous[lost]["name"] if lost in previous else "previous.json")).unlink()
    before = snapshot(index)
    mended = repair(index)
    assert not mended.repaired
    assert mended.problems
    assert snapshot(index) == before


def test_state_made_to_do_harm(tmp_path: Path) -> None:
    """A .state file with a right sum and impossible content counts as none."""
    limits = Limits()
    write_states(tmp_path, {"a.jpg": Seen(FileState(1, 2, 3, 4, 5), "0" * 64, None)}, limits)
    assert len(read_states(tmp_path, limits)) == 1
    head = (tmp_path / STATE).read_bytes().split(b"\n")[1]
    wrong = (b"[[],2,3,4,5,6,7,8]", b"[1,2,3,4,5,6,null,null]", b'["a",2,"3",4,5,6,null,null]')
    for line in (b"[" * 100_000, b"[]", b"7", b"{}", b"9" * 5000, b"\xff", *wrong):
        body = head + b"\n" + line + b"\n"
        total = hashlib.sha256(body).hexdigest().encode()
        (tmp_path / STATE).write_bytes(total + b"\n" + body)
        assert read_states(tmp_path, limits) == {}


def test_journal_made_to_do_harm(tmp_path: Path) -> None:
    """A record with a right sum and impossible content ends the reading; the ones before count."""
    import struct

    vector = np.eye(8, dtype=np.float32)[0]

    def journal() -> Journal:
        return Journal(tmp_path, {"model": "m"}, Limits(), 8)

    with journal() as opened:
        opened.add("a.jpg", FileState(1, 2, 3, 4, 5), Outcome("a" * 64, 1, 1, 1, 1, None, vector))
    (file,) = (tmp_path / WORK).iterdir()
    raw = file.read_bytes()
    length = int.from_bytes(raw[:4], "big")
    header = raw[24 : 24 + length]
    another = header.replace(b"a" * 64, b"b" * 64)
    wrong = [header.replace(b'"width": 1', b'"width": "1"'), header.replace(b"1, ", b"[1], ", 1)]
    assert header not in {another, *wrong}
    junk = (b"", b"7", b"{}", b"[" * 100_000, b"\xff", b'{"reason": null}', b"9" * 5000)
    for entry in (*junk, *wrong, another):
        body = entry + bytes(32)
        digest = hashlib.sha256(body).digest()[:16]
        file.write_bytes(raw + struct.pack(">II16s", len(entry), 32, digest) + body)
        with journal() as opened:
            assert list(opened.seen) == ["a.jpg"]
            assert opened.find("b" * 64) is None  # its vector is zero
            found = opened.find("a" * 64)
            assert found is not None
            assert found.vector is not None
            assert found.vector.tolist() == vector.tolist()
