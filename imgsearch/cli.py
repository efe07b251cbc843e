"""The command line: a command opens, calls one journey, prints.

Results go to standard output, everything else to standard error. What each command does as a
Python call is named in its help and in docs/cli.md.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from imgsearch import __version__
from imgsearch.asking import draw, read_cuts, read_queries, write_audit, write_report
from imgsearch.completion import complete_index, complete_label, complete_model
from imgsearch.errors import InputError
from imgsearch.records import DEFAULT_K, OUTLIER_RATE, SCOPES, Limits, Running
from imgsearch.stores import is_address
from imgsearch.terminal import Progress, as_dicts, print_json, print_text, run, tell, tell_skips
from imgsearch.text import count, is_remote, printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgsearch.duplicates import Cuts
    from imgsearch.questions import Asked
    from imgsearch.records import AuditReport
    from imgsearch.search import SearchEngine

_BATCH_SIZE, _PIXELS = Running().batch_size, Limits().pixels
# Why a search in a part of the base set prints none.
_NO_ACCURACY = {
    "same": "no accuracy at scope same: every match is of the query's class by construction",
    "other": "no accuracy at scope other: no match is of the query's class by construction",
}

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


_IndexArgument = Annotated[
    str,
    typer.Argument(
        metavar="INDEX",
        help="An index folder; a bare name means indexes/NAME.",
        autocompletion=complete_index,
    ),
]
_ReadIndex = Annotated[
    str,
    typer.Argument(
        metavar="INDEX",
        help="An index folder; a bare name means indexes/NAME; or milvus://HOST:PORT/NAME.",
        autocompletion=complete_index,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_K = Annotated[int, typer.Option("-k", "--k", help="How many matches a query gets.")]
_Device = Annotated[str, typer.Option(help="Where the network runs: auto, cpu, cuda or mps.")]
_Engine = Annotated[
    str, typer.Option("--engine", help="What runs the network: auto, torch, openvino or onnx.")
]
_Workers = Annotated[
    int | None, typer.Option(help="Processes that open pictures.", show_default="one a core")
]
_BatchSize = Annotated[int, typer.Option(help="Pictures that the network takes at once.")]
_On = Annotated[
    str, typer.Option("--on", help="local, or ray: the cluster at RAY_ADDRESS, else this machine.")
]
_MaxPixels = Annotated[int, typer.Option(help="Skip pictures of more pixels than this.")]
_Weights = Annotated[
    str | None,
    typer.Option(
        help="Where the weights file lies now, if the index has its own, or its model as "
        "`imgsearch models export` wrote it."
    ),
]
_TestLabels = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Labels of TEST, as csv or parquet.")
]
_Split = Annotated[str, typer.Option(help="Which split of the label file is asked.")]
_DuplicateScore = Annotated[
    float | None,
    typer.Option(
        help="A score from which two pictures count as near-duplicates.",
        show_default="0.9, or what suits the pictures",
    ),
]
_DuplicateBits = Annotated[
    int | None,
    typer.Option(
        help="How many of 64 bits their hashes may differ in; -1 compares no pictures.",
        show_default="10, or what suits the pictures",
    ),
]
_Report = Annotated[Path | None, typer.Option(metavar="OUT.html", help="Write a page, too.")]


def _is_side(text: str) -> bool:
    return text.isdecimal() and len(text) < 10  # noqa: PLR2004 - int() takes its time over more


def _path(text: str) -> Path:
    """Read a path; an empty one would silently mean the current folder."""
    if not text:
        raise typer.BadParameter("the name is empty")
    return Path(text)


def _images(text: str) -> str | Path:
    """Read where pictures are: a path, or a URL of object storage, which stays as it is."""
    return text if is_remote(text) else _path(text)


def _version(*, wanted: bool) -> None:
    if wanted:
        print_text(f"imgsearch-faiss {__version__}")
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
    images: Annotated[
        Path,
        typer.Argument(
            parser=_images, metavar="IMAGES", help="A folder of pictures, or an s3:// or gs:// URL."
        ),
    ],
    dest: Annotated[
        Path, typer.Argument(parser=_path, metavar="DEST", help="A new folder for the copies.")
    ],
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
    from imgsearch.preparing import prepare as copy

    width, cross, height = size.lower().partition("x")
    if not (cross and _is_side(width) and _is_side(height)):
        raise InputError(f"--size is WIDTHxHEIGHT, as in 1028x768, not '{printable(size[:40])}'")
    with Progress("pictures") as progress:
        summary = copy(
            images,
            dest,
            size=(int(width), int(height)),
            fit=fit,  # type: ignore[arg-type]  # checked there
            overwrite=overwrite,
            running=Running(workers=workers, limits=Limits(pixels=max_pixels)),
            progress=progress,
        )
    tell_skips(summary.skipped)
    if as_json:
        print_json(summary.to_dict())
    else:
        size = f"{'within' if fit == 'inside' else 'of'} {summary.width} x {summary.height} pixels"
        print_text(
            f"{count(summary.count, 'picture')} {size} in "
            f"{printable(summary.dest)} ({summary.seconds:.1f} s)"
        )


@app.command(epilog="Example: imgsearch build photos rooms --model efficientnet-lite2")
def build(  # noqa: PLR0913, PLR0917 - one parameter an option
    images: Annotated[
        Path,
        typer.Argument(
            parser=_images,
            metavar="IMAGES",
            help="A folder, or an s3:// or gs:// URL; class = first-level subfolder.",
        ),
    ],
    index: _IndexArgument,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A csv or parquet file: path, label[, group, split]."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(help="A model, see `imgsearch models`.", autocompletion=complete_model),
    ] = "resnet50",
    weights: Annotated[
        str | None, typer.Option(help="Published weights, FILE, or NAME=FILE.")
    ] = None,
    engine: _Engine = "auto",
    precision: Annotated[
        str, typer.Option(help="fp32, or int8: faster, a little less exact, with the cost shown.")
    ] = "fp32",
    device: _Device = "auto",
    batch_size: _BatchSize = _BATCH_SIZE,
    workers: _Workers = None,
    on: _On = "local",
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

    with Progress("pictures") as progress:
        summary = build_index(
            images,
            index,
            labels_file=labels,
            model=model,
            weights=weights,
            precision=precision,  # type: ignore[arg-type]  # checked there
            overwrite=overwrite,
            strict=strict,
            running=Running(device, batch_size, workers, Limits(pixels=max_pixels), engine, on),
            progress=progress,
        )
    tell_skips(summary.skipped)
    for split, number in summary.left_out.items():
        tell(f"{count(number, 'row')} of the split '{printable(split)}' not indexed")
    if summary.unlisted:
        tell(f"{count(summary.unlisted, 'file')} in the folder not named by the label file")
    if as_json:
        print_json(summary.to_dict())
        return
    classes = ", ".join(f"{printable(name)} {n:,}" for name, n in summary.classes.items())
    cost = summary.cost
    if cost is not None:
        print_text(
            f"int8: on {count(cost.measured_on, 'picture')} kept out of calibration the cosine to "
            f"fp32 is {cost.mean_cosine:.4f} on average and {cost.lowest_cosine:.4f} at least, and "
            f"the nearest {cost.top} agree by {cost.top_agreement:.1%}"
        )
    print_text(
        f"{count(summary.count, 'picture')} in {printable(summary.index)} "
        f"({summary.model} {printable(summary.weights)}, {summary.dim} numbers each, by "
        f"{summary.engine}, {summary.precision})\n"
        f"classes: {classes or 'none'}\n"
        f"{summary.seconds:.1f} s, {summary.images_per_second:.1f} pictures a second"
    )


@app.command(epilog="Example: imgsearch update rooms")
def update(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _IndexArgument,
    images: Annotated[
        Path | None,
        typer.Argument(
            parser=_images, metavar="[IMAGES]", help="The folder; the remembered one if not given."
        ),
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
    on: _On = "local",
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Embed only new and changed pictures; moved ones keep their vector, gone ones leave.

    In Python: imgsearch.update_index(index).
    """
    from imgsearch.update import update_index

    with Progress("pictures") as progress:
        summary = update_index(
            index,
            images,
            labels_file=labels,
            weights=weights,
            dry_run=dry_run,
            running=Running(device, batch_size, workers, Limits(pixels=max_pixels), on=on),
            progress=progress,
        )
    tell_skips(summary.skipped)
    if as_json:
        print_json(summary.to_dict())
        return
    figures = {
        "added": summary.added,
        "changed": summary.changed,
        "moved": summary.moved,
        "relabelled": summary.relabelled,
        "removed": summary.removed,
        "skipped": len(summary.skipped),
    }
    print_text(", ".join(f"{name} {number:,}" for name, number in figures.items()))
    ending = "dry run, nothing written" if dry_run else "nothing to do, nothing written"
    if summary.written:
        ending = f"{count(summary.embedded, 'picture')} embedded, {summary.seconds:.1f} s"
    print_text(f"{count(summary.count, 'picture')} in {printable(summary.index)}: {ending}")


