"""Rank rules by how well they answer a question, and tell whether they answer it at all. By words and concepts.

The question is cut into units: its content words, each with the concepts that it stands for. A rule *covers* a unit by
the word itself, its stem, or a concept in common; in its own text, or less in its headings and introduction. Rare units
weigh more. A word that no rule knows counts against all.

    covered(q, r) = Σ weight(u) match(u, r) / Σ weight(u)
    score(q, r)   = covered + FOCUS focus + FORM [kind that is asked for] + NEAR nearness + MEANING cosine

`focus` is the share of the rule's own words and concepts that the question asks for: of two rules that cover a question
equally, the one that says less else comes first. For a command it is the share of the command's words, if that is more.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from deltamem_agents.guidelines.concepts import concepts_of, spans_of
from deltamem_agents.guidelines.results import Found
from deltamem_agents.guidelines.rule import Rule
from deltamem_agents.guidelines.sources import FACTS
from deltamem_agents.recall.words import STOPWORDS, text_terms

WORD, STEM, CONCEPT = 1.0, 0.9, 0.8  # how well a unit is covered by its word, its stem, a concept
ABOVE = 0.6  # factor for headings and introduction
FOCUS, FORM, NEAR, FACT, MEANING = 0.25, 0.08, 0.15, 0.1, 1.0
ANSWERS, ANSWERS_BY_MEANING = 0.34, 0.5  # score from which a rule answers, without and with an embedder
BEHIND = 0.5  # share of the best score that a further rule needs
COMMON = 0.35  # weight of a common word that no rule has
UNKNOWN = 1.3  # weight of a word that no rule and no concept knows, relative to the rarest known one

_GENERIC = frozenset(
    """
    project repo repository repositories code codebase source file files thing things way rule rules guideline
    guidelines convention conventions policy policies standard standards practice practices need want use
    used using uses allow
    allowed do does done make made get got go work works working new happen happens one ones any every each some here
    must should may can supposed expected correct right proper good best ok okay kind sort type prefer preferred
    preference default normally usually currently always ever never first before after when while please tell know
    anything something everything someone people team us our else only just still also both between instead
    command commands run running execute setting settings set configured configuration config tool tools option
    look looks like put take takes taken find finds found give gives given have has keep keeps hold holds come comes
    long wide many much big often still already again next back fine acceptable accepted require required requires
    needed necessary define defined handle handled write written read add added adding end ends own mine part parts
    """.split()
)
# Words of many questions about code: if no rule has them, that says little.
_COMMON = frozenset(
    """
    class classes method methods function functions value values argument arguments parameter parameters variable
    variables
    module modules object objects type types text texts user users result results statement statements level levels step
    steps layer layers lower upper main app application program system server client change changes load loads save
    saving
    saved prevent prevents protect protected against avoid represent represents list return returns block blocks
    old stay stays lower without usage usable show shows allow wrong right appear appears condition conditions
    argument git
    example thing body content contents information kind name names number numbers place places point line lines page
    pages
    side start starts state try time times way word words set sets access accessed call calls called case cases check
    checks
    create created deal describe do effect fix fixed happen helper idea include keep language let local mean means
    mention
    mind move must nothing one only open order other output package path people permit permitted possible pick print
    problem
    process produce public private raw reach react reason remain repair repaired respond rest safe say see send several
    should side simple single small solve specify split stop store string strings style such support supported
    suppose team
    term tests tolerate tolerated touch treat turn update useful valid verify version via wait want whole wish write
    accompany
    automatically disappear manually exactly correctly properly directly anonymous internal external current existing
    """.split()
)
_ASKS_COMMAND = re.compile(
    r"\b(?:how (?:do|can|should|would|to)\b.{0,30}\b(?:run|start|build|install|execute|launch|check|test|lint|format|"
    r"generate|regenerate|deploy|set up|serve|compile|create)|(?:which|what) (?:command|script|target|invocation)|"
    r"command (?:to|for|that))",
    re.IGNORECASE,
)
_ASKS_NUMBER = re.compile(
    r"\b(?:how (?:many|long|wide|much|big|large|deep|old|often)|(?:which|what) (?:\w+ )?(?:version|release|width|"
    r"length|limit|size|percentage|number)|max(?:imum)?|minimum|at (?:most|least))\b",
    re.IGNORECASE,
)
_ALONE = re.compile(r"^`\S+ ([^`]+)`|: `\S+ ([^`]+)`$")  # a command that a rule begins with, or that a comment explains
_EXAMPLE = re.compile(r"\"[^\"`]* [^\"`]*\"|'[^'`]* [^'`]*'")  # an argument of several words, such as a message


@dataclass(frozen=True, slots=True)
class Unit:
    """A content word of a question.

    Args:
        word: As it was written, in lower case.
        terms: Its stems.
        concepts: What it stands for.
    """

    word: str
    terms: frozenset[str]
    concepts: frozenset[str]


@dataclass(slots=True)
class Indexed:
    """A rule's words and concepts, in its text and above it."""

    terms: Counter[str]
    above: frozenset[str]
    concepts: frozenset[str]
    concepts_above: frozenset[str]
    own: frozenset[str]
    size: float = 0.0
    command: frozenset[str] = frozenset()


