"""OpenVINO runs what was converted for it, on a processor.

A model is OpenVINO's two files, model.xml and model.bin, in bytes. It takes one uint8 picture
(1, crop, crop, 3), and turning that into the network's numbers is its first step. A network with a
batch of one gives a picture the same bits in whatever company it comes; several pictures at once
keep all cores busy, a core each.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading
from typing import TYPE_CHECKING, Any

from imgsearch.engines import allowed_threads, quiet
from imgsearch.engines.torch_engine import plain_copy
from imgsearch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imgsearch.cache import Parts
    from imgsearch.records import Preprocess

_XML, _BIN = "model.xml", "model.bin"
_COLOURS = 3


class OpenVinoEngine:
    """A converted model."""

    name = "openvino"
    device = "cpu"
    # Where one call comes to its last pictures there is not a picture for each core.
    calls = 2

    def __init__(self, parts: Parts, side: int) -> None:
        """Open a model that takes pictures of side x side pixels; ValueError where it is none."""
        openvino = _openvino()
        self.version = str(openvino.__version__).split("-", maxsplit=1)[0]
        self.parts = parts
        self._openvino = openvino
        self._core = openvino.Core()
        self._model = read_model(self._core, parts)
        shapes = [
            [list(port.partial_shape.get_max_shape()) for port in ports]
            for ports in (self._model.inputs, self._model.outputs)
        ]
        if shapes[0] != [[1, side, side, _COLOURS]] or [len(out) for out in shapes[1]] != [2]:
            raise ValueError(f"it does not turn {side} x {side} pixels into a vector")
        self.dim = int(shapes[1][0][1])
        # Compiled when first wanted: one picture soon, and many in little time.
        self._single: Any = None
        self._many: Any = None
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See Engine."""
        import numpy as np

        out = np.empty((len(pixels), self.dim), np.float32)
        if len(pixels) == 1:
            out[0] = self._request().infer({0: pixels}, share_inputs=True)[0][0]
            return out

        def keep(request: Any, place: int) -> None:  # noqa: ANN401 - no types
            out[place] = request.get_output_tensor(0).data[0]

        requests = self._requests()
        requests.set_callback(keep)
        for place in range(len(pixels)):
            requests.start_async({0: pixels[place : place + 1]}, place)
        requests.wait_all()
        self._idle.append(requests)
        return out

    def _requests(self) -> Any:  # noqa: ANN401 - no types
        """Return a queue of requests, which has one callback and so belongs to one call."""
        with self._lock:
            if self._many is None:
                self._many = self._compile("THROUGHPUT")
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        return self._openvino.AsyncInferQueue(self._many)

    def _request(self) -> Any:  # noqa: ANN401 - no types
        with self._lock:
            if self._single is None:
                self._single = self._compile("LATENCY")
        return self._single.create_infer_request()

    def _compile(self, hint: str) -> Any:  # noqa: ANN401 - no types
        # f32: on processors with short floats it would take those.
        settings = {"PERFORMANCE_HINT": hint, "INFERENCE_PRECISION_HINT": "f32"}
        if (threads := allowed_threads()) is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
            # Whoever has a part of the cores is not alone: two such processes would both hold their
            # threads to the first of them.
            settings["ENABLE_CPU_PINNING"] = "NO"
        return self._core.compile_model(self._model, "CPU", settings)


def _openvino() -> Any:  # noqa: ANN401 - no types
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    with quiet():
        return importlib.import_module("openvino")


def read_model(core: Any, parts: Parts) -> Any:  # noqa: ANN401 - no types
    """Read a model from its two files; raises ValueError where they are none."""
    import numpy as np

    openvino = _openvino()
    try:
        weights = openvino.Tensor(np.frombuffer(parts[_BIN], np.uint8))
        return core.read_model(parts[_XML], weights)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError("it is no model of OpenVINO's") from error


def parts_of(model: Any) -> Parts:  # noqa: ANN401 - no types
    """Return a model's two files."""
    import tempfile
    from pathlib import Path

    openvino = _openvino()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / _XML
        openvino.save_model(model, place, compress_to_fp16=False)
        return {name: (Path(folder) / name).read_bytes() for name in (_XML, _BIN)}


def from_torch(network: Any, preprocess: Preprocess) -> Parts:  # noqa: ANN401 - a torch module
    """Convert a torch module through torch.export; whatever goes wrong is raised as it comes."""
    import torch

    side = preprocess.crop
    with quiet():
        program = torch.export.export(plain_copy(network), (torch.zeros(1, _COLOURS, side, side),))
        openvino = _openvino()
        return parts_of(_with_pictures(openvino.convert_model(program), preprocess))


def from_onnx(data: bytes, preprocess: Preprocess) -> Parts:
    """Convert the content of an ONNX file; whatever goes wrong is raised as it comes."""
    import io

    side = preprocess.crop
    with quiet():
        model = _openvino().Core().read_model(io.BytesIO(data))
        model.reshape([1, _COLOURS, side, side])
        return parts_of(_with_pictures(model, preprocess))


def onnx_metadata(data: bytes, shown: str) -> dict[str, str]:
    """Return what the content of an ONNX file states of itself.

    Args:
        data: the whole file.
        shown: what to call it in an error.

    Raises:
        InputError: it is no model that can be run here.
    """
    import io

    try:
        with quiet():
            model = _openvino().Core().read_model(io.BytesIO(data))
    except Exception as error:  # OpenVINO's errors have no common base but this
        raise InputError(f"{shown} is no ONNX model that can be run here") from error
    if not model.has_rt_info(["framework"]):
        return {}
    return {str(name): str(text) for name, text in model.get_rt_info(["framework"]).value.items()}


def _with_pictures(model: Any, preprocess: Preprocess) -> Any:  # noqa: ANN401 - no types
    """Put in front of a network what makes its numbers of a picture."""
    openvino = _openvino()
    from openvino.preprocess import PrePostProcessor

    side = preprocess.crop
    builder = PrePostProcessor(model)
    given = builder.input(0)
    given.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    given.tensor().set_shape([1, side, side, _COLOURS])
    given.model().set_layout(openvino.Layout("NCHW"))
    steps = given.preprocess().convert_element_type(openvino.Type.f32)
    steps.mean([255 * value for value in preprocess.mean])
    steps.scale([255 * value for value in preprocess.std])
    return builder.build()