@app.command("import", epilog="Example: imgsearch import vectors.npy items.csv mine")
def import_(  # noqa: PLR0917 - one parameter an option
    vectors: Annotated[
        Path,
        typer.Argument(
            parser=_path, metavar="VECTORS", help="A .npy or .safetensors file, (n, dim) float32."
        ),
    ],
    items: Annotated[
        Path,
        typer.Argument(
            parser=_path,
            metavar="ITEMS",
            help="A csv or parquet file: path, label[, group, split].",
        ),
    ],
    index: _IndexArgument,
    model: Annotated[
        str | None,
        typer.Option(
            help="The model that made them, to ask by image.", autocompletion=complete_model
        ),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Its weights, as in build.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            parser=_images,
            metavar="FOLDER",
            help="What paths are relative to; that of ITEMS if not given.",
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
    tell_skips(summary.skipped)
    for split, number in summary.left_out.items():
        tell(f"{count(number, 'row')} of the split '{printable(split)}' not indexed")
    if as_json:
        print_json(summary.to_dict())
        return
    print_text(
        f"{count(summary.count, 'vector')} of {summary.dim:,} numbers in "
        f"{printable(summary.index)} ({printable(summary.model)}), {summary.seconds:.1f} s"
    )


@app.command(epilog="Example: imgsearch learn rooms rooms-learned")
def learn(
    index: _IndexArgument,
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The new index, written only where it is better.")
    ],
    overwrite: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--overwrite", help="Replace an index that exists.")
    ] = False,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Learn from the labels how to compare vectors, and write a new index if that helps.

    What is gained is measured on rows that were kept out; no picture is read. In Python:
    imgsearch.learn(index, new).
    """
    from imgsearch.learning import learn as find

    with Progress("steps") as progress:
        found = find(index, new, overwrite=overwrite, progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    from imgsearch.report import learning_text

    sys.stdout.write(learning_text(found))


@app.command(epilog="Example: imgsearch search rooms new.jpg row:17 --grid matches.png")
def search(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _ReadIndex,
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
            autocompletion=complete_label,
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
    min_probability: Annotated[
        float | None,
        typer.Option(
            help="Leave out matches that are less likely (0 to 1) to be of the query's class."
        ),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(metavar="OUT.png", help="Draw the ranked pictures, too.")
    ] = None,
    weights: _Weights = None,
    run_by: _Engine = "auto",
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
    running = Running(device, workers=workers, limits=Limits(pixels=max_pixels), engine=run_by)
    with SearchEngine.open(index, weights=weights, running=running) as engine:
        engine.check_label(None if label == "auto" else label)
        if min_probability is not None:
            engine.check_probability(min_probability, scope)
        listed = None if labels is None else read_test_items(labels, split)
        asked, skips = read_queries(engine, queries, label, listed)
        results = engine.ask(
            asked,
            k,
            scope=scope,  # type: ignore[arg-type]  # checked there
            min_score=min_score,
            min_probability=min_probability,
        )
        if grid is not None:
            draw(engine, results, grid)
    tell_skips(skips)
    for name in sorted({query.label for query in asked if query.label} - set(engine.classes)):
        tell(f"no row of the index has the label '{printable(name)}'")
    if as_json:
        print_json(
            {
                "index": engine.index.place,
                "k": k,
                "scope": scope,
                "skipped": as_dicts(skips),
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
        if scope in _NO_ACCURACY:
            tell(_NO_ACCURACY[scope])


@app.command(epilog="Example: imgsearch evaluate rooms photos/test --report rooms.html")
def evaluate(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _ReadIndex,
    test: Annotated[
        Path | None,
        typer.Argument(
            parser=_path,
            metavar="[TEST]",
            help="A folder of labelled pictures; without it each base row is asked in turn.",
        ),
    ] = None,
    k: _K = DEFAULT_K,
    labels: _TestLabels = None,
    split: _Split = "test",
    report: _Report = None,
    kind: Annotated[
        str, typer.Option("--map", help="The map on the page: pca, umap (extra map) or none.")
    ] = "pca",
    duplicate_score: _DuplicateScore = None,
    duplicate_bits: _DuplicateBits = None,
    weights: _Weights = None,
    run_by: _Engine = "auto",
    device: _Device = "auto",
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Measure how well the classes separate.

    In Python: imgsearch.evaluate(engine, test).
    """
    from imgsearch.embedding_map import check_map
    from imgsearch.evaluation import evaluate as measure
    from imgsearch.questions import ask_with
    from imgsearch.search import SearchEngine, check_k

    running = Running(device, workers=workers, limits=Limits(pixels=max_pixels), engine=run_by)
    cuts = read_cuts(duplicate_score, duplicate_bits)
    check_k(k)
    with SearchEngine.open(index, weights=weights, running=running) as engine:
        _tell_brought(engine)
        if report is not None:
            check_map(kind, engine.index.manifest.count)
        with Progress("queries") as progress:
            asked = ask_with(engine, test, labels, split, progress)
            found = measure(engine, asked, k, cuts=cuts, progress=progress)
        if report is not None:
            write_report(engine, asked, found, _audited(engine, asked, cuts), kind, report)  # type: ignore[arg-type]  # checked above
    tell_skips(found.skipped)
    if as_json:
        print_json(found.summary(), "queries", found.queries())
        return
    from imgsearch.report import evaluation_text

    _print_tables(evaluation_text, found)


def _print_tables(make: Callable[..., str], found: object) -> None:
    """Print a result as tables: as wide as the terminal, or as they need where there is none."""
    from imgsearch.report import console

    width = console(sys.stdout).width if sys.stdout.isatty() else None
    sys.stdout.write(make(found, width=width))


def _audited(engine: SearchEngine, asked: Asked, cuts: Cuts | None) -> AuditReport | None:
    """Audit the base set of an evaluation; a single row has nothing to be compared with."""
    from imgsearch.auditing import audit as examine

    if engine.index.manifest.count == 1:
        return None
    with Progress("audit") as progress:
        return examine(engine, asked, cuts=cuts, progress=progress)


@app.command(epilog="Example: imgsearch compare rooms-before rooms-after photos/test")
def compare(  # noqa: PLR0913, PLR0917 - one parameter an option
    index_a: Annotated[
        str,
        typer.Argument(metavar="INDEX_A", help="An index.", autocompletion=complete_index),
    ],
    index_b: Annotated[
        str,
        typer.Argument(metavar="INDEX_B", help="Another one.", autocompletion=complete_index),
    ],
    test: Annotated[
        Path | None,
        typer.Argument(
            parser=_path,
            metavar="[TEST]",
            help="A folder of labelled pictures; without it the rows that both have are asked.",
        ),
    ] = None,
    k: _K = DEFAULT_K,
    labels: _TestLabels = None,
    split: _Split = "test",
    weights_a: Annotated[
        str | None, typer.Option(help="Where the weights file of A lies now.")
    ] = None,
    weights_b: Annotated[
        str | None, typer.Option(help="Where the weights file of B lies now.")
    ] = None,
    run_by: _Engine = "auto",
    device: _Device = "auto",
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Ask two indexes the same questions: the difference, how sure it is, and what changed most.

    In Python: imgsearch.compare(engine_a, engine_b, test).
    """
    from imgsearch.comparison import compare as measure
    from imgsearch.search import SearchEngine

    running = Running(device, workers=workers, limits=Limits(pixels=max_pixels), engine=run_by)
    with (
        SearchEngine.open(index_a, weights=weights_a, running=running) as a,
        SearchEngine.open(index_b, weights=weights_b, running=running) as b,
        Progress("queries") as progress,
    ):
        _tell_brought(a)
        _tell_brought(b)
        found = measure(a, b, test, k, labels_file=labels, split=split, progress=progress)
    tell_skips(found.skipped)
    if as_json:
        print_json(found.to_dict())
        return
    from imgsearch.report import comparison_text

    _print_tables(comparison_text, found)


@app.command(epilog="Example: imgsearch audit rooms photos/test --report audit.html")
def audit(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _ReadIndex,
    test: Annotated[
        Path | None,
        typer.Argument(
            parser=_path,
            metavar="[TEST]",
            help="A folder of test pictures, to be found where they leaked into the base set.",
        ),
    ] = None,
    labels: _TestLabels = None,
    split: _Split = "test",
    outlier_rate: Annotated[
        float, typer.Option(help="The share of ordinary pictures listed as outliers by chance.")
    ] = OUTLIER_RATE,
    report: _Report = None,
    weights: _Weights = None,
    run_by: _Engine = "auto",
    device: _Device = "auto",
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Find likely wrong labels, near-duplicates, leaked test images, outliers, hubs and overlaps.

    In Python: imgsearch.audit(engine, test).
    """
    from imgsearch.auditing import audit as examine
    from imgsearch.search import SearchEngine

    running = Running(device, workers=workers, limits=Limits(pixels=max_pixels), engine=run_by)
    with SearchEngine.open(index, weights=weights, running=running) as engine:
        _tell_brought(engine)
        if engine.index.manifest.transform is not None:
            tell(
                "this index was learned from its labels, the wrong ones with them, and hides some "
                "of those: audit the index that it was learned from"
            )
        with Progress("audit") as progress:
            found = examine(
                engine,
                test,
                labels_file=labels,
                split=split,
                outlier_rate=outlier_rate,
                progress=progress,
            )
        if report is not None:
            write_audit(engine, found, report)
    tell_skips(found.skipped)
    if as_json:
        print_json(found.to_dict())
        return
    from imgsearch.audit_report import audit_text

    _print_tables(audit_text, found)


def _tell_brought(engine: SearchEngine) -> None:
    """Say that what compares every row has them brought here first."""
    if engine.index.store is not None:
        tell(
            f"{count(engine.index.manifest.count, 'row')} brought here from the server first: this "
            "belongs on the index in its folder, where there is one"
        )


@app.command(epilog="Example: imgsearch push rooms milvus://localhost:19530/rooms")
def push(
    index: _IndexArgument,
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS", help="milvus://HOST:PORT/NAME, or milvus+tls:// for TLS."
        ),
    ],
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Put an index into a Milvus server, check it there, and have the name stand for it.

    It is asked as milvus://HOST:PORT/NAME in place of INDEX, with the same answers. A token is
    taken from MILVUS_TOKEN. In Python: imgsearch.push(index, address).
    """
    from imgsearch.pushing import push as put

    with Progress("rows") as progress:
        summary = put(index, address, progress=progress)
    if as_json:
        print_json(summary.to_dict())
        return
    done = "is now served as" if summary.moved else "was served already as"
    print_text(
        f"{count(summary.count, 'row')} of {summary.dim:,} numbers: {printable(summary.index)} "
        f"{done} {printable(summary.address)} ({summary.generation}), {summary.seconds:.1f} s"
    )
    if summary.dropped:
        tell(f"no longer on the server: {', '.join(summary.dropped)}")


@app.command(epilog="Example: imgsearch info rooms --json")
def info(index: _ReadIndex, as_json: _Json = False) -> None:  # noqa: FBT002 - a flag
    """Tell what an index holds and what made it."""
    from imgsearch.opening import info as describe

    found = describe(index)
    if as_json:
        print_json(found)
        return
    prepared, learned = found["preprocessing"], found["transform"]
    classes = ", ".join(f"{printable(name)} {n:,}" for name, n in found["classes"].items())
    lines = {
        "index": printable(found["index"]),
        "pictures": f"{found['count']:,} ({found['skipped']:,} skipped)",
        "classes": classes or "none",
        "model": f"{printable(found['model'])}, {found['dim']:,} numbers, {found['precision']}",
        "weights": f"{printable(found['weights'])} (sha256 {found['weights_sha256'][:16]})",
        "scores": _meaning(found["calibration"]),
        "preprocessing": "none"
        if prepared is None
        else f"shorter side {prepared['resize']} ({prepared['interpolation']}), middle "
        f"{prepared['crop']} x {prepared['crop']}",
        "transform": "none" if learned is None else _transform_line(learned),
        "metric": found["metric"],
        "image root": printable(found["image_root"]),
        "files": ", ".join(f"{f['name']} ({f['size']:,} bytes)" for f in found["files"].values()),
        "created": f"{found['created_at']} by {found['program']}, format {found['format_version']}",
    }
    print_text("\n".join(f"{name + ':':<15}{value}" for name, value in lines.items()))


def _transform_line(learned: dict[str, Any]) -> str:
    low, high = learned["interval"]
    return (
        f"{printable(learned['chosen'])}, of {learned['dim']:,} numbers; precision@5 "
        f"{learned['raw']:.4f} before, {learned['learned']:.4f} after (95% interval of the gain "
        f"{low:+.4f} to {high:+.4f})"
    )


def _meaning(known: dict[str, Any] | None) -> str:
    if known is None:
        return "not calibrated"
    error = "" if known["error"] is None else f", error {known['error']:.3f} on rows kept out"
    return f"calibrated on {count(known['queries'], 'row')}{error}"


@app.command(epilog="Example: imgsearch verify rooms")
def verify(
    index: _ReadIndex,
    repair: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--repair", help="Go back to the newest generation that is whole.")
    ] = False,
    as_json: _Json = False,  # noqa: FBT002 - a flag
) -> None:
    """Check every byte of an index and list every problem; exit code 4 if there is one.

    In Python: imgsearch.verify(index).
    """
    from imgsearch.index import repair as mend
    from imgsearch.opening import place
    from imgsearch.opening import verify as check

    lost = None
    if repair:
        mended = mend(index)
        lost = mended.lost
        if lost is not None:
            tell(lost)
    problems = check(index)
    if as_json:
        document = {"index": place(index), "ok": not problems, "problems": problems}
        print_json({**document, "repaired": lost is not None, "lost": lost})
    elif problems:
        print_text("\n".join(problems))
    else:
        print_text(f"{printable(place(index))} is whole")
    if problems:
        if not as_json:
            hint = "no earlier generation is whole, " if repair else "try verify --repair, "
            hint += "or build the index anew"
            if is_address(index):
                hint = "push an index that is whole"
            tell(f"{count(len(problems), 'problem')}: {hint}")
        raise typer.Exit(4)


@app.command(epilog="Example: imgsearch serve rooms --port 8000")
def serve(  # noqa: PLR0913, PLR0917 - one parameter an option
    index: _ReadIndex,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="IMGSEARCH_API_KEY",
            show_envvar=True,
            help="What clients must send as X-API-Key; needed with another host.",
        ),
    ] = None,
    no_auth: Annotated[  # noqa: FBT002 - a flag
        bool, typer.Option("--no-auth", help="Let everybody ask, though others can reach it.")
    ] = False,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that clients call it by, behind a proxy."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="An origin whose pages may ask, https://example.org."),
    ] = None,
    upload_format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT", help="A format of uploads.", show_default="JPEG PNG WEBP GIF BMP AVIF"
        ),
    ] = None,
    max_upload: Annotated[float, typer.Option(help="Megabytes of an upload at the most.")] = 20,
    queue: Annotated[int, typer.Option(help="Pictures that may wait at the most.")] = 16,
    weights: _Weights = None,
    run_by: _Engine = "auto",
    device: _Device = "auto",
    workers: _Workers = None,
    max_pixels: _MaxPixels = _PIXELS,
) -> None:
    """Serve an index: a page for people and an HTTP API for programs, on this machine.

    With another --host an API key is demanded. A new generation of the index is taken up by itself.
    SIGTERM and Ctrl-C let requests under way be answered first. See docs/service.md.
    """
    from imgsearch.serving import serve as run_service

    run_service(
        index,
        host,
        port,
        api_key=api_key,
        no_auth=no_auth,
        allow_host=allow_host or [],
        cors=cors or [],
        formats=upload_format or [],
        max_upload=max_upload,
        queue=queue,
        weights=weights,
        running=Running(device, workers=workers, limits=Limits(pixels=max_pixels), engine=run_by),
    )


@models_app.callback()
def models(ctx: typer.Context, as_json: _Json = False) -> None:  # noqa: FBT002 - a flag
    """List the models with dimension, input, licence, and where weights lie or what is missing.

    Below them stand the engines that run them, the best first for a processor.
    """
    if ctx.invoked_subcommand is not None:
        return
    from imgsearch.backbones import describe
    from imgsearch.engines import describe as describe_engines

    found, engines = describe(), describe_engines()
    if as_json:
        print_json({"models": found, "engines": engines})
        return
    lines = [
        f"  {engine['name']}: {'here' if engine['available'] else engine['install']}"
        for engine in engines
    ]
    print_text("\n\n".join(_model_lines(model) for model in found))
    print_text("\nengines\n" + "\n".join(lines))


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
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_model)],
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
        print_json(facts)
    else:
        print_text(
            f"{printable(loaded.model)} is ready: {printable(loaded.weights)}, {loaded.dim} "
            f"numbers, sha256 {loaded.weights_sha256}"
        )


@models_app.command("export", epilog="Example: imgsearch models export resnet50 resnet50.onnx")
def models_export(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_model)],
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
        print_json({"model": loaded.model, "file": str(file), "dim": loaded.dim, "cosine": cosine})
    else:
        model, written = printable(loaded.model), printable(str(file))
        print_text(
            f"{model} is in {written}; its embeddings have a cosine of at least {cosine:.6f} to "
            f"torch's\nbuild with it: --model onnx:{written}\n"
            f"ask an index of {model} where torch is not: --weights {written}"
        )


def main(arguments: list[str] | None = None) -> None:
    """Run a command, that in `sys.argv` unless given, and end the process with its exit code."""
    run(app, arguments)
