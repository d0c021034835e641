"""The rows that are being generated: they join after their prompt, leave when they end, and step all at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deltamem_agents.core import Attached
from deltamem_agents.engine.caches import Pairs, padded_mask, pairs, rows, side_by_side
from deltamem_agents.engine.generation import CallbackStreamer, Generation, Sampling, without_stop
from deltamem_agents.engine.pool import StatePool
from deltamem_agents.engine.requests import Generate
from deltamem_kernels import few_rows


class Drawing:
    """How one request's tokens are drawn: Transformers' logits processors, and random numbers of its own."""

    def __init__(self, sampling: Sampling, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        self.draws = sampling.temperature > 0
        if self.draws:
            self.processors.append(TemperatureLogitsWarper(float(sampling.temperature)))
            if sampling.top_k > 0:
                self.processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                self.processors.append(TopPLogitsWarper(float(sampling.top_p)))
        self._stop = StopStringCriteria(tokenizer, list(sampling.stop)) if sampling.stop else None
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken, whatever came before."""
        return not self.draws and not self.processors

    def next(self, ids: Tensor, scores: Tensor) -> int:
        """The next token after ids [1, n] from scores [1, V]."""
        scores = self.processors(ids, scores)  # type: ignore[arg-type]  # ids are int64
        if not self.draws:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))

    def stops(self, ids: Tensor) -> bool:
        """Whether ids [1, n] end with a stop string."""
        return self._stop is not None and bool(self._stop(ids, None))


@dataclass(slots=True, eq=False)
class Active:
    """A request that is being generated, from its first token on."""

    request: Generate
    drawing: Drawing
    streamer: CallbackStreamer
    slot: int
    answer: list[int] = field(default_factory=list)
    first_token: float = 0.0
    ended: bool = False
    failed: Exception | None = None

    def pause(self) -> Active:
        """Take what was generated into the prompt, so that it can go on after that has run again."""
        self.request.ids += self.answer
        self.answer = []
        return self

    def take(self, likeliest: int, scores: Tensor, ends: set[int]) -> None:
        """Draw the next token from scores [1, V], and see whether it is the last."""
        request, drawing = self.request, self.drawing
        token = likeliest if drawing.plain else drawing.next(self._ids().to(scores.device), scores)
        self.answer.append(token)
        self.first_token = self.first_token or time.monotonic()
        length = len(request.ids) - request.prompt_tokens + len(self.answer)
        self.ended = (
            token in ends
            or length >= request.sampling.max_tokens
            or request.cancellation.cancelled
            or (bool(request.sampling.stop) and drawing.stops(self._ids()))
        )
        self.streamer.put(torch.tensor([token], device="cpu"))
        if self.ended:
            self.streamer.end()

    def _ids(self) -> Tensor:
        """Prompt and answer so far, [1, n]; only asked for where they matter, as it is made anew for each token."""
        return torch.tensor([[*self.request.ids, *self.answer]], device="cpu")


class Decoding:
    """Rows that are generated together.

    Args:
        ends: Tokens that end an answer.
    """

    def __init__(
        self, attached: Attached, tokenizer: PreTrainedTokenizerBase, pool: StatePool, ends: Callable[[], set[int]]
    ) -> None:
        self._attached = attached
        self._tokenizer = tokenizer
        self._pool = pool
        self._ends = ends
        self.active: list[Active] = []
        self._cache: DynamicCache | None = None
        self._mask = torch.zeros(0, 0, dtype=torch.bool, device="cpu")

    def __len__(self) -> int:
        return len(self.active)

    def activate(self, request: Generate, slot: int) -> Active:
        """A request whose prompt has run."""
        if isinstance(request.interrupted, Active):
            request.interrupted.slot = slot
            return request.interrupted
        streamer = CallbackStreamer(self._tokenizer, request.sampling.stop, request.on_text)
        streamer.put(torch.tensor([request.ids], device="cpu"))
        return Active(request, Drawing(request.sampling, self._tokenizer, self._attached.device), streamer, slot)

    def join(self, active: Sequence[Active], caches: Sequence[Pairs], scores: Tensor) -> list[Active]:
        """Draw the first tokens from scores [n, V], and let those join that go on; those that have ended already."""
        self._advance(active, scores)
        going = [(each, cache) for each, cache in zip(active, caches, strict=True) if not each.ended]
        if going:
            held = [pairs(self._cache)] if self._cache is not None else []
            self._cache = side_by_side([*held, *(cache for _, cache in going)])
            ones = [
                torch.ones(1, cache[0][0].shape[2], dtype=torch.bool, device=self._attached.device)
                for _, cache in going
            ]
            self._mask = padded_mask([*([self._mask] if held else []), *ones])
            self.active += [each for each, _ in going]
        return [each for each in active if each.ended]

    def step(self) -> list[Active]:
        """One token for each row; those that have ended."""
        assert self._cache is not None  # there are rows
        device = self._attached.device
        tokens = torch.tensor([[each.answer[-1]] for each in self.active], device=device)
        ones = torch.ones(len(self.active), 1, dtype=torch.bool, device=device)
        mask = torch.cat([self._mask, ones], dim=1)
        slots = torch.tensor([each.slot for each in self.active], device=device)
        with self._attached.bind(self._pool.tensors, slots), few_rows(tokens):
            output = self._attached.model(
                input_ids=tokens,
                attention_mask=mask.long(),
                position_ids=mask.sum(-1, keepdim=True) - 1,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self._mask = mask
        self._advance(self.active, output.logits[:, -1])
        ended = [each for each in self.active if each.ended]
        self.leave(ended)
        return ended

    def leave(self, leaving: Sequence[Active]) -> None:
        """Take rows out."""
        if not leaving:
            return
        kept = [index for index, each in enumerate(self.active) if each not in leaving]
        self.active = [self.active[index] for index in kept]
        if not kept:
            self._cache, self._mask = None, self._mask[:0, :0]
            return
        assert self._cache is not None
        mask = self._mask[torch.tensor(kept, device=self._mask.device)]
        first = int(mask.any(0).int().argmax())  # columns before it are padding for all
        self._cache, self._mask = rows(self._cache, kept, first), mask[:, first:]

    def result(self, active: Active) -> Generation:
        """What was generated."""
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
        )

    def _advance(self, active: Sequence[Active], scores: Tensor) -> None:
        """Draw a token for each row from scores [n, V]."""
        scores = scores.float()
        likeliest = scores.argmax(-1).tolist()
        ends = self._ends()
        for index, each in enumerate(active):
            try:
                each.take(likeliest[index], scores[index : index + 1], ends)
            except Exception as error:  # of a callback, or a processor: that request's alone
                each.failed, each.ended = error, True
