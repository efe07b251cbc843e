"""The journey of `update`: only new and changed pictures are embedded."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import index, indexing
from imgsearch.calibration import FEWEST
from imgsearch.clusters import Cluster
from imgsearch.embedding import open_pool
from imgsearch.engines import ENGINES
from imgsearch.errors import InputError, NoImagesError
from imgsearch.memory import Journal, Memory, Outcome, Seen, read_states, write_states
from imgsearch.places import place_of
from imgsearch.records import Running, UpdateSummary
from imgsearch.text import printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from imgsearch.index import Index
    from imgsearch.indexing import BaseSet, Result, Step
    from imgsearch.manifest import Manifest
    from imgsearch.records import StoredItem


def update_index(
    index_name: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    *,
    labels_file: str | os.PathLike[str] | None = None,
    weights: str | None = None,
    dry_run: bool = False,
    running: Running | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> UpdateSummary:
    """Bring an index up to date with its folder.

    New and changed pictures are embedded, moved ones keep their vector, gone ones leave; labels are
    taken afresh. Where nothing has changed nothing is written. An update that was interrupted goes
    on where it was when it is called again.

    Args:
        index_name: the index' folder; a bare name means `indexes/NAME`.
        images: the folder of pictures; the one that the index remembers unless given.
        labels_file: the label file; the one that the index remembers unless given.
        weights: where the weights file lies now, for an index made from a local file.
        dry_run: only tell what would change.
        running: how the work is done.
        progress: called with (files done, files in all).

    Raises:
        NotFoundError: there is no index, or its folder or label file is not there any more.
        InputError: the index was imported from vectors.
        NoImagesError: no picture could be used.
        (and what reading the index, models and writing raise)
    """
    started = time.perf_counter()
    running = running or Running()
    if dry_run:
        before = _Generation(index.open_index(index_name))
        base, steps, _ = _look(before, images, labels_file, running, None)
        return before.told(_foreseen(base, steps), started, written=False)
    folder = index.locate(index_name)
    index.read_manifest(folder)  # before anything is made in a folder that is no index
    cluster = Cluster(running) if running.on == "ray" else None
    with (
        cluster or contextlib.nullcontext(),
        open_pool(running) as pool,
        index.IndexWriter(folder) as writer,
    ):
        before = _Generation(index.open_index(folder))
        manifest = before.opened.manifest
        _check_origin(manifest)
        with Journal(folder, indexing.identity(manifest), running.limits, manifest.dim) as journal:
            base, steps, states = _look(before, images, labels_file, running, journal)
            model = None
            if any(step.known is None for step in steps):
                if cluster is None:
                    pool.warm()
                else:
                    cluster.begin()
                from imgsearch.backbones import reload_model

                # The engine that made the rows which are there makes those that join them; imported
                # ones were made by none.
                engine = manifest.engine.partition(" ")[0]
                if engine in ENGINES:
                    running = replace(running, engine=engine)
                model = reload_model(before.opened, None, weights, running)
            elif before.is_same(base, foreseen := _foreseen(base, steps)):
                if _differ(states, now := _known_states(steps)):
                    write_states(folder, now, running.limits)
                journal.clear()
                return before.told(foreseen, started, written=False)
            writer.start(manifest.dim)
            result = indexing.work(
                base,
                steps,
                writer,
                journal,
                pool,
                model=model,
                transform=before.opened.transform,
                batch_size=running.batch_size,
                progress=progress,
                spread=None if cluster is None else cluster.embed,
            )
            if not result.items:
                raise NoImagesError(
                    f"no picture in {printable(base.place.name)} can be used any more; the index "
                    "was left as it is"
                )
            written = not before.is_same(base, result)
            if written:
                make = indexing.of_manifest(manifest, model)
                indexing.commit(
                    writer,
                    base,
                    result,
                    make,
                    quantized=before.opened.quantized(),
                    transform=before.opened.learned(),
                )
            if written or _differ(states, result.states):
                write_states(folder, result.states, running.limits)
            journal.clear()
    return before.told(result, started, written=written)


def _check_origin(manifest: Manifest) -> None:
    if manifest.preprocessing is None:
        raise InputError(
            "the index was imported from vectors and no model is known that could embed pictures "
            "for it: import it again"
        )


def _look(
    before: _Generation,
    images: str | os.PathLike[str] | None,
    labels_file: str | os.PathLike[str] | None,
    running: Running,
    journal: Journal | None,
) -> tuple[BaseSet, list[Step], dict[str, Seen]]:
    """Find the base set as it is now, what is known of it, and the file states remembered."""
    manifest = before.opened.manifest
    _check_origin(manifest)
    place = place_of(manifest.image_root if images is None else images)
    table = manifest.labels_file if labels_file is None else labels_file
    base = indexing.find_base_set(place, None if table is None else Path(table))
    states = read_states(before.opened.folder, running.limits)
    if journal is None:
        memory = Memory([states], [before.find], before.sizes())
    else:
        memory = Memory([journal.seen, states], [journal.find, before.find], before.sizes())
    return base, indexing.plan(base, memory, running.limits.size), states


def _known_states(steps: list[Step]) -> dict[str, Seen]:
    return {
        step.item.path: Seen(step.state, step.known.sha256, step.known.reason)
        for step in steps
        if step.state is not None and step.known is not None
    }


def _differ(before: dict[str, Seen], now: dict[str, Seen]) -> bool:
    """Whether files look otherwise than remembered: unless that is kept, all are read each time."""
    return {path: seen.state.facts for path, seen in before.items()} != {
        path: seen.state.facts for path, seen in now.items()
    }


class _Generation:
    """The generation that is brought up to date: its rows, in memory and by content sum."""

    def __init__(self, opened: Index) -> None:
        self.opened = opened
        self._items = opened.items.all()
        self._row_of = {item.sha256: row for row, item in enumerate(self._items) if item.sha256}

    def find(self, sha256: str) -> Outcome | None:
        """Return what came of a content."""
        row = self._row_of.get(sha256)
        if row is None:
            return None
        item = self._items[row]
        return Outcome(
            sha256=sha256,
            width=item.width or 0,
            height=item.height or 0,
            size=item.size or 0,
            mtime_ns=item.mtime_ns or 0,
            reason=None,
            vector=self.opened.vectors.local().rows[row],
        )

    def sizes(self) -> Iterator[int | None]:
        """Yield the sizes of its pictures' files."""
        return (item.size for item in self._items)

    def is_same(self, base: BaseSet, result: Result) -> bool:
        """Whether a result is this generation."""
        manifest = self.opened.manifest
        return (
            list(map(_facts, self._items)) == list(map(_facts, result.items))
            and list(self.opened.skipped()) == result.skips
            and manifest.image_root == base.place.name
            and manifest.labels_file == (base.labels_file and str(base.labels_file))
            # An index that an earlier release made learns what its scores mean.
            and (
                manifest.calibration is not None
                or manifest.transform is not None
                or manifest.count < FEWEST
            )
        )

    def told(self, result: Result, started: float, *, written: bool) -> UpdateSummary:
        """Tell how a result differs from this generation."""
        difference = _compare(self._items, result.items)
        return UpdateSummary(
            index=str(self.opened.folder),
            count=len(result.items),
            classes=index.count_classes(result.items),
            added=difference.added,
            changed=difference.changed,
            moved=difference.moved,
            relabelled=difference.relabelled,
            removed=difference.removed,
            skipped=tuple(result.skips),
            embedded=result.embedded,
            written=written,
            seconds=time.perf_counter() - started,
        )


