"""Renders one message as tokens, independently of what comes before or after it.

A chat template changes earlier text when later messages come, inserts dates, and refuses two user messages in a row, so
a fold cannot use one. Instead, each family here has a one-message format, equal to its template on a plain dialogue.
Message text never becomes a special token: ``<|im_end|>`` in a user's text stays text.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from deltamem_agents.engine import templates
from deltamem_agents.engine.markup import HiddenMarkup
from deltamem_agents.errors import ChatTemplateError, UnsupportedModelError

PART = 20_000  # characters
_WORD_BEGINS = re.compile(r"(?<=\S) (?=\w)")
_BRACKETED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")
ROLES = ("system", "user", "assistant", "tool")

PROBE = "look_up_probe"  # name of a tool that shows whether a template renders tools
DIALOGUE = (("user", "Good morning."), ("assistant", "What can I do?"), ("user", "My desk is 12."))


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFormat:
    """How one family writes a message.

    Args:
        marker: A piece of the chat template that identifies the family.
        before: Text before the content, with ``{role}``.
        after: Text after the content.
        roles: Role names that differ from user, assistant, system and tool.
        start: Text that begins a dialogue.
        instruction: A system message for questions asked of the memory; empty if the model needs none.
    """

    marker: str
    before: str
    after: str
    roles: Mapping[str, str]
    start: str = ""
    instruction: str = "Answer in a few words, from memory."

    def role(self, role: str) -> str:
        """The family's name for a role."""
        return self.roles.get(role, role)


FORMATS: Mapping[str, MessageFormat] = {
    "deltamem-tiny": MessageFormat(
        marker="deltamem-tiny", before="<|{role}|>", after="<|end|>", roles={}, instruction=""
    ),
    "chatml": MessageFormat(  # Qwen2, Qwen3, SmolLM3
        marker="<|im_start|>", before="<|im_start|>{role}\n", after="<|im_end|>\n", roles={"tool": "user"}
    ),
    "llama3": MessageFormat(
        marker="<|start_header_id|>",
        before="<|start_header_id|>{role}<|end_header_id|>\n\n",
        after="<|eot_id|>",
        roles={"tool": "ipython"},
        start="<|begin_of_text|>",
    ),
    "gemma": MessageFormat(
        marker="<start_of_turn>",
        before="<start_of_turn>{role}\n",
        after="<end_of_turn>\n",
        roles={"assistant": "model", "system": "user", "tool": "user"},
        start="<bos>",
    ),
    "phi3": MessageFormat(marker="<|assistant|>", before="<|{role}|>\n", after="<|end|>\n", roles={"tool": "user"}),
    "mistral": MessageFormat(marker="[INST]", before="", after="", roles={}, start="<s>"),
}


