"""An audit -> text for a terminal, or one HTML file on which one ticks what to change."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from imgsearch.report import (
    _add,
    _label,
    _table,
    _unpadded,
    plain_console,
)
from imgsearch.text import count, place_in, printable
from imgsearch.webpage import Pictures, as_data, page_environment, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rich.table import Table

    from imgsearch.records import (
        AuditReport,
        DuplicateGroup,
        Hub,
        ImageItem,
        LabelIssue,
        Leak,
        Outlier,
        Overlap,
    )
    from imgsearch.webpage import Thumbnail

# What a terminal shows of each list.
_LINES = 20
_IN_A_GROUP = 12


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many entries of each list a page shows: pictures take some kB each."""

    issues: int = 100
    groups: int = 60
    in_a_group: int = _IN_A_GROUP
    leaks: int = 60
    outliers: int = 60
    hubs: int = 30
    overlaps: int = 30
    evidence: int = 3


MANY_SHOWN = Bounds()
# Beside an evaluation, which has pictures of its own.
FEW_SHOWN = Bounds(issues=40, groups=24, in_a_group=6, leaks=24, outliers=24, hubs=18)


# Terminal


def audit_text(report: AuditReport, *, width: int | None = None) -> str:
    """Each list as a table, the worst first, without colour codes; ends with a newline.

    `width` is that of the terminal, in columns; None is as wide as needed.
    """
    from rich.text import Text

    out = io.StringIO()
    wide = plain_console(out, width)
    wide.print(Text(f"Index: {printable(report.index)}, {count(report.count, 'picture')}"))
    for part in _parts(report):
        wide.print()
        wide.print(Text(f"{part.title}: {part.summary}"))
        if part.table is not None:
            wide.print(part.table)
            if part.left:
                wide.print(Text(f"and {part.left:,} more; --json lists all, --report shows them"))
    return _unpadded(out)


@dataclass(frozen=True, slots=True)
class _Part:
    """A list of the audit: what it comes to, its first lines, and how many more there are."""

    title: str
    summary: str
    table: Table | None
    left: int


def _parts(report: AuditReport) -> list[_Part]:
    def part(
        title: str, summary: str, found: Sequence[Any], table: Callable[[Sequence[Any]], Table]
    ) -> _Part:
        shown = table(found[:_LINES]) if found else None
        return _Part(title, summary, shown, max(0, len(found) - _LINES))

    parts = [
        part("Labels that may be wrong", issues_line(report), report.label_issues, _issue_table),
        part("Near-duplicates", duplicates_line(report), report.duplicates, _group_table),
        part("Outliers", outliers_line(report), report.outliers, _outlier_table),
        part("Hubs", hubs_line(report), report.hubs, _hub_table),
        part("Overlapping classes", overlaps_line(report), report.overlaps, _overlap_table),
    ]
    if report.tested is not None:
        parts.insert(2, part("Leaks", leaks_line(report), report.leaks, _leak_table))
    return parts


def _issue_table(found: Sequence[LabelIssue]) -> Table:
    table = _table(
        "Row", "Image", "Label", "Suggested", "Confidence", "Own", "Evidence",
        numbers={"Row", "Confidence", "Own"},
    )  # fmt: skip
    for issue in found:
        _add(
            table,
            str(issue.row),
            printable(issue.path),
            printable(issue.label),
            printable(issue.suggested),
            percent(issue.confidence),
            percent(issue.own),
            " ".join(map(str, issue.evidence)) or "-",
        )
    return table


def _group_table(found: Sequence[DuplicateGroup]) -> Table:
    table = _table("Score", "Same file", "Rows", "Images", "Labels", numbers={"Score"})
    for group in found:
        _add(
            table,
            f"{group.score:z.4f}",
            "yes" if group.exact else "no",
            _some(map(str, group.rows), " "),
            _some(map(printable, group.paths), ", "),
            ", ".join(map(printable, group.labels)) or "-",
        )
    return table


def _some(words: Iterable[str], between: str) -> str:
    listed = list(words)
    more = f" and {len(listed) - _IN_A_GROUP:,} more" if len(listed) > _IN_A_GROUP else ""
    return between.join(listed[:_IN_A_GROUP]) + more


def _leak_table(found: Sequence[Leak]) -> Table:
    table = _table(
        "Test image", "Label", "Row", "Base image", "Base label", "Score", "Same file",
        numbers={"Row", "Score"},
    )  # fmt: skip
    for leak in found:
        _add(
            table,
            printable(leak.query),
            _label(leak.query_label),
            str(leak.row),
            printable(leak.path),
            _label(leak.label),
            f"{leak.score:z.4f}",
            "yes" if leak.exact else "no",
        )
    return table


