"""Episodes: messages to write, and questions to ask afterwards; in memory, and as a file of JSON lines.

A line of a file is one episode::

    {"sessions": [[{"role": "user", "content": "My dog is called Rex."}]],
     "questions": [{"question": "What is my dog called?", "answer": "Rex"}]}

(on one line). A question may give ``messages`` in place of ``question``, and ``kind``, ``checker``, ``reference`` and
``held_out``. Knows nothing about tokens or tensors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, cast, get_args

from deltamem_agents import arguments, bounded_json
from deltamem_agents.errors import EpisodeError, kind_of, shown
from deltamem_agents.store.whole_files import whole_file
from deltamem_agents.training.episodes.checkers import Checker, checker_from_json

UNKNOWN = "I don't know."  # the answer to a question about what was never said
LINE_BYTES = 4 << 20  # limit on one line of a file; a quarter of it if the line is not plain ASCII

Role = Literal["system", "user", "assistant", "tool"]
Reference = Literal["answer", "backbone"]


class Message(TypedDict):
    """A message in the usual form."""

    role: Role
    content: str


def user(content: str) -> Message:
    """A message of the user."""
    return cast(Message, {"role": "user", "content": content})


def assistant(content: str) -> Message:
    """A message of the assistant."""
    return cast(Message, {"role": "assistant", "content": content})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt for the model, asked after an episode's sessions were written, and what its reply should be.

    Args:
        messages: The prompt; the last one is the user's. Earlier ones may hold records.
        answer: The reply to learn; may be empty only with ``reference="backbone"``.
        kind: What is asked: "stated", "changed", "unknown", "rule", "unrelated", …; tables are made per kind.
        checker: What a reply must satisfy; None: it must be ``answer``.
        reference: "backbone" if the right reply is what the backbone says without any memory; ``answer`` is then only
            a text to compare probabilities on.
        held_out: Whether training must never see it.

    Raises:
        EpisodeError: A message or a field is malformed.
    """

    messages: tuple[Message, ...]
    answer: str
    kind: str = "stated"
    checker: Checker | None = None
    reference: Reference = "answer"
    held_out: bool = False

    def __post_init__(self) -> None:
        _check_messages(self.messages, "messages of a question")
        if not self.messages or self.messages[-1]["role"] != "user":
            raise EpisodeError("a question must end with a message of the user, which is what is asked")
        _check_text(self.answer, "answer", empty=self.reference == "backbone")
        _check_text(self.kind, "kind")
        if self.checker is not None and not isinstance(self.checker, Checker):
            raise EpisodeError(f"checker is {kind_of(self.checker)}; give a Checker or None")
        if self.reference not in get_args(Reference):
            raise EpisodeError(f"reference is {shown(self.reference)}; give {' or '.join(get_args(Reference))}")
        if not isinstance(self.held_out, bool):
            raise EpisodeError(f"held_out is {shown(self.held_out)}; give true or false")

    def accepts(self, reply: str) -> bool:
        """Whether a reply is right: it satisfies the checker, or is the answer if there is none."""
        return self.checker.accepts(reply) if self.checker is not None else reply.strip() == self.answer.strip()

    def to_json(self) -> dict[str, Any]:
        """The form that a file holds; fields at their defaults are left out."""
        only = self.messages[0]["content"] if len(self.messages) == 1 else None
        asked = {"question": only} if only is not None else {"messages": list(self.messages)}
        rest = {
            "checker": self.checker.to_json() if self.checker else None,
            "reference": self.reference if self.reference != "answer" else None,
            "held_out": self.held_out or None,
        }
        given = {name: value for name, value in rest.items() if value is not None}
        return {**asked, "answer": self.answer, "kind": self.kind, **given}


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """What one agent is told, in order, and what it is asked afterwards.

    Args:
        sessions: The messages of each session; none if the questions bring all that is needed in their messages.
        questions: At least one; none of them is written.
        id: Names the episode in messages and tables; unique within one source.

    Raises:
        EpisodeError: There is no question, a session is empty, or a message or a field is malformed.
    """

    sessions: tuple[tuple[Message, ...], ...]
    questions: tuple[Question, ...]
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.sessions, tuple):
            raise EpisodeError(f"sessions is {kind_of(self.sessions)}; give a list of sessions")
        for number, session in enumerate(self.sessions, 1):
            _check_messages(session, f"session {number}")
            if not session:
                raise EpisodeError(f"session {number} has no message; leave it out")
        if not isinstance(self.questions, tuple) or not self.questions:
            raise EpisodeError("the episode has no question; give at least one, or nothing can be learned from it")
        if not all(isinstance(question, Question) for question in self.questions):
            raise EpisodeError("one of questions is not a Question")
        _check_text(self.id, "id", empty=True)

    @property
    def messages(self) -> tuple[Message, ...]:
        """All sessions, one after another."""
        return tuple(message for session in self.sessions for message in session)

    def to_json(self) -> dict[str, Any]:
        """The form that a file holds."""
        named = {"id": self.id} if self.id else {}
        return {
            **named,
            "sessions": [list(session) for session in self.sessions],
            "questions": [question.to_json() for question in self.questions],
        }


