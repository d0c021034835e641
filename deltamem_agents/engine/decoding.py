"""The rows being generated: each joins after its prompt, all step together, and each leaves when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedTokenizerBase

from deltamem_agents.core import Attached
from deltamem_agents.engine.caches import Pairs, padded_mask, pairs, rows, side_by_side
from deltamem_agents.engine.failures import out_of_memory
from deltamem_agents.engine.generation import Generation, TokenLogprob
from deltamem_agents.engine.pool import StatePool
from deltamem_agents.engine.requests import Generate
from deltamem_agents.engine.streaming import CallbackStreamer, without_stop
from deltamem_kernels import few_rows


@dataclass(slots=True, eq=False)
class Active:
    """A request that is being generated, from its first token on."""

    request: Generate
    streamer: CallbackStreamer
    slot: int
    answer: list[int] = field(default_factory=list)
    first_token: float = 0.0
    ended: bool = False
    failed: BaseException | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)

    def pause(self) -> Active:
        """Move the generated tokens into the prompt, so that generation can resume after the prompt runs again."""
        self.request.ids += self.answer
        self.answer = []
        return self

    def take(self, likeliest: int, scores: Tensor, ends: set[int]) -> None:
        """Draw the next token from scores [1, V] and determine whether it is the last.

        An error of the request itself, in a callback or processor, ends that request. Out of memory is raised, with the
        random state restored.
        """
        before = self.request.drawing.random_state()
        try:
            token, ended = self._drawn(likeliest, scores, ends)
            piece = torch.tensor([token], device="cpu")
        except Exception as error:
            if out_of_memory(error):
                self.request.drawing.restore(before)
                raise
            self.failed, self.ended = error, True
            return
        self.answer.append(token)
        self.ended = ended
        self.first_token = self.first_token or time.monotonic()
        if likely := (None if token in ends else self.request.drawing.last):
            self.logprobs.append(likely)
            self.streamer.add(likely)
        try:
            self.streamer.put(piece)
            if ended:
                self.streamer.end()
        except BaseException as error:
            self.failed, self.ended = error, True

    def _drawn(self, likeliest: int, scores: Tensor, ends: set[int]) -> tuple[int, bool]:
        """The next token, and whether it ends the answer."""
        request, drawing = self.request, self.request.drawing
        token = likeliest if drawing.plain else drawing.next(self._ids().to(scores.device), scores)
        ended = (
            token in ends
            or len(request.ids) - request.prompt_tokens + len(self.answer) + 1 >= request.sampling.max_tokens
            or request.cancellation.cancelled
            or (bool(request.sampling.stop) and drawing.stops(self._ids(token)))
        )
        return token, ended

    def _ids(self, *more: int) -> Tensor:
        """Prompt and answer so far, [1, n]; built per token, so only call it where they matter."""
        return torch.tensor([[*self.request.ids, *self.answer, *more]], device="cpu")


class Decoding:
    """Rows that are generated together.

    If the adapter writes while answering, each row's slot is a scratch state of its own, and each step's tokens are
    written into it.

    Args:
        ends: Returns the tokens that end an answer.
    """

    def __init__(
        self, attached: Attached, tokenizer: PreTrainedTokenizerBase, pool: StatePool, ends: Callable[[], set[int]]
    ) -> None:
        self._attached = attached
        self._tokenizer = tokenizer
        self._pool = pool
        self._ends = ends
        self._writes = attached.adapter.config.answer_writes
        self.active: list[Active] = []
        self._cache: DynamicCache | None = None
        self._nothing = torch.zeros(0, 0, dtype=torch.bool, device="cpu")
        self._mask = self._nothing

    def __len__(self) -> int:
        return len(self.active)

    def activate(self, request: Generate, slot: int) -> Active:
        """Make, or resume, the row of a request whose prompt is about to run."""
        if isinstance(request.interrupted, Active):
            request.interrupted.slot = slot
            return request.interrupted
        streamer = CallbackStreamer(self._tokenizer, request.sampling.stop, request.on_text)
        streamer.put(torch.tensor([request.ids], device="cpu"))
        return Active(request, streamer, slot)

    def join(self, active: Sequence[Active], caches: Sequence[Pairs], scores: Tensor) -> list[Active]:
        """Draw first tokens from scores [n, V], add the rows that continue, and return those that have ended.

        If it fails, no row has joined, though some may have drawn their token.
        """
        self._advance(active, scores)
        going = [(each, cache) for each, cache in zip(active, caches, strict=True) if not each.ended]
        if going:
            held = [pairs(self._cache)] if self._cache is not None else []
            joined = side_by_side([*held, *(cache for _, cache in going)])
            ones = [
                torch.ones(1, cache[0][0].shape[2], dtype=torch.bool, device=self._attached.device)
                for _, cache in going
            ]
            mask = padded_mask([*([self._mask] if held else []), *ones])
            self._set([*self.active, *(each for each, _ in going)], joined, mask)
        return [each for each in active if each.ended]

    def step(self) -> list[Active]:
        """Generate one token for each row; return the rows that have ended. After a failure, only `clear` is valid."""
        assert self._cache is not None  # there are rows
        device = self._attached.device
        tokens = torch.tensor([[each.answer[-1]] for each in self.active], device=device)
        ones = torch.ones(len(self.active), 1, dtype=torch.bool, device=device)
        mask = torch.cat([self._mask, ones], dim=1)
        slots = torch.tensor([each.slot for each in self.active], device=device)
        with self._attached.bind(self._pool.tensors, slots, self._writes) as bound, few_rows(tokens):
            output = self._attached.model(
                input_ids=tokens,
                attention_mask=mask.long(),
                position_ids=mask.sum(-1, keepdim=True) - 1,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        if self._writes and bound.state is not None:
            self._pool.put(slots, bound.state)
        self._mask = mask
        self._advance(self.active, output.logits[:, -1])
        ended = [each for each in self.active if each.ended]
        self.leave(ended)
        return ended

    def leave(self, leaving: Sequence[Active]) -> None:
        """Remove rows. If it fails, all rows are still there."""
        if not leaving:
            return
        kept = [index for index, each in enumerate(self.active) if each not in leaving]
        if not kept:
            self.clear()
            return
        assert self._cache is not None
        mask = self._mask[torch.tensor(kept, device=self._mask.device)]
        first = int(mask.any(0).int().argmax())  # all columns before it are padding in every row
        cache, mask = rows(self._cache, kept, first), mask[:, first:]
        self._set([self.active[index] for index in kept], cache, mask)

    def clear(self) -> list[Active]:
        """Remove all rows, keys and values, which a failed step may have corrupted; return the rows."""
        cleared = self.active
        self._set([], None, self._nothing)
        return cleared

    def _set(self, active: list[Active], cache: DynamicCache | None, mask: Tensor) -> None:
        self.active, self._cache, self._mask = active, cache, mask

    def result(self, active: Active) -> Generation:
        """The generation of a row that has ended."""
        request, stop = active.request, active.request.sampling.stop
        ids = [*request.ids[request.prompt_tokens :], *active.answer]
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        ended = time.monotonic()
        return Generation(
            text=without_stop(text, stop).strip(),
            ids=tuple(ids),
            prompt_tokens=request.prompt_tokens,
            first_token_seconds=(active.first_token or ended) - request.submitted,
            seconds=ended - request.submitted,
            finished=bool(ids) and (ids[-1] in self._ends() or any(each in text for each in stop)),
            logprobs=_within(active.logprobs, len(without_stop(text, stop))),
        )

    def _advance(self, active: Sequence[Active], scores: Tensor) -> None:
        """Draw a token for each row from scores [n, V]."""
        scores = scores.float()
        likeliest = scores.argmax(-1).tolist()
        ends = self._ends()
        for index, each in enumerate(active):
            each.take(likeliest[index], scores[index : index + 1], ends)


def _within(tokens: Sequence[TokenLogprob], length: int) -> tuple[TokenLogprob, ...]:
    """The tokens that begin within the first ``length`` characters."""
    start, kept = 0, list[TokenLogprob]()
    for each in tokens:
        if start >= length:
            break
        kept.append(each)
        start += len(each.text)
    return tuple(kept)
