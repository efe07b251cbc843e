"""int8: made with the user's own pictures, its cost measured, asked through itself alone."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import MODEL
from helpers import into_classes, vectors_of

from imgsearch import (
    IndexCorruptError,
    InputError,
    ModelMismatchError,
    NotFoundError,
    SearchEngine,
    build_index,
    cache,
    quantizing,
    update_index,
    verify,
)
from imgsearch.backbones import load_model
from imgsearch.converting import run_by
from imgsearch.decoding import DecoderPool, Source
from imgsearch.index import open_index
from imgsearch.manifest import parse
from imgsearch.metrics import spread
from imgsearch.quantizing import measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run

    from imgsearch.engines import LoadedModel


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return 39 small interiors in three class folders."""
    return into_classes(sorted(small_photos.iterdir()), tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def built(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Return an int8 index of the packaged model, and the build's summary as JSON has it."""
    index = tmp_path_factory.mktemp("int8") / "index"
    return index, build_index(images, index, model=MODEL, precision="int8").to_dict()


def first_of(folder: Path) -> Path:
    """Return one picture of the class folders."""
    return min(folder.rglob("*.jpg"))


def rewrite(index: Path, **changes: Any) -> None:  # noqa: ANN401 - fields of a manifest
    """Write an index' manifest anew with other values and a right sum."""
    manifest = parse((index / "manifest.json").read_bytes())
    (index / "manifest.json").write_bytes(replace(manifest, **changes).to_bytes())


# What a build makes.


def test_build_states_precision_and_cost(
    imgsearch: Callable[..., Run], images: Path, built: tuple[Path, Any], tmp_path: Path
) -> None:
    """The command prints precision, engine and cost; the model comes from the cache, the same."""
    index, first = built
    cost = first["quantization"]
    assert (cost["calibrated_on"], cost["measured_on"], cost["top"]) == (26, 13, 10)
    assert quantizing.LEAST_MEAN_COSINE <= cost["mean_cosine"] < 1
    assert cost["lowest_cosine"] <= cost["mean_cosine"]
    assert quantizing.LEAST_AGREEMENT <= cost["top_agreement"] <= 1
    before = sorted(cache.folder().glob("openvino-int8-*.zip"))
    assert len(before) == 1
    again = tmp_path / "again"
    run = imgsearch("build", images, again, "--model", MODEL, "--precision", "int8", "--json")
    assert run.code == 0, run.err
    assert not run.err
    for key in ("count", "classes", "engine", "precision", "quantization"):
        assert run.json[key] == first[key], key
    assert run.json["precision"] == "int8"
    assert run.json["engine"].startswith("openvino ")
    assert run.json["count"] == 39
    assert sorted(cache.folder().glob("openvino-int8-*.zip")) == before
    one, other = (open_index(folder).manifest for folder in (index, again))
    assert one.files["model"] == other.files["model"]
    assert one.files["vectors"] == other.files["vectors"]
    info = imgsearch("info", again, "--json").json
    assert info["quantization"] == cost
    assert info["precision"] == "int8"
    assert info["files"]["model"]["size"] < 6_500_000  # fp32 has 19 MB
    assert verify(again) == []


def test_build_tells_people_the_cost(images: Path, built: tuple[Path, Any], tmp_path: Path) -> None:
    """In words the command says how many pictures were kept out, and the three figures."""
    from typer.testing import CliRunner

    from imgsearch.cli import app

    words = ["build", str(images), str(tmp_path / "again"), "--model", MODEL]
    run = CliRunner().invoke(app, [*words, "--precision", "int8"])
    assert run.exit_code == 0, run.output
    cost = built[1]["quantization"]
    assert "int8: on 13 pictures kept out of calibration the cosine to fp32 is " in run.output
    assert f"{cost['mean_cosine']:.4f} on average and {cost['lowest_cosine']:.4f} at" in run.output
    assert f"the nearest 10 agree by {cost['top_agreement']:.1%}" in run.output


def test_cost_is_what_it_says(images: Path, built: tuple[Path, Any]) -> None:
    """Mean and lowest cosine are those of pictures that took no part, embedded both ways anew."""
    index, summary = built
    cost = summary["quantization"]
    files = [Path(images, *path.split("/")) for path in open_index(index).items.column("path")]
    kept_out = files[1::3]
    with DecoderPool(2) as pool:
        fp32 = load_model(MODEL, device="cpu", engine="openvino")
        wanted = vectors_of(fp32, pool, kept_out).astype(np.float64)
        sources = [Source(file.name, str(file)) for file in files]
        pixels = np.stack([pool.input(source, fp32.preprocess).pixels for source in sources])
        with SearchEngine.open(index) as engine:
            given = vectors_of(engine.model, pool, kept_out).astype(np.float64)
    cosines = (wanted * given).sum(1)
    assert cosines.mean() == pytest.approx(cost["mean_cosine"], abs=1e-6)
    assert cosines.min() == pytest.approx(cost["lowest_cosine"], abs=1e-6)
    calibration = pixels[[i for i in range(39) if i % 3 != 1]]
    assert hashlib.sha256(calibration.tobytes()).hexdigest() == cost["calibration_sha256"]


def test_measure_on_numbers_by_hand() -> None:
    """Four vectors, one kept out: a cosine of 24/25 and one of two neighbours in common."""
    wanted = np.array([[1, 0, 0], [3, 4, 0], [4, 3, 0], [0, 0, 1]], np.float32)
    given = np.array([[1, 0, 0], [4, 3, 0], [-4, -3, 0], [0, 0, 1]], np.float32) * 7
    cost = measure(wanted, given, [1], "ab" * 32)
    assert cost.mean_cosine == cost.lowest_cosine == pytest.approx(float(Fraction(24, 25)))
    # There are three others, so the nearest three, and all of them are in common.
    assert (cost.calibrated_on, cost.measured_on, cost.top, cost.top_agreement) == (3, 1, 3, 1.0)
    more = np.eye(14, 16, dtype=np.float32)
    more[0, 1:] = np.linspace(0.9, 0.2, 15)  # fp32: the nearest ten are rows 1 to 10
    turned = more.copy()
    turned[0, 1:] = np.linspace(0.2, 0.9, 15)  # int8: rows 4 to 13
    cost = measure(more, turned, [0], "ab" * 32)
    assert (cost.top, cost.top_agreement) == (10, float(Fraction(7, 10)))


def test_sample_is_spread() -> None:
    """The sample takes different places in even steps, all of them where there are no more."""
    assert spread(5, 5) == [0, 1, 2, 3, 4]
    assert spread(10, 2) == [2, 7]
    for total in (192, 193, 1000, 50_001):
        places = spread(total, 192)
        assert len(set(places)) == 192
        steps = np.diff(places)
        assert steps.max() - steps.min() <= 1
        assert 0 <= places[0] <= total // 192
        assert places[-1] < total


# Asking.


def test_picture_finds_itself(
    imgsearch: Callable[..., Run], images: Path, built: tuple[Path, Any]
) -> None:
    """A query by image through the command finds the picture itself, with a score of 1."""
    photo = first_of(images)
    run = imgsearch("search", built[0], photo, "--json")
    assert run.code == 0, run.err
    best = run.json["queries"][0]["matches"][0]
    assert images / best["path"] == photo
    assert best["score"] == pytest.approx(1, abs=1e-6)


def test_copied_index_needs_nothing_else(
    images: Path, built: tuple[Path, Any], tmp_path: Path
) -> None:
    """Where only the index' folder was copied it is asked by image: no cache, weights or torch."""
    program = """
import sys
from imgsearch import SearchEngine
with SearchEngine.open(sys.argv[1]) as engine:
    print(engine.by_image(sys.argv[2]).matches[0].path)
print([name for name in ("torch", "torchvision", "nncf", "onnx") if name in sys.modules])
"""
    shutil.copytree(built[0], tmp_path / "copy")
    photo = first_of(images)
    run = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "copy", photo],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "IMGSEARCH_CACHE": str(tmp_path / "cache")},
    )
    assert run.stdout == f"{photo.relative_to(images).as_posix()}\n[]\n"
    assert not (tmp_path / "cache").exists()


