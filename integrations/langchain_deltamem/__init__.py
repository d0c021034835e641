"""Memory of deltamem-agents for LangChain and LangGraph. May import `deltamem_agents.memory` and what LangChain ships.

| need | class |
| --- | --- |
| memory for an agent made by `create_agent`, with any chat model | `DeltaMemMiddleware` |
| the backbone itself, under an agent's state, as chat model | `ChatDeltaMem` |
| a history for `RunnableWithMessageHistory` | `DeltaMemChatMessageHistory` |
| memory for a chain of `langchain_classic` | `DeltaMemClassicMemory` |
| what was said, as documents | `DeltaMemRetriever` |
| a store for LangGraph: values by namespace and key, searched by text and meaning | `DeltaMemStore` |
"""

from typing import TYPE_CHECKING, Any

from deltamem_agents.extras import missing_extra

try:
    from langchain_deltamem.chat_model import ChatDeltaMem
    from langchain_deltamem.history import DeltaMemChatMessageHistory
    from langchain_deltamem.middleware import DeltaMemMiddleware
    from langchain_deltamem.retriever import DeltaMemRetriever
    from langchain_deltamem.store import DeltaMemStore
except ModuleNotFoundError as error:
    raise missing_extra(error, "langchain_deltamem", "langchain") from error

if TYPE_CHECKING:
    from langchain_deltamem.classic import DeltaMemClassicMemory

__all__ = [
    "ChatDeltaMem",
    "DeltaMemChatMessageHistory",
    "DeltaMemClassicMemory",
    "DeltaMemMiddleware",
    "DeltaMemRetriever",
    "DeltaMemStore",
]


def __getattr__(name: str) -> Any:
    """`DeltaMemClassicMemory` is imported when it is asked for, as few have what it needs."""
    if name != "DeltaMemClassicMemory":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from langchain_deltamem.classic import DeltaMemClassicMemory

    return DeltaMemClassicMemory
