"""From candidates to the answer: one piece of code fixes score and order for every engine.

A score is the dot product of two float32 unit vectors, taken exactly and rounded once to float32;
matches are ordered by score descending, then row ascending. An engine only proposes candidates
with room for its own rounding, so that the answer is the same to the last bit whichever engine,
batch size, thread count or machine found them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from imgsearch.codes import Estimate

    Rows = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

# What says which rows qualify: a mask where the rows are at hand, a scope where a server has them.
Filter = TypeVar("Filter")
_F_contra = TypeVar("_F_contra", contravariant=True)

# More candidates than k at first: near-ties within an engine's rounding are then settled at once.
_ROOM = 16
# Rows in float64 at a time: they stay in the processor's cache.
_GATHER_BYTES = 1 << 18
# Rows that are scored exactly at a time.
_EXACT_BYTES = 1 << 26
_UNIT_SLACK = 1e-6
# Between these the squares of a vector's numbers neither vanish nor overflow in float64.
_SQUARES_FIT = (1e-100, 1e100)


class Proposed(NamedTuple):
    """What a vector store takes for the best rows of n queries.

    `scores` float32 (n, limit) descend and are within the store's error; `rows` are int64
    (n, limit), ties in no particular order; `vectors`, float32 (n, limit, dim), where they came
    along.
    """

    scores: Floats
    rows: Rows
    vectors: Floats | None = None


class CandidateSource(Protocol[_F_contra]):
    """What a vector store must offer: a local file, or a server."""

    @property
    def count(self) -> int:
        """Number of rows."""

    @property
    def dim(self) -> int:
        """Numbers in a vector."""

    @property
    def error(self) -> float:
        """How far a proposed score may be from the exact one."""

    def qualifying(self, allowed: _F_contra | None) -> int:
        """Return how many rows qualify; all of them for None."""

    def propose(self, queries: Floats, limit: int, allowed: _F_contra | None = None) -> Proposed:
        """Return the rows that score best; more than `limit` only where those are all."""

    def fetch(self, rows: Rows) -> Floats:
        """Return stored vectors, float32 (len(rows), dim)."""


class NearlySource(Protocol):
    """Rows that are at hand, and estimates of what they score; see imgsearch/codes.py."""

    rows: Floats
    error: float

    @property
    def few(self) -> int:
        """Up to so many rows are scored at once rather than estimated first."""

    @property
    def limit(self) -> int:
        """The most rows that an estimate may leave before all are scored instead."""

    def estimate(self, query: Floats) -> Estimate:
        """Estimate what all rows score."""

    def floats(self, query: Floats) -> Estimate:
        """Score all rows in float32, within `error`."""

    def multiplier(self, queries: Floats) -> Callable[[int, Floats], None]:
        """Return what scores the rows from a first one on, within `error`: see VectorFile."""

    def score(self, rows: Rows, query: Floats) -> Floats:
        """Score some rows in float32, within `error`."""

    def share(self, work: Callable[[int], None], arguments: Sequence[int]) -> None:
        """Run `work` for each argument, with all cores."""

    def tell(self, *, closed: bool) -> None:
        """Hear whether the last coarse estimate left few enough rows."""


def unit(vector: npt.ArrayLike) -> Floats | None:
    """Normalize one vector: once, in float64, rounded to float32.

    A float32 vector within 1e-6 of unit length is taken as it is, so that a stored row stays
    itself. None where the vector is zero or not finite.
    """
    values = np.asarray(vector, dtype=np.float64)
    peak = float(np.abs(values).max(initial=0.0))
    if not 0 < peak < math.inf:
        return None
    if not _SQUARES_FIT[0] < peak < _SQUARES_FIT[1]:
        values = values / peak
    norm = math.sqrt(float(values @ values))
    if abs(norm - 1.0) <= _UNIT_SLACK:
        return values.astype(np.float32)
    return (values / norm).astype(np.float32)


def units(rows: Floats) -> tuple[Floats, Mask]:
    """Normalize many vectors as `unit` does.

    Args:
        rows: float32 (n, dim).

    Returns:
        Unit rows, float32 (n, dim), and which of them have a direction, bool (n,); the others are
        not to be used.
    """
    wide = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
        good = np.isfinite(norms) & (norms > 0)
        near = np.abs(norms - 1.0) <= _UNIT_SLACK
        out = np.where(near[:, None], rows, (wide / norms[:, None]).astype(np.float32))
    # float32 squares neither vanish nor overflow in float64, so that no row is lost here.
    return out.astype(np.float32, copy=False), good


def exact_scores(rows: Floats, query: Floats) -> Floats:
    """Score rows against a query as the contract defines it.

    The product of two float32 is exact in float64; their sum is off by at most d * 2**-53 times
    the sum of absolute values. Where that could change the float32 that comes out, the sum is
    taken again without any rounding (math.fsum).

    Args:
        rows: float32 (n, dim).
        query: float32 (dim,).

    Returns:
        float32 (n,).
    """
    wide = query.astype(np.float64)
    out = np.empty(len(rows), np.float32)
    step = max(1, _GATHER_BYTES // (8 * max(1, len(query))))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].astype(np.float64)
        sums = np.vecdot(part, wide)
        slack = len(query) * 2.0**-52
        low = (sums - slack).astype(np.float32)
        for i in np.flatnonzero(low != (sums + slack).astype(np.float32)):
            sums[i] = math.fsum(part[i] * wide)
        out[start : start + step] = sums.astype(np.float32)
    return out


def order(rows: Rows, scores: Floats) -> npt.NDArray[np.intp]:
    """Return the positions that sort by score descending, then row ascending."""
    return np.lexsort((rows, -scores))


def top_k(
    source: CandidateSource[Filter],
    queries: Floats,
    k: int,
    *,
    allowed: Sequence[Filter | None] | None = None,
    exclude: Sequence[int | None] | None = None,
) -> list[tuple[Rows, Floats]]:
    """Find the k best rows of each query, exactly.

    Args:
        source: where the rows are.
        queries: unit vectors, float32 (n, dim).
        k: how many rows are wanted, at least 1.
        allowed: for each query which rows qualify, as the source wants it said, None for all. The
            filter is part of the search: k rows come back wherever k rows qualify.
        exclude: for each query a row that must not come back (itself), or None.

    Returns:
        For each query rows (m,) and exact scores (m,) in the contract's order; m < k only where
        fewer rows qualify.
    """
    number = len(queries)
    filters: Sequence[Filter | None] = allowed or [None] * number
    selves = exclude or [None] * number
    found: list[_Proven | None] = [None] * number
    plain = [i for i in range(number) if filters[i] is None]
    limit = min(source.count, k + 1 + _ROOM)
    if len(plain) > 1:  # one matrix product for all of them
        for i, one in zip(plain, _each(source.propose(queries[plain], limit)), strict=True):
            found[i] = _settle(source, queries[i], k, selves[i], one, source.count)
    answers = [
        _widen(source, queries[i], k, selves[i], filters[i]) if answer is None else answer
        for i, answer in enumerate(found)
    ]
    return [(one.rows[:k], one.scores[:k]) for one in answers]


class _Proven(NamedTuple):
    """Rows and their exact scores, in order: those above `floor` are complete."""

    rows: Rows
    scores: Floats
    floor: float


def _each(proposed: Proposed) -> Iterator[Proposed]:
    """Take what was proposed query by query, without the first dimension."""
    for i in range(len(proposed.rows)):
        vectors = None if proposed.vectors is None else proposed.vectors[i]
        yield Proposed(proposed.scores[i], proposed.rows[i], vectors)


def _widen(
    source: CandidateSource[Filter],
    query: Floats,
    k: int,
    itself: int | None,
    allowed: Filter | None,
) -> _Proven:
    """Ask for more and more candidates until the k best are proven."""
    qualify = source.qualifying(allowed)
    if not qualify:
        return _Proven(np.empty(0, np.int64), np.empty(0, np.float32), -math.inf)
    limit = min(qualify, k + 1 + _ROOM)
    while True:
        (proposed,) = _each(source.propose(query[None, :], limit, allowed))
        answer = _settle(source, query, k, itself, proposed, qualify)
        if answer is not None:
            return answer
        limit = min(qualify, 2 * limit)


def _settle(  # noqa: PLR0917 - one step of the loop above, and of the batch
    source: CandidateSource[Filter],
    query: Floats,
    k: int,
    itself: int | None,
    proposed: Proposed,
    qualify: int,
) -> _Proven | None:
    """Score candidates exactly; None where a row that was not proposed could still belong."""
    near, rows, vectors = proposed
    floor = -math.inf if len(rows) >= qualify else float(near[-1]) + source.error
    keep = np.ones(len(rows), np.bool_) if itself is None else rows != itself
    if vectors is None:
        if np.count_nonzero(keep) > k:
            # What is this far below the k-th need not be fetched: the k-th stays above the floor.
            low = float(np.partition(near[keep], -k)[-k]) - 3 * source.error
            if low > float(near[-1]):
                keep &= near >= _below(low)
                floor = max(floor, low + source.error)
        rows = rows[keep]
        vectors = source.fetch(rows)
    else:
        rows, vectors = rows[keep], vectors[keep]
    scores = exact_scores(vectors, query)
    best = order(rows, scores)
    rows, scores = rows[best], scores[best]
    if floor > -math.inf and (len(rows) < k or float(scores[k - 1]) <= floor):
        return None
    return _Proven(rows, scores, floor)


@dataclass(frozen=True, slots=True)
class Only:
    """The rows that a scope lets in: those of class `own`, or with `other` of every other class."""

    own: int
    other: bool = False

    def mask(self, ids: npt.NDArray[np.int32]) -> Mask:
        """Return which rows they are, bool (count,); `ids` are those of Classes."""
        mine: Mask = ids == self.own
        return (ids >= 0) & ~mine if self.other else mine

    def count(self, classes: Classes) -> int:
        """Return how many they are."""
        mine = int(classes.counts[self.own]) if self.own >= 0 else 0
        return int(classes.counts.sum()) - mine if self.other else mine


def consult(
    source: CandidateSource[Only],
    query: Floats,
    k: int,
    *,
    classes: Classes | None = None,
    allowed: Only | None = None,
    itself: int | None = None,
) -> Scan:
    """Find the exact answer to one query where the rows are not at hand: as `find`, by proposals.

    Args:
        source: where the rows are.
        query: a unit vector, float32 (dim,).
        k: how many matches are wanted, at least 1.
        classes: the labels of the rows, where the best row of each class is wanted.
        allowed: the rows that qualify; all unless given.
        itself: a row that must not come back.
    """
    found = _widen(source, query, k, itself, allowed)
    number = 0 if classes is None else len(classes.names)
    best_rows = np.full(number, -1, np.int64)
    best_scores = np.full(number, np.nan, np.float32)
    if classes is not None:
        left = classes.counts.copy()
        if itself is not None and classes.ids[itself] >= 0:
            left[classes.ids[itself]] -= 1
        ids = classes.ids[found.rows]
        for at in np.flatnonzero(left):
            mine = np.flatnonzero(ids == at)[:1]
            rows, scores = found.rows[mine], found.scores[mine]
            if not len(mine) or float(scores[0]) <= found.floor:
                # Another of its rows may be better: the class is asked by itself.
                rows, scores, _ = _widen(source, query, 1, itself, Only(int(at)))
            best_rows[at], best_scores[at] = rows[0], scores[0]
    return Scan(found.rows[:k], found.scores[:k], best_rows, best_scores)


@dataclass(frozen=True)
class Classes:
    """The labels of the base set in a form for arithmetic.

    `ids` is int32 (count,), a row's position in `names`, -1 where it has no label; `counts` is
    int64 (len(names),).
    """

    names: tuple[str, ...]
    ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]

    @cached_property
    def _present(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(self.counts)

    @cached_property
    def _starts(self) -> npt.NDArray[np.intp]:
        counts = self.counts[self._present]
        return np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.intp)

    @cached_property
    def _by_class(self) -> npt.NDArray[np.intp] | slice:
        """The rows that have a label, sorted by it; a slice where they lie so already."""
        rows = np.argsort(self.ids, kind="stable")
        rows = rows[np.searchsorted(self.ids[rows], 0) :]
        if len(rows) and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))):
            return slice(int(rows[0]), int(rows[0]) + len(rows))
        return rows

    def rows_of(self, number: int) -> npt.NDArray[np.intp] | slice:
        """Return the rows of a class that has some, ascending; a slice where they lie so."""
        at = int(np.searchsorted(self._present, number))
        first = int(self._starts[at])
        last = first + int(self.counts[number])
        rows = self._by_class
        if isinstance(rows, slice):
            return slice(rows.start + first, rows.start + last)
        return rows[first:last]

    def highest(self, values: Floats) -> Floats:
        """Return the highest value of each class.

        Args:
            values: float32 (count,), one for each row.

        Returns:
            float32 (len(names) + 1,), to be indexed by `ids`: the last is what -1 finds. Infinity
            there, and where a class has no value above minus infinity: no row reaches that.
        """
        out = np.full(len(self.names) + 1, np.inf, np.float32)
        if len(self._present):
            out[self._present] = np.maximum.reduceat(values[self._by_class], self._starts)
        out[out == -np.inf] = np.inf
        return out


@dataclass(frozen=True, slots=True)
class Scan:
    """What the rows say of one query.

    `rows` and `scores` are its k best. `best_rows` int64 and `best_scores` float32, (n_classes,),
    are the best row of each class, -1 and nan where the class has none but the query; both are
    empty where no classes were given. Of a query of a known class a scan with ranks tells
    `first_rank`, the 1-based rank of the best row of its class over all rows (None where there is
    none), and `relevant_in_r`, how many rows of its class are among the R best.
    """

    rows: Rows
    scores: Floats
    best_rows: Rows
    best_scores: Floats
    first_rank: int | None = None
    relevant_in_r: int = 0


def find(
    source: NearlySource,
    query: Floats,
    k: int,
    *,
    classes: Classes | None = None,
    allowed: Mask | None = None,
    itself: int | None = None,
) -> Scan:
    """Find the exact answer to one query, reading no more than is needed to prove it.

    Rows that could belong to the answer by an estimate are scored in float32, those that still
    could are scored exactly.

    Args:
        source: where the rows are.
        query: a unit vector, float32 (dim,).
        k: how many matches are wanted, at least 1.
        classes: the labels of the rows, where the best row of each class is wanted.
        allowed: the rows that qualify, bool (count,); all unless given.
        itself: a row that must not come back.
    """
    if allowed is not None and classes is None:
        rows = np.flatnonzero(allowed)
        if itself is not None:
            rows = rows[rows != itself]
        if len(rows) <= source.few:
            return Pass(source.rows, source.error, query).finish_some(rows, source.score, k)
    estimate = source.estimate(query) if k <= source.limit else source.floats(query)
    if estimate.coarse:
        one = Pass(source.rows, source.error, query, estimate.scores, classes, allowed, itself)
        possible = one.possible_rows(k, estimate.slack, source.score, source.limit)
        source.tell(closed=possible is not None)
        if possible is not None:
            return one.finish_some(possible, source.score, k)
        estimate = source.floats(query)
    one = Pass(source.rows, source.error, query, estimate.scores, classes, allowed, itself)
    return one.finish(one.close_rows(k), k)


class Pass:
    """One query against all rows: `near` holds scores that are nearly right, and is used up."""

    def __init__(  # noqa: PLR0917 - what a pass is about
        self,
        vectors: Floats,
        error: float,
        query: Floats,
        near: Floats | None = None,
        classes: Classes | None = None,
        allowed: Mask | None = None,
        itself: int | None = None,
    ) -> None:
        """Leave out the rows that are not `allowed`, and `itself`; for the rest see `find`."""
        self.vectors, self.error, self.classes = vectors, error, classes
        self.query = query
        self.near = np.empty(0, np.float32) if near is None else near
        if allowed is not None:
            np.copyto(self.near, -np.inf, where=~allowed)
        if itself is not None:
            self.near[itself] = -np.inf

    # From an estimate with a coarse bound to the rows that could belong to the answer.

    def possible_rows(
        self, k: int, slack: Floats | float, score: Callable[[Rows, Floats], Floats], limit: int
    ) -> Rows | None:
        """Return the rows whose upper bound reaches what is proven; None for more than `limit`."""
        top = self._top_rows(k)
        if not len(top):
            return top
        heads = np.empty(0, np.int64) if self.classes is None else self._head_rows(self.classes)
        if len(top) + len(heads) > limit:
            return None
        # At least so much is scored by k rows, and by one row of each class.
        proven = score(np.concatenate((top, heads)), self.query).astype(np.float64) - self.error
        floor = _below(proven[:k].min()) if len(top) == k else np.float32(-np.inf)
        self.near += slack
        floors = np.empty(0, np.float32)
        if self.classes is not None:
            floors = np.full(len(self.classes.names) + 1, np.inf, np.float32)
            floors[self.classes.ids[heads]] = all_below(proven[len(top) :])
        rows = self._reaching(floor, floors)
        return None if len(rows) > limit else rows

    def _top_rows(self, k: int) -> Rows:
        """Return k rows that are nearly the best, in no order; fewer only where fewer qualify."""
        if k >= len(self.near):
            return np.flatnonzero(self.near > -np.inf)
        rows: Rows = np.argpartition(self.near, len(self.near) - k)[-k:].astype(np.int64)
        return rows[self.near[rows] > -np.inf]

    def _head_rows(self, classes: Classes) -> Rows:
        """Return for each class that has a row one that is nearly its best."""
        highest = classes.highest(self.near)
        lowest = highest.min()
        rows = np.flatnonzero((self.near >= lowest) & (self.near > -np.inf))
        rows = rows[self.near[rows] == highest[classes.ids[rows]]]
        first: Rows = rows[np.unique(classes.ids[rows], return_index=True)[1]].astype(np.int64)
        return first

    def _reaching(self, floor: np.float32, floors: Floats) -> Rows:
        """Return the rows that reach the floor of all, or that of their class."""
        if self.classes is None:
            return np.flatnonzero((self.near >= floor) & (self.near > -np.inf))
        # Most rows are below all floors: they are out before each is held against its own.
        lowest = min(floor, floors.min())
        rows = np.flatnonzero((self.near >= lowest) & (self.near > -np.inf))
        near = self.near[rows]
        return rows[(near >= floor) | (near >= floors[self.classes.ids[rows]])]

    # From float32 products to the rows that must be scored exactly.

    def close_rows(self, k: int) -> Rows:
        """Return the rows whose products are too close to the best to be left out, of all rows."""
        floor = _below(self._cut(k) - 2 * self.error)
        if self.classes is None:
            return self._reaching(floor, np.empty(0, np.float32))
        floors = all_below(self.classes.highest(self.near).astype(np.float64) - 2 * self.error)
        return self._reaching(floor, floors)

    def finish_some(self, rows: Rows, score: Callable[[Rows, Floats], Floats], k: int) -> Scan:
        """Answer from some rows, which hold all that could belong to the answer."""
        if len(rows):
            rows = rows[self.close(rows, score(rows, self.query), k)]
        return self.finish(rows, k)

    def close(self, rows: Rows, near: Floats, k: int) -> Mask:
        """Tell which of some rows, whose products are `near`, must be scored exactly."""
        at = max(0, len(near) - k)
        keep: Mask = near >= _below(float(np.partition(near, at)[at]) - 2 * self.error)
        if self.classes is not None:
            ids = self.classes.ids[rows]
            floors = np.full(len(self.classes.names) + 1, -np.inf, np.float32)
            np.maximum.at(floors, ids, near)
            floors[-1] = np.inf
            keep |= near >= all_below(floors.astype(np.float64) - 2 * self.error)[ids]
        return keep

    def finish(self, rows: Rows, k: int) -> Scan:
        """Score these rows exactly, and order them."""
        scores = self.exact(rows)
        best = order(rows, scores)[:k]
        number = 0 if self.classes is None else len(self.classes.names)
        best_rows = np.full(number, -1, np.int64)
        best_scores = np.full(number, np.nan, np.float32)
        if self.classes is not None:
            ids = self.classes.ids[rows]
            ranked = np.lexsort((rows, -scores, ids))
            first = ranked[np.flatnonzero(np.diff(ids[ranked], prepend=-1))]
            best_rows[ids[first]] = rows[first]
            best_scores[ids[first]] = scores[first]
        return Scan(rows[best], scores[best], best_rows, best_scores)

    def exact(self, rows: Rows) -> Floats:
        """Score these rows as the contract defines it."""
        step = max(1, _EXACT_BYTES // (4 * len(self.query)))
        parts = [
            exact_scores(self.vectors[rows[first : first + step]], self.query)
            for first in range(0, len(rows), step)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def _cut(self, k: int) -> float:
        """Return the k-th highest product; rows that belong to the k best are within 2 errors."""
        at = max(0, len(self.near) - k)
        return float(np.partition(self.near, at)[at])

    # Ranks, for evaluations.

    def ranked(self, answer: Scan, own: int) -> Scan:
        """Add the ranks of class `own` to an answer."""
        if self.classes is None or own < 0 or answer.best_rows[own] < 0:
            return answer
        first = self._rank_of(int(answer.best_rows[own]), float(answer.best_scores[own]))
        mine = self.near[self.classes.rows_of(own)]
        relevant = self._own_among_best(mine, self.classes.ids, own)
        return Scan(
            answer.rows, answer.scores, answer.best_rows, answer.best_scores, first, relevant
        )

    def _rank_of(self, row: int, score: float) -> int:
        above, close = self._around(score, self.error)
        scores = self.exact(close)
        beat = (scores > score) | ((scores == score) & (close < row))
        return 1 + above + int(np.count_nonzero(beat))

    def _own_among_best(self, mine: Floats, ids: npt.NDArray[np.int32], own: int) -> int:
        """Count the rows of class `own`, whose products are `mine`, among as many best rows."""
        number = int(np.count_nonzero(mine > -np.inf))
        cut = self._cut(number)
        above, close = self._around(cut, 2 * self.error)
        best = close[order(close, self.exact(close))[: number - above]]
        surely = int(np.count_nonzero(mine > _above(cut + 2 * self.error)))
        return surely + int(np.count_nonzero(ids[best] == own))

    def _around(self, value: float, error: float) -> tuple[int, Rows]:
        """Count the rows surely above a value, and return those that may be it, ascending."""
        low, high = _below(value - error), _above(value + error)
        close = np.flatnonzero(self.near >= low)
        near = self.near[close] <= high
        return len(close) - int(np.count_nonzero(near)), close[near]


def _above(value: float) -> np.float32:
    """Round to a float32 that is higher."""
    return np.float32(np.nextafter(np.float32(value), np.float32(np.inf)))


def _below(value: float) -> np.float32:
    """Round to a float32 that is lower: what is held against float32 must not be rounded up."""
    return np.float32(np.nextafter(np.float32(value), np.float32(-np.inf)))


def all_below(values: npt.NDArray[np.float64]) -> Floats:
    """Round each to a float32 that is lower."""
    return np.nextafter(values.astype(np.float32), np.float32(-np.inf))
