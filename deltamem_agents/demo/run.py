"""Runs the demo's two processes one after another, collects what they send, and shows it. Imports no torch itself."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from deltamem_agents import errors
from deltamem_agents.demo.rows import Row
from deltamem_agents.demo.tables import answers_table
from deltamem_agents.engine.packaged import NAMED, adapter_of, folder_of
from deltamem_agents.errors import DeltaMemError
from deltamem_agents.store import masked
from deltamem_agents.terminal import Advance, counted, printable

if TYPE_CHECKING:
    from rich.console import Console

AGENT = "demo"
STRANGER = "stranger"  # another agent in the same database, told different facts

FACTS = (
    "My favourite colour is teal.",
    "Mara plays the cello.",
    "I live in Lisbon.",
    "In the api repository the test runner is pytest.",
    "Hugo has a dog called Biscuit.",
)
STRANGER_FACTS = (
    "My favourite colour is crimson.",
    "Mara plays the trumpet.",
    "I live in Oslo.",
    "In the api repository the test runner is mocha.",
)
QUESTIONS = (
    "What is my favourite colour?",
    "Which instrument does Mara play?",
    "Where do I live?",
    "Which test runner does the api repository use?",
    "What is my favourite drink?",  # never said
)
SMALL_TALK = (
    ("The meeting about the budget was long.", "I see."),
    ("Can you help me with the printer?", "Of course."),
    ("The weather is pretty today.", "That sounds good."),
    ("I think the report looks useful.", "All right."),
)
MODES = ("state", "vector", "hybrid", "no state", "stranger")
BUNDLED = "; the bundled model knows few kinds of facts, and beyond them only the retrieved text is of use"


@dataclass(slots=True, kw_only=True)
class Shown:
    """What the processes sent.

    Args:
        told: One entry per agent: pid, agent, messages, sessions, seconds.
        opened: pid, messages and notes of the second process.
        found: For each question, the record that retrieval ranks first; None for none.
        missing: Frameworks that are not installed, or refuse the model: name, reason.
        url: Where the database was kept; None if it was removed.
        backbone: The model, by the name or folder that was given.
    """

    facts: list[str]
    told: list[dict[str, Any]] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    found: list[dict[str, Any]] = field(default_factory=list)
    missing: list[dict[str, Any]] = field(default_factory=list)
    url: str | None = None
    backbone: str = "tiny"

    def as_dict(self) -> dict[str, Any]:
        """The values, ready for JSON."""
        return asdict(self)

    def take(self, event: str, values: dict[str, Any]) -> None:
        """Record an event."""
        if event == "told":
            self.told.append(values)
        elif event == "opened":
            self.opened = values
        elif event == "row":
            self.rows.append(Row(**values))
        elif event == "found":
            self.found.append(values)
        elif event == "missing":
            self.missing.append(values)

    def show(self, console: Console) -> None:
        """Print everything for a person."""
        own = self.told[0]
        first, second = own["pid"], self.opened["pid"]
        say = _paragraphs(console)
        say(
            f"Process {first} told agent {own['agent']!r} {counted(len(self.facts), 'fact')} among small talk, "
            f"{own['messages']} messages in {counted(own['sessions'], 'session')}, and ended:"
        )
        for fact in self.facts:
            console.print(f"  • {printable(fact)}", markup=False, style="cyan")
        if len(self.told) > 1:
            say(f"It told agent {self.told[1]['agent']!r}, in the same database, different facts.")
        say(f"Process {second} then opened the database, never having seen the conversation, and answered:")
        console.print(answers_table([row for row in self.rows if row.way in MODES], console.width))
        say("The record that retrieval puts first, word for word, whatever the model made of it:")
        for each in self.found:
            console.print(
                Text.assemble(
                    "  • ", (printable(each["question"]), "cyan"), "  →  ", printable(each["record"] or "none")
                )
            )
        if framed := [row for row in self.rows if row.way not in MODES]:
            say(f"Process {second} asked the same through agents of other frameworks:")
            console.print(answers_table(framed, console.width, source="Given"))
        for each in self.missing:
            say(f"{each['name']} was left out: {each['reason']}")
        for note in self.opened["notes"]:
            say(f"Note: {note}")
        self._explain(say, first, second)

    def _explain(self, say: Any, first: int, second: int) -> None:
        size = max((row.state_bytes or 0 for row in self.rows), default=0)
        say(
            f"What you see: only the database passed from process {first} to process {second}. In the rows "
            "'state', no text of the conversation is in the prompt: what the model knows, it knows from "
            f"{size:,} bytes of matrices. 'no state' is the same question with them zeroed, 'stranger' with those of "
            "the other agent; 'vector' and 'hybrid' read retrieved messages too. 'Source' is the part of memory that "
            "supports the answer, and '–' stands where none does; 'Given' is what an agent's model was handed. The "
            f"answers are the model's own, right or wrong{BUNDLED if self.backbone == 'tiny' else ''}."
        )
        if self.url is not None:
            say(f"The database is kept: {self.url}")


def run_demo(
    facts: list[str] | None,
    questions: list[str] | None,
    *,
    url: str | None,
    options: Mapping[str, Any],
    advance: Advance,
) -> Shown:
    """Run both processes.

    Args:
        facts: Replace the built-in facts.
        questions: Replace the built-in questions.
        url: A database to keep; by default a temporary one.
        options: Options of `DeltaMem.open`; JSON values only.
        advance: Called with the current activity.

    Raises:
        ConfigError: A backbone known by name lacks its packages or its adapter.
        DeltaMemError: A process ended with an error, which is raised again here.
    """
    backbone = str(options.get("backbone", "tiny"))
    if backbone in NAMED and (options.get("adapter") or adapter_of(backbone).is_dir()):
        advance(f"Looking for {backbone}", 0, 0)
        folder_of(backbone)  # here, as the first time it prints the licence
    shown = Shown(facts=facts or list(FACTS), backbone=backbone)
    asked = questions or list(QUESTIONS)
    with _database(url) as where:
        opened = {**options, "url": where}
        told = {
            AGENT: conversation(shown.facts),
            STRANGER: conversation(list(STRANGER_FACTS)),
        }
        steps = len(asked) * (len(MODES) + 2)
        for process, request in (
            ("tell", {"open": opened, "agents": told}),
            ("ask", {"open": opened, "agent": AGENT, "stranger": STRANGER, "questions": asked}),
        ):
            for event, values in _events(process, request):
                shown.take(event, values)
                if event == "stage":
                    advance(values["text"], len(shown.rows), steps if shown.rows else 0)
    if url is not None:
        shown.url = masked(url)
    return shown


@contextmanager
def _database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="deltamem-demo-", ignore_cleanup_errors=True) as folder:
        yield f"sqlite:///{Path(folder) / 'memory.db'}"


def _events(name: str, request: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Start a process, send it its request, and yield its events until it ends."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        # -P: a file in the current folder must not shadow a module.
        command = [sys.executable, "-P", "-m", "deltamem_agents.demo.processes", name]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, text=True, encoding="utf-8"
        ) as process:
            assert process.stdin is not None and process.stdout is not None  # both are pipes
            try:
                process.stdin.write(json.dumps(request))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it ended before it read; its stderr is reported below
            try:
                for line in process.stdout:
                    values = json.loads(line)
                    event = values.pop("event")
                    if event == "error":
                        raise getattr(errors, values["kind"], DeltaMemError)(values["message"])
                    yield event, values
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            complaints.seek(0)
            said = complaints.read().strip()
            last = (said.splitlines() or ["no message"])[-1]
            error = DeltaMemError(f"process {process.pid} ({name}) ended with code {process.returncode}: {last}")
            error.add_note(said)  # shown with --debug
            raise error


def _paragraphs(console: Console) -> Any:
    def say(text: str) -> None:
        console.print()
        console.print(printable(text), markup=False)

    return say


def conversation(facts: list[str]) -> list[list[dict[str, str]]]:
    """Two sessions of messages; each fact is followed by a turn of small talk."""
    turns: list[list[dict[str, str]]] = []
    for number, fact in enumerate(facts):
        said, replied = SMALL_TALK[number % len(SMALL_TALK)]
        turns.append(
            [
                {"role": "user", "content": fact},
                {"role": "assistant", "content": "Noted."},
                {"role": "user", "content": said},
                {"role": "assistant", "content": replied},
            ]
        )
    half = -(-len(turns) // 2)
    parts = [turns[:half], turns[half:]]
    return [[message for turn in part for message in turn] for part in parts if part]
