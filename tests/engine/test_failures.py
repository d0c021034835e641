"""Steps that fail: every answer is still the one the request would have got alone, and nothing hangs or leaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessor
from transformers.cache_utils import DynamicLayer

from deltamem_agents.core import State
from deltamem_agents.engine import AgentKey, Engine, Limits, Sampling, Segment, batches, cut, decoding, load, runs
from deltamem_agents.engine import scheduler as scheduling
from deltamem_agents.engine.drawing import Drawing
from deltamem_agents.engine.hot import HotSegment, HotSegments
from deltamem_agents.engine.pool import StatePool
from deltamem_agents.errors import EngineMemoryError, InertAdapterError

SAME = 1e-5  # relative, float32
SECONDS = 60  # in which a call has to end


class Said(NamedTuple):
    position: int
    text: str
    session: str = "s"
    role: str = "user"


class Got(NamedTuple):
    """What came of requests that were under way together: token ids, states, scores, or an error."""

    answers: list[Any]
    folds: list[Any]
    scores: Any


def _outcome(future: Future[Any]) -> Any:
    return future.exception(SECONDS) or future.result()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine(load("tiny"), limits=Limits(chunk=16, batch=256, rows=4, slots=6))
    yield made
    made.close()


def segments(engine: Engine, *texts: str) -> list[Segment]:
    said = [Said(number + 1, text) for number, text in enumerate(texts)]
    return list(cut(said, engine.rendering, engine.config.write_length))


class Scene:
    """Two folds that go on from what is hot, a score, and answers that begin and end at different times."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.states = [engine.fold(None, segments(engine, f"My dog is {c}.")).result()[-1] for c in ("red", "blue")]
        self.prompts = [engine.rendering.question(q) for q in ("What is my dog?", "Who am I, please tell me?")]
        self.sampling = [
            Sampling(max_tokens=5),
            Sampling(max_tokens=3, temperature=1.5, top_k=20, seed=7),
            Sampling(max_tokens=1),
            Sampling(max_tokens=4, repetition_penalty=1.2, stop=("zzz",)),
        ]
        self.begun = segments(engine, "My cat is Tom.")
        self.told = segments(engine, "My cat is Tom.", "My car is old.")
        self.alone = self.together(one_by_one=True)

    def together(self, one_by_one: bool = False) -> Got:
        engine = self.engine
        engine.hot.clear()
        for agent in "ab":  # hot, up to the first message
            _outcome(engine.fold(None, self.begun, open_for=AgentKey("db", agent, 1)))
        pieces: list[list[str]] = [[] for _ in self.sampling]

        def submit() -> Iterator[Future[Any]]:
            for number, sampling in enumerate(self.sampling):
                state = self.states[number % 2]
                key = (AgentKey("db", f"state {number % 2}", 1), 1) if number else None
                yield engine.generate(
                    self.prompts[number % 2], state, key, sampling=sampling, on_text=pieces[number].append
                )
            for agent in "ab":
                yield engine.fold(None, self.told, open_for=AgentKey("db", agent, 1))
            yield engine.score([(self.prompts[0], self.states[0]), (self.prompts[1], None)], [5, 6, 7])

        if one_by_one:
            done = [_outcome(each) for each in submit()]
        else:
            with engine._scheduler._waiting.changed:  # so that they are found together
                futures = list(submit())
            done = [_outcome(each) for each in futures]
        for answer, text in zip(done[:4], pieces, strict=True):
            assert isinstance(answer, Exception) or answer.text == "".join(text).strip(), "streamed something else"
        return Got([each if isinstance(each, Exception) else each.ids for each in done[:4]], done[4:6], done[6])

    def check(self, got: Got, but: type[Exception] | None = None) -> None:
        """Every answer is the one given alone; some may be an error instead."""
        failed = [each for each in (*got.answers, *got.folds, got.scores) if isinstance(each, Exception)]
        assert all(but is not None and type(each) is but for each in failed), failed
        for answer, expected in zip(got.answers, self.alone.answers, strict=True):
            assert isinstance(answer, Exception) or answer == expected
        for states, others in zip(got.folds, self.alone.folds, strict=True):
            for state, other in () if isinstance(states, Exception) else zip(states, others, strict=True):
                assert distance(state, other) < SAME
        if not isinstance(got.scores, Exception):
            assert got.scores == pytest.approx(self.alone.scores, rel=1e-4)
        self.check_at_rest()

    def check_at_rest(self) -> None:
        """Nothing is held that belongs to a request that has ended, and what is hot is right."""
        scheduler = self.engine._scheduler
        until = time.monotonic() + SECONDS
        while scheduler.waiting or scheduler.generating or scheduler._running:
            assert time.monotonic() < until, "it does not come to rest"
            time.sleep(0.001)
        assert not scheduler.pool._held and not scheduler._waiting._open
        assert scheduler.pool.used + len(scheduler.pool._free) == scheduler.pool.slots
        more = segments(self.engine, "My cat is Tom.", "My car is old.", "I live in Rome.")
        for agent in "ab":  # from what is hot, if it still is
            warm = self.engine.fold(None, more, open_for=AgentKey("db", agent, 1)).result(SECONDS)[-1]
            cold = self.engine.fold(None, more).result(SECONDS)[-1]
            assert distance(warm, cold) < SAME


