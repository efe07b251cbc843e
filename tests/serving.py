"""A running service for tests: the installed command, or the server in this process."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from imgsearch.web.server import bind, run
from imgsearch.web.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgsearch.records import Running
    from imgsearch.web.settings import Settings

PROGRAM = Path(sys.executable).with_name("imgsearch")


class Served:
    """`imgsearch serve` as a process: its address, its log, its end."""

    def __init__(self, *words: object, cwd: Path | None = None) -> None:
        """Start it on a free port and wait until it says that it is ready."""
        self.process = subprocess.Popen(
            [PROGRAM, "serve", *map(str, words), "--port", "0"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(120) or not self.url:
            self.process.kill()
            raise AssertionError("".join(self.lines))

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if said["event"] == "ready":
                    self.url = said["url"]
                    self._ready.set()
        self._ready.set()

    @property
    def log(self) -> list[dict[str, Any]]:
        """What was logged so far."""
        return [json.loads(line) for line in list(self.lines)]

    def client(self) -> httpx.Client:
        """Return a client of it."""
        return httpx.Client(base_url=self.url, timeout=60)

    def end(self, number: int = 15, seconds: float = 20) -> int:
        """Stop it by a signal, and return its exit code."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(seconds)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()
            assert self.process.stderr is not None
            self.process.stderr.close()
        return code


@contextlib.contextmanager
def here(
    index: Path, settings: Settings, running: Running | None = None
) -> Iterator[tuple[str, Service]]:
    """Serve in a thread of this process, with settings that no option gives."""
    service = Service(index, settings, running=running)
    listener = bind("127.0.0.1", 0)
    host, port = listener.getsockname()
    stopping: list[Any] = []
    thread = threading.Thread(target=run, args=(service, listener, stopping.append), daemon=True)
    thread.start()
    url = f"http://{host}:{port}"
    until = time.monotonic() + 120
    with httpx.Client() as client:
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{url}/readyz").status_code == 200:
                    break
            time.sleep(0.05)
    try:
        yield url, service
    finally:
        stopping[0]()
        thread.join(30)
        assert not thread.is_alive()
