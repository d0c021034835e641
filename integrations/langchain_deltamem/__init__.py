"""Memory of deltamem-agents for LangChain and LangGraph. May import `deltamem_agents.memory` and what LangChain ships.

| need | class |
| --- | --- |
| memory for an agent made by `create_agent`, with any chat model | `DeltaMemMiddleware` |
| the backbone itself, under an agent's state, as chat model | `ChatDeltaMem` |
| a history for `RunnableWithMessageHistory` | `DeltaMemChatMessageHistory` |
| what was said, as documents | `DeltaMemRetriever` |
| a store for LangGraph: values by namespace and key, searched by text and meaning | `DeltaMemStore` |
"""

from deltamem_agents.extras import missing_extra

try:
    from langchain_deltamem.chat_model import ChatDeltaMem
    from langchain_deltamem.history import DeltaMemChatMessageHistory
    from langchain_deltamem.middleware import DeltaMemMiddleware
    from langchain_deltamem.retriever import DeltaMemRetriever
    from langchain_deltamem.store import DeltaMemStore
except ModuleNotFoundError as error:
    raise missing_extra(error, "langchain_deltamem", "langchain") from error

__all__ = [
    "ChatDeltaMem",
    "DeltaMemChatMessageHistory",
    "DeltaMemMiddleware",
    "DeltaMemRetriever",
    "DeltaMemStore",
]
