"""Failures and mistakes: memory that fails is logged and the run goes on without it; unknown options are refused."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal
from weakref import WeakSet

from deltamem_agents.errors import ClosedError, ConfigError, DeltaMemError, InvalidAgentError

if TYPE_CHECKING:
    from deltamem_agents.memory.deltamem import DeltaMem


OnError = Literal["log", "raise"]

log = logging.getLogger(__name__)

_told_closed: WeakSet[DeltaMem] = WeakSet()


def check_on_error(value: object) -> OnError:
    """Check an ``on_error`` option.

    Raises:
        ConfigError: It is neither "log" nor "raise".
    """
    if value == "log" or value == "raise":
        return value
    raise ConfigError(f"on_error is {value!r}; give 'log' (the run goes on without memory) or 'raise'")


@contextmanager
def fails_open(on_error: OnError, doing: str) -> Iterator[None]:
    """Log errors raised in the block, unless ``on_error`` is "raise".

    Check beforehand that the memory is open, see `is_open`; a memory closed meanwhile counts as any other failure.

    Args:
        doing: What the block does, for the log.

    Raises:
        ConfigError: An option is out of range; always raised.
        InvalidAgentError: An id is not valid; always raised.
        Exception: Any other error, if ``on_error`` is "raise".
    """
    try:
        yield
    except (ConfigError, InvalidAgentError):
        raise
    except Exception as error:
        if on_error == "raise":
            raise
        # Our own errors contain no text of messages; other errors may.
        told = f"{type(error).__name__}: {error}" if isinstance(error, DeltaMemError) else type(error).__name__
        log.warning("%s failed, and the run goes on without it: %s", doing, told)


def is_open(mem: DeltaMem, on_error: OnError, *, in_run: bool) -> bool:
    """Whether a memory can be used; in a run, a closed memory is logged once and the run goes on without it.

    Args:
        in_run: Whether the call is part of an agent's run; False for a direct call by the user.

    Raises:
        ClosedError: The memory was closed, and ``in_run`` is False or ``on_error`` is "raise".
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


def refuse_unknown(name: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse options that a class does not have.

    Args:
        name: The class's name, for the error.

    Raises:
        ConfigError: An option is not among ``known``.
    """
    options = sorted(known)
    for each in given:
        if each not in options:
            close = get_close_matches(each, options, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{name} has no option {each!r}; {meant}it takes {', '.join(options)}")
