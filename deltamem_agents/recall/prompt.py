"""Records into the text a model is handed. The bundled model is trained on exactly this format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.recall.protocols import Record

HEADER = "Relevant memory:"
SLACK = 2  # tokens by which a line may measure more or less beside others than alone


def recall_text(records: Sequence[Record]) -> str:
    """The records, oldest first, one a line below a header; empty where there are none.

    A record's own line breaks become spaces, so that no text can pass for a line of another speaker. One that a newer
    record contradicts says until when it held.
    """
    if not records:
        return ""
    oldest_first = sorted(records, key=lambda record: (record.position, record.chunk))
    return "\n".join([HEADER, *map(_line, oldest_first)])


def within_budget(records: Sequence[Record], budget: int, measure: Callable[[str], int] = len) -> list[Record]:
    """The highest-ranked records whose `recall_text` measures at most ``budget``; the order of ``records`` is kept.

    Args:
        records: Best first.
        budget: In the unit of ``measure``.
        measure: Length of a text: characters by default, or tokens of a tokenizer.

    Raises:
        ConfigError: The budget is negative.
    """
    check_budget(budget)
    kept: list[Record] = []
    total, exact = measure(HEADER), True  # lines are measured one by one, and all together where it matters
    for record in records:
        line = measure(f"\n{_line(record)}")
        if not exact and total + line + SLACK > budget:
            total, exact = measure(recall_text(kept)), True
        if total + line + SLACK <= budget:
            kept.append(record)
            total, exact = total + line, False
        elif total + line - SLACK <= budget and (together := measure(recall_text([*kept, record]))) <= budget:
            kept.append(record)
            total = together
    while kept and measure(recall_text(kept)) > budget:
        kept.pop()
    return kept


def check_budget(budget: int) -> None:
    """Raise ConfigError if a budget is negative."""
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise ConfigError(
            f"budget {shown(budget)} is negative or not whole; give 0 for no records, or leave it out for no limit"
        )


def _line(record: Record) -> str:
    return f"- {record.role}: {_one_line(record.text)}{_until(record)}"


def _until(record: Record) -> str:
    if record.until is None:
        return ""
    year = "" if record.until.year == record.created_at.year else f" {record.until.year}"
    return f" (until {record.until.day} {record.until:%B}{year})"


def current(records: Sequence[Record]) -> list[Record]:
    """The records that no newer one contradicts."""
    return [record for record in records if not record.outdated]


def _one_line(text: str) -> str:
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
