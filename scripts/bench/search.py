"""Time search beside what people would use instead, and compare every answer with the exact one.

    .venv/bin/python scripts/bench/search.py [--rows 100000] [--dim 2048] [--data clustered uniform]

Vectors are made: `clustered` lie around 500 centres, `uniform` in every direction, `crowded` so
close to one direction that 8-bit codes cannot tell them apart. All contenders run in one process,
in turn, each on the same queries. Of each time stand the least and the median; "times" is the
median of IndexFlatIP's time over ours, round by round; "cpu" the median of what all cores spent,
which says more than time does on a machine that others use. "wrong" counts queries of which rows,
order or scores are not the exact ones, which are taken from math.fsum. Ends with 1 where ours are
wrong.

A small run: --rows 20000 --dim 512 --rounds 5 --check 100
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np

from imgsearch import SearchEngine, import_vectors
from imgsearch.search import Query

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Answer = tuple[list[int], list[float]]

K = 10
CLUSTERS = 500
OTHERS = ("numpy", "scikit-learn", "torch")
KINDS = ("clustered", "uniform", "crowded")
_STEP = 4096
# A library's threads go on turning for a while after their work: whoever comes next shall not pay.
_REST = 0.2
_SPARE = 8  # more candidates than k in the reference, to see that its float64 sums suffice


class Made:
    """A distribution of unit vectors, from which rows and queries come."""

    def __init__(self, kind: str, dim: int, seed: int = 1) -> None:
        """Fix the distribution."""
        self.kind, self.dim = kind, dim
        self.random = np.random.default_rng(seed)
        number = 1 if kind == "crowded" else CLUSTERS
        self.centres = self.random.standard_normal((number, dim), np.float32)

    def draw(self, count: int) -> Floats:
        """Draw unit vectors, float32 (count, dim)."""
        rows = self.random.standard_normal((count, self.dim), np.float32)
        if self.kind == "clustered":
            rows *= np.float32(0.7)
            rows += self.centres[self.random.integers(0, CLUSTERS, count)]
        elif self.kind == "crowded":
            rows *= np.float32(0.2)
            rows += self.centres[0]
        wide = rows.astype(np.float64)
        return (wide / np.sqrt(np.vecdot(wide, wide))[:, None]).astype(np.float32)


def write(folder: Path, made: Made, count: int, classes: int) -> Path:
    """Make an index of `count` drawn rows, a part at a time."""
    folder.mkdir()
    shape = (count, made.dim)
    rows = np.lib.format.open_memmap(folder / "v.npy", "w+", np.float32, shape)
    for start in range(0, count, _STEP):
        rows[start : start + _STEP] = made.draw(min(_STEP, count - start))
    rows.flush()
    labels = made.random.integers(0, classes, count)
    with (folder / "items.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("path", "label"))
        table.writerows((f"{i}.jpg", f"class {label}") for i, label in enumerate(labels))
    import_vectors(folder / "v.npy", folder / "items.csv", folder / "index")
    (folder / "v.npy").unlink()
    return folder / "index"


def resident() -> tuple[float, float]:
    """Return the memory of this process in MB: its own, and that of mapped files."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(fields[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))


def exact(rows: Floats, queries: Floats) -> list[Answer]:
    """Return the K best rows of each query by the contract, and their scores.

    float64 products find candidates; their scores are sums without rounding, rounded once.
    """
    number = len(queries)
    wide = queries.astype(np.float64).T.copy()
    scores = np.full((0, number), 0.0)
    found = np.full((0, number), 0)
    for start in range(0, len(rows), _STEP):
        block = rows[start : start + _STEP].astype(np.float64) @ wide
        keep = min(K + _SPARE, len(block))
        best = np.argpartition(-block, keep - 1, axis=0)[:keep]
        scores = np.concatenate((scores, np.take_along_axis(block, best, axis=0)))
        found = np.concatenate((found, best + start))
        best = np.argpartition(-scores, K + _SPARE - 1, axis=0)[: K + _SPARE]
        scores = np.take_along_axis(scores, best, axis=0)
        found = np.take_along_axis(found, best, axis=0)
    answers = []
    for i, query in enumerate(queries):
        line = query.astype(np.float64)
        sums = [np.float32(math.fsum(rows[row].astype(np.float64) * line)) for row in found[:, i]]
        ranked = sorted(zip((-float(s) for s in sums), found[:, i].tolist(), strict=True))
        # What was left out is below the lowest candidate, and that below the K-th by more than
        # what float64 and the one rounding can be off.
        assert -ranked[K - 1][0] > scores[:, i].min() + 2.0**-22, "near-ties: give more candidates"
        answers.append(([row for _, row in ranked[:K]], [-score for score, _ in ranked[:K]]))
    return answers


