"""Moves memories of other libraries into a journal: mem0, LangMem and LlamaIndex, from the JSON that they export.

What mem0 and LangMem extracted becomes a statement of the user's; a chat of LlamaIndex stays a chat.
Messages keep their ids, so a second import of a file adds nothing, and one of a newer file adds what is new.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from deltamem_agents import arguments, bounded_json
from deltamem_agents.errors import ArchiveError, ConfigError, InvalidAgentError, InvalidMessageError
from deltamem_agents.messages import ID_LIMIT, NewMessage, check_id, check_messages, in_utc, wording_of
from deltamem_agents.store import MessageLookup, Store
from deltamem_agents.store.message_lookup import MAX_POSITION

Source = Literal["mem0", "langmem", "llama-index"]
SOURCES: tuple[str, ...] = get_args(Source)
FILE_BYTES = 256 << 20  # limit on a file; a quarter if it is not plain ASCII
VALUES = 5_000_000  # limit on the values in it
BATCH = 1000  # messages in one transaction
_OWNERS = ("user_id", "agent_id", "app_id", "run_id")  # mem0's, the first that is given names the agent
_NAMESPACES = ("memories",)  # parts of LangMem's namespaces that name nobody
_ADVICE = {
    "mem0": 'the result of its get_all as JSON: {"results": [{"id": …, "memory": …, "user_id": …}]}, or the list alone',
    "langmem": "the items of its store as JSON, each with namespace, key and value",
    "llama-index": "the dump of a memory's sql_store as JSON, of a chat store or buffer, or a list of messages",
}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that holds no memory: where it is in the file, counted from 1 (or its path), and why."""

    row: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrated:
    """What an import did.

    Args:
        added: Messages journalled, by agent.
        known: Messages that the journal held already.
        erased: Messages that were erased from this agent earlier, and stay so.
        rejected: Rows that hold no memory.
    """

    added: Mapping[str, int]
    known: int
    erased: int
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True, slots=True)
class _Memory:
    """A row as a message: whose it is, its session, when it was said, and where it is in the file."""

    owner: str
    session: str
    message: dict[str, Any]
    time: datetime | None
    row: str


_Row = tuple[dict[str, Any], NewMessage]  # a message as `Store.append` takes it, and checked


