"""Fork, roll back, erase: each shows what it would do first, and does just that.

A confirmation carries the version of the journal that its preview was made of. If the journal has changed since, there
is a new preview instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.memory import AgentMemory, DeltaMem, Receipt
from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.dependencies import access_of, memory_of, reaching
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.inspector.agents import subject
from deltamem_agents.serving.inspector.login import form_of
from deltamem_agents.serving.inspector.pages import PageRoute, agent_path, render
from deltamem_agents.store import Entry, check_id

SHOWN = 20  # messages that a preview lists

router = APIRouter(route_class=PageRoute)

Text = Annotated[str, Query(max_length=255)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What to erase, as a form has it; empty fields do not filter.

    Args:
        id: A message of ``session``.
        since, until: ISO 8601; UTC if without a zone.
        forks: Whether to erase from forks too.
        forget: Whether to keep no hashes either.
    """

    session: str = ""
    id: str = ""
    since: str = ""
    until: str = ""
    forks: bool = False
    forget: bool = False

    @classmethod
    def of(cls, given: dict[str, str]) -> Chosen:
        """From the fields of a form."""
        text = {name: given.get(name, "").strip() for name in ("session", "id", "since", "until")}
        return cls(**text, forks=given.get("forks") == "true", forget=given.get("forget") == "true")

    @property
    def any(self) -> bool:
        """Whether it selects anything."""
        return bool(self.session or self.id or self.since or self.until)

    def filters(self) -> dict[str, Any]:
        """Arguments of `AgentMemory.erase`.

        Raises:
            ConfigError: A time is not valid.
        """
        found: dict[str, Any] = {"forks": self.forks, "tombstone": not self.forget}
        if self.session:
            found["session"] = self.session
        if self.id:
            found["ids"] = [(self.session, self.id)] if self.session else [self.id]
        for name in ("since", "until"):
            if getattr(self, name):
                found[name] = _moment(getattr(self, name))
        return found


@router.get("/inspect/{agent}/changes")
async def changes(request: Request, memory: Annotated[AgentMemory, Depends(reaching("read"))]) -> Response:
    """The forms."""
    about = await subject(request, memory)
    mem = memory_of(request)
    sessions = await in_thread(mem, "inspect", lambda: mem.store.events.sessions(memory.id))
    return render(request, "changes.html", **about.shown("changes"), sessions=sessions)


@router.get("/inspect/{agent}/fork")
async def preview_fork(
    request: Request, memory: Annotated[AgentMemory, Depends(reaching("write"))], new: Text = ""
) -> Response:
    """What a fork would copy."""
    about = await subject(request, memory)
    mem, new = memory_of(request), new.strip()
    check_id(new)
    access_of(request).check(new, "write")
    stored, taken = await in_thread(mem, "inspect", lambda: (mem.store.states.summary(memory.id), mem.store.knows(new)))
    return render(request, "fork.html", **about.shown("changes"), new=new, stored=stored, taken=taken)


@router.post("/inspect/{agent}/fork")
async def fork(request: Request, memory: Annotated[AgentMemory, Depends(reaching("write"))]) -> Response:
    """Fork, and show the new agent."""
    new = form_of(await request.body()).get("new", "").strip()
    check_id(new)
    access_of(request).check(new, "write")
    await memory.afork(new)
    return _to(agent_path(new))


@router.get("/inspect/{agent}/rollback")
async def preview_rollback(
    request: Request,
    memory: Annotated[AgentMemory, Depends(reaching("admin"))],
    to: Annotated[int, Query(ge=0, le=2**63 - 1)],
) -> Response:
    """Which messages a rollback would take out of the live journal, and which would return."""
    return await _rollback_page(request, memory, to)


@router.post("/inspect/{agent}/rollback")
async def rollback(request: Request, memory: Annotated[AgentMemory, Depends(reaching("admin"))]) -> Response:
    """Roll back, and show the timeline."""
    given = form_of(await request.body())
    to = given.get("to", "")
    if not to.isdecimal() or len(to) > 18:
        raise HttpFailure(400, f"the position is {shown(to)}; give a number", "invalid_value", param="to")
    mem = memory_of(request)
    if given.get("version") != await _version(mem, memory):
        return await _rollback_page(request, memory, int(to), changed=True)
    await memory.arollback(int(to))
    return _to(agent_path(memory.id))


@router.get("/inspect/{agent}/erase")
async def preview_erasure(request: Request, memory: Annotated[AgentMemory, Depends(reaching("admin"))]) -> Response:
    """What an erasure would remove."""
    return await _erasure_page(request, memory, Chosen.of(dict(request.query_params)))


@router.post("/inspect/{agent}/erase")
async def erase(request: Request, memory: Annotated[AgentMemory, Depends(reaching("admin"))]) -> Response:
    """Erase, and show the receipt."""
    given = form_of(await request.body())
    chosen = Chosen.of(given)
    if given.get("version") != await _version(memory_of(request), memory):
        return await _erasure_page(request, memory, chosen, changed=True)
    if given.get("sure") != "true":
        raise HttpFailure(400, "tick 'I understand' first: erased text cannot be brought back", "not_confirmed")
    _check_forks(request, await memory.aerase(**chosen.filters(), dry_run=True))
    receipt = await memory.aerase(**chosen.filters())
    about = await subject(request, memory)
    return render(request, "_receipt.html", **about.shown("changes"), receipt=receipt)


async def _rollback_page(request: Request, memory: AgentMemory, to: int, *, changed: bool = False) -> Response:
    about = await subject(request, memory)
    mem = memory_of(request)
    version = await _version(mem, memory)

    def compare() -> tuple[list[Entry], list[Entry]]:
        then, now = mem.store.at(memory.id, to), mem.store.live(memory.id)
        was, stays = {each.position for each in then}, {each.position for each in now}
        return (
            [each for each in now if each.position not in was],
            [each for each in then if each.position not in stays],
        )

    leaving, returning = await in_thread(mem, "inspect", compare)
    return render(
        request,
        "_rollback.html" if changed else "rollback.html",
        **about.shown("changes"),
        to=to,
        version=version,
        leaving=leaving,
        returning=returning,
        most=SHOWN,
        changed=changed,
    )


async def _erasure_page(request: Request, memory: AgentMemory, chosen: Chosen, *, changed: bool = False) -> Response:
    about = await subject(request, memory)
    mem = memory_of(request)
    if not chosen.any:
        raise HttpFailure(400, "no filter was given; choose a session, a message or a time", "no_filter")
    version = await _version(mem, memory)
    receipt = await memory.aerase(**chosen.filters(), dry_run=True)
    _check_forks(request, receipt)
    return render(
        request,
        "_erase.html" if changed else "erase.html",
        **about.shown("changes"),
        chosen=chosen,
        version=version,
        receipt=receipt,
        most=SHOWN,
        changed=changed,
    )


def _check_forks(request: Request, receipt: Receipt) -> None:
    """A token must reach every agent that is erased from.

    Raises:
        HttpFailure: 403.
    """
    for each in receipt.erased:
        access_of(request).check(each.agent, "admin")


async def _version(mem: DeltaMem, memory: AgentMemory) -> str:
    found = await in_thread(mem, "inspect", lambda: mem.store.records.version(memory.id))
    return "" if found is None else f"{found[0]}.{found[1]}"


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{shown(text)} is not a valid time; give ISO 8601, such as 2026-11-30T10:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _to(path: str) -> Response:
    return Response(status_code=204, headers={"HX-Redirect": path})
