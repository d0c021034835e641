"""BM25 in memory: against the formula, growing, joined words, endings, accents, scripts without spaces, threads."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from deltamem_agents.recall.words import K1, B, Postings, text_terms

TEXTS = [
    "We indent with four spaces.",
    "The deployment failed with ERR-4012 on Friday, and failed again.",
    "Zoë orders crème brûlée in the café",
    "我住在京都，喜欢喝绿茶。",
    "Nothing of note.",
]


def best(texts: list[str], query: str) -> list[int]:
    scores = Postings.empty().grown(texts).scores(query)
    return [int(i) for i in np.argsort(-scores, kind="stable") if scores[i] > 0]


def test_the_formula() -> None:
    texts = ["red red blue", "blue green", "green green green white"]
    mean = 3.0
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))

    def bm25(count: int, length: int) -> float:
        return idf * count * (K1 + 1) / (count + K1 * (1 - B + B * length / mean))

    assert Postings.empty().grown(texts).scores("green") == pytest.approx([0, bm25(1, 2), bm25(3, 4)])


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("Is indentation by spaces?", 0),
        ("deployments failing", 1),
        ("what was err-4012", 1),
        ("CAFE", 2),
        ("Creme brulee", 2),
        ("京都", 3),
        ("喝绿茶吗", 3),
    ],
)
def test_what_finds_what(query: str, place: int) -> None:
    assert best(TEXTS, query)[0] == place


def test_joined_words_are_found_together_first() -> None:
    assert best(["4012 things err", "it was ERR-4012"], "ERR-4012") == [1, 0]


@pytest.mark.parametrize("query", ["", "   ", '"', "* OR NEAR(", "unheard", "🙂", "\x00"])
def test_queries_that_find_nothing(query: str) -> None:
    assert best(TEXTS, query) == []


def test_grown_at_once_or_one_by_one_is_the_same() -> None:
    at_once, grown = Postings.empty().grown(TEXTS), Postings.empty()
    for text in TEXTS:
        before = grown.scores("friday spaces")
        kept, grown = grown, grown.grown([text])
        assert np.array_equal(kept.scores("friday spaces"), before)  # the old one stays what it was
    assert np.array_equal(at_once.lengths, grown.lengths)
    assert at_once.of.keys() == grown.of.keys()
    assert all(np.array_equal(at_once.of[term], grown.of[term]) for term in grown.of)
    assert grown.grown([]) is grown


def test_of_nothing() -> None:
    assert Postings.empty().scores("anything").shape == (0,)


def test_threads_stem_at_once() -> None:
    words = [f"{stem}{ending}" for stem in ("walk", "jump", "talk") for ending in ("ing", "ed", "s")] * 40
    texts = [f"{word} {number}ing" for number, word in enumerate(words)]

    def terms(text: str) -> list[str]:
        return list(text_terms(text))

    with ThreadPoolExecutor(8) as pool:
        assert [found[0] for found in pool.map(terms, texts)] == [word[:4] for word in words]
