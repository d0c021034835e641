"""What replaces what, and what does not; the order of records and their mark."""

from __future__ import annotations

import pytest

from deltamem_agents.recall import Retriever
from deltamem_agents.recall.contradiction import outdated, replaces
from deltamem_agents.recall.statements import statements
from deltamem_agents.store import Store
from tests.recall.changing import Pair, Wordings, pairs


def records(store: Store, *texts: str, roles: str = "") -> list:  # type: ignore[type-arg]
    for number, text in enumerate(texts):
        role = "assistant" if roles[number : number + 1] == "a" else "user"
        store.append("a", [{"role": role, "content": text}], "s")
    return list(store.records.read("a"))


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
        ("I live in Lisbon.", "Actually I moved to Oslo"),
        ("I live in Lisbon. Any tips?", "Hi! Actually, I moved to Oslo last month. Do you know a bakery?"),
        ("I work at Acme.", "I left Acme and joined Initech."),
        ("My doctor is Dr. Lund.", "My new doctor is Dr. Berg."),
        ("Ivo is the team lead.", "Petra is the team lead now."),
        ("I have two cats.", "I have three cats now."),
        ("I drink coffee.", "I stopped drinking coffee."),
        ("I'm a vegetarian.", "I'm not a vegetarian any more."),
        ("Call me Bob.", "Call me Robert from now on."),
        ("Always use tabs.", "Use spaces instead of tabs."),
        ("The launch is planned for 4 June.", "The launch slipped to 18 June."),
        ("The timeout is 30 seconds.", "The timeout was increased to 60 seconds."),
        ("I use Python 3.11.", "I upgraded to Python 3.12."),
    ],
)
def test_what_replaces_what(store: Store, old: str, new: str) -> None:
    older, newer = records(store, old, new)
    assert outdated([newer, older]) == {older.key: newer.key}


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
        ("Ana lives in Oslo.", "Bo lives in Oslo now."),
        ("Beta runs on PostgreSQL.", "Alpha runs on PostgreSQL now."),
        ("The gate code is 1111.", "The shed code is now 1111."),
        ("Leo is tall.", "Leo is allergic."),
        ("Leo is Norwegian.", "Leo is Catholic now."),
        ("Leo is 12.", "Leo is 180 cm tall."),
        ("Leo is in Oslo.", "Leo is in trouble now."),
        ("I live in Lisbon.", "I used to live in Oslo."),
        ("I live in Lisbon.", "I might move to Oslo."),
        ("I live in Lisbon and my dog is called Rex.", "I moved to Oslo."),
        ("We use tabs for Go.", "We use spaces for Python now."),
        ("The meeting is on Monday.", "The meeting is at nine now."),
        ("The old password was 1234.", "The old router is broken now."),
        ("I ran 5 km on Monday.", "I ran 8 km on Tuesday."),
        ("I prefer tea in the morning.", "I prefer wine in the evening now."),
        ("I am allergic to nuts.", "I am allergic to cats now."),
        ("Nothing.", "Now."),
        ("", "now"),
        ("我住在京都。", "我住在大阪。"),
    ],
)
def test_what_does_not(store: Store, old: str, new: str) -> None:
    found = records(store, old or "x", new)
    assert not outdated(found[:2])


@pytest.mark.parametrize("wordings", ["known", "held out"])
def test_of_generated_pairs_few_are_wrongly_outdated_and_most_changes_are_found(wordings: Wordings) -> None:
    same = list(pairs(300, wordings, changed=False, seed=11))
    changes = list(pairs(300, wordings, changed=True, seed=12))
    wrong = [pair for pair in same if replaced(pair)]
    missed = [pair for pair in changes if not replaced(pair)]
    assert len(wrong) <= 3, wrong
    assert len(missed) <= 30, missed


def replaced(pair: Pair) -> bool:
    return any(
        new is not None and old is not None and replaces(new, old)
        for old in statements(pair.older)[:1]
        if len(statements(pair.older)) == 1
        for new in statements(pair.newer)
    )


def test_another_speaker_contradicts_nobody(store: Store) -> None:
    older, newer = records(store, "My favourite colour is teal.", "My favourite colour is now red.", roles="ua")
    assert not outdated([newer, older])


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
    found = Retriever(store.records).search("a", "Is my favourite colour teal?", 5)
    texts = [record.text for record in found]
    assert texts.index("My favourite colour is blue.") < texts.index("My favourite colour is teal.")
    marks = {record.text: record.outdated for record in found}
    assert marks["My favourite colour is teal."] and marks["My favourite colour is now red."]
    assert not marks["My favourite colour is blue."]
