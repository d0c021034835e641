"""`deltamem guidelines recall`: the JSON that programs read, by words alone and with the local embedder."""

import json
import subprocess

import pytest
from typer.testing import CliRunner

from deltamem_agents.cli import app

RULES = "# Rules\n\n- Run `make verify` before every commit.\n- Amounts are cents, never floats.\n"


@pytest.fixture
def told(tmp_path):
    """Runs a command of the guidelines on a repository that was read."""
    root, url = tmp_path / "repository", f"sqlite:///{tmp_path / 'memory.db'}"
    root.mkdir()
    (root / "AGENTS.md").write_text(RULES)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)

    def run(*arguments):
        result = CliRunner().invoke(app, ["guidelines", *arguments, "--repo", str(root), "--url", url, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    result = CliRunner().invoke(app, ["guidelines", "sync", str(root), "--url", url])
    assert result.exit_code == 0, result.output
    return run


def test_recall_by_words(told):
    [rule] = told("recall", "what do I run before a commit?", "--embedder", "none")["rules"]
    expected = {"file": "AGENTS.md", "lines": [3, 3], "stale": False, "overridden_by": None}
    assert {key: rule[key] for key in expected} == expected
    assert {"text", "scope", "kind", "commit"} <= rule.keys()
    assert told("recall", "who won the match?", "--embedder", "none")["rules"] == []


@pytest.mark.slow
def test_recall_by_meaning_is_the_default(told):
    question = "how is money represented?"
    assert told("recall", question, "--embedder", "none")["rules"] == []
    assert [rule["lines"] for rule in told("recall", question)["rules"]] == [[4, 4]]
