"""The journey of `compare`: two indexes, asked the same questions, and what differs for sure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import metrics
from imgsearch.errors import QueryError
from imgsearch.intervals import bootstrap_intervals
from imgsearch.questions import TEST_SPLIT, ask, ask_with, group_numbers, measure
from imgsearch.records import DEFAULT_K, Change, ComparisonReport, Skip
from imgsearch.search import check_k
from imgsearch.text import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from imgsearch.questions import Progress, Table
    from imgsearch.ranking import Scan
    from imgsearch.search import Query, SearchEngine

_CHANGED = 50  # queries that are named


@dataclass(slots=True)
class _Pairs:
    """Questions that both indexes can be asked, and what was none to both."""

    a: list[Query] = field(default_factory=list)
    b: list[Query] = field(default_factory=list)
    left_out: dict[str, int] = field(
        default_factory=lambda: {"only_a": 0, "only_b": 0, "relabelled": 0, "unlabelled": 0}
    )
    skips: tuple[Skip, ...] = ()

    def add(self, one: Query, other: Query) -> None:
        """Take a pair where both carry the same label."""
        if one.label != other.label:
            self.left_out["relabelled"] += 1
        elif one.label is None:
            self.left_out["unlabelled"] += 1
        else:
            self.a.append(one)
            self.b.append(other)


def compare(
    a: SearchEngine,
    b: SearchEngine,
    test: str | os.PathLike[str] | None = None,
    k: int = DEFAULT_K,
    *,
    labels_file: str | os.PathLike[str] | None = None,
    split: str = TEST_SPLIT,
    progress: Progress | None = None,
) -> ComparisonReport:
    """Ask two indexes the same questions, in pairs.

    Args:
        a: an open index.
        b: another one: of another model, or of the same pictures once they were cleaned up.
        test: a folder of labelled pictures; without it the rows that both have are asked in turn
            (the same path, or else the same file by its sum), and never find themselves.
        k: how many matches count.
        labels_file: labels of the test pictures, instead of their first-level subfolders.
        split: which split of the label file is the test set, where it knows splits.
        progress: called with how much is done, and of how much, of each stage in turn.

    Returns:
        Both means of every measure, their difference (B less A) and its paired interval. A picture
        whose label is another in B is no question to both and is left out, and counted.

    Raises:
        QueryError: k below 1, no labelled picture can be asked of both, or an index was learned
            from the labels of the rows that would be asked.
        (and what `evaluate` raises)
    """
    check_k(k)
    if test is None:
        for engine in (a, b):
            if engine.index.manifest.transform is not None:
                raise QueryError(
                    f"{printable(str(engine.index.folder))} was learned from the labels of its "
                    "rows, which cannot be asked to judge it: compare on a TEST folder of other "
                    "pictures"
                )
        if labels_file is not None:
            raise QueryError("labels of a test set were given, but no folder TEST that they name")
        pairs = _common_rows(a, b)
    else:
        pairs = _test_pairs(a, b, test, labels_file, split, progress)
    if not pairs.a:
        raise QueryError(
            "there is no labelled picture that both indexes can be asked: compare them on a TEST "
            "folder, or choose indexes of the same pictures"
        )
    scans = [ask(engine, its, k, progress) for engine, its in ((a, pairs.a), (b, pairs.b))]
    tables = [
        measure(engine, its, found, k)
        for engine, its, found in zip((a, b), (pairs.a, pairs.b), scans, strict=True)
    ]
    difference = tables[1] - tables[0]
    groups = group_numbers(pairs.a)
    bounds = bootstrap_intervals(difference, groups).clip(-1, 1)
    known = groups is None or int(groups.max()) > 0
    means = [
        {name: metrics.mean(table[:, i]) for i, name in enumerate(metrics.MEASURES)}
        for table in tables
    ]
    precision = difference[:, list(metrics.MEASURES).index("precision_at_k")]
    return ComparisonReport(
        index_a=a.index.place,
        index_b=b.index.place,
        mode="leave-one-out" if test is None else "test",
        k=k,
        n_queries=len(pairs.a),
        a=means[0],
        b=means[1],
        difference={name: means[1][name] - means[0][name] for name in metrics.MEASURES},
        intervals={
            name: (float(bounds[i, 0]), float(bounds[i, 1])) if known and len(pairs.a) > 1 else None
            for i, name in enumerate(metrics.MEASURES)
        },
        n_groups=None if groups is None else int(groups.max()) + 1,
        better=int(np.count_nonzero(precision > 0)),
        worse=int(np.count_nonzero(precision < 0)),
        changed=_changed((a, b), pairs.a, scans, tables),
        left_out=pairs.left_out,
        skipped=pairs.skips,
    )


def _common_rows(a: SearchEngine, b: SearchEngine) -> _Pairs:
    """Pair the rows that both have: by path, unless their sums differ, else by sum."""
    paths = [engine.index.items.column("path") for engine in (a, b)]
    sums = [engine.index.items.column("sha256") for engine in (a, b)]
    at = {path: row for row, path in enumerate(paths[1])}
    partner: dict[int, int] = {}
    for row, (path, total) in enumerate(zip(paths[0], sums[0], strict=True)):
        other = at.get(path)
        if other is not None and (None in {total, sums[1][other]} or total == sums[1][other]):
            partner[row] = other
    taken = set(partner.values())
    free: dict[str, list[int]] = {}
    for other, total in enumerate(sums[1]):
        if total is not None and other not in taken:
            free.setdefault(total, []).append(other)
    for row, total in enumerate(sums[0]):
        if row not in partner and free.get(total):
            partner[row] = free[total].pop(0)
    pairs = _Pairs()
    pairs.left_out["only_a"] = len(paths[0]) - len(partner)
    pairs.left_out["only_b"] = len(paths[1]) - len(partner)
    rows = sorted(partner)
    ones = a.row_queries(rows)
    others = b.row_queries([partner[row] for row in rows])
    for mine, its in zip(ones, others, strict=True):
        pairs.add(mine, its)
    return pairs


def _test_pairs(  # noqa: PLR0917 - one step of the function above
    a: SearchEngine,
    b: SearchEngine,
    test: str | os.PathLike[str],
    labels_file: str | os.PathLike[str] | None,
    split: str,
    progress: Progress | None,
) -> _Pairs:
    """Pair the test pictures that both models can use."""
    asked = [ask_with(engine, test, labels_file, split, progress) for engine in (a, b)]
    by_name = {query.name: query for query in asked[1].queries}
    pairs = _Pairs(skips=tuple(dict.fromkeys(asked[0].skips + asked[1].skips)))
    for one in asked[0].queries:
        other = by_name.pop(one.name, None)
        if other is None:
            pairs.left_out["only_a"] += 1
        else:
            pairs.add(one, other)
    pairs.left_out["only_b"] = len(by_name)
    return pairs


def _changed(
    engines: tuple[SearchEngine, SearchEngine],
    queries: Sequence[Query],
    scans: Sequence[Sequence[Scan]],
    tables: Sequence[Table],
) -> tuple[Change, ...]:
    """Name the queries whose precision changed most, the most changed first."""
    at = list(metrics.MEASURES).index("precision_at_k")
    before, after = tables[0][:, at], tables[1][:, at]
    order = np.lexsort((np.arange(len(before)), -np.abs(after - before)))
    labels = [engine.index.items.label for engine in engines]
    named = []
    for i in order[:_CHANGED].tolist():
        if before[i] == after[i]:
            break
        query = queries[i]
        first = [
            label(int(its[i].rows[0])) if len(its[i].rows) else None
            for label, its in zip(labels, scans, strict=True)
        ]
        name = query.name if query.row is None else engines[0].index.items.path(query.row)
        named.append(
            Change(name, str(query.label), float(before[i]), float(after[i]), first[0], first[1])
        )
    return tuple(named)
