"""How one request's tokens are drawn from scores. Knows nothing of batches."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    StopStringCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deltamem_agents.engine.constraint import Constraint
from deltamem_agents.engine.failures import out_of_memory
from deltamem_agents.engine.generation import GREEDY, Sampling, TokenLogprob
from deltamem_agents.errors import ConfigError
from deltamem_agents.processes import ProcessLock

_stop_strings = ProcessLock()  # Transformers remembers stop strings in a cache that threads must not share


class Drawing:
    """Transformers' logits processors, and a random generator of its own. Created in the caller's thread.

    Args:
        ends: Tokens that may end the answer.
        prompt: Number of tokens before it.

    Attributes:
        last: The last token drawn with its log-probability, if that was asked for.

    Raises:
        ConfigError: The tokenizer cannot detect a stop string, or the grammar cannot be enforced.
    """

    def __init__(
        self,
        sampling: Sampling,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        ends: Collection[int] = (),
        prompt: int = 0,
    ) -> None:
        self.processors = LogitsProcessorList()
        self.last: TokenLogprob | None = None
        self._top = sampling.logprobs
        self._tokenizer = tokenizer
        if sampling.repetition_penalty != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.grammar is not None:
            self.processors.append(Constraint(sampling.grammar, tokenizer, ends, prompt))
        self.draws = sampling.temperature >= GREEDY
        if self.draws:
            self.processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k > 0:
                self.processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                self.processors.append(TopPLogitsWarper(sampling.top_p))
        self._stop = _criteria(tokenizer, sampling.stop) if sampling.stop else None
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is always taken, whatever came before."""
        return not self.draws and not self.processors and self._top is None

    def next(self, ids: Tensor, scores: Tensor) -> int:
        """The next token after ids [1, n] from scores [1, V]."""
        scores = self.processors(ids, scores)  # type: ignore[arg-type]  # ids are int64
        if self.draws:
            token = int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))
        else:
            token = int(scores.argmax(-1))
        if self._top is not None:
            self.last = self._logprob(token, scores[0].log_softmax(-1), self._top)
        return token

    def _logprob(self, token: int, logprobs: Tensor, top: int) -> TokenLogprob:
        """A token from log-probabilities [V], with the ``top`` likeliest ones that can come at all."""
        values, ids = logprobs.topk(top)
        likeliest = [
            (self._text(each), value)
            for each, value in zip(ids.tolist(), values.tolist(), strict=True)
            if value > -torch.inf
        ]
        return TokenLogprob(text=self._text(token), logprob=float(logprobs[token]), top=tuple(likeliest))

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))

    def random_state(self) -> Tensor | None:
        """State of the random generator; None under greedy decoding."""
        return self._generator.get_state() if self.draws else None

    def restore(self, random_state: Tensor | None) -> None:
        """Reset the random generator to an earlier state."""
        if random_state is not None:
            self._generator.set_state(random_state)

    def stops(self, ids: Tensor) -> bool:
        """Whether ids [1, n] end with a stop string."""
        return self._stop is not None and bool(self._stop(ids, None))


def _criteria(tokenizer: PreTrainedTokenizerBase, stop: tuple[str, ...]) -> StopStringCriteria:
    try:
        with _stop_strings:
            return StopStringCriteria(tokenizer, list(stop))
    except Exception as error:
        if out_of_memory(error):
            raise
        raise ConfigError(
            f"this backbone's tokenizer cannot watch for the stop strings {stop!r} ({type(error).__name__}: {error}); "
            "give others, or cut the answer yourself"
        ) from error
