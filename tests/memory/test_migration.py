"""Memories of other libraries, from what these libraries themselves export where they are installed."""

import asyncio
import json

import pytest
from langgraph.store.memory import InMemoryStore
from langmem import create_manage_memory_tool
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory
from typer.testing import CliRunner

from deltamem_agents import DeltaMem
from deltamem_agents.cli import app
from deltamem_agents.errors import ArchiveError, ConfigError

# As mem0's documentation shows the result of get_all(): the newest first.
MEM0 = {
    "results": [
        {
            "id": "f4cb",
            "memory": "Prefers tea over coffee",
            "user_id": "alice",
            "categories": ["food"],
            "metadata": {"source": "chat"},
            "created_at": "2026-02-03T10:00:00-08:00",
            "updated_at": "2026-02-04T10:00:00-08:00",
        },
        {"id": "a01c", "memory": "Lives in Oslo", "user_id": "alice", "created_at": "2026-01-01T00:00:00Z"},
        {
            "id": "b2",
            "memory": "Debugs in Rust",
            "user_id": "bob",
            "run_id": "r9",
            "created_at": "2026-01-02T00:00:00Z",
        },
    ],
    "count": 3,
}


@pytest.fixture
def mem(tmp_path):
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        yield opened


def file(folder, content, name="export.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def told(mem, agent, session=None):
    return [(each.session, each.role, each.text) for each in mem.agent(agent).log(session)]


def langmem_items():
    """What LangMem's own tool stores."""
    store = InMemoryStore()
    for user, memory in (("alice", "Prefers dark mode"), ("alice", "Has a cat called Rex"), ("bob", "Plays the cello")):
        tool = create_manage_memory_tool(("memories", "{user}"), store=store)
        tool.invoke({"content": memory, "action": "create"}, config={"configurable": {"user": user}})
    return [item.dict() for item in store.search((), limit=100)]


def llama_index_memory():
    """What LlamaIndex's own memory serialises: its chat store, and its messages."""

    async def chat():
        memory = Memory.from_defaults(session_id="s1")
        for role, text in (("user", "My locker is 9031."), ("assistant", "Noted."), ("user", "Thanks.")):
            await memory.aput(ChatMessage(role=role, content=text))
        return memory.sql_store.model_dump(), [each.model_dump(mode="json") for each in await memory.aget_all()]

    return asyncio.run(chat())


def test_memories_of_mem0_in_the_order_in_which_they_were_said(mem, tmp_path):
    moved = mem.import_from("mem0", file(tmp_path, MEM0))
    assert dict(moved.added) == {"alice": 2, "bob": 1}
    assert moved.rejected == ()
    assert told(mem, "alice") == [("mem0", "user", "Lives in Oslo"), ("mem0", "user", "Prefers tea over coffee")]
    assert told(mem, "bob") == [("r9", "user", "Debugs in Rust")]
    newest = mem.agent("alice").log()[-1]
    assert newest.id == "f4cb"
    assert newest.created_at.isoformat() == "2026-02-04T18:00:00+00:00"
    assert newest.metadata == {"metadata": {"source": "chat"}, "categories": ["food"], "user_id": "alice"}
    assert mem.agent("alice").recall("tea or coffee?").records[0].text == "Prefers tea over coffee"


def test_memories_of_langmem(mem, tmp_path):
    items = langmem_items()
    moved = mem.import_from("langmem", file(tmp_path, items))
    assert dict(moved.added) == {"alice": 2, "bob": 1}
    assert {text for _, _, text in told(mem, "alice")} == {"Prefers dark mode", "Has a cat called Rex"}
    profile = items[0] | {"value": {"kind": "Profile", "content": {"name": "Ann", "pets": ["Rex"], "age": None}}}
    mem.import_from("langmem", file(tmp_path, [profile]), agent="profile")
    [entry] = mem.agent("profile").log()
    assert entry.text == 'name: Ann\npets: ["Rex"]'
    assert entry.metadata["kind"] == "Profile"


def test_chats_of_llama_index(mem, tmp_path):
    stored, messages = llama_index_memory()
    moved = mem.import_from("llama-index", file(tmp_path, stored))
    assert dict(moved.added) == {"s1": 3}
    expected = [("user", "My locker is 9031."), ("assistant", "Noted."), ("user", "Thanks.")]
    assert told(mem, "s1") == [("default", *each) for each in expected]
    mem.import_from("llama-index", file(tmp_path, stored), agent="ann")
    assert told(mem, "ann") == [("s1", *each) for each in expected]
    mem.import_from("llama-index", file(tmp_path, messages), agent="eve")
    assert told(mem, "eve") == [("default", *each) for each in expected]


def test_a_chat_store_as_it_persists(mem, tmp_path):
    blocks = [{"block_type": "text", "text": "Hello."}]
    kept = {"store": {"u1": [{"role": "user", "additional_kwargs": {}, "blocks": blocks}]}, "class_name": "X"}
    older = {
        "token_limit": 9,
        "chat_store_key": "u2",
        "chat_store": {"store": {"u2": [{"role": "user", "content": "Hi"}]}},
    }
    mem.import_from("llama-index", file(tmp_path, kept))
    mem.import_from("llama-index", file(tmp_path, older))
    assert told(mem, "u1") == [("default", "user", "Hello.")]
    assert told(mem, "u2") == [("default", "user", "Hi")]


@pytest.mark.parametrize("source", ["mem0", "langmem", "llama-index"])
def test_twice_adds_nothing_and_what_was_erased_stays_so(mem, tmp_path, source):
    content = {"mem0": lambda: MEM0, "langmem": langmem_items, "llama-index": lambda: llama_index_memory()[0]}[source]()
    path = file(tmp_path, content)
    first = mem.import_from(source, path, agent="a")
    before = told(mem, "a")
    second = mem.import_from(source, path, agent="a")
    assert (sum(second.added.values()), second.known, second.erased) == (0, 3, 0)
    assert sum(first.added.values()) == 3
    assert told(mem, "a") == before
    gone = mem.agent("a").log()[0]
    mem.agent("a").erase(ids=[(gone.session, gone.id)])
    third = mem.import_from(source, path, agent="a")
    assert (sum(third.added.values()), third.known, third.erased) == (0, 2, 1)
    assert told(mem, "a") == before[1:]


def test_an_updated_memory_replaces_the_old_one(mem, tmp_path):
    mem.import_from("mem0", file(tmp_path, MEM0), agent="a")
    changed = json.loads(json.dumps(MEM0))
    changed["results"][1] |= {"memory": "Lives in Bergen", "updated_at": "2026-03-01T00:00:00Z"}
    assert dict(mem.import_from("mem0", file(tmp_path, changed), agent="a").added) == {"a": 1}
    assert "Lives in Oslo" not in {text for _, _, text in told(mem, "a")}
    assert told(mem, "a")[-1][2] == "Lives in Bergen"


def test_json_lines_and_rows_without_a_time_keep_their_order(mem, tmp_path):
    lines = "\n".join(json.dumps({"memory": text, "user_id": "u"}) for text in ("c", "a", "b"))
    mem.import_from("mem0", file(tmp_path, lines))
    assert [text for _, _, text in told(mem, "u")] == ["c", "a", "b"]
    assert dict(mem.import_from("mem0", file(tmp_path, lines)).added) == {"u": 0}


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("mem0", {"memory": "Plays the cello", "user_id": "u"}),
        ("langmem", {"namespace": ["u"], "value": "Plays the cello"}),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n\r\n"])
def test_json_lines_may_be_one(mem, tmp_path, source, row, end):
    assert dict(mem.import_from(source, file(tmp_path, json.dumps(row) + end)).added) == {"u": 1}


BAD_ROWS = [
    ("mem0", [{"memory": "ok", "user_id": "u"}, {"id": "x"}, 7, {"memory": "a\0b", "user_id": "u"}], ["2", "3", "4"]),
    ("langmem", [{"namespace": ["u"], "key": "k", "value": {"content": "ok"}}, {"value": None}, "x"], ["2", "3"]),
    (
        "llama-index",
        {"store": {"u": [{"role": "user", "content": "ok"}, {"role": "user"}, 1, {"role": "x", "content": "y"}]}},
        ["u[2]", "u[3]", "u[4]"],
    ),
    (
        "mem0",
        [{"memory": "ok", "user_id": "u"}, {"memory": "x", "user_id": "v" * 256}, {"memory": "x", "user_id": "a\0"}],
        ["2", "3"],
    ),
    (
        "langmem",
        [{"namespace": "u", "value": "ok"}, {"namespace": ["u", "a\0"], "value": "x"}],
        ["2"],
    ),
]


@pytest.mark.parametrize(("source", "content", "rows"), BAD_ROWS)
def test_rows_without_a_memory_are_named_and_the_rest_is_imported(mem, tmp_path, source, content, rows):
    moved = mem.import_from(source, file(tmp_path, content))
    assert sorted(each.row for each in moved.rejected) == rows
    assert all(each.reason for each in moved.rejected)
    assert [text for _, _, text in told(mem, "u")] == ["ok"]


@pytest.mark.parametrize("source", ["mem0", "langmem", "llama-index"])
@pytest.mark.parametrize("content", ["{}", "[", "3", '"x"', "", '{"store": 1}', "[" * 1000])
def test_a_file_of_something_else_is_refused(mem, tmp_path, source, content):
    with pytest.raises(ArchiveError, match=r"export|give|too large"):
        mem.import_from(source, file(tmp_path, content))


@pytest.mark.parametrize("space", [None, True, 5.5, {"a": "b"}, [], [None, {}]])
def test_a_namespace_that_names_nobody_needs_an_agent(mem, tmp_path, space):
    path = file(tmp_path, [{"namespace": space, "value": "Plays the cello"}])
    with pytest.raises(ConfigError, match="give the agent's id"):
        mem.import_from("langmem", path)
    assert dict(mem.import_from("langmem", path, agent="ann").added) == {"ann": 1}
    assert told(mem, "ann") == [("langmem", "user", "Plays the cello")]


def test_other_bad_input(mem, tmp_path):
    with pytest.raises(ArchiveError, match="cannot be read"):
        mem.import_from("mem0", tmp_path / "none.json")
    with pytest.raises(ConfigError, match="mem0, langmem, llama-index"):
        mem.import_from("zep", file(tmp_path, MEM0))
    with pytest.raises(ConfigError, match=r"row 1 .* give the agent's id"):
        mem.import_from("mem0", file(tmp_path, [{"memory": "whose?"}]))
    assert mem.agents() == []


def test_the_command_names_what_it_left_out(tmp_path):
    url, path = f"sqlite:///{tmp_path / 'memory.db'}", file(tmp_path, [*MEM0["results"], {"id": "x"}])
    command = ["import", str(path), "--from", "mem0", "--url", url]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 1
    assert first.stdout == "agent 'alice': 2 new messages\nagent 'bob': 1 new message\n"
    assert "row 4" in first.stderr
    assert "no text under 'memory'" in first.stderr
    second = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(second.stdout) == {
        "added": {"alice": 0, "bob": 0},
        "known": 3,
        "erased": 0,
        "rejected": [{"row": "4", "reason": "it has no text under 'memory'"}],
    }


def test_the_command_says_that_a_file_is_empty(tmp_path):
    command = ["import", str(file(tmp_path, [])), "--from", "mem0", "--url", f"sqlite:///{tmp_path / 'memory.db'}"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.replace("\n", " ").strip().endswith("holds no memories")
