"""A store's database in a test's hands: rows are read and changed, statements are watched, held up and made to fail.

All of it goes by SQLAlchemy's public events and engines, so that no test reaches for a store's private attributes.
SQLAlchemy says which engine connects; a test so finds the engine of any store, made by the store or given to it, and
does with it what another program could do. Faults are real ones where a database can be told to fail: see `refuse`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic.config import Config
from sqlalchemy import Connection, Engine, Executable, event, text

from deltamem_agents.store import Store, versions
from deltamem_agents.store.database import open_database

SECONDS = 20.0  # then something hangs
IN_TABLES = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")  # how statements begin that read or write tables
Statement = str | Executable


def engine_of(store: Store) -> Engine:
    """The SQLAlchemy engine that a store uses."""
    used: list[Engine] = []
    here = threading.get_ident()

    def note(connection: Connection) -> None:
        if threading.get_ident() == here:
            used.append(connection.engine)

    event.listen(Engine, "engine_connect", note)
    try:
        store.knows("nobody")
    finally:
        event.remove(Engine, "engine_connect", note)
    return used[0]


def execute(store: Store, *statements: Statement) -> None:
    """Run statements in one transaction, as another program that has the database open."""
    with engine_of(store).begin() as connection:
        for statement in statements:
            connection.execute(text(statement) if isinstance(statement, str) else statement)


def query(store: Store, statement: Statement) -> list[Any]:
    """The rows that a statement gives; the values themselves if the rows have one column."""
    with engine_of(store).connect() as connection:
        found = connection.execute(text(statement) if isinstance(statement, str) else statement)
        return list(found.scalars() if len(found.keys()) == 1 else found)


def problems(store: Store, schema: str | None = None) -> list[str]:
    """How a store's tables differ from what they must be, and the damage that the database itself detects."""
    return versions.differences(open_database(None, engine_of(store), schema))


def refuse(store: Store, content: str) -> None:
    """Make a SQLite database refuse every message with this text, in the middle of a write."""
    execute(
        store,
        "CREATE TRIGGER refuse BEFORE INSERT ON deltamem_messages "
        f"WHEN NEW.text = '{content}' BEGIN SELECT RAISE(ABORT, 'refused'); END",
    )


def migrations(connection: Connection) -> Config:
    """Settings for Alembic's commands to run our migrations on a connection."""
    settings = Config(attributes={"connection": connection})
    settings.set_main_option("script_location", str(versions.MIGRATIONS))
    settings.set_main_option("path_separator", "os")
    return settings


@contextmanager
def watched(engine: Engine, name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Listen to one of SQLAlchemy's events on an engine meanwhile."""
    event.listen(engine, name, listener)
    try:
        yield
    finally:
        event.remove(engine, name, listener)


@contextmanager
def statements(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements that a store sends meanwhile, with their parameters."""
    sent: list[tuple[str, Any]] = []
    engine = engine_of(store)
    with watched(engine, "before_cursor_execute", lambda *given: sent.append((given[2], given[3]))):
        yield sent


@contextmanager
def held(store: Store, call: Callable[[], object]) -> Iterator[None]:
    """Run a call of a store in a thread, and hold it up meanwhile, inside its transaction.

    The call stops after its first statement that reads or writes a table.
    """
    reached, release = threading.Event(), threading.Event()

    def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is thread and statement.startswith(IN_TABLES) and not reached.is_set():
            reached.set()
            release.wait(2 * SECONDS)

    engine = engine_of(store)
    thread = threading.Thread(target=call)
    with watched(engine, "after_cursor_execute", stop):
        thread.start()
        try:
            assert reached.wait(SECONDS), "the call came to no such statement"
            yield
        finally:
            release.set()
            thread.join(SECONDS)
    assert not thread.is_alive()


def stand_still(threads: Sequence[threading.Thread], seconds: float = 0.1) -> None:
    """Return once every thread has been at the same instruction for so many seconds: each of them waits."""
    until = time.monotonic() + SECONDS
    since, places = time.monotonic(), _places(threads)
    while time.monotonic() < since + seconds:
        assert time.monotonic() < until, "they go on and on"
        time.sleep(seconds / 20)
        now = _places(threads)
        if now != places:
            since, places = time.monotonic(), now


def _places(threads: Sequence[threading.Thread]) -> list[tuple[int, int] | None]:
    frames = sys._current_frames()
    found = [frames.get(thread.ident or 0) for thread in threads]
    return [None if frame is None else (id(frame), frame.f_lasti) for frame in found]


def pool_threads(prefix: str) -> list[threading.Thread]:
    """The threads of an executor that was made with this ``thread_name_prefix``."""
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]
