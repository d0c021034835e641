"""Questions about past work: which time they ask for, and which commits and notes answer them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from deltamem_agents.guidelines.concepts import concepts_of
from deltamem_agents.guidelines.ranking import units_of
from deltamem_agents.guidelines.results import Work
from deltamem_agents.recall.words import text_terms

BEHIND = 0.75  # share of the best score that a further commit or note needs
DECIDED = 0.5  # how far decisions rank ahead of other notes if the question asks for decisions
ANSWERS = 0.34  # share of the question's units that a commit or note must cover
_ABOUT_WORK = re.compile(
    r"\b(?:did|have|had|has|was|were) (?:i|we|you|they|anyone|anybody|somebody|it|this|that)\b|"
    r"\b(?:yesterday|today|recently|lately|ago|this (?:week|month)|since)\b|"
    r"\blast (?:\w+ )?(?:week|month|commits?|changes?|time|night)\b|"
    r"\bwhy (?:did|was|were|is|are|do|does|have)\b|\bwho (?:changed|wrote|added|removed|made|did)\b|"
    r"\bwhen (?:did|was|were)\b|\bwhat (?:was|were|has been) \w+|\bdeci(?:ded?|sions?)\b|"
    r"\b(?:which|what|last|latest) commit|\bhistory of\b|\bwhat(?:['’]s| is) new\b|\bworking on\b|"
    r"\b(?:was|were) (?:\w+ )?(?:added|removed|changed|raised|upgraded|bumped)\b",
    re.IGNORECASE,
)
_TALK = frozenset(
    """did done do change changed changes changing yesterday today recently lately ago week month last why who when what
    commit commits commited committed work worked working decide decided decision decisions history since day days made
    make happen happened latest new newest time night morning added add removed remove monday tuesday wednesday thursday
    friday saturday sunday file files code""".split()
)
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()


def is_about_work(query: str) -> bool:
    """Whether a question asks for what was done or decided.

    >>> is_about_work("What did I change in auth yesterday, and why?"), is_about_work("How do I run the tests?")
    (True, False)
    """
    return _ABOUT_WORK.search(query) is not None


def window(query: str, now: datetime | None = None) -> tuple[datetime | None, datetime | None]:
    """The time that a question asks for: from the first up to before the second, in the local zone."""
    present = (now or datetime.now(UTC)).astimezone()
    midnight = present.replace(hour=0, minute=0, second=0, microsecond=0)
    low = query.casefold()
    if "yesterday" in low or "last night" in low:
        return midnight - timedelta(days=1), midnight
    if re.search(r"\btoday\b|\bthis morning\b", low):
        return midnight, None
    if found := re.search(r"\b(\d{1,3}|a|one|two|three|four|five|six) (day|week|month|hour)s? ago\b", low):
        count = {"a": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}.get(found[1]) or int(found[1])
        if found[2] == "hour":
            return present - timedelta(hours=count + 1), present
        days = count * {"day": 1, "week": 7, "month": 30}[found[2]]
        return midnight - timedelta(days=days), midnight - timedelta(days=days - (1 if found[2] == "day" else 7))
    if re.search(r"\bthis week\b", low):
        return midnight - timedelta(days=midnight.weekday()), None
    if re.search(r"\blast week\b|\bpast week\b", low):
        return midnight - timedelta(days=midnight.weekday() + 7), midnight if "past" in low else None
    if re.search(r"\b(?:last|past|this) month\b", low):
        return midnight - timedelta(days=31), None
    if found := re.search(r"\b(?:last |on |since )(" + "|".join(_DAYS) + r")\b", low):
        back = (midnight.weekday() - _DAYS.index(found[1])) % 7 or 7
        start = midnight - timedelta(days=back)
        return start, None if "since" in found[0] else start + timedelta(days=1)
    if found := re.search(r"\b(since |on )?(\d{4}-\d{2}-\d{2})\b", low):
        try:
            start = datetime.fromisoformat(found[2]).astimezone()
        except ValueError:
            return None, None
        return start, None if found[1] == "since " else start + timedelta(days=1)
    return None, None


def answering(query: str, done: Sequence[Work], me: str, k: int, now: datetime | None = None) -> list[Work]:
    """The work that answers a question, best first.

    Args:
        done: Everything that was recorded, oldest first.
        me: Who "I" is; empty if that is not known.
    """
    since, until = window(query, now)
    about_work = is_about_work(query)
    within = [each for each in done if _within(each, since, until)]
    if re.search(r"\bi\b|\bmy\b", query.casefold()) and me and any(each.author == me for each in within):
        within = [each for each in within if each.author == me]
    decided = re.search(r"\bdeci(?:de|sion)", query, re.IGNORECASE) is not None
    if decided:
        within = [each for each in within if each.kind != "commit"]
    elif not about_work:  # a decision may answer any question, but then it must be about it
        within = [each for each in within if each.kind in ("decision", "intent")]
    units = [each for each in units_of(query) if each.word not in _TALK and each.terms]
    if not units:
        newest = list(reversed(within))
        asks_last = re.search(r"\b(?:last|latest|newest)\b.{0,20}\b(?:commit|change)\b", query, re.IGNORECASE)
        return newest[:1] if asks_last else newest[:k] if about_work else []
    scored = []
    for number, each in enumerate(within):
        said = " ".join((each.text, *each.dependencies))
        terms = {*text_terms(said), *text_terms(re.sub(r"[/_.-]+", " ", " ".join(each.files)))}
        concepts = concepts_of(said)
        covered = sum(
            1.0
            if any(term in terms or _begins(term, terms) for term in unit.terms)
            else 0.7 * bool(unit.concepts & concepts)
            for unit in units
        ) / len(units)
        if covered >= (ANSWERS if about_work else 0.6):
            ahead = (DECIDED if decided else 0.05) * (each.kind == "decision")
            scored.append((covered + ahead, number, covered, each))
    top = max((covered for _, _, covered, _ in scored), default=0.0)
    ranked = sorted(scored, key=lambda one: one[:2], reverse=True)
    return [each for _, _, covered, each in ranked if covered >= BEHIND * top][:k]


def _begins(term: str, terms: set[str]) -> bool:
    return len(term) >= 4 and any(each.startswith(term) for each in terms)


def _within(work: Work, since: datetime | None, until: datetime | None) -> bool:
    at = datetime.fromisoformat(work.at)
    return (since is None or at >= since) and (until is None or at < until)
