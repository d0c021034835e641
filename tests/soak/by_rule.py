"""What a fake model answers, and what its tool gives: shared by the frameworks' parts of `integrations.py`."""

from __future__ import annotations

LONG = 100_000  # characters of what the tool gives
LOOK = "look it up"  # in a question for which the tool is called


def reply_to(question: str) -> str:
    """What the fakes answer."""
    return f"Heard: {question}"


def looked_up() -> str:
    """Look it up."""
    return ("The shelf holds many boxes, and none of them is open. " * (LONG // 50))[:LONG]
