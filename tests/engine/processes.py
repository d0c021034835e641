"""Run by test_processes.py in an interpreter of its own, because a process that has run models cannot be forked safely
there. Each function named on the command line prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from deltamem_agents import AgentMemory, DeltaMem
from deltamem_agents.engine import Sampling, drawing, sharing
from deltamem_agents.errors import ForkedError

URL = f"sqlite:///{sys.argv[1]}/m.db"
SAID = [{"role": "user", "content": "My locker is 4417."}]
LOCKING = ("core.attachment", "engine.sharing", "engine.shutdown", "memory.deltamem")
SECONDS = 60  # then a child has hung


def in_child(work: Callable[[], object], *, by_itself: bool = False) -> int:
    """The exit code of a forked process that does something; negative for a signal.

    Args:
        by_itself: Whether the interpreter ends as ``work`` has it.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(SECONDS)
    if by_itself:
        work()
        raise SystemExit(0)
    try:
        code = 0 if work() is not False else 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 1
    os._exit(code)


def opened() -> DeltaMem:
    return DeltaMem.open(url=URL, embedder=False)


def use(mem: DeltaMem) -> bool:
    """Whether what is written is found again, and torch computes."""
    alice = mem.agent(f"alice {os.getpid()}")
    alice.write(SAID)
    large = torch.ones(1200, 1200)
    return bool(alice.recall("Which locker is mine?").records) and bool((large @ large).sum() > 0)


def fresh() -> bool:
    with opened() as mem:
        return use(mem)


def refused(mem: DeltaMem, alice: AgentMemory) -> bool:
    """Whether every call on what was opened before the fork says so, at once."""
    started = time.monotonic()
    calls: list[Callable[[], object]] = [
        lambda: alice.write(SAID),
        lambda: alice.write(SAID, wait=False),
        lambda: alice.recall("locker"),
        lambda: alice.recall("locker", generate=False),
        lambda: alice.chat(SAID),
        lambda: list(alice.stream(SAID)),
        lambda: list(alice.chat_stream(SAID)),
        lambda: alice.log(),
        lambda: alice.state(),
        lambda: alice.erase(session="default"),
        lambda: alice.rebuild(),
        lambda: asyncio.run(alice.awrite(SAID)),
        lambda: asyncio.run(alice.arecall("locker")),
        lambda: mem.agent("b"),
        lambda: mem.agents(),
        lambda: mem.purge(),
        lambda: mem.reindex(),
        lambda: asyncio.run(mem.aagents()),
        lambda: mem.store.append("alice", SAID, "s"),
        lambda: mem.store.agents(),
        lambda: mem.engine.generate([5, 6]),
        lambda: mem.engine.fold(None, []),
        lambda: mem.engine.score([([5], None)], [6]),
        lambda: mem.engine.stats(),
    ]
    for call in calls:
        try:
            call()
        except ForkedError as error:
            if str(os.getppid()) in str(error):
                continue
        return False
    mem.close()
    mem.engine.close()
    return time.monotonic() - started < 10


def forks() -> dict[str, object]:
    """Children of a process with an open memory: idle, at work, with locks held, and under multiprocessing."""
    found: dict[str, object] = {}
    torch.set_num_threads(2)
    mem = opened()
    alice = mem.agent("alice")
    found["parent before"] = use(mem)
    alice.write(SAID)
    found["inherited"] = in_child(lambda: refused(mem, alice))
    found["fresh"] = in_child(fresh)
    found["fresh in a child of a child"] = in_child(lambda: fresh() and in_child(fresh) == 0)
    found["inherited, then fresh"] = in_child(lambda: refused(mem, alice) and fresh())
    found["inherited, at the interpreter's own end"] = in_child(lambda: refused(mem, alice), by_itself=True)
    ending = threading.Event()

    def busy() -> None:
        while not ending.is_set():
            alice.recall("Which locker is mine?")

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for each in threads:
        each.start()
    found["at work"] = [in_child(lambda: refused(mem, alice) and fresh()) for _ in range(4)]
    ending.set()
    for each in threads:
        each.join()
    found["locks held"] = with_locks_held(lambda: in_child(lambda: refused(mem, alice) and fresh()))
    process = multiprocessing.get_context("fork").Process(target=fresh)
    process.start()
    process.join(SECONDS)
    found["multiprocessing"] = process.exitcode
    found["journalled"] = len(alice.log())
    found["parent after"] = use(mem)
    mem.close()
    return found


def with_locks_held(call: Callable[[], object]) -> object:
    """What comes of a call while another thread holds every lock that opening a memory takes."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        modules = [import_module(f"deltamem_agents.{name}") for name in LOCKING]
        locks = [module._lock for module in modules] + [drawing._stop_strings, *sharing._loading.values()]
        for lock in locks:
            lock.__enter__()
        held.set()
        release.wait(SECONDS)
        for lock in locks:
            lock.__exit__(None, None, None)

    thread = threading.Thread(target=hold)
    thread.start()
    if not held.wait(SECONDS):
        return "not held"
    try:
        return call()
    finally:
        release.set()
        thread.join()


def exits() -> dict[str, object]:
    """Exit codes of processes that end, each with its own interpreter, while an engine is open."""
    times = int(sys.argv[3])
    return {name: [in_child(way, by_itself=True) for _ in range(times)] for name, way in WAYS.items()}


def begin(threads: int = 4) -> DeltaMem:
    """A memory with answers under way in threads that nobody waits for."""
    mem = DeltaMem.open(url="sqlite://", embedder=False)
    alice = mem.agent("alice")
    alice.write(SAID)

    def ask() -> None:
        while True:
            alice.recall("Which locker is mine?")

    for _ in range(threads):
        threading.Thread(target=ask, daemon=True).start()
    time.sleep(0.05)
    return mem


def generate(mem: DeltaMem, answers: int = 100) -> Any:
    """So many answers, of which the last is not there for a while."""
    sampling = Sampling(max_tokens=400, temperature=2.0)
    return [mem.engine.generate([5, 6, 7], sampling=sampling) for _ in range(answers)][-1]


def leave(code: object) -> None:
    raise SystemExit(code)


def after_an_answer() -> None:
    begin(0).agent("alice").recall("Which locker is mine?")
    leave(3)


def with_answers_under_way() -> None:
    begin()
    leave(3)


def with_an_error() -> None:
    begin()
    raise LookupError("mine")


def interrupted_while_generating() -> None:
    mem = begin(0)
    answer = generate(mem)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        answer.result()
    except KeyboardInterrupt:
        leave(3)


def with_a_last_word() -> None:
    """What is registered after the memory was opened still uses it."""
    mem = begin(1)

    def last() -> None:
        if not mem.agent("bob").recall("locker").text and mem.agent("bob").write(SAID):
            print("said", flush=True, file=sys.stderr)

    atexit.register(last)
    leave(3)


def with_a_thread_to_wait_for() -> None:
    mem = begin(0)
    threading.Thread(target=lambda: [mem.agent("alice").recall("locker") for _ in range(3)]).start()
    leave(3)


WAYS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        after_an_answer,
        with_answers_under_way,
        with_an_error,
        interrupted_while_generating,
        with_a_last_word,
        with_a_thread_to_wait_for,
    )
}

if __name__ == "__main__":
    print(json.dumps({"forks": forks, "exits": exits}[sys.argv[2]]()))
