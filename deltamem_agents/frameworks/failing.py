"""Memory that fails must not cost an agent its answer: what fails is logged, and the run goes on without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from deltamem_agents.errors import ClosedError, ConfigError, DeltaMemError, InvalidAgentError

OnError = Literal["log", "raise"]

log = logging.getLogger(__name__)


def check_on_error(value: object) -> OnError:
    """``value``, if it says what is to be done about a failure.

    Raises:
        ConfigError: It does not.
    """
    if value == "log" or value == "raise":
        return value
    raise ConfigError(f"on_error is {value!r}; give 'log' (the run goes on without memory) or 'raise'")


@contextmanager
def fails_open(on_error: OnError, doing: str) -> Iterator[None]:
    """Log what fails within, unless it is to be raised.

    A mistake in how the memory was set up is always raised: no agent is named, an option is out of range, the memory
    is closed.

    Args:
        doing: What is done within, for the log.
    """
    try:
        yield
    except (ConfigError, InvalidAgentError, ClosedError):
        raise
    except Exception as error:
        if on_error == "raise":
            raise
        # Errors of ours hold no text of messages; of others one cannot know.
        told = f"{type(error).__name__}: {error}" if isinstance(error, DeltaMemError) else type(error).__name__
        log.warning("%s failed, and the run goes on without it: %s", doing, told)
