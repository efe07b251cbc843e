"""Which labels do not fit their pictures: an opinion on each row that it had no part in.

Two views of a row, each for every class: a linear classifier (ridge regression on the vectors) and
the vote of its 50 nearest. Both leave the row out, its copies and its kin: the linear one by the
closed form of leaving rows out, e = (I - H)^-1 r, in which H is the matrix that makes predictions
of labels and r what they miss (Allen 1974; Hastie, Tibshirani and Friedman 2009, section 7.10). A
logistic regression of two weights, the same for all classes and rows, makes one probability of
them: so few that they learn nothing of a single row.

Which rows are suspected is confident learning's rule (Northcutt, Jiang and Chuang 2021): another
class reaches the probability that its own rows have on average, and the own class does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from imgsearch.metrics import spread
from imgsearch.vectors import aligned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from imgsearch.neighbors import Kin, Neighborhood
    from imgsearch.ranking import Floats, Mask, Rows

    Ids = npt.NDArray[np.int32]
    Doubles = npt.NDArray[np.float64]

# The nearest that vote: of 10, 30 and 50 the last found most of the errors planted in three sets.
VOTERS = 50
# A vote that nobody gave is no proof: so much is added before the logarithm.
_UNHEARD = 0.02
_RIDGES = tuple(2.0**power for power in range(-7, 11))
_NEGLIGIBLE = 1e-9
_SAMPLE = 4096
# Numbers of a block of rows, for all classes or dimensions: what bounds the memory.
_BLOCK = 1 << 22
# Kin of more rows are left out one by one: a group as large as a class is no group.
_MOST_KIN = 1000


@dataclass(frozen=True, slots=True)
class Opinion:
    """What is thought of the labels of some rows.

    `rows` int64 (n,) are those that were judged; `own` float32 (n,) is the probability of the label
    that a row has, `rival` int32 (n,) the likeliest other class and `against` float32 (n,) its
    probability; `suspect` bool (n,) where the label is likely to be wrong.
    """

    rows: Rows
    own: Floats
    rival: Ids
    against: Floats
    suspect: Mask

    def worst(self) -> npt.NDArray[np.intp]:
        """Return the positions, the least likely label first, ties by row."""
        return np.lexsort((self.rows, -self.against, self.own))


def judge_labels(
    vectors: Floats,
    ids: Ids,
    n_classes: int,
    near: Neighborhood,
    kin: Kin,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Opinion:
    """Judge the label of every row that has one, and whose class has another row.

    Args:
        vectors: unit rows, float32 (count, dim); they may be mapped from a file.
        ids: the class of each row, -1 for none.
        n_classes: how many classes there are.
        near: the nearest others of all rows, copies among them, `VOTERS` or more of them.
        kin: what ties rows together.
        progress: called with (rows done, rows in all).
    """
    sizes = np.bincount(ids[ids >= 0], minlength=max(1, n_classes))
    judged = np.flatnonzero((ids >= 0) & (sizes[ids] > 1))
    if len(np.unique(ids[judged])) < 2:  # noqa: PLR2004 - one class has no rival
        nothing = np.empty(0, np.float32)
        return Opinion(
            np.empty(0, np.int64), nothing, np.empty(0, np.int32), nothing, np.empty(0, np.bool_)
        )
    return _Panel(vectors, ids, n_classes, near, kin, judged).opinion(progress)


class _Panel:
    """Both views of the judged rows."""

    def __init__(  # noqa: PLR0917 - what `judge_labels` is about
        self,
        vectors: Floats,
        ids: Ids,
        n_classes: int,
        near: Neighborhood,
        kin: Kin,
        judged: Rows,
    ) -> None:
        self.judged, self.labels, self.n_classes = judged, ids[judged], n_classes
        self.ids = ids
        self.near = near.without_kin(VOTERS)
        self.families = _families(kin, near, judged, len(ids))
        self.linear = _Linear(vectors, judged, self.labels, n_classes)

    def opinion(self, progress: Callable[[int, int], None] | None) -> Opinion:
        """Judge the labels."""
        number, classes = len(self.judged), self.n_classes
        most = max(2, _BLOCK // (4 * classes))
        sample = np.array(spread(number, min(number, _SAMPLE, most)))
        self.linear.choose(self.judged[sample], self.labels[sample])
        weights = _weigh(self._views(sample), self.labels[sample])
        own = np.empty(number, np.float32)
        rival = np.empty(number, np.int32)
        against = np.empty(number, np.float32)
        done = 0
        for block in self._blocks(min(most, _SAMPLE)):
            likely = _softmax(self._views(block) @ weights)
            place = np.arange(len(block))
            own[block] = likely[place, self.labels[block]]
            likely[place, self.labels[block]] = -1
            rival[block] = likely.argmax(axis=1)
            against[block] = likely[place, rival[block]]
            done += len(block)
            if progress is not None:
                progress(done, number)
        usual = np.ones(classes)
        counts = np.bincount(self.labels, minlength=classes)
        sums = np.bincount(self.labels, weights=own, minlength=classes)
        usual[counts > 0] = sums[counts > 0] / counts[counts > 0]
        suspect = (against >= usual[rival]) & (own < usual[self.labels]) & (against > own)
        return Opinion(self.judged, own, rival, against, suspect)

    def _blocks(self, most: int) -> Iterator[npt.NDArray[np.intp]]:
        """Yield positions of judged rows, families together, about `most` at a time."""
        order = np.argsort(self.families, kind="stable")
        ends = np.append(np.flatnonzero(np.diff(self.families[order])) + 1, len(order))
        start = 0
        while start < len(order):
            at = int(np.searchsorted(ends, start + most))
            end = int(ends[min(at, len(ends) - 1)])
            yield order[start:end]
            start = end

    def _views(self, block: npt.NDArray[np.intp]) -> Floats:
        """Return what both views say of rows and classes, float32 (n, n_classes, 2)."""
        rows = self.judged[block]
        linear = self.linear.left_out(rows, self.labels[block], self.families[block])
        near = self.near.rows[rows]
        ids = np.where(near >= 0, self.ids[near], -1)
        at, place = np.nonzero(ids >= 0)
        votes = np.zeros((len(block), self.n_classes), np.float32)
        np.add.at(votes, (at, ids[at, place]), (1 / np.sqrt(place + 1)).astype(np.float32))
        total = votes.sum(axis=1, keepdims=True)
        votes /= np.where(total > 0, total, 1)
        return np.stack([linear, np.log(votes + _UNHEARD)], axis=-1)


class _Linear:
    """Ridge regression of the classes on the vectors, and what it says of rows left out of it."""

    def __init__(self, vectors: Floats, rows: Rows, labels: Ids, n_classes: int) -> None:
        self.vectors, self.n_classes = vectors, n_classes
        self.number = len(rows)
        dim = vectors.shape[1]
        self.shares = np.bincount(labels, minlength=n_classes) / self.number
        sums = np.zeros((n_classes, dim))
        products = np.zeros((dim, dim))
        direct = self.number > dim
        for first in range(0, self.number, max(1, _BLOCK // dim)):
            some = slice(first, first + max(1, _BLOCK // dim))
            part = aligned(vectors[rows[some]])
            np.add.at(sums, labels[some], part)
            if direct:
                products += part.T @ part
        self.mean = sums.sum(axis=0) / self.number
        if direct:
            products -= self.number * np.outer(self.mean, self.mean)
            values, axes = np.linalg.eigh(products)
        else:
            centred = aligned(vectors[rows]) - self.mean
            values, sides = np.linalg.eigh(centred @ centred.T)
            values = np.maximum(values, _NEGLIGIBLE)
            axes = centred.T @ (sides / np.sqrt(values))
        good = values > max(_NEGLIGIBLE, values.max() * _NEGLIGIBLE)
        self.values = values[good]
        # A row's coordinates, in which all rows that are kept are orthonormal.
        self.axes = (axes[:, good] / np.sqrt(self.values)).astype(np.float32)
        centred_sums = sums - np.outer(self.shares * self.number, self.mean)
        self.targets = (self.axes.T.astype(np.float64) @ centred_sums.T).astype(np.float32)
        self.ridge = _RIDGES[0]

    def choose(self, rows: Rows, labels: Ids) -> None:
        """Choose how much coefficients are shrunk, by what rows miss that are left out.

        The most that is within one standard error of the best: a row whose label is wrong then
        sways what is thought of others, and of itself, the least.
        """
        truth = np.zeros((len(rows), self.n_classes), np.float32)
        truth[np.arange(len(rows)), labels] = 1
        alone = np.arange(len(rows))
        means, errors = [], []
        for ridge in _RIDGES:
            self.ridge = ridge
            missed = ((truth - self.left_out(rows, labels, alone)) ** 2).sum(axis=1)
            means.append(float(missed.mean()))
            errors.append(float(missed.std()) / len(rows) ** 0.5)
        best = int(np.argmin(means))
        self.ridge = max(
            ridge
            for ridge, mean in zip(_RIDGES, means, strict=True)
            if mean <= means[best] + errors[best]
        )

    def left_out(self, rows: Rows, labels: Ids, families: Rows) -> Floats:
        """Predict the classes of rows, families as a whole left out: float32 (n, n_classes).

        `families` number what belongs together; rows of one must be asked together.
        """
        at = (aligned(self.vectors[rows]) - self.mean.astype(np.float32)) @ self.axes
        shrunk = at * (self.values / (self.values + self.ridge)).astype(np.float32)
        found = shrunk @ self.targets + self.shares.astype(np.float32)
        truth = np.zeros_like(found)
        truth[np.arange(len(rows)), labels] = 1
        missed = truth - found
        leverage = np.vecdot(shrunk, at) + np.float32(1 / self.number)
        out = truth - missed / np.maximum(1 - leverage, _NEGLIGIBLE)[:, None]
        _, inverse, sizes = np.unique(families, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        ends = np.cumsum(sizes)
        for family in np.flatnonzero((sizes > 1) & (sizes <= _MOST_KIN)):
            its = order[ends[family] - sizes[family] : ends[family]]
            hat = (shrunk[its] @ at[its].T).astype(np.float64) + 1 / self.number
            rest = np.eye(len(its)) * (1 + _NEGLIGIBLE) - hat
            out[its] = truth[its] - np.linalg.lstsq(rest, missed[its], rcond=None)[0]
        alone: Floats = out.astype(np.float32, copy=False)
        return alone


def _families(kin: Kin, near: Neighborhood, judged: Rows, count: int) -> Rows:
    """Number the judged rows so that copies and kin have one number, int64 (n,)."""
    parent = np.arange(count)

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    def join(one: int, other: int) -> None:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)

    for ids in (kin.content, kin.group):
        rows = np.flatnonzero(ids >= 0)
        order = rows[np.argsort(ids[rows], kind="stable")]
        for i in np.flatnonzero(ids[order[1:]] == ids[order[:-1]]):
            join(int(order[i]), int(order[i + 1]))
    at, place = np.nonzero((near.rows >= 0) & ~near.fresh)
    for one, other in zip(near.asked[at].tolist(), near.rows[at, place].tolist(), strict=True):
        join(one, other)
    return np.array([root(row) for row in judged.tolist()], np.int64)


def _softmax(values: Floats) -> Floats:
    values = values - values.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def _weigh(views: Floats, labels: Ids) -> Floats:
    """Find the weights of the views under which the labels are likeliest, float32 (n_views,).

    Newton's method with halved steps on a concave function; a light penalty keeps a view that says
    nothing from a weight without bounds.
    """
    wide = views.astype(np.float64)
    wide -= wide.mean(axis=1, keepdims=True)
    scale = wide.std(axis=(0, 1))
    scale[scale == 0] = 1
    wide /= scale
    number, _, views_number = wide.shape
    own = wide[np.arange(number), labels]
    penalty = 1e-3

    def worth(weights: Doubles) -> float:
        values = wide @ weights
        top = values.max(axis=1)
        likely = own @ weights - top - np.log(np.exp(values - top[:, None]).sum(axis=1))
        return float(likely.mean() - penalty / 2 * weights @ weights)

    weights = np.zeros(views_number)
    before = worth(weights)
    for _ in range(50):
        values = wide @ weights
        likely = np.exp(values - values.max(axis=1, keepdims=True))
        likely /= likely.sum(axis=1, keepdims=True)
        expected = np.einsum("nc,ncv->nv", likely, wide)
        slope = (own - expected).mean(axis=0) - penalty * weights
        bend = np.einsum("nc,ncv,ncw->vw", likely, wide, wide, optimize=True) / number
        bend -= expected.T @ expected / number - penalty * np.eye(views_number)
        step = np.linalg.solve(bend, slope)
        while (after := worth(weights + step)) < before and np.abs(step).max() > _NEGLIGIBLE:
            step /= 2
        weights += step
        if after - before < _NEGLIGIBLE:
            break
        before = after
    found: Floats = (weights / scale).astype(np.float32)
    return found
