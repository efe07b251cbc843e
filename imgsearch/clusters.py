"""Embedding on a Ray cluster: shards of the sorted list, each by what a build of one machine runs.

The driver lists, keeps what comes back and writes the index; nobody else needs its disk. The model
goes to each node once. Pictures of a folder are read by the driver and go with their shard;
those in object storage are read by whoever embeds them. A shard whose process died is halved until
the picture is alone that kills it; one whose node died, or whose answer was lost, is sent again.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from imgsearch import __version__, engines, errors
from imgsearch._decoder import read_file
from imgsearch.decoding import DecoderPool, Source
from imgsearch.embedding import outcomes
from imgsearch.errors import (
    ImageDecodeError,
    ImgsearchError,
    InputError,
    MissingPackageError,
)
from imgsearch.joining import Session, check_form, check_there, given_address
from imgsearch.memory import Outcome
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from imgsearch.engines import Engine, LoadedModel
    from imgsearch.indexing import Keep, Kept, Step
    from imgsearch.memory import FileState
    from imgsearch.places import Place
    from imgsearch.records import Limits, Preprocess, Running

# Pictures of a shard, at least two batches, and bytes that go with one; a larger picture is a shard
# of its own.
_PICTURES, _BYTES = 16, 1 << 25
# Bytes of pictures that may be out, and answers that may wait for an earlier one.
_BYTES_OUT, _ANSWERS = 1 << 28, 512
# A process is fed by one shard while it works on another.
_SHARDS_A_PROCESS = 2
_DEATHS = 3
_LOSSES = 10
# So many deaths before anything has come back are not the pictures' fault.
_FALSE_START = 8
_COUNT_SECONDS = 10.0
DIED = "its process died three times over it"


@dataclass(frozen=True, slots=True)
class Job:
    """What all shards of a run have in common. `model` holds a reference to the packed model."""

    key: str
    version: str
    model: list[Any]
    preprocess: Preprocess
    limits: Limits
    device: str
    batch_size: int
    cores: int
    url: str | None


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a shard: its `data`, or the state of an object that the worker reads."""

    path: str
    data: bytes | None
    mtime_ns: int
    state: FileState | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A foreseen error on a worker: the name of its class, and its sentence."""

    kind: str
    text: str


# On a worker.


def embed_shard(job: Job, pictures: list[Picture]) -> list[Outcome] | Failed:
    """Embed the pictures of a shard, in a process of a cluster."""
    if job.version != __version__:
        return Failed(
            "InputError",
            f"a worker of the cluster has imgsearch-faiss {__version__} and this is "
            f"{job.version}: install the same on all nodes",
        )
    try:
        pool, engine = _ready(_Ready(job))
        with _sources(job, pictures) as sources:
            found = outcomes(sources, job.preprocess, lambda: engine, pool, job.batch_size)
            return list(found)
    except ImgsearchError as error:
        return Failed(type(error).__name__, str(error))


class _Ready:
    """A job that is told from others by its key."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Ready) and self.job.key == other.job.key

    def __hash__(self) -> int:
        return hash(self.job.key)


@functools.lru_cache(maxsize=1)
def _ready(asked: _Ready) -> tuple[DecoderPool, Engine]:
    """Make decoders and network, once in a process for all shards that it gets."""
    import ray

    job = asked.job
    kind, payload = ray.get(job.model[0])
    return DecoderPool(job.cores, job.limits), engines.unpack(
        kind, payload, job.preprocess, job.device
    )


@contextlib.contextmanager
def _sources(job: Job, pictures: list[Picture]) -> Iterator[Iterator[Source]]:
    if job.url is None:
        yield (
            Source(picture.path, data=picture.data or b"", mtime_ns=picture.mtime_ns)
            for picture in pictures
        )
        return
    from imgsearch.objects import Bucket

    states = {p.path: p.state for p in pictures if p.state is not None}
    bucket = Bucket(job.url, states=states)
    with bucket.sources([picture.path for picture in pictures], job.limits.size) as sources:
        yield sources


# On the driver.


