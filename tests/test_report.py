"""The report as people and programs read it: one page, tables for a terminal, CSV."""

from __future__ import annotations

import base64
import csv
import dataclasses
import functools
import hashlib
import io
import itertools
import json
import re
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import interior_photos
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import LABELS
from PIL import Image

from imgsearch import SearchEngine, evaluate
from imgsearch import report as reports
from imgsearch import report_page as pages
from imgsearch.embedding_map import make_map
from imgsearch.records import (
    ClassShare,
    Correspondence,
    EvaluationReport,
    Leakage,
    Match,
    Near,
    SearchResult,
    Skip,
    Without,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from conftest import Run
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab
    from rich.console import Console

    from imgsearch.report_page import Background

PHOTOS = [Path(path) for path in interior_photos.get_all_photos()]
ROOT = str(PHOTOS[0].parent)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script></style></title>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "'; alert(1) //\u2028",
)
VOID = {"meta", "link", "br", "path", "line", "rect", "use"}


# Values by hand


def result(
    query: str,
    label: str | None,
    matches: Sequence[tuple[str | None, float]],
    labels: Sequence[str],
    k: int = 5,
) -> SearchResult:
    """One query whose matches are given as (label, score); pictures are real photos."""
    found = tuple(
        Match(i + 1, row, PHOTOS[row].name, name, score)
        for i, (name, score) in enumerate(matches)
        for row in [(len(query) * 7 + i * 3) % len(PHOTOS)]
    )
    shares = []
    for name in labels:
        scores = [match.score for match in found if match.label == name]
        best = max(scores, default=0.05)
        shares.append(ClassShare(name, len(scores), len(scores) / k, best, 0))
    right = None if label is None else sum(match.label == label for match in found) / k
    wrong = None if right is None else 1 - right
    correspondence = Correspondence(right, wrong, tuple(shares))
    photo = PHOTOS[sum(map(ord, query)) % len(PHOTOS)]
    return SearchResult(query, label, k, "all", found, correspondence, file=str(photo))


def evaluation(results: Sequence[SearchResult], labels: Sequence[str]) -> EvaluationReport:
    """Derive a report from its queries, every figure in plain Python."""
    values: dict[str, list[float | None]] = {"precision_at_k": [], "top1_accuracy": [], "x_new": []}
    for one in results:
        hits = [match.label == one.label for match in one.matches]
        known = one.label is not None
        values["precision_at_k"].append(sum(hits) / one.k if known else None)
        values["top1_accuracy"].append(float(any(hits[:1])) if known else None)
        values["x_new"].append(float(any(hits)) if known else None)

    def means(rows: Sequence[int]) -> dict[str, float]:
        figures = {}
        for name, column in values.items():
            known = [value for i in rows if (value := column[i]) is not None]
            figures[name] = sum(known) / len(known) if known else float("nan")
        return figures

    def around(figures: dict[str, float]) -> dict[str, tuple[float, float]]:
        return {
            name: (max(0.0, value - 0.1), min(1.0, value + 0.1)) for name, value in figures.items()
        }

    chance = dict.fromkeys(values, 1 / len(labels))
    overall = means(range(len(results)))
    per_class: dict[str, dict[str, Any]] = {}
    matrix: list[list[float] | None] = []
    for label in labels:
        rows = [i for i, one in enumerate(results) if one.label == label]
        if not rows:
            matrix.append(None)
            continue
        figures = means(rows)
        per_class[label] = {
            "n": len(rows),
            "few": len(rows) < 10,
            **figures,
            "chance": chance,
            "intervals": around(figures),
        }
        profiles = [one.correspondence.classes for i in rows if (one := results[i]).correspondence]
        matrix.append([float(np.mean([p[j].share for p in profiles])) for j in range(len(labels))])
    return EvaluationReport(
        index="indexes/rooms",
        mode="test",
        k=5,
        n_queries=len(results),
        unlabelled=sum(one.label is None for one in results),
        base_count=1234,
        skipped=(),
        overall=overall,
        intervals=around(overall),
        chance=chance,
        per_class=per_class,
        correspondence={"labels": list(labels), "matrix": matrix},
        results=tuple(results),
        values={name: tuple(column) for name, column in values.items()},
        model="resnet50",
        weights="IMAGENET1K_V1",
        image_root=ROOT,
    )


def random_evaluation(
    n_classes: int, per_class: int, names: Sequence[str] = ()
) -> EvaluationReport:
    """Queries of every class with matches drawn at random, half of them from the own class."""
    rng = np.random.default_rng(n_classes)
    labels = [*names, *(f"class {i:02d}" for i in range(n_classes))][:n_classes]
    results = []
    for number, label in enumerate(labels * per_class):
        drawn = [label if rng.random() < 0.5 else str(rng.choice(labels)) for _ in range(5)]
        scores = sorted(rng.uniform(0.2, 0.9, 5).tolist(), reverse=True)
        pairs = list(zip(drawn, scores, strict=True))
        results.append(result(f"{label}/{number:03d}.jpg", label, pairs, labels))
    return evaluation(results, labels)


ROOMS = ("Kitchen", "Wardrobe", "Hall")
WORKED = result(
    "Wardrobe/w1.jpg",
    "Wardrobe",
    [
        ("Wardrobe", 0.91),
        ("Wardrobe", 0.9),
        ("Kitchen", 0.85),
        ("Wardrobe", 0.8),
        ("Wardrobe", 0.7),
    ],
    ROOMS,
)
STRANGER = result(
    "who.jpg",
    None,
    [("Kitchen", 0.9), ("Hall", 0.8), ("Kitchen", 0.7), ("Hall", 0.6), ("Kitchen", 0.5)],
    ROOMS,
)


@functools.cache
def jpeg(path: str) -> bytes:
    """Give a small JPEG of a real photo."""
    with Image.open(path) as photo:
        photo.draft("RGB", (160, 160))
        photo.thumbnail((96, 96))
        out = io.BytesIO()
        photo.save(out, "JPEG", quality=70)
    return out.getvalue()


