"""Commands about this machine and the model: doctor, demo."""

from __future__ import annotations

from typing import Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import (
    Embedder,
    Json,
    Model,
    Schema,
    grouped,
    lasting,
    open_options,
)
from deltamem_agents.cli.remedies import spelled


@app.command()
def doctor(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="Check this database too; it is not changed.", envvar="DELTAMEM_URL", callback=lasting
        ),
    ] = None,
    schema: Schema = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is in use on this machine and why, and what would make it faster."""
    with terminal.progress("Looking around"):
        from deltamem_agents.doctor import check_up

        found = check_up(url, schema)
    if json:
        terminal.print_json(found.as_dict())
    else:
        found.show(terminal.stdout())
    if found.failure is not None:
        terminal.say(f"error: {spelled(' '.join(found.failure.split()))}", err=True)
        raise typer.Exit(1)


@app.command()
@grouped
def demo(
    *,
    fact: Annotated[
        list[str] | None, typer.Option("--fact", help="Tell this in place of the built-in facts; repeatable.")
    ] = None,
    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="Ask this in place of the built-in questions; repeatable.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Keep the demo's database here; by default it is removed.", callback=lasting),
    ] = None,
    schema: Schema = None,
    json: Json = False,
    model: Model,
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Tell an agent facts in one process, ask for them in another, and compare the ways of remembering."""
    from deltamem_agents.demo import run_demo

    if fact and not ask:
        raise typer.BadParameter("give at least one question with --ask", param_hint="--fact")
    options = open_options(model, embedder) | {"schema": schema if url else None}
    kept = "the demo's database is removed" if url is None else "what the demo wrote is in its database"
    with terminal.progress("Starting") as advance, interruptible(kept):
        shown = run_demo(fact or None, ask or None, url=url, options=options, advance=advance)
    if json:
        terminal.print_json(shown.as_dict())
    else:
        shown.show(terminal.stdout())
