"""Check on rows kept out what probabilities and outliers of an index are worth.

    .venv/bin/python scripts/bench/calibration.py INDEX... [--foreign INDEX] [--rounds 10]

Five times a round, an index of four fifths of the rows is written, and the others are asked as new
pictures are: through `SearchEngine`. Printed are the expected calibration error in ten bins of
equal width, at several k, over all answers of a round (mean of the rounds), beside it what
probabilities that are right have by luck alone (matches drawn again, right as often as said)
and what a constant probability has, and how many of the rows kept out are called outliers at
several rates.
With --foreign the vectors of another index of the same length are asked, too: so many of them are
called outliers. Every class is also left out in turn, and then asked: that is harder.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from imgsearch import SearchEngine, SearchResult, import_vectors
from imgsearch.calibration import expected_error, resemblance

DEPTHS = (1, 5, 10, 20)
RATES = (0.01, 0.05, 0.1)
FOLDS = 5


def read(index: str) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors and labels of the rows that have a label."""
    with SearchEngine.open(index) as engine:
        labels = engine.index.items.column("label")
        kept = [i for i, label in enumerate(labels) if label is not None]
        return np.array(engine.index.vectors.rows)[kept], np.array([labels[i] for i in kept])


def write(folder: Path, rows: np.ndarray, labels: np.ndarray) -> SearchEngine:
    """Write an index and open it."""
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label"])
        writer.writerows((f"{i}.jpg", label) for i, label in enumerate(labels))
    import_vectors(folder / "rows.npy", folder / "rows.csv", folder / "index")
    return SearchEngine.open(folder / "index")


def best_scores(engine: SearchEngine, rows: np.ndarray) -> list[float]:
    """Return the best score of each of some vectors."""
    results = engine.ask([engine.vector_query(row) for row in rows], 1)
    return [result.matches[0].score for result in results]


def alarms(engine: SearchEngine, scores: list[float], rate: float) -> list[bool]:
    """Tell which best scores are called outliers at a rate."""
    known = engine.index.manifest.calibration
    assert known is not None
    return [resemblance(known, score, rate).outlier for score in scores]


def pairs(answers: list[SearchResult], k: int) -> tuple[list[float], list[bool]]:
    """Return the probability of each of k matches, and whether it was of the query's class."""
    found = [(match, answer.label) for answer in answers for match in answer.matches[:k]]
    stated = [float(match.probability or 0) for match, _ in found]
    return stated, [match.label == label for match, label in found]


def by_luck(stated: list[float], seed: int) -> float:
    """Return the mean error of these probabilities where they are right."""
    random, likely = np.random.default_rng(seed), np.array(stated)
    return float(
        np.mean([expected_error(likely, random.random(len(likely)) < likely) for _ in range(100)])
    )


def measure(index: str, foreign: np.ndarray | None, rounds: int) -> None:
    """Measure one index and print."""
    rows, labels = read(index)
    print(f"{index}: {len(rows):,} rows of {rows.shape[1]:,} numbers, {len(set(labels))} classes")
    errors: dict[int, list[float]] = {k: [] for k in DEPTHS}
    constant: dict[int, list[float]] = {k: [] for k in DEPTHS}
    luck: dict[int, list[float]] = {k: [] for k in DEPTHS}
    called: dict[float, list[bool]] = {rate: [] for rate in RATES}
    strange: dict[float, list[bool]] = {rate: [] for rate in RATES}
    for number in range(rounds):
        fold = np.random.default_rng(number).permutation(len(rows)) % FOLDS
        answers: list[SearchResult] = []
        for out in range(FOLDS):
            inside, outside = fold != out, np.flatnonzero(fold == out)
            with (
                tempfile.TemporaryDirectory() as folder,
                write(Path(folder) / "x", rows[inside], labels[inside]) as engine,
            ):
                queries = [engine.vector_query(rows[i], str(labels[i])) for i in outside]
                answers += engine.ask(queries, max(DEPTHS))
                scores = best_scores(engine, rows[outside])
                others = [] if foreign is None else best_scores(engine, foreign)
                for rate in RATES:
                    called[rate] += alarms(engine, scores, rate)
                    strange[rate] += alarms(engine, others, rate)
        for k in DEPTHS:
            stated, true = pairs(answers, k)
            errors[k].append(expected_error(stated, true))
            luck[k].append(by_luck(stated, number))
            constant[k].append(expected_error(np.full(len(true), 0.5), true))
    for k in DEPTHS:
        print(
            f"  k {k:2}: calibration error {np.mean(errors[k]):.4f} "
            f"(rounds {min(errors[k]):.4f} to {max(errors[k]):.4f}; by luck alone "
            f"{np.mean(luck[k]):.4f}; "
            f"0.5 for all would have {np.mean(constant[k]):.4f})"
        )
    for rate in RATES:
        line = f"  rate {rate:.0%}: {np.mean(called[rate]):.2%} of rows kept out called outliers"
        if foreign is not None:
            line += f", {np.mean(strange[rate]):.2%} of {len(foreign):,} foreign ones"
        print(line)
    print(novelty(rows, labels), flush=True)


def novelty(rows: np.ndarray, labels: np.ndarray) -> str:
    """Leave each class out and ask with it; say how much of it is called an outlier."""
    novel: dict[float, list[bool]] = {rate: [] for rate in RATES}
    for label in sorted(set(labels)):
        inside = labels != label
        with (
            tempfile.TemporaryDirectory() as folder,
            write(Path(folder) / "x", rows[inside], labels[inside]) as engine,
        ):
            scores = best_scores(engine, rows[~inside])
            for rate in RATES:
                novel[rate] += alarms(engine, scores, rate)
    return "  a class left out and then asked, called outliers: " + ", ".join(
        f"{np.mean(novel[rate]):.2%} at {rate:.0%}" for rate in RATES
    )


def main() -> None:
    """Measure every index that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("indexes", nargs="+")
    parser.add_argument("--foreign")
    parser.add_argument("--rounds", type=int, default=10)
    given = parser.parse_args()
    foreign = None if given.foreign is None else read(given.foreign)[0]
    for index in given.indexes:
        measure(index, foreign, given.rounds)


if __name__ == "__main__":
    main()
