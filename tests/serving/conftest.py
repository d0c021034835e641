"""Servers as `deltamem serve` runs them, on sockets; the clients are real too."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.serving import Settings, create_app
from deltamem_agents.serving.server import listen, server_for

SECONDS = 30.0


@contextmanager
def served(mem: DeltaMem, **settings: Any) -> Iterator[str]:
    """Serve a memory meanwhile; gives the base URL."""
    listening = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = server_for(create_app(mem, Settings(**settings)), started=ready.set)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert ready.wait(SECONDS), "the server does not start"
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(SECONDS)
        listening.close()
    assert not thread.is_alive(), "the server does not stop"


@pytest.fixture
def words(tmp_path: Path) -> Iterator[DeltaMem]:
    """A memory without a model."""
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'words.db'}") as mem:
        yield mem


Http = Callable[..., httpx.Response]


@pytest.fixture
def client(words: DeltaMem) -> Iterator[httpx.Client]:
    """A client of a server of `words`, which has no tokens yet."""
    with served(words) as url, httpx.Client(base_url=url) as made:
        yield made


def bearer(mem: DeltaMem, agent: str, scope: str) -> dict[str, str]:
    """The header of a new token."""
    return {"authorization": f"Bearer {mem.store.tokens.create([agent], scope)[0]}"}
