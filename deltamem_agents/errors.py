"""Every error that this package raises on purpose.

Each derives from `DeltaMemError` and from the builtin that a caller would expect, so both ``except DeltaMemError`` and
``except ValueError`` work. A message names the value, the limit and the remedy.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import NoReturn

SHOWN = 60  # the longest that a value appears in a message, in characters


def shown(value: object) -> str:
    """Format a value for a message: short, on one line, in ASCII if it is not printable. Never raises."""
    try:
        told = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    except Exception:  # a foreign class, or a whole number with too many digits
        told = kind_of(value)
    return told if len(told) <= SHOWN else f"{told[: SHOWN // 2]}…{told[1 - SHOWN // 2 :]}"  # the end of a path matters


def kind_of(value: object) -> str:
    """The type of a value, with its article: "an int", "a list", "None"."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


class DeltaMemError(Exception):
    """Base class of all errors of deltamem-agents."""


class ConfigError(DeltaMemError, ValueError):
    """An option is out of range or contradicts another."""


class UnsupportedModelError(DeltaMemError, NotImplementedError):
    """The backbone's architecture, attention or adapter feature is not supported."""


class BackboneFileError(DeltaMemError, OSError):
    """A backbone or its tokenizer is not found, truncated or malformed."""


class ChatTemplateError(DeltaMemError, ValueError):
    """The backbone's chat template refuses the messages, fails, runs too long, or does something no template needs."""


class AdapterFileError(DeltaMemError, OSError):
    """An adapter file is missing, truncated, malformed or not an adapter."""


class AdapterMismatchError(DeltaMemError, ValueError):
    """The adapter was trained for a backbone of another width, depth or family."""


class InertAdapterError(DeltaMemError, RuntimeError):
    """An attached adapter ran in a forward pass that should have written, and wrote nothing."""


class DivergedError(DeltaMemError, ArithmeticError):
    """Training came upon a loss or gradient that is not a finite number, and stopped."""


class TrainingFileError(DeltaMemError, OSError):
    """A file of a training run, such as a checkpoint, cannot be written or read."""


class StateMismatchError(DeltaMemError, ValueError):
    """A state does not fit the adapter: other modules, shape, dtype, batch size or fingerprint."""


class InvalidMessageError(DeltaMemError, ValueError):
    """A message is empty, not text, or has an unknown role."""


class InvalidAgentError(DeltaMemError, ValueError):
    """An agent or session id is empty, too long, or not a string."""


class UnknownAgentError(DeltaMemError, LookupError):
    """The store has no such agent."""


class StoreError(DeltaMemError, OSError):
    """The database cannot be reached, read or written."""


class ArchiveError(DeltaMemError, ValueError):
    """A file is not an exported agent, or is damaged."""


class RepositoryError(DeltaMemError, OSError):
    """A repository cannot be read: there is no such folder, it is bare, or git failed."""


class EpisodeError(DeltaMemError, ValueError):
    """An episode of training data, or a file of them, is malformed; the message names file and line."""


class EmbedderError(DeltaMemError, RuntimeError):
    """An embedding model failed, returned vectors of an unexpected shape, or its weights are not the published ones."""


class ContextLengthError(DeltaMemError, ValueError):
    """A prompt is longer than the backbone's window."""


class EngineBusyError(DeltaMemError, RuntimeError):
    """The engine's queue is full."""


class EngineTimeoutError(DeltaMemError, TimeoutError):
    """A request was not finished within its timeout."""


class EngineMemoryError(DeltaMemError, MemoryError):
    """The device has too little memory even for this request alone."""


class EngineFailedError(DeltaMemError, RuntimeError):
    """The engine hit an error outside any request and has stopped; ``__cause__`` is that error."""


class MissingExtraError(DeltaMemError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


class NotPicklableError(DeltaMemError, TypeError):
    """An object that holds an open database and a model was pickled."""


class ClosedError(DeltaMemError, RuntimeError):
    """The object was closed."""


class ServerError(DeltaMemError, OSError):
    """A server cannot be reached, or failed in a way that has no error of its own."""


class AccessDeniedError(DeltaMemError, PermissionError):
    """A server refuses a request: its token is missing, wrong, or does not allow it."""


class ForkedError(DeltaMemError, RuntimeError):
    """The object belongs to the process that this one was forked from."""


def require_extra(module: str, package: str, extra: str) -> None:
    """Check that ``module``, which ``package`` imports, is installed, without importing it.

    Raises:
        MissingExtraError: It is not installed; the message names the extra of deltamem-agents that installs it.
    """
    try:
        found = find_spec(module)
    except ModuleNotFoundError as error:  # the module's parent package is missing
        raise missing_extra(error, package, extra) from error
    if found is None:
        missing = ModuleNotFoundError(f"No module named {module!r}", name=module)
        raise missing_extra(missing, package, extra) from missing


def missing_extra(error: ModuleNotFoundError, package: str, extra: str) -> MissingExtraError:
    """Make the error to raise from ``error``; it names the extra of deltamem-agents that ``package`` needs."""
    return MissingExtraError(
        f"{package} needs {error.name}, which is not installed; install deltamem-agents[{extra}]",
        name=error.name,
    )


def refuse_pickle(what: str, instead: str = "create it again where a DeltaMem is open") -> NoReturn:
    """Refuse to pickle an object, and say what to do instead.

    Raises:
        NotPicklableError: Always.
    """
    raise NotPicklableError(f"{what} holds an open database and a model, which cannot be pickled; {instead}")
