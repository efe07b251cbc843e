"""What is known already of pictures: from the last generation, and from an interrupted run.

Two files lie in the index' folder beside the generations. Readers look at neither, and losing them
costs time only:

    .state      for each path of the last run the file's size, times and inode, and the sum of its
                content or the reason why it was skipped
    .work       every picture that an unfinished run has done, its vector included
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import stat
import struct
import time
from dataclasses import asdict, astuple, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from imgsearch.files import PART, sync_folder, writing
from imgsearch.vectors import UNIT_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy.typing as npt

    from imgsearch.records import Limits

STATE, WORK = ".state", ".work"
# A file that was written this shortly before it was looked at may be written again within the same
# tick of the clock: its times prove nothing.
_RACY_NS = 2_000_000_000
_SYNC_SECONDS = 5.0
_HASH_CHUNK = 1 << 20
_RECORD = struct.Struct(">II16s")
_DIGEST_SIZE = 16
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True, slots=True)
class FileState:
    """What the file system says of a file, and when it was asked (`seen_ns`)."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    seen_ns: int

    @property
    def facts(self) -> tuple[int, int, int, int]:
        """What changes with the file: size, times, inode."""
        return self.size, self.mtime_ns, self.ctime_ns, self.inode

    def proves_unchanged(self, now: FileState) -> bool:
        """Whether a file that was in this state and is in the state `now` has kept its content."""
        return (
            self.facts == now.facts and max(self.mtime_ns, self.ctime_ns) + _RACY_NS < self.seen_ns
        )


def look(path: str) -> FileState | None:
    """Ask the file system about a file; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - paths are text here, for speed
    except OSError:
        return None
    return FileState(
        found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, time.time_ns()
    )


def content_sum(path: str, most: int) -> str | None:
    """Return the sha256 of a regular file, in hex; None where it cannot be read or is too large."""
    total = hashlib.sha256()
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                return None
            while chunk := stream.read(_HASH_CHUNK):
                total.update(chunk)
    except OSError:
        return None
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a picture: its unit `vector` (float32, dim) and facts, or a `reason` to skip."""

    sha256: str | None
    width: int
    height: int
    size: int
    mtime_ns: int
    reason: str | None
    vector: npt.NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Seen:
    """An entry of the state file: content sum or reason, for a path in a state."""

    state: FileState
    sha256: str | None
    reason: str | None


def write_states(folder: Path, states: dict[str, Seen], limits: Limits) -> None:
    """Keep the states of a finished run. It is no loss if that fails."""
    text = io.StringIO()
    text.write(json.dumps({"limits": asdict(limits)}) + "\n")
    for path, seen in states.items():
        state = seen.state  # not by asdict(), which takes ten times as long
        times = (state.mtime_ns, state.ctime_ns)
        entry = (path, state.size, *times, state.inode, state.seen_ns, seen.sha256, seen.reason)
        text.write(json.dumps(entry) + "\n")
    data = text.getvalue().encode("ascii")
    part = folder / f"{PART}state"  # by this name the next writer finds it, should we be killed
    with contextlib.suppress(OSError):
        try:
            part.write_bytes(hashlib.sha256(data).hexdigest().encode("ascii") + b"\n" + data)
            part.replace(folder / STATE)
        finally:
            part.unlink(missing_ok=True)


def read_states(folder: Path, limits: Limits) -> dict[str, Seen]:
    """Read the states of the last run; nothing where the file is missing or damaged.

    Skips count only where the limits are those of now: another limit may let a picture in.
    """
    try:
        total, _, data = (folder / STATE).read_bytes().partition(b"\n")
        if hashlib.sha256(data).hexdigest().encode("ascii") != total:
            return {}
        lines = data.decode("ascii").splitlines()
        same_limits = json.loads(lines[0])["limits"] == asdict(limits)
        found = {}
        for line in lines[1:]:
            path, size, mtime, ctime, inode, seen, total_sum, reason = json.loads(line)
            numbers = (size, mtime, ctime, inode, seen)
            texts = (path, total_sum or "", reason or "")
            if set(map(type, numbers)) != {int} or set(map(type, texts)) != {str}:
                return {}
            if reason is None or same_limits:
                state = FileState(*numbers)
                found[path] = Seen(state, total_sum, reason)
    except (OSError, ValueError, TypeError, KeyError, IndexError, RecursionError):
        return {}
    return found


