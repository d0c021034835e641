"""Commands that write and ask: write, recall, chat."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible, told
from deltamem_agents.cli.conversation import spoken, text_of_stdin
from deltamem_agents.cli.options import (
    DEFAULT_AGENT,
    Agent,
    Embedder,
    Json,
    K,
    Location,
    Model,
    ModeOption,
    OneSession,
    Session,
    Since,
    Until,
    grouped,
    opened,
)
from deltamem_agents.cli.remedies import note_unknown, spelled
from deltamem_agents.errors import DeltaMemError, InvalidMessageError

if TYPE_CHECKING:
    from deltamem_agents.memory import AgentMemory, DeltaMem, RecallOptions, Reply


@app.command()
@grouped
def write(
    *,
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT…", help="Messages; '-' reads them from stdin, one per line.")
    ],
    agent: Agent = DEFAULT_AGENT,
    session: Session = "default",
    role: Annotated[str, typer.Option("--role", help="user, assistant, system or tool.")] = "user",
    where: Location,
    json: Json = False,
    model: Model,
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Journal messages and fold them into an agent's state."""
    from deltamem_agents.store import check_id, check_messages

    messages = [{"role": role, "content": each} for each in _texts(text)]
    check_id(agent)
    check_id(session, "session")
    check_messages(messages)  # before a model is loaded or a database made
    with (
        interruptible("nothing was written"),
        opened(where, model, embedder, make=True) as mem,
    ):
        memory = mem.agent(agent)
        folding = f"Folding {terminal.counted(len(messages), 'message')}"
        with terminal.progress(folding), interruptible(_journalled_since(memory)):
            ids = memory.write(messages, session)
        _tell_of_failures(mem)
        if json:
            terminal.print_json({"agent": agent, "session": session, "ids": ids})
        else:
            terminal.say(f"{terminal.counted(len(ids), 'message')} written to agent {agent!r}, session {session!r}")


@app.command()
@grouped
def recall(
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, or any text to search for.")],
    agent: Agent = DEFAULT_AGENT,
    mode: ModeOption = "hybrid",
    k: K = 5,
    session: OneSession = None,
    since: Since = None,
    until: Until = None,
    budget: Annotated[
        int | None, typer.Option("--budget", help="At most this many tokens of records.", show_default="no limit")
    ] = None,
    handover: Annotated[
        str,
        typer.Option("--handover", help="Records as text (context), written into a scratch state (preload), or both."),
    ] = "context",
    where: Location,
    json: Json = False,
    model: Model,
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Show what an agent's memory holds for a query."""
    from deltamem_agents.memory.options import RecallOptions
    from deltamem_agents.store import check_id

    check_id(agent)
    options = RecallOptions(mode=mode, k=k, budget=budget, handover=handover, since=since, until=until)
    with opened(where, model, embedder) as mem:
        with terminal.progress("Recalling"):
            found = mem.agent(agent).recall(query, session=session, options=options)
        if not found.records and not found.left_out:
            note_unknown(mem.store, agent, session)
        found = replace(found, notes=tuple(map(spelled, found.notes)))
        if json:
            terminal.print_json(terminal.recall_json(found))
        else:
            terminal.show_recall(found)


@app.command()
@grouped
def chat(
    *,
    message: Annotated[
        str | None, typer.Argument(metavar="[MESSAGE]", help="One message; without it, a conversation.")
    ] = None,
    agent: Agent = DEFAULT_AGENT,
    session: Session = "default",
    mode: ModeOption = "hybrid",
    k: K = 5,
    where: Location,
    json: Json = False,
    model: Model,
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Chat with the backbone using an agent's memory; the conversation is remembered."""
    from deltamem_agents.memory.options import RecallOptions
    from deltamem_agents.store import check_id, check_messages

    if json and message is None:
        raise typer.BadParameter("give a message with --json", param_hint="MESSAGE")
    check_id(agent)
    check_id(session, "session")
    options = RecallOptions(mode=mode, k=k)
    if message is not None:
        check_messages([{"role": "user", "content": message}])
    with opened(where, model, embedder, make=True) as mem:
        memory = mem.agent(agent)
        if message is None:
            _converse(memory, session, options)
        elif json:
            with terminal.progress("Answering"), interruptible(_journalled_since(memory)):
                terminal.print_json(_reply_json(memory.chat([_said(message)], session, options=options)))
        else:
            _answer(memory, message, session, options)
        _tell_of_failures(mem)


def _converse(memory: AgentMemory, session: str, options: RecallOptions) -> None:
    """Run turns until the user ends the conversation; without a terminal, the first error ends it."""
    with interruptible("every turn that was answered is journalled"):
        for each in spoken():
            try:
                _answer(memory, each, session, options)
            except DeltaMemError as error:
                if not terminal.can_ask():
                    raise
                terminal.say(f"error: {told(error)}", err=True)


def _answer(memory: AgentMemory, message: str, session: str, options: RecallOptions) -> None:
    """One turn: the reply as it comes, and whether it was cut off."""
    with interruptible(_journalled_since(memory)):
        reply = _shown(memory.chat_stream([_said(message)], session, options=options))
    terminal.say()
    if reply is not None and not reply.finished:
        tokens = terminal.counted(reply.usage.answer_tokens, "token")
        terminal.say(f"note: the reply was cut off after {tokens}, and is journalled as it is", err=True)


def _shown(pieces: Generator[str, None, Reply | None]) -> Reply | None:
    """Print a reply as it comes."""
    try:
        with terminal.progress("Recalling"):
            first = next(pieces)
        terminal.say(first, end="")
        while True:
            terminal.say(next(pieces), end="")
    except StopIteration as end:
        return cast("Reply | None", end.value)


def _said(message: str) -> dict[str, Any]:
    return {"role": "user", "content": message}


def _reply_json(reply: Reply) -> dict[str, Any]:
    return {
        "text": reply.text,
        "recall": terminal.recall_json(replace(reply.recall, notes=tuple(map(spelled, reply.recall.notes)))),
        "usage": reply.usage.as_dict(),
        "finished": reply.finished,
    }


def _journalled_since(memory: AgentMemory) -> Callable[[], str]:
    """Say what was journalled before an interrupt, so that a user knows whether to write it again."""
    before = memory.health().position

    def told() -> str:
        new = memory.health().position - before
        log = f"'deltamem log --agent {terminal.shell_word(memory.id)}' shows {'it' if new == 1 else 'them'}"
        if not new:
            return "nothing was journalled"
        return f"{terminal.counted(new, 'message')} of this turn {'was' if new == 1 else 'were'} journalled; {log}"

    return told


def _tell_of_failures(mem: DeltaMem) -> None:
    """Warn on stderr that something failed; the messages are journalled all the same."""
    for kind in ("folding", "embedding"):
        failed = mem.runtime.failures.stats(kind)
        if failed.agents:
            why = spelled(failed.last or "")
            terminal.say(terminal.printable(f"note: {kind} failed, the next recall tries again: {why}"), err=True)


def _texts(given: list[str]) -> list[str]:
    texts: list[str] = []
    for each in given:
        texts += [line for line in text_of_stdin().splitlines() if line.strip()] if each == "-" else [each]
    if not texts:
        raise InvalidMessageError("standard input holds no message; give one per line")
    return texts
