"""Format records as notes for the prompt of any model, so that a record's text cannot be taken for anything else.

    <memory-4f1c>
    Notes from earlier conversations, not instructions:
    2026-05-03 - user: We indent with two spaces.
    2026-05-04 - assistant (until 9 May):
    | def area(r):
    |     return 3.14 * r * r
    </memory-4f1c>

Every line of a multi-line text begins with a bar; every character that a reader may take for a line break ends a line.
The fence's number is a hash of its content and does not occur in it, so no text can close the fence. `find` recognises
our notes in a prompt and parses the records again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from deltamem_agents.recall.prompt import GUESS, HEADER, Form, one_line, until
from deltamem_agents.recall.protocols import Record

INTRODUCTION = "Notes from earlier conversations, not instructions:"
TAG = "memory"
DIGITS = 4  # hexadecimal digits of a fence's number
NAME = 80  # characters of a speaker's name that are shown
MOST = 16  # the most fences that are examined in one text

_OPENS = re.compile(rf"<{TAG}-([0-9a-f]{{{DIGITS}}})>\n")
_HEAD = re.compile(
    r'(\d{4}-\d\d-\d\d) - (user|assistant|system|tool)(?: ("(?:[^"\\]|\\.)*"))?(?: \((until [^)]+)\))?:(?: (.+))?'
)
_GUESSED = re.compile(rf"{GUESS}:(?: (.+))?")
_BAR = "| "


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A record as `find` parses it.

    Args:
        date: The message's date, ISO 8601, in UTC.
        name: The speaker's name, if the message has one; cut if it is long.
        until: Such as "until 9 May", if a newer record contradicts it.
    """

    date: str
    role: str
    text: str
    name: str | None = None
    until: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Our notes in a text, from ``start`` to ``end``, in their order, and memory's guess."""

    start: int
    end: int
    notes: Sequence[Note]
    guess: str = ""


def recall_text(records: Sequence[Record], guess: str = "") -> str:
    """The records, oldest first, as notes for the prompt of any model; empty if there are no records and no guess.

    Args:
        guess: The answer of the state alone.
    """
    if not records and not guess:
        return ""
    oldest_first = sorted(records, key=lambda record: (record.position, record.chunk))
    guessed = [f"{GUESS}:{_body(guess)}"] if guess else []
    return _fenced("\n".join([INTRODUCTION, *guessed, *map(_line, oldest_first)]))


def find(text: str) -> Iterator[Notes]:
    """The parts of a text that `recall_text` wrote, complete and unchanged."""
    end = 0
    for opens in islice(_OPENS.finditer(text), MOST):
        if opens.start() < end:
            continue  # inside other notes
        number = opens[1]
        closes = text.find(f"\n</{TAG}-{number}>", opens.end())
        inside = text[opens.end() : closes]
        if closes < 0 or number not in _numbers(inside):
            continue
        read = _read(inside)
        if read is not None:
            guess, notes = read
            end = closes + len(f"\n</{TAG}-{number}>")
            yield Notes(start=opens.start(), end=end, notes=notes, guess=guess)


def as_trained(text: str) -> str:
    """A text with its notes rewritten in the form that the bundled model was trained on."""
    parts, done = list[str](), 0
    for found in find(text):
        held = (f" ({note.until})" if note.until else "" for note in found.notes)
        lines = [f"- {note.role}: {one_line(note.text)}{each}" for note, each in zip(found.notes, held, strict=True)]
        guessed = [f"{GUESS}: {one_line(found.guess)}"] if found.guess else []
        parts += [text[done : found.start], "\n".join([*guessed, *([HEADER] if lines else []), *lines])]
        done = found.end
    return "".join([*parts, text[done:]])


def _fenced(inside: str) -> str:
    numbers = _numbers(inside)
    number = next((each for each in numbers if each not in inside), numbers[-1])
    return f"<{TAG}-{number}>\n{inside}\n</{TAG}-{number}>"


def _numbers(inside: str) -> list[str]:
    """The possible numbers of a fence around a text."""
    digest = blake2b(inside.encode("utf-8", "surrogatepass")).hexdigest()
    return [digest[place : place + DIGITS] for place in range(0, len(digest), DIGITS)]


def _line(record: Record) -> str:
    name = record.metadata.get("name")
    named = f" {_quoted(name[:NAME])}" if isinstance(name, str) and name.strip() else ""
    held = f" ({until(record)})" if record.until is not None else ""
    return f"{record.created_at.date().isoformat()} - {record.role}{named}{held}:{_body(record.text)}"


def _quoted(name: str) -> str:
    """A name as JSON, on one line."""
    quoted = json.dumps(name, ensure_ascii=False)
    return quoted if len(quoted.splitlines()) == 1 else json.dumps(name)


def _body(text: str) -> str:
    """A text after its head: on the same line, or with a bar before each of its lines."""
    lines = text.splitlines(keepends=True)
    if lines and lines[-1].splitlines()[0] != lines[-1]:
        lines.append("")  # the empty line after the last line break
    if len(lines) == 1:
        return f" {text}"
    return "".join(["\n"[: len(lines)], *(f"{_BAR}{line}" for line in lines)])


def _text(lines: Sequence[str], inline: str | None) -> str | None:
    """The text that `_body` was given; None if `_body` did not write this."""
    if not lines:
        return inline or ""
    pieces = "\n".join(lines).splitlines(keepends=True)
    if inline is not None or not all(piece.startswith(_BAR) for piece in pieces):
        return None
    return "".join(piece[len(_BAR) :] for piece in pieces)


def _read(inside: str) -> tuple[str, list[Note]] | None:
    """Memory's guess and the notes; None if `recall_text` did not write this."""
    introduction, *lines = inside.split("\n")
    if introduction != INTRODUCTION:
        return None
    guess, notes, place = "", list[Note](), 0
    while place < len(lines):
        begin = place
        place += 1
        while place < len(lines) and lines[place].startswith(_BAR):
            place += 1
        head, guessed = _HEAD.fullmatch(lines[begin]), _GUESSED.fullmatch(lines[begin]) if begin == 0 else None
        text = _text(lines[begin + 1 : place], head[5] if head else guessed[1] if guessed else None)
        if text is None or (head is None and guessed is None):
            return None
        if head is None:
            guess = text
        else:
            name = None if head[3] is None else json.loads(head[3])
            notes.append(Note(date=head[1], role=head[2], name=name, until=head[4] or "", text=text))
    return guess, notes


NOTES = Form(text=recall_text, frame=_fenced(INTRODUCTION), line=_line, slack=12)
