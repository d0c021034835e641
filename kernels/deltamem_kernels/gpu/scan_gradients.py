# mypy: ignore-errors
"""The gradients of the scan's inputs: device code. Host side: ``scan.py``; derivation: ``README.md``.

A tile is [REGISTERS, GROUP, ROWS, SPREAD]: a whole state for each of GROUP blocks of BLOCK tokens, row i along axis 2
and column j = spread · REGISTERS + register. Sums over j stay within a thread and its neighbours; sums over i cross
threads and, at ranks over 16, warps.
"""

import triton
import triton.language as tl


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
    block = (tl.program_id(0) * GROUP + tl.arange(0, GROUP))[None, :, None, None]
    i = tl.arange(0, ROWS)[None, None, :, None]
    # Declared not contiguous for the reason given at scan_kernels.element.
    spread = tl.max_contiguous(tl.arange(0, SPREAD), [1])[None, None, None, :]
    j = spread * REGISTERS + tl.max_contiguous(tl.arange(0, REGISTERS), [1])[:, None, None, None]
    n = block // blocks
    active = n < sequences
    inside = active & (i < RANK) & (j < RANK)
    element = (block.to(tl.int64) * RANK + i) * RANK + j
    first = block % blocks * BLOCK
    token = n.to(tl.int64) * tokens + first
    adjoint = tl.load(adjoints + element, mask=inside, other=0.0)

    for back in range(0, BLOCK, TOKENS):
        known = BLOCK - TOKENS - back
        state = tl.load(states + element, mask=inside, other=0.0)
        for step in range(0, known, TOKENS):
            for u in tl.static_range(TOKENS):
                live = active & (first + step + u < tokens)
                keys, values, kept, erased, written, valid = _token(
                    k, v, keep, erase, write, mask, token + step + u, i, j, live, RANK, ROWS, SPREAD, MASKED
                )
                predicted = _sum_j(state * keys)
                changed = kept * state + (written * values - erased * predicted) * keys
                state = tl.where(valid, changed, state) if MASKED else changed
        batch = ()
        for u in tl.static_range(TOKENS):
            live = active & (first + known + u < tokens)
            keys, values, kept, erased, written, valid = _token(
                k, v, keep, erase, write, mask, token + known + u, i, j, live, RANK, ROWS, SPREAD, MASKED
            )
            before = state
            predicted = _sum_j(state * keys)
            change = written * values - erased * predicted
            changed = kept * state + change * keys
            state = tl.where(valid, changed, state) if MASKED else changed
            batch += ((before, predicted, change, keys, values, kept, erased, written, live, valid),)
        for u in tl.static_range(TOKENS - 1, -1, -1):
            before, predicted, change, keys, values, kept, erased, written, live, valid = batch[u]
            at = (token + known + u) * RANK
            rows, columns = live & (i < RANK), live & (j < RANK)
            mine = rows & (spread == 0)
            d_read = _row(d_reads + at + i, rows, 0.0, SPREAD)
            queries = _column(q + at + j, columns, ROWS)
            d_changed = _row(d_change + at + i, rows, 0.0, SPREAD)
            d_predicted = -erased * d_changed
            _store(d_v + at + i + 0 * spread, written * d_changed, valid, mine)
            _store(d_write + at + i + 0 * spread, values * d_changed, valid, mine)
            _store(d_erase + at + i + 0 * spread, -predicted * d_changed, valid, mine)
            _store(d_keep + at + i + 0 * spread, _sum_j(adjoint * before), valid, mine)
            _store(d_q + at + j, _sum_i(d_read * before), valid, columns)
            _store(d_k + at + j, _sum_i(adjoint * change + d_predicted * before), valid, columns)
            changed = kept * adjoint + d_predicted * keys + d_read * queries
            adjoint = tl.where(valid, changed, adjoint) if MASKED else changed


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
    ROWS: tl.constexpr,
    SPREAD: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Load what a state update needs of a token. A token that is not live changes nothing: keep one, the rest zero."""
    at = token * RANK
    rows = live & (i < RANK)
    valid = live
    if MASKED:
        valid = tl.load(mask + token, mask=live, other=0) != 0
    keys = _column(k + at + j, live & (j < RANK), ROWS)
    values, kept = _row(v + at + i, rows, 0.0, SPREAD), _row(keep + at + i, rows, 1.0, SPREAD)
    erased, written = _row(erase + at + i, rows, 0.0, SPREAD), _row(write + at + i, rows, 0.0, SPREAD)
    return keys, values, kept, erased, written, valid


@triton.jit
def _row(x, inside, other, SPREAD: tl.constexpr):
    """One number per row, loaded by every thread that needs it: [1, GROUP, ROWS, SPREAD]."""
    shape: tl.constexpr = [1, x.shape[1], x.shape[2], SPREAD]
    return tl.load(tl.broadcast_to(x, shape), mask=tl.broadcast_to(inside, shape), other=other).to(tl.float32)


@triton.jit
def _column(x, inside, ROWS: tl.constexpr):
    """One number per column, loaded by every thread that needs it: [REGISTERS, GROUP, ROWS, SPREAD]."""
    shape: tl.constexpr = [x.shape[0], x.shape[1], ROWS, x.shape[3]]
    return tl.load(tl.broadcast_to(x, shape), mask=tl.broadcast_to(inside, shape), other=0.0).to(tl.float32)


@triton.jit
def _sum_j(x):
    return tl.sum(tl.sum(x, axis=0, keep_dims=True), axis=3, keep_dims=True)


@triton.jit
def _sum_i(x):
    return tl.sum(x, axis=2, keep_dims=True)


@triton.jit
def _store(x, gradient, valid, inside):
    """Store a gradient in the input's dtype; zero if the token is masked."""
    tl.store(x, tl.where(valid, gradient, 0.0).to(x.dtype.element_ty), mask=inside)
