"""From candidates to the answer: one piece of code fixes score and order for every engine.

A score is the dot product of two float32 unit vectors, taken exactly and rounded once to float32;
matches are ordered by score descending, then row ascending. An engine only proposes candidates
with room for its own rounding, so that the answer is the same to the last bit whichever engine,
batch size, thread count or machine found them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    Rows = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

# More candidates than k at first: near-ties within an engine's rounding are then settled at once.
_ROOM = 16
_GATHER_BYTES = 1 << 24
_SCAN_BYTES = 1 << 26
_UNIT_SLACK = 1e-6
# Between these the squares of a vector's numbers neither vanish nor overflow in float64.
_SQUARES_FIT = (1e-100, 1e100)


class CandidateSource(Protocol):
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

    def propose(
        self, queries: Floats, limit: int, allowed: Mask | None = None
    ) -> tuple[Floats, Rows]:
        """Return scores (n, limit), descending, and rows (n, limit)."""

    def fetch(self, rows: Rows) -> Floats:
        """Return stored vectors, float32 (len(rows), dim)."""


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
        sums = part @ wide
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
    source: CandidateSource,
    queries: Floats,
    k: int,
    *,
    allowed: Sequence[Mask | None] | None = None,
    exclude: Sequence[int | None] | None = None,
) -> list[tuple[Rows, Floats]]:
    """Find the k best rows of each query, exactly.

    Args:
        source: where the rows are.
        queries: unit vectors, float32 (n, dim).
        k: how many rows are wanted, at least 1.
        allowed: for each query the rows that qualify, bool (count,), None for all. The filter is
            part of the search: k rows come back wherever k rows qualify.
        exclude: for each query a row that must not come back (itself), or None.

    Returns:
        For each query rows (m,) and exact scores (m,) in the contract's order; m < k only where
        fewer rows qualify.
    """
    number = len(queries)
    masks = allowed or [None] * number
    selves = exclude or [None] * number
    found: list[tuple[Rows, Floats] | None] = [None] * number
    plain = [i for i in range(number) if masks[i] is None]
    limit = min(source.count, k + 1 + _ROOM)
    if len(plain) > 1:  # one matrix product for all of them
        scores, rows = source.propose(queries[plain], limit)
        for i, its_scores, its_rows in zip(plain, scores, rows, strict=True):
            found[i] = _settle(source, queries[i], k, selves[i], its_scores, its_rows, source.count)
    return [
        _widen(source, queries[i], k, selves[i], masks[i]) if answer is None else answer
        for i, answer in enumerate(found)
    ]


def _widen(
    source: CandidateSource, query: Floats, k: int, itself: int | None, allowed: Mask | None
) -> tuple[Rows, Floats]:
    """Ask for more and more candidates until the k best are proven."""
    qualify = source.count if allowed is None else int(np.count_nonzero(allowed))
    if not qualify:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    limit = min(qualify, k + 1 + _ROOM)
    while True:
        scores, rows = source.propose(query[None, :], limit, allowed)
        answer = _settle(source, query, k, itself, scores[0], rows[0], qualify)
        if answer is not None:
            return answer
        limit = min(qualify, 2 * limit)


def _settle(  # noqa: PLR0917 - one step of the loop above, and of the batch
    source: CandidateSource,
    query: Floats,
    k: int,
    itself: int | None,
    proposed: Floats,
    rows: Rows,
    qualify: int,
) -> tuple[Rows, Floats] | None:
    """Score candidates exactly; None where a row that was not proposed could still belong."""
    last = float(proposed[-1])
    complete = len(rows) >= qualify
    if itself is not None:
        rows = rows[rows != itself]
    scores = exact_scores(source.fetch(rows), query)
    best = order(rows, scores)[:k]
    if not complete and (len(best) < k or float(scores[best[-1]]) <= last + source.error):
        return None
    return rows[best], scores[best]


@dataclass(frozen=True, slots=True)
class Classes:
    """The labels of the base set in a form for arithmetic.

    `ids` is int32 (count,), a row's position in `names`, -1 where it has no label; `counts` is
    int64 (len(names),).
    """

    names: tuple[str, ...]
    ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over all rows says of one query.

    `rows` and `scores` are its k best. `best_rows` int64 and `best_scores` float32, (n_classes,),
    are the best row of each class, -1 and nan where the class has none but the query. For a query
    of a known class, `first_rank` is the 1-based rank of the best row of its class over all rows
    (None where there is none) and `relevant_in_r` counts rows of its class among the R best.
    """

    rows: Rows
    scores: Floats
    best_rows: Rows
    best_scores: Floats
    first_rank: int | None
    relevant_in_r: int


