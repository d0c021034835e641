"""JSON from a stranger: its size, depth and number of values are looked at before anything is made of it.

A value takes up to some hundred bytes where JSON takes two, and text four where it takes one. Imports nothing of ours.
"""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any

FILE_BYTES = 1 << 20  # of a file of settings
VALUES = 100_000  # in one text; an empty mapping alone takes 64 bytes
DEPTH = 100  # of lists and mappings within one another
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class TooMuchError(ValueError):
    """JSON that is larger or deeper than it may be."""


def loads(data: bytes, *, limit: int = FILE_BYTES, values: int = VALUES, depth: int = DEPTH) -> Any:
    """What ``data`` says, in UTF-8.

    Args:
        limit: Bytes that it may have; a quarter of them where it is not plain ASCII, which takes more in memory.

    Raises:
        TooMuchError: It holds more than the limits allow.
        ValueError: It is not JSON.
    """
    plain = data.isascii() and b"\\u" not in data
    if len(data) > (limit if plain else limit // 4):
        raise TooMuchError(f"{len(data)} bytes, the limit is {limit if plain else limit // 4}")
    check(data, values=values, depth=depth)
    try:
        return json.loads(data.removeprefix(codecs.BOM_UTF8).decode())
    except RecursionError as error:
        raise TooMuchError("lists and mappings too deep within one another") from error


def check(data: bytes, *, values: int = VALUES, depth: int = DEPTH) -> None:
    """Look at the structure of JSON without making it.

    Raises:
        TooMuchError: It has more values than ``values``, or is deeper than ``depth``.
    """
    if count(data) <= min(values, depth):
        return  # so are those that stand within strings
    bare = _STRING.sub(b'""', data)
    found = count(bare)
    if found > values:
        raise TooMuchError(f"{found} values, the limit is {values}")
    deep = 0
    for bracket in _BRACKET.finditer(bare):
        deep += 1 if bracket.group() in b"[{" else -1
        if deep > depth:
            raise TooMuchError(f"lists and mappings more than {depth} deep within one another")


def count(data: bytes) -> int:
    """How many values JSON holds at most."""
    return sum(data.count(each) for each in (b",", b":", b"[", b"{"))


def read(path: Path, *, limit: int = FILE_BYTES) -> Any:
    """What a file of JSON says.

    Raises:
        OSError: It cannot be read.
        ValueError: As `loads`.
    """
    with path.open("rb") as file:
        data = file.read(limit + 1)
    return loads(data, limit=limit)
