"""A store of each kind, empty; a file that needs another one has its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deltamem_agents.recall import split_text
from deltamem_agents.store import Store


@pytest.fixture(params=["file", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql_url")()
    with Store.open(url, split=split_text) as opened:
        yield opened
