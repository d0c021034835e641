"""What an embedder reads of a text, and what its card puts before one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deltamem_agents.errors import ConfigError
from deltamem_agents.recall import (
    CallableEmbedder,
    Cutting,
    Measure,
    Retriever,
    SentenceTransformerEmbedder,
    default_embedder,
    load_embedder,
    split_text,
)
from deltamem_agents.recall.embed import BUNDLED_PACKAGE
from deltamem_agents.recall.prompts import Prompts, prompts_of
from deltamem_agents.store import Store

HEX = " ".join(f"{number * 2654435761 % 2**48:012x}" for number in range(70))
MINUTES = "会議の記録です。" + "来期の予算案と採用計画について各部門の責任者が順番に説明しました。" * 28
EMOJI = "👩‍👩‍👧‍👦🏳️‍🌈" * 90


def by_bytes(limit: int) -> Measure:
    return Measure(limit, lambda text: len(text.encode()))


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="ab .\n。会é", max_size=200), st.integers(3, 40), st.integers(5, 60))
@example("aa a。", 3, 5)  # a part of a sentence that is only a space
def test_pieces_fit_and_nothing_is_lost(text: str, most: int, limit: int) -> None:
    measure = by_bytes(most)
    pieces = split_text(text, limit, measure)
    assert all(0 < len(piece) <= limit and measure.fits(piece) and piece == piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())


def test_pieces_are_as_long_as_they_may_be() -> None:
    sentence = "Nine words stand here, this is one of them. "
    pieces = split_text(sentence * 40, measure=Measure(30, lambda text: len(text.split()) + 3))
    assert {piece for piece in pieces[:-1]} == {(sentence * 3).strip()}
    assert split_text(sentence * 22, measure=Measure(10_000, len)) == split_text(sentence * 22)


def mean_of(limit: int | None) -> CallableEmbedder:
    """Sees so many characters and no more, as a service that cuts what it is sent."""

    def embed(texts: list[str]) -> list[list[float]]:
        return [[float("kitten" in text[: limit or None]), 1.0] for text in texts]

    embedder = load_embedder(embed, name="cut", limit=limit)
    assert isinstance(embedder, CallableEmbedder)
    return embedder


def test_what_is_too_long_is_embedded_in_parts() -> None:
    text = "The harbour opens at nine. " * 20 + "The kitten sleeps."
    seen, unseen = mean_of(50).embed([text, "The harbour."]), mean_of(None).embed(["The harbour."])
    assert seen[0, 0] > 0.02 and np.allclose(seen[1], unseen[0]) and np.allclose(np.linalg.norm(seen, axis=1), 1)
    assert mean_of(50).embed_query(text)[0] > 0.02
    assert mean_of(50).embed([]).shape[0] == 0 and mean_of(50).embed(["", " "]).shape == (2, 2)


def test_limits_that_cannot_be_meant_are_refused() -> None:
    for bad in (0, -1, 1.5, "9", True):
        with pytest.raises(ConfigError, match="limit"):
            load_embedder(lambda texts: texts, name="n", limit=bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="give limit="):
        load_embedder(lambda texts: texts, name="n", count=len)
    with pytest.raises(ConfigError, match="knows its own"):
        load_embedder("folder", limit=9)
    counted = load_embedder(lambda texts: texts, name="n", limit=9, count=lambda text: 2 * len(text))
    assert all(len(piece) <= 4 for piece in Cutting(counted)("abcd efgh ijk"))


def test_a_model_within_a_frameworks_embedder_says_its_limit() -> None:
    def tokenizer(text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [0, *map(ord, text), 0]}

    model = SimpleNamespace(max_seq_length=40, tokenizer=tokenizer)

    class Wrapped:
        def __init__(self, **given: Any) -> None:
            self.model_name = "m"
            self._client = model
            vars(self).update(given)

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0]] * len(texts)

        def embed_query(self, text: str) -> list[float]:
            return [1.0]

    said = "One sentence is here. " * 9
    pieces = Cutting(load_embedder(Wrapped()))(said)
    assert max(map(len, pieces)) <= 38 and len(pieces) == 9
    prompted = Cutting(load_embedder(Wrapped(text_instruction="passage: " + "x" * 9)))(said)
    assert max(map(len, prompted)) <= 20
    assert len(Cutting(load_embedder(Wrapped(), limit=99))(said)) < 9


def test_the_rule_of_who_cuts_alike_is_the_same() -> None:
    plain = Cutting()
    assert plain.rule == Cutting(CallableEmbedder(lambda texts: texts, name="n")).rule > 0
    measured = [Cutting(load_embedder(lambda texts: texts, name=name, limit=limit)).rule for name, limit in
                (("a", 9), ("a", 9), ("a", 8), ("b", 9))]  # fmt: skip
    assert measured[0] == measured[1] and len({plain.rule, *measured}) == 4 and max(measured) < 1 << 62


CARDS = {
    "intfloat/e5-small-v2": ("query: ", "passage: "),
    "intfloat/multilingual-e5-large": ("query: ", "passage: "),
    "/models/e5-base": ("query: ", "passage: "),
    "C:\\models\\E5-Base-V2\\": ("query: ", "passage: "),
    "/hub/models--intfloat--e5-base-v2": ("query: ", "passage: "),
    "intfloat/multilingual-e5-large-instruct": ("Instruct: ", ""),
    "Qwen/Qwen3-Embedding-0.6B": ("Instruct: ", ""),
    "google/embeddinggemma-300m": ("task: search result | query: ", "title: none | text: "),
    "BAAI/bge-small-en-v1.5": ("Represent this sentence", ""),
    "nomic-ai/nomic-embed-text-v1.5": ("search_query: ", "search_document: "),
    "sentence-transformers/all-MiniLM-L6-v2": ("", ""),
    "someone/my-e5-small-notes/minilm": ("", ""),
}


@pytest.mark.parametrize(("name", "card"), CARDS.items(), ids=CARDS.keys())
def test_cards(name: str, card: tuple[str, str]) -> None:
    found = prompts_of({}, [name])
    assert (found.query.startswith(card[0]), found.document) == (True, card[1]) and bool(found.query) == bool(card[0])


OWN = [
    ({"query": "q: ", "document": "d: "}, None, Prompts("q: ", "d: ")),
    ({"query": "q: ", "passage": "p: "}, None, Prompts("q: ", "p: ")),
    ({"query": "q: ", "corpus": "c: "}, None, Prompts("q: ", "c: ")),
    ({"query": "q: "}, None, Prompts("q: ", "")),
    ({"retrieval.query": "q: ", "retrieval.passage": "p: "}, None, Prompts("q: ", "p: ")),
    ({"always": "a: "}, "always", Prompts("a: ", "a: ")),
    ({"always": "a: ", "query": "q: "}, "always", Prompts("q: ", "a: ")),
    ({"query": "", "document": ""}, None, Prompts("query: ", "passage: ")),  # sentence-transformers writes these
]


@pytest.mark.parametrize(("own", "default", "right"), OWN)
def test_the_models_own_prompts_come_first(own: dict[str, str | None], default: str | None, right: Prompts) -> None:
    assert prompts_of(own, ["e5-small"], default) == right


def folder_of(
    path: Path, *, weights: bytes = b"w" * 99, limit: int = 20, prompts: dict[str, str] | None = None
) -> Path:
    """Files as sentence-transformers saves them, as far as they are read without it."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    path.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path / "tokenizer.json"))
    files = {
        "modules.json": [{"path": "", "type": "sentence_transformers.models.Transformer"}],
        "sentence_bert_config.json": {"max_seq_length": limit},
        "config_sentence_transformers.json": {"prompts": prompts or {}},
    }
    for name, value in files.items():
        (path / name).write_text(json.dumps(value))
    (path / "model.safetensors").write_bytes(weights)
    return path


