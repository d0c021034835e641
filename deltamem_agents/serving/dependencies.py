"""What a route declares: the scope that it needs, and the agent that it is about.

Every route depends on `allowed`, `reaching` or `public`; `unguarded` finds those that do not, and `create_app` refuses
to start with one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any, cast
from urllib.parse import unquote

from fastapi import FastAPI, Path, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import iter_route_contexts

from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.serving.access import Access, Tokens
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.settings import Settings
from deltamem_agents.store import check_id

SCOPE = "deltamem_scope"  # attribute of a dependency that checks one
AGENT_HEADER = "x-deltamem-agent"
SESSION_HEADER = "x-session-id"
DEFAULT_SESSION = "default"

AgentPath = Annotated[
    str, Path(description="The agent's id, percent-encoded: `team%2Falice` for `team/alice`.", examples=["alice"])
]


def memory_of(request: Request) -> DeltaMem:
    """The memory that the server serves."""
    return cast(DeltaMem, request.app.state.mem)


def settings_of(request: Request) -> Settings:
    """What the server allows."""
    return cast(Settings, request.app.state.settings)


def tokens_of(request: Request) -> Tokens:
    """The server's tokens."""
    return cast(Tokens, request.app.state.tokens)


def access_of(request: Request) -> Access:
    """What the request may do."""
    return cast(Access, request.state.access)


def allowed(scope: str) -> Callable[[Request], Awaitable[Access]]:
    """A dependency for routes that are about no agent, or about one that the route finds: the request's `Access`.

    Raises:
        HttpFailure: When called: 403; the token does not have the scope.
    """

    async def check(request: Request) -> Access:
        access = access_of(request)
        access.check(None, scope)
        return access

    setattr(check, SCOPE, scope)
    return check


def reaching(scope: str) -> Callable[[Request, str], Awaitable[AgentMemory]]:
    """A dependency for routes below ``/v1/agents/{agent}``: the agent's memory.

    Raises:
        HttpFailure: When called: 403; the token does not have the scope, or does not reach the agent.
        InvalidAgentError: When called: the id is not valid.
    """

    async def find(request: Request, agent: AgentPath) -> AgentMemory:
        name = decoded(agent)
        access_of(request).check(name, scope)
        return memory_of(request).agent(name)

    setattr(find, SCOPE, scope)
    return find


def public() -> None:
    """A dependency for routes that everybody may call, such as ``/health``; list the path in `create_app` too."""


setattr(public, SCOPE, "")


def agent_named(request: Request, user: str | None, scope: str) -> AgentMemory:
    """The memory of the agent that a request of OpenAI's API names.

    It is the header ``x-deltamem-agent`` (percent-encoded if it is not plain ASCII), else ``user``, else the only
    agent of the token, else `Settings.agent`.

    Raises:
        HttpFailure: 400; none is named. 403; the token does not have the scope, or does not reach the agent.
        InvalidAgentError: The id is not valid.
    """
    access = access_of(request)
    access.check(None, scope)
    header = request.headers.get(AGENT_HEADER)
    name = decoded(header) if header is not None else user
    name = name if name is not None else access.only_agent or settings_of(request).agent
    if name is None:
        raise HttpFailure(
            400,
            f"no agent is named, so it is not known whose memory to use; send the header {AGENT_HEADER}, or 'user', or "
            "start the server with --agent",
            "agent_missing",
            param="user",
        )
    check_id(name)
    access.check(name, scope)
    return memory_of(request).agent(name)


def session_named(request: Request) -> str:
    """The conversation that a request belongs to: the header ``x-session-id``, percent-encoded if not plain ASCII."""
    header = request.headers.get(SESSION_HEADER)
    return DEFAULT_SESSION if header is None else check_id(decoded(header), "session")


def decoded(text: str) -> str:
    """An id from a path or a header.

    Raises:
        HttpFailure: 400; it is not percent-encoded UTF-8.
    """
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise HttpFailure(400, "an id is not percent-encoded UTF-8", "invalid_id") from None


def scopes(app: FastAPI) -> dict[tuple[str, str], set[str]]:
    """The scopes that each route checks, by method and path; "" for one that everybody may call."""
    found: dict[tuple[str, str], set[str]] = {}
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        checked = {
            str(getattr(each.call, SCOPE))
            for each in (() if dependant is None else _all(dependant))
            if hasattr(each.call, SCOPE)
        }
        for method in route.methods or {"*"}:
            found[method, route.path or str(route.route)] = checked
    return found


def unguarded(app: FastAPI) -> list[str]:
    """The routes that check no scope, and are not public either."""
    return [" ".join(route) for route, checked in scopes(app).items() if not checked]


def _all(dependant: Dependant) -> Iterator[Any]:
    yield dependant
    for each in dependant.dependencies:
        yield from _all(each)
