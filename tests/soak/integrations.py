"""Conversations through the frameworks: every reply is delivered, every user message is in the journal exactly once.

    integrations.py [--turns 500] [--seed N] [--ways …] [--backbone tiny]

One process. The agents' models are fakes that answer by rule, as the memory is what is looked at; an embedder fails a
tenth of the time, a tool gives 100 KB now and then, what was said is edited and erased, and the memory is made anew.
The exit code is 1 where something is amiss. What is done follows from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import re
import statistics
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from by_rule import LOOK, looked_up, reply_to

from deltamem_agents import DeltaMem

FAILS = 10  # one in so many calls of the embedder


class FailingEmbedder:
    """Counts of words by their hash; every tenth call fails."""

    size = 32

    def __init__(self) -> None:
        self.calls = self.failed = 0

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        self.calls += 1
        if self.calls % FAILS == 0:
            self.failed += 1
            raise RuntimeError("the embedder is away")
        return [self._vector(text) for text in texts]

    def _vector(self, text: str) -> list[float]:
        counts = [0.01] * self.size
        for word in re.findall(r"\w+", text.lower()):
            counts[zlib.crc32(word.encode()) % self.size] += 1.0
        length = sum(each * each for each in counts) ** 0.5
        return [each / length for each in counts]


class Way(Protocol):
    """One way to talk through a framework, over one session of one agent."""

    async def say(self, text: str) -> str:
        """The reply to a message."""

    async def edit(self, text: str) -> tuple[str, bool]:
        """The reply to another wording of the newest message, and whether that one leaves the journal."""

    def renew(self) -> None:
        """Go on as another process would."""


# LlamaIndex


class LlamaIndexAgent:
    """`FunctionAgent`, `ReActAgent` or `SimpleChatEngine` with a `DeltaMemory`."""

    def __init__(self, mem: DeltaMem, kind: str) -> None:
        from llama_index_talk import chat_engine, function_agent, react_agent

        self._mem, self._kind = mem, kind
        make: dict[str, Callable[..., Awaitable[str]]]
        make = {"function": function_agent, "react": react_agent, "chat": chat_engine}
        self._run = make[kind]
        self.renew()

    def renew(self) -> None:
        from llama_index_deltamem import DeltaMemory

        self._memory = DeltaMemory.from_defaults(self._mem, self._kind, "s1")

    async def say(self, text: str) -> str:
        return await self._run(self._memory, text)

    async def edit(self, text: str) -> tuple[str, bool]:
        self.renew()  # a client has what is in the journal
        history = await self._memory.aget_all()
        newest = max(place for place, message in enumerate(history) if message.role.value == "user")
        return await self._run(self._memory, text, history[:newest]), False


# LangChain


class LangChainAgent:
    """`create_agent` with `DeltaMemMiddleware`, and a checkpointer."""

    def __init__(self, mem: DeltaMem, kind: str) -> None:
        from langchain_talk import agent
        from langgraph.checkpoint.memory import InMemorySaver

        self._mem, self._kind, self._kept, self._make = mem, kind, InMemorySaver(), agent
        self._newest = ""
        self.renew()

    def renew(self) -> None:
        self._agent = self._make(self._mem, self._kind, self._kept, looked_up)

    async def say(self, text: str, id: str | None = None) -> str:
        from langchain_core.messages import HumanMessage

        config = {"configurable": {"thread_id": "s1"}}
        done = await self._agent.ainvoke({"messages": [HumanMessage(text, id=id)]}, config)
        asked = [message for message in done["messages"] if isinstance(message, HumanMessage)]
        self._newest = str(next(m.id for m in asked if m.text == text))
        return str(done["messages"][-1].text)

    async def edit(self, text: str) -> tuple[str, bool]:
        from langchain_core.messages import HumanMessage, RemoveMessage

        config = {"configurable": {"thread_id": "s1"}}
        said = (await self._agent.aget_state(config)).values["messages"]
        place = next(place for place, message in enumerate(said) if message.id == self._newest)
        gone = [RemoveMessage(id=message.id) for message in said[place + 1 :]]
        new = HumanMessage(text, id=self._newest)
        done = await self._agent.ainvoke({"messages": [*gone, new]}, config)
        return str(done["messages"][-1].text), True


class LangChainHistory:
    """`RunnableWithMessageHistory` over a `DeltaMemChatMessageHistory`."""

    def __init__(self, mem: DeltaMem, kind: str) -> None:
        self._mem, self._kind = mem, kind
        self.renew()

    def renew(self) -> None:
        from langchain_talk import chain

        self._chain = chain(self._mem, self._kind)

    async def say(self, text: str) -> str:
        from langchain_core.messages import HumanMessage

        done = await self._chain.ainvoke([HumanMessage(text)], {"configurable": {"session_id": "s1"}})
        return str(done.text)

    async def edit(self, text: str) -> tuple[str, bool]:
        return await self.say(text), False


WAYS: dict[str, Callable[[DeltaMem, str], Way]] = {
    "function": LlamaIndexAgent,
    "react": LlamaIndexAgent,
    "chat": LlamaIndexAgent,
    "agent": LangChainAgent,
    "history": LangChainHistory,
}


@dataclass
class Talk:
    """What came of a conversation.

    Args:
        said: Each of the user's messages that must be in the journal.
        gone: Each that must not: it was erased, or replaced by an edit.
        amiss: What is not as it has to be.
    """

    said: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    amiss: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


async def talk(mem: DeltaMem, kind: str, turns: int, seed: int) -> Talk:
    """Talk for so many turns, and compare the journal with what was said."""
    choose, way, found = random.Random(f"{seed}/{kind}"), WAYS[kind](mem, kind), Talk()
    for number in range(turns):
        text = f"Turn {number} of {kind}: my box {choose.randrange(10**6)} is on shelf {choose.randrange(100)}."
        if number % 10 == 3:
            text += f" Now {LOOK}."
        await _turn(way, text, found, edit=number % 9 == 8)
        if number % 5 == 4:
            way.renew()
        if number % 7 == 6:
            await _erase(mem, kind, choose, found)
    _compare(mem, kind, found)
    return found


async def _turn(way: Way, text: str, found: Talk, *, edit: bool) -> None:
    begun = time.perf_counter()
    try:
        replies = [(text, await way.say(text))]
        if edit:
            other = f"{text} That is what I meant."
            reply, replaced = await way.edit(other)
            replies.append((other, reply))
            found.gone += [text] * replaced
    except Exception as error:
        found.amiss.append(f"no reply to {text!r}: {type(error).__name__}: {error}")
        return
    found.seconds.append(time.perf_counter() - begun)
    found.said += [said for said, _ in replies if said not in found.gone]
    found.amiss += [f"{said!r} was answered by {reply[:80]!r}" for said, reply in replies if reply != reply_to(said)]


async def _erase(mem: DeltaMem, kind: str, choose: random.Random, found: Talk) -> None:
    """Erase something that was said, but not what an edit may be of."""
    text = choose.choice(found.said[:-1])
    entry = next((each for each in await mem.agent(kind).alog() if each.text == text), None)
    if entry is None:
        found.amiss.append(f"not in the journal: {text!r}")
        return
    await mem.agent(kind).aerase(ids=[entry.id], session=entry.session)
    found.said.remove(text)
    found.gone.append(text)


def _compare(mem: DeltaMem, kind: str, found: Talk) -> None:
    users = [entry.text for entry in mem.agent(kind).log() if entry.role == "user"]
    for text in found.said:
        if users.count(text) != 1:
            found.amiss.append(f"{users.count(text)} times in the journal: {text!r}")
    found.amiss += [f"in the journal again: {text!r}" for text in found.gone if text in users]
    known = {*found.said, *found.gone}
    found.amiss += [f"said by nobody: {text[:80]!r}" for text in users if text not in known]


def main() -> int:
    """1 where something is amiss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--backbone", choices=["tiny"], help="by default none: the agents' models are others")
    given, amiss = parser.parse_args(), 0
    import langchain_core  # noqa: F401  # sets filters of its own

    warnings.filterwarnings("ignore", "RunnableWithMessageHistory is deprecated")
    logging.getLogger("deltamem_agents").setLevel(logging.ERROR)  # each failure of the embedder
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.ways:
            embedder = FailingEmbedder()
            url = f"sqlite:///{folder}/{kind}.db"
            with DeltaMem.open(given.backbone, url=url, embedder=embedder.embed) as mem:
                found = asyncio.run(talk(mem, kind, given.turns, given.seed))
                entries = len(mem.agent(kind).log())
            seconds = sorted(found.seconds) or [0.0]
            print(
                f"{kind}: {given.turns} turns, {len(found.said)} messages kept, {len(found.gone)} gone, {entries} "
                f"entries, embedder failed {embedder.failed} of {embedder.calls} times; a turn took "
                f"{statistics.median(seconds):.3f} s, at most {seconds[-1]:.3f} s; {len(found.amiss)} amiss",
                flush=True,
            )
            for each in found.amiss[:20]:
                print(f"  {each}")
            amiss += len(found.amiss)
    return 1 if amiss else 0


if __name__ == "__main__":
    sys.exit(main())
