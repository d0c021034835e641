"""`DeltaMemMiddleware`: memory for agents made by `create_agent`, whatever their chat model."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, NotRequired, cast
from uuid import uuid4

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain.tools import ToolRuntime
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.config import get_config
from langgraph.runtime import Runtime

from deltamem_agents.errors import ConfigError, kind_of
from deltamem_agents.frameworks.calling import RecallOptions, beyond_prompt
from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open
from deltamem_agents.frameworks.messages import id_name, session_name
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.recalled import RecalledText
from deltamem_agents.frameworks.resent import newest_question
from deltamem_agents.frameworks.tool_output import LIMIT, ToolOutput
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.store import Held
from langchain_deltamem.memory_tools import by_our_tools, memory_tools
from langchain_deltamem.messages import is_summary
from langchain_deltamem.retrieving import aretrieved, documents, retrieved
from langchain_deltamem.running import named_in_context
from langchain_deltamem.telling import Told, ToldChannel, Unchanged, untold

WAYS = (
    "give DeltaMemMiddleware(agent_id=…), a string or a callable of state and runtime; or context={'agent_id': …} with "
    "the run; or trust_configurable=True and config={'configurable': {'agent_id': …}}"
)
AgentId = str | Callable[[Any, Any], str]
Write = Literal["all", "human"] | Callable[[BaseMessage], bool]


def _state_of(key: str) -> type[AgentState[Any]]:
    """The state of an agent with a memory that keeps, under ``key``, which message was told last; see `telling`.

    Each of several memories on one agent has a key of its own.
    """
    kept = NotRequired[Annotated[str, ToldChannel, PrivateStateAttr]]
    body = {"__annotations__": {key: kept}, "__module__": __name__, "__doc__": "State of an agent with memory."}
    return cast(type[AgentState[Any]], types.new_class("DeltaMemState", (AgentState,), {}, lambda ns: ns.update(body)))


class DeltaMemMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Puts recall into the system message of each model call, and journals what was said before and by the call.

    Writing is idempotent: messages are known by their ids, edited ones replace the old, and a conversation that a
    stateless client sends again is aligned with all that the session ever held, see `frameworks.resent`. A summary in
    place of messages is neither journalled nor recalled for. The journal's session is the run's ``thread_id``.
    With a `ChatDeltaMem` of the same memory as model, that runs under the same agent's state.

    Args:
        mem: An open one; not closed by this class.
        agent_id: Whose memory, finally: an id, or a callable ``(state, runtime) -> id``. A run whose context names
            another agent raises.
        default_agent_id: Whose memory where neither the run's context has an ``agent_id``, nor its ``configurable``.
        trust_configurable: Whether ``configurable`` counts. Clients of a server can set it: leave it off there.
        mode: "hybrid", "vector" or "state"; "state" puts the backbone's own hint into the prompt, if it has one.
        k: Records at most.
        budget: Tokens they may have, by the backbone's tokenizer.
        outdated: "omit" leaves records that a newer one contradicts out of the text, "mark" says until when they held.
        placement: Where recall goes: "system" (the end of the system message), or "last_human" (the beginning of the
            newest human message, so that what stands before it stays in a provider's prompt cache).
        write: "all" (what was said by people, models and tools; never system messages), "human", or a predicate.
        tool_output: Characters of a tool's result that are journalled, half from its beginning, half from its end; None
            for all.
        fold_tool_output: Whether they are folded into the state.
        tools: Whether the model gets tools to `remember`, `recall` and `forget` by itself; what they do is journalled
            by their effect only.
        on_error: "log" goes on without memory where it fails (the database is away, say), "raise" raises.
        name: Of the middleware, which tells several in one agent apart; by default the class's, with a hash of an
            ``agent_id`` that is an id.

    Raises:
        ConfigError: An option is out of range; in a run, no agent is named anywhere, or another than ``agent_id`` is.
        InvalidAgentError: The agent id is not one.
    """

    def __init__(
        self,
        mem: DeltaMem,
        agent_id: AgentId | None = None,
        *,
        default_agent_id: str | None = None,
        trust_configurable: bool = False,
        mode: str = "hybrid",
        k: int = 5,
        budget: int | None = None,
        outdated: str = "omit",
        placement: str = "system",
        write: Write = "all",
        tool_output: int | None = LIMIT,
        fold_tool_output: bool = False,
        tools: bool = False,
        on_error: OnError = "log",
        name: str | None = None,
    ) -> None:
        super().__init__()
        self._on_error = check_on_error(on_error)
        if write not in ("all", "human") and not callable(write):
            raise ConfigError(f"write is {write!r}; give 'all', 'human', or a callable that takes a message")
        if not isinstance(mem, DeltaMem):
            raise ConfigError(f"mem is {kind_of(mem)}; give an open DeltaMem, as of DeltaMem.open(url=…)")
        self._mem = mem
        self._owner = Owner(
            agent_id=agent_id, default_agent_id=default_agent_id, trust_configurable=trust_configurable, ways=WAYS
        )
        self._name = type(self).__name__ + (f"-{_short(agent_id)}" if isinstance(agent_id, str) else "")
        self._name = self._name if name is None else name
        self._key = f"delta_mem_written_{_short(self._name)}"
        self.state_schema = _state_of(self._key)  # each middleware's own
        self._options = RecallOptions(mode=mode, k=k, budget=budget, outdated=outdated, placement=placement)
        self._write = write
        self._unchanged = Unchanged(mem)
        self._output = ToolOutput(limit=tool_output, folded=fold_tool_output)
        self.tools = memory_tools(self._of_tool, self._options) if tools else []

    @property
    def name(self) -> str:
        """As LangChain names the nodes of the agent's graph."""
        return self._name

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Hand the model a system message with what belongs to the newest human message; journal that, and the reply.

        What was said is durable before the model is called, and its reply before this returns; the next recall folds
        both.
        """
        agent = self._of_run(request)
        if agent is None:
            return handler(request)
        text = self._recall(agent, request)
        with fails_open(self._on_error, "journalling"):
            self._journal(agent, _session(), request.state)
        response = _with_ids(handler(self._with_memory(request, agent, text)))
        with fails_open(self._on_error, "journalling"):
            self._journal(agent, _session(), request.state, response.result)
        return response

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Async twin of `wrap_model_call`; never blocks the event loop."""
        agent = self._of_run(request)
        if agent is None:
            return await handler(request)
        text = await self._arecall(agent, request)
        with fails_open(self._on_error, "journalling"):
            await self._ajournal(agent, _session(), request.state)
        response = _with_ids(await handler(self._with_memory(request, agent, text)))
        with fails_open(self._on_error, "journalling"):
            await self._ajournal(agent, _session(), request.state, response.result)
        return response

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Where an async run writes the journal."""
        self._mem.check_open()
        return self._mem.pool

    def _recall(self, agent: AgentMemory, request: ModelRequest[Any]) -> str:
        """Recalled text, told to the run's callbacks as a retriever's; nothing without a query, or where that fails."""
        query, found = self._query(request), RecalledText()
        with fails_open(self._on_error, "recall"):
            if query is None:
                query = self._asked(agent, _session())
            if query:
                find = partial(self._found, agent, query, request)
                found = retrieved(f"{self.name}.recall", query, find, partial(_documents, agent))
        return found

    async def _arecall(self, agent: AgentMemory, request: ModelRequest[Any]) -> str:
        query, found = self._query(request), RecalledText()
        with fails_open(self._on_error, "recall"):
            if query is None:
                query = await self._aasked(agent, _session())
            if query:
                find = partial(self._afound, agent, query, request)
                found = await aretrieved(f"{self.name}.recall", query, find, partial(_documents, agent))
        return found

    def _found(self, agent: AgentMemory, query: str, request: ModelRequest[Any]) -> RecalledText:
        present = _present(request)
        recalled = agent.recall(query, **self._options.for_search(present, query))
        return beyond_prompt(self._mem, recalled, self._options, present, _given(request))

    _afound = twin(_found)

    def _journal(
        self, agent: AgentMemory, session: str, state: AgentState[Any], reply: Sequence[BaseMessage] = ()
    ) -> None:
        """Write what memory was not told of the thread and of the reply that will be its end."""
        messages = [*state["messages"], *reply]
        told: Any = state.get(self._key, "")
        last = told.last if isinstance(told, Told) else str(told)
        chosen = self._chosen(messages)

        def select(held: Held) -> list[dict[str, Any]]:
            return untold(
                *(held, agent.id, session, last, messages, chosen, self._output),
                edits=not reply,
                unchanged=self._unchanged,
            )

        agent.write_selected(select, session, wait=False)
        if messages and isinstance(told, Told):
            told.move(messages[-1].id or "")

    _ajournal = twin(_journal)

    def _of_run(self, request: ModelRequest[Any]) -> AgentMemory | None:
        """The agent that a run means; None where its memory was closed, and the run goes on without."""
        if not is_open(self._mem, self._on_error, in_run=True):
            return None
        return self._agent(request.state, request.runtime)

    def _agent(self, state: Any, runtime: Runtime[Any] | ToolRuntime) -> AgentMemory:
        return self._owner.memory(
            self._mem,
            context=named_in_context(getattr(runtime, "context", None)),
            configurable=_configurable().get("agent_id"),
            arguments=(state, runtime),
        )

    def _of_tool(self, runtime: ToolRuntime) -> tuple[AgentMemory, str]:
        """The agent that a tool of ours is to serve, and the session."""
        return self._agent(runtime.state, runtime), _session()

    def _query(self, request: ModelRequest[Any]) -> str | None:
        """What to recall for; nothing where the model reads the state itself and nothing else is asked for.

        None where a summary took the question's place within the run.
        """
        if self._options.mode == "state" and self._is_ours(request):
            return ""
        human = [message for message in request.messages if isinstance(message, HumanMessage)]
        asked = next((message for message in reversed(human) if not is_summary(message)), None)
        return str(asked.text).strip() if asked is not None else None if human else ""

    def _asked(self, agent: AgentMemory, session: str) -> str:
        """The newest question of the session's journal."""
        return newest_question(self._mem.store, agent.id, session)

    _aasked = twin(_asked)

    def _with_memory(self, request: ModelRequest[Any], agent: AgentMemory, text: str) -> ModelRequest[Any]:
        if self._is_ours(request) and request.model_settings.get("delta_agent_id") is None:
            request = request.override(model_settings=request.model_settings | {"delta_agent_id": agent.id})
        if not text:
            return request
        messages = _asked_with(request.messages, text) if self._options.placement == "last_human" else None
        if messages is not None:
            return request.override(messages=messages)
        return request.override(system_message=_joined(request.system_message, text))

    def _is_ours(self, request: ModelRequest[Any]) -> bool:
        return getattr(request.model, "mem", None) is self._mem  # of all chat models only `ChatDeltaMem` has one

    def _chosen(self, messages: Sequence[BaseMessage]) -> set[int]:
        """Places of the messages that are for the journal."""
        passed = by_our_tools(messages) if self.tools else set()
        return {place for place, each in enumerate(messages) if place not in passed and self._is_chosen(each)}

    def _is_chosen(self, message: BaseMessage) -> bool:
        if message.type == "system" or is_summary(message):
            return False
        return self._write(message) if callable(self._write) else self._write == "all" or message.type == "human"


