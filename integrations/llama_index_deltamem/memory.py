"""`DeltaMemory`: LlamaIndex's `Memory`, written through into an agent's journal, with recall in what it gives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, CitableBlock, TextBlock
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_serializer
from llama_index.core.memory import Memory
from llama_index.core.memory.memory import DEFAULT_TOKEN_LIMIT, InsertMethod
from llama_index.core.schema import QueryBundle
from llama_index.core.storage.chat_store.base_db import MessageStatus

from deltamem_agents.errors import ConfigError, UnknownAgentError, refuse_pickle, shown
from deltamem_agents.frameworks.calling import RecallOptions, beyond_prompt
from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open
from deltamem_agents.frameworks.messages import clearing, own_role, session_name, since_cleared
from deltamem_agents.frameworks.options import refuse_unknown
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.resent import Message, unwritten, unwritten_answer
from deltamem_agents.frameworks.tool_output import LIMIT, ToolOutput
from deltamem_agents.memory import AgentMemory, DeltaMem, Receipt
from deltamem_agents.memory.open_memories import find_open
from deltamem_agents.memory.results import check_placement
from deltamem_agents.store import Entry, Held, check_messages, wording_of
from llama_index_deltamem.blocking import finished, in_run
from llama_index_deltamem.messages import asks, checked, question, texts, to_llama_index, without_recall
from llama_index_deltamem.tokens import counted_apart, counted_text, tokenizer_of
from llama_index_deltamem.turn import OpenTurn, Said, journalled, said
from llama_index_deltamem.window import MARKUP, Window, newest_within

AT_ONCE = 100  # messages that one statement puts into the chat buffer; SQLite takes 999 values, of older builds
WAYS = "give DeltaMemory.from_defaults(mem, agent_id=…), a string, such as a user's id"
SERIALISED = (
    *("agent_id", "session_id", "mode", "k", "budget", "outdated", "on_error", "tool_output", "fold_tool_output"),
    "chat_history_token_ratio",
    *("image_token_size_estimate", "audio_token_size_estimate", "video_token_size_estimate"),
)


class DeltaMemory(Memory):
    """Chat buffer as in `Memory`; what is said goes on into the agent's journal, what belongs to a query comes back.

    A turn is journalled when the assistant has answered, so that a question never recalls itself; a question that is
    followed by another one, or by `reset`, is journalled then. System messages are not. `get` adds recall to the system
    message (or the user's: ``insert_method``) within the token limit, the same one throughout a turn.

    `reset` clears the buffer, and the agent's memory stays; `wipe` erases the agent. `to_dict` holds the database's URL
    (secrets masked), ids, options and the messages of an unanswered turn, which are nowhere else; `from_dict` finds the
    `DeltaMem` that is open for the URL and fills the buffer from the session's journal. Made by `from_defaults`.
    """

    agent_id: str = Field(description="Whose memory.")
    mode: str = Field(default="hybrid", description="'hybrid', 'vector' or 'state'.")
    k: int = Field(default=5, description="Records at most.")
    budget: int | None = Field(default=None, description="Tokens that recall may have, besides the token limit.")
    outdated: str = Field(default="omit", description="Records that a newer one contradicts: omit, or mark.")
    on_error: OnError = Field(default="log", description="'log' or 'raise'.")
    tool_output: int | None = Field(default=LIMIT, description="Characters of a tool's result that are journalled.")
    fold_tool_output: bool = Field(default=False, description="Whether they are folded into the state.")

    _turn: OpenTurn = PrivateAttr()
    _window: Window = PrivateAttr()

    def __init__(
        self, mem: DeltaMem, agent_id: str | None = None, *, llm: BaseLLM | None = None, **fields: Any
    ) -> None:
        # Before pydantic, which would say it in its own words.
        Owner(agent_id=agent_id, ways=WAYS).memory(mem)
        refuse_unknown(type(self).__name__, fields, type(self).model_fields.keys() | {"llm"})
        RecallOptions(**{name: fields[name] for name in ("mode", "k", "budget", "outdated") if name in fields})
        check_on_error(fields.get("on_error", "log"))
        ToolOutput(limit=fields.get("tool_output", LIMIT), folded=fields.get("fold_tool_output", False))
        limit = fields.pop("token_limit", None)
        given = DEFAULT_TOKEN_LIMIT if limit is None else limit
        super().__init__(agent_id=agent_id, token_limit=given, **fields)  # type: ignore[call-arg]  # of this class
        self._turn = OpenTurn(mem)
        self._turn.restore = fields.get("session_id") is not None
        self._window = Window(mem, limit, self.token_flush_size, llm)
        self._fit_window()

    @classmethod
    def class_name(cls) -> str:
        """As LlamaIndex serialises it."""
        return "DeltaMemory"

    @classmethod
    def from_defaults(  # type: ignore[override]  # as in Memory itself, each class takes what it needs
        cls,
        mem: DeltaMem,
        agent_id: str | None = None,
        session_id: str | None = None,
        *,
        mode: str = "hybrid",
        k: int = 5,
        budget: int | None = None,
        outdated: str = "omit",
        on_error: OnError = "log",
        placement: str | None = None,
        tool_output: int | None = LIMIT,
        fold_tool_output: bool = False,
        token_limit: int | None = None,
        llm: BaseLLM | None = None,
        chat_history: list[ChatMessage] | None = None,
        **options: Any,
    ) -> Self:
        """A memory over one agent of an open `DeltaMem`.

        Args:
            mem: Not closed by this class.
            agent_id: Whose memory; has to be given.
            session_id: The conversation, which goes on from its journal; a new one where none is given.
            outdated: "omit" leaves records that a newer one contradicts out of the text, "mark" says until when they
                held.
            on_error: Where memory fails, "log" goes on without recall, and keeps what cannot be journalled for the next
                turn; "raise" raises.
            placement: Where recall goes: "system" (the end of the system message), or "last_human" (the beginning of
                the newest user message). It says what LlamaIndex's ``insert_method`` says; give one of them.
            tool_output: Characters of a tool's result that are journalled, half from its beginning, half from its end;
                None for all. The buffer has all of it, until it is filled from the journal again.
            fold_tool_output: Whether they are folded into the state.
            token_limit: Of buffer and recall together, by the backbone's tokenizer unless ``tokenizer_fn`` is given, or
                LlamaIndex's without a backbone. By default LlamaIndex's limit; in either case no more than the model's
                window leaves, see `Window`.
            llm: The model whose window that is. Without it, the smallest of ``Settings.llm``, where that is set, and
                of each `DeltaMemLLM` over ``mem``; where there is none and no limit is given, the backbone.
            chat_history: What the conversation begins with; what the journal does not have of it is written.
            options: Any other of `Memory.from_defaults`.

        Raises:
            ConfigError: Unknown mode, k or budget out of range, or there is no agent id.
            InvalidAgentError: The agent id is not one.
            ClosedError: ``mem`` was closed.
        """
        if placement is not None:
            if options.get("insert_method") is not None:
                raise ConfigError("both placement and insert_method were given; they say the same, so leave one out")
            last = check_placement(placement) == "last_human"
            options["insert_method"] = InsertMethod.USER if last else InsertMethod.SYSTEM
        options.setdefault("tokenizer_fn", tokenizer_of(mem))
        limit = DEFAULT_TOKEN_LIMIT if token_limit is None else token_limit
        stock = Memory.from_defaults(session_id=session_id, token_limit=limit, **options)
        fields = {name: getattr(stock, name) for name in Memory.model_fields} | {"token_limit": token_limit}
        own: dict[str, Any] = {
            "mode": mode,
            "k": k,
            "budget": budget,
            "outdated": outdated,
            "on_error": on_error,
            "tool_output": tool_output,
            "fold_tool_output": fold_tool_output,
            "llm": llm,
        }
        memory = cls(mem, agent_id, **fields, **own)
        memory._turn.restore = session_id is not None
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
        known = {name: data[name] for name in (*SERIALISED, "token_limit", "token_flush_size") if name in data}
        if "placement" not in options:
            known["insert_method"] = InsertMethod(data.get("insert_method", InsertMethod.SYSTEM))
        memory = cls.from_defaults(mem or find_open(data["url"]), **known | options)
        memory._turn.load(data.get("open_turn", []))
        return memory

    @model_serializer(mode="plain")
    def custom_model_dump(self) -> dict[str, Any]:  # type: ignore[override]  # plain instead of wrap
        """Ids, options and the open turn; see `from_dict`."""
        dumped = {name: getattr(self, name) for name in SERIALISED}
        dumped |= {"token_limit": self._window.limit, "token_flush_size": self._window.flush}
        dumped |= {"insert_method": self.insert_method.value, "open_turn": self._turn.dump()}
        return {"class_name": self.class_name(), "url": self._turn.mem.store.url, **dumped}

    def __getstate__(self) -> dict[str, Any]:
        refuse_pickle("DeltaMemory", "keep its to_dict() and restore it with from_dict() where a DeltaMem is open")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy of the same conversation: databases cannot be copied, so it shares buffer and open turn."""
        return self.model_copy()

    async def aget(
        self, input: str | ChatMessage | QueryBundle | None = None, **block_kwargs: Any
    ) -> list[ChatMessage]:
        """The buffer with recall for ``input``, or else for the newest user message. Pure; copies.

        All of it fits the model's window, where that is known: recall gets what is left, its lowest-ranked records go
        first, then the oldest messages. The newest user message stays, however long it is.
        """
        if not isinstance(input, str | ChatMessage | QueryBundle | None):
            raise ConfigError(f"input is {shown(input)}; give text, a ChatMessage or a QueryBundle, or leave it out")
        await self._ready()
        asked = input.query_str if isinstance(input, QueryBundle) else input
        async with self._turn.buffer():
            messages = await super().aget(input=asked, **block_kwargs)
        if self.memory_blocks:  # messages of the store are made anew at each reading, those of a block may be its own
            messages = _copies(messages)
        asked = asked.content if isinstance(asked, ChatMessage) else asked
        query = (asked or "").strip() or question(messages)
        started = int(block_kwargs.get("initial_token_count", 0))
        room = self._window.room() if self._is_open() else None
        tokens = sum(map(self._estimate_token_count, messages))
        size, left = tokens + MARKUP * len(messages), self.token_limit - started - tokens
        if room is not None:
            left = min(left, room - started - MARKUP - size)
        text = await self._recall(query, left, texts(messages))
        if text:
            messages = self._with_recall(messages, text)
        if room is None or (not text and size <= room - started):
            return messages
        roles = [own_role(message.role.value) for message in messages]
        return [messages[place] for place in newest_within(roles, [*map(self._size, messages)], room - started)]

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """The buffer, without recall; copies."""
        await self._ready()
        async with self._turn.buffer():
            return await super().aget_all(status=status)

    async def aput(self, message: ChatMessage) -> None:
        """Add a message; see the class for when it is journalled."""
        await self.aput_messages([message])

    async def aput_messages(self, messages: list[ChatMessage]) -> None:
        """Add messages; see the class for when they are journalled."""
        await self._ready()
        if messages := without_recall(checked(messages)):
            async with self._turn.buffer():
                await super().aput_messages(messages)
            due = self._turn.add(messages)
            if self._is_open():
                await self._write(due, past=asks(messages[0]))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Replace the buffer. What the session's journal lacks of the messages is written, save an open question.

        What `aget` gave may be set again: the recalled text in it is known, and neither kept nor written.
        """
        opened, messages = self._is_open(), without_recall(checked(messages))
        self._turn.restore = False
        if opened:
            await self.aflush()
        async with self._turn.buffer():
            await self._fill(messages)
        if not opened:
            return
        given = said(messages)
        question = given[-1].id if given and given[-1].message is messages[-1] and asks(messages[-1]) else None
        told, missing = journalled(given, self._tools), list[set[str]]()

        def select(held: Held) -> list[Message]:
            new = unwritten(held, self.agent_id, self._session, told, history=question is None)
            missing.append({each["id"] for each in new})
            return [each for each in new if each["id"] != question]

        written = False
        try:
            with fails_open(self.on_error, "journalling"):
                await self._agent.awrite_selected(select, self._session, wait=False)
                await self._note_epoch()
                written = True
        finally:
            # Where the journal could not be read, all of it: what is missing is looked for again when it is written.
            left = [each for each in given if each.id in missing[-1]] if missing else given
            self._turn.open_with(given, left, question, written)

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Clear the buffer, or its messages of this status; the agent's memory stays."""
        if status is MessageStatus.ARCHIVED:  # the conversation goes on
            await self._ready()
            async with self._turn.buffer():
                await super().areset(status=status)
            return
        opened = self._is_open()
        self._turn.restore = False
        if opened:
            await self.aflush()
        async with self._turn.buffer():
            await super().areset(status=status)
        if opened and since_cleared(await self._agent.alog(self._session)):
            await self._agent.awrite([clearing()], self._session, wait=False)

    async def awipe(self) -> Receipt | None:
        """Erase the agent for good, all its conversations, and this one's buffer with its open turn.

        Buffers of other memories stay as they are. Forks of the agent too: the receipt lists them.

        Returns:
            What was erased; None where nothing was ever journalled.

        Raises:
            StoreError: The database could not be written; nothing was erased.
        """
        try:
            receipt = await self._agent.adelete()
        except UnknownAgentError:
            receipt = None
        self._turn.restore = False
        self._turn.end()
        self._turn.history = []
        async with self._turn.buffer():
            await super().areset()
        return receipt

    async def aflush(self) -> None:
        """Journal the open turn now, as it is."""
        if self._is_open():
            await self._write(self._turn.end(), past=True)

    # The sync twins; those of the base class hide errors of ours that are RuntimeErrors.

    def get(self, input: str | ChatMessage | QueryBundle | None = None, **block_kwargs: Any) -> list[ChatMessage]:
        """Sync twin of `aget`."""
        return finished(self.aget(input=input, **block_kwargs))

    def get_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """Sync twin of `aget_all`."""
        return finished(self.aget_all(status=status))

    def put(self, message: ChatMessage) -> None:
        """Sync twin of `aput`."""
        finished(self.aput(message))

    def put_messages(self, messages: list[ChatMessage]) -> None:
        """Sync twin of `aput_messages`."""
        finished(self.aput_messages(messages))

    def set(self, messages: list[ChatMessage]) -> None:
        """Sync twin of `aset`."""
        finished(self.aset(messages))

    def reset(self) -> None:
        """Sync twin of `areset`."""
        finished(self.areset())

    def wipe(self) -> Receipt | None:
        """Sync twin of `awipe`."""
        return finished(self.awipe())

    def flush(self) -> None:
        """Sync twin of `aflush`."""
        finished(self.aflush())

    @property
    def _agent(self) -> AgentMemory:
        return self._turn.mem.agent(self.agent_id)

    @property
    def _session(self) -> str:
        return session_name(self.session_id)

    @property
    def _tools(self) -> ToolOutput:
        return ToolOutput(limit=self.tool_output, folded=self.fold_tool_output)

    def _with_recall(self, messages: list[ChatMessage], text: str) -> list[ChatMessage]:
        """As LlamaIndex inserts the text of its blocks, but behind the system message's own: that stays in caches."""
        system = next((each for each in messages if each.role == "system"), None)
        if self.insert_method is not InsertMethod.SYSTEM or system is None:
            return self._insert_memory_content(messages, [TextBlock(text=text)], [])
        system.blocks = [*system.blocks, TextBlock(text=text)]
        return messages

    async def _recall(self, query: str, left: int, present: Sequence[str]) -> str:
        """Recalled text of at most ``left`` tokens, of the same records whenever it is asked for within a turn."""
        if not query or left < 1 or not self._is_open():
            return ""
        recalled = self._turn.recalled
        if query not in recalled:
            options = RecallOptions(mode=self.mode, k=self.k, budget=self.budget, outdated=self.outdated)
            with fails_open(self.on_error, "recall"):
                found = await self._agent.arecall(query, **options.for_search(present, query))
                recalled[query] = beyond_prompt(self._turn.mem, found, options, present)
        return recalled[query].within(left, self._estimate_token_count) if query in recalled else ""

    async def _write(self, due: list[Said], *, past: bool) -> None:
        """Journal messages; returns once they are durable. Where that fails they stay in the open turn.

        Args:
            past: Whether another question comes after them, or nothing.
        """
        new = journalled(due, self._tools)
        if not new:
            return
        asked, history = self._turn.asked, self._turn.history
        self._turn.history = []
        with fails_open(self.on_error, "journalling"):
            try:
                if asked is None and not history:
                    await self._agent.awrite(new, self._session, wait=False)
                else:
                    select = partial(
                        unwritten_answer,
                        agent=self.agent_id,
                        session=self._session,
                        messages=new,
                        question=next(iter(journalled([] if asked is None else [asked], self._tools)), None),
                        history=journalled(history, self._tools),
                        past=past and _is_left(due, history),
                    )
                    await self._agent.awrite_selected(select, self._session, wait=False)
                await self._note_epoch()
            except BaseException:
                self._turn.begin(due)
                self._turn.history = history
                raise

    def _estimate_token_count(self, message_or_blocks: Any) -> int:
        """As of `Memory`, and the tool calls and thoughts that it counts in later versions only."""
        given = message_or_blocks
        if isinstance(given, list) and all(isinstance(each, ChatMessage) for each in given):
            return sum(map(self._estimate_token_count, given))
        if not isinstance(given, ChatMessage) or not (apart := counted_apart(given.blocks)):
            return super()._estimate_token_count(given)
        others = given.model_copy(update={"blocks": [block for block in given.blocks if block not in apart]})
        within = [
            ChatMessage(role=given.role, blocks=block.content) for block in apart if isinstance(block, CitableBlock)
        ]
        tokens = sum(len(self.tokenizer_fn(text)) for text in map(counted_text, apart) if text)
        return super()._estimate_token_count(others) + tokens + sum(map(self._estimate_token_count, within))

    def _size(self, message: ChatMessage) -> int:
        """Tokens of a message in a prompt, markup included."""
        return self._estimate_token_count(message) + MARKUP

    def _fit_window(self) -> None:
        self.token_limit, self.token_flush_size = self._window.sizes()

    async def _ready(self) -> None:
        """Before each call: the memory is open, its limits are those of its model, its buffer is what was said."""
        if self._is_open():
            self._fit_window()
            await self._restored()
            await self._without_erased()

    async def _without_erased(self) -> None:
        """Take out of the buffer what was erased meanwhile, by whomever; looked for where the journal's epoch changed.

        What the journal holds no more leaves, and so does what was recalled. System messages, the open turn and what
        says nothing were never there, and stay.
        """
        with fails_open(self.on_error, "reading the conversation"):
            agent, now = self._agent, await self._epoch()
            before, self._turn.epoch = self._turn.epoch, now
            if before in (None, now):
                return
            self._turn.recalled = {}
            live = {wording_of(entry) for entry in await agent.alog(self._session)}
            live |= {told for each in self._turn.open() for told in self._wordings(each.message)}
            async with self._turn.buffer():
                await self._keep(lambda message: live.issuperset(self._wordings(message)))

    async def _note_epoch(self) -> None:
        """Where a first write may have made the agent: the buffer is what the journal has."""
        if self._turn.epoch is None:
            self._turn.epoch = await self._epoch()

    async def _epoch(self) -> int | None:
        """Of the agent's journal: another after each erasure, None where there is no such agent."""
        agent = self._agent
        version = await asyncio.wrap_future(agent.pool.submit(self._turn.mem.store.version, agent.id))
        return version[0] if version else None

    def _wordings(self, message: ChatMessage) -> list[str]:
        """What the journal has of a message: nothing, or one wording."""
        return [wording_of(new) for new in check_messages(journalled(said([message]), self._tools))]

    async def _keep(self, wanted: Callable[[ChatMessage], bool]) -> None:
        """Drop all other messages of the buffer, and of what left it for blocks."""
        active, archived = [
            await super(DeltaMemory, self).aget_all(status=status)
            for status in (MessageStatus.ACTIVE, MessageStatus.ARCHIVED)
        ]
        kept, kept_archived = [*filter(wanted, active)], [*filter(wanted, archived)]
        if len(kept) + len(kept_archived) < len(active) + len(archived):
            await super().areset()
            for messages, status in ((kept_archived, MessageStatus.ARCHIVED), (kept, MessageStatus.ACTIVE)):
                if messages:
                    await self.sql_store.add_messages(self.session_id, messages, status=status)

    def _is_open(self) -> bool:
        """Whether the `DeltaMem` is; where it was closed, the user's calls raise, and runs go on with the buffer."""
        return is_open(self._turn.mem, self.on_error, in_run=in_run())

    async def _restored(self) -> None:
        """Fill a new memory's buffer with what its session's journal has, unless it is stored elsewhere."""
        if not self._turn.restore:
            return
        self._turn.restore = False
        log: list[Entry] = []
        with fails_open(self.on_error, "reading the conversation"):
            async with self._turn.buffer():
                if await super().aget_all():
                    return
            log = since_cleared(await self._agent.alog(self._session))
        messages = [*map(to_llama_index, log), *(each.message for each in self._turn.open())]
        if messages:
            async with self._turn.buffer():
                await self._fill(messages)
                await self._manage_queue()

    async def _fill(self, messages: list[ChatMessage]) -> None:
        """As `Memory.aset`, many messages a statement."""
        await self.sql_store.delete_messages(self.session_id)
        for start in range(0, len(messages), AT_ONCE):
            await self.sql_store.add_messages(self.session_id, messages[start : start + AT_ONCE])


def _is_left(due: Sequence[Said], history: Sequence[Said]) -> bool:
    """Whether the question at the end of a history is followed by another one, or by nothing."""
    after = due[due.index(history[-1]) + 1 :] if history and history[-1] in due else due[:1]
    return not after or asks(after[0].message)


def _copies(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    return [message.model_copy(deep=True) for message in messages]
