"""The command line: a command opens, calls one journey, prints.

Results go to standard output, everything else to standard error. What each command does as a
Python call is named in its help and in docs/cli.md.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from imgsearch import __version__
from imgsearch.errors import ImgsearchError, InputError, NotFoundError
from imgsearch.records import DEFAULT_K, SCOPES, Limits, Running
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from imgsearch.records import EvaluationReport, ImageItem, Match, SearchResult, Skip
    from imgsearch.search import Query, SearchEngine

_INTERRUPTED, _TERMINATED = 130, 143
_BATCH_SIZE, _PIXELS = Running().batch_size, Limits().pixels
_THUMBNAIL, _TILE = 160, 320
_SKIPS_SHOWN = 10

app = typer.Typer(
    name="imgsearch",
    help="Find look-alikes in a folder of labelled pictures, and measure how well its classes "
    "separate.\n\nExample: imgsearch build photos rooms && imgsearch search rooms new.jpg",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(
    help="List the models; fetch or export one.\n\nExample: imgsearch models",
    rich_markup_mode=None,
    invoke_without_command=True,
)
app.add_typer(models_app, name="models")


# Completion: the names of indexes, the classes of the index that stands in the line already.


def _complete_index(incomplete: str) -> list[str]:
    from imgsearch.index import names

    return [name for name in names() if name.startswith(incomplete)]


def _complete_label(incomplete: str) -> list[str]:
    import shlex

    from imgsearch.index import locate, read_manifest

    # The parser has not filled in INDEX while an option still waits for its value: read the line.
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS") or ""
    classes: dict[str, int] = {}
    with contextlib.suppress(ValueError):  # a quote that is still open
        for word in shlex.split(line)[2:]:
            with contextlib.suppress(ImgsearchError):
                classes = read_manifest(locate(word)).classes
                break
    return [name for name in ("auto", *classes) if name.startswith(incomplete)]


def _complete_model(incomplete: str) -> list[str]:
    from imgsearch.backbones import MODELS

    return [spec.name for spec in MODELS if spec.name.startswith(incomplete)]


_IndexArgument = Annotated[
    str,
    typer.Argument(
        metavar="INDEX",
        help="An index folder; a bare name means indexes/NAME.",
        autocompletion=_complete_index,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_K = Annotated[int, typer.Option("-k", "--k", help="How many matches a query gets.")]
_Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu, cuda or mps.")]
_Workers = Annotated[
    int | None, typer.Option(help="Processes that open pictures.", show_default="one a core")
]
_BatchSize = Annotated[int, typer.Option(help="Pictures that the network takes at once.")]
_MaxPixels = Annotated[int, typer.Option(help="Skip pictures of more pixels than this.")]
_Weights = Annotated[
    str | None, typer.Option(help="Where the weights file lies now, if the index has its own.")
]
_Split = Annotated[str, typer.Option(help="Which split of the label file is asked.")]
_Report = Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page, too.")]


def _version(*, wanted: bool) -> None:
    if wanted:
        _print(f"imgsearch-faiss {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[  # noqa: FBT002 - taken out of the arguments by main(), shown here
        bool, typer.Option("--debug", help="Show a traceback with an error.")
    ] = False,
    version: Annotated[  # noqa: FBT002 - a flag
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda value: _version(wanted=value),
            help="Print the version.",
        ),
    ] = False,
) -> None:
    del debug, version


@app.command(epilog="Example: imgsearch prepare photos prepared --size 1028x768")
def prepare(  # noqa: PLR0917 - one parameter an option
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="A folder of pictures.")],
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder for the copies.")],
    size: Annotated[str, typer.Option(help="Width x height in pixels.")] = "1028x768",
    fit: Annotated[
        str,
        typer.Option(help="pad (white), crop, stretch, or inside (no larger than the size)."),
    ] = "pad",
    overwrite: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--overwrite", help="DEST may hold files; same names are replaced.")
    ] = False,
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Copy the class folders as EXIF-turned RGB JPEGs of one size.

    In Python: imgsearch.prepare(images, dest).
    """
    from imgsearch.prepare import prepare as run

    width, cross, height = size.lower().partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise InputError(f"--size is WIDTHxHEIGHT, as in 1028x768, not '{printable(size)}'")
    with _Progress("pictures") as progress:
        summary = run(
            images,
            dest,
            size=(int(width), int(height)),
            fit=fit,  # type: ignore[arg-type]  # checked there
            overwrite=overwrite,
            running=Running(workers=workers, limits=Limits(pixels=max_pixels)),
            progress=progress,
        )
    _tell_skips(summary.skipped)
    if as_json:
        _print_json(summary.to_dict())
    else:
        _print(
            f"{count(summary.count, 'picture')} of {summary.width} x {summary.height} pixels in "
            f"{printable(summary.dest)} ({summary.seconds:.1f} s)"
        )


