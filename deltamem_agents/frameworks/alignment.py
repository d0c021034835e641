"""Aligns two sequences by a longest common subsequence, keeping runs of adjacent elements together.

Knows nothing of messages. Each row of the table is one integer of bits, so a row takes a few operations whatever its
length (H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def aligned(known: Sequence[Hashable], given: Sequence[Hashable]) -> list[tuple[int, int]]:
    """The largest set of pairs of equal elements: indices into ``given`` and ``known``, both in rising order.

    Of several alignments, chooses the one nearest to the end of ``known``. Then pairs adjacent elements of ``given``
    with adjacent elements of ``known`` where these are equal too.

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
    """Pairs of indices into ``given`` and ``known``, the last pair first."""
    columns: dict[Hashable, int] = {}
    for place, each in enumerate(known):
        columns[each] = columns.get(each, 0) | 1 << place
    full = (1 << len(known)) - 1
    rows, bits = [full], full
    for each in given:
        met = bits & columns.get(each, 0)
        bits = ((bits + met) | (bits - met)) & full
        rows.append(bits)
    # A bit of a row is 0 if the longest common subsequence is shorter one column before.
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
