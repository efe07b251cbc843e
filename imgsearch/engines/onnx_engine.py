"""ONNX Runtime runs an ONNX file as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsearch.engines import allowed_threads
from imgsearch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imgsearch.records import Preprocess

# A batch of one may take other kernels than larger ones, with other last bits: see torch_engine.
_LEAST_BATCH = 2
_EXTERNAL_WEIGHTS = "session.model_external_initializers_file_folder_path"


class OnnxEngine:
    """An ONNX file run by ONNX Runtime: one input (n, 3, crop, crop), embeddings as output."""

    name = "onnx"
    calls = 1
    device = "cpu"

    def __init__(self, session: Any, preprocess: Preprocess, data: bytes = b"") -> None:  # noqa: ANN401 - no types
        """Keep an onnxruntime.InferenceSession; `open_session` makes one, of `data`."""
        import numpy as np
        import onnxruntime

        self.version = str(onnxruntime.__version__)
        self.data = data
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
    if (threads := allowed_threads()) is not None:
        options.intra_op_num_threads = threads
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
