"""Measures of a ranking: by hand, against other libraries, against brute force."""

from __future__ import annotations

import itertools
import math
import re
import runpy
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ir_measures
import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    label_ranking_average_precision_score,
)
from sklearn.neighbors import KNeighborsClassifier
from torchmetrics.functional import retrieval as torch_retrieval

from imgsearch.metrics import (
    MEASURES,
    Judged,
    Lottery,
    chance_level,
    correspondence_matrix,
    majority,
    mean,
    per_query,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DOC = Path(__file__).parent.parent / "docs" / "measures.md"
NAMES = [
    "precision_at_k",
    "hit_rate_at_k",
    "top1_accuracy",
    "knn_accuracy",
    "map_at_k",
    "mrr",
    "r_precision",
]


def judge(
    label: str, k: int, ranking: Sequence[str | None], scores: Sequence[float] | None = None
) -> Judged:
    """Judge a whole ranking of the base set, given as labels; scores fall unless given."""
    right = [i for i, other in enumerate(ranking) if other == label]
    kept = range(len(ranking))[:k]
    return Judged(
        label=label,
        k=k,
        labels=tuple(ranking[:k]),
        scores=tuple(scores[:k]) if scores is not None else tuple(1 - i / 1000 for i in kept),
        n_relevant=len(right),
        n_base=len(ranking),
        first_rank=right[0] + 1 if right else None,
        relevant_in_r=sum(i < len(right) for i in right),
    )


def values(query: Judged) -> dict[str, float]:
    """Every measure of one query."""
    return {name: measure.value(query) for name, measure in MEASURES.items()}


@dataclass(frozen=True)
class Case:
    """A query on a small base set, ranked as the contract says."""

    label: str
    k: int
    ranking: tuple[str | None, ...]
    scores: tuple[float, ...]

    @property
    def judged(self) -> Judged:
        """What the measures see."""
        return judge(self.label, self.k, self.ranking, self.scores)

    @property
    def targets(self) -> list[int]:
        """1 for every right row, in rank order."""
        return [int(label == self.label) for label in self.ranking]


def random_cases(number: int) -> list[Case]:
    """Rankings of vectors on a coarse grid, so that rows repeat and scores tie.

    Some rows have no label, some queries have a label that no row has, some k pass the base set.
    """
    random = np.random.default_rng(7)
    cases = []
    for _ in range(number):
        n_base = int(random.integers(1, 41))
        names = "abcdef"[: int(random.integers(1, 7))]
        grid = random.integers(-1, 2, (n_base + 1, 3)) + np.array([0.0, 0.0, 0.5])
        vectors = (grid / np.linalg.norm(grid, axis=1, keepdims=True)).astype(np.float32)
        exact = vectors[:-1].astype(np.float64) @ vectors[-1].astype(np.float64)
        scores = exact.astype(np.float32)
        order = np.lexsort((np.arange(n_base), -scores))
        labels = [None if random.random() < 0.1 else str(random.choice(list(names))) for _ in order]
        cases.append(
            Case(
                label=str(random.choice([*names, "absent"])),
                k=int(random.integers(1, n_base + 4)) if random.random() < 0.5 else 5,
                ranking=tuple(labels[row] for row in order),
                scores=tuple(float(scores[row]) for row in order),
            )
        )
    return cases


CASES = random_cases(240)


# By hand


def test_the_table_holds_the_measures_of_the_contract_in_its_order() -> None:
    """Seven names, each under its own key, in the order of the contract."""
    assert list(MEASURES) == NAMES
    assert [measure.name for measure in MEASURES.values()] == NAMES


def test_the_wardrobe_case_of_the_contract() -> None:
    """Four of five matches right: accuracy 80.00%, other classes 20.00%."""
    ranking = ["Wardrobe", "Wardrobe", "Kitchen", "Wardrobe", "Wardrobe", "Kitchen", "Wardrobe"]
    found = values(judge("Wardrobe", 5, ranking))
    assert found["precision_at_k"] == 4 / 5
    assert f"{found['precision_at_k']:.2%}" == "80.00%"
    assert f"{1 - found['precision_at_k']:.2%}" == "20.00%"
    assert found["hit_rate_at_k"] == 1
    assert found["top1_accuracy"] == 1
    assert found["knn_accuracy"] == 1
    assert found["map_at_k"] == (1 / 1 + 2 / 2 + 3 / 4 + 4 / 5) / 5
    assert found["mrr"] == 1 / 1
    assert found["r_precision"] == 4 / 5


def test_a_ranking_that_starts_wrong() -> None:
    """Two of four right, at ranks 3 and 4; a third row of the class at rank 6."""
    found = values(judge("a", 4, ["b", None, "a", "a", "b", "a"]))
    assert found == {
        "precision_at_k": 2 / 4,
        "hit_rate_at_k": 1,
        "top1_accuracy": 0,
        "knn_accuracy": 1,
        "map_at_k": (1 / 3 + 2 / 4) / 4,
        "mrr": 1 / 3,
        "r_precision": 1 / 3,
    }


def test_k_divides_also_where_fewer_rows_exist() -> None:
    """Two rows, both right, five asked for: 2/5, not 2/2."""
    found = values(judge("a", 5, ["a", "a"]))
    assert found["precision_at_k"] == 2 / 5
    assert found["map_at_k"] == (1 / 1 + 2 / 2) / 5
    assert found["r_precision"] == 2 / 2


def test_measures_over_the_whole_base_set_do_not_depend_on_k() -> None:
    """The first right row is beyond the k: hit rate 0, yet reciprocal rank and R-precision not."""
    found = values(judge("a", 1, ["b", "a", "a"]))
    assert found["hit_rate_at_k"] == 0
    assert found["mrr"] == 1 / 2
    assert found["r_precision"] == 1 / 2


@pytest.mark.parametrize("ranking", [[], ["b", None, "b"]])
def test_a_class_without_rows_has_0_everywhere(ranking: list[str | None]) -> None:
    """R = 0, in an empty base set too, divides by nothing and gives 0."""
    assert set(values(judge("a", 5, ranking)).values()) == {0}


def test_all_right_is_1_everywhere() -> None:
    """Five of five, and R = 5."""
    assert set(values(judge("a", 5, ["a"] * 5 + ["b"])).values()) == {1}


@pytest.mark.parametrize(
    ("labels", "scores", "winner"),
    [
        (["a", "b", "b"], [0.9, 0.8, 0.7], "b"),
        (["a", "b", "b", "a"], [0.9, 0.8, 0.7, 0.6], "a"),
        (["b", "a", "a", "b"], [0.9, 0.9, 0.7, 0.6], "b"),
        (["b", "a"], [0.5, 0.6], "a"),
        (["b", "a", "b", "a"], [-0.2, -0.1, -0.3, -0.4], "a"),
        ([None, None, "a"], [0.9, 0.8, 0.7], "a"),
        ([None, None], [0.9, 0.8], None),
        ([], [], None),
    ],
)
def test_votes(labels: list[str | None], scores: list[float], winner: str | None) -> None:
    """Most votes, then the better score, then the one met first; no label, no vote."""
    assert majority(labels, scores) == winner


def test_a_vote_needs_a_score_for_each_label() -> None:
    """Labels and scores of different length are refused."""
    with pytest.raises(ValueError, match="shorter"):
        majority(["a", "b"], [0.5])


def test_no_label_never_wins_over_a_query_without_rows() -> None:
    """A vote that nobody wins (None) does not equal any label."""
    assert values(judge("a", 2, [None, None, "a"]))["knn_accuracy"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 0}, "k must be at least 1"),
        ({"scores": (0.9,)}, "2 labels but 1 scores"),
        ({"k": 1}, "2 matches where k is 1"),
        ({"n_base": 1}, "base set has 1 rows"),
        ({"n_relevant": 4}, "must not fall"),
        ({"relevant_in_r": 3}, "must not fall"),
        ({"relevant_in_r": -1}, "must not fall"),
        ({"first_rank": None}, "first_rank is None exactly"),
        ({"n_relevant": 0, "relevant_in_r": 0}, "first_rank is None exactly"),
        ({"first_rank": 0}, "from 1 to 2"),
        ({"first_rank": 3}, "from 1 to 2"),
    ],
)
def test_numbers_that_no_ranking_gives_are_refused(change: dict[str, Any], words: str) -> None:
    """Each contradiction raises ValueError and names it."""
    sound: dict[str, Any] = {
        "label": "a",
        "k": 2,
        "labels": ("a", "b"),
        "scores": (0.9, 0.8),
        "n_relevant": 2,
        "n_base": 3,
        "first_rank": 1,
        "relevant_in_r": 1,
    }
    assert Judged(**sound).k == 2
    with pytest.raises(ValueError, match=words):
        Judged(**(sound | change))


