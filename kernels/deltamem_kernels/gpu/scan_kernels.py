# mypy: ignore-errors
"""The scan over tokens, both directions: device code. Host side: ``scan.py``; derivation: ``README.md``.

A row of a state is a tuple of REGISTERS tensors of one dimension, [LANES · SPREAD]: thread t holds elements
j = t % SPREAD · REGISTERS + register of the row of lane t // SPREAD. One dimension leaves no layout to choose, so that
no version of Triton moves a number from thread to thread but in `dot`, and there by shuffles alone; at ranks up to 8
(SPREAD 1) no thread needs another's numbers.
"""

import triton
import triton.language as tl


# Sizes are not specialised: another sequence length must not trigger a compilation.
@triton.jit(do_not_specialize=["sequences", "tokens", "chunks", "length", "blocks"])
def walk(
    q,
    k,
    v,
    keep,
    erase,
    write,
    mask,
    d_reads,
    start,
    end,
    along,
    checkpoints,
    sequences,
    tokens,
    chunks,
    length,
    blocks,
    RANK: tl.constexpr,
    REGISTERS: tl.constexpr,
    LANES: tl.constexpr,
    SPREAD: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    REVERSE: tl.constexpr,
    MAPS: tl.constexpr,
    FIRST: tl.constexpr,
    MASKED: tl.constexpr,
    SAVE: tl.constexpr,
):
    """Walk every chunk of ``length`` tokens, all chunks at once; grid [lanes / LANES].

        forward   X <- keep X + (write v − erase ⟨X,k⟩) k       before that, along = ⟨X,q⟩: the reads
        reverse   X <- keep X + d_reads q − erase ⟨X,k⟩ k       before that, along = ⟨X,k⟩; tokens from last to first

    MAPS: a lane is (sequence, chunk, i, m), m from FIRST (0 or RANK) to RANK. The basis vector m or, for m = RANK, the
    zero row plus what the tokens add, passes through the chunk, and ``end`` is the chunk's map as `chain` reads it; if
    FIRST is RANK, only the row of it that scan_maps leaves out. Otherwise a lane is (sequence, chunk, i); it begins at
    ``start`` [N, chunks, R, R] and fills ``along`` [N, T, R], and the last chunk leaves ``end`` [N, R, R].
    SAVE: X at the beginning (reverse: end) of every BLOCK tokens goes to ``checkpoints`` [N, blocks, R, R].
    """
    thread = tl.arange(0, LANES * SPREAD)
    lane = tl.program_id(0) * LANES + thread // SPREAD
    m = tl.full([LANES * SPREAD], RANK, tl.int32)
    if MAPS:
        m = FIRST + lane % (RANK + 1 - FIRST)
        lane = lane // (RANK + 1 - FIRST)
    i = lane % RANK
    chunk = lane // RANK % chunks
    n = lane // RANK // chunks
    j = columns(thread, REGISTERS, SPREAD)
    active = n < sequences
    row = lane.to(tl.int64) * RANK
    x = ()
    for g in tl.static_range(REGISTERS):
        if MAPS:
            x += (tl.where(j[g] == m, 1.0, 0.0),)
        else:
            x += (tl.load(start + row + j[g], mask=active & (j[g] < RANK), other=0.0),)
    first = chunk * length
    token = n.to(tl.int64) * tokens + first
    saved = (n.to(tl.int64) * blocks * RANK + i) * RANK

    at = (token + (length - 1 if REVERSE else 0)) * RANK
    left = tl.where(active, tokens - first, 0)
    alone = thread % SPREAD == 0  # of the threads that share a lane, and so its sums
    for begun in range(0, length, TOKENS):
        if SAVE:  # noqa: SIM102  (known at compile time; the inner one is not)
            if begun % BLOCK == 0:
                begins = length - BLOCK - begun if REVERSE else begun
                place = saved + ((first + begins) // BLOCK).to(tl.int64) * (RANK * RANK)
                for g in tl.static_range(REGISTERS):
                    tl.store(checkpoints + place + j[g], x[g], mask=(begins < left) & (j[g] < RANK))
        # All loads are issued before the first is used, so that they overlap.
        keys, queries, values, written, kept, erased, valid = _batch(
            q, k, v, keep, erase, write, mask, d_reads, at, i, j, left, begun, length,
            RANK, REGISTERS, SPREAD, TOKENS, REVERSE, MAPS, MASKED,
        )  # fmt: skip
        for u in tl.static_range(TOKENS):
            keeping, erasing = kept[u].to(tl.float32), erased[u].to(tl.float32)
            added = values[u].to(tl.float32)
            if not REVERSE:
                added *= written[u].to(tl.float32)
            if MAPS:
                added = tl.where(m == RANK, added, 0.0)
            predicted = dot(x, keys, u * REGISTERS, REGISTERS, LANES, SPREAD)
            step = begun + u
            if MAPS:
                # Never happens, but ptxas cannot know: a store in between keeps it from moving each load back to its
                # use to save registers, which would serialise the loads.
                tl.store(end + row, predicted, mask=i < 0)
            elif REVERSE:
                tl.store(along + at - step * RANK + i, predicted, mask=alone & (length - 1 - step < left))
            else:
                read = dot(x, queries, u * REGISTERS, REGISTERS, LANES, SPREAD)
                if MASKED:
                    read = tl.where(valid[u] != 0, read, 0.0)
                tl.store(along + at + step * RANK + i, read, mask=alone & (step < left))
            change = -(erasing * predicted) if REVERSE else added - erasing * predicted
            moved = ()
            for g in tl.static_range(REGISTERS):
                changed = keeping * x[g] + change * keys[u * REGISTERS + g].to(tl.float32)
                if REVERSE:
                    changed += added * queries[u * REGISTERS + g].to(tl.float32)
                moved += (tl.where(valid[u] != 0, changed, x[g]) if MASKED else changed,)
            x = moved

    if MAPS:
        # The chain takes maps alternately along either axis of its tile, so every second one is stored transposed.
        turned = ((chunks - 1 - chunk if REVERSE else chunk) % 2 == 1) & (m < RANK)
        for g in tl.static_range(REGISTERS):
            place = tl.where(turned, m + j[g] * RANK, m * RANK + j[g])
            tl.store(end + row * (RANK + 1) + place, x[g], mask=active & (j[g] < RANK))
    else:
        last = active & (chunk == (0 if REVERSE else chunks - 1))
        for g in tl.static_range(REGISTERS):
            tl.store(end + (n.to(tl.int64) * RANK + i) * RANK + j[g], x[g], mask=last & (j[g] < RANK))


@triton.jit(do_not_specialize=["chunks"])
def chain(
    maps, state, starts, chunks, RANK: tl.constexpr, PADDED: tl.constexpr, DOWN: tl.constexpr, REVERSE: tl.constexpr
):
    """Compute each chunk's start state from the previous one and its map: x <- x A + b; one row per program.

    ``maps`` [N, chunks, R, R + 1, R]: A, transposed for every second chunk in the order of walking, then b.
    ``state`` [N, R, R] comes before the first chunk; ``starts`` is [N, chunks, R, R]. Thread t has column t % PADDED of
    a map, and its rows register · DOWN + t // PADDED.
    """
    i = tl.program_id(0) % RANK
    n = (tl.program_id(0) // RANK).to(tl.int64)
    thread = tl.arange(0, DOWN * PADDED)
    across, first = thread % PADDED, thread // PADDED
    maps += (n * chunks * RANK + i) * ((RANK + 1) * RANK)
    starts += (n * chunks * RANK + i) * RANK
    x = ()
    for g in tl.static_range(PADDED // DOWN):
        down = g * DOWN + first
        x += (tl.load(state + (n * RANK + i) * RANK + down, mask=down < RANK, other=0.0),)
    a, a_added, b, b_added = _pair(maps, 0, chunks, across, first, RANK, PADDED, DOWN, REVERSE)
    for turn in range(0, chunks, 2):
        # The next two maps are being loaded while these two are used.
        c, c_added, d, d_added = _pair(maps, turn + 2, chunks, across, first, RANK, PADDED, DOWN, REVERSE)
        here = chunks - 1 - turn if REVERSE else turn
        there = here - 1 if REVERSE else here + 1
        here, there = here.to(tl.int64) * (RANK * RANK), there.to(tl.int64) * (RANK * RANK)
        y = tl.zeros([DOWN * PADDED], tl.float32)
        for g in tl.static_range(PADDED // DOWN):
            down = g * DOWN + first
            tl.store(starts + here + down, x[g], mask=(down < RANK) & (across == 0))
            y += a[g] * x[g]
        y = _sum_down(y, DOWN, PADDED) + a_added
        # A tensor takes part in every comparison: the interpreter accepts no mask made only of numbers.
        tl.store(starts + there + across, y, mask=(across < RANK) & (first == 0) & (first * 0 + turn + 1 < chunks))
        moved = ()
        for g in tl.static_range(PADDED // DOWN):
            moved += (neighbours_sum(b[g] * y, DOWN, PADDED) + b_added[g],)
        x = moved
        a, a_added, b, b_added = c, c_added, d, d_added


@triton.jit
def _pair(
    maps, turn, chunks, across, first, RANK: tl.constexpr, PADDED: tl.constexpr, DOWN: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """The maps of two chunks: the first takes a vector by rows to one by columns, the second back."""
    chunk = (chunks - 1 - turn if REVERSE else turn) + tl.zeros([DOWN * PADDED], tl.int64)
    one = maps + chunk * (RANK * (RANK + 1) * RANK)
    two = one + (-1 if REVERSE else 1) * (RANK * (RANK + 1) * RANK)
    turn += tl.zeros([DOWN * PADDED], tl.int32)
    has_one, has_two = turn < chunks, turn + 1 < chunks
    a, b, b_added = (), (), ()
    for g in tl.static_range(PADDED // DOWN):
        down = g * DOWN + first
        inside = (down < RANK) & (across < RANK)
        a += (tl.load(one + down * RANK + across, mask=inside & has_one, other=0.0),)
        b += (tl.load(two + down * RANK + across, mask=inside & has_two, other=0.0),)
        b_added += (tl.load(two + RANK * RANK + down, mask=(down < RANK) & has_two, other=0.0),)
    a_added = tl.load(one + RANK * RANK + across, mask=(across < RANK) & has_one, other=0.0)
    return a, a_added, b, b_added


@triton.jit
def _sum_down(x, DOWN: tl.constexpr, PADDED: tl.constexpr):
    """The sum over the threads of one column, in all of them."""
    if DOWN == 1:
        return x
    else:
        tile = tl.reshape(x, [DOWN, PADDED])
        total = tl.broadcast_to(tl.sum(tile, axis=0, keep_dims=True), [DOWN, PADDED])
        return tl.reshape(total, [DOWN * PADDED])


@triton.jit
def columns(thread, REGISTERS: tl.constexpr, SPREAD: tl.constexpr):
    """The columns that each thread holds, one a register."""
    found = ()
    for g in tl.static_range(REGISTERS):
        found += (thread % SPREAD * REGISTERS + g,)
    return found


@triton.jit
def _batch(
    q,
    k,
    v,
    keep,
    erase,
    write,
    mask,
    d_reads,
    at,
    i,
    j,
    left,
    begun,
    length,
    RANK: tl.constexpr,
    REGISTERS: tl.constexpr,
    SPREAD: tl.constexpr,
    TOKENS: tl.constexpr,
    REVERSE: tl.constexpr,
    MAPS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Load what TOKENS tokens need, as it lies in memory: nothing here waits for a load.

    Keys and queries are tuples of TOKENS · REGISTERS, the others of TOKENS. (Triton 3.3 returns no deeper tuples.)
    ``at`` is the offset of the chunk's first token in walking order, ``left`` the number of tokens from the chunk's
    beginning on. A missing token changes nothing: keep one, the rest zero.
    """
    keys, queries, values, written, kept, erased, valid = (), (), (), (), (), (), ()
    for u in tl.static_range(TOKENS):
        step = begun + u
        live = (length - 1 - step if REVERSE else step) < left
        here = at + (-step if REVERSE else step) * RANK
        keys += row_of(k + here, j, live, RANK, REGISTERS, SPREAD)
        if REVERSE or not MAPS:
            queries += row_of(q + here, j, live, RANK, REGISTERS, SPREAD)
        values += (tl.load((d_reads if REVERSE else v) + here + i, mask=live, other=0.0),)
        if not REVERSE:
            written += (tl.load(write + here + i, mask=live, other=0.0),)
        kept += (tl.load(keep + here + i, mask=live, other=1.0),)
        erased += (tl.load(erase + here + i, mask=live, other=0.0),)
        if MASKED:
            valid += (tl.load(mask + here // RANK, mask=live, other=0).to(tl.int8),)
    return keys, queries, values, written, kept, erased, valid


@triton.jit
def row_of(x, j, live, RANK: tl.constexpr, REGISTERS: tl.constexpr, SPREAD: tl.constexpr):
    """Each thread's columns ``j`` of the vector at ``x``; zero where it is not live, or there is no such column."""
    row = ()
    for g in tl.static_range(REGISTERS):
        if RANK == REGISTERS * SPREAD:
            row += (tl.load(x + j[g], mask=live, other=0.0),)
        else:
            row += (tl.load(x + j[g], mask=live & (j[g] < RANK), other=0.0),)
    return row


@triton.jit
def dot(x, y, FIRST: tl.constexpr, REGISTERS: tl.constexpr, LANES: tl.constexpr, SPREAD: tl.constexpr):
    """Dot product of x and y[FIRST:], known to all threads that hold a part of the row."""
    total = x[0] * y[FIRST].to(tl.float32)
    for g in tl.static_range(1, REGISTERS):
        total += x[g] * y[FIRST + g].to(tl.float32)
    return neighbours_sum(total, LANES, SPREAD)


@triton.jit
def neighbours_sum(x, LANES: tl.constexpr, SPREAD: tl.constexpr):
    """The sum over the SPREAD threads of each lane, in all of them."""
    if SPREAD == 1:
        return x
    else:
        pairs = tl.reshape(x, [LANES, SPREAD])
        total = tl.broadcast_to(tl.sum(pairs, axis=1, keep_dims=True), [LANES, SPREAD])
        return tl.reshape(total, [LANES * SPREAD])
