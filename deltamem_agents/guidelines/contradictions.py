"""Find rules that contradict each other: claims about one subject with different values, or a rule and its negation.

    "Indent with two spaces."     "Indent with four spaces."
    "Use default exports."        "Never use default exports."
    "100 requests a minute"       "50 requests a minute", in otherwise equal words

Works on English words, and is cautious: two rules about one subject do not contradict each other unless both say one
value of a kind of which there can only be one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

from deltamem_agents.guidelines.results import Found
from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.recall.words import STOPWORDS, text_terms

LONGEST = 400  # characters of a rule that is compared
FEWEST_WORDS = 3  # content words of a rule that is compared with another by its words
_NUMBERS = {"one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "eight": "8", "ten": "10"}
_NUMBER = r"(\d+|one|two|three|four|five|six|eight|ten)"
_NEGATION = re.compile(
    r"\b(?:never|not|no|don['’]t|do not|avoid|must not|forbid(?:den|s)?|without|banned|prohibited|disallow(?:ed)?|"
    r"cannot|can['’]t|may not|refrain|stop)\b",
    re.IGNORECASE,
)
_MODALITY = frozenset(
    text_terms(
        "always must should shall use using prefer only may need needs require required ensure make sure keep all "
        "every any never not no don't avoid forbid forbidden without banned prohibited disallow cannot refrain stop"
    )
)
_TESTING = (
    r"^(?:test(?:s|ing)?(?: \w+)? (?:with|by|using)|run (?:the |all |all the )?(?:unit )?tests?(?: suite)?(?: with)?|"
    r"test command|to test)\b.{0,20}?`([^`]+)`"
)
_MANAGERS = r"(pnpm|npm|yarn|bun|uv|poetry|pdm|pipenv|pip|conda)"
_CLAIMS: tuple[tuple[str, str], ...] = (
    ("line length", r"(?:line(?:s| length| width)?|columns?|max_width|wrap)\b.{0,40}?\b(\d{2,3})\b"),
    ("line length", r"\b(\d{2,3})[- ](?:characters?|columns?|chars?)\b(?=.{0,30}(?:line|wide|long|limit|$))"),
    ("quotes", r"\b(single|double)[- ]?quot"),
    ("python version", r"\bpython(?: version)?[:\s]*(?:requires python )?(?:>=\s*)?(3\.\d+)"),
    ("node version", r"\bnode(?:\.js)?(?: version)?[:\s]*(?:requires node )?(?:>=\s*|v)?(\d{2})\b"),
    ("java version", r"\b(?:java|jdk)(?: version)?[:\s]*(\d{1,2})\b"),
    ("package manager", rf"\bpackage manager:? (?:is )?`?{_MANAGERS}\b"),
    ("package manager", rf"^(?:always )?(?:use|install with|install dependencies with) `?{_MANAGERS}\b"),
    ("test coverage", r"\bcoverage\b.{0,30}?(\d{1,3})\s*(?:%|percent)"),
    ("test coverage", r"(\d{1,3})\s*(?:%|percent)\s*(?:test |code |line )?coverage"),
    ("test command", _TESTING),
)
_PATTERNS = tuple((subject, re.compile(pattern, re.IGNORECASE)) for subject, pattern in _CLAIMS)


def claims(rule: Rule) -> dict[str, str]:
    """The subjects that a rule gives one value, with that value."""
    text = " ".join(rule.text.split())[:LONGEST]
    found: dict[str, str] = {}
    if indent := _indent(text):
        found["indentation"] = indent
    for subject, pattern in _PATTERNS:
        values = set(pattern.findall(text))
        if len(values) == 1 and subject not in found:
            found[subject] = values.pop().casefold()
    if re.search(r"\bsemicolons?\b", text, re.IGNORECASE):
        without = re.search(r"\b(?:no|without|omit|never|avoid|none|don['’]t)\b", text, re.IGNORECASE)
        found["semicolons"] = "no" if without else "yes"
    return found


def _indent(text: str) -> str:
    if not re.search(r"\bindent|\btabs?\b.{0,30}\bspaces?\b|\bspaces?\b.{0,30}\btabs?\b", text, re.IGNORECASE):
        return ""
    if spaces := re.search(rf"\b{_NUMBER}[- ]spaces?\b", text, re.IGNORECASE):
        return f"{_NUMBERS.get(spaces[1].casefold(), spaces[1])} spaces"
    if re.search(r"\btabs?\b", text, re.IGNORECASE) and not re.search(r"\bspaces\b", text, re.IGNORECASE):
        return "tabs"
    return ""


def _by_words(rule: Rule) -> tuple[frozenset[str], frozenset[str], bool]:
    """A rule's content words without values, its values, and whether it negates."""
    text = " ".join(rule.text.split())
    values = frozenset(_NUMBERS.get(each, each) for each in re.findall(rf"\b{_NUMBER}\b", text.casefold()))
    terms = {term for term in text_terms(text) if " " not in term and term not in STOPWORDS and term not in _MODALITY}
    words = frozenset(term for term in terms if term not in values and term not in _NUMBERS and not term.isdigit())
    return words, values, _NEGATION.search(text) is not None


