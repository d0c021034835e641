"""What Prometheus reads, and that the files to deploy with name options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from deltamem_agents import DeltaMem
from deltamem_agents.cli import app
from tests.serving.conftest import bearer, served

ROOT = Path(__file__).parents[2]


def samples(text: str) -> dict[tuple[str, ...], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            labels = each.labels
            found[each.name, labels.get("method", ""), labels.get("route", ""), labels.get("status", "")] = each.value
    return found


def test_metrics_count_routes_and_name_no_agent(words: DeltaMem) -> None:
    words.agent("alice").write([{"role": "user", "content": "hello"}])
    reader = bearer(words, "*", "read")
    with served(words) as url, httpx.Client(base_url=url, headers=reader) as client:
        for _ in range(3):
            assert client.get("/v1/agents/alice/log").status_code == 200
        assert client.get("/v1/agents/nobody-here").status_code == 404
        assert client.get("/v1/agents/alice/log", headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get("/no/such/alice").status_code == 404
        client.request("BREW", "/health")
        assert client.get("/metrics", headers={"authorization": ""}).status_code == 401
        answer = client.get("/metrics")
    found = samples(answer.text)
    log = "/v1/agents/{agent}/log"
    assert found["deltamem_requests_total", "GET", log, "200"] == 3
    assert found["deltamem_request_seconds_count", "GET", log, ""] == 3
    assert found["deltamem_first_byte_seconds_count", "GET", log, ""] == 3
    assert found["deltamem_requests_total", "GET", "/v1/agents/{agent}", "404"] == 1
    assert found["deltamem_requests_total", "GET", "refused", "401"] >= 2
    assert found["deltamem_requests_total", "GET", "refused", "404"] == 1
    assert "alice" not in answer.text and "nobody" not in answer.text and "BREW" not in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


def test_files_to_deploy_with_name_options_that_exist() -> None:
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for each in serve.params for option in (*each.opts, *each.secondary_opts)}
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    texts = [
        *re.findall(r"^(?:ENTRYPOINT|CMD) \[.*$", (ROOT / "Dockerfile").read_text().split("HEALTHCHECK")[1], re.M),
        *compose["services"]["server"]["command"],
        *re.findall(r"^ExecStart=.*$", (ROOT / "deploy" / "deltamem.service").read_text(), re.M),
    ]
    named = [option for text in texts for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)]
    assert len(named) >= 8 and set(named) <= known
