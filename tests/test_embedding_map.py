"""A map of an embedding: the plane of most variance, the same whatever the route to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from imgsearch import embedding_map
from imgsearch.embedding_map import make_map, principal_axes
from imgsearch.errors import InputError, MissingPackageError
from imgsearch.search import SearchEngine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy.typing as npt
    from conftest import Run


@pytest.fixture(scope="module")
def vectors(rooms: Path) -> npt.NDArray[np.float32]:
    """Return the unit vectors of real interiors."""
    with SearchEngine.open(rooms) as engine:
        return np.array(engine.index.vectors.rows)


def by_svd(rows: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], list[float]]:
    """Return the first two axes and their shares of the variance by numpy's own decomposition."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    return axes[:2].T, (values**2 / (values**2).sum())[:2].tolist()


def check_axes(rows: npt.NDArray[np.float32]) -> None:
    """Axes and shares are those of a singular value decomposition; signs follow the rule."""
    mean, axes, shares = principal_axes(rows)
    due, due_shares = by_svd(rows)
    assert np.abs(mean - rows.mean(axis=0, dtype=np.float64)).max() < 1e-6
    assert np.abs(np.abs((axes * due).sum(axis=0)) - 1).max() < 1e-5
    assert np.abs(np.array(shares) - due_shares).max() < 1e-5
    assert (axes[np.abs(axes).argmax(axis=0), [0, 1]] > 0).all()


def test_axes_are_those_of_a_singular_value_decomposition(
    vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By covariance at once, in small blocks, with no passes left, without a covariance."""
    check_axes(vectors)
    monkeypatch.setattr(embedding_map, "_BLOCK", 7 * vectors.shape[1])
    check_axes(vectors)
    with monkeypatch.context() as patch:
        patch.setattr(embedding_map, "_MOST_PASSES", 1)
        check_axes(vectors)
    monkeypatch.setattr(embedding_map, "_WIDEST", 1)
    check_axes(vectors)


def test_vectors_too_long_for_a_covariance(vectors: npt.NDArray[np.float32]) -> None:
    """Five thousand numbers each, which is more than a covariance may have."""
    turn = np.random.default_rng(0).standard_normal((vectors.shape[1], 5000)).astype(np.float32)
    check_axes(vectors @ turn)


def test_a_map_by_hand() -> None:
    """Four points on a cross: the long arm lies along x with 4/5 of the variance, 1/5 along y."""
    rows = np.zeros((4, 3), np.float32)
    rows[:, 0] = [2, -2, 0, 0]
    rows[:, 2] = [0, 0, 1, -1]
    found = make_map(rows, np.array([[1, 5, 0.5]], np.float32), "pca")
    assert found is not None
    assert np.abs(found.base - [[2, 0], [-2, 0], [0, 1], [0, -1]]).max() < 1e-6
    assert np.abs(found.queries - [[1, 0.5]]).max() < 1e-6  # what is not in the plane is not seen
    assert found.shares == pytest.approx((0.8, 0.2))


@pytest.mark.parametrize(
    ("rows", "shares"),
    [([[1.0, 0.0]], (0, 0)), ([[0.6, 0.8]] * 5, (0, 0)), ([[1.0], [-1.0]], (1, 0))],
)
def test_nothing_to_spread(rows: list[list[float]], shares: tuple[float, float]) -> None:
    """One row, equal rows or one number each: points without a second direction, and no NaN."""
    given = np.array(rows, np.float32)
    found = make_map(given, np.empty((0, given.shape[1]), np.float32), "pca")
    assert found is not None
    assert found.shares == pytest.approx(shares)
    assert np.isfinite(found.base).all()


def test_points_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more rows than a map shows, some in even steps; the plane is that of all rows."""
    monkeypatch.setattr(embedding_map, "MOST_POINTS", 10)
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    found = make_map(rows, rows[:30], "pca")
    assert found is not None
    assert found.rows.tolist() == list(range(5, 100, 10))
    assert (len(found.base), len(found.queries)) == (10, 10)
    assert found.shares == pytest.approx(by_svd(rows)[1], abs=1e-5)


def test_a_map_that_cannot_be_made(
    vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another word, too few rows for umap, or no package: a sentence that says what to do."""
    assert make_map(vectors, vectors[:0], "none") is None
    with pytest.raises(InputError, match="pca, umap, none"):
        make_map(vectors, vectors[:0], "tsne")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="10 rows or more"):
        make_map(vectors[:9], vectors[:0], "umap")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'imgsearch-faiss\[map\]'"):
        make_map(vectors, vectors[:0], "umap")


def test_command_refuses_a_map_before_any_work(
    imgsearch: Callable[..., Run], rooms: Path, tmp_path: Path
) -> None:
    """An unknown map ends with 2 and writes nothing."""
    run = imgsearch("evaluate", rooms, "--report", tmp_path / "r.html", "--map", "tsne")
    assert run.code == 2
    assert run.err == "imgsearch: --map is one of pca, umap, none, not 'tsne'\n"
    assert list(tmp_path.iterdir()) == []


def test_umap_keeps_neighbors_together() -> None:
    """Real UMAP: two clouds stay two clouds, queries fall into theirs, twice the same."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.1, (60, 16)).astype(np.float32)
    rows[:30, 0] += 1
    rows[30:, 1] += 1
    queries = rows[[0, 59]] + np.float32(0.01)
    found, again = (make_map(rows, queries, "umap") for _ in range(2))
    assert found is not None
    assert again is not None
    assert np.array_equal(found.base, again.base)
    middles = [found.base[:30].mean(axis=0), found.base[30:].mean(axis=0)]
    for part, own in ((found.base[:30], 0), (found.base[30:], 1), (found.queries[:1], 0)):
        far = [np.linalg.norm(part - middle, axis=1) for middle in middles]
        assert (far[own] < far[1 - own]).all()
    assert found.shares is None
