"""The generated conversations: what is held out stays out, what is asked was said, and the same seed says the same."""

from __future__ import annotations

import random

import pytest

from deltamem_agents import tiny
from deltamem_agents.training.batches import Renderer, extend
from deltamem_agents.training.conversations import UNKNOWN, Shape, converse
from deltamem_agents.training.domain import KEYS, PEOPLE, Fact


def every_fact() -> list[Fact]:
    return [Fact(subject, attribute, value) for subject, attribute in KEYS for value in attribute.values]


def test_there_are_many_keys_and_each_has_something_held_out() -> None:
    assert len({(subject, attribute.noun) for subject, attribute in KEYS}) == len(KEYS) >= 300
    facts = every_fact()
    assert {fact.key for fact in facts if fact.held_out} == {fact.key for fact in facts}
    assert 0.05 < sum(fact.held_out for fact in facts) / len(facts) < 0.15
    assert all(len(set(attribute.values)) == len(attribute.values) >= 10 for _, attribute in KEYS)


@pytest.mark.parametrize("held_out", [False, True])
def test_training_never_says_what_evaluation_asks(held_out) -> None:
    rng = random.Random(3)
    for _ in range(200):
        conversation = converse(rng, Shape(facts=6, changed=3, unknown=2, held_out=held_out))
        stated = [question.fact for question in conversation.questions if question.kind != "unknown"]
        assert all(fact.held_out == held_out for fact in stated)
        if not held_out:
            text = " ".join(content for _, content in conversation.messages)
            assert all(fact.value in text for fact in stated)


def test_a_corrected_fact_is_said_twice_and_asked_with_the_last_value() -> None:
    conversation = converse(random.Random(5), Shape(facts=1, changed=1, acknowledged=0.0))
    (question,) = conversation.questions
    first, last = [content for _, content in conversation.messages]
    assert question.kind == "changed"
    assert question.answer in last and question.answer not in first.split()


def test_unknown_questions_are_about_what_was_never_said() -> None:
    rng = random.Random(7)
    for _ in range(50):
        conversation = converse(rng, Shape(facts=5, unknown=3))
        stated = {question.fact.key for question in conversation.questions if question.kind == "stated"}
        unknown = [question for question in conversation.questions if question.kind == "unknown"]
        assert len(unknown) == 3 and all(question.answer == UNKNOWN for question in unknown)
        assert not stated & {question.fact.key for question in unknown}


def test_the_same_seed_says_the_same_and_sessions_split_it() -> None:
    shape = Shape(facts=6, filler=3, sessions=3)
    one, other = (converse(random.Random(11), shape) for _ in range(2))
    assert one == other and len(one.sessions) == 3
    with_filler = converse(random.Random(11), Shape(facts=2, filler=4, filler_last=True, acknowledged=0.0))
    assert all(question.answer in str(with_filler.messages[:2]) for question in with_filler.questions)


def test_phrases_are_grammatical() -> None:
    by_key = {fact.key: fact for fact in every_fact()}
    assert by_key["me", "dog"].statement(1).startswith("I have a dog called")
    assert by_key["Mara", "dog"].statement(1).startswith("Mara has a dog called")
    assert by_key["Mara", "home town"].question(1) == "Where does Mara live?"
    assert by_key["me", "home town"].question(1) == "Where do I live?"
    assert by_key["api", "database"].question(1) == "Which database does the api repository use?"
    jobs = [fact for fact in every_fact() if fact.key == ("me", "job")]
    assert {f"I work as {'an' if fact.value[0] in 'aeiou' else 'a'} {fact.value}." for fact in jobs} == {
        fact.statement(1) for fact in jobs
    }


def test_names_and_values_are_single_tokens_of_the_bundled_tokenizer() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER)
    words = {fact.value for fact in every_fact()} | set(PEOPLE)
    split = [word for word in words if len(tokenizer.encode(word, add_special_tokens=False)) > 1]
    assert len(split) / len(words) < 0.01


def test_the_trainer_renders_as_the_product_does() -> None:
    from transformers import AutoTokenizer

    from deltamem_agents.engine import Rendering

    tokenizer = AutoTokenizer.from_pretrained(tiny.FOLDER)
    renderer, rendering = Renderer(tokenizer), Rendering(tokenizer)
    conversation = converse(random.Random(1), Shape(facts=3, filler=2))
    for role, content in conversation.messages:
        assert renderer.message(role, content).ids == rendering.message(role, content)
    question = conversation.questions[0]
    row = renderer.exchange(question)
    prompt = rendering.question(question.text)
    assert row.ids[: len(prompt)] == prompt
    assert [token for token, weight in zip(row.ids, row.weights, strict=True) if weight >= 1] == row.ids[len(prompt) :]
    padded = renderer.batch([row, renderer.message("user", "Hi.")], left=True)
    assert padded.mask[:, -1].all() and not padded.mask[1, 0]
    extended = renderer.message("user", "Hi.")
    extend(extended, row)
    assert len(extended) == len(row) + len(renderer.message("user", "Hi."))
