"""States: a dict from attention module name to a float32 tensor, [R, R] or [H, R, R], with a leading B if batched.

Nothing here writes in place: a state passed to a forward stays valid for its caller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from deltamem_agents.errors import StateMismatchError, kind_of

State = dict[str, Tensor]


def state_key(layer: int) -> str:
    """Name of a layer's state, the same for every family: 'model.layers.3.self_attn'."""
    return f"model.layers.{layer}.self_attn"


def validate_state(state: Mapping[str, Tensor], keys: Iterable[str], shape: tuple[int, ...]) -> int:
    """Check names, dtype and shapes of a batched state.

    Args:
        keys: The adapter's module names.
        shape: Shape of one layer's state without its batch axis.

    Returns:
        Its number of rows.

    Raises:
        StateMismatchError: The state has other modules, or another shape, dtype or number of rows.
    """
    expected = list(keys)
    if not isinstance(state, Mapping):
        raise StateMismatchError(f"state is {kind_of(state)}; give a dict from module name to tensor")
    if set(state) != set(expected):
        odd = sorted(set(state) ^ set(expected))
        raise StateMismatchError(
            f"state has {len(state)} modules, the adapter {len(expected)}; they differ in {odd[:3]}; "
            "fold the journal again with this adapter"
        )
    batch: int | None = None
    for key in expected:
        tensor = state[key]
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise StateMismatchError(f"state of {key!r} is {kind}; states are float32 tensors, convert it")
        if tuple(tensor.shape[1:]) != shape or tensor.dim() != len(shape) + 1:
            raise StateMismatchError(
                f"state of {key!r} has shape {list(tensor.shape)}; the adapter needs [batch, "
                f"{', '.join(map(str, shape))}]; fold the journal again with this adapter"
            )
        batch = tensor.shape[0] if batch is None else batch
        if tensor.shape[0] != batch:
            raise StateMismatchError(
                f"state of {key!r} has {tensor.shape[0]} rows instead of {batch}; give one per row"
            )
    return batch or 0


def stack_states(states: Sequence[Mapping[str, Tensor]]) -> State:
    """Stack B states without a batch axis into one batched state.

    Raises:
        StateMismatchError: There are no states, or they belong to different adapters.
    """
    if not states:
        raise StateMismatchError("no states to stack; give at least one")
    if any(state.keys() != states[0].keys() for state in states):
        raise StateMismatchError("states to stack name different modules; they belong to different adapters")
    for key, first in states[0].items():
        for state in states:
            if state[key].shape != first.shape:
                raise StateMismatchError(
                    f"states to stack differ in shape: {key!r} is {list(first.shape)} and {list(state[key].shape)}; "
                    "they belong to different adapters"
                )
    return {key: torch.stack([state[key] for state in states]) for key in states[0]}


def unstack_states(state: Mapping[str, Tensor]) -> list[State]:
    """The rows of a batched state as states without a batch axis (copies, safe to keep)."""
    rows = min((tensor.shape[0] for tensor in state.values()), default=0)
    return [{key: tensor[row].clone() for key, tensor in state.items()} for row in range(rows)]


def repeat_state(state: Mapping[str, Tensor], times: int) -> State:
    """Repeat each row ``times`` times: a, a, b, b. Differentiable."""
    return {key: tensor.repeat_interleave(times, dim=0) for key, tensor in state.items()}


def select_state(state: Mapping[str, Tensor], slots: Tensor | Sequence[int]) -> State:
    """Rows ``slots`` [B] of a pool [P, …]; −1 gives a zero state. Differentiable."""
    picked: State = {}
    for key, pool in state.items():
        index = torch.as_tensor(slots, dtype=torch.int64, device=pool.device)
        kept = index.ge(0).view(-1, *[1] * (pool.dim() - 1))
        picked[key] = torch.where(kept, pool.index_select(0, index.clamp_min(0)), pool.new_zeros(()))
    return picked


def detach_state(state: Mapping[str, Tensor]) -> State:
    """The same values, detached from the autograd graph."""
    return {key: tensor.detach() for key, tensor in state.items()}
