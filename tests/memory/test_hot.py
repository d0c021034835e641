"""The hot cache: what is appended runs alone, and the state is that of a cold fold all the same."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deltamem_agents.engine import AgentKey, cut
from deltamem_agents.engine.hot import HotSegment, HotSegments
from deltamem_agents.training.conversations import Shape, converse
from tests.faulty import after_forwards

SAME = 1e-4  # relative, float32
WRITES = ("token", "sentence", "message")
LONG = {"role": "user", "content": "My dog is Rex. I live in Oslo. " * 20}  # more than one segment


def told(seed: int, facts: int = 6, filler: int = 4) -> list[dict]:
    conversation = converse(random.Random(seed), Shape(facts=facts, filler=filler, changed=1))
    return [{"role": role, "content": text} for role, text in conversation.messages]


def tokens(mem, message) -> int:
    return len(mem.engine.rendering.message(message["role"], message["content"]))


@pytest.mark.slow  # a hundred folds each
@pytest.mark.parametrize("hot_bytes", [256 << 20, 0], ids=["hot", "cold"])
@pytest.mark.parametrize("write", WRITES)
def test_message_by_message_is_all_at_once(open_mem, adapters, distance, write, hot_bytes) -> None:
    mem = open_mem(adapter=adapters(write), hot_bytes=hot_bytes)
    messages = [*told(1), {"role": "user", "content": "One. Two! Three?"}, *told(2), LONG, *told(3)]
    for number, message in enumerate(messages):
        mem.agent("slow").write([message], f"s{number // 20}")
        mem.agent("fast").write([message], f"s{number // 20}", wait=number == len(messages) - 1)
    assert len(mem.engine.hot) == (2 if hot_bytes else 0)
    assert distance(mem.agent("slow").state(), mem.agent("fast").state()) < SAME
    assert mem.agent("slow").verify().worst < SAME


@pytest.mark.parametrize("write", WRITES)
def test_only_new_tokens_run(open_mem, adapters, runs, write) -> None:
    """Of messages that still fit the open segment; the one that begins a new one runs alone as well."""
    mem = open_mem(adapter=adapters(write))
    agent = mem.agent("a")
    messages = told(1)
    agent.write(messages[:1], "s1")
    seen = runs(mem)
    for message in messages[1:]:
        agent.write([message], "s1")
    wanted = [tokens(mem, message) for message in messages[1:]]
    segments = list(cut(agent.log(), mem.engine.rendering, mem.engine.config.write_length))
    assert len(segments) > 1
    # Where a message does not fit, the segment before is closed (nothing runs in it) and a new one begun.
    assert seen == wanted


def test_cold_the_whole_open_segment_runs_again(open_mem, runs) -> None:
    mem = open_mem(hot_bytes=0)
    first, second = {"role": "user", "content": "My dog is Rex."}, {"role": "user", "content": "I live in Oslo."}
    seen = runs(mem)
    mem.agent("a").write([first])
    mem.agent("a").write([second])
    assert seen == [tokens(mem, first), tokens(mem, first) + tokens(mem, second)]


def test_recalling_between_writes_leaves_it_hot(mem, runs) -> None:
    agent = mem.agent("a")
    agent.write([{"role": "user", "content": "My dog is Rex."}])
    agent.recall("What is my dog?")
    agent.chat([{"role": "user", "content": "Hello."}], session="other")
    agent.write([{"role": "user", "content": "I live in Oslo."}], "other")
    more = {"role": "user", "content": "My cat is Mia."}
    seen = runs(mem)
    agent.write([more], "other")
    assert seen == [tokens(mem, more)]


@pytest.mark.slow  # dozens of journals are folded twice
@pytest.mark.parametrize("write", WRITES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_in_between_the_state_is_that_of_a_cold_fold(
    data, open_mem, adapters, distance, write
) -> None:
    """Two handles on one database write, supersede, roll back and erase in turn; each keeps what is hot to it."""
    first, second = (open_mem(adapter=adapters(write)) for _ in range(2))
    name = f"agent {data.draw(st.integers(0, 10**9))}"
    cold = open_mem(adapter=adapters(write), hot_bytes=0)
    handles = [first.agent(name), second.agent(name)]
    words = st.sampled_from(["My dog is Rex.", "I live in Oslo. It rains.", "Mara plays the cello.", LONG["content"]])
    handles[0].write([{"role": "user", "content": "Hello.", "id": "0"}])
    for _ in range(data.draw(st.integers(3, 8))):
        agent = handles[data.draw(st.integers(0, 1))]
        action = data.draw(st.sampled_from(["write"] * 5 + ["rollback", "erase"]))
        entries = agent.log()
        if action == "write" or not entries:
            message_id = str(data.draw(st.integers(0, 20)))
            agent.write(
                [{"role": "user", "content": data.draw(words), "id": message_id}], data.draw(st.sampled_from("st"))
            )
        elif action == "rollback":
            agent.rollback(data.draw(st.integers(0, entries[-1].position)))
        else:
            agent.erase(ids=[data.draw(st.sampled_from(entries)).ref])
        handles[data.draw(st.integers(0, 1))].state()
    wanted = cold.runtime.folder.anew(name)
    for agent in handles:
        if any(tensor.any() for tensor in wanted.state.values()):
            assert distance(agent.state(), wanted.state) < SAME
        else:
            assert not any(tensor.any() for tensor in agent.state().values())
    for mem in (first, second, cold):
        mem.close()


def test_another_handle_that_wrote_in_between_is_folded_in(mem, open_mem, distance, runs) -> None:
    other = open_mem()
    messages = [{"role": "user", "content": text} for text in ("My dog is Rex.", "I live in Oslo.", "Bye.")]
    mem.agent("a").write(messages[:1])
    other.agent("a").write(messages[1:2])
    seen = runs(mem)
    mem.agent("a").write(messages[2:])
    assert seen == [tokens(mem, messages[1]) + tokens(mem, messages[2])]  # what is hot here still begins the segment
    mem.agent("whole").write(messages)
    for each in (mem, other):
        assert distance(each.agent("a").state(), mem.agent("whole").state()) < SAME


@pytest.mark.parametrize("here", [True, False], ids=["this handle", "another handle"])
@pytest.mark.parametrize(
    "change",
    [
        lambda agent: agent.erase(ids=["m1"]),
        lambda agent: agent.rollback(0),
        lambda agent: agent.write([{"role": "user", "content": "My dog is Luna.", "id": "m1"}]),
        lambda agent: agent.delete(),
    ],
    ids=["erase", "rollback", "supersede", "delete"],
)
def test_what_was_taken_back_is_not_gone_on_from(mem, open_mem, distance, runs, change, here) -> None:
    agent = mem.agent("a")
    agent.write([{"role": "user", "content": "My dog is Rex.", "id": "m1"}])
    change((mem if here else open_mem()).agent("a"))
    more = {"role": "user", "content": "I live in Oslo."}
    live = [{"role": entry.role, "content": entry.text} for entry in agent.log()]
    seen = runs(mem)
    agent.write([more])
    folded = live if here else []  # by this handle, after the change
    assert seen == [sum(tokens(mem, each) for each in [*live, more] if each not in folded)]
    mem.agent("fresh").write([*live, more])
    assert distance(agent.state(), mem.agent("fresh").state()) < SAME


@pytest.mark.parametrize(
    "damage",
    [
        lambda hot: replace(hot, ids=[*hot.ids[:-1], hot.ids[-1] + 1]),
        lambda hot: replace(hot, ids=hot.ids * 3),
        lambda hot: replace(hot, before={name: tensor + 1e-3 for name, tensor in hot.before.items()}),
        lambda hot: replace(hot, before={"another.module": torch.zeros(1)}),
        lambda hot: replace(hot, key=hot.key._replace(epoch=hot.key.epoch + 1)),
    ],
    ids=["other tokens", "more tokens", "another state", "other modules", "another epoch"],
)
def test_an_entry_that_does_not_fit_is_not_used(mem, distance, runs, damage, monkeypatch) -> None:
    first, more = {"role": "user", "content": "My dog is Rex."}, {"role": "user", "content": "I live in Oslo."}
    agent, put, damaged = mem.agent("a"), mem.engine.hot.put, []
    with monkeypatch.context() as patch:
        patch.setattr(mem.engine.hot, "put", lambda hot: damaged.append(damage(hot)))
        agent.write([first])
    put(damaged[-1])
    seen = runs(mem)
    agent.write([more])
    assert seen == [tokens(mem, first) + tokens(mem, more)]
    mem.agent("fresh").write([first, more])
    assert distance(agent.state(), mem.agent("fresh").state()) < SAME


def test_the_least_recently_used_go_when_the_budget_is_full(open_mem, runs) -> None:
    probe = open_mem(url="sqlite://")
    message, more = {"role": "user", "content": "My dog is Rex."}, {"role": "user", "content": "Bye."}
    probe.agent("a").write([message])
    size = probe.engine.hot.bytes
    assert size > probe.engine.state_bytes
    mem = open_mem(hot_bytes=int(2.5 * size))
    for name in ("a", "b", "c"):  # a goes
        mem.agent(name).write([message])
        assert mem.engine.hot.bytes <= 2.5 * size
    assert len(mem.engine.hot) == 2
    seen = runs(mem)
    mem.agent("b").write([more])
    mem.agent("a").write([more])
    assert seen == [tokens(mem, more), tokens(mem, message) + tokens(mem, more)]


def test_budget_order_and_replacement() -> None:
    def key(agent: str, epoch: int = 1) -> AgentKey:
        return AgentKey("db", agent, epoch)

    def segment(agent: str, bytes_: int, epoch: int = 1) -> HotSegment:
        return HotSegment(key(agent, epoch), [1], {"m": torch.zeros(bytes_ // 4)}, {}, [])

    hot = HotSegments(100)
    hot.put(segment("a", 40))
    hot.put(segment("b", 40))
    hot.put(segment("a", 40))  # used again: b is now the older one
    hot.put(segment("c", 40))
    assert (len(hot), hot.bytes, hot.take(key("b"))) == (2, 80, None)
    hot.put(segment("d", 400))  # larger than the budget: not kept, and the others stay
    assert (len(hot), hot.take(key("d"))) == (2, None)
    hot.put(segment("e", 40, epoch=7))
    assert hot.take(key("e", 8)) is None and hot.take(key("e", 7)) is None
    hot.put(segment("e", 40, epoch=7))
    hot.drop("db", "e")
    assert hot.take(key("e", 7)) is None
    hot.put(segment("a", 8))
    assert hot.take(AgentKey("another db", "a", 1)) is None
    assert not HotSegments(0).enabled


def test_a_fold_that_fails_leaves_nothing_half_run(mem, distance) -> None:
    agent = mem.agent("a")
    first, more = {"role": "user", "content": "My dog is Rex."}, {"role": "user", "content": "I live in Oslo."}
    agent.write([first])

    def fail(*_):
        raise RuntimeError("out of memory")

    with after_forwards(mem.engine, fail):
        agent.write([more])  # journalled, whatever folding does
        assert mem.stats().folding.last == "RuntimeError"
    assert [entry.text for entry in agent.log()] == [first["content"], more["content"]]
    mem.agent("fresh").write([first, more])
    assert distance(agent.state(), mem.agent("fresh").state()) < SAME
