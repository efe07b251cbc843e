"""The manifest: the one file that says what an index is, and a reader that believes none of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
from dataclasses import dataclass
from typing import Any

from imgsearch.errors import IndexCorruptError, IndexVersionError, InputError
from imgsearch.records import Calibration, Preprocess, QuantizationCost, TransformNote
from imgsearch.text import printable
from imgsearch.vectors import file_size, shape_is_sane

# The newest version that is read. What a version before it can read is written as that version.
FORMAT_VERSION = 2
_PLAIN, _LEARNED = 1, 2
FILE = "manifest.json"
PREVIOUS = "previous.json"
METRIC = "cosine"
# Python takes up to forty times the bytes of JSON to hold it, and each value counts.
MAX_BYTES = 1 << 24
_MAX_VALUES = 1 << 19
_MAX_NUMBER = 1 << 62
_MAX_VERSION = 1 << 31
_MAX_STEPS, _MAX_TYPICAL = 1 << 10, 1 << 14
_LAST_LINE = re.compile(rb' "sha256": "([0-9a-f]{64})"\}\n')
_HEX = re.compile(r"[0-9a-f]{64}")
_NO_NAME = re.compile("[\0\ud800-\udfff]")
_NAMES = {
    "vectors": re.compile(r"vectors-[0-9a-f]{16}\.faiss"),
    "items": re.compile(r"items-[0-9a-f]{16}\.parquet"),
    "skipped": re.compile(r"skipped-[0-9a-f]{16}\.parquet"),
    "model": re.compile(r"model-[0-9a-f]{16}\.zip"),
    "transform": re.compile(r"transform-[0-9a-f]{16}\.safetensors"),
}
KINDS = frozenset(_NAMES)
_SUFFIXES = {
    "vectors": ".faiss",
    "items": ".parquet",
    "skipped": ".parquet",
    "model": ".zip",
    "transform": ".safetensors",
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A data file as the manifest names it: `size` in bytes, `sha256` in hex."""

    name: str
    size: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "size": self.size, "sha256": self.sha256}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is made of.

    `files` has "vectors", "items" and, where something was skipped, "skipped"; with precision int8
    "model", the quantized model, and `cost` is what it costs; and "transform", where the rows went
    through one that was learned, of which `transform` tells. `dim` is that of the rows.
    `weights_source` and `labels_file` are absolute paths of files that the build was given, None
    otherwise. `calibration` is what scores mean, None for an index that does not know it.
    """

    created_at: str
    program: str
    faiss: str
    engine: str
    model: str
    weights: str
    weights_sha256: str
    weights_source: str | None
    preprocessing: Preprocess | None
    precision: str
    dim: int
    count: int
    classes: dict[str, int]
    image_root: str
    labels_file: str | None
    skipped: int
    files: dict[str, FileEntry]
    cost: QuantizationCost | None = None
    transform: TransformNote | None = None
    calibration: Calibration | None = None
    metric: str = METRIC

    @property
    def format_version(self) -> int:
        """The version that it is written as: the oldest that can be read so."""
        return _PLAIN if self.transform is None else _LEARNED

    @property
    def model_dim(self) -> int:
        """How many numbers the model gives: those of a row, but for a transform."""
        return self.dim if self.transform is None else self.transform.dim

    def to_dict(self) -> dict[str, Any]:
        """JSON form, in the order in which it is written."""
        cost = {} if self.cost is None else {"quantization": self.cost.to_dict()}
        learned = {} if self.transform is None else {"transform": self.transform.to_dict()}
        meaning = {}
        if self.calibration is not None:
            meaning = {"calibration": self.calibration.to_dict()}
        return {
            "format_version": self.format_version,
            "created_at": self.created_at,
            "program": self.program,
            "faiss": self.faiss,
            "engine": self.engine,
            "model": self.model,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "weights_source": self.weights_source,
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_dict(),
            "precision": self.precision,
            **cost,
            "dim": self.dim,
            **learned,
            "metric": self.metric,
            "count": self.count,
            "classes": self.classes,
            "image_root": self.image_root,
            "labels_file": self.labels_file,
            "skipped": self.skipped,
            **meaning,
            "files": {kind: entry.to_dict() for kind, entry in self.files.items()},
        }

    def to_bytes(self) -> bytes:
        """Serialize, ending in a line that holds the sum of all bytes before it.

        Raises:
            InputError: no reader would take it: a path that is not UTF-8, or too many classes.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        try:
            body = text.removesuffix("\n}").encode("utf-8") + b",\n"
        except UnicodeEncodeError as error:
            around = printable(text[max(0, error.start - 40) : error.end])
            raise InputError(
                f"a name that is not UTF-8 cannot be kept in an index: ...{around}"
            ) from error
        raw = body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode("ascii")
        if _too_large(raw):
            raise InputError(
                f"an index cannot keep {len(self.classes):,} classes of such names: its manifest "
                f"would have {len(raw):,} bytes"
            )
        return raw


