"""Runs of a few steps on a random backbone: interrupted ones go on to the same losses, and what goes wrong is told."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from deltamem_agents.core import DeltaMemConfig, load_adapter
from deltamem_agents.engine import Rendering, load
from deltamem_agents.errors import ConfigError, DivergedError, EpisodeError, TrainingFileError
from deltamem_agents.training.adapters.config import AdapterTrainingConfig
from deltamem_agents.training.adapters.data import Data, divided, generated
from deltamem_agents.training.adapters.phases import Curriculum
from deltamem_agents.training.adapters.progress import AdapterProgress
from deltamem_agents.training.adapters.rendered import EpisodeRenderer
from deltamem_agents.training.adapters.run import train_adapter_for
from deltamem_agents.training.episodes import write_episodes

SHAPE = DeltaMemConfig(rank=4, couple_lambda=False, layers=(1, 2), write_length=64)
CONFIG = AdapterTrainingConfig(
    adapter=SHAPE,
    steps=8,
    episodes=3,
    questions=2,
    negatives=40,
    evaluation=4,
    calibration=0,
    checkpoint_every=2,
    log_every=1,
    warmup=2,
)


@pytest.fixture
def data(some_episodes) -> Data:
    episodes = [*some_episodes(10), *some_episodes(5, seed=9, held_out=True)]
    return divided(episodes, {"file": "test"}, seed=0, evaluation=4)


class Interrupted(Exception):
    pass


def interrupt_at(step: int):
    def on_progress(now: AdapterProgress) -> None:
        if now.loss is not None and now.step == step:
            raise Interrupted

    return on_progress


def run(small_backbone, tokenizer, data, out, config=CONFIG, **options: Any):
    return train_adapter_for((small_backbone(), tokenizer), data, out, config, **options)


def test_an_interrupted_run_goes_on_to_the_same_losses(small_backbone, tokenizer, data, tmp_path) -> None:
    whole = run(small_backbone, tokenizer, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(small_backbone, tokenizer, data, tmp_path / "parts", on_progress=interrupt_at(5))
    kept = sorted((tmp_path / "parts" / "checkpoints").glob("checkpoint-*"))
    assert [each.name for each in kept][-1] == "checkpoint-4"
    assert not list((tmp_path / "parts" / "checkpoints").rglob("model.safetensors"))
    torch.manual_seed(77)  # another process has other random states
    seen = []
    parts = run(small_backbone, tokenizer, data, tmp_path / "parts", on_progress=seen.append)
    assert min(now.step for now in seen) == 5
    assert parts.losses.keys() == whole.losses.keys() == set(range(1, 9))
    assert [parts.losses[n] for n in range(1, 9)] == pytest.approx([whole.losses[n] for n in range(1, 9)], abs=1e-6)
    ours, theirs = load_adapter(tmp_path / "parts"), load_adapter(tmp_path / "whole")
    assert ours.fingerprint() == theirs.fingerprint()
    assert [each.right for each in parts.measured] == [each.right for each in whole.measured]
    assert {each.name for each in (tmp_path / "parts").iterdir()} == {
        "README.md",
        "training.json",
        "deltamem_adapter.json",
        "deltamem_adapter.safetensors",
    }


def test_a_stage_begins_from_earlier_weights_with_a_new_warm_up(small_backbone, tokenizer, data, tmp_path) -> None:
    run(small_backbone, tokenizer, data, tmp_path / "first")
    rates = []
    run(
        small_backbone,
        tokenizer,
        data,
        tmp_path / "second",
        replace(CONFIG, steps=2, adapter=DeltaMemConfig(rank=2), learning_rate=1e-9),
        begin_from=tmp_path / "first",
        on_progress=lambda now: rates.append(now.learning_rate) if now.loss is not None else None,
    )
    first, second = (load_adapter(tmp_path / name) for name in ("first", "second"))
    assert second.config == first.config
    for name, weight in second.state_dict().items():
        assert torch.allclose(weight, first.state_dict()[name], atol=1e-7), name
    assert rates[0] == 0.0 < rates[1]


def test_the_best_weights_are_kept_and_training_stops_without_a_better_one(
    small_backbone, tokenizer, data, tmp_path, monkeypatch
) -> None:
    """The evaluations say .1, .5, .3, .4: stop after the fourth, keep the second."""
    from deltamem_agents.training.adapters import run as runs

    shares = iter((0.1, 0.5, 0.3, 0.4))
    monkeypatch.setattr(runs, "summary", lambda measured: {"right": next(shares)})
    config = replace(CONFIG, steps=20, patience=2, keep=1)
    seen: dict[int, str] = {}

    def watch(now: AdapterProgress) -> None:
        for each in (tmp_path / "out" / "checkpoints").glob("checkpoint-*"):
            if (each / "complete").is_file() and (each / "deltamem_adapter.json").is_file():
                seen[int(each.name.rpartition("-")[2])] = load_adapter(each).fingerprint()

    trained = run(small_backbone, tokenizer, data, tmp_path / "out", config, on_progress=watch)
    assert (trained.steps, trained.best_step) == (8, 4)
    assert load_adapter(tmp_path / "out").fingerprint() == seen[4]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 1e-3}, "config learning_rate: 0.003 then, 0.001 now"),
        ({"adapter": replace(SHAPE, rank=5)}, "config adapter rank: 4 then, 5 now"),
        ({"seed": 1}, "config seed: 0 then, 1 now"),
    ],
)
def test_an_interrupted_run_of_other_settings_is_refused(
    small_backbone, tokenizer, data, tmp_path, change, told
) -> None:
    with pytest.raises(Interrupted):
        run(small_backbone, tokenizer, data, tmp_path, on_progress=interrupt_at(1))
    with pytest.raises(ConfigError, match=told):
        run(small_backbone, tokenizer, data, tmp_path, replace(CONFIG, **change))


def test_an_interrupted_run_on_other_data_or_another_backbone_is_refused(
    small_backbone, tokenizer, data, tmp_path
) -> None:
    with pytest.raises(Interrupted):
        run(small_backbone, tokenizer, data, tmp_path, on_progress=interrupt_at(1))
    with pytest.raises(ConfigError, match="another data file: 'test' then, 'other' now"):
        run(small_backbone, tokenizer, replace(data, identity={"file": "other"}), tmp_path)
    with pytest.raises(ConfigError, match="another backbone"):
        run(lambda: small_backbone(rms_norm_eps=1e-5), tokenizer, data, tmp_path)


def test_a_folder_that_holds_something_else_is_refused(small_backbone, tokenizer, data, tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        run(small_backbone, tokenizer, data, tmp_path)
    run(small_backbone, tokenizer, data, tmp_path / "out", replace(CONFIG, steps=1, evaluation=0))
    with pytest.raises(ConfigError, match=r"holds a trained adapter.*begin_from="):
        run(small_backbone, tokenizer, data, tmp_path / "out")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_stops_at_what_is_not_a_number_and_keeps_the_checkpoint(
    small_backbone, tokenizer, data, tmp_path, monkeypatch, what
) -> None:
    from deltamem_agents.training.adapters.episode_loss import EpisodeLoss

    forward, calls = EpisodeLoss.forward, []

    def broken(self, **batch: Any):
        calls.append(1)
        loss = forward(self, **batch)["loss"]
        if len(calls) == 4 and what == "loss":
            loss = loss * float("nan")
        elif len(calls) == 4:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return {"loss": loss}

    monkeypatch.setattr(EpisodeLoss, "forward", broken)
    with pytest.raises(DivergedError, match=rf"the {what} of step 4 is (nan|inf); the last checkpoint is kept"):
        run(small_backbone, tokenizer, data, tmp_path)
    (kept,) = (tmp_path / "checkpoints").iterdir()
    assert kept.name == "checkpoint-2"
    assert all(bool(each.isfinite().all()) for each in load_adapter(kept).state_dict().values())


def test_an_incomplete_checkpoint_is_not_used(small_backbone, tokenizer, data, tmp_path) -> None:
    with pytest.raises(Interrupted):
        run(small_backbone, tokenizer, data, tmp_path, on_progress=interrupt_at(5))
    (tmp_path / "checkpoints" / "checkpoint-4" / "complete").unlink()  # killed while it was written
    seen = []
    run(small_backbone, tokenizer, data, tmp_path, on_progress=seen.append)
    assert min(now.step for now in seen) == 3


def test_a_backbone_without_a_chat_template_needs_one(small_backbone, tokenizer, data, tmp_path) -> None:
    template = tokenizer.chat_template
    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    with pytest.raises(ConfigError, match=r"has no chat template.*chat_template="):
        run(small_backbone, base, data, tmp_path)
    assert not list(tmp_path.iterdir())
    config = replace(CONFIG, steps=2, chat_template=template)
    run(small_backbone, base, data, tmp_path / "out", config)
    assert load_adapter(tmp_path / "out").chat_template == template
    assert base.chat_template is None
    loaded = load(adapter=tmp_path / "out", model=small_backbone(), tokenizer=base)
    assert loaded.tokenizer.chat_template == template and base.chat_template is None


def test_a_full_disk_keeps_the_last_good_checkpoint(small_backbone, tokenizer, data, tmp_path) -> None:
    """From step 3 on, no file of this process may grow, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(now: AdapterProgress) -> None:
        if now.step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))

    try:
        with pytest.raises(
            TrainingFileError, match=r"the checkpoint of step 4 cannot be written.*checkpoint-2' is kept"
        ):
            run(small_backbone, tokenizer, data, tmp_path, on_progress=fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-2"]
    seen = []
    run(small_backbone, tokenizer, data, tmp_path, on_progress=seen.append)
    assert min(now.step for now in seen) == 3


@pytest.mark.slow  # two processes load torch
def test_two_processes_train_as_one_that_accumulates(small_backbone, tokenizer, some_episodes, tmp_path) -> None:
    small_backbone().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_episodes(tmp_path / "data.jsonl", some_episodes(30))
    shape = {"rank": 4, "couple_lambda": False, "write_length": 64}
    values = {"adapter": shape, "steps": 4, "episodes": 2, "evaluation": 2, "log_every": 1, "warmup": 0}
    (tmp_path / "recipe.json").write_text(json.dumps(values))
    options = ["--backbone", "model", "--data", "data.jsonl", "--config", "recipe.json", "--device", "cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "deltamem_agents.cli", "train", "adapter", *options, "--out", "two", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 4  # one document: the second process prints nothing
    config = AdapterTrainingConfig.from_dict(values | {"accumulation": 2})
    one = train_adapter_for(tmp_path / "model", tmp_path / "data.jsonl", tmp_path / "one", config)
    two = json.loads((tmp_path / "two" / "training.json").read_text())
    assert list(two["losses"].values()) == pytest.approx(list(one.losses.values()), abs=2e-6)
    for name, weight in load_adapter(tmp_path / "two").state_dict().items():
        assert torch.allclose(weight, load_adapter(tmp_path / "one").state_dict()[name], atol=1e-5), name


def test_generated_data_goes_on_where_it_was(small_backbone, tokenizer, tmp_path) -> None:
    config = replace(
        CONFIG,
        steps=4,
        adapter=replace(SHAPE, write_length=128),
        mixture=({"until": 0.5, "facts": [1, 1], "filler": [0, 0]}, {"facts": [2, 3], "held_out": {"values": True}}),
    )
    whole = run(small_backbone, tokenizer, "generated", tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        run(small_backbone, tokenizer, "generated", tmp_path / "parts", config, on_progress=interrupt_at(3))
    parts = run(small_backbone, tokenizer, "generated", tmp_path / "parts", config)
    assert list(parts.losses.values()) == pytest.approx(list(whole.losses.values()), abs=1e-6)
    assert {each.arm for each in whole.measured} == {"state", "zero", "donor"}


def test_a_curriculum_spreads_over_the_run() -> None:
    phases = [{"until": 0.25, "facts": [1, 1]}, {"until": 0.5, "facts": [2, 2]}, {"facts": [4, 4]}]
    source = generated(Curriculum(phases), seed=3, held_out=5, count=40)
    told = [Curriculum(phases).at(done).facts[0] for done in (0.0, 0.2, 0.25, 0.49, 0.5, 0.99, 1.0)]
    assert told == [1, 1, 2, 2, 4, 4, 4]
    assert source.source(7) == source.source(7) != source.source(8)
    assert all(each.held_out for episode in source.held_out for each in episode.questions)
    assert not any(each.held_out for number in range(40) for each in source.source(number).questions)


def test_generated_episodes_that_do_not_fit_are_replaced(tokenizer) -> None:
    render = EpisodeRenderer(Rendering(tokenizer), 64)
    data = generated(Curriculum({"facts": [1, 8]}), seed=0, held_out=0, count=30, check=render)
    assert all(render(data.source(number)).questions for number in range(30))
    nothing = EpisodeRenderer(Rendering(tokenizer), 2)
    with pytest.raises(EpisodeError, match="write_length, which is 2"):
        generated(Curriculum({}), seed=0, held_out=0, count=1, check=nothing).source(0)


@pytest.mark.parametrize(
    ("mixture", "told"),
    [
        ([], "mixture is"),
        ([{"facts": [1, 1]}, {}], "until of a phase of mixture is None"),
        ([{"until": 0.5}, {"until": 0.3}], "give shares that rise to 1"),
        ({"fact": [1, 1]}, "mixture has no option 'fact'"),
        ({"held_out": {"value": True}}, "held_out of mixture has no option 'value'"),
        ({"unknown": 2.0}, "unknown is 2.0"),
    ],
)
def test_a_curriculum_that_makes_no_sense_is_refused(mixture, told) -> None:
    with pytest.raises(ConfigError, match=told):
        AdapterTrainingConfig(mixture=mixture)


LINES = {
    "no question": ('{"sessions": [[{"role": "user", "content": "A."}]], "questions": []}', "line 2.*no question"),
    "wrong role": ('{"sessions": [[{"role": "bot", "content": "A."}]], "questions": []}', "line 2.*role 'bot'"),
    "too long": (
        '{"sessions": [], "questions": [{"question": "Q?", "answer": "' + "red " * 80 + '"}]}',
        r"line 2: a question of \d+ tokens with a reply of \d+ is longer than write_length, which is 64",
    ),
    "not JSON": ("{", "line 2.*JSON"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_bad_line_is_named(small_backbone, tokenizer, tmp_path, name) -> None:
    line, told = LINES[name]
    good = '{"sessions": [], "questions": [{"question": "Q?", "answer": "A"}]}'
    (tmp_path / "data.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(EpisodeError, match=told):
        run(small_backbone, tokenizer, tmp_path / "data.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_that_is_not_there_or_too_little(small_backbone, tokenizer, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'no\.jsonl'"):
        run(small_backbone, tokenizer, "no.jsonl", tmp_path / "out")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(EpisodeError, match="holds no episode"):
        run(small_backbone, tokenizer, tmp_path / "empty.jsonl", tmp_path / "out")
    (tmp_path / "one.jsonl").write_text('{"sessions": [], "questions": [{"question": "Q?", "answer": "A"}]}\n')
    with pytest.raises(ConfigError, match=r"0 of 1 episodes are held out.*evaluation=0"):
        run(small_backbone, tokenizer, tmp_path / "one.jsonl", tmp_path / "out")


def test_held_out_questions_are_never_trained_on(some_episodes) -> None:
    training, measuring = some_episodes(7), some_episodes(4, seed=8, held_out=True)
    split = divided([*training, *measuring], {}, seed=3, evaluation=9)
    assert list(split.held_out) == measuring
    drawn = [split.source(index) for index in range(21)]
    assert all(sorted(map(str, drawn[n : n + 7])) == sorted(map(str, training)) for n in (0, 7, 14))
    assert drawn[:7] != drawn[7:14]
    assert drawn == [divided([*training, *measuring], {}, seed=3, evaluation=9).source(n) for n in range(21)]
    unmarked = divided(some_episodes(40), {}, seed=0, evaluation=9)
    assert len(unmarked.held_out) == 4


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
