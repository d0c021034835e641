"""δ-mem as the storage of Anthropic's memory tool: `AnthropicMemoryTool`, and its async twin.

Works without the SDK too, for programs that call the API themselves. May import memory and frameworks.
"""

from deltamem_agents.anthropic_memory.tool import AnthropicMemoryTool, AsyncAnthropicMemoryTool, MemoryToolError

__all__ = ["AnthropicMemoryTool", "AsyncAnthropicMemoryTool", "MemoryToolError"]
