"""What a service counts and times, in Prometheus' form and by its rules for names."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from imgsearch.web.service import Generation

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Figures:
    """The figures of one service; each service has its own registry."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "imgsearch_http_requests",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "imgsearch_http_request_duration_seconds",
            "From the first byte of a request's head to the last of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.stages = Histogram(
            "imgsearch_stage_duration_seconds",
            "What a query spends in a stage, waiting for it included: decode, embed or search.",
            ("stage",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.waiting = Gauge(
            "imgsearch_queue_depth",
            "Pictures that wait for decoder or network, or are worked on.",
            registry=self._registry,
        )
        self.refused = Counter(
            "imgsearch_overload_refusals",
            "Requests refused because too many were waiting.",
            registry=self._registry,
        )
        self.rows = Gauge("imgsearch_index_rows", "Rows of the index.", registry=self._registry)
        self.since = Gauge(
            "imgsearch_index_created_timestamp_seconds",
            "When the generation of the index that answers was made.",
            registry=self._registry,
        )
        self.generation = Gauge(
            "imgsearch_index_generation_info",
            "1 for the generation that answers.",
            ("generation", "model"),
            registry=self._registry,
        )
        self.swaps = Counter(
            "imgsearch_index_swaps", "New generations taken up.", registry=self._registry
        )
        self.untrusted = Counter(
            "imgsearch_index_refusals",
            "Times that a new generation could not be trusted or loaded.",
            registry=self._registry,
        )
        self.connections = Gauge(
            "imgsearch_open_connections", "Open connections.", registry=self._registry
        )
        for stage in ("decode", "embed", "search"):
            self.stages.labels(stage)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - started)

    def took(self, generation: Generation) -> None:
        """Tell of the generation that answers from now on."""
        self.rows.set(generation.engine.index.manifest.count)
        self.since.set(generation.created)
        self.generation.clear()
        self.generation.labels(generation.name, generation.model_name).set(1)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text form."""
        return generate_latest(self._registry)
