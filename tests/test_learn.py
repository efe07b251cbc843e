"""A transform learned from labels: what it is, when it is written, and who goes through it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import ROOT
from helpers import write_index
from PIL import Image, ImageOps
from safetensors.numpy import load, save
from serving import Served
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from imgsearch import (
    ImgsearchError,
    IndexCorruptError,
    IndexExistsError,
    IndexVersionError,
    InputError,
    ModelMismatchError,
    QueryError,
    SearchEngine,
    build_index,
    discriminants,
    evaluate,
    import_vectors,
    indexing,
    learn,
    learning,
    trials,
    update_index,
    verify,
)
from imgsearch import manifest as manifests
from imgsearch.index import IndexWriter, open_index, read_manifest
from imgsearch.items import items_bytes
from imgsearch.records import TransformNote
from imgsearch.transforms import Transform, make_transform, read_transform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from conftest import Run

NOTE = TransformNote("made for a test", 1280, "0" * 64, 0.5, 0.6, (0.05, 0.15))


def units(rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return rows of unit length, float32."""
    wide = np.asarray(rows, np.float64)
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)


def hidden(
    count: int, classes: int = 4, dim: int = 24, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Make unit rows whose classes differ where rows differ little, and their classes."""
    random = np.random.default_rng(seed)
    ids = np.arange(count) % classes
    spread = np.where(np.arange(dim) < dim // 2, 1.0, 0.15)
    centres = random.standard_normal((classes, dim)) * np.where(spread == 1, 0, 0.25)
    return units(random.standard_normal((count, dim)) * spread + centres[ids] + 0.5), ids


def a_transform(dim: int = 24, seed: int = 3) -> Transform:
    """Make a transform of two parts with matrices."""
    random = np.random.default_rng(seed)
    mean = random.standard_normal(dim) / (3 * np.sqrt(dim))
    matrices = random.standard_normal((dim, dim)), random.standard_normal((dim, 3))
    return make_transform(mean, [(1 / 3, matrices[0]), (2 / 3, matrices[1])])


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of 240 rows in four classes, for which a transform helps."""
    rows, ids = hidden(240)
    return write_index(tmp_path_factory.mktemp("learn") / "raw", rows, [f"c{i}" for i in ids])


@pytest.fixture(scope="module")
def better(raw: Path) -> Path:
    """Return what was learned from it."""
    assert learn(raw, raw.parent / "better").written
    return raw.parent / "better"


@pytest.fixture
def pictures(class_folders: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return a folder of pictures, and an index of it whose rows went through a transform."""
    folder = shutil.copytree(class_folders, tmp_path / "photos")
    build_index(folder, tmp_path / "plain", model="efficientnet-lite2")
    learned(tmp_path / "plain", tmp_path / "learned")
    return folder, tmp_path / "learned"


def learned(plain: Path, target: Path) -> Transform:
    """Write an index anew through a transform of its own, whether that helps or not."""
    opened = open_index(plain)
    fit = learning._fit(opened)
    transform = make_transform(fit.mean, trials.Candidate("whitened", 0.5, 0.5).parts(fit))
    note = replace(NOTE, dim=opened.manifest.dim)
    learning._write(opened, target, transform, note, overwrite=False)
    return transform


# What a transform does.


def test_a_transform_is_its_formula() -> None:
    """Each part is the centred vector times its matrix, of unit length, by the root of a weight."""
    transform = a_transform()
    rows = units(np.random.default_rng(1).standard_normal((50, 24)))
    made, good = transform.apply(rows)
    assert good.all()
    assert made.dtype == np.float32
    assert made.shape == (50, transform.width) == (50, 27)
    parts = []
    for part in transform.parts:
        assert part.matrix is not None
        values = (rows.astype(np.float64) - transform.mean) @ part.matrix
        values /= np.linalg.norm(values, axis=1, keepdims=True)
        parts.append(np.sqrt(part.weight) * values)
    assert np.abs(made - np.concatenate(parts, axis=1)).max() < 1e-6
    assert np.abs(np.linalg.norm(made.astype(np.float64), axis=1) - 1).max() < 1e-6
    centred = make_transform(transform.mean, [(1.0, None)])
    away = rows.astype(np.float64) - transform.mean
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    assert np.abs(centred.apply(rows)[0] - away).max() < 1e-7


def test_a_product_is_summed_without_rounding() -> None:
    """The numbers are whole multiples, so that float64 holds each product and each sum of them."""
    transform = a_transform(dim=1024)
    row = units(np.random.default_rng(2).standard_normal((1, 1024)))[0].astype(np.float64)
    on_grid = np.rint(row * 2**25) / 2**25 - transform.mean
    matrix = transform.parts[1].matrix
    assert matrix is not None
    for column in matrix.T:
        exact = sum(Fraction(a) * Fraction(b) for a, b in zip(on_grid, column, strict=True))
        assert Fraction(float(on_grid @ column)) == exact
        assert Fraction(float((on_grid[::-1] * column[::-1]).cumsum()[-1])) == exact


def test_a_vector_is_the_same_in_any_company() -> None:
    """One by one, in any order or all at once, before and after the file: to the last bit."""
    transform = a_transform(dim=200)
    rows = units(np.random.default_rng(4).standard_normal((700, 200)))
    made = transform.apply(rows)[0]
    order = np.random.default_rng(5).permutation(700)
    assert transform.apply(rows[order])[0].tobytes() == made[order].tobytes()
    read = read_transform(transform.to_bytes(), "t", 200, transform.width)
    for i in range(0, 700, 50):
        one = read.one(rows[i])
        assert one is not None
        assert one.tobytes() == made[i].tobytes()


def test_what_is_the_mean_has_no_direction() -> None:
    """The mean itself is refused; where one part alone is zero the other has all the weight."""
    mean = np.zeros(8)
    mean[0] = 1
    first = np.zeros((8, 1))
    first[1] = 1
    transform = make_transform(mean, [(0.5, None), (0.5, first)])
    rows = units([[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]])
    made, good = transform.apply(rows)
    assert good.tolist() == [False, True, True]
    assert transform.one(rows[0]) is None
    assert np.allclose(np.linalg.norm(made[1:], axis=1), 1, atol=1e-6)
    assert made[1, -1] == 0
    assert made[2, -1] == np.float32(np.sqrt(0.5))


def test_its_file_is_read_by_safetensors_alone() -> None:
    """Mean, weights and matrices lie in a plain safetensors file, under the names of the docs."""
    transform = a_transform()
    found = load(transform.to_bytes())
    assert sorted(found) == ["matrix_0", "matrix_1", "mean", "weights"]
    assert found["mean"].dtype == found["matrix_0"].dtype == np.float32
    assert np.array_equal(found["matrix_1"], transform.parts[1].matrix)
    assert found["weights"].tolist() == [1 / 3, 2 / 3]


def spoilt_files() -> dict[str, bytes]:
    """Make files that are no transform of 24 numbers to 27."""
    whole = load(a_transform().to_bytes())
    raw_bytes = save(whole)

    def changed(**tensors: npt.NDArray[Any] | None) -> bytes:
        kept = {**whole, **tensors}
        return save({name: value for name, value in kept.items() if value is not None})

    def with_value(name: str, value: float) -> bytes:
        other = whole[name].copy()
        other.flat[3 % other.size] = value
        return changed(**{name: other})

    return {
        "empty": b"",
        "cut": raw_bytes[:-1],
        "longer": raw_bytes + b"\0",
        "too large": raw_bytes + bytes(1 << 16),
        "a header of 2**63": (1 << 63).to_bytes(8, "little") + raw_bytes[8:],
        "no mean": changed(mean=None),
        "a mean of doubles": changed(mean=whole["mean"].astype(np.float64)),
        "a mean of 23": changed(mean=whole["mean"][:-1]),
        "a mean that is no row": changed(mean=whole["mean"][:, None]),
        "a long mean": changed(mean=np.full(24, 0.5, np.float32)),
        "a mean between the multiples": with_value("mean", 2.0**-30),
        "NaN": with_value("matrix_0", float("nan")),
        "infinity": with_value("matrix_1", float("inf")),
        "a long column": with_value("matrix_1", 1.5),
        "a number between the multiples": with_value("matrix_0", 2.0**-40),
        "no matrix": changed(matrix_1=None),
        "another matrix": changed(matrix_2=whole["matrix_1"]),
        "a matrix of zeros": changed(matrix_1=np.zeros((24, 3), np.float32)),
        "a matrix of another width": changed(matrix_1=whole["matrix_1"][:, :2].copy()),
        "a matrix of no width": changed(matrix_1=np.zeros((24, 0), np.float32)),
        "a matrix of whole numbers": changed(matrix_1=np.ones((24, 3), np.int32)),
        "weights below 0": changed(weights=np.array([-0.5, 1.5])),
        "weights that sum to 2": changed(weights=np.array([1.0, 1.0])),
        "three weights": changed(weights=np.array([0.25, 0.25, 0.5])),
        "no weights": changed(weights=np.zeros(0)),
        "something more": changed(more=whole["mean"]),
    }


@pytest.mark.parametrize("name", spoilt_files())
def test_no_file_is_believed(name: str) -> None:
    """A file that is not what `to_bytes` writes is refused by name, whatever its sum."""
    with pytest.raises(IndexCorruptError, match="the-file"):
        read_transform(spoilt_files()[name], "the-file", 24, 27)


# What it is learned from.


def fitted(rows: npt.NDArray[np.floating], ids: npt.NDArray[np.integer]) -> discriminants.Fit:
    """Fit rows as `learn` does, in two parts."""
    half = len(rows) // 2
    parts = [(rows[:half], ids[:half]), (rows[half:], ids[half:])]
    one, two = (discriminants.moments(*part, int(ids.max()) + 1) for part in parts)
    return discriminants.fit(one + two, parts, rows.shape[1])


@pytest.mark.parametrize(("classes", "dim"), [(4, 24), (9, 5), (3, 40)])
def test_discriminants_are_those_of_scikit_learn(classes: int, dim: int) -> None:
    """The same directions, up to sign, and as long as theirs beside each other."""
    rows, ids = hidden(150, classes, dim)
    found = fitted(rows, ids).discriminants(0.0)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(rows.astype(np.float64), ids)
    due = theirs.scalings_[:, : min(classes - 1, dim)]
    assert found.shape == due.shape
    cosines = np.einsum("ij,ij->j", found, due)
    cosines /= np.linalg.norm(found, axis=0) * np.linalg.norm(due, axis=0)
    assert np.abs(cosines) == pytest.approx(1, abs=1e-6)
    ratios = np.linalg.norm(found, axis=0) / np.linalg.norm(due, axis=0)
    assert ratios / ratios[0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("classes", "dim", "shrinkage"), [(4, 24, 0.3), (3, 200, 0.9)])
def test_shrunk_discriminants_span_what_scikit_learn_separates_by(
    classes: int, dim: int, shrinkage: float
) -> None:
    """They span the space in which its classifier of the same shrinkage tells classes apart.

    (Its solver "eigen" shrinks the scatter between the classes as well, which says nothing of how
    they differ; its solver "lsqr" does not.)
    """
    rows, ids = hidden(150, classes, dim)
    found = np.linalg.qr(fitted(rows, ids).discriminants(shrinkage))[0]
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage)
    coefficients = theirs.fit(rows.astype(np.float64), ids).coef_
    apart = (coefficients - coefficients.mean(axis=0)).T
    assert np.linalg.matrix_rank(apart, tol=1e-6) == found.shape[1] == classes - 1
    assert found @ (found.T @ apart) == pytest.approx(apart, abs=1e-8 * np.abs(apart).max())


@pytest.mark.parametrize(("count", "dim"), [(60, 24), (40, 90), (3000, 12)])
def test_shrinkage_is_that_of_scikit_learn(count: int, dim: int) -> None:
    """Ledoit's and Wolf's shrinkage of the scatter within, whatever is larger, rows or numbers."""
    rows, ids = hidden(count, 4, dim)
    wide = rows.astype(np.float64)
    means = np.stack([wide[ids == label].mean(axis=0) for label in range(4)])
    due = ledoit_wolf(wide - means[ids], assume_centered=True)[1]
    assert fitted(rows, ids).best_shrinkage == pytest.approx(due, rel=1e-9)


def test_whitening_levels_the_scatter_within() -> None:
    """Without shrinkage the whitened rows scatter by 1 in each direction, within classes."""
    rows, ids = hidden(400, 4, 10)
    fit = fitted(rows, ids)
    white = (rows - fit.mean) @ fit.whitening(0.0)
    means = np.stack([white[ids == label].mean(axis=0) for label in range(4)])
    away = white - means[ids]
    assert away.T @ away / 400 == pytest.approx(np.eye(10), abs=1e-9)
    assert rows.mean(axis=0, dtype=np.float64) == pytest.approx(fit.mean, abs=1e-12)


def test_means_that_do_not_differ_have_no_discriminants() -> None:
    """One class, or classes of the same means, give a direction that is zero, and no error."""
    rows, ids = hidden(40)
    assert not fitted(rows, np.zeros_like(ids)).discriminants(0.5).any()
    twice = np.concatenate([rows, rows])
    assert not fitted(twice, np.repeat([0, 1], 40)).discriminants(0.5).any()


# When it helps.


def test_what_helps_is_found() -> None:
    """Classes that the raw cosine hardly sees: the gain is beyond doubt, and of new rows as well.

    The interval holds the gain on rows that no fold has seen, with what was learned from all.
    """
    rows, ids = hidden(1240)
    trial = trials.try_candidates(rows[:240], ids[:240])
    assert trial is not None
    assert trial.helps
    assert trial.chosen.share > 0
    fit = fitted(rows[:240], ids[:240])
    transform = make_transform(fit.mean, trial.chosen.parts(fit))

    def precision(found: npt.NDArray[np.float32]) -> float:
        near = found[240:] @ found[:240].T
        return float((ids[:240][np.argsort(-near, axis=1)[:, :5]] == ids[240:, None]).mean())

    gain = precision(transform.apply(rows)[0]) - precision(rows)
    assert trial.interval[0] < gain < trial.interval[1]
    assert gain > 0.2


def test_labels_by_lot_teach_nothing() -> None:
    """Where labels are shuffled nothing helps, in at least 29 of 30 runs.

    The gain then scatters no more than the intervals say, and not less than half of that.
    """
    rows, ids = hidden(100, dim=12)
    found = []
    for seed in range(30):
        shuffled = np.random.default_rng(seed).permutation(ids)
        found.append(trials.try_candidates(rows, shuffled, seed=seed))
    runs = [one for one in found if one is not None]
    assert len(runs) == 30
    assert sum(one.helps for one in runs) <= 1
    told = np.mean([one.interval[1] - one.interval[0] for one in runs]) / (2 * 1.96)
    assert told / 2 < np.std([one.difference for one in runs]) < told * 1.15


def test_a_look_alike_must_still_be_found() -> None:
    """Discriminants alone find most of the class and lose the look-alike: they are not chosen."""
    rows, ids = hidden(300, classes=3, dim=60)
    trial = trials.try_candidates(rows, ids)
    assert trial is not None
    assert trial.found[1] >= trial.found[0] - 0.01
    assert 0 < trial.chosen.share < 1
    fit = fitted(rows, ids)
    moved = units(rows + 0.02 * np.random.default_rng(0).standard_normal(rows.shape))
    first = {}
    for share in (trial.chosen.share, 1.0):
        one = make_transform(fit.mean, replace(trial.chosen, share=share).parts(fit))
        near = one.apply(moved)[0] @ one.apply(rows)[0].T
        first[share] = (near.argmax(axis=1) == np.arange(300)).mean()
    assert first[1.0] < 0.9 < first[trial.chosen.share]


def test_what_belongs_together_is_in_one_fold() -> None:
    """Rows of a group, of one content, and near-duplicates; and what these share, all together."""
    rows = units(np.random.default_rng(0).standard_normal((60, 30)))
    rows[20] = units(rows[None, 3] + 0.01 * rows[None, 4])[0]
    groups = ["a" if i in {5, 30} else None for i in range(60)]
    sums = ["s" if i in {30, 41} else None for i in range(60)]
    found = trials.together(rows, [groups, sums])
    assert found[20] == found[3] == 3
    assert found[5] == found[30] == found[41] == 5
    assert len(np.unique(found)) == 60 - 3
    folds = trials.fold_rows(np.arange(60) % 3, found, np.random.default_rng(1))
    assert all(len(set(folds[found == unit].tolist())) == 1 for unit in np.unique(found))
    assert np.bincount(folds).min() >= 10


def test_twins_do_not_pass_for_a_gain() -> None:
    """Labels by lot that near-duplicates or groups share are learned by heart, and not counted."""
    random = np.random.default_rng(7)
    rows = units(random.standard_normal((100, 40)) + 0.3)
    twins = units(np.repeat(rows, 2, axis=0) + 0.02 * random.standard_normal((200, 40)))
    ids = np.repeat(random.permutation(np.arange(100) % 4), 2)
    trial = trials.try_candidates(twins, ids)
    assert trial is not None
    assert trial.units == 100
    assert not trial.helps
    assert trial.raw["precision_at_k"] < 0.35  # a twin would be right each time
    far = units(random.standard_normal((200, 40)) + 0.3)
    groups = [f"g{i // 2}" for i in range(200)]
    grouped = trials.try_candidates(far, ids, [groups])
    assert grouped is not None
    assert grouped.units == 100


def test_a_sample_keeps_groups_whole() -> None:
    """No more rows than asked for, of whole groups, and all where there are few enough."""
    groups = [f"g{i // 3}" if i < 600 else None for i in range(1000)]
    drawn = trials.sample(1000, [groups], most=300)
    assert 290 < len(drawn) <= 300
    assert (np.diff(drawn) > 0).all()
    taken = {groups[row] for row in drawn.tolist()} - {None}
    assert len(taken) > 30
    assert sum(groups[row] is not None for row in drawn.tolist()) == 3 * len(taken)
    assert trials.sample(1000, [groups]).tolist() == list(range(1000))


def test_folds_are_searched_like_an_index(raw: Path) -> None:
    """The raw figure is what a search of the other folds' rows by the engine comes to."""
    opened = open_index(raw)
    rows, ids = np.array(opened.vectors.rows), opened.items.classes.ids
    trial = trials.try_candidates(rows, ids)
    assert trial is not None
    folds = trials.fold_rows(ids, trials.together(rows), np.random.default_rng(0))
    right = 0
    for fold in range(trials.FOLDS):
        base, asked = rows[folds != fold], rows[folds == fold]
        scores = asked.astype(np.float64) @ base.T.astype(np.float64)
        top = np.argsort(-scores, axis=1, kind="stable")[:, :5]
        right += (ids[folds != fold][top] == ids[folds == fold][:, None]).sum()
    assert trial.raw["precision_at_k"] == pytest.approx(right / (5 * len(rows)), abs=1e-12)


# The journey.


def test_learn_writes_an_index(raw: Path, better: Path) -> None:
    """Its rows are those of the old one through the transform; items stay; it is whole."""
    old, new = open_index(raw), open_index(better)
    assert verify(better) == []
    assert new.transform is not None
    assert (
        new.vectors.rows.tobytes() == new.transform.apply(np.array(old.vectors.rows))[0].tobytes()
    )
    assert new.items.all() == old.items.all()
    note = new.manifest.transform
    assert note is not None
    assert note.learned_from == old.manifest.files["vectors"].sha256
    assert (note.dim, new.manifest.dim) == (24, new.transform.width)
    assert new.info()["transform"] == note.to_dict()
    assert (old.manifest.format_version, new.manifest.format_version) == (1, 2)
    assert json.loads((raw / "manifest.json").read_text())["format_version"] == 1
    with SearchEngine.open(raw) as one, SearchEngine.open(better) as two:
        gain = evaluate(two).overall["precision_at_k"] - evaluate(one).overall["precision_at_k"]
    assert gain > 0.2


def test_a_vector_is_asked_as_the_model_gives_it(raw: Path, better: Path) -> None:
    """A raw vector finds its own row with score 1; one of the stored length is refused (exit 5)."""
    rows = np.array(open_index(raw).vectors.rows)
    with SearchEngine.open(better) as engine:
        for row in (0, 17, 239):
            best = engine.by_vector(rows[row] * 3).matches[0]
            assert best.row == row
            assert best.score == pytest.approx(1, abs=1e-6)
        with pytest.raises(ModelMismatchError, match="24 numbers, as its model"):
            engine.by_vector(engine.index.vectors.rows[0])
        with pytest.raises(QueryError, match="no direction"):
            engine.by_vector(np.zeros(24))


def test_learn_by_the_command(raw: Path, imgsearch: Callable[..., Run], tmp_path: Path) -> None:
    """JSON has the contract's fields; what is there is not replaced unasked; text says the gain."""
    words = ("learn", raw, tmp_path / "new")
    run = imgsearch(*words, "--json")
    assert run.code == 0
    fields = ("index", "new", "chosen", "raw", "learned", "difference", "interval", "written")
    assert set(fields) <= set(run.json)
    assert run.json["written"] is True
    measures = ["precision_at_k", "hit_rate_at_k", "top1_accuracy", "map_at_k"]
    assert list(run.json["raw"]) == list(run.json["learned"]) == measures
    low, high = run.json["interval"]
    assert 0 < low < run.json["difference"] < high
    refused = imgsearch(*words)
    assert refused.code == 2
    assert "--overwrite" in refused.err
    again = imgsearch(*words, "--overwrite")
    assert again.code == 0
    assert "Written: " in again.out
    assert f"{run.json['difference']:+.4f}" in again.out
    told = imgsearch("info", tmp_path / "new")
    assert "of 24 numbers; precision@5" in told.out


def test_where_nothing_helps_nothing_is_written(
    imgsearch: Callable[..., Run], tmp_path: Path
) -> None:
    """It says so and ends with 0, and there is no folder."""
    rows, ids = hidden(120)
    labels = [f"c{i}" for i in np.random.default_rng(0).permutation(ids)]
    write_index(tmp_path / "lot", rows, labels)
    run = imgsearch("learn", tmp_path / "lot", tmp_path / "new")
    assert run.code == 0
    assert "Nothing written" in run.out
    run = imgsearch("learn", tmp_path / "lot", tmp_path / "new", "--json")
    assert (run.code, run.json["written"]) == (0, False)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "labels",
    [
        ["one"] * 40,
        [None] * 40,
        [f"c{i}" for i in range(40)],
        ["one"] * 39 + ["two"],
        [("one", "two")[i % 2] if i < 16 else None for i in range(40)],
    ],
    ids=["one class", "no label", "classes of one row", "a class of one row", "16 rows"],
)
def test_too_few_labels_are_told(labels: list[str | None], tmp_path: Path) -> None:
    """A sentence says what is needed, and nothing is written (exit 2)."""
    rows, _ = hidden(40)
    write_index(tmp_path / "few", rows, labels)
    with pytest.raises(InputError, match="too few labels to learn from"):
        learn(tmp_path / "few", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_learned_from_is_refused(raw: Path, better: Path, tmp_path: Path) -> None:
    """A learned index, the index itself as NEW, one that is there, and none at all."""
    with pytest.raises(InputError, match="learned already"):
        learn(better, tmp_path / "new")
    with pytest.raises(InputError, match="another index"):
        learn(raw, raw.parent / "x" / ".." / "raw", overwrite=True)
    with pytest.raises(IndexExistsError):
        learn(raw, better)
    with pytest.raises(ImgsearchError) as missing:
        learn(tmp_path / "none", tmp_path / "new")
    assert missing.value.exit_code == 3


def test_rows_without_a_label_go_through_as_well(tmp_path: Path) -> None:
    """They are not learned from, and all else of the index stays: groups and skips, too."""
    rows, ids = hidden(200)
    rows[7] = 0
    np.save(tmp_path / "v.npy", rows)
    lines = [f"{i}.png,{'' if i % 5 == 0 else f'c{ids[i]}'},g{i // 2}" for i in range(200)]
    (tmp_path / "items.csv").write_text("path,label,group\n" + "\n".join(lines) + "\n")
    import_vectors(tmp_path / "v.npy", tmp_path / "items.csv", tmp_path / "plain")
    found = learn(tmp_path / "plain", tmp_path / "new")
    assert found.written
    assert found.rows == open_index(tmp_path / "plain").items.classes.counts.sum() < 199
    assert found.units < 120
    old, new = open_index(tmp_path / "plain"), open_index(tmp_path / "new", thorough=True)
    assert new.items.all() == old.items.all()
    assert new.skipped() == old.skipped() != ()
    with SearchEngine(new) as engine:
        assert engine.by_vector(rows[5]).matches[0].row == 5


def test_the_docs_apply_a_transform() -> None:
    """What docs/format.md says of a learned index makes its rows, with numpy and safetensors."""
    text = (ROOT / "docs" / "format.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (script,) = [block for block in blocks if "row_of" in block]
    names: dict[str, Any] = {}
    exec(script, names)  # noqa: S102 - our own docs
    golden = ROOT / "tests" / "golden" / "v2"
    file = golden / "learned" / read_manifest(golden / "learned").files["transform"].name
    with SearchEngine.open(golden / "learned") as engine:
        for query in json.loads((golden / "learned.json").read_text(encoding="utf-8"))["queries"]:
            vector = np.array([float.fromhex(number) for number in query["vector"]])
            made = engine.vector_query(vector).vector
            assert names["row_of"](vector, file) == pytest.approx(made, abs=1e-7)


def test_a_quantized_model_goes_along(raw: Path, tmp_path: Path) -> None:
    """An int8 index has its model file in the new generation, too."""
    opened = open_index(raw)

    def make(files: dict[str, manifests.FileEntry]) -> manifests.Manifest:
        return replace(opened.manifest, precision="int8", files=files)

    with IndexWriter(tmp_path / "int8") as writer:
        writer.start(24)
        writer.append(np.array(opened.vectors.rows))
        writer.commit(items_bytes(opened.items.all()), None, make, b"a model")
    assert learn(tmp_path / "int8", tmp_path / "new").written
    new = open_index(tmp_path / "new", thorough=True)
    assert new.quantized() == b"a model"
    assert new.manifest.precision == "int8"
    assert new.transform is not None


def test_steps_are_told(raw: Path, tmp_path: Path) -> None:
    """Progress rises from the first step to the last."""
    told: list[tuple[int, int]] = []
    learn(raw, tmp_path / "new", progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == told[-1][1] == told[0][1]
    assert len(told) > trials.STEPS


# What lies on disk.


def test_a_spoilt_transform_is_refused(better: Path, tmp_path: Path) -> None:
    """A flipped bit, another size, a missing file: exit 4, by the name of the file."""
    name = read_manifest(better).files["transform"].name
    whole = (better / name).read_bytes()
    flipped = bytes([*whole[:-9], whole[-9] ^ 1, *whole[-8:]])
    for i, data in enumerate((flipped, whole[:-1], whole + b"\0", None)):
        folder = shutil.copytree(better, tmp_path / str(i))
        if data is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(data)
        with pytest.raises(IndexCorruptError, match=name):
            open_index(folder)
        assert name in verify(folder)[0]


def resealed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest of an index, and give it the right sum."""
    document = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del document["sha256"]
    change(document)
    body = json.dumps(document, indent=1, ensure_ascii=False).removesuffix("\n}").encode() + b",\n"
    last = f' "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'
    (folder / "manifest.json").write_bytes(body + last.encode())


def test_a_transform_with_a_right_sum_is_not_believed(better: Path, tmp_path: Path) -> None:
    """A file that was put in its place with its sum in the manifest is checked all the same."""
    for i, data in enumerate((b"no tensors", a_transform(dim=25).to_bytes(), bytes(1 << 20))):
        folder = shutil.copytree(better, tmp_path / str(i))
        total = hashlib.sha256(data).hexdigest()
        name = manifests.data_name("transform", total)
        (folder / name).write_bytes(data)

        def change(document: dict[str, Any], name: str = name, total: str = total) -> None:
            size = (folder / name).stat().st_size  # noqa: B023 - called at once
            document["files"]["transform"] = {"name": name, "size": size, "sha256": total}

        resealed(folder, change)
        with pytest.raises(IndexCorruptError, match=name):
            open_index(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"dim": 0},
        {"dim": 11},  # no two parts of 11 numbers make up a row
        {"dim": "24"},
        {"chosen": "two\nlines"},
        {"learned_from": "0"},
        {"raw": "0.5"},
        {"learned": 2},
        {"interval": [0.1]},
        {"interval": None},
        {"more": 1},
        None,
    ],
)
def test_a_manifest_that_cannot_be_is_refused(
    better: Path, tmp_path: Path, change: dict[str, Any] | None
) -> None:
    """What it says of the transform has its types and bounds, and stands there with the file."""
    folder = shutil.copytree(better, tmp_path / "spoilt")

    def spoil(document: dict[str, Any]) -> None:
        if change is None:
            del document["transform"]
        else:
            document["transform"].update(change)

    resealed(folder, spoil)
    with pytest.raises(IndexCorruptError, match=r"manifest\.json"):
        open_index(folder)


def test_an_older_reader_refuses_a_learned_index(
    better: Path, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would ask with raw vectors: the version says no, and a lower one does not help."""
    folder = shutil.copytree(better, tmp_path / "lower")
    resealed(folder, lambda document: document.update(format_version=1))
    with pytest.raises(IndexCorruptError, match="'files'"):
        open_index(folder)
    monkeypatch.setattr(manifests, "FORMAT_VERSION", 1)
    with pytest.raises(IndexVersionError, match="newer imgsearch-faiss"):
        open_index(better)
    assert open_index(raw).transform is None


# Pictures.


def test_every_face_asks_through_the_transform(
    pictures: tuple[Path, Path], imgsearch: Callable[..., Run], photos: list[Path]
) -> None:
    """A picture has the same matches and scores by Python, command and service, by image or vector.

    They are those of its raw vector, by which the plain index is asked, through the transform.
    """
    folder, index = pictures
    photo = photos[20]
    with (
        SearchEngine.open(folder.parent / "plain") as plain,
        SearchEngine.open(index) as engine,
    ):
        vector = plain.image_query(photo).vector
        found = engine.by_image(photo, 5)
        assert engine.by_vector(vector).matches == found.matches
        transform = engine.index.transform
        assert transform is not None
        made = transform.one(vector)
        assert made is not None
        scores = engine.index.vectors.rows.astype(np.float64) @ made.astype(np.float64)
        assert [match.row for match in found.matches] == np.argsort(-scores)[:5].tolist()
        # A copy of a picture finds it.
        first = min(folder.rglob("*.jpg"))
        with Image.open(first) as opened:
            mirrored = ImageOps.mirror(opened.convert("RGB"))
        best = engine.by_image(mirrored).matches[0]
        assert best.path == str(first.relative_to(folder))
    due = found.to_dict()["matches"]
    run = imgsearch("search", index, photo, "--json")
    assert run.json["queries"][0]["matches"] == due
    served = Served(index)
    with served.client() as client:
        answer = client.post(
            "/v1/search", files={"image": photo.read_bytes()}, data={"vector": "true"}
        ).json()["queries"][0]
        assert answer["matches"] == due
        assert answer["vector"] == vector.tolist()
        again = client.post("/v1/search/vector", json={"vector": answer["vector"]}).json()
        assert again["queries"][0]["matches"] == due
        wrong = client.post("/v1/search/vector", json={"vector": made.tolist()})
        assert wrong.status_code == 400
        assert client.get("/v1/index").json()["transform"]["dim"] == 1280
    assert served.end() == 0


def test_an_update_keeps_the_transform(pictures: tuple[Path, Path], photos: list[Path]) -> None:
    """New pictures go through it, known ones keep their rows; labels teach nothing new."""
    folder, index = pictures
    before = open_index(index)
    assert not update_index(index).written
    with Image.open(photos[30]) as opened:
        opened.thumbnail((300, 300))
        opened.save(folder / "alpha" / "zzz.jpg")
    moved = min((folder / "beta").iterdir())
    moved.rename(folder / "gamma" / moved.name)
    found = update_index(index)
    assert (found.embedded, found.added, found.written) == (1, 1, True)
    after = open_index(index, thorough=True)
    assert after.manifest.files["transform"] == before.manifest.files["transform"]
    assert after.manifest.transform == before.manifest.transform
    old = {item.sha256: row for row, item in enumerate(before.items.all())}
    with SearchEngine(after) as engine:
        for row, item in enumerate(after.items.all()):
            vector = after.vectors.rows[row]
            if item.sha256 in old:
                assert vector.tobytes() == before.vectors.rows[old[item.sha256]].tobytes()
            else:
                asked = engine.image_query(folder / item.path).vector
                assert asked.tobytes() == vector.tobytes()
    assert not update_index(index).written


def test_an_update_that_was_interrupted_goes_on(
    pictures: tuple[Path, Path], photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had embedded has gone through the transform once, and not a second time."""
    folder, index = pictures
    shutil.copy(photos[31], folder / "alpha" / "zzz.jpg")
    with monkeypatch.context() as patched:
        patched.setattr(indexing, "commit", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            update_index(index)
    assert (index / ".work").exists()
    assert update_index(index).embedded == 0
    after = open_index(index)
    row = after.items.column("path").index("alpha/zzz.jpg")
    with SearchEngine(after) as engine:
        asked = engine.image_query(folder / "alpha" / "zzz.jpg").vector
    assert asked.tobytes() == after.vectors.rows[row].tobytes()


def test_a_build_over_it_forgets_the_transform(pictures: tuple[Path, Path]) -> None:
    """The index is a plain one again, of the rows that the model gives; the journals differ."""
    folder, index = pictures
    learned_manifest = read_manifest(index)
    build_index(folder, index, model="efficientnet-lite2", overwrite=True)
    plain = open_index(folder.parent / "plain")
    opened = open_index(index)
    assert opened.transform is None
    assert opened.manifest.format_version == 1
    assert opened.vectors.rows.tobytes() == plain.vectors.rows.tobytes()
    assert indexing.identity(learned_manifest) != indexing.identity(opened.manifest)
    assert indexing.identity(plain.manifest) == indexing.identity(opened.manifest)


# What the labels have seen.


def test_values_of_rows_that_were_learned_from_say_so(
    raw: Path, better: Path, imgsearch: Callable[..., Run], tmp_path: Path
) -> None:
    """Leave-one-out of a learned index is too good: text, report, JSON and the audit say it."""
    report = tmp_path / "report.html"
    said = imgsearch("evaluate", better, "--report", report)
    kept_out = f"{open_index(better).manifest.transform.learned:.2%}"  # type: ignore[union-attr]
    assert "learned from the labels of the very pictures that were asked" in said.out
    assert f"precision at 5 was {kept_out}" in " ".join(said.out.split())
    assert kept_out in report.read_text(encoding="utf-8")
    assert imgsearch("evaluate", better, "--json").json["learned_from_queries"] is True
    assert imgsearch("evaluate", raw, "--json").json["learned_from_queries"] is False
    assert "learned from the labels" not in imgsearch("evaluate", raw).out
    assert "audit the index that it was learned from" in imgsearch("audit", better).err
    assert "learned" not in imgsearch("audit", raw).err


def test_rows_that_were_learned_from_are_no_comparison(
    raw: Path, better: Path, imgsearch: Callable[..., Run]
) -> None:
    """Asked with rows whose labels it has seen, the learned index would win by construction."""
    for pair in ((raw, better), (better, raw)):
        run = imgsearch("compare", *pair)
        assert run.code == 2
        assert "compare on a TEST folder" in run.err
        assert run.out == ""


def test_a_test_folder_may_be_asked_of_a_learned_index(
    pictures: tuple[Path, Path], imgsearch: Callable[..., Run], class_folders: Path
) -> None:
    """Other pictures say what a learned index is worth, and compare takes them."""
    folder, index = pictures
    found = imgsearch("evaluate", index, class_folders, "--json").json
    assert found["learned_from_queries"] is False
    run = imgsearch("compare", folder.parent / "plain", index, class_folders, "--json")
    assert run.code == 0, run.err
    assert run.json["n_queries"] > 0


def test_the_service_says_it_too(better: Path) -> None:
    """The evaluation of a learned index over HTTP is marked."""
    served = Served(better)
    try:
        with served.client() as client:
            found: dict[str, Any] = {"ready": False}
            while not found["ready"]:
                found = client.get("/v1/evaluation").json()
        assert found["learned_from_queries"] is True
    finally:
        served.end()
