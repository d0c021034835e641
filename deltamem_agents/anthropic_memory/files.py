"""Memory files in an agent's journal, and the six commands on them. Knows no SDK.

A file is a message: its id is the path, its text the content. To change a file is to replace its message, so the
journal keeps what it said before, and recall finds what it says now. To delete a file erases the message, in all its
versions, with everything derived from it. A folder exists while a file lies in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

from deltamem_agents.errors import DeltaMemError, shown
from deltamem_agents.memory import AgentMemory
from deltamem_agents.messages import Entry
from deltamem_agents.store import MessageLookup

ROOT = "/memories"
LONGEST_PATH = 255  # characters, as an id has
MOST_LINES = 999_999  # lines of a file that is viewed, the limit of Anthropic's own tool
DEPTH = 2  # levels of folders that are listed
NUMBER = 6  # width of a line's number
AROUND = 2  # lines shown on either side of an edit

_BLANK = "blank"  # type of the block that holds a file without text, which a journal's text cannot be


class FileError(DeltaMemError, ValueError):
    """A command of the memory tool cannot be carried out; the message is for the model, which can correct it."""


class MemoryFiles:
    """The files of one session of an agent."""

    def __init__(self, agent: AgentMemory, session: str) -> None:
        self._agent = agent
        self._session = session

    def view(self, path: str, view_range: Sequence[int] | None = None) -> str:
        """A file with line numbers, or what a folder holds."""
        path = checked_path(path)
        files = self._files()
        if path not in files:
            if path == ROOT or any(each.startswith(f"{path}/") for each in files):
                return _listing(path, files)
            raise _missing(path)
        lines = files[path].split("\n")
        if len(lines) > MOST_LINES:
            raise FileError(f"File {path} exceeds maximum line limit of {MOST_LINES:,} lines.")
        first, last = _range(view_range, len(lines))
        return f"Here's the content of {path} with line numbers:\n{_numbered(lines, first, last)}"

    def create(self, path: str, file_text: str) -> str:
        """Make a file; it must not exist."""
        path = _checked_file(path)

        def new(lookup: MessageLookup) -> list[dict[str, Any]]:
            if self._found(lookup, path) is not None:
                raise FileError(f"File {path} already exists")
            return [_message(path, file_text)]

        self._refuse_clash(path)
        self._write(new)
        return f"File created successfully at: {path}"

    def str_replace(self, path: str, old_str: str, new_str: str) -> str:
        """Replace the only occurrence of a text in a file."""
        path = _checked_file(path)
        shows = ""

        def changed(lookup: MessageLookup) -> list[dict[str, Any]]:
            nonlocal shows
            content = self._content(lookup, path)
            count = content.count(old_str) if old_str else 0
            if count == 0:
                raise FileError(f"No replacement was performed, old_str `{old_str}` did not appear verbatim in {path}.")
            if count > 1:
                lines = ", ".join(map(str, _lines_of(content, old_str)))
                raise FileError(
                    f"No replacement was performed. Multiple occurrences of old_str `{old_str}` in lines: {lines}. "
                    "Please ensure it is unique"
                )
            at = content[: content.index(old_str)].count("\n") + 1
            edited = content.replace(old_str, new_str)
            shows = _numbered(edited.split("\n"), max(1, at - AROUND), at + new_str.count("\n") + AROUND)
            return [_message(path, edited)]

        self._write(changed)
        return f"The memory file has been edited. Here is the snippet showing the change (with line numbers):\n{shows}"

    def insert(self, path: str, insert_line: int, insert_text: str) -> str:
        """Insert text after a line; 0 puts it at the beginning."""
        path = _checked_file(path)

        def changed(lookup: MessageLookup) -> list[dict[str, Any]]:
            content = self._content(lookup, path)
            lines = content.removesuffix("\n").split("\n") if content else []
            if isinstance(insert_line, bool) or not isinstance(insert_line, int) or not 0 <= insert_line <= len(lines):
                raise FileError(
                    f"Invalid `insert_line` parameter: {shown(insert_line)}. It should be within the range "
                    f"[0, {len(lines)}]."
                )
            lines.insert(insert_line, insert_text.removesuffix("\n"))
            return [_message(path, "\n".join(lines) + "\n")]

        self._write(changed)
        return f"The file {path} has been edited."

    def delete(self, path: str) -> str:
        """Erase a file, or all files of a folder, for good."""
        path = _checked_file(path)
        found = _below(path, self._files())
        if not found:
            raise _missing(path)
        self._erase(found)
        return f"Successfully deleted {path}"

    def rename(self, old_path: str, new_path: str) -> str:
        """Move a file or a folder; nothing may be at the new path."""
        old, new = _checked_file(old_path), _checked_file(new_path)
        files = self._files()
        found = _below(old, files)
        if not found:
            raise _missing(old)
        if new == old or new.startswith(f"{old}/") or _below(new, files):
            raise FileError(f"The destination {new} already exists, or lies in {old}")
        moved = {each: _checked_file(new + each.removeprefix(old)) for each in found}
        self._refuse_clash(new)

        def copies(lookup: MessageLookup) -> list[dict[str, Any]]:
            return [_message(target, self._content(lookup, each)) for each, target in moved.items()]

        self._write(copies)  # a copy more, if this is interrupted before the next line, and never one less
        self._erase(found)
        return f"Successfully renamed {old} to {new}"

    def clear(self) -> str:
        """Erase all files."""
        if found := list(self._files()):
            self._erase(found)
        return "All memory cleared"

    def _files(self) -> dict[str, str]:
        """Content by path, ordered by path."""
        return {each.id: _text(each) for each in sorted(self._agent.log(self._session), key=lambda entry: entry.id)}

    def _write(self, select: Any) -> None:
        self._agent.write_selected(select, self._session, wait=False)

    def _erase(self, paths: Iterable[str]) -> None:
        self._agent.erase(ids=list(paths), session=self._session, wait=False, tombstone=False)

    def _found(self, lookup: MessageLookup, path: str) -> Entry | None:
        return next(iter(lookup.find(self._agent.id, [(self._session, path)])), None)

    def _content(self, lookup: MessageLookup, path: str) -> str:
        found = self._found(lookup, path)
        if found is None:
            raise _missing(path)
        return _text(found)

    def _refuse_clash(self, path: str) -> None:
        """Refuse a file where a folder is, and a folder where a file is."""
        files = self._files()
        if any(each.startswith(f"{path}/") for each in files):
            raise FileError(f"The path {path} is a directory")
        for each in files:
            if path.startswith(f"{each}/"):
                raise FileError(f"The path {each} is a file, so {path} cannot be created in it")


def checked_path(path: object) -> str:
    """The path in one spelling: absolute, below `ROOT`, without an empty part.

    Raises:
        FileError: It is no text, too long, outside of `ROOT`, or has a part or a character that no memory file has.
    """
    if not isinstance(path, str):
        raise FileError(f"path is {shown(path)}; give a path such as {ROOT}/notes.md")
    for spelling in (path, unquote(path), unquote(unquote(path))):
        if any(part in (".", "..") for part in spelling.replace("\\", "/").split("/")):
            raise FileError(f"Path {shown(path)} would escape {ROOT} directory")
    if not path.isprintable() or "\\" in path:
        raise FileError(
            f"Path {shown(path)} holds a backslash or a control character; give one such as {ROOT}/notes.md"
        )
    parts = [each for each in path.split("/") if each]
    if not path.startswith("/") or parts[:1] != [ROOT.strip("/")]:
        raise FileError(f"Path must start with {ROOT}, got: {shown(path)}")
    found = "/" + "/".join(parts)
    if len(found) > LONGEST_PATH:
        raise FileError(f"Path {shown(path)} has {len(found)} characters; the limit is {LONGEST_PATH}")
    return found


def _checked_file(path: object) -> str:
    found = checked_path(path)
    if found == ROOT:
        raise FileError(f"The path {ROOT} is the memory directory itself; give a path in it, such as {ROOT}/notes.md")
    return found


def _below(path: str, files: Iterable[str]) -> list[str]:
    return [each for each in files if each == path or each.startswith(f"{path}/")]


def _missing(path: str) -> FileError:
    return FileError(f"The path {path} does not exist. Please provide a valid path.")


def _message(path: str, text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise FileError(f"the text of {path} is {shown(text)}; give text")
    content: Any = text if text.strip() else [{"type": _BLANK, "content": text}]
    return {"role": "assistant", "content": content, "id": path, "metadata": {"by": "memory tool", "file": path}}


def _text(entry: Entry) -> str:
    if isinstance(entry.content, str):
        return entry.content
    return "".join(str(each.get("content", "")) for each in entry.content if isinstance(each, dict))


def _listing(path: str, files: dict[str, str]) -> str:
    """A folder's files and folders, with sizes, as Anthropic's own tool lists them."""
    sizes: dict[str, int] = {path: 0}
    for file, text in files.items():
        if not file.startswith(f"{path}/"):
            continue
        parts = file.removeprefix(f"{path}/").split("/")
        if any(part.startswith(".") or part == "node_modules" for part in parts):
            continue
        size = len(text.encode())
        sizes[path] += size
        for depth in range(1, min(len(parts), DEPTH) + 1):
            name = f"{path}/{'/'.join(parts[:depth])}" + ("/" if depth < len(parts) else "")
            sizes[name] = sizes.get(name, 0) + size
    header = (
        f"Here're the files and directories up to {DEPTH} levels deep in {path}, excluding hidden items and "
        "node_modules:"
    )
    return "\n".join([header, *(f"{_size(size)}\t{name}" for name, size in sizes.items())])


def _size(size: float) -> str:
    for unit in ("B", "K", "M"):
        if size < 1024:
            return f"{size:.0f}{unit}" if unit == "B" else f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}G"


def _range(given: Sequence[int] | None, lines: int) -> tuple[int, int]:
    if given is None:
        return 1, lines
    ends = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    if len(ends) != 2 or any(isinstance(each, bool) or not isinstance(each, int) for each in ends):
        raise FileError(f"Invalid `view_range` parameter: {shown(given)}. Give two line numbers, such as [1, 20].")
    first, last = ends[0], lines if ends[1] == -1 else min(ends[1], lines)
    if not 1 <= first <= lines or last < first:
        raise FileError(f"Invalid `view_range` parameter: {shown(given)}. The file has {lines} lines.")
    return first, last


def _numbered(lines: Sequence[str], first: int, last: int) -> str:
    return "\n".join(f"{number:>{NUMBER}}\t{line}" for number, line in enumerate(lines[first - 1 : last], first))


def _lines_of(content: str, text: str) -> list[int]:
    found, at = [], content.find(text)
    while at >= 0:
        found.append(content[:at].count("\n") + 1)
        at = content.find(text, at + 1)
    return found
