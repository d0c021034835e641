"""LlamaIndex's memory over an agent: what it journals and when, what it recalls, how it is saved and restored."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import AudioBlock, DocumentBlock, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import InsertMethod
from llama_index.core.storage.chat_store.base_db import MessageStatus
from llama_index.core.workflow import Context, JsonPickleSerializer
from sqlalchemy import make_url

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ClosedError, ConfigError, InvalidAgentError, NotPicklableError, StoreError
from llama_index_deltamem import DeltaMemLLM, DeltaMemory

FACT, QUESTION = "My locker code is 4417.", "What is my locker code?"


def user(text: str | None) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def assistant(text: str | None) -> ChatMessage:
    return ChatMessage(role="assistant", content=text)


def result(text: str) -> ChatMessage:
    return ChatMessage(role="tool", content=text, additional_kwargs={"tool_call_id": "c"})


def texts(mem: DeltaMem, agent: str = "alice", session: str | None = None) -> list[str]:
    return [entry.text for entry in mem.agent(agent).log(session)]


def contents(messages: list[ChatMessage]) -> list[str | None]:
    return [message.content for message in messages]


def recalled(messages: list[ChatMessage]) -> str:
    """What memory put into the system message."""
    return "".join(str(message.content) for message in messages if message.role.value == "system")


def locked(*_: Any, **__: Any) -> None:
    raise StoreError("locked")


# What is journalled, and when


def test_a_turn_is_journalled_when_it_is_answered(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    memory.put(user(FACT))
    assert texts(mem) == []
    assert contents(memory.get()) == [FACT]
    memory.put(assistant("Noted."))
    assert texts(mem, session="s1") == [FACT, "Noted."]
    memory.put(user("Unanswered"))
    memory.put(user("Next"))
    assert texts(mem)[2:] == ["Unanswered"]
    memory.flush()
    assert texts(mem)[3:] == ["Next"]
    memory.flush()
    memory.put_messages([])
    assert len(texts(mem)) == 4


def test_an_open_question_never_recalls_itself(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put(user(QUESTION))
    memory.put_messages([ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="look")]), result("None")])
    assert recalled(memory.get()) == recalled(memory.get(input=QUESTION)) == ""
    assert texts(mem) == []


def test_reset_keeps_the_memory(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    memory.put(user(FACT))
    memory.reset()
    assert texts(mem)[0] == FACT
    memory.put(user(QUESTION))
    assert FACT in recalled(memory.get())


async def test_the_archive_can_be_emptied_within_a_turn(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", "s1", token_limit=60, token_flush_size=9)
    for number in range(6):
        memory.put_messages([user(f"Tell me about bird {number}."), assistant(f"Bird {number} sings.")])
    memory.put(user(QUESTION))
    for each in (memory, DeltaMemory.from_dict(memory.to_dict())):
        await each.areset(status=MessageStatus.ARCHIVED)
        assert await each.aget_all() == await each.aget_all(status=MessageStatus.ACTIVE)
        assert contents(await each.aget_all())[-1] == QUESTION and QUESTION not in texts(mem)  # it is still open
    memory.put(assistant("4417."))
    assert texts(mem)[12:] == [QUESTION, "4417."]


async def test_wipe_erases_the_agent(mem: DeltaMem) -> None:
    other = DeltaMemory.from_defaults(mem, "bob")
    other.put_messages([user(FACT), assistant("Noted.")])
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    assert memory.wipe() is None
    await memory.aput_messages([user(FACT), assistant("Noted."), user("My dog is Rex.")])
    await DeltaMemory.from_defaults(mem, "alice", "s2").aput_messages([user("I live in Lisbon."), assistant("Fine.")])
    receipt = await memory.awipe()
    assert receipt is not None and receipt.status == "complete" and len(receipt.ids) == 4
    assert await memory.aget_all() == [] and [each.id for each in mem.agents()] == ["bob"]
    await memory.aflush()  # the open turn is gone, too
    await memory.aput(user(QUESTION))
    assert contents(await memory.aget()) == [QUESTION] and texts(mem) == []
    assert texts(mem, "bob") == [FACT, "Noted."]


def test_a_wipe_that_fails_erases_nothing(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put_messages([user(FACT), assistant("Noted."), user("My dog is Rex.")])
    with monkeypatch.context() as patch:
        patch.setattr(mem.store, "erase", locked)
        with pytest.raises(StoreError):
            memory.wipe()
    assert len(memory.get_all()) == 3
    memory.flush()
    assert texts(mem) == [FACT, "Noted.", "My dog is Rex."]


def test_a_resent_history_is_written_once(mem: DeltaMem) -> None:
    history = [ChatMessage(role="system", content="Rules."), user(FACT), assistant("Noted.")]
    for _ in range(2):
        memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1", chat_history=history)
        assert texts(mem) == [FACT, "Noted."]
        assert contents(memory.get_all()) == contents(history)
    memory.set([*history, user(QUESTION)])
    assert QUESTION not in texts(mem)
    memory.put(assistant("4417."))
    assert texts(mem)[2:] == [QUESTION, "4417."]


def test_a_front_end_that_keeps_nothing_of_tools_resends_its_history(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    memory.put(user(QUESTION))
    call = ToolCallBlock(tool_call_id="c", tool_name="look", tool_kwargs={"where": "locker"})
    calling = ChatMessage(role="assistant", blocks=[TextBlock(text="Let me see."), call])
    memory.put_messages([calling, result("4417"), assistant("It is 4417.")])
    memory.set([user(QUESTION), assistant("It is 4417."), user("Thanks"), assistant("Welcome")])
    assert texts(mem) == [QUESTION, "Let me see.", "4417", "It is 4417.", "Thanks", "Welcome"]


def test_a_conversation_that_went_another_way_doubles_nothing(mem: DeltaMem) -> None:
    first, second = [user(FACT), assistant("Noted.")], [user(QUESTION), assistant("I forgot.")]
    again, third = [user(QUESTION), assistant("4417.")], [user("Thanks"), assistant("Welcome")]
    DeltaMemory.from_defaults(mem, "alice", "s1").put_messages([*first, *second])
    told = [*first, *second, again[1]]
    for history in (first, [*first, *again], [*first, *again], first):  # the answer is drawn again
        memory = DeltaMemory.from_defaults(mem, "alice", "s1", chat_history=history)
        assert contents(memory.get_all()) == contents(history)
    assert texts(mem) == contents(told)
    memory.set([*first, *again])
    memory.put_messages(third)
    memory.set([*first, *again, *third, user("Thanks")])  # said again, and not answered yet
    memory.put(assistant("Sure"))
    assert texts(mem) == contents([*told, *third, user("Thanks"), assistant("Sure")])


THREE = [each for n in (1, 2, 3) for each in (user(f"q{n}"), assistant(f"a{n}"))]


@pytest.mark.parametrize(
    "came", [[], THREE, THREE[:2], THREE[:4], THREE[2:4], THREE[2:], THREE[4:], THREE[:1], THREE[2:3], THREE[:3]]
)
@pytest.mark.parametrize("erased", [(), (0,), (2, 3), (0, 1, 2)])
def test_a_window_or_an_old_state_doubles_nothing(
    mem: DeltaMem, came: list[ChatMessage], erased: tuple[int, ...]
) -> None:
    DeltaMemory.from_defaults(mem, "alice", "s1").put_messages(THREE)
    told = texts(mem)
    refs = [entry.ref for entry in mem.agent("alice").log()]
    if erased:
        mem.agent("alice").erase(ids=[refs[place] for place in erased], wait=False)
        told = [text for place, text in enumerate(told) if place not in erased]
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    for _ in range(2):
        memory.set(came)
        assert texts(mem) == told
    memory.put_messages([user("next"), assistant("Sure")])
    assert texts(mem) == [*told, "next", "Sure"]


def test_a_question_that_is_asked_after_a_history_is_the_newest(mem: DeltaMem) -> None:
    for history in ([], THREE[:2]):
        memory = DeltaMemory.from_defaults(mem, "alice", "s1", chat_history=history)
        memory.put(THREE[len(history)])
        memory.put(THREE[len(history) + 1])
    mem.agent("alice").erase(ids=[mem.agent("alice").log()[0].ref], wait=False)
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    memory.set(THREE[:2])
    assert texts(mem) == ["a1", "q2", "a2"]
    memory.put_messages(THREE[:2])  # asked again on purpose
    assert texts(mem) == ["a1", "q2", "a2", "q1", "a1"]


@pytest.mark.parametrize("at", ["put", "set"])
@pytest.mark.parametrize("on_error", ["log", "raise"])
def test_a_failed_write_is_made_up_for(
    mem: DeltaMem, monkeypatch: pytest.MonkeyPatch, at: str, on_error: Literal["log", "raise"]
) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", on_error=on_error)
    with monkeypatch.context() as patch:
        patch.setattr(mem.store, "append", locked)
        with pytest.raises(StoreError) if on_error == "raise" else nullcontext():
            if at == "put":
                memory.put_messages([user(FACT), assistant("Noted.")])
            else:
                memory.set([user(FACT), assistant("Noted."), user("Next")])
    memory.flush()
    assert texts(mem) == [FACT, "Noted.", *(["Next"] if at == "set" else [])]
    memory.flush()
    assert len(texts(mem)) == (3 if at == "set" else 2)


# Messages of all kinds


def test_messages_without_content(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    for message in (user(None), user(""), ChatMessage(role="user", blocks=[]), assistant(None), assistant(" ")):
        memory.put(message)
        memory.get()
    memory.flush()
    assert texts(mem) == [] and len(memory.get_all()) == 5


def test_pictures_and_sounds_are_kept_and_their_text_is_folded(mem: DeltaMem) -> None:
    blocks = [
        TextBlock(text="My dog is Rex."),
        ImageBlock(image=b"GIF89a"),
        AudioBlock(audio=b"RIFF", format="wav"),
        DocumentBlock(data=b"%PDF", title="pedigree"),
        ImageBlock(url="https://example.org/rex.png"),
    ]
    shown = ChatMessage(role="user", blocks=blocks)
    silent = ChatMessage(role="user", blocks=blocks[1:2])
    mem.agent("bob").write([{"role": "user", "content": "My dog is Rex."}, {"role": "assistant", "content": "Nice."}])
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    memory.put_messages([shown, silent, assistant("Nice.")])
    assert texts(mem) == ["My dog is Rex.", "", "Nice."]
    kinds = [block["block_type"] for block in mem.agent("alice").log()[0].content]
    assert kinds == ["text", "image", "audio", "document", "image"]
    told, same = mem.agent("alice").state(), mem.agent("bob").state()
    assert all(float((told[name] - same[name]).norm()) < 1e-3 * float(same[name].norm()) for name in same)
    assert mem.agent("alice").recall("dog", generate=False).records[0].text == "My dog is Rex."
    back = DeltaMemory.from_dict(memory.to_dict()).get_all()
    assert [message.blocks for message in back] == [message.blocks for message in (shown, silent, assistant("Nice."))]


def test_tool_calls_are_journalled_with_what_came_of_them(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put(user("Look"))
    memory.put(ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_call_id="c", tool_name="zoom")]))
    memory.put(result("zoomed"))
    legacy = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [{"id": "d"}]})
    memory.put(legacy)  # as integrations have it that know no blocks
    assert texts(mem) == []
    memory.put(assistant("A picture."))
    log = mem.agent("alice").log()
    assert [entry.text for entry in log] == ["Look", "", "zoomed", "A picture."]
    assert [entry.metadata for entry in log] == [{}, {}, {"tool_call_id": "c"}, {}]


# Recall


async def test_recall_is_inserted_and_the_same_throughout_a_turn(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    memory = DeltaMemory.from_defaults(mem, "alice", session_id="s1")
    await memory.aput_messages([ChatMessage(role="system", content="Be brief."), user(QUESTION)])
    got = await memory.aget()
    assert [message.role.value for message in got] == ["system", "user"]
    assert FACT in str(got[0].content) and "Be brief." in str(got[0].content)
    assert str(got).count(QUESTION) == 1
    mem.agent("alice").write([{"role": "user", "content": "My locker code is 9999."}])
    assert await memory.aget() == await memory.aget(input=QUESTION) == got
    got[0].blocks.clear()
    got[1].blocks[0].text = "changed"  # type: ignore[union-attr]
    assert QUESTION in contents(await memory.aget()) and contents(await memory.aget_all())[0] == "Be brief."
    await memory.aput_messages([assistant("4417."), user("And what is my locker code now?")])
    assert "9999" in recalled(await memory.aget())
    assert "Be brief." not in texts(mem)


async def test_memory_is_asked_once_a_turn(mem: DeltaMem, monkeypatch: pytest.MonkeyPatch) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    searches, search = [], mem.retriever.search
    monkeypatch.setattr(mem.retriever, "search", lambda *a, **k: (searches.append(a), search(*a, **k))[1])
    memory = DeltaMemory.from_defaults(mem, "alice")
    await memory.aput(user(QUESTION))
    for _ in range(3):
        await memory.aget()
        await memory.aget(input=user(f" {QUESTION} "))
    await memory.aput(assistant("4417."))
    await memory.aget()
    assert len(searches) == 1
    await memory.aput(user(QUESTION))
    await memory.aget()
    assert len(searches) == 2


def test_recall_goes_into_the_question_where_that_is_asked_for(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": FACT}])
    memory = DeltaMemory.from_defaults(mem, "alice", insert_method=InsertMethod.USER)
    memory.put(user(QUESTION))
    (only,) = memory.get()
    assert FACT in str(only.content) and str(only.content).endswith(QUESTION)
    assert contents(memory.get_all()) == [QUESTION]


def test_what_left_the_buffer_is_recalled(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", token_limit=200, token_flush_size=20)
    memory.put_messages([user(FACT), assistant("Noted.")])
    for number in range(30):
        memory.put_messages([user(f"Say something about bird {number}."), assistant(f"Bird {number} sings.")])
    memory.put(user(QUESTION))
    got = memory.get()
    assert FACT in recalled(got) and FACT not in contents(got[1:])
    assert all(str(text) not in recalled(got) for text in contents(got[1:]))  # nothing of it twice


@pytest.mark.parametrize("words", [False, True])
def test_recall_stays_within_the_token_limit(mem: DeltaMem, words: bool) -> None:
    for number in range(5):
        mem.agent("alice").write([{"role": "user", "content": f"Locker {number} has code {number}417."}], wait=False)
    sizes = []
    for limit in (9, 20, 60, 400):
        options: dict[str, Any] = {"tokenizer_fn": str.split} if words else {}
        memory = DeltaMemory.from_defaults(mem, "alice", token_limit=limit, **options)
        memory.put(user("Which locker has which code?"))
        got = memory.get()
        assert sum(map(memory._estimate_token_count, got)) <= limit
        assert memory.get(initial_token_count=limit) == got[-1:]
        sizes.append(recalled(got).count(" - user: "))
    assert sizes == sorted(sizes) and sizes[0] == 0 and sizes[-1] == 5


def test_a_budget_keeps_the_best_records(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": text} for text in (FACT, "I like lockers.", "Rain again.")])
    got = []
    for budget in (0, 25, None):
        memory = DeltaMemory.from_defaults(mem, "alice", budget=budget)
        memory.put(user(QUESTION))
        got.append(recalled(memory.get()))
    assert got[0] == "" and FACT in got[1] and "Rain" not in got[1] and "Rain" in got[2]
    assert mem.engine.count(got[1]) <= 25


def test_the_state_alone_gives_a_hint(mem: DeltaMem) -> None:
    mem.agent("alice").write([{"role": "user", "content": "My favourite colour is teal."}])
    memory = DeltaMemory.from_defaults(mem, "alice", mode="state")
    memory.put(user("What is my favourite colour?"))
    hint = recalled(memory.get())
    assert "teal" in hint and "My favourite colour" not in hint
    short = DeltaMemory.from_defaults(mem, "alice", mode="state", budget=1)
    short.put(user("What is my favourite colour?"))
    assert recalled(short.get()) == ""


def test_sync_calls_within_a_running_loop(mem: DeltaMem) -> None:
    async def main() -> list[str | None]:
        memory = DeltaMemory.from_defaults(mem, "alice", chat_history=[user(FACT), assistant("Noted.")])
        memory.put(user(QUESTION))
        return contents(memory.get())

    assert asyncio.run(main()) == [FACT, "Noted.", QUESTION]


# Saving and restoring


def test_round_trip_of_a_memory(open_mem: Callable[[], DeltaMem]) -> None:
    mem = open_mem()
    options: dict[str, Any] = {
        "mode": "vector",
        "k": 3,
        "budget": 50,
        "token_limit": 900,
        "token_flush_size": 30,
        "chat_history_token_ratio": 0.4,
        "insert_method": InsertMethod.USER,
        "image_token_size_estimate": 7,
    }
    memory = DeltaMemory.from_defaults(mem, "alice", "s1", **options)
    memory.put_messages([user(FACT), assistant("Noted.")])
    data = json.loads(json.dumps(memory.to_dict()))
    assert FACT not in str(data)
    assert data["url"] == mem.store.url
    mem.close()
    with pytest.raises(ClosedError, match=r"DeltaMem\.open"):
        DeltaMemory.from_dict(data)
    again = open_mem()
    for back in (DeltaMemory.from_dict(data), DeltaMemory.from_dict(data, mem=again)):
        assert back.to_dict() == memory.to_dict()
        assert {name: getattr(back, name) for name in options} == options
        assert contents(back.get_all()) == [FACT, "Noted."]
    back.reset()
    assert DeltaMemory.from_dict(data).get_all() == []
    assert copy.deepcopy(back).get_all() == []


def test_a_restored_buffer_has_what_fits(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", "s1", token_limit=100, token_flush_size=20)
    for number in range(20):
        memory.put_messages([user(f"Tell me about bird {number}."), assistant(f"Bird {number} sings.")])
    back = DeltaMemory.from_dict(memory.to_dict())
    assert len(back.get_all()) == 40
    assert 0 < len(back.get()) < 20 and contents(back.get())[-1] == "Bird 19 sings."


def test_an_open_turn_is_saved_with_the_memory(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice", "s1")
    memory.put_messages([user(FACT), assistant("Noted.")])
    picture = ChatMessage(role="user", blocks=[TextBlock(text="Whose?"), ImageBlock(image=b"GIF89a")])
    memory.put(picture)
    data = json.loads(json.dumps(memory.to_dict()))
    back = DeltaMemory.from_dict(data)
    assert back.get_all() == memory.get_all() and texts(mem) == [FACT, "Noted."]
    for each in (back, memory):  # both go on: the question is the same one
        each.put(assistant("Mine."))
    assert texts(mem) == [FACT, "Noted.", "Whose?", "Mine.", "Mine."]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda memory: memory.model_copy(deep=True)])
def test_copies_share_the_conversation(mem: DeltaMem, copied: Callable[[DeltaMemory], DeltaMemory]) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put(user(FACT))
    copied(memory).put(assistant("Noted."))
    assert texts(mem) == [FACT, "Noted."]
    assert contents(memory.get()) == [FACT, "Noted."]


def test_no_password_is_saved(postgresql_url: Callable[[], str]) -> None:
    url = make_url(postgresql_url()).set(password="s3cret").update_query_dict({"sslpassword": "t0psecret"})
    with DeltaMem.open(backbone=None, url=url, embedder=False) as mem:
        memory = DeltaMemory.from_defaults(mem, "alice")
        for saved in (str(memory.to_dict()), memory.to_json(), memory.model_dump_json(), repr(memory)):
            assert "s3cret" not in saved and "t0psecret" not in saved
        assert f"{url.username}:***@" in memory.to_dict()["url"]


def test_pickle_is_refused(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    with pytest.raises(NotPicklableError, match=r"database and a model, which cannot be pickled; keep its to_dict\(\)"):
        pickle.dumps(memory)


def agent_of(mem: DeltaMem) -> FunctionAgent:
    return FunctionAgent(llm=DeltaMemLLM(mem, "alice", max_tokens=4), tools=[])


async def test_a_context_is_saved_and_restored(open_mem: Callable[[], DeltaMem]) -> None:
    mem = open_mem()
    agent = agent_of(mem)
    context = Context(agent)
    await agent.run(FACT, ctx=context, memory=DeltaMemory.from_defaults(mem, "alice", "s1"))
    saved = json.dumps(context.to_dict())
    pickling = json.dumps(context.to_dict(serializer=JsonPickleSerializer()))  # it pickles what JSON cannot hold
    mem.close()
    mem = open_mem()
    agent = agent_of(mem)
    for number, (data, serializer) in enumerate([(saved, None), (pickling, JsonPickleSerializer())]):
        restored = Context.from_dict(agent, json.loads(data), serializer=serializer)
        await agent.run(f"{QUESTION} {number}", ctx=restored)
        memory = await restored.store.get("memory")
        assert contents(await memory.aget_all())[0] == FACT
    asked = [text for text in texts(mem, session="s1") if QUESTION in text]
    assert asked == [f"{QUESTION} 0", f"{QUESTION} 1"]


async def test_a_context_restored_where_no_store_is_open(open_mem: Callable[[], DeltaMem]) -> None:
    mem = open_mem()
    agent = agent_of(mem)
    context = Context(agent)
    await agent.run(FACT, ctx=context, memory=DeltaMemory.from_defaults(mem, "alice", "s1"))
    saved, url = context.to_dict(), mem.store.url
    mem.close()
    with pytest.raises(Exception, match=re.escape(url)) as raised:
        await agent.run(QUESTION, ctx=Context.from_dict(agent, saved))
    assert "open it with DeltaMem.open" in str(raised.value)


# Bad input


@pytest.mark.parametrize("bad", [{"mode": "both"}, {"k": 0}, {"k": -3}, {"k": True}, {"k": "3"}, {"budget": -1}])
def test_options_out_of_range(mem: DeltaMem, bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        DeltaMemory.from_defaults(mem, "alice", **bad)


def test_agents_that_are_none(mem: DeltaMem) -> None:
    for given in ((), (None,)):
        with pytest.raises(ConfigError, match=r"no agent id.*give DeltaMemory\.from_defaults\(mem, agent_id=…\)"):
            DeltaMemory.from_defaults(mem, *given)
    for agent, fault in (("", "empty"), (7, "int"), ("x" * 300, "300")):
        with pytest.raises(InvalidAgentError, match=fault):
            DeltaMemory.from_defaults(mem, agent)  # type: ignore[arg-type]


async def test_a_closed_memory(mem: DeltaMem) -> None:
    memory = DeltaMemory.from_defaults(mem, "alice")
    memory.put(user("Hi"))
    await mem.aclose()
    for call in (lambda: memory.aput(assistant("Ho")), memory.aget, memory.aflush, memory.awipe):
        with pytest.raises(ClosedError, match=r"DeltaMem\.open"):
            await call()
    with pytest.raises(ClosedError):
        memory.get()
    with pytest.raises(ClosedError):
        DeltaMemory.from_defaults(mem, "alice")
