"""Merges an FTS5 index into one segment, repeatedly, without letting the number of its levels grow.

FTS5 keeps segments in levels, newer ones in lower levels. Before SQLite 3.41 every ``optimize`` puts its result one
level higher and keeps the empty levels below; an index with more than 2,000 levels can no longer be opened. The
record that lists the levels is row 10 of the index's table ``…_data``: a cookie of 4 bytes, then varints: the numbers
of levels and segments, a write counter; for each level the number of segments being merged and of segments; for each
segment its id, first and last page. Source: the comment at the top of SQLite's fts5_index.c.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

MOST_LEVELS = 64  # SQLite 3.41 and later stay below this; an index with 2,000 levels cannot be opened
STRUCTURE = 10  # row of the record that lists the levels
_HIGHEST = 8  # highest level that a single segment gets
_SPAN = 4  # segments of one level that FTS5 merges into one segment of the next


@dataclass(frozen=True, slots=True)
class Level:
    """One level: the number of segments being merged, and each segment's id, first and last page."""

    merging: int
    segments: tuple[tuple[int, int, int], ...]


def levels(driver: sqlite3.Connection, index: str) -> list[Level] | None:
    """The levels of an index; None if there is no index or its record cannot be read."""
    try:
        row = driver.execute(f"SELECT block FROM {index}_data WHERE id = {STRUCTURE}").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else decoded(bytes(row[0]))[1]


def merge(driver: sqlite3.Connection, index: str) -> None:
    """Merge an index into one segment, which drops all remains of deleted rows, without adding levels over time.

    The connection must be in no transaction and must begin none by itself.
    """
    found = levels(driver, index)
    if found is not None and len(found) >= MOST_LEVELS:
        flatten(driver, index)
    _change(driver, index, f"INSERT INTO {index}({index}) VALUES ('optimize')")


def flatten(driver: sqlite3.Connection, index: str) -> None:
    """Drop the empty levels of an index; other connections notice the change. The connection is as for `merge`."""
    _change(driver, index)


def _change(driver: sqlite3.Connection, index: str, first: str | None = None) -> None:
    driver.execute("BEGIN IMMEDIATE")
    try:
        if first is not None:
            driver.execute(first)
        row = driver.execute(f"SELECT block FROM {index}_data WHERE id = {STRUCTURE}").fetchone()
        counters, found = (0, b""), None
        if row is not None:
            counters, found = decoded(bytes(row[0]))
        if found is not None and (kept := _without_gaps(found)) != found:
            block = encoded(counters, kept)
            driver.execute(f"UPDATE {index}_data SET block = ? WHERE id = {STRUCTURE}", (block,))
        driver.execute("COMMIT")
    finally:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
    _forget(driver, index)


def _forget(driver: sqlite3.Connection, index: str) -> None:
    """Make FTS5 on this connection reread the record, which it does after a rollback or another connection's commit."""
    driver.execute("BEGIN IMMEDIATE")
    try:
        driver.execute(f"INSERT INTO {index}({index}, rank) VALUES ('automerge', 4)")
    finally:
        driver.execute("ROLLBACK")


def _without_gaps(found: Sequence[Level]) -> list[Level]:
    """The levels without the empty ones; a single segment goes to the level that normal merging gives its size."""
    kept = [level for level in found if level.segments]
    if len(kept) != 1 or len(kept[0].segments) != 1 or kept[0].merging:
        return kept
    _, first, last = kept[0].segments[0]
    height, size = 0, last - first + 1
    while size >= _SPAN and height < _HIGHEST:
        height, size = height + 1, size // _SPAN
    return [*(Level(0, ()) for _ in range(height)), *kept]


def decoded(block: bytes) -> tuple[tuple[int, bytes], list[Level] | None]:
    """Write counter and cookie, and the levels; None for the levels if the record has another format."""
    cookie, numbers = block[:4], _varints(block[4:])
    if len(cookie) < 4 or len(numbers) < 3 or block[4:8] == b"\xff\x00\x00\x01":
        return (0, cookie), None
    count, _, counter = numbers[:3]
    found: list[Level] = []
    at = 3
    for _ in range(count):
        if at + 2 > len(numbers):
            return (counter, cookie), None
        merging, segments = numbers[at : at + 2]
        at += 2
        each = numbers[at : at + 3 * segments]
        if len(each) != 3 * segments:
            return (counter, cookie), None
        found.append(Level(merging, tuple(zip(each[::3], each[1::3], each[2::3], strict=True))))
        at += 3 * segments
    return (counter, cookie), found if at == len(numbers) else None


def encoded(counters: tuple[int, bytes], found: Sequence[Level]) -> bytes:
    """The record of counters, as `decoded` returns them, and levels."""
    counter, cookie = counters
    numbers = [len(found), sum(len(level.segments) for level in found), counter]
    for level in found:
        numbers += [level.merging, len(level.segments)]
        for segment in level.segments:
            numbers += segment
    return cookie + b"".join(_varint(number) for number in numbers)


def _varints(data: bytes) -> list[int]:
    """Decode SQLite's variable-length numbers: 7 bits per byte, highest first; 8 bits in the ninth byte."""
    found, value, length = [], 0, 0
    for byte in data:
        length += 1
        if length == 9:
            found.append(value << 8 | byte)
        elif byte & 0x80:
            value = value << 7 | byte & 0x7F
            continue
        else:
            found.append(value << 7 | byte)
        value, length = 0, 0
    return found


def _varint(number: int) -> bytes:
    pieces = [number & 0x7F]
    while number := number >> 7:
        pieces.append(number & 0x7F | 0x80)
    return bytes(reversed(pieces))
