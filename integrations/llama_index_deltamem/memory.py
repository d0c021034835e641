"""`DeltaMemory`: LlamaIndex's `Memory`, written through into an agent's journal, with recall in what it gives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Self, TypeVar
from uuid import uuid4

from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_serializer
from llama_index.core.memory import Memory
from llama_index.core.memory.memory import DEFAULT_TOKEN_LIMIT, InsertMethod
from llama_index.core.storage.chat_store.base_db import MessageStatus

from deltamem_agents.frameworks.calling import RecallOptions, beyond_prompt
from deltamem_agents.frameworks.messages import clearing, own_role, session_name, since_cleared, unwritten
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.opened import Handle, find_open, refuse_pickle
from llama_index_deltamem.messages import answers, put_together, taken_apart

T = TypeVar("T")
SERIALISED = ("agent_id", "session_id", "mode", "k", "budget", "token_limit", "token_flush_size")


class OpenTurn(Handle):
    """What a memory knows beyond its fields: its `DeltaMem`, the open turn's messages, and what was recalled for it."""

    __slots__ = ("lock", "pending", "recalled", "restore")

    def __init__(self, mem: DeltaMem) -> None:
        super().__init__(mem)
        self.lock = threading.Lock()
        self.pending: list[dict[str, Any]] = []
        self.recalled: dict[str, str] = {}
        self.restore = False  # whether the chat buffer is yet to be filled from the journal


