"""Ranking against brute force: the same rows, the same order, the same scores, to the last bit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import faiss
import numpy as np
import pytest

from imgsearch import ranking, vectors
from imgsearch.codes import Estimator
from imgsearch.scanning import scan
from imgsearch.vectors import VectorFile, VectorWriter

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]


def unit_rows(count: int, dim: int, seed: int) -> Floats:
    """Return random unit rows, float32 (count, dim)."""
    raw = np.random.default_rng(seed).standard_normal((count, dim))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


def stored(path: Path, rows: Floats) -> VectorFile:
    """Write rows as a vector file and open it."""
    with path.open("w+b") as stream:
        writer = VectorWriter(stream, rows.shape[1])
        writer.append(rows)
        writer.finish()
    return vectors.open_vectors(path, *rows.shape)


def brute_force(
    rows: Floats, query: Floats, k: int, allowed: Mask | None, itself: int | None
) -> tuple[list[int], list[float]]:
    """Score every row in float64, round once to float32, sort by score and row."""
    scores = (rows.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
    keep = [
        row for row in range(len(rows)) if row != itself and (allowed is None or bool(allowed[row]))
    ]
    best = sorted(keep, key=lambda row: (-scores[row], row))[:k]
    return best, [float(scores[row]) for row in best]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> VectorFile:
    """Return 400 rows: 70 copies of one, 100 neighbours a rounding away from another, the rest."""
    rows = unit_rows(400, 96, seed=1)
    rows[10:360:5] = rows[10]
    near = rows[1] + np.random.default_rng(2).standard_normal((100, 96)) * 1e-7
    rows[200:300] = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    return stored(tmp_path_factory.mktemp("crowded") / "vectors.faiss", rows)


@pytest.mark.parametrize("k", [1, 5, 10, 50, 399, 400, 1000])
def test_top_k_is_brute_force(crowded: VectorFile, k: int) -> None:
    """Every row as query, alone and all at once, among copies and near-ties: no difference."""
    rows = crowded.rows
    picked = range(0, len(rows), 1 if k < 50 else 7)
    wanted = [brute_force(rows, rows[i], k, None, i) for i in picked]
    queries = np.stack([rows[i] for i in picked])
    together = ranking.top_k(crowded, queries, k, exclude=list(picked))
    alone = [ranking.top_k(crowded, rows[i][None, :], k, exclude=[i])[0] for i in picked]
    for answers in (together, alone):
        found = [(its_rows.tolist(), scores.tolist()) for its_rows, scores in answers]
        assert found == wanted


@pytest.mark.parametrize("share", [0.0, 0.004, 0.1, 0.5, 1.0])
def test_filter_is_part_of_the_search(crowded: VectorFile, share: float) -> None:
    """With a filter k rows come back wherever k rows qualify, and the right ones."""
    rng = np.random.default_rng(3)
    for i in range(0, crowded.count, 9):
        allowed = rng.random(crowded.count) < share
        found, scores = ranking.top_k(
            crowded, crowded.rows[i][None, :], 20, allowed=[allowed], exclude=[i]
        )[0]
        wanted = brute_force(crowded.rows, crowded.rows[i], 20, allowed, i)
        assert (found.tolist(), scores.tolist()) == wanted
        allowed[i] = False
        assert len(found) == min(20, np.count_nonzero(allowed))


def test_scan_is_brute_force(crowded: VectorFile) -> None:
    """One pass gives the k best, each class' best row, the first rank and R, as loops do."""
    rows = crowded.rows
    rng = np.random.default_rng(4)
    ids = rng.integers(-1, 6, len(rows)).astype(np.int32)
    counts = np.bincount(ids[ids >= 0], minlength=6).astype(np.int64)
    classes = ranking.Classes(tuple("abcdef"), ids, counts)
    picked = list(range(0, len(rows), 3))
    own = [int(ids[i]) for i in picked]
    scans = scan(Estimator(crowded), classes, rows[picked], 7, own=own, exclude=list(picked))
    for i, mine, one in zip(picked, own, scans, strict=True):
        ranked, scores = brute_force(rows, rows[i], len(rows), None, i)
        assert (one.rows.tolist(), one.scores.tolist()) == (ranked[:7], scores[:7])
        for at in range(6):
            first = next(j for j, row in enumerate(ranked) if ids[row] == at)
            assert int(one.best_rows[at]) == ranked[first]
            assert float(one.best_scores[at]) == scores[first]
        if mine < 0:
            assert one.first_rank is None
            continue
        alike = [row for row in ranked if ids[row] == mine]
        assert one.first_rank == 1 + ranked.index(alike[0])
        assert one.relevant_in_r == sum(ids[row] == mine for row in ranked[: len(alike)])


