"""Unicode's normal forms, in time that grows with the text and not with its square.

Putting a run of combining marks in order takes the square of its length. Real text has a few marks in a row; a longer
run is normalised in parts.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

LONGEST = 256  # characters in a row that are not ASCII, normalised together; no ASCII character joins one before it
_PARTS = re.compile(
    # Not before a mark, or half of a syllable.
    rf"[\x00-\x7f]*[^\x00-\x7f]{{0,{LONGEST}}}"
    r"[\u0300-\u036f\u1100-\u11ff\u3099\u309a\u3131-\u318e\uff9e\uff9f\uffa1-\uffdc]{0,32}"
)


def normalized(form: Literal["NFC", "NFD", "NFKC"], text: str) -> str:
    """A text in a normal form.

    >>> normalized("NFC", "Zu\u0308rich") == "Z\u00fcrich"
    True
    """
    if text.isascii():
        return text
    if len(text) <= LONGEST:
        return unicodedata.normalize(form, text)
    return "".join(unicodedata.normalize(form, part) for part in _PARTS.findall(text))
