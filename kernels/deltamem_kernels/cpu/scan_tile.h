/* One tile of the scan: LANES rows (or columns) of one state, all R of the other index, walked over tokens.
 *
 * Included by scan.c once per instruction set and lane count, with NAME (a suffix) and LANES (the floats of
 * one register) defined.
 * README.md has the derivation. Two layouts, so that nothing is ever reduced across lanes:
 *
 *   by row      tile[j] holds S[rows of the tile, j]: sums over j are sums over vectors (reads, gates' gradients)
 *   by column   tile[i] holds S[i, columns of the tile]: sums over i are sums over vectors (gradients of q and k)
 *
 * Every pass applies the *previous* token's update while it reads the current one, so that a tile is loaded and stored
 * once a token. A masked token is passed over: its values are never loaded.
 */

typedef float NAME(vec) __attribute__((vector_size(LANES * 4)));
typedef float NAME(vec_any) __attribute__((vector_size(LANES * 4), aligned(4), may_alias)); /* at any address */

#define VEC NAME(vec)
#define LOAD(p) ((VEC)(*(const NAME(vec_any) *)(p)))
#define STORE(p, x) (*(NAME(vec_any) *)(p) = (x))
#define ZERO ((VEC){0})

/* tile[a] = source[a, b..b+LANES), rows `stride` floats long */
static ALWAYS_INLINE void NAME(load)(const int R, VEC *tile, const float *source) {
    for (int a = 0; a < R; a++) tile[a] = LOAD(source + (long)a * R);
}

static ALWAYS_INLINE void NAME(store)(const int R, const VEC *tile, float *target) {
    for (int a = 0; a < R; a++) STORE(target + (long)a * R, tile[a]);
}

/* tile[a][lane] = source[lane, a] */
static ALWAYS_INLINE void NAME(load_transposed)(const int R, VEC *tile, const float *source) {
    for (int a = 0; a < R; a++) {
        float column[LANES];
        for (int lane = 0; lane < LANES; lane++) column[lane] = source[(long)lane * R + a];
        tile[a] = LOAD(column);
    }
}

static ALWAYS_INLINE void NAME(store_transposed)(const int R, const VEC *tile, float *target) {
    for (int a = 0; a < R; a++) {
        float column[LANES];
        STORE(column, tile[a]);
        for (int lane = 0; lane < LANES; lane++) target[(long)lane * R + a] = column[lane];
    }
}

/* Forward, by row: pointers at this sequence's first token; v, the gates and the reads at the tile's first row. */
static ALWAYS_INLINE void NAME(forward_rows)(const int R, const struct tokens *x, long T, const float *state,
                                             float *state_out, float *reads, float *checkpoints) {
    VEC s[MAX_R], keep = ZERO + 1.0f, change = ZERO;
    const float *k_last = zeros;
    NAME(load_transposed)(R, s, state);
    for (long t = 0; t < T; t++) {
        if (checkpoints && t % CHUNK == 0) {
            UNROLL(16) for (int j = 0; j < R; j++) s[j] = keep * s[j] + change * k_last[j];
            keep = ZERO + 1.0f, change = ZERO, k_last = zeros;
            NAME(store)(R, s, checkpoints + t / CHUNK * R * R);
        }
        if (x->mask && !x->mask[t]) {
            STORE(reads + t * R, ZERO);
            continue;
        }
        const float *q = x->q + t * R, *k = x->k + t * R;
        VEC read[4] = {ZERO, ZERO, ZERO, ZERO}, seen[4] = {ZERO, ZERO, ZERO, ZERO};
        UNROLL(4) for (int j = 0; j < R; j += 4) {
            UNROLL(4) for (int a = 0; a < 4; a++) {
                VEC now = keep * s[j + a] + change * k_last[j + a];
                read[a] += now * q[j + a];
                seen[a] += now * k[j + a];
                s[j + a] = now;
            }
        }
        STORE(reads + t * R, (read[0] + read[1]) + (read[2] + read[3]));
        keep = LOAD(x->keep + t * R);
        change = LOAD(x->write + t * R) * LOAD(x->v + t * R)
               - LOAD(x->erase + t * R) * ((seen[0] + seen[1]) + (seen[2] + seen[3]));
        k_last = k;
    }
    UNROLL(16) for (int j = 0; j < R; j++) s[j] = keep * s[j] + change * k_last[j];
    NAME(store_transposed)(R, s, state_out);
}

