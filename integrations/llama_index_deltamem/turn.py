"""The open turn of a conversation (its messages that are not journalled yet, and what was recalled), and its buffer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus

from deltamem_agents.frameworks.messages import for_journal
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.open_memories import Handle
from deltamem_agents.memory.tool_output import ToolOutput
from llama_index_deltamem.messages import answers, asks, from_llama_index, with_observations_cut

AT_ONCE = 100  # messages that one statement puts into the chat buffer; older SQLite builds take 999 values
ACTIVE, ARCHIVED = MessageStatus.ACTIVE, MessageStatus.ARCHIVED


class Said(NamedTuple):
    """A message with its id in the journal, so that writing it again is a no-op."""

    id: str
    message: ChatMessage


class OpenTurn(Handle):
    """The private state of a `DeltaMemory`, shared by its copies. Safe to share among threads."""

    __slots__ = ("_buffers", "_lock", "_said", "asked", "epoch", "history", "recalled", "restore")

    def __init__(self, mem: DeltaMem) -> None:
        super().__init__(mem)
        self._lock = threading.Lock()
        self._buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._said: list[Said] = []
        self.asked: Said | None = None  # the turn's question if it is journalled already, because it was asked again
        self.history: list[Said] = []  # the messages that were set, if some of them are in the turn
        self.recalled: dict[str, RecalledText] = {}  # by query; emptied with each turn
        self.epoch: int | None = None  # the journal's epoch when the chat buffer was last compared with it
        self.restore = False  # whether the chat buffer is still to be filled from the journal

    def buffer(self) -> asyncio.Lock:
        """The lock to hold while reading or changing the chat buffer: one coroutine of an event loop at a time.

        `Memory` archives too much if two coroutines shrink it at once. Its in-memory store has one connection, and
        loses what one coroutine has not committed when another returns the connection.
        """
        with self._lock:
            return self._buffers.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def add(self, messages: Sequence[ChatMessage]) -> list[Said]:
        """Add messages; returns those to journal now: of answered turns, and of turns that another question ends."""
        due: list[Said] = []
        with self._lock:
            for message in messages:
                if asks(message):
                    due += self._said
                    self._said, self.asked, self.recalled = [], None, {}
                self._said += said([message])
                if answers(message):
                    due += self._said
                    self._said = []
        return due

    def end(self) -> list[Said]:
        """Close the turn as it is; returns the messages to journal now."""
        with self._lock:
            due, self._said, self.asked, self.recalled = self._said, [], None, {}
        return due

    def begin(self, messages: Iterable[Said]) -> None:
        """Put messages before the turn's own: they begin it, or could not be journalled."""
        with self._lock:
            self._said = [*messages, *self._said]

    def open_with(self, history: list[Said], missing: list[Said], question: str | None, written: bool) -> None:
        """Begin a turn after a history was set: with its last question, and with what could not be journalled.

        Args:
            missing: The messages that the journal did not have.
            question: The id of the question at the history's end; None if it does not end in one.
            written: Whether the missing messages, except the question, were journalled.
        """
        left = [each for each in missing if not written or each.id == question]
        if left:
            self.history = history
            self.begin(left)
        if question is not None and question not in [each.id for each in missing]:
            self.asked = history[-1]

    def open(self) -> list[Said]:
        """The messages since the last answer."""
        with self._lock:
            return list(self._said)

    def dump(self) -> list[dict[str, Any]]:
        """The messages of `open`, as JSON values."""
        return [{"id": each.id, "message": each.message.model_dump(mode="json")} for each in self.open()]

    def load(self, dumped: Sequence[dict[str, Any]]) -> None:
        """Continue the turn that `dump` returned."""
        self.begin(Said(each["id"], ChatMessage.model_validate(each["message"])) for each in dumped)


def said(messages: Iterable[ChatMessage]) -> list[Said]:
    """The messages with new ids, without system messages, which are never journalled."""
    apart = ((message, from_llama_index(message)) for message in messages)
    return [Said(uuid4().hex, message) for message, ours in apart if ours.role != "system"]


def journalled(messages: Iterable[Said], tools: ToolOutput) -> list[dict[str, Any]]:
    """Messages as `AgentMemory.write` takes them, without empty ones; ``tools`` cuts tools' results."""
    new = for_journal((from_llama_index(each.message, each.id) for each in messages), tools)
    return [with_observations_cut(each, tools) for each in new]


async def fill_buffer(store: AsyncDBChatStore, key: str, messages: Sequence[ChatMessage]) -> None:
    """Replace a chat buffer as `Memory.aset` does, but with many messages in one statement."""
    await store.delete_messages(key)
    for start in range(0, len(messages), AT_ONCE):
        await store.add_messages(key, list(messages[start : start + AT_ONCE]))


async def keep_in_buffer(store: AsyncDBChatStore, key: str, wanted: Callable[[ChatMessage], bool]) -> None:
    """Keep only the wanted messages in a chat buffer and among those archived for blocks."""
    held = {status: await store.get_messages(key, status=status) for status in (ARCHIVED, ACTIVE)}
    kept = {status: [*filter(wanted, messages)] for status, messages in held.items()}
    if kept != held:
        await store.delete_messages(key)
        for status, messages in kept.items():
            if messages:
                await store.add_messages(key, messages, status=status)
