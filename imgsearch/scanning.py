"""Many queries at once: matrix products of the rows, block by block, and what is best in them.

A block's products lie a row of the index to a line, as the multiplication leaves them: turning them
to a line a query, or keeping all of them, would cost a good part of what the multiplication costs.
Rows are taken in groups of one class, whose highest products are found for all queries together;
what a query must look at row by row are the few groups that could hold one of its k best or the
best of a class by what the blocks so far have shown.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgsearch.ranking import Pass, Scan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from imgsearch.ranking import Classes, Floats, Mask, NearlySource, Rows

    Places = npt.NDArray[np.intp]

# Where all products are kept: so many bytes at a time, or a quarter of a large index; and the
# fewest queries that share one reading of the rows.
_WHOLE_BYTES, _WHOLE_MOST = 1 << 26, 1 << 28
_WHOLE_QUERIES = 32
# Queries, or groups, that a thread takes at a time: a line of the cache holds 16 products.
_TURN = 16
# Where only the best are kept: products of a block, queries that share a reading, rows of a group.
_BLOCK_BYTES, _BLOCK_MOST = 1 << 24, 1 << 26
_BLOCK_QUERIES = 1024
_GROUP_ROWS = 32
# A block's groups must leave most of its rows out.
_GROUPS_A_MATCH = 4
_FEWEST_ROWS = 4096


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
    count = len(source.rows)
    wanted = k if classes is None else k + int(np.count_nonzero(classes.counts))
    least = max(_FEWEST_ROWS, _GROUP_ROWS * _GROUPS_A_MATCH * wanted)
    whole = own is not None or least > count
    if whole:
        room = min(_WHOLE_MOST, max(_WHOLE_BYTES, source.rows.nbytes // 4))
        most = max(_WHOLE_QUERIES, room // (4 * count))
    else:
        most = min(_BLOCK_QUERIES, max(_WHOLE_QUERIES, _BLOCK_MOST // (4 * least)))
    # Shares of one size: a small one at the end would be slow for its size.
    step = max(1, math.ceil(len(queries) / max(1, math.ceil(len(queries) / most))))
    for begin in range(0, len(queries), step):
        part = slice(begin, begin + step)
        some = _Queries(
            source,
            classes,
            queries[part],
            k,
            exclude[part],
            None if allowed is None else allowed[part],
        )
        if whole:
            yield from some.answer_whole(None if own is None else own[part])
        else:
            yield from some.answer_blocks(max(least, _BLOCK_BYTES // (4 * len(some))))


@dataclass(frozen=True, slots=True)
class _Groups:
    """The rows of a block in groups of one class each; those of a class are neighbors.

    `rows` int64 (n_rows,) holds them group by group, None where they lie so; group g are those
    from `starts[g]` to `starts[g + 1]`, int64 (n_groups + 1,); `ids` int32 (n_groups,) is its
    class, -1 for none; class by class groups begin at `begins`.
    """

    rows: Rows | None
    starts: Rows
    ids: npt.NDArray[np.int32]
    begins: Places


def _group(ids: npt.NDArray[np.int32]) -> _Groups:
    rows = None
    if np.any(ids[1:] < ids[:-1]):
        rows = np.argsort(ids, kind="stable")
        ids = ids[rows]
    changes = np.flatnonzero(np.diff(ids, prepend=ids[0] - 1))
    ends = np.append(changes[1:], len(ids))
    starts = np.concatenate(
        [np.arange(a, b, _GROUP_ROWS) for a, b in zip(changes, ends, strict=True)]
    )
    its = ids[starts]
    begins = np.flatnonzero(np.diff(its, prepend=its[0] - 1))
    return _Groups(rows, np.append(starts, len(ids)), its, begins)


class _Found:
    """The rows that could still belong to an answer: columns of queries, rows and products."""

    def __init__(self) -> None:
        self._parts: list[tuple[Places, Rows, Floats]] = []

    def add(self, queries: Places, rows: Rows, near: Floats) -> None:
        self._parts.append((queries, rows, near))

    def columns(self) -> tuple[Places, Rows, Floats]:
        """Return all of them, query by query, the highest products first."""
        queries, rows, near = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        turn = np.lexsort((-near, queries))
        return queries[turn], rows[turn], near[turn]


class _Queries:
    """Some queries, to be answered with one reading of the rows."""

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
        self._multiply = source.multiplier(queries)
        # A product is off by one error, and so is what it is held against.
        self._slack = np.nextafter(np.float32(2 * source.error), np.float32(np.inf))
        self._selves = [(row, i) for i, row in enumerate(exclude) if row is not None]
        # Queries of one label share their mask.
        columns: dict[int, tuple[Mask, list[int]]] = {}
        for i, mask in enumerate(allowed or ()):
            if mask is not None:
                columns.setdefault(id(mask), (mask, []))[1].append(i)
        self._masks = list(columns.values())

    def __len__(self) -> int:
        return len(self.queries)

    def _products(self, first: int, out: Floats) -> None:
        """Score the rows from `first` on; those that do not qualify get minus infinity."""
        self._multiply(first, out)
        last = first + len(out)
        for mask, its in self._masks:
            out[np.flatnonzero(~mask[first:last])[:, None], its] = -np.inf
        for row, i in self._selves:
            if first <= row < last:
                out[row - first, i] = -np.inf

    def _pass(self, i: int, near: Floats | None = None) -> Pass:
        source = self.source
        return Pass(source.rows, source.error, self.queries[i], near, self.classes)

    def answer_whole(self, own: Sequence[int] | None) -> Iterator[Scan]:
        """Answer from the products with all rows; with `own` also the ranks."""
        found: list[Scan | None] = [None] * len(self)
        products = np.empty((len(self.source.rows), len(self)), np.float32)
        self._products(0, products)

        def answer(first: int) -> None:
            near = products[:, first : first + _TURN].T.copy()
            for i, its in enumerate(near, start=first):
                one = self._pass(i, its)
                best = one.finish(one.close_rows(self.k), self.k)
                found[i] = best if own is None else one.ranked(best, own[i])

        self.source.share(answer, range(0, len(self), _TURN))
        return (one for one in found if one is not None)

    def answer_blocks(self, step: int) -> Iterator[Scan]:
        """Answer from what is best in each block of `step` rows."""
        count, number = len(self.source.rows), len(self)
        products = np.empty((min(step, count), number), np.float32)
        # The highest products of k groups so far, and of each class: at least that is reached.
        top = np.full((number, self.k), -np.inf, np.float32)
        names = 0 if self.classes is None else len(self.classes.names)
        best = np.full((names + 1, number), -np.inf, np.float32)
        found = _Found()
        for first in range(0, count, step):
            near = products[: min(step, count - first)]
            self._products(first, near)
            ids = np.full(len(near), -1, np.int32)
            if self.classes is not None:
                ids = self.classes.ids[first : first + step]
            groups = _group(ids)
            highest = self._highest(near, groups)
            top = np.concatenate((top, highest.T), axis=1)
            top = np.partition(top, top.shape[1] - self.k, axis=1)[:, -self.k :]
            floors = np.broadcast_to(self._below(top[:, 0]), highest.shape)
            if self.classes is not None:
                its = groups.ids[groups.begins]
                best[its] = np.maximum(best[its], np.maximum.reduceat(highest, groups.begins))
                best[-1] = np.inf  # what has no label is the best of no class
                floors = np.minimum(floors, self._below(best)[groups.ids])
            self._look(
                found, first, near, groups, (highest >= floors) & (highest > -np.inf), floors
            )
        return self._settle(*found.columns())

    def _settle(self, queries: Places, rows: Rows, near: Floats) -> Iterator[Scan]:
        """Score exactly what is too close to the best to be left out, and order it."""
        number, classes = len(self), self.classes
        begins = np.searchsorted(queries, np.arange(number + 1))
        last = begins[:-1] + self.k - 1
        full = last < begins[1:]
        floors = np.full(number, -np.inf, np.float32)
        floors[full] = self._below(near[last[full]])
        keep = near >= floors[queries]
        if classes is not None:
            labelled = np.flatnonzero(classes.ids[rows] >= 0)
            keys = queries[labelled] * len(classes.names) + classes.ids[rows[labelled]]
            # The first of a key is the highest.
            _, first, key = np.unique(keys, return_index=True, return_inverse=True)
            keep[labelled] |= near[labelled] >= self._below(near[labelled[first]])[key]
        queries, rows = queries[keep], rows[keep]
        begins = np.searchsorted(queries, np.arange(number + 1))
        scores = np.empty(len(rows), np.float32)

        def score(first: int) -> None:
            for i in range(first, min(first + _TURN, number)):
                its = slice(begins[i], begins[i + 1])
                scores[its] = self._pass(i).exact(rows[its])

        self.source.share(score, range(0, number, _TURN))
        turn = np.lexsort((rows, -scores, queries))
        queries, rows, scores = queries[turn], rows[turn], scores[turn]
        names = 0 if classes is None else len(classes.names)
        best_rows = np.full((number, names), -1, np.int64)
        best_scores = np.full((number, names), np.nan, np.float32)
        if classes is not None:
            labelled = np.flatnonzero(classes.ids[rows] >= 0)
            keys = queries[labelled] * names + classes.ids[rows[labelled]]
            keys, first = np.unique(keys, return_index=True)
            best_rows.flat[keys] = rows[labelled[first]]
            best_scores.flat[keys] = scores[labelled[first]]
        for i in range(number):
            its = slice(begins[i], min(begins[i + 1], begins[i] + self.k))
            yield Scan(rows[its], scores[its], best_rows[i], best_scores[i])

    def _below(self, reached: Floats) -> Floats:
        """Return what a row's product must reach where a row reaches that."""
        floors: Floats = np.nextafter(reached - self._slack, np.float32(-np.inf))
        return floors

    def _highest(self, near: Floats, groups: _Groups) -> Floats:
        """Return the highest product of each group and query, float32 (n_groups, n)."""
        out = np.empty((len(groups.ids), near.shape[1]), np.float32)
        starts = groups.starts.tolist()

        def some(first: int) -> None:
            for g in range(first, min(first + _TURN, len(out))):
                start, stop = starts[g], starts[g + 1]
                rows = slice(start, stop) if groups.rows is None else groups.rows[start:stop]
                np.maximum.reduce(near[rows], axis=0, out=out[g])

        self.source.share(some, range(0, len(out), _TURN))
        return out

    @staticmethod
    def _look(  # noqa: PLR0917 - one step of the loop above
        found: _Found, first: int, near: Floats, groups: _Groups, reach: Mask, floors: Floats
    ) -> None:
        """Keep the rows of the groups that reach the floors, where they reach them, too."""
        at_group, at_query = np.nonzero(reach)
        sizes = groups.starts[at_group + 1] - groups.starts[at_group]
        ends = np.cumsum(sizes)
        rows = np.arange(ends[-1] if len(ends) else 0)
        rows += np.repeat(groups.starts[at_group] - (ends - sizes), sizes)
        if groups.rows is not None:
            rows = groups.rows[rows]
        queries = np.repeat(at_query, sizes)
        its = near[rows, queries]
        keep = (its >= np.repeat(floors[at_group, at_query], sizes)) & (its > -np.inf)
        found.add(queries[keep], rows[keep] + first, its[keep])
