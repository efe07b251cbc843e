"""Measure the audit: planted wrong labels beside cleanlab's, and the time of a large index.

    .venv/bin/python scripts/bench/audit.py labels INDEX... [--rounds 20] [--seed 0]
    .venv/bin/python scripts/bench/audit.py speed [--rows 100000] [--dim 1280]

`labels` gives 5, 10 and 20% of the rows another label, drawn at random, and compares how well the
rows are ranked: average precision, the mean of the rounds. cleanlab (pip install cleanlab
scikit-learn) gets out-of-sample probabilities from the same vectors: of nearest neighbors (the
shares among the 10 and the 50 nearest others) and of a logistic regression (scikit-learn's, 5
folds, C = 1, its default, and C = 10), and ranks by its two own measures, self-confidence and
normalized margin. The difference to the best of these eight is paired, round by round.

`speed` writes an index of random vectors around as many centres as classes, with labels a tenth of
which are wrong, audits it through the command, and prints seconds and the most memory it had.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from imgsearch import SearchEngine
from imgsearch.auditing import WIDTH
from imgsearch.neighbors import Kin, Neighborhood, find_neighbors
from imgsearch.suspects import judge_labels

SHARES = (0.05, 0.1, 0.2)
WIDTHS, STRENGTHS = (10, 50), (1.0, 10.0)
METHODS = ("self_confidence", "normalized_margin")


def average_precision(wrong: np.ndarray, worst: np.ndarray) -> float:
    """Return the average precision of a ranking, the highest of `worst` first."""
    hits = wrong[np.argsort(-worst, kind="stable")]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def plant(ids: np.ndarray, classes: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Give a share of the rows another label; return the labels and which are wrong."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(ids), round(share * len(ids)), replace=False)
    labels, wrong = ids.copy(), np.zeros(len(ids), np.bool_)
    labels[rows] = (ids[rows] + random.integers(1, classes, len(rows))) % classes
    wrong[rows] = True
    return labels, wrong


def theirs(
    rows: np.ndarray, labels: np.ndarray, near: Neighborhood, classes: int
) -> dict[str, np.ndarray]:
    """Rank by cleanlab: name to how bad each row is."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    probabilities = {}
    for width in WIDTHS:
        votes = labels[near.rows[:, :width]]
        probabilities[f"kNN {width}"] = np.stack(
            [(votes == c).mean(axis=1) for c in range(classes)], axis=1
        )
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=300)
        probabilities[f"logistic C={strength:g}"] = cross_val_predict(
            model, rows, labels, cv=folds, method="predict_proba"
        )
    return {
        f"cleanlab, {name}, {method}": -get_label_quality_scores(labels, found, method=method)
        for name, found in probabilities.items()
        for method in METHODS
    }


def labels_of(index: str, rounds: int, first: int) -> None:
    """Compare on one index and print."""
    with SearchEngine.open(index) as engine:
        rows = np.array(engine.index.vectors.rows)
        ids = engine.index.items.classes.ids
        classes = len(engine.classes)
        nobody = Kin.of([None] * len(rows), [None] * len(rows))
        near = find_neighbors(
            engine.source,
            np.arange(len(rows)),
            min(WIDTH, len(rows) - 1),
            nobody,
            ids,
            known=engine.index.manifest.preprocessing is not None,
        )
    print(f"{index}: {len(rows):,} rows of {rows.shape[1]:,} numbers, {classes} classes")
    for share in SHARES:
        found: dict[str, list[float]] = {}
        for seed in range(first, first + rounds):
            labels, wrong = plant(ids, classes, share, seed)
            opinion = judge_labels(rows, labels, classes, near, nobody)
            worst = np.full(len(rows), -1.0)
            worst[opinion.rows] = 1 - opinion.own
            ranks = {"imgsearch": worst, **theirs(rows, labels, near, classes)}
            for name, its in ranks.items():
                found.setdefault(name, []).append(average_precision(wrong, its))
            listed = opinion.rows[opinion.suspect]
            found.setdefault("listed: precision", []).append(float(wrong[listed].mean()))
            found.setdefault("listed: recall", []).append(float(wrong[listed].sum() / wrong.sum()))
        best = max((n for n in found if n.startswith("cleanlab")), key=lambda n: np.mean(found[n]))
        ahead = np.array(found["imgsearch"]) - np.array(found[best])
        print(f"  {share:.0%} wrong, {rounds} rounds")
        for name, values in found.items():
            print(f"    {name:46} {np.mean(values):.4f}")
        error = ahead.std(ddof=1) / len(ahead) ** 0.5 if len(ahead) > 1 else float("nan")
        print(
            f"    ahead of the best of cleanlab's ({best.removeprefix('cleanlab, ')}): "
            f"{ahead.mean():+.4f} (standard error {error:.4f})",
            flush=True,
        )


