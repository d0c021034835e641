"""What there is on PostgreSQL alone: schemas, a caller's engine, and its own way to find words."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, text

from deltamem_agents.errors import ConfigError, StoreError
from deltamem_agents.store import Selection, Store, versions

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
        assert two.search_text("alice", ["apple"], 5) == [] and len(one.search_text("alice", ["apple"], 5)) == 1
        one.fork("alice", "twin")
        one.rollback("alice", 1)
        one.erase("alice", Selection(ids=["a"]))
        assert one.purge() is None
        assert [entry.text for entry in one.live("twin")] == ["apple", "banana"]
        assert [entry.text for entry in two.live("alice")] == ["cherry"]
        for store in (one, two, plain):
            assert versions.differences(store._database) == []
        assert one.url.endswith("(schema one)")
    with engine.connect() as connection:
        tables = inspect(connection).get_table_names(schema="Two_2")
    assert len(tables) == 8 and all(name.startswith("deltamem_") for name in tables)


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
            assert [record.text for record, _ in store.search_text("alice", [word], 9)] == [contents[index]], word


def test_the_search_uses_the_index(url: str, say: Say) -> None:
    with Store.open(url) as store:
        store.append("alice", [say(f"word{i} common") for i in range(3000)], "s")
        store._database.write(lambda connection: connection.execute(text("ANALYZE")))
        statements: list[str] = []

        def explained(connection: Any) -> str:
            from sqlalchemy import select

            from deltamem_agents.store.dialects.tsvector import _query, _vector
            from deltamem_agents.store.schema import RecordRow

            vector = _vector(RecordRow.text, RecordRow.terms)
            query = select(RecordRow.key).where(vector.op("@@")(_query(["word77"])))
            compiled = query.compile(connection.engine, compile_kwargs={"literal_binds": True})
            return "\n".join(
                row[0] for row in connection.exec_driver_sql("EXPLAIN " + str(compiled).replace("%%", "%"))
            )

        statements.append(store._database.read(explained))
        assert "deltamem_records_words" in statements[0]
