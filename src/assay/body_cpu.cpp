// The layers of a Llama-like model in bfloat16 on a CPU (body_cpu.py): a pack in one call, or a decoding step in one. Weights lie
// in panels and are read once for many rows; what is added up, normalised or put through an exponential is fp32.
// Rows of heads lie `row` numbers apart; D is even.
#include "half.h"

constexpr long ROWS = 16 * TILE, QUERIES = TILE;  // rows that go through a layer's products, or its attention, together

// How far apart rows of n numbers of bfloat16 lie: not so that all fall into one place of the cache.
static long apart(long n) { return even(n) + (even(n) % 1024 ? 0 : 32); }

extern "C" {

struct Layer {
    const float *norm, *norm_mlp, *q_norm, *k_norm;
    const half *q, *kv, *out, *up, *down;                                 // panels; `up`: 16 gates beside their 16 ups
    const float *q_bias, *kv_bias, *out_bias, *up_bias, *down_bias;       // whole panels of them
    half *keys, *values;        // of a pass: (T, K, D); of a step: each row's own, (B, K, panels over tokens, or over D)
    const half *shared_keys, *shared_values;  // of a step: each prompt's, (G, K, panels); of a pass: an earlier pass's (P, K, D)
};

struct Sizes {
    long layers, H, K, D, width, inner, rotary, row, threads, before;  // `before`: P of a pass
    float epsilon, scale;
};

struct Job {  // queries of one segment: tokens first + from ... of the pack, in rows at, at + 1, ... of the heads; before its
              // own tokens it sees those of the earlier pass, and then `shared` ones of the pack from `prefix` on
    long first, from, rows, prefix, shared, at;
};

struct Answers {  // B rows of G prompts: those of g are [starts[g], starts[g + 1]); the new token is their own number T - 1
    long B, G, P, room, T;
    const long *starts, *lengths;
};

}  // extern "C"

// Room for n numbers at the begin of a cache line: a vector across two lines is read and written in two. It never shrinks,
// for growing fills it with zeros.
template <class T>
static T* place_for(std::vector<T>& room, size_t n) {
    if (room.size() < n + LINE / sizeof(T)) room.resize(n + LINE / sizeof(T));
    return (T*)(((uintptr_t)room.data() + LINE - 1) / LINE * LINE);
}

// The heads of a row, side by side, normed and rotated, times `scale`, to bfloat16.
static void place(float* x, long heads, const float* norm, const Sizes& z, const float* cos, const float* sin, float scale,
                  half* out) {
    long D = z.D, n = z.rotary / 2;
    if (norm) normalise(x, D, heads, norm, D, z.epsilon, x, nullptr, D);
    __m512 by = _mm512_set1_ps(scale);
    for (long i = 0; i < n; i += 16) {
        __mmask16 which = lanes(n - i);
        auto at = [&](const float* of) { return _mm512_maskz_loadu_ps(which, of + i); };
        __m512 c = at(cos), s = at(sin), c_back = at(cos + n), s_back = at(sin + n);
        for (long h = 0; h < heads; h++) {
            __m512 a = at(x + h * D), b = at(x + h * D + n);
            narrow_to(out + h * D + i, _mm512_mul_ps(_mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)), by), which);
            narrow_to(out + h * D + n + i, _mm512_mul_ps(_mm512_fmadd_ps(a, s_back, _mm512_mul_ps(b, c_back)), by), which);
        }
    }
    for (long h = 0; h < heads; h++)
        for (long i = z.rotary; i < D; i += 16) {
            __m512 a = _mm512_maskz_loadu_ps(lanes(D - i), x + h * D + i);
            narrow_to(out + h * D + i, _mm512_mul_ps(a, by), lanes(D - i));
        }
}

