"""A row of the demo's tables, made from a recall or from a framework's reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltamem_agents.memory import DeltaMem, Recall
    from deltamem_agents.memory.answering import Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One answer and its cost.

    Args:
        way: How it was asked: a mode, a mode with its state removed, or a framework.
        source: The part of memory that raised the answer's probability; for a framework, the part that it was given.
        context_tokens: Tokens in the prompt in addition to the question's own.
        state_bytes: Size of the state that was read; 0 for none.
        first_token_seconds: From the start of the prompt's forward; None if unknown.
    """

    question: str
    way: str
    answer: str
    source: str
    context_tokens: int
    state_bytes: int
    first_token_seconds: float | None


def recalled(mem: DeltaMem, question: str, way: str, found: Recall) -> Row:
    """Make a row from a recall."""
    return Row(
        question=question,
        way=way,
        answer=found.answer or "",
        source=found.source,
        context_tokens=_added_tokens(mem, question, found.usage.prompt_tokens),
        state_bytes=found.usage.state_bytes,
        first_token_seconds=found.usage.first_token_seconds,
    )


def without_memory(question: str, way: str, answer: Answer) -> Row:
    """Make a row from an answer that used neither state nor records."""
    return Row(
        question=question,
        way=way,
        answer=answer.generation.text,
        source=answer.source,
        context_tokens=0,
        state_bytes=0,
        first_token_seconds=answer.generation.first_token_seconds,
    )


def given(mem: DeltaMem, question: str, way: str, answer: str, prompt_tokens: int, facts: Mapping[str, Any]) -> Row:
    """Make a row from a framework's reply.

    Args:
        facts: The reply's metadata.
    """
    context = _added_tokens(mem, question, prompt_tokens)
    state = int(facts["state_bytes"])
    return Row(
        question=question,
        way=way,
        answer=answer,
        source="both" if state and context else "state" if state else "records" if context else "neither",
        context_tokens=context,
        state_bytes=state,
        first_token_seconds=facts["first_token_seconds"],
    )


def _added_tokens(mem: DeltaMem, question: str, prompt_tokens: int) -> int:
    """Tokens of a prompt in addition to those of the bare question."""
    return max(0, prompt_tokens - len(mem.engine.rendering.question(question)))
