"""The entries that docs/mcp.md has for each client: in that client's format, and each starts a server."""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters

from tests.mcp_server.servers import COMMAND

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text(encoding="utf-8")
KEYS = {"Claude Code": "mcpServers", "Cursor": "mcpServers", "Gemini CLI": "mcpServers", "VS Code": "servers"} | {
    "Zed": "context_servers",
    "Codex": "mcp_servers",
}
FIELDS = {"type", "command", "args", "env"}


def entries() -> dict[str, dict[str, Any]]:
    """The entry of each client."""
    found = {}
    for name, section in re.findall(r"^\*\*([\w ]+)\*\*: ((?:(?!^\*\*|^## )(?s:.))*)", PAGE, flags=re.MULTILINE):
        blocks = re.findall(r"```(json|toml)\n(.*?)```", section, flags=re.DOTALL)
        for kind, block in blocks:
            whole = json.loads(block) if kind == "json" else tomllib.loads(block)
            assert list(whole) == [KEYS[name]]
            found[name] = whole[KEYS[name]]["deltamem"]
    return found


async def test_each_entry_starts_a_server(tmp_path: Path) -> None:
    found = entries()
    assert found.keys() == KEYS.keys()
    assert all(each.keys() <= FIELDS and each.get("type", "stdio") == "stdio" for each in found.values())
    commands = {(each["command"], *each["args"]) for each in found.values()}
    added = re.findall(r"^(?:claude|codex) mcp add .*-- (.*)$", PAGE, flags=re.MULTILINE)
    assert commands == {tuple(shlex.split(each)) for each in added}
    for command, *arguments in commands:
        env = os.environ | {
            "PATH": f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_DATA_HOME": str(tmp_path / "data"),
        }
        server = StdioServerParameters(command=command, args=arguments, env=env, cwd=tmp_path)
        async with Client(server) as client:
            await client.call_tool("remember", {"text": "We deploy on Fridays."})
            assert (await client.list_tools()).tools
        assert [each.name for each in tmp_path.iterdir()] == ["data"]  # nothing in the folder that is worked in
        assert (tmp_path / "data" / "deltamem" / "memory.db").exists()
        assert (tmp_path / "data" / "deltamem").stat().st_mode & 0o077 == 0
