"""Archives: an agent in one file, there and back; and files that are none."""

import json
import random
import signal
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deltamem_agents.errors import ArchiveError, ConfigError, InvalidAgentError, StoreError, UnknownAgentError
from deltamem_agents.store import Revision, Selection, Store
from deltamem_agents.store.codec import encode

Say = Callable[..., dict[str, Any]]
Commit = Callable[..., int]
STATE = encode({f"layers.{layer}": torch.arange(4.0).reshape(2, 2) + layer for layer in range(3)})


@pytest.fixture
def filled(store: Store, say: Say, commit: Commit) -> Store:
    """Blocks, metadata, dead messages, rollbacks, states of two fingerprints and embeddings of two models."""
    blocks = [{"type": "image", "url": "x", "size": [1, None, 2.5]}, {"type": "text", "text": "cherry\u2028 pie"}]
    apple = say(
        "apple\ncore\x1e\r\n", id="a", metadata={"tags": ["é", {"b": True}]}, created_at="2026-01-02T03:04:05.6Z"
    )
    store.append("alice", [apple, say("banana", "tool", id="b"), say(blocks, "assistant", id="猫" * 255)], "s1")
    store.append("alice", [say("blackberry", id="b", folded=False)], "s1")
    store.rollback("alice", 3)
    store.append("alice", [say("damson", id="b"), say([{"type": "image", "url": "y"}])], "s/3")
    store.rollback("alice", 4)
    store.rollback("alice", 7)
    commit("alice", 1, state=STATE)
    commit("alice", 6, 1, state=STATE)
    commit("alice", 2, fingerprint="g", state=STATE)
    for model, dim in (("m", 2), ("other model", 3)):
        keys = [key for key, _ in store.records.missing_embeddings("alice", model, 10)][1:]
        store.records.put_embeddings(
            "alice", model, keys, np.random.default_rng(dim).normal(size=(len(keys), dim)).astype("f4")
        )
    return store


@pytest.fixture
def other() -> Iterator[Store]:
    """A store of another kind than most."""
    with Store.open("sqlite://", split=lambda text: [line for line in text.split("\n") if line]) as opened:
        yield opened


def told(store: Store, agent: str) -> dict[str, Any]:
    """All that a caller can see of an agent, but its name, epoch and keys."""
    info = store.agent(agent)
    assert info is not None
    texts = {record.key: (record.position, record.chunk, record.text) for record in store.records.read(agent)}
    return {
        "at": [store.at(agent, position) for position in range(info.position + 1)],
        "live": store.live(agent),
        "records": list(texts.values()),
        "words": sorted(
            record.text for record, _ in store.records.search_text(agent, ["apple", "blackberry", "pie"], 9)
        ),
        "revisions": [
            (each.position, each.fingerprint, each.parent, each.state, each.created_at)
            for each in store.states.revisions(agent)
        ],
        "embeddings": [
            [(texts[key], vector.tolist()) for key, vector in zip(*store.records.embeddings(agent, model), strict=True)]
            for model in ("m", "other model")
        ],
        "position": info.position,
    }


def test_there_and_back(filled: Store, other: Store, tmp_path: Path) -> None:
    before = told(filled, "alice")

    assert filled.export("alice", tmp_path / "alice.zip") == 6
    assert other.import_(tmp_path / "alice.zip") == "alice"
    assert other.export("alice", tmp_path / "again.zip") == 6
    assert filled.import_(tmp_path / "again.zip", "returned") == "returned"

    assert told(filled, "alice") == before
    assert told(other, "alice") == told(filled, "returned") == before | {"revisions": []}  # these are folded anew
    assert before["position"] == 9 and len(before["revisions"]) == 3
    assert [len(rows) for rows in before["embeddings"]] == [len(before["records"]) - 1] * 2
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["again.zip", "alice.zip"]
    assert not list(tmp_path.glob(".*"))