@app.command(epilog="Example: imgsearch build photos rooms --model efficientnet-lite2")
def build(  # noqa: PLR0913, PLR0917 - one parameter an option
    images: Annotated[
        Path, typer.Argument(metavar="IMAGES", help="A folder; class = first-level subfolder.")
    ],
    index: _IndexArgument,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A csv or parquet file: path, label[, group, split]."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="A model, see `imgsearch models`.", autocompletion=_complete_model),
    ] = "resnet50",
    weights: Annotated[
        str | None, typer.Option(help="Published weights, FILE, or NAME=FILE.")
    ] = None,
    device: _Device = "auto",
    batch_size: _BatchSize = _BATCH_SIZE,
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    strict: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--strict", help="A file that cannot be used is an error.")
    ] = False,
    overwrite: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--overwrite", help="Replace an index that exists.")
    ] = False,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Embed a folder of labelled pictures and write an index.

    In Python: imgsearch.build_index(images, index).
    """
    from imgsearch.build import build_index

    with _Progress("pictures") as progress:
        summary = build_index(
            images,
            index,
            labels_file=labels,
            model=model,
            weights=weights,
            overwrite=overwrite,
            strict=strict,
            running=Running(device, batch_size, workers, Limits(pixels=max_pixels)),
            progress=progress,
        )
    _tell_skips(summary.skipped)
    for split, number in summary.left_out.items():
        _tell(f"{count(number, 'row')} of the split '{printable(split)}' not indexed")
    if summary.unlisted:
        _tell(f"{count(summary.unlisted, 'file')} in the folder not named by the label file")
    if as_json:
        _print_json(summary.to_dict())
        return
    classes = ", ".join(f"{printable(name)} {n:,}" for name, n in summary.classes.items())
    _print(
        f"{count(summary.count, 'picture')} in {printable(summary.index)} "
        f"({summary.model} {printable(summary.weights)}, {summary.dim} numbers each)\n"
        f"classes: {classes or 'none'}\n"
        f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} pictures a second"
    )


@app.command(epilog="Example: imgsearch update rooms")
def update(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _IndexArgument,
    images: Annotated[
        Path | None,
        typer.Argument(metavar="[IMAGES]", help="The folder; the remembered one if not given."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The label file; the remembered one if not given."),
    ] = None,
    dry_run: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--dry-run", help="Only tell what would change.")
    ] = False,
    weights: _Weights = None,
    device: _Device = "auto",
    batch_size: _BatchSize = _BATCH_SIZE,
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Embed only new and changed pictures; moved ones keep their vector, gone ones leave.

    In Python: imgsearch.update_index(index).
    """
    from imgsearch.update import update_index

    with _Progress("pictures") as progress:
        summary = update_index(
            index,
            images,
            labels_file=labels,
            weights=weights,
            dry_run=dry_run,
            running=Running(device, batch_size, workers, Limits(pixels=max_pixels)),
            progress=progress,
        )
    _tell_skips(summary.skipped)
    if as_json:
        _print_json(summary.to_dict())
        return
    figures = {
        "added": summary.added,
        "changed": summary.changed,
        "moved": summary.moved,
        "relabelled": summary.relabelled,
        "removed": summary.removed,
        "skipped": len(summary.skipped),
    }
    _print(", ".join(f"{name} {number:,}" for name, number in figures.items()))
    ending = "dry run, nothing written" if dry_run else "nothing to do, nothing written"
    if summary.written:
        ending = f"{count(summary.embedded, 'picture')} embedded, {summary.seconds:.1f} s"
    _print(f"{count(summary.count, 'picture')} in {printable(summary.index)}: {ending}")


