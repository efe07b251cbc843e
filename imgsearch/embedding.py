"""Pictures to unit vectors: decoding and computing overlap, order and memory stay."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgsearch.decoding import DecoderPool, Source
from imgsearch.errors import ImageDecodeError, InputError
from imgsearch.ranking import unit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from imgsearch.engines import Engine
    from imgsearch.records import DecodedImage, Preprocess, Running

# Batches that wait decoded while the network works on one.
_BATCHES_AHEAD = 2
NO_DIRECTION = "its embedding is zero or not finite"


@dataclass(frozen=True, slots=True)
class Embedded:
    """One picture's outcome: a unit `vector` (float32, dim) with what was decoded, or a reason."""

    vector: npt.NDArray[np.float32] | None
    decoded: DecodedImage | None
    reason: str | None


def open_pool(running: Running, formats: list[str] | None = None) -> DecoderPool:
    """Make the decoder processes that a run asks for; raises InputError for absurd numbers."""
    workers = os.cpu_count() or 1 if running.workers is None else running.workers
    if workers < 1:
        raise InputError("--workers must be at least 1")
    if running.batch_size < 1:
        raise InputError("--batch-size must be at least 1")
    if running.limits.pixels < 1:
        raise InputError("--max-pixels must be at least 1")
    return DecoderPool(workers, running.limits, formats)


def embed(
    sources: Iterable[Source],
    preprocess: Preprocess,
    engine: Callable[[], Engine],
    pool: DecoderPool,
    batch_size: int,
) -> Iterator[Embedded]:
    """Embed pictures, in their order.

    A picture's vector is the same to the last bit in whatever batch it stands.

    Args:
        sources: the pictures.
        preprocess: the network's.
        engine: called when the first picture is ready for the network.
        pool: who opens the pictures.
        batch_size: pictures that the network takes at once.

    Yields:
        One Embedded a picture. Its vector has length 1; a picture whose embedding has no
        direction (zero, or not finite) has a reason instead.
    """
    ahead = _BATCHES_AHEAD * batch_size + pool.workers
    batch: list[DecodedImage | ImageDecodeError] = []
    for decoded in pool.inputs(sources, preprocess, ahead):
        batch.append(decoded)
        if len(batch) == batch_size:
            yield from _embed_batch(batch, engine)
            batch = []
    yield from _embed_batch(batch, engine)


def _embed_batch(
    batch: list[DecodedImage | ImageDecodeError], engine: Callable[[], Engine]
) -> Iterator[Embedded]:
    import numpy as np

    good = [decoded for decoded in batch if not isinstance(decoded, ImageDecodeError)]
    units: list[npt.NDArray[np.float32] | None] = []
    if good:
        raw = engine().embed(np.stack([decoded.pixels for decoded in good]))
        units = [unit(row) for row in raw]
    vectors = iter(units)
    for decoded in batch:
        if isinstance(decoded, ImageDecodeError):
            yield Embedded(None, None, decoded.reason)
        else:
            vector = next(vectors)
            yield Embedded(vector, decoded, NO_DIRECTION if vector is None else None)
