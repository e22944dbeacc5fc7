// One decoding step of a Llama-like model in fp32 on a CPU (decode_cpu.py): every weight is read once for all rows.
// Plain loops that a compiler vectorises, but for the products (native.h).
#include <cmath>
#include <vector>

#include "native.h"

static void linear(const float* x, long M, long depth, const float* panels, const float* bias, long N, float* out, bool add,
                   long threads) {
    if (bias)
        for (long m = 0; m < M; m++)
            for (long n = 0; n < N; n++) out[m * N + n] = bias[n] + (add ? out[m * N + n] : 0.f);
    long count = panels_of(N), shares = std::min(threads, count);
#pragma omp parallel for num_threads(shares) if (shares > 1)
    for (long s = 0; s < shares; s++)
        product(x, depth, M, panels, depth, depth, N, out, N, add || bias, count * s / shares, count * (s + 1) / shares);
}

static void normalise(const float* x, const float* weight, long n, float epsilon, float* out) {
    float squares[WIDE] = {}, sum = 0;
    long whole = n / WIDE * WIDE;
    for (long i = 0; i < whole; i += WIDE)
        for (long j = 0; j < WIDE; j++) squares[j] += x[i + j] * x[i + j];
    for (long i = whole; i < n; i++) sum += x[i] * x[i];
    for (long j = 0; j < WIDE; j++) sum += squares[j];
    float scale = 1.f / std::sqrt(sum / n + epsilon);
    for (long i = 0; i < n; i++) out[i] = weight[i] * (x[i] * scale);
}

