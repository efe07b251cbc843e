"""An index in a real Milvus server gives the answers of the local one, or says why it cannot."""

from __future__ import annotations

import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from conftest import MODEL
from helpers import write_index
from milvus_server import MilvusServer
from serving import Served

from imgsearch import (
    ImgsearchError,
    IndexCorruptError,
    InputError,
    NotFoundError,
    SearchEngine,
    UnreachableError,
    evaluate,
    opening,
    push,
    stores,
    update_index,
    verify,
)
from imgsearch.index import repair
from imgsearch.stores import milvus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Run

SCOPES = ("all", "same", "other")
LEARNED = Path(__file__).parent / "golden" / "v2" / "learned"
COPIES, COUNT = 70, 225


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """A server of these tests alone, that demands a token."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("there is a Milvus server in the package registry for Linux on x86-64 alone")
    words = ("--authorization-enabled", "true")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILVUS_TOKEN", "root:Milvus")
        running = MilvusServer(tmp_path_factory.mktemp("milvus") / "data", *words)
        yield running
        running.close()


def client(server: MilvusServer) -> Any:  # noqa: ANN401 - pymilvus has no types
    """Return a connection past imgsearch."""
    from pymilvus import MilvusClient

    return MilvusClient(uri=f"http://{server.server}", token="root:Milvus", timeout=20)  # noqa: S106


def crowd(folder: Path, seed: int) -> Path:
    """Write 225 rows of five classes and some of none; 70 are one vector, over all of these."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(COUNT, 48)) + 2 * random.normal(size=48)
    rows[np.arange(COPIES) * 3] = rows[0]
    labels = [None if row % 11 == 5 else f"class {row % 5}" for row in range(COUNT)]
    names = [f"{seed}-{row}" for row in range(COUNT)]
    return write_index(folder, rows, labels, names=names)


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three generations of such an index."""
    folder = tmp_path_factory.mktemp("crowds")
    return [crowd(folder / str(seed), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def crowded(server: MilvusServer, crowds: list[Path]) -> str:
    """The first of them on the server."""
    summary = push(crowds[0], server.address("crowded"))
    assert (summary.written, summary.moved, summary.count, summary.dropped) == (
        (True, True, COUNT, ())
    )
    return server.address("crowded")


def answers(engine: SearchEngine, row: int, k: int, scope: Any) -> Any:  # noqa: ANN401 - JSON
    """Return all that is told of a row whose label is given where it has none."""
    label = engine.index.items.label(row) or "class 1"
    return engine.by_row(row, k, scope=scope, label=label).to_dict()


@pytest.mark.parametrize("k", [1, 5, 50, COUNT + 5])
def test_answers_are_those_of_the_folder(crowded: str, crowds: list[Path], k: int) -> None:
    """Rows, order, scores and the best of each class are the same among 70 copies of a picture."""
    with SearchEngine.open(crowds[0]) as near, SearchEngine.open(crowded) as far:
        for scope in SCOPES:
            for row in range(0, COUNT, 3 if k == 5 else 14):
                assert answers(far, row, k, scope) == answers(near, row, k, scope)


def test_one_place_for_many_questions(crowded: str, crowds: list[Path]) -> None:
    """Vectors and rows without a label are asked alike; what cannot be asked is refused alike."""
    with SearchEngine.open(crowds[0]) as near, SearchEngine.open(crowded) as far:
        for row in (5, 16):
            assert far.by_row(row).to_dict() == near.by_row(row).to_dict()
        vector = np.random.default_rng(9).normal(size=48)
        for label in (None, "class 3", "unknown"):
            assert far.by_vector(vector, label=label).to_dict() == (
                near.by_vector(vector, label=label).to_dict()
            )
        for bad in ({"row": COUNT}, {"row": 5, "scope": "same"}, {"row": 0, "label": "no"}):
            told = []
            for engine in (near, far):
                with pytest.raises(InputError) as error:
                    engine.by_row(**{"scope": "same", **bad})  # type: ignore[arg-type]
                told.append(str(error.value))
            assert told[0] == told[1]


def test_commands_take_the_address(
    imgsearch: Callable[..., Run], crowded: str, crowds: list[Path]
) -> None:
    """Search, info, verify and evaluate say of it what they say of the folder."""
    for words in (("search", "row:3", "-k", "9"), ("info",), ("evaluate",)):
        runs = [imgsearch(words[0], index, *words[1:], "--json") for index in (crowds[0], crowded)]
        assert [run.code for run in runs] == [0, 0], runs[1].err
        near, far = (run.json for run in runs)
        assert (near.pop("index"), far.pop("index")) == (str(crowds[0]), crowded)
        assert near == far
        # What reads every row says that it brings them here.
        assert ("brought here" in runs[1].err) == (words[0] == "evaluate")
    whole = imgsearch("verify", crowded)
    assert (whole.code, whole.out) == (0, f"{crowded} is whole\n")


def test_pushing_the_same_changes_nothing(
    imgsearch: Callable[..., Run], server: MilvusServer, crowded: str, crowds: list[Path]
) -> None:
    """The collections are the same, and so is what they hold."""
    known = client(server)

    def look() -> list[Any]:
        return [
            (name, known.describe_collection(name)["collection_id"], known.list_aliases(name))
            for name in sorted(known.list_collections())
        ]

    before = look()
    run = imgsearch("push", crowds[0], crowded, "--json")
    told = [run.json[name] for name in ("written", "moved", "dropped")]
    assert (run.code, told) == (0, [False, False, []])
    assert look() == before
    assert [name for name, *_ in before] == [
        run.json["generation"],
        f"{run.json['generation']}_files",
    ]


def test_generations_follow_each_other(
    server: MilvusServer, crowded: str, crowds: list[Path]
) -> None:
    """A push that is killed moves nothing; who has a generation open keeps it a push longer."""
    held = SearchEngine.open(crowded)
    wanted = [SearchEngine.open(index).by_row(3, 9).to_dict() for index in crowds]
    assert held.by_row(3, 9).to_dict() == wanted[0]
    known = client(server)
    before = set(known.list_collections())
    pushing = subprocess.Popen([sys.executable, "-m", "imgsearch", "push", crowds[1], crowded])
    while not set(known.list_collections()) - before:
        time.sleep(0.02)
    pushing.kill()
    pushing.wait()
    with SearchEngine.open(crowded) as engine:
        assert engine.by_row(3, 9).to_dict() == wanted[0]
    left = set(known.list_collections()) - before
    assert left

    summary = push(crowds[1], crowded)
    assert summary.written
    assert set(summary.dropped) == left
    assert set(known.list_collections()) == before | {
        summary.generation,
        f"{summary.generation}_files",
    }
    assert held.by_row(3, 9).to_dict() == wanted[0]
    # Back to the one before, which is there: nothing is put, only the names are moved.
    summary = push(crowds[0], crowded)
    assert (summary.written, summary.moved, summary.dropped) == (False, True, ())
    with (
        SearchEngine.open(crowded) as engine,
        SearchEngine.open(f"{crowded}_previous") as previous,
    ):
        assert engine.by_row(3, 9).to_dict() == wanted[0]
        assert previous.by_row(3, 9).to_dict() == wanted[1]
        summary = push(crowds[2], crowded)
        assert summary.dropped
        with pytest.raises(UnreachableError, match="a newer generation was pushed"):
            previous.by_row(3)
        assert engine.by_row(3, 9).to_dict() == wanted[0]
    with SearchEngine.open(crowded) as engine:
        assert engine.by_row(3, 9).to_dict() == wanted[2]
    held.close()


def test_ties_beyond_what_a_search_returns(
    server: MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """17,000 copies are more than a search may return: they are asked for by ranges of keys."""
    rows = np.ones((17_500, 4))
    rows[::35] = np.random.default_rng(2).normal(size=(500, 4))
    labels = [("a", "b")[row % 2] for row in range(len(rows))]
    index = write_index(tmp_path / "copies", rows, labels)
    address = server.address("copies")
    push(index, address)
    with SearchEngine.open(index) as near, SearchEngine.open(address) as far:
        for row, k, scope in (
            (1, 5, "all"),
            (17_499, 5, "other"),
            (0, 3, "all"),
            (1, 8_700, "same"),
        ):
            assert answers(far, row, k, scope) == answers(near, row, k, scope)
        # A server that gives less than is due is not believed.
        monkeypatch.setattr(milvus, "_MOST_MATCHES", 100)
        monkeypatch.setattr(far.index.vectors, "count", 17_501)
        with pytest.raises(UnreachableError, match="rows where 17,501 are due"):
            far.by_row(1, 17_499)


def test_learned_index_is_asked_through_its_transform(server: MilvusServer) -> None:
    """Its transform comes along; a row that was changed on the server is found, and said."""
    address = server.address("learned")
    push(LEARNED, address)
    with SearchEngine.open(LEARNED) as near, SearchEngine.open(address) as far:
        vector = np.random.default_rng(3).normal(size=near.index.manifest.model_dim)
        assert near.index.transform is not None
        assert far.by_vector(vector).to_dict() == near.by_vector(vector).to_dict()
        assert evaluate(far).overall == evaluate(near).overall
        generation = far.index.store.generation  # type: ignore[union-attr]
        stored = far.index.vectors.fetch(np.array([1, 2]))
    known = client(server)

    def replace(**values: object) -> None:
        (old,) = known.query(generation, filter="id == 1", output_fields=["*"])
        known.delete(generation, filter="id == 1")
        known.insert(generation, [{**old, **values}])
        known.query(generation, filter="id == 1", consistency_level="Strong")

    replace(vector=stored[1])
    assert any("sum" in problem for problem in verify(address))
    replace(vector=stored[0], path="another.jpg")
    assert verify(address) == [
        f"{generation} cannot be trusted: class, path or label of row 1 are not those of its items"
    ]
    known.delete(generation, filter="id == 1")
    known.query(generation, filter="id == 2", consistency_level="Strong")
    with pytest.raises(IndexCorruptError, match="rows and its manifest says"):
        SearchEngine.open(address)
    assert len(verify(address)) == 1
    with pytest.raises(IndexCorruptError, match=" rows where "):
        push(LEARNED, address)
    # Another collection under the name is not taken for an index.
    known.drop_alias("learned")
    known.create_alias(f"{generation}_files", "learned")
    with pytest.raises(IndexCorruptError, match="not the fields of an index"):
        SearchEngine.open(address)


def test_service_follows_and_waits(
    server: MilvusServer, rooms: Path, small_photos: Path, crowds: list[Path]
) -> None:
    """It answers pictures and rows, says 503 while the server hangs, and takes up what is new."""
    address = server.address("rooms")
    push(rooms, address)
    photo = sorted(small_photos.iterdir())[4]
    service = Served(address)
    with service.client() as asked, SearchEngine.open(rooms) as near:

        def similar() -> Any:  # noqa: ANN401 - a response
            return asked.get("/v1/items/7/similar", params={"k": 6})

        said = asked.post("/v1/search", files={"image": photo.read_bytes()}, data={"k": "6"})
        (answer,) = said.json()["queries"]
        assert answer["matches"] == near.by_image(photo, 6).to_dict()["matches"]
        assert similar().json()["queries"] == [near.by_row(7, 6).to_dict()]
        assert asked.get("/v1/index").json()["index"] == "rooms"

        server.send(signal.SIGSTOP)
        until(lambda: asked.get("/readyz").status_code == 503)
        away = similar()
        server.send(signal.SIGCONT)
        assert (away.status_code, away.json()["error"]) == (503, "UnreachableError")
        assert "does not answer" in away.json()["message"]
        assert asked.get("/healthz").status_code == 200
        until(lambda: asked.get("/readyz").status_code == 200)
        assert similar().json()["queries"] == [near.by_row(7, 6).to_dict()]

        push(crowds[0], address)
        with SearchEngine.open(crowds[0]) as new:
            until(lambda: similar().json()["queries"] == [new.by_row(7, 6).to_dict()])
        assert asked.get("/v1/index").json()["count"] == COUNT
    assert service.end() == 0


def until(holds: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_picture_is_asked_on_the_command_line(
    imgsearch: Callable[..., Run], server: MilvusServer, rooms: Path, small_photos: Path
) -> None:
    """A picture goes through the network of the index, and its matches have probabilities."""
    push(rooms, server.address("rooms"))
    photo = sorted(small_photos.iterdir())[11]
    runs = [
        imgsearch("search", index, photo, "--json") for index in (rooms, server.address("rooms"))
    ]
    assert [run.code for run in runs] == [0, 0], runs[1].err
    assert runs[1].json["queries"] == runs[0].json["queries"]
    assert MODEL in imgsearch("info", server.address("rooms")).out


def test_refusals(
    server: MilvusServer, crowds: list[Path], crowded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is one sentence with its exit code."""
    taken = client(server)
    taken.create_collection("taken", dimension=4)
    to = server.address
    cases: list[tuple[Callable[[], object], int, str]] = [
        (lambda: opening.info(to("nobody")), 3, "there is no index nobody on"),
        (lambda: SearchEngine.open(to("no-name")), 3, "there is no index no-name on"),
        (lambda: verify("milvus://127.0.0.1:9091/rooms"), 3, "no Milvus server answers"),
        (lambda: verify(f"milvus+tls://{server.server}/rooms"), 3, "no Milvus server answers"),
        (lambda: push(crowds[0], "rooms"), 2, "is no address of a server"),
        (lambda: push(crowds[0], to("a-b")), 2, "cannot be named a-b"),
        (lambda: push(crowds[0], to("a_previous")), 2, "cannot be named a_previous"),
        (lambda: push(crowds[0], to("taken")), 2, "a collection of its own"),
        (lambda: push(crowds[0].parent / "none", crowded), 3, "there is no index at"),
        (lambda: push(crowded, crowded), 2, "which is asked and not written"),
        (lambda: update_index(crowded), 2, "which is asked and not written"),
        (lambda: repair(crowded), 2, "which is asked and not written"),
    ]
    for work, code, says in cases:
        with pytest.raises(ImgsearchError, match=re.escape(says)) as error:
            work()
        assert error.value.exit_code == code
    for token, says in (("root:wrong", "refuses the token"), ("", "wants a token")):
        monkeypatch.setenv("MILVUS_TOKEN", token)
        with pytest.raises(InputError, match=says):
            opening.info(crowded)


