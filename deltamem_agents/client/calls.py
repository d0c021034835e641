"""`Call`: one request to a server, and what its answer means; and how a method is made of it, in both forms."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar
from urllib.parse import quote

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[T]):
    """A request.

    Args:
        read: Makes the result from the JSON of the answer; of ``paged`` answers, from the list of all pages' items.
        key: Idempotency key; with one, the request may be sent again.
    """

    method: str
    path: str
    read: Callable[[Any], T]
    params: Mapping[str, Any] | None = None
    json: Mapping[str, Any] | None = None
    key: str | None = None
    paged: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether sending it twice does no more than sending it once."""
        return self.method == "GET" or self.key is not None or self.path.endswith(("/recall", "/verify", "/rebuild"))


class Running(Protocol):
    """Something that runs calls."""

    url: str

    def run(self, call: Call[T]) -> T:
        """Run a call and return its result."""

    async def arun(self, call: Call[T]) -> T:
        """Async twin of `run`."""


class HasClient(Protocol):
    """Something whose methods are calls of a client."""

    @property
    def client(self) -> Running:
        """The client."""


S = TypeVar("S", bound=HasClient)


def both(
    make: Callable[Concatenate[S, P], Call[T]],
) -> tuple[Callable[Concatenate[S, P], T], Callable[Concatenate[S, P], Coroutine[Any, Any, T]]]:
    """A method and its async twin, from a function that makes the call."""

    @wraps(make)
    def blocking(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.client.run(make(self, *args, **kwargs))

    @wraps(make)
    async def asynchronous(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.client.arun(make(self, *args, **kwargs))

    return blocking, asynchronous


def path_of(agent: str, rest: str = "") -> str:
    """The path of an agent's route."""
    return f"/v1/agents/{quote(agent, safe='')}{rest}"


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
