"""`Guidelines`: a repository's rules and work, remembered by an agent of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deltamem_agents import arguments
from deltamem_agents.guidelines import synchronization
from deltamem_agents.guidelines.brief import compose
from deltamem_agents.guidelines.ranking import Ranking
from deltamem_agents.guidelines.records import Records
from deltamem_agents.guidelines.repository import Repository
from deltamem_agents.guidelines.results import Brief, Found, GuidelinesRecall, Synced
from deltamem_agents.guidelines.verification import verified
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
        return GuidelinesRecall(rules=tuple(ranking.best(query, found, k)))

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

    def _records(self) -> Records:
        return Records.of(self.mem, self.agent, self.repository)

    def _found(self, path: str | Path | None) -> list[Found]:
        """The verified rules, of those that apply to a path if one is given."""
        inside = None if path is None else self.repository.inside(path)
        records = self._records()
        rules = records.rules()
        if inside is not None:
            rules = [each for each in rules if each.scope.applies(inside)]
        return verified(self.repository, rules, records.manifest)
