"""Intervals of means: as sure as they say, by query and by group, and the same every time."""

from __future__ import annotations

import math
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.stats

from imgsearch.intervals import bootstrap_intervals, measure_intervals, student_quantile

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Table = npt.NDArray[np.float64]

BOTH = [measure_intervals, bootstrap_intervals]


def sample(n: int) -> Table:
    """Values of n random queries in three measures: fractions of five, skewed, its complement."""
    random = np.random.default_rng(n)
    skewed = random.beta(0.5, 2, n)
    return np.stack([random.integers(0, 6, n) / 5, skewed, 1 - skewed], axis=1)


def covered(bounds: Table, truth: float) -> float:
    """Share of the intervals that hold the truth."""
    return float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))


def matches(random: np.random.Generator, groups: npt.NDArray[np.int64], mean: float) -> Table:
    """Right matches of five in 1,000 sets; queries of a group have the same chance of each."""
    spread = 1 / 0.3 - 1
    shared = random.beta(mean * spread, (1 - mean) * spread, (groups.max() + 1, 1000))
    return random.binomial(5, shared[groups]) / 5


@pytest.mark.parametrize("method", BOTH)
def test_the_same_for_the_same_seed_only(method: Callable[..., Table]) -> None:
    """Same values and seed: same bits. Another seed: others. The input is left as it was."""
    table = sample(40)
    before = table.copy()
    first = method(table)
    assert first.shape == (3, 2)
    assert first.dtype == np.float64
    np.testing.assert_array_equal(first, method(table))
    assert not np.array_equal(first, method(table, seed=1))
    np.testing.assert_array_equal(table, before)


@pytest.mark.parametrize("size", [25, 100])
@pytest.mark.parametrize("a_group", [1, 5])
def test_measures_are_covered_as_often_as_is_said(size: int, a_group: int) -> None:
    """Of 1,000 sets 93 to 98.5% of the intervals hold the true mean, with five groups as well."""
    random = np.random.default_rng(size + a_group)
    groups = np.arange(size) // a_group
    found = covered(measure_intervals(matches(random, groups, 0.6), groups), 0.6)
    assert 0.93 <= found <= 0.985


@pytest.mark.parametrize("a_group", [1, 5])
def test_no_difference_is_seldom_taken_for_one(a_group: int) -> None:
    """Of 1,000 pairs that differ by nothing, over 100 queries, 3 to 7% are said to differ."""
    random = np.random.default_rng(7 + a_group)
    groups = np.arange(100) // a_group
    difference = matches(random, groups, 0.6) - matches(random, groups, 0.6)
    alarms = 1 - covered(bootstrap_intervals(difference, groups), 0.0)
    assert 0.03 <= alarms <= 0.07


def test_drawing_queries_of_a_group_one_by_one_would_be_too_sure() -> None:
    """Where queries of a group are alike, the interval by group is wider: up to the size's root."""
    groups = np.repeat(np.arange(50), 8)
    values = np.random.default_rng(0).random((50, 1))[groups]
    for method in BOTH:
        together, alone = (np.diff(method(values, its))[0, 0] for its in (groups, None))
        assert together / alone == pytest.approx(math.sqrt(8), rel=0.1)


@pytest.mark.parametrize("method", BOTH)
def test_groups_of_one_are_no_groups(method: Callable[..., Table]) -> None:
    """Numbers of groups are only names: each query its own group is the same as none."""
    table = sample(30)
    names = np.random.default_rng(3).permutation(30) * 7 - 50
    np.testing.assert_allclose(
        method(table[np.argsort(names)], np.sort(names)), method(table[np.argsort(names)])
    )


def test_all_right_is_not_proof_of_perfection() -> None:
    """Of 25 queries that are all right the interval is that of Jeffreys, a little widened."""
    low, high = measure_intervals(np.ones((25, 1)))[0]
    assert high == 1
    jeffreys = scipy.stats.beta.ppf(0.025, 25.5, 0.5)
    assert jeffreys - 0.03 < low < jeffreys
    # Of yes and no it is his as well, and the mean lies inside.
    low, high = measure_intervals(np.repeat([[0.0], [1.0]], [600, 400], axis=0))[0]
    due = scipy.stats.beta.ppf([0.025, 0.975], 400.5, 600.5)
    np.testing.assert_allclose([low, high], due, atol=0.003)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_few_queries_say_next_to_nothing(n: int) -> None:
    """Five queries or fewer leave more than a third of 0 to 1 open, and a single one nearly all."""
    low, high = measure_intervals(np.full((n, 1), 0.5))[0]
    assert high - low > (0.9 if n == 1 else 0.35)


