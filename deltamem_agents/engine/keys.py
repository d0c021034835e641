"""Keys of an agent's history and of its states."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple


class AgentKey(NamedTuple):
    """Identifies one agent's history.

    Args:
        owner: The database that holds it.
        epoch: The agent's epoch, which changes when its past does.
    """

    owner: Hashable
    agent: str
    epoch: int


StateKey = tuple[AgentKey, int]  # a history, and the position its state stands for
