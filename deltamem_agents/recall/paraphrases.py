"""Whether two texts state the same fact in other words, by the texts and the cosine of their vectors.

It is cautious: texts that differ in one content word ("my dog", "my cat"), a number, a name, a negation, or in who does
what to whom, state different facts, however similar an embedder finds them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from deltamem_agents.recall.words import STOPWORDS, text_terms

LONGEST = 200  # characters; a longer text is taken to say more than one thing
MOST_WORDS = 20
NEAR = 0.8  # cosine from which a word of `_GROUPS` may be missing in one text

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
    """The features of a text that are compared.

    Args:
        words: Content words without endings; words of one group of near-synonyms become one.
        codes: Tokens with other characters than letters: numbers, paths, ids.
        names: Words that begin with a capital letter, in order.
        negated: Whether the text says that something is not so.
        qualified: Whether it says that something was, may be or would be so.
        inverted: Whether its names may be in reverse order: "Oslo is where Mara lives".
    """

    words: frozenset[str]
    codes: frozenset[str]
    names: tuple[str, ...]
    negated: bool
    qualified: bool
    inverted: bool


def gist(text: str) -> Gist | None:
    """The gist of a text; None for a long text or one without content words."""
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
    """Whether two texts state the same fact.

    Args:
        cosine: Cosine of their vectors; None without an embedder.
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
