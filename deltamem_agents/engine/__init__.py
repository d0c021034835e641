"""The model as a service: load a backbone with its adapter, fold segments into states, generate and score under them.

May import core (and so torch and transformers); knows neither the store nor recall.
"""

from deltamem_agents.engine.engine import HOT_BYTES, Engine, failures
from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.limits import Limits
from deltamem_agents.engine.loading import Loaded, load
from deltamem_agents.engine.rendering import MessageFormat, Rendering
from deltamem_agents.engine.requests import AgentKey, StateKey
from deltamem_agents.engine.segments import Segment, cut
from deltamem_agents.engine.sharing import release, shared, stamp
from deltamem_agents.engine.statistics import Stats

__all__ = [
    "HOT_BYTES",
    "AgentKey",
    "Cancellation",
    "Engine",
    "Generation",
    "Limits",
    "Loaded",
    "MessageFormat",
    "Rendering",
    "Sampling",
    "Segment",
    "StateKey",
    "Stats",
    "cut",
    "failures",
    "load",
    "release",
    "shared",
    "stamp",
]
