"""What an evaluation owes to copies: the same measures without rows that are nearly the query.

The filter is part of the search: a row that is left out makes room for the next one, and k matches
come back wherever k rows are left.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import metrics
from imgsearch.duplicates import SIGNS, Side
from imgsearch.metrics import spread
from imgsearch.records import Near

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from imgsearch.duplicates import Duplicates, Pair
    from imgsearch.ranking import Scan
    from imgsearch.search import Query, SearchEngine

    Rows = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

# So many rows more than k are asked for at first: few queries have more near-duplicates.
ROOM = 8
# Base pictures whose nearest of another class tell how alike strangers are.
_STRANGERS = 200
# Queries whose pictures are compared before progress is told.
_WALKS_TOGETHER = 256
# Queries whose groups are masked together: a mask is a byte a row.
_MASKS_TOGETHER = 1024


@dataclass(frozen=True, slots=True)
class Answered:
    """The questions of an evaluation and their answers.

    `scans` are at scope "all", in the order of the queries, with at least `k` rows where there are
    so many; `k` matches count.
    """

    engine: SearchEngine
    queries: Sequence[Query]
    scans: Sequence[Scan]
    k: int

    def of(self, some: Sequence[int]) -> Answered:
        """Return some of them."""
        return Answered(
            self.engine, [self.queries[i] for i in some], [self.scans[i] for i in some], self.k
        )

    def has_more(self, i: int, asked: int) -> bool:
        """Whether query i could find more than `asked` rows."""
        own = self.queries[i].row is not None
        return asked < self.engine.index.manifest.count - int(own)


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left of each query's answer: up to k rows, and their scores.

    `gone` are rows that were left out, `gone_right` those of them with the query's label; both
    count only rows that were met where `near` tells of each.
    """

    rows: list[Rows]
    scores: list[Floats]
    affected: list[bool]
    gone: list[int]
    gone_right: list[int]

    def of(self, some: Sequence[int]) -> Rest:
        """Return what is left of some queries' answers."""
        return Rest(
            [self.rows[i] for i in some],
            [self.scores[i] for i in some],
            [self.affected[i] for i in some],
            [self.gone[i] for i in some],
            [self.gone_right[i] for i in some],
        )


@dataclass(frozen=True, slots=True)
class NearRest(Rest):
    """The same, with the near-duplicates met by each query among its best."""

    near: list[tuple[Near, ...]]


class _Walk:
    """One query's way down its ranking: rows are kept or left out until k are kept."""

    __slots__ = ("at", "kept", "near", "rows", "scores")

    def __init__(self, scan: Scan) -> None:
        self.rows, self.scores = scan.rows, scan.scores
        self.at = 0
        self.kept: list[int] = []
        self.near: list[Near] = []

    def next(self, k: int) -> range:
        """Return the places to look at now: as many as are still wanted."""
        return range(self.at, min(len(self.rows), self.at + k - len(self.kept)))


def without_near_duplicates(
    asked: Answered, judge: Duplicates, progress: Callable[[int, int], None] | None = None
) -> NearRest:
    """Leave out, for each query, the rows that are nearly the query itself.

    A ranking is walked down from its best row until k rows are kept, so that only pictures are
    opened which the answer depends on.

    Args:
        asked: the questions and their answers.
        judge: tells near-duplicates; its cuts should have been drawn.
        progress: called with how many queries are done, and of how many.
    """
    walks = [_Walk(scan) for scan in asked.scans]
    active = list(range(len(walks)))
    while active:
        for first in range(0, len(active), _WALKS_TOGETHER):
            _step(asked, walks, active[first : first + _WALKS_TOGETHER], judge)
            if progress is not None:
                done = min(len(active), first + _WALKS_TOGETHER)
                progress(len(walks) - len(active) + done, len(walks))
        active = [i for i in active if len(walks[i].kept) < asked.k]
        short = [i for i in active if walks[i].at == len(walks[i].rows)]
        more = [i for i in short if asked.has_more(i, len(walks[i].rows))]
        done_with = set(short) - set(more)
        active = [i for i in active if i not in done_with]
        if more:
            limit = 2 * max(len(walks[i].rows) for i in more)
            scans = asked.engine.scans([asked.queries[i] for i in more], limit)
            for i, scan in zip(more, scans, strict=True):
                walks[i].rows, walks[i].scores = scan.rows, scan.scores
    labels = asked.engine.index.items.label
    return NearRest(
        [walk.rows[walk.kept] for walk in walks],
        [walk.scores[walk.kept] for walk in walks],
        [_among(walk, asked.k) for walk in walks],
        [len(walk.near) for walk in walks],
        [
            sum(labels(near.row) == query.label for near in walk.near)
            for query, walk in zip(asked.queries, walks, strict=True)
        ],
        [tuple(walk.near) for walk in walks],
    )


