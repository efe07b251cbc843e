"""The network of a service: pictures that wait are embedded together, up to a batch."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np

from imgsearch.embedding import NO_DIRECTION
from imgsearch.errors import ImageDecodeError
from imgsearch.ranking import unit

if TYPE_CHECKING:
    import numpy.typing as npt

    from imgsearch.engines import LoadedModel

    Vector = npt.NDArray[np.float32]
    _Job = tuple[npt.NDArray[np.uint8], Future[Vector]]


class Network:
    """Threads that embed what waits, for the generations that share them.

    None waits for a batch to fill: a thread that is free takes what is there. A picture's vector is
    the same in whatever company it comes.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        """Start the threads: as many as the engine gains from."""
        self.loaded = loaded
        self._batch = batch_size
        self._users = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name="imgsearch-network", daemon=True)
            for _ in range(loaded.engine.calls)
        ]
        for thread in self._threads:
            thread.start()

    def warm_up(self) -> None:
        """Embed something, alone and in company, so that no query pays for the start."""
        side = self.loaded.preprocess.crop
        black = np.zeros((2, side, side, 3), np.uint8)
        self.loaded.engine.embed(black[:1])
        self.loaded.engine.embed(black)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> Future[Vector]:
        """Embed a picture, uint8 (crop, crop, 3).

        Returns:
            A future of the unit vector, float32 (dim,). It raises ImageDecodeError where the
            embedding has no direction.
        """
        future: Future[Vector] = Future()
        self._jobs.put((pixels, future))
        return future

    def take(self) -> None:
        """Use it for one generation more."""
        with self._lock:
            self._users += 1

    def leave(self) -> None:
        """Use it for one generation less; the last ends the threads."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for _ in self._threads:
            self._jobs.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the threads to end: none may be in the engine when the process ends."""
        for thread in self._threads:
            thread.join(seconds)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            last = False
            while len(batch) < self._batch:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._embed([one for one in batch if one[1].set_running_or_notify_cancel()])
            if last:
                return

    def _embed(self, batch: list[_Job]) -> None:
        if not batch:
            return
        try:
            rows = self.loaded.engine.embed(np.stack([pixels for pixels, _ in batch]))
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            for _, future in batch:
                future.set_exception(error)
            return
        for row, (_, future) in zip(rows, batch, strict=True):
            vector = unit(row)
            if vector is None:
                future.set_exception(ImageDecodeError("the upload", NO_DIRECTION))
            else:
                future.set_result(vector)
