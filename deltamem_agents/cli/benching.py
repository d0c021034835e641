"""The command group ``bench``: figures that anyone can measure again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

PARTS = ("facts", "rules", "cause", "locomo", "beam", "speed")

if TYPE_CHECKING:
    from deltamem_agents.bench.recall.report import Results
    from deltamem_agents.bench.state.report import StateResults

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
        Path | None,
        typer.Option("--out", help="Write recall.json, .md and .png, and state.json, .csv and .md into this folder."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace these files if they exist.")] = False,
    only: Annotated[
        str | None, typer.Option("--only", help=f"Measure only these parts, with commas: {', '.join(PARTS)}.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few episodes of the smallest sizes: a first look, not a measurement.")
    ] = False,
    facts: Annotated[str, typer.Option("--facts", help="Numbers of facts, with commas.")] = "1,2,4,8,16,32,64,128,256",
    modes: Annotated[
        str, typer.Option("--modes", help="Ways of asking, with commas.")
    ] = "none,state,vector,hybrid,preload,history",
    changed: Annotated[bool, typer.Option("--changed/--no-changed", help="Whether to ask for changed facts.")] = True,
    rules: Annotated[str, typer.Option("--rules", help="Numbers of standing rules, with commas.")] = "1,2,4,8",
    others: Annotated[
        str, typer.Option("--others", help="Numbers of other messages written after the rules, with commas.")
    ] = "0,100",
    told: Annotated[
        str, typer.Option("--told", help="Numbers of facts for proof of cause, with commas.")
    ] = "1,2,4,5,8,30",
    episodes: Annotated[int, typer.Option("--episodes", help="Episodes of each size, for rules and cause.")] = 100,
    seed: Annotated[int, typer.Option("--seed", help="Of these episodes; equal seeds give equal ones.")] = 7,
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
    """State, retrieval, both, and the whole history in context; standing rules; and proof that the state is the cause.

    Parts: 'facts' asks for facts in six ways; 'rules' and 'cause' ask again with other states in place of the right
    one, and measure what a state costs; 'locomo', 'beam' and 'speed' are about retrieval alone.
    """
    parts = _parts(only)
    if only is not None:
        for name, file in (("locomo", locomo), ("beam", beam)):
            if name in parts and file is None:
                raise ConfigError(f"--only {name} needs its file; give --{name} FILE")
    sizes = _numbers(facts, "facts") if "facts" in parts else []
    retrieval: dict[str, Any] = {
        "sizes": sizes,
        "modes": modes.split(","),
        "changed": changed and "facts" in parts,
        "file": _file(locomo, "LoCoMo") if "locomo" in parts else None,
        "beam": _file(beam, "BEAM") if "beam" in parts else None,
        "speed": speed and "speed" in parts,
        "postgresql_url": postgresql_url,
    }
    state: dict[str, Any] = {
        "rules": _numbers(rules, "rules") if "rules" in parts else (),
        "others": _numbers(others, "others"),
        "facts": _numbers(told, "told") if "cause" in parts else (),
        "episodes": episodes,
        "seed": seed,
    }
    with terminal.progress("Loading") as advance, interruptible("no measurement was finished, and nothing was written"):
        from deltamem_agents.bench.outputs import check_outputs
        from deltamem_agents.bench.recall.report import files_in, import_matplotlib, markdown
        from deltamem_agents.bench.recall.run import run
        from deltamem_agents.bench.state.report import state_files_in, state_markdown
        from deltamem_agents.bench.state.run import QUICK, run_state

        if quick:
            retrieval |= {"sizes": sizes[:1], "conversations": 2, "changed": False, "speed": False}
            state |= {name: value for name, value in QUICK.items() if state[name]}
        asks = any(retrieval[name] for name in ("sizes", "changed", "file", "beam", "speed"))
        proves = bool(state["rules"] or state["facts"])
        if not (asks or proves):
            raise ConfigError("nothing is to be measured; name parts with --only, or give sizes")
        if out is not None:  # before minutes are spent
            check_outputs([*(files_in(out) if asks else []), *(state_files_in(out) if proves else [])], force=force)
            if asks:
                import_matplotlib()
        options = open_options(model, embedder)
        found: list[tuple[Results | StateResults, str]] = []
        if asks:
            recalled = run(options=options, progress=advance, **retrieval)
            found.append((recalled, markdown(recalled)))
        if proves:
            proved = run_state(options=options, progress=advance, **state)
            found.append((proved, state_markdown(proved)))
    terminal.say("\n\n".join(text for _, text in found))
    if out is not None:
        for results, _ in found:
            for path in results.write(out):
                terminal.say(f"wrote {path}", err=True)


def _parts(only: str | None) -> list[str]:
    """The parts to measure.

    Raises:
        ConfigError: One is unknown.
    """
    named = list(PARTS) if only is None else [each.strip() for each in only.split(",") if each.strip()]
    for each in named:
        if each not in PARTS:
            raise ConfigError(f"only is {only!r}; give some of {', '.join(PARTS)}, with commas")
    return named


def _numbers(text: str, name: str) -> list[int]:
    """Numbers with commas between them; each once.

    Raises:
        ConfigError: One is not a number.
    """
    try:
        return list(dict.fromkeys(int(each) for each in text.split(",") if each.strip()))
    except ValueError as error:
        raise ConfigError(f"{name} is {text!r}; give whole numbers with commas, as '1,32,256'") from error


def _file(path: Path | None, name: str) -> Path | None:
    if path is not None and not path.is_file():
        raise ConfigError(f"no file {str(path)!r}; give {name}'s JSON")
    return path
