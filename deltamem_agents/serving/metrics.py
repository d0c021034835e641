"""`/metrics`: what the server does, in Prometheus's text format. Counts and times only: no agent's id, no text.

A request is labelled with its route's pattern, never with its path, so that the number of series does not grow with
agents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deltamem_agents.serving.access import Access
from deltamem_agents.serving.dependencies import allowed

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
REFUSED = "refused"  # the route of a request that reached none
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})

router = APIRouter(tags=["server"])


class Metrics:
    """The metrics of one application."""

    def __init__(self, mem: DeltaMem) -> None:
        self.registry = CollectorRegistry()
        self._paths: dict[object, str] = {}
        labels = ("method", "route")
        self.requests = Counter("deltamem_requests", "Requests answered.", (*labels, "status"), registry=self.registry)
        self.seconds = Histogram(
            "deltamem_request_seconds",
            "Time to the end of the answer.",
            labels,
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.first = Histogram(
            "deltamem_first_byte_seconds",
            "Time to the answer's first byte.",
            labels,
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_EngineCollector(mem))

    def path_of(self, app: FastAPI, endpoint: object) -> str:
        """The pattern of a route, with the prefixes of its routers: a route itself knows only its own part."""
        if not self._paths:
            self._paths = {each.endpoint: each.path or "" for each in iter_route_contexts(app.routes)}
        return self._paths.get(endpoint, REFUSED)

    def text(self) -> bytes:
        """All metrics, in Prometheus's format."""
        return generate_latest(self.registry)


class _EngineCollector(Collector):
    """Reads the engine's statistics when they are asked for."""

    def __init__(self, mem: DeltaMem) -> None:
        self._mem = mem

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if not self._mem.backbone.present:
            return
        stats = self._mem.engine.stats()
        for name, help_, value in (
            ("waiting", "Requests in the engine's queue.", stats.waiting),
            ("generating", "Rows that are being generated.", stats.generating),
            ("answered", "Generations since the start.", stats.answered),
            ("tokens_per_second", "Generation rate, not counting idle time.", stats.tokens_per_second),
            ("slots", "States that fit the device.", stats.slots),
            ("slots_used", "States on the device.", stats.slots_used),
            ("usable", "Whether the engine takes requests.", self._mem.engine.usable),
        ):
            yield GaugeMetricFamily(f"deltamem_engine_{name}", help_, float(value))


class Measuring:
    """An ASGI middleware around all others that counts and times requests."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run a request, and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reached: list[str] = []
        scope["state"] = {**scope.get("state", {}), "reached": reached}
        started, status, first = time.perf_counter(), 499, None  # 499: the caller went before the answer

        async def sending(message: Message) -> None:
            nonlocal status, first
            if message["type"] == "http.response.start":
                status = message["status"]
            elif first is None and message.get("body"):
                first = time.perf_counter() - started
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            method = scope["method"] if scope["method"] in METHODS else "other"
            route = reached[0] if reached else REFUSED
            self._metrics.requests.labels(method, route, str(status)).inc()
            self._metrics.seconds.labels(method, route).observe(time.perf_counter() - started)
            if first is not None:
                self._metrics.first.labels(method, route).observe(first)


def note_route(request: Request) -> None:
    """A dependency of every route: tells `Measuring` which one it is."""
    metrics: Metrics = request.app.state.metrics
    request.state.reached.append(metrics.path_of(request.app, request.scope["route"].endpoint))


@router.get("/metrics", summary="What the server does, for Prometheus", response_class=Response)
async def metrics(request: Request, access: Annotated[Access, Depends(allowed("read"))]) -> Response:
    """Counts and times of requests, and the engine's figures."""
    found: Metrics = request.app.state.metrics
    return Response(found.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
