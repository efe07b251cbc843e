"""The journey of `evaluate`: how well the classes separate, per query first, then as means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from imgsearch import metrics
from imgsearch.errors import QueryError
from imgsearch.labels import read_test_items
from imgsearch.metrics import Judged
from imgsearch.records import DEFAULT_K, EvaluationReport, Skip

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import numpy.typing as npt

    from imgsearch.search import Answer, Query, SearchEngine

TEST_SPLIT = "test"


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of an evaluation, and what could not be asked with."""

    mode: Literal["test", "leave-one-out"]
    queries: list[Query]
    skips: list[Skip]


def evaluate(
    engine: SearchEngine,
    test: str | os.PathLike[str] | None = None,
    k: int = DEFAULT_K,
    *,
    labels_file: str | os.PathLike[str] | None = None,
    split: str = TEST_SPLIT,
) -> EvaluationReport:
    """Measure how well the classes of an index separate.

    Args:
        engine: the open index.
        test: a folder of labelled pictures; without it each row of the base set is asked in turn,
            and never finds itself (leave-one-out).
        k: how many matches count.
        labels_file: labels of the test pictures, instead of their first-level subfolders.
        split: which split of the label file is the test set, where it knows splits.

    Returns:
        Values for every query, and means, intervals, chance levels and the correspondence matrix
        derived from them; docs/measures.md defines each.

    Raises:
        QueryError: k below 1, or no query has a label.
        NoImagesError: nothing to ask with, or no row of that split.
        (and what reading pictures and label files raises)
    """
    asked = _ask_with(engine, test, labels_file, split)
    _check_labels(asked.queries)
    return judge(engine, asked, engine.answers(asked.queries, k), k)


def _check_labels(queries: Sequence[Query]) -> None:
    if all(query.label is None for query in queries):
        raise QueryError("no query has a label, so there is nothing to measure")


def judge(
    engine: SearchEngine, asked: Asked, answers: Sequence[Answer], k: int, *, matrix: bool = True
) -> EvaluationReport:
    """Measure what was answered.

    Args:
        engine: the open index.
        asked: the questions.
        answers: of `SearchEngine.answers`, in the same order.
        k: how many matches count.
        matrix: whether the correspondence matrix is made, which grows with the square of the
            classes; None stands in its place otherwise.

    Raises:
        QueryError: no query has a label.
    """
    _check_labels(asked.queries)
    values = _values(engine, asked.queries, answers, k)
    manifest = engine.index.manifest
    labelled = [i for i, query in enumerate(asked.queries) if query.label is not None]
    chance = _chance(engine, asked.queries, k)
    table = np.array([[values[name][i] for name in metrics.MEASURES] for i in labelled], np.float64)
    overall, intervals = _means(table)
    return EvaluationReport(
        index=str(engine.index.folder),
        mode=asked.mode,
        k=k,
        n_queries=len(asked.queries),
        unlabelled=len(asked.queries) - len(labelled),
        base_count=manifest.count,
        skipped=tuple(asked.skips),
        overall=overall,
        intervals=intervals,
        chance=_mean_chance([chance[str(asked.queries[i].label)] for i in labelled]),
        per_class=_per_class([str(asked.queries[i].label) for i in labelled], table, chance),
        correspondence=_matrix(engine, [answers[i] for i in labelled], k)
        if matrix
        else {"labels": list(engine.classes), "matrix": None},
        results=tuple(answer.result for answer in answers),
        values={name: tuple(column) for name, column in values.items()},
        model=manifest.model,
        weights=manifest.weights,
        image_root=manifest.image_root,
    )


def _ask_with(
    engine: SearchEngine,
    test: str | os.PathLike[str] | None,
    labels_file: str | os.PathLike[str] | None,
    split: str,
) -> Asked:
    if test is None:
        if labels_file is not None:
            raise QueryError("labels of a test set were given, but no folder TEST that they name")
        total = engine.index.manifest.count
        if total == 1:
            raise QueryError("leave-one-out needs at least two rows in the index")
        return Asked("leave-one-out", [engine.row_query(row) for row in range(total)], [])
    items = None
    if labels_file is not None:
        items = read_test_items(Path(labels_file), split)
    queries, skips = engine.folder_queries(Path(test), items)
    return Asked("test", queries, skips)


def _values(
    engine: SearchEngine, queries: Sequence[Query], answers: Sequence[Answer], k: int
) -> dict[str, list[float | None]]:
    """Judge every labelled query; None stands for those without a label."""
    values: dict[str, list[float | None]] = {name: [] for name in metrics.MEASURES}
    for query, answer in zip(queries, answers, strict=True):
        judged = None if query.label is None else _judge(engine, query, answer, k)
        for name, measure in metrics.MEASURES.items():
            values[name].append(None if judged is None else measure.value(judged))
    return values


def _judge(engine: SearchEngine, query: Query, answer: Answer, k: int) -> Judged:
    classes = engine.index.manifest.classes
    mine = query.row is not None and engine.index.items.label(query.row) == query.label
    matches = answer.result.matches
    return Judged(
        label=str(query.label),
        k=k,
        labels=tuple(match.label for match in matches),
        scores=tuple(match.score for match in matches),
        n_relevant=classes.get(str(query.label), 0) - int(mine),
        n_base=engine.index.manifest.count - int(query.row is not None),
        first_rank=None if answer.scan is None else answer.scan.first_rank,
        relevant_in_r=0 if answer.scan is None else answer.scan.relevant_in_r,
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


def _means(
    table: npt.NDArray[np.float64],
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    bounds = metrics.bootstrap_intervals(table)
    means = {}
    intervals = {}
    for i, name in enumerate(metrics.MEASURES):
        means[name] = metrics.mean(table[:, i])
        intervals[name] = (float(bounds[i, 0]), float(bounds[i, 1]))
    return means, intervals


def _per_class(
    labels: Sequence[str],
    table: npt.NDArray[np.float64],
    chance: dict[str, dict[str, float]],
) -> dict[str, dict[str, Any]]:
    rows = np.array(labels)
    found: dict[str, dict[str, Any]] = {}
    for label in sorted(set(labels)):
        part = table[rows == label]
        means, intervals = _means(part)
        found[label] = {
            "n": len(part),
            **means,
            "intervals": {name: list(pair) for name, pair in intervals.items()},
            "chance": chance[label],
        }
    return found


def _matrix(engine: SearchEngine, answers: Sequence[Answer], k: int) -> dict[str, Any]:
    """Make the correspondence matrix over the classes of the index and of the queries."""
    asked = {str(answer.result.label) for answer in answers}
    names = sorted(set(engine.classes) | asked)
    place = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(answers), len(names)), np.int64)
    for i, answer in enumerate(answers):
        for match in answer.result.matches:
            if match.label is not None:
                counts[i, place[match.label]] += 1
    labels = [str(answer.result.label) for answer in answers]
    return {"labels": names, "matrix": metrics.correspondence_matrix(labels, counts, names, k)}
