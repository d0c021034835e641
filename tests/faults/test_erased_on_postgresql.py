"""What was erased on PostgreSQL is in none of the server's files but its write-ahead log, read byte by byte."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from deltamem_agents.store import Revision, Selection, Store
from deltamem_agents.store.dialects import rewriting
from tests.databases import problems

FreshUrl = Callable[[], str]
LETTERS = "bcdfghjklmnpqrstvwxz"
STATISTICS = "SELECT * FROM pg_stats WHERE tablename LIKE 'deltamem_%'"


class Files:
    """The files of one database and of what all share."""

    def __init__(self, url: str) -> None:
        self.engine = create_engine(url, isolation_level="AUTOCOMMIT")
        self.folder = Path(str(self.run("SHOW data_directory")[0][0]))
        self.oid = self.run("SELECT oid FROM pg_database WHERE datname = current_database()")[0][0]

    def run(self, statement: str, **values: Any) -> list[Any]:
        with self.engine.connect() as connection:
            done = connection.execute(text(statement), values)
            return list(done) if done.returns_rows else []

    def traces(self, wanted: dict[str, bytes]) -> dict[str, set[str]]:
        """Which of the wanted are in which files."""
        self.run("CHECKPOINT")
        found: dict[str, set[str]] = {}
        for path in self.folder.rglob("*"):
            part = path.relative_to(self.folder).parts
            other = part[0] == "base" and len(part) > 1 and part[1] != str(self.oid)
            if part[0] in ("pg_wal", "log") or part[-1] == "log" or other:
                continue
            try:
                data = path.read_bytes()
            except OSError:
                continue  # a folder, or gone meanwhile
            for name, value in wanted.items():
                if value in data:
                    found.setdefault(name, set()).add(str(path.relative_to(self.folder)))
        return found


@pytest.fixture
def url(postgresql_url: FreshUrl) -> str:
    return postgresql_url()


@pytest.fixture
def files(url: str) -> Iterator[Files]:
    made = Files(url)
    yield made
    made.engine.dispose()


def word(chance: random.Random, length: int = 12) -> str:
    return "q" + "".join(chance.choices(LETTERS, k=length))


def say(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


def tell(store: Store, chance: random.Random, agent: str, count: int, secrets: int, size: int) -> dict[str, bytes]:
    """Fill an agent; what must not be found once the messages of session "secret" are erased."""
    traces: dict[str, bytes] = {}
    said = []
    for i in range(count):
        said.append(("plain", say(" ".join(f"{word(chance)}" for _ in range(6)), id=f"{agent}-{i}")))
    for i in chance.sample(range(count), secrets):
        words = [word(chance) for _ in range(size)]
        note, name = word(chance), word(chance)
        content: Any = " ".join(words) if i % 2 else [{"type": "text", "text": " ".join(words)}]
        said.insert(i, (f"secret {name}", say(content, id=f"id {note}", metadata={"note": word(chance) + note})))
        for each in (words[0], words[-1], note, name):
            traces[each] = each.encode()
        traces[f"text {i}"] = " ".join(words)[:200].encode()
    for session, message in said:
        store.append(agent, [message], session)
    keys = [key for key, _ in store.records.missing_embeddings(agent, "model", 100_000)]
    matrix = np.random.default_rng(chance.randrange(2**32)).standard_normal((len(keys), 48)).astype(np.float32)
    secret = {record.key for record in store.records.read(agent) if record.session.startswith("secret")}
    for key, row in zip(keys, matrix, strict=True):
        if key in secret:
            traces[f"vector {key}"] = row[:8].tobytes()
    store.records.put_embeddings(agent, "model", keys, matrix)
    info = store.agent(agent)
    assert info is not None
    state = chance.randbytes(3000)
    store.states.commit(
        agent, Revision(position=info.position, epoch=info.epoch, fingerprint="f", state=state), after=0
    )
    traces["state"] = state[100:140]
    return traces


def erase(store: Store, agent: str) -> None:
    secret = [entry.id for entry in store.live(agent) if entry.session.startswith("secret")]
    store.erase(agent, Selection(ids=secret))


@pytest.mark.parametrize(
    ("seed", "count", "secrets", "size"), [(1, 3, 1, 4), (2, 3, 2, 9), (3, 60, 20, 12), (4, 20, 5, 700)], ids=str
)
def test_nothing_is_left_in_the_servers_files(
    url: str, files: Files, seed: int, count: int, secrets: int, size: int
) -> None:
    chance = random.Random(f"{seed} {count}")
    with Store.open(url) as store:
        traces = tell(store, chance, "alice", count, secrets, size)
        files.run("ANALYZE")
        kept = [entry.text for entry in store.live("alice") if entry.session == "plain"]
        assert len(files.traces(traces)) == len(traces)  # they are to be found at all

        erase(store, "alice")
        assert store.purge(whole=False) is None

        assert files.traces(traces) == {}
        files.run("ANALYZE")  # as the server's own process does
        assert files.traces(traces) == {}
        assert not any(name in str(files.run(STATISTICS)) for name in traces)
        assert [entry.text for entry in store.live("alice")] == kept
        assert len(store.records.search_text("alice", kept[0].split()[:1], 5)) == 1
        assert problems(store) == []
        files.run("ANALYZE")
        left = {"agent": b"alice", "text": kept[0].encode(), "secret key": store.secret("alice") or b""}
        assert len(files.traces(left)) == len(left)
        store.erase("alice", Selection(whole=True))
        assert store.purge(whole=False) is None
        assert files.traces(left) == {}


def test_statistics_that_an_older_version_let_be_made_are_forgotten(url: str, files: Files) -> None:
    with Store.open(url) as store:
        traces = tell(store, random.Random(3), "alice", 20, 15, 8)
        for table, column in files.run(
            "SELECT c.relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
            " WHERE attstattarget = 0 AND relname LIKE 'deltamem_%'"
        ):
            files.run(f"ALTER TABLE {table} ALTER COLUMN {column} SET STATISTICS -1")
        files.run("ANALYZE")
        assert any(name in str(files.run(STATISTICS)) for name in traces)
        store.erase("alice", Selection(whole=True))  # ANALYZE passes over empty tables
        assert store.purge(whole=False) is None
        files.run("ANALYZE")
        assert files.traces(traces) == {}
        assert not any(name in str(files.run(STATISTICS)) for name in traces)
        store.append("alice", [say("apples and pears")], "s")
        assert len(store.records.search_text("alice", ["apple"], 5)) == 1
        assert problems(store) == []


@pytest.mark.parametrize("old", [False, True])
def test_vectors_that_are_indexed(url: str, files: Files, old: bool) -> None:
    with Store.open(url) as store:
        traces = tell(store, random.Random(4), "alice", 60, 20, 5)
        assert store.records.index_vectors("alice", "model")
        halves = "SELECT v.record_key, halfvec_send(v.vector) FROM deltamem_vectors v JOIN deltamem_records r"
        halves += " ON r.key = v.record_key JOIN deltamem_messages m USING (agent_key, position)"
        for key, sent in files.run(f"{halves} WHERE m.session LIKE 'secret%'"):
            traces[f"half {key}"] = np.frombuffer(sent[4:24], ">f2").astype("<f2").tobytes()
        if old:
            files.run("ALTER TABLE deltamem_vectors ALTER COLUMN vector SET STATISTICS -1")
            files.run("ALTER INDEX deltamem_vectors_1 ALTER COLUMN 1 SET STATISTICS -1")
        files.run("ANALYZE")
        assert len(files.traces(traces)) == len(traces)
        assert old == any(
            "halfvec" in str(row) or "deltamem_vectors'" in str(row)
            for row in files.run(f"{STATISTICS} AND histogram_bounds IS NOT NULL AND attname IN ('vector', 'halfvec')")
        )
        erase(store, "alice")
        assert store.purge(whole=False) is None
        files.run("ANALYZE")
        assert files.traces(traces) == {}
        found, _ = store.records.nearest("alice", "model", np.ones(48, np.float32), 5)
        assert len(found) == 5


def test_large_tables_wait_for_a_purge(url: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "SMALL", 150_000)
    with Store.open(url) as store:
        traces = tell(store, random.Random(5), "alice", 300, 20, 60)
        erase(store, "alice")
        reason = store.purge(whole=False)
        assert reason is not None and "deltamem_messages" in reason and "deltamem db purge" in reason
        assert store.purge() is None and store.purge(whole=False) is None
        assert files.traces(traces) == {}


def test_a_lock_that_is_not_had_in_time_makes_it_pending(url: str, files: Files) -> None:
    with Store.open(url) as store:
        traces = tell(store, random.Random(6), "alice", 10, 5, 5)
        with files.engine.connect() as other:
            other.exec_driver_sql("BEGIN; LOCK TABLE deltamem_records IN ACCESS SHARE MODE")
            erase(store, "alice")
            began = time.monotonic()
            reason = store.purge()
            assert reason is not None and "deltamem_records is in use" in reason
            assert time.monotonic() - began < 15
            other.exec_driver_sql("ROLLBACK")
        assert store.purge() is None
        assert files.traces(traces) == {}


def test_who_may_still_read_the_rows_makes_it_pending(url: str, files: Files, postgresql_url: FreshUrl) -> None:
    elsewhere = create_engine(postgresql_url(), isolation_level="AUTOCOMMIT")
    with Store.open(url) as store, elsewhere.connect() as another:
        traces = tell(store, random.Random(7), "alice", 10, 5, 5)
        with files.engine.connect() as other:
            for begin, connection in (
                ("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class", other),
                ("BEGIN; CREATE TABLE other (x int)", other),  # has written something, and reads nothing now
                ("BEGIN; CREATE TABLE other (x int)", another),  # in another database
            ):
                connection.exec_driver_sql(begin)
                erase(store, "alice")
                assert "1 open transactions" in str(store.purge())
                connection.exec_driver_sql("ROLLBACK")
        assert store.purge() is None
        assert files.traces(traces) == {}


def test_an_index_that_an_interrupted_reindex_has_left_is_dropped(url: str, files: Files) -> None:
    with Store.open(url) as store:
        traces = tell(store, random.Random(8), "alice", 10, 5, 5)
        with files.engine.connect() as other, ThreadPoolExecutor(1) as pool:
            other.exec_driver_sql("BEGIN; LOCK TABLE deltamem_records IN ROW EXCLUSIVE MODE")
            running = pool.submit(files.run, "REINDEX INDEX CONCURRENTLY deltamem_records_words")
            time.sleep(0.5)
            files.run("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'REINDEX%'")
            other.exec_driver_sql("ROLLBACK")
            assert running.exception(10) is not None
        invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
        assert files.run(invalid)[0][0] == 1
        erase(store, "alice")
        assert store.purge(whole=False) is None
        assert files.run(invalid)[0][0] == 0
        assert files.traces(traces) == {}


def test_who_may_not_rewrite_is_told(url: str, files: Files) -> None:
    name = f"guest{make_url(url).database}"
    files.run(f"CREATE ROLE {name} LOGIN")
    with Store.open(url) as store:
        traces = tell(store, random.Random(9), "alice", 10, 5, 5)
        files.run(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {name}")
        files.run(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {name}")
        files.run(f"REVOKE MAINTAIN ON ALL TABLES IN SCHEMA public FROM {name}")
        with Store.open(make_url(url).set(username=name)) as guest:
            erase(guest, "alice")
            reason = guest.purge()
            assert reason is not None and "permission denied" in reason
        assert store.purge() is None
        assert files.traces(traces) == {}


def test_who_owns_the_tables_and_not_the_database(url: str, files: Files) -> None:
    database = make_url(url).database
    name = f"owner{database}"
    files.run(f"CREATE ROLE {name} LOGIN")
    files.run(f"GRANT CREATE ON DATABASE {database} TO {name}")
    columns = (
        "SELECT c.relname, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid"
        " WHERE attstattarget = 0 AND relname LIKE 'deltamem_%' AND relkind = 'r'"
    )
    with Store.open(make_url(url).set(username=name), schema="memories") as store:
        traces = tell(store, random.Random(12), "alice", 10, 5, 5)
        files.run("ANALYZE")
        erase(store, "alice")
        assert store.purge(whole=False) is None
        assert files.traces(traces) == {}

        for table, column in files.run(columns):  # as an older version had left them
            files.run(f"ALTER TABLE memories.{table} ALTER COLUMN {column} SET STATISTICS -1")
        traces = tell(store, random.Random(13), "bob", 10, 5, 5)
        files.run("ANALYZE")
        erase(store, "bob")
        for _ in range(2):
            assert "database's owner" in str(store.purge())
    with Store.open(url, schema="memories") as store:
        assert store.purge() is None
        assert files.traces(traces) == {}


def test_erasures_at_once_beside_writers(url: str, files: Files) -> None:
    failures: list[BaseException] = []
    ended = threading.Event()
    with Store.open(url) as store, Store.open(url) as another:
        agents = {f"agent {i}": tell(store, random.Random(i), f"agent {i}", 12, 6, 6) for i in range(4)}
        said = {i: 0 for i in range(3)}

        def write(writer: int) -> None:
            try:
                while not ended.is_set():
                    store.append(f"writer {writer}", [say(f"note {said[writer]}")], "s")
                    said[writer] += 1
                    assert len(another.live(f"writer {writer}")) == said[writer]
            except BaseException as error:
                failures.append(error)

        def clean(agent: str, of: Store) -> str | None:
            erase(of, agent)
            return of.purge(whole=False)

        writers = [threading.Thread(target=write, args=(writer,)) for writer in said]
        for each in writers:
            each.start()
        try:
            with ThreadPoolExecutor(4) as pool:
                stores = [store, another, store, another]
                reasons = list(pool.map(clean, agents, stores))
        finally:
            ended.set()
            for each in writers:
                each.join()
        assert failures == []
        assert all(reason is None or "open transactions" in reason or "in use" in reason for reason in reasons), reasons
        assert store.purge() is None
        for traces in agents.values():
            assert files.traces(traces) == {}
        for writer, count in said.items():
            assert len(store.live(f"writer {writer}")) == count > 0


def test_in_a_schema_and_through_a_callers_engine(url: str, files: Files) -> None:
    engine: Engine = create_engine(url)
    with Store.open(engine=engine, schema="memories") as store, Store.open(url) as other:
        traces = tell(store, random.Random(11), "alice", 10, 5, 5)
        other.append("bob", [say("hello")], "s")
        erase(store, "alice")
        assert store.purge(whole=False) is None
        assert files.traces(traces) == {} and len(other.live("bob")) == 1
    engine.dispose()
