"""What is typed: the lines of a conversation with its commands, and messages on standard input. Knows no memory."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from deltamem_agents import terminal
from deltamem_agents.errors import InvalidMessageError

HELP = "/exit, /quit or Ctrl-D ends; /help shows this; start a line with // to send it with one slash"
_COMMAND = re.compile(r"/[A-Za-z?]+")


def spoken() -> Iterator[str]:
    """What a person types, line by line, until the end of input or "/exit". Commands are not said.

    Raises:
        InvalidMessageError: A line is not of standard input's encoding.
    """
    asks = sys.stdin is not None and sys.stdin.isatty()
    if asks:
        terminal.say("Say something; /exit or Ctrl-D ends, /help shows more.", err=True)
    while True:
        line = _line("you> " if asks else "")
        if line is None or line in ("/exit", "/quit"):
            return
        if line in ("/help", "/?"):
            terminal.say(HELP, err=True)
        elif asks and _COMMAND.fullmatch(line):
            terminal.say(f"{line} is not a command; {HELP}", err=True)
        elif line:
            yield line[1:] if line.startswith("//") else line


def text_of_stdin() -> str:
    """All of standard input.

    Raises:
        InvalidMessageError: It is closed, or not of its encoding.
    """
    if sys.stdin is None:
        raise InvalidMessageError("standard input is closed; give the messages as arguments")
    try:
        return _checked(sys.stdin.read())
    except UnicodeDecodeError as error:
        raise _not_encoded(error.object[error.start], error.start) from error


def _line(prompt: str) -> str | None:
    """The next line without the space around it; None at the end."""
    try:
        return _checked(input(prompt)).strip()
    except (EOFError, RuntimeError):  # the end, or there is no standard input
        return None
    except UnicodeDecodeError as error:
        raise _not_encoded(error.object[error.start], error.start) from error


def _checked(text: str) -> str:
    """Text as it was decoded; what Python could not decode it may have kept as lone surrogates."""
    odd = re.search("[\udc80-\udcff]", text)
    if odd:
        raise _not_encoded(ord(odd[0]) - 0xDC00, len(text[: odd.start()].encode(errors="surrogateescape")))
    return text


def _not_encoded(byte: int, place: int) -> InvalidMessageError:
    encoding = (sys.stdin.encoding or "utf-8").upper()
    return InvalidMessageError(
        f"standard input is not {encoding}: byte 0x{byte:02x} at {place} is not valid in it; nothing was written: "
        "convert it, or name its encoding in the environment, as in PYTHONIOENCODING=latin-1"
    )