def contradictions(rules: Sequence[Rule]) -> list[tuple[Rule, Rule, str]]:
    """Pairs of rules that contradict each other, and about what; only pairs that can be about one file."""
    groups: dict[tuple[str, frozenset[str]], list[tuple[Rule, object]]] = defaultdict(list)
    for rule in rules:
        if rule.kind == "pointer" or len(rule.text) > LONGEST:
            continue
        for subject, claimed_value in claims(rule).items():
            groups[subject, frozenset()].append((rule, claimed_value))
        words, values, negates = _by_words(rule)
        if len(words) >= FEWEST_WORDS and rule.rank != 2:
            groups["what else they say alike", words].append((rule, (values, negates)))
        elif words and rule.rank != 2:
            groups["the same", words].append((rule, negates))
    found: dict[tuple[str, str], tuple[Rule, Rule, str]] = {}
    for (subject, words), claimed in groups.items():
        about = " ".join(sorted(words)) or subject
        for (one, value), (other, another) in combinations(claimed, 2):
            if value != another and _may_meet(one, other) and not _side_by_side(one, other, subject):
                found.setdefault((one.id, other.id), (one, other, about))
    return list(found.values())


def overridden(found: Iterable[Found], path: str | None) -> list[Found]:
    """The same rules, in order; one that a nearer rule contradicts says which.

    Args:
        path: What the rules are for. Without it, a rule is overridden only by one that applies wherever it does.
    """
    rules = list(found)
    by_id = {each.rule.id: each for each in rules}
    nearest: dict[str, Rule] = {}
    for one, other, _ in contradictions([each.rule for each in rules]):
        near, far = (one, other) if _precedence(one) > _precedence(other) else (other, one)
        if _precedence(near) == _precedence(far) or (path is None and not _covers(near, far)):
            continue
        if far.id not in nearest or _precedence(near) > _precedence(nearest[far.id]):
            nearest[far.id] = near
    for id, near in nearest.items():
        by_id[id] = replace(by_id[id], overridden_by=near.citation)
    return [by_id[each.rule.id] for each in rules]


def _precedence(rule: Rule) -> tuple[int, int]:
    return rule.scope.depth, -rule.rank


def _covers(near: Rule, far: Rule) -> bool:
    """Whether one rule applies wherever another does."""
    if near.scope == far.scope:
        return True
    inside = far.scope.directory == near.scope.directory or far.scope.directory.startswith(near.scope.directory + "/")
    return not near.scope.globs and (inside or not near.scope.directory)


def _may_meet(one: Rule, other: Rule) -> bool:
    """Whether there may be a file that both rules are about."""
    if one.id == other.id or one.normal == other.normal:
        return False
    mine, theirs = one.scope.directory, other.scope.directory
    nested = mine == theirs or not mine or not theirs or mine.startswith(theirs + "/") or theirs.startswith(mine + "/")
    apart = one.scope.globs and other.scope.globs and not set(one.scope.globs) & set(other.scope.globs)
    return nested and not apart


def _side_by_side(one: Rule, other: Rule, subject: str) -> bool:
    """Whether both are commands or facts of one file, such as two test commands for different tests."""
    return one.file == other.file and (subject == "test command" or one.rank == 2)
