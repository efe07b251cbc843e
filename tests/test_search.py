"""Search and evaluation through the engine, against plain loops over the stored vectors."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import write_index

from imgsearch import (
    ImageDecodeError,
    ModelMismatchError,
    NotFoundError,
    QueryError,
    SearchEngine,
    codes,
    evaluate,
)
from imgsearch.records import SCOPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from imgsearch.records import Scope, SearchResult


def found(result: SearchResult) -> list[tuple[int, float]]:
    """Return rows and scores of a result."""
    return [(match.row, match.score) for match in result.matches]


def brute_force(engine: SearchEngine, row: int, k: int, scope: Scope) -> list[tuple[int, float]]:
    """Rank all rows by numpy alone, in float64, rounded once."""
    rows = engine.index.vectors.rows
    scores = (rows.astype(np.float64) @ rows[row].astype(np.float64)).astype(np.float32)
    labels = engine.index.items.column("label")
    keep = [
        i
        for i in range(len(rows))
        if i != row
        and (
            scope == "all"
            or (scope == "same" and labels[i] == labels[row])
            or (scope == "other" and labels[i] is not None and labels[i] != labels[row])
        )
    ]
    keep.sort(key=lambda i: (-scores[i], i))
    return [(i, float(scores[i])) for i in keep[:k]]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("k", [1, 5, 10, 224])
def test_every_row_is_brute_force(rooms: Path, k: int, scope: Scope) -> None:
    """Every row as query in every scope: no row, order or score differs from numpy's."""
    with SearchEngine.open(rooms) as engine:
        for row in range(engine.index.manifest.count):
            result = engine.by_row(row, k, scope=scope)
            assert found(result) == brute_force(engine, row, k, scope)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index of 1,500 rows around 12 centres, with copies, labels and rows without one."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((12, 80))[rng.integers(0, 12, 1500)]
    rows += 0.6 * rng.standard_normal(rows.shape)
    rows[3:703:10] = rows[3]
    labels = [None if i % 50 == 0 else f"c{i % 7}" for i in range(1500)]
    return write_index(tmp_path_factory.mktemp("many") / "many", rows, labels)


@pytest.fixture
def with_codes(many: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SearchEngine]:
    """Return an engine over these rows that answers single queries from codes."""
    monkeypatch.setattr(codes, "_WORTH_BYTES", 0)
    with SearchEngine.open(many) as engine:
        engine.warm_up()
        yield engine


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("k", [1, 10, 120])
def test_codes_alone_and_together_are_brute_force(
    with_codes: SearchEngine, k: int, scope: Scope
) -> None:
    """From codes, by a matrix product and by numpy: the same matches and class profiles."""
    picked = [row for row in range(0, 1500, 83) if row % 50]
    alone = [with_codes.by_row(row, k, scope=scope) for row in picked]
    queries = [with_codes.row_query(row) for row in picked]
    assert with_codes.ask(queries, k, scope=scope) == alone
    if scope == "all":
        # An evaluation asks for a few rows more, and with ranks.
        scans = with_codes.scans(queries, k + 8, ranks=True)
        pairs = zip(queries, scans, strict=True)
        assert [with_codes.result(query, k, scan) for query, scan in pairs] == alone
    for row, result in zip(picked, alone, strict=True):
        assert found(result) == brute_force(with_codes, row, k, scope)
        if scope == "all":
            assert result.correspondence is not None
            ranked = brute_force(with_codes, row, 1500, "all")
            labels = with_codes.index.items.column("label")
            for share in result.correspondence.classes:
                first = next(pair for pair in ranked if labels[pair[0]] == share.label)
                assert (share.best_row, share.best_score) == first


def test_one_engine_answers_many_threads(with_codes: SearchEngine) -> None:
    """8 threads over one engine get what one thread gets, in every scope."""
    asked = [
        (row, scope) for row in range(1, 1500, 23) if row % 50 for scope in ("all", "same", "other")
    ]

    def ask(question: tuple[int, Scope]) -> SearchResult:
        return with_codes.by_row(question[0], 10, scope=question[1])

    wanted = [ask(question) for question in asked]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, asked)) == wanted


