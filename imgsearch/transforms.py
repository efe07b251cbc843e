"""A transform learned from labels: what it does to a vector, and the file that keeps it.

A unit vector x becomes one or two parts side by side: c = x - mean itself, or c times a matrix,
each brought to unit length and multiplied by the root of its weight. The cosine of two vectors that
went through it is then the weighted mean of the cosines of their parts.

The result is the same to the last bit whatever batch a vector stands in, and whatever library
multiplies: vectors and matrices are whole multiples of powers of two, so that a product of both and
every sum on the way to it is a number that float64 holds without rounding. With c a multiple of
2**-25 and no longer than 2, a column a multiple of 2**-26 and no longer than 1, each partial sum is
a multiple of 2**-51 and, by Cauchy and Schwarz, at most 2 (and a little): less than 2**53 of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch.errors import IndexCorruptError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

_VECTOR_GRID, _MATRIX_GRID = 2.0**25, 2.0**26
_MOST_PARTS = 2
_LONGEST = 1 + 1e-5  # of a mean of unit vectors
_NEAR_ONE = 1e-9
# Bytes of a file beside its numbers: names and shapes.
_HEAD_BYTES = 1 << 12
_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class Part:
    """One part of what comes out: its `weight`, and its `matrix`, float64 (dim, width).

    The numbers of a matrix are those of a float32. Without one it is the centred vector itself.
    """

    weight: float
    matrix: Doubles | None = None


@dataclass(frozen=True, slots=True)
class Transform:
    """What is done to a unit vector: `mean` is float64 (dim,), the weights of `parts` sum to 1."""

    mean: Doubles
    parts: tuple[Part, ...]

    @property
    def dim(self) -> int:
        """How many numbers go in."""
        return len(self.mean)

    @property
    def width(self) -> int:
        """How many numbers come out."""
        return sum(self.dim if part.matrix is None else part.matrix.shape[1] for part in self.parts)

    def apply(self, rows: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Transform many vectors.

        Args:
            rows: unit vectors, float32 (n, dim).

        Returns:
            Unit vectors, float32 (n, width), and which of them have a direction, bool (n,): one
            that is the mean itself has none.
        """
        out = np.zeros((len(rows), self.width), np.float32)
        good = np.zeros(len(rows), np.bool_)
        step = max(1, _BLOCK_BYTES // (8 * max(self.dim, self.width)))
        for first in range(0, len(rows), step):
            block = slice(first, first + step)
            out[block], good[block] = self._block(rows[block].astype(np.float64))
        return out, good

    def one(self, vector: Floats) -> Floats | None:
        """Transform one unit vector, float32 (dim,); None where nothing has a direction."""
        rows, good = self.apply(vector[None, :])
        return rows[0] if good[0] else None

    def _block(self, rows: Doubles) -> tuple[Doubles, npt.NDArray[np.bool_]]:
        out, weights = np.empty((len(rows), self.width)), np.zeros(len(rows))
        at = 0
        for part in self.parts:
            if part.matrix is None:
                values = rows - self.mean
            else:
                values = (_on_grid(rows, _VECTOR_GRID) - self.mean) @ part.matrix
            lengths = _lengths(values)
            some = lengths > 0
            values[some] /= lengths[some, None]
            out[:, at : at + values.shape[1]] = values * math.sqrt(part.weight)
            weights[some] += part.weight
            at += values.shape[1]
        good = weights > 0
        short = good & (weights < 1 - _NEAR_ONE)  # a part that is zero leaves the rest too short
        out[short] /= np.sqrt(weights[short])[:, None]
        return out, good

    def to_bytes(self) -> bytes:
        """Encode as safetensors: `mean`, `weights` (float64), and `matrix_I` of part I."""
        from safetensors.numpy import save

        tensors: dict[str, Floats | Doubles] = {
            "mean": self.mean.astype(np.float32),
            "weights": np.array([part.weight for part in self.parts], np.float64),
        }
        for i, part in enumerate(self.parts):
            if part.matrix is not None:
                tensors[f"matrix_{i}"] = part.matrix.astype(np.float32)
        return bytes(save(tensors))


def make_transform(mean: Doubles, parts: Sequence[tuple[float, Doubles | None]]) -> Transform:
    """Make a transform of a mean, (dim,), and of weights with their matrices, (dim, width).

    A matrix is divided by the length of its longest column, which changes nothing, and rounded.
    """
    made = []
    for weight, matrix in parts:
        if matrix is None:
            made.append(Part(weight))
            continue
        longest = float(np.sqrt(np.einsum("ij,ij->j", matrix, matrix).max()))
        # A little shorter, so that rounding makes no column longer than 1.
        scaled = (matrix / (longest * (1 + 2.0**-10))).astype(np.float32)
        made.append(Part(weight, _on_grid(scaled, _MATRIX_GRID)))
    return Transform(_on_grid(mean.astype(np.float32), _VECTOR_GRID), tuple(made))


def most_bytes(dim: int, width: int) -> int:
    """Return the size that no file of a transform from dim to width numbers can pass."""
    return _HEAD_BYTES + 8 * _MOST_PARTS + 4 * dim * (1 + width)


def read_transform(data: bytes, name: str, dim: int, width: int) -> Transform:
    """Decode a transform of `dim` numbers to `width`; nothing in `data` is believed.

    Raises:
        IndexCorruptError: it is anything else; the text names the file as `name`.
    """
    if len(data) > most_bytes(dim, width):
        raise IndexCorruptError(name, "it is larger than any transform of its index")
    tensors = _Tensors(data, name)
    weights = tensors.take("weights", "F64", [None])
    whole = 1 <= len(weights) <= _MOST_PARTS and abs(weights.sum() - 1) <= _NEAR_ONE
    if not whole or weights.min() <= 0:
        raise tensors.refuse("weights")
    mean = tensors.take("mean", "F32", [dim])
    if not _is_on(mean, _VECTOR_GRID) or np.sqrt(mean @ mean) > _LONGEST:
        raise tensors.refuse("mean")
    parts = [
        Part(weight, tensors.take_matrix(f"matrix_{i}", dim))
        for i, weight in enumerate(weights.tolist())
    ]
    made = Transform(mean, tuple(parts))
    if tensors.left or made.width != width:
        raise IndexCorruptError(name, f"it does not give the {width:,} numbers of a row")
    return made


class _Tensors:
    """Takes tensors out of a file, each with its type and shape, or refuses the file."""

    def __init__(self, data: bytes, name: str) -> None:
        import safetensors

        self._name = name
        try:
            found: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
        except safetensors.SafetensorError as error:
            raise IndexCorruptError(name, "it is no file of safetensors") from error
        self.left = dict(found)

    def refuse(self, key: str) -> IndexCorruptError:
        return IndexCorruptError(self._name, f"its '{key}' cannot be that of a transform")

    def take(self, key: str, kind: str, shape: list[int | None]) -> Doubles:
        """Take finite numbers of this type and shape; None is any length."""
        found = self.left.pop(key, None)
        if found is None or found["dtype"] != kind or len(found["shape"]) != len(shape):
            raise self.refuse(key)
        if any(due not in {None, size} for size, due in zip(found["shape"], shape, strict=True)):
            raise self.refuse(key)
        values = np.frombuffer(bytes(found["data"]), {"F32": "<f4", "F64": "<f8"}[kind])
        if not values.size or not np.isfinite(values).all():
            raise self.refuse(key)
        return values.reshape(found["shape"]).astype(np.float64)

    def take_matrix(self, key: str, dim: int) -> Doubles | None:
        """Take a matrix as `make_transform` makes it; None where there is none of that name."""
        if key not in self.left:
            return None
        matrix = self.take(key, "F32", [dim, None])
        longest = np.einsum("ij,ij->j", matrix, matrix).max()
        if not 0 < longest <= 1 or not _is_on(matrix, _MATRIX_GRID):
            raise self.refuse(key)
        return matrix


def _on_grid(values: npt.NDArray[np.floating], grid: float) -> Doubles:
    return np.asarray(np.rint(values * np.float64(grid)) / grid, np.float64)


def _is_on(values: Doubles, grid: float) -> bool:
    return bool(np.array_equal(_on_grid(values, grid), values))


def _lengths(rows: Doubles) -> Doubles:
    """Return the lengths of rows, float64 (n,): the squares are summed without rounding."""
    squares = rows * rows
    return np.sqrt(np.array([math.fsum(row.tolist()) for row in squares], np.float64))
