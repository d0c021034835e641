"""JSON from an untrusted source: its size, depth and number of values are checked before it is parsed.

Two bytes of JSON can become a value of some hundred bytes, and one byte of text can take four. Imports no other module
of this package.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

FILE_BYTES = 1 << 20  # limit for a settings file
VALUES = 100_000  # limit per text; an empty mapping alone takes 64 bytes
DEPTH = 100  # limit on nested lists and mappings
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class TooMuchError(ValueError):
    """The JSON is larger or deeper than allowed."""


def loads(data: bytes, *, limit: int = FILE_BYTES, values: int = VALUES) -> Any:
    """Parse JSON in UTF-8.

    Args:
        limit: Maximum number of bytes; a quarter of it for text that is not plain ASCII, which takes more memory.

    Raises:
        TooMuchError: The data exceeds a limit.
        ValueError: The data is not valid JSON.
    """
    plain = data.isascii() and b"\\u" not in data
    if len(data) > (limit if plain else limit // 4):
        raise TooMuchError(f"{len(data)} bytes, the limit is {limit if plain else limit // 4}")
    check(data, values=values)
    try:
        return json.loads(data.removeprefix(codecs.BOM_UTF8).decode())
    except RecursionError as error:
        raise TooMuchError("lists and mappings nested too deeply") from error


def check(data: bytes, *, values: int = VALUES, depth: int = DEPTH) -> None:
    """Check the structure of JSON without parsing it.

    Raises:
        TooMuchError: It has more values than ``values``, or is nested deeper than ``depth``.
    """
    if count(data) <= min(values, depth):
        return  # this count includes characters inside strings, so the real numbers are no larger
    bare = _STRING.sub(b'""', data)
    found = count(bare)
    if found > values:
        raise TooMuchError(f"{found} values, the limit is {values}")
    deep = 0
    for bracket in _BRACKET.finditer(bare):
        deep += 1 if bracket.group() in b"[{" else -1
        if deep > depth:
            raise TooMuchError(f"lists and mappings more than {depth} levels deep")


def count(data: bytes) -> int:
    """An upper bound on the number of values in JSON."""
    return sum(data.count(each) for each in (b",", b":", b"[", b"{"))


def read(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        OSError: The file cannot be read.
        TooMuchError: The file exceeds a limit of `loads`.
        ValueError: The file is not valid JSON.
    """
    with path.open("rb") as file:
        data = file.read(FILE_BYTES + 1)
    return loads(data)
