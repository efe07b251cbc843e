"""The journey of `learn`: a transform learned from the labels of an index, where it helps."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from imgsearch import __version__, discriminants, index, indexing, trials
from imgsearch.errors import InputError
from imgsearch.items import items_bytes, skips_bytes
from imgsearch.records import LearnSummary, TransformNote
from imgsearch.text import printable
from imgsearch.transforms import make_transform
from imgsearch.vectors import aligned

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from imgsearch.index import Index
    from imgsearch.manifest import FileEntry, Manifest
    from imgsearch.transforms import Transform
    from imgsearch.trials import Trial

    Progress = Callable[[int, int], None]

# Of rows in float64 at a time.
_CHUNK_BYTES = 1 << 26
# What comes after the trials, in steps as long as theirs: the fit of all rows, and writing.
_REST = 5


def learn(
    index_name: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LearnSummary:
    """Learn a transform from the stored vectors and labels of an index; no picture is read.

    Candidates are cross-validated: see `imgsearch.trials`. Only where the interval of the gain lies
    above 0 is a new index written, whose rows have gone through the best of them, learned from all
    rows that have a label.

    Args:
        index_name: the index' folder; a bare name means `indexes/NAME`. It is left as it is.
        new: the folder of the new index.
        overwrite: replace an index that exists there.
        progress: called with (steps done, steps in all).

    Returns:
        What was found, and whether the new index was written.

    Raises:
        NotFoundError: there is no index.
        IndexExistsError: there is one at `new` already and `overwrite` is not set.
        InputError: too few labels to tell, an index that was learned itself, or `new` is the index.
        (and what reading and writing an index raise)
    """
    started = time.perf_counter()
    folder, target = index.locate(index_name), index.locate(new)
    opened = index.open_index(folder)
    if opened.transform is not None:
        raise InputError(
            f"{printable(str(folder))} was learned already and the vectors of its model are not in "
            "it: learn from the index that it was made of"
        )
    _check_target(folder, target, overwrite=overwrite)
    total = trials.STEPS + _REST

    def told(done: int, _: int) -> None:
        if progress is not None:
            progress(done, total)

    trial = _try(opened, told)
    fit = transform = None
    if trial.helps:
        fit = _fit(opened)
        transform = make_transform(fit.mean, trial.chosen.parts(fit))
        told(total - 2, total)
    chosen = trial.chosen.told(fit)
    if transform is not None:
        note = TransformNote(
            chosen=chosen,
            dim=opened.manifest.dim,
            learned_from=opened.manifest.files["vectors"].sha256,
            raw=trial.raw["precision_at_k"],
            learned=trial.learned["precision_at_k"],
            interval=trial.interval,
        )
        _write(opened, target, transform, note, overwrite=overwrite)
    told(total, total)
    return LearnSummary(
        index=str(folder),
        new=str(target),
        chosen=chosen,
        k=trials.K,
        raw=trial.raw,
        learned=trial.learned,
        difference=trial.difference,
        interval=trial.interval,
        found_first=trial.found,
        rows=trial.rows,
        queries=trial.queries,
        units=trial.units,
        folds=trials.FOLDS,
        dim=opened.manifest.dim if transform is None else transform.width,
        written=transform is not None,
        seconds=time.perf_counter() - started,
    )


def _check_target(folder: Path, target: Path, *, overwrite: bool) -> None:
    if target.resolve() == folder.resolve():
        raise InputError("NEW must be another index than the one that is learned from")
    index.check_free(target, overwrite=overwrite)


def _try(opened: Index, progress: Progress) -> Trial:
    """Cross-validate on the rows that have a label, or a sample of them."""
    ids = opened.items.classes.ids
    labelled = np.flatnonzero(ids >= 0)
    marks = [
        [column[row] for row in labelled.tolist()]
        for column in (opened.items.column("group"), opened.items.column("sha256"))
    ]
    drawn = trials.sample(len(labelled), marks)
    some = labelled[drawn]
    _, classes = np.unique(ids[some], return_inverse=True)
    trial = trials.try_candidates(
        aligned(opened.vectors.local().rows[some]),
        classes,
        [[column[row] for row in drawn.tolist()] for column in marks],
        progress=progress,
    )
    if trial is None:
        raise InputError(
            "there are too few labels to learn from: two classes are needed with two rows each, "
            f"and {trials.LEAST_UNITS} labelled rows in all, that are no near-duplicates of "
            "each other and of no common group"
        )
    return trial


def _fit(opened: Index) -> discriminants.Fit:
    """Fit all rows that have a label."""
    classes, dim = len(opened.items.classes.names), opened.manifest.dim
    total = discriminants.Moments(np.zeros(classes), np.zeros((classes, dim)), np.zeros((dim, dim)))
    for rows, ids in _labelled(opened):
        total += discriminants.moments(rows, ids, classes)
    return discriminants.fit(total, _labelled(opened), dim)


def _labelled(
    opened: Index,
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]]:
    for first, rows in _blocks(opened):
        ids = opened.items.classes.ids[first : first + len(rows)]
        yield rows[ids >= 0], ids[ids >= 0]


def _blocks(opened: Index) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    step = max(1, _CHUNK_BYTES // (8 * opened.manifest.dim))
    for first in range(0, opened.manifest.count, step):
        yield first, aligned(opened.vectors.local().rows[first : first + step])


def _write(
    opened: Index, target: Path, transform: Transform, note: TransformNote, *, overwrite: bool
) -> None:
    """Write the index anew, of rows that have gone through the transform."""
    before = opened.manifest

    def make(files: dict[str, FileEntry]) -> Manifest:
        import faiss

        return replace(
            before,
            created_at=indexing.now(),
            program=f"imgsearch-faiss {__version__}",
            faiss=faiss.__version__,
            dim=transform.width,
            transform=note,
            files=files,
            # The transform has seen the labels of all rows: among them scores would look better
            # than those of new pictures.
            calibration=None,
        )

    with index.IndexWriter(target) as writer:
        index.check_free(target, overwrite=overwrite)  # nobody came in before the lock was ours
        writer.start(transform.width)
        for first, rows in _blocks(opened):
            made, good = transform.apply(rows)
            if not good.all():
                row = first + int(np.flatnonzero(~good)[0])
                raise InputError(
                    f"row {row} is the mean of all rows and would have no direction left: take it "
                    "out of the index first"
                )
            writer.append(made)
        skips = skips_bytes(opened.skipped()) if opened.skipped() else None
        writer.commit(
            items_bytes(opened.items.all()), skips, make, opened.quantized(), transform.to_bytes()
        )
