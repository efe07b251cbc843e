"""Near-duplicates: copies of real photos are told from other photos, by the sign that fits."""

from __future__ import annotations

import hashlib
import io
import itertools
from typing import TYPE_CHECKING

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from imgsearch.decoding import DecoderPool, Glance, Source
from imgsearch.duplicates import Cuts, Duplicates, Side, fingerprint
from imgsearch.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIKELY = 0.7  # a score that two photos of one kind of room may have


def cropped(image: Image.Image, share: float) -> Image.Image:
    """Cut a share of each side away, half of it at either end."""
    width, height = (round(side * share / 2) for side in image.size)
    return image.crop((width, height, image.width - width, image.height - height))


COPIES: dict[str, tuple[Callable[[Image.Image], Image.Image], str]] = {
    "encoded anew": (lambda image: image, "picture"),
    "half as large": (lambda image: ImageOps.scale(image, 0.5), "picture"),
    "cropped by 5%": (lambda image: cropped(image, 0.05), "picture"),
    "cropped by 10%": (lambda image: cropped(image, 0.1), "picture"),
    "brightened": (lambda image: ImageEnhance.Brightness(image).enhance(1.25), "picture"),
    "grey": (ImageOps.grayscale, "picture"),
    "mirrored": (ImageOps.mirror, "mirrored"),
    "mirrored and cropped": (lambda image: ImageOps.mirror(cropped(image, 0.1)), "mirrored"),
}


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    """Share the decoders."""
    with DecoderPool(2) as running:
        yield running


@pytest.fixture(scope="module")
def files(small_photos: Path) -> list[Path]:
    """Return the small photos, sorted."""
    return sorted(small_photos.iterdir())


def refuse() -> DecoderPool:
    """Stand for decoders that must not be needed."""
    raise AssertionError("a picture was opened")


def side(file: Path) -> Side:
    """One side of a pair, its sum known."""
    return Side(str(file), hashlib.sha256(file.read_bytes()).hexdigest())


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_found(tmp_path: Path, files: list[Path], pool: DecoderPool, kind: str) -> None:
    """At least 95% of the copies of 39 photos are met by their hash, with the sign that is due."""
    change, sign = COPIES[kind]
    pairs = []
    for file in files:
        with Image.open(file) as image:
            change(image).convert("RGB").save(tmp_path / file.name, quality=75)
        pairs.append((side(file), side(tmp_path / file.name), LIKELY))
    found = Duplicates(lambda: pool).signs(pairs)
    assert found.count(sign) >= 0.95 * len(files), found


def test_other_photos_are_not(files: list[Path], pool: DecoderPool) -> None:
    """None of the 741 pairs of different photos is a near-duplicate at a score that rooms reach."""
    pairs = [(side(a), side(b), LIKELY) for i, a in enumerate(files) for b in files[:i]]
    assert set(Duplicates(lambda: pool).signs(pairs)) == {None}


def test_the_same_bytes_need_no_look() -> None:
    """Two files of one sum are the same picture, whether they can be opened or not."""
    one, other = Side("/nowhere/a.jpg", "ab" * 32), Side("/nowhere/b.jpg", "ab" * 32)
    assert Duplicates(refuse).signs([(one, other, 0.99999)]) == ["content"]


def test_sums_that_nobody_knows_are_looked_up(
    tmp_path: Path, files: list[Path], pool: DecoderPool
) -> None:
    """Of imported vectors no sum is known: the same bytes are found by opening both files."""
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(files[0].read_bytes())
    asked = [(Side(str(files[0])), Side(str(copy)), 1.0), (side(files[0]), Side(str(copy)), 1.0)]
    assert Duplicates(lambda: pool).signs(asked) == ["content", "content"]


def test_pictures_that_are_gone_leave_score_and_sum(files: list[Path], pool: DecoderPool) -> None:
    """A picture that cannot be opened is judged by its score alone, and is named."""
    gone = Side("/nowhere/gone.jpg", "cd" * 32)
    judge = Duplicates(lambda: pool, Cuts(score=0.9, look=0.5))
    pairs = [(side(files[0]), gone, score) for score in (0.89, 0.9)]
    assert judge.signs([*pairs, (Side(None), side(files[1]), 0.95)]) == [None, "score", "score"]
    assert judge.unreadable == ("/nowhere/gone.jpg",)
    assert judge.opened == 2


