"""The command line: names, fields, exit codes, help, completion."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import LABELS, MODEL, ROOT, Run
from typer.main import get_command

import imgsearch as package
from imgsearch import SearchEngine, cli, evaluate

if TYPE_CHECKING:
    from collections.abc import Callable

    Command = Callable[..., Run]

HEAVY = (
    "torch",
    "torchvision",
    "faiss",
    "pyarrow",
    "onnxruntime",
    "timm",
    "pandas",
    "jinja2",
    "safetensors",
    "PIL",
)
ACCURACY = "Accuracy of correct matches by correspondence to other classes: "


def commands() -> list[tuple[str, ...]]:
    """Return every command and subcommand."""
    root: Any = get_command(cli.app)
    found: list[tuple[str, ...]] = []
    for name, command in root.commands.items():
        found.append((name,))
        found.extend((name, inner) for inner in getattr(command, "commands", {}))
    return found


def run_main(*words: str) -> str:
    """Return code that runs a command in its own process and goes on after it."""
    return (
        f"import sys; sys.argv[1:] = {list(words)}; from imgsearch.cli import main\n"
        "try: main()\nexcept SystemExit: pass"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import imgsearch",
        "import imgsearch; dir(imgsearch); imgsearch.__version__; imgsearch.ImgsearchError",
        run_main("--help"),
        run_main("search", "--help"),
        run_main("models"),
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    """Importing imgsearch, its help and the list of models load neither torch nor faiss."""
    check = f"{code}\nimport sys\nprint('\\n', *sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.rsplit("\n", 2)[-2].split() == []


def test_public_names() -> None:
    """Every public name exists, is documented, and no room of the house hides it."""
    for room in pkgutil.iter_modules(package.__path__):
        if not room.name.startswith("__"):
            importlib.import_module(f"imgsearch.{room.name}")
    assert list(package.__all__) == sorted(package.__all__)
    assert set(package._HOME) | {"__version__"} == set(package.__all__)
    for name in package.__all__:
        value = getattr(package, name)
        assert name == "__version__" or (callable(value) and value.__doc__), name
    with pytest.raises(AttributeError):
        _ = package.nothing


def test_every_command_has_help_with_an_example(imgsearch: Command) -> None:
    """`-h` and `--help` of each command end with an example that names the command."""
    for words in [(), *commands()]:
        for flag in ("-h", "--help"):
            run = imgsearch(*words, flag)
            assert (run.code, run.err) == (0, "")
            assert re.search(rf"Example: imgsearch {' '.join(words)}", run.out), words


def test_every_command_is_documented() -> None:
    """docs/cli.md has each command and each of its options."""
    text = (ROOT / "docs/cli.md").read_text()
    root: Any = get_command(cli.app)
    for words in commands():
        command: Any = root
        for word in words:
            command = command.commands[word]
        assert f"imgsearch {' '.join(words)}" in text
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option not in {"--help", "--k"}:
                    assert f"`{option}" in text, (words, option)


def test_build_search_evaluate_json(
    imgsearch: Command, class_folders: Path, tmp_path: Path
) -> None:
    """The fields of the contract, in one JSON document each, with nothing else on stdout."""
    shutil.copytree(class_folders, tmp_path / "photos")
    (tmp_path / "photos" / "alpha" / "notes.txt").write_text("no picture")
    run = imgsearch("build", "photos", "rooms", "--model", MODEL, "--json", cwd=tmp_path)
    assert run.code == 0
    built = run.json
    assert set(built) >= {
        *("index", "count", "classes", "skipped", "model", "weights", "dim", "seconds"),
        "images_per_second",
    }
    assert built["index"] == "indexes/rooms"
    assert built["classes"] == {"alpha": 4, "beta": 4, "gamma": 4}
    assert [set(skip) for skip in built["skipped"]] == [{"path", "reason"}]
    assert "1 file skipped" in run.err

    photo = min((tmp_path / "photos" / "beta").iterdir())
    run = imgsearch("search", "rooms", photo, "row:0", "photos", "--json", cwd=tmp_path)
    assert run.code == 0
    found = run.json
    assert (found["index"], found["k"], found["scope"]) == ("indexes/rooms", 5, "all")
    names = [query["query"] for query in found["queries"]]
    assert names[:2] == [str(photo), "row:0"]
    assert names[2:] == sorted(names[2:])
    assert names[2].startswith("alpha/")
    assert [query["label"] for query in found["queries"][:3]] == [None, "alpha", "alpha"]
    match = found["queries"][0]["matches"][0]
    assert (match["rank"], match["path"]) == (1, f"beta/{photo.name}")
    assert match["distance"] == 1 - match["score"]

    run = imgsearch("evaluate", "rooms", "--json", cwd=tmp_path)
    with SearchEngine.open(tmp_path / "indexes/rooms") as engine:
        assert run.json["overall"] == evaluate(engine).overall

    run = imgsearch("info", "rooms", "--json", cwd=tmp_path)
    assert set(run.json) >= {
        *("index", "format_version", "count", "classes", "model", "weights", "dim", "metric"),
        *("files", "image_root", "created_at"),
    }
    assert run.json["image_root"] == str(tmp_path / "photos")
    assert "12" in imgsearch("info", "rooms", cwd=tmp_path).out
    assert "whole" in imgsearch("verify", "rooms", cwd=tmp_path).out


def test_search_and_python_give_the_same(imgsearch: Command, rooms: Path) -> None:
    """The command prints the numbers of the Python call, for every scope."""
    with SearchEngine.open(rooms) as engine:
        for scope in ("all", "same", "other"):
            run = imgsearch("search", rooms, "row:7", "-k", "9", "--scope", scope, "--json")
            ours = engine.by_row(7, 9, scope=scope)  # type: ignore[arg-type]
            assert run.json["queries"] == [json.loads(json.dumps(ours.to_dict()))]


def test_search_table_and_csv(imgsearch: Command, rooms: Path) -> None:
    """The table has the contract's columns and line; csv has every match in full precision."""
    run = imgsearch("search", rooms, "row:0")
    assert run.code == 0
    head = [cell.strip() for cell in run.out.splitlines()[0].split("|")]
    names = ["Rank", "Query label", "Query", "Base label", "Base image", "Score", "Distance"]
    assert head == [*names, "Probability"]
    assert re.search(rf"^{ACCURACY}\d+\.\d\d%$", run.out, re.MULTILINE)
    assert "\x1b" not in run.out
    lines = list(csv.DictReader(io.StringIO(imgsearch("search", rooms, "row:0", "--csv").out)))
    expected = SearchEngine.open(rooms).by_row(0).matches
    assert [(int(line["row"]), float(line["score"])) for line in lines] == [
        (match.row, match.score) for match in expected
    ]


