"""Near-duplicates: the same picture again, whatever was done to it on the way.

Three signs. **Content**: both files have the same sum. **Score**: the cosine is so high that no
more is needed. **Picture**: it is not, but reaches a lower cut, and their perceptual hashes
(imagehash's pHash, 64 bits) differ in few bits; each is hashed whole, with up to a tenth of it cut
away, and mirrored, so that a copy that was cropped or turned round is met, too. With the lower cut
strangers whose hashes are alike by chance stay apart, and nothing is opened in vain.

How alike strangers are depends on the pictures: rooms differ, the cells of a solar panel hardly do.
`Duplicates.adjust` draws the cuts by pairs of which it is known that they are strangers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from imgsearch.decoding import Glance
from imgsearch.errors import InputError
from imgsearch.places import source_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    import numpy.typing as npt

    from imgsearch.decoding import DecoderPool

Sign = Literal["content", "score", "picture", "mirrored"]
SIGNS: tuple[Sign, ...] = get_args(Sign)

HASH_BITS = 64
# Of strangers in sets of photos (764,000 pairs of rooms) none had a higher score than 0.85, and one
# in 700,000 a score above 0.6 and 10 bits; of copies that were cropped by up to a tenth, encoded
# anew, halved or mirrored all were within 6 bits, of those brightened by half 98% within 10.
_SCORE, _LOOK, _BITS = 0.9, 0.6, 10
# What may be cut away at the left, top, right and bottom before a picture is hashed.
_CUT = 0.05
_MARGINS = (
    (0, 0, 0, 0),
    (_CUT / 2, _CUT / 2, _CUT / 2, _CUT / 2),
    (_CUT, _CUT, _CUT, _CUT),
    (_CUT, _CUT, 0, 0),
    (_CUT, 0, 0, _CUT),
    (0, _CUT, _CUT, 0),
    (0, 0, _CUT, _CUT),
)
# Pixels that pHash takes, and twice as many, so that enough are left where some are cut away.
_HASH_SIDE, _SIDE = 32, 64
# Cuts are drawn so that of strangers at most this share passes.
FALSE_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Cuts:
    """What makes two pictures near-duplicates, beside the same sum.

    A score of at least `score`; or a score of at least `look` and hashes that differ in at most
    `bits` of 64 bits (-1: pictures are not compared).

    Raises:
        InputError: a cut is no number, or bits are not -1 to 64.
    """

    score: float = _SCORE
    look: float = _LOOK
    bits: int = _BITS

    def __post_init__(self) -> None:
        """Refuse cuts that nothing can be held against."""
        # A score may pass 1 by a rounding, and a cut that nothing reaches is one, too.
        if not (-2 <= self.score <= 2 and -2 <= self.look <= 2):  # noqa: PLR2004 - false for nan
            raise InputError("a cut on the score must be a number from -1 to 1")
        if not -1 <= self.bits <= HASH_BITS:
            raise InputError(f"a cut on the hash must be -1 (none) to {HASH_BITS} bits")

    @property
    def lowest(self) -> float:
        """No pair with a lower score is a near-duplicate."""
        return self.score if self.bits < 0 else min(self.score, self.look)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Side:
    """One picture of a pair: where its `file` lies, and its sum (hex); None where not known."""

    file: str | None
    sha256: str | None = None


Pair = tuple[Side, Side, float]  # two pictures and their score


@dataclass(frozen=True, slots=True)
class Print:
    """The fingerprint of a picture.

    `sha256` (hex) is that of its file; `hashes` are 64 bits each, of the picture whole and then
    cut in several ways, and after these of its mirror image in the same ways.
    """

    sha256: str
    hashes: tuple[int, ...]


class Duplicates:
    """Tells near-duplicates from pictures that are only alike; keeps what it has seen of each.

    Args:
        pool: called for the processes that open pictures, when the first one must be opened.
        cuts: what counts as a near-duplicate.
    """

    def __init__(self, pool: Callable[[], DecoderPool], cuts: Cuts | None = None) -> None:
        """Nothing is opened yet."""
        self.cuts = cuts or Cuts()
        self._pool = pool
        self._prints: dict[str, Print | None] = {}

    @property
    def opened(self) -> int:
        """How many pictures were looked at."""
        return sum(one is not None for one in self._prints.values())

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Files that should have been looked at and could not: moved, changed or never there."""
        return tuple(file for file, one in self._prints.items() if one is None)

    def signs(self, pairs: Sequence[Pair]) -> list[Sign | None]:
        """Say of each pair of pictures why it is a near-duplicate.

        A picture that cannot be opened is compared by sum and score alone.

        Returns:
            The first sign that is met, in the order of `Sign`; None for no near-duplicate.
        """
        self._look(side for pair in pairs if self._must_look(*pair) for side in pair[:2])
        return [self._sign(*pair) for pair in pairs]

    def adjust(self, strangers: Sequence[Pair], *, score: bool = True, bits: bool = True) -> None:
        """Tighten the cuts until at most a hundredth of these pairs would pass each of them.

        Args:
            strangers: for each of some pictures the most similar one that is known to be another:
                of another class.
            score: whether the cut on the score may be raised.
            bits: whether the cut on the hash may be lowered.
        """
        spare = int(FALSE_SHARE * len(strangers))  # so many may pass
        scores = sorted((pair[2] for pair in strangers), reverse=True)
        if score and len(scores) > spare and scores[spare] >= self.cuts.score:
            # The next number above: what has exactly this score must not pass.
            self.cuts = replace(self.cuts, score=_above(scores[spare]))
        if not bits or self.cuts.bits < 0:
            return
        close = [pair for pair in strangers if pair[2] >= self.cuts.look]
        self._look(side for pair in close for side in pair[:2])
        found = [self.distance(*pair[:2]) for pair in close]
        distances = sorted(pair[0] for pair in found if pair is not None)
        if len(distances) > spare:
            self.cuts = replace(self.cuts, bits=min(self.cuts.bits, distances[spare] - 1))

    def distance(self, one: Side, other: Side) -> tuple[int, bool] | None:
        """Return in how many bits the hashes of two pictures that were opened differ.

        The lowest number over the whole of either and all forms of the other; with it whether that
        form was mirrored. None where one of them was not or could not be opened.
        """
        first, second = self._print(one), self._print(other)
        if first is None or second is None:
            return None
        straight, mirrored = (
            min(
                _differ(first.hashes, second.hashes, its), _differ(second.hashes, first.hashes, its)
            )
            for its in (slice(None, len(_MARGINS)), slice(len(_MARGINS), None))
        )
        return min(straight, mirrored), mirrored < straight

    def _must_look(self, one: Side, other: Side, score: float) -> bool:
        if score < self.cuts.lowest or _same(one.sha256, other.sha256):
            return False
        # A sum that nobody knows is worth a look: the files may be the same.
        unknown = one.sha256 is None or other.sha256 is None
        return unknown or (score < self.cuts.score and self.cuts.bits >= 0)

    def _sign(self, one: Side, other: Side, score: float) -> Sign | None:
        if score < self.cuts.lowest:
            return None
        if _same(self._sum(one), self._sum(other)):
            return "content"
        if score >= self.cuts.score:
            return "score"
        found = self.distance(one, other)
        if found is None or found[0] > self.cuts.bits:
            return None
        return "mirrored" if found[1] else "picture"

    def _print(self, side: Side) -> Print | None:
        return None if side.file is None else self._prints.get(side.file)

    def _sum(self, side: Side) -> str | None:
        seen = self._print(side)
        return side.sha256 if seen is None or side.sha256 is not None else seen.sha256

    def _look(self, sides: Iterable[Side]) -> None:
        """Open the pictures that were not opened yet."""
        files = dict.fromkeys(side.file for side in sides if side.file is not None)
        new = [file for file in files if file not in self._prints]
        if not new:
            return
        glances = self._pool().glances(map(source_of, new), _SIDE, _SIDE)
        for file, glance in zip(new, glances, strict=True):
            self._prints[file] = fingerprint(glance) if isinstance(glance, Glance) else None


