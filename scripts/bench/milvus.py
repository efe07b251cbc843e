"""Put indexes into a real Milvus server and hold what it answers against the local index.

    .venv/bin/python scripts/bench/milvus.py BASE [--only rooms large pushes kills]
        [--rows 100000] [--dim 2048] [--pushes 40] [--kills 5]

BASE is a folder of class folders. The server is PyPI's milvus, in .venv/milvus (scripts/setup test)
or where IMGSEARCH_MILVUS_SERVER says; it needs the ports 2379, 2380 and 9091 for itself. `rooms`
asks every row of BASE at all k and scopes, and of BASE with 70 copies of one picture; `large` made
vectors; `pushes` pushes changing generations under two readers and a running service; `kills` ends
the server while a push and while a service runs. Ends with 1 where an answer differs, fails or is
mixed of two generations.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
from search import Made, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))

from milvus_server import MilvusServer

from imgsearch import (
    ImgsearchError,
    SearchEngine,
    UnreachableError,
    build_index,
    import_vectors,
    push,
)
from imgsearch.records import SCOPES
from imgsearch.remote import RemoteRows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PARTS = ("rooms", "large", "pushes", "kills")
MODEL = "efficientnet-lite2"
KS = (1, 5, 10, 50)
COPIES = 70
UNREADY = 503
MISSED: list[str] = []


def judge(what: str, found: int) -> None:
    """Print a number that must be 0."""
    print(f"  {what:64}{found:8,}{'' if not found else '   MISSED'}", flush=True)
    if found:
        MISSED.append(what)


def tell(what: str, seconds: float) -> None:
    """Print a time."""
    print(f"  {what:64}{seconds:10.3f} s", flush=True)


def differences(near: SearchEngine, far: SearchEngine, rows: Sequence[int], k: int) -> int:
    """Ask both for some rows at all scopes; count the answers that are not the same."""
    wrong = 0
    for scope in SCOPES:
        for row in rows:
            here, there = near.by_row(row, k, scope=scope), far.by_row(row, k, scope=scope)
            wrong += here.to_dict() != there.to_dict()
    return wrong


def rooms(base: Path, folder: Path, server: MilvusServer) -> None:
    """Every row as query, of the rooms, and with 70 copies of one of them over all classes."""
    plain = folder / "rooms"
    build_index(base, plain, model=MODEL)
    with SearchEngine.open(plain) as engine:
        rows = np.array(engine.index.vectors.local().rows)
        labels = [engine.index.items.label(i) for i in range(len(rows))]
    # Every third row, so that all classes have copies, and they have rows before and after them.
    rows[np.arange(COPIES) * 3] = rows[0]
    crowded = made_index(folder / "crowded", rows, labels)
    for index in (plain, crowded):
        name = index.name
        tell(f"{name}: push", push(index, server.address(name)).seconds)
        with SearchEngine.open(index) as near, SearchEngine.open(server.address(name)) as far:
            count = near.index.manifest.count
            for k in KS:
                wrong = differences(near, far, range(count), k)
                judge(f"{name}: answers that differ, {count} rows, k = {k}, 3 scopes", wrong)


def made_index(folder: Path, rows: Any, labels: Sequence[str | None]) -> Path:  # noqa: ANN401 - vectors
    """Make an index of given vectors."""
    folder.mkdir()
    np.save(folder / "v.npy", rows)
    lines = [f"{i}.jpg,{label or ''}" for i, label in enumerate(labels)]
    (folder / "items.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    import_vectors(folder / "v.npy", folder / "items.csv", folder / "index")
    return folder / "index"


def large(folder: Path, server: MilvusServer, count: int, dim: int) -> None:
    """As many vectors as one machine still answers well."""
    index = write(folder / "large", Made("clustered", dim), count, 10)
    address = server.address("large")
    tell(f"{count:,} x {dim:,}: push", push(index, address).seconds)
    tell("the same again", push(index, address).seconds)
    rng = np.random.default_rng(5)
    asked = [int(row) for row in rng.choice(count, 192, replace=False)]
    with SearchEngine.open(index) as near:
        started = time.perf_counter()
        with SearchEngine.open(address) as far:
            tell("open", time.perf_counter() - started)
            near.warm_up()
            wrong = 0
            proposed: list[int] = []
            with counting(proposed):
                for scope in SCOPES:
                    times: dict[str, list[float]] = {"local": [], "milvus": []}
                    for row in asked:
                        answers = []
                        for name, engine in (("local", near), ("milvus", far)):
                            query = engine.row_query(row)
                            begun = time.perf_counter()
                            answers.append(engine.ask([query], 10, scope=scope)[0].to_dict())
                            times[name].append(time.perf_counter() - begun)
                        wrong += answers[0] != answers[1]
                    for name, its in times.items():
                        tell(f"{name}: a query at scope {scope}, median", float(np.median(its)))
            judge(f"answers that differ, {3 * len(asked)} queries, k = 10", wrong)
            asks = 3 * len(asked)
            print(f"  searches of the server a query: {len(proposed) / asks:.2f}", flush=True)


@contextlib.contextmanager
def counting(limits: list[int]) -> Iterator[None]:
    """Note how many candidates each search of a server asks for."""
    before = RemoteRows.propose

    def propose(self: RemoteRows, queries: Any, limit: int, allowed: Any = None) -> Any:  # noqa: ANN401
        limits.append(limit)
        return before(self, queries, limit, allowed)

    RemoteRows.propose = propose  # type: ignore[method-assign]
    try:
        yield
    finally:
        RemoteRows.propose = before  # type: ignore[method-assign]


class Served:
    """`imgsearch serve` as a process."""

    def __init__(self, index: str) -> None:
        """Start it, and wait until it is ready."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        words = [sys.executable, "-m", "imgsearch", "serve", index, "--port", "0"]
        self.process = subprocess.Popen(words, stderr=self._log)  # noqa: S603 - ours
        self.url = ""
        while not self.url and self.process.poll() is None:
            time.sleep(0.2)
            self._log.seek(0)
            self.url = "".join(json.loads(one)["url"] for one in self._log if '"ready"' in one)
        assert self.url, self._log.read()

    def log(self, event: str) -> int:
        """Count what was logged."""
        self._log.seek(0)
        return sum(event in line for line in self._log)

    def end(self) -> None:
        """Stop it."""
        self.process.terminate()
        assert self.process.wait(30) == 0
        self._log.close()


