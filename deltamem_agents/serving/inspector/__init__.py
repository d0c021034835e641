"""The inspector: pages that show what memory holds, at ``/``. Rendered here; htmx swaps parts, uPlot draws.

A page looks and, with the scopes for it, forks, rolls back and erases after a preview. Text of messages is data: it is
escaped, and the content security policy runs no script and no style but the files in ``static``. Nothing is fetched
from elsewhere; ``static/vendor`` holds htmx, uPlot and the typeface Inter with their licences.
"""

from fastapi import APIRouter

from deltamem_agents.serving.inspector import agents, changes, journal, live, login, pages, searching, states
from deltamem_agents.serving.inspector.pages import FILE_PATHS, PageRoute, page_of_failure

PUBLIC = frozenset({login.PATH, *FILE_PATHS})

router = APIRouter(include_in_schema=False)
for _each in (pages, login, agents, live, journal, searching, states, changes):
    router.include_router(_each.router)

__all__ = ["PUBLIC", "PageRoute", "page_of_failure", "router"]
