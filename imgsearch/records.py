"""The values that travel between rooms: frozen, plain, without behaviour beyond their own form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import pandas as pd

Scope = Literal["all", "same", "other"]
SCOPES: tuple[Scope, ...] = ("all", "same", "other")
DEFAULT_K = 5
# Of 100 pictures of the base set's kind, so many are said to resemble nothing in it.
OUTLIER_RATE = 0.01
Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


@dataclass(frozen=True, slots=True)
class ImageItem:
    """A picture to embed, before it was opened.

    `path` is POSIX and relative to the image root; `label` is None where there is none; `group`
    names what belongs together (one flat, one photo session); `split` is as the label file says.
    """

    path: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """A file that was left out, and why. `path` is escaped where it is not plain text."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From an RGB picture to the model's input.

    The shorter side becomes `resize` pixels, a square of `crop` pixels is cut from the middle,
    and a channel value v of 0..255 becomes (v / 255 - mean) / std. `interpolation` is Pillow's
    filter: "bilinear", "bicubic", "lanczos" or "nearest". A JPEG is halved by its own decoder where
    that leaves its shorter side at least `reduce` times `resize` pixels; 0 is never.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    reduce: int = 2

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as it stands in the manifest."""
        return {
            "resize": self.resize,
            "crop": self.crop,
            "interpolation": self.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
            "reduce": self.reduce,
        }


@dataclass(frozen=True, slots=True)
class Limits:
    """What one picture may cost before it is skipped.

    `pixels` counts what is decoded (a JPEG may be scaled down by its decoder first), `seconds`
    and `memory` (bytes) hold for one picture from opening to the model's input, `size` is the
    largest file in bytes.
    """

    pixels: int = 89_478_485
    seconds: float = 10.0
    memory: int = 1_610_612_736
    size: int = 536_870_912


@dataclass(frozen=True, slots=True)
class Running:
    """How work is done; the result is the same whatever stands here.

    `workers` are processes that open pictures, one a core where it is None; `batch_size` counts
    pictures that the network takes at once. `engine` is what runs the network: the numbers of a
    unit vector may differ by 1e-4 between two of them. `on` is "local", or "ray" for a
    cluster, whose processes take `workers` cores each, one where it is None.
    """

    device: str = "auto"
    batch_size: int = 8
    workers: int | None = None
    limits: Limits = field(default_factory=Limits)
    engine: str = "auto"
    on: str = "local"


@dataclass(frozen=True, slots=True)
class QuantizationCost:
    """What an int8 model costs beside the fp32 model that it was made of.

    It was calibrated on `calibrated_on` pictures of the base set, whose pixels have the sum
    `calibration_sha256`, and compared on `measured_on` others: `mean_cosine` and `lowest_cosine`
    are between both embeddings of a picture, `top_agreement` is the mean share of its `top`
    nearest pictures in the whole sample that both have in common.
    """

    calibrated_on: int
    calibration_sha256: str
    measured_on: int
    mean_cosine: float
    lowest_cosine: float
    top: int
    top_agreement: float

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as it stands in the manifest."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TransformNote:
    """What an index says of the transform that its rows went through.

    `chosen` says in words what it is, `dim` how many numbers the model gives before it,
    `learned_from` is the sum (sha256) of the vector file that it was learned from. `raw` and
    `learned` are the precision at 5 of rows that were kept out, before and after, and `interval`
    that of their difference, at 95%.
    """

    chosen: str
    dim: int
    learned_from: str
    raw: float
    learned: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as it stands in the manifest."""
        return {**asdict(self), "interval": list(self.interval)}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a score means in one base set, learned by leaving rows out of it.

    Learned from the `neighbors` nearest others of `queries` rows, without copies and kin: a match
    of score s at rank r is of the query's class with the probability that `steps`, pairs of
    (value, probability), ascending in both, give for the value `score` * s + `rank` * log(r) by
    linear interpolation; r counts to `neighbors` at most. There are no steps where no two classes
    have rows. `error` is the expected calibration error on rows kept out, in ten bins. `typical`
    are the best scores of the rows that were asked, ascending, some of them where they are many.
    `made_of` names the generation that all of it was learned from.
    """

    made_of: str
    queries: int
    neighbors: int
    score: float
    rank: float
    steps: tuple[tuple[float, float], ...]
    error: float | None
    typical: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as it stands in the manifest."""
        return {
            "made_of": self.made_of,
            "queries": self.queries,
            "neighbors": self.neighbors,
            "score": self.score,
            "rank": self.rank,
            "steps": [list(step) for step in self.steps],
            "error": self.error,
            "typical": list(self.typical),
        }


