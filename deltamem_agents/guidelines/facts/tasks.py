"""Facts of task runners and CI: Makefile, justfile, Taskfile, pre-commit, workflows. None of them is run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from deltamem_agents.guidelines.facts.statement import Fact, line_of, table
from deltamem_agents.guidelines.front_matter import parse_yaml

_TARGET = re.compile(r"^(?!\.)([\w][\w./-]*(?: [\w][\w./-]*)*)\s*:(?![=:])([^=#\n]*)(?:#+\s*(.*))?$")
_RECIPE = re.compile(r"^@?([\w][\w-]*)((?:\s+[\w+*$][\w=\"'*-]*)*)\s*:(?!=)([^#\n]*)(?:#\s*(.*))?$")
LONGEST = 200  # characters of what a target runs
MOST = 60  # commands of a CI workflow
_VARIABLE = re.compile(r"^(?:export )?([A-Za-z_]\w*)\s*[:?]?=[ \t]*(.*)$", re.MULTILINE)  # of a Makefile
_REFERENCE = re.compile(r"\$[({]([A-Za-z_]\w*)[)}]")


def makefile(text: str) -> Iterator[Fact]:
    """The targets of a Makefile, with what its comments say of them."""
    values = {name: value.strip() for name, value in _VARIABLE.findall(text)}

    def replaced(recipe: str) -> str:
        for _ in range(3):  # a variable's value may name others
            recipe = _REFERENCE.sub(lambda found: values.get(found[1], found[0])[:LONGEST], recipe)[: 4 * LONGEST]
        return recipe

    yield from _targets(text, "make", _TARGET, lambda line: line.startswith("\t"), replaced)


def justfile(text: str) -> Iterator[Fact]:
    """The recipes of a justfile."""
    yield from _targets(text, "just", _RECIPE, lambda line: line[:1] in (" ", "\t"))


def _targets(
    text: str, tool: str, pattern: re.Pattern[str], inside: object, replaced: Callable[[str], str] = str
) -> Iterator[Fact]:
    lines = text.split("\n")
    said = ""
    for number, line in enumerate(lines, 1):
        if comment := re.match(r"#+\s*(.*)", line):
            said = f"{said} {comment[1].strip()}".strip()
            continue
        found = pattern.match(line)
        if found is None or found[1].startswith("PHONY") or line.startswith(("set ", "export ", "alias ")):
            said = ""
            continue
        words = (found[found.re.groups] or "").strip().lstrip("#").strip() or said
        does, last = _recipe(lines, number, inside)
        does = replaced(does)
        needs = " ".join((found[found.re.groups - 1] or "").split())
        runs = f"runs `{does[:LONGEST]}`" if does else f"runs {needs}" if needs else ""
        for name in found[1].split():
            told = "; ".join(filter(None, (words, runs)))
            yield Fact(f"`{tool} {name}`{f': {told}' if told else ''}", number, last, kind="command")
        said = ""


def _recipe(lines: list[str], number: int, inside: object) -> tuple[str, int]:
    commands, last = [], number
    assert callable(inside)
    for place in range(number, len(lines)):
        if not inside(lines[place]):
            break
        if lines[place].strip() and not lines[place].strip().startswith("#"):
            commands.append(lines[place].strip().lstrip("@-").rstrip("\\").strip())
            last = place + 1
    return "; ".join(filter(None, commands)), last


def taskfile(text: str) -> Iterator[Fact]:
    """The tasks of a Taskfile.yml."""
    for name, task in table(parse_yaml(text), "tasks").items():
        told, runs = "", task
        if isinstance(task, dict):
            told = str(task.get("desc") or task.get("summary") or "")
            runs = task.get("cmds", task.get("cmd", []))
        steps = runs if isinstance(runs, list) else [runs]
        does = "; ".join(
            each if isinstance(each, str) else str(each.get("cmd", ""))
            for each in steps
            if isinstance(each, str | dict)
        )
        words = "; ".join(filter(None, (told, f"runs `{does[:LONGEST]}`" if does.strip("; ") else "")))
        line = line_of(text, rf"^\s+[\"']?{re.escape(str(name))}[\"']?\s*:")
        yield Fact(f"`task {name}`{f': {words}' if words else ''}", line, kind="command")


def pre_commit(text: str) -> Iterator[Fact]:
    """The hooks of a .pre-commit-config.yaml."""
    whole = parse_yaml(text)
    repos = whole.get("repos") if isinstance(whole, dict) else None
    for repo in repos if isinstance(repos, list) else ():
        hooks = repo.get("hooks") if isinstance(repo, dict) else None
        for hook in hooks if isinstance(hooks, list) else ():
            id = hook.get("id") if isinstance(hook, dict) else None
            if isinstance(id, str):
                name = f" ({hook['name']})" if isinstance(hook.get("name"), str) else ""
                yield Fact(
                    f"pre-commit hook: {id}{name} runs before each commit",
                    line_of(text, rf"id\s*:\s*[\"']?{re.escape(id)}"),
                )


def workflow(text: str) -> Iterator[Fact]:
    """The commands of a CI workflow, and the versions that it tests."""
    whole = parse_yaml(text)
    name = table(whole).get("name")
    title = f"CI workflow {name}" if isinstance(name, str) else "CI workflow"
    place = count = 0
    for job in table(whole, "jobs").values():
        steps = table(job).get("steps")
        for step in steps if isinstance(steps, list) else ():
            run = step.get("run") if isinstance(step, dict) else None
            if not isinstance(run, str) or count >= MOST:
                continue
            count += 1
            first = next((line.strip() for line in run.split("\n") if line.strip()), "")
            found = text.find(first, place) if first else -1
            place = found if found >= 0 else place
            label = f" ({step['name']})" if isinstance(step.get("name"), str) else ""
            does = "; ".join(line.strip() for line in run.strip().split("\n") if line.strip())
            yield Fact(f"{title}{label} runs `{does[:LONGEST]}`", text.count("\n", 0, place) + 1, kind="command")
        for key, value in table(job, "strategy", "matrix").items():
            if isinstance(value, list) and re.search(r"version|python|node|java|go|rust|os", str(key), re.IGNORECASE):
                listed = ", ".join(map(str, value))
                yield Fact(f"{title} tests on {key}: {listed}", line_of(text, rf"^\s*{re.escape(str(key))}\s*:"))
