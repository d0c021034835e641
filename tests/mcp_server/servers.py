"""Servers to connect to: processes that run ``deltamem mcp``, and clients of the official SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

COMMAND = str(Path(sys.executable).with_name("deltamem"))
WORDS = ("--backbone", "none", "--embedder", "none")
HANDSHAKE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}


def over_stdio(url: str, *options: str, agent: str = "alice", mode: str = "auto") -> Client:
    """A client with a server process of its own."""
    arguments = ["mcp", "--url", url, "--agent", agent, *(options or WORDS)]
    return Client(StdioServerParameters(command=COMMAND, args=arguments), mode=mode)


class HttpServer:
    """A server process over HTTP."""

    def __init__(self, url: str, tokens: Path, *options: str, port: int = 0) -> None:
        arguments = ["mcp", "--url", url, "--http", str(port), "--token-file", str(tokens), *(options or WORDS)]
        self.process = subprocess.Popen([COMMAND, *arguments], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        assert said.startswith("serving "), said + self.process.stderr.read()
        self.url = said.split()[1]
        self.port = httpx2.URL(self.url).port

    def client(self, token: str, mode: str = "auto", **headers: str) -> Client:
        """A client that brings a token."""
        http = httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}", **headers}, timeout=60)
        return Client(streamable_http_client(self.url, http_client=http), mode=mode)

    def stop(self) -> None:
        """End it as a service manager does."""
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()


class Lines:
    """A server process over stdio, spoken to line by line, for what a client library does not let one do."""

    def __init__(self, url: str, *options: str) -> None:
        arguments = ["mcp", "--url", url, "--agent", "alice", *(options or WORDS)]
        self.process = subprocess.Popen([COMMAND, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.send({"id": 0, "method": "initialize", "params": HANDSHAKE})
        self.receive()
        self.send({"method": "notifications/initialized"})

    def send(self, message: dict[str, Any]) -> None:
        """Send a JSON-RPC message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message).encode() + b"\n")
        self.process.stdin.flush()

    def call(self, number: int, tool: str, **arguments: Any) -> None:
        """Call a tool; the answer comes later."""
        self.send({"id": number, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})

    def receive(self) -> dict[str, Any]:
        """The next message; empty at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {}

    def end(self) -> int:
        """Close the server's stdin, and its exit code."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        code = self.process.wait(20)
        self.process.stdout.close()
        return code
