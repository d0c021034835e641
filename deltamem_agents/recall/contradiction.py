"""Detect records superseded by a newer statement about the same subject.

    "Our linter is pylint."        older: "Our linter is ruff now."  or  "Our linter is ruff."
    "I live in Oslo."              older: "Actually I moved to Bergen."

It goes by English words and is cautious, because outdated records are left out of prompts. The subject must be the
same, and both values must be of one kind. If a subject can have several such values at once ("Leo is tall", "Leo is
allergic"), the newer statement must read as a replacement of the older. A record that says more than one thing is never
outdated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deltamem_agents.recall.protocols import IndexedRecord, speaker
from deltamem_agents.recall.statements import PREPOSITIONS, Statement, gathers, statements
from deltamem_agents.recall.values import counts, holds_attribute, of_kin, owned

MOST_COMPARED = 300  # records that are compared with each other
FEW = 3  # the most words of a value that another can replace
_FAMILY = frozenset(("i", "the", "we"))


def outdated(found: Sequence[IndexedRecord]) -> dict[int, int]:
    """A mapping from the key of each record that a newer one contradicts to the key of the newest that does.

    Args:
        found: Best first; the first `MOST_COMPARED` are compared with each other.
    """
    by_age = sorted(found[:MOST_COMPARED], key=lambda record: (record.position, record.chunk))
    stale: dict[int, int] = {}
    of_subject: dict[tuple[str, ...], list[tuple[IndexedRecord, Statement]]] = {}
    for newer in by_age:
        said = statements(newer.text)
        for new in said:
            for subject in _same_subjects(new.subject) if new is not None else ():
                for older, old in of_subject.get(subject, ()):
                    if new is not None and _by_the_same(newer, older) and replaces(new, old):
                        stale[older.key] = newer.key
        if len(said) == 1 and said[0] is not None:  # a record that says more than one thing is never outdated
            of_subject.setdefault(said[0].subject, []).append((newer, said[0]))
    return stale


def newer_first(found: Sequence[IndexedRecord], stale: Mapping[int, int]) -> list[IndexedRecord]:
    """The records in the same order, except that each replacement stands before the record that it replaces.

    Args:
        stale: The result of `outdated`.
    """
    by_key = {record.key: record for record in found}
    order: dict[int, IndexedRecord] = {}
    for record in found:
        newer = stale.get(record.key)
        if newer is not None:
            order.setdefault(newer, by_key[newer])
        order.setdefault(record.key, record)
    return list(order.values())


def replaces(new: Statement, old: Statement) -> bool:
    """Whether a newer statement replaces an older one with another value."""
    if old.relation == "end" or old.subject not in _same_subjects(new.subject):
        return False
    if new.relation == "end":
        return bool(new.value.words) and _held(old) >= _bare(new.value.words)
    if set(new.value.words) >= set(old.value.words) or set(new.value.words) <= set(old.value.words):
        return False  # it says the same, in more words or fewer
    if new.past or new.scope != old.scope:
        return False
    if new.former:
        return not _bare(tuple(new.former)).isdisjoint(_held(old))
    if new.subject != old.subject and "live" not in (new.relation, old.relation):
        return False
    return _in_place_of(new, old)


def _in_place_of(new: Statement, old: Statement) -> bool:
    """Whether the new statement replaces the old one, by their relations and values."""
    if new.relation == "move":
        return _moved(new, old)
    if new.relation == "alter":
        return old.relation not in ("live", "move", "work") and _altered(new, old)
    if old.relation in ("move", "alter") and old.relation != new.relation:
        return (new.relation == "live" and _is_residence(old)) or (new.relation == "be" and _altered(new, old))
    if new.relation != old.relation:
        return "number" == new.value.kind == old.value.kind and new.changes and _measures(new, old)
    if new.relation.startswith("event"):
        return False
    if new.relation in ("live", "work", "name"):
        return True
    if new.relation == "be":
        return _is_else(new, old)
    return _does_else(new, old)


def _moved(new: Statement, old: Statement) -> bool:
    """Whether a move replaces the old statement: a person's home, or a thing's time or place."""
    if _is_person(new.subject):
        if old.relation in ("live", "move"):
            return _is_residence(new)
        return False
    return old.relation not in ("live", "work") and _altered(new, old)


def _altered(new: Statement, old: Statement) -> bool:
    """Whether a change ("was changed to") replaces an old value of the same kind."""
    if new.value.kind in ("weekday", "date", "number") or old.value.kind in ("weekday", "date", "number"):
        return _of_one_kind(new, old)
    if not set(new.value.words).isdisjoint(old.value.words):  # such as from one version to another
        return True
    return owned(new.subject) and len(new.value.words) <= FEW and old.relation in ("be", "name", "alter", "move")


def _is_else(new: Statement, old: Statement) -> bool:
    """Whether a subject can be only one of the two things that it is said to be."""
    kind = new.value.kind
    if kind != old.value.kind:
        return new.changes and {kind, old.value.kind} <= {"", "name", "colour", "number"} and (
            holds_attribute(new.subject) and max(len(new.value.words), len(old.value.words)) <= FEW
            and not PREPOSITIONS & {new.value.words[0], old.value.words[0]}
        )  # fmt: skip
    if kind in ("weekday", "date"):
        return True
    if kind == "number":
        return _measures(new, old)
    if kind in ("state", "place"):
        return new.value.unit == old.value.unit if kind == "state" else _is_elsewhere(new, old)
    if kind == "trade":
        return new.changes
    if kind == "colour":
        return new.changes or owned(new.subject)
    if kind in ("quality", "kind of", "long"):
        return False
    if of_kin(new.subject) or not owned(new.subject):
        return False
    few = max(len(new.value.words), len(old.value.words)) <= FEW
    return few and (new.changes or (holds_attribute(new.subject) and len(new.value.words) == len(old.value.words)))


def _is_elsewhere(new: Statement, old: Statement) -> bool:
    """Whether a subject can be at only one of two places; "in trouble" is not a place."""
    if not owned(new.subject) or of_kin(new.subject):
        alike = new.value.words[-1] == old.value.words[-1] and new.value.unit == old.value.unit
        return (new.value.named and old.value.named) or (new.changes and alike)
    return new.changes or new.value.unit == old.value.unit


def _does_else(new: Statement, old: Statement) -> bool:
    """Whether the same verb with another object replaces the old one."""
    if new.value.kind in ("weekday", "date", "number"):
        return _of_one_kind(new, old) and (not gathers(new.relation) or (new.changes and _one_at_a_time(new, old)))
    (new_object, new_tail), (old_object, old_tail) = _parted(new.value.words), _parted(old.value.words)
    if new_object != old_object and new_tail != old_tail and new_tail and old_tail:
        return False  # "tea in the morning", "wine in the evening"
    if gathers(new.relation) or not new.changes or old.value.kind in ("weekday", "date", "number"):
        return False
    return max(len(new.value.words), len(old.value.words)) <= FEW + 1


def _one_at_a_time(new: Statement, old: Statement) -> bool:
    """Whether, for a verb whose values add up, a number or the day of a habit has changed."""
    if new.value.kind == "weekday" and new.relation.endswith((" on", " at")):
        return True
    if new.value.kind == "weekday":
        days = set(new.value.words) ^ set(old.value.words)
        return len(new.value.words) > 1 and all(day.endswith("days") for day in days)
    return counts(new.value) and counts(old.value)


def _parted(words: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words of a value up to its first preposition, and the rest."""
    place = next((i for i, word in enumerate(words) if i and word in PREPOSITIONS), len(words))
    return words[:place], words[place:]


