"""The label sidecar: one Parquet file, row i of it is row i of the vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsearch.errors import IndexCorruptError, InputError
from imgsearch.records import Skip, StoredItem
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from imgsearch.ranking import Classes

_TEXT = ("path", "label", "sha256")
_NUMBERS = {"width": "int32", "height": "int32", "bytes": "int64", "mtime_ns": "int64"}
# The columns in the order of StoredItem's fields.
_FIELDS = (*_TEXT, *_NUMBERS, "group")
# Columns in which the same text comes again and again.
_REPEATED = {"label", "group", "reason"}
# What a file may come to when it is unpacked, so that a small one costs little memory: both hold.
# (Of a million regular paths alone the pages shrink to a sixtieth.)
_BASE_BYTES, _TIMES_SIZE = 1 << 25, 128
_BASE_TEXT, _ROW_BYTES = 1 << 24, 1024
# Rows cost memory even where they cost no bytes in the file.
_BASE_ROWS, _ROWS_A_BYTE = 1 << 20, 16


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

    def sha256(self, row: int) -> str | None:
        """Return the sum of a row's file, hex; None where nobody has seen the picture."""
        found: str | None = self._columns["sha256"][row].as_py()
        return found

    def group(self, row: int) -> str | None:
        """Return what a row belongs to, None where nothing is known of that."""
        column = self._columns.get("group")
        return None if column is None else column[row].as_py()

    def item(self, row: int) -> StoredItem:
        """Return all that is known of a row."""
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        values["size"] = values.pop("bytes")
        return StoredItem(**values)

    def all(self) -> list[StoredItem]:
        """Return all that is known of every row, in order: far quicker than row by row."""
        return [StoredItem(*row) for row in zip(*map(self.column, _FIELDS), strict=True)]

    def column(self, name: str) -> list[Any]:
        """Return one column as a list, in row order; of None where the sidecar has no such one."""
        column = self._columns.get(name)
        return [None] * self.count if column is None else list(column.to_pylist())


def _classes(labels: Any) -> Classes:  # noqa: ANN401 - pyarrow has no types
    import numpy as np

    from imgsearch.ranking import Classes

    # Rows without a label have an entry of their own. (Filling holes, and to_numpy(), would import
    # pandas where it is installed: half a second.)
    encoded = labels.dictionary_encode(null_encoding="encode")
    found = encoded.dictionary.to_pylist()
    names = tuple(sorted(name for name in found if name is not None))
    place: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    place[None] = -1
    ids = np.array([place[name] for name in found], np.int32)[np.from_dlpack(encoded.indices)]
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
    """Encode a table so that `_read` takes it, or raise InputError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if table.nbytes > _most_text(table.num_rows):
        raise InputError(
            f"paths, labels and reasons take {table.nbytes:,} bytes, more than the "
            f"{_most_text(table.num_rows):,} that an index of {table.num_rows:,} rows can keep"
        )
    repeated = [name for name in table.column_names if name in _REPEATED]
    # Uncompressed only where compression shrinks the file below what a reader believes.
    for codec in ("zstd", "none"):
        sink = pa.BufferOutputStream()
        # A page's own checksum finds a flipped bit even where nobody compares the file's sum.
        pq.write_table(
            table,
            sink,
            compression=codec,
            use_dictionary=repeated,
            write_page_checksum=True,
            store_schema=False,
        )
        data = bytes(sink.getvalue())
        if table.nbytes <= _most_unpacked(len(data)) and table.num_rows <= _most_rows(len(data)):
            break
    return data


def _most_text(count: int) -> int:
    return _BASE_TEXT + _ROW_BYTES * count


def _most_unpacked(size: int) -> int:
    return _BASE_BYTES + _TIMES_SIZE * size


def _most_rows(size: int) -> int:
    return _BASE_ROWS + _ROWS_A_BYTE * size


def _read(file: Path, count: int, columns: dict[str, str], optional: frozenset[str]) -> Any:  # noqa: ANN401 - pyarrow has no types
    """Read a Parquet file of ours, of `count` rows and of the columns name: type.

    Nothing is unpacked before it is known what it comes to.

    Raises:
        IndexCorruptError: it is damaged, or not what is due.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from imgsearch import pages

    try:
        size = file.stat().st_size
        if count > _most_rows(size):
            raise IndexCorruptError(file.name, f"it cannot hold {count:,} rows")
        most = min(_most_text(count), _most_unpacked(size))
        dictionaries = pages.walk(file, count, columns, optional, most)
        # A text that is used a million times is kept once, until it is known what it comes to.
        text = [name for name in dictionaries if columns[name] == "string"]
        with pq.ParquetFile(file, read_dictionary=text, page_checksum_verification=True) as parquet:
            table = parquet.read(use_threads=False)
        table.validate(full=True)
        if table.num_rows != count:
            raise IndexCorruptError(file.name, f"{count:,} rows are due")
        if sum(_expanded(table[name]) for name in text) > most:
            raise IndexCorruptError(file.name, "it would unpack to more than it can hold")
        for name in text:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table[name].cast(pa.string()))
    except pages.PagesError as error:
        raise IndexCorruptError(file.name, str(error)) from error
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        said = printable(" ".join(str(error).split()))[:160]
        raise IndexCorruptError(file.name, f"it cannot be read as Parquet ({said})") from error
    return table


def _expanded(column: Any) -> int:  # noqa: ANN401 - pyarrow has no types
    """Return how many bytes the texts of a column of dictionaries have."""
    import pyarrow.compute as pc

    total = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary).cast("int64")
        total += pc.sum(pc.take(lengths, chunk.indices)).as_py() or 0
    return total


def read_items(file: Path, count: int) -> Items:
    """Read the sidecar and check its form.

    Raises:
        IndexCorruptError: wrong rows, columns or types, or a path that leaves the image root.
    """
    columns = {**dict.fromkeys((*_TEXT, "group"), "string"), **_NUMBERS}
    table = _read(file, count, columns, frozenset({"group"}))
    _check_paths(table["path"], file.name)
    _check_values(table, file.name)
    return Items(table)


def _check_paths(column: Any, name: str) -> None:  # noqa: ANN401 - pyarrow has no types
    if column.null_count:
        raise IndexCorruptError(name, "its column 'path' has holes")
    paths = column.to_pylist()
    if len(set(paths)) != len(paths):
        raise IndexCorruptError(name, "a path stands in it twice")
    for path in paths:
        if not path or path[0] == "/" or "\0" in path or ".." in path.split("/"):
            raise IndexCorruptError(name, f"the path {printable(path)[:80]!r} leaves the images")


def _check_values(table: Any, name: str) -> None:  # noqa: ANN401 - pyarrow has no types
    import pyarrow.compute as pc

    sums = pc.match_substring_regex(table["sha256"], r"\A[0-9a-f]{64}\z")
    # Not compared with a number in Arrow: making it an Arrow scalar would import pandas.
    least = [pc.min(table[column]).as_py() for column in ("width", "height", "bytes")]
    if pc.any(pc.invert(sums)).as_py() or any(
        number is not None and number < 0 for number in least
    ):
        raise IndexCorruptError(name, "it holds a sum or a size that cannot be")


def read_skips(file: Path, count: int) -> tuple[Skip, ...]:
    """Read the list of skipped files; raises IndexCorruptError."""
    table = _read(file, count, {"path": "string", "reason": "string"}, frozenset())
    if any(column.null_count for column in table.columns):
        raise IndexCorruptError(file.name, "it has holes")
    return tuple(map(Skip, table["path"].to_pylist(), table["reason"].to_pylist()))
