"""Generated facts among ten times as many messages of small talk, asked about in six ways.

Facts are held out (their triples were not trained on). "none" is the plain backbone with nothing in context; "history"
has as much of the conversation in context as fits the window, newest first. The others are modes of `recall`, with at
most 10 records and 128 tokens; "preload" is "hybrid" with the records written into a scratch state. Only an exact match
counts as right; "nothing known" counts as no answer.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from deltamem_agents.engine import Sampling
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.answering import ask, preload
from deltamem_agents.memory.async_methods import run
from deltamem_agents.memory.prompting import newest_that_fit
from deltamem_agents.recall import current, knows_nothing
from deltamem_agents.training.calibrate import BUDGET, RECORDS, tell
from deltamem_agents.training.conversations import Conversation, Question, Shape, converse

Advance = Callable[[str, int, int], None]  # text, number done, total number

MODES = ("none", "state", "vector", "hybrid", "preload", "history")
CONVERSATIONS: Mapping[int, int] = {1: 32, 2: 24, 4: 12, 8: 6, 16: 4, 32: 3, 64: 1, 128: 1, 256: 1}  # by facts
TURNS = 5  # turns of small talk per fact, of two messages each
HISTORIES = 24  # questions per size with the whole history in context, which takes seconds each
WINDOW = 4096  # limit on the tokens of history


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its result.

    Args:
        kind: "stated", "changed", or "unknown" for what was never said.
        said: What the backbone said, whether or not it was believed; None if it said that it does not know.
        answered: Whether that was returned as an answer.
        confidence: NaN for modes without confidence.
        context_tokens: Tokens of records or history.
    """

    facts: int
    mode: str
    kind: str
    said: str | None
    right: bool
    answered: bool
    confidence: float
    context_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The figures of one mode at one number of facts.

    Args:
        right: Share of questions about what was said that are answered right.
        withheld: Share of questions about what was said that got no answer.
        silent: Share of questions about what was never said that got no answer.
        context_tokens: Mean over the questions.
        most_context_tokens: Maximum over the questions.
        seconds: Median over the questions.
    """

    facts: int
    changed: int
    mode: str
    questions: int
    right: float
    withheld: float
    unknown_questions: int
    silent: float
    context_tokens: float
    most_context_tokens: int
    seconds: float


def converse_about(facts: int, changed: int = 0, *, seed: int) -> Conversation:
    """A conversation of facts, some changed later, among small talk, in sessions of eight facts."""
    shape = Shape(
        facts=facts,
        changed=changed,
        filler=TURNS * facts,
        unknown=min(64, max(8, facts)),
        sessions=max(1, facts // 8),
        held_out=True,
    )
    return converse(random.Random(seed), shape)


def measure(
    mem: DeltaMem,
    facts: int,
    conversations: int,
    *,
    changed: int = 0,
    modes: Sequence[str] = MODES,
    seed: int = 7,
    progress: Advance = lambda *_: None,
) -> list[Asked]:
    """Write each conversation to its own agent, and ask all its questions in every mode."""
    asked: list[Asked] = []
    for number in range(conversations):
        agent = mem.agent(f"{facts} facts, {changed} changed, {number}")
        progress(f"{facts} facts: telling", number, conversations)
        conversation = converse_about(facts, changed, seed=seed * 1_000 + facts * 10_000 + number)
        tell(agent, conversation)
        for mode in modes:
            progress(f"{facts} facts: asking, {mode}", number, conversations)
            questions: Sequence[Question] = conversation.questions
            if mode == "history":
                some = max(1, HISTORIES // conversations)
                questions = random.Random(number).sample(questions, min(some, len(questions)))
            asked += [_asked(mem, agent, conversation, facts, mode, each) for each in questions]
        agent.delete()
    return asked


def scores(asked: Sequence[Asked], changed: int = 0) -> Iterator[Score]:
    """The figures of each mode and number of facts; if some facts were changed, about these only."""
    for facts, mode in dict.fromkeys((each.facts, each.mode) for each in asked):
        of = [each for each in asked if (each.facts, each.mode) == (facts, mode)]
        said = [each for each in of if each.kind == ("changed" if changed else "stated")]
        unsaid = [each for each in of if each.kind == "unknown"]
        yield Score(
            facts=facts,
            changed=changed,
            mode=mode,
            questions=len(said),
            right=_share([each.answered and each.right for each in said]),
            withheld=_share([not each.answered for each in said]),
            unknown_questions=len(unsaid),
            silent=_share([not each.answered for each in unsaid]),
            context_tokens=statistics.fmean(each.context_tokens for each in of),
            most_context_tokens=max(each.context_tokens for each in of),
            seconds=statistics.median(each.seconds for each in of),
        )


def _asked(
    mem: DeltaMem, agent: AgentMemory, conversation: Conversation, facts: int, mode: str, question: Question
) -> Asked:
    started = time.perf_counter()
    confidence, tokens = float("nan"), 0
    if mode in ("none", "history"):
        said, tokens = _in_context(mem, conversation if mode == "history" else None, question.text)
        answered = not knows_nothing(said)
    else:
        # As in `recall`, which does not say what it withholds.
        records, scratch = "", None
        if mode != "state":
            kind = "vector" if mode == "vector" else "hybrid"
            recalled = agent.recall(question.text, mode=kind, k=RECORDS, budget=BUDGET, generate=False)
            if mode != "preload":
                records = mem.backbone.form.text(current(recalled.records), "")
            elif recalled.records:
                scratch = run(preload(mem.engine, None, recalled.records))
        folded = None if mode == "vector" else mem.runtime.folder.current(agent.id)
        found = run(ask(mem.engine, question.text, records, folded, scratch))
        said, answered, confidence = found.generation.text, found.text is not None, found.confidence
        tokens = mem.engine.count(records)
    return Asked(
        facts=facts,
        mode=mode,
        kind=question.kind,
        said=None if knows_nothing(said) else said,
        right=said == question.answer,
        answered=answered,
        confidence=confidence,
        context_tokens=tokens,
        seconds=time.perf_counter() - started,
    )


def _in_context(mem: DeltaMem, conversation: Conversation | None, question: str) -> tuple[str, int]:
    """What the backbone alone says, and how many tokens of history it got."""
    rendering = mem.engine.rendering
    history = [{"role": r, "content": t} for m in conversation.sessions for r, t in m] if conversation else []
    messages = [*history, {"role": "user", "content": question}]
    room = min(mem.engine.window, WINDOW) - 32
    kept = newest_that_fit(messages, lambda chosen: len(rendering.prompt(chosen, None)) <= room)
    prompt = rendering.prompt(kept, None)
    said = mem.engine.generate(prompt, sampling=Sampling(max_tokens=16)).result().text
    return said, len(prompt) - len(rendering.prompt(messages[-1:], None))


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values) if values else float("nan")
