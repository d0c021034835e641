"""Commands of a server: serve; tokens create, list, revoke."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deltamem_agents import terminal
from deltamem_agents.cli.app import Debug, app
from deltamem_agents.cli.options import (
    Embedder,
    Json,
    K,
    Location,
    Model,
    ModeOption,
    grouped,
    open_options,
    opened,
    opened_store,
)
from deltamem_agents.errors import ConfigError, require_extra, shown

if TYPE_CHECKING:
    from deltamem_agents.serving.settings import Settings, Upstream
    from deltamem_agents.store.access_tokens import AccessToken

LOOPBACK = "127.0.0.1"
RETRY_SECONDS = 5.0  # how long a request waits for a database that is away, before it is answered with 503

tokens = typer.Typer(name="tokens", help="Access tokens of a server.", no_args_is_help=True)
app.add_typer(tokens)


@app.command()
@grouped
def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    upstream: Annotated[
        str | None,
        typer.Option("--upstream", help="Base URL of the OpenAI-compatible endpoint that answers (proxy mode)."),
    ] = None,
    upstream_key_env: Annotated[
        str | None,
        typer.Option(
            "--upstream-key-env",
            metavar="NAME",
            help="Environment variable with the upstream's key; by default the caller's Authorization goes upstream.",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            "--backbone",
            help="'tiny', a folder, a hub id, or 'none' for no model; by default 'tiny', with --upstream 'none'.",
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", help="Agent of requests that name none; by default they are refused.")
    ] = None,
    mode: ModeOption = "hybrid",
    k: K = 5,
    placement: Annotated[
        str, typer.Option("--placement", help="Where recalled text goes in the prompt: system or last_human.")
    ] = "system",
    allow_host: Annotated[
        list[str], typer.Option("--allow-host", metavar="NAME", help="A name that requests may give in Host.")
    ] = [],  # noqa: B006  # typer reads it
    allow_origin: Annotated[
        list[str], typer.Option("--allow-origin", metavar="ORIGIN", help="A foreign page that may send requests.")
    ] = [],  # noqa: B006
    rate: Annotated[int, typer.Option("--rate", min=0, help="Requests a minute and token; 0 for no limit.")] = 60,
    concurrency: Annotated[
        int, typer.Option("--concurrency", min=0, help="Replies at once, waiting ones included; 0 for no limit.")
    ] = 256,
    replicas: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="N|N-M",
            help="Serve on Ray with N replicas, or N to M of them as load asks for (extra ray).",
        ),
    ] = None,
    where: Location,
    adapter: Annotated[str | None, typer.Option("--adapter", help="Folder or hub id of the adapter.")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:n.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Serve memory over HTTP: OpenAI's API, answered by the backbone or by another endpoint, and REST."""
    require_extra("fastapi", "deltamem serve", "serve")
    require_extra("uvicorn", "deltamem serve", "serve")
    from deltamem_agents.memory.options import RecallOptions
    from deltamem_agents.serving.settings import Settings

    settings = Settings(
        hosts=tuple(allow_host),
        origins=tuple(allow_origin),
        rate=rate,
        concurrency=concurrency,
        agent=agent,
        upstream=_upstream(upstream, upstream_key_env),
        recall=RecallOptions(mode=mode, k=k, placement=placement),
    )
    chosen = backbone or ("tiny" if upstream is None else "none")
    if replicas is not None:
        _serve_on_ray(replicas, where, Model(chosen, adapter, device, dtype), embedder, settings, host, port)
        return
    with opened(where, Model(chosen, adapter, device, dtype), embedder, make=True, retry_seconds=RETRY_SECONDS) as mem:
        _serve(mem, settings, host, port)


def _serve_on_ray(
    replicas: str, where: Location, model: Model, embedder: str | None, settings: Settings, host: str, port: int
) -> None:
    from dataclasses import replace

    from deltamem_agents.serving import ray_app
    from deltamem_agents.serving.settings import is_loopback

    least, _, most = replicas.partition("-")
    if not (least.isdecimal() and (most or least).isdecimal()):
        raise ConfigError(f"--ray is {shown(replicas)}; give a number of replicas, or two, such as 1-4")
    with opened_store(where, make=True) as store:
        if not is_loopback(host):
            if not store.tokens.exist():
                raise ConfigError("there are no tokens; make one with 'deltamem tokens create' and start again")
            settings = replace(settings, require_token=True, hosts=(*settings.hosts, host))
    options = {
        "url": where.url,
        "schema": where.schema,
        "retry_seconds": RETRY_SECONDS,
        **open_options(model, embedder),
    }
    number = ray_app.Replicas(least=int(least), most=int(most or least))
    ray_app.run(ray_app.application(options, settings, number), host, port)