// Of x (M, width): queries (M, `row`), times the scale of the scores, and keys and values (M, K, D), where they are wanted.
static void read(const Layer& l, const Sizes& z, const float* x, long M, const float* cos, const float* sin, half* queries,
                 half* keys, half* values, long threads, const half* after) {
    long depth = apart(z.width), HD = z.H * z.D, KD = z.K * z.D;
    static thread_local std::vector<half> room;
    static thread_local std::vector<float> more;
    half* normed = place_for(room, M * depth);
    float* made = place_for(more, M * std::max(HD, 2 * KD));
    normalise(x, z.width, M, l.norm, z.width, z.epsilon, nullptr, normed, depth);
    if (queries) {
        shared_product(normed, depth, M, l.q, pairs_of(z.width), l.q_bias, panels_of(HD), Floats{made, HD, HD}, threads,
                       keys ? l.kv : after,
                       std::array{Later{queries, M * z.row * 2}, Later{cos, M * z.rotary * 4}, Later{sin, M * z.rotary * 4}});
        for (long m = 0; m < M; m++)
            place(made + m * HD, z.H, l.q_norm, z, cos + m * z.rotary, sin + m * z.rotary, z.scale, queries + m * z.row);
    }
    if (keys) {
        shared_product(normed, depth, M, l.kv, pairs_of(z.width), l.kv_bias, panels_of(2 * KD), Floats{made, 2 * KD, 2 * KD},
                       threads, after, std::array{Later{keys, M * KD * 2}, Later{values, M * KD * 2}});
        for (long m = 0; m < M; m++) {
            float* at = made + m * 2 * KD;
            place(at, z.K, l.k_norm, z, cos + m * z.rotary, sin + m * z.rotary, 1.f, keys + m * KD);
            for (long i = 0; i < KD; i += 16)
                narrow_to(values + m * KD + i, _mm512_maskz_loadu_ps(lanes(KD - i), at + KD + i), lanes(KD - i));
        }
    }
}

// What follows attention in a layer: heads (M, `row`) and the states before, x (M, width), to the states after it, in place.
static void finish(const Layer& l, const Sizes& z, const half* heads, float* x, long M, long threads, const half* after) {
    long depth = apart(z.width), inner = apart(z.inner);
    static thread_local std::vector<half> room;
    half *normed = place_for(room, M * (depth + inner)), *gated = normed + M * depth;
    Added added{x, z.width, z.width};
    shared_product(heads, z.row, M, l.out, z.H * z.D / 2, l.out_bias, panels_of(z.width), added, threads, l.up);
    normalise(x, z.width, M, l.norm_mlp, z.width, z.epsilon, nullptr, normed, depth);
    shared_product(normed, depth, M, l.up, pairs_of(z.width), l.up_bias, (z.inner + 15) / 16, Gated{gated, inner, even(z.inner)},
                   threads, l.down);
    shared_product(gated, inner, M, l.down, pairs_of(z.inner), l.down_bias, panels_of(z.width), added, threads, after);
}

// 16 rows of 32 numbers, pairs of them as one: the pairs of a column side by side, to rows that lie `to_apart` numbers apart.
static void transpose(const half* from, long apart, half* to, long to_apart) {
    __m512i a[16], b[16];
    for (long i = 0; i < 16; i++) a[i] = _mm512_loadu_si512(from + i * apart);
    for (long i = 0; i < 16; i += 2)
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    for (long i = 0; i < 16; i += 4)
        for (long j = 0; j < 2; j++)
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]),
                      a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
    for (long j = 0; j < 4; j++) {  // a[4 * i + j] has columns j, 4 + j, 8 + j and 12 + j of rows 4 * i to 4 * i + 3
        __m512i one = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88), two = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
        __m512i odd = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd), more = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
        _mm512_storeu_si512(to + j * to_apart, _mm512_shuffle_i32x4(one, two, 0x88));
        _mm512_storeu_si512(to + (4 + j) * to_apart, _mm512_shuffle_i32x4(odd, more, 0x88));
        _mm512_storeu_si512(to + (8 + j) * to_apart, _mm512_shuffle_i32x4(one, two, 0xdd));
        _mm512_storeu_si512(to + (12 + j) * to_apart, _mm512_shuffle_i32x4(odd, more, 0xdd));
    }
}

