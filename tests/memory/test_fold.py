"""State = fold(live journal): however the messages arrived, whoever folded them, whatever was stored on the way."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents import DeltaMem, tiny
from deltamem_agents.errors import StoreError
from deltamem_agents.training.conversations import Shape, converse
from tests.databases import execute

SAME = 1e-4  # relative, float32


def told(seed: int, facts: int = 6, filler: int = 4) -> list[dict]:
    conversation = converse(random.Random(seed), Shape(facts=facts, filler=filler, changed=1))
    return [{"role": role, "content": text} for role, text in conversation.messages]


def test_message_by_message_is_all_at_once(mem, distance) -> None:
    messages = told(1)
    for message in messages:
        mem.agent("slow").write([message], "s1")
    mem.agent("fast").write(messages, "s1")
    assert distance(mem.agent("slow").state(), mem.agent("fast").state()) < SAME


@pytest.mark.slow  # a dozen journals are folded twice
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_batches_and_sessions_give_the_same_state(data, open_mem, distance) -> None:
    messages = told(data.draw(st.integers(0, 99)), facts=10, filler=6)
    sessions = data.draw(st.lists(st.sampled_from(["s1", "s2"]), min_size=len(messages), max_size=len(messages)))
    mem = open_mem(url="sqlite://")
    at_once, pieces = mem.agent("at once"), mem.agent("pieces")
    for message, session in zip(messages, sessions, strict=True):
        at_once.write([message], session, wait=False)
        pieces.write([message], session, wait=False)
        if data.draw(st.booleans()):
            pieces.state()
    assert distance(pieces.state(), at_once.state()) < SAME
    mem.close()


@pytest.mark.slow  # several threads fold again and again
@pytest.mark.parametrize("database", ["sqlite://", None], ids=["in memory", "file"])
def test_threads_that_write_and_recall_one_agent_come_to_the_state_of_its_journal(open_mem, distance, database) -> None:
    mem = open_mem(**({"url": database} if database else {}))
    busy = mem.agent("busy")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # as on a machine with more cores

    def tell(seed: int) -> None:
        for i, message in enumerate(told(seed)):
            busy.write([message], f"s{seed % 2}", wait=i % 3 == 0)
            if i % 4 == 0:
                busy.recall("What is my dog?", mode="state")

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(tell, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert len(busy.log()) == sum(len(told(seed)) for seed in range(4))
    calm = mem.agent("calm")
    for entry in busy.log():
        calm.write([{"role": entry.role, "content": entry.text}], entry.session, wait=False)
    assert distance(busy.state(), calm.state()) < SAME


def test_writing_without_waiting_folds_in_the_background(mem) -> None:
    agent = mem.agent("a")
    for message in told(1):
        agent.write([message], "s1", wait=False)
    end = len(told(1))
    deadline = time.monotonic() + 30
    while not any(revision.position == end for revision in mem.store.states.revisions("a")):
        assert time.monotonic() < deadline, "nothing was folded"
        time.sleep(0.02)


@pytest.mark.parametrize(("retention", "most"), [(1, 2), (3, 4), ("all", 99)])
def test_a_long_journal_folds_only_its_tail_whatever_is_retained(
    open_mem, distance, monkeypatch, retention, most
) -> None:
    mem = open_mem(retention=retention)
    agent = mem.agent("a")
    for seed in range(12):
        agent.write(told(seed), f"s{seed // 4}")
    stored = len(mem.store.states.revisions("a"))
    assert stored <= most if isinstance(retention, int) else stored >= 12
    state = agent.state()
    folded: list[int] = []
    fold = mem.engine.fold

    def counted(state, segments, **more):
        folded.append(len(segments))
        return fold(state, segments, **more)

    monkeypatch.setattr(mem.engine, "fold", counted)
    agent.write([{"role": "user", "content": "Good night."}], "s2")
    assert folded == [1]
    monkeypatch.undo()
    other = mem.agent("b")
    for seed in range(12):
        other.write(told(seed), f"s{seed // 4}", wait=False)
    assert distance(state, other.state()) < SAME


def test_a_state_that_was_not_stored_is_folded_again(mem, open_mem, distance, monkeypatch) -> None:
    def crash(*_: object, **__: object) -> None:
        raise StoreError("gone")

    agent = mem.agent("a")
    agent.write(told(1)[:3], "s1")
    with monkeypatch.context() as patch:
        patch.setattr(mem.store.states, "commit", crash)
        agent.write(told(1)[3:], "s1")
    fresh = mem.agent("fresh")
    fresh.write(told(1), "s1")
    assert distance(open_mem().agent("a").state(), fresh.state()) < SAME


@pytest.mark.slow  # a process that imports torch
def test_another_process_folds_what_this_one_wrote(mem, url, distance) -> None:
    mem.agent("a").write(told(3), "s1", wait=False)
    here = mem.agent("a").state()
    script = (
        "import sys, torch; from deltamem_agents import DeltaMem\n"
        "with DeltaMem.open(sys.argv[2], adapter=sys.argv[3], url=sys.argv[1], embedder=False) as mem:\n"
        "    mem.agent('a').write([{'role': 'user', 'content': 'My dog is Rex.'}], 's1')\n"
        "    print(sum(float(t.abs().sum()) for t in mem.agent('a').state().values()))\n"
    )
    model = (str(tiny.FOLDER), str(tiny.FOLDER / "adapter"))
    ran = subprocess.run([sys.executable, "-c", script, url, *model], capture_output=True, text=True, check=True)
    there = float(ran.stdout)
    now = mem.agent("a").state()
    assert distance(now, here) > 1e-6
    assert sum(float(t.abs().sum()) for t in now.values()) == pytest.approx(there, rel=1e-4)


def test_a_damaged_state_is_refused_and_rebuilt(mem, distance) -> None:
    from sqlalchemy import update

    from deltamem_agents.errors import StateMismatchError
    from deltamem_agents.store.schema import RevisionRow

    agent = mem.agent("a")
    agent.write(told(2), "s1")
    before = agent.state()
    execute(mem.store, update(RevisionRow).values(state=b"x" * 64))
    with pytest.raises(StateMismatchError, match="deltamem rebuild a"):
        agent.state()
    assert distance(agent.rebuild(), before) < SAME
    assert distance(agent.state(), before) < SAME
    assert mem.agent("nobody").rebuild() == {}


def test_the_same_message_again_changes_nothing(mem, distance) -> None:
    agent = mem.agent("a")
    message = {"role": "user", "content": "My dog is Rex.", "id": "m1"}
    assert agent.write([message], "s1") == ["m1"]
    before = agent.state()
    assert agent.write([message], "s1") == ["m1"]
    assert len(agent.log()) == 1
    assert distance(agent.state(), before) == 0


def test_a_superseded_message_leaves_no_trace_in_the_state(mem, distance) -> None:
    edited, honest = mem.agent("edited"), mem.agent("honest")
    edited.write([{"role": "user", "content": "My dog is Rex.", "id": "m1"}], "s1")
    edited.write([{"role": "user", "content": "I live in Oslo.", "id": "m2"}], "s1")
    edited.write([{"role": "user", "content": "My dog is Luna.", "id": "m1"}], "s1")
    honest.write([{"role": "user", "content": "I live in Oslo."}], "s1")
    honest.write([{"role": "user", "content": "My dog is Luna."}], "s1")
    assert [entry.text for entry in edited.log()] == ["I live in Oslo.", "My dog is Luna."]
    assert distance(edited.state(), honest.state()) < SAME
    assert "Rex" not in edited.recall("What is my dog?", generate=False).text


def test_answering_writes_nothing(mem, distance) -> None:
    agent = mem.agent("a")
    agent.write(told(5), "s1")
    before = agent.state()
    for mode in ("state", "vector", "hybrid"):
        agent.recall("What is my dog?", mode=mode)
    agent.generate([{"role": "user", "content": "Which colour do I like best?"}])
    assert distance(agent.state(), before) == 0
    assert len(agent.log()) == len(told(5))


def test_blocks_without_text_are_kept_and_not_folded(mem, distance) -> None:
    agent, plain = mem.agent("a"), mem.agent("b")
    image = {"type": "image", "url": "https://example.org/dog.png"}
    agent.write([{"role": "user", "content": [image]}], "s1")
    agent.write([{"role": "user", "content": [{"type": "text", "text": "My dog is Rex."}, image]}], "s1")
    agent.write([{"role": "user", "content": [image]}], "s1")
    plain.write([{"role": "user", "content": "My dog is Rex."}], "s1")
    assert distance(agent.state(), plain.state()) < SAME
    assert agent.log()[0].content == [image]


def test_what_is_not_folded_leaves_no_trace_in_the_state(mem, distance, tmp_path) -> None:
    """Written one by one or at once, forked, imported, erased, rolled back and folded anew; the fold reads no more."""
    output = {"role": "tool", "content": "Of all harbours, the deepest is in Narvik. " * 500}
    said = told(1)[:6]
    mixed = [output, *said[:2], output, output, *said[2:], {**said[0], "folded": False}, output]
    plain, slow, fast = (mem.agent(name) for name in ("plain", "slow", "fast"))
    plain.write(said, "s1")
    expected, before = plain.state(), mem.stats().engine.tokens_read
    for message in mixed:
        slow.write([message], "s1", wait=message is not output)
    fast.write(mixed, "s1")
    assert mem.stats().engine.tokens_read - before < 4_000  # a single output has five thousand
    assert distance(slow.state(), expected) < SAME and distance(fast.state(), expected) < SAME
    assert fast.health().unfolded == mem.stats().backlog.unfolded == 0

    fast.fork("twin")
    mem.export("fast", tmp_path / "a.zip")
    mem.import_(tmp_path / "a.zip", agent="back")
    for name in ("twin", "back"):
        mem.agent(name).rebuild()
        assert distance(mem.agent(name).state(), expected) < SAME
    end = fast.log()[-1].position
    fast.write([output], "s2")
    fast.rollback(end)
    fast.erase(ids=[fast.log()[0].id, fast.log()[3].id])
    assert distance(fast.state(), expected) < SAME and fast.verify().worst < SAME
    assert "Narvik" in fast.recall("Which harbour is the deepest?", mode="vector", generate=False).text
    (again,) = mem.agent("folded").write([{**output, "content": "The deepest is in Narvik.", "folded": True}])
    assert any(tensor.any() for tensor in mem.agent("folded").state().values()) and again


def test_only_pictures_leave_the_state_at_zero(mem) -> None:
    mem.agent("a").write([{"role": "user", "content": [{"type": "image", "url": "x"}]}])
    assert all(not tensor.any() for tensor in mem.agent("a").state().values())


def test_a_journal_of_another_adapter_is_folded_anew(url, open_mem, tmp_path, distance) -> None:
    from transformers import AutoModelForCausalLM

    from deltamem_agents import tiny
    from deltamem_agents.core import load_adapter, new_adapter, save_adapter

    mem = open_mem()
    mem.agent("a").write(told(7), "s1")
    before = mem.agent("a").state()
    mem.close()
    backbone = AutoModelForCausalLM.from_pretrained(tiny.FOLDER, dtype="float32")
    config = load_adapter(tiny.FOLDER / "adapter").config
    other = save_adapter(new_adapter(backbone, config, seed=9), tmp_path / "other")
    again = DeltaMem.open("tiny", url=url, adapter=other, embedder=False)
    with again:
        assert distance(again.agent("a").state(), before) > 0.1
    assert distance(open_mem().agent("a").state(), before) == 0
