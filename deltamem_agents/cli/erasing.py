"""Commands that remove, export and import memories: erase, delete, export, import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import (
    AgentArgument,
    Json,
    Location,
    Model,
    Since,
    Until,
    grouped,
    opened,
    opened_store,
)
from deltamem_agents.cli.remedies import NAMED, check_known, spelled
from deltamem_agents.errors import ConfigError, shown

if TYPE_CHECKING:
    from deltamem_agents.memory import Receipt
    from deltamem_agents.store import Erased

Forks = Annotated[bool, typer.Option("--forks", help="Also from agents that share the messages by forking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be erased.")]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask first; required if standard input is not a terminal.")
]
ONE = "either everything was erased or nothing"


@app.command()
@grouped
def erase(
    *,
    agent: AgentArgument,
    id: Annotated[
        list[str] | None,
        typer.Option(
            "--id", help="ID of a message, in all its versions; repeatable. Add --session if several sessions have it."
        ),
    ] = None,
    session: Annotated[str | None, typer.Option("--session", help="Messages of this conversation.")] = None,
    since: Since = None,
    until: Until = None,
    forks: Forks = False,
    no_tombstone: Annotated[
        bool,
        typer.Option(
            "--no-tombstone",
            help="Keep no keyed hash; a client that resends its history can then bring the messages back.",
        ),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    where: Location,
    json: Json = False,
    model: Model,
    debug: Debug = False,
) -> None:
    """Erase messages that match every filter, and everything derived from them, as if the agent had never seen them.

    Shows what would be erased and asks first; this cannot be undone.
    """
    if not id and session is None and since is None and until is None:
        raise ConfigError(
            f"no filter was given; pass --id, --session, --since or --until, or erase the whole agent with "
            f"'deltamem delete {terminal.shell_word(agent)}'"
        )
    _check_can_ask("erase", yes or dry_run)
    with opened(where, model) as mem:
        check_known(mem.store, agent)
        erase = partial(
            mem.agent(agent).erase,
            ids=id or None,
            session=session,
            since=since,
            until=until,
            forks=forks,
            tombstone=not no_tombstone,
        )
        if not (yes or dry_run):
            _ask(erase(dry_run=True))
        word = terminal.shell_word(agent)
        done = f"{ONE}: 'deltamem log --agent {word}' shows which; if it has, run 'deltamem db purge'"
        with terminal.progress("Erasing"), interruptible(done):
            receipt = erase(dry_run=dry_run)
    _show(receipt, json)
    _end_unmatched(receipt, id or [])


@app.command()
@grouped
def delete(
    *,
    agent: AgentArgument,
    forks: Forks = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    where: Location,
    json: Json = False,
    model: Model,
    debug: Debug = False,
) -> None:
    """Erase a whole agent: its messages, everything derived from them, and the agent itself.

    Shows what would be erased and asks first; this cannot be undone.
    """
    _check_can_ask("delete", yes or dry_run)
    with opened(where, model) as mem:
        check_known(mem.store, agent)
        delete = partial(mem.agent(agent).delete, forks=forks)
        if not (yes or dry_run):
            _ask(delete(dry_run=True), whole=True)
        done = f"{ONE}: 'deltamem agents' shows which; if it has, run 'deltamem db purge'"
        with terminal.progress("Erasing"), interruptible(done):
            receipt = delete(dry_run=dry_run)
    _show(receipt, json, whole=True)


@app.command()
@grouped
def export(
    *,
    agent: AgentArgument,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write an agent's journal, states and embeddings to one file."""
    with opened_store(where) as store:
        check_known(store, agent)
        with terminal.progress("Exporting") as advance, interruptible(f"{path} was not written"):
            messages = store.export(agent, path, advance, overwrite=force)
    if json:
        terminal.print_json({"agent": agent, "path": str(path), "messages": messages})
    else:
        terminal.say(f"{terminal.counted(messages, 'message')} of agent {agent!r} written to {path}")