def _foreseen(base: BaseSet, steps: list[Step]) -> Result:
    """Tell what a run would come to, taking for granted that unknown pictures can be used."""
    from imgsearch.records import Skip

    result = indexing.Result(skips=list(base.skips))
    for step in steps:
        known = step.known
        if known is not None and known.vector is None:
            result.skips.append(Skip(printable(step.item.path), known.reason or ""))
            continue
        result.embedded += known is None
        outcome = known or Outcome(None, 0, 0, 0, 0, None, None)
        result.items.append(indexing.stored(step, outcome))
    result.skips.sort(key=lambda skip: skip.path)
    return result


def _facts(item: StoredItem) -> tuple[str, str | None, str | None, str | None]:
    return item.path, item.label, item.group, item.sha256


@dataclass(frozen=True, slots=True)
class _Difference:
    added: int
    changed: int
    moved: int
    relabelled: int
    removed: int


def _compare(old_items: list[StoredItem], new_items: list[StoredItem]) -> _Difference:
    """Count how the rows of a result differ from those of a generation.

    A picture under a new path is moved where its content has left another path, else added.
    """
    before = {item.path: item for item in old_items}
    after = {item.path: item for item in new_items}
    gone = [item for path, item in before.items() if path not in after]
    left: dict[str | None, int] = {}
    for item in gone:
        left[item.sha256] = left.get(item.sha256, 0) + 1
    added = changed = moved = relabelled = 0
    for path, item in after.items():
        old = before.get(path)
        if old is None:
            if item.sha256 is not None and left.get(item.sha256, 0):
                left[item.sha256] -= 1
                moved += 1
            else:
                added += 1
        elif item.sha256 != old.sha256:
            changed += 1
        elif (item.label, item.group) != (old.label, old.group):
            relabelled += 1
    return _Difference(added, changed, moved, relabelled, len(gone) - moved)
