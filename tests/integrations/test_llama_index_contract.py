"""What LlamaIndex checks of its `Memory` holds for ours as well: sizes, overflow, blocks, chat stores, schemas.

Each test runs on both. No backbone is needed for it, and none is loaded; what needs one is in the files beside this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    VideoBlock,
)
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, InsertMethod, Memory, StaticMemoryBlock
from llama_index.core.storage.chat_store.base_db import AsyncDBChatStore, MessageStatus
from llama_index.core.storage.chat_store.sql import SQLAlchemyChatStore

from deltamem_agents import DeltaMem
from llama_index_deltamem import DeltaMemory

Make = Callable[..., Memory]
PLACES = {"image": "https://host/a.png", "audio": "https://host/a.mp3", "video": "https://host/a.mp4"}


def words(text: str) -> list[str]:
    return text.split()


def said(role: str, number: int, word: str) -> ChatMessage:
    """A message of so many words."""
    return ChatMessage(role=role, content=" ".join([word] * number))


def roles(messages: list[ChatMessage]) -> list[str]:
    return [message.role.value for message in messages]


def heads(messages: list[ChatMessage]) -> list[str]:
    """The first word of each."""
    return [str(message.content).split()[0] for message in messages]


@pytest.fixture(scope="module")
def mem() -> Iterator[DeltaMem]:
    with DeltaMem.open(backbone=None, url="sqlite://", embedder=False) as opened:
        yield opened


@pytest.fixture(params=["stock", "ours"])
def make(mem: DeltaMem, request: pytest.FixtureRequest) -> Make:
    """Either class's way to be made; ours is over an agent of its own, and silent: what overflows would be recalled."""
    numbers = count()

    def ours(**options: Any) -> Memory:
        return DeltaMemory.from_defaults(mem, f"{request.node.name}-{next(numbers)}", budget=0, **options)

    made = Memory.from_defaults if request.param == "stock" else ours
    return lambda **options: made(**{"tokenizer_fn": words, **options})


class Giving(BaseMemoryBlock[Any]):
    """Gives what it was made with, and can be made shorter by its end."""

    gives: Any = ""
    asked: list[dict[str, Any]] = Field(default_factory=list)
    handed: list[ChatMessage] = Field(default_factory=list)

    async def _aget(self, messages: list[ChatMessage] | None = None, **options: Any) -> Any:
        self.asked.append(options)
        return self.gives(options) if callable(self.gives) else self.gives

    async def _aput(self, messages: list[ChatMessage]) -> None:
        self.handed += messages

    async def atruncate(self, content: Any, tokens_to_truncate: int) -> Any:
        return content[:-1] or None if isinstance(content, list) else None


class Lists(AsyncDBChatStore):
    """A chat store of one's own: a list for each status."""

    kept: dict[str, list[ChatMessage]] = Field(default_factory=lambda: {"active": [], "archived": []})

    def _of(self, status: MessageStatus | None) -> list[ChatMessage]:
        return [*self.kept["archived"], *self.kept["active"]] if status is None else self.kept[status.value]

    async def get_messages(self, key: str, status: Any = MessageStatus.ACTIVE, **_: Any) -> list[ChatMessage]:
        return list(self._of(status))

    async def count_messages(self, key: str, status: Any = MessageStatus.ACTIVE) -> int:
        return len(self._of(status))

    async def add_message(self, key: str, message: ChatMessage, status: Any = MessageStatus.ACTIVE) -> None:
        self._of(status).append(message)

    async def add_messages(self, key: str, messages: Any, status: Any = MessageStatus.ACTIVE) -> None:
        self._of(status).extend(messages)

    async def set_messages(self, key: str, messages: Any, status: Any = MessageStatus.ACTIVE) -> None:
        self._of(status)[:] = messages

    async def delete_message(self, key: str, idx: int) -> ChatMessage | None:
        return self.kept["active"].pop(idx)

    async def delete_messages(self, key: str, status: MessageStatus | None = None) -> None:
        for each in [status] if status else list(MessageStatus):
            self.kept[each.value].clear()

    async def delete_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        gone, self.kept["active"][:n] = self.kept["active"][:n], []
        return gone

    async def archive_oldest_messages(self, key: str, n: int) -> list[ChatMessage]:
        gone = await self.delete_oldest_messages(key, n)
        self.kept["archived"] += gone
        return gone

    async def get_keys(self) -> list[str]:
        return ["all"]


# Sizes


