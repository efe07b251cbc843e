"""The forms of questions and answers, as OpenAPI shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

MAX_K = 1000
MAX_DIM = 65_536
MAX_LABEL = 1000
DEFAULT_K = 5


def _whole(value: object) -> object:
    """Take 5.0 for 5, as JSON Schema does."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


K = Annotated[
    int, Field(ge=1, le=MAX_K, description="How many matches, best first."), BeforeValidator(_whole)
]
ScopeName = Literal["all", "same", "other"]
ScopeField = Annotated[
    ScopeName,
    Field(
        description="Which rows qualify: all, those of the query's own label (same), or those of "
        "every other label (other)."
    ),
]
_Label = Annotated[str, Field(max_length=MAX_LABEL)]
_MinScore = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
_MinProbability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_LABEL = Field(description="The query's label: one that the index has.")
_MIN_SCORE = Field(description="Matches below this score are left out.")
_MIN_PROBABILITY = Field(
    description="Matches that are less likely to be of the query's class are left out: only at "
    "scope all, and of an index that knows what its scores mean."
)
Label = Annotated[_Label | None, _LABEL]
MinScore = Annotated[_MinScore | None, _MIN_SCORE]
MinProbability = Annotated[_MinProbability | None, _MIN_PROBABILITY]
# An address or a form has no null: there what is not wanted is left out.
_Nothing = SkipJsonSchema[None]
GivenLabel = Annotated[_Label | _Nothing, _LABEL]
GivenMinScore = Annotated[_MinScore | _Nothing, _MIN_SCORE]
GivenMinProbability = Annotated[_MinProbability | _Nothing, _MIN_PROBABILITY]


def _flag(text: object) -> object:
    """Read true or false as a form has it: pydantic takes `on`, `y` and more, unsaid."""
    found = {"true": True, "false": False}.get(str(text).lower())
    if found is None:
        raise ValueError("true or false is wanted")
    return found


class Match(BaseModel):
    """A row that was found."""

    rank: int = Field(ge=1, description="1 is the best.", examples=[1])
    row: int = Field(ge=0, examples=[17])
    path: str = Field(description="Relative to the image root.", examples=["kitchen/0017.jpg"])
    label: str | None = Field(examples=["kitchen"])
    score: float = Field(description="Cosine similarity, -1..1, higher is closer.", examples=[0.87])
    distance: float = Field(description="1 - score.", examples=[0.13])
    probability: float | None = Field(
        description="That a match of this score and rank is of the query's class, as learned from "
        "the index; null where it is not calibrated, and outside scope all.",
        examples=[0.91],
    )


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


class Resemblance(BaseModel):
    """Whether the query resembles the base set at all."""

    p_value: float = Field(
        ge=0, le=1, description="The share of base pictures that are as lonely.", examples=[0.4]
    )
    rate: float = Field(description="Of ordinary pictures, the share called outliers by chance.")
    outlier: bool = Field(description="It resembles nothing here.")


class Answer(BaseModel):
    """The answer to one query."""

    query: str = Field(description="image, vector, or row:N", examples=["image"])
    label: str | None = Field(examples=["kitchen"])
    matches: list[Match]
    correspondence: Correspondence | None = Field(description="Only at scope all.")
    resemblance: Resemblance | None = Field(
        description="Only at scope all, and of an index that is calibrated."
    )
    vector: list[float] | None = Field(
        None,
        description="The query's unit vector as the model gives it, to be asked again: only where "
        "it was asked for.",
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
        strict=True,  # "5" is no number, in the description as here
        json_schema_extra={"examples": [{"vector": [0.1, 0.2, 0.3], "k": 5, "scope": "all"}]},
    )

    vector: list[Annotated[float, Field(allow_inf_nan=False)]] = Field(
        min_length=1,
        max_length=MAX_DIM,
        description="As many numbers as the model gives: `dim` of the index, or of a learned one "
        "`transform.dim`; it is normalized here, and transformed where the rows were.",
    )
    k: K = DEFAULT_K
    scope: ScopeField = "all"
    label: Label = None
    min_score: MinScore = None
    min_probability: MinProbability = None


