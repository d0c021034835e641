"""The figures: how often the right rule comes first, and silence is right; which rules apply where; and the speed."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deltamem_agents.bench.guidelines.repositories import Case, Example
from deltamem_agents.guidelines import Guidelines, Rule
from deltamem_agents.memory import DeltaMem
from deltamem_agents.recall.words import Postings, content_words, text_terms

K = 3
BUDGET = 200  # tokens of a brief; the repositories are small
Places = Sequence[tuple[str, int, int]]  # file, first and last line, best first


@dataclass(slots=True)
class Figures:
    """Counts over all repositories.

    Args:
        first, three: How many questions have the right rule first, or in the first three.
        apart: How many questions share at most one content word with their rule, and of those, how many are right.
        silent: How many questions without an answer got none.
        exact: How many paths have exactly the right rules.
        misses: What went wrong, in words.
    """

    questions: int = 0
    first: int = 0
    three: int = 0
    apart: int = 0
    apart_first: int = 0
    unanswered: int = 0
    silent: int = 0
    paths: int = 0
    exact: int = 0
    brief_tokens: int = 0
    brief_rules: int = 0
    applicable: int = 0
    source_tokens: int = 0
    misses: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "questions": self.questions,
            "first": round(self.first / max(self.questions, 1), 3),
            "first three": round(self.three / max(self.questions, 1), 3),
            "questions that share at most one word": self.apart,
            "first of those": round(self.apart_first / max(self.apart, 1), 3),
            "unanswered": self.unanswered,
            "silent": round(self.silent / max(self.unanswered, 1), 3),
            "paths": self.paths,
            "exact": round(self.exact / max(self.paths, 1), 3),
            "brief tokens": self.brief_tokens,
            "share of the applicable rules in the brief": round(self.brief_rules / max(self.applicable, 1), 3),
            "source tokens": self.source_tokens,
        }

    def ask(self, name: str, case: Case, found: Places, shared: int) -> None:
        """Count one question."""
        places = [(case.file, case.line), *([case.also] if case.also else [])]
        right = [any(file == at and first <= line <= last for at, line in places) for file, first, last in found[:K]]
        self.questions += 1
        self.first += right[:1] == [True]
        self.three += any(right)
        if shared <= 1:
            self.apart += 1
            self.apart_first += right[:1] == [True]
        if right[:1] != [True]:
            self.misses.append(f"{name}: {case.query!r} wants {case.file}:{case.line}, found {list(found[:K])}")


def measure(mem: DeltaMem, made: Sequence[tuple[Example, Path]]) -> tuple[Figures, Figures]:
    """Ask all questions of repositories that were made; returns our figures, and those of BM25 over paragraphs."""
    ours, bm25 = Figures(), Figures()
    for example, root in made:
        guidelines = Guidelines(mem, root)
        guidelines.sync()
        rules = [each.rule for each in guidelines.show()]
        plain = paragraphs(root, sorted({each.file for each in rules}))
        for case in example.questions:
            shared = len(stems(case.query) & stems(text_at(root, rules, case)))
            recalled = guidelines.recall(case.query, path=case.path, k=K)
            ours.ask(example.name, case, [(each.rule.file, *each.rule.lines) for each in recalled.rules], shared)
            bm25.ask(example.name, case, plain(case.query), shared)
        for case in example.unanswered:
            found = guidelines.recall(case.query, k=K).rules
            for figures, silent in ((ours, not found), (bm25, not plain(case.query))):
                figures.unanswered += 1
                figures.silent += silent
            if found:
                told = [(each.rule.citation, each.rule.text[:60], round(each.score, 2)) for each in found]
                ours.misses.append(f"{example.name}: {case.query!r} wants nothing, found {told}")
        for path, names in example.scopes.items():
            _scope(ours, example, guidelines, path, names)
        brief = guidelines.brief("Change the code and its tests", budget=BUDGET)
        ours.brief_tokens += brief.tokens
        ours.brief_rules += len(brief.rules)
        ours.applicable += len(brief.rules) + brief.left_out
        ours.source_tokens += brief.source_tokens
    return ours, bm25


def _scope(figures: Figures, example: Example, guidelines: Guidelines, path: str, names: frozenset[str]) -> None:
    applied = [each.rule for each in guidelines.show(path)]
    found = {
        name
        for name, (file, line) in example.probes.items()
        if any(each.file == file and each.lines[0] <= line <= each.lines[1] for each in applied)
    }
    figures.paths += 1
    figures.exact += found == names
    if found != names:
        figures.misses.append(f"{example.name}: {path} wants {sorted(names)}, found {sorted(found)}")


def paragraphs(root: Path, files: Sequence[str]) -> Callable[[str], Places]:
    """A search of the files' paragraphs by BM25 alone: what there is without any of this."""
    places: list[tuple[str, int, int]] = []
    texts: list[str] = []
    for file in files:
        block: list[str] = []
        for number, line in enumerate([*(root / file).read_text(encoding="utf-8").split("\n"), ""], 1):
            if line.strip():
                block.append(line)
            elif block:
                places.append((file, number - len(block), number - 1))
                texts.append("\n".join(block))
                block = []
    postings = Postings.empty().grown(texts)

    def search(query: str) -> Places:
        scores = postings.scores(query)
        order = sorted(range(len(texts)), key=lambda i: -scores[i])
        return [places[i] for i in order[:K] if scores[i] > 0]

    return search


