"""Whether a text states a fact, only asks, says that it does not know, or is small talk ("ok", "thank you").

It goes by English words, and by the question mark in any script. In doubt a text counts as stating a fact. A sentence
is split into clauses; one clause that states something makes it a statement.
"""

from __future__ import annotations

import re

from deltamem_agents.recall.records import sentences
from deltamem_agents.recall.words import content_words

UNKNOWING_LIMIT = 160  # characters; a longer reply says something else too
CHATTER_LIMIT = 120

_CHATTER = re.compile(
    r"^(?:(?:(?:ok|okay|k|kk|alright|all right|right|sure|of course|certainly|absolutely|definitely|great"
    r"|good|nice|cool|fine"
    r"|perfect|excellent|awesome|wonderful|lovely|amazing|brilliant|super|sweet|wow|ha(?:ha)*|lol|hm+|mm+"
    r"|ah+|oh|aha|i see"
    r"|noted|understood|got it|gotcha|will do|done|makes sense|sounds? (?:good|great|fine)|that(?:['’]s| is| was)? "
    r"(?:very |really |so )?(?:good|great|fine|helpful|perfect|nice|cool|awesome|right|it|all)|(?:very "
    r"|really |so )?helpful"
    r"|thanks?(?: you)?(?: (?:so|very) much| a lot| a bunch| again| for (?:that|this|the help|your help"
    r"|everything))?|thx|ty"
    r"|much appreciated|i appreciate (?:it|that)|cheers|(?:you(?:['’]re| are) )?(?:very |most )?welcome"
    r"|no (?:problem|worries)"
    r"|anytime|any time|my pleasure|glad (?:to help|i could help|to hear (?:it|that))|happy to help"
    r"|to hear|nice one|good one|hi|hello|hey|bye|goodbye"
    r"|good ?bye|see you(?: (?:later|soon|tomorrow))?|take care|good (?:morning|afternoon|evening|night"
    r"|day)|there|again"
    r"|how are you(?: (?:doing|today))*|have a (?:nice|good|great) (?:day|evening|weekend|one)|sorry"
    r"|no rush|go ahead|continue"
    r"|please|go on|and|so|very|much|then|too|i(?:['’]ll| will) (?:remember|note|keep) (?:that|it)(?: in mind)?"
    r"|(?:i(?:['’]ve| have) )?(?:noted|saved|remembered|recorded|stored) (?:that|it|this)"
    r"|(?:is there )?anything else(?: (?:i can|you need).*)?|what can i do for you|(?:how|what) (?:can"
    r"|may) i help(?: you)?(?: today| with that| with this| further)?"
    r"|let me know(?: if (?:you (?:need|have|want)|there is|there['’]s) [^.!?]*)?|feel free to (?:ask"
    r"|reach out)[^.!?]*)\b|[\W_]))+$",
    re.DOTALL,
)
_WH = r"(?:what|where|when|which|who|whom|whose|why|how)"
_AUXILIARY = (
    r"(?:is|are|was|were|am|do|does|did|can|could|should|shall|would|will|has|have|had|might|may|isn['’]t|aren['’]t|wasn['’]t"
    r"|don['’]t|doesn['’]t|didn['’]t|can['’]t|couldn['’]t|won['’]t|wouldn['’]t|haven['’]t|hasn['’]t)"
)
_VERB = rf"(?:{_AUXILIARY}|many|much|often|long|old|far|big|about|to|come)"
_LEADING = (
    r"(?:(?:and|so|but|hey|hi|hello|ok|okay|well|oh|please|sorry|then|also|now|just|actually|quick question)\b[\s,]*)*"
)
_QUESTION = re.compile(rf"^{_LEADING}{_WH}(?:['’]s|['’]re|\s+{_VERB})\b")
_ASKING = re.compile(
    rf"^{_LEADING}(?:{_WH}\b|{_AUXILIARY}\s+(?:i|you|we|they|he|she|it|this|that|these|those|there|the|a|an|my|our|your|his|her"
    r"|their|any|some|anyone|someone|[\w’'-]+)\b|(?:do you|did you|can you|could you|would you)|any\b|tell me|remind me"
    rf"|(?:in|at|on|for|to|from|with|of|by|about|since|until) {_WH}\b|or\b|if\b|whether\b)"
)
_TELLING = re.compile(
    r"\b(?:did (?:you|i) (?:know|hear|tell|mention)|(?:can|could|would|will) you (?:please )?(?:just )?"
    r"(?:remember|note|keep|save|store|write|memorise|memorize|make a note))\b"
)
_ASKING_BACK = re.compile(
    rf"\b(?:remember|tell|know|said|say|mention|mentioned|told|recall) (?:me |you )?(?:again )?{_WH}\b"
)
_TAG = re.compile(
    r"(?:\s(?:right|ok|okay|huh|eh)|[,–—-]\s*(?:you know|you see|right|ok|okay|huh|eh|hm+|remember|yeah"
    r"|yes|no|see|correct|innit|agreed|got it|alright"
    r"|is it ok|is that ok|(?:is|are|was|were|do|does|did|have|has|can|could|will|would|should)(?:n['’]t)? "
    r"(?:it|i|you|we|they|he|she|that|there)))\s*\?+$"
)
_PART = re.compile(r"\s*(?:[,;:]|\s[–—-]\s|\bbecause\b|\bsince (?=i\b|we\b|my\b)|\bas (?=i\b|we\b|my\b)|\bnow that\b"
                   r"|\b(?:and|but|so|given that|considering) (?=(?:i|we|my|our)\b))\s*")  # fmt: skip