class Rendering:
    """Renders messages for one tokenizer. Thread-safe.

    Whether a fast tokenizer splits special tokens is a setting of the tokenizer that each call changes: if two threads
    share one, and one renders markup while the other renders text, they get each other's tokens. So the markup is
    tokenised once, and text by a copy of the tokenizer whose setting never changes back.

    Raises:
        UnsupportedModelError: The tokenizer's chat template is not of a known family, or writes messages
            differently from the family it resembles.
        ChatTemplateError: The template fails on a plain dialogue, is not allowed, or takes too long.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.name, self.format = _format_of(tokenizer)
        self._text_tokenizer = copy.deepcopy(tokenizer)
        special = _control_tokens(tokenizer)
        self._control = special | {piece for role in ROLES for piece in _words(*self._around(role))}
        self._start = self._markup(self.format.start)
        self._markups = {role: tuple(map(self._markup, self._around(role))) for role in ROLES}
        after = self._markups["assistant"][1][:1]
        own = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
        self._end = after if after and tokenizer.convert_ids_to_tokens(after[0]) in special else own
        self.text("")  # changes the setting here, before other threads use the tokenizer
        self._check_template()

    def message(self, role: str, content: str) -> list[int]:
        """Tokens of one message. ``content`` is tokenised on its own; special tokens in it become plain text."""
        before, after = self._markups[role]
        return [*before, *self.text(content), *after]

    def around(self, role: str) -> tuple[list[int], list[int]]:
        """Tokens before and after a message's content."""
        before, after = self._markups[role]
        return [*before], [*after]

    def opening(self, role: str) -> list[int]:
        """Tokens before a message's content."""
        return [*self._markups[role][0]]

    def start(self) -> list[int]:
        """Tokens that begin a segment."""
        return [*self._start]

    def end(self) -> list[int]:
        """The token that ends an answer, in a list: the one after a message if it is special, or the tokenizer's own.

        For a base model with a chat template from elsewhere, the two differ.
        """
        return [*self._end]

    def text(self, content: str) -> list[int]:
        """Tokens of a message's content alone.

        Long content is tokenised in parts, as twice the text takes a tokenizer more than twice the time. Parts begin
        before a word if possible, which changes no token.
        """
        encode = partial(self._text_tokenizer.encode, add_special_tokens=False, split_special_tokens=True)
        if len(content) <= PART:
            return list(encode(content))
        return [token for start, stop in _parts(content) for token in encode(content[start:stop])]

    def text_with_starts(self, content: str) -> tuple[list[int], list[int]]:
        """Like `text`, with the position of each token's first character; positions never decrease.

        For a tokenizer that reports no offsets, tokens are assumed to be spread evenly over the characters.
        """
        if not self._text_tokenizer.is_fast:
            ids = self.text(content)
            return ids, [place * len(content) // len(ids) for place in range(len(ids))]
        ids, starts = [], []
        for begin, stop in _parts(content):
            found = self._text_tokenizer(
                content[begin:stop], add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
            )
            ids += found["input_ids"]
            starts += [begin + start for start, _ in found["offset_mapping"]]
        return ids, list(accumulate(starts, max))

    def question(self, query: str, records: str = "") -> list[int]:
        """A prompt for a short answer from memory: instruction and records as the system message, then the query.

        Raises:
            ChatTemplateError: The template fails; see `prompt`.
        """
        system = "\n\n".join(part for part in (self.format.instruction, records) if part)
        messages = [{"role": "system", "content": system}] if system else []
        return self.prompt([*messages, {"role": "user", "content": query}])

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Render a dialogue, ready for the assistant's answer.

        Used for answers only. Without tools and tool calls, the family's one-message format, if it has one, replaces
        the chat template. Special tokens in a text take effect in neither.

        Raises:
            ChatTemplateError: The template refuses the messages, fails, or takes too long.
        """
        plain = not tools and all(isinstance(m["content"], str) and not m.get("tool_calls") for m in messages)
        if plain and self.name != "mistral":
            ids = self.start()
            for message in messages:
                ids += self.message(message["role"], message["content"])
            return ids + self.opening("assistant")
        hidden = HiddenMarkup(self._control)
        rendered = templates.render(self.tokenizer, hidden.hide(messages), hidden.hide(tools))
        return hidden.ids(rendered, self._written, self.text)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the chat template shows the model its tools; many templates leave them out silently."""
        function = {"name": PROBE, "description": "Looks up.", "parameters": {"type": "object", "properties": {}}}
        try:
            shown = templates.render(
                self.tokenizer, [{"role": "user", "content": "Hi"}], [{"type": "function", "function": function}]
            )
        except ChatTemplateError:
            return False
        return PROBE in shown

    def facts(self, *, sentences: bool = False) -> str:
        """The facts about rendering that a state depends on, for the fingerprint.

        Args:
            sentences: Whether the state depends on which sentence a token belongs to.
        """
        known, version = self.format, 2 if sentences else 1
        return f"{self.name}/{version} {known.start}{known.before}{known.after}{sorted(known.roles.items())}"

    def _check_template(self) -> None:
        """Compare our rendering of a plain dialogue with the template's, which may begin with more text.

        Whitespace is ignored.
        """
        ours = "".join(content.join(self._around(role)) for role, content in DIALOGUE) + self._around("assistant")[0]
        theirs = templates.render(
            self.tokenizer, [{"role": role, "content": content} for role, content in DIALOGUE], None
        )
        if not "".join(theirs.split()).endswith("".join(ours.split())):
            raise UnsupportedModelError(
                f"the tokenizer's chat template looks like {self.name!r} but writes messages differently: "
                f"{theirs!r} instead of {self.format.start + ours!r}; use an instruction-tuned model of "
                f"{', '.join(FORMATS)}"
            )

    def _around(self, role: str) -> tuple[str, str]:
        if self.name == "mistral":
            return ("", "</s>") if role == "assistant" else ("[INST] ", " [/INST]")
        return self.format.before.format(role=self.format.role(role)), self.format.after

    def _written(self, text: str) -> list[int]:
        """Tokenise what a chat template wrote; this tokenizer never splits special tokens."""
        encoded = self.tokenizer(text, add_special_tokens=False, padding=False, truncation=False)
        return list(cast("list[int]", encoded["input_ids"]))

    def _markup(self, text: str) -> list[int]:
        """Tokenise markup; only valid before the first call of `text`."""
        return list(self._text_tokenizer.encode(text, add_special_tokens=False)) if text else []


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The special tokens as text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {str(token) for token in tokenizer.all_special_tokens} | {str(each) for each in added if each.special}


def _words(*markup: str) -> list[str]:
    """The words of a family's markup that do not occur in text by chance: those in brackets."""
    return [word for piece in markup for word in _BRACKETED.findall(piece)]


def _parts(content: str) -> Iterator[tuple[int, int]]:
    """Start and end of each part in which a content is tokenised."""
    start = 0
    while len(content) - start > 2 * PART:
        word = _WORD_BEGINS.search(content, start + PART, start + 2 * PART)
        stop = word.start() if word else start + PART
        yield start, stop
        start = stop
    if start < len(content):
        yield start, len(content)


def _format_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, MessageFormat]:
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    for name, known in FORMATS.items():
        if known.marker in template:
            return name, known
    raise UnsupportedModelError(
        "the tokenizer's chat template is not of a known family "
        f"({', '.join(FORMATS)}); use an instruction-tuned model of one of them"
    )