def migrate(
    store: Store,
    path: str | Path,
    source: Source,
    *,
    agent: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Migrated:
    """Journal the memories in another library's export.

    Rows that hold no memory are reported and left out. Memories are journalled in the order of their times where every
    row has one (an update counts as said when it was made), and in that of the file otherwise.

    Args:
        path: The file, JSON or JSON lines.
        source: The library that wrote it.
        agent: Whose memory they become; by default that of the user, namespace or chat that the file names, each an
            agent. Then that name becomes the session.
        progress: Called with the step, how many messages are done, and how many there are.

    Raises:
        ConfigError: The source is unknown, the path is not valid, or a row names nobody and ``agent`` was not given.
        ArchiveError: The file cannot be read, is larger than allowed, or is not what the library exports.
        InvalidAgentError: An agent id is not valid.
        StoreError: The database cannot be written. What was journalled before stays; a second import adds the rest.
    """
    arguments.one_of(source, "source", SOURCES)
    if agent is not None:
        check_id(agent)
    rejected: list[Rejected] = []
    groups: dict[tuple[str, str], list[_Row]] = {}
    for each in _in_order(list(_READERS[source](_parsed(arguments.path(path), source), rejected))):
        key = (each.owner, each.session) if agent is None else (agent, each.owner or each.session)
        if not key[0]:
            raise ConfigError(f"row {each.row} of {path} does not say whose memory it is; give the agent's id")
        try:
            [checked] = check_messages([each.message])
            check_id(key[0])
            check_id(key[1], "session")
        except InvalidMessageError as error:
            rejected.append(Rejected(each.row, str(error).removeprefix("message 0 has ")))
        except (ConfigError, InvalidAgentError) as error:
            rejected.append(Rejected(each.row, str(error)))
        else:
            groups.setdefault(key, []).append((each.message, checked))
    return _journalled(store, groups, tuple(rejected), progress)


def _journalled(
    store: Store,
    groups: Mapping[tuple[str, str], list[_Row]],
    rejected: tuple[Rejected, ...],
    progress: Callable[[str, int, int], None] | None,
) -> Migrated:
    added: dict[str, int] = {}
    known = erased = done = 0
    total = sum(map(len, groups.values()))
    for (agent, session), rows in groups.items():
        for start in range(0, len(rows), BATCH):
            batch = rows[start : start + BATCH]
            chosen: list[dict[str, Any]] = []
            gone: set[str] = set()
            store.append(agent, partial(_select, agent, session, batch, chosen, gone), session)
            left = sum(checked.id in gone for _, checked in batch)
            added[agent] = added.get(agent, 0) + len(chosen)
            erased += left
            known += len(batch) - len(chosen) - left
            done += len(batch)
            if progress is not None:
                progress("importing", done, total)
    return Migrated(added=added, known=known, erased=erased, rejected=rejected)


def _select(
    agent: str, session: str, batch: list[_Row], chosen: list[dict[str, Any]], gone: set[str], lookup: MessageLookup
) -> list[dict[str, Any]]:
    """What of a batch is to be journalled, in ``chosen``; ids of what was erased, in ``gone``. May be called again."""
    held = {(each.id, wording_of(each)) for each in lookup.find(agent, [(session, checked.id) for _, checked in batch])}
    said = lookup.ever_said(agent, session, [checked for _, checked in batch], after=MAX_POSITION)  # the erased alone
    gone.clear()
    gone.update(each.id for each in said)
    chosen[:] = [
        given for given, checked in batch if checked.id not in gone and (checked.id, wording_of(checked)) not in held
    ]
    return chosen


def _parsed(path: Path, source: Source) -> Any:
    """The file's JSON; a file of JSON lines becomes a list."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES + 1)
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        try:
            return bounded_json.loads(data, limit=FILE_BYTES, values=VALUES)
        except bounded_json.TooMuchError:
            raise
        except ValueError:
            lines = [line for line in data.splitlines() if line.strip()]
            if len(lines) < 2:
                raise
            bounded_json.check(data, values=VALUES)
            return [bounded_json.loads(line, limit=FILE_BYTES, values=VALUES) for line in lines]
    except bounded_json.TooMuchError as error:
        raise ArchiveError(f"{path} is too large to import ({error}); split it") from error
    except ValueError as error:
        raise ArchiveError(f"{path} is not JSON ({error}); give {_ADVICE[source]}") from error


def _in_order(memories: list[_Memory]) -> list[_Memory]:
    if any(each.time is None for each in memories):
        return memories
    return sorted(memories, key=lambda each: each.time or datetime.min.replace(tzinfo=UTC))


def _rows(parsed: Any, source: Source, row: str, *keys: str) -> list[Any]:
    """The list of rows: the whole file, what stands under one of ``keys``, or a single row, with the key ``row``."""
    found = parsed
    if isinstance(parsed, Mapping):
        found = [parsed] if row in parsed else next((parsed[key] for key in keys if key in parsed), None)
    if not isinstance(found, list):
        raise ArchiveError(f"this is not what {source} exports; give {_ADVICE[source]}")
    return found


def _mem0(parsed: Any, rejected: list[Rejected]) -> Iterator[_Memory]:
    for row, each in enumerate(_rows(parsed, "mem0", "memory", "results", "memories"), start=1):
        text = each.get("memory", each.get("data")) if isinstance(each, Mapping) else None
        if not isinstance(text, str) or not text.strip():
            rejected.append(Rejected(str(row), "it has no text under 'memory'"))
            continue
        owners = [name for key in _OWNERS if (name := _name(each.get(key)))]
        kept = {key: each[key] for key in ("metadata", "categories", *_OWNERS) if each.get(key)}
        role = each.get("role") if each.get("role") in ("user", "assistant") else "user"
        session = _name(each.get("run_id")) if len(owners) > 1 else ""
        identity = _id_of(each.get("id"), text)
        yield _memory(owners[0] if owners else "", session or "mem0", identity, role, text, kept, each, str(row))


def _langmem(parsed: Any, rejected: list[Rejected]) -> Iterator[_Memory]:
    for row, each in enumerate(_rows(parsed, "langmem", "value", "items", "results"), start=1):
        value = each.get("value") if isinstance(each, Mapping) else None
        content = value.get("content", value) if isinstance(value, Mapping) else value
        text = _said(content)
        if not text.strip():
            rejected.append(Rejected(str(row), "it has no text under 'value'"))
            continue
        space = each.get("namespace")
        parts = [name for part in (space if isinstance(space, list) else [space]) if (name := _name(part))]
        owner = "/".join(part for part in parts if part not in _NAMESPACES)
        kept: dict[str, Any] = {"namespace": parts}
        if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
            kept["kind"] = value["kind"]
        yield _memory(owner, "langmem", _id_of(each.get("key"), text), "user", text, kept, each, str(row))


def _said(content: Any) -> str:
    """Text of a memory's content: the text itself, or the fields of a schema as "name: value"."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Mapping):
        return ""
    if isinstance(content.get("content"), str) and len(content) == 1:
        return str(content["content"])
    fields = [
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in content.items()
        if value not in (None, "", [], {})
    ]
    return "\n".join(fields)


def _llama_index(parsed: Any, rejected: list[Rejected]) -> Iterator[_Memory]:
    for key, index, each in _chats(parsed):
        row = f"{key}[{index}]"
        blocks = each.get("blocks", each.get("content")) if isinstance(each, Mapping) else None
        if not isinstance(blocks, list | str) or not blocks:
            rejected.append(Rejected(row, "it is no message: it has neither 'blocks' nor 'content'"))
            continue
        details = each.get("additional_kwargs")
        role = {"chatbot": "assistant", "model": "assistant", "developer": "system", "function": "tool"}.get(
            str(each.get("role")), str(each.get("role"))
        )
        kept = {"additional_kwargs": details} if isinstance(details, Mapping) and details else {}
        yield _memory(key, "default", f"llama-index-{index}", role, blocks, kept, {}, row)


def _chats(parsed: Any) -> Iterator[tuple[str, int, Any]]:
    """Key, number within the chat and message of each message that a chat store holds."""
    stored = parsed
    if isinstance(stored, Mapping) and isinstance(stored.get("chat_store"), Mapping):
        stored = stored["chat_store"]
    if isinstance(stored, Mapping) and isinstance(stored.get("db_data"), list):
        counts: dict[str, int] = {}
        for entry in stored["db_data"]:
            key = str(entry.get("key", "")) if isinstance(entry, Mapping) else ""
            counts[key] = counts.get(key, 0) + 1
            yield key, counts[key], entry.get("data") if isinstance(entry, Mapping) else None
        return
    if isinstance(stored, list):
        yield from (("", index, message) for index, message in enumerate(stored, start=1))
        return
    chats = stored.get("store") if isinstance(stored, Mapping) else None
    if not isinstance(chats, Mapping) or not all(isinstance(chat, list) for chat in chats.values()):
        raise ArchiveError(f"this is not what llama-index exports; give {_ADVICE['llama-index']}")
    for key, chat in chats.items():
        for index, message in enumerate(chat, start=1):
            yield str(key), index, message


_READERS: Mapping[str, Callable[[Any, list[Rejected]], Iterator[_Memory]]] = {
    "mem0": _mem0,
    "langmem": _langmem,
    "llama-index": _llama_index,
}


def _memory(
    owner: str,
    session: str,
    identity: str,
    role: Any,
    content: Any,
    metadata: dict[str, Any],
    times: Mapping[str, Any],
    row: str,
) -> _Memory:
    time = _time(times.get("updated_at")) or _time(times.get("created_at"))
    message = {"id": identity, "role": role, "content": content, "metadata": metadata}
    return _Memory(owner, session, message if time is None else message | {"created_at": time}, time, row)


def _name(value: Any) -> str:
    """A name or number as text; empty for anything else."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _id_of(given: Any, text: str) -> str:
    """The id that the library gave, if a journal can hold it; otherwise one that the text decides."""
    if 0 < len(_name(given)) <= ID_LIMIT:
        return _name(given)
    return hashlib.sha256(f"{given}\0{text}".encode("utf-8", "replace")).hexdigest()[:32]


def _time(value: Any) -> datetime | None:
    try:
        return in_utc(datetime.fromisoformat(value)) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
