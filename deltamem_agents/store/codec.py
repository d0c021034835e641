"""Encodes states as bytes: a safetensors file with one float32 tensor [modules, …] and the modules' names.

All modules share one tensor, because one header entry per module would take a third of the bytes of a small adapter's
state. `encode` and `decode` import torch when called; functions that read only the header do not.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deltamem_agents import bounded_json
from deltamem_agents.errors import StateMismatchError

if TYPE_CHECKING:
    from torch import Tensor

TENSOR = "state"
MODULES = 4096  # limit of a state's modules
HEADER = 1 << 20  # limit of the header's bytes
SIDE = 4096  # limit of each axis


def encode(state: Mapping[str, Tensor]) -> bytes:
    """Encode a state; the same values give the same bytes.

    Args:
        state: Module name to float32 tensor, all of one shape.

    Raises:
        StateMismatchError: The state is empty, or a tensor is not float32, not finite, or differs in shape.
    """
    import torch
    from safetensors.torch import save

    if not state:
        raise StateMismatchError("the state holds no tensor; an adapter has one for each layer")
    names = sorted(state, key=_order)
    shapes = {tuple(tensor.shape) for tensor in state.values()}
    if len(shapes) > 1:
        raise StateMismatchError(f"the state's tensors have shapes {sorted(shapes)}; an adapter's all have one")
    for name, tensor in state.items():
        if tensor.dtype != torch.float32:
            raise StateMismatchError(f"state {name!r} is {tensor.dtype}, states are torch.float32; convert it first")
        if not bool(torch.isfinite(tensor).all()):
            raise StateMismatchError(f"state {name!r} holds values that are not finite; fold the journal again")
    stacked = torch.stack([state[name].detach().cpu() for name in names])
    return save({TENSOR: stacked}, metadata={"modules": _folded(names)})


def decode(data: bytes) -> dict[str, Tensor]:
    """Decode the bytes of a state into CPU tensors; sizes are checked before anything is allocated.

    Raises:
        StateMismatchError: The bytes are not a complete, finite float32 state.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    names = module_names(data)
    try:
        stacked = load(data)[TENSOR]
    except SafetensorError as error:
        raise StateMismatchError(f"stored state is damaged ({error}); fold the journal again") from error
    if not bool(torch.isfinite(stacked).all()):
        raise StateMismatchError("stored state holds values that are not finite; fold the journal again")
    return {name: tensor.clone() for name, tensor in zip(names, stacked, strict=True)}


def module_names(data: bytes) -> list[str]:
    """The names of an encoded state's modules, checking that it is float32 and complete. Does not import torch.

    Raises:
        StateMismatchError: The bytes are not a complete float32 state.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > HEADER:
            raise ValueError("too long a header")
        header = bounded_json.loads(data[8 : 8 + length])
        names = _unfolded(header["__metadata__"]["modules"])
        entry = header[TENSOR]
        shape, (start, end) = list(entry["shape"]), entry["data_offsets"]
        if any(type(number) is not int for number in (*shape, start, end)):
            raise ValueError("sizes that are not whole numbers")
        others = header.keys() - {"__metadata__", TENSOR}
        dtype = entry["dtype"]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise StateMismatchError(
            f"stored state of {len(data)} bytes is not a state's safetensors file; fold the journal again"
        ) from error
    size = 4
    for side in shape:
        size *= side
    fits = not others and dtype == "F32" and all(0 < side <= SIDE for side in shape) and len(shape) > 1
    if not fits or shape[0] != len(names) or start != 0 or size != end or 8 + length + size != len(data):
        raise StateMismatchError(
            f"stored state holds {dtype} {shape} of {len(names)} modules in {len(data)} bytes, expected float32 only "
            "and all of them; fold the journal again"
        )
    return names


def check(data: bytes) -> None:
    """Check the bytes of a state from an untrusted source. Does not import torch.

    Raises:
        StateMismatchError: The bytes are not a complete float32 state, or hold values that are not finite.
    """
    import numpy as np

    module_names(data)
    (length,) = struct.unpack_from("<Q", data)
    if not np.isfinite(np.frombuffer(data, "<f4", offset=8 + length)).all():
        raise StateMismatchError("stored state holds values that are not finite; fold the journal again")


def _order(name: str) -> tuple[object, ...]:
    """Sort key that orders layers by number."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.split("."))


def _folded(names: list[str]) -> str:
    """Names that differ in one number as a pattern, ``layers.*.self_attn 0,1,2``; other names one per line."""
    split = [name.split(".") for name in names]
    numbers = [[i for i, part in enumerate(parts) if part.isdecimal()] for parts in split]
    if len({found[0] if found else None for found in numbers}) == 1 and numbers[0]:
        at = numbers[0][0]
        patterns = {".".join([*parts[:at], "*", *parts[at + 1 :]]) for parts in split}
        if len(patterns) == 1:
            return f"{patterns.pop()} {','.join(parts[at] for parts in split)}"
    return "\n".join(names)


def _unfolded(text: str) -> list[str]:
    pattern, _, layers = text.rpartition(" ")
    names = [pattern.replace("*", number, 1) for number in layers.split(",")] if "*" in pattern else text.split("\n")
    if not names or len(set(names)) != len(names) or len(names) > MODULES or not all(names):
        raise ValueError(f"{len(names)} names of modules")
    return names