@app.command("import", epilog="Example: imgsearch import vectors.npy items.csv mine")
def import_(  # noqa: PLR0917 - one parameter an option
    vectors: Annotated[
        Path,
        typer.Argument(metavar="VECTORS", help="A .npy or .safetensors file, (n, dim) float32."),
    ],
    items: Annotated[
        Path,
        typer.Argument(metavar="ITEMS", help="A csv or parquet file: path, label[, group, split]."),
    ],
    index: _IndexArgument,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that made them, to ask by image.", autocompletion=_complete_model
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Its weights, as in build.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="What paths are relative to; that of ITEMS if not given."
        ),
    ] = None,
    overwrite: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--overwrite", help="Replace an index that exists.")
    ] = False,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Write an index from embeddings that you already have, one row of ITEMS a vector.

    In Python: imgsearch.import_vectors(vectors, items, index).
    """
    from imgsearch.importing import import_vectors

    summary = import_vectors(
        vectors, items, index, model=model, weights=weights, images=images, overwrite=overwrite
    )
    _tell_skips(summary.skipped)
    if as_json:
        _print_json(summary.to_dict())
        return
    _print(
        f"{count(summary.count, 'vector')} of {summary.dim:,} numbers in "
        f"{printable(summary.index)} ({printable(summary.model)}), {summary.seconds:.1f} s"
    )


@app.command(epilog="Example: imgsearch search rooms new.jpg row:17 --grid matches.png")
def search(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _IndexArgument,
    queries: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY...",
            help="A picture, a folder (labels = its first-level subfolders), row:N, or - for a "
            "picture on standard input.",
        ),
    ],
    k: _K = DEFAULT_K,
    scope: Annotated[
        str, typer.Option(help=f"Which rows qualify, by their label: {', '.join(SCOPES)}.")
    ] = "all",
    label: Annotated[
        str | None,
        typer.Option(
            help="The query's label; auto takes the name of its parent folder.",
            autocompletion=_complete_label,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Labels of a QUERY folder, as csv or parquet."),
    ] = None,
    split: _Split = "test",
    min_score: Annotated[
        float | None, typer.Option(help="Leave out matches below this score (-1 to 1).")
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw the ranked pictures, too.")
    ] = None,
    weights: _Weights = None,
    device: _Device = "auto",
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
    as_csv: Annotated[bool, typer.Option("--csv", help="Print lines of csv.")] = False,  # noqa: FBT002 - a flag
) -> None:
    """Find the most similar pictures of the base set, exactly.

    In Python: imgsearch.SearchEngine.open(index).by_image(picture).
    """
    from imgsearch.labels import read_test_items
    from imgsearch.search import SearchEngine

    if as_json and as_csv:
        raise InputError("choose one of --json and --csv")
    running = Running(device, workers=workers, limits=Limits(pixels=max_pixels))
    with SearchEngine.open(index, weights=weights, running=running) as engine:
        if label is not None and label != "auto" and label not in engine.classes:
            raise InputError(engine.unknown_label(label))
        listed = None if labels is None else read_test_items(labels, split)
        asked, skips = _queries(engine, queries, label, listed)
        results = engine.ask(asked, k, scope=scope, min_score=min_score)  # type: ignore[arg-type]
        if grid is not None:
            _draw(engine, results, grid)
    _tell_skips(skips)
    for name in sorted({query.label for query in asked if query.label} - set(engine.classes)):
        _tell(f"no row of the index has the label '{printable(name)}'")
    if as_json:
        _print_json(
            {
                "index": str(engine.index.folder),
                "k": k,
                "scope": scope,
                "skipped": _as_dicts(skips),
                "queries": [result.to_dict() for result in results],
            }
        )
    elif as_csv:
        from imgsearch.report import search_csv

        sys.stdout.write(search_csv(results))
    else:
        from imgsearch.report import console, search_table

        out = console(sys.stdout)
        for part in search_table(results):
            out.print(part)


@app.command(epilog="Example: imgsearch evaluate rooms photos/test --report rooms.html")
def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _IndexArgument,
    test: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TEST]",
            help="A folder of labelled pictures; without it each base row is asked in turn.",
        ),
    ] = None,
    k: _K = DEFAULT_K,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labels of TEST, as csv or parquet.")
    ] = None,
    split: _Split = "test",
    report: _Report = None,
    weights: _Weights = None,
    device: _Device = "auto",
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Measure how well the classes separate.

    In Python: imgsearch.evaluate(engine, test).
    """
    from imgsearch.evaluation import evaluate as run
    from imgsearch.search import SearchEngine

    running = Running(device, workers=workers, limits=Limits(pixels=max_pixels))
    with SearchEngine.open(index, weights=weights, running=running) as engine:
        found = run(engine, test, k, labels_file=labels, split=split)
        if report is not None:
            _write_report(engine, found, report)
    _tell_skips(found.skipped)
    if as_json:
        _print_json(found.to_dict())
        return
    from imgsearch.report import console, evaluation_text

    width = console(sys.stdout).width if sys.stdout.isatty() else None
    sys.stdout.write(evaluation_text(found, width=width))


