"""Time travel, erasure, export and import on the command line, each run in this process with the bundled model."""

from __future__ import annotations

import json

import pytest

from deltamem_agents.store import Store

PLAIN = ("--embedder", "none")
FACTS = ("My dog is Rex.", "I live in Oslo.", "Mara plays the cello.")


@pytest.fixture
def told(deltamem, url):
    """Agent alice: three messages in session s1, one in s2."""
    deltamem("write", *FACTS, "--agent", "alice", "--session", "s1", "--url", url, *PLAIN)
    deltamem("write", "Good night.", "--agent", "alice", "--session", "s2", "--url", url, *PLAIN)
    return url


@pytest.fixture
def texts(deltamem, told):
    """What an agent's journal holds."""

    def read(agent="alice", *options):
        return [each["content"] for each in deltamem("log", "--agent", agent, "--url", told, "--json", *options).json]

    return read


def assert_refused(done, *words):
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    for word in words:
        assert word in done.err


def test_log_at_a_position(deltamem, told, texts):
    assert texts("alice", "--at", 2) == list(FACTS[:2])
    assert texts("alice", "--at", 4, "--session", "s2") == ["Good night."]
    assert texts("alice", "--at", 0) == texts("nobody", "--at", 3) == []
    assert_refused(deltamem("log", "--agent", "alice", "--at", 5, "--url", told), "position 5", "0 to 4")
    assert_refused(deltamem("log", "--agent", "alice", "--at", -1, "--url", told), "position -1")


def test_fork(deltamem, told, texts):
    done = deltamem("fork", "alice", "bob", "--url", told)
    assert (done.code, done.out) == (0, "agent 'bob' has the 4 messages of agent 'alice'\n")
    assert texts("bob") == texts("alice")
    assert deltamem("fork", "alice", "carol", "--url", told, "--json").json["messages"] == 4
    assert_refused(deltamem("fork", "alice", "bob", "--url", told), "'bob' exists")
    assert_refused(deltamem("fork", "nobody", "dave", "--url", told), "no agent 'nobody'", "deltamem agents")
    assert_refused(deltamem("fork", "alice", "a" * 256, "--url", told), "255")


def test_rollback_and_the_undoing_it_names(deltamem, told, texts):
    done = deltamem("rollback", "alice", 2, "--url", told)
    assert done.code == 0 and "position 2, with 2 messages" in done.out
    assert texts() == list(FACTS[:2])
    command = done.out[done.out.index("'deltamem") + 1 :].split("'")[0].split()
    assert command == ["deltamem", "rollback", "alice", "4"]
    assert "nothing to do" in deltamem("rollback", "alice", 2, "--url", told).out
    assert deltamem(*command[1:], "--url", told, "--json").json == {"agent": "alice", "position": 6, "messages": 4}
    assert texts() == [*FACTS, "Good night."]
    assert_refused(deltamem("rollback", "alice", 99, "--url", told), "position 99", "0 to 6")
    assert_refused(deltamem("rollback", "nobody", 0, "--url", told), "no agent 'nobody'")
    assert deltamem("rollback", "alice", "soon", "--url", told).code == 2


def test_diff(deltamem, told):
    done = deltamem("diff", "alice", 1, 3, "--url", told)
    assert done.code == 0 and "2 messages added" in done.out and "0 messages removed" in done.out
    assert "Oslo" in done.out and "Rex" not in done.out and "moved by" in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines())
    deltamem("rollback", "alice", 2, "--url", told)
    found = deltamem("diff", "alice", 4, "--url", told, "--json").json
    assert [each["content"] for each in found["removed"]] == ["Mara plays the cello.", "Good night."]
    assert found["added"] == [] and all(value > 0 for value in found["layers"].values())
    assert_refused(deltamem("diff", "alice", 9, "--url", told), "position 9")
    assert_refused(deltamem("diff", "nobody", 0, "--url", told), "no agent 'nobody'")


def test_verify(deltamem, told, tmp_path):
    import sqlite3
    from hashlib import sha256

    done = deltamem("verify", "alice", "--url", told)
    assert done.code == 0 and "matches its journal" in done.out
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        (state,) = connection.execute("SELECT state FROM deltamem_revisions ORDER BY position DESC LIMIT 1").fetchone()
        other = state[:-64] + bytes(64)
        connection.execute("UPDATE deltamem_revisions SET state = ?, checksum = ?", (other, sha256(other).hexdigest()))
    done = deltamem("verify", "alice", "--url", told)
    assert done.code == 1 and "deltamem rebuild alice" in done.out
    found = deltamem("verify", "alice", "--url", told, "--json")
    assert found.code == 1 and found.json["good"] is False and max(found.json["layers"].values()) > 1e-4
    assert deltamem("rebuild", "alice", "--url", told).code == 0
    assert deltamem("verify", "alice", "--url", told, "--json").json["good"] is True
    assert_refused(deltamem("verify", "nobody", "--url", told), "no agent 'nobody'")