def stems(text: str) -> set[str]:
    """The stems of a text's content words."""
    return {term for word in content_words(text) for term in text_terms(word) if " " not in term}


def text_at(root: Path, rules: Sequence[Rule], case: Case) -> str:
    """The rule that answers a question, as it stands in its file."""
    return (root / case.file).read_text(encoding="utf-8").split("\n")[case.line - 1]


FILES, SOURCES = 5000, 50
REPEATS = 5


def speeds(root: Path) -> dict[str, float]:
    """Median seconds of a first sync, an unchanged one, one after an edit, and of three commands."""
    tree = large().make(root)
    url = f"sqlite:///{root}.db"
    with DeltaMem.open(None, url=url) as mem:
        guidelines = Guidelines(mem, tree)
        told = {"first sync": _seconds(guidelines.sync, 1)}
        told["unchanged sync"] = _seconds(guidelines.sync)
        told["recall"] = _seconds(lambda: guidelines.recall("How do I run the tests?"))
        (tree / "AGENTS.md").write_text("# Guide\n\n- Run `make check` before each push.\n", encoding="utf-8")
        told["sync after an edit"] = _seconds(guidelines.sync, 1)
    base = [sys.executable, "-m", "deltamem_agents.cli", "guidelines"]
    for name, arguments in (
        ("command sync, unchanged", ["sync", str(tree)]),
        ("command recall", ["recall", "How do I run the tests?", "--repo", str(tree)]),
        ("command brief", ["brief", "--task", "add a test", "--repo", str(tree)]),
    ):
        command = [*base, *arguments, "--url", url]
        told[name] = _seconds(lambda command=command: subprocess.run(command, check=True, capture_output=True))  # type: ignore[misc]
    return {name: round(each, 3) for name, each in told.items()}


def large() -> Example:
    """A repository of 5,000 files, 50 of them with rules."""
    files = {f"src/p{i % 100}/m{i}.py": f"X = {i}\n" for i in range(FILES - SOURCES)}
    rules = {
        f"src/p{i}/AGENTS.md": f"# Part {i}\n\n- Values of part {i} are below {i + 10}.\n" for i in range(SOURCES - 1)
    }
    root = {"AGENTS.md": "# Guide\n\n- Run `make check` before each commit.\n"}
    return Example("large", ({"message": "Start", "files": files | rules | root},), (), (), {}, {})


def _seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