def test_search_by_standard_input(imgsearch: Command, rooms: Path, small_photos: Path) -> None:
    """`-` reads a picture from standard input; --label auto needs a folder's name."""
    name = SearchEngine.open(rooms).index.items.path(4)
    run = imgsearch("search", rooms, "-", "--json", data=(small_photos / name).read_bytes())
    assert run.code == 0
    (query,) = run.json["queries"]
    assert query["query"] == "-"
    assert query["matches"][0]["path"] == name


def test_label_auto_is_the_parent_folder(
    imgsearch: Command, rooms: Path, small_photos: Path, tmp_path: Path
) -> None:
    """--label auto takes the name of the folder that the picture lies in."""
    label = SearchEngine.open(rooms).classes[0]
    (tmp_path / label).mkdir()
    photo = tmp_path / label / "a.jpg"
    shutil.copy(min(small_photos.iterdir()), photo)
    run = imgsearch("search", rooms, photo, "--label", "auto", "--json")
    assert run.json["queries"][0]["label"] == label


def test_grid_and_report(
    imgsearch: Command, rooms: Path, small_photos: Path, tmp_path: Path
) -> None:
    """The grid is a picture with every query; the report is a page; both say where they are."""
    from PIL import Image

    run = imgsearch(
        *("search", rooms, small_photos, "--labels", LABELS, "--split", "test"),
        *("--grid", tmp_path / "grid.png"),
    )
    assert run.code == 0
    assert "grid.png" in run.err
    with Image.open(tmp_path / "grid.png") as image:
        assert image.height > 1000
    run = imgsearch("evaluate", rooms, "--report", tmp_path / "report.html")
    assert run.code == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg") > 20
    assert not re.search(r"https?://", page)
    assert "Totals" in run.out