def test_an_imported_agent_goes_on(filled: Store, tmp_path: Path, say: Say) -> None:
    filled.export("alice", tmp_path / "a.zip")
    filled.import_(tmp_path / "a.zip", "bob")
    tail = filled.states.fold_input("bob", "f")
    assert tail is not None and tail.newest is None and len(tail.entries) == len(filled.live("alice"))
    filled.append("bob", [say("apricot", id="a"), say("damson", id="b")], "s1")
    assert [entry.position for entry in filled.live("bob")][-2:] == [10, 11]
    filled.rollback("bob", 4)
    assert [entry.text for entry in filled.live("bob")] == [entry.text for entry in filled.at("alice", 4)]


def test_an_agent_of_no_live_message(store: Store, other: Store, tmp_path: Path, say: Say) -> None:
    store.append("alice", [say("apple")], "s")
    store.rollback("alice", 0)
    store.export("alice", tmp_path / "a.zip")
    other.import_(tmp_path / "a.zip")
    assert told(other, "alice") == told(store, "alice")


def test_names(filled: Store, tmp_path: Path, rows: Callable[[Store], Any]) -> None:
    path = tmp_path / "a.zip"
    filled.export("alice", path)
    before = rows(filled)
    with pytest.raises(ConfigError, match="'alice' exists"):
        filled.import_(path)
    with pytest.raises(InvalidAgentError):
        filled.import_(path, "x" * 256)
    with pytest.raises(UnknownAgentError, match="'nobody'"):
        filled.export("nobody", tmp_path / "b.zip")
    with pytest.raises(StoreError, match="cannot write"):
        filled.export("alice", tmp_path / "absent" / "b.zip")
    assert rows(filled) == before and [entry.name for entry in tmp_path.glob("*.zip")] == ["a.zip"]


