"""ONNX files as models: read a user's own, and write one from a torch model."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgsearch.engines import LoadedModel, quiet
from imgsearch.engines.onnx_engine import OnnxEngine, open_session
from imgsearch.engines.torch_engine import TorchEngine, plain_copy
from imgsearch.errors import InputError, MissingPackageError, NotFoundError, WriteError
from imgsearch.records import Preprocess
from imgsearch.sameness import made_pictures
from imgsearch.text import printable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_KEY = "imgsearch.preprocess"
_MODEL, _WEIGHTS, _SUM = "imgsearch.model", "imgsearch.weights", "imgsearch.weights_sha256"
_VECTORS = "imgsearch.vectors"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_USUAL_SIDE, _USUAL_RESIZE = 224, 256
_MOST = 8192  # pixels of a side
_FILTERS = {"nearest", "bilinear", "bicubic", "lanczos"}
_COLOURS = 3
_ALIKE = 0.9999  # cosine below which an exported file is not kept


def load(place: str) -> LoadedModel:
    """Open an ONNX file as a model.

    Its preprocessing is what its metadata states (as `export` writes it), else what is usual for
    ImageNet: the shorter side to 256/224 of the input's (bilinear), the middle, mean and deviation.

    Raises:
        NotFoundError: there is no such file.
        InputError: it is none that maps pictures to vectors.
    """
    file, shown = Path(place).expanduser(), printable(place)
    data = read(place)
    session = open_session(data, shown)
    preprocess = _preprocess_of(session, shown)
    engine = OnnxEngine(session, preprocess, data)
    return LoadedModel(
        model=f"onnx:{file.name}",
        weights=file.name,
        weights_sha256=hashlib.sha256(data).hexdigest(),
        weights_source=str(file.resolve()),
        preprocess=preprocess,
        dim=_probe(engine, preprocess.crop, shown),
        engine=engine,
    )


def read(place: str) -> bytes:
    """Return the content of an ONNX file; raises NotFoundError and InputError."""
    file, shown = Path(place).expanduser(), printable(place)
    if not file.exists():
        raise NotFoundError(f"there is no ONNX file {shown}")
    if not file.is_file():
        raise InputError(f"{shown} is not a regular file; an ONNX file is wanted")
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(f"{shown} cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Stated:
    """What an exported file states: its origin, its preprocessing, and torch's `vectors`.

    They are the embeddings, float32 (4, dim), of the pictures that engines are compared on.
    """

    model: str
    weights_sha256: str
    preprocess: Preprocess
    vectors: npt.NDArray[np.float32]


def stated(facts: dict[str, str], shown: str) -> Stated | None:
    """Read the metadata that `export_onnx` writes; None where it was not written by it.

    Raises:
        InputError: its preprocessing is in a form that is not known.
    """
    import numpy as np

    if not facts.keys() >= {_KEY, _MODEL, _SUM, _VECTORS}:
        return None
    try:
        numbers = np.frombuffer(base64.b64decode(facts[_VECTORS], validate=True), "<f4")
        vectors = numbers.reshape(len(made_pictures(1)), -1)
    except ValueError:
        return None
    return Stated(facts[_MODEL], facts[_SUM], _parse(facts[_KEY], shown), vectors)


def _preprocess_of(session: Any, shown: str) -> Preprocess:  # noqa: ANN401 - onnxruntime has no types
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    # A side that the file leaves open is a name or None.
    fixed = [side if isinstance(side, int) and side > 0 else None for side in shape]
    if len(fixed) != 1 + _COLOURS or fixed[1] not in {_COLOURS, None} or fixed[2] != fixed[3]:
        raise InputError(
            f"{shown} must have one input of shape (n, 3, height, width) with height = width, "
            f"not {printable(', '.join(str(list(given.shape)) for given in inputs)) or 'none'}"
        )
    stated = session.get_modelmeta().custom_metadata_map.get(_KEY)
    if stated is None:
        side = fixed[2] or _USUAL_SIDE
        resize = round(side * _USUAL_RESIZE / _USUAL_SIDE)
        preprocess = Preprocess(resize, side, "bilinear", _IMAGENET_MEAN, _IMAGENET_STD)
    else:
        preprocess = _parse(stated, shown)
    if preprocess.crop != (fixed[2] or preprocess.crop) or preprocess.crop > _MOST:
        raise InputError(f"{shown} states an input of {preprocess.crop} pixels and takes another")
    return preprocess


def _parse(text: str, shown: str) -> Preprocess:
    try:
        stated = json.loads(text)
        resize, crop, interpolation = (stated[key] for key in ("resize", "crop", "interpolation"))
        mean, std = (tuple(float(value) for value in stated[key]) for key in ("mean", "std"))
        good = (
            all(type(side) is int and 0 < side <= _MOST for side in (resize, crop))
            and interpolation in _FILTERS
            and all(len(values) == _COLOURS for values in (mean, std))
            and all(math.isfinite(value) for value in mean + std)
            and min(std) > 0
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        good = False
    if not good:
        raise InputError(f"{shown} states its preprocessing in a form that is not known here")
    return Preprocess(resize, crop, interpolation, mean, std)  # type: ignore[arg-type]  # three each


def _probe(engine: OnnxEngine, side: int, shown: str) -> int:
    import numpy as np

    try:
        vectors = engine.embed(np.zeros((2, side, side, _COLOURS), np.uint8))
    except Exception as error:  # onnxruntime's errors have no common base but this
        said = printable(" ".join(str(error).split()))[:160]
        raise InputError(
            f"{shown} does not turn pictures of {side} x {side} pixels into vectors ({said})"
        ) from error
    return int(vectors.shape[1])


def export_onnx(loaded: LoadedModel, file: Path) -> float:
    """Write a loaded torch model as ONNX and compare what it gives.

    The file takes "input" (n, 3, crop, crop), normalized float32, and gives "embedding" (n, dim).
    Its metadata states the preprocessing, which `onnx:FILE` then follows.

    Returns:
        The lowest cosine between both engines' embeddings of 4 made pictures.

    Raises:
        InputError: the model has no torch network, or cannot be written as ONNX.
        MissingPackageError: the extra `onnx` is not installed.
        WriteError: the file cannot be written.
    """
    if loaded.network is None:
        raise InputError(f"{printable(loaded.model)} is ONNX already")
    for module in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise MissingPackageError(module, "onnx", "models export")
    if file.is_dir() or not file.parent.is_dir():
        raise WriteError(f"{printable(str(file))} cannot be written: give a file in a folder")
    import numpy as np

    from imgsearch.files import write_file

    network = plain_copy(loaded.network)
    try:
        data = exported(loaded, network)
    except Exception as error:  # the exporter's errors have no common base but this
        said = printable(" ".join(str(error).split()))[:160]
        raise InputError(f"{printable(loaded.model)} cannot be written as ONNX ({said})") from error
    side = loaded.preprocess.crop
    pixels = np.random.default_rng(0).integers(0, 256, (4, side, side, _COLOURS), dtype=np.uint8)
    given = OnnxEngine(open_session(data, "the file written"), loaded.preprocess).embed(pixels)
    wanted = TorchEngine(network, loaded.preprocess, "cpu").embed(pixels)
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1)
    cosine = float((np.einsum("ij,ij->i", given, wanted) / norms).min())
    if not cosine >= _ALIKE:
        raise InputError(
            f"{printable(loaded.model)} gives other embeddings as ONNX (cosine {cosine:.4f}): "
            "nothing was written"
        )
    write_file(file, data)
    return cosine


def exported(loaded: LoadedModel, network: Any = None) -> bytes:  # noqa: ANN401 - a torch module
    """Return a loaded torch model as the content of an ONNX file; errors come as torch has them."""
    import onnx
    import torch

    network = network or plain_copy(loaded.network)
    side = loaded.preprocess.crop
    with quiet():
        program = torch.onnx.export(
            network,
            (torch.zeros(2, _COLOURS, side, side),),
            input_names=["input"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch gave nothing")
    proto = program.model_proto
    # By these a reader sees whether another engine gives on its machine what torch gives here.
    vectors = TorchEngine(network, loaded.preprocess, "cpu").embed(made_pictures(side))
    onnx.helper.set_model_props(
        proto,
        {
            _KEY: json.dumps(loaded.preprocess.to_dict()),
            _MODEL: loaded.model,
            _WEIGHTS: loaded.weights,
            _SUM: loaded.weights_sha256,
            _VECTORS: base64.b64encode(vectors.astype("<f4").tobytes()).decode("ascii"),
        },
    )
    data: bytes = proto.SerializeToString(deterministic=True)
    return data
