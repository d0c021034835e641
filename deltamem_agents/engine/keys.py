"""What names an agent's history, and a state of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple


class AgentKey(NamedTuple):
    """What tells an agent's history from every other.

    Args:
        owner: The database it is in.
        epoch: The agent's, which changes when its past does.
    """

    owner: Hashable
    agent: str
    epoch: int


StateKey = tuple[AgentKey, int]  # a history, and the position its state stands for
