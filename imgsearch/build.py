"""The journey of `build`: a folder of pictures becomes an index."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import engines, index, indexing, quantizing
from imgsearch.backbones import DEFAULT_MODEL, load_model
from imgsearch.clusters import Cluster
from imgsearch.embedding import open_pool
from imgsearch.errors import InputError, NoImagesError
from imgsearch.memory import Journal, Memory, write_states
from imgsearch.places import place_of
from imgsearch.records import PRECISIONS, BuildSummary, Running
from imgsearch.text import count, printable

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from imgsearch.decoding import DecoderPool
    from imgsearch.engines import LoadedModel
    from imgsearch.indexing import BaseSet
    from imgsearch.records import Precision


def build_index(  # noqa: PLR0913 - each is a choice of the user's
    images: str | os.PathLike[str],
    index_name: str | os.PathLike[str],
    *,
    labels_file: str | os.PathLike[str] | None = None,
    model: str = DEFAULT_MODEL,
    weights: str | None = None,
    precision: Precision = "fp32",
    overwrite: bool = False,
    strict: bool = False,
    running: Running | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BuildSummary:
    """Embed a folder of pictures and write an index.

    A build that was interrupted goes on where it was when it is called again.

    Args:
        images: the folder, or an s3:// or gs:// URL; the first-level subfolder of a picture is its
            label.
        index_name: the index' folder; a bare name means `indexes/NAME`.
        labels_file: a csv or parquet file with path, label and, if wanted, group and split.
        model: a model's name, see `imgsearch models`.
        weights: a published name or a file, see `backbones.load_model`.
        precision: "fp32", or "int8" for a network in 8-bit numbers, which is made with a sample of
            the pictures and asked through itself alone.
        overwrite: replace an index that exists.
        strict: a file that cannot be used is an error, not a skip.
        running: how the work is done.
        progress: called with (files done, files in all) as the work goes on.

    Returns:
        What was done, with every skipped file and its reason.

    Raises:
        IndexExistsError: there is an index already and `overwrite` is not set.
        InputError: int8 would lose too much.
        NoImagesError: no picture could be used.
        (and the errors of models, label files and writing; see errors.py)
    """
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InputError(f"there is no precision '{printable(precision)}'; choose one of: {known}")
    base = indexing.find_base_set(
        place_of(images), None if labels_file is None else Path(labels_file)
    )
    if strict and base.skips:
        raise indexing.strict_error(base.skips[0])
    folder = index.locate(index_name)
    index.check_free(folder, overwrite=overwrite)
    running = running or Running()
    limits = running.limits
    cluster = Cluster(running) if running.on == "ray" else None
    if cluster is not None:
        cluster.begin()  # before anything is made in a folder that is no index
    with (
        cluster or contextlib.nullcontext(),
        open_pool(running) as pool,
        index.IndexWriter(folder) as writer,
    ):
        index.check_free(folder, overwrite=overwrite)  # nobody came in before the lock was ours
        if cluster is None:
            pool.warm()
        loaded = _load(model, weights, precision, base, pool, running)
        with Journal(folder, indexing.identity(loaded), limits, loaded.dim) as journal:
            started = time.perf_counter()
            memory = Memory([journal.seen], [journal.find])
            # Reading all of a network's pictures once more to find what is known would cost more.
            summed = bool(journal.seen) and not base.place.remote
            steps = indexing.plan(base, memory, limits.size if summed else None)
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
                spread=None if cluster is None else cluster.embed,
            )
            if not result.items:
                journal.clear()
                skips = result.skips
                raise NoImagesError(
                    f"none of {count(len(skips), 'file')} in {printable(str(images))} could be "
                    f"used; the first, {skips[0].path}: {skips[0].reason}"
                )
            seconds = time.perf_counter() - started
            classes = indexing.commit(
                writer, base, result, indexing.of_model(loaded), quantized=loaded.quantized
            )
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
        engine=indexing.engine_of(loaded),
        precision=loaded.precision,
        cost=loaded.cost,
    )


def _load(  # noqa: PLR0917 - what a model is asked for with
    model: str,
    weights: str | None,
    precision: Precision,
    base: BaseSet,
    pool: DecoderPool,
    running: Running,
) -> LoadedModel:
    """Load the network in the precision and for the engine that are wanted."""
    if precision == "fp32":
        if running.on == "ray" and running.device == "cuda":
            # The nodes have the GPUs, this machine perhaps none.
            engines.candidates(running.engine, running.device)
            return load_model(model, weights, "cpu", "torch")
        return load_model(model, weights, running.device, running.engine)
    if running.engine not in {"auto", "openvino"} or running.device not in {"auto", "cpu"}:
        raise InputError(
            "--precision int8 is run by the engine openvino on the CPU: leave --engine and "
            "--device out"
        )
    quantizing.check_packages()
    sources = [base.place.source(item.path) for item in base.items]
    return quantizing.quantize(load_model(model, weights, "cpu"), sources, pool)
