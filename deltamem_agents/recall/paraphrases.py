"""Whether two texts say the same fact in other words. Knows texts and a cosine, no record.

Careful: what differs in one word with content ("my dog", "my cat"), in a number, a name, a negation or in who does what
to whom is another fact, however near the two are to an embedder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deltamem_agents.recall.lexical import STOPWORDS
from deltamem_agents.recall.words import text_terms

LONGEST = 200  # characters; a longer text says more than one thing
MOST_WORDS = 20
NEAR = 0.8  # cosine from which a word of a group may be left unsaid

_GROUPS = {
    word: f"({group.split()[0]})"
    for group in (
        "live resid resid home dwell base settl",
        "work job employ profess occup",
        "call name",
        "favourit favorit like best love prefer enjoy most",
        "code combin pin passcod open unlock",
        "own have possess",
        "begin start",
        "locat situat",
        "need must requir",
        "indent",
        "allerg allergi react reaction",
    )
    for word in group.split()
}
_LEFT_OUT = frozenset(
    "use give get got way thing kind other any more than realli actual currant current also just always "
    "alway usual one "
    "whenev rememb note know pleas btw by way said say tell told mention place person becaus".split()
)
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|without|hardly|no longer|any ?more)\b|n['’]t\b|\bcannot\b"
)
_QUALIFIED = re.compile(
    r"\b(?:old|former|previous|used to|was|were|had|will|might|may|could|would|if|unless|maybe|perhaps)\b"
)
_INVERTED = re.compile(r"\b(?:is|are|was|were) (?:where|what|who|how|my|our|the)\b|['’]s\b")


@dataclass(frozen=True, slots=True)
class Gist:
    """What is compared of a text.

    Args:
        words: With content, without endings; those that mean about the same as one.
        codes: What is not written in letters alone: numbers, paths, ids.
        names: Words written with a capital, in order.
        negated, qualified: Whether it says that something is not so; was, may or would be so.
        inverted: Whether names may stand the other way round: "Oslo is where Mara lives".
    """

    words: frozenset[str]
    codes: frozenset[str]
    names: tuple[str, ...]
    negated: bool
    qualified: bool
    inverted: bool


def gist(text: str) -> Gist | None:
    """A text by what it says; None for a long one, or one without content."""
    if len(text) > LONGEST or len(text.split()) > MOST_WORDS:
        return None
    plain = text.replace("’", "'").replace("'s ", " ").rstrip(" .!?")
    folded = text.casefold()
    terms = (
        term for term in text_terms(" ".join(w for w in plain.split() if w.casefold().strip(",;:") not in STOPWORDS))
    )
    words = (
        frozenset(_GROUPS.get(term, term) for term in terms if " " not in term and term not in _LEFT_OUT) - STOPWORDS
    )
    if not words:
        return None
    names = tuple(
        word.strip(".,;:!?").casefold()
        for word in plain.split()
        if word[:1].isupper() and word.casefold() not in STOPWORDS
    )
    bare = (token.strip(".,;:!?\"'()") for token in plain.casefold().split())
    return Gist(
        words,
        frozenset(token for token in bare if token and not token.replace("-", "").replace("'", "").isalpha()),
        names,
        _NEGATION.search(folded) is not None,
        _QUALIFIED.search(folded) is not None,
        _INVERTED.search(folded) is not None,
    )


def says_the_same(one: Gist, other: Gist, cosine: float | None) -> bool:
    """Whether two texts say the same fact.

    Args:
        cosine: Of their vectors; None without an embedder.
    """
    if one.codes != other.codes or one.negated != other.negated or one.qualified != other.qualified:
        return False
    names, others = [n for n in one.names if n in other.names], [n for n in other.names if n in one.names]
    if names != others and sorted(names) == sorted(others) and not (one.inverted or other.inverted):
        return False
    more, rest = one.words - other.words, other.words - one.words
    if not more and not rest:
        return True
    if (more and rest) or cosine is None or cosine < NEAR:
        return False
    return all(word.startswith("(") for word in more | rest)