def test_unknown_labels_of_a_folder_are_told(
    imgsearch: Command, rooms: Path, small_photos: Path, tmp_path: Path
) -> None:
    """A folder's label that no row has counts as wrong, with a warning; --label must exist."""
    (tmp_path / "photos" / "garage").mkdir(parents=True)
    shutil.copy(min(small_photos.iterdir()), tmp_path / "photos" / "garage" / "a.jpg")
    run = imgsearch("search", rooms, tmp_path / "photos", "--json")
    assert run.code == 0
    assert run.json["queries"][0]["correspondence"]["accuracy"] == 0
    assert "'garage'" in run.err
    run = imgsearch("search", rooms, "row:0", "--label", "garage")
    assert run.code == 2
    assert "bedroom" in run.err


def test_completion_knows_indexes_classes_and_models(rooms: Path, tmp_path: Path) -> None:
    """Pressing tab offers the indexes, the classes of the index in the line, and the models."""
    (tmp_path / "indexes").mkdir()
    shutil.copytree(rooms, tmp_path / "indexes" / "flat")
    program = Path(sys.executable).with_name("imgsearch")
    cases = {
        "imgsearch search fl": "flat",
        "imgsearch search flat row:0 --label bed": "bedroom",
        "imgsearch build photos new --model effi": MODEL,
    }
    for line, expected in cases.items():
        done = subprocess.run(
            [program],
            env={
                **os.environ,
                "_IMGSEARCH_COMPLETE": "complete_bash",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(line.split()) - 1),
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == [expected], (line, done)


def test_debug_shows_a_traceback(imgsearch: Command, tmp_path: Path) -> None:
    """Without --debug an error is one line; with it a traceback stands before the line."""
    run = imgsearch("info", "nowhere", cwd=tmp_path)
    assert (run.code, run.out, len(run.err.splitlines())) == (3, "", 1)
    run = imgsearch("info", "nowhere", "--debug", cwd=tmp_path)
    assert "Traceback" in run.err
    assert run.err.splitlines()[-1].startswith("imgsearch: there is no index")


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_build(class_folders: Path, tmp_path: Path, sign: int, code: int) -> None:
    """An interrupted build ends at once with its exit code, leaves no index and no process."""
    program = Path(sys.executable).with_name("imgsearch")
    many = tmp_path / "photos"
    many.mkdir()
    for i in range(40):
        shutil.copytree(class_folders, many / str(i))
    child = subprocess.Popen(
        [program, "build", many, tmp_path / "index", "--model", MODEL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    part = tmp_path / "index" / ".part-vectors"
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    started = time.monotonic()
    child.send_signal(sign)
    out, err = child.communicate(timeout=30)
    assert child.returncode == code, err
    assert time.monotonic() - started < 5
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "index" / "manifest.json").exists()
    assert not part.exists()


def test_closed_pipe_is_no_error(rooms: Path) -> None:
    """`imgsearch search ... | head -1` ends quietly."""
    program = Path(sys.executable).with_name("imgsearch")
    done = subprocess.run(
        ["/bin/bash", "-c", f"'{program}' search '{rooms}' row:0 row:1 --csv | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("query,")
    assert done.stderr == ""


def test_module_runs_as_command() -> None:
    """`python -m imgsearch` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "imgsearch", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"imgsearch-faiss {package.__version__}\n"
