"""Who asks, and what they may do: tokens, their agents and scopes, and how many requests they may make.

A token is looked up in the database at most once in `CACHED_SECONDS`, so a revoked one works no longer than that.
"""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from hashlib import sha256
from re import Pattern, compile, escape
from typing import TypeVar

from deltamem_agents.memory import DeltaMem
from deltamem_agents.memory.async_methods import AsyncCall
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.store.access_tokens import AccessToken
from deltamem_agents.store.schema import SCOPES

CACHED_SECONDS = 2.0
CACHED_TOKENS = 4096
LOGIN_LIFETIME = timedelta(hours=12)
CALLERS = 10_000  # of which the requests are counted

T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """What a request may do.

    Args:
        token: None for a server without tokens, where everybody on this machine may do everything.
        csrf: The value that a form of the inspector's pages must send; None unless the request came with a cookie.
    """

    token: AccessToken | None = None
    csrf: str | None = None

    @property
    def caller(self) -> str:
        """A name for the caller, the same for all requests with one token."""
        return self.token.name if self.token else "-"

    @cached_property
    def _patterns(self) -> list[Pattern[str]]:
        return [_regex(each) for each in self.token.agents] if self.token else []

    @property
    def only_agent(self) -> str | None:
        """The agent, if the token is for a single one."""
        agents = self.token.agents if self.token else ()
        return agents[0] if len(agents) == 1 and "*" not in agents[0] else None

    def has(self, scope: str) -> bool:
        """Whether the scope is included."""
        return self.token is None or SCOPES.index(self.token.scope) >= SCOPES.index(scope)

    def reaches(self, agent: str) -> bool:
        """Whether the agent is among the token's."""
        return self.token is None or any(each.fullmatch(agent) for each in self._patterns)

    @property
    def reaches_all(self) -> bool:
        """Whether every agent is among the token's."""
        return self.token is None or "*" in self.token.agents

    def check(self, agent: str | None, scope: str) -> None:
        """Raise unless this may be done to this agent.

        Raises:
            HttpFailure: 403.
        """
        if not self.has(scope):
            assert self.token is not None  # without one, everything is allowed
            raise HttpFailure(
                403,
                f"this needs a token with scope '{scope}', and the token {self.caller} has '{self.token.scope}'; "
                "make one with 'deltamem tokens create'",
                "insufficient_scope",
            )
        if agent is not None and not self.reaches(agent):
            raise HttpFailure(
                403, f"the token {self.caller} does not reach this agent; use one made for it", "agent_not_allowed"
            )


class Tokens:
    """Looks tokens up, and counts the requests made with each.

    Args:
        required: Whether a token is needed even if the database has none.
        rate: Requests a minute and token; 0 for no limit.
    """

    def __init__(self, mem: DeltaMem, *, required: bool, rate: int) -> None:
        self._mem = mem
        self._required = required
        self._rate = rate
        self._found: OrderedDict[str, tuple[float, AccessToken | None]] = OrderedDict()
        self._any: tuple[float, bool] = (0.0, required)
        self._made: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def required(self) -> bool:
        """Whether requests need a token: always, or because the database has one."""
        if self._required:
            return True
        until, found = self._any
        if time.monotonic() >= until:
            found = await in_thread(self._mem, "tokens", self._mem.store.tokens.exist)
            self._any = (time.monotonic() + CACHED_SECONDS, found)
        return found

    async def find(self, secret: str) -> AccessToken | None:
        """The token with this secret; None if there is none."""
        digest = sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        until, found = self._found.get(digest, (0.0, None))
        if time.monotonic() >= until:
            found = await in_thread(self._mem, "tokens", lambda: self._mem.store.tokens.find(secret))
            self._found[digest] = (time.monotonic() + CACHED_SECONDS, found)
            self._found.move_to_end(digest)
            while len(self._found) > CACHED_TOKENS:
                self._found.popitem(last=False)
        expired = found is not None and found.expires_at is not None and found.expires_at <= datetime.now(UTC)
        return None if expired else found

    async def log_in(self, secret: str) -> tuple[str, AccessToken] | None:
        """A token of `LOGIN_LIFETIME` for a cookie, with the agents and scope of the one given; None if that is wrong.

        Revoking the token that was given revokes it too.
        """
        found = await self.find(secret)
        if found is None or found.session:
            return None
        until = datetime.now(UTC) + LOGIN_LIFETIME
        until = min(until, found.expires_at) if found.expires_at else until
        tokens = self._mem.store.tokens
        return await in_thread(
            self._mem,
            "tokens",
            lambda: tokens.create(found.agents, found.scope, expires_at=until, parent=found.name),
        )

    async def log_out(self, token: AccessToken) -> None:
        """Revoke the token of a cookie."""
        if token.session:
            await in_thread(self._mem, "tokens", lambda: self._mem.store.tokens.revoke(token.name))
            self._found.clear()

    def count(self, caller: str) -> None:
        """Count a request against the caller's rate.

        Raises:
            HttpFailure: 429; the caller has made too many.
        """
        if not self._rate:
            return
        now = time.monotonic()
        left, at = self._made.get(caller, (float(self._rate), now))
        left = min(float(self._rate), left + (now - at) * self._rate / 60)
        if left < 1:
            self._made[caller] = (left, now)
            wait = int((1 - left) * 60 / self._rate) + 1
            raise HttpFailure(
                429,
                f"more than {self._rate} requests a minute with this token; wait {wait} s, or start the server with "
                "a higher --rate",
                "rate_limit_exceeded",
                headers={"Retry-After": str(wait)},
            )
        self._made[caller] = (left - 1, now)
        self._made.move_to_end(caller)
        while len(self._made) > CALLERS:
            self._made.popitem(last=False)


def csrf_token(secret: str) -> str:
    """The value that goes with a cookie's token in forms and headers: it cannot be computed without the cookie."""
    return hmac.new(secret.encode(), b"deltamem csrf", sha256).hexdigest()


async def in_thread(mem: DeltaMem, name: str, work: Callable[[], T]) -> T:
    """Run a blocking call of the store in one of the memory's threads."""
    mem.check_open()
    async with AsyncCall(mem.pool, name) as call:
        return await call.thread(work)


def _regex(pattern: str) -> Pattern[str]:
    return compile("(?s:.*)".join(map(escape, pattern.split("*"))))
