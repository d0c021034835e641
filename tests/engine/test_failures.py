"""Steps that fail: every answer is still the one the request would have got alone, and nothing hangs or leaks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple
from weakref import ref

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
from tests.faulty import (
    after_forwards,
    await_rest,
    before_forwards,
    endless,
    every_slot_is_free,
    in_thread,
    kept_busy,
    thread_of,
)

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
    """A future's result or its error, without the frames: these hold all that ran, for as long as the error is kept."""
    error = future.exception(SECONDS)
    if error is None:
        return future.result()
    raised: BaseException | None = error
    while raised is not None:
        raised = raised.with_traceback(None).__context__
    return error


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
        self.answered: list[ref[Future[Any]]] = []  # what must not be held afterwards
        self.told = segments(engine, "My cat is Tom.", "My car is old.")
        self.alone = self.together(one_by_one=True)

    def together(self, one_by_one: bool = False, begin: Callable[[], object] = lambda: None) -> Got:
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
            with kept_busy(engine, begin):  # so that they are found together
                futures = list(submit())
            done = [_outcome(each) for each in futures]
            self.answered = [ref(each) for each in futures if each.exception() is None]
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
        await_rest(self.engine, *self.answered)
        assert every_slot_is_free(self.engine)
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


def run_failing(scene: Scene, failing: Failing) -> Got:
    """With every operation of the engine's thread counted."""
    try:
        return scene.together(begin=failing.__enter__)
    finally:
        failing.times = 0
        in_thread(scene.engine, partial(failing.__exit__, None, None, None))


def no_room() -> Exception:
    return torch.OutOfMemoryError("no room")


@contextmanager
def failing_at(engine: Engine, operation: str, fail: Callable[[], None]) -> Iterator[None]:
    """Call ``fail`` at each call of an operation meanwhile."""
    if operation == "a chunk of prompts, folds or scores":
        with before_forwards(engine, lambda ids: fail() if ids.shape[1] > 1 else None):
            yield
    elif operation == "a token of all rows":
        with before_forwards(engine, lambda _: fail()):
            yield
    elif operation == "the scores of a step":
        with after_forwards(engine, lambda *_: fail()):
            yield
    else:
        where, name = OPERATIONS[operation]
        original = getattr(where, name)

        def failing(*args: Any, **kwargs: Any) -> Any:
            fail()
            return original(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(where, name, failing)
            yield


FORWARDS = ("a chunk of prompts, folds or scores", "a token of all rows", "the scores of a step")
OPERATIONS: dict[str, tuple[Any, str]] = {
    "a layer's keys and values": (DynamicLayer, "update"),
    "drawing the first tokens": (decoding.Decoding, "join"),
    "drawing a token": (Drawing, "next"),
    "watching for a stop string": (Drawing, "stops"),
    "leaving": (decoding, "rows"),
    "joining": (decoding, "side_by_side"),
    "the mask of who joins": (decoding, "padded_mask"),
    "making a batch": (runs, "stack_states"),
    "keys and values of one row": (runs, "row"),
    "a slot for a state": (StatePool, "take"),
    "the states of a batch": (StatePool, "gather"),
    "taking a state out": (batches, "only"),
    "looking for what is hot": (HotSegment, "begins"),
    "keeping what is hot": (HotSegments, "put"),
    "answering": (decoding.Decoding, "result"),
}
STRIDES = {"a layer's keys and values": 11}  # there are many
NOTHING_SHARED = ("keeping what is hot", "answering")  # after these there is nothing left to be tried again


@pytest.mark.parametrize(
    ("operation", "error"),
    [
        *((each, torch.OutOfMemoryError) for each in (*FORWARDS, *OPERATIONS) if each not in NOTHING_SHARED),
        *((each, RuntimeError) for each in ("a token of all rows", "making a batch", "joining", "leaving")),
    ],
)
def test_one_failure_at_any_call_changes_no_answer(scene: Scene, operation: str, error: type[Exception]) -> None:
    thread = thread_of(scene.engine)
    calls = at = 0

    def fail() -> None:
        nonlocal calls
        if threading.current_thread() is thread:
            calls += 1
            if calls == at:
                raise error("no room")

    at = 1
    while True:
        calls = 0
        with failing_at(scene.engine, operation, fail):
            got = scene.together()
        scene.check(got)
        if at > calls:
            break
        at += STRIDES.get(operation, 1)
    assert at > 1


@pytest.mark.slow  # some hundred times
def test_memory_that_runs_out_at_any_operation_of_torch_changes_no_answer(scene: Scene) -> None:
    nothing = Failing(0, no_room, 0)
    scene.check(run_failing(scene, nothing))
    for at in range(1, nothing.count, 29):
        # A request whose answer is just being made ready fails by itself: there is no step to run again.
        scene.check(run_failing(scene, Failing(at, no_room)), but=torch.OutOfMemoryError)


@pytest.mark.parametrize("times", [2, 3, 20])
def test_memory_that_runs_out_again_and_again_fails_requests_by_name(scene: Scene, times: int) -> None:
    for at in (700, 1700, 2700):
        got = run_failing(scene, Failing(at, no_room, times))
        scene.check(got, but=EngineMemoryError)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("boom")], ids=["memory", "other"])
