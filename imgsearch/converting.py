"""From the engine that a model comes with to another: converted once, compared, kept, read again.

What is kept is named after the sum of the weights, so that a query whose index states that sum
needs neither the weights nor torch.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch import cache, engines, onnx_models
from imgsearch.engines import LoadedModel
from imgsearch.engines.onnx_engine import OnnxEngine, open_session
from imgsearch.engines.openvino_engine import (
    OpenVinoEngine,
    from_onnx,
    from_torch,
    onnx_metadata,
)
from imgsearch.errors import (
    ImgsearchError,
    IndexCorruptError,
    InputError,
    MissingPackageError,
    ModelMismatchError,
)
from imgsearch.sameness import check_same, made_pictures
from imgsearch.text import printable

if TYPE_CHECKING:
    from imgsearch.cache import Parts
    from imgsearch.engines import Engine
    from imgsearch.index import Index
    from imgsearch.manifest import Manifest
    from imgsearch.records import Preprocess, Running

_RECIPE = 1  # raised when what a conversion gives changes here
# What a conversion depends on: who defines the networks, and who converts.
_DEFINE = ("torch", "torchvision", "timm", "efficientnet-lite-pytorch")
_CONVERT = {"openvino": ("openvino",), "onnx": ("onnx", "onnxscript", "onnxruntime")}
_ONNX_FILE = "model.onnx"


def run_by(loaded: LoadedModel, engine: str, device: str) -> LoadedModel:
    """Return a loaded model run by another engine, converted where it was not before.

    Args:
        loaded: as it came, run by the engine of its own form.
        engine: the one wanted; "auto" is the best installed that can run it.
        device: as it was asked for.

    Raises:
        InputError: this engine cannot run it, or not to the same numbers.
        MissingPackageError: the engine, or what converts for it, is not installed.
        WriteError: the conversion cannot be kept.
    """
    wanted = engines.candidates(engine, device)
    if engine == "auto" and loaded.engine.device != "cpu":
        return loaded
    for name in wanted:
        if name == loaded.engine.name:
            return loaded
        try:
            return _converted(loaded, name)
        except ImgsearchError:
            if engine != "auto":
                raise
    return loaded


def _converted(loaded: LoadedModel, engine: str) -> LoadedModel:
    shown = printable(loaded.model)
    if engine == "torch":
        raise InputError(f"{shown} is no model of torch's: leave --engine out")
    for package in engines.missing(engine, converting=True):
        raise MissingPackageError(package, engine, f"the engine {engine}")

    def make() -> Parts:
        try:
            parts = _convert(loaded, engine)
            compare(loaded.engine, _open(engine, parts, loaded.preprocess), loaded.preprocess)
        except Exception as error:  # converters' errors have no common base but this
            said = printable(" ".join(str(error).split())).rstrip(".")[:160]
            raise InputError(
                f"{shown} cannot be run by the engine {engine} ({said}): leave --engine out"
            ) from error
        return parts

    model, preprocess = loaded.model, loaded.preprocess
    parts = cache.fetch(_stem(engine, model, loaded.weights_sha256, preprocess), make)
    # The torch module has done its part, and its memory is wanted for pictures.
    return replace(loaded, engine=_open(engine, parts, preprocess), network=None)


def _convert(loaded: LoadedModel, engine: str) -> Parts:
    if engine == "onnx":
        return {_ONNX_FILE: onnx_models.exported(loaded)}
    if loaded.network is not None:
        return from_torch(loaded.network, loaded.preprocess)
    data = Path(loaded.weights_source or "").read_bytes()
    if hashlib.sha256(data).hexdigest() != loaded.weights_sha256:
        raise ValueError("its file has changed since it was opened")
    return from_onnx(data, loaded.preprocess)


def _open(engine: str, parts: Parts, preprocess: Preprocess) -> Engine:
    if engine == "openvino":
        return OpenVinoEngine(parts, preprocess.crop)
    data = parts[_ONNX_FILE]
    return OnnxEngine(open_session(data, "the converted model"), preprocess, data)


def compare(one: Engine, other: Engine, preprocess: Preprocess) -> None:
    """Raise ValueError where two engines give other unit vectors of made pictures."""
    pictures = made_pictures(preprocess.crop)
    check_same(one.embed(pictures), other.embed(pictures))


def _stem(engine: str, model: str, weights_sha256: str, preprocess: Preprocess) -> str:
    facts = {
        "recipe": _RECIPE,
        # The name of an ONNX file is no part of the model.
        "model": "onnx" if model.startswith("onnx:") else model,
        "preprocessing": preprocess.to_dict(),
        "versions": versions(*_CONVERT[engine]),
    }
    return cache.stem(engine, weights_sha256, facts)


def versions(*converters: str) -> dict[str, str | None]:
    """Return the versions of what defines networks and of what converts, importing nothing."""
    found: dict[str, str | None] = {}
    for package in (*_DEFINE, *converters):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


# What is here already.


def kept(index: Index, running: Running) -> LoadedModel | None:
    """Return the model of an index as it lies here for an engine; None where it must be loaded.

    An int8 model lies in the index itself. Neither torch nor the weights are needed.

    Raises:
        InputError, MissingPackageError: the engine asked for cannot be had.
        ModelMismatchError: the index has a precision that is not known or not run by that engine.
        IndexCorruptError: the quantized model in the index is none.
    """
    manifest = index.manifest
    if manifest.preprocessing is None:
        return None
    wanted = engines.candidates(running.engine, running.device)
    if manifest.precision == "int8":
        return _quantized(index, manifest.preprocessing, running)
    if manifest.precision != "fp32":
        raise ModelMismatchError(
            f"the index has the precision {printable(manifest.precision)}, which this release does "
            "not know: ask it by row or by vector, or install a newer imgsearch-faiss"
        )
    for name in wanted:
        if name == "torch":
            return None
        total, prepared = manifest.weights_sha256, manifest.preprocessing
        parts = cache.read(_stem(name, manifest.model, total, prepared))
        if parts is not None:
            return _of_manifest(manifest, prepared, _open(name, parts, prepared))
    return None


def _quantized(index: Index, prepared: Preprocess, running: Running) -> LoadedModel:
    if running.engine not in {"auto", "openvino"} or running.device not in {"auto", "cpu"}:
        raise ModelMismatchError(
            "the index was made with precision int8, which the engine openvino runs on the CPU: "
            "leave --engine and --device out, or build an index with --precision fp32"
        )
    engines.check("openvino")
    data = index.quantized() or b""
    try:
        engine = OpenVinoEngine(cache.unpack(data), prepared.crop)
    except ValueError as error:
        name = index.manifest.files["model"].name
        raise IndexCorruptError(name, f"as a quantized model, {error}") from error
    loaded = _of_manifest(index.manifest, prepared, engine)
    return replace(loaded, precision="int8", quantized=data, cost=index.manifest.cost)


def _of_manifest(manifest: Manifest, prepared: Preprocess, engine: Engine) -> LoadedModel:
    return LoadedModel(
        model=manifest.model,
        weights=manifest.weights,
        weights_sha256=manifest.weights_sha256,
        weights_source=manifest.weights_source,
        preprocess=prepared,
        dim=engine.dim if isinstance(engine, OpenVinoEngine) else manifest.model_dim,
        engine=engine,
    )


# A model that was exported: where neither torch nor the weights are.


def exported(file: Path, manifest: Manifest, running: Running) -> LoadedModel:
    """Open an index' model from an ONNX file that `models export` wrote of it.

    What the file states of its origin is compared with the manifest, and what it gives here with
    what torch gave when it was written.

    Raises:
        NotFoundError, InputError: there is no such file, or it is none that can be run here.
        ModelMismatchError: it was exported from another model or other weights.
        MissingPackageError: no engine for it is installed.
    """
    shown = printable(str(file))
    data = onnx_models.read(str(file))
    if running.device not in {"auto", "cpu"}:
        raise InputError("ONNX models run on the CPU here: leave --device out")
    wanted = engines.candidates(running.engine, running.device)
    if running.engine == "torch":
        raise InputError(f"{shown} is no model of torch's: leave --engine out")
    names = [name for name in wanted if name != "torch"]
    if not names:
        raise MissingPackageError("openvino", "openvino", f"the model {shown}")
    for name in names[:-1]:
        with contextlib.suppress(InputError):
            return _exported_by(name, data, shown, manifest)
    return _exported_by(names[-1], data, shown, manifest)


def _exported_by(name: str, data: bytes, shown: str, manifest: Manifest) -> LoadedModel:
    session = open_session(data, shown) if name == "onnx" else None
    facts = (
        onnx_metadata(data, shown)
        if session is None
        else dict(session.get_modelmeta().custom_metadata_map)
    )
    stated = onnx_models.stated(facts, shown)
    if stated is None or stated.model != manifest.model:
        raise ModelMismatchError(
            f"{shown} is no export of {printable(manifest.model)}, which made the index: write one "
            "with `imgsearch models export`"
        )
    if stated.weights_sha256 != manifest.weights_sha256:
        raise ModelMismatchError(
            f"{shown} was exported from other weights than those that made the index (their sha256 "
            f"begins with {stated.weights_sha256[:8]}, the index states "
            f"{manifest.weights_sha256[:8]}): export those, or build the index anew"
        )
    prepared = stated.preprocess
    import numpy as np

    try:
        engine: Engine
        if session is None:
            engine = OpenVinoEngine(from_onnx(data, prepared), prepared.crop)
        else:
            engine = OnnxEngine(session, prepared)
        # One at a time, as a query comes.
        pictures = made_pictures(prepared.crop)
        check_same(stated.vectors, np.concatenate([engine.embed(one[None]) for one in pictures]))
    except Exception as error:  # engines' errors have no common base but this
        said = printable(" ".join(str(error).split())).rstrip(".")[:160]
        raise InputError(f"{shown} cannot be run by the engine {name} ({said})") from error
    return replace(_of_manifest(manifest, prepared, engine), dim=stated.vectors.shape[1])
