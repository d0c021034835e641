"""`render`: a page from its template, with the headers that keep it from running anything else; failures as pages.

Here too are the pages' own files: style, scripts, typeface. Each has a path of its own, and needs no token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, RedirectResponse, Response

from deltamem_agents.errors import DeltaMemError
from deltamem_agents.serving.access import Access
from deltamem_agents.serving.dependencies import public
from deltamem_agents.serving.failures import HttpFailure, failure_of
from deltamem_agents.terminal import counted, printable

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "vary": "HX-Request, Cookie",
}
THEME = "deltamem_theme"  # the cookie with a person's choice of light or dark
LOGIN = "/login"
FILE_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "woff2": "font/woff2"}
FILES = (
    "inspector.css",
    "inspector.js",
    "icon.svg",
    "vendor/htmx-2.0.11.min.js",
    "vendor/uplot-1.6.32.min.js",
    "vendor/uplot-1.6.32.min.css",
    "vendor/inter-5.3.0-latin.woff2",
)
FILE_PATHS = frozenset(f"/static/{name}" for name in FILES)
FOREVER = "public, max-age=31536000, immutable"  # the address changes with the content

router = APIRouter()  # of the files


class PageRoute(APIRoute):
    """A route that answers a failure as a page, if the caller is a browser."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler."""
        handler = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handler(request)
            except (DeltaMemError, RequestValidationError) as error:
                if not wants_page(request.method, request.headers):
                    raise
                if isinstance(error, RequestValidationError):
                    faults = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors()[:3])
                    return failed(request, HttpFailure(400, faults, "invalid_value"))
                return failed(request, failure_of(error, request.state.request_id))

        return handled


def wants_page(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks, for a page or for a part of one."""
    return "hx-request" in headers or (method == "GET" and "text/html" in headers.get("accept", ""))


def page_of_failure(failure: HttpFailure, request: Request) -> Response | None:
    """What a browser gets for a request that the guard refuses; None for other callers, which get JSON."""
    path = request.scope["path"]
    if path.startswith("/v1/") or not wants_page(request.method, request.headers):
        return None
    if failure.status == 401:
        if "hx-request" in request.headers:
            return Response(status_code=401, headers={"HX-Redirect": LOGIN})
        back = path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(
            f"{LOGIN}?{urlencode({'next': back[:2000]})}", 303, headers={"cache-control": "no-store"}
        )
    return failed(request, failure)


def failed(request: Request, failure: HttpFailure) -> Response:
    """A failure as a page, or as a notice to be put into one."""
    title = {401: "Log in first", 403: "Not allowed", 404: "Not found", 429: "Too many requests"}.get(
        failure.status, "That did not work" if failure.status < 500 else "The server cannot do this now"
    )
    template = "_failure.html" if "hx-request" in request.headers else "failure.html"
    return render(request, template, status=failure.status, headers=failure.headers, failure=failure, title=title)


def render(
    request: Request,
    template: str,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    **values: Any,
) -> HTMLResponse:
    """A page, or a part of one.

    Args:
        template: A file in ``templates``; parts of pages begin with an underscore.
        values: What the template shows.
    """
    access: Access | None = getattr(request.state, "access", None)
    theme = request.cookies.get(THEME)
    shared = {
        "access": access,
        "csrf": (access.csrf if access else None) or "",
        "logged_in": access is not None and access.token is not None,
        "theme": theme if theme in ("light", "dark") else None,
        "agent_id": None,
    }
    body = _environment().get_template(template).render(shared | values)
    return HTMLResponse(body, status, headers={**HEADERS, **(headers or {})})


def agent_path(agent: str, *rest: object, **query: object) -> str:
    """The path of an agent's page."""
    path = "/".join(["/inspect", quote(agent, safe=""), *map(str, rest)])
    chosen = {name: value for name, value in query.items() if value not in (None, "")}
    return path + (f"?{urlencode(chosen)}" if chosen else "")


def marked(text: str, words: Sequence[str]) -> Markup:
    """A text, escaped, with these words marked."""
    text = printable(text)
    if not words:
        return escape(text)
    pattern = re.compile("|".join(re.escape(printable(each)) for each in sorted(words, key=len, reverse=True)))
    pieces, done = [], 0
    for found in pattern.finditer(text):
        pieces += [escape(text[done : found.start()]), Markup("<mark>%s</mark>") % found.group()]
        done = found.end()
    return Markup("").join([*pieces, escape(text[done:])])


def _when(at: datetime | None, *, seconds: bool = False) -> Markup:
    """A time for people and for programs."""
    if at is None:
        return Markup("–")
    shown = f"{at:%Y-%m-%d %H:%M:%S}" if seconds else f"{at:%Y-%m-%d %H:%M}"
    return Markup('<time datetime="%s" title="%s UTC">%s</time>') % (at.isoformat(), f"{at:%Y-%m-%d %H:%M:%S}", shown)


def _json(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def _bytes(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1024  # type: ignore[assignment]
    raise AssertionError


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("deltamem_agents.serving.inspector"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"plain": printable, "when": _when, "pretty": _json, "bytes": _bytes, "marked": marked}
    made.globals |= {"agent_path": agent_path, "counted": counted, "static": file_url, "LOGIN": LOGIN}
    return made


@cache
def file_content(name: str) -> bytes:
    """A file's bytes."""
    return files("deltamem_agents.serving.inspector").joinpath("static", *name.split("/")).read_bytes()


@cache
def file_url(name: str) -> str:
    """A file's address, with a hash of its content."""
    return f"/static/{name}?v={sha256(file_content(name)).hexdigest()[:12]}"


def _serve(name: str) -> None:
    kind = FILE_TYPES[name.rpartition(".")[2]]

    async def file() -> Response:
        return Response(file_content(name), media_type=kind, headers={"cache-control": FOREVER})

    router.add_api_route(f"/static/{name}", file, methods=["GET"], dependencies=[Depends(public)])


for _name in FILES:
    _serve(_name)
