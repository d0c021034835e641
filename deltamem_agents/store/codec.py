"""States as bytes: safetensors with nothing but float32 tensors. The only module here that needs torch, on use."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deltamem_agents.errors import StateMismatchError

if TYPE_CHECKING:
    from torch import Tensor


def encode(state: Mapping[str, Tensor]) -> bytes:
    """The bytes of a state: module name to float32 tensor, the same bytes for the same values.

    Raises:
        StateMismatchError: It is empty, or a tensor is not float32 or not finite.
    """
    import torch
    from safetensors.torch import save

    if not state:
        raise StateMismatchError("the state holds no tensor; an adapter has one for each layer")
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise StateMismatchError(f"state {name!r} is {tensor.dtype}, states are torch.float32; convert it first")
        if not bool(torch.isfinite(tensor).all()):
            raise StateMismatchError(f"state {name!r} holds values that are not finite; fold the journal again")
    return save({name: state[name].detach().cpu().contiguous().clone() for name in sorted(state)})


def decode(data: bytes) -> dict[str, Tensor]:
    """The state that `encode` made ``data`` of; tensors on the CPU, sizes checked before anything is allocated.

    Raises:
        StateMismatchError: These are not such bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    _check_header(data)
    try:
        return load(data)
    except SafetensorError as error:
        raise StateMismatchError(f"stored state is damaged ({error}); fold the journal again") from error


def _check_header(data: bytes) -> None:
    """Refuse anything but float32 tensors that fill the bytes exactly."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        kinds = {entry["dtype"] for entry in tensors.values()}
        end = max(entry["data_offsets"][1] for entry in tensors.values())
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StateMismatchError(
            f"stored state of {len(data)} bytes is not a safetensors file; fold the journal again"
        ) from error
    if kinds != {"F32"} or 8 + length + end != len(data):
        raise StateMismatchError(
            f"stored state holds {sorted(map(str, kinds))} and {len(data)} of {8 + length + end} bytes, "
            "expected float32 only and all of them; fold the journal again"
        )