def _outlier_table(found: Sequence[Outlier]) -> Table:
    table = _table("Row", "Image", "Label", "Best score", "p", numbers={"Row", "Best score", "p"})
    for outlier in found:
        _add(
            table,
            str(outlier.row),
            printable(outlier.path),
            _label(outlier.label),
            f"{outlier.score:z.4f}",
            f"{outlier.p_value:.4f}",
        )
    return table


def _hub_table(found: Sequence[Hub]) -> Table:
    table = _table(
        "Row",
        "Image",
        "Label",
        "Neighbor of",
        "Wrong class",
        numbers={"Row", "Neighbor of", "Wrong class"},
    )
    for hub in found:
        _add(
            table,
            str(hub.row),
            printable(hub.path),
            printable(hub.label),
            str(hub.times),
            str(hub.wrong),
        )
    return table


def _overlap_table(found: Sequence[Overlap]) -> Table:
    numbers = {"First in second", "Second in first", "By chance"}
    table = _table(
        "First", "Second", "Second in first", "First in second", "By chance", numbers=numbers
    )
    for overlap in found:
        _add(
            table,
            *map(printable, overlap.labels),
            *map(percent, overlap.shares),
            percent(sum(overlap.chance) / 2),
        )
    return table


# What text and page say alike


def issues_line(report: AuditReport) -> str:
    """How many labels are suspected, of how many that could be judged."""
    if not report.judged:
        return "none could be judged: that takes two classes of two pictures or more"
    return (
        f"{len(report.label_issues):,} of {count(report.judged, 'picture')} that could be judged; "
        "the neighbors and a linear classifier that has not seen the picture expect another class"
    )


def duplicates_line(report: AuditReport) -> str:
    """How many groups there are, and how they were looked for."""
    groups = report.duplicates
    if not groups:
        return "none found"
    text = f"{count(len(groups), 'group')} of {count(sum(len(g.rows) for g in groups), 'picture')}"
    for number, what in (
        (sum(group.exact for group in groups), "of one and the same file"),
        (sum(len(group.labels) > 1 for group in groups), "with different labels"),
        (sum(len(group.groups) > 1 for group in groups), "across groups of the label file"),
    ):
        if number:
            text += f"; {number:,} {what}"
    return text


def leaks_line(report: AuditReport) -> str:
    """How many test pictures are in the base set."""
    exact = sum(leak.exact for leak in report.leaks)
    text = f"{len(report.leaks):,} of {count(report.tested or 0, 'test picture')} in the base set"
    return text + (f", {exact:,} of them as the same file" if exact else "")


def outliers_line(report: AuditReport) -> str:
    """How many outliers there are, and how many of them chance would list."""
    return (
        f"{count(len(report.outliers), 'picture')} farther from all others than the rest; at this "
        f"rate {report.outlier_rate:.1%} of ordinary pictures are listed, too"
    )


def hubs_line(report: AuditReport) -> str:
    """How many base pictures intrude."""
    if not report.hubs:
        return "none found"
    return (
        f"{count(len(report.hubs), 'picture')} that come up among the {report.k} nearest of other "
        "classes far more often than the rest"
    )


def overlaps_line(report: AuditReport) -> str:
    """How many pairs of classes are mixed."""
    if not report.overlaps:
        return "none found"
    return (
        f"{count(len(report.overlaps), 'pair')} whose {report.k} nearest are of the other class "
        "more often than by chance"
    )


# The page


def audit_html(
    report: AuditReport,
    rows: Sequence[ImageItem],
    thumbnail: Thumbnail,
    *,
    created: str,
    version: str,
    updatable: bool = True,
) -> str:
    """One HTML file, complete in itself, on which one ticks what to change.

    Args:
        report: the audit.
        rows: what the label file must hold so that an index made with it is this one.
        thumbnail: gives small JPEG bytes of a picture's file, None where it cannot be had; called
            once per picture, and only for what is shown.
        created: shown as given.
        version: shown as given.
        updatable: whether `imgsearch update` can take the label file.
    """
    pictures = Pictures()
    place = {item.path: i for i, item in enumerate(rows)}
    columns = ["path", "label"]
    columns += [name for name in ("group", "split") if any(getattr(i, name) for i in rows)]
    table = [[getattr(item, name) or "" for name in columns] for item in rows]
    labels = sorted({item.label for item in rows if item.label is not None})
    # The rows of the label file begin with those of the index, in its order.
    named = [(item.path, item.label) for item in rows]
    lists = audit_lists(report, named, pictures, MANY_SHOWN, place=place)
    pictures.load(thumbnail)
    environment = page_environment()
    environment.filters["shown"] = pictures.shown
    return environment.get_template("audit.html.j2").render(
        report=report,
        created=created,
        version=version,
        updatable=updatable,
        total=count(report.count, "picture"),
        labels=labels,
        lists=lists,
        data=as_data({"columns": columns, "rows": table}),
        pictures=pictures.style(),
    )


