"""Finds commands in prose and in shell blocks, with the comments that explain them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_TOOLS = """
    npm npx pnpm yarn bun bunx deno node make just task cargo rustup go gofmt golangci-lint python python3 pip pip3 pipx
    uv uvx poetry pdm hatch tox nox pytest ruff black mypy pyright isort flake8 pylint pre-commit mvn gradle docker
    docker-compose git bundle rake rails bazel bazelisk cmake ctest ninja meson dotnet swift xcodebuild flutter dart mix
    composer php phpunit turbo nx lerna vitest jest eslint prettier biome tsc buf sqlc helm kubectl terraform ansible
    alembic protoc cd export source brew apt apt-get curl sbt lein zig cabal stack lint-imports codespell deltamem
    invoke inv hypothesis coverage playwright cypress storybook prisma knex sqlx diesel wasm-pack trunk air swag mockgen
    goose migrate dbt sqlfluff shellcheck shfmt hadolint actionlint markdownlint vale changeset lefthook husky
""".split()
_COMMAND = re.compile(
    r"^(?:\$ |> |sudo )?(?:[A-Z_]+=\S+ )*(?:\./\S|(?:" + "|".join(map(re.escape, _TOOLS)) + r")(?=\s|$))"
)


def is_command(text: str, *, bare: bool = False) -> bool:
    """Whether a line of code is a command.

    Args:
        bare: Whether the name of a tool alone counts.

    >>> is_command("make check"), is_command("pytest"), is_command("pytest", bare=True), is_command("x = 1")
    (True, False, True, False)
    """
    stripped = text.strip()
    return _COMMAND.match(stripped) is not None and (bare or " " in stripped or stripped.startswith("./"))


def looks_like_shell(content: str) -> bool:
    """Whether a block of code in no named language consists of commands."""
    lines = [line.strip() for line in content.split("\n") if line.strip() and not line.strip().startswith("#")]
    return bool(lines) and all(is_command(line, bare=True) for line in lines)


def commands(lines: Sequence[str], start: int) -> Iterator[tuple[str, str, int, int]]:
    """The commands of a shell block: what a comment says of each, the command, and its first and last line."""
    said: list[str] = []
    begins, command = 0, ""
    for number, line in enumerate(lines, start):
        stripped = line.strip()
        if command:
            command = f"{command[:-1].rstrip()} {stripped}"
        elif not stripped:
            said = []
            continue
        elif stripped.startswith("#"):
            if not said:
                begins = number
            said.append(stripped.lstrip("# ").strip())
            continue
        else:
            begins = begins if said else number
            command = re.sub(r"^(?:\$|>|%) ", "", stripped)
        if command.endswith("\\"):
            continue
        body, _, trailing = command.partition(" # ")
        words = " ".join([*said, trailing.strip()]).strip().rstrip(":.")
        yield words, body.strip(), begins, number
        said, command = [], ""
