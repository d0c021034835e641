"""The application, and what happens to its errors. Knows no command."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from deltamem_agents import telemetry, terminal
from deltamem_agents.cli.remedies import spelled
from deltamem_agents.errors import DeltaMemError

DEBUG = "deltamem.debug"
CAPTURE_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"  # OpenTelemetry's own name


class Commands(TyperGroup):
    """The commands; an error becomes one line on stderr and exit code 1, with its traceback only under ``--debug``."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run as a process would."""
        terminal.prepare_streams()
        telemetry.capture_content(os.environ.get(CAPTURE_VARIABLE, "").strip().lower() == "true")
        return super().main(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            for note in getattr(interrupt, "__notes__", ()):  # what is durable
                terminal.say(f"\n{note}", err=True)
            raise
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):
                _redact(error)
                raise  # a usage error: Click prints it
            if ctx.meta.get(DEBUG):
                terminal.say(traceback.format_exc(), err=True, end="")
            terminal.say(f"error: {told(error)}", err=True)
            raise typer.Exit(1) from error


def told(error: Exception) -> str:
    """An error in one line, with remedies as they are spelled on the command line."""
    text = " ".join(str(error).split())
    if isinstance(error, DeltaMemError):
        return spelled(text)
    return f"unexpected {type(error).__name__}: {text}; run the command with --debug for the traceback"


@contextmanager
def interruptible(note: str | Callable[[], str]) -> Iterator[None]:
    """If Ctrl-C interrupts this, say what is durable, unless that has been said already."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not getattr(interrupt, "__notes__", ()):
            interrupt.add_note(note if isinstance(note, str) else note())
        raise


def _redact(error: Any) -> None:
    """Clean a usage error, which quotes what was typed: that may be a URL with a password, or control the terminal."""
    if isinstance(getattr(error, "message", None), str):
        from deltamem_agents.store.masking import redacted_arguments

        error.message = terminal.printable(redacted_arguments(error.message))


def _debug(ctx: typer.Context, value: bool) -> bool:
    if value:
        ctx.meta[DEBUG] = True
    return value


def _version(value: bool) -> None:
    if value:
        from deltamem_agents import __version__

        terminal.say(f"deltamem {__version__}")
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


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
    debug: Debug = False,
) -> None:
    """Memory for AI agents that lives in the model."""
    terminal.quiet_libraries()
