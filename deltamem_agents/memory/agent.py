"""`AgentMemory`: a cheap handle on one agent's memory. It holds no data; make as many as you like."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from deltamem_agents import arguments
from deltamem_agents.engine.generation import Cancellation, Generation, Sampling
from deltamem_agents.engine.keys import StateKey
from deltamem_agents.errors import ClosedError, ConfigError, InertAdapterError, StateMismatchError, kind_of
from deltamem_agents.memory.answering import Answer, ask, preload
from deltamem_agents.memory.async_methods import in_pool, on_cancel, transaction, twin
from deltamem_agents.memory.backbone import NO_BACKBONE
from deltamem_agents.memory.folding import Folded, state_and_key
from deltamem_agents.memory.history import History
from deltamem_agents.memory.prompting import (
    TURNS,
    check_generation,
    last_question,
    newest_that_fit,
    not_in_prompt,
    prompt_messages,
    search_size,
    split_tool_calls,
    turns_before,
    with_recall,
)
from deltamem_agents.memory.results import (
    Handover,
    Mode,
    Outdated,
    Placement,
    Recall,
    Reply,
    Usage,
    check_asked,
    check_handover,
    check_k,
    check_mode,
    check_outdated,
    check_placement,
)
from deltamem_agents.recall import Record, current, leans, recall_text, says, within_budget
from deltamem_agents.recall.budget import text_within
from deltamem_agents.recall.given import note_given
from deltamem_agents.recall.notes import as_trained
from deltamem_agents.recall.prompt import TRAINED
from deltamem_agents.store import Select, check_id, check_messages, is_select

if TYPE_CHECKING:
    from deltamem_agents.core import State

Messages = Sequence[Mapping[str, Any]]


NEWEST = 50  # entries at the end of a journal that are searched for the last turns of a session


class _Ready(NamedTuple):
    """The engine's request (prompt, state and its key), and what the reply reports about it."""

    request: tuple[list[int], State | None, StateKey | None]
    folded: Folded | None
    recalled: Recall


