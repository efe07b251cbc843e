"""The footer and the pages of a Parquet file, read by hand before Arrow gets to see them.

A footer states how large its columns are when unpacked, but nothing holds a file to that: a page
may say otherwise in its own header, and a dictionary or a prefix that is used again and again
grows without any page being large. And pyarrow's own view of a footer ends the process where a
number in it cannot be. So the footer and the headers of all pages are read here, and only what an
index has is let through: flat columns, and encodings whose size follows from what was counted.

Field numbers are those of parquet.thrift (apache/parquet-format); the encoding is Thrift's compact
protocol.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path

_MAGIC = b"PAR1"
_TAIL = struct.Struct("<I4s")
# A footer of ours takes 2 kB a row group, and with long paths in its statistics some 40 kB.
_FOOTER_BYTES = 1 << 18
_GROUP_ROWS = 1 << 20
_HEADER_BYTES = 1 << 16
_DATA, _DICTIONARY = 0, 2  # PageType
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8  # Encoding
_UNCOMPRESSED, _ZSTD = 0, 6  # CompressionCodec
_OPTIONAL = 1  # FieldRepetitionType
# Type, ConvertedType and LogicalType of a column.
_KINDS: dict[str, tuple[int, int | None, dict[int, Any] | None]] = {
    "int32": (1, None, None),
    "int64": (2, None, None),
    "string": (6, 0, {1: {}}),
}
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BYTES, _LIST, _STRUCT = 1, 2, 3, {4, 5, 6}, 7, 8, 9, 12
_DEEPEST, _LONGEST_VARINT, _LONG_LIST = 8, 10, 15


class PagesError(ValueError):
    """The file is not built as one of ours is; the text says in what, for the end of a sentence."""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of one row group: where its pages lie, and what they must come to."""

    name: str
    start: int
    end: int
    values: int


def walk(
    file: Path, count: int, columns: dict[str, str], optional: frozenset[str], most: int
) -> set[str]:
    """Read the footer and the header of every page; return the columns that have a dictionary.

    Args:
        file: what may be a Parquet file.
        count: how many rows are due.
        columns: which columns are due, name: "string", "int32" or "int64".
        optional: those of them that may be missing.
        most: how many bytes all pages together may have when unpacked.

    Raises:
        PagesError: rows, columns or types are not what is due, pages do not fill their column or
            hold another number of values, would unpack to more than `most`, or have an encoding
            that we never write.
    """
    dictionaries = set()
    with file.open("rb") as stream:
        for column in _columns(_footer(stream, count), count, columns, optional):
            size, has_dictionary = _walk_column(stream, column, most)
            most -= size
            if has_dictionary:
                dictionaries.add(column.name)
    return dictionaries


