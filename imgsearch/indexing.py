"""From a list of pictures to a generation: what `build` and `update` have in common."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsearch import __version__, folders, index, labels
from imgsearch.calibration import calibrate_files
from imgsearch.embedding import NO_DIRECTION, outcomes
from imgsearch.errors import InputError, NoImagesError
from imgsearch.items import items_bytes, skips_bytes
from imgsearch.manifest import Manifest
from imgsearch.memory import Outcome, Seen
from imgsearch.records import ImageItem, Skip, StoredItem
from imgsearch.text import count, is_utf8, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from imgsearch.backbones import LoadedModel
    from imgsearch.decoding import DecoderPool
    from imgsearch.index import IndexWriter
    from imgsearch.manifest import FileEntry
    from imgsearch.memory import FileState, Journal, Memory
    from imgsearch.places import Place
    from imgsearch.transforms import Transform

    Progress = Callable[[int, int], None]
    # Keeps what came of a picture, at once and in any order, and says what of it to yield.
    Keep = Callable[["Step", Outcome], "Kept"]
    # Embeds pictures: yields, in their order, what `Keep` made of each.
    Spread = Callable[
        [Place, list["Step"], LoadedModel, DecoderPool, int, Keep], Generator["Kept", None, None]
    ]


NO_FILE = "there is no such file"
# Pictures that are read at once, over a network, for their sums.
_READERS = 16


@dataclass(frozen=True, slots=True)
class BaseSet:
    """What is to be indexed: found, labelled, not opened yet."""

    place: Place
    items: list[ImageItem]
    skips: list[Skip]
    labels_file: Path | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    unlisted: int = 0


def find_base_set(place: Place, labels_file: Path | None) -> BaseSet:
    """List the pictures of a place with their labels.

    With a label file only the pictures that it names, in the split "base" or "train" or in none,
    belong to the base set.

    Raises:
        NotFoundError, InputError, LabelFileError: as `Place.find` and `read_label_file` say.
        NoImagesError: there is nothing to index.
    """
    found, skips = place.find(labels_file)
    check_keepable(place.name, "folder")
    if labels_file is not None:
        check_keepable(os.path.abspath(labels_file), "label file")  # noqa: PTH100 - resolve() would follow links
    if labels_file is None:
        if not found:
            why = f" (the first of {count(len(skips), 'skip')}: {skips[0].reason})" if skips else ""
            raise NoImagesError(f"there are no pictures in {printable(place.given)}{why}")
        return BaseSet(place, found, skips)
    listed = labels.read_label_file(labels_file)
    named = {item.path for item in listed.items}
    items, skips = [], []
    for item in listed.base():
        if place.escapes(item.path):
            skips.append(Skip(printable(item.path), folders.LEAVES))
        else:
            items.append(item)
    if not items:
        raise NoImagesError(f"{printable(str(labels_file))} names no picture of the base set")
    return BaseSet(
        place=place,
        items=items,
        skips=skips,
        labels_file=Path(os.path.abspath(labels_file)),  # noqa: PTH100 - as above
        left_out=listed.left_out(),
        unlisted=sum(item.path not in named for item in found),
    )


def check_keepable(path: str, what: str) -> None:
    """Raise InputError where a path that a manifest must name is no text."""
    if not is_utf8(path):
        raise InputError(
            f"the path {printable(path)} holds characters that are not UTF-8 and cannot be "
            f"kept in an index: rename the {what}, or a folder above it"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A picture on its way: its file's state, and what is known of it without opening it."""

    item: ImageItem
    state: FileState | None
    known: Outcome | None


def plan(base: BaseSet, memory: Memory, most: int | None) -> list[Step]:
    """Look at every file of a base set, and recall what is known.

    Files up to `most` bytes are read for their sum where that may tell more; None for no file.
    """
    place = base.place
    steps = []
    for item in base.items:
        state = place.look(item.path)
        if state is None and place.is_gone(item.path):
            known: Outcome | None = Outcome(None, 0, 0, 0, 0, NO_FILE, None)
        else:
            path = item.path
            read = None if most is None or place.remote else partial(place.content_sum, path, most)
            known = memory.recall(path, state, read)
        steps.append(Step(item, state, known))
    return _summed(place, steps, memory, most) if place.remote and most is not None else steps


