"""Spoil an index in more than a thousand ways, and see that each is refused.

    .venv/bin/python scripts/bench/spoilt.py [--only GROUP ...] [--limit N] [--verbose]

Works on Linux, in a temporary folder. Each spoilt index is opened and searched by row, verified and
described by the real command line, in a process forked for it alone, so that a crash costs one
case: exit code, what was printed, seconds and memory are measured. Wanted: exit code 4 (3 where
there is no manifest any more), one sentence on standard error, at most 5 s of the processor, and no
more memory than the size of the files and 300 MiB. `info` reads the manifest alone, so it may tell
what that says where only data files are spoilt. A fork need not start Python: the figures are
without that.

Groups: bytes (flips, cuts, missing and swapped files, newer versions), manifests and wholes (made
to do harm, each with right sums), parquet (flipped under right sums: never a crash, whatever
Arrow makes of it), memory (.state and .work), repair, and command (a sample, by the installed
program). Prints a table; ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
import typer.main

import imgsearch.cli
import imgsearch.pages
import imgsearch.search
from imgsearch import __version__
from imgsearch.index import IndexWriter, read_manifest
from imgsearch.items import items_bytes, skips_bytes
from imgsearch.manifest import FileEntry, Manifest, data_name
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
from imgsearch.records import Limits, Skip, StoredItem
from imgsearch.vectors import HEADER_SIZE, header

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    Spoil = Callable[[Path], None]

PROGRAM = str(Path(sys.executable).with_name("imgsearch"))
DONE, NOT_FOUND, REFUSED = 0, 3, 4
ASKED = ("search", "verify", "info")
MOST_SECONDS, MOST_BYTES = 5.0, 300 << 20
# A case that takes longer is ended, by a signal that counts as a crash.
LONGEST = 60
LONGEST_SENTENCE = 400
ROWS, DIM = 12, 8
GIB = 1 << 30


# An index, and ways to make one that has right sums whatever it holds.


def write_base(folder: Path, seed: int) -> None:
    """Write a generation of a small index: labels of several scripts, a hole, groups, a skip."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((ROWS, DIM))
    units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    labels = ["Küche", "浴室", None, "Küche", "living room", "浴室"] * (ROWS // 6)
    items = [
        StoredItem(
            path=f"{label or 'none'}/{seed}-{i}.jpg",
            label=label,
            sha256=hashlib.sha256(f"{seed} {i}".encode()).hexdigest(),
            width=640,
            height=480,
            size=1000 + i,
            mtime_ns=10**18 + i,
            group=f"flat {i % 3}",
        )
        for i, label in enumerate(labels)
    ]
    counts = collections.Counter(label for label in labels if label is not None)

    def make(files: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            created_at=f"2026-01-0{1 + seed}T00:00:00+00:00",
            program=f"imgsearch-faiss {__version__}",
            faiss=faiss.__version__,
            engine="none",
            model="external",
            weights="none",
            weights_sha256="0" * 64,
            weights_source=None,
            preprocessing=None,
            precision="fp32",
            dim=DIM,
            count=ROWS,
            classes=dict(sorted(counts.items())),
            image_root="/photos",
            labels_file=None,
            skipped=1,
            files=files,
        )

    with IndexWriter(folder) as writer:
        writer.start(DIM)
        writer.append(units)
        writer.commit(items_bytes(items), skips_bytes([Skip("bad.jpg", "no picture")]), make)


def sealed(document: Any) -> bytes:  # noqa: ANN401 - any JSON
    """Write a manifest with the right sum of its bytes; as it is where it is bytes already."""
    if isinstance(document, bytes):
        body = document
    else:
        body = json.dumps(document, indent=1, ensure_ascii=False).encode().removesuffix(b"\n}")
        body += b",\n"
    return body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def document_of(folder: Path) -> dict[str, Any]:
    """Return the manifest of an index as JSON, without its sum."""
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    del document["sha256"]
    return document


def whole(folder: Path, *, document: dict[str, Any] | None = None, **files: bytes) -> None:
    """Give an index other files and a manifest that names them with right sizes and sums."""
    document = document or document_of(folder)
    for kind, data in files.items():
        total = hashlib.sha256(data).hexdigest()
        name = data_name(kind, total)
        (folder / name).write_bytes(data)
        document["files"][kind] = {"name": name, "size": len(data), "sha256": total}
    (folder / "manifest.json").write_bytes(sealed(document))


def data_of(folder: Path, kind: str) -> bytes:
    """Return the bytes of a data file."""
    return (folder / read_manifest(folder).files[kind].name).read_bytes()


def encoded(table: Any, **options: Any) -> bytes:  # noqa: ANN401 - pyarrow has no types
    """Write a table as Parquet, as an index has it unless told otherwise."""
    sink = io.BytesIO()
    defaults = {"compression": "zstd", "store_schema": False, "write_page_checksum": True}
    pq.write_table(table, sink, **{**defaults, **options})
    return sink.getvalue()


def table_of(count: int = ROWS, **columns: Any) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Return a sidecar of rows without labels, with other columns where given; None leaves out."""
    texts = pa.nulls(count, pa.string())
    defaults = {
        "path": pa.array([f"{i}.jpg" for i in range(count)], pa.string()),
        "label": texts,
        "sha256": texts,
        "width": pa.nulls(count, pa.int32()),
        "height": pa.nulls(count, pa.int32()),
        "bytes": pa.nulls(count, pa.int64()),
        "mtime_ns": pa.nulls(count, pa.int64()),
    }
    return pa.table({n: c for n, c in {**defaults, **columns}.items() if c is not None})


def unit_rows(count: int, dim: int = DIM) -> npt.NDArray[np.float32]:
    """Return rows of one 1 each."""
    rows = np.zeros((count, dim), np.float32)
    rows[np.arange(count), np.arange(count) % dim] = 1
    return rows


def vectors_of(rows: npt.NDArray[np.float32]) -> bytes:
    """Return a vector file."""
    return header(*rows.shape) + rows.astype("<f4").tobytes()


def sidecar(folder: Path, data: bytes, count: int = ROWS) -> None:
    """Give an index another sidecar, of `count` rows, and vectors that fit it."""
    document = {**document_of(folder), "count": count, "classes": {}}
    whole(folder, document=document, vectors=vectors_of(unit_rows(count)), items=data)


# Cases.


@dataclass(frozen=True, slots=True)
class Case:
    """A way to spoil an index, and the exit codes that are right for each question."""

    group: str
    name: str
    spoil: Spoil
    search: frozenset[int] = frozenset({REFUSED})
    verify: frozenset[int] = frozenset({REFUSED})
    info: frozenset[int] = frozenset({REFUSED})

    def wanted(self, asked: str) -> frozenset[int]:
        """Return the right exit codes of a command."""
        return {"search": self.search, "verify": self.verify, "info": self.info}[asked]


# `info` believes the manifest, which is whole, and does not look at the data files.
MANIFEST_ONLY = frozenset({DONE})
# Where it was made anew for the files, it may be one that cannot be.
EITHER = frozenset({DONE, REFUSED})
GONE = frozenset({NOT_FOUND})


def data_case(group: str, name: str, spoil: Spoil) -> Case:
    """Return a case whose manifest alone is as it should be."""
    return Case(group, name, spoil, info=MANIFEST_ONLY)


def rewriter(name: str, change: Callable[[bytes], bytes]) -> Spoil:
    """Return what changes the bytes of one file."""

    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return spoil


def flip(at: int, bit: int) -> Callable[[bytes], bytes]:
    """Return what flips a bit."""

    def change(raw: bytes) -> bytes:
        spoilt = bytearray(raw)
        spoilt[at] ^= 1 << bit
        return bytes(spoilt)

    return change


def cut(length: int) -> Callable[[bytes], bytes]:
    """Return what keeps the first bytes alone."""
    return lambda raw: raw[:length]


def byte_cases(base: Path, rng: random.Random) -> Iterator[Case]:
    """Yield flips, cuts, and what may become of files as a whole."""
    manifest = "manifest.json"
    names = {kind: entry.name for kind, entry in read_manifest(base).files.items()}
    sizes = {name: (base / name).stat().st_size for name in (manifest, *names.values())}
    for at in range(sizes[manifest]):
        yield Case("bytes", f"manifest, byte {at}", rewriter(manifest, flip(at, at % 8)))
    for at in range(HEADER_SIZE):
        for bit in rng.sample(range(8), 3):
            spoil = rewriter(names["vectors"], flip(at, bit))
            yield data_case("bytes", f"vector header, byte {at} bit {bit}", spoil)
    for kind, name in {"manifest": manifest, **names}.items():
        make = Case if name == manifest else data_case
        short = range(1, 64)
        at_random = (rng.randrange(64, sizes[name]) for _ in range(20))
        for length in (0, *short, *at_random, sizes[name] - 1):
            yield make("bytes", f"{kind} cut at {length}", rewriter(name, cut(length)))
        for _ in range(40):
            at, bit = rng.randrange(sizes[name]), rng.randrange(8)
            yield make("bytes", f"{kind}, byte {at} bit {bit}", rewriter(name, flip(at, bit)))
        for more in (b"\0", b"\n", b"x" * 4096):
            spoil = rewriter(name, lambda raw, more=more: raw + more)
            yield make("bytes", f"{kind} with {len(more)} bytes more", spoil)
        spoil = rewriter(name, lambda raw: bytes(len(raw)))
        yield make("bytes", f"{kind} of zeros", spoil)
        yield from _place_cases(kind, name)
    yield from _swap_cases(base, names)
    for version in (3, 4, 1000):
        spoil = _changer(format_version=version)
        yield Case("bytes", f"format version {version}", spoil)


def _place_cases(kind: str, name: str) -> Iterator[Case]:
    """Yield what else may stand in the place of a file."""

    def replaced(make: Callable[[Path], object]) -> Spoil:
        def spoil(folder: Path) -> None:
            (folder / name).unlink()
            make(folder / name)

        return spoil

    def bind(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as bound, contextlib.chdir(path.parent):
            bound.bind(path.name)

    is_manifest = kind == "manifest"
    missing = GONE if is_manifest else frozenset({REFUSED})
    others = {
        "missing": (lambda _: None, missing),
        "a folder": (Path.mkdir, frozenset({REFUSED})),
        "a pipe": (os.mkfifo, frozenset({REFUSED})),
        "a socket": (bind, frozenset({REFUSED})),
        "a link to nothing": (lambda path: path.symlink_to("nothing"), missing),
        "a link to itself": (lambda path: path.symlink_to(path), frozenset({REFUSED})),
        "a link to a device": (lambda path: path.symlink_to("/dev/zero"), frozenset({REFUSED})),
    }
    for what, (make, code) in others.items():
        info = code if is_manifest else MANIFEST_ONLY
        yield Case("bytes", f"{kind}: {what}", replaced(make), code, code, info)


def _swap_cases(base: Path, names: dict[str, str]) -> Iterator[Case]:
    """Yield files of one generation in the place of those of another."""
    previous = json.loads((base / "previous.json").read_text())["files"]
    for kind, name in names.items():
        other = previous[kind]["name"]
        if other == name:
            continue

        def content(folder: Path, name: str = name, other: str = other) -> None:
            (folder / name).write_bytes((folder / other).read_bytes())

        yield data_case("bytes", f"{kind} of the generation before", content)
    for kind, name in names.items():
        for other_kind, other in names.items():
            if kind != other_kind:
                spoil = rewriter(name, lambda _, other=other: (base / other).read_bytes())
                yield data_case("bytes", f"{other_kind} in the place of {kind}", spoil)

    def both(folder: Path) -> None:
        kept = (folder / names["vectors"]).read_bytes()
        (folder / names["vectors"]).write_bytes((folder / names["items"]).read_bytes())
        (folder / names["items"]).write_bytes(kept)

    yield data_case("bytes", "vectors and items exchanged", both)

    old, new = names["items"].encode(), previous["items"]["name"].encode()
    mixed = rewriter("manifest.json", lambda raw: raw.replace(old, new))
    yield Case("bytes", "a manifest that names a file of the generation before", mixed)


def _changer(**changes: Any) -> Spoil:  # noqa: ANN401 - any JSON
    """Return what changes fields of the manifest and gives it a right sum; ... leaves one out."""

    def spoil(folder: Path) -> None:
        document = {**document_of(folder), **changes}
        document = {name: value for name, value in document.items() if value is not ...}
        (folder / "manifest.json").write_bytes(sealed(document))

    return spoil


def _entry_changer(kind: str, **changes: Any) -> Spoil:  # noqa: ANN401 - any JSON
    def spoil(folder: Path) -> None:
        document = document_of(folder)
        document["files"][kind].update(changes)
        (folder / "manifest.json").write_bytes(sealed(document))

    return spoil


def _text_changer(old: str, new: str) -> Spoil:
    """Return what changes the text of a manifest and gives it a right sum."""

    def spoil(folder: Path) -> None:
        body = (folder / "manifest.json").read_bytes().rpartition(b' "sha256"')[0]
        if old.encode() not in body:
            raise AssertionError(f"{old} is not in the manifest")
        (folder / "manifest.json").write_bytes(sealed(body.replace(old.encode(), new.encode())))

    return spoil


def _bytes_writer(body: bytes) -> Spoil:
    return lambda folder: void((folder / "manifest.json").write_bytes(sealed(body)))


def void(_: object) -> None:
    """Drop a value."""


PREPARED = {"resize": 8, "crop": 8, "interpolation": "bicubic", "mean": [0] * 3, "std": [1] * 3}


def manifest_cases() -> Iterator[Case]:
    """Yield manifests made by hand to do harm, each with the right sum of its own bytes."""
    zero = "0" * 64
    count = f'"count": {ROWS}'
    cases: dict[str, Spoil] = {
        "a name that leaves the folder": _entry_changer("vectors", name="../v.faiss"),
        "an absolute name": _entry_changer("vectors", name="/etc/passwd"),
        "a name with a NUL": _entry_changer("items", name="items-\0.parquet"),
        "a name of another kind": _entry_changer("items", name="vectors-0000000000000000.faiss"),
        "a name that is not its sum": _entry_changer("items", name=f"items-{'0' * 16}.parquet"),
        "a list for a name": _entry_changer("items", name=["items"]),
        "a sum that is none": _entry_changer("items", sha256="0" * 63 + "g"),
        "a negative size": _entry_changer("items", size=-1),
        "a size of 4,000 digits": _entry_changer("items", size=10**3999),
        "a size that is a truth": _entry_changer("items", size=True),
        "a data file more": _entry_changer("items", more=1),
        "no files": _changer(files={}),
        "a file kind more": _changer(files={"other": {}}),
        "a list of files": _changer(files=[]),
        "count NaN": _text_changer(count, '"count": NaN'),
        "count Infinity": _text_changer(count, '"count": -Infinity'),
        "count of 5,000 digits": _text_changer(count, f'"count": {"7" * 5000}'),
        "count of 4,000 digits": _text_changer(count, f'"count": {"7" * 4000}'),
        "count 0": _changer(count=0),
        "count negative": _changer(count=-ROWS),
        "count a fraction": _changer(count=float(ROWS)),
        "count a truth": _changer(count=True),
        "count a trillion": _changer(count=10**12),
        "count * dim wraps round to itself": _changer(count=ROWS + (1 << 61)),
        "dim 0": _changer(dim=0),
        "dim a text": _changer(dim=str(DIM)),
        "dim 2 to the 31": _changer(dim=1 << 31),
        "100,000 brackets": _text_changer(count, f'"count": {"[" * 100_000}'),
        "100,000 braces": _text_changer(count, '"count": ' + '{"a":' * 100_000),
        "900 brackets, closed": _text_changer(count, f'"count": {"[" * 900}{"]" * 900}'),
        "a million empty lists": _text_changer(count, f'"x": [{"[]," * 1_000_000}[]], {count}'),
        "five million empty lists": _text_changer(count, f'"x": [{"[]," * 5_000_000}[]], {count}'),
        "a million objects": _text_changer(count, f'"x": [{"{}," * 1_000_000}{{}}], {count}'),
        "four million numbers": _text_changer(count, f'"x": [{"1e1," * 4_000_000}1], {count}'),
        "two million classes": _changer(classes={f"{i:07d}": 1 for i in range(2_000_000)}),
        "a text of 60 MB": _changer(model="x" * 60_000_000),
        "a text of 12 MB with one wide character": _changer(model="x" * 12_000_000 + "🏠"),
        "70 MB of spaces": _text_changer(count, " " * 70_000_000 + count),
        "a double key": _text_changer(count, f"{count},\n {count}"),
        "a double key within": _text_changer('"size"', '"size": 1, "size"'),
        "the sum twice": _text_changer(count, f'"sha256": "{zero}",\n {count}'),
        "no count": _changer(count=...),
        "no files at all": _changer(files=...),
        "no version": _changer(format_version=...),
        "version 0": _changer(format_version=0),
        "version a text": _changer(format_version="1"),
        "version of 4,000 digits": _changer(format_version=10**3999),
        "metric l2": _changer(metric="l2"),
        "classes a list": _changer(classes=[1]),
        "classes negative": _changer(classes={"a": -1}),
        "classes fractions": _changer(classes={"a": 0.5}),
        "classes more than rows": _changer(classes={"a": ROWS + 1}),
        "classes that do not fit": _changer(classes={"a": ROWS}),
        "classes unsorted": _changer(classes={"b": 1, "a": 1}),
        "half a character in a class": _text_changer('"Küche": 4', '"K\\udfffche": 4'),
        "half a character in a text": _text_changer('"external"', '"ex\\ud800ternal"'),
        "a NUL in a text": _changer(image_root="/photos\0/etc"),
        "a text of 5,000 characters": _changer(image_root="/" + "x" * 5000),
        "an empty text": _changer(model=""),
        "a terminal's escape in the program": _changer(program="\x1b[2J\x1b]0;owned\x07"),
        "a newline in the time": _changer(created_at="2026-01-01\nimgsearch: all is well"),
        "a time that is none": _changer(created_at="yesterday"),
        "weights' sum none": _changer(weights_sha256="x"),
        "skipped, but no list": _changer(skipped=0),
        "skipped of 4,000 digits": _changer(skipped=10**3999),
        "preprocessing empty": _changer(preprocessing={}),
        "preprocessing a list": _changer(preprocessing=[]),
        "interpolation a list": _changer(preprocessing={**PREPARED, "interpolation": ["bicubic"]}),
        "interpolation an object": _changer(preprocessing={**PREPARED, "interpolation": {}}),
        "a mean of 4,000 digits": _changer(preprocessing={**PREPARED, "mean": [10**3999, 0, 0]}),
        "a mean of four": _changer(preprocessing={**PREPARED, "mean": [0, 0, 0, 0]}),
        "a mean of 1e999": _text_changer(
            '"preprocessing": null',
            '"preprocessing": {"resize": 8, "crop": 8, "interpolation": "bicubic", '
            '"mean": [1e999, 0, 0], "std": [1, 1, 1]}',
        ),
        "a std of 0": _changer(preprocessing={**PREPARED, "std": [1, 1, 0]}),
        "a side of 1 billion": _changer(preprocessing={**PREPARED, "resize": 10**9}),
        "a text": _bytes_writer(b'"text",\n'),
        "a list": _bytes_writer(b"[\n"),
        "nothing but a sum": _bytes_writer(b""),
        "an object with the sum alone": _bytes_writer(b"{\n"),
        "no UTF-8": _bytes_writer(b'{"format_version": 1, "model": "\xff",\n'),
        "a byte-order mark": _text_changer("{\n", "\ufeff{\n"),
        "UTF-16": _bytes_writer('{"format_version": 1,\n'.encode("utf-16")),
        "two documents": _text_changer("{\n", "{}\n{\n"),
        "a comment": _text_changer("{\n", "{\n// all is well\n"),
    }
    for name, spoil in cases.items():
        # Only the sidecar tells that these are not its classes.
        info = EITHER if name == "classes that do not fit" else frozenset({REFUSED})
        yield Case("manifests", name, spoil, info=info)


def vector_cases() -> Iterator[Case]:
    """Yield vector files that are wrong, with right sums everywhere."""
    # A thread that FAISS starts here would be missing in every fork.
    faiss.omp_set_num_threads(1)

    def given(data: bytes, **changes: Any) -> Spoil:  # noqa: ANN401 - any JSON
        return lambda folder: whole(
            folder, document={**document_of(folder), **changes}, vectors=data
        )

    def faiss_file(index: Any) -> bytes:  # noqa: ANN401 - faiss has no types
        return faiss.serialize_index(index).tobytes()

    rows = unit_rows(ROWS)

    def with_value(value: float, row: int = 0) -> bytes:
        changed = rows.copy()
        changed[row, row % DIM] = value
        return vectors_of(changed)

    def with_header(fmt: str, at: int, value: Any) -> bytes:  # noqa: ANN401 - a number or letters
        raw = bytearray(vectors_of(rows))
        struct.pack_into(fmt, raw, at, value)
        return bytes(raw)

    flat, other = faiss.IndexFlatIP(DIM), faiss.IndexFlatL2(DIM)
    flat.add(rows)
    other.add(rows)
    assert faiss_file(flat) == vectors_of(rows)
    mapped = faiss.IndexIDMap(faiss.IndexFlatIP(DIM))
    mapped.add_with_ids(rows, np.arange(ROWS))
    graph = faiss.IndexHNSWFlat(DIM, 4, faiss.METRIC_INNER_PRODUCT)
    graph.add(rows)
    codes = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_8bit)
    codes.train(rows)
    codes.add(rows)
    cases = {
        "a vector of length 2": given(with_value(2)),
        "a vector of length 1.001": given(with_value(1.001)),
        "a vector of zeros": given(with_value(0)),
        "NaN in the last row": given(with_value(float("nan"), ROWS - 1)),
        "infinity": given(with_value(float("inf"))),
        "the largest number, whose square overflows": given(with_value(3.4e38)),
        "the header of an L2 index": given(with_header("<i", 33, 1)),
        "an L2 index": given(faiss_file(other)),
        "an L1 metric": given(with_header("<i", 33, 2)),
        "a metric of 99": given(with_header("<i", 33, 99)),
        "letters of another index": given(with_header("4s", 0, b"IxF2")),
        "letters of an inverted file": given(with_header("4s", 0, b"IwFl")),
        "letters of no index": given(with_header("4s", 0, b"\0\0\0\0")),
        "not trained": given(with_header("<B", 32, 0)),
        "a row more in the header": given(with_header("<q", 8, ROWS + 1)),
        "a negative number of rows": given(with_header("<q", 8, -1)),
        "a dimension more in the header": given(with_header("<i", 4, DIM + 1)),
        "dimension 0": given(with_header("<i", 4, 0)),
        "dimension negative": given(with_header("<i", 4, -DIM)),
        "a length field of 32 GiB": given(with_header("<Q", 37, 8 * GIB)),
        "a length field of 2**64 - 1": given(with_header("<Q", 37, (1 << 64) - 1)),
        "a length field of 0": given(with_header("<Q", 37, 0)),
        "an index with ids": given(faiss_file(mapped)),
        "a graph": given(faiss_file(graph)),
        "8-bit codes": given(faiss_file(codes)),
        "an empty index": given(faiss_file(faiss.IndexFlatIP(DIM))),
        "a binary index": given(faiss.serialize_index_binary(faiss.IndexBinaryFlat(64)).tobytes()),
        "trailing bytes": given(vectors_of(rows) + bytes(4)),
        "another dimension in the manifest": given(vectors_of(rows), dim=DIM * 2),
        "half the rows": given(vectors_of(rows[: ROWS // 2])),
        "another shape of the same size": given(vectors_of(rows.reshape(-1, DIM * 2))),
        "rows and header of float64": given(
            header(ROWS, DIM) + rows.astype("<f8").tobytes(),
        ),
        "nothing": given(b""),
        "a pickle": given(b"cos\nsystem\n(S'exit 1'\ntR."),
    }
    for name, spoil in cases.items():
        yield Case("wholes", f"vectors: {name}", spoil, info=EITHER)


def _lying(data: bytes, true: int, said: int) -> bytes:
    """Change a number where Parquet's headers or footer state it, without moving a byte."""

    def varint(value: int, width: int) -> bytes:
        zigzag = value << 1
        parts = [(zigzag >> (7 * i)) & 127 for i in range(width)]
        return bytes([part | 128 for part in parts[:-1]] + parts[-1:])

    width = -(-(true << 1).bit_length() // 7)
    changed = data.replace(varint(true, width), varint(said, width))
    if changed == data:
        raise AssertionError(f"{true} is not in the file")
    return changed


def foot_of(data: bytes) -> int:
    """Return where the footer of a Parquet file begins."""
    return len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def _parted(name: str, part: Any, times: int, **options: Any) -> bytes:  # noqa: ANN401 - pyarrow
    """Write the same column part again and again, a row group each."""
    sink = io.BytesIO()
    table = table_of(len(part), **{name: part})
    settings = {"compression": "zstd", "store_schema": False, "write_page_checksum": True}
    with pq.ParquetWriter(sink, table.schema, **{**settings, **options}) as writer:
        for _ in range(times):
            writer.write_table(table)
    return sink.getvalue()


def parquet_cases() -> Iterator[Case]:  # noqa: C901, PLR0915 - a list, with what its entries need
    """Yield sidecars that are wrong, with right sums everywhere."""
    texts, ints = pa.string(), pa.int64()

    def given(count: int = ROWS, options: dict[str, Any] | None = None, **columns: Any) -> Spoil:  # noqa: ANN401
        return lambda folder: sidecar(
            folder, encoded(table_of(count, **columns), **(options or {})), count
        )

    def paths(first: str | None) -> Any:  # noqa: ANN401 - pyarrow has no types
        return pa.array([first, *(f"{i}.jpg" for i in range(1, ROWS))], texts)

    def raw_texts(first: bytes) -> Any:  # noqa: ANN401 - pyarrow has no types
        return pa.array([first, *(b"%d" % i for i in range(1, ROWS))], pa.binary()).view(texts)

    big = 128 << 20  # bytes

    def bomb_bytes(folder: Path) -> bytes:
        kept = folder.parent / "bomb.parquet"
        if not kept.exists():
            part = pa.array(["x" * big])
            kept.write_bytes(_parted("label", part, 15, use_dictionary=False))
        assert kept.stat().st_size < 1 << 20
        return kept.read_bytes()

    def bomb(folder: Path) -> None:
        sidecar(folder, bomb_bytes(folder), 15)

    def lying_bomb(folder: Path) -> None:
        """Its footer says that it is small: only the headers of its pages tell."""
        data = bomb_bytes(folder)
        foot = foot_of(data)
        group = pq.read_metadata(io.BytesIO(data)).row_group(0)
        footer = _lying(data[foot:], group.column(1).total_uncompressed_size, 1000)
        footer = _lying(footer, group.total_byte_size, 1000)
        sidecar(folder, data[:foot] + footer, 15)

    def lying_page(said: int) -> Spoil:
        def spoil(folder: Path) -> None:
            labels = pa.array(["x" * 300_000] * ROWS)
            data = encoded(table_of(label=labels), use_dictionary=False)
            at = pq.read_metadata(io.BytesIO(data)).row_group(0).column(1).data_page_offset
            # Before the texts, each with 4 bytes for its length, 6 bytes say which are there.
            head = _lying(data[at : at + 40], 6 + ROWS * (4 + 300_000), said)
            sidecar(folder, data[:at] + head + data[at + 40 :])

        return spoil

    def repeated(folder: Path) -> None:
        """A text of half a MiB, once in a dictionary, in each of 100,000 rows."""
        count = 100_000
        zeros = pa.array(np.zeros(count, np.int32))
        column = pa.DictionaryArray.from_arrays(zeros, pa.array(["x" * (1 << 19)]))
        sidecar(folder, encoded(table_of(count, group=column)), count)

    def prefixes(folder: Path) -> None:
        """Texts of 100,000 bytes that each begin as the one before, in a few bytes: 2 GB."""
        part = pa.array(["x" * 100_000] * 500)
        data = _parted(
            "label",
            part,
            40,
            use_dictionary=False,
            column_encoding={"label": "DELTA_BYTE_ARRAY"},
        )
        sidecar(folder, data, 20_000)

    def many_groups(folder: Path) -> None:
        sink = io.BytesIO()
        empty = table_of(0)
        with pq.ParquetWriter(sink, empty.schema, store_schema=False) as writer:
            writer.write_table(table_of())
            for _ in range(20_000):
                writer.write_table(empty, row_group_size=1)
        sidecar(folder, sink.getvalue())

    def many_columns(number: int) -> Spoil:
        def spoil(folder: Path) -> None:
            more = {f"c{i}": pa.nulls(ROWS, ints) for i in range(number)}
            sidecar(folder, encoded(table_of(**more)))

        return spoil

    def rows_that_lie(said: int) -> Spoil:
        def spoil(folder: Path) -> None:
            data = encoded(table_of(1_000_003))
            foot = foot_of(data)
            whole(
                folder,
                document={**document_of(folder), "count": said, "dim": 1, "classes": {}},
                vectors=vectors_of(unit_rows(said, 1)),
                items=data[:foot] + _lying(data[foot:], 1_000_003, said),
            )

        return spoil

    def footer_of(length: int) -> Spoil:
        def spoil(folder: Path) -> None:
            data = encoded(table_of())
            sidecar(folder, data[:-8] + length.to_bytes(4, "little") + data[-4:])

        return spoil

    def skips(count: int, table: Any, **options: Any) -> Spoil:  # noqa: ANN401 - pyarrow
        return lambda folder: whole(
            folder,
            document={**document_of(folder), "skipped": count},
            skipped=encoded(table() if callable(table) else table, **options),
        )

    def nested() -> Any:  # noqa: ANN401 - pyarrow has no types
        return pa.array([[["a"]]] * ROWS)

    one = pa.array(["bad.jpg"])
    cases: dict[str, Spoil] = {
        "a bomb of 1.9 GiB": bomb,
        "a bomb of 1.9 GiB that says it is small": lying_bomb,
        "a page that says it has more than an index": lying_page((1 << 27) - 1),
        "a page that says it has more than it has": lying_page(5_000_000),
        "a page that says it has less than it has": lying_page(2_500_000),
        "49 GiB of one text in a dictionary": repeated,
        "2 GB of prefixes": prefixes,
        "20,000 row groups": many_groups,
        "20,000 columns": many_columns(20_000),
        "5,000 columns": many_columns(5000),
        "rows that lie": rows_that_lie(1_000_001),
        "a footer longer than the file": footer_of(1 << 30),
        "a footer of 0 bytes": footer_of(0),
        "a footer of 2**32 - 1 bytes": footer_of((1 << 32) - 1),
        "no column 'path'": given(path=None),
        "a column more": given(more=pa.nulls(ROWS, texts)),
        "texts for numbers": given(width=pa.array(["1"] * ROWS)),
        "wider numbers": given(width=pa.nulls(ROWS, ints)),
        "bytes for texts": given(label=pa.nulls(ROWS, pa.binary())),
        "a nested label": lambda folder: sidecar(folder, encoded(table_of(label=nested()))),
        "a group of structs": given(group=pa.array([{"a": 1}] * ROWS)),
        "a map": given(group=pa.array([[("a", 1)]] * ROWS, pa.map_(texts, ints))),
        "a row less": lambda folder: sidecar(folder, encoded(table_of(ROWS - 1))),
        "a row more": lambda folder: sidecar(folder, encoded(table_of(ROWS + 1))),
        "no rows": lambda folder: sidecar(folder, encoded(table_of(0))),
        "a path that leaves the images": given(path=paths("../../etc/passwd")),
        "a path with .. in it": given(path=paths("a/../../b.jpg")),
        "an absolute path": given(path=paths("/etc/passwd")),
        "an empty path": given(path=paths("")),
        "a path with a NUL": given(path=paths("a\0.jpg")),
        "a path twice": given(path=paths("1.jpg")),
        "no path": given(path=paths(None)),
        "no UTF-8 in a path": given(path=raw_texts(b"\xff.jpg")),
        "no UTF-8 in a label": given(label=raw_texts(b"\xed\xa0\x80")),
        "no UTF-8 in a dictionary": given(group=raw_texts(b"\xc0\x80").dictionary_encode()),
        "a label that the manifest does not have": given(label=paths("a")),
        "a sum that is none": given(sha256=paths("0" * 64)),
        "a negative width": given(width=pa.array([-1] * ROWS, pa.int32())),
        "another codec": given(options={"compression": "gzip"}),
        "pages of version 2": given(options={"data_page_version": "2.0"}),
        "numbers in delta encoding": given(
            bytes=pa.array(range(ROWS), ints),
            options={"use_dictionary": False, "column_encoding": {"bytes": "DELTA_BINARY_PACKED"}},
        ),
        "no Parquet": lambda folder: sidecar(folder, b"path,label\n"),
        "nothing": lambda folder: sidecar(folder, b""),
        "an Arrow file": lambda folder: sidecar(folder, arrow_file(table_of())),
        "encrypted, it says": lambda folder: sidecar(folder, encoded(table_of())[:-4] + b"PARE"),
        "skips: other columns": skips(1, pa.table({"path": one})),
        "skips: no reason": skips(1, pa.table({"path": one, "reason": pa.nulls(1, texts)})),
        "skips: another count": skips(7, pa.table({"path": one, "reason": one})),
        "skips: 30 million holes": skips(
            30_000_000,
            lambda: pa.table({n: pa.nulls(30_000_000, texts) for n in ("path", "reason")}),
        ),
    }
    for name, spoil in cases.items():
        yield data_case("wholes", name if ":" in name else f"items: {name}", spoil)


def arrow_file(table: Any) -> bytes:  # noqa: ANN401 - pyarrow has no types
    """Write a table in Arrow's own file format."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def resealed_cases(base: Path, rng: random.Random, number: int) -> Iterator[Case]:
    """Yield sidecars with flipped bits under right sums: Arrow gets to see each.

    What is still a sidecar by all that can be checked is answered; nothing may crash.
    """
    table = pq.read_table(base / read_manifest(base).files["items"].name, use_threads=False)
    forms = {
        "plain": encoded(
            table, compression="none", use_dictionary=False, write_page_checksum=False
        ),
        "dictionary": encoded(table, compression="none", write_page_checksum=False),
        "packed": encoded(table, write_page_checksum=False),
    }
    for i in range(number):
        form, raw = list(forms.items())[i % len(forms)]
        foot = foot_of(raw)
        # Half of them in the footer, which is the smaller part.
        places = range(foot, len(raw)) if i % 2 else range(foot)
        spoilt = bytearray(raw)
        for _ in range(rng.choice((1, 1, 2, 4))):
            spoilt[rng.choice(places)] ^= 1 << rng.randrange(8)
        data = bytes(spoilt)
        yield Case(
            "parquet",
            f"{form}, flip {i}",
            lambda folder, data=data: whole(folder, items=data),
            EITHER,
            EITHER,
            MANIFEST_ONLY,
        )


# Asking, in a process that may die.


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: exit code (minus the signal that ended it), outputs, costs.

    `seconds` are those of the clock, `busy` those of the processor: on a machine with other work
    the clock tells of that work.
    """

    code: int
    out: str
    err: str
    seconds: float
    busy: float
    bytes: int


def forked(work: Callable[[], None], scratch: Path, longest: int = LONGEST) -> Ended:
    """Do something in a fork of this process; `bytes` is how much its memory grew at most."""
    outputs, at_first = [scratch / "out", scratch / "err"], scratch / "memory at first"
    sys.stdout.flush()
    started = time.perf_counter()
    child = os.fork()
    if not child:
        code = 99
        try:
            for number, file in enumerate(outputs, start=1):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            signal.alarm(longest)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            # Of its own: a fork does not begin with all pages that its parent has.
            at_first.write_text(str(_resident()), encoding="ascii")
            work()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 98
        except BaseException:  # noqa: BLE001 - told by its traceback, as it would be to a user
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - started
    grown = max(0, usage.ru_maxrss * 1024 - int(at_first.read_text(encoding="ascii")))
    texts = [file.read_text(errors="replace") for file in outputs]
    busy = usage.ru_utime + usage.ru_stime
    return Ended(os.waitstatus_to_exitcode(status), *texts, seconds, busy, grown)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def warm(folder: Path) -> None:
    """Load here what every command loads, so that no fork has to; it starts no thread."""
    # The same commands serve every fork; to make them takes longer than to ask.
    typer.main.get_command = functools.cache(typer.main.get_command)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        imgsearch.cli.main(words_for("info", folder))


def words_for(asked: str, folder: Path) -> list[str]:
    """Return the arguments of a command that asks an index."""
    more = {"search": ["row:0", "-k", "3", "--json"], "verify": [], "info": ["--json"]}
    return [asked, str(folder), *more[asked]]


def faults(case: Case, asked: str, ended: Ended, size: int) -> list[str]:
    """Return what is wrong with how an index was refused."""
    found = []
    if ended.code not in case.wanted(asked):
        said = (ended.err or ended.out).strip()[-200:]
        found.append(f"exit {ended.code}, not {sorted(case.wanted(asked))}: {said}")
    lines = ended.err.splitlines()
    if "Traceback" in ended.err:
        found.append("a traceback")
    one = len(lines) == 1 and lines[0].isprintable() and len(lines[0]) < LONGEST_SENTENCE
    if ended.code and not one:
        found.append(f"not one sentence: {ended.err[:200]!r}")
    if ended.busy > MOST_SECONDS:
        found.append(f"{ended.busy:.1f} s of the processor")
    if ended.bytes > size + MOST_BYTES:
        found.append(f"{ended.bytes >> 20:,} MiB for files of {size >> 20:,} MiB")
    return found


@dataclass(slots=True)
class Tally:
    """What a group of cases came to."""

    cases: int = 0
    asked: int = 0
    codes: collections.Counter[int] = field(default_factory=collections.Counter)
    seconds: float = 0.0
    busy: float = 0.0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def add(self, ended: Ended, found: Sequence[str], name: str) -> None:
        """Count an answer."""
        self.asked += 1
        self.codes[ended.code] += 1
        self.seconds = max(self.seconds, ended.seconds)
        self.busy = max(self.busy, ended.busy)
        self.bytes = max(self.bytes, ended.bytes)
        self.faults += [f"{name}: {fault}" for fault in found]


def ask_case(case: Case, base: Path, scratch: Path, tally: Tally) -> None:
    """Spoil a copy of an index and ask it in every way."""
    folder = scratch / "index"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, symlinks=True)
    made = forked(lambda: case.spoil(folder), scratch, 10 * LONGEST)
    if made.code:
        tally.faults.append(f"{case.name} could not be made: exit {made.code}, {made.err}")
        return
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    tally.cases += 1
    for asked in ASKED:
        words = words_for(asked, folder)
        ended = forked(lambda words=words: imgsearch.cli.main(words), scratch)
        tally.add(ended, faults(case, asked, ended, size), f"{case.name}, {asked}")


def ask_command(case: Case, base: Path, scratch: Path, tally: Tally) -> None:
    """Ask a spoilt index through the installed program."""
    folder = scratch / "index"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder, symlinks=True)
    made = forked(lambda: case.spoil(folder), scratch, 10 * LONGEST)
    if made.code:
        tally.faults.append(f"{case.name} could not be made: exit {made.code}, {made.err}")
        return
    tally.cases += 1
    for asked in ASKED:
        started = time.perf_counter()
        done = subprocess.run(  # noqa: S603 - the program under test
            [PROGRAM, *words_for(asked, folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=10 * LONGEST,
            stdin=subprocess.DEVNULL,
        )
        # Its start is not what is measured here; memory was, in a fork.
        seconds = time.perf_counter() - started
        ended = Ended(done.returncode, done.stdout, done.stderr, seconds, 0, 0)
        found = faults(case, asked, ended, 0)
        tally.add(ended, found, f"{case.name}, {asked} by the program")


# What is beside the generations: repair, and what only saves time.


def check_repair(base: Path, scratch: Path, rng: random.Random, tally: Tally) -> None:
    """Spoil generations and repair: back to the whole one before, or nothing is touched."""
    now = read_manifest(base).files
    previous = json.loads((base / "previous.json").read_text())["files"]
    present = ["manifest.json", *(entry.name for entry in now.values())]
    # What both generations have is not to be had back from the one before.
    shared = {entry["name"] for entry in previous.values()} & set(present)
    earlier = ["previous.json", *(entry["name"] for entry in previous.values())]
    ways = {"flipped": None, "cut": cut(40), "empty": cut(0), "missing": None}

    def spoil(folder: Path, name: str, way: str) -> None:
        file = folder / name
        if way == "missing":
            file.unlink()
            return
        raw = file.read_bytes()
        at = rng.randrange(len(raw))
        file.write_bytes((ways[way] or flip(at, rng.randrange(8)))(raw))

    plans = [(True, name, way, None) for name in present for way in ways if name not in shared]
    plans += [
        (False, name, way, other)
        for name in present
        for way in ways
        for other in earlier
        if other != name
    ]
    for can, name, way, other in plans:
        folder = scratch / "index"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        spoil(folder, name, way)
        if other is not None:
            spoil(folder, other, way)
        before = snapshot(folder)
        words = ["verify", str(folder), "--repair"]
        ended = forked(lambda words=words: imgsearch.cli.main(words), scratch)
        title = f"{name} {way}" + (f", {other}, too" if other else "")
        found = []
        if can:
            again = forked(lambda words=words: imgsearch.cli.main(words[:2]), scratch)
            if (ended.code, again.code) != (DONE, DONE) or "is lost" not in ended.err:
                found.append(f"not repaired: exit {ended.code}, {ended.err.strip()}")
            if (
                folder.joinpath("manifest.json").read_bytes()
                != base.joinpath("previous.json").read_bytes()
            ):
                found.append("the index is not the generation before")
        else:
            if ended.code not in {REFUSED, NOT_FOUND} or len(ended.err.splitlines()) != 1:
                found.append(f"exit {ended.code}: {ended.err.strip()}")
            if snapshot(folder) != before:
                found.append("something was touched, though nothing was whole")
        tally.cases += 1
        tally.add(ended, found, title)
    newer = scratch / "index"
    shutil.rmtree(newer, ignore_errors=True)
    shutil.copytree(base, newer)
    _changer(format_version=3)(newer)
    before = snapshot(newer)
    ended = forked(lambda: imgsearch.cli.main(["verify", str(newer), "--repair"]), scratch)
    kept = ended.code == REFUSED and snapshot(newer) == before
    tally.cases += 1
    tally.add(ended, [] if kept else ["a newer index was touched"], "repair of a newer version")


def snapshot(folder: Path) -> dict[str, str]:
    """Return the sum of each file but the lock."""
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.iterdir()
        if file.is_file() and file.name != ".lock"
    }


def check_memory(scratch: Path, rng: random.Random, tally: Tally) -> None:
    """Spoil .state and .work: what they remember may be lost, but never wrong and never a crash."""
    limits, identity = Limits(), {"model": "m"}
    state = FileState(1, 2, 3, 4, 9_000_000_000)
    states = {f"{i}.jpg": Seen(state, f"{i:064x}", None) for i in range(9)}
    states["bad.jpg"] = Seen(state, None, "no picture")
    rows = unit_rows(9)
    place = scratch / "memory"
    place.mkdir()
    write_states(place, states, limits)
    with Journal(place, identity, limits, DIM) as journal:
        for i, row in enumerate(rows):
            journal.add(f"{i}.jpg", state, Outcome(f"{i:064x}", 1, 1, 1, 1, None, row))
    (work,) = (place / WORK).iterdir()
    kept = {file: file.read_bytes() for file in (place / STATE, work)}

    def look() -> None:
        found = read_states(place, limits)
        assert all(states[path] == seen for path, seen in found.items())
        with Journal(place, identity, limits, DIM) as journal:
            for i, row in enumerate(rows):
                outcome = journal.find(f"{i:064x}")
                if outcome is not None:
                    assert outcome.vector is not None
                    assert outcome.vector.tobytes() == row.tobytes()

    def with_sum(body: bytes) -> bytes:
        return hashlib.sha256(body).hexdigest().encode() + b"\n" + body

    def record(entry: bytes, vector: bytes) -> bytes:
        digest = hashlib.sha256(entry + vector).digest()[:16]
        return struct.pack(">II16s", len(entry), len(vector), digest) + entry + vector

    head = kept[place / STATE].split(b"\n")[1]
    spoils: list[tuple[Path, bytes]] = []
    for file, raw in kept.items():
        spoils += [(file, raw[:length]) for length in (*range(40), len(raw) // 2, len(raw) - 1)]
        spoils += [(file, flip(rng.randrange(len(raw)), rng.randrange(8))(raw)) for _ in range(60)]
        spoils.append((file, raw + b"x"))
    bodies = [b"", b"\n", b"[" * 100_000, b"{}", b"[]\n[]", head + b"\n" + b"[" * 100_000]
    bodies += [head + b"\n" + line for line in (b"[]", b"7", b"[1,2,3,4,5,6,7,8]", b"9" * 5000)]
    spoils += [(place / STATE, with_sum(body)) for body in bodies]
    entries = [b"", b"7", b"[" * 100_000, b"{}", b'{"reason": null}', b"\xff", b"9" * 5000]
    spoils += [(work, record(entry, bytes(4 * DIM))) for entry in entries]
    spoils += [(work, struct.pack(">II16s", (1 << 32) - 1, 4 * DIM, bytes(16)))]
    for file, data in spoils:
        (place / WORK).mkdir(exist_ok=True)
        for name, raw in kept.items():
            name.write_bytes(raw)
        file.write_bytes(data)
        ended = forked(look, scratch)
        found = [] if not ended.code else [ended.err.strip()[-300:]]
        tally.cases += 1
        tally.add(ended, found, f"{file.name}, {data[:40]!r}")


def tell(tallies: dict[str, Tally]) -> int:
    """Print the table and every fault; return the exit code."""
    print("| spoilt | cases | asked | exit codes | most s | of the processor | most MiB | wrong |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, tally in tallies.items():
        codes = ", ".join(f"{code}: {n:,}" for code, n in sorted(tally.codes.items()))
        print(
            f"| {name} | {tally.cases:,} | {tally.asked:,} | {codes} | {tally.seconds:.2f} "
            f"| {tally.busy:.2f} | {tally.bytes / (1 << 20):.0f} | {len(tally.faults)} |"
        )
    faults_found = [fault for tally in tallies.values() for fault in tally.faults]
    for fault in faults_found:
        print(f"WRONG {fault}")
    return 1 if faults_found else 0


def main() -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    groups = ("bytes", "manifests", "wholes", "parquet", "memory", "repair", "command")
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    parser.add_argument("--limit", type=int, help="at most so many cases a group")
    parser.add_argument("--verbose", action="store_true", help="tell every case")
    given = parser.parse_args()
    tallies: dict[str, Tally] = {name: Tally() for name in given.only}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        base = scratch / "base"
        rng = random.Random(4)  # noqa: S311 - a series that can be repeated
        for seed in range(2):
            forked(lambda seed=seed: write_base(base, seed), scratch)
        warm(base)
        taken = forked(lambda: void(b"x" * (100 << 20)), scratch).bytes
        # The kernel counts pages in batches, and may have taken some of ours away meanwhile.
        assert 90 << 20 < taken < 150 << 20, f"memory is not measured: {taken:,} of 100 MiB"
        cases = [
            *byte_cases(base, rng),
            *manifest_cases(),
            *vector_cases(),
            *parquet_cases(),
            *resealed_cases(base, rng, 300),
        ]
        rng.shuffle(cases)  # so that --limit takes some of every kind
        done: collections.Counter[str] = collections.Counter()
        for case in cases:
            if case.group not in tallies or done[case.group] == given.limit:
                continue
            done[case.group] += 1
            ask_case(case, base, scratch, tallies[case.group])
            if given.verbose:
                found = tallies[case.group].faults
                print(case.group, case.name, found[-1:], flush=True)
        if "memory" in tallies:
            check_memory(scratch, rng, tallies["memory"])
        if "repair" in tallies:
            check_repair(base, scratch, rng, tallies["repair"])
        if "command" in tallies:
            some = [case for case in cases if case.group in {"manifests", "wholes"}]
            more = [case for case in cases if case.group == "bytes"]
            sample = [*rng.sample(some, 40), *rng.sample(more, 20)][: given.limit]
            for case in sample:
                ask_command(case, base, scratch, tallies["command"])
    return tell(tallies)


if __name__ == "__main__":
    sys.exit(main())
