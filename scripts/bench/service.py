"""Put a running service under load, change its index, and send it what nobody should.

    .venv/bin/python scripts/bench/service.py PHOTOS [--only same throughput rows overload swap
        slow hostile stop page] [--seconds 60] [--rows 100000]

PHOTOS is a folder of class folders. The service is the installed command in a process of its own;
clients are threads here. `throughput` and `overload` ask a ResNet-50 of seeded numbers, whose speed
does not depend on them; `rows` asks made vectors; `page` opens the page in Chromium. Each part
prints its figures beside what is wanted; ends with 1 where one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import http.client
import io
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import numpy as np
from build import make_photos, network_alone
from embed import seeded_resnet50
from PIL import Image
from playwright.sync_api import sync_playwright
from search import Made, write

from imgsearch import SearchEngine, build_index, import_vectors, update_index
from imgsearch.backbones import reload_model
from imgsearch.decoding import DecoderPool, Source
from imgsearch.index import open_index
from imgsearch.records import SCOPES, Running

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

PARTS = ("same", "throughput", "rows", "overload", "swap", "slow", "hostile", "stop", "page")
CHROMIUM = "/usr/bin/chromium"
CLIENTS = 8
LARGEST_WEBP = 16_000
OK, BUSY, FAULT, UNREADY = 200, 429, 500, 503
PROGRAM = Path(sys.executable).with_name("imgsearch")
QUEUE = 16
MODEL = "efficientnet-lite2"
MISSED: list[str] = []


def judge(what: str, figure: float, wanted: float, *, most: bool = True) -> None:
    """Print a figure beside what is wanted."""
    good = figure <= wanted if most else figure >= wanted
    sign = "at most" if most else "at least"
    print(f"  {what:58}{figure:12,.3f}   {sign} {wanted:,.3f}{'' if good else '   MISSED'}")
    if not good:
        MISSED.append(what)


class Served:
    """`imgsearch serve` as a process."""

    def __init__(self, index: Path, *words: str) -> None:
        """Start it, and wait until it is ready."""
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(  # noqa: S603 - ours
            [str(PROGRAM), "serve", str(index), "--port", "0", *words], stderr=self.log
        )
        self.url = ""
        until = time.monotonic() + 300
        while not self.url and time.monotonic() < until and self.process.poll() is None:
            time.sleep(0.2)
            self.log.seek(0)
            for line in self.log:
                if '"ready"' in line:
                    self.url = json.loads(line)["url"]
        self.log.seek(0)
        assert self.url, self.log.read()

    def client(self) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, timeout=120)

    def memory(self) -> float:
        """Return the resident memory of the service itself, in MB, without mapped files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["RssAnon"].split()[0]) * 1024 / 1e6

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        assert self.process.wait(30) == 0
        self.log.close()


def percentile(values: list[float], part: float) -> float:
    """Return a percentile in milliseconds of seconds."""
    return 1e3 * float(np.percentile(values, part)) if values else float("nan")


class Resnet:
    """Photos of 2 megapixels, and a served index of them by a seeded ResNet-50."""

    def __init__(self, photos: Path, folder: Path) -> None:
        """Build it."""
        self.photos = folder / "photos"
        files = make_photos(photos, self.photos, 200, 2.0)
        self.index = folder / "resnet"
        weights = folder / "seeded.pth"
        seeded_resnet50(files, weights)
        build_index(self.photos, self.index, model="resnet50", weights=str(weights))
        self.data = [Path(file).read_bytes() for file in files[:64]]
        self.loaded = reload_model(open_index(self.index), None, None, Running())
        with DecoderPool(2) as pool:
            sources = [Source(file, file) for file in files[:64]]
            found = [pool.input(source, self.loaded.preprocess).pixels for source in sources]
        self.arrays = np.stack(found)


