"""Compare every answer of an index with brute force in numpy, to the last bit.

    .venv/bin/python scripts/bench/exactness.py indexes/rooms

Every row is asked, for k in 1, 5, 10 and all, in every scope. Prints the number of queries and of
differing rows, orders and scores; ends with 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from imgsearch import SearchEngine
from imgsearch.records import SCOPES


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("index")
    engine = SearchEngine.open(parser.parse_args().index)
    rows = np.array(engine.index.vectors.rows)
    wide = rows.astype(np.float64)
    ids = engine.index.items.classes.ids
    count = len(rows)
    differing = queries = 0
    for scope in SCOPES:
        for k in (1, 5, 10, count - 1):
            started = time.perf_counter()
            for row in range(count):
                if scope != "all" and ids[row] < 0:
                    continue
                scores = (wide @ wide[row]).astype(np.float32)
                mine = ids == ids[row]
                allowed = {"all": mine | True, "same": mine, "other": ~mine & (ids >= 0)}[scope]
                allowed[row] = False
                keep = np.flatnonzero(allowed)
                best = keep[np.lexsort((keep, -scores[keep]))][:k]
                found = engine.by_row(row, k, scope=scope).matches
                same = [match.row for match in found] == best.tolist() and [
                    match.score for match in found
                ] == scores[best].tolist()
                differing += not same
                queries += 1
            print(f"scope {scope:5} k {k:4}: {time.perf_counter() - started:.1f} s")
    print(f"{queries:,} queries over {count:,} rows, {differing} differ in rows, order or scores")
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
