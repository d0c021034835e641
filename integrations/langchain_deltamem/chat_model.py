"""`ChatDeltaMem`: the backbone, with an agent's state, as a chat model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from deltamem_agents.engine.generation import Sampling
from deltamem_agents.errors import UnsupportedModelError
from deltamem_agents.frameworks.calling import (
    VisibleText,
    chosen_sampling,
    chosen_tools,
    for_reply,
    prompt_length,
    reply_facts,
)
from deltamem_agents.frameworks.failing import refuse_unknown
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.memory import AgentMemory, DeltaMem, Reply
from deltamem_agents.memory.options import RecallOptions
from deltamem_agents.memory.sanitizing import plain_text
from langchain_deltamem.messages import for_prompt, is_summary
from langchain_deltamem.runs import named_by_run, owner_of

WAYS = (
    "give ChatDeltaMem(agent_id=…), delta_agent_id=… with the call (model_settings of an agent, or bind), "
    "context={'agent_id': …} with the run, or trust_configurable=True and config={'configurable': {'agent_id': …}}"
)

# LangChain's standard options that mean nothing here: no service is called, and every model streams.
WITHOUT_MEANING = frozenset({"timeout", "max_retries", "api_key", "base_url", "streaming"})


class ChatDeltaMem(BaseChatModel):
    """The backbone of a `DeltaMem` as a chat model, with the state of one of its agents and recalled text.

    It journals nothing: write with `DeltaMemMiddleware`, `DeltaMemChatMessageHistory` or `AgentMemory.write`. If a
    prompt already contains recalled text, such as the middleware's, no more is added.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The one agent whose memory it uses: an id, or a callable that takes the run's config. A run that names
            another agent raises.
        default_agent_id: The agent to use if a run names none: neither in the call (``delta_agent_id``), nor in its
            context (``agent_id``), nor in its ``configurable``.
        trust_configurable: Whether an ``agent_id`` in ``configurable`` counts. A server's clients can set it, so leave
            this off there.
        mode: "hybrid" (state and records), "vector" (records, with a zero state) or "state".
        k: The most records to recall.
        budget: The most tokens that they may take.
        outdated: "omit" leaves out records that a newer one contradicts; "mark" adds until when they held.
        placement: Where recalled text goes: "system" (the end of the system message) or "last_human" (the beginning of
            the newest human message).
        temperature: 0 is greedy.
        top_p: Nucleus sampling; 1 turns it off.
        max_tokens: The most tokens of a reply.
        stop: Strings that end a reply.
        seed: Makes sampling repeatable.

    Raises:
        ConfigError: An option is unknown or out of range, or ``mem`` was opened without a backbone; on a call, no agent
            is named, or one other than ``agent_id``.
        InvalidAgentError: An agent id is not valid.
        UnsupportedModelError: On a call, tools are given and the backbone's chat template does not take any.
        DeltaMemError: On a call, any error of `AgentMemory.generate`.
    """

    mem: DeltaMem = Field(exclude=True, repr=False)
    agent_id: str | Callable[[RunnableConfig], str] | None = None
    default_agent_id: str | None = None
    trust_configurable: bool = False
    mode: str = "hybrid"
    k: int = 5
    budget: int | None = None
    outdated: str = "omit"
    placement: str = "system"
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: list[str] | None = None
    seed: int | None = None
    cache: Any = False  # a cache does not know that the state has changed

    def __init__(self, **fields: Any) -> None:
        refuse_unknown(type(self).__name__, fields, type(self).model_fields.keys() | WITHOUT_MEANING)
        RecallOptions(k=fields.get("k", 5))  # before validation, which takes True for 1
        super().__init__(**fields)
        self.mem.backbone.engine("ChatDeltaMem")
        self._owner()  # after validation, as pydantic would turn our errors into its own
        self._recall_options()
        self._sampling(None, {})

    @property
    def _llm_type(self) -> str:
        return "deltamem"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        named = self.agent_id if isinstance(self.agent_id, str) else self.default_agent_id
        return {"model_name": self.mem.engine.name, "agent_id": named, "mode": self.mode}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "deltamem"
        params["ls_model_name"] = kwargs.get("model", self.mem.engine.name)
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Show tools to the backbone through its chat template.

        Args:
            tools: Anything that LangChain accepts as a tool.
            tool_choice: "none", or a tool's name to show only that one; a backbone cannot be forced to call a tool.

        Raises:
            UnsupportedModelError: The backbone's chat template does not take tools.
        """
        self._check_tools(tools)
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], tool_choice=tool_choice, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """A text's tokens by the backbone's tokenizer. Markup in it counts as text, as in a prompt."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self.mem.engine.rendering.text(plain_text(text))

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Number of tokens of the prompt with these messages and tools, without what memory adds to it."""
        if self.custom_get_token_ids is not None:
            return super().get_num_tokens_from_messages(messages, tools)
        shown = [convert_to_openai_tool(tool) for tool in tools or ()] or None
        return prompt_length(self.mem, for_prompt(messages), shown)

    # The config does not reach `_generate`, so the agent is passed on as a keyword argument.

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Reply to messages, as `BaseChatModel.invoke` does; ``delta_agent_id`` names the agent."""
        return super().invoke(input, config, stop=stop, **self._with_agent(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Async twin of `invoke`; never blocks the event loop."""
        return await super().ainvoke(input, config, stop=stop, **self._with_agent(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """Yield the reply's text as it is produced; closing the iterator stops the generation."""
        yield from super().stream(input, config, stop=stop, **self._with_agent(config, kwargs))

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """Async twin of `stream`; never blocks the event loop."""
        async for chunk in super().astream(input, config, stop=stop, **self._with_agent(config, kwargs)):
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        agent, prompt, options = self._call(messages, stop, kwargs)
        return self._result(agent, prompt, agent.generate(prompt, **options))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        agent, prompt, options = self._call(messages, stop, kwargs)
        return self._result(agent, prompt, await agent.agenerate(prompt, **options))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        agent, prompt, options = self._call(messages, stop, kwargs)
        shown = VisibleText()
        with closing(agent.stream(prompt, **options)) as pieces:  # type: ignore[type-var]  # a generator
            for piece in pieces:
                yield from self._chunks(agent, prompt, shown, piece)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        agent, prompt, options = self._call(messages, stop, kwargs)
        shown = VisibleText()
        async with aclosing(agent.astream(prompt, **options)) as pieces:  # type: ignore[type-var]  # a generator
            async for piece in pieces:
                for chunk in self._chunks(agent, prompt, shown, piece):
                    yield chunk

    def _call(
        self, messages: list[BaseMessage], stop: list[str] | None, given: Mapping[str, Any]
    ) -> tuple[AgentMemory, list[dict[str, Any]], dict[str, Any]]:
        """Agent, prompt, and the keyword arguments of `AgentMemory.generate`."""
        agent = self._owner().memory(self.mem, call=given.get("delta_agent_id"), **named_by_run(None))
        prompt = for_prompt(messages)
        human = [message for message in messages if message.type == "human"]
        tools = chosen_tools(given.get("tools"), given.get("tool_choice"))
        self._check_tools(tools or ())
        recall = for_reply(self._recall_options(), prompt, asks=not human or not is_summary(human[-1]))
        return agent, prompt, {"options": recall, "sampling": self._sampling(stop, given), "tools": tools}

    def _check_tools(self, tools: Sequence[Any]) -> None:
        """Raise UnsupportedModelError if there are tools and the chat template does not take any."""
        if tools and not self.mem.engine.rendering.takes_tools:
            raise UnsupportedModelError(
                f"{len(tools)} tools were given, but the chat template of {self.mem.engine.name} does not show them "
                "to the model; use a backbone whose template takes tools"
            )

    def _owner(self) -> Owner:
        return owner_of(self, WAYS)

    def _with_agent(self, config: RunnableConfig | None, given: dict[str, Any]) -> dict[str, Any]:
        """The call's keyword arguments, with the id of the agent that the call or its run names."""
        named = self._owner().id(call=given.get("delta_agent_id"), **named_by_run(config))
        return given | {"delta_agent_id": named}

    def _recall_options(self) -> RecallOptions:
        return RecallOptions(
            mode=self.mode, k=self.k, budget=self.budget, outdated=self.outdated, placement=self.placement
        )

    def _sampling(self, stop: list[str] | None, given: Mapping[str, Any]) -> Sampling:
        return chosen_sampling(self, given if stop is None else {**given, "stop": stop})

    def _result(self, agent: AgentMemory, prompt: list[dict[str, Any]], reply: Reply) -> ChatResult:
        message = AIMessage(
            content=reply.text,
            tool_calls=[tool_call(name=c.name, args=dict(c.arguments), id=c.id) for c in reply.tool_calls],
            usage_metadata=_usage(reply),
            response_metadata=self._facts(agent, prompt, reply),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _chunks(
        self, agent: AgentMemory, prompt: list[dict[str, Any]], shown: VisibleText, piece: str | Reply
    ) -> Iterator[ChatGenerationChunk]:
        if isinstance(piece, str):
            if text := shown.feed(piece):
                yield ChatGenerationChunk(message=AIMessageChunk(content=text))
            return
        message = AIMessageChunk(
            content=shown.rest(piece),
            tool_call_chunks=[
                tool_call_chunk(name=c.name, args=json.dumps(dict(c.arguments)), id=c.id, index=i)
                for i, c in enumerate(piece.tool_calls)
            ],
            usage_metadata=_usage(piece),
            response_metadata=self._facts(agent, prompt, piece),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=message)

    def _facts(self, agent: AgentMemory, prompt: list[dict[str, Any]], reply: Reply) -> dict[str, Any]:
        return {"model_provider": "deltamem", **reply_facts(self.mem, agent, prompt, reply)}


def _usage(reply: Reply) -> UsageMetadata:
    prompt, answer = reply.usage.prompt_tokens, reply.usage.answer_tokens
    return UsageMetadata(input_tokens=prompt, output_tokens=answer, total_tokens=prompt + answer)
