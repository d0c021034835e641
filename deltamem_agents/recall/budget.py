"""Choose the records that fit a budget of tokens, in a form of recalled text; callers supply the tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.recall.notes import NOTES, recall_text
from deltamem_agents.recall.prompt import TRAINED, Form, trained_text
from deltamem_agents.recall.protocols import Record


def within_budget(
    records: Sequence[Record], budget: int, measure: Callable[[str], int] = len, form: Form = NOTES
) -> list[Record]:
    """The highest-ranked records whose text measures at most ``budget``, in the order of ``records``.

    Args:
        records: Best first.
        budget: The limit, in the unit of ``measure``.
        measure: Length of a text: characters by default, or a tokenizer's tokens.
        form: The form of the text.

    Raises:
        ConfigError: The budget is negative.
    """
    check_budget(budget)
    kept: list[Record] = []
    total, exact = measure(form.frame), True  # lines are measured one by one; together only near the limit
    for record in records:
        line = measure(f"\n{form.line(record)}")
        if not exact and total + line + form.slack > budget:
            total, exact = measure(form.text(kept, "")), True
        if total + line + form.slack <= budget:
            kept.append(record)
            total, exact = total + line, False
        elif total + line - form.slack <= budget and (together := measure(form.text([*kept, record], ""))) <= budget:
            kept.append(record)
            total = together
    while kept and measure(form.text(kept, "")) > budget:
        kept.pop()
    return kept


def text_within(
    records: Sequence[Record], budget: int, measure: Callable[[str], int] = len, guess: str = ""
) -> tuple[str, list[Record]]:
    """The notes of the highest-ranked records that fit a budget, and these records; see `notes.recall_text`.

    If the frame of notes leaves room for no record, the best record that fits stands alone, on one line below a header.

    Args:
        guess: The answer of the state alone; it is dropped first if not everything fits.

    Raises:
        ConfigError: The budget is negative.
    """
    kept = within_budget(records, budget, measure)
    for text in (recall_text(kept, guess), recall_text(kept)):
        if text and measure(text) <= budget:
            return text, kept
    if guess and measure(trained_text([], guess)) <= budget:
        return trained_text([], guess), []
    short = within_budget(records, budget, measure, TRAINED)[:1]
    return trained_text(short), short


def check_budget(budget: int) -> None:
    """Raise ConfigError if a budget is negative."""
    if isinstance(budget, bool) or not isinstance(budget, int) or budget < 0:
        raise ConfigError(
            f"budget {shown(budget)} is negative or not whole; give 0 for no records, or leave it out for no limit"
        )