def _footer(stream: BinaryIO, count: int) -> dict[int, Any]:
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(len(_MAGIC))
    stream.seek(max(0, size - _TAIL.size))
    tail = stream.read(_TAIL.size)
    if len(tail) < _TAIL.size or head != _MAGIC or not tail.endswith(_MAGIC):
        raise PagesError("it does not begin and end as Parquet does")
    length: int = _TAIL.unpack(tail)[0]
    if length > min(size - _TAIL.size, _FOOTER_BYTES * (1 + count // _GROUP_ROWS)):
        raise PagesError(f"its footer cannot have {length:,} bytes")
    stream.seek(size - _TAIL.size - length)
    return _Compact(stream.read(length), "its footer").struct()


def _columns(
    footer: dict[int, Any], count: int, columns: dict[str, str], optional: frozenset[str]
) -> list[_Column]:
    """Check the footer against what is due, and return the columns of all row groups."""
    # 5 is metadata, such as a schema of Arrow's own; 8 and 9 are about encryption.
    if {5, 8, 9} & set(footer):
        raise PagesError("its footer holds more than that of an index")
    names = _schema(footer.get(2), columns, optional)
    rows = _whole(footer, 3)
    groups = [_fields(group) for group in _list(footer, 4)]
    if rows != count:
        raise PagesError(f"it has {rows:,} rows and {count:,} are due")
    if sum(_whole(group, 3) for group in groups) != count:
        raise PagesError("its row groups do not have the rows that its footer states")
    found = []
    for group in groups:
        chunks = _list(group, 1)
        if len(chunks) != len(names):
            raise PagesError("its columns are not those of an index")
        found += [
            _column(name, columns[name], _fields(chunk), _whole(group, 3))
            for name, chunk in zip(names, chunks, strict=True)
        ]
    return found


def _column(name: str, kind: str, chunk: dict[int, Any], rows: int) -> _Column:
    # 1 is another file, 8 and 9 are about encryption.
    if {1, 8, 9} & set(chunk):
        raise PagesError("a column of it lies elsewhere")
    about = _fields(chunk.get(3))
    if (about.get(1), about.get(3), about.get(5)) != (_KINDS[kind][0], [name.encode()], rows):
        raise PagesError("a column of it is not what its footer says elsewhere")
    if about.get(4) not in {_UNCOMPRESSED, _ZSTD}:
        raise PagesError("it is not compressed as an index is")
    start = _whole(about, 9)
    if 11 in about:  # noqa: PLR2004 - where the dictionary is
        start = min(start, _whole(about, 11) or start)
    return _Column(name, start, start + _whole(about, 7), rows)


def _schema(schema: Any, columns: dict[str, str], optional: frozenset[str]) -> list[str]:  # noqa: ANN401 - as read
    """Return the names of flat columns, each of which is due and has the type that is due."""
    problem = PagesError("its columns are not those of an index")
    if not isinstance(schema, list) or not schema:
        raise problem
    root, *leaves = map(_fields, schema)
    names = []
    for leaf in leaves:
        raw = leaf.get(4)
        name = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else ""
        kind = (leaf.get(1), leaf.get(6), leaf.get(10))
        if name not in columns or kind != _KINDS[columns[name]] or leaf.get(3) != _OPTIONAL:
            raise problem
        if leaf.get(5, 0) != 0:
            raise problem
        names.append(name)
    complete = set(columns) - optional <= set(names) and len(set(names)) == len(names)
    if not complete or root.get(5) != len(names):
        raise problem
    return names


def _walk_column(stream: BinaryIO, column: _Column, most: int) -> tuple[int, bool]:
    at = column.start
    unpacked = values = 0
    has_dictionary, first = False, True
    while at < column.end:
        stream.seek(at)
        page = _Compact(stream.read(min(_HEADER_BYTES, column.end - at)), "a page of it")
        fields = page.struct()
        kind, size, packed = (_whole(fields, name) for name in (1, 2, 3))
        unpacked += size
        at += page.at + packed
        if at > column.end:
            raise PagesError("a page of it does not end where its column does")
        if unpacked > most:
            raise PagesError("it would unpack to more than it can hold")
        if kind not in {_DATA, _DICTIONARY}:
            raise PagesError("it has a page of a kind that no index has")
        body = _fields(fields.get(5 if kind == _DATA else 7))
        encoding = _whole(body, 2)
        if kind == _DICTIONARY:
            known = first and encoding in {_PLAIN, _PLAIN_DICTIONARY}
            has_dictionary = True
        else:
            values += _whole(body, 1)
            known = encoding == _PLAIN or (
                has_dictionary and encoding in {_PLAIN_DICTIONARY, _RLE_DICTIONARY}
            )
            known = known and _whole(body, 3) == _whole(body, 4) == _RLE
        if not known:
            raise PagesError("it has a page in an encoding that no index has")
        first = False
    if values != column.values:
        raise PagesError("its pages do not have the rows that its footer states")
    return unpacked, has_dictionary


def _fields(value: Any) -> dict[int, Any]:  # noqa: ANN401 - as read
    if not isinstance(value, dict):
        raise PagesError("a part of it is missing")
    return value


def _list(fields: dict[int, Any], number: int) -> list[Any]:
    value = fields.get(number)
    if not isinstance(value, list):
        raise PagesError("a part of it is missing")
    return value


def _whole(fields: dict[int, Any], number: int) -> int:
    """Return a field that must be there and be a whole number of at least 0."""
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise PagesError("it states a number that cannot be")
    return value


class _Compact:
    """Reads Thrift's compact protocol, as far as footers and the headers of pages need it.

    A field that stands twice, which two readers could take differently, is refused.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._problem = PagesError(f"{what} cannot be read")
        self.at = 0

    def struct(self, depth: int = 1) -> dict[int, Any]:
        """Return the fields of a struct by their number."""
        if depth > _DEEPEST:
            raise self._problem
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            if number in fields:
                raise self._problem
            # The truth of a field is in its kind, that of an element has a byte.
            fields[number] = kind == _TRUE if kind in {_TRUE, _FALSE} else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:  # noqa: ANN401 - of any kind
        if kind in _INTEGERS:
            return self._zigzag()
        if kind == _BYTES:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind == _LIST:
            return self._elements(depth)
        if kind in {_TRUE, _FALSE, _BYTE}:
            return self._byte()
        if kind == _DOUBLE:
            return self._take(8)
        raise self._problem

    def _elements(self, depth: int) -> list[Any]:
        if depth > _DEEPEST:
            raise self._problem
        head = self._byte()
        length, kind = head >> 4, head & 15
        if length == _LONG_LIST:
            length = self._varint()
        if length > len(self._data) - self.at:  # each takes a byte at least
            raise self._problem
        return [self._value(kind, depth + 1) for _ in range(length)]

    def _take(self, length: int) -> bytes:
        taken = self._data[self.at : self.at + length]
        if len(taken) < length:
            raise self._problem
        self.at += length
        return taken

    def _byte(self) -> int:
        return self._take(1)[0]

    def _varint(self) -> int:
        value = 0
        for i in range(_LONGEST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << (7 * i)
            if byte < 128:  # noqa: PLR2004 - the highest bit says that more follow
                return value
        raise self._problem

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
