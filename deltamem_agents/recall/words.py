"""Full-text search over one agent's records in memory: postings of words, scored by BM25.

    score = Σ over the query's terms of  idf · tf (K1 + 1) / (tf + K1 (1 − B + B length / mean length))
    idf   = log(1 + (N − n + ½) / (n + ½))

Source: Robertson and Zaragoza, 2009, with Lucene's idf, which is positive for every term. Rarity is counted over the
agent's own records, so other agents' records do not change a score.

A term is a word without its accents and its English ending (Porter2); the words of a joined word together
(``ERR-4012``); or one character, or two adjacent ones, of a script without spaces.

`query_terms` turns a query into the terms of a full-text search; quoting them for its syntax is up to the index.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import snowballstemmer

from deltamem_agents.search_form import UNSPACED, folded, search_form, words_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Hits = tuple[NDArray[np.int32], NDArray[np.float32]]


K1, B = 1.0, 0.5

LONGEST_STEMMED = 64  # characters; longer words are not stemmed
LONGEST_KEPT = 32  # characters; longer words are not cached, so that the cache holds nothing like a sentence
KEPT_BYTES = 16 << 20

_stemming = threading.local()  # a stemmer has state, so each thread needs its own

# Words without content. In a memory of a dozen messages, rarity does not identify them yet.
_STOPWORDS = """
    a about all also am an and any are as at be been but by can could d did do does doing for from had has have
    having he her hers him his how i if in into is it its itself just ll m may me might mine my of on or our ours
    please re s shall she should so some t tell than that the their theirs them then there these they this those
    to too us ve was we were what when where which who whom whose why will with would you your yours
"""
_SELF = re.compile(r"\b(?:i|my|me|mine|myself|we|our|ours|us)\b")
STOPWORDS = frozenset(_STOPWORDS.split())
_VERDICTS = frozenset(("yes", "no", "not", "none", "never"))  # what an answer may conclude without quoting it


class _KnownWords:
    """A cache of words' terms, for all agents; it is emptied when it takes more than `KEPT_BYTES`."""

    def __init__(self) -> None:
        self._terms: dict[str, tuple[str, ...]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, word: str) -> tuple[str, ...] | None:
        return self._terms.get(word)

    def put(self, word: str, terms: tuple[str, ...]) -> None:
        size = 200 + sum(map(sys.getsizeof, (word, *terms)))
        with self._lock:
            if self._bytes + size > KEPT_BYTES:
                self._terms, self._bytes = {}, 0
            self._terms[word] = terms
            self._bytes += size

    def drop(self) -> None:
        with self._lock:
            self._terms, self._bytes = {}, 0


_known = _KnownWords()


def forget_words() -> None:
    """Empty the cache of words: some may come from erased messages or closed memories."""
    _known.drop()


