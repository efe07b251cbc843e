"""What a score means in one base set: how often such a match is of the right class, learned there.

Some rows are asked for their nearest others as if they were new. Copies and kin do not count: that
a picture is found again says nothing about new ones. From the answers two things are kept:

- How likely a match is of the query's class, by its score and its rank. A logistic regression on
  the score and the logarithm of the rank (Platt 1999) puts all pairs in order, and isotonic
  regression (Zadrozny and Elkan 2002) gives the probability in that order. The rank has to be
  there: where a class has ten pictures the eleventh match is wrong whatever it scores, and a
  probability that was right for five matches would be wrong for twenty.
- The best score that each row found. A new picture that finds less than nearly all of them did
  resembles nothing here: of pictures of the same kind, the share called so by chance is the stated
  one, whatever the scores are like (conformal prediction: Vovk, Gammerman and Shafer 2005; Bates et
  al. 2023 on outliers).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import neighbors
from imgsearch.codes import Estimator
from imgsearch.manifest import made_of
from imgsearch.metrics import spread
from imgsearch.neighbors import Kin
from imgsearch.records import DEFAULT_K, OUTLIER_RATE, Calibration, Resemblance
from imgsearch.vectors import open_vectors, row_length

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from imgsearch.manifest import FileEntry
    from imgsearch.records import StoredItem
    from imgsearch.vectors import VectorFile

    Doubles = npt.NDArray[np.float64]
    Ids = npt.NDArray[np.int32]

# Rows that are asked: with a thousand a p-value is known to a thousandth.
_ASKED = 1000
_NEIGHBORS = 50
# Looked at, so that copies among them leave neighbors enough.
_WIDTH = 64
# Fewer rows than this tell nothing of a score.
FEWEST = 20
# Pairs that a step of the probability rests on at least, by weight, and how many steps at most.
_STEP_PAIRS, _MOST_STEPS = 20.0, 100
_FOLDS = 5
_BINS = 10


def calibrate_files(
    folder: Path, files: dict[str, FileEntry], items: Sequence[StoredItem], *, known: bool
) -> Calibration | None:
    """Learn what scores mean in a generation whose data files lie in `folder` already.

    Args:
        folder: of the index.
        files: the data files, as the manifest is to name them.
        items: what is known of each row.
        known: whether a network that we know made the vectors.
    """
    entry = files["vectors"]
    dim = row_length(entry.size, len(items))
    return calibrate(
        open_vectors(folder / entry.name, len(items), dim),
        items,
        known=known,
        made_of=made_of(files),
    )


def calibrate(
    vectors: VectorFile, items: Sequence[StoredItem], *, known: bool, made_of: str = ""
) -> Calibration | None:
    """Learn what scores mean among the rows of a vector file.

    Args:
        vectors: the rows.
        items: what is known of each.
        known: whether a network that we know made the vectors.
        made_of: the name of the generation, see `manifest.made_of`.

    Returns:
        None where there are fewer than `FEWEST` rows.
    """
    if len(items) < FEWEST:
        return None
    names = sorted({item.label for item in items if item.label is not None})
    place = {name: i for i, name in enumerate(names)}
    ids = np.array([-1 if i.label is None else place[i.label] for i in items], np.int32)
    kin = Kin.of([item.sha256 for item in items], [item.group for item in items])
    asked = np.array(spread(len(items), min(len(items), _ASKED)), np.int64)
    source = Estimator(vectors)
    try:
        found = neighbors.find_neighbors(
            source,
            asked,
            min(_WIDTH, len(items) - 1),
            kin,
            ids,
            known=known,
        ).without_kin(_NEIGHBORS)
    finally:
        source.close()
    best = found.scores[:, 0]
    best = np.sort(best[best > -np.inf])
    pairs = _Pairs(found, ids)
    fit = _fit(pairs)
    return Calibration(
        made_of=made_of,
        queries=len(asked),
        neighbors=_NEIGHBORS,
        score=0.0 if fit is None else fit.score,
        rank=0.0 if fit is None else fit.rank,
        steps=() if fit is None else fit.steps,
        error=None if fit is None else _error(pairs),
        typical=tuple(float(value) for value in best),
    )


def probabilities(
    calibration: Calibration, scores: npt.ArrayLike, ranks: npt.ArrayLike
) -> Doubles | None:
    """Return how likely matches are of their query's class; None where nothing is known of it.

    Args:
        calibration: of the index that was asked.
        scores: of the matches, (n,).
        ranks: of the matches among all rows, from 1, (n,).
    """
    if not calibration.steps:
        return None
    values = calibration.score * np.asarray(scores, np.float64) + calibration.rank * np.log(
        np.minimum(np.asarray(ranks, np.float64), calibration.neighbors)
    )
    places, levels = np.array(calibration.steps).T
    found: Doubles = np.interp(values, places, levels)
    return found


def resemblance(calibration: Calibration, best: float, rate: float = OUTLIER_RATE) -> Resemblance:
    """Say whether a query whose best match scores `best` resembles the base set."""
    at_most = int(np.searchsorted(np.array(calibration.typical), best, side="right"))
    p_value = (1 + at_most) / (1 + len(calibration.typical))
    return Resemblance(p_value, rate, p_value <= rate)


def expected_error(likely: npt.ArrayLike, right: npt.ArrayLike, bins: int = _BINS) -> float:
    """Return the expected calibration error: stated against found, in bins of equal width.

    Args:
        likely: probabilities, (n,), n at least 1.
        right: whether it came true, (n,).
        bins: how many.
    """
    stated, true = np.asarray(likely, np.float64), np.asarray(right, np.float64)
    at = np.minimum((stated * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(at, weights=stated - true, minlength=bins)
    return float(np.abs(gaps).sum() / len(stated))


class _Pairs:
    """Queries of a class and their neighbors that have one.

    `score`, `rank`, `right`, `weight` float64 (n,), and `query` int64 (n,), the position of the
    query.
    """

    def __init__(self, found: neighbors.Neighborhood, ids: Ids) -> None:
        own = ids[found.asked]
        theirs = np.where(found.rows >= 0, ids[found.rows], -1)
        used = (own[:, None] >= 0) & (theirs >= 0)
        self.query, at = np.nonzero(used)
        self.score = found.scores[used].astype(np.float64)
        self.rank = at + 1.0
        self.right = (theirs == own[:, None])[used].astype(np.float64)
        # Whoever asks for five is as important as who asks for fifty.
        self.weight = 1 / self.rank

    def part(self, chosen: npt.NDArray[np.bool_]) -> _Pairs:
        """Return some of the pairs, bool (n,)."""
        some = object.__new__(_Pairs)
        for name in ("query", "score", "rank", "right", "weight"):
            setattr(some, name, getattr(self, name)[chosen])
        return some


class _Fit:
    """A probability by score and rank."""

    def __init__(self, score: float, rank: float, steps: tuple[tuple[float, float], ...]) -> None:
        self.score, self.rank, self.steps = score, rank, steps

    def __call__(self, pairs: _Pairs) -> Doubles:
        values = self.score * pairs.score + self.rank * np.log(pairs.rank)
        places, levels = np.array(self.steps).T
        found: Doubles = np.interp(values, places, levels)
        return found


def _fit(pairs: _Pairs) -> _Fit | None:
    """Fit; None where all pairs are right, or none is."""
    if not len(pairs.right) or pairs.right.min() == pairs.right.max():
        return None
    columns = np.stack([pairs.score, np.log(pairs.rank)], axis=1)
    score, rank = _logistic(columns, pairs.right, pairs.weight)
    if score < 0:  # a closer match is no likelier: then the rank is all that tells
        score, rank = 0.0, float(_logistic(columns[:, 1:], pairs.right, pairs.weight)[0])
    values = score * pairs.score + rank * np.log(pairs.rank)
    return _Fit(score, rank, _steps(values, pairs.right, pairs.weight))


def _logistic(columns: Doubles, right: Doubles, weight: Doubles) -> list[float]:
    """Fit a logistic regression by Newton's method; return its weights without the constant."""
    middle, scale = columns.mean(axis=0), columns.std(axis=0)
    scale[scale == 0] = 1
    wide = np.column_stack([(columns - middle) / scale, np.ones(len(columns))])
    total = weight.sum()
    penalty = np.full(wide.shape[1], 1e-4)
    penalty[-1] = 0
    found = np.zeros(wide.shape[1])
    for _ in range(50):
        likely = 1 / (1 + np.exp(-np.clip(wide @ found, -30, 30)))
        slope = wide.T @ (weight * (right - likely)) / total - penalty * found
        bend = (wide * (weight * likely * (1 - likely))[:, None]).T @ wide / total
        bend[np.diag_indices_from(bend)] += penalty + 1e-9
        step = np.clip(np.linalg.solve(bend, slope), -2, 2)
        found += step
        if np.abs(step).max() < 1e-8:  # noqa: PLR2004 - far below what pairs can tell
            break
    return [float(value) for value in found[:-1] / scale]