// Keys (n, D) as columns: panels [n / PANEL][D / 2][PANEL][2], from the j-th on. What lies after the last one is not read.
static void as_columns(const half* from, long apart, long n, long D, half* panels, long j) {
    for (long end = j + n; j < end;) {
        half* to = panels + (j / PANEL * D * PANEL) + j % PANEL * 2;
        bool whole = end - j >= 16 && j % 16 == 0 && D % 32 == 0;
        for (long i = 16; whole && i < 32; i++)  // the next ones: the processor fetches no rows that lie far apart
            for (long d = 0; d < D; d += 32) _mm_prefetch((const char*)(from + i * apart + d), _MM_HINT_T0);
        for (long d = 0; d < D; d += whole ? 32 : 2)
            if (whole) transpose(from + d, apart, to + d * PANEL, 2 * PANEL);
            else memcpy(to + d * PANEL, from + d, 4);
        from += whole ? 16 * apart : apart, j += whole ? 16 : 1;
    }
}

// By turns a number of each of two vectors: of their first halves, and of their second ones.
static constexpr struct Turns {
    alignas(LINE) half low[32], high[32];
    constexpr Turns() : low(), high() {
        for (half i = 0; i < 32; i++) low[i] = i / 2 + i % 2 * 32, high[i] = low[i] + 16;
    }
} TURNS;

// Two values, numbers 2 * j and 2 * j + 1 (null: zero), as rows: panels [D / PANEL][room][PANEL][2].
static void as_rows(const half* one, const half* two, long D, half* panels, long room, long j) {
    __m512i low = _mm512_load_si512(TURNS.low), high = _mm512_load_si512(TURNS.high);
    for (long d = 0; d < D; d += PANEL) {
        __mmask32 which = D - d >= 32 ? ~0u : (1u << (D - d)) - 1;
        __m512i a = _mm512_maskz_loadu_epi16(which, one + d), b = _mm512_setzero_si512();
        if (two) b = _mm512_maskz_loadu_epi16(which, two + d);
        half* to = panels + (d / PANEL * room + j) * PANEL * 2;
        _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
        _mm512_storeu_si512(to + PANEL, _mm512_permutex2var_epi16(a, high, b));
    }
}

// The attention of a job's queries under one key head: heads (rows, `row`) -> what they see, in place.
static void attend(const Layer& l, const Sizes& z, const Job& job, long head, half* heads) {
    long G = z.H / z.K, D = z.D, P = z.before, shared = P + job.shared, m = shared + job.from + job.rows;
    long pairs = pairs_of(m), ld = panels_of(m) * PANEL + PANEL;
    static thread_local std::vector<half> room;
    static thread_local std::vector<float> more;
    long keys_size = panels_of(m) * PANEL * D, values_size = pairs * 2 * panels_of(D) * PANEL;
    half *columns = place_for(room, keys_size + values_size + QUERIES * ld), *rows_v = columns + keys_size, *p = rows_v + values_size;
    float *scores = place_for(more, QUERIES * ld), most[QUERIES], shares[QUERIES];
    const long step = z.K * D, at_head = head * D;
    as_columns(l.shared_keys + at_head, step, P, D, columns, 0);
    as_columns(l.keys + job.prefix * step + at_head, step, job.shared, D, columns, P);
    as_columns(l.keys + job.first * step + at_head, step, m - shared, D, columns, shared);
    auto value = [&](long j) -> const half* {
        if (j >= m) return nullptr;
        if (j < P) return l.shared_values + j * step + at_head;
        return l.values + (j < shared ? job.prefix + j - P : job.first + j - shared) * step + at_head;
    };
    for (long j = 0; j < pairs; j++) {
        const half *one = value(2 * j), *two = value(2 * j + 1);
        for (long d = 0; d < D; d += LINE / sizeof(half))
            for (long ahead : {12, 13}) _mm_prefetch((const char*)(one + ahead * step + d), _MM_HINT_T0);
        as_rows(one, two, D, rows_v, pairs, j);
    }
    for (long h = head * G; h < (head + 1) * G; h++)
        for (long r = 0; r < job.rows; r += QUERIES) {
            long rows = std::min(QUERIES, job.rows - r), before = shared + job.from + r, seen = before + rows;
            half* at = heads + r * z.row + h * D;
            for (long i = rows; i < 2 * rows; i++)  // the next queries
                for (long d = 0; d < D; d += LINE / sizeof(half)) _mm_prefetch((const char*)(at + i * z.row + d), _MM_HINT_T0);
            product(at, z.row, rows, columns, D / 2, D / 2, nullptr, 0, panels_of(seen), Floats{scores, ld, seen});
            // one loop after the other: a row waits for its largest number, and the next ones need not
            for (long i = 0; i < rows; i++) most[i] = largest(scores + i * ld, before + i + 1, scores[i * ld]);
            for (long i = 0; i < rows; i++)
                shares[i] = 1.f / weights_of(scores + i * ld, before + i + 1, most[i], p + i * ld, even(seen));
            product(p, ld, rows, rows_v, pairs_of(seen), pairs, nullptr, 0, panels_of(D), Shares{at, z.row, D, shares});
        }
}

