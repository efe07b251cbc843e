"""Many queries at once: one matrix product of all rows, read as few times as can be.

The products lie a row of the index to a line, as the multiplication leaves them: turning them to a
line a query would cost as much again as a large part of the product. Rows are taken in groups of
one class, whose highest products are found for all queries together; what a query must look at row
by row are the few groups that could hold one of its k best, or the best of a class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgsearch.ranking import Pass, Scan, all_below

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from imgsearch.ranking import Classes, Floats, Mask, NearlySource, Rows

    Ids = npt.NDArray[np.int32]

# Products of queries and rows at a time, and the fewest queries that share one reading of the rows.
# A product of more queries is quicker for each: a large index may take a quarter of its size.
_SCAN_BYTES, _SCAN_MOST = 1 << 26, 1 << 28
_SCAN_QUERIES = 32
# Rows of a group; with fewer rows, or with groups that hold hardly any, groups save nothing.
_GROUP_ROWS = 64
_MANY_ROWS = 64 * _GROUP_ROWS
_FEWEST_A_GROUP = 8
# With more than a quarter of the groups wanted anyway, a query may as well look at all rows.
_WANTED = 4
# Queries whose products are turned at a time: a line of the cache holds as many.
_TURN = 16


def scan(
    source: NearlySource,
    classes: Classes | None,
    queries: Floats,
    k: int,
    *,
    exclude: Sequence[int | None],
    own: Sequence[int] | None = None,
    allowed: Sequence[Mask | None] | None = None,
) -> Iterator[Scan]:
    """Compare each query with every row, exactly, in blocks that bound the memory.

    Args:
        source: where the rows are.
        classes: the labels of the rows, where the best row of each class is wanted.
        queries: unit vectors, float32 (n, dim).
        k: how many matches are wanted.
        exclude: for each query the row that is itself, or None.
        own: for each query the id of its class, -1 for none; with it the ranks are found, too.
        allowed: for each query the rows that qualify, bool (count,), None for all.

    Yields:
        One Scan a query, in order.
    """
    groups = None if own is not None else _group(classes, len(source.rows), k)
    room = min(_SCAN_MOST, max(_SCAN_BYTES, source.rows.nbytes // 4))
    most = max(_SCAN_QUERIES, room // (4 * len(source.rows)))
    # Blocks of one size: a small one at the end would be slow for its size.
    blocks = max(1, math.ceil(len(queries) / most))
    step = max(1, math.ceil(len(queries) / blocks))
    for begin in range(0, len(queries), step):
        end = min(len(queries), begin + step)
        block = _Block(
            source,
            classes,
            queries[begin:end],
            k,
            exclude[begin:end],
            None if allowed is None else allowed[begin:end],
        )
        if groups is None:
            yield from block.whole(None if own is None else own[begin:end])
        else:
            yield from block.grouped(groups)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Rows in groups of one class each.

    `rows` int64 (count,) holds them group by group, None where they lie so; group g are those from
    `starts[g]` to `starts[g + 1]`, int64 (n_groups + 1,); `ids` int32 (n_groups,) is its class, -1
    for none. Groups of a class are neighbors.
    """

    rows: Rows | None
    starts: Rows
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)


def _group(classes: Classes | None, count: int, k: int) -> _Groups | None:
    """Group `count` rows; None where groups would save nothing."""
    if count < _MANY_ROWS:
        return None
    ids = np.full(count, -1, np.int32) if classes is None else classes.ids
    rows = None
    if np.any(ids[1:] < ids[:-1]):
        rows = np.argsort(ids, kind="stable")
        ids = ids[rows]
    begins = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))
    ends = np.append(begins[1:], count)
    starts = np.concatenate(
        [np.arange(a, b, _GROUP_ROWS) for a, b in zip(begins, ends, strict=True)]
    )
    wanted = k + (0 if classes is None else len(begins))
    if len(starts) * _FEWEST_A_GROUP > count or wanted * _WANTED > len(starts):
        return None
    return _Groups(rows, np.append(starts, count), ids[starts])