_REASON = re.compile(
    r"\b(?:because|now that|given that|considering that|seeing that) (?:i|we|my|our|the|he|she|they)\b"
)
_MAY_ASK = re.compile(r"[?？؟]")
_STATING = re.compile(
    r"^(?:(?:and|but|so|also|well|hey|hi|btw|by the way|actually)\b[\s,]*)*"
    r"(?:(?:i|we|he|she|they|it|there|you)\b['’\w]*\s+[\w’'.-]+"
    r"|(?:my|our|the|this|that|these|those|his|her|their|your|[\w’'-]+)\s+(?:[\w’'.-]+\s+){0,5}?"
    r"(?:is|are|was|were|has|have|had|will|would|can|could|does|did|\w+ed|\w{2,}[^s\W]s)\s+\w)"
)
_NO_STATEMENT = re.compile(
    r"^(?:i (?:wonder(?:ed)?|was wondering|want(?:ed)? to know|forgot|forget|need(?:ed)? to know|would like to know"
    r"|['’]?d like to know|(?:don['’]t|do not|can['’]t|cannot|can not) (?:know|remember|recall))"
    r"|it['’]?s? (?:is )?called what)\b"
)
_UNKNOWING = re.compile(
    r"\b(?:i|we) (?:really |still |also )?(?:do not|don['’]t|did not|didn['’]t|can ?not|can['’]t"
    r"|could not|couldn['’]t) "
    r"(?:\w+ )?(?:know|remember|recall|find|see|say|tell)\b"
    r"|\b(?:i|we) (?:do not|don['’]t|did not|didn['’]t) (?:\w+ )?have (?:\w+ ){0,3}"
    r"(?:information|info|record|records|data|details|detail|memory|memories|knowledge|idea|access|answer|clue|note|notes)\b"
    r"|\bi (?:do not|don['’]t) have (?:that|this|it|one|any)$"
    r"|\b(?:i['’]?a?m|i am|we are|we['’]re) (?:not (?:\w+ )?sure|unsure|not aware|unaware)\b"
    r"|\b(?:no|any) (?:idea|information|record|mention)\b|^(?:unknown|unsure|not sure|no clue)\b"
)
_APOLOGY = re.compile(
    r"^(?:(?:i['’]?m|i am|we['’]re|we are) (?:so |very |really )?(?:sorry|afraid)(?: (?:that|but))?|sorry"
    r"|(?:my |i )?apolog\w+|"
    r"unfortunately|hmm?|well|oh|no|not yet|please (?:tell|let|give|share|provide)\b.*|let me know\b.*"
    r"|(?:if )?you (?:can|could|may) (?:tell|let|give|share)\b.*|you (?:have not|haven['’]t|did not|didn['’]t|never) "
    r"(?:told|tell|mention\w*|sa(?:id|y)|shared?|given?|give)\b.*|what\b.*|who\b.*|where\b.*|which\b.*"
    r"|that|about that|here|yet)\b"
)
_SPECIFIC = re.compile(
    r"\d|\b(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday|january|february|march|april|june|july|august|september"
    r"|october|november|december|today|tomorrow|yesterday|noon|until|before|after|because|instead|however|though|although"
    r"|except|unless)\b"
)


