"""`Repository`: a working tree, what is in it, and its identity as an agent. Knows nothing about rules or memory."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, RepositoryError, shown
from deltamem_agents.guidelines.files import UnreadableError, decoded, read_bytes, stamp
from deltamem_agents.guidelines.git import GitError, fields, git

MOST_FILES = 200_000  # files of a plain folder that are listed
SKIPPED = frozenset(
    "node_modules bower_components vendor third_party third-party thirdparty site-packages venv .venv __pycache__ dist "
    "fixtures fixture __fixtures__ testdata test-data test_data snapshots __snapshots__ Pods .git .tox .nox .cache "
    ".mypy_cache .ruff_cache .pytest_cache .next .nuxt target.noindex".split()
)


@dataclass(frozen=True, slots=True)
class Repository:
    """A working tree, of git or a plain folder.

    Args:
        root: Its top folder, resolved.
        git_dir: The worktree's own git folder; None for a plain folder.
        common_dir: The git folder that linked worktrees share.
        remote: The address that identifies the repository, without credentials; empty if it has none.
        warnings: What a user should know, such as that there is no git.
    """

    root: Path
    git_dir: Path | None = None
    common_dir: Path | None = None
    remote: str = ""
    warnings: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str | Path = ".") -> Repository:
        """Find the working tree that a folder is in.

        Raises:
            ConfigError: The path is not valid.
            RepositoryError: There is no such folder, it cannot be read, or it is a bare repository.
        """
        folder = arguments.path(path, "repository")
        try:
            folder = folder.resolve()
            with os.scandir(folder):
                pass
        except (OSError, RuntimeError) as error:
            raise RepositoryError(
                f"cannot open the repository {str(path)!r}: {error}; give the folder of a working tree"
            ) from error
        try:
            told = git(folder, "rev-parse", "--is-bare-repository", "--is-inside-git-dir", "--absolute-git-dir")
        except GitError as error:
            return cls(folder, warnings=(f"{folder} is read as a plain folder, its rules have no commit: {error}",))
        bare, inside, git_dir = told.splitlines()[:3]
        if bare == "true" or inside == "true":
            raise RepositoryError(f"{str(folder)!r} is a bare repository or a git folder; give a working tree of it")
        top, common = git(folder, "rev-parse", "--show-toplevel", "--git-common-dir").splitlines()[:2]
        warnings: tuple[str, ...] = ()
        if (Path(git_dir) / "rebase-merge").exists() or (Path(git_dir) / "rebase-apply").exists():
            warnings = ("a rebase is under way: its commits are recorded once it has ended",)
        return cls(Path(top).resolve(), Path(git_dir), (folder / common).resolve(), _remote(folder), warnings)

    @property
    def agent(self) -> str:
        """The id of the agent that remembers this repository: ``repo:`` and a hash of its remote, or else its path."""
        named = self.remote or str(self.common_dir or self.root)
        return f"repo:{hashlib.sha256(named.encode('utf-8', 'surrogateescape')).hexdigest()[:20]}"

    @property
    def rebasing(self) -> bool:
        """Whether a rebase is under way."""
        return any("rebase" in each for each in self.warnings)

    def head(self) -> str | None:
        """The commit that is checked out; None where there is none."""
        if self.git_dir is None:
            return None
        try:
            return git(self.root, "rev-parse", "--verify", "--quiet", "HEAD").strip() or None
        except GitError:
            return None

    def branch(self) -> str | None:
        """The branch that is checked out; None if HEAD is detached."""
        if self.git_dir is None:
            return None
        try:
            return git(self.root, "symbolic-ref", "--quiet", "--short", "HEAD").strip() or None
        except GitError:
            return None

    def files(self, *, every: bool = False) -> list[str]:
        """The files that are tracked, or new and not ignored.

        Args:
            every: Also those of dependencies and test fixtures, in which no rules are looked for.
        """
        if self.git_dir is not None:
            listed: Iterable[str] = fields(
                git(self.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
            )
        else:
            listed = self._walk()
        named = [each for each in listed if _is_text(each)]
        return named if every else [each for each in named if not SKIPPED.intersection(each.split("/")[:-1])]

    def _walk(self) -> Iterator[str]:
        count = 0
        for folder, folders, names in os.walk(self.root):
            folders[:] = sorted(each for each in folders if each not in SKIPPED)
            inside = os.path.relpath(folder, self.root).replace(os.sep, "/")
            for name in sorted(names):
                count += 1
                if count > MOST_FILES:
                    return
                yield name if inside == "." else f"{inside}/{name}"

    def exists(self, path: str) -> bool:
        """Whether there is a file or folder of this name in the repository."""
        return stamp(self.root / path) is not None

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder of this name in the repository."""
        return (self.root / path).is_dir()

    def read(self, path: str) -> str:
        """The text of a file.

        Raises:
            UnreadableError: It is outside the repository, too large, no text, or cannot be read.
        """
        return decoded(read_bytes(self.root, path))

    def inside(self, path: str | Path) -> str:
        """A path as it is relative to the root: one that a caller gave, absolute or relative to the root.

        Raises:
            ConfigError: It is not below the root.
        """
        given = arguments.path(path)
        whole = Path(os.path.normpath(given if given.is_absolute() else self.root / given))
        for each in (whole, whole.parent.resolve() / whole.name):
            if each.is_relative_to(self.root):
                return "" if each == self.root else each.relative_to(self.root).as_posix()
        raise ConfigError(f"path {shown(str(path))} is not below {str(self.root)!r}; give a path of this repository")

    def last_commits(self, files: Iterable[str], since: str | None = None) -> dict[str, str]:
        """The commit that last changed each file, of those in ``since..HEAD``.

        Raises:
            GitError: The history cannot be read.
        """
        wanted, found = set(files), dict[str, str]()
        if not wanted or self.head() is None:
            return found
        span = ["HEAD"] if since is None else [f"{since}..HEAD"]
        options = ("--format=%x01%H", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv")
        told = git(self.root, "log", *options, *span, "--", *sorted(wanted))
        commit = ""
        for each in re.split(r"[\0\n]+", told):
            if each.startswith("\1"):
                commit = each[1:]
            elif each in wanted and each not in found:
                found[each] = commit
        return found

    def committed(self, files: Iterable[str]) -> dict[str, str]:
        """The object id of each file's content in HEAD."""
        if self.head() is None:
            return {}
        told = fields(git(self.root, "ls-tree", "-r", "-z", "HEAD", "--", *sorted(set(files))))
        entries = (each.split("\t", 1) for each in told)
        return {name: about.split()[2] for about, name in entries if about.split()[1] == "blob"}

    def renames(self, old: str, new: str | None) -> Mapping[str, str]:
        """Old name to new name of the files renamed between two commits."""
        if new is None or old == new:
            return {}
        options = ("--name-status", "-z", "-M40%", "--diff-filter=R", "--no-ext-diff", "--no-textconv")
        parts = fields(git(self.root, "diff", *options, old, new))
        return {parts[i + 1]: parts[i + 2] for i in range(0, len(parts) - 2, 3)}


def is_committed(data: bytes, object_id: str | None) -> bool:
    """Whether a file's content is the object that git holds, whatever its line ends in the working tree."""
    if object_id is None:
        return False
    kind = hashlib.sha1 if len(object_id) == 40 else hashlib.sha256
    return any(
        kind(b"blob %d\0" % len(each) + each).hexdigest() == object_id for each in {data, data.replace(b"\r\n", b"\n")}
    )


def _is_text(name: str) -> bool:
    """Whether a file's name is text that a database can hold."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


def _remote(folder: Path) -> str:
    """The address of ``origin``, or of the only remote, in one form for all ways of reaching it."""
    try:
        told = git(folder, "config", "--local", "--get-regexp", r"^remote\..*\.url$")
    except GitError:
        return ""
    found = dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
    if "remote.origin.url" in found:
        url = found["remote.origin.url"]
    elif len(found) == 1:
        (url,) = found.values()
    else:
        return ""
    if url.startswith(("/", ".", "file:")) or re.match(r"[A-Za-z]:[\\/]", url):
        return url  # a folder: of this machine only
    plain = re.sub(r"^[a-z+]+://", "", url.strip())
    plain = re.sub(r"^[^@/]*@", "", plain)
    plain = re.sub(r"^([^/:]+):(?!\d+/)", r"\1/", plain)
    return plain.removesuffix("/").removesuffix(".git").casefold()


__all__ = ["SKIPPED", "Repository", "UnreadableError", "is_committed"]
