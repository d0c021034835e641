"""Train a δ-mem adapter for the bundled model: what was said must be answerable from the state alone.

A conversation is written session by session, each in its own context. Then every question is asked in a fresh context
that holds only the question (sometimes with records before it); it reads the state and does not write it. The loss is
on answers only, and its gradient flows back through the writes.

An adapter starts as the linear attention nearest to what its layers' own heads do: where a backbone finds things in
its context by attention without positions, softmax(q·k) v, the delta rule with the same q, k and v is the linear form
of the same look-up. On the bundled backbone no held-out fact came back from the state after 300 steps from random
projections; from this start, one fact is answered within 50 steps.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deltamem_agents.core import Adapter, Attached, DeltaMemConfig, State, attach, select_state
from deltamem_agents.training.batches import Renderer, Row, extend, recalled_message, records_message
from deltamem_agents.training.conversations import Conversation, Question, Shape, converse, crowded
from deltamem_agents.training.optimization import Progress, learning_rate, mixed_precision

ASKED = 8  # questions about an overloaded conversation

SIZE = 0.5  # root mean square of queries and keys before tanh, where tanh is still nearly linear
KEEP_BIAS = 5.0  # λ = 0.993: half of a state is left after a hundred tokens that do not write to it
STRENGTH = 2.0  # strength of the correction: one fact among many tokens is read back much smaller than it was written


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRecipe:
    """All settings that determine how an adapter is trained.

    Args:
        rank: Side of a state matrix.
        layers: Adapted layers: those in which the backbone itself looks things up.
        steps: Optimiser steps.
        tokens: Approximate tokens in a batch, writes and questions together.
        peak: Learning rate.
        most_facts: Facts in a conversation grow from 1 to this over the first 60 %.
        with_records: Share of questions asked with records before them.
        overloaded: Share of batches with more facts than a state can hold, for the last 60 % of steps.
        overload: Range of the number of facts in their conversations.
    """

    rank: int = 64
    layers: tuple[int, ...] = (2, 3)
    steps: int = 1200
    tokens: int = 4096
    peak: float = 1e-2
    most_facts: int = 12
    with_records: float = 0.25
    overloaded: float = 0.25
    overload: tuple[int, int] = (16, 64)
    seed: int = 0

    def config(self) -> DeltaMemConfig:
        """The adapter's shape and write rule."""
        return DeltaMemConfig(
            rank=self.rank,
            layers=self.layers,
            alpha=16.0,
            couple_lambda=False,
            corrections=("q", "o"),
            write_length=256,
        )


def train_adapter(
    recipe: AdapterRecipe, adapter: Adapter, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Progress]:
    """Train in place, yielding progress (loss and answer-token accuracy of the batch) after every step.

    The backbone is frozen, and restored when the iterator ends or is closed.

    Raises:
        UnsupportedModelError: The model's family is unknown.
        AdapterMismatchError: The adapter is for another backbone, or the model already carries one.
    """
    model.eval()  # type: ignore[no-untyped-call]
    adapter.requires_grad_(True).train()
    attached = attach(model, adapter)
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=recipe.peak, betas=(0.9, 0.98), weight_decay=0.0)
    rng = random.Random(recipe.seed)
    renderer = Renderer(tokenizer)
    try:
        for step in range(recipe.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, recipe.steps, recipe.peak)
            conversations = _draw(rng, recipe, step / recipe.steps)
            loss, right = _loss(attached, renderer, conversations, rng, recipe)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            yield Progress(step + 1, recipe.steps, float(loss.detach()), right)
    finally:
        attached.detach()
        adapter.eval()


def write_conversations(attached: Attached, renderer: Renderer, conversations: list[Conversation]) -> State:
    """The states [B, …] after writing each conversation, session by session."""
    state: State = attached.zero_state(len(conversations))
    for index in range(max(len(conversation.sessions) for conversation in conversations)):
        rows = [
            renderer.messages(conversation.sessions[index]) if index < len(conversation.sessions) else Row([], [])
            for conversation in conversations
        ]
        batch = renderer.batch(rows)
        _, state = attached.forward(
            state=state,
            write=True,
            input_ids=batch.ids,
            attention_mask=batch.mask.long(),
            use_cache=False,
            logits_to_keep=1,
        )
    return state


