"""The journal as a timeline, and one entry of it: its text, its versions, and what its turn was handed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.dependencies import memory_of, reaching
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.inspector.agents import subject
from deltamem_agents.serving.inspector.pages import PageRoute, render
from deltamem_agents.serving.openai.turn import HANDED
from deltamem_agents.store import Entry, Event, Relative

PAGE = 50  # events of a page
TURNS = 2  # turns before a question that a replay takes with it
MOST_HANDED = 100  # records that are looked up

router = APIRouter(route_class=PageRoute)

Position = Annotated[int | None, Query(ge=0, le=2**63 - 1)]


@dataclass(slots=True)
class Stretch:
    """Adjacent events of one session; of none for rollbacks, gaps and forks."""

    session: str | None
    events: list[Event | Relative] = field(default_factory=list)


@router.get("/inspect/{agent}")
async def journal(
    request: Request,
    memory: Annotated[AgentMemory, Depends(reaching("read"))],
    session: Annotated[str | None, Query(max_length=255)] = None,
    order: Literal["newest", "oldest"] = "newest",
    before: Position = None,
    after: Position = None,
) -> Response:
    """A page of the timeline."""
    about = await subject(request, memory)
    mem, session = memory_of(request), session or None
    if order == "oldest":
        before, after = None, after or 0
    else:
        after = None

    def read() -> tuple[list[Event], list[tuple[str, int]]]:
        events = mem.store.events
        page = events.page(memory.id, before=before, after=after, session=session, limit=PAGE + 1)
        return page, events.sessions(memory.id)

    events, sessions = await in_thread(mem, "inspect", read)
    counted = [place for place, each in enumerate(events) if each.kind != "erased"]
    more = None
    if len(counted) > PAGE:
        events = events[: counted[PAGE - 1] + 1]
        more = events[-1].position
    whole = _with_forks(
        events, () if session else about.family.relatives, first=before is None and not after, more=more
    )
    template = "_timeline_part.html" if "hx-request" in request.headers else "journal.html"
    return render(
        request,
        template,
        **about.shown("journal"),
        stretches=_stretches(whole),
        sessions=sessions,
        session=session,
        order=order,
        before=before,
        after=after,
        more=more,
        first=before is None and not after,
    )


@router.get("/inspect/{agent}/entries/{position}")
async def entry(request: Request, position: int, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> Response:
    """One message, whole."""
    about = await subject(request, memory)
    mem = memory_of(request)
    found = None
    if 0 <= position <= about.info.position:
        found = await in_thread(mem, "inspect", lambda: mem.store.events.entry(memory.id, position))
    if found is None:
        raise HttpFailure(404, f"the journal has no message at position {position}; it may be erased", "no_entry")
    event, whole = found
    handed = await _handed(mem, memory, whole)
    recorded = handed is not None and not handed["replayed"]
    metadata = {name: value for name, value in whole.metadata.items() if not (recorded and name == HANDED)}
    return render(
        request,
        "entry.html",
        **about.shown("journal"),
        event=event,
        entry=whole,
        metadata=metadata,
        handed=handed,
    )


async def _handed(mem: DeltaMem, memory: AgentMemory, entry: Entry) -> dict[str, Any] | None:
    """What memory added to the turn of an entry.

    A served reply says so in its metadata, by positions. Of a user's message it is replayed: what recall finds for its
    text among the messages written before it.
    """
    recorded = entry.metadata.get(HANDED)
    if isinstance(recorded, dict):
        given = recorded.get("positions")
        positions = (
            [each for each in given if type(each) is int and 0 < each < 2**63] if isinstance(given, list) else []
        )
        positions = positions[:MOST_HANDED]
        known = await in_thread(mem, "inspect", lambda: mem.store.events.live_among(memory.id, positions))
        return {"replayed": False, "records": [(each, known.get(each)) for each in positions], "of": recorded}
    if entry.role != "user" or not entry.text.strip():
        return None
    found = await memory.arecall(
        entry.text,
        mode="vector",
        generate=False,
        until=entry.created_at,
        context=await _turns_before(mem, memory, entry),
    )
    return {"replayed": True, "records": found.records, "notes": found.notes, "tokens": found.usage.context_tokens}


async def _turns_before(mem: DeltaMem, memory: AgentMemory, entry: Entry) -> list[str]:
    def read() -> Sequence[Event]:
        return mem.store.events.page(memory.id, before=entry.position, session=entry.session, limit=10)

    said = [each.text for each in await in_thread(mem, "inspect", read) if each.role in ("user", "assistant")]
    return said[:TURNS][::-1]


def _with_forks(
    events: Sequence[Event], relatives: Iterable[Relative], *, first: bool, more: int | None
) -> list[Event | Relative]:
    """The events of a page, with the forks that were made among them."""
    made: list[Event | Relative] = list(events)
    places = [each.position for each in events]
    falling = len(places) < 2 or places[0] > places[-1]
    for fork in relatives:
        if fork.root:
            continue
        if falling:
            at = next((place for place, each in enumerate(made) if each.position <= fork.position), None)
            if at is None:
                if more is None:
                    made.append(fork)
            elif at > 0 or first:
                made.insert(at, fork)
        else:
            at = next((place for place, each in enumerate(made) if each.position > fork.position), None)
            if at is None:
                if more is None:
                    made.append(fork)
            elif at > 0 or first:
                made.insert(at, fork)
    return made


def _stretches(events: Iterable[Event | Relative]) -> list[Stretch]:
    found: list[Stretch] = []
    for each in events:
        session = each.session if isinstance(each, Event) and each.kind == "message" else None
        if not found or found[-1].session != session:
            found.append(Stretch(session))
        found[-1].events.append(each)
    return found
