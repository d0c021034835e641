"""Which of a thread's messages memory was told already.

A checkpoint keeps only the id of the last message told; the journal knows the others by their ids. The id reaches the
checkpoint through its own channel rather than as a node's update. So memory adds neither a step, whose checkpoint would
hold the whole thread again, nor a chunk to a stream of updates.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langgraph.channels.base import BaseChannel

from deltamem_agents.frameworks.messages import edited, id_name
from deltamem_agents.frameworks.resent import unwritten, unwritten_turn
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.open_memories import Handle
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.processes import ProcessLock
from deltamem_agents.store import MessageLookup, check_messages
from langchain_deltamem.messages import for_journal

THREADS = 256  # most recent threads for which `Unchanged` remembers messages


class Told(str):
    """The id of the last message told, as a node reads it from the state; empty if none was told."""

    __slots__ = ("_channel",)
    _channel: ToldChannel

    @property
    def last(self) -> str:
        """The current id; this string itself keeps the id from when the node began."""
        return self._channel.checkpoint()

    def move(self, message_id: str) -> None:
        """Store this id in the next checkpoint."""
        self._channel.move(message_id)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class ToldChannel(BaseChannel[str, str, str]):
    """Keeps an id that `Told` may change while a step runs."""

    __slots__ = ("_moved", "_value")

    def __init__(self, typ: Any = str, key: str = "") -> None:
        super().__init__(typ, key)
        self._value, self._moved = "", False

    @property
    def ValueType(self) -> type[str]:
        """The type of values read."""
        return str

    @property
    def UpdateType(self) -> type[str]:
        """The type of values written."""
        return str

    def move(self, message_id: str) -> None:
        """Set another value, which takes effect at the end of this step."""
        self._value, self._moved = message_id, True

    def copy(self) -> ToldChannel:
        """An independent channel with the same value."""
        return self.from_checkpoint(self._value)

    def checkpoint(self) -> str:
        """The id."""
        return self._value

    def from_checkpoint(self, checkpoint: Any) -> ToldChannel:
        """A channel with the value of an earlier run's checkpoint."""
        made = type(self)(self.typ, self.key)
        made._value = _last_id(checkpoint)
        return made

    def get(self) -> Told:
        """The id, as a `Told` that can change it."""
        told = Told(self._value)
        told._channel = self
        return told

    def is_available(self) -> bool:
        """Always True: LangGraph informs only available channels of the end of a step."""
        return True

    def update(self, values: Sequence[Any]) -> bool:
        """Whether the value changed during the step that ends, so that the checkpoint must store it."""
        if values:
            self._value, self._moved = _last_id(values[-1]), True
        moved, self._moved = self._moved, False
        return moved


class Unchanged(Handle):
    """Remembers which messages of a thread are known to match the journal.

    Without it, each model call would look up the whole thread in case a message was edited. It keeps only hashes, and
    only while the agent's epoch stays: after an erasure, a rollback or an edit, all messages are compared again.
    """

    __slots__ = ("_lock", "_threads")

    def __init__(self, mem: DeltaMem) -> None:
        super().__init__(mem)
        self._lock = ProcessLock()
        self._threads: OrderedDict[tuple[str, str], tuple[int, frozenset[bytes]]] = OrderedDict()

    def known(self, agent: str, session: str, epoch: int) -> frozenset[bytes]:
        """The fingerprints of a thread's messages that are known to match the journal."""
        with self._lock:
            at, prints = self._threads.get((agent, session), (epoch, frozenset()))
        return prints if at == epoch else frozenset()

    def note(self, agent: str, session: str, epoch: int, prints: Collection[bytes]) -> None:
        """Remember these fingerprints for a thread, in place of earlier ones."""
        with self._lock:
            self._threads[agent, session] = epoch, frozenset(prints)
            self._threads.move_to_end((agent, session))
            while len(self._threads) > THREADS:
                self._threads.popitem(last=False)