// Turn the first 2 * half numbers of a head by its token's place.
static void rotate(float* x, const float* cos, const float* sin, long half) {
    for (long i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos[i] - b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

static void softmax(float* x, long n) {
    float most = x[0], sums[WIDE] = {}, sum = 0;
    for (long i = 1; i < n; i++) most = std::max(most, x[i]);
    for (long i = 0; i < n; i++) {
        float y = x[i] - most;
        x[i] = exponential(y < -60.f ? -60.f : y);
    }
    long whole = n / WIDE * WIDE;
    for (long i = 0; i < whole; i += WIDE)
        for (long j = 0; j < WIDE; j++) sums[j] += x[i + j];
    for (long i = whole; i < n; i++) sum += x[i];
    for (long j = 0; j < WIDE; j++) sum += sums[j];
    for (long i = 0; i < n; i++) x[i] /= sum;
}

static void gate(const float* gates, const float* ups, long n, float* out) {  // silu(gate) * up
    for (long i = 0; i < n; i++) {
        float x = gates[i], y = -std::fabs(x), e = exponential(y < -60.f ? -60.f : y);
        out[i] = x * (x < 0.f ? e : 1.f) / (1.f + e) * ups[i];
    }
}

extern "C" {

struct Layer {
    const float *norm, *norm_mlp, *q_norm, *k_norm;
    const float *qkv, *out, *up, *down, *qkv_bias, *out_bias, *up_bias, *down_bias;  // the first four in panels
    const float *shared_k, *shared_v;  // (G, K, panels over P tokens or over D)
    float *own_k, *own_v;              // (B, K, panels over `room` tokens or over D)
};

struct Sizes {
    long layers, B, G, H, K, D, width, inner, rotary, P, room, T, threads;
    float epsilon, scale;
};

long panel() { return PANEL; }

// w (N, depth) -> panels, zeros after the last column.
void pack(const float* w, long N, long depth, float* panels) {
    memset(panels, 0, panels_of(N) * PANEL * depth * sizeof(float));
    for (long n = 0; n < N; n++)
        for (long k = 0; k < depth; k++) panels[(n / PANEL * depth + k) * PANEL + n % PANEL] = w[n * depth + k];
}

void apply(const float* x, long M, long depth, const float* panels, const float* bias, long N, float* out, long threads) {
    linear(x, M, depth, panels, bias, N, out, false, threads);
}

// Of the rows of prompt g and key head k: q (rows, H, D) -> attended (rows, H, D), over the prompt and each row's own tokens.
static void attend(const Layer& l, const Sizes& z, long g, long k, const long* starts, const long* lengths, const float* qkv,
                   float* attended) {
    long Q = z.H / z.K, rows = starts[g + 1] - starts[g], M = rows * Q, seen = lengths[g], all = seen + z.T;
    long stride = (z.H + 2 * z.K) * z.D, keys = panels_of(z.D) * PANEL;
    static thread_local std::vector<float> work;
    work.resize(M * (2 * z.D + all));
    float *q = work.data(), *out = q + M * z.D, *scores = out + M * z.D;
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < Q * z.D; i++) q[r * Q * z.D + i] = qkv[(starts[g] + r) * stride + k * Q * z.D + i] * z.scale;
    product(q, z.D, M, l.shared_k + (g * z.K + k) * z.P * z.D, z.D, z.D, seen, scores, all, false, 0, panels_of(seen));
    for (long r = 0; r < rows; r++) {
        const float* own = l.own_k + ((starts[g] + r) * z.K + k) * z.room * z.D;
        product(q + r * Q * z.D, z.D, Q, own, z.D, z.D, z.T, scores + r * Q * all + seen, all, false, 0, panels_of(z.T));
    }
    for (long m = 0; m < M; m++) softmax(scores + m * all, all);
    product(scores, all, M, l.shared_v + (g * z.K + k) * z.P * keys, seen, z.P, z.D, out, z.D, false, 0, panels_of(z.D));
    for (long r = 0; r < rows; r++) {
        const float* own = l.own_v + ((starts[g] + r) * z.K + k) * z.room * keys;
        product(scores + r * Q * all + seen, all, Q, own, z.T, z.room, z.D, out + r * Q * z.D, z.D, true, 0, panels_of(z.D));
        memcpy(attended + ((starts[g] + r) * z.H + k * Q) * z.D, out + r * Q * z.D, Q * z.D * sizeof(float));
    }
}

// x (B, width): embeddings of each row's new token -> hidden states after the last norm, in place. Rows are ordered by
// prompt: those of g are [starts[g], starts[g + 1]). cos and sin (B, rotary). The new token's keys and values become own
// ones number T - 1.
void step(const Layer* layers, const Sizes* sizes, const float* cos, const float* sin, const long* starts, const long* lengths,
          const float* last_norm, float* x) {
    const Sizes& z = *sizes;
    long stride = (z.H + 2 * z.K) * z.D, t = z.T - 1, keys = panels_of(z.D) * PANEL;
    static thread_local std::vector<float> work;
    work.resize(z.B * (z.width + stride + z.H * z.D + 3 * z.inner));
    float *normed = work.data(), *qkv = normed + z.B * z.width, *attended = qkv + z.B * stride;
    float *ups = attended + z.B * z.H * z.D, *gated = ups + z.B * 2 * z.inner;
    for (long n = 0; n < z.layers; n++) {
        const Layer& l = layers[n];
        for (long b = 0; b < z.B; b++) normalise(x + b * z.width, l.norm, z.width, z.epsilon, normed + b * z.width);
        linear(normed, z.B, z.width, l.qkv, l.qkv_bias, stride, qkv, false, z.threads);
        for (long b = 0; b < z.B; b++) {
            for (long h = 0; h < z.H + z.K; h++) {
                float* head = qkv + b * stride + h * z.D;
                const float* norm = h < z.H ? l.q_norm : l.k_norm;
                if (norm) normalise(head, norm, z.D, z.epsilon, head);
                rotate(head, cos + b * z.rotary, sin + b * z.rotary, z.rotary / 2);
            }
            for (long k = 0; k < z.K; k++) {
                const float *key = qkv + b * stride + (z.H + k) * z.D, *value = key + z.K * z.D;
                float* own_k = l.own_k + ((b * z.K + k) * z.room + t / PANEL * PANEL) * z.D + t % PANEL;
                float* own_v = l.own_v + (b * z.K + k) * z.room * keys + t * PANEL;
                for (long d = 0; d < z.D; d++) own_k[d * PANEL] = key[d];
                for (long d = 0; d < z.D; d++) own_v[d / PANEL * z.room * PANEL + d % PANEL] = value[d];
            }
        }
        long cells = z.G * z.K, shares = std::min(z.threads, cells);
#pragma omp parallel for num_threads(shares) if (shares > 1) schedule(dynamic)
        for (long c = 0; c < cells; c++) attend(l, z, c / z.K, c % z.K, starts, lengths, qkv, attended);
        linear(attended, z.B, z.H * z.D, l.out, l.out_bias, z.width, x, true, z.threads);
        for (long b = 0; b < z.B; b++) normalise(x + b * z.width, l.norm_mlp, z.width, z.epsilon, normed + b * z.width);
        linear(normed, z.B, z.width, l.up, l.up_bias, 2 * z.inner, ups, false, z.threads);
        for (long b = 0; b < z.B; b++)
            gate(ups + b * 2 * z.inner, ups + (b * 2 + 1) * z.inner, z.inner, gated + b * z.inner);
        linear(gated, z.B, z.inner, l.down, l.down_bias, z.width, x, true, z.threads);
    }
    for (long b = 0; b < z.B; b++) normalise(x + b * z.width, last_norm, z.width, z.epsilon, x + b * z.width);
}

}  // extern "C"
