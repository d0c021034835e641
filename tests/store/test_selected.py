"""Writes that depend on what a session holds: whoever writes in between is seen, and nothing is tried for ever."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from deltamem_agents.errors import InvalidAgentError, InvalidMessageError
from deltamem_agents.store import MessageLookup, Selection, Store, check_messages, wording_of
from deltamem_agents.store.database import open_database
from deltamem_agents.store.records import Words
from deltamem_agents.store.selected import Selected
from deltamem_agents.store.store import whole
from tests.databases import engine_of

TALK = [{"role": "user", "content": text} for text in ("one", "two", "three")]


def texts(store: Store, agent: str = "alice") -> list[str]:
    return [entry.text for entry in store.live(agent)]


class Missing:
    """Selects what the session never held; runs ``between`` once it has looked for the first time."""

    def __init__(self, between: Callable[[], object] | None = None) -> None:
        self.looks = 0
        self._between = between

    def __call__(self, held: MessageLookup) -> list[dict[str, Any]]:
        checked = check_messages(TALK)
        said = {each.wording for each in held.ever_said("alice", "s", checked)}
        self.looks += 1
        if self.looks == 1 and self._between is not None:
            with ThreadPoolExecutor(1) as another:
                another.submit(self._between).result(30)
        return [message for message, new in zip(TALK, checked, strict=True) if wording_of(new) not in said]


def erase(store: Store) -> None:
    store.erase("alice", Selection(ids=("m",)))


BETWEEN: dict[str, tuple[Callable[[Store], object], int, list[str]]] = {
    "nothing": (lambda store: None, 1, ["m", "one", "two", "three"]),
    "another agent": (lambda store: store.append("bob", TALK, "s"), 1, ["m", "one", "two", "three"]),
    "another session": (lambda store: store.append("alice", TALK[:1], "t"), 2, ["m", "one", "one", "two", "three"]),
    "all": (lambda store: store.append("alice", TALK, "s"), 2, ["m", "one", "two", "three"]),
    "some": (lambda store: store.append("alice", TALK[1:2], "s"), 2, ["m", "two", "one", "three"]),
    "an edit": (lambda store: store.append("alice", [TALK[0] | {"id": "m"}], "s"), 2, ["one", "two", "three"]),
    "an erasure": (erase, 2, ["one", "two", "three"]),
    "a rollback": (lambda store: store.rollback("alice", 0), 2, ["one", "two", "three"]),
    "the agent's end": (lambda store: store.erase("alice", Selection(whole=True)), 2, ["one", "two", "three"]),
}


@pytest.fixture
def several(store: Store) -> Store:
    """A store that threads use at once; one in memory has a single connection."""
    if "memory.db" not in store.url and "postgresql" not in store.url:
        pytest.skip("one connection, so nothing comes in between")
    return store


@pytest.mark.parametrize("between", BETWEEN)
def test_what_comes_in_between_is_seen(several: Store, between: str) -> None:
    act, looks, left = BETWEEN[between]
    several.append("alice", [{"role": "user", "content": "m", "id": "m"}], "s")
    select = Missing(lambda: act(several))

    several.append("alice", select, "s")

    assert (texts(several), select.looks) == (left, looks)
    positions = [entry.position for entry in several.live("alice")]
    assert positions == sorted(set(positions))


def test_an_agent_that_others_make_in_between_is_seen(several: Store) -> None:
    select = Missing(lambda: several.append("alice", TALK[:2], "s"))

    several.append("alice", select, "s")

    assert (texts(several), select.looks) == (["one", "two", "three"], 2)


def test_an_agent_exists_from_its_first_message(several: Store) -> None:
    def nothing(held: MessageLookup) -> list[dict[str, Any]]:
        return []

    def only_what_is_known(held: MessageLookup) -> list[dict[str, Any]]:
        found = held.find("alice", [("s", "m")])
        if found:
            with ThreadPoolExecutor(1) as another:
                another.submit(several.erase, "alice", Selection(whole=True)).result(30)
        return [{"role": "user", "content": "edited", "id": "m"} for _ in found]

    assert several.append("alice", nothing, "s") == [] and several.agents() == []
    several.append("alice", [{"role": "user", "content": "m", "id": "m"}], "s")
    assert several.append("alice", only_what_is_known, "s") == [] and several.agents() == []


def test_errors_of_selecting_come_through_and_write_nothing(store: Store) -> None:
    def broken(held: MessageLookup) -> list[dict[str, Any]]:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        store.append("alice", broken, "s")
    with pytest.raises(InvalidMessageError, match="has role"):
        store.append("alice", lambda held: [*TALK, {"role": "nobody", "content": "x"}], "s")
    with pytest.raises(InvalidAgentError):
        store.append("", lambda held: TALK, "s")
    assert store.agents() == []


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("came_through", [False, True])
def test_a_write_whose_answer_was_lost_is_made_once(store: Store, named: bool, came_through: bool) -> None:
    told = [message | ({"id": message["content"]} if named else {}) for message in TALK]
    database = open_database(None, engine_of(store))
    selected = Selected(Words(whole, database.dialect.fulltext), "alice", "s", lambda held: told)
    database.read(selected.look)

    def lost(connection: Any) -> None:
        selected.write(connection)
        raise KeyError("lost")

    if came_through:
        database.write(selected.write)
    else:
        with pytest.raises(KeyError):
            database.write(lost)
    ids = database.write(selected.write)

    assert [entry.id for entry in store.live("alice")] == ids
    assert texts(store) == ["one", "two", "three"]
