// The softmax of head.py in one pass over each row while it is in the cache; PyTorch's takes four over all rows.
#include <cmath>
#include <vector>

#include "native.h"

constexpr long LANES = 16;  // sums side by side: a compiler may not reorder one sum, and short sums round less

constexpr long CHUNK = 1024;

// The exponentials of a row's numbers [from, to) over its largest, their sum, and the sum of each times its logarithm.
static float chunk(const float* x, long from, long to, float high, float scale, float* e, float& weighted) {
    float sums[LANES] = {}, means[LANES] = {}, sum = 0, mean = 0;
    long whole = from + (to - from) / LANES * LANES;
    for (long i = from; i < whole; i += LANES)
        for (long j = 0; j < LANES; j++) {
            float y = (x[i + j] - high) * scale;
            y = y < -60.f ? -60.f : y;
            float z = exponential(y);
            e[i - from + j] = z;
            sums[j] += z;
            means[j] += z * y;
        }
    for (long i = whole; i < to; i++) {
        float y = (x[i] - high) * scale;
        y = y < -60.f ? -60.f : y;
        sum += e[i - from] = exponential(y);
        mean += e[i - from] * y;
    }
    for (long j = 0; j < LANES; j++) sum += sums[j], mean += means[j];
    weighted += mean;
    return sum;
}

extern "C" {

// Of each row of x (M, V) a token, its log-probability under softmax(x * scale) and that distribution's entropy. With `points`
// (M, in [0, 1)) it is drawn, else it is the likeliest; of the `count` tokens in `banned` (ascending) none is taken.
void choose(const float* x, long M, long V, float scale, const float* points, const int64_t* banned, long count, int64_t* tokens,
            float* logps, float* entropies, long threads) {
    long parts = (V + CHUNK - 1) / CHUNK;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long m = 0; m < M; m++) {
        const float* row = x + m * V;
        float most[LANES], high = row[0], e[CHUNK], weighted = 0;
        long whole = V / LANES * LANES;
        for (long j = 0; j < LANES; j++) most[j] = high;
        for (long i = 0; i < whole; i += LANES)
            for (long j = 0; j < LANES; j++) most[j] = row[i + j] > most[j] ? row[i + j] : most[j];
        for (long i = whole; i < V; i++) high = row[i] > high ? row[i] : high;
        for (long j = 0; j < LANES; j++) high = most[j] > high ? most[j] : high;
        std::vector<double> sums(parts);
        double total = 0, open = 0;
        for (long p = 0, b = 0; p < parts; p++) {
            long from = p * CHUNK, to = std::min(V, from + CHUNK);
            total += sums[p] = chunk(row, from, to, high, scale, e, weighted);
            for (; b < count && banned[b] < to; b++) sums[p] -= e[banned[b] - from];
            open += sums[p];
        }
        long token = -1;
        float mean = weighted;
        auto allowed = [&](long i) { return !std::binary_search(banned, banned + count, i); };
        if (points) {
            double left = points[m] * open;
            long p = 0;
            while (p + 1 < parts && left >= sums[p]) left -= sums[p++];
            long from = p * CHUNK, to = std::min(V, from + CHUNK);
            chunk(row, from, to, high, scale, e, weighted);
            for (long i = from; i < to && left >= 0; i++)
                if (allowed(i)) token = i, left -= e[i - from];
        }
        if (token < 0)  // the likeliest; or all of a chunk that was drawn is banned, which rounding alone can bring about
            for (long i = 0; i < V; i++)
                if ((token < 0 || row[i] > row[token]) && allowed(i)) token = i;
        tokens[m] = token;
        logps[m] = (row[token] - high) * scale - std::log(total);
        if (entropies) entropies[m] = std::log(total) - mean / total;
    }
}

// In place, x (M, V) -> exp(x - its row's largest). For each row: their `total`, `logp` of the target, and the entropy of
// the distribution if `entropies` is given.
void exponentials(float* x, long M, long V, const int64_t* targets, float* total, float* logp, float* entropies,
                  long threads) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (long m = 0; m < M; m++) {
        float *row = x + m * V, most[LANES], sums[LANES] = {}, weighted[LANES] = {}, high = row[0], sum = 0, mean = 0;
        long whole = V / LANES * LANES;
        for (long j = 0; j < LANES; j++) most[j] = high;
        for (long i = 0; i < whole; i += LANES)
            for (long j = 0; j < LANES; j++) most[j] = row[i + j] > most[j] ? row[i + j] : most[j];
        for (long i = whole; i < V; i++) high = row[i] > high ? row[i] : high;
        for (long j = 0; j < LANES; j++) high = most[j] > high ? most[j] : high;
        float chosen = row[targets[m]] - high;
        for (long i = 0; i < whole; i += LANES)
            for (long j = 0; j < LANES; j++) {
                float y = row[i + j] - high, e;
                y = y < -60.f ? -60.f : y;
                row[i + j] = e = exponential(y);
                sums[j] += e;
                weighted[j] += e * y;
            }
        for (long i = whole; i < V; i++) {
            float y = row[i] - high;
            y = y < -60.f ? -60.f : y;
            sum += row[i] = exponential(y);
            mean += row[i] * y;
        }
        for (long j = 0; j < LANES; j++) sum += sums[j], mean += weighted[j];
        total[m] = sum;
        logp[m] = chosen - std::log(sum);
        if (entropies) entropies[m] = std::log(sum) - mean / sum;
    }
}

}  // extern "C"
