// Products of bfloat16 numbers with sums in fp32 by AVX512-BF16, and what goes with them. What is multiplied from the right lies
// in panels of PANEL columns, two numbers of its depth side by side: [columns / PANEL][depth / 2][PANEL][2].
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef uint16_t half;
constexpr long PANEL = 32, TILE = 8;  // the sums of a tile, 8 rows of two vectors, stay in registers; more are slower

static inline long panels_of(long columns) { return (columns + PANEL - 1) / PANEL; }
static inline long pairs_of(long depth) { return (depth + 1) / 2; }
static inline __mmask16 lanes(long n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1; }
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline void narrow_to(half* to, __m512 x, __mmask16 which) { _mm256_mask_storeu_epi16(to, which, narrow(x)); }

// e to the x, for x <= 0; relative error below 1e-4, a fortieth of what rounding to bfloat16 does.
static inline __m512 exponential(__m512 x) {
    x = _mm512_max_ps(x, _mm512_set1_ps(-87.f));
    __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 y = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693147181f), x), p = _mm512_set1_ps(0.0416666667f);
    for (float c : {0.166666667f, 0.5f, 1.f, 1.f}) p = _mm512_fmadd_ps(p, y, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, whole);
}

// x (R, 2 * pairs) times one panel, R rows of two vectors, given to `put` row by row. Meanwhile what comes next in memory is
// fetched, `pace` numbers a turn: with few rows reading the panels is the longer half.
template <int R, class Put>
static void tile(const half* x, long row, const half* panel, long pairs, const float* bias, const half* next, long pace,
                 const Put& put, long m, long p) {
    __m512 sums[R][2];
    __m512 left = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps(), right = bias ? _mm512_loadu_ps(bias + 16) : left;
    for (int r = 0; r < R; r++) sums[r][0] = left, sums[r][1] = right;
    for (long k = 0; k < pairs; k++) {
        _mm_prefetch((const char*)(next + k * pace), _MM_HINT_T1);
        __m512bh a = (__m512bh)_mm512_loadu_si512(panel + k * 2 * PANEL);
        __m512bh b = (__m512bh)_mm512_loadu_si512(panel + k * 2 * PANEL + PANEL);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int32_t two;
            memcpy(&two, x + r * row + 2 * k, 4);
            __m512bh y = (__m512bh)_mm512_set1_epi32(two);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, y);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], b, y);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) put(m + r, p, sums[r][0], sums[r][1]);
}

// x (M, 2 * pairs) times panels [first, last) and added to `bias` (whole panels, or null); `room` is the number of pairs for
// which the panels were laid out.
template <class Put>
static void product(const half* x, long row, long M, const half* panels, long pairs, long room, const float* bias, long first,
                    long last, const Put& put) {
    constexpr decltype(&tile<1, Put>) tiles[] = {tile<1, Put>, tile<2, Put>, tile<3, Put>, tile<4, Put>,
                                                 tile<5, Put>, tile<6, Put>, tile<7, Put>, tile<8, Put>};
    long parts = (M + TILE - 1) / TILE;
    for (long p = first; p < last; p++)
        for (long part = 0, at = 0; part < parts; part++) {
            long rows = (M - at) / (parts - part);
            tiles[rows - 1](x + at * row, row, panels + p * room * 2 * PANEL, pairs, bias ? bias + p * PANEL : nullptr,
                            panels + (p + 1) * room * 2 * PANEL + pairs * 2 * PANEL / parts * part, 2 * PANEL / parts, put, at, p);
            at += rows;
        }
}

// The same by several threads.
template <class Put>
static void shared_product(const half* x, long row, long M, const half* panels, long pairs, const float* bias, long count,
                           const Put& put, long threads) {
    long shares = std::min(threads, count);
#pragma omp parallel for num_threads(shares) if (shares > 1)
    for (long s = 0; s < shares; s++)
        product(x, row, M, panels, pairs, pairs, bias, count * s / shares, count * (s + 1) / shares, put);
}

