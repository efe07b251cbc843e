"""Which transform helps, by evidence: candidates, folds, and two things that both must show.

Each row is asked of the rows of the other folds, by transforms that were learned without its fold.
A candidate must find more rows of the query's class (precision), and must still find a look-alike:
a row that was moved as far as mirroring and cropping move a picture must find the row it came from.

What is reported is nested: the candidate by which the rows of a fold are asked was chosen without
them, so that the gain is not that of the luckiest of many (Stone, Cross-Validatory Choice and
Assessment of Statistical Predictions, 1974; Varma and Simon, Bias in Error Estimation When Using
Cross-Validation for Model Selection, 2006).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import discriminants
from imgsearch.intervals import bootstrap_intervals
from imgsearch.metrics import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from imgsearch.discriminants import Fit

    Doubles = npt.NDArray[np.float64]
    Floats = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]
    Progress = Callable[[int, int], None]
    _Key = tuple[str, float | None]

K = 5
FOLDS = 5
# More rows than these are not asked, and not compared with: the time is bounded by them.
MOST_ROWS, MOST_QUERIES = 10_000, 5_000
# Centred vectors with a cosine of at least this are near-duplicates. (Not the vectors as they are:
# of some networks all cosines are close to 1.)
NEAR_DUPLICATE = 0.95
# A row is moved by this share of the median distance to the nearest other row, in a direction in
# which rows differ, to stand for a copy of its picture. Among photos of rooms real copies, mirrored
# and cropped by 5% (10%) a side, lie further away, 0.5 (0.6) of it, but less in directions in which
# pictures differ: with 0.4 candidates lose about as many as with the real ones, or more.
COPY_STEP = 0.4
# How many fewer look-alikes may be found first.
LEAST_KEPT = 0.01
_PROBES = 1_000  # of rows that the transform was not learned from, and as many of those it was
_PROBE_ROWS = 64  # make up a direction
LEAST_UNITS = 20
_QUERY_BLOCK = 128
_SEED = 0
STEPS = FOLDS + FOLDS * (FOLDS - 1) // 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to transform vectors, to be learned.

    `base` is "raw", "centred" or "whitened": what the vector itself becomes; `share` is the weight
    of its discriminants beside that, 0 to 1; `shrinkage` is that of the scatter, None for Ledoit's
    and Wolf's.
    """

    base: str
    share: float = 0.0
    shrinkage: float | None = None

    def told(self, fit: Fit | None = None) -> str:
        """Say what it is, with the shrinkage that a fit found."""
        if self.base == "raw":
            return "none"
        if self.base == "centred" and not self.share:
            return "centred"
        by = "shrinkage by Ledoit and Wolf"
        if fit is not None or self.shrinkage is not None:
            by = f"shrinkage {self.shrinkage if fit is None else self.shrinkage_of(fit):.2f}"
        if self.share == 1:
            return f"discriminants, {by}"
        if not self.share:
            return f"{self.base}, {by}"
        return f"{self.base} with {self.share:.2f} of discriminants, {by}"

    def parts(self, fit: Fit) -> list[tuple[float, Doubles | None]]:
        """Return the weights and matrices of the transform that a fit gives."""
        shrinkage = self.shrinkage_of(fit)
        parts: list[tuple[float, Doubles | None]] = []
        if self.share < 1:
            whitened = self.base == "whitened"
            parts.append((1 - self.share, fit.whitening(shrinkage) if whitened else None))
        if self.share > 0:
            parts.append((self.share, fit.discriminants(shrinkage)))
        return parts

    def shrinkage_of(self, fit: Fit) -> float:
        """Return the shrinkage with which a fit is used."""
        return fit.best_shrinkage if self.shrinkage is None else self.shrinkage


