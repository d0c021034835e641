"""The rules of a repository in the prompts of a `DeltaMemory`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, TextBlock

from deltamem_agents.errors import require_extra
from deltamem_agents.frameworks.failing import OnError, fails_open, is_open
from deltamem_agents.memory import DeltaMem
from llama_index_deltamem.sync_methods import in_run

if TYPE_CHECKING:
    from deltamem_agents.guidelines.briefing import Briefing

TRIES = 3  # a memory's tokenizer may count more than the brief's own estimate


class Rules:
    """Briefs of a repository that fit a memory's token limit; none without a repository.

    Raises:
        MissingExtraError: The extra ``guidelines`` is not installed.
        RepositoryError: There is no such folder, or it cannot be read.
    """

    def __init__(self, mem: DeltaMem, root: str | Path | None) -> None:
        self._briefing: Briefing | None = None
        if root is not None:
            require_extra("markdown_it", "guidelines", "guidelines")
            from deltamem_agents.guidelines.briefing import Briefing

            self._briefing = Briefing(mem, root)
        self.root = None if self._briefing is None else str(self._briefing.root)

    async def added(
        self,
        messages: list[ChatMessage],
        query: str,
        left: int,
        count: Callable[[Any], int],
        on_error: OnError,
    ) -> tuple[int, list[ChatMessage]]:
        """The messages with the rules that matter for a question in the system message, and the tokens of these rules.

        Without rules, if they do not fit, or if reading them fails, the messages are as they were.

        Args:
            left: The most tokens, as ``count`` counts them.
        """
        if self._briefing is None or not is_open(self._briefing.mem, on_error, in_run=in_run()):
            return 0, messages
        with fails_open(on_error, "reading guidelines"):
            budget = left
            for _ in range(TRIES):
                text = await asyncio.to_thread(self._briefing.text, query, budget)
                tokens = count([TextBlock(text=text)]) if text else 0
                if not text:
                    break
                if tokens <= left:
                    return tokens, with_text(messages, text)
                budget = budget * left // tokens - 1
        return 0, messages


def with_text(messages: list[ChatMessage], text: str) -> list[ChatMessage]:
    """The messages with a text at the end of the system message, which is made if there is none."""
    system = next((each for each in messages if each.role == "system"), None)
    if system is None:
        return [ChatMessage(role="system", blocks=[TextBlock(text=text)]), *messages]
    system.blocks = [*system.blocks, TextBlock(text=text)]
    return messages
