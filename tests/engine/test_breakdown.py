"""The engine's thread ends: every request fails by name, new ones are refused, and a new engine takes its place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from deltamem_agents import DeltaMem, doctor
from deltamem_agents.engine import Engine, Limits, Sampling, Segment, load, release, shared
from deltamem_agents.engine import scheduler as scheduling
from deltamem_agents.engine.pool import StatePool
from deltamem_agents.engine.waiting import Waiting
from deltamem_agents.errors import ClosedError, DeltaMemError, EngineBusyError, EngineFailedError
from tests.faulty import Broken, await_rest, before_forwards, every_slot_is_free, kept_busy, out_of_memory

LIMITS = Limits(chunk=16, batch=512, rows=2, waiting=3, slots=16)
SHORT = Sampling(max_tokens=2)
WHOLE = Segment(0, 1, [5, 6], [0, 0], [0, 0])


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(load("tiny"), limits=LIMITS)
    yield made
    made.close()


def broken(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("broken")


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (Waiting, "take_out"),
        (Waiting, "prompt"),
        (Waiting, "fold"),
        (Waiting, "pop"),
        (Waiting, "put_back"),
        (scheduling, "end"),
        (StatePool, "give"),
    ],
)
def test_an_error_anywhere_fails_every_request_and_refuses_new_ones(
    engine: Engine, where: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked: list[BaseException] = []

    def more() -> None:
        try:
            blocked.append(engine.generate([5, 6], sampling=SHORT).exception(30) or AssertionError())
        except DeltaMemError as error:
            blocked.append(error)

    with kept_busy(engine):
        monkeypatch.setattr(where, name, broken)
        asked: list[Future[Any]] = [
            engine.generate([5, 6, 7], sampling=SHORT),
            engine.fold(None, [WHOLE, WHOLE]),
            engine.score([([5], None)], [6]),
        ]
        threads = [threading.Thread(target=more) for _ in range(2)]  # they wait for room in the queue
        for each in threads:
            each.start()
    for each in threads:
        each.join(30)
    for error in [*blocked, *(future.exception(30) for future in asked)]:
        assert isinstance(error, EngineFailedError) and isinstance(error, RuntimeError)
        assert isinstance(error.__cause__, ZeroDivisionError) and "broken" in str(error)
    assert len(blocked) == 2
    monkeypatch.undo()
    for call in (
        lambda: engine.generate([5]),
        lambda: engine.fold(None, [WHOLE]),
        lambda: engine.score([([5], None)], [6]),
    ):
        with pytest.raises(EngineFailedError, match="open it again"):
            call()
    assert engine.stats().failure == "ZeroDivisionError: broken" and engine.stats().generating == 0
    assert any("ZeroDivisionError: broken" in each.problem for each in doctor.check_up().problems)
    engine.close()
    with pytest.raises(EngineFailedError):
        engine.generate([5])


def test_memory_that_runs_out_while_rows_are_taken_out(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "interrupt", out_of_memory)
    with before_forwards(engine, out_of_memory):
        asked = [engine.generate([5, 6, 7], sampling=Sampling(max_tokens=8)) for _ in range(3)]
        assert all(isinstance(each.exception(30), DeltaMemError) for each in asked)


def test_an_engine_that_has_failed_is_not_shared_again(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/m.db"
    limits = Limits(chunk=17, batch=512)  # shared with no other test
    first = DeltaMem.open(url=url, embedder=False, limits=limits)
    second = DeltaMem.open(url=url, embedder=False, limits=limits)
    try:
        assert first.engine is second.engine
        first.agent("a").write([{"role": "user", "content": "My dog is red."}])
        fatal = first.engine.generate([5], cancellation=Broken())
        assert isinstance(fatal.exception(30), EngineFailedError)
        for mem in (first, second):
            with pytest.raises(EngineFailedError):
                mem.agent("a").recall("What is my dog?")
        with DeltaMem.open(url=url, embedder=False, limits=limits) as third:
            assert third.engine is not first.engine
            assert third.agent("a").recall("What is my dog?").usage.answer_tokens
            first.close()
            second.close()
            assert third.agent("a").recall("What is my dog?").usage.answer_tokens
    finally:
        first.close()
        second.close()


def test_an_engine_that_was_closed_is_not_shared_again() -> None:
    def make() -> Engine:
        return Engine(load("tiny"), limits=LIMITS)

    first = shared("a key", make)
    first.close()
    second = shared("a key", make)
    try:
        assert second is not first and second.generate([5], sampling=SHORT).result(30).ids
        release(first)
        assert shared("a key", make) is second
        release(second)
        assert second.generate([5], sampling=SHORT).result(30).ids
    finally:
        release(second)
    with pytest.raises(ClosedError):
        second.generate([5])


def test_what_callers_do_to_their_futures_hurts_nobody(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()

    def leaves(_: Future[Any]) -> None:
        raise SystemExit(3)

    with caplog.at_level(logging.CRITICAL), kept_busy(engine):
        cancelled, answered, awaited = (engine.generate([5, 6], sampling=SHORT) for _ in range(3))
        awaited.add_done_callback(leaves)
        awaited.add_done_callback(broken)
        awaited.add_done_callback(lambda _: called.set())
        assert cancelled.cancel()
        answered.set_exception(KeyError("mine"))
    assert awaited.result(30).ids and called.wait(30)
    assert isinstance(answered.exception(30), KeyError)
    with pytest.raises(CancelledError):
        cancelled.result(30)
    assert not wait([cancelled], 30).not_done
    assert engine.generate([5, 6], sampling=SHORT).result(30).ids and engine.stats().failure is None
    given = [ref(each) for each in (cancelled, answered)]  # the log's tracebacks hold the third
    del cancelled, answered
    await_rest(engine, *given)
    assert every_slot_is_free(engine)


def test_a_callback_never_waits_for_room_in_the_queue(engine: Engine) -> None:
    refused: list[Exception] = []

    def asks_more(_: str) -> None:
        for _ in range(LIMITS.waiting + 1):
            try:
                engine.generate([5], sampling=SHORT)
            except EngineBusyError as error:
                refused.append(error)

    assert engine.generate([5, 6, 7], sampling=SHORT, on_text=asks_more).exception(30) is None
    assert refused