_SHRINKAGES = (None, 0.5, 0.9)
_SHARES = (1 / 3, 1 / 2, 2 / 3)
# The simpler first: of two that are equally good the first is taken.
CANDIDATES = (
    Candidate("raw"),
    Candidate("centred"),
    *(Candidate("whitened", 0.0, by) for by in _SHRINKAGES),
    *(Candidate("centred", share, by) for share in _SHARES for by in _SHRINKAGES),
    *(Candidate("whitened", share, by) for share in _SHARES for by in _SHRINKAGES),
    *(Candidate("centred", 1.0, by) for by in _SHRINKAGES),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What the candidates showed.

    `raw` and `learned` hold the means of the measures over `queries` rows that were kept out in
    turn; `interval` is that of the difference of precision, at 95%. `chosen` is what all folds
    together say is best. `found` is how many look-alikes were found first, of all, before and after
    `chosen`.
    """

    chosen: Candidate
    raw: dict[str, float]
    learned: dict[str, float]
    interval: tuple[float, float]
    found: tuple[float, float]
    rows: int
    queries: int
    units: int

    @property
    def difference(self) -> float:
        """How much more of what is found has the query's label, from -1 to 1."""
        return self.learned["precision_at_k"] - self.raw["precision_at_k"]

    @property
    def helps(self) -> bool:
        """Whether the gain is beyond doubt."""
        return self.chosen != CANDIDATES[0] and self.interval[0] > 0


def try_candidates(
    rows: Floats,
    ids: npt.NDArray[np.integer],
    marks: Sequence[Sequence[str | None]] = (),
    *,
    seed: int = _SEED,
    progress: Progress | None = None,
) -> Trial | None:
    """Cross-validate all candidates.

    Args:
        rows: unit vectors, float32 (n, dim), of which each has a label.
        ids: their classes, (n,), from 0 on.
        marks: of each row, by column: rows with the same mark (a group, a sum) stay together.
        seed: of the folds and of what else is drawn.
        progress: called with (steps done, STEPS).

    Returns:
        What came of it; None where there are too few rows to tell: fewer than 20 that do not belong
        together, or fewer than two classes that have two of these.
    """
    if len(rows) < LEAST_UNITS:
        return None
    units = together(rows, marks)
    if not _suffices(ids, units):
        return None
    return _Validation(rows, ids, units, np.random.default_rng(seed)).run(progress)


def sample(
    count: int, marks: Sequence[Sequence[str | None]], most: int = MOST_ROWS, seed: int = _SEED
) -> Rows:
    """Draw at most `most` of `count` rows, sorted; rows with the same mark come together."""
    if count <= most:
        return np.arange(count)
    parents = _marked(count, marks)
    _, units, sizes = np.unique(_roots(parents), return_inverse=True, return_counts=True)
    drawn = np.zeros(len(sizes), np.bool_)
    total = 0
    for unit in np.random.default_rng(seed).permutation(len(sizes)).tolist():
        size = int(sizes[unit])
        if total + size <= most:
            drawn[unit] = True
            total += size
    return np.flatnonzero(drawn[units])


def together(rows: Floats, marks: Sequence[Sequence[str | None]] = ()) -> npt.NDArray[np.int64]:
    """Return for each row the least row that it belongs together with, int64 (n,).

    By the same mark, and as near-duplicates; and what two rows belong to belongs together.
    """
    parents = _marked(len(rows), marks)
    centred = _units(rows - rows.mean(axis=0, dtype=np.float64))
    for first in range(0, len(rows), _QUERY_BLOCK):
        near = centred[first : first + _QUERY_BLOCK] @ centred[first:].T >= NEAR_DUPLICATE
        roots = _roots(parents)[first:]
        for i in np.flatnonzero(near.sum(axis=1) > 1).tolist():
            for root in np.unique(roots[near[i]]).tolist():
                _join(parents, first + i, root)
    return _roots(parents)


def _marked(count: int, marks: Sequence[Sequence[str | None]]) -> list[int]:
    parents = list(range(count))
    for column in marks:
        first: dict[str, int] = {}
        for row, mark in enumerate(column):
            if mark is not None:
                _join(parents, first.setdefault(mark, row), row)
    return parents


def _root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = row = parents[parents[row]]
    return row


def _roots(parents: list[int]) -> npt.NDArray[np.int64]:
    return np.array([_root(parents, row) for row in range(len(parents))], np.int64)


def _join(parents: list[int], one: int, two: int) -> None:
    low, high = sorted((_root(parents, one), _root(parents, two)))
    parents[high] = low


def _suffices(ids: npt.NDArray[np.integer], units: npt.NDArray[np.int64]) -> bool:
    pairs = np.unique(np.stack([ids, units]), axis=1)
    return (
        len(np.unique(units)) >= LEAST_UNITS and int((np.bincount(pairs[0]) >= 2).sum()) >= 2  # noqa: PLR2004
    )


def fold_rows(
    ids: npt.NDArray[np.integer], units: npt.NDArray[np.int64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Deal rows into FOLDS folds, int64 (n,): units whole, and each class evenly."""
    members: dict[int, list[int]] = {}
    for row in random.permutation(len(ids)).tolist():
        members.setdefault(int(units[row]), []).append(row)
    folds = np.empty(len(ids), np.int64)
    dealt: dict[int, Counter[int]] = {}
    sizes = Counter(dict.fromkeys(range(FOLDS), 0))
    for unit in sorted(members.values(), key=len, reverse=True):
        label = int(ids[unit[0]])
        mine = dealt.setdefault(label, Counter())
        fold = min(range(FOLDS), key=lambda one: (mine[one], sizes[one]))
        folds[unit] = fold
        mine[fold] += len(unit)
        sizes[fold] += len(unit)
    return folds


class _Validation:
    """One cross-validation of all candidates on some rows."""

    def __init__(
        self,
        rows: Floats,
        ids: npt.NDArray[np.integer],
        units: npt.NDArray[np.int64],
        random: np.random.Generator,
    ) -> None:
        self.dim = rows.shape[1]
        # Fewer rows than numbers lie in a space of as many dimensions: all is the same in it.
        wide = rows.astype(np.float64)
        self.rows = wide @ np.linalg.qr(wide.T)[0] if len(rows) < self.dim else wide
        self.short = self.rows.astype(np.float32)
        self.ids, self.units, self.random = ids, units, random
        self.folds = fold_rows(ids, units, random)
        asked = random.permutation(len(ids))[:MOST_QUERIES]
        self.asked = np.isin(np.arange(len(ids)), asked)
        self.classes = int(ids.max()) + 1
        self.moments = [
            discriminants.moments(self.rows[part], ids[part], self.classes)
            for part in (self.folds == fold for fold in range(FOLDS))
        ]

    def run(self, progress: Progress | None) -> Trial:
        """Try all candidates."""
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, STEPS)

        count = len(CANDIDATES)
        best = np.full((count, len(self.ids), K), -1, np.int64)
        found = np.zeros((2, count))
        reach = COPY_STEP * self._nearest()
        for fold in range(FOLDS):
            view = _View.of(self._fit([fold]), self.short)
            base = np.flatnonzero(self.folds != fold)
            held = np.flatnonzero(self.folds == fold)
            for kind, sources in enumerate((held, base)):
                found[kind] += self._found(view, sources, reach)
            queries = held[self.asked[held]]
            for candidate, block, top in self._tops(view.part(base), queries, base):
                best[candidate, queries[block]] = top
            step()
        found /= FOLDS
        inner = np.zeros((FOLDS, count))
        for pair in combinations(range(FOLDS), 2):
            base = np.flatnonzero(~np.isin(self.folds, pair))
            view = _View.of(self._fit(pair), self.short[base])
            for outer, kept in (pair, pair[::-1]):
                queries = np.flatnonzero(self.asked & (self.folds == kept))
                for candidate, block, top in self._tops(view, queries, base):
                    inner[outer, candidate] += self._right(queries[block], top).sum()
            step()
        allowed = np.all(found >= found[:, :1] - LEAST_KEPT, axis=0)
        return self._told(best, inner, found, allowed)

    def _told(
        self, best: Rows, inner: Doubles, found: Doubles, allowed: npt.NDArray[np.bool_]
    ) -> Trial:
        queries = np.flatnonzero(self.asked)
        totals = np.array([self._right(queries, top[queries]).sum() for top in best])
        chosen = int(np.where(allowed, totals, -1).argmax())
        by_fold = np.where(allowed, inner, -1).argmax(axis=1)
        raw = best[0, queries]
        learned = best[by_fold[self.folds[queries]], queries]
        means = [_means(self._right(queries, top)) for top in (raw, learned)]
        return Trial(
            chosen=CANDIDATES[chosen],
            raw=means[0],
            learned=means[1],
            interval=self._interval(queries, raw, learned),
            found=(float(found[:, 0].mean()), float(found[:, chosen].mean())),
            rows=len(self.ids),
            queries=len(queries),
            units=len(np.unique(self.units)),
        )

    def _interval(self, queries: Rows, raw: Rows, learned: Rows) -> tuple[float, float]:
        """Return the 95% interval of the difference of precision.

        A row is drawn with what belongs to it, and counts both as a query and as what others find:
        two queries that find each other share what their labels say, so that queries alone would
        make the interval too narrow (Fafchamps and Gubert, The Formation of Risk Sharing Networks,
        2007: pairs that share a member are not independent).
        """
        counts = np.zeros(len(self.ids))
        difference = 0.0
        for sign, top in ((1.0, learned), (-1.0, raw)):
            right = self._right(queries, top)
            mean = float(right.mean())
            difference += sign * mean
            away = sign * (right - mean) / K
            np.add.at(counts, queries, away.sum(axis=1))
            some = top >= 0
            np.add.at(counts, top[some], away[some])
        _, units = np.unique(self.units, return_inverse=True)
        sums = np.bincount(units, weights=counts)
        table = np.asarray(difference + sums * (len(sums) / len(queries)), np.float64)
        low, high = bootstrap_intervals(table[:, None])[0].tolist()
        return low, high

    def _right(self, queries: Rows, top: Rows) -> Doubles:
        """Tell which of the rows found, (n, K), have their query's class: 1, else 0."""
        right = (self.ids[top] == self.ids[queries][:, None]) & (top >= 0)
        return np.asarray(right, np.float64)

    def _fit(self, out: Sequence[int]) -> Fit:
        """Fit all rows but those of some folds."""
        folds = [fold for fold in range(FOLDS) if fold not in out]
        total = self.moments[folds[0]]
        for fold in folds[1:]:
            total += self.moments[fold]
        parts = ((self.rows[part], self.ids[part]) for part in (self.folds == f for f in folds))
        return discriminants.fit(total, parts, self.dim)

    def _tops(self, view: _View, queries: Rows, base: Rows) -> Iterator[tuple[int, slice, Rows]]:
        """Yield candidate, part of the queries, and the rows it finds of `base`, int64 (n, K)."""
        for candidate, block, scores in view.scores(self.short[queries]):
            top = np.full((len(scores), K), -1, np.int64)
            places = _best(scores, K)
            top[:, : places.shape[1]] = base[places]
            yield candidate, block, top

    def _found(self, view: _View, sources: Rows, reach: float) -> Doubles:
        """Return for each candidate the share of look-alikes that find their row first."""
        number = -(-_PROBES // FOLDS)
        found = np.zeros(len(CANDIDATES))
        drawn = sources[np.array(spread(len(sources), min(number, len(sources))), np.int64)]
        if not len(drawn):
            return found + 1
        drawn = np.resize(drawn, number)
        for candidate, block, scores in view.scores(self._moved(drawn, reach)):
            first = self.units[scores.argmax(axis=1)]
            found[candidate] += np.count_nonzero(first == self.units[drawn[block]])
        return found / number

    def _moved(self, sources: Rows, reach: float) -> Floats:
        """Move rows by a chord of length `reach`, each in a direction made up of many rows."""
        rows = self.rows[sources]
        mean = self.rows.mean(axis=0)
        away = np.zeros_like(rows)
        for _ in range(_PROBE_ROWS):
            drawn = self.rows[self.random.integers(len(self.ids), size=len(rows))]
            away += self.random.standard_normal((len(rows), 1)) * (drawn - mean)
        away -= np.einsum("ij,ij->i", away, rows)[:, None] * rows
        lengths = np.sqrt(np.einsum("ij,ij->i", away, away))
        away /= np.maximum(lengths, np.finfo(np.float64).tiny)[:, None]
        cosine = 1 - reach**2 / 2
        moved = cosine * rows + np.sqrt(max(0.0, 1 - cosine**2)) * away
        return np.asarray(moved, np.float32)

    def _nearest(self) -> float:
        """Return the median distance of a row to the nearest that does not belong to it."""
        drawn = np.array(spread(len(self.ids), min(_PROBES, len(self.ids))))
        cosines = np.empty(len(drawn))
        for first in range(0, len(drawn), _QUERY_BLOCK):
            some = drawn[first : first + _QUERY_BLOCK]
            near = self.short[some] @ self.short.T
            near[self.units[some][:, None] == self.units] = -1
            cosines[first : first + len(some)] = near.max(axis=1)
        return float(np.median(np.sqrt(np.maximum(0.0, 2 - 2 * cosines))))


@dataclass(frozen=True, slots=True)
class _View:
    """Rows as each candidate of a fit sees them, and their scores for queries."""

    mean: Floats
    maps: dict[_Key, Floats]
    seen: dict[_Key, Floats]

    @classmethod
    def of(cls, fit: Fit, rows: Floats) -> _View:
        maps: dict[_Key, Floats] = {}
        for by in _SHRINKAGES:
            shrinkage = fit.best_shrinkage if by is None else by
            maps["whitened", by] = fit.whitening(shrinkage).astype(np.float32)
            maps["discriminants", by] = fit.discriminants(shrinkage).astype(np.float32)
        empty = cls(fit.mean.astype(np.float32), maps, {})
        return replace(empty, seen=empty.see(rows))

    def see(self, rows: Floats) -> dict[_Key, Floats]:
        """Return unit rows, float32, by what became of them."""
        centred = rows - self.mean
        return {
            ("raw", None): rows,
            ("centred", None): _units(centred),
            **{key: _units(centred @ matrix) for key, matrix in self.maps.items()},
        }

    def part(self, rows: Rows) -> _View:
        """Return a view of some of its rows."""
        return replace(self, seen={key: seen[rows] for key, seen in self.seen.items()})

    def scores(self, queries: Floats) -> Iterator[tuple[int, slice, Floats]]:
        """Yield each candidate's number, a part of the queries, and its scores (n, rows).

        The scores are float32, and good until the next are asked for.
        """
        for first in range(0, len(queries), _QUERY_BLOCK):
            block = slice(first, first + _QUERY_BLOCK)
            asked = self.see(queries[block])
            near = {key: rows @ self.seen[key].T for key, rows in asked.items()}
            mixed = np.empty_like(near["raw", None])
            for number, candidate in enumerate(CANDIDATES):
                by = candidate.shrinkage if candidate.base == "whitened" else None
                scores = near[candidate.base, by]
                if candidate.share == 1:
                    scores = near["discriminants", candidate.shrinkage]
                elif candidate.share:
                    # The order is that of the weighted mean of both.
                    ratio = np.float32(candidate.share / (1 - candidate.share))
                    np.multiply(near["discriminants", candidate.shrinkage], ratio, out=mixed)
                    mixed += scores
                    scores = mixed
                yield number, block, scores


def _units(rows: npt.NDArray[np.floating]) -> Floats:
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _best(scores: Floats, most: int) -> Rows:
    """Return the places of the best scores of each row, best first; the first of equals."""
    places = np.empty((len(scores), min(most, scores.shape[1])), np.int64)
    values = np.empty(places.shape, np.float32)
    lines = np.arange(len(scores))
    for rank in range(places.shape[1]):
        places[:, rank] = scores.argmax(axis=1)
        values[:, rank] = scores[lines, places[:, rank]]
        scores[lines, places[:, rank]] = -np.inf  # struck out, until all are found
    scores[lines[:, None], places] = values
    return places


def _means(right: Doubles) -> dict[str, float]:
    """Return the means of those measures that the matches alone tell, by name."""
    ranks = np.arange(1, K + 1)
    return {
        "precision_at_k": float(right.mean()),
        "hit_rate_at_k": float(right.any(axis=1).mean()),
        "top1_accuracy": float(right[:, 0].mean()),
        "map_at_k": float((right * right.cumsum(axis=1) / ranks).mean()),
    }
