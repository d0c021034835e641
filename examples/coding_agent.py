"""A coding agent that follows a repository's rules in a process that never read them: it asks `deltamem mcp`.

python examples/coding_agent.py [--folder FOLDER]

Makes a small repository with an AGENTS.md. One process reads its rules into memory and ends. Another one, the agent,
knows nothing but the MCP server. It asks for a brief, and for the rule that answers each of its questions; writes a
function as they say; and runs the tests with the command that it was told. This agent decides by the rules alone, so
that the example needs no large model; give the same tools to one, and it decides better.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mcp import Client, StdioServerParameters

RULES = """# Working here

- Indent Python with two spaces.
- Every function has type hints and a docstring.
- Run the tests with `python -m unittest discover -s tests -q`.
- New code goes into `src/`; never edit files in `generated/`.
"""
TEST = """import sys, unittest

sys.path.insert(0, "src")
from area import area


class Area(unittest.TestCase):
  def test_area(self):
    self.assertEqual(area(2, 3), 6)
"""


def make(root: Path) -> None:
    """Make the repository."""
    (root / "tests").mkdir(parents=True)
    (root / "AGENTS.md").write_text(RULES)
    (root / "tests" / "test_area.py").write_text(TEST)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Rules"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)


async def work(root: Path, url: str) -> None:
    """Add a function to the repository, as its rules say."""
    deltamem = str(Path(sys.executable).with_name("deltamem"))
    server = StdioServerParameters(
        command=deltamem, args=["mcp", "--url", url, "--root", str(root), "--embedder", "none"]
    )
    async with Client(server) as memory:

        async def rule(question: str) -> str:
            found = await memory.call_tool("guidelines_recall", {"query": question, "k": 1})
            best = found.structured_content["rules"][0]
            print(f"{question}  {best['text']}  ({best['file']}:{best['lines'][0]})")
            return str(best["text"])

        brief = await memory.call_tool("guidelines_brief", {"task": "Add a function that computes an area"})
        print(brief.structured_content["text"], end="\n\n")
        spaces = {"two": 2, "four": 4}[re.search(r"(two|four) spaces", await rule("How is Python indented?"))[1]]
        folder = re.search(r"`(\w+/)`", await rule("Where does new code go?"))[1]
        command = re.search(r"`(.+?)`", await rule("How do I run the tests?"))[1]
        await memory.call_tool(
            "remember", {"text": f"area() was added in {folder} with {spaces} spaces, as AGENTS.md says."}
        )

    body = ['"""The area of a rectangle."""', "return width * height"]
    lines = ["def area(width: float, height: float) -> float:", *(" " * spaces + line for line in body)]
    (root / folder).mkdir(exist_ok=True)
    (root / folder / "area.py").write_text("\n".join(lines) + "\n")
    print(f"\n{folder}area.py:\n{(root / folder / 'area.py').read_text()}")
    program, *arguments = command.split()
    done = subprocess.run([sys.executable if program == "python" else program, *arguments], cwd=root, check=False)
    print("tests passed" if done.returncode == 0 else "tests failed")


def main() -> None:
    """Make the repository, read its rules in one process, and work in another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, help="where to make the repository and the database; by default a temporary one"
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)  # the second process
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        root, url = folder / "repository", f"sqlite:///{folder / 'memory.db'}"
        if given.work:
            asyncio.run(work(root, url))
            return
        make(root)
        deltamem = str(Path(sys.executable).with_name("deltamem"))
        subprocess.run([deltamem, "guidelines", "sync", str(root), "--url", url], check=True)
        subprocess.run([sys.executable, __file__, "--folder", str(folder), "--work"], check=True)


if __name__ == "__main__":
    main()
