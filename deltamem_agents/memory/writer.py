"""`Writer`: journals an agent's messages, then folds and indexes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents import arguments
from deltamem_agents.memory.async_methods import transaction
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.store import Select

Messages = Sequence[Mapping[str, Any]]


class Writer:
    """Writes messages of one agent; see `AgentMemory.write`."""

    def __init__(self, runtime: Runtime, agent: str) -> None:
        self._runtime = runtime
        self._agent = agent

    def write(self, messages: Messages | Select, session: str, *, wait: bool = True) -> list[str]:
        """Journal messages, or those that a function selects; fold and index them now or in the background."""
        wait = arguments.flag(wait, "wait")
        self._runtime.check_open()
        with transaction() as journalled:
            ids = self._runtime.store.append(self._agent, messages, session)
            journalled += ids
        if not ids:
            return ids
        try:
            if wait:
                self._runtime.background.now(self._agent)
            else:
                self._runtime.background.later(self._agent)
        except BaseException as interrupt:  # Ctrl-C; all other errors are caught and counted
            interrupt.add_note(_durable(self._agent, session, ids))
            raise
        return ids


def _durable(agent: str, session: str, ids: Sequence[str]) -> str:
    """The note on an interrupt that came after the journal's commit."""
    one = len(ids) == 1
    named = f" (id {ids[0]})" if one else f" (ids {ids[0]} to {ids[-1]})" if ids else ""
    return (
        f"{len(ids)} message{'' if one else 's'} of agent {agent!r} in session {session!r}{named} "
        f"{'is' if one else 'are'} journalled: do not write {'it' if one else 'them'} again; recall folds the rest"
    )
