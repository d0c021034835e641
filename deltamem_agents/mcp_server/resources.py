"""Resources: an agent's journal, whole and by session, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mcp.server.mcpserver import MCPServer, ResourceSecurity
from mcp.server.mcpserver.exceptions import ResourceNotFoundError

from deltamem_agents.mcp_server.fields import ENTRIES, NAME
from deltamem_agents.mcp_server.memories import Memories
from deltamem_agents.mcp_server.memory_tools import page

JOURNAL = "deltamem://journal"
JSON = "application/json"

# A session's name is no path: it may hold dots and slashes, and nothing is opened by it.
NO_PATH = ResourceSecurity(exempt_params={"session"})


class MemoryResources:
    """The resources of memory; see `MemoryTools` for the arguments."""

    def __init__(self, memories: Memories, agent: Callable[[], str]) -> None:
        self._memories = memories
        self._agent = agent

    def add_to(self, server: MCPServer[Any]) -> None:
        """Register the resources."""
        server.resource(
            JOURNAL,
            name="journal",
            title="Journal",
            description=f"The newest {ENTRIES} messages that are remembered.",
            mime_type=JSON,
        )(self.journal)
        server.resource(
            f"{JOURNAL}/{{session}}",
            name="session",
            title="Journal of a session",
            description=f"The newest {ENTRIES} messages of one session.",
            mime_type=JSON,
            security=NO_PATH,
        )(self.session)

    async def journal(self) -> str:
        """The newest messages."""
        return await self._page(None)

    async def session(self, session: str) -> str:
        """The newest messages of a session."""
        if not 0 < len(session) <= NAME:
            raise ResourceNotFoundError(f"a session's name has 1 to {NAME} characters, this one has {len(session)}")
        return await self._page(session)

    async def _page(self, session: str | None) -> str:
        memory = (await self._memories.ready()).agent(self._agent())
        return page(await memory.alog(session), ENTRIES).model_dump_json()
