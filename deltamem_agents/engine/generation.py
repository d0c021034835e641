"""Options and results of text generation. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from deltamem_agents.arguments import text
from deltamem_agents.engine.options import real, shown, whole
from deltamem_agents.errors import ConfigError

GREEDY = 1e-5  # dividing scores by a lower temperature gives infinities
TOP = 20  # most alternatives of a token that are reported
STOPS, STOP_LENGTH = 64, 1024  # limited because each stop string is compared with the whole vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How an answer is drawn; names and meanings are those of Transformers' ``generate``.

    Args:
        max_tokens: Maximum number of generated tokens.
        temperature: 0 is greedy, and so is anything below `GREEDY`.
        top_p: Nucleus; 1 is off.
        top_k: 0 is off.
        repetition_penalty: 1 is off.
        stop: Strings that end the answer and are not part of it. At most `STOPS`, of `STOP_LENGTH` characters each.
        seed: Makes sampling repeatable.
        grammar: The form that the answer must have, see `engine.grammar`; None for any.
        logprobs: How many of the likeliest tokens to report with each token's log-probability, under the distribution
            that it was drawn from; None to report nothing, at most `TOP`.

    Raises:
        ConfigError: A value has the wrong type or is out of range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    grammar: str | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        checked: dict[str, object] = {
            "max_tokens": whole("max_tokens", self.max_tokens, 1, 1_000_000),
            "temperature": real("temperature", self.temperature, 0.0, 100.0),
            "top_p": real("top_p", self.top_p, 1e-6, 1.0),
            "top_k": whole("top_k", self.top_k, 0, 1_000_000),
            "repetition_penalty": real("repetition_penalty", self.repetition_penalty, 1e-6, 100.0),
            "stop": _checked_stop(self.stop),
            "seed": None if self.seed is None else whole("seed", self.seed, -(1 << 63), (1 << 64) - 1),
            "grammar": None if self.grammar is None else text(self.grammar, "grammar"),
            "logprobs": None if self.logprobs is None else whole("logprobs", self.logprobs, 0, TOP),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token of an answer, and how likely it was.

    Args:
        text: The token alone, as text.
        logprob: Under the distribution that it was drawn from: after temperature, nucleus and grammar.
        top: The likeliest tokens there, with their log-probabilities.
    """

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


class TextPiece(str):
    """A piece of streamed text, with the tokens that have come since the piece before."""

    __slots__ = ("logprobs",)
    logprobs: tuple[TokenLogprob, ...]

    def __new__(cls, text: str, logprobs: tuple[TokenLogprob, ...]) -> Self:  # noqa: D102  # see the class
        made = super().__new__(cls, text)
        made.logprobs = logprobs
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A generated answer.

    Args:
        text: Without special tokens and stop strings, stripped.
        ids: The tokens, including the one that ended the answer.
        prompt_tokens: Length of the prompt.
        first_token_seconds: From the request to the first token, waiting included.
        seconds: From the request to the end.
        finished: Whether it ended by itself, rather than by ``max_tokens`` or cancellation.
        logprobs: The tokens of the text with their log-probabilities, if these were asked for.
    """

    text: str
    ids: tuple[int, ...]
    prompt_tokens: int
    first_token_seconds: float
    seconds: float
    finished: bool
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def tokens_per_second(self) -> float | None:
        """Rate of the tokens after the first; None if there are none."""
        rest = self.seconds - self.first_token_seconds
        return (len(self.ids) - 1) / rest if len(self.ids) > 1 and rest > 0 else None


class Cancellation:
    """Cancels a request from another thread."""

    __slots__ = ("cancelled",)

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        """Drop the request if it is waiting; if it is generating, end it after the current token."""
        self.cancelled = True


def _checked_stop(stop: object) -> tuple[str, ...]:
    if isinstance(stop, str) or not isinstance(stop, list | tuple):
        raise ConfigError(f"stop is {shown(stop)}; give a tuple of strings")
    if len(stop) > STOPS:
        raise ConfigError(f"stop has {len(stop)} strings; give at most {STOPS}")
    for each in stop:
        if not isinstance(each, str) or not 0 < len(each) <= STOP_LENGTH:
            raise ConfigError(f"stop holds {shown(each)}; give strings of 1 to {STOP_LENGTH} characters")
    return tuple(stop)
