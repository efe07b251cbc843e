"""An audit finds what was planted: wrong labels, copies, leaks, strangers, hubs, mixed classes."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import into_classes
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from test_calibration import import_rows

from imgsearch import SearchEngine, audit, build_index
from imgsearch.asking import label_rows
from imgsearch.audit_report import audit_html, audit_text
from imgsearch.errors import QueryError
from imgsearch.neighbors import Kin, Neighborhood, find_neighbors
from imgsearch.records import AuditReport, ImageItem, LabelIssue
from imgsearch.suspects import Opinion, _Linear, judge_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt
    from conftest import Run
    from playwright.sync_api import Browser, Page

MODEL = "efficientnet-lite2"


# Wrong labels


@pytest.fixture(scope="module")
def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return real handwritten digits as vectors of 64 pixels, and what they are."""
    pixels, labels = load_digits(return_X_y=True)
    return pixels.astype(np.float32), labels


def planted(
    labels: npt.NDArray[np.int64], share: float, seed: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Give a share of the rows another label; return all labels and which are wrong."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(labels), round(share * len(labels)), replace=False)
    changed, wrong = labels.copy(), np.zeros(len(labels), bool)
    changed[rows] = (labels[rows] + rng.integers(1, 10, len(rows))) % 10
    wrong[rows] = True
    return changed, wrong


def opinion_of(
    rows: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], kin: Kin | None = None
) -> Opinion:
    """Judge labels of vectors by their neighbors in plain numpy."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    near = neighborhood(unit, kin)
    nobody = Kin.of([None] * len(rows), [None] * len(rows))
    ids = labels.astype(np.int32)
    return judge_labels(unit, ids, int(labels.max()) + 1, near, kin or nobody)


def neighborhood(unit: npt.NDArray[np.float32], kin: Kin | None, width: int = 64) -> Neighborhood:
    """Sort all products; kin is not fresh."""
    scores = unit @ unit.T
    np.fill_diagonal(scores, -2)
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(width, len(unit) - 1)]
    asked = np.arange(len(unit))
    fresh = np.ones(order.shape, bool)
    if kin is not None:
        fresh = ~kin.tied(asked[:, None], order)
    return Neighborhood(asked, order, np.take_along_axis(scores, order, 1), fresh, 2.0)


@pytest.mark.parametrize(("share", "least"), [(0.05, 0.98), (0.2, 0.99)])
def test_planted_errors_stand_first(
    digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]], share: float, least: float
) -> None:
    """The average precision of the ranking is as high as on no data by luck (that is the share)."""
    rows, labels = digits
    changed, wrong = planted(labels, share)
    opinion = opinion_of(rows, changed)
    hits = wrong[opinion.rows[opinion.worst()]]
    precision = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
    assert precision > least
    assert wrong[opinion.rows[opinion.suspect]].mean() > 0.9
    assert opinion.suspect[wrong[opinion.rows]].mean() > 0.75


def test_ridge_leaves_rows_out_as_if_it_had_never_seen_them(
    digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> None:
    """The closed form is that of fitting again without the row, or without its whole family."""
    rows, labels = digits[0][:90], digits[1][:90].astype(np.int32)
    families = np.arange(90)
    families[40:43] = 40
    for dim in (64, 200):  # more rows than numbers, and fewer
        wide = np.pad(rows, ((0, 0), (0, dim - 64))) + np.linspace(0, 1, dim, dtype=np.float32)
        if dim > 64:
            wide[:, 64:] += np.random.default_rng(0).normal(0, 3, (90, dim - 64)).astype(np.float32)
        everyone = np.arange(90)
        linear = _Linear(wide, everyone, labels, 10)
        linear.ridge = 50.0
        found = linear.left_out(everyone, labels, families)
        for row in (0, 17, 41, 89):
            rest = families != families[row]
            mean = wide[rest].mean(axis=0)
            centred, truth = wide[rest] - mean, np.eye(10)[labels[rest]]
            weights = np.linalg.solve(
                centred.T @ centred + 50.0 * np.eye(dim), centred.T @ (truth - truth.mean(axis=0))
            )
            expected = (wide[row] - mean) @ weights + truth.mean(axis=0)
            assert np.abs(found[row] - expected).max() < 2e-3


def test_copies_of_a_wrong_label_do_not_vouch_for_it(
    digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> None:
    """A digit that is there eleven times as the same file, each time as a 3, is suspected."""
    rows, labels = digits[0][:600], digits[1][:600]
    eights = np.flatnonzero(labels == 8)[:1]
    many = np.concatenate([rows, np.repeat(rows[eights], 10, axis=0)])
    wrong = np.concatenate([labels, np.full(10, 3)])
    wrong[eights] = 3
    content: list[str | None] = [f"{i:064x}" for i in range(610)]
    content[600:] = [content[eights[0]]] * 10
    kin = Kin.of(content, [None] * 610)
    opinion = opinion_of(many, wrong, kin)
    assert opinion.suspect[np.isin(opinion.rows, [eights[0], *range(600, 610)])].all()
    believed = opinion_of(many, wrong)
    assert not believed.suspect[believed.rows == eights[0]].any()


@pytest.mark.parametrize("labels", [["a"] * 30, [""] * 30, [f"c{i}" for i in range(30)]])
def test_nothing_to_judge(tmp_path: Path, labels: list[str]) -> None:
    """One class, no labels, or a class for each row: there is nothing to hold a label against."""
    rows = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    with SearchEngine.open(import_rows(tmp_path, rows, labels)) as engine:
        found = audit(engine)
    assert (found.judged, found.label_issues) == (0, ())


@pytest.fixture(scope="module")
def digits_report(
    tmp_path_factory: pytest.TempPathFactory,
    digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> tuple[Path, AuditReport, npt.NDArray[np.bool_]]:
    """Audit an index of digits, a tenth of which have a wrong label."""
    rows, labels = digits
    changed, wrong = planted(labels, 0.1)
    index = import_rows(tmp_path_factory.mktemp("digits"), rows, changed)
    with SearchEngine.open(index) as engine:
        return index, audit(engine), wrong


def test_label_issues_keep_the_contract(
    digits_report: tuple[Path, AuditReport, npt.NDArray[np.bool_]],
) -> None:
    """Worst first, each row once, another label suggested, shown by rows that have that label."""
    index, report, wrong = digits_report
    issues = report.label_issues
    assert len(issues) > 100
    assert len({issue.row for issue in issues}) == len(issues)
    assert [issue.own for issue in issues] == sorted(issue.own for issue in issues)
    assert wrong[[issue.row for issue in issues[:100]]].mean() > 0.97
    with SearchEngine.open(index) as engine:
        items = engine.index.items
        for issue in issues:
            assert issue.suggested != issue.label == items.label(issue.row)
            assert issue.path == items.path(issue.row)
            assert issue.row not in issue.evidence
            assert {items.label(row) for row in issue.evidence} <= {issue.suggested}
            result = engine.by_row(issue.row, 64)
            score_of = {match.row: match.score for match in result.matches}
            for best, same in ((issue.best_own, True), (issue.best_other, False)):
                if best is not None:
                    assert score_of[best[0]] == best[1]
                    assert (items.label(best[0]) == issue.label) is same


def test_json_of_the_command(
    digits_report: tuple[Path, AuditReport, npt.NDArray[np.bool_]], imgsearch: Callable[..., Run]
) -> None:
    """It is Python's report, with the fields of the contract; nothing else is on either stream."""
    index, report, _ = digits_report
    run = imgsearch("audit", index, "--json")
    assert (run.code, run.err) == (0, "")
    assert run.json == json.loads(json.dumps(report.to_dict()))
    assert set(run.json["label_issues"][0]) >= {
        "row", "path", "label", "suggested", "confidence", "evidence",
    }  # fmt: skip
    assert {"duplicates", "leaks", "outliers", "hubs", "overlaps"} <= set(run.json)


