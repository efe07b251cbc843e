"""Run a network: uint8 pictures in, raw embeddings out. One class an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from imgsearch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imgsearch.records import Preprocess

DEVICES = ("auto", "cpu", "cuda", "mps")
# A batch of one takes other kernels in torch than larger ones and its last bits differ; two or
# more give the same bits for a picture wherever it stands. So a lone picture is run twice.
_LEAST_BATCH = 2
_EXTERNAL_WEIGHTS = "session.model_external_initializers_file_folder_path"


class Engine(Protocol):
    """Runs one network. `name` and `version` stand in the manifest."""

    name: str
    version: str
    device: str

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
    its last layer, None where there is none.
    """

    model: str
    weights: str
    weights_sha256: str
    weights_source: str | None
    preprocess: Preprocess
    dim: int
    engine: Engine
    network: Any = None


class TorchEngine:
    """A torch module that maps (n, 3, crop, crop) to (n, dim)."""

    name = "torch"

    def __init__(self, module: Any, preprocess: Preprocess, device: str = "auto") -> None:  # noqa: ANN401 - torch is imported late
        """Move the module to the device: the best there is, for "auto"."""
        import torch

        self._torch = torch
        self.version = str(torch.__version__)
        self.device = _torch_device(torch, device)
        self._module = module.eval().to(self.device, memory_format=torch.channels_last)
        self._mean = torch.tensor(preprocess.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess.std, device=self.device).view(1, 3, 1, 1)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See Engine."""
        torch = self._torch
        number = len(pixels)
        with torch.inference_mode():
            batch = torch.tensor(pixels, device=self.device)
            if number < _LEAST_BATCH:
                batch = batch.repeat(_LEAST_BATCH, 1, 1, 1)
            # The same steps as torchvision's transforms: to [0, 1], then mean and deviation.
            scaled = batch.permute(0, 3, 1, 2).to(torch.float32).div(255)
            scaled = scaled.sub(self._mean).div(self._std)
            # TF32, cuDNN's way of saving digits, would part a GPU's vectors from a CPU's.
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                out = self._module(scaled.contiguous(memory_format=torch.channels_last))
            vectors: npt.NDArray[np.float32] = out.float().cpu().numpy()[:number]
            return vectors


def _torch_device(torch: Any, device: str) -> str:  # noqa: ANN401 - torch is imported late
    there = {
        "cuda": bool(torch.cuda.is_available()),
        "mps": bool(torch.backends.mps.is_available()),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, is_there in there.items() if is_there)
    if device not in there:
        raise InputError(f"there is no device '{device}'; choose one of: {', '.join(DEVICES)}")
    if not there[device]:
        raise InputError(f"this machine has no {device} that torch can use; leave --device out")
    return device


class OnnxEngine:
    """An ONNX file run by ONNX Runtime: one input (n, 3, crop, crop), embeddings as output."""

    name = "onnx"
    device = "cpu"

    def __init__(self, session: Any, preprocess: Preprocess) -> None:  # noqa: ANN401 - no types
        """Keep an onnxruntime.InferenceSession; `open_session` makes one."""
        import numpy as np
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        self._session = session
        self._input = session.get_inputs()[0].name
        self._mean = np.array(preprocess.mean, np.float32).reshape(1, 3, 1, 1)
        self._std = np.array(preprocess.std, np.float32).reshape(1, 3, 1, 1)
        first = session.get_inputs()[0].shape[0]
        # A file made for a fixed batch is run with just that batch.
        self._fixed = first if isinstance(first, int) and first > 0 else None

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See Engine."""
        import numpy as np

        number = len(pixels)
        step = self._fixed or max(_LEAST_BATCH, number)
        parts = []
        for start in range(0, number, step):
            part = pixels[start : start + step]
            missing = step - len(part)
            if missing:
                part = np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
            scaled = part.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
            scaled = (scaled - self._mean) / self._std
            out = self._session.run(None, {self._input: np.ascontiguousarray(scaled)})[0]
            if out.dtype.kind != "f" or out.size != step * out.shape[1] or len(out) != step:
                raise ValueError(f"its output is {out.dtype} {out.shape}, not float ({step}, dim)")
            parts.append(out.reshape(step, -1)[: step - missing])
        vectors: npt.NDArray[np.float32] = np.concatenate(parts).astype(np.float32, copy=False)
        return vectors


def open_session(data: bytes, shown: str) -> Any:  # noqa: ANN401 - onnxruntime has no types
    """Open the content of an ONNX file with ONNX Runtime on the CPU.

    Args:
        data: the whole file, weights included.
        shown: what to call it in an error.

    Raises:
        InputError: it is no model that can be run here.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it has to say comes as an exception
    # Weights in a second file would escape the sum that identifies a model: there is no such place.
    options.add_session_config_entry(_EXTERNAL_WEIGHTS, "/dev/null")
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but this
        if "xternal data" in str(error):
            raise InputError(
                f"{shown} keeps its weights in a second file; write it anew with everything in "
                "one file, as onnx.save_model does"
            ) from error
        raise InputError(f"{shown} is no ONNX model that can be run here") from error
