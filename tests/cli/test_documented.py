"""Every command, argument and option is in docs/command-line.md, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from deltamem_agents.cli import app


def commands(group, before=""):
    """Each command by its name, one of a group by both: "db upgrade"."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def command_of(title):
    """A heading without the arguments, which are in capitals."""
    return " ".join(word for word in title.split() if word == word.lower() and word[0].isalpha())


PAGE = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text(encoding="utf-8")
GROUP = typer.main.get_command(app)
COMMANDS = dict(commands(GROUP))
SECTIONS = {
    command_of(title): text
    for title, text in re.findall(r"^## deltamem (.+)\n((?:(?!^## )(?s:.))*)", PAGE, flags=re.MULTILINE)
}
SHARED = PAGE[: PAGE.index("## deltamem")]


def test_every_command_has_a_section():
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_documented(name):
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "argument":
            continue
        for option in parameter.opts:
            assert f"`{option}`" in SECTIONS[name] + SHARED, f"{name} {option} is not in docs/command-line.md"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_documented_option_exists(name):
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert set(re.findall(r"^\| `(--[\w-]+)`", SECTIONS[name], flags=re.MULTILINE)) <= options


@pytest.mark.parametrize("name", COMMANDS)
def test_documented_defaults_are_the_real_ones(name):
    row = re.compile(r"^\| `(--[\w-]+)`.*? \| (.*?) \|", flags=re.MULTILINE)
    documented = dict(row.findall(SHARED)) | dict(row.findall(SECTIONS[name]))
    for parameter in COMMANDS[name].params:
        for option in parameter.opts:
            default = documented.get(option, "")
            if default.startswith("`"):
                assert f"`{parameter.default}`" == default, (name, option)
            elif option in documented:
                assert parameter.default in (None, False, []) or parameter.required, (name, option)


def test_options_of_the_whole_are_documented():
    for parameter in GROUP.params:
        for option in parameter.opts:
            assert f"`{option}`" in PAGE or f"`deltamem {option}`" in PAGE, option


def test_every_command_and_option_says_what_it_does():
    for name, command in COMMANDS.items():
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), (name, parameter.name)