def _summed(place: Place, steps: list[Step], memory: Memory, most: int) -> list[Step]:
    """Read over a network, several at once, those unknown pictures that may be known by content."""
    worth = [
        i
        for i, step in enumerate(steps)
        if step.known is None and step.state is not None and memory.may_know(step.state)
    ]
    with ThreadPoolExecutor(_READERS, "imgsearch-sums") as threads:
        sums = threads.map(lambda i: place.content_sum(steps[i].item.path, most), worth)
        for i, total in zip(worth, sums, strict=True):
            step = steps[i]
            known = memory.recall(step.item.path, step.state, lambda total=total: total)  # type: ignore[misc]
            steps[i] = replace(step, known=known)
    return steps


@dataclass(slots=True)
class Result:
    """What a run comes to: rows and skips in order, and the states to remember."""

    items: list[StoredItem] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    states: dict[str, Seen] = field(default_factory=dict)
    embedded: int = 0


def work(  # noqa: PLR0913 - it brings together what all rooms have
    base: BaseSet,
    steps: list[Step],
    writer: IndexWriter,
    journal: Journal,
    pool: DecoderPool,
    *,
    model: LoadedModel | None,
    transform: Transform | None = None,
    batch_size: int,
    strict: bool = False,
    progress: Progress | None = None,
    spread: Spread | None = None,
) -> Result:
    """Embed what is not known, and write every vector in order.

    `model` may be None where every step is known already. What it gives goes through `transform`
    before anything is kept; what is known has gone through it. `spread` embeds elsewhere than in
    this process, in the way of `_here`.

    Raises:
        InputError: a file cannot be used and `strict` is set.
        WriteError: vectors or journal cannot be written.
        NotFoundError: pictures that come over a network cannot be had.
    """
    result = Result(skips=list(base.skips))
    todo = [step for step in steps if step.known is None]

    def keep(step: Step, found: Outcome) -> Kept:
        """Keep what came of a picture for a next run, at once and in whatever order."""
        outcome, state = _settle(base.place, step, found, transform, pool.limits.size)
        journal.add(step.item.path, state, outcome)
        return Kept(outcome, state)

    fresh = _nothing()
    if model is not None and todo:
        way = spread or _here
        fresh = way(base.place, todo, model, pool, batch_size, keep)
    # Whatever ends this ends what was begun elsewhere, before the decoders that wait for it.
    with contextlib.closing(fresh):
        _write(steps, fresh, writer, result, strict=strict, progress=progress)
    result.skips.sort(key=lambda skip: skip.path)
    return result


def _nothing() -> Generator[Kept, None, None]:
    yield from ()


def _write(
    steps: list[Step],
    fresh: Iterator[Kept],
    writer: IndexWriter,
    result: Result,
    *,
    strict: bool,
    progress: Progress | None,
) -> None:
    """Write every vector in order: the known ones, and the others as they come."""
    for done, step in enumerate(steps, start=1):
        path = step.item.path
        kept = Kept(step.known, step.state) if step.known is not None else next(fresh)
        outcome = kept.outcome
        result.embedded += step.known is None and outcome.vector is not None
        if kept.state is not None:
            result.states[path] = Seen(kept.state, outcome.sha256, outcome.reason)
        if outcome.vector is None:
            result.skips.append(Skip(printable(path), outcome.reason or ""))
            if strict:
                raise strict_error(result.skips[-1])
        else:
            writer.append(outcome.vector[None, :])
            result.items.append(stored(step, outcome))
        if progress is not None:
            progress(done, len(steps))


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of a picture, and the state of the file that it can be known by later."""

    outcome: Outcome
    state: FileState | None


def _here(  # noqa: PLR0917 - what `work` was given
    place: Place,
    steps: list[Step],
    model: LoadedModel,
    pool: DecoderPool,
    batch_size: int,
    keep: Keep,
) -> Generator[Kept, None, None]:
    """Embed pictures in this process, and yield what came of them, in order."""
    paths = [step.item.path for step in steps]
    with place.sources(paths, pool.limits.size) as sources:
        found = outcomes(sources, model.preprocess, lambda: model.engine, pool, batch_size)
        for step, outcome in zip(steps, found, strict=True):
            yield keep(step, outcome)


def _settle(
    place: Place, step: Step, found: Outcome, transform: Transform | None, most: int
) -> tuple[Outcome, FileState | None]:
    """Bring an outcome to its last form, and find out what state of the file it belongs to."""
    outcome = _learned(found, transform)
    state = step.state
    if outcome.sha256 is None:
        # Of a file that cannot be opened its content is remembered, too.
        outcome = replace(outcome, sha256=place.content_sum(step.item.path, most))
        after = place.look(step.item.path)
        as_seen = state is not None and after is not None and state.facts == after.facts
        # What an object's rights are does not show in its state.
        as_seen = as_seen and not (place.remote and outcome.sha256 is None)
    else:
        as_seen = state is not None and state.facts[:2] == (outcome.size, outcome.mtime_ns)
    # A file that changed between the look and the reading proves nothing later on.
    return outcome, state if as_seen else None


def _learned(found: Outcome, transform: Transform | None) -> Outcome:
    if transform is None or found.vector is None:
        return found
    vector = transform.one(found.vector)
    return replace(found, vector=vector, reason=NO_DIRECTION if vector is None else None)


def stored(step: Step, outcome: Outcome) -> StoredItem:
    """Make the sidecar's row of a picture."""
    touched = step.state is not None and step.known is not None
    return StoredItem(
        path=step.item.path,
        label=step.item.label,
        sha256=outcome.sha256,
        width=outcome.width,
        height=outcome.height,
        size=outcome.size,
        mtime_ns=step.state.mtime_ns if touched and step.state else outcome.mtime_ns,
        group=step.item.group,
    )


