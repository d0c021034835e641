"""How a failure is reported over HTTP: a status, and a body as OpenAI's API or as problem+json (RFC 9457) has it.

A body carries the message of a `DeltaMemError`, which names the value, the limit and the remedy. Other errors are ours,
and their text may quote a message: callers see an id, and the log has the type.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse

from deltamem_agents import errors

log = logging.getLogger(__name__)

RETRY_SECONDS = 2  # what Retry-After asks for when the database or the engine is away

_STATUS: tuple[tuple[type[Exception], int, str], ...] = (  # the first that fits
    (errors.UnknownAgentError, 404, "agent_not_found"),
    (errors.ContextLengthError, 400, "context_length_exceeded"),
    (errors.EngineBusyError, 429, "engine_busy"),
    (errors.EngineTimeoutError, 504, "timeout"),
    (errors.EngineMemoryError, 503, "engine_out_of_memory"),
    (errors.EngineFailedError, 503, "engine_stopped"),
    (errors.ClosedError, 503, "closed"),
    (errors.StoreError, 503, "database_unavailable"),
    (errors.EmbedderError, 503, "embedder_failed"),
    (errors.MissingExtraError, 501, "not_installed"),
    (errors.UnsupportedModelError, 501, "not_supported"),
    (errors.ConfigError, 400, "invalid_value"),
    (errors.InvalidMessageError, 400, "invalid_message"),
    (errors.InvalidAgentError, 400, "invalid_id"),
    (errors.ChatTemplateError, 400, "invalid_messages"),
    (errors.ArchiveError, 400, "invalid_archive"),
)


class HttpFailure(errors.DeltaMemError, RuntimeError):
    """A request that is refused.

    Args:
        status: The HTTP status.
        message: What is wrong, and what to do about it.
        code: A short name for programs.
        param: The parameter that is at fault.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_request",
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})


def failure_of(error: BaseException, request_id: str) -> HttpFailure:
    """What a caller is told about an error."""
    if isinstance(error, HttpFailure):
        return error
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            headers = {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}
            return HttpFailure(status, str(error), code, headers=headers)
    if isinstance(error, errors.DeltaMemError):
        return HttpFailure(500, str(error), "internal_error")
    log.error("request %s failed: %s", request_id, type(error).__name__)
    log.debug("request %s", request_id, exc_info=error)
    return HttpFailure(500, f"an internal error; the server's log has request {request_id}", "internal_error")


def answered(failure: HttpFailure, path: str, request_id: str) -> JSONResponse:
    """The response for a failure, in the form that the path's API has."""
    body, media = (problem(failure, request_id), "application/problem+json")
    if speaks_openai(path):
        body, media = openai_error(failure), "application/json"
    return JSONResponse(body, failure.status, headers=failure.headers, media_type=media)


def speaks_openai(path: str) -> bool:
    """Whether a path belongs to OpenAI's API."""
    return path.startswith("/v1/") and path not in ("/v1/agents", "/v1/import") and not path.startswith("/v1/agents/")


def problem(failure: HttpFailure, request_id: str) -> dict[str, Any]:
    """The body of a problem (RFC 9457)."""
    found = {
        "type": f"urn:deltamem:problem:{failure.code}",
        "title": HTTPStatus(failure.status).phrase,
        "status": failure.status,
        "detail": failure.message,
        "code": failure.code,
        "request_id": request_id,
    }
    return found | ({"param": failure.param} if failure.param else {})


def openai_error(failure: HttpFailure) -> dict[str, Any]:
    """The body of an error of OpenAI's API."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(failure.status, "invalid_request_error" if failure.status < 500 else "server_error")
    told = {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}
    return {"error": told}