class AgentMemory(History):
    """The memory of one agent, made by `DeltaMem.agent`. The agent exists from its first write.

    Every method has an async twin: the same name with an ``a`` in front. Every method raises ClosedError once the
    `DeltaMem` is closed, ForkedError in a process that was forked from the one that opened it, and StoreError if the
    database cannot be read or written.
    """

    def write(self, messages: Messages, session: str = "default", *, wait: bool = True) -> list[str]:
        """Journal messages, then fold them into the state and index them.

        The messages are durable when this returns, even if folding or indexing failed: such a failure is counted in
        `DeltaMem.stats` and logged once, and the next recall makes up for it. If this raises, nothing was journalled.
        The one exception is an interrupt (Ctrl-C) while folding, whose notes name what is durable. A recall in any
        process finds the messages by their words at once.

        Args:
            messages: Mappings with ``role`` (system, user, assistant, tool) and ``content`` (text, or a list of
                blocks, whose text parts are folded), optionally ``id``, ``metadata``, ``created_at`` and ``folded``.
                ``folded=False`` keeps a message out of the state; True folds a tool's message, which is not folded by
                default. Recall finds both kinds by their text. A message whose id the session already has is skipped
                if its text is the same, and replaces the old one otherwise. Ids are unique within one session only.
            session: The conversation they belong to.
            wait: True returns after folding and indexing, done or failed. False returns as soon as the messages are
                durable; a background thread, or the next recall if that comes first, does the rest.

        Returns:
            The messages' ids, in order.

        Raises:
            InvalidMessageError: A message is empty, not text, or has an unknown role; nothing was written.
            InvalidAgentError: The session id is not valid; nothing was written.
            StoreError: The database could not be written; nothing was written.
            ClosedError: The memory was closed; nothing was written.
        """
        wait = arguments.flag(wait, "wait")
        ids = self._appended(messages, session)
        return self._caught_up(ids, session, wait)

    def write_selected(self, select: Select, session: str = "default", *, wait: bool = True) -> list[str]:
        """Write the messages that ``select`` chooses after it has seen what the session holds.

        Nobody else writes to the agent between the choice and the write. If ``select`` chooses what is missing, two
        concurrent requests with the same history write it once, whether they run in threads, tasks or processes.

        Args:
            select: Takes a `Held`, which it may query for what the session holds, and returns messages as `write` takes
                them. It runs within a transaction, so it should be quick. It may be called several times; the messages
                of the last call are written.
            session: The conversation that they belong to.
            wait: As for `write`.

        Returns:
            The ids of the messages written, in order.

        Raises:
            InvalidMessageError: A message is empty, not text, or has an unknown role; nothing was written.
            InvalidAgentError: The session id is not valid; nothing was written.
            StoreError: The database could not be read or written; nothing was written.
            ClosedError: The memory was closed; nothing was written.
            ConfigError: ``select`` is not a function.
            Exception: Whatever ``select`` raises; nothing was written.
        """
        wait = arguments.flag(wait, "wait")
        if not is_select(select):
            raise ConfigError(f"select is {kind_of(select)}; give a function of what the session holds")
        ids = self._appended(select, session)
        return self._caught_up(ids, session, wait) if ids else []

    def _appended(self, messages: Messages | Select, session: str) -> list[str]:
        self._runtime.check_open()
        with transaction() as journalled:
            ids = self._runtime.store.append(self.id, messages, session)
            journalled += ids
        return ids

    def _caught_up(self, ids: list[str], session: str, wait: bool) -> list[str]:
        """Fold and index what was journalled, now or in the background; returns ``ids``."""
        try:
            if wait:
                self._runtime.background.now(self.id)
            else:
                self._runtime.background.later(self.id)
        except BaseException as interrupt:  # Ctrl-C; all other errors are caught and counted
            interrupt.add_note(_durable(self.id, session, ids))
            raise
        return ids

    def recall(
        self,
        query: str,
        *,
        mode: Mode | str = "hybrid",
        k: int = 5,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        budget: int | None = None,
        handover: Handover | str = "context",
        outdated: Outdated | str = "omit",
        context: Sequence[str] = (),
        lean: bool = False,
        generate: bool = True,
    ) -> Recall:
        """Retrieve what memory holds for a query, and answer it from memory. Does not change the state.

        If the embedder fails, records are found by their words. If the state cannot be folded, mode "hybrid" answers
        from the records. ``notes`` of the result say so. Without a backbone there is no answer, and token counts are
        estimates.

        Args:
            query: A question, or any text whose related records you want.
            mode: "state" (the matrices alone), "vector" (records alone, with a zero state) or "hybrid" (both; records
                alone if the memory was opened without a backbone).
            k: The most records to return.
            session: Retrieve records of this session only. The state, if the mode reads it, always covers all sessions.
            since, until: Retrieve messages written at or after ``since`` and before ``until``; UTC if without a zone.
            metadata: Retrieve messages whose metadata has these values.
            budget: The most tokens that records may take, by the backbone's tokenizer; the best records are kept.
            handover: How the backbone gets the records: "context" (as text, in the prompt), "preload" (written into a
                scratch state; ``text`` then holds none) or "both".
            outdated: What to do with records that a newer one contradicts: "omit" leaves them out of ``text``, "mark"
                adds until when they held ("(until 3 May)"). ``records`` contains them either way.
            context: The turns before the query, oldest first. They are used if it depends on them ("And Germany?").
            lean: Whether to return only the records that state the answer when state and records agree on it.
            generate: Whether the backbone answers too.

        Raises:
            ConfigError: An option is unknown or out of range, or the query is not text; or mode "state" or handover
                "preload" or "both" in a memory that was opened without a backbone.
            InvalidAgentError: The session id is not valid.
            ContextLengthError: Query and records do not fit the backbone's window.
            ChatTemplateError: The backbone's chat template fails on the prompt.
            StateMismatchError: The stored state is damaged, and the mode reads it.
            InertAdapterError: The adapter wrote nothing while folding, and the mode reads the state.
            EmbedderError: The embedder's vectors do not fit the stored ones.
            EngineMemoryError: The device has too little memory for the request.
            EngineFailedError: The engine has stopped after an error of its own.
            StoreError: The database cannot be read.
            ClosedError, ForkedError: See the class.
        """
        started = time.perf_counter()
        chosen, way, old = check_mode(mode), check_handover(handover), check_outdated(outdated)
        check_k(k)
        if not isinstance(query, str):
            raise ConfigError(f"the query is {kind_of(query)}; give a string")
        query = query.encode("utf-8", "replace").decode()  # no tokenizer accepts lone surrogates
        check_asked(session, since, until, metadata, budget)
        lean, generate = arguments.flag(lean, "lean"), arguments.flag(generate, "generate")
        self._runtime.check_open()
        backbone = self._runtime.backbone
        if chosen == "state" or way != "context":
            backbone.engine(f"mode {chosen!r}" if chosen == "state" else f"handover {way!r}")
        if not self._runtime.store.knows(self.id):
            return Recall(notes=self._runtime.notes if chosen != "state" else ())
        narrowed: dict[str, Any] = {
            "session": session,
            "since": since,
            "until": until,
            "metadata": metadata,
            "context": context,
        }
        notes = list(self._runtime.notes) if chosen != "state" else []
        if not backbone.present and (generate or chosen == "hybrid"):
            notes.append(NO_BACKBONE)
        found = (
            []
            if chosen == "state"
            else self._runtime.retriever.search(self.id, query, k, **narrowed, tell=notes.append)
        )
        records = self._that_fit(found, budget, old, notes.append)
        left_out = len(found) - len(records)
        read = self._text(records, way, old)
        answer, folded = None, None
        if generate and query.strip() and backbone.present:
            folded = self._state_for(chosen, notes)
            scratch = preload(self._runtime.engine, None, _told(records, old)) if records and way != "context" else None
            answer = ask(self._runtime.engine, query, read, folded, scratch)
        if lean and answer is not None and answer.source == "both":
            records = [record for record in records if says(record.text, answer.generation.text)] or records
        guess = answer.generation.text if answer is not None and answer.source == "state" else ""
        text = self._notes([] if way == "preload" else _told(records, old), guess, budget)
        note_given(text)
        return Recall(
            text=text,
            answer=answer.text if answer else None,
            records=records,
            source=answer.source if answer else "neither",
            confidence=answer.confidence if answer else 0.0,
            usage=self._usage(started, text, answer, folded),
            left_out=left_out,
            notes=tuple(notes),
        )

    def generate(
        self,
        messages: Messages,
        *,
        mode: Mode | str = "hybrid",
        k: int = 5,
        budget: int | None = None,
        handover: Handover | str = "context",
        outdated: Outdated | str = "omit",
        placement: Placement | str = "system",
        session: str | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        truncation: bool = False,
    ) -> Reply:
        """Generate a reply to these messages with the agent's state and recalled records. Journals nothing.

        Args:
            messages: The whole prompt, as for `write`; assistant messages may carry ``tool_calls``.
            mode: As for `recall`. "vector" does not use the state; neither does "hybrid" if there are records and the
                state holds more than it can tell apart (`Calibration.full`).
            k: The most records to add to the prompt. Records that the messages already contain are not added.
            budget: The most tokens that the records may take.
            handover: How the backbone gets the records: "context" (as text in the prompt), "preload" (written into a
                scratch copy of the state, which costs no context) or "both".
            outdated: As for `recall`.
            placement: Where recalled text goes: "system" (the end of the system message) or "last_human" (the beginning
                of the newest user message).
            session: The conversation that the messages continue, if they are not all of it. A question that depends on
                the turns before it ("And Germany?") is then recalled together with this session's last turns.
            sampling: How the reply is sampled; greedy by default.
            tools: JSON schemas of the tools that the chat template shows to the model.
            truncation: Whether to drop the oldest messages if the prompt is longer than the window. The system message,
                the newest user message and the last message always stay.

        Raises:
            InvalidMessageError: There are no messages, or one cannot be rendered.
            ConfigError: An option is unknown or out of range, or the memory was opened without a backbone.
            InvalidAgentError: The session id is not valid.
            ContextLengthError: The prompt does not fit the window.
            ChatTemplateError: The backbone's chat template refuses the messages or tools, or fails.
            StateMismatchError: The stored state is damaged, and the mode reads it.
            InertAdapterError: The adapter wrote nothing while folding, and the mode reads the state.
            EmbedderError: The embedder's vectors do not fit the stored ones.
            EngineMemoryError: The device has too little memory for the request.
            EngineFailedError: The engine has stopped after an error of its own.
            StoreError: The database cannot be read.
            ClosedError, ForkedError: See the class.
        """
        started = time.perf_counter()
        check_generation(sampling, tools, budget, truncation)
        room = self._room(sampling) if truncation else None
        ready = self._prepare(messages, mode, k, budget, handover, outdated, placement, session, tools, room)
        cancellation = Cancellation()
        on_cancel(cancellation.cancel)
        generation = self._runtime.engine.generate(
            *ready.request, sampling=sampling, cancellation=cancellation
        ).result()
        return self._reply(started, generation, ready)

    def stream(
        self,
        messages: Messages,
        *,
        mode: Mode | str = "hybrid",
        k: int = 5,
        budget: int | None = None,
        handover: Handover | str = "context",
        outdated: Outdated | str = "omit",
        placement: Placement | str = "system",
        session: str | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        truncation: bool = False,
    ) -> Iterator[str | Reply]:
        """Generate as `generate` does, but yield text as it is produced, and the whole `Reply` last.

        Closing the iterator stops the generation.

        Raises:
            DeltaMemError: The errors of `generate`, when the first piece is requested or later.
        """
        started = time.perf_counter()
        check_generation(sampling, tools, budget, truncation)
        room = self._room(sampling) if truncation else None
        ready = self._prepare(messages, mode, k, budget, handover, outdated, placement, session, tools, room)
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        cancellation = Cancellation()
        future = self._runtime.engine.generate(
            *ready.request, sampling=sampling, on_text=pieces.put, cancellation=cancellation
        )
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            yield self._reply(started, future.result(), ready)
        finally:
            cancellation.cancel()

    async def astream(
        self,
        messages: Messages,
        *,
        mode: Mode | str = "hybrid",
        k: int = 5,
        budget: int | None = None,
        handover: Handover | str = "context",
        outdated: Outdated | str = "omit",
        placement: Placement | str = "system",
        session: str | None = None,
        sampling: Sampling | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        truncation: bool = False,
    ) -> AsyncIterator[str | Reply]:
        """Async twin of `stream`; never blocks the event loop."""
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        cancellation = Cancellation()

        def put(piece: str | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        def begin() -> tuple[_Ready, Future[Generation]]:
            check_generation(sampling, tools, budget, truncation)
            room = self._room(sampling) if truncation else None
            ready = self._prepare(messages, mode, k, budget, handover, outdated, placement, session, tools, room)
            future = self._runtime.engine.generate(
                *ready.request, sampling=sampling, on_text=put, cancellation=cancellation
            )
            future.add_done_callback(lambda _: put(None))
            return ready, future

        try:
            ready, future = await in_pool(self.pool, "astream", begin)
            while (piece := await pieces.get()) is not None:
                yield piece
            yield self._reply(started, await asyncio.wrap_future(future), ready)
        finally:
            cancellation.cancel()

    def chat(self, messages: Messages, session: str = "default", **options: Any) -> Reply:
        """Reply to messages with the agent's state and recalled records, then journal the messages and the reply.

        Args:
            messages: The new messages only: earlier turns come from memory.
            session: The conversation they belong to.
            options: Any option of `generate`.

        Raises:
            InvalidMessageError: A message cannot be journalled or rendered, or there are none; nothing was generated.
            InvalidAgentError: The session id is not valid; nothing was generated.
            StoreError: The database cannot be read; or the messages and the reply could not be written.
            DeltaMemError: The other errors of `generate`; nothing was journalled.
        """
        _check_chat(messages, session)
        reply = self.generate(messages, **{"session": session, **options})
        self._journal(messages, reply, session)
        return reply

    def chat_stream(
        self, messages: Messages, session: str = "default", **options: Any
    ) -> Generator[str, None, Reply | None]:
        """Chat as `chat` does, but yield the reply's text as it is produced. Closed early, it journals nothing.

        Returns:
            The whole reply, for ``reply = yield from …``.

        Raises:
            DeltaMemError: The errors of `chat`, when the first piece is requested or later.
        """
        _check_chat(messages, session)
        reply = None
        for piece in self.stream(messages, **{"session": session, **options}):
            if isinstance(piece, Reply):
                reply = piece
                self._journal(messages, reply, session)
            else:
                yield piece
        return reply

    async def achat(self, messages: Messages, session: str = "default", **options: Any) -> Reply:
        """Async twin of `chat`; never blocks the event loop. Cancelling it stops the generation."""
        return await in_pool(self.pool, "achat", partial(self.chat, messages, session, **options))

    async def achat_stream(self, messages: Messages, session: str = "default", **options: Any) -> AsyncIterator[str]:
        """Async twin of `chat_stream`; never blocks the event loop."""
        await in_pool(self.pool, "achat_stream", partial(_check_chat, messages, session))
        async for piece in self.astream(messages, **{"session": session, **options}):
            if isinstance(piece, Reply):
                await in_pool(self.pool, "achat_stream", partial(self._journal, messages, piece, session))
            else:
                yield piece

    awrite = twin(write)
    awrite_selected = twin(write_selected)
    arecall = twin(recall)
    agenerate = twin(generate)

    def _that_fit(
        self, records: list[Record], budget: int | None, old: Outdated, tell: Callable[[str], None]
    ) -> list[Record]:
        """The best records that fit the budget, and the outdated ones that are left out of the text anyway."""
        if budget is None:
            return records
        backbone, told = self._runtime.backbone, _told(records, old)
        kept = within_budget(told, budget, backbone.count, backbone.form)
        if told and not kept:
            shortest = min(told, key=lambda record: len(record.text))
            takes = backbone.count(backbone.form.text([shortest], ""))
            tell(
                f"{len(told)} record{'s were' if len(told) > 1 else ' was'} found, and the budget of {budget} tokens "
                f"has room for none: the shortest takes {takes}"
            )
        return [record for record in records if record in kept or (record.outdated and old == "omit")]

    def _notes(self, records: Sequence[Record], guess: str, budget: int | None) -> str:
        """Records as text for a prompt of any model, with what only the state says; what fits the budget."""
        if budget is None:
            return recall_text(records, guess)
        return text_within(records, budget, self._runtime.backbone.count, guess)[0]

    def _text(self, records: Sequence[Record], way: Handover, old: Outdated) -> str:
        """The text of the records for a prompt of the backbone; empty if they are preloaded."""
        return "" if way == "preload" else self._runtime.backbone.form.text(_told(records, old), "")

    def _prepare(
        self,
        messages: Messages,
        mode: Mode | str,
        k: int,
        budget: int | None,
        handover: Handover | str,
        outdated: Outdated | str,
        placement: Placement | str,
        session: str | None,
        tools: Sequence[Mapping[str, Any]] | None,
        room: int | None,
    ) -> _Ready:
        """The prompt's tokens, the state, and what was recalled; drops old messages to stay within ``room`` tokens."""
        engine = self._runtime.backbone.engine("a reply")
        plain = prompt_messages(messages)
        if self._runtime.backbone.form is TRAINED:  # notes that another of our classes put there
            plain = [each | {"content": as_trained(each["content"])} for each in plain]
        check_k(k)
        way = check_handover(handover)
        old, place = check_outdated(outdated), check_placement(placement)
        given = [(session, each["id"]) for each in messages if isinstance(each.get("id"), str)]
        before = turns_before(plain) or self._turns_before(last_question(plain), session)
        search = partial(self._new_records, plain, given, mode, k, budget, way, old, before)
        recalled = Recall() if check_mode(mode) == "state" else search()
        self._runtime.check_open()

        def render(chosen: Sequence[dict[str, Any]]) -> list[int]:
            return engine.rendering.prompt(with_recall(chosen, recalled.text, place), tools)

        prompt = render(plain)
        if room is not None and len(prompt) > room:
            prompt = render(newest_that_fit(plain, lambda chosen: len(render(chosen)) <= room))
        notes = list(recalled.notes)
        folded = self._state_for(check_mode(mode), notes)
        recalled = replace(recalled, notes=tuple(notes))
        if folded is not None and recalled.records and self._is_full(folded):
            folded = None
        state, key = state_and_key(folded)
        if recalled.records and way != "context":
            state, key = preload(engine, state, _told(recalled.records, old)), None
        return _Ready((prompt, state, key), folded, recalled)

    def _state_for(self, mode: Mode, notes: list[str]) -> Folded | None:
        """The state that a mode reads. In mode "hybrid", None and a note that says why if it cannot be folded.

        Raises:
            StateMismatchError, InertAdapterError: The stored state or the adapter is damaged, and the mode reads it.
            ClosedError: The memory is closed, or being closed.
            Exception: Mode "state", and the state cannot be folded.
        """
        if mode == "vector":
            return None
        try:
            folded = self._runtime.folder.current(self.id)
        except (StateMismatchError, InertAdapterError, ClosedError):
            raise
        except Exception as error:  # whatever a model, a device or a database may raise
            told = self._runtime.failures.failed("folding", self.id, error)
            if mode == "state":
                raise
            notes.append(f"without the state, which could not be folded: {told}")
            return None
        self._runtime.failures.succeeded("folding", self.id)
        return folded

    def _is_full(self, folded: Folded) -> bool:
        """Whether a state holds more than it can tell apart, so that records are read better without it."""
        full = self._runtime.engine.calibration.full
        return full is not None and self._runtime.engine.norm(folded.state) > full

    def _turns_before(self, question: str, session: str | None) -> list[str]:
        """The last turns of a session if a question depends on them; else none."""
        version = self._runtime.store.version(self.id) if session is not None and leans(question) else None
        if version is None:
            return []
        newest = self._runtime.store.live(self.id, max(0, version[1] - NEWEST), session)
        return [entry.text for entry in newest if entry.role in ("user", "assistant")][-TURNS:]

    def _new_records(
        self,
        prompt: Sequence[dict[str, Any]],
        given: Sequence[tuple[str | None, str]],
        mode: Mode | str,
        k: int,
        budget: int | None,
        way: Handover,
        old: Outdated,
        before: Sequence[str],
    ) -> Recall:
        """Records for the prompt's question, without those that the prompt already contains.

        Args:
            given: Session and id of the prompt's messages, as far as known.
        """
        said = [message["content"] for message in prompt]
        asked = last_question(prompt)
        found = self.recall(asked, mode=mode, k=search_size(k, said), context=before, generate=False)
        notes, new = list(found.notes), not_in_prompt(found.records, said, given)[:k]
        records = self._that_fit(new, budget, old, notes.append)
        text = self._text(records, way, old)
        usage = replace(found.usage, context_tokens=self._runtime.backbone.count(text))
        left_out = len(new) - len(records)
        return replace(found, text=text, records=records, usage=usage, left_out=left_out, notes=tuple(notes))

    def _room(self, sampling: Sampling | None) -> int:
        """The most tokens that a prompt may have."""
        return self._runtime.backbone.engine("a reply").window - (sampling or Sampling()).max_tokens

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
        )

    def _journal(self, messages: Messages, reply: Reply, session: str) -> None:
        """Journal the messages and the reply; metadata marks a cut-off reply as OpenAI's API does."""
        said = {"role": "assistant", "content": reply.text}
        cut = {} if reply.finished else {"metadata": {"finish_reason": "length"}}
        self.write([*messages, *([said | cut] if reply.text.strip() else [])], session)

    def _usage(self, started: float, text: str, answer: Answer | None, folded: Folded | None) -> Usage:
        generation = answer.generation if answer else None
        return Usage(
            context_tokens=self._runtime.backbone.count(text),
            prompt_tokens=answer.prompt_tokens if answer else 0,
            answer_tokens=len(generation.ids) if generation else 0,
            state_bytes=self._runtime.backbone.state_bytes if folded else 0,
            first_token_seconds=generation.first_token_seconds if generation else None,
            tokens_per_second=generation.tokens_per_second if generation else None,
            seconds=time.perf_counter() - started,
        )


def _durable(agent: str, session: str, ids: Sequence[str]) -> str:
    """The note on an interrupt that came after the journal's commit."""
    one = len(ids) == 1
    named = f" (id {ids[0]})" if one else f" (ids {ids[0]} to {ids[-1]})" if ids else ""
    return (
        f"{len(ids)} message{'' if one else 's'} of agent {agent!r} in session {session!r}{named} "
        f"{'is' if one else 'are'} journalled: do not write {'it' if one else 'them'} again; recall folds the rest"
    )


def _check_chat(messages: Messages, session: str) -> None:
    """Raise for messages that could not be journalled, before a reply is generated."""
    check_messages(messages)
    check_id(session, "session")


def _told(records: Sequence[Record], old: Outdated) -> Sequence[Record]:
    """The records that go into the prompt."""
    return current(records) if old == "omit" else records
