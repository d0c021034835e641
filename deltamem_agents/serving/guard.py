"""`Guard`: what every request passes before a route sees it, whatever the route is.

In this order: the path's percent-encoding, ``Host`` and ``Origin``, the content type of what changes state, the token,
its rate, the size and form of the body. A route then needs a scope of its own, see `dependencies`. What fails on the
way, and what a route raises, is answered here, so no traceback and no message text leaves the server.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deltamem_agents import bounded_json
from deltamem_agents.errors import shown
from deltamem_agents.serving.access import Access, Tokens, csrf_token
from deltamem_agents.serving.failures import HttpFailure, answered, failure_of, speaks_openai
from deltamem_agents.serving.settings import Settings

COOKIE = "deltamem"  # holds the token that a login made
TOKEN_HEADER = "x-deltamem-token"
CSRF_HEADER = "x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
ARCHIVE_TYPE = "application/octet-stream"
GENERATING = frozenset(f"/v1/{each}" for each in ("chat/completions", "completions", "responses"))
PLAIN = {  # answers that a browser must neither guess the type of nor keep
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
}


class Guard:
    """An ASGI middleware that lets only allowed requests through.

    Args:
        public: Paths that need no token.
        streamed: Ends of paths whose body the route reads piece by piece, up to `Settings.import_bytes`.
        page_of: Gives what a browser is shown of a failure; None for a caller that is not one.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        tokens: Tokens,
        public: frozenset[str],
        streamed: tuple[str, ...],
        page_of: Callable[[HttpFailure, Request], Response | None] = lambda failure, request: None,
    ) -> None:
        self._page_of = page_of
        self._app = app
        self._settings = settings
        self._tokens = tokens
        self._public = public
        self._streamed = streamed
        self._generating = 0  # requests whose reply is generated, or waits for that
        self._csrf = secrets.token_hex(32)  # of pages of a server without tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, run it, and answer its failure."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{secrets.token_hex(12)}"
        path = _encoded_path(scope)
        scope = dict(scope, path=path)
        scope["state"] = dict(scope.get("state", {}), request_id=request_id)
        started = generates = False

        async def answering(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["x-request-id"] = request_id
                for name, value in PLAIN.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            receive = await self._checked(scope, receive, path)
            generates = scope["method"] == "POST" and path in GENERATING
            self._generating += generates
            if generates:
                self._check_load()
            await self._app(scope, receive, answering)
        except Exception as error:
            failure = failure_of(error, request_id)
            if not started:
                answer = self._page_of(failure, Request(scope)) or answered(failure, path, request_id)
                await answer(scope, receive, answering)
        finally:
            self._generating -= generates

    def _check_load(self) -> None:
        """Refuse a request if too many replies are being generated, or wait for that; the caller may try again."""
        most = self._settings.concurrency
        if most and self._generating > most:
            raise HttpFailure(
                429,
                f"{most} replies are being generated or wait; try again, or start the server with --concurrency",
                "server_busy",
                headers={"Retry-After": "1"},
            )

    async def _checked(self, scope: Scope, receive: Receive, path: str) -> Receive:
        """Check everything about a request; returns what its body is read from.

        Raises:
            HttpFailure: The request is refused.
        """
        headers = Headers(scope=scope)
        self._check_host(headers)
        access = await self._access(headers, path)
        scope["state"]["access"] = access
        streamed = path.endswith(self._streamed)
        if scope["method"] not in SAFE:
            self._check_type(headers, access, streamed=streamed)
        if path not in self._public:
            self._tokens.count(access.caller) if access.token else None
        limit = self._settings.import_bytes if streamed else self._settings.body_bytes
        _check_length(headers, limit)
        if streamed:
            return _Limited(receive, limit, self._settings.body_seconds)
        return await _whole(receive, limit, self._settings.body_seconds, json=_is_json(headers))

    def _check_host(self, headers: Headers) -> None:
        hosts = headers.getlist("host")
        host = _hostname(f"//{hosts[0]}") if len(hosts) == 1 else None
        if host is None or not self._settings.allows_host(host):
            raise HttpFailure(
                403,
                f"the Host {shown(', '.join(hosts))} is not one of this server's; start it with --allow-host NAME",
                "host_not_allowed",
            )
        for origin in headers.getlist("origin"):
            if not self._allows_origin(origin, hosts[0]):
                raise HttpFailure(
                    403,
                    f"requests from pages of {shown(origin)} are not allowed; start the server with --allow-origin",
                    "origin_not_allowed",
                )

    def _allows_origin(self, origin: str, host: str) -> bool:
        if origin in self._settings.origins:
            return True
        parts = urlsplit(origin) if origin.isascii() else urlsplit("")
        return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()

    async def _access(self, headers: Headers, path: str) -> Access:
        """Whose request it is."""
        secret = headers.get(TOKEN_HEADER)
        if secret is None and not (self._settings.forwards_key and speaks_openai(path)):
            scheme, _, given = headers.get("authorization", "").partition(" ")
            secret = given.strip() if scheme.lower() == "bearer" else None
        cookie = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        by_cookie = secret is None and cookie is not None
        secret = cookie if by_cookie else secret
        public = path in self._public
        if public and secret is None:
            return Access(csrf=self._csrf)
        if not await self._tokens.required():
            return Access(csrf=self._csrf)
        found = await self._tokens.find(secret) if secret else None
        if found is None and public:
            return Access(csrf=self._csrf)
        if found is None or (found.session and not by_cookie):
            raise HttpFailure(
                401,
                ("this server needs a token" if secret is None else "the token is wrong, expired or revoked")
                + f"; send 'Authorization: Bearer TOKEN' or '{TOKEN_HEADER}: TOKEN', from 'deltamem tokens create'",
                "invalid_token",
                headers={"WWW-Authenticate": 'Bearer realm="deltamem"'},
            )
        return Access(found, csrf_token(cookie) if by_cookie and cookie else None)

    def _check_type(self, headers: Headers, access: Access, *, streamed: bool) -> None:
        """A form of a foreign page can send neither JSON nor a header of ours."""
        given = headers.get(CSRF_HEADER)
        if given is not None and access.csrf and hmac.compare_digest(given.encode(), access.csrf.encode()):
            return
        if _is_json(headers) or (streamed and headers.get("content-type") == ARCHIVE_TYPE):
            return
        wanted = ARCHIVE_TYPE if streamed else "application/json"
        raise HttpFailure(
            415,
            f"the Content-Type is {shown(headers.get('content-type'))}; send {wanted}, or {CSRF_HEADER} from a page",
            "content_type",
        )


class _Limited:
    """Reads a body piece by piece, up to a limit.

    Raises:
        HttpFailure: When called: 413, 408.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._left = limit
        self._limit = limit
        self._seconds = seconds
        self._ended = False

    async def __call__(self) -> Message:
        """The next piece."""
        if self._ended:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._seconds)
        except TimeoutError:
            raise HttpFailure(
                408, f"nothing of the body came for {self._seconds:g} s", "timeout", headers={"Connection": "close"}
            ) from None
        self._left -= len(message.get("body", b""))
        self._ended = not message.get("more_body", False)
        if self._left < 0:
            raise _too_large(self._limit)
        return message


async def _whole(receive: Receive, limit: int, seconds: float, *, json: bool) -> Receive:
    """Read a whole body, and return it again for the route."""
    limited = _Limited(receive, limit, seconds)
    pieces: list[bytes] = []
    more = True
    while more:
        message = await limited()
        if message["type"] == "http.disconnect":
            raise HttpFailure(400, "the connection closed before the whole body came", "incomplete_body")
        pieces.append(message.get("body", b""))
        more = message.get("more_body", False)
    body = b"".join(pieces)
    if json and body:
        _check_json(body)
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _check_json(body: bytes) -> None:
    try:
        body.decode("utf-8")
        bounded_json.check(body)
    except UnicodeDecodeError as error:
        raise HttpFailure(400, f"the body is not UTF-8: byte {error.start} is not valid", "invalid_json") from None
    except bounded_json.TooMuchError as error:
        raise HttpFailure(400, f"the body has {error}", "invalid_json") from None


def _check_length(headers: Headers, limit: int) -> None:
    length = headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> HttpFailure:
    return HttpFailure(
        413,
        f"the body is larger than {limit} bytes; send less at a time",
        "body_too_large",
        headers={"Connection": "close"},
    )


def _is_json(headers: Headers) -> bool:
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
        return parts.hostname if parts.path == "" and parts.username is None else None
    except ValueError:
        return None


def _encoded_path(scope: Scope) -> str:
    """The path as it was sent: a "/" within an agent's id stays "%2F", so that routes see one segment."""
    raw = scope.get("raw_path")
    return raw.decode("ascii", "replace") if raw else str(scope["path"])
