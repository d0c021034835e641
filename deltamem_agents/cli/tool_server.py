"""Command that serves memory to coding agents and other MCP clients: mcp."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app
from deltamem_agents.cli.options import DEFAULT_AGENT, Agent, Embedder, Location, Model, embedder_option, grouped
from deltamem_agents.errors import ConfigError, require_extra

if TYPE_CHECKING:
    from deltamem_agents.mcp_server.memories import Memories
    from deltamem_agents.mcp_server.repositories import Repositories

TOKEN_VARIABLE = "DELTAMEM_TOKEN"


@app.command()
@grouped
def mcp(
    *,
    agent: Agent = DEFAULT_AGENT,
    http: Annotated[
        int | None,
        typer.Option(
            "--http",
            metavar="PORT",
            min=0,
            max=65535,
            help="Serve streamable HTTP on this port of 127.0.0.1, at /mcp, instead of stdio; 0 takes a free one.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with a bearer token a line, and after it the agent it is for, unless that is --agent. Without "
            f"one, {TOKEN_VARIABLE} holds the token.",
        ),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="A folder whose repositories the guideline tools may read; repeatable. By default that of the working "
            "directory.",
        ),
    ] = None,
    token: Annotated[
        str | None, typer.Option("--token", help="The bearer token. Other users of the machine can read it here.")
    ] = None,
    where: Location,
    model: Model,
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Serve memory to coding agents and other clients of the Model Context Protocol.

    Over stdio, unless --http is given. A model or an embedder is loaded when a tool first needs it.
    """
    from deltamem_agents import arguments

    require_extra("mcp", "'deltamem mcp'", "mcp")
    arguments.identifier(agent, "agent")
    memories = _memories(where, model, embedder)
    repositories = _repositories(root or [])
    # What is imported stays, so collecting garbage meanwhile finds none and costs a tenth of the start.
    gc.disable()
    if http is None:
        _over_stdio(memories, agent, repositories)
    else:
        _over_http(memories, agent, repositories, http, token_file, token)


def _memories(where: Location, model: Model, embedder: str | None) -> Memories:
    from deltamem_agents.mcp_server.memories import Memories

    options: dict[str, Any] | None = None if model.backbone == "none" else asdict(model)
    return Memories(asdict(where), options, embedder_option(embedder))


def _repositories(roots: Sequence[Path]) -> Repositories:
    from deltamem_agents.mcp_server.repositories import Repositories

    return Repositories(roots)


def _over_stdio(memories: Memories, agent: str, repositories: Repositories) -> None:
    from deltamem_agents.mcp_server.server import build, serve_stdio

    server = build(memories, agent, repositories)
    _imported()
    _run(lambda: serve_stdio(server))


def _over_http(
    memories: Memories, agent: str, repositories: Repositories, port: int, token_file: Path | None, token: str | None
) -> None:
    from deltamem_agents.mcp_server.tokens import checked, read_tokens

    if token_file is not None:
        agents = read_tokens(token_file, agent)
    elif token is not None:
        terminal.say(
            f"warning: --token shows the token to every user of this machine; use --token-file or {TOKEN_VARIABLE}",
            err=True,
        )
        agents = {token: agent}
    elif os.environ.get(TOKEN_VARIABLE):
        agents = {os.environ[TOKEN_VARIABLE]: agent}
    else:
        raise ConfigError(f"no token was given; over HTTP, set {TOKEN_VARIABLE} or give --token-file")
    checked(agents)
    from deltamem_agents.mcp_server.http import PATH, address_of, listen, serve  # the SDK takes half a second
    from deltamem_agents.mcp_server.server import Tokens, build

    tokens = Tokens(agents)
    with listen(port) as listening:
        address = address_of(listening)
        server = build(memories, agent, repositories, tokens, address)
        _imported()
        _run(lambda: serve(server, listening, lambda: terminal.say(f"serving {address}{PATH}", err=True)))


def _run(work: Callable[[], None]) -> None:
    """Serve, and end the process at once: nothing is left to do, and a thread may still be loading a model for seconds.

    The database is closed by then. Python itself would wait for the thread, and a client kills a server that lingers.
    """
    code = 0
    try:
        work()
    except KeyboardInterrupt:
        code = 130
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _imported() -> None:
    gc.freeze()
    gc.enable()
