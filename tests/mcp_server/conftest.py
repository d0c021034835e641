"""A database of its own, and a server over HTTP with the tokens of two agents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mcp.server.mcpserver", reason="needs the extra 'mcp'")

from tests.mcp_server.servers import HttpServer


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'memory.db'}"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text("# whose token it is\nalices-token alice\nbobs-token bob the builder\nplain-token\n")
    return path


@pytest.fixture(scope="module")
def server(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    started = HttpServer(f"sqlite:///{tmp_path_factory.mktemp('served') / 'memory.db'}", tokens, "--agent", "carol")
    yield started
    started.stop()
