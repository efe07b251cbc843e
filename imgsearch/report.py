"""A report value -> text for a terminal, CSV, or one HTML file that opens offline."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import math
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeAlias

from imgsearch import worth
from imgsearch.intervals import FEW
from imgsearch.records import Match, SearchResult
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jinja2 import Environment
    from rich.console import Console, RenderableType
    from rich.table import Table

    from imgsearch.records import (
        Change,
        ComparisonReport,
        Correspondence,
        EvaluationReport,
        Leakage,
        LearnSummary,
        Without,
    )

    Thumbnail: TypeAlias = Callable[[SearchResult | Match], bytes | None]

ACCURACY = "Accuracy of correct matches by correspondence to other classes"
CSV_HEADER = (
    "query", "query_label", "rank", "row", "path", "label", "score", "distance", "probability",
)  # fmt: skip

_MATRIX_IN_TEXT = 12  # with more classes a terminal shows the diagonal and the worst confusion
_TWO_DECIMALS = 12  # with more classes the cells of the HTML matrix show whole percents
_SKIPS_SHOWN = 500
_DASH = "\N{EN DASH}"
_AS_WIDE_AS_NEEDED = 100_000  # columns; a pipe has no edge
# A line under the heads and bars between the columns, in ASCII: the form of rich's Box.
_RULED = "    \n  | \n -+ \n  | \n -+ \n -+ \n  | \n    \n"

# Column heads; what is not here goes by its own name.
_SHORT = {
    "precision_at_k": "precision@k",
    "hit_rate_at_k": "hit rate@k",
    "top1_accuracy": "top-1",
    "knn_accuracy": "kNN vote",
    "map_at_k": "MAP@k",
    "mrr": "MRR",
    "r_precision": "R-precision",
}
_MODES = {
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
            *([_percent(match.probability)] if known else []),
            style="green" if right else None,
        )
    return table


def _correspondence_line(result: SearchResult) -> str | None:
    found = result.correspondence
    if found is None:
        return None
    if result.label is not None and found.accuracy is not None:
        return f"{ACCURACY}: {found.accuracy:.2%}"
    profile = _profile(found)
    if not profile:
        return None
    return "Class profile: " + ", ".join(
        f"{printable(name)} {share:.2%}" for name, share in profile
    )


def _profile(found: Correspondence) -> list[tuple[str, float]]:
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
    wide.print(Text(f"Mode:  {_MODES[report.mode]}; k = {report.k}"))
    wide.print(Text(f"Asked: {_asked(report)}, {count(report.base_count, 'base picture')}"))
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
        f"Mode:  {_MODES[report.mode]}; k = {report.k}",
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
            _SHORT.get(name, name),
            _percent(report.a[name]),
            _percent(report.b[name]),
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
            _percent(change.a),
            _percent(change.b),
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
            _title(name),
            _percent(value),
            _interval(report.intervals.get(name)),
            _percent(report.chance.get(name)),
            _times(lift[name]),
        )
    return table


def _leakage_table(report: EvaluationReport, leakage: Leakage) -> Table:
    heads = ["All rows", *(head for head, _ in _withouts(leakage))]
    table = _table("Measure", *heads, numbers=set())
    for name in leakage.without_near_duplicates.overall:
        cells = [
            (report.overall.get(name), report.intervals.get(name)),
            *((its.overall[name], its.intervals[name]) for _, its in _withouts(leakage)),
        ]
        shown = (f"{_percent(value)} ({_interval(pair)})" for value, pair in cells)
        _add(table, _SHORT.get(name, name), *shown)
    return table


def _withouts(leakage: Leakage) -> list[tuple[str, Without]]:
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
            _add(table, printable(label), str(_n(report, label)), *cells)
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
            str(_n(report, label)),
            _percent(row[i]),
            printable(labels[j]) if others else "-",
            _percent(share) if others else "-",
        )
    return table


def _class_table(report: EvaluationReport) -> Table:
    columns = [name for name in ("top1_accuracy", "knn_accuracy") if name in report.overall]
    heads = ["precision@k", "95% interval", "Chance", *(_SHORT[name] for name in columns)]
    table = _table("Class", "n", *heads, numbers={"n", *heads})
    for label, entry in report.per_class.items():
        _add(
            table,
            printable(label),
            f"{entry['n']} few" if entry["few"] else str(entry["n"]),
            _percent(entry.get("precision_at_k")),
            _interval(_of(entry, "intervals", "precision_at_k")),
            _percent(_of(entry, "chance", "precision_at_k")),
            *(_percent(entry.get(name)) for name in columns),
        )
    return table


def _text(name: str) -> RenderableType:
    from rich.text import Text

    return Text(printable(name))


# What text and page share


def _title(name: str) -> str:
    """Title of a measure for people; one that is not in the table goes by its name."""
    from imgsearch.metrics import MEASURES

    if name == "precision_at_k":
        return f"{ACCURACY} (precision@k)"
    return MEASURES[name].title if name in MEASURES else name


def _formula(name: str) -> str:
    from imgsearch.metrics import MEASURES

    return MEASURES[name].formula if name in MEASURES else ""


def _percent(value: float | None) -> str:
    return _DASH if value is None or math.isnan(value) else f"{value:.2%}"


def _interval(pair: Sequence[float] | None) -> str:
    if pair is None or any(math.isnan(value) for value in pair):
        return _DASH
    return f"{_percent(pair[0])} to {_percent(pair[1])}"


def _times(value: float | None) -> str:
    return _DASH if value is None or math.isnan(value) else f"{value:.2f}x"


def _of(entry: Mapping[str, Any], kind: str, name: str) -> Any:  # noqa: ANN401  # a number or a pair
    return entry.get(kind, {}).get(name)


def _n(report: EvaluationReport, label: str) -> int:
    return int(report.per_class.get(label, {}).get("n", 0))


def _asked(report: EvaluationReport) -> str:
    text = count(report.n_queries, "query", "queries")
    if report.unlabelled:
        text += f" ({report.unlabelled:,} without a label)"
    return text


# The page


def render_html(
    report: EvaluationReport,
    thumbnail: Thumbnail,
    *,
    created: str,
    version: str,
    max_queries: int = 200,
) -> str:
    """One HTML file, complete in itself: pictures, style and script are inside.

    `thumbnail` gives small JPEG bytes of a query's or of a match's picture, or None where it
    cannot be had any more; it is called once per distinct picture, and only for what is shown.
    `created` and `version` are shown as given. At most `max_queries` queries are shown.
    """
    from markupsafe import Markup

    environment = page_environment()
    environment.filters["interval"] = _interval
    environment.filters["times"] = _times
    order = _worst_first(report)[: max(0, max_queries)]
    classes = _Classes(report)
    pictures = _Pictures(report.image_root, thumbnail)
    queries = [_query(report, i, classes, pictures) for i in order]
    return environment.get_template("report.html.j2").render(
        report=report,
        created=created,
        version=version,
        mode=_MODES[report.mode],
        asked=_asked(report),
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
        withouts=[] if report.leakage is None else _withouts(report.leakage),
        explained=[] if report.leakage is None else worth.explain(report.leakage),
        short=_SHORT,
        drop=worth.DROP,
        matrix=_matrix(report, classes),
        measures=[(name, _SHORT.get(name, name)) for name in report.overall],
        queries=queries,
        classes=classes.names,
        shown_unlabelled=sum(query["label"] is None for query in queries),
        # Base64 of our own making: no name from outside is in it.
        pictures=Markup(pictures.style()),  # noqa: S704
    )


def page_environment() -> Environment:
    """Return what renders pages: all that is printed is made harmless for the eye, then escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("imgsearch"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        ),
    )
    environment.filters["sha256"] = _csp_hash
    environment.filters["percent"] = _percent
    return environment


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _Classes:
    """Numbers for class names, so that no name has to stand in a selector or in a script."""

    def __init__(self, report: EvaluationReport) -> None:
        """Count the index' classes first, then what only queries or matches carry."""
        labels = [
            *report.correspondence["labels"],
            *(result.label for result in report.results),
            *(match.label for result in report.results for match in result.matches),
        ]
        self.numbers = {
            label: i for i, label in enumerate(dict.fromkeys(x for x in labels if x is not None))
        }

    @property
    def names(self) -> list[str]:
        return list(self.numbers)


