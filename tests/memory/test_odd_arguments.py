"""Odd values for each parameter of every public method: a result, or an error of ours before anything is done."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import torch

from deltamem_agents import DeltaMem
from deltamem_agents.core import attach, load_adapter, new_adapter, save_adapter
from deltamem_agents.engine import Engine, load
from deltamem_agents.errors import ConfigError, DeltaMemError, InvalidAgentError
from deltamem_agents.memory import AgentMemory
from deltamem_agents.memory.options import RecallFields, ReplyFields
from deltamem_agents.recall import CallableEmbedder, load_embedder
from deltamem_agents.store import Revision, Selection, Store
from tests.databases import query

ODD: list[Any] = [
    None,
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    "x" * 300,
    0,
    -1,
    1,
    True,
    2.5,
    float("nan"),
    float("inf"),
    1e308,
    2**31,
    2**63,
    10**400,
    10**5000,
    b"x",
    object(),
    [],
    ["x"],
    [None],
    [[]],
    {},
    {"x": "y"},
    {1: float("nan")},
    {"x"},
    (1, 2),
    UUID(int=7),
    date(2026, 1, 1),
    datetime(2026, 1, 1),
    datetime.min,
    datetime.max.replace(tzinfo=UTC),
    Path("absent"),
    int,
    np.float32(2),
    np.zeros((2, 2), np.float32),
    np.array([float("nan")]),
    torch.zeros(2),
    ValueError("x"),
]
MESSAGES = [{"role": "user", "content": "My locker is 4417."}]
SKIPPED = {"close", "aclose", "astream", "achat_stream"}
"""What ends the object, and what hands out a generator of its own; the sync forms are tried."""


def embed(texts: list[str]) -> list[list[float]]:
    return [[1.0, len(text) % 5, len(text) % 3] for text in texts]


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    url = f"sqlite:///{tmp_path_factory.mktemp('odd') / 'memory.db'}"
    with DeltaMem.open("tiny", url=url, embedder=CallableEmbedder(embed, name="e")) as opened:
        alice = opened.agent("alice")
        alice.write([{**MESSAGES[0], "id": "k"}, {"role": "assistant", "content": "Noted."}], "s1")
        alice.write([{"role": "user", "content": "The tea is green."}], "s2")
        yield opened


def public(kind: type) -> list[str]:
    """Methods that a caller uses; of twins the sync form, which does the work."""
    names = [name for name in dir(kind) if not name.startswith("_") and callable(getattr(kind, name))]
    return [name for name in names if name not in SKIPPED and not (name[0] == "a" and name[1:] in names)]


def rows(mem: DeltaMem) -> Any:
    from sqlalchemy import select

    from deltamem_agents.store.schema import AgentRow, EmbeddingRow, MessageRow, RecordRow, RollbackRow

    return [query(mem.store, select(table)) for table in (AgentRow, MessageRow, RollbackRow, RecordRow, EmbeddingRow)]


GOOD: dict[str, Any] = {
    "messages": MESSAGES,
    "session": "s1",
    "query": "Which locker?",
    "position": 2,
    "at": 2,
    "a": 1,
    "new": "bob",
    "agent": "alice",
    "agent_id": "alice",
    "fingerprint": "f",
    "ids": ["k"],
    "terms": ["locker"],
    "limit": 3,
    "model": "e",
    "keys": [1],
    "vector": np.ones(3, np.float32),
    "vectors": np.ones((1, 3), np.float32),
    "reach": 1,
    "count": 2,
    "metadata": {},
    "chosen": Selection(session="nobody"),
    "after": 0,
    "keep": "e",
    "select": lambda held: MESSAGES,
}


FIELDS: dict[str, Any] = {f"Unpack[{each.__name__}]": each for each in (RecallFields, ReplyFields)}


def calls(kind: type, name: str) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Each parameter with each odd value, and what is right for the others that are required."""
    parameters = inspect.signature(getattr(kind, name)).parameters
    wanted = [each for each in parameters.values() if each.name not in ("self", "cls")]
    named = [each for each in wanted if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)]
    required = {each.name: GOOD.get(each.name) for each in named if each.default is each.empty}
    fields = [FIELDS[each.annotation] for each in wanted if each.kind is each.VAR_KEYWORD and each.annotation in FIELDS]
    for each in [*(each.name for each in named), *(field for kind in fields for field in kind.__annotations__)]:
        for odd in ODD:
            if not (odd is int and each in ("progress", "on_text")):  # a function that raises: its own error
                yield each, required, odd


def tried(call: Callable[..., Any], given: dict[str, Any], what: str) -> DeltaMemError | None:
    began = time.monotonic()
    try:
        found = call(**given)
        if inspect.isgenerator(found):
            for _ in found:
                pass
        return None
    except DeltaMemError as error:
        assert len(str(error)) < 2_000, what
        return error
    except Exception as error:
        raise AssertionError(f"{what}: {error!r:.300}") from error
    finally:
        assert time.monotonic() - began < 20, what


def shown(value: Any) -> str:
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "a large number"


def all_tried(mem: DeltaMem, target: Any, kind: type, name: str, extra: dict[str, Any]) -> list[str]:
    faults = []
    before = rows(mem)
    for parameter, required, odd in calls(kind, name):
        what = f"{kind.__name__}.{name}({parameter}={shown(odd)})"
        try:
            error = tried(getattr(target, name), required | extra | {parameter: odd}, what)
            if error is None:
                before = rows(mem)
            elif rows(mem) != before:
                faults.append(f"{what}: {error!r:.80} and yet something was written")
        except AssertionError as error:
            faults.append(str(error))
    return faults


