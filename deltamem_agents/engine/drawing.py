"""How one request's tokens are drawn from scores. Knows nothing of batches."""

from __future__ import annotations

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

from deltamem_agents.engine.failures import out_of_memory
from deltamem_agents.engine.generation import GREEDY, Sampling
from deltamem_agents.errors import ConfigError
from deltamem_agents.processes import ProcessLock

_stop_strings = ProcessLock()  # Transformers remembers stop strings in a cache that threads must not share


class Drawing:
    """Transformers' logits processors, and a random generator of its own. Created in the caller's thread.

    Raises:
        ConfigError: The tokenizer cannot detect a stop string.
    """

    def __init__(self, sampling: Sampling, tokenizer: PreTrainedTokenizerBase, device: torch.device) -> None:
        self.processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1.0:
            self.processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
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
        return not self.draws and not self.processors

    def next(self, ids: Tensor, scores: Tensor) -> int:
        """The next token after ids [1, n] from scores [1, V]."""
        scores = self.processors(ids, scores)  # type: ignore[arg-type]  # ids are int64
        if not self.draws:
            return int(scores.argmax(-1))
        return int(torch.multinomial(scores.softmax(-1), 1, generator=self._generator))

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