def page(
    report: EvaluationReport,
    thumbnail: Callable[[str], bytes | None] = jpeg,
    max_queries: int = 200,
    background: Background | None = None,
) -> str:
    """Render with real thumbnails."""
    return pages.render_html(
        report,
        thumbnail,
        created="2026-01-02 03:04 UTC",
        version="0.1.0",
        max_queries=max_queries,
        background=background,
    )


class Page(HTMLParser):
    """A page taken apart: its elements, their attributes and their text."""

    def __init__(self, html: str) -> None:
        """Parse it whole."""
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
            self.inside.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element that closes itself."""
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        """Every element closes where it should."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text belongs to every element it stands in."""
        for tag in dict.fromkeys(self.open):
            self.inside[tag][-1] += data

    def attributes(self, name: str) -> list[str]:
        """Every value of an attribute, in the order of the page."""
        return [attrs[name] for _, attrs in self.elements if name in attrs]

    def texts(self, tag: str) -> list[str]:
        """Text of each such element, white space drawn together."""
        return [" ".join(text.split()) for text in self.inside.get(tag, [])]


# The page


def test_page_needs_nothing_from_outside() -> None:
    """All links stay inside the file, and the policy lets in only what the file itself holds."""
    html = page(random_evaluation(4, 3, HOSTILE))
    parsed = Page(html)
    for name in ("href", "src", "srcset", "action", "data", "poster"):
        assert all(value.startswith(("#", "data:")) for value in parsed.attributes(name))
    assert not re.search(r"https?://", html)
    styles = "".join(parsed.inside["style"])
    assert set(re.findall(r"url\(([^;)]*)", styles)) == {"data:image/jpeg"}
    assert "@import" not in styles
    policy = next(
        attrs["content"]
        for tag, attrs in parsed.elements
        if attrs.get("http-equiv") == "Content-Security-Policy" and tag == "meta"
    )
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    data, script = parsed.inside["script"]
    assert json.loads(data)["cells"]  # what is no script needs no leave to run
    for text in (*parsed.inside["style"], script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not parsed.attributes("style")


@pytest.mark.parametrize("report", [random_evaluation(1, 3), random_evaluation(40, 2, HOSTILE)])
def test_ids_are_unique_and_references_lead_somewhere(report: EvaluationReport) -> None:
    """No id stands twice; every #link and aria reference names an id of the page."""
    parsed = Page(page(report))
    ids = parsed.attributes("id")
    assert len(ids) == len(set(ids))
    wanted = {value[1:] for value in parsed.attributes("href") if value.startswith("#")}
    assert wanted | set(parsed.attributes("aria-labelledby")) <= set(ids)
    assert not parsed.open


def test_names_from_outside_stay_text() -> None:
    """A label, path, reason or index name that looks like markup is shown, never obeyed."""
    report = random_evaluation(len(HOSTILE), 2, HOSTILE)
    report = dataclasses.replace(
        report,
        index=HOSTILE[0],
        model=HOSTILE[1],
        skipped=tuple(Skip(name, name) for name in HOSTILE),
    )
    first = report.results[0]
    evil = dataclasses.replace(first.matches[0], path=f"a/{HOSTILE[1]}", label=HOSTILE[2])
    first = dataclasses.replace(first, matches=(evil, *first.matches[1:]))
    report = dataclasses.replace(report, results=(first, *report.results[1:]))
    html = page(report, thumbnail=lambda _: None)
    parsed = Page(html)
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("script") == 2
    assert tags.count("style") == 2
    assert "img" not in tags
    assert not [name for _, attrs in parsed.elements for name in attrs if name.startswith("on")]
    assert parsed.texts("h1") == [HOSTILE[0]]
    assert "\u2028" not in html
    shown = parsed.texts("bdi")
    assert all(name.replace("\u2028", "\\u2028") in shown for name in HOSTILE)
    assert "49" not in parsed.texts("bdi")


def test_control_characters_are_escaped() -> None:
    """A name with a bidi override, a newline or a byte that is no UTF-8 cannot rewrite the page."""
    names = ["a\u202eb", "c\nd", "e\udcffg"]
    html = page(random_evaluation(3, 1, names), thumbnail=lambda _: None)
    assert html.encode()
    assert {"a\\u202eb", "c\\nd", "e\\xffg"} <= set(Page(html).texts("bdi"))
    assert "\u202e" not in html


def test_page_says_what_was_run() -> None:
    """Index, model, base count, queries, mode, k, time, version and skips stand at the top."""
    skips = (Skip("a/broken.jpg", "cut short"), Skip("b.txt", "not a picture"))
    report = dataclasses.replace(evaluation([WORKED, STRANGER], ROOMS), skipped=skips)
    parsed = Page(page(report))
    facts = dict(zip(parsed.texts("dt"), parsed.texts("dd"), strict=True))
    assert facts == {
        "Model": "resnet50weights IMAGENET1K_V1",
        "Base set": "1,234 pictures",
        "Queries": "2 queries (1 without a label)",
        "Mode": "a test set, asked against the base set",
        "Matches per query": "k = 5",
        "When": "2026-01-02 03:04 UTC",
        "Program": "imgsearch 0.1.0",
        "Skipped": "2 pictures",
    }
    assert parsed.texts("details") == [
        "2 pictures could not be used: which, and why a/broken.jpg: cut short b.txt: not a picture"
    ]
    loo = Page(page(dataclasses.replace(report, mode="leave-one-out")))
    assert any(text.startswith("leave-one-out: each base picture") for text in loo.texts("dd"))


def test_totals_have_interval_and_chance() -> None:
    """Each measure of the report is a row: value, 95% interval, chance level, two decimals."""
    parsed = Page(page(evaluation([WORKED], ROOMS)))
    row = next(text for text in parsed.texts("tr") if text.startswith("Accuracy of correct"))
    assert row.startswith(
        "Accuracy of correct matches by correspondence to other classes (precision@k)"
    )
    assert row.endswith("80.00%70.00% to 90.00%33.33%2.40x")
    assert any(text.startswith("x_new") and "100.00%" in text for text in parsed.texts("tr"))


def test_few_queries_are_said_plainly() -> None:
    """Under 30 queries, or under 10 in a class, the page and the text say the interval is wide."""
    few, many = random_evaluation(3, 9), random_evaluation(3, 10)
    assert "Only 27 labelled queries: the intervals are wide" in page(few)
    assert "3 classes have fewer than 10 queries" in page(few)
    assert page(few).count('<span class="tag">few</span>') == 3
    assert "3 classes have fewer than 10 queries" in reports.evaluation_text(few)
    for text in (page(many), reports.evaluation_text(many)):
        assert "intervals are wide" not in text
        assert "fewer than 10 queries:" not in text
    assert '<span class="tag">' not in page(many)


def leaking(report: EvaluationReport, fall: float, group: float | None = None) -> EvaluationReport:
    """Give a report figures without leakage that are so much lower."""

    def without(less: float) -> Without:
        names = ("precision_at_k", "top1_accuracy")
        lower = {name: report.overall[name] - less for name in names}
        return Without(
            affected=2,
            rows=3,
            overall=lower,
            intervals={name: (value - 0.1, value + 0.1) for name, value in lower.items()},
            chance={"precision_at_k": 0.3},
            values={name: report.values[name] for name in names},
            per_class=dict.fromkeys(report.per_class, lower),
        )

    leakage = Leakage(
        without_near_duplicates=without(fall),
        without_own_group=None if group is None else without(group),
        cuts={"score": 0.9, "look": 0.6, "bits": 10},
        given=False,
        signs={"content": 1, "picture": 2, "mirrored": 0, "score": 0},
        found=((Near(1, 0.99, "content"),), *((),) * (len(report.results) - 1)),
        opened=12,
        unreadable=0,
    )
    return dataclasses.replace(report, leakage=leakage)


def test_three_figures_stand_side_by_side() -> None:
    """All rows, without near-duplicates and without own group: in text and page, with intervals."""
    report = leaking(evaluation([WORKED], ROOMS), 0.25, 0.04)
    due = ["precision@k", "80.00%", "70.00% to 90.00%", "55.00%", "45.00% to 65.00%", "76.00%"]
    flat = [
        re.sub(r"[()|\s]+", " ", line).strip()
        for line in reports.evaluation_text(report).splitlines()
    ]
    assert any(line.startswith(" ".join(due)) for line in flat)
    parsed = Page(page(report))
    rows = ["".join(text.split()) for text in parsed.texts("tr")]
    assert any(row.startswith("".join(due).replace(" ", "")) for row in rows)
    assert parsed.attributes("class").count("num v fall") == 2  # only what fell by more than 5
    assert "#leakage" in parsed.attributes("href")
    lead = parsed.texts("p")
    assert any("without near-duplicates 55.00% without own group 76.00%" in text for text in lead)
    one = Page(page(leaking(evaluation([WORKED], ROOMS), 0.0)))
    assert "own group" not in "".join(one.texts("th"))
    assert "#leakage" not in Page(page(evaluation([WORKED], ROOMS))).attributes("href")


@pytest.mark.parametrize(("fall", "said"), [(0.04, False), (0.06, True)])
def test_a_fall_of_more_than_five_points_is_said(fall: float, said: bool) -> None:  # noqa: FBT001
    """The sentence names what fell, from where to where; a smaller fall is left to the table."""
    report = leaking(evaluation([WORKED], ROOMS), fall)
    words = f"Precision at k falls from 80.00% to {80 - 100 * fall:.2f}%"
    for text in (reports.evaluation_text(report), page(report)):
        assert (words in text) is said
        assert "the same file 1, the same picture by its hash 2" in text


def test_groups_are_named_where_intervals_are_over_them() -> None:
    """Intervals over groups say so; few of them are said plainly, for all and for a class."""
    report = dataclasses.replace(random_evaluation(3, 20), n_groups=6)
    entries = {label: entry | {"few": True} for label, entry in report.per_class.items()}
    report = dataclasses.replace(report, per_class=entries)
    for text in (reports.evaluation_text(report), page(report)):
        assert "bootstrap over the groups of queries" in text
        assert "All queries belong to 6 groups" in text
        assert "3 classes have fewer than 10 groups of queries" in text


def cells(html: str) -> list[list[str]]:
    """Rows of the matrix: head, n and the shares."""
    grid = html[html.index('<table id="grid"') :]
    body = grid[grid.index("<tbody>") : grid.index("</tbody>")]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][ >].*?</t[hd]>", row)]
        for row in body.strip().split("</tr>")[:-1]
    ]


