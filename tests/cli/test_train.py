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