class _Pictures:
    """The distinct pictures of a page, each as one CSS class that many places can wear."""

    def __init__(self, root: str, thumbnail: Thumbnail) -> None:
        """Keep where pictures come from; `root` is what the base rows' paths are relative to."""
        self._root = root
        self._thumbnail = thumbnail
        self._by_place: dict[str, int | None] = {}
        self._by_content: dict[bytes, int] = {}

    def number(self, source: SearchResult | Match) -> int | None:
        """Number of the picture, None where there is none to show."""
        if isinstance(source, Match):
            place = str(Path(self._root, source.path))
        elif source.file is not None:
            place = str(Path(source.file))
        else:
            place = f"\0{source.query}"  # not in the file system: its name is all we know
        if place not in self._by_place:
            jpeg = self._thumbnail(source)
            self._by_place[place] = (
                self._by_content.setdefault(jpeg, len(self._by_content)) if jpeg else None
            )
        return self._by_place[place]

    def style(self) -> str:
        """One rule per picture."""
        return "\n".join(
            f".p{i}{{background-image:url(data:image/jpeg;base64,{base64.b64encode(jpeg).decode()})}}"
            for jpeg, i in self._by_content.items()
        )


def _worst_first(report: EvaluationReport) -> list[int]:
    """Order of the queries: lowest precision, lowest margin, name; those without a label last."""
    precision = report.values["precision_at_k"]

    def key(i: int) -> tuple[bool, float, float, str, int]:
        result = report.results[i]
        value = precision[i]
        if value is None:
            return True, 0.0, 0.0, _name(report, result), i
        margin = _margin(result)
        return False, value, math.inf if margin is None else margin, _name(report, result), i

    return sorted(range(len(report.results)), key=key)