def answer_logits(
    attached: Attached, renderer: Renderer, state: State, slots: list[int], rows: list[Row]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, V] at the answers' tokens, and the tokens [N] to predict; row ``i`` reads state ``slots[i]``."""
    # Answers end their rows: with padding on the left they end together, so only the last few tokens need logits.
    batch = renderer.batch(rows, left=True)
    longest = max(sum(weight >= 1 for weight in row.weights) for row in rows)
    output, _ = attached.forward(
        state=select_state(state, slots),
        write=attached.adapter.config.answer_writes,
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    wanted = batch.weights[:, -longest:] >= 1
    return output.logits[:, :-1][wanted].float(), batch.ids[:, -longest:][wanted]


def _loss(
    attached: Attached,
    renderer: Renderer,
    conversations: list[Conversation],
    rng: random.Random,
    recipe: AdapterRecipe,
) -> tuple[torch.Tensor, float]:
    rows: list[Row] = []
    slots: list[int] = []
    for slot, conversation in enumerate(conversations):
        for question in conversation.questions:
            rows.append(_asked(rng, renderer, conversation, question, recipe))
            slots.append(slot)
    with mixed_precision():
        state = write_conversations(attached, renderer, conversations)
        logits, targets = answer_logits(attached, renderer, state, slots, rows)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    # Each answer counts once, however long; otherwise "I don't know." outweighs the others, and is all that is learned.
    lengths = [sum(weight >= 1 for weight in row.weights) for row in rows]
    loss = losses.div(torch.tensor([float(n) for n in lengths for _ in range(n)])).sum() / len(rows)
    return loss, float((logits.detach().argmax(-1) == targets).float().mean())


def _asked(
    rng: random.Random, renderer: Renderer, conversation: Conversation, question: Question, recipe: AdapterRecipe
) -> Row:
    # With an overloaded state the model must learn to trust records more than the state.
    share = 0.6 if len(conversation.messages) > 3 * recipe.most_facts else recipe.with_records
    if rng.random() >= share:
        return renderer.exchange(question)
    if rng.random() < 0.3:
        recalled = records_message(rng, conversation, keep=5)
    else:
        recalled = recalled_message(rng, conversation, question, keep=rng.randint(1, 10), found=rng.random() < 0.9)
    row = renderer.messages([recalled])
    extend(row, renderer.exchange(question))
    return row


def _draw(rng: random.Random, recipe: AdapterRecipe, done: float) -> list[Conversation]:
    """Conversations with one number of facts, enough to fill a batch."""
    most = 1 + round((recipe.most_facts - 1) * min(1.0, max(0.0, done - 0.08) / 0.5))
    facts = rng.randint(max(1, most // 3), most)
    overloaded = done > 0.4 and rng.random() < recipe.overloaded
    if overloaded:
        facts = rng.randint(*recipe.overload)
    conversations: list[Conversation] = []
    tokens = 0
    while tokens < recipe.tokens:
        # First the model learns to remember at all; then that facts can be lost, corrected, or never said.
        shape = Shape(
            facts=facts,
            changed=rng.choice((0, 0, 1, facts // 3)) if done > 0.15 else 0,
            filler=rng.choice((0, 0, 2, 4, 8)) if done > 0.1 else 0,
            unknown=max(1, facts // 3) if done > 0.12 and rng.random() < 0.7 else 0,
            sessions=rng.choice((1, 1, 2, 3)) if done > 0.1 and facts > 2 else 1,
            acknowledged=rng.choice((0.0, 0.5, 1.0)),
            filler_last=rng.random() < 0.5,
            mixed=float(rng.random() < 0.1),
        )
        conversation = converse(rng, crowded(rng, shape, 0.2))
        if overloaded:
            asked = rng.sample(conversation.questions, min(ASKED, len(conversation.questions)))
            conversation = replace(conversation, questions=asked)
        conversations.append(conversation)
        share = 0.6 if overloaded else recipe.with_records
        tokens += 12 * len(conversation.messages) + round((17 + 80 * share) * len(conversation.questions))
    return conversations


@torch.no_grad()
def start_as_linear_attention(adapter: Adapter, model: PreTrainedModel) -> None:
    """Set the projections and the output correction of a fresh adapter with one state head, in place."""
    config = adapter.config
    heads = model.config.num_attention_heads
    for index in adapter.layer_indices:
        attention = model.get_submodule(f"model.layers.{index}.self_attn")
        parts = {
            name: attention.get_parameter(f"{name}_proj.weight").float().chunk(heads, dim=1 if name == "o" else 0)
            for name in ("q", "k", "v", "o")
        }
        match = sum((q.T @ k for q, k in zip(parts["q"], parts["k"], strict=True)), torch.zeros(()))
        copy = sum((o @ v for o, v in zip(parts["o"], parts["v"], strict=True)), torch.zeros(()))
        queries, keys = factors(match, config.rank)
        outputs, values = factors(copy, config.rank)
        layer = adapter.layer(index)
        layer.memory[: config.rank] = queries.T * (SIZE / _typical(queries))
        layer.memory[config.rank : 2 * config.rank] = keys * (SIZE / _typical(keys.T))
        layer.memory[2 * config.rank : 3 * config.rank] = values
        layer.corrections["o"].copy_(outputs * (STRENGTH * config.rank / config.alpha))
        layer.gate_bias[config.gate_width :] = KEEP_BIAS


def factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best factors [out, rank] and [rank, in] of a product [out, in]."""
    left, sizes, right = torch.linalg.svd(product)
    root = sizes[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]


def _typical(projection: Tensor) -> float:
    """Root mean square of the output of a projection [in, rank] for inputs of root mean square 1."""
    return float(projection.square().sum(0).mean().sqrt())
