"""Git hooks that sync in the background after a merge, a checkout or a rewrite. They never fail and never delay git.

An existing hook is kept beside ours, which runs it last and returns its exit code. `uninstall` restores it.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
from pathlib import Path

from deltamem_agents.errors import ConfigError, RepositoryError
from deltamem_agents.guidelines.git import git
from deltamem_agents.guidelines.repository import Repository

NAMES = ("post-merge", "post-checkout", "post-rewrite")
MARK = "# deltamem guidelines: syncs in the background; 'deltamem guidelines uninstall' removes this"
FORMER = ".before-deltamem"
_SCRIPT = """#!/bin/sh
{mark}
root=$(pwd)
(
    cd / && {setsid}{command} "$root" --url {url} </dev/null >/dev/null 2>&1 &
) </dev/null >/dev/null 2>&1
if [ -x "$0{former}" ]; then
    exec "$0{former}" "$@"
fi
exit 0
"""


def install(repository: Repository, url: str) -> list[Path]:
    """Install the hooks; an existing hook is kept and still runs.

    Args:
        url: The database that is synced to.

    Returns:
        The hooks' files.

    Raises:
        ConfigError: The URL holds a password, which a hook would store in plain text.
        RepositoryError: There is no git, the hooks are shared with other repositories, or cannot be written.
    """
    from deltamem_agents.store.masking import masked

    if masked(url) != url:
        raise ConfigError("the URL has a password, which a hook would store; leave it to PGPASSFILE or a service file")
    folder = _folder(repository)
    command = shlex.join([sys.executable, "-m", "deltamem_agents.cli", "guidelines", "sync"])
    setsid = "setsid " if any((Path(each) / "setsid").exists() for each in os.get_exec_path()) else "nohup "
    script = _SCRIPT.format(mark=MARK, setsid=setsid, command=command, url=shlex.quote(_absolute(url)), former=FORMER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            hook = folder / name
            if (hook.exists() or hook.is_symlink()) and not _is_ours(hook):
                hook.rename(folder / f"{name}{FORMER}")
            _write(hook, script)
    except OSError as error:
        raise RepositoryError(f"cannot write the hooks in {str(folder)!r}: {error}") from error
    return [folder / name for name in NAMES]


def uninstall(repository: Repository) -> list[Path]:
    """Remove our hooks and restore those that were there before; returns the files that were ours."""
    folder = _folder(repository)
    gone = []
    try:
        for name in NAMES:
            hook, former = folder / name, folder / f"{name}{FORMER}"
            if _is_ours(hook):
                hook.unlink()
                gone.append(hook)
                if former.exists() or former.is_symlink():
                    former.rename(hook)
    except OSError as error:
        raise RepositoryError(f"cannot change the hooks in {str(folder)!r}: {error}") from error
    return gone


def installed(repository: Repository) -> list[str]:
    """The names of our hooks that are installed."""
    if repository.git_dir is None:
        return []
    folder = _folder(repository)
    return [name for name in NAMES if _is_ours(folder / name)]


def _folder(repository: Repository) -> Path:
    """Where git looks for this repository's hooks.

    Raises:
        RepositoryError: There is no git, or the folder is shared with other repositories.
    """
    if repository.git_dir is None or repository.common_dir is None:
        raise RepositoryError(f"{str(repository.root)!r} is not a git repository; hooks need one")
    told = git(repository.root, "rev-parse", "--git-path", "hooks", own_hooks=True).strip()
    folder = (repository.root / os.path.expanduser(told)).resolve()
    if not any(folder.is_relative_to(each) for each in (repository.root, repository.common_dir, repository.git_dir)):
        raise RepositoryError(
            f"core.hooksPath is {str(folder)!r}, which other repositories share; set it for this one, such as "
            "'git config core.hooksPath .git/hooks', or run 'deltamem guidelines sync' from those hooks"
        )
    return folder


def _is_ours(hook: Path) -> bool:
    try:
        return MARK in hook.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _write(hook: Path, script: str) -> None:
    """Write a script in one step, so that git never runs half of it."""
    made = hook.with_name(f".{hook.name}.{os.getpid()}")
    made.write_text(script, encoding="utf-8")
    made.chmod(made.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    made.replace(hook)


def _absolute(url: str) -> str:
    """A URL of SQLite with an absolute path: a hook runs in another folder."""
    scheme, mark, path = url.partition(":///")
    if not scheme.startswith("sqlite") or not mark or path.startswith(("/", "file:")) or not path:
        return url
    name, query, options = path.partition("?")
    return f"{scheme}:///{os.path.abspath(name)}{query}{options}"
