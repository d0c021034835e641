"""Gains into confidences, and the file beside an adapter that says how."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from deltamem_agents import tiny
from deltamem_agents.core import Calibration, Logistic, load_adapter, save_adapter, state_norm
from deltamem_agents.core.files import CALIBRATION_FILE
from deltamem_agents.errors import AdapterFileError


def test_uncalibrated_the_confidence_is_the_gain() -> None:
    for gain in (0.001, 0.3, 0.5, 0.97):
        assert Logistic()(gain, norm=50) == pytest.approx(gain)
    assert 0 < Logistic()(-1.0) < 0.01 and 0.99 < Logistic()(1.0) < 1


def test_the_formula() -> None:
    logistic = Logistic(bias=-2, slope=1.5, fullness=0.5)
    value = -2 + 1.5 * math.log(0.8 / 0.2) + 0.5 * math.log(1 + 20)
    assert logistic(0.8, norm=20) == pytest.approx(1 / (1 + math.exp(-value)))
    assert logistic(0.8, 20) < logistic(0.9, 20) < logistic(0.9, 40)
    assert Logistic(bias=1e9)(0.5) <= 1 and Logistic(bias=-1e9)(0.5) >= 0


def test_what_no_record_says_is_less_likely() -> None:
    assert Calibration(missed=1).unread(0.8) == pytest.approx(0.8)
    assert Calibration(missed=0.25).unread(0.8) == pytest.approx(0.5)
    assert Calibration(missed=0.02).unread(0.97) < 0.5 < Calibration(missed=0.02).unread(0.99)


def test_the_norm_is_of_all_matrices() -> None:
    state = {"a": torch.full((2, 2), 2.0), "b": torch.full((3, 3), 1.0)}
    assert state_norm(state) == pytest.approx(5)
    assert state_norm({}) == 0


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(tiny.FOLDER / "adapter", tmp_path / "adapter"))


def test_it_is_stored_with_the_adapter_and_no_part_of_its_identity(folder: Path, tmp_path) -> None:
    adapter = load_adapter(folder)
    before = adapter.fingerprint()
    adapter.calibration = Calibration(state=Logistic(1, 2, 3), records=Logistic(4, 5, 6), full=70.5)
    again = load_adapter(save_adapter(adapter, tmp_path / "other"))
    assert again.calibration == adapter.calibration and again.fingerprint() == before
    (folder / CALIBRATION_FILE).unlink()
    plain = load_adapter(folder)
    assert plain.calibration == Calibration()
    assert not (save_adapter(plain, tmp_path / "plain") / CALIBRATION_FILE).exists()


def test_an_adapter_that_is_not_calibrated_keeps_nothing_of_the_one_it_replaces(folder: Path) -> None:
    adapter = load_adapter(folder)
    adapter.calibration = Calibration()
    assert load_adapter(save_adapter(adapter, folder)).calibration == Calibration()


def test_the_bundled_model_is_calibrated() -> None:
    assert load_adapter(tiny.FOLDER / "adapter").calibration != Calibration()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "cannot be read as JSON"),
        ("[]", "not a JSON object"),
        ("{}", "needs the numbers bias, slope, fullness"),
        (json.dumps(Calibration().as_dict() | {"state": {"bias": 1}}), "'state' is"),
        (json.dumps(Calibration().as_dict() | {"missed": 0}), "missed is 0"),
        (json.dumps(Calibration().as_dict() | {"full": "x"}), "full is 'x'"),
        (json.dumps(Calibration().as_dict()).replace("1.0", "NaN"), "not a finite number"),
        (json.dumps(Calibration().as_dict()).replace("1.0", "true"), "not a finite number"),
        (json.dumps(Calibration().as_dict()).replace("1.0", '"1"'), "not a finite number"),
    ],
)
def test_a_damaged_file_says_what_to_do(folder: Path, text: str, message: str) -> None:
    (folder / CALIBRATION_FILE).write_text(text)
    with pytest.raises(AdapterFileError, match=message) as caught:
        load_adapter(folder)
    assert CALIBRATION_FILE in str(caught.value) and "fetch" in str(caught.value)