def _step(
    asked: Answered, walks: Sequence[_Walk], active: Sequence[int], judge: Duplicates
) -> None:
    """Let each walk go on by as many rows as it still wants."""
    pairs: list[Pair] = []
    places: list[tuple[int, int]] = []
    lowest = judge.cuts.lowest
    for i in active:
        walk, query = walks[i], asked.queries[i]
        wanted = walk.next(asked.k)
        walk.at = wanted.stop
        one = Side(query.file, query.sha256)
        for at in wanted:
            score = float(walk.scores[at])
            if score < lowest:
                walk.kept.append(at)
            else:
                pairs.append((one, row_side(asked.engine, int(walk.rows[at])), score))
                places.append((i, at))
    for (i, at), sign, pair in zip(places, judge.signs(pairs), pairs, strict=True):
        if sign is None:
            walks[i].kept.append(at)
        else:
            walks[i].near.append(Near(int(walks[i].rows[at]), pair[2], sign))
    for i in active:
        walks[i].kept.sort()  # rows that had to be looked at came after those that had not


def _among(walk: _Walk, k: int) -> bool:
    """Whether one of the k best was left out."""
    first = {int(row) for row in walk.rows[:k]}
    return any(near.row in first for near in walk.near)


def row_side(engine: SearchEngine, row: int) -> Side:
    """Return a stored row as one side of a pair."""
    return Side(engine.picture_file(row), engine.index.items.sha256(row))


def draw_cuts(asked: Answered, judge: Duplicates) -> None:
    """Tighten the cuts of `judge` where pictures of different classes are too alike for them.

    Nothing is done where nobody among the k best of the queries is a near-duplicate but by its
    sum: then there is nothing that could be taken for one wrongly.
    """
    for first in range(0, len(asked.queries), _WALKS_TOGETHER):
        pairs: list[Pair] = []
        for query, scan in zip(
            asked.queries[first : first + _WALKS_TOGETHER],
            asked.scans[first : first + _WALKS_TOGETHER],
            strict=True,
        ):
            one = Side(query.file, query.sha256)
            best = zip(scan.rows[: asked.k].tolist(), scan.scores[: asked.k].tolist(), strict=True)
            pairs += [
                (one, row_side(asked.engine, row), score)
                for row, score in best
                if score >= judge.cuts.lowest
            ]
        if any(sign not in {None, "content"} for sign in judge.signs(pairs)):
            judge.adjust(strangers(asked.engine))
            return


def strangers(engine: SearchEngine, size: int = _STRANGERS) -> list[Pair]:
    """Return pairs of a base picture and the one most like it of another class.

    They are hardly ever the same picture, and the most alike that strangers get. Empty where there
    are fewer than two classes.
    """
    ids = engine.index.items.classes.ids
    labelled = np.flatnonzero(ids >= 0)
    if len(engine.classes) < 2 or not len(labelled):  # noqa: PLR2004 - one has no other
        return []
    rows = labelled[spread(len(labelled), min(size, len(labelled)))]
    queries = engine.row_queries(rows.tolist())
    pairs = []
    for row, scan in zip(rows.tolist(), engine.scans(queries, 1), strict=True):
        others = np.array(scan.best_scores, np.float64)
        others[ids[row]] = np.nan
        if not np.isnan(others).all():
            best = int(np.nanargmax(others))
            other = row_side(engine, int(scan.best_rows[best]))
            pairs.append((row_side(engine, row), other, float(others[best])))
    return pairs


