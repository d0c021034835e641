"""Commands about agents' journals and time travel: log, agents, fork, rollback, diff, rebuild, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import (
    DEFAULT_AGENT,
    Agent,
    AgentArgument,
    Json,
    Location,
    Model,
    OneSession,
    grouped,
    opened,
    opened_store,
)
from deltamem_agents.cli.remedies import check_known, note_unknown, spelled

TOLERANCE = 1e-4  # relative; comes of how text was cut into forwards


@app.command()
@grouped
def log(
    *,
    agent: Agent = DEFAULT_AGENT,
    session: OneSession = None,
    at: Annotated[
        int | None, typer.Option("--at", help="The journal as it was when it ended at this position.")
    ] = None,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show an agent's journal: the messages it remembers, in order."""
    with opened_store(where) as store:
        entries = store.log(agent, session, at)
        if not entries:
            note_unknown(store, agent, session)
    if json:
        terminal.print_json([terminal.entry_json(entry) for entry in entries])
    else:
        terminal.show_log(entries)


@app.command()
@grouped
def agents(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """List the agents of a database."""
    with opened_store(where) as store:
        found = store.agents()
    if json:
        terminal.print_json([terminal.agent_json(each) for each in found])
    else:
        terminal.show_agents(found)


@app.command()
@grouped
def fork(
    *,
    agent: AgentArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new agent; it must not exist yet.")],
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Create another agent with the same journal and states."""
    with opened_store(where) as store:
        check_known(store, agent)
        store.fork(agent, new)
        made = store.agent(new)
    if json and made is not None:
        terminal.print_json(terminal.agent_json(made))
    elif made is not None:
        terminal.say(f"agent {new!r} has the {terminal.counted(made.messages, 'message')} of agent {agent!r}")


@app.command()
@grouped
def rollback(
    *,
    agent: AgentArgument,
    position: Annotated[
        int, typer.Argument(metavar="POSITION", help="Position, as 'deltamem log' shows it; 0 is the empty journal.")
    ],
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a journal from an earlier position. Nothing is erased, and this can be undone."""
    with opened_store(where) as store:
        check_known(store, agent)
        before = store.agent(agent)
        entry = store.rollback(agent, position)
        live = len(store.live(agent))
    if json:
        terminal.print_json({"agent": agent, "position": entry, "messages": live})
    elif before is not None and entry == before.position:
        terminal.say(f"nothing to do: agent {agent!r} is already at position {position}")
    else:
        terminal.say(
            f"agent {agent!r} is now at position {position}, with {terminal.counted(live, 'message')}; "
            f"'deltamem rollback {terminal.shell_word(agent)} {entry - 1}' undoes this"
        )


@app.command()
@grouped
def diff(
    *,
    agent: AgentArgument,
    a: Annotated[int, typer.Argument(metavar="A", help="A position of the journal.")],
    b: Annotated[
        int | None, typer.Argument(metavar="[B]", help="Another position; by default the journal's end.")
    ] = None,
    where: Location,
    json: Json = False,
    model: Model,
    debug: Debug = False,
) -> None:
    """What happened between two positions: messages that came and went, and how far each layer's state moved."""
    with opened(where, model) as mem:
        check_known(mem.store, agent)
        with terminal.progress("Folding the journal"):
            found = mem.agent(agent).diff(a, b)
    if json:
        terminal.print_json(
            {
                "added": [terminal.entry_json(each) for each in found.added],
                "removed": [terminal.entry_json(each) for each in found.removed],
                "layers": found.layers,
            }
        )
        return
    for what, entries in (("added", found.added), ("removed", found.removed)):
        terminal.say(f"{terminal.counted(len(entries), 'message')} {what}")
        if entries:
            terminal.show_log(entries)
    terminal.show_distances(found.layers, "moved by")


@app.command()
@grouped
def rebuild(
    *,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Whose state.")],
    where: Location,
    json: Json = False,
    model: Model,
    debug: Debug = False,
) -> None:
    """Fold an agent's journal again, such as when a stored state is damaged."""
    with opened(where, model) as mem:
        memory = mem.agent(agent)
        check_known(mem.store, agent)
        kept = "all messages are unchanged; what was not folded is folded at the next use"
        with terminal.progress("Folding the journal"), interruptible(kept):
            memory.rebuild()
        if json:
            terminal.print_json({"agent": agent, "messages": len(memory.log())})
        else:
            terminal.say(
                f"the state of agent {agent!r} was folded again from {terminal.counted(len(memory.log()), 'message')}"
            )


@app.command()
@grouped
def verify(
    *,
    agent: AgentArgument,
    where: Location,
    json: Json = False,
    model: Model,
    debug: Debug = False,
) -> None:
    """Fold a journal again and compare with the state in use; exit code 1 if they differ by more than 1e-4."""
    with opened(where, model) as mem:
        check_known(mem.store, agent)
        with terminal.progress("Folding the journal"):
            found = mem.agent(agent).verify()
    good = found.worst <= TOLERANCE
    if json:
        terminal.print_json({"agent": agent, "position": found.position, "layers": found.layers, "good": good})
    else:
        terminal.show_distances(found.layers, "drift")
        terminal.say(
            f"the state of agent {agent!r} matches its journal, up to {found.worst:.1e}"
            if good
            else f"the state of agent {agent!r} does not match its journal: fold it again with "
            f"'deltamem rebuild {terminal.shell_word(agent)}'"
        )
    if not good:
        raise typer.Exit(1)


@app.command()
@grouped
def health(
    *,
    agent: AgentArgument,
    examine: Annotated[
        bool, typer.Option("--examine", help="Fold the journal again for the figures that need it, and for the drift.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the state as a heat map: FILE.png or FILE.svg.")
    ] = None,
    where: Location,
    json: Json = False,
    model: Model,
    debug: Debug = False,
) -> None:
    """How full an agent's state is, how well each layer holds what was written, and what needs attention."""
    from deltamem_agents.memory.heat_map import check_heat_map, save_heat_map

    if plot is not None:
        check_heat_map(plot)
    with opened(where, model) as mem:
        check_known(mem.store, agent)
        with terminal.progress("Examining the state"):
            found = mem.agent(agent).health(examine=examine)
        if plot is not None:
            save_heat_map(found.state, plot)
    if json:
        terminal.print_json({"agent": agent} | found.as_dict())
        return
    terminal.show_health(found)
    for warning in found.warnings:
        terminal.say(f"note: {spelled(warning)}", err=True)
