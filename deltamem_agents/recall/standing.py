"""Recognise standing rules ("Always answer in French") and preferences ("I prefer tabs"): said once, valid always.

A rule hardly resembles the questions that it applies to, so its score is raised; see `fusion`.
"""

from __future__ import annotations

import re

RULE, PREFERENCE = 2, 1
LONGEST_RULE, LONGEST_PREFERENCE = 400, 600  # characters of the record; longer ones are about something else

_RULE = re.compile(
    r"^(?:please )?(?:always|never)\b|[.!] (?:please )?(?:always|never)\b"
    r"|\b(?:whenever|when|every time|each time|if) i ask\b|\bfrom now on\b",
    re.IGNORECASE,
)
_PREFERENCE = re.compile(
    r"\b(?:always|never|whenever|prefer|rather|i(?:['’]d| would) like (?:you|it)|going forward|in the future|by default"
    r"|please (?:use|include|keep|avoid|format|provide|don['’]t|do not)|make sure (?:to|you)|every time"
    r"|each time|i want you to"
    r"|i (?:don['’]t|do not) like|i like|i value|important to me|my preference|instead of)\b",
    re.IGNORECASE,
)


def standing(text: str, role: str) -> int:
    """`RULE` or `PREFERENCE`; 0 for a record that is neither, or not a user's or the system's.

    >>> standing("Always use tabs.", "user"), standing("I prefer tea.", "user"), standing("I have tea.", "user")
    (2, 1, 0)
    """
    if role not in ("user", "system") or len(text) > LONGEST_PREFERENCE:
        return 0
    if len(text) <= LONGEST_RULE and _RULE.search(text):
        return RULE
    return PREFERENCE if _PREFERENCE.search(text) else 0
