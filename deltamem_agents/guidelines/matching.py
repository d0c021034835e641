"""Match the rules that are journalled with the rules that stand in the files now.

First by text within file and heading, then by text within the file, then across files (renamed ones first), then by
similarity within file and heading. So an edit keeps the rule's id, a move keeps it too, and an inserted line touches
one rule.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from deltamem_agents.guidelines.rule import Rule

ALIKE = 0.55  # share of words in common from which two texts are versions of one rule
MOST_COMPARED = 200  # rules of one file that are compared with each other


@dataclass(slots=True)
class Matched:
    """Old rules with what they are now, those that are gone, and those that are new."""

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
