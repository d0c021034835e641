"""Parse English sentences into statements: a subject, a relation and a value.

    "By the way, our linter is pylint."    the linter | be   | pylint
    "Actually I moved to Oslo"             i          | move | oslo     a change
    "I no longer live in Lisbon."          i          | live | lisbon   ended

Only words and word order are used. Hedged, planned and past events and questions are not statements: they replace
nothing, and nothing replaces them.

Standing rules ("Always answer in French") and preferences ("I prefer tabs") are said once and valid always. A rule
hardly resembles the questions that it applies to, so its score is raised; see `fusion`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import snowballstemmer

from deltamem_agents.recall.records import sentences
from deltamem_agents.recall.values import Value, value_of

MOST_WORDS = 20  # words; a longer sentence is taken to say more than one thing
LONGEST = 200  # characters; likewise

_FILLER = re.compile(
    r"^(?:(?:by the way|btw|fyi|oh|ah|so|well|hey|hi|hello|ok|okay|yes|no|yeah|also|and|but|just so you know|in fact"
    r"|for the record|for your information|please (?:note|remember)(?: that)?|note(?: that)?|remember(?: that)?"
    r"|did you know(?: that)?|you know|i think|i should (?:say|mention)(?: that)?|to be clear|heads[- ]up"
    r"|sorry|honestly"
    r"|good news|big news|news|guess what|(?:quick |small |an )?update|(?:a )?(?:quick )?correction|something changed"
    r"|things have changed|i (?:just )?(?:wanted|want) to (?:say|tell you|let you know)(?: that)?|as i said"
    r"|scratch that|let me correct (?:that|myself))\b[\s,:;.!–—-]*)+"
)
_CHANGE = re.compile(
    r"\b(?:now|nowadays|these days|currently|at present|actually|instead(?! of)|from now on|going forward|since then"
    r"|as of (?:today|now|this \w+|last \w+|next \w+|\w+)|since (?:last |this )?\w+|no longer|not any ?more|any ?more"
    r"|correction|update|something changed|things have changed|scratch that|in the meantime|meanwhile|new)\b"
)
_ADVERB = re.compile(
    r"\b(?:right now|now|nowadays|these days|currently|at present|at the moment|presently|actually|instead(?! of)"
    r"|from now on|going forward|since then|as of (?:(?:last|this|next) )?\w+|since (?:last |this )?\w+|recently|just"
    r"|finally|already|still|really|today|this (?:week|month|year)|last (?:week|month|year|spring|summer|autumn|winter)"
    r"|yesterday|in the meantime|meanwhile|always|usually|normally|generally|mostly|officially|simply|once again)\b,?"
)
_NO_CLAIM = re.compile(
    r"\b(?:if|unless|whether|might|could|would|should|want(?:s|ed)? to|like to|plan(?:s|ned|ning)?"
    r"|think(?:s|ing)? (?:of|"
    r"about)|thought|hop(?:e|es|ing)|wish(?:es)?|consider(?:s|ed|ing)?|used to|as a (?:child|kid|student)"
    r"|when (?:i|we|he|"
    r"she|they) (?:was|were)|going to|gonna|dream(?:s|t|ed)?|wonder(?:s|ing)?|almost|nearly|maybe|perhaps|probably"
    r"|possibly|someday|one day|supposed|pretend|imagine|suppose|looking|tried|trying|originally|formerly|previously"
    r"|at first|back then|back in|years? ago|once)\b|\bwill (?!be\b)"
)
_ADDS = re.compile(
    r"\b(?:also|too|as well|another|both|additionally|besides|in addition|part[- ]time|sometimes|either)\b"
)
_CLAUSE = re.compile(
    r"\s*(?:;|\s[–—-]\s|:\s+(?=(?:i|we|my|our|the|now)\b)|,\s+(?:and|but|so)\s+(?=(?:i|we|my|our|the|he|she|they|it|now)\b)"
    r"|\s+(?:and|but)\s+(?=(?:now|i|we|my|our)\b)|,\s+(?=(?:i|we|my|our)\b))\s*",
    re.IGNORECASE,
)
_TITLE = re.compile(r"\b(Dr|Mr|Mrs|Ms|Prof|St)\.")
_EMPTY = re.compile(
    r"^(?:(?:ok|okay|thanks|thank you|great|sure|yes|no|hi|hello|hey|cheers|noted|right|good morning"
    r"|good evening|oh|well)"
    r"\b[\s,.!]*)*$"
)
_SHORTENED = (
    (re.compile(r"\b(i)['’]m\b"), r"\1 am"),
    (re.compile(r"\b(we|you|they)['’]re\b"), r"\1 are"),
    (re.compile(r"\b(i|we|you|they)['’]ve\b"), r"\1 have"),
    (
        re.compile(r"\b(\w+)['’]s (?=(?:now|no longer|not|called|named|been|moved|switched|changed|in|at|on|a|an)\b)"),
        r"\1 is ",
    ),
    (re.compile(r"\b(do|does|did|is|are|was|were|has|have|would)n['’]t\b"), r"\1 not"),
    (re.compile(r"\bcan['’]t\b"), "can not"),
    (re.compile(r"\b(is|are) (?:planned|scheduled|set|due)(?: (?:for|on|at|by))?\b"), r"\1 on"),
)
# Subjects that are not resolved, such as pronouns of the third person.
_VAGUE = frozenset(
    "he she it they this that these those there here someone everyone everybody nobody who which".split()
)

_BE = r"(?:is|are|am|was|were|will be|has been|have been)"
_GOES_TO = r"(?:(?: (?:back|up|down|forward|out|over|away|house|home))*(?: from (?P<from>.+?))? (?:to|until|with|by))"
_ALTERED = (
    r"changed|switched|renamed|raised|increased|cut|lowered|reduced|extended|pushed|postponed|rescheduled|brought|updated"
    r"|upgraded|bumped|set|reset|replaced|shifted|delayed|dropped|rose|grew|fell|went|risen|grown|fallen|gone|transferred|slipped|slid|went"
)
_BEFORE = r"(?:^| )(?:(?:have|has|had) )?(?:been )?"
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (relation, re.compile(_BEFORE + pattern + r" (?P<value>.+)$"))
    for relation, pattern in (
        ("alter", r"(?:moved|switched|changed|migrated|upgraded|replaced|renamed|transferred|reset|raised|lowered|cut"
                  r"|increased|pushed|postponed|rescheduled) (?P<thing>(?:my|our|the"
                  r"|[\w-]+'s) (?:[\w'./-]+ )*?[\w'./-]+)"
                  r"(?: from (?P<from>.+?))? (?:to|with|by|until)"),
        ("alter", r"(?:replaced|swapped|traded|ditched|dropped) (?P<from>.+?) (?:with|by|for|in favou?r of)"),
        ("move", rf"(?:(?:is|are|was|were) )?(?:been )?(?:moved|relocated|migrated){_GOES_TO}"),
        ("live", rf"(?:(?:{_BE} )?(?:based|settled|living)|lives?|resides?|stays?) (?:in|at|on)"),
        ("work", rf"(?:(?:{_BE} )?(?:working|employed)|works?) (?:at|for|by|with)"),
        ("work", r"(?P<changed>joined|left (?P<from>.+?) (?:and joined|for|to join)"
                 r"|started (?:working |work )?(?:at|with|for)"
                 r"|(?:got|took|started|found|accepted) (?:a|my|an) (?:new )?(?:job|position|role) (?:at|with)"
                 r"|(?:was|were|got) hired (?:by|at)|(?:changed|switched) (?:jobs?|employers?) (?:to|and work (?:at"
                 r"|for)))"),
        ("be", rf"(?:{_BE} )?(?:working|works?) as"),
        ("be", r"(?P<changed>became|become|turned into|turned|got(?= (?:engaged|married|divorced)))"),
        ("alter", rf"(?:(?:is|are|was|were|got) )?(?:been )?(?:{_ALTERED}){_GOES_TO}"),
        ("name", rf"(?:{_BE} (?:called|named)|goe?s? by|answers? to)"),
        ("be", _BE),
    )
)  # fmt: skip
_FORM_WORDS = frozenset(
    f"is are am was were be been {_ALTERED.replace('|', ' ')} moved relocated migrated based settled "
    f"living live lives reside "
    "resides stay stays employed work works joined left started got took found accepted hired became "
    "become turned goes go "
    "answer answers swapped traded ditched working".split()
)
_ENDED = re.compile(
    r"^(?P<subject>.+?) (?:(?:have |has )?(?:stopped|quit|given up|gave up|(?:(?:is|are|am|was"
    r"|were) )?no longer|ceased)|(?P<not>(?:do|does|did|is|are|am) not))"
    r" (?P<rest>.+)$"
)
_LEFT = re.compile(
    r"^(?P<subject>.+?) (?:have |has )?(?:left|quit|sold|cancelled|canceled|moved out of"
    r"|moved away from) (?P<rest>(?!.* (?:and|but) ).+)$"
)
# Verbs whose newer value leaves the older one true.
_GATHERING = frozenset(
    "like love enjoy know speak visit buy bought meet met read watch see saw eat ate make made finish go "
    "went add learn "
    "want hate try tri play have had own get got need think say said tell told find found remember "
    "travel hear feel ask "
    "start stop spend spent receiv order cook bake write wrote recommend collect plant help give gave adopt".split()
)
_HAPPENED = frozenset(
    "ran went came saw took gave wrote ate drank drove flew bought sold met told said made found left "
    "lost won paid spent "
    "slept got did began broke chose heard knew sent sat stood swam threw taught thought built brought "
    "caught fell felt held "
    "kept led lent read rode sang spoke stole wore woke hurt hit cut put had forgot grew drew".split()
) - {"read", "put", "cut", "hit", "hurt"}
_SHORT_VERBS = {"has": "have", "have": "have", "goes": "go", "does": "do", "pays": "pay", "eats": "eat", "owns": "own"}
_PLURAL_VERBS = frozenset(
    "cost start begin end meet use run open close leave arrive pay last prefer weigh need take".split()
)
_ORDERS = frozenset(
    "call answer reply respond use write format address send speak talk keep put store name indent give "
    "show make round "
    "sign begin start end include translate explain greet prefer sort deploy run".split()
)
_AUXILIARY = frozenset("can could must do does did not never always am is are was were be been".split())
PREPOSITIONS = frozenset("at in on to with from by for as under near into onto over until through".split())
_PERSON = frozenset(("i", "we", "you"))
_MINE = re.compile(r"^(?:my|our|the) [\w' -]+$")
_HOMES = frozenset("home house flat apartment place city hometown residence".split())
_DETERMINERS = frozenset("my our the his her their your".split())
_stemmer = snowballstemmer.stemmer("english")

RULE, PREFERENCE = 2, 1
LONGEST_RULE, LONGEST_PREFERENCE = 400, 600  # characters of the record; longer ones are about something else

_RULE = re.compile(
    r"^(?:please )?(?:always|never)\b|[.!] (?:please )?(?:always|never)\b"
    r"|\b(?:whenever|when|every time|each time|if) i ask\b|\bfrom now on\b",
    re.IGNORECASE,
)
_PREFERENCE = re.compile(
    r"\b(?:always|never|whenever|prefer|rather|i(?:['’]d| would) like (?:you|it)|going forward|in the future|by default"
    r"|please (?:use|include|keep|avoid|format|provide|don['’]t|do not)|make sure (?:to|you)|every time"
    r"|each time|i want you to"
    r"|i (?:don['’]t|do not) like|i like|i value|important to me|my preference|instead of)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """The statement of one clause.

    Args:
        subject: Words of the subject, in lower case, without "new"; "our" becomes "the".
        relation: "be", "name", "live", "work", "move", "alter" (was changed to), "end", or a verb and its preposition.
        value: The value that the relation gives to the subject.
        scope: What the value is for, such as "for python".
        changes: Whether the clause says that something has changed.
        former: Words of the previous value, if the clause names it.
        past: Whether the clause is about the past.
    """

    subject: tuple[str, ...]
    relation: str
    value: Value
    scope: tuple[str, ...] = ()
    changes: bool = False
    former: frozenset[str] = frozenset()
    past: bool = False


def statements(text: str) -> tuple[Statement | None, ...]:
    """The statements of a text's clauses, without questions and greetings; None for a clause that cannot be parsed."""
    found: list[Statement | None] = []
    for sentence in sentences(_TITLE.sub(r"\1", text)):
        if sentence.rstrip("\"'”’»)]").endswith(("?", "？", "؟")) or _EMPTY.match(sentence.casefold()):
            continue
        if len(sentence) > LONGEST:
            found.append(None)
            continue
        cue = _CHANGE.search(sentence.casefold()) is not None
        if len(sentence.split()) > MOST_WORDS:
            found.append(None)
            continue
        clauses = [each for each in _CLAUSE.split(sentence) if each and each.strip()]
        found += [
            _statement(clause, cue=cue)
            for clause in clauses
            if not _EMPTY.match(_FILLER.sub("", clause.casefold().strip(" .!,")))
        ]
    return tuple(found)


