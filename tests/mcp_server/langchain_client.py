"""A LangChain agent that uses the server's tools through langchain-mcp-adapters, which speaks the protocol of mcp 1.x.

``make test-mcp-langchain`` runs it in an environment of its own: python langchain_client.py DELTAMEM_COMMAND
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient

FACT, QUESTION = "We deploy on Fridays, after the smoke tests.", "When do we deploy?"


class Caller(FakeMessagesListChatModel):
    """A model that calls the tools it is told to; all else is real."""

    def bind_tools(self, tools: Any, **_: Any) -> Caller:
        return self


def call(number: int, tool: str, **arguments: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"id": str(number), "name": tool, "args": arguments}])


async def main(command: str, folder: Path) -> None:
    (folder / "AGENTS.md").write_text("# Rules\n\n- Run the tests with `make check`.\n")
    arguments = ["mcp", "--url", f"sqlite:///{folder / 'memory.db'}", "--root", str(folder)]
    server = {
        "transport": "stdio",
        "command": command,
        "args": [*arguments, "--backbone", "none", "--embedder", "none"],
    }
    tools = await MultiServerMCPClient({"deltamem": server}).get_tools()
    assert {"remember", "recall", "forget", "memory_log", "guidelines_recall"} <= {each.name for each in tools}
    model = Caller(
        responses=[
            call(1, "remember", text=FACT),
            call(2, "recall", query=QUESTION),
            call(3, "guidelines_recall", query="How do I run the tests?"),
            AIMessage("Done."),
        ]
    )
    done = await create_agent(model, tools).ainvoke({"messages": [("user", QUESTION)]})
    results = [str(each.content) for each in done["messages"] if isinstance(each, ToolMessage)]
    assert len(results) == 3 and FACT in results[1] and "make check" in results[2], results
    print(f"{len(tools)} tools, {len(results)} calls")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(sys.argv[1], Path(made)))