def test_erase_by_id(deltamem, told, texts):
    first, second = (each["id"] for each in deltamem("log", "--agent", "alice", "--url", told, "--json").json[:2])
    dry = deltamem("erase", "alice", "--id", first, "--dry-run", "--url", told)
    assert dry.code == 0 and "1 message, 1 record, 0 embeddings" in dry.out and "would be erased" in dry.out
    assert len(texts()) == 4
    deltamem("fork", "alice", "bob", "--url", told)
    done = deltamem("erase", "alice", "--yes", "--id", first, "--id", second, "--url", told)
    assert done.code == 0 and "agent 'alice': 2 messages" in done.out
    assert "agent 'bob' also holds 2 of these messages; --forks" in done.out and "backups" in done.out
    assert texts() == ["Mara plays the cello.", "Good night."] and len(texts("bob")) == 4
    again = deltamem("erase", "alice", "--yes", "--id", first, "--url", told)
    assert again.code == 1 and again.err == "note: nothing was erased: agent 'alice' has no such message\n"
    assert deltamem("erase", "bob", "--yes", "--id", first, "--forks", "--url", told).code == 0
    assert texts("bob") == [*FACTS[1:], "Good night."]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (("--session", "s1"), 1),
        (("--since", "2020-01-01"), 0),
        (("--since", "2020-01-01T10:00", "--until", "2090-01-01 10:00:00"), 0),
        (("--until", "2020-01-01T10:00:00.5+02:00"), 4),
        (("--session", "s2", "--since", "2020-01-01"), 3),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_erase_for_programs(deltamem, told, texts, options, left):
    dry = deltamem("erase", "alice", *options, "--dry-run", "--json", "--url", told).json
    receipt = deltamem("erase", "alice", "--yes", *options, "--json", "--url", told).json
    assert (dry["status"], receipt["status"]) == ("dry run", "complete")
    assert receipt["erased"][0]["ids"] == dry["erased"][0]["ids"]
    assert receipt["erased"][0]["messages"] == 4 - left == 4 - len(texts())
    assert receipt["state"]["checksum"] and receipt["outside_reach"]
    assert not any(fact in json.dumps(receipt) for fact in FACTS)


def test_ids_that_several_sessions_have(deltamem, url):
    with Store.open(url) as store:
        for session, text in zip("ab", FACTS, strict=False):
            store.append("alice", [{"role": "user", "content": text, "id": "1"}], session)

    def run(*options):
        return deltamem("erase", "alice", "--yes", "--id", "1", "--url", url, *options)

    for options in ((), ("--dry-run",), ("--json",), ("--since", "2020-01-01")):
        assert_refused(run(*options), "'1' is in 2 sessions: 'a', 'b'", "nothing was erased", "--session")
    deltamem("fork", "alice", "bob", "--url", url)
    receipt = run("--session", "b", "--json").json
    assert receipt["erased"][0]["ids"] == receipt["held_by"]["bob"] == [{"session": "b", "id": "1"}]
    entries = deltamem("log", "--agent", "alice", "--url", url, "--json").json
    assert [(each["session"], each["id"]) for each in entries] == [("a", "1")]
    added = deltamem("diff", "alice", "0", "--url", url, "--json").json["added"]
    assert [(each["session"], each["id"]) for each in added] == [("a", "1")]
    records = deltamem("recall", "dog", "--agent", "bob", "--url", url, "--json", *PLAIN).json["records"]
    assert [(each["session"], each["message_id"]) for each in records if each["text"] == FACTS[0]] == [("a", "1")]
    assert run().code == 0 and deltamem("log", "--agent", "alice", "--url", url, "--json").json == []


def test_times_of_the_log_can_be_given(deltamem, told, texts):
    times = [each["created_at"] for each in deltamem("log", "--agent", "alice", "--url", told, "--json").json]
    deltamem("erase", "alice", "--yes", "--since", times[-1], "--url", told)
    assert texts() == list(FACTS)


def test_what_cannot_be_erased(deltamem, told, texts):
    assert_refused(
        deltamem("erase", "alice", "--yes", "--url", told), "--id, --session, --since or --until", "deltamem delete"
    )
    assert_refused(
        deltamem("erase", "alice", "--yes", "--since", "2026-02-01", "--until", "2026-01-01", "--url", told), "before"
    )
    assert_refused(deltamem("erase", "nobody", "--yes", "--session", "s1", "--url", told), "no agent 'nobody'")
    done = deltamem("erase", "alice", "--yes", "--since", "yesterday", "--url", told)
    assert done.code == 2 and "yesterday" in done.err and "2026-01-31" in done.err
    assert len(texts()) == 4


