"""Indexes that earlier versions wrote are read for ever, with the same answers to the last bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from imgsearch import SearchEngine, verify
from imgsearch.index import open_index

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Run

GOLDEN = Path(__file__).parent / "golden"
INDEXES = ["v1/external", "v1/pictures", "v2/learned"]
# Of the manifests: a golden index that was made anew, or changed, is none.
SUMS = {
    "v1/external": "bbaf467a2334a0e06a272a0ac6699ee0d3a31d8335e7010777cb24de560b82e0",
    "v1/pictures": "ffc3c9ef58822e819cf4a2a4796a4f8437a0fcd297b1076a1b1bd3b03da6a809",
    "v2/learned": "668436c95620e8bbb23d471e5c87209a086b8fa7e95f29026647563fc47fac12",
}


def expected(name: str) -> Any:  # noqa: ANN401 - a JSON document
    """Return what is known of a golden index."""
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def test_every_golden_index_is_asked() -> None:
    """No folder is forgotten, and none was made anew."""
    found = {file.parent for file in GOLDEN.glob("*/*/manifest.json")}
    assert {str(folder.relative_to(GOLDEN)) for folder in found} == set(INDEXES)
    for name, total in SUMS.items():
        raw = (GOLDEN / name / "manifest.json").read_bytes()
        assert hashlib.sha256(raw).hexdigest() == total


@pytest.mark.parametrize("name", INDEXES)
def test_golden_index_is_whole(name: str) -> None:
    """It is verified without a problem, and reading it writes nothing."""
    before = sorted((GOLDEN / name).iterdir())
    assert verify(GOLDEN / name) == []
    assert sorted((GOLDEN / name).iterdir()) == before


@pytest.mark.parametrize("name", INDEXES)
def test_golden_index_holds_what_it_held(name: str) -> None:
    """Each row of the sidecar, and the list of skipped files, has the values that were stored."""
    index = open_index(GOLDEN / name, thorough=True)
    known = expected(name)
    assert index.items.count == len(known["items"])
    for row, item in enumerate(known["items"]):
        found = index.items.item(row)
        names = {"bytes": "size"}
        assert {key: getattr(found, names.get(key, key)) for key in item} == item
    assert [{"path": skip.path, "reason": skip.reason} for skip in index.skipped()] == known[
        "skipped"
    ]


@pytest.mark.parametrize("name", INDEXES)
def test_golden_index_gives_the_same_answers(name: str) -> None:
    """Every row is asked: rows and scores are those that were worked out when it was made."""
    known = expected(name)
    with SearchEngine.open(GOLDEN / name) as engine:
        for row, matches in enumerate(known["matches"]):
            result = engine.by_row(row, k=5)
            found = [{"row": m.row, "score": float(m.score).hex()} for m in result.matches]
            assert found == matches
            assert [m.path for m in result.matches] == [
                known["items"][match["row"]]["path"] for match in matches
            ]
            assert result.label == known["items"][row]["label"]


def test_golden_transform_gives_the_same_answers() -> None:
    """A vector of the model goes through the transform to the last bit, and finds the same."""
    with SearchEngine.open(GOLDEN / "v2/learned") as engine:
        for query in expected("v2/learned")["queries"]:
            vector = np.array([float.fromhex(number) for number in query["vector"]], np.float32)
            matches = engine.by_vector(vector, k=5).matches
            found = [{"row": m.row, "score": float(m.score).hex()} for m in matches]
            assert found == query["matches"]


def test_golden_index_by_the_command(imgsearch: Callable[..., Run]) -> None:
    """The installed program answers with names of every script as they were given."""
    known = expected("v1/pictures")
    run = imgsearch("search", GOLDEN / "v1/pictures", "row:0", "-k", "5", "--json")
    assert run.code == 0
    (query,) = run.json["queries"]
    assert [(m["row"], float(m["score"]).hex()) for m in query["matches"]] == [
        (m["row"], m["score"]) for m in known["matches"][0]
    ]
    assert query["label"] == known["items"][0]["label"]
