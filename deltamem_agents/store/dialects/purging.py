"""Removes the bytes of deleted rows from a SQLite database's files, without copying the file if possible.

Merging the full-text index drops the words of deleted rows. Then the write-ahead log, which holds old pages, is
emptied, and the unused space of the file is overwritten, see `unused_space`. The whole file is copied (``VACUUM``) only
if more than half of it is free, which makes the copy worthwhile, or if its unused space is not known: rows may have
been deleted without ``secure_delete``, there is no write-ahead log, or the file is encrypted.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from deltamem_agents.store.dialects import unused_space
from deltamem_agents.store.dialects.fts5 import INDEX, REMEDY, index_exists
from deltamem_agents.store.dialects.fts5_levels import merge

READERS = "a reader holds the write-ahead log"
WRITERS = "other processes keep writing"
ATTEMPTS = 5  # tries to find the write-ahead log empty


def purge(driver: sqlite3.Connection) -> str | None:
    """Remove deleted bytes from the files; returns why that has to wait, or None.

    The connection must be in no transaction and must begin none by itself.
    """
    try:
        if index_exists(driver):
            merge(driver, INDEX)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            return str(error)
        return f"the full-text index is broken ({error}): {REMEDY}"
    try:
        return _purge_files(driver)
    except (sqlite3.Error, OSError) as error:
        return str(error)


def _purge_files(driver: sqlite3.Connection) -> str | None:
    path = Path(_value(driver, "SELECT file FROM pragma_database_list WHERE name = 'main'") or "")
    if path == Path():
        return None  # in memory
    free, pages = int(_value(driver, "PRAGMA freelist_count")), int(_value(driver, "PRAGMA page_count"))
    logged = _value(driver, "PRAGMA journal_mode") == "wal"
    clearable = logged and _value(driver, "PRAGMA secure_delete") == 1 and unused_space.can_be_cleared(path)
    if not clearable or 2 * free > pages:
        driver.execute("VACUUM")
        return READERS if logged and _checkpoint_fails(driver) else None
    log = Path(f"{path}-wal")
    for _ in range(ATTEMPTS):
        if _checkpoint_fails(driver):
            return READERS
        driver.execute("BEGIN IMMEDIATE")
        try:
            if log.exists() and log.stat().st_size:
                continue
            unused_space.clear(path, unused_space.freed_pages(path))
            # A commit makes other connections drop the pages in their caches.
            driver.execute("UPDATE deltamem_version SET version_num = version_num")
            driver.execute("COMMIT")
        finally:
            if driver.in_transaction:
                driver.execute("ROLLBACK")
            driver.execute("PRAGMA shrink_memory")  # drops this connection's cached pages
        return READERS if _checkpoint_fails(driver) else None
    return WRITERS


def _checkpoint_fails(driver: sqlite3.Connection) -> bool:
    return bool(driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])


def _value(driver: sqlite3.Connection, query: str) -> Any:
    return driver.execute(query).fetchone()[0]
