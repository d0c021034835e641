"""`RecallOptions`: each value is checked in one place, whichever call it goes to, and as an object or by keyword."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from deltamem_agents import DeltaMem
from deltamem_agents.errors import ConfigError
from deltamem_agents.memory import RecallOptions
from deltamem_agents.memory.options import RecallFields

BAD: list[tuple[dict[str, Any], str]] = [
    ({"mode": "both"}, "mode 'both' is not one of state, vector, hybrid"),
    ({"handover": "text"}, "handover 'text' is not one of context, preload, both"),
    ({"outdated": "keep"}, "outdated 'keep' is not one of omit, mark"),
    ({"placement": "first"}, "placement 'first' is not one of system, last_human"),
    ({"k": 0}, "k is 0; give 1 or more"),
    ({"k": True}, "k is True; give 1 or more"),
    ({"budget": -1}, "budget -1 is negative or not whole; give 0 for no records"),
    ({"budget": 1.5}, "budget 1.5 is negative or not whole; give 0 for no records"),
    ({"since": "yesterday"}, "since is 'yesterday'; give a datetime"),
    ({"metadata": ["a"]}, r"metadata is \['a'\]; give a mapping whose keys are strings"),
]
ASKED = [{"role": "user", "content": "What is my locker code?"}]


def test_the_keywords_are_the_fields() -> None:
    assert list(RecallFields.__annotations__) == [each.name for each in dataclasses.fields(RecallOptions)]


@pytest.mark.parametrize(("given", "told"), BAD)
def test_one_check_for_every_call(mem: DeltaMem, given: dict[str, Any], told: str) -> None:
    agent = mem.agent("a")
    with pytest.raises(ConfigError, match=told):
        RecallOptions(**given)
    for call in (
        lambda: agent.recall("x", **given),
        lambda: agent.generate(ASKED, **given),
        lambda: list(agent.stream(ASKED, **given)),
        lambda: agent.chat(ASKED, **given),
        lambda: list(agent.chat_stream(ASKED, **given)),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
    assert agent.log() == []


@pytest.mark.parametrize("given", [{"moed": "vector"}, {"options": {"k": 1}}, {"options": "vector"}])
def test_what_is_no_option_is_refused(mem: DeltaMem, given: dict[str, Any]) -> None:
    for call in (mem.agent("a").recall, mem.agent("a").generate, mem.agent("a").chat):
        with pytest.raises((ConfigError, TypeError), match=next(iter(given))):
            call(ASKED if call.__name__ != "recall" else "x", **given)


def test_keywords_change_the_given_options(mem: DeltaMem) -> None:
    agent = mem.agent("a")
    agent.write([{"role": "user", "content": f"Locker {number} is free."} for number in range(6)])
    options = RecallOptions(mode="vector", k=4)
    assert len(agent.recall("locker", options=options, generate=False).records) == 4
    assert len(agent.recall("locker", options=options, k=2, generate=False).records) == 2
    assert options.k == 4


@pytest.mark.parametrize("way", ["recall", "generate", "chat"])
def test_time_and_metadata_narrow_replies_as_they_narrow_recalls(mem: DeltaMem, way: str) -> None:
    agent = mem.agent("a")
    agent.write(
        [
            {"role": "user", "content": "The locker code is 4417.", "metadata": {"tenant": "a"}},
            {"role": "user", "content": "The locker code is 9031.", "metadata": {"tenant": "b"}},
        ],
        "s1",
    )
    narrowed: list[tuple[dict[str, Any], set[str]]] = [
        ({"metadata": {"tenant": "a"}}, {"The locker code is 4417."}),
        ({"metadata": {"tenant": "c"}}, set()),
        ({"until": datetime(2020, 1, 1, tzinfo=UTC)}, set()),
        ({"since": datetime(2020, 1, 1), "metadata": {"tenant": "b"}}, {"The locker code is 9031."}),
    ]
    for number, (given, found) in enumerate(narrowed):
        options = RecallOptions(mode="vector", outdated="mark", **given)
        if way == "recall":
            recalled = agent.recall("What is the locker code?", options=options, generate=False)
        elif way == "generate":
            recalled = agent.generate([{"role": "user", "content": "What is the locker code?"}], options=options).recall
        else:
            asked = [{"role": "user", "content": "What is the locker code?", "metadata": {"tenant": "none"}}]
            recalled = agent.chat(asked, f"other {number}", options=options).recall
        assert {record.text for record in recalled.records} - {"What is the locker code?"} == found
