// Products of bfloat16 numbers with sums in fp32 by AVX512-BF16, and what goes with them. What is multiplied from the right lies
// in panels of PANEL columns, two numbers of its depth side by side: [columns / PANEL][depth / 2][PANEL][2].
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

typedef uint16_t half;
constexpr long PANEL = 32, TILE = 8;  // the sums of a tile, 8 rows of two vectors, stay in registers; more are slower

constexpr long LINE = 64;  // bytes
constexpr long AHEAD = 4;  // with fewer tiles to a panel the processor's own fetching is better, and ours disturbs it
constexpr float LOG2E = 1.44269504f;

static inline long even(long n) { return n + (n & 1); }
static inline long panels_of(long columns) { return (columns + PANEL - 1) / PANEL; }
static inline long pairs_of(long depth) { return (depth + 1) / 2; }
static inline __mmask16 lanes(long n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1; }
static inline __m256i narrow(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
static inline void narrow_to(half* to, __m512 x, __mmask16 which) { _mm256_mask_storeu_epi16(to, which, narrow(x)); }
static inline void narrow_both(half* to, __m512 x, __m512 y) { _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(y, x)); }

// 2 to the x; relative error below 8e-5 (minimax, degree 3), a twenty-fifth of what rounding to bfloat16 does.
static inline __m512 power(__m512 x) {
    __m512 y = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC), p = _mm512_set1_ps(0.0780245215f);
    for (float c : {0.226067156f, 0.695833564f, 0.999925196f}) p = _mm512_fmadd_ps(p, y, _mm512_set1_ps(c));
    return _mm512_scalef_ps(p, x);
}

// x (R, 2 * pairs) times one panel, R rows of two vectors, given to `put` row by row. Meanwhile what is read next is
// fetched, `pace` numbers a turn, and first what `put` adds to next. V: of a panel's two vectors both, or the first alone.
template <int R, int V, class Put>
static void tile(const half* x, long row, const half* panel, long pairs, const float* bias, const half* next, long pace,
                 const Put& given, long m, long p) {
    const Put put = given;  // not read anew after each row is written
    for (int r = 0; r < R; r++) put.soon(m + r, p);
    __m512 sums[R][2];
    __m512 left = bias ? _mm512_loadu_ps(bias) : _mm512_setzero_ps(), right = bias ? _mm512_loadu_ps(bias + 16) : left;
    for (int r = 0; r < R; r++) sums[r][0] = left, sums[r][1] = right;
    for (long k = 0; k < pairs; k++) {
        _mm_prefetch((const char*)(next + k * pace), _MM_HINT_T0);
        __m512bh a = (__m512bh)_mm512_loadu_si512(panel + k * 2 * PANEL);
        __m512bh b = (__m512bh)_mm512_loadu_si512(panel + k * 2 * PANEL + PANEL);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            int32_t two;
            memcpy(&two, x + r * row + 2 * k, 4);
            __m512bh y = (__m512bh)_mm512_set1_epi32(two);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], a, y);
            if (V > 1) sums[r][1] = _mm512_dpbf16_ps(sums[r][1], b, y);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) put(m + r, p, sums[r][0], sums[r][1]);
}

// Memory that is read or written after a product, and is fetched meanwhile, `share` of it with each tile.
struct Later {
    const char* at;
    long bytes, share = 0;
    Later(const void* at, long bytes) : at((const char*)at), bytes(bytes) {}
};
typedef std::array<Later, 0> None;

