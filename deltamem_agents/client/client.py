"""`Client`: a connection to `deltamem serve`."""

from __future__ import annotations

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from deltamem_agents import arguments
from deltamem_agents.client import results
from deltamem_agents.client.calls import Call, both, path_of
from deltamem_agents.client.remote import RemoteMemory
from deltamem_agents.errors import AccessDeniedError, ArchiveError, ConfigError, ServerError
from deltamem_agents.store import AgentInfo

SECONDS = 600.0  # folding a long journal takes its time
CONNECT_SECONDS = 10.0
TRIES = 4
LONGEST_PAUSE = 10.0
PAGE = 1000
PASSING = (408, 409, 429, 502, 503, 504)  # statuses after which a request may succeed
ARCHIVE_TYPE = "application/octet-stream"

T = TypeVar("T")


class Client:
    """A server's memory, as `DeltaMem` is a database's. Threads may share it; a context manager of both kinds.

    Requests that do no more when they are sent twice are sent again, up to `TRIES` times, where the server is away or
    asks for patience.

    Args:
        url: Where `deltamem serve` says that it serves.
        token: An access token, as of 'deltamem tokens create'.
        timeout: Seconds to wait for an answer.

    Raises:
        ConfigError: The URL is not one of HTTP.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = SECONDS) -> None:
        arguments.seconds(timeout)
        self.url = arguments.text(url, "url").rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError("the url of a server begins with http:// or https://")
        self._options: dict[str, Any] = {
            "base_url": self.url,
            "headers": {} if token is None else {"authorization": f"Bearer {token}"},
            "timeout": httpx.Timeout(timeout, connect=CONNECT_SECONDS),
        }
        self._sync: httpx.Client | None = None
        self._async: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    @property
    def client(self) -> Self:
        """Itself: what runs the calls of its methods."""
        return self

    def agent(self, agent_id: str) -> RemoteMemory:
        """A handle on one agent's memory. Sends nothing.

        Raises:
            InvalidAgentError: The id is not valid.
        """
        return RemoteMemory(self, agent_id)

    def _agents(self) -> Call[list[AgentInfo]]:
        """All agents that the token reaches, ordered by id."""
        return Call(
            method="GET", path="/v1/agents", read=lambda found: [results.agent_info(each) for each in found], paged=True
        )

    agents, aagents = both(_agents)

    def export(self, agent: str, path: str | Path, *, overwrite: bool = False) -> None:
        """Write an agent's journal, states and embeddings to one file; see `DeltaMem.export`.

        Raises:
            ConfigError: The file exists.
            UnknownAgentError: No such agent.
            AccessDeniedError, ServerError: See `RemoteMemory`.
        """
        target = _target(path, overwrite)
        part = target.with_name(f"{target.name}.part")
        try:
            with self._http().stream("GET", path_of(agent, "/export")) as response:
                if response.status_code != 200:
                    response.read()
                    raise _failure(response)
                with part.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
            part.replace(target)
        except httpx.HTTPError as error:
            raise _away(self.url, error) from error
        finally:
            part.unlink(missing_ok=True)

    def import_(self, path: str | Path, *, agent: str | None = None) -> RemoteMemory:
        """Create an agent from a file that `export` wrote; see `DeltaMem.import_`.

        Args:
            agent: Id of the new agent; by default the one in the file, for which the token must reach all agents.

        Raises:
            ArchiveError: The file is damaged or missing.
            ConfigError: The agent exists already.
            AccessDeniedError, ServerError: See `RemoteMemory`.
        """
        where = "/v1/import" if agent is None else path_of(agent, "/import")
        source = arguments.path(path)
        try:
            with source.open("rb") as file:
                response = self._http().post(where, content=file, headers={"content-type": ARCHIVE_TYPE})
        except OSError as error:
            raise ArchiveError(f"{source} cannot be read ({error.strerror}); give a file of 'export'") from error
        except httpx.HTTPError as error:
            raise _away(self.url, error) from error
        if response.status_code != 201:
            raise _failure(response)
        return self.agent(response.json()["id"])

    async def aexport(self, agent: str, path: str | Path, *, overwrite: bool = False) -> None:
        """Async twin of `export`."""
        await asyncio.to_thread(self.export, agent, path, overwrite=overwrite)

    async def aimport_(self, path: str | Path, *, agent: str | None = None) -> RemoteMemory:
        """Async twin of `import_`."""
        return await asyncio.to_thread(self.import_, path, agent=agent)

    def run(self, call: Call[T]) -> T:
        """Run a call and return its result.

        Raises:
            DeltaMemError: What the server answers; ServerError if it cannot be reached.
        """
        items: list[Any] = []
        after: str | None = None
        while True:
            for left in reversed(range(TRIES)):
                try:
                    response = self._http().request(**_request(call, after))
                except httpx.HTTPError as error:
                    pause = _pause(call, None, left, _away(self.url, error))
                else:
                    if response.is_success:
                        break
                    pause = _pause(call, response, left, _failure(response))
                time.sleep(pause)
            found = response.json()
            if not call.paged:
                return call.read(found)
            items += found["data"]
            after = found["next"]
            if after is None:
                return call.read(items)

    async def arun(self, call: Call[T]) -> T:
        """Async twin of `run`."""
        items: list[Any] = []
        after: str | None = None
        while True:
            for left in reversed(range(TRIES)):
                try:
                    response = await self._ahttp().request(**_request(call, after))
                except httpx.HTTPError as error:
                    pause = _pause(call, None, left, _away(self.url, error))
                else:
                    if response.is_success:
                        break
                    pause = _pause(call, response, left, _failure(response))
                await asyncio.sleep(pause)
            found = response.json()
            if not call.paged:
                return call.read(found)
            items += found["data"]
            after = found["next"]
            if after is None:
                return call.read(items)

    def close(self) -> None:
        """Close the connections of blocking calls."""
        if self._sync is not None:
            self._sync.close()

    async def aclose(self) -> None:
        """Close the connections of blocking calls, and of this event loop's."""
        self.close()
        mine = self._async.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _http(self) -> httpx.Client:
        if self._sync is None:
            self._sync = httpx.Client(**self._options)
        return self._sync

    def _ahttp(self) -> httpx.AsyncClient:
        """The connections of this event loop; they cannot be used in another."""
        loop = asyncio.get_running_loop()
        for other in [each for each in self._async if each.is_closed()]:
            del self._async[other]
        if loop not in self._async:
            self._async[loop] = httpx.AsyncClient(**self._options)
        return self._async[loop]


