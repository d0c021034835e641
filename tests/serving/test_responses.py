"""The Responses API, by the official client: events, tools, and responses that are continued by their id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from deltamem_agents import DeltaMem
from tests.serving.conftest import served

TOOL: Any = {
    "type": "function",
    "name": "count",
    "parameters": {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["n"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    folder = tmp_path_factory.mktemp("responses")
    with DeltaMem.open("tiny", url=f"sqlite:///{folder}/m.db", embedder=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(mem: DeltaMem) -> Iterator[str]:
    with served(mem) as found:
        yield f"{found}/v1"


def client_of(url: str, agent: str) -> openai.OpenAI:
    headers = {"x-deltamem-agent": agent}
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120, default_headers=headers)


def texts(mem: DeltaMem, agent: str) -> list[str]:
    return [each.text for each in mem.agent(agent).log()]


def test_a_conversation_is_continued_by_the_id_of_its_response(url: str, mem: DeltaMem) -> None:
    with client_of(url, "chain") as client:
        first = client.responses.create(model="tiny", input="My favourite colour is teal.", instructions="Be brief.")
        second = client.responses.create(
            model="tiny", input="What is my favourite colour?", previous_response_id=first.id
        )
        assert second.output_text == "teal" and second.previous_response_id == first.id
        branch = client.responses.create(model="tiny", input="I live in Oslo.", previous_response_id=first.id)
        assert branch.usage is not None and branch.usage.input_tokens > 10
        again = client.responses.retrieve(second.id)
        assert again.output_text == "teal" and again.status == "completed"
        kept = texts(mem, "chain")
        assert kept.count("My favourite colour is teal.") == 1 and len(kept) == 6

        sent = client.responses.create(
            model="tiny",
            input=[
                {"role": "user", "content": "My favourite colour is teal."},
                {"role": "assistant", "content": first.output_text},
                {"role": "user", "content": "Do I have a dog?"},
            ],
        )
        assert texts(mem, "chain").count("My favourite colour is teal.") == 1
        follows = client.responses.create(model="tiny", input="And a cat?", previous_response_id=sent.id)
        assert follows.usage is not None and sent.usage is not None
        assert follows.usage.input_tokens > sent.usage.input_tokens  # all of the history was found again


def test_responses_are_their_agents_own_and_go_with_their_messages(url: str, mem: DeltaMem) -> None:
    with client_of(url, "mine") as mine, client_of(url, "other") as other:
        made = mine.responses.create(model="tiny", input="A secret.")
        for call in (
            lambda: other.responses.retrieve(made.id),
            lambda: other.responses.create(model="tiny", input="x", previous_response_id=made.id),
            lambda: mine.responses.create(model="tiny", input="x", previous_response_id=made.id[:-1]),
            lambda: mine.responses.create(model="tiny", input="x", previous_response_id="resp_"),
        ):
            with pytest.raises(openai.NotFoundError):
                call()
        assert texts(mem, "other") == []
        mem.agent("mine").erase(ids=[made.id])
        with pytest.raises(openai.NotFoundError):
            mine.responses.retrieve(made.id)


def test_without_store_it_cannot_be_continued_but_is_remembered(url: str, mem: DeltaMem) -> None:
    with client_of(url, "unstored") as client:
        made = client.responses.create(model="tiny", input="My cat is called Tom.", store=False)
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="tiny", input="x", previous_response_id=made.id)
        assert texts(mem, "unstored")[0] == "My cat is called Tom."


def test_a_stream_ends_with_the_response_that_it_told_of(url: str) -> None:
    with client_of(url, "stream") as client, client.responses.stream(model="tiny", input="Where do I live?") as events:
        kinds, text = [], ""
        for number, each in enumerate(events):
            kinds.append(each.type)
            assert each.sequence_number <= number
            if each.type == "response.output_text.delta":
                text += each.delta
        final = events.get_final_response()
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed" and final.output_text == text


def test_a_required_tool_and_its_result(url: str, mem: DeltaMem) -> None:
    with client_of(url, "tools") as client:
        for stream in (False, True):
            options: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "max_output_tokens": 100}
            if stream:
                with client.responses.stream(model="tiny", input="Count.", **options) as events:
                    made = events.get_final_response()
            else:
                made = client.responses.create(model="tiny", input="Count.", **options)
            (call,) = made.output
            assert call.type == "function_call" and call.name == "count"
            long = "seven " * 20_000
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": long}
            with pytest.raises(openai.BadRequestError) as told:  # the window is smaller than that
                client.responses.create(model="tiny", input=[output], previous_response_id=made.id)
            assert told.value.code == "context_length_exceeded"
            output["output"] = "seven"
            after = client.responses.create(model="tiny", input=[output], previous_response_id=made.id)
            assert after.status in ("completed", "incomplete")


@pytest.mark.parametrize(
    "options",
    [
        {"input": []},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": "x", "tools": [{"type": "web_search"}]},
        {"input": "x", "reasoning": {"effort": "high"}},
        {"input": "x", "background": True},
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nix"}}}},
    ],
)
def test_what_cannot_be_met_is_refused(url: str, mem: DeltaMem, options: Any) -> None:
    with client_of(url, "refused") as client, pytest.raises(openai.BadRequestError):
        client.responses.create(model="tiny", **options)
    assert texts(mem, "refused") == []


def test_cut_off_answers_say_so(url: str) -> None:
    with client_of(url, "cut") as client:
        form: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array", "minItems": 90}}}
        made = client.responses.create(model="tiny", input="x", max_output_tokens=4, text=form)
    assert made.status == "incomplete" and made.incomplete_details is not None
    assert made.incomplete_details.reason == "max_output_tokens"
