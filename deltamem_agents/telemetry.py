"""OpenTelemetry spans and durations of memory operations, by the names of the GenAI semantic conventions.

Nothing is sent anywhere unless the program configures OpenTelemetry's SDK. Nothing is imported either: a program that
configures it has imported its API, and without that these functions do nothing. ``gen_ai.memory.store.id`` is the
agent's id. Texts are left out unless `capture_content` says otherwise.

Source: https://github.com/open-telemetry/semantic-conventions-genai, memory spans (in development).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

from deltamem_agents import arguments

Operation = Literal[
    "create_memory",
    "upsert_memory",
    "update_memory",
    "search_memory",
    "delete_memory",
    "create_memory_store",
    "delete_memory_store",
]
PROVIDER = "deltamem"
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds

S = TypeVar("S")
R = TypeVar("R", bound="Found")

_capturing = False


class FoundRecord(Protocol):
    """A record that a search found."""

    @property
    def message_id(self) -> str:
        """Id of its message."""

    @property
    def text(self) -> str:
        """Its text."""


class Found(Protocol):
    """What a search returns."""

    @property
    def records(self) -> Sequence[FoundRecord]:
        """The records, best first."""


def capture_content(on: bool) -> None:
    """Whether spans of this process hold queries and the texts of records. By default they do not.

    `deltamem serve` and `deltamem mcp` take this from ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT``.

    Raises:
        ConfigError: ``on`` has no truth value.
    """
    global _capturing
    _capturing = arguments.flag(on, "capture_content")


class MemorySpan:
    """What an operation says about itself while it runs; without OpenTelemetry it does nothing."""

    __slots__ = ("_span",)

    def __init__(self, span: Any) -> None:
        self._span = span

    def records(self, ids: Sequence[str], texts: Sequence[str] | None = None) -> None:
        """The records that the operation found, wrote or erased.

        Args:
            texts: Theirs, in the same order; left out unless content is captured.
        """
        if self._span is None:
            return
        self._span.set_attribute("gen_ai.memory.record.count", len(ids))
        if len(ids) == 1:
            self._span.set_attribute("gen_ai.memory.record.id", ids[0])
        if _capturing and texts is not None:
            records = [{"id": id, "content": text} for id, text in zip(ids, texts, strict=True)]
            self._span.set_attribute("gen_ai.memory.records", json.dumps(records, ensure_ascii=False))

    def query(self, text: str) -> None:
        """The query; left out unless content is captured."""
        if self._span is not None and _capturing:
            self._span.set_attribute("gen_ai.memory.query.text", text)


@contextmanager
def operation(name: Operation, agent: str, session: str | None = None) -> Iterator[MemorySpan]:
    """A span around an operation on an agent's memory, and its duration as a metric.

    The span is the caller's child. It is never made current, so the operation may pause in one thread and go on in
    another.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield MemorySpan(None)
        return
    labels = {"gen_ai.operation.name": name, "gen_ai.provider.name": PROVIDER}
    attributes = labels | {"gen_ai.memory.store.id": agent}
    if session is not None:
        attributes["gen_ai.conversation.id"] = session
    span = trace.get_tracer("deltamem_agents").start_span(name, kind=trace.SpanKind.INTERNAL, attributes=attributes)
    started = time.perf_counter()
    failure: dict[str, str] = {}
    try:
        yield MemorySpan(span)
    except BaseException as error:
        # An error's text may quote a message, so only its type is told.
        kind = "cancelled" if isinstance(error, GeneratorExit) else type(error).__name__
        failure = {"error.type": kind}
        span.set_attribute("error.type", kind)
        span.set_status(trace.Status(trace.StatusCode.ERROR))
        raise
    finally:
        span.end()
        _record(time.perf_counter() - started, labels | failure)


def searched(agent: str, query: str, session: str | None, steps: Generator[S, Any, R]) -> Generator[S, Any, R]:
    """The steps of a search, whose result has ``records``, with a span around them."""
    with operation("search_memory", agent, session) as span:
        span.query(query)
        result = yield from steps
        records = result.records
        span.records([record.message_id for record in records], [record.text for record in records])
        return result


def written(messages: object) -> Operation:
    """The operation that writing these messages is: those with ids may replace others."""
    given = messages if isinstance(messages, Sequence) else ()
    known = callable(messages) or any(isinstance(each, Mapping) and each.get("id") for each in given)
    return "upsert_memory" if known else "create_memory"


def _record(seconds: float, labels: Mapping[str, str]) -> None:
    metrics: Any = sys.modules.get("opentelemetry.metrics")
    if metrics is None:
        return
    meter = metrics.get_meter("deltamem_agents")
    meter.create_histogram(  # the SDK returns the same instrument again
        "gen_ai.client.operation.duration",
        unit="s",
        description="Duration of operations on memory.",
        explicit_bucket_boundaries_advisory=BUCKETS,
    ).record(seconds, labels)