def test_a_folder_is_read_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, loaded = pytest.importorskip("sentence_transformers"), []
    monkeypatch.setattr(library, "SentenceTransformer", lambda *given, **_: loaded.append(given))
    one = SentenceTransformerEmbedder(folder_of(tmp_path / "a" / "m"))
    assert one.measure is not None and one.measure.limit == 20 and one.measure.count("a b c d e f g h") == 8
    assert [len(piece.split()) for piece in Cutting(one)("word " * 50)] == [20, 20, 10]
    prompted = SentenceTransformerEmbedder(folder_of(tmp_path / "b" / "m", prompts={"query": "", "document": "a b c"}))
    assert all(15 <= len(piece.split()) <= 17 for piece in Cutting(prompted)("word " * 50))
    other = SentenceTransformerEmbedder(folder_of(tmp_path / "c" / "m", weights=b"v" * 99))
    same = SentenceTransformerEmbedder(folder_of(tmp_path / "d" / "m"))
    card = SentenceTransformerEmbedder(folder_of(tmp_path / "e" / "e5-small"))
    assert one.name == same.name and one.name.startswith("m#")
    assert len({one.name, prompted.name, other.name, card.name}) == 4
    assert SentenceTransformerEmbedder(tmp_path / "a" / "m", name="mine").name == "mine"
    assert not loaded


