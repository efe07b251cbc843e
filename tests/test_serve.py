"""The service: the same numbers as everywhere, bounded, safe, and there while the index changes."""

from __future__ import annotations

import concurrent.futures
import io
import json
import shutil
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from conftest import MODEL
from helpers import write_index
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from serving import Served, here

from imgsearch import SearchEngine, build_index, evaluate, update_index
from imgsearch.index import open_index
from imgsearch.web.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from conftest import Run

SCOPES = ("all", "same", "other")
KEY = "0123456789abcdef-a-test"


@pytest.fixture(scope="module")
def served(rooms: Path) -> Iterator[Served]:
    """The index of the demo's base set, served by the installed command."""
    service = Served(rooms)
    yield service
    assert service.end() == 0


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[httpx.Client]:
    """A client of that service."""
    with served.client() as found:
        yield found


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of made vectors without pictures or model."""
    random = np.random.default_rng(5)
    labels = ["one", "two", None] * 20
    return write_index(tmp_path_factory.mktemp("made") / "v", random.normal(size=(60, 8)), labels)


def photo(size: tuple[int, int] = (320, 240), kind: str = "JPEG", seed: int = 0) -> bytes:
    """Make a picture's file."""
    values = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(values).resize(size).save(out, kind)
    return out.getvalue()


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """Return one figure of /metrics; 0 where it is not there."""
    text = client.get("/metrics").text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


# The same numbers.


@pytest.mark.parametrize("scope", SCOPES)
def test_numbers_are_those_of_everywhere(
    client: httpx.Client,
    rooms: Path,
    small_photos: Path,
    imgsearch: Callable[..., Run],
    scope: str,
) -> None:
    """Command line, Python and HTTP agree on every field, by picture, by row and by vector."""
    files = sorted(small_photos.iterdir())[:3]
    label = open_index(rooms).items.classes.names[0]
    words = ("search", rooms, *files, "row:3", "--scope", scope, "--label", label, "--json")
    by_command = imgsearch(*words, "-k", 7).json["queries"]
    with SearchEngine.open(rooms) as engine:
        by_python = [
            result.to_dict()
            for result in [
                *(engine.by_image(file, 7, scope=scope, label=label) for file in files),
                engine.by_row(3, 7, scope=scope, label=label),
            ]
        ]
        vector = engine.row_query(3).vector.astype(float).tolist()
    asked = {"k": "7", "scope": scope, "label": label}
    by_http = [
        client.post("/v1/search", files={"image": file.read_bytes()}, data=asked).json()
        for file in files
    ]
    by_http.append(client.get("/v1/items/3/similar", params=asked).json())
    for one, two, three in zip(by_command, by_python, by_http, strict=True):
        (answer,) = three["queries"]
        assert (three["k"], three["scope"]) == (7, scope)
        for field in ("label", "matches", "correspondence", "resemblance"):
            assert one[field] == two[field] == answer[field]
    question = {**asked, "k": 7, "vector": vector}
    answer = client.post("/v1/search/vector", json=question).json()["queries"][0]
    with SearchEngine.open(rooms) as engine:
        expected = engine.by_vector(np.array(vector), 7, scope=scope, label=label).to_dict()
    assert answer == expected


def test_a_vector_goes_on_from_a_picture(client: httpx.Client, small_photos: Path) -> None:
    """The vector that comes back with an answer asks the same question again."""
    data = min(small_photos.iterdir()).read_bytes()
    first = client.post("/v1/search", files={"image": data}, data={"vector": "true"}).json()
    vector = first["queries"][0]["vector"]
    again = client.post("/v1/search/vector", json={"vector": vector}).json()
    assert again["queries"][0]["matches"] == first["queries"][0]["matches"]
    assert "vector" not in again["queries"][0]


