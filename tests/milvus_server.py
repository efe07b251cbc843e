"""A real Milvus server for tests and benchmarks: PyPI's milvus, in an environment of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# `scripts/setup test` puts it there.
PROGRAM = ROOT / ".venv" / "milvus" / "bin" / "milvus-server"
_HEALTH = "http://127.0.0.1:9091/healthz"
_FIXED = (2379, 2380, 9091)
# After a kill it has taken as long as 160 s.
_START = 240
_FIRST_START, _TRIES = 60, 3


def _taken(port: int) -> bool:
    with socket.socket() as taken:
        return taken.connect_ex(("127.0.0.1", port)) == 0


def _free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.socket() as tried:
        tried.bind(("0.0.0.0", port))  # noqa: S104 - as the server does, and nobody can connect
        return True
    return False


class MilvusServer:
    """One server, with its data in a folder; ports 2379, 2380 and 9091 are its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        """Start it, with options of milvus-server, and wait until it is healthy."""
        self._program = Path(os.environ.get("IMGSEARCH_MILVUS_SERVER") or PROGRAM)
        if not self._program.is_file():
            raise AssertionError(
                f"there is no {self._program}: run scripts/setup test, or say where it is in "
                "IMGSEARCH_MILVUS_SERVER"
            )
        self.folder, self._words = folder, words
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._start_anew()

    @property
    def server(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def address(self, name: str) -> str:
        """Return the address of an index on it."""
        return f"milvus://{self.server}/{name}"

    def _start_anew(self) -> None:
        """Start it with nothing in its folder: it has hung there when its own etcd was slow."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(TimeoutError):
                self.start(_FIRST_START)
                return
            shutil.rmtree(self.folder)
        self.start(_FIRST_START)

    def start(self, most: float = _START) -> float:
        """Start it, also after `end`; return the seconds until it was healthy."""
        for port in filter(_taken, _FIXED):
            raise AssertionError(f"port {port} is taken: is another Milvus running?")
        while not _free(self.port):  # of connections that were cut off; it would take the next port
            time.sleep(0.5)
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["--data", self.folder, "--proxy-port", str(self.port), *self._words]
        with (self.folder / "server.log").open("ab") as log:
            # In a session of its own: a signal to the wrapper alone leaves the server running.
            self._process = subprocess.Popen(
                [self._program, *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self._healthy():
            if time.monotonic() - started > most:
                self.end(signal.SIGKILL)
                raise TimeoutError(f"it is not healthy after {most} s")
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.25)
        return time.monotonic() - started

    def _healthy(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(_HEALTH, timeout=2) as said:
            return said.read() == b"OK" and _taken(self.port)
        return False

    def send(self, number: int) -> None:
        """Send a signal to all of its processes: SIGSTOP and SIGCONT make it hang and go on."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, and wait until its ports are free."""
        self.send(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        until = time.monotonic() + 30
        while self._listens() and time.monotonic() < until:
            time.sleep(0.1)
        self.send(signal.SIGKILL)
        self._process.wait()
        while self._listens():
            time.sleep(0.1)

    def _listens(self) -> bool:
        return any(map(_taken, (*_FIXED, self.port)))

    def close(self) -> None:
        """End it, and remove its data: it takes half a minute to end by itself."""
        self.end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)