def test_weights_of_ones_own_are_not_needed(images: Path, tmp_path: Path) -> None:
    """An int8 index made from a local weights file is asked by image when that file is gone."""
    from imgsearch.backbones import spec_of
    from imgsearch.weights import place_of

    published = place_of(spec_of(MODEL)[0].weights[0])
    assert published is not None
    file, index = tmp_path / "mine.pth", tmp_path / "index"
    shutil.copy(published, file)
    build_index(images, index, model=MODEL, weights=str(file), precision="int8")
    photo = first_of(images)
    with SearchEngine.open(index, weights=str(file)) as engine:
        assert images / engine.by_image(photo).matches[0].path == photo
    file.unlink()
    with SearchEngine.open(index) as engine:
        assert images / engine.by_image(photo).matches[0].path == photo
    with SearchEngine.open(index, weights=str(file)) as engine, pytest.raises(NotFoundError):
        engine.by_image(photo)


def test_int8_is_asked_through_int8_alone(
    imgsearch: Callable[..., Run], images: Path, built: tuple[Path, Any], tmp_path: Path
) -> None:
    """Another engine, model or weights is refused with 5, and so is a precision not known here."""
    index, photo = built[0], first_of(images)
    for words in (["--engine", "torch"], ["--engine", "onnx"], ["--device", "cuda"]):
        run = imgsearch("search", index, photo, *words)
        assert run.code == 5, run.err
        assert "made with precision int8" in run.err
        assert run.err.count("\n") == 1
    other = tmp_path / "other.pth"
    other.write_bytes(b"others")
    run = imgsearch("search", index, photo, "--weights", other)
    assert run.code == 5
    assert "not those that made the index" in run.err
    with (
        SearchEngine.open(index, model="resnet50") as engine,
        pytest.raises(ModelMismatchError, match="cannot be asked through resnet50"),
    ):
        engine.by_image(photo)
    assert imgsearch("search", index, "row:0", "--engine", "torch").code == 0
    fp32 = tmp_path / "fp32"
    build_index(first_of(images).parent, fp32, model=MODEL)
    rewrite(fp32, precision="int4")
    with (
        SearchEngine.open(fp32) as engine,
        pytest.raises(ModelMismatchError, match="precision int4, which this release does not know"),
    ):
        engine.by_image(photo)


