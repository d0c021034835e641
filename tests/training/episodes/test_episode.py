"""Episodes in files: an exact round trip, and a clear error with file and line for every malformed one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltamem_agents.errors import DeltaMemError, EpisodeError
from deltamem_agents.training.episodes import (
    Episode,
    Message,
    Question,
    checker_from_json,
    read_episodes,
    write_episodes,
)
from deltamem_agents.training.episodes.checkers import AllOf, BeginsWith, Checker, Contains, Lacks, MaxWords
from deltamem_agents.training.episodes.episode import LINE_BYTES
from deltamem_agents.training.episodes.formats import DateStyle, Documented, Indentation

GOOD = {"sessions": [[{"role": "user", "content": "Hi"}]], "questions": [{"question": "Who?", "answer": "Rex"}]}
MESSAGE = {"role": "user", "content": "Hi"}
ASKED = {"question": "Who?", "answer": "Rex"}


def told(**changes: object) -> str:
    return json.dumps({**GOOD, **changes})


def asked(**changes: object) -> str:
    return told(questions=[{name: value for name, value in {**ASKED, **changes}.items() if value is not ...}])


BAD = {
    "not JSON": ("{", "JSON"),
    "not UTF-8": (b'{"sessions": "\xff"}', "JSON"),
    "a list": ("[]", "JSON object"),
    "no questions": (told(questions=[]), "no question"),
    "questions missing": (json.dumps({"sessions": []}), "lacks 'questions'"),
    "sessions missing": (json.dumps({"questions": [ASKED]}), "lacks 'sessions'"),
    "sessions is text": (told(sessions="Hi"), "list"),
    "a session is a message": (told(sessions=[MESSAGE]), "list"),
    "an empty session": (told(sessions=[[]]), "no message"),
    "a message is text": (told(sessions=[["Hi"]]), "message 1"),
    "a wrong role": (told(sessions=[[MESSAGE, {"role": "human", "content": "Hi"}]]), "message 2 has role 'human'"),
    "a role that is no text": (told(sessions=[[{"role": ["user"], "content": "Hi"}]]), "role"),
    "no role": (told(sessions=[[{"content": "Hi"}]]), "lacks 'role'"),
    "empty content": (told(sessions=[[{"role": "user", "content": "  "}]]), "content is empty"),
    "content is a number": (told(sessions=[[{"role": "user", "content": 3}]]), "an int"),
    "a lone surrogate": (told(sessions=[[{"role": "user", "content": "\ud800"}]]), "surrogates"),
    "an unknown field of a message": (told(sessions=[[{**MESSAGE, "mood": "gay"}]]), "'mood'"),
    "an unknown field": (told(question=[]), "'question'"),
    "an id that is a number": (told(id=3), "id"),
    "a question is text": (told(questions=["Who?"]), "question 1"),
    "neither question nor messages": (asked(question=...), "'messages'"),
    "both question and messages": (asked(messages=[MESSAGE]), "'messages'"),
    "no messages": (asked(question=..., messages=[]), "user"),
    "last message is not the user's": (asked(question=..., messages=[{"role": "system", "content": "Hi"}]), "user"),
    "an empty question": (asked(question=""), "empty"),
    "no answer": (asked(answer=...), "lacks 'answer'"),
    "an empty answer": (asked(answer=" "), "answer is empty"),
    "an answer that is a list": (asked(answer=["Rex"]), "answer is a list"),
    "a misspelt field": (asked(anwser="Rex"), "'anwser'"),
    "a kind that is no text": (asked(kind=1), "kind"),
    "an unknown reference": (asked(reference="teacher"), "backbone"),
    "held_out is text": (asked(held_out="no"), "held_out"),
    "an unknown checker": (asked(checker={"name": "eval"}), "no checker 'eval'"),
    "a checker without name": (asked(checker="contains"), "name of a checker"),
    "a checker lacks a field": (asked(checker={"name": "contains"}), "lacks a field"),
    "a checker's unknown field": (asked(checker={"name": "contains", "text": "a", "x": 1}), "'x'"),
    "a checker's wrong type": (asked(checker={"name": "contains", "text": 1}), "text of checker"),
    "a checker's empty list": (asked(checker={"name": "lacks", "texts": []}), "texts of checker"),
    "a checker's wrong style": (asked(checker={"name": "dates", "style": "moon"}), "'moon'"),
    "a checker of zero words": (asked(checker={"name": "at most words", "count": 0}), "count"),
    "a checker within a checker": (asked(checker={"name": "all of", "checkers": [{"name": "x"}]}), "no checker"),
    "too deep": ("[" * 200 + "]" * 200, "deep"),
    "too many values": (told(sessions=[[0] * 200_000]), "values"),
    "a number with too many digits": ('{"sessions": ' + "9" * 5000 + "}", "JSON"),
    "too long": (told(id="x" * LINE_BYTES), "longer"),
}


@pytest.mark.parametrize(("line", "said"), BAD.values(), ids=BAD)
def test_a_bad_line_is_named_with_its_file_and_number(line: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    read = read_episodes(path)
    assert next(read).questions[0].answer == "Rex"
    with pytest.raises(EpisodeError) as caught:
        next(read)
    assert isinstance(caught.value, DeltaMemError) and isinstance(caught.value, ValueError)
    assert str(path) in str(caught.value) and "line 3:" in str(caught.value) and said in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_an_episode_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(content)
    with pytest.raises(EpisodeError, match="holds no episode"):
        list(read_episodes(tmp_path / "empty.jsonl"))


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match="cannot read"):
        list(read_episodes(tmp_path / "missing.jsonl"))
    with pytest.raises(EpisodeError, match="cannot read"):
        list(read_episodes(tmp_path))
    with pytest.raises(EpisodeError, match="cannot write"):
        write_episodes(tmp_path / "no" / "such.jsonl", [episode("Hi")])


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    assert write_episodes(path, [episode("Hi")]) == 1
    with pytest.raises(EpisodeError, match="no episode"):
        write_episodes(path, [])
    with pytest.raises(EpisodeError, match="episode 2 takes"):
        write_episodes(path, [episode("Ho"), episode("x" * LINE_BYTES)])
    assert [each.messages[0]["content"] for each in read_episodes(path)] == ["Hi"]
    assert [each.name for each in tmp_path.iterdir()] == ["episodes.jsonl"]


def episode(content: str) -> Episode:
    return Episode(sessions=((Message(role="user", content=content),),), questions=(question("Who?"),))


def question(text: str) -> Question:
    return Question(messages=(Message(role="user", content=text),), answer="Rex")


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).filter(
    str.strip
)
MESSAGES = st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=TEXTS)
CHECKERS: st.SearchStrategy[Checker] = st.one_of(
    st.builds(Contains, text=TEXTS, case=st.booleans()),
    st.builds(BeginsWith, text=TEXTS),
    st.builds(Lacks, texts=st.lists(TEXTS, min_size=1, max_size=3).map(tuple)),
    st.builds(MaxWords, count=st.integers(1, 99)),
    st.builds(DateStyle, style=st.sampled_from(["iso", "dots"])),
    st.builds(Indentation, unit=st.sampled_from(["tab", "2"])),
    st.just(Documented()),
)
QUESTIONS = st.builds(
    lambda records, last, **rest: Question(messages=(*records, Message(role="user", content=last)), **rest),
    st.lists(MESSAGES, max_size=2),
    TEXTS,
    answer=TEXTS,
    kind=TEXTS,
    checker=st.one_of(st.none(), CHECKERS, st.lists(CHECKERS, min_size=1, max_size=3).map(lambda c: AllOf(tuple(c)))),
    reference=st.sampled_from(["answer", "backbone"]),
    held_out=st.booleans(),
)
EPISODES = st.builds(
    Episode,
    sessions=st.lists(st.lists(MESSAGES, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    questions=st.lists(QUESTIONS, min_size=1, max_size=3).map(tuple),
    id=st.one_of(st.just(""), TEXTS),
)


@given(st.lists(EPISODES, min_size=1, max_size=3))
def test_what_is_written_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.jsonl"
    assert write_episodes(path, episodes) == len(episodes)
    assert list(read_episodes(path)) == episodes
    assert all("\n" not in line for line in path.read_text("ascii").removesuffix("\n").split("\n"))


@given(CHECKERS)
def test_a_checker_survives_its_json_form(checker: Checker) -> None:
    assert checker_from_json(json.loads(json.dumps(checker.to_json()))) == checker


def test_without_a_checker_only_the_answer_is_right() -> None:
    asks = question("Who?")
    assert asks.accepts("Rex") and asks.accepts(" Rex\n")
    assert not asks.accepts("Rex.") and not asks.accepts("")