class Ranking:
    """An index of rules, for one or more questions.

    Args:
        rules: The rules, in any order.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = rules
        self.indexed = [index(rule) for rule in rules]
        self.term_counts = Counter(term for each in self.indexed for term in {*each.terms, *each.above})
        self.concept_counts = Counter(name for each in self.indexed for name in each.concepts | each.concepts_above)

    def best(
        self,
        query: str,
        found: Sequence[Found],
        k: int,
        meaning: Mapping[str, float] | None = None,
        *,
        given: bool = False,
    ) -> list[Found]:
        """The rules that answer a question, best first; of rules with the same text, only the best.

        Args:
            found: The rules of this index with their citations.
            k: At most this many.
            meaning: Cosine of the question and each rule, by the rule's id.
            given: Whether all rules apply to a path that was given.
        """
        scores = self.scores(query, meaning, given=given)
        order = sorted(
            range(len(found)), key=lambda i: (-scores[i], found[i].rule.rank, found[i].rule.file, found[i].rule.lines)
        )
        chosen: list[Found] = []
        seen = set[str]()
        top = scores[order[0]] if order else 0.0
        enough = max(ANSWERS if meaning is None else ANSWERS_BY_MEANING, BEHIND * top)
        for i in order:
            if len(chosen) == k or scores[i] < enough:
                break
            if (normal := found[i].rule.normal) not in seen:
                seen.add(normal)
                each = found[i]
                chosen.append(
                    Found(rule=each.rule, stale=each.stale, overridden_by=each.overridden_by, score=scores[i])
                )
        return chosen

    def scores(self, query: str, meaning: Mapping[str, float] | None = None, *, given: bool = False) -> list[float]:
        """The score of each rule.

        Args:
            given: Whether all rules apply to a path that was given, so that nearer ones come first.
        """
        units = units_of(query)
        if not units:
            return [0.0] * len(self.rules)
        weights = [self._weight(unit) for unit in units]
        total = sum(weights)
        wanted = frozenset(name for unit in units for name in unit.concepts)
        asked = frozenset(term for unit in units for term in unit.terms)
        asks_command, asks_number = bool(_ASKS_COMMAND.search(query)), bool(_ASKS_NUMBER.search(query))
        places = self._places(query)
        scores = []
        for rule, each in zip(self.rules, self.indexed, strict=True):
            named = each.command if each.command <= asked else frozenset[str]()  # "run the tests" names `make test`
            matches = (WORD if unit.terms & named else self._match(unit, each) for unit in units)
            covered = sum(weight * match for weight, match in zip(weights, matches, strict=True)) / total
            score = 0.0 if meaning is None else MEANING * max(0.0, meaning.get(rule.id, 0.0))
            if covered > 0:
                own = sum(count for term, count in each.terms.items() if term in asked)
                focus = min(1.0, own / max(each.size, 4))
                if each.command:
                    focus = max(focus, len(each.command & asked) / len(each.command))
                focus += 0.5 * len(wanted & each.concepts) / max(len(each.concepts), 2)
                score += covered + FOCUS * min(focus, 1.0) * covered
                score += FORM * (asks_command and rule.kind == "command")
                score += FORM * (asks_number and bool(re.search(r"\d", rule.text)))
                score += NEAR * _nearness(rule, places, given) * min(1.0, 2 * covered)
                score -= FACT * (rule.rank == FACTS) * covered
            scores.append(score)
        return scores

    def _weight(self, unit: Unit) -> float:
        rarity = math.log(1 + len(self.rules))
        if unit.word in _GENERIC:
            return 0.15
        counts = [self.term_counts[term] for term in unit.terms if self.term_counts[term]]
        counts += [self.concept_counts[name] for name in unit.concepts if self.concept_counts[name]]
        if not counts:
            return COMMON if unit.word in _COMMON else UNKNOWN if not unit.concepts else 1.0
        idf = math.log(1 + len(self.rules) / (1 + min(counts))) / max(rarity, 1e-6)
        return 0.4 + 0.6 * idf

    def _match(self, unit: Unit, each: Indexed) -> float:
        if unit.word in each.own:
            return WORD
        if any(term in each.terms for term in unit.terms):
            return STEM
        best = 0.0
        if unit.concepts & each.concepts:
            best = CONCEPT
        elif any(term in each.above for term in unit.terms):
            best = ABOVE * STEM
        elif unit.concepts & each.concepts_above:
            best = ABOVE * CONCEPT
        return best

    def _places(self, query: str) -> list[str]:
        """Directories of rules' scopes that a question names."""
        low = " " + re.sub(r"[^\w/.@-]+", " ", query.casefold()) + " "
        found = []
        for directory in {rule.scope.directory for rule in self.rules if rule.scope.directory}:
            name = directory.rpartition("/")[2].casefold()
            if directory.casefold() in low or f" {name} " in low or f" {name}/" in low:
                found.append(directory)
        return found


