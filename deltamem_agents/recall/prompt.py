"""The form of recalled text that the bundled model was trained on, and `Form`, the interface of any such form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deltamem_agents.recall.protocols import Record

HEADER = "Relevant memory:"
GUESS = "Memory suggests"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A way of writing records into a prompt.

    Args:
        text: Formats records, oldest first, after memory's guess; empty if there is neither.
        frame: The text around the records, for measuring.
        line: The text that one record adds.
        slack: How many tokens more or fewer a line may measure next to others than alone.
    """

    text: Callable[[Sequence[Record], str], str]
    frame: str
    line: Callable[[Record], str]
    slack: int


def trained_text(records: Sequence[Record], guess: str = "") -> str:
    """The records, oldest first, one a line below a header; empty if there are none.

    A record's own line breaks become spaces. A record that a newer one contradicts says until when it held.

    Args:
        guess: The answer of the state alone.
    """
    oldest_first = sorted(records, key=lambda record: (record.position, record.chunk))
    lines = [HEADER, *map(_line, oldest_first)] if records else []
    return "\n".join([*([f"{GUESS}: {one_line(guess)}"] if guess else []), *lines])


def until(record: Record) -> str:
    """Until when a contradicted record held, such as "until 3 May"; empty for a record that still holds."""
    if record.until is None:
        return ""
    year = "" if record.until.year == record.created_at.year else f" {record.until.year}"
    return f"until {record.until.day} {record.until:%B}{year}"


def current(records: Sequence[Record]) -> list[Record]:
    """The records that no newer one contradicts."""
    return [record for record in records if not record.outdated]


def one_line(text: str) -> str:
    """A text without its line breaks."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())


def _line(record: Record) -> str:
    held = f" ({until(record)})" if record.until is not None else ""
    return f"- {record.role}: {one_line(record.text)}{held}"


TRAINED = Form(text=trained_text, frame=HEADER, line=_line, slack=2)