def without_own_group(asked: Answered) -> Rest | None:
    """Leave out, for each query, the rows of the query's own group.

    A query without a group keeps all rows.

    Returns:
        What is left; None where the queries or the base set know no groups.
    """
    items, k = asked.engine.index.items, asked.k
    groups, labels = items.column("group"), items.column("label")
    names = {name: i for i, name in enumerate(dict.fromkeys(groups)) if name is not None}
    if not names or all(query.group is None for query in asked.queries):
        return None
    of_row = np.array([names.get(name, -1) for name in groups], np.int64)
    sizes = Counter(groups)
    right = Counter(zip(groups, labels, strict=True))
    rest = Rest([], [], [], [], [])
    again: list[tuple[int, int]] = []
    for i, (query, scan) in enumerate(zip(asked.queries, asked.scans, strict=True)):
        own = -2 if query.group is None else names.get(query.group, -2)
        keep = np.flatnonzero(of_row[scan.rows] != own)[:k]
        if len(keep) < k and own >= 0 and asked.has_more(i, len(scan.rows)):
            again.append((own, i))
        rest.rows.append(scan.rows[keep])
        rest.scores.append(scan.scores[keep])
        rest.affected.append(bool(np.any(of_row[scan.rows[:k]] == own)))
        # In leave-one-out the query itself is out already.
        itself = own >= 0 and query.row is not None
        mine = itself and labels[query.row or 0] == query.label
        rest.gone.append((sizes[query.group] if own >= 0 else 0) - int(itself))
        rest.gone_right.append((right[query.group, query.label] if own >= 0 else 0) - int(mine))
    # Who found too few among the best looks among the rows of other groups only.
    again.sort()
    for first in range(0, len(again), _MASKS_TOGETHER):
        part = again[first : first + _MASKS_TOGETHER]
        masks = {own: of_row != own for own, _ in part}
        found = asked.engine.scans(
            [asked.queries[i] for _, i in part], k, allowed=[masks[own] for own, _ in part]
        )
        for (_, i), scan in zip(part, found, strict=True):
            rest.rows[i], rest.scores[i] = scan.rows, scan.scores
    return rest


def measured(asked: Answered, rest: Rest) -> list[dict[str, float]]:
    """Take the measures at k of what is left of labelled queries."""
    classes = asked.engine.index.items.classes
    names: list[str | None] = [*classes.names, None]  # the last is what -1 finds
    return [
        metrics.values_at_k(
            str(query.label), asked.k, [names[i] for i in classes.ids[rows]], scores.tolist()
        )
        for query, rows, scores in zip(asked.queries, rest.rows, rest.scores, strict=True)
    ]


def precision_by_lot(asked: Answered, rest: Rest) -> float:
    """Return the mean precision at k of a random order of the rows that are left."""
    manifest, items = asked.engine.index.manifest, asked.engine.index.items
    levels = []
    for query, gone, gone_right in zip(asked.queries, rest.gone, rest.gone_right, strict=True):
        label = str(query.label)
        mine = query.row is not None and items.label(query.row) == label
        relevant = manifest.classes.get(label, 0) - int(mine) - gone_right
        rows = manifest.count - int(query.row is not None) - gone
        level = metrics.chance_level(
            label, asked.k, {label: relevant}, rows, measure="precision_at_k"
        )
        levels.append(level["precision_at_k"])
    return metrics.mean(levels)


def count_signs(rest: NearRest) -> dict[str, int]:
    """Count the near-duplicates that were met by how they are known."""
    counted = Counter(near.sign for its in rest.near for near in its)
    return {sign: counted[sign] for sign in SIGNS}
