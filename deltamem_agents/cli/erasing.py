"""Commands that take memories out and in: erase, delete, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app
from deltamem_agents.cli.history import check_known
from deltamem_agents.cli.options import (
    DEFAULT_URL,
    Adapter,
    AgentArgument,
    Backbone,
    Device,
    Dtype,
    Json,
    Schema,
    Since,
    Until,
    Url,
    opened,
    opened_store,
)
from deltamem_agents.errors import ConfigError

if TYPE_CHECKING:
    from deltamem_agents.memory import Receipt

Forks = Annotated[bool, typer.Option("--forks", help="Also from agents that share the messages by forking.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


@app.command()
def erase(
    agent: AgentArgument,
    id: Annotated[
        list[str] | None,
        typer.Option("--id", help="A message, every version of it; repeatable. With --session where several have it."),
    ] = None,
    session: Annotated[str | None, typer.Option("--session", help="Messages of this conversation.")] = None,
    since: Since = None,
    until: Until = None,
    forks: Forks = False,
    dry_run: DryRun = False,
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Erase messages, and all that was made of them, as if the agent had never seen them.

    Erased is what fulfils all that is given.
    """
    if not id and session is None and since is None and until is None:
        raise ConfigError(
            f"nothing was said to be erased; give --id, --session, --since or --until, or erase the whole agent with "
            f"'deltamem delete {terminal.shell_word(agent)}'"
        )
    with opened(url, schema, backbone, adapter, device, dtype, "none") as mem:
        check_known(mem.store, agent)
        with terminal.progress("Erasing"):
            receipt = mem.agent(agent).erase(
                ids=id or None, session=session, since=since, until=until, forks=forks, dry_run=dry_run
            )
    _show(receipt, json)


@app.command()
def delete(
    agent: AgentArgument,
    forks: Forks = False,
    dry_run: DryRun = False,
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Erase a whole agent: its messages, all that was made of them, and the agent itself."""
    with opened(url, schema, backbone, adapter, device, dtype, "none") as mem:
        check_known(mem.store, agent)
        with terminal.progress("Erasing"):
            receipt = mem.agent(agent).delete(forks=forks, dry_run=dry_run)
    _show(receipt, json, whole=True)


@app.command()
def export(
    agent: AgentArgument,
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where to.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write an agent's journal, states and embeddings to one file."""
    with opened_store(url, schema) as store:
        check_known(store, agent)
        with terminal.progress("Exporting") as advance:
            messages = store.export(agent, path, advance, overwrite=force)
    if json:
        terminal.print_json({"agent": agent, "path": str(path), "messages": messages})
    else:
        typer.echo(f"{terminal.counted(messages, 'message')} of agent {agent!r} written to {path}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What 'deltamem export' wrote.")],
    agent: Annotated[str | None, typer.Option("--agent", help="The agent's name here; by default the file's.")] = None,
    url: Url = DEFAULT_URL,
    schema: Schema = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make an agent of an exported file; all of it is checked before any is stored."""
    with opened_store(url, schema, make=True) as store:
        with terminal.progress("Importing") as advance:
            name = store.import_(path, agent, advance)
        made = store.agent(name)
    if made is None:
        return
    if json:
        terminal.print_json(terminal.agent_json(made))
    else:
        typer.echo(f"agent {name!r} has {terminal.counted(made.messages, 'message')} now")


def _show(receipt: Receipt, json: bool, *, whole: bool = False) -> None:
    if json:
        terminal.print_json(receipt.as_dict())
        return
    dry = receipt.status == "dry run"
    if not whole and not any(each.messages for each in receipt.erased):
        typer.echo(f"nothing {'would be' if dry else 'was'} erased: agent {receipt.agent!r} has no such message")
        return
    would = "would be erased" if dry else "erased"
    for each in receipt.erased:
        typer.echo(
            f"agent {each.agent!r}: {terminal.counted(each.messages, 'message')}, "
            f"{terminal.counted(each.records, 'record')}, {terminal.counted(each.embeddings, 'embedding')} and "
            f"{terminal.counted(each.revisions, 'stored state')} {would}"
        )
    for other, ids in receipt.held_by.items():
        typer.echo(f"agent {other!r} holds {terminal.counted(len(ids), 'message')} of these too; --forks includes it")
    if receipt.status == "pending":
        typer.echo(f"still in the database's files, {receipt.reason}; 'deltamem db purge' finishes it")
    if not dry:
        typer.echo(f"out of this command's reach: {', '.join(receipt.outside_reach)}")
