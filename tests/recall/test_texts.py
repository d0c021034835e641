"""Pure text: cutting records, reading queries, telling questions from statements, the text a model is handed."""

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deltamem_agents.errors import ConfigError
from deltamem_agents.recall import Record, query_terms, recall_text, split_text, within_budget
from deltamem_agents.recall.content import asks, is_chatter, knows_nothing
from deltamem_agents.recall.paraphrases import gist, says_the_same
from deltamem_agents.recall.prompt import TRAINED, trained_text
from deltamem_agents.recall.questions import Question
from deltamem_agents.recall.selection import is_weak
from deltamem_agents.store import StoredRecord


def record(text: str, position: int, role: str = "user", chunk: int = 0) -> Record:
    return Record(
        text=text,
        score=1.0,
        session="s",
        message_id="m",
        role=role,
        position=position,
        chunk=chunk,
        created_at=datetime.now(UTC),
    )


def test_a_short_message_is_one_record() -> None:
    assert split_text(" One. Two!\nThree ") == ["One. Two!\nThree"]
    assert split_text("") == split_text(" \n ") == []


def test_a_long_message_is_cut_where_sentences_end() -> None:
    sentences = [f'Sentence number {i} says "this".' for i in range(100)]
    pieces = split_text(" ".join(sentences))
    assert " ".join(pieces) == " ".join(sentences)
    assert all(len(piece) <= 1000 and piece.endswith('".') and piece.startswith("Sentence") for piece in pieces)
    assert len(pieces) == 4
    assert all(piece.endswith("。") for piece in split_text("我住在奥斯陆的一栋老房子里。" * 100))


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet="ab .!?\n。", max_size=300), limit=st.integers(5, 40))
def test_cutting_loses_nothing_but_space(text: str, limit: int) -> None:
    pieces = split_text(text, limit)
    assert all(0 < len(piece) <= limit and piece == piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_query_terms() -> None:
    assert query_terms("How do we indent?") == ["indent"]
    assert query_terms("Who are you") == ["Who", "are", "you"]  # nothing else to go by
    assert query_terms("What's Zoë's ERR-4012 in src/app.py?") == [
        "Zoë",
        "Zoë s",
        "ERR",
        "4012",
        "ERR 4012",
        "src",
        "app",
        "py",
        "src app py",
    ]
    assert query_terms("tea Tea TEA") == ["tea"] and query_terms("?! \0 💡") == []
    assert query_terms("मेरा नाम") == ["मेरा", "नाम"]


@pytest.mark.parametrize(
    ("text", "role", "weak"),
    [
        ("What is my locker code?", "user", True),
        ("what's my locker code", "user", True),
        ("And how many eggs do we need", "user", True),
        ("Do you remember where I live?", "user", True),
        ("Did you know where the keys are? Where are they?", "user", True),
        ("我的猫叫什么?", "user", True),
        ("My code is 4417. What is yours?", "user", False),
        ("What a great day", "user", False),
        ("How we work is up to us.", "user", False),
        ("Did you know my boat is called Meridian?", "user", False),
        ("Can you please remember that I moved to Oslo?", "user", False),
        ("My boat is called Meridian, right?", "user", False),
        ("I don't know your name.", "assistant", True),
        ("I'm not sure, sorry.", "assistant", True),
        ("I don't know your surname, but your first name is Ana.", "assistant", False),
        ("I don't know the city well.", "user", False),
        ("Your code is 4417.", "assistant", False),
    ],
)
def test_questions_and_not_knowing_are_told_from_statements(text: str, role: str, weak: bool) -> None:
    stored = StoredRecord(
        key=1,
        text=text,
        message_id="m",
        position=1,
        chunk=0,
        session="s",
        role=role,
        details=None,
        created_at=datetime.now(UTC),
    )
    assert is_weak(stored) is weak


@pytest.mark.parametrize(
    "text",
    [
        "I moved to Oslo, you know?",
        "My code is 4417, right?",
        "The key is under the mat, isn't it?",
        "I live in Oslo, don't I?",
        "Bo has the key, remember?",
        "We use tabs; which linter fits?",
        "I'm trying to learn Flask and I prefer small libraries, can you help me?",
        "Can you book a table because my wife turns forty on 3 May?",
        "I lost my wallet in Rome, what should I do?",
        "We don't have it until 4 May.",
        "I don't know, Ana has it.",
        "I don't know. Mara lives in Oslo.",
        "I'm afraid the office is closed on Monday.",
        "I can't see you until Monday.",
        "Noted: the code is 4417.",
        "Thanks, my name is Ana.",
        "Sure, at nine.",
    ],
)
def test_what_carries_a_fact_is_not_empty(text: str) -> None:
    assert not asks(text) and not knows_nothing(text) and not is_chatter(text)


@pytest.mark.parametrize(
    "text",
    [
        *("Where does Mara live?", "Mara lives in Oslo?", "And Germany?", "Could you tell me where I parked?"),
        *("I was wondering, what is my locker code?", "My locker code, what was it?", "I forgot my code, what is it?"),
        *("I don't know.", "I'm sorry, I don't have that information. Could you tell me?", "No idea.", "Unknown."),
        *("ok", "thanks", "Noted.", "Great, thanks!", "You're welcome! Is there anything else?", "👍", "Got it."),
        "Sure, I'll remember that.",
    ],
)
def test_what_carries_none_is(text: str) -> None:
    assert asks(text) or knows_nothing(text) or is_chatter(text)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Mara lives in Oslo.", "Oslo is where Mara lives.", True),
        ("My locker code is 4417.", "4417 is my locker's code.", True),
        ("My favourite colour is teal.", "Teal is the colour I love most.", True),
        ("My locker code is 4417.", "My locker code is 4418.", False),
        ("I like tea.", "I don't like tea.", False),
        ("My dog is called Rex.", "My cat is called Rex.", False),
        ("My dog is called Rex.", "My sister's dog is called Rex.", False),
        ("Mara likes Bo.", "Bo likes Mara.", False),
        ("Mara lives in Oslo.", "Mara works in Oslo.", False),
        ("The gate code is 1111.", "The old gate code was 1111.", False),
    ],
)
def test_paraphrases_are_told_from_other_facts(one: str, other: str, same: bool) -> None:
    first, second = gist(one), gist(other)
    assert first is not None and second is not None
    assert says_the_same(first, second, 0.9) is same


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("Where do I live?", set()),
        ("Can you summarise how my thesis went over time?", {"summary"}),
        ("In which order did I bring up my hobbies across our conversations?", {"order"}),
        ("What did you recommend for my back?", {"of_model"}),
        ("How should I format this table?", {"doing"}),
        ("When did I move?", set()),
    ],
)
def test_the_kind_of_a_question(query: str, kinds: set[str]) -> None:
    read = Question.read(query)
    assert {kind for kind in ("summary", "order", "of_model", "doing") if getattr(read, kind)} == kinds


