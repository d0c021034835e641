"""Finds what a resent conversation adds to its session, in the same way for every integration.

Stateless clients send their history with each request: with new ids, renumbered ids or none; with answers regenerated,
questions edited, line breaks trimmed, the middle or beginning left out. Each message is aligned with everything that
the session ever held, by id and by wording, which ignores whitespace and Unicode forms. Replaced, rolled back and
erased messages are known too, so a resent history does not bring them back.

The `MessageLookup` used here is that of `AgentMemory.write_selected`, which finds and writes missing messages in one
step, so that two simultaneous requests do not both write them.

The newest question is treated differently, because it is asked now. It counts as known only if it is resent in its
place, as when an answer is regenerated or a failed run is retried.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem_agents.frameworks.alignment import aligned
from deltamem_agents.memory.tool_output import are_cuts
from deltamem_agents.messages import NewMessage
from deltamem_agents.store import MessageLookup, Said, Store, check_messages, wording_of
from deltamem_agents.store.message_lookup import MAX_POSITION

Message = dict[str, Any]
NEWEST = 50  # entries at the end of a journal that are searched for a session's newest question


def unwritten(
    held: MessageLookup, agent: str, session: str, messages: Sequence[Message], *, history: bool = False
) -> list[Message]:
    """The messages to write of a conversation, or of its end, that may have been sent before.

    Args:
        messages: Messages in order, as `AgentMemory.write` takes them.
        history: Whether all messages are in the past, including the newest question; the present question is then sent
            separately.

    Returns:
        The new messages, and those whose id the session has with other words, which replace the old ones. Ids are
        removed if they turn out to number the messages of each request from the start.

    Raises:
        InvalidAgentError: The agent's or session's id is not valid.
        InvalidMessageError: A message cannot be journalled.
    """
    if not messages:
        return []
    checked = check_messages(messages)
    said = held.ever_said(agent, session, checked)
    found = _found_of_history(said, checked) if history else _found(said, checked)
    ids = {each.id for each in said}
    renumbered = any(
        at is not None and new.named and said[at].id != new.id and new.id in ids
        for at, new in zip(found, checked, strict=True)
    )
    new = [message for message, at in zip(messages, found, strict=True) if at is None]
    if renumbered:
        return [{name: value for name, value in message.items() if name != "id"} for message in new]
    return new


def unwritten_turn(
    held: MessageLookup,
    agent: str,
    session: str,
    messages: Sequence[Message],
    question: Message | int | None = None,
    *,
    history: bool = True,
) -> list[Message]:
    """The messages to write of a turn that just took place: a question and what followed. Their ids are trusted.

    An answer that the session already has after the same question, word for word, is not written again. Several turns
    at once are treated as a resent history, see `unwritten`.

    Args:
        question: The question before the messages, which is already written, or its position in the journal.
        history: Whether to treat several turns as a history; if false, all of them just took place.

    Raises:
        InvalidAgentError: The agent's or session's id is not valid.
        InvalidMessageError: A message cannot be journalled.
    """
    several = several_turns(messages)
    if several and history:
        return unwritten(held, agent, session, messages)
    if not messages:
        return []
    checked = check_messages(messages)
    asks = sum(message.role == "user" for message in checked)
    if isinstance(question, int):
        position = None if asks else question
    else:
        asked = checked[asks - 1] if asks else check_messages([question])[0] if question else None
        position = None if asked is None or several else _position(held, agent, session, asked, known=not asks)
    said = held.ever_said(agent, session, checked, after=MAX_POSITION if position is None else position)
    erased = {(each.id, each.wording) for each in said if each.erased and each.id}
    answers = [] if position is None else [each for each in said if each.live]
    answers = answers[: next((i for i, each in enumerate(answers) if each.role == "user"), len(answers))]
    words = _words(said, checked)
    new: list[Message] = []
    for place, (message, one) in enumerate(zip(messages, checked, strict=True)):
        told = words[place]
        before = next((i for i, each in enumerate(answers) if each.wording == told), None)
        if place >= asks and before is not None:
            del answers[: before + 1]
        elif (one.id, told) not in erased and not (place == asks - 1 and position is not None):
            new.append(message)
    return new


def unwritten_answer(
    held: MessageLookup,
    agent: str,
    session: str,
    messages: Sequence[Message],
    question: Message | None,
    history: Sequence[Message],
    *,
    past: bool,
) -> list[Message]:
    """The messages to write of the end of a resent history and its answer, which others may have written meanwhile.

    Args:
        messages: The messages to write, with ids.
        question: The question before them, if the session had it when the history arrived.
        history: The history with ids, up to the question that is answered if that is among ``messages``.
        past: The argument ``history`` of `unwritten`.

    Raises:
        InvalidAgentError: The agent's or session's id is not valid.
        InvalidMessageError: A message cannot be journalled.
    """
    ids = {each["id"] for each in messages}
    known = {each["id"] for each in history}
    past = past or not history or history[-1]["role"] != "user"
    known -= {each["id"] for each in unwritten(held, agent, session, history, history=past)}
    new = [each for each in messages if each["id"] not in known]
    if history and history[-1]["role"] == "user" and history[-1]["id"] in ids & known:
        question = history[-1]
    return new if question is None else unwritten_turn(held, agent, session, new, question, history=False)


@dataclass(frozen=True, slots=True)
class Handed:
    """Progress of a conversation that a framework without ids hands over portion by portion.

    Args:
        last: Id of the last message.
        known: Places and positions of messages that the session already had and that were resent.
        until: The end of the journal when the first portion arrived; later messages come from these portions.
    """

    last: str
    known: frozenset[tuple[int, int]]
    until: int


def unwritten_portion(
    held: MessageLookup,
    agent: str,
    session: str,
    messages: Sequence[Message],
    whole: Sequence[Message],
    handed: Handed | None,
) -> tuple[list[Message], Handed]:
    """The messages to write of the next portion of a conversation, with ids, and the progress after it.

    An id is a hash of everything handed over so far. After a message that the session already has under another id, ids
    continue from that id.

    Args:
        messages: The messages as they will be written.
        whole: The same messages as they were handed over.
        handed: The progress so far; None for the first portion.

    Raises:
        InvalidAgentError: The agent's or session's id is not valid.
        InvalidMessageError: A message cannot be journalled.
    """
    if handed is None:
        version = held.version(agent)
        handed = Handed(session, frozenset(), 0 if version is None else version[1])
    last, known = handed.last, set(handed.known)
    chain: list[Message] = []
    for message, all_of_it in zip(messages, whole, strict=True):
        chain.append(message | {"id": _id_after(chain[-1]["id"] if chain else last, all_of_it)})
    checked = check_messages(chain)
    said = [each for each in held.ever_said(agent, session, checked) if each.position <= handed.until]
    words = _words(said, checked)
    by_id = {(each.id, each.wording): each for each in said if each.id}
    in_order: dict[int, Said] | None = None
    new: list[Message] = []
    for i, message in enumerate(messages):
        name = _id_after(last, whole[i])
        before = by_id.get((name, words[i]))
        if before is None:
            if in_order is None:
                in_order = _first_in_order([each for each in said if each[:2] not in known], words[i:], i)
            before = in_order.get(i)
            before = None if before is None or before[:2] in known else before
        if before is None:
            new.append(message | {"id": name})
        else:
            known.add(before[:2])
        last = name if before is None else before.id or name
    return new, Handed(last, frozenset(known), handed.until)


def _first_in_order(said: Sequence[Said], words: Sequence[str], start: int) -> dict[int, Said]:
    """The entries of ``said`` that align with ``words``, as early as possible, by index of the word plus ``start``."""
    pairs = aligned([each.wording for each in reversed(said)], words[::-1])
    return {start + len(words) - 1 - i: said[len(said) - 1 - j] for i, j in pairs}


def _id_after(last: str, message: Mapping[str, Any]) -> str:
    """A message's id: a hash of the previous id, the role and the content."""
    told = json.dumps([last, message["role"], message["content"]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def newest_question(store: Store, agent: str, session: str) -> str:
    """Text of a session's newest user message; empty if it is not among the `NEWEST` last entries of the journal.

    Raises:
        InvalidAgentError: The agent's or session's id is not valid.
        StoreError: The database cannot be read.
    """
    version = store.records.version(agent)
    log = [] if version is None else store.live(agent, max(0, version[1] - NEWEST), session)
    return next((entry.text.strip() for entry in reversed(log) if entry.role == "user"), "")


def several_turns(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a question comes after an answer."""
    roles = [message["role"] for message in messages]
    return "user" in roles[next((i for i, role in enumerate(roles) if role != "user"), len(roles)) :]


def _found(said: Sequence[Said], messages: Sequence[NewMessage]) -> list[int | None]:
    """For each message, its index in ``said``; None if it is new."""
    words = _words(said, messages)
    asked = next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), len(messages))
    before = _of_this_conversation(said, messages[:asked], words[:asked])
    found: list[int | None] = [before.get(place) for place in range(len(messages))]
    if asked < len(messages):
        found[asked] = at = _asked_before(said, messages, words, asked, before)
        # Answers to a known question follow it; answers to a question asked now are new.
        for place, other in _in_order(
            said, messages[asked + 1 :], words[asked + 1 :], None if at is None else at + 1
        ).items():
            found[asked + 1 + place] = other
    # A message before a known one is history, wherever it is in `said`: answers may have been regenerated.
    left = _left(said, found)
    for place in range(max(before, default=0)):
        if found[place] is None and left.get(words[place]):
            found[place] = left[words[place]].pop()
    return found


def _found_of_history(said: Sequence[Said], messages: Sequence[NewMessage]) -> list[int | None]:
    """Like `_found`, for messages all in the past: a question that the session held is known, wherever it was.

    Answers after a new question are new too, except those before the last message that is known in order.
    """
    words = _words(said, messages)
    known = _of_this_conversation(said, messages, words)
    questions = [place for place, each in enumerate(messages) if each.role == "user"]
    last = max(known.keys() & questions, default=-1)
    new = next((place for place in questions if place > last), len(messages))
    by_id = _by_id(said, messages, words)
    known = {place: at for place, at in known.items() if place < new or place in by_id}
    found: list[int | None] = [known.get(place) for place in range(len(messages))]
    left, before, question = _left(said, found), max(known, default=-1), False
    for place, message in enumerate(messages):
        if found[place] is None and (message.role == "user" or question or place < before) and left.get(words[place]):
            found[place] = left[words[place]].pop()
        if message.role == "user":
            question = found[place] is not None
    return found


def _of_this_conversation(said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str]) -> dict[int, int]:
    """Like `_in_order`, but by id only if no question is known: another conversation may have the same answers."""
    known = _in_order(said, messages, words, 0)
    questions = [place for place, each in enumerate(messages) if each.role == "user"]
    return _in_order(said, messages, words, None) if questions and not known.keys() & questions else known


def _left(said: Sequence[Said], found: Sequence[int | None]) -> dict[str, list[int]]:
    """Indices in ``said`` that are not in ``found``, by wording."""
    left: dict[str, list[int]] = {}
    taken = set(found)
    for at, each in enumerate(said):
        if at not in taken:
            left.setdefault(each.wording, []).append(at)
    return left


def _in_order(
    said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str], start: int | None
) -> dict[int, int]:
    """Indices in ``said`` of known messages, matched by id, or by wording in order from ``start`` on.

    A message whose id and wording match an entry is matched with that entry only.

    Args:
        start: None to match by id only.
    """
    by_id = _by_id(said, messages, words)
    if start is None:
        return by_id
    claimed = {at: place for place, at in by_id.items()}
    known = [claimed.get(start + i, each.wording) for i, each in enumerate(said[start:])]
    given = [place if place in by_id else told for place, told in enumerate(words)]
    return {place: start + at for place, at in aligned(known, given)} | by_id


def _by_id(said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str]) -> dict[int, int]:
    """Indices in ``said`` of messages with the same id and wording; each is used once, live ones first."""
    places: dict[tuple[str, str], list[int]] = {}
    for at, each in sorted(enumerate(said), key=lambda pair: (pair[1].live, pair[0])):
        if each.id:
            places.setdefault((each.id, each.wording), []).append(at)
    keys = [(each.id, told) for each, told in zip(messages, words, strict=True)]
    return {place: places[key].pop() for place, key in enumerate(keys) if places.get(key)}


def _asked_before(
    said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str], asked: int, before: Mapping[int, int]
) -> int | None:
    """Index in ``said`` of a question that is resent in its place; None if it is asked now.

    Args:
        asked: Index of the question in ``messages``.
        before: Indices in ``said`` of the messages before it, by index in ``messages``.
    """
    question = messages[asked]
    same = [at for at, each in enumerate(said) if each.wording == words[asked] and (each.live or each.erased)]
    named = [at for at in same if question.named and said[at].id == question.id]
    if named or not same:
        return named[-1] if named else None
    if not before:
        questions = [at for at, each in enumerate(said) if each.role == "user"]
        again = [at for at in same if at == questions[-1] or (at == questions[0] and said[at].live)]
        return again[-1] if again and not asked else None
    last = max(before)
    if any(each.role == "user" for each in messages[last + 1 : asked]):
        return None
    return next((at for at in same if at > before[last]), None)


def _position(held: MessageLookup, agent: str, session: str, question: NewMessage, *, known: bool) -> int | None:
    """Position of the session's live message with a question's id and wording; None if there is none.

    Args:
        known: Whether to search for the wording under any id if there is none with this id; the newest is returned.
    """
    told = wording_of(question)
    for entry in held.find(agent, [(session, question.id)]) if question.named else ():
        if wording_of(entry) == told:
            return entry.position
    version = held.version(agent) if known else None
    if version is None:
        return None
    reach, head = NEWEST, version[1]
    while True:  # the question is nearly always near the end, and a session may be long
        after = max(0, head - reach)
        late = held.ever_said(agent, session, after=after)
        same = [each.position for each in late if each.live and each.wording == told]
        if same or not after:
            return max(same, default=None)
        reach *= 8


def _words(said: Sequence[Said], messages: Sequence[NewMessage]) -> list[str]:
    """The wording of each message; for a tool result that the session has cut differently, the session's wording."""
    words = [wording_of(each) for each in messages]
    known = {each.wording for each in said}
    results = [each for each in said if each.result]
    for place, message in enumerate(messages):
        if message.role == "tool" and words[place] not in known:
            same = (each.wording for each in results if are_cuts(each.result, message.text))
            words[place] = next(same, words[place])
    return words
