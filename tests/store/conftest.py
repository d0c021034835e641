"""Stores that the one conformance suite runs on, and short ways to fill them and look at them."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import Table, TextClause, delete, text

from deltamem_agents.store import Revision, Store
from deltamem_agents.store.schema import Base
from tests.databases import engine_of, execute


@pytest.fixture(scope="session")
def one_postgresql_url(postgresql_url: Callable[[], str]) -> str:
    """One database for all tests: another for each would take longer than the tests."""
    return postgresql_url()


# Files in 'make check', with what PostgreSQL has for itself (test_postgresql.py); every kind in 'make test'.
KINDS = ["file", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("memory", "postgresql"))]


@pytest.fixture(params=[*KINDS, *(["DELTAMEM_TEST_URL"] if "DELTAMEM_TEST_URL" in os.environ else [])])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "postgresql":
        url = request.getfixturevalue("one_postgresql_url")
    else:
        url = {"file": f"sqlite:///{tmp_path / 'memory.db'}", "memory": "sqlite://"}.get(request.param)
    with Store.open(url or os.environ[request.param], split=by_lines) as opened:
        execute(opened, *map(delete, reversed(Base.metadata.sorted_tables)))  # of what a test before has left
        yield opened


@pytest.fixture
def say() -> Callable[..., dict[str, object]]:
    def message(content: object, role: str = "user", **more: object) -> dict[str, object]:
        return {"role": role, "content": content, **more}

    return message


class Commit(Protocol):
    def __call__(
        self, agent: str, position: int, after: int = 0, fingerprint: str = "f", state: bytes = b""
    ) -> int: ...


@pytest.fixture
def commit(store: Store) -> Commit:
    """Commits a state to `store`, of the agent's present epoch."""

    def committed(agent: str, position: int, after: int = 0, fingerprint: str = "f", state: bytes = b"") -> int:
        info = store.agent(agent)
        assert info is not None
        data = state or f"{agent} {position}".encode()
        revision = Revision(position=position, epoch=info.epoch, fingerprint=fingerprint, state=data)
        return store.states.commit(agent, revision, after=after)

    return committed


@pytest.fixture
def rows() -> Callable[..., dict[str, list[Any]]]:
    """All rows of a store's tables, or those that belong to one agent, as the database has them."""
    return all_rows


OF_NO_AGENT = ("deltamem_purges", "deltamem_tokens", "deltamem_requests")


def all_rows(store: Store, agent: str | None = None) -> dict[str, list[Any]]:
    def selected(table: Table) -> TextClause:
        if agent is None:
            return text(f"SELECT * FROM {table.name}")
        key = "(SELECT key FROM deltamem_agents WHERE id = :agent)"
        owned = f"agent_key = {key}" if "agent_key" in table.c else "id = :agent"
        if table.name == "deltamem_embeddings":
            owned = f"record_key IN (SELECT key FROM deltamem_records WHERE agent_key = {key})"
        return text(f"SELECT * FROM {table.name} WHERE {owned}").bindparams(agent=agent)

    tables = [table for table in Base.metadata.sorted_tables if agent is None or table.name not in OF_NO_AGENT]
    with engine_of(store).connect() as connection:
        return {table.name: sorted(map(tuple, connection.execute(selected(table))), key=repr) for table in tables}


def by_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]
