"""What there is on PostgreSQL alone: schemas, a caller's engine, and its own way to find words."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from deltamem_agents.errors import ConfigError, StoreError
from deltamem_agents.store import Selection, Store, versions
from deltamem_agents.store.database import open_database
from tests.databases import engine_of, execute, held, pool_threads, problems, stand_still, statements, watched

FreshUrl = Callable[[], str]
Say = Callable[..., dict[str, Any]]


@pytest.fixture
def url(postgresql_url: FreshUrl) -> str:
    return postgresql_url()


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    made = create_engine(url)
    yield made
    made.dispose()


def test_two_schemas_of_one_database_do_not_see_each_other(url: str, say: Say, engine: Engine) -> None:
    with Store.open(url, schema="one") as one, Store.open(url, schema="Two_2") as two, Store.open(url) as plain:
        one.append("alice", [say("apple", id="a"), say("banana")], "s")
        two.append("alice", [say("cherry", id="a")], "s")

        assert [entry.text for entry in one.live("alice")] == ["apple", "banana"]
        assert [entry.text for entry in two.live("alice")] == ["cherry"] and plain.agents() == []
        assert (
            two.records.search_text("alice", ["apple"], 5) == []
            and len(one.records.search_text("alice", ["apple"], 5)) == 1
        )
        one.fork("alice", "twin")
        one.rollback("alice", 1)
        one.erase("alice", Selection(ids=["a"]))
        assert one.purge() is None
        assert [entry.text for entry in one.live("twin")] == ["apple", "banana"]
        assert [entry.text for entry in two.live("alice")] == ["cherry"]
        for store, schema in ((one, "one"), (two, "Two_2"), (plain, None)):
            assert problems(store, schema) == []
        assert one.url.endswith("(schema one)")
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names(schema="Two_2")
    assert len(tables) == 11 and all(name.startswith("deltamem_") for name in tables)


@pytest.mark.parametrize("schema", ["a b", 'a"; DROP SCHEMA public; --', "", "ä", "a" * 64, "1a"])
def test_schemas_that_are_no_names(url: str, schema: str, engine: Engine) -> None:
    if schema == "":
        return  # the connection's own
    with pytest.raises(ConfigError, match="is not a name"):
        Store.open(url, schema=schema)
    with engine.connect() as connection:
        assert inspect(connection).get_table_names() == []


def test_sqlite_has_none() -> None:
    with pytest.raises(ConfigError, match="no schemas"):
        Store.open("sqlite://", schema="one")


def test_a_callers_engine_with_a_schema_is_left_open(engine: Engine, say: Say) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE mine (x INTEGER)"))
        connection.execute(text("CREATE SCHEMA memory"))
    for schema in ("memory", None):
        with Store.open(engine=engine, schema=schema) as store:
            store.append("alice", [say("apple", id="a")], "s")
            store.append("alice", [say("banana", id="a")], "s")
        with Store.open(engine=engine, schema=schema) as store:
            assert [entry.text for entry in store.live("alice")] == ["banana"]
    with engine.connect() as connection:
        assert "mine" in inspect(connection).get_table_names()
        assert "deltamem_agents" in inspect(connection).get_table_names(schema="memory")
        assert connection.get_isolation_level() == "READ COMMITTED"  # as its owner left it
        connection.execute(text("INSERT INTO mine VALUES (1)"))


def test_a_database_that_is_not_there(url: str) -> None:
    with pytest.raises(StoreError, match=r"does not exist.*create it"):
        Store.open(url.replace("/t", "/absent", 1) if "/t" in url else url)


def test_words_inside_names_addresses_and_numbers_are_found(url: str, say: Say) -> None:
    contents = [
        "see src/app.py, v1.2.3",
        "mail bob.smith@example.org",
        "https://docs.example.com/guide?page=7#top",
        "call -4012 or 3.14",
        "<b>bold</b> &amp; snake_case",
    ]
    with Store.open(url) as store:
        store.append("alice", [say(content) for content in contents], "s")
        for word, index in {
            "app": 0, "src app py": 0, "src/app.py": 0, "smith": 1, "bob.smith@example.org": 1, "guide": 2, "page 7": 2,
            "docs": 2, "4012": 3, "-4012": 3, "3.14": 3, "bold": 4, "snake": 4, "snake_case": 4,
        }.items():  # fmt: skip
            assert [record.text for record, _ in store.records.search_text("alice", [word], 9)] == [contents[index]], (
                word
            )


def test_the_search_uses_the_index(url: str, say: Say) -> None:
    with Store.open(url) as store:
        store.append("alice", [say(f"word{i} common") for i in range(3000)], "s")
        execute(store, "ANALYZE")
        with statements(store) as sent:
            assert len(store.records.search_text("alice", ["word77"], 5)) == 1
        (search,) = [each for each in sent if "ts_rank" in each[0]]
        with engine_of(store).connect() as connection:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # reading so few rows is as quick
            plan = connection.exec_driver_sql(f"EXPLAIN {search[0]}", search[1])
            assert "deltamem_records_words" in "\n".join(row[0] for row in plan)


def test_appends_that_wait_are_one_statement_and_one_agent_may_be_among_them_twice(url: str, say: Say) -> None:
    with Store.open(url) as store:
        for agent in ("a", "b"):
            store.append(agent, [say("first")], "s")
        ids: set[tuple[str, ...]] = set()

        def first() -> None:
            ids.add(tuple(store.append("a", [say("second")], "s")))

        said = [(agent, [say(f"{agent}{i}"), say("more")], f"s{i}") for i in range(3) for agent in ("a", "b")]
        with ThreadPoolExecutor(6, thread_name_prefix="waits") as pool, statements(store) as sent:
            with held(store, first):
                rest = [pool.submit(store.append, *each) for each in said]
                stand_still(pool_threads("waits"))
            ids |= {tuple(each.result()) for each in rest}
        texts_sent = [[each["text"] for each in given["said"].obj] for _, given in sent if "said" in given]
        assert [len(each) for each in texts_sent] == [1, 12]  # the six that waited are one statement
        for agent, count in (("a", 8), ("b", 7)):
            entries = store.live(agent)
            assert [entry.position for entry in entries] == list(range(1, count + 1))
            texts = [entry.text for entry in entries]
            for text_, session in ((f"{agent}{i}", f"s{i}") for i in range(3)):  # each thread's stay together, in order
                at = texts.index(text_)
                assert texts[at + 1] == "more" and entries[at].session == entries[at + 1].session == session
                assert (entries[at].id, entries[at + 1].id) in ids
            assert [record.text for record, _ in store.records.search_text(agent, [f"{agent}1"], 5)] == [f"{agent}1"]


def test_an_agent_that_another_process_holds_keeps_no_other_waiting(url: str, say: Say, engine: Engine) -> None:
    with Store.open(url) as store, ThreadPoolExecutor(1) as pool:
        for agent in ("held", "free"):
            store.append(agent, [say("first")], "s")
        with engine.begin() as other:
            other.execute(text("SELECT * FROM deltamem_agents WHERE id = 'held' FOR UPDATE"))
            waiting = pool.submit(store.append, "held", [say("second")], "s")
            time.sleep(0.1)
            for number in range(5):
                store.append("free", [say(str(number))], "s")
            assert len(store.live("free")) == 6 and not waiting.done()
        ids = waiting.result(10)
        assert [entry.id for entry in store.live("held")][1:] == ids


def test_an_answer_that_was_lost_is_not_written_twice(url: str, say: Say) -> None:
    """The statement came through, the connection broke before it said so, and the same is tried again."""
    with Store.open(url) as store:
        store.append("a", [say("first")], "s")
        lost: list[str] = []

        def lose(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if "said" in parameters and not lost:
                lost.append(statement)
                cursor.connection.close()
                raise psycopg.OperationalError("server closed the connection unexpectedly")

        with watched(engine_of(store), "after_cursor_execute", lose):
            store.append("a", [say("second")], "s")
        assert len(lost) == 1
        assert [entry.text for entry in store.live("a")] == ["first", "second"]


def test_a_database_of_version_0002_is_brought_up_to_date(url: str, say: Say, engine: Engine) -> None:
    with Store.open(url) as store:
        store.append("alice", [say("apple pie"), say("Zürich, 我住在奥斯陆")], "s")
    with engine.begin() as connection:  # as version 0002 had made it
        connection.execute(text("DROP TRIGGER deltamem_records_added ON deltamem_records"))
        connection.execute(text("DROP TRIGGER deltamem_records_changed ON deltamem_records"))
        connection.execute(text("DROP FUNCTION deltamem_records_words"))
        connection.execute(text("ALTER TABLE deltamem_records DROP COLUMN words"))
        vector = "to_tsvector('english'::regconfig, text || ' ' || coalesce(terms, ''))"
        connection.execute(text(f"CREATE INDEX deltamem_records_words ON deltamem_records USING gin ({vector})"))
        connection.execute(text("ALTER TABLE deltamem_agents DROP COLUMN secret, DROP COLUMN agent_ids_until"))
        connection.execute(text("ALTER TABLE deltamem_agents DROP COLUMN tombstone_key, DROP COLUMN cuts"))
        connection.execute(text("ALTER TABLE deltamem_messages DROP COLUMN folded"))
        connection.execute(text("ALTER TABLE deltamem_records DROP COLUMN cut"))
        connection.execute(text("DROP TABLE deltamem_tombstones, deltamem_tokens, deltamem_requests"))
        connection.execute(text("DROP INDEX deltamem_messages_live_id, deltamem_messages_superseded_id"))
        live_id = "deltamem_messages_live_id ON deltamem_messages (agent_key, id) WHERE left_at IS NULL"
        connection.execute(text(f"CREATE UNIQUE INDEX {live_id}"))
        connection.execute(text("UPDATE deltamem_version SET version_num = '0002'"))
    with pytest.raises(StoreError, match="deltamem db upgrade"):
        Store.open(url)
    database = open_database(url, None)
    assert versions.upgrade(database) == ("0002", versions.LATEST) and versions.differences(database) == []
    database.close()
    with Store.open(url) as store:
        for word in ("apple", "zurich", "奥斯陆"):
            assert len(store.records.search_text("alice", [word], 5)) == 1, word
        store.append("alice", [say("banana")], "s")
        store.fork("alice", "twin")
        assert len(store.records.search_text("twin", ["banana", "apple"], 5)) == 2
    with engine.connect() as connection:
        shape = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'deltamem_records'"
        assert ("words", "tsvector") in {tuple(row) for row in connection.execute(text(shape))}
        indexes = connection.execute(text("SELECT indexdef FROM pg_indexes WHERE indexname = 'deltamem_records_words'"))
        assert indexes.scalars().one().endswith("USING gin (words)")