def test_an_export_that_fails_leaves_the_file_before(filled: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(b"before")

    def stop(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled.export("alice", path, stop, overwrite=True)
    assert path.read_bytes() == b"before" and not list(tmp_path.glob(".a*"))


def test_progress(store: Store, tmp_path: Path, say: Say) -> None:
    store.append("alice", [say(f"message {i}") for i in range(2500)], "s")
    told: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    store.export("alice", tmp_path / "a.zip", progress)
    store.import_(tmp_path / "a.zip", "bob", progress)

    steps = [(1000, 2500), (2000, 2500), (2500, 2500)]
    assert told == [(what, *step) for what in ("messages", "checked", "messages") for step in steps]


def test_an_import_that_is_interrupted_leaves_nothing(
    store: Store, tmp_path: Path, say: Say, rows: Callable[[Store], Any]
) -> None:
    store.append("alice", [say(f"message {i}") for i in range(1500)], "s")
    store.export("alice", tmp_path / "a.zip")
    before = rows(store)

    def stop(what: str, done: int, total: int) -> None:
        if what == "messages":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.import_(tmp_path / "a.zip", "bob", stop)
    assert rows(store) == before


# Files that are no archives: SQLite in memory stands for all, as the check comes before the database.


@pytest.fixture
def archive(other: Store, tmp_path: Path, say: Say) -> Path:
    other.append("alice", [say(f"message {i}", id=str(i)) for i in range(20)], "s")
    other.append("alice", [say("other", id="3")], "s")
    other.rollback("alice", 10)
    info = other.agent("alice")
    assert info is not None
    keys = [key for key, _ in other.records.missing_embeddings("alice", "m", 99)]
    other.records.put_embeddings("alice", "m", keys, np.ones((len(keys), 2), np.float32))
    other.states.commit("alice", Revision(position=5, epoch=info.epoch, fingerprint="f", state=STATE), after=0)
    path = tmp_path / "a.zip"
    other.export("alice", path)
    return path


def refused(store: Store, path: Path, match: str | None = None) -> None:
    with pytest.raises(ArchiveError, match=match) as caught:
        store.import_(path, "new")
    assert str(path) in str(caught.value)
    assert [info.id for info in store.agents()] == ["alice"]


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], *, consistent: bool = True) -> Path:
    """The archive with other members; sizes and checksums in its manifest are made to fit, where ``consistent``."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = members.pop("manifest.json")
    everything = {"manifest.json": manifest, **members}
    change(everything)
    if consistent and "manifest.json" in everything:
        told = json.loads(everything["manifest.json"])
        told["members"] = {
            name: {"bytes": len(data), "sha256": sha256(data).hexdigest()}
            for name, data in everything.items()
            if name != "manifest.json"
        }
        everything["manifest.json"] = json.dumps(told).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in everything.items():
            archive.writestr(name, data)
    return path


def put(name: str, data: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: data})


def without(name: str) -> Callable[[dict[str, bytes]], None]:
    """A change that leaves a value out of the manifest."""

    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        del manifest[name]
        members["manifest.json"] = json.dumps(manifest).encode()

    return change


def in_manifest(**changed: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | changed).encode()

    return change


def in_line(member: str, number: int, /, **changed: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        lines = members[member].splitlines()
        lines[number] = json.dumps(json.loads(lines[number]) | changed).encode()
        members[member] = b"\n".join(lines) + b"\n"

    return change


def test_a_rewritten_archive_is_read(other: Store, archive: Path) -> None:
    other.import_(rewritten(archive, lambda members: None), "new")  # else what follows would prove nothing
    assert told(other, "new") == told(other, "alice") | {"revisions": []}


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip file" * 100, b"SQLite format 3\0" * 64])
def test_files_of_other_kinds(other: Store, archive: Path, content: bytes) -> None:
    archive.write_bytes(content)
    refused(other, archive, "cannot be read")


def test_no_file_and_a_folder(other: Store, archive: Path) -> None:
    refused(other, archive.with_name("absent.zip"), "cannot be read")
    refused(other, archive.parent, "cannot be read")


FOREIGN: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "no manifest": (lambda members: members.pop("manifest.json") and None, "no manifest"),
    "another format": (in_manifest(format="deltamem-other"), "not an exported agent"),
    "newer": (
        in_manifest(version=4),
        r"^\S+ is of version 4, this deltamem-agents reads up to 3; install a newer one$",
    ),
    "no version": (without("version"), "lacks 'version'"),
    "no members": (without("members"), "lacks 'members'"),
    "members of another kind": (in_manifest(members=[]), "not as 'deltamem export' writes it"),
    "version of text": (in_manifest(version="1"), "not an exported agent"),
    "version 0": (in_manifest(version=0), "not an exported agent"),
    "version of truth": (in_manifest(version=True), "not an exported agent"),
    "ids of the agent beyond its end": (in_manifest(agent_ids_until=10**6), "agent_ids_until 1000000"),
    "ids of the agent until -1": (in_manifest(agent_ids_until=-1), "agent_ids_until -1"),
    "ids of the agent until text": (in_manifest(agent_ids_until="1"), "agent_ids_until '1'"),
    "negative head": (in_manifest(head=-1), "numbers"),
    "huge head": (in_manifest(head=1 << 63), "numbers"),
    "head before the end": (in_manifest(head=3), "position"),
    "bad name": (in_manifest(agent="x" * 256), "256 characters"),
    "not a mapping": (put("manifest.json", b"[1]"), "not an exported agent"),
    "not JSON": (put("manifest.json", b"{"), "not an exported agent"),
    "deep JSON": (put("manifest.json", b"[" * 100_000), "cannot be read"),
    "surplus count": (in_manifest(messages=22), "21 messages, its manifest says 22"),
    "fewer states": (in_manifest(revisions=0), "1 revisions"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_manifests(other: Store, archive: Path, name: str) -> None:
    change, match = FOREIGN[name]
    broken = name in ("no members", "members of another kind", "not a mapping", "not JSON", "deep JSON")
    refused(other, rewritten(archive, change, consistent=not broken), match)


MEMBERS = ["../evil", "/etc/passwd", "states/../../x", "states/000009.safetensors", "C:\\x", "messages.jsonl/", "a\0b"]


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("consistent", [False, True])
def test_members_of_other_names(other: Store, archive: Path, name: str, consistent: bool) -> None:
    path = rewritten(archive, put(name, b"x"), consistent=consistent)
    if name == MEMBERS[3] and consistent:
        assert other.import_(path, "new") == "new"  # named so, and of no use to anyone
    else:
        refused(other, path)
    assert not (archive.parent.parent / "evil").exists()


@pytest.mark.parametrize("size", [-1, -5, 1 << 40, 1 << 70, True, "3", 1.0, None])
@pytest.mark.parametrize("member", ["messages.jsonl", "states/000000.safetensors"])
def test_sizes_that_are_not_so(other: Store, archive: Path, size: Any, member: str) -> None:
    def change(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        manifest["members"][member]["bytes"] = size
        members["manifest.json"] = json.dumps(manifest).encode()

    refused(other, rewritten(archive, change, consistent=False))


def state_file(header: dict[str, Any], body: bytes = b"") -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + body


def vectors(model: Any = "m", shape: Any = (1, 2), kind: str = "F32", offsets: Any = (16, 24)) -> bytes:
    column = {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}
    vector = {"dtype": kind, "shape": shape, "data_offsets": offsets}
    header = {"__metadata__": {"model": model}, "position": column, "chunk": column, "vector": vector}
    return state_file(header, b"\0" * 24)


def in_both(change: Callable[[dict[str, bytes]], None], **manifest: Any) -> Callable[[dict[str, bytes]], None]:
    def both(members: dict[str, bytes]) -> None:
        change(members)
        in_manifest(**manifest)(members)

    return both


HUGE = {"dtype": "F32", "shape": [3, 1 << 40, 1 << 40], "data_offsets": [0, 3 << 82]}
SHARD = "embeddings/000000.safetensors"
DAMAGED: dict[str, Callable[[dict[str, bytes]], None]] = {
    "a line that is not JSON": put("messages.jsonl", b"{"),
    "a line of other JSON": put("messages.jsonl", b"[1]\n"),
    "deep lines": put("rollbacks.jsonl", b"[" * 100_000),
    "no text": put("messages.jsonl", b"\xff\xfe\n"),
    "position twice": in_line("messages.jsonl", 4, position=4),
    "position 0": in_line("messages.jsonl", 0, position=0),
    "position of text": in_line("messages.jsonl", 0, position="1"),
    "left beyond the end": in_line("messages.jsonl", 15, left_at=99),
    "id live twice": in_line("messages.jsonl", 4, id="3"),
    "live though rolled back": in_line("messages.jsonl", 15, left_at=None),
    "dead though live": in_line("messages.jsonl", 4, left_at=22),
    "unknown role": in_line("messages.jsonl", 0, role="root"),
    "empty content": in_line("messages.jsonl", 0, content=" "),
    "NUL": in_line("messages.jsonl", 0, content="a\0b"),
    "surrogate": in_line("messages.jsonl", 0, content="a\ud800b"),
    "surrogate in metadata": in_line("messages.jsonl", 0, metadata={"a": "\ud800"}),
    "unknown key": in_line("messages.jsonl", 0, author="x"),
    "key that write() takes": in_line("messages.jsonl", 0, name="x"),
    "calls that write() takes": in_line("messages.jsonl", 0, role="assistant", tool_calls=[]),
    "folded is text": in_line("messages.jsonl", 0, folded="yes"),
    "folded is nothing": in_line("messages.jsonl", 0, folded=None),
    "bad session": in_line("messages.jsonl", 0, session="x" * 256),
    "bad time": in_line("messages.jsonl", 0, created_at="0001-01-01T00:00:00+14:00"),
    "rollback to itself": in_line("rollbacks.jsonl", 0, target=22),
    "rollback to the future": in_line("rollbacks.jsonl", 0, target=23),
    "rollback beyond the end": in_line("rollbacks.jsonl", 0, position=23),
    "rollback to another position": in_line("rollbacks.jsonl", 0, target=3),
    "rollback at no time": in_line("rollbacks.jsonl", 0, created_at="0001-01-01T00:00:00+14:00"),
    "state beyond the end": in_line("revisions.jsonl", 0, position=23),
    "state of no parent": in_line("revisions.jsonl", 0, parent=5),
    "state of a huge parent": in_line("revisions.jsonl", 0, position=1 << 70),
    "state without a name": in_line("revisions.jsonl", 0, fingerprint=""),
    "state of a NUL name": in_line("revisions.jsonl", 0, fingerprint="a\0"),
    "state of no member": in_line("revisions.jsonl", 0, member="../a"),
    "state that is the journal": in_line("revisions.jsonl", 0, member="messages.jsonl"),
    "a state twice": lambda members: members.update({"revisions.jsonl": members["revisions.jsonl"] * 2}),
    "a state that is none": put("states/000000.safetensors", b"x" * 100),
    "a huge state": put(
        "states/000000.safetensors", state_file({"__metadata__": {"modules": "a.* 0,1,2"}, "state": HUGE})
    ),
    "embeddings that are none": put(SHARD, b"x" * 100),
    "embeddings of no model": in_both(put(SHARD, vectors("")), embeddings=1),
    "embeddings of a NUL model": in_both(put(SHARD, vectors("a\0b")), embeddings=1),
    "embeddings of a surrogate": in_both(put(SHARD, vectors("\ud800")), embeddings=1),
    "embeddings of a number": in_both(put(SHARD, vectors(7)), embeddings=1),
    "embeddings of half a dimension": in_both(put(SHARD, vectors(shape=(1, 2.0))), embeddings=1),
    "embeddings of no dimension": in_both(put(SHARD, vectors(shape=(1, 0), offsets=(16, 16))), embeddings=1),
    "embeddings of another kind": in_both(put(SHARD, vectors(kind="F16")), embeddings=1),
    "embeddings elsewhere": in_both(put(SHARD, vectors(offsets=(-8, 0))), embeddings=1),
    "embeddings beyond the end": in_both(put(SHARD, vectors(offsets=(24, 32))), embeddings=1),
    "embeddings of two dimensions": in_both(
        put("embeddings/000001.safetensors", vectors(shape=(1, 1), offsets=(16, 20))), embeddings=12
    ),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_members_that_hold_something_else(other: Store, archive: Path, name: str) -> None:
    refused(other, rewritten(archive, DAMAGED[name]))


def test_the_right_embeddings_are_read(other: Store, archive: Path) -> None:
    other.import_(rewritten(archive, in_both(put(SHARD, vectors()), embeddings=1)), "new")


def test_a_truncated_file(other: Store, archive: Path) -> None:
    data = archive.read_bytes()
    for size in range(0, len(data), max(1, len(data) // 25)):
        archive.write_bytes(data[:size])
        refused(other, archive)


def test_no_flipped_bit_goes_unseen_or_unhandled(other: Store, archive: Path) -> None:
    before = told(other, "alice")
    data = archive.read_bytes()
    rng = random.Random(4)
    refusals = 0
    for _ in range(60):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        archive.write_bytes(flipped)
        try:
            other.import_(archive, "new")
        except ArchiveError:
            refusals += 1
            assert other.agent("new") is None
        else:  # dates, attributes, the name of the agent: no content
            assert told(other, "new") == before | {"revisions": []}
            other.erase("new", Selection(whole=True))
    assert refusals > 40


def test_members_compressed_otherwise(other: Store, archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_LZMA) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    refused(other, archive, "method 14")


def test_records_cut_otherwise_are_embedded_again(filled: Store, tmp_path: Path) -> None:
    filled.export("alice", tmp_path / "a.zip")
    with Store.open("sqlite://") as whole:
        whole.import_(tmp_path / "a.zip")
        assert [record.chunk for record in whole.records.read("alice")] == [0, 0, 0, 0]
        assert (
            len(whole.records.embeddings("alice", "m")[0]) + len(whole.records.missing_embeddings("alice", "m", 9)) == 4
        )


def test_sessions_that_number_alike(store: Store, other: Store, tmp_path: Path, say: Say) -> None:
    for session in ("a", "b"):
        store.append("alice", [say(f"apple of {session}", id="1"), say("pie", id="2")], session)
    store.append("alice", [say("tart", id="2")], "b")
    store.export("alice", tmp_path / "a.zip")
    other.import_(tmp_path / "a.zip")
    assert told(other, "alice") == told(store, "alice") and len(other.live("alice")) == 4
    other.append("alice", [say("cake", id="2")], "a")
    assert [entry.text for entry in other.live("alice", session="a")] == ["apple of a", "cake"]


def as_version_2(members: dict[str, bytes]) -> None:
    lines = map(json.loads, members["messages.jsonl"].splitlines())
    told = ({name: value for name, value in line.items() if name != "folded"} for line in lines)
    members["messages.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in told)
    in_manifest(version=2)(members)


def as_version_1(members: dict[str, bytes]) -> None:
    as_version_2(members)
    manifest = json.loads(members["manifest.json"]) | {"version": 1}
    del manifest["agent_ids_until"]
    members["manifest.json"] = json.dumps(manifest).encode()


def test_in_archives_before_version_3_every_message_was_folded(other: Store, tmp_path: Path, say: Say) -> None:
    other.append("alice", [say("apple"), say("banana", "tool"), say("cherry", folded=False)], "s")
    other.export("alice", tmp_path / "a.zip")
    other.import_(tmp_path / "a.zip", "same")
    other.import_(rewritten(tmp_path / "a.zip", as_version_2), "new")
    folded = {name: [entry.folded for entry in other.live(name)] for name in ("same", "new")}
    assert folded == {"same": [True, False, False], "new": [True, True, True]}


def test_an_archive_of_version_1_is_read(other: Store, archive: Path, say: Say) -> None:
    other.import_(rewritten(archive, as_version_1), "new")
    assert told(other, "new") == told(other, "alice") | {"revisions": []}
    other.append("new", [say("message 0", id="0")], "t")
    assert len(other.live("new")) == 11


def test_in_an_archive_of_version_1_ids_are_the_agents(other: Store, tmp_path: Path, say: Say) -> None:
    """A message that another session's had replaced when it was written stays replaced, however it comes and goes."""
    path = tmp_path / "a.zip"
    for session, text in (("a", "apple"), ("b", "banana")):
        other.append("alice", [say(text, id="1")], session)
    other.export("alice", path)

    def old(members: dict[str, bytes]) -> None:
        as_version_1(members)
        in_line("messages.jsonl", 0, left_at=2)(members)

    rewritten(path, old)
    other.import_(path, "new")
    assert [[entry.text for entry in other.at("new", at)] for at in range(3)] == [[], ["apple"], ["banana"]]
    assert (
        [entry.text for entry in other.live("new")]
        == [record.text for record in other.records.read("new")]
        == ["banana"]
    )
    other.export("new", path, overwrite=True)  # as version 2
    other.import_(path, "again")
    assert told(other, "again") == told(other, "new")
    other.append("again", [say("apricot", id="1")], "a")
    assert [entry.text for entry in other.live("again")] == ["banana", "apricot"]
    rewritten(path, in_manifest(agent_ids_until=None))
    with pytest.raises(ArchiveError, match="do not match its rollbacks"):
        other.import_(path, "third")


