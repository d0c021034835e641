"""Train the bundled model's backbone: a small SmolLM3 that can find and copy what stands in its context.

Its upper layers have no positions (NoPE): finding a fact is matching who and what, wherever they stand, and rotary
positions would take away the half of each head's dimensions that turn within a conversation. See `induction` for the
initial weights.

There are two kinds of sequences: conversations followed by questions about them (as chat, or as records), and random
tokens that repeat, without which copying stalls. Knows nothing about memory states.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerBase, SmolLM3ForCausalLM

from deltamem_agents.training.backbones.shape import BackboneShape, fresh_backbone
from deltamem_agents.training.batches import (
    TEXT_WEIGHT,
    Batch,
    Renderer,
    Row,
    extend,
    recalled_message,
    records_message,
    repeated_tokens,
)
from deltamem_agents.training.conversations import UNKNOWN, Shape, converse, crowded
from deltamem_agents.training.optimization import Muon, Progress, learning_rate, mixed_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneRecipe:
    """All settings that determine how a backbone is trained.

    Args:
        width: Hidden size; a multiple of ``head``.
        layers: Decoder layers.
        rotary: Number of first layers with rotary positions; the others have none.
        head: Width of one attention head.
        steps: Optimiser steps.
        tokens: Approximate tokens in a batch.
        peak: Learning rate of the matrices (Muon, matched to AdamW's step size), and of the rest (AdamW).
        copying: Share of sequences that are repeated random tokens.
        copy_weight: Weight of a repeated token as a target; an answer's token has 1, other text 0.1.
        mixed: Share of conversations whose facts have values from any pool, so that only copying is right.
        crowded: Share of conversations about few attributes of many subjects, or about few subjects.
        recalled: Share of batches of single questions, each after the records that recall would find for it.
        first_facts: Maximum facts in a conversation at the start.
        most_facts: What that maximum grows to over the first half.
    """

    width: int = 192
    layers: int = 4
    rotary: int = 2
    head: int = 48
    steps: int = 1200
    tokens: int = 4096
    peak: float = 2e-3
    copying: float = 0.1
    copy_weight: float = 0.2
    mixed: float = 0.5
    crowded: float = 0.4
    recalled: float = 0.3
    first_facts: int = 2
    most_facts: int = 12
    seed: int = 0


def new_backbone(recipe: BackboneRecipe, tokenizer: PreTrainedTokenizerBase) -> SmolLM3ForCausalLM:
    """An untrained backbone of the recipe's size."""
    shape = BackboneShape(
        vocabulary=len(tokenizer),
        width=recipe.width,
        layers=recipe.layers,
        rotary=recipe.rotary,
        looking=recipe.rotary,
        head=recipe.head,
        inner=recipe.width * 8 // 3,
    )
    # At this size on a CPU, training is a quarter faster with eager attention than with sdpa (whose backward is slow).
    return fresh_backbone(shape, tokenizer, seed=recipe.seed, attention="eager")


def train_backbone(
    recipe: BackboneRecipe, model: SmolLM3ForCausalLM, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Progress]:
    """Train in place, yielding progress (loss and answer-token accuracy of the batch) after every step."""
    model.train()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=recipe.peak),
        torch.optim.AdamW(others, lr=recipe.peak, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rng = random.Random(recipe.seed)
    renderer = Renderer(tokenizer)
    for step in range(recipe.steps):
        rate = learning_rate(step, recipe.steps, recipe.peak)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        batch = _draw(rng, renderer, recipe, step / recipe.steps, len(tokenizer))
        loss, right = _loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        yield Progress(step + 1, recipe.steps, float(loss.detach()), right)


def _loss(model: SmolLM3ForCausalLM, batch: Batch) -> tuple[torch.Tensor, float]:
    # Right padding after a causal mask changes nothing before it, so no mask is passed (the fast attention path).
    with mixed_precision():
        hidden = model.model(input_ids=batch.ids).last_hidden_state[:, :-1]
        targets, weights = batch.ids[:, 1:], batch.weights[:, 1:]
        # Predicting text around the answers matters less: one in four of its tokens counts, with four times the weight.
        counted = (weights > TEXT_WEIGHT) | ((weights > 0) & (torch.rand(weights.shape) < 0.25))
        logits = model.lm_head(hidden[counted]).float()
    weight = torch.where(weights[counted] > TEXT_WEIGHT, weights[counted], 4 * weights[counted])
    losses = torch.nn.functional.cross_entropy(logits, targets[counted], reduction="none")
    answers = weights[counted] >= 1
    right = (logits.detach().argmax(-1) == targets[counted])[answers].float().mean()
    return (losses * weight).sum() / weight.sum(), float(right)


def _draw(rng: random.Random, renderer: Renderer, recipe: BackboneRecipe, done: float, vocabulary: int) -> Batch:
    """One batch of sequences of similar length."""
    most = recipe.first_facts + (recipe.most_facts - recipe.first_facts) * min(1.0, 2 * done)
    facts = rng.randint(1, round(most))
    if rng.random() < min(recipe.recalled, 2 * recipe.recalled * done):
        return _recalled(rng, renderer, recipe)
    first = _conversation(rng, renderer, recipe, facts)
    rows = [first]
    for _ in range(max(1, recipe.tokens // max(len(first), 32)) - 1):
        if rng.random() < recipe.copying:
            rows.append(repeated_tokens(rng, len(first), vocabulary, weight=recipe.copy_weight))
        else:
            rows.append(_conversation(rng, renderer, recipe, facts))
    return renderer.batch(rows)


def _conversation(rng: random.Random, renderer: Renderer, recipe: BackboneRecipe, facts: int) -> Row:
    shape = Shape(
        facts=facts,
        changed=rng.randint(0, facts) // 3,
        filler=rng.choice((0, 0, 0, 1, 2, 4)),
        unknown=1 + facts // 4,
        acknowledged=rng.choice((0.0, 0.5, 1.0)),
        invented=rng.choice((0.0, 0.0, 0.0, 1.0)),
        mixed=float(rng.random() < recipe.mixed),
    )
    conversation = converse(rng, crowded(rng, shape, recipe.crowded))
    if rng.random() < 0.35:
        row = renderer.messages([records_message(rng, conversation)])
    else:
        row = renderer.messages(conversation.messages)
    questions = list(conversation.questions)
    rng.shuffle(questions)
    for question in questions:
        extend(row, renderer.exchange(question))
    return row


def _recalled(rng: random.Random, renderer: Renderer, recipe: BackboneRecipe) -> Batch:
    """Questions after up to ten records about the same subject or attribute, of which one answers, or none.

    The conversation is far longer than the records given.
    """
    rows: list[Row] = []
    tokens = 0
    while tokens < recipe.tokens:
        shape = Shape(
            facts=rng.randint(8, 40),
            changed=rng.choice((0, 4, 8)),
            filler=4,
            unknown=3,
            acknowledged=0.0,
            mixed=float(rng.random() < recipe.mixed),
        )
        conversation = converse(rng, crowded(rng, shape, 0.7))
        for question in rng.sample(conversation.questions, 6):
            found = rng.random() < 0.85
            row = renderer.messages(
                [recalled_message(rng, conversation, question, keep=rng.randint(1, 10), found=found)]
            )
            extend(row, renderer.exchange(question if found else replace(question, answer=UNKNOWN)))
            rows.append(row)
            tokens += len(row)
    return renderer.batch(rows)
