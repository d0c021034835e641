"""Remedies as the command line spells them: errors of the library name its arguments and methods.

An error says ``adapter='folder or hub id'`` to a programmer; who typed a command has an option ``--adapter``.
"""

from __future__ import annotations

import re

_METHODS = {
    "log": "'deltamem log'",
    "agents": "'deltamem agents'",
    "delete": "'deltamem delete'",
    "rebuild": "'deltamem rebuild'",
    "verify": "'deltamem verify'",
    "reindex": "'deltamem reindex'",
    "purge": "'deltamem db purge'",
}
_OPTIONS = (
    "adapter backbone budget device dtype embedder forks handover k mode schema session since until url dry_run".split()
)
_SPELLINGS = (  # in this order
    (re.compile(r"\boverwrite=True\b"), "--force"),
    (re.compile(r"\bembedder=False\b"), "--embedder none"),
    (re.compile(r"\bbackbone=None\b"), "--backbone none"),
    (re.compile(r"\btombstone=False\b"), "--no-tombstone"),
    (re.compile(r"\bsession= \(--session\), or give pairs of session and id, such as \(.*\)"), "--session"),
    (re.compile(r"close every DeltaMem that uses it and open it again"), "run the command again"),
    (re.compile(r"decode the bytes it came from with errors='replace'"), "give it in the terminal's encoding"),
    (re.compile(rf"(?<![\w/&?;'\"=.])({'|'.join(_OPTIONS)})=True\b"), r"--\1"),
    (re.compile(rf"(?<![\w/&?;'\"=.])({'|'.join(_OPTIONS)})=(?=['\"\w…])"), r"--\1 "),
    (re.compile(rf"(?<![\w.'])(?:\w+\.)?({'|'.join(_METHODS)})\(\)"), lambda found: _METHODS[found[1]]),
)


def spelled(text: str) -> str:
    """A message with the library's arguments and methods as options and commands.

    >>> spelled("names no adapter: give adapter='folder or hub id'; log() shows the positions")
    "names no adapter: give --adapter 'folder or hub id'; 'deltamem log' shows the positions"
    """
    for spelling, command in _SPELLINGS:
        text = spelling.sub(command, text)
    return text.replace("--dry_run", "--dry-run")
