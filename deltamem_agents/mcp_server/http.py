"""The server over streamable HTTP, on the loopback interface alone, for clients that have a token."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

from deltamem_agents.errors import ConfigError

HOST = "127.0.0.1"
PATH = "/mcp"
LARGEST_BODY = 1024 * 1024  # bytes; the longest text of a tool is 20,000 characters
SESSIONS = 1_000  # conversations of clients that speak a protocol before 2026-07-28
LINGER = 2  # seconds that open streams get when the server ends


def listen(port: int) -> socket.socket:
    """A socket on the loopback interface; port 0 takes any that is free.

    Raises:
        ConfigError: The port is taken or not allowed.
    """
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # see `serving.server.listen`
        opened.bind((HOST, port))
        opened.listen(128)
    except (OSError, OverflowError) as error:
        opened.close()
        raise ConfigError(f"port {port} of {HOST} cannot be used: {error}; give another one, or 0 for any") from None
    return opened


def address_of(listening: socket.socket) -> str:
    """The server's URL, without the path."""
    return f"http://{HOST}:{listening.getsockname()[1]}"


def allowed(port: int) -> TransportSecuritySettings:
    """What ``Host``, and ``Origin`` where there is one, must be: this server itself.

    A page of any site can send requests to a loopback port by a name that it points there; both headers tell.
    """
    hosts = [f"{name}:{port}" for name in (HOST, "localhost")]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{each}" for each in hosts])


def serve(server: MCPServer[Any], listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        started: Called once clients can connect.
    """
    app = server.streamable_http_app(
        streamable_http_path=PATH,
        max_request_body_size=LARGEST_BODY,
        max_sessions=SESSIONS,
        transport_security=allowed(listening.getsockname()[1]),
        host=HOST,
    )
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=LINGER, server_header=False
    )
    _Announcing(config, started).run(sockets=[listening])


class _Announcing(uvicorn.Server):
    """A server that says when it is ready."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()
