"""Memory of deltamem-agents for LlamaIndex. May import `deltamem_agents.memory` and llama-index-core.

| need | class |
| --- | --- |
| ``memory=`` of an agent or a chat engine, with any LLM | `DeltaMemory` |
| a block of LlamaIndex's own ``Memory``, beside others | `DeltaMemoryBlock` |
| the backbone itself, under an agent's state, as LLM | `DeltaMemLLM` |
| what was said, as nodes | `DeltaMemRetriever` |
"""

from deltamem_agents.extras import missing_extra

try:
    from llama_index_deltamem.block import DeltaMemoryBlock
    from llama_index_deltamem.llm import DeltaMemLLM
    from llama_index_deltamem.memory import DeltaMemory
    from llama_index_deltamem.retriever import DeltaMemRetriever
except ModuleNotFoundError as error:
    raise missing_extra(error, "llama_index_deltamem", "llama-index") from error

__all__ = ["DeltaMemLLM", "DeltaMemRetriever", "DeltaMemory", "DeltaMemoryBlock"]
