"""Comparing two indexes: the same questions, paired, and what was none to both is counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from helpers import write_index

from imgsearch import QueryError, SearchEngine, compare, evaluate
from imgsearch.intervals import bootstrap_intervals
from imgsearch.report import comparison_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from conftest import Run

LABELS = ["ab"[i % 2] for i in range(120)]


def vectors(noise: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Rows of two classes, further apart the less noise there is."""
    random = np.random.default_rng(4)
    return np.eye(2, 16)[np.arange(120) % 2] + noise * random.normal(size=(120, 16))


@pytest.fixture(scope="module")
def blurred(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchEngine]:
    """Open an index whose classes run into each other."""
    folder = write_index(tmp_path_factory.mktemp("blurred") / "index", vectors(0.6), LABELS)
    with SearchEngine.open(folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SearchEngine]:
    """Open an index of the same pictures whose classes are apart."""
    folder = write_index(tmp_path_factory.mktemp("sharp") / "index", vectors(0.3), LABELS)
    with SearchEngine.open(folder) as engine:
        yield engine


def written(
    folder: Path,
    labels: Sequence[str | None],
    names: Sequence[str] | None = None,
    groups: Sequence[str | None] | None = None,
) -> SearchEngine:
    """Open an index of as many of the vectors as there are labels."""
    rows = vectors(0.6)[: len(labels)]
    return SearchEngine.open(write_index(folder, rows, labels, groups, names))


def test_both_means_are_those_of_an_evaluation(blurred: SearchEngine, sharp: SearchEngine) -> None:
    """Means are evaluate's, the difference is B less A, and its interval that of paired values."""
    found = compare(blurred, sharp)
    alone = [evaluate(engine) for engine in (blurred, sharp)]
    assert [found.a, found.b] == [report.overall for report in alone]
    assert (found.mode, found.n_queries, found.n_groups) == ("leave-one-out", 120, None)
    for name, difference in found.difference.items():
        assert difference == found.b[name] - found.a[name]
        values = [np.array(report.values[name], np.float64) for report in alone]
        (due,) = bootstrap_intervals((values[1] - values[0])[:, np.newaxis])
        pair = found.intervals[name]
        assert pair is not None
        np.testing.assert_allclose(pair, np.clip(due, -1, 1), atol=1e-12)
    pair = found.intervals["precision_at_k"]
    assert pair is not None
    assert pair[0] > 0.1
    assert "B is better" in comparison_text(found)


def test_the_most_changed_come_first(blurred: SearchEngine, sharp: SearchEngine) -> None:
    """Queries are named by how much their precision changed; gains and losses are counted."""
    found = compare(blurred, sharp)
    values = [evaluate(engine).values["precision_at_k"] for engine in (blurred, sharp)]
    changes = [float(b or 0) - float(a or 0) for a, b in zip(*values, strict=True)]
    assert found.better == sum(change > 0 for change in changes) > 20
    assert found.worse == sum(change < 0 for change in changes)
    sizes = sorted((abs(change) for change in changes), reverse=True)
    assert [abs(change.difference) for change in found.changed] == sizes[: len(found.changed)]
    assert len(found.changed) == 50
    first = found.changed[0]
    row = blurred.index.items.column("path").index(first.query)
    assert first.label == LABELS[row]
    assert first.a == values[0][row]
    assert first.first_b == sharp.by_row(row).matches[0].label


def test_an_index_does_not_differ_from_itself(blurred: SearchEngine) -> None:
    """Every difference is 0, its interval has no width, nothing changed and nothing is shown."""
    found = compare(blurred, blurred)
    assert set(found.difference.values()) == {0.0}
    assert set(found.intervals.values()) == {(0.0, 0.0)}
    assert (found.better, found.worse, found.changed) == (0, 0, ())
    text = comparison_text(found, width=80)
    assert text.count("not shown to differ") == len(found.a)
    assert max(map(len, text.splitlines())) <= 80