def generations(folder: Path, number: int, count: int = 225, dim: int = 256) -> list[Path]:
    """Make indexes whose answers tell them apart: row i is another vector in each."""
    made = []
    for i in range(number):
        rows = Made("clustered", dim, seed=i).draw(count)
        made.append(
            made_index(folder / f"g{i}", rows, [f"class {row % 5}" for row in range(count)])
        )
    return made


class Watched:
    """Answers to one question, of whichever generation, as several threads get them."""

    def __init__(self, made: Sequence[Path], address: str) -> None:
        """Learn what may be answered."""
        self.address = address
        self.answers, self.mixed, self.failures = 0, 0, list[str]()
        self.stopped, self._lock = threading.Event(), threading.Lock()
        self._known = set()
        for index in made:
            with SearchEngine.open(index) as engine:
                self._known.add(json.dumps(engine.by_row(7, 10).to_dict()["matches"]))

    def count(self, matches: object, error: object = None) -> None:
        """Judge an answer."""
        with self._lock:
            self.answers += 1
            if error is not None:
                self.failures.append(str(error))
            elif json.dumps(matches) not in self._known:
                self.mixed += 1

    def read(self, often: int) -> None:
        """Ask so often before the index is opened anew."""
        while not self.stopped.is_set():
            try:
                with SearchEngine.open(self.address) as engine:
                    for _ in range(often):
                        self.count(engine.by_row(7, 10).to_dict()["matches"])
                        time.sleep(0.05)
            except ImgsearchError as error:
                self.count(None, error)

    def ask(self, url: str) -> None:
        """Ask a service."""
        with httpx.Client(base_url=url, timeout=60) as client:
            while not self.stopped.is_set():
                said = client.get("/v1/items/7/similar", params={"k": 10})
                if said.is_success:
                    self.count(said.json()["queries"][0]["matches"])
                else:
                    self.count(None, said.text)
                time.sleep(0.05)


