"""Converts any value to JSON and text that a journal accepts, so that no message content can make an agent's run fail.

A framework's message may contain what a database or JSON cannot hold: NUL and lone surrogates in text, bytes, NaN,
dates, sets, objects. Each is replaced by the nearest value that can be stored.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping, Set
from typing import Any

from pydantic_core import to_jsonable_python

DEEPEST = 64  # levels of lists and mappings; values below become text
LONGEST = 1_000  # characters of an object that becomes text
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_NOT_TEXT = re.compile("[\0\ud800-\udfff]")


def plain_text(text: str) -> str:
    """The text, with U+FFFD for each NUL and lone surrogate; a surrogate pair becomes its character.

    >>> plain_text("a\\0b"), plain_text("\\ud83d\\ude00") == "\\N{GRINNING FACE}"
    ('a\ufffdb', True)
    """
    if not _NOT_TEXT.search(text):
        return str(text)  # also turns a subclass into a plain str
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return _NOT_TEXT.sub(REPLACEMENT, paired)


def plain_json(value: Any, depth: int = 0) -> Any:
    """The value as JSON, equal to the original if JSON can represent it.

    Text goes through `plain_text`. Bytes become ``{"base64": …}``, a number that is not finite becomes its name, and a
    set or tuple becomes a list. Dates, ids, models and other known types become what pydantic writes. Any other object
    becomes the beginning of its `str`, or its type's name if the `str` says no more; so does a value that contains
    itself or is nested deeper than `DEEPEST`.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode()}
    if depth >= DEEPEST:
        return _as_text(value)
    if isinstance(value, Mapping):
        return {_key(key): plain_json(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list | tuple | Set):
        return [plain_json(each, depth + 1) for each in value]
    try:
        known = to_jsonable_python(value, fallback=_as_text, inf_nan_mode="strings", bytes_mode="base64")
    except (ValueError, RecursionError):  # the value contains itself, or a lone surrogate
        return _as_text(value)
    return plain_json(known, depth + 1)


def _key(key: object) -> str:
    return plain_text(key) if isinstance(key, str) else plain_text(str(plain_json(key, DEEPEST)))


def _as_text(value: object) -> str:
    kind = type(value)
    if kind.__str__ is object.__str__ and kind.__repr__ is object.__repr__:  # the default would show its address
        return f"<{kind.__name__}>"
    try:
        return plain_text(str(value))[:LONGEST]
    except Exception:  # whatever its `__str__` raises
        return f"<{type(value).__name__}>"