@pytest.fixture(scope="module")
def wardrobe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the contract's worked case: five matches, one of them a Kitchen.

    The first axis is what the query looks along; the cosine falls row by row.
    """
    cosines = [0.99, 0.98, 0.97, 0.96, 0.95, 0.5, 0.4]
    labels = ["Wardrobe", "Wardrobe", "Kitchen", "Wardrobe", "Wardrobe", "Kitchen", None]
    rows = np.array([[c, math.sqrt(1 - c * c)] for c in cosines])
    return write_index(tmp_path_factory.mktemp("worked") / "wardrobe", rows, labels)


def test_worked_case(wardrobe: Path) -> None:
    """Wardrobe, Wardrobe, Kitchen, Wardrobe, Wardrobe: 80.00%, 20.00%, shares 0.8 and 0.2."""
    result = SearchEngine.open(wardrobe).by_vector([1.0, 0.0], label="Wardrobe")
    profile = result.correspondence
    assert profile is not None
    assert (profile.accuracy, profile.other_classes) == (4 / 5, 1 / 5)
    assert [(share.label, share.count, share.share) for share in profile.classes] == [
        ("Kitchen", 1, 1 / 5),
        ("Wardrobe", 4, 4 / 5),
    ]
    assert [share.best_row for share in profile.classes] == [2, 0]


def test_worked_case_is_printed(wardrobe: Path, imgsearch, tmp_path: Path) -> None:  # noqa: ANN001
    """The command prints the study's line; by row the query itself is left out."""
    run = imgsearch("search", wardrobe, "row:0", "-k", "4", cwd=tmp_path)
    assert run.code == 0
    assert "Accuracy of correct matches by correspondence to other classes: 75.00%\n" in run.out


def test_scope_same_and_other_report_no_accuracy(wardrobe: Path) -> None:
    """At scope same the accuracy is 100% by construction, so that none is reported."""
    engine = SearchEngine.open(wardrobe)
    same = engine.by_vector([1, 0], label="Wardrobe", scope="same")
    other = engine.by_vector([1, 0], label="Wardrobe", scope="other")
    assert {match.label for match in same.matches} == {"Wardrobe"}
    assert [match.row for match in other.matches] == [2, 5]
    assert same.correspondence is None
    assert other.correspondence is None


def test_query_without_label_gets_a_profile(wardrobe: Path) -> None:
    """Without a label there is a class profile, and no accuracy of 0%."""
    profile = SearchEngine.open(wardrobe).by_vector([1, 0]).correspondence
    assert profile is not None
    assert profile.accuracy is None
    assert profile.other_classes is None
    assert [share.count for share in profile.classes] == [1, 4]


def test_min_score_cuts_matches(wardrobe: Path) -> None:
    """Matches below the least score are left out, and do not count; the division is by k."""
    result = SearchEngine.open(wardrobe).by_vector([1, 0], label="Wardrobe", min_score=0.975)
    assert [match.row for match in result.matches] == [0, 1]
    assert result.correspondence is not None
    assert result.correspondence.accuracy == 2 / 5


def test_row_query_never_matches_itself(wardrobe: Path) -> None:
    """A row is neither among its matches nor the best image of its own class."""
    result = SearchEngine.open(wardrobe).by_row(0, k=7)
    assert 0 not in [match.row for match in result.matches]
    assert len(result.matches) == 6
    assert result.correspondence is not None
    assert result.correspondence.classes[1].best_row == 1


def test_ties_go_by_row(tmp_path: Path) -> None:
    """Of equal pictures the lower row comes first, also as best image of a class."""
    rows = np.tile([[0.6, 0.8]], (40, 1))
    index = write_index(tmp_path / "ties", rows, ["a", "b"] * 20)
    result = SearchEngine.open(index).by_vector([0.6, 0.8], k=30)
    assert [match.row for match in result.matches] == list(range(30))
    assert result.correspondence is not None
    assert [share.best_row for share in result.correspondence.classes] == [0, 1]


@pytest.mark.parametrize(
    ("question", "error"),
    [
        ({"k": 0}, QueryError),
        ({"k": 2.5}, QueryError),
        ({"k": True}, QueryError),
        ({"scope": "some"}, QueryError),
        ({"scope": "same"}, QueryError),
        ({"scope": "same", "label": "Garage"}, QueryError),
        ({"min_score": math.nan}, QueryError),
    ],
)
def test_impossible_questions_are_refused(
    wardrobe: Path, question: dict[str, object], error: type[Exception]
) -> None:
    """What cannot be asked raises QueryError with a sentence."""
    with pytest.raises(error, match=r"\w+ \w+"):
        SearchEngine.open(wardrobe).by_vector([1.0, 0.0], **question)  # type: ignore[arg-type]


def test_vectors_are_checked(wardrobe: Path) -> None:
    """A vector of another length is another model's; zero and NaN have no direction."""
    engine = SearchEngine.open(wardrobe)
    with pytest.raises(ModelMismatchError):
        engine.by_vector([1.0, 0.0, 0.0])
    for vector in ([0.0, 0.0], [math.nan, 1.0], ["a", "b"]):
        with pytest.raises(QueryError):
            engine.by_vector(vector)


def test_by_image_path_bytes_and_pillow_agree(rooms: Path, small_photos: Path) -> None:
    """A path, its bytes and the decoded image give the same matches; a copy scores 1."""
    from PIL import Image

    with SearchEngine.open(rooms) as engine:
        photo = small_photos / engine.index.items.path(3)
        with Image.open(photo) as image:
            results = engine.by_images([photo, photo.read_bytes(), image])
        assert found(results[0]) == found(results[1]) == found(results[2])
        best = results[0].matches[0]
        assert (best.row, best.path) == (3, photo.name)
        assert abs(best.score - 1) <= 2**-23
        with pytest.raises(NotFoundError):
            engine.by_image("nowhere.jpg")
        with pytest.raises(ImageDecodeError):
            engine.by_image(b"this is text")


