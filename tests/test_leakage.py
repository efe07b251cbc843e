"""Evaluations without near-duplicates and without the own group: held against a plain loop."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import write_index
from PIL import Image, ImageOps

from imgsearch import Cuts, SearchEngine, build_index, evaluate
from imgsearch.metrics import AT_K, values_at_k
from imgsearch.report import evaluation_text
from imgsearch.worth import explain, warnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Run

    from imgsearch.records import EvaluationReport, Without

BLIND = Cuts(score=0.97, bits=-1)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchEngine]:
    """400 rows: 40 that are nearly the same, pairs, strangers; a group of 250, small ones, none."""
    random = np.random.default_rng(11)
    rows = random.normal(size=(400, 24)) + 2 * np.eye(24)[np.arange(400) % 4]
    rows[:40] = rows[0] + 0.05 * random.normal(size=(40, 24))
    rows[100:140:2] = rows[101:140:2] + 0.1 * random.normal(size=(20, 24))
    labels = [None if i % 37 == 0 else "abcd"[i % 4] for i in range(400)]
    groups = ["large" if i < 250 else f"g{i // 6}" if i % 6 else None for i in range(400)]
    folder = write_index(tmp_path_factory.mktemp("crowd") / "index", rows, labels, groups)
    with SearchEngine.open(folder) as engine:
        yield engine


def plain_loop(
    engine: SearchEngine, k: int, leave_out: Callable[[int, int, float], bool]
) -> dict[str, list[float | None]]:
    """Leave-one-out by sorting all scores of each row, leaving rows out by any rule."""
    rows = engine.index.vectors.rows.astype(np.float64)
    labels = engine.index.items.column("label")
    values: dict[str, list[float | None]] = {name: [] for name in AT_K}
    for i, label in enumerate(labels):
        scores = (rows @ rows[i]).astype(np.float32)
        order = [j for j in np.lexsort((np.arange(len(rows)), -scores)).tolist() if j != i]
        kept = [j for j in order if not leave_out(i, j, float(scores[j]))][:k]
        found = values_at_k(str(label), k, [labels[j] for j in kept], scores[kept].tolist())
        for name, column in values.items():
            column.append(None if label is None else found[name])
    return values


def same(without: Without, values: dict[str, list[float | None]]) -> None:
    """Every value of every query, and the means."""
    assert {name: list(column) for name, column in without.values.items()} == values
    for name, column in values.items():
        known = [value for value in column if value is not None]
        assert without.overall[name] == pytest.approx(np.mean(known), abs=1e-12)
        low, high = without.intervals[name]
        assert low <= without.overall[name] <= high


@pytest.mark.parametrize("k", [1, 5, 30])
def test_without_near_duplicates_is_a_plain_loop(crowd: SearchEngine, k: int) -> None:
    """All k matches come back though 39 rows are left out of the best; each value is the loop's."""
    report = evaluate(crowd, k=k, cuts=BLIND)
    assert report.leakage is not None
    same(
        report.leakage.without_near_duplicates,
        plain_loop(crowd, k, lambda _i, _j, score: score >= BLIND.score),
    )
    assert report.leakage.signs["score"] > 39 * 39
    assert report.leakage.signs["content"] == report.leakage.opened == 0


@pytest.mark.parametrize("k", [1, 5, 30])
def test_without_own_group_is_a_plain_loop(crowd: SearchEngine, k: int) -> None:
    """Of a group of 250 no row comes back to its own; a row without a group keeps all."""
    groups = crowd.index.items.column("group")
    report = evaluate(crowd, k=k, cuts=BLIND)
    assert report.leakage is not None
    assert report.leakage.without_own_group is not None
    same(
        report.leakage.without_own_group,
        plain_loop(crowd, k, lambda i, j, _: groups[i] is not None and groups[i] == groups[j]),
    )


def test_chance_without_rows_counts_what_is_left(crowd: SearchEngine) -> None:
    """Chance is R / n over the rows that each query has left, in the mean."""
    report = evaluate(crowd, cuts=BLIND)
    groups, labels = crowd.index.items.column("group"), crowd.index.items.column("label")
    shares = []
    for i, label in enumerate(labels):
        if label is not None:
            left = [
                j for j in range(400) if j != i and (groups[i] is None or groups[j] != groups[i])
            ]
            shares.append(sum(labels[j] == label for j in left) / len(left))
    assert report.leakage is not None
    assert report.leakage.without_own_group is not None
    chance = report.leakage.without_own_group.chance["precision_at_k"]
    assert chance == pytest.approx(np.mean(shares), abs=1e-12)


def test_groups_widen_the_interval_and_mark_small_classes(crowd: SearchEngine) -> None:
    """Intervals are over groups where rows have them, and a class of few groups is marked."""
    report = evaluate(crowd, cuts=BLIND)
    labelled = [row for row, label in enumerate(crowd.index.items.column("label")) if label]
    groups = [crowd.index.items.group(row) or row for row in labelled]
    assert report.n_groups == len(set(groups))
    assert report.to_dict()["intervals_by"] == "group"
    assert {entry["few"] for entry in report.per_class.values()} == {False}
    assert all(10 <= entry["n_groups"] < entry["n"] for entry in report.per_class.values())


