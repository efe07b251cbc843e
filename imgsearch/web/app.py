"""The routes: each asks the service once and gives its answer a form."""

from __future__ import annotations

import asyncio
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from PIL import Image
from pydantic import ValidationError
from starlette.formparsers import MultiPartException, MultiPartParser

import imgsearch
from imgsearch.web import schemas
from imgsearch.web.description import describe
from imgsearch.web.errors import Refusal, add_handlers, documented
from imgsearch.web.figures import CONTENT_TYPE
from imgsearch.web.gate import Gate
from imgsearch.web.service import (
    Least,
    Service,
    check_row,
)

if TYPE_CHECKING:
    from starlette.datastructures import UploadFile

    from imgsearch.records import SearchResult
    from imgsearch.web.service import Generation

log = logging.getLogger("imgsearch.serve")

_HERE = Path(__file__).parent
_FIELDS = 8
_TITLE = "imgsearch"

Row = Annotated[int, PathParameter(ge=0, description="0-based row of the index.", examples=[17])]
K = Annotated[int, Query(ge=1, le=schemas.MAX_K, description="How many matches, best first.")]
KOfClasses = Annotated[int, Query(ge=1, le=100, description="How many neighbors count.")]
QueryLabel = Annotated[
    str,
    Query(
        min_length=1,
        max_length=schemas.MAX_LABEL,
        description="The class of the queries.",
        examples=["bathroom"],
    ),
]
MatchLabel = Annotated[
    str,
    Query(
        min_length=1,
        max_length=schemas.MAX_LABEL,
        description="The class of their matches.",
        examples=["kitchen"],
    ),
]


def create_app(service: Service) -> Gate:
    """Make the ASGI app of a service; whoever runs it starts and closes the service."""
    app = FastAPI(
        title=_TITLE,
        version=imgsearch.__version__,
        summary="Find the most similar pictures of a labelled set, exactly.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    add_handlers(app)
    if service.settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["X-API-Key", "Authorization", "Content-Type", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    _add_pages(app)
    _add_questions(app)
    _add_items(app)
    _add_rest(app)
    describe(app, wants_key=service.settings.api_key is not None)
    app.mount("/static", StaticFiles(directory=_HERE / "static", check_dir=False))
    return Gate(app, service)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


# The page, and what a person reads.


@functools.cache
def _template(name: str) -> Any:  # noqa: ANN401 - jinja2 is imported late
    import jinja2

    loader = jinja2.FileSystemLoader(_HERE / "templates")
    return jinja2.Environment(loader=loader, autoescape=True).get_template(name)


def _add_pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page(service: Serving) -> HTMLResponse:
        settings = service.settings
        with service.generation() as generation:
            manifest = generation.engine.index.manifest
            text = _template("page.html.j2").render(
                name=service.name,
                count=manifest.count,
                class_count=len(manifest.classes),
                model=generation.model_name,
                dim=manifest.dim,
                by_image=generation.network is not None,
                needs_key=settings.api_key is not None,
                accept=",".join(
                    Image.MIME[name] for name in settings.formats if name in Image.MIME
                ),
                max_bytes=settings.max_upload,
                formats=", ".join(settings.formats).replace("WEBP", "WebP"),
                default_k=schemas.DEFAULT_K,
                max_k=100,
            )
        return HTMLResponse(text, headers={"cache-control": "no-cache"})

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_template("docs.html.j2").render(api=app.openapi()))


# Questions.


def _answer(
    service: Service,
    generation: Generation,
    result: SearchResult,
    vector: list[float] | None = None,
) -> JSONResponse:
    answer = result.to_dict()
    if vector is not None:
        answer["vector"] = vector
    return JSONResponse(
        {
            "index": service.name,
            "k": result.k,
            "scope": result.scope,
            "generation": generation.name,
            "queries": [answer],
        }
    )


def _least(asked: schemas.ImageQuestion | schemas.VectorQuestion) -> Least:
    return Least(asked.min_score, asked.min_probability)


_MULTIPART: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "additionalProperties": False,
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "The picture's file. What it is called does not matter.",
                        },
                        **schemas.ImageQuestion.model_json_schema()["properties"],
                    },
                }
            }
        },
    }
}


