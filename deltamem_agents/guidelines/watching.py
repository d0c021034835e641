"""Watch a repository, and sync whenever a source of rules or the checked-out commit changes."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from threading import Event

from deltamem_agents.errors import require_extra
from deltamem_agents.guidelines.repository import SKIPPED, Repository
from deltamem_agents.guidelines.results import Synced
from deltamem_agents.guidelines.sources import source_of

DEBOUNCE = 300  # milliseconds that changes are gathered for
_OF_GIT = frozenset(("HEAD", "ORIG_HEAD", "logs/HEAD", "packed-refs"))


def watch(
    repository: Repository,
    sync: Callable[[], Synced],
    sources: Callable[[], Collection[str]],
    stop: Event | None = None,
) -> Iterator[Synced]:
    """Sync now, and then after each change, until ``stop`` is set; yields what each sync did that wrote something.

    Args:
        sources: The files that the last sync read.

    Raises:
        MissingExtraError: watchfiles is not installed.
    """
    require_extra("watchfiles", "guidelines sync --watch", "guidelines")
    import watchfiles

    root, git_dir = repository.root, repository.git_dir
    folders = {root} | ({git_dir} if git_dir is not None and not git_dir.is_relative_to(root) else set())

    def matters(_: object, path: str) -> bool:
        if git_dir is not None and Path(path).is_relative_to(git_dir):
            return os.path.relpath(path, git_dir).replace(os.sep, "/") in _OF_GIT
        inside = os.path.relpath(path, root).replace(os.sep, "/")
        if SKIPPED.intersection(inside.split("/")[:-1]):
            return False
        return source_of(inside) is not None or inside in sources()

    yield sync()
    for _ in watchfiles.watch(*folders, watch_filter=matters, debounce=DEBOUNCE, stop_event=stop, raise_interrupt=True):
        done = sync()
        if done.wrote:
            yield done
