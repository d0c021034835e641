"""One agent in one file: a zip of JSON lines (journal) and safetensors (states, embeddings), with checksums.

    manifest.json                      format, version, agent, counts; size and SHA-256 of each other member
    messages.jsonl                     every message in the journal, live or not
    rollbacks.jsonl                    the journal's rollbacks
    revisions.jsonl                    the position, parent, fingerprint and file of each stored state
    states/000000.safetensors …        the states as in the database, for inspection; an import folds the journal again
    embeddings/000000.safetensors …    one vector per record, with the record's position and chunk

`export` writes an archive, `archive_reading` reads it, `archive_import` stores it. All stream.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, func, select

from deltamem_agents.errors import StoreError
from deltamem_agents.store import timeline
from deltamem_agents.store.schema import EmbeddingRow, MessageRow, RecordRow, RevisionRow, RollbackRow
from deltamem_agents.store.whole_files import whole_file

FORMAT = "deltamem-agent"
VERSION = 3  # in 1, ids were unique within the agent, not the session; in 2, every message was folded
MANIFEST, MESSAGES, ROLLBACKS, REVISIONS = "manifest.json", "messages.jsonl", "rollbacks.jsonl", "revisions.jsonl"
SHARD = 4096  # embeddings in one member
FETCHED = 1000  # rows in memory at a time

Progress = Callable[[str, int, int], None]  # name of the step, number done, total


def export(connection: Connection, agent: str, path: Path, progress: Progress | None) -> int:
    """Write an agent to a file that appears complete or not at all; see `Store.export`.

    Raises:
        UnknownAgentError: No such agent.
        StoreError: The file cannot be written.
    """
    found = timeline.required(connection, agent)
    total = connection.scalar(select(func.count()).where(MessageRow.agent_key == found.key)) or 0
    target = Path(path)
    try:
        with whole_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            writer = _Writer(archive)
            told = _counted(_messages(connection, found.key), "messages", total, progress)
            messages = writer.lines(MESSAGES, told)
            rollbacks = writer.lines(ROLLBACKS, _rollbacks(connection, found.key))
            revisions = writer.lines(REVISIONS, _revisions(connection, found.key, writer))
            embeddings = _embeddings(connection, found.key, writer, progress)
            manifest = {
                "format": FORMAT,
                "version": VERSION,
                "agent": agent,
                "head": found.head,
                "agent_ids_until": found.agent_ids_until,
                "created_at": datetime.now(UTC).isoformat(),
                "messages": messages,
                "rollbacks": rollbacks,
                "revisions": revisions,
                "embeddings": embeddings,
                "cut": _rule(connection, found.key),
                "members": writer.members,
            }
            archive.writestr(MANIFEST, json.dumps(manifest, indent=1))
    except StoreError:
        raise  # from the database; StoreError is an OSError too
    except OSError as error:
        cause = error.strerror or error
        raise StoreError(f"cannot write {target}: {cause}; give a path in a folder that exists and has room") from error
    return messages


class _Writer:
    """Writes the members of an archive and notes their sizes and checksums."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.members: dict[str, dict[str, Any]] = {}

    def bytes(self, name: str, data: bytes) -> None:
        """Write one complete member; `lines` must not be writing another at the time."""
        self._archive.writestr(name, data)
        self.members[name] = {"bytes": len(data), "sha256": sha256(data).hexdigest()}

    def lines(self, name: str, values: Iterable[Any]) -> int:
        """Write one member with one JSON value per line; returns the number of lines."""
        count = size = 0
        digest = sha256()
        with self._archive.open(name, "w", force_zip64=True) as member:
            for value in values:
                line = json.dumps(value, ensure_ascii=False).encode() + b"\n"
                member.write(line)
                digest.update(line)
                size += len(line)
                count += 1
        self.members[name] = {"bytes": size, "sha256": digest.hexdigest()}
        return count


def _messages(connection: Connection, key: int) -> Iterator[dict[str, Any]]:
    query = select(MessageRow).where(MessageRow.agent_key == key).order_by(MessageRow.position)
    for row in connection.execution_options(yield_per=FETCHED).execute(query):
        yield {
            "position": row.position,
            "id": row.id,
            "session": row.session,
            "role": row.role,
            "content": row.text if row.blocks is None else row.blocks,
            "metadata": row.metadata or {},
            "created_at": row.created_at.isoformat(),
            "left_at": row.left_at,
            "folded": row.folded,
        }


def _rollbacks(connection: Connection, key: int) -> Iterator[dict[str, Any]]:
    query = select(RollbackRow).where(RollbackRow.agent_key == key).order_by(RollbackRow.position)
    for row in connection.execute(query):
        yield {"position": row.position, "target": row.target, "created_at": row.created_at.isoformat()}


def _revisions(connection: Connection, key: int, writer: _Writer) -> list[dict[str, Any]]:
    query = (
        select(RevisionRow).where(RevisionRow.agent_key == key).order_by(RevisionRow.fingerprint, RevisionRow.position)
    )
    told: list[dict[str, Any]] = []
    for number, row in enumerate(connection.execution_options(yield_per=FETCHED).execute(query)):
        member = f"states/{number:06d}.safetensors"
        writer.bytes(member, bytes(row.state))
        told.append(
            {
                "position": row.position,
                "parent": row.parent,
                "fingerprint": row.fingerprint,
                "created_at": row.created_at.isoformat(),
                "member": member,
            }
        )
    return told


def _rule(connection: Connection, key: int) -> int | None:
    """The number of the rule that cut all messages into records; None if there are several rules or no records."""
    rules = list(connection.scalars(select(RecordRow.cut).where(RecordRow.agent_key == key).distinct().limit(2)))
    return rules[0] if len(rules) == 1 else None


def _embeddings(connection: Connection, key: int, writer: _Writer, progress: Progress | None) -> int:
    import numpy as np
    from safetensors.numpy import save

    columns = (EmbeddingRow.model, EmbeddingRow.dim, RecordRow.position, RecordRow.chunk, EmbeddingRow.vector)
    query = (
        select(*columns)
        .join(RecordRow, RecordRow.key == EmbeddingRow.record_key)
        .where(RecordRow.agent_key == key)
        .order_by(EmbeddingRow.model, EmbeddingRow.dim, RecordRow.position, RecordRow.chunk)
    )
    done = 0
    for number, shard in enumerate(_shards(connection.execution_options(yield_per=FETCHED).execute(query))):
        vectors = np.frombuffer(b"".join(row.vector for row in shard), dtype="<f4").reshape(len(shard), shard[0].dim)
        tensors = {
            "position": np.array([row.position for row in shard], dtype=np.int64),
            "chunk": np.array([row.chunk for row in shard], dtype=np.int64),
            "vector": vectors,
        }
        writer.bytes(f"embeddings/{number:06d}.safetensors", save(tensors, metadata={"model": shard[0].model}))
        done += len(shard)
        if progress is not None:
            progress("embeddings", done, 0)
    return done


def _shards(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Split rows into lists of up to `SHARD` rows, each list of one model and dimension."""
    shard: list[Any] = []
    for row in rows:
        if shard and (len(shard) == SHARD or (row.model, row.dim) != (shard[0].model, shard[0].dim)):
            yield shard
            shard = []
        shard.append(row)
    if shard:
        yield shard


def _counted(values: Iterable[Any], what: str, total: int, progress: Progress | None) -> Iterator[Any]:
    for number, value in enumerate(values, 1):
        yield value
        if progress is not None and (number % FETCHED == 0 or number == total):
            progress(what, number, total)
