"""`AnthropicMemoryTool`: Anthropic's memory tool (``memory_20250818``) on an agent's journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from deltamem_agents.anthropic_memory.files import FileError, MemoryFiles
from deltamem_agents.errors import DeltaMemError, shown
from deltamem_agents.memory import AgentMemory

if TYPE_CHECKING:
    from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool, ToolError
else:
    try:
        from anthropic.lib.tools import BetaAbstractMemoryTool, BetaAsyncAbstractMemoryTool, ToolError
    except ImportError:  # the commands work without the SDK; see `AnthropicMemoryTool.call`

        class ToolError(Exception):
            """Stands for the SDK's error, where there is no SDK."""

        class BetaAbstractMemoryTool:
            """Stands for the SDK's tool, where there is no SDK."""

            def __init__(self, *, cache_control: Any = None) -> None:
                self._cache_control = cache_control

            def to_dict(self) -> dict[str, Any]:
                """The tool's declaration for the API."""
                cached = {"cache_control": self._cache_control} if self._cache_control is not None else {}
                return {"type": "memory_20250818", "name": "memory", **cached}

        BetaAsyncAbstractMemoryTool = BetaAbstractMemoryTool

SESSION = "memories"
FIELDS = {  # of each command: those it must have, those it may have
    "view": (("path",), ("view_range",)),
    "create": (("path", "file_text"), ()),
    "str_replace": (("path", "old_str"), ("new_str",)),
    "insert": (("path", "insert_line", "insert_text"), ()),
    "delete": (("path",), ()),
    "rename": (("old_path", "new_path"), ()),
}


class MemoryToolError(ToolError, DeltaMemError):
    """A command failed. The SDK's tool runner gives the message to the model as a result that is an error."""


class AnthropicMemoryTool(BetaAbstractMemoryTool):
    """Keeps the files of Anthropic's memory tool in an agent's journal: durable, searchable, erasable.

    Give it to ``client.beta.messages.run_tools(tools=[…])``; or give `to_dict` to the API and `call` the tool with
    what the model asks for. Every command raises MemoryToolError if it cannot be carried out.

    Args:
        agent: Whose journal; from `DeltaMem.agent`.
        session: The session that holds the files, and nothing else.
        cache_control: As for the SDK's class.
    """

    def __init__(self, agent: AgentMemory, session: str = SESSION, *, cache_control: Any = None) -> None:
        super().__init__(cache_control=cache_control)
        self._files = MemoryFiles(agent, session)

    def call(self, input: object) -> str:
        """Carry out a command as the model gives it: a mapping with ``command`` and the command's fields.

        Raises:
            MemoryToolError: The command is unknown or incomplete, or cannot be carried out.
        """
        return _done(self._files, input)

    def execute(self, command: Any) -> str:
        """Carry out a command that the SDK has parsed."""
        return _done(self._files, command)

    def view(self, command: Any) -> str:
        """Show a file with line numbers, or the files of a folder."""
        return _done(self._files, command, "view")

    def create(self, command: Any) -> str:
        """Make a new file."""
        return _done(self._files, command, "create")

    def str_replace(self, command: Any) -> str:
        """Replace a text that a file has exactly once."""
        return _done(self._files, command, "str_replace")

    def insert(self, command: Any) -> str:
        """Insert text after a line of a file."""
        return _done(self._files, command, "insert")

    def delete(self, command: Any) -> str:
        """Erase a file or a folder for good, with everything derived from it."""
        return _done(self._files, command, "delete")

    def rename(self, command: Any) -> str:
        """Move a file or a folder."""
        return _done(self._files, command, "rename")

    def clear_all_memory(self) -> str:
        """Erase all files of the session for good."""
        return _told(self._files.clear)


class AsyncAnthropicMemoryTool(BetaAsyncAbstractMemoryTool):
    """Async twin of `AnthropicMemoryTool`; never blocks the event loop."""

    def __init__(self, agent: AgentMemory, session: str = SESSION, *, cache_control: Any = None) -> None:
        super().__init__(cache_control=cache_control)
        self._files = MemoryFiles(agent, session)

    async def call(self, input: object) -> str:
        """Carry out a command as the model gives it; see `AnthropicMemoryTool.call`."""
        return await asyncio.to_thread(_done, self._files, input)

    async def execute(self, command: Any) -> str:
        """Carry out a command that the SDK has parsed."""
        return await asyncio.to_thread(_done, self._files, command)

    async def view(self, command: Any) -> str:
        """Show a file with line numbers, or the files of a folder."""
        return await asyncio.to_thread(_done, self._files, command, "view")

    async def create(self, command: Any) -> str:
        """Make a new file."""
        return await asyncio.to_thread(_done, self._files, command, "create")

    async def str_replace(self, command: Any) -> str:
        """Replace a text that a file has exactly once."""
        return await asyncio.to_thread(_done, self._files, command, "str_replace")

    async def insert(self, command: Any) -> str:
        """Insert text after a line of a file."""
        return await asyncio.to_thread(_done, self._files, command, "insert")

    async def delete(self, command: Any) -> str:
        """Erase a file or a folder for good, with everything derived from it."""
        return await asyncio.to_thread(_done, self._files, command, "delete")

    async def rename(self, command: Any) -> str:
        """Move a file or a folder."""
        return await asyncio.to_thread(_done, self._files, command, "rename")

    async def clear_all_memory(self) -> str:
        """Erase all files of the session for good."""
        return await asyncio.to_thread(_told, self._files.clear)


def _done(files: MemoryFiles, given: object, expected: str | None = None) -> str:
    """Carry out a command, a mapping or an object with the command's fields."""
    fields = given if isinstance(given, Mapping) else {name: getattr(given, name) for name in _names(given)}
    command = expected or fields.get("command")
    if command not in FIELDS:
        raise MemoryToolError(f"Unknown command: {shown(command)}; the commands are {', '.join(FIELDS)}")
    required, optional = FIELDS[command]
    missing = [name for name in required if fields.get(name) is None]
    if missing:
        raise MemoryToolError(f"The command {command} needs {' and '.join(missing)}")
    arguments = {name: fields[name] for name in (*required, *optional) if fields.get(name) is not None}
    if command == "str_replace":
        arguments.setdefault("new_str", "")  # without one, the text is removed
    return _told(lambda: str(getattr(files, str(command))(**arguments)))


def _names(given: object) -> list[str]:
    """The fields of an SDK's command; some of its models leave out what was not given."""
    names = {"command", *(each for fields in FIELDS.values() for part in fields for each in part)}
    return [name for name in names if hasattr(given, name)]


def _told(work: Callable[[], str]) -> str:
    try:
        return work()
    except FileError as error:
        raise MemoryToolError(str(error)) from None
    except DeltaMemError as error:
        raise MemoryToolError(f"Memory failed, and nothing was done: {error}") from error
