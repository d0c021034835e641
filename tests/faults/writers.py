"""Writers that are killed while they write, or that write at once. A program of its own; imports no torch.

    writers.py killed URL ROUNDS SEED REPORT       one after another, each killed at a random moment
    writers.py together URL WRITERS MESSAGES       all at once, on one agent

A report has a line of JSON for each write: ``["begun", ids]`` before it, ``["done", ids]`` once it was acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from itertools import count

from deltamem_agents.store import Revision, Store

AGENT = "alice"
LONGEST = 0.03  # seconds that a writer lives once it has written, or, one in five, once its database is open


def killed(url: str, rounds: int, seed: int, report: str) -> None:
    Store.open(url).close()
    told = os.open(report, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    moments = random.Random(seed)
    for number in range(rounds):
        ready, tell_ready = os.pipe()
        child = os.fork()
        if child == 0:
            _write_until_killed(url, number, random.Random(seed + number), told, tell_ready)
        os.close(tell_ready)
        os.read(ready, 1)
        os.close(ready)
        time.sleep(moments.uniform(0, LONGEST))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit(f"writer {number} ended by itself with status {status}")


def _write_until_killed(url: str, number: int, choose: random.Random, told: int, tell_ready: int) -> None:
    store = Store.open(url)
    if number % 5 == 0:
        os.write(tell_ready, b".")
    for first in count(step=10):
        names = [f"{number}-{first + i}" for i in range(choose.choice([1, 1, 1, 4]))]
        messages = [{"id": name, "role": "user", "content": f"kept word{name.replace('-', 'x')}"} for name in names]
        os.write(told, json.dumps(["begun", names]).encode() + b"\n")
        store.append(AGENT, messages, f"s{number % 3}")
        os.write(told, json.dumps(["done", names]).encode() + b"\n")
        if first == 0 and number % 5:
            os.write(tell_ready, b".")
        if choose.random() < 0.3:
            info = store.agent(AGENT)
            assert info is not None
            state = f"state at {info.position}".encode() * 100
            revision = Revision(position=info.position, epoch=info.epoch, fingerprint="f", state=state)
            store.states.commit(AGENT, revision, after=0)


def together(url: str, writers: int, messages: int) -> None:
    children = []
    for writer in range(writers):
        child = os.fork()
        if child == 0:
            try:
                store = Store.open(url)
                for i in range(messages):
                    store.append(AGENT, [{"role": "user", "content": f"{writer}-{i}"}], f"s{writer}")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed:
        raise SystemExit(f"{len(failed)} writers failed")


if __name__ == "__main__":
    kind, url, *rest = sys.argv[1:]
    if kind == "killed":
        killed(url, int(rest[0]), int(rest[1]), rest[2])
    else:
        together(url, int(rest[0]), int(rest[1]))
