"""What answers, behind the web: the generation that is served, and everything that is bounded.

Nothing here knows HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch import opening
from imgsearch.decoding import DecoderPool, Source
from imgsearch.embedding import NO_DIRECTION
from imgsearch.errors import (
    ImageDecodeError,
    ImgsearchError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    UnknownModelError,
    UnreachableError,
)
from imgsearch.manifest import FILE as MANIFEST
from imgsearch.records import Running
from imgsearch.remote import RemoteRows
from imgsearch.search import Query, SearchEngine
from imgsearch.web.browse import Browse
from imgsearch.web.figures import Figures
from imgsearch.web.network import Network
from imgsearch.web.thumbnails import Thumbnails

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import numpy.typing as npt

    from imgsearch.index import Index
    from imgsearch.manifest import Manifest
    from imgsearch.records import Scope, SearchResult
    from imgsearch.web.settings import Settings

log = logging.getLogger("imgsearch.serve")


class Generation:
    """One generation of the index, open; closed when the last who uses it has gone."""

    def __init__(self, engine: SearchEngine, network: Network | None, browse: Browse) -> None:
        """Take it up, in use by nobody but its owner."""
        self.engine, self.network, self.browse = engine, network, browse
        if network is not None:
            network.take()
        manifest = engine.index.manifest
        self.name = name_of(manifest)
        self.model_name = public_name(manifest.model)
        made = dt.datetime.fromisoformat(manifest.created_at)
        self.created = made.timestamp()
        self._users = 1
        self._lock = threading.Lock()

    def rows_of(self, label: str | None) -> npt.NDArray[np.intp]:
        """Return the rows of a class, or all rows, in order."""
        ids = self.engine.index.items.classes.ids
        if label is None:
            return np.arange(len(ids))
        return np.flatnonzero(ids == self.engine.classes.index(label))

    def take(self) -> bool:
        """Use it; False where it is closed already."""
        with self._lock:
            if not self._users:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """Use it no longer."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        self.browse.stop()
        self.engine.close()
        if self.network is not None:
            self.network.leave()


def name_of(manifest: Manifest) -> str:
    """Return a short name for a generation: other content is another name."""
    files = manifest.files
    return "-".join(files[kind].sha256[:12] for kind in ("vectors", "items"))


def public_name(model: str) -> str:
    """Return a model's name without the folder that it lies in."""
    kind, colon, rest = model.partition(":")
    return f"{kind}:{Path(rest).name}" if colon and kind == "onnx" else model


@dataclass(frozen=True, slots=True)
class Least:
    """What a match must reach to be shown: its score, and its probability."""

    score: float | None = None
    probability: float | None = None

    def check(self, engine: SearchEngine, scope: Scope) -> None:
        """Raise QueryError where matches have no probability."""
        if self.probability is not None:
            engine.check_probability(self.probability, scope)


class Slots:
    """Room for so many at once; who finds none is refused at once."""

    def __init__(self, most: int, why: str) -> None:
        """All free."""
        self.most, self.used = most, 0
        self._why = why
        self.changed: Callable[[int], None] = lambda _: None

    def check(self) -> None:
        """Raise OverloadedError where none is free."""
        if self.used >= self.most:
            raise OverloadedError(self._why)

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Take one, and give it back; raises OverloadedError. Of one thread only: the loop's."""
        self.check()
        self.used += 1
        self.changed(self.used)
        try:
            yield
        finally:
            self.used -= 1
            self.changed(self.used)