def distance(a: State, b: State) -> float:
    return max(float((a[key] - b[key]).norm() / b[key].norm()) for key in b)


@pytest.fixture(scope="module")
def scene(engine: Engine) -> Scene:
    return Scene(engine)


class Failing(TorchDispatchMode):
    """Raises at the n-th operation of torch, and as often as that comes after it."""

    def __init__(self, at: int, error: Callable[[], Exception], times: int = 1) -> None:
        super().__init__()
        self.at, self.error, self.times, self.count = at, error, times, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.at <= self.count < self.at + self.times:
            raise self.error()
        return func(*args, **(kwargs or {}))


def run_failing(scene: Scene, failing: Failing, monkeypatch: pytest.MonkeyPatch) -> Got:
    """With every operation of the engine's thread counted."""
    scheduler, turn = scene.engine._scheduler, scene.engine._scheduler._turn

    def counted() -> None:
        with failing:
            turn()

    with monkeypatch.context() as patch:
        patch.setattr(scheduler, "_turn", counted)
        return scene.together()


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("no room")


OPERATIONS: dict[str, Callable[[Engine], tuple[Any, str]]] = {
    "a chunk of prompts, folds or scores": lambda engine: (engine._attached, "forward"),
    "a token of all rows": lambda engine: (engine._attached.model, "forward"),
    "a layer's keys and values": lambda engine: (DynamicLayer, "update"),
    "the scores of a step": lambda engine: (decoding.Decoding, "_advance"),
    "drawing a token": lambda engine: (Drawing, "next"),
    "watching for a stop string": lambda engine: (Drawing, "stops"),
    "leaving": lambda engine: (decoding, "rows"),
    "joining": lambda engine: (decoding, "side_by_side"),
    "the mask of who joins": lambda engine: (decoding, "padded_mask"),
    "making a batch": lambda engine: (runs, "_batched"),
    "keys and values of one row": lambda engine: (runs, "row"),
    "a slot for a state": lambda engine: (StatePool, "_make_room"),
    "the states of a batch": lambda engine: (StatePool, "gather"),
    "taking a state out": lambda engine: (batches, "only"),
    "looking for what is hot": lambda engine: (HotSegment, "begins"),
    "keeping what is hot": lambda engine: (HotSegments, "put"),
    "answering": lambda engine: (decoding.Decoding, "result"),
}
STRIDES = {"a layer's keys and values": 11}  # there are many
NOTHING_SHARED = ("keeping what is hot", "answering")  # after these there is nothing left to be tried again


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        *((each, torch.OutOfMemoryError) for each in OPERATIONS if each not in NOTHING_SHARED),
        *((each, RuntimeError) for each in ("a token of all rows", "making a batch", "joining", "leaving")),
    ],
)
def test_one_failure_at_any_call_changes_no_answer(
    scene: Scene, operation: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name = OPERATIONS[operation](scene.engine)
    original = getattr(where, name)
    calls = at = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if threading.current_thread() is scene.engine._scheduler._thread:
            calls += 1
            if calls == at:
                raise error("no room")
        return original(*args, **kwargs)

    at = 1
    while True:
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(where, name, failing)
            got = scene.together()
        scene.check(got)
        if at > calls:
            break
        at += STRIDES.get(operation, 1)
    assert at > 1


@pytest.mark.slow  # some hundred times
def test_memory_that_runs_out_at_any_operation_of_torch_changes_no_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Failing(0, out_of_memory, 0)
    scene.check(run_failing(scene, nothing, monkeypatch))
    for at in range(1, nothing.count, 29):
        # A request whose answer is just being made ready fails by itself: there is no step to run again.
        scene.check(run_failing(scene, Failing(at, out_of_memory), monkeypatch), but=torch.OutOfMemoryError)


@pytest.mark.parametrize("times", [2, 3, 20])
def test_memory_that_runs_out_again_and_again_fails_requests_by_name(
    scene: Scene, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in (700, 1700, 2700):
        got = run_failing(scene, Failing(at, out_of_memory, times), monkeypatch)
        scene.check(got, but=EngineMemoryError)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("boom")], ids=["memory", "other"])