// The new token's keys and values (B, K, D) among the rows' own ones.
static void keep(const Layer& l, const Sizes& z, const Answers& a, const half* keys, const half* values) {
    long t = a.T - 1, wide = panels_of(z.D) * PANEL;
    for (long c = 0; c < a.B * z.K; c++) {
        as_columns(keys + c * z.D, 0, 1, z.D, l.keys + c * a.room * z.D, t);
        half* to = l.values + c * a.room * wide;
        for (long d = 0; d < z.D; d++)
            to[((d / PANEL * a.room / 2 + t / 2) * PANEL + d % PANEL) * 2 + t % 2] = values[c * z.D + d];
    }
}

// Of the rows of prompt g under one key head: heads (rows, `row`) -> what they see, the prompt and each row's own, in place.
static void attend_answers(const Layer& l, const Sizes& z, const Answers& a, long g, long head, half* heads) {
    long Q = z.H / z.K, D = z.D, rows = a.starts[g + 1] - a.starts[g], M = rows * Q, seen = a.lengths[g];
    long own = panels_of(seen) * PANEL, ld = own + panels_of(a.T) * PANEL + PANEL, wide = panels_of(D) * PANEL;
    static thread_local std::vector<half> room;
    static thread_local std::vector<float> more;
    half *p = place_for(room, M * (D + ld)), *q = p + M * ld;
    float *scores = place_for(more, M * (ld + D + 1)), *sums = scores + M * ld, *shares = sums + M * D;
    auto at = [&](long r) { return heads + (a.starts[g] + r) * z.row + head * Q * D; };
    auto panels = [&](const half* of, long cell, long tokens, long w) { return of + (cell * z.K + head) * tokens * w; };
    for (long r = 0; r < rows; r++) memcpy(q + r * Q * D, at(r), Q * D * sizeof(half));
    product(q, D, M, panels(l.shared_keys, g, a.P, D), D / 2, D / 2, nullptr, 0, panels_of(seen), Floats{scores, ld, seen});
    for (long r = 0; r < rows; r++)
        product(q + r * Q * D, D, Q, panels(l.keys, a.starts[g] + r, a.room, D), D / 2, D / 2, nullptr, 0, panels_of(a.T),
                Floats{scores + r * Q * ld + own, ld, a.T});
    for (long m = 0; m < M; m++) {
        const float* x = scores + m * ld;
        float most = largest(x + own, a.T, largest(x, seen, x[own]));
        float sum = weights_of(x, seen, most, p + m * ld, even(seen));
        shares[m] = 1.f / (sum + weights_of(x + own, a.T, most, p + m * ld + own, even(a.T)));
    }
    product(p, ld, M, panels(l.shared_values, g, a.P, wide), pairs_of(seen), a.P / 2, nullptr, 0, panels_of(D),
            Floats{sums, D, D});
    for (long r = 0; r < rows; r++)
        product(p + r * Q * ld + own, ld, Q, panels(l.values, a.starts[g] + r, a.room, wide), pairs_of(a.T), a.room / 2, nullptr, 0,
                panels_of(D), Added{sums + r * Q * D, D, D});
    for (long m = 0; m < M; m++)
        for (long d = 0; d < D; d += 16) {
            __mmask16 which = lanes(D - d);
            __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(which, sums + m * D + d), _mm512_set1_ps(shares[m]));
            narrow_to(at(m / Q) + m % Q * D + d, x, which);
        }
}

