"""int8: a model in 8-bit numbers, made with the user's own pictures, and what that costs.

Weights and activations are rounded to 8 bits by nncf, whose ranges come from a sample of the base
set (post-training quantization). What the rounding does to the embeddings is measured on pictures
that had no part in it; a model that loses too much is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imgsearch import cache, converting
from imgsearch.engines import quiet
from imgsearch.engines.openvino_engine import OpenVinoEngine, parts_of, read_model
from imgsearch.errors import ImageDecodeError, InputError, MissingPackageError
from imgsearch.metrics import spread
from imgsearch.records import QuantizationCost
from imgsearch.text import count, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from imgsearch.cache import Parts
    from imgsearch.decoding import DecoderPool, Source
    from imgsearch.engines import LoadedModel
    from imgsearch.records import Preprocess

    Pixels = npt.NDArray[np.uint8]
    Vectors = npt.NDArray[np.float32]

_RECIPE = 1  # raised when what a quantization gives changes here
# Of the sample two thirds calibrate and one third is kept out.
SAMPLE = 192
_OF, _KEPT_OUT = 3, 1
# With fewer the cost would be a guess.
_FEWEST = 24
_TOP = 10
# The floors. Of eight ways to quantize one network those with a mean cosine of at most 0.985 (and
# an agreement of at most 0.86) moved precision@5 by up to 0.032, those of at least 0.988 (and 0.88)
# by 0.01 or less, one more exact way excepted: docs/models.md. The lowest cosine is shown and not
# judged: it is that of one odd picture.
LEAST_MEAN_COSINE = 0.987
LEAST_AGREEMENT = 0.87
# The first layers see the picture itself: their rounding is what all others build on, and they are
# a few hundredths of the work. They stay as they are.
_KEPT_LAYERS = 3
_CONVOLUTIONS = {"Convolution", "GroupConvolution"}
_COST_FILE = "cost.json"


def check_packages() -> None:
    """Raise MissingPackageError where int8 models cannot be made here."""
    for package in ("openvino", "nncf"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, "int8", "--precision int8")


def quantize(loaded: LoadedModel, sources: Sequence[Source], pool: DecoderPool) -> LoadedModel:
    """Make the int8 model of a loaded one, or read the one made of the same pictures before.

    Args:
        loaded: an fp32 model, run by any engine.
        sources: the pictures of the base set, in their order; a spread sample of them is opened.
        pool: who opens them.

    Returns:
        The model in int8, with its file and its cost.

    Raises:
        InputError: there are too few pictures, the network cannot be converted or quantized, or
            the cost is too high.
        MissingPackageError: openvino or nncf is not installed.
        WriteError: the model cannot be kept in the cache.
    """
    check_packages()
    fp32 = converting.run_by(loaded, "openvino", "cpu")
    pixels = _decoded(sources, loaded.preprocess, pool)
    if len(pixels) < _FEWEST:
        raise InputError(
            f"--precision int8 is calibrated and measured on the base set, which needs at least "
            f"{_FEWEST} pictures that can be used and has {count(len(pixels), 'picture')}: leave "
            "--precision out"
        )
    kept_out = [i for i in range(len(pixels)) if i % _OF == _KEPT_OUT]
    calibration = [i for i in range(len(pixels)) if i % _OF != _KEPT_OUT]
    total = hashlib.sha256(pixels[calibration].tobytes()).hexdigest()
    parts = cache.fetch(
        _stem(loaded, total, hashlib.sha256(pixels[kept_out].tobytes()).hexdigest()),
        lambda: _made(fp32, pixels, calibration, kept_out, total),
    )
    cost = QuantizationCost(**json.loads(parts[_COST_FILE]))
    _refuse(loaded, cost)
    model = {name: data for name, data in parts.items() if name != _COST_FILE}
    engine = OpenVinoEngine(model, loaded.preprocess.crop)
    return replace(fp32, engine=engine, precision="int8", quantized=cache.pack(model), cost=cost)


def _decoded(sources: Sequence[Source], preprocess: Preprocess, pool: DecoderPool) -> Pixels:
    import numpy as np

    size = min(SAMPLE, len(sources))
    # Pictures of a class lie side by side: even steps meet each class by its size.
    chosen = [sources[place] for place in spread(len(sources), size)]
    found = pool.inputs(chosen, preprocess, 2 * pool.workers)
    good = [decoded.pixels for decoded in found if not isinstance(decoded, ImageDecodeError)]
    return np.stack(good) if good else np.empty((0, 0, 0, 3), np.uint8)


def _stem(loaded: LoadedModel, calibration: str, kept_out: str) -> str:
    facts = {
        "recipe": _RECIPE,
        "model": "onnx" if loaded.model.startswith("onnx:") else loaded.model,
        "preprocessing": loaded.preprocess.to_dict(),
        "calibration": calibration,
        "kept out": kept_out,
        "versions": converting.versions("openvino", "nncf"),
    }
    return cache.stem("openvino-int8", loaded.weights_sha256, facts)


def _made(
    fp32: LoadedModel, pixels: Pixels, calibration: list[int], kept_out: list[int], total: str
) -> Parts:
    wanted = fp32.engine
    if not isinstance(wanted, OpenVinoEngine):
        raise InputError(f"{printable(fp32.model)} cannot be run by the engine openvino")
    try:
        parts = _quantized(wanted.parts, pixels[calibration])
        given = OpenVinoEngine(parts, fp32.preprocess.crop)
    except Exception as error:  # nncf's errors have no common base but this
        said = printable(" ".join(str(error).split())).rstrip(".")[:160]
        raise InputError(
            f"{printable(fp32.model)} cannot be quantized ({said}): leave --precision out"
        ) from error
    cost = measure(wanted.embed(pixels), given.embed(pixels), kept_out, total)
    return {**parts, _COST_FILE: json.dumps(cost.to_dict()).encode()}


def _quantized(parts: Parts, pixels: Pixels) -> Parts:
    with quiet():
        import nncf
        import openvino

        model = read_model(openvino.Core(), parts)
        layers = [
            node.get_friendly_name()
            for node in model.get_ordered_ops()
            if node.get_type_name() in _CONVOLUTIONS
        ]
        quantized = nncf.quantize(
            model,
            nncf.Dataset([picture[None] for picture in pixels]),
            subset_size=len(pixels),
            # Symmetric weights, asymmetric activations: more exact, no slower here.
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=layers[:_KEPT_LAYERS]),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                # Weights of 7 bits. With 8 the sums of processors without VNNI run over, and the
                # same model would give other vectors on another machine.
                overflow_fix=nncf.OverflowFix.ENABLE
            ),
        )
        return parts_of(quantized)


def measure(
    wanted: Vectors, given: Vectors, kept_out: list[int], calibration_sha256: str
) -> QuantizationCost:
    """Compare the embeddings of a sample by two models.

    Args:
        wanted: fp32's, (n, dim).
        given: int8's, (n, dim).
        kept_out: which rows had no part in the calibration; only these are judged, each by its
            cosine and by its nearest neighbours among all n.
        calibration_sha256: goes into the result.
    """
    import numpy as np

    def unit(rows: Any) -> npt.NDArray[np.float64]:  # noqa: ANN401 - numbers of any kind
        rows = np.asarray(rows, np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.where(lengths > 0, lengths, 1))

    one, other = unit(wanted), unit(given)
    cosines = np.einsum("ij,ij->i", one[kept_out], other[kept_out])
    top = min(_TOP, len(one) - 1)
    nearest = []
    for rows in (one, other):
        scores = rows[kept_out] @ rows.T
        scores[np.arange(len(kept_out)), kept_out] = -np.inf
        nearest.append(np.argsort(-scores, axis=1, kind="stable")[:, :top])
    common = [len(set(a) & set(b)) / top for a, b in zip(*nearest, strict=True)]
    return QuantizationCost(
        calibrated_on=len(one) - len(kept_out),
        calibration_sha256=calibration_sha256,
        measured_on=len(kept_out),
        mean_cosine=float(cosines.mean()),
        lowest_cosine=float(cosines.min()),
        top=top,
        top_agreement=float(np.mean(common)),
    )


def _refuse(loaded: LoadedModel, cost: QuantizationCost) -> None:
    if cost.mean_cosine >= LEAST_MEAN_COSINE and cost.top_agreement >= LEAST_AGREEMENT:
        return
    raise InputError(
        f"{printable(loaded.model)} loses too much in int8: on {count(cost.measured_on, 'picture')}"
        f" kept out of calibration the mean cosine to fp32 is {cost.mean_cosine:.4f} (at least "
        f"{LEAST_MEAN_COSINE} is wanted) and the nearest {cost.top} agree by "
        f"{cost.top_agreement:.0%} (at least {LEAST_AGREEMENT:.0%}): leave --precision out"
    )
