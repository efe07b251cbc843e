"""Matrix products of stored rows with many queries: FAISS' or numpy's, whichever is faster here.

Each brings a BLAS of its own, and which of the two knows a processor differs: on one 4th-generation
Xeon both took the same time, on a newer one FAISS' took four times that of numpy's.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Multiply = Callable[[int, Floats], None]

# From so many multiplications on it pays to try which is faster; a trial takes 2**29 each.
_WORTH_A_TRIAL = 2**34
_TRIAL_ROWS, _TRIAL_DIM, _TRIAL_QUERIES = 2048, 1024, 256
_TRIALS = 3
# numpy must win by more than the noise of a trial: it copies the rows first.
_CLEARLY = 0.8
_COPY_BYTES = 1 << 24


def multiplier(rows: Floats, queries: Floats) -> Multiply:
    """Return what scores rows against queries, with all cores.

    Args:
        rows: float32 (count, dim), in rows one after the other; they may lie off the boundaries of
            float32.
        queries: float32 (n, dim).

    Returns:
        A function of a first row and of an array, float32 (m, n), where it puts the products of m
        rows. One thread at a time may call it.
    """
    if rows.size * len(queries) >= _WORTH_A_TRIAL and numpy_is_faster():
        return by_numpy(rows, queries)
    return by_faiss(rows, queries)


def by_faiss(rows: Floats, queries: Floats) -> Multiply:
    """Multiply by a linear map of FAISS', which takes the rows where they lie; see `multiplier`."""
    import faiss
    import numpy as np

    product = faiss.LinearTransform(rows.shape[1], len(queries), False)
    faiss.copy_array_to_vector(np.ravel(queries), product.A)
    product.is_trained = True

    def multiply(first: int, out: Floats) -> None:
        some = rows[first : first + len(out)]
        product.apply_noalloc(len(some), faiss.swig_ptr(some), faiss.swig_ptr(out))

    return multiply


def by_numpy(rows: Floats, queries: Floats) -> Multiply:
    """Multiply by numpy, which wants the rows on their boundaries; see `multiplier`."""
    import numpy as np

    dim = rows.shape[1]
    step = max(1, _COPY_BYTES // (4 * dim))
    copied = np.empty((min(step, len(rows)), dim), np.float32)
    turned = np.ascontiguousarray(queries).T

    def multiply(first: int, out: Floats) -> None:
        for start in range(0, len(out), step):
            part = out[start : start + step]
            some = copied[: len(part)]
            # As bytes: numpy's arithmetic is slow on rows that lie off the boundaries.
            some.view(np.uint8)[...] = rows[first + start : first + start + len(part)].view(
                np.uint8
            )
            np.matmul(some, turned, out=part)

    return multiply


@functools.cache
def numpy_is_faster() -> bool:
    """Try both ways on rows such as a mapped file has, once in a process."""
    import numpy as np

    size = 4 * _TRIAL_ROWS * _TRIAL_DIM
    rows = np.zeros(size + 1, np.uint8)[1:].view(np.float32).reshape(_TRIAL_ROWS, _TRIAL_DIM)
    queries = np.ones((_TRIAL_QUERIES, _TRIAL_DIM), np.float32)
    out = np.empty((_TRIAL_ROWS, _TRIAL_QUERIES), np.float32)
    ways = by_faiss(rows, queries), by_numpy(rows, queries)
    best = [float("inf")] * len(ways)
    for _ in range(_TRIALS):
        for i, way in enumerate(ways):
            begin = time.perf_counter()
            way(0, out)
            best[i] = min(best[i], time.perf_counter() - begin)
    return best[1] < _CLEARLY * best[0]
