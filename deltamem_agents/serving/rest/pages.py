"""Pages of what REST answers, with a cursor."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from deltamem_agents.serving.failures import HttpFailure

LIMIT = 100  # items of a page by default
MOST = 1000  # and at most


def page(items: Sequence[dict[str, Any]], following: object | None) -> dict[str, Any]:
    """A page; ``next`` is the cursor of the one after it, null on the last."""
    return {"data": list(items), "next": None if following is None else cursor(following)}


def cursor(value: object) -> str:
    """A cursor; callers send it back as it is."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def after(given: str | None, kind: type, start: Any) -> Any:
    """The value of a cursor, or ``start`` without one.

    Raises:
        HttpFailure: 400; no page has given this cursor.
    """
    if given is None:
        return start
    try:
        value = json.loads(base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        value = None
    if type(value) is not kind:
        raise HttpFailure(
            400, "the cursor is not valid; give 'next' of the page before", "invalid_cursor", param="after"
        )
    return value
