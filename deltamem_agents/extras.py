"""Optional dependencies: what to say where one is missing. Imports none of them."""

from __future__ import annotations

from importlib.util import find_spec

from deltamem_agents.errors import MissingExtraError


def require_extra(module: str, package: str, extra: str) -> None:
    """Look for what ``package`` is imported with, and import nothing.

    Raises:
        MissingExtraError: It is not installed; the message names the extra of deltamem-agents that installs it.
    """
    try:
        found = find_spec(module)
    except ModuleNotFoundError as error:  # of the package that the module is in
        raise missing_extra(error, package, extra) from error
    if found is None:
        missing = ModuleNotFoundError(f"No module named {module!r}", name=module)
        raise missing_extra(missing, package, extra) from missing


def missing_extra(error: ModuleNotFoundError, package: str, extra: str) -> MissingExtraError:
    """The error to raise from ``error``: it names the extra of deltamem-agents that ``package`` is imported with."""
    return MissingExtraError(
        f"{package} needs {error.name}, which is not installed; install deltamem-agents[{extra}]",
        name=error.name,
    )
