"""The journey of a query: a picture, a row or a vector becomes ranked matches."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np

from imgsearch import calibration, folders, ranking, scanning
from imgsearch.codes import Estimator
from imgsearch.decoding import Source
from imgsearch.embedding import NO_DIRECTION, Embedded, embed, open_pool
from imgsearch.errors import (
    ImageDecodeError,
    ModelMismatchError,
    NoImagesError,
    NotFoundError,
    QueryError,
    UnknownModelError,
)
from imgsearch.opening import open_index
from imgsearch.places import source_of
from imgsearch.records import (
    DEFAULT_K,
    SCOPES,
    ClassShare,
    Correspondence,
    ImageItem,
    Match,
    Running,
    Scope,
    SearchResult,
    Skip,
)
from imgsearch.text import count, place_in, printable
from imgsearch.vectors import VectorFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt
    from PIL import Image

    from imgsearch.backbones import LoadedModel
    from imgsearch.decoding import DecoderPool
    from imgsearch.index import Index
    from imgsearch.remote import RemoteRows

    Picture = str | os.PathLike[str] | bytes | Image.Image

# Queries whose vectors are copied together: 20 MB of 1,280 numbers each.
_TOGETHER = 4096


@dataclass(frozen=True, slots=True)
class Query:
    """Something to ask with: a unit `vector`, float32 (dim,).

    `row` is the row that is itself and must not come back; `file` is where its picture lies and
    `sha256` its sum, `group` what it belongs to.
    """

    name: str
    vector: npt.NDArray[np.float32]
    label: str | None = None
    row: int | None = None
    file: str | None = None
    sha256: str | None = None
    group: str | None = None


class Results(Sequence[SearchResult]):
    """The results of many queries, each made when it is looked at.

    Of a hundred thousand queries in a thousand classes nobody could hold all at once.
    """

    def __init__(
        self, engine: SearchEngine, queries: Sequence[Query], scans: Sequence[ranking.Scan], k: int
    ) -> None:
        """Keep what they are made of; a scan may hold more than k rows."""
        self._engine, self._queries, self._scans, self._k = engine, queries, scans, k

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._queries)

    @overload
    def __getitem__(self, at: int) -> SearchResult: ...

    @overload
    def __getitem__(self, at: slice) -> list[SearchResult]: ...

    def __getitem__(self, at: int | slice) -> SearchResult | list[SearchResult]:
        """Make one, or some."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        return self._engine.result(self._queries[at], self._k, self._scans[at])


@dataclass(frozen=True, slots=True)
class _Least:
    """What a match must reach to be shown."""

    score: float | None
    probability: float | None

    def let_in(self, score: float, probability: float | None) -> bool:
        """Whether a match reaches it."""
        if self.score is not None and score < self.score:
            return False
        return self.probability is None or (
            probability is not None and probability >= self.probability
        )