def index(rule: Rule) -> Indexed:
    """The words and concepts of a rule."""
    where = re.sub(r"[^\w]+", " ", str(rule.scope))
    above = " . ".join((*rule.headings[-2:], rule.context, where))
    text = re.sub(r"`[^`]+`", lambda code: _EXAMPLE.sub(" ", code[0]), rule.text)
    terms = Counter(term for term in text_terms(text) if term not in STOPWORDS and " " not in term)
    concepts = concepts_of(text)
    return Indexed(
        terms=terms,
        above=frozenset(text_terms(above)),
        concepts=concepts,
        concepts_above=concepts_of(above) - concepts,
        own=frozenset(re.findall(r"[^\W_][\w+#'-]*", text.casefold())),
        size=float(sum(terms.values())),
        command=_command_terms(rule.kind, text),
    )


def _command_terms(kind: str, text: str) -> frozenset[str]:
    """The words of a command and its arguments, if a rule is little else: those of its tool's name are left out."""
    found = _ALONE.search(text) if kind == "command" else None
    words = () if found is None else (term for term in text_terms(found[1] or found[2]) if " " not in term)
    return frozenset(words) - STOPWORDS - {"run"}


def units_of(query: str) -> list[Unit]:
    """The content words of a question with their concepts; those of phrases belong to each of their words."""
    low = query.casefold().replace("’", "'")
    spans = spans_of(query)
    units = []
    seen = set[str]()
    for found in re.finditer(r"[^\W_][\w.+#'/-]*", low):
        word = found[0].rstrip(".'/-").removesuffix("'s")
        if not word or word in STOPWORDS or word in seen:
            continue
        seen.add(word)
        concepts = frozenset(name for name, start, end in spans if start < found.end() and end > found.start())
        terms = frozenset(term for term in text_terms(word) if term not in STOPWORDS)
        units.append(Unit(word, terms, concepts))
    return units


def _nearness(rule: Rule, places: Iterable[str], given: bool) -> float:
    """1 for a rule of a place that the question names, 0 for one of all files, less for one of another place.

    Args:
        given: Whether a path was given; a rule of its folder is then nearer than one of all files.
    """
    directory = rule.scope.directory
    if any(directory == each or directory.startswith(each + "/") for each in places):
        return 1.0
    return 0.5 * min(rule.scope.depth, 2) * (1 if given else -1)
