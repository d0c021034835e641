"""`Settings`: what a server allows, and how it consults memory."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.memory.options import RecallOptions

LOOPBACK = ("localhost", "127.0.0.1", "::1")
BODY_BYTES = 8 << 20
IMPORT_BYTES = 1 << 30
REQUESTS_A_MINUTE = 60
REPLIES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """The OpenAI-compatible endpoint that answers in proxy mode.

    Args:
        url: Its base URL, such as ``https://api.openai.com/v1``.
        key: Its API key; None passes the caller's ``Authorization`` on.
        seconds: How long to wait for its next bytes.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    seconds: float = 600.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(f"upstream is {shown(self.url)}; give a base URL such as https://api.openai.com/v1")
        if parts.username is not None or parts.password is not None:
            raise ConfigError("the upstream URL holds a password; give the key with --upstream-key-env")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server allows.

    Args:
        hosts: Names that requests may give in ``Host``, besides those of the loopback interface.
        origins: Values of ``Origin`` that are allowed besides the server's own.
        require_token: Whether requests need a token although the database has none; see `create_app`.
        rate: Requests a minute that one token may make; 0 for no limit.
        concurrency: Replies that are generated, or wait for that, at once; further requests get 429. 0 for no limit.
        agent: The agent of requests that name none; None refuses them.
        recall: How memory is consulted for a reply.
        upstream: Proxy mode; None answers with the backbone.
        body_bytes, import_bytes: The largest body, and the largest archive to import.
        body_seconds: The longest pause between two pieces of a request's body.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    require_token: bool = False
    rate: int = REQUESTS_A_MINUTE
    concurrency: int = REPLIES_AT_ONCE
    agent: str | None = None
    recall: RecallOptions = field(default_factory=RecallOptions)
    upstream: Upstream | None = None
    body_bytes: int = BODY_BYTES
    import_bytes: int = IMPORT_BYTES
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        for name in ("rate", "concurrency", "body_bytes", "import_bytes"):
            arguments.whole(getattr(self, name), name)
        arguments.seconds(self.body_seconds, "body_seconds")
        if self.agent is not None:
            arguments.identifier(self.agent, "agent")
        for each in (*self.hosts, *self.origins):
            arguments.text(each, "a host or origin")

    def allows_host(self, name: str) -> bool:
        """Whether a request may name this host, without its port."""
        return name.lower() in (*LOOPBACK, *(each.lower() for each in self.hosts))

    @property
    def forwards_key(self) -> bool:
        """Whether a caller's ``Authorization`` goes to the upstream, and the server's token comes elsewhere."""
        return self.upstream is not None and self.upstream.key is None


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