def test_evaluation_is_that_of_the_command(client: httpx.Client, rooms: Path) -> None:
    """The page's figures are those of `evaluate`, leave-one-out, and a cell shows its pictures."""
    found = _evaluated(client)
    with SearchEngine.open(rooms) as engine:
        report = evaluate(engine)
    whole = report.to_dict()
    for part in ("overall", "intervals", "chance", "per_class", "correspondence"):
        assert found[part] == whole[part], part
    worst = found["confusions"][0]
    assert worst["query_label"] != worst["match_label"]
    names = {name: worst[name] for name in ("query_label", "match_label")}
    cell = client.get("/v1/evaluation/cell", params=names).json()
    matches = sum(len(item["matches"]) for item in cell["items"])
    asked = found["per_class"][worst["query_label"]]["n"]
    assert matches / (5 * asked) == pytest.approx(worst["share"])


@pytest.mark.parametrize("labels", [["one"], [None, None]])
def test_nothing_to_evaluate_is_said(tmp_path: Path, labels: list[str | None]) -> None:
    """One picture, or none with a label: there is an evaluation, and it is empty."""
    rows = np.eye(4)[: len(labels)]
    index = write_index(tmp_path / "v", rows, labels)
    with here(index, Settings()) as (url, _), httpx.Client(base_url=url) as client:
        found = _evaluated(client)
        assert (found["n_queries"], found["overall"], found["confusions"]) == (0, {}, [])


def _evaluated(client: httpx.Client) -> dict[str, Any]:
    until = time.monotonic() + 60
    while True:
        found: dict[str, Any] = client.get("/v1/evaluation").json()
        if found["ready"]:
            return found
        assert time.monotonic() < until
        time.sleep(0.1)


def test_rows_are_listed(client: httpx.Client, rooms: Path) -> None:
    """Rows come by class, in order and in parts; a row tells what the sidecar knows."""
    index = open_index(rooms)
    label = index.items.classes.names[1]
    wanted = [row for row in range(index.items.count) if index.items.label(row) == label]
    found: list[int] = []
    while len(found) < len(wanted):
        part = client.get("/v1/items", params={"label": label, "offset": len(found), "limit": 3})
        assert part.json()["total"] == len(wanted)
        found += [item["row"] for item in part.json()["items"]]
    assert found == wanted
    assert client.get("/v1/items", params={"offset": 10**30}).json()["items"] == []
    item = client.get(f"/v1/items/{wanted[0]}").json()
    stored = index.items.item(wanted[0])
    assert (item["path"], item["sha256"], item["bytes"]) == (
        stored.path,
        stored.sha256,
        stored.size,
    )
    info = client.get("/v1/index").json()
    assert (info["index"], info["count"], info["by_image"]) == ("rooms", index.items.count, True)
    assert not {"image_root", "labels_file"} & set(info)


# Errors.

