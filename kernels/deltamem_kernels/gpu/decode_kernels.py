# mypy: ignore-errors
"""Decoding, one token of each stream: device code. Shapes, checks and launches are in ``decode.py``.

Everything is organised by state rows. Row i of a slot is row ``i % R`` of head ``i // R``, its R elements are adjacent,
and its read, prediction and update need no other row. In float32: tanh and its norm, reads, corrections, states.

Names: i rows (W = H·R of them, ROWS at a time), j columns (R, padded to COLUMNS), o outputs of a projection (OUTPUTS at
a time). An idle stream (slot -1, or not valid) touches only its own reads: ``_if(active, n)`` reduces its bounds to
zero. (A mask of vectors and ``active`` itself would be simpler, but Triton's interpreter turns it into an integer.)
"""

import triton
import triton.language as tl


@triton.jit
def read_and_correct(
    projected,
    pool,
    slots,
    valid,
    reads,
    scale,
    out_0,
    weight_0,
    out_1,
    weight_1,
    out_2,
    weight_2,
    projected_stride,
    pool_stride,
    valid_stride,
    out_stride_0,
    size_0,
    out_stride_1,
    size_1,
    out_stride_2,
    size_2,
    TARGETS: tl.constexpr,
    SCALES: tl.constexpr,
    HAS_VALID: tl.constexpr,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid [B, blocks of outputs of target 0, then 1, then 2]. Block 0 also stores the reads."""
    stream = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    slot, active = _slot(slots, valid, stream, valid_stride, HAS_VALID)
    x = projected + stream * projected_stride
    state = pool + slot * pool_stride
    reads += stream * (HEADS * RANK)
    blocks_0 = tl.maximum(tl.cdiv(size_0, OUTPUTS), 1)
    blocks_1 = blocks_0 + tl.cdiv(size_1, OUTPUTS)
    if block < blocks_0:
        _read_and_correct(
            x, state, reads, active, _factor(scale, 0, SCALES), out_0 + stream * out_stride_0, weight_0,
            size_0, block, block == 0, HEADS, RANK, NORMALIZE, ROWS, COLUMNS, OUTPUTS,
        )  # fmt: skip
    if TARGETS > 1:  # noqa: SIM102 (known at compile time; the inner one is not)
        if (block >= blocks_0) & (block < blocks_1):
            _read_and_correct(
                x, state, reads, active, _factor(scale, 1, SCALES), out_1 + stream * out_stride_1, weight_1,
                size_1, block - blocks_0, False, HEADS, RANK, NORMALIZE, ROWS, COLUMNS, OUTPUTS,
            )  # fmt: skip
    if TARGETS > 2:  # noqa: SIM102
        if block >= blocks_1:
            _read_and_correct(
                x, state, reads, active, _factor(scale, 2, SCALES), out_2 + stream * out_stride_2, weight_2,
                size_2, block - blocks_1, False, HEADS, RANK, NORMALIZE, ROWS, COLUMNS, OUTPUTS,
            )  # fmt: skip


@triton.jit
def correct(
    out,
    reads,
    weight,
    scale,
    out_stride,
    size,
    SCALES: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Grid [B, blocks of outputs]."""
    stream = tl.program_id(0).to(tl.int64)
    _correct(
        out + stream * out_stride, reads + stream * WIDTH, weight, _factor(scale, 0, SCALES), size,
        tl.program_id(1), WIDTH, ROWS, OUTPUTS,
    )  # fmt: skip


@triton.jit
def write(
    projected,
    gate_bias,
    pool,
    slots,
    valid,
    projected_stride,
    pool_stride,
    valid_stride,
    HAS_VALID: tl.constexpr,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    UPDATE: tl.constexpr,
    OWN_LAMBDA: tl.constexpr,
    RANKWISE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Grid [B, blocks of rows]."""
    stream = tl.program_id(0).to(tl.int64)
    slot, active = _slot(slots, valid, stream, valid_stride, HAS_VALID)
    _write(
        projected + stream * projected_stride, gate_bias, pool + slot * pool_stride, active, tl.program_id(1),
        HEADS, RANK, UPDATE, OWN_LAMBDA, RANKWISE, NORMALIZE, ROWS, COLUMNS,
    )  # fmt: skip


@triton.jit
def step(
    q,
    k,
    v,
    keep,
    erase,
    write,
    pool,
    slots,
    reads,
    q_stride,
    k_stride,
    v_stride,
    keep_stride,
    erase_stride,
    write_stride,
    pool_stride,
    RANK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Grid [N, blocks of rows]: the read and the write of one token whose vectors and gates are given."""
    n = tl.program_id(0).to(tl.int64)
    slot, active = _slot(slots, slots, n, 0, False)
    i = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    mine = i < _if(active, RANK)
    elements, inside = _elements(i, active, RANK, RANK, COLUMNS)
    state = pool + slot * pool_stride + elements
    old = tl.load(state, mask=inside, other=0.0)
    queries = _head_vectors(q + n * q_stride, i, active, 1, RANK, False, COLUMNS)
    keys = _head_vectors(k + n * k_stride, i, active, 1, RANK, False, COLUMNS)
    values = tl.load(v + n * v_stride + i, mask=mine, other=0.0).to(tl.float32)
    kept = tl.load(keep + n * keep_stride + i, mask=mine, other=0.0).to(tl.float32)
    erased = tl.load(erase + n * erase_stride + i, mask=mine, other=0.0).to(tl.float32)
    written = tl.load(write + n * write_stride + i, mask=mine, other=0.0).to(tl.float32)
    tl.store(reads + n * RANK + i, tl.sum(old * queries, axis=1), mask=i < RANK)
    tl.store(state, _updated(old, keys, values, kept, erased, written), mask=inside)


@triton.jit
def _read_and_correct(
    x,
    state,
    reads,
    active,
    factor,
    out,
    weight,
    size,
    block,
    store_reads,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Add one block of outputs of one stream's correction, computing the reads of all rows here."""
    o = block * OUTPUTS + tl.arange(0, OUTPUTS)
    wanted = o < _if(active, size)
    before = tl.load(out + o, mask=wanted, other=0.0).to(tl.float32)
    total = tl.zeros([OUTPUTS], tl.float32)
    for start in range(0, HEADS * RANK, ROWS):
        i = start + tl.arange(0, ROWS)
        # Loaded before the read, which takes several round trips to memory and does not need them.
        weights = _weights(weight, o, i, size, HEADS * RANK)
        elements, inside = _elements(i, active, HEADS * RANK, RANK, COLUMNS)
        rows = tl.load(state + elements, mask=inside, other=0.0)
        queries = _head_vectors(x, i, active, HEADS, RANK, NORMALIZE, COLUMNS)
        read = tl.sum(rows * queries, axis=1)
        tl.store(reads + i, read, mask=i < _if(store_reads, HEADS * RANK))
        total += tl.sum(weights * read[None, :], axis=1)
    tl.store(out + o, (before + total * factor).to(out.dtype.element_ty), mask=wanted)


@triton.jit
def _correct(
    out,
    reads,
    weight,
    factor,
    size,
    block,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Add one block of outputs of one stream's correction, from its stored reads."""
    o = block * OUTPUTS + tl.arange(0, OUTPUTS)
    before = tl.load(out + o, mask=o < size, other=0.0).to(tl.float32)
    total = tl.zeros([OUTPUTS], tl.float32)
    for start in range(0, WIDTH, ROWS):
        i = start + tl.arange(0, ROWS)
        read = tl.load(reads + i, mask=i < WIDTH, other=0.0)
        total += tl.sum(_weights(weight, o, i, size, WIDTH) * read[None, :], axis=1)
    tl.store(out + o, (before + total * factor).to(out.dtype.element_ty), mask=o < size)


@triton.jit
def _write(
    x,
    gate_bias,
    state,
    active,
    block,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    UPDATE: tl.constexpr,
    OWN_LAMBDA: tl.constexpr,
    RANKWISE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Update one block of rows of one slot; x holds q, k, v [W each] and the gates, before bias and sigmoid."""
    WIDTH: tl.constexpr = HEADS * RANK
    GATES: tl.constexpr = WIDTH if RANKWISE else HEADS
    i = block * ROWS + tl.arange(0, ROWS)
    mine = i < _if(active, WIDTH)
    elements, inside = _elements(i, active, WIDTH, RANK, COLUMNS)
    old = tl.load(state + elements, mask=inside, other=0.0)
    keys = _head_vectors(x + WIDTH, i, active, HEADS, RANK, NORMALIZE, COLUMNS)
    values = tl.load(x + 2 * WIDTH + i, mask=mine, other=0.0).to(tl.float32)
    gate = i if RANKWISE else i // RANK
    beta = _gate(x + 3 * WIDTH, gate_bias, gate, mine)
    keep = 1.0 - beta
    if OWN_LAMBDA:
        keep = _gate(x + 3 * WIDTH + GATES, gate_bias + GATES, gate, mine)
    if UPDATE == "no_lambda":
        keep = tl.full([ROWS], 1.0, tl.float32)
    erase = keep * beta if UPDATE == "lambda_outside" else beta
    tl.store(state + elements, _updated(old, keys, values, keep, erase, beta), mask=inside)


@triton.jit
def _slot(slots, valid, stream, valid_stride, HAS_VALID: tl.constexpr):
    """A stream's slot (0 if it is idle), and whether it is active; without slots, its own number."""
    slot = stream
    if slots is not None:
        slot = tl.load(slots + stream)
    if HAS_VALID:
        slot = tl.where(tl.load(valid + stream * valid_stride), slot, -1)
    return tl.maximum(slot, 0), slot >= 0


@triton.jit
def _if(active, bound):
    """``bound`` if active, else zero."""
    return tl.where(active, bound, 0)


@triton.jit
def _factor(scale, target: tl.constexpr, SCALES: tl.constexpr):
    """The multiplier of a target: a number (SCALES 0), a tensor's only element (1), or one per target (2)."""
    if SCALES == 0:
        return scale
    elif SCALES == 1:
        return tl.load(scale)
    else:
        return tl.load(scale + target)


@triton.jit
def _elements(i, active, WIDTH: tl.constexpr, RANK: tl.constexpr, COLUMNS: tl.constexpr):
    """Offsets of rows i in their slot, and the mask of those to touch: both [rows, COLUMNS]."""
    j = tl.arange(0, COLUMNS)
    return i[:, None] * RANK + j[None, :], (i < _if(active, WIDTH))[:, None] & (j < RANK)[None, :]


@triton.jit
def _weights(weight, o, i, size, WIDTH: tl.constexpr):
    """Rows o, columns i of a correction's weight: [OUTPUTS, ROWS] float32, zero outside."""
    inside = (o < size)[:, None] & (i < WIDTH)[None, :]
    return tl.load(weight + o[:, None] * WIDTH + i[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _head_vectors(
    x, i, active, HEADS: tl.constexpr, RANK: tl.constexpr, NORMALIZE: tl.constexpr, COLUMNS: tl.constexpr
):
    """The query or key of each row's head: [1, COLUMNS] if one head serves all rows, else [rows, COLUMNS]."""
    j = tl.arange(0, COLUMNS)[None, :]
    if HEADS == 1:
        vectors = tl.load(x + j, mask=j < _if(active, RANK), other=0.0).to(tl.float32)
    else:
        inside = (i < _if(active, HEADS * RANK))[:, None] & (j < RANK)
        vectors = tl.load(x + (i // RANK * RANK)[:, None] + j, mask=inside, other=0.0).to(tl.float32)
    if NORMALIZE:
        vectors = _tanh(vectors)
        length = tl.sqrt(tl.sum(vectors * vectors, axis=1, keep_dims=True))
        vectors = vectors / tl.maximum(length, 1e-6)  # same as torch.nn.functional.normalize with this eps
    return vectors


@triton.jit
def _gate(x, bias, index, mine):
    """σ(x + bias) at the given indices."""
    raw = tl.load(x + index, mask=mine, other=0.0).to(tl.float32) + tl.load(bias + index, mask=mine, other=0.0)
    return 1.0 / (1.0 + tl.exp(-raw))


@triton.jit
def _updated(old, keys, values, keep, erase, write):
    """The delta rule on rows [ROWS, COLUMNS]; values and gates [ROWS]."""
    change = write * values - erase * tl.sum(old * keys, axis=1)
    return keep[:, None] * old + change[:, None] * keys


@triton.jit
def _tanh(x):
    """tanh with a relative error of at most 2e-7; exp alone would cost a norm of small values half its digits.

    Below 0.625 it uses the polynomial of Cephes' tanhf.
    """
    square = x * x
    series = -5.70498872745e-3
    series = series * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    e = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.625, x + x * square * series, tl.where(x < 0, -large, large))
