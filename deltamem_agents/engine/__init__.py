"""The model as a service: load a backbone with its adapter, fold segments into states, generate and score with them.

May import core (and so torch and transformers); knows neither the store nor recall. Names are imported on first use:
the modules that describe a request (`generation`, `options`, `segments`, `statistics`) import no torch.
"""

from typing import TYPE_CHECKING

from deltamem_agents.libraries import imported_on_use

if TYPE_CHECKING:
    from deltamem_agents.engine.engine import Engine, stopped_engines
    from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
    from deltamem_agents.engine.loading import Loaded, load, load_backbone
    from deltamem_agents.engine.options import HOT_BYTES, Limits
    from deltamem_agents.engine.rendering import MessageFormat, Rendering
    from deltamem_agents.engine.segments import AgentKey, Segment, StateKey, cut
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
        "HOT_BYTES": "options",
        "AgentKey": "segments",
        "Cancellation": "generation",
        "Engine": "engine",
        "Generation": "generation",
        "Limits": "options",
        "Loaded": "loading",
        "MessageFormat": "rendering",
        "Rendering": "rendering",
        "Sampling": "generation",
        "Segment": "segments",
        "StateKey": "segments",
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
