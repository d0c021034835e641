"""What of a thread's messages memory has been told, and what it has not.

A checkpoint keeps one id, that of the last message told. Memory knows the rest: messages are known by their ids. The id
gets into the checkpoint by a channel of its own, and not as an update of a node, so that memory adds neither a step
(whose checkpoint would hold the whole thread once more) nor a chunk to a stream of updates.
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
from deltamem_agents.frameworks.tool_output import ToolOutput
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.open_memories import Handle
from deltamem_agents.processes import ProcessLock
from deltamem_agents.store import Held, check_messages
from langchain_deltamem.messages import for_journal

THREADS = 256  # whose messages are known to be in the journal as they are; the latest


class Told(str):
    """The id of the last message told, empty where none was; as a node reads it from the state."""

    __slots__ = ("_channel",)
    _channel: ToldChannel

    @property
    def last(self) -> str:
        """The id as it is now; what was read stays what it was when the node began."""
        return self._channel.checkpoint()

    def move(self, message_id: str) -> None:
        """Let the next checkpoint keep this id."""
        self._channel.move(message_id)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class ToldChannel(BaseChannel[str, str, str]):
    """Keeps an id that is moved while a step runs; `Told` moves it."""

    __slots__ = ("_moved", "_value")

    def __init__(self, typ: Any = str, key: str = "") -> None:
        super().__init__(typ, key)
        self._value, self._moved = "", False

    @property
    def ValueType(self) -> type[str]:
        """What is read."""
        return str

    @property
    def UpdateType(self) -> type[str]:
        """What is written."""
        return str

    def move(self, message_id: str) -> None:
        """Have another value from the end of this step on."""
        self._value, self._moved = message_id, True

    def copy(self) -> ToldChannel:
        """One that is moved by itself."""
        return self.from_checkpoint(self._value)

    def checkpoint(self) -> str:
        """The id."""
        return self._value

    def from_checkpoint(self, checkpoint: Any) -> ToldChannel:
        """A channel with what an earlier run left."""
        made = type(self)(self.typ, self.key)
        made._value = _last_id(checkpoint)
        return made

    def get(self) -> Told:
        """The id, and the way to move it."""
        told = Told(self._value)
        told._channel = self
        return told

    def is_available(self) -> bool:
        """Always: LangGraph tells only channels that are of the end of a step."""
        return True

    def update(self, values: Sequence[Any]) -> bool:
        """At the end of a step: whether a checkpoint has to keep another value."""
        if values:
            self._value, self._moved = _last_id(values[-1]), True
        moved, self._moved = self._moved, False
        return moved


class Unchanged(Handle):
    """Which messages of a thread were compared with the journal, and are what they were then.

    Without it each call of a model would look up the whole thread, in case a message was edited. Only hashes are kept,
    and only while the agent's epoch is the same: after an erasure, a rollback or an edit, all is compared again.
    """

    __slots__ = ("_lock", "_threads")

    def __init__(self, mem: DeltaMem) -> None:
        super().__init__(mem)
        self._lock = ProcessLock()
        self._threads: OrderedDict[tuple[str, str], tuple[int, frozenset[bytes]]] = OrderedDict()

    def known(self, agent: str, session: str, epoch: int) -> frozenset[bytes]:
        """The fingerprints of a thread's messages that are known to be as the journal has them."""
        with self._lock:
            at, prints = self._threads.get((agent, session), (epoch, frozenset()))
        return prints if at == epoch else frozenset()

    def note(self, agent: str, session: str, epoch: int, prints: Collection[bytes]) -> None:
        """Know these of a thread, and no others."""
        with self._lock:
            self._threads[agent, session] = epoch, frozenset(prints)
            self._threads.move_to_end((agent, session))
            while len(self._threads) > THREADS:
                self._threads.popitem(last=False)


def _fingerprint(message: BaseMessage) -> bytes:
    """Another one for another id, or other words."""
    calls = (message.tool_calls, message.invalid_tool_calls) if isinstance(message, AIMessage) else ()
    told = repr((message.type, message.id, message.content, calls, getattr(message, "role", None)))
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def untold(
    held: Held,
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
    """What to write of a thread's messages: those that are new, and those that were edited and kept their id.

    What was told before and is not in the journal was erased, or told to another agent, and is not told again: save in
    other words.

    Args:
        held: What `AgentMemory.write_selected` gives: what is missing is found and written in one.
        told: The id of the last message told; empty for a thread that memory has not seen.
        messages: All of the thread.
        chosen: Places of those that are for the journal.
        tools: What is kept of tools' results.
        edits: Whether to look for edited ones among those that were told.
        unchanged: Those that need no look.
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
    if past and unchanged is not None and not changed:  # what is still to be written is looked up until it is
        unchanged.note(agent, session, epoch, past.values())
    if last is None and len(fresh) > 1:
        return [*changed, *unwritten(held, agent, session, fresh)]
    asked = next((messages[p] for p in sorted(chosen, reverse=True) if p < after and messages[p].type == "human"), None)
    question: Any = next(iter(for_journal([] if asked is None else [asked], tools)), None)
    if question is not None and question.get("id") in live:
        question = live[question["id"]].position
    return [*changed, *unwritten_turn(held, agent, session, fresh, question)]


def _reworded(
    held: Held, agent: str, session: str, gone: Sequence[BaseMessage], tools: ToolOutput
) -> list[dict[str, Any]]:
    """Of messages that the journal has no more, those that kept their id and have new words.

    Tools' results are none of them: what is kept of one depends on an option, and what was erased may not come back.
    """
    told = for_journal([each for each in gone if each.type != "tool"], tools)
    return [told[at] for at in held.with_other_words(agent, session, check_messages(told))] if told else []


def _place_after(messages: Sequence[BaseMessage], told: str) -> int | None:
    """The place after the last message told; None where it is gone from the thread."""
    return next((place + 1 for place in reversed(range(len(messages))) if messages[place].id == told), None)


def _after_what_is_known(messages: Sequence[BaseMessage], names: Mapping[int, str], held: Collection[str]) -> int:
    """The place after all that the journal holds and after the last whole reply."""
    replies = [place for place, each in enumerate(messages[:-1]) if isinstance(each, AIMessage) and not each.tool_calls]
    return max([*replies, *(place for place, name in names.items() if name in held)], default=-1) + 1


def _asked_again(messages: Sequence[BaseMessage], place: int) -> bool:
    """Whether a message is the question before it, which nobody answered: the run failed, and is tried again."""
    before, this = messages[place - 1] if place else None, messages[place]
    return before is not None and before.type == this.type == "human" and before.content == this.content


def _last_id(kept: Any) -> str:
    """Of what a checkpoint keeps; older versions kept a mapping by id, in the thread's order."""
    if isinstance(kept, Mapping):
        return str(next(reversed(kept), "")) if kept else ""
    return str(kept) if isinstance(kept, str) else ""
