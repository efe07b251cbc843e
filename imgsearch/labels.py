"""Read a label file: csv or parquet with the columns path, label and, if wanted, group, split."""

from __future__ import annotations

import csv
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from imgsearch.errors import LabelFileError, NoImagesError, NotFoundError
from imgsearch.records import ImageItem
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

REQUIRED = ("path", "label")
OPTIONAL = ("group", "split")
# Splits that belong into the base set. A row without a split does, too.
BASE_SPLITS = {"base", "train"}
_LONGEST = 4096  # characters


@dataclass(frozen=True, slots=True)
class LabelFile:
    """The rows of a label file, sorted by path; `file` is where they stand."""

    file: Path
    items: tuple[ImageItem, ...]

    @property
    def has_splits(self) -> bool:
        """Whether any row names a split."""
        return any(item.split is not None for item in self.items)

    def base(self) -> list[ImageItem]:
        """Rows of the base set: split "base", "train" or none."""
        return [item for item in self.items if is_base(item)]

    def of_split(self, split: str) -> list[ImageItem]:
        """Rows of one split; all rows where the file knows no splits."""
        if not self.has_splits:
            return list(self.items)
        return [item for item in self.items if item.split == split]

    def left_out(self) -> dict[str, int]:
        """How many rows each split keeps out of the base set."""
        counts: dict[str, int] = {}
        for item in self.items:
            if item.split is not None and item.split not in BASE_SPLITS:
                counts[item.split] = counts.get(item.split, 0) + 1
        return dict(sorted(counts.items()))


def is_base(item: ImageItem) -> bool:
    """Whether a row belongs to the base set."""
    return item.split is None or item.split in BASE_SPLITS


def read_label_file(file: Path) -> LabelFile:
    """Read and check a label file, its rows sorted by path; raises what `read_rows` does."""
    return LabelFile(file, tuple(sorted(read_rows(file), key=lambda item: item.path)))


def read_rows(file: Path) -> list[ImageItem]:
    """Read and check the rows of a label file, in its own order.

    Paths are relative to the image folder, with forward slashes. An empty label, group or split
    counts as none. Whether the pictures exist is not looked at here.

    Raises:
        NotFoundError: there is no such file.
        LabelFileError: unknown suffix, missing or double column, a path that is empty, absolute,
            outside the folder or listed twice, a label of more than 4,096 characters or with a null
            character, or a file that cannot be read as what it says.
    """
    shown = printable(str(file))
    try:
        regular = stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"there is no label file {shown}") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise LabelFileError(f"the label file {shown} cannot be read: {said}") from None
    if not regular:
        raise LabelFileError(f"the label file {shown} is not a regular file")
    suffix = file.suffix.lower()
    if suffix == ".csv":
        rows = _csv_rows(file, shown)
    elif suffix == ".parquet":
        rows = _parquet_rows(file, shown)
    else:
        raise LabelFileError(f"the label file {shown} must end in .csv or .parquet")
    items: dict[str, ImageItem] = {}
    first_at: dict[str, int] = {}
    for number, row in rows:
        item = _item(row, number, shown)
        if item.path in items:
            raise LabelFileError(
                f"{shown} lists {printable(item.path)} twice, in rows {first_at[item.path]} and "
                f"{number}: keep one of them"
            )
        items[item.path] = item
        first_at[item.path] = number
    if not items:
        raise LabelFileError(f"{shown} has no rows")
    return list(items.values())


def read_test_items(file: Path, split: str) -> list[ImageItem]:
    """Read the rows of one split; all rows of a file that knows no splits.

    Raises:
        NoImagesError: there is no row of that split.
        (and what `read_label_file` raises)
    """
    items = read_label_file(file).of_split(split)
    if not items:
        raise NoImagesError(f"{printable(str(file))} has no row of the split '{printable(split)}'")
    return items


def _item(row: dict[str, str | None], number: int, shown: str) -> ImageItem:
    given = row["path"] or ""
    path = PurePosixPath(given)
    if not given or given.endswith("/") or str(path) == ".":
        raise LabelFileError(f"{shown} names no picture in row {number}: its path is empty")
    if path.is_absolute() or ".." in path.parts or "\0" in given:
        raise LabelFileError(
            f"{shown} names {printable(given)} in row {number}, which leaves the image folder: "
            "paths are relative to it"
        )
    for name in ("label", *OPTIONAL):
        text = row.get(name) or ""
        if "\0" in text or len(text) > _LONGEST:
            what = "with a null character" if "\0" in text else f"of {len(text):,} characters"
            raise LabelFileError(
                f"{shown} has a {name} {what} in row {number}, which an index does not keep: "
                f"{_LONGEST:,} characters at most, and no null character"
            )
    return ImageItem(
        os.fspath(path), row["label"] or None, row.get("group") or None, row.get("split") or None
    )


def _check_columns(names: Sequence[str], shown: str) -> None:
    for name in REQUIRED:
        if name not in names:
            found = ", ".join(printable(column) for column in names) or "none"
            if len(names) == 1 and {";", "\t", "|"} & set(names[0]):
                raise LabelFileError(
                    f"{shown} does not separate its columns with commas: its first line is {found}"
                )
            raise LabelFileError(f"{shown} has no column '{name}'; its columns are: {found}")
    for name in (*REQUIRED, *OPTIONAL):
        if list(names).count(name) > 1:
            raise LabelFileError(f"{shown} has the column '{name}' twice")


def _csv_rows(file: Path, shown: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            names = [name.strip() for name in next(reader, [])]
            _check_columns(names, shown)
            for number, cells in enumerate(reader, start=1):
                if not cells:
                    continue
                if len(cells) != len(names):
                    raise LabelFileError(
                        f"{shown} has {count(len(cells), 'cell')} in row {number} and "
                        f"{count(len(names), 'column')}"
                    )
                yield number, dict(zip(names, cells, strict=True))
    except UnicodeDecodeError:
        raise LabelFileError(f"{shown} is not UTF-8 text") from None
    except csv.Error as error:
        raise LabelFileError(f"{shown} cannot be read as csv: {error}") from None
    except OSError as error:
        raise LabelFileError(f"{shown} cannot be read: {error.strerror}") from None


def _parquet_rows(file: Path, shown: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            names = parquet.schema_arrow.names
            _check_columns(names, shown)
            wanted = [name for name in (*REQUIRED, *OPTIONAL) if name in names]
            table = parquet.read(columns=wanted)
        # Labels may be dictionaries or integers; text is what a label is.
        text = pa.table({name: table[name].cast(pa.string()) for name in wanted})
        rows = text.to_pylist()
    except (pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        said = printable(" ".join(str(error).split()))[:160]
        raise LabelFileError(f"{shown} cannot be read as parquet: {said}") from None
    yield from enumerate(rows, start=1)
