"""The command line ``deltamem``. Thin: each command checks its arguments, calls the memory and shows the result.

Environment variables are read here: DELTAMEM_URL, DELTAMEM_AGENT. torch and Transformers are imported by the commands
that need them, as `deltamem --help` must be quick.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from deltamem_agents import terminal
from deltamem_agents.errors import ConfigError, DeltaMemError, InvalidMessageError

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem

DEBUG = "deltamem.debug"


class Commands(TyperGroup):
    """The commands; an error becomes one line on stderr and exit code 1, with its traceback only under ``--debug``."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):
                raise  # a usage error: Click prints it
            if ctx.meta.get(DEBUG):
                traceback.print_exc()
            text = " ".join(str(error).split())
            if not isinstance(error, DeltaMemError):
                text = f"unexpected {type(error).__name__}: {text}; run the command with --debug for the traceback"
            typer.echo(f"error: {text}", err=True)
            raise typer.Exit(1) from error


def _debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta[DEBUG] = True
    return value


def _version(value: bool) -> None:
    if value:
        from deltamem_agents import __version__

        typer.echo(f"deltamem {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="deltamem",
    cls=Commands,
    help="Memory for AI agents that lives in the model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.", callback=_debug, is_eager=True)]
Agent = Annotated[str, typer.Option("--agent", help="Whose memory.", envvar="DELTAMEM_AGENT")]
Url = Annotated[str, typer.Option("--url", help="Database; created where there is none.", envvar="DELTAMEM_URL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Session = Annotated[str, typer.Option("--session", help="The conversation.")]
OneSession = Annotated[str | None, typer.Option("--session", help="Only this conversation.")]
ModeOption = Annotated[str, typer.Option("--mode", help="state, vector or hybrid.")]
K = Annotated[int, typer.Option("--k", help="Records at most.")]
Backbone = Annotated[str, typer.Option("--backbone", help="'tiny', a folder, or a hub id.")]
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


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    """Memory for AI agents that lives in the model."""
    terminal.quiet_libraries()


@app.command()
def write(
    text: Annotated[
        list[str], typer.Argument(metavar="TEXT…", help="Messages; '-' reads them from stdin, one a line.")
    ],
    agent: Agent = DEFAULT_AGENT,
    session: Session = "default",
    role: Annotated[str, typer.Option("--role", help="user, assistant, system or tool.")] = "user",
    url: Url = DEFAULT_URL,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Journal messages and fold them into an agent's state."""
    from deltamem_agents.store import check_id, check_messages

    messages = [{"role": role, "content": each} for each in _texts(text)]
    check_id(agent)
    check_id(session, "session")
    check_messages(messages)  # before a model is loaded or a database made
    with _opened(url, backbone, adapter, device, dtype, embedder) as mem:
        with terminal.progress(f"Folding {terminal.counted(len(messages), 'message')}"):
            ids = mem.agent(agent).write(messages, session)
        if json:
            terminal.print_json({"agent": agent, "session": session, "ids": ids})
        else:
            typer.echo(f"{terminal.counted(len(ids), 'message')} written to agent {agent!r}, session {session!r}")


@app.command()
def recall(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A question, or any text to find what belongs to it.")],
    agent: Agent = DEFAULT_AGENT,
    mode: ModeOption = "hybrid",
    k: K = 5,
    session: OneSession = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """What an agent's memory has to say to a query."""
    _check_recall(agent, mode, k)
    with _opened(url, backbone, adapter, device, dtype, embedder) as mem:
        with terminal.progress("Recalling"):
            found = mem.agent(agent).recall(query, mode=mode, k=k, session=session)
        if json:
            terminal.print_json(terminal.recall_json(found))
        else:
            terminal.show_recall(found)


@app.command()
def chat(
    message: Annotated[
        str | None, typer.Argument(metavar="[MESSAGE]", help="One message; without it, a conversation.")
    ] = None,
    agent: Agent = DEFAULT_AGENT,
    session: Session = "default",
    mode: ModeOption = "hybrid",
    k: K = 5,
    url: Url = DEFAULT_URL,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Talk with the backbone under an agent's memory; what is said is remembered."""
    from deltamem_agents.store import check_id, check_messages

    if json and message is None:
        raise typer.BadParameter("give a message with --json", param_hint="MESSAGE")
    _check_recall(agent, mode, k)
    check_id(session, "session")
    if message is not None:
        check_messages([{"role": "user", "content": message}])
    with _opened(url, backbone, adapter, device, dtype, embedder) as mem:
        memory = mem.agent(agent)
        for each in _spoken() if message is None else [message]:
            turn = [{"role": "user", "content": each}]
            if json:
                with terminal.progress("Answering"):
                    reply = memory.chat(turn, session, mode=mode, k=k)
                terminal.print_json(
                    {
                        "text": reply.text,
                        "recall": terminal.recall_json(reply.recall),
                        "usage": reply.usage.as_dict(),
                        "finished": reply.finished,
                    }
                )
            else:
                pieces = memory.chat_stream(turn, session, mode=mode, k=k)
                with terminal.progress("Recalling"):
                    first = next(pieces, "")
                for piece in chain([first], pieces):
                    typer.echo(terminal.printable(piece), nl=False)
                typer.echo()


@app.command()
def log(
    agent: Agent = DEFAULT_AGENT,
    session: OneSession = None,
    url: Url = DEFAULT_URL,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show an agent's journal: the messages it remembers, in order."""
    from deltamem_agents.store import Store

    with Store.open(url) as store:
        entries = store.live(agent, session=session)
    if json:
        terminal.print_json([terminal.entry_json(entry) for entry in entries])
    else:
        terminal.show_log(entries)


@app.command()
def agents(url: Url = DEFAULT_URL, json: Json = False, debug: Debug = False) -> None:
    """List the agents of a database."""
    from deltamem_agents.store import Store

    with Store.open(url) as store:
        found = store.agents()
    if json:
        terminal.print_json([terminal.agent_json(each) for each in found])
    else:
        terminal.show_agents(found)


@app.command()
def rebuild(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Whose state.")],
    url: Url = DEFAULT_URL,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    debug: Debug = False,
) -> None:
    """Fold an agent's journal anew, where a stored state is damaged."""
    from deltamem_agents.errors import UnknownAgentError

    with _opened(url, backbone, adapter, device, dtype, "none") as mem:
        memory = mem.agent(agent)
        if mem.store.agent(agent) is None:
            raise UnknownAgentError(f"no agent {agent!r} in {mem.store.url}; 'deltamem agents' lists those there are")
        with terminal.progress("Folding the journal"):
            memory.rebuild()
        if json:
            terminal.print_json({"agent": agent, "messages": len(memory.log())})
        else:
            typer.echo(
                f"the state of agent {agent!r} was folded anew from {terminal.counted(len(memory.log()), 'message')}"
            )


@app.command()
def doctor(
    url: Annotated[
        str | None,
        typer.Option("--url", help="Look at this database too; it is not changed.", envvar="DELTAMEM_URL"),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what is in use on this machine and why, and what would make it faster."""
    with terminal.progress("Looking around"):
        from deltamem_agents.doctor import check_up

        found = check_up(url)
    if json:
        terminal.print_json(found.as_dict())
    else:
        found.show(terminal.stdout())
    if found.failure is not None:
        typer.echo(f"error: {' '.join(found.failure.split())}", err=True)
        raise typer.Exit(1)


@app.command()
def demo(
    fact: Annotated[
        list[str] | None, typer.Option("--fact", help="Tell this in place of the built-in facts; repeatable.")
    ] = None,
    ask: Annotated[
        list[str] | None, typer.Option("--ask", help="Ask this in place of the built-in questions; repeatable.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Keep the demo's database here; by default it is removed.")
    ] = None,
    json: Json = False,
    backbone: Backbone = "tiny",
    adapter: Adapter = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    embedder: Embedder = None,
    debug: Debug = False,
) -> None:
    """Tell an agent facts in one process, ask for them in another, and compare the ways of remembering."""
    from deltamem_agents.demo import run_demo

    if fact and not ask:
        raise typer.BadParameter("give at least one question with --ask", param_hint="--fact")
    options = _open_options(backbone, adapter, device, dtype, embedder)
    with terminal.progress("Starting") as advance:
        shown = run_demo(fact or None, ask or None, url=url, options=options, advance=advance)
    if json:
        terminal.print_json(shown.as_dict())
    else:
        shown.show(terminal.stdout())


@app.command()
def train(
    out: Annotated[Path, typer.Option("--out", help="Folder for the backbone, its tokenizer and its adapter.")],
    steps_backbone: Annotated[
        int | None, typer.Option("--steps-backbone", help="Steps of the backbone; by default the bundled model's.")
    ] = None,
    steps_adapter: Annotated[
        int | None, typer.Option("--steps-adapter", help="Steps of the adapter; by default the bundled model's.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Equal seeds give equal files.")] = 0,
    conversations: Annotated[
        int,
        typer.Option("--conversations", help="Held-out ones behind each figure of the model card; 0 measures none."),
    ] = 256,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a small backbone and its adapter as the bundled ones were, from generated conversations."""
    reached: dict[str, dict[str, Any]] = {}
    with terminal.progress("Loading torch") as advance:
        from deltamem_agents.training import StageProgress, train_tiny

        def on_progress(now: StageProgress) -> None:
            if now.stage == "evaluation":
                advance(now.stage, now.step, now.steps)
                return
            reached[now.stage] = {"steps": now.step, "loss": now.loss, "right": now.right}
            advance(f"{now.stage}: loss {now.loss:.3f}, {now.right:.0%} right", now.step, now.steps)

        trained = train_tiny(
            out,
            backbone_steps=steps_backbone,
            adapter_steps=steps_adapter,
            seed=seed,
            conversations=conversations,
            on_progress=on_progress,
        )
    if json:
        terminal.print_json({"out": str(trained.folder), "seconds": trained.seconds, "stages": reached})
        return
    for stage, last in reached.items():
        typer.echo(f"{stage}: {last['steps']} steps, loss {last['loss']:.3f}, {last['right']:.0%} right")
    typer.echo(f"saved to {trained.folder}; use it with --backbone {trained.folder}")


def _check_recall(agent: str, mode: str, k: int) -> None:
    """Refuse what a recall would refuse, before a model is loaded or a database made."""
    from deltamem_agents.store import check_id

    check_id(agent)
    if k < 1:
        raise ConfigError(f"k is {k}; ask for 1 record or more")
    from deltamem_agents.memory.results import check_mode

    check_mode(mode)


def _texts(given: list[str]) -> list[str]:
    texts: list[str] = []
    for each in given:
        texts += [line for line in sys.stdin.read().splitlines() if line.strip()] if each == "-" else [each]
    if not texts:
        raise InvalidMessageError("standard input holds no message; give one a line")
    return texts


def _spoken() -> Iterator[str]:
    """What a person types, line by line, until the end of input or "/exit"."""
    asked = "you> " if sys.stdin.isatty() else ""
    if asked:
        typer.echo("Say something; /exit or Ctrl-D ends.", err=True)
    while True:
        try:
            line = input(asked).strip()
        except EOFError:
            return
        if line == "/exit":
            return
        if line:
            yield line


def _open_options(backbone: str, adapter: str | None, device: str, dtype: str, embedder: str | None) -> dict[str, Any]:
    """Keyword arguments of `DeltaMem.open`."""
    return {
        "backbone": backbone,
        "adapter": adapter,
        "device": device,
        "dtype": dtype,
        "embedder": False if embedder == "none" else embedder,
    }


@contextmanager
def _opened(
    url: str, backbone: str, adapter: str | None, device: str, dtype: str, embedder: str | None
) -> Iterator[DeltaMem]:
    with terminal.progress(f"Loading {backbone}"):
        from deltamem_agents.memory import DeltaMem

        terminal.quiet_bars()
        mem = DeltaMem.open(url=url, **_open_options(backbone, adapter, device, dtype, embedder))
    with mem:
        yield mem


if __name__ == "__main__":
    app()
