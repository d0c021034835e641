"""Reads many small rows as plain tuples: building SQLAlchemy's rows takes as long as the search that finds them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult


def plain_rows(result: CursorResult[Any]) -> list[Any]:
    """All rows of a result, as the driver returns them."""
    cursor = result.cursor
    rows = [] if cursor is None else list(cursor.fetchall())
    result.close()
    return rows
