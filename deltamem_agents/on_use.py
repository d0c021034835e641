"""Public names that a package imports on first use (PEP 562), so that importing the package stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from deltamem_agents.errors import missing_extra


def imported_on_use(package: str, modules: Mapping[str, str], extra: str | None = None) -> Callable[[str], Any]:
    """Make a package's ``__getattr__``.

    Args:
        package: The package's ``__name__``.
        modules: Maps each public name to its module, relative to the package. No name may equal the name of a module in
            the package: the import system would bind the module instead.
        extra: The extra of deltamem-agents that installs what the modules need.

    Raises:
        MissingExtraError: On use, if that extra is not installed.
    """

    def __getattr__(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            found = getattr(import_module(f"{package}.{modules[name]}"), name)
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            raise missing_extra(error, package, extra) from error
        setattr(sys.modules[package], name, found)
        return found

    return __getattr__
