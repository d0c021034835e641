"""REST for programs in any language: agents, their journals, recall, time travel, erasure and archives.

Every route is below ``/v1/agents``; its name and arguments are those of `AgentMemory`.
"""

from fastapi import APIRouter

from deltamem_agents.serving.rest import agents, archives, erasing, journal, time_travel

router = APIRouter(prefix="/v1")
for _each in (agents, journal, time_travel, erasing, archives):
    router.include_router(_each.router)

__all__ = ["router"]