def scan(
    vectors: Floats,
    error: float,
    classes: Classes,
    queries: Floats,
    k: int,
    *,
    own: Sequence[int],
    exclude: Sequence[int | None],
) -> Iterator[Scan]:
    """Compare each query with every row, exactly, in blocks that bound the memory.

    Args:
        vectors: unit rows, float32 (count, dim).
        error: how far a float32 product of two of them may be off.
        classes: the labels of the rows.
        queries: unit vectors, float32 (n, dim).
        k: how many matches are wanted.
        own: for each query the id of its class, -1 for none.
        exclude: for each query the row that is itself, or None.

    Yields:
        One Scan a query, in order.
    """
    by_class = np.argsort(classes.ids, kind="stable")
    by_class = by_class[np.searchsorted(classes.ids[by_class], 0) :]
    starts = np.concatenate(([0], np.cumsum(classes.counts)[:-1])).astype(np.intp)
    step = max(1, _SCAN_BYTES // (4 * max(1, len(vectors))))
    for begin in range(0, len(queries), step):
        block = queries[begin : begin + step]
        products = block @ vectors.T
        for i, approximate in enumerate(products):
            at = begin + i
            yield _Pass(vectors, error, classes, block[i], approximate, exclude[at]).scan(
                k, own[at], by_class, starts
            )


class _Pass:
    """One query against all rows: `near` holds float32 products, each within `error`."""

    def __init__(  # noqa: PLR0917 - what a pass is about
        self,
        vectors: Floats,
        error: float,
        classes: Classes,
        query: Floats,
        near: Floats,
        itself: int | None,
    ) -> None:
        self.vectors, self.error, self.classes = vectors, error, classes
        self.query, self.near = query, near
        self.count = len(near)
        if itself is not None:
            self.near[itself] = -np.inf
            self.count -= 1

    def scan(self, k: int, own: int, by_class: npt.NDArray[np.intp], starts: Rows) -> Scan:
        rows, scores = self.top(k)
        best_rows, best_scores = self.best_of_classes(by_class, starts)
        first, relevant = None, 0
        if own >= 0 and best_rows[own] >= 0:
            first = self.rank_of(int(best_rows[own]), float(best_scores[own]))
            alike = int(np.count_nonzero((self.classes.ids == own) & np.isfinite(self.near)))
            relevant = self.own_among_best(alike, own)
        return Scan(rows, scores, best_rows, best_scores, first, relevant)

    def exact(self, rows: Rows) -> Floats:
        return exact_scores(self.vectors[rows], self.query)

    def top(self, k: int) -> tuple[Rows, Floats]:
        k = min(k, self.count)
        if not k:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        rows = np.flatnonzero(self.near >= self._cut(k) - 2 * self.error)
        scores = self.exact(rows)
        best = order(rows, scores)[:k]
        return rows[best], scores[best]

    def _cut(self, k: int) -> float:
        """Return the k-th highest product; rows that belong to the k best are within 2 errors."""
        at = len(self.near) - k
        return max(float(np.partition(self.near, at)[at]), -2.0)

    def best_of_classes(self, by_class: npt.NDArray[np.intp], starts: Rows) -> tuple[Rows, Floats]:
        number = len(self.classes.names)
        best_rows = np.full(number, -1, np.int64)
        best_scores = np.full(number, np.nan, np.float32)
        if not number:
            return best_rows, best_scores
        sorted_near = self.near[by_class]
        highest = np.maximum.reduceat(sorted_near, starts)
        floor = np.repeat(highest - 2 * self.error, self.classes.counts)
        rows = by_class[np.flatnonzero((sorted_near >= floor) & (sorted_near > -np.inf))]
        scores = self.exact(rows)
        ids = self.classes.ids[rows]
        ranked = np.lexsort((rows, -scores, ids))
        first = ranked[np.flatnonzero(np.diff(ids[ranked], prepend=-1))]
        best_rows[ids[first]] = rows[first]
        best_scores[ids[first]] = scores[first]
        return best_rows, best_scores

    def rank_of(self, row: int, score: float) -> int:
        above = int(np.count_nonzero(self.near > score + self.error))
        close = np.flatnonzero(np.abs(self.near - score) <= self.error)
        scores = self.exact(close)
        beat = (scores > score) | ((scores == score) & (close < row))
        return 1 + above + int(np.count_nonzero(beat))

    def own_among_best(self, number: int, own: int) -> int:
        """Count rows of class `own` among the `number` best rows."""
        mine = self.classes.ids == own
        cut = self._cut(number)
        sure = self.near > cut + 2 * self.error
        close = np.flatnonzero((np.abs(self.near - cut) <= 2 * self.error) & ~sure)
        room = number - int(np.count_nonzero(sure))
        best = close[order(close, self.exact(close))[:room]]
        return int(np.count_nonzero(sure & mine)) + int(np.count_nonzero(mine[best]))
