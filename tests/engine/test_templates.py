"""Chat templates of strangers: one that loops, fills the memory or reaches out is an error of ours, and soon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from deltamem_agents import tiny
from deltamem_agents.engine import rendering, templates
from deltamem_agents.errors import ChatTemplateError, DeltaMemError

MESSAGES = [{"role": "user", "content": "Hello 🚀 <|end|>"}, {"role": "assistant", "content": "Hm."}]
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object"}}}]
BAD = {
    "a long loop": "{% for i in range(99999) %}{% for j in range(99999) %}{{ i }}{% endfor %}{% endfor %}",
    "a silent loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop of ten billion": "{% for i in range(10 ** 10) %}x{% endfor %}",
    "recursion": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "recursion in two ways": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}"
    ),
    "doubling": "{% set ns = namespace(x='a') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling of lists": "{% set n = namespace(x=[0]) %}{% for i in range(90) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a repetition": "{{ 'a' * 9999999999 }}",
    "a repetition of a variable": "{% set n = 9999999999 %}{{ 'a' * n }}",
    "a width": "{{ '%9999999999d' % 1 }}",
    "a width by a filter": "{{ '%9999999999d' | format(1) }}",
    "padding": "{{ 'a'.ljust(9999999999) }}",
    "padding by another way": "{{ 'a'['ljust'](9999999999) }}",
    "centering": "{{ 'a' | center(9999999999) }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a refusal": "{{ raise_exception('roles must alternate') }}",
    "no syntax": "{% for %}",
    "an unknown filter": "{{ 1 | launder }}",
    "division by zero": "{{ 1 / 0 }}",
    "odd types": "{{ messages + 1 }}",
    "nothing there": "{{ nobody.at.home }}",
    "too deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "too long": "x" * (2 << 20),
}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny.FOLDER)
    return found


@pytest.mark.parametrize("name", BAD)
def test_bad_templates(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    found = rendering.Rendering(tokenizer)
    tokenizer.chat_template = "{# deltamem-tiny #}" + BAD[name]
    began = time.monotonic()
    with pytest.raises(ChatTemplateError, match="chat template") as caught:
        found.prompt(MESSAGES, TOOLS)
    assert isinstance(caught.value, DeltaMemError) and isinstance(caught.value, ValueError)
    assert time.monotonic() - began < 3 and len(str(caught.value)) < 500
    assert found.prompt(MESSAGES)  # without tools the template is not asked


def test_a_good_template_gives_what_transformers_does(tokenizer: PreTrainedTokenizerBase) -> None:
    rows: list[tuple[list[dict[str, Any]], Any]] = [(MESSAGES, TOOLS), (MESSAGES[:1], None)]
    for messages, tools in rows:
        expected = tokenizer.apply_chat_template(messages, tools=tools, add_generation_prompt=True, tokenize=False)
        assert templates.render(tokenizer, messages, tools) == expected


def test_tracing_of_others_is_left_as_it_was(tokenizer: PreTrainedTokenizerBase) -> None:
    import sys

    def trace(*_: object) -> Callable[..., Any] | None:
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        templates.render(tokenizer, MESSAGES, TOOLS)
        assert sys.gettrace() is trace
        tokenizer.chat_template = BAD["odd types"]
        with pytest.raises(ChatTemplateError):
            templates.render(tokenizer, MESSAGES, TOOLS)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