def test_scan_of_a_class_with_nothing_but_the_query(tmp_path: Path) -> None:
    """A class whose only row is the query has no best row and no rank."""
    rows = unit_rows(5, 16, seed=5)
    vector_file = stored(tmp_path / "v.faiss", rows)
    ids = np.array([0, 1, 1, 1, -1], np.int32)
    classes = ranking.Classes(("one", "two"), ids, np.array([1, 3], np.int64))
    (one,) = scan(Estimator(vector_file), classes, rows[:1], 5, own=[0], exclude=[0])
    assert int(one.best_rows[0]) == -1
    assert math.isnan(one.best_scores[0])
    assert one.first_rank is None
    assert one.relevant_in_r == 0
    assert len(one.rows) == 4


@pytest.mark.parametrize("shuffled", [False, True], ids=["sorted", "shuffled"])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_many_queries_of_many_rows_are_brute_force(
    tmp_path: Path, k: int, *, shuffled: bool
) -> None:
    """A batch over groups of rows finds what loops find, with and without classes and filters."""
    rows = unit_rows(6000, 24, seed=8)
    rows[40:3000:40] = rows[40]
    rows[5000:5100] = rows[4999]
    rng = np.random.default_rng(9)
    ids = np.sort(rng.integers(-1, 9, len(rows))).astype(np.int32)
    ids[ids == 4] = 5  # a name that no row has
    if shuffled:
        rng.shuffle(ids)
    counts = np.bincount(ids[ids >= 0], minlength=9).astype(np.int64)
    classes = ranking.Classes(tuple("abcdefghi"), ids, counts)
    picked = [40, 80, 4999, 5050, *range(7, 6000, 400)]
    exclude = [None if row % 3 == 0 else row for row in picked]
    source = Estimator(stored(tmp_path / "v.faiss", rows))
    same = {at: ids == at for at in {int(ids[row]) for row in picked}}
    nothing = np.zeros(len(rows), np.bool_)
    masks = [nothing if row == 80 else same[int(ids[row])] for row in picked]
    free = list(scan(source, classes, rows[picked], k, exclude=exclude))
    held = list(scan(source, None, rows[picked], k, exclude=exclude, allowed=masks))
    for row, itself, one, other, mask in zip(picked, exclude, free, held, masks, strict=True):
        ranked, scores = brute_force(rows, rows[row], len(rows), None, itself)
        assert (one.rows.tolist(), one.scores.tolist()) == (ranked[:k], scores[:k])
        for at in range(9):
            first = next((j for j, found in enumerate(ranked) if ids[found] == at), None)
            assert int(one.best_rows[at]) == (-1 if first is None else ranked[first])
        wanted = brute_force(rows, rows[row], k, mask, itself)
        assert (other.rows.tolist(), other.scores.tolist()) == wanted


