"""The engines: the same numbers from each, converted once, kept whole, and torch left alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache as cache_of_calls
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
import torchvision
from conftest import MODEL, ROOT
from helpers import settled, vectors_of

from imgsearch import (
    ImgsearchError,
    InputError,
    MissingPackageError,
    Running,
    SearchEngine,
    WriteError,
    build_index,
    cache,
    update_index,
)
from imgsearch.backbones import load_model
from imgsearch.converting import compare
from imgsearch.decoding import DecoderPool
from imgsearch.engines import ENGINES, candidates
from imgsearch.index import open_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Run

    from imgsearch.engines import LoadedModel

VERSIONS = {
    "torch": torch.__version__,
    "openvino": openvino.__version__.split("-")[0],
    "onnx": onnxruntime.__version__,
}
OTHERS = ("openvino", "onnx")
HEAVY = ("torch", "torchvision", "timm", "efficientnet_lite_pytorch", "onnx", "nncf")
TINY = "timm:test_resnet"


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    """Return the processes that open pictures."""
    with DecoderPool(2) as decoders:
        yield decoders


@pytest.fixture(scope="module")
def seeded_file(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return a ResNet-50 with seeded numbers, in the form of the official file."""
    torch.manual_seed(20)
    network = torchvision.models.resnet50(weights=None)
    settled(network, sorted(small_photos.iterdir())[20:28], 224)
    file = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(network.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return seeded weights of timm's smallest ResNet, which is converted in no time."""
    import timm

    torch.manual_seed(4)
    network = timm.create_model(TINY[5:], pretrained=False)
    settled(network, sorted(small_photos.iterdir())[20:28], 160)
    file = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save(network.state_dict(), file)
    return file


def run_python(program: str, *words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a new interpreter."""
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **variables},
    )


# The same numbers.


@pytest.fixture(scope="module")
def loading(seeded_file: Path) -> Callable[[str, str | None], LoadedModel]:
    """Load a model for an engine, each once."""

    @cache_of_calls
    def load(model: str, engine: str | None = None) -> LoadedModel:
        return load_model(model, None if model == MODEL else str(seeded_file), "cpu", engine)

    return load


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("model", [MODEL, "resnet50"])
def test_engines_agree(
    model: str,
    engine: str,
    loading: Callable[[str, str | None], LoadedModel],
    small_photos: Path,
    pool: DecoderPool,
) -> None:
    """Real photos: every engine's unit vectors are torch's within 1e-4, a number at the most."""
    plain, other = loading(model, None), loading(model, engine)
    assert plain.engine.name == "torch"
    assert (other.engine.name, other.engine.version) == (engine, VERSIONS[engine])
    assert (other.dim, other.preprocess, other.weights_sha256) == (
        plain.dim,
        plain.preprocess,
        plain.weights_sha256,
    )
    chosen = sorted(small_photos.iterdir())[:12]
    wanted, given = (vectors_of(loaded, pool, chosen) for loaded in (plain, other))
    assert given.shape == wanted.shape == (12, plain.dim)
    assert (wanted @ wanted.T).min() < 0.95  # the network tells them apart
    worst = float(np.abs(given - wanted).max())
    print(f"\n{model} by {engine}: largest difference to torch {worst:.1e}")  # noqa: T201 - the figure
    assert worst <= 1e-4


@pytest.mark.parametrize("engine", OTHERS)
@pytest.mark.parametrize("model", [MODEL, "resnet50"])
def test_batch_does_not_matter(
    model: str,
    engine: str,
    loading: Callable[[str, str | None], LoadedModel],
    small_photos: Path,
    pool: DecoderPool,
) -> None:
    """A picture's vector is the same to the last bit alone and in batches of 2, 3 and 5."""
    loaded = loading(model, engine)
    files = sorted(small_photos.iterdir())[5:10]
    alone = vectors_of(loaded, pool, files, 1)
    for batch_size in (2, 3, 5):
        assert np.array_equal(vectors_of(loaded, pool, files, batch_size), alone), batch_size
    assert np.array_equal(vectors_of(loaded, pool, files[::-1], 3)[::-1], alone)


def test_other_numbers_are_noticed() -> None:
    """A conversion that gives other vectors, or none that are numbers, is not taken."""
    prepared = load_model(MODEL, device="cpu").preprocess

    class Made:
        name = version = device = "made"

        def __init__(self, change: Callable[[Any], Any]) -> None:
            self.change = change

        def embed(self, pixels: Any) -> Any:  # noqa: ANN401 - arrays
            flat = pixels.reshape(len(pixels), -1)[:, :64].astype(np.float32)
            return self.change(flat)

    same = Made(lambda rows: rows)
    compare(same, Made(lambda rows: rows * 3), prepared)
    compare(same, Made(lambda rows: rows + 1e-3), prepared)
    for change in (
        lambda rows: rows + np.eye(len(rows), 64, dtype=np.float32) * 9,
        lambda rows: rows[:, :63],
        lambda rows: rows * np.float32("nan"),
    ):
        with pytest.raises(ValueError, match=r"differ by|numbers instead"):
            compare(same, Made(change), prepared)


def test_onnx_file_by_openvino(
    tmp_path: Path, tiny_file: Path, small_photos: Path, pool: DecoderPool
) -> None:
    """An ONNX file of one's own is run by OpenVINO, too, and by torch never."""
    from imgsearch.backbones import export_onnx

    file = tmp_path / "own.onnx"
    export_onnx(load_model(TINY, str(tiny_file), "cpu"), file)
    files = sorted(small_photos.iterdir())[:4]
    plain, other = (load_model(f"onnx:{file}", engine=name) for name in (None, "openvino"))
    assert (plain.engine.name, other.engine.name) == ("onnx", "openvino")
    given, wanted = (vectors_of(loaded, pool, files) for loaded in (other, plain))
    assert np.abs(given - wanted).max() <= 1e-4
    with pytest.raises(InputError, match="is no model of torch's"):
        load_model(f"onnx:{file}", engine="torch")


# Which engine.


def test_engine_stands_in_build_and_manifest(
    imgsearch: Callable[..., Run], class_folders: Path, tmp_path: Path, tiny_file: Path
) -> None:
    """Summary, manifest and what the command prints say which engine; auto takes OpenVINO."""
    for name in ENGINES:
        wanted = "openvino" if name == "auto" else name
        told = build_index(
            class_folders,
            tmp_path / name,
            model=TINY,
            weights=str(tiny_file),
            running=Running(engine=name),
        ).to_dict()
        assert told["engine"] == f"{wanted} {VERSIONS[wanted]}"
        assert (told["precision"], told["quantization"]) == ("fp32", None)
        assert open_index(tmp_path / name).manifest.engine == told["engine"]
    words = ["--model", TINY, "--weights", tiny_file, "--engine", "onnx"]
    run = imgsearch("build", class_folders, tmp_path / "command", *words)
    assert f"by onnx {VERSIONS['onnx']}, fp32" in run.out
    info = imgsearch("info", tmp_path / "command", "--json").json
    assert info["engine"] == f"onnx {VERSIONS['onnx']}"
    assert info["quantization"] is None


@pytest.mark.parametrize("made", ["torch", "openvino"])
def test_query_by_another_engine(
    class_folders: Path, tmp_path: Path, tiny_file: Path, made: str
) -> None:
    """An fp32 index is asked through any engine: the same rows, scores within 1e-4."""
    build_index(
        class_folders,
        tmp_path / "index",
        model=TINY,
        weights=str(tiny_file),
        running=Running(engine=made),
    )
    photo = min(class_folders.rglob("*.jpg"))
    answers = []
    for name in ENGINES:
        running = Running(engine=name)
        with SearchEngine.open(tmp_path / "index", running=running) as engine:
            answers.append(engine.by_image(photo).matches)
            assert engine.model.engine.name == ("openvino" if name == "auto" else name)
    for matches in answers:
        assert [match.row for match in matches] == [match.row for match in answers[0]]
        for one, other in zip(matches, answers[0], strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)


# Where torch is not.


@pytest.fixture(scope="module")
def torchless(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return variables that let a command find no torch and nothing converted."""
    folder = tmp_path_factory.mktemp("torchless")
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in ("torch", "torchvision", "timm"))
    (folder / "sitecustomize.py").write_text(f"import sys\n{hidden}", encoding="ascii")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "IMGSEARCH_CACHE": str(folder / "cache")}


def test_an_exported_model_is_asked_without_torch(
    imgsearch: Callable[..., Run],
    class_folders: Path,
    tmp_path: Path,
    tiny_file: Path,
    torchless: dict[str, str],
) -> None:
    """`models export` gives what an index can be asked with where torch is not: same answers."""
    from imgsearch.backbones import export_onnx

    index, file = tmp_path / "index", tmp_path / "tiny.onnx"
    photo = min(class_folders.rglob("*.jpg"))
    build_index(class_folders, index, model=TINY, weights=str(tiny_file))
    export_onnx(load_model(TINY, str(tiny_file), "cpu"), file)
    with SearchEngine.open(index) as engine:
        wanted = engine.by_image(photo).matches
    for name in OTHERS:
        words = ("search", index, photo, "--weights", file, "--engine", name, "--json")
        run = imgsearch(*words, **torchless)
        assert run.code == 0, run.err
        matches = run.json["queries"][0]["matches"]
        assert [match["row"] for match in matches] == [match.row for match in wanted]
        for one, other in zip(matches, wanted, strict=True):
            assert one["score"] == pytest.approx(other.score, abs=1e-4)
    run = imgsearch("search", index, photo, **torchless)
    assert (run.code, "imgsearch models export" in run.err) == (6, True)


def test_another_export_is_refused(class_folders: Path, tmp_path: Path, tiny_file: Path) -> None:
    """Exported from other weights or another model, or without a word of it: 5; a lie: 2."""
    import onnx
    import timm

    from imgsearch.backbones import export_onnx

    torch.manual_seed(5)
    other = tmp_path / "other.pth"
    torch.save(timm.create_model(TINY[5:], pretrained=False).state_dict(), other)
    for name, weights in (("right", tiny_file), ("other", other)):
        export_onnx(load_model(TINY, str(weights), "cpu"), tmp_path / f"{name}.onnx")
    right, changed = (onnx.load(tmp_path / f"{name}.onnx") for name in ("right", "other"))
    facts = {entry.key: entry.value for entry in right.metadata_props}
    for name, stated in (
        ("renamed", {**facts, "imgsearch.model": "resnet50"}),
        ("silent", {}),
        ("lying", facts),
    ):
        del changed.metadata_props[:]
        onnx.helper.set_model_props(changed, stated)
        onnx.save(changed, tmp_path / f"{name}.onnx")
    index, photo = tmp_path / "index", min(class_folders.rglob("*.jpg"))
    build_index(class_folders, index, model=TINY, weights=str(tiny_file))
    for name, code, said in (
        ("other", 5, "from other weights"),
        ("renamed", 5, "no export"),
        ("silent", 5, "no export"),
        ("lying", 2, "unit vectors differ"),
        ("gone", 3, "there is no ONNX file"),
    ):
        with (
            SearchEngine.open(index, weights=str(tmp_path / f"{name}.onnx")) as engine,
            pytest.raises(ImgsearchError, match=said) as caught,
        ):
            engine.by_image(photo)
        assert caught.value.exit_code == code


def test_update_keeps_the_engine(class_folders: Path, tmp_path: Path, tiny_file: Path) -> None:
    """New pictures are embedded by the engine that made the index, though auto is another."""
    images, index = tmp_path / "images", tmp_path / "index"
    shutil.copytree(class_folders, images)
    late = min(images.rglob("*.jpg"))
    late.rename(tmp_path / "late.jpg")
    running = Running(engine="onnx")
    build_index(images, index, model=TINY, weights=str(tiny_file), running=running)
    shutil.move(tmp_path / "late.jpg", late)
    assert update_index(index).embedded == 1
    opened = open_index(index)
    assert opened.manifest.engine == f"onnx {VERSIONS['onnx']}"
    build_index(images, tmp_path / "whole", model=TINY, weights=str(tiny_file), running=running)
    whole = open_index(tmp_path / "whole")
    assert opened.manifest.files["vectors"].sha256 == whole.manifest.files["vectors"].sha256


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--engine", "tensorrt"], "there is no engine 'tensorrt'; choose one of: auto, torch"),
        (["--engine", "openvino", "--device", "cuda"], "runs on the CPU here"),
        (["--engine", "onnx", "--device", "mps"], "runs on the CPU here"),
        (["--precision", "fp16"], "there is no precision 'fp16'; choose one of: fp32, int8"),
        (["--precision", "int8", "--engine", "torch"], "run by the engine openvino"),
        (["--precision", "int8", "--device", "cuda"], "run by the engine openvino"),
    ],
)
def test_engines_that_there_are_not(
    imgsearch: Callable[..., Run], class_folders: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    """A wrong engine or precision, or one with a device that it has not, ends with 2 at once."""
    run = imgsearch("build", class_folders, tmp_path / "index", "--model", MODEL, *words)
    assert run.code == 2
    assert not run.out
    assert run.err.count("\n") == 1, run.err
    assert said in run.err
    assert not (tmp_path / "index" / "manifest.json").exists()


def test_engines_that_are_not_installed(
    class_folders: Path, tmp_path: Path, tiny_file: Path
) -> None:
    """Without its package an engine is exit 6 with its extra; auto then takes another."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for folder in map(Path, sys.path):
        if folder.name == "site-packages":
            for entry in folder.iterdir():
                hidden = entry.name.startswith(("openvino", "onnxscript", "nncf"))
                if not hidden and not (packages / entry.name).exists():
                    (packages / entry.name).symlink_to(entry)

    def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", "-m", "imgsearch", "build", class_folders]
        model = ["--model", TINY, "--weights", tiny_file]
        return subprocess.run(
            [*command, tmp_path / name, *model, *words],
            env={**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )

    for words, extra in (
        (["--engine", "openvino"], "openvino"),
        (["--engine", "onnx"], "onnx"),
        (["--precision", "int8"], "int8"),
    ):
        refused = run(extra, *words)
        assert refused.returncode == 6, refused.stderr
        assert f"pip install 'imgsearch-faiss[{extra}]'" in refused.stderr
        assert refused.stderr.count("\n") == 1
    done = run("auto", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == f"torch {VERSIONS['torch']}"


def test_engines_are_taken_in_order() -> None:
    """On a processor OpenVINO comes first and torch last; a graphics card is torch's alone."""
    assert candidates("auto", "auto") == candidates("auto", "cpu") == ["openvino", "onnx", "torch"]
    assert candidates("auto", "cuda") == candidates("auto", "mps") == ["torch"]
    assert candidates("onnx", "cpu") == ["onnx"]
    with pytest.raises(InputError, match="there is no engine 'best'"):
        candidates("best", "auto")


# Without torch.

QUERY = """
import sys
from imgsearch import Running, SearchEngine
running = Running(engine=sys.argv[3])
with SearchEngine.open(sys.argv[1], running=running) as engine:
    print(engine.by_image(sys.argv[2]).matches[0].path, engine.model.engine.name)
print([name for name in sys.argv[4].split(",") if name in sys.modules])
"""


@pytest.mark.parametrize("engine", ["auto", *OTHERS])
def test_query_without_torch(class_folders: Path, tmp_path: Path, engine: str) -> None:
    """Where the model is in the cache a query by image imports no torch and needs no weights."""
    made = Running(engine="openvino" if engine == "auto" else engine)
    build_index(class_folders, tmp_path / "index", model=MODEL, running=made)
    photo = min(class_folders.rglob("*.jpg"))
    words = (tmp_path / "index", photo, engine, ",".join(HEAVY))
    run = run_python(QUERY, *words)
    assert run.returncode == 0, run.stderr
    path = photo.relative_to(class_folders).as_posix()
    assert run.stdout == f"{path} {made.engine}\n[]\n"
    if engine == "auto":  # where torch is imported this is seen
        again = run_python(QUERY, *words[:2], "torch", words[3])
        assert again.stdout.splitlines()[0] == f"{path} torch"
        assert "'torch'" in again.stdout.splitlines()[1]


def test_weights_of_ones_own_are_still_compared(
    class_folders: Path, tmp_path: Path, tiny_file: Path
) -> None:
    """A model in the cache does not hide that its weights file has changed or gone."""
    file = tmp_path / "mine.pth"
    shutil.copy(tiny_file, file)
    build_index(class_folders, tmp_path / "index", model=TINY, weights=str(file))
    words = (tmp_path / "index", min(class_folders.rglob("*.jpg")), "auto", ",".join(HEAVY))
    run = run_python(QUERY, *words)
    assert run.stdout.endswith("openvino\n[]\n"), run.stderr
    file.write_bytes(file.read_bytes()[:-1] + b"\0\0")
    assert "ModelMismatchError" in run_python(QUERY, *words).stderr
    file.unlink()
    assert "MissingWeightsError" in run_python(QUERY, *words).stderr


def test_nothing_is_reported(class_folders: Path, tmp_path: Path, tiny_file: Path) -> None:
    """OpenVINO's reports to its makers, which each import would send, are not even loaded."""
    program = """
import sys
from imgsearch import build_index
build_index(sys.argv[1], sys.argv[2], model=sys.argv[3], weights=sys.argv[4])
print("openvino" in sys.modules, "openvino_telemetry" in sys.modules)
"""
    home = tmp_path / "home"
    home.mkdir()
    run = run_python(
        program,
        class_folders,
        tmp_path / "index",
        TINY,
        tiny_file,
        HOME=str(home),
        IMGSEARCH_CACHE=str(tmp_path / "cache"),
    )
    assert run.stdout == "True False\n", run.stderr
    assert not (home / "intel").exists()


# The cache.


def test_cache_lies_where_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """IMGSEARCH_CACHE says where; else it is the system's folder for such things."""
    assert cache.folder() == Path(os.environ["IMGSEARCH_CACHE"])
    monkeypatch.delenv("IMGSEARCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache.folder() == tmp_path / "imgsearch"


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return an empty cache of the test's own."""
    folder = tmp_path / "own cache"
    monkeypatch.setenv("IMGSEARCH_CACHE", str(folder))
    return folder


PARTS = {"model.xml": b"<net/>", "model.bin": bytes(range(256)) * 40}


def refuse() -> cache.Parts:
    """Fail: what is kept must not be made again."""
    raise AssertionError("it was made again")


def spoil_byte(file: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    """Take the second half away."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "spoil",
    [spoil_byte, cut, lambda file: file.write_bytes(b""), lambda file: file.unlink()],
    ids=["byte", "cut", "empty", "gone"],
)
def test_spoilt_entry_is_made_anew(own_cache: Path, spoil: Callable[[Path], Any]) -> None:
    """What is kept is read back as it was; a spoilt entry is not believed but made again."""
    stem = cache.stem("made", "ab" * 32, {"model": "m", "side": 3})
    assert cache.read(stem) is None
    assert not own_cache.exists()  # reading makes nothing
    assert cache.fetch(stem, lambda: PARTS) == PARTS
    assert cache.fetch(stem, refuse) == PARTS
    (file,) = own_cache.glob("*.zip")
    assert file.name.startswith("made-abababababababab-")
    spoil(file)
    assert cache.read(stem) is None
    assert not list(own_cache.glob("*.zip"))
    assert cache.fetch(stem, lambda: PARTS) == PARTS
    assert cache.read(stem) == PARTS
    assert [found.name for found in own_cache.glob("*.zip")] == [file.name]


def test_entry_that_is_none(own_cache: Path) -> None:
    """A file whose name has its sum, but which is no model, is not believed either."""
    import hashlib

    stem = cache.stem("made", "ab" * 32, {})
    own_cache.mkdir()
    data = b"no archive"
    file = own_cache / f"{stem}-{hashlib.sha256(data).hexdigest()[:16]}.zip"
    file.write_bytes(data)
    assert cache.read(stem) is None
    assert not file.exists()


def test_stem_tells_entries_apart() -> None:
    """Another engine, weights, model, preprocessing or version is another entry."""
    facts = {"model": "m", "versions": {"torch": "1"}}
    stems = {
        cache.stem("openvino", "ab" * 32, facts),
        cache.stem("onnx", "ab" * 32, facts),
        cache.stem("openvino", "ac" * 32, facts),
        cache.stem("openvino", "ab" * 31 + "ac", facts),
        cache.stem("openvino", "ab" * 32, {**facts, "model": "n"}),
        cache.stem("openvino", "ab" * 32, {**facts, "versions": {"torch": "2"}}),
    }
    assert len(stems) == 6
    assert cache.stem("onnx", "ab" * 32, dict(reversed(facts.items()))) in stems


def test_two_processes_make_one_model(own_cache: Path, tmp_path: Path) -> None:
    """Of four processes that want a model at once one makes it, and all get the same."""
    program = """
import sys, time
from pathlib import Path
from imgsearch import cache
def make():
    with open(sys.argv[1], "a") as made: made.write("x")
    time.sleep(1)
    return {"model.bin": bytes(1_000_000)}
print(len(cache.fetch(sys.argv[2], make)["model.bin"]))
"""
    stem = cache.stem("made", "ab" * 32, {})
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", program, tmp_path / "made", stem],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    assert [run.communicate()[0] for run in runs] == ["1000000\n"] * 4
    assert (tmp_path / "made").read_text() == "x"
    assert len(list(own_cache.glob("*.zip"))) == 1
    assert not list(own_cache.glob("*.part-*"))


def test_killed_maker_leaves_nothing_in_the_way(own_cache: Path) -> None:
    """After a process was killed while it wrote, the next makes the model and removes its part."""
    program = """
import os, signal, sys
from pathlib import Path
from imgsearch import cache
def stop(self, target): os.kill(os.getpid(), signal.SIGKILL)
Path.replace = stop
cache.fetch(sys.argv[1], lambda: {"model.bin": bytes(1_000_000)})
"""
    stem = cache.stem("made", "ab" * 32, {})
    assert run_python(program, stem).returncode == -9
    assert list(own_cache.glob(".*.part-*"))
    assert not list(own_cache.glob("*.zip"))
    assert cache.fetch(stem, lambda: PARTS) == PARTS
    assert not list(own_cache.glob(".*.part-*"))
    assert cache.read(stem) == PARTS


def test_cache_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_file: Path
) -> None:
    """An engine that is asked for is then exit 7 at once; auto runs the model as it comes."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGSEARCH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(WriteError, match="IMGSEARCH_CACHE"):
        load_model(TINY, str(tiny_file), "cpu", "openvino")
    assert load_model(TINY, str(tiny_file), "cpu", "auto").engine.name == "torch"


def test_model_that_cannot_be_converted(own_cache: Path) -> None:
    """A network that OpenVINO cannot take is exit 2 if asked for; auto leaves it with torch."""
    from dataclasses import replace

    from imgsearch.converting import run_by

    class Odd(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return batch[:, :, 0, :2].flatten(1) * float(batch.sum() > 0)  # by value, not by graph

    plain = load_model(MODEL, device="cpu")
    odd = replace(plain, network=Odd(), weights_sha256="0" * 64)
    with pytest.raises(InputError, match=r"cannot be run by the engine openvino \(.*leave --eng"):
        run_by(odd, "openvino", "cpu")
    assert not list(own_cache.glob("*.zip"))
    assert run_by(odd, "auto", "cpu") is odd


def test_missing_package_error_names_the_extra() -> None:
    """The error for an engine carries package and extra."""
    error = MissingPackageError("openvino", "openvino", "the engine openvino")
    assert error.exit_code == 6
    assert str(error).endswith("pip install 'imgsearch-faiss[openvino]'")
