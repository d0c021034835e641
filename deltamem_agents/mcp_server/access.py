"""Who may use the server over HTTP, and whose memory a request is about.

A token names its agent, so no tool has an argument for it. Over stdio there is no token: whoever starts the process
may use it, and its agent is the one that the process was started for.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken, TokenVerifier

from deltamem_agents.mcp_server.tokens import checked


class Tokens(TokenVerifier):
    """The tokens that the server accepts, each with the agent it is for. Only hashes are kept.

    Args:
        agents: Agent by token.

    Raises:
        ConfigError: There is none, or one is empty, too long, or holds a space or a control character.
        InvalidAgentError: An agent's id is not valid.
    """

    def __init__(self, agents: Mapping[str, str]) -> None:
        self._agents = {_hash(token): agent for token, agent in checked(agents).items()}

    async def verify_token(self, token: str) -> AccessToken | None:
        """The agent of a token, as its subject; None for an unknown one. Every token is compared, in constant time."""
        given, found = _hash(token), None
        for each, agent in self._agents.items():
            if hmac.compare_digest(each, given):
                found = agent
        return None if found is None else AccessToken(token="", client_id=found, scopes=[], subject=found)


def agent_of_request(default: str) -> str:
    """The agent whose memory the running request is about: its token's, or ``default`` if it came without one."""
    token = get_access_token()
    return default if token is None or token.subject is None else token.subject


def _hash(token: str) -> bytes:
    return sha256(token.encode("utf-8", "surrogatepass")).digest()
