"""Agents and sessions by the names that were typed: what is not there is said, with what it may be a slip of."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from deltamem_agents import terminal
from deltamem_agents.errors import UnknownAgentError, shown

if TYPE_CHECKING:
    from deltamem_agents.store import Store

NAMED = 5  # names in a message


def check_known(store: Store, agent: str) -> None:
    """Raise UnknownAgentError where an agent was never written to."""
    if not store.knows(agent):
        raise UnknownAgentError(_no_agent(store, agent))


def note_unknown(store: Store, agent: str, session: str | None) -> None:
    """Say on stderr why nothing was found, where the agent or its session is not there: else a slip reads as loss."""
    if not store.knows(agent):
        terminal.say(f"note: {_no_agent(store, agent)}", err=True)
    elif session is not None and session not in (sessions := store.sessions(agent)):
        others = _named(session, sessions, "sessions") or "it has none with messages"
        terminal.say(f"note: agent {shown(agent)} has no session {shown(session)}; {others}", err=True)


def _no_agent(store: Store, agent: str) -> str:
    others = _named(agent, [each.id for each in store.agents()], "agents")
    return f"no agent {shown(agent)} in {store.url}; {f'{others}; ' if others else ''}'deltamem agents' lists them all"


def _named(given: str, names: Sequence[str], what: str) -> str:
    """The names most like one that is not there, or the first ones."""
    near = get_close_matches(given, names, NAMED, 0.6)
    if near:
        return f"did you mean {' or '.join(map(shown, near))}?"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}: {', '.join(map(shown, names[:NAMED]))}{more}" if names else ""
