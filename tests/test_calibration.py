"""What scores mean: probabilities that come true, and outliers at the stated rate."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import write_index
from sklearn.datasets import load_digits

from imgsearch import SearchEngine, import_vectors, update_index
from imgsearch.calibration import (
    _steps,
    calibrate,
    expected_error,
    probabilities,
    resemblance,
)
from imgsearch.errors import IndexCorruptError, QueryError
from imgsearch.index import open_index, read_manifest
from imgsearch.manifest import FileEntry, Manifest, parse
from imgsearch.records import Calibration, StoredItem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt
    from conftest import Run

GOLDEN = Path(__file__).parent / "golden" / "v1"
BASE = 1200  # of 1,797 digits; the others are kept out


def import_rows(
    folder: Path, rows: npt.NDArray[np.float32], labels: Sequence[object], **columns: Sequence[str]
) -> Path:
    """Import vectors with labels; more columns of the label file by name."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "rows.npy", rows)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", *columns])
        writer.writerows(
            (f"{i}.jpg", *cells)
            for i, cells in enumerate(zip(labels, *columns.values(), strict=True))
        )
    import_vectors(folder / "rows.npy", folder / "rows.csv", folder / "index")
    return folder / "index"


@pytest.fixture(scope="module")
def digits() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return 1,797 real handwritten digits as vectors of 64 pixels, in an order drawn by lot."""
    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(7).permutation(len(labels))
    return pixels[order].astype(np.float32), labels[order]


@pytest.fixture(scope="module")
def engine(
    tmp_path_factory: pytest.TempPathFactory,
    digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> SearchEngine:
    """Open an index of the first digits."""
    rows, labels = digits
    folder = tmp_path_factory.mktemp("digits")
    return SearchEngine.open(import_rows(folder, rows[:BASE], labels[:BASE]))


def known(engine: SearchEngine) -> Calibration:
    """Return what the index knows of its scores."""
    found = engine.index.manifest.calibration
    assert found is not None
    return found


# Arithmetic


def test_expected_error_by_hand() -> None:
    """Two bins of 3 and 1: |0.6 - 1| of three quarters and |0.1 - 0| of one quarter."""
    error = expected_error([0.6, 0.6, 0.6, 0.1], [1, 1, 1, 0])
    assert abs(error - float(Fraction(3, 4) * Fraction(4, 10) + Fraction(1, 4) / 10)) < 1e-12


def test_steps_pool_what_is_out_of_order() -> None:
    """Of four means 0, 3/4, 1/4, 1 the middle two become their own mean, at their mean place."""
    values = np.repeat([0.0, 1.0, 2.0, 3.0], 20)
    right = np.concatenate(
        [np.zeros(20), np.repeat([1, 1, 1, 0], 5), np.repeat([1, 0, 0, 0], 5), np.ones(20)]
    ).astype(np.float64)
    assert _steps(values, right, np.ones(80)) == ((0.0, 0.0), (1.5, 0.5), (3.0, 1.0))


def test_a_probability_lies_between_two_steps() -> None:
    """Half way from 0.2 to 0.6 it is 0.4; beyond the last step it stays; ranks count to the end."""
    made = Calibration("x", 100, 4, 2.0, -1.0, ((-1.0, 0.2), (1.0, 0.6)), None, (0.5,))
    found = probabilities(made, [0.0, 5.0, 0.5, 0.5], [1, 1, 4, 400])
    assert found is not None
    assert np.allclose(found[:2], [0.4, 0.6])
    assert found[2] == found[3] == np.interp(1 - np.log(4), [-1, 1], [0.2, 0.6])


@pytest.mark.parametrize(("best", "share"), [(0.05, Fraction(1, 5)), (0.2, Fraction(3, 5)), (1, 1)])
def test_p_value_by_hand(best: float, share: Fraction) -> None:
    """Of four rows at 0.1, 0.2, 0.3, 0.4 those that score as little count, and the query itself."""
    made = Calibration("x", 4, 4, 1.0, 0.0, (), None, (0.1, 0.2, 0.3, 0.4))
    found = resemblance(made, best, rate=0.2)
    assert found.p_value == float(share)
    assert found.outlier == (share <= Fraction(1, 5))


# On data kept out


def test_probabilities_come_true_on_rows_kept_out(
    engine: SearchEngine, digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    """At 1, 5, 20 and 50 matches the expected error is below 0.05; labels by lot are found out."""
    rows, labels = digits
    queries = [
        engine.vector_query(row, str(label))
        for row, label in zip(rows[BASE:], labels[BASE:], strict=True)
    ]
    results = engine.ask(queries, 50)
    drawn = np.random.default_rng(0).permutation(labels[BASE:]).astype(str)
    for k in (1, 5, 20, 50):
        stated = [m.probability for r in results for m in r.matches[:k]]
        right = [m.label == r.label for r in results for m in r.matches[:k]]
        assert expected_error(stated, right) < 0.05
        by_lot = [m.label == drawn[i] for i, r in enumerate(results) for m in r.matches[:k]]
        assert expected_error(stated, by_lot) > 0.3
    for result in results:
        chances = [match.probability for match in result.matches]
        assert chances == sorted(chances, reverse=True)
    error = known(engine).error
    assert error is not None
    assert error < 0.05


def test_outliers_come_at_the_stated_rate(
    engine: SearchEngine, digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
) -> None:
    """Of digits kept out 1, 5 and 10% are called outliers, within 2 points; of noise nearly all."""
    rows, _ = digits
    made = known(engine)
    best = [r.matches[0].score for r in engine.ask([engine.vector_query(q) for q in rows[BASE:]])]
    noise = np.random.default_rng(1).integers(0, 17, (200, 64)).astype(np.float32)
    strange = [r.matches[0].score for r in engine.ask([engine.vector_query(q) for q in noise])]
    for rate in (0.01, 0.05, 0.1):
        called = np.mean([resemblance(made, score, rate).outlier for score in best])
        assert abs(called - rate) < 0.02
        assert np.mean([resemblance(made, score, rate).outlier for score in strange]) > 0.95


def test_copies_and_kin_do_not_count(
    digits: tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]],
) -> None:
    """Every digit twice: as one file or one group that means nothing, as strangers it does."""
    rows, labels = digits[0][:300], digits[1][:300]
    rng = np.random.default_rng(0)
    twice = np.concatenate([rows, rows + rng.normal(0, 0.2, rows.shape).astype(np.float32)])

    def learned(
        vectors: npt.NDArray[np.float32], sums: Sequence[str | None], groups: Sequence[str | None]
    ) -> Calibration:
        items = [
            StoredItem(f"{i}.jpg", str(labels[i % 300]), total, 1, 1, 1, 0, group)
            for i, (total, group) in enumerate(zip(sums, groups, strict=True))
        ]
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        found = calibrate(vector_file(unit), items, known=False)
        assert found is not None
        return found

    none: list[str | None] = [None] * 600
    pairs: list[str | None] = [f"{i % 300:064x}" for i in range(600)]
    once = learned(rows, none[:300], none[:300])
    for made in (learned(twice, pairs, none), learned(twice, none, pairs)):
        assert abs(np.median(made.typical) - np.median(once.typical)) < 0.02
    strangers = learned(twice, none, none)
    assert np.median(strangers.typical) - np.median(once.typical) > 0.03


def vector_file(rows: npt.NDArray[np.float32]) -> Any:  # noqa: ANN401 - what open_vectors returns
    """Make a vector file of rows in memory."""
    import faiss

    from imgsearch.vectors import VectorFile

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows, np.float32))
    return VectorFile(index, np.ascontiguousarray(rows, np.float32))


# What is kept, and believed


def changed(manifest: Manifest, **values: Any) -> bytes:  # noqa: ANN401 - fields of any type
    """Write a manifest whose calibration has other values, with a right sum."""
    document = json.loads(manifest.to_bytes())
    document.pop("sha256")
    document["calibration"].update(values)
    body = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}").encode() + b",\n"
    body = body.replace(b'"HUGE"', b"1e999")
    return body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def test_the_manifest_gives_it_back(engine: SearchEngine) -> None:
    """Written and read again it is equal to the last bit, and a reader of before passes it over."""
    manifest = engine.index.manifest
    assert parse(manifest.to_bytes()) == manifest
    assert manifest.format_version == 1
    assert engine.index.info()["calibration"] == {
        "queries": 1000,
        "neighbors": 50,
        "error": known(engine).error,
    }


def test_it_is_of_its_generation_alone(engine: SearchEngine) -> None:
    """A manifest that carries what was learned from other rows or labels is read without it."""
    manifest = engine.index.manifest
    total = "0" * 64
    entry = FileEntry(f"items-{total[:16]}.parquet", 1, total)
    other = dataclasses.replace(manifest, files={**manifest.files, "items": entry})
    assert parse(other.to_bytes()).calibration is None


@pytest.mark.parametrize(
    "values",
    [
        {"score": "HUGE"},
        {"score": None},
        {"rank": True},
        {"queries": 0},
        {"neighbors": -1},
        {"steps": [[0, 0.5], [1, 0.4]]},
        {"steps": [[1, 0.5], [0, 0.6]]},
        {"steps": [[0, 1.5]]},
        {"steps": [[0]]},
        {"steps": [[0, 0]] * 2000},
        {"typical": [0.5, 0.4]},
        {"typical": [7]},
        {"typical": [0.5] * 20_000},
        {"typical": None},
        {"error": -0.1},
        {"made_of": 5},
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(engine: SearchEngine, values: dict[str, Any]) -> None:
    """Numbers out of bounds or order, or of another kind, are damage, named by their field."""
    with pytest.raises(IndexCorruptError, match="calibration"):
        parse(changed(engine.index.manifest, **values))


def test_an_old_index_has_no_probabilities(imgsearch: Callable[..., Run]) -> None:
    """An index of an earlier release answers as ever; a least probability is refused in words."""
    with SearchEngine.open(GOLDEN / "pictures") as engine:
        result = engine.by_row(0)
        assert result.resemblance is None
        assert {match.probability for match in result.matches} == {None}
        with pytest.raises(QueryError, match="does not know what its scores mean"):
            engine.by_row(0, min_probability=0.5)
    run = imgsearch("search", GOLDEN / "pictures", "row:0", "--min-probability", "0.5")
    assert run.code == 2
    table = imgsearch("search", GOLDEN / "pictures", "row:0").out
    assert "Probability" not in table
    assert "scores:        not calibrated" in imgsearch("info", GOLDEN / "pictures").out


def test_an_update_makes_an_old_index_learn(
    tmp_path: Path, rooms: Path, small_photos: Path
) -> None:
    """Nothing is embedded, the generation is written once, and then there is nothing to do."""
    del small_photos  # where the pictures of the index are
    index = tmp_path / "rooms"
    shutil.copytree(rooms, index)
    manifest = read_manifest(index)
    assert manifest.calibration is not None
    old = dataclasses.replace(manifest, calibration=None)
    (index / "manifest.json").write_bytes(old.to_bytes())
    first, second = update_index(index), update_index(index)
    assert (first.written, first.embedded) == (True, 0)
    assert (second.written, second.embedded) == (False, 0)
    assert read_manifest(index).calibration == manifest.calibration


@pytest.mark.parametrize("count", [1, 5, 19])
def test_a_few_rows_tell_nothing(tmp_path: Path, count: int) -> None:
    """With fewer than 20 rows there is no calibration, and searches answer."""
    rows = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    index = import_rows(tmp_path, rows, ["ab"[i % 2] for i in range(count)])
    with SearchEngine.open(index) as engine:
        assert engine.index.manifest.calibration is None
        assert engine.by_vector(rows[0]).matches[0].probability is None


def test_without_two_classes_only_outliers_are_told(tmp_path: Path) -> None:
    """Rows without labels have no probability; how far they are from each other is known."""
    rows = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) + 1
    with SearchEngine.open(import_rows(tmp_path, rows, [""] * 200)) as engine:
        assert known(engine).steps == ()
        result = engine.by_vector(-np.ones(8))
        assert {match.probability for match in result.matches} == {None}
        assert result.resemblance is not None
        assert result.resemblance.outlier
        with pytest.raises(QueryError):
            engine.by_vector(rows[0], min_probability=0.1)


# How it is asked


def test_least_probability(engine: SearchEngine) -> None:
    """Matches below it are left out, those at it stay, and shares are still divided by k."""
    whole = engine.by_row(3, k=50)
    chances = [match.probability for match in whole.matches]
    middle = chances[25]
    assert middle is not None
    part = engine.by_row(3, k=50, min_probability=middle)
    assert part.matches == tuple(m for m in whole.matches if (m.probability or 0) >= middle)
    assert 0 < len(part.matches) < 50
    assert part.correspondence is not None
    assert part.correspondence.accuracy == sum(m.label == part.label for m in part.matches) / 50


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_a_least_probability_out_of_range(engine: SearchEngine, bad: float) -> None:
    """It is refused with a sentence."""
    with pytest.raises(QueryError, match="between 0 and 1"):
        engine.by_row(3, min_probability=bad)


def test_no_probability_where_the_class_is_known(
    engine: SearchEngine, imgsearch: Callable[..., Run]
) -> None:
    """At scope same and other matches have none, and a least one is refused."""
    for scope in ("same", "other"):
        result = engine.by_row(3, scope=scope)
        assert result.resemblance is None
        assert {match.probability for match in result.matches} == {None}
        words = ("row:3", "--scope", scope, "--min-probability", "0.5")
        run = imgsearch("search", engine.index.folder, *words)
        assert run.code == 2
        assert f"at scope {scope}" in run.err


def test_command_and_python_say_the_same(
    engine: SearchEngine, imgsearch: Callable[..., Run]
) -> None:
    """Probabilities and p-value in JSON, csv and table are those of Python."""
    result = engine.by_row(17, k=7)
    run = imgsearch("search", engine.index.folder, "row:17", "-k", "7", "--json")
    (query,) = run.json["queries"]
    assert query == json.loads(json.dumps(result.to_dict()))
    assert query["resemblance"]["p_value"] == result.resemblance.p_value  # type: ignore[union-attr]
    lines = imgsearch("search", engine.index.folder, "row:17", "-k", "7", "--csv").out.splitlines()
    chances = [float(line["probability"]) for line in csv.DictReader(lines)]
    assert chances == [match.probability for match in result.matches]
    table = imgsearch("search", engine.index.folder, "row:17", "-k", "7").out
    assert "Probability" in table.splitlines()[0]
    assert f"{chances[0]:.2%}" in table.splitlines()[2]


def test_a_stranger_is_told_in_words(tmp_path: Path, imgsearch: Callable[..., Run]) -> None:
    """A row that nothing resembles is said to; an ordinary one is not."""
    rows = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32) * 0.3 + 1
    rows[299] = [-1, 1, -1, 1, -1, 1, -1, 1]
    index = import_rows(tmp_path, rows, ["ab"[i % 2] for i in range(300)])
    said = "This picture resembles nothing here"
    assert said in imgsearch("search", index, "row:299").out
    assert said not in imgsearch("search", index, "row:0").out


def test_new_labels_are_learned_anew(tmp_path: Path) -> None:
    """The same vectors with other labels mean something else."""
    rows = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    right = (rows[:, 0] > 0).astype(int)
    first = open_index(import_rows(tmp_path / "a", rows, right)).manifest.calibration
    second = open_index(import_rows(tmp_path / "b", rows, np.arange(100) % 2)).manifest.calibration
    assert first is not None
    assert second is not None
    assert first.typical == second.typical
    assert first.steps != second.steps


def test_helpers_write_none(tmp_path: Path) -> None:
    """An index whose writer learned nothing is read without a calibration."""
    rows = np.random.default_rng(0).normal(size=(30, 4))
    index = open_index(write_index(tmp_path / "x", rows, ["a", "b"] * 15))
    assert index.manifest.calibration is None