// x (M, 2 * pairs) times panels [first, last) and added to `bias` (whole panels, or null); `room` is the number of pairs for
// which the panels were laid out. `after`: the panels that are read next (null: whatever lies behind these).
template <class Put, class Laters = None>
static void product(const half* x, long row, long M, const half* panels, long pairs, long room, const float* bias, long first,
                    long last, const Put& put, const half* after = nullptr, Laters later = {}) {
    constexpr decltype(&tile<1, 2, Put>) tiles[] = {tile<1, 2, Put>, tile<2, 2, Put>, tile<3, 2, Put>, tile<4, 2, Put>,
                                                    tile<5, 2, Put>, tile<6, 2, Put>, tile<7, 2, Put>, tile<8, 2, Put>};
    long parts = (M + TILE - 1) / TILE, rows = parts > 1 ? M / parts : M, fewer = parts > 1 ? parts - M % parts : 1;
    long size = room * 2 * PANEL;
    bool ahead = parts >= AHEAD;  // each tile fetches its share
    long share = ahead ? pairs * 2 * PANEL / parts : 0, pace = ahead ? (2 * PANEL + parts - 1) / parts : 0;
    for (auto& l : later) l.share = (l.bytes / ((last - first) * parts) + LINE - 1) & -LINE;
    for (long p = first; p < last; p++) {
        const half* next = !ahead ? x : p + 1 < last || !after ? panels + (p + 1) * size : after;
        for (long part = 0, at = 0; part < parts; part++) {
            long more = part >= fewer;
            for (auto& l : later)
                for (const char* end = l.at + l.share; l.at < end; l.at += LINE) _mm_prefetch(l.at, _MM_HINT_T0);
            auto done = tiles[rows + more - 1];
            if constexpr (Put::COUNTS)  // attention's last keys
                if (rows + more == TILE && put.N - p * PANEL <= 16) done = tile<TILE, 1, Put>;
            done(x + at * row, row, panels + p * size, pairs, bias ? bias + p * PANEL : nullptr, next + share * part, pace, put,
                 at, p);
            at += rows + more;
        }
    }
}

// The same by several threads.
template <class Put, class Laters = None>
static void shared_product(const half* x, long row, long M, const half* panels, long pairs, const float* bias, long count,
                           const Put& put, long threads, const half* after = nullptr, Laters later = {}) {
    long shares = std::min(threads, count);  // a team takes microseconds
    if (shares == 1) return product(x, row, M, panels, pairs, pairs, bias, 0, count, put, after, later);
#pragma omp parallel for num_threads(shares)
    for (long s = 0; s < shares; s++)
        product(x, row, M, panels, pairs, pairs, bias, count * s / shares, count * (s + 1) / shares, put, after);
}

struct Writes {
    static constexpr bool COUNTS = false;  // whether a last panel of one vector is worth a loop of its own
    void soon(long, long) const {}
};

struct Floats : Writes {  // to fp32 (M, N)
    static constexpr bool COUNTS = true;
    float* out;
    long to, N;
    Floats(float* out, long to, long N) : out(out), to(to), N(N) {}
    void operator()(long m, long p, __m512 a, __m512 b) const {
        float* at = out + m * to + p * PANEL;
        _mm512_mask_storeu_ps(at, lanes(N - p * PANEL), a);
        _mm512_mask_storeu_ps(at + 16, lanes(N - p * PANEL - 16), b);
    }
};

struct Added {  // added to fp32 (M, N)
    static constexpr bool COUNTS = false;
    float* out;
    long to, N;
    void soon(long m, long p) const {  // what the next panel is added to: memory takes longer than a tile
        _mm_prefetch((const char*)(out + m * to + (p + 1) * PANEL), _MM_HINT_T0);
        _mm_prefetch((const char*)(out + m * to + (p + 1) * PANEL + 16), _MM_HINT_T0);
    }
    void operator()(long m, long p, __m512 a, __m512 b) const {
        float* at = out + m * to + p * PANEL;
        __mmask16 left = lanes(N - p * PANEL), right = lanes(N - p * PANEL - 16);
        _mm512_mask_storeu_ps(at, left, _mm512_add_ps(a, _mm512_maskz_loadu_ps(left, at)));
        _mm512_mask_storeu_ps(at + 16, right, _mm512_add_ps(b, _mm512_maskz_loadu_ps(right, at + 16)));
    }
};

struct Shares : Writes {  // to bfloat16 (M, N), each row times its `scale`
    half* out;
    long to, N;
    const float* scale;
    Shares(half* out, long to, long N, const float* scale) : out(out), to(to), N(N), scale(scale) {}
    void operator()(long m, long p, __m512 a, __m512 b) const {
        half* at = out + m * to + p * PANEL;
        __m512 by = _mm512_set1_ps(scale[m]);
        narrow_to(at, _mm512_mul_ps(a, by), lanes(N - p * PANEL));
        narrow_to(at + 16, _mm512_mul_ps(b, by), lanes(N - p * PANEL - 16));
    }
};

