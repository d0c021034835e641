"""Checks of callers' arguments, made before any I/O; each raises ConfigError unless its docstring says otherwise."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from deltamem_agents.errors import ConfigError, InvalidAgentError, kind_of, shown

PATH_BYTES, NAME_BYTES = 4000, 255  # limits of a whole path and of one name in it, roughly those of common systems
LARGEST = (1 << 62) - 1  # the largest whole number accepted; databases hold 63 bits

T = TypeVar("T")


def whole(value: object, name: str, low: int = 0, high: int = LARGEST) -> int:
    """Check a whole number from ``low`` to ``high``."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        limit = f"of {low} or more" if high == LARGEST else f"from {low} to {high}"
        raise ConfigError(f"{name} is {shown(value)}; give a whole number {limit}")
    return value


def seconds(value: object, name: str = "timeout") -> float | None:
    """Check a number of seconds, or None."""
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST or math.isnan(value)
    ):
        raise ConfigError(f"{name} is {shown(value)}; give a number of seconds, or None for no limit")
    return value


def flag(value: object, name: str) -> bool:
    """Check a truth value."""
    try:
        return bool(value)
    except Exception as error:  # raised by a foreign class, such as an array of several elements
        raise ConfigError(f"{name} is {shown(value)}; give True or False") from error


def text(value: object, name: str) -> str:
    """Check a string that can be stored: it holds no NUL and no lone surrogates."""
    if not isinstance(value, str) or "\0" in value or not _encodes(value):
        raise ConfigError(f"{name} is {shown(value)}; give a string without NUL or lone surrogates")
    return value


def terms(value: object) -> Sequence[str]:
    """Check search terms: strings without lone surrogates."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ConfigError(f"terms is {shown(value)}; give a list of strings")
    for each in value:
        if not isinstance(each, str) or not _encodes(each):
            raise ConfigError(f"one of terms is {shown(each)}; give a string without lone surrogates")
    return value


def texts(value: object, name: str) -> Collection[str]:
    """Check a collection of strings that can be stored."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Collection):
        raise ConfigError(f"{name} is {shown(value)}; give a list of strings")
    for each in value:
        text(each, f"one of {name}")
    return value


def wholes(value: object, name: str) -> Sequence[int]:
    """Check a sequence of whole numbers."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise ConfigError(f"{name} is {shown(value)}; give a list of whole numbers")
    for each in value:
        whole(each, f"one of {name}", 0, LARGEST)
    return value


def moments(since: object, until: object, *, ordered: bool = False) -> None:
    """Check two times, either of which may be None; with ``ordered``, ``since`` must be before ``until``."""
    for name, value in (("since", since), ("until", until)):
        if value is not None and not (isinstance(value, datetime) and _has_utc(value)):
            raise ConfigError(f"{name} is {shown(value)}; give a datetime (UTC where it has no zone)")
    if ordered and isinstance(since, datetime) and isinstance(until, datetime) and not _in_utc(since) < _in_utc(until):
        raise ConfigError(f"since {since} is not before until {until}; give an earlier one")


def identifier(value: object, kind: str, limit: int = 255) -> str:
    """Check the id of an agent, session or message, so that any database can hold it.

    Raises:
        InvalidAgentError: The id is empty, too long, not a string, or holds NUL or a lone surrogate.
    """
    fault = identifier_fault(value, limit)
    if fault:
        raise InvalidAgentError(
            f"{kind} id {shown(value)} {fault}; give a non-empty string of up to {limit} characters without NUL"
        )
    assert isinstance(value, str)  # `identifier_fault` rejects everything else
    return value


def identifier_fault(value: object, limit: int) -> str | None:
    """Say why a value is not a valid id; None if it is one."""
    if not isinstance(value, str):
        return f"is {kind_of(value)}"
    if not value.strip():
        return "is empty"
    if len(value) > limit:
        return f"has {len(value)} characters"
    if "\0" in value:
        return "holds a NUL character"
    return None if _encodes(value) else "holds a lone surrogate"


def mapping(value: object, name: str) -> Mapping[str, Any]:
    """Check a mapping whose keys are strings."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is {shown(value)}; give a mapping whose keys are strings")
    return value


def jsonable(value: object, name: str) -> None:
    """Check a value that JSON can hold, in text that a database can hold."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        told = f"{name} is {shown(value)}, which JSON cannot hold; use strings, numbers, lists and mappings"
        raise ConfigError(told) from error


def path(value: object, name: str = "path") -> Path:
    """Check a path that a file system can have."""
    if isinstance(value, str | os.PathLike):
        given = os.fspath(value)
        if isinstance(given, str) and given and "\0" not in given and _encodes(given, os.fsencode):
            parts = [len(os.fsencode(part)) for part in Path(given).parts]
            if sum(parts) <= PATH_BYTES and max(parts, default=0) <= NAME_BYTES:
                return Path(given)
    raise ConfigError(f"{name} is {shown(value)}; give the path of a file")


def function(value: object, name: str) -> None:
    """Check a callable, or None."""
    if value is not None and not callable(value):
        raise ConfigError(f"{name} is {shown(value)}; give a function, or leave it out")


def one_of(value: object, name: str, choices: Iterable[str]) -> str:
    """Check that a value is one of the given strings."""
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"{name} {shown(value)} is not one of {', '.join(known)}")
    return value


def known_fields(values: Mapping[str, Any], kind: Any, what: str) -> None:
    """Check that every key is a field of a dataclass.

    Raises:
        ConfigError: One is not; the message names the key, ``what`` it was given to, and the known fields.
    """
    known = [each.name for each in fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{what} has no option {shown(name)}; known are {', '.join(known)}")


def instance(value: object, name: str, kind: type[T], *, optional: bool = False) -> T | None:
    """Check an instance of a class; None is accepted where ``optional``."""
    if not (isinstance(value, kind) or (optional and value is None)):
        raise ConfigError(f"{name} is {shown(value)}; give a {kind.__name__}" + (", or None" if optional else ""))
    return value


def _encodes(value: str, encode: Any = str.encode) -> bool:
    try:
        encode(value)
    except UnicodeEncodeError:
        return False
    return True


def _in_utc(value: datetime) -> datetime:
    """The time in UTC; clamped to the first or last datetime where UTC cannot represent it."""
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return (datetime.min if value.year == 1 else datetime.max).replace(tzinfo=UTC)


def _has_utc(value: datetime) -> bool:
    try:
        _in_utc(value)
    except ValueError:
        return False
    return True
