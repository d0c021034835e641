"""What the command line prints: progress on stderr, results on stdout, JSON for programs. Knows no commands.

All text shown to a person goes through `printable`, as messages, names and errors may hold anything. All output
survives a console of any encoding. Imports only rich, on use, as `deltamem --help` must be quick.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

from deltamem_agents.errors import DeltaMemError

if TYPE_CHECKING:
    from rich.console import Console

    from deltamem_agents.memory import Health, Recall
    from deltamem_agents.recall import Record
    from deltamem_agents.store import AgentInfo, Entry

T = TypeVar("T")
Advance = Callable[[str, int, int], None]  # the current activity, steps done, total steps (0: unknown)
# Characters that control a terminal or disguise a text: control characters except line breaks and tabs; line and
# paragraph separators; embeddings, overrides and isolates of writing direction; invisible characters not needed to
# spell a word (joiners and direction marks are); lone surrogates; tags.
_STEERING = (
    *(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"),
    *(0x2028, 0x2029, 0x200B, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2061, 0x2065), *range(0x2066, 0x2070)),
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
)
_CONTROLS = dict.fromkeys(_STEERING, "�")
_SURROGATES = re.compile("[\ud800-\udfff]")


def prepare_streams() -> None:
    """Make stdout and stderr escape what their encoding lacks, and discard output to a closed stream."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the parent process started this one with the stream closed
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # open for the whole process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


class OutputError(DeltaMemError, OSError):
    """Standard output cannot be written."""


class _Output:
    """The current stdout as a file; a failed write raises our own error.

    Raises:
        BrokenPipeError: The reader has gone, as ``head`` does; callers do not treat this as an error.
        OutputError: The disk is full, or a similar failure.
    """

    def write(self, text: str) -> int:
        return self._tried(lambda: sys.stdout.write(text))

    def flush(self) -> None:
        self._tried(lambda: sys.stdout.flush())

    def _tried(self, write: Callable[[], T]) -> T:
        try:
            return write()
        except BrokenPipeError:
            raise
        except OSError as error:
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # Python flushes the rest at exit
            raise OutputError(f"standard output cannot be written: {error.strerror}; send it elsewhere") from error

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stdout, name)


def say(text: str = "", *, err: bool = False, end: str = "\n") -> None:
    """Print text for a person and flush it.

    Raises:
        OutputError: Standard output cannot be written.
    """
    stream = sys.stderr if err else _Output()
    stream.write(printable(text) + end)
    stream.flush()