/* Backward 1, by row: walk a chunk forward from its checkpoint; keep every token's state, its prediction and change. */
static ALWAYS_INLINE void NAME(replay_rows)(const int R, const struct tokens *x, long T, const float *checkpoint,
                                            float *history, float *seen_out, float *change_out) {
    VEC s[MAX_R], keep = ZERO + 1.0f, change = ZERO;
    const float *k_last = zeros;
    NAME(load)(R, s, checkpoint);
    for (long t = 0; t < T; t++) {
        if (x->mask && !x->mask[t]) continue;
        const float *k = x->k + t * R;
        VEC seen[4] = {ZERO, ZERO, ZERO, ZERO}, *past = (VEC *)history + t * R;
        UNROLL(4) for (int j = 0; j < R; j += 4) {
            UNROLL(4) for (int a = 0; a < 4; a++) {
                VEC now = keep * s[j + a] + change * k_last[j + a];
                seen[a] += now * k[j + a];
                past[j + a] = s[j + a] = now;
            }
        }
        seen[0] = (seen[0] + seen[1]) + (seen[2] + seen[3]);
        keep = LOAD(x->keep + t * R);
        change = LOAD(x->write + t * R) * LOAD(x->v + t * R) - LOAD(x->erase + t * R) * seen[0];
        k_last = k;
        STORE(seen_out + t * R, seen[0]);
        STORE(change_out + t * R, change);
    }
}

/* Backward 2, by row: walk the chunk back; gradients of v and the gates, and of each token's prediction (d_seen). */
static ALWAYS_INLINE void NAME(backward_rows)(const int R, const struct tokens *x, long T, const float *d_reads,
                                              const float *history, const float *seen, float *d_state,
                                              float *d_seen_out, const struct gradients *d) {
    VEC g[MAX_R], keep = ZERO + 1.0f, d_seen = ZERO, d_read = ZERO;
    const float *k_last = zeros, *q_last = zeros;
    NAME(load)(R, g, d_state);
    for (long t = T - 1; t >= 0; t--) {
        if (x->mask && !x->mask[t]) {
            STORE(d->v + t * R, ZERO), STORE(d->keep + t * R, ZERO);
            STORE(d->erase + t * R, ZERO), STORE(d->write + t * R, ZERO);
            continue;
        }
        const float *k = x->k + t * R;
        const VEC *past = (const VEC *)history + t * R;
        VEC d_change[4] = {ZERO, ZERO, ZERO, ZERO}, d_keep[4] = {ZERO, ZERO, ZERO, ZERO};
        UNROLL(4) for (int j = 0; j < R; j += 4) {
            UNROLL(4) for (int a = 0; a < 4; a++) {
                VEC now = keep * g[j + a] + d_seen * k_last[j + a] + d_read * q_last[j + a];
                d_change[a] += now * k[j + a];
                d_keep[a] += now * past[j + a];
                g[j + a] = now;
            }
        }
        VEC dc = (d_change[0] + d_change[1]) + (d_change[2] + d_change[3]);
        STORE(d->keep + t * R, (d_keep[0] + d_keep[1]) + (d_keep[2] + d_keep[3]));
        STORE(d->v + t * R, dc * LOAD(x->write + t * R));
        STORE(d->write + t * R, dc * LOAD(x->v + t * R));
        STORE(d->erase + t * R, -dc * LOAD(seen + t * R));
        d_seen = -dc * LOAD(x->erase + t * R);
        STORE(d_seen_out + t * R, d_seen);
        d_read = LOAD(d_reads + t * R);
        keep = LOAD(x->keep + t * R);
        k_last = k, q_last = x->q + t * R;
    }
    UNROLL(16) for (int j = 0; j < R; j++) g[j] = keep * g[j] + d_seen * k_last[j] + d_read * q_last[j];
    NAME(store)(R, g, d_state);
}

/* Backward 3, by column: walk the chunk forward once more; what q and k gave by reading the state. */
static ALWAYS_INLINE void NAME(replay_columns)(const int R, const struct tokens *x, long T, const float *checkpoint,
                                               const float *d_reads, const float *d_seen, const float *change,
                                               const struct gradients *d) {
    VEC s[MAX_R], k_last = ZERO;
    const float *keep_last = zeros, *change_last = zeros;
    int first = 1;
    NAME(load_transposed)(R, s, checkpoint);
    for (long t = 0; t < T; t++) {
        if (x->mask && !x->mask[t]) {
            STORE(d->q + t * R, ZERO), STORE(d->k + t * R, ZERO);
            continue;
        }
        const float *dr = d_reads + t * R, *ds = d_seen + t * R;
        VEC d_q[2] = {ZERO, ZERO}, d_k[2] = {ZERO, ZERO};
        if (first) {
            UNROLL(16) for (int i = 0; i < R; i++) d_q[i & 1] += s[i] * dr[i], d_k[i & 1] += s[i] * ds[i];
            first = 0;
        } else {
            UNROLL(8) for (int i = 0; i < R; i += 2) {
                UNROLL(2) for (int a = 0; a < 2; a++) {
                    VEC now = s[i + a] * keep_last[i + a] + k_last * change_last[i + a];
                    d_q[a] += now * dr[i + a];
                    d_k[a] += now * ds[i + a];
                    s[i + a] = now;
                }
            }
        }
        STORE(d->q + t * R, d_q[0] + d_q[1]);
        STORE(d->k + t * R, d_k[0] + d_k[1]);
        keep_last = x->keep_all + t * R, change_last = change + t * R, k_last = LOAD(x->k + t * R);
    }
}

