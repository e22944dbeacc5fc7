// Which texts share a run of n words with a benchmark prompt, or are one as a whole: by hashes, to be confirmed on words.
#include <algorithm>

#include "words.h"

// Sorted hashes; `starts` says for their highest bits where those that begin with them are, and `filter` has three bits for
// each in one word of 64, which nearly all that are not known lack.
struct Known {
    const uint64_t *keys, *filter;
    const uint32_t* starts;
    int words, buckets;  // how far a hash's highest bits are shifted to be a number in `filter`, in `starts`

    bool likely(uint64_t hash) const {
        uint64_t bits = 1ull << (hash & 63) | 1ull << (hash >> 6 & 63) | 1ull << (hash >> 12 & 63);
        return (filter[hash >> words] & bits) == bits;
    }
    bool has(uint64_t hash) const {
        const uint32_t* bucket = starts + (hash >> buckets);
        return std::binary_search(keys + bucket[0], keys + bucket[1], hash);
    }
};

extern "C" {

// Of the texts whose state is 0: found[i] whether text i may share something; the state is 1 then, or 2 if it was not read.
void contaminated(const uint8_t* data, const int64_t* offsets, long count, int done, uint8_t* states, const uint32_t* entries,
                  const uint32_t* sequences, long n, const uint64_t* keys, const uint64_t* filter, const uint32_t* starts,
                  int filter_shift, int buckets_shift, uint8_t* found) {
    Words words(entries, sequences);
    Known known{keys, filter, starts, filter_shift, buckets_shift};
    std::vector<uint64_t> hashes;
    for (long i = 0; i < count; i++) {
        if (states[i]) continue;
        states[i] = words.read(data + offsets[i], data + offsets[i + 1], done) ? 1 : 2;
        if (states[i] == 2 || !words.count) continue;
        hashes.clear();
        runs(words.hashes.data(), words.count, n, hashes);
        hashes.push_back(whole(words.hashes.data(), words.count));
        for (uint64_t hash : hashes)
            if (known.likely(hash) && known.has(hash)) {
                found[i] = 1;
                break;
            }
    }
}

}  // extern "C"
