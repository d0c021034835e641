"""``/v1/responses``: input items, tools, streaming events, and responses that are continued by their id."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from deltamem_agents.engine.generation import Sampling, TokenLogprob
from deltamem_agents.frameworks.messages import FrameworkMessage, from_journal
from deltamem_agents.memory import RecallOptions, Reply
from deltamem_agents.serving.access import Access
from deltamem_agents.serving.dependencies import (
    SESSION_HEADER,
    agent_named,
    allowed,
    memory_of,
    session_named,
    settings_of,
)
from deltamem_agents.serving.openai.backbone import (
    arguments,
    check_model,
    generated,
    new_id,
    now,
    token_json,
)
from deltamem_agents.serving.openai.items import call_item, message_item, messages_of, output_message, text_part
from deltamem_agents.serving.openai.messages import reply_message
from deltamem_agents.serving.openai.proxying import Progress, answered
from deltamem_agents.serving.openai.requests import (
    Sampled,
    Tool,
    checked,
    checked_tools,
    described,
    grammar,
    json_object,
    sampling,
)
from deltamem_agents.serving.openai.stored import Stored, find, keep
from deltamem_agents.serving.openai.streaming import event, last, stream, while_connected
from deltamem_agents.serving.openai.turn import Turn

router = APIRouter(tags=["openai"])

LOGPROBS = "message.output_text.logprobs"


class ResponseRequest(Sampled):
    """A body of ``/v1/responses``."""

    input: str | list[dict[str, Any]] = Field(examples=["Hello"])
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool = True
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    text: dict[str, Any] | None = None
    include: list[Literal["message.output_text.logprobs"]] | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    truncation: Literal["auto", "disabled"] | None = None
    background: Literal[False] | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was understood."""

    body: ResponseRequest
    turn: Turn
    prompt: Turn
    options: RecallOptions
    sampling: Sampling
    tools: list[Tool] | None
    identity: str


@router.post("/responses", summary="A response with memory", openapi_extra=described(ResponseRequest))
async def respond(request: Request, access: Annotated[Access, Depends(allowed("write"))]) -> Response:
    """The turn is journalled once the response is complete; with ``store``, it can be continued by its id."""
    raw = await json_object(request)
    user = raw.get("user")
    agent = agent_named(request, user if isinstance(user, str) else None, "write")
    settings = settings_of(request)
    proxied = settings.upstream is not None
    body: Any = raw if proxied else checked(ResponseRequest, raw)
    given, previous = raw.get("input"), raw.get("previous_response_id")
    turn = Turn(memory_of(request), agent, session_named(request), messages_of(given, text_only=not proxied))
    before: Stored | None = None
    if isinstance(previous, str):
        before = await find(turn, previous)
        if SESSION_HEADER not in request.headers:
            turn = replace(turn, session=before.reply.session)
    if proxied:
        return await _proxied(request, raw, turn, settings.recall)
    check_model(turn.mem, body.model)
    tools = checked_tools([_chat_tool(each) for each in body.tools or ()] or None, _chat_choice(body.tool_choice))
    form = (body.text or {}).get("format")
    wanted = sampling(
        body,
        max_tokens=body.max_output_tokens,
        logprobs=(body.top_logprobs or 0) if LOGPROBS in (body.include or ()) else None,
        grammar=grammar(tools, _chat_choice(body.tool_choice), form, body.parallel_tool_calls),
    )
    system = [FrameworkMessage(role="system", content=body.instructions)] if body.instructions else []
    prompt = replace(turn, messages=[*system, *(before.messages if before else ()), *turn.messages])
    asked = Asked(body, turn, prompt, settings.recall, wanted, tools, new_id("resp_"))
    if body.stream:
        return await stream(request, _events(asked))
    reply = await while_connected(request, _whole(asked))
    return JSONResponse(reply)


@router.get("/responses/{response_id}", summary="A stored response")
async def retrieve(
    request: Request, response_id: str, access: Annotated[Access, Depends(allowed("read"))]
) -> dict[str, Any]:
    """A response of the agent that the header names, as far as its messages are still live."""
    agent = agent_named(request, None, "read")
    turn = Turn(memory_of(request), agent, session_named(request), ())
    found = await find(turn, response_id)
    message, facts = from_journal(found.reply), found.facts
    text = message.content if isinstance(message.content, str) else found.reply.text
    items = [message_item(_item_id(response_id, 0), text)] if text else []
    items += [
        call_item(_item_id(response_id, len(items) + place), call, arguments(call))
        for place, call in enumerate(message.tool_calls)
    ]
    cut = found.reply.metadata.get("finish_reason") == "length"
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(found.reply.created_at.timestamp()),
        "status": "incomplete" if cut else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": facts.get("model"),
        "previous_response_id": facts.get("previous"),
        "output": items,
        "error": None,
        "store": True,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "metadata": facts.get("metadata") or {},
    }


async def _whole(asked: Asked) -> dict[str, Any]:
    reply = await last(generated(asked.prompt, asked.options, asked.sampling, asked.tools))
    assert isinstance(reply, Reply)  # the last item
    await _journal(asked, reply)
    return _response(asked, reply, _items(asked, reply))


async def _journal(asked: Asked, reply: Reply) -> None:
    message = reply_message(reply)
    message = replace(message, content=message.content or None)
    body = asked.body
    if body.store:
        facts = {"model": body.model, "metadata": body.metadata}
        said = message if message.content or message.tool_calls else None
        await keep(asked.turn, said, asked.identity, body.previous_response_id, facts)
    else:
        await asked.turn.journal(message)