def _add_questions(app: FastAPI) -> None:
    @app.post(
        "/v1/search",
        tags=["search"],
        summary="Find the pictures most like a picture",
        response_model=schemas.SearchResponse,
        responses=documented(413, 415, 422, 503),
        openapi_extra=_MULTIPART,
    )
    async def search(request: Request, service: Serving) -> Response:
        data, asked = await _read_form(request, service)
        generation, result, vector = await service.by_image(
            data, asked.k, asked.scope, asked.label or None, _least(asked)
        )
        back = vector.astype(float).tolist() if asked.vector else None
        return _answer(service, generation, result, back)

    @app.post(
        "/v1/search/vector",
        tags=["search"],
        summary="Find the pictures closest to a vector",
        response_model=schemas.SearchResponse,
        responses=documented(413, 422, 503),
    )
    async def search_vector(asked: schemas.VectorQuestion, service: Serving) -> Response:
        generation, result = await service.by_vector(
            asked.vector, asked.k, asked.scope, asked.label or None, _least(asked)
        )
        return _answer(service, generation, result)


async def _read_form(request: Request, service: Service) -> tuple[bytes, schemas.ImageQuestion]:
    """Return the picture of a form and its other fields; raises Refusal, RequestValidationError."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise Refusal(415, "the picture is to be sent as multipart/form-data, in the field image")
    most = service.settings.max_upload
    parser = MultiPartParser(
        request.headers,
        request.stream(),
        max_files=1,
        max_fields=_FIELDS,
        max_part_size=schemas.MAX_LABEL * 8,
    )
    # Whatever is let in is small enough to lie in memory, and never goes to a file.
    parser.spool_max_size = 2 * most
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError) as error:
        said = getattr(error, "message", "") or "it is no whole multipart/form-data"
        raise Refusal(422, f"the form cannot be read: {said}") from None
    try:
        fields: dict[str, Any] = {}
        upload: UploadFile | None = None
        for name, value in form.multi_items():
            if name in fields or (name == "image" and upload is not None):
                raise Refusal(422, f"{name[:80]}: it is there twice")
            if isinstance(value, str):
                fields[name] = value
            elif name == "image":
                upload = value
            else:
                raise Refusal(422, "the picture belongs into the field image")
        if upload is None:
            raise Refusal(422, "image: a picture's file is wanted in this field")
        if (upload.size or 0) > most:
            raise Refusal(
                413, f"the picture is larger than {most / 1e6:g} MB", detail={"max_bytes": most}
            )
        try:
            asked = schemas.ImageQuestion.model_validate_strings(
                {name: value for name, value in fields.items() if value}
            )
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from None
        return await upload.read(), asked
    finally:
        await form.close()


# Items.


def _add_items(app: FastAPI) -> None:
    @app.get(
        "/v1/items",
        tags=["items"],
        summary="List rows, of one class or of all",
        response_model=schemas.ItemList,
        responses=documented(422, 503),
    )
    async def items(
        service: Serving,
        label: Annotated[
            schemas.GivenLabel, Query(description="Of rows with this label only.")
        ] = None,
        offset: Annotated[int, Query(ge=0, description="So many are passed over.")] = 0,
        limit: Annotated[int, Query(ge=1, le=500, description="So many at the most.")] = 60,
    ) -> JSONResponse:
        with service.generation() as generation:
            generation.engine.check_label(label or None)
            rows = generation.rows_of(label or None)
            stored = generation.engine.index.items
            # numpy takes no offset beyond 64 bits.
            part = rows[min(offset, len(rows)) :][:limit]
            found = [
                {"row": int(row), "path": stored.path(int(row)), "label": stored.label(int(row))}
                for row in part
            ]
            return JSONResponse({"total": len(rows), "items": found})

    @app.get(
        "/v1/items/{row}",
        tags=["items"],
        summary="Tell of a row",
        response_model=schemas.ItemDetail,
        responses=documented(404, 422, 503),
    )
    async def item(row: Row, service: Serving) -> JSONResponse:
        with service.generation() as generation:
            check_row(generation.engine, row)
            stored = generation.engine.index.items.item(row)
            return JSONResponse(
                {
                    "row": row,
                    "path": stored.path,
                    "label": stored.label,
                    "group": stored.group,
                    "sha256": stored.sha256,
                    "width": stored.width,
                    "height": stored.height,
                    "bytes": stored.size,
                    "mtime_ns": stored.mtime_ns,
                    "generation": generation.name,
                }
            )

    @app.get(
        "/v1/items/{row}/similar",
        tags=["search"],
        summary="Find the pictures most like a stored one, which is never among them",
        response_model=schemas.SearchResponse,
        responses=documented(404, 422, 503),
    )
    async def similar(  # noqa: PLR0917 - a parameter each
        row: Row,
        service: Serving,
        k: K = schemas.DEFAULT_K,
        scope: schemas.ScopeField = "all",
        label: schemas.GivenLabel = None,
        min_score: schemas.GivenMinScore = None,
        min_probability: schemas.GivenMinProbability = None,
    ) -> Response:
        least = Least(min_score, min_probability)
        generation, result = await service.by_row(row, k, scope, label or None, least)
        return _answer(service, generation, result)

    @app.get(
        "/v1/items/{row}/image",
        tags=["items"],
        summary="Show a row's picture, made small and without metadata",
        response_class=Response,
        responses={
            200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}},
            304: {"description": "It is the one that the client has (If-None-Match)."},
            **documented(404, 415, 422, 503),
        },
    )
    async def image(
        request: Request,
        row: Row,
        service: Serving,
        size: Annotated[int, Query(ge=16, le=1024, description="Pixels of its longer side.")] = 320,
    ) -> Response:
        headers = {"cache-control": "private, max-age=0, must-revalidate"}
        with service.generation() as generation:
            check_row(generation.engine, row)
            headers["etag"] = _tag(generation, row, size)
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        generation, data = await service.preview(row, size)
        headers["etag"] = _tag(generation, row, size)
        return Response(data, media_type="image/jpeg", headers=headers)


def _tag(generation: Generation, row: int, size: int) -> str:
    """Row and size name a picture only within a generation."""
    return f'"{generation.name}-{row}-{size}"'


# The index, how it separates, and how the service is.


def _add_rest(app: FastAPI) -> None:
    @app.get(
        "/v1/index",
        tags=["index"],
        summary="Tell of the index",
        response_model=schemas.IndexInfo,
        responses=documented(503),
    )
    async def index(service: Serving) -> JSONResponse:
        with service.generation() as generation:
            info = generation.engine.index.info()
            for path in ("image_root", "labels_file"):
                info.pop(path, None)
            info.update(
                index=service.name,
                model=generation.model_name,
                generation=generation.name,
                by_image=generation.network is not None,
            )
            return JSONResponse(info)

    @app.get(
        "/v1/evaluation",
        tags=["index"],
        summary="Tell how well the classes separate, leave-one-out",
        response_model=schemas.Evaluation,
        responses=documented(422, 503),
    )
    async def evaluation(service: Serving, k: KOfClasses = schemas.DEFAULT_K) -> JSONResponse:
        with service.generation() as generation:
            made = generation.browse.evaluated(k)
            return JSONResponse({"ready": False} if made is None else made.summary)

    @app.get(
        "/v1/evaluation/cell",
        tags=["index"],
        summary="Show the queries of one class that had matches of another",
        response_model=schemas.Cell,
        responses=documented(422, 503),
    )
    async def cell(
        service: Serving,
        query_label: QueryLabel,
        match_label: MatchLabel,
        k: KOfClasses = schemas.DEFAULT_K,
    ) -> JSONResponse:
        with service.generation() as generation:
            generation.engine.check_label(query_label)
            generation.engine.check_label(match_label)
            found = await asyncio.to_thread(generation.browse.cell, k, query_label, match_label)
            return JSONResponse({"ready": found is not None, **(found or {})})

    @app.get(
        "/healthz",
        tags=["service"],
        summary="Is it alive?",
        response_model=schemas.Health,
        responses=documented(wants_key=False),
    )
    async def healthz() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @app.get(
        "/readyz",
        tags=["service"],
        summary="Is it ready for questions?",
        response_model=schemas.Health,
        responses=documented(503, wants_key=False),
    )
    async def readyz(service: Serving) -> JSONResponse:
        service.check_here()
        return JSONResponse({"status": "ready"})

    @app.get(
        "/metrics",
        tags=["service"],
        summary="Figures in Prometheus' text form",
        response_class=PlainTextResponse,
        responses=documented(),
    )
    async def metrics(service: Serving) -> Response:
        return Response(service.figures.text(), media_type=CONTENT_TYPE)
