"""`Responder`: generates replies to messages with an agent's state and recalled records."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.segments import StateKey
from deltamem_agents.memory.answering import preload
from deltamem_agents.memory.async_methods import AsyncCall, Steps, cancellable, run
from deltamem_agents.memory.folding import Folded, state_and_key
from deltamem_agents.memory.journalling import Writer, journalled_chat, journalled_reply
from deltamem_agents.memory.options import ReplyFields, ReplyOptions
from deltamem_agents.memory.prompting import (
    TURNS,
    last_question,
    newest_that_fit,
    prompt_messages,
    split_tool_calls,
    turns_before,
    with_recall,
)
from deltamem_agents.memory.reader import Reader, handed_over
from deltamem_agents.memory.results import Recall, Reply, Usage
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.recall import leans
from deltamem_agents.recall.notes import as_trained
from deltamem_agents.recall.prompt import TRAINED
from deltamem_agents.store import check_id

if TYPE_CHECKING:
    from deltamem_agents.core import State

NEWEST = 50  # entries at the end of a journal that are searched for the last turns of a session

Messages = Sequence[Mapping[str, Any]]


class _Ready(NamedTuple):
    """The engine's request (prompt, state and its key), and what the reply reports about it."""

    request: tuple[list[int], State | None, StateKey | None]
    folded: Folded | None
    recalled: Recall