def can_ask() -> bool:
    """Whether a person can answer: both standard input and stderr, where questions go, are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def confirmed(question: str) -> bool:
    """Ask a person; only "y" or "yes" confirms. Anything else, including end of input, does not."""
    say(f"{question} [y/N] ", err=True, end="")
    try:
        return sys.stdin.readline().strip().casefold() in ("y", "yes")
    except UnicodeDecodeError:
        return False


def quiet_libraries() -> None:
    """Keep other libraries' progress bars, warnings and retries off the terminal; call before importing them."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def quiet_bars() -> None:
    """Keep Transformers from drawing its own bars below ours. Imports it."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as transformers

    transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").propagate = False


@contextmanager
def progress(text: str) -> Iterator[Advance]:
    """Show a temporary progress bar on stderr, if it is a terminal.

    Yields:
        A function that updates the bar.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    class Counted(MofNCompleteColumn):
        def render(self, task: Any) -> Any:
            return super().render(task) if task.total else ""

    console = Console(stderr=True)
    encoded = (console.encoding or "").startswith("utf")
    columns = (
        SpinnerColumn("dots" if encoded else "line"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Counted(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(printable(text), total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=printable(what), completed=done, total=total or None)

        yield advance


def printable(text: str) -> str:
    """Replace control characters and the like, so that text cannot control the terminal or pass for other text."""
    return _SURROGATES.sub("�", text.translate(_CONTROLS))


def shell_word(text: str) -> str:
    """Quote text as one word of a shell command that a person may copy."""
    return shlex.quote(printable(text))


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 message", "2 messages"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def print_json(value: Any) -> None:
    """Print one JSON document on stdout, in ASCII where the encoding of stdout lacks a character.

    Raises:
        OutputError: Standard output cannot be written.
    """
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    output = _Output()
    output.write(text + "\n")
    output.flush()


def recall_json(found: Recall) -> dict[str, Any]:
    """A recall as JSON-ready values."""
    return {
        "text": found.text,
        "answer": found.answer,
        "records": [
            {
                "text": record.text,
                "score": record.score,
                "session": record.session,
                "message_id": record.message_id,
                "role": record.role,
                "position": record.position,
                "chunk": record.chunk,
                "outdated": record.outdated,
                "until": None if record.until is None else record.until.isoformat(),
                "created_at": record.created_at.isoformat(),
                "metadata": dict(record.metadata),
            }
            for record in found.records
        ],
        "source": found.source,
        "confidence": found.confidence,
        "usage": found.usage.as_dict(),
        "left_out": found.left_out,
        "notes": list(found.notes),
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """A journal entry as JSON-ready values."""
    return {
        "id": entry.id,
        "position": entry.position,
        "session": entry.session,
        "role": entry.role,
        "content": entry.content,
        "metadata": entry.metadata,
        "created_at": entry.created_at.isoformat(),
        "folded": entry.folded,
    }


def agent_json(agent: AgentInfo) -> dict[str, Any]:
    """An agent as JSON-ready values."""
    return {
        "id": agent.id,
        "messages": agent.messages,
        "position": agent.position,
        "epoch": agent.epoch,
        "created_at": agent.created_at.isoformat(),
    }


def show_recall(found: Recall) -> None:
    """Print a recall for a person: the answer and its source, then the records.

    Raises:
        OutputError: Standard output cannot be written.
    """
    from rich.text import Text

    console = stdout()
    asked = found.usage.prompt_tokens > 0
    if found.answer is None and (asked or not found.records):
        nothing = "Memory supports no answer." if found.records else "Memory holds nothing about this."
        if found.left_out and not found.records:
            nothing = "What memory holds about this does not fit the budget."
        console.print(nothing, style="dim")
    if found.answer is not None:
        origin = {"state": "the state", "records": "records", "both": "state and records", "neither": "neither part"}
        console.print(Text(printable(found.answer) or "(an empty answer)", style="bold"))
        usage = found.usage
        first = "" if usage.first_token_seconds is None else f", first token after {milliseconds(usage)}"
        console.print(
            f"from {origin[found.source]}, confidence {found.confidence:.0%}, {usage.context_tokens} tokens of "
            f"recalled text, {usage.state_bytes:,} bytes of state{first}",
            style="dim",
            markup=False,
        )
    if found.records:
        headings: tuple[str, ...] = ("score", "outdated", "session", "role", "record")
        rows: list[tuple[str, ...]]
        rows = [(f"{each.score:.0%}", _until(each), each.session, each.role, each.text) for each in found.records]
        if not any(each.outdated for each in found.records):
            headings, rows = _without(headings, 1), [_without(row, 1) for row in rows]
        console.print()
        console.print(table(headings, rows))
    for note in found.notes:
        console.print(f"note: {printable(note)}", style="dim", markup=False)


def _without(cells: tuple[str, ...], column: int) -> tuple[str, ...]:
    return (*cells[:column], *cells[column + 1 :])


def _until(record: Record) -> str:
    """The "outdated" cell of a record: whether a newer record contradicts it, and since when."""
    if not record.outdated:
        return ""
    return "yes" if record.until is None else f"since {record.until:%F}"


def show_log(entries: Sequence[Entry]) -> None:
    """Print a journal for a person.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if not entries:
        stdout().print("No messages.", style="dim")
        return
    rows = [
        (str(each.position), each.session, each.role, printable(_said(each)), f"{each.created_at:%F %R}")
        for each in entries
    ]
    stdout().print(table(("#", "session", "role", "message", "written (UTC)"), rows))


def _said(entry: Entry) -> str:
    """The text of an entry, or a description of an entry without text."""
    if entry.content == [{"type": "history_cleared"}]:  # see `frameworks.messages.clearing`
        return "(a new conversation begins here; what was said before is still remembered)"
    return entry.text or "(no text)"


def show_agents(agents: Sequence[AgentInfo]) -> None:
    """Print agents for a person.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if not agents:
        stdout().print("No agents.", style="dim")
        return
    rows = [(each.id, str(each.messages), f"{each.created_at:%F %R}") for each in agents]
    stdout().print(table(("agent", "messages", "first written (UTC)"), rows))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """Make a plain table; cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(_escaped(printable(cell))) for cell in row))
    return made


def _escaped(text: str) -> str:
    """Escape what the encoding of stdout lacks, so that table columns get the right width."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def stdout() -> Console:
    """Make a console on the current stdout."""
    from rich.console import Console

    return Console(highlight=False, file=cast("TextIO", _Output()))


def milliseconds(usage: Any) -> str:
    """The time to the first token, for a person."""
    return "–" if usage.first_token_seconds is None else f"{usage.first_token_seconds * 1000:.0f} ms"


def show_distances(layers: Mapping[str, float], heading: str) -> None:
    """Print the relative distances of two states by module, for a person.

    Raises:
        OutputError: Standard output cannot be written.
    """
    if layers:
        stdout().print(table(("module", heading), [(name, f"{value:.2e}") for name, value in layers.items()]))


def show_health(health: Health) -> None:
    """Print an agent's health: what is stored, then a table of its layers."""
    folded = f"{health.unfolded} not folded yet" if health.unfolded else "all folded"
    say(
        f"{counted(health.messages, 'message')}, {folded}; "
        f"{counted(health.revisions, 'stored state')} of {health.state_bytes:,} bytes"
    )
    if health.fullness is not None:
        say(f"fullness {health.fullness:.0%}" + (f", drift {health.drift.worst:.1e}" if health.drift else ""))
    rows = [
        (name.removeprefix("model.layers.").removesuffix(".self_attn"), *map(_figure, layer.as_dict().values()))
        for name, layer in health.layers.items()
    ]
    if rows:
        headings = next(iter(health.layers.values())).as_dict()
        stdout().print(table(("layer", *(each.replace("_", " ") for each in headings)), rows))


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
