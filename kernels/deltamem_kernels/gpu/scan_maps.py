# mypy: ignore-errors
"""The maps of the chunks in the WY form, for ranks from 32: device code. Host: ``scan.py``; derivation: ``README.md``.

A tile is Xᵀ [column j, row m]: the virtual row m of one state row, which begins as the basis vector m. Each step takes
BLOCK tokens: two products with their keys, and between them a triangular system that each thread solves for its own m.
The row for what the tokens add is not made here but in `walk`.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tokens", "blocks"])
def grams(k, mask, products, tokens, blocks, RANK: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr,
          MASKED: tl.constexpr):  # fmt: skip
    """⟨k_t,k_τ⟩ of every block's tokens, ``products`` [N, blocks, BLOCK, BLOCK], for all rows; grid [N · blocks]."""
    n = (tl.program_id(0) // blocks).to(tl.int64)
    t = tl.arange(0, BLOCK)[:, None]
    first = tl.program_id(0) % blocks * BLOCK
    keys = _keys(k, mask, n * tokens, first, tokens, 0, RANK, PADDED, BLOCK, MASKED)
    product = tl.dot(keys, tl.trans(keys), input_precision="ieee")
    at = products + tl.program_id(0).to(tl.int64) * (BLOCK * BLOCK)
    tl.store(at + t * BLOCK + tl.arange(0, BLOCK)[None, :], product)


@triton.jit(do_not_specialize=["tokens", "chunks", "length", "blocks"])
def basis_maps(
    k,
    keep,
    erase,
    mask,
    products,
    maps,
    tokens,
    chunks,
    length,
    blocks,
    RANK: tl.constexpr,
    PADDED: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK: tl.constexpr,
    REVERSE: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A of every chunk's map x A + b, into the first R of the R + 1 rows of ``maps``; grid [N · chunks · R].

    With P = K Xᵀ at a block's start, K [BLOCK, R], and g the product of keep so far in the block, token by token

        u_t = −erase_t (g P_t + Σ_τ Z_τ ⟨k_t,k_τ⟩);  Z <- keep_t Z, then Z_t = u_t;  g <- keep_t g

    over the tokens τ processed before t, and at the block's end Xᵀ <- g Xᵀ + Kᵀ Z. Tiles keep the tokens in memory
    order in both directions; REVERSE processes them from last to first.
    """
    i = tl.program_id(0) % RANK
    chunk = tl.program_id(0) // RANK % chunks
    n = (tl.program_id(0) // RANK // chunks).to(tl.int64)
    j = tl.arange(0, PIECE)[:, None]
    m = tl.arange(0, PADDED)[None, :]
    # Declared not contiguous, so that each thread loads a whole Gram row, as its tile needs it.
    tau = tl.max_contiguous(tl.arange(0, BLOCK), [1])[:, None]
    begun = chunk * length
    count = tl.cdiv(tl.minimum(length, tokens - begun), BLOCK)
    x = ()
    for piece in tl.static_range(0, PADDED, PIECE):
        x += (tl.where(piece + j == m, 1.0, 0.0),)
    first = begun + ((count - 1) * BLOCK if REVERSE else 0)
    for _ in range(count):
        gram = products + (n * blocks + first // BLOCK) * (BLOCK * BLOCK)
        token, left = n * tokens + first, tokens - first
        gates = token * RANK + i
        keys = ()
        predicted = tl.zeros([BLOCK, PADDED], tl.float32)
        for piece in tl.static_range(PADDED // PIECE):
            keys += (_keys(k, mask, n * tokens, first, tokens, piece * PIECE, RANK, PIECE, BLOCK, MASKED),)
            predicted = tl.dot(keys[piece], x[piece], predicted, input_precision=PRECISION)
        changes = tl.zeros([BLOCK, PADDED], tl.float32)
        product = 1.0
        for u in tl.static_range(BLOCK):
            t = BLOCK - 1 - u if REVERSE else u
            live = t < left
            kept = tl.load(keep + gates + t * RANK, mask=live, other=1.0).to(tl.float32)
            erased = tl.load(erase + gates + t * RANK, mask=live, other=0.0).to(tl.float32)
            if MASKED:
                valid = tl.load(mask + token + t, mask=live, other=0).to(tl.int8) != 0
                kept, erased = tl.where(valid, kept, 1.0), tl.where(valid, erased, 0.0)
            row = tl.load(gram + t * BLOCK + tau + 0 * m)
            change = -erased * tl.sum(tl.where(tau == t, product * predicted, changes * row), axis=0, keep_dims=True)
            changes = tl.where(tau == t, change, kept * changes)
            product *= kept
        moved = ()
        for piece in tl.static_range(PADDED // PIECE):
            moved += (tl.dot(tl.trans(keys[piece]), changes, product * x[piece], input_precision=PRECISION),)
        x = moved
        first += -BLOCK if REVERSE else BLOCK
    # The chain takes maps alternately along either axis of its tile, so every second one is stored transposed.
    passed = (chunks - 1 - chunk if REVERSE else chunk) % 2
    maps += tl.program_id(0).to(tl.int64) * ((RANK + 1) * RANK)
    for piece in tl.static_range(PADDED // PIECE):
        column = piece * PIECE + j
        place = tl.where(passed == 1, m + column * RANK, m * RANK + column)
        tl.store(maps + place, x[piece], mask=(column < RANK) & (m < RANK))


@triton.jit
def _keys(
    k,
    mask,
    sequence,
    first,
    tokens,
    column,
    RANK: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    MASKED: tl.constexpr,
):
    """WIDTH columns of the keys of a block, [BLOCK, WIDTH] in float32; zero where a token is masked or absent."""
    t = first + tl.arange(0, BLOCK)[:, None]
    j = column + tl.arange(0, WIDTH)[None, :]
    live = t < tokens
    keys = tl.load(k + (sequence + t) * RANK + j, mask=live & (j < RANK), other=0.0).to(tl.float32)
    if MASKED:
        keys = tl.where(tl.load(mask + sequence + t, mask=live, other=0).to(tl.int8) != 0, keys, 0.0)
    return keys