def read_episodes(path: str | Path, *, check: Callable[[Episode], object] | None = None) -> Iterator[Episode]:
    """Read a file of JSON lines, one episode at a time; blank lines are skipped.

    Args:
        check: Called with each episode; an `EpisodeError` that it raises names the line too.

    Raises:
        ConfigError: ``path`` is not a path.
        EpisodeError: The file cannot be read, holds no episode, or a line is malformed; the message names the line.
    """
    source = arguments.path(path, "path")
    found = False
    try:
        with source.open("rb") as file:
            number = 0
            while line := file.readline(LINE_BYTES + 1):
                number += 1
                if not line.strip():
                    continue
                found = True
                try:
                    episode = _episode(line)
                    if check is not None:
                        check(episode)
                except EpisodeError as error:
                    raise EpisodeError(f"{str(source)!r}, line {number}: {error}") from error
                yield episode
    except OSError as error:
        raise EpisodeError(
            f"cannot read {str(source)!r}: {error.strerror or error}; give a file of episodes"
        ) from error
    if not found:
        raise EpisodeError(f"{str(source)!r} holds no episode; give a file with one JSON object per line")


def write_episodes(path: str | Path, episodes: Iterable[Episode]) -> int:
    """Write a file that `read_episodes` gives back exactly, whole or not at all; a file of that name is replaced.

    Returns:
        The number of episodes.

    Raises:
        ConfigError: ``path`` is not a path.
        EpisodeError: There is no episode, one is too long for a line, or the file cannot be written.
    """
    target = arguments.path(path, "path")
    count = 0
    try:
        with whole_file(target) as file:
            for count, episode in enumerate(episodes, 1):
                line = json.dumps(episode.to_json()).encode()
                if len(line) > LINE_BYTES // 4:  # as ASCII with escapes, to which the lower limit applies
                    raise EpisodeError(f"episode {count} takes {len(line)} bytes, the limit is {LINE_BYTES // 4}")
                file.write(line + b"\n")
            if not count:
                raise EpisodeError("there is no episode to write")
    except OSError as error:
        raise EpisodeError(f"cannot write {str(target)!r}: {error.strerror or error}") from error
    return count


def _episode(line: bytes) -> Episode:
    if len(line) > LINE_BYTES:
        raise EpisodeError(f"the line is longer than {LINE_BYTES} bytes; split the episode")
    try:
        value = bounded_json.loads(line, limit=LINE_BYTES)
    except bounded_json.TooMuchError as error:
        raise EpisodeError(f"the line is too large: {error}; split the episode") from error
    except ValueError as error:
        raise EpisodeError(f"not valid JSON in UTF-8: {error}") from error
    fields = _mapping(value, "the episode", ("sessions", "questions"), ("id",))
    sessions = tuple(
        tuple(_sequence(session, f"session {number}"))
        for number, session in enumerate(_sequence(fields["sessions"], "sessions"), 1)
    )
    questions = []
    for number, question in enumerate(_sequence(fields["questions"], "questions"), 1):
        try:
            questions.append(_question(question))
        except EpisodeError as error:
            raise EpisodeError(f"question {number}: {error}") from error
    return Episode(sessions=sessions, questions=tuple(questions), id=fields.get("id", ""))


def _question(value: object) -> Question:
    optional = ("question", "messages", "answer", "kind", "checker", "reference", "held_out")
    fields = dict(_mapping(value, "it", (), optional))
    if ("question" in fields) == ("messages" in fields):
        raise EpisodeError("give either 'question', a text, or 'messages'")
    if "answer" not in fields and fields.get("reference") != "backbone":
        raise EpisodeError("it lacks 'answer'")
    if "question" in fields:
        fields["messages"] = [{"role": "user", "content": fields.pop("question")}]
    fields["messages"] = tuple(_sequence(fields["messages"], "messages"))
    if fields.get("checker") is not None:
        fields["checker"] = checker_from_json(fields["checker"])
    return Question(**{"answer": "", **fields})


def _mapping(value: object, what: str, required: Sequence[str], optional: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EpisodeError(f"{what} is {kind_of(value)}, {shown(value)}; give a JSON object")
    unknown = sorted(set(value) - set(required) - set(optional))
    if unknown:
        raise EpisodeError(
            f"{what} has a field {shown(unknown[0])}; the fields are {', '.join((*required, *optional))}"
        )
    for name in required:
        if name not in value:
            raise EpisodeError(f"{what} lacks {name!r}")
    return value


def _sequence(value: object, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise EpisodeError(f"{what} is {kind_of(value)}, {shown(value)}; give a list")
    return value


def _check_messages(messages: object, where: str) -> None:
    if not isinstance(messages, tuple):
        raise EpisodeError(f"{where}: {shown(messages)} is not a list of messages")
    for number, message in enumerate(messages, 1):
        what = f"{where}: message {number}"
        fields = _mapping(message, what, ("role", "content"), ())
        if fields["role"] not in get_args(Role):
            raise EpisodeError(f"{what} has role {shown(fields['role'])}; roles are {', '.join(get_args(Role))}")
        _check_text(fields["content"], f"{what}: content")


def _check_text(value: object, what: str, *, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise EpisodeError(f"{what} is {kind_of(value)}, {shown(value)}; give text")
    if not (empty or value.strip()):
        raise EpisodeError(f"{what} is empty; give text")
    if "\0" in value or not _encodes(value):
        raise EpisodeError(f"{what} is {shown(value)}; give text without NUL and lone surrogates")


def _encodes(value: str) -> bool:
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
