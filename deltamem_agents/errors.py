"""Every error this package raises on purpose.

Each derives from `DeltaMemError` and from the builtin a caller would expect, so both ``except DeltaMemError`` and
``except ValueError`` work. A message names the value, the limit and the remedy.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NoReturn

SHOWN = 60  # characters of a value in a message


def shown(value: object) -> str:
    """A value for a message: short, on one line, of ASCII where it would not print, and never an error itself."""
    try:
        told = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except Exception:  # of a foreign class, or of a whole number with too many digits
        told = kind_of(value)
    return told if len(told) <= SHOWN else f"{told[: SHOWN // 2]}…{told[1 - SHOWN // 2 :]}"  # a path's end tells most


def kind_of(value: object) -> str:
    """What a value is, with its article: "an int", "a list", "None"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


class DeltaMemError(Exception):
    """Base of all errors of deltamem-agents."""


class ConfigError(DeltaMemError, ValueError):
    """An option is out of range or contradicts another."""


class UnsupportedModelError(DeltaMemError, NotImplementedError):
    """The backbone's architecture, attention or adapter feature is not supported."""


class BackboneFileError(DeltaMemError, OSError):
    """A backbone or its tokenizer is not found, truncated or malformed."""


class ChatTemplateError(DeltaMemError, ValueError):
    """The backbone's chat template refuses the messages, fails, runs for too long, or does what none needs to do."""


class AdapterFileError(DeltaMemError, OSError):
    """An adapter file is missing, truncated, malformed or not an adapter."""


class AdapterMismatchError(DeltaMemError, ValueError):
    """The adapter was trained for a backbone of another width, depth or family."""


class InertAdapterError(DeltaMemError, RuntimeError):
    """An attached adapter took part in a forward that should have written, and wrote nothing."""


class StateMismatchError(DeltaMemError, ValueError):
    """A state does not fit the adapter: other modules, shape, dtype, batch size or fingerprint."""


class InvalidMessageError(DeltaMemError, ValueError):
    """A message is empty, not text, or has an unknown role."""


class InvalidAgentError(DeltaMemError, ValueError):
    """An agent or session id is empty, too long, or not a string."""


class UnknownAgentError(DeltaMemError, LookupError):
    """No such agent in this store."""


class StoreError(DeltaMemError, OSError):
    """The database cannot be reached, read or written."""


class ArchiveError(DeltaMemError, ValueError):
    """A file is not an exported agent, or a damaged one."""


class EmbedderError(DeltaMemError, RuntimeError):
    """An embedding model failed, gave vectors of an unexpected shape, or its weights are not the published ones."""


class ContextLengthError(DeltaMemError, ValueError):
    """A prompt is longer than the backbone's window."""


class EngineBusyError(DeltaMemError, RuntimeError):
    """The engine's queue is full."""


class EngineTimeoutError(DeltaMemError, TimeoutError):
    """A request was not finished in the time it was given."""


class EngineMemoryError(DeltaMemError, MemoryError):
    """The device has too little memory for a request by itself."""


class EngineFailedError(DeltaMemError, RuntimeError):
    """The engine met an error outside any request and has stopped; what it met is the cause."""


class MissingExtraError(DeltaMemError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class NotPicklableError(DeltaMemError, TypeError):
    """Something that holds an open database and a model was pickled."""


class ClosedError(DeltaMemError, RuntimeError):
    """The object was closed."""


class ForkedError(DeltaMemError, RuntimeError):
    """The object belongs to the process that this one was forked from."""


def require_extra(module: str, package: str, extra: str) -> None:
    """Look for what ``package`` is imported with, and import nothing.

    Raises:
        MissingExtraError: It is not installed; the message names the extra of deltamem-agents that installs it.
    """
    try:
        found = find_spec(module)
    except ModuleNotFoundError as error:  # of the package that the module is in
        raise missing_extra(error, package, extra) from error
    if found is None:
        missing = ModuleNotFoundError(f"No module named {module!r}", name=module)
        raise missing_extra(missing, package, extra) from missing


def missing_extra(error: ModuleNotFoundError, package: str, extra: str) -> MissingExtraError:
    """The error to raise from ``error``: it names the extra of deltamem-agents that ``package`` is imported with."""
    return MissingExtraError(
        f"{package} needs {error.name}, which is not installed; install deltamem-agents[{extra}]",
        name=error.name,
    )


def refuse_pickle(what: str, instead: str = "make it anew where a DeltaMem is open") -> NoReturn:
    """Say why, and what to do instead.

    Raises:
        NotPicklableError: Always.
    """
    raise NotPicklableError(f"{what} holds an open database and a model, which cannot be pickled; {instead}")