def speed(count: int, dim: int, classes: int = 100) -> None:
    """Write a large index, audit it through the command, and print what it took."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        place = Path(folder)
        random = np.random.default_rng(0)
        centres = random.standard_normal((classes, dim), np.float32)
        ids = np.sort(random.integers(0, classes, count))
        rows = np.lib.format.open_memmap(
            place / "rows.npy", mode="w+", dtype=np.float32, shape=(count, dim)
        )
        for first in range(0, count, 10_000):
            some = ids[first : first + 10_000]
            noise = random.standard_normal((len(some), dim), np.float32)
            rows[first : first + len(some)] = centres[some] + 1.5 * noise
        rows.flush()
        labels, wrong = plant(ids, classes, 0.1, 0)
        lines = [f"{i:06}.jpg,class {label:03}\n" for i, label in enumerate(labels)]
        (place / "rows.csv").write_text("path,label\n" + "".join(lines))
        program = [sys.executable, "-m", "imgsearch"]
        begin = time.perf_counter()
        subprocess.run(  # noqa: S603 - our own command
            [*program, "import", place / "rows.npy", place / "rows.csv", place / "index"],
            check=True,
        )
        print(f"import {time.perf_counter() - begin:.0f} s")
        begin = time.perf_counter()
        with (place / "out.json").open("wb") as out:
            running = subprocess.Popen(  # noqa: S603 - our own command
                [*program, "audit", place / "index", "--json", "--report", place / "a.html"],
                stdout=out,
            )
            most = 0
            while running.poll() is None:
                most = max(most, own_memory(running.pid))
                time.sleep(0.2)
        seconds = time.perf_counter() - begin
        assert running.returncode == 0
        import json

        found = json.loads((place / "out.json").read_text())
        listed = np.array([issue["row"] for issue in found["label_issues"]])
        page = (place / "a.html").stat().st_size
        print(
            f"audit of {count:,} x {dim:,}: {seconds:.0f} s, most memory of its own "
            f"{most / 2**20:.0f} MiB beside the mapped vectors; of the labels listed "
            f"{wrong[listed].mean():.1%} are wrong, and {wrong[listed].sum() / wrong.sum():.1%} of "
            f"those planted are among them; the page has {page / 1e6:.1f} MB"
        )


def own_memory(pid: int) -> int:
    """Return the anonymous memory of a process, in bytes."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def main() -> None:
    """Run one of the two."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    about = commands.add_parser("labels")
    about.add_argument("indexes", nargs="+")
    about.add_argument("--rounds", type=int, default=20)
    about.add_argument("--seed", type=int, default=0, help="of the first round")
    large = commands.add_parser("speed")
    large.add_argument("--rows", type=int, default=100_000)
    large.add_argument("--dim", type=int, default=1280)
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores")
    if given.command == "speed":
        speed(given.rows, given.dim)
    else:
        for index in given.indexes:
            labels_of(index, given.rounds, given.seed)


if __name__ == "__main__":
    main()
