"""Many clients on one `deltamem serve` for a while; then nothing may be lost, doubled or amiss.

    serving.py [--seconds 600] [--clients 200] [--agents 20] [--concurrency 256]

Each client talks with an agent in a session of its own: it sends a new message with a number that nobody else sends,
and waits for the reply, streamed or not. A reply with status 200 acknowledges the turn. At the end the journal is
compared with what was acknowledged. The same talk is held with the memory itself first, without HTTP, for a tenth of
the time. The exit code is 1 where something is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deltamem_agents import DeltaMem
from deltamem_agents.bench.serving import Server, served
from deltamem_agents.engine import Sampling

TOKENS = 8  # of a reply
WARM = 0.2  # share of the time after which memory may no longer grow
GROWTH = 0.05
SLOWER = 3  # times the memory's own 95th percentile that a reply over HTTP may take
ANSWERED = 0.95


@dataclass
class Talk:
    """What clients saw.

    Args:
        said: By agent and session, the texts that were acknowledged, in order.
        seconds: Of each acknowledged turn.
    """

    said: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)


def text(client: int, number: int) -> str:
    """A message that nobody else sends."""
    return f"Note {client}-{number}: shelf {client * 7 + number} is {('red', 'blue', 'green')[number % 3]}."


async def over_http(server: Server, clients: int, agents: int, until: float) -> Talk:
    """All clients talk with the server."""
    talk = Talk()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=300, limits=limits) as http:

        async def one(client: int) -> None:
            agent, session, chosen = f"agent{client % agents}", f"s{client}", random.Random(client)
            acknowledged = talk.said.setdefault((agent, session), [])
            number = 0
            while time.monotonic() < until:
                said, stream = text(client, number), chosen.random() < 0.5
                body = {"model": "tiny", "max_tokens": TOKENS, "stream": stream, "user": agent}
                began = time.monotonic()
                response = await http.post(
                    f"{server}/v1/chat/completions",
                    json=body | {"messages": [{"role": "user", "content": said}]},
                    headers={"x-session-id": session},
                )
                talk.statuses[response.status_code] += 1
                if response.status_code == 200:
                    if stream and not response.text.endswith("data: [DONE]\n\n"):
                        talk.odd.append(f"a stream of {agent} ended without [DONE]: {response.text[-200:]}")
                    talk.seconds.append(time.monotonic() - began)
                    acknowledged.append(said)
                    number += 1
                elif response.status_code == 429:
                    await asyncio.sleep(float(response.headers["retry-after"]) * (0.5 + chosen.random()))
                else:
                    talk.odd.append(f"status {response.status_code}: {response.text[:200]}")
                    return

        await asyncio.gather(*map(one, range(clients)))
    return talk


async def directly(mem: DeltaMem, clients: int, agents: int, until: float) -> Talk:
    """The same with the memory itself."""
    talk = Talk()

    async def one(client: int) -> None:
        memory, number = mem.agent(f"agent{client % agents}"), 0
        while time.monotonic() < until:
            began = time.monotonic()
            message = {"role": "user", "content": text(client, number)}
            await memory.achat([message], f"s{client}", sampling=Sampling(max_tokens=TOKENS))
            talk.seconds.append(time.monotonic() - began)
            number += 1

    await asyncio.gather(*map(one, range(clients)))
    return talk


def resident(pid: int) -> int:
    """Resident memory of a process in bytes."""
    fields = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in fields if line.startswith("VmRSS:"))


async def watched(server: Server, until: float) -> list[int]:
    """Resident memory of the server, once a second."""
    found = []
    while time.monotonic() < until:
        await asyncio.sleep(1)
        found.append(resident(server.pid))
    return found


def compared(url: str, talk: Talk) -> list[str]:
    """What the journal lacks of what was acknowledged, or has twice."""
    amiss = list(talk.odd)
    with DeltaMem.open(None, url=url, embedder=False) as mem:
        for (agent, session), said in talk.said.items():
            log = mem.agent(agent).log(session)
            held = [each.text for each in log if each.role == "user"]
            counts = Counter(held)
            amiss += [f"{agent} {session} lost {each!r}" for each in said if not counts[each]]
            amiss += [f"{agent} {session} has {each!r} {count} times" for each, count in counts.items() if count > 1]
            if [each for each in held if each in set(said)] != said:
                amiss.append(f"{agent} {session} has its messages in another order")
            if [each.role for each in log] != ["user", "assistant"] * (len(log) // 2):
                amiss.append(f"{agent} {session} has {[each.role for each in log][:6]}…, not turns")
    return amiss


async def run(folder: Path, seconds: float, clients: int, agents: int, concurrency: int) -> tuple[dict[str, Any], bool]:
    """Hold both talks, compare, and say whether all is well."""
    with DeltaMem.open("tiny", url=f"sqlite:///{folder}/direct.db", embedder=False) as mem:
        own = await directly(mem, min(clients, concurrency), agents, time.monotonic() + max(seconds / 10, 5))
    url = f"sqlite:///{folder}/served.db"
    options = ("--backbone", "tiny", "--embedder", "none", "--rate", "0", "--concurrency", str(concurrency))
    with served(url, *options) as server:
        until = time.monotonic() + seconds
        talk, memory = await asyncio.gather(over_http(server, clients, agents, until), watched(server, until))
    amiss = compared(url, talk)
    warm = memory[int(WARM * len(memory))]
    figures = {
        "turns": talk.statuses[200],
        "answered": round(talk.statuses[200] / max(sum(talk.statuses.values()), 1), 4),
        "statuses": dict(talk.statuses),
        "p95 seconds": round(float(np.quantile(talk.seconds, 0.95)), 3),
        "p95 seconds without HTTP": round(float(np.quantile(own.seconds, 0.95)), 3),
        "growth of memory": round(max(memory[-5:]) / warm - 1, 4),
        "amiss": amiss[:20],
    }
    well = (
        not amiss
        and set(talk.statuses) <= {200, 429}
        and figures["p95 seconds"] <= SLOWER * figures["p95 seconds without HTTP"]
        and (seconds < 120 or (figures["answered"] >= ANSWERED and figures["growth of memory"] <= GROWTH))
    )
    return figures, well


def main() -> int:
    """Run, print the figures as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--agents", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=256)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, well = asyncio.run(run(Path(folder), asked.seconds, asked.clients, asked.agents, asked.concurrency))
    print(json.dumps(figures, indent=2))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
