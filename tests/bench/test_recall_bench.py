"""The recall benchmark: what it asks, how it counts, what it writes, and that it measures what `recall` does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from deltamem_agents import DeltaMem
from deltamem_agents.bench.recall import beam
from deltamem_agents.bench.recall.facts import MODES, Asked, converse_about, measure, scores
from deltamem_agents.bench.recall.reliability import area_under_curve, bins, calibration_error, separations
from deltamem_agents.bench.recall.report import Results, markdown, reached
from deltamem_agents.bench.recall.run import run
from deltamem_agents.cli import app
from deltamem_agents.errors import ConfigError
from deltamem_agents.recall import CallableEmbedder
from deltamem_agents.training.calibrate import tell

ASKED = Asked(
    facts=4,
    mode="hybrid",
    kind="stated",
    said="teal",
    right=True,
    answered=True,
    confidence=0.9,
    context_tokens=100,
    seconds=0.1,
)
WRONG = replace(ASKED, said="red", right=False)
WITHHELD = replace(WRONG, answered=False, confidence=0.2)
UNSAID = replace(WITHHELD, kind="unknown", confidence=0.1)


@pytest.fixture(scope="module")
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as opened:
        yield opened


def test_a_conversation_has_ten_times_as_many_messages_of_small_talk() -> None:
    conversation = converse_about(32, 8, seed=3)
    told = [text for session in conversation.sessions for _, text in session]
    answers = [question for question in conversation.questions if question.kind != "unknown"]
    assert len(conversation.sessions) == 4 and len(answers) == 32
    assert len(told) >= 32 + 8 + 10 * 32
    assert sum(question.kind == "changed" for question in answers) == 8
    for question in answers:
        assert any(question.answer in text for text in told)


def test_what_is_measured_is_what_recall_gives(mem: DeltaMem) -> None:
    asked = measure(mem, 2, 1, modes=("state", "hybrid"), seed=5)
    conversation = converse_about(2, seed=5 * 1_000 + 2 * 10_000)
    agent = mem.agent("again")
    tell(agent, conversation)
    for mode in ("state", "hybrid"):
        of = [each for each in asked if each.mode == mode]
        assert len(of) == len(conversation.questions)
        for question, each in zip(conversation.questions, of, strict=True):
            found = agent.recall(question.text, mode=mode, k=10, budget=128)
            assert (found.answer is not None) == each.answered
            assert (found.answer == question.answer) == (each.right and each.answered)
            assert found.confidence == pytest.approx(each.confidence, abs=1e-3)


def test_every_mode_is_measured(mem: DeltaMem) -> None:
    asked = measure(mem, 1, 2)
    found = {score.mode: score for score in scores(asked)}
    assert tuple(found) == MODES
    assert found["none"].right == 0 and found["none"].context_tokens == 0
    assert found["history"].right == found["hybrid"].right == 1
    assert found["history"].context_tokens > found["hybrid"].context_tokens > found["state"].context_tokens == 0
    assert not [agent for agent in mem.agents() if "facts" in agent.id]  # nothing is left behind


def test_shares() -> None:
    (score,) = scores([ASKED, ASKED, WRONG, WITHHELD, UNSAID, replace(UNSAID, answered=True)])
    assert (score.questions, score.right, score.withheld) == (4, 0.5, 0.25)
    assert (score.unknown_questions, score.silent) == (2, 0.5)
    (changed,) = scores([replace(ASKED, kind="changed"), WRONG], changed=1)
    assert (changed.questions, changed.right) == (1, 1.0)


def test_area_under_the_curve() -> None:
    assert area_under_curve(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1
    assert area_under_curve(np.array([0.5, 0.5]), np.array([0.5])) == 0.5
    assert area_under_curve(np.array([0.1, 0.9]), np.array([0.5])) == 0.5
    (found,) = separations([ASKED, WITHHELD, UNSAID, replace(ASKED, mode="none", confidence=math.nan)])
    assert (found.area, found.stated, found.unstated) == (1.0, 2, 1)


def test_bins_and_their_error() -> None:
    found = bins([ASKED, WRONG, WITHHELD, replace(ASKED, said=None), replace(ASKED, confidence=1.0)], "hybrid")
    assert [(b.answers, b.right) for b in found] == [(1, 0.0), (3, pytest.approx(2 / 3))]
    assert calibration_error(found) == pytest.approx((0.2 + abs(0.9 * 2 + 1.0 - 2)) / 4)
    assert math.isnan(calibration_error([]))


def results(*asked: Asked) -> Results:
    return Results(
        machine={"machine": "a test"},
        facts=list(scores(asked)),
        changed=list(scores([replace(ASKED, kind="changed")], changed=1)),
        separations=list(separations(asked)),
        bins=bins(asked, "hybrid"),
    )


def test_the_report_is_written_and_says_what_was_not_reached(tmp_path) -> None:
    measured = results(ASKED, WITHHELD, UNSAID)
    text = markdown(measured)
    assert "| hybrid | 0.500 |" in text and "**not reached**: hybrid 0.500 at 4 facts" in text
    assert dict(reached(measured))["newest answer 1.000 (≥ 0.95)"]
    paths = measured.write(tmp_path / "new")
    assert [path.name for path in paths] == ["recall.json", "recall.md", "recall.png"]
    data = json.loads(paths[0].read_text(), parse_constant=lambda value: pytest.fail(f"{value} is not JSON"))
    assert data["facts"][0]["right"] == 0.5
    assert paths[2].read_bytes()[:4] == b"\x89PNG"


def test_nothing_measured_is_a_report_too() -> None:
    assert markdown(Results(machine={"machine": "a test"}, facts=[], changed=[], separations=[], bins=[]))


@pytest.mark.parametrize("options", [{"sizes": [3]}, {"sizes": [1], "modes": ["both"]}])
def test_what_is_not_known_is_refused(options) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        run(**options)


@pytest.mark.slow  # tells and asks fifty conversations
def test_the_command(tmp_path: Path) -> None:
    folder = str(tmp_path / "out")
    words = [
        "bench",
        "recall",
        "--only",
        "facts",
        "--facts",
        "1",
        "--modes",
        "state,hybrid",
        "--no-changed",
        "--embedder",
        "none",
    ]
    done = CliRunner().invoke(app, [*words, "--out", folder])
    assert done.exit_code == 0, done.output
    assert "not reached" not in done.output and f"wrote {folder}/recall.png" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--facts", "many"], "whole numbers"),
        (["--facts", "3"], "not one of"),
        (["--locomo", "none.json"], "no file"),
        (["--beam", "none.json"], "no file"),
    ],
)
def test_the_commands_bad_input(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["bench", "recall", *words])
    assert done.exit_code == 1 and message in done.output and "Traceback" not in done.output


def beam_file(folder: Path) -> Path:
    def said(number: int, role: str, content: str, time: str | None = None) -> dict[str, object]:
        return {"id": number, "role": role, "content": content, "time": time, "session": number // 4}

    messages = [
        said(0, "user", "My boat is called Meridian.", "March-15-2024"),
        said(1, "assistant", "A fine name for a boat. " * 100),
        said(2, "user", "Always answer in Portuguese when I ask about recipes."),
        said(3, "assistant", "Noted."),
        said(4, "user", "The harbour fee is 40 euros.", "April-02-2024"),
        said(5, "assistant", "That is a lot."),
    ]
    questions = [
        {"type": "extraction", "question": "What is my boat called?", "evidence": [0]},
        {"type": "instruction", "question": "How should I cook soup?", "evidence": [2]},
        {"type": "abstention", "question": "Who is my aunt?", "evidence": []},
    ]
    path = folder / "beam.json"
    path.write_text(json.dumps([{"chat": 1, "messages": messages, "questions": questions}]))
    return path


def test_beam_is_read_and_measured_side_by_side(tmp_path: Path) -> None:
    embedder = CallableEmbedder(lambda texts: np.array([[1.0, len(text) % 7] for text in texts]), name="lengths")
    rows = beam.measure(beam_file(tmp_path), embedder)
    assert [(row.kind, row.questions) for row in rows] == [("extraction", 1), ("instruction", 1), ("all", 2)]
    assert all(set(row.shares) == {"ours", "dense", "BM25", "reciprocal rank"} for row in rows)
    assert rows[-1].shares["ours"] == 1 and rows[-1].reached
    measured = replace(results(ASKED), beam=rows)
    assert "| extraction | 1 | 1.000 |" in markdown(measured)
    assert dict(reached(measured))["BEAM, all: 1.000 (≥ 0.990)"]


@pytest.mark.parametrize("content", ["", "{}", "[{}]", '[{"messages": [1], "questions": []}]'])
def test_a_file_that_is_not_beam(tmp_path: Path, content: str) -> None:
    (tmp_path / "beam.json").write_text(content)
    if content == "{}":
        assert list(beam.conversations(tmp_path / "beam.json")) == []
        return
    with pytest.raises(ConfigError, match="is not BEAM"):
        list(beam.conversations(tmp_path / "beam.json"))
