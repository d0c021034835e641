"""Bring the journal up to date with the files: only what changed is written, superseded or erased; and watching."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from deltamem_agents.errors import require_extra
from deltamem_agents.guidelines import work
from deltamem_agents.guidelines.files import UnreadableError, read_bytes, stamp
from deltamem_agents.guidelines.git import GitError
from deltamem_agents.guidelines.matching import match
from deltamem_agents.guidelines.reading import Reading, read_sources, rules_in_order
from deltamem_agents.guidelines.records import Records
from deltamem_agents.guidelines.repository import SKIPPED, Repository, is_committed
from deltamem_agents.guidelines.results import Synced
from deltamem_agents.guidelines.rule import Rule, new_id
from deltamem_agents.guidelines.sources import Source, local_files, source_of, sources_among

FORMAT = 1  # of the manifest and of how rules are read; another one reads every file again


@dataclass(slots=True)
class Seen:
    """What a repository looks like, by its files' stamps alone."""

    sources: dict[str, Source]
    stamps: dict[str, list[int]]
    head: str | None


def look(repository: Repository, manifest: Mapping[str, Any]) -> Seen:
    """List the sources with their stamps; no file is read.

    Raises:
        GitError: The repository cannot be listed.
    """
    sources = sources_among(repository.files())
    for file in local_files(sources):
        source = source_of(file)
        if source is not None and file not in sources:
            sources[file] = source
    watched = [*sources, *(each for each in manifest.get("sources", {}) if each not in sources)]  # those imported
    stamps = {file: found.as_list() for file in watched if (found := stamp(repository.root / file)) is not None}
    return Seen({file: source for file, source in sources.items() if file in stamps}, stamps, repository.head())


def is_unchanged(seen: Seen, manifest: Mapping[str, Any]) -> bool:
    """Whether nothing has changed since the sync that stored the manifest."""
    same = manifest.get("format") == FORMAT and manifest.get("head") == seen.head
    return same and manifest.get("stamps") == seen.stamps


def plan(repository: Repository, records: Records, seen: Seen) -> tuple[Reading, Changes]:
    """Read the files, and compare with the journal; nothing is written."""
    reading = read_sources(repository, sorted(seen.sources.values(), key=_reading_order))
    head = records.manifest.get("head")
    try:
        renamed = repository.renames(head, seen.head) if head else {}
    except GitError:  # the old commit is gone, as after a rebase
        renamed = {}
    commits = _commits(repository, reading, records.manifest, seen.head)
    present = [replace(rule, commit=commits.get(rule.file)) for rule in rules_in_order(reading)]
    return reading, changes_of(records.rules() if records.entry else [], present, renamed)


@dataclass(slots=True)
class Changes:
    """How the rules in the files differ from those in the journal."""

    added: list[Rule]
    changed: list[tuple[Rule, Rule]]  # the old one, and the new one with its id
    moved: list[tuple[Rule, Rule]]
    removed: list[Rule]
    count: int = 0


def changes_of(old: Iterable[Rule], present: list[Rule], renamed: Mapping[str, str]) -> Changes:
    """Compare journalled rules with those in the files, which get their ids."""
    olds = list(old)
    matched = match(olds, present, renamed)
    changes = Changes([], [], [], matched.gone, len(present))
    for before, now in matched.pairs:
        former = before.former if before.file == now.file else (*before.former, before.file)
        now = replace(now, id=before.id, former=former)
        if before.text != now.text:
            changes.changed.append((before, now))
        elif before != now:
            changes.moved.append((before, now))
    taken = {each.id for each in olds}
    for rule in matched.new:
        named = replace(rule, id=new_id(rule, taken))
        taken.add(named.id)
        changes.added.append(named)
    return changes


def apply(repository: Repository, records: Records, seen: Seen, reading: Reading, changes: Changes) -> Synced:
    """Write the changes, then the manifest. If this is interrupted, the next sync does the rest."""
    commits = work.record_commits(repository, records, seen.head)
    records.erase([each.id for each in changes.removed])
    records.write([*changes.added, *(now for _, now in changes.changed)])
    records.describe(now for _, now in changes.moved)
    for file in reading.files:
        if file not in seen.stamps and (found := stamp(repository.root / file)) is not None:
            seen.stamps[file] = found.as_list()
    records.put_manifest(
        {
            "format": FORMAT,
            "head": seen.head,
            "stamps": seen.stamps,
            "sources": {
                file: [each.form, each.rank, each.directory, each.globs] for file, each in reading.files.items()
            },
            "warnings": reading.warnings,
            "work": records.manifest.get("work") if repository.rebasing else seen.head,
        }
    )
    return Synced(
        agent=records.agent,
        added=len(changes.added),
        changed=len(changes.changed),
        removed=len(changes.removed),
        moved=len(changes.moved),
        rules=changes.count,
        files=len(reading.rules),
        commits=commits,
        warnings=(*repository.warnings, *reading.warnings),
    )


def _reading_order(source: Source) -> tuple[int, int, str]:
    """AGENTS.md before what links to it or imports it, and the nearest directory first."""
    return (source.rank, source.file.count("/"), source.file)


def _commits(
    repository: Repository, reading: Reading, manifest: Mapping[str, Any], head: str | None
) -> dict[str, str | None]:
    """The commit that last changed each file, None for a file with changes since."""
    if head is None:
        return {}
    try:
        committed = repository.committed(reading.rules)
        last = repository.last_commits(committed)
    except GitError as error:
        reading.warnings.append(f"commits are unknown: {error}")
        return {}
    found: dict[str, str | None] = {}
    for file in reading.rules:
        try:
            clean = is_committed(read_bytes(repository.root, file), committed.get(file))
        except UnreadableError:
            clean = False
        found[file] = last.get(file) if clean else None
    return found


DEBOUNCE = 300  # milliseconds that changes are gathered for
QUIET = 500  # milliseconds without a change, after which the watch is known to have begun
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

    known = set[str]()

    def matters(change: object, path: str) -> bool:
        if git_dir is not None and Path(path).is_relative_to(git_dir):
            return os.path.relpath(path, git_dir).replace(os.sep, "/") in _OF_GIT
        inside = os.path.relpath(path, root).replace(os.sep, "/")
        if SKIPPED.intersection(inside.split("/")[:-1]):
            return False
        if source_of(inside) is not None or inside in known:
            return True
        # A folder that comes or goes: what was in it by then is not told file by file.
        came = change == watchfiles.Change.added and os.path.isdir(path)
        return came or any(each.startswith(f"{inside}/") for each in known)

    began = False
    yield sync()
    known.update(sources())
    for changes in watchfiles.watch(
        *folders,
        watch_filter=matters,
        debounce=DEBOUNCE,
        stop_event=stop,
        raise_interrupt=True,
        rust_timeout=QUIET,
        yield_on_timeout=True,
    ):
        if began and not changes:
            continue
        began = True  # the first time also without changes: they may have come before the watch began
        done = sync()
        known.clear()
        known.update(sources())
        if done.wrote:
            yield done
