"""The vector file: a FAISS IndexFlatIP of unit rows, written in a stream, read after its checks."""

from __future__ import annotations

import contextlib
import struct
import threading
from typing import TYPE_CHECKING, Any, BinaryIO

from imgsearch import products
from imgsearch.errors import IndexCorruptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from imgsearch.ranking import Proposed

# faiss/impl/index_write.cpp, IndexFlat: fourcc, d, ntotal, two unused words, is_trained,
# metric (0 = inner product), then the number of floats that follow.
_HEADER = struct.Struct("<4siqqqBiQ")
HEADER_SIZE = _HEADER.size
_FOURCC = b"IxFI"
_UNUSED = 1 << 20
_INNER_PRODUCT = 0
_CHUNK_BYTES = 1 << 20
# A row that was normalized in float64 and rounded to float32 is far closer to unit length.
UNIT_TOLERANCE = 1e-5
_LIMIT = threading.Lock()  # over a setting of FAISS
_MAX_ROWS = 1 << 40
_MAX_DIM = 1 << 20


def header(count: int, dim: int) -> bytes:
    """Return the 45 bytes that FAISS writes before the rows of an IndexFlatIP."""
    return _HEADER.pack(_FOURCC, dim, count, _UNUSED, _UNUSED, 1, _INNER_PRODUCT, count * dim)


def file_size(count: int, dim: int) -> int:
    """Return the bytes that a vector file of this shape has."""
    return HEADER_SIZE + 4 * count * dim


def rounding(dim: int) -> float:
    """Return how far a float32 score of two unit rows may be from the exact one.

    Any order of summing d products of float32 unit vectors is off by at most d * u / (1 - d * u),
    u = 2**-24 (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1), since the
    products' absolute values sum to 1 at most. Rows may be longer by the tolerance.
    """
    share = dim * 2.0**-24
    return float(share / (1 - share) * (1 + 4 * UNIT_TOLERANCE) + 2.0**-23)


def row_length(size: int, count: int) -> int:
    """Return the numbers in a row of a vector file of `size` bytes and `count` rows."""
    return (size - HEADER_SIZE) // (4 * count)


class VectorWriter:
    """Write a vector file row by row: the memory it takes does not grow with the rows.

    The bytes are those of `faiss.write_index`, which itself would need all rows at once, and would
    not say when the disk is full.
    """

    def __init__(self, stream: BinaryIO, dim: int) -> None:
        """Start at the beginning of `stream`, which must allow seeking."""
        self._stream = stream
        self.dim = dim
        self.count = 0
        stream.write(header(0, dim))

    def append(self, rows: npt.NDArray[np.float32]) -> None:
        """Add unit rows, float32 of shape (n, dim)."""
        if rows.ndim != 2 or rows.shape[1] != self.dim:  # noqa: PLR2004 - a matrix
            raise ValueError(f"rows of shape (n, {self.dim}) are wanted, not {rows.shape}")
        self._stream.write(rows.astype("<f4", order="C", copy=False).tobytes())
        self.count += len(rows)

    def finish(self) -> None:
        """Write the header that tells how many rows came."""
        self._stream.seek(0)
        self._stream.write(header(self.count, self.dim))
        self._stream.flush()


