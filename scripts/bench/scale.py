"""Measure how the cost of search grows with the rows of an index.

    .venv/bin/python scripts/bench/scale.py [--rows 10000 100000 1000000] [--dim 2048]

For each size an index is made (4 bytes a number on disk), opened and asked, one query at a time,
before its 8-bit codes are made and after. Memory is what the process holds itself after each step;
the mapped vectors come on top while they are in the page cache, and go when others need the room:
"mapped" is what of them is resident. "floats" is the same query by a scan of the float vectors with
all cores. Ends with 1 where an answer from codes is not that from the floats.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from search import KINDS, K, Made, resident, write

from imgsearch import SearchEngine


def measure(count: int, dim: int, kind: str, rounds: int) -> int:
    """Print the line of one size, and return how many answers differ."""
    with tempfile.TemporaryDirectory() as folder:
        made = Made(kind, dim)
        index = write(Path(folder) / "made", made, count, 10)
        queries = made.draw(rounds)
        start = resident()
        started = time.perf_counter()
        with SearchEngine.open(index) as engine:
            opened, held = time.perf_counter() - started, resident()
            floats, wanted = [], []
            for query in queries[:8]:  # the first queries make no codes
                started = time.perf_counter()
                wanted.append(engine.by_vector(query, K))
                floats.append(1e3 * (time.perf_counter() - started))
            started = time.perf_counter()
            engine.warm_up()
            warm, coded = time.perf_counter() - started, resident()
            times, differ = [], 0
            for i, query in enumerate(queries):
                started = time.perf_counter()
                answer = engine.by_vector(query, K)
                times.append(1e3 * (time.perf_counter() - started))
                differ += i < len(wanted) and answer != wanted[i]
            started = time.perf_counter()
            engine.ask([engine.row_query(row) for row in range(64)], K)
            batch = 1e3 * (time.perf_counter() - started)
    print(
        f"{count:10,}{opened:8.2f}{held[0] - start[0]:9.0f}{held[1] - start[1]:9.0f}"
        f"{min(floats):9.1f}{np.median(floats):9.1f}{warm:9.2f}{coded[0] - held[0]:9.0f}"
        f"{min(times):9.1f}{np.median(times):9.1f}{batch:10.0f}{differ:8}",
        flush=True,
    )
    return differ


def main() -> int:
    """Measure each size and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--data", choices=KINDS, default="clustered")
    parser.add_argument("--rounds", type=int, default=25)
    given = parser.parse_args()
    print(f"{given.data}, dimension {given.dim}; s, MB and ms; a query: least and median")
    print(
        f"{'rows':>10}{'open s':>8}{'MB':>9}{'mapped':>9}{'floats':>9}{'median':>9}"
        f"{'codes s':>9}{'MB':>9}{'query':>9}{'median':>9}{'64 at once':>11}{'differ':>7}"
    )
    sizes = given.rows
    return int(sum(measure(count, given.dim, given.data, given.rounds) for count in sizes) > 0)


if __name__ == "__main__":
    sys.exit(main())
