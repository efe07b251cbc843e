"""The label sidecar: one Parquet file, row i of it is row i of the vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsearch.errors import IndexCorruptError
from imgsearch.records import Skip, StoredItem
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from imgsearch.ranking import Classes

_TEXT = ("path", "label", "sha256")
_NUMBERS = {"width": "int32", "height": "int32", "bytes": "int64", "mtime_ns": "int64"}
# Bounds on what a footer may promise before anything is unpacked.
_ROW_BYTES = 40_000
_BASE_BYTES = 1 << 24
_THRIFT_BYTES = 1 << 26


class Items:
    """The sidecar in memory: columns by row, and the classes."""

    def __init__(self, table: Any) -> None:  # noqa: ANN401 - pyarrow has no types
        """Keep the table's columns; `read_items` has checked them."""
        self._columns = {name: table[name].combine_chunks() for name in table.column_names}
        self.count = table.num_rows
        self.classes = _classes(self._columns["label"])

    def path(self, row: int) -> str:
        """Return the path of a row, POSIX, relative to the image root."""
        return str(self._columns["path"][row].as_py())

    def label(self, row: int) -> str | None:
        """Return the label of a row, None where it has none."""
        position = int(self.classes.ids[row])
        return None if position < 0 else self.classes.names[position]

    def item(self, row: int) -> StoredItem:
        """Return all that is known of a row."""
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        values["size"] = values.pop("bytes")
        return StoredItem(**values)

    def column(self, name: str) -> list[Any]:
        """Return one column as a list, in row order; of None where the sidecar has no such one."""
        column = self._columns.get(name)
        return [None] * self.count if column is None else list(column.to_pylist())


def _classes(labels: Any) -> Classes:  # noqa: ANN401 - pyarrow has no types
    import numpy as np
    import pyarrow.compute as pc

    from imgsearch.ranking import Classes

    encoded = pc.dictionary_encode(labels)
    found = encoded.dictionary.to_pylist()
    names = tuple(sorted(found))
    place = {name: i for i, name in enumerate(names)}
    # One slot more: it takes the rows without a label.
    new = np.array([*(place[name] for name in found), -1], np.int32)
    old = pc.fill_null(encoded.indices, len(found)).to_numpy(zero_copy_only=False)
    ids = new[old.astype(np.int64)]
    counts = np.bincount(ids[ids >= 0], minlength=len(names)).astype(np.int64)
    return Classes(names, ids, counts)


def items_bytes(items: Sequence[StoredItem]) -> bytes:
    """Encode the sidecar: the same items give the same bytes."""
    import pyarrow as pa

    columns = {name: pa.array([getattr(i, name) for i in items], pa.string()) for name in _TEXT}
    for name, kind in _NUMBERS.items():
        field = "size" if name == "bytes" else name
        columns[name] = pa.array([getattr(i, field) for i in items], getattr(pa, kind)())
    if any(item.group is not None for item in items):
        columns["group"] = pa.array([item.group for item in items], pa.string())
    return _encode(pa.table(columns))


def skips_bytes(skips: Sequence[Skip]) -> bytes:
    """Encode the list of skipped files: path, reason."""
    import pyarrow as pa

    columns = {name: [getattr(skip, name) for skip in skips] for name in ("path", "reason")}
    schema = pa.schema([("path", pa.string()), ("reason", pa.string())])
    return _encode(pa.table(columns, schema=schema))


def _encode(table: Any) -> bytes:  # noqa: ANN401 - pyarrow has no types
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    # A page's own checksum finds a flipped bit even where nobody compares the file's sum.
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True, store_schema=False)
    return bytes(sink.getvalue())


def _read(file: Path, count: int) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Read a Parquet file of ours whose footer keeps to what `count` rows can need."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(
            file,
            thrift_string_size_limit=_THRIFT_BYTES,
            thrift_container_size_limit=_THRIFT_BYTES,
            page_checksum_verification=True,
        ) as parquet:
            footer = parquet.metadata
            groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
            unpacked = sum(group.total_byte_size for group in groups)
            if footer.num_rows != count or sum(group.num_rows for group in groups) != count:
                raise IndexCorruptError(
                    file.name, f"it has {footer.num_rows:,} rows and {count:,} are due"
                )
            if any(group.total_byte_size < 0 for group in groups) or (
                unpacked > _BASE_BYTES + _ROW_BYTES * count
            ):
                raise IndexCorruptError(file.name, "it would unpack to more than it can hold")
            table = parquet.read(use_threads=False)
            table.validate(full=True)
            return table
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        said = printable(" ".join(str(error).split()))[:160]
        raise IndexCorruptError(file.name, f"it cannot be read as Parquet ({said})") from error


def read_items(file: Path, count: int) -> Items:
    """Read the sidecar and check its form.

    Raises:
        IndexCorruptError: wrong rows, columns or types, or a path that leaves the image root.
    """
    import pyarrow as pa

    table = _read(file, count)
    wanted = {name: pa.string() for name in _TEXT}
    wanted.update({name: getattr(pa, kind)() for name, kind in _NUMBERS.items()})
    names = table.column_names
    found = {field.name: field.type for field in table.schema}
    group = found.pop("group", pa.string())
    if found != wanted or len(names) != len(set(names)) or group != pa.string():
        raise IndexCorruptError(file.name, "its columns are not those of an index")
    if table["path"].null_count:
        raise IndexCorruptError(file.name, "its column 'path' has holes")
    for problem in _check_paths(table["path"].to_pylist(), file.name):
        raise problem
    return Items(table)


def _check_paths(paths: list[str], name: str) -> Iterator[IndexCorruptError]:
    if len(set(paths)) != len(paths):
        yield IndexCorruptError(name, "a path stands in it twice")
    for path in paths:
        if not path or path.startswith("/") or ".." in path.split("/") or "\0" in path:
            yield IndexCorruptError(name, f"the path {printable(path)[:80]!r} leaves the images")


def read_skips(file: Path, count: int) -> tuple[Skip, ...]:
    """Read the list of skipped files; raises IndexCorruptError."""
    import pyarrow as pa

    table = _read(file, count)
    if {field.name: field.type for field in table.schema} != {
        "path": pa.string(),
        "reason": pa.string(),
    }:
        raise IndexCorruptError(file.name, "its columns are not those of a list of skipped files")
    return tuple(Skip(row["path"], row["reason"]) for row in table.to_pylist())
