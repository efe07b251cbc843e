"""Who lies near whom in a base set: each row's nearest others, its copies and its kin kept out.

A copy of a picture, or another of the same flat, says nothing about pictures that are yet to come:
whatever is learned from neighbors is learned without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import scanning
from imgsearch.duplicates import Cuts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from imgsearch.ranking import Floats, Mask, NearlySource, Rows

    Ids = npt.NDArray[np.int32]

# Of vectors whose network is not known nobody can tell what a high score is (pixels of two drawings
# of a 7 may well reach 0.95): only what is the same but for rounding is a copy.
_SAME_SCORE = 1 - 1e-6
# So many of the closest strangers may be copies with a wrong label: they do not draw the cut.
MISLABELLED = 0.05
# Where more of the rows had a copy than this, the score does not tell copies from likeness, either.
_MOST_COPIED = 0.25
# Fewer strangers tell nothing: the usual cut is good for pictures that differ as photos do.
FEWEST_STRANGERS = 100
# Queries that are asked at once: between two such lots somebody hears how far it has come.
_LOT = 2048


@dataclass(frozen=True, slots=True)
class Kin:
    """What ties rows together: int32 (count,) each, equal numbers mean the same, -1 is none.

    `content` numbers the sums of the files, `group` the groups of the label file.
    """

    content: Ids
    group: Ids

    @classmethod
    def of(cls, sums: Sequence[str | None], groups: Sequence[str | None]) -> Kin:
        """Number the sums and groups of all rows."""
        return cls(_numbered(sums), _numbered(groups))

    def tied(self, rows: Rows, others: Rows) -> Mask:
        """Tell which of `others` have the content or the group of `rows`, arrays of one shape."""
        same: Mask = np.zeros(np.broadcast_shapes(rows.shape, others.shape), np.bool_)
        for ids in (self.content, self.group):
            mine = ids[rows]
            same |= (mine >= 0) & (mine == ids[others])
        return same


def _numbered(names: Sequence[str | None]) -> Ids:
    numbers: dict[str, int] = {}
    return np.array(
        [-1 if name is None else numbers.setdefault(name, len(numbers)) for name in names],
        np.int32,
    )


@dataclass(frozen=True, slots=True)
class Neighborhood:
    """The nearest others of some rows, best first.

    `asked` int64 (n,) are the rows; `rows` int64 and `scores` float32, both (n, width), are their
    nearest, -1 and -inf where there are no more; `fresh` bool (n, width) tells those that are
    neither copy nor kin. Two rows count as copies from the score `copies_from` on.
    """

    asked: Rows
    rows: Rows
    scores: Floats
    fresh: Mask
    copies_from: float

    def without_kin(self, width: int) -> Neighborhood:
        """Return the nearest `width` that are neither copy nor kin."""
        order = np.argsort(~self.fresh, axis=1, kind="stable")[:, :width]
        fresh = np.take_along_axis(self.fresh, order, 1)
        rows = np.where(fresh, np.take_along_axis(self.rows, order, 1), -1)
        scores = np.where(fresh, np.take_along_axis(self.scores, order, 1), -np.inf)
        return replace(self, rows=rows, scores=scores.astype(np.float32), fresh=fresh)

    def strangers(self, ids: Ids) -> tuple[Rows, npt.NDArray[np.intp]]:
        """Return positions (i, j) of the nearest of another class: `rows[i, j]`, one a row or none.

        The closest first, and the very closest left out: they may be copies with a wrong label.

        Args:
            ids: the class of each row of the base set, -1 for none.
        """
        theirs = np.where(self.rows >= 0, ids[self.rows], -1)
        other = (
            (theirs >= 0) & (ids[self.asked] >= 0)[:, None] & (theirs != ids[self.asked][:, None])
        )
        i = np.flatnonzero((other & self.fresh).any(axis=1))
        j = (other & self.fresh)[i].argmax(axis=1)
        order = np.argsort(-self.scores[i, j], kind="stable")[int(MISLABELLED * len(i)) :]
        return i[order], j[order]


def find_neighbors(
    source: NearlySource,
    asked: Rows,
    width: int,
    kin: Kin,
    ids: Ids,
    *,
    known: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Neighborhood:
    """Find the nearest others of some rows, exactly; a row is never its own neighbor.

    From which score on two rows are copies is drawn by strangers: rows of different classes are not
    the same picture, but for a few whose label is wrong.

    Args:
        source: where the rows are.
        asked: the rows, int64 (n,).
        width: how many others of each.
        kin: what ties rows together.
        ids: the class of each row of the base set, -1 for none.
        known: whether a network that we know made the vectors.
        progress: called with (rows done, rows in all).
    """
    number = len(asked)
    rows = np.full((number, width), -1, np.int64)
    scores = np.full((number, width), -np.inf, np.float32)
    for first in range(0, number, _LOT):
        lot = asked[first : first + _LOT]
        found = scanning.scan(source, None, np.array(source.rows[lot]), width, exclude=lot.tolist())
        for i, scan in enumerate(found, start=first):
            rows[i, : len(scan.rows)] = scan.rows
            scores[i, : len(scan.rows)] = scan.scores
        if progress is not None:
            progress(min(number, first + _LOT), number)
    strange = (rows >= 0) & ~kin.tied(asked[:, None], rows)
    near = Neighborhood(asked, rows, scores, strange, 2.0)
    copies_from = _copy_score(near, ids) if known else _SAME_SCORE
    return replace(near, fresh=strange & (scores < copies_from), copies_from=copies_from)


def _copy_score(near: Neighborhood, ids: Ids) -> float:
    """Return the score that makes a copy, given what strangers score."""
    cut = Cuts().score
    strangers = near.scores[near.strangers(ids)]
    if len(strangers) >= FEWEST_STRANGERS:
        cut = max(cut, float(np.nextafter(strangers[0], np.float32(np.inf))))
    copied = np.count_nonzero(near.scores[:, 0] >= cut)
    return cut if copied <= _MOST_COPIED * len(near.asked) else _SAME_SCORE
