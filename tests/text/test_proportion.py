"""Every function that cuts, normalises, tokenises or matches text takes time in proportion to it, whatever it holds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest

from deltamem_agents import terminal, tiny
from deltamem_agents.engine import Rendering, cut
from deltamem_agents.engine.streaming import without_stop
from deltamem_agents.frameworks.calling import VisibleText
from deltamem_agents.frameworks.messages import FrameworkMessage, for_journal, for_prompt
from deltamem_agents.memory.prompting import not_in_prompt, prompt_messages, split_tool_calls
from deltamem_agents.memory.results import Reply
from deltamem_agents.recall import Record, query_terms, recall_text, split_text, within_budget
from deltamem_agents.recall.contradiction import newer_first, outdated
from deltamem_agents.recall.records import sentences
from deltamem_agents.recall.selection import is_weak, knows_nothing, select
from deltamem_agents.recall.snapshot import joined
from deltamem_agents.recall.words import content_words, forget_words, looked_for, speaks_of_self, text_terms, words_of
from deltamem_agents.search_form import UNSPACED, normalized, spelled_out
from deltamem_agents.store import Entry, StoredRecord, check_id, check_messages, wording
from deltamem_agents.store.dialects import fts5, tsvector

SMALL, LARGE = 50_000, 500_000
MOST = 15.0  # times as long for ten times the text
FLOOR = 0.005  # seconds; less is noise
TRIES = 3
NOW = datetime(2026, 1, 31, tzinfo=UTC)

PROSE = "My sister's flat is in Oslo, near the old harbour. She is moving to Bergen now! Who knows why? “I don't.”\n"
PATTERNS = {
    "dots": ".",
    "spaces": " ",
    "brackets": "[({<)",
    "quotes": "\"'”’",
    "digits": "0123456789",
    "newlines": "\n",
    "one letter": "a",
    "emoji": "😀🏽👩‍👩‍👧",
    "marks": "\u0301\u0323\u0308\u0327\u0345",
    "prose": PROSE,
}
PARTICULAR = {  # patterns that are a trap for some functions, by these
    "!?…": ("split_text", "sentences", "cut", "is_weak", "select"),
    '."': ("split_text", "sentences", "cut"),
    "。」": ("split_text", "sentences", "cut"),
    " \n": ("split_text", "sentences", "cut", "recall_text", "select"),
    "ying": ("text_terms",),
    "e\u0301\u0323ü": ("normalized NFC", "normalized NFD", "query_terms", "tsvector terms"),
    "我住在京都喜欢喝绿茶": ("text_terms", "spelled_out", "fts5 match", "tsvector query"),
    "so, how is it? ": ("is_weak", "select", "sentences"),
    "now changed to not the same or is it so, and ": ("outdated", "knows_nothing"),
    "<tool_call>{": ("split_tool_calls", "VisibleText"),
    "}</tool_call>": ("split_tool_calls", "VisibleText"),
    '<tool_call>{"name": "a"}</tool_call>': ("split_tool_calls",),
    "<tool_call>{}}}  ": ("split_tool_calls",),
}


@cache
def text_of(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size] + "x"


@cache
def rendering() -> Rendering:
    from transformers import AutoTokenizer

    return Rendering(AutoTokenizer.from_pretrained(tiny.FOLDER))


def stored(text: str, key: int = 1) -> StoredRecord:
    return StoredRecord(
        key=key,
        text=text,
        message_id=f"m{key}",
        position=key,
        chunk=0,
        session="s",
        role="user",
        details={"name": text},
        created_at=NOW,
    )


def given(text: str) -> Record:
    return Record(text=text, score=1.0, session="s", message_id="m", role="user", position=1, created_at=NOW)


def said(text: str) -> Entry:
    return Entry(id="m", position=1, session="s", role="user", content=text, text=text, metadata={}, created_at=NOW)


def streamed(text: str) -> str:
    shown = VisibleText()
    pieces = [shown.feed(text[start : start + 64]) for start in range(0, len(text), 64)]
    return "".join([*pieces, shown.rest(Reply(text=text))])


def refused(check: Callable[[str], object]) -> Callable[[str], object]:
    def call(text: str) -> object:
        try:
            return check(text)
        except ValueError as error:
            return str(error)

    return call


def messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": text}]}, {"role": "user", "content": "x" + text}]


def framework(text: str) -> list[FrameworkMessage]:
    return [FrameworkMessage(role="system", content=text), FrameworkMessage(role="system", content=text)]


FUNCTIONS: dict[str, Callable[[str], object]] = {
    # records
    "split_text": split_text,
    "sentences": sentences,
    # words
    "query_terms": query_terms,
    "content_words": content_words,
    "speaks_of_self": speaks_of_self,
    "words_of": words_of,
    "text_terms": lambda text: list(text_terms(text)),
    "looked_for": looked_for,
    "normalized NFC": lambda text: normalized("NFC", text),
    "normalized NFD": lambda text: normalized("NFD", text),
    "spelled_out": spelled_out,
    "UNSPACED": UNSPACED.findall,
    # full text of the databases
    "fts5 terms": fts5.Fts5().terms,
    "fts5 match": lambda text: fts5.match_expression(1, [text]),
    "fts5 match of words": lambda text: fts5.match_expression(1, text.split(" ")),
    "tsvector terms": tsvector.Tsvector().terms,
    "tsvector fold": tsvector.fold,
    "tsvector query": lambda text: tsvector.queries_of([text]),
    # what is handed over
    "select": lambda text: select(text, [stored(text), stored(text, 2)], 5),
    "is_weak": lambda text: is_weak(stored(text)),
    "knows_nothing": knows_nothing,
    "outdated": lambda text: newer_first([stored(text)], outdated([stored(text), stored(text + " now", 2)])),
    "recall_text": lambda text: recall_text([given(text)]),
    "within_budget": lambda text: within_budget([given(text), given("b")], len(text)),
    "joined": lambda text: joined(None, (1, 1), [stored(text)], None).named(text),
    # segments
    "cut": lambda text: list(cut([said(text)], rendering(), 256)),
    # prompts and answers
    "prompt_messages": lambda text: prompt_messages(messages(text)),
    "beyond": lambda text: not_in_prompt([given(text[1:])], [text, text[2:]]),
    "split_tool_calls": split_tool_calls,
    "without_stop": lambda text: without_stop(text, ("\n\nx", "stop")),
    # frameworks
    "VisibleText": streamed,
    "for_prompt": lambda text: for_prompt(framework(text)),
    "for_journal": lambda text: for_journal(framework(text)),
    "wording": lambda text: wording("user", text, None),
    # the journal and the terminal
    "check_messages": lambda text: check_messages(messages(text)),
    "check_id": refused(check_id),
    "printable": terminal.printable,
    "shell_word": terminal.shell_word,
}


def seconds(function: Callable[[str], object], text: str) -> float:
    forget_words()
    began = time.thread_time()
    function(text)
    return time.thread_time() - began


SLOW = {"cut"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in FUNCTIONS]
)
def test_ten_times_the_text_takes_about_ten_times_as_long(name: str) -> None:
    slow = {}
    for pattern in [*PATTERNS.values(), *(unit for unit, names in PARTICULAR.items() if name in names)]:
        small, large = text_of(pattern, SMALL), text_of(pattern, LARGE)
        least = [float("inf"), float("inf")]
        for _ in range(TRIES):  # again only where something disturbed it
            least = [min(least[0], seconds(FUNCTIONS[name], small)), min(least[1], seconds(FUNCTIONS[name], large))]
            if least[1] <= MOST * max(least[0], FLOOR):
                break
        else:
            slow[pattern[:20]] = f"{least[1]:.3f} s after {least[0]:.3f} s"
    assert not slow
