"""Turn a query into the terms of a full-text search. Quoting them for its syntax is up to the index."""

from __future__ import annotations

import re

from deltamem_agents.search_form import search_form, words_of

# Words without content. In a memory of a dozen messages, rarity does not identify them yet.
_STOPWORDS = """
    a about all also am an and any are as at be been but by can could d did do does doing for from had has have
    having he her hers him his how i if in into is it its itself just ll m may me might mine my of on or our ours
    please re s shall she should so some t tell than that the their theirs them then there these they this those
    to too us ve was we were what when where which who whom whose why will with would you your yours
"""
_SELF = re.compile(r"\b(?:i|my|me|mine|myself|we|our|ours|us)\b")
STOPWORDS = frozenset(_STOPWORDS.split())


def query_terms(query: str) -> list[str]:
    """The words of a query, plus joined words (``ERR-4012``, ``src/app.py``) as phrases; each once, in order.

    Words without content are left out unless the query has no others.

    >>> query_terms("What is the status of ERR-4012?")
    ['status', 'ERR', '4012', 'ERR 4012']
    """
    every: dict[str, str] = {}
    for chunk in search_form(query).split():
        words = words_of(chunk)
        for term in (*words, " ".join(words)):
            if term:
                every.setdefault(term.casefold(), term)
    telling = [term for folded, term in every.items() if not all(word in STOPWORDS for word in folded.split())]
    return telling or list(every.values())


def content_words(text: str) -> frozenset[str]:
    """The content words of a text, case-folded."""
    return frozenset(term.casefold() for term in query_terms(text) if " " not in term)


def says(text: str, answer: str) -> bool:
    """Whether a text contains all content words of an answer.

    >>> says("My favourite colour is Teal.", "teal"), says("It is teal-ish.", "teal blue"), says("Yes.", "")
    (True, False, False)
    """
    words = content_words(answer)
    return bool(words) and words <= content_words(text)


def speaks_of_self(text: str) -> bool:
    """Whether the writer of an English text speaks of themselves.

    >>> speaks_of_self("What's my dog's name?"), speaks_of_self("Is it mine?"), speaks_of_self("Who is Mara?")
    (True, True, False)
    """
    return _SELF.search(text.lower()) is not None
