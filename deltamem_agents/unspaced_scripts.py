"""Scripts without spaces between words, for full-text indexes, which would take a whole sentence for one word.

Their characters are indexed one by one in a separate column, and matched as pairs of neighbours.
"""

from __future__ import annotations

import re

UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)


def spelled_out(content: str) -> str | None:
    """Space out the characters of unspaced scripts; None if there are none. The text must be in its search form.

    >>> spelled_out("我住在Oslo")
    '我 住 在'
    """
    runs = UNSPACED.findall(content)
    return " \n".join(" ".join(run) for run in runs) if runs else None
