"""Conversations as token batches for the bundled model.

Every message is ``<|role|> content <|end|>``, tokenised on its own, exactly as the product renders it. ``weights`` says
how much each token counts as a target (0: never predicted).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from deltamem_agents.recall import HEADER
from deltamem_agents.training.conversations import Conversation, Message, Question
from deltamem_agents.training.tokenizer import END, PAD, SPECIAL_TOKENS

TEXT_WEIGHT = 0.1  # weight of a token that is not part of an answer (prototype: answers 1, the rest 0.1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded token ids [B, T], validity [B, T] bool and target weights [B, T]."""

    ids: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor


@dataclass(slots=True)
class Row:
    """One sequence under construction."""

    ids: list[int]
    weights: list[float]

    def __len__(self) -> int:
        return len(self.ids)


class Renderer:
    """Turns messages into tokens and caches their text's tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self.pad = self._id(PAD)
        self.end = self._id(END)

    def message(self, role: str, content: str, *, weight: float = TEXT_WEIGHT) -> Row:
        """One message; its content and end token count ``weight`` as targets, its role token never counts."""
        text = self._cache.get(content)
        if text is None:
            text = self._cache[content] = self._tokenizer.encode(content, add_special_tokens=False)
        ids = [self._id(f"<|{role}|>"), *text, self.end]
        return Row(ids, [0.0] + [weight] * (len(ids) - 1))

    def messages(self, messages: Iterable[Message], *, weight: float = TEXT_WEIGHT) -> Row:
        """Several messages, one after another."""
        row = Row([], [])
        for role, content in messages:
            extend(row, self.message(role, content, weight=weight))
        return row

    def exchange(self, question: Question) -> Row:
        """A question and its answer; only the answer is a target."""
        row = self.message("user", question.text, weight=0.0)
        extend(row, self.message("assistant", question.answer, weight=1.0))
        return row

    def batch(self, rows: Sequence[Row], *, left: bool = False) -> Batch:
        """Pad rows to the longest one, on the right or on the left."""
        length = max(1, max((len(row) for row in rows), default=1))
        ids = torch.full((len(rows), length), self.pad)
        weights = torch.zeros(len(rows), length)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            place = slice(length - len(row), length) if left else slice(0, len(row))
            ids[i, place] = torch.tensor(row.ids, dtype=torch.long)
            weights[i, place] = torch.tensor(row.weights)
            mask[i, place] = True
        return Batch(ids, mask, weights)

    def _id(self, token: str) -> int:
        found = self._tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found


def extend(row: Row, more: Row) -> None:
    """Append ``more`` to ``row`` in place."""
    row.ids += more.ids
    row.weights += more.weights


def recalled_message(
    rng: random.Random, conversation: Conversation, question: Question, *, keep: int, found: bool = True
) -> Message:
    """The records that recall would give for a question: those about its subject or attribute, oldest first.

    Args:
        keep: Maximum number of messages; those about both go first, then those about either.
        found: False leaves out the messages that answer it.
    """
    scored = [(nearness(question, text), rng.random(), i) for i, (_, text) in enumerate(conversation.messages)]
    wanted = [each for each in scored if found or each[0] < 2]
    chosen = sorted(i for _, _, i in sorted(wanted, reverse=True)[:keep])
    return _handed_over([conversation.messages[i] for i in chosen])


def nearness(question: Question, text: str) -> int:
    """2 if a message is about the question's subject and attribute, 1 if about one of them, else 0."""
    words = set(text.replace("'s", "").replace(".", " ").replace(",", " ").split())
    subject = question.fact.subject
    about = bool(words & {"I", "my", "My"}) if subject == "me" else subject in words
    return about + (question.fact.attribute.noun in text or not words.isdisjoint(question.fact.attribute.values))


def records_message(rng: random.Random, conversation: Conversation, *, keep: int | None = None) -> Message:
    """The records that recall would give: the conversation's messages as one system message, oldest first."""
    messages = conversation.messages
    if keep is not None and len(messages) > keep:
        chosen = sorted(rng.sample(range(len(messages)), keep))
        messages = [messages[i] for i in chosen]
    return _handed_over(messages)


def repeated_tokens(rng: random.Random, length: int, vocabulary: int, *, weight: float) -> Row:
    """Random tokens with repeated spans, which count ``weight`` from their second token on.

    Without these the model learns which pool an answer comes from long before it learns to copy the exact word.
    """
    ids = [rng.randrange(len(SPECIAL_TOKENS), vocabulary) for _ in range(max(8, length // 2))]
    weights = [0.0] * len(ids)
    while len(ids) < length:
        size = rng.randint(4, 16)
        start = rng.randrange(0, len(ids) - size + 1) if len(ids) > size else 0
        span = ids[start : start + size]
        ids += span
        weights += [0.0] + [weight] * (len(span) - 1)
    return Row(ids, weights)


def _handed_over(messages: Sequence[Message]) -> Message:
    """Write records as `recall_text` does."""
    return ("system", "\n".join([HEADER, *(f"- {role}: {text}" for role, text in messages)]))
