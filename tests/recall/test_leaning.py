"""Questions that lean on the turn before them, over facts among small talk: found with it, and none is lost by it."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from deltamem_agents.recall import Embedder, Retriever, default_embedder, leans, split_text
from deltamem_agents.store import Store

FACTS = """
The capital of France is Paris. | The capital of Germany is Berlin. | The capital of Chile is Santiago.
Mara's dog is called Rex. | Mara's cat is called Mitzi. | Rex eats tuna only. | My sister Ingrid lives in Bergen.
Ingrid works as a vet. | My brother Tom lives in Graz. | Tom plays the cello. | Hornet is restarted on Mondays.
The staging server is hornet, port 8080. | The production server is wasp, port 9090. | We deploy on Thursdays.
The gate code is 1111. | The shed code is 2222. | The retro is in room Jupiter. | The standup is in room Mars.
My boat is called Meridian. | Meridian was built in 1962. | The boat needs a new sail. | I take my coffee black.
My tea has milk and honey. | The report is due on 3 May. | The invoice is due on 9 June. | Olga wrote the report.
Yusuf wrote the invoice. | The lamp in the hall is green. | The lamp in the kitchen is blue.
"""
TALK = """
It rained all day | The meeting ran late again | I watched a documentary about the deep sea | We looked at photos
She lives for the weekend | He eats three apples every morning | It was built in a day | Somebody wrote on the wall
It needs more salt | The neighbour plays the drums | The bus is due in a minute | Which instrument was that
She does yoga | He lives in his own world | The kitchen was cold | The port was full of ships | They wrote it down
"""


class Case(NamedTuple):
    before: tuple[str, ...]
    question: str
    answer: str


CASES = [
    Case(("What is the capital of France?", "The capital of France is Paris."), "And Germany?", "Berlin"),
    Case(("What is the capital of France?",), "And Chile?", "Santiago"),
    Case(("What is Mara's dog called?", "Rex."), "What does he eat?", "tuna"),
    Case(("What is Mara's dog called?", "Rex."), "And her cat?", "Mitzi"),
    Case(("Where does Ingrid live?", "In Bergen."), "What does she do?", "vet"),
    Case(("Where does Ingrid live?",), "What about Tom?", "Graz"),
    Case(("Where does Tom live?", "Graz."), "Which instrument does he play?", "cello"),
    Case(("Which port does the staging server use?", "8080."), "And production?", "9090"),
    Case(("What is the staging server called?", "It is called hornet."), "When is it restarted?", "Monday"),
    Case(("What is the gate code?",), "And for the shed?", "2222"),
    Case(("Where is the retro?",), "And the standup?", "Mars"),
    Case(("What is my boat called?", "Meridian."), "When was it built?", "1962"),
    Case(("What is my boat called?", "Meridian."), "What does it need?", "sail"),
    Case(("How do I take my coffee?",), "And tea?", "honey"),
    Case(("When is the report due?", "On 3 May."), "Who wrote it?", "Olga"),
    Case(("When is the report due?",), "And the invoice?", "9 June"),
    Case(("Which colour has the lamp in the hall?",), "And in the kitchen?", "blue"),
    Case(("Who is my sister?", "Ingrid."), "Where does she live?", "Bergen"),
    Case(("Who wrote the invoice?",), "When is it due?", "9 June"),
    Case(("Tell me about Tom.",), "Where does he live?", "Graz"),
    Case(("What is the production server called?",), "On which port?", "9090"),
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    found, note = default_embedder()
    if found is None:
        pytest.skip(str(note))
    return found


def test_a_question_is_found_with_the_turn_before_it(embedder: Embedder) -> None:
    facts = [fact.strip() for line in FACTS.strip().splitlines() for fact in line.split("|")]
    talk = [each.strip() for line in TALK.strip().splitlines() for each in line.split("|")]
    rng = random.Random(3)
    with Store.open("sqlite://", split=split_text) as store:
        for number, fact in enumerate(facts):
            small = [f"{text} on day {number}." for text in rng.sample(talk, 6)]
            store.append("a", [{"role": "user", "content": text} for text in [*small, fact]], f"s{number // 5}")
        retriever = Retriever(store.records, embedder)
        alone, together = (
            [case for case in CASES if not found(retriever, case, case.before if with_it else ())]
            for with_it in (False, True)
        )
    assert together == []
    assert len(alone) >= 2


def found(retriever: Retriever, case: Case, context: tuple[str, ...]) -> bool:
    """Whether the answer is among three records that the turn before does not say."""
    records = retriever.search("a", case.question, 6, context=context)
    return any(case.answer in text for text in [r.text for r in records if r.text not in case.before][:3])


@pytest.mark.parametrize(
    ("query", "leaning"),
    [
        ("And Germany?", True),
        ("What does he eat?", True),
        ("Why?", True),
        ("What is my locker code?", False),
        ("Where do I live?", False),
        ("When did Mara move to Oslo?", False),
        ("When did she tell Mara about it?", False),
        ("", False),
    ],
)
def test_what_leans_and_what_does_not(query: str, leaning: bool) -> None:
    assert leans(query) is leaning


def test_a_question_that_stands_by_itself_is_not_touched(embedder: Embedder) -> None:
    with Store.open("sqlite://", split=split_text) as store:
        facts = [fact.strip() for line in FACTS.strip().splitlines() for fact in line.split("|")]
        store.append("a", [{"role": "user", "content": fact} for fact in facts], "s")
        retriever = Retriever(store.records, embedder)
        for query in ("What is the capital of Chile?", "Where does Ingrid live?", "What is the gate code?"):
            alone = retriever.search("a", query)
            assert retriever.search("a", query, context=["Who wrote the report?", "Olga."]) == alone
