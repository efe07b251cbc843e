"""Scores of all rows, nearly: from 8-bit codes with a proven bound, or from the floats themselves.

Reading 4 bytes a number is what a scan of float vectors costs. One byte a number tells each score
within a bound; only rows that could belong to the answer by that bound are read in full. Codes are
derived from the vectors, in memory: nothing more on disk has to be believed.

The bound. A row x and a query q are written as

    x = X + r,  X = m 1 + s c        q = Q + p,  Q = n 1 + t a

with c and a vectors of whole numbers in -127..127, m and s of each row, n and t of the query, and
r and p what is left. Then

    q.x = Q.X + Q.r + p.x

The first part comes from the codes. m is the mean of x - s c and n that of q - t a, so that r and p
sum to nothing but rounding, and a multiple of 1 may be taken from the other factor. By the
Cauchy-Schwarz inequality, with v = mean(Q), w = mean(x), z = sum(r), y = sum(p):

    |Q.r| <= |Q - v 1| |r| + |v z|        |p.x| <= |p| |x - w 1| + |y w|

For pictures' vectors, none of whose numbers is negative, this halves the bound twice: the codes use
their whole range, and the mean, which is most of such a vector, costs nothing.

Rounding. Norms and sums are taken in float64 and rounded up. a.c is a sum of whole numbers: float32
adds them exactly in any order while the sum of their absolute values, at most |a| |c|, stays below
2**24; beyond, any order of summing d products is off by d u / (1 - d u) times that, u = 2**-24
(Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1). The few float32 steps
from a.c to the estimate are each off by u times what they are about.

The query is coded too because FAISS asks for it: for QT_8bit_direct_signed it may convert the query
to whole numbers (1.15 does where the dimension is a multiple of 16), and it says so nowhere.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from imgsearch.vectors import VectorFile

    Rows = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]
    Doubles = npt.NDArray[np.float64]

_PEAK = 127
_U = 2.0**-24
# What float64 arithmetic on a few thousand numbers, and rounding to float32, may lose.
_UP = 1 + 2.0**-20
# Vectors of this size fit into a processor's cache, where their codes would gain nothing.
_WORTH_BYTES = 1 << 26
# So many queries one by one are nobody's last: from then on each makes one block of the codes.
_PATIENCE = 8
_BLOCK_BYTES = 1 << 22
_CODE_BYTES = 1 << 17  # of floats that are coded at a time: they stay in the nearest cache
_SCORE_BYTES = 1 << 20
_SHARED_ROWS = 512  # from here on more than one thread scores them
# A share of the rows beyond which reading all of them in order is quicker than picking.
_FEW = 1 / 8
# A share of the rows up to which picking them is quicker than reading all codes.
_VERY_FEW = 1 / 50
_LONGEST_PAUSE = 63
# Where a matrix product begins to pay: measured on two cores, at 2,048 numbers.
_BATCH, _BATCH_CODED = 8, 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """What all rows score, nearly.

    `scores` is float32 (count,), to be written to by whoever gets it; the exact score of row i is
    within `slack` of scores[i]: one number, or float32 (count,). `coarse` where it is from codes.
    """

    scores: Floats
    slack: Floats | float
    coarse: bool


@dataclass(frozen=True, slots=True)
class _Coded:
    """Rows as codes: `codes` uint8 (n, dim), 128 + c; all else float32 (n,), see above."""

    codes: npt.NDArray[np.uint8]
    step: Floats  # s
    middle: Floats  # m
    total: Floats  # s sum(c)
    left: Floats  # |r|, rounded up
    size: Floats  # |s c|, rounded up
    tilt: Floats  # |z|, rounded up
    spread: Floats  # |x - w 1|, rounded up
    mean: Floats  # |w|, rounded up
    longest: float  # the highest |c|, rounded up


def _code(rows: Floats) -> _Coded:
    """Code rows, float32 (n, dim); see the top of the file."""
    low, high = rows.min(axis=1), rows.max(axis=1)
    step = (high - low) / np.float32(2 * _PEAK)
    # Below, 1 / step is not finite; the codes are then 0 and all is left over.
    step[step < 1e-30] = 0  # noqa: PLR2004
    inverse = np.divide(np.float32(1), step, out=np.zeros_like(step), where=step > 0)
    whole = rows - ((low + high) / 2)[:, None]
    whole *= inverse[:, None]
    np.rint(whole, out=whole)
    np.clip(whole, -_PEAK, _PEAK, out=whole)
    c = whole.astype(np.float64)
    wide = rows.astype(np.float64)
    sums = wide.sum(axis=1)
    lengths = np.vecdot(wide, wide)
    dim = rows.shape[1]
    total = c.sum(axis=1) * step
    norms = np.sqrt(np.vecdot(c, c))
    middle = ((sums - total) / dim).astype(np.float32)
    wide -= middle[:, None].astype(np.float64)
    c *= step[:, None].astype(np.float64)
    wide -= c  # now r
    whole += 128
    return _Coded(
        whole.astype(np.uint8),
        step,
        middle,
        total.astype(np.float32),
        _up(np.sqrt(np.vecdot(wide, wide))),
        _up(norms * step),
        _up(np.abs(wide.sum(axis=1))),
        _up(np.sqrt(np.maximum(lengths - sums * sums / dim, 0) + 2.0**-40)),
        _up(np.abs(sums / dim)),
        float(norms.max(initial=0.0)) * _UP,
    )


def _up(values: Doubles) -> Floats:
    return (values * _UP + 2.0**-60).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query as codes: `whole` float32 (dim,), a; the rest as above, in float64."""

    whole: Floats
    step: float  # t
    middle: float  # n
    mean: float  # v
    left: float  # |p|
    tilt: float  # |y|
    length: float  # |a|
    spread: float  # |Q - v 1|