@dataclass(frozen=True, slots=True)
class _Entry:
    """A record of the journal, but for its vector; `limits` only with a reason."""

    path: str
    state: FileState | None
    limits: dict[str, Any] | None
    sha256: str | None
    width: int
    height: int
    size: int
    mtime_ns: int
    reason: str | None

    def is_possible(self) -> bool:
        """Whether all values have their types: JSON may hold others."""
        numbers = [self.width, self.height, self.size, self.mtime_ns]
        numbers += [] if self.state is None else astuple(self.state)
        texts = [self.path, self.sha256 or "", self.reason or ""]
        return set(map(type, numbers)) == {int} and set(map(type, texts)) == {str}


class Journal:
    """The finished pictures of an unfinished run, on disk; use as a context manager.

    Each run writes a file of its own and never to one of an earlier run: after a kill its last
    record may be torn, and after a failed sync nobody knows what of it is on the disk. A record has
    a sum of its own. Reading a file ends at the first that does not fit; it is looked at again when
    its vector is wanted, so that what is taken over is what was written.
    """

    def __init__(self, folder: Path, identity: dict[str, Any], limits: Limits, dim: int) -> None:
        """Name the journal after what the vectors depend on; another model's is not taken up."""
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._folder = folder / WORK
        self._name = f"journal-{key[:16]}"
        self._limits = asdict(limits)
        self._bytes = 4 * dim
        self._stream: BinaryIO | None = None
        self._synced = 0.0  # when, by the monotonic clock
        self._names_are_synced = False
        self.seen: dict[str, Seen] = {}
        self._place: dict[str, tuple[Path, int]] = {}

    def __enter__(self) -> Self:
        """Take up what earlier runs left; what cannot be read counts as not done."""
        for file in self._files():
            if file.name.startswith(f"{self._name}-"):
                with contextlib.suppress(OSError), file.open("rb") as stream:
                    self._read(file, stream)
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what was done for the next run, if anything was."""
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.close()
            self._folder.rmdir()  # where nothing is in it

    def _files(self) -> list[Path]:
        try:
            return sorted(self._folder.iterdir())
        except OSError:
            return []

    def _read(self, file: Path, stream: BinaryIO) -> None:
        """Learn the records of a file, up to the first that is not whole."""
        at = 0
        while (record := self._record(stream)) is not None:
            entry, vector = record
            if entry.reason is None or entry.limits == self._limits:
                if entry.state is not None:
                    self.seen[entry.path] = Seen(entry.state, entry.sha256, entry.reason)
                if vector and entry.sha256 is not None:
                    self._place[entry.sha256] = (file, at)
            at = stream.tell()

    def _record(self, stream: BinaryIO) -> tuple[_Entry, bytes] | None:
        """Read a record where the stream is; None where there is no whole one."""
        head = stream.read(_RECORD.size)
        if len(head) < _RECORD.size:
            return None
        header_size, vector_size, digest = _RECORD.unpack(head)
        if header_size > _LONGEST_HEADER or vector_size not in {0, self._bytes}:
            return None
        body = stream.read(header_size + vector_size)
        if hashlib.sha256(body).digest()[:_DIGEST_SIZE] != digest:
            return None
        try:
            fields = json.loads(body[:header_size])
            state = fields.pop("state")
            entry = _Entry(state=None if state is None else FileState(**state), **fields)
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
            return None  # of another release
        return (entry, body[header_size:]) if entry.is_possible() else None

    def find(self, sha256: str) -> Outcome | None:
        """Return what came of a content, if a vector did."""
        if sha256 not in self._place:
            return None
        file, at = self._place[sha256]
        record = None
        with contextlib.suppress(OSError), file.open("rb") as stream:
            stream.seek(at)
            record = self._record(stream)
        if record is None or record[0].sha256 != sha256:
            return None
        entry, raw = record
        vector = np.frombuffer(raw, "<f4")
        if not abs(np.linalg.norm(vector.astype(np.float64)) - 1) <= UNIT_TOLERANCE:
            return None  # no index could keep it
        facts = (entry.width, entry.height, entry.size, entry.mtime_ns)
        return Outcome(sha256, *facts, reason=None, vector=vector)

    def add(self, path: str, state: FileState | None, outcome: Outcome) -> None:
        """Keep what came of a picture; raises WriteError."""
        entry = _Entry(
            path=path,
            state=state,
            limits=self._limits if outcome.reason is not None else None,
            sha256=outcome.sha256,
            width=outcome.width,
            height=outcome.height,
            size=outcome.size,
            mtime_ns=outcome.mtime_ns,
            reason=outcome.reason,
        )
        header = json.dumps(asdict(entry)).encode("ascii")
        vector = b"" if outcome.vector is None else outcome.vector.astype("<f4").tobytes()
        digest = hashlib.sha256(header + vector).digest()[:_DIGEST_SIZE]
        with writing(self._folder):
            stream = self._stream or self._start()
            stream.write(_RECORD.pack(len(header), len(vector), digest) + header + vector)
            # To the system at once, against a kill; to the disk now and then, against a power cut.
            stream.flush()
            self._sync(stream)

    def _start(self) -> BinaryIO:
        self._folder.mkdir(exist_ok=True)
        used = {file.name for file in self._files()}
        names = (f"{self._name}-{number:06d}" for number in itertools.count(1))
        stream = (self._folder / next(name for name in names if name not in used)).open("xb")
        self._stream = stream
        self._synced = time.monotonic()
        return stream

    def _sync(self, stream: BinaryIO) -> None:
        if time.monotonic() - self._synced < _SYNC_SECONDS:
            return
        os.fsync(stream.fileno())
        if not self._names_are_synced:
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
            self._names_are_synced = True
        self._synced = time.monotonic()

    def clear(self) -> None:
        """Remove it, and the journals of runs that were given up: the index holds their work."""
        with contextlib.suppress(OSError):
            if self._stream is not None:
                self._stream.close()
        with contextlib.suppress(OSError):
            for file in self._files():
                with contextlib.suppress(OSError):
                    file.unlink()
            self._folder.rmdir()


class Memory:
    """Looks up what is known of a picture, in the journal and in the last generation."""

    def __init__(
        self,
        states: Iterable[dict[str, Seen]],
        find: Iterable[Callable[[str], Outcome | None]],
        sizes: Iterable[int | None] = (),
    ) -> None:
        """Take states by path, newest first, and ways to find an outcome by content sum.

        `sizes` are those, in bytes, of contents that are known beside the states.
        """
        self._states = list(states)
        self._find = list(find)
        self._sizes = {*sizes, *(seen.state.size for one in self._states for seen in one.values())}

    def may_know(self, now: FileState) -> bool:
        """Whether a content of this size is known: else there is no use in its sum."""
        return now.size in self._sizes

    def recall(
        self, path: str, now: FileState | None, summed: Callable[[], str | None] | None
    ) -> Outcome | None:
        """Return what is known of the content that a file has now; None where it must be opened.

        `summed` reads the file for its content sum; None where that is not worth it.
        """
        if now is None:
            return None
        for states in self._states:
            seen = states.get(path)
            if seen is not None and seen.state.proves_unchanged(now):
                if seen.reason is not None:
                    return Outcome(seen.sha256, 0, 0, now.size, now.mtime_ns, seen.reason, None)
                found = self._by_sum(seen.sha256)
                if found is not None:
                    return found
        if summed is None or (total := summed()) is None:
            return None
        for states in self._states:
            seen = states.get(path)
            if seen is not None and seen.reason is not None and seen.sha256 == total:
                return Outcome(total, 0, 0, now.size, now.mtime_ns, seen.reason, None)
        return self._by_sum(total)

    def _by_sum(self, sha256: str | None) -> Outcome | None:
        if sha256 is None:
            return None
        return next((found for find in self._find if (found := find(sha256)) is not None), None)
