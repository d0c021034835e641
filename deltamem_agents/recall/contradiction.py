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
from dataclasses import dataclass
from typing import NamedTuple

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
MOST_COMPARED = 300  # records, as each is compared with each
LONGEST = 200  # characters; a longer text states more than one thing


def outdated(found: Sequence[IndexedRecord]) -> dict[int, int]:
    """Keys of records that a newer one of these contradicts, to the key of the newest that does.

    Args:
        found: Best first; each of the first `MOST_COMPARED` is compared with the others of them.
    """
    by_age = sorted(found[:MOST_COMPARED], key=lambda record: (record.position, record.chunk))
    stale: dict[int, int] = {}
    before: list[_Stated] = []
    of_subject: dict[tuple[str, ...], list[_Stated]] = {}  # what tells of no change replaces nothing else
    for record in by_age:
        statement = _statement(record.text)
        if statement is None:
            continue
        newer = _Stated(record, statement)
        same_subject = of_subject.setdefault(statement.subject, [])
        for older in before if statement.changes else same_subject:
            if _contradicts(newer, older):
                stale[older.record.key] = record.key
        before.append(newer)
        same_subject.append(newer)
    return stale


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
    new, old = _statement(newer.text), _statement(older.text)
    return new is not None and old is not None and _contradicts(_Stated(newer, new), _Stated(older, old))


@dataclass(frozen=True, slots=True)
class _Statement:
    """What is compared of a text.

    Args:
        own: Whether it speaks of its speaker.
        changes: Whether it tells of a change.
        terms: With content, less those that tell of a change.
        subject: Words up to "is"; the whole text's where there is no such statement, or nothing before it.
        complement: Words after it.
    """

    own: bool
    changes: bool
    terms: frozenset[str]
    subject: tuple[str, ...]
    complement: tuple[str, ...]


class _Stated(NamedTuple):
    record: IndexedRecord
    statement: _Statement


def _contradicts(newer: _Stated, older: _Stated) -> bool:
    new, old = newer.statement, older.statement
    if new.own != old.own or newer.record.role != older.record.role:
        return False
    if not (_replaces(new, old) if new.changes else _is_else(new, old)):
        return False
    return bool(newer.record.metadata.get("name") == older.record.metadata.get("name"))


def _statement(text: str) -> _Statement | None:
    """A text taken apart; None where it states nothing, or more than one thing."""
    if len(text) > LONGEST or "?" in text:
        return None
    folded = text.casefold()
    parts = _IS.match(CHANGE.sub(" ", folded).rstrip(" .!"))
    subject = parts[1] if parts and _terms(parts[1]) else ""
    return _Statement(
        own=speaks_of_self(text),
        changes=CHANGE.search(folded) is not None,
        terms=_terms(folded),
        subject=tuple((subject or folded).split()),
        complement=tuple(parts[2].split()) if parts and subject else (),
    )


def _replaces(new: _Statement, old: _Statement) -> bool:
    """Most of what either says is the same, and each says something of its own."""
    same = len(new.terms & old.terms)
    only_new, only_old = len(new.terms) - same, len(old.terms) - same
    return (
        same > 0
        and 0 < only_new <= MOST_DIFFERENT
        and 0 < only_old <= MOST_DIFFERENT
        and 2 * same >= min(len(new.terms), len(old.terms))
    )


def _is_else(new: _Statement, old: _Statement) -> bool:
    """The same subject is said to be one thing and another, in as many words."""
    return (
        new.subject == old.subject
        and new.complement != old.complement
        and len(new.complement) == len(old.complement) <= MOST_DIFFERENT + 1
    )


def _terms(text: str) -> frozenset[str]:
    return frozenset(term for term in text_terms(text) if " " not in term) - _CHANGE_TERMS - STOPWORDS
