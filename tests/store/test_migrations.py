"""Versions of the tables: from every earlier one to this package's, with data in it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alembic import command, op
from safetensors.torch import save
from sqlalchemy import Connection, create_engine, inspect, text

from deltamem_agents.errors import ConfigError, StoreError
from deltamem_agents.store import Selection, Store, check_messages, versions
from deltamem_agents.store.codec import decode, encode
from deltamem_agents.store.database import Database, open_database
from deltamem_agents.store.recutting import Recut
from tests.databases import execute, migrations

FreshUrl = Callable[[], str]
KNOWN = sorted(path.name[:4] for path in (versions.MIGRATIONS / "versions").glob("[0-9]*.py"))
AGENTS = {"alice": 9, "bób": 1, "carol": 3}  # and the last position of each
OLD_STATE = {f"model.layers.{layer}.self_attn": torch.arange(4.0).reshape(2, 2) - layer for layer in (0, 2, 11)}
STATES = {  # position: as version 0001 stored them, and whether they can be used
    1: (save(OLD_STATE), True),
    2: (save({name: tensor * 2 for name, tensor in OLD_STATE.items()}, metadata={"format": "pt"}), True),
    3: (save(OLD_STATE)[:-1] + b"\x7f", False),  # of another checksum
    4: (b"x" * 50, False),
    5: (save({**OLD_STATE, "model.layers.1.mlp": torch.zeros(2, 2)}), False),
    6: (save({name: tensor.half() for name, tensor in OLD_STATE.items()}), False),
    7: (b"{}", False),
}


def run(database: Database, version: str) -> None:
    """Run the migrations up to a version."""

    def work(connection: Connection) -> None:
        if database.schema is not None:
            connection.exec_driver_sql(f'SET LOCAL search_path TO "{database.schema}"')
        command.upgrade(migrations(connection), version)

    database.write(work)


def fill(connection: Connection, dots: str = "", **later: dict[str, Any]) -> None:
    """What version 0001 had written: two agents, messages that are live and not, states, records, embeddings.

    ``later`` is what later versions have in each row of a table besides.
    """

    def put(table: str, **values: Any) -> None:
        values |= later.get(table, {})
        names = ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO {dots}deltamem_{table} ({', '.join(values)}) VALUES ({names})"), values)

    at = "2025-03-04 05:06:07.000008"
    put("agents", key=1, id="alice", epoch=3, head=9, created_at=at)
    put("agents", key=5, id="bób", epoch=1, head=1, created_at=at)
    rest = {"role": "user", "session": "s", "created_at": at}
    for position in range(1, 9):
        words = "我住在奥斯陆" if position == 8 else f"indenting line {position}"
        put("messages", agent_key=1, position=position, id=f"m{position}", text=words, **rest)
        terms = "我 住 在 奥 斯 陆" if position == 8 else None
        put("records", key=10 + position, agent_key=1, position=position, chunk=0, text=words, terms=terms)
    connection.execute(text(f"DELETE FROM {dots}deltamem_records WHERE key = 13"))
    connection.execute(text(f"UPDATE {dots}deltamem_messages SET left_at = 9 WHERE agent_key = 1 AND position = 3"))
    blocks, details = '[{"type": "text", "text": "blocks"}]', '{"a": [1, null]}'
    put("messages", agent_key=1, position=9, id="m3", text="blocks", blocks=blocks, metadata=details, **rest)
    put("records", key=19, agent_key=1, position=9, chunk=0, text="blocks")
    put("messages", agent_key=5, position=1, id="m1", text="indent", left_at=None, **rest)
    put("records", key=20, agent_key=5, position=1, chunk=0, text="indent")
    # What was said in one session was replaced in another, as ids were the agent's.
    put("agents", key=7, id="carol", epoch=2, head=3, created_at=at)
    for position, session, name, left_at in ((1, "s", "m1", 2), (2, "t", "m1", None), (3, "t", "m2", None)):
        message = {"id": name, "text": f"line {position}", "left_at": left_at}
        put("messages", agent_key=7, position=position, **rest | message | {"session": session})
        if left_at is None:
            put("records", key=20 + position, agent_key=7, position=position, chunk=0, text=f"line {position}")
    vector = np.array([1, 2], "<f4").tobytes()
    put("embeddings", record_key=11, model="m", dim=2, vector=vector)
    for position, (state, _) in STATES.items():
        checksum = sha256(STATES[1][0] if position == 3 else state).hexdigest()
        put(
            "revisions", agent_key=1, fingerprint="f", position=position, epoch=3, parent=position - 1,
            checksum=checksum, created_at=at, state=state,
        )  # fmt: skip


@contextmanager
def opened(url: str, schema: str | None = None) -> Iterator[Database]:
    database = open_database(url, None, schema)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def of_version(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> Iterator[Database]:
    """A database of an earlier version, filled as version 0001 did.

    There never was one of 0001 on PostgreSQL; it stands there for the versions that will be. Its full-text index is
    left out.
    """
    schema = "memory" if kind.endswith("schema") else None
    url = f"sqlite:///{tmp_path}/m.db"
    if kind.startswith("postgresql"):
        fresh: FreshUrl = request.getfixturevalue("postgresql_url")
        url = fresh()
        execute = op.execute
        monkeypatch.setattr(op, "execute", lambda sql: execute(sql) if "_fts" not in sql else None)
    with opened(url, schema) as database:
        database.prepare()
        run(database, version)
        dots = f"{schema}." if schema else ""
        later: dict[str, dict[str, Any]] = {"agents": {"secret": bytes(32)}} if version >= "0004" else {}
        later |= {"messages": {"folded": True}} if version >= "0005" else {}
        database.write(lambda connection: fill(connection, dots, **later))
        for table in ("agents", "records") if url.startswith("postgresql") else ():  # past the keys given above
            past = f"SELECT setval(pg_get_serial_sequence('{dots}deltamem_{table}', 'key'), 100)"
            database.write(lambda connection, past=past: connection.exec_driver_sql(past))
        yield database


@pytest.fixture(params=["file", "file without Alembic's version", "postgresql", "postgresql schema"])
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database of version 0001."""
    with of_version(request, tmp_path, monkeypatch, "0001", request.param) as database:
        if request.param == "file without Alembic's version":
            database.write(lambda connection: connection.execute(text("DROP TABLE deltamem_version")))
        yield database


