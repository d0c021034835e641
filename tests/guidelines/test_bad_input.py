"""What a repository can hold and do, none of which may be run, followed out of it, or end a sync."""

from __future__ import annotations

import os

import pytest

from deltamem_agents.errors import ConfigError, RepositoryError
from deltamem_agents.guidelines import Guidelines

GOOD = "- Run `make check` before every commit.\n"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("pyproject.toml", b"[tool\nx = 1\n", "line 1"),
        (".claude/rules/a.md", b"---\npaths: [open\n---\n- A rule.\n", "line 3"),
        (".pre-commit-config.yaml", b"a: &a [x]\nb: [" + b"*a, " * 60 + b"*a]\n", "aliases"),
        ("package.json", b"{" + b'"a": {' * 90 + b"}" * 91, "nested"),
        ("GEMINI.md", b"- A rule.\xff\xfe\n", "line 1 is not UTF-8"),
        ("GEMINI.md", b"\0\1\2binary", "binary"),
        ("CONVENTIONS.md", b"x" * ((1 << 20) + 1), "limit"),
        ("CONVENTIONS.md", b"> " * 80 + b"deep\n", "nested"),
        ("noxfile.py", b"def (:\n", "line 1"),
    ],
)
def test_a_broken_file_is_skipped_with_a_warning(tree, guidelines, name, content, told):
    path = tree.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    tree.commit(files={"AGENTS.md": GOOD})
    found = guidelines(tree)
    (warning,) = found.sync().warnings
    assert warning.startswith(name)
    assert told in warning
    assert [each.rule.file for each in found.show()] == ["AGENTS.md"]


def test_links_out_of_the_repository_and_in_circles_are_not_read(tree, guidelines, tmp_path):
    (tmp_path / "secret.md").write_text("- The secret is 42.\n")
    (tree.root / "CLAUDE.md").symlink_to(tmp_path / "secret.md")
    (tree.root / "GEMINI.md").symlink_to("GEMINI.md")
    tree.write({"AGENTS.md": GOOD + "\n@../secret.md\n@/etc/passwd\n"})
    assert all("secret is" not in each.rule.text for each in guidelines(tree).show())


def test_nothing_of_the_repository_runs(tree, guidelines, tmp_path):
    mark = tmp_path / "ran"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    script.chmod(0o755)
    tree.commit(
        files={"AGENTS.md": GOOD, ".gitattributes": "* filter=evil diff=evil\n", "noxfile.py": f"open('{mark}', 'w')\n"}
    )
    for key in ("core.fsmonitor", "diff.external", "filter.evil.clean", "diff.evil.textconv", "gpg.program"):
        tree.git("config", key, str(script))
    tree.git("config", "log.showSignature", "true")
    mark.unlink(missing_ok=True)
    tree.write({"AGENTS.md": GOOD + "- Another rule that is new.\n"})
    found = guidelines(tree)
    found.recall("How do I run the checks?")
    found.status()
    assert not mark.exists()


def test_a_path_outside_is_refused(tree, guidelines):
    tree.commit(files={"AGENTS.md": GOOD})
    for path in ("../x.py", "/etc/passwd", "a/../../b"):
        with pytest.raises(ConfigError, match="not below"):
            guidelines(tree).recall("How do I run the checks?", path=path)


def test_a_folder_without_git_is_read_and_a_bare_repository_is_refused(mem, tmp_path, tree):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "AGENTS.md").write_text(GOOD)
    found = Guidelines(mem, plain)
    assert found.sync().rules == 1
    assert found.show()[0].rule.commit is None
    tree.git("init", "-q", "--bare", str(tmp_path / "bare.git"))
    for path in (tmp_path / "bare.git", tmp_path / "nowhere"):
        with pytest.raises(RepositoryError):
            Guidelines(mem, path)


def test_worktrees_have_rules_of_their_own_and_share_the_work(tree, mem, tmp_path):
    tree.commit("Start", {"AGENTS.md": GOOD})
    first = Guidelines(mem, tree.root)
    first.sync()
    tree.git("worktree", "add", "-q", str(tmp_path / "second"), "-b", "second")
    second = Guidelines(mem, tmp_path / "second")
    (tmp_path / "second/AGENTS.md").write_text("- Run `make all` before every commit.\n")
    second.sync()
    assert first.agent == second.agent
    assert [each.rule.text for each in first.show()] == ["Run `make check` before every commit."]
    assert [each.rule.text for each in second.show()] == ["Run `make all` before every commit."]
    assert len(second.work()) == 1


def test_a_file_without_permission_is_skipped(tree, guidelines):
    if os.geteuid() == 0:
        os.mkfifo(tree.root / "GEMINI.md")  # root may read everything; a pipe is not a regular file either
    else:
        tree.write({"GEMINI.md": GOOD})
        (tree.root / "GEMINI.md").chmod(0)
    tree.write({"AGENTS.md": GOOD})
    assert {each.rule.file for each in guidelines(tree).show()} == {"AGENTS.md"}