extern "C" {

long panel() { return PANEL; }
long apart_of(long n) { return apart(n); }

// x (M, depth) times panels of N columns -> out (M, N).
void apply(const float* x, long M, long depth, const half* panels, const float* bias, long N, float* out, long threads) {
    std::vector<half> narrowed(M * apart(depth), 0);
    for (long m = 0; m < M; m++)
        for (long i = 0; i < depth; i += 16)
            narrow_to(narrowed.data() + m * apart(depth) + i, _mm512_maskz_loadu_ps(lanes(depth - i), x + m * depth + i), lanes(depth - i));
    shared_product(narrowed.data(), apart(depth), M, panels, pairs_of(depth), bias, panels_of(N), Floats{out, N, N}, threads);
}

// A pack through all layers and the last norm: x (T, width), in place. Jobs are all segments' queries. With `reads`, one job for
// each of N tokens, the last layer computes these alone (theirs are read_cos and read_sin), and their states go to `read_x`
// (N, width).
void pass_(const Layer* layers, const Sizes* sizes, long T, const float* cos, const float* sin, float* x, half* heads,
          const Job* jobs, long count, const Job* reads, long N, const float* read_cos, const float* read_sin, float* read_x,
          const float* last_norm) {
    const Sizes& z = *sizes;
    long threads = z.threads, KD = z.K * z.D;
    auto begin = [&](const Layer& l, long at, long end, const half* after) {  // queries unless they are read alone
        bool all = &l < layers + z.layers - 1 || !N;
        read(l, z, x + at * z.width, end - at, cos + at * z.rotary, sin + at * z.rotary, all ? heads + at * z.row : nullptr,
             l.keys + at * KD, l.values + at * KD, 1, after);
    };
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
    for (long at = 0; at < T; at += ROWS) begin(layers[0], at, std::min(at + ROWS, T), layers[0].q);
    for (long n = 0; n < z.layers; n++) {
        const Layer &l = layers[n], *above = n < z.layers - 1 ? layers + n + 1 : nullptr;
        if (!above && N) {
            for (long i = 0; i < N; i++)
                memcpy(read_x + i * z.width, x + (reads[i].first + reads[i].from) * z.width, z.width * sizeof(float));
            x = read_x, T = N, jobs = reads, count = N;
            for (long at = 0; at < T; at += ROWS)
                read(l, z, x + at * z.width, std::min(ROWS, T - at), read_cos + at * z.rotary, read_sin + at * z.rotary,
                     heads + at * z.row, nullptr, nullptr, threads, l.q);
        }
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
        for (long c = 0; c < count * z.K; c++) attend(l, z, jobs[c / z.K], c % z.K, heads + jobs[c / z.K].at * z.row);
        // what the layer above reads of these rows is made while they are in the cache
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
        for (long at = 0; at < T; at += ROWS) {
            long end = std::min(at + ROWS, T);
            finish(l, z, heads + at * z.row, x + at * z.width, end - at, 1, above ? above->q : l.out);
            if (above) begin(*above, at, end, l.out);
        }
    }
    normalise(x, z.width, T, last_norm, z.width, z.epsilon, x, nullptr, z.width);
}

// x (B, width): embeddings of each row's new token -> hidden states after the last norm, in place. cos and sin are (B, rotary).
void step(const Layer* layers, const Sizes* sizes, const Answers* answers, const float* cos, const float* sin, float* x,
          const float* last_norm) {
    const Sizes& z = *sizes;
    const Answers& a = *answers;
    static thread_local std::vector<half> room;
    half *heads = place_for(room, a.B * (z.row + 2 * z.K * z.D)), *keys = heads + a.B * z.row, *values = keys + a.B * z.K * z.D;
    for (long n = 0; n < z.layers; n++) {
        const Layer& l = layers[n];
        read(l, z, x, a.B, cos, sin, heads, keys, values, z.threads, l.out);
        keep(l, z, a, keys, values);
        long cells = a.G * z.K, shares = std::min(z.threads, cells);
#pragma omp parallel for num_threads(shares) if (shares > 1) schedule(dynamic)
        for (long c = 0; c < cells; c++) attend_answers(l, z, a, c / z.K, c % z.K, heads);
        finish(l, z, heads, x, a.B, z.threads, n < z.layers - 1 ? layers[n + 1].q : nullptr);
    }
    normalise(x, z.width, a.B, last_norm, z.width, z.epsilon, x, nullptr, z.width);
}

}  // extern "C"
