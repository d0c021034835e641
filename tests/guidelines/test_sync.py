"""Sync writes only what changed; citations are verified; deleted rules leave nothing behind."""

from __future__ import annotations

from pathlib import Path

from deltamem_agents.guidelines import Guidelines

RULES = """# Guide

## Testing

- Run `make check` before every commit.
- Tests never touch the network.

## Style

- Indent with four spaces.
"""


def test_a_rule_is_recalled_with_file_line_and_commit(tree, guidelines):
    commit = tree.commit(files={"AGENTS.md": RULES})
    best = guidelines(tree).recall("How many spaces do we indent with?").rules[0]
    assert (best.rule.citation, best.rule.commit, best.stale) == ("AGENTS.md:10", commit, False)


def test_an_unchanged_repository_writes_nothing(tree, guidelines, mem):
    tree.commit(files={"AGENTS.md": RULES, "src/a.py": ""})
    first = guidelines(tree)
    before = mem.agent(first.agent).health().position
    again = first.sync()
    assert not again.wrote
    assert again.rules == 3
    assert mem.agent(first.agent).health().position == before


def test_an_inserted_line_touches_one_rule(tree, guidelines, mem):
    tree.commit(files={"AGENTS.md": RULES})
    found = guidelines(tree)
    ids = {each.rule.text: each.rule.id for each in found.show()}
    tree.commit(files={"AGENTS.md": RULES.replace("## Style\n", "## Style\n\n- Lines end at column 100.")})
    done = found.sync()
    assert (done.added, done.changed, done.removed) == (1, 0, 0)
    assert ids.items() <= {each.rule.text: each.rule.id for each in found.show()}.items()


def test_an_edited_rule_keeps_its_id_and_supersedes_the_old(tree, guidelines):
    tree.commit(files={"AGENTS.md": RULES})
    found = guidelines(tree)
    old = found.recall("How many spaces do we indent with?").rules[0].rule
    tree.commit(files={"AGENTS.md": RULES.replace("four spaces", "two spaces")})
    assert found.sync().changed == 1
    (new,) = (each.rule for each in found.show() if "spaces" in each.rule.text)
    assert (new.id, new.text) == (old.id, "Indent with two spaces.")


def test_an_edit_that_was_not_synced_is_returned_as_it_stands_and_marked(tree, guidelines):
    tree.commit(files={"AGENTS.md": RULES})
    found = guidelines(tree)
    tree.write({"AGENTS.md": "New first line.\n\n" + RULES.replace("four spaces", "two spaces")})
    best = found.recall("How many spaces do we indent with?").rules[0]
    assert (best.rule.text, best.rule.lines, best.stale) == ("Indent with two spaces.", (12, 12), True)


def test_a_rule_that_is_gone_is_not_returned_even_before_the_sync(tree, guidelines):
    tree.commit(files={"AGENTS.md": RULES})
    found = guidelines(tree)
    tree.write({"AGENTS.md": RULES.replace("- Indent with four spaces.\n", "")})
    assert all("Indent" not in each.rule.text for each in found.recall("How many spaces do we indent with?").rules)


def test_a_deleted_rule_leaves_no_trace_in_the_database(tree, guidelines, tmp_path: Path):
    tree.commit(files={"AGENTS.md": RULES + "- The xylophone module is deprecated.\n"})
    found = guidelines(tree)
    tree.commit(files={"AGENTS.md": RULES + "- The xylophone module is forbidden.\n"})
    assert found.sync().changed == 1
    tree.commit(files={"AGENTS.md": RULES})
    assert found.sync().removed == 1
    found.mem.purge()
    for file in tmp_path.glob("memory.db*"):
        assert b"xylophone" not in file.read_bytes()


def test_a_renamed_file_keeps_its_rules(tree, guidelines):
    tree.commit(files={"CONTRIBUTING.md": RULES})
    found = guidelines(tree)
    ids = {each.rule.id for each in found.show()}
    tree.git("mv", "CONTRIBUTING.md", "AGENTS.md")
    tree.commit()
    done = found.sync()
    assert (done.added, done.removed, done.moved) == (0, 0, 3)
    assert {each.rule.id for each in found.show()} == ids
    assert {each.rule.former for each in found.show()} == {("CONTRIBUTING.md",)}


def test_projects_never_mix(tree, guidelines, mem, tmp_path):
    from tests.guidelines.conftest import Tree

    tree.commit(files={"AGENTS.md": RULES})
    other = Tree(tmp_path / "other")
    other.commit(files={"AGENTS.md": "- Indent with tabs.\n"})
    guidelines(tree)
    assert [each.rule.text for each in guidelines(other).recall("How do we indent?").rules] == ["Indent with tabs."]
    assert Guidelines(mem, tree.root).agent != Guidelines(mem, other.root).agent
