"""Records, full text and embeddings: the conformance suite's part that `recall` relies on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents.errors import ConfigError
from deltamem_agents.recall import RecordIndex
from deltamem_agents.store import Store

Say = Callable[..., dict[str, Any]]


def texts(store: Store, *terms: str, agent: str = "alice", **more: Any) -> list[str]:
    return [record.text for record, _ in store.records.search_text(agent, terms, more.pop("limit", 10), **more)]


def test_the_records_of_a_store_are_an_index(store: Store) -> None:
    index: RecordIndex = store.records  # mypy compares the two
    assert index.read("nobody") == []


def test_records_carry_what_is_known_of_the_message(store: Store, say: Say) -> None:
    store.append("alice", [say("first\nsecond", "tool", id="m", metadata={"a": 1})], "s1")

    first, second = store.records.read("alice")

    assert (first.text, first.chunk, second.text, second.chunk) == ("first", 0, "second", 1)
    assert (second.message_id, second.position, second.session, second.role) == ("m", 1, "s1", "tool")
    assert second.metadata == {"a": 1} and second.created_at == store.live("alice")[0].created_at
    assert store.records.read("alice", [second.key, 999]) == [second]
    assert store.records.read("bob", [second.key]) == [] and store.records.read("alice", session="s2") == []


def test_full_text_stems_folds_and_ranks(store: Store, say: Say) -> None:
    store.append(
        "alice",
        [
            say("We indent with two spaces."),
            say("Zürich is rainy, rain, rain"),
            say("Rain in Bergen, and much else too"),
        ],
        "s",
    )
    store.append("alice", [say("unrelated")], "s2")

    assert texts(store, "indenting") == ["We indent with two spaces."]
    assert texts(store, "zurich") == texts(store, "ZÜRICH") == texts(store, "zu\u0308rich") != []
    assert texts(store, "rain")[0].startswith("Zürich")
    assert texts(store, "rain", "unrelated", session="s2") == ["unrelated"]
    assert len(texts(store, "rain", limit=1)) == 1 and texts(store, "rain", limit=0) == []
    scores = [score for _, score in store.records.search_text("alice", ["rain", "indent"], 5)]
    assert scores == sorted(scores, reverse=True) and all(score > 0 for score in scores)


def test_full_text_finds_phrases_and_scripts_without_spaces(store: Store, say: Say) -> None:
    contents = [
        "ERR-4012 means offline",
        "4012 apples, ERR",
        "我住在奥斯陆",
        "猫が好きです",
        "मेरा नाम अनीता है",
        "ผมอยู่กรุงเทพ",
    ]
    store.append("alice", [say(content) for content in contents], "s")

    assert texts(store, "ERR 4012") == ["ERR-4012 means offline"]
    assert texts(store, "奥斯陆") == ["我住在奥斯陆"]
    assert texts(store, "猫") == ["猫が好きです"]
    assert texts(store, "अनीता") == ["मेरा नाम अनीता है"]
    assert texts(store, "กรุงเทพ") == ["ผมอยู่กรุงเทพ"]


def test_the_agents_number_is_not_a_word(store: Store, say: Say) -> None:
    store.append("alice", [say("nothing numeric")], "s")
    store.append("bob", [say("nothing either")], "s")
    assert texts(store, "1") == texts(store, "2") == []
    assert texts(store, "nothing") == ["nothing numeric"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    terms=st.lists(
        st.text(max_size=12) | st.sampled_from(['"', '"x" OR', "NEAR(a b)", "a*", "text:", "^a", "-", "\0", "'"])
    )
)
def test_no_term_is_a_syntax_error(store: Store, terms: list[str]) -> None:
    if store.agent("alice") is None:
        store.append("alice", [{"role": "user", "content": "text a b x OR NEAR"}], "s")
    terms = [term.encode("utf-8", "replace").decode() for term in terms]
    assert store.records.search_text("bob", terms, 5) == []
    store.records.search_text("alice", terms, 5)


def test_embeddings_are_stored_once_and_in_order(store: Store, say: Say) -> None:
    store.append("alice", [say("one"), say("two")], "s1")
    store.append("alice", [say("three")], "s2")
    store.append("bob", [say("other")], "s1")

    missing = store.records.missing_embeddings("alice", "model", 10)
    assert [text for _, text in missing] == ["one", "two", "three"]
    assert len(store.records.missing_embeddings("alice", "model", 2)) == 2
    keys = [key for key, _ in missing]
    vectors = np.arange(9, dtype=np.float32).reshape(3, 3)

    assert store.records.put_embeddings("alice", "model", keys[1:], vectors[1:]) == 2
    assert store.records.put_embeddings("alice", "model", keys, vectors + 100) == 1

    found, matrix = store.records.embeddings("alice", "model")
    assert found == keys and matrix.dtype == np.float32
    assert np.array_equal(matrix, np.concatenate([vectors[:1] + 100, vectors[1:]]))
    assert store.records.embeddings("alice", "model", after=2)[0] == keys[2:]
    assert store.records.embeddings("alice", "another")[0] == [] and store.records.embeddings("bob", "model")[0] == []
    assert store.records.missing_embeddings("alice", "model", 10) == []
    assert store.records.put_embeddings("bob", "model", keys, vectors) == 0  # not bob's records


def test_embeddings_of_superseded_messages_are_gone(store: Store, say: Say) -> None:
    store.append("alice", [say("old", id="m")], "s")
    ((key, _),) = store.records.missing_embeddings("alice", "model", 10)
    store.records.put_embeddings("alice", "model", [key], np.ones((1, 2), np.float32))

    store.append("alice", [say("new", id="m")], "s")

    assert store.records.embeddings("alice", "model")[0] == []
    assert store.records.put_embeddings("alice", "model", [key], np.ones((1, 2), np.float32)) == 0
    assert [text for _, text in store.records.missing_embeddings("alice", "model", 10)] == ["new"]


def test_embeddings_of_another_shape_are_refused(store: Store, say: Say) -> None:
    store.append("alice", [say("one"), say("two")], "s")
    keys = [key for key, _ in store.records.missing_embeddings("alice", "model", 10)]
    store.records.put_embeddings("alice", "model", keys[:1], np.ones((1, 2), np.float32))
    with pytest.raises(ConfigError, match="dimension 2, these have 3"):
        store.records.put_embeddings("alice", "model", keys[1:], np.ones((1, 3), np.float32))
    with pytest.raises(ConfigError, match="one row per record"):
        store.records.put_embeddings("alice", "model", keys, np.ones((1, 2), np.float32))
    with pytest.raises(ConfigError, match="name"):
        store.records.put_embeddings("alice", "", keys[1:], np.ones((1, 2), np.float32))