@pytest.mark.parametrize("phase", ["prompt", "token"])
def test_a_request_that_always_fails_fails_by_itself_and_soon(scene: Scene, error: Exception, phase: str) -> None:
    engine = scene.engine
    poison, mark = [9, 9, 9], 9
    tried = 0

    def fail(ids: torch.Tensor) -> None:
        nonlocal tried
        inside = bool((ids == mark).any()) if ids.shape[1] == 1 else phase == "prompt" and poisoned(ids).any()
        if inside:
            tried += 1
            raise type(error)(str(error))

    def poisoned(ids: torch.Tensor) -> torch.Tensor:
        return torch.tensor([poison == [each for each in row if each][:3] for row in ids.tolist()])

    def mark_it(ids: torch.Tensor, output: Any) -> None:
        """The request's first token is one that no other row draws, so that its steps can be told."""
        scores = output.logits[:, -1]
        if ids.shape[1] > 1:
            scores[poisoned(ids)] = -torch.inf
            scores[:, mark] = torch.where(poisoned(ids), 0.0, -torch.inf)
        else:
            scores[:, mark] = -torch.inf

    with endless(engine), after_forwards(engine, mark_it), before_forwards(engine, fail):
        bad = engine.generate(poison, None, sampling=Sampling(max_tokens=40))
        good = [engine.generate(scene.prompts[0], scene.states[0], sampling=Sampling(max_tokens=6)) for _ in range(3)]
        expected = EngineMemoryError if isinstance(error, torch.OutOfMemoryError) else RuntimeError
        assert type(bad.exception(SECONDS)) is expected
        assert len({each.result(SECONDS).ids for each in good}) == 1
    assert 0 < tried < 10
    scene.check(scene.together())


def test_an_error_of_ours_is_not_tried_again(scene: Scene) -> None:
    calls = []

    def inert(_: torch.Tensor) -> None:
        calls.append(1)
        raise InertAdapterError("wrote nothing")

    with before_forwards(scene.engine, inert):
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
    with kept_busy(engine):
        first = engine.generate(scene.prompts[0], scene.states[0], sampling=plain)
        mine = engine.generate(scene.prompts[0], scene.states[0], sampling=Sampling(max_tokens=5, seed=13))
        exits = engine.generate(scene.prompts[0], scene.states[0], sampling=plain, on_text=broken)
        last = engine.generate(scene.prompts[0], scene.states[0], sampling=plain)
    assert isinstance(mine.exception(SECONDS), ZeroDivisionError)
    assert isinstance(exits.exception(SECONDS), SystemExit)
    assert first.result(SECONDS).ids == last.result(SECONDS).ids == scene.alone.answers[0]
    scene.check_at_rest()


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 4), (3600.0, 2)])
def test_more_runs_together_again_some_time_after_a_failure(
    scene: Scene, seconds: float, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = scene.engine
    monkeypatch.setattr(scheduling, "NARROW_SECONDS", seconds)
    rows: list[int] = []

    def fail_once(ids: torch.Tensor) -> None:
        rows.append(ids.shape[0])
        if rows == [4]:
            raise torch.OutOfMemoryError("no room")

    with endless(engine), before_forwards(engine, fail_once):
        with kept_busy(engine):
            rows.clear()
            asked = [engine.generate([5, 6, 7], sampling=Sampling(max_tokens=4)) for _ in range(12)]
        assert len({each.result(SECONDS).ids for each in asked}) == 1
    assert rows[0] == 4 and max(rows[1:]) == most


def test_folds_end_in_the_order_in_which_they_were_asked_for(scene: Scene) -> None:
    engine = scene.engine
    pieces = [Segment(number, number + 1, [5 + number] * 6, [0] * 6, [0] * 6) for number in range(3)]
    for agents in (("a", "b", "c"), ("a", "a", "a"), (None, "a", None)):
        ended: list[int] = []
        engine.hot.clear()
        with kept_busy(engine):
            folds = []
            for number, agent in enumerate(agents):
                key = AgentKey("db", agent, 1) if agent else None
                fold = engine.fold(None, pieces[: 3 - number if agents[0] == agents[1] else 3], open_for=key)
                fold.add_done_callback(partial(lambda number, ended, _: ended.append(number), number, ended))
                folds.append(fold)
        for each in folds:
            each.result(SECONDS)
        assert ended == [0, 1, 2]
