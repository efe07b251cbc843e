"""Single queries over 8-bit codes: the bound holds, and the answer is brute force to the last bit.

The reference scores every row by math.fsum, which rounds once.
"""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import pytest

from imgsearch import codes, products, ranking, vectors
from imgsearch.codes import Estimator
from imgsearch.vectors import VectorFile, VectorWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

COUNT = 600


def unit(rows: npt.NDArray[np.float64]) -> Floats:
    """Return rows of unit length."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def gauss(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows in every direction."""
    return rng.standard_normal((COUNT, dim))


def positive(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows like those of a network that ends with a ReLU: no number below zero."""
    return rng.exponential(size=(COUNT, dim)) ** 2


def clustered(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows around 8 centres."""
    centres = rng.standard_normal((8, dim))
    return centres[rng.integers(0, 8, COUNT)] + 0.5 * rng.standard_normal((COUNT, dim))


def copies(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows of which 70 are one, and 100 are a rounding away from another."""
    rows = rng.standard_normal((COUNT, dim))
    rows[5:355:5] = rows[5]
    rows[400:500] = rows[1] + 1e-7 * rng.standard_normal((100, dim))
    return rows


def coarse(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows that codes hold without loss: of two whole numbers, nothing is left over."""
    return rng.choice([-1.0, 1.0], (COUNT, dim))


def axes(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows with one number each."""
    rows = np.zeros((COUNT, dim))
    rows[np.arange(COUNT), rng.integers(0, dim, COUNT)] = rng.choice([-1.0, 1.0], COUNT)
    return rows


def level(rng: np.random.Generator, dim: int) -> npt.NDArray[np.float64]:
    """Return rows that differ from one with all numbers equal by next to nothing, or by nothing."""
    return 1 + 1e-6 * rng.standard_normal((COUNT, dim)) * (np.arange(COUNT) % 2)[:, None]


SHAPES: tuple[Callable[..., npt.NDArray[np.float64]], ...] = (
    gauss,
    positive,
    clustered,
    copies,
    coarse,
    axes,
    level,
)


def store(folder: Path, rows: Floats) -> VectorFile:
    """Write rows as a vector file and map it, as an index does."""
    path = folder / "vectors.faiss"
    with path.open("w+b") as stream:
        writer = VectorWriter(stream, rows.shape[1])
        writer.append(rows)
        writer.finish()
    return vectors.open_vectors(path, *rows.shape)


def exact(rows: Floats, query: Floats) -> Floats:
    """Score rows without any rounding but the last."""
    line = query.astype(np.float64)
    return np.array([math.fsum(row) for row in rows.astype(np.float64) * line], np.float32)


def brute_force(
    scores: Floats, k: int, allowed: Mask | None = None, itself: int | None = None
) -> tuple[list[int], list[float]]:
    """Sort rows by score descending, then row ascending."""
    keep = [
        row
        for row in range(len(scores))
        if row != itself and (allowed is None or bool(allowed[row]))
    ]
    best = sorted(keep, key=lambda row: (-scores[row], row))[:k]
    return best, [float(scores[row]) for row in best]


def plain(scan: ranking.Scan) -> tuple[list[int], list[float]]:
    """Return rows and scores as lists."""
    return scan.rows.tolist(), scan.scores.tolist()


@pytest.fixture(autouse=True)
def small_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let codes be made for few rows, too, in several blocks and by two threads."""
    monkeypatch.setattr(codes, "_WORTH_BYTES", 0)
    monkeypatch.setattr(codes, "_count_cores", lambda: 2)


@pytest.fixture
def closing() -> Iterator[Callable[[VectorFile], Estimator]]:
    """Return a maker of estimators whose codes are made, and end their threads afterwards."""
    made: list[Estimator] = []

    def make(stored: VectorFile) -> Estimator:
        made.append(Estimator(stored))
        made[-1].warm_up()
        assert made[-1].ready
        return made[-1]

    yield make
    for estimator in made:
        estimator.close()


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 17, 48, 333, 2048])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_bound_holds(
    tmp_path: Path,
    closing: Callable[[VectorFile], Estimator],
    shape: Callable[..., npt.NDArray[np.float64]],
    dim: int,
) -> None:
    """No score is further from its estimate than is said, for stored and for foreign queries."""
    rng = np.random.default_rng(dim)
    rows = unit(shape(rng, dim))
    estimator = closing(store(tmp_path, rows))
    queries = np.concatenate((rows[::101], unit(shape(rng, dim))[:3], -rows[:1]))
    for query in queries:
        estimate = estimator.estimate(query)
        assert estimate.coarse
        off = np.abs(estimate.scores.astype(np.float64) - exact(rows, query))
        assert (off <= estimate.slack).all()


@pytest.mark.parametrize("dim", [2, 17, 64, 2048])
@pytest.mark.parametrize("shape", SHAPES)
def test_answers_are_brute_force(
    tmp_path: Path,
    closing: Callable[[VectorFile], Estimator],
    shape: Callable[..., npt.NDArray[np.float64]],
    dim: int,
) -> None:
    """Matches, scores and the best row of each class are exact, with and without filter."""
    rng = np.random.default_rng(dim)
    rows = unit(shape(rng, dim))
    estimator = closing(store(tmp_path, rows))
    ids = rng.integers(-1, 4, COUNT).astype(np.int32)
    ids[-1] = 4  # a class of one
    classes = ranking.Classes(tuple("abcde"), ids, np.bincount(ids[ids >= 0]).astype(np.int64))
    for itself in (None, 5, 405, COUNT - 1):
        query = unit(shape(rng, dim))[0] if itself is None else rows[itself]
        scores = exact(rows, query)
        for k in (1, 10, COUNT + 9):
            found = ranking.find(estimator, query, k, classes=classes, itself=itself)
            assert plain(found) == brute_force(scores, k, None, itself)
            for at in range(5):
                row, score = brute_force(scores, 1, ids == at, itself)
                assert [int(found.best_rows[at])] == (row or [-1])
                if score:
                    assert float(found.best_scores[at]) == score[0]
            for allowed in (ids == 4, ids == 1, (ids >= 0) & (ids != 1), ids == 9):
                found = ranking.find(estimator, query, k, allowed=allowed, itself=itself)
                assert plain(found) == brute_force(scores, k, allowed, itself)


def test_codes_are_what_answers(tmp_path: Path, closing: Callable[[VectorFile], Estimator]) -> None:
    """On ordinary vectors the bound leaves few rows, and the floats of the others are not read."""
    rng = np.random.default_rng(1)
    rows = unit(clustered(rng, 256))
    estimator = closing(store(tmp_path, rows))
    read: list[int] = []
    score = estimator.score

    def count(some: npt.NDArray[np.int64], query: Floats) -> Floats:
        read.append(len(some))
        return score(some, query)

    estimator.score = count  # type: ignore[method-assign]
    estimator.floats = None  # type: ignore[assignment,method-assign]
    for query in rows[:20]:
        assert plain(ranking.find(estimator, query, 5)) == brute_force(exact(rows, query), 5)
    assert max(read) <= COUNT / 8
    assert np.median(read) < 20


def test_a_bound_that_proves_nothing_is_given_up(
    tmp_path: Path, closing: Callable[[VectorFile], Estimator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where codes cannot tell rows apart they are asked ever more seldom; answers stay exact."""
    rng = np.random.default_rng(2)
    rows = unit(rng.standard_normal((1, 128)) + 0.01 * rng.standard_normal((COUNT, 128)))
    estimator = closing(store(tmp_path, rows))
    used: list[int] = []
    scan = codes.Codes.estimate
    monkeypatch.setattr(codes.Codes, "estimate", lambda *given: used.append(asked) or scan(*given))
    for asked in range(40):
        query = rows[asked]
        assert plain(ranking.find(estimator, query, 5)) == brute_force(exact(rows, query), 5)
    assert used == [0, 2, 6, 14, 30]
    estimator.tell(closed=True)
    assert estimator.estimate(rows[0]).coarse


def test_codes_are_made_while_queries_come(tmp_path: Path) -> None:
    """The first queries make none, each later one a block; the answers are the same throughout."""
    rng = np.random.default_rng(3)
    rows = unit(rng.standard_normal((5000, 32)))
    estimator = Estimator(store(tmp_path, rows))
    query = rows[17]
    wanted = brute_force(exact(rows, query), 9)
    coarse_at = []
    for _ in range(20):
        coarse_at.append(estimator.ready)
        assert plain(ranking.find(estimator, query, 9)) == wanted
    estimator.close()
    first = coarse_at.index(True)
    assert first > 8 + 1  # more than one block
    assert all(coarse_at[first:])


def test_a_small_index_never_makes_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors that fit into a processor's cache are scanned as they are."""
    monkeypatch.setattr(codes, "_WORTH_BYTES", 1 << 26)
    rows = unit(np.random.default_rng(4).standard_normal((COUNT, 32)))
    estimator = Estimator(store(tmp_path, rows))
    estimator.warm_up()
    for query in rows[:30]:
        assert not estimator.estimate(query).coarse
    estimator.close()


def test_no_memory_for_codes_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where codes cannot be had the floats answer, and nobody tries again."""
    tries: list[int] = []

    def full(_: codes.Codes) -> None:
        tries.append(1)
        raise MemoryError

    monkeypatch.setattr(codes.Codes, "make", full)
    rows = unit(np.random.default_rng(9).standard_normal((COUNT, 32)))
    estimator = Estimator(store(tmp_path, rows))
    for query in rows[:12]:
        assert plain(ranking.find(estimator, query, 5)) == brute_force(exact(rows, query), 5)
    estimator.close()
    assert tries == [1]


def test_threads_get_the_same_answers(tmp_path: Path) -> None:
    """8 threads ask one estimator while it makes its codes, and one closes it: all is exact."""
    rng = np.random.default_rng(5)
    rows = unit(rng.standard_normal((4000, 48)))
    estimator = Estimator(store(tmp_path, rows))
    picked = list(range(0, 4000, 61))
    wanted = [brute_force(exact(rows, rows[i]), 7, None, i) for i in picked]

    def ask(row: int) -> tuple[list[int], list[float]]:
        if row == picked[30]:
            estimator.close()
        return plain(ranking.find(estimator, rows[row], 7, itself=row))

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(ask, picked)) == wanted
    # Of those who ask at once one makes codes: how many blocks that were is a matter of time.
    for row in picked:
        ask(row)
    assert estimator.ready
    estimator.close()


def test_faiss_is_given_whole_numbers(
    tmp_path: Path, closing: Callable[[VectorFile], Estimator]
) -> None:
    """FAISS may drop what follows the point of a query's numbers; ours has nothing there.

    Where it does, a query as it is would lose everything: all its numbers are below 1.
    """
    rng = np.random.default_rng(6)
    rows = unit(rng.standard_normal((COUNT, 64)))
    index = faiss.IndexScalarQuantizer(
        64, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
    )
    stored = rng.integers(0, 256, (COUNT, 64), np.uint8)
    index.add_sa_codes(stored)
    whole = rng.integers(-127, 128, 64).astype(np.float32)
    scores, found = index.search(whole[None, :], COUNT)
    sums = (stored.astype(np.int64) - 128) @ whole.astype(np.int64)
    assert np.array_equal(scores[0].astype(np.int64), sums[found[0]])
    asked = codes._ask(rows[0])
    assert np.array_equal(asked.whole, np.rint(asked.whole))
    assert np.abs(asked.whole).max() == 127
    assert closing(store(tmp_path, rows)).estimate(rows[0]).scores[0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("way", [products.multiplier, products.by_faiss, products.by_numpy])
@pytest.mark.parametrize("number", [1, 7, 300])
def test_products_of_mapped_rows(
    tmp_path: Path, number: int, way: Callable[[Floats, Floats], products.Multiply]
) -> None:
    """A matrix product over the mapped file is within the stated error for every pair."""
    rng = np.random.default_rng(7)
    rows = unit(rng.standard_normal((9000, 24)))
    stored = store(tmp_path, rows)
    assert not stored.rows.flags.aligned
    near = np.empty((9000, number), np.float32)
    multiply = way(stored.rows, rows[:number])
    multiply(0, near[:5000])
    multiply(5000, near[5000:])
    wide = rows.astype(np.float64) @ rows[:number].astype(np.float64).T
    assert np.abs(near - wide).max() <= stored.error


def test_the_faster_way_is_tried_for_large_products_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial takes its time: where little is multiplied FAISS does it, without one."""
    tried = []

    def verdict() -> bool:
        tried.append(True)
        return True

    monkeypatch.setattr(products, "numpy_is_faster", verdict)
    rows, few = np.zeros((4096, 1024), np.float32), np.zeros((1, 1024), np.float32)
    assert products.multiplier(rows, few).__qualname__.startswith("by_faiss")
    assert not tried
    many = np.zeros((4096, 1024), np.float32)
    assert products.multiplier(rows, many).__qualname__.startswith("by_numpy")
    assert tried


def test_a_trial_is_made_once() -> None:
    """The verdict is kept: it is that of the machine."""
    products.numpy_is_faster.cache_clear()
    first = products.numpy_is_faster()
    assert products.numpy_is_faster() is first
    assert products.numpy_is_faster.cache_info().misses == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what of a file is resident")
def test_opening_does_not_read_the_rows(tmp_path: Path) -> None:
    """A vector file is mapped: after opening next to nothing of it is resident, later what is used.

    The kernel reads a little around each place that is touched.
    """
    rows = unit(np.random.default_rng(8).standard_normal((20_000, 256)))
    stored = store(tmp_path, rows)
    opened = resident(stored)
    stored.fetch(np.arange(3))
    assert opened <= resident(stored) < rows.nbytes / 20
    stored.multiplier(rows[:1])(0, np.empty((20_000, 1), np.float32))
    assert resident(stored) > rows.nbytes / 2


def resident(stored: VectorFile) -> int:
    """Return how many bytes of the mapping that holds the rows are in memory."""
    place = stored.rows.ctypes.data
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        start, dash, rest = line.partition("-")
        if dash and rest[:1] in "0123456789abcdef" and " " in rest and ":" not in start:
            inside = int(start, 16) <= place < int(rest.split()[0], 16)
        elif inside and line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("the mapping is not listed")
