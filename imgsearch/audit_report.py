"""An audit -> text for a terminal, or one HTML file on which one ticks what to change."""

from __future__ import annotations

import base64
import io
import json
import os
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from imgsearch.report import (
    _add,
    _label,
    _percent,
    _table,
    _unpadded,
    page_environment,
    plain_console,
)
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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

    Thumbnail = Callable[[str], bytes | None]

# What a terminal shows of each list.
_LINES = 20
# What a page shows: pictures take some kB each.
_ISSUES, _GROUPS, _IN_A_GROUP, _LEAKS, _OUTLIERS, _HUBS, _OVERLAPS = 100, 60, 12, 60, 60, 30, 30
_EVIDENCE = 3


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
            _percent(issue.confidence),
            _percent(issue.own),
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
            *map(_percent, overlap.shares),
            _percent(sum(overlap.chance) / 2),
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
    from markupsafe import Markup

    pictures = _Pictures(report.image_root, thumbnail)
    place = {item.path: i for i, item in enumerate(rows)}
    columns = ["path", "label"]
    columns += [name for name in ("group", "split") if any(getattr(i, name) for i in rows)]
    table = [[getattr(item, name) or "" for name in columns] for item in rows]
    labels = sorted({item.label for item in rows if item.label is not None})
    shown = _Shown(report, rows, place, pictures)
    data = {"columns": columns, "rows": table}
    return (
        page_environment()
        .get_template("audit.html.j2")
        .render(
            report=report,
            created=created,
            version=version,
            updatable=updatable,
            total=count(report.count, "picture"),
            labels=labels,
            issues_line=issues_line(report),
            issues=shown.issues(),
            duplicates_line=duplicates_line(report),
            groups=shown.groups(),
            leaks_line=leaks_line(report),
            leaks=shown.leaks(),
            outliers_line=outliers_line(report),
            outliers=shown.outliers(),
            hubs_line=hubs_line(report),
            hubs=shown.hubs(),
            overlaps_line=overlaps_line(report),
            overlaps=report.overlaps[:_OVERLAPS],
            # JSON in which no character can end its element, and base64 of our own making.
            data=Markup(json.dumps(data).replace("<", "\\u003c")),  # noqa: S704
            pictures=Markup(pictures.style()),  # noqa: S704
        )
    )


class _Pictures:
    """The distinct pictures of a page, each as one CSS class that many places can wear."""

    def __init__(self, root: str, thumbnail: Thumbnail) -> None:
        self._root = root
        self._thumbnail = thumbnail
        self._by_place: dict[str, int | None] = {}
        self._by_content: dict[bytes, int] = {}

    def of_row(self, path: str) -> int | None:
        """Return the number of a base picture, None where there is none to show."""
        return self.of_file(os.path.join(self._root, path))  # noqa: PTH118 - it may be a URL

    def of_file(self, file: str) -> int | None:
        """Return the number of a picture's file."""
        if file not in self._by_place:
            jpeg = self._thumbnail(file)
            self._by_place[file] = (
                self._by_content.setdefault(jpeg, len(self._by_content)) if jpeg else None
            )
        return self._by_place[file]

    def style(self) -> str:
        """One rule per picture."""
        return "\n".join(
            f".p{i}{{background-image:url(data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})}}"
            for jpeg, i in self._by_content.items()
        )


class _Shown:
    """The lists of an audit as the page shows them."""

    def __init__(
        self,
        report: AuditReport,
        rows: Sequence[ImageItem],
        place: dict[str, int],
        pictures: _Pictures,
    ) -> None:
        self.report, self.rows, self.place, self.pictures = report, rows, place, pictures

    def _tile(self, row: int, path: str, label: str | None) -> dict[str, Any]:
        return {
            "row": row,
            "at": self.place[path],
            "path": path,
            "file": PurePosixPath(path).name,
            "label": label,
            "picture": self.pictures.of_row(path),
        }

    def _row(self, row: int) -> dict[str, Any]:
        # The rows of the label file begin with those of the index, in its order.
        item = self.rows[row]
        return self._tile(row, item.path, item.label)

    def issues(self) -> list[dict[str, Any]]:
        return [
            {
                **self._tile(issue.row, issue.path, issue.label),
                "suggested": issue.suggested,
                "confidence": issue.confidence,
                "own": issue.own,
                "evidence": [self._row(row) for row in issue.evidence[:_EVIDENCE]],
                "best_own": None if issue.best_own is None else self._row(issue.best_own[0]),
            }
            for issue in self.report.label_issues[:_ISSUES]
        ]

    def groups(self) -> list[dict[str, Any]]:
        return [
            {
                "score": f"{group.score:z.3f}",
                "exact": group.exact,
                "labels": group.labels,
                "groups": group.groups,
                "tiles": [self._row(row) for row in group.rows[:_IN_A_GROUP]],
                "left": max(0, len(group.rows) - _IN_A_GROUP),
            }
            for group in self.report.duplicates[:_GROUPS]
        ]

    def leaks(self) -> list[dict[str, Any]]:
        return [
            {
                **self._row(leak.row),
                "query": leak.query,
                "query_label": leak.query_label,
                "query_picture": None if leak.file is None else self.pictures.of_file(leak.file),
                "score": f"{leak.score:z.3f}",
                "exact": leak.exact,
            }
            for leak in self.report.leaks[:_LEAKS]
        ]

    def outliers(self) -> list[dict[str, Any]]:
        return [
            {
                **self._tile(outlier.row, outlier.path, outlier.label),
                "score": f"{outlier.score:z.3f}",
                "p_value": f"{outlier.p_value:.4f}",
            }
            for outlier in self.report.outliers[:_OUTLIERS]
        ]

    def hubs(self) -> list[dict[str, Any]]:
        return [
            {
                **self._tile(hub.row, hub.path, hub.label),
                "times": hub.times,
                "wrong": hub.wrong,
            }
            for hub in self.report.hubs[:_HUBS]
        ]
