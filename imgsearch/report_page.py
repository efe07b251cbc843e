"""An evaluation -> one HTML file that opens offline: figures, the pictures behind them, a map."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from imgsearch import worth
from imgsearch.audit_report import FEW_SHOWN, audit_lists
from imgsearch.intervals import FEW
from imgsearch.metrics import spread
from imgsearch.records import Match
from imgsearch.report import (
    MODES,
    SHORT,
    asked_line,
    formula,
    interval,
    n_queries,
    profile,
    times,
    title,
    withouts,
)
from imgsearch.text import count, is_remote, place_in, printable
from imgsearch.webpage import SIZE, Pictures, as_data, page_environment, with_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from imgsearch.embedding_map import EmbeddingMap
    from imgsearch.records import AuditReport, EvaluationReport, SearchResult
    from imgsearch.webpage import Thumbnail

    Key = tuple[bool, float, float, str, int]

# What a page may hold, so that it opens at once whatever was evaluated. Pictures are planned in
# this order; each part may take up to its mark, and what it leaves is for those after it.
MOST_PICTURES, MOST_BYTES = 1800, 9_000_000
_FOR_QUERIES, _FOR_CELLS, _FOR_AUDIT = 600, 1100, 1600
# Queries behind one cell of the matrix, all that are behind cells, and matches of one of them.
_BEHIND_ONE, _BEHIND_ALL, _MATCHES_BEHIND = 12, 2400, 4
_MATCHES_SHOWN = 20
_TWO_DECIMALS = 12  # with more classes the cells of the matrix show whole percents
_WHOLE_MATRIX = 64  # with more classes a list of what is confused most stands in its place
_CONFUSIONS, _CLASSES_LISTED = 200, 1000
_SKIPS_SHOWN = 500
# Classes that the map tells apart by colour and shape; all others are grey.
_COLOURS = 8
_GRID = 9999  # points of the map lie on a grid of whole numbers, which are short
_LONGEST_NAME = 200
# What can be picked out on the map: a bit of a point, and its words.
_SUSPECT, _OUTLIER, _HUB, _COPY, _LEAK, _LOST = 1, 2, 4, 8, 16, 32
_PICKS = (
    (_SUSPECT, "labels that may be wrong"),
    (_LOST, "queries without a right match"),
    (_OUTLIER, "outliers"),
    (_HUB, "hubs"),
    (_COPY, "near-duplicates"),
    (_LEAK, "leaked test pictures"),
)


@dataclass(frozen=True, slots=True)
class Background:
    """What a page tells beside the evaluation itself, as far as it is known.

    `command` is what was run, `made` when and how the index was made; `rows` are path and label of
    each base row, in order, which `audit` and `layout` speak of.
    """

    command: str | None = None
    made: str | None = None
    rows: Sequence[tuple[str, str | None]] = ()
    audit: AuditReport | None = None
    layout: EmbeddingMap | None = None


def render_html(
    report: EvaluationReport,
    thumbnail: Thumbnail,
    *,
    created: str,
    version: str,
    background: Background | None = None,
    max_queries: int = 200,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """One HTML file, complete in itself: pictures, style and script are inside.

    Args:
        report: the evaluation.
        thumbnail: gives small JPEG bytes of a picture's file, None where it cannot be had any more;
            called once per picture, only for what is shown, and from several threads.
        created: shown as given.
        version: shown as given.
        background: what was run on what, the audit and the map.
        max_queries: so many queries are shown at the most, fewer where there is no room.
        progress: called with (pictures fetched, pictures in all).
    """
    known = background or Background()
    environment = page_environment()
    environment.filters["interval"] = interval
    environment.filters["times"] = times
    overview = _Overview(report)
    pictures = Pictures(MOST_PICTURES, MOST_BYTES)
    queries = [
        _query(report, i, overview.classes, pictures)
        for i in overview.worst_first()[: max(0, max_queries)]
        if len(pictures) < _FOR_QUERIES
    ]
    points = _Points(report, overview, known, pictures)
    behind = _behind(report, overview, points)
    lists = None
    if known.audit is not None:
        lists = audit_lists(known.audit, known.rows, pictures, FEW_SHOWN, most=_FOR_AUDIT)
    drawn = points.drawn()
    points.fill()
    pictures.load(thumbnail, progress)
    environment.filters["shown"] = pictures.shown
    matrix = _matrix(report, overview.classes)
    page = environment.get_template("report.html.j2").render(
        report=report,
        created=created,
        version=version,
        known=known,
        mode=MODES[report.mode],
        asked=asked_line(report),
        base=count(report.base_count, "picture"),
        skipped=count(len(report.skipped), "picture"),
        skips_shown=_SKIPS_SHOWN,
        labelled=report.n_queries - report.unlabelled,
        read_so=worth.read_so(report.n_groups),
        warnings=worth.warnings(report),
        few_in_class=FEW,
        few_what="queries" if report.n_groups is None else "groups of queries",
        few=any(entry["few"] for entry in report.per_class.values()),
        totals=_totals(report),
        withouts=[] if report.leakage is None else withouts(report.leakage),
        explained=[] if report.leakage is None else worth.explain(report.leakage),
        short=SHORT,
        drop=worth.DROP,
        matrix=matrix,
        confusions=None if matrix is not None else _confusions(report, overview.classes),
        per_class=_listed_classes(report),
        measures=[(name, SHORT.get(name, name)) for name in report.overall],
        queries=queries,
        classes=overview.classes.names,
        shown_unlabelled=sum(query["label"] is None for query in queries),
        lists=lists,
        map=drawn,
        data=as_data(
            {
                "classes": [printable(name) for name in overview.classes.names],
                "things": points.to_dict(),
                "cells": behind,
                "map": drawn,
            }
        ),
        pictures=pictures.style(),
        embedded=count(pictures.embedded, "picture"),
        size=page_size(),
    )
    return with_size(page)


def page_size() -> Any:  # noqa: ANN401 - Markup, which is imported late
    """Return the place where the size of the page will stand."""
    from markupsafe import Markup

    return Markup(SIZE)  # noqa: S704 - our own


class _Classes:
    """Numbers for class names, so that no name has to stand in a selector or in a script."""

    def __init__(self, labels: Sequence[str]) -> None:
        """The index' classes come first; what only queries or matches carry is added as met."""
        self.numbers = {label: i for i, label in enumerate(labels)}

    def add(self, label: str | None) -> int:
        """Return the number of a class, -1 for none."""
        return -1 if label is None else self.numbers.setdefault(label, len(self.numbers))

    @property
    def names(self) -> list[str]:
        return list(self.numbers)


