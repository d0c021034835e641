"""Data that teaches a memory: episodes, read from files or generated from a seed.

Knows nothing about tokens, tensors or models. May import recall for the form that records have in a prompt.
"""

from deltamem_agents.training.episodes.checkers import Checker, checker_from_json
from deltamem_agents.training.episodes.episode import (
    UNKNOWN,
    Episode,
    Message,
    Question,
    Reference,
    Role,
    read_episodes,
    write_episodes,
)

__all__ = [
    "UNKNOWN",
    "Checker",
    "Episode",
    "Message",
    "Question",
    "Reference",
    "Role",
    "checker_from_json",
    "read_episodes",
    "write_episodes",
]