def _steps(values: Doubles, right: Doubles, weight: Doubles) -> tuple[tuple[float, float], ...]:
    """Pool adjacent violators, on means of neighboring pairs: ascending (value, probability)."""
    order = np.argsort(values, kind="stable")
    values, right, weight = values[order], right[order], weight[order]
    total = float(weight.sum())
    parts = max(1, min(_MOST_STEPS, int(total / _STEP_PAIRS)))
    part = np.minimum((np.cumsum(weight) - weight / 2) / total * parts, parts - 1).astype(np.int64)
    masses = np.bincount(part, weights=weight, minlength=parts)
    places = np.bincount(part, weights=weight * values, minlength=parts)
    levels = np.bincount(part, weights=weight * right, minlength=parts)
    pooled: list[list[float]] = []
    for mass, place, level in zip(masses.tolist(), places.tolist(), levels.tolist(), strict=True):
        if not mass:
            continue
        pooled.append([mass, place, level])
        while len(pooled) > 1 and pooled[-2][2] / pooled[-2][0] >= pooled[-1][2] / pooled[-1][0]:
            last = pooled.pop()
            pooled[-1] = [a + b for a, b in zip(pooled[-1], last, strict=True)]
    steps = [(place / mass, level / mass) for mass, place, level in pooled]
    # Equal values make equal places: one step each, in order.
    unique: list[tuple[float, float]] = []
    for place, level in steps:
        if unique and place <= unique[-1][0]:
            unique[-1] = (unique[-1][0], level)
        else:
            unique.append((place, min(1.0, max(0.0, level))))
    return tuple(unique)


def _error(pairs: _Pairs) -> float | None:
    """Return the expected error at the usual k, each query kept out of what judges it."""
    fold = pairs.query % _FOLDS
    stated, true = [], []
    for out in range(_FOLDS):
        fit = _fit(pairs.part(fold != out))
        asked = pairs.part((fold == out) & (pairs.rank <= DEFAULT_K))
        if fit is not None and len(asked.right):
            stated.append(fit(asked))
            true.append(asked.right)
    if not stated:
        return None
    error = expected_error(np.concatenate(stated), np.concatenate(true))
    return error if math.isfinite(error) else None
