"""How the demo's processes communicate with their parent: a request on stdin, JSON events on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from deltamem_agents import terminal
from deltamem_agents.errors import DeltaMemError

Emit = Callable[[str, Mapping[str, Any]], None]


@contextmanager
def answering() -> Iterator[tuple[dict[str, Any], Emit]]:
    """Yield the request and a function that sends an event. Our own errors are sent as events and end the process.

    stdout is reserved for events: everything else prints to stderr.
    """
    terminal.quiet_libraries()
    out, sys.stdout = sys.stdout, sys.stderr

    def emit(event: str, values: Mapping[str, Any]) -> None:
        out.write(json.dumps({"event": event, **values}) + "\n")
        out.flush()

    try:
        yield json.load(sys.stdin), emit
    except DeltaMemError as error:
        emit("error", {"kind": type(error).__name__, "message": str(error)})
        sys.exit(1)
