"""`Turn`: one request of a conversation, what memory adds to it, and what of it is journalled.

A turn is journalled once, when its reply is complete and before the caller is told so: a reply that a caller got whole
is durable, and a turn that failed or was cut off has left nothing. A whole history that a client sends again is aligned
with what the session holds, as in the LangChain middleware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deltamem_agents.frameworks.calling import beyond_prompt, for_search
from deltamem_agents.frameworks.messages import FrameworkMessage, for_journal
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.frameworks.resent import unwritten
from deltamem_agents.memory import AgentMemory, DeltaMem, RecallOptions
from deltamem_agents.messages import text_of
from deltamem_agents.serving.openai.messages import question
from deltamem_agents.store import MessageLookup


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: the agent, the session, and the messages as they were sent."""

    mem: DeltaMem
    agent: AgentMemory
    session: str
    messages: Sequence[FrameworkMessage]

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
        return beyond_prompt(self.mem, found, options, present)

    async def journal(self, reply: FrameworkMessage | None) -> list[str]:
        """Write what the session does not hold yet of the messages, and the reply.

        Raises:
            DeltaMemError: Nothing was written.
        """
        said = for_journal(each for each in self.messages if each.role != "system")
        said += for_journal([reply]) if reply else []

        def select(held: MessageLookup) -> list[dict[str, Any]]:
            return unwritten(held, self.agent.id, self.session, said)

        return await self.agent.awrite_selected(select, self.session, wait=False) if said else []
