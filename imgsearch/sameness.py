"""Whether two engines give the same vectors: made pictures that they are compared on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SAME = 1e-4  # the largest difference of a unit vector's number between two engines
_TRIES = 4


def made_pictures(side: int) -> npt.NDArray[np.uint8]:
    """Return pictures, uint8 (4, side, side, 3): the same everywhere."""
    import numpy as np

    # Noise of every size, from single pixels to the whole picture, as photos have it.
    generator = np.random.default_rng(0)
    pictures = np.zeros((_TRIES, side, side, 3))
    for grain in (side, *(max(1, side // part) for part in (2, 5, 16))):
        cells = generator.uniform(0, 64, (_TRIES, -(-side // grain), -(-side // grain), 3))
        pictures += cells.repeat(grain, 1).repeat(grain, 2)[:, :side, :side]
    return pictures.astype(np.uint8)


def check_same(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> None:
    """Raise ValueError where two engines' embeddings (n, dim) are not the same unit vectors."""
    import numpy as np

    if one.shape != other.shape:
        raise ValueError(f"it gives {other.shape} numbers instead of {one.shape}")
    with np.errstate(all="ignore"):  # a vector without direction is no number below
        units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (one, other)]
        difference = float(np.abs(units[0] - units[1]).max())
    if not difference <= SAME:
        raise ValueError(f"its unit vectors differ by {difference:.1e}")
