"""Milvus: a generation is two collections that never change, and an alias says which is served.

NAME_<sum> holds the rows: key `id`, `class_id` (-1 without a label), `path`, `label` and `vector`,
FLAT with the inner product of unit rows, the manifest in its description. NAME_<sum>_files holds
the other data files, in base64 and in parts. NAME is an alias of the one that is served,
NAME_previous of the one before, which the push after drops: who has it open goes on until then.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import importlib.util
import logging
import os
import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from imgsearch.errors import (
    ImgsearchError,
    IndexCorruptError,
    InputError,
    MissingPackageError,
    NotFoundError,
    SupersededError,
    UnreachableError,
    WriteError,
)
from imgsearch.ranking import Proposed
from imgsearch.stores import Piece, Placed
from imgsearch.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

    from imgsearch.ranking import Only
    from imgsearch.stores import Address, Generation, Progress

    Rows = npt.NDArray[np.int64]
    Floats = npt.NDArray[np.float32]

# Seconds: to connect, to answer, to take rows, and to do what a push asks for after that.
_CONNECT, _ANSWER, _INSERT, _WORK = 5, 20, 60, 3600
_MOST_MATCHES = 16_384  # of a search or a query, by default of the server
# A message may have 64 MiB; with the names of the fields, and twice that while it is taken apart.
_MESSAGE_BYTES = 24 << 20
# Vectors come along with the candidates as long as they are few.
_ALONG_BYTES = 8 << 20
_MOST_TEXT = 65_535  # bytes of a VARCHAR
_PART_BYTES = _MOST_TEXT // 4 * 3  # of a data file: in base64 it fills a VARCHAR
_PARTS = 400  # at a time
# Of a description; 500,000 were taken by 2.3.5, 1,000,000 are more than its etcd takes.
_MOST_DESCRIPTION = 400_000
_SAMPLE = 64
_NO_COLLECTION, _NOT_LOADED, _NO_ALIAS = 100, 101, 1600
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_SUM = 24
_OURS = re.compile(rf"_[0-9a-f]{{{_SUM}}}(_files)?")
_FILES, _PREVIOUS = "_files", "_previous"
_FLAT = {"index_type": "FLAT", "metric_type": "IP"}
_EVENTUALLY = {"consistency_level": "Eventually"}


class MilvusStore:
    """A generation in a Milvus server; see `Store`."""

    def __init__(self, client: Any, address: Address, generation: str) -> None:  # noqa: ANN401 - late import
        """Read its description."""
        self.address, self.generation = address, generation
        self._connected: Any = client
        self._lock = threading.Lock()
        with self._talking() as asked:
            told = asked.describe_collection(generation, timeout=_ANSWER)
            index = asked.describe_index(generation, "vector", timeout=_ANSWER) or {}
        fields = {field["name"]: field for field in told["fields"]}
        if not {"id", "class_id", "path", "label", "vector"} <= fields.keys():
            raise IndexCorruptError(generation, "it has not the fields of an index")
        if {key: index.get(key) for key in _FLAT} != _FLAT:
            raise IndexCorruptError(generation, "it is not indexed as FLAT with inner products")
        self.dim = int(fields["vector"]["params"]["dim"])
        self.manifest = str(told["description"]).encode()
        if not generation.endswith(_sum(self.manifest)):
            raise IndexCorruptError(generation, "its description has not the sum of its name")

    def close(self) -> None:
        """Let the connection go; the next question opens another."""
        with self._lock:
            client, self._connected = self._connected, None
        if client is not None:
            client.close()

    def newest(self) -> str:
        """Return the collection that the alias stands for now."""
        with self._talking() as client:
            return _served(client, self.address)

    def count(self) -> int:
        """Return how many rows there are."""
        with self._talking() as client:
            return _count(client, self.generation, "Eventually")

    def propose(self, queries: Floats, limit: int, allowed: Only | None) -> Proposed:
        """Return the rows that score best, by the server's own arithmetic: float32."""
        if limit > _MOST_MATCHES:
            return self._all(queries, allowed)
        along = len(queries) * limit * 4 * self.dim <= _ALONG_BYTES
        return self._search(queries, limit, _text_of(allowed), along=along)

    def _all(self, queries: Floats, allowed: Only | None) -> Proposed:
        """Score all rows that qualify: as many keys at a time as a search may return."""
        last = self.count()
        parts = []
        for first in range(0, last, _MOST_MATCHES):
            keys = f"id >= {first} and id < {first + _MOST_MATCHES}"
            said = _text_of(allowed)
            both = f"{said} and {keys}" if said else keys
            parts.append(self._search(queries, _MOST_MATCHES, both, along=False))
        scores = np.concatenate([part.scores for part in parts], axis=1)
        rows = np.concatenate([part.rows for part in parts], axis=1)
        turn = np.argsort(-scores, axis=1, kind="stable")
        return Proposed(
            np.take_along_axis(scores, turn, axis=1), np.take_along_axis(rows, turn, axis=1)
        )

    def _search(self, queries: Floats, limit: int, said: str, *, along: bool) -> Proposed:
        with self._talking() as client:
            found = client.search(
                self.generation,
                data=list(queries),
                anns_field="vector",
                filter=said,
                limit=limit,
                output_fields=["vector"] if along else [],
                search_params={"metric_type": "IP"},
                timeout=_ANSWER,
                **_EVENTUALLY,
            )
        # Of one filter each query finds as many.
        width = min((len(hits) for hits in found), default=0)
        scores = np.array([[hit["distance"] for hit in hits[:width]] for hits in found], np.float32)
        rows = np.array([[hit["id"] for hit in hits[:width]] for hits in found], np.int64)
        shape = (len(found), width)
        vectors = None
        if along:
            vectors = np.array(
                [[hit["entity"]["vector"] for hit in hits[:width]] for hits in found], np.float32
            ).reshape(*shape, self.dim)
        return Proposed(scores.reshape(shape), rows.reshape(shape), vectors)

    def fetch(self, rows: Rows) -> Floats:
        """Return stored vectors, float32 (len(rows), dim)."""
        out = np.empty((len(rows), self.dim), np.float32)
        step = min(_MOST_MATCHES, max(1, _MESSAGE_BYTES // (4 * self.dim)))
        for first in range(0, len(rows), step):
            some = rows[first : first + step].tolist()
            found = self._query(f"id in {some}", ["vector"])
            by_row = {one["id"]: one["vector"] for one in found}
            if by_row.keys() != set(some):
                raise UnreachableError(
                    f"{self.address.server} did not give all rows that were asked for: it may not "
                    "have loaded them yet"
                )
            out[first : first + step] = [by_row[row] for row in some]
        return out

    def piece(self, first: int, last: int) -> Piece:
        """Return all that is kept of some rows."""
        names = ["class_id", "path", "label", "vector"]
        found = []
        step = min(_MOST_MATCHES, max(1, _MESSAGE_BYTES // (4 * self.dim)))
        for begin in range(first, last, step):
            end = min(last, begin + step)
            found += self._query(f"id >= {begin} and id < {end}", names)
        found.sort(key=lambda one: one["id"])
        return Piece(
            np.array([one["id"] for one in found], np.int64),
            np.array([one["class_id"] for one in found], np.int64),
            [one["path"] for one in found],
            [one["label"] for one in found],
            np.array([one["vector"] for one in found], np.float32).reshape(-1, self.dim),
        )

    def _query(self, said: str, names: list[str]) -> list[Any]:
        with self._talking() as client:
            return list(
                client.query(
                    self.generation,
                    filter=said,
                    output_fields=names,
                    timeout=_ANSWER,
                    **_EVENTUALLY,
                )
            )

    def file(self, kind: str, size: int) -> bytes:
        """Return one of the data files beside the vectors; not much more than `size` bytes."""
        with self._talking() as client:
            return _read_file(client, self.generation + _FILES, kind, size, "Eventually")

    @contextlib.contextmanager
    def _talking(self) -> Iterator[Any]:
        with self._lock:
            if self._connected is None:
                self._connected = _connect(self.address)
            client = self._connected
        try:
            with _talking(self.address, self.generation):
                yield client
        except SupersededError:
            raise
        except UnreachableError:
            # A connection anew fails at once where nobody listens; this one would try for long.
            self.close()
            raise


def open_store(address: Address) -> MilvusStore:
    """Open the generation that a name stands for; see `stores.open_store`."""
    client = _connect(address)
    try:
        return MilvusStore(client, address, _served(client, address))
    except BaseException:
        client.close()
        raise


def put(address: Address, generation: Generation, progress: Progress | None) -> Placed:
    """Put a generation on a server, check it there, and have the name stand for it.

    See `stores.put`. Until the alias is moved everything happens beside what is served. A push that
    did not come to its end leaves collections that no alias names; the next one drops them.
    """
    name = address.name
    if not _NAME.fullmatch(name) or _OURS.search(name) or name.endswith((_FILES, _PREVIOUS)):
        raise InputError(
            f"an index in Milvus cannot be named {printable(name)[:80]}: use up to 200 letters, "
            f"digits and underscores, a letter first, and no ending {_FILES} or {_PREVIOUS}"
        )
    client = _connect(address)
    try:
        return _Push(client, address, generation).run(progress)
    finally:
        client.close()


class _Push:
    """One push to a name."""

    def __init__(self, client: Any, address: Address, generation: Generation) -> None:  # noqa: ANN401
        self._client, self._address, self._wanted = client, address, generation
        self._name = address.name
        self._new = _generation(self._name, generation.manifest)
        self._dropped: list[str] = []

    def run(self, progress: Progress | None) -> Placed:
        """Do what is left to be done."""
        with _talking(self._address, self._new, pushing=True):
            served, before = self._alias(self._name), self._alias(self._name + _PREVIOUS)
            if served is None and self._client.has_collection(self._name, timeout=_ANSWER):
                raise InputError(
                    f"{self._name} is a collection of its own on {self._address.server}: push "
                    "under another name"
                )
            self._tidy({served, before})
            if served == self._new:
                self._check()
                return Placed(self._new, written=False, moved=False, dropped=self._dropped)
            if before != self._new:
                self._write(progress)
            self._check()
            # Named first: at no moment is what was served until now without a name.
            if served is not None:
                self._point(self._name + _PREVIOUS, served)
            self._point(self._name, self._new)
            self._tidy({served, self._new})
        return Placed(self._new, before != self._new, moved=True, dropped=self._dropped)

    def _alias(self, alias: str) -> str | None:
        return _alias(self._client, alias)

    def _point(self, alias: str, collection: str) -> None:
        if self._alias(alias) is None:
            self._client.create_alias(collection, alias, timeout=_ANSWER)
        else:
            self._client.alter_alias(collection, alias, timeout=_ANSWER)

    def _tidy(self, named: set[str | None]) -> None:
        """Drop the generations of this name that no alias stands for."""
        keep = {f"{one}{ending}" for one in named if one for ending in ("", _FILES)}
        ours = re.compile(re.escape(self._name) + _OURS.pattern)
        # The rows first: who opens a generation in vain sees that it is gone, not half of it.
        for one in sorted(self._client.list_collections(timeout=_ANSWER)):
            if ours.fullmatch(one) and one not in keep:
                self._client.drop_collection(one, timeout=_ANSWER)
                self._dropped.append(one)

    def _write(self, progress: Progress | None) -> None:
        with ThreadPoolExecutor(1, "imgsearch-push") as beside:
            files = beside.submit(self._write_files)
            self._write_rows(progress)
            files.result()

    def _write_rows(self, progress: Progress | None) -> None:
        wanted = self._wanted
        manifest = wanted.manifest.decode()
        if len(wanted.manifest) > _MOST_DESCRIPTION:
            raise InputError(
                f"the manifest has {len(wanted.manifest):,} bytes and the description of a "
                f"collection holds {_MOST_DESCRIPTION:,}: an index of fewer classes can be pushed"
            )
        labels = [label or "" for label in wanted.labels]
        widths = [_width("a path", wanted.paths), _width("a label", labels)]
        kinds = _kinds()
        fields = [
            ("class_id", kinds.INT64, {}),
            ("path", kinds.VARCHAR, {"max_length": widths[0]}),
            ("label", kinds.VARCHAR, {"max_length": widths[1]}),
            ("vector", kinds.FLOAT_VECTOR, {"dim": wanted.dim}),
        ]
        self._create(self._new, manifest, fields)
        step = max(1, _MESSAGE_BYTES // (4 * wanted.dim + sum(widths) + 64))
        for first in range(0, wanted.count, step):
            last = min(first + step, wanted.count)
            vectors = wanted.rows(first, last)
            rows = [
                {
                    "id": row,
                    "class_id": int(wanted.class_ids[row]),
                    "path": wanted.paths[row],
                    "label": labels[row],
                    "vector": vectors[row - first],
                }
                for row in range(first, last)
            ]
            self._client.insert(self._new, rows, timeout=_INSERT)
            if progress is not None:
                progress(last, wanted.count)
        self._finish(self._new)

    def _write_files(self) -> None:
        """Keep the other data files; a collection has a vector, which says nothing here."""
        name, kinds = self._new + _FILES, _kinds()
        fields = [
            ("kind", kinds.VARCHAR, {"max_length": 32}),
            ("part", kinds.INT64, {}),
            ("data", kinds.VARCHAR, {"max_length": _MOST_TEXT}),
            ("vector", kinds.FLOAT_VECTOR, {"dim": 2}),
        ]
        self._create(name, f"data files of {self._new}, in base64", fields)
        rows = [
            {"kind": kind, "part": part, "data": _encoded(data, part), "vector": [1.0, 0.0]}
            for kind, data in sorted(self._wanted.files.items())
            for part in range(-(-len(data) // _PART_BYTES))
        ]
        for first in range(0, len(rows), _PARTS):
            some = rows[first : first + _PARTS]
            numbered = [{"id": i, **row} for i, row in enumerate(some, start=first)]
            self._client.insert(name, numbered, timeout=_INSERT)
        self._finish(name)

    def _create(self, name: str, description: str, fields: Sequence[tuple[str, Any, Any]]) -> None:
        schema = self._client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=description
        )
        schema.add_field("id", _kinds().INT64, is_primary=True)
        for field, kind, more in fields:
            schema.add_field(field, kind, **more)
        self._client.create_collection(name, schema=schema, num_shards=1, timeout=_ANSWER)

    def _finish(self, name: str) -> None:
        self._client.flush(name, timeout=_WORK)
        index = self._client.prepare_index_params()
        index.add_index("vector", index_name="vector", **_FLAT)
        self._client.create_index(name, index, timeout=_WORK)
        self._client.load_collection(name, timeout=_WORK)

    def _check(self) -> None:
        """Raise IndexCorruptError where the server does not hold what it was given."""
        wanted = self._wanted
        for name in (self._new, self._new + _FILES):  # at hand already, but for a server's own sake
            self._client.load_collection(name, timeout=_WORK)
        found = _count(self._client, self._new, "Strong")
        if found != wanted.count:
            raise self._refuse(f"it has {found:,} rows where {wanted.count:,} were put")
        store = MilvusStore(self._client, self._address, self._new)
        if store.manifest != wanted.manifest:
            raise self._refuse("its description is not the manifest")
        for row in np.unique(np.linspace(0, wanted.count - 1, _SAMPLE).astype(int)).tolist():
            piece = store.piece(row, row + 1)
            said = (piece.class_ids.tolist(), piece.paths, piece.labels)
            due = (
                [int(wanted.class_ids[row])],
                [wanted.paths[row]],
                [wanted.labels[row] or ""],
            )
            if said != due or piece.vectors.tobytes() != wanted.rows(row, row + 1).tobytes():
                raise self._refuse(f"row {row} did not come back as it was put")
        for kind, data in wanted.files.items():
            again = _read_file(self._client, self._new + _FILES, kind, len(data), "Strong")
            if again != data:
                raise self._refuse(f"its file of {kind} did not come back as it was put")

    def _refuse(self, problem: str) -> IndexCorruptError:
        return IndexCorruptError(self._new, problem)


# Names and texts.


def _sum(manifest: bytes) -> str:
    return hashlib.sha256(manifest).hexdigest()[:_SUM]


def _generation(name: str, manifest: bytes) -> str:
    return f"{name}_{_sum(manifest)}"


def _text_of(allowed: Only | None) -> str:
    """Say which rows qualify as the server wants it said."""
    if allowed is None:
        return ""
    if not allowed.other:
        return f"class_id == {allowed.own}"
    return f"class_id >= 0 and class_id != {allowed.own}"


def _width(what: str, texts: Sequence[str]) -> int:
    """Return the bytes of the longest text."""
    widest = max((len(text.encode()) for text in texts), default=0)
    if widest > _MOST_TEXT:
        raise InputError(f"{what} has {widest:,} bytes and Milvus keeps {_MOST_TEXT:,}")
    return max(1, widest)


def _encoded(data: bytes, part: int) -> str:
    return base64.b64encode(data[part * _PART_BYTES : (part + 1) * _PART_BYTES]).decode()


# The border: what is said to pymilvus, and what becomes of its errors.


def _kinds() -> Any:  # noqa: ANN401 - an enumeration that is imported late
    from pymilvus import DataType

    return DataType


def _connect(address: Address) -> Any:  # noqa: ANN401 - imported late
    if importlib.util.find_spec("pymilvus") is None:
        raise MissingPackageError("pymilvus", "milvus", "an index in Milvus")
    # Asked before anything is loaded: who has mistyped the address need not wait for it.
    away = f"no Milvus server answers at {address.server}"
    try:
        socket.create_connection((address.host, address.port), timeout=_CONNECT).close()
    except OSError as error:
        raise UnreachableError(f"{away} ({error.strerror or error}): is it running?") from error
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # the log of its network library
    import grpc
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    # It logs each error, also those that are handled; importing it sets a level.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL + 1)
    host = f"[{address.host}]" if ":" in address.host else address.host
    uri = f"{'https' if address.tls else 'http'}://{host}:{address.port}"
    token = os.environ.get("MILVUS_TOKEN", "")
    try:
        # Its own: a shared one is found by address and token, and may be one without TLS.
        return MilvusClient(uri=uri, token=token, timeout=_CONNECT, dedicated=True)
    except MilvusException as error:
        why = error.__cause__
        if isinstance(why, grpc.RpcError) and why.code() == grpc.StatusCode.UNAUTHENTICATED:
            said = "refuses the token in MILVUS_TOKEN" if token else "wants a token in MILVUS_TOKEN"
            raise InputError(f"{address.server} {said}") from error
        raise UnreachableError(f"{away}: another program, or TLS on one side only?") from error


@contextlib.contextmanager
def _talking(address: Address, generation: str, *, pushing: bool = False) -> Iterator[None]:
    """Translate the errors of pymilvus and of its network library."""
    import grpc
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except ImgsearchError:
        raise
    except (MilvusException, grpc.RpcError) as error:
        code = getattr(error, "code", None)
        told = error.details() if isinstance(error, grpc.RpcError) else error.message
        said = printable(" ".join(str(told).split()))[:160]
        if code == _NO_COLLECTION and not pushing:
            raise SupersededError(
                f"{generation} is not on {address.server} any more: a newer generation was pushed, "
                "open the index again"
            ) from error
        if pushing and isinstance(code, int) and _answers(address):
            raise WriteError(f"{address.server} refuses what is pushed: {said}") from error
        raise UnreachableError(f"{address.server} does not answer ({said})") from error


def _answers(address: Address) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((address.host, address.port), timeout=_CONNECT).close()
        return True
    return False


def _alias(client: Any, alias: str) -> str | None:  # noqa: ANN401 - imported late
    from pymilvus.exceptions import MilvusException

    try:
        return str(client.describe_alias(alias, timeout=_CONNECT)["collection_name"])
    except MilvusException as error:
        if error.code in {_NO_ALIAS, _NO_COLLECTION}:
            return None
        raise


def _served(client: Any, address: Address) -> str:  # noqa: ANN401 - imported late
    with _talking(address, address.name):
        found = _alias(client, address.name) if _NAME.fullmatch(address.name) else None
    if found is None:
        raise NotFoundError(
            f"there is no index {printable(address.name)} on {address.server}; make one with: "
            f"imgsearch push INDEX {printable(address.text)}"
        )
    return found


def _count(client: Any, collection: str, consistency: str) -> int:  # noqa: ANN401 - imported late
    found = client.query(
        collection,
        filter="",
        output_fields=["count(*)"],
        consistency_level=consistency,
        timeout=_ANSWER,
    )
    return int(found[0]["count(*)"])


def _read_file(client: Any, collection: str, kind: str, size: int, consistency: str) -> bytes:  # noqa: ANN401
    whole = bytearray()
    for first in range(0, -(-size // _PART_BYTES), _PARTS):
        found = client.query(
            collection,
            filter=f'kind == "{kind}" and part >= {first} and part < {first + _PARTS}',
            output_fields=["part", "data"],
            consistency_level=consistency,
            timeout=_ANSWER,
        )
        for one in sorted(found, key=lambda one: int(one["part"])):
            with contextlib.suppress(ValueError):  # its sum will tell
                whole += base64.b64decode(one["data"], validate=True)
    return bytes(whole)
