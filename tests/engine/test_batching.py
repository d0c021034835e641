"""Requests that run together: what each gets is what it would have got alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from uuid import uuid4

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents.core import Attached, State, attach
from deltamem_agents.engine import AgentKey, Cancellation, Engine, Limits, Sampling, Segment, StateKey, cut, load
from deltamem_agents.engine.runs import Pace, Row, Run
from deltamem_agents.errors import (
    ClosedError,
    ContextLengthError,
    EngineBusyError,
    EngineMemoryError,
    EngineTimeoutError,
    StateMismatchError,
)
from tests.faulty import before_forwards, endless, every_slot_is_free

pytestmark = pytest.mark.bundled

SAME = 1e-5  # relative, float32
COLOURS = ("red", "blue", "green", "teal", "black", "white", "brown", "pink")


@dataclass
class Said:
    position: int
    session: str
    role: str
    text: str


def opened(**limits: int) -> Engine:
    return Engine(load("tiny"), limits=Limits(**({"chunk": 16, "batch": 512, "rows": 8} | limits)))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = opened()
    yield made
    made.close()


@pytest.fixture(scope="module")
def crowded() -> Iterator[Engine]:
    """One whose pool is too small for all that are asked at once."""
    made = opened(slots=3)
    yield made
    made.close()


def segments(engine: Engine, texts: list[str]) -> list[Segment]:
    said = [Said(i + 1, "s", "user", text) for i, text in enumerate(texts)]
    return list(cut(said, engine.rendering, engine.config.write_length))


def key(agent: str) -> StateKey:
    return AgentKey("db", agent, 1), 1


def told(engine: Engine, colour: str, *more: str) -> State:
    return engine.fold(None, segments(engine, [f"My favourite colour is {colour}.", *more])).result()[-1]


def distance(a: State, b: State) -> float:
    return max(float((a[key] - b[key]).norm() / b[key].norm()) for key in b)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_answers_and_states_do_not_depend_on_neighbours(crowded: Engine, data: st.DataObject) -> None:
    engine = crowded
    count = data.draw(st.integers(2, 7))
    texts = [
        data.draw(st.lists(st.sampled_from([f"My dog is {c}." for c in COLOURS]), min_size=1, max_size=12))
        for _ in range(count)
    ]
    questions = [
        engine.rendering.question(
            data.draw(st.sampled_from(["What is my dog?", "Who am I and where do I live, please?"]))
        )
        for _ in range(count)
    ]
    sampling = [Sampling(max_tokens=data.draw(st.integers(1, 12))) for _ in range(count)]
    pieces = [segments(engine, each) for each in texts]
    alone = [engine.fold(None, each).result()[-1] for each in pieces]
    answers = [
        engine.generate(q, s, sampling=drawn).result().ids
        for q, s, drawn in zip(questions, alone, sampling, strict=True)
    ]

    order = data.draw(st.permutations(range(count)))
    folds = {i: engine.fold(None, pieces[i]) for i in order}
    together = {i: folds[i].result()[-1] for i in order}
    keys = [key(uuid4().hex) for _ in range(count)]  # states that stay on the device, or have to leave it
    asked = data.draw(st.lists(st.sampled_from(order), min_size=count, max_size=2 * count))
    generated = [(i, engine.generate(questions[i], together[i], keys[i], sampling=sampling[i])) for i in asked]

    for i in range(count):
        assert distance(together[i], alone[i]) < SAME
    for i, answer in generated:
        assert answer.result().ids == answers[i]


@pytest.fixture(scope="module")
def attached() -> Iterator[Attached]:
    """What an engine runs on, without an engine."""
    loaded = load("tiny")
    made = attach(loaded.model, loaded.adapter)
    yield made
    made.detach()


def test_a_neighbours_secret_changes_no_logit(engine: Engine, attached: Attached) -> None:
    ids = engine.rendering.question("What is my favourite colour?")
    mine, secret, plain = told(engine, "red"), told(engine, "teal"), told(engine, "blue")

    def logits(neighbour: State, write: bool) -> torch.Tensor:
        with torch.inference_mode():
            run = Run(attached, [Row(ids, mine), Row(ids, neighbour)], write=write, keep=len(ids))
            run.step(1000)
        assert run.logits is not None
        return run.logits[0]

    for write in (False, True):
        assert torch.equal(logits(secret, write), logits(plain, write))


def test_chunks_padding_and_past_change_nothing(engine: Engine, attached: Attached) -> None:
    long, short = engine.rendering.question("What is my dog, my cat and my favourite colour?"), [5, 6, 7]
    a, b = told(engine, "red"), told(engine, "blue")
    with torch.inference_mode():
        whole = Run(attached, [Row(long, a)], write=True, keep=1)
        whole.step(1000)
        first = Run(attached, [Row(long[:9], a), Row(short, b)], write=True)
        while not first.done:
            assert first.step(8) <= 8
        state = {name: each[0] for name, each in first.state.items()}
        rows = [Row(short, b), Row(long[9:], state, past=first.past(0))]
        second = Run(attached, rows, write=True, keep=1)
        while not second.done:
            second.step(6)
    assert whole.logits is not None and second.logits is not None
    assert float((second.logits[1] - whole.logits[0]).norm() / whole.logits[0].norm()) < SAME
    assert distance({n: t[1] for n, t in second.state.items()}, {n: t[0] for n, t in whole.state.items()}) < SAME


def test_sampling_is_repeatable_by_seed_whoever_is_there(engine: Engine) -> None:
    prompt, state = engine.rendering.question("Tell me something"), told(engine, "red")
    sampling = Sampling(max_tokens=12, temperature=1.5, top_p=0.95, top_k=50, seed=11)
    alone = engine.generate(prompt, state, sampling=sampling).result().ids
    others = [engine.generate(prompt, state, sampling=Sampling(max_tokens=9, temperature=1.0)) for _ in range(4)]
    assert engine.generate(prompt, state, sampling=sampling).result().ids == alone
    seeds = [Sampling(max_tokens=12, temperature=1.5, seed=seed) for seed in range(6)]
    assert {engine.generate(prompt, state, sampling=each).result().ids for each in seeds} - {alone}
    for each in others:
        each.result()


def test_stop_strings_end_an_answer_and_stream_right(engine: Engine) -> None:
    prompt, state = engine.rendering.question("What is my favourite colour?"), told(engine, "green")
    whole = engine.generate(prompt, state, sampling=Sampling(max_tokens=8)).result()
    assert whole.text == "green"
    pieces: list[str] = []
    cut_off = engine.generate(
        prompt, state, sampling=Sampling(max_tokens=8, stop=("ee",)), on_text=pieces.append
    ).result()
    assert (cut_off.text, "".join(pieces), cut_off.finished) == ("gr", "gr", True)


def test_a_small_pool_works() -> None:
    small = opened(slots=2, rows=3)
    try:
        prompt = small.rendering.question("What is my favourite colour?")
        states = {colour: told(small, colour) for colour in COLOURS}
        asked = [
            (colour, small.generate(prompt, states[colour], sampling=Sampling(max_tokens=8), key=key(colour)))
            for _ in range(3)
            for colour in COLOURS
        ]
        assert [answer.result().text for _, answer in asked] == [colour for colour, _ in asked]
        stats = small.stats()
        assert stats.evictions > 0 and stats.slots_used <= 2 and stats.answered == len(asked)
    finally:
        small.close()


def test_a_state_that_is_not_finite_is_refused_by_name(engine: Engine) -> None:
    bad = {name: torch.full_like(each, float("nan")) for name, each in told(engine, "red").items()}
    with pytest.raises(StateMismatchError, match=r"agent 'alice'.*not finite"):
        engine.generate([5], bad, key=key("alice")).result()
    with pytest.raises(StateMismatchError, match="not finite"):
        engine.fold(bad, segments(engine, ["x"])).result()


def test_prompts_that_cannot_run(engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match="empty"):
        engine.generate([])
    with pytest.raises(ContextLengthError, match=f"{engine.window}"):
        engine.generate([5] * engine.window)


def test_cancelled_waiting_and_under_way(engine: Engine) -> None:
    prompt, state = engine.rendering.question("Tell me"), told(engine, "red")
    cancellation = Cancellation()
    long = Sampling(max_tokens=200, temperature=2.0, seed=1)
    under_way = engine.generate(
        prompt, state, sampling=long, on_text=lambda _: cancellation.cancel(), cancellation=cancellation
    )
    assert len(under_way.result().ids) < 200
    gone = Cancellation()
    gone.cancel()
    with pytest.raises(CancelledError):
        engine.generate(prompt, state, cancellation=gone).result()


def test_too_late(engine: Engine) -> None:
    prompt, state = engine.rendering.question("Tell me"), told(engine, "red")
    with pytest.raises(EngineTimeoutError, match="longer timeout"):
        engine.generate(prompt, state, timeout=-1.0).result()
    with endless(engine), pytest.raises(EngineTimeoutError):
        engine.generate(prompt, state, sampling=Sampling(max_tokens=400), timeout=0.2).result()
    assert engine.generate(prompt, state, sampling=Sampling(max_tokens=2)).result().ids


def test_a_full_queue_refuses_or_waits() -> None:
    busy = opened(waiting=2, rows=1)
    hold, prompt = threading.Event(), busy.rendering.question("Tell me")
    try:
        first = busy.generate(prompt, None, sampling=Sampling(max_tokens=3), on_text=lambda _: hold.wait(20))
        while busy.stats().waiting:
            time.sleep(0.001)
        queued = [busy.generate(prompt, None, sampling=Sampling(max_tokens=1)) for _ in range(2)]
        with pytest.raises(EngineBusyError, match="2 requests"):
            busy.generate(prompt, None, wait=False)
        with pytest.raises(EngineBusyError):
            busy.generate(prompt, None, timeout=0.05)
        threading.Timer(0.1, hold.set).start()
        queued.append(busy.generate(prompt, None, sampling=Sampling(max_tokens=1)))  # waits for room
        assert [len(each.result().ids) for each in (first, *queued)][1:] == [1, 1, 1]
    finally:
        hold.set()
        busy.close()


def test_close_under_load_fails_what_is_not_finished() -> None:
    busy = opened(rows=2)
    prompt = busy.rendering.question("Tell me")
    begun = threading.Event()

    def show(_: str) -> None:
        begun.set()
        time.sleep(0.01)

    sampling = Sampling(max_tokens=300, temperature=2.0)
    with endless(busy):
        slow = [busy.generate(prompt, None, sampling=sampling, on_text=show) for _ in range(6)]
        fold = busy.fold(None, segments(busy, ["My dog is Rex."] * 300))
        begun.wait(20)
        busy.close()
    for each in (*slow, fold):
        with pytest.raises(ClosedError):
            each.result(timeout=10)
    with pytest.raises(ClosedError):
        busy.generate(prompt)
    busy.close()


def test_out_of_memory_halves_the_batch() -> None:
    small = opened(rows=8, batch=4096)
    prompt = small.rendering.question("What is my favourite colour?")
    seen: list[int] = []

    def little_memory(ids: torch.Tensor) -> None:
        if ids.shape[1] > 1:  # a chunk
            seen.append(ids.shape[0])
            if ids.shape[0] > 2 or int((ids == 7).sum()) > 2:
                raise torch.OutOfMemoryError("no room")

    try:
        states = [told(small, colour) for colour in COLOURS]
        with before_forwards(small, little_memory):
            answers = [small.generate(prompt, state, sampling=Sampling(max_tokens=8)) for state in states]
            hopeless = small.generate([7, 7, 7], None)
            assert [each.result().text for each in answers] == list(COLOURS)
            with pytest.raises(EngineMemoryError, match="shorter prompt"):
                hopeless.result()
        assert max(seen) > 2
    finally:
        small.close()


def test_a_short_request_does_not_wait_for_a_long_fold() -> None:
    busy = opened()
    try:
        fold = busy.fold(None, segments(busy, ["My dog is Rex, and I walk it in the park."] * 400))
        answer = busy.generate(busy.rendering.question("Hello"), None, sampling=Sampling(max_tokens=2))
        answer.result()
        assert not fold.done()
        assert len(fold.result()) > 1
    finally:
        busy.close()


def test_a_callback_that_fails_fails_its_request_only(engine: Engine) -> None:
    prompt = engine.rendering.question("What is my favourite colour?")

    def broken(_: str) -> None:
        raise ValueError("broken pipe")

    red, blue = told(engine, "red"), told(engine, "blue")
    hold = engine.fold(None, segments(engine, ["x " * 40]))  # so that the two come to run together
    fails = engine.generate(prompt, red, sampling=Sampling(max_tokens=8), on_text=broken)
    works = engine.generate(prompt, blue, sampling=Sampling(max_tokens=8))
    hold.result()
    with pytest.raises(ValueError, match="broken pipe"):
        fails.result()
    assert works.result().text == "blue"
    assert engine.stats().slots_used <= 2


@pytest.mark.slow  # two thousand requests
def test_two_thousand_requests_from_many_threads() -> None:
    busy = opened(rows=16, slots=4, batch=1024)
    question = busy.rendering.question("What is my favourite colour?")
    states = {colour: told(busy, colour) for colour in COLOURS}
    sampling, wrong = Sampling(max_tokens=6), list[object]()

    def work(number: int) -> None:
        for i in range(63):
            colour = COLOURS[(number * 7 + i) % len(COLOURS)]
            if i % 5 == 4:
                if distance(told(busy, colour), states[colour]) > SAME:
                    wrong.append((number, i))
            elif i % 11 == 3:
                gone = Cancellation()
                gone.cancel()
                busy.generate(question, states[colour], cancellation=gone).exception()
            else:
                answer = busy.generate(question, states[colour], key(colour), sampling=sampling).result(120)
                if answer.text != colour:
                    wrong.append((number, i, answer.text))

    before = threading.active_count()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(32)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(300)
    try:
        assert not any(each.is_alive() for each in threads) and not wrong
        stats = busy.stats()
        assert stats.waiting == stats.generating == 0 and stats.slots_used <= 4
        assert every_slot_is_free(busy) and threading.active_count() == before
    finally:
        busy.close()


def test_a_chunk_grows_on_a_fast_device_and_shrinks_on_a_slow_one() -> None:
    pace = Pace(64)
    for _ in range(20):
        pace.ran(pace.tokens, pace.tokens, pace.tokens / 10_000)  # seconds, at 10,000 tokens a second
    assert pace.tokens == 256  # 25.6 ms
    pace.ran(20, pace.tokens, 0.01)  # a short one tells nothing
    pace.ran(4 * pace.tokens, 4 * pace.tokens, 4 * pace.tokens / 10_000)  # four times the time for what is waited for
    assert pace.tokens == 256
    for _ in range(20):
        pace.ran(pace.tokens, pace.tokens, pace.tokens / 500)
    assert pace.tokens == 64