BAD: tuple[tuple[str, str, dict[str, Any], int, str], ...] = (
    ("GET", "/nothing", {}, 404, "NotFound"),
    ("DELETE", "/v1/index", {}, 405, "MethodNotAllowed"),
    ("GET", "/v1/items/999999", {}, 404, "NotFoundError"),
    ("GET", "/v1/items/-1", {}, 422, "ValidationError"),
    ("GET", "/v1/items/x", {}, 422, "ValidationError"),
    ("GET", "/v1/items/0/similar?k=0", {}, 422, "ValidationError"),
    ("GET", "/v1/items/0/similar?k=1001", {}, 422, "ValidationError"),
    ("GET", "/v1/items/0/similar?scope=some", {}, 422, "ValidationError"),
    ("GET", "/v1/items/0/similar?min_score=nan", {}, 422, "ValidationError"),
    ("GET", "/v1/items/0/similar?min_probability=1.5", {}, 422, "ValidationError"),
    ("GET", "/v1/items/0/similar?min_probability=0.5&scope=same", {}, 400, "QueryError"),
    ("GET", "/v1/items/0/similar?label=nowhere", {}, 400, "QueryError"),
    ("GET", "/v1/items/0/image?size=15", {}, 422, "ValidationError"),
    ("GET", "/v1/items/999999/image", {}, 404, "NotFoundError"),
    ("GET", "/v1/items/../../../etc/passwd", {}, 404, "NotFound"),
    ("POST", "/v1/search", {}, 415, "UnsupportedMediaType"),
    ("POST", "/v1/search", {"json": {}}, 415, "UnsupportedMediaType"),
    ("POST", "/v1/search", {"data": {"k": "5"}, "files": {"other": b"x"}}, 422, "ValidationError"),
    ("POST", "/v1/search", {"files": {"image": b""}}, 415, "ImageDecodeError"),
    ("POST", "/v1/search", {"files": {"image": b"no picture"}}, 415, "ImageDecodeError"),
    ("POST", "/v1/search", {"files": {"image": photo()[:900]}}, 415, "ImageDecodeError"),
    ("POST", "/v1/search", {"files": {"image": photo(kind="TIFF")}}, 415, "ImageDecodeError"),
    ("POST", "/v1/search", {"files": {"image": b"\0" * 20_000_001}}, 413, "ContentTooLarge"),
    ("POST", "/v1/search", {"files": {"image": b"\0" * 40_000_000}}, 413, "ContentTooLarge"),
    (
        "POST",
        "/v1/search",
        {"files": {"image": photo()}, "data": {"scope": "same"}},
        400,
        "QueryError",
    ),
    (
        "POST",
        "/v1/search",
        {"files": {"image": photo()}, "data": {"k": "many"}},
        422,
        "ValidationError",
    ),
    (
        "POST",
        "/v1/search",
        {"files": [("image", photo()), ("image", photo())]},
        422,
        "ValidationError",
    ),
    (
        "POST",
        "/v1/search",
        {"files": {"image": photo()}, "data": {str(i): "x" for i in range(20)}},
        422,
        "ValidationError",
    ),
    ("POST", "/v1/search/vector", {"json": {"vector": [0.0] * 1280}}, 400, "QueryError"),
    ("POST", "/v1/search/vector", {"json": {"vector": [1.0] * 3}}, 400, "ModelMismatchError"),
    ("POST", "/v1/search/vector", {"json": {"vector": ["x"]}}, 422, "ValidationError"),
    ("POST", "/v1/search/vector", {"json": {}}, 422, "ValidationError"),
    ("POST", "/v1/search/vector", {"content": b'{"vector": [NaN]}'}, 422, "ValidationError"),
    ("POST", "/v1/search/vector", {"content": b"{"}, 422, "ValidationError"),
    ("POST", "/v1/search/vector", {"content": b"[" * 100_000}, 400, "BadRequest"),
)


