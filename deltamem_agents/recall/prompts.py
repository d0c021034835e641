"""The prompts that an embedding model expects before a query and before a document.

Most models state them in their configuration, which has priority. The table is for models that state them only on
their card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SEARCH = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_SENTENCE = "Represent this sentence for searching relevant passages: "
_CARDS = {  # pattern of model names: prompts before a query and before a document
    r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?": ("query: ", "passage: "),
    r"(multilingual-e5-.*|e5-mistral-.*)-instruct": (f"{_SEARCH} ", ""),
    r"qwen3-embedding-.*": (_SEARCH, ""),
    r"embeddinggemma-.*": ("task: search result | query: ", "title: none | text: "),
    r"bge-(small|base|large)-en(-v1\.5)?": (_SENTENCE, ""),
    r"bge-(small|base|large)-zh(-v1\.5)?": ("为这个句子生成表示以用于检索相关文章：", ""),
    r"mxbai-embed-.*|snowflake-arctic-embed-(xs|s|m|m-long|l)": (_SENTENCE, ""),
    r"snowflake-arctic-embed-.*-v2\.0": ("query: ", ""),
    r"nomic-embed-text-.*": ("search_query: ", "search_document: "),
}
_QUERIES = ("query", "retrieval.query", "search_query", "s2p_query", "Retrieval-query")
_DOCUMENTS = ("document", "passage", "corpus", "retrieval.passage", "search_document", "Retrieval-document")


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts before a query and before a document; empty for none."""

    query: str = ""
    document: str = ""

    def __bool__(self) -> bool:
        return bool(self.query or self.document)


def prompts_of(own: Mapping[str, str | None], names: list[str], default: str | None = None) -> Prompts:
    """The prompts of a model.

    Args:
        own: The prompts in its configuration, by name.
        names: Possible names of the model: a hub id, a folder.
        default: The name of the prompt that its configuration puts before texts that have no other.
    """
    rest = own.get(default or "") or ""
    found = Prompts(_first(own, _QUERIES, rest), _first(own, _DOCUMENTS, rest))
    if found:
        return found
    for name in names:
        last = name.replace("\\", "/").rstrip("/").replace("--", "/").rpartition("/")[2].lower()
        for pattern, card in _CARDS.items():
            if re.fullmatch(pattern, last):
                return Prompts(*card)
    return found


def _first(own: Mapping[str, str | None], names: tuple[str, ...], otherwise: str) -> str:
    return next((own[name] or "" for name in names if name in own), otherwise)
