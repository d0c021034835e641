"""The README's example runs."""

from __future__ import annotations

import re
from pathlib import Path

import deltamem_kernels


def test_example(capsys):
    text = (Path(deltamem_kernels.__file__).parent / "README.md").read_text(encoding="utf-8")

    for snippet in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), {})

    assert deltamem_kernels.explain_backend() in capsys.readouterr().out
