"""The bodies that OpenAI's API takes when the backbone answers, and what they mean for it.

Unknown parameters are refused, and so are known ones with a value that cannot be met: nothing that a caller asks for is
left out silently. In proxy mode bodies go upstream unread but for the messages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deltamem_agents.engine.generation import Sampling
from deltamem_agents.engine.grammar import ANY_OBJECT, call_grammar, schema_grammar
from deltamem_agents.frameworks.calling import chosen_tools
from deltamem_agents.serving.failures import HttpFailure

Tool = Mapping[str, Any]
DEFAULT_TOKENS = 256


class Sampled(BaseModel):
    """The parameters of every request that draws tokens."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(examples=["tiny"])
    stream: bool | None = None
    temperature: float | None = Field(default=None, ge=0, le=2, description="0, the default, is greedy.")
    top_p: float | None = Field(default=None, ge=0, le=1)
    user: str | None = Field(default=None, description="The agent whose memory it is, unless a header says so.")
    metadata: dict[str, Any] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class ChatRequest(Sampled):
    """A body of ``/v1/chat/completions``."""

    messages: list[dict[str, Any]] = Field(min_length=1, examples=[[{"role": "user", "content": "Hello"}]])
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    store: bool | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool((self.stream_options or {}).get("include_usage"))

    def sampling(self, tools: Sequence[Tool] | None) -> Sampling:
        """How the reply is drawn.

        Raises:
            HttpFailure, ConfigError: What is asked for cannot be met.
        """
        if self.top_logprobs is not None and not self.logprobs:
            raise HttpFailure(400, "top_logprobs needs logprobs: true", "invalid_value", param="top_logprobs")
        return sampling(
            self,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            seed=self.seed,
            stop=self.stop,
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            grammar=grammar(tools, self.tool_choice, self.response_format, self.parallel_tool_calls),
        )


class CompletionRequest(Sampled):
    """A body of ``/v1/completions``."""

    prompt: str | list[str] = Field(examples=["Once upon a time"])
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    n: Literal[1] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    presence_penalty: float | None = Field(default=None, ge=0, le=0)
    frequency_penalty: float | None = Field(default=None, ge=0, le=0)
    logprobs: int | None = Field(default=None, ge=0, le=5)


class EmbeddingRequest(BaseModel):
    """A body of ``/v1/embeddings``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: str | list[str] = Field(examples=["a text"])
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


def sampling(
    body: Sampled,
    *,
    max_tokens: int | None,
    seed: int | None = None,
    stop: str | list[str] | None = None,
    logprobs: int | None = None,
    grammar: str | None = None,
) -> Sampling:
    """`Sampling` for a body; without a temperature it is greedy, as everywhere in this package.

    Raises:
        ConfigError: A value is out of range.
    """
    return Sampling(
        max_tokens=max_tokens or DEFAULT_TOKENS,
        temperature=body.temperature or 0.0,
        top_p=max(1e-6, 1.0 if body.top_p is None else body.top_p),
        stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        seed=seed,
        logprobs=logprobs,
        grammar=grammar,
    )


def checked_tools(tools: Sequence[Tool] | None, choice: object) -> list[Tool] | None:
    """The tools that the model is shown, in OpenAI's form for chat.

    Raises:
        HttpFailure: 400; one is not a function with a name.
        ConfigError: The choice names a tool that is not among them.
    """
    for place, each in enumerate(tools or ()):
        function = each.get("function") if each.get("type") == "function" else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            told = f"tools.{place} is not a function with a name, and no other tools are known here"
            raise HttpFailure(400, told, "unsupported_tool", param=f"tools.{place}")
        if not isinstance(function.get("parameters", {}), Mapping | None):
            raise HttpFailure(400, f"tools.{place} has no schema as parameters", param=f"tools.{place}")
    known = ("none", "auto", "required", None)
    if not (isinstance(choice, Mapping) or choice in known):
        raise HttpFailure(400, "tool_choice must be none, auto, required, or name a tool", param="tool_choice")
    if (choice in ("required",) and not tools) or (isinstance(choice, Mapping) and not tools):
        raise HttpFailure(400, "tool_choice asks for a tool, and there are no tools", param="tool_choice")
    return chosen_tools(tools, choice)


def grammar(
    tools: Sequence[Tool] | None, choice: object, form: Mapping[str, Any] | None, parallel: bool | None
) -> str | None:
    """The grammar that the reply must follow; None if it is free.

    Raises:
        HttpFailure, ConfigError: What is asked for cannot be enforced.
    """
    schema = wanted_schema(form)
    forced = bool(tools) and (choice == "required" or isinstance(choice, Mapping))
    if tools and schema is not None:
        told = "response_format rules out a call of a tool; ask for one or the other"
        raise HttpFailure(400, told, "unsupported_value", param="response_format")
    if tools and not forced and parallel is False:
        told = "whether calls are parallel cannot be enforced unless a call is required; leave parallel_tool_calls out"
        raise HttpFailure(400, told, "unsupported_value", param="parallel_tool_calls")
    if forced and tools:
        return call_grammar(tools)
    return None if schema is None else schema_grammar(schema)


def wanted_schema(form: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The schema of a ``response_format``; None for text.

    Raises:
        HttpFailure: 400; it is not one that is known.
    """
    kind = form.get("type") if form is not None else "text"
    if form is None or kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    inner = form.get("json_schema", form) if kind == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if not isinstance(schema, Mapping):
        told = "response_format must be text, json_object, or json_schema with a schema"
        raise HttpFailure(400, told, "invalid_value", param="response_format")
    return schema


async def json_object(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises:
        HttpFailure: 400; it is not a JSON object.
    """
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        raise HttpFailure(400, "the body is not valid JSON", "invalid_json") from None
    if not isinstance(found, dict):
        raise HttpFailure(400, "the body must be a JSON object", "invalid_json")
    return found


def checked(kind: type[BaseModel], body: Mapping[str, Any]) -> Any:
    """The body as a model of it.

    Raises:
        RequestValidationError: It is not one.
    """
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """A route's ``openapi_extra`` for a body that the route reads itself."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}