def check_k(k: int) -> None:
    """Raise QueryError where k counts no matches."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise QueryError("k must be a whole number of at least 1")


class SearchEngine:
    """An open index that answers queries, exactly.

    The model is loaded at the first query by image, and never for rows and vectors. Close it, or
    use it as a context manager: it may hold processes that open pictures.
    """

    def __init__(
        self,
        index: Index,
        *,
        model: str | None = None,
        weights: str | None = None,
        running: Running | None = None,
    ) -> None:
        """See `open`."""
        self.index = index
        self._model_name = model
        self._weights = weights
        self._running = running or Running()
        self._loaded: LoadedModel | None = None
        self._pool: DecoderPool | None = None
        # Rows at hand are scanned here; those of a server are asked for one query after the other.
        self._rows: RemoteRows | None = None
        self._estimator: Estimator | None = None
        self._bringing = threading.Lock()
        if isinstance(index.vectors, VectorFile):
            self._estimator = Estimator(index.vectors)
        else:
            self._rows = index.vectors
        self._root = index.image_root

    @classmethod
    def open(
        cls,
        index: str | os.PathLike[str],
        *,
        model: str | None = None,
        weights: str | None = None,
        running: Running | None = None,
    ) -> SearchEngine:
        """Open and check an index.

        Args:
            index: its folder; a bare name means `indexes/NAME`; or milvus://HOST:PORT/NAME.
            model: a model to insist on; another than the index' own is refused at the first query
                by image.
            weights: where the weights file lies now, for an index made from a local file.
            running: how pictures are opened and embedded.

        Raises:
            NotFoundError: there is no index, or its server does not answer.
            IndexCorruptError: it cannot be trusted.
            MissingPackageError: what speaks with its server is not installed.
        """
        return cls(open_index(index), model=model, weights=weights, running=running)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """End its processes and threads; the engine may still be asked."""
        if self._estimator is not None:
            self._estimator.close()
        if self.index.store is not None:
            self.index.store.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the index, sorted."""
        return self.index.items.classes.names

    @property
    def model(self) -> LoadedModel:
        """The model that made the index, loaded when first needed.

        Raises:
            ModelMismatchError: what is here is not what made the index.
            MissingError: a package or the weights are not here.
        """
        if self._loaded is None:
            from imgsearch.backbones import reload_model

            self._loaded = reload_model(self.index, self._model_name, self._weights, self._running)
        return self._loaded

    @property
    def source(self) -> Estimator:
        """The rows and their scores, for who asks of all of them at once.

        Those of a server are brought here for that, when first needed.

        Raises:
            UnreachableError: it does not answer.
            IndexCorruptError, WriteError: see `RemoteRows.local`.
        """
        with self._bringing:
            if self._estimator is None:
                self._estimator = Estimator(self.index.vectors.local())
            return self._estimator

    @property
    def pool(self) -> DecoderPool:
        """The processes that open pictures, started when first needed."""
        if self._pool is None:
            self._pool = open_pool(self._running)
        return self._pool

    def warm_up(self) -> None:
        """Get ready for many single queries at once, instead of little by little as they come.

        Makes the 8-bit codes of the vectors, where the index is large enough for them to pay: a
        byte a number, in memory. Answers are the same without.
        """
        if self._rows is None:
            self.source.warm_up()

    # Asking.

    def by_row(
        self,
        row: int,
        k: int = DEFAULT_K,
        *,
        scope: Scope = "all",
        label: str | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> SearchResult:
        """Find the look-alikes of a stored row; the row itself never comes back.

        Args:
            row: 0-based row.
            k: how many matches.
            scope: "all", "same" (rows of the query's label) or "other" (of every other label).
            label: a label instead of the stored one.
            min_score: leave out matches below this score.
            min_probability: leave out matches that are less likely to be of the query's class.

        Raises:
            QueryError: no such row, k below 1, a scope without a label, or a probability of an
                index, or at a scope, that has none.
        """
        queries = [self.row_query(row, label)]
        return self.ask(
            queries, k, scope=scope, min_score=min_score, min_probability=min_probability
        )[0]

    def by_vector(
        self,
        vector: npt.ArrayLike,
        k: int = DEFAULT_K,
        *,
        scope: Scope = "all",
        label: str | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> SearchResult:
        """Find the rows closest to a vector as the model gives it, of shape (dim,).

        It is normalized here, and goes through the transform of a learned index.

        Raises:
            ModelMismatchError: it has another length than what the model gives.
            QueryError: it is zero or not finite, or as in `by_row`.
        """
        queries = [self.vector_query(vector, label)]
        return self.ask(
            queries, k, scope=scope, min_score=min_score, min_probability=min_probability
        )[0]

    def by_image(
        self,
        image: Picture,
        k: int = DEFAULT_K,
        *,
        scope: Scope = "all",
        label: str | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> SearchResult:
        """Find the look-alikes of a picture: a path, the bytes of a file, or a Pillow image.

        Raises:
            NotFoundError: there is no such file.
            ImageDecodeError: it is not a whole picture.
            ModelMismatchError, MissingError: the index' model cannot be had.
            QueryError: as in `by_row`.
        """
        return self.by_images(
            [image],
            k,
            scope=scope,
            labels=[label],
            min_score=min_score,
            min_probability=min_probability,
        )[0]

    def by_images(
        self,
        images: Sequence[Picture],
        k: int = DEFAULT_K,
        *,
        scope: Scope = "all",
        labels: Sequence[str | None] | None = None,
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> list[SearchResult]:
        """Find the look-alikes of several pictures at once; see `by_image`.

        Args:
            images: the pictures.
            k: how many matches for each.
            scope: see `by_row`.
            labels: the pictures' labels, in the same order.
            min_score: see `by_row`.
            min_probability: see `by_row`.
        """
        sources = [_source(image) for image in images]
        queries = []
        for source, label, outcome in zip(
            sources, labels or [None] * len(sources), self._embed(sources), strict=True
        ):
            queries.append(_picture_query(source, label, outcome))
        return self.ask(
            queries, k, scope=scope, min_score=min_score, min_probability=min_probability
        )

    def thumbnail(self, source: SearchResult | Match, side: int) -> bytes | None:
        """Return the picture of a query or of a match as a small JPEG.

        It fits into side x side pixels and has no metadata. None where the picture cannot be had
        any more (it was moved, changed into something else, or came from memory).
        """
        path = source.file if isinstance(source, SearchResult) else None
        if isinstance(source, Match):
            path = place_in(self._root, source.path)
        return None if path is None else self.preview(path, side)

    def preview(self, file: str, side: int, quality: int = 85) -> bytes | None:
        """Return a picture's file as a small JPEG, as `thumbnail` does."""
        try:
            return self.pool.jpeg(source_of(file, hasty=True), side, side, quality=quality)
        except (ImageDecodeError, NotFoundError):
            return None

    # Making queries.

    def vector_query(self, vector: npt.ArrayLike, label: str | None = None) -> Query:
        """Make a query of a vector as the model gives it, (dim,); raises as `by_vector` does."""
        try:
            values = np.asarray(vector, dtype=np.float64)
        except (TypeError, ValueError):
            raise QueryError("a query vector must be made of numbers") from None
        manifest = self.index.manifest
        if values.shape != (manifest.model_dim,):
            given = f"the query has shape {values.shape}"
            if manifest.transform is None:
                raise ModelMismatchError(
                    f"the index holds vectors of {manifest.dim} numbers and {given}"
                )
            raise ModelMismatchError(
                f"the index was learned from vectors of {manifest.model_dim} numbers, as its model "
                f"gives them, and {given}"
            )
        given_as = np.asarray(vector)
        raw = ranking.unit(given_as if given_as.dtype == np.float32 else values)
        unit = None if raw is None else self.learned(raw)
        if unit is None:
            raise QueryError("the query vector is zero or not finite: it has no direction")
        return Query("vector", unit, label)

    def row_query(self, row: int, label: str | None = None) -> Query:
        """Make a query of a stored row; raises QueryError where there is no such row."""
        total = self.index.manifest.count
        if not 0 <= row < total:
            raise QueryError(f"there is no row {row}: the index has rows 0 to {total - 1}")
        vector = self.index.vectors.fetch(np.array([row]))[0]
        query = self._row_query(row, np.array(vector))
        return query if label is None else replace(query, label=label)

    def row_queries(self, rows: Sequence[int]) -> list[Query]:
        """Make queries of many stored rows; their vectors stay where the index has them."""
        stored = self.index.vectors.local().rows
        return [self._row_query(row, stored[row]) for row in rows]

    def _row_query(self, row: int, vector: npt.NDArray[np.float32]) -> Query:
        items = self.index.items
        return Query(
            f"row:{row}",
            vector,
            items.label(row),
            row,
            self.picture_file(row),
            items.sha256(row),
            items.group(row),
        )

    def picture_file(self, row: int) -> str:
        """Return where the picture of a row lies, or lay."""
        return place_in(self._root, self.index.items.path(row))

    def image_query(
        self, image: Picture, label: str | None = None, *, name: str | None = None
    ) -> Query:
        """Make a query of one picture, called `name`; raises what `by_image` raises."""
        source = _source(image)
        source = source if name is None else replace(source, name=name)
        (outcome,) = self._embed([source])
        return _picture_query(source, label, outcome)

    def folder_queries(
        self,
        root: Path,
        items: Sequence[ImageItem] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[list[Query], list[Skip]]:
        """Make queries of the pictures in a folder, named by their path relative to it.

        Args:
            root: the folder.
            items: which pictures, with their labels; all of them, labelled by their first-level
                subfolder, unless given.
            progress: called with how many are done, and of how many.

        Raises:
            NotFoundError, InputError: there is no such folder.
            NoImagesError: no picture in it could be used.
        """
        if items is None:
            found, skips = folders.find_images(root)
        else:
            folders.check_folder(root)
            outside = [item for item in items if folders.escapes(root, item.path)]
            skips = [Skip(printable(item.path), folders.LEAVES) for item in outside]
            found = [item for item in items if item not in outside]
        queries: list[Query] = []
        sources = [Source(item.path, str(root / item.path)) for item in found]
        outcomes = zip(found, sources, self._embed(sources), strict=True)
        for done, (item, source, outcome) in enumerate(outcomes, start=1):
            if isinstance(outcome, ImageDecodeError):
                skips.append(Skip(printable(item.path), outcome.reason))
            else:
                query = _picture_query(source, item.label, outcome)
                queries.append(replace(query, group=item.group))
            if progress is not None:
                progress(done, len(found))
        if not queries:
            why = f"; the first of {count(len(skips), 'skip')}: {skips[0].reason}" if skips else ""
            raise NoImagesError(f"there are no pictures to ask with in {printable(str(root))}{why}")
        return queries, skips

    def _embed(self, sources: Sequence[Source]) -> Iterable[Embedded | ImageDecodeError]:
        if not sources:
            return
        prepared = self.index.manifest.preprocessing
        if prepared is None:
            raise UnknownModelError
        # The model is loaded when the first picture is ready for it: a bad one need not wait.
        found = embed(
            sources, prepared, lambda: self.model.engine, self.pool, self._running.batch_size
        )
        for source, outcome in zip(sources, found, strict=True):
            vector = None if outcome.vector is None else self.learned(outcome.vector)
            if vector is None:
                yield ImageDecodeError(printable(source.name), outcome.reason or NO_DIRECTION)
            else:
                yield replace(outcome, vector=vector)

    def learned(self, vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
        """Return a unit vector of the model, float32 (dim,), as the index would hold it.

        It has gone through the transform of a learned index, and is what it was without one; None
        where nothing of it has a direction.
        """
        transform = self.index.transform
        return vector if transform is None else transform.one(vector)

    # Answering.

    def ask(
        self,
        queries: Sequence[Query],
        k: int = DEFAULT_K,
        *,
        scope: Scope = "all",
        min_score: float | None = None,
        min_probability: float | None = None,
    ) -> list[SearchResult]:
        """Answer queries, in their order; raises QueryError as `by_row` does."""
        least = self._check(k, scope, min_score, min_probability)
        return [
            self._result(query, k, scope, least, scan)
            for query, scan in self._scans(queries, k, scope)
        ]

    def scans(
        self,
        queries: Sequence[Query],
        k: int = DEFAULT_K,
        *,
        ranks: bool = False,
        allowed: Sequence[ranking.Mask | None] | None = None,
    ) -> Iterator[ranking.Scan]:
        """Compare queries with the whole base set: what `ask` tells, in numbers, for evaluations.

        Args:
            queries: the queries.
            k: how many rows each is to get.
            ranks: whether the ranks of a query's own class are wanted, too.
            allowed: for each query the rows that qualify, bool (count,), None for all.

        Yields:
            One Scan a query, in order. The vectors of some thousand queries at a time are copied.
        """
        self._check(k, "all", None, None)
        place = {name: i for i, name in enumerate(self.classes)}
        for first in range(0, len(queries), _TOGETHER):
            some = queries[first : first + _TOGETHER]
            yield from scanning.scan(
                self.source,
                self.index.items.classes,
                np.stack([query.vector for query in some]),
                k,
                exclude=[query.row for query in some],
                own=[place.get(query.label or "", -1) for query in some] if ranks else None,
                allowed=None if allowed is None else allowed[first : first + _TOGETHER],
            )

    def result(self, query: Query, k: int, scan: ranking.Scan) -> SearchResult:
        """Tell of a query what was found at scope "all"; `scan` may hold more than k rows."""
        return self._result(query, k, "all", _Least(None, None), scan)

    def _scans(
        self, queries: Sequence[Query], k: int, scope: Scope
    ) -> Iterable[tuple[Query, ranking.Scan]]:
        if not queries:
            return ()
        classes = self.index.items.classes
        place = {name: i for i, name in enumerate(classes.names)}
        own = [-1 if query.label is None else place.get(query.label, -1) for query in queries]
        allowed = [self._allowed(query, at, scope) for query, at in zip(queries, own, strict=True)]
        scans: Iterable[ranking.Scan]
        known = classes if scope == "all" else None
        if self._rows is not None:
            rows = self._rows
            scans = (
                ranking.consult(
                    rows, query.vector, k, classes=known, allowed=only, itself=query.row
                )
                for query, only in zip(queries, allowed, strict=True)
            )
            return zip(queries, scans, strict=True)
        # Queries of one label share their mask.
        shared = {only: only.mask(classes.ids) for only in set(allowed) if only is not None}
        masks = [None if only is None else shared[only] for only in allowed]
        if len(queries) >= self.source.batch:
            scans = scanning.scan(
                self.source,
                known,
                np.stack([query.vector for query in queries]),
                k,
                exclude=[query.row for query in queries],
                allowed=masks,
            )
        else:
            scans = (
                ranking.find(
                    self.source, query.vector, k, classes=known, allowed=mask, itself=query.row
                )
                for query, mask in zip(queries, masks, strict=True)
            )
        return zip(queries, scans, strict=True)

    def _check(
        self, k: int, scope: str, min_score: float | None, min_probability: float | None
    ) -> _Least:
        check_k(k)
        if scope not in SCOPES:
            raise QueryError(f"there is no scope '{scope}'; choose one of: {', '.join(SCOPES)}")
        if min_score is not None and not np.isfinite(min_score):
            raise QueryError("the least score must be a number between -1 and 1")
        if min_probability is not None:
            self.check_probability(min_probability, scope)
        return _Least(min_score, min_probability)

    def check_probability(self, least: float, scope: str) -> None:
        """Raise QueryError where no match can be held against a least probability."""
        if not 0 <= least <= 1:
            raise QueryError("the least probability must be a number between 0 and 1")
        if scope != "all":
            raise QueryError(
                f"at scope {scope} matches have no probability to be of the query's class: it is "
                "known; use scope all, or a least score"
            )
        known = self.index.manifest.calibration
        if known is None or not known.steps:
            raise QueryError(
                "the index does not know what its scores mean: it needs labels of two classes and "
                "at least 20 pictures, must not be a learned one, and imgsearch update brings one "
                "up to date that an earlier release made"
            )

    def _allowed(self, query: Query, own: int, scope: Scope) -> ranking.Only | None:
        if scope == "all":
            return None
        if query.label is None:
            raise QueryError(
                f"scope '{scope}' needs to know the label of {printable(query.name)}: give it one"
            )
        if scope == "same" and own < 0:
            raise QueryError(self._unknown_label(query.label))
        return ranking.Only(own, other=scope == "other")

    def check_label(self, label: str | None) -> None:
        """Raise QueryError for a label that no row has; None is none."""
        if label is not None and label not in self.classes:
            raise QueryError(self._unknown_label(label))

    def _unknown_label(self, label: str) -> str:
        known = ", ".join(printable(name) for name in self.classes[:20]) or "none"
        more = f" and {len(self.classes) - 20:,} more" if len(self.classes) > 20 else ""  # noqa: PLR2004
        return f"no row of the index has the label '{printable(label)}'; it has: {known}{more}"

    def _result(
        self,
        query: Query,
        k: int,
        scope: Scope,
        least: _Least,
        scan: ranking.Scan,
    ) -> SearchResult:
        items = self.index.items
        known = self.index.manifest.calibration if scope == "all" else None
        rows, scores = scan.rows[:k], scan.scores[:k]
        likely = None
        if known is not None:
            likely = calibration.probabilities(known, scores, np.arange(1, len(rows) + 1))
        chances = [None] * len(rows) if likely is None else likely.tolist()
        found = zip(rows.tolist(), scores.tolist(), chances, strict=True)
        matches = tuple(
            Match(rank, row, items.path(row), items.label(row), score, chance)
            for rank, (row, score, chance) in enumerate(found, start=1)
            if least.let_in(score, chance)
        )
        return SearchResult(
            query=query.name,
            label=query.label,
            k=k,
            scope=scope,
            matches=matches,
            correspondence=self._correspondence(query, k, matches, scan)
            if scope == "all"
            else None,
            file=query.file,
            resemblance=None
            if known is None or not len(scan.scores)
            else calibration.resemblance(known, float(scan.scores[0])),
        )

    def _correspondence(
        self, query: Query, k: int, matches: tuple[Match, ...], scan: ranking.Scan
    ) -> Correspondence:
        counts: dict[str | None, int] = {}
        for match in matches:
            counts[match.label] = counts.get(match.label, 0) + 1
        shares = tuple(
            ClassShare(
                label=name,
                count=counts.get(name, 0),
                share=counts.get(name, 0) / k,
                best_score=None if row < 0 else float(score),
                best_row=None if row < 0 else int(row),
            )
            for name, row, score in zip(self.classes, scan.best_rows, scan.best_scores, strict=True)
        )
        if query.label is None:
            return Correspondence(None, None, shares)
        right = counts.get(query.label, 0)
        return Correspondence(right / k, (k - right) / k, shares)


def _picture_query(
    source: Source, label: str | None, outcome: Embedded | ImageDecodeError
) -> Query:
    """Make a query of an embedded picture; raises what became of it instead."""
    if isinstance(outcome, ImageDecodeError):
        raise outcome
    if outcome.vector is None or outcome.decoded is None:  # _embed has seen to it
        raise ImageDecodeError(printable(source.name), NO_DIRECTION)
    return Query(source.name, outcome.vector, label, None, source.path, outcome.decoded.sha256)


def _source(image: Any) -> Source:  # noqa: ANN401 - a union that ends in Pillow's class
    if isinstance(image, bytes):
        return Source("image", data=image)
    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        if not os.path.exists(path):  # noqa: PTH110 - the path may be text of any kind
            raise NotFoundError(f"there is no picture {printable(path)}")
        return Source(path, path)
    save = getattr(image, "save", None)
    if save is None:
        raise QueryError("a picture is a path, the bytes of a file or a Pillow image")
    out = io.BytesIO()
    # PNG keeps every pixel and mode that matters here; the decoder sees it like any other file.
    kept = image if image.mode in {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"} else None
    if kept is None:
        from imgsearch.images import to_rgb

        kept = to_rgb(image)
    kept.save(out, "PNG", compress_level=0)
    return Source("image", data=out.getvalue())
