# mypy: ignore-errors
"""The scan over tokens, both directions: device code. Host side: ``scan.py``; derivation: ``README.md``.

A tile is X [REGISTERS, LANES, SPREAD]: one state row per lane, its element j = spread · REGISTERS + register. One warp
runs per program, so axis 0 lies in a thread's registers and axes 1 and 2 across its threads: nothing passes through
shared memory, and at ranks up to 8 (SPREAD 1) no thread needs another's numbers.
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
    lane = tl.program_id(0) * LANES + tl.zeros([1, LANES, SPREAD], tl.int32) + tl.arange(0, LANES)[None, :, None]
    m = tl.full([1, LANES, SPREAD], RANK, tl.int32)
    if MAPS:
        m = FIRST + lane % (RANK + 1 - FIRST)
        lane = lane // (RANK + 1 - FIRST)
    i = lane % RANK
    chunk = lane // RANK % chunks
    n = lane // RANK // chunks
    j = element(REGISTERS, SPREAD)
    active = n < sequences
    stored = active & (j < RANK)
    row = lane.to(tl.int64) * RANK
    if MAPS:
        x = tl.where(j == m, 1.0, 0.0) + tl.zeros([REGISTERS, LANES, SPREAD], tl.float32)
    else:
        x = tl.load(start + row + j, mask=stored, other=0.0)
    first = chunk * length
    token = n.to(tl.int64) * tokens + first
    saved = (n.to(tl.int64) * blocks * RANK + i) * RANK

    at = (token + (length - 1 if REVERSE else 0)) * RANK
    left = tl.where(active, tokens - first, 0)
    for begun in range(0, length, TOKENS):
        if SAVE:  # noqa: SIM102  (known at compile time; the inner one is not)
            if begun % BLOCK == 0:
                block = (first + (length - BLOCK - begun if REVERSE else begun)) // BLOCK
                place = saved + block.to(tl.int64) * (RANK * RANK)
                tl.store(checkpoints + place + j, x, mask=stored & (block < blocks))
        # All loads are issued before the first is used, so that they overlap.
        batch = _batch(
            q, k, v, keep, erase, write, mask, d_reads, at, i, j, left, begun, length,
            RANK, TOKENS, REVERSE, MAPS, MASKED,
        )  # fmt: skip
        for u in tl.static_range(TOKENS):
            keys, queries, values, written, kept, erased, valid = batch[u]
            keys, queries, values = keys.to(tl.float32), queries.to(tl.float32), values.to(tl.float32)
            added = values if REVERSE else values * written.to(tl.float32)
            if MAPS:
                added = tl.where(m == RANK, added, 0.0)
            predicted = dot(x, keys)
            step = begun + u
            if MAPS:
                # Never happens, but ptxas cannot know: a store in between keeps it from moving each load back to its
                # use to save registers, which would serialise the loads.
                tl.store(end + row, predicted, mask=i < 0)
            elif REVERSE:
                tl.store(along + at - step * RANK + i, predicted, mask=length - 1 - step < left)
            else:
                read = dot(x, queries)
                if MASKED:
                    read = tl.where(valid != 0, read, 0.0)
                tl.store(along + at + step * RANK + i, read, mask=step < left)
            changed = kept.to(tl.float32) * x
            if REVERSE:
                changed += added * queries - (erased.to(tl.float32) * predicted) * keys
            else:
                changed += (added - erased.to(tl.float32) * predicted) * keys
            x = tl.where(valid != 0, changed, x) if MASKED else changed

    if MAPS:
        # The chain takes maps alternately along either axis of its tile, so every second one is stored transposed.
        turn = (chunks - 1 - chunk if REVERSE else chunk) % 2
        place = tl.where((turn == 1) & (m < RANK), m + j * RANK, m * RANK + j)
        tl.store(end + row * (RANK + 1) + place, x, mask=stored)
    else:
        last = chunk == (0 if REVERSE else chunks - 1)
        tl.store(end + (n.to(tl.int64) * RANK + i) * RANK + j, x, mask=stored & last)


@triton.jit(do_not_specialize=["chunks"])
def chain(maps, state, starts, chunks, RANK: tl.constexpr, PADDED: tl.constexpr, REVERSE: tl.constexpr):
    """Compute each chunk's start state from the previous one and its map: x <- x A + b; one row per program.

    ``maps`` [N, chunks, R, R + 1, R]: A, transposed for every second chunk in the order of walking, then b.
    ``state`` [N, R, R] comes before the first chunk; ``starts`` is [N, chunks, R, R].
    """
    i = tl.program_id(0) % RANK
    n = (tl.program_id(0) // RANK).to(tl.int64)
    down = tl.arange(0, PADDED)[:, None]
    across = tl.arange(0, PADDED)[None, :]
    maps += (n * chunks * RANK + i) * ((RANK + 1) * RANK)
    starts += (n * chunks * RANK + i) * RANK
    x = tl.load(state + (n * RANK + i) * RANK + down, mask=down < RANK, other=0.0)
    a, a_added, b, b_added = _pair(maps, 0, chunks, down, across, RANK, REVERSE)
    for turn in range(0, chunks, 2):
        # The next two maps are being loaded while these two are used.
        c, c_added, d, d_added = _pair(maps, turn + 2, chunks, down, across, RANK, REVERSE)
        here = chunks - 1 - turn if REVERSE else turn
        there = here - 1 if REVERSE else here + 1
        tl.store(starts + here.to(tl.int64) * (RANK * RANK) + down, x, mask=down < RANK)
        y = tl.sum(a * x, axis=0, keep_dims=True) + a_added
        tl.store(
            starts + there.to(tl.int64) * (RANK * RANK) + across,
            y,
            mask=(across < RANK) & (across * 0 + turn + 1 < chunks),
        )
        x = tl.sum(b * y, axis=1, keep_dims=True) + b_added
        a, a_added, b, b_added = c, c_added, d, d_added


@triton.jit
def _pair(maps, turn, chunks, down, across, RANK: tl.constexpr, REVERSE: tl.constexpr):
    """The maps of two chunks: the first takes a vector along axis 0 to one along axis 1, the second back."""
    inside = (down < RANK) & (across < RANK)
    chunk = (chunks - 1 - turn if REVERSE else turn) + tl.zeros([1, 1], tl.int64)
    first = maps + chunk * (RANK * (RANK + 1) * RANK)
    second = first + (-1 if REVERSE else 1) * (RANK * (RANK + 1) * RANK)
    place = down * RANK + across
    turn += tl.zeros([1, 1], tl.int32)  # a tensor: the interpreter accepts no mask made only of numbers
    one, two = turn < chunks, turn + 1 < chunks
    a = tl.load(first + place, mask=inside & one, other=0.0)
    a_added = tl.load(first + RANK * RANK + across, mask=(across < RANK) & one, other=0.0)
    b = tl.load(second + place, mask=inside & two, other=0.0)
    b_added = tl.load(second + RANK * RANK + down, mask=(down < RANK) & two, other=0.0)
    return a, a_added, b, b_added


@triton.jit
def element(REGISTERS: tl.constexpr, SPREAD: tl.constexpr):
    """The column j of each element of a tile: [REGISTERS, 1, SPREAD].

    Declaring neighbours not contiguous keeps Triton from loading along j in a layout of its own, from which every token
    would have to be moved between threads into this one. (Each thread's own are still loaded four at a time.)
    """
    registers = tl.max_contiguous(tl.arange(0, REGISTERS), [1])
    spread = tl.max_contiguous(tl.arange(0, SPREAD), [1])
    return spread[None, None, :] * REGISTERS + registers[:, None, None]


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
    TOKENS: tl.constexpr,
    REVERSE: tl.constexpr,
    MAPS: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Load what TOKENS tokens need, as it lies in memory: nothing here waits for a load.

    ``at`` is the offset of the chunk's first token in walking order, ``left`` the number of tokens from the chunk's
    beginning on. A missing token changes nothing: keep one, the rest zero.
    """
    batch = ()
    for u in tl.static_range(TOKENS):
        step = begun + u
        live = (length - 1 - step if REVERSE else step) < left
        here = at + (-step if REVERSE else step) * RANK
        columns = live & (j < RANK)
        keys = tl.load(k + here + j, mask=columns, other=0.0)
        kept = tl.load(keep + here + i, mask=live, other=1.0)
        erased = tl.load(erase + here + i, mask=live, other=0.0)
        if REVERSE:
            values = tl.load(d_reads + here + i, mask=live, other=0.0)
            written = values
        else:
            values = tl.load(v + here + i, mask=live, other=0.0)
            written = tl.load(write + here + i, mask=live, other=0.0)
        queries = keys
        if REVERSE or not MAPS:
            queries = tl.load(q + here + j, mask=columns, other=0.0)
        valid = kept
        if MASKED:
            valid = tl.load(mask + here // RANK, mask=live, other=0).to(tl.int8)
        batch += ((keys, queries, values, written, kept, erased, valid),)
    return batch


@triton.jit
def dot(x, y):
    """Dot product of rows: the sum over both axes that hold j."""
    return tl.sum(tl.sum(x * y, axis=0, keep_dims=True), axis=2, keep_dims=True)