def test_one_id_live_twice_in_a_session(other: Store, tmp_path: Path, say: Say) -> None:
    path = tmp_path / "a.zip"
    for session in ("a", "b"):
        other.append("alice", [say("apple", id="1")], session)
    other.export("alice", path, overwrite=True)
    content = path.read_bytes()
    refused(other, rewritten(path, as_version_1), "'1' is live twice")
    path.write_bytes(content)
    refused(other, rewritten(path, in_line("messages.jsonl", 1, session="a")), "'1' is live twice in one session")


def test_the_secret_key_of_an_agent_stays_where_it_is(store: Store, tmp_path: Path, say: Say) -> None:
    store.append("alice", [say("apple")], "s")
    secret = store.secret("alice")
    assert secret is not None and len(secret) == 32 and store.secret("nobody") is None
    store.export("alice", tmp_path / "a.zip")
    store.import_(tmp_path / "a.zip", "bob")
    store.fork("alice", "carol")
    store.append("alice", [say("pie", id="1")], "s")
    assert store.secret("alice") == secret
    assert len({store.secret(agent) for agent in ("alice", "bob", "carol")}) == 3
    with zipfile.ZipFile(tmp_path / "a.zip") as opened:
        told = b"".join(map(opened.read, opened.namelist()))
    assert secret not in told and secret.hex().encode() not in told
    store.erase("alice", Selection(whole=True))
    assert store.secret("alice") is None
    store.append("alice", [say("apple")], "s")
    assert store.secret("alice") not in (None, secret)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_states_that_are_not_finite(other: Store, archive: Path, value: float) -> None:
    odd = STATE[:-4] + struct.pack("<f", value)
    refused(other, rewritten(archive, put("states/000000.safetensors", odd)), "not finite")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_embeddings_that_have_no_length(other: Store, archive: Path, value: float) -> None:
    name = "embeddings/000000.safetensors"
    with zipfile.ZipFile(archive) as opened:
        data = opened.read(name)
    at = data.rindex(struct.pack("<f", 1.0))
    refused(other, rewritten(archive, put(name, data[:at] + struct.pack("<f", value) + data[at + 4 :])), "not finite")