class _Overview:
    """One pass over all results, which are made when looked at: order, classes, cells."""

    def __init__(self, report: EvaluationReport) -> None:
        self.classes = _Classes(report.correspondence["labels"])
        self.keys: list[Key] = []
        # Of each cell the queries behind it: (key, how many matches of the class).
        self.cells: dict[tuple[int, int], list[tuple[Key, int]]] = {}
        self.lost: set[int] = set()
        precision = report.values["precision_at_k"]
        for i, result in enumerate(report.results):
            key = _key(report, i, result, precision[i])
            self.keys.append(key)
            own = self.classes.add(result.label)
            found = Counter(self.classes.add(match.label) for match in result.matches)
            if own < 0:
                continue
            if not found[own]:
                self.lost.add(i)
            for other, number in found.items():
                if other >= 0:
                    self.cells.setdefault((own, other), []).append((key, number))

    def worst_first(self) -> list[int]:
        """Order of the queries: lowest precision, lowest margin, name; without a label last."""
        return [key[-1] for key in sorted(self.keys)]


def _key(report: EvaluationReport, i: int, result: SearchResult, precision: float | None) -> Key:
    if precision is None:
        return True, 0.0, 0.0, _name(report, result), i
    margin = _margin(result)
    return False, precision, math.inf if margin is None else margin, _name(report, result), i


def _name(report: EvaluationReport, result: SearchResult) -> str:
    """Name of a query for people: the path of a base row, which calls itself row:N."""
    if report.mode == "leave-one-out" and result.file is not None:
        if is_remote(report.image_root):
            return result.file.removeprefix(report.image_root.rstrip("/") + "/")
        file = Path(result.file)
        if file.is_relative_to(report.image_root):
            return file.relative_to(report.image_root).as_posix()
    return result.query


def _margin(result: SearchResult) -> float | None:
    """Best score of the own class minus the best of any other, over the whole base set.

    -inf where the own class holds no other picture, None where there is no other class.
    """
    if result.correspondence is None:
        return None
    own = -math.inf
    other = None
    for share in result.correspondence.classes:
        if share.best_score is None:
            continue
        if share.label == result.label:
            own = share.best_score
        elif other is None or share.best_score > other:
            other = share.best_score
    return None if other is None else own - other


