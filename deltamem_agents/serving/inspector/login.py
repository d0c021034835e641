"""Logging in: a token is sent once, and a cookie stands for it from then on."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from deltamem_agents.serving.access import LOGIN_LIFETIME
from deltamem_agents.serving.dependencies import access_of, allowed, public, tokens_of
from deltamem_agents.serving.guard import COOKIE
from deltamem_agents.serving.inspector.pages import LOGIN, PageRoute, render

PATH = LOGIN

router = APIRouter(route_class=PageRoute)


@router.get(PATH, dependencies=[Depends(public)])
async def form(request: Request, next: str = "/") -> Response:
    """The page that asks for a token; a server without tokens needs none."""
    if not await tokens_of(request).required():
        return RedirectResponse("/", 303)
    return render(request, "login.html", next=_own_path(next), wrong=False)


@router.post(PATH, dependencies=[Depends(public)])
async def log_in(request: Request) -> Response:
    """Check the token, and give the cookie."""
    given = form_of(await request.body())
    made = await tokens_of(request).log_in(given.get("token", "").strip())
    if made is None:
        return render(request, "_login.html", status=401, next=_own_path(given.get("next", "/")), wrong=True)
    answer = Response(status_code=204, headers={"HX-Redirect": _own_path(given.get("next", "/"))})
    answer.set_cookie(
        COOKIE,
        made[0],
        max_age=int(LOGIN_LIFETIME.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )
    return answer


@router.post("/logout", dependencies=[Depends(allowed("read"))])
async def log_out(request: Request) -> Response:
    """Revoke the cookie's token."""
    token = access_of(request).token
    if token is not None:
        await tokens_of(request).log_out(token)
    answer = Response(status_code=204, headers={"HX-Redirect": LOGIN})
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def form_of(body: bytes) -> dict[str, str]:
    """The fields of a form; of a field that comes several times, the last."""
    fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=50)
    return {name: values[-1] for name, values in fields.items()}


def _own_path(path: str) -> str:
    """A path of this server; anything else becomes the first page."""
    safe = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isascii() and path.isprintable()
    return path if safe else "/"
