"""`deltamem doctor`: what is in use and why, without changing anything."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from deltamem_agents import __version__, doctor, tiny
from deltamem_agents.store import Store, versions
from deltamem_kernels import explain_backend
from deltamem_kernels.cpu import compiled


@pytest.fixture
def no_library(monkeypatch, tmp_path):
    monkeypatch.setattr(compiled, "LIBRARY", tmp_path / "_scan.so")
    for cached in (compiled._library, compiled.targets):
        cached.cache_clear()
    yield
    for cached in (compiled._library, compiled.targets):
        cached.cache_clear()


def problems(done):
    return {each["problem"]: each["remedy"] for each in done.json["problems"]}


def found(problems, *words):
    """The remedy of the one problem that has all these words."""
    (remedy,) = [remedy for problem, remedy in problems.items() if all(word in problem for word in words)]
    return remedy


def test_for_programs(deltamem, tmp_path):
    done = deltamem("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["versions"]["deltamem-agents"] == __version__
    assert done.json["versions"]["torch"] == torch.__version__
    assert done.json["versions"]["sqlite"] == sqlite3.sqlite_version
    assert done.json["devices"][0]["device"] == "cpu"
    assert done.json["devices"][0]["scan"] == explain_backend("cpu")
    assert done.json["threads"] == torch.get_num_threads()
    assert done.json["model"] == str(tiny.FOLDER) and done.json["database"] is None
    assert list(done.json["extras"]) == ["langchain", "llama-index", "retrieval", "postgres", "train", "mcp"]
    assert list(tmp_path.iterdir()) == []


def test_for_a_person(deltamem, url):
    with Store.open(url):
        pass
    done = deltamem("doctor", "--url", url)
    assert (done.code, done.err) == (0, "")
    for words in ("torch", torch.__version__, "cpu", "langchain", "embedder", f"tables of version {versions.LATEST}"):
        assert words in done.out
    assert all(len(line) <= 80 for line in done.out.splitlines() if "sqlite:///" not in line)


def test_missing_library(deltamem, no_library):
    done = deltamem("doctor", "--json")
    assert done.code == 0
    assert done.json["compiled_scan"] == [] and done.json["devices"][0]["scan"].startswith("chunked: ")
    assert "install one and reinstall" in found(problems(done), "compiled library", "no C compiler")
    assert "remedy: install one and reinstall" in deltamem("doctor").out


def test_missing_embedder(deltamem, monkeypatch):
    monkeypatch.setattr("deltamem_agents.recall.embed.find_spec", lambda name: None)
    done = deltamem("doctor", "--json")
    assert done.json["embedder"] is None
    assert "install deltamem-agents[retrieval]" in found(problems(done), "full text alone")


def test_missing_extra(deltamem, monkeypatch):
    version = metadata.version

    def no_mcp(name):
        if name == "mcp":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", no_mcp)
    assert deltamem("doctor", "--json").json["extras"]["mcp"] == ["mcp"]
    assert "deltamem-agents[mcp]" in deltamem("doctor").out


def test_missing_model(deltamem, monkeypatch, tmp_path):
    monkeypatch.setattr(tiny, "FOLDER", tmp_path)
    done = deltamem("doctor", "--json")
    assert done.code == 0 and done.json["model"] is None
    assert "again" in found(problems(done), "bundled model", "model.safetensors")


@pytest.mark.parametrize(("scan", "listed"), [("triton: kernels on it", 0), ("chunked: …; no Triton; install it", 1)])
def test_cuda_devices(deltamem, monkeypatch, scan, listed):
    facts = SimpleNamespace(name="A Fast One", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    monkeypatch.setattr(doctor, "explain_backend", lambda device: scan if device == "cuda:0" else "compiled: …")
    done = deltamem("doctor", "--json")
    assert done.json["devices"][1] == {
        "device": "cuda:0",
        "name": "A Fast One",
        "memory_bytes": 80 * 2**30,
        "scan": scan,
    }
    assert sum("Triton" in problem for problem in problems(done)) == listed
    assert "A Fast One, 80 GiB" in " ".join(deltamem("doctor", env={"COLUMNS": "200"}).out.split())


def test_a_driver_that_torch_does_not_use(deltamem, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "NVIDIA_DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA" in found(problems(deltamem("doctor", "--json")), "NVIDIA driver")


def test_idle_processors(deltamem, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert "OMP_NUM_THREADS" in found(problems(deltamem("doctor", "--json")), "1 thread", "64 processors")


def test_database(deltamem, url, tmp_path):
    with Store.open(url) as store:
        store.append("alice", [{"role": "user", "content": "hello"}], "s")
    before = (tmp_path / "memory.db").read_bytes()
    done = deltamem("doctor", "--json", env={"DELTAMEM_URL": url})
    assert done.code == 0 and done.json["database"] == {
        "url": url,
        "version": versions.LATEST,
        "error": None,
        "backlog": {"unfolded": 1, "unindexed": 0, "unembedded": 1},
    }
    assert (tmp_path / "memory.db").read_bytes() == before


def test_database_in_a_file_that_cannot_be_written(deltamem, url, tmp_path):
    with Store.open(url):
        pass
    closed = f"sqlite:///file:{tmp_path / 'memory.db'}?mode=ro&uri=true"
    assert deltamem("doctor", "--json", "--url", closed).json["database"]["version"] == versions.LATEST


def test_database_without_tables(deltamem, url, tmp_path):
    (tmp_path / "memory.db").touch()
    done = deltamem("doctor", "--json", "--url", url)
    assert done.code == 0 and done.json["database"] == {
        "url": url,
        "version": None,
        "error": None,
        "backlog": None,
    }
    assert (tmp_path / "memory.db").stat().st_size == 0
    assert "no tables yet" in " ".join(deltamem("doctor", "--url", url, env={"COLUMNS": "200"}).out.split())


def assert_failed(done, *words):
    assert done.code == 1 and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert done.json["database"]["error"] and done.json["problems"][-1]["remedy"]
    for word in words:
        assert word in done.err


def test_no_database_is_made(deltamem, url, tmp_path):
    assert_failed(deltamem("doctor", "--json", "--url", url), "memory.db", "deltamem write")
    assert list(tmp_path.iterdir()) == []
    done = deltamem("doctor", "--url", url)
    assert done.code == 1 and "remedy: " in done.out


def test_a_file_that_is_no_database(deltamem, tmp_path):
    (tmp_path / "notes.txt").write_text("These are notes. " * 100)
    assert_failed(deltamem("doctor", "--json", "--url", f"sqlite:///{tmp_path / 'notes.txt'}"), "not a database")


def test_a_newer_database(deltamem, url, tmp_path):
    with Store.open(url):
        pass
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("UPDATE deltamem_version SET version_num = '0099'")
    assert_failed(deltamem("doctor", "--json", "--url", url), "version 0099", "install")


@pytest.mark.parametrize("given", ["oracle://scott:tiger@example.org/x", "nonsense://u:tiger@x"])
def test_passwords_are_masked(deltamem, given):
    done = deltamem("doctor", "--json", "--url", given)
    assert_failed(done, "***")
    assert "tiger" not in done.out + done.err


@pytest.mark.slow  # a process that imports torch
def test_loads_no_model_library():
    code = (
        "import sys; from deltamem_agents.cli import app\n"
        "try: app(['doctor', '--json'])\n"
        "finally: assert not {'transformers', 'sentence_transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