def fingerprint(glance: Glance) -> Print:
    """Hash a picture that was brought to 64 x 64 pixels, in all its forms."""
    from PIL import Image, ImageOps

    whole = Image.fromarray(glance.pixels).convert("L")
    hashes = tuple(
        _phash(image, margins) for image in (whole, ImageOps.mirror(whole)) for margins in _MARGINS
    )
    return Print(glance.sha256, hashes)


def _phash(image: Any, margins: tuple[float, float, float, float]) -> int:  # noqa: ANN401 - Pillow's
    import imagehash
    import numpy as np
    from PIL import Image

    left, top, right, bottom = (_SIDE * margin for margin in margins)
    box = (left, top, _SIDE - right, _SIDE - bottom)
    small = image.resize((_HASH_SIDE, _HASH_SIDE), Image.Resampling.LANCZOS, box=box)
    bits: npt.NDArray[np.bool_] = imagehash.phash(small).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _differ(one: tuple[int, ...], other: tuple[int, ...], forms: slice) -> int:
    """Hold the whole of each of two pictures against some forms of the other."""
    either = min((one[0] ^ form).bit_count() for form in other[forms])
    return min(either, *((other[0] ^ form).bit_count() for form in one[forms]))


def _above(score: float) -> float:
    import numpy as np

    return float(np.nextafter(np.float32(score), np.float32(np.inf)))


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and one == other