def test_cuts_are_drawn_where_strangers_are_alike(tmp_path: Path) -> None:
    """In a set whose classes all score above 0.95 hardly anybody is a near-duplicate by score."""
    random = np.random.default_rng(5)
    rows = 6 + random.normal(size=(300, 32))
    with SearchEngine.open(
        write_index(tmp_path / "alike", rows, ["ab"[i % 2] for i in range(300)])
    ) as engine:
        drawn = evaluate(engine).leakage
        given = evaluate(engine, cuts=Cuts(bits=-1)).leakage
    assert drawn is not None
    assert given is not None
    assert given.without_near_duplicates.affected == 300
    assert drawn.without_near_duplicates.affected <= 10
    assert drawn.cuts["score"] > 0.95
    assert "tighter than usual" in explain(drawn)[0]
    assert "were given" in explain(given)[0]
    assert drawn.unreadable > 0  # nobody has these pictures
    assert "by score and sum alone" in explain(drawn)[-1]


@pytest.fixture(scope="module")
def leaked(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> EvaluationReport:
    """Evaluate a test set of six photos, and of twelve of the base set, changed in several ways."""
    place = tmp_path_factory.mktemp("leaked")
    photos = sorted(small_photos.iterdir())
    for i, photo in enumerate(photos[:30]):
        folder = place / "base" / ("alpha", "beta", "gamma")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, folder)
    for i, photo in enumerate([*photos[:12], *photos[33:]]):
        folder = place / "test" / ("alpha", "beta", "gamma")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        if i < 3 or i >= 12:
            shutil.copy(photo, folder)
            continue
        with Image.open(photo) as image:
            width, height = image.size
            copy = image.crop((0, 0, round(width * 0.95), round(height * 0.95))) if i % 2 else image
            copy = ImageOps.mirror(copy) if i >= 8 else copy
            copy.save(folder / photo.name, quality=60)
    build_index(place / "base", place / "index", model="efficientnet-lite2")
    with SearchEngine.open(place / "index") as engine:
        return evaluate(engine, place / "test")


def test_planted_leaks_are_met(leaked: EvaluationReport) -> None:
    """Each of the twelve copies meets its original and nothing else; the six strangers nothing."""
    assert leaked.leakage is not None
    signs: Counter[str] = Counter()
    for near in leaked.leakage.found:
        signs.update(one.sign for one in near)
        assert len(near) <= 1
    assert sum(signs.values()) == leaked.leakage.without_near_duplicates.affected == 12
    assert signs["content"] == 3
    assert signs["mirrored"] > 0


def test_a_fall_is_said_in_words(leaked: EvaluationReport) -> None:
    """Top-1 falls by far more than 5 points, and the text says from what, to what and why."""
    assert leaked.leakage is not None
    without = leaked.leakage.without_near_duplicates
    fall = leaked.overall["top1_accuracy"] - without.overall["top1_accuracy"]
    assert fall > 0.05
    (line,) = [line for line in warnings(leaked) if line.startswith("Without near-duplicates")]
    words = f"{leaked.overall['top1_accuracy']:.2%} to {without.overall['top1_accuracy']:.2%}"
    assert f"Top-1 accuracy falls from {words}" in line
    text = evaluation_text(leaked)
    assert line in text
    assert "The same without leakage" in text
    assert "Without near-duplicates" in text
    assert "the same file 3" in text


def test_no_groups_no_figure(leaked: EvaluationReport) -> None:
    """Where nobody named groups there is no figure without them, rather than the same once more."""
    assert leaked.leakage is not None
    assert leaked.leakage.without_own_group is None
    assert leaked.n_groups is None
    assert leaked.to_dict()["leakage"]["without_own_group"] is None
    assert "own group" not in evaluation_text(leaked)


def test_json_has_the_three_figures_and_streams(
    imgsearch: Callable[..., Run], crowd: SearchEngine, tmp_path: Path
) -> None:
    """The command's document is `to_dict()` of the report; leakage stands in it, and lift."""
    folder = crowd.index.folder
    run = imgsearch("evaluate", folder, "--duplicate-score", 0.97, "--duplicate-bits", -1, "--json")
    assert run.code == 0, run.err
    report = evaluate(crowd, cuts=BLIND)
    due: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    assert run.json == due
    assert set(run.json["leakage"]["without_near_duplicates"]["overall"]) == set(AT_K)
    assert run.json["leakage"]["cuts"] == {"score": 0.97, "look": 0.6, "bits": -1}
    near = [one for query in run.json["queries"] for one in query["near_duplicates"]]
    assert len(near) == sum(run.json["leakage"]["signs"].values())
    lift = run.json["overall"]["mrr"] / run.json["chance"]["mrr"]
    assert run.json["lift"]["mrr"] == pytest.approx(lift)
    page = tmp_path / "page.html"
    shown = imgsearch("evaluate", folder, "--report", page)
    assert shown.code == 0, shown.err
    assert "Without own group" in shown.out
    assert 'id="leakage"' in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words", [("--duplicate-score", "nan"), ("--duplicate-score", "3"), ("--duplicate-bits", "65")]
)
def test_cuts_that_cannot_be_are_refused(
    imgsearch: Callable[..., Run], crowd: SearchEngine, words: tuple[str, str]
) -> None:
    """A cut that nothing can be held against ends the command with 2 and a sentence."""
    run = imgsearch("evaluate", crowd.index.folder, *words)
    assert run.code == 2
    assert "a cut on the" in run.err


def test_progress_is_told(crowd: SearchEngine) -> None:
    """An evaluation tells how many queries are answered, then how many are compared, to the end."""
    told: list[tuple[int, int]] = []
    evaluate(crowd, cuts=BLIND, progress=lambda done, total: told.append((done, total)))
    assert {total for _, total in told} == {400}
    assert told[-1] == (400, 400)
    assert sum(b[0] < a[0] for a, b in itertools.pairwise(told)) >= 1  # a second stage
