"""Data that teaches a memory: episodes, read from files or generated from a seed.

Knows nothing about tokens, tensors or models. May import recall for the form that records have in a prompt.
"""

from deltamem_agents.training.episodes import formats  # noqa: F401  its checkers can be read from files, too
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
from deltamem_agents.training.episodes.facts import HeldOut
from deltamem_agents.training.episodes.generate import draw_episode, generate
from deltamem_agents.training.episodes.mixture import Mixture

__all__ = [
    "UNKNOWN",
    "Checker",
    "Episode",
    "HeldOut",
    "Message",
    "Mixture",
    "Question",
    "Reference",
    "Role",
    "checker_from_json",
    "draw_episode",
    "generate",
    "read_episodes",
    "write_episodes",
]
