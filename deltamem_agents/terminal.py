"""What the command line shows: progress on stderr, results on stdout, JSON for programs. Knows no commands.

Imports rich only, and that on use: `deltamem --help` must be quick.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from deltamem_agents.memory import Recall
    from deltamem_agents.store import AgentInfo, Entry

Advance = Callable[[str, int, int], None]  # what is being done, steps done, steps in all (0: not known)
_CONTROLS = {code: "�" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def quiet_libraries() -> None:
    """Keep other libraries' progress bars, warnings and retries off the terminal; call before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.simplefilter("ignore")
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def quiet_bars() -> None:
    """Keep Transformers from drawing bars of its own below ours. Imports it."""
    from huggingface_hub.utils import logging as hub
    from transformers.utils import logging as transformers

    transformers.disable_progress_bar()  # type: ignore[no-untyped-call]
    hub.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").propagate = False


@contextmanager
def progress(text: str) -> Iterator[Advance]:
    """A bar on stderr while something takes its time; it vanishes at the end. Nothing where stderr is no terminal.

    Yields:
        A function that changes what is shown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    class Counted(MofNCompleteColumn):
        def render(self, task: Any) -> Any:
            return super().render(task) if task.total else ""

    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        Counted(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total or None)

        yield advance


def printable(text: str) -> str:
    """Text that cannot steer the terminal: control characters, which stored messages may hold, are replaced."""
    return text.translate(_CONTROLS)


def shell_word(text: str) -> str:
    """Text as one word of a command that a person may copy."""
    return shlex.quote(printable(text))


def counted(number: int, noun: str) -> str:
    """ "1 message", "2 messages"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def recall_json(found: Recall) -> dict[str, Any]:
    """A recall for a program."""
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
                "created_at": record.created_at.isoformat(),
                "metadata": dict(record.metadata),
            }
            for record in found.records
        ],
        "source": found.source,
        "confidence": found.confidence,
        "usage": found.usage.as_dict(),
        "notes": list(found.notes),
    }


def entry_json(entry: Entry) -> dict[str, Any]:
    """A message of the journal for a program."""
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
    """An agent for a program."""
    return {
        "id": agent.id,
        "messages": agent.messages,
        "position": agent.position,
        "epoch": agent.epoch,
        "created_at": agent.created_at.isoformat(),
    }


def show_recall(found: Recall) -> None:
    """A recall for a person: the answer and where it came from, then the records."""
    from rich.text import Text

    console = stdout()
    if found.answer is None:
        nothing = "Memory supports no answer." if found.records else "Memory holds nothing about this."
        console.print(nothing, style="dim")
    if found.answer is not None:
        origin = {"state": "the state", "records": "records", "both": "state and records", "neither": "neither part"}
        console.print(Text(printable(found.answer) or "(an empty answer)", style="bold"))
        usage = found.usage
        first = "" if usage.first_token_seconds is None else f", first token after {milliseconds(usage)}"
        console.print(
            f"from {origin[found.source]}, confidence {found.confidence:.2f}, {usage.context_tokens} tokens of "
            f"recalled text, {usage.state_bytes:,} bytes of state{first}",
            style="dim",
            markup=False,
        )
    if found.records:
        rows = [
            (f"{record.score:.4f}", record.session, record.role, printable(record.text)) for record in found.records
        ]
        console.print()
        console.print(table(("score", "session", "role", "record"), rows))
    for note in found.notes:
        console.print(f"note: {note}", style="dim", markup=False)


def show_log(entries: Sequence[Entry]) -> None:
    """A journal for a person."""
    if not entries:
        stdout().print("No messages.", style="dim")
        return
    rows = [
        (str(each.position), each.session, each.role, printable(each.text) or "(no text)", f"{each.created_at:%F %R}")
        for each in entries
    ]
    stdout().print(table(("#", "session", "role", "message", "written (UTC)"), rows))


def show_agents(agents: Sequence[AgentInfo]) -> None:
    """Agents for a person."""
    if not agents:
        stdout().print("No agents.", style="dim")
        return
    rows = [(each.id, str(each.messages), f"{each.created_at:%F %R}") for each in agents]
    stdout().print(table(("agent", "messages", "first written (UTC)"), rows))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    """A plain table; cells are text, never markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*(Text(printable(cell)) for cell in row))
    return made


def stdout() -> Console:
    """A console on the present stdout."""
    from rich.console import Console

    return Console(highlight=False)


def milliseconds(usage: Any) -> str:
    """Time to first token, for a person."""
    return "–" if usage.first_token_seconds is None else f"{usage.first_token_seconds * 1000:.0f} ms"


def show_distances(layers: Mapping[str, float], heading: str) -> None:
    """Relative distances of two states by module, for a person."""
    if layers:
        stdout().print(table(("module", heading), [(name, f"{value:.2e}") for name, value in layers.items()]))
