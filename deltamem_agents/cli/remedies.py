"""Remedies for people at the command line: close matches of mistyped names, and library arguments as options.

An error says ``adapter='folder or hub id'`` to a programmer; who typed a command has an option ``--adapter``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from deltamem_agents import terminal
from deltamem_agents.errors import UnknownAgentError, shown

if TYPE_CHECKING:
    from deltamem_agents.store import Store


_METHODS = {
    "log": "'deltamem log'",
    "agents": "'deltamem agents'",
    "delete": "'deltamem delete'",
    "rebuild": "'deltamem rebuild'",
    "verify": "'deltamem verify'",
    "reindex": "'deltamem reindex'",
    "purge": "'deltamem db purge'",
}
_OPTIONS = (
    "adapter backbone budget device dtype embedder forks handover k mode schema session since until url dry_run".split()
)
_SPELLINGS = (  # in this order
    (re.compile(r"\boverwrite=True\b"), "--force"),
    (re.compile(r"\bembedder=False\b"), "--embedder none"),
    (re.compile(r"\bbackbone=None\b"), "--backbone none"),
    (re.compile(r"\bbegin_from="), "--from "),
    (re.compile(r"\bchat_template="), "--chat-template "),
    (re.compile(r"\bevaluation=0\b"), "--evaluation 0"),
    (re.compile(r"\btombstone=False\b"), "--no-tombstone"),
    (re.compile(r"\bsession= \(--session\), or give pairs of session and id, such as \(.*\)"), "--session"),
    (re.compile(r"close every DeltaMem that uses it and open it again"), "run the command again"),
    (re.compile(r"decode the bytes it came from with errors='replace'"), "give it in the terminal's encoding"),
    (re.compile(rf"(?<![\w/&?;'\"=.])({'|'.join(_OPTIONS)})=True\b"), r"--\1"),
    (re.compile(rf"(?<![\w/&?;'\"=.])({'|'.join(_OPTIONS)})=(?=['\"\w…])"), r"--\1 "),
    (re.compile(rf"(?<![\w.'])(?:\w+\.)?({'|'.join(_METHODS)})\(\)"), lambda found: _METHODS[found[1]]),
)

NAMED = 5  # names in a message


def spelled(text: str) -> str:
    """A message with the library's arguments and methods as options and commands.

    >>> spelled("names no adapter: give adapter='folder or hub id'; log() shows the positions")
    "names no adapter: give --adapter 'folder or hub id'; 'deltamem log' shows the positions"
    """
    for spelling, command in _SPELLINGS:
        text = spelling.sub(command, text)
    return text.replace("--dry_run", "--dry-run")


def check_known(store: Store, agent: str) -> None:
    """Raise UnknownAgentError where an agent was never written to."""
    if not store.knows(agent):
        raise UnknownAgentError(_no_agent(store, agent))


def note_unknown(store: Store, agent: str, session: str | None) -> None:
    """Say on stderr that an agent or session does not exist: otherwise a typo looks like lost data."""
    if not store.knows(agent):
        terminal.say(f"note: {_no_agent(store, agent)}", err=True)
    elif session is not None and session not in (sessions := store.sessions(agent)):
        others = _named(session, sessions, "sessions") or "it has none with messages"
        terminal.say(f"note: agent {shown(agent)} has no session {shown(session)}; {others}", err=True)


def _no_agent(store: Store, agent: str) -> str:
    others = _named(agent, [each.id for each in store.agents()], "agents")
    return f"no agent {shown(agent)} in {store.url}; {f'{others}; ' if others else ''}'deltamem agents' lists them all"


def _named(given: str, names: Sequence[str], what: str) -> str:
    """The names most like an unknown one, or the first ones."""
    near = get_close_matches(given, names, NAMED, 0.6)
    if near:
        return f"did you mean {' or '.join(map(shown, near))}?"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{what}: {', '.join(map(shown, names[:NAMED]))}{more}" if names else ""
