"""Consoles of any encoding, outputs that end early or are full, and text that would steer a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable

import pytest

from deltamem_agents.store import Store
from deltamem_agents.terminal import printable

SAID = "Mara likes 東京 🚀 Žižkov é"
ENCODINGS = ["ascii", "latin-1", "cp1252", "cp437", "shift_jis", "utf-8", "utf-16"]


@pytest.fixture
def told(url):
    """Agent 東京 with one message, for commands that load no model."""
    with Store.open(url) as store:
        store.append("東京", [{"role": "user", "content": SAID, "metadata": {"🚀": "東"}}], "Žižkov")
    return url


def shown(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_the_encoding_lacks_is_escaped(deltamem, told, encoding):
    of = ("--agent", "東京", "--url", told)
    for command in (("log", *of), ("agents", "--url", told), ("fork", "東京", "🚀", "--url", told)):
        done = deltamem(*command, encoding=encoding)
        assert done.code == 0 and "�" not in done.out and "rror" not in done.err, done.err
        assert shown("東京", encoding) in done.out or shown("東京", encoding) in "".join(done.out.split())
    for command in (("log", *of), ("agents", "--url", told), ("rollback", "東京", 0, "--url", told)):
        done = deltamem(*command, "--json", encoding=encoding)
        assert done.code == 0 and json.loads(done.out)
    entry = deltamem("log", *of, "--at", 1, "--json", encoding=encoding).json[0]
    assert entry["content"] == SAID and entry["metadata"] == {"🚀": "東"} and entry["session"] == "Žižkov"
    refused = deltamem("fork", "東京", "🚀", "--url", told, encoding=encoding)
    assert refused.code == 1 and shown("🚀", encoding) in refused.err and refused.err.startswith("error: ")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
def test_help_and_usage_errors_too(deltamem, encoding):
    assert "deltamem" in deltamem("--help", encoding=encoding).out
    assert "--dry-run" in deltamem("erase", "--help", encoding=encoding).out
    assert deltamem("log", "--東京", encoding=encoding).code == 2


@pytest.mark.slow  # the model
@pytest.mark.parametrize("encoding", ["cp1252"])
def test_recall_and_chat(deltamem, url, encoding):
    options = ("--url", url, "--embedder", "none")
    assert deltamem("write", SAID, *options, encoding=encoding).code == 0
    found = deltamem("recall", "Mara", *options, encoding=encoding)
    assert found.code == 0 and shown("東京", encoding) in "".join(found.out.split())
    assert SAID in deltamem("recall", "Mara", "--json", *options, encoding=encoding).json["text"]
    assert deltamem("chat", "東京?", *options, encoding=encoding).code == 0
    assert deltamem("write", "-", *options, stdin=SAID.encode("utf-8"), encoding="utf-8").code == 0


def test_as_a_process(process, told):
    of = ("--agent", "東京", "--url", told)
    for env in ({"PYTHONIOENCODING": "cp1252"}, {"LC_ALL": "C"}):
        done = process("log", *of, "--json", **env)
        assert done.code == 0 and done.json[0]["content"] == SAID and done.err == ""


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "deltamem_agents.cli", *map(str, arguments)]
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_an_output_that_is_not_read_full_or_closed(told):
    command = ("log", "--agent", "東京", "--url", told)
    reader, writer = os.pipe()
    os.close(reader)
    unread = run(*command, stdout=writer)
    os.close(writer)
    assert unread.returncode == 1 and unread.stderr == b""
    closed: Callable[[], None] = lambda: os.close(1)  # noqa: E731
    assert run(*command, preexec_fn=closed).returncode == 0
    for form in ((), ("--json",)) if os.path.exists("/dev/full") else ():
        with open("/dev/full", "wb") as full:
            done = run(*command, *form, stdout=full)
        assert done.returncode == 1 and done.stderr.startswith(b"error: standard output cannot be written: No space")
        assert done.stderr.count(b"\n") == 1


STEERING = {
    "escape sequences": "\x1b[31mred\x1b]0;title\x07",
    "C1 controls": "\x9b31m\x85",
    "returns": "gone\rback",
    "overrides": "\u202etxet\u202c",
    "isolates": "\u2066x\u2069",
    "separators": "a\u2028b\u2029c",
    "invisible": "a\u200bb\u2060c\ufeffd",
    "tags": "\U000e0041\U000e007f",
    "annotations": "\ufff9x\ufffb",
    "lone surrogates": "\udc80",
}
KEPT = ["\u200d", "\u200c", "\u200e", "\u200f", "👩\u200d🚀", "می\u200cخواهم", "e\u0301", "line\nbreak\ttab"]


@pytest.mark.parametrize("text", STEERING.values(), ids=STEERING)
def test_nothing_stored_or_typed_steers_the_terminal(deltamem, url, text):
    raw = set(re.findall(r"[^\x20-\x7e\n]", text))
    name = f"x{text}"
    if "\udc80" not in text:  # which no database takes
        with Store.open(url) as store:
            store.append(name, [{"role": "user", "content": f"note {text}"}], f"s{text}")
    else:
        Store.open(url).close()
    for command in (
        ("log", "--agent", name),
        ("agents",),
        ("fork", name, f"y{text}"),
        ("fork", name, f"y{text}"),
        ("rollback", name, 0),
        ("log", "--agent", f"no {text}", "--session", text),
        ("export", name, f"z{text}.zip"),
        ("import", f"no{text}.zip"),
        ("db", f"n{text}"),
        ("log", f"--n{text}"),
        ("--debug", "rollback", name, 9),
    ):
        done = deltamem(*command, *(() if command[0] == "db" else ("--url", url)))
        assert not raw & set(done.out + done.err), command
    assert raw.isdisjoint(printable(text)) and "�" in printable(text)


def test_what_spells_words_is_kept():
    for text in KEPT:
        assert printable(text) == text