def test_a_state_that_two_revisions_name(other: Store, archive: Path) -> None:
    def twice(members: dict[str, bytes]) -> None:
        (line,) = members["revisions.jsonl"].splitlines()
        another = json.dumps(json.loads(line) | {"position": 6}).encode()
        members["revisions.jsonl"] = line + b"\n" + another + b"\n"
        members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | {"revisions": 2}).encode()

    refused(other, rewritten(archive, twice), "not a revision")


def test_an_archive_is_its_owners(filled: Store, tmp_path: Path) -> None:
    filled.export("alice", tmp_path / "a.zip")
    assert (tmp_path / "a.zip").stat().st_mode & 0o777 == 0o600


EXPORT = """
import os, signal, sys
from deltamem_agents.store import Store

def no_links(*_, **__):
    raise OSError("this file system has no links")

if sys.argv[2] == "copied":
    os.link = no_links

def stop(what, done, total):
    if what == "embeddings" or done == total:
        os.kill(os.getpid(), signal.SIGKILL)

with Store.open(sys.argv[1]) as store:
    store.export("alice", sys.argv[3], stop, overwrite=True)
"""


@pytest.mark.parametrize("way", ["linked", "copied"])
@pytest.mark.parametrize("before", [None, b"before"])
def test_an_export_that_is_killed_leaves_nothing(tmp_path: Path, say: Say, before: bytes | None, way: str) -> None:
    url, target = f"sqlite:///{tmp_path / 'memory.db'}", tmp_path / "out" / "a.zip"
    target.parent.mkdir()
    if before is not None:
        target.write_bytes(before)
    with Store.open(url) as store:
        store.append("alice", [say(f"message {i}" * 50) for i in range(2000)], "s")
        done = subprocess.run([sys.executable, "-c", EXPORT, url, way, str(target)])
        assert done.returncode == -signal.SIGKILL
        assert [each.name for each in target.parent.iterdir()] == ([] if before is None else ["a.zip"])
        assert before is None or target.read_bytes() == before
        store.export("alice", target, overwrite=True)  # and the next one is whole
        assert store.import_(target, "bob") == "bob"
