"""The journey of `evaluate`: how well the classes separate, per query first, then as means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch import leakage, metrics
from imgsearch.duplicates import Duplicates
from imgsearch.intervals import FEW, measure_intervals
from imgsearch.leakage import Answered
from imgsearch.questions import TEST_SPLIT, ask, ask_with, check_labels, group_numbers, measure
from imgsearch.records import DEFAULT_K, EvaluationReport, Leakage, Without, lifts
from imgsearch.search import Results, check_k

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt

    from imgsearch.duplicates import Cuts
    from imgsearch.questions import Asked, Progress, Table
    from imgsearch.ranking import Scan
    from imgsearch.search import Query, SearchEngine


def evaluate(
    engine: SearchEngine,
    test: str | os.PathLike[str] | Asked | None = None,
    k: int = DEFAULT_K,
    *,
    labels_file: str | os.PathLike[str] | None = None,
    split: str = TEST_SPLIT,
    cuts: Cuts | None = None,
    progress: Progress | None = None,
) -> EvaluationReport:
    """Measure how well the classes of an index separate.

    Args:
        engine: the open index.
        test: a folder of labelled pictures; without it each row of the base set is asked in turn,
            and never finds itself (leave-one-out). Or the questions that `ask_with` made.
        k: how many matches count.
        labels_file: labels of the test pictures, instead of their first-level subfolders.
        split: which split of the label file is the test set, where it knows splits.
        cuts: what counts as a near-duplicate; cuts that suit the pictures unless given.
        progress: called with how much is done, and of how much, of each stage in turn.

    Returns:
        Values for every query, and means, intervals, chance levels and the correspondence matrix
        derived from them, and the same without leakage; docs/measures.md defines each.

    Raises:
        QueryError: k below 1, or no query has a label.
        NoImagesError: nothing to ask with, or no row of that split.
        (and what reading pictures and label files raises)
    """
    check_k(k)
    asked = ask_with(engine, test, labels_file, split, progress)
    check_labels(asked.queries)
    scans = ask(engine, asked.queries, k + leakage.ROOM, progress)
    leaks = Leaks(Answered(engine, asked.queries, scans, k), cuts)
    leaks.find(progress)
    return judge(engine, asked, scans, k, leaks=leaks)


def judge(
    engine: SearchEngine,
    asked: Asked,
    scans: Sequence[Scan],
    k: int,
    *,
    matrix: bool = True,
    leaks: Leaks | None = None,
) -> EvaluationReport:
    """Measure what was answered.

    Args:
        engine: the open index.
        asked: the questions.
        scans: of `ask`, in the same order, with at least k rows where there are k.
        k: how many matches count.
        matrix: whether the correspondence matrix is made, which grows with the square of the
            classes; None stands in its place otherwise.
        leaks: what is left of the answers without leakage, where that is wanted.

    Raises:
        QueryError: no query has a label.
    """
    check_labels(asked.queries)
    manifest = engine.index.manifest
    labelled = [i for i, query in enumerate(asked.queries) if query.label is not None]
    queries = [asked.queries[i] for i in labelled]
    labels = [str(query.label) for query in queries]
    table = measure(engine, queries, [scans[i] for i in labelled], k)
    chance = _chance(engine, queries, k)
    groups = group_numbers(queries)
    overall, intervals = _means(table, groups)
    return EvaluationReport(
        index=engine.index.place,
        mode=asked.mode,
        k=k,
        n_queries=len(asked.queries),
        unlabelled=len(asked.queries) - len(labelled),
        base_count=manifest.count,
        skipped=tuple(asked.skips),
        overall=overall,
        intervals=intervals,
        chance=_mean_chance([chance[label] for label in labels]),
        per_class=_per_class(labels, table, groups, chance),
        correspondence=_matrix(engine, labels, [scans[i] for i in labelled], k)
        if matrix
        else {"labels": list(engine.classes), "matrix": None},
        results=Results(engine, asked.queries, scans, k),
        values=_columns(table, metrics.MEASURES, labelled, len(scans)),
        model=manifest.model,
        weights=manifest.weights,
        image_root=manifest.image_root,
        n_groups=None if groups is None else int(groups.max()) + 1,
        leakage=None if leaks is None else leaks.report(labelled, groups),
        learned=manifest.transform if asked.mode == "leave-one-out" else None,
    )


class Leaks:
    """The answers of an evaluation once more, without what leaks."""

    def __init__(self, asked: Answered, cuts: Cuts | None = None) -> None:
        """Nothing is done yet; `cuts` are those that were given."""
        self._asked = asked
        self._given = cuts is not None
        self._duplicates = Duplicates(lambda: asked.engine.pool, cuts)

    def find(self, progress: Progress | None = None) -> None:
        """Find near-duplicates and rows of the own group, and what the answers are without them."""
        if not self._given:
            leakage.draw_cuts(self._asked, self._duplicates)
        self._near = leakage.without_near_duplicates(self._asked, self._duplicates, progress)
        self._group = leakage.without_own_group(self._asked)

    def report(self, labelled: Sequence[int], groups: npt.NDArray[np.int64] | None) -> Leakage:
        """Measure what is left of the labelled queries."""
        near, group = self._near, self._group
        return Leakage(
            without_near_duplicates=self._without(near, labelled, groups),
            without_own_group=None if group is None else self._without(group, labelled, groups),
            cuts=self._duplicates.cuts.to_dict(),
            given=self._given,
            signs=leakage.count_signs(near),
            found=tuple(near.near),
            opened=self._duplicates.opened,
            unreadable=len(self._duplicates.unreadable),
        )

    def _without(
        self,
        rest: leakage.Rest,
        labelled: Sequence[int],
        groups: npt.NDArray[np.int64] | None,
    ) -> Without:
        asked, some = self._asked.of(labelled), rest.of(labelled)
        values = leakage.measured(asked, some)
        table = np.array([list(each.values()) for each in values], np.float64)
        by_label = np.array([str(query.label) for query in asked.queries])
        overall, intervals = _means(table, groups, metrics.AT_K)
        return Without(
            affected=sum(rest.affected),
            rows=sum(rest.gone),
            overall=overall,
            intervals=intervals,
            chance={"precision_at_k": leakage.precision_by_lot(asked, some)},
            values=_columns(table, metrics.AT_K, labelled, len(self._asked.queries)),
            per_class={
                label: _mean_columns(table[by_label == label], metrics.AT_K)
                for label in sorted(set(by_label.tolist()))
            },
        )


def _chance(engine: SearchEngine, queries: Sequence[Query], k: int) -> dict[str, dict[str, float]]:
    """Return what a ranking by lot would reach for each class that is asked about."""
    manifest = engine.index.manifest
    levels = {}
    for label in sorted({query.label for query in queries if query.label is not None}):
        counts = dict(manifest.classes)
        rows = manifest.count
        # In leave-one-out the query itself is out of the base set.
        if queries[0].row is not None and label in counts:
            counts[label] -= 1
            rows -= 1
        levels[label] = metrics.chance_level(label, k, counts, rows)
    return levels


def _mean_chance(levels: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: metrics.mean([level[name] for level in levels]) for name in metrics.MEASURES}


def _mean_columns(table: Table, names: Sequence[str]) -> dict[str, float]:
    return {name: metrics.mean(table[:, i]) for i, name in enumerate(names)}


def _means(
    table: Table,
    groups: npt.NDArray[np.int64] | None,
    names: Sequence[str] = tuple(metrics.MEASURES),
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    bounds = measure_intervals(table, groups)
    pairs = {name: (float(bounds[i, 0]), float(bounds[i, 1])) for i, name in enumerate(names)}
    means = _mean_columns(table, names)
    # A mean is rounded once and its bounds are not: it is never outside of them.
    return means, {n: (min(low, means[n]), max(high, means[n])) for n, (low, high) in pairs.items()}


def _columns(
    table: Table, names: Iterable[str], labelled: Sequence[int], total: int
) -> dict[str, tuple[float | None, ...]]:
    """Spread the values of labelled queries over all queries; the others have None."""
    columns: dict[str, tuple[float | None, ...]] = {}
    for name, column in zip(names, table.T.tolist(), strict=True):
        values: list[float | None] = [None] * total
        for i, value in zip(labelled, column, strict=True):
            values[i] = value
        columns[name] = tuple(values)
    return columns


def _per_class(
    labels: Sequence[str],
    table: Table,
    groups: npt.NDArray[np.int64] | None,
    chance: Mapping[str, dict[str, float]],
) -> dict[str, dict[str, Any]]:
    rows = np.array(labels)
    found: dict[str, dict[str, Any]] = {}
    for label in sorted(set(labels)):
        its = rows == label
        part = None if groups is None else groups[its]
        means, intervals = _means(table[its], part)
        number = int(its.sum()) if part is None else len(np.unique(part))
        found[label] = {
            "n": int(its.sum()),
            **({} if part is None else {"n_groups": number}),
            "few": number < FEW,
            **means,
            "intervals": {name: list(pair) for name, pair in intervals.items()},
            "chance": chance[label],
            "lift": lifts(means, chance[label]),
        }
    return found


def _matrix(
    engine: SearchEngine, labels: Sequence[str], scans: Sequence[Scan], k: int
) -> dict[str, Any]:
    """Make the correspondence matrix over the classes of the index and of the queries."""
    names = sorted(set(engine.classes) | set(labels))
    place = {name: i for i, name in enumerate(names)}
    # One column more, for what -1 finds: matches without a label.
    columns = np.array([*(place[name] for name in engine.classes), len(names)])
    ids = engine.index.items.classes.ids
    counts = np.zeros((len(scans), len(names) + 1), np.int32)
    for i, scan in enumerate(scans):
        np.add.at(counts[i], columns[ids[scan.rows[:k]]], 1)
    matrix = metrics.correspondence_matrix(labels, counts[:, :-1], names, k)
    return {"labels": names, "matrix": matrix}
