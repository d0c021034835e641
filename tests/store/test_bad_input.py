"""Input at and beyond the limits: on every database a clear error, or the same back; never a part of a write."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from deltamem_agents.errors import ConfigError, InvalidMessageError, UnknownAgentError
from deltamem_agents.store import Selection, Store
from tests.databases import engine_of

Say = Callable[..., dict[str, Any]]

STRANGE_TEXTS = [
    "\x01\x02\x1b[31m\x7f",
    "\ufeff\ufffe\uffff\u2028\u2029",
    "e\u0301\u0301\u0301 \u202ereversed",
    "👩‍👩‍👧‍👦 \U0010ffff 𝔘𝔫𝔦",
    "'; DROP TABLE deltamem_agents; -- %s %(x)s :name ?",
    "\\0 \\u0000 \\x00",
    "line\r\nline\rline\n",
]


@pytest.mark.parametrize("text", STRANGE_TEXTS)
def test_strange_text_comes_back_unchanged(store: Store, say: Say, text: str) -> None:
    message = say(text, id=text.strip()[:255], metadata={text: [text]})
    store.append(text, [message, say([{"type": "image", "alt": text}, text])], text)

    first, second = store.live(text, session=text)

    assert (first.content, first.id, first.metadata, first.session) == (text, text.strip(), {text: [text]}, text)
    assert second.content == [{"type": "image", "alt": text}, text]
    assert store.sessions(text) == [text]
    store.records.search_text(text, [text], 5, session=text)
    store.fork(text, text + "2")
    assert store.live(text + "2") == [first, second]


NUL_IN_JSON: list[dict[str, Any]] = [
    {"metadata": {"a": "x\0y"}},
    {"metadata": {"a\0b": 1}},
    {"content": [{"type": "image", "url": "a\0b"}, "text"]},
    {"content": [{"type": "image", "deep": [{"\0": "\0"}]}]},
]


def test_nul_in_json_comes_back_unchanged(store: Store) -> None:
    messages = [{"role": "user", "content": "text", "id": str(i), **more} for i, more in enumerate(NUL_IN_JSON)]
    for _ in range(2):
        store.append("alice", messages, "s")
    assert [(entry.content, entry.metadata) for entry in store.live("alice")] == [
        (message["content"], message.get("metadata", {})) for message in messages
    ]


REFUSED: list[dict[str, Any]] = [
    {"content": "a\0b"},
    {"content": "a\ud800b"},
    {"content": ["a\udfffb"]},
    {"content": [{"type": "text", "text": "a\0"}]},
    {"id": "a\0"},
    {"id": "\udc80"},
    {"id": "i" * 256},
    {"metadata": {"a": "\ud800"}},
    {"metadata": {"\udc00": 1}},
    {"content": [{"type": "image", "url": "\ud83d"}]},
    {"metadata": {"a": float("inf")}},
    {"metadata": {"a": 10**5000}},
]


@pytest.mark.parametrize("agent", ["alice", "bob"])
def test_what_databases_cannot_hold_is_refused_with_all_that_came_along(
    store: Store, say: Say, agent: str, rows: Callable[[Store], Any]
) -> None:
    store.append("alice", [say("apple", id="a")], "s")
    before = rows(store)
    for more in REFUSED:
        with pytest.raises(InvalidMessageError, match="message 1"):
            store.append(agent, [say("pear", id="a"), {"role": "user", "content": "x", **more}, say("fig")], "s")
    assert rows(store) == before


def test_a_pair_of_surrogates_is_one_character(store: Store, say: Say) -> None:
    store.append("alice", [say("x", metadata={"a": "😀"})], "s")
    assert store.live("alice")[0].metadata == {"a": "😀"}


WORDS = "wörter 我住 "


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["word ", "我", *(pytest.param(u, marks=pytest.mark.slow) for u in ("a", WORDS, "𝔘 ", "é"))]
)
def test_ten_megabytes(store: Store, say: Say, unit: str) -> None:
    text = unit * (10_000_000 // len(unit.encode()))
    store.append("alice", [say(text, id="m"), say("short")], "s")
    assert store.live("alice")[0].text == text
    assert len(store.records.read("alice")[0].text) == len(text)
    assert [record.text for record, _ in store.records.search_text("alice", ["short"], 5)] == ["short"]
    store.erase("alice", Selection(ids=["m"]))
    assert len(store.records.read("alice")) == 1


@pytest.mark.slow
def test_a_hundred_thousand_messages_in_one_write(store: Store, say: Say) -> None:
    for named in (False, True):
        messages = [say(f"message {i}", **({"id": str(i)} if named else {})) for i in range(100_000)]
        began = time.monotonic()
        ids = store.append("alice", messages, "s")
        taken = time.monotonic() - began
        assert len(set(ids)) == 100_000 and taken < 60, taken
        print(f"{store.url[:10]} named {named}: {taken:.1f} s")
    began = time.monotonic()
    assert store.append("alice", messages, "s") == ids  # once more, as after a lost answer
    assert time.monotonic() - began < 60
    info = store.agent("alice")
    assert info is not None and (info.messages, info.position) == (200_000, 200_000)
    assert len(store.records.search_text("alice", ["message 99999"], 5)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("count", [500, 2000])
def test_a_query_of_many_terms(store: Store, say: Say, count: int) -> None:
    store.append("alice", [say("needle"), say("hay")], "s")
    terms = [*(f"w{i}" for i in range(count)), "needle"]
    assert [record.text for record, _ in store.records.search_text("alice", terms, 5)] == ["needle"]
    cjk = "".join(chr(0x4E00 + i) for i in range(count))
    store.append("alice", [say(cjk[-2:])], "s")
    assert [record.text for record, _ in store.records.search_text("alice", [cjk], 5)] == [cjk[-2:]]
    assert store.records.search_text("alice", ["x" * 100_000, "猫" * 100_000], 5) == []


def test_unknown_agents_read_empty_and_cannot_be_changed(store: Store, tmp_path: Any) -> None:
    assert (
        store.live("nobody")
        == store.records.read("nobody")
        == store.sessions("nobody")
        == store.states.revisions("nobody")
        == []
    )
    assert store.agent("nobody") is None and store.states.fold_input("nobody", "f") is None
    assert store.states.newest("nobody", "f") is None and store.records.embeddings("nobody", "m")[0] == []
    assert (
        store.records.search_text("nobody", ["x"], 5) == [] and store.records.missing_embeddings("nobody", "m", 5) == []
    )
    assert store.states.drop("nobody") == 0 and store.states.summary("nobody", "f").count == 0
    changes: list[Callable[[], object]] = [
        lambda: store.erase("nobody", Selection(whole=True)),
        lambda: store.fork("nobody", "twin"),
        lambda: store.rollback("nobody", 0),
        lambda: store.at("nobody", 0),
        lambda: store.export("nobody", tmp_path / "a.zip"),
    ]
    for change in changes:
        with pytest.raises(UnknownAgentError, match="'nobody' is not in this store"):
            change()
    assert store.agents() == [] and not (tmp_path / "a.zip").exists()


def test_a_batch_is_all_or_nothing_where_the_database_fails(store: Store, say: Say, rows: Any) -> None:
    store.append("alice", [say("apple", id="a")], "s")
    before = rows(store)

    def failing(text: str) -> list[str]:
        if text == "stop":
            raise RuntimeError("the splitter failed")
        return [text]

    with Store.open(engine=engine_of(store), split=failing) as broken, pytest.raises(RuntimeError):
        broken.append("alice", [say("pear", id="a"), say("stop")], "s")
    assert rows(store) == before


@pytest.mark.parametrize("url", ["mysql://bob:hunter2@h/x", "oracle://bob:hunter2@h/x", "postgresql+asyncpg://h/x"])
def test_unknown_dialects(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Store.open(url)
    assert "hunter2" not in str(caught.value)
