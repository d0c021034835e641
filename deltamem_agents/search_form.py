"""The form in which texts are searched: compatibility forms, invisible characters, accents and case are ignored.

Full-width letters, ligatures and superscripts become plain ones (NFKC). Soft hyphens, zero-width characters, variation
selectors and bidirectional controls are dropped (Unicode's Default_Ignorable_Code_Point). Only searched and embedded
text takes this form; stored and displayed text stays as written.

Scripts without spaces between words are indexed one character at a time in a separate column, and matched as pairs of
neighbours: a full-text index would take a whole sentence for one word. Sorting a run of combining marks takes time
quadratic in its length; long runs are normalised in parts.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Literal

_JOINERS = "\u200c\u200d"  # zero-width: Persian and Indic scripts spell with them
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_DROPPED = re.compile(f"[{_INVISIBLE}{_JOINERS}]+")
_NOT_EMBEDDED = re.compile(  # joiners stay after an emoji or a letter of a script that needs them
    f"[{_INVISIBLE}]+|(?<![\u0600-\u1cff\u2190-\u2bff\ua800-\uabff\U00010000-\U0001ffff])[{_JOINERS}]+"
)
# Characters that end a word for some writers and continue it for others: Persian's zero-width non-joiner; superscripts,
# which may be footnotes; symbols that stand for letters. Both readings are searched.
_EITHER = re.compile(
    "[\u200c\u00b2\u00b3\u00b9\u2070-\u209f\u2100-\u214f\u2460-\u24ff\u3200-\u33ff\U0001f100-\U0001f2ff]"
)
_CHUNK = re.compile(r"\S+")
_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0640\u064b-\u0652\u0670]")  # accents, and optional vowels
_ALONE = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ı": "i", "ŋ": "n", "ĸ": "k"}  # keys are case-folded

LONGEST = 256  # non-ASCII characters normalised together; an ASCII character never combines with one before it
_PARTS = re.compile(
    # A part never ends before a mark or within a syllable.
    rf"[\x00-\x7f]*[^\x00-\x7f]{{0,{LONGEST}}}"
    r"[\u0300-\u036f\u1100-\u11ff\u3099\u309a\u3131-\u318e\uff9e\uff9f\uffa1-\uffdc]{0,32}"
)
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def search_form(text: str, *, both: bool = True) -> str:
    """Convert a text to its search form; case and accents are kept.

    Args:
        both: Whether a word with two readings appears in both.

    >>> search_form("pass\\u200bword ＡＢ９"), search_form("25 m²")
    ('password AB9', '25 m2 m 2')
    """
    if text.isascii():
        return text
    if both and _EITHER.search(text):
        text = _CHUNK.sub(_both_ways, text)
    return normalized("NFKC", _DROPPED.sub("", text))


def embedded_form(text: str) -> str:
    """Convert a text to the form that an embedder gets.

    >>> embedded_form("ﬁle ４４１７"), embedded_form("می\\u200cروم") == "می\\u200cروم"
    ('file 4417', True)
    """
    return text if text.isascii() else normalized("NFKC", _NOT_EMBEDDED.sub("", text))


def compared_form(text: str) -> str:
    """Convert a text so that texts that look alike are equal, whatever their composition, invisibles and whitespace.

    >>> compared_form("Zu\\u0308 rich\\u200b") == compared_form("Z\\u00fcrich")
    True
    """
    visible = text if text.isascii() else normalized("NFD", _DROPPED.sub("", text))
    return "".join(visible.split())


def folded(text: str) -> str:
    """Convert a text to lower case without accents; letters such as these become their plain forms.

    >>> folded("Łódź"), folded("Straße")
    ('lodz', 'strasse')
    """
    text = text.casefold()
    if text.isascii():
        return text
    plain = _MARKS.sub("", normalized("NFD", text))
    return plain if plain.isascii() else normalized("NFC", "".join(map(_plain, plain)))


def words_of(chunk: str) -> list[str]:
    """Split into runs of letters, digits and their marks (`str.isalnum` is false for Hindi's vowel signs)."""
    if chunk.isascii() and chunk.isalnum():
        return [chunk]
    kept = (character if unicodedata.category(character)[0] in "LNM" else " " for character in chunk)
    return "".join(kept).split()


def _both_ways(found: re.Match[str]) -> str:
    chunk = found.group()
    apart = _EITHER.sub(_apart, chunk)
    return chunk if apart == chunk else f"{chunk} {apart.strip()}"


def _apart(found: re.Match[str]) -> str:
    character = found.group()
    if character == "\u200c":
        return " "
    spelled = unicodedata.normalize("NFKC", character)
    return f" {character} " if unicodedata.category(character) != "Lu" and any(map(str.isalnum, spelled)) else character


@lru_cache(4096)
def _plain(character: str) -> str:
    """The Latin letter without its stroke, hook or tail."""
    if character < "\x80":
        return character
    if character in _ALONE:
        return _ALONE[character]
    name = unicodedata.name(character, "")
    if not name.startswith("LATIN ") or " WITH " not in name:
        return character
    try:
        return unicodedata.lookup(name.partition(" WITH ")[0])
    except KeyError:
        return character


def normalized(form: Literal["NFC", "NFD", "NFKC"], text: str) -> str:
    """Convert a text to a normal form.

    >>> normalized("NFC", "Zu\u0308rich") == "Z\u00fcrich"
    True
    """
    if text.isascii():
        return text
    if len(text) <= LONGEST:
        return unicodedata.normalize(form, text)
    return "".join(unicodedata.normalize(form, part) for part in _PARTS.findall(text))


def spelled_out(content: str) -> str | None:
    """Space out the characters of unspaced scripts; None if there are none. The text must be in its search form.

    >>> spelled_out("我住在Oslo")
    '我 住 在'
    """
    runs = UNSPACED.findall(content)
    return " \n".join(" ".join(run) for run in runs) if runs else None
