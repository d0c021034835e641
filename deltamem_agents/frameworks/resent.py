"""What a conversation that comes again adds to its session: one way for every integration.

Clients that keep no state send their history with each request: with new ids, numbered anew, or none; with answers
drawn again, questions edited, line breaks trimmed, the middle or the beginning left out. Each message is aligned with
all that the session ever held, by id and by what it says, whitespace and Unicode's forms aside. What was replaced,
rolled back or erased is known too, and does not come back with a history.

What is missing is found and written in one, so that two requests at once do not both write it: the `Held` that is asked
here is that of `AgentMemory.write_selected`.

The newest question is another matter: it is asked now. It is known only where it comes again in its place, as when an
answer is drawn anew or a run that failed is tried again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltamem_agents.frameworks.alignment import aligned
from deltamem_agents.frameworks.tool_output import are_cuts
from deltamem_agents.store import Held, Said, Store, check_messages, wording_of
from deltamem_agents.store.held import MAX_POSITION
from deltamem_agents.store.messages import NewMessage

Message = dict[str, Any]
NEWEST = 50  # entries at the end of a journal among which a session's newest question is looked for


def unwritten(
    held: Held, agent: str, session: str, messages: Sequence[Message], *, history: bool = False
) -> list[Message]:
    """What to write of a conversation, or of its end, that may have come before.

    Args:
        messages: As `AgentMemory.write` takes them, in order.
        history: Whether all of it is the past, its newest question too: what is asked now comes by itself.

    Returns:
        The new ones, and those whose id the session knows with other words, which replace the old. Where ids turn out
        to number the messages of each request anew, they are left out.
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
    held: Held,
    agent: str,
    session: str,
    messages: Sequence[Message],
    question: Message | int | None = None,
    *,
    history: bool = True,
) -> list[Message]:
    """What to write of messages that were just said, whose ids are to be trusted: a question, and what came of it.

    An answer that the session has already after the same question, word for word, is not written again. Several turns
    at once are a history that came again, see `unwritten`.

    Args:
        question: The one before the messages, which is written, or its position in the journal.
        history: Whether several turns are a history. If not, all of them were just said.
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
    held: Held,
    agent: str,
    session: str,
    messages: Sequence[Message],
    question: Message | None,
    history: Sequence[Message],
    *,
    past: bool,
) -> list[Message]:
    """What to write of the end of a history that came again, and of what came of it: others may have written it since.

    Args:
        messages: What is to be written, with ids.
        question: The one before them, where the session had it when the history came.
        history: Up to the question that is answered, if that is among the messages; with ids.
        past: As in `unwritten`.
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
    """How far a conversation has come that is handed over portion by portion, by a framework that gives no ids.

    Args:
        last: Id of the last message.
        known: Places and positions of what the session had and has come again.
        until: The journal's end when the first portion came; what is later was handed over here.
    """

    last: str
    known: frozenset[tuple[int, int]]
    until: int


def unwritten_portion(
    held: Held,
    agent: str,
    session: str,
    messages: Sequence[Message],
    whole: Sequence[Message],
    handed: Handed | None,
) -> tuple[list[Message], Handed]:
    """What to write of the next portion of a conversation, with ids, and how far it has come then.

    An id follows from all that was handed over of the conversation. Where that was said before in other words, ids go
    on from those that the session has.

    Args:
        messages: As they are to be written.
        whole: As they were handed over.
        handed: None for the first portion.
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
    """What was said of the words, in order and as near to the beginning as can be; by their places from ``start``."""
    pairs = aligned([each.wording for each in reversed(said)], words[::-1])
    return {start + len(words) - 1 - i: said[len(said) - 1 - j] for i, j in pairs}


def _id_after(last: str, message: Mapping[str, Any]) -> str:
    """An id that follows from all that was handed over before."""
    told = json.dumps([last, message["role"], message["content"]], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def newest_question(store: Store, agent: str, session: str) -> str:
    """What a session's newest user message says; empty where it is not among the newest entries of the journal."""
    version = store.version(agent)
    log = [] if version is None else store.live(agent, max(0, version[1] - NEWEST), session)
    return next((entry.text.strip() for entry in reversed(log) if entry.role == "user"), "")