@dataclass(frozen=True, slots=True)
class Postings:
    """Where each term occurs in N records, and how often.

    Args:
        of: Term to indices of records and counts [2, n], indices ascending.
        lengths: [N] number of terms of each record.
    """

    of: Mapping[str, NDArray[np.int32]]
    lengths: NDArray[np.float32]

    @classmethod
    def empty(cls) -> Postings:
        """Postings of zero records."""
        return cls({}, np.zeros(0, np.float32))

    @property
    def bytes(self) -> int:
        """Their approximate size."""
        return self.lengths.nbytes + 300 * len(self.of) + 8 * int(self.lengths.sum())

    def grown(self, texts: Sequence[str]) -> Postings:
        """New postings that include further records; this object does not change."""
        if not texts:
            return self
        places: dict[str, list[int]] = {}
        counts: dict[str, list[int]] = {}
        lengths: list[int] = []
        for place, text in enumerate(texts, len(self.lengths)):
            found = Counter(text_terms(text))
            lengths.append(found.total())
            for term, count in found.items():
                places.setdefault(term, []).append(place)
                counts.setdefault(term, []).append(count)
        of = dict(self.of)
        for term, where in places.items():
            more = np.array([where, counts[term]], np.int32)
            of[term] = np.concatenate([of[term], more], axis=1) if term in of else more
        return Postings(of, np.concatenate([self.lengths, np.array(lengths, np.float32)]))

    @classmethod
    def counted(cls, counts: Sequence[Counter[str]], terms: Iterable[str]) -> Postings:
        """Postings of N records from their counts of terms; only ``terms`` can be searched for."""
        of = {}
        for term in terms:
            found = [(place, count[term]) for place, count in enumerate(counts) if term in count]
            if found:
                of[term] = np.array(found, np.int32).T
        return cls(of, np.array([count.total() for count in counts], np.float32))

    def scores(self, query: str, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """BM25 scores [N]; 0 for a record that shares no term with the query.

        Args:
            weights: How many of the agent's records each record stands for [N]; None if these are all of them.
        """
        return self.total(self.found(query, weights))

    def total(self, found: Iterable[Hits]) -> NDArray[np.float32]:
        """The sums [N] of the terms' scores."""
        result = np.zeros(len(self.lengths), np.float32)
        for places, scores in found:
            result[places] += scores
        return result

    def found(
        self, query: str, weights: NDArray[np.float32] | None = None, *, without: Iterable[str] = ()
    ) -> list[Hits]:
        """For each of the query's terms that occurs: the indices of records, ascending, and the scores there.

        Args:
            weights: As in `scores`.
            without: Terms to leave out.
        """
        each = np.ones_like(self.lengths) if weights is None else weights
        total = float(each.sum())
        mean = max(float(self.lengths @ each) / total, 1.0) if total else 1.0
        hits = []
        for rarity, places, counts in self._rarities(query, each, without):
            if not len(places):
                continue
            saturated = counts * (K1 + 1) / (counts + K1 * (1 - B + B * self.lengths[places] / mean))
            hits.append((places, (rarity * saturated).astype(np.float32)))
        return hits

    def coverage(self, query: str, weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Share [N] of the query's terms that each record contains, weighted by rarity; between 0 and 1.

        Args:
            weights: As in `scores`.
        """
        result = np.zeros(len(self.lengths), np.float64)
        each = np.ones_like(self.lengths) if weights is None else weights
        whole = 0.0
        for rarity, places, _ in self._rarities(query, each):
            whole += rarity
            result[places] += rarity
        return np.round(result / whole if whole else result, 6).astype(np.float32)

    def _rarities(
        self, query: str, each: NDArray[np.float32], without: Iterable[str] = ()
    ) -> Iterator[tuple[float, NDArray[np.int32], NDArray[np.int32]]]:
        """For each term of a query: its idf, the indices of the records with it, and its counts there."""
        nowhere = np.zeros(0, np.int32)
        total = float(each.sum())
        for term in sorted(looked_for(query).difference(without)):
            places, counts = self.of.get(term, (nowhere, nowhere))
            holding = float(each[places].sum())
            yield float(np.log(1 + max(total - holding + 0.5, 0.5) / (holding + 0.5))), places, counts


def looked_for(query: str) -> set[str]:
    """The terms of a query."""
    return {term for word in query_terms(query) for term in _query_forms(word)}


def text_terms(text: str) -> Iterator[str]:
    """The terms of a record, each repeated as often as it occurs.

    >>> sorted(text_terms("Érr-4012 stopped"))
    ['4012', 'err', 'err 4012', 'stop']
    """
    for chunk in search_form(text).split():
        known = _known.get(chunk)
        if known is None:
            known = _chunk_terms(chunk)
            if len(chunk) <= LONGEST_KEPT and not UNSPACED.search(chunk):
                _known.put(chunk, known)
        yield from known


def _chunk_terms(chunk: str) -> tuple[str, ...]:
    """The terms of the text between two spaces."""
    words = [form for word in words_of(chunk) for form in _forms(word)]
    return (*words, " ".join(words)) if len(words) > 1 and not UNSPACED.search(chunk) else tuple(words)


def _query_forms(term: str) -> Iterable[str]:
    """The terms to look up for a word or phrase of a query; in a script without spaces, pairs of characters."""
    forms = [form for word in term.split() for form in _forms(word)]
    if " " in term and not UNSPACED.search(term):
        return [" ".join(forms)]
    pairs = [form for form in forms if len(form) > 1 or not UNSPACED.match(form)]
    return pairs or forms


def _forms(word: str) -> tuple[str, ...]:
    """A word without accents and ending; for a script without spaces, its characters and pairs of them."""
    if not word.isascii():
        runs = UNSPACED.findall(word)
        if runs:
            rest = UNSPACED.sub(" ", word).split()
            return (*(form for run in runs for form in _pairs(run)), *(form for part in rest for form in _forms(part)))
    word = folded(word)
    if len(word) > LONGEST_STEMMED:
        return (word,)
    if not hasattr(_stemming, "stemmer"):
        _stemming.stemmer = snowballstemmer.stemmer("english")
    return (_stemming.stemmer.stemWord(word),)


def _pairs(run: str) -> Iterator[str]:
    yield from run
    yield from (run[i : i + 2] for i in range(len(run) - 1))


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


def says_every_word(texts: Iterable[str], answer: str) -> bool:
    """Whether each content word of an answer stands in one of some texts, in any of its forms.

    >>> says_every_word(["Rex plays outside."], "Rex playing"), says_every_word(["The code is 9031."], "90")
    (True, False)
    """
    wanted = {form for word in content_words(answer) - _VERDICTS for form in _forms(word)}
    return wanted <= {term for text in texts for term in text_terms(text)}


def speaks_of_self(text: str) -> bool:
    """Whether the writer of an English text speaks of themselves.

    >>> speaks_of_self("What's my dog's name?"), speaks_of_self("Is it mine?"), speaks_of_self("Who is Mara?")
    (True, True, False)
    """
    return _SELF.search(text.lower()) is not None
