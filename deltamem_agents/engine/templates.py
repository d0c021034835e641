"""Limits a chat template, which is a program from a model's folder that transformers runs in jinja2's sandbox.

The sandbox protects the machine, but does not stop a template from running forever or filling the memory. Operations
that make a large value in one step are refused before the template runs; the rest is checked line by line, for time and
for the size of its variables.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from types import FrameType
from typing import Any, cast

from jinja2 import Environment, nodes
from jinja2.utils import Namespace
from transformers import PreTrainedTokenizerBase

from deltamem_agents.errors import ChatTemplateError, kind_of, shown

SECONDS = 5.0  # limit per prompt; a template takes a few milliseconds
LARGEST = 1 << 20  # limit on the length of a template
SIZE = 16 << 20  # limit on the characters or items of one variable, on top of what the messages hold
OPERANDS = 64  # limit per concatenation
TIMES = 64  # limit per repetition
_FILTERS = {"attr", "center", "filesizeformat", "format", "pprint", "urlize", "wordcount", "wordwrap", "xmlattr"}
_METHODS = {"center", "expandtabs", "format", "format_map", "ljust", "rjust", "zfill"}
_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
_WIDTH = re.compile(r"%[^a-zA-Z%]*(\d{4}|\*)")  # a format with a width sets the length of its output


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
) -> str:
    """Render a dialogue with the tokenizer's chat template, ready for the assistant's answer.

    Raises:
        ChatTemplateError: The template refuses the messages, is not allowed, fails, or takes too long.
    """
    try:
        template = tokenizer.get_chat_template(None, cast(Any, tools))
        if isinstance(template, str):
            check(template)
        with watched(SIZE + sum(len(str(message)) for message in messages)):
            rendered = tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=True,
                tokenize=False,
            )
    except ChatTemplateError:
        raise
    except Exception as error:  # from the template itself, from the sandbox, or from odd values
        raise ChatTemplateError(
            f"the backbone's chat template cannot render these {len(messages)} messages "
            f"({type(error).__name__}: {shown(str(error))}); leave out tools or roles that it does not know, or use a "
            "model from a source you trust"
        ) from error
    return cast(str, rendered)


@lru_cache(maxsize=16)
def check(template: str) -> None:
    """Refuse a template that can make a large value in one step.

    Raises:
        ChatTemplateError: It can.
        Exception: It is not a valid template; raised by jinja2.
    """
    if len(template) > LARGEST:
        raise _refused(f"has {len(template)} characters, the limit is {LARGEST}")
    plain = _GENERATION.sub("", template)  # a tag of transformers' own that does not change a prompt
    parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    for node in parsed.find_all((nodes.Pow, nodes.Mul, nodes.Concat, nodes.Filter, nodes.Getattr, nodes.Getitem)):
        fault = _fault(node)
        if fault:
            raise _refused(fault)
    for text in parsed.find_all(nodes.Const):
        if isinstance(text.value, str) and _WIDTH.search(text.value):
            raise _refused("formats to a width")


def _fault(node: nodes.Node) -> str | None:
    if isinstance(node, nodes.Pow):
        return "raises to a power"
    if isinstance(node, nodes.Mul) and not (_is_few(node.left) or _is_few(node.right)):
        return f"repeats something, or multiplies it, more than {TIMES} times"
    if isinstance(node, nodes.Concat) and len(node.nodes) > OPERANDS:
        return f"joins more than {OPERANDS} values at once"
    if isinstance(node, nodes.Filter) and node.name in _FILTERS:
        return f"uses the filter {node.name}"
    if isinstance(node, nodes.Getattr) and node.attr in _METHODS:
        return f"calls {node.attr}"
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value in _METHODS:
        return f"calls {node.arg.value}"
    return None


def _is_few(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Const) and isinstance(node.value, int | float) and abs(node.value) <= TIMES


@contextmanager
def watched(size: int) -> Iterator[None]:
    """In this thread, stop a template that runs too long or makes a value larger than ``size``.

    Raises:
        ChatTemplateError: Inside the context: the template exceeds a limit.
    """
    until = time.monotonic() + SECONDS

    def line(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if time.monotonic() > until:
            raise _refused(f"runs for more than {SECONDS:g} s")
        for value in frame.f_locals.values():
            if _size(value) > size:
                raise _refused(f"makes {kind_of(value)} of {_size(value)} characters or items")
        return line

    def call(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        return line(frame, event, argument) if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


def _size(value: object) -> int:
    if isinstance(value, Namespace):
        held = object.__getattribute__(value, "_Namespace__attrs")  # the only way to read it
        return max((_size(each) for each in held.values()), default=0)
    if isinstance(value, dict) and value:
        return max(len(value), *(len(each) for each in value.values() if isinstance(each, str | list)), 0)
    return len(value) if isinstance(value, str | list | tuple) else 0


def _refused(fault: str) -> ChatTemplateError:
    return ChatTemplateError(
        f"the backbone's chat template {fault}, which templates of messages do not; use a model from a source you trust"
    )
