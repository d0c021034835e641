"""Random interleavings of all that changes a journal, against a plain model in memory.

The model keeps every entry and replays them: it knows nothing of `left_at`, paths or epochs. Revisions are digests of
the texts they stand for, so that one which survives what it should not is seen.
"""

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import Engine, StaticPool, create_engine, delete

from deltamem_agents.errors import ConfigError, UnknownAgentError
from deltamem_agents.store import Revision, Selection, Store
from deltamem_agents.store.schema import Base

AGENTS = ["alice", "bob", "carol"]
WORDS = ["apple", "banana", "cherry", "猫が"]
SESSIONS = ["s1", "s2"]
Live = dict[tuple[str, str], tuple[int, str]]  # session and id -> position, text


class Journal:
    """An agent's entries: messages (id, text, session) and rollbacks (target), by position."""

    def __init__(self, of: "Journal | None" = None) -> None:
        self.entries: dict[int, Any] = dict(of.entries) if of else {}
        self.head = of.head if of else 0
        self.family: object = of.family if of else self  # shared by forks

    def at(self, position: int) -> Live:
        """What was live when the journal ended there, by going back entry by entry."""
        path: list[int] = []
        while position > 0:
            entry = self.entries.get(position)
            if isinstance(entry, int):
                position = entry
            else:
                if entry is not None:
                    path.append(position)
                position -= 1
        live: Live = {}
        for each in reversed(path):
            message_id, text, session = self.entries[each]
            live[session, message_id] = (each, text)
        return live

    def messages(self) -> list[tuple[int, tuple[str, str, str]]]:
        return [(position, entry) for position, entry in self.entries.items() if not isinstance(entry, int)]

    def live(self) -> list[tuple[int, str, str, str]]:
        return sorted((at, name, text, session) for (session, name), (at, text) in self.at(self.head).items())

    def digest(self, position: int) -> bytes:
        return digest([text for at, _, text, _ in self.live() if at <= position])


def digest(texts: list[str]) -> bytes:
    return sha256("\n".join(texts).encode()).digest()


REFS = st.tuples(st.sampled_from(SESSIONS), st.sampled_from("abc"))
KNOWN = st.integers(0, len(AGENTS) - 1)  # one of the agents there are


