"""``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from deltamem_agents.engine.generation import Sampling
from deltamem_agents.memory import RecallOptions, Reply
from deltamem_agents.serving.access import Access
from deltamem_agents.serving.dependencies import agent_named, allowed, memory_of, session_named, settings_of
from deltamem_agents.serving.openai.backbone import (
    called,
    check_model,
    finish_reason,
    logprobs_json,
    new_id,
    now,
    replied,
    usage,
)
from deltamem_agents.serving.openai.messages import conversation
from deltamem_agents.serving.openai.proxying import proxied_chat
from deltamem_agents.serving.openai.requests import ChatRequest, Tool, checked, checked_tools, described, json_object
from deltamem_agents.serving.openai.streaming import DONE, event, last, stream, while_connected
from deltamem_agents.serving.openai.turn import Turn

router = APIRouter(tags=["openai"])


@router.post("/chat/completions", summary="A reply with memory", openapi_extra=described(ChatRequest))
async def chat(request: Request, access: Annotated[Access, Depends(allowed("write"))]) -> Response:
    """The agent's memory goes into the prompt; messages and reply are journalled once the reply is complete."""
    body = await json_object(request)
    user = body.get("user")
    agent = agent_named(request, user if isinstance(user, str) else None, "write")
    session, mem, options = session_named(request), memory_of(request), settings_of(request).recall
    if settings_of(request).upstream is not None:
        turn = Turn(mem, agent, session, conversation(body.get("messages"), text_only=False))
        return await proxied_chat(request, body, turn, options)
    asked: ChatRequest = checked(ChatRequest, body)
    check_model(mem, asked.model)
    tools = checked_tools(asked.tools, asked.tool_choice)
    sampling = asked.sampling(tools)
    turn = Turn(mem, agent, session, conversation(asked.messages, text_only=True))
    if asked.stream:
        return await stream(request, _events(asked, turn, options, sampling, tools))
    reply = await while_connected(request, last(replied(turn, options, sampling, tools)))
    assert isinstance(reply, Reply)  # the last item
    return JSONResponse(_whole(asked, reply))


def _whole(asked: ChatRequest, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message |= {"content": reply.text or None, "tool_calls": [called(each) for each in reply.tool_calls]}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs_json(reply.logprobs) if asked.logprobs else None,
        "finish_reason": finish_reason(reply),
    }
    return {
        "id": new_id("chatcmpl-"),
        "object": "chat.completion",
        "created": now(),
        "model": asked.model,
        "choices": [choice],
        "usage": usage(reply),
    }


async def _events(
    asked: ChatRequest, turn: Turn, options: RecallOptions, sampling: Sampling, tools: list[Tool] | None
) -> AsyncGenerator[bytes]:
    frame = {"id": new_id("chatcmpl-"), "object": "chat.completion.chunk", "created": now(), "model": asked.model}

    def chunk(delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return event(frame | {"choices": [choice]} | ({"usage": None} if asked.wants_usage else {}))

    begun = False
    async with aclosing(replied(turn, options, sampling, tools)) as pieces:
        async for piece in pieces:
            if not begun:
                begun = True
                yield chunk({"role": "assistant", "content": ""})
            if not isinstance(piece, Reply):
                text, tokens = piece
                yield chunk({"content": text}, logprobs=logprobs_json(tokens) if asked.logprobs else None)
                continue
            if piece.tool_calls:
                yield chunk({"tool_calls": [{"index": i} | called(each) for i, each in enumerate(piece.tool_calls)]})
            yield chunk({}, finish_reason(piece))
            if asked.wants_usage:
                yield event(frame | {"choices": [], "usage": usage(piece)})
            yield DONE
