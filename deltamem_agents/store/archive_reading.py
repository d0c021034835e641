"""Reads an archive and checks all of it. See `archive` for the format; `archive_import` stores what is read here.

A file may come from anywhere. Names, sizes and numbers are checked before they are used, nothing is unpickled or
unpacked to disk, and no line or member larger than a message or a shard is read into memory. The unpacked size is
bounded by the file's size.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

from deltamem_agents import bounded_json
from deltamem_agents.errors import ArchiveError, InvalidAgentError, shown
from deltamem_agents.messages import ID_LIMIT, NewMessage, check_id, check_messages, in_utc
from deltamem_agents.store import codec
from deltamem_agents.store.archive import (
    FETCHED,
    FORMAT,
    MANIFEST,
    MESSAGES,
    REVISIONS,
    ROLLBACKS,
    SHARD,
    VERSION,
    Progress,
)

ALL_FOLDED = 3  # in versions before this one, every message was folded
LINE = 64 << 20  # bytes of one message, escaped
MANIFEST_BYTES = 8 << 20
ROOM = 16 << 20  # an archive may unpack to this many bytes …
RATIO = 64  # … plus this many times its own size
VALUE = 240  # bytes that a JSON value may take in memory
KEYS = frozenset(("position", "left_at", "session", "id", "role", "content", "metadata", "created_at", "folded"))
DIM = 1 << 16  # limit of an embedding's dimension
BLOB = 512 << 20  # bytes of a state, or of a shard of embeddings
BLOCK = 1 << 20  # bytes read at a time
# What zipfile, zlib, json and our own checks raise on malformed bytes.
_FAULTS = (
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    LookupError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
)
_BLOBS = re.compile(r"(states|embeddings)/\d{6}\.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """An archive that passed `check`: its path and manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def agent(self) -> str:
        """The agent's name in the file."""
        return str(self.manifest["agent"])


@dataclass(frozen=True, slots=True)
class Placed:
    """A message and its place in the journal."""

    position: int
    session: str
    left_at: int | None
    message: NewMessage
    size: int  # bytes in memory, roughly


def check(path: Path, progress: Progress | None = None) -> Checked:
    """Read and check a whole archive.

    Raises:
        ArchiveError: The file is not an archive, or is damaged; the message says where.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            checked = Checked(path=path, manifest=_manifest(archive, path))
            total, head = checked.manifest["messages"], checked.manifest["head"]
            last, seen, live = 0, 0, set[tuple[str, str]]()
            for seen, placed in enumerate(messages(archive, checked), 1):
                if not last < placed.position <= head or (placed.left_at is not None and placed.left_at > head):
                    raise ArchiveError(f"{path}: message at position {placed.position} after {last}, of {head}")
                last = placed.position
                first = checked.manifest["version"] == 1
                said = ("" if first else placed.session, placed.message.id)
                if placed.left_at is None and said in live:
                    scope = "agent, as it cannot be in version 1" if first else "session"
                    raise ArchiveError(f"{path}: message id {placed.message.id!r} is live twice in one {scope}")
                live.update([said] if placed.left_at is None else [])
                if progress is not None and (seen % FETCHED == 0 or seen == total):
                    progress("checked", seen, total)
            counts = {
                "messages": seen,
                "rollbacks": sum(1 for _ in rollbacks(archive, checked)),
                "revisions": sum(1 for _ in _revisions(archive, checked)),
                "embeddings": sum(len(keys) for _, _, keys, _ in embeddings(archive, checked)),
            }
            for name, count in counts.items():
                if checked.manifest[name] != count:
                    raise ArchiveError(f"{path}: {count} {name}, its manifest says {checked.manifest[name]}")
    except ArchiveError:
        raise
    except _FAULTS as error:
        raise ArchiveError(f"{path} cannot be read as an exported agent: {error}") from error
    return checked


def _manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    names = archive.namelist()
    if MANIFEST not in names or len(set(names)) != len(names) or archive.getinfo(MANIFEST).file_size > MANIFEST_BYTES:
        raise ArchiveError(f"{path} is a zip file, but not an exported agent: it has no {MANIFEST}")
    _check_sizes(archive, path)
    try:
        manifest = bounded_json.loads(archive.read(MANIFEST), limit=MANIFEST_BYTES, values=2 * bounded_json.VALUES)
        if manifest["format"] != FORMAT or type(manifest["version"]) is not int or manifest["version"] < 1:
            raise ValueError("names another format or version")
        if manifest["version"] > VERSION:
            raise ArchiveError(
                f"{path} is of version {manifest['version']}, this deltamem-agents reads up to {VERSION}; "
                "install a newer one"
            )
        numbers = [manifest[name] for name in ("head", "messages", "rollbacks", "revisions", "embeddings")]
        members = manifest["members"]
        sized = all(type(each["bytes"]) is int and isinstance(each["sha256"], str) for each in members.values())
        if not sized or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
            raise ValueError("has other values where numbers belong")
        if manifest["version"] == 1:  # ids were unique within the agent, across sessions
            manifest["agent_ids_until"] = manifest["head"]
        until = manifest["agent_ids_until"]
        if until is not None and not (type(until) is int and 0 <= until <= manifest["head"]):
            raise ValueError(f"has agent_ids_until {shown(until)}, which is not a position of its journal")
        check_id(manifest["agent"])
    except ArchiveError:
        raise
    except bounded_json.TooMuchError as error:
        raise ArchiveError(f"{path} cannot be read as an exported agent: {MANIFEST} has {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArchiveError(f"{path} is a zip file, but not an exported agent: {_fault(error)}") from error
    expected = {MANIFEST, MESSAGES, ROLLBACKS, REVISIONS}
    odd = [name for name in members if name not in expected and not _BLOBS.fullmatch(name)]
    if odd or set(names) != {MANIFEST, *members} or not expected <= set(names):
        raise ArchiveError(f"{path} holds other members than those in its manifest: {sorted(odd or set(names))[:3]}")
    for info in archive.infolist():  # no more of a member is read than this size
        if info.filename != MANIFEST and info.file_size != members[info.filename]["bytes"]:
            raise ArchiveError(f"{path}: {info.filename} has {info.file_size} bytes, its manifest says otherwise")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArchiveError(f"{path}: {info.filename} is compressed by method {info.compress_type}, not by deflate")
    return dict(manifest)


def _fault(error: Exception) -> str:
    """Describe what is wrong with a manifest, given the error that reading it raised."""
    if isinstance(error, KeyError):
        return f"{MANIFEST} lacks {error}"
    if isinstance(error, InvalidAgentError):
        return f"{MANIFEST} has {error}"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) or not isinstance(error, ValueError):
        return f"{MANIFEST} is not as 'deltamem export' writes it"
    return f"{MANIFEST} {error}"


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse a zip bomb before anything is unpacked."""
    size, entries = path.stat().st_size, archive.infolist()
    unpacked, packed = sum(each.file_size for each in entries), sum(each.compress_size for each in entries)
    if unpacked > ROOM + RATIO * size or packed > size:
        raise ArchiveError(
            f"{path} has {size} bytes and would unpack to {unpacked}; an agent's archive unpacks to at most {RATIO} "
            f"times its size and {ROOM >> 20} MiB more, so this is not one"
        )