def _name(report: EvaluationReport, result: SearchResult) -> str:
    """Name of a query for people: the path of a base row, which calls itself row:N."""
    if report.mode == "leave-one-out" and result.file is not None:
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


def _query(
    report: EvaluationReport, i: int, classes: _Classes, pictures: _Pictures
) -> dict[str, Any]:
    result = report.results[i]
    numbers = classes.numbers
    margin = None if result.label is None else _margin(result)
    return {
        "name": _name(report, result),
        "query": result.query,
        "label": result.label,
        "number": "" if result.label is None else numbers[result.label],
        "found": sorted({numbers[m.label] for m in result.matches if m.label is not None}),
        "picture": pictures.number(result),
        "accuracy": report.values["precision_at_k"][i],
        "right": sum(match.label == result.label for match in result.matches),
        "margin": None if margin is None or math.isinf(margin) else f"{margin:+z.3f}",
        "profile": [] if result.correspondence is None else _profile(result.correspondence),
        "matches": [
            {
                "rank": match.rank,
                "label": match.label,
                "path": match.path,
                "file": PurePosixPath(match.path).name,
                "score": f"{match.score:z.3f}",
                "distance": f"{match.distance:z.3f}",
                "picture": pictures.number(match),
                "right": None if result.label is None else match.label == result.label,
            }
            for match in result.matches
        ],
    }


def _totals(report: EvaluationReport) -> list[dict[str, Any]]:
    lift = report.lift
    return [
        {
            "title": _title(name),
            "formula": _formula(name),
            "value": value,
            "interval": report.intervals.get(name),
            "chance": report.chance.get(name),
            "lift": lift[name],
        }
        for name, value in report.overall.items()
    ]


def _matrix(report: EvaluationReport, classes: _Classes) -> dict[str, Any]:
    labels = report.correspondence["labels"]
    fine = len(labels) <= _TWO_DECIMALS
    rows = [
        {
            "label": label,
            "number": classes.numbers[label],
            "n": _n(report, label),
            "cells": None if shares is None else [_cell(share, fine=fine) for share in shares],
        }
        for label, shares in zip(labels, report.correspondence["matrix"], strict=True)
    ]
    return {"labels": labels, "rows": rows, "fine": fine}


def _cell(share: float, *, fine: bool) -> tuple[str, int]:
    """Text of a cell in percent, and its step on the colour scale: 0 for nothing, else 1 to 10."""
    step = min(10, max(1, math.ceil(share * 10 - 1e-9))) if share > 0 else 0
    if fine:
        return f"{100 * share:.2f}", step
    if 0 < share < 0.005:  # noqa: PLR2004  # would be rounded to nothing
        return "<1", step
    return f"{100 * share:.0f}", step
