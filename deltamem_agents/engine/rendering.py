"""One message as tokens, the same whatever comes before or after it.

A chat template changes earlier text when later messages come, inserts dates, and refuses two user messages in a row, so
a fold cannot use one. Each family here has a one-message format instead, equal to its template on a plain dialogue.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFormat:
    """How one family writes a message.

    Args:
        marker: A piece of the chat template by which the family is known.
        before: What precedes the content, with ``{role}``.
        after: What follows it.
        roles: Names that differ from user, assistant, system and tool.
        start: What begins a dialogue.
        instruction: A system message for questions asked of the memory; empty where the model needs none.
    """

    marker: str
    before: str
    after: str
    roles: Mapping[str, str]
    start: str = ""
    instruction: str = "Answer in a few words, from memory."

    def role(self, role: str) -> str:
        """The family's name of a role."""
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


PROBE = "look_up_probe"  # a tool's name, by which a template shows whether it takes tools
DIALOGUE = (("user", "Good morning."), ("assistant", "What can I do?"), ("user", "My desk is 12."))


class Rendering:
    """Renders messages for one tokenizer. Safe to share among threads.

    Whether a fast tokenizer splits special tokens is a setting of the tokenizer, which each call switches: two threads
    that share one, of which one renders markup and the other text, get each other's tokens. So the markup is tokenised
    once, and text by a copy of the tokenizer that is never switched back.

    Raises:
        UnsupportedModelError: The tokenizer's chat template is of no known family, or writes messages in another way
            than the family it looks like.
        ChatTemplateError: The template fails on a plain dialogue, is not allowed, or takes too long.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.name, self.format = _format_of(tokenizer)
        self._text_tokenizer = copy.deepcopy(tokenizer)
        self._control = _control_tokens(tokenizer) | {piece for role in ROLES for piece in _words(*self._around(role))}
        self._start = self._markup(self.format.start)
        self._markups = {role: tuple(map(self._markup, self._around(role))) for role in ROLES}
        self.text("")  # switched here, before other threads come
        self._check_template()

    def message(self, role: str, content: str) -> list[int]:
        """Tokens of one message. ``content`` is tokenised on its own; special tokens in it are split into text."""
        before, after = self._markups[role]
        return [*before, *self.text(content), *after]

    def around(self, role: str) -> tuple[list[int], list[int]]:
        """Tokens before a message's content, and after it."""
        before, after = self._markups[role]
        return [*before], [*after]

    def opening(self, role: str) -> list[int]:
        """Tokens before a message's content."""
        return [*self._markups[role][0]]

    def start(self) -> list[int]:
        """Tokens that begin a segment."""
        return [*self._start]

    def text(self, content: str) -> list[int]:
        """Tokens of a message's content alone.

        A long content is tokenised in parts, as a tokenizer takes more than twice as long for twice the text; parts
        begin before a word where they can, which changes no token.
        """
        encode = partial(self._text_tokenizer.encode, add_special_tokens=False, split_special_tokens=True)
        if len(content) <= PART:
            return list(encode(content))
        return [token for start, stop in _parts(content) for token in encode(content[start:stop])]

    def text_with_starts(self, content: str) -> tuple[list[int], list[int]]:
        """As `text`, and for each token the place of its first character, never falling.

        A tokenizer that cannot tell places is taken to have as many tokens in each character.
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
        """A prompt for a short answer from memory: instruction and records as a system message, then the query."""
        system = "\n\n".join(part for part in (self.format.instruction, records) if part)
        messages = [{"role": "system", "content": system}] if system else []
        return self.prompt([*messages, {"role": "user", "content": query}])

    def prompt(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Tokens of a dialogue by the chat template, ready for the assistant's answer.

        Used for answers only. The one-message format replaces the template wherever there are neither tools nor tool
        calls and the family has one. Special tokens in a text take effect in neither.

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
        """Whether the chat template shows a model its tools: many leave them out without a word."""
        function = {"name": PROBE, "description": "Looks up.", "parameters": {"type": "object", "properties": {}}}
        try:
            shown = templates.render(
                self.tokenizer, [{"role": "user", "content": "Hi"}], [{"type": "function", "function": function}]
            )
        except ChatTemplateError:
            return False
        return PROBE in shown

    def facts(self, *, sentences: bool = False) -> str:
        """What a state depends on here: part of the fingerprint.

        Args:
            sentences: Whether it depends on which sentence a token belongs to.
        """
        known, version = self.format, 2 if sentences else 1
        return f"{self.name}/{version} {known.start}{known.before}{known.after}{sorted(known.roles.items())}"

    def _check_template(self) -> None:
        """Compare a plain dialogue with what the template makes of it, which may begin with more.

        Nor does it matter how either is spaced.
        """
        ours = "".join(content.join(self._around(role)) for role, content in DIALOGUE) + self._around("assistant")[0]
        theirs = templates.render(
            self.tokenizer, [{"role": role, "content": content} for role, content in DIALOGUE], None
        )
        if not "".join(theirs.split()).endswith("".join(ours.split())):
            raise UnsupportedModelError(
                f"the tokenizer's chat template looks like {self.name!r} and writes messages in another way: "
                f"{theirs!r} instead of {self.format.start + ours!r}; use an instruction-tuned model of "
                f"{', '.join(FORMATS)}"
            )

    def _around(self, role: str) -> tuple[str, str]:
        if self.name == "mistral":
            return ("", "</s>") if role == "assistant" else ("[INST] ", " [/INST]")
        return self.format.before.format(role=self.format.role(role)), self.format.after

    def _written(self, text: str) -> list[int]:
        """Tokens of what a chat template wrote; this tokenizer is never switched to split special tokens."""
        encoded = self.tokenizer(text, add_special_tokens=False, padding=False, truncation=False)
        return list(cast("list[int]", encoded["input_ids"]))

    def _markup(self, text: str) -> list[int]:
        """Before `text` is first called only."""
        return list(self._text_tokenizer.encode(text, add_special_tokens=False)) if text else []


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The special tokens as they stand in a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {str(token) for token in tokenizer.all_special_tokens} | {str(each) for each in added if each.special}


def _words(*markup: str) -> list[str]:
    """The words of a family's markup that no text has by chance: those in brackets."""
    return [word for piece in markup for word in _BRACKETED.findall(piece)]


def _parts(content: str) -> Iterator[tuple[int, int]]:
    """Where the parts begin and end in which a content is tokenised."""
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
        "the tokenizer's chat template is of no known family "
        f"({', '.join(FORMATS)}); use an instruction-tuned model of one of them"
    )
