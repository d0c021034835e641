"""Time travel, erasure and moving house, as a user sees them. What is live decides; the rest is as if it never was."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256

import pytest
import torch
from sqlalchemy import create_engine, update

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ArchiveError, ConfigError, StateMismatchError, StoreError, UnknownAgentError
from deltamem_agents.memory import Difference, Drift, Health
from deltamem_agents.memory.history import distances
from deltamem_agents.store.codec import encode
from deltamem_agents.store.revisions import checksum_of
from deltamem_agents.store.schema import RevisionRow
from deltamem_agents.training.conversations import Shape, converse
from tests.databases import execute

SAME = 1e-4  # relative, float32
START = datetime(2026, 1, 1, tzinfo=UTC)


def told(seed: int = 1, facts: int = 6, filler: int = 4) -> list[dict]:
    """A conversation of several segments; messages have the ids m1, m2, … and are a minute apart."""
    conversation = converse(random.Random(seed), Shape(facts=facts, filler=filler, changed=1))
    return [
        {"role": role, "content": text, "id": f"m{number}", "created_at": START + timedelta(minutes=number)}
        for number, (role, text) in enumerate(conversation.messages, 1)
    ]


def tell(agent, messages=None) -> None:
    """Two thirds in session s1, the rest in s2."""
    messages = told() if messages is None else messages
    cut = 2 * len(messages) // 3
    agent.write(messages[:cut], "s1")
    agent.write(messages[cut:], "s2")


@pytest.fixture
def agent(mem):
    tell(mem.agent("a"))
    return mem.agent("a")


@pytest.fixture
def fresh(mem):
    """The state of an agent that was told these entries and never anything else."""
    made: list[str] = []

    def state(entries):
        other = mem.agent(f"fresh {len(made)}")
        made.append(other.id)
        for entry in entries:
            other.write([{"role": entry.role, "content": entry.content}], entry.session, wait=False)
        return other.state() or mem.engine.zero_state()

    return state


def same(a, b) -> bool:
    """Whether two states are one, up to what comes of how text was cut into forwards."""
    size = sum(float(tensor.norm()) for tensor in b.values())
    gap = sum(float((a[name] - tensor).norm()) for name, tensor in b.items())
    return a.keys() == b.keys() and gap <= SAME * size


def texts(entries) -> list[str]:
    return [entry.text for entry in entries]


# The journal as it stood


def test_log_and_state_at_any_position_are_those_of_then(agent, fresh) -> None:
    agent.write([{"role": "user", "content": "Another version.", "id": "m2"}], "s1")
    agent.rollback(5)
    agent.write([{"role": "user", "content": "After the rollback.", "id": "m3"}], "s1")
    end = agent.log()[-1].position
    assert len(agent.log()) == 5 and "After the rollback." in texts(agent.log())
    seen = []
    for position in range(end + 1):
        entries = agent.log(at=position)
        seen.append(texts(entries))
        assert all(entry.position <= position for entry in entries)
        if position % 4 == 0 or position > end - 4:
            assert same(agent.state(at=position), fresh(entries)), position
    assert seen[:4] == [texts(agent.log(at=3))[:number] for number in range(4)]
    assert seen[end] == texts(agent.log()) and seen[end - 1] == seen[5]
    assert len(seen[end - 2]) == len(told())  # with the other version of m2
    assert {entry.session for entry in agent.log("s1", at=end - 2)} == {"s1"}


@pytest.mark.parametrize("bad", [-1, -100, 10**6, True, 1.0, "1"])
def test_positions_that_are_none_are_refused(agent, bad) -> None:
    before = agent.log()
    for call in (
        lambda: agent.log(at=bad),
        lambda: agent.state(at=bad),
        lambda: agent.rollback(bad),
        lambda: agent.diff(bad),
        lambda: agent.diff(0, bad),
    ):
        with pytest.raises(ConfigError, match=r"position .* of agent 'a'.* from 0 to"):
            call()
    assert agent.log() == before


def test_unknown_agents(mem, tmp_path) -> None:
    nobody = mem.agent("nobody")
    assert (nobody.log(at=3), nobody.state(at=3), nobody.rebuild(), nobody.sessions()) == ([], {}, {}, [])
    assert nobody.verify() == Drift(position=0, layers={}) and nobody.verify().worst == 0
    assert nobody.health() == Health()
    for call in (
        lambda: nobody.fork("other"),
        lambda: nobody.rollback(0),
        lambda: nobody.diff(0),
        lambda: nobody.erase(session="s1"),
        lambda: nobody.erase(session="s1", dry_run=True),
        lambda: nobody.delete(),
        lambda: mem.export("nobody", tmp_path / "nobody.zip"),
    ):
        with pytest.raises(UnknownAgentError, match="nobody"):
            call()
    assert mem.agents() == [] and list(tmp_path.glob("nobody*")) == []


# Fork, rollback, diff


def test_a_fork_has_all_and_shares_nothing(mem, agent, runs) -> None:
    seen = runs(mem)
    other = agent.fork("b")
    assert (other.id, type(other)) == ("b", type(agent))
    assert texts(other.log()) == texts(agent.log()) and other.sessions() == agent.sessions()
    assert same(other.state(), agent.state()) and seen == []  # its states came with it
    before = agent.state()
    other.write([{"role": "user", "content": "The secret word is xylograph."}], "s2")
    assert "xylograph" in other.recall("What is the secret word?", generate=False).text
    assert "xylograph" not in agent.recall("What is the secret word?", generate=False).text
    assert same(agent.state(), before) and not same(other.state(), before)
    with pytest.raises(ConfigError, match="'b' exists"):
        agent.fork("b")


def test_a_rollback_and_its_undoing(agent, fresh) -> None:
    all_of_it, whole = agent.log(), agent.state()
    question = next(entry.text for entry in reversed(all_of_it) if entry.role == "user")
    entry = agent.rollback(4)
    assert entry == all_of_it[-1].position + 1
    assert agent.log() == all_of_it[:4] and same(agent.state(), fresh(all_of_it[:4]))
    assert all(record.position <= 4 for record in agent.recall(question, generate=False).records)
    assert agent.rollback(entry - 1) == entry + 1
    assert agent.log() == all_of_it and same(agent.state(), whole)
    assert agent.recall(question, k=1, generate=False).records[0].text == question
    assert agent.rollback(entry + 1) == entry + 1  # nothing changes: no entry is made
    agent.rollback(0)
    assert agent.log() == [] and not any(tensor.any() for tensor in agent.state().values())


def test_diff_says_what_came_what_went_and_how_far_the_state_moved(mem, agent) -> None:
    end = agent.log()[-1].position
    found = agent.diff(3)
    assert isinstance(found, Difference)
    assert texts(found.added) == texts(agent.log()[3:]) and found.removed == []
    assert found.layers.keys() == agent.state().keys() and all(value > 1e-3 for value in found.layers.values())
    back = agent.diff(end, 3)
    assert back.removed == found.added and back.added == []
    assert agent.diff(5, 5).layers == dict.fromkeys(agent.state(), 0.0)
    from_nothing = agent.diff(0, 3)  # relative to nothing: the size itself
    for name, value in from_nothing.layers.items():
        assert value == pytest.approx(float(agent.state(at=3)[name].norm()), rel=1e-4)
    rolled = agent.rollback(3)
    agent.write([{"role": "user", "content": "Another way."}], "s1")
    across = agent.diff(rolled - 1)
    assert texts(across.added) == ["Another way."] and across.removed == found.added


# Rebuild, verify, health


def test_verify_finds_a_state_that_is_not_the_journals(mem, agent) -> None:
    good = agent.verify()
    assert good.position == len(told()) and good.layers.keys() == agent.state().keys()
    assert good.worst < SAME
    before = agent.state()
    wrong = encode({name: tensor + 1.0 for name, tensor in before.items()})
    execute(mem.store, update(RevisionRow).values(state=wrong, checksum=checksum_of(wrong)))
    assert agent.verify().worst > 0.1
    assert not same(agent.state(), before)
    assert same(agent.rebuild(), before)
    assert agent.verify().worst < SAME
    assert same(agent.state(), before)


def test_verify_and_looking_back_store_nothing(mem, agent) -> None:
    before = [(each.position, each.checksum) for each in mem.store.states.revisions("a")]
    agent.verify(), agent.state(at=7), agent.diff(1, 9)
    assert [(each.position, each.checksum) for each in mem.store.states.revisions("a")] == before


def test_health(mem, agent) -> None:
    health = agent.health()
    count = len(told())
    assert (health.messages, health.position, health.unfolded) == (count, count, 0)
    assert health.revisions == len(mem.store.states.revisions("a")) and health.state_bytes >= mem.engine.state_bytes
    assert abs(health.folded_at - datetime.now(UTC)) < timedelta(minutes=5)
    mem.store.append("a", [{"role": "user", "content": "Not folded yet."}], "s1")
    assert (agent.health().unfolded, agent.health().messages) == (1, count + 1)
    agent.state()
    assert agent.health().unfolded == 0
    agent.rollback(2)
    rolled = agent.health()
    assert (rolled.messages, rolled.position, rolled.epoch) == (2, count + 2, health.epoch + 1)
    assert json.loads(json.dumps(agent.health().as_dict()))["messages"] == 2


# Erasure


@pytest.mark.parametrize(
    ("chosen", "gone"),
    [
        ({"ids": ["m3"]}, [3]),  # in the middle of a segment
        ({"ids": ["m1"]}, [1]),
        ({"ids": [f"m{len(told())}"]}, [len(told())]),  # the last
        ({"ids": ["m5", "m9", "m9", "nothing"]}, [5, 9]),
        ({"session": "s2"}, range(2 * len(told()) // 3 + 1, 99)),
        ({"session": "s1"}, range(1, 2 * len(told()) // 3 + 1)),
        ({"since": START + timedelta(minutes=4), "until": START + timedelta(minutes=8)}, range(4, 8)),
        ({"since": datetime(2026, 1, 1, 0, 10)}, range(10, 99)),  # without a zone: UTC
        ({"until": datetime(2026, 1, 1, 1, 4, tzinfo=timezone(timedelta(hours=1)))}, range(1, 4)),
        ({"session": "s1", "ids": ["m1", f"m{len(told())}"]}, [1]),  # what fulfils both
        ({"session": "s1", "until": START + timedelta(minutes=3)}, [1, 2]),
        ({"since": START}, range(1, 99)),  # all
        ({"ids": ["nothing"]}, []),
    ],
    ids=lambda value: None if isinstance(value, list | range) else " ".join(value),
)
def test_after_an_erasure_the_agent_never_saw_it(mem, agent, fresh, chosen, gone) -> None:
    left = [entry for entry in agent.log() if entry.position not in gone]
    erased = [entry for entry in agent.log() if entry.position in gone]
    before = agent.state()
    receipt = agent.erase(**chosen)
    assert receipt.status == "complete" and receipt.ids == tuple(entry.ref for entry in erased)
    assert receipt.erased[0].messages == len(erased) == receipt.erased[0].records
    assert agent.log() == left
    assert same(agent.state(), fresh(left))
    assert agent.verify().worst < SAME
    assert same(agent.state(), before) == (not erased)
    for entry in erased:
        assert entry.id not in [each.message_id for each in agent.recall(entry.text, k=50, generate=False).records]


def test_erasing_the_message_before_a_segment_moves_the_cuts(mem, fresh) -> None:
    """Every message alone: which messages share a segment changes with each."""
    for number in range(1, len(told()) + 1, 5):
        agent = mem.agent(f"agent {number}")
        tell(agent)
        agent.erase(ids=[f"m{number}"])
        assert same(agent.state(), fresh(agent.log())), number


def test_what_an_erased_message_had_replaced_is_live_again(mem, fresh) -> None:
    agent = mem.agent("a")
    agent.write([{"role": "user", "content": "My dog is Rex.", "id": "dog", "created_at": START}])
    agent.write([{"role": "user", "content": "I live in Oslo."}])
    agent.write([{"role": "user", "content": "My dog is Luna.", "id": "dog", "created_at": START + timedelta(days=1)}])
    agent.erase(since=START + timedelta(hours=1), until=START + timedelta(days=2))
    assert texts(agent.log()) == ["My dog is Rex.", "I live in Oslo."]
    assert same(agent.state(), fresh(agent.log()))
    assert "Rex" in agent.recall("dog", generate=False).text
    agent.write([{"role": "user", "content": "My dog is Mia.", "id": "dog"}])
    assert len(agent.erase(ids=["dog"]).erased[0].hashes) == 2  # every version of it
    assert texts(agent.log()) == ["I live in Oslo."]


def test_what_was_rolled_back_can_be_erased(agent) -> None:
    agent.rollback(2)
    receipt = agent.erase(since=START + timedelta(minutes=3))
    assert receipt.erased[0].messages == len(told()) - 2 and len(agent.log()) == 2
    assert agent.verify().worst < SAME


def test_a_receipt_names_ids_and_hashes_and_no_text(mem, agent) -> None:
    text = agent.log()[2].text
    before = checksum_of(encode(agent.state()))
    first = mem.agent("b")
    tell(first)
    receipt = agent.erase(ids=["m3"])
    told_of = json.loads(receipt.json())
    assert told_of == receipt.as_dict()
    assert told_of["agent"] == "a" and told_of["status"] == "complete" and told_of["reason"] is None
    assert datetime.fromisoformat(told_of["at"]).tzinfo and len(told_of["id"]) == 32
    (erased,) = told_of["erased"]
    assert (erased["ids"], erased["messages"], erased["records"]) == ([{"session": "s1", "id": "m3"}], 1, 1)
    assert erased["revisions"] > 0
    assert len(erased["hashes"][0]) == 64 and text not in receipt.json()
    # The same message erased elsewhere has another hash: the key is gone, so nobody can try guesses on it.
    assert first.erase(ids=["m3"]).erased[0].hashes != receipt.erased[0].hashes
    assert told_of["state"]["before"] not in (None, before, told_of["state"]["after"])
    assert told_of["state"]["checksum"] == checksum_of(encode(agent.state()))
    assert told_of["state"]["after"] != told_of["state"]["checksum"]
    assert "backups" in told_of["outside_reach"][0]


def test_a_dry_run_says_the_same_and_changes_nothing(mem, agent) -> None:
    health, log = agent.health(), agent.log()
    would = agent.erase(session="s2", dry_run=True)
    assert agent.delete(dry_run=True).erased[0].messages == len(log)
    assert (would.status, would.reason) == ("dry run", None)
    assert (agent.health(), agent.log()) == (health, log)
    assert would.state.before is not None and would.state.before == would.state.after
    did = agent.erase(session="s2")
    assert [(each.ids, each.messages, each.records) for each in did.erased] == [
        (each.ids, each.messages, each.records) for each in would.erased
    ]


def test_an_erasure_that_nobody_waits_for_is_folded_by_the_next_use(agent, fresh) -> None:
    agent.state()
    receipt = agent.erase(ids=["m2"], wait=False)
    assert (
        receipt.status == "complete" and receipt.state.before and receipt.state.after is receipt.state.checksum is None
    )
    assert agent.health().unfolded > 0 and "m2" not in [entry.id for entry in agent.log()]
    assert same(agent.state(), fresh(agent.log()))


def test_forks_are_listed_or_erased_too(mem, agent, fresh) -> None:
    middle = agent.fork("b")
    last = middle.fork("c")
    last.rollback(1)
    middle.erase(ids=["m4"])
    tell(mem.agent("stranger"))  # who was told the same, and is no fork
    receipt = agent.erase(ids=["m2", "m4"])
    assert receipt.held_by == {"b": [("s1", "m2")], "c": [("s1", "m2"), ("s1", "m4")]}
    assert receipt.as_dict()["held_by"]["b"] == [{"session": "s1", "id": "m2"}]
    assert [each.agent for each in receipt.erased] == ["a"]
    assert "m2" in [entry.id for entry in middle.log()]
    listed = middle.erase(ids=["m2"], forks=True)
    assert [(each.agent, each.ids) for each in listed.erased] == [
        ("b", (("s1", "m2"),)),
        ("c", (("s1", "m2"),)),
    ]
    assert listed.held_by == {}
    for each in (agent, middle, last):
        assert "m2" not in [entry.id for entry in each.log()]
        assert same(each.state(), fresh(each.log())) if each.log() else True
    assert len(mem.agent("stranger").log()) == len(told())


def test_a_message_that_a_fork_says_otherwise_is_not_held_by_it(agent) -> None:
    other = agent.fork("b")
    other.erase(ids=["m1"])
    other.write([{"role": "user", "content": "Something of its own.", "id": "m1"}], "s1")
    assert agent.erase(ids=["m1"], forks=True).held_by == {}
    assert "Something of its own." in texts(other.log())


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({}, "delete"),
        ({"ids": "m1"}, "list of message ids"),
        ({"ids": [1]}, "list of message ids"),
        ({"since": "2026-01-01"}, "since is '2026-01-01'"),
        ({"until": 5}, "until is 5"),
        ({"since": START, "until": START}, "not before"),
    ],
    ids=str,
)
def test_what_cannot_be_erased_erases_nothing(agent, chosen, words) -> None:
    with pytest.raises(ConfigError, match=words):
        agent.erase(**chosen)
    assert len(agent.log()) == len(told())


@pytest.mark.slow  # waits for a reader twice
def test_files_that_a_reader_holds_are_cleaned_later(mem, agent, tmp_path) -> None:
    agent.write([{"role": "user", "content": "The code is quizzaciously.", "id": "code"}])
    reader = sqlite3.connect(tmp_path / "memory.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM deltamem_messages").fetchone()
    receipt = agent.erase(ids=["code"])
    assert receipt.status == "pending" and receipt.reason
    assert mem.purge() is not None
    reader.close()
    assert mem.purge() is None and mem.purge() is None
    for file in tmp_path.iterdir():
        assert b"quizzacious" not in file.read_bytes().lower()


def test_a_receipt_is_given_also_where_the_files_cannot_be_cleaned_now(mem, agent, monkeypatch) -> None:
    def gone(**_: object) -> None:
        raise StoreError("cannot purge: the connection was lost")

    monkeypatch.setattr(mem.store, "purge", gone)
    receipt = agent.erase(ids=["m1"])
    assert (receipt.status, receipt.ids) == ("pending", (("s1", "m1"),)) and "lost" in receipt.reason


def test_a_damaged_state_does_not_keep_from_erasing(mem, agent, fresh) -> None:
    execute(mem.store, update(RevisionRow).values(state=b"x" * 64))
    with pytest.raises(StateMismatchError):
        agent.state()
    receipt = agent.erase(ids=[agent.log()[-1].id])
    assert receipt.status == "complete" and receipt.state.checksum
    assert same(agent.state(), fresh(agent.log()))


def test_delete(mem, agent, runs) -> None:
    tell(mem.agent("b"))
    other = agent.fork("c")
    refs = [entry.ref for entry in agent.log()]
    receipt = agent.delete()
    assert receipt.erased[0].messages == len(told()) and receipt.state.before and receipt.state.after is None
    assert receipt.held_by == {"c": refs} and len(refs) == len(told())
    assert [info.id for info in mem.agents()] == ["b", "c"]
    assert (agent.log(), agent.state(), agent.health()) == ([], {}, Health())
    with pytest.raises(UnknownAgentError):
        agent.delete()
    first = {"role": "user", "content": "Hello again."}
    seen = runs(mem)
    agent.write([first])
    assert texts(agent.log()) == ["Hello again."]
    assert seen == [len(mem.engine.rendering.message("user", "Hello again."))]
    assert other.delete(forks=True).erased[0].messages == len(told())
    assert [info.id for info in mem.agents()] == ["a", "b"]


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted and told anew"])
def test_a_fold_that_ends_after_the_deletion_stores_nothing(mem, open_mem, fresh, monkeypatch, again) -> None:
    secret = [{"role": "user", "content": "The secret word is xylograph."}] * 3
    mem.store.append("a", secret, "s1")
    other = open_mem(hot_bytes=0)
    folding, deleted = threading.Event(), threading.Event()
    fold = other.engine.fold

    def slow(*args, **given):
        folding.set()
        assert deleted.wait(30)
        return fold(*args, **given)

    monkeypatch.setattr(other.engine, "fold", slow)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(other.agent("a").state)
        assert folding.wait(30)
        mem.agent("a").delete()
        if again:
            mem.agent("a").write([{"role": "user", "content": f"Message {number}."} for number in range(3)], "s1")
        deleted.set()
        late.result(60)
    monkeypatch.undo()
    assert [info.id for info in mem.agents()] == (["a"] if again else [])
    for each in (mem, other):
        assert same(each.agent("a").state(), fresh(mem.agent("a").log())) if again else each.agent("a").state() == {}


def test_a_fold_that_ends_after_an_erasure_stores_nothing(mem, open_mem, fresh, monkeypatch) -> None:
    mem.store.append("a", told(), "s1")
    other = open_mem(hot_bytes=0)
    fold = other.engine.fold

    def erased_meanwhile(*args, **given):
        monkeypatch.setattr(other.engine, "fold", fold)
        done = fold(*args, **given)
        done.result()
        mem.agent("a").erase(ids=["m2"])
        return done

    monkeypatch.setattr(other.engine, "fold", erased_meanwhile)
    other.agent("a").state()
    wanted = fresh(mem.agent("a").log())
    assert same(mem.agent("a").state(), wanted) and same(other.agent("a").state(), wanted)


# Sessions that number their messages alike


@pytest.fixture
def numbered(mem):
    agent = mem.agent("numbered")
    for session, said in {"a": ["My locker is 4417.", "Noted."], "b": ["I like tea.", "Noted."]}.items():
        messages = [{"role": "user", "content": text, "id": str(number)} for number, text in enumerate(said, 1)]
        assert agent.write(messages, session) == ["1", "2"]
        assert agent.write(messages, session) == ["1", "2"]  # a no-op
    return agent


def test_ids_are_unique_within_their_session(numbered, fresh) -> None:
    assert [(*entry.ref, entry.text) for entry in numbered.log()] == [
        ("a", "1", "My locker is 4417."),
        ("a", "2", "Noted."),
        ("b", "1", "I like tea."),
        ("b", "2", "Noted."),
    ]
    assert same(numbered.state(), fresh(numbered.log()))
    numbered.write([{"role": "user", "content": "I like coffee.", "id": "1"}], "b")
    assert texts(numbered.log("a")) == ["My locker is 4417.", "Noted."]
    assert [entry.ref for entry in numbered.diff(4).added] == [("b", "1")]
    assert [entry.ref for entry in numbered.diff(4).removed] == [("b", "1")]
    assert same(numbered.state(), fresh(numbered.log()))


@pytest.mark.parametrize("options", [{}, {"dry_run": True}, {"forks": True}, {"since": START}], ids=str)
def test_an_id_alone_that_several_sessions_have_erases_nothing(numbered, options) -> None:
    before, health = numbered.log(), numbered.health()
    with pytest.raises(ConfigError, match=r"'1' is in 2 sessions: 'a', 'b'; nothing was erased.*\('a', '1'\)"):
        numbered.erase(ids=["1"], **options)
    assert (numbered.log(), numbered.health()) == (before, health)


@pytest.mark.parametrize("how", ["session", "pair", "entry", "record", "receipt"])
def test_a_message_of_one_of_them_is_erased(numbered, fresh, how) -> None:
    entry = next(entry for entry in numbered.log("b") if entry.id == "1")
    if how == "session":
        receipt = numbered.erase(ids=["1"], session="b")
    elif how == "pair":
        receipt = numbered.erase(ids=[("b", "1")])
    elif how == "entry":
        receipt = numbered.erase(ids=[entry.ref])
    elif how == "record":
        (record,) = (each for each in numbered.recall("tea", generate=False).records if "tea" in each.text)
        receipt = numbered.erase(ids=[record.ref])
    else:
        receipt = numbered.erase(ids=numbered.erase(ids=[entry.ref], dry_run=True).ids)
    assert receipt.ids == (("b", "1"),) and receipt.ids[0].session == "b"
    assert [entry.ref for entry in numbered.log()] == [("a", "1"), ("a", "2"), ("b", "2")]
    assert same(numbered.state(), fresh(numbered.log()))


# Export and import


def test_an_export_is_usable_elsewhere(mem, agent, open_mem, runs, tmp_path) -> None:
    agent.write([{"role": "user", "content": "Another version.", "id": "m2", "metadata": {"page": 3}}], "s1")
    agent.rollback(9)
    agent.write([{"role": "user", "content": "Mara plays the cello."}], "s3")
    steps: list[tuple[str, int, int]] = []
    count = mem.export("a", tmp_path / "a.deltamem", progress=lambda *step: steps.append(step))
    assert count == len(told()) + 2 and steps
    elsewhere = open_mem(url=f"sqlite:///{tmp_path / 'other.db'}")
    seen = runs(elsewhere)
    made = elsewhere.import_(tmp_path / "a.deltamem", progress=lambda *step: steps.append(step))
    named = elsewhere.import_(str(tmp_path / "a.deltamem"), agent="b")
    assert (made.id, named.id) == ("a", "b")
    for each in (made, named):
        assert each.log() == agent.log() and each.sessions() == agent.sessions()
        assert same(each.state(), agent.state()) and each.verify().worst < SAME
        assert "cello" in each.recall("Which instrument does Mara play?", generate=False).text
        assert each.log(at=len(told())) == agent.log(at=len(told()))
    del seen[:]
    third = elsewhere.import_(tmp_path / "a.deltamem", agent="c")
    assert third.health().unfolded == len(agent.log()) and seen == []
    third.state()
    assert seen  # states of a file are not believed: its journal is folded, once
    del seen[:]
    assert same(third.state(), agent.state()) and seen == []
    named.write([{"role": "user", "content": "Only here."}])
    assert "Only here." not in texts(made.log())


def test_files_that_cannot_be_imported_leave_nothing(mem, agent, tmp_path) -> None:
    mem.export("a", tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("These are notes.")
    for name in ("half.zip", "notes.txt", "nowhere.zip"):
        with pytest.raises(ArchiveError, match=name):
            mem.import_(tmp_path / name, agent="b")
    with pytest.raises(ConfigError, match="'a' exists"):
        mem.import_(tmp_path / "a.zip")
    with pytest.raises(StoreError, match="folder"):
        mem.export("a", tmp_path / "no" / "such" / "folder.zip")
    assert [info.id for info in mem.agents()] == ["a"]


# Databases


def test_an_engine_of_the_callers_own_stays_open(tmp_path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    with DeltaMem.open(engine=engine, embedder=False) as mem:
        tell(mem.agent("a"))
        assert mem.agent("a").erase(ids=["m1"]).status == "complete"
    with engine.connect() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM deltamem_messages").scalar()
    assert count == len(told()) - 1
    with pytest.raises(ConfigError, match="both"):
        DeltaMem.open(engine=engine, url="sqlite://", embedder=False)
    engine.dispose()


@pytest.mark.parametrize("schema", [None, "memories"])
def test_postgresql(postgresql_url, open_mem, fresh, mem, schema) -> None:
    url = postgresql_url()
    first, second = (open_mem(url=url, schema=schema) for _ in range(2))
    agent, there = first.agent("a"), second.agent("a")
    tell(agent)
    there.write([{"role": "user", "content": "Mara plays the cello.", "id": "cello"}], "s3")
    agent.write([{"role": "user", "content": "The Wi-Fi password is heron-42-lake."}], "s3")
    assert texts(agent.log()) == texts(there.log())
    assert same(agent.state(), there.state()) and same(agent.state(), fresh(agent.log()))
    found = there.recall("Which instrument does Mara play?", mode="hybrid", k=2)
    assert "Mara plays the cello." in found.text and found.usage.answer_tokens and found.usage.state_bytes
    end = agent.log()[-1].position
    entry = agent.rollback(5)
    assert len(there.log()) == 5 and same(there.state(), fresh(there.log()))
    there.rollback(entry - 1)
    assert agent.log()[-1].position == end
    receipt = agent.erase(ids=["cello"])
    assert receipt.status == "complete" and "write-ahead log" in receipt.outside_reach[0]
    assert same(there.state(), fresh(agent.log())) and same(agent.state(), there.state())
    assert "cello" not in there.recall("Which instrument does Mara play?", generate=False).text


def test_sqlite_has_no_schemas(open_mem) -> None:
    with pytest.raises(ConfigError, match="schema"):
        open_mem(schema="memories")


@pytest.mark.parametrize("bad", ["thick", 0, -1, True, None])
def test_retentions_that_are_none_are_refused(open_mem, bad) -> None:
    with pytest.raises(ConfigError, match="retention"):
        open_mem(retention=bad)


def test_states_have_no_batch_axis_and_are_float32(agent) -> None:
    for state in (agent.state(), agent.state(at=3), agent.rebuild()):
        assert {tensor.dtype for tensor in state.values()} == {torch.float32}
        assert {tensor.dim() for tensor in state.values()} == {2}


def test_what_was_said_around_a_record(mem) -> None:
    agent = mem.agent("n")
    for session in ("s1", "s2"):
        agent.write(
            [{"role": "user", "content": f"{session}, message {i}, {'locker' * (i == 2)}"} for i in range(5)], session
        )
    record = agent.recall("locker", session="s2", k=1, generate=False).records[0]
    assert [entry.text[:14] for entry in agent.neighbours(record, 1)] == [f"s2, message {i}," for i in (1, 2, 3)]
    assert len(agent.neighbours(record, 9)) == 5 and len(agent.neighbours(record, 0)) == 1
    with pytest.raises(ConfigError, match="reach is -1"):
        agent.neighbours(record, -1)
    agent.erase(ids=[record.message_id])
    assert agent.neighbours(record) == []


@pytest.mark.parametrize("value", [0.0, 1.0, 1e30])
def test_a_state_in_a_file_that_is_not_that_of_its_journal_is_never_read(mem, agent, open_mem, tmp_path, value) -> None:
    """Whoever sends a file sends messages, not what the backbone is to think of them."""
    expected = agent.state()
    mem.export("a", tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    odd = encode({name: torch.full_like(tensor, value) for name, tensor in expected.items()})
    for name in [each for each in members if each.startswith("states/")]:
        members[name] = odd
        manifest["members"][name] = {"bytes": len(odd), "sha256": sha256(odd).hexdigest()}
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name, data in (members | {"manifest.json": json.dumps(manifest).encode()}).items():
            archive.writestr(name, data)

    made = open_mem(url=f"sqlite:///{tmp_path / 'other.db'}").import_(tmp_path / "odd.zip")

    assert expected and same(made.state(), expected) and made.verify().worst < SAME


def test_a_drift_that_is_not_finite_is_an_error(agent) -> None:
    state = agent.state()
    for value in (float("nan"), float("inf")):
        odd = {name: torch.full_like(tensor, value) for name, tensor in state.items()}
        for pair in ((odd, state), (state, odd)):
            with pytest.raises(StateMismatchError, match="not finite"):
                distances(*pair)
        assert Drift(position=1, layers={"a": value, "b": 0.0}).worst == float("inf")
        assert Drift(position=1, layers={"b": 0.0, "a": value}).worst == float("inf")
