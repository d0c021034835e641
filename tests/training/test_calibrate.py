"""The regression finds what made the data, and the bundled model's answers can be judged."""

from __future__ import annotations

import math
import random

import pytest

from deltamem_agents.core import Logistic
from deltamem_agents.memory import DeltaMem
from deltamem_agents.training.calibrate import Gained, Judged, calibrate, fit, fullness, judge, missed
from deltamem_agents.training.conversations import Shape, converse


def drawn(truth: Logistic, count: int, *, norms: bool) -> list[Gained]:
    rng = random.Random(5)
    found = []
    for _ in range(count):
        gain, norm = rng.uniform(0.01, 0.99), rng.uniform(10, 90) if norms else 0.0
        found.append(Gained(gain, norm, rng.random() < truth(gain, norm)))
    return found


@pytest.mark.parametrize("norms", [True, False])
def test_the_regression_finds_what_made_the_data(norms: bool) -> None:
    truth = Logistic(-4.0, 1.2, 1.1) if norms else Logistic(-1.0, 2.0)
    found = fit(drawn(truth, 20_000, norms=norms))
    assert found.slope == pytest.approx(truth.slope, abs=0.15)
    assert found.fullness == pytest.approx(truth.fullness, abs=0.2)
    for gain in (0.2, 0.5, 0.9):
        assert found(gain, 40.0 * norms) == pytest.approx(truth(gain, 40.0 * norms), abs=0.02)


def test_answers_that_were_all_right_give_finite_weights() -> None:
    found = fit([Gained(0.9, 0.0, True)] * 50)
    assert all(math.isfinite(value) for value in (found.bias, found.slope, found.fullness))
    assert found(0.9) > 0.9


def test_answers_of_the_bundled_model_are_judged() -> None:
    rng = random.Random(1)
    with DeltaMem.open("tiny", url="sqlite://", embedder=False) as mem:
        conversation = converse(rng, Shape(facts=3, unknown=3, held_out=True))
        judged = list(judge(mem, mem.agent("a"), conversation, rng))
    assert len(judged) == 6 and sum(each.stated for each in judged) == 3 and judged[0].norm > 0
    for part in ("remembered", "read"):
        answers = [getattr(each, part) for each in judged if getattr(each, part)]
        assert sum(each.right for each in answers) >= 2
        assert all(0 < each.gain <= 1 for each in answers if each.right)
        assert all((each.norm > 0) == (part == "remembered") for each in answers)
    assert sum(each.together for each in judged if each.stated) >= 2


@pytest.mark.parametrize(
    ("together", "read", "full"),
    [
        ([1, 1, 1, 1], [1, 1, 1, 1], None),  # no harm at all
        ([1, 1, 0, 0], [1, 1, 1, 1], 20),
        ([0, 0, 0, 0], [1, 1, 1, 1], 0),
        ([1, 1, 0, 1], [0, 1, 1, 1], 20),
        ([1, 1, 1, 0], [1, 1, 1, 1], 20),  # both of norm 30 are on one side
    ],
)
def test_how_full_a_state_may_be(together: list[int], read: list[int], full: float | None) -> None:
    norms = (10.0, 20.0, 30.0, 30.0)
    judged = [
        Judged(norm=norm, stated=True, remembered=None, read=Gained(0.9, 0.0, bool(right)), together=bool(both))
        for norm, both, right in zip(norms, together, read, strict=True)
    ]
    assert fullness(judged[::-1]) == full


def test_what_the_records_miss() -> None:
    def judged(right: bool | None) -> Judged:
        read = None if right is None else Gained(0.9, 0.0, right)
        return Judged(norm=1.0, stated=True, remembered=None, read=read, together=False)

    assert missed([judged(True)] * 8 + [judged(False), judged(None)]) == pytest.approx(3 / 12)
    assert 0 < missed([judged(True)] * 98) == 0.01


@pytest.mark.slow  # tells and asks a few dozen conversations
def test_the_bundled_models_calibration_is_fitted_again() -> None:
    from deltamem_agents import tiny

    fitted = calibrate(tiny.FOLDER, sizes={2: 8, 8: 4}, seed=31)
    assert fitted.state(0.99, 50.0) > 0.7 > fitted.state(0.3, 50.0)
    assert fitted.records(0.99) > 0.9