def _serve(mem: Any, settings: Settings, host: str, port: int) -> None:
    from dataclasses import replace

    from deltamem_agents.serving import create_app, server
    from deltamem_agents.serving.settings import is_loopback

    if not is_loopback(host):
        if mem.store.tokens.exist():
            settings = replace(settings, require_token=True, hosts=(*settings.hosts, host))
        else:
            terminal.say(
                f"note: there are no tokens, so this listens on {LOOPBACK} instead of {host}; make one with "
                "'deltamem tokens create' and start again",
                err=True,
            )
            host = LOOPBACK
    elif not mem.store.tokens.exist():
        terminal.say("note: there are no tokens: everybody on this machine can read and change all agents", err=True)
    try:
        listening = server.listen(host, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}); give another --host or --port"
        ) from error
    with listening:
        at = listening.getsockname()
        shown_host = f"[{at[0]}]" if ":" in at[0] else at[0]
        made = server.server_for(
            create_app(mem, settings),
            started=lambda: terminal.say(f"deltamem serves http://{shown_host}:{at[1]}", err=True),
        )
        made.run(sockets=[listening])


def _upstream(url: str | None, variable: str | None) -> Upstream | None:
    from deltamem_agents.serving.settings import Upstream

    if url is None:
        if variable is not None:
            raise typer.BadParameter("it goes with --upstream", param_hint="--upstream-key-env")
        return None
    key = None
    if variable is not None:
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ConfigError(f"the environment variable {shown(variable)} is not set; export the upstream's key in it")
    return Upstream(url=url.rstrip("/"), key=key)


@tokens.command()
@grouped
def create(
    *,
    agent: Annotated[
        list[str], typer.Option("--agent", metavar="PATTERN", help="Agents that it reaches; * for any characters.")
    ],
    scope: Annotated[str, typer.Option("--scope", help="read, write or admin; each includes those before it.")],
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=36500, help="Days until it expires; by default it does not.")
    ] = None,
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Create a token and print it once: only a hash of it is stored."""
    until = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with opened_store(where, make=True) as store:
        secret, made = store.tokens.create(agent, scope, expires_at=until)
    if json:
        terminal.print_json({"token": secret} | _token_json(made))
    else:
        terminal.say(secret)


@tokens.command(name="list")
@grouped
def list_(*, where: Location, json: Json = False, debug: Debug = False) -> None:
    """The tokens by name, with their agents and scopes; the tokens themselves are not stored."""
    with opened_store(where) as store:
        found = store.tokens.all()
    if json:
        terminal.print_json([_token_json(each) for each in found])
        return
    rows = [
        (each.name, " ".join(each.agents), each.scope, f"{each.expires_at:%F %R}" if each.expires_at else "never")
        for each in found
    ]
    if rows:
        terminal.stdout().print(terminal.table(("name", "agents", "scope", "expires (UTC)"), rows))
    else:
        terminal.say("No tokens.")


@tokens.command()
@grouped
def revoke(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name, as 'deltamem tokens list' shows it.")],
    where: Location,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Delete a token; a running server refuses it within two seconds."""
    with opened_store(where) as store:
        found = store.tokens.revoke(name)
    if not found:
        raise ConfigError(f"there is no token {shown(name)}; 'deltamem tokens list' shows them")
    if json:
        terminal.print_json({"revoked": name})
    else:
        terminal.say(f"token {name} is revoked")


def _token_json(token: AccessToken) -> dict[str, Any]:
    return {
        "name": token.name,
        "agents": list(token.agents),
        "scope": token.scope,
        "created_at": token.created_at.isoformat(),
        "expires_at": token.expires_at.isoformat() if token.expires_at else None,
    }
