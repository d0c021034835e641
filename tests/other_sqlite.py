"""Runs tests on the SQLite of the package pysqlite3 in place of Python's own; nothing of ours needs that package.

    pip install --no-deps --target DIR pysqlite3-binary
    PYTHONPATH=DIR python -m pytest -p tests.other_sqlite tests/store tests/faults

Processes that a test starts go on with Python's own.
"""

from __future__ import annotations

import sys

import pysqlite3
from pysqlite3 import dbapi2

sys.modules["sqlite3"] = pysqlite3
sys.modules["sqlite3.dbapi2"] = dbapi2


def pytest_report_header() -> str:
    """Which SQLite it is."""
    return f"SQLite {pysqlite3.sqlite_version}"
