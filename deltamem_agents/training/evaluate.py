"""Measures what the bundled model can answer from the state alone, and comparisons for it.

Only held-out facts are asked. An answer counts if greedy decoding would give exactly its tokens and then end.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deltamem_agents.core import Adapter, attach
from deltamem_agents.training.adapter import answer_logits, write_conversations
from deltamem_agents.training.batches import Renderer, Row, extend
from deltamem_agents.training.conversations import Conversation, Question, Shape, converse

BATCH = 32  # conversations per forward


@dataclass(frozen=True, slots=True)
class Score:
    """One figure of the table: measure, number of facts, share of right answers, number of questions."""

    measure: str
    facts: int
    right: float
    questions: int


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adapter: Adapter,
    *,
    conversations: int = 256,
    facts: tuple[int, ...] = (1, 2, 4, 8),
    seed: int = 1_000_003,
) -> Iterator[Score]:
    """Measure, figure by figure. The adapter is attached for its part and then detached.

    Raises:
        UnsupportedModelError: The model's family is unknown.
        AdapterMismatchError: The adapter is for another backbone, or the model already carries one.
    """
    renderer = Renderer(tokenizer)
    for count in facts:
        shape = Shape(facts=count, held_out=True, unknown=1)
        for measure, row_of in _contexts(renderer):
            yield _unattached(measure, model, renderer, _drawn(shape, conversations, seed), row_of, count)
        yield Score("chance", count, _chance(_drawn(shape, conversations, seed)), count * conversations)
    attached = attach(model, adapter.eval())
    try:
        with torch.inference_mode():
            for count in facts:
                for measure, shape, kind, offset in _measures(count):
                    right = total = 0
                    for batch in _batches(_drawn(shape, conversations, seed + 1)):
                        state = write_conversations(attached, renderer, batch)
                        if measure == "zero state":
                            state = attached.zero_state(len(batch))
                        asked = [(i, q) for i, c in enumerate(batch) for q in c.questions if q.kind == kind]
                        rows = [renderer.exchange(question) for _, question in asked]
                        slots = [(i + offset) % len(batch) for i, _ in asked]
                        logits, targets = answer_logits(attached, renderer, state, slots, rows)
                        right += _right(logits, targets, rows)
                        total += len(rows)
                    yield Score(measure, count, right / max(1, total), total)
    finally:
        attached.detach()


def _measures(count: int) -> Iterator[tuple[str, Shape, str, int]]:
    """Measure, conversation, kind of question, and an offset: the state comes from that many agents further on."""
    plain = Shape(facts=count, held_out=True, unknown=1)
    yield "state only", plain, "stated", 0
    yield "four filler turns after", replace(plain, filler=4, filler_last=True), "stated", 0
    if count > 1:
        yield "three sessions", replace(plain, sessions=min(3, count)), "stated", 0
    yield "fact never stated: I don't know", plain, "unknown", 0
    yield "changed fact: the new value", replace(plain, changed=max(1, count // 2)), "changed", 0
    yield "zero state", plain, "stated", 0
    yield "another agent's state", plain, "stated", 1


def _contexts(renderer: Renderer) -> Iterator[tuple[str, Callable[[Conversation, Question], Row]]]:
    def in_context(conversation: Conversation, question: Question) -> Row:
        row = renderer.messages(conversation.messages, weight=0.0)
        extend(row, renderer.exchange(question))
        return row

    yield "in context (the ceiling)", in_context
    yield "untouched backbone, nothing in context", lambda _, question: renderer.exchange(question)


def _unattached(
    measure: str,
    model: PreTrainedModel,
    renderer: Renderer,
    conversations: list[Conversation],
    row_of: Callable[[Conversation, Question], Row],
    count: int,
) -> Score:
    right = total = 0
    with torch.inference_mode():
        for batch in _batches(conversations):
            rows = [row_of(c, q) for c in batch for q in c.questions if q.kind == "stated"]
            padded = renderer.batch(rows)
            logits = model(input_ids=padded.ids, attention_mask=padded.mask.long(), use_cache=False).logits
            wanted = padded.weights[:, 1:] >= 1
            right += _right(logits[:, :-1][wanted], padded.ids[:, 1:][wanted], rows)
            total += len(rows)
    return Score(measure, count, right / max(1, total), total)


def _right(logits: torch.Tensor, targets: torch.Tensor, rows: list[Row]) -> int:
    """Number of rows in which every answer token is the likeliest one, given those before it."""
    hits = (logits.argmax(-1) == targets).tolist()
    right = start = 0
    for row in rows:
        length = sum(weight >= 1 for weight in row.weights)
        right += all(hits[start : start + length])
        start += length
    return right


def _chance(conversations: list[Conversation]) -> float:
    shares = [1 / len(q.fact.attribute.values) for c in conversations for q in c.questions if q.kind == "stated"]
    return sum(shares) / len(shares)


def _drawn(shape: Shape, conversations: int, seed: int) -> list[Conversation]:
    rng = random.Random(seed)
    return [converse(rng, shape) for _ in range(conversations)]


def _batches(conversations: list[Conversation]) -> Iterator[list[Conversation]]:
    for start in range(0, len(conversations), BATCH):
        yield conversations[start : start + BATCH]
