"""Shortens tool results for the journal to their beginning and end, and keeps them out of the state.

A tool may return a whole web page. Folding that takes seconds, and the state would reflect the page rather than what
people said. The shortened result can still be recalled by its words, ranked below what people said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.messages import block_text

LIMIT = 4_000  # characters

_MARK = re.compile(r"\n\[… ([\d,]+) characters left out …\]\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """How much of a tool's result to journal, and whether to fold it.

    Args:
        limit: Number of characters, half from the beginning and half from the end; None for all.
        folded: Whether the result goes into the state.

    Raises:
        ConfigError: The limit is negative or not whole, or ``folded`` is neither True nor False.
    """

    limit: int | None = LIMIT
    folded: bool = False

    def __post_init__(self) -> None:
        limit = self.limit
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise ConfigError(
                f"tool_output is {shown(limit)}; give characters of a tool's result to journal, 0 for the mark alone, "
                "or None for all"
            )
        if not isinstance(self.folded, bool):
            raise ConfigError(f"fold_tool_output is {shown(self.folded)}; give True or False")

    def of(self, content: str | list[Any] | None) -> str | list[Any] | None:
        """A result as it is journalled; blocks that are not text stay as they are."""
        if self.limit is None or content is None:
            return content
        if isinstance(content, str):
            return capped(content, self.limit)
        return _capped_blocks(content, self.limit)


def capped(text: str, limit: int) -> str:
    """The beginning and end of a text, ``limit`` characters in all, with a mark between that counts what was left out.

    A text that is already cut to ``limit`` stays as it is, since clients send it again.
    """
    head, tail = limit - limit // 2, limit // 2
    if len(text) <= limit or _is_cut(text, head, tail):
        return text
    return f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[len(text) - tail :]}"


def is_cut_of(cut: str, whole: str) -> bool:
    """Whether `capped` can turn ``whole`` into ``cut``, at any limit."""
    for mark in _MARK.finditer(cut):
        head, tail = cut[: mark.start()], cut[mark.end() :]
        count = int(mark[1].replace(",", "") or 0)
        if len(whole) == len(head) + count + len(tail) and whole.startswith(head) and whole.endswith(tail):
            return True
    return False


def _is_cut(text: str, head: int, tail: int) -> bool:
    mark = _MARK.match(text, head)
    return mark is not None and mark.end() == len(text) - tail


def are_cuts(one: str, other: str) -> bool:
    """Whether `capped` can turn one of two texts into the other, at any limit."""
    return is_cut_of(one, other) or is_cut_of(other, one)


def _capped_blocks(blocks: list[Any], limit: int) -> list[Any]:
    """The blocks with their texts, taken together, cut to beginning and end; a text block left empty is dropped."""
    joined = "".join(block_text(block) or "" for block in blocks)
    total, head, tail = len(joined), limit - limit // 2, len(joined) - limit // 2
    if total <= limit or _is_cut(joined, head, limit // 2):
        return blocks
    kept: list[Any] = []
    at, marked = 0, False
    for block in blocks:
        text = block_text(block)
        if text is None:
            kept.append(block)
            continue
        first, last = text[: max(0, head - at)], text[max(0, tail - at) :]
        at += len(text)
        if len(first) + len(last) >= len(text):
            kept.append(block)
            continue
        mark = "" if marked else f"\n[… {total - limit:,} characters left out …]\n"
        marked = True
        if first or mark or last:
            kept.append(_with_text(block, f"{first}{mark}{last}"))
    return kept


def _with_text(block: Any, text: str) -> Any:
    return text if isinstance(block, str) else {**block, "text": text}
