"""The pages' own files: style, scripts, typeface. Each has a path of its own, and needs no token."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, Depends
from starlette.responses import Response

from deltamem_agents.serving.dependencies import public

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "woff2": "font/woff2"}
NAMES = (
    "inspector.css",
    "inspector.js",
    "icon.svg",
    "vendor/htmx-2.0.11.min.js",
    "vendor/uplot-1.6.32.min.js",
    "vendor/uplot-1.6.32.min.css",
    "vendor/inter-5.3.0-latin.woff2",
)
PATHS = frozenset(f"/static/{name}" for name in NAMES)
KEEP = "public, max-age=31536000, immutable"  # the address changes with the content

router = APIRouter()


@cache
def content(name: str) -> bytes:
    """A file's bytes."""
    return files("deltamem_agents.serving.inspector").joinpath("static", *name.split("/")).read_bytes()


@cache
def url(name: str) -> str:
    """A file's address, with a hash of its content."""
    return f"/static/{name}?v={sha256(content(name)).hexdigest()[:12]}"


def _serve(name: str) -> None:
    kind = TYPES[name.rpartition(".")[2]]

    async def file() -> Response:
        return Response(content(name), media_type=kind, headers={"cache-control": KEEP})

    router.add_api_route(f"/static/{name}", file, methods=["GET"], dependencies=[Depends(public)])


for _name in NAMES:
    _serve(_name)
