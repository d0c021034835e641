"""Locks among threads, and transactions that always end, even when interrupted.

Ctrl-C can come between any two steps: after a lock is taken but before that is noted, while SQLAlchemy ends a
transaction, and during the cleanup itself. So each cleanup is idempotent and runs a second time if the first may have
been interrupted. Knows no tables and no dialect.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import StaticPool

T = TypeVar("T")


class TurnBusyError(Exception):
    """Another thread kept the turn until the deadline."""


class Turn:
    """A reentrant lock among threads that knows whether this thread holds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    @property
    def mine(self) -> bool:
        """Whether this thread has the turn."""
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]  # as threading.Condition does

    def take(self, until: float | None = None) -> None:
        """Wait for the turn.

        Args:
            until: Deadline by `time.monotonic`; None waits forever.

        Raises:
            TurnBusyError: The deadline passed.
        """
        seconds = -1.0 if until is None else max(until - time.monotonic(), 0.0)
        if not self._lock.acquire(timeout=min(seconds, threading.TIMEOUT_MAX)):
            raise TurnBusyError

    def give_back(self) -> None:
        """Release the turn."""
        self._lock.release()

    def __enter__(self) -> None:
        self.take()

    def __exit__(self, *_: object) -> None:
        self.give_back()


class NoTurn(Turn):
    """A turn that every thread has at all times."""

    @property
    def mine(self) -> bool:
        """Always true."""
        return True

    def take(self, until: float | None = None) -> None:
        """Return at once."""

    def give_back(self) -> None:
        """Do nothing."""


def in_turn(turn: Turn, work: Callable[[], T], until: float | None = None) -> T:
    """Run ``work`` while this thread has the turn.

    Raises:
        TurnBusyError: The turn did not come by ``until``.
    """
    had = turn.mine
    try:
        try:
            if not had:
                turn.take(until)
            return work()
        finally:
            _give_back(turn, had)
    except BaseException:
        _give_back(turn, had)  # in case the first was interrupted
        raise


def _give_back(turn: Turn, had: bool) -> None:
    if not had and turn.mine:
        turn.give_back()


def transact(
    engine: Engine,
    begin: Callable[[Connection, Any], None],
    work: Callable[[Connection], T],
    commit: Callable[[Any], None],
    *,
    owned: bool,
) -> T:
    """Run ``work`` in one transaction, and return the connection to the pool whatever happens.

    Args:
        begin: Called with the connection and the driver's connection once SQLAlchemy has begun the transaction.
        commit: Called with the driver's connection before the commit.
        owned: Whether the engine is ours, so that its pool may be replaced.
    """
    return _with_lease(_Lease(engine, owned), lambda lease: lease.transact(begin, work, commit))


def with_driver(engine: Engine, work: Callable[[sqlite3.Connection], T], *, owned: bool) -> T:
    """Run ``work`` with SQLite's own connection, on which only explicit statements begin a transaction."""
    return _with_lease(_Lease(engine, owned), lambda lease: lease.with_driver(work))


def _with_lease(lease: _Lease, use: Callable[[_Lease], T]) -> T:
    """Use a lease and end it; if either fails or is interrupted, abandon it."""
    try:
        try:
            return use(lease)
        finally:
            lease.end()
    except BaseException as error:
        cause = _interruption(error)
        lease.abandon(cause)
        if cause is not error:  # Ctrl-C came during the end of a transaction, and SQLAlchemy raised another error
            raise cause from None
        raise


class _Lease:
    """A connection from an engine's pool, from its checkout to its return."""

    def __init__(self, engine: Engine, owned: bool) -> None:
        self._engine, self._owned = engine, owned
        self._connection: Any = None
        self._driver: Any = None
        self._transaction: Any = None
        self._restore: tuple[str | None, int] | None = None
        self._idle = False  # whether no transaction is open any more, which the return to the pool requires
        self._ended = False

    def transact(
        self, begin: Callable[[Connection, Any], None], work: Callable[[Connection], T], commit: Callable[[Any], None]
    ) -> T:
        connection: Connection = self._engine.connect()
        self._connection = connection
        self._driver = connection.connection.dbapi_connection
        self._transaction = connection.begin()
        begin(connection, self._driver)
        result = work(connection)
        commit(self._driver)
        self._transaction.commit()
        self._idle = True
        return result

    def with_driver(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._connection = self._engine.raw_connection()
        driver: sqlite3.Connection = self._connection.driver_connection
        self._driver = driver
        self._restore = driver.isolation_level, driver.execute("PRAGMA busy_timeout").fetchone()[0]
        driver.isolation_level = None
        return work(driver)

    def end(self) -> None:
        """Return the connection to the pool, rolling back a transaction that was not committed."""
        if self._connection is None:
            return  # the checkout never finished
        if not self._idle and self._transaction is not None:
            self._transaction.rollback()
        self._restore_driver()
        self._idle = True
        self._connection.close()
        self._ended = True

    def _restore_driver(self) -> None:
        if self._restore is not None:
            if self._driver.in_transaction:
                self._driver.rollback()
            self._driver.isolation_level = self._restore[0]
            self._driver.execute(f"PRAGMA busy_timeout = {self._restore[1]}")

    def abandon(self, error: BaseException) -> None:
        """End the lease after `end` was interrupted or failed; discards the connection if its state is unknown."""
        interrupted = not isinstance(error, Exception)
        if self._ended:
            self._connection = self._transaction = self._driver = None
            if interrupted:
                _let_go(error)
            return
        kept = isinstance(self._engine.pool, StaticPool)  # closing its only connection would lose the database
        if self._driver is not None and not self._idle:
            with suppress(Exception):
                self._driver.rollback()
            with suppress(Exception):
                self._restore_driver()
            if not kept:
                with suppress(Exception):
                    self._connection.invalidate()
                with suppress(Exception):
                    self._driver.close()
        if self._connection is not None and not self._idle:
            with suppress(Exception):
                self._connection.close()
        self._connection = self._transaction = self._driver = None
        if interrupted:
            _let_go(error)
            if not kept:
                self._engine.dispose()  # replaces the pool, which may count the connection as checked out
        self._ended = True


def _interruption(error: BaseException) -> BaseException:
    """The interruption, such as KeyboardInterrupt, that led to an error; otherwise the error itself."""
    each: BaseException | None = error
    for _ in range(10):
        if each is None:
            break
        if not isinstance(each, Exception):
            return each
        each = each.__context__
    return error


def _let_go(error: BaseException) -> None:
    """Free what the frames of an error hold: connections that were never handed over, and cursors.

    SQLAlchemy closes a connection on which it is interrupted, and SQLite rolls back only once the last cursor is freed.
    """
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        each = each.__cause__ or each.__context__
    gc.collect()
