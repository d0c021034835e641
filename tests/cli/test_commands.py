"""What the commands do, each run in this process with the bundled model."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from deltamem_agents import AgentMemory, DeltaMem, __version__
from deltamem_agents.engine import Sampling
from deltamem_agents.recall import split_text
from deltamem_agents.store import Store

PLAIN = ("--embedder", "none")
FACTS = ("My favourite colour is teal.", "Mara plays the cello.")


@pytest.fixture
def written(deltamem, url):
    assert deltamem("write", *FACTS, "--agent", "alice", "--session", "s1", "--url", url, *PLAIN).code == 0
    return url


def test_version_and_help(deltamem):
    assert deltamem("--version").out == f"deltamem {__version__}\n"
    assert deltamem("--help").code == deltamem("recall", "-h").code == 0


def test_help_of_every_command_imports_nothing_heavy_and_is_quick():
    code = (
        "import sys, time, typer\n"
        "from deltamem_agents.cli import app\n"
        "def helped(*words):\n"
        "    try: app([*words, '--help'])\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "def every(group, *words):\n"
        "    helped(*words)\n"
        "    for name, command in getattr(group, 'commands', {}).items(): every(command, *words, name)\n"
        "helped()\n"
        "seconds = time.process_time()\n"
        "every(typer.main.get_command(app))\n"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'numpy', 'alembic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert seconds < 1, seconds  # 0.2 s on an idle machine\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "recall" in done.stdout and "--postgresql-url" in done.stdout, done.stderr


def test_write_then_recall(deltamem, written):
    done = deltamem("recall", "What is my favourite colour?", "--agent", "alice", "--url", written, "--json", *PLAIN)
    assert done.code == 0 and done.err == ""
    found = done.json
    assert "My favourite colour is teal." in found["text"]
    assert found["records"][0]["text"] == FACTS[0] and found["records"][0]["score"] > 0
    assert found["records"][0]["session"] == "s1"
    assert isinstance(found["answer"], str) and found["source"] in ("state", "records", "both", "neither")
    assert found["usage"]["state_bytes"] > 0 and found["usage"]["context_tokens"] > 0
    assert found["notes"]  # the embedder was left out


@pytest.mark.parametrize(("mode", "records", "state"), [("state", 0, True), ("vector", 1, False), ("hybrid", 1, True)])
def test_modes_and_k(deltamem, written, mode, records, state):
    found = deltamem(
        "recall", "Mara?", "--agent", "alice", "--mode", mode, "--k", 1, "--url", written, "--json", *PLAIN
    ).json
    assert len(found["records"]) == records
    assert (found["usage"]["state_bytes"] > 0) == state


def test_records_handed_over_through_the_state_cost_no_context(deltamem, written):
    asked = ("recall", "What is my favourite colour?", "--agent", "alice", "--url", written, "--json", *PLAIN)
    found = deltamem(*asked, "--handover", "preload").json
    assert found["answer"] == "teal" and found["records"] and found["text"] == ""
    assert found["usage"]["context_tokens"] == 0
    found = deltamem(*asked, "--budget", 20).json
    assert 0 < found["usage"]["context_tokens"] <= 20


def test_no_answer_for_a_person(deltamem, written):
    done = deltamem("recall", "What is Mara's job?", "--agent", "alice", "--url", written, *PLAIN)
    assert "Memory supports no answer." in done.out and "Mara plays the cello." in done.out
    done = deltamem("recall", "xyzzy?", "--agent", "alice", "--url", written, *PLAIN)
    assert "Memory holds nothing about this." in done.out


def test_recall_for_a_person(deltamem, written):
    done = deltamem("recall", "Which instrument does Mara play?", "--agent", "alice", "--url", written, *PLAIN)
    assert done.code == 0
    assert "Mara plays the cello." in done.out and "note: " in done.out and "outdated" not in done.out
    assert re.search(r"confidence \d{1,3}%", done.out) and re.search(r"^\d{1,3}% ", done.out, flags=re.MULTILINE)
    assert all(len(line) <= 80 for line in done.out.splitlines())


def test_what_is_outdated_is_shown_as_such(deltamem, url):
    for number, text in enumerate(("I live in Lisbon.", "I live in Oslo now.")):
        message = {"role": "user", "content": text, "created_at": f"2026-0{number + 1}-03T12:00Z"}
        with Store.open(url, split=split_text) as store:
            store.append("default", [message], "s")
    asked = ("recall", "Where do I live?", "--mode", "vector", "--url", url, *PLAIN)
    table = [line.split() for line in deltamem(*asked).out.splitlines() if "%" in line or "outdated" in line]
    assert ["score", "outdated", "session", "role", "record"] in table
    (old,) = [row for row in table if "Lisbon." in row]
    (new,) = [row for row in table if "Oslo" in row]
    assert old[1:3] == ["since", "2026-02-03"] and new[1] == "s"
    records = {each["text"]: each["until"] for each in deltamem(*asked, "--json").json["records"]}
    assert records == {"I live in Lisbon.": "2026-02-03T12:00:00+00:00", "I live in Oslo now.": None}


def test_recall_of_one_session(deltamem, written):
    deltamem("write", "Mara lives in Oslo.", "--agent", "alice", "--session", "s2", "--url", written, *PLAIN)
    found = deltamem("recall", "Mara", "--agent", "alice", "--session", "s2", "--url", written, "--json", *PLAIN).json
    assert [record["text"] for record in found["records"]] == ["Mara lives in Oslo."]


def test_unknown_agent_knows_nothing(deltamem, written):
    done = deltamem("recall", "Mara?", "--agent", "bob", "--url", written, *PLAIN)
    assert done.code == 0 and "nothing" in done.out and done.err.startswith("note: no agent 'bob' in sqlite:///")
    done = deltamem("log", "--agent", "alcie", "--url", written)
    assert done.code == 0 and done.out == "No messages.\n" and "did you mean 'alice'?" in done.err
    done = deltamem("log", "--agent", "zzz", "--url", written, "--json")
    assert done.json == [] and "agents: 'alice'; 'deltamem agents'" in done.err and done.err.count("\n") == 1
    done = deltamem("log", "--agent", "alice", "--session", "s11", "--url", written)
    assert done.code == 0 and "agent 'alice' has no session 's11'; did you mean 's1'?" in done.err
    asked = ("recall", "Mara", "--mode", "vector", "--session", "x", "--agent", "alice", "--url", written, *PLAIN)
    assert "has no session 'x'; sessions: 's1'" in deltamem(*asked).err
    assert "did you mean 'alice'?" in deltamem("rollback", "alcie", 0, "--url", written).err
    assert deltamem("log", "--agent", "alice", "--url", written).err == ""


def test_the_api_reads_what_the_command_wrote(written):
    with DeltaMem.open(url=written, embedder=False) as mem:
        assert [entry.text for entry in mem.agent("alice").log("s1")] == list(FACTS)


def test_log(deltamem, written):
    entries = deltamem("log", "--agent", "alice", "--url", written, "--json").json
    assert [(each["position"], each["role"], each["content"]) for each in entries] == [
        (1, "user", FACTS[0]),
        (2, "user", FACTS[1]),
    ]
    assert "Mara plays the cello." in deltamem("log", "--agent", "alice", "--url", written).out
    assert deltamem("log", "--agent", "alice", "--session", "s2", "--url", written, "--json").json == []


def test_agents(deltamem, written, tmp_path):
    assert [(each["id"], each["messages"]) for each in deltamem("agents", "--url", written, "--json").json] == [
        ("alice", 2)
    ]
    assert "alice" in deltamem("agents", "--url", written).out
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert deltamem("agents", "--url", other).code == 1
    assert deltamem("db", "upgrade", "--url", other).code == 0
    assert deltamem("agents", "--url", other).out == "No agents.\n"


def test_environment_names_url_and_agent(deltamem, written):
    env = {"DELTAMEM_URL": written, "DELTAMEM_AGENT": "alice"}
    assert len(deltamem("log", "--json", env=env).json) == 2
    assert deltamem("log", "--agent", "bob", "--json", env=env).json == []  # an option goes before it


def test_write_reads_lines_of_stdin(deltamem, url):
    done = deltamem("write", "first", "-", "--url", url, "--json", *PLAIN, stdin="second\n\nthird\n")
    assert len(done.json["ids"]) == 3 and done.json["agent"] == "default"
    assert [each["content"] for each in deltamem("log", "--url", url, "--json").json] == ["first", "second", "third"]


def test_write_takes_a_role(deltamem, url):
    deltamem("write", "I will.", "--role", "assistant", "--url", url, *PLAIN)
    assert deltamem("log", "--url", url, "--json").json[0]["role"] == "assistant"


def test_chat_with_one_message(deltamem, written):
    done = deltamem("chat", "Where does Mara live?", "--agent", "alice", "--session", "c", "--url", written, *PLAIN)
    entries = deltamem("log", "--agent", "alice", "--session", "c", "--url", written, "--json").json
    assert done.code == 0
    assert [entry["role"] for entry in entries] == ["user", "assistant"]
    assert done.out.strip() == entries[1]["content"].strip()


def test_chat_for_programs(deltamem, written):
    found = deltamem("chat", "Mara?", "--agent", "alice", "--url", written, "--json", *PLAIN).json
    assert "Mara plays the cello." in found["recall"]["text"] and found["usage"]["answer_tokens"] > 0


def test_a_reply_that_is_cut_off_is_said_to_be(deltamem, written, monkeypatch):
    monkeypatch.setattr("deltamem_agents.memory.agent.AgentMemory.chat_stream", cut_off(AgentMemory.chat_stream))
    done = deltamem("chat", "Tell me about Mara.", "--agent", "alice", "--session", "c", "--url", written, *PLAIN)
    assert done.code == 0 and "cut off after 1 token," in done.err
    said = deltamem("log", "--agent", "alice", "--session", "c", "--url", written, "--json").json
    assert [each["metadata"] for each in said] == [{}, {"finish_reason": "length"}]


def cut_off(stream):
    def shorter(*arguments, **options):
        return stream(*arguments, **options, sampling=Sampling(max_tokens=1))

    return shorter


def test_chat_as_a_conversation(deltamem, url):
    done = deltamem("chat", "--url", url, *PLAIN, stdin="Hello.\n\nHow are you?\n/exit\nnever said\n")
    said = [entry["content"] for entry in deltamem("log", "--url", url, "--json").json if entry["role"] == "user"]
    assert done.code == 0 and said == ["Hello.", "How are you?"]


def test_stored_text_cannot_steer_the_terminal(deltamem, url):
    deltamem("write", "red \x1b[31malert\x07 [bold]x[/bold]", "--url", url, *PLAIN)
    for done in (deltamem("log", "--url", url), deltamem("recall", "red", "--url", url, *PLAIN)):
        assert "\x1b" not in done.out and "\x07" not in done.out and "[bold]" in done.out
    assert deltamem("log", "--url", url, "--json").json[0]["content"].startswith("red \x1b[31m")


@pytest.mark.slow  # several processes
def test_another_process_remembers_and_libraries_are_quiet(process, url):
    first = process("write", *FACTS, DELTAMEM_URL=url)
    second = process("recall", "What is my favourite colour?", "--json", DELTAMEM_URL=url)
    assert (first.code, first.err) == (second.code, second.err) == (0, "")
    assert "My favourite colour is teal." in second.json["text"]


def test_recall_within_a_time(deltamem, url):
    assert deltamem("write", "My dog is Rex.", "--url", url, "--embedder", "none").code == 0
    ask = ("recall", "What is my dog?", "--mode", "vector", "--url", url, "--embedder", "none", "--json")
    assert len(deltamem(*ask, "--since", "2020-01-01").json["records"]) == 1
    assert deltamem(*ask, "--until", "2020-01-01T12:00").json["records"] == []
    assert deltamem(*ask, "--since", "yesterday").code == 2
