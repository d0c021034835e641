"""Which values a filter wants, and which namespaces a condition. Knows no journal."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langgraph.store.base import MatchCondition

from deltamem_agents.errors import ConfigError

_ORDERED: Mapping[str, Callable[[float, float], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
OPERATORS = ("$eq", "$ne", *_ORDERED)


def fits(value: Mapping[str, Any], wanted: Mapping[str, Any] | None) -> bool:
    """Whether an item's value has all that a filter names; numbers are compared as numbers, whatever holds them.

    Raises:
        ConfigError: Unknown operator, or a bound that is no number.
    """
    return all(_fits(value.get(name), each) for name, each in (wanted or {}).items())


def matches(namespace: Sequence[str], condition: MatchCondition) -> bool:
    """Whether a namespace begins or ends as a condition says; "*" is any label.

    Raises:
        ConfigError: The condition is neither of prefix nor of suffix.
    """
    path = condition.path
    if condition.match_type not in ("prefix", "suffix"):
        raise ConfigError(f"match type is {condition.match_type!r}; give 'prefix' or 'suffix'")
    if len(path) > len(namespace):
        return False
    labels = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, labels, strict=True))


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
        raise ConfigError(f"filter has {name} of {bound!r}, which is no number; compare with $eq or $ne") from None
    try:
        return _ORDERED[name](float(value), limit)
    except (TypeError, ValueError):
        return False  # nothing to compare, so not what was asked for