def _items(asked: Asked, reply: Reply) -> list[dict[str, Any]]:
    logprobs = [token_json(each) for each in reply.logprobs]
    status = "completed" if reply.finished else "incomplete"
    items = [message_item(_item_id(asked.identity, 0), reply.text, status, logprobs)] if reply.text else []
    items += [
        call_item(_item_id(asked.identity, len(items) + place), call, arguments(call))
        for place, call in enumerate(reply.tool_calls)
    ]
    return items


def _response(asked: Asked, reply: Reply | None, items: list[dict[str, Any]]) -> dict[str, Any]:
    body = asked.body
    cut = reply is not None and not reply.finished
    used = None
    if reply is not None:
        prompt, answer = reply.usage.prompt_tokens, reply.usage.answer_tokens
        used = {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + answer,
        }
    return {
        "id": asked.identity,
        "object": "response",
        "created_at": now(),
        "status": "in_progress" if reply is None else "incomplete" if cut else "completed",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": body.model,
        "output": items,
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "store": body.store,
        "temperature": body.temperature or 0.0,
        "text": body.text or {"format": {"type": "text"}},
        "tool_choice": body.tool_choice or "auto",
        "tools": body.tools or [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": used,
        "user": body.user,
        "metadata": body.metadata or {},
    }


async def _events(asked: Asked) -> AsyncGenerator[bytes]:
    number = 0

    def told(kind: str, **facts: Any) -> bytes:
        nonlocal number
        number += 1
        return event({"type": kind, "sequence_number": number - 1, **facts}, kind)

    first = _item_id(asked.identity, 0)
    at: dict[str, Any] = {"item_id": first, "output_index": 0, "content_index": 0}
    begun = opened = False
    async with aclosing(generated(asked.prompt, asked.options, asked.sampling, asked.tools)) as pieces:
        async for piece in pieces:
            if not begun:
                begun = True
                yield told("response.created", response=_response(asked, None, []))
                yield told("response.in_progress", response=_response(asked, None, []))
            if not isinstance(piece, Reply):
                if not opened:
                    opened = True
                    item = message_item(first, "", "in_progress") | {"content": []}
                    yield told("response.output_item.added", output_index=0, item=item)
                    yield told("response.content_part.added", **at, part=text_part(""))
                yield told("response.output_text.delta", **at, delta=piece[0], logprobs=_top(piece[1]))
                continue
            items = _items(asked, piece)
            if opened and items[:1] and items[0]["type"] == "message":
                part = items[0]["content"][0]
                yield told("response.output_text.done", **at, text=part["text"], logprobs=part["logprobs"])
                yield told("response.content_part.done", **at, part=part)
                yield told("response.output_item.done", output_index=0, item=items[0])
            for place, item in enumerate(items):
                if item["type"] != "function_call":
                    continue
                where = {"item_id": item["id"], "output_index": place}
                empty = item | {"arguments": "", "status": "in_progress"}
                yield told("response.output_item.added", output_index=place, item=empty)
                yield told("response.function_call_arguments.delta", **where, delta=item["arguments"])
                yield told(
                    "response.function_call_arguments.done", **where, arguments=item["arguments"], name=item["name"]
                )
                yield told("response.output_item.done", output_index=place, item=item)
            await _journal(asked, piece)
            kind = "response.completed" if piece.finished else "response.incomplete"
            yield told(kind, response=_response(asked, piece, items))


def _top(tokens: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    return [token_json(each) for each in tokens]


def _item_id(response: str, place: int) -> str:
    return f"{'msg' if place == 0 else 'item'}_{response.removeprefix('resp_')}_{place}"


def _chat_tool(tool: Tool) -> dict[str, Any]:
    """A tool in the form of chat completions; others stay as they are, and are refused there."""
    if tool.get("type") != "function" or "function" in tool:
        return dict(tool)
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _chat_choice(choice: object) -> object:
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


async def _proxied(request: Request, raw: dict[str, Any], turn: Turn, options: RecallOptions) -> Response:
    """The upstream's response, with memory in its instructions."""
    text = str(await while_connected(request, turn.recalled(options)))
    own = raw.get("instructions")
    joined = "\n\n".join(each for each in (own if isinstance(own, str) else "", text) if each)
    sent = raw | ({"instructions": joined} if joined else {})
    collector = ResponseCollector()

    def of(found: Mapping[str, Any]) -> FrameworkMessage | None:
        collector.take({"type": "response.completed", "response": found})
        return collector.reply()

    async def journal(reply: FrameworkMessage | None) -> None:
        if raw.get("store") is not False and collector.identity.startswith("resp"):
            facts = {"model": raw.get("model")}
            await keep(turn, reply, collector.identity, raw.get("previous_response_id"), facts)
        else:
            await turn.journal(reply)

    return await answered(request, "/responses", sent, lambda: collector, of, journal)


class ResponseCollector:
    """Reads an upstream's response from the event that ends its stream."""

    def __init__(self) -> None:
        self.identity = ""
        self._reply: FrameworkMessage | None = None

    def take(self, data: Mapping[str, Any]) -> Progress:
        """See `proxying.Collector.take`."""
        kind, response = data.get("type"), data.get("response")
        if kind in ("response.failed", "error"):
            return "failed"
        if kind not in ("response.completed", "response.incomplete") or not isinstance(response, Mapping):
            return "more"
        self.identity = str(response.get("id") or "")
        self._reply = output_message(response.get("output"), cut=response.get("status") == "incomplete")
        return "complete"

    def reply(self) -> FrameworkMessage | None:
        """See `proxying.Collector.reply`."""
        return self._reply
