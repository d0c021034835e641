"""The scan over tokens on a GPU, host side: buffers, the choice of chunks, launches, the autograd function.

Validates nothing, never waits for the device and inspects no value. Device code: ``scan_kernels.py``,
``scan_maps.py`` and ``scan_gradients.py``; derivation: ``README.md``.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deltamem_kernels.gpu.launching import current, power_of_two

MAX_RANK = 64
BLOCK = 16  # tokens between two states kept for the backward, and tokens per step of a map in the WY form
WY_RANK = 32  # from this rank on, the chunks' maps are made in the WY form

_TOKEN_CYCLES, _LAUNCH_CYCLES = 150, 10000  # estimates for Hopper, not measured
_BASIS_INSTRUCTIONS = {32: 2600, 64: 2800}  # per warp for 16 tokens of `basis_maps`, by side: from the machine code
_MAPS_ELEMENTS = 32 << 20  # limit on the scratch memory, 128 MiB
_OPTIONS = {"enable_fp_fusion": True}  # explicit, because Triton's default changes between versions


def unavailable(device: torch.device) -> str | None:
    """Why the GPU scan cannot run on tensors of a device; None if it can.

    Triton's interpreter (TRITON_INTERPRET=1 before the first import of the kernels) accepts CPU tensors.
    """
    kernels = _kernels()
    if isinstance(kernels, str):
        return kernels
    if kernels.interpreted:
        return None if device.type == "cpu" else f"Triton's interpreter takes CPU tensors, these are on {device.type}"
    if device.type != "cuda":
        return f"it runs on CUDA devices, the tensors are on {device.type}"
    return None if torch.cuda.is_available() else "torch finds no CUDA device on this machine"


def scan(
    inputs: Sequence[Tensor], state: Tensor, mask: Tensor | None, length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Read and write T tokens. Same as `naive.scan`, on a GPU, in float32.

    Differentiable once in the inputs and the state.

    Args:
        inputs: q, k, v, keep, erase, write, each [N, T, R]; any float type up to 32 bits, any strides, R at most 64.
        state: [N, R, R] float32, not changed.
        mask: [N, T] bool or None.
        length: Tokens per chunk, a multiple of 16; None to let `chunk_length` choose.

    Returns:
        The reads [N, T, R] and the new state [N, R, R], both float32.
    """
    n, tokens, rank = inputs[0].shape
    if n == 0 or tokens == 0:
        return _empty(state, n, tokens, rank), state.clone()
    length = length or chunk_length(n, tokens, rank, _multiprocessors(state.device))
    arrays = [x.contiguous() for x in (*inputs, state)]
    if mask is not None:
        mask = mask.contiguous()
    if torch.is_grad_enabled() and any(x.requires_grad for x in arrays):
        reads, state = _Scan.apply(length, mask, *arrays)  # type: ignore[no-untyped-call]
    else:
        reads, state, _ = _forward(length, mask, arrays, saved=False)
    return reads, state


class _Scan(torch.autograd.Function):
    """Keeps the inputs and one state every 16 tokens."""

    @staticmethod
    def forward(ctx: Any, length: int, mask: Tensor | None, *arrays: Tensor) -> tuple[Tensor, Tensor]:
        reads, state, states = _forward(length, mask, arrays, saved=True)
        ctx.save_for_backward(mask, states, *arrays[:6])
        ctx.length = length
        ctx.set_materialize_grads(False)
        return reads, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_reads: Tensor | None, d_state: Tensor | None) -> tuple[Tensor | None, ...]:
        mask, states, *inputs = ctx.saved_tensors
        n, tokens, rank = inputs[0].shape
        d_reads = _zeros(states, n, tokens, rank) if d_reads is None else d_reads.contiguous()
        d_state = _zeros(states, n, rank, rank) if d_state is None else d_state.contiguous()
        return None, None, *_backward(ctx.length, mask, inputs, states, d_reads, d_state)