class ImageQuestion(BaseModel):
    """A question by picture: the fields beside the picture itself."""

    model_config = ConfigDict(extra="forbid")

    k: K = DEFAULT_K
    scope: ScopeField = "all"
    label: GivenLabel = None
    min_score: GivenMinScore = None
    min_probability: GivenMinProbability = None
    vector: Annotated[bool, BeforeValidator(_flag)] = Field(
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
    bytes: int | None = Field(description="Of its file.")
    mtime_ns: int | None = Field(description="Nanoseconds since the epoch.")


class ItemList(BaseModel):
    """Some rows of a class, or of all."""

    total: int = Field(examples=[45])
    items: list[Item]


class Transform(BaseModel):
    """What the rows of a learned index went through, and queries go through."""

    chosen: str = Field(
        description="What it is, in words.",
        examples=["whitened with 0.50 of discriminants, shrinkage 0.90"],
    )
    dim: int = Field(description="Numbers of a vector as the model gives it.", examples=[2048])
    learned_from: str = Field(description="sha256 of the vectors that it was learned from.")
    raw: float = Field(description="precision@5 of rows kept out, before it.", examples=[0.63])
    learned: float = Field(description="And after it.", examples=[0.78])
    interval: list[float] = Field(
        description="The 95% interval of the gain: low, high.", examples=[[0.09, 0.21]]
    )


class IndexInfo(BaseModel):
    """The fields of `imgsearch info --json`, without paths of the server."""

    model_config = ConfigDict(extra="allow")

    index: str = Field(examples=["rooms"])
    generation: str
    format_version: int
    count: int = Field(description="Rows.", examples=[225])
    classes: dict[str, int] = Field(examples=[{"bathroom": 45, "kitchen": 45}])
    model: str = Field(examples=["resnet50"])
    weights: str = Field(examples=["IMAGENET1K_V1"])
    dim: int = Field(description="Numbers of a row.", examples=[2048])
    transform: Transform | None = Field(None, description="Only of a learned index.")
    metric: str = Field(examples=["cosine"])
    created_at: str = Field(examples=["2026-01-31T12:00:00+00:00"])
    by_image: bool = Field(description="Whether it can be asked by picture.")


class ClassMatrix(BaseModel):
    """Which classes the matches of each class belong to."""

    labels: list[str] = Field(examples=[["bathroom", "kitchen"]])
    matrix: list[list[float]] | None = Field(
        description="matrix[i][j] is the mean share, 0..1, of class j among the matches of queries "
        "of class i; rows sum to 1. Null with more than 100 classes.",
        examples=[[[0.9, 0.1], [0.2, 0.8]]],
    )


class Confusion(BaseModel):
    """A class whose matches are taken for another."""

    query_label: str = Field(examples=["bathroom"])
    match_label: str = Field(examples=["kitchen"])
    share: float = Field(description="Of all matches of the queries, 0..1.", examples=[0.1])


class ClassFigures(BaseModel):
    """The means of a class, by the name of the measure, with their intervals and chance levels."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, float]

    n: int = Field(description="Queries of the class.", examples=[45])
    n_groups: int | _Nothing = Field(
        None, description="Groups that they belong to, where rows have groups.", examples=[12]
    )
    few: bool = Field(description="Whether they are too few to say much.", examples=[False])
    intervals: dict[str, list[float]] = Field(examples=[{"precision_at_k": [0.6, 0.8]}])
    chance: dict[str, float] = Field(examples=[{"precision_at_k": 0.2}])
    lift: dict[str, float | None] = Field(
        description="How many times chance; null where chance is 0.",
        examples=[{"precision_at_k": 3.1}],
    )


class Evaluation(BaseModel):
    """How well the classes separate, leave-one-out; only `ready` while it is being computed."""

    ready: bool
    k: int | _Nothing = Field(None, description="How many neighbors counted.", examples=[5])
    n_queries: int | _Nothing = Field(None, examples=[225])
    sampled: bool | _Nothing = Field(None, description="Whether not every row was asked.")
    learned_from_queries: bool | _Nothing = Field(
        None,
        description="Whether the index was learned from the labels of the rows that were asked: "
        "the figures are too good then.",
    )
    overall: dict[str, float] | _Nothing = Field(
        None, description="The mean of each measure, 0..1.", examples=[{"precision_at_k": 0.62}]
    )
    intervals: dict[str, list[float]] | _Nothing = Field(
        None,
        description="The bootstrap 95% interval of each mean: low, high.",
        examples=[{"precision_at_k": [0.58, 0.66]}],
    )
    chance: dict[str, float] | _Nothing = Field(
        None, description="What chance would reach.", examples=[{"precision_at_k": 0.2}]
    )
    per_class: dict[str, ClassFigures] | _Nothing = None
    correspondence: ClassMatrix | _Nothing = None
    confusions: list[Confusion] | _Nothing = Field(None, description="The worst first, 50 at most.")


class CellItem(Item):
    """A query, and its matches of the other class."""

    matches: list[Match]


class Cell(BaseModel):
    """The pictures behind a cell of the correspondence matrix; `ready` as in Evaluation."""

    ready: bool
    total: int = Field(0, description="Queries that had such matches.")
    items: list[CellItem] = Field(
        default=[], description="Those with the most such matches first, 100 at most."
    )


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