def test_fields_are_as_given(make: Make) -> None:
    memory = make(session_id="s1", token_limit=500, token_flush_size=70, chat_history_token_ratio=0.4)
    assert (memory.token_limit, memory.token_flush_size, memory.chat_history_token_ratio) == (500, 70, 0.4)
    assert memory.session_id == "s1" and make().session_id != make().session_id


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (TextBlock(text="three short words"), 3),
        (ImageBlock(url=PLACES["image"]), 11),
        (AudioBlock(url=PLACES["audio"]), 12),
        (VideoBlock(url=PLACES["video"]), 13),
        (DocumentBlock(url="https://host/a.pdf", document_mimetype="application/pdf"), 2048),
    ],
)
def test_each_kind_of_block_has_its_size(make: Make, block: ContentBlock, size: int) -> None:
    memory = make(image_token_size_estimate=11, audio_token_size_estimate=12, video_token_size_estimate=13)
    assert memory._estimate_token_count(ChatMessage(role="user", blocks=[block])) == size


# Overflow


def test_a_flush_takes_the_oldest_and_leaves_the_newest(make: Make) -> None:
    memory = make(token_limit=100, token_flush_size=70, chat_history_token_ratio=0.9)
    memory.put(said("user", 2, "small"))
    assert heads(memory.get()) == ["small"]
    memory.put_messages([said("user", 50, "a"), said("assistant", 50, "b"), said("user", 50, "c")])
    assert heads(memory.get()) == ["c"]
    assert heads(memory.get_all()) == ["small", "a", "b", "c"]


@pytest.mark.parametrize(
    ("sizes", "left"),
    [
        ([("user", 100, "long"), ("assistant", 1, "ok")], ["long", "ok"]),
        ([("user", 40, "a"), ("assistant", 40, "b"), ("user", 40, "c"), ("assistant", 40, "d")], ["c", "d"]),
        (
            [("user", 40, "a"), ("assistant", 20, "b"), ("tool", 20, "c"), ("assistant", 20, "d")],
            ["a", "b", "c", "d"],
        ),
        ([("user", 60, "long"), ("assistant", 1, "call"), ("tool", 1, "result")], ["long", "call", "result"]),
    ],
)
async def test_what_is_left_is_a_whole_turn(make: Make, sizes: list[tuple[str, int, str]], left: list[str]) -> None:
    memory = make(token_limit=100, token_flush_size=50, chat_history_token_ratio=0.5)
    await memory.aput_messages([said(*each) for each in sizes])
    got = await memory.aget()
    assert heads(got) == left and roles(got)[0] == "user"
    assert all(before in ("assistant", "tool") for before, role in pairwise(roles(got)) if role == "tool")


async def test_each_status_by_itself(make: Make) -> None:
    memory = make(token_limit=20, token_flush_size=5)
    await memory.aput_messages([said("user", 9, "a"), said("assistant", 9, "b"), said("user", 9, "c")])
    assert heads(await memory.aget_all(status=MessageStatus.ACTIVE)) == ["c"]
    await memory.areset(status=MessageStatus.ACTIVE)
    assert await memory.aget() == [] and heads(await memory.aget_all()) == ["a", "b"]


# Blocks


def test_every_kind_of_content_comes_through(make: Make) -> None:
    turn = [said("user", 2, "earlier"), said("assistant", 2, "then")]
    parts = [TextBlock(text="part one"), TextBlock(text="part two")]
    blocks = [Giving(name="text", gives="as text", priority=1), Giving(name="parts", gives=parts, priority=2)]
    blocks += [Giving(name="turn", gives=turn, priority=3), Giving(name="none", gives="", priority=4)]
    memory = make(memory_blocks=blocks)
    memory.put(said("user", 2, "now"))
    got = memory.get()
    system = next(str(message.content) for message in got if message.role.value == "system")
    places = [system.index(each) for each in ("<text>", "as text", "<parts>", "part one", "part two")]
    assert places == sorted(places) and "<none>" not in system
    assert [each for each in heads(got) if each in ("earlier", "then", "now")] == ["earlier", "then", "now"]


def test_media_by_their_address_come_through(make: Make) -> None:
    document = DocumentBlock(url="https://host/a.pdf", document_mimetype="application/pdf")
    gives = [TextBlock(text="Seen"), VideoBlock(url=PLACES["video"]), ImageBlock(url=PLACES["image"]), document]
    got = make(memory_blocks=[Giving(name="media", gives=gives)], token_limit=9000).get()
    kinds = [block.block_type for message in got for block in message.blocks]
    assert {"image", "video", "document"} <= set(kinds) and "Seen" in str(got[0].content)