def _statement(clause: str, *, cue: bool) -> Statement | None:
    plain = clause.strip(" .!,…").replace("’", "'")
    capitals = frozenset(word.strip(".,!()\"'").casefold() for word in plain.split()[1:] if word[:1].isupper())
    folded = plain.casefold()
    for pattern, full in _SHORTENED if "'" in folded or " are " in folded or " is " in folded else ():
        folded = pattern.sub(full, folded)
    if re.search(r"\bmay\b", plain) or _ADDS.search(folded):
        return None
    cue = cue or _CHANGE.search(folded) is not None
    ended = re.search(r"\b(?:no longer|any ?more)\b", folded) is not None
    folded = " ".join(_ADVERB.sub(" ", _FILLER.sub("", folded)).replace("anymore", "").replace("any more", "").split())
    folded = folded.strip(" ,")
    if _NO_CLAIM.search(folded):
        return None
    if (over := _ended(_ENDED, folded, ended=ended)) is not None:
        return over
    if re.search(r"\b(?:not|never|n't)\b", folded):
        return None
    return (
        _by_form(folded, capitals, cue=cue)
        or _ended(_LEFT, folded, ended=ended)
        or _by_verb(folded.split(), capitals, cue=cue)
    )


def _ended(pattern: re.Pattern[str], folded: str, *, ended: bool) -> Statement | None:
    """The statement that something has ended: "i no longer live in lisbon", "i sold the volvo"."""
    match = pattern.match(folded)
    if match is None or (match.groupdict().get("not") and not ended) or not (subject := _subject(match["subject"])):
        return None
    return Statement(subject=subject, relation="end", value=value_of(match["rest"], frozenset()), changes=True)