@pytest.mark.slow  # waits for a reader three times
def test_a_pending_erasure_and_its_end(deltamem, told, tmp_path):
    import sqlite3

    reader = sqlite3.connect(tmp_path / "memory.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM deltamem_messages").fetchone()
    done = deltamem("erase", "alice", "--yes", "--session", "s2", "--url", told)
    assert done.code == 0 and "'deltamem db purge' finishes it" in done.out
    later = deltamem("db", "purge", "--url", told)
    assert later.code == 1 and "not yet" in later.out
    assert deltamem("db", "purge", "--url", told, "--json").json["pending"]
    reader.close()
    assert deltamem("db", "purge", "--url", told).out == "no erased data is left in the files\n"
    assert deltamem("db", "purge", "--url", told, "--json").json == {"pending": None}
    assert b"Good night" not in (tmp_path / "memory.db").read_bytes()


def test_delete(deltamem, told):
    deltamem("fork", "alice", "bob", "--url", told)
    dry = deltamem("delete", "alice", "--dry-run", "--url", told)
    assert "4 messages" in dry.out and "would be erased" in dry.out
    assert len(deltamem("agents", "--url", told, "--json").json) == 2
    receipt = deltamem("delete", "alice", "--yes", "--forks", "--json", "--url", told).json
    assert [each["messages"] for each in receipt["erased"]] == [4, 4]
    (left,) = deltamem("agents", "--url", told, "--json").json
    assert (left["id"], left["messages"]) == ("bob", 0)
    assert_refused(deltamem("delete", "alice", "--yes", "--url", told), "no agent 'alice'")
    assert "agent 'bob': 0 messages" in deltamem("delete", "bob", "--yes", "--url", told).out
    assert deltamem("agents", "--url", told, "--json").json == []


def test_export_and_import(deltamem, told, texts, tmp_path):
    done = deltamem("export", "alice", "alice.zip", "--url", told)
    assert (done.code, done.out) == (0, "4 messages of agent 'alice' written to alice.zip\n")
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert deltamem("import", "alice.zip", "--url", other).out == "agent 'alice' has 4 messages now\n"
    made = deltamem("import", "alice.zip", "--agent", "bob", "--url", other, "--json").json
    assert (made["id"], made["messages"]) == ("bob", 4)
    assert deltamem("verify", "bob", "--url", other).code == 0
    assert_refused(deltamem("import", "alice.zip", "--url", other), "'alice' exists", "another name")
    assert deltamem("export", "alice", "alice.zip", "--url", told, "--json", "--force").json["messages"] == 4
    assert_refused(deltamem("export", "nobody", "b.zip", "--url", told), "no agent 'nobody'")
    assert_refused(deltamem("export", "alice", "no/such/a.zip", "--url", told), "no/such/a.zip", "folder")
    assert_refused(deltamem("import", "nowhere.zip", "--url", told), "nowhere.zip")
    (tmp_path / "half.zip").write_bytes((tmp_path / "alice.zip").read_bytes()[:-200])
    assert_refused(deltamem("import", "half.zip", "--agent", "carol", "--url", told), "half.zip")
    assert len(deltamem("agents", "--url", told, "--json").json) == 1


def test_names_that_look_like_markup_or_escapes(deltamem, url):
    name = "[bold] \x07x"
    deltamem("write", "Hello.", "--agent", name, "--url", url, *PLAIN)
    for command in (
        ("fork", name, "b"),
        ("rollback", name, 0),
        ("erase", name, "--yes", "--since", "2020-01-01"),
        ("delete", name, "--yes"),
    ):
        done = deltamem(*command, "--url", url)
        assert done.code == 0 and "\x07" not in done.out
    assert "\x07" not in deltamem("rollback", name, 0, "--url", url).err


def test_health(deltamem, told, tmp_path):
    plain = deltamem("health", "alice", "--url", told)
    assert plain.code == 0 and "4 messages, all folded" in plain.out and "fullness" in plain.out and not plain.err
    pytest.importorskip("matplotlib", reason="draws the state")
    done = deltamem("health", "alice", "--url", told, "--examine", "--json", "--plot", str(tmp_path / "state.svg"))
    assert done.json["drift"]["worst"] < 1e-4 and len(done.json["layers"]) == 2
    assert "<svg" in (tmp_path / "state.svg").read_text()
    assert_refused(deltamem("health", "alice", "--url", told, "--plot", "state.jpg"), "state.jpg", ".png or .svg")
    assert_refused(deltamem("health", "nobody", "--url", told), "nobody")