def check_package() -> None:
    """Raise MissingPackageError where Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise MissingPackageError("ray", "ray", "--on ray")


@dataclass(slots=True)
class _Shard:
    """Some steps in a row: the place of the first in the whole list, and what happened to them."""

    first: int
    steps: list[Step]
    deaths: int = 0
    losses: int = 0
    # What the driver knows without asking a worker, by its place in the shard.
    known: dict[int, Outcome] = field(default_factory=dict)
    size: int = 0


class Cluster:
    """Embeds pictures on Ray; give `embed` to `indexing.work`."""

    def __init__(self, running: Running) -> None:
        """Nothing is started and nobody asked yet; raises MissingPackageError and InputError."""
        check_package()
        check_form(given_address())
        self._running = running
        self._session: Session | None = None

    def begin(self) -> Session:
        """Make sure that there is a cluster and begin to join it, while the model is loaded.

        Raises:
            NotFoundError: there is none at RAY_ADDRESS.
        """
        if self._session is None:
            check_there(given_address())
            self._session = Session()
        return self._session

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what was begun."""
        if self._session is not None:
            self._session.close()

    def embed(  # noqa: PLR0917 - what `indexing.work` gives
        self,
        place: Place,
        steps: list[Step],
        model: LoadedModel,
        pool: DecoderPool,
        batch_size: int,
        keep: Keep,
    ) -> Generator[Kept, None, None]:
        """Embed pictures on the cluster, and yield what came of them, in order.

        What comes back is given to `keep` at once, whatever is still missing before it.

        Raises:
            NotFoundError: there is no cluster at RAY_ADDRESS, or pictures cannot be had.
            InputError: the cluster cannot do this.
        """
        with self.begin().joined():
            yield from _Run(place, steps, model, pool.limits, batch_size, self._running, keep).all()


