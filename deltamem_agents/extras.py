"""Optional dependencies: what to say where one is missing. Imports nothing."""

from __future__ import annotations

from deltamem_agents.errors import MissingExtraError


def missing_extra(error: ModuleNotFoundError, package: str, extra: str) -> MissingExtraError:
    """The error to raise from ``error``: it names the extra of deltamem-agents that ``package`` is imported with."""
    return MissingExtraError(
        f"{package} needs {error.name}, which is not installed; install deltamem-agents[{extra}]",
        name=error.name,
    )
