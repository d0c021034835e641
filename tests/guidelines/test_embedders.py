"""Recall of rules with an embedder that works, one that fails, and one that fails from some time on."""

import numpy as np
import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import EmbedderError
from deltamem_agents.guidelines import Guidelines

QUESTION = "what do I run before a commit?"


class Embedder:
    """Hashes words into a vector; fails where it is told to."""

    name, dim = "hashed", 64

    def __init__(self):
        self.broken = self.queries_broken = False

    def embed(self, texts):
        if self.broken:
            raise EmbedderError("out of order")
        rows = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                row[sum(word.encode()) % self.dim] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)

    def embed_query(self, text):
        if self.queries_broken:
            raise EmbedderError("no query today")
        return self.embed([text])[0]


@pytest.fixture
def rules(tree):
    tree.commit(files={"AGENTS.md": "- Run `make check` before every commit.\n- Amounts are cents, never floats.\n"})
    return tree.root


def recalled(rules, url, embedder):
    with DeltaMem.open(None, url=url, embedder=embedder) as mem:
        found = Guidelines(mem, rules)
        found.sync()
        return [(each.rule.citation, round(each.score, 6)) for each in found.recall(QUESTION).rules]


@pytest.mark.parametrize("broken", ["broken", "queries_broken"])
def test_where_the_embedder_fails_rules_are_found_by_words(rules, tmp_path, broken):
    by_words = recalled(rules, f"sqlite:///{tmp_path / 'words.db'}", False)
    assert by_words[0][0] == "AGENTS.md:1"
    embedder = Embedder()
    assert recalled(rules, f"sqlite:///{tmp_path / 'works.db'}", embedder) != by_words
    setattr(embedder, broken, True)
    assert recalled(rules, f"sqlite:///{tmp_path / 'fails.db'}", embedder) == by_words


def test_rules_are_embedded_before_they_are_compared(rules, tmp_path):
    embedder, many = Embedder(), "".join(f"- Never touch `part{i}`.\n" for i in range(40))
    (rules / "AGENTS.md").write_text((rules / "AGENTS.md").read_text() + many)
    first, second = (recalled(rules, f"sqlite:///{tmp_path / 'memory.db'}", embedder) for _ in range(2))
    assert first == second