def test_only_likely_pairs_are_opened(files: list[Path]) -> None:
    """Below the lower cut nothing is opened, and without a cut on the hash nothing ever is."""
    pair = side(files[0]), side(files[1])
    assert Duplicates(refuse, Cuts(look=0.6)).signs([(*pair, 0.59)]) == [None]
    blind = Duplicates(refuse, Cuts(score=0.8, bits=-1))
    assert blind.signs([(*pair, 0.79), (*pair, 0.8)]) == [None, "score"]


def test_each_picture_is_opened_once(
    files: list[Path], pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that stands in many pairs, or is asked about again, is decoded once."""
    seen: list[str] = []
    glances = DecoderPool.glances

    def watched(self: DecoderPool, sources: Iterator[Source], width: int, height: int) -> object:
        listed = list(sources)
        seen.extend(source.name for source in listed)
        return glances(self, iter(listed), width, height)

    monkeypatch.setattr(DecoderPool, "glances", watched)
    judge = Duplicates(lambda: pool)
    pairs = [(side(files[0]), side(other), LIKELY) for other in files[1:4]]
    judge.signs([*pairs, *pairs])
    judge.signs(pairs)
    assert seen == [str(file) for file in files[:4]]


def test_hash_is_that_of_imagehash(files: list[Path]) -> None:
    """The hash of the whole picture is imagehash's own, but for what scaling twice may turn."""
    for file in files[:10]:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS))
            theirs = imagehash.phash(image).hash
            mirrored = imagehash.phash(ImageOps.mirror(image)).hash
        hashes = fingerprint(Glance(pixels, "00" * 32)).hashes
        for ours, due in ((hashes[0], theirs), (hashes[len(hashes) // 2], mirrored)):
            assert (ours ^ int.from_bytes(np.packbits(due).tobytes(), "big")).bit_count() <= 2


def test_glances_come_in_order(files: list[Path], pool: DecoderPool) -> None:
    """Pictures come small, in the order asked for, with the sum of their file; errors in place."""
    sources = [Source(file.name, str(file)) for file in files[:5]]
    sources.insert(2, Source("spoilt", data=b"no picture"))
    found = list(pool.glances(sources, 32, 16))
    assert [type(one).__name__ for one in found] == [
        "Glance", "Glance", "ImageDecodeError", "Glance", "Glance", "Glance",
    ]  # fmt: skip
    for file, one in zip(files, [one for one in found if isinstance(one, Glance)], strict=False):
        assert one.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        with Image.open(io.BytesIO(file.read_bytes())) as image:
            due = image.convert("RGB").resize((32, 16), Image.Resampling.LANCZOS)
        # A large JPEG is halved by its decoder first.
        assert np.abs(one.pixels.astype(int) - np.asarray(due)).mean() < 3


def test_cuts_give_way_to_strangers_that_are_alike(files: list[Path], pool: DecoderPool) -> None:
    """Where strangers score high and hash alike both cuts move until 1 in 100 of them passes."""
    here, same = side(files[0]), Side(str(files[0]), "ee" * 32)
    unlike = side(files[1])
    strangers = [(here, unlike, 0.8 + i / 1000) for i in range(199)] + [(here, same, 0.2)]
    judge = Duplicates(lambda: pool, Cuts(score=0.9, look=0.5, bits=64))
    judge.adjust(strangers)
    assert sum(pair[2] >= judge.cuts.score for pair in strangers) == 2
    assert judge.cuts.score > 0.99
    assert judge.cuts.bits < 64
    assert judge.signs(strangers[:100]) == [None] * 100
    # What was given stays, and rooms need no other cuts than those they begin with.
    kept = Duplicates(refuse, Cuts(score=0.9))
    kept.adjust(strangers, score=False, bits=False)
    assert kept.cuts == Cuts(score=0.9)
    calm = Duplicates(lambda: pool)
    calm.adjust([(side(a), side(b), LIKELY) for a, b in itertools.pairwise(files)])
    assert calm.cuts == Cuts()


@pytest.mark.parametrize(
    "wrong", [{"score": float("nan")}, {"look": 3.0}, {"bits": -2}, {"bits": 65}]
)
def test_cuts_that_cannot_be(wrong: dict[str, float]) -> None:
    """A cut that is no number, or that no pair could be held against, is refused."""
    with pytest.raises(InputError):
        Cuts(**wrong)  # type: ignore[arg-type]
