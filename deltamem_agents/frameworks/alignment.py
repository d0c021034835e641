"""Aligns what comes with what is known: a longest common subsequence, the runs of which stay together.

Knows nothing of messages. The bits of one row of the table are one integer, so a row takes a few operations, whatever
its length (H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def aligned(known: Sequence[Hashable], given: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of equal elements, as many as there can be: places in ``given`` and in ``known``, both in rising order.

    Of several ways, the one nearest to the end of ``known``; then elements that follow one another in ``given`` are
    paired with such as follow one another in ``known``, where those are equal too.

    >>> aligned("abcb", "ab")
    [(0, 0), (1, 1)]
    >>> aligned("okAokB", "okBx")
    [(0, 3), (1, 4), (2, 5)]
    """
    shared = set(known) & set(given)
    ours = [place for place, each in enumerate(known) if each in shared]
    theirs = [place for place, each in enumerate(given) if each in shared]
    pairs = _longest([known[place] for place in reversed(ours)], [given[place] for place in reversed(theirs)])
    last_ours, last_theirs = len(ours) - 1, len(theirs) - 1
    return _kept_together(known, given, [(theirs[last_theirs - i], ours[last_ours - j]) for i, j in pairs])


def _longest(known: Sequence[Hashable], given: Sequence[Hashable]) -> list[tuple[int, int]]:
    """Pairs of places in ``given`` and in ``known``, the last first."""
    columns: dict[Hashable, int] = {}
    for place, each in enumerate(known):
        columns[each] = columns.get(each, 0) | 1 << place
    full = (1 << len(known)) - 1
    rows, bits = [full], full
    for each in given:
        met = bits & columns.get(each, 0)
        bits = ((bits + met) | (bits - met)) & full
        rows.append(bits)
    # A bit of a row is 0 where the column before has a shorter longest subsequence.
    pairs, row, column = [], len(given), len(known)
    while row and column:
        if rows[row] >> column - 1 & 1:
            column -= 1
        elif not rows[row - 1] >> column - 1 & 1:
            row -= 1
        else:
            row, column = row - 1, column - 1
            pairs.append((row, column))
    return pairs


def _kept_together(
    known: Sequence[Hashable], given: Sequence[Hashable], pairs: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    kept: list[tuple[int, int]] = []
    for place, other in pairs:
        follows = bool(kept) and kept[-1][0] == place - 1
        beside = kept[-1][1] + 1 if follows else other
        kept.append((place, beside if known[beside] == given[place] else other))
    return kept
