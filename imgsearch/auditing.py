"""The journey of `audit`: the pictures that spoil a base set, worst first, and what shows it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import neighbors, scanning, suspects
from imgsearch.duplicates import Cuts, Duplicates, Side
from imgsearch.errors import QueryError
from imgsearch.memory import content_sum
from imgsearch.metrics import spread
from imgsearch.neighbors import Kin, Neighborhood
from imgsearch.questions import Asked, ask_with
from imgsearch.records import (
    DEFAULT_K,
    OUTLIER_RATE,
    AuditReport,
    DuplicateGroup,
    Hub,
    LabelIssue,
    Leak,
    Limits,
    Outlier,
    Overlap,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from imgsearch.duplicates import Sign
    from imgsearch.ranking import Floats, Rows
    from imgsearch.records import StoredItem
    from imgsearch.search import Query, SearchEngine

    Progress = Callable[[int, int], None]

# Neighbors that are looked at: copies among them are passed over, and enough must be left to vote.
WIDTH = 64
# Of each row so many are compared as pictures: a copy is hardly ever further down. Opening pictures
# is what costs most, so that the closest pairs come first and there is an end.
_LOOK_AT, _MOST_COMPARED = 3, 20_000
_STRANGERS = 300
_LOT = 256
_EVIDENCE = 5
# A hub intrudes more often than chance would let it: so many standard deviations above the mean.
_HUB_DEVIATIONS = 3.0
_LISTED_HUBS, _LISTED_OVERLAPS = 100, 50
# Of a hundred steps of progress, those that are done after neighbors, pictures and labels.
_AFTER_NEIGHBORS, _AFTER_PICTURES, _STEPS = 70, 80, 100


def audit(
    engine: SearchEngine,
    test: str | os.PathLike[str] | Asked | None = None,
    *,
    labels_file: str | os.PathLike[str] | None = None,
    split: str = "test",
    outlier_rate: float = OUTLIER_RATE,
    cuts: Cuts | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Find the pictures that spoil a base set.

    Args:
        engine: the open index.
        test: a folder of test pictures, which should not be in the base set; or the questions of an
            evaluation, where they are of a test set.
        labels_file: labels of the test pictures, instead of their first-level subfolders.
        split: which split of the label file is the test set, where it knows splits.
        outlier_rate: of ordinary pictures, the share that is listed as outliers by chance.
        cuts: what counts as a near-duplicate.
        progress: called with (steps done, steps in all).

    Returns:
        Likely wrong labels, near-duplicates, leaks of the test set, outliers, base pictures that
        intrude in other classes and classes that overlap; docs/measures.md says how each is found.

    Raises:
        QueryError: the index has one row, or the rate is none.
        NotFoundError, NoImagesError: there is no test set.
        (and what reading pictures and label files raises)
    """
    if not 0 < outlier_rate < 1:
        raise QueryError("the rate of outliers must be a number between 0 and 1")
    if labels_file is not None and test is None:
        raise QueryError("labels of a test set were given, but no folder TEST that they name")
    count = engine.index.manifest.count
    if count == 1:
        raise QueryError("an audit needs at least two rows in the index")
    asked = _test_set(engine, test, labels_file, split)
    base = _Base(engine, cuts)
    base.look(progress)
    opinion = suspects.judge_labels(
        engine.index.vectors.local().rows,
        engine.index.items.classes.ids,
        len(engine.classes),
        base.near,
        base.kin,
        progress=_part(progress, _AFTER_PICTURES, _STEPS),
    )
    near = base.near.without_kin(DEFAULT_K)
    manifest = engine.index.manifest
    report = AuditReport(
        index=engine.index.place,
        count=count,
        k=DEFAULT_K,
        judged=len(opinion.rows),
        compared=0,
        outlier_rate=outlier_rate,
        label_issues=base.issues(opinion),
        duplicates=base.duplicates(),
        leaks=base.leaks([] if asked is None else asked.queries),
        outliers=base.outliers(near, outlier_rate),
        hubs=base.hubs(near),
        overlaps=base.overlaps(near),
        tested=None if asked is None else len(asked.queries),
        skipped=() if asked is None else tuple(asked.skips),
        model=manifest.model,
        weights=manifest.weights,
        image_root=manifest.image_root,
    )
    return replace(report, compared=base.finder.opened)


