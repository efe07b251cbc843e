"""Directions in which labelled vectors differ: what a transform is learned from, in plain numpy.

The vectors of a class scatter about their mean (within), and the means about their own (between).
Whitening divides by the scatter within; linear discriminants are the directions in which the
scatter between is largest beside it.

- Fisher, The Use of Multiple Measurements in Taxonomic Problems (1936); Rao, The Utilization of
  Multiple Measurements in Problems of Biological Classification (1948): discriminants.
- Ledoit and Wolf, A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices (2004):
  the scatter within is drawn towards a multiple of the identity, and by how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    Doubles = npt.NDArray[np.float64]
    Ids = npt.NDArray[np.integer]

# A scatter below this, beside vectors of length 1, is rounding.
_LEAST = 1e-10
# Means that differ by less, beside the direction in which they differ most, differ by rounding.
_NEGLIGIBLE = 1e-6
_BLOCK_BYTES = 1 << 25


@dataclass(frozen=True, slots=True)
class Moments:
    """What is summed over labelled vectors: sums of two sets of them may be added.

    `counts` is float64 (classes,), `sums` float64 (classes, dim) is the sum of the vectors of each
    class, `products` float64 (dim, dim) the sum of x x' over all.
    """

    counts: Doubles
    sums: Doubles
    products: Doubles

    def __add__(self, other: Moments) -> Moments:
        """Return those of both sets together."""
        return Moments(
            self.counts + other.counts, self.sums + other.sums, self.products + other.products
        )


def moments(rows: npt.NDArray[np.floating], ids: Ids, classes: int) -> Moments:
    """Sum over vectors, (n, dim), whose classes are `ids`, (n,), each from 0 to `classes` - 1."""
    wide = np.asarray(rows, np.float64)
    order = np.argsort(ids, kind="stable")
    present, starts = np.unique(ids[order], return_index=True)
    sums = np.zeros((classes, wide.shape[1]))
    if len(present):
        sums[present] = np.add.reduceat(wide[order], starts, axis=0)
    counts = np.bincount(ids, minlength=classes).astype(np.float64)
    return Moments(counts, sums, wide.T @ wide)


@dataclass(frozen=True, slots=True)
class Fit:
    """Mean and scatter of labelled vectors, in the axes of the scatter within.

    `mean` is (dim,); `axes` (dim, dim) has the axes as columns and `scatter` (dim,) is the mean
    square along each; `between` (classes, dim) holds what the class means differ from the mean by,
    in these axes, times the root of the class' share. `level` is the scatter that a shrinkage draws
    towards, the same in every direction, and `best_shrinkage` Ledoit's and Wolf's, 0 to 1.
    """

    mean: Doubles
    axes: Doubles
    scatter: Doubles
    between: Doubles
    level: float
    best_shrinkage: float

    def whitening(self, shrinkage: float) -> Doubles:
        """Return the matrix, (dim, dim), that makes the scatter within the same in all directions.

        Args:
            shrinkage: from 0 to 1, how far the scatter is drawn towards `level`.
        """
        return self.axes * self._scales(shrinkage)

    def discriminants(self, shrinkage: float) -> Doubles:
        """Return the discriminants, (dim, at most classes - 1), the strongest first.

        The scatter within, with this shrinkage, is 1 along each, and they are uncorrelated. Where
        the means do not differ there is one, and it is zero.
        """
        scaled = self.between * self._scales(shrinkage)
        # The right singular vectors, by the smaller of both products.
        if len(scaled) < scaled.shape[1]:
            squares, left = np.linalg.eigh(scaled @ scaled.T)
            right = scaled.T @ left
        else:
            squares, right = np.linalg.eigh(scaled.T @ scaled)
        kept = squares > max(_LEAST, _NEGLIGIBLE**2 * squares.max(initial=0.0))
        # Means about their own mean are one direction fewer than there are classes.
        kept[: max(0, len(squares) - max(1, len(self.between) - 1))] = False
        if not kept.any():
            return np.zeros((len(self.mean), 1))
        right = right[:, kept][:, ::-1]
        right = right / np.sqrt(np.einsum("ij,ij->j", right, right))
        return np.asarray(self.whitening(shrinkage) @ right, np.float64)

    def _scales(self, shrinkage: float) -> Doubles:
        shrunk = (1 - shrinkage) * self.scatter + shrinkage * self.level
        return np.asarray(1 / np.sqrt(np.maximum(shrunk, _LEAST)), np.float64)


def fit(found: Moments, parts: Iterable[tuple[npt.NDArray[np.floating], Ids]], dim: int) -> Fit:
    """Find mean, axes and shrinkage of labelled vectors.

    Args:
        found: their moments.
        parts: the same vectors with their classes, part by part, once more.
        dim: of the space that they lie in, where the moments are those of their coordinates in a
            part of it that holds them all.
    """
    total = found.counts.sum()
    present = found.counts > 0
    means = np.zeros_like(found.sums)
    means[present] = found.sums[present] / found.counts[present, None]
    weighted = means * np.sqrt(found.counts / total)[:, None]
    within = found.products / total - weighted.T @ weighted
    level = float(np.trace(within)) / dim
    mean = found.sums.sum(axis=0) / total
    scatter, axes = np.linalg.eigh((within + within.T) / 2)
    scatter = np.maximum(scatter, 0.0)
    between = (means[present] - mean) * np.sqrt(found.counts[present] / total)[:, None]
    fourth = sum(_fourth_powers(rows, ids, means) for rows, ids in parts) / total
    return Fit(
        mean=mean,
        axes=axes,
        scatter=scatter,
        between=between @ axes,
        level=level,
        best_shrinkage=_ledoit_wolf(float(scatter @ scatter), fourth, level, total, dim),
    )


def _ledoit_wolf(squares: float, fourth: float, level: float, total: float, dim: int) -> float:
    """Return the shrinkage of Ledoit and Wolf (2004), section 3.3, from 0 to 1.

    d2 is the squared distance of the scatter from the multiple of the identity that is nearest, b2
    the mean one of a single vector's product from the scatter, over the number of vectors.

    Args:
        squares: the sum of the squares of the scatter's numbers.
        fourth: the mean fourth power of the vectors' distances from their class means.
        level: the trace of the scatter over dim.
        total: how many vectors.
        dim: their numbers.
    """
    d2 = squares - dim * level**2
    b2 = (fourth - squares) / total
    if d2 <= 0 or b2 <= 0:
        return 1.0 if d2 <= 0 else 0.0
    return float(min(b2 / d2, 1.0))


def _fourth_powers(rows: npt.NDArray[np.floating], ids: Ids, means: Doubles) -> float:
    """Return the sum of the fourth powers of the distances of vectors from their class means."""
    step = max(1, _BLOCK_BYTES // (8 * means.shape[1]))
    total = 0.0
    for first in range(0, len(rows), step):
        away = rows[first : first + step] - means[ids[first : first + step]]
        squares = np.einsum("ij,ij->i", away, away)
        total += float(squares @ squares)
    return total
