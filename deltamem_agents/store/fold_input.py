"""Collects what a fold needs: the newest usable state and the messages after it. Works on an open connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from deltamem_agents.messages import Entry
from deltamem_agents.store import journal, revisions, timeline
from deltamem_agents.store.revisions import Revision


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldInput:
    """One snapshot of an agent's journal, for folding.

    Args:
        epoch: The agent's epoch.
        position: Position of the last live message, 0 if there is none.
        newest: The newest stored state that these messages begin with; None if there is none.
        base: The state at the start of the segment that was open at ``newest``; None to fold from the beginning.
        entries: The messages after ``base``, in order; empty if ``newest`` covers all messages.
    """

    epoch: int
    position: int
    newest: Revision | None
    base: Revision | None
    entries: list[Entry]


def fold_input(
    connection: Connection, agent: str, fingerprint: str, at: int | None = None, *, anew: bool = False
) -> FoldInput | None:
    """Collect the input for folding an agent's journal; None for an unknown agent.

    Args:
        at: Fold the journal as it was at this position; None for now.
        anew: Whether to ignore stored states.

    Raises:
        ConfigError: The journal has no such position.
        DamagedValue: The position of a stored state's parent, or a rollback's target, is not valid.
        StateMismatchError: A stored state is damaged.
    """
    found = journal.agent_row(connection, agent)
    if found is None:
        return None
    if at is None or timeline.check_position(agent, at, found.head) == found.head:
        newest = None if anew else revisions.newest(connection, agent, fingerprint, None)
        after = newest.position if newest else 0
        beyond = journal.live(connection, agent, after, None)
        if newest is not None and not beyond:
            return FoldInput(epoch=found.epoch, position=after, newest=newest, base=None, entries=[])
        base = _segment_start(connection, agent, fingerprint, newest)
        start = base.position if base else 0
        entries = beyond if start == after else journal.live(connection, agent, start, None)
    else:
        wanted = timeline.positions_at(connection, found, at)
        # States were folded from the messages live now, so they are valid up to the first difference.
        common = min({*wanted} ^ timeline.live_positions(connection, found.key), default=at + 1) - 1
        newest = None if anew else revisions.newest(connection, agent, fingerprint, min(at, common))
        if newest is not None and not _positions_after(wanted, newest.position):
            return FoldInput(epoch=found.epoch, position=newest.position, newest=newest, base=None, entries=[])
        base = _segment_start(connection, agent, fingerprint, newest)
        chosen = _positions_after(wanted, base.position if base else 0)
        entries = journal.at_positions(connection, found.key, chosen)
    position = entries[-1].position if entries else 0
    return FoldInput(epoch=found.epoch, position=position, newest=newest, base=base, entries=entries)


def _segment_start(connection: Connection, agent: str, fingerprint: str, newest: Revision | None) -> Revision | None:
    """The nearest stored state at the start of a segment, no later than the segment that was open at ``newest``.

    A state's parent is always at the start of a segment. If it was thinned out, an older parent is used.
    """
    while newest is not None and newest.parent:
        found = revisions.newest(connection, agent, fingerprint, newest.parent)
        if found is None or found.position == newest.parent:
            return found
        newest = found
    return None


def _positions_after(positions: Sequence[int], after: int) -> list[int]:
    return [position for position in positions if position > after]
