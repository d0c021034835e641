"""What replaces what, and what does not; the order of records and their mark."""

from __future__ import annotations

import pytest

from deltamem_agents.recall import Retriever
from deltamem_agents.recall.contradiction import contradicts
from deltamem_agents.store import Store


def records(store: Store, *texts: str, roles: str = "") -> list:  # type: ignore[type-arg]
    for number, text in enumerate(texts):
        role = "assistant" if roles[number : number + 1] == "a" else "user"
        store.append("a", [{"role": role, "content": text}], "s")
    return list(store.records("a"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("My favourite colour is teal.", "My favourite colour is now red."),
        ("My favourite colour is teal.", "My favourite colour is red."),
        ("By the way, my favourite colour is teal.", "My favourite colour is now red."),
        ("I live in Oslo.", "I live in Bergen now."),
        ("We use tabs.", "Actually, we use spaces."),
        ("The api repository's linter is pylint.", "The api repository's linter is now ruff."),
        ("The standup is at nine", "The standup is at ten"),
        ("Hugo's dog is called Rex.", "Hugo's dog is called Biscuit."),
    ],
)
def test_what_replaces_what(store: Store, old: str, new: str) -> None:
    older, newer = records(store, old, new)
    assert contradicts(newer, older)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("I like tea.", "I like coffee."),
        ("My favourite colour is teal.", "My favourite colour is teal."),
        ("My favourite colour is teal.", "My favourite drink is tea."),
        ("My favourite colour is teal.", "Mara's favourite colour is now red."),
        ("Mara's favourite colour is teal.", "Tom's favourite colour is red."),
        ("The report is long.", "Now the printer is broken."),
        ("What is my favourite colour?", "My favourite colour is now red."),
        ("It is raining.", "It is late."),
        ("Nothing.", "Now."),
        ("", "now"),
        ("我住在京都。", "我住在大阪。"),
    ],
)
def test_what_does_not(store: Store, old: str, new: str) -> None:
    found = records(store, old or "x", new)
    assert not contradicts(found[1], found[0])


def test_another_speaker_contradicts_nobody(store: Store) -> None:
    older, newer = records(store, "My favourite colour is teal.", "My favourite colour is now red.", roles="ua")
    assert not contradicts(newer, older)


def test_the_newer_comes_first_and_the_older_is_marked(store: Store) -> None:
    records(
        store,
        "My favourite colour is teal, and it was always teal, the colour teal.",
        "The weather was pretty.",
        "My favourite colour is teal.",
        "By the way, my colour of choice is favourite number one.",
        "My favourite colour is now red.",
        "My favourite colour is blue.",
    )
    found = Retriever(store).search("a", "Is my favourite colour teal?", 5)
    texts = [record.text for record in found]
    assert texts.index("My favourite colour is blue.") < texts.index("My favourite colour is teal.")
    marks = {record.text: record.outdated for record in found}
    assert marks["My favourite colour is teal."] and marks["My favourite colour is now red."]
    assert not marks["My favourite colour is blue."]


def test_an_unweeded_search_marks_nothing(store: Store) -> None:
    records(store, "My favourite colour is teal.", "My favourite colour is now red.")
    assert not any(record.outdated for record in Retriever(store).search("a", "colour", weed=False))