@app.command(epilog="Example: imgsearch info rooms --json")
def info(index: _IndexArgument, as_json: _Json = False) -> None:  # noqa: FBT002 - a flag
    """Tell what an index holds and what made it."""
    from imgsearch.index import info as describe
    from imgsearch.index import locate, read_manifest

    folder = locate(index)
    found = describe(folder, read_manifest(folder))
    if as_json:
        _print_json(found)
        return
    prepared = found["preprocessing"]
    classes = ", ".join(f"{printable(name)} {n:,}" for name, n in found["classes"].items())
    lines = {
        "index": printable(found["index"]),
        "pictures": f"{found['count']:,} ({found['skipped']:,} skipped)",
        "classes": classes or "none",
        "model": f"{printable(found['model'])}, {found['dim']:,} numbers, {found['precision']}",
        "weights": f"{printable(found['weights'])} (sha256 {found['weights_sha256'][:16]})",
        "preprocessing": "none"
        if prepared is None
        else f"shorter side {prepared['resize']} ({prepared['interpolation']}), middle "
        f"{prepared['crop']} x {prepared['crop']}",
        "metric": found["metric"],
        "image root": printable(found["image_root"]),
        "files": ", ".join(f"{f['name']} ({f['size']:,} bytes)" for f in found["files"].values()),
        "created": f"{found['created_at']} by {found['program']}, format {found['format_version']}",
    }
    _print("\n".join(f"{name + ':':<15}{value}" for name, value in lines.items()))


