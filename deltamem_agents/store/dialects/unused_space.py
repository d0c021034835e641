"""Zeroes the unused space of a SQLite file, which holds copies of rows that SQLite moved, and freed pages.

``PRAGMA secure_delete`` overwrites deleted content in place. When SQLite moves rows between pages, because a page is
full or nearly empty, a copy stays in the gap between the old page's cell pointers and its cells, where no later
deletion finds it. The only statement that clears the gap is ``VACUUM``, which copies the whole file. This module
overwrites the gaps, which SQLite never reads, in the file itself.
Source: https://sqlite.org/fileformat2.html, sections 1.5 and 1.6.

A file must not be closed while SQLite has it open in the same process, because that would drop the locks of SQLite's
connections, see https://sqlite.org/howtocorrupt.html, section 2.2. So descriptors stay open for reuse.
"""

from __future__ import annotations

import os
import struct
import threading
from pathlib import Path

MAGIC = b"SQLite format 3\0"
HEADER = 100  # bytes at the beginning of the first page
LOCK_BYTE = 1 << 30  # the page that holds this byte is never used
READ = 4 << 20  # bytes at a time
_HEADS = {2: 12, 5: 12, 10: 8, 13: 8}  # kind of b-tree page -> bytes of its header

_descriptors: dict[tuple[int, int], int] = {}  # device and inode -> open descriptor
_lock = threading.Lock()


def can_be_cleared(path: Path) -> bool:
    """Whether this is a plain SQLite file, neither encrypted nor with bytes reserved on each page, as for checksums."""
    try:
        head = _read(_descriptor(path), HEADER, 0)
    except OSError:
        return False
    if len(head) < HEADER or not head.startswith(MAGIC) or head[20] or not hasattr(os, "pwrite"):
        return False
    pages: int = struct.unpack_from(">I", head, 28)[0]
    return pages < 1 << 25  # with more pages, the first byte does not identify a page's kind


def clear(path: Path, freed: set[int]) -> int:
    """Durably overwrite the unused space of a file's pages with zeros; returns the number of pages changed.

    The caller must hold SQLite's write lock, with the write-ahead log empty and no older snapshot being read.
    Afterwards it must commit a change, so that every connection drops its cached pages.

    Args:
        freed: Numbers, from 1, of pages without content, which are overwritten entirely.

    Raises:
        OSError: The file cannot be read or written.
    """
    descriptor = _descriptor(path)
    head = _read(descriptor, HEADER, 0)
    size = struct.unpack_from(">H", head, 16)[0]
    size = 65536 if size == 1 else size
    maps = size // 5 + 1 if struct.unpack_from(">I", head, 52)[0] else 0  # distance between pointer-map pages
    number, changed, at_once = 1, 0, max(READ // size, 1)
    while data := _read(descriptor, at_once * size, (number - 1) * size):
        for start in range(0, len(data) - size + 1, size):
            if number in freed:
                spans = [(0, size)]
            elif number == LOCK_BYTE // size + 1 or _is_map(number, size, maps):
                spans = []
            else:
                spans = _unused(data, start, size, HEADER if number == 1 else 0)
            stale = [(a, b) for a, b in spans if data.count(0, start + a, start + b) != b - a]
            for a, b in stale:
                os.pwrite(descriptor, bytes(b - a), (number - 1) * size + a)
            changed += bool(stale)
            number += 1
        if len(data) < at_once * size:
            break
    if changed:
        os.fsync(descriptor)
    return changed


def freed_pages(path: Path) -> set[int]:
    """Numbers of pages without content: the leaves of the freelist. The caller must keep writers out.

    Raises:
        OSError: The file cannot be read.
    """
    descriptor = _descriptor(path)
    head = _read(descriptor, HEADER, 0)
    size = struct.unpack_from(">H", head, 16)[0]
    size = 65536 if size == 1 else size
    found: set[int] = set()
    trunk, seen = struct.unpack_from(">I", head, 32)[0], set[int]()
    while trunk and trunk not in seen:
        seen.add(trunk)
        page = _read(descriptor, size, (trunk - 1) * size)
        if len(page) < size:
            break
        trunk, count = struct.unpack_from(">II", page)
        count = min(count, size // 4 - 2)
        found.update(struct.unpack_from(f">{count}I", page, 8))
    return found


def _unused(data: bytes, start: int, size: int, skipped: int) -> list[tuple[int, int]]:
    """Unused ranges of a b-tree page: the gap, and the free blocks between cells."""
    head = _HEADS.get(data[start + skipped])
    if head is None:
        return []
    block, cells, content = struct.unpack_from(">HHH", data, start + skipped + 1)
    content = content or 65536
    first = skipped + head + 2 * cells
    if not first <= content <= size:
        return []
    spans = [(first, content)]
    last = content - 1
    while block:
        if not last < block <= size - 4:
            return []  # not a page of this kind
        following, length = struct.unpack_from(">HH", data, start + block)
        if not 4 <= length <= size - block:
            return []
        spans.append((block + 4, block + length))
        last, block = block, following
    return spans


def _is_map(number: int, size: int, every: int) -> bool:
    """Whether a page is a pointer map, which files with auto-vacuum have."""
    if not every:
        return False
    locked = LOCK_BYTE // size + 1  # a map due on this page is on the next one
    if number == locked + 1 and (locked - 2) % every == 0:
        return True
    return number >= 2 and (number - 2) % every == 0


def _read(descriptor: int, length: int, at: int) -> bytes:
    data = os.pread(descriptor, length, at)
    while 0 < len(data) < length and (more := os.pread(descriptor, length - len(data), at + len(data))):
        data += more
    return data


def _descriptor(path: Path) -> int:
    """A descriptor of a file, kept open as long as the file exists."""
    found = os.stat(path)
    key = found.st_dev, found.st_ino
    with _lock:
        if key not in _descriptors:
            for other, descriptor in list(_descriptors.items()):
                if not os.fstat(descriptor).st_nlink:  # the file was deleted, so its locks no longer matter
                    del _descriptors[other]
                    os.close(descriptor)
            _descriptors[key] = os.open(path, os.O_RDWR)
        return _descriptors[key]
