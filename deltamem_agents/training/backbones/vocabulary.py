"""The tokenizer of a backbone for open vocabulary, and a renderer that splits some words more finely than it does.

Byte-level BPE; every digit is a token, so that a number is copied digit by digit. As in the tokenizer of the closed
vocabulary, a word at the start of a message is the same token as in its middle.

Words that nobody trained are cut into pieces that rarely stand together. So that a backbone copies those too, the
renderer cuts some words of training text as a tokenizer with fewer merges would; within an episode a word is always cut
the same way, or there would be nothing to copy.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator

from tokenizers import Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deltamem_agents.recall import HEADER
from deltamem_agents.training.conversations import Shape, converse
from deltamem_agents.training.episodes import Mixture, generate
from deltamem_agents.training.episodes.vocabulary import invented
from deltamem_agents.training.tokenizer import trained

FINER = (0.5, 0.2, 0.05)  # shares of the merges with which words are cut more finely
SHORT = 4  # letters of a word that is cut as usual
_WORD = re.compile(r"'(?:s|t|re|ve|m|ll|d)| ?[A-Za-z]+| ?\d+| ?[^\sA-Za-z\d]+|\s+(?!\S)|\s+")  # GPT-2's, for ASCII


def train_open_tokenizer(*, vocabulary: int = 4096, episodes: int = 12000, seed: int = 0) -> PreTrainedTokenizerFast:
    """Train on generated episodes and conversations; the same arguments give the same tokenizer."""
    before = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    return trained(before, _corpus(episodes, seed), vocabulary)


class WordEncoder:
    """Turns text into tokens word by word, and keeps what it has cut.

    Args:
        finer: Share of words that are cut more finely; drawn anew by `begin`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, *, finer: float = 0.0) -> None:
        self._full = tokenizer.backend_tokenizer
        self._fewer = [_with_merges(self._full, share) for share in FINER] if finer else []
        self._finer = finer
        self._usual: dict[str, list[int]] = {}
        self._cut: dict[str, list[int]] = {}
        self._rng = random.Random(0)

    def begin(self, rng: random.Random) -> None:
        """Begin an episode: words are cut anew."""
        self._cut = {}
        self._rng = rng

    def encode(self, text: str) -> list[int]:
        """The tokens of a message's text."""
        if not text.isascii():
            return list(self._full.encode(text, add_special_tokens=False).ids)
        spaced = text if text.startswith(" ") else f" {text}"
        ids: list[int] = []
        for word in _WORD.findall(spaced):
            ids += self._word(word)
        return ids

    def _word(self, word: str) -> list[int]:
        usual = self._usual.get(word)
        if usual is None:
            usual = self._usual[word] = _encoded(self._full, word)
        if not self._finer or len(word) <= SHORT or not word[-1].isalpha():
            return usual
        cut = self._cut.get(word)
        if cut is None:
            cut = usual
            if self._rng.random() < self._finer:
                cut = _encoded(self._fewer[int(self._rng.random() * len(self._fewer))], word)
            self._cut[word] = cut
        return cut


def _encoded(tokenizer: Tokenizer, word: str) -> list[int]:
    # A word that begins without a space stands after another; behind a space of its own it is cut alike.
    if word.startswith(" "):
        return list(tokenizer.encode(word, add_special_tokens=False).ids)
    pieces = tokenizer.model.tokenize(_bytes(word))
    return [piece.id for piece in pieces]


def _bytes(word: str) -> str:
    return "".join(part for part, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(word))


def _with_merges(tokenizer: Tokenizer, share: float) -> Tokenizer:
    """A copy with the first merges only; the tokens keep their numbers."""
    state = json.loads(tokenizer.to_str())
    merges = state["model"]["merges"]
    state["model"]["merges"] = merges[: round(len(merges) * share)]
    return Tokenizer.from_str(json.dumps(state))


def _corpus(episodes: int, seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    drawn = generate(seed, Mixture(filler=(0, 3)))
    for _ in range(episodes):
        episode = next(drawn)
        yield from (message["content"] for message in episode.messages)
        for question in episode.questions:
            yield from (message["content"] for message in question.messages[-1:])
            yield question.answer or ""
        yield invented(rng)
    for _ in range(episodes // 4):
        conversation = converse(rng, Shape(facts=4, changed=1, filler=1, unknown=1))
        yield from (text for _, text in conversation.messages)
        yield from (text for question in conversation.questions for text in (question.text, question.answer))
        yield f"{HEADER}\n- user: \n- assistant: "
