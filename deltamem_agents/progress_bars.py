"""Hides Transformers' progress bars, which do not belong on an application's stderr. Imports Transformers on use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Load without Transformers' progress bars ("Loading weights"). The hub's download bars stay."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(_disabled)
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def _disabled(bar: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return bar(*args, **{**options, "disable": True})
