"""`DeltaMemLLM`: the backbone, with an agent's state, as an LLM that calls functions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from deltamem_agents.errors import ConfigError, refuse_pickle
from deltamem_agents.frameworks.calling import (
    VisibleText,
    chosen_sampling,
    chosen_tools,
    for_reply,
    reply_facts,
)
from deltamem_agents.frameworks.failing import refuse_unknown
from deltamem_agents.frameworks.messages import for_prompt
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.memory import AgentMemory, DeltaMem, Reply
from deltamem_agents.memory.open_memories import Handle
from deltamem_agents.memory.options import RecallOptions
from llama_index_deltamem.messages import from_llama_index, tool_call_blocks
from llama_index_deltamem.tokens import Tokenizer, tokenizer_of
from llama_index_deltamem.window import announce

RECALL = ("mode", "k", "budget", "outdated", "placement")
WAYS = "give DeltaMemLLM(mem, agent_id=…), or delta_agent_id=… with the call"


class DeltaMemLLM(FunctionCallingLLM):
    """The backbone of a `DeltaMem` as an LLM, with the state of one of its agents and recalled text.

    It journals nothing; `DeltaMemory` does. If a prompt already contains recalled text, such as that memory's, no more
    is added. Consecutive system messages are joined. Calls take ``delta_agent_id``, ``tools``, ``tool_choice`` and the
    sampling fields as keyword arguments.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The one agent whose memory it uses; a call that names another agent raises.
        default_agent_id: The agent to use if a call names none.
        fields: ``mode`` ("hybrid", "vector" or "state"), ``k``, ``budget``, ``outdated`` ("omit" or "mark"),
            ``placement`` (where recalled text goes: "system" or "last_human"), ``temperature`` (0 is greedy),
            ``top_p``, ``max_tokens``, ``stop``, ``seed``, ``truncation`` (True drops the oldest messages of a prompt
            that is longer than the window, False raises ContextLengthError), and the fields of any LlamaIndex LLM.

    Raises:
        ConfigError: An option is unknown or out of range, or ``mem`` was opened without a backbone; on a call, no agent
            is named, or one other than ``agent_id``, or tools are given and the chat template does not take any.
        InvalidAgentError: An agent id is not valid.
        DeltaMemError: On a call, any error of `AgentMemory.generate`.
    """

    agent_id: str | None = Field(
        default=None, description="The agent whose memory is used; a call cannot choose another."
    )
    default_agent_id: str | None = Field(
        default=None, description="The agent whose memory is used if a call names none."
    )
    mode: str = Field(default="hybrid", description="'hybrid', 'vector' or 'state'.")
    k: int = Field(default=5, description="At most this many records.")
    budget: int | None = Field(default=None, description="At most this many tokens of records.")
    outdated: str = Field(default="omit", description="Records that a newer one contradicts: omit, or mark.")
    placement: str = Field(default="system", description="Where recall goes: system, or last_human.")
    temperature: float = Field(default=0.0, description="0 is greedy.")
    top_p: float = Field(default=1.0, description="Nucleus; 1 is off.")
    max_tokens: int = Field(default=256, description="The most tokens of a reply.")
    stop: list[str] | None = Field(default=None, description="Strings that end a reply.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    truncation: bool = Field(
        default=True, description="Whether the oldest messages are dropped if the prompt exceeds the window."
    )

    _handle: Handle = PrivateAttr()

    def __init__(self, mem: DeltaMem, agent_id: str | None = None, **fields: Any) -> None:
        if agent_id is not None:
            mem.agent(agent_id)  # raises our error for an invalid id, before pydantic raises its own
        refuse_unknown(type(self).__name__, fields, type(self).model_fields)
        mem.backbone.engine("DeltaMemLLM")
        RecallOptions(**{name: fields[name] for name in RECALL if name in fields})
        super().__init__(agent_id=agent_id, **fields)
        self._handle = Handle(mem)
        chosen_sampling(self, {})
        announce(mem, self)

    def __getstate__(self) -> dict[str, Any]:
        refuse_pickle("DeltaMemLLM")

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises the class."""
        return "DeltaMemLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The backbone's window and abilities; it can call functions if its chat template takes tools."""
        engine = self._handle.mem.engine
        return LLMMetadata(
            context_window=engine.window,
            num_output=self.max_tokens,
            is_chat_model=True,
            is_function_calling_model=engine.rendering.takes_tools,
            model_name=engine.name,
            system_role=MessageRole.SYSTEM,
        )

    @property
    def tokenizer_fn(self) -> Tokenizer:
        """The backbone's tokenizer, as `Memory`, ``Settings.tokenizer`` and text splitters expect it."""
        return tokenizer_of(self._handle.mem)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Reply to messages."""
        agent, prompt, options = self._call(messages, kwargs)
        return self._response(agent, prompt, agent.generate(prompt, **options))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Async twin of `chat`; never blocks the event loop."""
        agent, prompt, options = self._call(messages, kwargs)
        return self._response(agent, prompt, await agent.agenerate(prompt, **options))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Reply to messages, yielding text as it is produced; the last response has the parsed tool calls."""
        return self._stream(*self._call(messages, kwargs))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Async twin of `stream_chat`; never blocks the event loop."""
        return self._astream(*self._call(messages, kwargs))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Reply to a text, which becomes a user message because the backbone is a chat model."""
        agent, messages, options = self._call([ChatMessage(content=prompt)], kwargs)
        return _completion(self._response(agent, messages, agent.generate(messages, **options)))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Async twin of `complete`; never blocks the event loop."""
        agent, messages, options = self._call([ChatMessage(content=prompt)], kwargs)
        return _completion(self._response(agent, messages, await agent.agenerate(messages, **options)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Reply as `complete` does, yielding text as it is produced."""
        stream = self._stream(*self._call([ChatMessage(content=prompt)], kwargs))
        return (_completion(response) for response in stream)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Async twin of `stream_complete`; never blocks the event loop."""
        stream = self._astream(*self._call([ChatMessage(content=prompt)], kwargs))
        return (_completion(response) async for response in stream)

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The tool calls of a response.

        Raises:
            ValueError: There are none, and ``error_on_no_tool_call`` is true.
        """
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not calls and error_on_no_tool_call:
            raise ValueError(f"the model called no tool; it said {response.message.content!r}")
        return [
            ToolSelection(
                tool_id=call.tool_call_id or "",
                tool_name=call.tool_name,
                tool_kwargs=call.tool_kwargs if isinstance(call.tool_kwargs, dict) else {},
            )
            for call in calls
        ]

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Keyword arguments of `chat`. A backbone cannot be forced to call a tool, nor to make only one call."""
        messages = list(chat_history or [])
        if user_msg is not None:
            messages.append(ChatMessage(content=user_msg) if isinstance(user_msg, str) else user_msg)
        schemas = [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools]
        return {"messages": messages, "tools": schemas or None, **kwargs}

    def _call(
        self, messages: Sequence[ChatMessage], given: Mapping[str, Any]
    ) -> tuple[AgentMemory, list[dict[str, Any]], dict[str, Any]]:
        """Agent, prompt, and the keyword arguments of `AgentMemory.generate`."""
        owner = Owner(agent_id=self.agent_id, default_agent_id=self.default_agent_id, ways=WAYS)
        agent = owner.memory(self._handle.mem, call=given.get("delta_agent_id"))
        prompt = for_prompt(map(from_llama_index, messages))
        tools = chosen_tools(given.get("tools"), given.get("tool_choice"))
        if tools and not self._handle.mem.engine.rendering.takes_tools:
            raise ConfigError(
                f"{len(tools)} tools were given, but the chat template of {self._handle.mem.engine.name} "
                "does not show them to the model; use ReActAgent, which writes them into its prompt, or another "
                "backbone"
            )
        recall = RecallOptions(**{name: getattr(self, name) for name in RECALL})
        return (
            agent,
            prompt,
            {
                "options": for_reply(recall, prompt),
                "sampling": chosen_sampling(self, given),
                "tools": tools,
                "truncation": given.get("truncation", self.truncation),
            },
        )

    def _stream(
        self, agent: AgentMemory, prompt: list[dict[str, Any]], options: dict[str, Any]
    ) -> Generator[ChatResponse, None, None]:
        shown, said = VisibleText(), ""
        with closing(agent.stream(prompt, **options)) as pieces:  # type: ignore[type-var]  # a generator
            for piece in pieces:
                if isinstance(piece, Reply):
                    yield self._response(agent, prompt, piece, delta=shown.rest(piece))
                elif delta := shown.feed(piece):
                    said += delta
                    yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta=delta)

    async def _astream(
        self, agent: AgentMemory, prompt: list[dict[str, Any]], options: dict[str, Any]
    ) -> AsyncGenerator[ChatResponse, None]:
        shown, said = VisibleText(), ""
        async with aclosing(agent.astream(prompt, **options)) as pieces:  # type: ignore[type-var]  # a generator
            async for piece in pieces:
                if isinstance(piece, Reply):
                    yield self._response(agent, prompt, piece, delta=shown.rest(piece))
                elif delta := shown.feed(piece):
                    said += delta
                    yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta=delta)

    def _response(
        self, agent: AgentMemory, prompt: list[dict[str, Any]], reply: Reply, delta: str | None = None
    ) -> ChatResponse:
        text = [TextBlock(text=reply.text)] if reply.text or not reply.tool_calls else []
        given, made = reply.usage.prompt_tokens, reply.usage.answer_tokens
        usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
        return ChatResponse(
            message=ChatMessage(role="assistant", content=[*text, *tool_call_blocks(reply.tool_calls)]),
            delta=delta,
            raw={"usage": usage, **reply_facts(self._handle.mem, agent, prompt, reply)},
            additional_kwargs=dict(usage),
        )


def _completion(response: ChatResponse) -> CompletionResponse:
    return CompletionResponse(
        text=response.message.content or "",
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )
