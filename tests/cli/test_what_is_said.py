"""A command says what it did not do, in the words of the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

import deltamem_agents
from deltamem_agents.cli import app
from deltamem_agents.cli.remedies import spelled
from deltamem_agents.store import Store

PLAIN = ("--backbone", "none", "--embedder", "none")
IN_MEMORY = (
    "sqlite://",
    "sqlite:///",
    "sqlite:///:memory:",
    "sqlite+pysqlite:///:memory:",
    "sqlite:///file::memory:?uri=true",
    "sqlite:///file::memory:?cache=shared&uri=true",
    "sqlite:///file:x?mode=memory&cache=shared&uri=true",
    "sqlite:///file:/x.db?vfs=memdb&uri=true",
)


def commands(group, before=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*before, name))
        else:
            yield (*before, name), command


OF_A_DATABASE = {
    name: ["1" for each in command.params if each.param_type_name == "argument" and each.required]
    for name, command in commands(typer.main.get_command(app))
    if any("--url" in each.opts for each in command.params)
}


def assert_no_lasting_database(done, tmp_path):
    assert done.code == 1 and done.out == "" and done.err.count("\n") == 1
    assert "in memory" in done.err and "sqlite:///memory.db" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", OF_A_DATABASE, ids=" ".join)
def test_no_command_works_on_a_database_that_is_gone_after_it(deltamem, tmp_path, name):
    assert_no_lasting_database(deltamem(*name, *OF_A_DATABASE[name], "--url", "sqlite://"), tmp_path)


def test_a_database_in_memory_is_known_however_it_is_spelled(deltamem, tmp_path):
    for url in IN_MEMORY:
        assert_no_lasting_database(deltamem("write", "hello", "--url", url, *PLAIN), tmp_path)
        assert_no_lasting_database(deltamem("log", "--url", url), tmp_path)
    assert_no_lasting_database(deltamem("log", env={"DELTAMEM_URL": "sqlite://"}), tmp_path)


@pytest.fixture
def told(url):
    with Store.open(url) as store:
        messages = [{"role": "user", "content": f"Mara has {n} cats.", "id": f"m{n}"} for n in range(3)]
        store.append("alice", messages, "s")
    return url


@pytest.mark.parametrize(
    "options",
    [
        ("--id", "nope"),
        ("--id", "nope", "--id", "neither"),
        ("--id", "m0", "--session", "other"),
        ("--session", "other"),
        ("--since", "2090-01-01"),
        ("--until", "2020-01-01"),
        ("--id", "nope", "--no-tombstone"),
    ],
    ids=" ".join,
)
def test_an_erasure_that_matches_nothing_says_so_and_ends_with_1(deltamem, told, options):
    for more in (("--yes",), ("--yes", "--json"), ("--dry-run",)):
        done = deltamem("erase", "alice", *options, *more, "--url", told, "--backbone", "none")
        assert done.code == 1 and "erased: agent 'alice' has no such message" in done.err
        assert done.out == "" if "--json" not in more else done.json["erased"][0]["messages"] == 0
    assert len(deltamem("log", "--agent", "alice", "--url", told, "--json").json) == 3


def test_an_erasure_names_the_ids_that_matched_nothing(deltamem, told):
    done = deltamem("erase", "alice", "--id", "m0", "--id", "nope", "--yes", "--url", told, "--backbone", "none")
    assert done.code == 1 and "'nope'" in done.err and "'m0'" not in done.err and "1 message" in done.out
    left = [each["id"] for each in deltamem("log", "--agent", "alice", "--url", told, "--json").json]
    assert left == ["m1", "m2"]
    again = ("erase", "alice", "--id", "m0", "--no-tombstone", "--yes", "--url", told, "--backbone", "none")
    done = deltamem(*again)  # its hash goes
    assert done.code == 0 and "erased earlier" in done.out
    assert deltamem(*again).code == 1


@pytest.mark.parametrize("budget", [0, 3])
def test_a_budget_without_room_is_not_a_memory_without_records(deltamem, told, budget):
    asked = ("recall", "Mara's cats", "--agent", "alice", "--budget", budget, "--url", told, *PLAIN)
    done = deltamem(*asked)
    told_person = " ".join(done.out.split())
    assert "does not fit the budget" in told_person and "holds nothing" not in done.out
    assert re.search(
        rf"3 records were found, .* budget of {budget} tokens has room for none: .* takes \d+", told_person
    )
    found = deltamem(*asked, "--json").json
    assert found["left_out"] == 3 and found["records"] == [] and "has room for none" in " ".join(found["notes"])
    done = deltamem("recall", "zebra", "--agent", "alice", "--budget", budget, "--url", told, *PLAIN)
    assert "holds nothing" in done.out and "room" not in done.out
    roomy = deltamem("recall", "Mara's cats", "--agent", "alice", "--budget", 500, "--json", "--url", told, *PLAIN)
    assert roomy.json["left_out"] == 0 and "room" not in " ".join(roomy.json["notes"])


PYTHON = re.compile(
    r"\bDeltaMem\b|\b\w+\(\)|\b[a-z_]+\.\w+\(|\w\((?=\w+=)|=(?:None|True|False)\b|\b(?:None|True|False)\b"
    r"|(?<![-\w/&?{])(?!PYTHONIOENCODING\b|x?uri\b|cache\b)\w+=(?=['\"\w…])"
)
ELSEWHERE = {  # files whose messages no command can print, with the reason
    "arguments.py": "of arguments that no option sets",
    "core/delta_layers.py": "of training in a program",
    "engine/engine.py": "of keys that a program gives",
    "engine/options.py": "of arguments that no option sets",
    "memory/tool_output.py": "of arguments that no option sets",
    "memory/open_memories.py": "of objects that a program restores",
    "processes.py": "of processes that a program forks",
    "recall/embed.py": "of embedders that are objects of a program",
    "recall/naming.py": "of embedders that are objects of a program",
    "recall/sentence_model.py": "of embedders that are objects of a program",
    "store/dialects/psycopg3.py": "of an engine that a program made",
}


NOT_OF_COMMANDS = re.compile(
    r"\b(?:SELECT|CREATE|PRAGMA)\b|DeltaMem (?:was|is being) closed|\bfolded x;|connect_args|Reply \| None"
    r"|where a DeltaMem is open$"
)


def said(path):
    """The texts of a module that may be part of a message, values in them as 'x'."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr | ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node and not isinstance(node, ast.Expr)
    } | {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_no_message_of_a_command_speaks_python():
    """Those of the library are spelled anew; see `remedies`."""
    package = Path(deltamem_agents.__file__).parent
    layers = ("cli", "memory", "recall", "store", "engine", "core", "demo")
    paths = [*package.glob("*.py"), *(path for layer in layers for path in (package / layer).rglob("*.py"))]
    found = [
        f"{path.relative_to(package)}: {spelled(text)}"
        for path in sorted(paths)
        if path.relative_to(package).as_posix() not in ELSEWHERE and "migrations" not in path.parts
        for text in said(path)
        if " " in text and not NOT_OF_COMMANDS.search(text) and PYTHON.search(spelled(text))
    ]
    assert found == []


def test_what_needs_a_backbone_names_the_option(deltamem, told):
    for command in (["recall", "x", "--mode", "state"], ["chat", "x"], ["verify", "alice"], ["rebuild", "alice"]):
        done = deltamem(*command, "--backbone", "none", "--url", told)
        assert done.code == 1 and "--backbone 'tiny'" in done.err and not PYTHON.search(done.err)
    receipt = deltamem("erase", "alice", "--id", "m0", "--yes", "--json", "--backbone", "none", "--url", told).json
    assert "--backbone none" in receipt["state"]["note"]
    refused = deltamem("write", "caf\udce9", "--url", told, *PLAIN)
    assert refused.code == 1 and "terminal's encoding" in refused.err and not PYTHON.search(refused.err)
