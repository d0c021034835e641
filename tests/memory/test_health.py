"""What `health` tells of a state: figures, warnings, drift, and the state as a picture."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch

from deltamem_agents import DeltaMem
from deltamem_agents.core.calibration import Calibration
from deltamem_agents.errors import ConfigError, MissingExtraError, StoreError
from deltamem_agents.memory.heat_map import save_heat_map
from deltamem_agents.store import Revision
from deltamem_agents.store.codec import encode

FACTS = ["My dog is Rex.", "I live in Oslo.", "My favourite colour is teal.", "My locker code is 4417."]


def told(mem: DeltaMem, name: str, count: int) -> None:
    mem.agent(name).write([{"role": "user", "content": FACTS[number % 4]} for number in range(count)], "s")


def test_figures_of_an_examined_state(mem: DeltaMem) -> None:
    told(mem, "a", 4)
    agent = mem.agent("a")
    health = agent.health(examine=True)
    assert list(health.layers) == list(health.state) == list(agent.state())
    for name, layer in health.layers.items():
        assert layer.norm == pytest.approx(float(agent.state()[name].norm()), rel=1e-4)
        assert 0 < layer.saturation < 1 and layer.influence is not None and 0 < layer.influence < 10
        assert layer.interference is not None and 0 <= layer.interference < 2
        assert layer.half_life is not None and layer.half_life > 0
    assert health.drift is not None and health.drift.worst < 1e-4
    assert json.loads(json.dumps(health.as_dict()))["layers"].keys() == health.layers.keys()


def test_without_examining_nothing_is_folded(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    told(mem, "a", 2)
    monkeypatch.setattr(mem.engine, "fold", lambda *_, **__: 1 / 0)
    health = mem.agent("a").health()
    assert health.fullness is not None and 0 < health.fullness < 1 and health.drift is None
    assert all(layer.norm > 0 and layer.half_life is None for layer in health.layers.values())


@pytest.mark.parametrize("examine", [False, True])
def test_an_unknown_agent_and_one_without_a_state(mem: DeltaMem, examine: bool) -> None:
    assert mem.agent("nobody").health(examine=examine).layers == {}
    mem.agent("a").write([{"role": "user", "content": "Not folded.", "folded": False}])
    health = mem.agent("a").health(examine=examine)
    assert health.messages == 1 and health.fullness is None and health.warnings == ()


def test_without_a_backbone(open_mem) -> None:
    mem = open_mem(backbone=None)
    mem.agent("a").write([{"role": "user", "content": "My dog is Rex."}])
    assert (mem.agent("a").health().messages, mem.agent("a").health().layers) == (1, {})
    with pytest.raises(ConfigError, match="backbone"):
        mem.agent("a").health(examine=True)


def test_a_full_state_is_warned_of_once(mem: DeltaMem, caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    told(mem, "small", 1)
    norm = mem.engine.norm(mem.agent("small").state())
    monkeypatch.setattr(mem.engine, "calibration", Calibration(full=norm * 1.1))
    with caplog.at_level(logging.WARNING, "deltamem_agents"):
        told(mem, "a", 4)
        told(mem, "a", 1)
        health = mem.agent("a").health()
    assert [each for each in caplog.messages if "full" in each] == [f"agent 'a': {health.warnings[0]}"] or (
        caplog.text.count("agent 'a'") == 1
    )
    assert health.fullness is not None and health.fullness > 1 and "full; above 100%" in health.warnings[0]
    monkeypatch.setattr(mem.engine, "calibration", Calibration())
    assert mem.agent("a").health().fullness is None and mem.agent("a").health().warnings == ()


def test_a_state_that_is_not_the_journals_is_warned_of(mem: DeltaMem) -> None:
    told(mem, "a", 2)
    agent = mem.agent("a")
    health = agent.health()
    moved = {name: matrices + 0.1 * torch.ones_like(matrices) for name, matrices in agent.state().items()}
    mem.store.states.drop("a")
    revision = Revision(
        position=health.position, epoch=health.epoch, fingerprint=mem.engine.fingerprint, state=encode(moved)
    )
    mem.store.states.commit("a", revision, after=0)
    (warning,) = agent.health(examine=True).warnings
    assert "fresh fold" in warning and "deltamem rebuild a" in warning


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("b.SVG", b"<?xml")])
def test_the_state_as_a_picture(mem: DeltaMem, tmp_path: Path, name: str, begins: bytes) -> None:
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    told(mem, "a", 2)
    save_heat_map(mem.agent("a").state(), tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert "<svg" in mem.agent("a").health(examine=True)._repr_html_()


def test_pictures_that_cannot_be_drawn(mem: DeltaMem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="draws with matplotlib")
    state = {"model.layers.0.self_attn": torch.eye(4)}
    with pytest.raises(ConfigError, match=r"'a\.jpg'; give a name that ends in \.png or \.svg"):
        save_heat_map(state, tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="no state to draw"):
        save_heat_map({}, tmp_path / "a.png")
    with pytest.raises(StoreError, match="cannot be written"):
        save_heat_map(state, tmp_path / "absent" / "a.png")
    told(mem, "a", 1)
    health = mem.agent("a").health()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match="bench"):
        save_heat_map(state, tmp_path / "a.png")
    assert "<table>" in health._repr_html_() and "<svg" not in health._repr_html_()
