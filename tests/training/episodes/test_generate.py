"""Generated episodes: the same everywhere, held out where they should be, and answerable from what was told."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from deltamem_agents.errors import ConfigError
from deltamem_agents.recall import HEADER
from deltamem_agents.training.episodes import (
    UNKNOWN,
    Episode,
    HeldOut,
    Mixture,
    Question,
    draw_episode,
    generate,
    read_episodes,
    write_episodes,
)
from deltamem_agents.training.episodes.attributes import attributes, choices
from deltamem_agents.training.episodes.subjects import KINDS
from deltamem_agents.training.episodes.vocabulary import is_held_out, table

DRAWS = 1500
FACTS = Mixture(ruled=0.0, unrelated=0.0)
EVERYTHING = HeldOut(values=True, names=True, attributes=True, phrasings=True)


def drawn(mixture: Mixture, count: int = DRAWS, seed: int = 11) -> list[Episode]:
    return list(islice(generate(seed, mixture), count))


@pytest.fixture(scope="module")
def seen() -> list[Episode]:
    return drawn(FACTS)


@pytest.fixture(scope="module")
def unseen() -> list[Episode]:
    return drawn(Mixture(ruled=0.0, unrelated=0.0, held_out=EVERYTHING))


def text_of(episode: Episode, question: Question | None = None) -> str:
    """All that the model is given: what was told, and the records in the question's prompt."""
    prompt = question.messages[:-1] if question else ()
    return "\n".join(message["content"] for message in (*episode.messages, *prompt))


def stated(question: Question) -> bool:
    return question.kind.split()[0] in ("stated", "changed")


def test_equal_seeds_give_equal_episodes_whatever_was_drawn_before() -> None:
    assert drawn(Mixture(), 40) == drawn(Mixture(), 40)
    assert drawn(Mixture(), 40) != drawn(Mixture(), 40, seed=12)
    assert draw_episode(11, 17, Mixture()) == drawn(Mixture(), 18)[17]
    assert list(islice(generate(11, start=1, step=3), 3)) == [draw_episode(11, place, Mixture()) for place in (1, 4, 7)]


@pytest.mark.slow  # imports torch in a process of its own
def test_another_process_draws_the_same(tmp_path: Path) -> None:
    program = (
        "import sys; from itertools import islice\n"
        "from deltamem_agents.training.episodes import generate, write_episodes\n"
        "write_episodes(sys.argv[1], islice(generate(11), 40))"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "there.jsonl")],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        timeout=120,
    )
    assert list(read_episodes(tmp_path / "there.jsonl")) == drawn(Mixture(), 40)


def test_generated_episodes_survive_a_file(tmp_path: Path) -> None:
    episodes = drawn(Mixture(), 200)
    assert write_episodes(tmp_path / "episodes.jsonl", episodes) == 200
    assert list(read_episodes(tmp_path / "episodes.jsonl")) == episodes


@pytest.mark.parametrize("episodes", ["seen", "unseen"])
def test_a_stated_answer_stands_in_what_was_told(episodes: str, request: pytest.FixtureRequest) -> None:
    for episode in request.getfixturevalue(episodes):
        for question in episode.questions:
            if stated(question):
                assert question.answer in text_of(episode, question), (episode, question)


def test_a_changed_fact_is_asked_with_its_last_value(seen: list[Episode]) -> None:
    changed = [(e, q) for e in seen for q in e.questions if q.kind == "changed"]
    assert len(changed) > 200
    for episode, question in changed:
        said = [message["content"] for message in episode.messages]
        assert question.answer in [text for text in said if question.answer in text][-1]


def test_an_unknown_question_has_no_answer_in_what_was_told(seen: list[Episode]) -> None:
    unknown = [(e, q) for e in seen for q in e.questions if q.kind.startswith("unknown")]
    assert len(unknown) > 0.1 * sum(len(e.questions) for e in seen)
    for episode, question in unknown:
        assert question.answer == UNKNOWN
        assert UNKNOWN not in text_of(episode, question)
        same = [q for q in episode.questions if q.messages[-1] == question.messages[-1] and stated(q)]
        assert all("read" in question.kind for _ in same)  # only records that lack it may leave a told fact unknown


def test_records_have_the_form_that_recall_gives(seen: list[Episode]) -> None:
    read = [q for e in seen for q in e.questions if q.kind.endswith(" read")]
    assert len(read) > 0.3 * sum(len(e.questions) for e in seen)
    for question in read:
        records, asked = question.messages
        lines = records["content"].splitlines()
        body = lines[1:] if lines[0].startswith("Memory suggests: ") else lines
        assert records["role"] == "system" and asked["role"] == "user"
        assert not body or body[0] == HEADER
        assert all(re.match(r"- (user|assistant): \S", line) for line in body[1:])
    assert any("(until " in q.messages[0]["content"] for q in read)
    assert any(q.answer == UNKNOWN for q in read) and any(stated(q) for q in read)


