"""Pictures to unit vectors: decoding and computing overlap, order and memory stay."""

from __future__ import annotations

import itertools
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgsearch.decoding import DecoderPool, Source
from imgsearch.errors import ImageDecodeError, InputError
from imgsearch.memory import Outcome
from imgsearch.ranking import unit
from imgsearch.records import DecodedImage
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Future

    import numpy as np
    import numpy.typing as npt

    from imgsearch.engines import Engine
    from imgsearch.records import Preprocess, Running

    _Decoded = DecodedImage | ImageDecodeError

# Batches that wait decoded while the network works on one.
_BATCHES_AHEAD = 2
# Where a build may run.
PLACES = ("local", "ray")
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
    if running.on not in PLACES:
        raise InputError(
            f"there is nothing to run on called '{printable(running.on)}'; choose one of: "
            f"{', '.join(PLACES)}"
        )
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
    network: Engine | None = None
    threads: ThreadPoolExecutor | None = None
    under_way: deque[Future[list[Embedded]]] = deque()
    try:
        for batch in _batches(pool.inputs(sources, preprocess, ahead), batch_size):
            if network is None and any(isinstance(one, DecodedImage) for one in batch):
                network = engine()
            if network is None or (len(batch) < batch_size and not under_way):
                yield from _embed_batch(batch, network)
                continue
            if threads is None:
                threads = ThreadPoolExecutor(network.calls, "imgsearch-network")
            under_way.append(threads.submit(_embed_batch, batch, network))
            # One more than the network is at: it never waits for what happens to the results.
            if len(under_way) > network.calls:
                yield from under_way.popleft().result()
        while under_way:
            yield from under_way.popleft().result()
    finally:
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)


def outcomes(
    sources: Iterable[Source],
    preprocess: Preprocess,
    engine: Callable[[], Engine],
    pool: DecoderPool,
    batch_size: int,
) -> Iterator[Outcome]:
    """Embed pictures as `embed` does, and tell of each what an index wants to know."""
    for found in embed(sources, preprocess, engine, pool, batch_size):
        decoded = found.decoded
        if decoded is None:
            yield Outcome(None, 0, 0, 0, 0, found.reason or "", None)
        else:
            facts = (decoded.sha256, decoded.width, decoded.height, decoded.size, decoded.mtime_ns)
            yield Outcome(*facts, reason=found.reason, vector=found.vector)


def _batches(found: Iterable[_Decoded], size: int) -> Iterator[list[_Decoded]]:
    rest = iter(found)
    while batch := list(itertools.islice(rest, size)):
        yield batch


def _embed_batch(batch: list[_Decoded], network: Engine | None) -> list[Embedded]:
    """Embed a batch; `network` may be None where nothing in it is a picture."""
    import numpy as np

    good = [decoded for decoded in batch if isinstance(decoded, DecodedImage)]
    units: list[npt.NDArray[np.float32] | None] = []
    if good and network is not None:
        raw = network.embed(np.stack([decoded.pixels for decoded in good]))
        units = [unit(row) for row in raw]
    vectors = iter(units)
    results = []
    for decoded in batch:
        if isinstance(decoded, ImageDecodeError):
            results.append(Embedded(None, None, decoded.reason))
        else:
            vector = next(vectors)
            results.append(Embedded(vector, decoded, NO_DIRECTION if vector is None else None))
    return results