def test_matrix_shows_shares_and_a_dash_where_nothing_was_asked() -> None:
    """The worked case: a Wardrobe query at 80% Wardrobe, 20% Kitchen; other rows are dashes."""
    html = page(evaluation([WORKED], ROOMS))
    dashes = ["\N{EN DASH}"] * 3
    assert [row[1:] for row in cells(html)] == [
        ["0", *dashes],
        ["1", "20.00", "80.00", "0.00"],
        ["0", *dashes],
    ]
    assert "A dash stands where no query has that label." in html


def test_one_class_and_forty() -> None:
    """One class is a matrix of one cell; forty have whole percents, each row with its n."""
    only = result("a.jpg", "A", [("A", 0.9)] * 5, ["A"])
    assert cells(page(evaluation([only], ["A"]))) == [["A", "1", "100.00"]]
    big = cells(page(random_evaluation(40, 3)))
    assert len(big) == 40
    for row in big:
        assert row[1] == "3"
        assert len(row) == 42
        assert all(re.fullmatch(r"\d{1,3}|<1", text) for text in row[2:])


def test_tiny_shares_do_not_vanish() -> None:
    """A share that would be rounded to 0 reads "<1" and keeps a colour."""
    assert pages._cell(0.001, fine=False) == ("<1", 1)
    assert pages._cell(1e-12, fine=True) == ("0.00", 1)
    assert pages._cell(0.0, fine=False) == ("0", 0)
    assert pages._cell(1.0, fine=True) == ("100.00", 10)
    assert pages._cell(0.3, fine=True) == ("30.00", 3)


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb, as WCAG defines it."""
    digits = colour.lstrip("#")
    digits = "".join(d * 2 for d in digits) if len(digits) == 3 else digits
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    ]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_on_every_colour() -> None:
    """Contrast is at least 4.5:1 in every heat cell, and for text on page and card, both modes."""
    style = Page(page(evaluation([WORKED], ROOMS))).inside["style"][0]
    heat = re.findall(r"\.h(\d+)\{background:(#\w+);color:(#\w+)\}", style)
    assert [int(step) for step, _, _ in heat] == [*range(1, 11)] * 2
    assert min(contrast(paper, ink) for _, paper, ink in heat) >= 4.5
    modes = [dict(re.findall(r"--(\w+):(#\w+)", rule)) for rule in style.split("--page")[1:3]]
    pages = re.findall(r"--page:(#\w+)", style)
    for mode, paper in zip(modes, pages, strict=True):
        for ink, under in itertools.product(("ink", "soft", "blue"), ("card", "sunk")):
            assert contrast(mode[ink], mode[under]) >= 4.5
            assert contrast(mode[ink], paper) >= 4.5
        assert contrast(mode["on"], mode["right"]) >= 3
        assert contrast(mode["on"], mode["wrong"]) >= 3


def test_queries_come_worst_first() -> None:
    """Lowest accuracy, then lowest margin, then name; those without a label last."""
    right, wrong = ("Kitchen", 0.5), ("Hall", 0.6)
    near = [("Hall", 0.9), *[right] * 2, *[wrong] * 2]
    report = evaluation(
        [
            STRANGER,
            WORKED,
            result("c.jpg", "Kitchen", [right] * 2 + [wrong] * 3, ROOMS),
            result("b.jpg", "Kitchen", [right] * 2 + [wrong] * 3, ROOMS),
            result("d.jpg", "Kitchen", near, ROOMS),
            result("e.jpg", "Kitchen", [wrong] * 5, ROOMS),
        ],
        ROOMS,
    )
    parsed = Page(page(report))
    names = ["e.jpg", "d.jpg", "b.jpg", "c.jpg", "Wardrobe/w1.jpg", "who.jpg"]
    assert parsed.texts("h3") == names
    assert "margin -0.400" in parsed.texts("article")[1]


def test_query_shows_its_matches() -> None:
    """Rank, label, score with three decimals, mark, distance in the title, accuracy, shares."""
    parsed = Page(page(evaluation([WORKED], ROOMS)))
    text = parsed.texts("article")[0]
    assert "Wardrobe 80.00%, Kitchen 20.00%" in text
    assert "80.00% accuracy, 4 of 5 · margin +0.060" in text
    assert "Kitchen 0.8503 · " in text
    assert parsed.texts("li")[-1].startswith("Wardrobe 0.700")
    titles = [title for title in parsed.attributes("title") if title.startswith("distance")]
    assert titles[2] == f"distance 0.150 · {WORKED.matches[2].path}"
    marks = [label for label in parsed.attributes("aria-label") if label.endswith(" class")]
    assert marks == ["right class"] * 2 + ["wrong class"] + ["right class"] * 2


def test_queries_without_a_label_have_a_profile_and_no_mark() -> None:
    """Such a query shows its class profile; with none labelled there is no accuracy at all."""
    html = page(evaluation([STRANGER], ROOMS))
    parsed = Page(html)
    assert "Kitchen 60.00%, Hall 40.00%" in parsed.texts("article")[0]
    assert not [label for label in parsed.attributes("aria-label") if label.endswith(" class")]
    assert "there is no accuracy to report" in html
    assert 'id="grid"' not in html
    assert "nan" not in "".join(parsed.texts("main"))
    assert "no accuracy to report" in reports.evaluation_text(evaluation([STRANGER], ROOMS))


def test_fewer_matches_than_k() -> None:
    """Accuracy is divided by k even where fewer matches came, and none at all is said."""
    short = result("short.jpg", "Hall", [("Hall", 0.9), ("Hall", 0.8)], ROOMS)
    none = result("none.jpg", "Hall", [], ROOMS)
    parsed = Page(page(evaluation([short, none], ROOMS)))
    first, second = parsed.texts("article")
    assert "No picture of the base set matched." in first
    assert "0.00% accuracy, 0 of 5" in first
    assert "40.00% accuracy, 2 of 5" in second


def test_most_queries_can_be_left_out() -> None:
    """At most max_queries are shown, the worst, and the page says how many of how many."""
    report = random_evaluation(4, 5)
    parsed = Page(page(report, max_queries=7))
    assert len(parsed.texts("article")) == 7
    assert "Shown are 7 of 20 queries." in " ".join(parsed.texts("p"))
    everything = Page(page(report))
    assert everything.texts("h3")[:7] == parsed.texts("h3")
    assert "All 20 queries are shown." in " ".join(everything.texts("p"))
    assert Page(page(report, max_queries=0)).texts("article") == []


def test_each_picture_is_embedded_once() -> None:
    """A picture that stands in many places is asked for once and stored once."""
    report = random_evaluation(5, 8)
    asked: list[str] = []

    def counting(file: str) -> bytes | None:
        asked.append(file)
        return jpeg(file)

    html = page(report, thumbnail=counting)
    assert len(asked) == len(set(asked))
    rules = re.findall(r"\.p\d+\{background-image:url\(data:image/jpeg;base64,([^)]+)\)\}", html)
    assert len(rules) == len(set(rules)) <= len(PHOTOS)
    shown = {jpeg(str(path)) for path in PHOTOS}
    assert all(base64.b64decode(rule) in shown for rule in rules)
    assert len(re.findall(r'class="pic p\d+', html)) == 40 * 6


def test_a_query_that_is_a_base_row_shares_its_picture() -> None:
    """In leave-one-out query and match of one file share a picture; the query goes by its path."""
    own = PHOTOS[WORKED.matches[0].row]
    asked: list[str] = []

    def counting(file: str) -> bytes | None:
        asked.append(file)
        return jpeg(file)

    file = f"{ROOT}/./{own.name}"
    one = dataclasses.replace(WORKED, query="row:7", file=file, matches=WORKED.matches[:1])
    report = dataclasses.replace(evaluation([one], ROOMS), mode="leave-one-out")
    parsed = Page(page(report, thumbnail=counting))
    assert asked == [str(own)]
    assert parsed.texts("h3") == [own.name]
    assert parsed.texts("figcaption")[0] == "Query row:7Wardrobe"


def test_missing_pictures_have_a_placeholder() -> None:
    """Where a picture cannot be had any more its place says so and the page still holds."""
    html = page(evaluation([WORKED], ROOMS), thumbnail=lambda _: None)
    assert html.count("no picture<") == 6
    assert "data:image/jpeg" not in html
    assert f"no picture: Match 1: {WORKED.matches[0].path}" in Page(html).texts("article")[0]


def test_figures_that_do_not_exist_are_dashes() -> None:
    """A measure without a value, interval or chance shows a dash, never nan or None."""
    report = evaluation([WORKED], ROOMS)
    gone = float("nan")
    report = dataclasses.replace(
        report,
        overall=report.overall | {"x_new": gone},
        intervals=report.intervals | {"x_new": (gone, gone)},
        chance={"precision_at_k": 1 / 3},
    )
    for text in (" ".join(Page(page(report)).texts("main")), reports.evaluation_text(report)):
        assert not re.search(r"\b(nan|None)\b", text)
        assert "\N{EN DASH}" in text


# Text


def printed(shown: Sequence[Any], console: Console) -> list[str]:
    """Lines that a console writes into its file."""
    for one in shown:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


class Terminal(io.StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


LONG = dataclasses.replace(
    WORKED,
    query=f"Wardrobe/{'a-very-long-name-' * 8}[red]x[/red].jpg",
    matches=(dataclasses.replace(WORKED.matches[0], path="p/" + "o" * 200), *WORKED.matches[1:]),
)


def test_piped_table_is_whole_and_plain() -> None:
    """In a pipe each match is one line, names uncut, without colour codes; columns as promised."""
    lines = printed(reports.search_table([LONG]), reports.console(io.StringIO()))
    heads = [head.strip() for head in lines[0].split("|")]
    assert heads == [
        "Rank", "Query label", "Query", "Base label", "Base image", "Score", "Distance",
    ]  # fmt: skip
    assert len(lines) == 2 + 5 + 1
    first = [cell.strip() for cell in lines[2].split("|")]
    assert first == [
        "1", "Wardrobe", LONG.query, "Wardrobe", LONG.matches[0].path, "0.9100", "0.0900",
    ]  # fmt: skip
    assert lines[-1] == ("Accuracy of correct matches by correspondence to other classes: 80.00%")
    assert "\x1b" not in "".join(lines)


def test_terminal_table_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 80 columns no line is longer, long names are folded and nothing of them is lost."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    lines = printed(reports.search_table([LONG]), reports.console(Terminal()))
    text = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert max(len(line) for line in text) <= 80
    rows = [line.split("|") for line in text[:-1] if line.count("|") == 6]
    first = list(itertools.takewhile(lambda row: row[0].strip() != "2", rows[1:]))
    first = first[next(i for i, row in enumerate(first) if row[0].strip() == "1") :]
    assert "".join(row[2].strip() for row in first) == LONG.query
    assert "".join(row[4].strip() for row in first) == LONG.matches[0].path
    assert [row[5].strip() for row in first if row[5].strip()] == ["0.9100"]


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours, with NO_COLOR it gets none."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    green = "\x1b[32m"
    shown = reports.search_table([WORKED])
    assert green in "".join(printed(shown, reports.console(Terminal())))
    monkeypatch.setenv("NO_COLOR", "1")
    assert green not in "".join(printed(shown, reports.console(Terminal())))


def test_table_of_other_queries() -> None:
    """Without a label: a class profile. Without matches: a sentence. At scope same: no accuracy."""
    scoped = dataclasses.replace(WORKED, scope="same", correspondence=None)
    empty = dataclasses.replace(WORKED, matches=(), correspondence=None)
    pairs = [(STRANGER, "Class profile: Kitchen 60.00%, Hall 40.00%")]
    pairs.append((empty, "No matches for Wardrobe/w1.jpg."))
    for one, last in pairs:
        assert printed(reports.search_table([one]), reports.console(io.StringIO()))[-1] == last
    lines = printed(reports.search_table([scoped, scoped]), reports.console(io.StringIO()))
    assert len(lines) == 2 * 7 + 1
    assert "Accuracy" not in "".join(lines)
    assert reports.search_table([]) == []


def test_copies_have_no_negative_zero() -> None:
    """A score one float32 step above 1 has the distance 0.0000, not -0.0000."""
    over = float(np.nextafter(np.float32(1), np.float32(2)))
    copy = dataclasses.replace(
        WORKED, matches=(dataclasses.replace(WORKED.matches[0], score=over),)
    )
    line = printed(reports.search_table([copy]), reports.console(io.StringIO()))[2]
    assert line.endswith("| 1.0000 |   0.0000")
    assert "-0.000" not in page(evaluation([copy], ROOMS))


def test_csv_reads_back_as_it_was() -> None:
    """Names with newline, quote, comma or a leading = and full-precision numbers come back."""
    names = ["a\nb.jpg", 'say "hi", x.jpg', "=1+1.jpg", "c\rd.jpg", " space .jpg"]
    matches = tuple(
        Match(i + 1, i, name, None if i == 1 else f"={name}", float(np.float32(1 / (i + 3))))
        for i, name in enumerate(names)
    )
    one = SearchResult("q\r\n.jpg", None, 5, "all", matches, None)
    text = reports.search_csv([one, WORKED])
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert text.startswith("query,query_label,rank,row,path,label,score,distance,probability\n")
    assert len(rows) == 10
    for row, match in zip(rows, matches, strict=False):
        assert row["query"] == "q\r\n.jpg"
        assert row["query_label"] == ""
        assert (row["path"], row["label"]) == (match.path, match.label or "")
        assert (int(row["rank"]), int(row["row"])) == (match.rank, match.row)
        assert (float(row["score"]), float(row["distance"])) == (match.score, match.distance)
    assert rows[5]["query_label"] == "Wardrobe"
    assert reports.search_csv([dataclasses.replace(one, query="x\udcff")]).encode()


def test_evaluation_text_has_totals_matrix_and_classes() -> None:
    """Totals with interval and chance, the matrix in percent, a line per class, 80 columns."""
    report = evaluation([WORKED, STRANGER], ROOMS)
    text = reports.evaluation_text(report, width=80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "Asked: 2 queries (1 without a label), 1,234 base pictures" in lines
    flat = [re.sub(r"\s*\|\s*", "|", line).strip() for line in lines]
    assert any(line.endswith("|80.00%|70.00% to 90.00%|33.33%|2.40x") for line in flat)
    assert "Query class|n|Kitchen|Wardrobe|Hall" in flat
    assert "Kitchen|0|-|-|-" in flat
    assert "Wardrobe|1|20.00|80.00|0.00" in flat
    assert "Wardrobe|1 few|80.00%|70.00% to 90.00%|33.33%|100.00%" in flat
    assert not any(line != line.rstrip() for line in lines)


def test_evaluation_text_with_many_classes_names_the_worst_confusion() -> None:
    """With more than 12 classes a row has its own share and the class most often found instead."""
    labels = [f"c{i:02d}" for i in range(13)]
    found = [("c00", 0.9), ("c05", 0.8), ("c05", 0.7), ("c07", 0.6), ("c00", 0.5)]
    report = evaluation([result("a.jpg", "c00", found, labels)], labels)
    flat = [
        re.sub(r"\s*\|\s*", "|", line).strip()
        for line in reports.evaluation_text(report, width=80).splitlines()
    ]
    assert "c00|1|40.00%|c05|40.00%" in flat
    assert "c01|0|-|-|-" in flat
    narrow = reports.evaluation_text(random_evaluation(11, 1), width=60)
    assert "Most often instead" in narrow
    assert max(map(len, narrow.splitlines())) <= 60
    assert "Most often instead" not in reports.evaluation_text(random_evaluation(11, 1))


# What a page may hold


def test_page_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more pictures than the page may have; what has none says so, and each cell has some."""
    monkeypatch.setattr(pages, "MOST_PICTURES", 30)
    monkeypatch.setattr(pages, "_FOR_QUERIES", 10)
    monkeypatch.setattr(pages, "_FOR_CELLS", 25)
    report = random_evaluation(4, 30)
    parsed = Page(page(report))
    assert len(re.findall(r"\.p\d+\{", parsed.inside["style"][1])) <= 30
    assert len(parsed.texts("article")) < 10
    assert "Shown are" in " ".join(parsed.texts("p"))
    data = json.loads(parsed.inside["script"][0])
    assert len(data["cells"]) == 16
    for queries, matches, shown in data["cells"].values():
        assert 1 <= len(shown) <= queries <= matches
    few = json.loads(Page(page(random_evaluation(4, 3))).inside["script"][0])
    assert all(len(shown) == queries for queries, _, shown in few["cells"].values())


