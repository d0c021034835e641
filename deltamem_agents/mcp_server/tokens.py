"""Bearer tokens as a user gives them, each with the agent it is for. Imports no SDK: a fault is told at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deltamem_agents import arguments
from deltamem_agents.errors import ConfigError, shown

LARGEST_FILE = 64 * 1024  # bytes
LONGEST = 4096  # characters of a token


def read_tokens(path: Path, agent: str) -> Mapping[str, str]:
    """Agent by token, from a file with one token a line; what follows a token names its agent, or else it is ``agent``.

    Empty lines, and lines that begin with ``#``, say nothing.

    Raises:
        ConfigError: The file cannot be read, is larger than 64 KiB, is not UTF-8, names a token twice, or holds none;
            or a token is not valid.
        InvalidAgentError: An agent's id is not valid.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ConfigError(f"token file {shown(str(path))} is larger than {LARGEST_FILE} bytes; give a smaller one")
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ConfigError(f"token file {shown(str(path))} is not UTF-8; write one token a line") from None
    except OSError as error:
        raise ConfigError(f"token file {shown(str(path))} cannot be read: {error.strerror or error}") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            continue
        token, *rest = line.split(maxsplit=1)
        if token in found:
            raise ConfigError(f"token file {shown(str(path))} has the token of line {number} twice; remove one")
        found[token] = rest[0] if rest else agent
    if not found:
        raise ConfigError(f"token file {shown(str(path))} holds no token; write one a line")
    return checked(found)


def checked(agents: Mapping[str, str]) -> Mapping[str, str]:
    """Agent by token, checked.

    Raises:
        ConfigError: There is none, or one is empty, too long, or holds a space or a control character.
        InvalidAgentError: An agent's id is not valid.
    """
    if not agents:
        raise ConfigError("no token was given; over HTTP, set DELTAMEM_TOKEN or give --token-file")
    for token, agent in agents.items():
        if not token or len(token) > LONGEST or not token.isprintable() or " " in token:
            raise ConfigError(
                f"a token is empty, longer than {LONGEST} characters, or holds a space or a control character; "
                "make one with: openssl rand -hex 32"
            )
        arguments.identifier(agent, "agent")
    return agents
