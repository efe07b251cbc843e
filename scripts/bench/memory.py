"""Measure how the peak memory of a build grows with the number of pictures.

    .venv/bin/python scripts/bench/memory.py PHOTOS [--counts 1000 10000] [--side 64]
        [--model efficientnet-lite2]

Small crops of a folder's photos are written, no two alike, and indexed by the installed command,
once a count, in a fresh process. Peak memory is that of the command itself (its decoders are
processes of their own, of a size that does not depend on the count). Ends with 1 where the growth
is more than the vectors and 50 MB.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from imgsearch.folders import find_images

ROOM = 50_000_000


def make_crops(source: Path, dest: Path, count: int, side: int) -> None:
    """Write `count` crops in ten class folders."""
    chance = random.Random(0)  # noqa: S311 - no secret
    items = find_images(source)[0]
    images = []
    for item in items[:40]:
        with Image.open(source / item.path) as image:
            images.append(image.convert("RGB"))
    for i in range(count):
        image = images[i % len(images)]
        x, y = (chance.randrange(max(1, length - side)) for length in image.size)
        target = dest / f"class {i % 10}" / f"{i:06}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.crop((x, y, x + side, y + side)).save(target, quality=90)


def peak_of(words: list[str]) -> tuple[int, float]:
    """Return the peak resident bytes of a command, and its seconds."""
    started = time.perf_counter()
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: S603 - ours
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, child.stderr and child.stderr.read()
    return usage.ru_maxrss * 1024, time.perf_counter() - started


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--counts", nargs=2, type=int, default=[1000, 10_000])
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--model", default="efficientnet-lite2")
    given = parser.parse_args()
    program = str(Path(sys.executable).with_name("imgsearch"))
    peaks = []
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        for count in given.counts:
            photos, index = Path(folder) / str(count), Path(folder) / f"index-{count}"
            make_crops(given.photos, photos, count, given.side)
            words = [program, "build", str(photos), str(index), "--model", given.model]
            peak, seconds = peak_of(words)
            vectors = next(index.glob("vectors-*.faiss")).stat().st_size
            peaks.append((peak, vectors))
            print(
                f"{count:7,} pictures: peak {peak / 1e6:7.0f} MB, vectors {vectors / 1e6:5.1f} MB, "
                f"{seconds:.0f} s",
                flush=True,
            )
    grown = peaks[1][0] - peaks[0][0]
    allowed = peaks[1][1] - peaks[0][1] + ROOM
    print(f"grown by {grown / 1e6:.0f} MB, of {allowed / 1e6:.0f} MB allowed")
    return int(grown > allowed)


if __name__ == "__main__":
    sys.exit(main())
