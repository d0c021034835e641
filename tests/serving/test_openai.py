"""The official client on the backbone: what it sends is understood, and what it gets is what it expects."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from deltamem_agents import DeltaMem
from tests.faulty import await_rest, endless
from tests.serving.conftest import served

TEAL = {"role": "user", "content": "My favourite colour is teal."}
ASKED = {"role": "user", "content": "What is my favourite colour?"}
TOOL = {
    "type": "function",
    "function": {
        "name": "count",
        "description": "Counts.",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}},
            "required": ["n"],
            "additionalProperties": False,
        },
    },
}
FORM = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"colour": {"enum": ["teal", "red"]}, "sure": {"type": "boolean"}},
            "required": ["colour", "sure"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def mem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeltaMem]:
    folder = tmp_path_factory.mktemp("serving")
    with DeltaMem.open("tiny", url=f"sqlite:///{folder}/m.db", embedder=False) as opened:
        yield opened


@pytest.fixture(scope="module")
def url(mem: DeltaMem) -> Iterator[str]:
    with served(mem) as found:
        yield f"{found}/v1"


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=120) as made:
        yield made


def said(mem: DeltaMem, agent: str, session: str | None = None) -> list[tuple[str, Any]]:
    return [(each.role, each.content) for each in mem.agent(agent).log(session)]


def ask(client: openai.OpenAI, agent: str, *messages: Any, **options: Any) -> Any:
    return client.chat.completions.create(model="tiny", messages=[*messages], user=agent, **options)


def test_what_was_said_is_remembered(client: openai.OpenAI, mem: DeltaMem) -> None:
    ask(client, "told", TEAL)
    headers = {"x-deltamem-agent": "told", "x-session-id": "later"}
    reply = client.chat.completions.create(model="tiny", messages=[ASKED], extra_headers=headers)  # type: ignore[list-item]
    choice = reply.choices[0]
    assert choice.message.content == "teal" and choice.finish_reason == "stop"
    assert reply.usage is not None and reply.usage.total_tokens > reply.usage.prompt_tokens > 0
    assert said(mem, "told", "later") == [("user", ASKED["content"]), ("assistant", "teal")]
    assert said(mem, "told", "default")[0] == ("user", TEAL["content"])
    handed = mem.agent("told").log("later")[1].metadata["handed"]
    assert handed["mode"] == "hybrid" and 1 in handed["positions"] and handed["state"] >= 2 and handed["tokens"] > 5


def test_a_stream_has_the_same_text_and_usage(client: openai.OpenAI, mem: DeltaMem) -> None:
    options: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 12}
    whole = ask(client, "whole", ASKED, **options)
    chunks = list(ask(client, "streamed", ASKED, stream=True, stream_options={"include_usage": True}, **options))
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert [role for role, _ in said(mem, "streamed")] == [role for role, _ in said(mem, "whole")]


def test_a_resent_history_is_journalled_once(client: openai.OpenAI, mem: DeltaMem) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}]
    for text in ("My dog is called Rex.", "I live in Oslo.", "What is my dog called?"):
        messages.append({"role": "user", "content": text})
        reply = ask(client, "resent", *messages)
        messages.append(reply.choices[0].message.model_dump(exclude_none=True))
    kept = said(mem, "resent")
    assert kept == [(each["role"], each["content"]) for each in messages[1:]]
    ask(client, "resent", *messages[:-1])  # a retry
    assert said(mem, "resent") == kept


def test_a_required_tool_is_called_with_arguments_of_its_schema(client: openai.OpenAI, mem: DeltaMem) -> None:
    for choice in ("required", {"type": "function", "function": {"name": "count"}}):
        for stream in (False, True):
            agent = f"tools-{stream}"
            got = ask(client, agent, ASKED, tools=[TOOL], tool_choice=choice, stream=stream, max_tokens=100)
            if stream:
                deltas = [each.choices[0].delta for each in got]
                (call,) = [call for each in deltas for call in each.tool_calls or ()]
                assert not any(each.content for each in deltas)
            else:
                (call,) = got.choices[0].message.tool_calls
                assert got.choices[0].finish_reason == "tool_calls" and got.choices[0].message.content is None
            assert call.function.name == "count" and json.loads(call.function.arguments)["n"] in range(10)
            answered = [
                ASKED,
                {
                    "role": "assistant",
                    "tool_calls": [{"id": call.id, "type": "function", "function": call.function.model_dump()}],
                },
                {"role": "tool", "tool_call_id": call.id, "content": "seven"},
            ]
            assert ask(client, agent, *answered).choices[0].message.content
            assert "tool" in [role for role, _ in said(mem, agent)]


def test_json_of_a_schema_is_never_anything_else(client: openai.OpenAI) -> None:
    for seed in range(4):
        sampled: dict[str, Any] = {"temperature": 2.0, "seed": seed, "max_tokens": 100}
        reply = ask(client, "json", ASKED, response_format=FORM, **sampled)
        found = json.loads(reply.choices[0].message.content)
        assert found["colour"] in ("teal", "red") and isinstance(found["sure"], bool) and len(found) == 2


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nix"}}}}, None),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "object", "unevaluatedProperties": False}},
                }
            },
            None,
        ),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": FORM, "tools": [TOOL]}, "response_format"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, None),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"topk": 3}}, "topk"),
        ({"n": 2}, "n"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"presence_penalty": 1.0}, "presence_penalty"),
        ({"temperature": 9.0}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"max_tokens": 100_000}, None),
        ({"parallel_tool_calls": False, "tools": [TOOL]}, "parallel_tool_calls"),
    ],
)
def test_what_cannot_be_met_is_refused(client: openai.OpenAI, mem: DeltaMem, options: Any, param: str | None) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as told:
            ask(client, "refused", ASKED, stream=stream, **options)
        assert told.value.param == param or param is None
        assert told.value.body and told.value.request_id
    assert said(mem, "refused") == []


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "robot", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        ["hello"],
        [{"role": "user", "content": "x", "tool_calls": [{"id": "1"}]}],
    ],
)
def test_messages_that_cannot_be_read_are_refused(client: openai.OpenAI, messages: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        ask(client, "refused", *messages)


def test_unknown_models_and_missing_agents(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.chat.completions.create(model="gpt-9", messages=[ASKED], user="x")  # type: ignore[list-item]
    with pytest.raises(openai.BadRequestError, match="x-deltamem-agent"):
        client.chat.completions.create(model="tiny", messages=[ASKED])  # type: ignore[list-item]
    assert [each.id for each in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "deltamem"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_log_probabilities_are_those_of_the_drawn_distribution(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": 20, "max_tokens": 6}
    nucleus = ask(client, "likely", ASKED, temperature=1.5, top_p=0.5, seed=1, **wanted).choices[0]
    assert nucleus.logprobs.content
    for token in nucleus.logprobs.content:
        shares = [math.exp(each.logprob) for each in token.top_logprobs]
        assert sum(shares) == pytest.approx(1, abs=1e-3) or len(shares) == 20
        assert token.logprob <= 1e-6 and token.top_logprobs[0].logprob == max(e.logprob for e in token.top_logprobs)
    chunks = list(ask(client, "likely", ASKED, stream=True, **wanted))
    streamed = [t for each in chunks if each.choices[0].logprobs for t in each.choices[0].logprobs.content or ()]
    whole = ask(client, "likely-too", ASKED, **wanted).choices[0]
    assert "".join(each.token for each in whole.logprobs.content).strip() == whole.message.content
    assert streamed and all(each.logprob <= 0 for each in streamed)
    forced = ask(client, "likely", ASKED, response_format=FORM, **{**wanted, "max_tokens": 60}).choices[0]
    assert any(len(each.top_logprobs) == 1 and each.logprob == pytest.approx(0) for each in forced.logprobs.content)


def test_a_cancelled_stream_frees_its_row(client: openai.OpenAI, mem: DeltaMem) -> None:
    with endless(mem.engine):
        stream = ask(client, "gone", ASKED, stream=True, max_tokens=400)
        next(iter(stream))
        stream.close()
        await_rest(mem.engine)
    assert said(mem, "gone") == []


def test_a_caller_who_stops_waiting_frees_its_row(url: str, mem: DeltaMem) -> None:
    with openai.OpenAI(base_url=url, api_key="x", max_retries=0, timeout=1.0) as hasty, endless(mem.engine):
        with pytest.raises(openai.APITimeoutError):
            ask(hasty, "hasty", ASKED, max_tokens=450)
        began = time.monotonic()
        await_rest(mem.engine)
        assert time.monotonic() - began < 30
    assert said(mem, "hasty") == []


def test_more_replies_at_once_than_allowed_are_refused_and_the_next_one_is_not(mem: DeltaMem) -> None:
    with served(mem, concurrency=1) as found, openai.OpenAI(base_url=f"{found}/v1", api_key="x", max_retries=0) as one:
        with endless(mem.engine):
            stream = ask(one, "first", ASKED, stream=True, max_tokens=400)
            next(iter(stream))
            with pytest.raises(openai.RateLimitError, match="--concurrency") as refused:
                ask(one, "second", ASKED)
            assert refused.value.response.headers["retry-after"] == "1" and one.models.list().data
            stream.close()
            await_rest(mem.engine)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert ask(one, "second", TEAL, max_tokens=2).choices
                break
            except openai.RateLimitError:  # the server has not seen yet that the first caller has gone
                assert time.monotonic() < deadline
                time.sleep(0.1)


async def test_the_async_client(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="x", timeout=120) as client:
        stream = await client.chat.completions.create(model="tiny", messages=[TEAL], user="a", stream=True)  # type: ignore[call-overload]
        assert [each async for each in stream]


def test_completions_read_the_state_and_journal_nothing(client: openai.OpenAI, mem: DeltaMem) -> None:
    found = client.completions.create(model="tiny", prompt="Hello", user="raw", max_tokens=4, logprobs=2)
    assert found.choices[0].finish_reason in ("length", "stop") and found.usage is not None
    chunks = list(client.completions.create(model="tiny", prompt="Hello", user="raw", max_tokens=4, stream=True))
    assert "".join(each.choices[0].text for each in chunks).strip() == found.choices[0].text
    assert said(mem, "raw") == []
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt=["a", "b"], user="raw")


def test_without_an_embedder_there_are_no_embeddings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as told:
        client.embeddings.create(model="x", input="y")
    assert told.value.status_code == 501
