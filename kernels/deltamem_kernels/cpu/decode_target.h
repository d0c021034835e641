/* Decoding: one token a row, read and corrected, or written as well. Included by scan_target.h for each instruction set.
 * Plain loops over contiguous floats, which the compiler turns into that set's vectors. */

/* output[b, o] += Σ_w reads[b, w] weight[w, o], in place */
static void JOIN(correct, TARGET, call)(const struct correction *c, long B, char *output, long stride,
                                        const float *reads) {
    for (long b = 0; b < B; b++, reads += c->W) {
        const float *weight = c->weight;
        for (long from = 0; from < c->out; from += OUTPUTS) {
            const long n = c->out - from < OUTPUTS ? c->out - from : OUTPUTS, at = b * stride + from;
            float sum[OUTPUTS] = {0};
            for (long w = 0; w < c->W; w++, weight += OUTPUTS)
                for (long o = 0; o < OUTPUTS; o++) sum[o] += reads[w] * weight[o];
            if (c->bf16) {
                unsigned short *to = (unsigned short *)output + at;
                for (long o = 0; o < n; o++) to[o] = to_bf16(from_bf16(to[o]) + sum[o]);
            } else {
                float *to = (float *)output + at;
                for (long o = 0; o < n; o++) to[o] += sum[o];
            }
        }
    }
}

/* reads[b, h·R + i] = Σ_j S[b,h,i,j] q[j], q = unit(tanh(x)) or x itself, x the queries' columns; then the corrections.
 * A row that is not valid reads zero. */
static void JOIN(decode, TARGET, call)(const struct product_layout *c, long B, char *product, long stride,
                                       const float *state, const unsigned char *valid, float *reads, char *later) {
    const long R = c->R, W = c->H * R;
    for (long b = 0; b < B; b++) {
        float *row = reads + b * W;
        if (valid && !valid[b]) {
            for (long w = 0; w < W; w++) row[w] = 0.0f;
            continue;
        }
        for (long h = 0; h < c->H; h++) {
            float q[MAX_R], squares = 0.0f;
            for (long j = 0; j < R; j++) q[j] = load_number(product, c->bf16, b * stride + c->queries + h * R + j);
            if (c->normalize) {
                for (long j = 0; j < R; j++) q[j] = tanhf(q[j]), squares += q[j] * q[j];
                const float norm = sqrtf(squares), inverse = 1.0f / (norm > 1e-6f ? norm : 1e-6f);
                for (long j = 0; j < R; j++) q[j] *= inverse;
            }
            const float *matrix = state + (b * c->H + h) * R * R;
            for (long i = 0; i < R; i++) {
                float sum = 0.0f;
                for (long j = 0; j < R; j++) sum += matrix[i * R + j] * q[j];
                row[h * R + i] = sum;
            }
        }
    }
    for (long t = 0; t < c->corrected; t++)
        JOIN(correct, TARGET, call)(c->correction + t, B, product + c->column[t] * (c->bf16 ? 2 : 4), stride, reads);
    if (later) {
        memset(later, 0, (size_t)(B * c->later.out * (c->later.bf16 ? 2 : 4)));
        JOIN(correct, TARGET, call)(&c->later, B, later, c->later.out, reads);
    }
}

static void JOIN(step, TARGET, call)(const struct step_call *c) {
    const long R = c->R;
    for (long n = 0; n < c->N; n++) {
        float *reads = c->reads + n * R;
        if (c->slots[n] < 0) {
            for (long i = 0; i < R; i++) reads[i] = 0.0f;
            continue;
        }
        const float *q = c->q + n * R, *k = c->k + n * R;
        for (long i = 0; i < R; i++) {
            float *row = c->pool + (c->slots[n] * R + i) * R, read = 0.0f, seen = 0.0f;
            for (long j = 0; j < R; j++) read += row[j] * q[j], seen += row[j] * k[j];
            const long at = n * R + i;
            const float keep = c->keep[at], change = c->write[at] * c->v[at] - c->erase[at] * seen;
            for (long j = 0; j < R; j++) row[j] = keep * row[j] + change * k[j];
            reads[i] = read;
        }
    }
}