@app.command("import")
@grouped
def import_(
    *,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="File that 'deltamem export' or another library wrote.")],
    agent: Annotated[
        str | None, typer.Option("--agent", help="Name for the agent; by default that, or those, in the file.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Library that wrote the file: mem0, langmem or llama-index.")
    ] = None,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Create an agent from an exported file; the whole file is checked before anything is stored.

    With --from, journal the memories of another library: whatever the journal holds already is left as it is.
    """
    if source is not None:
        _migrate(path, source, agent, where, json)
        return
    with opened_store(where, make=True) as store:
        done = "the agent was imported completely or not at all: 'deltamem agents' shows which"
        with terminal.progress("Importing") as advance, interruptible(done):
            name = store.import_(path, agent, advance)
        made = store.agent(name)
    if made is None:
        return
    if json:
        terminal.print_json(terminal.agent_json(made))
    else:
        terminal.say(f"agent {name!r} has {terminal.counted(made.messages, 'message')} now")


def _migrate(path: Path, source: str, agent: str | None, where: Location, json: bool) -> None:
    from deltamem_agents.memory.migration import migrate

    with opened_store(where, make=True) as store:
        done = "what was journalled stays; run the command again for the rest"
        with terminal.progress("Importing") as advance, interruptible(done):
            moved = migrate(store, path, source, agent=agent, progress=advance)  # type: ignore[arg-type]
    if json:
        terminal.print_json(asdict(moved))
    else:
        if not (moved.added or moved.rejected):
            terminal.say(f"{path} holds no memories")
        for name, added in moved.added.items():
            terminal.say(f"agent {name!r}: {terminal.counted(added, 'new message')}")
        if moved.known:
            terminal.say(f"{terminal.counted(moved.known, 'message')} known already")
        if moved.erased:
            terminal.say(f"{terminal.counted(moved.erased, 'message')} left out: erased from the agent before")
    for each in moved.rejected[:NAMED]:
        terminal.say(f"warning: row {each.row} of {path} was left out: {each.reason}", err=True)
    if len(moved.rejected) > NAMED:
        terminal.say(f"warning: and {len(moved.rejected) - NAMED} more; --json lists them", err=True)
    if moved.rejected:
        raise typer.Exit(1)


def _check_can_ask(command: str, confirmed: bool) -> None:
    """Refuse to erase what nobody has confirmed, before anything is read."""
    if not confirmed and not terminal.can_ask():
        terminal.say(
            f"error: 'deltamem {command}' cannot be undone, and there is no terminal to ask on; give --yes to go "
            "ahead, or --dry-run to see what would be erased",
            err=True,
        )
        raise typer.Exit(2)


def _ask(plan: Receipt, *, whole: bool = False) -> None:
    """Ask the user to confirm what would be erased; end the command if they do not."""
    if not whole and not any(each.messages for each in plan.erased):
        return  # the receipt says so
    for each in plan.erased:
        terminal.say(_counts(each), err=True)
    gone = f"Delete agent {plan.agent!r} for good?" if whole else "Erase this for good?"
    if not terminal.confirmed(gone):
        terminal.say("nothing was erased", err=True)
        raise typer.Exit(1)


def _end_unmatched(receipt: Receipt, ids: Sequence[str]) -> None:
    """Exit with 1 and name what was not found on stderr: a typo in an id must not look like an erasure."""
    done = "would be" if receipt.status == "dry run" else "was"
    if not any(each.messages or each.tombstones for each in receipt.erased):
        terminal.say(f"note: nothing {done} erased: agent {receipt.agent!r} has no such message", err=True)
        raise typer.Exit(1)
    found = {ref.id for each in receipt.erased for ref in each.ids}
    missing = [shown(each) for each in dict.fromkeys(ids) if each not in found]
    # Of tombstones the receipt has no ids: these may be theirs.
    if len(missing) > sum(each.tombstones for each in receipt.erased):
        named = f"{', '.join(missing[:NAMED])}{' and others' if len(missing) > NAMED else ''}"
        terminal.say(f"note: agent {receipt.agent!r} has no such message: {named}; the others {done} erased", err=True)
        raise typer.Exit(1)


def _counts(each: Erased) -> str:
    return (
        f"agent {each.agent!r}: {terminal.counted(each.messages, 'message')}, "
        f"{terminal.counted(each.records, 'record')}, {terminal.counted(each.embeddings, 'embedding')} and "
        f"{terminal.counted(each.revisions, 'stored state')}"
    )


def _show(receipt: Receipt, json: bool, *, whole: bool = False) -> None:
    note, reason = (each and spelled(each) for each in (receipt.state.note, receipt.reason))
    receipt = replace(receipt, reason=reason, state=replace(receipt.state, note=note))
    if json:
        terminal.print_json(receipt.as_dict())
        return
    dry = receipt.status == "dry run"
    if not whole and not any(each.messages or each.tombstones for each in receipt.erased):
        return  # a note says so
    would = "would be erased" if dry else "erased"
    for each in receipt.erased:
        terminal.say(f"{_counts(each)} {would}")
    for other, ids in receipt.held_by.items():
        terminal.say(f"agent {other!r} also holds {len(ids):,} of these messages; --forks erases them there too")
    for each in receipt.erased:
        if each.tombstones:
            told = terminal.counted(each.tombstones, "message")
            terminal.say(f"agent {each.agent!r}: the keyed hashes of {told} erased earlier {would}")
    for other, ids in receipt.remaining.items():
        terminal.say(
            f"agent {other!r}: a keyed hash of {terminal.counted(len(ids), 'message')} stays, so that a client that "
            "resends its history brings nothing back; --no-tombstone keeps none"
        )
    if receipt.status == "pending":
        terminal.say(f"still in the database's files, {receipt.reason}; 'deltamem db purge' finishes it")
    if not dry:
        terminal.say(f"this command cannot reach: {', '.join(receipt.outside_reach)}")