def is_chatter(text: str) -> bool:
    """Whether a text only greets, thanks or agrees.

    >>> is_chatter("Ok, thanks!"), is_chatter("Noted."), is_chatter("Noted: the code is 4417."), is_chatter("👍")
    (True, True, False, True)
    """
    if len(text) > CHATTER_LIMIT or any(character.isdigit() for character in text):
        return False
    return _CHATTER.match(text.strip().casefold()) is not None


def knows_nothing(reply: str) -> bool:
    """Whether a reply only says that it does not know.

    >>> knows_nothing("I don't know."), knows_nothing("I don't know, but it may be blue.")
    (True, False)
    >>> knows_nothing("We don't have it until 4 May.")
    False
    """
    if len(reply) > UNKNOWING_LIMIT or not _UNKNOWING.search(reply.casefold()):
        return False
    return all(
        _knows_nothing(part) for sentence in sentences(reply.casefold()) for part in re.split(r"[,;]|\bbut\b", sentence)
    )


def asks(text: str) -> bool:
    """Whether a text consists of questions and states nothing.

    >>> asks("Where is it?"), asks("I moved to Oslo, you know?"), asks("I use ruff, can you set it up?")
    (True, False, False)
    """
    if not _MAY_ASK.search(text) and not _QUESTION.match(text[:80].casefold()):
        return False  # neither has a question mark nor begins as a question
    parts = [part for part in sentences(text) if not is_chatter(part)]
    return bool(parts) and all(_asks(part) for part in parts)


def asks_news(text: str, query: str) -> bool:
    """Whether a question has a name or number that a query lacks: such a question may tell something new."""
    known = {word.casefold() for word in re.findall(r"[\w’'-]+", query)} | content_words(query)
    words = re.findall(r"[\w’'-]+", text)
    return any(
        (any(c.isdigit() for c in word) or (place and word[0].isupper() and word not in ("I", "I'm", "I've", "OK")))
        and word.casefold() not in known
        and word.casefold().removesuffix("'s").removesuffix("’s") not in known
        for place, word in enumerate(words)
    )


def _knows_nothing(part: str) -> bool:
    part = part.strip(" .!,-–—\"'")
    if not part or is_chatter(part) or part.endswith(("?", "？", "؟")):
        return True
    part = re.sub(r"^(?:(?:i['’]?m|i am) (?:sorry|afraid)(?: that)?|sorry|unfortunately)\s+", "", part)
    if _UNKNOWING.search(part):
        return _SPECIFIC.search(part) is None
    return _APOLOGY.match(part) is not None and _SPECIFIC.search(part) is None


def _asks(sentence: str) -> bool:
    lowered = sentence.casefold().strip()
    bare = lowered.rstrip("\"'”’»)]")
    if not bare.endswith(("?", "？", "؟")):
        return not bare.endswith((".", "!", ":", ";")) and bool(_QUESTION.match(bare))
    if _TELLING.search(bare) and not _ASKING_BACK.search(bare):
        return False
    told = _TAG.sub("", bare)
    if told != bare and not _ASKING.match(told):
        return False
    if _REASON.search(bare):
        return False
    parts = [part.strip() for part in _PART.split(bare) if part and part.strip()]
    return not any(_states(part) for part in parts if not part.endswith(("?", "？", "؟")))


def _states(part: str) -> bool:
    """Whether a clause states something about a subject and does not ask."""
    if _ASKING.match(part) or _NO_STATEMENT.match(part):
        return False
    return _STATING.match(part) is not None and len(re.findall(r"\w+", part)) > 2