def test_cells_hold_the_worst_queries_first() -> None:
    """Behind a cell are all its queries by number, and the worst of them by precision."""
    report = random_evaluation(3, 60)
    parsed = Page(page(report))
    data = json.loads(parsed.inside["script"][0])
    labels, things = report.correspondence["labels"], data["things"]
    for at, (queries, matches, shown) in data["cells"].items():
        own, other = (labels[int(i)] for i in at.split(","))
        behind = [
            one
            for one in report.results
            if one.label == own and any(match.label == other for match in one.matches)
        ]
        assert queries == len(behind)
        assert matches == sum(match.label == other for one in behind for match in one.matches)
        accuracies = [accuracy for _, accuracy, _, _ in shown]
        assert accuracies == sorted(accuracies)
        worst = min(one.correspondence.accuracy or 0 for one in behind if one.correspondence)
        assert accuracies[0] == worst
        for query, _, number, found in shown:
            (one,) = (one for one in behind if one.query == things["name"][query])
            due = [match for match in one.matches if match.label == other]
            assert number == len(due)
            assert [rank for _, rank, _ in found] == [match.rank for match in due[:4]]


def test_very_many_classes_have_a_list_instead_of_a_matrix() -> None:
    """Of 70 classes the pairs that are confused most are listed, the largest share first."""
    report = random_evaluation(70, 2)
    html = page(report)
    parsed = Page(html)
    assert 'id="grid"' not in html
    rows = re.findall(r'class="num pick" data-i="(\d+)" data-j="(\d+)">([\d.]+)%', html)
    shares = [float(share) for _, _, share in rows]
    assert shares == sorted(shares, reverse=True)
    matrix = report.correspondence["matrix"]
    assert all(f"{100 * matrix[int(i)][int(j)]:.2f}" == share and i != j for i, j, share in rows)
    cells = json.loads(parsed.inside["script"][0])["cells"]
    assert set(cells) == {f"{i},{j}" for i, j, _ in rows}


