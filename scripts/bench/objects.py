"""Build from an S3 server beside the local folder: same index, time, memory.

    .venv/bin/python scripts/bench/objects.py PHOTOS [--count 10000] [--large 60]

Pictures of PHOTOS are repeated with other last bytes until there are enough; rclone serves the
folder as a bucket, on this machine. Then pictures of 24 MB each are built from it, to see what
waits in memory. Prints a table; ends with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from on_ray import pictures
from PIL import Image

from imgsearch.index import open_index

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(sys.executable).with_name("imgsearch")
RCLONE = Path(sys.executable).with_name("rclone")
MOST_TIMES = 1.3
# What may wait for a decoder, and two of the large pictures with the decoders themselves.
MOST_MORE = (64 + 2 * 24 + 32) * 1e6
KEY, SECRET = "AKIDTEST", "a-secret-of-no-use"


def large(folder: Path, number: int) -> Path:
    """Fill a class folder with pictures of 24 MB."""
    chance = np.random.default_rng(1)
    (folder / "a").mkdir(parents=True)
    for i in range(number):
        pixels = np.repeat(chance.integers(0, 255, (1, 4000, 3), dtype=np.uint8), 2000, axis=0)
        pixels[i] = 0
        Image.fromarray(pixels).save(folder / "a" / f"{i:04d}.bmp")
    return folder


@contextlib.contextmanager
def server(root: Path) -> Iterator[dict[str, str]]:
    """Serve the folders below `root` as buckets; yield the environment of a command."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(  # noqa: S603 - our own program
        [
            *(RCLONE, "serve", "s3", root, "--addr", f"127.0.0.1:{port}"),
            *("--auth-key", f"{KEY},{SECRET}", "--vfs-cache-mode", "off", "--config", os.devnull),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            time.sleep(0.05)
        yield {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
        }
        process.kill()


def build(images: str | Path, index: Path, model: str, environment: dict[str, str]) -> Any:  # noqa: ANN401 - a document
    """Run the command; return its document with its whole time and its peak of memory."""
    shutil.rmtree(index, ignore_errors=True)
    started = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - our own program
        [PROGRAM, "build", images, index, "--model", model, "--json"],
        stdout=subprocess.PIPE,
        env=environment,
    ) as child:
        peak = 0
        status = Path(f"/proc/{child.pid}/status")
        while child.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                peak = int(status.read_text().partition("VmHWM:")[2].split()[0])
            time.sleep(0.1)
        assert child.stdout is not None
        told = json.loads(child.stdout.read())
    assert child.returncode == 0
    return {**told, "whole": time.perf_counter() - started, "peak": 1024 * peak}


def same(one: Path, other: Path) -> bool:
    """Whether two indexes have the same rows, skips and numbers."""
    a, b = open_index(one), open_index(other)
    facts = [
        [(i.path, i.label, i.sha256, i.width, i.height, i.size) for i in index.items.all()]
        for index in (a, b)
    ]
    return (
        facts[0] == facts[1]
        and a.skips == b.skips
        and np.array_equal(np.asarray(a.vectors.rows), np.asarray(b.vectors.rows))
    )


def main() -> int:
    """Build both, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=60)
    parser.add_argument("--model", default="efficientnet-lite2")
    given = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        root = work / "s3"
        for bucket, images, times in (
            ("small", pictures(given.photos, root / "small", given.count), MOST_TIMES),
            ("large", large(root / "large", given.large), None),
        ):
            with server(root) as environment:
                here = build(images, work / "here", given.model, environment)
                there = build(f"s3://{bucket}", work / "there", given.model, environment)
            ratio, more = there["whole"] / here["whole"], there["peak"] - here["peak"]
            equal = same(work / "here", work / "there")
            good = equal and more <= MOST_MORE and (times is None or ratio <= times)
            failed += not good
            print(
                f"{bucket}, {there['count']:,} pictures: folder {here['whole']:.1f} s, S3 "
                f"{there['whole']:.1f} s, {ratio:.2f} times; peak {here['peak'] / 1e6:.0f} and "
                f"{there['peak'] / 1e6:.0f} MB; index {'the same' if equal else 'NOT THE SAME'}: "
                f"{'kept' if good else 'NOT KEPT'}",
                flush=True,
            )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
