"""`DeltaMemory`: LlamaIndex's `Memory` that also writes to an agent's journal and adds recalled text to prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.bridge.pydantic import Field, PrivateAttr, model_serializer
from llama_index.core.memory import Memory
from llama_index.core.memory.memory import DEFAULT_TOKEN_LIMIT, InsertMethod
from llama_index.core.schema import QueryBundle
from llama_index.core.storage.chat_store.base_db import MessageStatus

from deltamem_agents.errors import ConfigError, UnknownAgentError, refuse_pickle, shown
from deltamem_agents.frameworks.calling import beyond_prompt, for_search
from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open, refuse_unknown
from deltamem_agents.frameworks.messages import session_name
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.memory import AgentMemory, DeltaMem, Receipt
from deltamem_agents.memory.open_memories import find_open
from deltamem_agents.memory.options import RecallOptions
from deltamem_agents.memory.tool_output import LIMIT, ToolOutput
from deltamem_agents.store import Entry
from llama_index_deltamem.briefing import Rules, with_text
from llama_index_deltamem.messages import asks, checked, question, texts, to_llama_index, without_recall
from llama_index_deltamem.session import SessionJournal
from llama_index_deltamem.sync_methods import in_run, sync_twin
from llama_index_deltamem.tokens import counted, tokenizer_of
from llama_index_deltamem.turn import OpenTurn, fill_buffer
from llama_index_deltamem.window import MARKUP, Window, kept_within

WAYS = "give DeltaMemory.from_defaults(mem, agent_id=…), a string, such as a user's id"
SERIALISED = (
    *("agent_id", "session_id", "mode", "k", "budget", "outdated", "on_error", "tool_output", "fold_tool_output"),
    *("guidelines", "chat_history_token_ratio"),
    *("image_token_size_estimate", "audio_token_size_estimate", "video_token_size_estimate"),
)


class DeltaMemory(Memory):
    """A chat buffer like `Memory` that also journals the messages and adds what memory recalls for a query.

    A turn is journalled once the assistant has answered, so a question never recalls itself. A question that is
    followed by another question, or by `reset`, is journalled then. System messages are not journalled. `get` adds
    recalled text to the system message (or the user's, by ``insert_method``) within the token limit; the text stays the
    same throughout a turn.

    `reset` clears the buffer, but the agent's memory stays; `wipe` erases the agent. `to_dict` holds the database's URL
    (secrets masked), ids, options and the messages of an unanswered turn, which are stored nowhere else. `from_dict`
    finds the open `DeltaMem` with that URL and fills the buffer from the session's journal. Create an instance with
    `from_defaults`.

    Raises:
        DeltaMemError: On a call, memory fails and ``on_error`` is "raise". `reset` and `wipe` raise in either case.
        ClosedError: On a call, the `DeltaMem` was closed; an agent's run with ``on_error="log"`` continues with the
            buffer alone.
    """

    agent_id: str = Field(description="Whose memory.")
    mode: str = Field(default="hybrid", description="'hybrid', 'vector' or 'state'.")
    k: int = Field(default=5, description="At most this many records.")
    budget: int | None = Field(
        default=None, description="At most this many tokens of recall, in addition to the token limit."
    )
    outdated: str = Field(default="omit", description="Records that a newer one contradicts: omit, or mark.")
    on_error: OnError = Field(default="log", description="'log' or 'raise'.")
    tool_output: int | None = Field(default=LIMIT, description="Characters of a tool's result that are journalled.")
    fold_tool_output: bool = Field(default=False, description="Whether they are folded into the state.")
    guidelines: str | None = Field(default=None, description="A folder of a repository, whose rules go into prompts.")

    _turn: OpenTurn = PrivateAttr()
    _rules: Rules = PrivateAttr()
    _window: Window = PrivateAttr()

    def __init__(
        self, mem: DeltaMem, agent_id: str | None = None, *, llm: BaseLLM | None = None, **fields: Any
    ) -> None:
        # Checked before pydantic, which would raise its own error.
        Owner(agent_id=agent_id, ways=WAYS).memory(mem)
        refuse_unknown(type(self).__name__, fields, type(self).model_fields.keys() | {"llm"})
        RecallOptions(**{name: fields[name] for name in ("mode", "k", "budget", "outdated") if name in fields})
        check_on_error(fields.get("on_error", "log"))
        ToolOutput(limit=fields.get("tool_output", LIMIT), folded=fields.get("fold_tool_output", False))
        limit = fields.pop("token_limit", None)
        given = DEFAULT_TOKEN_LIMIT if limit is None else limit
        rules = Rules(mem, fields.get("guidelines"))
        fields["guidelines"] = rules.root
        super().__init__(agent_id=agent_id, token_limit=given, **fields)  # type: ignore[call-arg]  # of this class
        self._rules = rules
        self._turn = OpenTurn(mem)
        self._turn.restore = fields.get("session_id") is not None
        self._window = Window(mem, limit, self.token_flush_size, llm)
        self.token_limit, self.token_flush_size = self._window.sizes()

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises the class."""
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
        guidelines: str | Path | None = None,
        token_limit: int | None = None,
        llm: BaseLLM | None = None,
        chat_history: list[ChatMessage] | None = None,
        **options: Any,
    ) -> Self:
        """Create a memory of one agent of an open `DeltaMem`.

        Args:
            mem: An open `DeltaMem`; this class does not close it.
            agent_id: The agent whose memory it is; required.
            session_id: The conversation, which continues from its journal; by default a new one.
            mode: "hybrid" or "vector", which recall the same here, or "state" (the backbone's own hint).
            k: The most records to recall.
            budget: The most tokens that recalled text may take, in addition to the token limit.
            outdated: "omit" leaves out records that a newer one contradicts; "mark" adds until when they held.
            on_error: What to do if memory fails: "log" continues without recalled text, and keeps messages that cannot
                be journalled for the next turn; "raise" raises.
            placement: Where recalled text goes: "system" (the end of the system message) or "last_human" (the beginning
                of the newest user message). It means the same as LlamaIndex's ``insert_method``; give one of them.
            tool_output: How many characters of a tool's result are journalled, half from its beginning, half from its
                end; None for all. The buffer has the whole result until it is filled from the journal again.
            fold_tool_output: Whether tools' results are folded into the state.
            guidelines: A folder of a repository, whose rules that matter for the newest question are added to each
                prompt's system message, after a flush too, with file and line. Needs the extra ``guidelines``.
            token_limit: The most tokens of buffer and recalled text together, by ``tokenizer_fn`` if given, else by the
                backbone's tokenizer, or LlamaIndex's without a backbone. By default LlamaIndex's limit. Never more than
                the model's window allows; see `Window`.
            llm: The model whose window counts. By default the smallest window of ``Settings.llm``, if that is set, and
                of each `DeltaMemLLM` over ``mem``; if there is none and no limit is given, the backbone's.
            chat_history: The messages that the conversation begins with; those that the journal lacks are written.
            options: Any other option of `Memory.from_defaults`.

        Raises:
            ConfigError: An option is unknown or out of range, or there is no agent id.
            InvalidAgentError: The agent id is not valid.
            RepositoryError: ``guidelines`` is not a folder that can be read.
            MissingExtraError: ``guidelines`` is given and its extra is not installed.
            ClosedError, ForkedError: ``mem`` is not open in this process.
        """
        if placement is not None:
            if options.get("insert_method") is not None:
                raise ConfigError("both placement and insert_method were given; they say the same, so leave one out")
            last = RecallOptions(placement=placement).placement == "last_human"
            options["insert_method"] = InsertMethod.USER if last else InsertMethod.SYSTEM
        options.setdefault("tokenizer_fn", tokenizer_of(mem))
        limit = DEFAULT_TOKEN_LIMIT if token_limit is None else token_limit
        stock = Memory.from_defaults(session_id=session_id, token_limit=limit, **options)
        fields = {name: getattr(stock, name) for name in Memory.model_fields} | {"token_limit": token_limit}
        own: dict[str, Any] = {"mode": mode, "k": k, "budget": budget, "outdated": outdated, "on_error": on_error}
        own |= {"tool_output": tool_output, "fold_tool_output": fold_tool_output, "guidelines": guidelines, "llm": llm}
        memory = cls(mem, agent_id, **fields, **own)
        memory._turn.restore = session_id is not None
        if chat_history is not None:
            memory.set(chat_history)
        return memory

    @classmethod
    def from_dict(cls, data: dict[str, Any], mem: DeltaMem | None = None, **options: Any) -> Self:
        """Restore a memory from the output of `to_dict`.

        Args:
            mem: The `DeltaMem` to use; by default the open one with the URL.
            options: Options of `from_defaults`, such as ``memory_blocks``, which are not serialised.

        Raises:
            ClosedError: No `DeltaMem` is open for the URL; the message says what to open.
            ConfigError: Several databases are open with the URL, or an option is not valid.
        """
        known = {name: data[name] for name in (*SERIALISED, "token_limit", "token_flush_size") if name in data}
        if "placement" not in options:
            known["insert_method"] = InsertMethod(data.get("insert_method", InsertMethod.SYSTEM))
        memory = cls.from_defaults(mem or find_open(data["url"]), **known | options)
        memory._turn.load(data.get("open_turn", []))
        return memory

    @model_serializer(mode="plain")
    def custom_model_dump(self) -> dict[str, Any]:  # type: ignore[override]  # plain instead of wrap
        """Serialise ids, options and the open turn; see `from_dict`."""
        dumped = {name: getattr(self, name) for name in SERIALISED}
        dumped |= {"token_limit": self._window.limit, "token_flush_size": self._window.flush}
        dumped |= {"insert_method": self.insert_method.value, "open_turn": self._turn.dump()}
        return {"class_name": self.class_name(), "url": self._turn.mem.store.url, **dumped}

    def __getstate__(self) -> dict[str, Any]:
        refuse_pickle("DeltaMemory", "keep its to_dict() and restore it with from_dict() where a DeltaMem is open")

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares buffer and open turn, because a database cannot be copied."""
        return self.model_copy()

    async def aget(
        self, input: str | ChatMessage | QueryBundle | None = None, **block_kwargs: Any
    ) -> list[ChatMessage]:
        """Copies of the buffer's messages, with text recalled for ``input`` or else for the newest user message.

        The result fits the model's window, if that is known: recalled text gets the room that is left. If it is too
        long, its lowest-ranked records are dropped first, then the oldest messages. The newest user message always
        stays. The call changes nothing.

        Raises:
            ConfigError: ``input`` is neither text, a ChatMessage nor a QueryBundle.
            DeltaMemError: See the class.
        """
        if not isinstance(input, str | ChatMessage | QueryBundle | None):
            raise ConfigError(f"input is {shown(input)}; give text, a ChatMessage or a QueryBundle, or leave it out")
        await self._ready()
        asked = input.query_str if isinstance(input, QueryBundle) else input
        async with self._turn.buffer():
            messages = await super().aget(input=asked, **block_kwargs)
        if self.memory_blocks:  # the store makes new messages at each read, but a block may return its own
            messages = [message.model_copy(deep=True) for message in messages]
        asked = asked.content if isinstance(asked, ChatMessage) else asked
        query = (asked or "").strip() or question(messages)
        started = int(block_kwargs.get("initial_token_count", 0))
        room = self._window.room() if self._is_open() else None
        tokens = sum(map(self._estimate_token_count, messages))
        size, left = tokens + MARKUP * len(messages), self.token_limit - started - tokens
        if room is not None:
            left = min(left, room - started - MARKUP - size)
        taken, messages = await self._rules.added(messages, query, left // 2, self._estimate_token_count, self.on_error)
        left, size = left - taken, size + taken
        text = await self._recall(query, left, texts(messages))
        if text:
            messages = self._with_recall(messages, text)
        if room is None or (not text and not taken and size <= room - started):
            return messages
        return kept_within(messages, [self._estimate_token_count(each) + MARKUP for each in messages], room - started)

    async def aget_all(self, status: MessageStatus | None = None) -> list[ChatMessage]:
        """Copies of the buffer's messages, without recalled text."""
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
                await self._journal.write(due, past=asks(messages[0]))

    async def aset(self, messages: list[ChatMessage]) -> None:
        """Replace the buffer. Messages that the session's journal lacks are written, except an open question.

        The output of `aget` may be set again: recalled text in it is recognised, and neither kept nor written.
        """
        opened, messages = self._is_open(), without_recall(checked(messages))
        self._turn.restore = False
        if opened:
            await self.aflush()
        async with self._turn.buffer():
            await fill_buffer(self.sql_store, self.session_id, messages)
        if not opened:
            return
        await self._journal.begin_with(messages)

    async def areset(self, status: MessageStatus | None = None) -> None:
        """Clear the buffer, or its messages with this status. The agent's memory stays."""
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
        if opened:
            await self._journal.clear()

    async def awipe(self) -> Receipt | None:
        """Erase the agent permanently, with all its conversations, and this buffer with its open turn.

        Buffers of other memories do not change. Neither do forks of the agent; the receipt lists them.

        Returns:
            What was erased; None if nothing was ever journalled.

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
        """Journal the open turn now, even if it is not answered."""
        if self._is_open():
            await self._journal.write(self._turn.end(), past=True)

    get = sync_twin(aget)
    get_all = sync_twin(aget_all)
    put = sync_twin(aput)  # type: ignore[arg-type]  # of this class
    put_messages = sync_twin(aput_messages)  # type: ignore[arg-type]  # of this class
    set = sync_twin(aset)  # type: ignore[arg-type]  # of this class
    reset = sync_twin(areset)  # type: ignore[arg-type]  # of this class
    wipe = sync_twin(awipe)
    flush = sync_twin(aflush)

    @property
    def _agent(self) -> AgentMemory:
        return self._turn.mem.agent(self.agent_id)

    @property
    def _journal(self) -> SessionJournal:
        return SessionJournal(
            turn=self._turn,
            agent_id=self.agent_id,
            session=session_name(self.session_id),
            tools=ToolOutput(limit=self.tool_output, folded=self.fold_tool_output),
            on_error=self.on_error,
        )

    def _with_recall(self, messages: list[ChatMessage], text: str) -> list[ChatMessage]:
        """Insert recalled text as LlamaIndex does a block's, but after the system message's text, to keep it cached."""
        if self.insert_method is InsertMethod.SYSTEM and any(each.role == "system" for each in messages):
            return with_text(messages, text)
        return self._insert_memory_content(messages, [TextBlock(text=text)], [])

    async def _recall(self, query: str, left: int, present: Sequence[str]) -> str:
        """Recalled text of at most ``left`` tokens; within a turn it comes from the same records."""
        if not query or left < 1 or not self._is_open():
            return ""
        recalled = self._turn.recalled
        if query not in recalled:
            options = RecallOptions(mode=self.mode, k=self.k, budget=self.budget, outdated=self.outdated)
            with fails_open(self.on_error, "recall"):
                found = await self._agent.arecall(query, **for_search(options, present, query))
                recalled[query] = beyond_prompt(self._turn.mem, found, options, present)
        return recalled[query].within(left, self._estimate_token_count) if query in recalled else ""

    def _estimate_token_count(self, message_or_blocks: Any) -> int:
        """Count tokens as `Memory` does, plus tool calls and thoughts, which only its later versions count."""
        given = message_or_blocks
        if isinstance(given, list) and all(isinstance(each, ChatMessage) for each in given):
            return sum(map(self._estimate_token_count, given))
        stock = super()._estimate_token_count
        return counted(given, stock, self.tokenizer_fn) if isinstance(given, ChatMessage) else stock(given)

    async def _ready(self) -> None:
        """Prepare a call: update the token limit, fill a new buffer from the journal, and drop erased messages."""
        if self._is_open():
            self.token_limit, self.token_flush_size = self._window.sizes()
            await self._restored()
            await self._journal.drop_erased(self.sql_store, self.session_id)

    def _is_open(self) -> bool:
        """Whether the `DeltaMem` is open. If not, the user's own calls raise, and runs continue with the buffer."""
        return is_open(self._turn.mem, self.on_error, in_run=in_run())

    async def _restored(self) -> None:
        """Fill a new memory's buffer from its session's journal, unless the buffer's store has messages already."""
        if not self._turn.restore:
            return
        self._turn.restore = False
        log: list[Entry] = []
        with fails_open(self.on_error, "reading the conversation"):
            async with self._turn.buffer():
                if await super().aget_all():
                    return
            log = await self._journal.log()
        messages = [*map(to_llama_index, log), *(each.message for each in self._turn.open())]
        if messages:
            async with self._turn.buffer():
                await fill_buffer(self.sql_store, self.session_id, messages)
                await self._manage_queue()
