"""Ask the backbone from memory, and tell which part of memory an answer came from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from deltamem_agents.engine import Engine, Generation, Sampling
from deltamem_agents.memory.folding import Folded, under
from deltamem_agents.memory.results import Source

ANSWER_TOKENS = 32
SUPPORT = 0.1  # a part of memory supports an answer if it raises its probability by at least this much


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer, where it came from, and how sure memory is of it."""

    generation: Generation
    source: Source
    confidence: float


def ask(engine: Engine, query: str, records: str, folded: Folded | None) -> Answer:
    """Answer a query from a state, from records, or from both.

    The answer is scored again with each part of memory taken away, in one batched forward: its source is what raised
    its probability, its confidence by how much all of memory did.

    Args:
        records: What `recall_text` made of them; empty for none.
        folded: The state; None for the zero state.
    """
    with_records = engine.rendering.question(query, records)
    bare = engine.rendering.question(query) if records else with_records
    sampling = Sampling(max_tokens=min(ANSWER_TOKENS, max(1, engine.window - len(with_records))))
    generation = engine.generate(with_records, *under(folded), sampling=sampling).result()
    if not generation.ids:
        return Answer(generation, "neither", 0.0)
    state = folded.state if folded else None
    scores = engine.score(
        [(with_records, state), (bare, state), (with_records, None), (bare, None)], generation.ids
    ).result()
    both, by_state, by_records, nothing = (math.exp(score) for score in scores)
    return Answer(generation, _source(by_state - nothing, by_records - nothing), min(1.0, max(0.0, both - nothing)))


def _source(from_state: float, from_records: float) -> Source:
    if from_state >= SUPPORT and from_records >= SUPPORT:
        return "both"
    if from_records >= SUPPORT:
        return "records"
    return "state" if from_state >= SUPPORT else "neither"