def _lines(archive: zipfile.ZipFile, checked: Checked, name: str) -> Iterator[tuple[dict[str, Any], int]]:
    """JSON objects of one member, each with its bytes in memory; size and checksum are compared after the last."""
    digest, size = sha256(), 0
    with archive.open(name) as member:
        while line := member.readline(LINE + 1):
            digest.update(line)
            size += len(line)
            try:
                value = bounded_json.loads(line, limit=LINE)
            except ValueError as error:
                raise ArchiveError(f"{checked.path}: {name} holds a line that is not JSON ({error})") from error
            if not isinstance(value, dict):
                raise ArchiveError(f"{checked.path}: {name} holds a line that is not a mapping")
            yield value, max(len(line) if line.isascii() else 4 * len(line), VALUE * bounded_json.count(line))
    _compare(checked, name, size, digest.hexdigest())


def _blob(archive: zipfile.ZipFile, checked: Checked, name: str) -> bytes:
    stated = checked.manifest["members"].get(name)
    if stated is None or stated["bytes"] > BLOB:
        raise ArchiveError(f"{checked.path}: {name} is missing, or larger than {BLOB} bytes")
    with archive.open(name) as member:
        data = member.read(stated["bytes"] + 1)
    _compare(checked, name, len(data), sha256(data).hexdigest())
    return data


def _compare(checked: Checked, name: str, size: int, digest: str) -> None:
    stated = checked.manifest["members"][name]
    if (size, digest) != (stated["bytes"], stated["sha256"]):
        raise ArchiveError(
            f"{checked.path}: {name} has {size} bytes and checksum {digest[:12]}…, its manifest says {stated['bytes']} "
            f"and {stated['sha256'][:12]}…; the file is damaged, export the agent again"
        )


def messages(archive: zipfile.ZipFile, checked: Checked) -> Iterator[Placed]:
    """The messages with their places in the journal, in order."""
    for line, taken in _lines(archive, checked, MESSAGES):
        try:
            if not KEYS.issuperset(line):  # a message that is written may have more of them
                raise ValueError(f"unknown key {shown(min(line.keys() - KEYS))}")
            position, left_at, session = line.pop("position"), line.pop("left_at"), line.pop("session")
            if checked.manifest["version"] < ALL_FOLDED:
                line["folded"] = True
            elif type(line.get("folded")) is not bool:
                raise ValueError(f"folded {line.get('folded')!r}")
            if type(position) is not int or not (left_at is None or type(left_at) is int):
                raise ValueError(f"position {position!r}")
            (message,) = check_messages([line])
            yield Placed(position, check_id(session, "session"), left_at, message, taken)
        except (KeyError, ValueError) as error:
            raise ArchiveError(f"{checked.path}: {MESSAGES} holds an invalid message: {error}") from error


