"""Memory that fails must not cost an agent its answer: what fails is logged, and the run goes on without it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

from deltamem_agents.errors import ClosedError, ConfigError, DeltaMemError, InvalidAgentError

if TYPE_CHECKING:
    from deltamem_agents.memory.deltamem import DeltaMem

OnError = Literal["log", "raise"]

log = logging.getLogger(__name__)

_told_closed: WeakSet[DeltaMem] = WeakSet()


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

    A mistake in how the memory was set up is always raised: no agent is named, or an option is out of range. Whether
    the memory is open is asked beforehand; see `is_open`. One that is closed meanwhile is like any that fails.

    Args:
        doing: What is done within, for the log.
    """
    try:
        yield
    except (ConfigError, InvalidAgentError):
        raise
    except Exception as error:
        if on_error == "raise":
            raise
        # Errors of ours hold no text of messages; of others one cannot know.
        told = f"{type(error).__name__}: {error}" if isinstance(error, DeltaMemError) else type(error).__name__
        log.warning("%s failed, and the run goes on without it: %s", doing, told)


def is_open(mem: DeltaMem, on_error: OnError, *, in_run: bool) -> bool:
    """Whether a memory can be used. A run goes on without one that was closed, which is logged once.

    Args:
        in_run: Whether an agent's run asks; False where it is a call of the user's own.

    Raises:
        ClosedError: It was closed, and the user asks, or ``on_error`` is "raise".
    """
    try:
        mem.check_open()
    except ClosedError as error:
        if on_error == "raise" or not in_run:
            raise
        if mem not in _told_closed:
            _told_closed.add(mem)
            log.warning("the run goes on without memory, and nothing of it is journalled: %s", error)
        return False
    return True
