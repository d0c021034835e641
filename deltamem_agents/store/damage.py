"""Finds damaged rows: those with values that this package would not have written.

Runs after a read has failed, and in 'deltamem db check'. Reads every value in the driver's own form, so it also finds
values that SQLAlchemy cannot read.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Table, select, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType

from deltamem_agents.store.columns import Checked, DamagedValue
from deltamem_agents.store.schema import Base

REMEDIES = {  # what is derived from the journal can be derived again
    "deltamem_revisions": "'deltamem rebuild AGENT' folds the journal again",
    "deltamem_embeddings": "delete that row, and 'deltamem reindex' embeds the record again",
}
SECONDS = 10.0  # limit of a search after a failed read, which raises its own error anyway
CHECK_SECONDS = 60.0  # limit of a search by 'deltamem db check'
LISTED = 20  # rows that 'deltamem db check' names
RESTORE = "restore the database from a backup, or correct that row"


class _Text(bytes):
    """The bytes of a text value in SQLite."""


def found(connection: Connection) -> str | None:
    """Describe the first damaged row and its remedy; None if none is found within `SECONDS`."""
    try:
        return next(_damaged(connection, time.monotonic() + SECONDS), None)
    except TimeoutError:
        return None


def all_found(connection: Connection) -> tuple[list[str], bool]:
    """Describe the first `LISTED` damaged rows; also returns False if a minute was too short to read all rows."""
    rows: list[str] = []
    try:
        for row in _damaged(connection, time.monotonic() + CHECK_SECONDS):
            rows.append(row)
            if len(rows) == LISTED:
                return [*rows, "more rows may be damaged: these are the first"], True
    except TimeoutError:
        return rows, False
    return rows, True


def told(table: str, key: Sequence[Any], fault: str) -> str:
    """Describe one damaged row in a sentence, with its remedy."""
    names = [column.name for column in Base.metadata.tables[table].primary_key]
    row = ", ".join(f"{name} {value!r:.40}" for name, value in zip(names, key, strict=True))
    return f"row ({row}) of {table}: {fault}; it was edited or damaged: {REMEDIES.get(table, RESTORE)}"


def _damaged(connection: Connection, until: float) -> Iterator[str]:
    """Describe each damaged row; raises TimeoutError once `time.monotonic` passes ``until``."""
    heads: dict[Any, int] = {}
    for table in Base.metadata.sorted_tables:
        keys = [column.name for column in table.primary_key]
        readers = {column.name: _reader(column.type, connection.dialect) for column in table.columns}
        for raw in _rows(connection, table):
            if time.monotonic() > until:
                raise TimeoutError
            row: dict[str, Any] = {}
            fault = None
            for name, value in raw.items():
                try:
                    row[name] = readers[name](value)
                except DamagedValue as error:
                    row[name], fault = value, fault or f"{name} is {error}"
            fault = fault or _contradiction(table.name, row, heads)
            if fault:
                yield told(table.name, [row[each] for each in keys], fault)
            if table.name == "deltamem_agents" and not fault:
                heads[row["key"]] = row["head"]


def _reader(kind: Any, dialect: Dialect) -> Any:
    """A function that converts the driver's value to what a caller gets, and checks it."""
    convert = kind.dialect_impl(dialect).result_processor(dialect, None) if isinstance(kind, Checked) else None

    def read(value: Any) -> Any:
        if isinstance(value, _Text):
            try:
                value = value.decode()
            except UnicodeDecodeError:
                raise DamagedValue("text that is not UTF-8") from None
        return value if convert is None else convert(value)

    return read


def _rows(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    names = [column.name for column in table.columns]
    query = select(*(type_coerce(column, NullType()) for column in table.columns))
    driver: Any = connection.connection.driver_connection
    sqlite = connection.dialect.name == "sqlite"
    before = driver.text_factory if sqlite else None
    if sqlite:
        driver.text_factory = _Text
    try:
        for row in connection.execution_options(yield_per=100).execute(query):
            yield dict(zip(names, row, strict=True))
    finally:
        if sqlite:
            driver.text_factory = before


def _contradiction(table: str, row: dict[str, Any], heads: dict[Any, int]) -> str | None:
    """Describe how the values of a row, each valid by itself, contradict one another; None if they do not."""
    head = heads.get(row.get("agent_key"))
    if head is not None and row.get("position", 0) > head:
        return f"position is {row['position']}, its agent's journal ends at {head}"
    if table == "deltamem_agents" and (row["agent_ids_until"] or 0) > row["head"]:
        return f"agent_ids_until is {row['agent_ids_until']}, its journal ends at {row['head']}"
    if table == "deltamem_rollbacks" and row["target"] >= row["position"]:
        return f"target is {row['target']}, a rollback goes back to before its own position"
    if table == "deltamem_revisions" and row["parent"] >= row["position"]:
        return f"parent is {row['parent']}, a state is folded from one before its own position"
    if table == "deltamem_revisions" and sha256(row["state"]).hexdigest() != row["checksum"]:
        return "state has another checksum than was stored"
    if table == "deltamem_embeddings" and not _is_vector(row["vector"], row["dim"]):
        return f"vector is not {row['dim']} finite numbers"
    return None


def _is_vector(data: bytes, dim: int) -> bool:
    if len(data) != 4 * dim:
        return False
    return all(math.isfinite(number) for number in memoryview(data).cast("f"))
