"""How well the classes separate, for a page to look at: leave-one-out, in the background."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch import metrics

if TYPE_CHECKING:
    from imgsearch.records import SearchResult
    from imgsearch.search import SearchEngine
    from imgsearch.web.settings import Settings

_STEP = 64
_KEPT = 4  # evaluations, by k
_WORST = 50
_SHOWN = 100
_MEASURE = "precision_at_k"


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation: `summary` is JSON; `rows[i]` was asked and got `results[i]`."""

    summary: dict[str, Any]
    rows: list[int]
    results: list[SearchResult]


class Browse:
    """Evaluations of one generation, each made when it is first asked for, one at a time."""

    def __init__(self, engine: SearchEngine, settings: Settings) -> None:
        """Nothing is computed yet."""
        self._engine, self._settings = engine, settings
        self._made: OrderedDict[int, Evaluated | None] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Give up what is being computed."""
        self._stopped = True

    def evaluated(self, k: int) -> Evaluated | None:
        """Return the evaluation at k, or None while it is being made."""
        with self._lock:
            if k in self._made:
                found = self._made[k]
                self._made.move_to_end(k)
                return found
            while len(self._made) >= _KEPT:
                self._made.popitem(last=False)
            self._made[k] = None
        threading.Thread(target=self._make, args=(k,), name="imgsearch-browse", daemon=True).start()
        return None

    def cell(self, k: int, query_label: str, match_label: str) -> dict[str, Any] | None:
        """Return the queries of one class that had matches of another, with these matches."""
        made = self.evaluated(k)
        if made is None:
            return None
        items: list[dict[str, Any]] = []
        for row, result in zip(made.rows, made.results, strict=True):
            if result.label != query_label:
                continue
            matches = [match for match in result.matches if match.label == match_label]
            if matches:
                items.append(
                    {
                        "row": row,
                        "path": self._engine.index.items.path(row),
                        "label": result.label,
                        "matches": [match.to_dict() for match in matches],
                    }
                )
        items.sort(key=lambda item: -len(item["matches"]))
        return {"total": len(items), "items": items[:_SHOWN]}

    def _make(self, k: int) -> None:
        with self._turn:
            made = self._evaluate(k)
            with self._lock:
                if made is None:
                    self._made.pop(k, None)
                elif k in self._made:
                    self._made[k] = made

    def _evaluate(self, k: int) -> Evaluated | None:
        engine = self._engine
        count = engine.index.manifest.count
        most = self._settings.evaluated_rows
        ids = engine.index.items.classes.ids
        rows = [int(row) for row in np.flatnonzero(ids >= 0)]
        sampled = len(rows) > most
        if sampled:
            # Even steps of rows in their order meet each class by its size.
            rows = [rows[(2 * i + 1) * len(rows) // (2 * most)] for i in range(most)]
        results: list[SearchResult] = []
        for start in range(0, len(rows), _STEP):
            if self._stopped:
                return None
            part = [engine.row_query(row) for row in rows[start : start + _STEP]]
            results += engine.ask(part, k)
        classes = engine.index.manifest.classes
        labels = [str(result.label) for result in results]
        values = np.array(
            [sum(match.label == result.label for match in result.matches) / k for result in results]
        )
        chances = {
            # The query itself is out of the base set.
            label: metrics.chance_level(
                label, k, {**classes, label: classes[label] - 1}, max(1, count - 1)
            )[_MEASURE]
            for label in sorted(set(labels))
        }
        shares: Counter[tuple[str, str]] = Counter()
        for result in results:
            shares.update(
                (str(result.label), match.label) for match in result.matches if match.label
            )
        number = Counter(labels)
        share = {pair: times / (k * number[pair[0]]) for pair, times in shares.items()}
        names = list(engine.classes)
        matrix = None
        if len(names) <= self._settings.matrix_classes:
            matrix = [
                [share.get((one, other), 0.0) for other in names] if number[one] else None
                for one in names
            ]
        worst = sorted(
            ((value, *pair) for pair, value in share.items() if pair[0] != pair[1]),
            key=lambda entry: (-entry[0], *entry[1:]),
        )
        summary = {
            "ready": True,
            "k": k,
            "n_queries": len(results),
            "sampled": sampled,
            **_means(values, [chances[label] for label in labels]),
            "per_class": {
                label: {
                    "n": number[label],
                    **_flat(values[np.array(labels) == label], chances[label]),
                }
                for label in sorted(number)
            },
            "correspondence": {"labels": names, "matrix": matrix},
            "confusions": [
                {"query_label": one, "match_label": other, "share": value}
                for value, one, other in worst[:_WORST]
            ],
        }
        return Evaluated(summary, rows, results)


def _interval(values: np.ndarray) -> list[float] | None:
    if not len(values):
        return None
    low, high = metrics.bootstrap_intervals(values[:, None].astype(np.float64))[0]
    return [float(low), float(high)]


def _means(values: np.ndarray, chances: list[float]) -> dict[str, Any]:
    if not len(values):
        return {"overall": {}, "intervals": {}, "chance": {}}
    return {
        "overall": {_MEASURE: metrics.mean(values)},
        "intervals": {_MEASURE: _interval(values)},
        "chance": {_MEASURE: metrics.mean(chances)},
    }


def _flat(values: np.ndarray, chance: float) -> dict[str, Any]:
    return {
        _MEASURE: metrics.mean(values),
        "intervals": {_MEASURE: _interval(values)},
        "chance": {_MEASURE: chance},
    }
