"""The model as a service: load a backbone with its adapter, fold segments into states, generate and score with them.

May import core (and so torch and transformers); knows neither the store nor recall. Names are imported on first use:
the modules that describe a request (`generation`, `keys`, `limits`, `segments`, `statistics`) import no torch.
"""

from typing import TYPE_CHECKING

from deltamem_agents.on_use import imported_on_use

if TYPE_CHECKING:
    from deltamem_agents.engine.engine import Engine, stopped_engines
    from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
    from deltamem_agents.engine.keys import AgentKey, StateKey
    from deltamem_agents.engine.limits import HOT_BYTES, Limits
    from deltamem_agents.engine.loading import Loaded, load, load_backbone
    from deltamem_agents.engine.rendering import MessageFormat, Rendering
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
    "load",
    "load_backbone",
    "release",
    "shared",
    "stamp",
    "stopped_engines",
]

__getattr__ = imported_on_use(
    __name__,
    {
        "HOT_BYTES": "limits",
        "AgentKey": "keys",
        "Cancellation": "generation",
        "Engine": "engine",
        "Generation": "generation",
        "Limits": "limits",
        "Loaded": "loading",
        "MessageFormat": "rendering",
        "Rendering": "rendering",
        "Sampling": "generation",
        "Segment": "segments",
        "StateKey": "keys",
        "Stats": "statistics",
        "cut": "segments",
        "load": "loading",
        "load_backbone": "loading",
        "release": "sharing",
        "shared": "sharing",
        "stamp": "sharing",
        "stopped_engines": "engine",
    },
)
