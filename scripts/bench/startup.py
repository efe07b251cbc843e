"""Measure how soon a command begins, as shares of what `import torchvision` takes in the same run.

    .venv/bin/python scripts/bench/startup.py INDEX PHOTO [--rounds 5]

INDEX must have been built with an engine that needs no torch (OpenVINO or ONNX Runtime). Whole
processes, in turns; medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

WANTED = {"imgsearch --help": 0.1, "search by row": 0.3, "search by image": 0.5}


def main() -> int:
    """Measure and print; end with 1 where a share is above what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    parser.add_argument("photo")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    program = str(Path(sys.executable).with_name("imgsearch"))
    commands = {
        "import torchvision": [sys.executable, "-c", "import torchvision"],
        "imgsearch --help": [program, "--help"],
        "search by row": [program, "search", given.index, "row:0", "--json"],
        "search by image": [program, "search", given.index, given.photo, "--json"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(given.rounds + 1):
        for name, words in commands.items():
            started = time.perf_counter()
            subprocess.run(words, check=True, capture_output=True)  # noqa: S603 - ours
            if number:  # the first round fills the system's caches
                taken[name].append(time.perf_counter() - started)
    middle = {name: statistics.median(values) for name, values in taken.items()}
    unit = middle["import torchvision"]
    print(f"{'what':24}{'seconds':>9}{'share':>8}{'wanted':>8}")
    failed = False
    for name, seconds in middle.items():
        wanted = WANTED.get(name)
        failed |= wanted is not None and seconds / unit > wanted
        print(f"{name:24}{seconds:9.2f}{seconds / unit:8.3f}{wanted or '':>8}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
