"""PostgreSQL as others run it: drivers, isolation, poolers, encodings, time zones, connections that end."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import (
    AssertionPool,
    Engine,
    NullPool,
    QueuePool,
    SingletonThreadPool,
    StaticPool,
    create_engine,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError

from deltamem_agents.errors import ConfigError, StoreError
from deltamem_agents.store import Selection, Store
from tests.databases import held, problems

FreshUrl = Callable[[], str]
Say = Callable[..., dict[str, Any]]


def _pooler() -> Any:
    spec = importlib.util.spec_from_file_location("pooler", Path(__file__).parent / "pooler.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pooler"] = module
    spec.loader.exec_module(module)
    return module.TransactionPooler


TransactionPooler = _pooler()


@pytest.fixture
def url(postgresql_url: FreshUrl) -> str:
    return postgresql_url()


@pytest.fixture
def run(url: str) -> Iterator[Callable[..., Any]]:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")

    def statement(words: str) -> Any:
        with engine.connect() as connection:
            done = connection.execute(text(words))
            return done.scalar() if done.returns_rows else None

    yield statement
    engine.dispose()


@pytest.fixture
def engines() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(*given: Any, **options: Any) -> Engine:
        made.append(create_engine(*given, **options))
        return made[-1]

    yield make
    for each in made:
        each.dispose()


# Drivers, pools and isolation


@pytest.mark.parametrize(
    "driver", ["psycopg2", "psycopg2cffi", "pg8000", "asyncpg", "psycopg_async", "pygresql", "pypostgresql", "odd"]
)
def test_drivers_that_were_not_tested_are_refused_by_name(driver: str) -> None:
    with pytest.raises(ConfigError, match=rf"'postgresql\+{driver}' is not supported.*psycopg 3"):
        Store.open(f"postgresql+{driver}://app@127.0.0.1:9/x")


@pytest.mark.parametrize(
    "url", ["sqlite+aiosqlite:///x.db", "sqlite+pysqlcipher:///x.db", "sqlite+pysqlite_numeric://"]
)
def test_so_are_those_of_sqlite(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="sqlite"):
        Store.open(url)


@pytest.mark.parametrize("driver", ["psycopg2", "pg8000", "another"])
@pytest.mark.parametrize("isolation", [None, "AUTOCOMMIT"])
def test_so_is_a_callers_engine(driver: str, isolation: Any, engines: Callable[..., Engine]) -> None:
    engine = engines("postgresql+psycopg://app@127.0.0.1:9/x", **({"isolation_level": isolation} if isolation else {}))
    engine.dialect.driver = driver
    with pytest.raises(ConfigError, match=rf"'postgresql\+{driver}' is not supported.*psycopg 3"):
        Store.open(engine=engine)


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool, AssertionPool])
@pytest.mark.parametrize("scheme", ["postgresql+psycopg://app@127.0.0.1:9/x", "sqlite:///{}/x.db"])
def test_so_are_pools_that_share_a_connection(
    scheme: str, pool: Any, engines: Callable[..., Engine], tmp_path: Path
) -> None:
    if pool is StaticPool and scheme.startswith("sqlite"):
        return  # takes turns
    with pytest.raises(ConfigError, match=r"StaticPool|QueuePool|not supported"):
        Store.open(engine=engines(scheme.format(tmp_path), poolclass=pool))


LEVELS = ["AUTOCOMMIT", "READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.mark.parametrize(("level", "pool"), [*((level, QueuePool) for level in LEVELS), (LEVELS[2], NullPool)])
def test_nothing_is_lost_at_any_isolation(
    level: str, pool: Any, url: str, say: Say, engines: Callable[..., Engine]
) -> None:
    with Store.open(engine=engines(url, isolation_level=level, poolclass=pool)) as store:
        written_at_once(store, say)


@pytest.mark.parametrize(("level", "own"), [(LEVELS[3], True), (LEVELS[4], True), (LEVELS[4], False)])
def test_nor_at_the_servers(
    level: str, own: bool, url: str, say: Say, run: Any, engines: Callable[..., Engine]
) -> None:
    run(f"ALTER DATABASE {make_url(url).database} SET default_transaction_isolation = '{level.lower()}'")
    with Store.open(**({"url": url} if own else {"engine": engines(url)})) as store:
        written_at_once(store, say)


def written_at_once(store: Store, say: Say) -> None:
    def write(writer: int) -> list[str]:
        ids = []
        for i in range(6):
            named = {"id": f"{writer}-{i}"} if i % 2 else {}
            ids += store.append("shared" if i % 3 else f"own {writer}", [say(f"{writer} says {i}", **named)], "s")
        store.rollback(f"own {writer}", 1)
        return ids

    with ThreadPoolExecutor(4) as pool:
        told = {each for ids in pool.map(write, range(4)) for each in ids}
    stored = [entry.id for agent in ("shared", *(f"own {i}" for i in range(4))) for entry in store.live(agent)]
    assert len(told) == 24 and len(stored) == 16 + 4 and set(stored) <= told
    assert [entry.position for entry in store.live("shared")] == list(range(1, 17))
    store.erase("shared", Selection(whole=True))
    assert store.agent("shared") is None


# Schemas and extensions


def test_a_schema_that_another_is_making_is_waited_for(url: str, say: Say, engines: Callable[..., Engine]) -> None:
    with engines(url).connect() as other, ThreadPoolExecutor(1) as pool:
        other.execute(text("CREATE SCHEMA memories"))
        waiting = pool.submit(Store.open, url, schema="memories")
        time.sleep(0.3)
        assert not waiting.done()
        other.commit()
        with waiting.result(20) as store:
            store.append("alice", [say("hello")], "s")


def test_many_that_open_a_new_schema_at_once(url: str) -> None:
    start = threading.Barrier(6)

    def opened(_: int) -> None:
        start.wait()
        Store.open(url, schema="memories").close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(opened, range(6)))
    with Store.open(url, schema="memories") as store:
        assert problems(store, "memories") == []


# Poolers


@pytest.fixture
def pooled(url: str) -> Iterator[str]:
    real = make_url(url)
    with TransactionPooler(str(real.query["host"]), str(real.username), str(real.database)) as pooler:
        there = real.set(host="127.0.0.1", port=pooler.port).difference_update_query(["host"])
        yield there.render_as_string(hide_password=False)


@pytest.mark.parametrize("more", ["", "?prepare_threshold=none", "?prepare_threshold=0", "?prepare_threshold=5"])
def test_a_transaction_pooler(pooled: str, more: str, say: Say) -> None:
    with Store.open(pooled + more, schema="memories") as store, Store.open(pooled + more, schema="memories") as other:
        for i in range(12):
            store.append("alice", [say(f"note {i}", id=f"n{i}")], "s")
            other.append("alice", [say(f"remark {i}")], "s")
            other.append("bob", [say(f"remark {i}")], "s")
            assert len(store.live("alice")) == 2 * i + 2
        assert len(other.records.search_text("alice", ["note"], 50)) == 12
        store.fork("alice", "twin")
        store.rollback("alice", 4)
        other.erase("alice", Selection(ids=["n0"]), forks=True)
        assert other.purge() is None
        assert len(store.live("alice")) == 3 and len(store.live("twin")) == 23
        assert problems(store, "memories") == []
        written_at_once(store, say)


def test_a_callers_engine_behind_one_must_not_prepare(pooled: str, say: Say, engines: Callable[..., Engine]) -> None:
    with pytest.raises(ConfigError, match=r"transaction pooler.*prepare_threshold"):
        Store.open(engine=engines(pooled))
    with Store.open(engine=engines(pooled, connect_args={"prepare_threshold": None})) as store:
        written_at_once(store, say)


def test_a_pooler_that_was_not_noticed_is_found_out(
    url: str, pooled: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(url).close()
    monkeypatch.setattr("deltamem_agents.store.dialects.psycopg3.LOOKS", 0)
    with Store.open(pooled) as store:
        for i in range(30):
            store.append("alice", [say(f"note {i}")], "s")
            assert len(store.live("alice")) == i + 1


@pytest.mark.parametrize("given", ["some", "-1", "1.5", "None and more"])
def test_thresholds_that_are_none(given: str) -> None:
    with pytest.raises(ConfigError, match=r"prepare_threshold is .*or none"):
        Store.open(f"postgresql://app@127.0.0.1:9/x?prepare_threshold={given}")


# Encodings


@pytest.mark.parametrize(
    ("encoding", "own"),
    [("SQL_ASCII", True), ("SQL_ASCII", False), ("LATIN1", True), ("EUC_TW", False), ("WIN1252", False)],
)
def test_encodings_that_cannot_hold_all(
    encoding: str, own: bool, url: str, run: Any, engines: Callable[..., Engine]
) -> None:
    name = f"t{uuid4().hex}"
    run(f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    there = make_url(url).set(database=name)
    with pytest.raises((ConfigError, StoreError), match=rf"{encoding}.*UTF8"):
        Store.open(**({"url": there} if own else {"engine": engines(there)}))


def test_a_client_encoding(url: str, engines: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, say: Say) -> None:
    with pytest.raises(ConfigError, match=r"client_encoding is LATIN1.*UTF8"):
        Store.open(engine=engines(url, connect_args={"client_encoding": "latin1"}))
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with Store.open(url) as store:
        store.append("alice", [say("Deploy 🚀")], "s")
        assert [entry.text for entry in store.live("alice")] == ["Deploy 🚀"]


# Times


TIMES = [
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(1, 1, 1, 5, tzinfo=UTC),
    datetime(1883, 11, 18, 12, 3, 58, tzinfo=UTC),
    datetime(2026, 3, 8, 2, 30, tzinfo=UTC),
    datetime(2026, 11, 30, 12, 0, 0, 123456, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
]


@pytest.mark.parametrize(
    ("zone", "own"), [("America/New_York", True), ("Asia/Tokyo", True), ("Africa/Monrovia", False), ("UTC", True)]
)
def test_times_of_any_year_in_any_zone(
    zone: str, own: bool, url: str, run: Any, engines: Callable[..., Engine], say: Say
) -> None:
    run(f"ALTER DATABASE {make_url(url).database} SET timezone = '{zone}'")
    with Store.open(**({"url": url} if own else {"engine": engines(url)})) as store:
        read_and_found(store, say)


def test_times_on_sqlite(say: Say) -> None:
    with Store.open("sqlite://") as store:
        read_and_found(store, say)


def read_and_found(store: Store, say: Say) -> None:
    store.append("alice", [say(f"note {i}", created_at=when) for i, when in enumerate(TIMES)], "s")
    store.append("alice", [say(f"named {i}", created_at=when, id=f"n{i}") for i, when in enumerate(TIMES)], "s")
    store.fork("alice", "twin")
    for agent in ("alice", "twin"):
        assert [entry.created_at for entry in store.live(agent)] == TIMES * 2
        assert [record.created_at for record in store.records.read(agent)] == TIMES * 2
    east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))
    everything = Selection(since=datetime.min.replace(tzinfo=east), until=datetime.max.replace(tzinfo=west))
    assert store.erase("alice", everything, dry_run=True).erased[0].messages >= 10
    middle = Selection(since=TIMES[1], until=TIMES[4])
    assert store.erase("alice", middle).erased[0].messages == 6
    assert all(agent.created_at.year > 2000 for agent in store.agents())


# Connections that end


def failing(state: str | None, kind: str = "OperationalError") -> DBAPIError:
    original = type(kind, (Exception,), {"sqlstate": state})()
    return DBAPIError("statement", None, original)


@pytest.mark.parametrize(
    ("states", "passing"),
    [
        (("08000", "08001", "08003", "08004", "08006", "08007", "08P01"), True),
        (("57P01", "57P02", "57P03", "57P04", "57P05"), True),
        (("25P03",), True),
        (("40001", "40P01", "40002", "40003"), True),
        (("53300", "55P03"), True),
        ((None,), True),  # no answer
        (("57014", "25P04"), False),  # the user's own limits: the same would happen again
        (("25006", "25P02", "26000", "42P05"), False),
        (("22P02", "23505", "28P01", "28000", "3D000", "42501", "53100", "53200", "58030", "XX000", "0A000"), False),
    ],
)
def test_what_is_tried_again(states: tuple[str | None, ...], passing: bool, engines: Callable[..., Engine]) -> None:
    from deltamem_agents.store.dialects.postgresql import Postgresql

    dialect = Postgresql(engines("postgresql+psycopg://app@127.0.0.1:9/x"))
    assert {state: dialect.passing(failing(state)) for state in states} == dict.fromkeys(states, passing)


def test_a_server_that_only_reads_is_left_for_the_one_that_writes(engines: Callable[..., Engine]) -> None:
    from deltamem_agents.store.dialects.postgresql import Postgresql

    for where, several in (
        ("app@a,b/x", True),
        ("app@/x?host=a,b", True),
        ("app@a/x?target_session_attrs=read-write", True),
        ("app@a/x", False),
    ):
        dialect = Postgresql(engines(f"postgresql+psycopg://{where}"))
        assert dialect.passing(failing("25006")) is several


@pytest.mark.parametrize("how", ["idle", "ended", "idle in a transaction"])
@pytest.mark.parametrize("own", [True, False])
def test_a_connection_that_the_server_has_ended(
    how: str, own: bool, url: str, run: Any, engines: Callable[..., Engine], say: Say
) -> None:
    name = make_url(url).database
    if how == "idle":
        run(f"ALTER DATABASE {name} SET idle_session_timeout = '300ms'")
    elif how == "idle in a transaction":
        run(f"ALTER DATABASE {name} SET idle_in_transaction_session_timeout = '200ms'")
    with Store.open(**({"url": url} if own else {"engine": engines(url)})) as store:
        store.append("alice", [say("one")], "s")
        if how == "ended":
            run(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                f" WHERE datname = '{name}' AND pid <> pg_backend_pid()"
            )
        elif how == "idle":
            time.sleep(0.8)
        else:
            with held(store, lambda: store.append("bob", [say("three", id="three")], "s")):
                time.sleep(0.5)
            assert [entry.text for entry in store.live("bob")] == ["three"]  # on another connection
        store.append("alice", [say("two")], "s")
        assert [entry.text for entry in store.live("alice")] == ["one", "two"]


def test_a_database_that_was_dropped_is_said_to_be_gone(url: str, postgresql_url: FreshUrl, say: Say) -> None:
    with Store.open(url, retry_seconds=1.0) as store:
        store.append("alice", [say("one")], "s")
        engine = create_engine(postgresql_url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {make_url(url).database} WITH (FORCE)"))
        engine.dispose()
        with pytest.raises(StoreError, match="does not exist"):
            store.append("alice", [say("two")], "s")


# Very many words


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_query_of_more_words_than_a_statement_takes_values(
    kind: str, request: pytest.FixtureRequest, say: Say
) -> None:
    with Store.open(request.getfixturevalue("url") if kind == "postgresql" else "sqlite://") as store:
        store.append("alice", [say("the xylograph of Lisbon"), say("a quokka"), say("nothing of it")], "s")
        for count in (4_096, 4_097, 66_000):
            words = [f"w{i}x" for i in range(count)]
            words[count // 2] = "xylograph"
            words[-1] = "quokka"
            if count == 4_097:
                words += ["y" * 3_000, "z" * 200_000, "\0", "'", "|&!:*()<->\\"]
                assert len(store.records.text_scores("alice", words, 5)) == 2
            found = [record.text for record, _ in store.records.search_text("alice", words, 5)]
            assert sorted(found) == ["a quokka", "the xylograph of Lisbon"]


@pytest.mark.parametrize(
    "term", ["'", "\\", "''", "a' | 'b", "!&|", "a:*", "(((", "<->", "\0", "\ufffe", " ", "of the", "%", "$1", ":x"]
)
def test_terms_are_values_and_never_syntax(term: str, url: str, say: Say) -> None:
    with Store.open(url) as store:
        store.append("alice", [say("a quokka")], "s")
        store.records.search_text("alice", [term], 5)
        assert [record.text for record, _ in store.records.search_text("alice", [term, "quokka"], 5)] == ["a quokka"]


def test_the_lowest_versions_that_are_allowed_are_those_that_make_test_lowest_takes() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, root / "tests" / "integrations" / "lowest.py"], capture_output=True, text=True, check=True
    )
    allowed = (root / "pyproject.toml").read_text()
    for name in ("sqlalchemy", "psycopg"):
        lowest = re.search(rf'"{name}(?:\[binary\])?>=([\d.]+)', allowed)
        assert lowest is not None and f"{name}=={lowest[1]}" in done.stdout.splitlines()
        assert done.stdout.count(f"{name}==") == 1
    test_lowest = (root / "Makefile").read_text().partition("\ntest-lowest:")[2].partition("\n\n")[0]
    assert "tests/store" in test_lowest
