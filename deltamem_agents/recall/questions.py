"""The kind of a query, and whether it depends on the turns before it; in English, from the query's text alone.

- "Summarise how my thesis went": a summary; needs messages and replies from the whole memory.
- "In which order did I bring up …?": an order; needs something from each session.
- "What did you recommend?": asks for what the model said.
- "How should I structure the file?": asks to do something; standing rules and preferences count.
- "And Germany?": the previous question, about something else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from deltamem_agents.recall.words import content_words, speaks_of_self

_SUMMARY = re.compile(
    r"\bsummar|\boverview\b|\brecap\b|\bover time\b|\bso far\b|\bevolved?\b|\bdeveloped\b|\bprogress", re.I
)
_ORDER = re.compile(
    r"\border in which\b|\bin (?:what|which) order\b|\bin (?:the )?order\b|\bchronolog|\bsequence of\b", re.IGNORECASE
)
_OF_MODEL = re.compile(
    r"\b(?:did|have|had) you\b|\byou(?:['’]ve| have| had)? (?:said|told|recommended|suggested|mentioned"
    r"|advised|gave|given"
    r"|explained|described|helped|showed|proposed|listed|wrote|written)\b",
    re.IGNORECASE,
)
_REMEMBERING = re.compile(
    r"\b(?:did|have|had|was|were|am|do) (?:i|we)\b(?! (?:need|want|have to))"
    r"|\b(?:i|we)(?:['’]ve| have| had)? (?:said|say|mention(?:ed)?|told|tell|planned|decided|discussed|asked|brought)"
    r"|\b(?:what|who|where|which(?: \w+)?)(?:['’]s| is| are| was| were) (?:my|our|the name)\b"
    r"|\bwhen\b|\bhow (?:many|much|long|often|old)\b|\bdid you\b|\byou (?:said|told|recommended|suggested|mentioned)",
    re.IGNORECASE,
)
_DOING = re.compile(
    r"^(?:(?:and|so|ok|also|please|hey|hi)[ ,]+)*(?:how (?:should|do|does|can|would|could|to|might)"
    r"|(?:could|can|would|will) you"
    r"|what(?:['’]s| is| are)?\b.*\b(?:should|would|recommend|suggest|best|could|can|do you think)"
    r"|which\b|where\b.*\bshould"
    r"|help|show|explain|write|give|list|tell me about|suggest|recommend|i['’]m|i am|i want|i need"
    r"|i['’]d like|if i|let['’]s"
    r"|what (?:is|are|does|steps|should|tools|kind))|\b(?:would|do|can|could|should) you (?:suggest"
    r"|recommend|advise|help|explain"
    r"|show|walk)|\bshould i\b",
    re.IGNORECASE,
)
# Parts of a query that are about the conversation rather than its topic.
_ABOUT_THE_TALK = re.compile(
    r"""\b(?:(?:can|could|would|will)\ you\ (?:please\ )?(?:give|provide|list|tell|walk|show|help|summari[sz]e|describe
            |explain|recap)?\ ?(?:me|us)?\ ?(?:with|through)?
    |(?:a|an|the)?\ ?(?:complete|comprehensive|clear|brief|short|detailed|full|quick|concise|thorough)?\ ?
        (?:summary|overview|recap|outline)\ (?:of|on|about)(?:\ how|\ what)?
    |(?:please\ )?summari[sz]e(?:\ how|\ what)?
    |the\ order\ in\ which\ (?:i|we)\ (?:brought\ up|mentioned|discussed|talked\ about|raised|asked\ about)
    |(?:in\ )?(?:what|which)\ order\ (?:did\ (?:i|we)|(?:i|we)|have\ (?:i|we))\ (?:bring\ up|brought\ up|mention|discuss
        |talk\ about|raise|ask\ about)
    |(?:in\ order\ )?how\ (?:i|we)\ brought\ up|in\ (?:the\ right\ |chronological\ )?order
    |(?:different|various|specific|main|key)\ (?:aspects|topics|things|points|parts|ways|elements|steps|stages|features
        |issues|challenges|concepts)(?:\ of)?
    |(?:throughout|across|over|during|in|from|based\ on|through)\ (?:all\ (?:of\ )?)?(?:our|my|the)\ (?:conversations?
        |discussions?|chats?|sessions?|talks|messages|questions|requests)
    |over\ time|so\ far|along\ the\ way|mention\ only\ (?:and\ only\ )?\w+\ items?
    |(?:have\ |has\ |had\ )?(?:developed|progressed|evolved|changed)
    |(?:i|we)(?:['’]ve|\ have|\ had)?\ (?:discussed|talked\ about|mentioned|brought\ up|been\ through|worked\ on)
    |including|(?:the\ )?(?:key|main)\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_POINTING = re.compile(
    r"\b(?:he|she|it|they|him|her|them|his|hers|their|theirs|its|that|those|this|these|there|ones?|then"
    r"|the (?:same|others?|first|second|last|latter|former))\b",
    re.IGNORECASE,
)
_GOING_ON = re.compile(r"^(?:and|or|but|what about|how about|also|what if|what else|then|so)\b", re.IGNORECASE)
_SHORT, _GOING_ON_SHORT = 14, 8  # the most words of a query that depends on the turn before
CONTEXT = 400  # characters of earlier turns, in total
_LOOKED_AT = 4_000  # characters examined; a question's first words show its kind


@dataclass(frozen=True, slots=True)
class Question:
    """A query and its kind.

    Args:
        topic: The query; for a summary or an order, without its words about the conversation.
        summary: Whether it asks for a summary.
        order: Whether it asks in which order things came.
        of_model: Whether it asks for what the model said.
        doing: Whether it asks how to do something, or to do it.
        context: The turns before it if it depends on them; else empty.
    """

    topic: str
    summary: bool = False
    order: bool = False
    of_model: bool = False
    doing: bool = False
    context: str = ""

    @property
    def whole(self) -> str:
        """The turns that the query depends on, followed by the topic."""
        return f"{self.context}\n{self.topic}" if self.context else self.topic

    @classmethod
    def read(cls, query: str, context: Sequence[str] = ()) -> Question:
        """Determine the kind of a query.

        Args:
            context: The turns before it, oldest first.
        """
        beginning = query[:_LOOKED_AT]
        summary, order = _SUMMARY.search(beginning) is not None, _ORDER.search(beginning) is not None
        return cls(
            topic=_topic(query) if (summary or order) and len(query) <= _LOOKED_AT else query,
            summary=summary,
            order=order,
            of_model=_OF_MODEL.search(beginning) is not None,
            doing=not (summary or order) and bool(_DOING.search(beginning)) and not _REMEMBERING.search(beginning),
            context=_newest(context) if context and leans(query) else "",
        )


def leans(query: str) -> bool:
    """Whether a query depends on the turn before it, and cannot be understood without it.

    >>> leans("And Germany?"), leans("When did she move there?"), leans("Which colour?"), leans("Where do I live?")
    (True, True, True, False)
    """
    words = query.split()
    if not words or len(words) > _SHORT:
        return False
    if _GOING_ON.match(query.strip()) and len(words) <= _GOING_ON_SHORT:
        return True
    if any(word[0].isupper() and word.strip(".,?!'’") not in ("I", "I'm", "I’m") for word in words[1:]):
        return False
    return _POINTING.search(query) is not None or (len(content_words(query)) <= 1 and not speaks_of_self(query))


def _newest(context: Sequence[str]) -> str:
    """The beginnings of the last two turns, `CONTEXT` characters in total."""
    return "\n".join(" ".join(text.split())[: CONTEXT // 2] for text in context[-2:] if text.strip())


def _topic(query: str) -> str:
    kept = re.sub(r"[\s,.?!]+", " ", _ABOUT_THE_TALK.sub(" ", query)).strip()
    return kept or query