def _by_form(folded: str, capitals: frozenset[str], *, cue: bool) -> Statement | None:
    """A statement with one of the verbs of `_FORMS`."""
    if _FORM_WORDS.isdisjoint(folded.split()):
        return None
    for relation, pattern in _FORMS:
        match = pattern.search(folded)
        groups = match.groupdict() if match else {}
        if match is None or not (subject := _subject(groups.get("thing") or folded[: match.start()])):
            continue
        text, scope = _scoped(match["value"])
        if relation == "live" or (relation == "be" and text.startswith("in ") and subject[0] in ("my", "the")):
            subject, relation, text = _at_home(subject, relation, text)
        elif relation == "be" and subject[0] not in _DETERMINERS and _MINE.match(text):
            capitals |= frozenset(subject)
            subject, text = _subject(text), " ".join(subject)  # "Tom is my landlord."
        former = (groups.get("from") or "").split()
        rest, _, instead = text.partition(" instead of ")
        verb = folded[match.start() : match.start("value")].split()
        return Statement(
            subject=subject,
            relation=relation,
            value=value_of(rest, capitals),
            scope=scope,
            changes=cue or relation in ("move", "alter") or bool(groups.get("changed")),
            former=frozenset((*former, *instead.split())),
            past=relation in ("be", "name") and bool({"was", "were"} & set(verb)),
        )
    return None


