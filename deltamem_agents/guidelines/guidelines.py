"""`Guidelines`: a repository's rules and work, remembered by an agent of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown
from deltamem_agents.guidelines import hooks, synchronization, work, work_recall
from deltamem_agents.guidelines import status as health
from deltamem_agents.guidelines.brief import compose
from deltamem_agents.guidelines.contradictions import overridden
from deltamem_agents.guidelines.matching import verified
from deltamem_agents.guidelines.ranking import Ranking
from deltamem_agents.guidelines.records import WORK, Records
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import Brief, Differences, Explanation, Found, GuidelinesRecall, Synced, Work
from deltamem_agents.memory import DeltaMem

K = 5
BUDGET = 400  # tokens of a brief
LONGEST_QUERY = 4000  # characters


class Guidelines:
    """The guidelines of one repository in an open memory. Holds no data of its own; make as many as you like.

    Methods raise RepositoryError if the repository cannot be read, ConfigError for an argument that is not valid, such
    as a path outside of the repository, and what the memory raises.

    Args:
        mem: The memory; one without a backbone will do.
        root: A folder of the repository.
        agent: The agent that remembers it; by default one of its own, `Repository.agent`.
    """

    def __init__(self, mem: DeltaMem, root: str | Path = ".", *, agent: str | None = None) -> None:
        self.mem = mem
        self.repository = Repository.open(root)
        self.agent = self.repository.agent if agent is None else arguments.identifier(agent, "agent")
        mem.check_open()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.repository.root)!r}, agent={self.agent!r})"

    @property
    def synced(self) -> bool:
        """Whether this checkout was ever synchronized."""
        return self._records().entry is not None

    def sync(self) -> Synced:
        """Bring the memory up to date with the files. Nothing is written if nothing has changed.

        An edited rule supersedes the old one, a deleted one is erased exactly, and the rules of a renamed file keep
        their ids.
        """
        self.repository = Repository.open(self.repository.root)
        records = self._records()
        seen = synchronization.look(self.repository, records.manifest)
        if synchronization.is_unchanged(seen, records.manifest):
            warnings = (*self.repository.warnings, *records.manifest.get("warnings", ()))
            return Synced(agent=self.agent, rules=len(records.rules()), files=len(seen.sources), warnings=warnings)
        reading, changes = synchronization.plan(self.repository, records, seen)
        return synchronization.apply(self.repository, records, seen, reading, changes)

    def watch(self, stop: Event | None = None) -> Iterator[Synced]:
        """Sync now and after each change of a source or of the checked-out commit; yields the syncs that wrote.

        Args:
            stop: Ends the watch when it is set.

        Raises:
            MissingExtraError: watchfiles is not installed.
        """
        return synchronization.watch(self.repository, self.sync, self.sources, stop)

    def sources(self) -> Collection[str]:
        """The files that the last sync read."""
        found: Mapping[str, Any] = self._records().manifest.get("sources", {})
        return found.keys()

    def diff(self) -> Differences:
        """How the files differ from memory: what the next sync would write."""
        records = self._records()
        seen = synchronization.look(self.repository, records.manifest)
        _, changes = synchronization.plan(self.repository, records, seen)
        return Differences(
            added=tuple(changes.added),
            changed=tuple(changes.changed),
            moved=tuple(changes.moved),
            removed=tuple(changes.removed),
        )

    def show(self, path: str | Path | None = None) -> list[Found]:
        """All rules, or those that apply to a path, as they stand in the files now, the nearest first.

        Args:
            path: A file or folder of the repository; it need not exist.
        """
        found = self._found(path)
        return sorted(found, key=lambda each: (-each.rule.scope.depth, each.rule.rank, each.rule.file, each.rule.lines))

    def recall(self, query: str, *, path: str | Path | None = None, k: int = K) -> GuidelinesRecall:
        """The rules that answer a question, best first; none if no rule does.

        Args:
            query: A question, such as "How do I run the tests?".
            path: Only rules that apply to this file or folder.
            k: At most this many rules.
        """
        query = arguments.text(query, "query")[:LONGEST_QUERY]
        arguments.whole(k, "k", 1)
        found = self._found(path)
        ranking = Ranking([each.rule for each in found])
        best = ranking.best(query, found, k, self._meaning(query, len(found)), given=path is not None)
        return GuidelinesRecall(rules=tuple(_nearer_first(best, found, k)), work=tuple(self.work(query, k=k)))

    def _meaning(self, query: str, count: int) -> Mapping[str, float] | None:
        """Cosine of a question and each rule by the rule's id; None without an embedder, or if it fails."""
        if self.mem.retriever.model is None or not count or not query.strip():
            return None
        session = self._records().session
        self.mem.retriever.catch_up(self.agent)
        records = self.mem.retriever.similar(
            self.agent, query, 4 * count, holds=lambda name, _: name == session, embedded=True
        )
        return {each.message_id: each.score for each in reversed(records)} or None

    def brief(self, task: str = "", *, paths: Iterable[str | Path] = (), budget: int = BUDGET) -> Brief:
        """The shortest text of the rules that matter for a task, standing rules first, each with its citation.

        Args:
            task: What is to be done; may be empty.
            paths: Files or folders that the task is about.
            budget: At most this many tokens, as `token_count` estimates them.
        """
        task = arguments.text(task, "task")[:LONGEST_QUERY]
        arguments.whole(budget, "budget")
        named = list(paths) if not isinstance(paths, str | Path) else [paths]
        found: dict[str, Found] = {}
        for path in named or [None]:
            found |= {each.rule.id: each for each in self._found(path)}
        return compose(self.repository, list(found.values()), task, budget)

    def note(
        self, text: str, *, kind: str | None = None, files: Iterable[str] = (), replaces: str | None = None
    ) -> Work:
        """Remember what the work at hand is for, or what was decided; linked to the commit and the files it names.

        A decision that reverses an earlier one supersedes it.

        Args:
            kind: "note", "decision" or "intent"; by default what the words suggest.
            files: Files that it is about, besides those that it names.
            replaces: Id of the note that it replaces.
        """
        if not arguments.text(text, "note").strip():
            raise ConfigError("the note is empty; give a sentence")
        if kind is not None:
            arguments.one_of(kind, "kind", ("note", "decision", "intent"))
        named = [self.repository.inside(each) for each in arguments.texts(list(files), "files")]
        made, _ = work.take_note(self.repository, self._records(), text.strip(), kind, named, replaces)
        return made

    def work(self, query: str = "", *, k: int = K) -> list[Work]:
        """The commits and notes that answer a question about past work, best first; without one, the newest.

        Args:
            query: Such as "What did I change in auth yesterday, and why?".
        """
        arguments.text(query, "query")
        done = [work.work_of(each) for each in self._records().entries(WORK)]
        if not query.strip():
            return done[::-1][:k]
        return work_recall.answering(query, done, work.user_name(self.repository) if done else "", k)

    def status(self) -> health.Status:
        """What is stale, contradictory, unreachable, duplicated or over-long."""
        records = self._records()
        journalled = records.rules()
        found = verified(self.repository, journalled, records.manifest)
        rules = [each.rule for each in found]
        standing = {each.id for each in rules}
        entries = records.entries(WORK)
        kinds = [each.kind for each in rules]
        return health.Status(
            agent=self.agent,
            rules=len(journalled),
            files=len({each.file for each in journalled}),
            kinds={kind: kinds.count(kind) for kind in sorted(set(kinds))},
            commit=records.manifest.get("head"),
            stale=tuple(each for each in found if each.stale),
            gone=tuple(each for each in journalled if each.id not in standing),
            unsynced=len(self.diff().added),
            contradictory=tuple(health.contradictory(rules)),
            duplicated=tuple(health.duplicates(rules)),
            unreachable=tuple(health.unreachable(self.repository, rules)),
            over_long=tuple(health.over_long(self.repository, rules)),
            skipped=tuple(records.manifest.get("warnings", ())),
            hooks=tuple(hooks.installed(self.repository)),
            commits=sum(each.metadata["kind"] == "commit" for each in entries),
            notes=sum(each.metadata["kind"] != "commit" for each in entries),
        )

    def explain(self, rule: str, *, path: str | Path | None = None) -> Explanation:
        """Why a rule applies, or does not.

        Args:
            rule: Its id, the beginning of it, or ``file:line``.
            path: The file or folder that is asked about.

        Raises:
            ConfigError: There is no such rule, or several.
        """
        arguments.text(rule, "rule")
        inside = None if path is None else self.repository.inside(path)
        every = overridden(self._verified(), inside)
        name, _, line = rule.rpartition(":")
        fit = [each for each in every if len(rule) >= 4 and each.rule.id.startswith(rule)]
        if not fit and line.isdigit():
            fit = [each for each in every if each.rule.file == name and _holds(each, int(line))]
        if len(fit) != 1:
            several = f"is {len(fit)} rules" if fit else "is not a rule that stands in the files"
            raise ConfigError(f"{shown(rule)} {several}; give an id that 'show' prints, or file:line")
        applies = inside is None or fit[0].rule.scope.applies(inside)
        return Explanation(found=fit[0], path=inside, applies=applies)

    def prune(self, *, before: datetime | None = None, dry_run: bool = False) -> health.Pruned:
        """Erase rules of checkouts that are gone, commits that no branch leads to, and old work.

        Args:
            before: Also erase commits and notes from before this time; UTC if it has no zone.
            dry_run: Only report what would be erased.
        """
        arguments.moments(before, None)
        if before is not None and before.tzinfo is None:
            before = before.replace(tzinfo=UTC)
        return health.prune(self.repository, self._records(), before, dry_run=arguments.flag(dry_run, "dry_run"))

    def install_hooks(self, url: str) -> list[Path]:
        """Install git hooks that sync in the background; see `hooks.install`."""
        return hooks.install(self.repository, arguments.text(url, "url"))

    def uninstall_hooks(self) -> list[Path]:
        """Remove the git hooks and restore those that were there before."""
        return hooks.uninstall(self.repository)

    def _records(self) -> Records:
        return Records.of(self.mem, self.agent, self.repository)

    def _verified(self) -> list[Found]:
        records = self._records()
        return verified(self.repository, records.rules(), records.manifest)

    def _found(self, path: str | Path | None) -> list[Found]:
        """The verified rules, of those that apply to a path if one is given, with what overrides them."""
        inside = None if path is None else self.repository.inside(path)
        found = [each for each in self._verified() if inside is None or each.rule.scope.applies(inside)]
        return overridden(found, inside)


def _holds(found: Found, line: int) -> bool:
    first, last = found.rule.lines
    return first <= line <= last


def _nearer_first(best: list[Found], found: Iterable[Found], k: int) -> list[Found]:
    """The rules in order, but each that is overridden after the one that overrides it."""
    by_citation = {each.rule.citation: each for each in found}
    order: dict[str, Found] = {}
    chosen = {each.rule.id: each for each in best}
    for each in best:
        nearer = by_citation.get(each.overridden_by or "")
        if nearer is not None:
            order.setdefault(nearer.rule.id, chosen.get(nearer.rule.id, nearer))
        order.setdefault(each.rule.id, each)
    return list(order.values())[:k]
