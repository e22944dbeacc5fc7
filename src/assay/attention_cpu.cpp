// Packed attention on a CPU (attention.py), whole and in fp32; for processors with AMX what lies between the backward pass's
// products.
// Plain loops that a compiler vectorises, but for the products (native.h). Shapes: K key heads, G query heads for each, D head
// width, fp32 work space; tensors of the model are fp32 or bfloat16 (`half`), with strides in elements.
#include <cmath>
#include <vector>

#include "native.h"

static inline float wide(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

static inline uint16_t narrow(float x) {  // to the nearest, ties to even
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

extern "C" {

// (n, K * G, D) at two places of x -> out (K, rows, G, D), zeros after them.
void gather(const void* x, int half, long row, long head, long K, long G, long D, long at1, long n1, long at2, long n2,
            long rows, float* out) {
    for (long k = 0; k < K; k++) {
        for (long r = 0; r < n1 + n2; r++) {
            long token = r < n1 ? at1 + r : at2 + r - n1;
            for (long g = 0; g < G; g++) {
                long from = token * row + (k * G + g) * head;
                float* to = out + ((k * rows + r) * G + g) * D;
                if (half) {
                    const uint16_t* p = (const uint16_t*)x + from;
                    for (long d = 0; d < D; d++) to[d] = wide(p[d]);
                } else {
                    memcpy(to, (const float*)x + from, D * sizeof(float));
                }
            }
        }
        memset(out + (k * rows + n1 + n2) * G * D, 0, (rows - n1 - n2) * G * D * sizeof(float));
    }
}

// scores (K, rows, G, columns) -> weights exp(scale * score - norm); products (same shape) -> weights * (product - drop).
// Row i < n sees the first m - n + i + 1 columns, or (not `causal`) all m; everything else becomes zero. norm and drop are
// (T, K * G) at token `at`.
void weigh(float* scores, float* products, const float* norm, const float* drop, long at, long K, long G, long rows,
           long columns, long n, long m, long causal, float scale) {
    for (long k = 0; k < K; k++)
        for (long i = 0; i < rows; i++)
            for (long g = 0; g < G; g++) {
                float *s = scores + ((k * rows + i) * G + g) * columns, *p = products + ((k * rows + i) * G + g) * columns;
                long seen = i >= n ? 0 : causal ? m - n + i + 1 : m;
                if (seen) {
                    float high = norm[(at + i) * K * G + k * G + g], mean = drop[(at + i) * K * G + k * G + g];
                    for (long j = 0; j < seen; j++) {
                        float x = s[j] * scale - high;
                        x = x > 0.f ? 0.f : x < -60.f ? -60.f : x;
                        float w = exponential(x);
                        s[j] = w;
                        p[j] = w * (p[j] - mean);
                    }
                }
                memset(s + seen, 0, (columns - seen) * sizeof(float));
                memset(p + seen, 0, (columns - seen) * sizeof(float));
            }
}

// x (K, rows, G, D) times scale -> the first n rows of out (n, K * G, D), contiguous, from token `at`.
void scatter(const float* x, float scale, long K, long G, long D, long at, long n, long rows, void* out, int half) {
    for (long k = 0; k < K; k++)
        for (long r = 0; r < n; r++)
            for (long g = 0; g < G; g++) {
                const float* from = x + ((k * rows + r) * G + g) * D;
                long to = ((at + r) * K * G + k * G + g) * D;
                if (half) {
                    uint16_t* p = (uint16_t*)out + to;
                    for (long d = 0; d < D; d++) p[d] = narrow(from[d] * scale);
                } else {
                    float* p = (float*)out + to;
                    for (long d = 0; d < D; d++) p[d] = from[d] * scale;
                }
            }
}

// Add x (K, columns, D) to sums (T, K, D) at two places.
void add(const float* x, long K, long D, long at1, long n1, long at2, long n2, long columns, float* sums) {
    for (long k = 0; k < K; k++)
        for (long r = 0; r < n1 + n2; r++) {
            const float* from = x + (k * columns + r) * D;
            float* to = sums + ((r < n1 ? at1 + r : at2 + r - n1) * K + k) * D;
            for (long d = 0; d < D; d++) to[d] += from[d];
        }
}

// A (T, heads, D) tensor: element (t, h, d) is at[t * row + h * head + d].
struct Rows {
    const float* at;
    long row, head;
};

struct Pack {
    Rows q, k, v;
    const long* segments;  // (S, 4): first token, tokens, first token of its prefix, tokens of that
    long S, H, K, D;
    long T, before;  // `k` and `v` have T tokens, and behind them as many of an earlier pass, which all queries see first
    long causal;  // a query sees its segment up to itself, else all of it
    float scale;
    long threads;
};

}  // extern "C"

constexpr long BLOCK = 8 * ROWS;  // queries at a time: what causality masks is skipped but for half of it

// The j-th key that a segment sees: of the earlier pass, of its prefix, then of itself.
static const float* key(const Pack& a, const Rows& x, const long* s, long j, long head) {
    long i = j - a.before, token = i < 0 ? a.T + j : i < s[3] ? s[2] + i : s[0] + i - s[3];
    return x.at + token * x.row + head * x.head;
}

// Keys (m, D) of a head as columns: panels [m / PANEL][D][PANEL]; or as rows: panels [D / PANEL][m][PANEL].
static void as_columns(const Pack& a, const Rows& x, const long* s, long m, long head, float* panels) {
    const long D = a.D;
    memset(panels, 0, panels_of(m) * PANEL * D * sizeof(float));
    for (long j = 0; j < m; j++) {
        const float* from = key(a, x, s, j, head);
        float* to = panels + j / PANEL * D * PANEL + j % PANEL;
        for (long d = 0; d < D; d++) to[d * PANEL] = from[d];
    }
}

static void as_rows(const float* from, long D, float* to, long room) {
    for (long d = 0; d < D; d += PANEL)
        for (long j = 0; j < PANEL; j++) to[d * room + j] = d + j < D ? from[d + j] : 0.f;
}

static float* claim(float*& room, long n) {
    float* found = room;
    room += (n + PANEL - 1) / PANEL * PANEL;
    return found;
}

extern "C" {

// out (T, H, D) and norm (T, H), contiguous: the output, and the log of each row's softmax denominator.
void attend(const Pack* pack, float* out, float* norm) {
    const Pack& a = *pack;
    long G = a.H / a.K, D = a.D, wide = panels_of(D) * PANEL;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1) schedule(dynamic)
    for (long cell = 0; cell < a.S * a.K; cell++) {
        const long *s = a.segments + cell / a.K * 4, head = cell % a.K, n = s[1];
        const long shared = a.before + s[3], m = shared + n, ld = panels_of(m) * PANEL;
        static thread_local std::vector<float> work;
        work.resize(ld * D + m * wide + BLOCK * ld + 4 * PANEL);
        float *room = work.data(), *keys = claim(room, ld * D), *values = claim(room, m * wide), *scores = room;
        as_columns(a, a.k, s, m, head, keys);
        for (long j = 0; j < m; j++) as_rows(key(a, a.v, s, j, head), D, values + j * PANEL, m);
        for (long h = head * G; h < (head + 1) * G; h++)
            for (long r = 0; r < n; r += BLOCK) {
                long rows = std::min(BLOCK, n - r), seen = a.causal ? shared + r + rows : m, first = s[0] + r;
                product(a.q.at + first * a.q.row + h * a.q.head, a.q.row, rows, keys, D, D, seen, scores, ld, false, 0,
                        panels_of(seen));
                for (long i = 0; i < rows; i++) {
                    float *x = scores + i * ld, most[WIDE], sums[WIDE] = {}, high, sum = 0;
                    long own = a.causal ? shared + r + i + 1 : m, whole = own / WIDE * WIDE;
                    for (long j = 0; j < WIDE; j++) most[j] = x[0];
                    for (long c = 0; c < whole; c += WIDE)
                        for (long j = 0; j < WIDE; j++) most[j] = std::max(most[j], x[c + j]);
                    high = *std::max_element(most, most + WIDE);
                    for (long c = whole; c < own; c++) high = std::max(high, x[c]);
                    for (long c = 0; c < own; c++) {
                        float y = (x[c] - high) * a.scale;
                        x[c] = exponential(y < -60.f ? -60.f : y);
                    }
                    for (long c = 0; c < whole; c += WIDE)
                        for (long j = 0; j < WIDE; j++) sums[j] += x[c + j];
                    for (long c = whole; c < own; c++) sum += x[c];
                    for (long j = 0; j < WIDE; j++) sum += sums[j];
                    float share = 1.f / sum;
                    for (long c = 0; c < own; c++) x[c] *= share;
                    memset(x + own, 0, (seen - own) * sizeof(float));
                    norm[(first + i) * a.H + h] = high * a.scale + std::log(sum);
                }
                product(scores, ld, rows, values, seen, m, D, out + first * a.H * D + h * D, a.H * D, false, 0, panels_of(D));
            }
    }
}

// The gradients dq (T, H, D), written, and dk and dv (T, K, D), added to; all contiguous. grad (T, H, D) and drop (T, H), the
// row sums of grad times out, are so as well. Nothing goes back into an earlier pass: `before` is 0.
void attend_backward(const Pack* pack, const float* grad, const float* norm, const float* drop, float* dq, float* dk,
                     float* dv) {
    const Pack& a = *pack;
    long G = a.H / a.K, D = a.D, wide = panels_of(D) * PANEL;
#pragma omp parallel for num_threads(a.threads) if (a.threads > 1) schedule(dynamic)
    for (long head = 0; head < a.K; head++)
        for (const long* s = a.segments; s < a.segments + a.S * 4; s += 4) {
            const long n = s[1], m = s[3] + n, ld = panels_of(m) * PANEL;
            static thread_local std::vector<float> work;
            work.resize(2 * ld * D + m * wide + 2 * BLOCK * (ld + wide) + 2 * m * D + 9 * PANEL);
            float *room = work.data(), *keys = claim(room, ld * D), *values = claim(room, ld * D);
            float *rows_k = claim(room, m * wide), *weights = claim(room, BLOCK * ld), *slopes = claim(room, BLOCK * ld);
            float *rows_q = claim(room, BLOCK * wide), *rows_g = claim(room, BLOCK * wide);
            float *sum_k = claim(room, m * D), *sum_v = claim(room, m * D);
            as_columns(a, a.k, s, m, head, keys);
            as_columns(a, a.v, s, m, head, values);
            for (long j = 0; j < m; j++) as_rows(key(a, a.k, s, j, head), D, rows_k + j * PANEL, m);
            memset(sum_k, 0, m * D * sizeof(float));
            memset(sum_v, 0, m * D * sizeof(float));
            for (long h = head * G; h < (head + 1) * G; h++)
                for (long r = 0; r < n; r += BLOCK) {
                    long rows = std::min(BLOCK, n - r), seen = a.causal ? s[3] + r + rows : m, first = s[0] + r;
                    const float *q = a.q.at + first * a.q.row + h * a.q.head, *g = grad + (first * a.H + h) * D;
                    product(q, a.q.row, rows, keys, D, D, seen, weights, ld, false, 0, panels_of(seen));
                    product(g, a.H * D, rows, values, D, D, seen, slopes, ld, false, 0, panels_of(seen));
                    for (long i = 0; i < rows; i++) {
                        float *w = weights + i * ld, *p = slopes + i * ld;
                        float high = norm[(first + i) * a.H + h], mean = drop[(first + i) * a.H + h];
                        long own = a.causal ? s[3] + r + i + 1 : m;
                        for (long c = 0; c < own; c++) {
                            float y = w[c] * a.scale - high;
                            y = y > 0.f ? 0.f : y < -60.f ? -60.f : y;
                            w[c] = exponential(y);
                            p[c] = w[c] * (p[c] - mean) * a.scale;
                        }
                        memset(w + own, 0, (seen - own) * sizeof(float));
                        memset(p + own, 0, (seen - own) * sizeof(float));
                        as_rows(q + i * a.q.row, D, rows_q + i * PANEL, rows);
                        as_rows(g + i * a.H * D, D, rows_g + i * PANEL, rows);
                    }
                    product(slopes, ld, rows, rows_k, seen, m, D, dq + (first * a.H + h) * D, a.H * D, false, 0, panels_of(D));
                    product<true>(slopes, ld, seen, rows_q, rows, rows, D, sum_k, D, true, 0, panels_of(D));
                    product<true>(weights, ld, seen, rows_g, rows, rows, D, sum_v, D, true, 0, panels_of(D));
                }
            for (long j = 0; j < m; j++) {
                long to = ((j < s[3] ? s[2] + j : s[0] + j - s[3]) * a.K + head) * D;
                for (long d = 0; d < D; d++) dk[to + d] += sum_k[j * D + d];
                for (long d = 0; d < D; d++) dv[to + d] += sum_v[j * D + d];
            }
        }
}

}  // extern "C"
