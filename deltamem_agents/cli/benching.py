"""The command group ``bench``: figures that anyone can measure again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import (
    Embedder,
    Model,
    grouped,
    open_options,
)
from deltamem_agents.errors import ConfigError

bench = typer.Typer(name="bench", help="Measure what this memory is worth.", no_args_is_help=True)
app.add_typer(bench)


@bench.callback()
def _group() -> None:
    """Measure what this memory is worth."""


@bench.command()
@grouped
def recall(
    *,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write recall.json, recall.md and recall.png into this folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace these files if they exist.")] = False,
    facts: Annotated[str, typer.Option("--facts", help="Numbers of facts, with commas.")] = "1,2,4,8,16,32,64,128,256",
    modes: Annotated[
        str, typer.Option("--modes", help="Ways of asking, with commas.")
    ] = "none,state,vector,hybrid,preload,history",
    changed: Annotated[bool, typer.Option("--changed/--no-changed", help="Whether to ask for changed facts.")] = True,
    locomo: Annotated[
        Path | None, typer.Option("--locomo", help="LoCoMo's JSON file; without it that part is left out.")
    ] = None,
    beam: Annotated[
        Path | None, typer.Option("--beam", help="BEAM's JSON file; without it that part is left out.")
    ] = None,
    speed: Annotated[bool, typer.Option("--speed/--no-speed", help="Whether to time search and indexing.")] = True,
    postgresql_url: Annotated[
        str | None, typer.Option("--postgresql-url", help="An empty PostgreSQL database to time search on too.")
    ] = None,
    model: Model,
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """State, retrieval, both, and the whole history in context: right answers, silence, confidence and cost."""
    try:
        sizes = [int(each) for each in facts.split(",") if each.strip()]
    except ValueError as error:
        raise ConfigError(f"facts is {facts!r}; give whole numbers with commas, as '1,32,256'") from error
    if locomo is not None and not locomo.is_file():
        raise ConfigError(f"no file {str(locomo)!r}; give LoCoMo's JSON")
    if beam is not None and not beam.is_file():
        raise ConfigError(f"no file {str(beam)!r}; give BEAM's JSON")
    with terminal.progress("Loading") as advance, interruptible("no measurement was finished, and nothing was written"):
        from deltamem_agents.bench.outputs import check_outputs
        from deltamem_agents.bench.recall.report import files_in, import_matplotlib, markdown
        from deltamem_agents.bench.recall.run import run

        if out is not None:  # before minutes are spent
            check_outputs(files_in(out), force=force)
            import_matplotlib()
        results = run(
            sizes=sizes,
            modes=modes.split(","),
            changed=changed,
            file=locomo,
            beam=beam,
            speed=speed,
            postgresql_url=postgresql_url,
            options=open_options(model, embedder),
            progress=advance,
        )
    terminal.say(markdown(results))
    if out is not None:
        for path in results.write(out):
            terminal.say(f"wrote {path}", err=True)
