"""LangGraph's items as messages of a journal, and back.

A namespace is a session, its labels joined by "."; a message's id is made of namespace and key; its text is what of the
value is to be found and folded; the value itself is metadata.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from langgraph.store.base import InvalidNamespaceError, Item, SearchItem, get_text_at_path, tokenize_path

from deltamem_agents.errors import InvalidAgentError, InvalidMessageError
from deltamem_agents.recall.records import PAGE_END
from deltamem_agents.store import Described, Entry, MessageRef, check_id
from deltamem_agents.store.messages import VERSION

FIELD = "langgraph_item"  # of a message's metadata; a message without it is none of ours
UNNAMED = ("text", "content")  # fields whose names say nothing about their text
ANY = "item"  # what the ids of all items begin with
LASTING, EXPIRING = f"{ANY}:", f"{ANY}-ttl:"  # so that a namespace is known to hold items that last by its ids alone
_NUMBER = (int, float)
_KEPT: Mapping[str, type | tuple[type, ...]] = {
    "key": str,
    "value": dict,
    "created": _NUMBER,
    "updated": _NUMBER,
    "ttl": (*_NUMBER, type(None)),
    "expires": (*_NUMBER, type(None)),
}
Namespace = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An item as it is kept; times are seconds since 1970, ``ttl`` is in minutes, ``position`` the journal's."""

    namespace: Namespace
    key: str
    value: dict[str, Any]
    created: float
    updated: float
    ttl: float | None = None
    expires: float | None = None
    content: Any = None
    position: int = 0

    @classmethod
    def of(cls, message: Described | Entry) -> Self | None:
        """The item that a message holds, if it holds one; with its content, where the message has it."""
        kept: Any = message.metadata.get(FIELD)
        if not is_item(kept):
            return None
        content = message.content if isinstance(message, Entry) else None
        return cls(namespace=tuple(message.session.split(".")), content=content, position=message.position, **kept)

    @property
    def ref(self) -> MessageRef:
        """Its message's."""
        return MessageRef(".".join(self.namespace), ids_of(self.namespace, self.key)[self.expires is not None])

    def metadata(self) -> dict[str, Any]:
        """What its message carries besides text."""
        return {FIELD: {name: getattr(self, name) for name in _KEPT}}

    def lives(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires

    def renewed(self, now: float) -> Self:
        """With its whole time to live before it again."""
        return self if self.ttl is None else replace(self, expires=now + 60 * self.ttl)

    def item(self) -> Item:
        """For whoever gets it."""
        return Item(**self._fields())

    def found(self, score: float | None = None) -> SearchItem:
        """For whoever searched."""
        return SearchItem(**self._fields(), score=score)

    def _fields(self) -> dict[str, Any]:
        times = {"created_at": _time(self.created), "updated_at": _time(self.updated)}
        return {"namespace": self.namespace, "key": self.key, "value": self.value, **times}


def session_of(namespace: Namespace) -> str:
    """The session that is a namespace.

    Raises:
        InvalidNamespaceError: It is empty, or longer than a session's id may be.
    """
    if not namespace:
        raise InvalidNamespaceError(f"namespace is {namespace!r}; give one label or more")
    try:
        return check_id(".".join(namespace), "namespace, as session")
    except InvalidAgentError as error:
        raise InvalidNamespaceError(str(error)) from error


def ids_of(namespace: Namespace, key: str) -> tuple[str, str]:
    """The ids of the message of a namespace and key, however long the key: if it lasts, and if it is to expire."""
    named = hashlib.sha256(json.dumps([*namespace, key]).encode()).hexdigest()[:32]
    return LASTING + named, EXPIRING + named


def is_item(kept: object) -> bool:
    """Whether what a message's metadata has under `FIELD` is an item; a caller may have written anything there."""
    return (
        isinstance(kept, dict)
        and kept.keys() == _KEPT.keys()
        and all(isinstance(value, _KEPT[name]) for name, value in kept.items())
    )


def content_of(value: Mapping[str, Any], fields: Sequence[str] | None) -> list[Any]:
    """What is written of a value: its text, and a block that tells apart values that read the same.

    Args:
        fields: Paths of LangGraph's ``index`` to what is text, each a record of its own; None for all of the value as
            one, no paths for nothing.

    Raises:
        InvalidMessageError: JSON cannot hold the value.
    """
    try:
        said = json.dumps(value, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(
            f"the value cannot be held by JSON ({error}); give strings, numbers, lists, dicts"
        ) from (error)
    separator = "\n"
    if fields is None or "$" in fields:
        texts = list(_texts(value))
    else:
        texts = [text for path in fields for text in get_text_at_path(value, tokenize_path(path))]
        separator = PAGE_END
    text = separator.join(texts).replace("\0", " ").encode("utf-8", "replace").decode().strip()
    blocks: list[Any] = [{"type": "text", "text": text}] if text else []
    return [*blocks, {"type": VERSION, VERSION: hashlib.sha256(said).hexdigest()[:16]}]


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """Lines of text, one for each string and number, with the names of their fields."""
    if isinstance(value, Mapping):
        for field, each in value.items():
            yield from _texts(each, name if field in UNNAMED else str(field))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, name)
    elif value is not None and str(value).strip():
        yield f"{name}: {value}" if name else str(value)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
