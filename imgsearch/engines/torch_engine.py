"""torch runs a module as it is: on a processor, on CUDA and on MPS."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from imgsearch.engines import DEVICES
from imgsearch.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from imgsearch.records import Preprocess

# A batch of one takes other kernels in torch than larger ones and its last bits differ; two or
# more give the same bits for a picture wherever it stands. So a lone picture is run twice.
_LEAST_BATCH = 2


class TorchEngine:
    """A torch module that maps (n, 3, crop, crop) to (n, dim)."""

    name = "torch"
    calls = 1

    def __init__(self, module: Any, preprocess: Preprocess, device: str = "auto") -> None:  # noqa: ANN401 - torch is imported late
        """Move the module to the device: the best there is, for "auto"."""
        import torch

        self._torch = torch
        self.version = str(torch.__version__)
        self.device = torch_device(device)
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


def plain_copy(module: Any) -> Any:  # noqa: ANN401 - torch is imported late
    """Copy a module for a conversion: its engine keeps its own memory layout and device."""
    import torch

    return copy.deepcopy(module).to("cpu", memory_format=torch.contiguous_format).eval()


def torch_device(device: str) -> str:
    """Return the device that is meant: for "auto" the best there is; raises InputError."""
    import torch

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
