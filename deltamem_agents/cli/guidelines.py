"""The command group ``guidelines``: what a repository's AGENTS.md and its kin say, kept in memory and asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import Json, Location, Model, grouped, opened

if TYPE_CHECKING:
    from deltamem_agents.guidelines import Found, Guidelines

guidelines = typer.Typer(name="guidelines", help="What a repository's guidelines say.", no_args_is_help=True)
app.add_typer(guidelines)

Repo = Annotated[Path, typer.Option("--repo", metavar="DIR", help="A folder of the repository.")]
ForPath = Annotated[
    Path | None, typer.Option("--path", metavar="FILE", help="Only rules that apply to this file or folder.")
]
Budget = Annotated[int, typer.Option("--budget", help="At most this many tokens.")]


@guidelines.callback()
def _group() -> None:
    """What a repository's guidelines say."""


@guidelines.command()
@grouped
def sync(
    *,
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="A folder of the repository.")] = Path("."),
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a repository's guidelines into memory; only what changed since the last sync is written."""
    with _opened(path, where, make=True) as found, interruptible("run it again: the next sync does the rest"):
        done = found.sync()
    if json:
        terminal.print_json(done.as_dict())
        return
    changes = [f"{count} {what}" for what in ("added", "changed", "moved", "removed") if (count := getattr(done, what))]
    commits = f", {terminal.counted(done.commits, 'commit')} recorded" if done.commits else ""
    terminal.say(f"{terminal.counted(done.rules, 'rule')}: {', '.join(changes) or 'nothing changed'}{commits}")
    _warn(done.warnings)


@guidelines.command()
@grouped
def recall(
    *,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, such as 'how do I run the tests?'.")],
    repo: Repo = Path("."),
    path: ForPath = None,
    k: Annotated[int, typer.Option("--k", help="At most this many rules.")] = 5,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The rules that answer a question, best first, each with its file and line; none if no rule does."""
    with _opened(repo, where) as found:
        recalled = found.recall(query, path=path, k=k)
        unknown = not found.synced
    if json:
        terminal.print_json(recalled.as_dict())
    else:
        _show(recalled.rules)
    if unknown:
        terminal.say("note: this repository was never read; run 'deltamem guidelines sync' first", err=True)
    elif not recalled.rules and not json:
        terminal.say("no rule answers this", err=True)


@guidelines.command()
@grouped
def brief(
    *,
    task: Annotated[str | None, typer.Option("--task", help="What is to be done.")] = None,
    repo: Repo = Path("."),
    path: Annotated[
        list[Path] | None, typer.Option("--path", metavar="FILE", help="What the task is about; may be repeated.")
    ] = None,
    budget: Budget = 400,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The shortest text of the rules that matter for a task, for an agent's prompt."""
    with _opened(repo, where) as found:
        made = found.brief(task or "", paths=path or (), budget=budget)
    if json:
        terminal.print_json(made.as_dict())
    else:
        terminal.say(terminal.printable(made.text))


@guidelines.command()
@grouped
def show(
    *, repo: Repo = Path("."), path: ForPath = None, where: Location, json: Json = False, debug: Debug = False
) -> None:
    """All rules, or those that apply to a file, the nearest first."""
    with _opened(repo, where) as found:
        rules = found.show(path)
    if json:
        terminal.print_json({"rules": [each.as_dict() for each in rules]})
    else:
        _show(rules)


@contextmanager
def _opened(path: Path, where: Location, *, make: bool = False) -> Iterator[Guidelines]:
    """A repository's guidelines in a memory without a model."""
    with opened(where, Model(backbone="none"), make=make) as mem:
        from deltamem_agents.guidelines import Guidelines

        yield Guidelines(mem, path)


def _show(rules: Sequence[Found]) -> None:
    for each in rules:
        rule = each.rule
        marks = ["stale"] if each.stale else []
        marks += [f"overridden by {each.overridden_by}"] if each.overridden_by else []
        told = f"  [{', '.join(marks)}]" if marks else ""
        terminal.say(terminal.printable(f"{rule.citation}{told}"))
        terminal.say(terminal.printable("\n".join(f"    {line}" for line in rule.text.splitlines())))


def _warn(warnings: Sequence[str]) -> None:
    for each in warnings:
        terminal.say(terminal.printable(f"note: {each}"), err=True)