@pytest.mark.parametrize(("method", "path", "what", "status", "error"), BAD)
def test_every_error_has_one_form(  # noqa: PLR0917 - what is asked and what comes
    client: httpx.Client,
    rooms: Path,
    method: str,
    path: str,
    what: dict[str, Any],
    status: int,
    error: str,
) -> None:
    """Bad requests get their status, one sentence, and nothing of the server."""
    if "content" in what:
        what = {**what, "headers": {"content-type": "application/json"}}
    answer = client.request(method, path, **what)
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text
    assert set(answer.json()) == {"error", "message", "detail"}
    assert answer.headers["content-type"] == "application/json"
    assert "\n" not in answer.json()["message"]
    assert str(rooms.parent) not in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    "sent", [b"GARBAGE\r\n\r\n", b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, b"\x16\x03\x01\0\0"]
)
def test_what_is_no_http_is_answered_in_the_same_form(served: Served, sent: bytes) -> None:
    """Bytes that are no request get a 400 in the form of all errors."""
    parts = urlsplit(served.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as raw:
        raw.sendall(sent + b"\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"] == "BadRequest"


def test_an_index_without_a_model_says_so(vectors: Path) -> None:
    """A picture cannot be asked of imported vectors; rows and vectors can."""
    with here(vectors, Settings()) as (url, _), httpx.Client(base_url=url) as client:
        refused = client.post("/v1/search", files={"image": photo()})
        assert (refused.status_code, refused.json()["error"]) == (400, "UnknownModelError")
        assert len(client.get("/v1/items/2/similar").json()["queries"][0]["matches"]) == 5
        assert client.get("/v1/items/2/image").status_code == 404
        assert client.get("/v1/index").json()["by_image"] is False


# Safe by default.


def test_another_host_wants_a_key(imgsearch: Callable[..., Run], rooms: Path) -> None:
    """Beyond loopback a key is demanded, or that everybody may ask is said in words."""
    run = imgsearch("serve", rooms, "--host", "0.0.0.0")  # noqa: S104 - refused
    assert (run.code, run.out) == (2, "")
    assert "--api-key" in run.err
    assert "--no-auth" in run.err
    short = imgsearch("serve", rooms, "--host", "0.0.0.0", "--api-key", "short")  # noqa: S104
    assert short.code == 2
    assert "at least 16" in short.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 3, "there is no index"),
        (["--port", "70000"], 2, "a port is a number from 0 to 65535"),
        (["--host", "no.such.host.invalid", "--no-auth"], 2, "no address"),
        (["--cors", "*"], 2, "is no origin"),
        (["--upload-format", "heic"], 2, "there is no format"),
        (["--max-upload", "0"], 2, "--max-upload must be above 0"),
        (["--queue", "0"], 2, "--queue must be at least 1"),
    ],
)
def test_what_cannot_be_served(
    imgsearch: Callable[..., Run], rooms: Path, words: list[str], code: int, said: str
) -> None:
    """Settings that cannot be used end the command with one sentence."""
    index = [] if words[0] == "nowhere" else [rooms]
    run = imgsearch("serve", *index, *words)
    assert (run.code, run.out) == (code, "")
    assert said in run.err


def test_a_port_that_is_taken(imgsearch: Callable[..., Run], served: Served, rooms: Path) -> None:
    """A second service on a port is refused with exit code 7."""
    run = imgsearch("serve", rooms, "--port", urlsplit(served.url).port)
    assert run.code == 7
    assert "choose another with --port" in run.err


def test_a_key_is_asked_for(vectors: Path) -> None:
    """Nothing of the index is told without the key; health is."""
    with (
        here(vectors, Settings(api_key=KEY)) as (url, _),
        httpx.Client(base_url=url) as client,
    ):
        for path in ("/v1/index", "/v1/items/0", "/v1/items/0/similar", "/metrics", "/nothing"):
            for headers in ({}, {"x-api-key": KEY + "x"}, {"authorization": "Bearer no"}):
                assert client.get(path, headers=headers).status_code == 401
        for headers in ({"x-api-key": KEY}, {"authorization": f"Bearer {KEY}"}):
            assert client.get("/v1/index", headers=headers).status_code == 200
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json", "/"):
            assert client.get(path).status_code == 200


def test_who_calls_it_by_another_name_is_refused(client: httpx.Client) -> None:
    """On loopback a page of somebody's whose name leads here reads nothing."""
    refused = client.get("/v1/index", headers={"host": "evil.example:80"})
    assert (refused.status_code, refused.json()["error"]) == (400, "BadRequest")
    assert client.get("/v1/index", headers={"host": "localhost:1"}).status_code == 200


def test_headers_and_request_id(client: httpx.Client, served: Served) -> None:
    """Each answer carries what keeps browsers strict, and an id that the log has, too."""
    for path in ("/", "/v1/index", "/nothing", "/docs", "/static/docs.css"):
        headers = client.get(path, headers={"x-request-id": "mine-1"}).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"] == "mine-1"
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers
    given = client.get("/healthz", headers={"x-request-id": "two words"}).headers["x-request-id"]
    assert len(given) == 32
    until = time.monotonic() + 5
    while not any(line.get("request_id") == given for line in served.log):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_cors_is_off_unless_named(vectors: Path) -> None:
    """Pages of the origins that were named may ask, others may not."""
    settings = Settings(cors=("https://good.example",))
    with here(vectors, settings) as (url, _), httpx.Client(base_url=url) as client:
        good = client.get("/v1/index", headers={"origin": "https://good.example"})
        assert good.headers["access-control-allow-origin"] == "https://good.example"
        bad = client.get("/v1/index", headers={"origin": "https://bad.example"})
        assert "access-control-allow-origin" not in bad.headers