def _of_one_kind(new: Statement, old: Statement) -> bool:
    if new.value.kind != old.value.kind:
        return False
    return new.value.kind != "number" or _measures(new, old)


def _measures(new: Statement, old: Statement) -> bool:
    """Whether two numbers have the same unit."""
    return new.value.unit == old.value.unit or not new.value.unit


def _is_residence(moved: Statement) -> bool:
    """Whether a person moved to a place to live there, as far as the words tell."""
    return moved.relation == "live" or moved.value.kind in ("name", "")


def _is_person(subject: tuple[str, ...]) -> bool:
    return subject[0] in ("i", "we", "you") or not owned(subject) or of_kin(subject)


def _same_subjects(subject: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """A subject and those that it includes: if "we" moved, so did "i"."""
    return (subject, ("i",)) if subject == ("we",) else (subject,)


def _by_the_same(newer: IndexedRecord, older: IndexedRecord) -> bool:
    return bool(newer.role == older.role and speaker(newer) == speaker(older))


def _held(statement: Statement) -> frozenset[str]:
    """The words that a statement says about its subject, without endings."""
    return _bare((*statement.relation.split(), *statement.value.words, *statement.scope))


def _bare(words: Sequence[str]) -> frozenset[str]:
    endings = ("ing", "es", "s", "ed", "e")
    bare = []
    for word in words:
        ending = next((each for each in endings if word.endswith(each) and len(word) - len(each) > 2), "")
        bare.append(word[: len(word) - len(ending)])
    return frozenset(bare) - {"in", "at", "to", "of", "my", "our", "on", "a", "the", "be", "am", "is", "are"}
