"""Processes that fold one agent's journal, killed while they do, or at once. A program of its own.

    folders.py killed URL ROUNDS SEED REPORT    one after another, each killed at a random moment of a fold
    folders.py together URL PROCESSES REPORT    all at once

The model is loaded once; the processes are forked before any thread is started and before it has run. A report has
lines of JSON: ``["done", ids]`` once a write was acknowledged, ``["folding", n]`` and ``["folded", n]`` around a fold,
``["drift", relative]`` for what a process found when it began, ``["state", checksum]``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any

import torch

from deltamem_agents import DeltaMem
from deltamem_agents.engine import Engine, load
from deltamem_agents.memory.backbone import Backbone
from deltamem_agents.recall import split_text
from deltamem_agents.store import Store
from deltamem_agents.store.codec import encode
from deltamem_agents.store.revisions import checksum_of
from deltamem_agents.training.conversations import Shape, converse

AGENT = "alice"
LONGEST = 0.03  # seconds into a fold at which its process is killed


def told(seed: int) -> list[dict[str, Any]]:
    conversation = converse(random.Random(seed), Shape(facts=3, filler=2, changed=1))
    return [
        {"id": f"{seed}-{i}", "role": role, "content": text} for i, (role, text) in enumerate(conversation.messages)
    ]


def tell(report: int, *what: Any) -> None:
    os.write(report, json.dumps(what).encode() + b"\n")


def opened(loaded: Any, url: str) -> DeltaMem:
    return DeltaMem(Backbone(Engine(loaded)), Store.open(url, split=split_text), None)


def killed(url: str, rounds: int, seed: int, path: str) -> None:
    loaded = load("tiny")
    report = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    moments = random.Random(seed)
    for number in range(rounds):
        ready, tell_ready = os.pipe()
        child = os.fork()
        if child == 0:
            mem = opened(loaded, url)
            alice = mem.agent(AGENT)
            tell(report, "drift", max(alice.verify().layers.values(), default=0.0))
            messages = told(number)
            mem.store.append(AGENT, messages, f"s{number % 2}")
            tell(report, "done", [message["id"] for message in messages])
            tell(report, "folding", number)
            os.write(tell_ready, b".")
            mem.runtime.folder.current(AGENT)
            tell(report, "folded", number)
            time.sleep(600)
        os.close(tell_ready)
        if not os.read(ready, 1):
            raise SystemExit(f"process {number} ended by itself with status {os.waitpid(child, 0)[1]}")
        os.close(ready)
        time.sleep(moments.uniform(0, LONGEST))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def together(url: str, processes: int, path: str) -> None:
    loaded = load("tiny")
    report = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            try:
                mem = opened(loaded, url)
                for message in told(number)[:6]:
                    mem.agent(AGENT).write([message], f"s{number % 2}")
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    failed = [child for child in children if os.waitpid(child, 0)[1]]
    if failed:
        raise SystemExit(f"{len(failed)} processes failed")
    tell(report, "state", checksum_of(encode(opened(loaded, url).agent(AGENT).state())))
    os._exit(0)  # threads of what was opened need not end


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, url, *rest = sys.argv[1:]
    if kind == "killed":
        killed(url, int(rest[0]), int(rest[1]), rest[2])
    else:
        together(url, int(rest[0]), rest[1])
