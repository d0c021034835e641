"""Texts as they are searched: compatibility forms, invisible characters, accents and case make no difference.

Full-width letters, ligatures and superscripts become plain ones (NFKC). Soft hyphens, zero-width characters, variation
selectors and bidirectional controls are dropped (Unicode's Default_Ignorable_Code_Point). Only what is searched has
this form, or is embedded: what is stored, and shown, stays as it was written.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from deltamem_agents.normal_form import normalized

_JOINERS = "\u200c\u200d"  # zero-width: Persian and Indic scripts spell with them
_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_DROPPED = re.compile(f"[{_INVISIBLE}{_JOINERS}]+")
_NOT_EMBEDDED = re.compile(  # joiners stay after a letter of a script that needs them, or an emoji
    f"[{_INVISIBLE}]+|(?<![\u0600-\u1cff\u2190-\u2bff\ua800-\uabff\U00010000-\U0001ffff])[{_JOINERS}]+"
)
# What ends a word to one writer and continues it to another: Persian's zero-width non-joiner; superscripts, which may
# be footnotes; symbols that stand for letters. Both ways of reading are searched.
_EITHER = re.compile(
    "[\u200c\u00b2\u00b3\u00b9\u2070-\u209f\u2100-\u214f\u2460-\u24ff\u3200-\u33ff\U0001f100-\U0001f2ff]"
)
_CHUNK = re.compile(r"\S+")
_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u0640\u064b-\u0652\u0670]")  # accents, and vowels that may be left out
_ALONE = {"ß": "ss", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d", "ı": "i", "ŋ": "n", "ĸ": "k"}  # case folded


def search_form(text: str, *, both: bool = True) -> str:
    """A text as it is searched; case and accents are still there.

    Args:
        both: Whether a word that can be read in two ways is given both ways.

    >>> search_form("pass\\u200bword ＡＢ９"), search_form("25 m²")
    ('password AB9', '25 m2 m 2')
    """
    if text.isascii():
        return text
    if both and _EITHER.search(text):
        text = _CHUNK.sub(_both_ways, text)
    return normalized("NFKC", _DROPPED.sub("", text))


def embedded_form(text: str) -> str:
    """A text as an embedder gets it.

    >>> embedded_form("ﬁle ４４１７"), embedded_form("می\\u200cروم") == "می\\u200cروم"
    ('file 4417', True)
    """
    return text if text.isascii() else normalized("NFKC", _NOT_EMBEDDED.sub("", text))


def compared_form(text: str) -> str:
    """Equal for texts that look the same: composed or not, with or without invisible characters, whatever whitespace.

    >>> compared_form("Zu\\u0308 rich\\u200b") == compared_form("Z\\u00fcrich")
    True
    """
    visible = text if text.isascii() else normalized("NFD", _DROPPED.sub("", text))
    return "".join(visible.split())


def folded(text: str) -> str:
    """A text in small letters without accents; letters that are others with something to them, as these.

    >>> folded("Łódź"), folded("Straße")
    ('lodz', 'strasse')
    """
    text = text.casefold()
    if text.isascii():
        return text
    plain = _MARKS.sub("", normalized("NFD", text))
    return plain if plain.isascii() else normalized("NFC", "".join(map(_plain, plain)))


def words_of(chunk: str) -> list[str]:
    """Runs of letters, digits and the marks that belong to them (`str.isalnum` is false for Hindi's vowel signs)."""
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
    """A Latin letter without its stroke, hook or tail."""
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
