"""The forms of questions and answers, as OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_K = 1000
MAX_DIM = 65_536
MAX_LABEL = 1000
DEFAULT_K = 5

K = Annotated[int, Field(ge=1, le=MAX_K, description="How many matches, best first.")]
ScopeName = Literal["all", "same", "other"]
ScopeField = Annotated[
    ScopeName,
    Field(
        description="Which rows qualify: all, those of the query's own label (same), or those of "
        "every other label (other)."
    ),
]
Label = Annotated[
    str | None,
    Field(max_length=MAX_LABEL, description="The query's label: one that the index has."),
]
MinScore = Annotated[
    float | None,
    Field(ge=-1, le=1, allow_inf_nan=False, description="Matches below this score are left out."),
]


class Match(BaseModel):
    """A row that was found."""

    rank: int = Field(ge=1, description="1 is the best.", examples=[1])
    row: int = Field(ge=0, examples=[17])
    path: str = Field(description="Relative to the image root.", examples=["kitchen/0017.jpg"])
    label: str | None = Field(examples=["kitchen"])
    score: float = Field(description="Cosine similarity, -1..1, higher is closer.", examples=[0.87])
    distance: float = Field(description="1 - score.", examples=[0.13])


class ClassShare(BaseModel):
    """A class among the k matches, and its best image in the whole base set."""

    label: str = Field(examples=["kitchen"])
    count: int = Field(ge=0, examples=[4])
    share: float = Field(ge=0, le=1, description="count / k", examples=[0.8])
    best_score: float | None = Field(examples=[0.87])
    best_row: int | None = Field(examples=[17])


class Correspondence(BaseModel):
    """Which classes the matches belong to."""

    accuracy: float | None = Field(
        description="Matches with the query's own label / k, 0..1; null without a label.",
        examples=[0.8],
    )
    other_classes: float | None = Field(description="1 - accuracy", examples=[0.2])
    classes: list[ClassShare]


class Answer(BaseModel):
    """The answer to one query."""

    query: str = Field(description="image, vector, or row:N", examples=["image"])
    label: str | None = Field(examples=["kitchen"])
    matches: list[Match]
    correspondence: Correspondence | None = Field(description="Only at scope all.")
    vector: list[float] | None = Field(
        None,
        description="The query's unit vector, dim numbers: only where it was asked for.",
    )


class SearchResponse(BaseModel):
    """The fields of `imgsearch search --json`."""

    index: str = Field(examples=["rooms"])
    k: int = Field(examples=[5])
    scope: ScopeName
    generation: str = Field(
        description="Which generation of the index answered.",
        examples=["5f0c6ad83b51-0c9d2f6e1a77"],
    )
    queries: list[Answer]


class VectorQuestion(BaseModel):
    """A question by vector."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"vector": [0.1, 0.2, 0.3], "k": 5, "scope": "all"}]},
    )

    vector: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(
        min_length=1,
        max_length=MAX_DIM,
        description="As many numbers as the index has dimensions; it is normalized here.",
    )
    k: K = DEFAULT_K
    scope: ScopeField = "all"
    label: Label = None
    min_score: MinScore = None


class ImageQuestion(BaseModel):
    """A question by picture: the fields beside the picture itself."""

    model_config = ConfigDict(extra="forbid")

    k: K = DEFAULT_K
    scope: ScopeField = "all"
    label: Label = None
    min_score: MinScore = None
    vector: bool = Field(
        default=False, description="Give the query's unit vector back, to go on from it."
    )


class Item(BaseModel):
    """A row of the index."""

    row: int = Field(examples=[17])
    path: str = Field(examples=["kitchen/0017.jpg"])
    label: str | None = Field(examples=["kitchen"])


class ItemDetail(Item):
    """All that is known of a row."""

    generation: str
    group: str | None = None
    sha256: str | None = Field(description="Of the file's bytes; null for imported vectors.")
    width: int | None = Field(description="Pixels, of the picture as it is seen.")
    height: int | None
    bytes: int | None
    mtime_ns: int | None = Field(description="Nanoseconds since the epoch.")


class ItemList(BaseModel):
    """Some rows of a class, or of all."""

    total: int = Field(examples=[45])
    items: list[Item]


class IndexInfo(BaseModel):
    """The fields of `imgsearch info --json`, without paths of the server."""

    model_config = ConfigDict(extra="allow")

    index: str = Field(examples=["rooms"])
    generation: str
    format_version: int
    count: int
    classes: dict[str, int] = Field(examples=[{"bathroom": 45, "kitchen": 45}])
    model: str
    weights: str
    dim: int
    metric: str
    created_at: str
    by_image: bool = Field(description="Whether it can be asked by picture.")


class Evaluation(BaseModel):
    """How well the classes separate, leave-one-out; only `ready` while it is being computed."""

    model_config = ConfigDict(extra="allow")

    ready: bool


class Cell(BaseModel):
    """The pictures behind a cell of the correspondence matrix."""

    ready: bool
    total: int = 0
    items: list[dict[str, Any]] = []


class Health(BaseModel):
    """The service is there."""

    status: Literal["ok", "ready"]


class ErrorBody(BaseModel):
    """The form of every error."""

    error: str = Field(examples=["ImageDecodeError"])
    message: str = Field(
        examples=["the picture cannot be used as a picture: it is cut off or spoilt"]
    )
    detail: dict[str, Any]
