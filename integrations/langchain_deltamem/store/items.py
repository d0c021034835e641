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
from deltamem_agents.store import Entry, MessageRef, check_id
from deltamem_agents.store.messages import VERSION

FIELD = "langgraph_item"  # of a message's metadata; a message without it is none of ours
UNNAMED = ("text", "content")  # fields whose names say nothing about their text
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
    def of(cls, entry: Entry) -> Self | None:
        """The item that a message holds, if it holds one."""
        kept = entry.metadata.get(FIELD)
        if not isinstance(kept, dict):
            return None
        namespace = tuple(entry.session.split("."))
        return cls(namespace=namespace, content=entry.content, position=entry.position, **kept)

    @property
    def ref(self) -> MessageRef:
        """Its message's."""
        return ref_of(self.namespace, self.key)

    def metadata(self) -> dict[str, Any]:
        """What its message carries besides text."""
        names = ("key", "value", "created", "updated", "ttl", "expires")
        return {FIELD: {name: getattr(self, name) for name in names}}

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
        InvalidNamespaceError: It is empty, longer than a session's id may be, or LangGraph's own.
    """
    if not namespace or namespace[0] == "langgraph":
        raise InvalidNamespaceError(f"namespace is {namespace!r}; give one label or more, the first not 'langgraph'")
    try:
        return check_id(".".join(namespace), "namespace, as session")
    except InvalidAgentError as error:
        raise InvalidNamespaceError(str(error)) from error


def ref_of(namespace: Namespace, key: str) -> MessageRef:
    """The message of a namespace and key, however long the key."""
    named = json.dumps([*namespace, key]).encode()
    return MessageRef(".".join(namespace), f"item:{hashlib.sha256(named).hexdigest()[:32]}")


def content_of(value: Mapping[str, Any], fields: Sequence[str] | None) -> list[Any]:
    """What is written of a value: its text, and a block that tells apart values that read the same.

    Args:
        fields: Paths of LangGraph's ``index`` to what is text; None for all of the value, no paths for nothing.

    Raises:
        InvalidMessageError: JSON cannot hold the value.
    """
    try:
        said = json.dumps(value, sort_keys=True, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidMessageError(
            f"the value cannot be held by JSON ({error}); give strings, numbers, lists, dicts"
        ) from (error)
    if fields is None or "$" in fields:
        texts = list(_texts(value))
    else:
        texts = [text for path in fields for text in get_text_at_path(value, tokenize_path(path))]
    text = "\n".join(texts).replace("\0", " ").encode("utf-8", "replace").decode().strip()
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
