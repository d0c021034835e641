"""Commands that write and ask: write, recall, chat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app
from deltamem_agents.cli.options import (
    DEFAULT_AGENT,
    DEFAULT_URL,
    Adapter,
    Agent,
    Backbone,
    Device,
    Dtype,
    Embedder,
    Json,
    K,
    ModeOption,
    OneSession,
    Schema,
    Session,
    Since,
    Until,
    Url,
    opened,
)
from deltamem_agents.errors import ConfigError, InvalidMessageError

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem


@app.command()
def write(
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT…", help="Messages; '-' reads them from stdin, one a line.")
    ],
    agent: Agent = DEFAULT_AGENT,
    session: Session = "default",
    role: Annotated[str, typer.Option("--role", help="user, assistant, system or tool.")] = "user",
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Journal messages and fold them into an agent's state."""
    from deltamem_agents.store import check_id, check_messages

    messages = [{"role": role, "content": each} for each in _texts(text)]
    check_id(agent)
    check_id(session, "session")
    check_messages(messages)  # before a model is loaded or a database made
    with opened(url, schema, backbone, adapter, device, dtype, embedder, make=True) as mem:
        with terminal.progress(f"Folding {terminal.counted(len(messages), 'message')}"):
            ids = mem.agent(agent).write(messages, session)
        _tell_of_failures(mem)
        if json:
            terminal.print_json({"agent": agent, "session": session, "ids": ids})
        else:
            typer.echo(f"{terminal.counted(len(ids), 'message')} written to agent {agent!r}, session {session!r}")


@app.command()
def recall(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, or any text to find what belongs to it.")],
    agent: Agent = DEFAULT_AGENT,
    mode: ModeOption = "hybrid",
    k: K = 5,
    session: OneSession = None,
    since: Since = None,
    until: Until = None,
    budget: Annotated[
        int | None, typer.Option("--budget", help="Tokens that the records may have.", show_default="no limit")
    ] = None,
    handover: Annotated[
        str,
        typer.Option("--handover", help="Records as text (context), written into a scratch state (preload), or both."),
    ] = "context",
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """What an agent's memory has to say to a query."""
    _check_recall(agent, mode, k)
    _check_handover(handover, budget)
    within: dict[str, Any] = {"session": session, "since": since, "until": until, "budget": budget}
    with opened(url, schema, backbone, adapter, device, dtype, embedder) as mem:
        with terminal.progress("Recalling"):
            found = mem.agent(agent).recall(query, mode=mode, k=k, handover=handover, **within)
        if json:
            terminal.print_json(terminal.recall_json(found))
        else:
            terminal.show_recall(found)


@app.command()
def chat(
    message: Annotated[
        str | None, typer.Argument(metavar="[MESSAGE]", help="One message; without it, a conversation.")
    ] = None,
    agent: Agent = DEFAULT_AGENT,
    session: Session = "default",
    mode: ModeOption = "hybrid",
    k: K = 5,
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Talk with the backbone under an agent's memory; what is said is remembered."""
    from deltamem_agents.store import check_id, check_messages

    if json and message is None:
        raise typer.BadParameter("give a message with --json", param_hint="MESSAGE")
    _check_recall(agent, mode, k)
    check_id(session, "session")
    if message is not None:
        check_messages([{"role": "user", "content": message}])
    with opened(url, schema, backbone, adapter, device, dtype, embedder, make=True) as mem:
        memory = mem.agent(agent)
        for each in spoken() if message is None else [message]:
            turn = [{"role": "user", "content": each}]
            if json:
                with terminal.progress("Answering"):
                    reply = memory.chat(turn, session, mode=mode, k=k)
                terminal.print_json(
                    {
                        "text": reply.text,
                        "recall": terminal.recall_json(reply.recall),
                        "usage": reply.usage.as_dict(),
                        "finished": reply.finished,
                    }
                )
            else:
                pieces = memory.chat_stream(turn, session, mode=mode, k=k)
                with terminal.progress("Recalling"):
                    first = next(pieces, "")
                for piece in chain([first], pieces):
                    typer.echo(terminal.printable(piece), nl=False)
                typer.echo()


def _tell_of_failures(mem: DeltaMem) -> None:
    """On stderr: the messages are journalled all the same."""
    for kind in ("folding", "embedding"):
        failed = mem.failures.stats(kind)
        if failed.agents:
            told = terminal.printable(f"note: {kind} failed, the next recall tries again: {failed.last}")
            typer.echo(told, err=True)


def _check_handover(handover: str, budget: int | None) -> None:
    """Before a model is loaded."""
    from deltamem_agents.memory.results import check_handover
    from deltamem_agents.recall.prompt import check_budget

    check_handover(handover)
    if budget is not None:
        check_budget(budget)


def _check_recall(agent: str, mode: str, k: int) -> None:
    """Refuse what a recall would refuse, before a model is loaded or a database made."""
    from deltamem_agents.store import check_id

    check_id(agent)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for 1 record or more")
    from deltamem_agents.memory.results import check_mode

    check_mode(mode)


def _texts(given: list[str]) -> list[str]:
    texts: list[str] = []
    for each in given:
        texts += [line for line in sys.stdin.read().splitlines() if line.strip()] if each == "-" else [each]
    if not texts:
        raise InvalidMessageError("standard input holds no message; give one a line")
    return texts


def spoken() -> Iterator[str]:
    """What a person types, line by line, until the end of input or "/exit"."""
    asked = "you> " if sys.stdin.isatty() else ""
    if asked:
        typer.echo("Say something; /exit or Ctrl-D ends.", err=True)
    while True:
        try:
            line = input(asked).strip()
        except EOFError:
            return
        if line == "/exit":
            return
        if line:
            yield line