def test_what_is_no_question_to_both_is_left_out(tmp_path: Path) -> None:
    """Rows are paired by path, moved ones by sum; what is new, gone or relabelled is counted."""
    names = [f"n{i}" for i in range(40)]
    before = written(tmp_path / "before", [*LABELS[:38], None, "a"], names)
    labels: list[str | None] = [*LABELS[:38], None, "a"]
    labels[0] = "b"  # relabelled, which moves its path, too: found by its sum
    after = written(tmp_path / "after", [*labels[:35], "a", None], [*names[:35], "new", names[38]])
    found = compare(before, after)
    # Gone are 35, 36, 37 and 39; 38 has no label in either.
    assert found.left_out == {"only_a": 4, "only_b": 1, "relabelled": 1, "unlabelled": 1}
    assert found.n_queries == 34
    text = comparison_text(found)
    assert "Left out: 1 picture whose label is another in B" in text
    assert "Left out: 4 pictures that only A has" in text
    before.close()
    after.close()


def test_a_path_with_other_content_is_no_pair(tmp_path: Path) -> None:
    """A picture that was replaced under its name is another question."""
    one = written(tmp_path / "one", LABELS[:20], [f"n{i}" for i in range(20)])
    other = written(tmp_path / "other", LABELS[:20], [f"n{i}" for i in range(20)])
    column = other.index.items._columns["sha256"].to_pylist()
    column[3] = "0" * 64
    other.index.items._columns["sha256"] = pa.array(column)
    found = compare(one, other)
    assert (found.left_out["only_a"], found.left_out["only_b"]) == (1, 1)
    assert found.n_queries == 19


def test_groups_are_drawn_together(tmp_path: Path) -> None:
    """Pictures of a group count together; a single group says nothing, and that is said."""
    groups = [f"g{i // 4}" for i in range(40)]
    one = written(tmp_path / "one", LABELS[:40], None, groups)
    assert compare(one, one).n_groups == 10
    flat = written(tmp_path / "flat", LABELS[:40], None, ["same"] * 40)
    found = compare(flat, flat)
    assert found.n_groups == 1
    assert set(found.intervals.values()) == {None}
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["intervals"]["mrr"] is None
    assert "\N{EN DASH}" in comparison_text(found)


def test_nothing_in_common_is_refused(tmp_path: Path, blurred: SearchEngine) -> None:
    """Indexes of other pictures, and labels for a test set that is not there."""
    other = written(tmp_path / "other", LABELS[:20], [f"other{i}" for i in range(20)])
    with pytest.raises(QueryError, match="no labelled picture that both"):
        compare(blurred, other)
    with pytest.raises(QueryError, match="no folder TEST"):
        compare(blurred, other, labels_file="labels.csv")


def test_command(imgsearch: Callable[..., Run], blurred: SearchEngine, sharp: SearchEngine) -> None:
    """`compare A B --json` is `compare(a, b).to_dict()`; without it a table, and exit 3 and 2."""
    pair = blurred.index.folder, sharp.index.folder
    run = imgsearch("compare", *pair, "-k", 3, "--json")
    assert run.code == 0, run.err
    assert run.json == json.loads(json.dumps(compare(blurred, sharp, k=3).to_dict()))
    assert {"k", "n_queries", "a", "b", "difference", "intervals"} <= set(run.json)
    shown = imgsearch("compare", *pair)
    assert "B less A" in shown.out
    assert "Most changed" in shown.out
    assert imgsearch("compare", pair[0], "nowhere").code == 3
    assert imgsearch("compare", *pair, "-k", 0).code == 2


def test_a_test_set_is_asked_of_both(
    imgsearch: Callable[..., Run], rooms: Path, class_folders: Path
) -> None:
    """Each picture of TEST is embedded by the model of either index, and paired by its name."""
    run = imgsearch("compare", rooms, rooms, class_folders, "--json")
    assert run.code == 0, run.err
    assert run.json["mode"] == "test"
    assert run.json["n_queries"] == 12
    assert run.json["difference"] == dict.fromkeys(run.json["a"], 0)
    assert sum(run.json["left_out"].values()) == 0
