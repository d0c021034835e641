"""The retriever's promises, with a small embedder made of letter counts: order, scope, laziness, failures."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents.errors import ConfigError, EmbedderError
from deltamem_agents.recall import CallableEmbedder, Retriever, split_text
from deltamem_agents.store import Store

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def count_letters(texts: Sequence[str]) -> list[list[float]]:
    return [[text.lower().count(letter) + 0.01 for letter in LETTERS] for text in texts]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store.open("sqlite://", split=split_text) as opened:
        yield opened


def tell(store: Store, *contents: str, agent: str = "alice", session: str = "s", role: str = "user") -> None:
    store.append(agent, [{"role": role, "content": content} for content in contents], session)


def letters() -> CallableEmbedder:
    return CallableEmbedder(count_letters, name="letters")


def test_records_are_complete_and_scored(store: Store) -> None:
    store.append("alice", [{"role": "tool", "content": "the answer is blue", "id": "m", "metadata": {"a": 1}}], "s1")
    (record,) = Retriever(store.records, letters()).search("alice", "answer?")
    entry = store.live("alice")[0]
    assert (record.text, record.message_id, record.session, record.role) == ("the answer is blue", "m", "s1", "tool")
    assert (record.position, record.chunk, record.metadata, record.created_at) == (1, 0, {"a": 1}, entry.created_at)
    assert record.score > 0


def test_order_is_the_same_every_time_and_by_score(store: Store) -> None:
    tell(store, *(f"note {i} about apples and {LETTERS[i]}" for i in range(20)))
    retriever = Retriever(store.records, letters())
    first = retriever.search("alice", "apples", 10)
    assert first == retriever.search("alice", "apples", 10) and len(first) == 10
    assert [record.score for record in first] == sorted((record.score for record in first), reverse=True)


def test_agents_and_sessions_are_apart(store: Store) -> None:
    tell(store, "blue for alice", session="s1")
    tell(store, "blue in session two", session="s2")
    tell(store, "blue for bob", agent="bob")
    for embedder in (letters(), None):
        retriever = Retriever(store.records, embedder)
        assert {record.text for record in retriever.search("alice", "blue")} == {
            "blue for alice",
            "blue in session two",
        }
        assert [record.text for record in retriever.search("alice", "blue", session="s2")] == ["blue in session two"]
        assert retriever.search("alice", "blue", session="none") == []
        assert retriever.search("nobody", "blue") == []


def test_the_same_text_again_is_one_record_the_newest(store: Store) -> None:
    tell(store, "I like tea", "I like  TEA.", "I like tea", "Coffee is fine")
    for embedder in (letters(), None):
        found = Retriever(store.records, embedder).search("alice", "tea")
        assert [
            record.position for record in found if "ea" in record.text.lower() and "tea" in record.text.lower()
        ] == [3]


@pytest.mark.parametrize("k", [0, -1, 2.5, True, None, "5"])
def test_k_must_be_a_positive_integer(store: Store, k: object) -> None:
    with pytest.raises(ConfigError, match="k is"):
        Retriever(store.records).search("alice", "x", k)  # type: ignore[arg-type]


def test_queries_of_any_kind(store: Store) -> None:
    tell(store, "plain text")
    for embedder in (letters(), None):
        retriever = Retriever(store.records, embedder)
        for query in [
            "",
            "  \n",
            '"',
            'a" OR "b',
            "NEAR(",
            "text:*",
            "^-()",
            "\0",
            "?",
            "的",
            "💡",
            "a\ud800b",
            "x" * 5000,
        ]:
            retriever.search("alice", query)
        with pytest.raises(ConfigError, match="query"):
            retriever.search("alice", None)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=40) | st.text(st.characters(categories=("Cs", "L")), max_size=5), k=st.integers(1, 6))
def test_any_query_gives_up_to_k_distinct_records(store: Store, query: str, k: int) -> None:
    if store.agent("alice") is None:
        tell(store, *(f"{letter} is letter number {i}" for i, letter in enumerate(LETTERS)), "What is a letter?")
    found = Retriever(store.records, letters()).search("alice", query, k)
    assert len({(record.position, record.chunk) for record in found}) == len(found) <= k


def test_records_are_embedded_once_in_batches(store: Store) -> None:
    seen: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        seen.append(len(texts))
        return count_letters(texts)

    retriever = Retriever(store.records, CallableEmbedder(embed, name="counting"))
    tell(store, *(f"message {i}" for i in range(150)))
    progress: list[int] = []
    assert retriever.embed_missing("alice", progress.append) == 150 and progress == [64, 128, 150]
    tell(store, "one more")
    retriever.search("alice", "message")
    retriever.search("alice", "message")
    assert seen == [64, 64, 22, 1, 1, 1]  # the new record once, then the queries


def test_an_embedder_that_goes_away_half_way_leaves_words_and_is_gone_on_with(store: Store) -> None:
    calls, away = [0], True

    def embed(texts: list[str]) -> list[list[float]]:
        calls[0] += 1
        if away and calls[0] >= 2:
            raise OSError("out of coffee")
        return count_letters(texts)

    tell(store, *(f"message {i}" for i in range(100)))
    retriever, notes = Retriever(store.records, CallableEmbedder(embed, name="flaky")), []
    assert len(retriever.search("alice", "message 99", tell=notes.append)) == 5
    assert notes == ["by words: EmbedderError by OSError"]
    assert retriever.search("alice", "message 99")[0].text == "message 99"
    assert len(store.records.embeddings("alice", "flaky")[0]) == 64
    with pytest.raises(EmbedderError, match=r"'flaky' failed on 36 texts \(OSError: out of coffee\)"):
        retriever.reindex("alice")
    away = False
    assert len(retriever.search("alice", "message", tell=notes.append)) == 5 and len(notes) == 1
    assert len(store.records.embeddings("alice", "flaky")[0]) == 100


def test_an_embedder_of_another_dimension_under_the_same_name(store: Store) -> None:
    tell(store, "one")
    Retriever(store.records, letters()).search("alice", "one")
    shorter = CallableEmbedder(lambda texts: np.ones((len(texts), 3)), name="letters")
    with pytest.raises(EmbedderError, match="dimension 3"):
        Retriever(store.records, shorter).search("alice", "one")
    tell(store, "two")
    with pytest.raises(ConfigError, match="dimension 26, these have 3"):
        Retriever(store.records, shorter).search("alice", "one")


def test_a_read_only_store_is_searched_by_meaning_too(tmp_path: Path) -> None:
    with Store.open(f"sqlite:///{tmp_path}/m.db", split=split_text) as store:
        tell(store, "zzz top", session="s1")
        tell(store, "aaa battery")
        Retriever(store.records, letters()).embed_missing("alice")
        tell(store, "zzzz sleeping", session="s2")
    with Store.open(f"sqlite:///file:{tmp_path}/m.db?mode=ro&uri=true", split=split_text) as store:
        retriever = Retriever(store.records, letters())
        assert {record.text for record in retriever.search("alice", "zz", 2)} == {"zzz top", "zzzz sleeping"}
        assert [record.text for record in retriever.search("alice", "zz", session="s2")] == ["zzzz sleeping"]


def test_superseded_text_is_not_found(store: Store) -> None:
    retriever = Retriever(store.records, letters())
    store.append("alice", [{"role": "user", "content": "I live in Oslo", "id": "m"}], "s")
    retriever.search("alice", "Oslo")
    store.append("alice", [{"role": "user", "content": "I live in Bergen", "id": "m"}], "s")
    assert [record.text for record in retriever.search("alice", "Oslo, where I live")] == ["I live in Bergen"]
    assert retriever.search("alice", "Oslo") == []


def test_what_has_nothing_to_do_with_a_query_is_not_found(store: Store) -> None:
    retriever = Retriever(store.records, letters())
    for number, text in enumerate(("aaa", "zz a", "bbb")):
        tell(store, text, session=str(number))
    assert [record.text for record in retriever.search("alice", "zzz")] == ["zz a"]
    assert retriever.search("alice", "xyx") == []


def test_a_question_does_not_take_the_statement_out(store: Store) -> None:
    told = [
        "Mara lives in Oslo.",
        "Mara likes tea.",
        "Mara has two cats.",
        "Mara works at a bank.",
        "Mara plays chess.",
    ]
    tell(store, *told, "Mara lives in Oslo?")
    found = [record.text for record in Retriever(store.records).search("alice", "Where does Mara live?", 3)]
    assert found[0] == "Mara lives in Oslo." and "Mara lives in Oslo?" not in found


def test_chatter_takes_no_place(store: Store) -> None:
    tell(store, "The lamp is green.", "ok", "thanks", "Noted.", "Great, thanks!")
    assert [
        record.text for record in Retriever(store.records).search("alice", "thanks, ok, which colour is the lamp?", 5)
    ] == ["The lamp is green."]


def test_five_wordings_of_one_fact_take_one_place(store: Store) -> None:
    wordings = [
        "Mara lives in Oslo.",
        "Mara's home is in Oslo.",
        "Oslo is where Mara lives.",
        "Mara resides in Oslo.",
        "Mara is living in Oslo.",
    ]
    tell(store, *wordings, "Mara likes tea.", "Mara plays chess.")
    found = [record.text for record in Retriever(store.records).search("alice", "Where does Mara live?", 3)]
    assert found[0] == "Mara is living in Oslo." and set(found[1:]) == {"Mara likes tea.", "Mara plays chess."}


def test_what_a_model_said_comes_after_what_the_user_said(store: Store) -> None:
    said = [("user", "My home town is Moravia."), ("assistant", "Your home town is Morama."), ("user", "It rained.")]
    store.append("alice", [{"role": role, "content": text} for role, text in said], "s")
    found = [record.text for record in Retriever(store.records).search("alice", "What is my home town?", 5)]
    assert found.index("My home town is Moravia.") < found.index("Your home town is Morama.")


def test_pieces_of_one_long_message_leave_places_to_others(store: Store) -> None:
    long = " ".join(f"The garden has rose number {n} by the gate, and it needs water every day." for n in range(60))
    tell(store, long, "The garden gate squeaks.", "The garden is two acres wide.", "It rained.")
    found = Retriever(store.records).search("alice", "What do you know about the garden?", 3)
    assert len({record.message_id for record in found}) == 3
