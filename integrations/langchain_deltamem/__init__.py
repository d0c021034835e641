"""Memory of deltamem-agents for LangChain and LangGraph. May import `deltamem_agents.memory` and what LangChain ships.

Each class is imported when it is first used. None imports torch; opening a `DeltaMem` with a backbone does.

| need | class |
| --- | --- |
| memory for an agent made by `create_agent`, with any chat model | `DeltaMemMiddleware` |
| the backbone itself, with an agent's state, as a chat model | `ChatDeltaMem` |
| a history for `RunnableWithMessageHistory` | `DeltaMemChatMessageHistory` |
| memory for a chain of `langchain_classic` | `DeltaMemClassicMemory` |
| earlier messages, as documents | `DeltaMemRetriever` |
| a store for LangGraph: values by namespace and key, searched by text and meaning | `DeltaMemStore` |
"""

from typing import TYPE_CHECKING

from deltamem_agents.errors import require_extra
from deltamem_agents.libraries import imported_on_use

if TYPE_CHECKING:
    from langchain_deltamem.chat_model import ChatDeltaMem
    from langchain_deltamem.classic import DeltaMemClassicMemory
    from langchain_deltamem.history import DeltaMemChatMessageHistory
    from langchain_deltamem.middleware import DeltaMemMiddleware
    from langchain_deltamem.retriever import DeltaMemRetriever
    from langchain_deltamem.store import DeltaMemStore

__all__ = [
    "ChatDeltaMem",
    "DeltaMemChatMessageHistory",
    "DeltaMemClassicMemory",
    "DeltaMemMiddleware",
    "DeltaMemRetriever",
    "DeltaMemStore",
]

require_extra("langchain_core", "langchain_deltamem", "langchain")

__getattr__ = imported_on_use(
    __name__,
    {
        "ChatDeltaMem": "chat_model",
        "DeltaMemChatMessageHistory": "history",
        "DeltaMemClassicMemory": "classic",
        "DeltaMemMiddleware": "middleware",
        "DeltaMemRetriever": "retriever",
        "DeltaMemStore": "store",
    },
    extra="langchain",
)
