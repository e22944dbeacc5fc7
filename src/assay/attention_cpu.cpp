// The elementwise half of packed attention's backward pass on a CPU (attention.py): what lies between matrix products.
// Plain loops that a compiler vectorises. Shapes: K key heads, G query heads for each, D head width, fp32 work space;
// tensors of the model are fp32 or bfloat16 (`half`), with strides in elements.
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
// Row i < n sees the first m - n + i + 1 columns; everything else becomes zero. norm and drop are (T, K * G) at token `at`.
void weigh(float* scores, float* products, const float* norm, const float* drop, long at, long K, long G, long rows,
           long columns, long n, long m, float scale) {
    for (long k = 0; k < K; k++)
        for (long i = 0; i < rows; i++)
            for (long g = 0; g < G; g++) {
                float *s = scores + ((k * rows + i) * G + g) * columns, *p = products + ((k * rows + i) * G + g) * columns;
                long seen = i < n ? m - n + i + 1 : 0;
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

}  // extern "C"
