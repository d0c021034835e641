"""Stores that the one conformance suite runs on."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deltamem_agents.store import Store


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/memory.db" if request.param == "file" else "sqlite://"
    with Store.open(url, split=by_lines) as opened:
        yield opened


@pytest.fixture
def say() -> Callable[..., dict[str, object]]:
    def message(content: object, role: str = "user", **more: object) -> dict[str, object]:
        return {"role": role, "content": content, **more}

    return message


def by_lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line]
