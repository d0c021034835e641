"""`UpstreamClient`: requests to the endpoint that answers in proxy mode.

Only chosen headers go there, and no redirect is followed: the caller's key, or the server's, reaches nobody but the
upstream that the operator named. Nothing of the server's own token goes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from starlette.datastructures import Headers

from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.settings import Upstream

CONNECT_SECONDS = 10.0
CONNECTIONS = 1000
ERROR_BYTES = 1 << 20  # of an upstream's error that are passed on
THERE = ("content-type", "accept", "user-agent", "idempotency-key", "x-client-request-id")
THERE_PREFIXES = ("openai-", "x-stainless-")
BACK = ("content-type", "retry-after", "retry-after-ms", "x-should-retry")
BACK_PREFIXES = ("openai-", "x-ratelimit-")


class UpstreamClient:
    """A client of the upstream, shared by all requests."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(upstream.seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
            follow_redirects=False,
            trust_env=False,  # neither a .netrc nor a proxy of the environment gets to see a key
        )

    async def send(self, method: str, path: str, headers: Headers, body: Any = None) -> httpx.Response:
        """Send a request; the response's body is still to be read, and the response to be closed.

        Raises:
            HttpFailure: 502; it cannot be reached, or sends elsewhere. 504; it does not answer in time.
        """
        url = self._upstream.url + path
        request = self._client.build_request(method, url, headers=self._headers(headers), json=body)
        try:
            response = await self._client.send(request, stream=True)
        except httpx.TimeoutException:
            raise HttpFailure(504, "the upstream does not answer in time; try again", "upstream_timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            told = f"the upstream cannot be reached ({type(error).__name__}); try again"
            raise HttpFailure(502, told, "upstream_unreachable") from None
        if response.is_redirect or response.status_code < 200:
            await response.aclose()
            told = f"the upstream sends elsewhere (status {response.status_code}), which is not followed with a key"
            raise HttpFailure(502, told, "upstream_redirect")
        return response

    async def aclose(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    def _headers(self, given: Headers) -> dict[str, str]:
        found = {name: value for name, value in given.items() if name in THERE or name.startswith(THERE_PREFIXES)}
        found["accept-encoding"] = "identity"  # so that a stream's events can be read as they pass
        if self._upstream.key is not None:
            found["authorization"] = f"Bearer {self._upstream.key}"
        elif "authorization" in given:
            found["authorization"] = given["authorization"]
        return found


def headers_back(response: httpx.Response) -> dict[str, str]:
    """The headers of the upstream's answer that a caller gets."""
    headers: Mapping[str, str] = response.headers
    return {name: value for name, value in headers.items() if name in BACK or name.startswith(BACK_PREFIXES)}


async def whole(response: httpx.Response, limit: int | None = None) -> bytes:
    """The body of the upstream's answer, up to a limit.

    Raises:
        HttpFailure: 502; the connection broke. 504; the rest does not come.
    """
    pieces: list[bytes] = []
    size = 0
    try:
        async for piece in response.aiter_bytes():
            pieces.append(piece)
            size += len(piece)
            if limit is not None and size > limit:
                break
    except httpx.TimeoutException:
        raise HttpFailure(504, "the upstream's answer stopped; try again", "upstream_timeout") from None
    except httpx.HTTPError as error:
        told = f"the upstream's answer broke off ({type(error).__name__}); try again"
        raise HttpFailure(502, told, "upstream_broken") from None
    finally:
        await response.aclose()
    return b"".join(pieces)
