"""Adapters that were trained to write while answering: served as trained, on a scratch copy of the agent's state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from deltamem_agents import DeltaMem
from deltamem_agents.core import Attached, State, attach
from deltamem_agents.engine import AgentKey, Cancellation, Engine, Limits, Loaded, Sampling, Segment, cut, load

COLOURS = ("red", "blue", "green", "teal", "black", "white")
QUESTIONS = ("What is my favourite colour?", "Tell me what I like, what I wear and where I live, please.", "Hello")
pytestmark = pytest.mark.bundled

LONG = Sampling(max_tokens=16)
STRONG = 192.0  # α at which a single token that is not written changes an answer


@dataclass
class Said:
    position: int
    text: str
    session: str = "s"
    role: str = "user"


def loaded(**config: Any) -> Loaded:
    """The bundled model, with its adapter's config changed."""
    found = load("tiny")
    changed = replace(found.adapter.config, **config)
    for each in (found.adapter, *found.adapter.layers.values()):
        each.config = changed  # type: ignore[assignment]
    return found


def opened(found: Loaded, **limits: int) -> Engine:
    return Engine(found, limits=Limits(**({"chunk": 16, "batch": 512, "rows": 8} | limits)))


@pytest.fixture(scope="module", params=["token", "sentence"])
def write(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(write: str) -> Iterator[Engine]:
    made = opened(loaded(answer_writes=True, write=write, alpha=STRONG))
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain(write: str) -> Iterator[Attached]:
    """The same backbone and adapter without an engine."""
    found = loaded(answer_writes=True, write=write, alpha=STRONG)
    attached = attach(found.model, found.adapter)
    yield attached
    attached.detach()


def segments(engine: Engine, *texts: str) -> list[Segment]:
    said = [Said(i + 1, text) for i, text in enumerate(texts)]
    return list(cut(said, engine.rendering, engine.config.write_length))


def told(engine: Engine, colour: str) -> State:
    return engine.fold(None, segments(engine, f"My favourite colour is {colour}. I wear it daily.")).result()[-1]


@torch.inference_mode()
def by_hand(attached: Attached, prompt: list[int], state: State | None, most: int = 16) -> tuple[int, ...]:
    """The greedy answer of a plain loop that writes every token it runs."""
    batched = None if state is None else {name: each.unsqueeze(0) for name, each in state.items()}
    end = attached.model.generation_config.eos_token_id  # type: ignore[union-attr]
    cache, ids, answer = DynamicCache(), prompt, list[int]()
    with attached.bind(batched, write=True):
        while len(answer) < most and end not in answer[-1:]:
            logits = attached.model(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True).logits
            ids = [int(logits[0, -1].argmax())]
            answer += ids
    return tuple(answer)


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def key(agent: str) -> tuple[AgentKey, int]:
    return AgentKey("db", agent, 1), 1


def test_answers_are_those_of_a_plain_loop_that_writes(engine: Engine, plain: Attached) -> None:
    for state in (None, told(engine, "red"), told(engine, "teal")):
        for question in QUESTIONS:
            prompt = engine.rendering.question(question)
            assert engine.generate(prompt, state, sampling=LONG).result().ids == by_hand(plain, prompt, state)


def test_an_adapter_without_it_still_reads_only(engine: Engine) -> None:
    reading = opened(loaded(write=engine.config.write, alpha=STRONG))
    try:
        state, differ = told(reading, "red"), False
        attached = loaded(write=engine.config.write, alpha=STRONG)
        bound = attach(attached.model, attached.adapter)
        for question in QUESTIONS:
            prompt = reading.rendering.question(question)
            answer = reading.generate(prompt, state, sampling=LONG).result().ids
            batched = {name: each.unsqueeze(0) for name, each in state.items()}
            with bound.bind(batched), torch.inference_mode():
                ids = torch.tensor([prompt])
                wanted = bound.model.generate(  # type: ignore[operator]
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16, pad_token_id=0
                )
            assert answer == tuple(wanted[0, len(prompt) :].tolist())
            differ |= answer != engine.generate(prompt, state, sampling=LONG).result().ids
        assert differ, "these questions do not tell writing from reading"
        bound.detach()
    finally:
        reading.close()


def test_neighbours_change_nothing_and_share_no_scratch_copy(engine: Engine, plain: Attached) -> None:
    """Several requests of one agent, by one key, and others: each writes into a copy of its own."""
    states = {colour: told(engine, colour) for colour in COLOURS}
    before = {colour: {name: each.clone() for name, each in state.items()} for colour, state in states.items()}
    asked = [(colour, question) for question in QUESTIONS for colour in (*COLOURS, "red", "blue")]
    hold = engine.fold(None, segments(engine, "x " * 40))  # so that they come to run together
    answers = [
        engine.generate(engine.rendering.question(question), states[colour], key(colour), sampling=LONG)
        for colour, question in asked
    ]
    hold.result()
    for (colour, question), answer in zip(asked, answers, strict=True):
        assert answer.result().ids == by_hand(plain, engine.rendering.question(question), states[colour])
    assert all(same(states[colour], before[colour]) for colour in COLOURS)
    assert engine.stats().slots_used == 0


def test_a_small_pool_and_a_failing_step_change_nothing(write: str, plain: Attached) -> None:
    """Interrupted rows begin again from the state, not from what the interrupted answer had written."""
    found = loaded(answer_writes=True, write=write, alpha=STRONG)
    failures = 0

    def little_memory(module: object, args: object, kwargs: dict[str, Any]) -> None:
        nonlocal failures
        if kwargs["input_ids"].shape == (3, 1) or kwargs["input_ids"].shape[0] > 3:
            failures += 1
            raise torch.OutOfMemoryError("no room")

    small = opened(found, slots=3)
    try:
        states = {colour: told(small, colour) for colour in COLOURS}
        hook = found.model.register_forward_pre_hook(little_memory, with_kwargs=True)
        prompt = small.rendering.question(QUESTIONS[1])
        answers = {
            colour: small.generate(prompt, state, key(colour), sampling=LONG) for colour, state in states.items()
        }
        for colour, answer in answers.items():
            assert answer.result().ids == by_hand(plain, prompt, states[colour])
        assert failures
        hook.remove()
    finally:
        small.close()


def test_streams_cancels_and_samples(engine: Engine, plain: Attached) -> None:
    state, prompt, pieces = told(engine, "green"), engine.rendering.question(QUESTIONS[1]), list[str]()
    cancellation, gone = Cancellation(), Cancellation()
    gone.cancel()
    cut_short = engine.generate(
        prompt,
        state,
        sampling=Sampling(max_tokens=200, temperature=2.0, seed=1),
        on_text=lambda _: cancellation.cancel(),
        cancellation=cancellation,
    )
    whole = engine.generate(prompt, state, sampling=LONG, on_text=pieces.append)
    never = engine.generate(prompt, state, cancellation=gone)
    assert whole.result().ids == by_hand(plain, prompt, state) and "".join(pieces).strip() == whole.result().text
    assert len(cut_short.result().ids) < 200
    with pytest.raises(CancelledError):
        never.result()
    sampling = Sampling(max_tokens=12, temperature=1.5, seed=11)
    assert len({engine.generate(prompt, state, sampling=sampling).result().ids for _ in range(3)}) == 1
    assert engine.stats().slots_used == 0


@torch.inference_mode()
def test_scores_are_those_under_which_it_answers(engine: Engine, plain: Attached) -> None:
    state, prompt = told(engine, "blue"), engine.rendering.question(QUESTIONS[0])
    answer = by_hand(plain, prompt, state, 6)
    batched = {name: each.unsqueeze(0) for name, each in state.items()}
    with plain.bind(batched, write=True):
        logits = plain.model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    wanted = float(logits.log_softmax(-1).gather(-1, torch.tensor(answer).unsqueeze(-1)).mean())
    other = (engine.rendering.question(QUESTIONS[1]), None)
    assert engine.score([(prompt, state), other], answer).result()[0] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("handover", ["context", "preload", "both"])
def test_what_is_stored_and_the_next_answer_stay(handover: Any) -> None:
    found = loaded(answer_writes=True)
    with DeltaMem.open(model=found.model, tokenizer=found.tokenizer, adapter=found.adapter, url="sqlite://") as mem:
        alice = mem.agent("alice")
        alice.write([{"role": "user", "content": "My favourite colour is red."}], session="s")
        before, question = alice.state(), [{"role": "user", "content": QUESTIONS[0]}]
        first = alice.recall(QUESTIONS[0], handover=handover)
        spoken = alice.generate(question, handover=handover).text
        again = alice.recall(QUESTIONS[0], handover=handover)
        assert (again.answer, again.source, again.confidence) == (first.answer, first.source, first.confidence)
        assert alice.generate(question, handover=handover).text == spoken
        assert same(alice.state(), before)


def test_an_open_segment_goes_on_after_answers(engine: Engine) -> None:
    """Answers between two appends touch neither the hot keys and values nor the state."""
    agent, texts = AgentKey("db", "hot", 1), ("I live in Lisbon.", "My dog is Rex.")
    first = engine.fold(None, segments(engine, texts[0]), open_for=agent).result()[-1]
    engine.generate(engine.rendering.question(QUESTIONS[1]), first, (agent, 1), sampling=LONG).result()
    both = engine.fold(None, segments(engine, *texts), open_for=agent).result()[-1]
    cold = engine.fold(None, segments(engine, *texts)).result()[-1]
    assert all(float((both[name] - cold[name]).norm() / cold[name].norm()) < 1e-5 for name in cold)
