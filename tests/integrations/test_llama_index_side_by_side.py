"""LlamaIndex's own `Memory` and ours, told the same: they give the same, where nothing is recalled."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import AudioBlock, ImageBlock, TextBlock, ToolCallBlock
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, InsertMethod, Memory, StaticMemoryBlock
from llama_index.core.storage.chat_store.base_db import MessageStatus

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemory

Make = Callable[..., Memory]


def words(text: str) -> list[str]:
    """Of what is said; a tool call, in JSON, counts for ours, and for the stock one in later versions only."""
    return [] if text.startswith('{"block_type"') else text.split()


def said(role: str, text: str | None, **fields: Any) -> ChatMessage:
    return ChatMessage(role=role, content=text, **fields)


def turns(*texts: str) -> list[ChatMessage]:
    return [said("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]


def shown(messages: list[ChatMessage]) -> list[str]:
    return [f"{message.role.value}: {message.content}" for message in messages]


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    url = f"sqlite:///{tmp_path_factory.mktemp('side') / 'memory.db'}"
    with DeltaMem.open("tiny", url=url, embedder=False) as opened:
        yield opened


@pytest.fixture
def makers(mem: DeltaMem, request: pytest.FixtureRequest) -> dict[str, Make]:
    """Both classes' ways to be made; ours over an agent of each memory's own."""
    numbers = count()

    def ours(session: str | None = None, **options: Any) -> Memory:
        agent = f"{request.node.name}-{next(numbers)}"
        return DeltaMemory.from_defaults(mem, agent, session, **options)

    return {"stock": Memory.from_defaults, "ours": ours}


@pytest.fixture(params=["stock", "ours"])
def make(makers: dict[str, Make], request: pytest.FixtureRequest) -> Make:
    return makers[request.param]


@pytest.fixture
def overflowing(make: Make) -> Make:
    """With a limit of ten words. Ours would find again what has left the buffer, so that it may recall nothing."""

    def with_limit(session: str | None = None, **options: Any) -> Memory:
        silent = {} if make == Memory.from_defaults else {"budget": 0}
        chosen = {"token_limit": 10, "token_flush_size": 2, "tokenizer_fn": words} | silent | options
        return make(session, **chosen)

    return with_limit


def test_put_and_get(make: Make) -> None:
    memory = make("s1")
    assert memory.get() == memory.get_all() == []
    memory.put(said("user", "Hello"))
    assert shown(memory.get()) == ["user: Hello"]
    memory.put_messages([said("assistant", "Hi"), said("user", "How are you?")])
    assert shown(memory.get()) == shown(memory.get_all()) == ["user: Hello", "assistant: Hi", "user: How are you?"]
    assert shown(memory.get(input="How are you?")) == shown(memory.get())


async def test_the_async_twins(make: Make) -> None:
    memory = make("s1")
    await memory.aput(said("user", "Hello"))
    await memory.aput_messages([said("assistant", "Hi")])
    assert shown(await memory.aget()) == shown(await memory.aget_all()) == ["user: Hello", "assistant: Hi"]
    assert shown(memory.get()) == shown(memory.get_all()) == ["user: Hello", "assistant: Hi"]  # within a running loop
    await memory.aset(turns("one"))
    assert shown(await memory.aget()) == ["user: one"]
    await memory.areset()
    assert await memory.aget() == await memory.aget_all() == []


def test_set_replaces_and_reset_empties(make: Make) -> None:
    memory = make("s1", chat_history=turns("one", "two"))
    assert shown(memory.get()) == ["user: one", "assistant: two"]
    memory.set(turns("one", "two", "three", "four"))
    assert len(memory.get()) == 4
    memory.set([])
    assert memory.get() == []
    memory.put(said("user", "five"))
    memory.reset()
    memory.reset()
    assert memory.get() == memory.get_all() == []


def test_what_exceeds_the_limit_is_archived_by_turns(overflowing: Make) -> None:
    memory = overflowing("s1")
    for message in turns("one two", "three four", "five six"):
        memory.put(message)
    assert len(memory.get()) == 3
    memory.put(said("assistant", "seven eight"))  # beyond 70 % of the limit
    assert shown(memory.get()) == ["user: five six", "assistant: seven eight"]
    assert len(memory.get_all()) == 4
    memory.set(turns("nine", "ten"))
    assert shown(memory.get()) == shown(memory.get_all()) == ["user: nine", "assistant: ten"]


async def test_messages_by_status(overflowing: Make) -> None:
    memory = overflowing("s1")
    await memory.aput_messages(turns("one two", "three four", "five six", "seven eight"))
    assert len(await memory.aget_all(status=MessageStatus.ACTIVE)) == 2
    assert shown(await memory.aget_all(status=MessageStatus.ARCHIVED)) == ["user: one two", "assistant: three four"]
    await memory.areset(status=MessageStatus.ARCHIVED)
    assert shown(await memory.aget_all()) == ["user: five six", "assistant: seven eight"]


def test_one_message_beyond_the_limit_stays(overflowing: Make) -> None:
    memory = overflowing()
    memory.put(said("user", "one two three four five six seven eight nine ten eleven twelve"))
    assert len(memory.get()) == 1
    memory.put(said("assistant", "Yes"))
    assert shown(memory.get())[-1] == "assistant: Yes"


def test_a_turn_with_tools_leaves_as_a_whole(overflowing: Make) -> None:
    memory = overflowing()
    call = ToolCallBlock(tool_call_id="c", tool_name="zoom", tool_kwargs={"by": 2})
    memory.put(said("user", "Zoom in"))
    memory.put_messages(
        [
            ChatMessage(role="assistant", blocks=[TextBlock(text="I will"), call]),
            said("tool", "zoomed", additional_kwargs={"tool_call_id": "c"}),
            said("assistant", "Done it"),
        ]
    )
    memory.put_messages([said("user", "And now what next"), said("assistant", "Nothing")])
    assert shown(memory.get()) == ["user: And now what next", "assistant: Nothing"]


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_long_histories(overflowing: Make, ratio: float) -> None:
    memory = overflowing(token_limit=60, token_flush_size=9, chat_history_token_ratio=ratio)
    for number in range(80):
        memory.put_messages(turns(f"question {number} of many", f"answer {number}"))
    kept = memory.get()
    assert [message.role.value for message in kept[:2]] == ["user", "assistant"]
    assert sum(len(words(str(message.content))) for message in kept) <= 60 * ratio
    assert shown(kept) == shown(memory.get_all())[-len(kept) :]
    assert len(memory.get_all()) == 160


def test_media_count_as_they_are_said_to(overflowing: Make) -> None:
    memory = overflowing(image_token_size_estimate=4, audio_token_size_estimate=5)
    picture = ChatMessage(role="user", blocks=[TextBlock(text="Look"), ImageBlock(image=b"GIF89a")])
    sound = ChatMessage(role="user", blocks=[AudioBlock(audio=b"RIFF", format="wav")])
    memory.put_messages([picture, said("assistant", "Nice"), sound, said("assistant", "Loud")])
    assert [block.block_type for block in memory.get()[0].blocks] == ["audio"]
    assert memory.get_all()[0].blocks[1] == picture.blocks[1]


def test_content_may_be_missing(make: Make) -> None:
    memory = make()
    for message in (said("user", None), said("assistant", ""), ChatMessage(role="user"), said("system", None)):
        memory.put(message)
    assert [message.content for message in memory.get()] == [message.content for message in memory.get_all()]
    assert len(memory.get()) == 4


def test_sessions_in_one_database(make: Make, tmp_path: Path) -> None:
    uri = f"sqlite+aiosqlite:///{tmp_path / 'chats.db'}"
    one, two = make("s1", async_database_uri=uri), make("s2", async_database_uri=uri)
    one.put(said("user", "Hello"))
    two.put(said("user", "Goodbye"))
    assert shown(one.get()) == ["user: Hello"] and shown(two.get()) == ["user: Goodbye"]
    two.reset()
    assert shown(make("s1", async_database_uri=uri).get()) == ["user: Hello"]


def test_what_comes_out_is_a_copy(make: Make) -> None:
    memory = make()
    given = said("user", "Hello", additional_kwargs={"tags": ["a"]})
    memory.put(given)
    given.additional_kwargs["tags"].append("b")
    for get in (memory.get, memory.get_all):
        (got,) = get()
        got.blocks.clear()
        got.additional_kwargs["tags"].append("c")
    (kept,) = memory.get()
    assert kept.content == "Hello" and kept.additional_kwargs == {"tags": ["a"]}


class Noting(BaseMemoryBlock[str]):
    """Notes what it is asked and handed, and gives a line."""

    asked: list[list[str]] = Field(default_factory=list)
    handed: list[list[str]] = Field(default_factory=list)

    async def _aget(self, messages: list[ChatMessage] | None = None, **_: Any) -> str:
        self.asked.append(shown(messages or []))
        return "noted"

    async def _aput(self, messages: list[ChatMessage]) -> None:
        self.handed.append([*shown(messages), *{str(m.additional_kwargs["session_id"]) for m in messages}])


@pytest.mark.parametrize("method", list(InsertMethod))
def test_other_blocks_are_inserted_and_fed(overflowing: Make, method: InsertMethod) -> None:
    noting = Noting(name="notes")
    blocks = [StaticMemoryBlock(name="who", static_content="You are Ann.", priority=1), noting]
    memory = overflowing("s1", token_limit=60, chat_history_token_ratio=0.1, memory_blocks=blocks, insert_method=method)
    memory.put(said("system", "Be brief."))
    memory.put_messages(turns("one two", "three four", "five six"))
    carrier = [m for m in memory.get() if m.role.value == method.value][-1]
    assert str(carrier.content).index("You are Ann.") < str(carrier.content).index("noted")
    memory.get(input="Well?")
    assert noting.asked[-1][-1] == "user: Well?"
    memory.put(said("assistant", "seven eight"))
    handed = [line for lines in noting.handed for line in lines if line != "s1"]
    assert handed == ["system: Be brief.", "user: one two", "assistant: three four"]
    assert all(lines[-1] == "s1" for lines in noting.handed)


@pytest.mark.parametrize("bad", [{"token_limit": 0}, {"memory_blocks": [Noting(name="a"), Noting(name="a")]}])
def test_what_is_refused(make: Make, bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"[Tt]oken limit must be set|unique names"):
        make(**bad)


def _steps(choose: random.Random) -> Iterator[tuple[str, Any]]:
    """What agents and chat engines do with a memory, in any order."""
    numbers = count()

    def turn() -> list[ChatMessage]:
        text = " ".join(f"w{next(numbers)}" for _ in range(choose.randint(1, 6)))
        call = ToolCallBlock(tool_call_id="c", tool_name="zoom")
        used = [ChatMessage(role="assistant", blocks=[call]), said("tool", f"zoomed {text}")]
        return [said("user", text), *used * choose.choice([0, 0, 1]), *turns("?", f"so {text}")[1:]]

    for _ in range(30):
        yield choose.choice(
            [
                ("put", turn()[0]),
                *[("put_messages", turn())] * 3,
                ("put", said("assistant", choose.choice([None, "", "Well"]))),
                ("put", said("system", "Be brief.")),
                ("set", [message for _ in range(choose.randint(0, 4)) for message in turn()]),
                ("set", turn()[:1]),
                ("reset", None),
            ]
        )


async def _called(memory: Memory, name: str, argument: Any, sync: bool) -> None:
    arguments = () if argument is None else (argument,)
    if sync:
        getattr(memory, name)(*arguments)
    else:
        await getattr(memory, f"a{name}")(*arguments)


async def _view(memory: Memory) -> AsyncIterator[Any]:
    yield await memory.aget()
    yield await memory.aget(input="Well?")
    yield await memory.aget_all()
    yield await memory.aget_all(status=MessageStatus.ACTIVE)


@pytest.mark.parametrize("seed", range(8))
async def test_any_sequence_of_calls(makers: dict[str, Make], seed: int, tmp_path: Path) -> None:
    choose = random.Random(seed)
    options = {
        "token_limit": choose.choice([12, 40]),
        "token_flush_size": choose.choice([1, 8]),
        "tokenizer_fn": words,
        "chat_history_token_ratio": choose.choice([0.5, 0.9]),
        "insert_method": choose.choice(list(InsertMethod)),
    }
    stock, ours = (
        {
            session: make(session, async_database_uri=f"sqlite+aiosqlite:///{tmp_path / name}.db", **options, **silent)
            for session in ("s1", "s2")
        }
        for name, make, silent in (("stock", makers["stock"], {}), ("ours", makers["ours"], {"budget": 0}))
    )
    for name, argument in _steps(choose):
        session, sync = choose.choice(["s1", "s2"]), choose.random() < 0.2
        await _called(stock[session], name, argument, sync)
        await _called(ours[session], name, argument, sync)
        for each in ("s1", "s2"):
            expected = [view async for view in _view(stock[each])]
            assert [view async for view in _view(ours[each])] == expected, (name, argument)
