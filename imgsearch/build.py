"""The journey of `build`: a folder of pictures becomes an index."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import index, indexing
from imgsearch.backbones import DEFAULT_MODEL, load_model
from imgsearch.embedding import open_pool
from imgsearch.errors import NoImagesError
from imgsearch.memory import Journal, Memory, write_states
from imgsearch.records import BuildSummary, Running
from imgsearch.text import count, printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable


def build_index(  # noqa: PLR0913 - each is a choice of the user's
    images: str | os.PathLike[str],
    index_name: str | os.PathLike[str],
    *,
    labels_file: str | os.PathLike[str] | None = None,
    model: str = DEFAULT_MODEL,
    weights: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
    running: Running | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuildSummary:
    """Embed a folder of pictures and write an index.

    A build that was interrupted goes on where it was when it is called again.

    Args:
        images: the folder; the first-level subfolder of a picture is its label.
        index_name: the index' folder; a bare name means `indexes/NAME`.
        labels_file: a csv or parquet file with path, label and, if wanted, group and split.
        model: a model's name, see `imgsearch models`.
        weights: a published name or a file, see `backbones.load_model`.
        overwrite: replace an index that exists.
        strict: a file that cannot be used is an error, not a skip.
        running: how the work is done.
        progress: called with (files done, files in all) as the work goes on.

    Returns:
        What was done, with every skipped file and its reason.

    Raises:
        IndexExistsError: there is an index already and `overwrite` is not set.
        NoImagesError: no picture could be used.
        (and the errors of models, label files and writing; see errors.py)
    """
    base = indexing.find_base_set(Path(images), None if labels_file is None else Path(labels_file))
    if strict and base.skips:
        raise indexing.strict_error(base.skips[0])
    folder = index.locate(index_name)
    index.check_free(folder, overwrite=overwrite)
    running = running or Running()
    limits = running.limits
    with open_pool(running) as pool, index.IndexWriter(folder) as writer:
        index.check_free(folder, overwrite=overwrite)  # nobody came in before the lock was ours
        pool.warm()
        loaded = load_model(model, weights, running.device)
        with Journal(folder, indexing.identity(loaded), limits, loaded.dim) as journal:
            started = time.perf_counter()
            memory = Memory([journal.seen], [journal.find], limits.size)
            steps = indexing.plan(base, memory, sums=bool(journal.seen))
            writer.start(loaded.dim)
            result = indexing.work(
                base,
                steps,
                writer,
                journal,
                pool,
                model=loaded,
                batch_size=running.batch_size,
                strict=strict,
                progress=progress,
            )
            if not result.items:
                journal.clear()
                skips = result.skips
                raise NoImagesError(
                    f"none of {count(len(skips), 'file')} in {printable(str(images))} could be "
                    f"used; the first, {skips[0].path}: {skips[0].reason}"
                )
            seconds = time.perf_counter() - started
            classes = indexing.commit(writer, base, result, indexing.of_model(loaded))
            write_states(folder, result.states, limits)
            journal.clear()
    return BuildSummary(
        index=str(folder),
        count=len(result.items),
        classes=classes,
        skipped=tuple(result.skips),
        model=loaded.model,
        weights=loaded.weights,
        dim=loaded.dim,
        seconds=seconds,
        images_per_second=len(result.items) / seconds if seconds > 0 else 0.0,
        left_out=base.left_out,
        unlisted=base.unlisted,
    )
