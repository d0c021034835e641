"""Tests use what is public. What still reaches for a private name of ours is listed here with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OURS = ("deltamem_agents", "deltamem_kernels", "langchain_deltamem", "llama_index_deltamem")
PUBLIC = {"_asdict", "_fields", "_replace"}  # of named tuples
FOREIGN = {  # private names of other libraries, or names that those call
    "_exit": "os._exit: a process ends without cleaning up",
    "_current_frames": "sys._current_frames: where threads stand",
    "_attn_implementation": "Transformers: how a loaded configuration is told its attention",
    "_forward_hooks": "PyTorch has no public way to list a module's hooks",
    "_forward_pre_hooks": "PyTorch has no public way to list a module's hooks",
    "_estimate_token_count": "LlamaIndex: a method of its Memory that ours overrides",
    "_tokenizer": "LlamaIndex: how its settings are told a tokenizer",
    "_llm": "LlamaIndex: how its settings are told a model",
    "_repr_html_": "Jupyter: how it asks for a table",
    "_api": "LangChain: where the class of its deprecation warnings is",
}
_CACHED = "a cache that a process fills once; nobody but a test changes what it was filled from"
_CHOICE = "which of two implementations runs here; a user has one of them, both are tested"
ALLOWED: dict[str, dict[str, str]] = {  # by file: name, and why there is no public way
    "cli/test_bad_input.py": {"_events": "a demo's process that crashes; those of the package do not"},
    "cli/test_doctor.py": {"_library": _CACHED},
    "engine/processes.py": dict.fromkeys(
        ("_lock", "_loading", "_stop_strings"), "a fork while another thread holds just this lock is a matter of luck"
    ),
    "frameworks/langgraph_stores.py": {"_mem": "a stand-in, which is a subclass of the store, closes its memory"},
    "kernels/gpu_decode_cases.py": {"_compiled": _CHOICE, "_launches": "kernels launched, which nothing else counts"},
    "kernels/test_arguments.py": {"_library": _CACHED, "_triton_scan": _CACHED},
    "kernels/test_chunked.py": dict.fromkeys(("_CPU_FLOATS", "_chunk_tokens"), "sizes at which the work is cut up"),
    "kernels/test_decode.py": {"_compiled": _CHOICE},
    "kernels/test_gpu_compile.py": {"_kernels": _CHOICE},
    "kernels/test_gpu_decode.py": {"_kernels": _CHOICE},
    "memory/test_durable_writes.py": {"_known": "a cache of words that must not outlive a memory; nothing shows it"},
    "recall/test_naming.py": {"_inner": "an attribute of the test's own class, in which an embedder looks for names"},
}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC | FOREIGN.keys()


def own(node: ast.expr) -> bool:
    """Whether an attribute is the class's own: of self, cls or super()."""
    if isinstance(node, ast.Name):
        return node.id in ("self", "cls")
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def reached_for(tree: ast.AST) -> Iterator[str]:
    """Private names that a program uses as attributes, imports, or gives to a function as a name to replace."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and private(node.attr) and not own(node.value):
            yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OURS):
            yield from (each.name for each in node.names if private(each.name))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in SETTERS:
            given = [each.value for each in node.args[:2] if isinstance(each, ast.Constant)]
            yield from (each.rpartition(".")[2] for each in given if isinstance(each, str) and private(last(each)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nfrom deltamem" in node.value:
            with suppress(SyntaxError):  # a part of a program, if it is none
                yield from reached_for(ast.parse(node.value))


SETTERS = ("setattr", "getattr", "delattr", "setitem")


def last(name: str) -> str:
    return name.rpartition(".")[2]


FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(TESTS)) for path in FILES])
def test_no_test_reaches_for_a_private_name(path: Path) -> None:
    found = set(reached_for(ast.parse(path.read_text())))
    allowed = ALLOWED.get(str(path.relative_to(TESTS)), {})
    assert found == set(allowed), "see tests/databases.py and tests/faulty.py for public ways, or the list above"