def _forward(
    length: int, mask: Tensor | None, arrays: Sequence[Tensor], *, saved: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Reads, new state and, if requested, the states [N, blocks, R, R]. Arrays: q … write, state; contiguous."""
    *inputs, state = arrays
    n, tokens, rank = inputs[0].shape
    reads, end = _empty(state, n, tokens, rank), _empty(state, n, rank, rank)
    states = _empty(state, n, -(-tokens // BLOCK), rank, rank) if saved else None
    _walk(length, inputs, mask, None, state, end, reads, states)
    return reads, end, states


def _backward(
    length: int, mask: Tensor | None, inputs: Sequence[Tensor], states: Tensor, d_reads: Tensor, d_state: Tensor
) -> list[Tensor]:
    """The gradients of q … write and of the state."""
    n, tokens, rank = inputs[0].shape
    d_start, adjoints, d_change = torch.empty_like(d_state), torch.empty_like(states), torch.empty_like(d_reads)
    _walk(length, inputs, mask, d_reads, d_state, d_start, d_change, adjoints)
    found = [torch.empty_like(x) for x in inputs]
    tile = gradient_tile(rank, _kernels().interpreted)
    blocks = states.shape[1]
    with current(states.device):
        _kernels().gradients[(-(-n * blocks // tile["GROUP"]),)](
            *inputs, mask, d_reads, states, adjoints, d_change, *found, n, tokens, blocks,
            RANK=rank, BLOCK=BLOCK, MASKED=mask is not None, **tile,
        )  # fmt: skip
    return [*found, d_start]


def _walk(
    length: int,
    inputs: Sequence[Tensor],
    mask: Tensor | None,
    d_reads: Tensor | None,
    start: Tensor,
    end: Tensor,
    along: Tensor,
    checkpoints: Tensor | None,
) -> None:
    """Walk from ``start`` to ``end`` [N,R,R], filling ``along`` [N,T,R]: with reads or, given ``d_reads``, with du.

    With ``d_reads`` the walk goes backward. A single chunk takes one walk. Several take three steps: their maps, all in
    parallel; the states at their starts, one after another; then all chunks in parallel from these states. From rank
    32 on the maps are made in the WY form, except their last row, which is what the tokens add.
    """
    n, tokens, rank = inputs[0].shape
    chunks, blocks, reverse = -(-tokens // length), -(-tokens // BLOCK), d_reads is not None
    kernels = _kernels()
    sizes = (n, tokens, chunks, length, blocks)
    shared = {"RANK": rank, "BLOCK": BLOCK, "REVERSE": reverse, "MASKED": mask is not None}
    with current(start.device):
        if chunks > 1:
            maps, starts = _empty(start, n, chunks, rank, rank + 1, rank), _empty(start, n, chunks, rank, rank)
            added = rank if rank >= WY_RANK else 0
            if added:
                _basis_maps(length, inputs, mask, maps, reverse)
            tile = walk_tile(rank, kernels.interpreted, maps=True)
            kernels.walk[(-(-n * chunks * rank * (rank + 1 - added) // tile["LANES"]),)](
                *inputs, mask, d_reads, None, maps, None, None, *sizes, **shared, MAPS=True, FIRST=added, SAVE=False,
                **tile,
            )  # fmt: skip
            kernels.chain[(n * rank,)](maps, start, starts, chunks, RANK=rank, REVERSE=reverse, **chain_tile(rank))
            start = starts
        tile = walk_tile(rank, kernels.interpreted, maps=False)
        kernels.walk[(-(-n * chunks * rank // tile["LANES"]),)](
            *inputs, mask, d_reads, start, end, along, checkpoints, *sizes, **shared, MAPS=False, FIRST=0,
            SAVE=checkpoints is not None, **tile,
        )  # fmt: skip


def _basis_maps(length: int, inputs: Sequence[Tensor], mask: Tensor | None, maps: Tensor, reverse: bool) -> None:
    """Make the first R of the R + 1 rows of each map [N,chunks,R,R+1,R] on the current device."""
    _, k, _, keep, erase, _ = inputs
    n, tokens, rank = k.shape
    chunks, blocks = maps.shape[1], -(-tokens // BLOCK)
    kernels = _kernels()
    products = _empty(maps, n, blocks, BLOCK, BLOCK)
    shared = {"RANK": rank, "BLOCK": BLOCK, "MASKED": mask is not None}
    kernels.grams[(n * blocks,)](k, mask, products, tokens, blocks, **shared, **grams_tile(rank))
    kernels.basis_maps[(n * chunks * rank,)](
        k, keep, erase, mask, products, maps, tokens, chunks, length, blocks,
        REVERSE=reverse, **shared, **basis_tile(rank),
    )  # fmt: skip


@lru_cache(maxsize=1024)
def chunk_length(n: int, tokens: int, rank: int, multiprocessors: int) -> int:
    """Tokens per chunk, a multiple of 16, by a rough count of cycles; all tokens if chunks would not help.

    A walk takes at least a token's latency times the length; with more warps than latency hides, it takes all warps'
    instructions shared among the schedulers. Each chunk adds a link to the chain, and chunks make the first walk R + 1
    times as wide; from rank 32 on they add a walk of equal width, and the basis maps, `_BASIS_INSTRUCTIONS` per block.
    """
    side = power_of_two(rank)
    spread = max(1, side // 8)
    warps = n * rank * spread / 32
    schedulers = 4 * multiprocessors
    instructions = 8 * min(side, 8) + 15
    link = 150 if side <= 16 else 10 * side

    def cycles(length: int) -> float:
        walked, chunks = tokens * warps * instructions / schedulers, -(-tokens // length)
        replay = max(_TOKEN_CYCLES * length, walked)
        if chunks == 1:
            return replay
        if rank < WY_RANK:
            return 2 * _LAUNCH_CYCLES + max(_TOKEN_CYCLES * length, walked * (rank + 1)) + chunks * link + replay
        # A lone warp issues one instruction in about two cycles; all rows of all blocks share the schedulers.
        block = _BASIS_INSTRUCTIONS[side]
        lone = 2 * block * length / BLOCK
        all_blocks: float = n * rank * tokens / BLOCK * block * basis_tile(rank)["num_warps"] / schedulers
        return 4 * _LAUNCH_CYCLES + max(lone, all_blocks) + replay + chunks * link + replay

    whole = -(-tokens // BLOCK) * BLOCK
    lengths = [BLOCK << power for power in range(16) if BLOCK << power < whole]
    lengths = [x for x in lengths if n * -(-tokens // x) * rank * (rank + 1) * rank <= _MAPS_ELEMENTS]
    return min([whole, *lengths], key=cycles)


def walk_tile(rank: int, interpreted: bool, *, maps: bool) -> dict[str, int]:
    """The tile of a walk: one warp's; a wide one for the interpreter, whose cost is per program."""
    side = power_of_two(rank)
    registers = min(side, 8)
    spread = side // registers
    return {
        "REGISTERS": registers,
        "SPREAD": spread,
        "LANES": (4096 if interpreted else 32) // spread,
        "TOKENS": 8 if maps or side <= 8 else 4,  # as many as fit in the registers
        "num_warps": 1,
        **_OPTIONS,
    }


def grams_tile(rank: int) -> dict[str, Any]:
    """The tile of the products of a block's keys with one another."""
    return {"PADDED": power_of_two(rank), "num_warps": 1, **_OPTIONS}


def basis_tile(rank: int) -> dict[str, Any]:
    """The tile of a map in the WY form: one thread per column m, so that each solves its own triangular system.

    Two warps would suffice for 64 columns, but spill; with four, two threads share a column, at two barriers per token.
    Products take 16 rows of Xᵀ at a time: with more, their operands fill the registers. Nothing is loaded before its
    block: the compiler would send each Gram row through shared memory.
    """
    side = power_of_two(rank)
    return {
        "PADDED": side,
        "PIECE": 16,
        "PRECISION": "ieee",
        "num_warps": 1 if side == 32 else 4,
        "num_stages": 1,
        **_OPTIONS,
    }


def chain_tile(rank: int) -> dict[str, int]:
    """The tile of the chain: one map, at most 16 elements per thread."""
    side = power_of_two(rank)
    warps = max(1, side * side // 512)
    return {"PADDED": side, "DOWN": min(side, 32 * warps // side), "num_warps": warps, **_OPTIONS}


def gradient_tile(rank: int, interpreted: bool) -> dict[str, int]:
    """The tile of the gradients: whole states, 8 or 16 elements of each per thread."""
    side = power_of_two(rank)
    registers = min(side, 8 if side <= 32 else 16)
    spread = side // registers
    threads = side * spread
    return {
        "REGISTERS": registers,
        "SPREAD": spread,
        "ROWS": side,
        "GROUP": 16 if interpreted else max(1, 32 // threads),
        "TOKENS": 4 if side <= 16 else 2,  # as many as fit in the registers
        "num_warps": max(1, threads // 32),
        **_OPTIONS,
    }


@dataclass(frozen=True, slots=True)
class _Kernels:
    walk: Any
    chain: Any
    grams: Any
    basis_maps: Any
    gradients: Any
    interpreted: bool


@cache
def _kernels() -> Any:
    """The kernels, which compile on first use, or the reason why they cannot be imported."""
    try:
        forward = importlib.import_module("deltamem_kernels.gpu.scan_kernels")
        maps = importlib.import_module("deltamem_kernels.gpu.scan_maps")
        backward = importlib.import_module("deltamem_kernels.gpu.scan_gradients")
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    interpreted = type(forward.walk).__name__ == "InterpretedFunction"
    return _Kernels(forward.walk, forward.chain, maps.grams, maps.basis_maps, backward.gradients, interpreted)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _zeros(like: Tensor, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float32, device=like.device)
