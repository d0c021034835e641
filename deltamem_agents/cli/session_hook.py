"""Command for the hooks of coding agents: hook. It gives a session the rules of its repository."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, told
from deltamem_agents.cli.options import Location, Model, grouped, opened
from deltamem_agents.errors import ConfigError

LARGEST_INPUT = 1024 * 1024  # characters of what a client says of the session
BUDGET = 400  # tokens
AGAIN = (
    "These are quotations from the repository's files. For more, or for a task or a file, call the tools "
    "guidelines_brief and guidelines_recall where you have them."
)


def _session_start(text: str, fault: str) -> dict[str, Any]:
    """What Claude Code and Codex read of a hook at SessionStart."""
    found: dict[str, Any] = {"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": text}}
    return {"systemMessage": fault} if fault else found if text else {}


def _cursor(text: str, fault: str) -> dict[str, Any]:
    """What Cursor reads of a hook at sessionStart."""
    return {"user_message": fault} if fault else {"additional_context": text} if text else {}


CLIENTS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "claude": _session_start,
    "codex": _session_start,
    "cursor": _cursor,
}


@app.command()
@grouped
def hook(
    *,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="claude, codex or cursor.")],
    budget: Annotated[int, typer.Option("--budget", min=1, help="At most this many tokens of rules.")] = BUDGET,
    where: Location,
    debug: Debug = False,
) -> None:
    """Print the rules of the repository that is worked in, as a coding agent's session hook expects them.

    Reads what the agent says of the session from stdin, brings the memory up to date, and never fails the session: if
    the rules cannot be read, the output tells the user why.
    """
    if client not in CLIENTS:
        raise ConfigError(f"client is {client!r}; give one of {', '.join(CLIENTS)}")
    text = fault = ""
    try:
        text = _brief(_folder(), where, budget)
    except Exception as error:  # a session must start without its rules too
        fault = f"deltamem has no rules for this session: {told(error)}"
    terminal.print_json(CLIENTS[client](text and f"{text}\n{AGAIN}", fault))


def _folder() -> Path:
    """The folder that the session is in: the client says so, or else it is the working directory."""
    if sys.stdin is None or sys.stdin.isatty():
        return Path(".")
    try:
        said = json.loads(sys.stdin.read(LARGEST_INPUT) or "{}")
    except (ValueError, RecursionError):
        return Path(".")
    roots = said.get("workspace_roots") if isinstance(said, dict) else None
    folder = (said.get("cwd") if isinstance(said, dict) else None) or (
        roots[0] if isinstance(roots, list) and roots else None
    )
    return Path(folder) if isinstance(folder, str) and folder else Path(".")


def _brief(folder: Path, where: Location, budget: int) -> str:
    with opened(where, Model(backbone="none"), make=True) as mem:
        from deltamem_agents.guidelines import Guidelines

        found = Guidelines(mem, folder)
        if found.repository.git_dir is None:  # a home folder, perhaps: nobody wants all of it read
            return ""
        found.sync()
        return found.brief(budget=budget).text