# Pictures.


def test_pictures_are_made_small_and_plain(client: httpx.Client, rooms: Path) -> None:
    """An item's picture is a JPEG of the size asked for, without metadata, and is asked once."""
    answer = client.get("/v1/items/4/image", params={"size": 100})
    assert answer.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(answer.content)) as image:
        assert max(image.size) == 100
        assert not image.getexif()
        assert "comment" not in image.info
    again = client.get(
        "/v1/items/4/image",
        params={"size": 100},
        headers={"if-none-match": answer.headers["etag"]},
    )
    assert (again.status_code, again.content) == (304, b"")
    assert open_index(rooms).items.count > 4


def test_pictures_lie_inside_the_image_root(class_folders: Path, tmp_path: Path) -> None:
    """What became a link to elsewhere, or is gone, is not shown."""
    images, index = tmp_path / "images", tmp_path / "index"
    shutil.copytree(class_folders, images)
    build_index(images, index, model=MODEL)
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo(kind="PNG"))
    items = open_index(index).items
    (images / items.path(0)).unlink()
    (images / items.path(0)).symlink_to(secret)
    (images / items.path(1)).unlink()
    (images / items.path(2)).write_bytes(b"no picture")
    with here(index, Settings()) as (url, _), httpx.Client(base_url=url) as client:
        for row, status in ((0, 404), (1, 404), (2, 415), (3, 200)):
            answer = client.get(f"/v1/items/{row}/image")
            assert answer.status_code == status
            assert str(tmp_path) not in answer.text if status != 200 else True


# Figures.


def test_figures_count_what_happens(client: httpx.Client) -> None:
    """Requests, stages and the index are counted under names that do not grow with the paths."""
    asked = {"method": "GET", "route": "/v1/items/{row}", "status": "200"}
    before = metric(client, "imgsearch_http_requests_total", **asked)
    for row in (0, 1, 2):
        client.get(f"/v1/items/{row}")
    assert metric(client, "imgsearch_http_requests_total", **asked) == before + 3
    stage = "imgsearch_stage_duration_seconds_count"
    before = metric(client, stage, stage="embed")
    client.post("/v1/search", files={"image": photo()})
    assert metric(client, stage, stage="embed") == before + 1
    assert metric(client, "imgsearch_index_rows") == 30
    assert metric(client, "imgsearch_queue_depth") == 0


# While the index changes.


def test_a_new_generation_is_taken_up(class_folders: Path, tmp_path: Path) -> None:
    """An update beside the service is served within seconds; what cannot be trusted is not."""
    images, index = tmp_path / "images", tmp_path / "index"
    shutil.copytree(class_folders, images)
    late = min(images.rglob("*.jpg"))
    late.rename(tmp_path / "late.jpg")
    build_index(images, index, model=MODEL)
    settings = Settings(watch_seconds=0.1)
    with here(index, settings) as (url, _), httpx.Client(base_url=url) as client:
        first = client.get("/v1/index").json()
        shutil.move(tmp_path / "late.jpg", late)
        update_index(index)
        _wait(lambda: client.get("/v1/index").json()["count"] == first["count"] + 1)
        second = client.get("/v1/items/0/similar").json()["generation"]
        assert second != first["generation"]
        assert metric(client, "imgsearch_index_swaps_total") == 1
        manifest = index / "manifest.json"
        whole = manifest.read_bytes()
        manifest.write_bytes(whole.replace(b'"count"', b'"cuont"'))
        _wait(lambda: metric(client, "imgsearch_index_refusals_total") == 1)
        assert client.get("/v1/items/0/similar").json()["generation"] == second
        manifest.write_bytes(whole)
        time.sleep(0.5)
        assert client.get("/readyz").status_code == 200
        assert metric(client, "imgsearch_index_refusals_total") == 1