class Responder:
    """Generates replies of one agent; see `AgentMemory.generate`."""

    def __init__(self, runtime: Runtime, agent: str, reader: Reader, writer: Writer) -> None:
        self._runtime = runtime
        self._agent = agent
        self._reader = reader
        self._writer = writer

    def generate(self, messages: Messages, options: ReplyOptions) -> Steps[Reply]:
        """Generate a whole reply."""
        started = time.perf_counter()
        ready = yield from self._prepare(messages, options)
        with cancellable() as cancellation:
            generation = yield self._runtime.engine.generate(
                *ready.request, sampling=options.sampling, cancellation=cancellation
            )
        return self._reply(started, generation, ready)

    def stream(self, messages: Messages, session: str | None, fields: ReplyFields) -> Iterator[str | Reply]:
        """Generate a reply and yield its text as it is produced, then the `Reply`."""
        started = time.perf_counter()
        options = ReplyOptions.of(session, **fields)
        ready = run(self._prepare(messages, options))
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        cancellation = Cancellation()
        future = self._runtime.engine.generate(
            *ready.request, sampling=options.sampling, on_text=pieces.put, cancellation=cancellation
        )
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            yield self._reply(started, future.result(), ready)
        finally:
            cancellation.cancel()

    async def astream(self, messages: Messages, session: str | None, fields: ReplyFields) -> AsyncIterator[str | Reply]:
        """Async twin of `stream`."""
        started = time.perf_counter()
        options = ReplyOptions.of(session, **fields)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        cancellation = Cancellation()

        def put(piece: str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        try:
            async with AsyncCall(self._runtime.pool, "astream") as call:
                ready = await call.steps(self._prepare(messages, options))
                future = await call.thread(
                    lambda: self._runtime.engine.generate(
                        *ready.request, sampling=options.sampling, on_text=put, cancellation=cancellation
                    )
                )
            future.add_done_callback(lambda _: put(None))
            while (piece := await pieces.get()) is not None:
                yield piece
            yield self._reply(started, await asyncio.wrap_future(future), ready)
        finally:
            cancellation.cancel()

    def chat(self, messages: Messages, session: str, fields: ReplyFields) -> Steps[Reply]:
        """Generate a reply, then journal the messages and the reply in the session."""
        _check_chat(messages, session)
        reply = yield from self.generate(messages, ReplyOptions.of(session, **fields))
        self._journal(messages, reply, session)
        return reply

    def chat_stream(self, messages: Messages, session: str, fields: ReplyFields) -> Generator[str, None, Reply | None]:
        """Chat as `chat` does, but yield the reply's text as it is produced."""
        _check_chat(messages, session)
        reply = None
        for piece in self.stream(messages, session, fields):
            if isinstance(piece, Reply):
                reply = piece
                self._journal(messages, reply, session)
            else:
                yield piece
        return reply

    async def achat_stream(self, messages: Messages, session: str, fields: ReplyFields) -> AsyncIterator[str]:
        """Async twin of `chat_stream`."""
        _check_chat(messages, session)
        async for piece in self.astream(messages, session, fields):
            if isinstance(piece, Reply):
                async with AsyncCall(self._runtime.pool, "achat_stream") as call:
                    await call.thread(partial(self._journal, messages, piece, session))
            else:
                yield piece

    def _journal(self, messages: Messages, reply: Reply, session: str) -> None:
        """Journal the messages and the reply, with their tool calls."""
        said = journalled_reply(reply)
        self._writer.write([*journalled_chat(messages), *([said] if said else [])], session)

    def _prepare(self, messages: Messages, options: ReplyOptions) -> Steps[_Ready]:
        """The prompt's tokens, the state, and what was recalled."""
        asked = options.recall
        engine = self._runtime.backbone.engine("a reply")
        plain = prompt_messages(messages)
        if self._runtime.backbone.form is TRAINED:  # notes that another of our classes put there
            plain = [each | {"content": as_trained(each["content"])} for each in plain]
        given = [(options.session, each["id"]) for each in messages if isinstance(each.get("id"), str)]
        recalled = Recall()
        if asked.mode != "state":
            before = turns_before(plain) or self._turns_before(last_question(plain), options.session)
            recalled = yield from self._reader.for_prompt(plain, asked, given, before)
        self._runtime.check_open()
        prompt = self._rendered(plain, recalled.text, options)
        notes = list(recalled.notes)
        folded = self._reader.state(asked, notes)
        recalled = replace(recalled, notes=tuple(notes))
        if folded is not None and recalled.records and self._is_full(folded):
            folded = None
        state, key = state_and_key(folded)
        if recalled.records and asked.handover != "context":
            state, key = (yield from preload(engine, state, handed_over(recalled.records, asked))), None
        return _Ready((prompt, state, key), folded, recalled)

    def _rendered(self, messages: Sequence[dict[str, Any]], recalled: str, options: ReplyOptions) -> list[int]:
        """The prompt's tokens; with ``truncation``, of the newest messages that leave room for the reply."""
        engine = self._runtime.engine

        def render(chosen: Sequence[dict[str, Any]]) -> list[int]:
            placed = with_recall(chosen, recalled, options.recall.placement)
            return engine.rendering.prompt(placed, options.tools)

        prompt = render(messages)
        room = engine.window - (options.sampling or Sampling()).max_tokens
        if options.truncation and len(prompt) > room:
            prompt = render(newest_that_fit(messages, lambda chosen: len(render(chosen)) <= room))
        return prompt

    def _is_full(self, folded: Folded) -> bool:
        """Whether a state holds more than it can tell apart, so that records are read better without it."""
        full = self._runtime.engine.calibration.full
        return full is not None and self._runtime.engine.norm(folded.state) > full

    def _turns_before(self, question: str, session: str | None) -> list[str]:
        """The last turns of a session if a question depends on them; else none."""
        version = self._runtime.store.records.version(self._agent) if session is not None and leans(question) else None
        if version is None:
            return []
        newest = self._runtime.store.live(self._agent, max(0, version[1] - NEWEST), session)
        return [entry.text for entry in newest if entry.text and entry.role in ("user", "assistant")][-TURNS:]

    def _reply(self, started: float, generation: Generation, ready: _Ready) -> Reply:
        text, calls = split_tool_calls(generation.text)
        usage = Usage(
            context_tokens=ready.recalled.usage.context_tokens,
            prompt_tokens=generation.prompt_tokens,
            answer_tokens=len(generation.ids),
            state_bytes=self._runtime.backbone.state_bytes if ready.folded else 0,
            first_token_seconds=generation.first_token_seconds,
            tokens_per_second=generation.tokens_per_second,
            seconds=time.perf_counter() - started,
        )
        return Reply(
            text=text,
            tool_calls=calls,
            recall=ready.recalled,
            usage=usage,
            position=ready.folded.position if ready.folded else None,
            finished=generation.finished,
            logprobs=generation.logprobs,
        )


def _check_chat(messages: Messages, session: str) -> None:
    """Raise for messages that could not be journalled, before a reply is generated."""
    journalled_chat(messages)
    check_id(session, "session")
