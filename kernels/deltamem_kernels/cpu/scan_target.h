/* The tiles for one instruction set. Included by scan.c, under that target's pragma, with TARGET (a suffix) and WIDE
 * (the floats of its widest register) defined. A rank that is a constant lets the compiler keep a small tile in
 * registers; R is 8 or a multiple of 16. */

#define LANES WIDE
#define NAME(x) JOIN(x, TARGET, wide)
#include "scan_tile.h"
#undef LANES
#undef NAME

#if WIDE == 16 /* wider than rank 8 */
#define LANES 8
#define NAME(x) JOIN(x, TARGET, narrow)
#include "scan_tile.h"
#undef LANES
#undef NAME
#define AT_8(x) JOIN(x, TARGET, narrow)
#else
#define AT_8(x) JOIN(x, TARGET, wide)
#endif

static void JOIN(forward, TARGET, call)(const struct forward_call *c, long n, int tile) {
    switch (c->R) {
    case 8: AT_8(forward_tile)(8, c, n, tile); break;
    case 16: JOIN(forward_tile, TARGET, wide)(16, c, n, tile); break;
    case 32: JOIN(forward_tile, TARGET, wide)(32, c, n, tile); break;
    default: JOIN(forward_tile, TARGET, wide)((int)c->R, c, n, tile);
    }
}

static void JOIN(backward, TARGET, call)(const struct backward_call *c, long n, struct workspace *work) {
    switch (c->R) {
    case 8: AT_8(backward_sequence)(8, c, n, work); break;
    case 16: JOIN(backward_sequence, TARGET, wide)(16, c, n, work); break;
    case 32: JOIN(backward_sequence, TARGET, wide)(32, c, n, work); break;
    default: JOIN(backward_sequence, TARGET, wide)((int)c->R, c, n, work);
    }
}
#include "decode_target.h"
#include "product_target.h"

#undef AT_8
#undef TARGET
#undef WIDE
