"""Match the journalled rules with the rules that are in the files now.

First by text within file and heading, then by text within the file, then across files (renamed ones first), then by
similarity within file and heading. So an edit keeps the rule's id, a move keeps it too, and an inserted line touches
one rule.

`verified` does so before a citation is used: a rule is returned as it is in the file now, or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Any

from deltamem_agents.guidelines.files import UnreadableError
from deltamem_agents.guidelines.reading import read_file
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import Found
from deltamem_agents.guidelines.rule import Rule, lines_hash
from deltamem_agents.guidelines.sources import Source, source_of

ALIKE = 0.55  # share of words in common from which two texts are versions of one rule
MOST_COMPARED = 200  # rules of one file that are compared with each other


@dataclass(slots=True)
class Matched:
    """Pairs of old rules and their present versions, rules that are gone, and rules that are new."""

    pairs: list[tuple[Rule, Rule]] = field(default_factory=list)
    gone: list[Rule] = field(default_factory=list)
    new: list[Rule] = field(default_factory=list)


def match(old: Iterable[Rule], new: Iterable[Rule], renamed: Mapping[str, str] | None = None) -> Matched:
    """Match old rules with new ones.

    Args:
        renamed: Old to new name of files.
    """
    names = renamed or {}

    def now(rule: Rule) -> str:
        return names.get(rule.file, rule.file)

    matched = Matched()
    olds, news = list(old), list(new)
    keys: tuple[Callable[[Rule, bool], Hashable], ...] = (
        lambda rule, is_old: (now(rule) if is_old else rule.file, rule.headings, rule.normal, rule.context),
        lambda rule, is_old: (now(rule) if is_old else rule.file, rule.headings, rule.normal),
        lambda rule, is_old: (now(rule) if is_old else rule.file, rule.normal),
        lambda rule, is_old: (rule.headings, rule.normal),
        lambda rule, is_old: rule.normal,
    )
    for key in keys:
        olds, news = _by_key(matched, olds, news, key)
    for same_headings in (True, False):
        olds, news = _by_similarity(matched, olds, news, now, same_headings=same_headings)
    matched.gone, matched.new = olds, news
    return matched


def _by_key(
    matched: Matched, olds: Sequence[Rule], news: Sequence[Rule], key: Callable[[Rule, bool], Hashable]
) -> tuple[list[Rule], list[Rule]]:
    waiting: dict[Hashable, list[Rule]] = defaultdict(list)
    for rule in reversed(news):
        waiting[key(rule, False)].append(rule)
    left, taken = [], set[int]()
    for rule in olds:
        found = waiting.get(key(rule, True))
        if found:
            other = found.pop()
            taken.add(id(other))
            matched.pairs.append((rule, other))
        else:
            left.append(rule)
    return left, [rule for rule in news if id(rule) not in taken]


def _by_similarity(
    matched: Matched, olds: list[Rule], news: list[Rule], now: Callable[[Rule], str], *, same_headings: bool
) -> tuple[list[Rule], list[Rule]]:
    by_file: dict[Hashable, list[Rule]] = defaultdict(list)
    for rule in news:
        by_file[(rule.file, rule.headings) if same_headings else rule.file].append(rule)
    candidates = []
    for rule in olds:
        key = (now(rule), rule.headings) if same_headings else now(rule)
        for other in by_file.get(key, ())[:MOST_COMPARED]:
            alike = similarity(rule.normal, other.normal)
            if alike >= ALIKE:
                near = -abs(rule.lines[0] - other.lines[0])
                candidates.append((alike, near, rule, other))
    candidates.sort(key=lambda each: each[:2], reverse=True)
    done = set[int]()
    for _, _, rule, other in candidates:
        if not {id(rule), id(other)} & done:
            done |= {id(rule), id(other)}
            matched.pairs.append((rule, other))
    return [rule for rule in olds if id(rule) not in done], [rule for rule in news if id(rule) not in done]


def similarity(one: str, other: str) -> float:
    """How alike two texts are, by their words in order: 0 to 1."""
    words, others = one.split(), other.split()
    return SequenceMatcher(None, words, others, autojunk=False).ratio() if words and others else 0.0


def verified(repository: Repository, rules: Iterable[Rule], manifest: Mapping[str, Any]) -> list[Found]:
    """The rules that are still in the files, in the same order.

    The lines of each rule are hashed. Where they differ from those journalled, the file is read again: a rule that has
    moved gets its present lines, an edited one gets its present text and is stale, and one that is gone is left out.
    """
    of_file: dict[str, list[Rule]] = defaultdict(list)
    order = {}
    for number, rule in enumerate(rules):
        of_file[rule.file].append(rule)
        order[rule.id] = number
    found = [each for file, those in of_file.items() for each in _of_file(repository, file, those, manifest)]
    return sorted(found, key=lambda each: order[each.rule.id])


def _of_file(repository: Repository, file: str, rules: list[Rule], manifest: Mapping[str, Any]) -> list[Found]:
    try:
        lines = repository.read(file).split("\n")
    except UnreadableError:
        return []
    if all(lines_hash(lines, *rule.lines) == rule.sha256 for rule in rules):
        return [Found(rule=rule) for rule in rules]
    stored = manifest.get("sources", {}).get(file)
    source = Source(file, *stored) if stored else source_of(file)
    if source is None:
        return []
    try:
        present, _ = read_file(repository, source)
    except UnreadableError:  # broken since: what stands in unchanged lines still stands there
        return [Found(rule=rule) for rule in rules if lines_hash(lines, *rule.lines) == rule.sha256]
    found = []
    for old, new in match(rules, present).pairs:
        changed = old.text != new.text
        found.append(
            Found(
                rule=replace(new, id=old.id, commit=None if changed else old.commit, former=old.former), stale=changed
            )
        )
    return found
