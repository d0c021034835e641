"""`DeltaMemChatMessageHistory`: a session of an agent's journal as LangChain's chat history."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open
from deltamem_agents.frameworks.messages import clearing, session_name, since_cleared
from deltamem_agents.frameworks.resent import several_turns, unwritten
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.background import CallPool
from deltamem_agents.memory.tool_output import LIMIT, ToolOutput
from deltamem_agents.store import check_id
from langchain_deltamem.messages import check_kind, for_journal, to_langchain
from langchain_deltamem.runs import in_run


class DeltaMemChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session. They are kept in the agent's journal, and so in its memory.

    `messages` is the conversation, without recalled text. `clear` starts a new conversation in every process; the
    memory keeps the old one, because the end of a conversation is no reason to forget the person.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The agent whose journal it is.
        session_id: Any string; a string that is not valid as a session id is hashed.
        on_error: What to do if messages cannot be journalled: "log" continues, "raise" raises. Reading always raises,
            except in the run of a chain or agent after ``mem`` was closed: that runs without the history.
        tool_output: How many characters of a tool's result are journalled, and so come back in `messages`: half from
            its beginning, half from its end; None for all.
        fold_tool_output: Whether tools' results are folded into the state.

    Raises:
        ConfigError: An option is out of range.
        InvalidAgentError: The agent id is not valid.
        ClosedError, ForkedError: ``mem`` is not open in this process, and ``on_error`` is "raise".
    """

    def __init__(
        self,
        mem: DeltaMem,
        agent_id: str,
        session_id: str = "default",
        *,
        on_error: OnError = "log",
        tool_output: int | None = LIMIT,
        fold_tool_output: bool = False,
    ) -> None:
        super().__init__()
        self._tools = ToolOutput(limit=tool_output, folded=fold_tool_output)
        self._on_error = check_on_error(on_error)
        self._mem = mem
        self._agent_id = check_id(agent_id)
        if on_error == "raise":
            mem.check_open()
        self._session = session_name(session_id)

    @property
    def _agent(self) -> AgentMemory:
        return self._mem.agent(self._agent_id)

    @property
    def pool(self) -> CallPool:
        """The threads that the async twins run in."""
        return self._agent.pool

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # a property there too, says its documentation
        """The session's messages since it was last cleared. Each access queries the database.

        Raises:
            StoreError: The database cannot be read.
            ClosedError: ``mem`` was closed; in a run with ``on_error="log"`` the list is empty instead.
        """
        return self._read() if self._is_open() else []

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Journal messages, all or none. Empty messages are skipped, and so is a known id with the same text.

        A single turn is added as it is. Several turns are taken for a history that a client sends again: only messages
        that the session never held are added. They are durable when this returns; the next recall folds them.

        Raises:
            ConfigError: ``messages`` is not a list of LangChain's messages.
            DeltaMemError: They cannot be journalled, and ``on_error`` is "raise".
            ClosedError: ``mem`` was closed; in a run with ``on_error="log"`` nothing is journalled instead.
        """
        check_kind(messages)
        if self._is_open():
            with fails_open(self._on_error, "journalling"):
                self._write(messages)

    def clear(self) -> None:
        """Start a new conversation. The agent's memory, its journal and its state stay.

        Raises:
            StoreError: The database cannot be read or written.
            ClosedError: ``mem`` was closed.
        """
        if since_cleared(self._agent.log(self._session)):
            self._agent.write([clearing()], self._session, wait=False)

    async def aget_messages(self) -> list[BaseMessage]:
        """Async twin of `messages`; never blocks the event loop."""
        return await self._aread() if self._is_open() else []

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Async twin of `add_messages`; never blocks the event loop."""
        check_kind(messages)
        if self._is_open():
            with fails_open(self._on_error, "journalling"):
                await self._awrite(messages)

    aclear = twin(clear)

    def _is_open(self) -> bool:
        return is_open(self._mem, self._on_error, in_run=in_run())

    def _read(self) -> list[BaseMessage]:
        return [to_langchain(entry) for entry in since_cleared(self._agent.log(self._session))]

    _aread = twin(_read)

    def _write(self, messages: Sequence[BaseMessage]) -> None:
        new = for_journal(messages, self._tools)
        if several_turns(new):
            select = partial(unwritten, agent=self._agent.id, session=self._session, messages=new)
            self._agent.write_selected(select, self._session, wait=False)
        else:
            self._agent.write(new, self._session, wait=False)

    _awrite = twin(_write)