def strict_error(skip: Skip) -> InputError:
    """Say that a file cannot be used where every file must be."""
    return InputError(f"{skip.path} cannot be used and --strict was asked for: {skip.reason}")


def commit(
    writer: IndexWriter,
    base: BaseSet,
    result: Result,
    make: Callable[..., Manifest],
    *,
    quantized: bytes | None = None,
    transform: bytes | None = None,
) -> dict[str, int]:
    """Make the result the index; return its rows by label.

    `make` gets the keywords of a Manifest that follow from the result; `quantized` is the model
    file of an int8 index, `transform` what the rows went through.
    """
    classes = index.count_classes(result.items)

    def finish(files: dict[str, FileEntry]) -> Manifest:
        return make(
            created_at=now(),
            program=f"imgsearch-faiss {__version__}",
            count=len(result.items),
            classes=classes,
            image_root=base.place.name,
            labels_file=None if base.labels_file is None else str(base.labels_file),
            skipped=len(result.skips),
            files=files,
            # Of a learned index nothing can be told of new pictures: see learning.py.
            calibration=calibrate_files(writer.folder, files, result.items, known=True)
            if transform is None
            else None,
        )

    skips = skips_bytes(result.skips) if result.skips else None
    writer.commit(items_bytes(result.items), skips, finish, quantized, transform)
    return classes


def now() -> str:
    """Return the time as it stands in a manifest."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def of_model(loaded: LoadedModel) -> Callable[..., Manifest]:
    """Return a maker of manifests for what a loaded model has embedded."""
    import faiss

    def make(**facts: Any) -> Manifest:  # noqa: ANN401 - the keywords of a Manifest
        return Manifest(
            faiss=faiss.__version__,
            engine=engine_of(loaded),
            model=loaded.model,
            weights=loaded.weights,
            weights_sha256=loaded.weights_sha256,
            weights_source=loaded.weights_source,
            preprocessing=loaded.preprocess,
            precision=loaded.precision,
            cost=loaded.cost,
            dim=loaded.dim,
            **facts,
        )

    return make


def engine_of(loaded: LoadedModel) -> str:
    """Return what stands in a manifest for the engine."""
    return f"{loaded.engine.name} {loaded.engine.version}"


def of_manifest(before: Manifest, loaded: LoadedModel | None = None) -> Callable[..., Manifest]:
    """Return a maker of manifests that keep the model of the generation before.

    The engine is that of `loaded`, where something was embedded.
    """
    import faiss

    engine = before.engine if loaded is None else engine_of(loaded)

    def make(**facts: Any) -> Manifest:  # noqa: ANN401 - the keywords of a Manifest
        return replace(before, faiss=faiss.__version__, engine=engine, **facts)

    return make


def identity(manifest: Manifest | LoadedModel) -> dict[str, Any]:
    """Return what an embedding depends on, for the name of a journal."""
    learned: dict[str, str] = {}
    if isinstance(manifest, Manifest):
        prepared, engine = manifest.preprocessing, manifest.engine
        if "transform" in manifest.files:
            learned = {"transform": manifest.files["transform"].sha256}
        entry = manifest.files.get("model")
        quantized = None if entry is None else entry.sha256
    else:
        prepared, engine, data = manifest.preprocess, engine_of(manifest), manifest.quantized
        quantized = None if data is None else hashlib.sha256(data).hexdigest()
    return {
        "model": manifest.model,
        "weights_sha256": manifest.weights_sha256,
        "preprocessing": None if prepared is None else prepared.to_dict(),
        "engine": engine,
        "precision": manifest.precision,
        "quantized": quantized,
        "dim": manifest.dim,
        **learned,
    }
