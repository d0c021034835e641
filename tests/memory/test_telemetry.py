"""Spans and durations of memory operations, read from OpenTelemetry's own SDK."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from deltamem_agents import DeltaMem, telemetry
from deltamem_agents.errors import ConfigError, InvalidMessageError

SAID = [{"role": "user", "content": "I live in Lisbon."}, {"role": "assistant", "content": "Noted."}]


@pytest.fixture(scope="module")
def provided():
    """OpenTelemetry takes one provider in a process."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


@pytest.fixture
def spans(provided):
    provided[0].clear()
    yield provided[0]
    telemetry.capture_content(False)


@pytest.fixture
def mem(tmp_path):
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path}/m.db", embedder=False) as opened:
        yield opened


def told(spans):
    return [(each.name, dict(each.attributes)) for each in spans.get_finished_spans()]


def test_each_operation_has_a_span_without_texts(mem, spans):
    alice = mem.agent("alice")
    first, _ = alice.write(SAID, "s1")
    alice.write([{"role": "user", "content": "I live in Porto.", "id": first}], "s1")
    found = alice.recall("Where do I live?", session="s1")
    alice.fork("twin")
    alice.rollback(2)
    alice.erase(ids=[first], dry_run=True)  # nothing is done, so nothing is told
    alice.erase(ids=[first])
    alice.delete()
    common = {"gen_ai.provider.name": "deltamem", "gen_ai.memory.store.id": "alice"}
    assert [name for name, _ in told(spans)] == [
        "create_memory", "upsert_memory", "search_memory", "create_memory_store", "update_memory", "delete_memory",
        "delete_memory_store",
    ]  # fmt: skip
    by_name = dict(told(spans))
    assert by_name["create_memory"] == common | {
        "gen_ai.operation.name": "create_memory",
        "gen_ai.conversation.id": "s1",
        "gen_ai.memory.record.count": 2,
    }
    assert by_name["upsert_memory"]["gen_ai.memory.record.id"] == first
    assert by_name["search_memory"]["gen_ai.memory.record.count"] == len(found.records) > 0
    assert by_name["create_memory_store"]["gen_ai.memory.store.id"] == "twin"
    assert by_name["delete_memory"]["gen_ai.memory.record.id"] == first
    assert "Lisbon" not in json.dumps(told(spans)) and "live" not in json.dumps(told(spans))


def test_texts_are_there_where_they_are_asked_for(mem, spans):
    alice = mem.agent("alice")
    alice.write(SAID, "s1")
    telemetry.capture_content(True)
    alice.recall("Where do I live?", k=1)
    attributes = dict(told(spans))["search_memory"]
    (record,) = json.loads(attributes["gen_ai.memory.records"])
    assert record["content"] == "I live in Lisbon."
    assert attributes["gen_ai.memory.query.text"] == "Where do I live?"
    with pytest.raises(ConfigError, match="give True or False"):
        telemetry.capture_content(np.zeros(2))  # type: ignore[arg-type]


def test_a_failure_is_told_by_its_type_alone(mem, spans):
    with pytest.raises(InvalidMessageError):
        mem.agent("alice").write([{"role": "nobody", "content": "secret"}])
    (span,) = spans.get_finished_spans()
    assert span.attributes["error.type"] == "InvalidMessageError"
    assert not span.status.is_ok and span.status.description is None and not span.events


def test_spans_are_children_of_the_callers_span_in_threads_and_tasks(mem, spans):
    async def search() -> None:
        await mem.agent("alice").awrite(SAID)
        await mem.agent("alice").arecall("Where do I live?")

    with trace.get_tracer("test").start_as_current_span("turn") as turn:
        mem.agent("alice").write(SAID)
        asyncio.run(search())
    ours = [each for each in spans.get_finished_spans() if each.name != "turn"]
    assert [each.name for each in ours] == ["create_memory", "create_memory", "search_memory"]
    assert {each.parent.span_id for each in ours} == {turn.get_span_context().span_id}


def test_durations_are_a_metric(mem, spans, provided):
    mem.agent("alice").write(SAID)
    data = provided[1].get_metrics_data()
    (metric,) = [each for scope in data.resource_metrics[0].scope_metrics for each in scope.metrics]
    assert (metric.name, metric.unit) == ("gen_ai.client.operation.duration", "s")
    points = {point.attributes["gen_ai.operation.name"]: point for point in metric.data.data_points}
    assert points["create_memory"].count >= 1 and 0 < points["create_memory"].sum < 60
    assert "gen_ai.memory.store.id" not in points["create_memory"].attributes  # as many series as agents


def test_without_opentelemetry_nothing_is_imported_or_told(tmp_path):
    code = (
        "import sys\n"
        "from deltamem_agents import DeltaMem\n"
        f"with DeltaMem.open(None, url='sqlite:///{tmp_path}/m.db', embedder=False) as mem:\n"
        "    mem.agent('alice').write([{'role': 'user', 'content': 'I live in Lisbon.'}])\n"
        "    assert mem.agent('alice').recall('Where do I live?').records\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(("value", "shown"), [("true", True), ("", False)])
def test_commands_take_the_choice_from_the_environment(tmp_path: Path, value: str, shown: bool) -> None:
    """Run with a program that configures the SDK, as OpenTelemetry's own launcher does."""
    code = (
        "import sys\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor\n"
        "provider = TracerProvider()\n"
        "provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))\n"
        "trace.set_tracer_provider(provider)\n"
        "from deltamem_agents.cli import app\n"
        "app(sys.argv[1:])\n"
    )
    url = f"sqlite:///{tmp_path}/m.db"
    with DeltaMem.open(None, url=url, embedder=False) as opened:
        opened.agent("alice").write(SAID)
    command = ["recall", "Where do I live?", "--agent", "alice", "--url", url, "--backbone", "none"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--embedder", "none", "--json"],
        env=os.environ | {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"gen_ai.operation.name": "search_memory"' in done.stdout
    assert ("gen_ai.memory.query.text" in done.stdout) is shown
