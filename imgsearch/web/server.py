"""Run the app: sockets, slow senders, signals, logs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import logging
import signal
import socket
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from imgsearch.errors import InputError, OverloadedError, WriteError
from imgsearch.text import printable
from imgsearch.web.app import create_app
from imgsearch.web.errors import Refusal, refusal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from imgsearch.web.service import Service
    from imgsearch.web.settings import Settings

log = logging.getLogger("imgsearch.serve")

_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_LAST_PORT = 65_535


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback is one of its fields."""
        when = dt.datetime.fromtimestamp(record.created, dt.UTC)
        found: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        found.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            found["traceback"] = self.formatException(record.exc_info)
        return json.dumps(found, ensure_ascii=True, default=str)


class _Lines(logging.Formatter):
    """A log record for somebody who looks on."""

    def format(self, record: logging.LogRecord) -> str:
        when = dt.datetime.fromtimestamp(record.created).strftime("%H:%M:%S")  # noqa: DTZ006 - theirs
        facts = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.getMessage() == "request":
            text = "{method} {path} {status} in {ms} ms".format(**facts)
        else:
            more = "".join(f", {key} {value}" for key, value in facts.items())
            text = record.getMessage() + more
        if record.exc_info:
            text += f": {record.exc_info[1]!r}"
        return printable(f"{when} {text}")


def start_logging() -> None:
    """Send the service's log, and uvicorn's errors, to standard error.

    A line of JSON each, but for a terminal.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines() if sys.stderr.isatty() else JsonLines())
    for name, level in (("imgsearch.serve", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False


class _Protocol(H11Protocol):
    """HTTP with an end to slow heads, and no answer that has another form than all others."""

    settings: Settings
    service: Service

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._clock: asyncio.TimerHandle | None = None
        self.service.figures.connections.set(len(self.connections))
        if len(self.connections) > self.settings.connections:
            self._say(refusal_of(OverloadedError("too many connections are open")))
            return
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_clock()
        self.service.figures.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._wait_for_head()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's
        self._say(Refusal(400, "this is not HTTP as it should be"))

    def _wait_for_head(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(self.settings.header_seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _too_slow(self) -> None:
        self._say(Refusal(408, "the head of the request does not come"))

    def _say(self, refusal: Refusal) -> None:
        """Answer past the app, and close."""
        if self.transport.is_closing():
            return
        body = refusal.body()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **refusal.headers,
        }
        status = HTTPStatus(refusal.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.transport.write("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn, but for its signals: a stop is what was asked for, and no failure."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stopping = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Hear SIGTERM and SIGINT while the server runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """Begin to stop: readyz says so at once, and a little later nobody new is let in."""
        if self._stopping:
            self.should_exit = self.force_exit = True
            return
        self._stopping = True
        self._service.ready = False

    async def on_tick(self, counter: int) -> bool:
        """Look for a stop that was asked for, ten times a second."""
        if self._stopping and not self.should_exit:
            log.info("stopping")
            await asyncio.sleep(self._service.settings.drain_seconds)
            self.should_exit = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Open the listening socket.

    Raises:
        InputError: there is no such address or port here.
        WriteError: the port is taken or may not be had.
    """
    if not 0 <= port <= _LAST_PORT:
        raise InputError(f"a port is a number from 0 to {_LAST_PORT}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):
        raise InputError(f"there is no address {host} to listen on") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise WriteError(
            f"port {port} of {host} cannot be had ({error.strerror}): choose another with --port"
        ) from error
    return listener


def run(
    service: Service,
    listener: socket.socket,
    started: Callable[[Callable[[], None]], object] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, and close the service.

    The service is started beside the server, which answers from the beginning: readyz says when.

    Args:
        service: not started yet.
        listener: a bound socket.
        started: called with a function that stops the server, for a thread that no signal reaches.

    Raises:
        ImgsearchError: the service cannot be started.
    """
    settings = service.settings
    protocol = type("Protocol", (_Protocol,), {"settings": settings, "service": service})
    config = uvicorn.Config(
        create_app(service),
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.stop_seconds,
        h11_max_incomplete_event_size=32_768,
    )
    server = _Server(config, service)
    failures: list[BaseException] = []

    def begin() -> None:
        try:
            service.start()
        except BaseException as error:  # noqa: BLE001 - raised below, where the command ends
            failures.append(error)
            server.should_exit = True
            return
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        log.info("ready", extra={"index": service.name, "url": f"http://{shown}:{port}"})

    if started is not None:
        started(lambda: server.handle_exit(signal.SIGTERM, None))
    starting = threading.Thread(target=begin, name="imgsearch-start", daemon=True)
    starting.start()
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
    service.close()
    log.info("stopped")
