"""What the state does is measured right: arms, controls, intervals, and what is claimed of them."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, SmolLM3Config, SmolLM3ForCausalLM
from typer.testing import CliRunner

from deltamem_agents import DeltaMem, tiny
from deltamem_agents.bench.state import quick
from deltamem_agents.bench.state.asking import ARMS, WAYS, Asker
from deltamem_agents.bench.state.controls import CONTROLS, OWN, ZERO, donors, permuted, shuffled, switched_off
from deltamem_agents.bench.state.cost import costs, prepare
from deltamem_agents.bench.state.intervals import Interval, difference, share
from deltamem_agents.bench.state.report import StateResults, reached, state_files_in, state_markdown
from deltamem_agents.bench.state.run import measure, run_state
from deltamem_agents.bench.state.shares import Cell, Effect
from deltamem_agents.bench.state.tasks import (
    EVERYDAY,
    RULES,
    TRAINED,
    UNTRAINED,
    VALUES,
    Task,
    fact_tasks,
    kind_of,
    rule_tasks,
    ruled,
)
from deltamem_agents.bench.state.telling import Remembered, folded, remember
from deltamem_agents.cli import app
from deltamem_agents.core import DeltaMemConfig, attach, new_adapter, save_adapter
from deltamem_agents.engine import Loaded, Sampling, load
from deltamem_agents.errors import ConfigError, DeltaMemError
from deltamem_agents.training.adapters.rendered import EpisodeRenderer
from deltamem_agents.training.episodes import Episode, Question
from deltamem_agents.training.episodes.checkers import Contains
from deltamem_agents.training.episodes.rules import NEVER_TRAINED

DOGS = ["Rex", "Bruno", "Max", "Luna"]


def user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def asked(text: str, answer: str, **options) -> Question:
    return Question(messages=(user(text),), answer=answer, **options)


def dogs(name: str) -> Task:
    """What the bundled model knows of a dog, asked for as a rule is and as a fact is."""
    episodes = tuple(
        Episode(
            sessions=((user(f"My dog is called {dog}."),),),
            questions=(
                asked("What is my dog called?", dog, kind="rule dog", checker=Contains(dog)),
                asked("What is my dog called?", dog),
                asked("What is my favourite colour?", "I don't know.", kind="unknown"),
                asked("Thank you.", "", kind="unrelated", reference="backbone"),
            ),
        )
        for dog in DOGS
    )
    return Task(name=name, size=1, episodes=episodes)


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("tiny")


@pytest.fixture(scope="module")
def results(loaded: Loaded) -> StateResults:
    return measure(loaded, [dogs(RULES)], embedder=False)


def test_each_arm_and_each_control_shows_what_it_has_to(results: StateResults) -> None:
    found = {(each.arm, each.measure): each.share.value for each in results.cells if each.meant}
    for measured in ("followed", "right"):
        assert found["none", measured] == 0 and found["vector", measured] == 1
        assert found["state", measured] >= 0.75  # the bundled model may miss one
    assert found["hybrid", "right"] == 1
    assert found["pinned", "followed"] == 1  # the rule stands in the prompt
    assert found["none", "unchanged"] == 1
    tokens = {each.arm: each.tokens for each in results.cells if each.measure == "followed" and each.meant}
    assert tokens["none"] == tokens["state"] == 0 < tokens["pinned"] <= tokens["hybrid"] == tokens["vector"]
    others = [each.share.value for each in results.cells if (each.arm, each.measure) == ("state", "followed")]
    assert len(others) == 1 + len(CONTROLS) and sum(others) <= 2  # the right one, and what a permuted one may hit
    by_state = {each.control: each for each in results.effects if (each.arm, each.measure) == ("state", "followed")}
    assert set(by_state) == {*CONTROLS, "vector"}
    assert all(by_state[control].difference.low > 0 for control in CONTROLS)
    assert not by_state["vector"].shown  # retrieval does as well
    lines = [line for line in state_markdown(results).splitlines() if line.startswith("| rules, 1 | followed")]
    assert lines[0].endswith("| yes |") and lines[1].endswith("| no effect shown |")
    costs = {each.state: each for each in results.costs}
    assert costs[OWN].divergence.value > 0 and costs[OWN].perplexity.value != 1 and costs[OWN].without > 1
    assert {each.arm for each in results.kinds} == set(ARMS)


def test_the_model_is_given_back_without_its_adapter(loaded: Loaded, results: StateResults) -> None:
    attach(loaded.model, loaded.adapter).detach()  # would raise if one were still attached


@pytest.fixture(scope="module")
def told(loaded: Loaded) -> Iterator[tuple[DeltaMem, Task, list[Remembered]]]:
    model = {"model": loaded.model, "tokenizer": loaded.tokenizer, "adapter": loaded.adapter}
    with DeltaMem.open(**model, url="sqlite://", embedder=False) as mem:
        task = dogs(RULES)
        yield mem, task, remember(mem, task, seed=1)


def test_what_is_measured_is_what_chat_and_recall_give(told: tuple[DeltaMem, Task, list[Remembered]]) -> None:
    mem, task, remembered = told
    asker = Asker(task, remembered, seed=1)
    replies = asker.replies(mem.engine, WAYS)
    own = {
        (each.episode, each.question, each.arm): each
        for each in replies
        if each.state == (ZERO if each.arm in ("none", "vector", "pinned") else OWN)
    }
    for place, each in enumerate(remembered):
        agent = mem.agent(each.agent)
        for mode in ("state", "vector", "hybrid"):
            sampling = Sampling(max_tokens=16)
            said = agent.generate([user("What is my dog called?")], mode=mode, k=5, sampling=sampling)
            assert said.text == own[place, 0, mode].text
            assert said.usage.context_tokens == own[place, 0, mode].tokens
        for mode in ("vector", "hybrid"):
            for number, question in ((1, "What is my dog called?"), (2, "What is my favourite colour?")):
                answer = agent.recall(question, mode=mode, k=5).answer
                assert (answer or "") == own[place, number, mode].text


def test_a_state_folded_without_a_journal_is_the_journals(told: tuple[DeltaMem, Task, list[Remembered]]) -> None:
    mem, task, remembered = told
    render = EpisodeRenderer(mem.engine.rendering, mem.engine.config.write_length)
    for each, own in zip(task.episodes, remembered, strict=True):
        for name, tensor in folded(mem.engine, render, each).items():
            assert torch.allclose(tensor, own.state[name], rtol=1e-4, atol=1e-5)


def test_the_zero_state_costs_nothing(loaded: Loaded, told: tuple[DeltaMem, Task, list[Remembered]]) -> None:
    mem, task, remembered = told
    nothing = [replace(each, state=mem.engine.zero_state(), shuffled=mem.engine.zero_state()) for each in remembered]
    asker = Asker(task, nothing, seed=1)
    asker.replies(mem.engine, WAYS[:1])
    ready = prepare(mem.engine, asker, seed=1)
    mem.close()  # the last test that needs it: a model carries one adapter
    attached = attach(loaded.model, loaded.adapter)
    try:
        for cost in costs(attached, ready):
            assert cost.divergence.value == pytest.approx(0, abs=1e-5)
            assert cost.changed.value == 0 and cost.perplexity.value == pytest.approx(1, abs=1e-4)
    finally:
        attached.detach()


def test_rows_are_moved_and_nothing_else() -> None:
    state = {"a": torch.randn(5, 5), "b": torch.randn(2, 4, 4)}
    for seed in range(20):
        moved = permuted(state, random.Random(seed))
        for name, tensor in state.items():
            rows, before = moved[name].flatten(0, -2), tensor.flatten(0, -2)
            assert not any(torch.equal(one, other) for one, other in zip(rows, before, strict=True))
            assert torch.equal(rows.sort(0).values, before.sort(0).values)
            assert torch.equal(moved[name].norm(), tensor.norm()) or moved[name].norm() == pytest.approx(tensor.norm())


def test_a_donor_shares_no_answer_and_shuffled_sessions_are_others() -> None:
    tasks = [*rule_tasks((1,), (40,), 12, 7), *fact_tasks((2,), 12, 7, trained=False)]
    for task in tasks:
        wanted = [
            {each.checker or each.answer for each in one.questions if kind_of(each) in ("rule", "stated")}
            for one in task.episodes
        ]
        chosen = donors(task.episodes)
        assert all(place != other for place, other in enumerate(chosen))
        assert sum(bool(wanted[place] & wanted[other]) for place, other in enumerate(chosen)) <= 1
        for own, other in zip(task.episodes, shuffled(task.episodes, random.Random(1)), strict=True):
            assert not set(map(str, own.sessions)) & set(map(str, other.sessions))
            assert other.questions == own.questions
            if task.name == RULES:
                assert len(other.sessions) == len(own.sessions) == 3


def test_switched_off_an_adapter_reads_and_corrects_nothing(loaded: Loaded) -> None:
    off = switched_off(loaded)
    layer, muted = (each.adapter.layer(each.adapter.layer_indices[0]) for each in (loaded, off))
    assert all(not weight.any() for weight in muted.corrections.values())
    assert all(weight.any() for weight in layer.corrections.values()) and torch.equal(layer.memory, muted.memory)


def test_rules_are_told_once_and_requests_are_of_all_kinds() -> None:
    for count in (1, 2, 4, 8):
        plain, followed = ruled(7, 3, count, 0), ruled(7, 3, count, 100)
        assert plain.sessions[0] == followed.sessions[0] and plain.questions == followed.questions
        assert sum(each["role"] == "user" for each in plain.sessions[0]) == count
        assert len(plain.sessions) == 1 and sum(map(len, followed.sessions[1:])) == 100
        kinds = [kind_of(each) for each in plain.questions]
        assert kinds.count("rule") == min(count, 4) and 1 <= kinds.count("unrelated") <= 2
        assert all(each.accepts(each.answer) for each in plain.questions if each.checker)
    for task in rule_tasks((1, 2, 4), (0,), 8, 7):
        told = {each.kind.removeprefix("rule ") for one in task.episodes for each in one.questions if each.checker}
        assert told <= set(NEVER_TRAINED) if task.name == UNTRAINED else not told & set(NEVER_TRAINED)
    assert [task.size for task in rule_tasks((1, 2, 4), (0,), 2, 7) if task.name == UNTRAINED] == [1, 2]


def test_facts_are_of_the_size_asked_for() -> None:
    tasks = list(fact_tasks((1, 4, 30), 4, 7, trained=True))
    assert [(task.name, task.size) for task in tasks] == [
        *((name, size) for name in (VALUES, EVERYDAY) for size in (1, 4, 30)),
        *((TRAINED, size) for size in (1, 4)),
    ]
    for task in tasks:
        assert any(kind_of(question) == "unknown" for each in task.episodes for question in each.questions)
        for each in task.episodes:
            kinds = [kind_of(question) for question in each.questions]
            assert kinds.count("stated") == min(task.size, 4) and kinds.count("unrelated") == 1


def test_an_interval_is_the_known_one_where_one_is_known() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 1.0, 400)
    found = share(list(values), [1.0] * 400)
    half = 1.96 * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)
    assert share([2.0, 0.0, 1.0], [2.0, 0.0, 2.0]).value == 0.75  # questions count alike, not episodes
    certain = difference([1.0, 2.0, 1.0], [0.0, 1.0, 0.0], [1.0, 2.0, 1.0])
    assert certain.excludes_zero and certain.value == 0.75
    assert not difference([1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0], [1.0] * 4).excludes_zero
    alone = share([1.0], [1.0])
    assert alone.value == 1 and not alone.excludes_zero  # one episode shows nothing
    assert str(Interval(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for number in range(100):
        asked_of = rng.integers(1, 5, 60).astype(float)
        hits = rng.binomial(asked_of.astype(int), 0.7).astype(float)
        found = share(list(hits), list(asked_of), seed=number)
        held += found.low <= 0.7 <= found.high
    assert 88 <= held <= 100


def cell(value: float, **changes) -> Cell:
    options = {"task": RULES, "size": 1, "others": 0, "arm": "state", "state": OWN, "measure": "followed"}
    share_ = Interval(value, value - 0.04, value + 0.04)
    return Cell(**(options | changes), share=share_, questions=300, episodes=300, tokens=0.0)


def effect(low: float, high: float, control: str) -> Effect:
    found = Interval((low + high) / 2, low, high)
    return Effect(task=RULES, size=1, others=0, arm="state", measure="followed", control=control, difference=found)


def test_only_what_is_shown_is_claimed(tmp_path: Path) -> None:
    shown = [effect(0.2, 0.4, control) for control in CONTROLS]
    measured = StateResults(
        machine={"backbone": "tiny", "commit": "abc"},
        cells=[cell(0.97), cell(0.995, measure="unchanged")],
        effects=[*shown[:-1], effect(-0.1, 0.4, CONTROLS[-1]), effect(-0.4, -0.2, "vector")],
    )
    (line,) = (each for each in state_markdown(measured).splitlines() if each.startswith("| rules, 1 | followed"))
    assert "+0.300 [+0.200, +0.400]" in line and "no effect shown [-0.100, +0.400]" in line
    assert "-0.300 [-0.400, -0.200]" in line and line.endswith("| no effect shown |")
    assert [met for _, met in reached(measured)] == [False, False]  # the lower ends: 0.93 and 0.955
    all_shown = replace(measured, effects=shown)
    assert any(each.endswith("| yes |") for each in state_markdown(all_shown).splitlines())
    paths = replace(measured, effects=[effect(float("nan"), float("nan"), "zero")]).write(tmp_path / "new")
    assert paths == state_files_in(tmp_path / "new")
    data = json.loads(paths[0].read_text(), parse_constant=lambda value: pytest.fail(f"{value} is not JSON"))
    assert data["cells"][0]["share"]["value"] == 0.97 and data["machine"]["commit"] == "abc"
    head, first, *_ = paths[1].read_text().splitlines()
    assert head.startswith("what,task,size") and first.startswith("followed,rules,1,0,state") and "abc" in first


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random backbone of 0.1 million parameters and a random adapter for it, in folders."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER)
    torch.manual_seed(0)
    model = SmolLM3ForCausalLM(
        SmolLM3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    ).eval()
    model.save_pretrained(folder / "backbone")
    tokenizer.save_pretrained(folder / "backbone")
    adapter = new_adapter(model, DeltaMemConfig(rank=4, couple_lambda=False))
    save_adapter(adapter, folder / "adapter")
    return folder / "backbone", folder / "adapter"


@pytest.mark.slow  # eight tasks, each with all controls
def test_any_backbone_and_adapter_is_measured_by_a_command(small: tuple[Path, Path], tmp_path: Path) -> None:
    backbone, adapter = small
    words = ["bench", "recall", "--quick", "--only", "rules,cause", "--episodes", "2", "--embedder", "none"]
    words += ["--backbone", str(backbone), "--adapter", str(adapter), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "backbone backbone" in done.output and "no effect shown" in done.output
    data = json.loads((tmp_path / "state.json").read_text())
    assert {each["task"] for each in data["cells"]} == {RULES, UNTRAINED, VALUES, EVERYDAY, TRAINED}
    assert {each["others"] for each in data["cells"] if each["task"] == RULES} == {0, 10}
    assert all(each["share"]["value"] <= 1 for each in data["cells"])
    assert {each["control"] for each in data["effects"]} == {*CONTROLS, "vector"}
    assert not (tmp_path / "recall.json").exists()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 1 and "exists" in again.output  # before anything is measured


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "everything"], "give some of facts, rules, cause"),
        (["--only", "rules", "--rules", "many"], "whole numbers"),
        (["--only", "rules", "--rules", "9"], "rules is 9"),
        (["--only", "rules", "--others", "-1"], "others is -1"),
        (["--only", "cause", "--told", "0"], "facts told is 0"),
        (["--only", "rules", "--episodes", "1"], "episodes is 1"),
        (["--only", "rules", "--rules", ""], "nothing is to be measured"),
        (["--only", "rules", "--backbone", "none"], "needs a backbone"),
        (["--only", "rules", "--backbone", "no-such-folder/x"], "no-such-folder"),
        (["--only", "beam"], "give --beam FILE"),
    ],
)
def test_bad_input(words: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["bench", "recall", *words])
    assert done.exit_code == 1, done.output
    assert message in " ".join(done.output.split()) and "Traceback" not in done.output


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is to be measured"):
        run_state(rules=(), facts=())
    with pytest.raises(DeltaMemError):
        run_state(rules=(1,), options={"backbone": "tiny", "adapter": "no/such/adapter"})


def test_quick_figures_of_the_zero_state_are_those_of_the_bare_backbone(tmp_path, small_model, capsys):
    out = tmp_path / "quick.csv"
    quick.main(["--backbone", str(small_model), "--facts", "2", "--rules", "1", "--episodes", "4", "--out", str(out)])
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["what"], row["kind"], row["state"]): row for row in rows}
    for what in ("facts, unseen values", "rules"):
        assert float(found[what, "unrelated", "zero"]["right"]) == 1.0
        for state in ("own", "zero", "another's", "permuted"):
            row = found[what, "unrelated", state]
            assert float(row["low"]) <= float(row["right"]) <= float(row["high"])
            assert (row["added"] == "") == (state == "own")
    assert float(found["facts, unseen values", "stated", "zero"]["right"]) == 0.0
    assert "of 4" in capsys.readouterr().out
