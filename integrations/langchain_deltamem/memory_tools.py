"""Tools by which a model uses memory itself: `remember`, `recall`, `forget`. Knows no middleware."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.tools import BaseTool, StructuredTool

from deltamem_agents.errors import ConfigError, UnknownAgentError
from deltamem_agents.frameworks.calling import RecallOptions
from deltamem_agents.memory import AgentMemory, Recall, Receipt

NOTHING = "Nothing has this id."
NAMES = ("remember", "recall", "forget")
Resolve = Callable[[ToolRuntime], tuple[AgentMemory, str]]


def memory_tools(resolve: Resolve, options: RecallOptions) -> list[BaseTool]:
    """The three tools, sync and async.

    Args:
        resolve: From a tool's runtime to the agent's memory and the session; raises where no agent is named.
        options: How much `recall` gives.
    """
    narrowed = {**options.arguments(), "mode": "vector", "generate": False}

    def remember(text: str, runtime: ToolRuntime) -> str:
        """Keep something in long-term memory.

        Args:
            text: One fact, in a sentence that is understood by itself.
        """
        agent, session = resolve(runtime)
        agent.write([_message(text, runtime)], session, wait=False)
        return "Remembered."

    async def aremember(text: str, runtime: ToolRuntime) -> str:
        agent, session = resolve(runtime)
        await agent.awrite([_message(text, runtime)], session, wait=False)
        return "Remembered."

    def recall(query: str, runtime: ToolRuntime) -> str:
        """Search long-term memory. Gives an id and a session with each text.

        Args:
            query: What to look for.
        """
        return _shown(resolve(runtime)[0].recall(query, **narrowed))

    async def arecall(query: str, runtime: ToolRuntime) -> str:
        return _shown(await resolve(runtime)[0].arecall(query, **narrowed))

    def forget(id: str, runtime: ToolRuntime, session: str | None = None) -> str:
        """Erase one text from long-term memory, for good.

        Args:
            id: As recall gives it.
            session: As recall gives it; needed where texts of several sessions have the id.
        """
        try:
            return _erased(resolve(runtime)[0].erase(ids=[id], session=session, wait=False))
        except (ConfigError, UnknownAgentError) as error:
            return _not_erased(error)

    async def aforget(id: str, runtime: ToolRuntime, session: str | None = None) -> str:
        try:
            return _erased(await resolve(runtime)[0].aerase(ids=[id], session=session, wait=False))
        except (ConfigError, UnknownAgentError) as error:
            return _not_erased(error)

    pairs = ((remember, aremember), (recall, arecall), (forget, aforget))
    return [StructuredTool.from_function(func=each, coroutine=twin, parse_docstring=True) for each, twin in pairs]


def by_our_tools(messages: Sequence[BaseMessage]) -> set[int]:
    """Places of messages that only say what these tools did, which memory must not take for something said."""
    calls = {
        call["id"]: call["name"]
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    }
    return {
        place
        for place, message in enumerate(messages)
        if calls.get(getattr(message, "tool_call_id", None)) in NAMES
        or (
            isinstance(message, AIMessage)
            and message.tool_calls
            and not str(message.text).strip()
            and all(call["name"] in NAMES for call in message.tool_calls)
        )
    }


def _message(text: str, runtime: ToolRuntime) -> dict[str, object]:
    """With an id that is the same when the call is run again."""
    named = hashlib.sha256(f"{runtime.tool_call_id}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
    return {"role": "user", "content": text, "id": f"remember:{named[:32]}", "metadata": {"by": "remember"}}


def _shown(recalled: Recall) -> str:
    lines = (f"[{each.message_id}] {each.text} (in session {each.session})" for each in recalled.records)
    return "\n".join(lines) or "Nothing was found."


def _erased(receipt: Receipt) -> str:
    return "Forgotten." if any(each.messages for each in receipt.erased) else NOTHING


def _not_erased(error: Exception) -> str:
    """For the model, which can mend its call: several sessions have the id."""
    return NOTHING if isinstance(error, UnknownAgentError) else f"Nothing was forgotten: {error}"
