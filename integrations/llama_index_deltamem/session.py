"""`SessionJournal`: writes the turns of one conversation to its agent's journal, and tells what the journal holds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore

from deltamem_agents.frameworks.failing import OnError, fails_open
from deltamem_agents.frameworks.messages import clearing, since_cleared
from deltamem_agents.frameworks.resent import Message, unwritten, unwritten_answer
from deltamem_agents.memory import AgentMemory
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.messages import Entry, check_messages, wording_of
from deltamem_agents.store import MessageLookup
from llama_index_deltamem.messages import asks
from llama_index_deltamem.turn import OpenTurn, Said, journalled, keep_in_buffer, said


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJournal:
    """A session of an agent's journal, as a `DeltaMemory` writes it.

    Args:
        turn: The open turn, which keeps what could not be written.
        tools: How much of tools' results is journalled.
        on_error: "log" goes on if the journal cannot be written, "raise" raises.
    """

    turn: OpenTurn
    agent_id: str
    session: str
    tools: ToolOutput
    on_error: OnError

    @property
    def agent(self) -> AgentMemory:
        """The agent's memory.

        Raises:
            ClosedError: The `DeltaMem` was closed.
        """
        return self.turn.mem.agent(self.agent_id)

    async def write(self, due: list[Said], *, past: bool) -> None:
        """Journal messages; they are durable when this returns. If it fails they stay in the open turn.

        Args:
            past: Whether the turn is over: another question follows, or nothing.
        """
        new = journalled(due, self.tools)
        if not new:
            return
        asked, history = self.turn.asked, self.turn.history
        self.turn.history = []
        with fails_open(self.on_error, "journalling"):
            try:
                if asked is None and not history:
                    await self.agent.awrite(new, self.session, wait=False)
                else:
                    select = partial(
                        unwritten_answer,
                        agent=self.agent_id,
                        session=self.session,
                        messages=new,
                        question=next(iter(journalled([] if asked is None else [asked], self.tools)), None),
                        history=journalled(history, self.tools),
                        past=past and _is_left(due, history),
                    )
                    await self.agent.awrite_selected(select, self.session, wait=False)
                await self._note_epoch()
            except BaseException:
                self.turn.begin(due)
                self.turn.history = history
                raise

    async def begin_with(self, messages: Sequence[ChatMessage]) -> None:
        """Begin a turn with a history that was set: journal what the session lacks, except an open question."""
        given = said(messages)
        question = given[-1].id if given and given[-1].message is messages[-1] and asks(messages[-1]) else None
        told, missing = journalled(given, self.tools), list[set[str]]()

        def select(held: MessageLookup) -> list[Message]:
            new = unwritten(held, self.agent_id, self.session, told, history=question is None)
            missing.append({each["id"] for each in new})
            return [each for each in new if each["id"] != question]

        written = False
        try:
            with fails_open(self.on_error, "journalling"):
                await self.agent.awrite_selected(select, self.session, wait=False)
                await self._note_epoch()
                written = True
        finally:
            # If the journal could not be read, keep all: missing messages are looked for again when they are written.
            left = [each for each in given if each.id in missing[-1]] if missing else given
            self.turn.open_with(given, left, question, written)

    async def log(self) -> list[Entry]:
        """The conversation: the session's messages since it was last cleared."""
        return since_cleared(await self.agent.alog(self.session))

    async def clear(self) -> None:
        """Mark the end of the conversation; the agent's memory of it stays."""
        if await self.log():
            await self.agent.awrite([clearing()], self.session, wait=False)

    async def drop_erased(self, buffer: AsyncDBChatStore, key: str) -> None:
        """Drop messages from a buffer that were erased since the last call, if the journal's epoch changed.

        Messages that the journal no longer holds are dropped, and so is recalled text. System messages, the open turn
        and empty messages are never journalled, and stay.
        """
        with fails_open(self.on_error, "reading the conversation"):
            now = await self.epoch()
            before, self.turn.epoch = self.turn.epoch, now
            if before in (None, now):
                return
            self.turn.recalled = {}
            live = {wording_of(entry) for entry in await self.agent.alog(self.session)}
            live |= {told for each in self.turn.open() for told in self._wordings(each.message)}
            async with self.turn.buffer():
                await keep_in_buffer(buffer, key, lambda message: live.issuperset(self._wordings(message)))

    def _wordings(self, message: ChatMessage) -> list[str]:
        """The wording under which the journal holds a message; empty if it is not journalled."""
        return [wording_of(new) for new in check_messages(journalled(said([message]), self.tools))]

    async def epoch(self) -> int | None:
        """The epoch of the agent's journal, which each erasure changes; None if there is no such agent."""
        version = self.turn.mem.store.records.version
        found = await asyncio.wrap_future(self.agent.pool.submit(version, self.agent_id))
        return found[0] if found else None

    async def _note_epoch(self) -> None:
        """Note the epoch after a write that may have created the agent: buffer and journal agree then."""
        if self.turn.epoch is None:
            self.turn.epoch = await self.epoch()


def _is_left(due: Sequence[Said], history: Sequence[Said]) -> bool:
    """Whether the question at the end of a history got no answer: another question follows, or nothing."""
    after = due[due.index(history[-1]) + 1 :] if history and history[-1] in due else due[:1]
    return not after or asks(after[0].message)
