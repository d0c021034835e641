"""Whether what was said is found: facts as people state them, questions as people ask them, among small talk."""

import random
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from deltamem_agents.recall import Embedder, Retriever, default_embedder, recall_text, split_text
from deltamem_agents.store import Store


class Case(NamedTuple):
    fact: str
    question: str
    answer: str


NAMED_AGAIN = [  # a word of the fact is in the question: full text alone must find them
    Case("We indent with two spaces.", "How do we indent?", "two spaces"),
    Case("My locker code is 4417.", "What is my locker code?", "4417"),
    Case("The staging server is called hornet.", "What's the name of the staging server?", "hornet"),
    Case("My sister Ingrid breeds alpacas in Patagonia.", "Where does Ingrid live?", "Patagonia"),
    Case("Anna's favourite colour is teal.", "Which colour does Anna like best?", "teal"),
    Case("We deploy on Thursdays after the stand-up.", "When do we deploy?", "Thursdays"),
    Case("Our cat answers to Professor Whiskers.", "What is our cat called?", "Whiskers"),
    Case("The database password rotates every 45 days.", "How often is the database password rotated?", "45"),
    Case("My daughter's piano teacher is Mr. Okafor.", "Who teaches my daughter the piano?", "Okafor"),
    Case("Tests live in the spec folder, not in tests.", "Where should I put a new test?", "spec"),
    Case("The retro was moved to room Jupiter.", "In which room is the retro?", "Jupiter"),
    Case("Bob drives a green Volvo.", "What car does Bob have?", "Volvo"),
    Case("Carla prefers tabs over spaces.", "What does Carla prefer, tabs or spaces?", "tabs over"),
    Case("The API key for Mapbox is stored in vault slot 12.", "Where is the Mapbox API key?", "slot 12"),
    Case("My wife works as a cardiologist.", "What is my wife's job?", "cardiologist"),
    Case("We use trunk-based development, no long-lived branches.", "What is our branching strategy?", "trunk"),
    Case("ERR-4012 means the card reader is offline.", "What does ERR-4012 mean?", "card reader"),
    Case("For lunch I usually have lentil soup.", "What do I usually eat at midday?", "lentil"),
    Case("The invoice for Contoso is due on 14 October.", "When must the Contoso invoice be paid?", "14 October"),
    Case("Did you know that my boat is called Meridian?", "What's the name of my boat?", "Meridian"),
    Case("Could you remember that the spare key is under the fern?", "Where is the spare key?", "fern"),
    Case("Dmitri's phone number ends in 8831.", "What are the last digits of Dmitri's phone number?", "8831"),
    Case("I take my coffee black, no sugar.", "How do I like my coffee?", "black"),
    Case("max_retries is set to 7 in src/client.py", "What is max_retries?", "7"),
    Case("The wifi at the cabin is 'pinecone99'.", "What's the wifi password in the cabin?", "pinecone99"),
    Case("Mein Bruder heißt Jörg und wohnt in Köln.", "Wo wohnt mein Bruder?", "Köln"),
    Case("Ma voiture est garée au niveau moins trois.", "Où est garée ma voiture ?", "moins trois"),
    Case("我的猫叫小黑。", "我的猫叫什么名字?", "小黑"),
]
OTHERWISE_NAMED = [
    Case("I'm allergic to hazelnuts, by the way.", "Do I have any allergies?", "hazelnuts"),
    Case("I moved to Lisbon in March.", "Which city do I live in?", "Lisbon"),
    Case("Please always answer me in Portuguese.", "In what language should you reply?", "Portuguese"),
    Case("I was born on 3 May 1984.", "When is my birthday?", "3 May"),
    Case("Our CEO is Priya Raman.", "Who runs the company?", "Raman"),
    Case("I can't stand cilantro.", "Is there any food I dislike?", "cilantro"),
    Case("I'm training for the Berlin marathon.", "What sport event am I preparing for?", "Berlin"),
]
SMALL_TALK = [
    ("user", "Good morning! How are you today?"),
    ("assistant", "Good morning! I'm doing well, what can I do for you?"),
    ("user", "It rained all day, the garden is soaked."),
    ("assistant", "That sounds wet. Shall we look at the report now?"),
    ("user", "Can you summarise the article about glaciers?"),
    ("assistant", "Sure. Glaciers have been losing mass since the nineteenth century, mostly in summer."),
    ("user", "The meeting ran late again and everyone was tired."),
    ("assistant", "I have noted that the meeting ran late."),
    ("user", "Thanks, that was helpful!"),
    ("assistant", "You're welcome. Is there anything else?"),
    ("user", "I watched a documentary about the deep sea yesterday."),
]
ASKED_BEFORE = [  # a user who gets no answer asks again
    "What is my locker code?",
    "what's my locker code",
    "Do you remember my locker code?",
    "Can you tell me the code of my locker?",
    "My locker code, what was it?",
    "Which code opens my locker?",
]
UNKNOWING = [
    "I don't know your locker code.",
    "I'm not sure what your locker code is, sorry.",
    "I have no information about a locker code.",
    "Sorry, I can't find the code of your locker.",
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    found, note = default_embedder()
    if found is None:
        pytest.skip(str(note))
    return found


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open("sqlite://", split=split_text) as opened:
        yield opened


def tell(store: Store, agent: str, said: list[tuple[str, str]]) -> None:
    store.append(agent, [{"role": role, "content": content} for role, content in said], "s")


def missed(retriever: Retriever, agent: str, cases: list[Case], k: int = 5) -> list[str]:
    return [
        case.question for case in cases if case.answer not in recall_text(retriever.search(agent, case.question, k))
    ]


@pytest.mark.slow
def test_a_fact_among_small_talk(store: Store, embedder: Embedder) -> None:
    retriever = Retriever(store.records, embedder)
    for place, case in enumerate(NAMED_AGAIN + OTHERWISE_NAMED):
        said = list(SMALL_TALK)
        said.insert(place % 12, ("user", case.fact))
        tell(store, f"agent {place}", said)
        assert missed(retriever, f"agent {place}", [case]) == []


def test_a_dozen_facts(store: Store, embedder: Embedder) -> None:
    retriever = Retriever(store.records, embedder)
    draw = random.Random(0)
    for group in range(6):
        cases = draw.sample(NAMED_AGAIN + OTHERWISE_NAMED, 12)
        tell(store, f"agent {group}", [("user", case.fact) for case in cases])
        assert missed(retriever, f"agent {group}", cases) == []


def test_all_facts_in_one_memory(store: Store, embedder: Embedder) -> None:
    cases = NAMED_AGAIN + OTHERWISE_NAMED
    tell(store, "alice", SMALL_TALK + [("user", case.fact) for case in cases])
    assert missed(Retriever(store.records, embedder), "alice", cases) == []
    assert missed(Retriever(store.records, embedder), "alice", cases, k=3) == []


def test_full_text_alone_finds_what_is_named_again(store: Store) -> None:
    tell(store, "alice", SMALL_TALK + [("user", case.fact) for case in NAMED_AGAIN + OTHERWISE_NAMED])
    assert missed(Retriever(store.records), "alice", NAMED_AGAIN) == []


@pytest.mark.parametrize("meaning", [True, False])
def test_earlier_questions_do_not_push_the_fact_out(store: Store, embedder: Embedder, meaning: bool) -> None:
    noise = [("user", text) for text in ASKED_BEFORE] + [("assistant", text) for text in UNKNOWING]
    tell(store, "alice", [("user", "My locker code is 4417."), *noise, *noise, ("user", "It rained all day.")])
    retriever = Retriever(store.records, embedder if meaning else None)
    cases = [Case("", question, "4417") for question in [*ASKED_BEFORE, "locker code", "Remind me of my locker code"]]
    assert missed(retriever, "alice", cases) == []
    assert missed(retriever, "alice", cases, k=1) == []
