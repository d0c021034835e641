"""What a database holds of a writer's agents, against what they must hold."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from journals import Journal, World
from sqlalchemy import select

from deltamem_agents.store.database import Database
from deltamem_agents.store.schema import AgentRow, MessageRow, RollbackRow

SHARED = ("shared-0", "shared-1")  # agents that all writers write to, each in sessions of its own
Rows = dict[str, list[list[Any]]]  # by agent: [position, session, id, text, whether live] and [position, target]


def stored(database: Database, writer: str) -> Rows:
    """Every row of the journals that a writer writes to: all of its own agents', and its sessions' in shared ones."""
    mine = AgentRow.id.startswith(f"{writer}-", autoescape=True)
    theirs = AgentRow.id.in_(SHARED) & MessageRow.session.startswith(f"{writer}.", autoescape=True)
    row = MessageRow
    columns = (AgentRow.id, row.position, row.session, row.id, row.text, row.left_at)
    messages = select(*columns).join(AgentRow, AgentRow.key == row.agent_key).where(mine | theirs)
    rollbacks = select(AgentRow.id, RollbackRow.position, RollbackRow.target).where(
        RollbackRow.agent_key == AgentRow.key, mine
    )

    def read(connection: Any) -> Rows:
        found: Rows = defaultdict(list)
        for agent in connection.scalars(select(AgentRow.id).where(mine)):
            found[agent] = []
        for agent, position, session, id, text, left_at in connection.execute(messages):
            found[agent].append([position, session, id, text, left_at is None])
        for agent, *rollback in connection.execute(rollbacks):
            found[agent].append(rollback)
        return {agent: sorted(rows) for agent, rows in found.items()}

    return database.read(read)


def differences(world: World, found: Rows) -> list[str]:
    """In what a database differs from what it must hold."""
    wrong = []
    for agent in sorted({*world.agents, *found}):
        if agent in SHARED:
            must, has = _by_session(world.agents.get(agent)), _sessions(found.get(agent, []))
        elif agent not in found or agent not in world.agents:
            wrong.append(f"{agent} is {'there' if agent in found else 'not there'}")
            continue
        else:
            must, has = {"": _expected(world.agents[agent])}, {"": found[agent]}
        for session in sorted({*must, *has}):
            if not _same(must.get(session, []), has.get(session, [])):
                wrong.append(f"{agent} {session} has {has.get(session, [])}, must have {must.get(session, [])}")
    return wrong


def ids_of(operation: dict[str, Any], found: Rows) -> list[str | None]:
    """The ids that a write gave its messages, by their text."""
    known = {row[3]: row[2] for row in found.get(operation["agent"], []) if len(row) > 2}
    return [id or known.get(text) for id, text, _ in operation["messages"]]


def _expected(journal: Journal) -> list[list[Any]]:
    live = {event[0] for event in journal.live()}
    return [event if len(event) == 2 else [*event[:4], event[0] in live] for event in journal.events]


def _by_session(journal: Journal | None) -> dict[str, list[list[Any]]]:
    return _sessions(_expected(journal)) if journal else {}


def _sessions(rows: list[list[Any]]) -> dict[str, list[list[Any]]]:
    """Rows by session, their positions left out: others' messages stand between them."""
    found = defaultdict(list)
    for row in rows:
        found[row[1]].append(row[1:])
    return found


def _same(must: list[list[Any]], has: list[list[Any]]) -> bool:
    """Whether rows are those that must be; an id that nobody was told is any."""
    return len(must) == len(has) and all(
        len(one) == len(other) and all(a == b or a is None for a, b in zip(one, other, strict=True))
        for one, other in zip(must, has, strict=True)
    )
