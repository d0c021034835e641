"""Match values against filters, and namespaces against conditions. Independent of the journal."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from langgraph.store.base import MatchCondition

from deltamem_agents.errors import ConfigError

_ORDERED: Mapping[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_NAME = re.compile(r"[\w. -]+")
OPERATORS = ("$eq", "$ne", *_ORDERED)


def fits(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether an item's value matches every field of a filter. The ordering operators compare strings as numbers.

    A name with dots is a path ("user.name"), unless the value has a field with exactly that name.

    Raises:
        ConfigError: An operator is unknown, or the bound of an ordering operator is not a number.
    """
    return all(_fits(_at(value, name), each) for name, each in (wanted or {}).items())


def check_filter(wanted: Mapping[str, Any] | None) -> None:
    """Raise ConfigError unless a filter's keys are valid field names, as LangGraph's database stores require."""
    for name in wanted or {}:
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ConfigError(
                f"Invalid filter key {name!r}; give letters, digits, '_', '-' and spaces, and '.' between fields"
            )


def _at(value: Mapping[str, Any], name: str) -> Any:
    found: Any = value
    for part in (name,) if name in value else name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def matches(namespace: Sequence[str], condition: MatchCondition) -> bool:
    """Whether a namespace has the prefix or suffix of a condition; "*" matches any label.

    Raises:
        ConfigError: The match type is neither "prefix" nor "suffix".
    """
    path = condition.path
    if condition.match_type not in ("prefix", "suffix"):
        raise ConfigError(f"match type is {condition.match_type!r}; give 'prefix' or 'suffix'")
    if len(path) > len(namespace):
        return False
    labels = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, labels, strict=True))


def beginning(condition: MatchCondition) -> tuple[str, ...]:
    """The labels with which every namespace that matches a condition begins."""
    if condition.match_type != "prefix":
        return ()
    return tuple(takewhile(lambda label: label != "*", condition.path))


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        if any(str(name).startswith("$") for name in wanted):
            return all(_compares(value, name, bound) for name, bound in wanted.items())
        return isinstance(value, Mapping) and fits(value, wanted)
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(_fits(each, other) for each, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


def _compares(value: Any, name: str, bound: Any) -> bool:
    if name == "$eq":
        return bool(value == bound)
    if name == "$ne":
        return bool(value != bound)
    if name not in _ORDERED:
        raise ConfigError(f"filter has operator {name!r}; operators are {', '.join(OPERATORS)}")
    try:
        limit = float(bound)
    except (TypeError, ValueError):
        raise ConfigError(f"filter has {name} of {bound!r}, which is not a number; compare with $eq or $ne") from None
    try:
        return _ORDERED[name](float(value), limit)
    except (TypeError, ValueError):
        return False  # not comparable, so no match