def _by_verb(words: list[str], capitals: frozenset[str], *, cue: bool) -> Statement | None:
    """A statement with any other verb: the word after a pronoun, or the first word that may be a third-person verb."""
    if words[:1] == ["please"]:
        words = words[1:]
    if words and words[0] in _ORDERS:
        words = ["you", *words]
    if len(words) == 2 and words[0] in _PERSON and words[1] not in _AUXILIARY:
        return Statement(
            subject=_subject(words[0]), relation=str(_stemmer.stemWord(words[1])), value=value_of("", capitals)
        )
    if len(words) < 3:
        return None
    if words[0] in _PERSON:
        place = 1
    else:
        first = 2 if words[0] in _DETERMINERS or words[0].endswith("'s") else 1
        place = next(
            (i for i in range(first, min(len(words) - 1, 6)) if _third_person(words[i]) or _plain_verb(words, i)), 0
        )
    if not place or place >= len(words) - 1 or words[place] in _AUXILIARY:
        return None
    subject = _subject(" ".join(words[:place]))
    verb = "event" if _past(words[place]) else str(_stemmer.stemWord(_SHORT_VERBS.get(words[place], words[place])))
    rest = words[place + 1 :]
    preposition = ""
    if rest[0] in (*PREPOSITIONS, "me", "us") and len(rest) > 1:
        preposition, rest = f" {rest[0]}", rest[1:]
    text, scope = _scoped(" ".join(rest))
    text, _, instead = text.partition(" instead of ")
    if not subject or not text:
        return None
    return Statement(
        subject=subject,
        relation=f"{verb}{preposition}",
        value=value_of(text, capitals),
        scope=scope,
        changes=cue,
        former=frozenset(instead.split()),
    )