def test_text_of_the_command(
    digits_report: tuple[Path, AuditReport, npt.NDArray[np.bool_]], imgsearch: Callable[..., Run]
) -> None:
    """Every list has its title, its first lines and how many more there are."""
    index, report, _ = digits_report
    text = imgsearch("audit", index).out
    assert text == audit_text(report)
    first = report.label_issues[0]
    assert f"{len(report.label_issues):,} of 1,797 pictures" in text
    assert f"and {len(report.label_issues) - 20:,} more" in text
    assert any(first.path in line and first.suggested in line for line in text.splitlines())
    assert "Near-duplicates: none found" in text
    assert all(len(line) <= 90 for line in audit_text(report, width=90).splitlines())


def test_outliers_of_the_base_set(
    tmp_path: Path, digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    """Noise among digits stands first; no more are listed than the stated share."""
    rows = np.concatenate(
        [digits[0][:500], np.random.default_rng(0).integers(0, 17, (5, 64)).astype(np.float32)]
    )
    labels = [*map(str, digits[1][:500]), *["0"] * 5]
    with SearchEngine.open(import_rows(tmp_path, rows, labels)) as engine:
        found = audit(engine, outlier_rate=0.02).outliers
        assert {outlier.row for outlier in found[:5]} == set(range(500, 505))
        assert len(found) == 10  # a fiftieth of 505
        best = {o.row: engine.by_row(o.row, 1).matches[0].score for o in found}
        assert {outlier.row: outlier.score for outlier in found} == best
        with pytest.raises(QueryError):
            audit(engine, outlier_rate=0.0)


def test_a_hub_by_hand(tmp_path: Path) -> None:
    """One row of class b lies amidst class a: most of them have it among their five nearest."""
    rng = np.random.default_rng(0)
    centre = np.zeros(16)
    centre[0] = 1
    a = centre + rng.normal(0, 0.05, (60, 16))
    b = -centre + rng.normal(0, 0.05, (40, 16))
    b[0] = centre
    rows = np.concatenate([a, b]).astype(np.float32)
    with SearchEngine.open(import_rows(tmp_path, rows, ["a"] * 60 + ["b"] * 40)) as engine:
        report = audit(engine)
        times = [
            engine.index.items.label(row)
            for row in range(100)
            if any(match.row == 60 for match in engine.by_row(row).matches)
        ]
    (hub,) = report.hubs
    assert (hub.row, hub.label) == (60, "b")
    assert (hub.times, hub.wrong) == (len(times), times.count("a"))
    assert hub.wrong > 40


def test_mixed_classes_overlap(tmp_path: Path) -> None:
    """Of three classes, two are drawn from one cloud: they are the only pair that is mixed."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.2, (90, 8)).astype(np.float32)
    rows[:60, 0] += 1
    rows[60:, 1] += 1
    labels = ["a", "b"] * 30 + ["c"] * 30
    with SearchEngine.open(import_rows(tmp_path, rows, labels)) as engine:
        first, *rest = audit(engine).overlaps
        met = sum(m.label == "b" for row in range(0, 60, 2) for m in engine.by_row(row).matches)
    assert (first.labels, rest) == (("a", "b"), [])
    assert first.shares[0] == met / 150
    assert first.chance == (30 / 89, 30 / 89)
    assert first.share > sum(first.chance) / 2


def test_neighbors_are_those_of_a_search(
    digits_report: tuple[Path, AuditReport, npt.NDArray[np.bool_]],
) -> None:
    """Rows, order and scores of the pass over all rows are a search's, to the last bit."""
    with SearchEngine.open(digits_report[0]) as engine:
        ids = engine.index.items.classes.ids
        kin = Kin.of([None] * len(ids), [None] * len(ids))
        asked = np.array([3, 500, 1796])
        near = find_neighbors(engine.source, asked, 9, kin, ids, known=False)
        for i, row in enumerate(asked.tolist()):
            matches = engine.by_row(row, 9).matches
            assert near.rows[i].tolist() == [match.row for match in matches]
            assert near.scores[i].tolist() == [match.score for match in matches]


def test_one_row_is_no_base_set(tmp_path: Path, imgsearch: Callable[..., Run]) -> None:
    """There is nothing to compare it with: exit 2 and a sentence."""
    index = import_rows(tmp_path, np.ones((1, 4), np.float32), ["a"])
    run = imgsearch("audit", index)
    assert run.code == 2
    assert "at least two rows" in run.err


# Copies and leaks, of real photos


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory, small_photos: Path
) -> tuple[Path, Path, Path]:
    """Build an index with copies in it; return base folder, test folder and index.

    alpha/again.jpg is the same file as a beta picture, alpha/turned.jpg a mirrored, paler copy of
    another. The test set has a copy, a cropped copy and a picture that is not in the base set.
    """
    files = sorted(small_photos.iterdir())
    folder = tmp_path_factory.mktemp("troubled")
    base, test = folder / "base", folder / "test"
    base.mkdir()
    into_classes(files[:24], base)
    shutil.copy(files[1], base / "alpha" / "again.jpg")
    with Image.open(files[4]) as image:
        pale = ImageOps.mirror(image.convert("RGB")).point(lambda value: min(255, value + 25))
        pale.save(base / "alpha" / "turned.jpg", quality=80)
    (test / "beta").mkdir(parents=True)
    shutil.copy(files[7], test / "beta" / "copied.jpg")
    shutil.copy(files[30], test / "beta" / "new.jpg")
    with Image.open(files[10]) as image:
        width, height = image.size
        box = (width // 20, height // 20, width - width // 20, height - height // 20)
        image.convert("RGB").crop(box).save(test / "beta" / "cropped.jpg", quality=85)
    build_index(base, folder / "index", model=MODEL)
    return base, test, folder / "index"


@pytest.fixture(scope="module")
def troubled_report(troubled: tuple[Path, Path, Path]) -> AuditReport:
    """Audit it with its test set."""
    with SearchEngine.open(troubled[2]) as engine:
        return audit(engine, troubled[1])


def test_copies_in_the_base_set(
    troubled: tuple[Path, Path, Path], troubled_report: AuditReport, small_photos: Path
) -> None:
    """Both are found, the same file first, with what they disagree in; nothing else is a copy."""
    files = sorted(file.name for file in small_photos.iterdir())
    exact, near = troubled_report.duplicates
    assert set(exact.paths) == {"alpha/again.jpg", f"beta/{files[1]}"}
    assert (exact.exact, exact.labels) == (True, ("alpha", "beta"))
    assert set(near.paths) == {"alpha/turned.jpg", f"beta/{files[4]}"}
    assert near.exact is False
    with SearchEngine.open(troubled[2]) as engine:
        for group in (exact, near):
            assert [engine.index.items.path(row) for row in group.rows] == list(group.paths)
            scores = {m.row: m.score for m in engine.by_row(group.rows[0], 25).matches}
            assert scores[group.rows[1]] == group.score


def test_leaks_of_the_test_set(
    troubled: tuple[Path, Path, Path], troubled_report: AuditReport, small_photos: Path
) -> None:
    """The copy is exact, the cropped one is near, each with its base row; the new one is none."""
    files = sorted(file.name for file in small_photos.iterdir())
    assert [(leak.query, leak.exact) for leak in troubled_report.leaks] == [
        ("beta/copied.jpg", True),
        ("beta/cropped.jpg", False),
    ]
    assert [leak.path.partition("/")[2] for leak in troubled_report.leaks] == [files[7], files[10]]
    assert troubled_report.tested == 3
    with SearchEngine.open(troubled[2]) as engine:
        for leak in troubled_report.leaks:
            assert engine.index.items.path(leak.row) == leak.path
            best = engine.by_image(troubled[1] / leak.query).matches[0]
            assert (best.row, best.score) == (leak.row, leak.score)


# The page


def page_of(index: Path, report: AuditReport, **options: Any) -> str:  # noqa: ANN401
    """Render the page of an index."""
    with SearchEngine.open(index) as engine:
        return audit_html(
            report,
            label_rows(engine.index),
            lambda file: engine.preview(file, 96),
            created="2026-01-01 00:00 UTC",
            version="0",
            **options,
        )


def opened(browser: Browser, file: Path, **options: Any) -> Page:  # noqa: ANN401
    """Open a page without a network; a request, an error or a warning fails the test."""
    context = browser.new_context(offline=True, accept_downloads=True, **options)
    page = context.new_page()
    page.on("console", lambda message: pytest.fail(message.text))
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(file.as_uri())
    return page


def test_ticks_come_back_as_labels(
    tmp_path: Path,
    troubled: tuple[Path, Path, Path],
    troubled_report: AuditReport,
    browser: Browser,
    imgsearch: Callable[..., Run],
) -> None:
    """Tick in Chromium, download, `update --labels`: the index has the labels that were ticked.

    One label is changed as suggested, one to a class that is typed, with a comma and a quote in it,
    one picture is left out; all others keep theirs, and no picture is touched.
    """
    base, _, index = troubled
    mine = tmp_path / "index"
    shutil.copytree(index, mine)
    before = {file: file.read_bytes() for file in base.rglob("*.jpg")}
    with SearchEngine.open(mine) as engine:
        labels = {item.path: item.label for item in engine.index.items.all()}
    first, second = sorted(set(labels) - {"alpha/again.jpg"})[:2]
    issues = tuple(
        LabelIssue(
            list(labels).index(path), path, str(labels[path]), "gamma", 0.9, 0.1, (), None, None
        )
        for path in (first, second)
    )
    report = dataclasses.replace(troubled_report, label_issues=issues)
    file = tmp_path / "audit.html"
    file.write_text(page_of(mine, report), encoding="utf-8")
    page = opened(browser, file)
    assert page.get_by_role("button", name="Download the label file").is_disabled()
    page.get_by_label("change the label to").first.check()
    typed = 'kit,chen "2"'
    page.get_by_label(f"New label of {second}").fill(typed)
    page.get_by_label("Leave out alpha/again.jpg").first.check()
    assert page.locator("#state").inner_text() == "2 labels changed, 1 picture left out"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the label file").click()
    table = tmp_path / "labels.csv"
    download.value.save_as(table)
    page.context.close()
    run = imgsearch("update", mine, "--labels", table, "--json")
    assert run.code == 0, run.err
    assert (run.json["relabelled"], run.json["removed"], run.json["embedded"]) == (2, 1, 0)
    expected = {**labels, first: "gamma", second: typed}
    del expected["alpha/again.jpg"]
    with SearchEngine.open(mine) as engine:
        assert {item.path: item.label for item in engine.index.items.all()} == expected
    assert {file: file.read_bytes() for file in base.rglob("*.jpg")} == before


def test_the_page_by_keyboard(
    tmp_path: Path,
    troubled: tuple[Path, Path, Path],
    troubled_report: AuditReport,
    browser: Browser,
) -> None:
    """The keys j and k go from tick to tick, Space ticks, and Clear takes all back."""
    file = tmp_path / "audit.html"
    file.write_text(page_of(troubled[2], troubled_report), encoding="utf-8")
    page = opened(browser, file)
    stops = page.locator(".card input[data-kind=label], .tile input[data-kind=out]")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert stops.first.evaluate("stop => stop === document.activeElement")
    page.keyboard.press("Space")
    assert stops.first.is_checked()
    assert not page.locator("#save").is_disabled()
    page.get_by_role("button", name="Clear").click()
    assert page.locator("#state").inner_text() == "Nothing is ticked yet."
    assert page.locator("input[type=checkbox]:checked").count() == 0
    page.context.close()


HOSTILE = '</script><img src=x onerror=alert(1)>"\u202e'


def test_names_do_no_harm(
    tmp_path: Path,
    troubled_report: AuditReport,
    browser: Browser,
) -> None:
    """A label that would end the script, or turn text round, is shown and comes back as it is."""
    rows = [ImageItem("a.jpg", HOSTILE), ImageItem("b.jpg", "b")]
    issue = LabelIssue(0, "a.jpg", HOSTILE, "b", 0.9, 0.1, (1,), None, (1, 0.5))
    report = dataclasses.replace(
        troubled_report, label_issues=(issue,), duplicates=(), outliers=(), hubs=(), leaks=()
    )
    html = audit_html(report, rows, lambda _: None, created="now", version="0")
    assert "\u202e" not in html
    file = tmp_path / "audit.html"
    file.write_text(html, encoding="utf-8")
    page = opened(browser, file)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.get_by_label("change the label to").check()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the label file").click()
    lines = list(csv.reader(io.StringIO(download.value.path().read_text(encoding="utf-8"))))
    assert lines == [["path", "label"], ["a.jpg", "b"], ["b.jpg", "b"]]
    page.context.close()


def test_other_rows_of_the_label_file_are_kept(rooms: Path) -> None:
    """An index made with a label file gives it back: rows of other splits, groups and splits."""
    with SearchEngine.open(rooms) as engine:
        found = label_rows(engine.index)
        stored = engine.index.items.all()
        table = engine.index.manifest.labels_file
    assert [item.path for item in found[: len(stored)]] == [item.path for item in stored]
    assert table is not None
    with Path(table).open(encoding="utf-8", newline="") as stream:
        lines = {row["path"]: row for row in csv.DictReader(stream)}
    assert {item.path: (item.label or "", item.split or "") for item in found} == {
        path: (row["label"], row["split"]) for path, row in lines.items()
    }


def test_report_of_the_command(
    tmp_path: Path, troubled: tuple[Path, Path, Path], imgsearch: Callable[..., Run]
) -> None:
    """--report writes one file, tells its size, and leaves standard output to the text."""
    run = imgsearch("audit", troubled[2], troubled[1], "--report", tmp_path / "a.html")
    assert run.code == 0
    assert "Leaks: 2 of 3 test pictures in the base set, 1 of them as the same file" in run.out
    assert "a.html (" in run.err
    assert " MB)" in run.err
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "http" not in html.replace("http-equiv", "")