def test_blocks_are_asked_with_session_and_options(make: Make) -> None:
    block = Giving(name="by", gives=lambda options: f"it is {options.get('mood', 'nothing')}")
    memory = make(session_id="s1", memory_blocks=[block])
    assert "it is grey" in str(memory.get(mood="grey")[0].content)
    assert "it is nothing" in str(memory.get()[0].content)
    assert block.asked == [{"session_id": "s1", "mood": "grey"}, {"session_id": "s1"}]


@pytest.mark.parametrize("method", list(InsertMethod))
def test_blocks_stand_where_they_are_told_to(make: Make, method: InsertMethod) -> None:
    memory = make(memory_blocks=[Giving(name="text", gives="as text")], insert_method=method)
    assert roles(memory.get()) == [method.value]  # even where nothing was said
    memory.put(said("user", 2, "Hello"))
    got = memory.get()
    assert roles(got) == (["user"] if method is InsertMethod.USER else ["system", "user"])
    assert "as text" in str(got[0].content) and str(got[-1].content).endswith("Hello Hello")


def test_what_may_not_be_shortened_stays(make: Make) -> None:
    never = StaticMemoryBlock(name="never", static_content="kept " * 30, priority=0)
    first = StaticMemoryBlock(name="first", static_content="dropped " * 30, priority=1)
    got = make(token_limit=40, token_flush_size=10, memory_blocks=[first, never]).get()
    assert "kept" in str(got[0].content) and "dropped" not in str(got[0].content)


def test_a_block_that_can_is_made_shorter(make: Make) -> None:
    parts = [TextBlock(text="one " * 8), TextBlock(text="two " * 8)]
    blocks = [Giving(name="parts", gives=parts, priority=1)]
    memory = make(token_limit=30, chat_history_token_ratio=0.5, memory_blocks=blocks)
    memory.put(said("user", 18, "now"))
    system = str(memory.get()[0].content)
    assert "one" in system and "two" not in system


def test_blocks_are_handed_what_leaves(make: Make) -> None:
    block, closed = Giving(name="open"), Giving(name="closed", accept_short_term_memory=False)
    memory = make(session_id="s1", token_limit=20, token_flush_size=5, memory_blocks=[block, closed])
    memory.put_messages([said("user", 9, "a"), said("assistant", 9, "b"), said("user", 9, "c")])
    assert heads(block.handed) == ["a", "b"] and closed.handed == []
    assert {message.additional_kwargs["session_id"] for message in block.handed} == {"s1"}


# Chat stores


async def test_a_chat_store_of_ones_own(make: Make) -> None:
    store = Lists()
    memory = make(token_limit=20, token_flush_size=5, chat_store=store, session_id="s1")
    assert memory.sql_store is store
    await memory.aput_messages([said("user", 9, "a"), said("assistant", 9, "b"), said("user", 9, "c")])
    assert (heads(store.kept["archived"]), heads(store.kept["active"])) == (["a", "b"], ["c"])
    begun = make(chat_store=Lists(), session_id="s2", chat_history=[said("user", 2, "seed")])
    assert heads(await begun.aget()) == ["seed"]


def test_a_store_of_ones_own_serves_sync_calls(make: Make) -> None:
    memory = make(chat_store=Lists())
    for word in ("one", "two"):  # each in an event loop of its own
        memory.put(said("user", 1, word))
    assert heads(memory.get_all()) == ["one", "two"]


async def test_puts_at_once_lose_nothing(make: Make) -> None:
    memory = make(chat_store=Lists(), token_limit=60, token_flush_size=20)
    await asyncio.gather(*(memory.aput(said("user", 9, f"w{number}")) for number in range(12)))
    assert sorted(heads(await memory.aget_all())) == sorted(f"w{number}" for number in range(12))


async def test_options_of_the_chat_store_are_handed_on(make: Make) -> None:
    plain = make(table_name="chats")
    assert isinstance(plain.sql_store, SQLAlchemyChatStore)
    assert (plain.sql_store.table_name, plain.sql_store.db_schema) == ("chats", None)
    address = "postgresql+asyncpg://ann:secret@host/db"
    far = make(table_name="chats", db_schema="own", async_database_uri=address).sql_store
    assert isinstance(far, SQLAlchemyChatStore)
    assert (far.table_name, far.db_schema, far.async_database_uri) == ("chats", "own", address)
    near = make(table_name="chats", db_schema="own")
    await near.aput(said("user", 1, "Hello"))
    assert heads(await near.aget()) == ["Hello"]
    await near.areset()
    assert await near.aget_all() == [] and near.sql_store.db_schema == "own"