def again(database: Database) -> Store:
    return Store.open(database.url, schema=database.schema)


def test_everything_reads_after_the_upgrade(old: Database) -> None:
    assert versions.current(old) == "0001"
    assert versions.upgrade(old) == ("0001", versions.LATEST)
    assert versions.current(old) == versions.LATEST
    assert versions.upgrade(old) == (versions.LATEST, versions.LATEST)

    with again(old) as store:
        entries = store.live("alice")
        assert [entry.id for entry in entries] == ["m1", "m2", "m4", "m5", "m6", "m7", "m8", "m3"]
        assert entries[-1].content == [{"type": "text", "text": "blocks"}] and entries[-1].metadata == {"a": [1, None]}
        assert entries[0].created_at.isoformat() == "2025-03-04T05:06:07.000008+00:00"
        info = store.agent("alice")
        assert info is not None and (info.epoch, info.position, info.messages) == (3, 9, 8)
        assert len(store.records.read("alice")) == 8 and store.live("bób")[0].text == "indent"
        keys, vectors = store.records.embeddings("alice", "m")
        assert keys == [11] and vectors.tolist() == [[1, 2]]
        assert [record.text for record, _ in store.records.search_text("alice", ["奥斯陆"], 9)] == ["我住在奥斯陆"]
        assert len(store.records.search_text("alice", ["indent"], 9)) == 6

        store.append("alice", [{"role": "user", "content": "indented anew", "id": "m1"}], "s")
        assert [entry.position for entry in store.live("alice")] == [2, 4, 5, 6, 7, 8, 9, 10]
        assert store.rollback("alice", 9) == 11 and store.live("alice") == entries
        store.fork("alice", "twin")
        assert store.live("twin") == entries


