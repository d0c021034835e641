"""Which of the found records a newer one contradicts: states the same of the same, and something else about it.

    "Our linter is pylint."        older: "Our linter is ruff now."  or  "Our linter is ruff."
    "I live in Oslo."              older: "Actually I moved to Bergen."

By words, in English, and careful, for what is taken for outdated is left out of prompts: the subject must be the same,
what is said of it must be of one kind, and, where a thing may have several such values at once ("Leo is tall", "Leo is
allergic"), the newer statement must be read as the one in place of the older. A record that says more than one thing
is never outdated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deltamem_agents.recall.protocols import IndexedRecord, speaker
from deltamem_agents.recall.statements import PREPOSITIONS, Statement, gathers, statements
from deltamem_agents.recall.values import counts, holds_attribute, of_kin, owned

MOST_COMPARED = 300  # records
FEW = 3  # words of a value that another may stand in place of
_FAMILY = frozenset(("i", "the", "we"))


def outdated(found: Sequence[IndexedRecord]) -> dict[int, int]:
    """Keys of records that a newer one of these contradicts, to the key of the newest that does.

    Args:
        found: Best first; each of the first `MOST_COMPARED` is compared with the others of them.
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
        if len(said) == 1 and said[0] is not None:  # what says more than one thing is never outdated
            of_subject.setdefault(said[0].subject, []).append((newer, said[0]))
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
    """Whether of two records by the same speaker the newer replaces the older."""
    old = statements(older.text)
    if len(old) != 1 or old[0] is None or not _by_the_same(newer, older):
        return False
    return any(new is not None and replaces(new, old[0]) for new in statements(newer.text))


def replaces(new: Statement, old: Statement) -> bool:
    """Whether the newer of two statements says something else in place of the older."""
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
    """By what both say of the subject, and how."""
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
    """Who moved lives elsewhere; what was moved is at another time or place."""
    if _is_person(new.subject):
        if old.relation in ("live", "move"):
            return _is_residence(new)
        return False
    return old.relation not in ("live", "work") and _altered(new, old)


def _altered(new: Statement, old: Statement) -> bool:
    """What was changed to something had a value of that kind before."""
    if new.value.kind in ("weekday", "date", "number") or old.value.kind in ("weekday", "date", "number"):
        return _of_one_kind(new, old)
    if not set(new.value.words).isdisjoint(old.value.words):  # from one version to another
        return True
    return owned(new.subject) and len(new.value.words) <= FEW and old.relation in ("be", "name", "alter", "move")


def _is_else(new: Statement, old: Statement) -> bool:
    """Of two things that a subject is said to be, whether it can be one alone."""
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
    """Of two places, whether a subject can be at one alone; "in trouble" is none."""
    if not owned(new.subject) or of_kin(new.subject):
        alike = new.value.words[-1] == old.value.words[-1] and new.value.unit == old.value.unit
        return (new.value.named and old.value.named) or (new.changes and alike)
    return new.changes or new.value.unit == old.value.unit


def _does_else(new: Statement, old: Statement) -> bool:
    """The same verb with another object."""
    if new.value.kind in ("weekday", "date", "number"):
        return _of_one_kind(new, old) and (not gathers(new.relation) or (new.changes and _one_at_a_time(new, old)))
    (new_object, new_tail), (old_object, old_tail) = _parted(new.value.words), _parted(old.value.words)
    if new_object != old_object and new_tail != old_tail and new_tail and old_tail:
        return False  # tea in the morning, wine in the evening
    if gathers(new.relation) or not new.changes or old.value.kind in ("weekday", "date", "number"):
        return False
    return max(len(new.value.words), len(old.value.words)) <= FEW + 1


def _one_at_a_time(new: Statement, old: Statement) -> bool:
    """Whether of a verb that gathers it is the number, or the day of a habit, that is another."""
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
    """Whether two numbers are of the same."""
    return new.value.unit == old.value.unit or not new.value.unit


def _is_residence(moved: Statement) -> bool:
    """Whether who moved to somewhere moved there to live, as far as its words tell."""
    return moved.relation == "live" or moved.value.kind in ("name", "")


def _is_person(subject: tuple[str, ...]) -> bool:
    return subject[0] in ("i", "we", "you") or not owned(subject) or of_kin(subject)


def _same_subjects(subject: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """A subject, and those that it includes: where a family moved to, there lives who tells of it."""
    return (subject, ("i",)) if subject == ("we",) else (subject,)


def _by_the_same(newer: IndexedRecord, older: IndexedRecord) -> bool:
    return bool(newer.role == older.role and speaker(newer) == speaker(older))


def _held(statement: Statement) -> frozenset[str]:
    """The words of what a statement says of its subject, without endings."""
    return _bare((*statement.relation.split(), *statement.value.words, *statement.scope))


def _bare(words: Sequence[str]) -> frozenset[str]:
    endings = ("ing", "es", "s", "ed", "e")
    bare = []
    for word in words:
        ending = next((each for each in endings if word.endswith(each) and len(word) - len(each) > 2), "")
        bare.append(word[: len(word) - len(ending)])
    return frozenset(bare) - {"in", "at", "to", "of", "my", "our", "on", "a", "the", "be", "am", "is", "are"}
