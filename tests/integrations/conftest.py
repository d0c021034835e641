"""The bundled model on a database of its own, the prompts that reach it, and processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents import DeltaMem

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'memory.db'}"


@pytest.fixture
def open_mem(url: str) -> Iterator[Callable[[], DeltaMem]]:
    """Opens the test's database; again, for as often as it is called. Full text alone: no embedder to load."""
    opened: list[DeltaMem] = []

    def open_it() -> DeltaMem:
        opened.append(DeltaMem.open("tiny", url=url, embedder=False))
        return opened[-1]

    yield open_it
    for mem in opened:
        mem.close()


@pytest.fixture
def mem(open_mem: Callable[[], DeltaMem]) -> DeltaMem:
    return open_mem()


@pytest.fixture
def prompts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[DeltaMem], list[str]]:
    """Everything the backbone is given from now on, as text, special tokens and all."""

    def watch(mem: DeltaMem) -> list[str]:
        seen: list[str] = []
        generate = mem.engine.generate

        def noting(prompt: list[int], *args: Any, **kwargs: Any) -> Any:
            seen.append(str(mem.engine.tokenizer.decode(prompt)))
            return generate(prompt, *args, **kwargs)

        monkeypatch.setattr(mem.engine, "generate", noting)
        return seen

    return watch


@pytest.fixture
def prompts(mem: DeltaMem, prompts_of: Callable[[DeltaMem], list[str]]) -> list[str]:
    return prompts_of(mem)


@pytest.fixture
def speak(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts words in a backbone's mouth, as the bundled one calls no tools; all else is real."""

    def script(mem: DeltaMem, *replies: str | Callable[[str], str]) -> None:
        """Each reply is a text, or a callable that gets the prompt; the last one is for all that come after it."""
        generate, left = mem.engine.generate, list(replies)

        def scripted(prompt: Any, *args: Any, on_text: Callable[[str], None] | None = None, **kwargs: Any) -> Any:
            words = left.pop(0) if len(left) > 1 else left[0]
            words = words if isinstance(words, str) else words(str(mem.engine.tokenizer.decode(prompt)))
            done = Future[Any]()
            done.set_result(replace(generate(prompt, *args, **kwargs).result(), text=words))
            if on_text is not None:
                for piece in words.split(" "):
                    on_text(f"{piece} ")
            return done

        monkeypatch.setattr(mem.engine, "generate", scripted)

    return script


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a process of its own, from the repository's root."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )

    return run
