"""Work memory: commits with their dependencies, notes, and decisions that supersede earlier ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from deltamem_agents.guidelines import Guidelines
from deltamem_agents.memory import DeltaMem


def test_a_commit_answers_what_was_changed_and_why_in_another_process(tree, tmp_path):
    tree.commit("Start", {"AGENTS.md": "- Run `make`.\n", "src/auth/login.py": "A = 1\n"})
    commit = tree.commit(
        "Sessions expire after an hour\n\nStolen tokens stayed valid.", {"src/auth/login.py": "A = 2\n"}
    )
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    with DeltaMem.open(None, url=url) as mem:
        assert Guidelines(mem, tree.root).sync().commits == 2
    with DeltaMem.open(None, url=url) as mem:
        best = Guidelines(mem, tree.root).recall("What did I change in auth today, and why?").work[0]
    assert (best.commit, best.files) == (commit, ("src/auth/login.py",))
    assert "Stolen tokens" in best.text


def test_dependencies_that_a_commit_changed_are_recorded(tree, guidelines):
    tree.commit("Start", {"pyproject.toml": '[project]\nname = "a"\ndependencies = ["httpx>=0.27", "six"]\n'})
    tree.commit("Update", {"pyproject.toml": '[project]\nname = "a"\ndependencies = ["httpx>=0.28", "rich"]\n'})
    (update, _) = guidelines(tree).work()
    assert update.dependencies == (
        "raised httpx from >=0.27 to >=0.28 (pyproject.toml)",
        "added rich (pyproject.toml)",
        "removed six (pyproject.toml)",
    )


def test_commits_that_a_rebase_replaced_are_erased(tree, guidelines):
    tree.commit("Start", {"AGENTS.md": "- Run `make`.\n"})
    tree.commit("Old wording", {"a.py": "1\n"})
    found = guidelines(tree)
    tree.git("commit", "-q", "--amend", "-m", "New wording")
    found.sync()
    assert [each.text for each in found.work()] == ["New wording", "Start"]


def test_a_decision_that_is_reversed_supersedes_the_earlier(tree, guidelines):
    head = tree.commit("Start", {"src/sessions.py": "1\n"})
    found = guidelines(tree)
    first = found.note("We decided to use Redis for sessions in src/sessions.py.")
    assert (first.kind, first.commit, first.files) == ("decision", head, ("src/sessions.py",))
    found.note("Log in JSON from now on.")
    second = found.note("Sessions live in PostgreSQL instead of Redis.")
    assert second.id == first.id
    told = [each.text for each in found.work("What did we decide about sessions?")]
    assert told == ["Sessions live in PostgreSQL instead of Redis."]


def test_yesterday_is_yesterday(tree, guidelines):
    found = guidelines(tree)
    found.note("Intent: speed up the parser")
    assert found.work("What was I working on yesterday?") == []
    assert [each.kind for each in found.work("What am I working on today?")] == ["intent"]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert found.prune(before=tomorrow).work == 1
    assert found.work() == []
