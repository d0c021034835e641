"""Recall and chat as a user sees them: what comes back, from where, for whom, and what is refused."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime

import pytest

from deltamem_agents.engine import Sampling
from deltamem_agents.errors import (
    ClosedError,
    ConfigError,
    ContextLengthError,
    InvalidAgentError,
    InvalidMessageError,
)
from deltamem_agents.memory import Reply
from deltamem_agents.memory.prompting import newest_that_fit
from deltamem_agents.recall.notes import find

TALK = [
    {"role": "user", "content": "Good morning!"},
    {"role": "user", "content": "Our rabbit is called Schnuffel."},
    {"role": "user", "content": "The long report took hours today."},
    {"role": "user", "content": "The Wi-Fi password at the cabin is heron-42-lake."},
    {"role": "assistant", "content": "Noted."},
    {"role": "user", "content": "My favourite colour is teal."},
]


def test_an_unknown_agent_is_empty(mem) -> None:
    nobody = mem.agent("nobody")
    recall = nobody.recall("What is my dog?")
    assert (recall.text, recall.answer, recall.records, recall.source) == ("", None, [], "neither")
    assert (nobody.log(), nobody.sessions(), nobody.state(), mem.agents()) == ([], [], {}, [])


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_facts_of_any_kind_are_in_the_text(mem, mode) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    recall = agent.recall("What is the Wi-Fi password at the cabin?", mode=mode)
    said = agent.log()[3].created_at.date()
    assert f"\n{said} - user: The Wi-Fi password at the cabin is heron-42-lake.\n" in recall.text
    (notes,) = find(recall.text)  # whatever the backbone reads, this is for a prompt of any model
    assert {note.text for note in notes.notes} == {record.text for record in recall.records}
    assert recall.records[0].session == "s1" and recall.records[0].message_id == agent.log()[3].id
    assert recall.usage.context_tokens > 0 and recall.usage.seconds > 0
    assert recall.notes  # opened without an embedder


def test_state_mode_brings_no_records_and_reads_the_state(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    recall = agent.recall("What is my favourite colour?", mode="state")
    assert recall.records == []
    assert recall.usage.state_bytes == mem.engine.state_bytes > 0
    assert recall.source in ("state", "neither")
    assert recall.usage.first_token_seconds and recall.usage.first_token_seconds > 0


def test_vector_mode_reads_no_state(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    assert agent.recall("What is my favourite colour?", mode="vector").usage.state_bytes == 0


def test_generate_false_asks_no_model(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    recall = agent.recall("What is my favourite colour?", generate=False)
    assert recall.answer is None and recall.usage.prompt_tokens == 0 and "teal" in recall.text


def test_a_budget_keeps_the_best_records(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    for budget in (20, 80):  # too few for the frame of notes, and enough
        recall = agent.recall("What is my favourite colour?", budget=budget)
        assert "teal" in recall.text and recall.usage.context_tokens == mem.engine.count(recall.text) <= budget
        assert len(list(find(recall.text))) == (budget == 80)
    nothing = agent.recall("What is my favourite colour?", budget=0)
    assert nothing.text == "" and nothing.records == []


def test_k_and_session_narrow_the_search(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    agent.write([{"role": "user", "content": "My favourite colour at work is grey."}], "s2")
    assert len(agent.recall("favourite colour", k=1, generate=False).records) == 1
    only = agent.recall("favourite colour", session="s2", generate=False)
    assert {record.session for record in only.records} == {"s2"}


def test_agents_do_not_see_each_other(mem) -> None:
    mem.agent("alice").write([{"role": "user", "content": "My secret word is xylograph."}])
    mem.agent("bob").write([{"role": "user", "content": "My secret word is quokka."}])
    assert "xylograph" not in mem.agent("bob").recall("What is my secret word?").text
    assert [info.id for info in mem.agents()] == ["alice", "bob"]


def test_chat_journals_what_was_said_and_the_reply(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    reply = agent.chat([{"role": "user", "content": "What is my favourite colour?"}], session="s2")
    assert "teal" in reply.recall.text
    assert [entry.text for entry in agent.log("s2")] == ["What is my favourite colour?", reply.text]
    assert str(reply) == reply.text and reply.usage.answer_tokens > 0
    assert agent.sessions() == ["s1", "s2"]


def test_chat_stream_gives_the_same_text_in_pieces(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    question = [{"role": "user", "content": "What is the Wi-Fi password?"}]
    whole = agent.generate(question)
    pieces = list(agent.chat_stream(question, session="s2"))
    assert "".join(pieces).strip() == whole.text
    assert agent.log("s2")[-1].text == whole.text


def test_a_stream_that_is_closed_early_journals_nothing_and_blocks_nobody(mem) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    stream = agent.chat_stream([{"role": "user", "content": "What is my favourite colour?"}], session="s2")
    next(stream)
    stream.close()
    assert agent.log("s2") == []
    assert agent.recall("favourite colour").text


def test_sampling_repeats_with_its_seed_and_stops_at_a_string(mem) -> None:
    from deltamem_agents.engine import Sampling

    agent = mem.agent("a")
    agent.write(TALK, "s1")
    prompt = [{"role": "user", "content": "The meeting about the report was"}]
    wild = Sampling(temperature=3.0, seed=7, max_tokens=12)
    assert agent.generate(prompt, sampling=wild).text == agent.generate(prompt, sampling=wild).text
    free = agent.generate(prompt, sampling=wild).text
    stop = free[len(free) // 2 : len(free) // 2 + 3]
    cut = agent.generate(prompt, sampling=Sampling(temperature=3.0, seed=7, max_tokens=12, stop=(stop,)))
    assert stop not in cut.text and free.startswith(cut.text)


async def test_async_twins_do_the_same_and_never_block_the_loop(mem) -> None:
    agent = mem.agent("a")
    late: list[float] = []

    async def tick() -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0.01)
            late.append(time.perf_counter() - started - 0.01)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    await agent.awrite([{"role": "user", "content": "teal " * 4000}], "long")
    await agent.awrite(TALK, "s1")
    recall = await agent.arecall("What is my favourite colour?")
    pieces = [piece async for piece in agent.astream([{"role": "user", "content": "What is my favourite colour?"}])]
    await agent.achat([{"role": "user", "content": "Good night."}], session="s2")
    ticker.cancel()
    assert "teal" in recall.text
    assert isinstance(pieces[-1], Reply) and "".join(pieces[:-1]).strip() == pieces[-1].text
    assert len(await agent.alog("s2")) == 2 and await agent.asessions() == ["long", "s1", "s2"]
    assert (await agent.astate()).keys() == agent.state().keys() and len(await mem.aagents()) == 1
    assert sorted(late)[int(len(late) * 0.9)] < 0.05


def test_threads_write_and_recall_at_once(mem) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            agent = mem.agent(name)
            for number in range(4):
                agent.write([{"role": "user", "content": f"Note {number} of {name}."}], "s1")
                assert f"of {name}" in agent.recall(f"note {number}").text
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(f"agent{i % 3}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(len(mem.agent(f"agent{i}").log()) for i in range(3)) == [8, 8, 8]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda a: a.recall("x", mode="magic"), ConfigError, "state, vector, hybrid"),
        (lambda a: a.recall("x", k=0), ConfigError, "k is 0"),
        (lambda a: a.recall("x", budget=-1), ConfigError, "-1"),
        (lambda a: a.recall(7), ConfigError, "query"),
        (lambda a: a.recall(None, mode="state"), ConfigError, "query"),
        (lambda a: a.write([{"role": "wizard", "content": "x"}]), InvalidMessageError, "wizard"),
        (lambda a: a.write([{"role": "user", "content": " "}]), InvalidMessageError, "empty"),
        (lambda a: a.write([{"role": "user", "content": 7}]), InvalidMessageError, "int"),
        (lambda a: a.write([{"role": "user", "content": "x"}], "s" * 256), InvalidAgentError, "256"),
        (lambda a: a.chat([{"role": "user", "content": ""}]), InvalidMessageError, "content"),
        (lambda a: a.generate([]), InvalidMessageError, "at least one"),
        (lambda a: a.generate([{"role": "user", "content": "teal " * 9000}]), ContextLengthError, "window"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(mem, call, error, words) -> None:
    agent = mem.agent("a")
    agent.write(TALK, "s1")
    with pytest.raises(error, match=words):
        call(agent)
    assert len(agent.log()) == len(TALK)


@pytest.mark.parametrize("bad", ["", "a" * 256, 7, None, "a\0b"])
def test_bad_agent_ids_are_refused(mem, bad) -> None:
    with pytest.raises(InvalidAgentError):
        mem.agent(bad)


def test_one_bad_message_keeps_the_others_out(mem) -> None:
    agent = mem.agent("a")
    with pytest.raises(InvalidMessageError):
        agent.write([{"role": "user", "content": "fine"}, {"role": "user", "content": ""}])
    assert agent.log() == [] and mem.agents() == []


def test_a_closed_memory_says_so(mem) -> None:
    agent = mem.agent("a")
    mem.close()
    mem.close()
    for call in (lambda: agent.recall("x"), lambda: agent.write(TALK), agent.log, mem.agents, lambda: mem.agent("b")):
        with pytest.raises(ClosedError, match="open it again"):
            call()


def test_a_prompt_that_is_too_long_is_refused_or_loses_its_oldest_messages(mem) -> None:
    agent = mem.agent("alice")
    agent.write([{"role": "user", "content": "My dog is a poodle."}])
    long = [{"role": "system", "content": "Be brief."}]
    for number in range(400):
        long += [{"role": "user", "content": f"Number {number}, please."}, {"role": "assistant", "content": "Yes."}]
    long.append({"role": "user", "content": "What is my dog?"})

    with pytest.raises(ContextLengthError, match=r"prompt of [\d,]+ tokens and 8 new ones exceed .* window"):
        agent.generate(long, sampling=Sampling(max_tokens=8))
    reply = agent.generate(long, sampling=Sampling(max_tokens=8), truncation=True)
    window = mem.engine.window
    assert window - 40 < reply.usage.prompt_tokens <= window - 8
    assert reply.recall.records  # the question is still there, and so is what was recalled
    streamed = list(agent.stream(long, sampling=Sampling(max_tokens=8), truncation=True))
    assert streamed[-1].text == reply.text
    short = [long[0], long[-1]]
    assert agent.generate(short, truncation=True).text == agent.generate(short).text

    with pytest.raises(ContextLengthError):  # what must stay is too long by itself
        agent.generate([{"role": "user", "content": "word " * window}], truncation=True)


def test_results_of_tools_go_with_the_message_that_called_them() -> None:
    said = [{"role": role, "content": str(i)} for i, role in enumerate("system user assistant tool tool user".split())]
    for most, expected in ((6, "012345"), (5, "02345"), (4, "05"), (2, "05"), (1, "05")):
        kept = newest_that_fit(said, lambda chosen, most=most: len(chosen) <= most)  # type: ignore[misc]
        assert "".join(each["content"] for each in kept) == expected
    assert newest_that_fit(said[:1], lambda _: False) == said[:1]


def test_a_prompt_is_given_nothing_that_it_says_already(mem) -> None:
    agent = mem.agent("a")
    agent.write([{"role": "user", "content": f"Drawer {number} has a green lid."} for number in range(4)])
    prompt = [
        {"role": "user", "content": "Drawer 0 has a green lid."},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "Which drawer has a green lid?"},
    ]
    reply = agent.generate(prompt, k=2)
    assert len(reply.recall.records) == 2 and "Drawer 0" not in reply.recall.text
    assert reply.usage.context_tokens == mem.engine.count(reply.recall.text)
    assert len(agent.generate(prompt, k=9).recall.records) == 3
    with pytest.raises(ConfigError, match="k is 0"):
        agent.generate(prompt, k=0)


def test_what_is_outdated_is_left_out_of_the_text_or_marked(mem) -> None:
    agent = mem.agent("moved")
    told = [
        ("I live in Lisbon.", datetime(2024, 2, 1, tzinfo=UTC)),
        ("I moved to Oslo.", datetime(2024, 5, 3, tzinfo=UTC)),
    ]
    agent.write([{"role": "user", "content": text, "created_at": when} for text, when in told], wait=False)
    left_out = agent.recall("Where do I live?", generate=False)
    assert [(record.text, record.outdated) for record in left_out.records] == [
        ("I moved to Oslo.", False),
        ("I live in Lisbon.", True),
    ]
    assert "Oslo" in left_out.text and "Lisbon" not in left_out.text
    marked = agent.recall("Where do I live?", outdated="mark", generate=False).text
    assert "2024-02-01 - user (until 3 May): I live in Lisbon." in marked.splitlines()
    with pytest.raises(ConfigError, match="outdated 'drop' is not one of omit, mark"):
        agent.recall("Where do I live?", outdated="drop")


def test_a_question_that_leans_on_the_turn_before_is_recalled_for_with_it(mem) -> None:
    agent = mem.agent("capitals")
    agent.write(
        [
            {"role": "user", "content": text}
            for text in ("Mara's boat is called Meridian.", "Meridian was built in 1962.")
        ],
        "s1",
        wait=False,
    )
    agent.write([{"role": "user", "content": f"The lamp number {n} is broken."} for n in range(30)], "s2", wait=False)
    before = ["What is Mara's boat called?", "It is called Meridian."]
    assert "1962" in agent.recall("And when was it built?", context=before, k=1, generate=False).text
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), before, strict=True)]
    asked = [{"role": "user", "content": "How old is she?"}]
    assert "1962" in agent.generate([*turns, *asked], sampling=Sampling(max_tokens=1)).recall.text
    agent.write(turns, "s3", wait=False)
    reply = agent.chat(asked, "s3", sampling=Sampling(max_tokens=1))
    assert "1962" in reply.recall.text
