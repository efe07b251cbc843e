"""What a figure is worth, in words: few queries, groups, chance, and what it owes to copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgsearch.duplicates import HASH_BITS, Cuts
from imgsearch.intervals import FEW
from imgsearch.metrics import MEASURES
from imgsearch.text import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from imgsearch.records import EvaluationReport, Leakage

FEW_QUERIES = 30  # under this the interval of a mean over all queries is wide
# A fall by more points than this is said in words.
DROP = 0.05
_SIGNS = {
    "content": "the same file",
    "score": "by the score alone",
    "picture": "the same picture by its hash",
    "mirrored": "mirrored",
}


def read_so(n_groups: int | None) -> str:
    """Say what interval and chance mean."""
    over = "queries" if n_groups is None else "groups of queries, which hang together,"
    return (
        f"The 95% interval is a bootstrap over the {over}: how far the value could move had other "
        "pictures of the same kind been asked. Chance is what a random order of the base set would "
        "reach on average, and lift how many times that the value is. Only what lies clearly above "
        "chance is owed to the pictures, and two values whose intervals overlap widely are not "
        "shown to differ."
    )


def warnings(report: EvaluationReport) -> list[str]:
    """Say plainly where the numbers rest on labels seen before, on few queries, or on copies."""
    labelled = report.n_queries - report.unlabelled
    lines = []
    if report.learned is not None:
        lines.append(
            "This index was learned from the labels of the very pictures that were asked, so these "
            "values are too good. Of pictures that were kept out when it was learned, precision at "
            f"5 was {report.learned.learned:.2%} (raw vectors: {report.learned.raw:.2%}). Ask a "
            "TEST folder of other pictures to know more."
        )
    if labelled < FEW_QUERIES:
        lines.append(
            f"Only {count(labelled, 'labelled query', 'labelled queries')}: the intervals are "
            "wide, and a difference of a few points means nothing."
        )
    elif report.n_groups is not None and report.n_groups < FEW:
        lines.append(
            f"All queries belong to {count(report.n_groups, 'group')}: the intervals are wide, "
            "and a difference of a few points means nothing."
        )
    small = sum(bool(entry["few"]) for entry in report.per_class.values())
    if small:
        verb = "has" if small == 1 else "have"
        what = "queries" if report.n_groups is None else "groups of queries"
        lines.append(
            f"{count(small, 'class', 'classes')} {verb} fewer than {FEW} {what}, marked few: "
            "the interval of such a class is wide."
        )
    if report.leakage is not None:
        lines += drops(report.overall, report.leakage)
    return lines


def drops(overall: Mapping[str, float], leakage: Leakage) -> list[str]:
    """Say which measures fall by more than 5 points without leakage."""
    lines = []
    for without, what, owed in (
        (
            leakage.without_near_duplicates,
            "near-duplicates of the query",
            "nearly the query itself",
        ),
        (leakage.without_own_group, "rows of the query's own group", "of the query's own group"),
    ):
        if without is None:
            continue
        falls = [
            f"{MEASURES[name].title} falls from {overall[name]:.2%} to {value:.2%}"
            for name, value in without.overall.items()
            if name in overall and overall[name] - value > DROP
        ]
        if falls:
            lines.append(
                f"Without {what}: {'; '.join(falls)}. So much is owed to base pictures that are "
                f"{owed}."
            )
    return lines


def explain(leakage: Leakage) -> list[str]:
    """Say how near-duplicates were told, how many were met, and what could not be looked at."""
    cuts = leakage.cuts
    rule = "the same file"
    if cuts["bits"] >= 0:
        rule += (
            f", a score from {cuts['look']:.2f} and a hash within {cuts['bits']:.0f} of "
            f"{HASH_BITS} bits (whole, cut or mirrored)"
        )
    rule += f", or a score from {cuts['score']:.3f}"
    lines = [f"A near-duplicate is {rule}."]
    if leakage.given:
        lines[0] += " These cuts were given."
    elif cuts != Cuts().to_dict():
        lines[0] += (
            " These cuts are tighter than usual: pictures of different classes are very alike here."
        )
    met = sum(leakage.signs.values())
    kinds = ", ".join(f"{_SIGNS[sign]} {n:,}" for sign, n in leakage.signs.items() if n)
    affected = leakage.without_near_duplicates.affected
    lines.append(
        f"{count(affected, 'query', 'queries')} had {count(met, 'of them', 'of them')}: {kinds}."
        if met
        else "No query had one among its best matches."
    )
    group = leakage.without_own_group
    if group is not None:
        lines.append(f"{count(group.affected, 'query', 'queries')} had a match of the own group.")
    if leakage.unreadable:
        lines.append(
            f"{count(leakage.unreadable, 'picture')} could not be opened: compared by score and "
            "sum alone."
        )
    return lines
