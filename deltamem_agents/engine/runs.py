"""One padded batch of token rows that runs through the model a chunk of columns at a time.

    columns:  [ cached, padded on the left | new tokens, padded on the left ]

Each row has its own state and mask; its result does not depend on its neighbours. Between two chunks the engine may run
something else; `Pace` decides how long a chunk may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from deltamem_agents.core import Attached, State, stack_states
from deltamem_agents.engine.caches import Pairs, padded_mask, row, side_by_side
from deltamem_kernels import few_rows

SECONDS = 0.03  # target maximum for a chunk of a fold; other requests may be waiting for it to end
GROWTH = 2  # maximum ratio of a chunk to the one before


@dataclass(frozen=True, slots=True)
class Row:
    """New tokens of one request, and what they continue from.

    Args:
        ids: The new tokens.
        state: The state before them, without a batch axis.
        read_state: The state that span writes read instead, if they continue in the middle of a segment.
        past: Keys and values [1, H, n, D] of the earlier tokens; None if there are none.
        messages, sentences: Span of each new token, for adapters that write spans.
    """

    ids: Sequence[int]
    state: State
    read_state: State | None = None
    past: Pairs | None = None
    messages: Sequence[int] = ()
    sentences: Sequence[int] = ()


@dataclass(slots=True)
class Run:
    """A batch of rows and its progress.

    Args:
        write: Whether the tokens are written into the states.
        keep: Number of last positions whose logits are kept; 0 for none.
        spans: Whether the rows' spans are written instead of single tokens; then all tokens run at once.
    """

    attached: Attached
    rows: Sequence[Row]
    write: bool
    keep: int = 0
    spans: bool = False
    state: State = field(init=False)
    logits: Tensor | None = field(init=False, default=None)
    cache: DynamicCache = field(init=False)
    mask: Tensor = field(init=False)
    _ids: Tensor = field(init=False)
    _read_state: State | None = field(init=False, default=None)
    _spans: tuple[Tensor, Tensor] | None = field(init=False, default=None)
    _done: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        device = self.attached.device
        longest = max(len(each.ids) for each in self.rows)
        ids = torch.zeros(len(self.rows), longest, dtype=torch.int64, device="cpu")
        new = torch.zeros(len(self.rows), longest, dtype=torch.bool, device="cpu")
        for index, each in enumerate(self.rows):
            start = longest - len(each.ids)
            ids[index, start:] = torch.tensor(each.ids, device="cpu")
            new[index, start:] = True
        self._ids = ids.to(device)
        self.cache, past = self._joined()
        self.mask = torch.cat([past, new], dim=1).to(device)
        self.state = _batched([each.state for each in self.rows], device)
        if any(each.read_state is not None for each in self.rows):
            self._read_state = _batched([each.read_state or each.state for each in self.rows], device)
        if self.spans:
            self._spans = (self._padded_spans("messages", longest), self._padded_spans("sentences", longest))

    @property
    def done(self) -> bool:
        """Whether all columns have run."""
        return self._done == self._ids.shape[1]

    def step(self, tokens: int) -> int:
        """Run enough columns for about ``tokens`` tokens over all rows; return how many tokens ran."""
        past = self.mask.shape[1] - self._ids.shape[1]
        width = self._ids.shape[1] if self.spans else max(1, tokens // len(self.rows))
        end = min(self._done + width, self._ids.shape[1])
        if self._ids.shape[1] - end < self.keep:
            end = self._ids.shape[1]  # the columns whose logits are kept run together
        seen = self.mask[:, : past + end]
        positions = (seen.long().cumsum(-1) - 1).clamp_min(0)[:, past + self._done :]
        ids, spans = self._ids[:, self._done : end], self._spans
        with few_rows(ids):
            output, self.state = self.attached.forward(
                state=self.state,
                read_state=self._read_state,
                write=self.write,
                message_ids=None if spans is None else spans[0][:, self._done : end],
                sentence_ids=None if spans is None else spans[1][:, self._done : end],
                input_ids=ids,
                attention_mask=seen.long(),
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=max(1, self.keep),
            )
        ran, self._done = (end - self._done) * len(self.rows), end
        if self.done and self.keep:
            self.logits = output.logits
        return ran

    def past(self, index: int) -> Pairs:
        """Keys and values of one row's tokens."""
        return row(self.cache, index, self.mask[index])

    def _joined(self) -> tuple[DynamicCache, Tensor]:
        """The rows' past keys and values as one cache, with its mask [B, P]."""
        if all(each.past is None for each in self.rows):
            return DynamicCache(), torch.zeros(len(self.rows), 0, dtype=torch.bool, device="cpu")
        like = next(each.past for each in self.rows if each.past is not None)
        parts = [each.past or [(k[:, :, :0], v[:, :, :0]) for k, v in like] for each in self.rows]
        masks = [torch.ones(1, part[0][0].shape[2], dtype=torch.bool, device="cpu") for part in parts]
        return side_by_side(parts), padded_mask(masks)

    def _padded_spans(self, name: str, longest: int) -> Tensor:
        spans = torch.full((len(self.rows), longest), -1, device="cpu")
        for index, each in enumerate(self.rows):
            spans[index, longest - len(each.ids) :] = torch.tensor(getattr(each, name), device="cpu")
        return spans


def _batched(states: Sequence[State], device: torch.device) -> State:
    return {name: tensor.to(device) for name, tensor in stack_states(states).items()}


class Pace:
    """Tokens in a chunk of a fold: about as many as have recently run in `SECONDS`, adjusted by `GROWTH`.

    Args:
        least: Minimum tokens in a chunk, however long it takes.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self.tokens = least

    def ran(self, tokens: int, allowed: int, seconds: float) -> None:
        """Adjust to a chunk of ``tokens`` out of ``allowed``; one below half of that says nothing about longer ones."""
        if tokens * GROWTH <= allowed:
            return
        patience = SECONDS * allowed / self.tokens  # longer if more was allowed than a fold gets
        fitting = tokens / max(seconds, 1e-6) * patience
        if fitting >= allowed * GROWTH:
            self.tokens *= GROWTH
        elif fitting < allowed and self.tokens > self._least:
            self.tokens //= GROWTH