struct Gated : Writes {  // silu(gate) * up to bfloat16 (M, N): a panel has 16 gates beside their 16 ups
    half* out;
    long to, N;
    Gated(half* out, long to, long N) : out(out), to(to), N(N) {}
    void operator()(long m, long p, __m512 gate, __m512 up) const {
        __m512 e = power(_mm512_mul_ps(gate, _mm512_set1_ps(-LOG2E)));
        __m512 share = _mm512_rcp14_ps(_mm512_add_ps(e, _mm512_set1_ps(1.f)));  // to 14 bits; 0 where e is infinite
        narrow_to(out + m * to + p * 16, _mm512_mul_ps(_mm512_mul_ps(gate, up), share), lanes(to - p * 16));
    }
};

static inline float sum_of(const __m512* x) {
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3])));
}

// `of(y, j)` for all vectors of x (n), four of them by turns: j. What is beyond n reads as `beyond`.
template <class Of>
static inline void by_four(const float* x, long n, float beyond, Of&& of) {
    long i = 0;
    for (; i + 64 <= n; i += 64)  // no masks here: making them takes longer than the rest
        for (long j = 0; j < 4; j++) of(_mm512_loadu_ps(x + i + 16 * j), j);
    for (long j = 0; i < n; i += 16, j++) of(_mm512_mask_loadu_ps(_mm512_set1_ps(beyond), lanes(n - i), x + i), j);
}

// The root mean square norm of M rows of n numbers: in fp32 to `out`, or to bfloat16 (an even number of them).
static void normalise(const float* x, long row, long M, const float* weight, long n, float epsilon, float* out, half* narrowed,
                      long to) {
    for (long m = 0; m < M; m++, x += row) {
        __m512 squares[4] = {};
        by_four(x, n, 0.f, [&](__m512 y, long j) { squares[j] = _mm512_fmadd_ps(y, y, squares[j]); });
        __m512 scale = _mm512_set1_ps(1.f / std::sqrt(sum_of(squares) / n + epsilon));
        float* wide = out + m * to;
        half* small = narrowed + m * to;
        auto at = [&](long i, __mmask16 which) {
            return _mm512_mul_ps(_mm512_maskz_loadu_ps(which, weight + i),
                                 _mm512_mul_ps(_mm512_maskz_loadu_ps(which, x + i), scale));
        };
        long i = 0;
        for (; i + 32 <= n; i += 32) {
            if (narrowed) narrow_both(small + i, at(i, 0xffff), at(i + 16, 0xffff));
            else _mm512_storeu_ps(wide + i, at(i, 0xffff)), _mm512_storeu_ps(wide + i + 16, at(i + 16, 0xffff));
        }
        for (; i < n; i += 16)
            if (narrowed) narrow_to(small + i, at(i, lanes(n - i)), lanes(even(n) - i));
            else _mm512_mask_storeu_ps(wide + i, lanes(n - i), at(i, lanes(n - i)));
    }
}

static float largest(const float* x, long n, float most) {
    __m512 found[4];
    for (auto& f : found) f = _mm512_set1_ps(most);
    by_four(x, n, most, [&](__m512 y, long j) { found[j] = _mm512_max_ps(found[j], y); });
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(found[0], found[1]), _mm512_max_ps(found[2], found[3])));
}

// exp(x - most) in bfloat16, zeros up to `room`; returns their sum before rounding.
static float weights_of(const float* x, long n, float most, half* out, long room) {
    __m512 least = _mm512_set1_ps(-most * LOG2E), by = _mm512_set1_ps(LOG2E), sums[4] = {};
    auto at = [&](long i, __mmask16 which) {
        return _mm512_maskz_mov_ps(which, power(_mm512_fmadd_ps(_mm512_maskz_loadu_ps(which, x + i), by, least)));
    };
    long i = 0;
    for (; i + 64 <= n; i += 64) {
        __m512 e[4];
        for (long j = 0; j < 4; j++) e[j] = at(i + 16 * j, 0xffff), sums[j] = _mm512_add_ps(sums[j], e[j]);
        narrow_both(out + i, e[0], e[1]), narrow_both(out + i + 32, e[2], e[3]);
    }
    for (; i < room; i += 16) {
        __m512 e = at(i, lanes(n - i));
        sums[0] = _mm512_add_ps(sums[0], e);
        narrow_to(out + i, e, lanes(room - i));
    }
    return sum_of(sums);
}
