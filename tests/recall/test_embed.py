"""Embedders: the bundled one, functions, and what is refused."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deltamem_agents.errors import ConfigError, EmbedderError, MissingExtraError
from deltamem_agents.recall import (
    CallableEmbedder,
    Retriever,
    SentenceTransformerEmbedder,
    default_embedder,
    load_embedder,
)
from deltamem_agents.recall.embed import BUNDLED_NAME
from deltamem_agents.store import Store

OFFLINE = """
import socket, sys
def refuse(*a, **k): raise OSError("no network here")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
from deltamem_agents.recall import default_embedder
assert not {"torch", "transformers", "sentence_transformers", "sqlalchemy"} & set(sys.modules)
embedder, note = default_embedder()
assert note is None and not {"torch", "sentence_transformers"} & set(sys.modules)
vectors = embedder.embed(["a cat sat", "the cat was sitting", "stock markets fell"])
assert vectors.shape == (3, embedder.dim) == (3, 384) and vectors.dtype.name == "float32"
assert abs((vectors ** 2).sum(1) - 1).max() < 1e-5
assert vectors[0] @ vectors[1] > 0.7 > 0.3 > vectors[0] @ vectors[2]
print(embedder.name)
"""


@pytest.mark.slow  # a process that imports sentence-transformers
def test_the_default_works_without_a_network_and_loads_late() -> None:
    if default_embedder()[0] is None:
        pytest.skip("the retrieval extra is not installed")
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == BUNDLED_NAME and "Loading" not in done.stderr


def test_without_the_extra_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deltamem_agents.recall.embed.find_spec", lambda name: None)
    embedder, note = default_embedder()
    assert embedder is None and note is not None and "deltamem-agents[retrieval]" in note
    with pytest.raises(MissingExtraError, match="retrieval"):
        load_embedder("sentence-transformers/all-MiniLM-L6-v2")


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    if importlib.util.find_spec("sentence_transformers") is None:
        pytest.skip("the retrieval extra is not installed")
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(EmbedderError, match="SHA-256"):
        SentenceTransformerEmbedder(tmp_path, sha256="0" * 64).embed(["x"])
    with pytest.raises(EmbedderError, match="cannot be read"):
        SentenceTransformerEmbedder(tmp_path / "absent", sha256="0" * 64).embed(["x"])
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        SentenceTransformerEmbedder(tmp_path).embed(["x"])


def embed_by_length(texts: list[str]) -> list[list[float]]:
    return [[len(text), 1.0] for text in texts]


def test_functions_are_embedders_with_a_lasting_name() -> None:
    embedder = load_embedder(embed_by_length)
    assert embedder.name.endswith("test_embed.embed_by_length") and embedder.dim == 2
    assert np.allclose(embedder.embed(["abc"]), [[3 / math.sqrt(10), 1 / math.sqrt(10)]])
    assert embedder.embed([]).shape == (0, 2)
    assert load_embedder(embedder) is embedder
    assert load_embedder(lambda texts: embed_by_length(texts), name="mine").name == "mine"
    for bad in (lambda texts: embed_by_length(texts), 5, None):
        with pytest.raises(ConfigError):
            load_embedder(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "returned",
    [[[1.0]], [1.0, 2.0], [[1.0], [math.nan]], [[1.0], [math.inf]], [[1.0], [1.0, 2.0]], "text", None, [[], []]],
)
def test_what_is_not_one_vector_a_text_is_refused(returned: Any) -> None:
    embedder = CallableEmbedder(lambda texts: returned, name="odd")
    with pytest.raises(EmbedderError, match="'odd'"):
        embedder.embed(["a", "b"])


def test_a_zero_vector_stays_zero() -> None:
    assert not CallableEmbedder(lambda texts: [[0, 0]], name="zero").embed(["a"]).any()


def test_langchains_embeddings() -> None:
    embeddings = pytest.importorskip("langchain_core.embeddings")
    given = embeddings.DeterministicFakeEmbedding(size=12)
    found = load_embedder(given)
    assert found.name.startswith("langchain_core.DeterministicFakeEmbedding#") and found.dim == 12
    assert load_embedder(embeddings.DeterministicFakeEmbedding(size=13)).name != found.name
    expected = np.array(given.embed_documents(["a", "b"]))
    assert np.allclose(found.embed(["a", "b"]), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)
    assert load_embedder(given, name="mine").name == "mine"


def test_llama_indexs_embedding() -> None:
    mock = pytest.importorskip("llama_index.core.embeddings.mock_embed_model")
    found = load_embedder(mock.MockEmbedding(embed_dim=5, model_name="small"))
    assert found.name.startswith("llama_index.MockEmbedding:small#") and found.dim == 5
    assert load_embedder(mock.MockEmbedding(embed_dim=6, model_name="small")).name != found.name
    assert np.allclose(found.embed(["a", "b"]), 5**-0.5)


def test_queries_are_embedded_their_own_way(tmp_path: Path) -> None:
    class Asymmetric:
        """As a framework's: a query looks the other way."""

        model = "two-towers"

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, 0.0] if "apple" in text else [0.0, 1.0] for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return [0.0, 1.0] if "apple" in text else [1.0, 0.0]

    found = load_embedder(Asymmetric())
    assert found.name.endswith("Asymmetric:two-towers")
    with Store.open(f"sqlite:///{tmp_path}/m.db") as store:
        for text in ("an apple", "a pear"):
            store.append("alice", [{"role": "user", "content": text}], text)
        assert Retriever(store.records, found).search("alice", "xyzzy")[0].text == "an apple"
    failing = CallableEmbedder(lambda texts: np.ones((len(texts), 2)), name="n", query=lambda text: [float("nan")] * 2)
    failing.embed(["a"])
    with pytest.raises(EmbedderError, match="not finite"):
        failing.embed_query("a")
