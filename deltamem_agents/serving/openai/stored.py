"""Stored responses: a response is its turn in the agent's journal, found by its id, and goes when the messages go.

The reply's message has the response's id; its metadata names the response before it and the older messages that it was
given. The other messages of the turn name the response in theirs. Nothing is stored elsewhere, so erasure, rollback and
export need not know of responses.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deltamem_agents.frameworks.messages import FrameworkMessage, for_journal, from_journal
from deltamem_agents.frameworks.resent import unwritten
from deltamem_agents.memory.tool_output import ToolOutput
from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.turn import Turn
from deltamem_agents.store import Entry, MessageLookup, check_messages, wording_of

OF = "response_id"  # metadata key of every message of a response's turn
FACTS = "response"  # metadata key of its reply
SILENT = [{"type": "empty_response"}]  # content of a reply that says nothing
WHOLE = ToolOutput(limit=None)  # a tool's result is needed again, so all of it is kept


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored response: its reply, and the messages before it, oldest first."""

    reply: Entry
    context: Sequence[FrameworkMessage]

    @property
    def facts(self) -> dict[str, Any]:
        """What was noted of it."""
        found = self.reply.metadata.get(FACTS)
        return found if isinstance(found, dict) else {}

    @property
    def messages(self) -> list[FrameworkMessage]:
        """The whole conversation up to its reply."""
        return [*self.context, *([] if self.reply.content == SILENT else [from_journal(self.reply)])]


async def find(turn: Turn, identity: str) -> Stored:
    """A response of the turn's agent.

    Raises:
        HttpFailure: 404; the agent has none of this id, or its reply was erased or rolled back.
    """
    return await in_thread(turn.mem, "responses", lambda: _find(turn, identity))


def _find(turn: Turn, identity: str) -> Stored:
    missing = HttpFailure(
        404, f"there is no response {identity[:60]!r} of this agent", "response_not_found", param="previous_response_id"
    )
    store = turn.mem.store
    named = store.messages.newest(turn.agent.id, 1, id_prefix=identity) if identity.startswith("resp") else []
    if not named or named[0].id != identity:
        raise missing
    log = store.live(turn.agent.id, session=named[0].session)
    replies = {each.id: each for each in log if isinstance(each.metadata.get(FACTS), dict)}
    reply = replies.get(identity)
    if reply is None:
        raise missing
    wanted: set[int] = set()
    following: Entry | None = reply
    seen: set[str] = set()
    while following is not None and following.id not in seen:
        seen.add(following.id)
        facts = following.metadata[FACTS]
        for first, last in facts.get("known") or ():
            wanted.update(range(first, last + 1))
        following = replies.get(str(facts.get("previous")))
    context = [
        each
        for each in log
        if each.id != identity
        and each.content != SILENT
        and (each.position in wanted or each.metadata.get(OF) in seen or each.id in seen)
    ]
    return Stored(reply, [from_journal(each) for each in context])


async def keep(turn: Turn, reply: FrameworkMessage | None, identity: str, previous: str | None, facts: Any) -> None:
    """Journal a turn as a stored response.

    Args:
        previous: The response that it continues; the turn's messages are then new, and not a history sent again.
    """
    own = [each for each in turn.messages if each.role != "system"]
    said = [each | {"metadata": {**each.get("metadata", {}), OF: identity}} for each in for_journal(own, WHOLE)]
    last = replace(reply, id=identity) if reply else FrameworkMessage(role="assistant", content=SILENT, id=identity)
    last = turn.noted(last)
    answer = for_journal([last])[0]

    def select(held: MessageLookup) -> list[dict[str, Any]]:
        new = said if previous is not None else unwritten(held, turn.agent.id, turn.session, said)
        known = [] if previous is not None else _known(held, turn, [each for each in said if each not in new])
        noted = {**facts, "previous": previous, "known": known}
        return [*new, answer | {"metadata": {**answer.get("metadata", {}), OF: identity, FACTS: noted}}]

    await turn.agent.awrite_selected(select, turn.session, wait=False)


def _known(held: MessageLookup, turn: Turn, messages: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Where the session holds these messages, as ranges of positions."""
    if not messages:
        return []
    words = {wording_of(each) for each in check_messages(messages)}
    said = held.ever_said(turn.agent.id, turn.session)
    return _ranges(each.position for each in said if each.live and each.wording in words)


def _ranges(positions: Iterable[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for each in sorted(positions):
        if found and found[-1][1] == each - 1:
            found[-1][1] = each
        else:
            found.append([each, each])
    return found