class _Run:
    """One list of pictures on its way through the cluster."""

    def __init__(  # noqa: PLR0917 - what `Cluster.embed` was given
        self,
        place: Place,
        steps: list[Step],
        model: LoadedModel,
        limits: Limits,
        batch_size: int,
        running: Running,
        keep: Keep,
    ) -> None:
        import ray

        self._ray: Any = ray  # much of it has no types
        self._place, self._limits, self._keep = place, limits, keep
        self._cores = running.workers or 1
        device = "cuda" if running.device == "cuda" else model.engine.device
        self._gpus = int(device == "cuda")
        self._job = Job(
            key=uuid.uuid4().hex,
            version=__version__,
            model=[ray.put(engines.pack(model))],
            preprocess=model.preprocess,
            limits=limits,
            device=device,
            batch_size=batch_size,
            cores=self._cores,
            url=place.name if place.remote else None,
        )
        # A picture that kills its process would kill it again: nothing is repeated by Ray itself.
        self._task = ray.remote(embed_shard).options(
            num_cpus=self._cores, num_gpus=self._gpus, max_retries=0
        )
        self._todo = deque(_shards(steps, max(_PICTURES, 2 * batch_size), remote=place.remote))
        self._total = len(steps)
        self._out: dict[Any, _Shard] = {}
        self._bytes = 0
        self._came: dict[int, Kept] = {}
        self._answers = self._deaths = 0
        self._counted = -_COUNT_SECONDS
        self._processes = 1

    def all(self) -> Iterator[Kept]:
        """Yield what became of each step, in order."""
        for at in range(self._total):
            while at not in self._came:
                self._send(at)
                self._receive()
            yield self._came.pop(at)

    def _count(self) -> None:
        """Count the processes that the cluster has room for: nodes come and go."""
        if time.monotonic() - self._counted < _COUNT_SECONDS:
            return
        self._counted = time.monotonic()
        there = self._ray.cluster_resources()
        room = int(there.get("CPU", 0)) // self._cores
        if self._gpus:
            room = min(room, int(there.get("GPU", 0)))
        if not room and self._answers == 0 and not self._out:
            what = "a GPU" if self._gpus else f"{self._cores} cores"
            raise InputError(
                f"no node of the Ray cluster has {what} for a process: leave "
                f"{'--device' if self._gpus else '--workers'} out, or add nodes"
            )
        self._processes = max(1, room)

    def _send(self, at: int) -> None:
        """Keep all processes busy, as far as the bytes that may be out allow."""
        self._count()
        while self._todo and len(self._out) < _SHARDS_A_PROCESS * self._processes:
            shard = self._todo[0]
            early = shard.first > at + _ANSWERS * _PICTURES
            if self._out and (early or self._bytes + shard.size > _BYTES_OUT):
                return
            self._todo.popleft()
            pictures = self._pictures(shard)
            if pictures:
                self._out[self._task.remote(self._job, pictures)] = shard
                self._bytes += shard.size
            else:
                self._settle(shard, [])

    def _pictures(self, shard: _Shard) -> list[Picture]:
        """Read the pictures of a shard, where workers do not do that themselves."""
        found = []
        for i, step in enumerate(shard.steps):
            path, state = step.item.path, step.state
            if i in shard.known:
                continue
            if self._place.remote:
                found.append(Picture(path, None, 0, state))
                continue
            try:
                data, mtime_ns = read_file(f"{self._place.name}/{path}", path, self._limits.size)
            except ImageDecodeError as error:
                shard.known[i] = _skipped(error.reason)
            else:
                found.append(Picture(path, data, mtime_ns))
        return found

    def _receive(self) -> None:
        """Take the answers that are there, waiting a little where there is none."""
        if not self._out:
            return
        # A little at a time: signals are handled between.
        ready, _ = self._ray.wait(list(self._out), num_returns=1, timeout=0.5)
        if not ready:
            return
        ready, _ = self._ray.wait(list(self._out), num_returns=len(self._out), timeout=0)
        for reference in ready:
            shard = self._out.pop(reference)
            self._bytes -= shard.size
            try:
                answer = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._failed(shard, error)
                continue
            if isinstance(answer, Failed):
                raise _again(answer)
            self._answers += 1
            self._settle(shard, answer)

    def _settle(self, shard: _Shard, answer: list[Outcome]) -> None:
        came = iter(answer)
        for i, step in enumerate(shard.steps):
            outcome = shard.known[i] if i in shard.known else next(came)
            self._came[shard.first + i] = self._keep(step, outcome)

    def _failed(self, shard: _Shard, error: Exception) -> None:
        """Decide what to do about a shard without an answer."""
        of = self._ray.exceptions
        if isinstance(error, of.NodeDiedError | of.ObjectLostError | of.OutOfMemoryError):
            shard.losses += 1
            if shard.losses < _LOSSES:
                self._todo.appendleft(shard)
                return
        elif not isinstance(error, of.WorkerCrashedError):
            said = printable(" ".join(str(error).split()))
            raise InputError(
                f"the Ray cluster cannot do this ({said[-300:]}): imgsearch-faiss must be "
                "installed on all nodes in the same version"
            ) from error
        self._deaths += 1
        if not self._answers and self._deaths >= _FALSE_START:
            raise ImgsearchError(
                f"{self._deaths} processes of the Ray cluster died and none has embedded "
                "anything: they may lack memory; look into Ray's own logs"
            ) from error
        if len(shard.steps) > 1:
            half = len(shard.steps) // 2
            for first, steps in ((half, shard.steps[half:]), (0, shard.steps[:half])):
                size = 0 if self._place.remote else sum(map(_size, steps))
                self._todo.appendleft(_Shard(shard.first + first, steps, size=size))
            return
        shard.deaths += 1
        if shard.deaths < _DEATHS:
            self._todo.appendleft(shard)
            return
        self._came[shard.first] = self._keep(shard.steps[0], _skipped(DIED))


def _skipped(reason: str) -> Outcome:
    return Outcome(None, 0, 0, 0, 0, reason, None)


def _size(step: Step) -> int:
    return 0 if step.state is None else step.state.size


def _shards(steps: list[Step], most: int, *, remote: bool) -> Iterator[_Shard]:
    """Cut a list into shards; the bytes count only where they go with a shard."""
    first, size = 0, 0
    for i, step in enumerate(steps):
        its = 0 if remote else _size(step)
        if i > first and (i - first >= most or size + its > _BYTES):
            yield _Shard(first, steps[first:i], size=size)
            first, size = i, 0
        size += its
    if steps:
        yield _Shard(first, steps[first:], size=size)


def _again(failed: Failed) -> ImgsearchError:
    """Make the error again that a worker met."""
    kind = getattr(errors, failed.kind, ImgsearchError)
    error: ImgsearchError = kind.__new__(kind)
    Exception.__init__(error, failed.text)
    return error
