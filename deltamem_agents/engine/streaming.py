"""Streams text out of the model's thread as it is generated, without the strings that end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from deltamem_agents.engine.generation import TextPiece, TokenLogprob


class CallbackStreamer(TextStreamer):
    """Passes finished text to a callback, holding back possible stop strings. Without a callback, it does nothing."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], on_text: Callable[[str], None] | None
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._stop = tuple(stop)
        self._on_text = on_text
        self._held = ""
        self._begun = False
        self._ended = False
        self._logprobs: list[TokenLogprob] = []  # of tokens whose text has not been passed on

    def add(self, token: TokenLogprob) -> None:
        """Pass this on with the next piece of text."""
        self._logprobs.append(token)

    def put(self, value: torch.Tensor) -> None:
        """Receive the prompt first, then each token."""
        if self._on_text is not None:
            super().put(value)  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """Flush the text after the last token."""
        if self._on_text is not None:
            super().end()  # type: ignore[no-untyped-call]

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Receive text that can no longer change."""
        if self._on_text is None or self._ended:
            return
        self._held += text
        if not self._begun:
            self._held = self._held.lstrip()
        ready, self._ended = _before_stop(self._held, self._stop)
        if not (stream_end or self._ended):
            keep = _partial_stop(self._held, self._stop)
            ready = self._held[: len(self._held) - keep]
        if ready:
            self._begun = True
            self._on_text(TextPiece(ready, tuple(self._logprobs)) if self._logprobs else ready)
            self._logprobs = []
        self._held = self._held[len(ready) :]


def without_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first stop string."""
    return _before_stop(text, stop)[0]


def _before_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    found = [at for at in (text.find(each) for each in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _partial_stop(text: str, stop: Sequence[str]) -> int:
    """Length of the longest suffix of ``text`` that begins a stop string."""
    lengths = [n for each in stop for n in range(1, len(each)) if text.endswith(each[:n])]
    return max(lengths, default=0)
