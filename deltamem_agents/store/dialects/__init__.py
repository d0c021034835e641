"""What differs between databases: how transactions begin, full text is searched, and erased bytes are removed.

A dialect is one module with one class that implements `Dialect`. Knows nothing of journals and states beyond table
names.
"""

from deltamem_agents.store.dialects.pgvector import Pgvector
from deltamem_agents.store.dialects.protocol import Dialect, FullText
from deltamem_agents.store.dialects.rows import Within, insert_missing, rows_among, rows_each
from deltamem_agents.store.dialects.select import dialect_of, engine_for

__all__ = [
    "Dialect",
    "FullText",
    "Pgvector",
    "Within",
    "dialect_of",
    "engine_for",
    "insert_missing",
    "rows_among",
    "rows_each",
]