def _at_home(subject: tuple[str, ...], relation: str, text: str) -> tuple[tuple[str, ...], str, str]:
    """Turn a statement about a home ("my flat is in oslo") into one about where its owner lives."""
    if relation == "be" and len(subject) == 2 and subject[1] in _HOMES:
        return ("i",), "live", text.removeprefix("in ")
    return subject, relation, text


def gathers(relation: str) -> bool:
    """Whether a verb's newer value leaves the older one true: a person who likes coffee may like tea too."""
    return relation.split()[0] in _GATHERING


def _plain_verb(words: list[str], place: int) -> bool:
    """Whether a word is a plain verb after a plural, or one of the short verbs such as "has"."""
    return words[place] in _SHORT_VERBS or (words[place] in _PLURAL_VERBS and words[place - 1].endswith("s"))


def _past(verb: str) -> bool:
    return verb in _HAPPENED or (verb.endswith("ed") and verb not in ("need", "feed", "bleed", "breed", "speed"))


def _third_person(word: str) -> bool:
    return len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "'s", "us", "is")) and word.isalpha()


def _scoped(value: str) -> tuple[str, tuple[str, ...]]:
    """Split a value from its scope: "tabs for python" is "tabs", for "python"."""
    head, found, rest = value.partition(" for ")
    head = re.split(r",| because | since | which | where | when | so that | after | before ", head, maxsplit=1)[0]
    return head.strip(), tuple(rest.split()) if found else ()


def _subject(text: str) -> tuple[str, ...]:
    words = [
        word for word in text.strip(" ,").split() if word not in ("new", "current", "latest", "present", "updated")
    ]
    if not words or words[0] in _VAGUE or len(words) > 7:
        return ()
    return tuple("the" if word == "our" else word for word in words)


def standing(text: str, role: str) -> int:
    """`RULE` or `PREFERENCE`; 0 for a record that is neither, or not a user's or the system's.

    >>> standing("Always use tabs.", "user"), standing("I prefer tea.", "user"), standing("I have tea.", "user")
    (2, 1, 0)
    """
    if role not in ("user", "system") or len(text) > LONGEST_PREFERENCE:
        return 0
    if len(text) <= LONGEST_RULE and _RULE.search(text):
        return RULE
    return PREFERENCE if _PREFERENCE.search(text) else 0
