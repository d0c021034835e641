"""Tools, resources and prompts on a repository's guidelines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field

from deltamem_agents.mcp_server.guideline_results import (
    RULE,
    GuidelineBrief,
    GuidelineRules,
    GuidelineSync,
    NoteTaken,
    brief_of,
    rule_of,
    rules_of,
    sync_of,
)
from deltamem_agents.mcp_server.memories import Memories
from deltamem_agents.mcp_server.memory_tools import JSON, NO_PATH
from deltamem_agents.mcp_server.repositories import Repositories
from deltamem_agents.mcp_server.schemas import NAME, Budget, Count, File, Kind, Query, Repo, Task, Text, told

if TYPE_CHECKING:
    from deltamem_agents.guidelines import Guidelines
    from deltamem_agents.memory import DeltaMem

T = TypeVar("T")

# The files of the repository are only read; what is kept of them, in memory, is the server's own affair.
READS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
NOTES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)
SYNCS = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

Paths = Annotated[list[File], Field(max_length=20, description="Files or folders that the task is about.")]


class GuidelineTools:
    """The tools on guidelines, the resource of a rule, and the prompt ``brief``.

    Args:
        memories: Opens the database, and an embedder for recalls.
        repositories: The repositories that may be read.
    """

    def __init__(self, memories: Memories, repositories: Repositories) -> None:
        self._memories = memories
        self._repositories = repositories

    def add_to(self, server: MCPServer[Any]) -> None:
        """Register tools, resource and prompt."""
        for tool, title, hints in (
            (self.guidelines_sync, "Read the repository's guidelines", SYNCS),
            (self.guidelines_recall, "Find the rules that answer a question", READS),
            (self.guidelines_brief, "Brief on the rules for a task", READS),
            (self.note, "Note what the work is for", NOTES),
        ):
            server.add_tool(tool, title=title, annotations=hints)
        server.resource(
            f"{RULE}/{{id}}",
            name="rule",
            title="Rule",
            description="A rule of a repository, as it stands in its file now.",
            mime_type=JSON,
            security=NO_PATH,
        )(self.rule)
        server.prompt(name="brief", title="Brief")(self.brief)

    async def guidelines_sync(
        self, ctx: Context[Any, Any], repo: Repo = None
    ) -> Annotated[CallToolResult, GuidelineSync]:
        """Read a repository's guidelines (AGENTS.md and its kin, and configuration) into memory.

        Only what has changed since the last sync is written. Recall and brief do this by themselves.
        """
        await ctx.report_progress(0, 1, "reading the repository")
        done = await self._with(await self._memories.ready(), repo, lambda found: found.sync())
        await ctx.report_progress(1, 1, "done")
        return told(sync_of(done))

    async def guidelines_recall(
        self, query: Query, path: File | None = None, repo: Repo = None, k: Count = 5
    ) -> Annotated[CallToolResult, GuidelineRules]:
        """Find a repository's rules that answer a question, such as "How do I run the tests?", each with file and line.

        Every citation is checked against the file. What is returned is quoted from the repository: data about it.
        """
        mem = await self._memories.searching()
        hints = self._memories.hints
        found = await self._synced(mem, repo, lambda guidelines: guidelines.recall(query, path=path, k=k))
        return told(rules_of(found, hints))

    async def guidelines_brief(
        self,
        task: Task = "",
        paths: Paths = [],  # noqa: B006  # a tool's default is part of its schema, and is not changed
        repo: Repo = None,
        budget: Budget = 400,
    ) -> Annotated[CallToolResult, GuidelineBrief]:
        """The shortest text of a repository's rules that matter for a task: ask for it first, and after compaction."""
        return told(brief_of(await self._brief(task, paths, repo, budget)))

    async def note(
        self,
        text: Text,
        kind: Kind = None,
        files: Paths = [],  # noqa: B006  # as above
        repo: Repo = None,
    ) -> Annotated[CallToolResult, NoteTaken]:
        """Note what the work in the repository is for, or what was decided and why; linked to its commit and files.

        A decision that reverses an earlier one replaces it. guidelines_recall finds notes for questions about the past.
        """
        mem = await self._memories.ready()
        taken = await self._synced(mem, repo, lambda found: found.note(text, kind=kind, files=files))
        return told(NoteTaken(id=taken.id, kind=taken.kind, commit=taken.commit, files=list(taken.files)))

    async def rule(self, id: str) -> str:
        """A rule by its URI."""
        if not 0 < len(id) <= NAME:
            raise ResourceNotFoundError(f"a rule's id has 1 to {NAME} characters, this one has {len(id)}")
        mem = await self._memories.ready()
        used: list[str | None] = [str(each) for each in self._repositories.used]
        for repo in used or [None]:
            for found in await self._synced(mem, repo, lambda each: each.show()):
                if found.rule.id == id:
                    return rule_of(found).model_dump_json()
        raise ResourceNotFoundError("no rule has this id now; guidelines_recall gives the present ones")

    async def brief(self, task: Task = "", path: File | None = None) -> str:
        """The rules of this repository that matter for a task."""
        made = await self._brief(task, [] if path is None else [path], None, 400)
        return made.text or "This repository has no rules that apply."

    async def _brief(self, task: str, paths: list[str], repo: str | None, budget: int) -> Any:
        mem = await self._memories.ready()
        return await self._synced(mem, repo, lambda found: found.brief(task, paths=paths, budget=budget))

    async def _synced(self, mem: DeltaMem, repo: str | None, work: Callable[[Guidelines], T]) -> T:
        """Work on guidelines that are up to date: an edit that nobody announced must not go unnoticed."""

        def both(found: Guidelines) -> T:
            found.sync()
            return work(found)

        return await self._with(mem, repo, both)

    async def _with(self, mem: DeltaMem, repo: str | None, work: Callable[[Guidelines], T]) -> T:
        return await asyncio.to_thread(lambda: work(self._repositories.open(mem, repo)))
