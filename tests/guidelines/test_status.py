"""The health of the rules: what is reported, and what is not."""

from __future__ import annotations

import shutil


def test_a_rule_of_a_folder_that_exists_is_reachable(tree, guidelines):
    tree.commit(
        files={
            "AGENTS.md": "- Run `make check` before every commit.\n",
            "web/AGENTS.md": "- Use two spaces.\n",
            ".cursor/rules/a.mdc": "---\nalwaysApply: true\n---\n- Write short functions.\n",
        }
    )
    found = guidelines(tree)
    assert len(found.show()) == 3
    assert found.status().unreachable == ()


def test_a_rule_about_files_that_are_not_listed_is_reachable(tree, guidelines):
    tree.commit(
        files={
            ".gitignore": "dist/\n",
            "tests/fixtures/a.json": "{}",
            ".claude/rules/fixtures.md": '---\npaths: ["tests/fixtures/**"]\n---\n- Never edit a fixture by hand.\n',
            ".claude/rules/dist.md": '---\npaths: ["dist/**/*.js"]\n---\n- Never edit what is built.\n',
        }
    )
    tree.write({"dist/a.js": ""})
    assert guidelines(tree).status().unreachable == ()


def test_a_rule_about_no_file_is_unreachable(tree, guidelines):
    tree.commit(
        files={
            "src/a.py": "",
            "crates/parser/a.txt": "",
            "AGENTS.md": "# Rules\n\n- In `crates/parser/`: never panic.\n- Use two spaces.\n",
            ".claude/rules/rust.md": '---\npaths: ["**/*.rs"]\n---\n- Never unwrap.\n',
            ".claude/rules/markdown.md": '---\npaths: [".claude/rules/markdown.md"]\n---\n- A rule about itself.\n',
            ".claude/rules/gone.md": '---\npaths: ["old/**"]\n---\n- Keep the old code.\n',
        }
    )
    found = guidelines(tree)
    unreachable = {"Never unwrap.", "A rule about itself.", "Keep the old code."}
    assert {each.text for each in found.status().unreachable} == unreachable
    shutil.rmtree(tree.root / "crates")
    tree.git("add", "-A")
    assert {each.text for each in found.status().unreachable} == unreachable | {"In `crates/parser/`: never panic."}
