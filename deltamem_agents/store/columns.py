"""Column types that check every value they read: SQLite stores anything in any column, and users edit databases.

A value that does not fit raises `DamagedValue`; `Database` then asks `damage` to find the row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ColumnElement, DateTime, Integer, LargeBinary, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeDecorator, TypeEngine

from deltamem_agents.errors import StoreError
from deltamem_agents.messages import in_utc

LARGEST = 1 << 62  # bound of a whole number; SQLite turns a number of more than 63 bits into a float
# May be a lone surrogate, NaN or an infinity, which JSON can hold and callers must not get.
_SUSPECT = re.compile(r"\\u[dD]|NaN|Infinity|[eE]\+?\d{3}|\d{300}")
_FAULTS = (ValueError, TypeError, LookupError, OverflowError, AttributeError, RecursionError)


class DamagedValue(StoreError):
    """A stored value that this package would not have written."""


class Checked(TypeDecorator[Any]):
    """Checks what it reads with `fits`; binds values as the underlying type does.

    Args:
        optional: Whether null is allowed.
    """

    cache_ok = True
    expected = ""  # describes what fits, for errors

    def __init__(self, *, optional: bool = False) -> None:
        super().__init__()
        self.optional = optional

    def fits(self, value: Any) -> bool:
        """Whether a value that was read is valid for this column."""
        raise NotImplementedError

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Convert the value, then check it; a value that does not fit raises `DamagedValue`."""
        convert = super().result_processor(dialect, coltype)

        def process(value: Any) -> Any:
            if value is None and self.optional:
                return None
            try:
                found = value if convert is None else convert(value)
                if self.fits(found):
                    return found
            except _FAULTS:
                pass  # falls through to the one error below
            raise DamagedValue(f"{described(value)}, which is not {self.expected}")

        return process


class Whole(Checked):
    """A whole number.

    Args:
        low: The smallest valid value.
        small: Whether 32 bits are enough.
        key: Whether the database generates the value, which SQLite does only for INTEGER columns.
    """

    impl = BigInteger
    cache_ok = True

    def __init__(self, low: int = 0, *, small: bool = False, key: bool = False, optional: bool = False) -> None:
        super().__init__(optional=optional)
        self.low = low
        self.small = small
        self.key = key
        self.expected = f"a whole number from {low}"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """See `TypeDecorator.load_dialect_impl`."""
        integer = self.small or (self.key and dialect.name == "sqlite")
        return dialect.type_descriptor(Integer() if integer else BigInteger())

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return type(value) is int and self.low <= value < LARGEST


class Flag(Checked):
    """True or false; SQLite stores 1 and 0."""

    impl = Boolean
    cache_ok = True
    expected = "true or false"

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Accepts only true, false, 1 and 0; no other number or text."""

        def checked(value: Any) -> Any:
            if type(value) in (bool, int) and value in (0, 1):
                return bool(value)
            raise DamagedValue(f"{described(value)}, which is not {self.expected}")

        return checked

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return type(value) is bool


class Name(Checked):
    """A string of 1 to ``limit`` characters; one of ``choices``, if there are any."""

    impl = String
    cache_ok = True

    def __init__(self, limit: int, choices: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.limit = limit
        self.choices = choices
        self.expected = f"one of {', '.join(choices)}" if choices else f"a name of 1 to {limit} characters"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """See `TypeDecorator.load_dialect_impl`."""
        return dialect.type_descriptor(String(self.limit))

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return type(value) is str and 0 < len(value) <= self.limit and (not self.choices or value in self.choices)


class Words(Checked):
    """Text of any length."""

    impl = Text
    cache_ok = True
    expected = "text"

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return type(value) is str


class Blob(Checked):
    """Bytes, at least one."""

    impl = LargeBinary
    cache_ok = True
    expected = "bytes"

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Refuses numbers before ``bytes`` would take them as lengths."""
        process = super().result_processor(dialect, coltype)

        def checked(value: Any) -> Any:
            if isinstance(value, (int, float, str)):
                raise DamagedValue(f"{described(value)}, which is not bytes")
            return process(value)

        return checked

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return type(value) is bytes and len(value) > 0


class Json(Checked):
    """A JSON list of strings and objects, or a JSON object; None is stored as SQL null."""

    impl = JSON
    cache_ok = True

    def __init__(self, kind: type[list[Any]] | type[dict[str, Any]]) -> None:
        super().__init__(optional=True)
        self.kind = kind
        self.expected = "a JSON list of strings and objects" if kind is list else "a JSON object"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """See `TypeDecorator.load_dialect_impl`."""
        return dialect.type_descriptor(JSON(none_as_null=True))

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Compare as plain JSON: a value inside the column need not be of the column's kind."""
        return JSON(none_as_null=True).coerce_compared_value(op, value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        """Refuses NaN, infinities and lone surrogates, which Python's JSON reads."""
        process = super().result_processor(dialect, coltype)

        def checked(value: Any) -> Any:
            found = process(value)
            if isinstance(value, str) and _SUSPECT.search(value):
                try:
                    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
                except _FAULTS:
                    raise DamagedValue(f"{described(value)}, which is not {self.expected}") from None
            return found

        return checked

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return type(value) is self.kind and (self.kind is dict or all(isinstance(each, (str, dict)) for each in value))


class _ReadInUtc(ColumnElement[datetime]):
    """Reads a time in UTC: in the session's zone, PostgreSQL may put years 1 and 9999 out of Python's range."""

    inherit_cache = True

    def __init__(self, column: ColumnElement[Any]) -> None:
        self.column = column
        self.type = column.type


@compiles(_ReadInUtc)
def _compiled(element: _ReadInUtc, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.column, **options)
    return column if compiler.dialect.name != "postgresql" else f"({column} AT TIME ZONE 'UTC')"


class UtcDateTime(Checked):
    """An aware datetime, stored in UTC; without a zone in SQLite, which has none."""

    impl = DateTime(timezone=True)
    cache_ok = True
    expected = "a time"

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Read the time in UTC, whatever the session's zone is."""
        return _ReadInUtc(column)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC, without a zone for SQLite."""
        if value is None:
            return None
        try:
            utc = in_utc(value)
        except OverflowError:  # a bound of a search: no stored time lies beyond
            utc = (datetime.min if value.year == 1 else datetime.max).replace(tzinfo=UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to an aware time in UTC."""
        return None if value is None else in_utc(value)

    def fits(self, value: Any) -> bool:
        """See `Checked.fits`."""
        return isinstance(value, datetime)


def described(value: object) -> str:
    """Describe a stored value without quoting its text, which may be secret."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"text of {len(value)} characters"
    if isinstance(value, (bytes, memoryview)):
        return f"a blob of {len(value)} bytes"
    return repr(value)[:40]