@app.command(epilog="Example: imgsearch verify rooms")
def verify(
    index: _IndexArgument,
    repair: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--repair", help="Go back to the newest generation that is whole.")
    ] = False,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Check every byte of an index and list every problem; exit code 4 if there is one.

    In Python: imgsearch.verify(index).
    """
    from imgsearch.index import locate
    from imgsearch.index import repair as mend
    from imgsearch.index import verify as run

    lost = None
    if repair:
        mended = mend(index)
        lost = mended.lost
        if lost is not None:
            _tell(lost)
    problems = run(index)
    if as_json:
        document = {"index": str(locate(index)), "ok": not problems, "problems": problems}
        _print_json({**document, "repaired": lost is not None, "lost": lost})
    elif problems:
        _print("\n".join(problems))
    else:
        _print(f"{printable(str(locate(index)))} is whole")
    if problems:
        if not as_json:
            hint = "no earlier generation is whole, " if repair else "try verify --repair, "
            _tell(f"{count(len(problems), 'problem')}: {hint}or build the index anew")
        raise typer.Exit(4)


@models_app.callback()
def models(ctx: typer.Context, as_json: _Json = False) -> None:  # noqa: FBT002 - a flag
    """List the models with dimension, input, licence, and where weights lie or what is missing."""
    if ctx.invoked_subcommand is not None:
        return
    from imgsearch.backbones import describe

    found = describe()
    if as_json:
        _print_json({"models": found})
        return
    _print("\n\n".join(_model_lines(model) for model in found))


def _model_lines(model: dict[str, Any]) -> str:
    size = "the model's own" if model["input"] is None else f"{model['input']} x {model['input']}"
    dim = "the model's own" if model["dim"] is None else f"{model['dim']:,} numbers"
    lines = [
        f"{model['name']}",
        f"  {model['source']}",
        f"  embedding {dim}, input {size}, licence {model['licence']}",
    ]
    for weights in model["weights"]:
        place = printable(weights["file"] or "")
        if weights["here"]:
            lines.append(f"  weights {weights['name']}: here, {place}")
        elif weights["url"]:
            lines.append(
                f"  weights {weights['name']}: not here yet; "
                f"imgsearch models fetch {model['name']} --weights {weights['name']}"
            )
        else:
            lines.append(f"  weights {weights['name']}: not here yet")
    if model["missing"]:
        lines.append(f"  missing: {', '.join(model['missing'])}; {model['install']}")
    return "\n".join(lines)


@models_app.command("fetch", epilog="Example: imgsearch models fetch resnet50")
def models_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=_complete_model)],
    weights: Annotated[str | None, typer.Option(help="Which published weights.")] = None,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Download a model's weights if they are not here, and check that it loads."""
    from imgsearch.backbones import load_model

    loaded = load_model(name, weights, "cpu")
    facts = {
        "model": loaded.model,
        "weights": loaded.weights,
        "sha256": loaded.weights_sha256,
        "dim": loaded.dim,
    }
    if as_json:
        _print_json(facts)
    else:
        _print(
            f"{printable(loaded.model)} is ready: {printable(loaded.weights)}, {loaded.dim} "
            f"numbers, sha256 {loaded.weights_sha256}"
        )


