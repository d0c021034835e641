"""``deltamem hook``: what coding agents read at the start of a session, and the plugin folder that calls it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "integrations" / "coding_agents"
COMMAND = str(Path(sys.executable).with_name("deltamem"))
RULE = "Run the tests with `make check`."
# The fields of each manifest, by the clients' published schemas and documentation (November 2026).
METADATA = {"name", "version", "description", "author", "license", "keywords"}
FIELDS = {
    ".claude-plugin": METADATA,  # hooks/hooks.json and .mcp.json are found by their names
    ".codex-plugin": METADATA | {"mcpServers", "hooks", "interface"},
    ".cursor-plugin": METADATA | {"displayName", "mcpServers", "hooks", "rules"},
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    (root / "AGENTS.md").write_text(f"# Rules\n\n- {RULE}\n")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def hooked(client: str, said: str, folder: Path, url: str) -> dict[str, Any]:
    """What the hook of a client prints, run in a folder and told something on stdin."""
    command = [COMMAND, "hook", client, "--url", url]
    done = subprocess.run(command, cwd=folder, input=said, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("client", ["claude", "codex"])
def test_claude_code_and_codex_get_the_rules(client: str, repository: Path, url: str, tmp_path: Path) -> None:
    said = json.dumps({"hook_event_name": "SessionStart", "source": "compact", "cwd": str(repository)})
    found = hooked(client, said, tmp_path, url)
    assert found.keys() == {"hookSpecificOutput"}
    assert found["hookSpecificOutput"]["hookEventName"] == "SessionStart"
    assert RULE in found["hookSpecificOutput"]["additionalContext"]
    (repository / "AGENTS.md").write_text("# Rules\n\n- Run the tests with `pytest`.\n")
    assert "pytest" in str(hooked(client, said, tmp_path, url))


def test_cursor_gets_them(repository: Path, url: str, tmp_path: Path) -> None:
    found = hooked("cursor", json.dumps({"workspace_roots": [str(repository)]}), tmp_path, url)
    assert found.keys() == {"additional_context"} and RULE in found["additional_context"]


@pytest.mark.parametrize("said", ["", "{", "[]", '{"cwd": 7}', "[" * 5000])
def test_without_a_folder_it_is_the_working_directory(said: str, repository: Path, url: str) -> None:
    assert RULE in str(hooked("claude", said, repository, url))


def test_a_session_starts_without_rules_and_says_why(url: str, tmp_path: Path) -> None:
    missing = json.dumps({"cwd": str(tmp_path / "missing")})
    assert "missing" in hooked("claude", missing, tmp_path, url)["systemMessage"]
    assert "missing" in hooked("cursor", missing, tmp_path, url)["user_message"]
    assert hooked("claude", "{}", tmp_path, url) == {}  # no repository
    bad = hooked("claude", json.dumps({"cwd": str(tmp_path)}), tmp_path, "postgresql://127.0.0.1:1/none")
    assert "deltamem has no rules" in bad["systemMessage"]


def test_an_unknown_client_is_refused(url: str) -> None:
    done = subprocess.run([COMMAND, "hook", "emacs", "--url", url], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "claude, codex, cursor" in done.stderr


# The plugin folder


@pytest.mark.parametrize("client", list(FIELDS))
def test_manifests_have_the_fields_that_clients_read(client: str) -> None:
    manifest = json.loads((FOLDER / client / "plugin.json").read_text())
    assert {"name", "version", "description"} <= manifest.keys() <= FIELDS[client]
    assert manifest["name"] == "deltamem"
    for name in ("hooks", "mcpServers", "rules"):
        if name in manifest:
            assert manifest[name].startswith("./") and (FOLDER / manifest[name]).is_file()
    assert [each.name for each in (FOLDER / client).iterdir()] == ["plugin.json"]


def test_the_commands_of_the_plugin_run(repository: Path, url: str) -> None:
    hooks = json.loads((FOLDER / "hooks" / "hooks.json").read_text())["hooks"]
    assert hooks.keys() == {"SessionStart"}
    assert {"startup", "compact"} <= set(hooks["SessionStart"][0]["matcher"].split("|"))
    cursor = json.loads((FOLDER / "hooks" / "cursor.json").read_text())
    assert cursor["version"] == 1 and cursor["hooks"].keys() == {"sessionStart"}
    servers = json.loads((FOLDER / ".mcp.json").read_text())["mcpServers"]
    assert servers["deltamem"]["command"] == "deltamem" and servers["deltamem"]["args"][0] == "mcp"
    for command in (hooks["SessionStart"][0]["hooks"][0]["command"], cursor["hooks"]["sessionStart"][0]["command"]):
        program, *arguments = shlex.split(command)
        assert program == "deltamem" and arguments[-2:] == ["--url", "user"]
        assert RULE in str(hooked(arguments[1], "", repository, url))
