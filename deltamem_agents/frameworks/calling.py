"""One call of a backbone by an agent framework: recall options, sampling, tools, prompt length and reply metadata."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deltamem_agents.engine.generation import Sampling
from deltamem_agents.errors import ChatTemplateError, ConfigError, InvalidMessageError
from deltamem_agents.frameworks.records import RecalledText
from deltamem_agents.memory.options import RecallOptions
from deltamem_agents.memory.prompting import TURNS, not_in_prompt, prompt_messages, search_size
from deltamem_agents.memory.results import Recall, Reply
from deltamem_agents.memory.tool_output import LIMIT, capped
from deltamem_agents.messages import text_of
from deltamem_agents.recall import current
from deltamem_agents.recall.given import recalled_in

if TYPE_CHECKING:
    from deltamem_agents.memory.agent import AgentMemory
    from deltamem_agents.memory.deltamem import DeltaMem

_OPENS_CALL = "<tool_call>"


def for_search(options: RecallOptions, present: Sequence[str], query: str = "") -> dict[str, Any]:
    """Keyword arguments of a recall whose result goes to `beyond_prompt`; only mode "state" asks the state.

    Args:
        present: Texts that the prompt has already, oldest first.
        query: The text to recall for. The texts right before it in ``present`` become its context.
    """
    wide = replace(options, k=search_size(options.k, present), budget=None)
    return {"options": wide, "generate": options.mode == "state", "context": _before(present, query)}


def for_reply(options: RecallOptions, messages: Sequence[Mapping[str, Any]], *, asks: bool = True) -> RecallOptions:
    """Options of `AgentMemory.generate` for a prompt that may contain recalled text already.

    Args:
        asks: Whether the newest user message is a question; false for a summary, for which nothing is recalled.
    """
    if asks and not _holds_recall(messages):
        return options
    return replace(options, mode="state" if options.mode == "hybrid" else options.mode, budget=0)


def beyond_prompt(
    mem: DeltaMem,
    recalled: Recall,
    options: RecallOptions,
    present: Sequence[str],
    given: Collection[tuple[str | None, str]] = (),
) -> RecalledText:
    """Recalled text without what the prompt contains already, such as messages of the same conversation.

    Args:
        recalled: Result of a recall with `for_search`.
        present: Texts of the prompt's messages.
        given: Session and id of the prompt's messages that have an id; earlier versions of them are left out too.
    """
    if recalled.records:
        records = recalled.records if options.outdated == "mark" else current(recalled.records)
        said = [*present, *(capped(text, LIMIT) for text in present if len(text) > LIMIT)]  # as tool results are stored
        text = RecalledText(not_in_prompt(records, said, given)[: options.k])
    else:
        text = RecalledText((), recalled.text)
    return text if options.budget is None else text.within(options.budget, mem.backbone.count)


def _before(present: Sequence[str], query: str) -> list[str]:
    """The `TURNS` texts right before a query, or the last ones if the query is not among them."""
    stripped = [text.strip() for text in present]
    end = len(stripped) - 1 - stripped[::-1].index(query.strip()) if query.strip() in stripped else len(stripped)
    return list(present[max(0, end - TURNS) : end])


def chosen_sampling(fields: object, given: Mapping[str, Any]) -> Sampling:
    """Sampling options: those ``given`` with the call, otherwise the attributes of ``fields`` with the same names.

    Raises:
        ConfigError: An option is out of range.
    """
    names = ("temperature", "top_p", "max_tokens", "seed", "stop")
    chosen = {name: given.get(name, getattr(fields, name)) for name in names}
    stop = chosen.pop("stop") or ()
    return Sampling(**chosen, stop=(stop,) if isinstance(stop, str) else tuple(stop))


def chosen_tools(tools: Sequence[Mapping[str, Any]] | None, choice: object) -> list[Mapping[str, Any]] | None:
    """The tools that a tool choice allows: None for "none", a single tool if it is named, otherwise all.

    A backbone cannot be forced to call a tool; it can only be shown fewer tools.

    Args:
        tools: Tools in OpenAI's schema.
        choice: "auto", "any", "required", "none", a tool's name, or OpenAI's mapping that contains one.

    Raises:
        ConfigError: The choice names a tool that is not among the tools.
    """
    if not tools or choice == "none":
        return None
    name = choice
    if isinstance(choice, Mapping):
        name = choice.get("function", choice).get("name")
    if not isinstance(name, str) or name in ("auto", "any", "required"):
        return list(tools)
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        names = ", ".join(tool["function"]["name"] for tool in tools)
        raise ConfigError(f"tool_choice names {name!r}, which is not among the tools: {names}")
    return named


def prompt_length(
    mem: DeltaMem, prompt: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
) -> int:
    """Number of tokens of a prompt; if the chat template refuses the messages, the sum over single messages.

    Args:
        prompt: See `frameworks.messages.for_prompt`.
    """
    rendering = mem.engine.rendering
    if not prompt:
        return 0
    try:
        return len(rendering.prompt(prompt_messages(prompt), tools))
    except (ChatTemplateError, InvalidMessageError):
        told = ((each["role"], text_of(each["content"]), each.get("tool_calls")) for each in prompt)
        return sum(
            len(rendering.message(role, text + (json.dumps(calls) if calls else ""))) for role, text, calls in told
        )


def reply_facts(mem: DeltaMem, agent: AgentMemory, prompt: Sequence[Mapping[str, Any]], reply: Reply) -> dict[str, Any]:
    """Metadata about a reply for a framework's response; all of it JSON.

    ``revision`` is the journal position up to which the state was folded, None without a state. ``source`` says which
    part of memory the backbone had: "state", "records", "both" or "neither". ``records`` (their messages' sessions and
    ids) and ``context_tokens`` describe the reply's own recall, not recalled text already in the prompt.
    """
    usage = reply.usage
    state, records = usage.state_bytes > 0, bool(reply.recall.records) or _holds_recall(prompt)
    source = "both" if state and records else "state" if state else "records" if records else "neither"
    return {
        "model_name": mem.engine.name,
        "agent_id": agent.id,
        "revision": reply.position,
        "source": source,
        "records": [{"session": record.session, "id": record.message_id} for record in reply.recall.records],
        "context_tokens": usage.context_tokens,
        "state_bytes": usage.state_bytes,
        "first_token_seconds": usage.first_token_seconds,
        "tokens_per_second": usage.tokens_per_second,
        "seconds": usage.seconds,
        "finish_reason": "tool_calls" if reply.tool_calls else "stop" if reply.finished else "length",
    }


class VisibleText:
    """Filters tool calls out of streamed text; the framework gets them parsed once the reply is complete."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._held = ""
        self._calling = False

    def feed(self, piece: str) -> str:
        """Add a piece of the stream; returns the text that can be shown now, holding back a possible tool call."""
        if self._calling:
            return ""
        self._held += piece
        at = self._held.find(_OPENS_CALL)
        self._calling = at >= 0
        if at < 0:
            at = len(self._held) - _overlap(self._held)
        ready, self._held = self._held[:at], self._held[at:]
        self._shown.append(ready)
        return ready

    def rest(self, reply: Reply) -> str:
        """The part of the finished reply's text that was not shown yet."""
        shown = "".join(self._shown)
        if reply.text.startswith(shown):
            return reply.text[len(shown) :]
        trimmed = shown.rstrip()
        return reply.text[len(trimmed) :].lstrip() if reply.text.startswith(trimmed) else ""


def _overlap(text: str) -> int:
    """Length of the longest suffix of ``text`` that may begin a tool call."""
    return next((n for n in range(len(_OPENS_CALL) - 1, 0, -1) if text.endswith(_OPENS_CALL[:n])), 0)


def _holds_recall(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a system message or the newest question contains text that this process recalled."""
    if any(message["role"] == "system" and recalled_in(text_of(message["content"])) for message in messages):
        return True
    asked = next((text_of(message["content"]) for message in reversed(messages) if message["role"] == "user"), "")
    return bool(recalled_in(asked))
