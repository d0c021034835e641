"""Run git on a repository that may be hostile. Knows nothing about rules.

No hook, fsmonitor, external diff, text conversion, pager, signature check or network transport runs, nothing takes an
optional lock, and every call has a time limit. Commands that compare the working tree with the index are not used: they
run the repository's content filters.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from deltamem_agents.errors import RepositoryError

SECONDS = 10.0  # time limit of one call
_SETTINGS = (
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.quotePath=false",
    "diff.external=",
    "log.showSignature=false",
    "log.mailmap=false",
    "protocol.allow=never",
    "submodule.recurse=false",
)
_INHERITED = ("PATH", "HOME", "USERPROFILE", "SYSTEMROOT", "TMPDIR", "XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL")
_ENVIRONMENT = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C",
}


class GitError(RepositoryError):
    """Git failed, is not installed, or took too long."""


def git(root: Path, *arguments: str, seconds: float = SECONDS, own_hooks: bool = False) -> str:
    """Run git in ``root`` and return what it prints.

    Args:
        own_hooks: Whether the repository's own setting of where hooks lie holds: to find them, not to run them.

    Raises:
        GitError: Git is missing, failed, or took longer than ``seconds``.
    """
    settings = [part for each in _SETTINGS if not (own_hooks and "hooksPath" in each) for part in ("-c", each)]
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | _ENVIRONMENT
    try:
        done = subprocess.run(
            ["git", "--no-pager", *settings, *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed, or its folder is gone; install git, or check the path") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GitError(f"git {arguments[0]} in {str(root)!r} failed: {error}") from error
    if done.returncode:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise GitError(f"git {arguments[0]} in {str(root)!r} failed: {told[-1] if told else done.returncode}")
    return done.stdout.decode("utf-8", "surrogateescape")


def fields(text: str) -> Sequence[str]:
    """The NUL-terminated parts of an output."""
    return text.split("\0")[:-1] if text.endswith("\0") else [each for each in text.split("\0") if each]
