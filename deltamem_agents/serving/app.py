"""`create_app`: the application, made of its routers, and guarded as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from deltamem_agents import __version__
from deltamem_agents.errors import ConfigError, DeltaMemError
from deltamem_agents.memory import DeltaMem
from deltamem_agents.serving import inspector, metrics, openai, rest
from deltamem_agents.serving.access import Access, Tokens, in_thread
from deltamem_agents.serving.dependencies import allowed, memory_of, public, unguarded
from deltamem_agents.serving.failures import HttpFailure, answered, failure_of, speaks_openai
from deltamem_agents.serving.guard import Guard
from deltamem_agents.serving.metrics import Measuring, Metrics, note_route
from deltamem_agents.serving.openai.upstream import UpstreamClient
from deltamem_agents.serving.settings import Settings

PUBLIC = frozenset({"/health"}) | inspector.PUBLIC
STREAMED = ("/import",)
SHOWN_ERRORS = 5

router = APIRouter()


def create_app(
    mem: DeltaMem,
    settings: Settings | None = None,
    routers: Sequence[APIRouter] = (),
    public_paths: Sequence[str] = (),
) -> FastAPI:
    """Make the application that serves a memory; it does not close the memory.

    Requests need a token as soon as the database has one, or if `Settings.require_token` says so.

    Args:
        routers: Further routers.
        public_paths: Paths of theirs that need no token.

    Raises:
        ConfigError: A route checks no scope.
    """
    settings = settings or Settings()
    app = FastAPI(
        title="deltamem",
        version=__version__,
        summary="Memory for AI agents: OpenAI's API with memory, and the memory itself.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_running,
        dependencies=[Depends(note_route)],
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.mem = mem
    app.state.settings = settings
    app.state.stopping = asyncio.Event()  # set when the server stops; endless answers then end
    app.state.streams = 0
    app.state.metrics = Metrics(mem)
    app.state.tokens = Tokens(mem, required=settings.require_token, rate=settings.rate)
    if settings.upstream is not None:
        app.state.upstream = UpstreamClient(settings.upstream)
    for each in (router, openai.router, metrics.router, rest.router, inspector.router, *routers):
        app.include_router(each)
    open_routes = unguarded(app)
    if open_routes:
        raise ConfigError(f"these routes check no scope: {', '.join(open_routes)}; see serving.dependencies")
    app.add_middleware(
        Guard,
        settings=settings,
        tokens=app.state.tokens,
        public=PUBLIC | frozenset(public_paths),
        streamed=STREAMED,
        page_of=inspector.page_of_failure,
    )
    app.add_middleware(Measuring, metrics=app.state.metrics)  # the last added is the outermost
    app.add_exception_handler(DeltaMemError, _failed)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    return app


@asynccontextmanager
async def _running(app: FastAPI) -> AsyncIterator[None]:
    """While the application runs; at its end, connections to the upstream are closed."""
    try:
        yield
    finally:
        upstream: UpstreamClient | None = getattr(app.state, "upstream", None)
        if upstream is not None:
            await upstream.aclose()


@router.get("/health", dependencies=[Depends(public)], tags=["server"], summary="Whether the server can do its work")
async def health(request: Request) -> dict[str, str]:
    """200 once the database answers and the engine runs; 503 otherwise."""
    mem = memory_of(request)
    await in_thread(mem, "health", mem.store.tokens.exist)
    if mem.backbone.present and not mem.engine.usable:
        raise HttpFailure(503, "the engine has stopped; start the server again", "engine_stopped")
    return {"status": "ok", "version": __version__}


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request, access: Annotated[Access, Depends(allowed("read"))]) -> JSONResponse:
    """The description of all routes."""
    return JSONResponse(request.app.openapi())


async def _failed(request: Request, error: Exception) -> Response:
    identity = request.state.request_id
    return answered(failure_of(error, identity), request.url.path, identity)


async def _refused(request: Request, error: Exception) -> Response:
    """What Starlette refuses: an unknown path, a method that the path does not have."""
    assert isinstance(error, HTTPException)
    told = f"{request.method} {request.scope['path'][:100]}: {error.detail}"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
    failure = HttpFailure(error.status_code, told, code, headers=error.headers)
    return answered(failure, request.scope["path"], request.state.request_id)


async def _invalid(request: Request, error: Exception) -> Response:
    """What pydantic refuses: names each parameter that is wrong, not its value."""
    assert isinstance(error, RequestValidationError)
    path = request.scope["path"]
    faults: list[dict[str, Any]] = list(error.errors())
    told = "; ".join(f"{_place(each)}: {each['msg']}" for each in faults[:SHOWN_ERRORS])
    told += f"; and {len(faults) - SHOWN_ERRORS} more" if len(faults) > SHOWN_ERRORS else ""
    unknown = any(each["type"] == "extra_forbidden" for each in faults)
    code = (
        "unknown_parameter" if unknown else "invalid_json" if faults[0]["type"] == "json_invalid" else "invalid_value"
    )
    status = 400 if speaks_openai(path) or code == "invalid_json" else 422
    failure = HttpFailure(status, told, code, param=_place(faults[0]))
    return answered(failure, path, request.state.request_id)


def _place(fault: dict[str, Any]) -> str:
    where, *place = map(str, fault["loc"])
    return ".".join(place) or where
