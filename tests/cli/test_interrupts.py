"""Ctrl-C: exit code 130, and a line that says what of the command is durable."""

from __future__ import annotations

import pytest

from deltamem_agents.store import Store

PLAIN = ("--embedder", "none")


@pytest.fixture
def told(url):
    with Store.open(url) as store:
        store.append("alice", [{"role": "user", "content": f"Note {number}."} for number in range(3)], "s")
    return url


def interrupt(*_, **__):
    raise KeyboardInterrupt


INTERRUPTED = {
    "write, before": (("write", "x", *PLAIN), "memory.deltamem.DeltaMem.open", "nothing was written"),
    "write, while journalling": (("write", "x", *PLAIN), "store.store.Store.append", "nothing was journalled"),
    "write, while folding": (("write", "x", "y", *PLAIN), "engine.engine.Engine.fold", "2 messages of agent 'default'"),
    "chat": (("chat", "x", *PLAIN), "memory.responder.Responder.stream", "nothing was journalled"),
    "chat --json": (("chat", "x", "--json", *PLAIN), "memory.responder.Responder.generate", "nothing was journalled"),
    "erase": (("erase", "alice", "--session", "s", "-y"), "store.store.Store.purge", "'deltamem db purge'"),
    "delete": (("delete", "alice", "-y"), "store.store.Store.erase", "either everything was erased or nothing"),
    "export": (("export", "alice", "a.zip"), "store.archive.export", "a.zip was not written"),
    "rebuild": (("rebuild", "alice"), "engine.engine.Engine.fold", "all messages are unchanged"),
    "db upgrade": (("db", "upgrade"), "store.versions.upgrade", "'deltamem db current' says which"),
    "db repair": (("db", "repair"), "store.versions.repair", "messages and states are unchanged"),
    "db purge": (("db", "purge"), "store.store.Store.purge", "run the same command again to go on"),
}


@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_says_what_is_durable(deltamem, told, monkeypatch, name):
    command, where, note = INTERRUPTED[name]
    monkeypatch.setattr(f"deltamem_agents.{where}", interrupt)
    done = deltamem(*command, "--url", told)
    assert done.code == 130 and note in done.err and done.out == "" and "Traceback" not in done.err
    assert done.err.strip().count("\n") == 0


def test_what_was_journalled_before_the_interrupt_is_counted(deltamem, told, monkeypatch):
    append = Store.append

    def interrupted(*arguments):
        append(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "append", interrupted)
    done = deltamem("write", "x", "y", "--agent", "alice", "--url", told, *PLAIN)
    assert done.code == 130 and "2 messages of this turn were journalled; 'deltamem log --agent alice'" in done.err