def test_page_states_its_own_size() -> None:
    """The last lines say how large the file is, and how many pictures are in it."""
    html = page(random_evaluation(5, 8))
    size = len(html.encode()) / 1e6
    rules = len(re.findall(r"\.p\d+\{background-image", html))
    (line,) = (text for text in Page(html).texts("p") if "needs nothing from the network" in text)
    assert f"It has {size:.1f} MB, with {rules} pictures in it" in line


# In a browser


def test_page_in_a_browser(browser: Browser, tmp_path: Path) -> None:
    """Chromium shows it offline, without an error, without sideways scrolling, by keyboard too."""
    report = random_evaluation(14, 3, (*HOSTILE, "A name that is very long " * 6, "غرفة", "居間"))
    file = tmp_path / "report.html"
    file.write_text(page(report), encoding="utf-8")
    labels = report.correspondence["labels"]
    asked: list[str] = []
    troubles: list[str] = []
    for scheme, width in itertools.product(("light", "dark"), (1280, 360)):
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        tab.on("console", lambda message: troubles.append(message.text))
        tab.on("pageerror", lambda error: troubles.append(str(error)))
        tab.on("dialog", lambda dialog: troubles.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(file.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        dark = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(18, 20, 23)") == (scheme == "dark")
        assert tab.locator("article:visible").count() == 42
        # A cell by keyboard: into the matrix, one step right along the row, Enter.
        first = tab.locator("#grid button[tabindex='0']")
        first.focus()
        tab.keyboard.press("ArrowRight")
        tab.keyboard.press("Enter")
        column = int(tab.evaluate("document.querySelector('#grid [tabindex=\"0\"]').dataset.c"))
        fits = [
            one
            for one in report.results
            if one.label == HOSTILE[0] and labels[column] in {match.label for match in one.matches}
        ]
        # The pictures behind it: each such query, with its matches of that class.
        assert tab.locator("#behind-list > li").count() == len(fits) > 0
        found = sum(match.label == labels[column] for one in fits for match in one.matches)
        assert tab.locator("#behind-list ol .pic").count() == found
        assert tab.locator("#behind .pic.none").count() == 0
        tab.keyboard.press("Escape")
        assert tab.locator("#behind").is_hidden()
        assert tab.evaluate("document.activeElement.closest('#grid') !== null")
        # The same queries in the list below.
        tab.keyboard.press("Enter")
        tab.get_by_role("button", name="List these among the queries below").press("Enter")
        assert tab.evaluate("[own.value, hit.value]") == ["0", str(column)]
        assert tab.locator("article:visible").count() == len(fits)
        state = tab.locator("#state").inner_text()
        assert state == f"{len(fits)} of the 42 queries on this page fit."
        tab.get_by_role("button", name="Show all").press("Enter")
        assert tab.locator("article:visible").count() == 42
        # A column sorts both ways.
        head = tab.locator("th[scope=col]:has(button.sort)").nth(2)
        for order in ("descending", "ascending"):
            head.locator("button").press("Enter")
            assert head.get_attribute("aria-sort") == order
            values = tab.evaluate(
                "[...document.querySelectorAll('.sortable tbody tr')]"
                ".map(row => +row.cells[2].dataset.value)"
            )
            assert values == sorted(values, reverse=order == "descending")
        tab.close()
    assert troubles == []
    assert {url for url in asked if not url.startswith("data:")} == {file.as_uri()}


@pytest.fixture(scope="module")
def written(
    imgsearch: Callable[..., Run],
    rooms: Path,
    small_photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, str]:
    """Evaluate real photos by the command; return the page and what was said beside the result."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    labels = ("--labels", LABELS, "--split", "test")
    run = imgsearch("evaluate", rooms, small_photos, *labels, "--report", file)
    assert run.code == 0, run.err
    return file, run.err


@contextmanager
def offline(browser: Browser, file: Path, **options: Any) -> Iterator[Tab]:  # noqa: ANN401
    """Open a page without a network; an error, a warning or a request fails the test."""
    troubles: list[str] = []
    context = browser.new_context(
        **{"offline": True, "viewport": {"width": 1280, "height": 900}, **options}
    )
    tab = context.new_page()
    tab.on("console", lambda message: troubles.append(message.text))
    tab.on("pageerror", lambda error: troubles.append(str(error)))
    tab.on("request", lambda request: troubles.append(request.url))
    tab.goto(file.as_uri())
    yield tab
    context.close()
    assert [one for one in troubles if one != file.as_uri() and not one.startswith("data:")] == []


def test_command_tells_what_it_wrote(written: tuple[Path, str], rooms: Path) -> None:
    """Standard error and the page tell the size of the file; the page says how it was made."""
    file, said = written
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    assert said.endswith(f"the report is in {file} ({size})\n")
    parsed = Page(file.read_text(encoding="utf-8"))
    assert any(f"It has {size}" in text for text in parsed.texts("p"))
    assert any(f"imgsearch evaluate {rooms}" in text for text in parsed.texts("code"))
    facts = dict(zip(parsed.texts("dt"), parsed.texts("dd"), strict=True))
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\d \d\d:\d\d UTC by imgsearch-faiss 0.1.0: 1,280 numbers a picture, fp32",
        facts["Index made"],
    )


def test_audit_of_the_page_is_that_of_the_command(
    written: tuple[Path, str], imgsearch: Callable[..., Run], rooms: Path, small_photos: Path
) -> None:
    """Every list of `imgsearch audit` stands in the page with its full count."""
    labels = ("--labels", LABELS, "--split", "test")
    found = imgsearch("audit", rooms, small_photos, *labels, "--json").json
    text = " ".join(Page(written[0].read_text(encoding="utf-8")).texts("main"))
    assert found["label_issues"]
    for issue in found["label_issues"][:40]:
        assert f"row {issue['row']} · {issue['path'].rpartition('/')[2]}" in text
        assert f"{issue['suggested']} {issue['confidence']:.2%} likely" in text
    assert f"{len(found['label_issues'])} of {found['judged']} pictures that could be" in text
    assert f"{len(found['leaks'])} of {found['tested']} test pictures in the base set" in text
    for title in ("Near-duplicates", "Outliers", "Hubs", "Overlapping classes"):
        assert title in text
    assert "leave out" not in text


def test_every_link_and_every_cell_works_offline(
    browser: Browser, written: tuple[Path, str]
) -> None:
    """Links lead to what is there; each cell opens its pictures, and Escape closes them."""
    with offline(browser, written[0]) as tab:
        links = tab.locator("nav a")
        assert links.count() == 7
        for link in links.all():
            link.click()
            target = tab.locator(str(link.get_attribute("href")))
            assert target.locator("h2").first.is_visible()
        cells = tab.locator("#grid td button")
        assert cells.count() > 8
        for cell in cells.all():
            cell.press("Enter")
            assert tab.locator("#behind-list > li").count() > 0
            assert tab.locator("#behind .pic").count() > 1
            assert tab.locator("#behind .pic.none").count() == 0
            tab.keyboard.press("Escape")
            assert tab.locator("#behind").is_hidden()


def test_points_of_the_map_show_their_picture(browser: Browser, written: tuple[Path, str]) -> None:
    """Base rows and test pictures are on the map; pointing at one, or a key, shows it."""
    with offline(browser, written[0]) as tab:
        data = json.loads(tab.locator("#data").text_content() or "")
        points, things = data["map"], data["things"]
        total = len(points["x"])
        assert 0 < points["base"] < total
        assert [row >= 0 for row in things["row"][:total]] == [
            i < points["base"] for i in range(total)
        ]
        canvas, panel = tab.locator("#plot"), tab.locator("#point")
        canvas.scroll_into_view_if_needed()
        box = canvas.evaluate(
            "c => { const b = c.getBoundingClientRect(); return [b.left + c.clientLeft, "
            "b.top + c.clientTop, c.clientWidth, c.clientHeight]; }"
        )
        wide, high = max(points["x"]), max(points["y"])
        unit = min((box[2] - 32) / wide, (box[3] - 32) / high)
        left, top = (box[2] - unit * wide) / 2, (box[3] - unit * high) / 2
        # The outermost points have no other one upon them.
        for i in (points["x"].index(0), points["x"].index(wide), points["y"].index(0)):
            tab.mouse.move(
                box[0] + left + unit * points["x"][i], box[1] + top + unit * points["y"][i]
            )
            assert things["name"][i] in panel.inner_text()
            assert panel.locator(f".pic.p{things['pic'][i]}").count() == 1
        tab.mouse.move(0, 0)
        assert "Point at the map" in panel.inner_text()
        canvas.focus()
        seen = set()
        for _ in range(total):
            tab.keyboard.press("n")
            seen.add(panel.inner_text())
            assert panel.locator(".pic:not(.none)").count() == 1
        assert len(seen) == total
        assert sum("test picture" in text for text in seen) == total - points["base"]
        before = panel.inner_text()
        tab.keyboard.press("ArrowLeft")
        tab.keyboard.press("ArrowUp")
        assert panel.inner_text() != before
        # What is picked out is all that the keys find.
        bit, text, number = points["picks"][0]
        assert text == "labels that may be wrong"
        tab.select_option("#pickout", str(bit))
        names = set()
        for _ in range(number + 1):
            tab.locator("#mapnext").click()
            names.add(panel.inner_text())
        assert len(names) == number
        assert all("Its label may be wrong: rather" in name for name in names)
        canvas.focus()
        tab.keyboard.press("Escape")
        assert "Point at the map" in panel.inner_text()


def test_a_picture_that_is_not_embedded_is_named(
    browser: Browser, rooms: Path, tmp_path: Path
) -> None:
    """A point without its picture shows a placeholder, says so, and tells the path."""
    with SearchEngine.open(rooms) as engine:
        report = evaluate(engine)
        items = engine.index.items
        rows = list(zip(items.column("path"), items.column("label"), strict=True))
        vectors = engine.index.vectors.rows
        layout = make_map(vectors, vectors[:0], "pca")
    file = tmp_path / "r.html"
    known = pages.Background(rows=rows, layout=layout)
    file.write_text(page(report, lambda _: None, background=known), encoding="utf-8")
    with offline(browser, file) as tab:
        tab.locator("#plot").focus()
        tab.keyboard.press("n")
        text = tab.locator("#point").inner_text()
        assert "This picture is not embedded in the page." in text
        assert rows[0][0] in text
        tab.locator("#grid td button").first.click()
        assert tab.locator("#behind .pic.none").count() > 1


def test_page_without_a_script_has_its_figures(browser: Browser, written: tuple[Path, str]) -> None:
    """Totals, matrix, classes, worst queries and audit are there; the map says what it lacks."""
    with offline(browser, written[0], java_script_enabled=False) as tab:
        for part in ("#totals table", "#grid", "#classes table", "article", "#audit .card"):
            assert tab.locator(part).first.is_visible()
        assert "drawn by a script" in tab.locator("#map").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    browser: Browser, written: tuple[Path, str], scheme: str
) -> None:
    """Not in the page, not behind a cell, not on the map, not on paper, not on a phone."""
    axe = Axe()

    def check(tab: Tab) -> None:
        assert [
            (fault["id"], [node["html"] for node in fault["nodes"]])
            for fault in axe.run(tab).response["violations"]
            if fault["impact"] in {"serious", "critical"}
        ] == []

    with offline(browser, written[0], color_scheme=scheme) as tab:
        check(tab)
        tab.locator("#grid td button").first.click()
        check(tab)
        tab.keyboard.press("Escape")
        tab.locator("#plot").focus()
        tab.keyboard.press("n")
        tab.select_option("#pickout", index=1)
        check(tab)
        tab.emulate_media(media="print")
        check(tab)
        tab.emulate_media(media="screen")
        tab.set_viewport_size({"width": 360, "height": 740})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        check(tab)


def test_pairs_of_many_classes_open_their_pictures(browser: Browser, tmp_path: Path) -> None:
    """Where a list stands in place of the matrix, its shares open what is behind them, too."""
    file = tmp_path / "many.html"
    file.write_text(page(random_evaluation(70, 2, HOSTILE)), encoding="utf-8")
    with offline(browser, file) as tab:
        buttons = tab.locator(".pairs button")
        assert buttons.count() > 70
        for button in buttons.all()[:5]:
            button.press("Enter")
            assert tab.locator("#behind .pic:not(.none)").count() > 1
            tab.keyboard.press("Escape")
            assert tab.locator("#behind").is_hidden()
        found = Axe().run(tab).response["violations"]
        assert [one["id"] for one in found if one["impact"] in {"serious", "critical"}] == []
