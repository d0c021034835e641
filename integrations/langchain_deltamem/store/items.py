"""Convert LangGraph's items to messages of a journal and back.

A namespace becomes a session, its labels joined by "."; namespace and key become the message's id. The message's text
is the searchable part of the value, which is folded too; its metadata holds the whole value.
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
from deltamem_agents.messages import VERSION
from deltamem_agents.recall.records import PAGE_END
from deltamem_agents.store import Described, Entry, MessageRef, check_id

FIELD = "langgraph_item"  # metadata field that holds the item; a message without it is not an item
UNNAMED = ("text", "content")  # fields whose names say nothing about their text
ANY = "item"  # prefix of all items' ids
LASTING, EXPIRING = f"{ANY}:", f"{ANY}-ttl:"  # ids alone show whether a namespace holds items that never expire
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
    """A stored item. Times are seconds since 1970, ``ttl`` is in minutes, ``position`` is the journal position."""

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
        """The item in a message, with its content if the message has it; None if the message is not an item."""
        kept: Any = message.metadata.get(FIELD)
        if not is_item(kept):
            return None
        content = message.content if isinstance(message, Entry) else None
        return cls(namespace=tuple(message.session.split(".")), content=content, position=message.position, **kept)

    @property
    def ref(self) -> MessageRef:
        """Session and id of the item's message."""
        return MessageRef(".".join(self.namespace), ids_of(self.namespace, self.key)[self.expires is not None])

    def metadata(self) -> dict[str, Any]:
        """The metadata of the item's message."""
        return {FIELD: {name: getattr(self, name) for name in _KEPT}}

    def lives(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires is None or now < self.expires

    def renewed(self, now: float) -> Self:
        """The item with its full time to live from now on."""
        return self if self.ttl is None else replace(self, expires=now + 60 * self.ttl)

    def item(self) -> Item:
        """The item as LangGraph's `Item`."""
        return Item(**self._fields())

    def found(self, score: float | None = None) -> SearchItem:
        """The item as LangGraph's `SearchItem`."""
        return SearchItem(**self._fields(), score=score)

    def _fields(self) -> dict[str, Any]:
        times = {"created_at": _time(self.created), "updated_at": _time(self.updated)}
        return {"namespace": self.namespace, "key": self.key, "value": self.value, **times}


def session_of(namespace: Namespace) -> str:
    """The session of a namespace.

    Raises:
        InvalidNamespaceError: It is empty, longer than a session id may be, or not valid as one.
    """
    if not namespace:
        raise InvalidNamespaceError(f"namespace is {namespace!r}; give one label or more")
    try:
        return check_id(".".join(namespace), "namespace, as session")
    except InvalidAgentError as error:
        raise InvalidNamespaceError(str(error)) from error


def ids_of(namespace: Namespace, key: str) -> tuple[str, str]:
    """The two possible message ids of a namespace and key: for an item that lasts, and for one that expires."""
    named = hashlib.sha256(json.dumps([*namespace, key]).encode()).hexdigest()[:32]
    return LASTING + named, EXPIRING + named


def is_item(kept: object) -> bool:
    """Whether a message's metadata under `FIELD` is an item; a caller may have written anything there."""
    return (
        isinstance(kept, dict)
        and kept.keys() == _KEPT.keys()
        and all(isinstance(value, _KEPT[name]) for name, value in kept.items())
    )


def content_of(value: Mapping[str, Any], fields: Sequence[str] | None) -> list[Any]:
    """A message's content for a value: its text, and a block that distinguishes values with the same text.

    Args:
        fields: Paths, as in LangGraph's ``index``, to the parts that are text; each becomes its own record. None uses
            the whole value as one record; an empty sequence uses no text.

    Raises:
        InvalidMessageError: JSON cannot hold the value.
    """
    try:
        said = json.dumps(value, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(f"JSON cannot hold the value ({error}); give strings, numbers, lists, dicts") from (
            error
        )
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
    """Lines of text, one for each string and number, with their field names."""
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
