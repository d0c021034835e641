"""The first page: which agents there are. And what the pages of one agent share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.errors import UnknownAgentError, shown
from deltamem_agents.memory import AgentMemory
from deltamem_agents.serving.access import Access, in_thread
from deltamem_agents.serving.dependencies import allowed, memory_of
from deltamem_agents.serving.inspector.pages import PageRoute, render
from deltamem_agents.store import AgentInfo, Family, Store

LIMIT = 50  # agents of a page
READ_AHEAD = 500  # agents that are looked at in one transaction

router = APIRouter(route_class=PageRoute)


@dataclass(frozen=True, slots=True)
class Subject:
    """The agent that a page is about."""

    memory: AgentMemory
    info: AgentInfo
    family: Family

    def shown(self, tab: str) -> dict[str, Any]:
        """What the frame of its pages shows."""
        return {"agent_id": self.memory.id, "info": self.info, "family": self.family, "tab": tab}


async def subject(request: Request, memory: AgentMemory) -> Subject:
    """Look an agent up.

    Raises:
        UnknownAgentError: It was never written to.
    """
    mem = memory_of(request)

    def look() -> tuple[AgentInfo | None, Family]:
        return mem.store.agent(memory.id), mem.store.events.family(memory.id)

    info, family = await in_thread(mem, "inspect", look)
    if info is None:
        raise UnknownAgentError(f"nothing was ever written to agent {shown(memory.id)}")
    return Subject(memory, info, family)


@router.get("/")
async def agents(
    request: Request,
    access: Annotated[Access, Depends(allowed("read"))],
    after: Annotated[str, Query(max_length=255)] = "",
    find: Annotated[str, Query(max_length=255)] = "",
) -> Response:
    """A page of the agents that the token reaches, ordered by id."""
    mem = memory_of(request)
    found = await in_thread(mem, "agents", lambda: reached(mem.store, access, after, LIMIT + 1, find))
    more = found[LIMIT - 1].id if len(found) > LIMIT else None
    template = "_agents.html" if "hx-request" in request.headers else "agents.html"
    return render(request, template, agents=found[:LIMIT], more=more, after=after, find=find, url=mem.store.url)


def reached(store: Store, access: Access, start: str, count: int, find: str = "") -> list[AgentInfo]:
    """The next agents after ``start`` that the token reaches and whose id contains ``find``."""
    found: list[AgentInfo] = []
    while len(found) < count:
        some = store.agents(after=start, limit=READ_AHEAD)
        found += [each for each in some if access.reaches(each.id) and find.casefold() in each.id.casefold()]
        if len(some) < READ_AHEAD:
            break
        start = some[-1].id
    return found[:count]