def test_commands_say_what_is_missing(imgsearch: Callable[..., Run], crowded: str) -> None:
    """A server that is not there is exit 3, and the package that is not there 6."""
    run = imgsearch("info", "milvus://127.0.0.1:9/rooms")
    assert (run.code, run.out) == (3, "")
    assert run.err.startswith("imgsearch: no Milvus server answers at 127.0.0.1:9 (")
    assert run.err.count("\n") == 1
    without = (
        "import sys; sys.modules['pymilvus'] = None; from imgsearch.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, "info", crowded],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (6, "")
    assert "pip install 'imgsearch-faiss[milvus]'" in done.stderr


def test_server_that_hangs_is_not_waited_for(
    imgsearch: Callable[..., Run], server: MilvusServer, crowded: str
) -> None:
    """It listens and says nothing: exit 3 within 30 seconds."""
    server.send(signal.SIGSTOP)
    try:
        started = time.monotonic()
        run = imgsearch("info", crowded)
        assert time.monotonic() - started < 30
    finally:
        server.send(signal.SIGCONT)
    assert run.code == 3
    assert "answer" in run.err
    until(lambda: imgsearch("info", crowded).code == 0)


def test_engines_are_known_by_their_scheme() -> None:
    """An address names its engine; a folder is none."""
    address = stores.parse("milvus+tls://[::1]:19530/rooms")
    assert (address.host, address.port, address.name, address.tls) == ("::1", 19530, "rooms", True)
    assert not stores.is_address("rooms")
    assert not stores.is_address(Path("milvus://127.0.0.1:1/rooms"))
    with pytest.raises(InputError, match=r"choose from: milvus, milvus\+tls"):
        stores.parse("qdrant://127.0.0.1:1/rooms")
    with pytest.raises(InputError, match="comes from MILVUS_TOKEN"):
        stores.parse("milvus://me:secret@127.0.0.1:1/rooms")
    for text in (
        "milvus://",
        "milvus://127.0.0.1/rooms",
        "milvus://host:1",
        "milvus://host:99999/a",
        "milvus://h:1/a?b=c",
    ):
        with pytest.raises(InputError, match="is no address"):
            stores.parse(text)
    with pytest.raises(NotFoundError):
        SearchEngine.open("milvus://127.0.0.1:9/rooms")