def test_exact_scores_are_rounded_once() -> None:
    """A sum that lies on the edge of a float32 is taken without rounding: math.fsum agrees."""
    rng = np.random.default_rng(6)
    rows = unit_rows(2000, 64, seed=6)
    # Rows that end just beside the middle of two float32 numbers.
    query = unit_rows(1, 64, seed=7)[0]
    rows[:, 0] += rng.integers(-3, 4, 2000).astype(np.float32) * np.float32(2**-24)
    exact = [
        np.float32(math.fsum(float(a) * float(b) for a, b in zip(row, query, strict=True)))
        for row in rows
    ]
    assert ranking.exact_scores(rows, query).tolist() == [float(value) for value in exact]


def test_exact_scores_settle_what_float64_cannot() -> None:
    """Where float64 loses the deciding bit, the score is still the exact sum, rounded."""
    # 1 + 2**-24 is the middle between two float32; 2**-60 decides, and is lost in a plain sum.
    rows = np.array([[1.0, 2.0**-24, 2.0**-60]], np.float32)
    query = np.array([1.0, 1.0, 1.0], np.float32)
    # The exact sum in float64 is the middle again: ties go to the even float32, which is 1.
    assert ranking.exact_scores(rows, query)[0] == np.float32(math.fsum([1.0, 2.0**-24, 2.0**-60]))
    rows = np.array([[1.0, 2.0**-24, 2.0**-50]], np.float32)
    assert ranking.exact_scores(rows, query)[0] == np.float32(1 + 2.0**-23)


def test_answers_do_not_depend_on_threads(crowded: VectorFile) -> None:
    """One thread or all: the same rows and scores."""
    threads = faiss.omp_get_max_threads()
    answers = []
    for number in (1, threads):
        faiss.omp_set_num_threads(number)
        found = ranking.top_k(crowded, np.array(crowded.rows[:50]), 10)
        answers.append([(rows.tolist(), scores.tolist()) for rows, scores in found])
    faiss.omp_set_num_threads(threads)
    assert answers[0] == answers[1]


def test_proposed_scores_are_within_the_stated_error(crowded: VectorFile) -> None:
    """The bound on an engine's rounding holds for every pair."""
    scores, rows, _ = crowded.propose(np.array(crowded.rows), crowded.count)
    for i in range(0, crowded.count, 11):
        exact = ranking.exact_scores(crowded.rows[rows[i]], crowded.rows[i])
        assert np.abs(scores[i].astype(np.float64) - exact).max() <= crowded.error


@pytest.mark.parametrize(
    ("vector", "expected"),
    [([3.0, 4.0], [3 / 5, 4 / 5]), ([1e-300, 0.0], [1.0, 0.0]), ([1e300, 0], [1.0, 0.0])],
)
def test_unit_normalizes(vector: list[float], expected: list[float]) -> None:
    """A vector of any size gets length 1."""
    found = ranking.unit(vector)
    assert found is not None
    assert found.tolist() == np.array(expected, np.float32).tolist()


def test_unit_keeps_a_stored_row() -> None:
    """A row within 1e-6 of unit length is taken as it is, so that it finds itself with score 1."""
    for row in unit_rows(500, 333, seed=8):
        same = ranking.unit(row)
        assert same is not None
        assert same.tobytes() == row.tobytes()


