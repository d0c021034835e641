"""Names of embedders: whatever may change the vectors changes them, and nothing else does."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, PrivateAttr, SecretStr

from deltamem_agents.errors import ConfigError
from deltamem_agents.memory import DeltaMem
from deltamem_agents.recall import load_embedder
from deltamem_agents.recall.naming import name_of


def vectors(texts: list[str], model: str = "small", **_: Any) -> list[list[float]]:
    return [[len(text), len(model)] for text in texts]


class Plain:
    """A framework's embedder that keeps what it was made with."""

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return vectors(texts)

    def embed_query(self, text: str) -> list[float]:
        return vectors([text])[0]

    def encode(self, texts: list[str]) -> list[list[float]]:
        return vectors(texts)


class Fields(BaseModel):
    """As LangChain and LlamaIndex have them, with fields of pydantic's."""

    model: str = "first"
    deployment: str | None = "first"
    dimensions: int | None = None
    api_key: SecretStr | None = None
    timeout: float = 60.0
    batch_size: int = 32
    model_kwargs: dict[str, Any] = {}
    _inner: Any = PrivateAttr(None)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return vectors(texts)

    def embed_query(self, text: str) -> list[float]:
        return vectors([text])[0]


@dataclass
class Settings:
    checkpoint: str
    dim: int = 8


class Slotted:
    __slots__ = ("repo_id",)

    def __init__(self, repo_id: str) -> None:
        self.repo_id = repo_id

    __call__ = staticmethod(vectors)


def private(inner: Any) -> Fields:
    made = Fields()
    made._inner = inner
    return made


ANOTHER = {
    "model_id": (Plain(model_id="a"), Plain(model_id="b")),
    "repo_id": (Plain(repo_id="a"), Plain(repo_id="b")),
    "deployment": (Plain(deployment="a"), Plain(deployment="b")),
    "a private attribute": (Plain(_model_id="a"), Plain(_model_id="b")),
    "a name that nobody knows": (Plain(variant="a"), Plain(variant="b")),
    "dimensions": (Plain(model="a", dimensions=256), Plain(model="a", dimensions=512)),
    "embed_dim": (Plain(embed_dim=256), Plain(embed_dim=512)),
    "revision": (Plain(model="a", revision="1"), Plain(model="a", revision="2")),
    "prompt": (Plain(model="a", query_instruction="q: "), Plain(model="a", query_instruction="Q: ")),
    "prompts in a dict": (
        Plain(model="a", encode_kwargs={"prompt": "x"}),
        Plain(model="a", encode_kwargs={"prompt": "y"}),
    ),
    "normalised": (Plain(model="a", normalize=True), Plain(model="a", normalize=False)),
    "a path": (Plain(model_path=Path("/a/m")), Plain(model_path=Path("/b/m"))),
    "one of two models": (Plain(model_name="a", model="b"), Plain(model_name="a", model="c")),
    "a long name": (Plain(model="m" * 300 + "a"), Plain(model="m" * 300 + "b")),
    "settings": (Plain(settings=Settings("a")), Plain(settings=Settings("b"))),
    "settings, plain": (Plain(config=SimpleNamespace(model="a")), Plain(config=SimpleNamespace(model="b"))),
    "an embedder within": (Plain(underlying=Plain(model="a")), Plain(underlying=Plain(model="b"))),
    "a function within": (Plain(encode_with=vectors), Plain(encode_with=functools.partial(vectors, model="b"))),
    "an array": (Plain(projection=np.eye(2)), Plain(projection=2 * np.eye(2))),
    "an address alone": (Plain(base_url="http://a:80"), Plain(base_url="http://b:80")),
    "pydantic": (Fields(model="a"), Fields(model="b")),
    "pydantic, dimensions": (Fields(), Fields(dimensions=256)),
    "pydantic, nested": (Fields(model_kwargs={"revision": "1"}), Fields(model_kwargs={"revision": "2"})),
    "pydantic, private": (private(Settings("a")), private(Settings("b"))),
    "slots": (Slotted("a"), Slotted("b")),
    "a method": (Plain(model="a").encode, Plain(model="b").encode),
    "a partial": (functools.partial(vectors, model="a"), functools.partial(vectors, model="b")),
    "classes": (Plain(model="a"), Fields(model="a")),
}


@pytest.mark.parametrize("pair", ANOTHER.values(), ids=ANOTHER.keys())
def test_another_model_has_another_name(pair: tuple[Any, Any]) -> None:
    names = [load_embedder(each).name for each in pair]
    assert names[0] != names[1] and all(0 < len(name) <= 255 for name in names)


SAME = {
    "made twice": (Plain(model="a", dimensions=3), Plain(dimensions=3, model="a")),
    "how it is reached": (
        Plain(model="a", api_key="x", timeout=1, batch_size=8, base_url="http://a", max_retries=2, headers={"a": "b"}),
        Plain(model="a", api_key="y", timeout=9, batch_size=9, base_url="http://b", max_retries=3, device="cuda"),
    ),
    "what it has done": (Plain(model="a", calls=0, usage_tokens=0), Plain(model="a", calls=7, usage_tokens=99)),
    "defaults": (Fields(), Fields(timeout=5, batch_size=8, api_key=SecretStr("s"))),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME.keys())
def test_the_same_model_keeps_its_name(pair: tuple[Any, Any]) -> None:
    assert load_embedder(pair[0]).name == load_embedder(pair[1]).name


def test_names_that_were_given_before_stay() -> None:
    assert load_embedder(Fields()).name.endswith(".Fields:first")
    assert load_embedder(Plain(model="a")).name.endswith(".Plain:a")
    assert name_of(vectors).endswith("test_naming.vectors")
    assert load_embedder(Fields(api_key=SecretStr("sesame"), model_kwargs={"token": "sesame"})).name.endswith(":first")


@pytest.mark.parametrize(
    "nameless",
    [
        lambda texts: vectors(texts),
        functools.partial(lambda texts: vectors(texts), 1),
        Plain(model=object()),
        Plain(encoder=object()),
        Plain(function=lambda texts: texts),
    ],
    ids=["lambda", "a partial of one", "an object", "an encoder", "a lambda within"],
)
def test_what_cannot_be_told_apart_asks_for_a_name(nameless: Any) -> None:
    with pytest.raises(ConfigError, match="give name="):
        load_embedder(nameless)
    assert load_embedder(nameless, name="mine").name == "mine"


def test_open_takes_a_name(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/m.db"
    with pytest.raises(ConfigError, match="give name="):
        DeltaMem.open(None, url=url, embedder=lambda texts: vectors(texts))
    assert not (tmp_path / "m.db").exists()
    for embedder in (None, False):
        with pytest.raises(ConfigError, match="no embedder is given"):
            DeltaMem.open(None, url=url, embedder=embedder, name="a")
    for name, embedder in (
        ("one", lambda texts: vectors(texts)),
        ("two", load_embedder(vectors)),
        ("3", Plain(model="a")),
    ):
        with DeltaMem.open(None, url=url, embedder=embedder, name=name) as mem:
            mem.agent("a").write([{"role": "user", "content": f"note {name}"}])
            mem.agent("a").recall("note", mode="vector")
            assert mem.retriever.model == name and name in mem.store.records.embedding_models("a")
