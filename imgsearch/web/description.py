"""The OpenAPI description of the service, beyond what FastAPI finds by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgsearch.web.schemas import ErrorBody

if TYPE_CHECKING:
    from fastapi import FastAPI

_SCHEMES: dict[str, Any] = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
}


def describe(app: FastAPI, *, wants_key: bool) -> None:
    """Have an app's description name the form of every error, and the key where one is wanted."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            api = plain()
            components = api["components"]
            components["schemas"]["ErrorBody"] = ErrorBody.model_json_schema()
            if wants_key:
                components["securitySchemes"] = _SCHEMES
                for methods in api["paths"].values():
                    for operation in methods.values():
                        if "401" in operation["responses"]:
                            operation["security"] = [{name: []} for name in _SCHEMES]
        found: dict[str, Any] = app.openapi_schema or {}
        return found

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it
