"""A LlamaIndex agent that remembers from one conversation to the next.

    python examples/llama_index_agent.py [--url sqlite:///memory.db]

The LLM here is the memory's own backbone, so that the example needs no key and no network; the memory serves any other
LLM as well. Run it again with the same ``--url``, and the agent still knows.
"""

import argparse
import asyncio
import tempfile

from llama_index.core.agent.workflow import FunctionAgent

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemLLM, DeltaMemory


async def talk(mem: DeltaMem) -> None:
    """Tell an agent something in one session, ask for it in another."""
    if known := await mem.agent("alice").alog():
        print(len(known), "messages are remembered from an earlier run")
    agent = FunctionAgent(llm=DeltaMemLLM(mem, "alice", max_tokens=32), tools=[])

    async def say(text: str, session: str) -> None:
        memory = DeltaMemory.from_defaults(mem, "alice", session_id=session, token_limit=2000)
        print(f"{session}  you:   {text}\n{session}  agent: {await agent.run(text, memory=memory)}")

    await say("My favourite colour is teal.", "monday")
    await say("What is my favourite colour?", "tuesday")
    recalled = await mem.agent("alice").arecall("What is my favourite colour?", generate=False)
    print("recalled:", recalled.text)


def main() -> None:
    """Open a database, talk, close it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="SQLAlchemy URL of the database; a temporary one by default")
    url = parser.parse_args().url

    with tempfile.TemporaryDirectory() as folder, DeltaMem.open(url=url or f"sqlite:///{folder}/memory.db") as mem:
        asyncio.run(talk(mem))


if __name__ == "__main__":
    main()