def _ask(query: Floats) -> _Asked:
    q = query.astype(np.float64)
    low, high = float(q.min()), float(q.max())
    step = (high - low) / (2 * _PEAK)
    if step < 1e-30:  # noqa: PLR2004
        step = 0.0
    whole = np.rint((q - (low + high) / 2) / step) if step else np.zeros_like(q)
    np.clip(whole, -_PEAK, _PEAK, out=whole)
    middle = float((q - step * whole).mean())
    near = middle + step * whole
    left = q - near
    mean = float(near.mean())
    away = near - mean
    return _Asked(
        whole.astype(np.float32),
        step,
        middle,
        mean,
        math.sqrt(float(left @ left)) * _UP,
        (abs(float(left.sum())) + 2.0**-44) * _UP,
        math.sqrt(float(whole @ whole)) * _UP,
        math.sqrt(float(away @ away)) * _UP,
    )


class Codes:
    """8-bit codes of rows: a byte a number and 24 bytes a row, made block by block.

    One thread makes a block; any number of threads may estimate once all are made.
    """

    def __init__(self, rows: Floats, workers: int) -> None:
        """Make room for the codes of `rows`, float32 (count, dim), of unit length.

        They may lie off the boundaries of float32.
        """
        import faiss

        self._rows = rows
        count, dim = rows.shape
        least = -(-count // (4 * workers))
        self._block = max(1, min(_BLOCK_BYTES // dim + 1, max(1024, least)))
        self.blocks: int = -(-count // self._block)
        # Each block is a list of an inverted file: of FAISS' ways to scan such codes the one that
        # gives the scores of all, and uses no threads of its own.
        self._coarse = faiss.IndexFlatIP(dim)
        self._index = faiss.IndexIVFScalarQuantizer(
            self._coarse,
            dim,
            self.blocks,
            faiss.ScalarQuantizer.QT_8bit_direct_signed,
            faiss.METRIC_INNER_PRODUCT,
            False,
        )
        self._index.is_trained = True
        parts = min(self.blocks, 2 * workers)
        width = -(-self.blocks // parts)
        self._index.nprobe = width
        lists = np.full(parts * width, -1, np.int64)  # -1: no list
        lists[: self.blocks] = np.arange(self.blocks)
        self._parts = lists.reshape(parts, width)
        names = ("step", "middle", "total", "left")
        self._by_row = {name: np.empty(count, np.float32) for name in names}
        self._most = dict.fromkeys(("size", "tilt", "spread", "mean", "middle", "total"), 0.0)
        self._longest = 0.0
        self.made = 0

    @property
    def complete(self) -> bool:
        """Whether all blocks are made."""
        return self.made >= self.blocks

    def make(self) -> None:
        """Make the next block."""
        import faiss

        first = self.made * self._block
        last = min(len(self._rows), first + self._block)
        dim = self._rows.shape[1]
        codes = np.empty((last - first, dim), np.uint8)
        step = max(1, _CODE_BYTES // (4 * dim))
        for start in range(first, last, step):
            stop = min(last, start + step)
            # As bytes: numpy's arithmetic is slow on rows that lie off the boundaries of float32.
            part = self._rows[start:stop].view(np.uint8).copy()
            coded = _code(part.view(np.float32))
            codes[start - first : stop - first] = coded.codes
            for name, column in self._by_row.items():
                column[start:stop] = getattr(coded, name)
            for name, most in self._most.items():
                self._most[name] = max(most, float(np.abs(getattr(coded, name)).max()))
            self._longest = max(self._longest, coded.longest)
        numbers = np.arange(first, last, dtype=np.int64)
        self._index.invlists.add_entries(
            self.made, len(codes), faiss.swig_ptr(numbers), faiss.swig_ptr(codes)
        )
        self._index.ntotal = last
        self.made += 1

    def estimate(self, query: Floats, share: Callable[..., None]) -> Estimate:
        """Estimate what all rows score; `share` runs a function for many arguments in threads."""
        asked = _ask(query)
        scores = np.empty(len(self._rows), np.float32)
        slack = np.empty(len(self._rows), np.float32)
        dim = self._rows.shape[1]
        row = self._by_row
        most = self._most
        most_sum = asked.length * self._longest
        off = 0.0 if most_sum < 2.0**24 else dim * _U / (1 - dim * _U)
        products = asked.step * asked.length * most["size"]
        whole = dim * asked.mean  # sum(Q)
        rounding = 6 * _U * (products + abs(whole) * most["middle"])
        rounding += 6 * _U * abs(asked.middle) * most["total"]
        even = abs(asked.mean) * most["tilt"] + asked.left * most["spread"]
        even += asked.tilt * most["mean"] + off * products + rounding + 2.0**-21
        even32 = np.float32(even * _UP)
        spread32 = np.float32(asked.spread * _UP)

        def scan(lists: npt.NDArray[np.int64]) -> None:
            _, sums, rows = self._index.range_search_preassigned(
                asked.whole[None, :], -3e38, lists[None, :], None
            )
            if not len(rows):
                return
            # The lists hold consecutive rows.
            first, last = int(rows.min()), int(rows.max()) + 1
            part = np.empty(last - first, np.float32)
            part[rows - first] = sums
            part *= row["step"][first:last] * np.float32(asked.step)
            part += row["middle"][first:last] * np.float32(whole)
            part += row["total"][first:last] * np.float32(asked.middle)
            scores[first:last] = part
            np.multiply(row["left"][first:last], spread32, out=slack[first:last])
            slack[first:last] += even32

        share(scan, self._parts)
        return Estimate(scores, slack, coarse=True)


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Estimator:
    """Estimates for single queries: from the floats at first, from codes once they pay.

    An index that is asked a few times never pays for codes. From the ninth query on each query
    makes one block of them, so that none waits long. Where the bound leaves too many rows, the
    floats are scanned, and codes are tried again after a pause that doubles each time.

    Any number of threads may ask one estimator.
    """

    def __init__(self, vectors: VectorFile) -> None:
        """Estimate over the rows of a vector file."""
        self._vectors = vectors
        self.rows = vectors.rows
        self.error = vectors.error
        self._workers = _count_cores()
        self._pool: ThreadPoolExecutor | None = None
        self._codes: Codes | None = None
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._worth = self.rows.nbytes >= _WORTH_BYTES
        self._asked = 0
        self._wait = self._pause = 0

    @property
    def ready(self) -> bool:
        """Whether the codes are made."""
        return self._codes is not None and self._codes.complete

    @property
    def batch(self) -> int:
        """From so many queries on one matrix product costs less than an estimate for each."""
        return _BATCH_CODED if self.ready else _BATCH

    @property
    def few(self) -> int:
        """Up to so many rows are scored at once rather than estimated first."""
        return int(_VERY_FEW * len(self.rows))

    @property
    def limit(self) -> int:
        """The most rows that a bound may leave before all floats are scanned instead."""
        return int(_FEW * len(self.rows))

    def warm_up(self) -> None:
        """Make all codes now, if they can ever pay."""
        with self._making:
            while self._worth and not self.ready:
                self._make()

    def close(self) -> None:
        """End the threads; they start again with the next query."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown()

    def estimate(self, query: Floats) -> Estimate:
        """Estimate what all rows score for a unit query, float32 (dim,)."""
        codes = self._codes
        if codes is not None and codes.complete:
            with self._lock:
                if not self._wait:
                    use = True
                else:
                    self._wait -= 1
                    use = False
            return codes.estimate(query, self.share) if use else self.floats(query)
        if self._worth:
            self._asked += 1
            if self._asked > _PATIENCE and self._making.acquire(blocking=False):
                try:
                    if not self.ready:
                        self._make()
                finally:
                    self._making.release()
        return self.floats(query)

    def tell(self, *, closed: bool) -> None:
        """Tell whether the bound of the last estimate from codes left few enough rows."""
        with self._lock:
            self._pause = 0 if closed else min(2 * self._pause + 1, _LONGEST_PAUSE)
            self._wait = self._pause

    def floats(self, query: Floats) -> Estimate:
        """Scan the floats themselves, with all cores."""
        count, dim = self.rows.shape
        scores = np.empty(count, np.float32)
        share = min(_BLOCK_BYTES // dim, -(-count // self._workers))
        step = max(1, _SCORE_BYTES // (4 * dim), share)

        def scan(first: int) -> None:
            self._vectors.multiply(query, first, scores[first : first + step])

        self.share(scan, range(0, count, step))
        return Estimate(scores, self.error, coarse=False)

    def multiplier(self, queries: Floats) -> Callable[[int, Floats], None]:
        """Return what scores rows against queries by matrix products: see VectorFile."""
        return self._vectors.multiplier(queries)

    def score(self, rows: Rows, query: Floats) -> Floats:
        """Score some rows in float32, within `error`: float32 (len(rows),)."""
        scores = np.empty(len(rows), np.float32)
        step = max(1, _SCORE_BYTES // (4 * self.rows.shape[1]))

        def some(first: int) -> None:
            part = self.rows[rows[first : first + step]]
            np.vecdot(part, query, out=scores[first : first + step])

        firsts = range(0, len(rows), step)
        if len(rows) < _SHARED_ROWS:
            for first in firsts:
                some(first)
        else:
            self.share(some, firsts)
        return scores

    def _make(self) -> None:
        try:
            if self._codes is None:
                self._codes = Codes(self.rows, self._workers)
            self._codes.make()
        except MemoryError:  # answers need no codes
            self._codes, self._worth = None, False

    def share(self, work: Callable[[Any], None], arguments: Sequence[Any] | Rows) -> None:
        """Run `work` for each argument, with all cores; not to be called by such work."""
        if len(arguments) == 1 or self._workers == 1:
            for argument in arguments:
                work(argument)
            return
        turn = itertools.count()

        def take() -> None:
            # The next number of a count is one step of the interpreter: no two threads get one.
            while (at := next(turn)) < len(arguments):
                work(arguments[at])

        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._workers - 1, "imgsearch-scan")
            others = [self._pool.submit(take) for _ in range(self._workers - 1)]
        take()
        for other in others:
            # Where the caller has done all of it, nobody waits for a turn that does nothing.
            if not other.cancel():
                other.result()