/* Backward 4, by column: walk the chunk back once more; what k gave by being written. */
static ALWAYS_INLINE void NAME(backward_columns)(const int R, const struct tokens *x, long T, const float *d_reads,
                                                 const float *d_seen, const float *change, float *d_state,
                                                 const struct gradients *d) {
    VEC g[MAX_R], k = ZERO, q = ZERO;
    const float *keep = 0, *ds = zeros, *dr = zeros;
    NAME(load)(R, g, d_state);
    for (long t = T - 1; t >= 0; t--) {
        if (x->mask && !x->mask[t]) continue;
        const float *c = change + t * R;
        VEC d_k[2] = {ZERO, ZERO};
        if (!keep) {
            UNROLL(16) for (int i = 0; i < R; i++) d_k[i & 1] += g[i] * c[i];
        } else {
            UNROLL(8) for (int i = 0; i < R; i += 2) {
                UNROLL(2) for (int a = 0; a < 2; a++) {
                    VEC now = g[i + a] * keep[i + a] + k * ds[i + a] + q * dr[i + a];
                    d_k[a] += now * c[i + a];
                    g[i + a] = now;
                }
            }
        }
        STORE(d->k + t * R, LOAD(d->k + t * R) + d_k[0] + d_k[1]);
        keep = x->keep_all + t * R, ds = d_seen + t * R, dr = d_reads + t * R;
        k = LOAD(x->k + t * R), q = LOAD(x->q + t * R);
    }
    if (keep)
        UNROLL(16) for (int i = 0; i < R; i++) g[i] = g[i] * keep[i] + k * ds[i] + q * dr[i];
    NAME(store)(R, g, d_state);
}

/* One tile of one sequence, all T tokens. `tile` counts LANES rows. */
static ALWAYS_INLINE void NAME(forward_tile)(const int R, const struct forward_call *c, long n, int tile) {
    const long tokens = n * c->T * R, row = (long)tile * LANES, square = (long)R * R, chunks = CHUNKS(c->T);
    const struct tokens x = {c->q + tokens,           c->k + tokens,           c->v + tokens + row,
                             c->keep + tokens + row,  c->erase + tokens + row, c->write + tokens + row,
                             0,                       c->mask ? c->mask + n * c->T : 0};
    NAME(forward_rows)(R, &x, c->T, c->state + n * square + row * R, c->state_out + n * square + row * R,
                       c->reads + tokens + row, c->checkpoints ? c->checkpoints + n * chunks * square + row : 0);
}

/* The whole backward of one sequence. `work` is the calling thread's own. */
static ALWAYS_INLINE void NAME(backward_sequence)(const int R, const struct backward_call *c, long n,
                                                  struct workspace *work) {
    const long square = (long)R * R, chunks = CHUNKS(c->T);
    float *by_column = c->d_state + n * square; /* gradient of S[i,j] at [i][j]; becomes the result */
    for (long a = 0; a < square; a++) by_column[a] = c->d_state_out ? c->d_state_out[n * square + a] : 0.0f;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < R; j++) work->by_row[j * R + i] = by_column[i * R + j];

    for (long chunk = chunks - 1; chunk >= 0; chunk--) {
        const long from = chunk * CHUNK, T = c->T - from < CHUNK ? c->T - from : CHUNK, at = (n * c->T + from) * R;
        const float *checkpoint = c->checkpoints + (n * chunks + chunk) * square;
        for (int b = 0; b < R; b += LANES) {
            const struct tokens x = {c->q + at,        c->k + at,         c->v + at + b, c->keep + at + b,
                                     c->erase + at + b, c->write + at + b, 0, c->mask ? c->mask + n * c->T + from : 0};
            const struct gradients d = {0, 0, c->d_v + at + b, c->d_keep + at + b, c->d_erase + at + b,
                                        c->d_write + at + b};
            NAME(replay_rows)(R, &x, T, checkpoint + b, work->history, work->seen + b, work->change + b);
            NAME(backward_rows)(R, &x, T, c->d_reads + at + b, work->history, work->seen + b, work->by_row + b,
                                work->d_seen + b, &d);
        }
        for (int b = 0; b < R; b += LANES) {
            const struct tokens x = {c->q + at + b, c->k + at + b, 0, 0, 0, 0, c->keep + at,
                                     c->mask ? c->mask + n * c->T + from : 0};
            const struct gradients d = {c->d_q + at + b, c->d_k + at + b, 0, 0, 0, 0};
            NAME(replay_columns)(R, &x, T, checkpoint + (long)b * R, c->d_reads + at, work->d_seen, work->change, &d);
            NAME(backward_columns)(R, &x, T, c->d_reads + at, work->d_seen, work->change, by_column + b, &d);
        }
    }
}

#undef VEC
#undef LOAD
#undef STORE
#undef ZERO
