"""Agents and chat engines of LlamaIndex, each with a memory of its own; a program, run after another on one database.

    llama_index_two_runs.py URL TEXT SESSION       says TEXT to each of them, in a session

It prints a line of JSON: by agent, the reply and the prompts that reached the model. `KINDS` serves the tests, too.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.chat_engine import ContextChatEngine, SimpleChatEngine

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemLLM, DeltaMemory, DeltaMemRetriever

MANUAL = "A favourite colour and a locker code are asked for at the desk."
HANDS_OFF = '<tool_call>{"name": "handoff", "arguments": {"to_agent": "keeper", "reason": "I only greet"}}</tool_call>'
HEARD = "What I was told is above."
# What the bundled model cannot do, said for it: hand over to another agent, think in ReAct's form.
SCRIPTS = {"workflow": [HANDS_OFF, HEARD], "react": [f"Thought: I need no tool.\nAnswer: {HEARD}"]}


def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


def llm(mem: DeltaMem, agent: str) -> DeltaMemLLM:
    return DeltaMemLLM(mem, agent, max_tokens=12)


async def function(mem: DeltaMem, text: str, memory: DeltaMemory) -> str:
    return str(await FunctionAgent(llm=llm(mem, memory.agent_id)).run(text, memory=memory))


async def react(mem: DeltaMem, text: str, memory: DeltaMemory) -> str:
    return str(await ReActAgent(llm=llm(mem, memory.agent_id), tools=[look_up]).run(text, memory=memory))


async def workflow(mem: DeltaMem, text: str, memory: DeltaMemory) -> str:
    model = llm(mem, memory.agent_id)
    greeter = FunctionAgent(name="greeter", description="Greets.", llm=model, can_handoff_to=["keeper"])
    keeper = FunctionAgent(name="keeper", description="Knows things.", llm=model, system_prompt="You keep things.")
    return str(await AgentWorkflow([greeter, keeper], root_agent="greeter").run(text, memory=memory))


async def simple(mem: DeltaMem, text: str, memory: DeltaMemory) -> str:
    engine = SimpleChatEngine.from_defaults(llm=llm(mem, memory.agent_id), memory=memory)
    return str(await asyncio.to_thread(engine.chat, text))


async def context(mem: DeltaMem, text: str, memory: DeltaMemory) -> str:
    manual = DeltaMemRetriever(mem, "manual")
    return str(await ContextChatEngine.from_defaults(manual, llm=llm(mem, memory.agent_id), memory=memory).achat(text))


Kind = Callable[[DeltaMem, str, DeltaMemory], Awaitable[str]]
KINDS: dict[str, Kind] = {each.__name__: each for each in (function, react, workflow, simple, context)}


class Backbone:
    """Notes what the engine is given, and puts words in its mouth where there are any."""

    def __init__(self, mem: DeltaMem) -> None:
        self.prompts: list[str] = []
        self.words: list[str] = []
        generate = mem.engine.generate

        def watched(prompt: Any, *args: Any, on_text: Callable[[str], None] | None = None, **kwargs: Any) -> Any:
            self.prompts.append(str(mem.engine.tokenizer.decode(prompt)))
            if not self.words:
                return generate(prompt, *args, on_text=on_text, **kwargs)
            words, done = self.words.pop(0), Future[Any]()
            done.set_result(replace(generate(prompt, *args, **kwargs).result(), text=words))
            if on_text is not None:
                on_text(words)
            return done

        mem.engine.generate = watched  # type: ignore[method-assign]


async def say(url: str, text: str, session: str) -> dict[str, dict[str, Any]]:
    done = {}
    with DeltaMem.open("tiny", url=url, embedder=False) as mem:
        backbone = Backbone(mem)
        mem.agent("manual").write([{"role": "user", "content": MANUAL, "id": "desk"}])
        for kind, run in KINDS.items():
            backbone.words = list(SCRIPTS.get(kind, []))
            memory = DeltaMemory.from_defaults(mem, kind, session_id=session, token_limit=1000)
            reply = await run(mem, text, memory)
            done[kind] = {"reply": reply, "prompts": list(backbone.prompts)}
            backbone.prompts.clear()
    return done


if __name__ == "__main__":
    print(json.dumps(asyncio.run(say(*sys.argv[1:]))))