def test_the_topic_of_a_question_says_nothing_of_the_talk() -> None:
    asked = "Can you give me a comprehensive summary of how my garden plans developed across our conversations?"
    assert Question.read(asked).topic == "my garden plans"
    assert Question.read("How is my garden?").topic == "How is my garden?"


def test_the_bundled_model_reads_records_oldest_first_one_line_each() -> None:
    records = [record("newer", 7, "assistant"), record("a\n  b\r\n\nc\u2028d", 2), record("second", 2, chunk=1)]
    assert trained_text(records) == "Relevant memory:\n- user: a b c d\n- user: second\n- assistant: newer"
    assert trained_text([]) == "" and trained_text([], "a\nb") == "Memory suggests: a b"
    kept = within_budget([records[1], records[0]], 35, form=TRAINED)
    assert kept == [records[1]] and len(trained_text(kept)) <= 35


def test_budget_keeps_the_highest_ranked_that_fit() -> None:
    ranked = [record("best", 3), record("far too long " * 50, 1), record("third", 2)]
    kept = within_budget(ranked, 140)
    assert kept == [ranked[0], ranked[2]] and len(recall_text(kept)) <= 140
    assert within_budget(ranked, 10**6) == ranked and within_budget(ranked, 0) == []
    assert within_budget(ranked, 12, lambda text: len(text.split())) == [ranked[0]]
    for budget in range(0, 180, 3):
        assert len(recall_text(within_budget(ranked, budget))) <= budget
    with pytest.raises(ConfigError, match="negative"):
        within_budget(ranked, -1)