@pytest.mark.parametrize("vector", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_unit_refuses_what_has_no_direction(vector: list[float]) -> None:
    """Zero, NaN and infinity have no direction."""
    assert ranking.unit(vector) is None


def test_vector_file_is_what_faiss_writes(tmp_path: Path) -> None:
    """Our stream of rows gives the very bytes of faiss.write_index."""
    rows = unit_rows(37, 50, seed=9)
    index = faiss.IndexFlatIP(50)
    index.add(rows)
    faiss.write_index(index, str(tmp_path / "theirs.faiss"))
    with (tmp_path / "ours.faiss").open("w+b") as stream:
        writer = VectorWriter(stream, 50)
        for start in range(0, len(rows), 10):
            writer.append(rows[start : start + 10])
        writer.finish()
    assert (tmp_path / "ours.faiss").read_bytes() == (tmp_path / "theirs.faiss").read_bytes()


class Careless:
    """An engine that is wrong by all that it may be, and breaks ties as it likes."""

    error = 3e-4

    def __init__(self, rows: Floats, classes: ranking.Classes, *, along: bool) -> None:
        """Keep the rows; `along` says whether vectors come with proposals."""
        self._rows, self._classes, self._along = rows, classes, along
        self.count, self.dim = rows.shape
        self._random = np.random.default_rng(8)

    def qualifying(self, allowed: ranking.Only | None) -> int:
        """Return how many rows qualify."""
        return self.count if allowed is None else allowed.count(self._classes)

    def propose(
        self, queries: Floats, limit: int, allowed: ranking.Only | None = None
    ) -> ranking.Proposed:
        """Return the rows that seem best."""
        scores = queries.astype(np.float64) @ self._rows.astype(np.float64).T
        scores += self._random.uniform(-self.error, self.error, scores.shape) * 0.999
        if allowed is not None:
            scores[:, ~allowed.mask(self._classes.ids)] = -np.inf
        rows = np.argsort(-scores, axis=1)[:, :limit]
        near = np.take_along_axis(scores, rows, axis=1).astype(np.float32)
        return ranking.Proposed(near, rows, self._rows[rows] if self._along else None)

    def fetch(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Return stored vectors."""
        return self._rows[rows]


@pytest.mark.parametrize("along", [True, False])
@pytest.mark.parametrize("k", [1, 7, 60, 500])
def test_any_engine_gives_the_answer(crowded: VectorFile, k: int, *, along: bool) -> None:
    """However wrong proposals are within the bound: rows, order, scores and the best of classes."""
    rows = np.array(crowded.rows)
    ids = np.random.default_rng(4).integers(-1, 6, len(rows)).astype(np.int32)
    ids[ids == 3] = -1
    ids[2] = 3  # a class of one row
    counts = np.bincount(ids[ids >= 0], minlength=7).astype(np.int64)
    classes = ranking.Classes(tuple("abcdefg"), ids, counts)
    engine = Careless(rows, classes, along=along)
    for i in (1, 2, 10, 15, 205, 399, *range(20, 400, 61)):
        for allowed in (None, ranking.Only(int(ids[i])), ranking.Only(int(ids[i]), other=True)):
            if allowed is not None and ids[i] < 0 and not allowed.other:
                continue
            known = classes if allowed is None else None
            found = ranking.consult(engine, rows[i], k, classes=known, allowed=allowed, itself=i)
            mask = None if allowed is None else allowed.mask(ids)
            assert (found.rows.tolist(), found.scores.tolist()) == (
                brute_force(rows, rows[i], k, mask, i)
            )
            for at in range(7 if allowed is None else 0):
                best, scores = brute_force(rows, rows[i], 1, ids == at, i)
                assert int(found.best_rows[at]) == (best[0] if best else -1)
                assert not best or float(found.best_scores[at]) == scores[0]


@pytest.mark.parametrize("along", [True, False])
def test_best_of_a_class_is_proven(crowded: VectorFile, *, along: bool) -> None:
    """Where the k best are settled and the classes' best are among near-ties, these are asked."""
    rows = np.array(crowded.rows)
    ids = (np.arange(len(rows)) % 5).astype(np.int32)
    classes = ranking.Classes(tuple("abcde"), ids, np.bincount(ids).astype(np.int64))
    engine = Careless(rows, classes, along=along)
    query = ranking.unit(2 * rows[7] + rows[1])
    assert query is not None
    found = ranking.consult(engine, query, 1, classes=classes)
    assert found.rows.tolist() == [7]
    for at in range(5):
        best, scores = brute_force(rows, query, 1, ids == at, None)
        assert (int(found.best_rows[at]), float(found.best_scores[at])) == (best[0], scores[0])
