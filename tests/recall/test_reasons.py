"""Why a search found a record."""

from __future__ import annotations

from deltamem_agents import DeltaMem
from deltamem_agents.recall import CallableEmbedder, shared_words


def embed(texts: list[str]) -> list[list[float]]:
    return [[float("dog" in text or "Rex" in text), float("tea" in text), 0.1] for text in texts]


def test_reasons_name_words_meaning_and_neighbours() -> None:
    with DeltaMem.open(None, url="sqlite://", embedder=CallableEmbedder(embed, name="e")) as mem:
        alice = mem.agent("alice")
        said = ["Rex barks at night.", "My dog eats fish.", "I drink tea.", "Always answer in English."]
        alice.write([{"role": "user", "content": text} for text in said])
        found = alice.recall("What does the dog eat?", generate=False, k=4).records
        reasons = mem.retriever.reasons("alice", "What does the dog eat?", found)
        why = {record.text: reason for record, reason in zip(found, reasons, strict=True)}
        dog, rex = why["My dog eats fish."], why["Rex barks at night."]
        assert dog.words == ("dog", "eats") and dog.word_score > 0 and dog.resembles
        assert rex.words == () and rex.word_score == 0 and rex.resembles and (rex.similarity or 0) > 0.9
        assert rex.beside and mem.retriever.reasons("alice", "dog", []) == []
        assert mem.retriever.reasons("alice", "", found)[0].words == ()


def test_without_an_embedder_words_are_the_reason() -> None:
    with DeltaMem.open(None, url="sqlite://", embedder=False) as mem:
        mem.agent("a").write([{"role": "user", "content": "Always use ruff, and ruff alone."}])
        found = mem.agent("a").recall("ruff", generate=False).records
        (why,) = mem.retriever.reasons("a", "ruff", found)
        assert why.words == ("ruff",) and why.similarity is None and not why.resembles and why.standing


def test_shared_words_are_as_the_record_has_them() -> None:
    assert shared_words("indenting ERR-4012", "We (Indent) when ERR-4012, err-4012 appear.") == (
        "Indent",
        "ERR-4012",
        "err-4012",
    )
    assert shared_words("", "text") == () and shared_words("text", "") == ()
