// The softmax of head.py in one pass over each row while it is in the cache; PyTorch's takes four over all rows.
#include <cmath>

#include "native.h"

constexpr long LANES = 16;  // sums side by side: a compiler may not reorder one sum, and short sums round less

extern "C" {

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
