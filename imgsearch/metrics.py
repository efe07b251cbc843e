"""What a ranking is worth: a table of measures, their chance levels, the class matrix.

Pure functions on numbers and arrays. A measure gives one value per query, from 0 to 1; means and
per-class figures are derived from those values. docs/measures.md explains each in words.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    import numpy.typing as npt

# A number of votes less likely than this changes no digit of a chance level.
_NEGLIGIBLE = 1e-18


@dataclass(frozen=True, slots=True)
class Judged:
    """One labelled query and what its ranking says: everything any measure needs.

    "The base set" is every row that could have been returned: the query's own row is never one.

    Attributes:
        label: the query's own label.
        k: how many matches were asked for, at least 1.
        labels: labels of the matches in rank order, None where a row has none; at most k, fewer
            where fewer rows qualify.
        scores: the cosines of the same matches, descending.
        n_relevant: R, how many rows of the base set have the query's label.
        n_base: how many rows the base set has.
        first_rank: the rank (from 1), over the whole base set, of the best row with the query's
            label; None where R = 0.
        relevant_in_r: how many of the R best rows of the whole base set have the query's label.

    Raises:
        ValueError: the numbers contradict each other.
    """

    label: str
    k: int
    labels: tuple[str | None, ...]
    scores: tuple[float, ...]
    n_relevant: int
    n_base: int
    first_rank: int | None
    relevant_in_r: int

    def __post_init__(self) -> None:
        """Refuse numbers that no ranking could have given."""
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if len(self.labels) != len(self.scores):
            raise ValueError(f"{len(self.labels)} labels but {len(self.scores)} scores")
        if len(self.labels) > min(self.k, self.n_base):
            raise ValueError(
                f"{len(self.labels)} matches where k is {self.k} and the base set has "
                f"{self.n_base} rows"
            )
        if not 0 <= self.relevant_in_r <= self.n_relevant <= self.n_base:
            raise ValueError(
                f"relevant_in_r {self.relevant_in_r}, n_relevant {self.n_relevant} and n_base "
                f"{self.n_base} must not fall in this order, nor below 0"
            )
        if (self.first_rank is None) != (self.n_relevant == 0):
            raise ValueError("first_rank is None exactly where n_relevant is 0")
        last = self.n_base - self.n_relevant + 1
        if self.first_rank is not None and not 1 <= self.first_rank <= last:
            raise ValueError(f"first_rank must be from 1 to {last}, not {self.first_rank}")


@dataclass(frozen=True, slots=True)
class Lottery:
    """What a random ranking draws from: a base set, and the label that would be right.

    Attributes:
        label: the label of the query.
        k: how many matches are asked for, at least 1; may pass n_base.
        counts: rows of the base set by label, the query itself left out.
        n_base: all rows of the base set, those without a label included.
        n_relevant: R, the rows with the query's label (derived).
        n_drawn: how many matches there will be, min(k, n_base) (derived).

    Raises:
        ValueError: k is below 1, a count is below 0, or counts sum to more than n_base.
    """

    label: str
    k: int
    counts: Mapping[str, int]
    n_base: int
    n_relevant: int = field(init=False)
    n_drawn: int = field(init=False)

    def __post_init__(self) -> None:
        """Check the numbers and derive R and the number of matches."""
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if min(self.counts.values(), default=0) < 0:
            raise ValueError("counts must not be below 0")
        if sum(self.counts.values()) > self.n_base:
            raise ValueError(f"counts sum to more than the {self.n_base} rows of the base set")
        object.__setattr__(self, "n_relevant", self.counts.get(self.label, 0))
        object.__setattr__(self, "n_drawn", min(self.k, self.n_base))


@dataclass(frozen=True, slots=True)
class Measure:
    """A named value of one query.

    Attributes:
        name: the key in JSON and in MEASURES.
        title: the name for people.
        formula: the definition in one line.
        value: gives the query's value, 0 to 1.
        chance: gives the expected value where the ranking is a random order of the base set.
    """

    name: str
    title: str
    formula: str
    value: Callable[[Judged], float]
    chance: Callable[[Lottery], float]


def precision_at_k(query: Judged) -> float:
    """Share of the k matches that have the query's label; the contract's `accuracy`.

    Divided by k also where there are fewer than k matches. Manning, Raghavan and Schuetze,
    Introduction to Information Retrieval (2008), section 8.4.

    Returns:
        A multiple of 1/k from 0 to 1.
    """
    return query.labels.count(query.label) / query.k


def hit_rate_at_k(query: Judged) -> float:
    """Whether any of the k matches has the query's label.

    Called Success@k in TREC and recall@k in metric learning (where it is no recall).

    Returns:
        1.0 or 0.0.
    """
    return float(query.label in query.labels)


def top1_accuracy(query: Judged) -> float:
    """Whether the first match has the query's label: the 1-NN rule of Cover and Hart (1967).

    Returns:
        1.0 or 0.0; 0.0 where there is no match.
    """
    return float(query.labels[:1] == (query.label,))


def knn_accuracy(query: Judged) -> float:
    """Whether the majority of the k matches names the query's label, see `majority`.

    Returns:
        1.0 or 0.0; 0.0 where no match has a label.
    """
    return float(majority(query.labels, query.scores) == query.label)


def map_at_k(query: Judged) -> float:
    """Average precision over the k matches; its mean over queries is MAP@k.

    (1/k) * sum of P@i over the ranks i <= k that hold the query's label, where P@i is the share of
    that label among the first i matches. Manning, Raghavan and Schuetze (2008), section 8.4, with
    k in place of the number of relevant rows as divisor: 1 means that all k matches are right.

    Returns:
        A value from 0 to 1, never above `precision_at_k`.
    """
    found = 0
    precisions = []
    for rank, label in enumerate(query.labels, start=1):
        if label == query.label:
            found += 1
            precisions.append(found / rank)
    return math.fsum(precisions) / query.k


def mrr(query: Judged) -> float:
    """1 / rank of the first row with the query's label, over the whole base set; k plays no part.

    Its mean over queries is the mean reciprocal rank: Voorhees, The TREC-8 Question Answering
    Track Report (1999).

    Returns:
        A value from 0 to 1; 0.0 only where the base set holds no row of the label.
    """
    return 0.0 if query.first_rank is None else 1 / query.first_rank


def r_precision(query: Judged) -> float:
    """Share of the query's label among the R best rows, where R is how many rows have that label.

    Over the whole base set; k plays no part. Manning, Raghavan and Schuetze (2008), section 8.4.

    Returns:
        A value from 0 to 1; 0.0 where R = 0.
    """
    return query.relevant_in_r / query.n_relevant if query.n_relevant else 0.0


def majority(labels: Sequence[str | None], scores: Sequence[float]) -> str | None:
    """Label with the most votes among the matches: the k-NN rule of Cover and Hart (1967).

    A match without a label does not vote. A tie goes to the class whose best match has the better
    score; where even that ties, to the class met first.

    Args:
        labels: labels of the matches in rank order.
        scores: their cosines, the same number of them; any float, higher is closer.

    Returns:
        The label; None where no match has one.

    Raises:
        ValueError: labels and scores differ in number.
    """
    votes: Counter[str] = Counter()
    best: dict[str, float] = {}
    for label, score in zip(labels, scores, strict=True):
        if label is not None:
            votes[label] += 1
            best[label] = max(score, best.get(label, score))
    # Keys stand in the order they were met, and max() keeps the first of equals.
    return max(votes, key=lambda label: (votes[label], best[label]), default=None)


def _chance_precision(lottery: Lottery) -> float:
    """Expect each of the matches right with R/n; k of them unless the base set is smaller."""
    return lottery.n_drawn / lottery.k * _chance_top1(lottery)


def _chance_top1(lottery: Lottery) -> float:
    """R/n, the share of the class in the base set."""
    return lottery.n_relevant / lottery.n_base if lottery.n_base else 0.0


def _chance_hit(lottery: Lottery) -> float:
    """1 - C(n-R, k) / C(n, k), the hypergeometric chance of at least one.

    The quotient is the product of 1 - R/(n-i) over i < k, and the same with R and k exchanged:
    the shorter one is taken, in logarithms, so that neither 0 nor 1 loses digits.
    """
    few, many = sorted((lottery.n_relevant, lottery.n_drawn))
    if few + many > lottery.n_base:
        return 1.0
    return abs(float(np.expm1(np.log1p(-many / (lottery.n_base - np.arange(few))).sum())))


def _chance_map(lottery: Lottery) -> float:
    """R/(n k) * (H + (m - H) (R-1)/(n-1)), with m = min(k, n) and H = 1 + 1/2 + ... + 1/m.

    Rank i is right with R/n, and each of the i-1 ranks before it is then right with (R-1)/(n-1):
    the expected term is R/n * (1 + (i-1) (R-1)/(n-1)) / i.
    """
    if not lottery.n_relevant:
        return 0.0
    harmonic = _harmonic(1, lottery.n_drawn)
    others = (lottery.n_relevant - 1) / max(lottery.n_base - 1, 1)
    expected = harmonic + (lottery.n_drawn - harmonic) * others
    return _chance_top1(lottery) * expected / lottery.k


def _chance_mrr(lottery: Lottery) -> float:
    """R/(n-R+1) * (1/R + 1/(R+1) + ... + 1/n).

    The first right row stands at rank j in C(n-j, R-1) of the C(n, R) placings, and the sum of
    C(n-j, R-1)/j over j is C(n, R-1) * (1/R + ... + 1/n).
    """
    relevant, n_base = lottery.n_relevant, lottery.n_base
    if not relevant:
        return 0.0
    return relevant / (n_base - relevant + 1) * _harmonic(relevant, n_base)


def _harmonic(first: int, last: int) -> float:
    """1/first + ... + 1/last."""
    return float((1.0 / np.arange(first, last + 1)).sum())


def _chance_knn(lottery: Lottery) -> float:
    """Chance that the own class wins the vote among m rows drawn at random, ties by lot.

    Where the order is random, so is which of the tied classes has the best score.

    The votes of the classes are independent binomial counts with p = m/(n+1) (any p would do),
    given that they sum to m. The own class wins with j votes where the others have fewer, or tie
    and lose the lot: t ties leave it 1/(1+t), which is the integral of y**t over 0..1. So with
    w a formal variable, and unlabelled rows as a class that may have any number,

        P(win) = sum over j of P(own = j) / P(sum = m) * integral over y of
                 [w**(m-j)] of the product over the other classes of
                 P(0) + P(1) w + ... + P(j-1) w**(j-1) + y P(j) w**j

    The integral is a Gauss-Legendre sum, which is exact for a polynomial; the coefficient is read
    off the values at roots of unity, so many that what wraps around is below rounding. No class
    is listed twice: equal counts are a power. Right to about 1e-12, in time that grows with k.
    """
    drawn, n_base, relevant = lottery.n_drawn, lottery.n_base, lottery.n_relevant
    if not relevant:
        return 0.0
    rivals = [n for label, n in lottery.counts.items() if label != lottery.label and n]
    sizes, repeats = np.unique(np.array(rivals, dtype=np.int64), return_counts=True)
    odds = drawn / (n_base + 1 - drawn)
    most = min(drawn, relevant)
    own = _binomial(np.array([relevant]), odds, most)[0]
    weights = own / _binomial(np.array([n_base]), odds, drawn)[0, drawn]
    others = _binomial(sizes, odds, most)
    # Nine standard deviations of the sum above its mean (and a little, for small k) before the
    # circle closes: the tail beyond is below 1e-17 by Chernoff's bound.
    circle = 1 << math.ceil(math.log2(drawn + 10 * math.sqrt(drawn) + 40))
    roots = np.exp(-2j * np.pi * np.arange(circle // 2 + 1) / circle)
    silent = ((1 + odds * roots) / (1 + odds)) ** (n_base - relevant - sum(rivals))
    wins = 0.0
    for votes in range(1, most + 1):
        if weights[votes] < _NEGLIGIBLE:
            continue
        fewer = np.fft.rfft(others[:, :votes], circle)
        equal = others[:, votes, np.newaxis] * roots**votes
        ties = min((drawn - votes) // votes, int(repeats[sizes >= votes].sum()))
        points, masses = np.polynomial.legendre.leggauss(ties // 2 + 1)
        for point, mass in zip((points + 1) / 2, masses / 2, strict=True):
            each = (fewer + point * equal) ** repeats[:, np.newaxis]
            product = np.fft.irfft(each.prod(axis=0) * silent, circle)
            wins += float(weights[votes] * mass * product[drawn - votes])
    return min(max(wins, 0.0), 1.0)


def _binomial(sizes: npt.NDArray[np.int64], odds: float, most: int) -> npt.NDArray[np.float64]:
    """P(0), ..., P(most) of binomial counts with p = odds/(1+odds): shape (sizes, most + 1)."""
    taken = np.arange(most)
    left = np.maximum(sizes[:, np.newaxis] - taken, 0)
    with np.errstate(divide="ignore"):  # no trial is left: log(0) = -inf, and exp gives 0 again
        steps = np.log(left * odds / (taken + 1))
    start = sizes[:, np.newaxis] * -math.log1p(odds)
    chances: npt.NDArray[np.float64] = np.exp(
        np.concatenate([start, start + steps.cumsum(axis=1)], axis=1)
    )
    return chances


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure(
            name="precision_at_k",
            title="Precision at k",
            formula="matches with the query's label / k",
            value=precision_at_k,
            chance=_chance_precision,
        ),
        Measure(
            name="hit_rate_at_k",
            title="Hit rate at k",
            formula="1 if any of the k matches has the query's label, else 0",
            value=hit_rate_at_k,
            chance=_chance_hit,
        ),
        Measure(
            name="top1_accuracy",
            title="Top-1 accuracy",
            formula="1 if the first match has the query's label, else 0",
            value=top1_accuracy,
            chance=_chance_top1,
        ),
        Measure(
            name="knn_accuracy",
            title="kNN accuracy",
            formula="1 if most of the k matches have the query's label, else 0; "
            "a tie goes to the better score",
            value=knn_accuracy,
            chance=_chance_knn,
        ),
        Measure(
            name="map_at_k",
            title="MAP at k",
            formula="(1/k) * sum of P@i over the ranks i <= k with the query's label",
            value=map_at_k,
            chance=_chance_map,
        ),
        Measure(
            name="mrr",
            title="MRR",
            formula="1 / rank of the first row with the query's label, over the whole base set",
            value=mrr,
            chance=_chance_mrr,
        ),
        Measure(
            name="r_precision",
            title="R-precision",
            formula="rows with the query's label among the R best / R, where R rows have it",
            value=r_precision,
            chance=_chance_top1,
        ),
    )
}


def per_query(queries: Iterable[Judged]) -> npt.NDArray[np.float64]:
    """Every measure of every query.

    Returns:
        float64 of shape (n_queries, n_measures), each value from 0 to 1, columns in the order of
        MEASURES.
    """
    rows = [[measure.value(query) for measure in MEASURES.values()] for query in queries]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(MEASURES))


# The measures that the k matches alone decide.
AT_K = ("precision_at_k", "hit_rate_at_k", "top1_accuracy", "knn_accuracy", "map_at_k")


def values_at_k(
    label: str, k: int, labels: Sequence[str | None], scores: Sequence[float]
) -> dict[str, float]:
    """Return the measures in AT_K of one query, whose matches have these labels and scores."""
    # What is said of the base set plays no part in these.
    judged = Judged(label, k, tuple(labels), tuple(scores), 0, len(labels), None, 0)
    return {name: MEASURES[name].value(judged) for name in AT_K}


def mean(values: npt.ArrayLike) -> float:
    """Arithmetic mean, rounded once: equal values have exactly that value as their mean.

    Args:
        values: finite numbers of shape (n,), n at least 1.

    Returns:
        The mean, between the least and the greatest value.

    Raises:
        ValueError: not one-dimensional, or empty.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not column.size:
        raise ValueError(f"a mean needs at least one value in one dimension, not {column.shape}")
    terms = column.tolist()
    near = math.fsum(terms) / len(terms)
    # The sum is exact but the division rounds: what it left over is given back.
    return near + math.fsum([*terms, *[-near] * len(terms)]) / len(terms)