def _request(call: Call[Any], after: str | None) -> dict[str, Any]:
    params = {**(call.params or {}), **({"limit": PAGE} if call.paged else {}), **({"after": after} if after else {})}
    headers = {"content-type": "application/json"} if call.method != "GET" else {}
    if call.key is not None:
        headers["idempotency-key"] = call.key
    found = {"method": call.method, "url": call.path, "params": params, "headers": headers}
    try:
        content = None if call.json is None else json.dumps(call.json, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"the arguments cannot be sent as JSON ({error})") from error
    return found if content is None else found | {"content": content}


def _pause(call: Call[Any], response: httpx.Response | None, left: int, error: Exception) -> float:
    """Seconds until the next try; raises the error if there is none."""
    if not left or not call.repeatable or (response is not None and response.status_code not in PASSING):
        raise error
    asked = "" if response is None else response.headers.get("retry-after", "")
    if asked.isdecimal():
        return min(float(asked), LONGEST_PAUSE)
    return min(LONGEST_PAUSE, 0.2 * 2.0 ** (TRIES - left)) * random.uniform(0.5, 1.0)


def _failure(response: httpx.Response) -> Exception:
    try:
        body = response.json()
    except ValueError:
        body = None
    if body is None and response.status_code in (401, 403):
        return AccessDeniedError(f"the server refuses this (status {response.status_code})")
    return results.error_of(response.status_code, body)


def _away(url: str, error: httpx.HTTPError) -> ServerError:
    return ServerError(f"{url} cannot be reached ({type(error).__name__}); is 'deltamem serve' running there?")


def _target(path: str | Path, overwrite: bool) -> Path:
    target = arguments.path(path)
    if target.exists() and not arguments.flag(overwrite, "overwrite"):
        raise ConfigError(f"{target} exists; give overwrite=True, or another path")
    return target
