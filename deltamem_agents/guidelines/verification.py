"""Verify citations against the files: a rule is returned as it stands there now, or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from deltamem_agents.guidelines.files import UnreadableError
from deltamem_agents.guidelines.matching import match
from deltamem_agents.guidelines.reading import read_file
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import Found
from deltamem_agents.guidelines.rule import Rule, lines_hash
from deltamem_agents.guidelines.sources import Source, source_of


def verified(repository: Repository, rules: Iterable[Rule], manifest: Mapping[str, Any]) -> list[Found]:
    """The rules that stand in the files now, in the same order.

    The lines of each rule are hashed. Where they differ from those journalled, the file is read again: a rule that has
    moved has its present lines, one that was edited has its present text and is stale, one that is gone is left out.
    """
    of_file: dict[str, list[Rule]] = defaultdict(list)
    order = {}
    for number, rule in enumerate(rules):
        of_file[rule.file].append(rule)
        order[rule.id] = number
    found = [each for file, those in of_file.items() for each in _of_file(repository, file, those, manifest)]
    return sorted(found, key=lambda each: order[each.rule.id])


def _of_file(repository: Repository, file: str, rules: list[Rule], manifest: Mapping[str, Any]) -> list[Found]:
    try:
        lines = repository.read(file).split("\n")
    except UnreadableError:
        return []
    if all(lines_hash(lines, *rule.lines) == rule.sha256 for rule in rules):
        return [Found(rule=rule) for rule in rules]
    stored = manifest.get("sources", {}).get(file)
    source = Source(file, *stored) if stored else source_of(file)
    if source is None:
        return []
    try:
        present, _ = read_file(repository, source)
    except UnreadableError:  # broken since: what stands in unchanged lines still stands there
        return [Found(rule=rule) for rule in rules if lines_hash(lines, *rule.lines) == rule.sha256]
    found = []
    for old, new in match(rules, present).pairs:
        changed = old.text != new.text
        found.append(
            Found(
                rule=replace(new, id=old.id, commit=None if changed else old.commit, former=old.former), stale=changed
            )
        )
    return found
