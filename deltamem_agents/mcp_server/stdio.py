"""The server over stdio, for the one client that started the process."""

from __future__ import annotations

from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer


def serve(server: MCPServer[Any]) -> None:
    """Serve until the client closes its end, or dies."""
    try:
        server.run("stdio")
    except ExceptionGroup as group:
        # A message that is under way between the SDK's tasks when they end is no failure: nobody waits for its answer.
        if group.split((anyio.BrokenResourceError, anyio.ClosedResourceError))[1] is not None:
            raise
