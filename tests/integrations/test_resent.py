"""Conversations that come again: what is new in them, by a store alone."""

from __future__ import annotations

import random
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.frameworks.alignment import aligned
from deltamem_agents.frameworks.resent import unwritten, unwritten_portion, unwritten_turn
from deltamem_agents.store import Selection, Store

Message = dict[str, Any]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path / 'm.db'}") as opened:
        yield opened


def talk(*texts: str, ids: bool = False) -> list[Message]:
    """Users' and assistants' by turns."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return [each | {"id": str(i)} for i, each in enumerate(messages)] if ids else messages


def texts(messages: Sequence[Message]) -> list[str]:
    return [each["content"] for each in messages]


def held(store: Store) -> list[str]:
    return [entry.text for entry in store.live("a", session="s")]


def new(store: Store, *said: str, ids: bool = False) -> list[str]:
    return texts(unwritten(store.messages, "a", "s", talk(*said, ids=ids)))


TALK = ("Hi", "Hello", "Tea?", "Green.", "ok", "Noted", "ok", "Noted", "And?", "No.")


@pytest.mark.parametrize(
    "came, added",
    [
        ((), []),
        (TALK, []),
        ((*TALK, "Well?"), ["Well?"]),
        ((*TALK, "ok", "Noted"), ["ok", "Noted"]),  # said once more
        (TALK[:3], []),  # an answer is drawn again
        ((*TALK[:3], "Black."), ["Black."]),
        ((*TALK[:2], "Coffee?"), ["Coffee?"]),  # a question is edited
        ((*TALK[:2], "Coffee?", "Green.", "ok", "Noted", "Well?"), ["Coffee?", "Well?"]),
        ((*TALK[:2], *TALK[6:], "Well?"), ["Well?"]),  # the middle is left out
        ((*TALK[8:], "ok"), ["ok"]),  # the beginning is
        (("Hi\n", " Hello", "Tea? ", "Green.\r\n", "ok", "Noted\n\n", "Well?"), ["Well?"]),
        (("Other", "Thing", "ok"), ["Other", "Thing", "ok"]),  # another conversation
        (("And?",), []),  # the newest question, tried again
        (("Hi",), []),  # the first one
        (("ok",), ["ok"]),  # a client that sends what is new only
        (("Hello again",), ["Hello again"]),
    ],
)
@pytest.mark.parametrize("ids", [False, True])
def test_what_is_new(store: Store, came: Sequence[str], added: list[str], ids: bool) -> None:
    store.append("a", talk(*TALK), "s")
    assert new(store, *came, ids=ids) == added
    store.append("a", unwritten(store.messages, "a", "s", talk(*came, ids=ids)), "s")
    assert new(store, *came, ids=ids) == [] and held(store) == [*TALK, *added]
    assert unwritten(store.messages, "a", "other", talk(*came)) == talk(*came)


def test_ids_that_number_the_messages_of_each_request_replace_nothing(store: Store) -> None:
    store.append("a", talk(*TALK, ids=True), "s")
    came = unwritten(store.messages, "a", "s", talk(*TALK[6:], "Well?", ids=True))
    assert came == [{"role": "user", "content": "Well?"}]
    assert new(store, *TALK[:3], "Black.", *TALK[4:], ids=True) == ["Black."]  # but an edit with its id does
    (edit,) = unwritten(store.messages, "a", "s", talk(*TALK[:3], "Black.", ids=True))
    store.append("a", [edit], "s")
    assert "Green." not in held(store) and new(store, *TALK, ids=True) == []  # a client that has not heard of it


def test_an_edited_message_is_known_in_its_place(store: Store) -> None:
    store.append("a", talk(*TALK, ids=True), "s")
    store.append("a", [talk(*TALK, ids=True)[2] | {"content": "Coffee?"}], "s")
    for question in ("Tea?", "Coffee?"):
        assert new(store, *TALK[:2], question, *TALK[3:], "Well?") == ["Well?"]


def test_what_was_rolled_back_does_not_come_back(store: Store) -> None:
    store.append("a", talk(*TALK), "s")
    store.rollback("a", 4)
    assert new(store, *TALK, "Well?") == ["Well?"]
    assert new(store, *TALK[:5]) == ["ok"]  # it is asked again now


@pytest.mark.parametrize("gone", [(0,), (4,), (4, 5), (6,), (8, 9), tuple(range(10))])
def test_what_was_erased_does_not_come_back(store: Store, gone: Sequence[int]) -> None:
    ids = store.append("a", talk(*TALK), "s")
    store.erase("a", Selection(ids=[ids[i] for i in gone]))
    assert new(store, *TALK, "Well?") == new(store, *(f"{text}\n" for text in TALK), "Well?") == ["Well?"]
    assert new(store, *TALK, "ok", "Noted", "ok") == ["ok", "Noted", "ok"]
    assert new(store, *TALK, TALK[gone[0]]) == [TALK[gone[0]]]  # told again on purpose
    store.erase("a", Selection(ids=[ids[i] for i in gone]), tombstone=False)
    assert new(store, *TALK, "Well?") == [*(TALK[i] for i in gone), "Well?"]


def test_an_answer_of_the_same_words_is_written_once(store: Store) -> None:
    def turn(*replies: str) -> list[str]:
        messages = [{"role": "assistant", "content": each, "id": f"new-{i}"} for i, each in enumerate(replies)]
        question = {"role": "user", "content": "And?", "id": "fresh"}
        return texts(unwritten_turn(store.messages, "a", "s", messages, question))

    store.append("a", talk(*TALK), "s")
    assert turn("No.") == turn("No.\n") == [] and turn("Yes.") == ["Yes."] and turn("No.", "No.") == ["No."]
    store.append("a", [{"role": "user", "content": "And?"}], "s")
    assert turn("No.") == ["No."]  # asked again


@pytest.mark.parametrize(
    "came, added",
    [
        ((), []),
        (TALK, []),
        *((TALK[start:end], []) for start in range(0, 10, 2) for end in range(start + 1, 11)),  # windows, old states
        ((*TALK[8:], *TALK[2:4]), []),  # in another order
        ((*TALK, "Well?", "No."), ["Well?", "No."]),
        (("Hi", "Hello", "Well?", "No."), ["Well?", "No."]),  # an answer of known words to a question that is new
        ((*TALK[:3], "Black."), ["Black."]),
        ((*TALK, "ok", "Noted"), ["ok", "Noted"]),  # once more than was said
        (("Other", "Noted"), ["Other", "Noted"]),  # another conversation
    ],
)
@pytest.mark.parametrize("gone", [(), (0,), (2, 3), (0, 4, 8), tuple(range(10))])
def test_a_history_that_is_all_past(store: Store, came: Sequence[str], added: list[str], gone: Sequence[int]) -> None:
    ids = store.append("a", talk(*TALK), "s")
    store.erase("a", Selection(ids=[ids[i] for i in gone])) if gone else None
    assert texts(unwritten(store.messages, "a", "s", talk(*came), history=True)) == added


FORMS: list[Callable[[str], str]] = [
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: "\u200b".join(text),
    lambda text: f"\ufeff{text}\u2060 \u00ad",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stored", FORMS[:2])
def test_unicode_forms_make_no_difference(
    store: Store, form: Callable[[str], str], stored: Callable[[str], str]
) -> None:
    said = ("Zürich, façade?", "Ệ, 한국어 글 " + "각" * 300, "が" * 300, "Ça va", "مِّ?", "नमस्ते ड़")
    ids = store.append("a", talk(*map(stored, said)), "s")
    assert new(store, *map(form, said), "Well?") == ["Well?"]
    store.erase("a", Selection(ids=ids[:4]))
    assert new(store, *map(form, said), "Well?") == ["Well?"]
    assert new(store, "Zurich, facade?", "No", "Well?") == ["Zurich, facade?", "No", "Well?"]


def client(history: Sequence[str], chance: random.Random) -> list[str]:
    """A history as some client sends it."""
    came = list(history)
    if chance.random() < 0.5:
        start = 2 * chance.randrange(len(came) // 2)
        end = 2 * chance.randrange(start // 2, len(came) // 2)
        del came[start:end]  # whole turns in a row
    if chance.random() < 0.3:
        del came[: 2 * chance.randrange(len(came) // 2 + 1)]
    return [f" {text}\n" if chance.random() < 0.2 else text for text in came]


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_client_does_nothing_is_doubled_or_lost(store: Store, seed: int) -> None:
    chance = random.Random(seed)
    history: list[str] = []
    erased: set[str] = set()
    told: list[str] = []
    for turn in range(24):
        question = f"question {turn}" if chance.random() < 0.8 else "ok"
        came = [*client(history, chance), question] if history else [question]
        store.append("a", unwritten(store.messages, "a", "s", talk(*came)), "s")
        reply = "Noted." if chance.random() < 0.5 else f"answer {turn}"
        store.append("a", talk(question, reply)[1:], "s")
        history, told = [*history, question, reply], [*told, question, reply]
        if chance.random() < 0.2:
            gone = chance.choice(store.live("a", session="s"))
            if gone.text not in ("ok", "Noted."):
                store.erase("a", Selection(ids=[gone.ref]))
                erased.add(gone.text)
        elif chance.random() < 0.2:  # the last answer is drawn again
            assert new(store, *history[:-1]) == []
            history[-1] = f"another answer {turn}"
            store.append("a", talk("", history[-1])[1:], "s")
            told.append(history[-1])
    assert held(store) == [text for text in told if text not in erased]
    assert new(store, *history) == []


@pytest.mark.parametrize("portions", [[18], [2, 16], [7, 7, 4], [1] * 18])
@pytest.mark.parametrize("edit", [None, 0, 5, 17])
def test_portions_of_a_conversation(store: Store, portions: list[int], edit: int | None) -> None:
    said = [text for turn in range(9) for text in (f"bird {turn % 4}", f"sings {turn % 4}")]

    def hand_over(said: Sequence[str]) -> None:
        handed, rest = None, talk(*said)
        for portion in portions:
            written, handed = unwritten_portion(store.messages, "a", "s", rest[:portion], rest[:portion], handed)
            store.append("a", written, "s")
            del rest[:portion]

    hand_over(said)
    assert held(store) == said
    hand_over(said)
    assert held(store) == said
    if edit is not None:
        other = [*said[:edit], "edited", *said[edit + 1 :]]
        hand_over(other)
        hand_over(other)
        assert held(store) == [*said, "edited"]
    gone = store.live("a", session="s")[3]
    store.erase("a", Selection(ids=[gone.ref]))
    left = held(store)
    hand_over(said)
    assert held(store) == left


def test_alignment_is_a_longest_common_subsequence() -> None:
    chance = random.Random(1)
    for _ in range(300):
        known, given = (chance.choices("abcN", k=chance.randrange(9)) for _ in "ab")
        pairs = aligned(known, given)
        assert all(given[i] == known[j] for i, j in pairs)
        assert all(a < c and b < d for (a, b), (c, d) in pairwise(pairs))
        assert len(pairs) == longest(known, given)


def longest(known: Sequence[str], given: Sequence[str]) -> int:
    """By the textbook's table."""
    row = [0] * (len(known) + 1)
    for each in given:
        before, row = row, [0]
        for j, other in enumerate(known):
            row.append(before[j] + 1 if each == other else max(row[j], before[j + 1]))
    return row[-1]


@pytest.mark.parametrize("reply", ["Noted.", "answer {}"])
def test_a_long_history_is_aligned_in_no_time(store: Store, reply: str) -> None:
    said = [text.format(i) for i in range(1_000) for text in ("question {}", reply)]
    ids = store.append("a", talk(*said), "s")
    store.erase("a", Selection(ids=ids[100:1_900:7]))
    came = [f"{text}\n" for i, text in enumerate(said) if i % 50 > 1]
    began = time.process_time()
    assert new(store, *came, "Well?") == ["Well?"]
    assert time.process_time() - began < 2.0
    began = time.process_time()
    assert len(aligned(["N", "x"] * 5_000, ["x", "N"] * 1_000)) == 2_000
    assert time.process_time() - began < 2.0
