/* The delta-rule scan on a CPU: forward and backward, float32, loaded with ctypes; reading while decoding; and products of
 * few rows. README.md has the derivation.
 *
 * This file: the calls' layout, the choice of instruction set, threads. The arithmetic is in scan_tile.h,
 * decode_target.h and product_target.h.
 * Arrays are contiguous: tokens [N,T,R], states [N,R,R], mask [N,T] bytes or null, R = 8 or a multiple of 16 up to 64.
 * Checkpoints [N, ceil(T/64), R, R] are states at the chunks' starts, stored as S[i,j] at [j][i].
 */

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define PRAGMA(x) _Pragma(#x)
#ifdef __clang__
#define UNROLL(n) PRAGMA(clang loop unroll_count(n))
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif
#define JOIN3(a, b, c) a##_##b##_##c
#define JOIN(a, b, c) JOIN3(a, b, c)

enum { CHUNK = 64, MAX_R = 64, MAX_THREADS = 256 };
#define CHUNKS(T) (((T) + CHUNK - 1) / CHUNK)

/* One sequence's inputs at one tile's first token; keep_all is keep at row 0 where a pass needs every row's. */
struct tokens {
    const float *q, *k, *v, *keep, *erase, *write, *keep_all;
    const unsigned char *mask;
};

struct gradients {
    float *q, *k, *v, *keep, *erase, *write;
};

struct forward_call {
    long N, T, R;
    const float *q, *k, *v, *keep, *erase, *write, *state;
    const unsigned char *mask;
    float *reads, *state_out, *checkpoints; /* checkpoints may be null */
};

struct backward_call {
    long N, T, R;
    const float *q, *k, *v, *keep, *erase, *write;
    const unsigned char *mask;
    const float *checkpoints, *d_reads, *d_state_out; /* d_state_out may be null: zero */
    float *d_q, *d_k, *d_v, *d_keep, *d_erase, *d_write, *d_state;
};

/* A correction of rows [B, out], float32 or bfloat16. Its weight lies as [blocks of outputs, W, OUTPUTS], padded with
 * zeros: lanes are outputs, and what is read from memory, cold while decoding, is one run. */
enum { OUTPUTS = 64 };
struct correction {
    long W, out, bf16;
    const float *weight;
};

/* What a decoding step finds in a row of the packed product: queries of H heads of R from column `queries` on, and up to
 * three outputs to correct, each from its column on. `later` is the correction of an output that is yet to come. */
struct product_layout {
    long H, R, normalize, bf16, queries, corrected;
    long column[3];
    struct correction correction[3], later;
};

/* One token of N streams, each through its slot of a pool [P,R,R] that is changed in place; inputs and reads [N,R]. */
struct step_call {
    long N, R;
    const float *q, *k, *v, *keep, *erase, *write;
    const long long *slots; /* -1: reads zero, writes nothing */
    float *pool, *reads;
};

/* Few rows x [M,K], `stride` numbers apart, and a weight [N,K]; both, and the product [M,N], float32 or bfloat16. K is a
 * multiple of 32. */
enum { SHARED_COLUMNS = 3 * 86, SHARED_ROWS = 32 }; /* columns a thread takes at a time, and rows of these */
struct product_call {
    long M, N, K, stride, bf16;
    const void *x, *weight;
    void *out;
};

static ALWAYS_INLINE float from_bf16(unsigned short half) {
    const unsigned int bits = (unsigned int)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static ALWAYS_INLINE unsigned short to_bf16(float x) { /* to the nearest, ties to even */
    unsigned int bits;
    memcpy(&bits, &x, sizeof bits);
    return x != x ? 0x7fc0 : (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static ALWAYS_INLINE float load_number(const void *x, long bf16, long at) {
    return bf16 ? from_bf16(((const unsigned short *)x)[at]) : ((const float *)x)[at];
}

/* Of one thread in the backward, for one chunk of one sequence. history: [token][j][lane] of one tile. */
struct workspace {
    float *history, *seen, *change, *d_seen, *by_row;
};

static const float zeros[MAX_R];

#define TARGET portable
#define WIDE 4
#include "scan_target.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define X86_TARGETS 1

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define TARGET avx2
#define WIDE 8
#include "scan_target.h"
#ifdef __clang__
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx2,fma")
#endif
#define TARGET avx512
#define WIDE 16
#include "scan_target.h"
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

struct target {
    const char *name;
    long wide; /* rows of a tile, but no more than R */
    void (*forward)(const struct forward_call *, long n, int tile);
    void (*backward)(const struct backward_call *, long n, struct workspace *);
    void (*decode)(const struct product_layout *, long B, char *product, long stride, const float *state,
                   const unsigned char *valid, float *reads, char *later);
    void (*correct)(const struct correction *, long B, char *output, long stride, const float *reads);
    void (*step)(const struct step_call *);
    void (*sort)(const struct product_call *, float *to);
    void (*product)(const struct product_call *, const float *x, long n, long end);
};

static const struct target targets[] = {
    {"portable", 4, forward_portable_call, backward_portable_call, decode_portable_call, correct_portable_call, step_portable_call, sort_portable_call, product_portable_call},
#ifdef X86_TARGETS
    {"avx2", 8, forward_avx2_call, backward_avx2_call, decode_avx2_call, correct_avx2_call, step_avx2_call, sort_avx2_call, product_avx2_call},
    {"avx512", 16, forward_avx512_call, backward_avx512_call, decode_avx512_call, correct_avx512_call, step_avx512_call, sort_avx512_call, product_avx512_call},
#endif
};

/* 0: whatever the compiler was told; 1: AVX2 with FMA; 2: AVX-512. */
static int best_target(void) {
#ifdef X86_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

/* How many instruction sets this machine runs; the last is the fastest. */
EXPORT int deltamem_scan_targets(void) { return best_target() + 1; }
EXPORT const char *deltamem_scan_target_name(int target) { return targets[target].name; }

/* Work shared by threads: items are taken one at a time, so that none waits for a slow one. */
struct job {
    const struct target *target;
    const struct forward_call *forward; /* one of the three is not null */
    const struct backward_call *backward;
    long tiles, items; /* an item is a tile of a sequence forward, a sequence backward, a run of a product's columns */
    atomic_long next;
    atomic_int failed;
    const struct product_call *product;
    const float *x; /* of the product, sorted */
};

static float *workspace_open(struct workspace *work, long lanes, long R, long T) {
    const size_t chunk = T < CHUNK ? (size_t)T : CHUNK, tokens = chunk * (size_t)R;
    const size_t floats = tokens * (size_t)lanes + 3 * tokens + (size_t)(R * R);
    float *memory = aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64);
    if (!memory) return 0;
    work->history = memory;
    work->seen = work->history + tokens * (size_t)lanes;
    work->change = work->seen + tokens;
    work->d_seen = work->change + tokens;
    work->by_row = work->d_seen + tokens;
    return memory;
}

static void *run(void *argument) {
    struct job *job = argument;
    struct workspace work;
    float *memory = 0;
    if (job->backward && !(memory = workspace_open(&work, job->target->wide, job->backward->R, job->backward->T))) {
        atomic_store(&job->failed, 1);
        return 0;
    }
    for (long item; (item = atomic_fetch_add(&job->next, 1)) < job->items;) {
        if (job->product) {
            const long from = item * SHARED_COLUMNS, end = from + SHARED_COLUMNS;
            job->target->product(job->product, job->x, from, end < job->product->N ? end : job->product->N);
        } else if (job->forward) job->target->forward(job->forward, item / job->tiles, (int)(item % job->tiles));
        else job->target->backward(job->backward, item, &work);
    }
    free(memory);
    return 0;
}

/* GOMP_parallel of the OpenMP library that PyTorch computes with: its threads wait for work by turning in circles, and
 * would turn beside ours on the same cores. Without one, threads are started for each call. */
typedef void parallel(void (*run)(void *), void *argument, unsigned threads, unsigned flags);
static parallel *shared_threads;

EXPORT void deltamem_share_threads(parallel *with) { shared_threads = with; }

static void run_shared(void *job) { run(job); }

/* Run on up to `threads` threads, the caller being one; a thread that cannot be had is done without. */
static int run_on(struct job *job, long threads) {
    pthread_t others[MAX_THREADS];
    long started = 0;
    if (threads > job->items) threads = job->items;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (shared_threads && threads > 1) {
        shared_threads(run_shared, job, (unsigned)threads, 0);
        return atomic_load(&job->failed);
    }
    while (started < threads - 1 && !pthread_create(&others[started], 0, run, job)) started++;
    run(job);
    while (started > 0) pthread_join(others[--started], 0);
    return atomic_load(&job->failed);
}

/* These return 0, or 1 if memory ran out; the outputs are then incomplete. */
EXPORT int deltamem_scan_forward(int target, const struct forward_call *call, long threads) {
    const long wide = targets[target].wide, tiles = call->R > wide ? call->R / wide : 1;
    struct job job = {&targets[target], call, 0, tiles, call->N * tiles, 0, 0, 0, 0};
    return run_on(&job, threads);
}

EXPORT int deltamem_scan_backward(int target, const struct backward_call *call, long threads) {
    struct job job = {&targets[target], 0, call, 1, call->N, 0, 0, 0, 0};
    return run_on(&job, threads);
}

EXPORT int deltamem_product(int target, const struct product_call *call, long threads) {
    float *x = aligned_alloc(64, (size_t)(call->M * call->K) * sizeof(float));
    if (!x) return 1;
    targets[target].sort(call, x);
    const long items = (call->N + SHARED_COLUMNS - 1) / SHARED_COLUMNS;
    struct job job = {&targets[target], 0, 0, 1, items, 0, 0, call, x};
    run_on(&job, threads);
    free(x);
    return 0;
}

/* One token a row, on the calling thread: too little work to share. Rows are `stride` numbers apart, state [B,H,R,R],
 * valid [B] bytes or null, reads [B, H·R], later [B, later.out] or null: what is to be added to that output. */
EXPORT void deltamem_decode(int target, const struct product_layout *layout, long B, void *product, long stride,
                            const float *state, const unsigned char *valid, float *reads, void *later) {
    targets[target].decode(layout, B, product, stride, state, valid, reads, later);
}

EXPORT void deltamem_correct(int target, const struct correction *correction, long B, void *output, long stride,
                             const float *reads) {
    targets[target].correct(correction, B, output, stride, reads);
}

EXPORT void deltamem_step(int target, const struct step_call *call) { targets[target].step(call); }
