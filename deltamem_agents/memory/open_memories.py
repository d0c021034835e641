"""Handles on an open `DeltaMem` for objects that a framework copies and serialises, and finding one by its URL."""

from __future__ import annotations

from typing import NoReturn

from deltamem_agents.errors import ClosedError, ConfigError, ForkedError, refuse_pickle
from deltamem_agents.memory.deltamem import DeltaMem, opened
from deltamem_agents.memory.runtime import Shared
from deltamem_agents.store.sqlite_files import is_passing


class Handle(Shared):
    """Holds an open `DeltaMem` as an attribute."""

    __slots__ = ("mem",)

    def __init__(self, mem: DeltaMem) -> None:
        self.mem = mem

    def __reduce__(self) -> NoReturn:
        refuse_pickle("a handle on a DeltaMem")


def find_open(url: str) -> DeltaMem:
    """The open `DeltaMem` with this masked URL; the newest one if its database is open more than once.

    Raises:
        ClosedError: None is open in this process.
        ConfigError: Several open databases have this URL, because they are in memory or it is masked.
    """
    found = [mem for mem in opened() if mem.store.url == url and _is_open(mem)]
    if not found:
        raise ClosedError(
            f"no DeltaMem is open for {url} in this process; open it with DeltaMem.open(url=…) before what belongs "
            "to it is restored, or pass an open one as mem="
        )
    if len(found) > 1 and is_passing(url):
        raise ConfigError(f"{len(found)} databases in memory are open as {url}; use a file, or close the others")
    if any(not mem.store.same_database(found[-1].store) for mem in found):
        raise ConfigError(f"{len(found)} databases are open as {url}; pass the right one as mem=")
    return found[-1]


def _is_open(mem: DeltaMem) -> bool:
    try:
        mem.check_open()
    except (ClosedError, ForkedError):
        return False
    return True
