"""Makes Triton's interpreter fit for whole cases: it patches `triton.language` anew for every call of a function.

That is most of its time. Once for each module is enough; a kernel's own patches are left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def patch_once() -> Callable[[], None]:
    """Let each module of kernels be patched once in this process; returns what takes this back."""
    from triton.runtime.interpreter import InterpretedFunction

    original, patched = InterpretedFunction.__call__, set()

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        module = id(self.fn.__globals__)
        if module in patched:
            return self.rewrite()(*args, **kwargs)
        patched.add(module)
        return original(self, *args, **kwargs)

    def undo() -> None:
        InterpretedFunction.__call__ = original

    InterpretedFunction.__call__ = call
    return undo
