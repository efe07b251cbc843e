"""What every request passes before the routes: its id, its bounds, its key, and how errors look.

Pure ASGI, so that what the framework and the server answer by themselves passes here, too.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from typing import TYPE_CHECKING, Any

from imgsearch.errors import ImgsearchError, OverloadedError
from imgsearch.web.errors import FAULT, TOO_MANY, Refusal, refusal_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from imgsearch.web.figures import Figures
    from imgsearch.web.service import Service
    from imgsearch.web.settings import Settings

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("imgsearch.serve")

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Fields and the lines between the parts, beside the picture itself.
_ROOM = 65_536
# What tells nothing of the index: the empty page, what the API looks like, whether it is alive.
_OPEN_PATHS = {"/", "/docs", "/openapi.json", "/healthz", "/readyz"}
_OPEN_FOLDER = "/static/"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]


class Gate:
    """The outermost layer of the service."""

    def __init__(self, app: App, service: Service) -> None:
        """Stand before an app."""
        self.app = app
        self._service = service
        self._settings: Settings = service.settings
        self.figures: Figures = service.figures
        key = service.settings.api_key
        self._key = None if key is None else key.encode()
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _Request(self, scope, send).answer(receive)
        else:
            raise RuntimeError("only HTTP is served")

    def check(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Raise Refusal for a request that is not let in, whatever its body."""
        hosts = self._settings.hosts
        if hosts is not None:
            # Somebody's page whose name was made to lead here must not read what is here.
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
            if name.strip("[]") not in hosts:
                raise Refusal(
                    400,
                    "the service does not answer to the name in the Host header: start it with "
                    "--allow-host NAME",
                )
        path = scope["path"]
        if self._key is None or path in _OPEN_PATHS or path.startswith(_OPEN_FOLDER):
            return
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            return
        given = headers.get(b"x-api-key", b"")
        scheme, _, rest = headers.get(b"authorization", b"").partition(b" ")
        if not given and scheme.lower() == b"bearer":
            given = rest.strip()
        if not hmac.compare_digest(given, self._key):
            raise Refusal(
                401,
                "an API key is needed: send it in the header X-API-Key",
                headers={"www-authenticate": "Bearer"},
            )

    def check_room(self, scope: Scope) -> None:
        """Refuse a picture before it is read where it would be refused after."""
        if scope["path"] == "/v1/search":
            self._service.check_room()

    async def read(self, headers: dict[bytes, bytes], receive: Receive, data: bytearray) -> None:
        """Read a body into `data`, bounded in size, in pace and in what all bodies hold."""
        most = self._settings.max_upload + _ROOM
        stated = headers.get(b"content-length", b"0")
        if stated.isdigit() and int(stated[:20]) > most:
            raise self._too_large()
        pace = _Pace(self._settings)
        while True:
            try:
                async with asyncio.timeout_at(pace.until):
                    message = await receive()
            except TimeoutError:
                raise Refusal(
                    408,
                    "the body does not come: it was not sent fast enough",
                    headers={"connection": "close"},
                ) from None
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            if len(data) + len(part) > most:
                raise self._too_large()
            self._hold(len(part))
            data += part
            if not message.get("more_body", False):
                return
            pace.came(len(data))

    def _too_large(self) -> Refusal:
        most = self._settings.max_upload
        return Refusal(
            413,
            f"the picture is larger than {most / 1e6:g} MB",
            detail={"max_bytes": most},
        )

    def _hold(self, size: int) -> None:
        """Count what bodies hold; raises Refusal where it is too much."""
        if self._held + size > self._settings.held_bytes:
            raise OverloadedError("too many uploads at once")
        self._held += size

    def release(self, size: int) -> None:
        """Count what a body held no longer."""
        self._held -= size

    def log(self, request: _Request, seconds: float) -> None:
        """Count and log a request."""
        scope = request.scope
        route = scope.get("route")
        path = getattr(route, "path", None) or "none"
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self.figures.requests.labels(method, path, str(request.status)).inc()
        self.figures.seconds.labels(path).observe(seconds)
        if request.status == TOO_MANY:
            self.figures.refused.inc()
        log.info(
            "request",
            extra={
                "request_id": request.id,
                "method": method,
                "path": scope["path"],
                "status": request.status,
                "ms": round(1e3 * seconds, 1),
            },
        )


_WITH_BODY = {"POST", "PUT", "PATCH", "DELETE"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"}


class _GoneError(Exception):
    """Nobody is there any more to be answered."""


class _Pace:
    """A body must keep a pace: `until` is when the next part is too late."""

    def __init__(self, settings: Settings) -> None:
        self._seconds, self._bytes = settings.progress_seconds, settings.progress_bytes
        self._mark = 0
        self.until = self._now() + self._seconds

    def came(self, size: int) -> None:
        """Hear how much is here by now."""
        if size >= self._mark + self._bytes:
            self._mark = size
            self.until = self._now() + self._seconds

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


class _Request:
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, send: Send) -> None:
        self.gate, self.scope, self._send = gate, scope, send
        self.headers = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        self.status = 0
        self._began = False

    async def answer(self, receive: Receive) -> None:
        started = time.perf_counter()
        body = bytearray()
        try:
            self.gate.check(self.scope, self.headers)
            if self.scope["method"] in _WITH_BODY:
                self.gate.check_room(self.scope)
                await self.gate.read(self.headers, receive, body)
            await self.gate.app(self.scope, _replay(body, receive), self.send)
        except (Refusal, ImgsearchError) as error:
            await self._refuse(refusal_of(error))
        except _GoneError:
            self.status = 499
        except asyncio.CancelledError:
            self.status = self.status or 499
            raise
        except Exception:
            log.exception("a request failed", extra={"request_id": self.id})
            if not self._began:
                await self._refuse(FAULT)
        finally:
            self.gate.release(len(body))
            self.gate.log(self, time.perf_counter() - started)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._began = True
            headers = list(message.get("headers", []))
            names = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in _HEADERS if name not in names]
            if b"cache-control" not in names:
                fixed = self.scope["path"].startswith(_OPEN_FOLDER)
                headers.append((b"cache-control", b"no-cache" if fixed else b"no-store"))
            headers.append((b"x-request-id", self.id.encode()))
            message = {**message, "headers": headers}
        await self._send(message)

    async def _refuse(self, refusal: Refusal) -> None:
        body = refusal.body()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            **refusal.headers,
        }
        await self.send(
            {
                "type": "http.response.start",
                "status": refusal.status,
                "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await self.send({"type": "http.response.body", "body": body})


def _replay(body: bytearray, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return again
