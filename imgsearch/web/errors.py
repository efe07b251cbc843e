"""How the service says no: one JSON form, whoever refuses."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from imgsearch.errors import (
    ImageDecodeError,
    ImgsearchError,
    InputError,
    ModelMismatchError,
    NotFoundError,
    NotReadyError,
    OverloadedError,
    UnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI, Request

log = logging.getLogger("imgsearch.serve")

TOO_MANY = 429
_FAULT = 500
# Branches of the error tree, the first that fits; what is in none is a fault of the service.
_STATUS: tuple[tuple[type[ImgsearchError], int], ...] = (
    (OverloadedError, TOO_MANY),
    (NotReadyError, 503),
    (UnreachableError, 503),
    (ImageDecodeError, 415),
    (NotFoundError, 404),
    (InputError, 400),
    (ModelMismatchError, 400),
)
# By status: what an error without a class of ours is called, and what the description says of it.
_KINDS = {
    400: ("BadRequest", "It fits the schema and cannot be used, or the Host is not ours."),
    401: ("Unauthorized", "An API key is needed."),
    404: ("NotFound", "There is no such thing."),
    405: ("MethodNotAllowed", "The address does not take that method."),
    408: ("RequestTimeout", "It was not sent fast enough."),
    413: ("ContentTooLarge", "It is too large."),
    415: ("UnsupportedMediaType", "It is not a picture that is opened here."),
    422: ("ValidationError", "It breaks the schema."),
    429: ("OverloadedError", "Too much is asked at once; Retry-After says when to come again."),
    500: ("InternalError", "A fault of the service."),
    503: ("NotReadyError", "The service is not ready, or the server of its index is away."),
}
_FRAMEWORK = {
    404: "there is nothing at this address; /docs lists what there is",
    405: "this address does not take that method; /docs lists what it takes",
}
_PROBLEMS = 20


class Refusal(Exception):  # noqa: N818 - an answer, not a fault
    """An answer that ends a request."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        error: str | None = None,
        detail: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Keep what the answer says."""
        super().__init__(message)
        self.status, self.message = status, message
        self.error = error or _KINDS.get(status, ("Error", ""))[0]
        self.detail = detail or {}
        self.headers = headers or {}

    def body(self) -> bytes:
        """Return the JSON form of every error."""
        found = {"error": self.error, "message": self.message, "detail": self.detail}
        return json.dumps(found, ensure_ascii=False).encode("utf-8", "backslashreplace")


FAULT = Refusal(_FAULT, "something went wrong here; it is in the log")


def refusal_of(error: Exception) -> Refusal:
    """Turn what was raised into what is answered."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return _of_schema(error.errors())
    if isinstance(error, HTTPException):
        message = _FRAMEWORK.get(error.status_code) or error.detail or "it cannot be answered"
        return Refusal(error.status_code, message, headers=dict(error.headers or {}))
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), _FAULT)
    if status == _FAULT:
        if isinstance(error, ImgsearchError):  # all else comes to the gate, which logs it
            log.error("a request failed", extra={"reason": repr(error)})
        return FAULT
    headers: dict[str, str] = {}
    detail: dict[str, Any] = {}
    if isinstance(error, OverloadedError):
        headers["retry-after"] = str(error.retry_after)
        detail["retry_after"] = error.retry_after
    if isinstance(error, ImageDecodeError):
        detail["reason"] = error.reason
    return Refusal(status, str(error), error=type(error).__name__, detail=detail, headers=headers)


def _of_schema(found: Sequence[Any]) -> Refusal:
    problems = [
        {"where": [str(part) for part in one["loc"]], "problem": str(one["msg"])} for one in found
    ][:_PROBLEMS]
    first = problems[0] if problems else {"where": [], "problem": "it breaks the schema"}
    where = ".".join(first["where"])
    message = f"{where}: {first['problem']}" if where else str(first["problem"])
    return Refusal(422, message, detail={"problems": problems})


def add_handlers(app: FastAPI) -> None:
    """Have an app pass on what its routes raise, for the gate to answer."""

    async def answer(_: Request, error: Exception) -> Response:
        refusal = refusal_of(error)
        return Response(
            refusal.body(), refusal.status, refusal.headers, media_type="application/json"
        )

    for kind in (HTTPException, RequestValidationError, ImgsearchError, Refusal, Exception):
        app.exception_handler(kind)(answer)


# What any request may come to, by what stands before the routes.
_ANY = (400, 408, 429, _FAULT)


def documented(*statuses: int, wants_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """Return what the description says of a route's errors."""
    # Spelled out: FastAPI would give an error the media type of the route's good answer.
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": _KINDS[status][1], "content": content}
        for status in sorted({*statuses, *_ANY, *([401] if wants_key else [])})
    }
    if TOO_MANY in found:
        found[TOO_MANY]["headers"] = {
            "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}
        }
    return found
