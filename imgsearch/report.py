"""A report value -> text for a terminal, or CSV. The page is made in report_page.py."""

from __future__ import annotations

import csv
import io
import math
from typing import IO, TYPE_CHECKING, Any

from imgsearch import worth
from imgsearch.text import count, printable
from imgsearch.webpage import percent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console, RenderableType
    from rich.table import Table

    from imgsearch.records import (
        Change,
        ComparisonReport,
        Correspondence,
        EvaluationReport,
        Leakage,
        LearnSummary,
        SearchResult,
        Without,
    )

ACCURACY = "Accuracy of correct matches by correspondence to other classes"
CSV_HEADER = (
    "query", "query_label", "rank", "row", "path", "label", "score", "distance", "probability",
)  # fmt: skip

_MATRIX_IN_TEXT = 12  # with more classes a terminal shows the diagonal and the worst confusion
_DASH = "\N{EN DASH}"
_AS_WIDE_AS_NEEDED = 100_000  # columns; a pipe has no edge
# A line under the heads and bars between the columns, in ASCII: the form of rich's Box.
_RULED = "    \n  | \n -+ \n  | \n -+ \n -+ \n  | \n    \n"

# Column heads; what is not here goes by its own name.
SHORT = {
    "precision_at_k": "precision@k",
    "hit_rate_at_k": "hit rate@k",
    "top1_accuracy": "top-1",
    "knn_accuracy": "kNN vote",
    "map_at_k": "MAP@k",
    "mrr": "MRR",
    "r_precision": "R-precision",
}
MODES = {
    "test": "a test set, asked against the base set",
    "leave-one-out": "leave-one-out: each base picture asked against all the others, never itself",
}
_LEFT_OUT = {
    "only_a": "that only A has",
    "only_b": "that only B has",
    "relabelled": "whose label is another in B",
    "unlabelled": "without a label",
}
_CHANGES_SHOWN = 10


# Terminal


def console(file: IO[str]) -> Console:
    """Make a console for `file` that prints tables whole.

    On a terminal it is as wide as the terminal and long names are folded; anywhere else it has no
    edge, so that nothing is cut or folded. Colours only on a terminal, and not with NO_COLOR.
    """
    from rich.console import Console

    width = None if file.isatty() else _AS_WIDE_AS_NEEDED
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def search_table(results: Sequence[SearchResult]) -> list[RenderableType]:
    """Tables and lines for people, in the order of `results`; print each on `console(stdout)`."""
    from rich.text import Text

    shown: list[RenderableType] = []
    for number, result in enumerate(results):
        if number:
            shown.append(Text(""))
        if result.matches:
            shown.append(_match_table(result))
        else:
            shown.append(Text(f"No matches for {printable(result.query)}."))
        if (line := _correspondence_line(result)) is not None:
            shown.append(Text(line))
        if (line := stranger(result)) is not None:
            shown.append(Text(line))
    return shown


def stranger(result: SearchResult) -> str | None:
    """Say that a query resembles nothing in the base set, where that is so."""
    found = result.resemblance
    if found is None or not found.outlier:
        return None
    return (
        f"This picture resembles nothing here: {found.p_value:.1%} of the base pictures are as far "
        f"from all others (of ordinary pictures, {found.rate:.0%} are called so by chance)."
    )


def _match_table(result: SearchResult) -> Table:
    known = any(match.probability is not None for match in result.matches)
    table = _table(
        "Rank", "Query label", "Query", "Base label", "Base image", "Score", "Distance",
        *(["Probability"] if known else []),
        numbers={"Rank", "Score", "Distance", "Probability"},
    )  # fmt: skip
    for match in result.matches:
        right = result.label is not None and match.label == result.label
        _add(
            table,
            str(match.rank),
            _label(result.label),
            printable(result.query),
            _label(match.label),
            printable(match.path),
            f"{match.score:z.4f}",
            f"{match.distance:z.4f}",
            *([percent(match.probability)] if known else []),
            style="green" if right else None,
        )
    return table


def _correspondence_line(result: SearchResult) -> str | None:
    found = result.correspondence
    if found is None:
        return None
    if result.label is not None and found.accuracy is not None:
        return f"{ACCURACY}: {found.accuracy:.2%}"
    shares = profile(found)
    if not shares:
        return None
    return "Class profile: " + ", ".join(f"{printable(name)} {share:.2%}" for name, share in shares)


