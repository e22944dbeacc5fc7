// Sketches of documents by the shingles of their words, and their sets of shingles.
#include <algorithm>

#include "words.h"

// The hashes of every `size` words in a row of each part of a text; of a shorter part, of all its words.
struct Shingles {
    Words words;
    long size;
    std::vector<uint64_t> hashes;

    Shingles(const uint32_t* entries, const uint32_t* sequences, long size) : words(entries, sequences), size(size) {}

    bool read(const uint8_t* at, const uint8_t* end, bool done) {
        hashes.clear();
        for (const uint8_t* next; at <= end; at = next + 1) {
            next = at < end ? (const uint8_t*)memchr(at, PART, end - at) : nullptr;
            if (!next) next = end;
            if (!words.read(at, next, done)) return false;
            if (words.count && words.count < size) hashes.push_back(whole(words.hashes.data(), words.count));
            runs(words.hashes.data(), words.count, size, hashes);
        }
        return true;
    }
};

constexpr long LANES = 8, AT_ONCE = 4 * LANES;  // what stays in registers
typedef uint32_t Lanes __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline void lower(Lanes& least, Lanes x) { least = x < least ? x : least; }

// least[p] = the smallest factors[p] * value + terms[p] modulo 2^32; `permutations` is a multiple of AT_ONCE.
static void smallest(const std::vector<uint32_t>& values, const uint32_t* factors, const uint32_t* terms, long permutations,
                     uint32_t* least) {
    for (long p = 0; p < permutations; p += AT_ONCE) {
        const Lanes *f = (const Lanes*)(factors + p), *t = (const Lanes*)(terms + p);
        Lanes f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3], t0 = t[0], t1 = t[1], t2 = t[2], t3 = t[3];
        Lanes m0 = ~(t0 ^ t0), m1 = m0, m2 = m0, m3 = m0;
        for (uint32_t value : values) {
            lower(m0, f0 * value + t0);
            lower(m1, f1 * value + t1);
            lower(m2, f2 * value + t2);
            lower(m3, f3 * value + t3);
        }
        Lanes* to = (Lanes*)(least + p);
        to[0] = m0, to[1] = m1, to[2] = m2, to[3] = m3;
    }
}

extern "C" {

// Of each text whose state is 0, `permutations` (`room` with those that fill it up) numbers, all ones for one without words;
// and in `keys`, band by band, a hash of each band's numbers. Either may be null. `sizes` are the numbers of shingles.
void sketched(const uint8_t* data, const int64_t* offsets, long count, int done, uint8_t* states, const uint32_t* entries,
              const uint32_t* sequences, long size, const uint32_t* factors, const uint32_t* terms, long permutations, long room,
              long bands, uint32_t* signatures, uint64_t* keys, int64_t* sizes) {
    Shingles shingles(entries, sequences, size);
    std::vector<uint32_t> values, least(room);
    long rows = permutations / bands;
    for (long i = 0; i < count; i++) {
        if (states[i]) continue;
        states[i] = shingles.read(data + offsets[i], data + offsets[i + 1], done) ? 1 : 2;
        if (states[i] == 2) continue;
        values.clear();
        for (uint64_t hash : shingles.hashes) values.push_back(mixed(hash) >> 32);
        smallest(values, factors, terms, room, least.data());
        if (signatures) std::copy(least.begin(), least.begin() + permutations, signatures + i * permutations);
        for (long b = 0; keys && b < bands; b++) {
            uint64_t key = 0;
            for (long r = b * rows; r < (b + 1) * rows; r++) key = key * BASE + least[r];
            keys[b * count + i] = mixed(key);
        }
        sizes[i] = shingles.hashes.size();
    }
}

// The sets of shingles. Without `sets`, sizes[i] says how much room text i needs at most; with it, text i's hashes are
// written at[i] on, sorted, each once, and sizes[i] says how many.
void shingled(const uint8_t* data, const int64_t* offsets, long count, int done, uint8_t* states, const uint32_t* entries,
              const uint32_t* sequences, long size, uint64_t* sets, const int64_t* at, int64_t* sizes) {
    Shingles shingles(entries, sequences, size);
    std::vector<uint64_t>& hashes = shingles.hashes;
    for (long i = 0; i < count; i++) {
        if (states[i]) continue;
        states[i] = shingles.read(data + offsets[i], data + offsets[i + 1], done) ? 1 : 2;
        if (states[i] == 2) continue;
        if (sets) {
            std::sort(hashes.begin(), hashes.end());
            hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
            std::copy(hashes.begin(), hashes.end(), sets + at[i]);
        }
        sizes[i] = hashes.size();
    }
}

}  // extern "C"
