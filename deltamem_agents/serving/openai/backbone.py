"""Replies of the backbone, and their parts as OpenAI's API has them."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from secrets import token_hex
from typing import Any, cast

from deltamem_agents.engine.generation import Sampling, TextPiece, TokenLogprob
from deltamem_agents.frameworks.calling import VisibleText
from deltamem_agents.frameworks.messages import for_prompt
from deltamem_agents.memory import DeltaMem, RecallOptions, Reply, ToolCall
from deltamem_agents.serving.failures import HttpFailure
from deltamem_agents.serving.openai.messages import reply_message
from deltamem_agents.serving.openai.requests import Tool
from deltamem_agents.serving.openai.turn import Turn


def check_model(mem: DeltaMem, model: str) -> None:
    """Raise unless this is the model that answers here.

    Raises:
        HttpFailure: 404, or 501 on a server that has no model.
    """
    if not mem.backbone.present:
        told = "this server has no model; start it with --backbone or --upstream"
        raise HttpFailure(501, told, "model_missing", param="model")
    if model != mem.engine.name:
        told = f"the model {model[:60]!r} does not exist here; use {mem.engine.name!r}"
        raise HttpFailure(404, told, "model_not_found", param="model")


async def generated(
    turn: Turn, options: RecallOptions, sampling: Sampling, tools: list[Tool] | None
) -> AsyncGenerator[tuple[str, tuple[TokenLogprob, ...]] | Reply]:
    """The text of the reply as it comes, with the log-probabilities of its tokens, and the whole reply last.

    Tool calls are not part of the text. Nothing is journalled.
    """
    visible = VisibleText()
    prompt = for_prompt(turn.messages)
    if not prompt:
        raise HttpFailure(400, "the messages have no text", "invalid_value", param="messages")
    answer = turn.agent.astream(prompt, session=turn.session, options=options, sampling=sampling, tools=tools)
    async with aclosing(cast("AsyncGenerator[str | Reply]", answer)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Reply):
                rest = visible.rest(piece)
                if rest:
                    yield rest, ()
                given = piece.recall
                turn.hand(options.mode, given.records, given.usage.context_tokens, piece.position)
                yield piece
            else:
                shown = visible.feed(piece)
                logprobs = piece.logprobs if isinstance(piece, TextPiece) else ()
                if shown or logprobs:
                    yield shown, logprobs


async def replied(
    turn: Turn, options: RecallOptions, sampling: Sampling, tools: list[Tool] | None
) -> AsyncGenerator[tuple[str, tuple[TokenLogprob, ...]] | Reply]:
    """What `generated` gives; the turn is journalled before the whole reply comes."""
    async with aclosing(generated(turn, options, sampling, tools)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Reply):
                await turn.journal(reply_message(piece))
            yield piece


def new_id(kind: str) -> str:
    """An id as OpenAI's API has them: ``chatcmpl-…``."""
    return f"{kind}{token_hex(12)}"


def now() -> int:
    """The time, as OpenAI's API has it."""
    return int(time.time())


def usage(reply: Reply) -> dict[str, int]:
    """Tokens of prompt and reply."""
    prompt, answer = reply.usage.prompt_tokens, reply.usage.answer_tokens
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def finish_reason(reply: Reply) -> str:
    """Why the reply ended."""
    return "tool_calls" if reply.tool_calls else "stop" if reply.finished else "length"


def called(call: ToolCall) -> dict[str, Any]:
    """A tool call."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments(call)}}


def arguments(call: ToolCall) -> str:
    """A tool call's arguments as JSON."""
    return json.dumps(dict(call.arguments), ensure_ascii=False)


def logprobs_json(tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
    """Log-probabilities."""
    return {"content": [token_json(each) for each in tokens], "refusal": None}


def token_json(token: TokenLogprob) -> dict[str, Any]:
    """One token with its log-probability and those of the likeliest ones."""
    top = [{"token": text, "logprob": value, "bytes": _bytes(text)} for text, value in token.top]
    return {"token": token.text, "logprob": token.logprob, "bytes": _bytes(token.text), "top_logprobs": top}


def _bytes(text: str) -> list[int] | None:
    return None if "\ufffd" in text else list(text.encode("utf-8", "replace"))
