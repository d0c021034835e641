"""`Constraint`: a logits processor that makes an answer follow a grammar; llguidance computes which tokens may come."""

from __future__ import annotations

import json
from collections.abc import Collection
from copy import copy
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from deltamem_agents.errors import ConfigError, require_extra, shown
from deltamem_agents.processes import ProcessLock

_lock = ProcessLock()
_read: WeakKeyDictionary[PreTrainedTokenizerBase, Any] = WeakKeyDictionary()  # costs up to a second to make


class Constraint(LogitsProcessor):
    """Rules out every token after which the answer could no longer follow the grammar.

    Args:
        grammar: Text of `engine.grammar`.
        ends: Tokens that may end the answer once it is complete.
        prompt: Number of tokens before the answer.

    Raises:
        ConfigError: The tokenizer cannot be used for this, or the grammar cannot be enforced with it.
        MissingExtraError: llguidance is not installed.
    """

    def __init__(self, grammar: str, tokenizer: PreTrainedTokenizerBase, ends: Collection[int], prompt: int) -> None:
        require_extra("llguidance", "an answer in a given form", "serve")
        from llguidance import LLMatcher

        self._prompt = prompt
        self._taken: list[int] = []
        self._matcher = LLMatcher(_reader(tokenizer, ends), grammar)
        self._check()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [1, V] with every token ruled out that may not come after ids [1, n]."""
        answer = input_ids[0, self._prompt :].tolist()
        if answer[: len(self._taken)] != self._taken:
            self._matcher.reset()
            self._taken = []
        for token in answer[len(self._taken) :]:
            self._matcher.consume_token(token)
        self._taken = answer
        self._check()
        bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
        allowed = ((bits[:, None] >> torch.arange(8)) & 1).flatten().bool()
        mask = torch.zeros(scores.shape[-1], dtype=torch.bool)
        size = min(len(allowed), len(mask))
        mask[:size] = allowed[:size]
        return scores.masked_fill(~mask.to(scores.device), -torch.inf)

    def _check(self) -> None:
        error = self._matcher.get_error()
        if error:
            raise ConfigError(f"the form asked for cannot be enforced: {shown(error)}; simplify it")


def _reader(tokenizer: PreTrainedTokenizerBase, ends: Collection[int]) -> Any:
    from llguidance import LLTokenizer

    with _lock:
        found = _read.get(tokenizer)
        if found is None:
            try:
                found = LLTokenizer(_spelled(tokenizer), eos_token=sorted(ends))
            except Exception as error:
                raise ConfigError(
                    f"this backbone's tokenizer cannot be used for answers in a given form ({type(error).__name__}: "
                    f"{shown(str(error))}); ask without one"
                ) from error
            _read[tokenizer] = found
        return found


def _spelled(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's file; without the space that it puts before a text, as what a grammar forces begins with none."""
    backend = copy(tokenizer.backend_tokenizer)  # slow tokenizers have none
    backend.no_padding()
    backend.no_truncation()
    spec = json.loads(backend.to_str())
    first = spec.get("pre_tokenizer") or {}
    for each in (first, *(first.get("pretokenizers") or ())):
        if each.get("type") == "ByteLevel":
            each["add_prefix_space"] = False
    return json.dumps(spec)
