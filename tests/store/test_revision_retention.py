"""Which stored states are kept."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import update

from deltamem_agents.errors import ConfigError
from deltamem_agents.store import Revision, Store
from deltamem_agents.store.revisions import check_retention, surplus
from deltamem_agents.store.schema import RevisionRow
from tests.databases import engine_of, execute

Say = Callable[..., dict[str, Any]]
NOW = datetime(2026, 6, 15, 15, 30, tzinfo=UTC)


def hours_ago(*hours: float) -> list[tuple[int, datetime]]:
    """States of rising positions, given from the newest on."""
    return [(len(hours) - i, NOW - timedelta(hours=each)) for i, each in enumerate(hours)]


def test_all_are_kept() -> None:
    assert surplus(hours_ago(0, 100, 10_000), "all", (), NOW) == []


def test_the_newest_n_are_kept_and_those_asked_for() -> None:
    stored = hours_ago(0, 1, 2, 3, 4)
    assert surplus(stored, 2, (), NOW) == [3, 2, 1]
    assert surplus(stored, 1, (2, 99), NOW) == [4, 3, 1]
    assert surplus(stored, 9, (), NOW) == surplus([], 1, (), NOW) == []


def test_thinning_keeps_the_last_day_and_then_the_newest_of_each_day() -> None:
    # Today's of 15:30 and 01:30; yesterday's of 23:30, 15:45, 15:30 and 00:30; the day before's of 23:30 and 00:30.
    stored = hours_ago(0, 14, 16, 23.75, 24, 39, 40, 63)
    assert surplus(stored, "thin", (), NOW) == [4, 3, 1]
    assert surplus(stored, "thin", (3, 1), NOW) == [4]


def test_days_are_those_of_utc() -> None:
    east = timezone(timedelta(hours=12))
    stored = [(position, at.astimezone(east)) for position, at in hours_ago(48, 55, 64, 65)]
    assert surplus(stored, "thin", (), NOW) == [3, 1]


def test_the_newest_stays_however_old_it_looks() -> None:
    assert surplus(hours_ago(1000, 999), "thin", (), NOW) == []  # another day's
    assert surplus(hours_ago(1000, 1000, 1000), "thin", (), NOW) == [2, 1]


def test_a_clock_that_was_set_back() -> None:
    # The states from the future stay until their time has come; of those now, all of the last day stay.
    stored = hours_ago(0, 1, -100, -101, 30, 31)
    assert surplus(stored, "thin", (), NOW) == [1]
    # Days in any order: each day's newest by position.
    stored = hours_ago(72, 200, 73, 201, 72.5)
    assert surplus(stored, "thin", (), NOW) == [3, 2, 1]
    later = NOW + timedelta(days=30)
    assert surplus(hours_ago(0, 1, -100, -101), "thin", (), later) == [3, 1]


@pytest.mark.parametrize("bad", [0, -1, True, False, "2", "none", 1.5, None, "", [1], "THIN"])
def test_what_is_no_retention(bad: Any) -> None:
    with pytest.raises(ConfigError, match="retention is"):
        check_retention(bad)
    with pytest.raises(ConfigError, match="retention is"):
        Store.open("sqlite://", retention=bad)


def commit(store: Store, position: int, after: int, fingerprint: str = "f") -> None:
    info = store.agent("alice")
    assert info is not None
    revision = Revision(position=position, epoch=info.epoch, fingerprint=fingerprint, state=b"state")
    store.states.commit("alice", revision, after=after)


def positions(store: Store, fingerprint: str = "f") -> list[int]:
    return [stored.position for stored in store.states.revisions("alice") if stored.fingerprint == fingerprint]


def other_retention(store: Store, say: Say, retention: Any) -> Store:
    store.append("alice", [say(f"message {i}") for i in range(12)], "s")
    return Store.open(engine=engine_of(store), retention=retention)


def test_the_last_n_of_a_store(store: Store, say: Say) -> None:
    kept = other_retention(store, say, 2)
    commit(kept, 1, 0, fingerprint="g")
    for position in range(1, 7):
        commit(kept, position, position - 1)
    assert positions(kept) == [5, 6]
    commit(kept, 9, 4)
    assert positions(kept) == [6, 9]
    commit(kept, 10, 6)
    commit(kept, 11, 6)
    assert positions(kept) == [6, 10, 11]  # what the newest was folded from stays
    assert positions(kept, "g") == [1]


def test_all_of_a_store(store: Store, say: Say) -> None:
    kept = other_retention(store, say, "all")
    for position in range(1, 13):
        commit(kept, position, position - 1)
        aged(kept, position, timedelta(days=40))
    assert positions(kept) == list(range(1, 13))


def aged(store: Store, position: int, by: timedelta) -> None:
    values = {"created_at": datetime.now(UTC) - by}
    execute(store, update(RevisionRow).where(RevisionRow.position == position).values(values))


def test_a_store_thins_by_itself(store: Store, say: Say) -> None:
    store.append("alice", [say(f"message {i}") for i in range(12)], "s")
    for position in range(1, 7):
        commit(store, position, position - 1)
    for position in range(1, 6):
        aged(store, position, timedelta(days=40))
    aged(store, 6, timedelta(hours=2))

    commit(store, 7, 2)

    assert positions(store) == [2, 5, 6, 7]


def test_a_clock_set_back_loses_no_newest_state(store: Store, say: Say) -> None:
    store.append("alice", [say(f"message {i}") for i in range(12)], "s")
    commit(store, 1, 0)
    aged(store, 1, -timedelta(days=400))
    commit(store, 2, 1)
    commit(store, 3, 2)
    newest = store.states.newest("alice", "f")
    assert newest is not None and newest.position == 3 and positions(store) == [1, 2, 3]
