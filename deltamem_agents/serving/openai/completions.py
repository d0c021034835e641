"""``/v1/completions``: a raw prompt under the agent's state. It has no turns, so nothing is recalled or journalled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from deltamem_agents.engine.generation import Cancellation, Generation
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.serving.access import Access, in_thread
from deltamem_agents.serving.dependencies import agent_named, allowed, memory_of, settings_of
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.backbone import check_model, new_id, now
from deltamem_agents.serving.openai.proxying import passed_on
from deltamem_agents.serving.openai.requests import CompletionRequest, checked, described, json_object, sampling
from deltamem_agents.serving.openai.streaming import DONE, event, last, stream, while_connected

router = APIRouter(tags=["openai"])

Pieces = AsyncGenerator[str | Generation]


@router.post("/completions", summary="Continue a raw prompt", openapi_extra=described(CompletionRequest))
async def completions(request: Request, access: Annotated[Access, Depends(allowed("read"))]) -> Response:
    """The backbone continues the prompt with the agent's state, which does not change."""
    body = await json_object(request)
    user = body.get("user")
    agent = agent_named(request, user if isinstance(user, str) else None, "read")
    if settings_of(request).upstream is not None:
        return await passed_on(request, "/completions", body)
    asked: CompletionRequest = checked(CompletionRequest, body)
    mem = memory_of(request)
    check_model(mem, asked.model)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if len(prompts) != 1 or not prompts[0]:
        raise HttpFailure(400, "prompt must be one non-empty string", "invalid_value", param="prompt")
    if asked.stream:
        return await stream(request, _events(asked, _continued(mem, agent, prompts[0], asked)))
    found = await while_connected(request, last(_continued(mem, agent, prompts[0], asked)))
    assert isinstance(found, Generation)  # the last item
    return JSONResponse(_frame(asked) | {"choices": [_choice(found.text, found)], "usage": _usage(found)})


async def _continued(mem: DeltaMem, agent: AgentMemory, prompt: str, asked: CompletionRequest) -> Pieces:
    """The text as it comes, and the whole generation last."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()
    cancellation = Cancellation()
    wanted = sampling(asked, max_tokens=asked.max_tokens, seed=asked.seed, stop=asked.stop, logprobs=asked.logprobs)
    state = await agent.astate()

    def put(piece: str | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    def begin() -> Any:
        ids = mem.engine.tokenizer.encode(prompt.encode("utf-8", "replace").decode())
        return mem.engine.generate(ids, state or None, sampling=wanted, on_text=put, cancellation=cancellation)

    try:
        future = await in_thread(mem, "completions", begin)
        future.add_done_callback(lambda _: put(None))
        while (piece := await pieces.get()) is not None:
            yield piece
        yield await asyncio.wrap_future(future)
    finally:
        cancellation.cancel()


async def _events(asked: CompletionRequest, pieces: Pieces) -> AsyncGenerator[bytes]:
    frame = _frame(asked)
    try:
        async for piece in pieces:
            if isinstance(piece, str):
                yield event(frame | {"choices": [_choice(piece, None)]})
                continue
            yield event(frame | {"choices": [_choice("", piece)]})
            if (asked.stream_options or {}).get("include_usage"):
                yield event(frame | {"choices": [], "usage": _usage(piece)})
            yield DONE
    finally:
        await pieces.aclose()


def _frame(asked: CompletionRequest) -> dict[str, Any]:
    return {"id": new_id("cmpl-"), "object": "text_completion", "created": now(), "model": asked.model}


def _choice(text: str, ended: Generation | None) -> dict[str, Any]:
    logprobs = None
    if ended is not None and ended.logprobs:
        logprobs = {
            "tokens": [each.text for each in ended.logprobs],
            "token_logprobs": [each.logprob for each in ended.logprobs],
            "top_logprobs": [dict(each.top) for each in ended.logprobs],
            "text_offset": [],
        }
    reason = None if ended is None else "stop" if ended.finished else "length"
    return {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _usage(found: Generation) -> dict[str, int]:
    prompt, answer = found.prompt_tokens, len(found.ids)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
