"""A stage of a small backbone: what it reads, that it resumes to the same weights, and what it refuses."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deltamem_agents.errors import ConfigError, DivergedError
from deltamem_agents.training import BackboneProgress, BackboneShape, BackboneTrainingConfig, train_backbone_stage
from deltamem_agents.training.backbones.config import STAGES, read_stage
from deltamem_agents.training.backbones.rows import Batches, Place, Rows
from deltamem_agents.training.backbones.shape import fresh_backbone
from deltamem_agents.training.backbones.vocabulary import WordEncoder, train_open_tokenizer
from deltamem_agents.training.batches import repeated_tokens
from deltamem_agents.training.episodes import UNKNOWN, Mixture, draw_episode

CONFIG = BackboneTrainingConfig(
    shape=BackboneShape(vocabulary=700, width=32, layers=2, rotary=1, looking=1, head=16, inner=32),
    corpus=60,
    steps=4,
    tokens=512,
    checkpoint_every=2,
    evaluate_every=4,
    evaluation=2,
    mixture={"facts": [1, 2], "filler": [0, 1]},
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_open_tokenizer(vocabulary=700, episodes=100)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize(
    "text", ["Locker 9031 is Tobermory's.", " two  spaces", "Ærøskøbing", "pytest -q tests/x.py\n"]
)
def test_text_is_cut_as_the_tokenizer_does_and_digits_stand_alone(tokenizer, text) -> None:
    ids = WordEncoder(tokenizer).encode(text)
    assert ids == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids).strip() == text.strip()
    pieces = tokenizer.convert_ids_to_tokens(ids)
    assert all(len(piece) == 1 for piece in pieces if any(letter.isdigit() for letter in piece))


def test_a_word_that_is_cut_more_finely_is_cut_so_throughout_an_episode(tokenizer) -> None:
    encoder = WordEncoder(tokenizer, finer=1.0)
    encoder.begin(random.Random(1))
    text = "Remember that my favourite colour is turquoise"
    first, usual = encoder.encode(text), tokenizer.encode(text, add_special_tokens=False)
    assert len(first) > len(usual) and encoder.encode(text) == first
    assert tokenizer.decode(first) == tokenizer.decode(usual)


def test_rows_hold_what_was_told_and_only_answers_count_in_full(tokenizer) -> None:
    rows = Rows(tokenizer)
    episode = draw_episode(1, 5, Mixture(facts=(2, 2), ruled=0.0, filler=(0, 0), records=0.0, reading=0.0))
    (row,) = rows.of_episode(random.Random(0), episode)
    text = tokenizer.decode(row.ids)
    assert all(message["content"] in text for message in episode.messages)
    counted = tokenizer.decode([each for each, weight in zip(row.ids, row.weights, strict=True) if weight > 0.1])
    answers = {question.answer for question in episode.questions}
    assert UNKNOWN in answers and all(answer in counted for answer in answers)
    assert all(message["content"] not in counted for message in episode.messages)
    for each, question in zip(rows.each_question(episode), episode.questions, strict=True):
        asked = [token for token, weight in zip(each.ids, each.weights, strict=True) if weight]
        assert tokenizer.decode(asked[:-1]).strip() == question.answer


def test_batches_keep_their_size_and_go_on_anywhere(tokenizer) -> None:
    batches = Batches(tokenizer, CONFIG).begin(Place(), 0)
    drawn = [next(batches) for _ in range(20)]
    assert all(batch.ids.numel() <= CONFIG.tokens or len(batch.ids) == 1 for _, batch in drawn)
    again = Batches(tokenizer, CONFIG).begin(drawn[8][0], 9)
    assert all(torch.equal(next(again)[1].ids, batch.ids) for _, batch in drawn[9:])


def test_fresh_weights_already_copy(tokenizer) -> None:
    shape = BackboneShape(width=256, layers=4, head=64)
    rows = [repeated_tokens(random.Random(n), 120, len(tokenizer), weight=1.0) for n in range(4)]
    batch = Rows(tokenizer).batch(rows)
    with torch.inference_mode():
        logits = fresh_backbone(shape, tokenizer, seed=0)(input_ids=batch.ids).logits[:, :-1]
    wanted, targets = batch.weights[:, 1:] > 0, batch.ids[:, 1:]
    right = (logits.argmax(-1) == targets)[wanted].float().mean()
    assert right > 20 / len(tokenizer)


def test_an_interrupted_stage_ends_as_one_that_was_not(tmp_path) -> None:
    whole = train_backbone_stage(tmp_path / "whole", CONFIG)

    def interrupt(now: BackboneProgress) -> None:
        if now.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_backbone_stage(tmp_path / "cut", CONFIG, on_progress=interrupt)
    seen: list[BackboneProgress] = []
    cut = train_backbone_stage(tmp_path / "cut", CONFIG, on_progress=seen.append)
    assert [now.step for now in seen] == [3, 4]  # from the checkpoint of step 2
    assert same(weights(whole), weights(cut))
    assert {each.kind for each in seen[-1].measured} >= {"stated"}
    second = train_backbone_stage(tmp_path / "second", replace(CONFIG, seed=1, evaluation=0), begin_from=whole)
    assert (second / "tokenizer.json").read_bytes() == (whole / "tokenizer.json").read_bytes()
    assert not same(weights(second), weights(whole))
    with pytest.raises(ConfigError, match="other settings"):
        train_backbone_stage(cut, replace(CONFIG, steps=5))


def test_a_folder_that_holds_something_is_refused(tmp_path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="not an empty folder"):
        train_backbone_stage(tmp_path, CONFIG)


def test_a_loss_that_is_no_number_ends_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", lambda logits, *_, **__: logits.sum(-1) * float("nan"))
    with pytest.raises(DivergedError, match="loss of step 1 is nan"):
        train_backbone_stage(tmp_path / "out", CONFIG)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"peak": 2}, "peak is 2"),
        ({"copying": [0.5]}, "copying is"),
        ({"closed": [0.5, 2]}, "closed is 2"),
        ({"shape": {"width": 100}}, "width is 100"),
        ({"shape": {"looking": 3, "rotary": 2}}, "rising order"),
        ({"shape": {"depth": 3}}, "no option 'depth'"),
        ({"speed": 1}, "no option 'speed'"),
        ({"mixture": {"facts": [3, 1]}}, "facts"),
    ],
)
def test_settings_out_of_range(given, told) -> None:
    with pytest.raises(ConfigError, match=told):
        BackboneTrainingConfig.from_dict(given)


@pytest.mark.parametrize("name", sorted(path.stem for path in STAGES.glob("*.json")))
def test_recipes_are_valid_and_the_rate_rises_stays_and_falls(name) -> None:
    config = BackboneTrainingConfig.from_dict(read_stage(name))
    assert BackboneTrainingConfig.from_dict(config.as_dict()) == config
    rates = [config.rate(step) for step in range(config.steps)]
    assert max(rates) == rates[config.warmup] == config.peak
    assert rates[0] < config.peak / 10 and rates[-1] < config.peak / 10
    copying, closed = config.shares(config.steps)
    assert (copying, closed) == pytest.approx((config.copying[1], config.closed[1]))
