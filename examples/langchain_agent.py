"""A LangChain agent that remembers from one conversation to the next.

    python examples/langchain_agent.py [--url sqlite:///memory.db]

The chat model here is the memory's own backbone, so that the example needs no key and no network; the middleware serves
any other chat model as well. Run it again with the same ``--url``, and the agent still knows.
"""

import argparse
import tempfile

from langchain.agents import create_agent

from deltamem_agents import DeltaMem
from langchain_deltamem import ChatDeltaMem, DeltaMemMiddleware


def main() -> None:
    """Tell an agent something in one thread, ask for it in another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="SQLAlchemy URL of the database; a temporary one by default")
    url = parser.parse_args().url

    with tempfile.TemporaryDirectory() as folder, DeltaMem.open(url=url or f"sqlite:///{folder}/memory.db") as mem:
        # With tools=True a model that calls tools gets `remember`, `recall` and `forget` besides.
        agent = create_agent(
            ChatDeltaMem(mem=mem, max_tokens=32), middleware=[DeltaMemMiddleware(mem, agent_id="alice")]
        )

        def say(text: str, thread: str) -> None:
            config = {"configurable": {"thread_id": thread}}
            answer = agent.invoke({"messages": [("user", text)]}, config)["messages"][-1]
            print(f"{thread}  you:   {text}\n{thread}  agent: {answer.text}")

        say("My favourite colour is teal.", "monday")
        say("What is my favourite colour?", "tuesday")
        print("recalled:", mem.agent("alice").recall("What is my favourite colour?", generate=False).text)


if __name__ == "__main__":
    main()