def chance_level(
    label: str, k: int, counts: Mapping[str, int], n_base: int, *, measure: str | None = None
) -> dict[str, float]:
    """Give what a query would score on average if the ranking were a random order of the base set.

    Every order of the n_base rows is taken as equally likely. It depends on the query through its
    label alone: compute it once per class. All are closed forms or finite sums, so there is no
    random number and no standard error. precision, top-1 and R-precision: R/n (the first times
    n/k where k passes n); hit rate: hypergeometric; map and mrr: see docs/measures.md; knn: the
    exact chance of winning the vote with ties decided by lot, right to about 1e-12.

    Args:
        label: the label of the query; one that counts does not hold has chance 0.
        k: how many matches are asked for, at least 1; may pass n_base.
        counts: rows of the base set by label, the query itself left out. Leave-one-out has one
            row less in the query's class.
        n_base: all rows of the base set, the query left out, rows without a label included.
        measure: a key of MEASURES, or None for all of them.

    Returns:
        Name to expected value, 0 to 1, in the order of MEASURES.

    Raises:
        KeyError: no such measure.
        ValueError: k below 1, a count below 0, or counts that sum to more than n_base.
    """
    lottery = Lottery(label, k, counts, n_base)
    wanted = MEASURES.values() if measure is None else (MEASURES[measure],)
    return {each.name: each.chance(lottery) for each in wanted}


