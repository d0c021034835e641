"""`DeltaMemoryBlock`: an agent's memory as one of the blocks of LlamaIndex's own `Memory`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.memory import BaseMemoryBlock
from llama_index.core.utils import get_tokenizer

from deltamem_agents.errors import refuse_pickle
from deltamem_agents.frameworks.calling import beyond_prompt, for_search
from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open, refuse_unknown
from deltamem_agents.frameworks.messages import for_journal, session_name
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.frameworks.resent import Handed, unwritten_portion
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.open_memories import Handle
from deltamem_agents.memory.options import RecallOptions
from deltamem_agents.memory.tool_output import LIMIT, ToolOutput
from deltamem_agents.store import MessageLookup
from llama_index_deltamem.messages import checked, from_llama_index, question, texts, with_observations_cut
from llama_index_deltamem.sync_methods import in_run

WAYS = "give DeltaMemoryBlock(mem, agent_id=…), a string, such as a user's id"


class DeltaMemoryBlock(BaseMemoryBlock[str]):
    """A block for `Memory.from_defaults(memory_blocks=[…])`: what memory recalls for the newest question.

    It does not repeat what the buffer already contains. `Memory` passes a block only the messages that no longer fit
    its buffer, and only those are journalled; use `DeltaMemory` to remember everything. Writing is idempotent: if a
    conversation is passed again, by another process, in other portions or partly reworded, only new messages are added
    and no erased one comes back. System messages are not journalled.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The agent whose memory it is; required.
        fields: ``mode`` ("hybrid", "vector" or "state"), ``k``, ``budget``, ``outdated`` ("omit" or "mark"),
            ``tokenizer_fn`` (the same as the `Memory`'s, if that was given one), ``on_error`` ("log" continues without
            memory if it fails, "raise" raises), ``tool_output`` (how many characters of a tool's result are journalled,
            None for all), ``fold_tool_output`` (whether they are folded), and the fields of any block. If tokens run
            short, blocks with the lowest ``priority`` are truncated first, those with 0 never; this one keeps its
            highest-ranked records.

    Raises:
        ConfigError: An option is unknown or out of range, or there is no agent id.
        InvalidAgentError: The agent id is not valid.
        ClosedError, ForkedError: ``mem`` is not open in this process.
        DeltaMemError: On a call, memory fails and ``on_error`` is "raise".
    """

    name: str = Field(default="DeltaMem", description="Names the block in the prompt.")
    priority: int = Field(default=1, description="0 is never truncated; higher is truncated later.")
    agent_id: str = Field(description="Whose memory.")
    mode: str = Field(default="hybrid", description="'hybrid', 'vector' or 'state'.")
    k: int = Field(default=5, description="At most this many records.")
    budget: int | None = Field(default=None, description="At most this many tokens of recall.")
    outdated: str = Field(default="omit", description="Records that a newer one contradicts: omit, or mark.")
    on_error: OnError = Field(default="log", description="'log' or 'raise'.")
    tool_output: int | None = Field(default=LIMIT, description="Characters of a tool's result that are journalled.")
    fold_tool_output: bool = Field(default=False, description="Whether they are folded into the state.")
    tokenizer_fn: Callable[[str], list[Any]] = Field(default_factory=get_tokenizer, exclude=True, repr=False)

    _handle: Handle = PrivateAttr()
    _held: list[ChatMessage] = PrivateAttr(default_factory=list)  # not journalled yet, for the next time
    _handed: dict[str, Handed] = PrivateAttr(default_factory=dict)  # by session: what was passed so far

    def __init__(self, mem: DeltaMem, agent_id: str | None = None, **fields: Any) -> None:
        # Checked before pydantic, which would raise its own error.
        Owner(agent_id=agent_id, ways=WAYS).memory(mem)
        refuse_unknown(type(self).__name__, fields, type(self).model_fields)
        RecallOptions(**{name: fields[name] for name in ("mode", "k", "budget", "outdated") if name in fields})
        check_on_error(fields.get("on_error", "log"))
        ToolOutput(limit=fields.get("tool_output", LIMIT), folded=fields.get("fold_tool_output", False))
        super().__init__(agent_id=agent_id, **fields)  # type: ignore[call-arg]  # a field of this class
        self._handle = Handle(mem)

    def __getstate__(self) -> dict[Any, Any]:
        refuse_pickle("DeltaMemoryBlock")

    async def _aget(self, messages: list[ChatMessage] | None = None, **_: Any) -> str:
        asked = question(messages or [])
        if not self._is_open() or not asked:
            return ""
        present = texts(messages or [])
        options = RecallOptions(mode=self.mode, k=self.k, budget=self.budget, outdated=self.outdated)
        with fails_open(self.on_error, "recall"):
            found = await self._agent.arecall(asked, **for_search(options, present, asked))
            return beyond_prompt(self._handle.mem, found, options, present)
        return ""

    async def atruncate(self, content: str, tokens_to_truncate: int) -> str | None:
        """The output of `aget` without its lowest-ranked records, as few as needed; None if no record is left."""
        if not isinstance(content, RecalledText):
            return None
        return content.within(self._measure(content) - tokens_to_truncate, self._measure) or None

    async def _aput(self, messages: list[ChatMessage]) -> None:
        messages = checked(messages)
        if not self._is_open():
            return
        with fails_open(self.on_error, "journalling"):
            held, self._held = self._held, []
            try:
                await self._write([*held, *messages])
            except BaseException:
                # `Memory` does not pass them again.
                self._held = [*held, *messages] if self.on_error == "log" else held
                raise

    def _is_open(self) -> bool:
        return is_open(self._handle.mem, self.on_error, in_run=in_run())

    async def _write(self, messages: list[ChatMessage]) -> None:
        tools = ToolOutput(limit=self.tool_output, folded=self.fold_tool_output)
        for session, portion in groupby(messages, lambda each: session_name(each.additional_kwargs.get("session_id"))):
            plain = for_journal((from_llama_index(_as_said(each)) for each in portion), replace(tools, limit=None))
            if whole := [message for message in plain if message["role"] != "system"]:
                await asyncio.wrap_future(self._agent.pool.submit(self._journal, session, whole, tools))

    def _journal(self, session: str, whole: list[dict[str, Any]], tools: ToolOutput) -> None:
        """Write the new ones of these messages; their ids derive from the whole text, before tool output is cut."""
        before, after = self._handed.get(session), list[Handed]()
        cut = [each | {"content": tools.of(each["content"])} if each["role"] == "tool" else each for each in whole]
        kept = [with_observations_cut(each, tools) for each in cut]

        def select(held: MessageLookup) -> list[dict[str, Any]]:
            new, handed = unwritten_portion(held, self.agent_id, session, kept, whole, before)
            after.append(handed)
            return new

        self._agent.write_selected(select, session, wait=False)
        self._handed[session] = after[-1]

    @property
    def _agent(self) -> AgentMemory:
        return self._handle.mem.agent(self.agent_id)

    def _measure(self, text: str) -> int:
        return len(self.tokenizer_fn(text))


def _as_said(message: ChatMessage) -> ChatMessage:
    """The message without the session id that `Memory` adds to it."""
    kept = {key: value for key, value in message.additional_kwargs.items() if key != "session_id"}
    return message.model_copy(update={"additional_kwargs": kept})
