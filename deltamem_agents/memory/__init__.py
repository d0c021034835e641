"""`DeltaMem` and `AgentMemory`: engine, store and recall combined into one memory. Frameworks build on this layer."""

from deltamem_agents.memory.agent import AgentMemory
from deltamem_agents.memory.deltamem import DeltaMem
from deltamem_agents.memory.migration import Migrated, Rejected
from deltamem_agents.memory.options import Handover, Mode, Outdated, Placement, RecallOptions
from deltamem_agents.memory.results import (
    Difference,
    Drift,
    Health,
    MemoryStats,
    Recall,
    Receipt,
    Reply,
    Source,
    StatePoint,
    Usage,
)
from deltamem_agents.messages import MessageRef
from deltamem_agents.tool_calls import ToolCall

__all__ = [
    "AgentMemory",
    "DeltaMem",
    "Difference",
    "Drift",
    "Handover",
    "Health",
    "MemoryStats",
    "MessageRef",
    "Migrated",
    "Mode",
    "Outdated",
    "Placement",
    "Recall",
    "RecallOptions",
    "Receipt",
    "Rejected",
    "Reply",
    "Source",
    "StatePoint",
    "ToolCall",
    "Usage",
]
