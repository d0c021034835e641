"""The bodies that REST takes, and the pages that it answers with.

Unknown fields are refused; what a field may hold is checked by `AgentMemory` itself.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from deltamem_agents.serving.failures import HttpFailure

Text = Field(examples=["How do we indent?"])


class Body(BaseModel):
    """A body: unknown fields are refused, and so is a number for text."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Message(Body):
    """A message as `AgentMemory.write` takes it."""

    role: Literal["system", "user", "assistant", "tool"] = Field(examples=["user"])
    content: str | list[str | dict[str, Any]] | None = Field(default=None, examples=["We indent with two spaces."])
    id: str | None = Field(default=None, max_length=255, examples=["m1"])
    metadata: dict[str, Any] | None = Field(default=None, examples=[{"source": "chat"}])
    created_at: AwareDatetime | None = Field(default=None, strict=False, examples=["2026-11-30T10:00:00Z"])
    folded: bool | None = Field(default=None, description="Whether the text goes into the state.")
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def plain(self) -> dict[str, Any]:
        """The fields that were given."""
        return self.model_dump(exclude_unset=True, exclude_none=True)


class NewMessages(Body):
    """Messages to journal."""

    messages: list[Message] = Field(max_length=10_000)
    session: str = Field(default="default", examples=["s1"])
    wait: bool = Field(default=True, description="False answers as soon as the messages are durable.")


class Query(Body):
    """What to recall; see `AgentMemory.recall` and `RecallOptions`."""

    query: str = Text
    session: str | None = Field(default=None, description="Only records of this session.")
    context: list[str] = Field(default=[], description="The turns before the query, oldest first.")
    lean: bool = False
    generate: bool = Field(default=True, description="Whether the backbone answers too.")
    mode: str = Field(default="hybrid", examples=["hybrid"], description="state, vector or hybrid.")
    k: int = Field(default=5, description="The most records.")
    budget: int | None = Field(default=None, description="The most tokens that records may take.")
    handover: str = "context"
    outdated: str = "omit"
    since: datetime | None = Field(default=None, strict=False)
    until: datetime | None = Field(default=None, strict=False)
    metadata: dict[str, Any] | None = None


class Fork(Body):
    """The agent to make."""

    new: str = Field(examples=["alice-2"])


class Rollback(Body):
    """Where to continue."""

    position: int = Field(ge=0, examples=[0])


class Ref(Body):
    """A message: ids are unique within their session only."""

    session: str
    id: str


class Erase(Body):
    """What to erase: messages that match every filter; see `AgentMemory.erase`."""

    ids: list[str | Ref] | None = Field(default=None, max_length=100_000)
    session: str | None = Field(default=None, examples=["s1"])
    since: datetime | None = Field(default=None, strict=False)
    until: datetime | None = Field(default=None, strict=False)
    forks: bool = False
    dry_run: bool = False
    wait: bool = True
    tombstone: bool = True

    def refs(self) -> list[str | tuple[str, str]] | None:
        """The ids as `AgentMemory.erase` takes them."""
        if self.ids is None:
            return None
        return [each if isinstance(each, str) else (each.session, each.id) for each in self.ids]


LIMIT = 100  # items of a page by default
MOST = 1000  # and at most


def page(items: Sequence[dict[str, Any]], following: object | None) -> dict[str, Any]:
    """A page; ``next`` is the cursor of the one after it, null on the last."""
    return {"data": list(items), "next": None if following is None else cursor(following)}


def cursor(value: object) -> str:
    """A cursor; callers send it back as it is."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def after(given: str | None, kind: type, start: Any) -> Any:
    """The value of a cursor, or ``start`` without one.

    Raises:
        HttpFailure: 400; no page has given this cursor.
    """
    if given is None:
        return start
    try:
        value = json.loads(base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        value = None
    if type(value) is not kind:
        raise HttpFailure(
            400, "the cursor is not valid; give 'next' of the page before", "invalid_cursor", param="after"
        )
    return value
