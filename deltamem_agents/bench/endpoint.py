"""An OpenAI-compatible endpoint that answers at once, for `bench.serving`: ``python endpoint.py`` prints its address.

It streams two tokens for every chat, and gives the last request that it received at ``/last``.
"""

from __future__ import annotations

import json
import socket
import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

FRAME = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
DELTAS = [{"content": "A"}, {"content": " shelf."}, {}]
BODY = "".join(f"data: {json.dumps(FRAME | {'choices': [{'index': 0, 'delta': each}]})}\n\n" for each in DELTAS)

_last: list[object] = [None]


async def chat(request: Request) -> Response:
    """Answer a chat."""
    _last[0] = await request.json()
    return Response(BODY + "data: [DONE]\n\n", media_type="text/event-stream")


async def last(request: Request) -> Response:
    """The last chat that was received."""
    return JSONResponse(_last[0])


def main() -> None:
    """Serve on a free port."""
    routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/last", last)]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # no wait for delayed acknowledgements
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", file=sys.stderr, flush=True)
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", ws="none")
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
