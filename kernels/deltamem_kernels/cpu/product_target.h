/* A product of few rows with a weight as it lies in memory. Included by scan_target.h for each instruction set.
 *
 *   out[m, n] = Σ_k x[m, k] weight[n, k]
 *
 * The weight is read from memory once, and each of its numbers meets four rows of x in registers, those of three of
 * its rows at a time. Of 2·WIDE bfloat16 numbers in a register of 32-bit words, a shift gives those at even places and a mask
 * those at odd ones: x has been sorted likewise, so that nothing is shuffled here. */

typedef float JOIN(product, TARGET, vec) __attribute__((vector_size(WIDE * 4)));
typedef float JOIN(product, TARGET, any) __attribute__((vector_size(WIDE * 4), aligned(4), may_alias));
typedef unsigned int JOIN(product, TARGET, bits) __attribute__((vector_size(WIDE * 4), aligned(2), may_alias));

#define VEC JOIN(product, TARGET, vec)

/* x [M,K] of either type as float32; where the weight is bfloat16, even places before odd ones in each 2·WIDE. */
static void JOIN(sort, TARGET, call)(const struct product_call *c, float *to) {
    for (long m = 0; m < c->M; m++)
        for (long k = 0; k < c->K; k += 2 * WIDE)
            for (long i = 0; i < 2 * WIDE; i++) {
                const long place = !c->bf16 ? i : i / 2 + (i % 2 ? WIDE : 0);
                to[m * c->K + k + place] = load_number(c->x, c->bf16, m * c->stride + k + i);
            }
}

static ALWAYS_INLINE void JOIN(product, TARGET, tile)(const struct product_call *c, const int bf16, const int rows,
                                                      const int columns, const float *x, long m, long n) {
    const long K = c->K, bytes = bf16 ? 2 : 4;
    VEC sum[4][3];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) sum[a][b] = (VEC){0};
    for (long k = 0; k < K; k += 2 * WIDE)
        UNROLL(2) for (int half = 0; half < 2; half++) {
            VEC w[3];
            UNROLL(3) for (int b = 0; b < columns; b++) {
                const char *from = (const char *)c->weight + ((n + b) * K + k) * bytes;
                if (bf16) {
                    const JOIN(product, TARGET, bits) pairs = *(const JOIN(product, TARGET, bits) *)from;
                    if (half) w[b] = (VEC)(pairs & 0xffff0000u);
                    else w[b] = (VEC)(pairs << 16);
                    if (!half) __builtin_prefetch(from + columns * K * bytes); /* of the rows that come next */
                } else {
                    w[b] = (VEC)(*(const JOIN(product, TARGET, any) *)(from + half * WIDE * 4));
                    __builtin_prefetch(from + columns * K * bytes + half * WIDE * 4);
                }
            }
            UNROLL(4) for (int a = 0; a < rows; a++) {
                const VEC number = (VEC)(*(const JOIN(product, TARGET, any) *)(x + (m + a) * K + k + half * WIDE));
                UNROLL(3) for (int b = 0; b < columns; b++) sum[a][b] += number * w[b];
            }
        }
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) {
            float total = 0.0f;
            for (int lane = 0; lane < WIDE; lane++) total += sum[a][b][lane];
            const long at = (m + a) * c->N + n + b;
            if (bf16) ((unsigned short *)c->out)[at] = to_bf16(total);
            else ((float *)c->out)[at] = total;
        }
}

/* Rows from m to `to`. */
static ALWAYS_INLINE void JOIN(product, TARGET, rows)(const struct product_call *c, const int bf16, const int columns,
                                                      const float *x, long m, long to, long n) {
    for (; m + 4 <= to; m += 4) JOIN(product, TARGET, tile)(c, bf16, 4, columns, x, m, n);
    switch (to - m) {
    case 1: JOIN(product, TARGET, tile)(c, bf16, 1, columns, x, m, n); break;
    case 2: JOIN(product, TARGET, tile)(c, bf16, 2, columns, x, m, n); break;
    case 3: JOIN(product, TARGET, tile)(c, bf16, 3, columns, x, m, n); break;
    }
}

/* Columns from `from` to `end`, for as many rows at a time as stay in a cache; x as sorted. */
static void JOIN(product, TARGET, call)(const struct product_call *c, const float *x, long from, long end) {
    for (long m = 0; m < c->M; m += SHARED_ROWS) {
        const long to = m + SHARED_ROWS < c->M ? m + SHARED_ROWS : c->M;
        long n = from;
        for (; n + 3 <= end; n += 3)
            if (c->bf16) JOIN(product, TARGET, rows)(c, 1, 3, x, m, to, n);
            else JOIN(product, TARGET, rows)(c, 0, 3, x, m, to, n);
        for (; n < end; n++)
            if (c->bf16) JOIN(product, TARGET, rows)(c, 1, 1, x, m, to, n);
            else JOIN(product, TARGET, rows)(c, 0, 1, x, m, to, n);
    }
}

#undef VEC