class VectorFile:
    """The rows of an index and the FAISS index over them; made by `open_vectors`.

    `rows` is a read-only float32 view of shape (count, dim) into the mapped file. The header's 45
    bytes leave it off the boundaries of float32: FAISS takes it as it is, numpy's arithmetic must
    have a copy first.
    """

    def __init__(self, index: Any, rows: npt.NDArray[np.float32]) -> None:  # noqa: ANN401 - no types
        """Keep both; the view keeps the FAISS index alive."""
        self._index = index
        self.rows = rows
        self.count, self.dim = rows.shape

    @property
    def error(self) -> float:
        """How far a score of `propose` may be from the exact one.

        See `rounding`.
        """
        return rounding(self.dim)

    def local(self) -> VectorFile:
        """Return the rows at hand: these."""
        return self

    def qualifying(self, allowed: npt.NDArray[np.bool_] | None) -> int:
        """Return how many rows qualify by a mask, bool of shape (count,); all for None."""
        import numpy as np

        return self.count if allowed is None else int(np.count_nonzero(allowed))

    def propose(
        self,
        queries: npt.NDArray[np.float32],
        limit: int,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> Proposed:
        """Return the rows that score best, by FAISS' own float32 arithmetic.

        Args:
            queries: float32 of shape (n, dim).
            limit: how many rows to propose; at most as many as are allowed.
            allowed: bool of shape (count,), the rows that qualify; all unless given.

        Returns:
            Scores (n, limit), descending, and rows (n, limit), ties in no particular order.
        """
        import faiss
        import numpy as np

        from imgsearch.ranking import Proposed

        if allowed is None:
            scores, rows = self._index.search(queries, limit)
        else:
            selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            scores, rows = self._index.search(
                queries, limit, params=faiss.SearchParameters(sel=selector)
            )
        return Proposed(scores, rows)

    def multiply(
        self, query: npt.NDArray[np.float32], first: int, out: npt.NDArray[np.float32]
    ) -> None:
        """Score the rows from `first` on against a query, in this thread, within `error`.

        Args:
            query: float32 of shape (dim,).
            first: the first row.
            out: float32 of shape (n,), where the scores of n rows go.
        """
        import faiss

        rows = self.rows[first : first + len(out)]
        faiss.fvec_inner_products_ny(
            faiss.swig_ptr(out), faiss.swig_ptr(query), faiss.swig_ptr(rows), self.dim, len(out)
        )

    def multiplier(
        self, queries: npt.NDArray[np.float32]
    ) -> Callable[[int, npt.NDArray[np.float32]], None]:
        """Return what scores rows against queries by matrix products, with all cores.

        Args:
            queries: float32 of shape (n, dim).

        Returns:
            A function of a first row and of an array, float32 of shape (m, n), where it puts the
            scores of m rows, within `error`.
        """
        return products.multiplier(self.rows, queries)

    def fetch(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the stored vectors of these rows, float32 of shape (len(rows), dim)."""
        return self.rows[rows]


def aligned(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Copy rows of a mapped file to where numpy's arithmetic is fast; float32 (n, dim)."""
    import numpy as np

    return rows.view(np.uint8).copy().view(np.float32)


def check_header(file: Path, count: int, dim: int) -> Iterator[IndexCorruptError]:
    """Yield what is wrong with size and header, before FAISS sees the file."""
    size = file.stat().st_size
    wanted = file_size(count, dim)
    if size != wanted:
        yield IndexCorruptError(file.name, f"it has {size:,} bytes and {wanted:,} are due")
    with file.open("rb") as stream:
        found = stream.read(HEADER_SIZE)
    if found != header(count, dim):
        yield IndexCorruptError(
            file.name, f"its header is not that of {count:,} rows of {dim:,} numbers"
        )


def check_rows(vectors: VectorFile, name: str) -> Iterator[IndexCorruptError]:
    """Yield the first row that is not finite or not of unit length."""
    import numpy as np

    step = max(1, _CHUNK_BYTES // (4 * vectors.dim))
    for start in range(0, vectors.count, step):
        part = aligned(vectors.rows[start : start + step])
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("ij,ij->i", part, part, dtype=np.float64))
        bad = np.flatnonzero(~(np.abs(norms - 1.0) <= UNIT_TOLERANCE))
        if bad.size:
            row = start + int(bad[0])
            yield IndexCorruptError(name, f"row {row} is not a finite vector of unit length")
            return


@contextlib.contextmanager
def _believing(size: int) -> Iterator[None]:
    """Let FAISS believe a length field up to `size` bytes, and no memory be taken for more.

    The limit is one for the process: whoever uses FAISS beside us gets it back as it was.
    """
    import faiss

    with _LIMIT:
        before = faiss.get_deserialization_vector_byte_limit()
        faiss.set_deserialization_vector_byte_limit(size)
        try:
            yield
        finally:
            faiss.set_deserialization_vector_byte_limit(before)


def open_vectors(file: Path, count: int, dim: int) -> VectorFile:
    """Map a vector file whose size and header were checked.

    Raises:
        IndexCorruptError: FAISS does not read it as what its header says.
    """
    import faiss
    import numpy as np

    try:
        with _believing(4 * count * dim + HEADER_SIZE):
            # Mapped: only what a search touches becomes resident. Its name makes it immutable.
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise IndexCorruptError(file.name, "FAISS cannot read it") from error
    kind = type(index) is faiss.IndexFlatIP
    if not kind or (index.ntotal, index.d) != (count, dim):
        raise IndexCorruptError(file.name, "it holds something else than its manifest says")
    rows = np.asarray(_Lent(index, faiss.rev_swig_ptr(index.get_xb(), count * dim)))
    rows = rows.reshape(count, dim)
    rows.flags.writeable = False
    return VectorFile(index, rows)


class _Lent:
    """Memory of `owner` that numpy looks at: an array of it keeps its owner alive."""

    def __init__(self, owner: Any, array: Any) -> None:  # noqa: ANN401 - faiss has no types
        self.owner = owner
        self.__array_interface__ = array.__array_interface__


def shape_is_sane(count: int, dim: int) -> bool:
    """Whether a count and a dimension can be those of any file."""
    return 0 < count < _MAX_ROWS and 0 < dim < _MAX_DIM
