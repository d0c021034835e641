"""Memory for AI agents that lives in the model: δ-mem states on a frozen backbone, with their journal in SQL.

from deltamem_agents import DeltaMem

with DeltaMem.open("tiny", url="sqlite:///memory.db") as mem:
    alice = mem.agent("alice")
    alice.write([{"role": "user", "content": "My favourite colour is teal."}])
    print(alice.recall("What is my favourite colour?").text)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltamem_agents.libraries import imported_on_use

if TYPE_CHECKING:
    from deltamem_agents.anthropic_memory import AnthropicMemoryTool, AsyncAnthropicMemoryTool
    from deltamem_agents.memory import AgentMemory, DeltaMem, Recall, Reply

__version__ = "0.1.0"
__all__ = ["AgentMemory", "AnthropicMemoryTool", "AsyncAnthropicMemoryTool", "DeltaMem", "Recall", "Reply"]

# Names are imported on first use, so importing the package, or its store alone, imports nothing else.
__getattr__ = imported_on_use(
    __name__, {name: "anthropic_memory" if name.endswith("AnthropicMemoryTool") else "memory" for name in __all__}
)
