"""The pages of a Parquet file, walked before Arrow unpacks any: what it would cost, known first.

A footer states how large its columns are when unpacked, but nothing holds a file to that: a page
may say otherwise in its own header, and a dictionary or a prefix that is used again and again
grows without any page being large. So the headers of all pages are read here, by hand, and only
such encodings are let through whose size follows from what was counted.

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
# A footer of ours takes 4 kB a row group, and statistics with long paths some ten times that.
_FOOTER_BYTES = 1 << 20
_GROUP_ROWS = 1 << 20
_HEADER_BYTES = 1 << 16
_DATA, _DICTIONARY = 0, 2  # PageType
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8  # Encoding
_TRUE, _FALSE, _INTEGERS, _BYTES, _STRUCT = 1, 2, {4, 5, 6}, 8, 12
_DEEPEST, _LONGEST_VARINT = 4, 10


class PagesError(ValueError):
    """The file is not built as one of ours is; the text says in what, for the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Pages:
    """What the pages of a file come to: `unpacked` bytes, and columns with a dictionary."""

    unpacked: int
    dictionaries: frozenset[str]


def check_footer(file: Path, count: int) -> None:
    """Raise PagesError where the footer is missing, or larger than one of `count` rows can be.

    Arrow takes some forty times a footer's size to read it.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(len(_MAGIC))
        stream.seek(max(0, size - _TAIL.size))
        tail = stream.read(_TAIL.size)
    if len(tail) < _TAIL.size or head != _MAGIC or not tail.endswith(_MAGIC):
        raise PagesError("it does not begin and end as Parquet does")
    length, _ = _TAIL.unpack(tail)
    if length > min(size - _TAIL.size, _FOOTER_BYTES * (1 + count // _GROUP_ROWS)):
        raise PagesError(f"its footer cannot have {length:,} bytes")


def walk(file: Path, footer: Any, most: int) -> Pages:  # noqa: ANN401 - pyarrow has no types
    """Read the header of every page.

    Args:
        file: a Parquet file whose footer was checked.
        footer: its `pyarrow.parquet.FileMetaData`, of flat columns.
        most: how many bytes all pages together may have when unpacked.

    Raises:
        PagesError: pages do not fill their column, or hold more values than it has rows, would
            unpack to more than `most`, or have an encoding that we never write.
    """
    unpacked = 0
    dictionaries = set()
    with file.open("rb") as stream:
        for i in range(footer.num_row_groups):
            group = footer.row_group(i)
            for j in range(group.num_columns):
                column = group.column(j)
                if column.file_path or column.num_values != group.num_rows:
                    raise PagesError("a column of it does not have the rows of its group")
                if column.compression not in {"ZSTD", "UNCOMPRESSED"}:
                    raise PagesError("it is not compressed as an index is")
                size, has_dictionary = _walk_column(stream, column, most - unpacked)
                unpacked += size
                if has_dictionary:
                    dictionaries.add(column.path_in_schema)
    return Pages(unpacked, frozenset(dictionaries))


def _walk_column(
    stream: BinaryIO,
    column: Any,  # noqa: ANN401 - pyarrow has no types
    most: int,
) -> tuple[int, bool]:
    at: int = column.data_page_offset
    if column.has_dictionary_page:
        at = min(at, column.dictionary_page_offset)
    end: int = at + column.total_compressed_size
    unpacked = values = 0
    has_dictionary, first = False, True
    while at < end:
        stream.seek(at)
        page = _Compact(stream.read(min(_HEADER_BYTES, end - at)))
        fields = page.struct()
        kind, size, packed = (_whole(fields, name) for name in (1, 2, 3))
        unpacked += size
        at += page.at + packed
        if at > end:
            raise PagesError("a page of it does not end where its column does")
        if unpacked > most:
            raise PagesError("it would unpack to more than it can hold")
        body = fields.get(5 if kind == _DATA else 7)
        if kind not in {_DATA, _DICTIONARY} or not isinstance(body, dict):
            raise PagesError("it has a page of a kind that no index has")
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
    if values != column.num_values:
        raise PagesError("its pages do not have the rows that its footer states")
    return unpacked, has_dictionary


def _whole(fields: dict[int, Any], number: int) -> int:
    """Return a field that must be there and be a whole number of at least 0."""
    value = fields.get(number)
    if type(value) is not int or value < 0:
        raise PagesError("a page of it has a header that cannot be")
    return value


class _Compact:
    """Reads Thrift's compact protocol, as far as the headers of pages need it.

    A field that stands twice, which two readers could take differently, is refused.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def struct(self, depth: int = 1) -> dict[int, Any]:
        """Return the fields of a struct by their number."""
        if depth > _DEEPEST:
            raise PagesError("a page of it has a header that cannot be")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 15
            number = number + step if step else self._zigzag()
            if number in fields:
                raise PagesError("a page of it has a header that cannot be")
            if kind in {_TRUE, _FALSE}:
                fields[number] = kind == _TRUE
            elif kind in _INTEGERS:
                fields[number] = self._zigzag()
            elif kind == _BYTES:
                self._skip(self._varint())
                fields[number] = None  # statistics: nothing that is needed here
            elif kind == _STRUCT:
                fields[number] = self.struct(depth + 1)
            else:
                raise PagesError("a page of it has a header that cannot be")
        return fields

    def _byte(self) -> int:
        self._skip(1)
        return self._data[self.at - 1]

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self._data):
            raise PagesError("a page of it has a header that does not end")

    def _varint(self) -> int:
        value = 0
        for i in range(_LONGEST_VARINT):
            byte = self._byte()
            value |= (byte & 127) << (7 * i)
            if byte < 128:  # noqa: PLR2004 - the highest bit says that more follow
                return value
        raise PagesError("a page of it has a header that cannot be")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
