"""δ-mem on a frozen Hugging Face causal LM: adapters, their files, states, and the code that attaches an adapter.

May import torch, transformers, safetensors and `deltamem_kernels`; knows nothing of agents, journals or SQL.
"""

from deltamem_agents.core.adapter import Adapter, new_adapter
from deltamem_agents.core.attachment import Attached, Bound, attach
from deltamem_agents.core.calibration import Calibration, Logistic, state_norm
from deltamem_agents.core.config import DeltaMemConfig
from deltamem_agents.core.families import FAMILIES, Family
from deltamem_agents.core.files import load_adapter, save_adapter
from deltamem_agents.core.fingerprint import backbone_fingerprint
from deltamem_agents.core.state import (
    State,
    detach_state,
    repeat_state,
    select_state,
    stack_states,
    state_key,
    unstack_states,
    validate_state,
)

__all__ = [
    "FAMILIES",
    "Adapter",
    "Attached",
    "Bound",
    "Calibration",
    "DeltaMemConfig",
    "Family",
    "Logistic",
    "State",
    "attach",
    "backbone_fingerprint",
    "detach_state",
    "load_adapter",
    "new_adapter",
    "repeat_state",
    "save_adapter",
    "select_state",
    "stack_states",
    "state_key",
    "state_norm",
    "unstack_states",
    "validate_state",
]
