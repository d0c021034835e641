"""Retrieval: cut messages into records, search them by full text and embeddings, and format them for a prompt.

May import: numpy, `deltamem_agents.errors`; sentence-transformers on use. Its protocols state what it needs of a
database, and the store implements them. It depends neither on the store nor on the model.
"""

from deltamem_agents.recall.budget import within_budget
from deltamem_agents.recall.content import knows_nothing
from deltamem_agents.recall.cutting import Cutting
from deltamem_agents.recall.embed import (
    AnyEmbedder,
    CallableEmbedder,
    choose_embedder,
    default_embedder,
    load_embedder,
)
from deltamem_agents.recall.notes import recall_text
from deltamem_agents.recall.prompt import HEADER, current
from deltamem_agents.recall.protocols import Embedder, IndexedRecord, Record, RecordIndex
from deltamem_agents.recall.questions import leans
from deltamem_agents.recall.reasons import Reason, shared_words
from deltamem_agents.recall.records import Measure, split_text
from deltamem_agents.recall.search import Reindexed, Retriever
from deltamem_agents.recall.sentence_model import SentenceTransformerEmbedder
from deltamem_agents.recall.words import query_terms, says, says_every_word

__all__ = [
    "HEADER",
    "AnyEmbedder",
    "CallableEmbedder",
    "Cutting",
    "Embedder",
    "IndexedRecord",
    "Measure",
    "Reason",
    "Record",
    "RecordIndex",
    "Reindexed",
    "Retriever",
    "SentenceTransformerEmbedder",
    "choose_embedder",
    "current",
    "default_embedder",
    "knows_nothing",
    "leans",
    "load_embedder",
    "query_terms",
    "recall_text",
    "says",
    "says_every_word",
    "shared_words",
    "split_text",
    "within_budget",
]