def best_of_classes(rows: Floats, ids: npt.NDArray[np.int32], query: Floats) -> list[int]:
    """Return the best row of each class by the contract."""
    line = query.astype(np.float64)
    steps = range(0, len(rows), _STEP)
    near = np.concatenate([rows[i : i + _STEP].astype(np.float64) @ line for i in steps])
    best = []
    for at in range(ids.max() + 1):
        mine = np.flatnonzero(ids == at)
        close = mine[near[mine] >= near[mine].max() - 2.0**-22]
        sums = [np.float32(math.fsum(rows[row].astype(np.float64) * line)) for row in close]
        best.append(min(zip((-float(s) for s in sums), close.tolist(), strict=True))[1])
    return best


class Bench:
    """The contenders over one set of rows."""

    def __init__(self, engine: SearchEngine, made: Made, beside: list[str]) -> None:
        """Give every contender the rows; ours keep lying in their file."""
        self.engine, self.made = engine, made
        self.rows = np.array(engine.index.vectors.rows)
        self.flat = faiss.IndexFlatIP(made.dim)
        self.flat.add(self.rows)
        self.contenders: dict[str, Callable[[Floats], list[Answer]]] = {
            "imgsearch": self.ours,
            "IndexFlatIP": self.faiss,
        }
        if "numpy" in beside:
            self.contenders["numpy"] = self.numpy
        if "scikit-learn" in beside:
            from sklearn.neighbors import NearestNeighbors

            self.neighbors = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute")
            self.neighbors.fit(self.rows)
            self.contenders["scikit-learn"] = self.sklearn
        if "torch" in beside:
            import torch

            self.tensor = torch.from_numpy(self.rows)
            self.contenders["torch"] = self.torch

    def ours(self, queries: Floats) -> list[Answer]:
        """Ask as a user would: with the class profile and the best image of each class."""
        if len(queries) == 1:
            results = [self.engine.by_vector(queries[0], K)]
        else:
            results = self.engine.ask([Query("vector", query) for query in queries], K)
        return [([m.row for m in r.matches], [m.score for m in r.matches]) for r in results]

    def faiss(self, queries: Floats) -> list[Answer]:
        """Search a FAISS index in memory."""
        scores, rows = self.flat.search(queries, K)
        return list(zip(rows.tolist(), scores.tolist(), strict=True))

    def numpy(self, queries: Floats) -> list[Answer]:
        """Multiply, and take the K highest."""
        one = len(queries) == 1
        products = (self.rows @ queries[0])[None, :] if one else queries @ self.rows.T
        best = np.argpartition(products, -K, axis=1)[:, -K:]
        scores = np.take_along_axis(products, best, axis=1)
        turn = np.argsort(-scores, axis=1)
        best, scores = np.take_along_axis(best, turn, 1), np.take_along_axis(scores, turn, 1)
        return list(zip(best.tolist(), scores.tolist(), strict=True))

    def sklearn(self, queries: Floats) -> list[Answer]:
        """Ask brute-force neighbours by cosine."""
        distances, rows = self.neighbors.kneighbors(queries)
        return list(zip(rows.tolist(), (1 - distances).tolist(), strict=True))

    def torch(self, queries: Floats) -> list[Answer]:
        """Multiply and take the K highest with torch."""
        import torch

        with torch.inference_mode():
            scores, rows = (torch.from_numpy(queries) @ self.tensor.T).topk(K)
        return list(zip(rows.tolist(), scores.tolist(), strict=True))

    def time(self, number: int, rounds: int) -> int:
        """Time `number` queries at once, print a table, and return how many of ours are wrong."""
        times: dict[str, list[float]] = {name: [] for name in self.contenders}
        work: dict[str, list[float]] = {name: [] for name in self.contenders}
        wrong = dict.fromkeys(self.contenders, 0)
        hits = dict.fromkeys(self.contenders, 0)
        for _ in range(rounds):
            queries = self.made.draw(number)
            wanted = exact(self.rows, queries)
            for name, ask in self.contenders.items():
                time.sleep(_REST)
                started, worked = time.perf_counter(), time.process_time()
                answers = ask(queries)
                times[name].append(1e3 * (time.perf_counter() - started))
                work[name].append(1e3 * (time.process_time() - worked))
                wrong[name] += sum(a != w for a, w in zip(answers, wanted, strict=True))
                hits[name] += sum(
                    len(set(a[0]) & set(w[0])) for a, w in zip(answers, wanted, strict=True)
                )
        total = rounds * number
        print(f"\n{number:,} at once, {rounds} rounds, ms")
        print(
            f"{'':14}{'least':>10}{'median':>10}{'times':>8}{'cpu':>10}{'recall':>9}{'wrong':>14}"
        )
        for name, spent in times.items():
            ratio = np.median(np.array(times["IndexFlatIP"]) / np.array(spent))
            print(
                f"{name:14}{min(spent):10.1f}{np.median(spent):10.1f}{ratio:8.2f}"
                f"{np.median(work[name]):10.1f}{hits[name] / total / K:9.5f}"
                f"{wrong[name]:7,} of {total:,}"
            )
        return wrong["imgsearch"]

    def scopes(self, rounds: int) -> None:
        """Time the three scopes, in turn."""
        times: dict[str, list[float]] = {"all": [], "same": [], "other": []}
        for i in range(rounds):
            query = self.made.draw(1)[0]
            label = self.engine.classes[i % len(self.engine.classes)]
            for scope, spent in times.items():
                started = time.perf_counter()
                self.engine.by_vector(query, K, scope=scope, label=label)
                spent.append(1e3 * (time.perf_counter() - started))
        print(f"\none query by scope, {rounds} rounds, ms")
        for scope, spent in times.items():
            ratio = np.median(np.array(spent) / np.array(times["all"]))
            print(f"{scope:14}{min(spent):10.1f}{np.median(spent):10.1f}{ratio:8.2f} of scope all")

    def threads(self, number: int, each: int) -> None:
        """Ask one query at a time from several threads; ours and FAISS in turn."""
        print(f"\n{number} threads, {each} queries each, ms")
        print(f"{'':14}{'p50':>10}{'p99':>10}{'queries/s':>12}")
        queries = self.made.draw(number * each)
        found: dict[str, list[list[float]]] = {"imgsearch": [], "IndexFlatIP": []}
        rates: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(3):
            for name, runs in found.items():
                runs.append([])
                started = time.perf_counter()
                workers = [
                    threading.Thread(
                        target=_ask_each,
                        args=(self.contenders[name], queries[i::number], runs[-1]),
                    )
                    for i in range(number)
                ]
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
                rates[name].append(number * each / (time.perf_counter() - started))
        for name, runs in found.items():
            p50, p99 = (np.median([np.percentile(run, p) for run in runs]) for p in (50, 99))
            print(f"{name:14}{p50:10.1f}{p99:10.1f}{np.median(rates[name]):12.1f}")

    def check(self, number: int) -> int:
        """Compare many answers, single and at once, with the exact ones; return how many differ."""
        wrong = 0
        classes = self.engine.index.items.classes
        step = 500
        for start in range(0, number, step):
            queries = self.made.draw(min(step, number - start))
            wanted = exact(self.rows, queries)
            single = [self.ours(query[None, :])[0] for query in queries]
            for answers in (single, self.ours(queries)):
                wrong += sum(a != w for a, w in zip(answers, wanted, strict=True))
        few = max(1, number // 100)
        for query in self.made.draw(few):
            profile = self.engine.by_vector(query, K).correspondence
            assert profile is not None
            rows = [share.best_row for share in profile.classes]
            wrong += rows != best_of_classes(self.rows, classes.ids, query)
        print(
            f"\n{number:,} queries one by one and again {min(step, number)} at once, and the best "
            f"row of each class for {few:,}: {wrong:,} differ in rows, order or scores"
        )
        return wrong


def _ask_each(ask: Callable[[Floats], list[Answer]], queries: Floats, spent: list[float]) -> None:
    for query in queries:
        started = time.perf_counter()
        ask(query[None, :])
        spent.append(1e3 * (time.perf_counter() - started))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--data", nargs="+", choices=KINDS, default=["clustered", "uniform"])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", nargs="*", type=int, default=[64, 1024])
    parser.add_argument("--check", type=int, default=1000, help="so many answers are compared")
    parser.add_argument("--beside", nargs="*", choices=OTHERS, default=OTHERS[:2])
    parser.add_argument("--threads", type=int, default=8)
    given = parser.parse_args()
    wrong = 0
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    for kind in given.data:
        with tempfile.TemporaryDirectory() as folder:
            made = Made(kind, given.dim)
            index = write(Path(folder) / "made", made, given.rows, given.classes)
            before = resident()
            started = time.perf_counter()
            with SearchEngine.open(index) as engine:
                opened, between = time.perf_counter() - started, resident()
                started = time.perf_counter()
                engine.warm_up()
                warm, after = time.perf_counter() - started, resident()
                print(f"\n== {kind}: {given.rows:,} x {given.dim:,}, {given.classes} classes ==")
                print(f"open: {opened:.2f} s, {between[0] - before[0]:.0f} MB")
                print(
                    f"codes: {warm:.2f} s, {after[0] - between[0]:.0f} MB more; the mapped "
                    f"vectors: up to {4 * given.rows * given.dim / 2**20:.0f} MB of page cache"
                )
                bench = Bench(engine, made, given.beside)
                wrong += bench.time(1, given.rounds)
                for number in given.batches:
                    wrong += bench.time(number, max(3, given.rounds // 5))
                bench.scopes(given.rounds)
                if given.threads:
                    bench.threads(given.threads, 10)
                if given.check:
                    wrong += bench.check(given.check)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
