"""Prints pip constraints: the lowest versions of frameworks, SQLAlchemy and psycopg that pyproject.toml allows.

The rest is as it is pinned.

python tests/integrations/lowest.py > constraints-lowest.txt
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("langchain", "llama-index", "postgres")
FAMILIES = (
    "sqlalchemy",
    "psycopg",
    "langchain",
    "langgraph",
    "langmem",
    "langsmith",
    "llama-index",
    "trustcall",
)  # pip finds what fits


def main() -> None:
    """Print them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
    required += [each for each in project["dependencies"] if each.startswith("sqlalchemy")]
    for requirement in required:
        print("==".join(re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)(?:,.*)?", requirement).groups()))
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if "==" in line and not line.startswith(FAMILIES):
            print(line)


if __name__ == "__main__":
    main()
