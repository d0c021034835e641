"""The repositories that the server may read: those at or below its roots, and no other folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deltamem_agents.errors import ConfigError, shown

if TYPE_CHECKING:
    from deltamem_agents.guidelines import Guidelines
    from deltamem_agents.memory import DeltaMem


class Repositories:
    """Opens the guidelines of a repository, if it lies at or below a root. Blocks; for use in threads.

    Args:
        roots: Folders. Without one, the repository of the working directory is the only one.

    Raises:
        ConfigError: A root is no folder.
    """

    def __init__(self, roots: Sequence[Path] = ()) -> None:
        self._given = bool(roots)
        self._roots = [each.resolve() for each in roots or [Path.cwd()]]
        for root in self._roots:
            if not root.is_dir():
                raise ConfigError(f"root {shown(str(root))} is not a folder; give --root the folder of a repository")
        self._used: dict[Path, None] = {}

    @property
    def used(self) -> list[Path]:
        """The top folders of the repositories that were opened, in the order of their first use."""
        return list(self._used)

    def open(self, mem: DeltaMem, repo: str | None) -> Guidelines:
        """The guidelines of the repository that a folder is in.

        Args:
            repo: The folder, absolute or relative to the only root; None for the only root itself.

        Raises:
            ConfigError: It is outside of the roots, or None where there are several.
            RepositoryError: It is no repository that can be read.
        """
        from deltamem_agents.guidelines import Guidelines

        folder = self._folder(repo)
        found = Guidelines(mem, folder)
        top = found.repository.root
        if self._given and not self._allowed(top):
            raise ConfigError(
                f"{shown(str(folder))} is in the repository {shown(str(top))}, which is not at or below a --root; "
                f"start the server with --root {shown(str(top))}"
            )
        if not self._given and found.repository.git_dir is None:  # a home folder, perhaps
            raise ConfigError(
                f"{shown(str(folder))} is in no git repository; start the server in one, or with --root FOLDER"
            )
        self._used[top] = None
        return found

    def _folder(self, repo: str | None) -> Path:
        if repo is None:
            if len(self._roots) > 1:
                raise ConfigError(f"repo is missing; give a folder at or below {self._told()}")
            return self._roots[0]
        if "\0" in repo:
            raise ConfigError("repo has a NUL character; give a folder")
        given = Path(repo)
        if not given.is_absolute() and len(self._roots) > 1:
            raise ConfigError(f"repo {shown(repo)} is relative, and there are several roots; give an absolute folder")
        folder = (self._roots[0] / given).resolve()
        if not self._allowed(folder):
            raise ConfigError(
                f"repo {shown(repo)} is outside of the server's roots; give a folder at or below {self._told()}"
            )
        return folder

    def _allowed(self, folder: Path) -> bool:
        return any(folder.is_relative_to(root) for root in self._roots)

    def _told(self) -> str:
        return " or ".join(shown(str(each)) for each in self._roots[:5])
