"""Repositories of every kind that git makes: shallow, with submodules, in the middle of a rebase, with worktrees."""

from __future__ import annotations

import subprocess

from deltamem_agents.guidelines import Guidelines

GOOD = "- Run `make check` before every commit.\n"


def test_a_shallow_clone_is_read_and_its_commits_are_those_it_has(tree, mem, tmp_path):
    tree.commit("Start", {"AGENTS.md": GOOD})
    last = tree.commit("Spaces", {"AGENTS.md": GOOD + "- Indent with two spaces.\n"})
    tree.git("clone", "-q", "--depth", "1", f"file://{tree.root}", str(tmp_path / "shallow"))
    found = Guidelines(mem, tmp_path / "shallow")
    assert (found.sync().rules, found.sync().wrote) == (2, False)
    assert {each.rule.commit for each in found.show()} == {last}
    assert [each.commit for each in found.work()] == [last]
    tree.commit("Tabs", {"AGENTS.md": GOOD + "- Indent with tabs.\n"})
    for command in (["fetch", "-q", "--depth", "1"], ["reset", "-q", "--hard", "origin/main"]):
        subprocess.run(["git", *command], cwd=tmp_path / "shallow", check=True, capture_output=True)
    assert found.sync().rules == 2
    assert "Indent with tabs." in {each.rule.text for each in found.show()}


def test_a_submodule_is_a_repository_of_its_own(tree, mem, tmp_path):
    tree.commit(files={"AGENTS.md": GOOD})
    outer = type(tree)(tmp_path / "outer")
    outer.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tree.root), "libs/inner")
    outer.commit(files={".claude/rules/inner.md": '---\npaths: ["libs/inner/**"]\n---\n- Never edit the library.\n'})
    around, inside = Guidelines(mem, outer.root), Guidelines(mem, outer.root / "libs/inner")
    around.sync()
    inside.sync()
    assert [each.rule.text for each in around.show()] == ["Never edit the library."]
    assert [each.rule.text for each in inside.show()] == ["Run `make check` before every commit."]
    assert around.agent != inside.agent
    assert around.status().unreachable == ()


def test_while_a_rebase_is_under_way_no_commit_is_recorded(tree, mem):
    tree.commit("Start", {"AGENTS.md": GOOD, "a.txt": "0"})
    found = Guidelines(mem, tree.root)
    found.sync()
    tree.git("checkout", "-q", "-b", "feature")
    tree.commit("Feature", {"a.txt": "1"})
    tree.git("checkout", "-q", "main")
    tree.commit("Other", {"a.txt": "2"})
    tree.git("checkout", "-q", "feature")
    stopped = subprocess.run(["git", "rebase", "main"], cwd=tree.root, capture_output=True, check=False)
    assert stopped.returncode != 0
    done = found.sync()
    assert done.commits == 0
    assert any("rebase" in each for each in done.warnings)
    tree.write({"a.txt": "3"})
    tree.git("add", "-A")
    tree.git("-c", "core.editor=true", "rebase", "--continue")
    assert found.sync().commits == 2
    assert {each.text.splitlines()[0] for each in found.work()} >= {"Feature", "Other"}


def test_hooks_of_a_worktree_are_those_of_its_repository(tree, mem, tmp_path):
    tree.commit(files={"AGENTS.md": GOOD})
    tree.git("worktree", "add", "-q", str(tmp_path / "second"), "-b", "second")
    second = Guidelines(mem, tmp_path / "second")
    assert {each.parent for each in second.install_hooks("sqlite:///a.db")} == {tree.root / ".git/hooks"}
    assert len(Guidelines(mem, tree.root).status().hooks) == 3
    assert len(second.uninstall_hooks()) == 3


def test_folders_that_link_in_circles_and_huge_files_do_not_delay(tree, mem, tmp_path):
    plain = tmp_path / "plain"
    for root in (tree.root, plain):
        (root / "a/b").mkdir(parents=True)
        (root / "a/b/up").symlink_to("../..")
        (root / "a/self").symlink_to(".")
        (root / "etc").symlink_to("/etc")
        (root / "AGENTS.md").write_text(GOOD)
        (root / "CLAUDE.md").symlink_to("AGENTS.md")
        with (root / "CONVENTIONS.md").open("wb") as huge:
            huge.truncate(200 << 20)  # without taking any space
        found = Guidelines(mem, root)
        done = found.sync()
        assert done.rules == 1
        assert any("CONVENTIONS.md was skipped: it has 209715200 bytes" in each for each in done.warnings)
