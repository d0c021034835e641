"""Git hooks: beside existing ones, in the background, and gone without a trace."""

from __future__ import annotations

import time

import pytest

from deltamem_agents.errors import ConfigError, RepositoryError
from deltamem_agents.guidelines import Guidelines


def test_a_hook_that_was_there_still_runs_and_is_put_back(tree, mem, tmp_path):
    tree.commit("Start", {"AGENTS.md": "- Run `make`.\n"})
    theirs = tree.root / ".git/hooks/post-checkout"
    theirs.write_text(f'#!/bin/sh\necho "$3" >> {tmp_path}/ran\nexit 0\n')
    theirs.chmod(0o755)
    guidelines = Guidelines(mem, tree.root)
    url = f"sqlite:///{tmp_path / 'hooks.db'}"
    assert len(guidelines.install_hooks(url)) == 3
    guidelines.install_hooks(url)  # again: nothing changes
    began = time.perf_counter()
    tree.git("checkout", "-q", "-b", "other")
    assert time.perf_counter() - began < 5  # in the background; the exact bar is the benchmark's
    assert (tmp_path / "ran").read_text() == "1\n"
    until = time.monotonic() + 90
    while not (tmp_path / "hooks.db").exists() and time.monotonic() < until:
        time.sleep(0.2)
    assert (tmp_path / "hooks.db").exists()
    assert len(guidelines.uninstall_hooks()) == 3
    assert "deltamem" not in theirs.read_text()
    assert sorted(each.name for each in theirs.parent.iterdir() if not each.name.endswith(".sample")) == [
        "post-checkout"
    ]


def test_hooks_that_other_repositories_share_are_refused(tree, mem, tmp_path):
    tree.git("config", "core.hooksPath", str(tmp_path / "shared"))
    with pytest.raises(RepositoryError, match=r"core\.hooksPath"):
        Guidelines(mem, tree.root).install_hooks("sqlite:///a.db")


def test_the_repository_s_own_hooks_path_is_respected(tree, mem):
    tree.git("config", "core.hooksPath", ".husky")
    made = Guidelines(mem, tree.root).install_hooks("sqlite:///a.db")
    assert {each.parent for each in made} == {tree.root / ".husky"}


def test_a_password_is_not_written_into_a_hook(tree, mem):
    with pytest.raises(ConfigError, match="password"):
        Guidelines(mem, tree.root).install_hooks("postgresql://me:secret@host/db")
