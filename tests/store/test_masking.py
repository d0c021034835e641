"""No password is printed, however a URL is written and wherever it shows."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url
from typer.testing import CliRunner

from deltamem_agents.cli import app
from deltamem_agents.errors import ConfigError, DeltaMemError
from deltamem_agents.store import Store, masked
from deltamem_agents.store.masking import redacted

SECRETS = ("hunter2", "hunter%32", "h@nter", "h%40nter", "nter2")

# Nobody listens on port 9: those that can be understood fail there.
WRONG = [
    "host=127.0.0.1 port=9 user=app password=hunter2 dbname=x",
    "host=db user=app password='hunter2 too' dbname=x",
    "password=hunter2",
    "postgres//app:hunter2@db/x",
    "postgresql:/app:hunter2@db/x",
    "postgresql:app:hunter2@db/x",
    "postgresql;//app:hunter2@db/x",
    "//app:hunter2@db/x",
    "app:hunter2@db/x",
    "app:hunter2@db:5432",
    "hunter2",
    " postgresql://app:hunter2@db/x",
    "\npostgresql://app:hunter2@db/x",
    "'postgresql://app:hunter2@db/x'",
    "DATABASE_URL=postgresql://app:hunter2@db/x",
    "jdbc:postgresql://db/x?user=app&password=hunter2",
    "postgresql://app:hunter2@db:port/x",
    "postgresql://app:hunter2",
    "postgresql://host=db user=app password=hunter2 dbname=x",
    "postgresql://db/x password=hunter2",
    "postgresql://db/x;password=hunter2",
    "postgresql://db/x&password=hunter2",
    "postgresql://db/x#hunter2",
    "postgresql:///app:hunter2@db/x",
    "postgresql:////app:hunter2@db/x",
    "postgresql://app:hunter2 @db /x",
    "postgresql://app:hu@hunter2@127.0.0.1:9/x",
    "postgresql://app:h@nter2@127.0.0.1:9/x",
    "postgresql://app:a@hunter2/b@127.0.0.1:9/x",
    "postgresql://app:a@b/hunter2@127.0.0.1:9/x",
    "postgresql+psycopg:hunter2://db/x",
    "mysql://app:hunter2@db/x",
    "mysql://app@db/x?password=hunter2",
    "oracle+cx_oracle://app:hunter2@db/x",
    "odd+thing://app:hunter2@db/x",
    "sqlite://app:hunter2@db/x",
    "sqlite+pysqlcipher://:hunter2@/x.db",
    "postgresql+psycopg_async://app:hunter2@db/x",
    "postgresql+nosuch://app:hunter2@db/x",
]
RIGHT = [  # understood, and nothing listens there
    "postgresql://app:a@127.0.0.1:9?hunter2@127.0.0.1:9/x",
    "postgresql://app:hunter2@127.0.0.1:9/x",
    "postgresql+psycopg://app:hunter2@127.0.0.1:9/x",
    "postgresql://app:hunter%32@127.0.0.1:9/x",
    "postgresql://app:h%40nter2@127.0.0.1:9/x",
    "postgresql://app:hunter2:hunter2@127.0.0.1:9/x",
    "postgresql://app:/hunter2?@127.0.0.1:9/x",
    "postgresql://app:hunter2 with spaces@127.0.0.1:9/x",
    "postgresql://:hunter2@127.0.0.1:9/x",
    "postgresql://app%3Ahunter2@127.0.0.1:9/x",
    "postgresql://app hunter2@127.0.0.1:9/x",
    "postgresql://127.0.0.1:9/x?user=app&password=hunter2",
    "postgresql://127.0.0.1:9/x?user=app;password=hunter2",
    "postgresql://127.0.0.1:9/x?pasword=hunter2",
    "postgresql://127.0.0.1:9/x?pwd=hunter2",
    "postgresql://127.0.0.1:9/x?passfile=/run/hunter2",
    "postgresql://127.0.0.1:9/x?sslpassword=hunter2",
    "postgresql://127.0.0.1:9/x?sslkey=hunter2&SSLPASSWORD=hunter2",
    "postgresql://127.0.0.1:9/x?options=-c%20my.token%3Dhunter2",
    "postgresql://127.0.0.1:9/x?host=app:hunter2@127.0.0.1",
    "postgresql://127.0.0.1/x?port=hunter2",
    "postgresql://127.0.0.1:9/x?conninfo=password hunter2",
    "postgresql://127.0.0.1:9/x?row_factory=hunter2",
]


def leaked(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.mark.parametrize("url", [*WRONG, *RIGHT])
def test_nothing_of_a_password_is_in_an_error_its_traceback_or_a_log(
    url: str, logged: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DeltaMemError) as caught:
        Store.open(url)
    told = "".join(traceback.format_exception(caught.value))
    assert not leaked(told + repr(caught.value) + logged.text + masked(url))


@pytest.mark.parametrize("url", [each for each in WRONG if each.count("@") < 2 and "+" not in each])
def test_of_what_cannot_be_parsed_nothing_but_the_scheme_is_shown(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Store.open(url)
    told = str(caught.value)
    if "***" not in told:
        assert told.startswith("the database URL begins with no known scheme") and "sqlite:///memory.db" in told
        assert "hunter2" not in told
        return
    shown = told.partition("***")[0].strip("'")
    assert shown in ("", *(f"{scheme}://" for scheme in ("postgresql", "postgres", "sqlite"))) or "://app" in shown


COMMANDS = {
    "right": ("--debug", "agents", "--url", "{}"),
    "without its option": ("agents", "{}"),
    "in the place of a command": ("{}",),
    "with another option": ("agents", "--url", "sqlite://", "--nonsense={}"),
    "doctor": ("doctor", "--json", "--url", "{}"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_nor_on_the_command_line(command: tuple[str, ...]) -> None:
    urls = [*WRONG, *RIGHT][::2]
    if command[0] == "doctor":
        urls = urls[::16]  # it looks at more than the database
    elif "--debug" not in command:
        urls = [url for url in urls if "://" in url or "@" in url or "password=" in url][::2]  # others are words
    for url in urls:
        done = CliRunner().invoke(app, [part.format(url) for part in command])
        assert done.exit_code != 0 and not leaked(done.stdout + done.stderr), url


def test_nor_by_the_benchmarks(tmp_path: Path) -> None:
    from deltamem_agents.bench.store import Place, postgresql

    for url in (each for each in WRONG if "mysql" not in each):
        with pytest.raises(ConfigError) as caught, postgresql(tmp_path, url):
            pass
        assert not leaked("".join(traceback.format_exception(caught.value)))
    assert not leaked(repr(Place(name="x", url=RIGHT[0], schema=None, size=int)))


def test_the_environment_is_not_echoed_in_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTAMEM_URL", "postgresql://app:hunter2@db/x")
    for command in ("agents", "doctor", "write", "recall"):
        assert not leaked(CliRunner().invoke(app, [command, "--help"]).stdout)
    done = CliRunner().invoke(app, ["agents"])
    assert done.exit_code == 1 and not leaked(done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://bob:hunter2@h:5/x", "postgresql://bob:***@h:5/x"),
        ("postgresql://bob@[::1]:5/x", "postgresql://bob@[::1]:5/x"),
        ("postgresql://a,b.example.org:5/x_1", "postgresql://a,b.example.org:5/x_1"),
        ("postgresql:///x?host=/tmp/run", "postgresql:///x?host=%2Ftmp%2Frun"),
        ("postgresql://h/x?options=-csearch_path%3Dm", "postgresql://h/x?options=-csearch_path%3Dm"),
        ("postgresql://h/x?sslmode=require&sslpassword=a1b2", "postgresql://h/x?sslmode=require&sslpassword=***"),
        ("sqlite:////var/lib/my memories/a@b.db", "sqlite:////var/lib/my memories/a%40b.db"),
        ("sqlite://", "sqlite://"),
    ],
)
def test_what_is_no_secret_is_shown(url: str, shown: str) -> None:
    assert masked(url) == masked(make_url(url)) == shown


def test_a_drivers_words_are_shown_without_secrets() -> None:
    url = URL.create("postgresql", "app", "hunter2", "h", database="x", query={"sslpassword": "x9 y"})
    told = "cannot use hunter2, x9%20y, x9+y or x9 y on h"
    assert redacted(told, url) == "cannot use ***, ***, *** or *** on h"


def test_a_callers_engine() -> None:
    engine = create_engine("postgresql+psycopg://app:hunter2@127.0.0.1:9/x?sslpassword=hunter2")
    with pytest.raises(DeltaMemError) as caught:
        Store.open(engine=engine)
    assert not leaked("".join(traceback.format_exception(caught.value)))