def _short(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _present(request: ModelRequest[Any]) -> list[str]:
    """What the prompt says already."""
    return [str(message.text) for message in request.messages]


def _configurable() -> Mapping[str, Any]:
    try:
        return get_config().get("configurable", {})
    except RuntimeError:  # called by hand, outside of a graph
        return {}


def _session() -> str:
    return session_name(_configurable().get("thread_id"))


def _documents(agent: AgentMemory, found: RecalledText) -> list[Document]:
    return documents(agent, found.records)


def _with_ids(response: ModelResponse[Any]) -> ModelResponse[Any]:
    """The response with the ids that its messages will have in the thread."""
    if all(each.id for each in response.result):
        return response
    named = [each if each.id else each.model_copy(update={"id": str(uuid4())}) for each in response.result]
    return replace(response, result=named)


def _given(request: ModelRequest[Any]) -> list[tuple[str | None, str]]:
    """Session and id of the prompt's messages."""
    session = _session()
    return [(session, id_name(message.id)) for message in request.messages if message.id]


def _asked_with(messages: Sequence[BaseMessage], text: str) -> list[Any] | None:
    """The messages with recalled text at the beginning of the newest human one; None where there is none."""
    place = max((place for place, each in enumerate(messages) if isinstance(each, HumanMessage)), default=-1)
    if place < 0:
        return None
    content: Any = messages[place].content
    content = f"{text}\n\n{content}" if isinstance(content, str) else [{"type": "text", "text": text}, *content]
    return [*messages[:place], messages[place].model_copy(update={"content": content}), *messages[place + 1 :]]


def _joined(system: SystemMessage | None, text: str) -> SystemMessage:
    """The system message with recalled text at its end."""
    if system is None:
        return SystemMessage(content=text)
    if isinstance(system.content, str):
        content: str | list[Any] = f"{system.content}\n\n{text}" if system.content else text
    else:
        blocks: Sequence[Any] = system.content
        content = [*blocks, {"type": "text", "text": text}]
    return system.model_copy(update={"content": content})
