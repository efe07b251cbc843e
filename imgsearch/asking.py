"""From the words of the command line to queries, and from results to pictures and pages."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import __version__
from imgsearch.errors import ImgsearchError, InputError, NotFoundError
from imgsearch.labels import read_label_file
from imgsearch.records import ImageItem
from imgsearch.terminal import Progress, tell
from imgsearch.text import printable
from imgsearch.webpage import megabytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgsearch.duplicates import Cuts
    from imgsearch.embedding_map import MapKind
    from imgsearch.index import Index
    from imgsearch.questions import Asked
    from imgsearch.records import (
        AuditReport,
        EvaluationReport,
        Match,
        SearchResult,
        Skip,
    )
    from imgsearch.search import Query, SearchEngine

_THUMBNAIL, _TILE = 160, 320
# A report has many more pictures than a page that is worked through.
_SMALL, _QUALITY = 128, 80


def read_queries(
    engine: SearchEngine, given: Sequence[str], label: str | None, listed: list[ImageItem] | None
) -> tuple[list[Query], list[Skip]]:
    """Turn the QUERY arguments into queries, in their order; all are looked at before any work."""
    if list(given).count("-") > 1:
        raise InputError("- stands for standard input and can be given once")
    for word in given:
        if word == "-" or _row_number(word) or (word and os.path.lexists(word)):
            continue
        if word.startswith("row:"):
            raise InputError(
                f"'{printable(word)}' is no row: row:N has a whole number from 0, as in row:17"
            )
        raise NotFoundError(f"there is no picture or folder '{printable(word)}'")
    found: list[Query] = []
    skips: list[Skip] = []
    fixed = None if label == "auto" else label
    for word in given:
        if _row_number(word):
            found.append(engine.row_query(int(word[4:]), fixed))
        elif os.path.isdir(word):  # noqa: PTH112 - a word may hold any bytes
            queries, its_skips = engine.folder_queries(Path(word), listed)
            found.extend(_labelled(query, word, label) for query in queries)
            skips.extend(its_skips)
        else:
            found.append(_picture_query(engine, word, label))
    return found, skips


def _row_number(word: str) -> bool:
    return word.startswith("row:") and word[4:].isdecimal() and len(word) < 24  # noqa: PLR2004 - 64 bits


def _labelled(query: Query, folder: str, label: str | None) -> Query:
    from dataclasses import replace

    if label is None or (label == "auto" and query.label is not None):
        return query
    return replace(query, label=Path(folder).resolve().name if label == "auto" else label)


def _picture_query(engine: SearchEngine, word: str, label: str | None) -> Query:
    if word != "-":
        folder = Path(word).resolve().parent.name
        return engine.image_query(word, folder if label == "auto" else label)
    data = sys.stdin.buffer.read()
    if not data:
        raise InputError("there is nothing on standard input; - stands for a picture that is there")
    return engine.image_query(data, None if label == "auto" else label, name=word)


def read_cuts(score: float | None, bits: int | None) -> Cuts | None:
    """Return the cuts that were given, with the usual ones beside them; None where none was."""
    from imgsearch.duplicates import Cuts

    if score is None and bits is None:
        return None
    usual = Cuts()
    return Cuts(
        usual.score if score is None else score,
        usual.look,
        usual.bits if bits is None else bits,
    )


def draw(engine: SearchEngine, results: list[SearchResult], file: Path) -> None:
    """Draw the results as a grid into `file`; raises InputError and WriteError."""
    import io

    from PIL import Image

    from imgsearch.files import writing
    from imgsearch.pictures import draw_grid

    suffix = file.suffix.lower()
    if suffix not in {".png", ".jpg", ".jpeg", ".webp"}:
        raise InputError("--grid writes .png, .jpg or .webp")

    def load(source: SearchResult | Match) -> Image.Image | None:
        data = engine.thumbnail(source, _TILE)
        return None if data is None else Image.open(io.BytesIO(data)).convert("RGB")

    drawn = draw_grid(results, load)
    with writing(file):
        drawn.image.save(file)
    if drawn.drawn < drawn.total:
        tell(f"the grid shows the first {drawn.drawn:,} of {drawn.total:,} queries")
    tell(f"the grid is in {printable(str(file))}")


def write_report(  # noqa: PLR0917 - what a page tells of
    engine: SearchEngine,
    asked: Asked,
    report: EvaluationReport,
    audit: AuditReport | None,
    kind: MapKind,
    file: Path,
) -> None:
    """Write the evaluation's page to `file`; raises WriteError."""
    import numpy as np

    from imgsearch.embedding_map import make_map
    from imgsearch.files import write_file
    from imgsearch.report_page import Background, render_html

    index, manifest = engine.index, engine.index.manifest
    queries = np.empty((0, manifest.dim), np.float32)
    if report.mode == "test":
        queries = np.stack([query.vector for query in asked.queries])
    items = index.items
    background = Background(
        command=shlex.join(["imgsearch", *sys.argv[1:]]),
        made=f"{manifest.created_at[:16].replace('T', ' ')} UTC by {manifest.program}: "
        f"{manifest.dim:,} numbers a picture, {manifest.precision}",
        rows=list(zip(items.column("path"), items.column("label"), strict=True)),
        audit=audit,
        layout=make_map(index.vectors.local().rows, queries, kind),
    )
    with Progress("pictures") as progress:
        page = render_html(
            report,
            lambda picture: engine.preview(picture, _SMALL, _QUALITY),
            created=_now(),
            version=__version__,
            background=background,
            progress=progress,
        ).encode("utf-8")
    write_file(file, page)
    tell(f"the report is in {printable(str(file))} ({megabytes(len(page))})")


def _now() -> str:
    import datetime as dt

    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def write_audit(engine: SearchEngine, report: AuditReport, file: Path) -> None:
    """Write the audit's page to `file`; raises WriteError."""
    from imgsearch.audit_report import audit_html
    from imgsearch.files import write_file

    page = audit_html(
        report,
        label_rows(engine.index),
        lambda picture: engine.preview(picture, _THUMBNAIL),
        created=_now(),
        version=__version__,
        updatable=engine.index.manifest.preprocessing is not None,
    ).encode("utf-8")
    write_file(file, page)
    tell(f"the report is in {printable(str(file))} ({megabytes(len(page))})")


def label_rows(index: Index) -> list[ImageItem]:
    """Return what a label file must hold so that an index made with it is this one.

    Rows of other splits, and of pictures that could not be used, are taken over from the label file
    that the index remembers, as far as it can still be read.
    """
    stored = index.items.all()
    before: dict[str, ImageItem] = {}
    if index.manifest.labels_file is not None:
        with contextlib.suppress(ImgsearchError):
            listed = read_label_file(Path(index.manifest.labels_file))
            before = {item.path: item for item in listed.items}
    rows = []
    for item in stored:
        known = before.pop(item.path, None)
        split = None if known is None else known.split
        rows.append(ImageItem(item.path, item.label, item.group, split))
    return rows + list(before.values())
