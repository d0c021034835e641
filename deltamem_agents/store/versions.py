"""Versions of the tables: reads a database's version, creates tables, upgrades and checks them.

Version numbers are Alembic's revision ids, ``0001``, ``0002``, …, stored in a table that we name ourselves. Alembic is
imported only to upgrade and to compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Column, Connection, MetaData, String, Table, insert, inspect, select

from deltamem_agents.errors import StoreError
from deltamem_agents.store import recutting
from deltamem_agents.store.damage import all_found
from deltamem_agents.store.database import Database, looked_at, open_database
from deltamem_agents.store.schema import Base

LATEST = "0009"
VERSION_TABLE = "deltamem_version"
FIRST_TABLE = "deltamem_schema"  # where version 0001 stored its number
MIGRATIONS = Path(__file__).parent / "migrations"

_versions = Table(VERSION_TABLE, MetaData(), Column("version_num", String(32), primary_key=True))

FILE_DAMAGED = "the file itself is damaged, not only its full-text index; restore it from a backup"


def current(database: Database) -> str | None:
    """The version of a database's tables; None if it has none.

    Raises:
        ConfigError: The server's encoding, version or pooler is not supported.
        StoreError: The database cannot be read.
    """
    database.check_server()
    return database.read(lambda connection: _current(connection, database.schema))


def open_to_look(url: str | URL, schema: str | None = None) -> tuple[Database, str | None]:
    """Open a database for reading only and return it with its version; see `looked_at`. Creates no SQLite file.

    Raises:
        ConfigError: The URL cannot be parsed, or the database it names is not supported.
        ForkedError: The SQLite file was in use in the parent when this process was forked.
        MissingExtraError: The database's driver is not installed.
        StoreError: The file does not exist, or the database cannot be read.
    """
    database = open_database(url, None, schema)
    try:
        database.require_file()
    except BaseException:
        database.close()
        raise
    return looked_at(database, current)


def prepare(database: Database) -> None:
    """Create the tables if there are none; refuse tables of another version before changing anything.

    Raises:
        ConfigError: The server's encoding, version or pooler is not supported.
        StoreError: The tables are of another version, see the message for the remedy, or the database cannot be used.
    """
    version = current(database)
    if version in (None, LATEST):
        database.prepare()
    if version is None:
        database.write(lambda connection: _create(connection, database))
        version = current(database)
    if version != LATEST:
        raise StoreError(mismatch(database.name, str(version)))


def mismatch(name: str, version: str) -> str:
    """The error for tables of another version."""
    if version < LATEST and version.isdecimal():
        return (
            f"{name} has tables of version {version}, this deltamem-agents needs {LATEST}; nothing was changed: "
            "make a copy, then bring it up to date with 'deltamem db upgrade --url …'"
        )
    return (
        f"{name} has tables of version {version}, this deltamem-agents knows versions up to {LATEST}; nothing was "
        "changed: install the version of deltamem-agents that wrote it, or a newer one"
    )


def upgrade(database: Database) -> tuple[str | None, str]:
    """Upgrade a database's tables to this package's version, in one transaction.

    Afterwards renews the search terms of records, a few hundred at a time; if interrupted, the next call continues.

    Returns:
        The version before, None if there were no tables, and the version now.

    Raises:
        ConfigError: The server's encoding, version or pooler is not supported.
        StoreError: The database is newer than this package, or cannot be written.
    """
    before = current(database)
    if before is None:
        prepare(database)
        return None, LATEST
    if before != LATEST and before not in _known():
        raise StoreError(mismatch(database.name, before))
    if before != LATEST:
        database.write(lambda connection: _upgrade(connection, database))
    recutting.renew_terms(database)
    return before, LATEST


def check(database: Database) -> tuple[list[str], bool]:
    """Find what `differences` finds, and damaged rows.

    Returns:
        What is wrong, in sentences, and whether all rows were checked; a large database is checked for a minute.

    Raises:
        ConfigError: The server's encoding, version or pooler is not supported.
        StoreError: The database cannot be read, or is of another version.
    """
    problems = differences(database)
    if problems:
        return problems, True  # with other tables or a damaged file, reading the rows would tell nothing more
    try:
        return database.read(all_found)
    except StoreError as error:
        return _file_damaged(error), True


def differences(database: Database) -> list[str]:
    """Describe tables that differ from this version's, and damage that the database itself detects.

    Raises:
        ConfigError: The server's encoding, version or pooler is not supported.
        StoreError: The database cannot be read, or is of another version.
    """
    try:
        version = current(database)
        if version == LATEST:
            return database.read(lambda connection: _unlike(connection, database) + database.dialect.check(connection))
    except StoreError as error:
        return _file_damaged(error)
    raise StoreError(mismatch(database.name, version) if version else _without_tables(database))


def _without_tables(database: Database) -> str:
    return f"{database.name} has no deltamem tables; 'deltamem db upgrade' creates them, or check the URL"


def _file_damaged(error: StoreError) -> list[str]:
    """Report a damaged file if ``error`` says so; otherwise raise ``error``."""
    if "malformed" not in str(error):
        raise error
    return [FILE_DAMAGED]


def damage(database: Database) -> list[str]:
    """Describe damage that the database itself detects; the database must be of this version.

    Raises:
        StoreError: The database cannot be read.
    """
    return database.read(lambda connection: database.dialect.check(connection))


def repair(database: Database) -> list[str]:
    """Rebuild the full-text index from the records; returns what was rebuilt, in sentences.

    Raises:
        ConfigError: The server's encoding, version or pooler is not supported.
        StoreError: The database cannot be read or written, is of another version, or is still damaged.
    """
    version = current(database)
    if version != LATEST:
        raise StoreError(mismatch(database.name, version) if version else _without_tables(database))
    done = database.repair()
    left = differences(database)
    if left:
        raise StoreError(f"{database.name}: {'; '.join(done)}, but there is more damage: {'; '.join(left)}")
    return done


def _current(connection: Connection, schema: str | None) -> str | None:
    tables = inspect(connection)
    if tables.has_table(VERSION_TABLE, schema=schema):
        return connection.scalar(select(_versions.c.version_num))
    if tables.has_table(FIRST_TABLE, schema=schema):
        first = connection.exec_driver_sql(f"SELECT version FROM {FIRST_TABLE}").scalar()
        return f"{int(first or 0):04d}"
    return None


def _create(connection: Connection, database: Database) -> None:
    database.dialect.lock(connection, "create")
    if inspect(connection).has_table(VERSION_TABLE, schema=database.schema):
        return  # another process was first
    Base.metadata.create_all(connection)
    database.dialect.fulltext.create(connection)
    database.dialect.created(connection)
    _versions.create(connection)
    connection.execute(insert(_versions).values(version_num=LATEST))


def _upgrade(connection: Connection, database: Database) -> None:
    from alembic.command import upgrade

    database.dialect.lock(connection, "create")
    if _current(connection, database.schema) == LATEST:
        return  # another process was first
    if database.schema is not None:
        connection.exec_driver_sql(f'SET LOCAL search_path TO "{database.schema}"')
    if not inspect(connection).has_table(VERSION_TABLE, schema=database.schema):
        _versions.create(connection)
        connection.execute(insert(_versions).values(version_num="0001"))
    upgrade(_config(connection), LATEST)


def _config(connection: Connection) -> Any:
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _known() -> list[str]:
    """Versions that have a migration script."""
    return sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def _unlike(connection: Connection, database: Database) -> list[str]:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    names = set(Base.metadata.tables)
    schema, full_text = database.schema, database.dialect.fulltext.columns

    def ours(name: str | None, kind: str, parents: Any) -> bool:
        if kind == "schema":
            return name == schema
        return (name if kind == "table" else parents.get("table_name")) in names

    def compared(found: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
        if kind == "index":
            return name != "deltamem_records_words"
        return kind != "column" or found.table.name != "deltamem_records" or name not in full_text

    options = {"include_name": ours, "include_object": compared, "include_schemas": schema is not None}
    metadata = Base.metadata
    if schema is not None:
        metadata = MetaData()
        for table in Base.metadata.sorted_tables:
            table.to_metadata(metadata, schema=schema)
        names = {table.name for table in metadata.sorted_tables}
    found = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return [_told(difference) for difference in found]


def _told(difference: Any) -> str:
    """Describe one of Alembic's differences in a sentence."""
    first = difference[0] if isinstance(difference, list) else difference
    what, *subject = first
    named = [str(getattr(each, "name", each)) for each in subject if each is not None and not isinstance(each, dict)]
    return f"the tables differ from this version's: {what.replace('_', ' ')} {' '.join(named)}"
