"""Standing rules: told once, followed by the reference reply alone, and asked for without a word in common."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from deltamem_agents.training.episodes import Episode, HeldOut, Mixture, Question, generate
from deltamem_agents.training.episodes.requests import FAMILIES, Form, draw_request
from deltamem_agents.training.episodes.rules import (
    KINDS,
    NEVER_TRAINED,
    QUIET,
    Rule,
    content_words,
    draw_rule,
    draw_rules,
    form_of,
    reply_to,
    request_beside,
    request_for,
)
from deltamem_agents.training.episodes.vocabulary import table

RULED = Mixture(ruled=1.0, ruled_facts=(0, 0), filler=(0, 2))


def told_rules(rng: random.Random, kind: str, *, held_out: bool, count: int = 60) -> list[Rule]:
    return [draw_rule(rng, KINDS[kind], held_out=held_out) for _ in range(count)]


def rule_questions(episodes: list[Episode]) -> list[Question]:
    return [q for e in episodes for q in e.questions if q.kind.startswith("rule ")]


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_reply_follows_a_rule_and_the_base_reply_does_not(kind: str, held_out: bool) -> None:
    rng = random.Random(5)
    for rule in told_rules(rng, kind, held_out=held_out):
        request = request_for(rng, rule, [rule], held_out=held_out)
        assert request is not None, rule.told
        assert rule.checker.accepts(reply_to(request, [rule]))
        assert not rule.checker.accepts(request.reply(Form()))
        assert "{" not in rule.told and rule.told[-1] in ".!?'\"", rule.told


def test_no_request_shares_a_content_word_with_the_rule_it_tests() -> None:
    rng = random.Random(6)
    drawn = 0
    while drawn < 3000:
        rules = draw_rules(rng, 1 + int(rng.random() * 8), held_out=rng.random() < 0.5)
        for rule in rules:
            request = request_for(rng, rule, rules)
            if request is not None:
                drawn += 1
                assert not content_words(rule.told) & content_words(request.text), (rule.told, request.text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Never mention pears.", {"mention", "pear"}),
        ("Indent with two spaces, please.", {"indent", "spac"}),
        ("Please write names in camel case.", {"writ", "nam", "camel", "cas"}),
        ("What is it?", set()),
    ],
)
def test_content_words_are_those_that_are_not_grammar(text: str, words: set[str]) -> None:
    assert content_words(text) == words


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_rules_told_together_do_not_contradict(count: int) -> None:
    rng = random.Random(7)
    followed = Counter[str]()
    for _ in range(150):
        rules = draw_rules(rng, count)
        assert len({rule.kind.name for rule in rules}) == len(rules) == count
        for rule in rules:
            request = request_for(rng, rule, rules)
            assert request is not None, [each.told for each in rules]
            reply = reply_to(request, rules)
            for other in rules:  # all that bear on this reply hold at once
                if other.bears_on(request):
                    followed[other.kind.name] += 1
                    assert other.checker.accepts(reply), (other.told, request.text, reply)
    assert set(followed) == set(KINDS) - set(NEVER_TRAINED) or count == 1


def test_a_request_beside_the_rules_is_answered_as_if_there_were_none() -> None:
    rng = random.Random(8)
    found = 0
    for _ in range(500):
        rules = draw_rules(rng, 1 + int(rng.random() * 4))
        request = request_beside(rng, rules)
        if request is not None:
            found += 1
            assert reply_to(request, rules) == request.reply(Form())
            assert not any(request.family in rule.kind.families for rule in rules)
    assert found > 200


def test_of_two_rules_of_a_kind_the_later_one_holds() -> None:
    rng = random.Random(9)
    first = draw_rule(rng, KINDS["address"])
    second = draw_rule(rng, KINDS["address"], unlike=first)
    assert form_of([first, second]).address == second.value != first.value
    episodes = list(islice(generate(3, Mixture(ruled=1.0, ruled_facts=(0, 0), changed=1.0, rules=(1, 1))), 300))
    told_twice = 0
    for episode in episodes:
        for question in episode.questions:
            if question.kind.startswith("rule address"):
                told_twice += 1
                assert question.checker is not None and question.accepts(question.answer)
                users = [m["content"] for m in episode.messages if m["role"] == "user"]
                name = question.checker.to_json()["text"]
                assert name in [text for text in users if name in text][-1]
    assert told_twice > 5


def test_wordings_parameters_and_requests_of_evaluation_are_never_trained() -> None:
    rng = random.Random(10)
    for kind in KINDS:
        trained, kept = (told_rules(rng, kind, held_out=held_out, count=150) for held_out in (False, True))
        assert not {rule.told for rule in trained} & {rule.told for rule in kept}
        if kind in ("address", "avoid", "ending", "beginning", "command"):
            assert not {rule.value for rule in trained} & {rule.value for rule in kept}
    requests = [{draw_request(rng, held_out=held_out).text for _ in range(2000)} for held_out in (False, True)]
    assert not requests[0] & requests[1]
    assert all(len(table("rules.toml")["tellings"][kind]) >= 5 for kind in KINDS)


def test_kinds_kept_from_training_are_told_only_on_demand() -> None:
    trained = {q.kind.split()[1] for q in rule_questions(list(islice(generate(4, RULED), 600)))}
    assert trained == set(KINDS) - set(NEVER_TRAINED)
    unseen = Mixture(ruled=1.0, rules=(1, 1), held_out=HeldOut(kinds=True))
    assert {q.kind.split()[1] for q in rule_questions(list(islice(generate(4, unseen), 100)))} == set(NEVER_TRAINED)


def test_every_rule_question_is_satisfied_by_its_answer_and_carries_its_checker() -> None:
    questions = rule_questions(list(islice(generate(5, RULED), 500)))
    assert len(questions) > 900
    for question in questions:
        assert question.checker is not None and question.accepts(question.answer)
        assert question.reference == "answer"
    pinned = [q for q in questions if q.kind.endswith(" read")]
    assert 0.04 < len(pinned) / len(questions) < 0.2
    assert all(len(q.messages) == 2 for q in pinned)


def test_facts_are_asked_only_where_no_rule_bears_on_the_answers() -> None:
    episodes = islice(generate(6, Mixture(ruled=1.0, ruled_facts=(1, 3))), 400)
    asked = 0
    for episode in episodes:
        kinds = {q.kind.split()[1] for q in episode.questions if q.kind.startswith("rule ")}
        facts = [q for q in episode.questions if q.kind.split()[0] in ("stated", "changed", "unknown")]
        asked += len(facts)
        assert not facts or kinds <= set(QUIET)
    assert asked > 50


def test_rules_come_before_the_rest_unless_told_anywhere() -> None:
    first = Mixture(ruled=1.0, rules=(1, 1), rules_anywhere=0.0, changed=0.0, filler=(5, 5), ruled_facts=(3, 3))
    tellings = table("rules.toml")["tellings"]
    for episode in islice(generate(7, first), 60):
        [kind] = {q.kind.split()[1] for q in episode.questions if q.kind.startswith("rule ")} or {""}
        if kind:
            starts = [each.split("{x}")[0].strip("'\"` ") for each in tellings[kind]]
            said = episode.messages[0]["content"]
            assert any(start in said for start in starts)


def test_unrelated_questions_ask_for_what_the_backbone_says_anyway() -> None:
    unrelated = [
        q for e in islice(generate(8, Mixture(unrelated=1.0)), 300) for q in e.questions if q.kind == "unrelated"
    ]
    assert len(unrelated) > 200
    assert all(q.reference == "backbone" and q.answer and len(q.messages) == 1 for q in unrelated)
    again = {q.messages[0]["content"]: q.answer for q in unrelated}
    assert all(again[q.messages[0]["content"]] == q.answer for q in unrelated)


def test_every_family_of_requests_has_a_short_reply() -> None:
    rng = random.Random(11)
    for family in FAMILIES:
        for _ in range(100):
            request = draw_request(rng, [family])
            assert request.family == family and 1 <= len(request.reply(Form()).split()) <= 16
            assert "{" not in request.text + request.reply(Form())
