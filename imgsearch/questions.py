"""The questions of an evaluation: what is asked, what the base set answers, what that is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from imgsearch import metrics
from imgsearch.errors import QueryError
from imgsearch.labels import read_test_items

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from imgsearch.ranking import Scan
    from imgsearch.records import Skip
    from imgsearch.search import Query, SearchEngine

    Progress = Callable[[int, int], None]
    Table = npt.NDArray[np.float64]

TEST_SPLIT = "test"
_PROGRESS_STEP = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """The questions of an evaluation, and what could not be asked with."""

    mode: Literal["test", "leave-one-out"]
    queries: list[Query]
    skips: list[Skip]


def check_labels(queries: Sequence[Query]) -> None:
    """Raise QueryError where no query has a label."""
    if all(query.label is None for query in queries):
        raise QueryError("no query has a label, so there is nothing to measure")


def ask_with(
    engine: SearchEngine,
    test: str | os.PathLike[str] | Asked | None,
    labels_file: str | os.PathLike[str] | None,
    split: str,
    progress: Progress | None = None,
) -> Asked:
    """Make the questions of a test set, or of each row in turn; those that are made stay.

    Raises:
        QueryError: labels without a test set, or a base set of one row that would be left out.
        (and what reading pictures and label files raises)
    """
    if isinstance(test, Asked):
        return test
    if test is None:
        if labels_file is not None:
            raise QueryError("labels of a test set were given, but no folder TEST that they name")
        total = engine.index.manifest.count
        if total == 1:
            raise QueryError("leave-one-out needs at least two rows in the index")
        return Asked("leave-one-out", engine.row_queries(range(total)), [])
    items = None
    if labels_file is not None:
        items = read_test_items(Path(labels_file), split)
    queries, skips = engine.folder_queries(Path(test), items, progress)
    return Asked("test", queries, skips)


def ask(
    engine: SearchEngine, queries: Sequence[Query], k: int, progress: Progress | None = None
) -> list[Scan]:
    """Answer the queries of an evaluation, with the ranks of their own class."""
    scans = []
    for scan in engine.scans(queries, k, ranks=True):
        scans.append(scan)
        if progress is not None and len(scans) % _PROGRESS_STEP == 0:
            progress(len(scans), len(queries))
    return scans


def measure(engine: SearchEngine, queries: Sequence[Query], scans: Sequence[Scan], k: int) -> Table:
    """Take all measures of labelled queries: float64 (n_queries, n_measures)."""
    counts, total = engine.index.manifest.classes, engine.index.manifest.count
    ids = engine.index.items.classes.ids
    names: list[str | None] = [*engine.classes, None]  # the last is what -1 finds

    def judge(query: Query, scan: Scan) -> metrics.Judged:
        mine = query.row is not None and names[ids[query.row]] == query.label
        return metrics.Judged(
            label=str(query.label),
            k=k,
            labels=tuple(names[at] for at in ids[scan.rows[:k]]),
            scores=tuple(scan.scores[:k].tolist()),
            n_relevant=counts.get(str(query.label), 0) - int(mine),
            n_base=total - int(query.row is not None),
            first_rank=scan.first_rank,
            relevant_in_r=scan.relevant_in_r,
        )

    return metrics.per_query(judge(*pair) for pair in zip(queries, scans, strict=True))


def group_numbers(queries: Sequence[Query]) -> npt.NDArray[np.int64] | None:
    """Number the groups of queries; one without a group is its own. None where none has one."""
    if all(query.group is None for query in queries):
        return None
    numbers: dict[str | int, int] = {}
    found = [
        numbers.setdefault(i if query.group is None else query.group, len(numbers))
        for i, query in enumerate(queries)
    ]
    return np.array(found, np.int64)
