// Which texts share a run of n words with a benchmark prompt, or are one as a whole: by hashes, to be confirmed on words.
#include <algorithm>
#include <vector>

#include "words.h"

struct Found {
    long n;
    const uint64_t *keys, *filter;  // sorted hashes; a bit for each at its high bits
    long count, shift;
    uint64_t power;  // BASE to the n-th
    std::vector<uint64_t> last;
    long words = 0, slot = 0;
    uint64_t run = 0, all = 0;
    bool any = false;

    bool known(uint64_t hash) const {
        uint64_t bit = hash >> shift;
        return (filter[bit >> 6] >> (bit & 63) & 1) && std::binary_search(keys, keys + count, hash);
    }
    void word(uint64_t hash) {
        all = all * BASE + hash;
        run = run * BASE + hash - power * last[slot];
        last[slot] = hash;
        if (++slot == n) slot = 0;
        if (++words >= n && known(run)) any = true;
    }
    void part() {}
    void start() {
        std::fill(last.begin(), last.end(), 0);
        words = slot = 0, run = all = 0, any = false;
    }
};

extern "C" {

// Of the texts whose state is 0: found[i] whether text i may share something; the state is 1 then, or 2 if it was not read.
void contaminated(const uint8_t* data, const int64_t* offsets, long count, int done, uint8_t* states, const uint32_t* entries,
                  const uint32_t* sequences, long n, const uint64_t* keys, long known, const uint64_t* filter, long shift,
                  uint8_t* found) {
    Characters characters(entries, sequences);
    Found reader{n, keys, filter, known, shift, 1, std::vector<uint64_t>(n)};
    for (long k = 0; k < n; k++) reader.power *= BASE;
    for (long i = 0; i < count; i++) {
        if (states[i]) continue;
        reader.start();
        bool whole_text = read(data + offsets[i], data + offsets[i + 1], characters, done, reader);
        states[i] = whole_text ? 1 : 2;
        found[i] = whole_text && (reader.any || (reader.words && reader.known(whole(reader.all, reader.words))));
    }
}

}  // extern "C"
