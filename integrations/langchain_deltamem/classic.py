"""`DeltaMemClassicMemory`: memory for chains of `langchain_classic`, which LangChain no longer develops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, get_buffer_string
from pydantic import Field

from deltamem_agents.errors import ConfigError, MissingExtraError
from deltamem_agents.frameworks.calling import beyond_prompt, for_search
from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open, refuse_unknown
from deltamem_agents.frameworks.messages import session_name
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.background import CallPool
from deltamem_agents.memory.options import RecallOptions
from langchain_deltamem.history import DeltaMemChatMessageHistory
from langchain_deltamem.messages import without_orphans
from langchain_deltamem.runs import aretrieved, documents, retrieved

try:
    from langchain_classic.base_memory import BaseMemory
except ModuleNotFoundError as error:
    raise MissingExtraError(
        f"DeltaMemClassicMemory needs {error.name}, which is not installed; install langchain-classic", name=error.name
    ) from error


class DeltaMemClassicMemory(BaseMemory):
    """Gives a chain the newest messages of its session and what memory recalls for the chain's input.

    Each run of the chain is journalled. `clear` starts a new conversation; the memory keeps the old one.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The agent whose memory it is.
        session_id: The conversation; any string.
        memory_key: The variable that the chain's prompt reads.
        input_key, output_key: The variables that hold the user's message and the reply, if a chain has several.
        return_messages: Whether the variable is a list of messages, for a chat prompt, rather than text.
        window: How many of the session's newest messages are always given; older ones come by recall.
        mode: "hybrid" or "vector", which are the same here because the backbone does not answer, or "state" (its hint).
        k: The most records to recall.
        budget: The most tokens that they may take, by the backbone's tokenizer.
        outdated: "omit" leaves out records that a newer one contradicts; "mark" adds until when they held.
        placement: Where recalled text goes: "system" (before the messages, as a system message) or "last_human" (after
            them, next to the input, as a human message).
        on_error: "log" continues without memory if it fails (an unreachable database, say); "raise" raises.

    Raises:
        ConfigError: An option is unknown or out of range; on a call, several variables may be the input or the output.
        InvalidAgentError: The agent id is not valid.
        DeltaMemError: On a call, memory fails and ``on_error`` is "raise". `clear`, and reading the session, raise in
            either case, except in a chain's run after ``mem`` was closed: the chain then runs without memory.
    """

    mem: DeltaMem = Field(exclude=True, repr=False)
    agent_id: str
    session_id: str = "default"
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    return_messages: bool = False
    human_prefix: str = "Human"
    ai_prefix: str = "AI"
    window: int = 12
    mode: str = "hybrid"
    k: int = 5
    budget: int | None = None
    outdated: str = "omit"
    placement: str = "system"
    on_error: OnError = "log"

    def __init__(self, **fields: Any) -> None:
        refuse_unknown(type(self).__name__, fields, type(self).model_fields)
        RecallOptions(k=fields.get("k", 5))  # before validation, which takes True for 1
        check_on_error(fields.get("on_error", "log"))
        super().__init__(**fields)
        self._options()  # after validation, as pydantic would turn our errors into its own
        if self.window < 0:
            raise ConfigError(f"window is {self.window}; give messages, or 0 for recall alone")
        self._history()

    @property
    def memory_variables(self) -> list[str]:
        """The name of the variable that this memory fills."""
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The session's newest messages, and what memory recalls for the input. Writes nothing."""
        history = self._of_run()
        if history is None:
            return {self.memory_key: self._shown([], RecalledText())}
        said, query, found = self._window(history.messages), self._query(inputs), RecalledText()
        with fails_open(self.on_error, "recall"):
            if query:
                find = partial(self._found, query, said)
                found = retrieved("DeltaMemClassicMemory.recall", query, find, self._documents)
        return {self.memory_key: self._shown(said, found)}

    async def aload_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Async twin of `load_memory_variables`; never blocks the event loop."""
        history = self._of_run()
        if history is None:
            return {self.memory_key: self._shown([], RecalledText())}
        said, query, found = self._window(await history.aget_messages()), self._query(inputs), RecalledText()
        with fails_open(self.on_error, "recall"):
            if query:
                find = partial(self._afound, query, said)
                found = await aretrieved("DeltaMemClassicMemory.recall", query, find, self._documents)
        return {self.memory_key: self._shown(said, found)}

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Journal the input and the output; they are durable when this returns."""
        said, history = self._said(inputs, outputs), self._of_run()
        if history is not None:
            history.add_messages(said)

    async def asave_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Async twin of `save_context`; never blocks the event loop."""
        said, history = self._said(inputs, outputs), self._of_run()
        if history is not None:
            await history.aadd_messages(said)

    def clear(self) -> None:
        """Start a new conversation. The agent's memory, its journal and its state stay."""
        self._history().clear()

    async def aclear(self) -> None:
        """Async twin of `clear`; never blocks the event loop."""
        await self._history().aclear()

    def _history(self) -> DeltaMemChatMessageHistory:
        return DeltaMemChatMessageHistory(self.mem, self.agent_id, self.session_id, on_error=self.on_error)

    def _of_run(self) -> DeltaMemChatMessageHistory | None:
        """The history for a chain's run; None if the memory was closed, and the chain continues without it."""
        return self._history() if is_open(self.mem, self.on_error, in_run=True) else None

    def _options(self) -> RecallOptions:
        return RecallOptions(
            mode=self.mode, k=self.k, budget=self.budget, outdated=self.outdated, placement=self.placement
        )

    def _window(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        return without_orphans(messages[-self.window :]) if self.window else []

    def _query(self, inputs: Mapping[str, Any]) -> str:
        names = [name for name in inputs if name not in (self.memory_key, "stop")]
        return _text(inputs, self.input_key or (names[0] if len(names) == 1 else None)).strip()

    def _said(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> list[BaseMessage]:
        asked = self.input_key or _only([name for name in inputs if name not in (self.memory_key, "stop")], "input_key")
        answered = self.output_key or _only(list(outputs), "output_key")
        return [HumanMessage(_text(inputs, asked)), AIMessage(_text(outputs, answered))]

    @property
    def pool(self) -> CallPool:
        """The threads that the async twins run in."""
        return self.mem.pool

    def _found(self, query: str, said: Sequence[BaseMessage]) -> RecalledText:
        present, options = [message.text for message in said], self._options()
        recalled = self.mem.agent(self.agent_id).recall(query, **for_search(options, present, query))
        session = session_name(self.session_id)
        given = [(session, message.id) for message in said if message.id]
        return beyond_prompt(self.mem, recalled, options, present, given)

    _afound = twin(_found)

    def _documents(self, found: RecalledText) -> list[Document]:
        return documents(self.mem.agent(self.agent_id), found.records)

    def _shown(self, said: list[BaseMessage], found: RecalledText) -> str | list[BaseMessage]:
        last = self.placement == "last_human"
        if self.return_messages:
            recall = [HumanMessage(str(found)) if last else SystemMessage(str(found))] if found else []
            return [*said, *recall] if last else [*recall, *said]
        spoken = get_buffer_string(said, human_prefix=self.human_prefix, ai_prefix=self.ai_prefix)
        return "\n\n".join(part for part in ((spoken, str(found)) if last else (str(found), spoken)) if part)


def _only(names: Sequence[str], option: str) -> str:
    if len(names) != 1:
        raise ConfigError(f"which of {', '.join(names) or 'no variables'} was said is not clear; give {option}=…")
    return names[0]


def _text(values: Mapping[str, Any], name: str | None) -> str:
    value = values.get(name, "") if name is not None else ""
    return str(value.text) if isinstance(value, BaseMessage) else str(value)
