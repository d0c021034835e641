"""Memory of deltamem-agents for LlamaIndex. May import `deltamem_agents.memory` and llama-index-core.

Each class is imported when it is first used. None imports torch; opening a `DeltaMem` with a backbone does.

| need | class |
| --- | --- |
| ``memory=`` of an agent or a chat engine, with any LLM | `DeltaMemory` |
| a block of LlamaIndex's own ``Memory``, beside others | `DeltaMemoryBlock` |
| the backbone itself, with an agent's state, as an LLM | `DeltaMemLLM` |
| earlier messages, as nodes | `DeltaMemRetriever` |
"""

from typing import TYPE_CHECKING

from deltamem_agents.errors import require_extra
from deltamem_agents.libraries import imported_on_use

if TYPE_CHECKING:
    from llama_index_deltamem.block import DeltaMemoryBlock
    from llama_index_deltamem.llm import DeltaMemLLM
    from llama_index_deltamem.memory import DeltaMemory
    from llama_index_deltamem.retriever import DeltaMemRetriever

__all__ = ["DeltaMemLLM", "DeltaMemRetriever", "DeltaMemory", "DeltaMemoryBlock"]

require_extra("llama_index.core", "llama_index_deltamem", "llama-index")

__getattr__ = imported_on_use(
    __name__,
    {
        "DeltaMemLLM": "llm",
        "DeltaMemRetriever": "retriever",
        "DeltaMemory": "memory",
        "DeltaMemoryBlock": "block",
    },
    extra="llama-index",
)
