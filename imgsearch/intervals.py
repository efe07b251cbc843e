"""How far a mean could move had other queries been asked: bootstrap intervals, by query or group.

Queries that hang together (ten photos of one flat) are drawn together, as a group: Davison and
Hinkley, Bootstrap Methods and their Application (1997), chapter 3. A plain percentile interval is
too narrow where few are drawn, by the factor sqrt(n / (n - 1)) t / z at which a normal sample would
show it (Hesterberg, What Teachers Should Know About the Bootstrap, 2015): both functions make up
for it.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Table = npt.NDArray[np.float64]

# A class of fewer queries, or groups of queries, is marked: its figures say little.
FEW = 10
# How many random numbers are drawn at once: 8 MiB of them.
_CHUNK = 2**20
# Degrees of freedom above which the expansion of t is right to the last digits.
_EXPANDED = 20_000


def measure_intervals(
    values: Table,
    groups: Sequence[int] | npt.NDArray[np.integer] | None = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Table:
    """Intervals of the column means of measures, whose values lie from 0 to 1.

    The Bayesian bootstrap (Rubin 1981): each group's weight is drawn from the exponential
    distribution, for all columns alike. One query that nobody asked is added, half of it right and
    half of it wrong (weights drawn from the gamma distribution of 1/2). For values of 0 and 1 that
    gives the interval of Jeffreys (Brown, Cai and DasGupta 2001), and it keeps an interval from
    having no width where 25 of 25 queries were right. Where queries of a group are alike, the
    query that is added weighs as much more as they tell less (the design effect, Kish 1965, from 1
    to the mean size of a group). The ends are not the quantiles 0.025 and 0.975 but those at which
    a normal sample of n groups would be covered: Phi(-t sqrt((n+1)/n)) with n degrees of freedom.

    Args:
        values: float64 of shape (n_queries, n_measures), 0 to 1, n_queries at least 1.
        groups: for each query the number of its group, any integers; each its own unless given.
        n_resamples: how often weights are drawn, at least 1.
        confidence: between 0 and 1, both excluded.
        seed: of the random numbers; the same arguments give the same intervals.

    Returns:
        float64 of shape (n_measures, 2), low and high, 0 to 1, the mean between them. Memory: about
        32 MiB, or 40 bytes a query where that is more.

    Raises:
        ValueError: an argument is outside the range named above.
    """
    table, sums, sizes = _by_group(values, groups)
    if table.min() < 0 or table.max() > 1:
        raise ValueError("values of measures must lie from 0 to 1")
    _check(n_resamples, confidence)
    n_groups, n_queries = len(sizes), len(table)
    means = sums.sum(axis=0) / n_queries
    weight = _design_effect(table, sums, sizes)
    random = np.random.default_rng(seed)
    drawn = np.empty((n_resamples, table.shape[1]))
    for part, size in _parts(n_resamples, n_groups):
        weights = random.exponential(size=(size, n_groups))
        right, wrong = random.gamma(0.5, size=(2, size, 1))
        total = (weights @ sizes)[:, np.newaxis] + (right + wrong) * weight
        drawn[part] = (weights @ sums + right * weight) / total
    tail = _tail(n_groups + 1, confidence)
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    # All right is an end that a mean can have, though no draw has it.
    bounds: Table = np.stack([np.minimum(low, means), np.maximum(high, means)], axis=1).clip(0, 1)
    return bounds


def bootstrap_intervals(
    values: Table,
    groups: Sequence[int] | npt.NDArray[np.integer] | None = None,
    *,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Table:
    """Intervals of column means of anything: of the differences of paired measures, say.

    Groups are drawn with replacement, whole, for all columns alike. The percentile interval of the
    means that come out (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13)
    is stretched about the mean by sqrt(n/(n-1)) t / z: n groups, n - 1 degrees of freedom. Where
    all values are equal it has no width.

    Args:
        values: finite float64 of shape (n_queries, n_columns), n_queries at least 1.
        groups: as in `measure_intervals`.
        n_resamples: how often the groups are drawn again, at least 1.
        confidence: between 0 and 1, both excluded.
        seed: of the random numbers; the same arguments give the same intervals.

    Returns:
        float64 of shape (n_columns, 2), low and high; minus and plus infinity for a single group,
        which says nothing of others.

    Raises:
        ValueError: an argument is outside the range named above.
    """
    table, sums, sizes = _by_group(values, groups)
    _check(n_resamples, confidence)
    n_groups = len(sizes)
    if n_groups == 1:
        return np.tile([-np.inf, np.inf], (table.shape[1], 1))
    random = np.random.default_rng(seed)
    drawn = np.empty((n_resamples, table.shape[1]))
    for part, size in _parts(n_resamples, n_groups):
        picks = random.integers(n_groups, size=(size, n_groups))
        picks += np.arange(size)[:, np.newaxis] * n_groups
        counted = np.bincount(picks.ravel(), minlength=size * n_groups)
        times = counted.reshape(size, n_groups).astype(np.float64)
        drawn[part] = times @ sums / (times @ sizes)[:, np.newaxis]
    # A sum may round past its terms: no mean leaves the range, and equal values stay as they are.
    drawn = drawn.clip(table.min(axis=0), table.max(axis=0))
    means = (sums.sum(axis=0) / len(table)).clip(table.min(axis=0), table.max(axis=0))
    plain = (1 - confidence) / 2
    stretch = _quantile(_tail(n_groups, confidence)) / _quantile(plain)
    ends = np.quantile(drawn, [plain, 1 - plain], axis=0)
    return np.asarray((means + stretch * (ends - means)).T, np.float64)


def _by_group(
    values: Table, groups: Sequence[int] | npt.NDArray[np.integer] | None
) -> tuple[Table, Table, Table]:
    """Return the values, and for each group the sums of its columns and how many queries it has."""
    table = np.asarray(values, dtype=np.float64)
    if table.ndim != 2 or not len(table):  # noqa: PLR2004 - two dimensions: queries and measures
        raise ValueError(f"values must have the shape (n_queries, n_measures), not {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("values must be finite")
    if groups is None:
        return table, table, np.ones(len(table))
    if len(groups) != len(table):
        raise ValueError(f"{len(groups)} groups were given for {len(table)} queries")
    which = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes = np.bincount(which).astype(np.float64)
    sums = np.zeros((len(sizes), table.shape[1]))
    np.add.at(sums, which, table)
    return table, sums, sizes


def _check(n_resamples: int, confidence: float) -> None:
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, not {n_resamples}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, not {confidence}")


def _parts(total: int, n_groups: int) -> Iterator[tuple[slice, int]]:
    """Yield slices of the resamples, and their lengths, that need little memory."""
    at_once = max(1, _CHUNK // n_groups)
    for start in range(0, total, at_once):
        size = min(at_once, total - start)
        yield slice(start, start + size), size


def _design_effect(table: Table, sums: Table, sizes: Table) -> Table:
    """How many queries of a group tell as much as one alone, for each column: from 1 up."""
    n_queries, n_groups = len(table), len(sizes)
    if n_groups in {1, n_queries}:
        return np.ones(table.shape[1], np.float64)
    means = sums.sum(axis=0) / n_queries
    alone = ((table - means) ** 2).sum(axis=0) / (n_queries - 1) / n_queries
    together = ((sums - sizes[:, np.newaxis] * means) ** 2).sum(axis=0)
    together *= n_groups / (n_groups - 1) / n_queries**2
    effect = np.divide(together, alone, out=np.ones_like(alone), where=alone > 0)
    return np.asarray(effect.clip(1, n_queries / n_groups), np.float64)


def _tail(number: int, confidence: float) -> float:
    """Return the quantile that covers a normal sample of `number` as t does."""
    t = student_quantile(number - 1, (1 - confidence) / 2)
    return NormalDist().cdf(t * math.sqrt(number / (number - 1)))


def _quantile(tail: float) -> float:
    return NormalDist().inv_cdf(tail)


@functools.lru_cache(maxsize=1024)
def student_quantile(degrees: int, tail: float) -> float:
    """Return the quantile of Student's t for a probability.

    By bisection of the distribution function, a finite sum for whole degrees of freedom (Abramowitz
    and Stegun 1964, 26.7.3 and 26.7.4); above 20,000 by its expansion about the normal quantile
    (26.7.5). scipy has it, and would be a fifth of what a service installs.

    Args:
        degrees: degrees of freedom, at least 1.
        tail: the probability, between 0 and 1, both excluded.
    """
    normal = NormalDist().inv_cdf(tail)
    if degrees > _EXPANDED:
        cube = normal**3
        first = (cube + normal) / (4 * degrees)
        return normal + first + (5 * normal**5 + 16 * cube + 3 * normal) / (96 * degrees**2)
    if tail == 0.5:  # noqa: PLR2004 - the middle
        return 0.0
    odd = degrees % 2
    # Each term is the one before times this and the square of the cosine.
    steps = np.arange(1 + odd, degrees - 1, 2, dtype=np.float64)
    ratios = np.cumprod(steps / (steps + 1))
    # The angle whose tangent is |t| / sqrt(degrees).
    low, high = 0.0, math.pi / 2
    wanted = abs(1 - 2 * tail)
    while (angle := (low + high) / 2) not in {low, high}:
        cosine = math.cos(angle)
        powers = np.cumprod(np.full(len(ratios), cosine * cosine))
        total = 1 + float(ratios @ powers) if degrees > 1 else 0.0
        within = math.sin(angle) * total
        if odd:
            within = 2 / math.pi * (angle + within * cosine)
        low, high = (low, angle) if within > wanted else (angle, high)
    return math.copysign(math.tan(angle) * math.sqrt(degrees), tail - 0.5)