@pytest.mark.parametrize("phase", ["prompt", "token"])
def test_a_request_that_always_fails_fails_by_itself_and_soon(
    scene: Scene, error: Exception, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scene.engine
    poison = [9, 9, 9]
    where = engine._attached if phase == "prompt" else engine._attached.model
    forward = where.forward
    tried = 0

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal tried
        running = [each.request for each in engine._scheduler._decoding.active]
        running += engine._scheduler._prompting.requests if engine._scheduler._prompting else []
        if any(list(getattr(each, "ids", ()))[:3] == poison for each in running):
            tried += 1
            raise type(error)(str(error))
        return forward(*args, **kwargs)

    monkeypatch.setattr(where, "forward", failing)
    monkeypatch.setattr(engine._scheduler._decoding, "_ends", set)
    bad = engine.generate(poison, None, sampling=Sampling(max_tokens=4))
    good = [engine.generate(scene.prompts[0], scene.states[0], sampling=Sampling(max_tokens=6)) for _ in range(3)]
    expected = EngineMemoryError if isinstance(error, torch.OutOfMemoryError) else RuntimeError
    assert type(bad.exception(SECONDS)) is expected
    assert len({each.result(SECONDS).ids for each in good}) == 1
    assert tried < 10
    monkeypatch.undo()
    scene.check(scene.together())


def test_an_error_of_ours_is_not_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def inert() -> None:
        calls.append(1)
        raise InertAdapterError("wrote nothing")

    with monkeypatch.context() as patch:
        patch.setattr(scene.engine._attached, "check", inert)
        fold = scene.engine.fold(None, scene.told)
        assert isinstance(fold.exception(SECONDS), InertAdapterError) and len(calls) == 1
    scene.check(scene.together())


def test_a_processor_or_a_callback_that_fails_ends_its_own_request(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scene.engine

    class Broken(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("mine")

    def broken(_: str) -> None:
        raise SystemExit(3)

    made = Drawing.__init__

    def with_processor(self: Drawing, sampling: Sampling, *args: Any) -> None:
        made(self, sampling, *args)
        if sampling.seed == 13:
            self.processors.append(Broken())

    monkeypatch.setattr(Drawing, "__init__", with_processor)
    plain = Sampling(max_tokens=5)
    with engine._scheduler._waiting.changed:
        first = engine.generate(scene.prompts[0], scene.states[0], sampling=plain)
        mine = engine.generate(scene.prompts[0], scene.states[0], sampling=Sampling(max_tokens=5, seed=13))
        exits = engine.generate(scene.prompts[0], scene.states[0], sampling=plain, on_text=broken)
        last = engine.generate(scene.prompts[0], scene.states[0], sampling=plain)
    assert isinstance(mine.exception(SECONDS), ZeroDivisionError)
    assert isinstance(exits.exception(SECONDS), SystemExit)
    assert first.result(SECONDS).ids == last.result(SECONDS).ids == scene.alone.answers[0]
    scene.check_at_rest()


def test_more_runs_together_again_some_time_after_a_failure(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = scene.engine._scheduler
    scheduler._most_rows = scheduler._most_folds = 1
    monkeypatch.setattr(scheduling, "NARROW_SECONDS", 0.0)
    scheduler._widen()
    scheduler._widen()
    assert scheduler._most_rows == scheduler._most_folds == 4
    scheduler._widen()
    assert scheduler._most_rows == 4


def test_folds_end_in_the_order_in_which_they_were_asked_for(scene: Scene) -> None:
    engine = scene.engine
    pieces = [Segment(number, number + 1, [5 + number] * 6, [0] * 6, [0] * 6) for number in range(3)]
    for agents in (("a", "b", "c"), ("a", "a", "a"), (None, "a", None)):
        ended: list[int] = []
        engine.hot.clear()
        with engine._scheduler._waiting.changed:
            folds = []
            for number, agent in enumerate(agents):
                key = AgentKey("db", agent, 1) if agent else None
                fold = engine.fold(None, pieces[: 3 - number if agents[0] == agents[1] else 3], open_for=key)
                fold.add_done_callback(partial(lambda number, ended, _: ended.append(number), number, ended))
                folds.append(fold)
        for each in folds:
            each.result(SECONDS)
        assert ended == [0, 1, 2]
