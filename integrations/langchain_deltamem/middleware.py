"""`DeltaMemMiddleware`: memory for agents made by `create_agent`, whatever their chat model."""

from __future__ import annotations

import hashlib
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, cast
from uuid import uuid4

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import PrivateStateAttr
from langchain.tools import ToolRuntime
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.config import get_config
from langgraph.runtime import Runtime

from deltamem_agents.errors import ConfigError, kind_of, require_extra
from deltamem_agents.frameworks.calling import beyond_prompt, for_search
from deltamem_agents.frameworks.failing import OnError, check_on_error, fails_open, is_open
from deltamem_agents.frameworks.messages import id_name, session_name
from deltamem_agents.frameworks.ownership import Owner
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.frameworks.resent import newest_question
from deltamem_agents.memory import AgentMemory, DeltaMem
from deltamem_agents.memory.async_methods import twin
from deltamem_agents.memory.background import CallPool
from deltamem_agents.memory.options import RecallOptions
from deltamem_agents.memory.tool_output import LIMIT, ToolOutput
from deltamem_agents.store import MessageLookup
from langchain_deltamem.memory_tools import by_our_tools, memory_tools
from langchain_deltamem.messages import is_summary
from langchain_deltamem.runs import aretrieved, documents, named_in_context, retrieved
from langchain_deltamem.telling import Told, ToldChannel, Unchanged, untold

if TYPE_CHECKING:
    from deltamem_agents.guidelines.briefing import Briefing

WAYS = (
    "give DeltaMemMiddleware(agent_id=…), a string or a callable of state and runtime; or context={'agent_id': …} with "
    "the run; or trust_configurable=True and config={'configurable': {'agent_id': …}}"
)
AgentId = str | Callable[[Any, Any], str]
Write = Literal["all", "human"] | Callable[[BaseMessage], bool]


def _state_of(key: str) -> type[AgentState[Any]]:
    """A state schema that keeps, under ``key``, which message memory was told last; see `telling`.

    If an agent has several memories, each has its own key.
    """
    kept = NotRequired[Annotated[str, ToldChannel, PrivateStateAttr]]
    body = {"__annotations__": {key: kept}, "__module__": __name__, "__doc__": "State of an agent with memory."}
    return cast(type[AgentState[Any]], types.new_class("DeltaMemState", (AgentState,), {}, lambda ns: ns.update(body)))


class DeltaMemMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Adds recalled text to each model call, and journals the messages before the call and its reply.

    Writing is idempotent: messages are recognised by their ids, edited messages replace the old ones, and a
    conversation that a stateless client sends again is aligned with everything that the session ever held; see
    `frameworks.resent`. A summary that stands for earlier messages is not journalled and not used as a query. The
    journal's session is the run's ``thread_id``. If the model is a `ChatDeltaMem` of the same `DeltaMem`, it runs with
    the same agent's state.

    Args:
        mem: An open `DeltaMem`; this class does not close it.
        agent_id: The one agent whose memory it uses: an id, or a callable ``(state, runtime) -> id``. A run that names
            another agent raises.
        default_agent_id: The agent to use if neither the run's context nor its ``configurable`` has an ``agent_id``.
        trust_configurable: Whether an ``agent_id`` in ``configurable`` counts. A server's clients can set it, so leave
            this off there.
        mode: "hybrid", "vector" or "state"; "state" puts the backbone's own hint into the prompt, if it has one.
        k: The most records to recall.
        budget: The most tokens that they may take, by the backbone's tokenizer.
        outdated: "omit" leaves out records that a newer one contradicts; "mark" adds until when they held.
        placement: Where recalled text goes: "system" (the end of the system message) or "last_human" (the beginning of
            the newest human message, so that everything before it stays in a provider's prompt cache).
        write: Which messages to journal: "all" (of people, models and tools, never system messages), "human", or a
            predicate of a message.
        tool_output: How many characters of a tool's result are journalled, half from its beginning, half from its end;
            None for all.
        fold_tool_output: Whether tools' results are folded into the state.
        guidelines: A folder of a repository, whose rules that matter for the newest question are added to the system
            message in each model call, with the file and line of each. So they outlast a summary of the conversation.
            Needs the extra ``guidelines``.
        tools: Whether the model gets tools to `remember`, `recall` and `forget` by itself. Only their effect is
            journalled, not the calls.
        on_error: "log" continues without memory if it fails (an unreachable database, say); "raise" raises.
        name: Name of the middleware, which distinguishes several in one agent; by default the class's name, with a hash
            of ``agent_id`` if that is an id.

    Raises:
        ConfigError: An option is not valid; in a run, no agent is named, or one other than ``agent_id``.
        InvalidAgentError: An agent id is not valid.
        RepositoryError: ``guidelines`` is not a folder that can be read.
        MissingExtraError: ``guidelines`` is given and its extra is not installed.
        DeltaMemError: In a run, memory fails and ``on_error`` is "raise".
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
        guidelines: str | Path | None = None,
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
        self._briefing = None if guidelines is None else _briefing(mem, guidelines)
        self.tools = memory_tools(self._of_tool, self._options, self._on_error) if tools else []

    @property
    def name(self) -> str:
        """The name that LangChain gives to the nodes of the agent's graph."""
        return self._name

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Add what memory recalls for the newest human message to the prompt; journal the messages and the reply.

        The messages are durable before the model is called, and its reply before this returns. The next recall folds
        both.

        Raises:
            ConfigError, InvalidAgentError: No agent is named, one other than ``agent_id``, or one that is not valid.
            DeltaMemError: Memory fails, and ``on_error`` is "raise".
        """
        agent = self._of_run(request)
        if agent is None:
            return handler(request)
        text, brief = self._recall(agent, request), self._brief(agent, request)
        with fails_open(self._on_error, "journalling"):
            self._journal(agent, _session(), request.state)
        response = _with_ids(handler(self._with_memory(request, agent, text, brief)))
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
        brief = await self._abrief(agent, request) if self._briefing else ""
        with fails_open(self._on_error, "journalling"):
            await self._ajournal(agent, _session(), request.state)
        response = _with_ids(await handler(self._with_memory(request, agent, text, brief)))
        with fails_open(self._on_error, "journalling"):
            await self._ajournal(agent, _session(), request.state, response.result)
        return response

    @property
    def pool(self) -> CallPool:
        """The threads in which an async run writes the journal.

        Raises:
            ClosedError, ForkedError: ``mem`` is not open in this process.
        """
        self._mem.check_open()
        return self._mem.pool

    def _recall(self, agent: AgentMemory, request: ModelRequest[Any]) -> str:
        """Recalled text, reported to the run's callbacks as a retriever's; empty without a query or on a failure."""
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
        recalled = agent.recall(query, **for_search(self._options, present, query))
        return beyond_prompt(self._mem, recalled, self._options, present, _given(request))

    _afound = twin(_found)

    def _brief(self, agent: AgentMemory, request: ModelRequest[Any]) -> str:
        """The repository's rules for the newest question; empty without a repository or on a failure."""
        text = ""
        if self._briefing is not None:
            with fails_open(self._on_error, "reading guidelines"):
                text = self._briefing.text(_task(request) or self._asked(agent, _session()))
        return text

    _abrief = twin(_brief)

    def _journal(
        self, agent: AgentMemory, session: str, state: AgentState[Any], reply: Sequence[BaseMessage] = ()
    ) -> None:
        """Write the messages of the thread and of the new reply that memory does not have yet."""
        messages = [*state["messages"], *reply]
        told: Any = state.get(self._key, "")
        last = told.last if isinstance(told, Told) else str(told)
        chosen = self._chosen(messages)

        def select(held: MessageLookup) -> list[dict[str, Any]]:
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
        """The agent that a run names; None if the memory was closed, and the run continues without it."""
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
        """The agent and the session of a call of one of our tools."""
        return self._agent(runtime.state, runtime), _session()

    def _query(self, request: ModelRequest[Any]) -> str | None:
        """The query for recall; empty if the model reads the state itself and no records are wanted.

        None if a summary has replaced the question during the run.
        """
        if self._options.mode == "state" and self._is_ours(request):
            return ""
        return _task(request)

    def _asked(self, agent: AgentMemory, session: str) -> str:
        """The newest question in the session's journal."""
        return newest_question(self._mem.store, agent.id, session)

    _aasked = twin(_asked)

    def _with_memory(self, request: ModelRequest[Any], agent: AgentMemory, text: str, brief: str) -> ModelRequest[Any]:
        if self._is_ours(request) and request.model_settings.get("delta_agent_id") is None:
            request = request.override(model_settings=request.model_settings | {"delta_agent_id": agent.id})
        if brief:
            request = request.override(system_message=_joined(request.system_message, brief))
        if not text:
            return request
        messages = _asked_with(request.messages, text) if self._options.placement == "last_human" else None
        if messages is not None:
            return request.override(messages=messages)
        return request.override(system_message=_joined(request.system_message, text))

    def _is_ours(self, request: ModelRequest[Any]) -> bool:
        return getattr(request.model, "mem", None) is self._mem  # only `ChatDeltaMem` has one

    def _chosen(self, messages: Sequence[BaseMessage]) -> set[int]:
        """Indices of the messages to journal."""
        passed = by_our_tools(messages) if self.tools else set()
        return {place for place, each in enumerate(messages) if place not in passed and self._is_chosen(each)}

    def _is_chosen(self, message: BaseMessage) -> bool:
        if message.type == "system" or is_summary(message):
            return False
        return self._write(message) if callable(self._write) else self._write == "all" or message.type == "human"


def _briefing(mem: DeltaMem, root: str | Path) -> Briefing:
    require_extra("markdown_it", "guidelines", "guidelines")
    from deltamem_agents.guidelines.briefing import Briefing

    return Briefing(mem, root)


def _short(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _task(request: ModelRequest[Any]) -> str | None:
    """The newest human message; None if a summary has replaced it, empty if there is none."""
    human = [message for message in request.messages if isinstance(message, HumanMessage)]
    asked = next((message for message in reversed(human) if not is_summary(message)), None)
    return str(asked.text).strip() if asked is not None else None if human else ""


def _present(request: ModelRequest[Any]) -> list[str]:
    """The texts of the prompt's messages."""
    return [str(message.text) for message in request.messages]


def _configurable() -> Mapping[str, Any]:
    try:
        return get_config().get("configurable", {})
    except RuntimeError:  # called directly, outside a graph
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
    """The messages with recalled text at the beginning of the newest human message; None if there is none."""
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
