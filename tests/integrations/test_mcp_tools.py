"""A LlamaIndex agent that uses `deltamem mcp` as a tool server, by llama-index-tools-mcp."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemLLM
from tests.mcp_server.servers import HttpServer

FACT, QUESTION = "We deploy on Fridays, after the smoke tests.", "When do we deploy?"
CALL = '<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'


@pytest.mark.slow
async def test_an_agent_remembers_and_recalls(mem: DeltaMem, speak: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("secret alice\n")
    server = HttpServer(f"sqlite:///{tmp_path / 'served.db'}", tmp_path / "tokens")
    try:
        client = BasicMCPClient(server.url, headers={"Authorization": "Bearer secret"})
        tools = await McpToolSpec(client=client, allowed_tools=["remember", "recall"]).to_tool_list_async()
        assert sorted(str(each.metadata.name) for each in tools) == ["recall", "remember"]
        agent = FunctionAgent(llm=DeltaMemLLM(mem, "assistant", max_tokens=8), tools=tools)
        speak(mem, CALL.format("remember", json.dumps({"text": FACT})), "Noted.")
        await agent.run(FACT)
        speak(mem, CALL.format("recall", json.dumps({"query": QUESTION})), "On Fridays.")
        done = await agent.run(QUESTION)
        assert [each.tool_name for each in done.tool_calls] == ["recall"]
        assert FACT in str(done.tool_calls[0].tool_output.content)
    finally:
        server.stop()
