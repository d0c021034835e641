"""One adapted layer: projections, gates, the state's read and write, and the corrections of attention.

    read   r_t[i]   = <S_{t-1}[i,:], q_t>
    write  S_t[i,:] = keep_t[i] S_{t-1}[i,:] + (write_t[i] v_t[i] - erase_t[i] <S_{t-1}[i,:], k_t>) k_t

Source: arXiv:2605.12357, section 3. Shapes: B rows, T tokens, H heads, R rank, D backbone width, G gates, W = H·R.
Knows nothing about models.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deltamem_agents.core.config import CORRECTIONS, DeltaMemConfig
from deltamem_agents.core.families import LayerShape
from deltamem_agents.core.spans import SpanPlan
from deltamem_kernels import delta_scan
from deltamem_kernels.precision import full_precision

_NORM_EPS = 1e-6


def _zeros(*shape: int) -> Tensor:
    """Float32 whatever the default dtype is; on the default device, which is "meta" while a file is checked."""
    return torch.zeros(shape, dtype=torch.float32)


class Writes(NamedTuple):
    """Keys, values and gates of a scan, each [B·H, T, R]; see the module for the recurrence."""

    keys: Tensor
    values: Tensor
    keep: Tensor
    erase: Tensor
    write: Tensor


class AdapterLayer(nn.Module):
    """Parameters of one layer, float32 whatever the backbone's dtype.

    ``memory`` [3W + G (+ G), D] holds the rows of q, k, v, β and, if λ has its own weights, λ: one matrix product per
    forward. ``gate_bias`` [G (+ G)]. ``corrections[name]`` [out, W] for each corrected projection.
    """

    def __init__(self, config: DeltaMemConfig, shape: LayerShape) -> None:
        super().__init__()
        self.config = config
        self.memory = nn.Parameter(_zeros(config.projection_width, shape.hidden))
        gates = config.projection_width - 3 * config.width
        self.gate_bias = nn.Parameter(_zeros(gates))
        self.corrections = nn.ParameterDict(
            {name: nn.Parameter(_zeros(shape.outputs[name], config.width)) for name in config.corrections}
        )
        self.o_norm = nn.Parameter(_zeros(shape.outputs["o"]) + 1) if config.o_rmsnorm else None
        scales = {"fixed": 0, "layer": 1, "correction": len(CORRECTIONS)}[config.scale]
        self.scale = nn.Parameter(_zeros(scales)) if scales else None

    def forward(
        self,
        x: Tensor,
        state: Tensor,
        read_state: Tensor | None,
        *,
        write: bool,
        valid: Tensor | None,
        spans: SpanPlan | None,
    ) -> tuple[Tensor, Tensor]:
        """Read the state, and write if asked.

        Args:
            x: [B, T, D], the attention module's input.
            state: [B, R, R] or [B, H, R, R] float32; never changed in place.
            read_state: Like ``state``; read instead of it by read-only passes and span writes.
            valid: [B, T] bool; a False token neither reads nor writes. None: all are valid.
            spans: One write per span. None: one per token, each reading the state that its predecessors left.

        Returns:
            Reads [B, T, W] float32, and the state after the last token.
        """
        rows = self.memory if write else self.memory[: self.config.width]
        with full_precision(x.device):  # autocast would round queries and states to bfloat16
            projected = F.linear(x.to(rows.dtype), rows)
            return self.read_and_write(projected, state, read_state, write=write, valid=valid, spans=spans)

    def read_and_write(
        self,
        projected: Tensor,
        state: Tensor,
        read_state: Tensor | None,
        *,
        write: bool,
        valid: Tensor | None,
        spans: SpanPlan | None,
    ) -> tuple[Tensor, Tensor]:
        """Like `forward`, given the memory's projections of the input.

        Args:
            projected: [B, T, ≥ W] float32, queries first; all of ``memory``'s rows if anything is written.
        """
        queries = self._unit(projected[..., : self.config.width])
        if write and spans is None:
            return self._scan(queries, projected, state, valid)
        reads = self._lookup(queries, state if read_state is None else read_state, valid)
        if not write or spans is None:
            return reads, state
        pooled = spans.pool(projected)
        # The scan's own reads are not used: every token of a segment reads the state from before it.
        _, state = self._scan(pooled[..., : self.config.width], pooled, state, spans.mask.to(projected.device))
        return reads, state

    def writes(self, projected: Tensor) -> Writes:
        """What the tokens or spans of ``projected`` [B, T, P], all of ``memory``'s rows, write."""
        width = self.config.width
        keys, values = self._unit(projected[..., width : 2 * width]), projected[..., 2 * width : 3 * width]
        keep, erase, write = self._gates(projected[..., 3 * width :])
        return Writes(*map(self._rows, (keys, values, keep, erase, write)))

    def correct(self, name: str, output: Tensor, reads: Tensor) -> Tensor:
        """``output`` [B, T, out] of a projection plus its correction from ``reads`` [B, T, W]."""
        reads = reads * self._multiplier(name)
        if name == "o" and self.o_norm is not None:
            delta = F.linear(reads, self.corrections[name]).float()
            delta = F.rms_norm(delta, (delta.shape[-1],), self.o_norm, self.config.o_rmsnorm_eps)
            return output + delta.to(output.dtype)
        return output + F.linear(reads, self.corrections[name]).to(output.dtype)

    def scaled(self, name: str) -> Tensor:
        """Weight [out, W] of a correction, multiplied by its scale."""
        weight: Tensor = self.corrections[name]
        return weight * self._multiplier(name)

    def initialise(self, weights: dict[str, Tensor], generator: torch.Generator) -> None:
        """Initialise as in the paper: kaiming projections, zero gates, corrections from slices of the base weights.

        Args:
            weights: The backbone's projection weights [out, in], one per correction.
        """
        config = self.config
        with torch.no_grad():
            for block in torch.split(self.memory[: 3 * config.width], config.width):
                # kaiming_uniform_ with a = sqrt(5) is uniform in ±1/sqrt(fan_in).
                block.uniform_(-(block.shape[1] ** -0.5), block.shape[1] ** -0.5, generator=generator)
            self.memory[3 * config.width :].zero_()
            self.gate_bias.fill_(config.beta_bias)
            self.gate_bias[config.gate_width :].fill_(-config.beta_bias)
            for name in config.corrections:
                columns = min(config.width, weights[name].shape[1])
                slice_ = weights[name][:, :columns].detach().float()
                correction = self.corrections[name]
                correction.zero_()
                correction[:, :columns] = F.normalize(slice_, dim=0, eps=_NORM_EPS) * config.init_gain
            if self.scale is not None:
                share = config.scale_init / config.scale_max
                self.scale.fill_(math.log(share / (1.0 - share)))

    def _multiplier(self, name: str) -> Tensor | float:
        fixed = self.config.alpha / self.config.rank
        if self.scale is None:
            return fixed
        index = CORRECTIONS.index(name) if self.config.scale == "correction" else 0
        return torch.sigmoid(self.scale[index]) * (self.config.scale_max * fixed)

    def _unit(self, projected: Tensor) -> Tensor:
        """l2norm(tanh(·)) of each head of [B, T, W]."""
        if not self.config.normalize_qk:
            return projected
        heads = self._heads(torch.tanh(projected))
        return F.normalize(heads, dim=-1, eps=_NORM_EPS).flatten(-2)

    def _lookup(self, queries: Tensor, state: Tensor, valid: Tensor | None) -> Tensor:
        """S q for all tokens at once: [B, T, W]."""
        if valid is not None:
            queries = queries * valid.unsqueeze(-1)
        with full_precision(state.device):
            if self.config.heads == 1:
                return torch.bmm(queries, state.mT)
            heads = self._heads(queries).transpose(1, 2)  # [B, H, T, R]
            return torch.matmul(heads, state.mT).transpose(1, 2).flatten(-2)

    def _scan(self, queries: Tensor, projected: Tensor, state: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Delta-rule scan over [B, T, W] queries and [B, T, P] projections: reads [B, T, W] and the new state."""
        config = self.config
        batch, length, width = queries.shape
        mask = valid if valid is None or config.heads == 1 else valid.repeat_interleave(config.heads, dim=0)
        matrices = state.reshape(batch * config.heads, config.rank, config.rank)
        reads, after = delta_scan(self._rows(queries), *self.writes(projected), matrices, mask=mask)
        reads = reads.view(batch, config.heads, length, config.rank).transpose(1, 2).reshape(batch, length, width)
        return reads, after.view_as(state)

    def _gates(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """keep, erase and write [B, T, W] from gate projections [B, T, G (+ G)]."""
        config = self.config
        gates = torch.sigmoid(raw + self.gate_bias)
        if not config.rankwise_gates:
            gates = gates.repeat_interleave(config.rank, dim=-1)
        beta = gates[..., : config.width]
        if config.update == "no_lambda":
            return torch.ones_like(beta), beta, beta
        lam = gates[..., config.width :] if config.own_lambda else 1.0 - beta
        return lam, (lam * beta if config.update == "lambda_outside" else beta), beta

    def _rows(self, sequence: Tensor) -> Tensor:
        """[B, T, W] as the scan's [B·H, T, R]."""
        config = self.config
        if config.heads == 1:
            return sequence
        return self._heads(sequence).transpose(1, 2).reshape(-1, sequence.shape[1], config.rank)

    def _heads(self, sequence: Tensor) -> Tensor:
        """[B, T, W] as [B, T, H, R]."""
        return sequence.reshape(*sequence.shape[:-1], self.config.heads, self.config.rank)
