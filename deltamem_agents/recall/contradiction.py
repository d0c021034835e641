"""Which of the found records a newer one contradicts: states the same of the same, and something else about it.

    "Our linter is pylint."        older: "Our linter is ruff now."  or  "Our linter is ruff."
    "I live in Oslo."              older: "I live in Bergen now."

By words, in English, and careful: without a word that tells of a change, only statements of the form "… is …" with the
same beginning contradict one another ("I like tea" and "I like coffee" do not). Nothing is dropped for it: what is out
of date comes after what replaced it, and `Record.outdated` says so. The text of a prompt does not, where records stand
oldest first anyway: a mark on the line made the bundled model read one changed fact in fifty less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from deltamem_agents.recall.lexical import STOPWORDS, speaks_of_self
from deltamem_agents.recall.protocols import IndexedRecord
from deltamem_agents.recall.words import text_terms

CHANGE = re.compile(
    r"\b(?:now|no longer|not any ?more|any ?more|instead|actually|from now on|as of|since then|these days"
    r"|(?:has|have|was|were|is) (?:been )?(?:changed|moved|switched|renamed|replaced)|changed|switched|moved to)\b"
)
_CHANGE_TERMS = frozenset("now longer anymor more instead actual chang move switch renam replac sinc day".split())
_IS = re.compile(r"^(.*?\b(?:is|are|was|were|am)(?: called)?)\s+(\S.*)$", re.DOTALL)
MOST_DIFFERENT = 2  # terms that either statement has for itself
LONGEST = 200  # characters; a longer text states more than one thing


def outdated(found: Sequence[IndexedRecord]) -> dict[int, int]:
    """Keys of records that a newer one of these contradicts, to the key of the newest that does."""
    by_age = sorted(found, key=lambda record: (record.position, record.chunk))
    return {
        older.key: newer.key
        for at, older in enumerate(by_age)
        for newer in by_age[at + 1 :]
        if contradicts(newer, older)
    }


def newer_first(found: Sequence[IndexedRecord], stale: Mapping[int, int]) -> list[IndexedRecord]:
    """The same order, but what replaced a record stands right before it, unless it came before anyway.

    Args:
        stale: Of `outdated`.
    """
    by_key = {record.key: record for record in found}
    order: dict[int, IndexedRecord] = {}
    for record in found:
        newer = stale.get(record.key)
        if newer is not None:
            order.setdefault(newer, by_key[newer])
        order.setdefault(record.key, record)
    return list(order.values())


def contradicts(newer: IndexedRecord, older: IndexedRecord) -> bool:
    """Whether of two statements by the same speaker the newer replaces the older."""
    if newer.role != older.role or newer.metadata.get("name") != older.metadata.get("name"):
        return False
    if max(len(newer.text), len(older.text)) > LONGEST or "?" in newer.text + older.text:
        return False
    if speaks_of_self(newer.text) != speaks_of_self(older.text):
        return False
    new, old = newer.text.casefold(), older.text.casefold()
    return _replaces(new, old) if CHANGE.search(new) else _is_else(new, old)


def _replaces(new: str, old: str) -> bool:
    """Most of what either says is the same, and each says something of its own."""
    new_terms, old_terms = _terms(new), _terms(old)
    same = new_terms & old_terms
    only_new, only_old = new_terms - same, old_terms - same
    return (
        bool(only_new and only_old and same)
        and max(len(only_new), len(only_old)) <= MOST_DIFFERENT
        and 2 * len(same) >= min(len(new_terms), len(old_terms))
    )


def _is_else(new: str, old: str) -> bool:
    """The same subject is said to be one thing and another, in as many words."""
    newer, older = (_IS.match(CHANGE.sub(" ", text).rstrip(" .!")) for text in (new, old))
    if newer is None or older is None or newer[1].split() != older[1].split() or not _terms(newer[1]):
        return False
    what, before = newer[2].split(), older[2].split()
    return what != before and len(what) == len(before) <= MOST_DIFFERENT + 1


def _terms(text: str) -> set[str]:
    return {term for term in text_terms(text) if " " not in term} - _CHANGE_TERMS - STOPWORDS
