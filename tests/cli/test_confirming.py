"""What destroys is confirmed: on a terminal by a person who sees how much would go, elsewhere by ``--yes``."""

from __future__ import annotations

import pytest

from deltamem_agents.store import Store

FACTS = ("My dog is Rex.", "I live in Oslo.", "Mara plays the cello.")
PLAN = "agent 'alice': 3 messages, 3 records, 0 embeddings and 0 stored states"


@pytest.fixture
def told(url):
    """Agent alice, of three messages, and her fork."""
    with Store.open(url) as store:
        store.append("alice", [{"role": "user", "content": fact} for fact in FACTS], "s")
        store.fork("alice", "bob")
    return url


def left(url):
    with Store.open(url) as store:
        return {each.id: each.messages for each in store.agents()}


@pytest.mark.parametrize("command", [("delete", "alice"), ("erase", "alice", "--session", "s")], ids=" ".join)
def test_without_a_terminal_it_takes_yes(deltamem, told, command):
    for options in ((), ("--json",), ("--forks",)):
        done = deltamem(*command, *options, "--url", told)
        assert done.code == 2 and done.out == "" and done.err.startswith("error: ") and done.err.count("\n") == 1
        assert all(word in done.err for word in ("cannot be undone", "--yes", "--dry-run"))
    assert left(told) == {"alice": 3, "bob": 3}
    assert deltamem(*command, "--dry-run", "--url", told).code == 0 and left(told) == {"alice": 3, "bob": 3}
    assert deltamem(*command, "-y", "--url", told).code == 0
    assert left(told) == ({"bob": 3} if command[0] == "delete" else {"alice": 0, "bob": 3})


@pytest.mark.parametrize("command", [("delete", "alice"), ("erase", "alice", "--session", "s")], ids=" ".join)
def test_at_a_terminal_it_is_asked(at_terminal, told, command):
    for typed in ("n\n", "\n", "maybe\n", "\x04"):  # the last is Ctrl-D
        done = at_terminal(*command, "--url", told, typed=typed)
        assert done.code == 1 and done.out == "" and PLAN in done.err and "nothing was erased" in done.err
    assert left(told) == {"alice": 3, "bob": 3}
    done = at_terminal(*command, "--json", "--url", told, typed="y\n")
    assert done.code == 0 and done.json["status"] == "complete" and "[y/N]" in done.err
    assert left(told) == ({"bob": 3} if command[0] == "delete" else {"alice": 0, "bob": 3})


def test_what_goes_along_is_counted_too(at_terminal, told):
    done = at_terminal("delete", "alice", "--forks", "--url", told, typed="n\n")
    assert PLAN in done.err and "agent 'bob': 3 messages" in done.err


def test_nothing_to_erase_is_not_asked(at_terminal, told):
    done = at_terminal("erase", "alice", "--session", "other", "--url", told, typed="")
    assert done.code == 1 and "[y/N]" not in done.err and "no such message" in done.err


def test_a_conversation_has_commands(at_terminal, url):
    typed = "/help\n/hepl\n//etc is a folder\n/quit\nnever said\n"
    done = at_terminal("chat", "--url", url, "--embedder", "none", typed=typed)
    assert (
        done.code == 0 and done.err.count("/exit, /quit or Ctrl-D ends") == 2 and "/hepl is not a command" in done.err
    )
    with Store.open(url) as store:
        assert [each.text for each in store.log("default") if each.role == "user"] == ["/etc is a folder"]