def test_the_worked_cases_of_the_documentation_hold(tmp_path: Path) -> None:
    """Every python block of docs/measures.md runs, and its assertions with it."""
    blocks = re.findall(
        r"^```python\n(.*?)^```$", DOC.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 6
    for i, block in enumerate(blocks):
        assert block.count("assert ") >= 3
        script = tmp_path / f"case_{i}.py"
        script.write_text(block, encoding="utf-8")
        runpy.run_path(str(script))


def test_the_documentation_has_every_measure_with_its_formula() -> None:
    """A section per measure whose formula is the line of the table in the code."""
    text = DOC.read_text(encoding="utf-8")
    for measure in MEASURES.values():
        assert f"\n### {measure.name}\n\n    {measure.formula}\n" in text


# Against other libraries


def test_the_random_cases_hold_what_they_are_meant_to() -> None:
    """Ties, rows without a label, absent classes and k beyond the base set all occur often."""
    assert sum(len(set(case.scores)) < len(case.scores) for case in CASES) > 200
    assert sum(None in case.ranking for case in CASES) > 100
    assert sum(case.label not in case.ranking for case in CASES) > 30
    assert sum(case.k > len(case.ranking) for case in CASES) > 20
    tied = [case for case in CASES if len(top_voted(case.ranking[: case.k])) > 1]
    assert len(tied) > 50


def test_values_lie_between_0_and_1_in_the_order_of_the_table() -> None:
    """per_query gives one row per query, one column per measure; two measures bound two others."""
    table = per_query(case.judged for case in CASES)
    assert table.shape == (240, 7)
    assert table.dtype == np.float64
    assert table.min() == 0
    assert table.max() == 1
    for row, case in zip(table, CASES, strict=True):
        assert dict(zip(MEASURES, row, strict=True)) == values(case.judged)
        named = dict(zip(MEASURES, row, strict=True))
        assert named["map_at_k"] <= named["precision_at_k"] <= named["hit_rate_at_k"]
        assert named["top1_accuracy"] <= named["hit_rate_at_k"]
    assert per_query([]).shape == (0, 7)


def test_trec_eval_agrees() -> None:
    """P@k, Success@k, P@1, RR and Rprec are the same; AP@k divides by R, here by k.

    trec_eval breaks ties by document id, so it is given our order as falling whole numbers.
    """
    for k in sorted({case.k for case in CASES}):
        chosen = {f"q{i}": case for i, case in enumerate(CASES) if case.k == k}
        truth = {
            name: {f"d{j}": target for j, target in enumerate(case.targets)}
            for name, case in chosen.items()
        }
        run = {
            name: {f"d{j}": float(len(case.ranking) - j) for j in range(len(case.ranking))}
            for name, case in chosen.items()
        }
        same = {
            "precision_at_k": ir_measures.P @ k,
            "hit_rate_at_k": ir_measures.Success @ k,
            "top1_accuracy": ir_measures.P @ 1,
            "mrr": ir_measures.RR,
            "r_precision": ir_measures.Rprec,
        }
        average = ir_measures.AP @ k
        theirs = {
            (entry.query_id, entry.measure): entry.value
            for entry in ir_measures.iter_calc([*same.values(), average], truth, run)
        }
        assert len(theirs) == len(chosen) * len({*same.values(), average})
        for name, case in chosen.items():
            ours = values(case.judged)
            for key, measure in same.items():
                assert ours[key] == pytest.approx(theirs[name, measure], rel=0, abs=1e-12)
            converted = theirs[name, average] * case.judged.n_relevant / k
            assert ours["map_at_k"] == pytest.approx(converted, rel=0, abs=1e-12)


def test_torchmetrics_agrees() -> None:
    """All but MAP are the same; its MAP divides by the right matches among the k, here by k.

    torchmetrics computes in float32. Fractions with denominators below 64 are read back from that
    without doubt and compared exactly; its MAP is compared to float32's seven digits (trec_eval's
    to twelve). Scores must be above 0: it takes rows with others as wrong.
    """
    for case in CASES:
        ours = values(case.judged)
        n_base = len(case.ranking)
        preds = torch.arange(n_base, 0, -1, dtype=torch.float32)
        target = torch.tensor(case.targets)
        theirs = {
            "precision_at_k": torch_retrieval.retrieval_precision(preds, target, top_k=case.k),
            "hit_rate_at_k": torch_retrieval.retrieval_hit_rate(preds, target, top_k=case.k),
            "top1_accuracy": torch_retrieval.retrieval_precision(preds, target, top_k=1),
            "mrr": torch_retrieval.retrieval_reciprocal_rank(preds, target),
            "r_precision": torch_retrieval.retrieval_r_precision(preds, target),
        }
        for key, value in theirs.items():
            assert ours[key] == float(Fraction(value.item()).limit_denominator(63))
        average = torch_retrieval.retrieval_average_precision(preds, target, top_k=case.k).item()
        converted = average * sum(case.targets[: case.k]) / case.k
        assert ours["map_at_k"] == pytest.approx(converted, rel=0, abs=1e-6)


def test_scikit_learn_agrees_on_average_precision_and_reciprocal_rank() -> None:
    """With k = n its average precision times R/k is ours; with one right row it is 1 / rank."""
    compared = 0
    for case in CASES:
        n_base, targets = len(case.ranking), np.array(case.targets)
        if not targets.any():
            continue
        falling = np.arange(n_base, 0, -1, dtype=float)
        ours = values(judge(case.label, n_base, case.ranking))
        theirs = average_precision_score(targets, falling)
        assert ours["map_at_k"] == pytest.approx(theirs * targets.mean(), rel=0, abs=1e-12)
        first = targets * (targets.cumsum() == 1)
        theirs = label_ranking_average_precision_score(first[np.newaxis], falling[np.newaxis])
        assert ours["mrr"] == pytest.approx(theirs, rel=0, abs=1e-12)
        compared += 1
    assert compared > 150


def top_voted(labels: Sequence[str | None]) -> set[str]:
    """Every label that has the most votes."""
    votes = Counter(label for label in labels if label is not None)
    return {label for label, count in votes.items() if count == max(votes.values())}


def plain_search(
    base: np.ndarray[Any, Any], queries: np.ndarray[Any, Any], k: int
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows and cosines of the k best, best first."""
    scores = queries @ base.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(scores, rows, axis=1)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_scikit_learn_agrees_on_the_vote(k: int) -> None:
    """KNeighborsClassifier names the same class; on a tied vote ours has the best score.

    300 random queries. On a tie scikit-learn's answer is the tied label that sorts first, and ours
    the tied label met first in rank order.
    """
    random = np.random.default_rng(k)
    base, queries = (random.normal(size=(n, 6)) for n in (120, 300))
    base, queries = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (base, queries))
    labels = random.choice(list("abcd"), 120)
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(base, labels)
    rows, scores = plain_search(base, queries, k)
    ties = 0
    for named, found, score in zip(theirs.predict(queries), labels[rows], scores, strict=True):
        ours = majority(found.tolist(), score.tolist())
        best = top_voted(found.tolist())
        if len(best) == 1:
            assert ours == named
        else:
            ties += 1
            assert named == min(best)
            assert ours == next(label for label in found if label in best)
    assert (ties > 20) == (k > 1)


def test_scikit_learn_agrees_on_the_matrix() -> None:
    """The normalized confusion matrix over all (query, match) pairs is the same matrix."""
    random = np.random.default_rng(3)
    classes, k = ["a", "b", "c"], 5
    queries = random.choice(classes, 200)
    matches = random.choice(classes, (200, k), p=[0.5, 0.3, 0.2])
    counts = np.stack([(matches == label).sum(axis=1) for label in classes], axis=1)
    theirs = confusion_matrix(queries.repeat(k), matches.ravel(), labels=classes, normalize="true")
    ours = correspondence_matrix(queries.tolist(), counts, classes, k)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


# Chance


@pytest.mark.parametrize(
    "counts",
    [
        {"a": 1},
        {"a": 2, "b": 3},
        {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1},
        {"a": 3, "b": 1, "": 2},
        {"a": 2, "b": 2, "c": 2},
        {"a": 1, "b": 4, "": 1},
        {"a": 1, "": 3},
        {"a": 3, "b": 2, "c": 2},
    ],
    ids=str,
)
def test_chance_is_the_mean_over_all_orders(counts: dict[str, int]) -> None:
    """For up to 7 rows, every k up to 9 and every order; rows under "" have no label."""
    rows = [label or None for label, count in counts.items() for _ in range(count)]
    labelled = {label: count for label, count in counts.items() if label}
    orders = [[rows[i] for i in order] for order in itertools.permutations(range(len(rows)))]
    for label in labelled:
        for k in (1, 2, 3, 4, 5, 9) if len(rows) < 7 else (2, 5):
            table = per_query(judge(label, k, order) for order in orders)
            expected = dict(zip(MEASURES, table.mean(axis=0), strict=True))
            found = chance_level(label, k, labelled, len(rows))
            assert found == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("label", ["a", "b", "e"])
def test_chance_agrees_with_a_simulation(label: str) -> None:
    """60 rows, five classes and rows without a label: within 5 standard errors of 20,000 orders."""
    counts = {"a": 20, "b": 12, "c": 12, "d": 9, "e": 2}
    rows = [*"".join(name * count for name, count in counts.items()), *[None] * 5]
    random = np.random.default_rng(11)
    table = per_query(
        judge(label, 7, [rows[i] for i in random.permutation(60)]) for _ in range(20_000)
    )
    errors = table.std(axis=0) / math.sqrt(len(table))
    found = np.array(list(chance_level(label, 7, counts, 60).values()))
    assert (np.abs(found - table.mean(axis=0)) < 5 * errors).all()


@pytest.mark.parametrize("k", [5, 20])
def test_chance_of_the_vote_with_thousands_of_classes(k: int) -> None:
    """3,000 classes of unequal size: within 5 standard errors of 200,000 draws of k rows."""
    counts = {"big": 3000, **{str(i): 1 + i % 17 for i in range(3000)}}
    sizes = np.array(list(counts.values()))
    random = np.random.default_rng(k)
    draws = 200_000
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rows = random.integers(len(labels), size=(draws, k))
    rows = rows[[len(set(row)) == k for row in rows.tolist()]]
    wins = 0.0
    for found in labels[rows].tolist():
        own = found.count(0)
        if own:
            votes = Counter(found).values()
            wins += (own == max(votes)) / sum(count == own for count in votes)
    expected = wins / len(rows)
    error = math.sqrt(expected * (1 - expected) / len(rows))
    found = chance_level("big", k, counts, len(labels), measure="knn_accuracy")
    assert list(found) == ["knn_accuracy"]
    assert abs(found["knn_accuracy"] - expected) < 5 * error


@pytest.mark.parametrize(("k", "unlabelled"), [(1, 0), (5, 0), (5, 40), (60, 3), (999, 0)])
def test_chances_of_all_classes_to_win_the_vote_sum_to_1(k: int, unlabelled: int) -> None:
    """Somebody wins, unless none of the drawn rows has a label."""
    counts = {str(i): i + 1 for i in range(25)}
    n_base = sum(counts.values()) + unlabelled
    total = math.fsum(
        chance_level(label, k, counts, n_base, measure="knn_accuracy")["knn_accuracy"]
        for label in counts
    )
    nobody = math.comb(unlabelled, min(k, n_base)) / math.comb(n_base, min(k, n_base))
    assert total == pytest.approx(1 - nobody, rel=0, abs=1e-12)


def test_chance_of_the_vote_where_one_class_of_two_has_the_majority() -> None:
    """Large counts and k: with two classes and odd k it is a sum of hypergeometric terms."""
    k, own, other = 301, 400_000, 600_000
    ways = sum(math.comb(own, j) * math.comb(other, k - j) for j in range(151, k + 1))
    found = chance_level("a", k, {"a": own, "b": other}, own + other)["knn_accuracy"]
    assert found == pytest.approx(ways / math.comb(own + other, k), rel=0, abs=1e-12)


@pytest.mark.parametrize(
    ("relevant", "k"), [(1, 1), (1, 5), (3, 100), (1000, 5), (200_000, 50), (999_999, 2)]
)
def test_chance_keeps_its_digits_in_a_million_rows(relevant: int, k: int) -> None:
    """Hit rate, MAP and MRR agree with whole numbers and running sums to 1e-12 of their size."""
    n_base = 1_000_000
    found = chance_level("a", k, {"a": relevant}, n_base)
    missed = Fraction(math.comb(n_base - relevant, k), math.comb(n_base, k))
    assert found["hit_rate_at_k"] == pytest.approx(float(1 - missed), rel=1e-12)
    terms = [
        Fraction(relevant, n_base) * (1 + Fraction((i - 1) * (relevant - 1), n_base - 1)) / i
        for i in range(1, k + 1)
    ]
    assert found["map_at_k"] == pytest.approx(float(sum(terms) / k), rel=1e-12)
    ranks = np.arange(1, n_base - relevant + 2)
    steps = 1 - (relevant - 1) / (n_base - ranks[:-1])
    first = relevant / n_base * np.concatenate([[1.0], steps.cumprod()])
    assert first.sum() == pytest.approx(1, rel=1e-9)
    assert found["mrr"] == pytest.approx(float((first / ranks).sum()), rel=1e-9)


@pytest.mark.parametrize(
    ("counts", "n_base"), [({}, 0), ({"b": 3}, 3), ({}, 4), ({"a": 0, "b": 2}, 2)]
)
def test_chance_is_0_for_a_class_without_rows(counts: Mapping[str, int], n_base: int) -> None:
    """In an empty base set too, and for leave-one-out on the only row of a class."""
    found = chance_level("a", 5, counts, n_base)
    assert found == dict.fromkeys(NAMES, 0.0)
    assert not np.signbit(list(found.values())).any()  # nobody wants to read -0.0


def test_one_measure_has_the_same_chance_alone() -> None:
    """Asked for by name, each gives the entry it has among all."""
    counts = {"a": 7, "b": 9}
    every = chance_level("a", 5, counts, 18)
    assert list(every) == NAMES
    for name in NAMES:
        assert chance_level("a", 5, counts, 18, measure=name) == {name: every[name]}
    with pytest.raises(KeyError, match="accuracy"):
        chance_level("a", 5, counts, 18, measure="accuracy")


@pytest.mark.parametrize(
    ("k", "counts", "n_base", "words"),
    [
        (0, {"a": 1}, 1, "k must be at least 1"),
        (1, {"a": -1}, 1, "below 0"),
        (1, {"a": 2, "b": 1}, 2, "more than the 2 rows"),
    ],
)
def test_a_lottery_that_cannot_be_drawn_is_refused(
    k: int, counts: dict[str, int], n_base: int, words: str
) -> None:
    """Each contradiction raises ValueError and names it."""
    with pytest.raises(ValueError, match=words):
        Lottery("a", k, counts, n_base)


# Means


def test_a_mean_is_rounded_once() -> None:
    """Equal values have themselves as mean, which a sum divided by n misses; others are exact."""
    assert sum([0.1] * 3) / 3 != 0.1
    random = np.random.default_rng(5)
    for _ in range(200):
        value, n = float(random.random()), int(random.integers(1, 50))
        assert mean([value] * n) == value
        drawn = random.random(n) ** 5
        assert mean(drawn) == float(sum(map(Fraction, drawn.tolist())) / n)


@pytest.mark.parametrize("wrong", [[], [[0.5]]])
def test_a_mean_of_nothing_is_refused(wrong: list[Any]) -> None:
    """No value, or more than one dimension."""
    with pytest.raises(ValueError, match="at least one value"):
        mean(wrong)


# The matrix


def test_a_matrix_by_hand() -> None:
    """Totals over k times queries, divided once; a class that was not asked has no row."""
    counts = np.array([[4, 1, 0], [2, 3, 0], [3, 1, 1]])
    matrix = correspondence_matrix(["a", "b", "a"], counts, ["a", "b", "c"], 5)
    assert matrix == [[7 / 10, 2 / 10, 1 / 10], [2 / 5, 3 / 5, 0 / 5], None]


def test_rows_sum_to_1_and_the_diagonal_is_the_precision_of_each_class() -> None:
    """On random matches that all have labels."""
    random = np.random.default_rng(8)
    classes, k = list("abcdefg"), 7
    labels = random.choice(classes, 500)
    found = random.choice(classes, (500, k))
    counts = np.stack([(found == label).sum(axis=1) for label in classes], axis=1)
    matrix = correspondence_matrix(labels.tolist(), counts, classes, k)
    for i, label in enumerate(classes):
        row = matrix[i]
        assert row is not None
        assert math.fsum(row) == pytest.approx(1, rel=0, abs=1e-12)
        precisions = [
            MEASURES["precision_at_k"].value(judge(label, k, matches.tolist()))
            for matches in found[labels == label]
        ]
        assert row[i] == pytest.approx(mean(precisions), rel=0, abs=1e-15)


def test_a_row_sums_to_less_where_matches_have_no_label_or_are_missing() -> None:
    """Three labelled matches of five: the row sums to 3/5, for it is divided by k."""
    assert correspondence_matrix(["a"], np.array([[2, 1]]), ["a", "b"], 5) == [[2 / 5, 1 / 5], None]


def test_counts_in_one_byte_do_not_overflow() -> None:
    """Ten queries of 100 matches each are 1,000, which int8 cannot hold."""
    counts = np.full((10, 1), 100, dtype=np.int8)
    assert correspondence_matrix(["a"] * 10, counts, ["a"], 100) == [[1.0]]


def test_a_matrix_without_queries_has_no_rows() -> None:
    """Every class is None."""
    empty = np.zeros((0, 2), dtype=np.int64)
    assert correspondence_matrix([], empty, ["a", "b"], 5) == [None, None]


@pytest.mark.parametrize(
    ("labels", "counts", "classes", "k", "words"),
    [
        (["a"], np.array([[1]]), ["a"], 0, "k must be at least 1"),
        (["a"], np.array([[1, 1]]), ["a", "a"], 5, "repeat"),
        (["a"], np.array([[1, 1]]), ["a"], 5, "shape"),
        (["a", "a"], np.array([[1]]), ["a"], 5, "shape"),
        (["a"], np.array([[1.0]]), ["a"], 5, "integers"),
        (["a"], np.array([[-1]]), ["a"], 5, "below 0"),
        (["a"], np.array([[3, 3]]), ["a", "b"], 5, "more than k = 5"),
        (["x"], np.array([[1]]), ["a"], 5, "not in classes: \\['x'\\]"),
    ],
)
def test_counts_that_no_search_gives_are_refused(
    labels: list[str],
    counts: np.ndarray[Any, Any],
    classes: list[str],
    k: int,
    words: str,
) -> None:
    """Each contradiction raises ValueError and names it."""
    with pytest.raises(ValueError, match=words):
        correspondence_matrix(labels, counts, classes, k)