def test_reading_episodes_write_nothing_and_bring_all_in_their_records() -> None:
    episodes = drawn(Mixture(reading=1.0, ruled=0.0, unrelated=0.0), 200)
    assert all(not episode.sessions for episode in episodes)
    for episode in episodes:
        for question in episode.questions:
            assert not stated(question) or question.answer in question.messages[0]["content"]


def test_values_in_training_and_evaluation_are_disjoint(seen: list[Episode], unseen: list[Episode]) -> None:
    trained = {q.answer for e in seen for q in e.questions if stated(q)}
    kept = {q.answer for e in unseen for q in e.questions if stated(q)}
    assert len(trained) > 3000 and len(kept) > 2000
    assert not {value.casefold() for value in trained} & {value.casefold() for value in kept}
    assert not any(map(is_held_out, trained)) and all(map(is_held_out, kept))


def test_phrasings_and_attributes_in_training_and_evaluation_are_disjoint() -> None:
    for kind in KINDS:
        trained, kept = choices(kind, held_out=False), choices(kind, held_out=True)
        assert trained and kept and not {each.noun for each in trained} & {each.noun for each in kept}
        assert len({each.noun for each in attributes(kind)}) == len(attributes(kind))
        for attribute in attributes(kind):
            for phrases in (attribute.clauses, attribute.questions):
                own, plain = phrases()
                other_own, other_plain = phrases(held_out=True)
                assert own and plain and other_plain
                assert not set(own) & set(other_own) and not set(plain) & set(other_plain)


def test_names_in_evaluation_were_never_in_training() -> None:
    """Questions of evaluation that name a subject name one whose own name no training episode has."""
    mixture = Mixture(ruled=0.0, unrelated=0.0, filler=(0, 0), held_out=HeldOut(names=True))
    names = {
        name
        for episode in drawn(mixture, 300)
        for question in episode.questions
        for name in re.findall(r"\b(?:Mr|Mrs|Ms|Dr|Professor) [A-Z]\w+", question.messages[-1]["content"])
    }
    assert len(names) > 20
    training = " ".join(text_of(episode) for episode in drawn(Mixture(ruled=0.0, filler=(0, 0), unrelated=0.0)))
    assert not [name for name in names if re.search(rf"\b{name}\b", training)]


def test_vocabulary_is_open(seen: list[Episode]) -> None:
    answers = [q.answer for e in seen for q in e.questions if stated(q)]
    assert len(set(answers)) > 0.75 * len(answers)
    assert sum(len(table("attributes.toml")[kind]) for kind in table("attributes.toml")) >= 100
    told = [message["content"] for e in seen for message in e.messages if message["role"] == "user"]
    assert len(set(told)) > 0.9 * len(told)


def test_no_template_shows(seen: list[Episode], unseen: list[Episode]) -> None:
    for episode in (*seen, *unseen):
        for message in (*episode.messages, *(m for q in episode.questions for m in q.messages)):
            text = message["content"]
            assert not re.search(
                r"[{}|]|~(?!/)|\b[Aa] [aio]\w+|\b[Aa]n (?!hour|honest)[bcdfghjklmnpqrstvwxyz]|\bI (?:is|has|does)\b|  ",
                text,
            ), text
            assert text[:1].isupper() or not text[:1].isalpha() or message["role"] == "system", text


def test_sizes_are_kept() -> None:
    large = drawn(Mixture(ruled=0.0, facts=(64, 64), sessions=(5, 5), filler=(30, 30), questions=10), 3)
    for episode in large:
        assert len(episode.sessions) in (0, 5)
        assert len([q for q in episode.questions if stated(q)]) <= 10
        assert not episode.sessions or len(episode.messages) > 80


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"facts": 3}, "facts is 3"),
        ({"facts": (3, 1)}, "upper end of facts is 1"),
        ({"facts": (-1, 1)}, "lower end of facts is -1"),
        ({"filler": (0, 5000)}, "filler"),
        ({"changed": 1.5}, "changed is 1.5"),
        ({"unknown": True}, "unknown"),
        ({"records": float("nan")}, "records is nan"),
        ({"questions": 0}, "questions is 0"),
        ({"held_out": True}, "held_out"),
    ],
)
def test_a_mixture_out_of_range_is_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Mixture(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "said"), [({"seed": -1}, "seed"), ({"step": 0}, "step"), ({"mixture": "x"}, "mixture")]
)
def test_generate_refuses_at_once(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        generate(**{"seed": 1, **given})  # type: ignore[arg-type]


def test_generating_is_fast() -> None:
    next(generate(1))  # reads the word lists
    started = time.process_time()
    drawn(Mixture(), 300)
    assert 300 / (time.process_time() - started) > 300


def test_the_examples_of_the_documentation_are_what_is_drawn() -> None:
    page = Path(__file__).parents[3] / "docs" / "training.md"
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tried >= 6 and not failed
