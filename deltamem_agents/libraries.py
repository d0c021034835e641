"""Libraries that load on use: public names that are imported then (PEP 562), and loading without progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Load without Transformers' progress bars ("Loading weights"), which do not belong on an application's stderr.

    The hub's download bars stay.
    """
    from transformers.utils import logging

    before = logging.set_tqdm_hook(_disabled)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _disabled(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return bar(*args, **{**options, "disable": True})