def test_query_vector_is_the_stored_one(rooms: Path, small_photos: Path) -> None:
    """Build and query embed alike: asked alone or in a folder, the vector is the stored row."""
    with SearchEngine.open(rooms) as engine:
        names = [engine.index.items.path(row) for row in range(5)]
        for row, name in enumerate(names):
            query = engine.image_query(small_photos / name)
            assert query.vector.tobytes() == engine.index.vectors.rows[row].tobytes()


def test_results_to_dict_and_pandas(wardrobe: Path) -> None:
    """A result has the fields of the contract, as a dictionary and as a DataFrame."""
    result = SearchEngine.open(wardrobe).by_row(1)
    document = result.to_dict()
    assert set(document) == {"query", "label", "matches", "correspondence", "resemblance"}
    fields = {"rank", "row", "path", "label", "score", "distance", "probability"}
    assert set(document["matches"][0]) == fields
    assert set(document["correspondence"]["classes"][0]) == {
        "label",
        "count",
        "share",
        "best_score",
        "best_row",
    }
    table = result.to_pandas()
    assert list(table["row"]) == [match.row for match in result.matches]
    assert document["matches"][0]["distance"] == 1 - document["matches"][0]["score"]


def test_leave_one_out_is_a_plain_loop(rooms: Path) -> None:
    """Every mean of an evaluation is what a loop over sorted scores gives."""
    k = 5
    with SearchEngine.open(rooms) as engine:
        report = evaluate(engine, k=k)
        labels = engine.index.items.column("label")
        sums: Counter[str] = Counter()
        for row, label in enumerate(labels):
            ranked = [labels[i] for i, _ in brute_force(engine, row, len(labels), "all")]
            right = [other == label for other in ranked]
            relevant = sum(right)
            sums["precision_at_k"] += sum(right[:k]) / k
            sums["hit_rate_at_k"] += any(right[:k])
            sums["top1_accuracy"] += right[0]
            sums["mrr"] += 1 / (1 + right.index(True)) if relevant else 0
            sums["r_precision"] += sum(right[:relevant]) / relevant if relevant else 0
            sums["map_at_k"] += sum(sum(right[: i + 1]) / (i + 1) for i in range(k) if right[i]) / k
    assert report.mode == "leave-one-out"
    assert report.n_queries == len(labels)
    for name, total in sums.items():
        assert report.overall[name] == pytest.approx(total / len(labels), abs=1e-12)
        low, high = report.intervals[name]
        assert 0 <= low <= report.overall[name] <= high <= 1


def test_evaluation_matrix_and_fields(rooms: Path) -> None:
    """Rows of the matrix sum to 1, its diagonal is each class' precision; JSON has all fields."""
    with SearchEngine.open(rooms) as engine:
        document = evaluate(engine).to_dict()
    labels, matrix = document["correspondence"]["labels"], document["correspondence"]["matrix"]
    for label, row in zip(labels, matrix, strict=True):
        assert sum(row) == pytest.approx(1, abs=1e-12)
        assert row[labels.index(label)] == pytest.approx(
            document["per_class"][label]["precision_at_k"], abs=1e-12
        )
    assert {
        "index",
        "k",
        "n_queries",
        "skipped",
        "overall",
        "intervals",
        "per_class",
        "correspondence",
        "queries",
        "chance",
    } <= set(document)
    assert set(document["overall"]) == set(document["intervals"]) == set(document["chance"])


def test_test_set_with_labels_of_its_own(rooms: Path, small_photos: Path) -> None:
    """A test folder is asked by its label file; the split that was kept back is the test set."""
    from conftest import LABELS

    with SearchEngine.open(rooms) as engine:
        report = evaluate(engine, small_photos, labels_file=LABELS)
        base = set(engine.index.items.column("path"))
    assert report.mode == "test"
    assert report.n_queries > 5
    assert not base & {result.query for result in report.results}
    assert report.unlabelled == 0


def test_evaluation_without_labels_is_refused(tmp_path: Path) -> None:
    """Where no query has a label there is nothing to measure, and one row cannot be left out."""
    rows = np.array([[1.0, 0.0], [0.0, 1.0]])
    blank = SearchEngine.open(write_index(tmp_path / "blank", rows, [None, None]))
    with pytest.raises(QueryError, match="no query has a label"):
        evaluate(blank)
    single = SearchEngine.open(write_index(tmp_path / "single", rows[:1], ["a"]))
    with pytest.raises(QueryError, match="at least two rows"):
        evaluate(single)
