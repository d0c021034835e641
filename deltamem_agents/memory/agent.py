"""`AgentMemory`: a cheap handle on one agent's memory. It holds no data; make as many as you like."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Generator, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Unpack

from deltamem_agents.errors import ConfigError, kind_of
from deltamem_agents.memory.async_methods import Steps, stepped, twin
from deltamem_agents.memory.background import CallPool
from deltamem_agents.memory.history import History
from deltamem_agents.memory.journalling import Messages, Writer
from deltamem_agents.memory.options import RecallFields, RecallOptions, ReplyFields, ReplyOptions
from deltamem_agents.memory.reader import Reader
from deltamem_agents.memory.responder import Responder
from deltamem_agents.memory.results import Difference, Drift, Health, Recall, Receipt, Reply, StatePoint
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.recall import Record
from deltamem_agents.store import Entry, Select, Selection, is_select

if TYPE_CHECKING:
    from deltamem_agents.core import State


class AgentMemory:
    """The memory of one agent, made by `DeltaMem.agent`. The agent exists from its first write.

    Every method has an async twin: the same name with an ``a`` in front. Every method raises ClosedError once the
    `DeltaMem` is closed, ForkedError in a process that was forked from the one that opened it, and StoreError if the
    database cannot be read or written. A method that raises has written nothing, unless it says otherwise.

    A method that folds messages or reads the state also raises the *errors of folding*: ConfigError if the memory was
    opened without a backbone, StateMismatchError if a stored state is damaged (see `rebuild`), InertAdapterError if the
    adapter wrote nothing, EngineMemoryError if the device has too little memory, and EngineFailedError if the engine
    has stopped after an error of its own. One that asks the backbone raises the *errors of prompting*:
    ContextLengthError if the prompt does not fit the window, ChatTemplateError if the chat template refuses it or
    fails, and EmbedderError if the embedder's vectors do not fit the stored ones.
    """

    def __init__(self, runtime: Runtime, agent_id: str) -> None:
        self.id = agent_id
        self._runtime = runtime
        self._writer = Writer(runtime, agent_id)
        self._reader = Reader(runtime, agent_id)
        self._responder = Responder(runtime, agent_id, self._reader, self._writer)
        self._history = History(runtime, agent_id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self._runtime.store.url})"

    @property
    def pool(self) -> CallPool:
        """The threads that the async twins run in."""
        self._runtime.check_open()
        return self._runtime.pool

    def write(self, messages: Messages, session: str = "default", *, wait: bool = True) -> list[str]:
        """Journal messages, then fold them into the state and index them.

        The messages are durable when this returns, even if folding or indexing failed: such a failure is counted in
        `DeltaMem.stats` and logged once, and the next recall makes up for it. An interrupt (Ctrl-C) while folding has
        notes that name what is durable. A recall in any process finds the messages by their words at once.

        Args:
            messages: Mappings with ``role`` (system, user, assistant, tool) and ``content`` (text, or a list of
                blocks, whose text parts are folded), optionally ``id``, ``metadata``, ``created_at``, ``folded``, and
                ``tool_calls``, ``tool_call_id`` and ``name`` as OpenAI's API has them. Calls become blocks, which are
                not folded; the other two become metadata. ``folded=False`` keeps a message out of the state; True folds
                a tool's message, which is not folded by default. Recall finds both kinds by their text. A message whose
                id the session already has is skipped if its text is the same, and replaces the old one otherwise. Ids
                are unique within one session only.
            session: The conversation they belong to.
            wait: True returns after folding and indexing, done or failed. False returns as soon as the messages are
                durable; a background thread, or the next recall if that comes first, does the rest.

        Returns:
            The messages' ids, in order.

        Raises:
            InvalidMessageError: A message is empty, not text, or has an unknown role.
            InvalidAgentError: The session id is not valid.
        """
        return self._writer.write(messages, session, wait=wait)

    def write_selected(self, select: Select, session: str = "default", *, wait: bool = True) -> list[str]:
        """Write the messages that ``select`` chooses after it has seen what the session holds.

        Nobody else writes to the agent between the choice and the write. If ``select`` chooses what is missing, two
        concurrent requests with one history write it once, in threads, tasks or processes.

        Args:
            select: Takes a `MessageLookup`, which it may query for what the session holds, and returns messages as
                `write` takes them. It runs within a transaction, so it should be quick. It may be called several times;
                the messages of the last call are written.
            session: The conversation that they belong to.
            wait: As for `write`.

        Returns:
            The ids of the messages written, in order.

        Raises:
            ConfigError: ``select`` is not a function.
            InvalidMessageError, InvalidAgentError: As for `write`.
            Exception: Whatever ``select`` raises.
        """
        if not is_select(select):
            raise ConfigError(f"select is {kind_of(select)}; give a function of what the session holds")
        return self._writer.write(select, session, wait=wait)

    @stepped
    def recall(
        self,
        query: str,
        *,
        session: str | None = None,
        context: Sequence[str] = (),
        lean: bool = False,
        generate: bool = True,
        options: RecallOptions | None = None,
        **changes: Unpack[RecallFields],
    ) -> Steps[Recall]:
        """Retrieve what memory holds for a query, and answer it from memory. Does not change the state.

        If the embedder fails, records are found by their words. If the state cannot be folded, mode "hybrid" answers
        from the records. ``notes`` of the result say so. Without a backbone there is no answer, and token counts are
        estimates.

        Args:
            query: A question, or any text whose related records you want.
            session: Retrieve records of this session only. The state, if the mode reads it, always covers all sessions.
            context: The turns before the query, oldest first. They are used if it depends on them ("And Germany?").
            lean: Whether to return only the records that state the answer when state and records agree on it.
            generate: Whether the backbone answers too.
            options: See `RecallOptions`.
            changes: Fields of `RecallOptions` that differ from ``options``, such as ``mode="vector"`` or ``k=3``.

        Raises:
            ConfigError: An option is unknown or out of range, or the query is not text; or mode "state" or handover
                "preload" or "both" in a memory that was opened without a backbone.
            InvalidAgentError: The session id is not valid.
            DeltaMemError: The errors of prompting, and those of folding if the mode reads the state.
        """
        asked = RecallOptions.of(options, **changes)
        return self._reader.recall(query, asked, session=session, context=context, lean=lean, generate=generate)

    @stepped
    def generate(
        self, messages: Messages, *, session: str | None = None, **options: Unpack[ReplyFields]
    ) -> Steps[Reply]:
        """Generate a reply to these messages with the agent's state and recalled records. Journals nothing.

        Mode "hybrid" does not use the state if there are records and it holds more than it can tell apart
        (`Calibration.full`). Records that the messages already contain are not added.

        Args:
            messages: The whole prompt, as for `write`; assistant messages may carry ``tool_calls``.
            session: The conversation that the messages continue. A question that depends on the turns before it ("And
                Germany?") is then recalled together with this session's last turns.
            options: ``sampling``: how the reply is sampled, greedy by default (`Sampling`). ``tools``: JSON schemas of
                the tools that the chat template shows to the model. ``truncation``: whether to drop the oldest messages
                if the prompt is longer than the window; the system message, the newest user message and the last
                message always stay. ``options``: `RecallOptions`; or any of its fields, such as ``k=3``.

        Raises:
            InvalidMessageError: There are no messages, or one cannot be rendered.
            ConfigError: An option is unknown or out of range, or the memory was opened without a backbone.
            InvalidAgentError: The session id is not valid.
            DeltaMemError: The errors of prompting, and those of folding if the mode reads the state.
        """
        return self._responder.generate(messages, ReplyOptions.of(session, **options))

    def stream(
        self, messages: Messages, *, session: str | None = None, **options: Unpack[ReplyFields]
    ) -> Iterator[str | Reply]:
        """Generate as `generate` does, but yield text as it is produced, and the whole `Reply` last.

        Raises:
            DeltaMemError: The errors of `generate`, when the first piece is requested or later.
        """
        return self._responder.stream(messages, session, options)

    def astream(
        self, messages: Messages, *, session: str | None = None, **options: Unpack[ReplyFields]
    ) -> AsyncIterator[str | Reply]:
        """Async twin of `stream`; never blocks the event loop."""
        return self._responder.astream(messages, session, options)

    @stepped
    def chat(self, messages: Messages, session: str = "default", **options: Unpack[ReplyFields]) -> Steps[Reply]:
        """Reply to messages with the agent's state and recalled records, then journal the messages and the reply.

        Args:
            messages: The new messages only: earlier turns come from memory. Assistant messages may carry
                ``tool_calls``. Calls of tools are journalled as blocks, of a long result its beginning and end; neither
                is folded.
            session: The conversation they belong to.
            options: As for `generate`.

        Raises:
            InvalidMessageError: A message cannot be journalled or rendered, or there are none.
            DeltaMemError: The other errors of `generate`.
        """
        return self._responder.chat(messages, session, options)

    def chat_stream(
        self, messages: Messages, session: str = "default", **options: Unpack[ReplyFields]
    ) -> Generator[str, None, Reply | None]:
        """Chat as `chat` does, but yield the reply's text as it is produced. Closed early, it journals nothing.

        Returns:
            The whole reply, for ``reply = yield from …``.

        Raises:
            DeltaMemError: The errors of `chat`, when the first piece is requested or later.
        """
        return self._responder.chat_stream(messages, session, options)

    def achat_stream(
        self, messages: Messages, session: str = "default", **options: Unpack[ReplyFields]
    ) -> AsyncIterator[str]:
        """Async twin of `chat_stream`; never blocks the event loop."""
        return self._responder.achat_stream(messages, session, options)

    def log(self, session: str | None = None, *, at: int | None = None) -> list[Entry]:
        """The live messages, in order; empty for an unknown agent.

        Args:
            session: Only messages of this session.
            at: The messages that were live when the journal ended at this position.

        Raises:
            ConfigError: The journal has no such position.
            InvalidAgentError: The session id is not valid.
        """
        return self._history.log(session, at)

    def neighbours(self, record: Record, reach: int = 2) -> list[Entry]:
        """The messages around a record's message in its session, with that message, oldest first; none if it is gone.

        Args:
            reach: How many messages on each side.

        Raises:
            ConfigError: ``record`` is not a `Record`, or ``reach`` is not a number of messages.
        """
        return self._history.neighbours(record, reach)

    def sessions(self) -> list[str]:
        """The sessions that have live messages, in the order in which they began."""
        return self._history.sessions()

    def state(self, *, at: int | None = None) -> State:
        """The agent's state: module name to float32 tensor [R, R] or [H, R, R]; empty for an unknown agent.

        Args:
            at: The state of the journal as it was when it ended at this position.

        Raises:
            ConfigError: The journal has no such position.
            DeltaMemError: The errors of folding.
        """
        return self._history.state(at)

    def rebuild(self) -> State:
        """Delete the stored states, fold the whole journal again, and return the new state.

        Raises:
            DeltaMemError: The errors of folding; the stored states are deleted all the same.
        """
        return self._history.rebuild()

    def verify(self) -> Drift:
        """Compare the state in use with a fresh fold of the whole journal.

        Raises:
            DeltaMemError: The errors of folding.
        """
        return self._history.verify()

    def diff(self, a: int, b: int | None = None) -> Difference:
        """What changed between two positions of the journal, and in the states if there is a backbone.

        Args:
            b: The second position, by default the journal's end; it may be smaller than ``a``.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The journal has no such position.
            DeltaMemError: The errors of folding.
        """
        return self._history.diff(a, b)

    def health(self, *, examine: bool = False) -> Health:
        """What is journalled, folded and stored of this agent, and how well its newest stored state holds it.

        Args:
            examine: Whether to fold the whole journal again for figures that need it, and for the drift.

        Raises:
            DeltaMemError: The errors of folding, with ``examine``.
        """
        return self._history.health(examine)

    def trend(self, points: int = 60) -> list[StatePoint]:
        """At most ``points`` (2 to 1000) of the stored states, evenly chosen, oldest first; raises as `state` does."""
        return self._history.trend(points)

    def fork(self, new: str) -> AgentMemory:
        """Create another agent with the same journal and states, independent from then on, and return its memory.

        Args:
            new: Id of the new agent.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            InvalidAgentError: The new id is not valid.
            ConfigError: The new agent exists already.
        """
        self._history.fork(new)
        return type(self)(self._runtime, new)

    def rollback(self, position: int) -> int:
        """Continue the journal from ``position``. Later messages are no longer live, but they are not erased.

        Returns:
            The position of the rollback, which is a journal entry itself; rolling back to the entry before it undoes
            it. If the rollback changes nothing, no entry is made and this is the journal's end.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: The journal has no such position.
        """
        return self._history.rollback(position)

    def erase(
        self,
        *,
        ids: Collection[str | tuple[str, str]] | None = None,
        session: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        forks: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        tombstone: bool = True,
    ) -> Receipt:
        """Erase messages and all data derived from them, as if the agent had never seen them.

        Only messages that match every filter are erased, live or not. A message that an erased one had replaced is live
        again.

        Args:
            ids, session, since, until: Which messages; see `Selection`.
            forks: Whether to erase the messages from agents that share them by forking, too; by default the receipt
                lists these agents.
            dry_run: Only report what would be erased.
            wait: Whether to fold what is left now. If not, the next use does, and the receipt has no hash of the new
                state.
            tombstone: Whether to keep a hash of each message, under a key of the agent's own. It keeps an integration
                whose client resends its history from bringing the messages back; `write` ignores it. The receipt's
                ``remaining`` lists them. False also removes the hashes of earlier erasures of these ids or session.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
            ConfigError: No filter was given, a filter is not valid, or several sessions have an id.
        """
        chosen = Selection(ids=ids, session=session, since=since, until=until)
        return self._history.erase(chosen, forks=forks, dry_run=dry_run, wait=wait, tombstone=tombstone)

    def delete(self, *, forks: bool = False, dry_run: bool = False) -> Receipt:
        """Erase the whole agent: its messages, the agent itself, and the hashes of erased messages with their key.

        Args:
            forks, dry_run: As for `erase`. Agents that share its messages stay, with hashes of them if ``forks``.

        Raises:
            UnknownAgentError: Nothing was ever written to this agent.
        """
        return self._history.erase(Selection(whole=True), forks=forks, dry_run=dry_run)

    awrite = twin(write)
    awrite_selected = twin(write_selected)
    arecall = twin(recall)
    agenerate = twin(generate)
    achat = twin(chat)
    alog = twin(log)
    aneighbours = twin(neighbours)
    asessions = twin(sessions)
    astate = twin(state)
    arebuild = twin(rebuild)
    averify = twin(verify)
    adiff = twin(diff)
    ahealth = twin(health)
    atrend = twin(trend)
    afork = twin(fork)
    arollback = twin(rollback)
    aerase = twin(erase)
    adelete = twin(delete)