def _wait(until: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


# Slow, too many, and the end.


def test_slow_senders_are_let_go(vectors: Path) -> None:
    """Heads and bodies that do not come on are closed, with an answer in our form."""
    settings = Settings(header_seconds=1, progress_seconds=1)
    head = b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
    with here(vectors, settings) as (url, _):
        parts = urlsplit(url)
        for start in (b"GET / HT", b"", head, head + b"\r\n", head + b"\r\nabc"):
            with socket.create_connection((parts.hostname, parts.port), timeout=10) as raw:
                began = time.monotonic()
                raw.sendall(start)
                answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
                assert time.monotonic() - began < 4
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"] == "RequestTimeout"
            with socket.create_connection((parts.hostname, parts.port), timeout=10) as raw:
                began = time.monotonic()
                raw.sendall(start)
                assert _drip(raw) < 4


def _drip(raw: socket.socket) -> float:
    """Send a byte now and then, and return after how many seconds the other side has closed."""
    began = time.monotonic()
    raw.settimeout(0.2)
    while time.monotonic() - began < 10:
        try:
            raw.sendall(b"x")
            if not raw.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def test_too_many_are_told_to_come_again(rooms: Path) -> None:
    """Beyond the queue a picture is refused at once with 429 and Retry-After; others are served."""
    settings = Settings(queue=1)
    data = photo((1600, 1200))

    def ask(client: httpx.Client) -> httpx.Response:
        return client.post("/v1/search", files={"image": data})

    with here(rooms, settings) as (url, _), httpx.Client(base_url=url, timeout=60) as client:
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            answers = [
                future.result() for future in [threads.submit(ask, client) for _ in range(40)]
            ]
        busy = [answer for answer in answers if answer.status_code == 429]
        assert {answer.status_code for answer in answers} == {200, 429}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in busy)
        assert {answer.json()["error"] for answer in busy} == {"OverloadedError"}
        assert metric(client, "imgsearch_overload_refusals_total") == len(busy)
        assert ask(client).status_code == 200


def test_a_signal_lets_requests_end(rooms: Path) -> None:
    """SIGTERM: requests under way are answered, a hanging upload is not waited for, exit 0."""
    service = Served(rooms)
    parts = urlsplit(service.url)
    hanging = socket.create_connection((parts.hostname, parts.port), timeout=30)
    hanging.sendall(b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999\r\n\r\n")
    statuses: list[int] = []
    data = photo((1600, 1200))

    def ask() -> None:
        with service.client() as client:
            statuses.append(client.post("/v1/search", files={"image": data}).status_code)

    with service.client() as client:
        client.get("/readyz")
        asking = [threading.Thread(target=ask) for _ in range(8)]
        for thread in asking:
            thread.start()
        # Each has its connection: it, the hanging one and the eight, but for those done already.
        _wait(lambda: metric(client, "imgsearch_open_connections") + len(statuses) >= 10)
        service.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        time.sleep(0.2)
        told = client.get("/readyz")
        assert (told.status_code, told.json()["error"]) == (503, "NotReadyError")
    for thread in asking:
        thread.join(30)
    assert service.process.wait(20) == 0
    assert time.monotonic() - began < 15
    assert statuses == [200] * 8
    hanging.close()
    service.end()


def test_ctrl_c_ends_it_with_0(rooms: Path) -> None:
    """SIGINT is a stop that was asked for."""
    service = Served(rooms)
    assert service.end(signal.SIGINT) == 0
    assert [line["event"] for line in service.log][-1] == "stopped"
    assert service.process.returncode == 0


# What a program reads.


def test_openapi_names_every_operation(client: httpx.Client) -> None:
    """The description has each path of the contract, with its errors in our form."""
    api = client.get("/openapi.json").json()
    wanted = {
        "/v1/search",
        "/v1/search/vector",
        "/v1/items/{row}",
        "/v1/items/{row}/similar",
        "/v1/items/{row}/image",
        "/v1/index",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert wanted <= set(api["paths"])
    page = client.get("/docs").text
    for path, methods in api["paths"].items():
        assert path in page
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}
