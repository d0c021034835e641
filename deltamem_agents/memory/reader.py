"""`Reader`: retrieves an agent's records, reads its state, and answers from both."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

from deltamem_agents import arguments, telemetry
from deltamem_agents.errors import ClosedError, ConfigError, InertAdapterError, StateMismatchError, kind_of
from deltamem_agents.memory.answering import Answer, ask, preload
from deltamem_agents.memory.async_methods import Steps
from deltamem_agents.memory.backbone import NO_BACKBONE
from deltamem_agents.memory.folding import Folded
from deltamem_agents.memory.options import RecallOptions
from deltamem_agents.memory.prompting import last_question, not_in_prompt, search_size
from deltamem_agents.memory.results import Recall, Usage
from deltamem_agents.memory.runtime import Runtime
from deltamem_agents.recall import Record, current, recall_text, says, within_budget
from deltamem_agents.recall.budget import text_within
from deltamem_agents.recall.given import note_given


class Reader:
    """Reads the memory of one agent; see `AgentMemory.recall`."""

    def __init__(self, runtime: Runtime, agent: str) -> None:
        self._runtime = runtime
        self._agent = agent

    def recall(
        self,
        query: str,
        options: RecallOptions,
        *,
        session: str | None = None,
        context: Sequence[str] = (),
        lean: bool = False,
        generate: bool = True,
    ) -> Steps[Recall]:
        """Retrieve what memory holds for a query, and answer it from memory."""
        if not isinstance(query, str):
            raise ConfigError(f"the query is {kind_of(query)}; give a string")
        steps = self._recall(query, options, session, context, lean, generate)
        return telemetry.searched(self._agent, query, session, steps)

    def _recall(
        self,
        query: str,
        options: RecallOptions,
        session: str | None,
        context: Sequence[str],
        lean: bool,
        generate: bool,
    ) -> Steps[Recall]:
        started = time.perf_counter()
        query = query.encode("utf-8", "replace").decode()  # no tokenizer accepts lone surrogates
        if session is not None:
            arguments.identifier(session, "session")
        lean, generate = arguments.flag(lean, "lean"), arguments.flag(generate, "generate")
        self._runtime.check_open()
        backbone, mode, handover = self._runtime.backbone, options.mode, options.handover
        if mode == "state" or handover != "context":
            backbone.engine(f"mode {mode!r}" if mode == "state" else f"handover {handover!r}")
        notes = list(self._runtime.notes) if mode != "state" else []
        if not self._runtime.store.knows(self._agent):
            return Recall(notes=tuple(notes))
        if not backbone.present and (generate or mode == "hybrid"):
            notes.append(NO_BACKBONE)
        found = self._found(query, options, session, context, notes.append)
        records = self._that_fit(found, options, notes.append)
        left_out = len(found) - len(records)
        answer, folded = None, None
        if generate and query.strip() and backbone.present:
            folded = self.state(options, notes)
            scratch = None
            if records and handover != "context":
                scratch = yield from preload(self._runtime.engine, None, handed_over(records, options))
            answer = yield from ask(self._runtime.engine, query, self._text(records, options), folded, scratch)
        if lean and answer is not None and answer.source == "both":
            records = [record for record in records if says(record.text, answer.generation.text)] or records
        text = self._notes(records, answer, options)
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

    def for_prompt(
        self,
        prompt: Sequence[dict[str, Any]],
        options: RecallOptions,
        given: Collection[tuple[str | None, str]],
        context: Sequence[str],
    ) -> Steps[Recall]:
        """Retrieve records for a prompt's question, without those that the prompt already contains.

        Args:
            given: Session and id of the prompt's messages, as far as known.
            context: The turns before the question, oldest first.
        """
        said = [message["content"] for message in prompt]
        wide = replace(options, k=search_size(options.k, said), budget=None, handover="context", outdated="omit")
        found = yield from self.recall(last_question(prompt), wide, context=context, generate=False)
        notes, new = list(found.notes), not_in_prompt(found.records, said, given)[: options.k]
        records = self._that_fit(new, options, notes.append)
        text = self._text(records, options)
        usage = replace(found.usage, context_tokens=self._runtime.backbone.count(text))
        left_out = len(new) - len(records)
        return replace(found, text=text, records=records, usage=usage, left_out=left_out, notes=tuple(notes))

    def state(self, options: RecallOptions, notes: list[str]) -> Folded | None:
        """The state that the mode reads. In mode "hybrid", None and a note that says why if it cannot be folded.

        Raises:
            StateMismatchError, InertAdapterError: The stored state or the adapter is damaged, and the mode reads it.
            ClosedError: The memory is closed, or being closed.
            Exception: Mode "state", and the state cannot be folded.
        """
        if options.mode == "vector":
            return None
        try:
            folded = self._runtime.folder.current(self._agent)
        except (StateMismatchError, InertAdapterError, ClosedError):
            raise
        except Exception as error:  # whatever a model, a device or a database may raise
            told = self._runtime.failures.failed("folding", self._agent, error)
            if options.mode == "state":
                raise
            notes.append(f"without the state, which could not be folded: {told}")
            return None
        self._runtime.failures.succeeded("folding", self._agent)
        return folded

    def _found(
        self,
        query: str,
        options: RecallOptions,
        session: str | None,
        context: Sequence[str],
        tell: Callable[[str], None],
    ) -> list[Record]:
        if options.mode == "state":
            return []
        search = self._runtime.retriever.search
        return search(
            self._agent,
            query,
            options.k,
            session=session,
            since=options.since,
            until=options.until,
            metadata=options.metadata,
            context=context,
            tell=tell,
        )

    def _that_fit(self, records: list[Record], options: RecallOptions, tell: Callable[[str], None]) -> list[Record]:
        """The best records that fit the budget, and the outdated ones that are left out of the text anyway."""
        budget = options.budget
        if budget is None:
            return records
        backbone, told = self._runtime.backbone, handed_over(records, options)
        kept = within_budget(told, budget, backbone.count, backbone.form)
        if told and not kept:
            shortest = min(told, key=lambda record: len(record.text))
            takes = backbone.count(backbone.form.text([shortest], ""))
            tell(
                f"{len(told)} record{'s were' if len(told) > 1 else ' was'} found, but the budget of {budget} tokens "
                f"has room for none: the shortest takes {takes}"
            )
        return [record for record in records if record in kept or (record.outdated and options.outdated == "omit")]

    def _text(self, records: Sequence[Record], options: RecallOptions) -> str:
        """The text of the records for a prompt of the backbone; empty if they are preloaded."""
        if options.handover == "preload":
            return ""
        return self._runtime.backbone.form.text(handed_over(records, options), "")

    def _notes(self, records: Sequence[Record], answer: Answer | None, options: RecallOptions) -> str:
        """Records as text for a prompt of any model, with what only the state says; what fits the budget."""
        told = [] if options.handover == "preload" else handed_over(records, options)
        guess = answer.generation.text if answer is not None and answer.source == "state" else ""
        if options.budget is None:
            return recall_text(told, guess)
        return text_within(told, options.budget, self._runtime.backbone.count, guess)[0]

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


def handed_over(records: Sequence[Record], options: RecallOptions) -> Sequence[Record]:
    """The records that go into a prompt or a scratch state."""
    return current(records) if options.outdated == "omit" else records