def _test_set(
    engine: SearchEngine,
    test: str | os.PathLike[str] | Asked | None,
    labels_file: str | os.PathLike[str] | None,
    split: str,
) -> Asked | None:
    if isinstance(test, Asked):
        return test if test.mode == "test" else None
    return None if test is None else ask_with(engine, test, labels_file, split)


def _part(progress: Progress | None, first: int, last: int) -> Progress | None:
    """Return the progress of a part of the work, from step `first` to `last`."""
    if progress is None:
        return None
    told = progress
    return lambda done, total: told(first + (last - first) * done // max(1, total), _STEPS)


@dataclass(frozen=True, slots=True)
class _Link:
    """Two rows that show the same picture."""

    one: int
    other: int
    score: float


class _Base:
    """A base set under audit: its rows, who lies near whom, and which are the same picture."""

    def __init__(self, engine: SearchEngine, cuts: Cuts | None) -> None:
        self.engine = engine
        self.items: list[StoredItem] = engine.index.items.all()
        self.ids = engine.index.items.classes.ids
        self.kin = Kin.of([item.sha256 for item in self.items], [item.group for item in self.items])
        self._known = engine.index.manifest.preprocessing is not None
        self._drawn = cuts is None
        # Of vectors alone, pictures cannot be opened.
        self.finder = Duplicates(lambda: engine.pool, cuts or Cuts(bits=10 if self._known else -1))
        self.near: Neighborhood
        self._links: list[_Link] = []

    def look(self, progress: Progress | None) -> None:
        """Find the neighbors of all rows, and those among them that are the same picture."""
        count = len(self.items)
        near = neighbors.find_neighbors(
            self.engine.source,
            np.arange(count),
            min(WIDTH, count - 1),
            self.kin,
            self.ids,
            known=self._known,
            progress=_part(progress, 0, _AFTER_NEIGHBORS),
        )
        if self._drawn:
            self.finder.cuts = replace(self.finder.cuts, score=near.copies_from)
            at, place = near.strangers(self.ids)
            if len(at) >= neighbors.FEWEST_STRANGERS:
                some = spread(len(at), min(len(at), _STRANGERS))
                self.finder.adjust(self._pairs(near, at[some], place[some]), score=False)
        cuts = self.finder.cuts
        # Only the nearest few are compared as pictures; a high score needs no comparison.
        wanted = near.scores >= cuts.score
        wanted[:, :_LOOK_AT] |= near.scores[:, :_LOOK_AT] >= cuts.lowest
        at, place = np.nonzero(wanted & (near.rows >= 0))
        # Each pair once, whichever of the two found the other.
        others = near.rows[at, place]
        _, once = np.unique(
            np.minimum(at, others) * count + np.maximum(at, others), return_index=True
        )
        scores = near.scores[at[once], place[once]]
        once = once[np.argsort(-scores, kind="stable")]
        sure = int(np.count_nonzero(scores >= cuts.score))
        once = once[: sure + _MOST_COMPARED]
        at, place = at[once], place[once]
        pairs = self._pairs(near, at, place)
        signs: list[Sign | None] = []
        tell = _part(progress, _AFTER_NEIGHBORS, _AFTER_PICTURES)
        for first in range(0, len(pairs), _LOT):
            signs += self.finder.signs(pairs[first : first + _LOT])
            if tell is not None:
                tell(min(len(pairs), first + _LOT), len(pairs))
        same = np.array([sign is not None for sign in signs], np.bool_)
        fresh = near.fresh.copy()
        for one, spot in zip(at[same].tolist(), place[same].tolist(), strict=True):
            other = int(near.rows[one, spot])
            self._links.append(_Link(one, other, float(near.scores[one, spot])))
            fresh[one] &= near.rows[one] != other
            fresh[other] &= near.rows[other] != one
        self.near = replace(near, fresh=fresh)

    def _pairs(
        self, near: Neighborhood, at: Rows, place: npt.NDArray[np.intp]
    ) -> list[tuple[Side, Side, float]]:
        found = zip(
            at.tolist(), near.rows[at, place].tolist(), near.scores[at, place].tolist(), strict=True
        )
        return [(self._side(one), self._side(other), score) for one, other, score in found]

    def _side(self, row: int) -> Side:
        item = self.items[row]
        file = self.engine.picture_file(row) if self._known else None
        return Side(file, item.sha256)

    def path(self, row: int) -> str:
        """Return the path of a row."""
        return self.items[row].path

    # What is found.

    def issues(self, opinion: suspects.Opinion) -> tuple[LabelIssue, ...]:
        """Return the rows whose label is likely to be wrong, worst first."""
        names = self.engine.classes
        near = self.near.without_kin(WIDTH)
        found = []
        for i in opinion.worst().tolist():
            if not opinion.suspect[i]:
                continue
            row, rival = int(opinion.rows[i]), int(opinion.rival[i])
            rows = near.rows[row]
            its = self.ids[rows]
            there = rows >= 0
            found.append(
                LabelIssue(
                    row=row,
                    path=self.path(row),
                    label=names[self.ids[row]],
                    suggested=names[rival],
                    confidence=float(opinion.against[i]),
                    own=float(opinion.own[i]),
                    evidence=tuple(rows[there & (its == rival)][:_EVIDENCE].tolist()),
                    best_own=_first(rows, near.scores[row], there & (its == self.ids[row])),
                    best_other=_first(
                        rows, near.scores[row], there & (its >= 0) & (its != self.ids[row])
                    ),
                )
            )
        return tuple(found)

    def duplicates(self) -> tuple[DuplicateGroup, ...]:
        """Return groups of rows that show one picture: the surest first, then by row."""
        links = list(self._links)
        contents = self.kin.content
        order = np.flatnonzero(contents >= 0)
        order = order[np.argsort(contents[order], kind="stable")]
        # Copies beyond the neighbors that were looked at are found by their sum alone.
        alike = np.flatnonzero(contents[order[1:]] == contents[order[:-1]])
        for one, other in zip(order[alike].tolist(), order[alike + 1].tolist(), strict=True):
            score = self._score(self.engine.row_query(one), other)
            links += [_Link(one, other, score)]
        groups = []
        for rows, score in _joined(links):
            items = [self.items[row] for row in rows]
            sums = {item.sha256 for item in items}
            groups.append(
                DuplicateGroup(
                    rows=tuple(rows),
                    paths=tuple(item.path for item in items),
                    score=score,
                    exact=len(sums) == 1 and None not in sums,
                    labels=tuple(sorted({i.label for i in items if i.label is not None})),
                    groups=tuple(sorted({i.group for i in items if i.group is not None})),
                )
            )
        return tuple(sorted(groups, key=lambda group: (not group.exact, -group.score, group.rows)))

    def leaks(self, queries: Sequence[Query]) -> tuple[Leak, ...]:
        """Return the test pictures that are in the base set, exact ones first, then by score."""
        if not queries:
            return ()
        rows_of: dict[str, int] = {}
        for row, item in enumerate(self.items):
            if item.sha256 is not None:
                rows_of.setdefault(item.sha256, row)
        vectors = np.stack([query.vector for query in queries])
        scans = scanning.scan(
            self.engine.source,
            None,
            vectors,
            min(_LOOK_AT, len(self.items)),
            exclude=[None] * len(queries),
        )
        pairs: list[tuple[Side, Side, float]] = []
        asked: list[tuple[int, int]] = []
        leaks: dict[int, Leak] = {}
        for i, (query, scan) in enumerate(zip(queries, scans, strict=True)):
            total = None if query.file is None else content_sum(query.file, Limits().size)
            same = None if total is None else rows_of.get(total)
            if same is not None:
                leaks[i] = self._leak(query, same, self._score(query, same), exact=True)
                continue
            for other, score in zip(scan.rows.tolist(), scan.scores.tolist(), strict=True):
                pairs.append((Side(query.file, total), self._side(other), score))
                asked.append((i, other))
        for (i, other), pair, sign in zip(asked, pairs, self.finder.signs(pairs), strict=True):
            if sign is not None and i not in leaks:
                leaks[i] = self._leak(queries[i], other, pair[2], exact=sign == "content")
        return tuple(
            sorted(leaks.values(), key=lambda leak: (not leak.exact, -leak.score, leak.query))
        )

    def _score(self, query: Query, row: int) -> float:
        from imgsearch.ranking import exact_scores

        return float(
            exact_scores(self.engine.index.vectors.local().rows[row : row + 1], query.vector)[0]
        )

    def _leak(self, query: Query, row: int, score: float, *, exact: bool) -> Leak:
        item = self.items[row]
        return Leak(
            query=query.name,
            query_label=query.label,
            path=item.path,
            row=row,
            label=item.label,
            score=score,
            exact=exact,
            file=query.file,
        )

    def outliers(self, near: Neighborhood, rate: float) -> tuple[Outlier, ...]:
        """Return the rows whose nearest neighbor is the farthest, the loneliest first."""
        best = near.scores[:, 0]
        known = np.flatnonzero(best > -np.inf)
        if not len(known):
            return ()
        ordered = np.sort(best[known])
        p_values = np.searchsorted(ordered, best[known], side="right") / len(known)
        listed = np.flatnonzero(p_values <= rate)
        listed = listed[np.lexsort((known[listed], best[known[listed]]))]
        return tuple(
            Outlier(row, self.path(row), self.items[row].label, float(best[row]), float(p_value))
            for row, p_value in zip(known[listed].tolist(), p_values[listed].tolist(), strict=True)
        )

    def hubs(self, near: Neighborhood) -> tuple[Hub, ...]:
        """Return the rows that intrude most in other classes' answers, the worst first."""
        at, place = np.nonzero(near.rows >= 0)
        others = near.rows[at, place]
        labelled = (self.ids[at] >= 0) & (self.ids[others] >= 0)
        at, others = at[labelled], others[labelled]
        count = len(self.items)
        times = np.bincount(others, minlength=count)
        wrong = np.bincount(others[self.ids[at] != self.ids[others]], minlength=count)
        limit = max(near.rows.shape[1], wrong.mean() + _HUB_DEVIATIONS * wrong.std())
        listed = np.flatnonzero((wrong > limit) & (2 * wrong > times))
        listed = listed[np.lexsort((listed, -wrong[listed]))][:_LISTED_HUBS]
        return tuple(
            Hub(row, self.path(row), str(self.items[row].label), int(times[row]), int(wrong[row]))
            for row in listed.tolist()
        )

    def overlaps(self, near: Neighborhood) -> tuple[Overlap, ...]:
        """Return pairs of classes whose neighbors are mixed more than by chance, worst first."""
        at, place = np.nonzero(near.rows >= 0)
        mine, theirs = self.ids[at], self.ids[near.rows[at, place]]
        used = (mine >= 0) & (theirs >= 0)
        totals = Counter(mine[used].tolist())
        met = Counter(
            zip(mine[used & (mine != theirs)].tolist(), theirs[used & (mine != theirs)].tolist(),
                strict=True)
        )  # fmt: skip
        sizes = self.engine.index.items.classes.counts
        names = self.engine.classes
        others = max(1, int(sizes.sum()) - 1)
        found = []
        for a, b in {(min(pair), max(pair)) for pair in met}:
            shares = (met[a, b] / max(1, totals[a]), met[b, a] / max(1, totals[b]))
            chance = (float(sizes[b]) / others, float(sizes[a]) / others)
            overlap = Overlap((names[a], names[b]), shares, chance)
            if overlap.share > sum(chance) / 2:
                found.append(overlap)
        found.sort(key=lambda overlap: (-overlap.share, overlap.labels))
        return tuple(found[:_LISTED_OVERLAPS])


def _first(rows: Rows, scores: Floats, wanted: npt.NDArray[np.bool_]) -> tuple[int, float] | None:
    places = np.flatnonzero(wanted)
    return (int(rows[places[0]]), float(scores[places[0]])) if len(places) else None


def _joined(links: Sequence[_Link]) -> list[tuple[list[int], float]]:
    """Join linked rows to groups; each with the score of its weakest link that was needed."""
    parent: dict[int, int] = {}
    weakest: dict[int, float] = {}

    def root(row: int) -> int:
        parent.setdefault(row, row)
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for link in sorted(links, key=lambda link: (-link.score, link.one, link.other)):
        a, b = sorted((root(link.one), root(link.other)))
        if a != b:
            parent[b] = a
            weakest[a] = min(weakest.get(a, 2.0), weakest.get(b, 2.0), link.score)
    groups: dict[int, list[int]] = {}
    for row in sorted(parent):
        groups.setdefault(root(row), []).append(row)
    return [(rows, weakest[key]) for key, rows in groups.items()]
