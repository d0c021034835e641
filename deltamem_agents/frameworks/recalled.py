"""Recalled text that can be made shorter again, for frameworks that learn how much room there is when they have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from deltamem_agents.recall import Record, recall_text
from deltamem_agents.recall.budget import text_within
from deltamem_agents.recall.given import note_given


class RecalledText(str):
    """Text for a prompt, and the records that it is made of, best first. Where it comes back, it is `recalled_in` it.

    Args:
        records: See `recall_text` for how they read.
        text: What it says; by default what they read like.
    """

    __slots__ = ("records",)
    records: Sequence[Record]

    def __new__(cls, records: Sequence[Record] = (), text: str = "") -> Self:  # noqa: D102  # see the class
        made = super().__new__(cls, text or recall_text(records))
        made.records = records
        if made:
            note_given(made)
        return made

    def within(self, limit: int, measure: Callable[[str], int]) -> Self:
        """This text, or that of its highest-ranked records which measures at most ``limit``; nothing where none does.

        Args:
            measure: Length of a text, such as its tokens.
        """
        if not self or measure(self) <= limit:
            return self
        text, kept = text_within(self.records, max(limit, 0), measure)
        return type(self)(kept, text)