class _Block:
    """Some queries against all rows; `near` holds their products, float32 (count, n)."""

    def __init__(  # noqa: PLR0917 - what a scan is about
        self,
        source: NearlySource,
        classes: Classes | None,
        queries: Floats,
        k: int,
        exclude: Sequence[int | None],
        allowed: Sequence[Mask | None] | None,
    ) -> None:
        self.source, self.classes, self.queries, self.k = source, classes, queries, k
        self.near = source.products(queries)
        if allowed is not None:
            # Queries of one label share their mask.
            columns: dict[int, tuple[Mask, list[int]]] = {}
            for i, mask in enumerate(allowed):
                if mask is not None:
                    columns.setdefault(id(mask), (mask, []))[1].append(i)
            for mask, its in columns.values():
                self.near[np.flatnonzero(~mask)[:, None], its] = -np.inf
        for i, row in enumerate(exclude):
            if row is not None:
                self.near[row, i] = -np.inf

    def _pass(self, i: int, near: Floats | None = None) -> Pass:
        source = self.source
        return Pass(source.rows, source.error, self.queries[i], near, self.classes)

    def whole(self, own: Sequence[int] | None) -> Iterator[Scan]:
        """Answer each query from its products with all rows; with `own` also the ranks."""
        number = len(self.queries)
        found: list[Scan | None] = [None] * number

        def answer(first: int) -> None:
            near = self.near[:, first : first + _TURN].T.copy()
            for i, its in enumerate(near, start=first):
                one = self._pass(i, its)
                best = one.finish(one.close_rows(self.k), self.k)
                found[i] = best if own is None else one.ranked(best, own[i])

        self.source.share(answer, range(0, number, _TURN))
        return (one for one in found if one is not None)

    def grouped(self, groups: _Groups) -> Iterator[Scan]:
        """Answer each query from the groups that could hold one of its answers."""
        number = len(self.queries)
        highest = self._highest(groups)
        # k groups hold a row that is at least as good as the k-th best of them.
        at = len(groups) - self.k
        kth = np.partition(highest.T.copy(), at, axis=1)[:, at]
        floor = all_below(kth.astype(np.float64) - 2 * self.source.error)
        floors = np.broadcast_to(floor, highest.shape)
        if self.classes is not None:
            of_class = np.full((len(self.classes.names) + 1, number), np.inf, np.float32)
            begins = np.flatnonzero(np.diff(groups.ids, prepend=groups.ids[0] - 1))
            best = np.maximum.reduceat(highest, begins, axis=0)
            best[best == -np.inf] = np.inf
            of_class[groups.ids[begins]] = all_below(
                best.astype(np.float64) - 2 * self.source.error
            )
            of_class[-1] = np.inf
            floors = np.minimum(of_class[groups.ids], floor)
        at_query, at_group = np.nonzero(((highest >= floors) & (highest > -np.inf)).T)
        begins = np.searchsorted(at_query, np.arange(number + 1))
        found: list[Scan | None] = [None] * number

        def answer(i: int) -> None:
            its = at_group[begins[i] : begins[i + 1]]
            sizes = groups.starts[its + 1] - groups.starts[its]
            ends = np.cumsum(sizes)
            places = np.arange(ends[-1] if len(ends) else 0)
            places += np.repeat(groups.starts[its] - (ends - sizes), sizes)
            rows = places if groups.rows is None else groups.rows[places]
            near = self.near[rows, i]
            keep = near > -np.inf
            keep &= near >= np.repeat(floors[its, i], sizes)
            rows, near = rows[keep], near[keep]
            one = self._pass(i)
            if len(rows):
                rows = rows[one.close(rows, near, self.k)]
            found[i] = one.finish(rows, self.k)

        self.source.share(answer, range(number))
        return (one for one in found if one is not None)

    def _highest(self, groups: _Groups) -> Floats:
        """Return the highest product of each group and query, float32 (n_groups, n)."""
        out = np.empty((len(groups), self.near.shape[1]), np.float32)
        starts = groups.starts.tolist()

        def some(first: int) -> None:
            for g in range(first, min(first + _GROUP_ROWS, len(groups))):
                start, stop = starts[g], starts[g + 1]
                rows = slice(start, stop) if groups.rows is None else groups.rows[start:stop]
                np.maximum.reduce(self.near[rows], axis=0, out=out[g])

        self.source.share(some, range(0, len(groups), _GROUP_ROWS))
        return out
