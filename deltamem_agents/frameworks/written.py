"""Which messages of a conversation are journalled, for a framework that keeps the conversation itself.

What it keeps leaves our database, such as in a checkpoint. So it keeps neither text nor plain hashes, on which guesses
could be tried, but marks: hashes under the agent's own key, which stays in the database and goes with the agent.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256

KEY_NAME = 8  # hexadecimal digits that tell keys apart
MARK = 32


def mark(key: bytes, session: str, message_id: str, said: str) -> str:
    """What stands for a message that is journalled; another for the same text under another key, session or id."""
    name = _hash(key, b"name of this key")[:KEY_NAME]
    told = "\0".join((session, message_id, said)).encode("utf-8", "surrogatepass")
    return f"{name}.{_hash(key, told)[:MARK]}"


def unmarked(known: Mapping[str, str], marks: Mapping[str, str]) -> tuple[set[str], set[str]]:
    """Which of the marked messages are new or changed, and of which that cannot be told: another key made their mark.

    Args:
        known: By id, the marks of what was journalled.
        marks: By id, those of the messages as they are now.
    """
    new = {each for each, made in marks.items() if each not in known}
    unsure = {each for each in marks.keys() - new if _key_name(known[each]) != _key_name(marks[each])}
    return new | {each for each in marks.keys() - new - unsure if known[each] != marks[each]}, unsure


def _key_name(made: str) -> str:
    """Empty for what older versions made."""
    name, dot, _ = made.partition(".")
    return name if dot else ""


def _hash(key: bytes, value: bytes) -> str:
    return hmac.new(key, value, sha256).hexdigest()