def _file_of(report: EvaluationReport, source: SearchResult | Match) -> str | None:
    """Where the picture of a query or a match lies, one name for one file."""
    if isinstance(source, Match):
        return place_in(report.image_root, source.path)
    if source.file is None or is_remote(source.file):
        return source.file
    return os.path.normpath(source.file)


def _query(
    report: EvaluationReport, i: int, classes: _Classes, pictures: Pictures
) -> dict[str, Any]:
    result = report.results[i]
    numbers = classes.numbers
    margin = None if result.label is None else _margin(result)
    matches = result.matches[:_MATCHES_SHOWN]
    return {
        "name": _name(report, result),
        "query": result.query,
        "label": result.label,
        "number": "" if result.label is None else numbers[result.label],
        "found": sorted({numbers[m.label] for m in result.matches if m.label is not None}),
        "picture": pictures.number(_file_of(report, result)),
        "accuracy": report.values["precision_at_k"][i],
        "right": sum(match.label == result.label for match in result.matches),
        "margin": None if margin is None or math.isinf(margin) else f"{margin:+z.3f}",
        "profile": [] if result.correspondence is None else profile(result.correspondence),
        "left": len(result.matches) - len(matches),
        "matches": [
            {
                "rank": match.rank,
                "label": match.label,
                "path": match.path,
                "file": PurePosixPath(match.path).name,
                "score": f"{match.score:z.3f}",
                "distance": f"{match.distance:z.3f}",
                "picture": pictures.number(_file_of(report, match)),
                "right": None if result.label is None else match.label == result.label,
            }
            for match in matches
        ],
    }