def profile(found: Correspondence) -> list[tuple[str, float]]:
    """Give the classes among the matches, the largest share first, equal ones in index order."""
    shares = [(share.label, share.share) for share in found.classes if share.count]
    return sorted(shares, key=lambda pair: -pair[1])


def _table(*heads: str, numbers: set[str]) -> Table:
    """Make an empty table whose numbers stay on one line and whose names fold."""
    from rich.box import Box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=Box(_RULED, ascii=True), show_edge=False, pad_edge=False)
    for head in heads:
        if head in numbers:
            table.add_column(Text(head), justify="right", no_wrap=True)
        else:
            table.add_column(Text(head), overflow="fold")
    return table


def _add(table: Table, *cells: str, style: str | None = None) -> None:
    """Add a row as plain text: square brackets in a name are no markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) for cell in cells), style=style)


def _label(label: str | None) -> str:
    return "-" if label is None else printable(label)


def search_csv(results: Sequence[SearchResult]) -> str:
    """One line per match with the header `CSV_HEADER`, in full precision, lines ended by LF.

    Names stand as they are, for a program to read back; only what cannot be written as UTF-8 is
    escaped. No label is an empty field. A query without matches has no line.
    """
    lines = [_csv_line(CSV_HEADER)]
    lines.extend(
        _csv_line(
            (
                _writable(result.query),
                _writable(result.label or ""),
                str(match.rank),
                str(match.row),
                _writable(match.path),
                _writable(match.label or ""),
                repr(float(match.score)),
                repr(float(match.distance)),
                "" if match.probability is None else repr(float(match.probability)),
            )
        )
        for result in results
        for match in result.matches
    )
    return "".join(lines)


def _csv_line(fields: Sequence[str]) -> str:
    # The writer quotes a carriage return only where its own line end holds one.
    line = io.StringIO(newline="")
    csv.writer(line, lineterminator="\r\n").writerow(fields)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _writable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return printable(text)
    return text


def evaluation_text(report: EvaluationReport, *, width: int | None = None) -> str:
    """Totals, matrix and classes as plain text without colour codes.

    `width` is that of the terminal, in columns; None is as wide as needed. Ends with a newline.
    """
    from rich.text import Text

    out = io.StringIO()
    wide = plain_console(out, width)
    labelled = report.n_queries - report.unlabelled
    wide.print(Text(f"Index: {printable(report.index)}"))
    wide.print(Text(f"Model: {printable(report.model)}, weights {printable(report.weights)}"))
    wide.print(Text(f"Mode:  {MODES[report.mode]}; k = {report.k}"))
    wide.print(Text(f"Asked: {asked_line(report)}, {count(report.base_count, 'base picture')}"))
    if report.skipped:
        wide.print(Text(f"Left out: {count(len(report.skipped), 'picture')} that cannot be used"))
    wide.print()
    if not labelled:
        wide.print(Text("No query carries a label, so there is no accuracy to report."))
        return _unpadded(out)
    leaks = report.leakage
    for title, table in (
        ("Totals", _totals_table(report)),
        ("The same without leakage", None if leaks is None else _leakage_table(report, leaks)),
        ("Correspondence to the classes, in percent", _matrix_table(report, wide)),
        ("Classes", _class_table(report)),
    ):
        if table is not None:
            wide.print(Text(title))
            wide.print(table)
            wide.print()
    wide.print(Text(worth.read_so(report.n_groups)))
    for line in (*worth.warnings(report), *(() if leaks is None else worth.explain(leaks))):
        wide.print(Text(line))
    return _unpadded(out)


def learning_text(found: LearnSummary) -> str:
    """Say what `learn` found, and what it did about it; ends with a newline."""
    low, high = found.interval
    gain = f"difference {found.difference:+.4f} (95% interval {low:+.4f} to {high:+.4f})"
    raw, learned = (f"{values['precision_at_k']:.4f}" for values in (found.raw, found.learned))
    first = [f"{share:.2%}" for share in found.found_first]
    asked = (
        f"Asked: {count(found.queries, 'row')} among {found.rows:,}, in {found.folds} folds that "
        "keep groups and near-duplicates together"
    )
    lines = [
        asked,
        f"{'':24}{'raw':>10}{'learned':>10}",
        f"{f'precision@{found.k}':24}{raw:>10}{learned:>10}   {gain}",
        f"{'look-alikes found first':24}{first[0]:>10}{first[1]:>10}",
        f"Best: {found.chosen}",
    ]
    if found.written:
        lines.append(
            f"Written: {printable(found.new)}, {found.dim:,} numbers a row ({found.seconds:.1f} s)"
        )
    else:
        lines.append(
            "Nothing written: no transform is better than the raw vectors beyond doubt "
            f"({found.seconds:.1f} s)"
        )
    return "\n".join(lines) + "\n"


def comparison_text(report: ComparisonReport, *, width: int | None = None) -> str:
    """Both means of each measure, their difference and what changed most, as plain text.

    `width` is as in `evaluation_text`. Ends with a newline.
    """
    from rich.text import Text

    out = io.StringIO()
    wide = plain_console(out, width)
    lines = [
        f"A:     {printable(report.index_a)}",
        f"B:     {printable(report.index_b)}",
        f"Mode:  {MODES[report.mode]}; k = {report.k}",
        f"Asked: {count(report.n_queries, 'query', 'queries')}, each of both",
    ]
    for reason, number in report.left_out.items():
        if number:
            lines.append(f"Left out: {count(number, 'picture')} {_LEFT_OUT[reason]}")
    for line in (*lines, ""):
        wide.print(Text(line))
    table = _table(
        "Measure", "A", "B", "B less A", "95% interval", "So",
        numbers={"A", "B", "B less A", "95% interval"},
    )  # fmt: skip
    for name, pair in report.intervals.items():
        _add(
            table,
            SHORT.get(name, name),
            percent(report.a[name]),
            percent(report.b[name]),
            _points(report.difference[name]),
            _DASH if pair is None else f"{_points(pair[0])} to {_points(pair[1])}",
            _verdict(pair),
        )
    wide.print(table)
    wide.print()
    over = "queries" if report.n_groups is None else f"{count(report.n_groups, 'group')} of queries"
    wide.print(
        Text(
            "Differences are in points. The interval is a paired bootstrap over the "
            f"{over}: where it holds 0, no difference is shown. precision@k rose for "
            f"{count(report.better, 'query', 'queries')} and fell for {report.worse:,}."
        )
    )
    if report.changed:
        wide.print()
        wide.print(Text("Most changed"))
        wide.print(_changes_table(report.changed[:_CHANGES_SHOWN]))
    return _unpadded(out)


def _changes_table(changes: Sequence[Change]) -> Table:
    table = _table("Query", "Label", "A", "B", "First of A", "First of B", numbers={"A", "B"})
    for change in changes:
        _add(
            table,
            printable(change.query),
            printable(change.label),
            percent(change.a),
            percent(change.b),
            _label(change.first_a),
            _label(change.first_b),
        )
    return table


def _points(value: float) -> str:
    return f"{100 * value:+z.2f}"


def _verdict(pair: tuple[float, float] | None) -> str:
    if pair is None or pair[0] <= 0 <= pair[1]:
        return "not shown to differ"
    return "B is better" if pair[0] > 0 else "A is better"


def plain_console(out: IO[str], width: int | None) -> Console:
    """Make a console for text without colour codes; `width` None is as wide as needed."""
    from rich.console import Console

    return Console(
        file=out,
        width=width or _AS_WIDE_AS_NEEDED,
        color_system=None,
        force_terminal=False,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _unpadded(out: io.StringIO) -> str:
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def _totals_table(report: EvaluationReport) -> Table:
    table = _table(
        "Measure", "Value", "95% interval", "Chance", "Lift",
        numbers={"Value", "95% interval", "Chance", "Lift"},
    )  # fmt: skip
    lift = report.lift
    for name, value in report.overall.items():
        _add(
            table,
            title(name),
            percent(value),
            interval(report.intervals.get(name)),
            percent(report.chance.get(name)),
            times(lift[name]),
        )
    return table


def _leakage_table(report: EvaluationReport, leakage: Leakage) -> Table:
    heads = ["All rows", *(head for head, _ in withouts(leakage))]
    table = _table("Measure", *heads, numbers=set())
    for name in leakage.without_near_duplicates.overall:
        cells = [
            (report.overall.get(name), report.intervals.get(name)),
            *((its.overall[name], its.intervals[name]) for _, its in withouts(leakage)),
        ]
        shown = (f"{percent(value)} ({interval(pair)})" for value, pair in cells)
        _add(table, SHORT.get(name, name), *shown)
    return table


def withouts(leakage: Leakage) -> list[tuple[str, Without]]:
    """Return what there is, with its head."""
    both = (
        ("Without near-duplicates", leakage.without_near_duplicates),
        ("Without own group", leakage.without_own_group),
    )
    return [(head, without) for head, without in both if without is not None]


def _matrix_table(report: EvaluationReport, wide: Console) -> Table:
    """Show the whole matrix where it fits, else the diagonal and the worst confusions."""
    from rich.measure import Measurement

    labels = report.correspondence["labels"]
    if len(labels) <= _MATRIX_IN_TEXT:
        # A label may be called like the first column or like another label once escaped.
        table = _table("Query class", "n", numbers={"n"})
        for label in labels:
            table.add_column(_text(label), justify="right", min_width=6, overflow="fold")
        for label, row in zip(labels, report.correspondence["matrix"], strict=True):
            cells = ["-"] * len(labels) if row is None else [f"{100 * share:.2f}" for share in row]
            _add(table, printable(label), str(n_queries(report, label)), *cells)
        free = wide.options.update(width=_AS_WIDE_AS_NEEDED)
        if Measurement.get(wide, free, table).minimum <= wide.width:
            return table
    table = _table(
        "Query class", "n", "Own class", "Most often instead", "Share",
        numbers={"n", "Own class", "Share"},
    )  # fmt: skip
    for i, (label, row) in enumerate(zip(labels, report.correspondence["matrix"], strict=True)):
        if row is None:
            _add(table, printable(label), "0", "-", "-", "-")
            continue
        others = [(share, j) for j, share in enumerate(row) if j != i and share > 0]
        share, j = max(others, key=lambda pair: (pair[0], -pair[1]), default=(0.0, i))
        _add(
            table,
            printable(label),
            str(n_queries(report, label)),
            percent(row[i]),
            printable(labels[j]) if others else "-",
            percent(share) if others else "-",
        )
    return table


def _class_table(report: EvaluationReport) -> Table:
    columns = [name for name in ("top1_accuracy", "knn_accuracy") if name in report.overall]
    heads = ["precision@k", "95% interval", "Chance", *(SHORT[name] for name in columns)]
    table = _table("Class", "n", *heads, numbers={"n", *heads})
    for label, entry in report.per_class.items():
        _add(
            table,
            printable(label),
            f"{entry['n']} few" if entry["few"] else str(entry["n"]),
            percent(entry.get("precision_at_k")),
            interval(_of(entry, "intervals", "precision_at_k")),
            percent(_of(entry, "chance", "precision_at_k")),
            *(percent(entry.get(name)) for name in columns),
        )
    return table


def _text(name: str) -> RenderableType:
    from rich.text import Text

    return Text(printable(name))


# What text and page share


def title(name: str) -> str:
    """Title of a measure for people; one that is not in the table goes by its name."""
    from imgsearch.metrics import MEASURES

    if name == "precision_at_k":
        return f"{ACCURACY} (precision@k)"
    return MEASURES[name].title if name in MEASURES else name


def formula(name: str) -> str:
    """Return the definition of a measure in one line; none is known for one not in the table."""
    from imgsearch.metrics import MEASURES

    return MEASURES[name].formula if name in MEASURES else ""


def interval(pair: Sequence[float] | None) -> str:
    """Write an interval, a dash where there is none."""
    if pair is None or any(math.isnan(value) for value in pair):
        return _DASH
    return f"{percent(pair[0])} to {percent(pair[1])}"


def times(value: float | None) -> str:
    """Write how many times chance a value is."""
    return _DASH if value is None or math.isnan(value) else f"{value:.2f}x"


def _of(entry: Mapping[str, Any], kind: str, name: str) -> Any:  # noqa: ANN401  # a number or a pair
    return entry.get(kind, {}).get(name)


def n_queries(report: EvaluationReport, label: str) -> int:
    """Return how many queries a class has."""
    return int(report.per_class.get(label, {}).get("n", 0))


def asked_line(report: EvaluationReport) -> str:
    """Say how many queries there were, and how many of them without a label."""
    text = count(report.n_queries, "query", "queries")
    if report.unlabelled:
        text += f" ({report.unlabelled:,} without a label)"
    return text