class Service:
    """An index that is served: its newest generation, its network, its limits."""

    def __init__(
        self,
        index: str | os.PathLike[str],
        settings: Settings,
        *,
        weights: str | None = None,
        running: Running | None = None,
    ) -> None:
        """Nothing is opened yet; see `start`."""
        self._index = index
        self.name = opening.name(index)
        self.settings = settings
        self.figures = Figures()
        self.ready = False
        self._weights = weights
        self._running = running or Running()
        self._pictures = Slots(settings.queue, "too many pictures are waiting")
        self._pictures.changed = self.figures.waiting.set
        self._searches = Slots(settings.searches, "too many searches are waiting")
        self._previews = Slots(settings.searches * 4, "too many pictures are asked for")
        self._threads = ThreadPoolExecutor(
            2 * (os.cpu_count() or 1), thread_name_prefix="imgsearch-search"
        )
        self._current: Generation | None = None
        self._refused: str | None = None
        self._away: str | None = None
        self._stopped = threading.Event()
        self._watcher: threading.Thread | None = None
        self._pool: DecoderPool | None = None
        self._thumbnails = Thumbnails(settings.limits, settings.thumbnails_bytes)

    # Life.

    def start(self) -> None:
        """Open the index, load its model, and watch for new generations.

        Raises:
            ImgsearchError: it cannot be served: not there, not to be trusted, no model.
        """
        workers = self._running.workers or os.cpu_count() or 1
        self._pool = DecoderPool(workers, self.settings.limits, list(self.settings.formats))
        self._adopt(self._open(None))
        for _ in range(workers):
            self._pool.warm()
        self.ready = True
        self._watcher = threading.Thread(target=self._watch, name="imgsearch-watch", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Let go of everything."""
        self.ready = False
        self._stopped.set()
        if self._watcher is not None:
            self._watcher.join(timeout=5)
        current, self._current = self._current, None
        if current is not None:
            current.leave()
            if current.network is not None:
                current.network.join(5)
        self._thumbnails.close()
        if self._pool is not None:
            self._pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _open(self, before: Generation | None) -> Generation:
        """Open what lies on disk now, checked in full, with its model loaded."""
        opened = opening.open_index(self._index, thorough=True)
        engine = SearchEngine(opened, weights=self._weights, running=self._running)
        network = None
        manifest = opened.manifest
        if manifest.preprocessing is not None:
            if before is not None and before.network is not None and same_model(before, opened):
                network = before.network
            else:
                network = Network(engine.model, self._running.batch_size)
                network.warm_up()
        engine.warm_up()
        return Generation(engine, network, Browse(engine, self.settings))

    def _adopt(self, new: Generation) -> None:
        before, self._current = self._current, new
        self.figures.took(new)
        if before is not None:
            self.figures.swaps.inc()
            before.leave()

    def check_here(self) -> None:
        """Raise NotReadyError, or UnreachableError where the server of the index is away."""
        if not self.ready:
            raise NotReadyError("the service is not ready")
        if self._away is not None:
            raise UnreachableError(self._away)

    def _watch(self) -> None:
        seen: object = None  # what was opened may have been replaced already
        while not self._stopped.wait(self.settings.watch_seconds):
            current = self._current
            if current is None:
                continue
            try:
                now = self._look(current)
                self._found(None)
                if now == seen:
                    continue
                self._renew()
                seen = now
            except UnreachableError as error:
                self._found(str(error))
            except Exception as error:  # noqa: BLE001 - the old one goes on, whatever it is
                # Tried again with every look: a copy may not be whole yet. Told once.
                self._refuse(error)

    @staticmethod
    def _look(current: Generation) -> object:
        """Look whether another generation may be there; raises UnreachableError."""
        opened = current.engine.index
        if isinstance(opened.vectors, RemoteRows):
            return opened.vectors.newest()
        return _look(opened.folder / MANIFEST)

    def _found(self, away: str | None) -> None:
        """Keep whether the server of the index is away, and why; tell when that changes."""
        if (away is None) == (self._away is None):
            return
        self._away = away
        if away is None:
            log.info("the server of the index is back")
        else:
            log.error("the server of the index is away", extra={"reason": away})

    def _renew(self) -> None:
        current = self._current
        fresh = opening.read_manifest(self._index)
        if current is not None and fresh == current.engine.index.manifest:
            self._refused = None
            return
        new = self._open(current)
        self._adopt(new)
        self._refused = None
        count = new.engine.index.manifest.count
        log.info("took up a new generation", extra={"generation": new.name, "rows": count})

    def _refuse(self, error: Exception) -> None:
        said = str(error) if isinstance(error, ImgsearchError) else type(error).__name__
        if said == self._refused:
            return
        self._refused = said
        self.figures.untrusted.inc()
        log.error("a new generation was refused and the old one goes on", extra={"reason": said})

    @contextlib.contextmanager
    def generation(self) -> Iterator[Generation]:
        """Use the newest generation; raises NotReadyError."""
        while True:
            current = self._current
            if current is None:
                raise NotReadyError("the service is not ready")
            if current.take():
                break
        try:
            yield current
        finally:
            current.leave()

    # Asking.

    def check_room(self) -> None:
        """Raise OverloadedError where a picture would find no room now."""
        self._pictures.check()

    async def by_image(
        self, data: bytes, k: int, scope: Scope, label: str | None, least: Least
    ) -> tuple[Generation, SearchResult, npt.NDArray[Any]]:
        """Answer a picture; also returns its unit vector as the model gives it, float32 (dim,).

        Raises:
            OverloadedError: too many wait, or it took too long.
            ImageDecodeError, QueryError, InputError: as in `SearchEngine.by_image`.
        """
        async with self._deadline(), _use(self.generation()) as generation:
            engine, network, pool = generation.engine, generation.network, self._pool
            if network is None or pool is None:
                raise UnknownModelError
            engine.check_label(label)
            # Before the picture is opened: what cannot be asked need not wait for it.
            least.check(engine, scope)
            with self._pictures.one():
                with self.figures.stage("decode"):
                    # Prepared as the generation was, whoever loaded the network.
                    prepared = engine.index.manifest.preprocessing or network.loaded.preprocess
                    decoded = await asyncio.wrap_future(
                        pool.input_later(Source("the upload", data=data), prepared)
                    )
                with self.figures.stage("embed"):
                    vector = await asyncio.wrap_future(network.embed(decoded.pixels))

            def query() -> Query:
                unit = engine.learned(vector)
                if unit is None:
                    raise ImageDecodeError("the upload", NO_DIRECTION)
                return Query("image", unit, label)

            return generation, await self._ask(engine, query, k, scope, least), vector

    async def by_vector(
        self,
        values: list[float],
        k: int,
        scope: Scope,
        label: str | None,
        least: Least,
    ) -> tuple[Generation, SearchResult]:
        """Answer a vector of `dim` numbers; raises as `SearchEngine.by_vector` does."""
        async with self._deadline(), _use(self.generation()) as generation:
            engine = generation.engine
            engine.check_label(label)
            return generation, await self._ask(
                engine, lambda: engine.vector_query(values, label), k, scope, least
            )

    async def by_row(
        self, row: int, k: int, scope: Scope, label: str | None, least: Least
    ) -> tuple[Generation, SearchResult]:
        """Answer a stored row; raises NotFoundError where there is none."""
        async with self._deadline(), _use(self.generation()) as generation:
            engine = generation.engine
            check_row(engine, row)
            engine.check_label(label)
            return generation, await self._ask(
                engine, lambda: engine.row_query(row, label), k, scope, least
            )

    async def _ask(
        self,
        engine: SearchEngine,
        query: Callable[[], Query],
        k: int,
        scope: Scope,
        least: Least,
    ) -> SearchResult:
        """Make a query and answer it, in a thread: a transform takes its time as well."""
        if self._away is not None:
            raise UnreachableError(self._away)
        with self._searches.one(), self.figures.stage("search"):
            loop = asyncio.get_running_loop()
            (result,) = await loop.run_in_executor(
                self._threads,
                lambda: engine.ask(
                    [query()],
                    k,
                    scope=scope,
                    min_score=least.score,
                    min_probability=least.probability,
                ),
            )
        return result

    async def preview(self, row: int, side: int) -> tuple[Generation, bytes]:
        """Return the picture of a row as a JPEG that fits into side x side pixels.

        Raises:
            NotFoundError: there is no such row, or no picture where it was.
            ImageDecodeError: it is no picture any more.
        """
        async with self._deadline(), _use(self.generation()) as generation:
            engine = generation.engine
            check_row(engine, row)
            item = engine.index.items.item(row)
            with self._previews.one():
                making = self._thumbnails.get(
                    engine.index.image_root, item.path, item.sha256 or "", side
                )
                return generation, await asyncio.shield(asyncio.wrap_future(making))

    @contextlib.asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.settings.deadline):
                yield
        except TimeoutError:
            raise OverloadedError(
                f"it was not answered within {self.settings.deadline:g} s"
            ) from None


@contextlib.asynccontextmanager
async def _use(
    generation: contextlib.AbstractContextManager[Generation],
) -> AsyncIterator[Generation]:
    with generation as used:
        yield used


def same_model(before: Generation, opened: Index) -> bool:
    """Whether a new generation is asked through the network that is loaded."""
    was, now = before.engine.index.manifest, opened.manifest
    entry = [manifest.files.get("model") for manifest in (was, now)]
    return (was.model, was.weights_sha256, was.precision, was.preprocessing) == (
        now.model,
        now.weights_sha256,
        now.precision,
        now.preprocessing,
    ) and entry[0] == entry[1]


def check_row(engine: SearchEngine, row: int) -> None:
    """Raise NotFoundError for a row that the index does not have."""
    total = engine.index.manifest.count
    if not 0 <= row < total:
        raise NotFoundError(f"there is no row {row}: the index has rows 0 to {total - 1}")


def _look(file: Path) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError):
        status = file.stat()
        return (status.st_mtime_ns, status.st_size, status.st_ino)
    return None
