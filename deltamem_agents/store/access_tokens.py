"""`AccessTokens`: the part of `Store` that keeps a server's access tokens, each as its SHA-256.

A token is 256 random bits, so a plain hash of it cannot be guessed back. What a token may do is decided elsewhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from sqlalchemy import Connection, delete, exists, insert, or_, select

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.store.database import Database
from deltamem_agents.store.schema import SCOPES, TokenRow

PREFIX = "dm_"  # tells a person, or a scanner of leaked secrets, what a token is
TOKEN_BYTES = 32
PATTERNS, PATTERN_LENGTH = 100, 255


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessToken:
    """What is known of a token; the token itself is not stored.

    Args:
        name: Names it where tokens are listed and revoked.
        agents: Patterns of agent ids; ``*`` stands for any characters.
        scope: "read", "write" or "admin"; each includes those before it.
        session: Whether a login made it from another token.
    """

    name: str
    agents: tuple[str, ...]
    scope: str
    created_at: datetime
    expires_at: datetime | None = None
    session: bool = False


class AccessTokens:
    """A server's access tokens.

    Every method raises ClosedError, ForkedError and StoreError as `Database.read` and `write` do.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        agents: Sequence[str],
        scope: str,
        *,
        expires_at: datetime | None = None,
        parent: str | None = None,
    ) -> tuple[str, AccessToken]:
        """Make a token and return it with what is stored of it. It cannot be shown again.

        Args:
            agents: Patterns of agent ids; ``*`` stands for any characters.
            parent: Name of the token that a person logged in with; revoking that one revokes this one.

        Raises:
            ConfigError: A pattern or the scope is not valid, or there is no token of the parent's name.
        """
        patterns = _checked_patterns(agents)
        arguments.one_of(scope, "scope", SCOPES)
        arguments.moments(expires_at, None)
        secret = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        values = {
            "name": f"tok_{secrets.token_hex(6)}",
            "hash": _hash(secret),
            "agents": list(patterns),
            "scope": scope,
            "created_at": datetime.now(UTC),
            "expires_at": expires_at,
        }

        def work(connection: Connection) -> AccessToken:
            connection.execute(delete(TokenRow).where(TokenRow.expires_at < datetime.now(UTC)))
            owner = None
            if parent is not None:
                owner = connection.execute(select(TokenRow.key).where(TokenRow.name == parent)).scalar()
                if owner is None:
                    raise ConfigError(f"there is no token {shown(parent)}")
            if connection.execute(select(TokenRow.key).where(TokenRow.hash == values["hash"])).first() is None:
                connection.execute(insert(TokenRow).values(**values, parent=owner))
            found = connection.execute(select(TokenRow).where(TokenRow.hash == values["hash"])).one()
            return _token(found)

        return secret, self._database.write(work)

    def find(self, secret: str) -> AccessToken | None:
        """The token with this secret; None if there is none, or it has expired."""
        digest = _hash(secret)

        def work(connection: Connection) -> AccessToken | None:
            row = connection.execute(select(TokenRow).where(TokenRow.hash == digest)).first()
            return None if row is None else _token(row)

        found = self._database.read(work, alone=True)
        expired = found is not None and found.expires_at is not None and found.expires_at <= datetime.now(UTC)
        return None if expired else found

    def exist(self) -> bool:
        """Whether there is a token that has not expired."""
        now = datetime.now(UTC)
        query = select(exists().where(or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > now)))
        return bool(self._database.read(lambda connection: connection.execute(query).scalar(), alone=True))

    def all(self) -> list[AccessToken]:
        """All tokens that a person made, oldest first; those that logins made are left out."""
        query = select(TokenRow).where(TokenRow.parent.is_(None)).order_by(TokenRow.key)
        return self._database.read(lambda connection: [_token(row) for row in connection.execute(query)], alone=True)

    def revoke(self, name: str) -> bool:
        """Delete a token and the logins made with it; returns whether there was one of this name."""
        arguments.text(name, "name")

        def work(connection: Connection) -> bool:
            key = connection.execute(select(TokenRow.key).where(TokenRow.name == name)).scalar()
            if key is None:
                return False
            connection.execute(delete(TokenRow).where(or_(TokenRow.key == key, TokenRow.parent == key)))
            return True

        return self._database.write(work)


def _token(row: object) -> AccessToken:
    values = row._mapping  # type: ignore[attr-defined]  # a row of `TokenRow`
    return AccessToken(
        name=values["name"],
        agents=tuple(values["agents"]),
        scope=values["scope"],
        created_at=values["created_at"],
        expires_at=values["expires_at"],
        session=values["parent"] is not None,
    )


def _hash(secret: str) -> str:
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _checked_patterns(agents: Sequence[str]) -> tuple[str, ...]:
    if isinstance(agents, str) or not isinstance(agents, Sequence) or not 0 < len(agents) <= PATTERNS:
        raise ConfigError(f"agents are {shown(agents)}; give 1 to {PATTERNS} patterns such as 'alice' or 'team-*'")
    for each in agents:
        arguments.identifier(each, "pattern of agents", PATTERN_LENGTH)
    return tuple(agents)


__all__ = ["AccessToken", "AccessTokens"]
