"""Recalled text that can be shortened later, for frameworks that learn the available room only after the recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from deltamem_agents.recall import Record, recall_text
from deltamem_agents.recall.budget import text_within
from deltamem_agents.recall.given import note_given


class RecalledText(str):
    """Text for a prompt, with its records, best first. `recalled_in` recognizes it in a later prompt.

    Args:
        records: The records; `recall_text` formats them.
        text: The text; defaults to that of the records.
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
        """This text, or that of its highest-ranked records that fit into ``limit``; empty if none fits.

        Args:
            measure: Computes the length of a text, such as its number of tokens.
        """
        if not self or measure(self) <= limit:
            return self
        text, kept = text_within(self.records, max(limit, 0), measure)
        return type(self)(kept, text)
