"""Anthropic's memory tool on a journal: against the SDK's own tool on files, and what a journal adds."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deltamem_agents import AnthropicMemoryTool, AsyncAnthropicMemoryTool, DeltaMem
from deltamem_agents.anthropic_memory import MemoryToolError

sdk = pytest.importorskip("anthropic.lib.tools", reason="needs the extra 'anthropic'")
NOTES = "/memories/notes/prefs.txt"


@pytest.fixture
def mem(tmp_path: Path) -> Iterator[DeltaMem]:
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}") as opened:
        yield opened


@pytest.fixture
def tool(mem: DeltaMem) -> AnthropicMemoryTool:
    return AnthropicMemoryTool(mem.agent("alice"))


def do(tool: Any, command: str, **fields: Any) -> str:
    return str(tool.call({"command": command, **fields}))


def test_it_is_the_sdks_tool(tool: AnthropicMemoryTool) -> None:
    assert isinstance(tool, sdk.BetaAbstractMemoryTool)
    assert tool.to_dict() == {"type": "memory_20250818", "name": "memory"}
    with pytest.raises(sdk.ToolError, match="does not exist"):
        do(tool, "view", path="/memories/none")


def test_it_does_what_the_sdks_own_tool_does(tool: AnthropicMemoryTool, tmp_path: Path) -> None:
    """A hundred random commands on both: the same succeed, and the same files are left."""
    from anthropic.tools import BetaLocalFilesystemMemoryTool

    reference, rng = BetaLocalFilesystemMemoryTool(str(tmp_path / "files")), random.Random(7)
    paths = ["/memories/a.txt", "/memories/b/c.md", "/memories/b/d e.md", "/memories/b", "/memories/ü/x"]
    texts = ["one\ntwo\nthree\n", "no newline", "two\ntwo", "\n", " x ", "ends\n\n"]
    done = 0
    for _ in range(100):
        path, command = rng.choice(paths), rng.choice(["create", "str_replace", "insert", "delete", "rename", "view"])
        fields: dict[str, Any] = {"path": path}
        if command == "create":
            fields["file_text"] = rng.choice(texts)
        elif command == "str_replace":
            fields |= {"old_str": rng.choice(["two", "o", "x", "line"]), "new_str": rng.choice(["zwei", "a\nb", ""])}
        elif command == "insert":
            fields |= {"insert_line": rng.choice([0, 1, 3]), "insert_text": rng.choice(["line\n", "line"])}
        elif command == "rename":
            fields = {"old_path": path, "new_path": rng.choice(paths)}
            if fields["new_path"].startswith(path) or "/memories/b" in fields.values():
                continue  # what renaming a folder into itself, or over an empty one, does differs between file systems
        said = []
        for each in (tool, reference):
            try:
                said.append(
                    do(each, command, **fields) if command != "view" else str(bool(do(each, command, **fields)))
                )
            except (sdk.ToolError, OSError):
                said.append("failed")
        assert (said[0] == "failed") == (said[1] == "failed"), (command, fields, said)
        done += said[0] != "failed"
        root = tmp_path / "files" / "memories"
        files = {f"/memories/{each.relative_to(root)}": each.read_text() for each in root.rglob("*") if each.is_file()}
        for name, text in files.items():
            shown = do(tool, "view", path=name).split("\n", 1)[1]
            assert "\n".join(line.split("\t", 1)[1] for line in shown.split("\n")) == text
        for folder in sorted(root.rglob("*"), reverse=True):  # for us, a folder exists while a file lies in it
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    assert done > 15


def test_files_are_remembered_and_searched(tool: AnthropicMemoryTool, mem: DeltaMem, tmp_path: Path) -> None:
    do(tool, "create", path=NOTES, file_text="The user indents with two spaces.\n")
    do(tool, "str_replace", path=NOTES, old_str="two", new_str="four")
    with DeltaMem.open(None, url=f"sqlite:///{tmp_path / 'memory.db'}") as again:
        assert "four spaces" in do(AnthropicMemoryTool(again.agent("alice")), "view", path=NOTES)
        found = again.agent("alice").recall("How does the user indent?").records
        assert [each.text.strip() for each in found] == ["The user indents with four spaces."]
        assert found[0].metadata["file"] == NOTES
        assert "/memories/notes" not in do(AnthropicMemoryTool(again.agent("bob")), "view", path="/memories")


def test_a_deleted_file_leaves_no_trace(tool: AnthropicMemoryTool, mem: DeltaMem, tmp_path: Path) -> None:
    do(tool, "create", path=NOTES, file_text="The password is tangerine.\n")
    do(tool, "str_replace", path=NOTES, old_str="tangerine", new_str="clementine")
    do(tool, "rename", old_path="/memories/notes", new_path="/memories/kept")
    do(tool, "delete", path="/memories/kept")
    assert mem.purge() is None
    data = b"".join(each.read_bytes() for each in tmp_path.glob("memory.db*"))
    assert b"tangerine" not in data and b"clementine" not in data
    do(tool, "create", path=NOTES, file_text="back again")
    assert "back again" in do(tool, "view", path=NOTES)


@pytest.mark.parametrize(
    "path",
    [
        "/memories/../etc/passwd",
        "/memories/a/../../etc",
        "/memories/%2e%2e/etc",
        "/memories/%252e%252e/etc",
        "/memories/..\\..\\etc",
        "/memories\\..\\etc",
        "/memories/./x",
        "/etc/passwd",
        "/memoriesx/y",
        "memories/x",
        "../memories/x",
        "",
        "/",
        "/memories/a\0b",
        "/memories/a\nb",
        "/memories/" + "x" * 255,
        "C:\\memories\\x",
    ],
)
def test_paths_stay_below_memories(tool: AnthropicMemoryTool, mem: DeltaMem, path: str) -> None:
    for command, fields in (
        ("create", {"path": path, "file_text": "x"}),
        ("view", {"path": path}),
        ("delete", {"path": path}),
        ("rename", {"old_path": path, "new_path": "/memories/x"}),
    ):
        with pytest.raises(MemoryToolError):
            do(tool, command, **fields)
    do(tool, "create", path="/memories/x", file_text="x")
    with pytest.raises(MemoryToolError):
        do(tool, "rename", old_path="/memories/x", new_path=path)
    assert [each.id for each in mem.agent("alice").log()] == ["/memories/x"]


@pytest.mark.parametrize(
    ("command", "fields", "said"),
    [
        ("view", {}, "needs path"),
        ("explode", {"path": NOTES}, "Unknown command"),
        ("view", {"path": NOTES, "view_range": [0, 1]}, "view_range"),
        ("view", {"path": NOTES, "view_range": [5, 9]}, "view_range"),
        ("view", {"path": NOTES, "view_range": "1-2"}, "view_range"),
        ("insert", {"path": NOTES, "insert_line": 9, "insert_text": "x"}, r"\[0, 2\]"),
        ("insert", {"path": NOTES, "insert_line": "1", "insert_text": "x"}, "insert_line"),
        ("str_replace", {"path": NOTES, "old_str": "line", "new_str": "x"}, "lines: 1, 2"),
        ("str_replace", {"path": NOTES, "old_str": "", "new_str": "x"}, "verbatim"),
        ("create", {"path": NOTES, "file_text": "x"}, "already exists"),
        ("create", {"path": "/memories/notes", "file_text": "x"}, "directory"),
        ("create", {"path": f"{NOTES}/x", "file_text": "x"}, "is a file"),
        ("create", {"path": "/memories/x", "file_text": 7}, "give text"),
        ("create", {"path": "/memories/x", "file_text": "a\0b"}, "NUL"),
        ("create", {"path": "/memories/x", "file_text": "x" * 20_000_000}, "limit"),
        ("rename", {"old_path": NOTES, "new_path": NOTES}, "already exists"),
        ("rename", {"old_path": "/memories/notes", "new_path": "/memories/notes/x"}, "lies in"),
        ("delete", {"path": "/memories"}, "itself"),
    ],
)
def test_what_cannot_be_done_is_said_and_not_done(
    tool: AnthropicMemoryTool, mem: DeltaMem, command: str, fields: dict[str, Any], said: str
) -> None:
    do(tool, "create", path=NOTES, file_text="line 1\nline 2\n")
    with pytest.raises(MemoryToolError, match=said):
        do(tool, command, **fields)
    assert [(each.id, each.text) for each in mem.agent("alice").log()] == [(NOTES, "line 1\nline 2\n")]


async def test_the_async_tool_does_the_same(mem: DeltaMem) -> None:
    tool = AsyncAnthropicMemoryTool(mem.agent("alice"))
    assert isinstance(tool, sdk.BetaAsyncAbstractMemoryTool)
    await tool.call({"command": "create", "path": NOTES, "file_text": ""})
    await tool.call({"command": "insert", "path": NOTES, "insert_line": 0, "insert_text": "Ünïcode"})
    assert "Ünïcode" in await tool.call({"command": "view", "path": NOTES})
    await tool.clear_all_memory()
    with pytest.raises(sdk.ToolError):
        await tool.call({"command": "view", "path": NOTES})


def test_it_works_without_the_sdk(tmp_path: Path) -> None:
    program = """
import sys
sys.modules["anthropic"] = None
from deltamem_agents import AnthropicMemoryTool, DeltaMem
from deltamem_agents.errors import DeltaMemError
with DeltaMem.open(None, url="sqlite://") as mem:
    tool = AnthropicMemoryTool(mem.agent("alice"))
    tool.call({"command": "create", "path": "/memories/x", "file_text": "hello"})
    print(tool.to_dict()["name"], "hello" in tool.call({"command": "view", "path": "/memories/x"}))
    try:
        tool.call({"command": "view", "path": "/memories/y"})
    except DeltaMemError as error:
        print(error)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "memory True\nThe path /memories/y does not exist. Please provide a valid path.\n", (
        done.stderr
    )
