"""Idempotency keys: a request that is sent again, because its answer was lost, is answered as before.

The header ``Idempotency-Key`` names a request for 24 hours and one token. Messages that are written with a key get ids
that follow from it, so even a request whose server died in the middle is written once.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from typing import Annotated, Any

from fastapi import Header, Request
from starlette.responses import JSONResponse, Response

from deltamem_agents.serving.access import in_thread
from deltamem_agents.serving.dependencies import access_of, memory_of
from deltamem_agents.serving.failures import HttpFailure

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Names the request: sent again within 24 h, it is answered as before and does nothing.",
    ),
]
RUNNING_SECONDS = 1  # when to ask again for a request that still runs


async def once(request: Request, key: str | None, work: Callable[[], Awaitable[Any]], status: int = 200) -> Response:
    """Do the work of a request, or answer as before if its key has been seen.

    Raises:
        HttpFailure: 409; the request still runs. 422; the key is another request's.
    """
    if key is None:
        return JSONResponse(await work(), status)
    mem, caller = memory_of(request), access_of(request).caller
    digest = sha256(b"\n".join((request.method.encode(), request.url.path.encode(), await request.body()))).hexdigest()
    known = await in_thread(mem, "idempotency", lambda: mem.store.requests.begin(caller, key, digest))
    if known.outcome == "answered":
        headers = {"idempotency-replayed": "true"}
        return Response(known.answer, known.status, media_type="application/json", headers=headers)
    if known.outcome == "running":
        told = "a request with this idempotency key still runs; send it again later"
        raise HttpFailure(409, told, "request_running", headers={"Retry-After": str(RUNNING_SECONDS)})
    if known.outcome == "other":
        raise HttpFailure(422, "this idempotency key was used for another request; give a new one", "key_used")
    try:
        answer = json.dumps(await work(), ensure_ascii=False)
    except BaseException:
        await in_thread(mem, "idempotency", lambda: mem.store.requests.abandon(caller, key))
        raise
    await in_thread(mem, "idempotency", lambda: mem.store.requests.end(caller, key, status, answer))
    return Response(answer, status, media_type="application/json")


def named(request: Request, key: str | None, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages; those without an id get one that follows from the key."""
    if key is None:
        return list(messages)
    stem = sha256(f"{access_of(request).caller}\n{key}".encode()).hexdigest()[:32]
    return [{"id": f"{stem}-{place}", **each} for place, each in enumerate(messages)]
