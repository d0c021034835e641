"""How many tokens a memory may return: its model's window, less the room for the answer."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory.memory import DEFAULT_TOKEN_LIMIT
from llama_index.core.settings import Settings

from deltamem_agents.frameworks.messages import own_role
from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.open_memories import Handle

ANSWER = 256  # tokens reserved for an answer if the LLM does not say how many it needs
MARKUP = 5  # tokens around a message in a model's format
ADDED = 8  # 1/ADDED of the room is reserved for what an agent adds: its instructions and its tools

_lock = threading.Lock()
_llms: weakref.WeakKeyDictionary[DeltaMem, list[weakref.ref[Any]]] = weakref.WeakKeyDictionary()


def announce(mem: DeltaMem, llm: object) -> None:
    """Register an LLM of this `DeltaMem`, so that memories over it respect the LLM's window."""
    with _lock:
        alive = [ref for ref in _llms.get(mem, []) if ref() is not None]
        _llms[mem] = [*alive, weakref.ref(llm)]


class Window(Handle):
    """How many tokens a memory may return, by the user's limit and the model's window.

    The model is ``llm``, if given. Otherwise the smallest window counts of LlamaIndex's ``Settings.llm``, if that is
    set, and of each `DeltaMemLLM` over the same `DeltaMem`. If there is none and no limit was given, the backbone's
    window counts.

    Args:
        limit: The user's token limit; None for LlamaIndex's default.
        flush: Tokens that leave a full buffer at once.
        llm: LlamaIndex's LLM; None if the memory was given none.
    """

    __slots__ = ("_llm", "flush", "limit")

    def __init__(self, mem: DeltaMem, limit: int | None, flush: int, llm: object | None) -> None:
        super().__init__(mem)
        self.limit = limit
        self.flush = flush
        self._llm = llm

    def room(self) -> int | None:
        """The most tokens of a whole prompt; None if no window is known."""
        rooms = [room for room in map(_room, self._models()) if room is not None]
        if not rooms and self.limit is None and (backbone := _backbone_window(self.mem)):
            rooms = [backbone - min(ANSWER, backbone // 4)]
        return min(rooms, default=None)

    def sizes(self) -> tuple[int, int]:
        """The token limit of buffer and recalled text together, and the tokens that leave a full buffer at once."""
        limit, room = DEFAULT_TOKEN_LIMIT if self.limit is None else self.limit, self.room()
        if room is None or room - room // ADDED >= limit:
            return limit, self.flush
        limit = max(1, room - room // ADDED)
        return limit, min(self.flush, max(1, limit // 10))

    def _models(self) -> Iterator[Any]:
        if self._llm is not None:
            yield self._llm
            return
        if (chosen := getattr(Settings, "_llm", None)) is not None:  # Settings.llm itself would create one
            yield chosen
        with _lock:
            known = [ref() for ref in _llms.get(self.mem, [])]
        yield from (llm for llm in known if llm is not None)


def newest_within(roles: Sequence[str], sizes: Sequence[int], room: int) -> list[int]:
    """Indices of the messages to keep so that they fit ``room`` tokens: the oldest are dropped, as few as needed.

    System messages, the newest user message and the last message always stay. Earlier turns are dropped as a whole, so
    that the rest begins with a user message; then tool rounds of the newest turn, with the message that called them.

    Args:
        roles: The messages' roles, by our names.
        sizes: Tokens of each message.
    """
    asked = max((place for place, role in enumerate(roles) if role == "user"), default=-1)
    units: list[list[int]] = []
    for place, role in enumerate(roles):
        begins = role == "user" if place <= asked else role != "tool"
        if role == "system":
            continue
        if begins or not units:
            units.append([])
        units[-1].append(place)
    total, gone = sum(sizes), set[int]()
    for unit in units[:-1]:
        if total <= room:
            break
        if asked not in unit:
            gone.update(unit)
            total -= sum(sizes[place] for place in unit)
    return [place for place in range(len(roles)) if place not in gone]


def kept_within(messages: Sequence[ChatMessage], sizes: Sequence[int], room: int) -> list[ChatMessage]:
    """The messages that `newest_within` keeps."""
    roles = [own_role(message.role.value) for message in messages]
    return [messages[place] for place in newest_within(roles, sizes, room)]


def _room(llm: Any) -> int | None:
    """The tokens that an LLM's window leaves for a prompt; None if the LLM does not tell its window."""
    try:
        metadata = llm.metadata
        window, answer = int(metadata.context_window), int(metadata.num_output)
    except Exception:  # integrations look models up by name, and raise for unknown ones
        return None
    if window < 1:
        return None
    answer = answer if answer > 0 else ANSWER
    return window - (answer if answer < window else window // 4)


def _backbone_window(mem: DeltaMem) -> int | None:
    return mem.engine.window if mem.backbone.present else None
