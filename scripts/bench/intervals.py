"""How often the 95% intervals hold the truth, and how often no difference is taken for one.

    .venv/bin/python scripts/bench/intervals.py [--sets 2000] [--alike 0.1 0.3]

Sets of queries are drawn whose true mean is known. A query has so many right matches of five as its
own chance gives; the chances of the queries follow a beta distribution of a given correlation
(no groups: each query has its own chance; else all of a group have one). Top-1 is one right or
wrong a query. For differences both indexes have the same true mean and each its own luck with each
group.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from imgsearch.intervals import bootstrap_intervals, measure_intervals

if TYPE_CHECKING:
    import numpy.typing as npt

    Groups = npt.NDArray[np.int64]

ALIKE = (0.1, 0.3)
K = 5


def layouts(size: int, random: np.random.Generator) -> dict[str, Groups]:
    """Number the groups of so many queries in several ways."""
    sizes = 1 + random.geometric(0.25, size)
    found = {
        "no groups": np.arange(size),
        "groups of 5": np.arange(size) // 5,
        "uneven groups": np.repeat(np.arange(size), sizes)[:size],
    }
    if size > 25:  # noqa: PLR2004 - three groups are no sample
        found["groups of 10"] = np.arange(size) // 10
    return found


def chances(
    groups: Groups, mean: float, alike: float, sets: int, random: np.random.Generator
) -> np.ndarray:
    """Draw the chance of each query, (n_queries, sets), so alike in a group."""
    spread = 1 / alike - 1
    drawn = random.beta(mean * spread, (1 - mean) * spread, (int(groups.max()) + 1, sets))
    return np.asarray(drawn[groups])


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--alike", type=float, nargs="+", default=ALIKE)
    parser.add_argument("--seed", type=int, default=2026)
    given = parser.parse_args()
    random = np.random.default_rng(given.seed)
    for alike in given.alike:
        cover(alike, given.sets, random)
    alarm(given.sets, random)


def cover(alike: float, sets: int, random: np.random.Generator) -> None:
    """Print how often the intervals of means hold the truth."""
    print(f"coverage of the 95% interval in {sets:,} sets (mean width), correlation {alike:g}")
    print(f"{'queries':>8}  {'groups':22}" + "".join(f"{name:>22}" for name in MEANS))
    for size in (25, 100, 1000):
        for name, groups in layouts(size, random).items():
            cells = []
            for measure, mean in MEANS.values():
                chance = chances(groups, mean, alike, sets, random)
                values = random.binomial(measure, chance) / measure
                bounds = measure_intervals(values, groups)
                held = (bounds[:, 0] <= mean) & (mean <= bounds[:, 1])
                cells.append(f"{held.mean():.1%} ({np.diff(bounds).mean():.3f})")
            label = f"{name} ({int(groups.max()) + 1})"
            print(f"{size:8}  {label:22}" + "".join(f"{cell:>22}" for cell in cells))
    print()


def alarm(sets: int, random: np.random.Generator) -> None:
    """Print how often a difference is shown where there is none."""
    print(f"false alarms of a paired comparison without a difference in {sets:,} sets")
    print(f"{'queries':>8}  {'groups':22}" + "".join(f"{name:>22}" for name in DIFFERENCES))
    for size in (25, 100, 1000):
        for name, groups in layouts(size, random).items():
            cells = []
            for measure, alike in DIFFERENCES.values():
                difference = differences(groups, measure, alike, sets, random)
                bounds = bootstrap_intervals(difference, groups)
                alarms = (bounds[:, 0] > 0) | (bounds[:, 1] < 0)
                cells.append(f"{alarms.mean():.1%} ({np.diff(bounds).mean():.3f})")
            label = f"{name} ({int(groups.max()) + 1})"
            print(f"{size:8}  {label:22}" + "".join(f"{cell:>22}" for cell in cells))


# Trials of a query, and the true mean.
MEANS = {
    "precision@5 0.3": (K, 0.3),
    "precision@5 0.66": (K, 0.66),
    "precision@5 0.9": (K, 0.9),
    "top-1 0.66": (1, 0.66),
    "top-1 0.9": (1, 0.9),
}
# Trials of a query, and how large a part of its luck both indexes share.
DIFFERENCES = {"precision@5": (K, 0.8), "top-1": (1, 0.8), "hardly differ": (K, 1.0)}


def differences(
    groups: Groups, trials: int, alike: float, sets: int, random: np.random.Generator
) -> np.ndarray:
    """Draw differences of two indexes whose true means are equal, (n_queries, sets)."""
    number = int(groups.max()) + 1
    if alike == 1:  # nine queries of ten are answered alike
        moved = random.random((len(groups), sets)) < 0.1  # noqa: PLR2004
        return moved * random.choice([-2, -1, 1, 2], (len(groups), sets)) / K
    shared = random.normal(0.7, 1, (number, sets))[groups]
    values = []
    for _ in range(2):
        own = random.normal(0, np.sqrt(1 - alike), (number, sets))[groups]
        chance = 1 / (1 + np.exp(-shared - own))
        values.append(random.binomial(trials, chance) / trials)
    return np.asarray(values[0] - values[1])


if __name__ == "__main__":
    main()
