# mypy: ignore-errors
"""The gradients of the scan's inputs: device code. Host side: ``scan.py``; derivation: ``README.md``.

A program holds a whole state for each of GROUP blocks of BLOCK tokens, as tuples of REGISTERS tensors of one dimension,
[GROUP · ROWS · SPREAD], see ``scan_kernels.py``: thread t holds row t // SPREAD % ROWS of block t // (ROWS · SPREAD).
Sums over j stay within a thread and its neighbours; sums over i cross threads and, at ranks over 16, warps.
"""

import triton
import triton.language as tl

from deltamem_kernels.gpu.scan_kernels import columns, dot, neighbours_sum, row_of


@triton.jit(do_not_specialize=["sequences", "tokens", "blocks"])
def gradients(
    q,
    k,
    v,
    keep,
    erase,
    write,
    mask,
    d_reads,
    states,
    adjoints,
    d_change,
    d_q,
    d_k,
    d_v,
    d_keep,
    d_erase,
    d_write,
    sequences,
    tokens,
    blocks,
    RANK: tl.constexpr,
    REGISTERS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    SPREAD: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Walk each block back from its end; grid [N · blocks / GROUP].

    With S the state before a token and G the gradient of the state after it:

        du = Σ_j G k, given as ``d_change`` [N, T, R];  dv = write du;  dwrite = v du;  dp = −erase du
        derase = −p du;  dkeep = Σ_j G S;  dq = Σ_i dr S;  dk = Σ_i (G u + dp S);  G <- keep G + dp k + dr q

    S is known at the beginning of a block (``states``), G at its end (``adjoints``), both [N, blocks, R, R]. From there
    S is recomputed for every TOKENS tokens, which then stay in registers: no history in memory.
    """
    thread = tl.arange(0, GROUP * ROWS * SPREAD)
    block = tl.program_id(0) * GROUP + thread // (ROWS * SPREAD)
    i = thread // SPREAD % ROWS
    j = columns(thread, REGISTERS, SPREAD)
    n = block // blocks
    active = n < sequences
    inside = active & (i < RANK)
    element = (block.to(tl.int64) * RANK + i) * RANK
    first = block % blocks * BLOCK
    token = n.to(tl.int64) * tokens + first
    alone = thread % SPREAD == 0  # of the threads that share a row, and so its sums
    # Sums over i are known to all rows of a block; row i < REGISTERS stores the column of its register i.
    column = thread % SPREAD * REGISTERS + i
    stores = (i < REGISTERS) & (column < RANK)
    adjoint = row_of(adjoints + element, j, inside, RANK, REGISTERS, SPREAD)

    for back in range(0, BLOCK, TOKENS):
        known = BLOCK - TOKENS - back
        state = row_of(states + element, j, inside, RANK, REGISTERS, SPREAD)
        for step in range(0, known, TOKENS):
            for u in tl.static_range(TOKENS):
                live = active & (first + step + u < tokens)
                keys, values, kept, erased, written, valid = _token(
                    k, v, keep, erase, write, mask, token + step + u, i, j, live,
                    RANK, REGISTERS, SPREAD, MASKED,
                )  # fmt: skip
                change = written * values - erased * dot(state, keys, 0, REGISTERS, GROUP * ROWS, SPREAD)
                state = _moved(state, keys, kept, change, valid, REGISTERS, MASKED)
        # Of each of these tokens, in order: the state before it, and what it adds.
        befores, all_keys, predictions, changes = (), (), (), ()
        all_values, all_kept, all_erased, all_written, valids = (), (), (), (), ()
        for u in tl.static_range(TOKENS):
            live = active & (first + known + u < tokens)
            keys, values, kept, erased, written, valid = _token(
                k, v, keep, erase, write, mask, token + known + u, i, j, live, RANK, REGISTERS, SPREAD, MASKED
            )
            predicted = dot(state, keys, 0, REGISTERS, GROUP * ROWS, SPREAD)
            change = written * values - erased * predicted
            befores += state
            all_keys += keys
            predictions += (predicted,)
            changes += (change,)
            all_values += (values,)
            all_kept += (kept,)
            all_erased += (erased,)
            all_written += (written,)
            valids += (valid,)
            state = _moved(state, keys, kept, change, valid, REGISTERS, MASKED)
        for u in tl.static_range(TOKENS - 1, -1, -1):
            valid = valids[u]
            at = (token + known + u) * RANK
            live = active & (first + known + u < tokens)
            rows = live & (i < RANK)
            d_read = tl.load(d_reads + at + i, mask=rows, other=0.0).to(tl.float32)
            d_changed = tl.load(d_change + at + i, mask=rows, other=0.0)
            queries = row_of(q + at, j, live, RANK, REGISTERS, SPREAD)
            d_predicted = -all_erased[u] * d_changed
            d_kept = adjoint[0] * befores[u * REGISTERS]
            for g in tl.static_range(1, REGISTERS):
                d_kept += adjoint[g] * befores[u * REGISTERS + g]
            d_kept = neighbours_sum(d_kept, GROUP * ROWS, SPREAD)
            mine = rows & alone
            _store(d_v + at + i, all_written[u] * d_changed, valid, mine)
            _store(d_write + at + i, all_values[u] * d_changed, valid, mine)
            _store(d_erase + at + i, -predictions[u] * d_changed, valid, mine)
            _store(d_keep + at + i, d_kept, valid, mine)
            d_query = tl.zeros([GROUP * ROWS * SPREAD], tl.float32)
            d_key = tl.zeros([GROUP * ROWS * SPREAD], tl.float32)
            moved = ()
            for g in tl.static_range(REGISTERS):
                before, key = befores[u * REGISTERS + g], all_keys[u * REGISTERS + g]
                of_key = adjoint[g] * changes[u] + d_predicted * before
                d_query = tl.where(i == g, _rows_sum(d_read * before, GROUP, ROWS, SPREAD), d_query)
                d_key = tl.where(i == g, _rows_sum(of_key, GROUP, ROWS, SPREAD), d_key)
                changed = all_kept[u] * adjoint[g] + d_predicted * key + d_read * queries[g].to(tl.float32)
                moved += (tl.where(valid, changed, adjoint[g]) if MASKED else changed,)
            adjoint = moved
            _store(d_q + at + column, d_query, valid, live & stores)
            _store(d_k + at + column, d_key, valid, live & stores)


@triton.jit
def _token(
    k,
    v,
    keep,
    erase,
    write,
    mask,
    token,
    i,
    j,
    live,
    RANK: tl.constexpr,
    REGISTERS: tl.constexpr,
    SPREAD: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Load what a state update needs of a token. A token that is not live changes nothing: keep one, the rest zero."""
    at = token * RANK
    rows = live & (i < RANK)
    valid = live
    if MASKED:
        valid = tl.load(mask + token, mask=live, other=0) != 0
    loaded = row_of(k + at, j, live, RANK, REGISTERS, SPREAD)
    keys = ()
    for g in tl.static_range(REGISTERS):
        keys += (loaded[g].to(tl.float32),)
    values = tl.load(v + at + i, mask=rows, other=0.0).to(tl.float32)
    kept = tl.load(keep + at + i, mask=rows, other=1.0).to(tl.float32)
    erased = tl.load(erase + at + i, mask=rows, other=0.0).to(tl.float32)
    written = tl.load(write + at + i, mask=rows, other=0.0).to(tl.float32)
    return keys, values, kept, erased, written, valid


@triton.jit
def _moved(state, keys, kept, change, valid, REGISTERS: tl.constexpr, MASKED: tl.constexpr):
    """The state after a token."""
    moved = ()
    for g in tl.static_range(REGISTERS):
        changed = kept * state[g] + change * keys[g]
        moved += (tl.where(valid, changed, state[g]) if MASKED else changed,)
    return moved


@triton.jit
def _rows_sum(x, GROUP: tl.constexpr, ROWS: tl.constexpr, SPREAD: tl.constexpr):
    """The sum over the rows of each block, in all of them."""
    tile = tl.reshape(x, [GROUP, ROWS, SPREAD])
    total = tl.broadcast_to(tl.sum(tile, axis=1, keep_dims=True), [GROUP, ROWS, SPREAD])
    return tl.reshape(total, [GROUP * ROWS * SPREAD])


@triton.jit
def _store(x, gradient, valid, inside):
    """Store a gradient in the input's dtype; zero if the token is masked."""
    tl.store(x, tl.where(valid, gradient, 0.0).to(x.dtype.element_ty), mask=inside)