@pytest.mark.parametrize("how", ["byte", "gone"])
def test_spoilt_model_file_is_refused(built: tuple[Path, Any], tmp_path: Path, how: str) -> None:
    """A changed or missing model file is exit 4 at the opening, and verify names it."""
    index = tmp_path / "index"
    shutil.copytree(built[0], index)
    name = open_index(index).manifest.files["model"].name
    data = bytearray((index / name).read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        (index / name).unlink()
    else:
        (index / name).write_bytes(data)
    with pytest.raises(IndexCorruptError) as caught:
        SearchEngine.open(index)
    assert caught.value.file == name
    assert [problem.split()[0] for problem in verify(index)] == [name]


@pytest.mark.parametrize(
    "content",
    [
        b"no archive",
        cache.pack({"model.xml": b"<net/>", "model.bin": b""}),
        cache.pack({"other": b"x"}),
    ],
    ids=["no archive", "empty", "foreign"],
)
def test_model_file_that_is_no_model(
    images: Path, built: tuple[Path, Any], tmp_path: Path, content: bytes
) -> None:
    """A model file with the right sum that holds no such model is exit 4 at the query by image."""
    index = tmp_path / "index"
    shutil.copytree(built[0], index)
    total = hashlib.sha256(content).hexdigest()
    name = f"model-{total[:16]}.zip"
    (index / name).write_bytes(content)
    files = dict(open_index(index).manifest.files)
    files["model"] = replace(files["model"], name=name, size=len(content), sha256=total)
    rewrite(index, files=files)
    with SearchEngine.open(index) as engine:
        assert len(engine.by_row(0).matches) == 5
        with pytest.raises(IndexCorruptError, match="as a quantized model"):
            engine.by_image(first_of(images))


# Updating.


def test_update_keeps_model_and_precision(
    images: Path, built: tuple[Path, Any], tmp_path: Path
) -> None:
    """New pictures go through the index' own int8 model; a removal keeps it without loading it."""
    folder, index = tmp_path / "images", tmp_path / "index"
    shutil.copytree(images, folder)
    shutil.copytree(built[0], index)
    before = open_index(index)
    first = first_of(folder)
    from PIL import Image, ImageOps

    with Image.open(first) as image:
        ImageOps.mirror(image).save(first.with_name("new.png"))
    told = update_index(index, folder)
    assert (told.added, told.embedded, told.count) == (1, 1, 40)
    after = open_index(index)
    assert after.manifest.precision == "int8"
    assert after.manifest.files["model"] == before.manifest.files["model"]
    assert after.manifest.cost == before.manifest.cost
    with SearchEngine.open(index) as engine:
        assert engine.by_image(first.with_name("new.png")).matches[0].path == "alpha/new.png"
    first.with_name("new.png").unlink()
    assert update_index(index).removed == 1
    last = open_index(index)
    assert last.manifest.files["vectors"] == before.manifest.files["vectors"]
    assert last.manifest.files["model"] == before.manifest.files["model"]
    assert verify(index) == []


# Refusing.


def test_too_high_a_cost_is_refused(
    monkeypatch: pytest.MonkeyPatch, images: Path, built: tuple[Path, Any], tmp_path: Path
) -> None:
    """A model below a floor ends the build with 2 and the figures, and no index is left."""
    cost = built[1]["quantization"]
    for name, floor in (("LEAST_MEAN_COSINE", 0.9999), ("LEAST_AGREEMENT", 1.01)):
        with monkeypatch.context() as patch:
            patch.setattr(quantizing, name, floor)
            with pytest.raises(InputError, match="loses too much in int8") as caught:
                build_index(images, tmp_path / "index", model=MODEL, precision="int8")
        assert f"{cost['mean_cosine']:.4f}" in str(caught.value)
        assert f"{cost['top_agreement']:.0%}" in str(caught.value)
        assert not (tmp_path / "index" / "manifest.json").exists()


def test_too_few_pictures(
    imgsearch: Callable[..., Run], class_folders: Path, tmp_path: Path
) -> None:
    """Twelve pictures are too few to calibrate and measure on: exit 2, said with both numbers."""
    words = ["--model", MODEL, "--precision", "int8"]
    run = imgsearch("build", class_folders, tmp_path / "index", *words)
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert "at least 24 pictures" in run.err
    assert "has 12 pictures" in run.err


def test_another_sample_is_another_model(built: tuple[Path, Any]) -> None:
    """What is kept is named after the calibration and the kept-out pictures, too."""
    loaded: LoadedModel = run_by(load_model(MODEL, device="cpu"), "openvino", "cpu")
    total = built[1]["quantization"]["calibration_sha256"]
    stems = {
        quantizing._stem(loaded, total, "a"),
        quantizing._stem(loaded, "b", "a"),
        quantizing._stem(loaded, total, "b"),
        quantizing._stem(replace(loaded, weights_sha256="c" * 64), total, "a"),
    }
    assert len(stems) == 4


# The manifest.


@pytest.mark.parametrize(
    "change",
    [
        {"mean_cosine": "1"},
        {"mean_cosine": 2.5},
        {"top": -1},
        {"top": 1.5},
        {"measured_on": True},
        {"calibration_sha256": "x"},
        {"more": 1},
        {"top_agreement": None},
    ],
)
def test_manifest_refuses_costs_that_cannot_be(
    built: tuple[Path, Any], change: dict[str, Any]
) -> None:
    """A cost with a wrong type, range or key is refused, though the manifest's sum is right."""
    raw = (built[0] / "manifest.json").read_bytes()
    document = json.loads(raw)
    del document["sha256"]
    document["quantization"].update(change)
    with pytest.raises(IndexCorruptError, match="'quantization' cannot be"):
        parse(sealed(document))


def sealed(document: dict[str, Any]) -> bytes:
    """Write a document as manifests are written, with a right sum."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    body = text.removesuffix("\n}").encode() + b",\n"
    return body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"}}\n'.encode()


def test_manifest_without_cost_is_read(rooms: Path, built: tuple[Path, Any]) -> None:
    """fp32 manifests hold no word of it, as before; int8 without its model file is refused."""
    raw = (rooms / "manifest.json").read_bytes()
    assert b"quantization" not in raw
    assert parse(raw).cost is None
    document = json.loads((built[0] / "manifest.json").read_bytes())
    del document["sha256"]
    assert parse(sealed(document)).cost is not None
    without = {key: value for key, value in document.items() if key != "quantization"}
    assert parse(sealed(without)).cost is None
    document["files"].pop("model")
    with pytest.raises(IndexCorruptError, match="'files' cannot be"):
        parse(sealed(document))
