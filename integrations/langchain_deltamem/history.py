"""`DeltaMemChatMessageHistory`: a session of an agent's journal as LangChain's chat history."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open
from deltamem_agents.frameworks.messages import clearing, session_name, since_cleared
from deltamem_agents.frameworks.resent import several_turns, unwritten
from deltamem_agents.frameworks.tool_output import LIMIT, ToolOutput
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.store import check_id
from langchain_deltamem.messages import check_kind, for_journal, to_langchain
from langchain_deltamem.running import in_run


class DeltaMemChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session, kept in the agent's journal, and so in its memory.

    `messages` is what was said, without recall. `clear` starts the conversation anew in every process; the memory keeps
    what was said before, as forgetting a person is not what ending a conversation means.

    Args:
        mem: An open one; not closed by this class.
        agent_id: Whose journal.
        session_id: Any string; one the journal cannot hold as an id is hashed.
        on_error: Where messages cannot be journalled, "log" goes on without, "raise" raises. Reading raises always,
            but within the run of a chain or agent whose ``mem`` was closed: that goes on without the history.
        tool_output: Characters of a tool's result that are journalled, and so come back in `messages`: half from its
            beginning, half from its end; None for all.
        fold_tool_output: Whether they are folded into the state.

    Raises:
        ConfigError: An option is out of range.
        InvalidAgentError: The agent id is not one.
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
        check_id(agent_id)
        if on_error == "raise":
            mem.check_open()
        self._agent = AgentMemory(mem.runtime, agent_id)
        self._session = session_name(session_id)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Where the async twins run."""
        return self._agent.pool

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]  # a property there too, says its documentation
        """What was said in this session since it was last cleared; reading it is a query."""
        return self._read() if self._is_open() else []

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Journal them, all or none. Messages that say nothing are left out; a known id with the same text is too.

        One turn is added as it is. Several are taken for a history that a client sends again: of it, what the session
        never held. Returns once they are durable; the next recall folds them.
        """
        check_kind(messages)
        if self._is_open():
            with fails_open(self._on_error, "journalling"):
                self._write(messages)

    def clear(self) -> None:
        """Start the conversation anew. The agent's memory, its journal and its state stay."""
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
