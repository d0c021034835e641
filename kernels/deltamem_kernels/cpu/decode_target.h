/* Decoding: one token a row, read and corrected, or written as well. Included by scan_target.h for each instruction set.
 * Plain loops over contiguous floats, which the compiler turns into that set's vectors. */

/* reads[b, h·R + i] = Σ_j S[b,h,i,j] q[j], q = unit(tanh(x[b, h·R ..])) or x itself; a row that is not valid reads zero. */
static void JOIN(read, TARGET, call)(const struct read_call *c) {
    const long R = c->R, W = c->H * R;
    for (long b = 0; b < c->B; b++) {
        float *reads = c->reads + b * W;
        if (c->valid && !c->valid[b]) {
            for (long w = 0; w < W; w++) reads[w] = 0.0f;
            continue;
        }
        for (long h = 0; h < c->H; h++) {
            float q[MAX_R], squares = 0.0f;
            for (long j = 0; j < R; j++) q[j] = load_number(c->x, c->x_bf16, b * c->x_stride + h * R + j);
            if (c->normalize) {
                for (long j = 0; j < R; j++) q[j] = tanhf(q[j]), squares += q[j] * q[j];
                const float norm = sqrtf(squares), inverse = 1.0f / (norm > 1e-6f ? norm : 1e-6f);
                for (long j = 0; j < R; j++) q[j] *= inverse;
            }
            const float *state = c->state + (b * c->H + h) * R * R;
            for (long i = 0; i < R; i++) {
                float sum = 0.0f;
                for (long j = 0; j < R; j++) sum += state[i * R + j] * q[j];
                reads[h * R + i] = sum;
            }
        }
    }
}

/* output[b, o] += scale Σ_w reads[b, w] weight[w, o], in place */
static void JOIN(correct, TARGET, call)(const struct correct_call *c) {
    enum { BLOCK = 256 };
    for (long b = 0; b < c->B; b++) {
        const float *reads = c->reads + b * c->W;
        for (long from = 0; from < c->out; from += BLOCK) {
            const long n = c->out - from < BLOCK ? c->out - from : BLOCK;
            float sum[BLOCK] = {0};
            for (long w = 0; w < c->W; w++) {
                const float read = c->scale * reads[w], *weight = c->weight + w * c->out + from;
                for (long o = 0; o < n; o++) sum[o] += read * weight[o];
            }
            if (c->output_bf16) {
                unsigned short *output = (unsigned short *)c->output + b * c->output_stride + from;
                for (long o = 0; o < n; o++) output[o] = to_bf16(from_bf16(output[o]) + sum[o]);
            } else {
                float *output = (float *)c->output + b * c->output_stride + from;
                for (long o = 0; o < n; o++) output[o] += sum[o];
            }
        }
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