class Machine(RuleBasedStateMachine):
    engine: Engine

    def __init__(self) -> None:
        super().__init__()
        self.store = Store.open(engine=self.engine)
        with self.engine.begin() as connection:
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(delete(table))
        self.journals: dict[str, Journal] = {}
        self.folds: list[tuple[str, Revision, int]] = []  # under way in some process

    @rule(
        agent=st.sampled_from(AGENTS),
        session=st.sampled_from(SESSIONS),
        messages=st.lists(
            st.tuples(st.sampled_from(["a", "b", "c", None]), st.sampled_from(WORDS)), min_size=1, max_size=4
        ),
    )
    def write(self, agent: str, session: str, messages: list[tuple[str | None, str]]) -> None:
        ids = self.store.append(agent, [message(name, text) for name, text in messages], session)
        journal = self.journals.setdefault(agent, Journal())
        for (_, text), name in zip(messages, ids, strict=True):
            if journal.at(journal.head).get((session, name), (0, None))[1] != text:
                journal.head += 1
                journal.entries[journal.head] = (name, text, session)

    @rule(agent=KNOWN, new=st.sampled_from(AGENTS))
    @precondition(lambda self: self.journals)
    def fork(self, agent: int, new: str) -> None:
        name = self.known(agent)
        if new in self.journals:
            with pytest.raises(ConfigError):
                self.store.fork(name, new)
        else:
            self.store.fork(name, new)
            self.journals[new] = Journal(self.journals[name])

    def known(self, number: int) -> str:
        return sorted(self.journals)[number % len(self.journals)]

    @rule(agent=KNOWN, back=st.integers(1, 6))
    @precondition(lambda self: self.journals)
    def rollback(self, agent: int, back: int) -> None:
        name = self.known(agent)
        journal = self.journals[name]
        target = max(0, journal.head - back)
        entry = self.store.rollback(name, target)
        if journal.at(target) != journal.at(journal.head):
            journal.head += 1
            journal.entries[journal.head] = target
        assert entry == journal.head

    @rule(
        number=KNOWN,
        ids=st.none() | st.lists(st.sampled_from("abc") | REFS, min_size=1, max_size=2),
        session=st.none() | st.sampled_from(SESSIONS),
        forks=st.booleans(),
        dry=st.booleans(),
    )
    @precondition(lambda self: self.journals)
    def erase(
        self, number: int, ids: list[str | tuple[str, str]] | None, session: str | None, forks: bool, dry: bool
    ) -> None:
        agent = self.known(number)
        if ids is None and session is None:
            ids = ["a"]
        journal = self.journals[agent]
        if session is None and any(len(self.sessions(agent, each)) > 1 for each in ids or () if isinstance(each, str)):
            with pytest.raises(ConfigError, match="is in 2 sessions: 's1', 's2'"):
                self.store.erase(agent, Selection(ids=ids), forks=forks, dry_run=dry)
            return
        gone = {
            agent: [
                position
                for position, (name, _, where) in journal.messages()
                if (ids is None or name in ids or (where, name) in ids) and (session is None or where == session)
            ]
        }
        said = {journal.entries[position] for position in gone[agent]}
        for other, theirs in self.journals.items():
            shared = [position for position, entry in theirs.messages() if entry in said]
            if other != agent and theirs.family is journal.family and shared:
                gone[other] = shared
        states, records = self.counts(self.store.states.revisions), self.counts(self.store.records.read)
        plan = self.store.erase(agent, Selection(ids=ids, session=session), forks=forks, dry_run=dry)
        assert set(plan.held_by) == (set() if forks else gone.keys() - {agent})
        assert {each.agent for each in plan.erased} == (gone.keys() if forks else {agent})
        for each in plan.erased:
            assert each.messages == len(gone[each.agent])
            entries = self.journals[each.agent].entries
            assert set(each.ids) == {(entries[at][2], entries[at][0]) for at in gone[each.agent]}
            if not dry:
                live = {at for at, *_ in self.journals[each.agent].live()}
                assert each.records == len(live.intersection(gone[each.agent])) <= records[each.agent]
                assert each.revisions == states[each.agent] - len(self.store.states.revisions(each.agent))
                for position in gone[each.agent]:
                    del self.journals[each.agent].entries[position]

    def sessions(self, agent: str, name: str) -> set[str]:
        """Those that ever had a message of this id."""
        return {where for _, (each, _, where) in self.journals[agent].messages() if each == name}

    def counts(self, of: Callable[[str], list[Any]]) -> dict[str, int]:
        return {agent: len(of(agent)) for agent in self.journals}

    @rule(agent=st.sampled_from(AGENTS))
    def delete(self, agent: str) -> None:
        if self.journals.pop(agent, None) is not None:
            self.store.erase(agent, Selection(whole=True))

    @rule(agent=KNOWN, at=st.integers(0, 9), late=st.sampled_from([False, False, True]))
    @precondition(lambda self: self.journals)
    def fold(self, agent: int, at: int, late: bool) -> None:
        """Commit a state of some position, or keep it until other things have happened."""
        name = self.known(agent)
        info, live = self.store.agent(name), self.store.live(name)
        assert info is not None
        if live:
            done = at % len(live) + 1
            state = digest([entry.text for entry in live[:done]])
            revision = Revision(position=live[done - 1].position, epoch=info.epoch, fingerprint="f", state=state)
            if late:
                self.folds.append((name, revision, 0))
            else:
                newest = self.store.states.newest(name, "f", revision.position - 1)
                self.store.states.commit(name, revision, after=newest.position if newest else 0)

    @rule(which=st.integers(0, 9))
    @precondition(lambda self: self.folds)
    def end_fold(self, which: int) -> None:
        agent, revision, after = self.folds.pop(which % len(self.folds))
        if agent not in self.journals:
            with pytest.raises(UnknownAgentError):
                self.store.states.commit(agent, revision, after=after)
        elif revision.position > self.journals[agent].head:  # of an agent of that name before
            with pytest.raises(ConfigError):
                self.store.states.commit(agent, revision, after=after)
        else:
            self.store.states.commit(agent, revision, after=after)

    @rule()
    def reopen(self) -> None:
        """As after a crash: the store is not closed."""
        self.store = Store.open(engine=self.engine)

    @invariant()
    def agents_agree(self) -> None:
        found = {info.id: (info.position, info.messages) for info in self.store.agents()}
        assert found == {name: (journal.head, len(journal.live())) for name, journal in self.journals.items()}

    @invariant()
    def what_is_live_agrees(self) -> None:
        for agent, journal in self.journals.items():
            live = journal.live()
            entries = self.store.live(agent)
            assert [(entry.position, entry.id, entry.text, entry.session) for entry in entries] == live
            records = [(record.position, record.text) for record in self.store.records.read(agent)]
            assert records == [(at, text) for at, _, text, _ in live]
            for word in WORDS:
                hits = sorted(record.position for record, _ in self.store.records.search_text(agent, [word], 100))
                assert hits == [at for at, _, text, _ in live if text == word]
            middle = journal.head // 2
            assert [(entry.id, entry.position) for entry in self.store.at(agent, middle)] == sorted(
                ((name, at) for (_, name), (at, _) in journal.at(middle).items()), key=lambda pair: pair[1]
            )

    @invariant()
    def revisions_stand_for_what_is_live(self) -> None:
        for agent, journal in self.journals.items():
            for revision in self.store.states.revisions(agent):
                assert revision.state == journal.digest(revision.position)
            tail = self.store.states.fold_input(agent, "f")
            assert tail is not None
            start = tail.base.position if tail.base else 0
            if tail.newest is not None and not tail.entries:
                assert tail.newest.state == journal.digest(journal.head)
            else:
                assert [entry.position for entry in tail.entries] == [at for at, *_ in journal.live() if at > start]
            past = journal.head // 2
            then = self.store.states.fold_input(agent, "f", past)
            texts = [text for _, text in sorted(journal.at(past).values())]
            assert then is not None and (
                then.newest is None or then.newest.state == digest(texts[: count(then, journal, past)])
            )


def count(tail: Any, journal: Journal, past: int) -> int:
    """How many messages of a past journal its newest state stands for."""
    return sum(1 for at, _ in journal.at(past).values() if at <= tail.newest.position)


def message(name: str | None, text: str) -> dict[str, Any]:
    return {"role": "user", "content": text} | ({"id": name} if name else {})


def run(engine: Engine, examples: int, steps: int) -> None:
    class Case(Machine):
        pass

    Case.engine = engine
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Case,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        engine.dispose()


def in_memory() -> Engine:
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


def test_a_few_interleavings() -> None:
    run(in_memory(), examples=6, steps=25)


@pytest.mark.slow
def test_interleavings_on_sqlite() -> None:
    run(in_memory(), examples=80, steps=50)


@pytest.mark.slow
def test_interleavings_on_postgresql(postgresql_url: Callable[[], str]) -> None:
    run(create_engine(postgresql_url()), examples=30, steps=40)
