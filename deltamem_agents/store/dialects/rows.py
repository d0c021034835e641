"""Many small rows, as the driver has them: SQLAlchemy's own take as long as the search that found them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult


def plain_rows(result: CursorResult[Any]) -> list[Any]:
    """All rows of a result, as tuples."""
    cursor = result.cursor
    rows = [] if cursor is None else list(cursor.fetchall())
    result.close()
    return rows
