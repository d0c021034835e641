"""The open turn of a conversation: what was said in it and is not journalled yet, and what was recalled for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import uuid4
from weakref import WeakKeyDictionary

from llama_index.core.base.llms.types import ChatMessage

from deltamem_agents.frameworks.messages import for_journal
from deltamem_agents.frameworks.recalled import RecalledText
from deltamem_agents.frameworks.tool_output import ToolOutput
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.open_memories import Handle
from llama_index_deltamem.messages import answers, asks, from_llama_index, with_observations_cut


class Said(NamedTuple):
    """A message and the id that the journal will know it by, so that writing it again is a no-op."""

    id: str
    message: ChatMessage


class OpenTurn(Handle):
    """What a `DeltaMemory` knows beyond its fields; its copies share it. Safe to share among threads."""

    __slots__ = ("_buffers", "_lock", "_said", "asked", "epoch", "history", "recalled", "restore")

    def __init__(self, mem: DeltaMem) -> None:
        super().__init__(mem)
        self._lock = threading.Lock()
        self._buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        self._said: list[Said] = []
        self.asked: Said | None = None  # the turn's question, where it is journalled already: it is asked again
        self.history: list[Said] = []  # what was set, where some of it is in the turn
        self.recalled: dict[str, RecalledText] = {}  # by query; another one in the next turn
        self.epoch: int | None = None  # of the journal, as the chat buffer was last compared with it
        self.restore = False  # whether the chat buffer is yet to be filled from the journal

    def buffer(self) -> asyncio.Lock:
        """Held while the chat buffer is read or changed: by one coroutine of an event loop at a time.

        `Memory` archives too much where two make it smaller at once, and its store in memory, one connection, loses
        what one coroutine has not committed when another gives the connection back.
        """
        with self._lock:
            return self._buffers.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def add(self, messages: Sequence[ChatMessage]) -> list[Said]:
        """Take messages in. What is to be journalled now: an answered turn, or one that another question follows."""
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
        """Close the turn as it is. What is to be journalled now."""
        with self._lock:
            due, self._said, self.asked, self.recalled = self._said, [], None, {}
        return due

    def begin(self, messages: Iterable[Said]) -> None:
        """Put these before the turn's messages: they are its beginning, or could not be journalled."""
        with self._lock:
            self._said = [*messages, *self._said]

    def open_with(self, history: list[Said], missing: list[Said], question: str | None, written: bool) -> None:
        """Begin with a question at the end of a history that was set, and with what could not be journalled of it.

        Args:
            missing: What the journal does not have.
            question: The id of that question.
            written: Whether what is missing was journalled, save the question.
        """
        left = [each for each in missing if not written or each.id == question]
        if left:
            self.history = history
            self.begin(left)
        if question is not None and question not in [each.id for each in missing]:
            self.asked = history[-1]

    def open(self) -> list[Said]:
        """What was said since the last answer."""
        with self._lock:
            return list(self._said)

    def dump(self) -> list[dict[str, Any]]:
        """`open` for JSON."""
        return [{"id": each.id, "message": each.message.model_dump(mode="json")} for each in self.open()]

    def load(self, dumped: Sequence[dict[str, Any]]) -> None:
        """Go on with the turn that `dump` gave."""
        self.begin(Said(each["id"], ChatMessage.model_validate(each["message"])) for each in dumped)


def said(messages: Iterable[ChatMessage]) -> list[Said]:
    """Messages with ids of their own; system messages are instructions, and nothing that was said."""
    apart = ((message, from_llama_index(message)) for message in messages)
    return [Said(uuid4().hex, message) for message, ours in apart if ours.role != "system"]


def journalled(messages: Iterable[Said], tools: ToolOutput) -> list[dict[str, Any]]:
    """As `AgentMemory.write` takes them, less those that say nothing; ``tools`` is what is kept of tools' results."""
    new = for_journal((from_llama_index(each.message, each.id) for each in messages), tools)
    return [with_observations_cut(each, tools) for each in new]
