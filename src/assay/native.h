// What the compiled helpers share: the one kernel of all products, and an exponential.
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr long WIDE = 16;
#elif defined(__AVX__)
constexpr long WIDE = 8;
#else
constexpr long WIDE = 4;
#endif
// Whatever is multiplied from the right lies in panels: PANEL of its columns side by side, [columns / PANEL][depth][PANEL].
constexpr long PANEL = 2 * WIDE, ROWS = 6;  // a tile's sums stay in registers
typedef float Vector __attribute__((vector_size(WIDE * 4), aligned(4), may_alias));

static inline long panels_of(long columns) { return (columns + PANEL - 1) / PANEL; }

// x (R, depth), or its transpose if TURNED, times one panel -> out (R, up to PANEL columns). Meanwhile what comes next in
// memory is fetched, `pace` numbers a turn (0: nothing): with few rows reading the panels is the longer half.
template <int R, bool TURNED>
static void tile(const float* x, long row, const float* panel, long depth, float* out, long to, long columns, bool add,
                 const float* next, long pace) {
    Vector sums[R][2] = {};
    for (long k = 0; k < depth; k++) {
        if (!TURNED) __builtin_prefetch(next + k * pace, 0, 2);
        Vector left = *(const Vector*)(panel + k * PANEL), right = *(const Vector*)(panel + k * PANEL + WIDE);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            float y = TURNED ? x[k * row + r] : x[r * row + k];
            sums[r][0] += y * left;
            sums[r][1] += y * right;
        }
    }
    for (int r = 0; r < R; r++) {
        if (columns == PANEL) {
            Vector* whole = (Vector*)(out + r * to);
            whole[0] = add ? whole[0] + sums[r][0] : sums[r][0];
            whole[1] = add ? whole[1] + sums[r][1] : sums[r][1];
        } else {
            const float* from = (const float*)sums[r];
            for (long j = 0; j < columns; j++) out[r * to + j] = from[j] + (add ? out[r * to + j] : 0.f);
        }
    }
}

// x (M, depth), or its transpose if TURNED, times panels [first, last) -> out (M, N); `room` is the depth for which the panels
// were laid out.
template <bool TURNED = false>
static void product(const float* x, long row, long M, const float* panels, long depth, long room, long N, float* out, long to,
                    bool add, long first, long last) {
    constexpr decltype(&tile<1, TURNED>) tiles[] = {tile<1, TURNED>, tile<2, TURNED>, tile<3, TURNED>,
                                                    tile<4, TURNED>, tile<5, TURNED>, tile<6, TURNED>};
    long parts = (M + ROWS - 1) / ROWS;
    for (long p = first; p < last; p++)
        for (long part = 0, at = 0; part < parts; part++) {
            long rows = (M - at) / (parts - part);
            tiles[rows - 1](x + (TURNED ? at : at * row), row, panels + p * room * PANEL, depth, out + at * to + p * PANEL, to,
                            std::min(PANEL, N - p * PANEL), add,
                            panels + (p + 1) * room * PANEL + depth * PANEL / parts * part, PANEL / parts);
            at += rows;
        }
}

static inline float exponential(float x) {  // for x in [-60, 0]; relative error below 2e-7
    float whole = __builtin_rintf(x * 1.44269504f), y = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    float p = 1.f + y * (1.f + y * (0.5f + y * (0.166666667f + y * (0.0416666667f + y * (0.00833333333f + y * 0.00138888889f)))));
    int32_t bits = ((int32_t)whole + 127) << 23;
    float scale;
    memcpy(&scale, &bits, 4);
    return p * scale;
}