@dataclass(frozen=True, slots=True)
class Resemblance:
    """Whether a query resembles the base set at all, by its best score.

    `p_value` is the share of base pictures that are no closer to all others than the query is to
    its best match, the query counted among them. `outlier` where that is `rate` at most: of
    pictures of the base set's kind, so many are called outliers by chance.
    """

    p_value: float
    rate: float
    outlier: bool

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `search --json`."""
        return {"p_value": self.p_value, "rate": self.rate, "outlier": self.outlier}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """A picture ready for a model.

    `pixels` is uint8 of shape (crop, crop, 3), RGB. `sha256` (hex) is over the bytes of the file;
    `width` and `height` are those of the whole picture after its EXIF turn; `size` is in bytes and
    `mtime_ns` in nanoseconds since the epoch (0 where the picture came from memory).
    """

    pixels: npt.NDArray[np.uint8]
    sha256: str
    width: int
    height: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One row of the label sidecar: what the index knows of a picture.

    `sha256` (hex, of the file), `width`, `height`, `size` (bytes) and `mtime_ns` are None where the
    vectors were imported and nobody has seen the picture.
    """

    path: str
    label: str | None
    sha256: str | None
    width: int | None
    height: int | None
    size: int | None
    mtime_ns: int | None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Match:
    """One answer to a query. `rank` counts from 1; `score` is the cosine, higher is closer.

    `probability` is that of a match of this score and rank to be of the query's class; None outside
    scope "all" and where the index is not calibrated.
    """

    rank: int
    row: int
    path: str
    label: str | None
    score: float
    probability: float | None = None

    @property
    def distance(self) -> float:
        """1 - score."""
        return 1.0 - self.score

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `search --json`."""
        return {
            "rank": self.rank,
            "row": self.row,
            "path": self.path,
            "label": self.label,
            "score": self.score,
            "distance": self.distance,
            "probability": self.probability,
        }


@dataclass(frozen=True, slots=True)
class ClassShare:
    """One class in a query's profile.

    `count` of the k matches have this label and `share` is count / k. `best_score` and `best_row`
    are its closest image in the whole base set: None where the class holds nothing but the query.
    """

    label: str
    count: int
    share: float
    best_score: float | None
    best_row: int | None

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `search --json`."""
        return {
            "label": self.label,
            "count": self.count,
            "share": self.share,
            "best_score": self.best_score,
            "best_row": self.best_row,
        }


