"""`deltamem train tiny`, a few steps of it: what it makes can be used."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_a_few_steps_make_a_backbone_that_can_be_used(deltamem, tmp_path, url):
    out = tmp_path / "model"
    steps = ("--steps-backbone", 2, "--steps-adapter", 2, "--conversations", 0, "--seed", 3)
    done = deltamem("train", "tiny", "--out", out, *steps, "--json")
    assert done.code == 0, done.err
    assert done.json["stages"]["backbone"]["steps"] == done.json["stages"]["adapter"]["steps"] == 2
    assert done.json["stages"]["backbone"]["loss"] > 0
    options = ("--backbone", out, "--url", url, "--embedder", "none")
    assert deltamem("write", "Mara plays the cello.", *options).code == 0
    assert "cello" in deltamem("recall", "Mara", *options, "--json").json["text"]


@pytest.mark.parametrize("option", ["--steps-backbone", "--steps-adapter"])
def test_steps_out_of_range(deltamem, tmp_path, option):
    done = deltamem("train", "tiny", "--out", tmp_path / "model", option, 0)
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not (tmp_path / "model").exists()


def test_an_occupied_folder_is_left_alone(deltamem, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("mine")
    done = deltamem("train", "tiny", "--out", tmp_path / "model")
    assert done.code == 1 and "empty folder" in done.err
    assert [each.name for each in (tmp_path / "model").iterdir()] == ["mine.txt"]


def test_a_stage_of_a_backbone_is_trained_and_an_adapter_can_follow(deltamem, tmp_path):
    (tmp_path / "small.json").write_text(
        '{"shape": {"vocabulary": 600, "width": 32, "layers": 3, "rotary": 1, "looking": 1, "head": 16, "inner": 32},'
        ' "corpus": 40, "steps": 9, "tokens": 512, "mixture": {"facts": [1, 2], "filler": [0, 0]}}'
    )
    stage = ("--out", "b1", "--config", "small.json", "--evaluation", 2)
    done = deltamem("train", "backbone", *stage, "--steps", 2, "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == "b1" and done.json["loss"] > 0 and done.json["measured"][0]["questions"] > 0
    again = deltamem("train", "backbone", *stage, "--steps", 3)
    assert again.code == 1 and "other settings" in again.err and again.err.count("\n") == 1
    on = ("--config", "small.json", "--steps", 1, "--evaluation", 0, "--seed", 1)
    assert deltamem("train", "backbone", "--out", "b2", "--from", "b1", *on).code == 0
    (tmp_path / "episodes.jsonl").write_text(EPISODE * 20)
    options = ("--backbone", "b2", "--data", "episodes.jsonl", "--out", "mine", "--steps", 1, "--evaluation", 0)
    done = deltamem("train", "adapter", *options, "--episodes", 2)
    assert done.code == 0, done.err


EPISODE = (
    '{"sessions": [[{"role": "user", "content": "My dog is Rex."}]], '
    '"questions": [{"question": "What is my dog called?", "answer": "Rex"}]}\n'
)


def test_an_adapter_is_trained_and_used(deltamem, tmp_path, url):
    (tmp_path / "episodes.jsonl").write_text(EPISODE * 20)
    options = ("--backbone", "tiny", "--data", "episodes.jsonl", "--out", "mine", "--config", "tiny")
    done = deltamem("train", "adapter", *options, "--steps", 2, "--episodes", 2, "--evaluation", 2, "--json")
    assert done.code == 0, done.err
    assert done.err.startswith("peak memory about ")
    assert (done.json["steps"], done.json["out"]) == (2, "mine") and done.json["loss"] > 0
    assert [each["arm"] for each in done.json["measured"]] == ["state", "zero", "donor"]
    card = (tmp_path / "mine" / "README.md").read_text()
    assert "Licence of the backbone: not stated" in card and "| stated | 2 |" in card
    used = ("--adapter", "mine", "--url", url, "--embedder", "none")
    assert deltamem("write", "Mara plays the cello.", *used).code == 0
    assert "cello" in deltamem("recall", "Mara", *used, "--json").json["text"]
    again = deltamem("train", "adapter", *options)
    assert again.code == 1 and "--from 'mine'" in again.err and again.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--config", "none-such"), "no recipe 'none-such'"),
        (("--steps", 0), "steps is 0"),
        (("--chat-template", "no.jinja"), "cannot be read"),
        (("--from", "no-adapter"), "no adapter folder"),
        ((), "no file 'episodes.jsonl'"),
        (("--tensorboard",), "pip install tensorboard"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(deltamem, tmp_path, options, told):
    if "--from" in options:
        (tmp_path / "episodes.jsonl").write_text(EPISODE)
    done = deltamem("train", "adapter", "--backbone", "tiny", "--data", "episodes.jsonl", "--out", "mine", *options)
    assert done.code == 1 and done.err.startswith("error: ") and told in done.err and done.err.count("\n") == 1
    assert not (tmp_path / "mine").exists()
