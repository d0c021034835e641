"""Grammars that an answer must follow, as text: a JSON schema, any JSON object, a call of a tool. Imports no torch.

llguidance (extra ``serve``) reads them; `constraint` applies them while an answer is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deltamem_agents.errors import ConfigError, require_extra, shown

SCHEMA_BYTES = 256 << 10
# Without this, JSON may have any whitespace between its parts, and a small model may write it until it is cut off.
FORM = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON that a schema describes.

    Raises:
        ConfigError: The schema is not valid, too large, or uses what cannot be enforced; the message names it.
        MissingExtraError: llguidance is not installed.
    """
    return _checked(_json_grammar(schema), "the schema")


def call_grammar(tools: Sequence[Mapping[str, Any]]) -> str:
    """The grammar of one call of one of these tools, in the markup that `split_tool_calls` reads.

    Args:
        tools: Tools in OpenAI's schema.

    Raises:
        ConfigError: A tool's schema is not valid, too large, or uses what cannot be enforced.
        MissingExtraError: llguidance is not installed.
    """
    calls = [_call_schema(tool["function"]) for tool in tools]
    schema = {**(calls[0] if len(calls) == 1 else {"anyOf": calls}), "x-guidance": FORM}
    lark = f'start: "<tool_call>\\n" call "\\n</tool_call>"\ncall: %json {json.dumps(schema)}\n'
    return _checked(json.dumps({"grammars": [{"lark_grammar": lark}]}), "a tool's schema")


def _call_schema(function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": function.get("parameters") or ANY_OBJECT},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _json_grammar(schema: Mapping[str, Any]) -> str:
    return json.dumps({"grammars": [{"json_schema": {**schema, "x-guidance": FORM}}]})


def _checked(grammar: str, what: str) -> str:
    require_extra("llguidance", "an answer in a given form", "serve")
    from llguidance import LLMatcher

    if len(grammar) > SCHEMA_BYTES:
        raise ConfigError(f"{what} has {len(grammar)} characters, the limit is {SCHEMA_BYTES}; give a smaller one")
    failed, notes = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise ConfigError(f"{what} cannot be enforced: {shown(' '.join(notes))}; simplify it")
    return grammar
