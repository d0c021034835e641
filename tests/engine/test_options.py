"""What one caller gives is refused to that caller, before anything is queued; the others notice nothing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy
import pytest
import torch

from deltamem_agents.engine import AgentKey, Engine, Limits, Sampling, Segment, load
from deltamem_agents.errors import ConfigError, ContextLengthError, DeltaMemError
from tests.faulty import kept_busy

NAN, INF = float("nan"), float("inf")
HUGE = 10**5000  # more digits than Python prints
NO_NUMBERS: tuple[Any, ...] = (
    *(None, True, False, "7", b"7", "", [], {}, (1,), 1j, object()),
    *(NAN, INF, -INF, HUGE, -HUGE),
)
NO_WHOLE = (*NO_NUMBERS, 2.5, 2.0, Fraction(5, 2), numpy.float64(2.0), torch.tensor(2), torch.tensor(True))
BAD_SAMPLING: dict[str, tuple[Any, ...]] = {
    "max_tokens": (*NO_WHOLE, 0, -1, 1_000_001),
    "temperature": (*NO_NUMBERS, -0.1, 100.1, numpy.float32(NAN), torch.tensor(0.5)),
    "top_p": (*NO_NUMBERS, 0, -0.5, 1.0001),
    "top_k": (*NO_WHOLE, -1, 1_000_001),
    "repetition_penalty": (*NO_NUMBERS, 0, -1.0, 100.5),
    "stop": (
        "abc",
        "",
        b"abc",
        None,
        7,
        {"a": 1},
        {"a"},
        ("",),
        ("a", 7),
        (None,),
        ["a", b"b"],
        ("a" * 1025,),
        ("a",) * 65,
    ),
    "seed": (*(each for each in NO_WHOLE if each is not None), 2**64, -(2**63) - 1),
}
GOOD_SAMPLING: tuple[dict[str, Any], ...] = (
    {"seed": 2**64 - 1, "temperature": 1.0},
    {"seed": -(2**63), "temperature": 1.0},
    {"seed": numpy.int64(7), "temperature": numpy.float32(0.5), "top_k": numpy.int32(5)},
    {"temperature": 1e-300},
    {"temperature": 100, "top_p": 1e-6, "repetition_penalty": 1e-6},
    {"temperature": 1e-5, "top_k": 1_000_000, "repetition_penalty": 100},
    {"stop": ["abc", "\N{GRINNING FACE}", "\x00", " "]},
    {"temperature": Fraction(1, 2)},
)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(load("tiny"), limits=Limits(chunk=16, batch=512, rows=8))
    yield made
    made.close()


@pytest.mark.parametrize("name", list(BAD_SAMPLING))
def test_sampling_that_cannot_be_is_refused(name: str) -> None:
    for value in BAD_SAMPLING[name]:
        with pytest.raises(ConfigError, match=name) as caught:
            Sampling(**{name: value})
        assert len(str(caught.value)) < 300


def test_sampling_is_of_pythons_own_types() -> None:
    chosen = Sampling(seed=numpy.int64(7), temperature=numpy.float32(0.5), stop=["a"], max_tokens=numpy.int16(3))  # type: ignore[arg-type]
    assert chosen == Sampling(seed=7, temperature=0.5, stop=("a",), max_tokens=3)
    assert [type(each) for each in dataclasses.astuple(chosen)][:7] == [int, float, float, int, float, tuple, int]
    assert hash(chosen)


def test_what_is_taken_runs_beside_others(engine: Engine) -> None:
    prompt = engine.rendering.question("What is my dog called?")
    alone = engine.generate(prompt, sampling=Sampling(max_tokens=4)).result(60).ids
    with kept_busy(engine):
        odd = [engine.generate(prompt, sampling=Sampling(max_tokens=4, **options)) for options in GOOD_SAMPLING]
        plain = [engine.generate(prompt, sampling=Sampling(max_tokens=4)) for _ in range(3)]
    assert all(each.result(60).ids for each in odd)
    assert [each.result(60).ids for each in plain] == [alone] * 3


@pytest.mark.parametrize("name", [each.name for each in dataclasses.fields(Limits)])
def test_limits_that_cannot_be_are_refused(name: str) -> None:
    for value in (*NO_WHOLE, 0, -1, 2**40):
        with pytest.raises(ConfigError, match=name):
            Limits(**({"chunk": 16, "batch": 512} | {name: value}))
    assert Limits(**({"chunk": 16, "batch": 512} | {name: numpy.int64(1)})) == Limits(
        **({"chunk": 16, "batch": 512} | {name: 1})
    )


def test_the_least_limits_work() -> None:
    least = Engine(load("tiny"), limits=Limits(chunk=1, batch=1, rows=1, waiting=1, slots=1))
    try:
        prompt = least.rendering.question("Hi")
        asked: list[Any] = []
        threads = [
            threading.Thread(target=lambda: asked.append(least.generate(prompt, sampling=Sampling(max_tokens=2))))
            for _ in range(3)
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join(60)
        assert [len(each.result(60).ids) for each in asked] == [2, 2, 2]
    finally:
        least.close()


def test_requests_that_cannot_run_are_refused_to_their_caller(engine: Engine) -> None:
    prompt, most = engine.rendering.question("What is my dog called?"), len(engine.tokenizer) + 10_000
    whole = Segment(0, 1, [5, 6], [0, 0], [0, 0])
    alone = engine.generate(prompt, sampling=Sampling(max_tokens=4)).result(60).ids
    refused: list[Any] = [
        lambda: engine.generate(prompt, key=(AgentKey([], "a", 1), 1), state=engine.zero_state()),  # type: ignore[arg-type]
        lambda: engine.generate(prompt, sampling={"max_tokens": 4}),  # type: ignore[arg-type]
        lambda: engine.generate(prompt, on_text="print"),  # type: ignore[arg-type]
        lambda: engine.fold(None, [whole], open_for=AgentKey([], "a", 1)),  # type: ignore[arg-type]
        lambda: engine.fold(None, [Segment(0, 1, [], [], [])]),
        lambda: engine.fold(None, [Segment(0, 1, [5, 6], [0], [0, 0])]),
        lambda: engine.score([], [5]),
        lambda: engine.score([(prompt, None)], []),
    ]
    for bad in (-1, most, 1.0, True, "5", None, NAN, HUGE, torch.tensor(5)):
        refused += [
            lambda bad=bad: engine.generate([5, bad]),
            lambda bad=bad: engine.score([([5, bad], None)], [5]),
            lambda bad=bad: engine.score([([5], None)], [bad]),
            lambda bad=bad: engine.fold(None, [whole, Segment(0, 1, [bad], [0], [0])]),
        ]
    for timeout in ("5", NAN, True, [1]):
        refused += [
            lambda timeout=timeout: engine.generate(prompt, timeout=timeout),
            lambda timeout=timeout: engine.score([([5], None)], [5], timeout=timeout),
            lambda timeout=timeout: engine.fold(None, [whole], timeout=timeout),
        ]
    neighbour = engine.generate(prompt, sampling=Sampling(max_tokens=4))
    for call in refused:
        with pytest.raises(DeltaMemError) as caught:
            call()
        assert isinstance(caught.value, ConfigError | ContextLengthError) and len(str(caught.value)) < 300
    assert neighbour.result(60).ids == alone
    for timeout in (INF, 10**400, 1e300):
        assert engine.generate(prompt, sampling=Sampling(max_tokens=4), timeout=timeout).result(60).ids == alone
    assert engine.stats().failure is None


def test_hot_bytes_that_cannot_be_leave_the_model_as_it_was() -> None:
    loaded = load("tiny")
    for value in (None, -1, True, "1", 1.5, HUGE):
        with pytest.raises(ConfigError, match="hot_bytes"):
            Engine(loaded, hot_bytes=value)  # type: ignore[arg-type]
    Engine(loaded).close()
