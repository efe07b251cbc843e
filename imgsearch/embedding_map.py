"""A map of an embedding: each picture as a point in the plane.

PCA is a projection along the two directions in which the vectors vary most. They come from the
covariance of all rows, which is summed block by block, so that memory does not grow with the
rows, by orthogonal iteration (Golub and Van Loan, Matrix Computations, section 8.2). Where vectors
are too long for a covariance, products with the rows take its place. UMAP (McInnes, Healy and
Melville 2018) is a package of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from imgsearch.errors import InputError, MissingPackageError
from imgsearch.metrics import spread
from imgsearch.vectors import aligned

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from imgsearch.ranking import Floats, Rows

    Doubles = npt.NDArray[np.float64]

MapKind = Literal["pca", "umap", "none"]
MAPS: tuple[MapKind, ...] = ("pca", "umap", "none")
# Points that a map shows: more would only cover each other, and make the page large.
MOST_POINTS = 20_000
# A covariance of more numbers than this squared takes more memory than 128 MB.
_WIDEST = 4096
_BLOCK = 1 << 22
_DIRECTIONS, _MOST_PASSES, _SETTLED = 12, 100, 1e-12
_UMAP_NEIGHBORS, _FEWEST = 15, 10


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """Where points lie.

    `rows` int64 (n,) are the base rows that are shown, ascending, `base` float32 (n, 2) where they
    lie; `queries` float32 (m, 2) where the queries of a test set lie, (0, 2) where there are none.
    `shares` are those of the variance that the two directions of a PCA hold, None for UMAP; `dim`
    is how many numbers a vector has.
    """

    kind: MapKind
    rows: Rows
    base: Floats
    queries: Floats
    shares: tuple[float, float] | None
    dim: int


def check_map(kind: str, count: int) -> None:
    """Refuse what cannot be drawn, before any work.

    Raises:
        InputError: there is no such map, or the index has too few rows for it.
        MissingPackageError: UMAP is wanted and its package is not installed.
    """
    if kind not in MAPS:
        raise InputError(f"--map is one of {', '.join(MAPS)}, not '{kind[:40]}'")
    if kind == "umap":
        if count < _FEWEST:
            raise InputError(f"a map by umap needs {_FEWEST} rows or more; take --map pca")
        from importlib.util import find_spec

        if find_spec("umap") is None:
            raise MissingPackageError("umap-learn", "map", "--map umap", "take --map pca")


def make_map(vectors: Floats, queries: Floats, kind: MapKind) -> EmbeddingMap | None:
    """Lay out the rows of an index, and the queries of a test set among them.

    Args:
        vectors: unit rows, float32 (count, dim); they may be mapped from a file.
        queries: unit rows, float32 (m, dim); none for leave-one-out.
        kind: how; None is returned for "none".

    Raises:
        InputError, MissingPackageError: as `check_map`.
    """
    count, dim = vectors.shape
    check_map(kind, count)
    if kind == "none":
        return None
    rows = np.array(spread(count, min(count, MOST_POINTS)), np.int64)
    queries = queries[np.array(spread(len(queries), min(len(queries), MOST_POINTS)), np.int64)]
    if kind == "umap":
        both = np.concatenate([aligned(vectors[rows]), queries])
        points = _umap(both)
        return EmbeddingMap(
            kind, rows, points[: len(rows)], points[len(rows) :], shares=None, dim=dim
        )
    mean, axes, shares = principal_axes(vectors)
    base = np.concatenate(
        [_project(vectors[rows[some]], mean, axes) for some in _slices(len(rows), dim)]
    )
    return EmbeddingMap(kind, rows, base, _project(queries, mean, axes), shares, dim)


def _project(vectors: Floats, mean: Doubles, axes: Doubles) -> Floats:
    points: Floats = ((aligned(np.ascontiguousarray(vectors)) - mean) @ axes).astype(np.float32)
    return points


def principal_axes(vectors: Floats) -> tuple[Doubles, Doubles, tuple[float, float]]:
    """Find the mean, the two directions of most variance, and the share that each holds.

    Args:
        vectors: float32 (count, dim).

    Returns:
        The mean, float64 (dim,), the axes, float64 (dim, 2), each of unit length and with its
        largest coordinate positive (zero where there is no such direction), and their shares.
    """
    count, dim = vectors.shape
    mean = np.zeros(dim)
    for some in _slices(count, dim):
        mean += aligned(vectors[some]).sum(axis=0, dtype=np.float64)
    mean /= count
    route = _by_covariance if dim <= _WIDEST else _by_iteration
    values, axes, total = route(vectors, mean)
    found = np.zeros((dim, 2))
    shares = [0.0, 0.0]
    for i, value in enumerate(values.tolist()):
        # What rounding leaves where all rows lie on a line is no direction.
        if value > total * _SETTLED:
            axis = axes[:, i]
            found[:, i] = axis * np.sign(axis[np.argmax(np.abs(axis))])
            shares[i] = min(1.0, value / total)
    return mean, found, (shares[0], shares[1])


def _by_covariance(vectors: Floats, mean: Doubles) -> tuple[Doubles, Doubles, float]:
    """Return the two largest sums of squares along a direction, the directions, and all of them."""
    count, dim = vectors.shape
    products = np.zeros((dim, dim))
    for some in _slices(count, dim):
        part = aligned(vectors[some]) - mean.astype(np.float32)
        products += part.T @ part
    values, axes, settled = _leading(lambda axes: products @ axes, dim)
    if not settled:
        # The first two are hardly ahead of all others. This takes seconds, and is never wrong.
        values, axes = np.linalg.eigh(products)
        values, axes = values[::-1], axes[:, ::-1]
    return values[:2], axes[:, :2], float(products.trace())


def _by_iteration(vectors: Floats, mean: Doubles) -> tuple[Doubles, Doubles, float]:
    """Return the same of vectors too long for their covariance, as far as passes allow."""
    count, dim = vectors.shape
    total = 0.0
    for some in _slices(count, dim):
        total += float(((aligned(vectors[some]) - mean) ** 2).sum())

    def multiply(axes: Doubles) -> Doubles:
        image = np.zeros_like(axes)
        for some in _slices(count, dim):
            part = aligned(vectors[some]) - mean
            image += part.T @ (part @ axes)
        return image

    values, axes, _ = _leading(multiply, dim)
    return values[:2], axes[:, :2], total


def _leading(multiply: Callable[[Doubles], Doubles], dim: int) -> tuple[Doubles, Doubles, bool]:
    """Multiply a block of directions by a covariance until the first two stay as they are."""
    start = np.random.default_rng(0).standard_normal((dim, min(_DIRECTIONS, dim)))
    axes = np.linalg.qr(start)[0]
    values = np.zeros(axes.shape[1])
    for _ in range(_MOST_PASSES):
        image = multiply(axes)
        before = values
        values, turn = np.linalg.eigh(axes.T @ image)
        values, turn = values[::-1], turn[:, ::-1]
        axes = np.linalg.qr(image @ turn)[0]
        if np.all(np.abs(values - before)[:2] <= _SETTLED * values[0]):
            return values, axes, True
    return values, axes, False


def _slices(count: int, dim: int) -> list[slice]:
    step = max(1, _BLOCK // dim)
    return [slice(first, first + step) for first in range(0, count, step)]


def _umap(vectors: Floats) -> Floats:
    import warnings

    with warnings.catch_warnings():
        # What it tells of its own threads and of rare pictures far from all others.
        warnings.simplefilter("ignore")
        try:
            from umap import UMAP
        except ImportError as error:
            raise MissingPackageError(
                "umap-learn", "map", "--map umap", "take --map pca"
            ) from error
        layout = UMAP(
            n_neighbors=min(_UMAP_NEIGHBORS, len(vectors) - 1),
            metric="cosine",
            random_state=0,
            n_jobs=1,
        )
        points: Floats = np.asarray(layout.fit_transform(vectors), np.float32)
    return np.nan_to_num(points)
