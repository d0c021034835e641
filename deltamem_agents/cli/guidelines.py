"""The command group ``guidelines``: what a repository's AGENTS.md and its kin say, kept in memory and asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app, interruptible
from deltamem_agents.cli.options import Embedder, Json, Location, Model, grouped, opened, time

if TYPE_CHECKING:
    from deltamem_agents.guidelines import Found, Guidelines, Rule, Synced, Work

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
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and sync after each change; Ctrl-C ends it.")] = False,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Read a repository's guidelines into memory; only what changed since the last sync is written."""
    with _opened(path, where, make=True) as found, interruptible("run it again: the next sync does the rest"):
        for done in found.watch() if watch else (found.sync(),):
            _show_sync(done, json=json)


def _show_sync(done: Synced, *, json: bool) -> None:
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
    embedder: Embedder = None,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The rules that answer a question, best first, each with its file and line; none if no rule does."""
    with _opened(repo, where, _local_embedder() if embedder is None else embedder) as found:
        recalled = found.recall(query, path=path, k=k)
        unknown = not found.synced
    if json:
        terminal.print_json(recalled.as_dict())
    else:
        _show(recalled.rules)
        _show_work(recalled.work)
    if unknown:
        terminal.say("note: this repository was never read; run 'deltamem guidelines sync' first", err=True)
    elif not (recalled.rules or recalled.work or json):
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


@guidelines.command()
@grouped
def note(
    *,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What the work is for, or what was decided.")],
    repo: Repo = Path("."),
    file: Annotated[
        list[Path] | None, typer.Option("--file", metavar="FILE", help="A file that it is about; may be repeated.")
    ] = None,
    replaces: Annotated[str | None, typer.Option("--replaces", metavar="ID", help="The note that it replaces.")] = None,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Remember what the work at hand is for, or what was decided; a decision that reverses another supersedes it."""
    with _opened(repo, where, make=True) as found:
        taken = found.note(text, files=[str(each) for each in file or ()], replaces=replaces)
    if json:
        terminal.print_json(taken.as_dict())
    else:
        terminal.say(terminal.printable(f"{taken.kind} {taken.id} noted"))


@guidelines.command()
@grouped
def status(*, repo: Repo = Path("."), where: Location, json: Json = False, debug: Debug = False) -> None:
    """What is stale, contradictory, unreachable, duplicated or over-long."""
    with _opened(repo, where) as found:
        told = found.status()
    if json:
        terminal.print_json(told.as_dict())
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in told.kinds.items())
    terminal.say(f"{terminal.counted(told.rules, 'rule')} in {terminal.counted(told.files, 'file')} ({kinds})")
    terminal.say(f"{terminal.counted(told.commits, 'commit')} and {terminal.counted(told.notes, 'note')} recorded")
    for each in told.stale:
        terminal.say(terminal.printable(f"stale: {each.rule.citation}"))
    for rule in told.gone:
        terminal.say(terminal.printable(f"gone: {rule.citation}: {rule.text}"))
    for one, other, about in told.contradictory:
        terminal.say(terminal.printable(f"contradictory ({about}): {one.citation} and {other.citation}"))
    for those in told.duplicated:
        terminal.say(terminal.printable(f"duplicated: {', '.join(each.citation for each in those)}"))
    for rule in told.unreachable:
        terminal.say(terminal.printable(f"unreachable, about no file: {rule.citation} ({rule.scope})"))
    for at, why in told.over_long:
        terminal.say(terminal.printable(f"over-long: {at}: {why}"))
    if told.unsynced:
        terminal.say(f"not in memory yet: {terminal.counted(told.unsynced, 'rule')}; run 'deltamem guidelines sync'")
    _warn(told.skipped)


@guidelines.command()
@grouped
def diff(*, repo: Repo = Path("."), where: Location, json: Json = False, debug: Debug = False) -> None:
    """What the next sync would write: how the files differ from memory."""
    with _opened(repo, where) as found:
        changes = found.diff()
    if json:
        terminal.print_json(changes.as_dict())
        return
    lines = [("+", rule) for rule in changes.added] + [("-", rule) for rule in changes.removed]
    lines += [(mark, rule) for old, new in changes.changed for mark, rule in (("-", old), ("+", new))]
    for mark, rule in lines:
        terminal.say(terminal.printable(f"{mark} {rule.citation}: {_one_line(rule)}"))
    for old, new in changes.moved:
        terminal.say(terminal.printable(f"  {old.citation} is now {new.citation}"))


@guidelines.command()
@grouped
def prune(
    *,
    repo: Repo = Path("."),
    before: Annotated[
        datetime | None,
        typer.Option(
            "--before", parser=time, metavar="TIME", help="Also erase commits and notes from before this time."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be erased.")] = False,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Erase rules of checkouts that are gone, commits that no branch leads to, and old work."""
    with _opened(repo, where) as found:
        done = found.prune(before=before, dry_run=dry_run)
    if json:
        terminal.print_json(done.as_dict())
    else:
        verb = "would be erased" if dry_run else "erased"
        terminal.say(f"{terminal.counted(done.rules, 'rule')} and {done.work} of commits and notes {verb}")


@guidelines.command()
@grouped
def explain(
    *,
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Its id, or file:line.")],
    repo: Repo = Path("."),
    path: ForPath = None,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Why a rule applies, or does not."""
    with _opened(repo, where) as found:
        told = found.explain(rule, path=path)
    if json:
        terminal.print_json(told.as_dict())
        return
    _show([told.found])
    for each in told.reasons():
        terminal.say(terminal.printable(each))


@guidelines.command()
@grouped
def install(*, repo: Repo = Path("."), where: Location, json: Json = False, debug: Debug = False) -> None:
    """Install git hooks that sync in the background after a merge, a checkout or a rewrite."""
    with _opened(repo, where, make=True) as found:
        made = found.install_hooks(where.url)
    _show_paths(made, "installed", json=json)


@guidelines.command()
@grouped
def uninstall(*, repo: Repo = Path("."), json: Json = False, debug: Debug = False) -> None:
    """Remove the git hooks and restore those that were there before."""
    from deltamem_agents.guidelines import Repository, uninstall_hooks

    _show_paths(uninstall_hooks(Repository.open(repo)), "removed", json=json)


def _local_embedder() -> str:
    """Name of the local embedder where it is installed, else "none"."""
    from deltamem_agents.recall.embed import default_embedder

    found, _ = default_embedder()
    return "none" if found is None else found.name


@contextmanager
def _opened(path: Path, where: Location, embedder: str = "none", *, make: bool = False) -> Iterator[Guidelines]:
    """A repository's guidelines in a memory without a backbone."""
    with opened(where, Model(backbone="none"), embedder, make=make) as mem:
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


def _show_work(work: Sequence[Work]) -> None:
    for each in work:
        terminal.say(
            terminal.printable(f"{each.at[:16]} {each.kind} {(each.commit or '')[:12]} {each.author}".rstrip())
        )
        terminal.say(terminal.printable("\n".join(f"    {line}" for line in each.text.splitlines())))
        for told in (*each.dependencies, *each.files):
            terminal.say(terminal.printable(f"    · {told}"))


def _show_paths(paths: Sequence[Path], verb: str, *, json: bool) -> None:
    if json:
        terminal.print_json({"hooks": [str(each) for each in paths]})
    else:
        terminal.say(terminal.printable("\n".join(f"{verb} {each}" for each in paths) or "there are no hooks of ours"))


def _one_line(rule: Rule) -> str:
    return " ".join(rule.text.split())