class _Points:
    """Pictures that the script speaks of, each by a number: those on the map come first."""

    def __init__(
        self, report: EvaluationReport, overview: _Overview, known: Background, pictures: Pictures
    ) -> None:
        self._report, self._overview, self._known = report, overview, known
        self.pictures = pictures
        self._names: list[str] = []
        self._labels: list[int] = []
        self._rows: list[int] = []
        self._files: list[str | None] = []
        self._by_row: dict[int, int] = {}
        self._by_query: dict[int, int] = {}
        layout = known.layout
        if layout is not None:
            for row in layout.rows.tolist():
                path, label = known.rows[row]
                self._by_row[row] = self._add(path, label, row, self._file(path))
            if report.mode == "test":
                total = len(report.results)
                for i in spread(total, len(layout.queries)):
                    self.of_query(i, report.results[i])
        self.mapped = len(self._names)

    def _file(self, path: str) -> str:
        return place_in(self._report.image_root, path)

    def _add(self, name: str, label: str | None, row: int, file: str | None) -> int:
        shown = printable(name)
        if len(shown) > _LONGEST_NAME:
            shown = "\N{HORIZONTAL ELLIPSIS}" + shown[-_LONGEST_NAME:]
        self._names.append(shown)
        self._labels.append(self._overview.classes.add(label))
        self._rows.append(row)
        self._files.append(file)
        return len(self._names) - 1

    def of_match(self, match: Match) -> int:
        """Return the number of a base row."""
        if match.row not in self._by_row:
            file = self._file(match.path)
            self._by_row[match.row] = self._add(match.path, match.label, match.row, file)
        return self._by_row[match.row]

    def of_query(self, i: int, result: SearchResult) -> int:
        """Return the number of a query; in leave-one-out it is a base row."""
        if i not in self._by_query:
            name, file = _name(self._report, result), _file_of(self._report, result)
            row = i if self._report.mode == "leave-one-out" else -1
            if row >= 0 and row in self._by_row:
                self._by_query[i] = self._by_row[row]
            else:
                self._by_query[i] = self._add(name, result.label, row, file)
                if row >= 0:
                    self._by_row[row] = self._by_query[i]
        return self._by_query[i]

    def plan(self, point: int, most: int | None = None) -> None:
        """Plan the picture of a point."""
        self.pictures.number(self._files[point], most)

    def fill(self) -> None:
        """Plan pictures of the map, evenly spread, as long as there is room."""
        room = MOST_PICTURES - len(self.pictures)
        missing = [i for i in range(self.mapped) if self.pictures.known(self._files[i]) is None]
        for place in spread(len(missing), min(len(missing), room)):
            self.plan(missing[place])

    def to_dict(self) -> dict[str, Any]:
        """Columns, as the script reads them; call it when pictures are loaded."""
        shown = [self.pictures.shown(self.pictures.known(file)) for file in self._files]
        return {
            "name": self._names,
            "label": self._labels,
            "row": self._rows,
            "pic": [-1 if number is None else number for number in shown],
        }

    def drawn(self) -> dict[str, Any] | None:
        """Return the map: coordinates, what can be picked out, which classes have a colour."""
        layout = self._known.layout
        if layout is None:
            return None
        x, y = _on_grid([*layout.base.tolist(), *layout.queries.tolist()])
        flags, suggested = self._flags()
        held = Counter(label for label in self._labels[: self.mapped] if label >= 0)
        coloured = [label for label, _ in held.most_common(_COLOURS)]
        return {
            "kind": layout.kind,
            "x": x,
            "y": y,
            "base": len(layout.rows),
            "of": self._report.base_count,
            "shares": layout.shares,
            "dim": layout.dim,
            "flags": flags,
            "suggested": suggested,
            "coloured": sorted(coloured),
            "uncoloured": len(held) - len(coloured),
            "unlabelled": any(label < 0 for label in self._labels[: self.mapped]),
            "picks": [
                (bit, text, number)
                for bit, text in _PICKS
                if (number := sum(bool(flag & bit) for flag in flags))
            ],
        }

    def _flags(self) -> tuple[list[int], dict[int, int]]:
        """Return the bits of each point on the map, and which class suspects rather have."""
        flags = [0] * self.mapped
        suggested = {}
        audit = self._known.audit
        if audit is not None:
            _mark(flags, self._rows_at(issue.row for issue in audit.label_issues), _SUSPECT)
            _mark(flags, self._rows_at(outlier.row for outlier in audit.outliers), _OUTLIER)
            _mark(flags, self._rows_at(hub.row for hub in audit.hubs), _HUB)
            copies = (row for group in audit.duplicates for row in group.rows)
            _mark(flags, self._rows_at(copies), _COPY)
            leaked = {leak.query for leak in audit.leaks}
            names = (i for i in self._by_query if self._overview.keys[i][3] in leaked)
            _mark(flags, [self._by_query[i] for i in names], _LEAK)
            for issue in audit.label_issues:
                if (point := self._by_row.get(issue.row, self.mapped)) < self.mapped:
                    suggested[point] = self._overview.classes.add(issue.suggested)
        if self._report.mode == "leave-one-out":
            lost = self._rows_at(self._overview.lost)
        else:
            lost = [self._by_query[i] for i in self._overview.lost if i in self._by_query]
        _mark(flags, lost, _LOST)
        return flags, suggested

    def _rows_at(self, rows: Iterable[int]) -> list[int]:
        return [self._by_row[row] for row in rows if row in self._by_row]


def _mark(flags: list[int], points: Sequence[int], bit: int) -> None:
    """Set a bit of those points that are on the map."""
    for point in points:
        if point < len(flags):
            flags[point] |= bit


def _on_grid(points: Sequence[Sequence[float]]) -> tuple[list[int], list[int]]:
    """Write points as whole numbers from 0, the longer side as long as the grid, y downwards."""
    if not points:
        return [], []
    columns = list(zip(*points, strict=True))
    low = [min(column) for column in columns]
    wide = max(max(column) - least for column, least in zip(columns, low, strict=True)) or 1.0
    x = [round((value - low[0]) / wide * _GRID) for value in columns[0]]
    top = max(columns[1])
    return x, [round((top - value) / wide * _GRID) for value in columns[1]]