@models_app.command("export", epilog="Example: imgsearch models export resnet50 resnet50.onnx")
def models_export(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=_complete_model)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The ONNX file to write.")],
    weights: Annotated[str | None, typer.Option(help="Published weights, FILE, NAME=FILE.")] = None,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Write a model as ONNX, its preprocessing included, and compare what both give."""
    from imgsearch.backbones import load_model
    from imgsearch.onnx_models import export_onnx

    loaded = load_model(name, weights, "cpu")
    cosine = export_onnx(loaded, file)
    if as_json:
        _print_json({"model": loaded.model, "file": str(file), "dim": loaded.dim, "cosine": cosine})
    else:
        _print(
            f"{printable(loaded.model)} is in {printable(str(file))}; its embeddings have a cosine "
            f"of at least {cosine:.6f} to torch's\nuse it with: --model onnx:{printable(str(file))}"
        )


# From the words of the command line to queries.


def _queries(
    engine: SearchEngine, given: Sequence[str], label: str | None, listed: list[ImageItem] | None
) -> tuple[list[Query], list[Skip]]:
    """Turn the QUERY arguments into queries, in their order; all are looked at before any work."""
    if list(given).count("-") > 1:
        raise InputError("- stands for standard input and can be given once")
    for word in given:
        if word != "-" and not _row_number(word) and not os.path.lexists(word):
            raise NotFoundError(f"there is no picture or folder {printable(word)}")
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
    data = sys.stdin.buffer.read() if word == "-" else None
    if label == "auto":
        label = None if data is not None else Path(word).resolve().parent.name
    query = engine.image_query(word if data is None else data, label)
    return query if data is None else _renamed(query, word)


def _renamed(query: Query, name: str) -> Query:
    from dataclasses import replace

    return replace(query, name=name)


# Pictures and pages beside the numbers.


def _draw(engine: SearchEngine, results: list[SearchResult], file: Path) -> None:
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
        _tell(f"the grid shows the first {drawn.drawn:,} of {drawn.total:,} queries")
    _tell(f"the grid is in {printable(str(file))}")


def _write_report(engine: SearchEngine, report: EvaluationReport, file: Path) -> None:
    import datetime as dt

    from imgsearch.files import write_file
    from imgsearch.report import render_html

    page = render_html(
        report,
        lambda source: engine.thumbnail(source, _THUMBNAIL),
        created=dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )
    write_file(file, page.encode("utf-8"))
    _tell(f"the report is in {printable(str(file))}")


# Printing.


def _as_dicts(skips: Sequence[Skip]) -> list[dict[str, str]]:
    return [{"path": skip.path, "reason": skip.reason} for skip in skips]


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_json(value: dict[str, Any]) -> None:
    # ASCII: a name that is no UTF-8 must not stop the answer at the last moment.
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


def _tell_skips(skips: Sequence[Skip]) -> None:
    if not skips:
        return
    _tell(f"{count(len(skips), 'file')} skipped:")
    for skip in skips[:_SKIPS_SHOWN]:
        _tell(f"  {printable(skip.path)}: {skip.reason}")
    if len(skips) > _SKIPS_SHOWN:
        _tell(f"  and {len(skips) - _SKIPS_SHOWN:,} more; --json lists them all")


class _Progress:
    """A bar on standard error, only where that is a terminal."""

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Callable[[int, int], None] | None:
        if not sys.stderr.isatty():
            return None
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = ("[progress.description]{task.description}", BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
        )
        self._task = self._bar.add_task(self._noun, total=None)
        self._bar.start()
        return self._update

    def _update(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


# Errors and signals.


def _on_terminate(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(_TERMINATED)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code.

    Every error that was foreseen is one sentence on standard error; with --debug its traceback
    stands before it.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    signal.signal(signal.SIGTERM, _on_terminate)
    for stream in (sys.stdout, sys.stderr):
        # A name of any script must not fail on a terminal that knows only some of them.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _run(words, debug=debug)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough; nothing is to be said about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(code)


def _run(words: list[str], *, debug: bool) -> int:  # noqa: PLR0911 - one line an ending
    from typer.main import get_command

    try:
        result = get_command(app).main(args=words, prog_name="imgsearch", standalone_mode=False)
    except ImgsearchError as error:
        return _report(error, str(error), error.exit_code, debug=debug)
    except KeyboardInterrupt:
        _tell("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except MemoryError as error:
        return _report(error, "this machine has too little memory for that", 1, debug=debug)
    except Exception as error:  # noqa: BLE001 - the last resort, so that nobody sees a traceback
        if type(error).__name__ == "NoArgsIsHelpError":
            _tell(str(error.ctx.get_help()))  # type: ignore[attr-defined]  # typer's own copy
            return InputError.exit_code
        code = getattr(error, "exit_code", None)
        if isinstance(code, int) and hasattr(error, "format_message"):
            return _report(error, _usage(error), code, debug=debug)
        if type(error).__name__ == "Abort":
            _tell("interrupted")
            return _INTERRUPTED
        said = printable(" ".join(str(error).split()))[:300]
        return _report(
            error,
            f"something unforeseen went wrong ({type(error).__name__}: {said}); run it again with "
            "--debug and report what it prints",
            1,
            debug=debug,
        )
    return result if isinstance(result, int) else 0


def _usage(error: Any) -> str:  # noqa: ANN401 - typer's own copy of click's error
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "imgsearch"
    said = printable(str(error.format_message())).rstrip(".")
    return f"{said[:1].lower()}{said[1:]}; see {path} --help"


def _report(error: BaseException, sentence: str, code: int, *, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    _tell(f"imgsearch: {sentence}")
    return code