@pytest.mark.parametrize("kind", ["file", "postgresql", "postgresql schema"])
@pytest.mark.parametrize("version", ["0001", "0002", "0003"])
def test_ids_are_those_of_their_session_after_the_upgrade(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> None:
    with of_version(request, tmp_path, monkeypatch, version, kind) as database:
        assert versions.upgrade(database) == (version, versions.LATEST)
        assert versions.differences(database) == []
        with again(database) as store:
            said = {agent: [store.at(agent, at) for at in range(last + 1)] for agent, last in AGENTS.items()}
            assert [[entry.text for entry in each] for each in said["carol"]] == [
                [], ["line 1"], ["line 2"], ["line 2", "line 3"],
            ]  # fmt: skip
            assert said["carol"][3] == store.live("carol") and said["alice"][9] == store.live("alice")
            secrets = {store.secret(agent) for agent in AGENTS}
            assert len(secrets) == 3 and all(each is not None and len(each) == 32 for each in secrets)

            for agent in AGENTS:  # in another session, an id is another message's
                before = store.live(agent)
                store.append(agent, [{"role": "user", "content": "new", "id": "m1"}], "new session")
                assert store.live(agent)[:-1] == before
                store.append(agent, [{"role": "user", "content": "newer", "id": "m1"}], "new session")
                store.append(agent, [{"role": "user", "content": "indent", "id": "m1"}], before[0].session)
                assert store.rollback(agent, before[-1].position) and store.live(agent) == before
                assert [record.text for record in store.records.read(agent)] == [entry.text for entry in before]
            store.fork("carol", "twin")
            store.export("carol", tmp_path / "carol.zip")
            store.import_(tmp_path / "carol.zip", "again")
            for agent in ("carol", "twin", "again"):  # what was replaced then stays so, and comes back with an erasure
                assert [store.at(agent, at) for at in range(4)] == said["carol"]
                with pytest.raises(ConfigError, match="'m1' is in 3 sessions: 'new session', 's', 't'"):
                    store.erase(agent, Selection(ids=["m1"]))
                store.erase(agent, Selection(ids=["m1"], session="t"))
                assert [entry.text for entry in store.live(agent)] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("version", "kind"), [("0001", "file"), ("0004", "file"), ("0003", "postgresql schema"), ("0004", "postgresql")]
)
def test_what_was_folded_before_the_upgrade_stays_folded(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> None:
    with of_version(request, tmp_path, monkeypatch, version, kind) as database:
        dots = "memory." if kind.endswith("schema") else ""
        of_a_tool = f"UPDATE {dots}deltamem_messages SET role = 'tool' WHERE position IN (1, 3, 4)"
        database.write(lambda connection: connection.execute(text(of_a_tool)))
        versions.upgrade(database)
        assert versions.differences(database) == []
        with again(database) as store:
            assert all(entry.folded for agent, last in AGENTS.items() for entry in store.at(agent, last))
            store.append("alice", [{"role": role, "content": "new"} for role in ("tool", "user")], "s")
            store.append("alice", [{"role": "tool", "content": "other", "id": "m4"}], "s")
            assert [entry.folded for entry in store.live("alice")[-3:]] == [False, True, False]
            store.rollback("alice", 9)
            assert all(entry.folded for entry in store.live("alice")) and store.live("alice")[2].role == "tool"


@pytest.mark.parametrize(
    ("version", "kind"),
    [*((version, "file") for version in KNOWN[:-1]), ("0004", "postgresql schema"), ("0005", "postgresql")],
)
def test_erased_messages_leave_hashes_after_the_upgrade(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> None:
    with of_version(request, tmp_path, monkeypatch, version, kind) as database:
        assert versions.upgrade(database) == (version, versions.LATEST)
        assert versions.differences(database) == []
        with again(database) as store:
            said = store.live("alice")
            assert store.erase("alice", Selection(ids=["m1", "m3"])).remaining == {"alice": [("s", "m1"), ("s", "m3")]}
            messages = check_messages([{"role": "user", "content": each.text} for each in said])
            erased = [each for each in store.messages.ever_said("alice", "s", messages) if each.erased]
            assert [(each.place, each.id) for each in erased] == [(1, ""), (3, "")]
            assert len(store.messages.ever_said("alice", "s")) == len(said) - 2
        assert versions.differences(database) == []


@pytest.mark.parametrize("kind", ["file", pytest.param("postgresql", marks=pytest.mark.slow)])
@pytest.mark.parametrize("version", ["0001", "0002", "0003", "0004", "0005", "0006"])
def test_words_are_searched_in_their_form_after_the_upgrade(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, kind: str
) -> None:
    with of_version(request, tmp_path, monkeypatch, version, kind) as database:
        written = "ﾃﾞｰﾀ ４４１７ pass\u00adword Łódź"
        for table in ("records", "messages"):
            new = text(f"UPDATE deltamem_{table} SET text = :text WHERE agent_key = 5").bindparams(text=written)
            database.write(lambda connection, new=new: connection.execute(new))
        versions.upgrade(database)
        assert versions.differences(database) == []
        with Store.open(database.url, split=lambda given: [given]) as store:
            for asked in ("データ", "4417", "password", "lodz"):
                assert [record.text for record, _ in store.records.search_text("bób", [asked], 9)] == [written], asked
            assert store.records.cut_again("bób") is None  # cut without a rule, as here
            assert store.records.cut_again("alice") == Recut(position=9, changed=0, kept=7)
            assert store.records.cut_again("alice") is None


def test_states_are_the_same_and_damaged_ones_are_dropped(old: Database) -> None:
    versions.upgrade(old)
    with again(old) as store:
        kept = store.states.revisions("alice")
        assert [each.position for each in kept] == [position for position, (_, good) in STATES.items() if good]
        for revision, factor in zip(kept, (1, 2), strict=True):
            expected = {name: tensor * factor for name, tensor in OLD_STATE.items()}
            state = decode(revision.state)
            assert list(state) == list(expected) and all(torch.equal(state[name], expected[name]) for name in state)
            assert decode(encode(expected)).keys() == state.keys()
        newest = store.states.newest("alice", "f")  # compares the checksum
        assert newest is not None and newest.position == 2 and newest.parent == 1


def test_upgraded_tables_are_those_that_are_made_new(old: Database, tmp_path: Path) -> None:
    versions.upgrade(old)
    assert versions.differences(old) == []
    if old.url.get_backend_name() != "sqlite":
        return
    Store.open(f"sqlite:///{tmp_path}/new.db").close()
    shapes = []
    for name in ("m.db", "new.db"):
        with sqlite3.connect(tmp_path / name) as connection:
            rows = connection.execute("SELECT type, name, tbl_name FROM sqlite_master").fetchall()
            columns = {
                row[1]: sorted(
                    connection.execute(f"SELECT name, type, \"notnull\", pk FROM pragma_table_info('{row[1]}')")
                )
                for row in rows
                if row[0] == "table"
            }
            # Without their numbers: SQLAlchemy makes the indexes of a new table in no fixed order.
            indexes = {
                row[2]: {each[1:] for each in connection.execute(f"PRAGMA index_list({row[2]})")} for row in rows
            }
            keys = {row[2]: connection.execute(f"PRAGMA foreign_key_list({row[2]})").fetchall() for row in rows}
        shapes.append((sorted(row for row in rows if row[1] != "sqlite_sequence"), columns, indexes, keys))
    assert shapes[0] == shapes[1]


def test_an_old_database_is_refused_and_left_alone(old: Database) -> None:
    before = content(old)
    with pytest.raises(StoreError, match=rf"version 0001.*needs {versions.LATEST}.*deltamem db upgrade"):
        again(old)
    with pytest.raises(StoreError, match="version 0001"):
        versions.differences(old)
    assert content(old) == before


def test_an_upgrade_that_fails_changes_nothing(old: Database) -> None:
    dots = f"{old.schema}." if old.schema else ""
    old.write(lambda connection: connection.execute(text(f"CREATE TABLE {dots}deltamem_purges (x INTEGER)")))
    before = content(old)
    with pytest.raises(StoreError, match="already exists"):
        versions.upgrade(old)
    assert content(old) == before and versions.current(old) == "0001"
    old.write(lambda connection: connection.execute(text(f"DROP TABLE {dots}deltamem_purges")))
    assert versions.upgrade(old) == ("0001", versions.LATEST)


def content(database: Database) -> Any:
    """The bytes of a file; the tables and rows of a server."""
    if database.url.database is not None and database.url.get_backend_name() == "sqlite":
        database.read(lambda connection: connection.engine).dispose()  # which writes the log back
        return Path(database.url.database).read_bytes()
    engine = create_engine(database.url)
    dots = f"{database.schema}." if database.schema else ""
    with engine.connect() as connection:
        names = inspect(connection).get_table_names(schema=database.schema)
        found = {name: sorted(map(repr, connection.execute(text(f"SELECT * FROM {dots}{name}")))) for name in names}
    engine.dispose()
    return found


def test_a_new_database_is_created_at_once(database_url: str) -> None:
    if database_url == "sqlite://":
        pytest.skip("is gone when it is closed")
    with opened(database_url) as database:
        assert versions.current(database) is None
        with pytest.raises(StoreError, match="no deltamem tables"):
            versions.differences(database)
        assert versions.upgrade(database) == (None, versions.LATEST)
        assert versions.differences(database) == []
    Store.open(database_url).close()


@pytest.mark.parametrize("version", [f"{int(versions.LATEST) + 1:04}", "9999", "later"])
def test_a_newer_database_is_refused_untouched(database_url: str, version: str) -> None:
    if database_url == "sqlite://":
        pytest.skip("is gone when it is closed")
    with Store.open(database_url) as store:
        store.append("alice", [{"role": "user", "content": "apple"}], "s")
        change = text("UPDATE deltamem_version SET version_num = :version").bindparams(version=version)
        execute(store, change)
    with opened(database_url) as database:
        before = content(database)
        for refused in (lambda: Store.open(database_url), lambda: versions.upgrade(database)):
            with pytest.raises(StoreError, match=rf"version {version}.*up to {versions.LATEST}.*or a newer one"):
                refused()
        assert content(database) == before


def test_damage_is_told(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path}/m.db").close()
    with sqlite3.connect(tmp_path / "m.db") as connection:
        connection.executescript(
            """DROP INDEX deltamem_agents_origin;
               ALTER TABLE deltamem_agents ADD COLUMN colour TEXT;
               CREATE TABLE mine (x INTEGER);"""  # a neighbour's
        )
    with opened(f"sqlite:///{tmp_path}/m.db") as database:
        told = versions.differences(database)
    assert len(told) == 2 and any("origin" in each for each in told) and any("colour" in each for each in told)


def test_every_migration_is_known_to_the_package() -> None:
    assert KNOWN[-1] == versions.LATEST