def _fingerprint(message: BaseMessage) -> bytes:
    """A hash that changes with a message's id, type and content."""
    calls = (message.tool_calls, message.invalid_tool_calls) if isinstance(message, AIMessage) else ()
    told = repr((message.type, message.id, message.content, calls, getattr(message, "role", None)))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def untold(
    held: MessageLookup,
    agent: str,
    session: str,
    told: str,
    messages: Sequence[BaseMessage],
    chosen: Collection[int],
    tools: ToolOutput,
    *,
    edits: bool = True,
    unchanged: Unchanged | None = None,
) -> list[dict[str, Any]]:
    """The messages of a thread to write: new ones, and edited ones that kept their id.

    A message that was told before and is not in the journal was erased, or told to another agent. It is written again
    only if its words have changed.

    Args:
        held: From `AgentMemory.write_selected`, so that missing messages are found and written in one transaction.
        told: The id of the last message told; empty for a thread that memory has not seen.
        messages: All messages of the thread.
        chosen: Indices of the messages to journal.
        tools: How much of tools' results to keep.
        edits: Whether to look for edits among the messages told before.
        unchanged: Messages that need not be looked up.
    """
    chosen = {place for place in chosen if not _asked_again(messages, place)}
    if not told:
        return unwritten(held, agent, session, for_journal([messages[p] for p in sorted(chosen)], tools))
    last = _place_after(messages, told)
    looked_up: Collection[int] = range(len(messages))
    past, epoch = dict[int, bytes](), 0
    if last is not None and not edits:
        looked_up = range(max(last - 1, 0), len(messages))
    elif last is not None and unchanged is not None:
        epoch = (held.version(agent) or (0, 0))[0]
        past = {place: _fingerprint(messages[place]) for place in range(last) if place in chosen}
        same = unchanged.known(agent, session, epoch)
        asked_at = max((place for place in past if messages[place].type == "human"), default=0)
        looked_up = {place for place in looked_up if place >= asked_at or past.get(place) not in same}
    names = {
        place: id_name(messages[place].id) for place in sorted(looked_up) if place in chosen and messages[place].id
    }
    live = {each.id: each for each in held.find(agent, [(session, each) for each in names.values()])}
    after = _after_what_is_known(messages, names, live) if last is None else last
    changed = for_journal([messages[place] for place in names if place < after and names[place] in live], tools)
    fresh = for_journal([messages[place] for place in sorted(chosen) if place >= after], tools)
    known = [each for each in fresh if each.get("id") in live]
    fresh = [each for each in fresh if each not in known]
    gone = [messages[place] for place in names if place < after and names[place] not in live]
    changed = [*edited([*live.values()], [*changed, *known]), *_reworded(held, agent, session, gone, tools)]
    if past and unchanged is not None and not changed:  # messages still to be written are looked up again
        unchanged.note(agent, session, epoch, past.values())
    if last is None and len(fresh) > 1:
        return [*changed, *unwritten(held, agent, session, fresh)]
    asked = next((messages[p] for p in sorted(chosen, reverse=True) if p < after and messages[p].type == "human"), None)
    question: Any = next(iter(for_journal([] if asked is None else [asked], tools)), None)
    if question is not None and question.get("id") in live:
        question = live[question["id"]].position
    return [*changed, *unwritten_turn(held, agent, session, fresh, question)]


def _reworded(
    held: MessageLookup, agent: str, session: str, gone: Sequence[BaseMessage], tools: ToolOutput
) -> list[dict[str, Any]]:
    """Messages whose ids left the journal and that now have new words.

    Tools' results are excluded: how much of one is kept depends on an option, and erased text must not come back.
    """
    told = for_journal([each for each in gone if each.type != "tool"], tools)
    return [told[at] for at in held.with_other_words(agent, session, check_messages(told))] if told else []


def _place_after(messages: Sequence[BaseMessage], told: str) -> int | None:
    """The index after the last message told; None if that is no longer in the thread."""
    return next((place + 1 for place in reversed(range(len(messages))) if messages[place].id == told), None)


def _after_what_is_known(messages: Sequence[BaseMessage], names: Mapping[int, str], held: Collection[str]) -> int:
    """The index after the last message that the journal holds and after the last complete reply."""
    replies = [place for place, each in enumerate(messages[:-1]) if isinstance(each, AIMessage) and not each.tool_calls]
    return max([*replies, *(place for place, name in names.items() if name in held)], default=-1) + 1


def _asked_again(messages: Sequence[BaseMessage], place: int) -> bool:
    """Whether a message repeats the unanswered question before it: a failed run that is tried again."""
    before, this = messages[place - 1] if place else None, messages[place]
    return before is not None and before.type == this.type == "human" and before.content == this.content


def _last_id(kept: Any) -> str:
    """The last id in a checkpoint's value; older versions kept a mapping by id, in the thread's order."""
    if isinstance(kept, Mapping):
        return str(next(reversed(kept), "")) if kept else ""
    return str(kept) if isinstance(kept, str) else ""
