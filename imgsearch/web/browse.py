"""How well the classes separate, for a page to look at: leave-one-out, in the background."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch.evaluation import judge
from imgsearch.metrics import spread
from imgsearch.questions import Asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imgsearch.ranking import Scan
    from imgsearch.records import SearchResult
    from imgsearch.search import SearchEngine
    from imgsearch.web.settings import Settings

_STEP = 64
_KEPT = 4  # evaluations, by k
_WORST = 50
_SHOWN = 100
_NOTHING: dict[str, Any] = {
    "learned_from_queries": False,
    "overall": {},
    "intervals": {},
    "chance": {},
    "per_class": {},
    "correspondence": {"labels": [], "matrix": None},
    "confusions": [],
}


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
        self._made: OrderedDict[int, Evaluated | Exception | None] = OrderedDict()
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """Give up what is being computed."""
        self._stopped = True

    def evaluated(self, k: int) -> Evaluated | None:
        """Return the evaluation at k, or None while it is being made; raises what it came to."""
        with self._lock:
            if k in self._made:
                found = self._made[k]
                self._made.move_to_end(k)
                if isinstance(found, Exception):
                    raise found
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
            made: Evaluated | Exception | None
            try:
                made = self._evaluate(k)
            except Exception as error:  # noqa: BLE001 - whoever asks gets it
                made = error
            with self._lock:
                if made is None:
                    self._made.pop(k, None)
                elif k in self._made:
                    self._made[k] = made

    def _evaluate(self, k: int) -> Evaluated | None:
        engine = self._engine
        most = self._settings.evaluated_rows
        rows = [int(row) for row in np.flatnonzero(engine.index.items.classes.ids >= 0)]
        if engine.index.manifest.count == 1:
            rows = []  # left out, it has nothing to be compared with
        sampled = len(rows) > most
        if sampled:
            # Even steps of rows in their order meet each class by its size.
            rows = [rows[place] for place in spread(len(rows), most)]
        queries = engine.row_queries(rows)
        scans: list[Scan] = []
        for start in range(0, len(queries), _STEP):
            if self._stopped:
                return None
            scans += engine.scans(queries[start : start + _STEP], k, ranks=True)
        facts: dict[str, Any] = {"ready": True, "k": k, "n_queries": len(rows), "sampled": sampled}
        if not rows:
            return Evaluated({**facts, **_NOTHING}, [], [])
        small = len(engine.classes) <= self._settings.matrix_classes
        report = judge(engine, Asked("leave-one-out", queries, []), scans, k, matrix=small)
        found = report.to_dict()
        parts = (
            "learned_from_queries",
            "overall",
            "intervals",
            "chance",
            "per_class",
            "correspondence",
        )
        facts.update({part: found[part] for part in parts})
        facts["confusions"] = _worst(report.results, k)
        return Evaluated(facts, rows, list(report.results))


def _worst(results: Sequence[SearchResult], k: int) -> list[dict[str, Any]]:
    """Return which classes are taken most for which others, the worst first."""
    asked = Counter(result.label for result in results)
    taken = Counter(
        (str(result.label), match.label)
        for result in results
        for match in result.matches
        if match.label is not None and match.label != result.label
    )
    shares = sorted(
        ((times / (k * asked[pair[0]]), *pair) for pair, times in taken.items()),
        key=lambda entry: (-entry[0], *entry[1:]),
    )
    return [
        {"query_label": one, "match_label": other, "share": share}
        for share, one, other in shares[:_WORST]
    ]
