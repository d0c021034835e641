"""Public names that a package imports when they are first used (PEP 562), so that importing the package stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from deltamem_agents.errors import missing_extra


def imported_on_use(package: str, modules: Mapping[str, str], extra: str | None = None) -> Callable[[str], Any]:
    """A package's ``__getattr__``.

    Args:
        package: Its ``__name__``.
        modules: Public name to the module that defines it, without the package's name. No name may be that of a module
            of the package, which the import system would put in its place.
        extra: Of deltamem-agents, which installs what the modules need.

    Raises:
        MissingExtraError: On use: that is not installed.
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
