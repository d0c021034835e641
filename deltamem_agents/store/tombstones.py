"""Tombstones of erased messages, so that a client that resends its history does not bring them back.

A tombstone holds the message's place in the conversation and three hashes: of the session, of the message's id and of
its wording. The HMAC key is the agent's and is deleted with it. Only someone with access to the database has the key
and can test a guess at an erased message. Works on an open connection.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Iterable, Sequence
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from deltamem_agents.messages import NewMessage, wording, wording_of
from deltamem_agents.store.dialects import rows_among
from deltamem_agents.store.schema import SECRET_BYTES, AgentRow, MessageRow, TombstoneRow, chunked

HASH = 16  # bytes

_KEY = select(AgentRow.key, AgentRow.tombstone_key).where(AgentRow.id == bindparam("agent"))
_TOMBSTONES = select(TombstoneRow.key, TombstoneRow.session, TombstoneRow.message).where(
    TombstoneRow.agent_key == bindparam("key")
)
_ROWS = (
    select(MessageRow.position, MessageRow.id, MessageRow.role, MessageRow.text, MessageRow.blocks, MessageRow.left_at)
    .where(
        MessageRow.agent_key == bindparam("key"),
        MessageRow.session == bindparam("session"),
        MessageRow.position > bindparam("after"),
    )
    .order_by(MessageRow.position)
)

_OF_IDS = select(MessageRow.id, MessageRow.role, MessageRow.text, MessageRow.blocks).where(
    MessageRow.agent_key == bindparam("key"), MessageRow.session == bindparam("session")
)
_ERASED_OF_IDS = select(TombstoneRow.message, TombstoneRow.said).where(
    TombstoneRow.agent_key == bindparam("key"), TombstoneRow.session == bindparam("session")
)


class Said(NamedTuple):
    """A message that a session holds or held.

    Args:
        place: Its place in the conversation: the position of the first message with its id.
        position: Its position in the journal; 0 if it was erased.
        id: Its id; empty for an erased message, unless one of the messages searched for has that id.
        wording: See `wording`.
        live: Whether it is in the live journal; if not, it was replaced, rolled back or erased.
        result: Its text if it is a tool result, else empty.
    """

    place: int
    position: int
    id: str
    role: str
    wording: str
    live: bool
    result: str = ""

    @property
    def erased(self) -> bool:
        """Whether the message was erased and only its tombstone is left."""
        return not self.position


def ever_said(
    connection: Connection, agent: str, session: str, messages: Sequence[NewMessage], after: int
) -> list[Said]:
    """All messages that a session ever held, in conversation order: live, replaced and rolled back ones.

    Erased messages are included only if they say the same as one of ``messages``; others cannot be known.

    Args:
        after: Only messages at a later position; does not apply to erased ones.
    """
    found = connection.execute(_KEY, {"agent": agent}).first()
    if found is None:
        return []
    key, secret = found
    places: dict[str, int] = {}
    said = [
        Said(
            places.setdefault(row.id, row.position),
            row.position,
            row.id,
            row.role,
            wording(row.role, row.text, row.blocks),
            row.left_at is None,
            row.text if row.role == "tool" else "",
        )
        for row in connection.execute(_ROWS, {"key": key, "session": session, "after": after})
    ]
    if secret is not None and messages:
        said += _erased(connection, key, secret, session, messages)
    return sorted(said, key=lambda each: (each.place, each.position))


def with_other_words(connection: Connection, agent: str, session: str, messages: Sequence[NewMessage]) -> list[int]:
    """Indices of messages whose ids the session holds or held, but always with other words."""
    found = connection.execute(_KEY, {"agent": agent}).first()
    if found is None:
        return []
    key, secret = found
    ids = list(dict.fromkeys(each.id for each in messages))
    held: dict[str, set[str | bytes]] = {}
    for row in rows_among(connection, _OF_IDS, MessageRow.id, ids, {"key": key, "session": session}):
        held.setdefault(row.id, set()).add(wording(row.role, row.text, row.blocks))
    if secret is not None:
        names = {_hash(secret, "id", each): each for each in ids}
        scope = {"key": key, "session": _hash(secret, "session", session)}
        for row in rows_among(connection, _ERASED_OF_IDS, TombstoneRow.message, list(names), scope):
            held.setdefault(names[row.message], set()).add(row.said)
    other = []
    for place, each in enumerate(messages):
        told = wording_of(each)
        same = {told} if secret is None else {told, _hash(secret, "said", session, told)}
        if each.id in held and not held[each.id] & same:
            other.append(place)
    return other


def leave(
    connection: Connection, agent_key: int, rows: Iterable[Any], versions: Iterable[tuple[int, str, str]]
) -> None:
    """Store tombstones of messages that are about to be deleted.

    Args:
        rows: Rows of the messages table.
        versions: Position, session and id of all versions of these messages, in journal order.
    """
    rows = list(rows)
    if not rows:
        return
    secret = connection.scalar(select(AgentRow.tombstone_key).where(AgentRow.key == agent_key))
    if secret is None:
        secret = secrets.token_bytes(SECRET_BYTES)
        connection.execute(update(AgentRow).where(AgentRow.key == agent_key).values(tombstone_key=secret))
    places: dict[tuple[str, str], int] = {}  # (session, id) -> position of its first version
    for position, session, message_id in versions:
        places.setdefault((session, message_id), position)
    left = [
        {
            "agent_key": agent_key,
            "place": places[row.session, row.id],
            "session": _hash(secret, "session", row.session),
            "message": _hash(secret, "id", row.id),
            "said": _hash(secret, "said", row.session, wording(row.role, row.text, row.blocks)),
        }
        for row in rows
    ]
    connection.execute(insert(TombstoneRow), left)


def earlier(
    connection: Connection, agent_key: int, ids: Collection[str | tuple[str, str]] | None, session: str | None
) -> list[int]:
    """Keys of the tombstones that match ``ids`` and ``session``, where given; none if neither is given."""
    secret = connection.scalar(select(AgentRow.tombstone_key).where(AgentRow.key == agent_key))
    if secret is None or (ids is None and session is None):
        return []
    where = None if session is None else _hash(secret, "session", session)
    if ids is None:
        rows = connection.execute(_TOMBSTONES.where(TombstoneRow.session == where), {"key": agent_key})
        return [row.key for row in rows]
    wanted: dict[bytes, set[bytes | None]] = {}  # hash of an id -> hashes of its sessions, None for any
    for each in ids:
        of, name = (None, each) if isinstance(each, str) else (_hash(secret, "session", each[0]), each[1])
        wanted.setdefault(_hash(secret, "id", name), set()).add(of)
    return [
        row.key
        for row in rows_among(connection, _TOMBSTONES, TombstoneRow.message, list(wanted), {"key": agent_key})
        if wanted[row.message] & {None, row.session} and where in (None, row.session)
    ]


def remove(connection: Connection, keys: Sequence[int]) -> None:
    """Delete tombstones by their keys."""
    for chunk in chunked(keys):
        connection.execute(delete(TombstoneRow).where(TombstoneRow.key.in_(chunk)))


def delete_of(connection: Connection, agent_key: int) -> None:
    """Delete all tombstones of an agent."""
    connection.execute(delete(TombstoneRow).where(TombstoneRow.agent_key == agent_key))


def copy(connection: Connection, agent_key: int, new: int) -> None:
    """Copy an agent's tombstones and their key to its fork."""
    secret = connection.scalar(select(AgentRow.tombstone_key).where(AgentRow.key == agent_key))
    if secret is None:
        return
    connection.execute(update(AgentRow).where(AgentRow.key == new).values(tombstone_key=secret))
    columns = (TombstoneRow.place, TombstoneRow.session, TombstoneRow.message, TombstoneRow.said)
    rows = select(bindparam("new", new, type_=TombstoneRow.agent_key.type), *columns)
    rows = rows.where(TombstoneRow.agent_key == agent_key).order_by(TombstoneRow.key)
    connection.execute(insert(TombstoneRow).from_select([TombstoneRow.agent_key, *columns], rows))


def _erased(
    connection: Connection, key: int, secret: bytes, session: str, messages: Sequence[NewMessage]
) -> Iterable[Said]:
    """The session's erased messages that say the same as one of ``messages``."""
    query = (
        select(TombstoneRow.place, TombstoneRow.message, TombstoneRow.said)
        .where(TombstoneRow.agent_key == key, TombstoneRow.session == _hash(secret, "session", session))
        .order_by(TombstoneRow.place, TombstoneRow.key)
    )
    rows = connection.execute(query).all()
    if not rows:
        return
    known: dict[bytes, tuple[str, str]] = {}
    for each in messages:
        told = wording_of(each)
        known[_hash(secret, "said", session, told)] = each.role, told
    ids = {_hash(secret, "id", each.id): each.id for each in messages}
    for place, message, said in rows:
        if said in known:
            yield Said(place, 0, ids.get(message, ""), *known[said], live=False)


def _hash(secret: bytes, *told: str) -> bytes:
    return hmac.new(secret, "\0".join(told).encode("utf-8", "surrogatepass"), sha256).digest()[:HASH]
