"""Options that several commands have, and opening what they name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, is_dataclass
from datetime import datetime
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

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


USER = "user"
_NAMES_FILE = re.compile(r"sqlite:///(?!file:|:memory:)[^?]+")  # a URL that surely names a file, and most do


def user_database() -> str:
    """URL of the database of this user, which all folders share; its folder is made, and is the user's alone."""
    data = os.environ.get("XDG_DATA_HOME", "")
    folder = (Path(data) if Path(data).is_absolute() else Path.home() / ".local" / "share") / "deltamem"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        from deltamem_agents.errors import StoreError

        raise StoreError(f"{folder} cannot be made: {error.strerror or error}; give --url sqlite:///FILE") from None
    return f"sqlite:///{folder / 'memory.db'}"


def lasting(url: str | None) -> str | None:
    """Refuse a database in memory: it would be empty, and what is written to it would be lost."""
    if url == USER:
        return user_database()
    if url is not None and url.startswith("sqlite") and not _NAMES_FILE.fullmatch(url):  # else SQLAlchemy is not loaded
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
        help="Database, sqlite:///… or postgresql://…, or 'user' for one that all your folders share; commands that "
        "write create its tables, those that read do not.",
        envvar="DELTAMEM_URL",
        callback=lasting,
    ),
]
Schema = Annotated[
    str | None,
    typer.Option(
        "--schema",
        help="PostgreSQL schema that holds the tables; by default the connection's.",
        envvar="DELTAMEM_SCHEMA",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Session = Annotated[str, typer.Option("--session", help="The conversation.")]
OneSession = Annotated[str | None, typer.Option("--session", help="Only this conversation.")]
Since = Annotated[
    datetime | None,
    typer.Option(
        "--since",
        parser=time,
        metavar="TIME",
        help="Only messages written at this time or later (UTC if it names no zone).",
    ),
]
Until = Annotated[
    datetime | None,
    typer.Option(
        "--until", parser=time, metavar="TIME", help="Only messages written before this time (UTC if it names no zone)."
    ),
]
ModeOption = Annotated[str, typer.Option("--mode", help="state, vector or hybrid.")]
K = Annotated[int, typer.Option("--k", help="At most this many records.")]
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


@dataclass(frozen=True, slots=True)
class Location:
    """The database: ``--url`` and ``--schema``."""

    url: Url = DEFAULT_URL
    schema: Schema = None


@dataclass(frozen=True, slots=True)
class Model:
    """The backbone and how it runs: ``--backbone``, ``--adapter``, ``--device`` and ``--dtype``."""

    backbone: Backbone = "tiny"
    adapter: Adapter = None
    device: Device = "auto"
    dtype: Dtype = "auto"


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of each parameter that is a `Location` or a `Model`, at that parameter's place."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    options: dict[str, Parameter] = {}
    for name, parameter in signature(command).parameters.items():
        kind = hints[name]
        if not is_dataclass(kind):
            options[name] = parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind)
            continue
        groups[name], types = kind, get_type_hints(kind, include_extras=True)
        for each in fields(kind):
            options[each.name] = Parameter(
                each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=types[each.name]
            )

    @wraps(command)
    def run(**given: Any) -> None:
        made = {
            name: group(**{each.name: given.pop(each.name) for each in fields(group)}) for name, group in groups.items()
        }
        command(**given, **made)

    run.__signature__ = signature(command).replace(parameters=list(options.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in options.items()} | {"return": None}
    return run


def embedder_option(embedder: str | None) -> str | bool | None:
    """What ``--embedder`` is for `DeltaMem.open`."""
    return False if embedder == "none" else embedder


def open_options(model: Model, embedder: str | None) -> dict[str, Any]:
    """Keyword arguments of `DeltaMem.open`."""
    backbone = None if model.backbone == "none" else model.backbone
    return asdict(model) | {"backbone": backbone, "embedder": embedder_option(embedder)}


@contextmanager
def opened(
    where: Location, model: Model, embedder: str | None = "none", *, make: bool = False, **options: Any
) -> Iterator[DeltaMem]:
    """A memory: the model is loaded and the database opened; made where there is none, if ``make``.

    Args:
        options: Further options of `DeltaMem.open`.
    """
    if not make:
        require_database(where)
    with nullcontext() if model.backbone == "none" else terminal.progress(f"Loading {model.backbone}"):
        from deltamem_agents.memory import DeltaMem

        if model.backbone != "none":
            terminal.quiet_bars()
        mem = DeltaMem.open(url=where.url, schema=where.schema, **open_options(model, embedder), **options)
    with mem:
        yield mem


@contextmanager
def opened_store(where: Location, *, make: bool = False) -> Iterator[Store]:
    """The database of a memory without a model. It is made where there is none, if ``make``."""
    with opened(where, Model(backbone="none"), make=make) as mem:
        yield mem.store


def require_database(where: Location) -> None:
    """Refuse a database that does not exist, and make nothing.

    Raises:
        StoreError: It does not, or has no deltamem tables.
    """
    from deltamem_agents.errors import StoreError
    from deltamem_agents.store import versions

    database, version = versions.open_to_look(where.url, where.schema)
    try:
        if version is None:
            raise StoreError(f"{database.name} has no deltamem tables; 'deltamem write' creates them, or check the URL")
    finally:
        database.close()