def short(name: str) -> dict[str, Any]:
    from deltamem_agents.engine import Sampling

    if name == "recall":
        return {"generate": False}
    return {"sampling": Sampling(max_tokens=2)} if name in ("generate", "stream") else {}


@pytest.mark.parametrize("name", public(AgentMemory))
def test_an_agent(mem: DeltaMem, name: str) -> None:
    agent = mem.agent("alice").fork(f"for {name}") if name in ("delete", "erase", "rollback") else mem.agent("alice")
    faults = all_tried(mem, agent, AgentMemory, name, short(name))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("name", ["agent", "agents", "export", "import_", "purge", "reindex"])
def test_a_memory(mem: DeltaMem, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mem.export("alice", tmp_path / "a.zip")
    path = tmp_path / ("a.zip" if name == "import_" else "b.zip")
    extra = {"path": path} if name in ("export", "import_") else {}
    faults = all_tried(mem, mem, DeltaMem, name, extra)
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("name", public(Store))
def test_a_store(mem: DeltaMem, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "open":
        return  # below
    mem.export("alice", tmp_path / "a.zip")
    path = tmp_path / ("a.zip" if name == "import_" else "b.zip")
    extra: dict[str, Any] = {"path": path} if name in ("export", "import_") else {}
    if name == "commit":
        extra = {"revision": Revision(position=2, epoch=0, fingerprint="f", state=b"x")}
    if name == "describe":
        extra = {"metadata": {}}
    faults = all_tried(mem, mem.store, Store, name, extra)
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("kind", [DeltaMem, Store])
def test_opening(mem: DeltaMem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    faults = []
    for parameter, _, odd in calls(kind, "open"):
        if parameter == "embedder" and isinstance(odd, str | Path):
            continue  # the name of a model, which is looked for on the hub
        given: dict[str, Any] = {"url": "sqlite://"} | ({"embedder": False} if kind is DeltaMem else {})
        if parameter == "engine":
            del given["url"]
        what = f"{kind.__name__}.open({parameter}={shown(odd)})"
        try:
            tried(lambda **options: kind.open(**options).close(), given | {parameter: odd}, what)
        except AssertionError as error:
            faults.append(str(error))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("function", [load_adapter, save_adapter, new_adapter, attach, load, load_embedder])
def test_functions(mem: DeltaMem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load("tiny")
    attach(loaded.model, loaded.adapter)
    good = {"adapter": loaded.adapter, "folder": tmp_path / "a", "model": loaded.model, "config": loaded.adapter.config}
    good |= {"source": "absent"}
    faults = []
    parameters = inspect.signature(function).parameters.values()
    required = {each.name: good.get(each.name) for each in parameters if each.default is each.empty}
    for each in parameters:
        for odd in ODD:
            what = f"{function.__name__}({each.name}={shown(odd)})"
            try:
                tried(function, required | {each.name: odd}, what)
            except AssertionError as error:
                faults.append(str(error))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("name", ["generate", "fold", "score", "count", "forget"])
def test_an_engine(mem: DeltaMem, name: str) -> None:
    from deltamem_agents.engine import Sampling

    good: dict[str, Any] = {
        "generate": {"prompt": [1, 2], "sampling": Sampling(max_tokens=1)},
        "fold": {"state": None, "segments": []},
        "score": {"items": [([1, 2], None)], "answer": [3]},
        "count": {"text": "x"},
        "forget": {"owner": "o", "agent": "a"},
    }[name]
    faults = []
    for parameter, _, odd in calls(Engine, name):
        what = f"Engine.{name}({parameter}={shown(odd)})"

        def call(**given: Any) -> Any:
            found = getattr(mem.engine, name)(**given)
            return found.result(timeout=30) if hasattr(found, "result") else found

        try:
            tried(call, good | {parameter: odd}, what)
        except AssertionError as error:
            faults.append(str(error))
    assert not faults, "\n" + "\n".join(faults)
    assert mem.engine.generate([1, 2], sampling=Sampling(max_tokens=1)).result(timeout=30).ids  # it is alive


@pytest.mark.parametrize("name", ["recall", "retrieve"])
@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"since": "2026-01-01"}, ConfigError),
        ({"until": date(2026, 1, 1)}, ConfigError),
        ({"since": 7}, ConfigError),
        ({"metadata": ["x"]}, ConfigError),
        ({"metadata": "x"}, ConfigError),
        ({"metadata": {1: 2}}, ConfigError),
        ({"budget": "10"}, ConfigError),
        ({"budget": -1}, ConfigError),
        ({"budget": 2.5}, ConfigError),
        ({"budget": True}, ConfigError),
        ({"k": 0}, ConfigError),
        ({"k": 2.0}, ConfigError),
        ({"session": UUID(int=7)}, InvalidAgentError),
        ({"session": 7}, InvalidAgentError),
        ({"session": ""}, InvalidAgentError),
    ],
)
def test_what_recall_refuses(mem: DeltaMem, name: str, given: dict[str, Any], kind: type[Exception]) -> None:
    """Of an agent that was never written to as well, before anything is read."""
    if name == "recall":
        for agent in ("alice", "nobody"):
            with pytest.raises(kind):
                mem.agent(agent).recall("locker", generate=False, **given)
    else:
        with pytest.raises(kind):
            mem.retriever.search("alice", "locker", **({"k": 0} if "budget" in given else given))