def same(photos: Path, folder: Path) -> None:
    """Ask the command line, Python and HTTP 25 rows and 25 pictures, in all scopes."""
    base, asked = folder / "same-base", folder / "same-asked"
    files = sorted(photos.rglob("*.jpg"))
    apart = set(files[:: max(1, len(files) // 25)][:25])
    for file in files:
        target = (asked if file in apart else base) / file.relative_to(photos)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    index = folder / "same-index"
    build_index(base, index, model=MODEL)
    pictures = sorted(asked.rglob("*.jpg"))
    served = Served(index)
    differing = queries = scores = 0
    with served.client() as client, SearchEngine.open(index) as engine:
        count = engine.index.manifest.count
        rows = [number * count // 25 for number in range(25)]
        words = [str(file) for file in pictures] + [f"row:{row}" for row in rows]
        for scope in SCOPES:
            command = [str(PROGRAM), "search", str(index), *words, "--json"]
            command += ["--scope", scope, "--label", "auto"]
            printed = subprocess.run(command, check=True, capture_output=True).stdout  # noqa: S603
            by_command = json.loads(printed)["queries"]
            by_python, by_http = [], []
            for file in pictures:
                label, data = file.parent.name, {"scope": scope, "label": file.parent.name}
                by_python.append(engine.by_image(file, scope=scope, label=label))
                sent = {"image": file.read_bytes()}
                by_http.append(client.post("/v1/search", files=sent, data=data).json())
            for row in rows:
                by_python.append(engine.by_row(row, scope=scope))
                path = f"/v1/items/{row}/similar"
                by_http.append(client.get(path, params={"scope": scope}).json())
            for one, result, whole in zip(by_command, by_python, by_http, strict=True):
                two, three = result.to_dict(), whole["queries"][0]
                fields = ("label", "matches", "correspondence")
                # Scores are floats that JSON keeps to the last bit.
                differing += not all(one[name] == two[name] == three[name] for name in fields)
                queries += 1
                scores += len(two["matches"])
    served.end()
    print(
        f"same: {len(words)} queries in {len(SCOPES)} scopes, {queries} answers with {scores:,} "
        "matches by command line, Python and HTTP"
    )
    judge("answers that differ", differing, 0)


def throughput(made: Resnet, seconds: float) -> None:
    """Pictures a second by HTTP, beside the network alone on arrays in memory."""
    served = Served(made.index, "--queue", str(QUEUE))
    ratios, rates = [], []
    for _ in range(3):
        number = int(15 * seconds / 4)
        alone = number / network_alone(made.loaded, made.arrays, number, Running().batch_size)
        done = 0
        until = time.monotonic() + seconds / 4
        lock = threading.Lock()

        def ask(at: int, until: float = until, lock: threading.Lock = lock) -> None:
            nonlocal done
            with served.client() as client:
                while time.monotonic() < until:
                    data = made.data[(at * 7 + done) % len(made.data)]
                    answer = client.post("/v1/search", files={"image": data})
                    assert answer.status_code == OK, answer.text
                    with lock:
                        done += 1

        started = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(ask, range(CLIENTS)))
        rate = done / (time.monotonic() - started)
        rates.append((alone, rate))
        ratios.append(rate / alone)
    served.end()
    alone, rate = np.median(np.array(rates), axis=0)
    print(f"throughput: {rate:.1f} pictures a second, the network alone {alone:.1f}")
    judge("share of the network alone, median of 3", float(np.median(ratios)), 0.8, most=False)


def rows(folder: Path, count: int) -> None:
    """Query by row over HTTP beside the same in Python, in turns."""
    index = write(folder / "made", Made("clustered", 2048), count, 10)
    served = Served(index)
    chance = random.Random(1)  # noqa: S311 - no secret
    ours: list[float] = []
    python: list[float] = []
    # The standard library's client: what a richer one takes is not the service's.
    where = urlsplit(served.url)
    client = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
    with contextlib.closing(client), SearchEngine.open(index) as engine:
        engine.warm_up()
        for turn in range(1020):
            row = chance.randrange(count)
            started = time.perf_counter()
            client.request("GET", f"/v1/items/{row}/similar")
            found = json.loads(client.getresponse().read())["queries"][0]
            middle = time.perf_counter()
            expected = engine.by_row(row).to_dict()
            if turn >= 20:  # noqa: PLR2004 - the first ones fill caches
                ours.append(middle - started)
                python.append(time.perf_counter() - middle)
            assert found == expected
    served.end()
    print(f"rows: {count:,} x 2,048, {len(ours)} queries each, answers equal")
    for part in (50, 99):
        one, two = percentile(ours, part), percentile(python, part)
        print(f"  p{part}: HTTP {one:.1f} ms, Python {two:.1f} ms")
        judge(f"p{part}, ms more", one - two, 5)


def _request(data: bytes) -> bytes:
    """Return a whole request that asks with a picture."""
    mark = "an-upload-ends-here"
    head = f'--{mark}\r\ncontent-disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{mark}--\r\n".encode()
    lines = (
        "POST /v1/search HTTP/1.1",
        "host: localhost",
        f"content-type: multipart/form-data; boundary={mark}",
        f"content-length: {len(body)}",
        "connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def overload(made: Resnet, seconds: float) -> None:  # noqa: PLR0915 - a story from end to end
    """Five times what can be served."""
    served = Served(made.index, "--queue", str(QUEUE))
    with served.client() as client:
        single = []
        for data in made.data[:20]:
            started = time.perf_counter()
            assert client.post("/v1/search", files={"image": data}).status_code == OK
            single.append(time.perf_counter() - started)
    p50 = float(np.median(single[5:]))
    before = served.memory()
    accepted: list[float] = []
    refused: list[float] = []
    health: list[float] = []
    other: collections.Counter[int] = collections.Counter()
    rate = 5 / p50
    where = urlsplit(served.url)

    async def ask(at: int, due: float) -> None:
        # An open loop: each request goes at its time, whatever became of those before. Bytes that
        # are made before, over a bare socket: what a client does is not to be measured here.
        await asyncio.sleep(due - time.monotonic())
        started = time.perf_counter()
        status = 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            with contextlib.closing(writer):
                writer.write(bodies[at % len(bodies)])
                status = int((await reader.readline()).split()[1])
        took = time.perf_counter() - started
        if status == OK:
            accepted.append(took)
        elif status == BUSY:
            refused.append(took)
        else:
            other[status] += 1

    async def look(until: float) -> None:
        while time.monotonic() < until:
            started = time.perf_counter()
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            with contextlib.closing(writer):
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert int((await reader.readline()).split()[1]) == OK
            health.append(time.perf_counter() - started)
            await asyncio.sleep(0.2)

    async def load() -> None:
        now = time.monotonic()
        tasks = [ask(at, now + at / rate) for at in range(int(rate * seconds))]
        await asyncio.gather(look(now + seconds), *tasks)

    bodies = [_request(data) for data in made.data]
    asyncio.run(load())
    grown = served.memory() - before
    served.end()
    total = len(accepted) + len(refused)
    print(
        f"overload: {total / seconds:.0f} a second asked, {len(accepted) / seconds:.1f} answered, "
        f"{len(refused):,} refused; unloaded p50 {1e3 * p50:.0f} ms"
    )
    judge("neither answered nor refused", sum(other.values()), 0)
    judge("p99 of what was answered, ms", percentile(accepted, 99), 2e3 * (QUEUE + 1) * p50)
    judge("p99 of a refusal, ms", percentile(refused, 99), 100)
    judge("slowest healthz, s", max(health), 1)
    judge("memory grown, MB", grown, 200)


def swap(photos: Path, folder: Path, seconds: float) -> None:  # noqa: PLR0915 - as above
    """50 generations while 8 clients ask."""
    images, index = folder / "changing", folder / "changing-index"
    shutil.copytree(photos, images)
    build_index(images, index, model=MODEL)
    served = Served(index)
    # What row 0 is told in each generation.
    known: dict[str, Any] = {}

    def remember() -> str:
        opened = open_index(index)
        files = opened.manifest.files
        name = "-".join(files[kind].sha256[:12] for kind in ("vectors", "items"))
        with SearchEngine(opened) as engine:
            known[name] = engine.by_row(0).to_dict()
        return name

    newest = remember()
    answers: list[tuple[str, Any]] = []
    failed: list[str] = []
    over = threading.Event()

    def ask(_: int) -> None:
        with served.client() as client:
            while not over.is_set():
                answer = client.get("/v1/items/0/similar")
                if answer.status_code != OK:
                    failed.append(answer.text)
                    continue
                found = answer.json()
                answers.append((found["generation"], found["queries"][0]))

    before = served.memory()
    files = sorted(images.rglob("*.jpg"))[1:]
    with ThreadPoolExecutor(CLIENTS) as threads:
        asking = threads.map(ask, range(CLIENTS))
        for number in range(50):
            due = time.monotonic() + seconds / 50
            away = folder / "away.jpg"
            if number % 2:
                away.rename(files[number // 2])
            else:
                files[number // 2].rename(away)
            update_index(index)
            newest = remember()
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(2)
        over.set()
        list(asking)
    after = served.memory()
    with served.client() as client:
        last = client.get("/v1/items/0/similar").json()["generation"]
        text = client.get("/metrics").text
    swaps = text.split("\nimgsearch_index_swaps_total ")[1].split()[0]
    served.end()
    mixed = sum(known.get(name) != found for name, found in answers)
    used = len({name for name, _ in answers})
    print(f"swap: {len(answers):,} answers from {used} generations, {swaps} taken up")
    judge("failed requests", len(failed), 0)
    judge("answers that are of no generation", mixed, 0)
    judge("the last generation is the newest", float(last == newest), 1, most=False)
    judge("memory grown, MB", after - before, 50)


def slow(folder: Path, seconds: float) -> None:
    """200 slow heads and 200 slow bodies beside honest clients."""
    index = write(folder / "slow", Made("clustered", 64), 2000, 10)
    served = Served(index)
    parts = urlsplit(served.url)

    def honest(length: float) -> list[float]:
        found = []
        until = time.monotonic() + length
        with served.client() as client:
            while time.monotonic() < until:
                started = time.perf_counter()
                assert client.get("/v1/items/7/similar").status_code == OK
                found.append(time.perf_counter() - started)
                time.sleep(0.005)
        return found

    alone = honest(seconds / 6)
    head = b"POST /v1/search/vector HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000\r\n"
    kinds = [b"GET /v1/index HTTP/1.1\r\nx: "] * 200 + [head + b"\r\n"] * 200
    open_since: dict[socket.socket, float] = {}
    closed: list[float] = []
    for start in kinds:
        raw = socket.create_connection((parts.hostname, parts.port), timeout=5)
        raw.sendall(start)
        raw.setblocking(False)
        open_since[raw] = time.monotonic()
    over = threading.Event()

    def drip() -> None:
        while open_since and not over.wait(0.5):
            for raw in list(open_since):
                try:
                    raw.send(b"a")
                    gone = raw.recv(4096) is not None
                except BlockingIOError:
                    gone = False
                except OSError:
                    gone = True
                if gone:
                    closed.append(time.monotonic() - open_since.pop(raw))
                    raw.close()

    dripping = threading.Thread(target=drip)
    dripping.start()
    beside = honest(15)
    dripping.join(30)
    over.set()
    served.end()
    print(f"slow: {len(kinds)} slow senders, {len(closed)} closed")
    judge("p99 of others, times", percentile(beside, 99) / percentile(alone, 99), 2)
    judge("not closed", len(kinds) - len(closed), 0)
    judge("the longest that one was open, s", max(closed, default=0), 30)


def hostile(photos: Path, folder: Path) -> None:  # noqa: C901, PLR0915 - as above
    """1,000 uploads that nobody should send."""
    index = folder / "hostile-index"
    build_index(photos, index, model=MODEL)
    served = Served(index)
    chance = random.Random(4)  # noqa: S311 - no secret
    whole = [file.read_bytes() for file in sorted(photos.rglob("*.jpg"))[:20]]
    names = ["../../etc/passwd", "/etc/passwd", "C:\\x", "a\r\nb", "\0", "x" * 5000, "-rf", ";ls"]
    names += ['"quoted"', "%00", "<script>", "..", ".", "", " ", "\u202egpj", "é", "😀", "a/b", "~"]

    def upload() -> tuple[bytes, str]:
        data = bytearray(chance.choice(whole))
        kind = chance.randrange(6)
        if kind == 0:
            data = data[: chance.randrange(len(data))]
        elif kind == 1:
            for _ in range(chance.randrange(1, 200)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        elif kind == 2:  # noqa: PLR2004 - one of six
            data = bytearray(chance.randbytes(chance.randrange(4000)))
        elif kind == 3:  # noqa: PLR2004
            out = io.BytesIO()
            size = chance.choice([(1, 1), (1, 20_000), (9000, 9000), (12_000, 12_000)])
            kinds = ["PNG", "GIF", "BMP", "TIFF"] + ["WEBP"] * (max(size) < LARGEST_WEBP)
            Image.new("L", size).save(out, chance.choice(kinds))
            data = bytearray(out.getvalue())
        elif kind == 4:  # noqa: PLR2004
            data = bytearray(chance.choice([b"", b"%PDF-1.4", b"<svg/>", b"%!PS-Adobe", b"GIF89a"]))
        return bytes(data), chance.choice(names)

    statuses: collections.Counter[int] = collections.Counter()
    faults: list[str] = []
    with served.client() as client:
        for data in whole:
            client.post("/v1/search", files={"image": data})
    before = served.memory()

    def send(_: int) -> None:
        data, name = upload()
        headers = {"content-type": "multipart/form-data; boundary=b"}
        line = name.replace("\r", "").replace("\n", "").encode()
        body = b'--b\r\ncontent-disposition: form-data; name="image"; filename="' + line
        body += b'"\r\n\r\n' + data + b"\r\n--b--\r\n"
        with served.client() as client:
            answer = client.post("/v1/search", content=body, headers=headers)
        statuses[answer.status_code] += 1
        if answer.status_code == OK:
            return
        form = set(answer.json()) == {"error", "message", "detail"}
        if answer.status_code >= FAULT or not form or str(index.parent) in answer.text:
            faults.append(answer.text[:200])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(send, range(1000)))
    for size in (21_000_000, 200_000_000):
        with served.client() as client:
            answer = client.post("/v1/search", files={"image": b"\0" * size})
            statuses[answer.status_code] += 1
    time.sleep(1)
    grown = served.memory() - before
    served.end()
    print(
        f"hostile: {sum(statuses.values()):,} uploads, by status {dict(sorted(statuses.items()))}"
    )
    judge("status 5xx, another form, or a path of the server", len(faults), 0)
    judge("memory grown, MB", grown, 50)
    for fault in faults[:5]:
        print("   ", fault)


def stop(photos: Path, folder: Path) -> None:
    """SIGTERM while 8 clients send pictures and one upload hangs."""
    index = folder / "stop-index"
    build_index(photos, index, model=MODEL)
    data = [file.read_bytes() for file in sorted(photos.rglob("*.jpg"))[:20]]
    served = Served(index)
    parts = urlsplit(served.url)
    statuses: collections.Counter[int] = collections.Counter()
    lost: list[str] = []
    over = threading.Event()

    def ask(number: int) -> None:
        while not over.is_set():
            with served.client() as client:
                sent = {"image": data[number % len(data)]}
                try:
                    # A connection each: whoever got one is owed an answer.
                    answer = client.post("/v1/search", files=sent, headers={"connection": "close"})
                    statuses[answer.status_code] += 1
                except httpx.ConnectError:
                    time.sleep(0.05)
                except httpx.HTTPError as error:
                    lost.append(repr(error))

    hanging = socket.create_connection((parts.hostname, parts.port), timeout=60)
    head = b"POST /v1/search HTTP/1.1\r\nhost: localhost\r\n"
    hanging.sendall(head + b"content-length: 90000\r\n\r\n" + b"x" * 1000)
    with served.client() as client, ThreadPoolExecutor(CLIENTS) as threads:
        client.get("/readyz")
        asking = threads.map(ask, range(CLIENTS))
        time.sleep(3)
        began = time.monotonic()
        served.process.terminate()
        until, told = began + 1, OK
        while told == OK and time.monotonic() < until:
            told = client.get("/readyz").status_code
        said = time.monotonic() - began
        code = served.process.wait(60)
        took = time.monotonic() - began
        over.set()
        list(asking)
    hanging.close()
    served.log.close()
    print(f"stop: {statuses.total():,} answered, by status {dict(statuses)}")
    judge("connected and not answered", len(lost), 0)
    judge("answered with 5xx", sum(statuses[status] for status in statuses if status >= FAULT), 0)
    judge("readyz says no after, s", said if told == UNREADY else float("inf"), 1)
    judge("out after, s", took, 15)
    judge("exit code", code, 0)


def page(photos: Path, folder: Path, count: int = 5000) -> None:
    """Open the page of an index of 5,000 pictures in Chromium."""
    images = folder / "page"
    files = make_photos(photos, images, count, 0.1)
    vectors, items, index = folder / "page.npy", folder / "page.csv", folder / "page-index"
    np.save(vectors, np.random.default_rng(3).normal(size=(count, 1280)).astype(np.float32))
    lines = [f"{Path(file).relative_to(images)},{Path(file).parent.name}" for file in files]
    items.write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    import_vectors(vectors, items, index, model=MODEL, images=images)
    served = Served(index)
    views = {
        "the first page": ("/", "#samples img"),
        "a row and its matches": ("/?row=17", "#tiles .tile img"),
    }
    print(f"page: {count:,} rows, Chromium, nothing in its cache, 1280 x 800")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, (path, pictures) in views.items():
            found = [_opened(browser, served.url + path, pictures) for _ in range(6)]
            drawn = [one["drawn"] for one in found]
            print(
                f"  {name}: {found[-1]['shown']:.0f} pictures on the screen, "
                f"{found[-1]['pictures'] / 1e3:.0f} kB; the first time after {drawn[0]:.0f} ms"
            )
            # The first time the service makes its small pictures.
            judge(f"{name}: with its pictures, ms, slowest of 6", max(drawn), 1000)
            judge(f"{name}: kB before pictures", max(one["page"] for one in found) / 1e3, 300)
        browser.close()
    served.end()


def _opened(browser: Browser, address: str, pictures: str) -> dict[str, float]:
    """Open an address as nobody did before; return times in ms and bytes on the wire."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    wire = context.new_cdp_session(tab)
    wire.send("Network.enable")
    urls: dict[str, str] = {}
    sizes = {"page": 0.0, "pictures": 0.0}

    def hear(event: dict[str, Any]) -> None:
        kind = "pictures" if "/image?" in urls.get(event["requestId"], "") else "page"
        sizes[kind] += event["encodedDataLength"]

    wire.on("Network.requestWillBeSent", lambda event: urls.update(_named(event)))
    wire.on("Network.loadingFinished", hear)
    tab.goto(address, wait_until="commit")
    drawn = tab.evaluate(
        """(pictures) => new Promise((tell) => {
            const look = () => {
                const shown = [...document.querySelectorAll(pictures)].filter(
                    (one) => one.getBoundingClientRect().top < innerHeight);
                const done = shown.length && shown.every((one) => one.complete && one.naturalWidth);
                requestAnimationFrame(done
                    ? () => tell([performance.now(), shown.length]) : look);
            };
            look();
        })""",
        pictures,
    )
    tab.wait_for_load_state("networkidle")
    context.close()
    return {"drawn": drawn[0], "shown": drawn[1], **sizes}


def _named(event: dict[str, Any]) -> dict[str, str]:
    return {event["requestId"]: event["request"]["url"]}


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rows", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="service-") as name:
        folder = Path(name)
        made = None
        if {"throughput", "overload"} & set(given.only):
            made = Resnet(given.photos, folder)
        parts: dict[str, Callable[[], None]] = {
            "same": lambda: same(given.photos, folder),
            "throughput": lambda: throughput(made, given.seconds),
            "rows": lambda: rows(folder, given.rows),
            "overload": lambda: overload(made, given.seconds),
            "swap": lambda: swap(given.photos, folder, given.seconds),
            "slow": lambda: slow(folder, given.seconds),
            "hostile": lambda: hostile(given.photos, folder),
            "stop": lambda: stop(given.photos, folder),
            "page": lambda: page(given.photos, folder),
        }
        for part in given.only:
            parts[part]()
            sys.stdout.flush()
    print(f"missed: {', '.join(MISSED)}" if MISSED else "nothing missed")
    return int(bool(MISSED))


if __name__ == "__main__":
    sys.exit(main())
