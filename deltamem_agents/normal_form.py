"""Unicode normal forms in time linear in the length of the text.

Sorting a run of combining marks takes time quadratic in its length. Real text has a few marks in a row; longer runs are
normalised in parts.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

LONGEST = 256  # non-ASCII characters normalised together; an ASCII character never combines with one before it
_PARTS = re.compile(
    # A part never ends before a mark or within a syllable.
    rf"[\x00-\x7f]*[^\x00-\x7f]{{0,{LONGEST}}}"
    r"[\u0300-\u036f\u1100-\u11ff\u3099\u309a\u3131-\u318e\uff9e\uff9f\uffa1-\uffdc]{0,32}"
)


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
