"""How a service is run: its limits and what it lets in."""

from __future__ import annotations

from dataclasses import dataclass, field

from imgsearch.records import Limits

# What a service opens unless told otherwise, by Pillow's names.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of a service.

    `max_upload` is the bytes of one picture, `queue` the pictures that may wait or be worked on at
    once, `deadline` the seconds that a request may take once its body is here, `connections` the
    sockets that may be open. `hosts` are the names that a client may call the service by, None for
    any. `cors` are the origins whose pages may ask.
    """

    api_key: str | None = None
    cors: tuple[str, ...] = ()
    hosts: frozenset[str] | None = None
    formats: tuple[str, ...] = FORMATS
    max_upload: int = 20 * MEGABYTE
    queue: int = 16
    deadline: float = 30.0
    connections: int = 1000
    limits: Limits = field(default_factory=Limits)

    # A body must gain so many bytes in so many seconds: somebody who sends a byte now and then
    # makes no progress.
    progress_seconds: float = 25.0
    progress_bytes: int = 64_000
    header_seconds: float = 20.0
    keep_alive_seconds: int = 15
    # Between the signal to stop and the end: how long new requests still come in, to be told by
    # readyz, and how long those under way may take.
    drain_seconds: float = 1.0
    stop_seconds: int = 8
    # Bodies held in memory, of all requests together.
    held_bytes: int = 320 * MEGABYTE
    thumbnails_bytes: int = 64 * MEGABYTE
    watch_seconds: float = 1.0
    searches: int = 64
    # Leave-one-out over more rows than this is done on a spread sample of the queries.
    evaluated_rows: int = 2000
    matrix_classes: int = 100
