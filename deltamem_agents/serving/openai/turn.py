"""`Turn`: one request of a conversation, what memory adds to it, and what of it is journalled.

A turn is journalled once, when its reply is complete and before the caller is told so: a reply that a caller got whole
is durable, and a turn that failed or was cut off has left nothing. A whole history that a client sends again is aligned
with what the session holds, as in the LangChain middleware.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deltamem_agents.frameworks.calling import beyond_prompt, for_search
from deltamem_agents.frameworks.messages import FrameworkMessage, for_journal
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.frameworks.resent import unwritten
from deltamem_agents.memory import AgentMemory, DeltaMem, RecallOptions
from deltamem_agents.messages import text_of
from deltamem_agents.recall import Record
from deltamem_agents.serving.openai.messages import question
from deltamem_agents.store import MessageLookup

HANDED = "handed"  # key of a reply's metadata: what its turn was handed


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: the agent, the session, and the messages as they were sent.

    Args:
        handed: What memory has added to the prompt: ``mode``, ``positions`` of records, ``tokens``, and the position up
            to which the ``state`` was folded. The reply's message keeps it.
    """

    mem: DeltaMem
    agent: AgentMemory
    session: str
    messages: Sequence[FrameworkMessage]
    handed: dict[str, Any] = field(default_factory=dict)

    async def recalled(self, options: RecallOptions) -> RecalledText:
        """Text for the prompt: what memory has for the newest question, and the messages do not say themselves.

        Raises:
            DeltaMemError: Memory fails.
        """
        query = question(self.messages)
        if not query:
            return RecalledText()
        present = [text_of(each.content) for each in self.messages]
        found = await self.agent.arecall(query, **for_search(options, present, query))
        text = beyond_prompt(self.mem, found, options, present)
        self.hand(options.mode, text.records, self.mem.backbone.count(text))
        return text

    def hand(self, mode: str, records: Iterable[Record], tokens: int, state: int | None = None) -> None:
        """Note what the turn is handed; see `handed`."""
        positions = list(dict.fromkeys(record.position for record in records))
        self.handed.update(mode=mode, positions=positions, tokens=tokens, state=state)

    def noted(self, reply: FrameworkMessage) -> FrameworkMessage:
        """The reply with what its turn was handed."""
        return replace(reply, metadata={**reply.metadata, HANDED: self.handed}) if self.handed else reply

    async def journal(self, reply: FrameworkMessage | None) -> list[str]:
        """Write what the session does not hold yet of the messages, and the reply.

        Raises:
            DeltaMemError: Nothing was written.
        """
        said = for_journal(each for each in self.messages if each.role != "system")
        said += for_journal([self.noted(reply)]) if reply else []

        def select(held: MessageLookup) -> list[dict[str, Any]]:
            return unwritten(held, self.agent.id, self.session, said)

        return await self.agent.awrite_selected(select, self.session, wait=False) if said else []
