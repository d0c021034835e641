"""What the demo says and asks by default. Plain data."""

from __future__ import annotations

AGENT = "demo"
STRANGER = "stranger"  # another agent in the same database, told different facts

FACTS = (
    "My favourite colour is teal.",
    "Mara plays the cello.",
    "I live in Lisbon.",
    "In the api repository the test runner is pytest.",
    "Hugo has a dog called Biscuit.",
)
STRANGER_FACTS = (
    "My favourite colour is crimson.",
    "Mara plays the trumpet.",
    "I live in Oslo.",
    "In the api repository the test runner is mocha.",
)
QUESTIONS = (
    "What is my favourite colour?",
    "Which instrument does Mara play?",
    "Where do I live?",
    "Which test runner does the api repository use?",
    "What is my favourite drink?",  # never said
)
SMALL_TALK = (
    ("The meeting about the budget was long.", "I see."),
    ("Can you help me with the printer?", "Of course."),
    ("The weather is pretty today.", "That sounds good."),
    ("I think the report looks useful.", "All right."),
)


def conversation(facts: list[str]) -> list[list[dict[str, str]]]:
    """Two sessions of messages; each fact is followed by a turn of small talk."""
    turns: list[list[dict[str, str]]] = []
    for number, fact in enumerate(facts):
        said, replied = SMALL_TALK[number % len(SMALL_TALK)]
        turns.append(
            [
                {"role": "user", "content": fact},
                {"role": "assistant", "content": "Noted."},
                {"role": "user", "content": said},
                {"role": "assistant", "content": replied},
            ]
        )
    half = -(-len(turns) // 2)
    parts = [turns[:half], turns[half:]]
    return [[message for turn in part for message in turn] for part in parts if part]