def _behind(report: EvaluationReport, overview: _Overview, points: _Points) -> dict[str, list[Any]]:
    """Return what is behind the cells: "row,column" to how many queries and matches, and the worst.

    A query is [point, precision, matches of the class, [[point, rank, score], ...]].
    """
    cells = {at: sorted(found) for at, found in overview.cells.items()}
    if len(report.correspondence["labels"]) > _WHOLE_MATRIX:
        wanted = {(i, j) for i, j in _worst_pairs(report, overview.classes)}
        cells = {at: found for at, found in cells.items() if at in wanted}
    # Where many matches went is looked at first; the diagonal last.
    weight = {at: sum(number for _, number in found) for at, found in cells.items()}
    order = sorted(cells, key=lambda at: (at[0] == at[1], -weight[at], at))
    each = max(1, min(_BEHIND_ONE, _BEHIND_ALL // max(1, len(order))))
    shown: dict[tuple[int, int], list[Any]] = {at: [] for at in order}
    # In turn, so that each cell has its worst query before any has a second one.
    for turn in range(each):
        for at in order:
            if turn >= len(cells[at]) or (turn and len(points.pictures) >= _FOR_CELLS):
                continue
            key, number = cells[at][turn]
            result = report.results[key[-1]]
            point = points.of_query(key[-1], result)
            points.plan(point, _FOR_CELLS)
            found: list[list[float]] = []
            for match in result.matches:
                if len(found) < _MATCHES_BEHIND and (overview.classes.add(match.label) == at[1]):
                    other = points.of_match(match)
                    points.plan(other, _FOR_CELLS)
                    found.append([other, match.rank, round(match.score, 3)])
            shown[at].append([point, round(key[1], 4), number, found])
    return {f"{i},{j}": [len(cells[i, j]), weight[i, j], shown[i, j]] for i, j in sorted(cells)}


def _totals(report: EvaluationReport) -> list[dict[str, Any]]:
    lift = report.lift
    return [
        {
            "title": title(name),
            "formula": formula(name),
            "value": value,
            "interval": report.intervals.get(name),
            "chance": report.chance.get(name),
            "lift": lift[name],
        }
        for name, value in report.overall.items()
    ]


def _listed_classes(report: EvaluationReport) -> Mapping[str, dict[str, Any]]:
    """All classes by name, or where they are very many those of the lowest precision."""
    if len(report.per_class) <= _CLASSES_LISTED:
        return report.per_class
    worst = sorted(report.per_class, key=lambda name: report.per_class[name]["precision_at_k"])
    return {name: report.per_class[name] for name in sorted(worst[:_CLASSES_LISTED])}


def _matrix(report: EvaluationReport, classes: _Classes) -> dict[str, Any] | None:
    """The matrix as it is shown; None where there are too many classes for one."""
    labels = report.correspondence["labels"]
    if len(labels) > _WHOLE_MATRIX:
        return None
    fine = len(labels) <= _TWO_DECIMALS
    rows = [
        {
            "label": label,
            "number": classes.numbers[label],
            "n": n_queries(report, label),
            "cells": None if shares is None else [_cell(share, fine=fine) for share in shares],
        }
        for label, shares in zip(labels, report.correspondence["matrix"], strict=True)
    ]
    return {"labels": labels, "rows": rows, "fine": fine}


def _worst_pairs(report: EvaluationReport, classes: _Classes) -> list[tuple[int, int]]:
    """The largest shares of another class, as (class of the query, class of its matches)."""
    labels = report.correspondence["labels"]
    found = [
        (-share, classes.numbers[label], j)
        for label, shares in zip(labels, report.correspondence["matrix"], strict=True)
        if shares is not None
        for j, share in enumerate(shares)
        if share > 0 and labels[j] != label
    ]
    return [(i, j) for _, i, j in sorted(found)[:_CONFUSIONS]]


def _confusions(report: EvaluationReport, classes: _Classes) -> dict[str, Any]:
    labels, shares = (report.correspondence[name] for name in ("labels", "matrix"))
    pairs = _worst_pairs(report, classes)
    total = sum(
        share > 0 and i != j
        for i, row in enumerate(shares)
        if row is not None
        for j, share in enumerate(row)
    )
    return {
        "total": total,
        "rows": [
            {
                "i": i,
                "j": j,
                "labels": (labels[i], labels[j]),
                "n": n_queries(report, labels[i]),
                "share": shares[i][j],
                "own": shares[i][i],
            }
            for i, j in pairs
        ],
    }


def _cell(share: float, *, fine: bool) -> tuple[str, int]:
    """Text of a cell in percent, and its step on the colour scale: 0 for nothing, else 1 to 10."""
    step = min(10, max(1, math.ceil(share * 10 - 1e-9))) if share > 0 else 0
    if fine:
        return f"{100 * share:.2f}", step
    if 0 < share < 0.005:  # noqa: PLR2004  # would be rounded to nothing
        return "<1", step
    return f"{100 * share:.0f}", step