def several_turns(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a question comes after an answer."""
    roles = [message["role"] for message in messages]
    return "user" in roles[next((i for i, role in enumerate(roles) if role != "user"), len(roles)) :]


def _found(said: Sequence[Said], messages: Sequence[NewMessage]) -> list[int | None]:
    """For each message, the place in ``said`` that it has there; None for what is new."""
    words = _words(said, messages)
    asked = next((i for i in reversed(range(len(messages))) if messages[i].role == "user"), len(messages))
    before = _of_this_conversation(said, messages[:asked], words[:asked])
    found: list[int | None] = [before.get(place) for place in range(len(messages))]
    if asked < len(messages):
        found[asked] = at = _asked_before(said, messages, words, asked, before)
        # Its answers follow it; those to a question that is asked now are new.
        for place, other in _in_order(
            said, messages[asked + 1 :], words[asked + 1 :], None if at is None else at + 1
        ).items():
            found[asked + 1 + place] = other
    # What comes before a message that is known is history, wherever it stood: answers may have been drawn again.
    left = _left(said, found)
    for place in range(max(before, default=0)):
        if found[place] is None and left.get(words[place]):
            found[place] = left[words[place]].pop()
    return found


def _found_of_history(said: Sequence[Said], messages: Sequence[NewMessage]) -> list[int | None]:
    """As `_found`, of what is all in the past: a question that the session held is known, wherever it stood there.

    Answers that follow a question that is new are new, too, save those before the last message that is known in order.
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
    """As `_in_order`; by id alone where no question is known: it may give the same answers, and is another one."""
    known = _in_order(said, messages, words, 0)
    questions = [place for place, each in enumerate(messages) if each.role == "user"]
    return _in_order(said, messages, words, None) if questions and not known.keys() & questions else known


def _left(said: Sequence[Said], found: Sequence[int | None]) -> dict[str, list[int]]:
    """Places in ``said`` that are none of those found, by what is said there."""
    left: dict[str, list[int]] = {}
    taken = set(found)
    for at, each in enumerate(said):
        if at not in taken:
            left.setdefault(each.wording, []).append(at)
    return left


def _in_order(
    said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str], start: int | None
) -> dict[int, int]:
    """Places in ``said`` of messages that were said before, by id, or in order from ``start`` on; None for by id alone.

    A message that has the id of one that says the same is that one, and no other.
    """
    by_id = _by_id(said, messages, words)
    if start is None:
        return by_id
    claimed = {at: place for place, at in by_id.items()}
    known = [claimed.get(start + i, each.wording) for i, each in enumerate(said[start:])]
    given = [place if place in by_id else told for place, told in enumerate(words)]
    return {place: start + at for place, at in aligned(known, given)} | by_id


def _by_id(said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str]) -> dict[int, int]:
    """The places of messages that have their id and words there; each is given once, a live one before others."""
    places: dict[tuple[str, str], list[int]] = {}
    for at, each in sorted(enumerate(said), key=lambda pair: (pair[1].live, pair[0])):
        if each.id:
            places.setdefault((each.id, each.wording), []).append(at)
    keys = [(each.id, told) for each, told in zip(messages, words, strict=True)]
    return {place: places[key].pop() for place, key in enumerate(keys) if places.get(key)}


def _asked_before(
    said: Sequence[Said], messages: Sequence[NewMessage], words: Sequence[str], asked: int, before: Mapping[int, int]
) -> int | None:
    """The place of a question where it comes again in its place; None where it is asked now.

    Args:
        asked: Which of the messages it is.
        before: The places of the messages before it.
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


def _position(held: Held, agent: str, session: str, question: NewMessage, *, known: bool) -> int | None:
    """The position of the session's live message that has a question's id and words.

    Args:
        known: Whether it was said before under another id, if not under this one; the newest is then given.
    """
    told = wording_of(question)
    for entry in held.find(agent, [(session, question.id)]) if question.named else ():
        if wording_of(entry) == told:
            return entry.position
    version = held.version(agent) if known else None
    if version is None:
        return None
    reach, head = NEWEST, version[1]
    while True:  # it is nearly always at the end, and a session may be long
        after = max(0, head - reach)
        late = held.ever_said(agent, session, after=after)
        same = [each.position for each in late if each.live and each.wording == told]
        if same or not after:
            return max(same, default=None)
        reach *= 8


def _words(said: Sequence[Said], messages: Sequence[NewMessage]) -> list[str]:
    """What each message says; of a tool's result that the session has cut, or cut elsewhere, what it says there."""
    words = [wording_of(each) for each in messages]
    known = {each.wording for each in said}
    results = [each for each in said if each.result]
    for place, message in enumerate(messages):
        if message.role == "tool" and words[place] not in known:
            same = (each.wording for each in results if are_cuts(each.result, message.text))
            words[place] = next(same, words[place])
    return words
