"""The demo's tables: narrow enough for 80 columns. Knows nothing of processes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from deltamem_agents.terminal import milliseconds, printable

if TYPE_CHECKING:
    from deltamem_agents.demo.rows import Row


SOURCES = {"state": "magenta", "records": "blue", "both": "green"}
NARROW, WIDE = 20, 40  # width of the question column


def answers_table(rows: Sequence[Row], width: int, *, source: str = "Source") -> Table:
    """Make a table with one section per question and one line per way of answering it.

    Args:
        width: Width of the terminal; 80 is enough.
        source: Heading of the column that names parts of memory.
    """
    asked = NARROW if width < 110 else WIDE
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("Question", width=asked, overflow="fold")
    table.add_column("Memory", no_wrap=True)
    table.add_column("Answer", min_width=13, overflow="fold")
    table.add_column(source, no_wrap=True)
    for heading in ("Context\ntokens", "State\nbytes", "First\ntoken"):
        table.add_column(heading, justify="right", no_wrap=True)
    order = {row.question: number for number, row in reversed(list(enumerate(rows)))}  # first row of each question
    by_question = sorted(rows, key=lambda row: order[row.question])
    for question, group in groupby(by_question, key=lambda row: row.question):
        _add_section(table, question, list(group), asked)
    return table


def _add_section(table: Table, question: str, rows: list[Row], width: int) -> None:
    """Add a section; the question's lines are spread over its rows, so that a long question adds no height."""
    lines = _wrapped(question, width, len(rows))
    for number, row in enumerate(rows):
        table.add_row(
            Text(printable(lines[number]), style="cyan"),
            row.way,
            Text(printable(row.answer) or "–", style="dim" if row.source == "neither" else "bold"),
            Text(row.source, style=SOURCES.get(row.source, "dim")),
            f"{row.context_tokens:,}",
            f"{row.state_bytes:,}",
            milliseconds(row),
            end_section=number == len(rows) - 1,
        )


def _wrapped(text: str, width: int, count: int) -> list[str]:
    """Exactly ``count`` lines; what does not fit stays on the last one."""
    lines: list[str] = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width and len(lines) < count:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines + [""] * (count - len(lines))
