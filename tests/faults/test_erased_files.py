"""What was erased is in none of the database's files, and nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from deltamem_agents.store import Revision, Selection, Store
from tests.databases import engine_of, problems

IDS = ["xq-first-71c", "xq-second-71c", "xq-other-71c"]
SESSION = "xqsession71c"
# Long words, and no two alike in what full-text indexes make of them: stemmed, without accents, pairs of characters.
SECRETS = ("Quicksilvering zebrafishes", "Blancmangé Walrusses", "玄武岩火山")
TRACES = [
    *(each.encode() for each in IDS),
    SESSION.encode(),
    b"xqmetadata71c",
    *(
        form.encode()
        for form in ("Quicksilver", "quicksilv", "zebrafish", "Blancmang", "blancmang", "walrus", "Walrus")
    ),
    *(pair.encode() for pair in ("玄武", "武岩", "火山", "玄 武", "岩")),
    b"XQSTATE71C" * 4,
    np.full(4, 0.7182818, np.float32).tobytes(),
]


def say(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def tell(store: Store) -> None:
    """An agent with secrets in all that the database keeps, its fork, and two that have nothing to do with it."""
    for other in ("bystander", "alice", "zoe"):
        for i in range(30):
            store.append(other, [say(f"ordinary remark {i} of {other}", id=f"{other}{i}")], "plain")
        embed(store, other, 0.25)
    revise(store, "alice", b"harmless" * 500)
    secret = [
        say(f"{SECRETS[0]}, said once", id=IDS[0], metadata={"note": "xqmetadata71c"}),
        say([{"type": "text", "text": SECRETS[1]}, {"type": "image", "url": "xqmetadata71c"}], id=IDS[1]),
        say("walrus, the first version", id=IDS[2]),
    ]
    store.append("alice", secret, SESSION)
    revise(store, "alice", b"XQSTATE71C" * 400)
    embed(store, "alice", 0.7182818)
    store.append("alice", [say(f"{SECRETS[2]} quicksilvering", id=IDS[2])], SESSION)  # the other version is superseded
    embed(store, "alice", 0.7182818)
    store.fork("alice", "fork")
    for i in range(30):
        store.append("alice", [say(f"later remark {i}")], "plain")
    at = store.agent("alice")
    assert at is not None
    store.rollback("alice", at.position - 5)
    revise(store, "alice", b"XQSTATE71C" * 401)


def revise(store: Store, agent: str, state: bytes) -> None:
    info = store.agent(agent)
    assert info is not None
    last = store.live(agent)[-1].position
    store.states.commit(agent, Revision(position=last, epoch=info.epoch, fingerprint="f", state=state), after=0)


def embed(store: Store, agent: str, value: float) -> None:
    keys = [key for key, _ in store.records.missing_embeddings(agent, "model", 1000)]
    store.records.put_embeddings(agent, "model", keys, np.full((len(keys), 8), value, np.float32))


def contents(store: Store, agent: str) -> list[Any]:
    """All there is of an agent."""
    keys, vectors = store.records.embeddings(agent, "model")
    return [
        store.agent(agent),
        store.live(agent),
        store.records.read(agent),
        store.states.revisions(agent),
        (keys, vectors.tolist()),
        # Without scores: how rare a word is, is counted over all agents.
        {record.key for record, _ in store.records.search_text(agent, ["ordinary"], 100)},
    ]


def traces(path: Path) -> list[tuple[str, bytes]]:
    files = [file for file in path.parent.iterdir() if file.name.startswith(path.name)]
    assert path in files
    return [(file.name, trace) for file in files for trace in TRACES if trace in file.read_bytes()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def store(path: Path) -> Any:
    with Store.open(f"sqlite:///{path}") as opened:
        tell(opened)
        yield opened


CHOSEN = {
    "ids": Selection(ids=IDS),
    "session": Selection(session=SESSION),
    "agent": Selection(whole=True),
}


@pytest.mark.parametrize("chosen", CHOSEN.values(), ids=CHOSEN.keys())
def test_erased_text_is_in_no_file(store: Store, path: Path, chosen: Selection) -> None:
    assert {trace for _, trace in traces(path)} == set(TRACES)  # they are to be found at all
    others = {agent: contents(store, agent) for agent in ("bystander", "zoe")}

    plan = store.erase("alice", chosen, forks=True)
    assert store.purge() is None

    assert traces(path) == []
    assert {each.agent for each in plan.erased} == {"alice", "fork"}
    assert {agent: contents(store, agent) for agent in ("bystander", "zoe")} == others
    assert (
        store.records.search_text("alice", ["quicksilvering"], 5)
        == store.records.search_text("fork", ["walrus"], 5)
        == []
    )
    assert problems(store) == []
    if not chosen.whole:
        kept = [entry.text for entry in store.live("alice")]
        assert kept[:30] == [f"ordinary remark {i} of alice" for i in range(30)] and kept[30:] == [
            f"later remark {i}" for i in range(25)
        ]
    store.close()
    assert traces(path) == []


def test_the_secret_key_of_a_deleted_agent_is_in_no_file(store: Store, path: Path) -> None:
    """With it, guesses could be tried on the hashes that checkpoints keep."""
    keys = [store.secret(agent) for agent in ("alice", "fork", "zoe")]

    def found() -> list[bool]:
        files = [file.read_bytes() for file in path.parent.iterdir() if file.name.startswith(path.name)]
        return [any(key in each for each in files) for key in keys if key is not None]

    assert found() == [True] * 3
    store.erase("alice", Selection(ids=IDS))
    assert store.purge() is None and found() == [True] * 3
    store.erase("alice", Selection(whole=True))
    assert store.purge() is None and found() == [False, True, True]


def test_without_forks_only_theirs_is_left(store: Store, path: Path) -> None:
    before = contents(store, "fork")
    plan = store.erase("alice", Selection(ids=IDS))
    assert store.purge() is None
    assert plan.held_by == {"fork": [(SESSION, each) for each in IDS]}
    assert contents(store, "fork") == before
    store.erase("fork", Selection(ids=IDS))
    assert store.purge() is None
    assert traces(path) == []


@pytest.mark.parametrize("elsewhere", [False, True], ids=["connection", "process"])
def test_a_reader_that_holds_an_old_snapshot_makes_it_pending(store: Store, path: Path, elsewhere: bool) -> None:
    read = "SELECT count(*) FROM deltamem_messages"
    if elsewhere:
        program = (
            "import sqlite3, sys; connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            f"connection.execute('BEGIN'); connection.execute('{read}').fetchone(); print('reading', flush=True)\n"
            "sys.stdin.readline(); connection.close()\n"
        )
        reader = subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert reader.stdout is not None and reader.stdout.readline() == "reading\n"

        def leave() -> None:
            reader.communicate("\n", timeout=10)

    else:
        connection = create_engine(f"sqlite:///{path}").connect()
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql(read)
        leave = connection.close

    store.erase("alice", Selection(ids=IDS), forks=True)
    reason = store.purge()
    assert reason is not None and ("reader" in reason or "locked" in reason)
    assert all(entry.id not in IDS for entry in store.live("alice"))  # gone from the rows at once
    assert store.purge() is not None
    leave()
    assert store.purge() is None
    assert traces(path) == []


def test_a_pending_erasure_is_finished_by_whoever_purges_next(store: Store, path: Path) -> None:
    store.erase("alice", Selection(ids=IDS), forks=True)
    store.close()  # a process that ended before it purged
    with Store.open(f"sqlite:///{path}") as again:
        assert again.purge() is None
        assert traces(path) == []


def test_on_postgresql_no_row_is_left_and_no_dead_one(postgresql_url: Callable[[], str]) -> None:
    tables = ("agents", "messages", "records", "embeddings", "revisions", "rollbacks", "purges")
    with Store.open(postgresql_url()) as store:
        tell(store)
        others = {agent: contents(store, agent) for agent in ("bystander", "zoe")}
        engine = engine_of(store)

        def rows() -> str:
            with engine.connect() as connection:
                found = [
                    connection.execute(text(f"SELECT t::text FROM deltamem_{table} AS t")).scalars().all()
                    for table in tables
                ]
            return "\n".join(row for table in found for row in table)

        names = [*IDS, SESSION, "xqmetadata71c", *SECRETS]
        assert all(name in rows() or name.encode().hex() in rows() for name in (*names, "XQSTATE71C"))

        with engine.connect() as reader:
            reader.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
            reader.exec_driver_sql("SELECT count(*) FROM deltamem_messages")
            store.erase("alice", Selection(ids=IDS), forks=True)
            assert "transaction" in str(store.purge())
            reader.exec_driver_sql("ROLLBACK")
        assert store.purge() is None

        left = rows()
        assert not [name for name in (*names, "XQSTATE71C") if name in left or name.encode().hex() in left]
        assert {agent: contents(store, agent) for agent in ("bystander", "zoe")} == others
        with engine.connect() as connection:
            connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
            connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
            dead = connection.execute(
                text("SELECT relname FROM pg_stat_user_tables WHERE n_dead_tup > 0 AND relname LIKE 'deltamem_%'")
            ).scalars()
        assert set(dead) <= {"deltamem_purges"}  # the note that there was something to purge
