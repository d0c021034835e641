"""Bad input: one clear line on stderr, a non-zero exit code, no traceback, and nothing half-written."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest

from deltamem_agents.cli.remedies import spelled
from deltamem_agents.core import DeltaMemConfig, new_adapter, save_adapter
from deltamem_agents.demo.run import _events
from deltamem_agents.errors import DeltaMemError
from deltamem_agents.store import Store

PLAIN = ("--embedder", "none")
LONG = "a" * 256


def assert_refused(done, *words):
    assert done.code == 1
    assert done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1 and "Traceback" not in done.err
    for word in words:
        assert word in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("write", ""), ["message 0", "empty"]),
        (("write", "fine", "  \n"), ["message 1", "empty"]),
        (("write", "x", "--role", "robot"), ["'robot'", "user"]),
        (("write", "x", "--agent", LONG), ["256 characters", "255"]),
        (("write", "x", "--agent", ""), ["agent id"]),
        (("write", "x", "--session", LONG), ["session id", "255"]),
        (("write", "-"), ["standard input"]),
        (("recall", "x", "--mode", "psychic"), ["'psychic'", "state, vector, hybrid"]),
        (("recall", "x", "--k", "0"), ["k is 0", "1"]),
        (("recall", "x", "--k", "-3", "--mode", "state"), ["k is -3"]),
        (("recall", "x", "--agent", LONG), ["255"]),
        (("chat", " "), ["empty"]),
        (("chat", "x", "--session", LONG), ["session id", "255"]),
        (("chat", "x", "--mode", "both"), ["'both'"]),
        (("recall", "x", "--handover", "post"), ["'post'", "context, preload, both"]),
        (("recall", "x", "--budget", "-1"), ["budget -1", "0 for no records"]),
    ],
    ids=lambda value: " ".join(str(each) for each in value)[:40],
)
def test_refused_before_anything_is_made(deltamem, tmp_path, arguments, words):
    assert_refused(deltamem(*arguments, *PLAIN, stdin="\n"), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("recall",),
        ("recall", "x", "--k", "many"),
        ("chat", "--json"),
        ("demo", "--fact", "x"),
        ("train",),
    ],
    ids=str,
)
def test_misunderstood_commands_end_with_2(deltamem, tmp_path, arguments):
    done = deltamem(*arguments)
    assert done.code == 2 and "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken(tmp_path, tiny_folder):
    """Folders with something wrong with the model, by name."""
    from transformers import GPT2Config, SmolLM3Config, SmolLM3ForCausalLM

    def backbone(**changes):
        config = SmolLM3Config.from_pretrained(tiny_folder)
        for name, value in changes.items():
            setattr(config, name, value)
        return SmolLM3ForCausalLM(config)

    def adapter_for(name, **changes):
        model = backbone(vocab_size=64, **changes)
        return save_adapter(new_adapter(model, DeltaMemConfig(rank=4)), tmp_path / name)

    def make(name):
        if name == "other family":
            GPT2Config().save_pretrained(tmp_path / name)
            return "--backbone", tmp_path / name, "--adapter", tiny_folder / "adapter"
        if name == "other width":
            return "--adapter", adapter_for(name, hidden_size=64)
        if name == "other layer count":
            return "--adapter", adapter_for(
                name, num_hidden_layers=6, layer_types=["full_attention"] * 6, no_rope_layers=[1] * 6
            )
        if name == "truncated adapter":
            shutil.copytree(tiny_folder / "adapter", tmp_path / name)
            _truncate(tmp_path / name / "deltamem_adapter.safetensors")
            return "--adapter", tmp_path / name
        if name == "truncated backbone":
            shutil.copytree(tiny_folder, tmp_path / name)
            _truncate(tmp_path / name / "model.safetensors")
            return "--backbone", tmp_path / name
        return {
            "no folder": ("--backbone", tmp_path / "nowhere"),
            "a file": ("--backbone", tiny_folder / "config.json"),
            "no adapter": ("--backbone", tmp_path),
            "a hub id without adapter": ("--backbone", "somebody/model"),
            "no such adapter": ("--adapter", tmp_path / "nowhere"),
            "no such device": ("--device", "abacus"),
            "no such dtype": ("--dtype", "float8"),
            "no such embedder": ("--embedder", tmp_path / "nowhere"),
        }[name]

    return make


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other family", ["gpt2", "qwen3"]),
        ("other width", ["width 64"]),
        ("other layer count", ["6 layers"]),
        ("truncated adapter", ["truncated"]),
        ("truncated backbone", ["truncated backbone", "safetensors"]),
        ("no folder", ["there is no folder", "nowhere"]),
        ("a file", ["is a file", "config.json"]),
        ("no adapter", ["comes without an adapter", "--adapter "]),
        ("a hub id without adapter", ["somebody/model", "hub id", "--adapter "]),
        ("no such adapter", ["nowhere"]),
        ("no such device", ["abacus"]),
        ("no such dtype", ["float8", "float32"]),
    ],
)
def test_models_that_cannot_be_used(deltamem, url, broken, name, words):
    options = broken(name)
    assert_refused(deltamem("write", "x", "--agent", "alice", "--url", url, *PLAIN, *options), *words)
    assert_refused(deltamem("agents", "--url", url), "there is no file")  # none was made


def test_an_embedder_that_cannot_be_loaded_loses_nothing(deltamem, url, broken):
    pytest.importorskip("sentence_transformers")
    done = deltamem("write", "Mara plays the cello.", "--url", url, *broken("no such embedder"))
    assert_refused(done, "nowhere")


def test_unreachable_database(deltamem, tmp_path):
    done = deltamem("write", "x", "--url", f"sqlite:///{tmp_path / 'no' / 'such' / 'folder.db'}", *PLAIN)
    assert_refused(done, "unable to open", "folder")


def test_read_only_database_is_read_and_not_written(deltamem, url, tmp_path):
    deltamem("write", "Mara plays the cello.", "--url", url, *PLAIN)
    closed = f"sqlite:///file:{tmp_path / 'memory.db'}?mode=ro&uri=true"
    assert_refused(deltamem("write", "Tom plays the harp.", "--url", closed, *PLAIN), "readonly", "permission")
    assert "cello" in deltamem("recall", "Mara", "--url", closed, "--json", *PLAIN).json["text"]
    assert len(deltamem("log", "--url", url, "--json").json) == 1


def test_a_file_that_is_no_database(deltamem, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("These are notes, and no database. " * 100)
    for command in (("write", "x"), ("recall", "x"), ("log",), ("agents",)):
        plain = PLAIN if command[0] in ("write", "recall") else ()
        assert_refused(deltamem(*command, "--url", f"sqlite:///{path}", *plain), "not a database", "notes.txt")
    assert path.read_text().startswith("These are notes") and len(path.read_text()) == 3400


def test_remedies_are_spelled_as_options_and_commands(deltamem, url, tmp_path):
    with Store.open(url) as store:
        store.append("alice", [{"role": "user", "content": "hello"}], "s")
    (tmp_path / "a.zip").touch()
    cases = {
        ("export", "alice", "a.zip"): ("--force", "overwrite"),
        ("rollback", "alice", 9): ("'deltamem log'", "log()"),
        ("recall", "x", "--backbone", tmp_path): ("--adapter 'folder", "adapter="),
        ("recall", "x", "--device", "cuda:77"): ("--device ", "device="),
    }
    for command, (told, python) in cases.items():
        done = deltamem(*command, "--url", url)
        assert_refused(done, told)
        assert python not in done.err
    notes = deltamem("recall", "x", "--mode", "vector", "--json", "--url", url, *PLAIN).json["notes"]
    assert any("--embedder none" in note for note in notes) and not any("embedder=" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("give adapter='folder or hub id'", "give --adapter 'folder or hub id'"),
        ("or replace it with overwrite=True", "or replace it with --force"),
        ("opened with embedder=False", "opened with --embedder none"),
        ("opened with backbone=None: records only", "opened with --backbone none: records only"),
        ("log() shows the positions", "'deltamem log' shows the positions"),
        ("use device='cpu'", "use --device 'cpu'"),
        ("'/data/adapter=x.db' and ?mode=ro&k=3 stay", "'/data/adapter=x.db' and ?mode=ro&k=3 stay"),
        ("dialog() and catalog() stay", "dialog() and catalog() stay"),
    ],
)
def test_spellings(text, told):
    assert spelled(text) == told


@pytest.mark.parametrize("given", ["memory.db", "/tmp/memory.db", "./a/b.sqlite", "sqlite", "host=db password=x9"])
def test_what_is_no_url_is_told_what_one_looks_like(deltamem, tmp_path, given):
    for command in (("log",), ("db", "check"), ("write", "x")):
        done = deltamem(*command, "--url", given)
        assert_refused(done, "sqlite:///memory.db", "postgresql://")
        assert "x9" not in done.err and (given == "sqlite" or "no known scheme" in done.err)
    assert list(tmp_path.iterdir()) == []


def test_standard_input_of_another_encoding(deltamem, url):
    for command in (("write", "-"), ("chat",)):
        done = deltamem(*command, "--url", url, *PLAIN, stdin="Hello\ncaf\xe9\n".encode("latin-1"))
        assert done.code == 1 and "0xe9" in done.err and "PYTHONIOENCODING" in done.err and "Traceback" not in done.err
        assert done.err.count("\n") == 1
    assert deltamem("write", "-", "--url", url, *PLAIN, stdin=b"caf\xe9", encoding="latin-1").code == 0
    said = deltamem("log", "--url", url, "--json").json
    assert [each["content"] for each in said if each["role"] == "user"][-1] == "café"


def test_percent_signs_are_only_that(deltamem, tmp_path):
    url = f"sqlite:///{tmp_path}/100%25 %s of %(it)s.db"
    assert deltamem("db", "upgrade", "--url", url).code == 0
    with Store.open(url) as store:
        store.append("50% %s", [{"role": "user", "content": "100% sure, %d"}], "%")
    assert deltamem("log", "--agent", "50% %s", "--url", url, "--json").json[0]["content"] == "100% sure, %d"
    assert "50% %s" in deltamem("agents", "--url", url).out and deltamem("db", "check", "--url", url).code == 0
    assert "%(no)s" in deltamem("log", "--agent", "%(no)s", "--url", url).err
    assert deltamem("log", "--%s", "--url", url).code == 2


def test_passwords_are_masked(deltamem):
    done = deltamem("log", "--url", "oracle://scott:tiger@example.org/x")
    assert_refused(done)
    assert "tiger" not in done.err


def test_one_bad_message_keeps_all_out(deltamem, url):
    assert deltamem("write", "fine", "--url", url, *PLAIN).code == 0
    assert_refused(deltamem("write", "also fine", "", "--url", url, *PLAIN))
    assert [each["content"] for each in deltamem("log", "--url", url, "--json").json] == ["fine"]


@pytest.mark.parametrize("arguments", [("--debug", "recall", "x"), ("recall", "x", "--debug")], ids=str)
def test_debug_shows_the_traceback(deltamem, arguments):
    done = deltamem(*arguments, "--k", "0")
    assert done.code == 1 and "Traceback" in done.err and done.err.splitlines()[-1].startswith("error: k is 0")


def test_damaged_schema_is_one_line_too(deltamem, url, tmp_path):
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("CREATE TABLE deltamem_version (wrong TEXT)")
    done = deltamem("log", "--url", url)
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1


def test_an_unexpected_error_is_one_line_too(deltamem, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr("deltamem_agents.cli.options.require_database", fail)
    assert_refused(deltamem("log"), "unexpected RuntimeError", "--debug")


def test_a_demo_process_that_crashes_is_told_of():
    with pytest.raises(DeltaMemError, match=r"\(nowhere\) ended with code 1: KeyError: 'nowhere'"):
        list(_events("nowhere", {"big": "x" * 1_000_000}))


@pytest.mark.slow
def test_as_a_process(process, url, tmp_path, tiny_folder):
    shutil.copytree(tiny_folder / "adapter", tmp_path / "half")
    _truncate(tmp_path / "half" / "deltamem_adapter.safetensors")
    assert_refused(process("write", "x", "--url", url, "--adapter", tmp_path / "half"), "truncated")
    config = json.loads((tmp_path / "half" / "deltamem_adapter.json").read_text())
    (tmp_path / "half" / "deltamem_adapter.json").write_text(json.dumps(config | {"rank": 1000}))
    assert_refused(process("write", "x", "--url", url, "--adapter", tmp_path / "half"), "rank")