def correspondence_matrix(
    query_labels: Sequence[str],
    match_counts: npt.NDArray[np.integer],
    classes: Sequence[str],
    k: int,
) -> list[list[float] | None]:
    """Mean share of each class among the matches, by class of the query.

    Row i, column j: all matches of class j over all queries of class i, divided once by k times
    the number of those queries. The diagonal is the mean `precision_at_k` of each class. A row sums
    to 1 where each of its queries has k matches with a label, and to less otherwise.

    Args:
        query_labels: the label of each query, each one of `classes`.
        match_counts: integers of shape (n_queries, n_classes): how many of the k matches of query
            q have the label classes[j].
        classes: the labels of rows and columns, each once.
        k: how many matches were asked for, at least 1.

    Returns:
        A list of n_classes rows of n_classes shares, 0 to 1; None for a class without queries.

    Raises:
        ValueError: shapes disagree, a query's label is not in classes, counts are no integers, are
            below 0 or sum to more than k.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    position = {label: i for i, label in enumerate(classes)}
    if len(position) != len(classes):
        raise ValueError("classes must not repeat")
    if match_counts.shape != (len(query_labels), len(classes)):
        raise ValueError(
            f"match_counts must have the shape ({len(query_labels)}, {len(classes)}), "
            f"not {match_counts.shape}"
        )
    if not np.issubdtype(match_counts.dtype, np.integer):
        raise ValueError(f"match_counts must be integers, not {match_counts.dtype}")
    if match_counts.size and (
        match_counts.min() < 0 or match_counts.sum(axis=1, dtype=np.int64).max() > k
    ):
        raise ValueError(f"the counts of a query must not be below 0 nor sum to more than k = {k}")
    unknown = sorted(set(query_labels) - position.keys())
    if unknown:
        raise ValueError(f"queries have labels that are not in classes: {unknown}")
    own = np.array([position[label] for label in query_labels], dtype=np.int64)
    order = np.argsort(own, kind="stable")
    bounds = np.searchsorted(own[order], np.arange(len(classes) + 1))
    matrix: list[list[float] | None] = []
    for i in range(len(classes)):
        chosen = order[bounds[i] : bounds[i + 1]]
        totals = match_counts[chosen].sum(axis=0, dtype=np.int64).tolist()
        matrix.append([total / (k * len(chosen)) for total in totals] if len(chosen) else None)
    return matrix


def spread(total: int, size: int) -> list[int]:
    """Return `size` different places among `total`, in even steps: a sample of what is sorted."""
    return [(2 * i + 1) * total // (2 * size) for i in range(size)]