def rollbacks(archive: zipfile.ZipFile, checked: Checked) -> Iterator[dict[str, Any]]:
    """The columns of each rollback, in order."""
    last = 0
    for line, _ in _lines(archive, checked, ROLLBACKS):
        position, target = _number(line, "position"), _number(line, "target")
        if not 0 <= target < position <= checked.manifest["head"] or position <= last:
            raise ArchiveError(f"{checked.path}: {ROLLBACKS} holds {line!r:.60}, which is not a rollback")
        last = position
        yield {"position": position, "target": target, "created_at": _time(checked, line)}


def _revisions(archive: zipfile.ZipFile, checked: Checked) -> Iterator[None]:
    """Check each revision and its state; none is stored, since the journal is folded again after an import."""
    seen, members = set[tuple[str, int]](), set[str]()
    for line, _ in _lines(archive, checked, REVISIONS):
        position, parent, fingerprint = _number(line, "position"), _number(line, "parent"), str(line.get("fingerprint"))
        member = str(line.get("member"))
        fits = 0 <= parent < position <= checked.manifest["head"]
        named = 0 < len(fingerprint) <= ID_LIMIT and fingerprint.isprintable()
        if not fits or not named or (fingerprint, position) in seen or member in members:
            raise ArchiveError(f"{checked.path}: {REVISIONS} holds {line!r:.60}, which is not a revision")
        seen.add((fingerprint, position))
        members.add(member)
        _time(checked, line)
        codec.check(_blob(archive, checked, member))
        yield


def embeddings(archive: zipfile.ZipFile, checked: Checked) -> Iterator[tuple[str, int, list[tuple[int, int]], bytes]]:
    """For each shard: model, dimension, (position, chunk) of each record, and the vectors' bytes."""
    dims: dict[str, int] = {}
    for name in sorted(each for each in checked.manifest["members"] if each.startswith("embeddings/")):
        data = _blob(archive, checked, name)
        try:
            shard = _shard(data)
            if dims.setdefault(shard[0], shard[1]) != shard[1]:
                raise ValueError(f"dimensions {dims[shard[0]]} and {shard[1]} of one model")
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArchiveError(f"{checked.path}: {name} holds invalid embeddings: {error}") from error
        yield shard


def _shard(data: bytes) -> tuple[str, int, list[tuple[int, int]], bytes]:
    (length,) = struct.unpack_from("<Q", data)
    header = bounded_json.loads(data[8 : 8 + length])
    body = data[8 + length :]
    model = header["__metadata__"]["model"]
    (rows, dim), (start, end) = header["vector"]["shape"], header["vector"]["data_offsets"]
    kinds = [header[name]["dtype"] for name in ("vector", "position", "chunk")]
    whole = all(type(number) is int for number in (rows, dim, start, end))
    if kinds != ["F32", "I64", "I64"] or not whole or not 0 < rows <= SHARD or not 0 < dim <= DIM:
        raise ValueError(f"shape {rows}, {dim} of {kinds}")
    if not isinstance(model, str) or not 0 < len(model) <= ID_LIMIT or not model.isprintable():
        raise ValueError("no model's name")
    columns = []
    for name in ("position", "chunk"):
        first, last = header[name]["data_offsets"]
        columns.append(struct.unpack(f"<{rows}q", body[first:last]))
    vectors = body[start:end]
    if len(vectors) != 4 * rows * dim:
        raise ValueError("fewer bytes than numbers")
    keys: list[tuple[int, int]] = list(zip(*columns, strict=True))
    if any(not one < other for one, other in pairwise(keys)):
        raise ValueError("records that are not in order")
    if not _have_lengths(vectors, dim):
        raise ValueError("numbers that are not finite, or too large")
    return model, dim, keys, vectors


def _have_lengths(vectors: bytes, dim: int) -> bool:
    """Whether the squared length of every vector fits into float32."""
    import numpy as np

    matrix = np.frombuffer(vectors, "<f4").reshape(-1, dim)
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.einsum("rd,rd->r", matrix, matrix)).all())


def _number(line: Mapping[str, Any], name: str) -> int:
    """The whole number of this name; -1 if there is none."""
    value = line.get(name)
    return value if type(value) is int else -1


def _time(checked: Checked, line: Mapping[str, Any]) -> datetime:
    try:
        return in_utc(datetime.fromisoformat(line["created_at"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ArchiveError(f"{checked.path}: {shown(line)} has no time") from error