def made_of(files: dict[str, FileEntry]) -> str:
    """Name a generation by the content of its rows and its labels."""
    return "-".join(files[kind].sha256[:16] for kind in ("vectors", "items"))


def data_name(kind: str, sha256: str) -> str:
    """Return the file name of a data file, made from its content's sum."""
    return f"{kind}-{sha256[:16]}{_SUFFIXES[kind]}"


def is_data_name(name: str) -> bool:
    """Whether a file name is one that `data_name` gives."""
    return any(pattern.fullmatch(name) for pattern in _NAMES.values())


def parse(raw: bytes, file: str = FILE) -> Manifest:
    """Read a manifest from its bytes.

    Raises:
        IndexVersionError: written by a newer release.
        IndexCorruptError: a wrong sum, no JSON, or any value that cannot be.
    """
    if _too_large(raw):
        raise IndexCorruptError(file, "it is larger than any manifest")
    at = raw.rfind(b"\n", 0, max(0, len(raw) - 1)) + 1
    last = _LAST_LINE.fullmatch(raw[at:])
    if last is None:
        raise IndexCorruptError(file, "it does not end with the sum of its bytes")
    if hashlib.sha256(raw[:at]).hexdigest().encode("ascii") != last[1]:
        raise IndexCorruptError(file, "its bytes do not have the sum that its last line states")
    try:
        document = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_no_double_keys, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise IndexCorruptError(file, "it is not the JSON of a manifest") from error
    if not isinstance(document, dict):
        raise IndexCorruptError(file, "it is not the JSON of a manifest")
    version = document.get("format_version")
    if type(version) is not int or not 1 <= version < _MAX_VERSION:
        raise IndexCorruptError(file, "it states no format version")
    if version > FORMAT_VERSION:
        raise IndexVersionError(file, version, FORMAT_VERSION)
    return _Reader(document, file).manifest()


def _too_large(raw: bytes) -> bool:
    """Whether a manifest could take too much memory to parse; a comma in a name counts, too."""
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    return len(raw) > MAX_BYTES or values > _MAX_VALUES


def _no_double_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _is_name(text: str) -> bool:
    """Whether a text can be a name: no NUL in it, and no half of a character."""
    return not _NO_NAME.search(text)