@dataclass(frozen=True, slots=True)
class Correspondence:
    """Which classes the k matches belong to.

    `accuracy` is the share of matches with the query's own label and `other_classes` its
    complement; both are None where the query has no label. Classes come in the index' order.
    """

    accuracy: float | None
    other_classes: float | None
    classes: tuple[ClassShare, ...]

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `search --json`."""
        return {
            "accuracy": self.accuracy,
            "other_classes": self.other_classes,
            "classes": [share.to_dict() for share in self.classes],
        }


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The ranked matches of one query.

    `correspondence` is None outside scope "all", `resemblance` also where the index is not
    calibrated. `file` is where the query's picture lies, for showing it; None for a vector or a
    picture from memory.
    """

    query: str
    label: str | None
    k: int
    scope: Scope
    matches: tuple[Match, ...]
    correspondence: Correspondence | None
    file: str | None = None
    resemblance: Resemblance | None = None

    def to_dict(self) -> dict[str, Any]:
        """One entry of `queries` in `search --json`."""
        return {
            "query": self.query,
            "label": self.label,
            "matches": [match.to_dict() for match in self.matches],
            "correspondence": self.correspondence and self.correspondence.to_dict(),
            "resemblance": self.resemblance and self.resemblance.to_dict(),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One line per match, with the query's name and label in front (needs pandas)."""
        return frame(
            [
                {"query": self.query, "query_label": self.label, **match.to_dict()}
                for match in self.matches
            ]
        )


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What a build did. `classes` counts rows by label; rows without a label are in `count` only.

    `left_out` counts rows of the label file by the split that kept them out of the base set;
    `unlisted` is how many files of the folder the label file does not name. `engine` is what ran
    the network and its version; `cost` is that of int8, None for fp32.
    """

    index: str
    count: int
    classes: dict[str, int]
    skipped: tuple[Skip, ...]
    model: str
    weights: str
    dim: int
    seconds: float
    images_per_second: float
    left_out: dict[str, int] = field(default_factory=dict)
    unlisted: int = 0
    engine: str = ""
    precision: Precision = "fp32"
    cost: QuantizationCost | None = None

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `build --json`."""
        return {
            "index": self.index,
            "count": self.count,
            "classes": self.classes,
            "skipped": [{"path": skip.path, "reason": skip.reason} for skip in self.skipped],
            "model": self.model,
            "weights": self.weights,
            "dim": self.dim,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "left_out": self.left_out,
            "unlisted": self.unlisted,
            "engine": self.engine,
            "precision": self.precision,
            "quantization": None if self.cost is None else self.cost.to_dict(),
        }

    def to_pandas(self) -> pd.DataFrame:
        """One line per class: label and number of rows (needs pandas)."""
        return frame([{"label": label, "n": n} for label, n in self.classes.items()])


@dataclass(frozen=True, slots=True)
class UpdateSummary:
    """What an update did, or would do.

    `added`, `changed`, `moved`, `relabelled` and `removed` count pictures; `embedded` is how many
    went through the network. `written` is False where nothing had changed, or for a dry run.
    """

    index: str
    count: int
    classes: dict[str, int]
    added: int
    changed: int
    moved: int
    relabelled: int
    removed: int
    skipped: tuple[Skip, ...]
    embedded: int
    written: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `update --json`."""
        return {
            "index": self.index,
            "count": self.count,
            "classes": self.classes,
            "added": self.added,
            "changed": self.changed,
            "moved": self.moved,
            "relabelled": self.relabelled,
            "removed": self.removed,
            "skipped": [{"path": skip.path, "reason": skip.reason} for skip in self.skipped],
            "embedded": self.embedded,
            "written": self.written,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class PushSummary:
    """What a push did.

    `generation` is what the server calls it; `written` is False where it was there already, and
    `moved` where the name stood for it already. `dropped` are the generations, and what earlier
    pushes left, that are gone from the server now.
    """

    index: str
    address: str
    count: int
    dim: int
    generation: str
    written: bool
    moved: bool
    dropped: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `push --json`."""
        return {
            "index": self.index,
            "address": self.address,
            "count": self.count,
            "dim": self.dim,
            "generation": self.generation,
            "written": self.written,
            "moved": self.moved,
            "dropped": list(self.dropped),
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class LearnSummary:
    """What `learn` found, and whether it wrote.

    `chosen` says which transform is best, "none" where none is better than the raw vectors. `raw`
    and `learned` are means over `queries` rows that were kept out in turn, of `rows` rows in
    `units` that do not belong together; the rows of `learned` were asked by what was chosen without
    them. `difference` is that of `precision_at_k`, `interval` its 95% interval. `found_first` is
    how many look-alikes were found first, of all, before and after `chosen`. `new` was written
    where `written`; `dim` is how many numbers its rows have, or would have.
    """

    index: str
    new: str
    chosen: str
    k: int
    raw: dict[str, float]
    learned: dict[str, float]
    difference: float
    interval: tuple[float, float]
    found_first: tuple[float, float]
    rows: int
    queries: int
    units: int
    folds: int
    dim: int
    written: bool
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `learn --json`."""
        return {
            **asdict(self),
            "interval": list(self.interval),
            "found_first": {"raw": self.found_first[0], "learned": self.found_first[1]},
        }

    def to_pandas(self) -> pd.DataFrame:
        """One line per measure: raw and learned (needs pandas)."""
        return frame(
            [
                {"measure": name, "raw": value, "learned": self.learned[name]}
                for name, value in self.raw.items()
            ]
        )


@dataclass(frozen=True, slots=True)
class PrepareSummary:
    """What `prepare` did: `count` pictures of `width` x `height` pixels now lie in `dest`."""

    dest: str
    count: int
    width: int
    height: int
    skipped: tuple[Skip, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `prepare --json`."""
        return {
            "dest": self.dest,
            "count": self.count,
            "width": self.width,
            "height": self.height,
            "skipped": [{"path": skip.path, "reason": skip.reason} for skip in self.skipped],
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class Without:
    """The measures at k, once some rows are left out of what each query could find.

    k matches come back wherever k rows are left. `affected` counts queries that lost one of the k
    matches they had, `rows` the rows that were left out. Means, intervals and values are as in
    EvaluationReport, of the measures that k matches decide; `chance` is that of precision alone.
    """

    affected: int
    rows: int
    overall: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    chance: dict[str, float]
    values: dict[str, tuple[float | None, ...]]
    per_class: dict[str, dict[str, float]]

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `leakage` of `evaluate --json`."""
        return {
            "affected": self.affected,
            "rows": self.rows,
            "overall": self.overall,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "chance": self.chance,
            "per_class": self.per_class,
        }


@dataclass(frozen=True, slots=True)
class Near:
    """A row that is nearly the query itself: its `score`, and the `sign` it is known by."""

    row: int
    score: float
    sign: str

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `evaluate --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Leakage:
    """What the figures owe to pictures that are nearly the query, or belong with it.

    `without_near_duplicates` leaves out what imgsearch/duplicates.py takes for the same picture,
    `without_own_group` the rows of the query's own group (None where no groups are known). `cuts`
    are those that decided, `given` where the caller set them rather than the pictures. `found[i]`
    are the near-duplicates met among the best of query i, and `signs` counts all of them by how
    they are known. `opened` pictures were compared, `unreadable` could not be.
    """

    without_near_duplicates: Without
    without_own_group: Without | None
    cuts: dict[str, float]
    given: bool
    signs: dict[str, int]
    found: tuple[tuple[Near, ...], ...]
    opened: int
    unreadable: int

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `leakage` of `evaluate --json`."""
        group = self.without_own_group
        return {
            "without_near_duplicates": self.without_near_duplicates.to_dict(),
            "without_own_group": None if group is None else group.to_dict(),
            "cuts": self.cuts,
            "cuts_given": self.given,
            "signs": self.signs,
            "opened": self.opened,
            "unreadable": self.unreadable,
        }


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """How well the classes separate, from single queries up to means.

    `mode` is "test" (a test set was asked) or "leave-one-out" (each base row asked in turn).
    Measures are named as in docs/measures.md and lie in 0..1. `overall`, `intervals` and `chance`
    have the same keys; an interval is [low, high] at 95%, over queries, or over their groups where
    `n_groups` is not None. Each entry of `per_class` holds n and the class' means, with its own
    `chance` and `intervals`, and `few` where these say little. `correspondence` is
    {"labels": [...], "matrix": [[...]]}, rows = query class, columns = base class; a row is None
    where no query has that label. `values[measure][i]` is the value of `results[i]`, None where
    the query carries no label. `unlabelled` counts those queries. `leakage` is None where nobody
    looked for it. `learned` tells of the transform of a learned index whose own rows were asked: it
    has seen their labels, and the values are too good.
    """

    index: str
    mode: Literal["test", "leave-one-out"]
    k: int
    n_queries: int
    unlabelled: int
    base_count: int
    skipped: tuple[Skip, ...]
    overall: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    chance: dict[str, float]
    per_class: dict[str, dict[str, Any]]
    correspondence: dict[str, Any]
    results: Sequence[SearchResult]
    values: dict[str, tuple[float | None, ...]]
    model: str
    weights: str
    image_root: str
    n_groups: int | None = None
    leakage: Leakage | None = None
    learned: TransformNote | None = None

    @property
    def lift(self) -> dict[str, float | None]:
        """How many times chance each mean is; None where chance is 0."""
        return lifts(self.overall, self.chance)

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `evaluate --json`."""
        return {**self.summary(), "queries": list(self.queries())}

    def summary(self) -> dict[str, Any]:
        """Fields as in `evaluate --json`, but for its queries."""
        return {
            "index": self.index,
            "mode": self.mode,
            "k": self.k,
            "n_queries": self.n_queries,
            "unlabelled": self.unlabelled,
            "base_count": self.base_count,
            "learned_from_queries": self.learned is not None,
            "skipped": [{"path": skip.path, "reason": skip.reason} for skip in self.skipped],
            "overall": self.overall,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "intervals_by": "query" if self.n_groups is None else "group",
            "n_groups": self.n_groups,
            "chance": self.chance,
            "lift": self.lift,
            "leakage": None if self.leakage is None else self.leakage.to_dict(),
            "per_class": self.per_class,
            "correspondence": self.correspondence,
            "model": self.model,
            "weights": self.weights,
        }

    def queries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries of `queries` in `evaluate --json`, one after the other."""
        for i, result in enumerate(self.results):
            near = () if self.leakage is None else self.leakage.found[i]
            yield {
                **result.to_dict(),
                "measures": {name: values[i] for name, values in self.values.items()},
                "near_duplicates": [one.to_dict() for one in near],
            }

    def to_pandas(self) -> pd.DataFrame:
        """One line per query: its name, label and every measure (needs pandas)."""
        return frame(
            [
                {
                    "query": result.query,
                    "label": result.label,
                    **{name: values[i] for name, values in self.values.items()},
                }
                for i, result in enumerate(self.results)
            ]
        )


@dataclass(frozen=True, slots=True)
class Change:
    """One query of a comparison: its `precision_at_k` in both indexes, and their first matches.

    `first_a` and `first_b` are labels, None where there is no match or it has none.
    """

    query: str
    label: str
    a: float
    b: float
    first_a: str | None
    first_b: str | None

    @property
    def difference(self) -> float:
        """How much more B has."""
        return self.b - self.a

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `changed` of `compare --json`."""
        return {**asdict(self), "difference": self.difference}


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """Two indexes, asked the same questions.

    `a`, `b`, `difference` (B less A) and `intervals` (of the difference, 95%, paired, over queries,
    or over their groups where `n_groups` is not None) have the measures as keys; an interval is
    None where a single group says nothing. `changed` are queries whose precision differs, the most
    changed first, `better` and `worse` how many there are of them. `left_out` counts by reason what
    was no question to both.
    """

    index_a: str
    index_b: str
    mode: Literal["test", "leave-one-out"]
    k: int
    n_queries: int
    a: dict[str, float]
    b: dict[str, float]
    difference: dict[str, float]
    intervals: dict[str, tuple[float, float] | None]
    n_groups: int | None
    better: int
    worse: int
    changed: tuple[Change, ...]
    left_out: dict[str, int]
    skipped: tuple[Skip, ...]

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `compare --json`."""
        return {
            "index_a": self.index_a,
            "index_b": self.index_b,
            "mode": self.mode,
            "k": self.k,
            "n_queries": self.n_queries,
            "a": self.a,
            "b": self.b,
            "difference": self.difference,
            "intervals": {name: pair and list(pair) for name, pair in self.intervals.items()},
            "intervals_by": "query" if self.n_groups is None else "group",
            "n_groups": self.n_groups,
            "better": self.better,
            "worse": self.worse,
            "changed": [change.to_dict() for change in self.changed],
            "left_out": self.left_out,
            "skipped": [{"path": skip.path, "reason": skip.reason} for skip in self.skipped],
        }

    def to_pandas(self) -> pd.DataFrame:
        """One line per measure: both means, their difference and its interval (needs pandas)."""
        return frame(
            [
                {
                    "measure": name,
                    "a": self.a[name],
                    "b": self.b[name],
                    "difference": self.difference[name],
                    "low": pair and pair[0],
                    "high": pair and pair[1],
                }
                for name, pair in self.intervals.items()
            ]
        )


def lifts(means: Mapping[str, float], chance: Mapping[str, float]) -> dict[str, float | None]:
    """Divide each mean by its chance level; None where that is 0."""
    return {
        name: value / chance[name] if chance.get(name) else None for name, value in means.items()
    }


@dataclass(frozen=True, slots=True)
class LabelIssue:
    """A row whose label is likely to be wrong.

    `confidence` is the probability of `suggested` and `own` that of `label`, both from what other
    rows say. `evidence` are the nearest rows of the suggested label, best first. `best_own` and
    `best_other` are (row, score) of the nearest of the own label and of any other among the
    neighbors, None where there is none; copies and kin do not count.
    """

    row: int
    path: str
    label: str
    suggested: str
    confidence: float
    own: float
    evidence: tuple[int, ...]
    best_own: tuple[int, float] | None
    best_other: tuple[int, float] | None

    def to_dict(self) -> dict[str, Any]:
        """One entry of `label_issues` in `audit --json`."""
        return {
            "row": self.row,
            "path": self.path,
            "label": self.label,
            "suggested": self.suggested,
            "confidence": self.confidence,
            "own": self.own,
            "evidence": list(self.evidence),
            "best_own": _row_and_score(self.best_own),
            "best_other": _row_and_score(self.best_other),
        }


def _row_and_score(pair: tuple[int, float] | None) -> dict[str, Any] | None:
    return None if pair is None else {"row": pair[0], "score": pair[1]}


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Rows that show the same picture, ascending.

    `score` is that of the weakest link that holds them together; `exact` where all files have one
    sum. `labels` and `groups` are those that the rows have, each once.
    """

    rows: tuple[int, ...]
    paths: tuple[str, ...]
    score: float
    exact: bool
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """One entry of `duplicates` in `audit --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Leak:
    """A test picture that is in the base set, too: its best row there.

    `query` is its name, `path` that of the row; `exact` where both files have one sum. `label` is
    the row's label, `query_label` that of the test picture.
    """

    query: str
    query_label: str | None
    path: str
    row: int
    label: str | None
    score: float
    exact: bool
    file: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """One entry of `leaks` in `audit --json`."""
        return {
            "query": self.query,
            "path": self.path,
            "row": self.row,
            "score": self.score,
            "exact": self.exact,
            "query_label": self.query_label,
            "label": self.label,
        }


@dataclass(frozen=True, slots=True)
class Outlier:
    """A row that resembles no other: `score` is its best, `p_value` the share of rows as lonely."""

    row: int
    path: str
    label: str | None
    score: float
    p_value: float

    def to_dict(self) -> dict[str, Any]:
        """One entry of `outliers` in `audit --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Hub:
    """A row that comes up among the neighbors of other classes far too often.

    Of the `times` that it is among the k nearest of a row, `wrong` are rows of another label.
    """

    row: int
    path: str
    label: str
    times: int
    wrong: int

    def to_dict(self) -> dict[str, Any]:
        """One entry of `hubs` in `audit --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two classes that are mixed: of the k neighbors of one, how many are of the other.

    `shares` are (of the first class' neighbors, of the second's), `chance` the same if neighbors
    were drawn by lot.
    """

    labels: tuple[str, str]
    shares: tuple[float, float]
    chance: tuple[float, float]

    @property
    def share(self) -> float:
        """The mean of both shares."""
        return sum(self.shares) / 2

    def to_dict(self) -> dict[str, Any]:
        """One entry of `overlaps` in `audit --json`."""
        return {
            "labels": list(self.labels),
            "share": self.share,
            "shares": list(self.shares),
            "chance": list(self.chance),
        }


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What spoils a base set, each list worst first.

    `k` neighbors of each row are counted for hubs and overlaps. `outlier_rate` is the share of
    ordinary pictures that are listed as outliers by chance. `judged` counts the rows whose label
    could be judged, `compared` the pictures that were opened to find near-duplicates; `tested` is
    how many test pictures were looked up, None without a test set.
    """

    index: str
    count: int
    k: int
    judged: int
    compared: int
    outlier_rate: float
    label_issues: tuple[LabelIssue, ...]
    duplicates: tuple[DuplicateGroup, ...]
    leaks: tuple[Leak, ...]
    outliers: tuple[Outlier, ...]
    hubs: tuple[Hub, ...]
    overlaps: tuple[Overlap, ...]
    tested: int | None
    skipped: tuple[Skip, ...]
    model: str
    weights: str
    image_root: str

    def to_dict(self) -> dict[str, Any]:
        """Fields as in `audit --json`."""
        return {
            "index": self.index,
            "count": self.count,
            "k": self.k,
            "judged": self.judged,
            "compared": self.compared,
            "outlier_rate": self.outlier_rate,
            "tested": self.tested,
            "skipped": [{"path": skip.path, "reason": skip.reason} for skip in self.skipped],
            "label_issues": [issue.to_dict() for issue in self.label_issues],
            "duplicates": [group.to_dict() for group in self.duplicates],
            "leaks": [leak.to_dict() for leak in self.leaks],
            "outliers": [outlier.to_dict() for outlier in self.outliers],
            "hubs": [hub.to_dict() for hub in self.hubs],
            "overlaps": [overlap.to_dict() for overlap in self.overlaps],
            "model": self.model,
            "weights": self.weights,
        }

    def to_pandas(self) -> pd.DataFrame:
        """One line per label issue, the worst first (needs pandas)."""
        return frame([issue.to_dict() for issue in self.label_issues])


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Make a DataFrame of plain rows; raises MissingPackageError without pandas."""
    try:
        import pandas as pd
    except ImportError as error:
        from imgsearch.errors import MissingPackageError

        raise MissingPackageError("pandas", "pandas", "to_pandas()") from error
    return pd.DataFrame(rows)