struct Floats {  // to fp32 (M, N), instead of what is there or added to it
    float* out;
    long to, N;
    bool add;
    void operator()(long m, long p, __m512 a, __m512 b) const {
        float* at = out + m * to + p * PANEL;
        __mmask16 left = lanes(N - p * PANEL), right = lanes(N - p * PANEL - 16);
        if (add) a = _mm512_add_ps(a, _mm512_maskz_loadu_ps(left, at)), b = _mm512_add_ps(b, _mm512_maskz_loadu_ps(right, at + 16));
        _mm512_mask_storeu_ps(at, left, a);
        _mm512_mask_storeu_ps(at + 16, right, b);
    }
};

struct Shares {  // to bfloat16 (M, N), each row times its `scale`
    half* out;
    long to, N;
    const float* scale;
    void operator()(long m, long p, __m512 a, __m512 b) const {
        half* at = out + m * to + p * PANEL;
        __m512 by = _mm512_set1_ps(scale[m]);
        narrow_to(at, _mm512_mul_ps(a, by), lanes(N - p * PANEL));
        narrow_to(at + 16, _mm512_mul_ps(b, by), lanes(N - p * PANEL - 16));
    }
};

struct Gated {  // silu(gate) * up to bfloat16 (M, N): a panel has 16 gates beside their 16 ups
    half* out;
    long to, N;
    void operator()(long m, long p, __m512 gate, __m512 up) const {
        __m512 one = _mm512_set1_ps(1.f), e = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(gate)));
        __m512 above = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(gate, _mm512_setzero_ps(), _CMP_LT_OQ), one, e);
        gate = _mm512_mul_ps(_mm512_mul_ps(gate, above), _mm512_rcp14_ps(_mm512_add_ps(one, e)));  // to 14 bits
        narrow_to(out + m * to + p * 16, _mm512_mul_ps(gate, up), lanes(to - p * 16));
    }
};

// The root mean square norm of x (n): in fp32 to `out`, or to bfloat16 (an even number of them).
static void normalise(const float* x, const float* weight, long n, float epsilon, float* out, half* narrowed) {
    __m512 squares = _mm512_setzero_ps();
    for (long i = 0; i < n; i += 16) {
        __m512 y = _mm512_maskz_loadu_ps(lanes(n - i), x + i);
        squares = _mm512_fmadd_ps(y, y, squares);
    }
    __m512 scale = _mm512_set1_ps(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / n + epsilon));
    for (long i = 0; i < n; i += 16) {
        __mmask16 which = lanes(n - i);
        __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(which, weight + i),
                                 _mm512_mul_ps(_mm512_maskz_loadu_ps(which, x + i), scale));
        if (narrowed) narrow_to(narrowed + i, y, lanes(n + (n & 1) - i));
        else _mm512_mask_storeu_ps(out + i, which, y);
    }
}

static float largest(const float* x, long n, float most) {
    __m512 found = _mm512_set1_ps(most);
    for (long i = 0; i < n; i += 16) found = _mm512_mask_max_ps(found, lanes(n - i), found, _mm512_maskz_loadu_ps(lanes(n - i), x + i));
    return _mm512_reduce_max_ps(found);
}

// exp(x - most) in bfloat16, zeros up to `room`; returns their sum before rounding.
static float weights_of(const float* x, long n, float most, half* out, long room) {
    __m512 high = _mm512_set1_ps(most), sum = _mm512_setzero_ps();
    for (long i = 0; i < room; i += 16) {
        __mmask16 which = lanes(n - i);
        __m512 e = _mm512_maskz_mov_ps(which, exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(which, x + i), high)));
        sum = _mm512_add_ps(sum, e);
        narrow_to(out + i, e, lanes(room - i));
    }
    return _mm512_reduce_add_ps(sum);
}