class DeltaMemory(Memory):
    """Chat buffer as in `Memory`; what is said goes on into the agent's journal, what belongs to a query comes back.

    A turn is journalled when the assistant has answered, so that a question never recalls itself; a question that is
    followed by another one, or by `reset`, is journalled then. System messages are not. `get` adds recall to the system
    message (or the user's: ``insert_method``) within the token limit, the same one throughout a turn.

    `reset` clears the buffer; the agent's memory stays. `to_dict` holds the database's URL (secrets masked), ids and
    options, neither handles nor messages; `from_dict` finds the `DeltaMem` that is open for the URL and fills the
    buffer from the session's journal. Made by `from_defaults`.
    """

    agent_id: str = Field(description="Whose memory.")
    mode: str = Field(default="hybrid", description="'hybrid', 'vector' or 'state'.")
    k: int = Field(default=5, description="Records at most.")
    budget: int | None = Field(default=None, description="Tokens that recall may have, besides the token limit.")

    _turn: OpenTurn = PrivateAttr()

    def __init__(self, mem: DeltaMem, agent_id: str, **fields: Any) -> None:
        mem.agent(agent_id)  # refuses what is not an id
        super().__init__(agent_id=agent_id, **fields)  # type: ignore[call-arg]  # a field of this class
        self._turn = OpenTurn(mem)
        self._recall_options(0)

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex serialises it."""
        return "DeltaMemory"

    @classmethod
    def from_defaults(  # type: ignore[override]  # as in Memory itself, each class takes what it needs
        cls,
        mem: DeltaMem,
        agent_id: str,
        session_id: str | None = None,
        *,
        mode: str = "hybrid",
        k: int = 5,
        budget: int | None = None,
        token_limit: int = DEFAULT_TOKEN_LIMIT,
        chat_history: list[ChatMessage] | None = None,
        **options: Any,
    ) -> Self:
        """A memory over one agent of an open `DeltaMem`.

        Args:
            mem: Not closed by this class.
            session_id: The conversation; a new one where none is given.
            token_limit: Of buffer and recall together, by the backbone's tokenizer unless ``tokenizer_fn`` is given.
            chat_history: What the conversation begins with; what the journal does not have of it is written.
            options: Any other of `Memory.from_defaults`.

        Raises:
            ConfigError: Unknown mode, k or budget out of range.
            InvalidAgentError: The agent id is not one.
        """
        tokenizer = mem.engine.tokenizer
        options.setdefault("tokenizer_fn", lambda text: tokenizer.encode(text, add_special_tokens=False))
        stock = Memory.from_defaults(session_id=session_id, token_limit=token_limit, **options)
        fields = {name: getattr(stock, name) for name in Memory.model_fields}
        memory = cls(mem, agent_id, mode=mode, k=k, budget=budget, **fields)
        if chat_history is not None:
            memory.set(chat_history)
        return memory

    @classmethod
    def from_dict(cls, data: dict[str, Any], mem: DeltaMem | None = None, **options: Any) -> Self:
        """Restore what `to_dict` gave.

        Args:
            mem: The one to use; by default the one that is open for the URL.
            options: Of `from_defaults`, such as ``memory_blocks``, which are not serialised.

        Raises:
            ClosedError: No `DeltaMem` is open for the URL; the message says what to open.
        """
        known = {name: data[name] for name in SERIALISED if name in data}
        known["insert_method"] = InsertMethod(data.get("insert_method", InsertMethod.SYSTEM))
        memory = cls.from_defaults(mem or find_open(data["url"]), **known | options)
        memory._turn.restore = True
        return memory

    @model_serializer(mode="plain")
    def custom_model_dump(self) -> dict[str, Any]:  # type: ignore[override]  # plain instead of wrap
        """Ids and options; see `from_dict`."""
        dumped = {name: getattr(self, name) for name in SERIALISED}
        url, insert = self._turn.mem.store.url, self.insert_method.value
        return {"class_name": self.class_name(), "url": url, "insert_method": insert, **dumped}

    def __getstate__(self) -> dict[str, Any]:
        refuse_pickle("DeltaMemory")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy of the same conversation: databases cannot be copied, so it shares buffer and open turn."""
        return self.model_copy()

    async def aget(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """The buffer with recall for ``input``, or else for the newest user message. Pure; copies."""
        await self._restored()
        messages = _copies(await super().aget(input=input, **block_kwargs))
        asked = (
            input if isinstance(input, ChatMessage) else ChatMessage(content=input) if input else _question(messages)
        )
        query = (asked.content or "").strip() if asked else ""
        used = sum(map(self._estimate_token_count, messages)) + int(block_kwargs.get("initial_token_count", 0))
        text = await self._recall(query, max(0, self.token_limit - used), [m.content or "" for m in messages])
        return self._insert_memory_content(messages, [TextBlock(text=text)], []) if text else messages

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """The buffer, without recall; copies."""
        await self._restored()
        return _copies(await super().aget_all(status=status))

    async def aput(self, message: ChatMessage) -> None:
        """Add a message; see the class for when it is journalled."""
        await self.aput_messages([message])

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages; see the class for when they are journalled."""
        if messages:
            await self._restored()
            await super().aput_messages(_copies(messages))
            await self._write(self._due(messages))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Replace the buffer. What the session's journal lacks of the messages is written, save an open question."""
        self._turn.restore = False
        await self.aflush()
        await super().aset(_copies(messages))
        asking = bool(messages) and _asks(messages[-1])
        said, asked = (messages[:-1], messages[-1:]) if asking else (messages, [])
        new = unwritten(await self._agent.alog(self._session), _all_journalled(said))
        with self._turn.lock:
            self._turn.pending = _all_journalled(asked)
            self._turn.recalled.clear()
        await self._write(new)

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Clear the buffer; the agent's memory stays."""
        self._turn.restore = False
        await self.aflush()
        await super().areset(status=status)
        self._turn.recalled.clear()
        if since_cleared(await self._agent.alog(self._session)):
            await self._agent.awrite([clearing()], self._session, wait=False)

    async def aflush(self) -> None:
        """Journal the open turn now, as it is."""
        with self._turn.lock:
            due, self._turn.pending = self._turn.pending, []
        await self._write(due)

    # The sync twins; those of the base class hide errors of ours that are RuntimeErrors.

    def get(self, input: str | ChatMessage | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """Sync twin of `aget`."""
        return _finished(self.aget(input=input, **block_kwargs))

    def get_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """Sync twin of `aget_all`."""
        return _finished(self.aget_all(status=status))

    def put(self, message: ChatMessage) -> None:
        """Sync twin of `aput`."""
        _finished(self.aput(message))

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Sync twin of `aput_messages`."""
        _finished(self.aput_messages(messages))

    def set(self, messages: list[ChatMessage]) -> None:
        """Sync twin of `aset`."""
        _finished(self.aset(messages))

    def reset(self) -> None:
        """Sync twin of `areset`."""
        _finished(self.areset())

    def flush(self) -> None:
        """Sync twin of `aflush`."""
        _finished(self.aflush())

    @property
    def _agent(self) -> AgentMemory:
        return self._turn.mem.agent(self.agent_id)

    @property
    def _session(self) -> str:
        return session_name(self.session_id)

    def _recall_options(self, left: int) -> RecallOptions:
        budget = left if self.budget is None else min(self.budget, left)
        return RecallOptions(mode=self.mode, k=self.k, budget=budget)

    async def _recall(self, query: str, left: int, present: Sequence[str]) -> str:
        """Recalled text of at most ``left`` tokens, the same whenever it is asked for within a turn."""
        if not query or not left:
            return ""
        known = self._turn.recalled.get(query)
        if known is None or self._estimate_token_count(known) > left:
            options = self._recall_options(left)
            found = await self._agent.arecall(query, **options.for_search(present))
            known = beyond_prompt(self._turn.mem, found, options, present)
            self._turn.recalled[query] = known
        return known

    def _due(self, messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
        """What is to be journalled once these messages have been added; the rest waits for the turn's end."""
        due: list[dict[str, Any]] = []
        with self._turn.lock:
            for message in messages:
                if _asks(message):
                    due += self._turn.pending
                    self._turn.pending = []
                    self._turn.recalled.clear()
                self._turn.pending += _all_journalled([message])
                if answers(message):
                    due += self._turn.pending
                    self._turn.pending = []
        return due

    async def _write(self, due: list[dict[str, Any]]) -> None:
        """Journal messages; returns once they are durable. Where that fails they stay pending, with their ids."""
        if not due:
            return
        try:
            await self._agent.awrite(due, self._session, wait=False)
        except BaseException:
            with self._turn.lock:
                self._turn.pending = [*due, *self._turn.pending]
            raise

    async def _restored(self) -> None:
        """Fill a deserialised memory's buffer with what its session's journal has, unless it is stored elsewhere."""
        if not self._turn.restore:
            return
        self._turn.restore = False
        if await super().aget_all():
            return
        log = since_cleared(await self._agent.alog(self._session))
        if log:
            await super().aset([put_together(entry) for entry in log])
            await self._manage_queue()


def _all_journalled(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """What to write of messages; they get their ids here, so that writing them again is a no-op."""
    apart = (taken_apart(message, uuid4().hex) for message in messages)
    journalled = (message.for_journal() for message in apart if message.role != "system")
    return [message for message in journalled if message is not None]


def _finished(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, run in a loop of its own; in a thread of its own where this one has a running loop."""

    def run() -> T:
        loop = asyncio.new_event_loop()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return run()
    with ThreadPoolExecutor(1, thread_name_prefix="deltamem-sync") as thread:
        return thread.submit(copy_context().run, run).result()


def _asks(message: ChatMessage) -> bool:
    return own_role(message.role.value) == "user"


def _question(messages: Sequence[ChatMessage]) -> ChatMessage | None:
    return next((message for message in reversed(messages) if _asks(message)), None)


def _copies(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    return [message.model_copy(deep=True) for message in messages]