@pytest.fixture(scope="module")
def bundled() -> Iterator[SentenceTransformerEmbedder]:
    embedder, _ = default_embedder()
    if not isinstance(embedder, SentenceTransformerEmbedder):
        pytest.skip("the retrieval extra is not installed")
    yield embedder


def test_the_bundled_model_needs_no_torch_to_cut(bundled: SentenceTransformerEmbedder) -> None:
    assert bundled.measure is not None and bundled.measure.limit == 256
    for text in (HEX, MINUTES, EMOJI, "a" * 3000, "def f(x):\n    return x ** 2\n" * 60):
        pieces = Cutting(bundled)(text)
        assert all(bundled.measure.count(piece) <= 256 and len(piece) <= 1000 for piece in pieces)
        assert "".join("".join(pieces).split()) == "".join(text.split())
    english = "We met on the pier at noon and walked along the water until it was dark. " * 13
    assert Cutting(bundled)(english) == split_text(english)


@pytest.mark.slow  # loads the model
def test_the_bundled_model_sees_all_of_a_record(bundled: SentenceTransformerEmbedder) -> None:
    for text, end in (
        (HEX[:900] + ". ", "The kitten sleeps on the sofa."),
        (MINUTES[:950], "犬の名前はレックスです。"),
    ):
        with_it, without = bundled.embed([text + end, text])
        assert with_it @ without < 0.9999
    with Store.open("sqlite://", split=Cutting(bundled)) as store:
        store.append("a", [{"role": "tool", "content": f"{HEX}. The kitten sleeps on the sofa."}], "s")
        found = Retriever(store.records, bundled).search("a", "Where does the young cat nap?", 1)
        assert found[0].text.endswith("The kitten sleeps on the sofa.")


@pytest.mark.slow  # loads the model
def test_queries_and_texts_get_their_prompts(bundled: SentenceTransformerEmbedder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    assert spec is not None and spec.origin is not None and bundled.embed(["a"]).any()
    model = SentenceTransformer(str(Path(spec.origin).parent / "model"), device="cpu")
    model.prompts = {"query": "query: ", "document": "passage: "}
    try:
        model.save(str(tmp_path / "m"))
        loaded, saved = load_embedder(model), load_embedder(tmp_path / "m")
        assert loaded.name != saved.name and ", prompts " in saved.name
        text = "Where is the cat?"
        for embedder in (loaded, saved):
            assert isinstance(embedder, SentenceTransformerEmbedder)
            query, document = embedder.embed_query(text), embedder.embed([text])[0]
            assert query @ model.encode_query(text, normalize_embeddings=True) == pytest.approx(1, abs=1e-4)
            assert document @ model.encode_document(text, normalize_embeddings=True) == pytest.approx(1, abs=1e-4)
            assert query @ document < 0.99
        model.prompts = {"query": "q: ", "document": "passage: "}
        assert load_embedder(model).name != loaded.name
    finally:
        model.prompts = {"query": "", "document": ""}