def test_one_group_says_nothing_of_others() -> None:
    """A difference within one group has no interval; equal differences of several have no width."""
    differences = np.array([[0.2], [0.4], [0.0]])
    assert bootstrap_intervals(differences, [3, 3, 3]).tolist() == [[-np.inf, np.inf]]
    assert bootstrap_intervals(np.full((9, 1), 0.1)).tolist() == [[0.1, 0.1]]


def test_queries_are_drawn_whole() -> None:
    """One column and its complement are drawn together, so their intervals mirror each other."""
    _, skewed, complement = bootstrap_intervals(sample(50))
    np.testing.assert_allclose(1 - skewed[::-1], complement, rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", BOTH)
def test_intervals_hold_the_mean_and_narrow_with_more_queries(method: Callable[..., Table]) -> None:
    """Low < mean < high in the values' range; a hundred times the queries is a tenth the width."""
    widths = []
    for n in (100, 10_000):
        table = sample(n)
        low, high = method(table, n_resamples=500).T
        assert (low < table.mean(axis=0)).all()
        assert (table.mean(axis=0) < high).all()
        assert (low >= 0).all()
        assert (high <= 1).all()
        widths.append(high - low)
    assert (np.abs(widths[0] / widths[1] - 10) < 4).all()


@pytest.mark.parametrize("tail", [0.3, 0.05, 0.025, 0.005, 0.0005])
def test_quantiles_of_t_are_scipys(tail: float) -> None:
    """Of few and many degrees of freedom, odd and even, on either side, and at the seam."""
    for degrees in (1, 2, 3, 4, 5, 9, 24, 99, 100, 999, 2000, 19_999, 20_000, 20_001, 10**6):
        theirs = scipy.stats.t.ppf([tail, 1 - tail], degrees)
        ours = [student_quantile(degrees, tail), student_quantile(degrees, 1 - tail)]
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert student_quantile(7, 0.5) == 0


@pytest.mark.parametrize("n", [12, 200])
@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_scipy_agrees(n: int, confidence: float) -> None:
    """Stretched as t asks, SciPy's percentile bootstrap has each end within 5 standard errors.

    The standard error of a quantile q of B draws is sqrt(q (1 - q) / B) / density; both sides have
    their own draws, hence the factor sqrt(2). The density is taken as that of a normal.
    """
    resamples = 20_000
    table = sample(n)
    ours = bootstrap_intervals(table, n_resamples=resamples, confidence=confidence)
    tail = (1 - confidence) / 2
    density = scipy.stats.norm.pdf(scipy.stats.norm.ppf(tail))
    error = math.sqrt(2 * tail * (1 - tail) / resamples) / density
    t = scipy.stats.t.ppf(tail, n - 1) / scipy.stats.norm.ppf(tail) * math.sqrt(n / (n - 1))
    for column, found in zip(table.T, ours, strict=True):
        theirs = scipy.stats.bootstrap(
            (column,),
            np.mean,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(99),
            batch=1000,
        ).confidence_interval
        stretched = column.mean() + t * (np.array(theirs) - column.mean())
        step = 0.2 / n  # means of fifths fall on a lattice, and a quantile on one of two points
        allowed = t * (5 * error * column.std() / math.sqrt(n) + step)
        np.testing.assert_allclose(found, stretched, rtol=0, atol=allowed)


@pytest.mark.parametrize("method", BOTH)
def test_a_hundred_thousand_queries_need_little_memory(method: Callable[..., Table]) -> None:
    """200 resamples drawn at once would take 160 MB; these take 48."""
    table = np.random.default_rng(0).random((100_000, 7))
    tracemalloc.start()
    try:
        method(table, n_resamples=200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 * 2**20


@pytest.mark.parametrize("method", BOTH)
@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (np.zeros(3), {}, "shape"),
        (np.zeros((0, 3)), {}, "shape"),
        (np.array([[0.5, np.nan]]), {}, "finite"),
        (np.zeros((3, 1)), {"groups": [1, 2]}, "2 groups"),
        (np.zeros((3, 1)), {"n_resamples": 0}, "n_resamples"),
        (np.zeros((3, 1)), {"confidence": 1.0}, "confidence"),
        (np.zeros((3, 1)), {"confidence": 0.0}, "confidence"),
    ],
)
def test_what_has_no_interval_is_refused(
    method: Callable[..., Table], table: Table, options: dict[str, Any], words: str
) -> None:
    """Each unusable argument raises ValueError and is named."""
    with pytest.raises(ValueError, match=words):
        method(table, **options)


def test_measures_outside_0_and_1_are_refused() -> None:
    """Half a query right and half wrong only makes sense between them."""
    with pytest.raises(ValueError, match="from 0 to 1"):
        measure_intervals(np.array([[-0.1]]))
