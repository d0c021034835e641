"""Options that several commands have, and opening what they name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem_agents import terminal

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem
    from deltamem_agents.store import Store


def time(text: str | datetime) -> datetime:
    """A time as a person writes it, or as 'deltamem log --json' prints it."""
    try:
        return text if isinstance(text, datetime) else datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a valid time; give ISO 8601, such as 2026-01-31 or 2026-01-31T14:30Z"
        ) from None


def lasting(url: str | None) -> str | None:
    """A database that outlives the command: what one in memory is told is lost, and there is nothing in it to read."""
    if url is not None and url.startswith("sqlite"):  # else SQLAlchemy need not be loaded for it
        from urllib.parse import unquote

        from deltamem_agents.errors import ConfigError
        from deltamem_agents.store.masking import masked
        from deltamem_agents.store.sqlite_files import is_passing

        if is_passing(url):
            raise ConfigError(
                f"{unquote(masked(url))} is a database in memory, which does not exist before a command and is gone "
                "after it; give a file, such as sqlite:///memory.db"
            )
    return url


Agent = Annotated[str, typer.Option("--agent", help="Whose memory.", envvar="DELTAMEM_AGENT")]
AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="Whose memory.")]
Url = Annotated[
    str,
    typer.Option(
        "--url",
        help="Database, sqlite:///… or postgresql://…; commands that write create its tables, those that read do not.",
        envvar="DELTAMEM_URL",
        callback=lasting,
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema", help="PostgreSQL's schema of the tables; by default the connection's.", envvar="DELTAMEM_SCHEMA"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Session = Annotated[str, typer.Option("--session", help="The conversation.")]
OneSession = Annotated[str | None, typer.Option("--session", help="Only this conversation.")]
Since = Annotated[
    datetime | None,
    typer.Option("--since", parser=time, metavar="TIME", help="Messages written then or later (UTC without zone)."),
]
Until = Annotated[
    datetime | None,
    typer.Option("--until", parser=time, metavar="TIME", help="Messages written before then (UTC without zone)."),
]
ModeOption = Annotated[str, typer.Option("--mode", help="state, vector or hybrid.")]
K = Annotated[int, typer.Option("--k", help="Records at most.")]
Backbone = Annotated[str, typer.Option("--backbone", help="'tiny', a folder, a hub id, or 'none' for no model.")]
Adapter = Annotated[
    str | None, typer.Option("--adapter", help="Folder or hub id; by default the one in the backbone's folder.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:n.")]
Dtype = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")]
Embedder = Annotated[
    str | None,
    typer.Option("--embedder", help="sentence-transformers name or folder, or 'none'; by default the local one."),
]

DEFAULT_URL = "sqlite:///memory.db"
DEFAULT_AGENT = "default"


def embedder_option(embedder: str | None) -> str | bool | None:
    """What ``--embedder`` is for `DeltaMem.open`."""
    return False if embedder == "none" else embedder


def open_options(backbone: str, adapter: str | None, device: str, dtype: str, embedder: str | None) -> dict[str, Any]:
    """Keyword arguments of `DeltaMem.open`."""
    return {
        "backbone": None if backbone == "none" else backbone,
        "adapter": adapter,
        "device": device,
        "dtype": dtype,
        "embedder": embedder_option(embedder),
    }


@contextmanager
def opened(
    url: str,
    schema: str | None,
    backbone: str,
    adapter: str | None,
    device: str,
    dtype: str,
    embedder: str | None,
    *,
    make: bool = False,
) -> Iterator[DeltaMem]:
    """A memory: the model is loaded and the database opened; made where there is none, if ``make``."""
    if not make:
        require_database(url, schema)
    with nullcontext() if backbone == "none" else terminal.progress(f"Loading {backbone}"):
        from deltamem_agents.memory import DeltaMem

        if backbone != "none":
            terminal.quiet_bars()
        mem = DeltaMem.open(url=url, schema=schema, **open_options(backbone, adapter, device, dtype, embedder))
    with mem:
        yield mem


@contextmanager
def opened_store(url: str, schema: str | None, *, make: bool = False) -> Iterator[Store]:
    """The database of a memory without a model. It is made where there is none, if ``make``."""
    with opened(url, schema, "none", None, "auto", "auto", "none", make=make) as mem:
        yield mem.store


def require_database(url: str, schema: str | None) -> None:
    """Refuse a database that does not exist, and make nothing.

    Raises:
        StoreError: It does not, or has no tables of ours.
    """
    from deltamem_agents.errors import StoreError
    from deltamem_agents.store import versions

    database, version = versions.open_to_look(url, schema)
    try:
        if version is None:
            raise StoreError(f"{database.name} has no tables yet; 'deltamem write' makes them, or check the URL")
    finally:
        database.close()