def audit_lists(
    report: AuditReport,
    rows: Sequence[tuple[str, str | None]],
    pictures: Pictures,
    bounds: Bounds,
    *,
    place: Mapping[str, int] | None = None,
    most: int | None = None,
) -> dict[str, Any]:
    """Return the lists of an audit as pages show them, and plan their pictures.

    Args:
        report: the audit.
        rows: path and label of each base row, in order.
        pictures: where pictures are planned.
        bounds: how many entries are shown.
        place: where each path stands in the label file, on a page with ticks.
        most: how many pictures may be planned after those of the lists.
    """
    shown = _Shown(report, rows, pictures, bounds, place or {}, most)
    return {
        "tested": report.tested is not None,
        "ticks": place is not None,
        "parts": {
            "labels": (issues_line(report), len(report.label_issues), shown.issues()),
            "duplicates": (duplicates_line(report), len(report.duplicates), shown.groups()),
            "leaks": (leaks_line(report), len(report.leaks), shown.leaks()),
            "outliers": (outliers_line(report), len(report.outliers), shown.outliers()),
            "hubs": (hubs_line(report), len(report.hubs), shown.hubs()),
            "overlaps": (
                overlaps_line(report),
                len(report.overlaps),
                report.overlaps[: bounds.overlaps],
            ),
        },
    }


class _Shown:
    """The lists of an audit as the page shows them."""

    def __init__(  # noqa: PLR0917 - what `audit_lists` is about
        self,
        report: AuditReport,
        rows: Sequence[tuple[str, str | None]],
        pictures: Pictures,
        bounds: Bounds,
        place: Mapping[str, int],
        most: int | None,
    ) -> None:
        self.report, self.rows, self.place = report, rows, place
        self.pictures, self.bounds, self.most = pictures, bounds, most

    def _picture(self, file: str | None) -> int | None:
        return self.pictures.number(file, self.most)

    def _tile(self, row: int, path: str, label: str | None) -> dict[str, Any]:
        return {
            "row": row,
            "at": self.place.get(path),
            "path": path,
            "file": PurePosixPath(path).name,
            "label": label,
            "picture": self._picture(place_in(self.report.image_root, path)),
        }

    def _row(self, row: int) -> dict[str, Any]:
        return self._tile(row, *self.rows[row])

    def issues(self) -> list[dict[str, Any]]:
        return [
            {
                **self._tile(issue.row, issue.path, issue.label),
                "suggested": issue.suggested,
                "confidence": issue.confidence,
                "own": issue.own,
                "evidence": [self._row(row) for row in issue.evidence[: self.bounds.evidence]],
                "best_own": None if issue.best_own is None else self._row(issue.best_own[0]),
            }
            for issue in self.report.label_issues[: self.bounds.issues]
        ]

    def groups(self) -> list[dict[str, Any]]:
        return [
            {
                "score": f"{group.score:z.3f}",
                "exact": group.exact,
                "labels": group.labels,
                "groups": group.groups,
                "tiles": [self._row(row) for row in group.rows[: self.bounds.in_a_group]],
                "left": max(0, len(group.rows) - self.bounds.in_a_group),
            }
            for group in self.report.duplicates[: self.bounds.groups]
        ]

    def leaks(self) -> list[dict[str, Any]]:
        return [
            {
                **self._row(leak.row),
                "query": leak.query,
                "query_label": leak.query_label,
                "query_picture": self._picture(leak.file),
                "score": f"{leak.score:z.3f}",
                "exact": leak.exact,
            }
            for leak in self.report.leaks[: self.bounds.leaks]
        ]

    def outliers(self) -> list[dict[str, Any]]:
        return [
            {
                **self._tile(outlier.row, outlier.path, outlier.label),
                "score": f"{outlier.score:z.3f}",
                "p_value": f"{outlier.p_value:.4f}",
            }
            for outlier in self.report.outliers[: self.bounds.outliers]
        ]

    def hubs(self) -> list[dict[str, Any]]:
        return [
            {
                **self._tile(hub.row, hub.path, hub.label),
                "times": hub.times,
                "wrong": hub.wrong,
            }
            for hub in self.report.hubs[: self.bounds.hubs]
        ]
