"""Commands on a memory without a model: ``--backbone none``, and those that need none anyway."""

from __future__ import annotations


def test_commands_without_a_model_import_no_model_library(process, url):
    def run(*arguments):
        done = process(*arguments, "--url", url, PYTHONPROFILEIMPORTTIME="1")
        assert done.code == 0, done.err
        imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
        assert "deltamem_agents.memory" in imported
        assert not imported & {"torch", "transformers", "huggingface_hub"}
        return done

    run("write", "My favourite colour is teal.", "--backbone", "none")
    recalled = run("recall", "Which colour?", "--backbone", "none").out
    assert "teal" in recalled and "supports no answer" not in recalled and "records only" in recalled
    assert "teal" in run("log").out


def test_without_a_model(deltamem, url):
    deltamem("write", "My favourite colour is teal.", "--backbone", "none", "--url", url)
    assert "1 message added" in deltamem("diff", "default", 0, "--backbone", "none", "--url", url).out
    for command in (["recall", "Which colour?", "--mode", "state"], ["chat", "Hello."], ["verify", "default"]):
        done = deltamem(*command, "--backbone", "none", "--url", url)
        assert done.code == 1 and "needs a backbone" in done.err
    assert len(deltamem("log", "--json", "--url", url).json) == 1