def pushes(folder: Path, server: MilvusServer, number: int) -> None:
    """Changing generations under two readers, one of which opens anew each time, and a service."""
    made = generations(folder, 4)
    address = server.address("changing")
    watched = Watched(made, address)
    push(made[0], address)
    served = Served(address)
    threads = [threading.Thread(target=watched.read, args=(often,)) for often in (1, 50)]
    threads.append(threading.Thread(target=watched.ask, args=(served.url,)))
    for thread in threads:
        thread.start()
    times = [push(made[i % len(made)], address).seconds for i in range(1, number + 1)]
    watched.stopped.set()
    for thread in threads:
        thread.join()
    taken = served.log("took up a new generation")
    served.end()
    tell(f"{number} pushes of 225 rows, median", float(np.median(times)))
    print(f"  {watched.answers:,} answers; the service took up {taken} generations")
    judge("failed answers", len(watched.failures))
    judge("mixed answers", watched.mixed)
    for error in watched.failures[:3]:
        print("   ", error)


def kills(folder: Path, server: MilvusServer, number: int) -> None:
    """The server ends while a push runs, and while a service runs."""
    before, after = generations(folder, 2, 4000, 1024)
    address = server.address("killed")
    push(before, address)
    with SearchEngine.open(before) as engine:
        wanted = engine.by_row(7, 10).to_dict()["matches"]
    moved = wrong = 0
    back: list[float] = []
    rng = np.random.default_rng(6)
    for _ in range(number):
        program = [sys.executable, "-m", "imgsearch", "push", str(after), address]
        pushing = subprocess.Popen(program, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours
        time.sleep(float(rng.uniform(1.5, 9)))
        done = pushing.poll() is not None
        server.end(signal.SIGKILL)
        _, said = pushing.communicate(timeout=120)
        print(f"  push ended with {pushing.returncode}: {said.strip()[-150:]}", flush=True)
        begun = time.monotonic()
        server.start()
        if not done:
            found = eventually(address)
            moved += found != wanted
        back.append(time.monotonic() - begun)
    summary = push(after, address)
    with SearchEngine.open(after) as near, SearchEngine.open(address) as far:
        wrong += differences(near, far, range(0, 4000, 100), 10)
    tell(f"from start to answers after a kill -9, the longest of {number}", max(back))
    judge("aliases that moved", moved)
    judge("answers that differ after the next push", wrong)
    print(f"  dropped by it: {len(summary.dropped)}")
    serving(address, after, server)


def eventually(address: str) -> object:
    """Answer when the server is back."""
    while True:
        with contextlib.suppress(UnreachableError), SearchEngine.open(address) as engine:
            return engine.by_row(7, 10).to_dict()["matches"]
        time.sleep(0.5)


def serving(address: str, index: Path, server: MilvusServer) -> None:
    """The server ends while a service runs, and comes back."""
    with SearchEngine.open(index) as engine:
        wanted = engine.by_row(7, 10).to_dict()["matches"]
    served = Served(address)
    with httpx.Client(base_url=served.url, timeout=60) as client:

        def ask() -> tuple[int, Any]:
            said = client.get("/v1/items/7/similar", params={"k": 10})
            return said.status_code, said.json()

        assert ask()[1]["queries"][0]["matches"] == wanted
        server.end(signal.SIGKILL)
        others, reasons = 0, set()
        begun = time.monotonic()
        slowest = 0.0
        for _ in range(100):
            asked = time.monotonic()
            status, said = ask()
            slowest = max(slowest, time.monotonic() - asked)
            others += status != UNREADY
            reasons.add(said["message"])
            time.sleep(0.05)
        ready = client.get("/readyz")
        others += ready.status_code != UNREADY
        print(f"  away: {sorted(reasons)}")
        tell("the slowest 503", slowest)
        judge("answers other than 503 while it was away", others)
        server.start()
        begun = time.monotonic()
        wrong = 0
        while True:
            status, said = ask()
            if status != UNREADY:
                wrong += status != 200 or said["queries"][0]["matches"] != wanted  # noqa: PLR2004 - OK
                break
            time.sleep(0.5)
        tell("from healthy to answers of the service", time.monotonic() - begun)
        judge("answers that differ when it is back", wrong)
    served.end()


def main() -> int:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--pushes", type=int, default=40)
    parser.add_argument("--kills", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = MilvusServer(folder / "milvus")
        try:
            for part in given.only:
                print(part, flush=True)
                (folder / part).mkdir()
                if part == "rooms":
                    rooms(given.base, folder / part, server)
                elif part == "large":
                    large(folder / part, server, given.rows, given.dim)
                elif part == "pushes":
                    pushes(folder / part, server, given.pushes)
                else:
                    kills(folder / part, server, given.kills)
        finally:
            server.close()
    return 1 if MISSED else 0


if __name__ == "__main__":
    sys.exit(main())