class _Reader:
    """Takes values out of parsed JSON, each with its type and bounds, or refuses the manifest."""

    def __init__(self, document: dict[str, Any], file: str) -> None:
        self.document = document
        self.file = file

    def refuse(self, key: str) -> IndexCorruptError:
        return IndexCorruptError(self.file, f"its value for '{key}' cannot be")

    def text(self, key: str, most: int = 4096) -> str:
        value = self.document.get(key)
        if not isinstance(value, str) or not 0 < len(value) <= most or not _is_name(value):
            raise self.refuse(key)
        return value

    def line(self, key: str) -> str:
        """Take a text that the program wrote itself: short, and safe to show."""
        value = self.text(key, 256)
        if printable(value) != value:
            raise self.refuse(key)
        return value

    def time(self, key: str) -> str:
        value = self.line(key)
        try:
            dt.datetime.fromisoformat(value)
        except ValueError:
            raise self.refuse(key) from None
        return value

    def text_or_none(self, key: str) -> str | None:
        return None if self.document.get(key, "") is None else self.text(key)

    def whole(self, key: str) -> int:
        value = self.document.get(key)
        if type(value) is not int or not 0 <= value < _MAX_NUMBER:
            raise self.refuse(key)
        return value

    def manifest(self) -> Manifest:
        count, dim = self.whole("count"), self.whole("dim")
        if not shape_is_sane(count, dim):
            raise self.refuse("count")
        if self.text("metric") != METRIC:
            raise self.refuse("metric")
        if not _HEX.fullmatch(weights_sum := self.text("weights_sha256")):
            raise self.refuse("weights_sha256")
        skipped, files = self.whole("skipped"), self.files()
        if files["vectors"].size != file_size(count, dim):
            raise self.refuse("count")
        if bool(skipped) != ("skipped" in files):
            raise self.refuse("skipped")
        if (self.text("precision") == "int8") != ("model" in files):
            raise self.refuse("files")
        if (transform := self.transform(dim)) is None and "transform" in files:
            raise self.refuse("files")
        if transform is not None and "transform" not in files:
            raise self.refuse("transform")
        return Manifest(
            created_at=self.time("created_at"),
            program=self.line("program"),
            faiss=self.line("faiss"),
            engine=self.line("engine"),
            model=self.text("model"),
            weights=self.text("weights"),
            weights_sha256=weights_sum,
            weights_source=self.text_or_none("weights_source"),
            preprocessing=self.preprocessing(),
            precision=self.line("precision"),
            dim=dim,
            count=count,
            classes=self.classes(count),
            image_root=self.text("image_root"),
            labels_file=self.text_or_none("labels_file"),
            skipped=skipped,
            files=files,
            cost=self.cost(),
            transform=transform,
            calibration=self.calibration(made_of(files)),
        )

    def transform(self, width: int) -> TransformNote | None:
        value = self.document.get("transform")
        if value is None or self.document["format_version"] < _LEARNED:
            return None
        keys = {"chosen", "dim", "learned_from", "raw", "learned", "interval"}
        if not isinstance(value, dict) or set(value) != keys:
            raise self.refuse("transform")
        note = _Reader(value, self.file)
        chosen, dim, source = note.line("chosen"), note.whole("dim"), note.text("learned_from")
        interval = value["interval"]
        numbers = [
            value["raw"],
            value["learned"],
            *(interval if isinstance(interval, list) else []),
        ]
        good = (
            shape_is_sane(1, dim)
            and width <= 2 * dim
            and _HEX.fullmatch(source) is not None
            and len(numbers) == 4  # noqa: PLR2004
            and all(type(one) in {int, float} and abs(one) <= 1 for one in numbers)
        )
        if not good:
            raise self.refuse("transform")
        raw, learned, low, high = map(float, numbers)
        return TransformNote(chosen, dim, source, raw, learned, (low, high))

    def cost(self) -> QuantizationCost | None:
        value = self.document.get("quantization")
        if value is None:
            return None
        numbers = {"calibrated_on", "measured_on", "top"}
        shares = {"mean_cosine", "lowest_cosine", "top_agreement"}
        total = "calibration_sha256"
        if not isinstance(value, dict) or set(value) != {*numbers, *shares, total}:
            raise self.refuse("quantization")
        good = (
            all(type(value[key]) is int and value[key] >= 0 for key in numbers)
            and all(type(value[key]) in {int, float} and abs(value[key]) <= 1.001 for key in shares)  # noqa: PLR2004
            and isinstance(value[total], str)
            and _HEX.fullmatch(value[total]) is not None
        )
        if not good:
            raise self.refuse("quantization")
        return QuantizationCost(**value)

    def calibration(self, generation: str) -> Calibration | None:
        """Take what scores mean; None where it was learned from another generation."""
        value = self.document.get("calibration")
        if value is None:
            return None
        if not isinstance(value, dict) or not isinstance(value.get("made_of"), str):
            raise self.refuse("calibration")
        if value["made_of"] != generation:
            return None
        whole = [value.get(key) for key in ("queries", "neighbors")]
        if not all(type(number) is int and 0 < number < _MAX_NUMBER for number in whole):
            raise self.refuse("calibration")
        weights = [self._number(value.get(key)) for key in ("score", "rank")]
        steps = [
            (self._number(place), self._number(level, 0, 1))
            for place, level in self._pairs(value.get("steps"))
        ]
        typical = value.get("typical")
        if not isinstance(typical, list) or len(typical) > _MAX_TYPICAL:
            raise self.refuse("calibration")
        typical = [self._number(score, -1.001, 1.001) for score in typical]
        places, levels = [step[0] for step in steps], [step[1] for step in steps]
        if any(column != sorted(column) for column in (typical, places, levels)):
            raise self.refuse("calibration")
        error = value.get("error")
        return Calibration(
            made_of=generation,
            queries=value["queries"],
            neighbors=value["neighbors"],
            score=weights[0],
            rank=weights[1],
            steps=tuple(steps),
            error=None if error is None else self._number(error, 0, 1),
            typical=tuple(typical),
        )

    def _pairs(self, value: Any) -> list[list[Any]]:  # noqa: ANN401 - parsed JSON
        if not isinstance(value, list) or len(value) > _MAX_STEPS:
            raise self.refuse("calibration")
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):  # noqa: PLR2004
            raise self.refuse("calibration")
        return value

    def _number(self, value: Any, least: float = -1e9, most: float = 1e9) -> float:  # noqa: ANN401
        """Take a number of a calibration, within bounds: neither nan nor infinite."""
        if type(value) not in {int, float} or not least <= value <= most:
            raise self.refuse("calibration")
        return float(value)

    def classes(self, count: int) -> dict[str, int]:
        value = self.document.get("classes")
        if not isinstance(value, dict) or not all(
            type(number) is int and number > 0 for number in value.values()
        ):
            raise self.refuse("classes")
        if sum(value.values()) > count or list(value) != sorted(value):
            raise self.refuse("classes")
        if not all(map(_is_name, value)):
            raise self.refuse("classes")
        return value

    def preprocessing(self) -> Preprocess | None:
        value = self.document.get("preprocessing", ...)
        if value is None:
            return None
        keys = {"resize", "crop", "interpolation", "mean", "std"}
        if not isinstance(value, dict) or set(value) - {"reduce"} != keys:
            raise self.refuse("preprocessing")
        reduce = value.get("reduce", 0)  # the first indexes were made of whole pictures
        if type(reduce) is not int or not 0 <= reduce <= 8192:  # noqa: PLR2004
            raise self.refuse("preprocessing")
        sides = (value["resize"], value["crop"])
        if not all(type(side) is int and 0 < side <= 8192 for side in sides):  # noqa: PLR2004
            raise self.refuse("preprocessing")
        if value["interpolation"] not in ("nearest", "bilinear", "bicubic", "lanczos"):
            raise self.refuse("preprocessing")
        mean, std = (self._triple(value[name]) for name in ("mean", "std"))
        if min(std) <= 0:
            raise self.refuse("preprocessing")
        return Preprocess(sides[0], sides[1], value["interpolation"], mean, std, reduce)

    def _triple(self, value: Any) -> tuple[float, float, float]:  # noqa: ANN401 - parsed JSON
        numbers = value if isinstance(value, list) else []
        if not all(type(number) in {int, float} for number in numbers):
            raise self.refuse("preprocessing")
        try:
            red, green, blue = (float(number) for number in numbers)
        except (ValueError, OverflowError):
            raise self.refuse("preprocessing") from None
        if not all(map(math.isfinite, (red, green, blue))):
            raise self.refuse("preprocessing")
        return red, green, blue

    def files(self) -> dict[str, FileEntry]:
        value = self.document.get("files")
        if not isinstance(value, dict) or not {"vectors", "items"} <= set(value) <= set(_NAMES):
            raise self.refuse("files")
        entries = {}
        for kind, entry in value.items():
            if not isinstance(entry, dict) or set(entry) != {"name", "size", "sha256"}:
                raise self.refuse("files")
            name, size, total = entry["name"], entry["size"], entry["sha256"]
            if not isinstance(name, str) or not _NAMES[kind].fullmatch(name):
                raise self.refuse("files")
            if type(size) is not int or not 0 <= size < _MAX_NUMBER:
                raise self.refuse("files")
            if not isinstance(total, str) or not _HEX.fullmatch(total):
                raise self.refuse("files")
            if data_name(kind, total) != name:
                raise self.refuse("files")
            entries[kind] = FileEntry(name, size, total)
        return entries
