"""`RemoteMemory`: the memory of one agent on a server, with the methods of `AgentMemory`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack
from uuid import uuid4

from deltamem_agents import arguments
from deltamem_agents.client import results
from deltamem_agents.client.calls import Call, Running, both, given, path_of
from deltamem_agents.memory import Difference, Drift, Health, Recall, RecallOptions, Receipt
from deltamem_agents.memory.options import RecallFields
from deltamem_agents.messages import in_utc
from deltamem_agents.recall import Record
from deltamem_agents.store import Entry, check_id
from deltamem_agents.tool_calls import ToolCall

Messages = Sequence[Mapping[str, Any]]


class RemoteMemory:
    """The memory of one agent, made by `Client.agent`. See `AgentMemory`, whose methods these are.

    Every method has an async twin: the same name with an ``a`` in front. Besides what `AgentMemory` says, each raises
    AccessDeniedError if the token does not allow it, and ServerError if the server cannot be reached or fails.
    """

    def __init__(self, client: Running, agent_id: str) -> None:
        self.id = check_id(agent_id)
        self.client = client

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.client.url})"

    def _write(self, messages: Messages, session: str = "default", *, wait: bool = True) -> Call[list[str]]:
        """Journal messages, and return their ids; see `AgentMemory.write`.

        It carries an idempotency key, so that it can be sent again where its answer was lost.
        """
        body = {"messages": [_sent(each) for each in messages], "session": session, "wait": wait}
        return self._post("/messages", body, lambda found: list(found["ids"]), key=True)

    def _recall(
        self,
        query: str,
        *,
        session: str | None = None,
        context: Sequence[str] = (),
        lean: bool = False,
        generate: bool = True,
        options: RecallOptions | None = None,
        **changes: Unpack[RecallFields],
    ) -> Call[Recall]:
        """Retrieve what memory holds for a query; see `AgentMemory.recall`. The server decides about placement."""
        asked = RecallOptions.of(options, **changes)
        names = ("mode", "k", "budget", "handover", "outdated", "metadata")
        body = given(**{name: getattr(asked, name) for name in names}, session=session)
        body |= given(since=_moment(asked.since), until=_moment(asked.until))
        body |= {"query": query, "context": list(context), "lean": lean, "generate": generate}
        return self._post("/recall", body, results.recall)

    def _log(self, session: str | None = None, *, at: int | None = None) -> Call[list[Entry]]:
        """The live messages, in order; see `AgentMemory.log`."""
        return self._get("/log", lambda found: [results.entry(each) for each in found], session=session, at=at, paged=1)

    def _neighbours(self, record: Record, reach: int = 2) -> Call[list[Entry]]:
        """The messages around a record's message; see `AgentMemory.neighbours`."""
        arguments.instance(record, "record", Record)
        arguments.whole(reach, "reach")
        asked: dict[str, Any] = {"session": record.session, "position": record.position, "reach": reach}
        return self._get("/neighbours", lambda found: [results.entry(each) for each in found["data"]], **asked)

    def _sessions(self) -> Call[list[str]]:
        """The sessions that have live messages, in the order in which they began."""
        return self._get("/sessions", lambda found: list(found["data"]))

    def _state(self, *, at: int | None = None) -> Call[dict[str, Any]]:
        """The agent's state; see `AgentMemory.state`."""
        return self._get("/state", results.state, at=at)

    def _rebuild(self) -> Call[dict[str, Any]]:
        """Fold the whole journal again; see `AgentMemory.rebuild`."""
        return self._post("/rebuild", {}, results.state)

    def _verify(self) -> Call[Drift]:
        """Compare the state in use with a fresh fold; see `AgentMemory.verify`."""
        return self._post("/verify", {}, results.drift)

    def _diff(self, a: int, b: int | None = None) -> Call[Difference]:
        """What changed between two positions; see `AgentMemory.diff`."""
        return self._get("/diff", results.difference, a=a, b=b)

    def _health(self, *, examine: bool = False) -> Call[Health]:
        """What is journalled, folded and stored; see `AgentMemory.health`. The state itself does not come with it."""
        return self._get("/health", results.health, examine=examine)

    def _fork(self, new: str) -> Call[RemoteMemory]:
        """Create another agent with the same journal and states; see `AgentMemory.fork`."""
        return self._post("/fork", {"new": new}, lambda found: type(self)(self.client, found["id"]), key=True)

    def _rollback(self, position: int) -> Call[int]:
        """Continue the journal from a position; see `AgentMemory.rollback`."""
        return self._post("/rollback", {"position": position}, lambda found: int(found["position"]), key=True)

    def _erase(
        self,
        *,
        ids: Collection[str | tuple[str, str]] | None = None,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        forks: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        tombstone: bool = True,
    ) -> Call[Receipt]:
        """Erase messages and all data derived from them; see `AgentMemory.erase`."""
        refs = None if ids is None else [_ref(each) for each in ids]
        body = given(ids=refs, session=session, since=_moment(since), until=_moment(until))
        body |= {"forks": forks, "dry_run": dry_run, "wait": wait, "tombstone": tombstone}
        return self._post("/erase", body, results.receipt, key=True)

    def _delete(self, *, forks: bool = False, dry_run: bool = False) -> Call[Receipt]:
        """Erase the whole agent; see `AgentMemory.delete`."""
        params = {"forks": forks, "dry_run": dry_run}
        return Call(method="DELETE", path=path_of(self.id), read=results.receipt, params=params)

    write, awrite = both(_write)
    recall, arecall = both(_recall)
    log, alog = both(_log)
    neighbours, aneighbours = both(_neighbours)
    sessions, asessions = both(_sessions)
    state, astate = both(_state)
    rebuild, arebuild = both(_rebuild)
    verify, averify = both(_verify)
    diff, adiff = both(_diff)
    health, ahealth = both(_health)
    fork, afork = both(_fork)
    rollback, arollback = both(_rollback)
    erase, aerase = both(_erase)
    delete, adelete = both(_delete)

    def _get(self, rest: str, read: Any, *, paged: int = 0, **params: Any) -> Call[Any]:
        return Call(method="GET", path=path_of(self.id, rest), read=read, params=given(**params), paged=bool(paged))

    def _post(self, rest: str, body: Mapping[str, Any], read: Any, *, key: bool = False) -> Call[Any]:
        named = uuid4().hex if key else None
        return Call(method="POST", path=path_of(self.id, rest), read=read, json=body, key=named)


def _sent(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as JSON."""
    found = dict(message)
    if isinstance(found.get("created_at"), datetime):
        found["created_at"] = _moment(found["created_at"])
    if found.get("tool_calls"):
        found["tool_calls"] = [
            each.as_function() if isinstance(each, ToolCall) else each for each in found["tool_calls"]
        ]
    return found


def _moment(value: datetime | None) -> str | None:
    return None if value is None else in_utc(value).isoformat()


def _ref(value: str | tuple[str, str]) -> Any:
    return value if isinstance(value, str) else {"session": value[0], "id": value[1]}
