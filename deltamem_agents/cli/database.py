"""Commands about a database's tables, files and embeddings: db current, upgrade, check, repair, purge; reindex."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import (
    Embedder,
    Json,
    Location,
    embedder_option,
    grouped,
    opened_store,
    require_database,
)
from deltamem_agents.cli.remedies import check_known

if TYPE_CHECKING:
    from deltamem_agents.store.database import Database


db = typer.Typer(name="db", help="A database's tables and files.", no_args_is_help=True)
app.add_typer(db)


@db.command()
@grouped
def current(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """Which version a database's tables have, and which this package needs."""
    from deltamem_agents.store import versions

    database, version = versions.open_to_look(where.url, where.schema)
    database.close()
    if json:
        terminal.print_json({"version": version, "latest": versions.LATEST})
    else:
        terminal.say(_told(version, versions.LATEST))


@db.command()
@grouped
def upgrade(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """Bring a database's tables to this package's version, or create them."""
    from deltamem_agents.store import versions

    kept = "the tables are either unchanged or fully upgraded: 'deltamem db current' says which"
    with _database(where, make=True) as database, terminal.progress("Upgrading"), interruptible(kept):
        before, now = versions.upgrade(database)
    if json:
        terminal.print_json({"before": before, "version": now})
    elif before == now:
        terminal.say(f"nothing to do: the tables are already at version {now}")
    else:
        made = f"the tables were upgraded from version {before} to {now}"
        terminal.say(made if before else f"created the tables, of version {now}")


@db.command()
@grouped
def check(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """Compare a database's tables with this package's and look for damage; exit code 1 if anything is found."""
    from deltamem_agents.store import versions

    with _looked_at(where) as database, terminal.progress("Looking"):
        found, complete = versions.check(database)
    if json:
        terminal.print_json({"problems": found, "complete": complete})
    else:
        for each in found or ["the tables and their rows are sound"]:
            terminal.say(each)
        if not complete:
            terminal.say("note: some rows were not checked, as checking all takes more than a minute", err=True)
    if found:
        raise typer.Exit(1)


@db.command()
@grouped
def repair(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """Rebuild the full-text index from the records, whatever state it is in; messages and states are not touched."""
    from deltamem_agents.store import versions

    kept = "messages and states are unchanged; run the same command again to rebuild the index"
    with _database(where) as database, terminal.progress("Repairing"), interruptible(kept):
        done = versions.repair(database)
    if json:
        terminal.print_json({"repaired": done})
    else:
        for each in done:
            terminal.say(each)


@db.command()
@grouped
def purge(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """Remove erased data from the database's files, if that had to wait; exit code 1 if it still has to."""
    with _database(where):
        pass  # there is one
    kept = "the purge is not finished; run the same command again to go on"
    with opened_store(where) as store, terminal.progress("Purging"), interruptible(kept):
        reason = store.purge()
    if json:
        terminal.print_json({"pending": reason})
    else:
        terminal.say("no erased data is left in the files" if reason is None else f"not yet, {reason}; try again later")
    if reason is not None:
        raise typer.Exit(1)


def _told(version: str | None, latest: str) -> str:
    if version is None:
        return "no tables yet; 'deltamem db upgrade' creates them, and so does the first write"
    if version == latest:
        return f"version {version}, up to date"
    if version < latest:
        return f"version {version}; this deltamem-agents needs {latest}: make a copy, then run 'deltamem db upgrade'"
    return f"version {version}; this deltamem-agents knows versions up to {latest}: install a newer one"


@contextmanager
def _database(where: Location, *, make: bool = False) -> Iterator[Database]:
    from deltamem_agents.store.database import open_database

    database = open_database(where.url, None, where.schema)
    try:
        if not make:
            database.require_file()
        yield database
    finally:
        database.close()


@contextmanager
def _looked_at(where: Location) -> Iterator[Database]:
    from deltamem_agents.store import versions

    database, _ = versions.open_to_look(where.url, where.schema)
    try:
        yield database
    finally:
        database.close()


@app.command()
@grouped
def reindex(
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent; by default all agents.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete embeddings of other models afterwards.")] = False,
    where: Location,
    embedder: Embedder = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Embed all records that have no embedding yet, such as after an upgrade; resumes where it stopped."""
    from deltamem_agents.recall import Cutting, Retriever, choose_embedder
    from deltamem_agents.store import Store

    chosen, _ = choose_embedder(embedder_option(embedder))
    done = {}
    require_database(where)
    with Store.open(where.url, schema=where.schema, split=Cutting(chosen)) as store:
        if agent is not None:
            check_known(store, agent)
        retriever = Retriever(store.records, chosen)
        kept = "what was embedded is stored; run the same command again to go on"
        with terminal.progress("Embedding") as advance, interruptible(kept):
            for each in [agent] if agent is not None else [known.id for known in store.agents()]:
                show = partial(advance, f"Embedding records of {each}")
                done[each] = retriever.reindex(each, prune=prune, progress=show)
    if json:
        terminal.print_json({each: {"embedded": it.embedded, "dropped": it.dropped} for each, it in done.items()})
        return
    embedded = terminal.counted(sum(each.embedded for each in done.values()), "record")
    dropped = sum(each.dropped for each in done.values())
    pruned = f", {terminal.counted(dropped, 'embedding')} of other models deleted" if prune else ""
    recut = sum(each.recut for each in done.values())
    cut = f"{terminal.counted(recut, 'message')} cut again, " if recut else ""
    terminal.say(f"{cut}{embedded} of {terminal.counted(len(done), 'agent')} embedded{pruned}")
