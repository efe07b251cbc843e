"""Run a network: uint8 pictures in, raw embeddings out. One file an engine.

A network comes as a torch module or as an ONNX file, and the engine of that form runs it as it is.
Another engine runs a conversion, which is made once and kept (see cache.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from imgsearch.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import numpy.typing as npt

    from imgsearch.records import Precision, Preprocess, QuantizationCost

DEVICES = ("auto", "cpu", "cuda", "mps")
# What runs a network in this engine, what makes a conversion for it, and the extra with both.
_RUNS = {"torch": ("torch",), "openvino": ("openvino",), "onnx": ("onnxruntime",)}
_CONVERTS = {"torch": (), "openvino": ("openvino",), "onnx": ("onnx", "onnxscript")}
_EXTRAS = {"torch": None, "openvino": "openvino", "onnx": "onnx"}
ENGINES = ("auto", *_RUNS)
# On a processor, best first: docs/models.md has the figures.
_BEST = ("openvino", "onnx", "torch")
_TELEMETRY = "openvino_telemetry"


class Engine(Protocol):
    """Runs one network. `name` and `version` stand in the manifest.

    A picture's numbers are the same to the last bit in whatever company it comes. So many calls of
    `embed` at once as `calls` says keep the machine busy, each from a thread of its own; more may
    be made.
    """

    name: str
    version: str
    device: str
    calls: int

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed pictures.

        Args:
            pixels: uint8 (n, crop, crop, 3), RGB.

        Returns:
            float32 (n, dim), not normalized.
        """


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to embed, and what identifies it.

    `weights` names them so that they can be asked for again. `weights_sha256` is over the whole
    weights file (over all tensors where there is no file). `weights_source` is the absolute path
    of a file that the user gave, None for published weights. `network` is the torch module without
    its last layer, None where there is none. `quantized` is the model file of an int8 model, and
    `cost` what its rounding cost when it was made; both None for fp32.
    """

    model: str
    weights: str
    weights_sha256: str
    weights_source: str | None
    preprocess: Preprocess
    dim: int
    engine: Engine
    network: Any = None
    precision: Precision = "fp32"
    quantized: bytes | None = None
    cost: QuantizationCost | None = None


def check(engine: str) -> None:
    """Raise where there is no such engine (InputError) or it is not installed (MissingPackage)."""
    if engine not in ENGINES:
        raise InputError(f"there is no engine '{engine}'; choose one of: {', '.join(ENGINES)}")
    for package in missing(engine):
        raise MissingPackageError(package, _EXTRAS[engine], f"the engine {engine}")


def missing(engine: str, *, converting: bool = False) -> list[str]:
    """Return the packages that an engine wants and that are not installed."""
    wanted = (*_RUNS.get(engine, ()), *(_CONVERTS.get(engine, ()) if converting else ()))
    return [package for package in wanted if importlib.util.find_spec(package) is None]


def candidates(engine: str, device: str) -> list[str]:
    """Return the engines that may run a network that is asked for so, best first.

    Raises:
        InputError: there is no such engine, or it does not run on that device.
        MissingPackageError: the one that is asked for is not installed.
    """
    check(engine)
    on_processor = device in {"auto", "cpu"}
    if engine not in {"auto", "torch"} and not on_processor:
        raise InputError(f"the engine {engine} runs on the CPU here: leave --device out")
    if engine != "auto":
        return [engine]
    best = _BEST if on_processor else ("torch",)
    return [name for name in best if not missing(name)]


def describe() -> list[dict[str, Any]]:
    """Tell of every engine, best first: whether it is here or what brings it; imports none."""
    rows = []
    for name in _BEST:
        lacking = missing(name)
        extra = _EXTRAS[name] if lacking else None
        install = None if extra is None else f"pip install 'imgsearch-faiss[{extra}]'"
        rows.append({"name": name, "available": not lacking, "install": install})
    return rows


def allowed_threads() -> int | None:
    """Return how many threads the environment allows a network, None where it says nothing.

    Torch goes by the same variable itself, and Ray sets it for its processes.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdecimal() and int(said[:6]) > 0 else None


def pack(loaded: LoadedModel) -> tuple[str, Any]:
    """Return the name of a model's engine and what `unpack` needs to run it in another process."""
    from imgsearch.engines.torch_engine import plain_copy

    engine: Any = loaded.engine
    if engine.name == "torch":
        return "torch", plain_copy(loaded.network)
    return engine.name, engine.parts if engine.name == "openvino" else engine.data


def unpack(name: str, payload: Any, preprocess: Preprocess, device: str) -> Engine:  # noqa: ANN401 - of many kinds
    """Make the engine again that `pack` was given, on a device."""
    if name == "openvino":
        from imgsearch.engines.openvino_engine import OpenVinoEngine

        return OpenVinoEngine(payload, preprocess.crop)
    if name == "onnx":
        from imgsearch.engines.onnx_engine import OnnxEngine, open_session

        return OnnxEngine(open_session(payload, "the model"), preprocess, payload)
    from imgsearch.engines.torch_engine import TorchEngine

    return TorchEngine(payload, preprocess, device)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what converters say of their own insides away from everybody, and from their makers.

    OpenVINO and nncf report each import and each conversion to their makers over the network,
    unless the package that does so is missing: it is, as far as they see.
    """
    before = logging.root.manager.disable
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's mark of absence
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)
            if hidden:
                sys.modules.pop(_TELEMETRY, None)
