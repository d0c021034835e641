"""Commands about how records are found: reindex."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import (
    Embedder,
    Json,
    Location,
    embedder_option,
    grouped,
    require_database,
)
from deltamem_agents.cli.remedies import check_known


@app.command()
@grouped
def reindex(
    *,
    agent: Annotated[str | None, typer.Option("--agent", help="Only this one's; by default all agents'.")] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Delete embeddings of other models afterwards.")] = False,
    where: Location,
    embedder: Embedder = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Embed what the embedder has not embedded yet, cut as it needs, as after an upgrade; goes on where it was."""
    from deltamem_agents.recall import Cutting, Retriever, choose_embedder
    from deltamem_agents.store import Store

    chosen, _ = choose_embedder(embedder_option(embedder))
    done = {}
    require_database(where)
    with Store.open(where.url, schema=where.schema, split=Cutting(chosen)) as store:
        if agent is not None:
            check_known(store, agent)
        retriever = Retriever(store, chosen)
        kept = "what was embedded is stored; the same command goes on where it was"
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
    cut = f"{terminal.counted(recut, 'message')} cut anew, " if recut else ""
    terminal.say(f"{cut}{embedded} of {terminal.counted(len(done), 'agent')} embedded{pruned}")
